//! `meshd status`.

use std::process::ExitCode;

use super::{Global, expect_answer};
use crate::api::Request;
use crate::output::{self, Style};

/// Arguments of `meshd status`.
#[derive(clap::Args, Debug)]
#[command(
    after_help = "Examples:\n  meshd status\n  meshd status --watch\n  meshd status --json | jq -r '.peers[] | select(.state == \"unreachable\") | .name'"
)]
pub(super) struct Args {
    /// Show it again every second
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
                output::json_line(&status)
            } else {
                Ok(output::status(&status, Style::of_stdout()))
            }
        })?;
        Ok(ExitCode::SUCCESS)
    }
}
