//! `meshd routes`.

use std::process::ExitCode;

use super::{Global, expect_answer};
use crate::api::Request;
use crate::output::{self, Style};

/// Arguments of `meshd routes`.
#[derive(clap::Args, Debug)]
#[command(after_help = "Examples:\n  meshd routes\n  meshd routes --json | jq -r '.routes[].prefix'")]
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
            let routes = expect_answer!(client, Request::Routes, Routes { routes } => routes)?;
            if global.json {
                return output::json_line(&serde_json::json!({ "routes": routes }));
            }
            Ok(output::routes(&routes, Style::of_stdout()))
        })?;
        Ok(ExitCode::SUCCESS)
    }
}
