//! `meshd keys`.

use std::process::ExitCode;
use std::time::Instant;

use anyhow::bail;

use super::follow::{LOOK_EVERY, again};
use super::{Global, expect_answer, plan};
use crate::api::Request;
use crate::api::client::{Client, Error};
use crate::api::keys::Keys;
use crate::output::{self, Style, units};

/// Arguments of `meshd keys`.
#[derive(clap::Args, Debug)]
pub(super) struct Args {
    #[command(subcommand)]
    verb: Verb,
}

#[derive(clap::Subcommand, Debug)]
enum Verb {
    /// Show this node's key epochs, their ages, and who has confirmed what
    #[command(
        after_help = "Examples:\n  meshd keys show\n  meshd keys show --json | jq '.peers[] | select(.confirmed != null) | .name'"
    )]
    Show {
        /// Show them again every second
        #[arg(long)]
        watch: bool,
    },
    /// Replace this node's transport key; no packet is lost
    #[command(after_help = ROTATE_HELP)]
    Rotate(Rotate),
    /// Show how far the plan is that all members replace their keys
    Plan {
        /// Show it again every second
        #[arg(long)]
        watch: bool,
    },
    /// Call off the plan that all members replace their keys
    Abort,
}

const ROTATE_HELP: &str = "\
The new key is written to the disk, announced, and accepted beside the old one; when all members that can be reached \
have confirmed it, sessions are made anew with it, and the old key is refused and erased. Nodes that are away meanwhile \
are told when they come back. Interrupting this command, the daemon, or the machine does no harm: the rotation goes on.

Examples:
  meshd keys rotate
  meshd keys rotate --detach
  meshd keys rotate --compromised     # the old key was stolen
  meshd keys rotate --all             # the whole mesh; waits for nodes that are away, too
  meshd keys rotate --all --without laptop";

/// Arguments of `meshd keys rotate`.
#[derive(clap::Args, Debug)]
struct Rotate {
    /// The old key was stolen: refuse it at once, and end all sessions made with it (packets are lost for a moment)
    #[arg(long)]
    compromised: bool,
    /// Have every member replace its key, 32 at a time; needs the operator role
    #[arg(long, conflicts_with = "compromised")]
    all: bool,
    /// With --all: neither change this node's key nor wait for it; may be repeated, also for a plan under way
    #[arg(long, value_name = "NODE", requires = "all")]
    without: Vec<String>,
    /// Begin, and do not wait for the end
    #[arg(long, conflicts_with = "wait")]
    detach: bool,
    /// Wait for the end, and show how far it is (the default)
    #[arg(long)]
    wait: bool,
    /// Give up waiting after this long; the rotation goes on all the same
    #[arg(long, value_name = "SPAN", default_value = "5m", value_parser = units::parse_span)]
    timeout: u64,
}

impl Args {
    /// Runs the verb.
    ///
    /// # Errors
    /// If the daemon does not answer, or a rotation does not end in time.
    pub(super) fn run(self, global: &Global) -> anyhow::Result<ExitCode> {
        match self.verb {
            Verb::Show { watch } => show(global, watch),
            Verb::Rotate(rotate) if rotate.all => {
                plan::rotate_all(global, rotate.without, rotate.detach, rotate.timeout)
            }
            Verb::Rotate(rotate) => rotate.run(global),
            Verb::Plan { watch } => plan::show(global, watch),
            Verb::Abort => plan::abort(global),
        }
    }
}

fn show(global: &Global, watch: bool) -> anyhow::Result<ExitCode> {
    let mut client = global.client()?;
    output::show(watch, global.json, || {
        let keys = ask(&mut client)?;
        if global.json { output::json_line(&keys) } else { Ok(output::keys(&keys, Style::of_stdout())) }
    })?;
    Ok(ExitCode::SUCCESS)
}

fn ask(client: &mut Client) -> Result<Keys, Error> {
    expect_answer!(client, Request::Keys, Keys(keys) => *keys)
}

impl Rotate {
    fn run(&self, global: &Global) -> anyhow::Result<ExitCode> {
        let mut client = global.client()?;
        let request = Request::RotateKeys { stolen: self.compromised };
        let (epoch, note) = expect_answer!(client, request, Rotating { epoch, note } => (epoch, note))?;
        if let Some(note) = note {
            eprintln!("meshd: {note}");
        }
        if self.detach {
            if global.json {
                output::print(&output::json_line(&serde_json::json!({ "epoch": epoch }))?)?;
            } else {
                output::print(&format!(
                    "replacing the key by epoch {epoch}: meshd keys show tells how far it is\n"
                ))?;
            }
            return Ok(ExitCode::SUCCESS);
        }
        self.follow(global, client, epoch)
    }

    fn follow(&self, global: &Global, mut client: Client, epoch: u32) -> anyhow::Result<ExitCode> {
        let started = Instant::now();
        let mut screen = output::Progress::new(global.json);
        loop {
            match ask(&mut client) {
                Ok(keys) => {
                    let text = match global.json {
                        true => output::json_line(&keys)?,
                        false => output::rotation(&keys, epoch, Style::of_stdout()),
                    };
                    screen.show(&text)?;
                    if keys.has_replaced(epoch) {
                        return Ok(ExitCode::SUCCESS);
                    }
                }
                Err(Error::Refused(refusal)) => return Err(refusal.into()),
                // The daemon goes on after its restart.
                Err(error) => client = again(global, error)?,
            }
            if started.elapsed().as_secs() >= self.timeout {
                bail!(
                    "the rotation is not over after {}; it goes on: meshd keys show",
                    units::span(self.timeout)
                );
            }
            std::thread::sleep(LOOK_EVERY);
        }
    }
}
