//! `meshd stack status`.

use std::fmt::Write as _;
use std::process::ExitCode;

use super::super::Global;
use super::context::{Context, Source, block_on};
use crate::output;
use crate::stack::components::Catalogue;
use crate::stack::status::{self, Status};
use crate::stack::survey;

/// Arguments of `meshd stack status`.
#[derive(clap::Args, Debug)]
#[command(after_help = "Exit codes: 0 every component works, 1 one has stopped.")]
pub(super) struct Args {
    #[command(flatten)]
    source: Source,
    /// Show it again every second
    #[arg(long)]
    watch: bool,
}

impl Args {
    /// Runs the verb.
    ///
    /// # Errors
    /// If the daemon does not answer, or the specification is wrong.
    pub(super) fn run(self, global: &Global, catalogue: &Catalogue) -> anyhow::Result<ExitCode> {
        let mut works = true;
        output::show(self.watch, global.json, || {
            let status = block_on(async {
                let context = Context::new(global).await?;
                let stack = context.specified(&self.source, catalogue).await?.stack;
                let actual = survey::actual(&context.fleet, &stack.name, Some(&stack)).await;
                Ok(status::status(&stack, &actual))
            })?;
            works = status.components.iter().all(|component| component.can_lose >= 0);
            if global.json { output::json_line(&status) } else { Ok(told(&status)) }
        })?;
        Ok(if works { ExitCode::SUCCESS } else { ExitCode::FAILURE })
    }
}

/// The status, for people.
pub(super) fn told(status: &Status) -> String {
    let mut text = format!("stack {}\n", status.stack);
    let longest =
        status.components.iter().flat_map(|one| &one.replicas).map(|one| one.node.len()).max().unwrap_or(0);
    for component in &status.components {
        let (ready, wanted) = (component.ready, component.wanted);
        let _ = writeln!(text, "\n{}  {ready}/{wanted} ready, {}", component.name, component.margin);
        for replica in &component.replicas {
            let role = replica.role.as_deref().unwrap_or("");
            let version = replica.version.as_deref().or(replica.image.as_deref()).unwrap_or("");
            let line = format!(
                "  {:longest$}  {:9}  {role:8}  {version:24}  {}",
                replica.node, replica.state, replica.detail
            );
            let _ = writeln!(text, "{}", line.trim_end());
        }
    }
    for warning in &status.warnings {
        let _ = writeln!(text, "\nwarning: {warning}");
    }
    text
}
