//! `meshd authority`.

mod keys;
mod rotate;

pub(super) use keys::write_sealed;

use std::process::ExitCode;

use super::{Global, expect_answer};
use crate::api::Request;
use crate::api::authority::Authority;
use crate::api::client::{self, Client};
use crate::daemon::describe_authority;
use crate::output::{self, Style};
use crate::state::{Home, StateDir};

/// Arguments of `meshd authority`.
#[derive(clap::Args, Debug)]
pub(super) struct Args {
    #[command(subcommand)]
    verb: Verb,
}

#[derive(clap::Subcommand, Debug)]
enum Verb {
    /// Show the mesh's roots, where their keys are, the issuers, and all trust bundles
    Show {
        /// Show them again every second
        #[arg(long)]
        watch: bool,
    },
    /// Replace the authority's key; no packet is lost
    Rotate(rotate::Rotate),
    /// Call off a replacement that is under way, as long as the old key is trusted
    Abort,
    /// Write the authority's key to a file, encrypted with a passphrase
    Export(keys::Export),
    /// Take the authority's key from such a file
    Import(keys::Import),
    /// Replace an authority that was lost or stolen, with the recovery key
    Recover(rotate::Recover),
}

impl Args {
    /// Runs the verb.
    ///
    /// # Errors
    /// As the verb.
    pub(super) fn run(self, global: &Global) -> anyhow::Result<ExitCode> {
        match self.verb {
            Verb::Show { watch } => show(global, watch),
            Verb::Rotate(rotate) => rotate.run(global),
            Verb::Abort => rotate::abort(global),
            Verb::Export(export) => export.run(global),
            Verb::Import(import) => import.run(global),
            Verb::Recover(recover) => recover.run(global),
        }
    }
}

fn show(global: &Global, watch: bool) -> anyhow::Result<ExitCode> {
    output::show(watch, global.json, || {
        let authority = match global.client() {
            Ok(mut client) => ask(&mut client)?,
            // Without the daemon there is what the disk says.
            Err(error) if !watch && is_not_running(&error) => on_disk(global)?,
            Err(error) => return Err(error),
        };
        match global.json {
            true => output::json_line(&authority),
            false => Ok(output::authority(&authority, Style::of_stdout())),
        }
    })?;
    Ok(ExitCode::SUCCESS)
}

fn is_not_running(error: &anyhow::Error) -> bool {
    matches!(error.downcast_ref(), Some(client::Error::NotRunning(_)))
}

fn on_disk(global: &Global) -> anyhow::Result<Authority> {
    let home = Home::load(StateDir::open(&global.state_path()?)?)?;
    Ok(describe_authority(&home.state, &home.chain)?)
}

fn ask(client: &mut Client) -> Result<Authority, client::Error> {
    expect_answer!(client, Request::Authority, Authority(authority) => *authority)
}
