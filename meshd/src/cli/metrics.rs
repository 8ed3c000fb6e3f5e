//! `meshd metrics`.

use std::process::ExitCode;

use super::{Global, expect_answer};
use crate::api::Request;
use crate::output;

/// Arguments of `meshd metrics`.
#[derive(clap::Args, Debug)]
#[command(
    after_help = "Examples:\n  meshd metrics | grep drops\n  meshd metrics > /var/lib/node_exporter/textfile/meshd.prom\n\nWith `metrics = \"127.0.0.1:9655\"` in the configuration the daemon answers scrapers itself, at /metrics."
)]
pub(super) struct Args {}

impl Args {
    /// Runs the verb.
    ///
    /// # Errors
    /// If the daemon does not answer.
    pub(super) fn run(self, global: &Global) -> anyhow::Result<ExitCode> {
        let mut client = global.client()?;
        let text = expect_answer!(client, Request::Metrics, Metrics { text } => text)?;
        let text = match global.json {
            true => output::json_line(&serde_json::json!({ "metrics": text }))?,
            false => text,
        };
        output::print(&text)?;
        Ok(ExitCode::SUCCESS)
    }
}
