//! `meshd exit`: the internet through another member.

use std::path::Path;
use std::process::ExitCode;

use anyhow::Context;
use proto::id::Name;

use super::{Global, expect_answer, parse_name};
use crate::api::Request;
use crate::config::{self, Config};
use crate::output;

/// Arguments of `meshd exit`.
#[derive(clap::Args, Debug)]
#[command(after_help = "\
Who offers it has `exit = true` in its configuration, and the role from `meshd invite --role exit`.

Examples:
  meshd exit                 who offers it, and who is used
  meshd exit use gw1         all traffic to the internet through gw1, from now on
  meshd exit off             … by this machine's own way again")]
pub(super) struct Args {
    #[command(subcommand)]
    what: Option<What>,
}

#[derive(clap::Subcommand, Debug)]
enum What {
    /// Send this machine's traffic to the internet through a member
    Use {
        /// The member's name
        #[arg(value_parser = parse_name)]
        name: Name,
    },
    /// Send it by this machine's own way again
    Off,
}

impl Args {
    /// Runs the verb.
    ///
    /// # Errors
    /// If the daemon does not answer, or the configuration cannot be changed.
    pub(super) fn run(self, global: &Global) -> anyhow::Result<ExitCode> {
        match self.what {
            None => show(global)?,
            Some(What::Use { name }) => choose(global, Some(&name))?,
            Some(What::Off) => choose(global, None)?,
        }
        Ok(ExitCode::SUCCESS)
    }
}

fn show(global: &Global) -> anyhow::Result<()> {
    let mut client = global.client()?;
    let status = expect_answer!(client, Request::Status, Status(status) => status)?;
    let exit = &status.exit;
    if global.json {
        return Ok(output::print(&output::json_line(&serde_json::json!({ "exit": exit }))?)?);
    }
    let mut text = String::new();
    if exit.offered {
        text += "this node is an exit for others\n";
    }
    text += &match &exit.used {
        Some(name) if exit.reachable => format!("the internet is reached through {name}\n"),
        Some(name) => format!(
            "the internet is to be reached through {name}, which does not offer it now: nothing gets out\n"
        ),
        None => "the internet is reached by this machine's own way\n".to_owned(),
    };
    if exit.offered_by.is_empty() {
        text += "no member offers to be an exit\n";
    }
    for name in &exit.offered_by {
        text += &format!("  {name}{}\n", if exit.used.as_ref() == Some(name) { "  (used)" } else { "" });
    }
    Ok(output::print(&text)?)
}

/// Writes the choice into the configuration, and has the daemon read it.
fn choose(global: &Global, exit: Option<&Name>) -> anyhow::Result<()> {
    let path = global.config_path(&global.state_path()?);
    let mut client = global.client()?;
    if let Some(name) = exit {
        let status = expect_answer!(client, Request::Status, Status(status) => status)?;
        if !status.exit.offered_by.contains(&name.to_string()) {
            anyhow::bail!("{name} does not offer to be an exit: `meshd exit` lists who does");
        }
    }
    let before = match std::fs::read_to_string(&path) {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => String::new(),
        other => other.with_context(|| format!("cannot read {}", path.display()))?,
    };
    let value = exit.map(|name| format!("\"{name}\""));
    let after = config::write::with_key(&before, "exit_node", value.as_deref());
    check(&path, &after, exit)?;
    config::write::replace(&path, &after).with_context(|| format!("cannot write {}", path.display()))?;
    let notes = expect_answer!(client, Request::Reload, Done { notes } => notes)?;
    notes.iter().for_each(|note| eprintln!("meshd: {note}"));
    match exit {
        Some(name) => eprintln!(
            "meshd: the internet is reached through {name}. Names are still looked up where /etc/resolv.conf says: a server in \
             this machine's own network is asked outside of the mesh"
        ),
        None => eprintln!("meshd: the internet is reached by this machine's own way"),
    }
    Ok(())
}

fn check(path: &Path, text: &str, exit: Option<&Name>) -> anyhow::Result<()> {
    let config = Config::parse(path, text)?;
    if config.exit_node.as_ref() != exit {
        anyhow::bail!("{} has `exit_node` in an unusual place: change it there by hand", path.display());
    }
    Ok(())
}
