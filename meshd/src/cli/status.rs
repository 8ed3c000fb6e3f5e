//! `meshd status`.

use std::process::ExitCode;

use super::{Global, expect_answer};
use crate::api::Request;
use crate::exit;
use crate::output::{self, Style};

/// Arguments of `meshd status`.
#[derive(clap::Args, Debug)]
#[command(
    after_help = "Examples:\n  meshd status\n  meshd status --watch\n  meshd status --check || mail -s mesh root\n  meshd status --json | jq -r '.peers[] | select(.state == \"unreachable\") | .name'"
)]
pub(super) struct Args {
    /// Show it again every second
    #[arg(long)]
    watch: bool,
    /// Print nothing but warnings, and exit with 1 if there are any: for monitoring
    #[arg(long, conflicts_with = "watch")]
    check: bool,
}

impl Args {
    /// Runs the verb.
    ///
    /// # Errors
    /// If the daemon does not answer.
    pub(super) fn run(self, global: &Global) -> anyhow::Result<ExitCode> {
        let mut client = global.client()?;
        if self.check {
            let status = expect_answer!(client, Request::Status, Status(status) => status)?;
            let text = match global.json {
                true => output::json_line(&serde_json::json!({ "warnings": status.warnings }))?,
                false => status.warnings.iter().map(|warning| format!("{warning}\n")).collect(),
            };
            output::print(&text)?;
            let code = if status.warnings.is_empty() { exit::DONE } else { exit::FAILED };
            return Ok(ExitCode::from(code));
        }
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
