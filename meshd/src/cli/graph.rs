//! `meshd graph`.

use std::process::ExitCode;

use super::{Global, expect_answer};
use crate::api::Request;
use crate::output;

/// Arguments of `meshd graph`.
#[derive(clap::Args, Debug)]
#[command(
    after_help = "Examples:\n  meshd graph --format svg > mesh.svg\n  meshd graph | neato -Tpng > mesh.png\n  meshd graph --json | jq '.links[]'"
)]
pub(super) struct Args {
    /// What to print
    #[arg(long, value_enum, default_value_t = Format::Dot)]
    format: Format,
}

#[derive(clap::ValueEnum, Debug, Clone, Copy, PartialEq, Eq)]
enum Format {
    /// The language of Graphviz
    Dot,
    /// A picture, drawn without further programs
    Svg,
}

impl Args {
    /// Runs the verb.
    ///
    /// # Errors
    /// If the daemon does not answer.
    pub(super) fn run(self, global: &Global) -> anyhow::Result<ExitCode> {
        let mut client = global.client()?;
        let graph = expect_answer!(client, Request::Graph, Graph(graph) => graph)?;
        let text = match self.format {
            _ if global.json => output::json_line(&graph)?,
            Format::Dot => output::graph::dot(&graph),
            Format::Svg => output::graph::svg(&graph),
        };
        output::print(&text)?;
        Ok(ExitCode::SUCCESS)
    }
}
