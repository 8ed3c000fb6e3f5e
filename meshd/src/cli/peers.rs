//! `meshd peers`.

use std::process::ExitCode;

use super::{Global, expect_answer};
use crate::api::Request;
use crate::output::{self, Style};

/// Arguments of `meshd peers`.
#[derive(clap::Args, Debug)]
#[command(
    after_help = "Examples:\n  meshd peers\n  meshd peers --watch\n  meshd peers --json | jq -r '.peers[] | [.name, .path.kind] | @tsv'"
)]
pub(super) struct Args {
    /// Show them again every second
    #[arg(long)]
    watch: bool,
}

impl Args {
    /// Runs the verb.
    ///
    /// # Errors
    /// If the daemon does not answer.
    pub(super) fn run(self, global: &Global) -> anyhow::Result<ExitCode> {
        let mut client = global.client()?;
        output::show(self.watch, global.json, || {
            let status = expect_answer!(client, Request::Status, Status(status) => status)?;
            if global.json {
                return output::json_line(&serde_json::json!({ "peers": status.peers }));
            }
            Ok(output::peers(&status.peers, Style::of_stdout()))
        })?;
        Ok(ExitCode::SUCCESS)
    }
}
