//! `meshd stack plan`.

use std::process::ExitCode;

use super::super::Global;
use super::context::{Context, Source, block_on};
use crate::output;
use crate::stack::apply;
use crate::stack::components::Catalogue;
use crate::stack::driver::marathon::rehearse;
use crate::stack::plan::{self, Plan, Wishes};
use crate::stack::survey;

/// Arguments of `meshd stack plan`.
#[derive(clap::Args, Debug)]
#[command(after_help = "Exit codes: 0 nothing to do, 2 changes are pending, 1 something cannot be done.")]
pub(super) struct Args {
    #[command(flatten)]
    source: Source,
    /// Plan as `up --force` would
    #[arg(long)]
    force: bool,
}

/// Changes are pending.
const PENDING: u8 = 2;

impl Args {
    /// Runs the verb: asks, and changes nothing anywhere.
    ///
    /// # Errors
    /// If the daemon does not answer, or the specification is wrong.
    pub(super) fn run(self, global: &Global, catalogue: &Catalogue) -> anyhow::Result<ExitCode> {
        let plan = block_on(async {
            let context = Context::new(global).await?;
            let stack = context.specified(&self.source, catalogue).await?.stack;
            for warning in stack.warnings.iter().filter(|_| !global.json) {
                eprintln!("warning: line {}: {}", warning.line, warning.message);
            }
            let actual = survey::actual(&context.fleet, &stack.name, Some(&stack)).await;
            let supply = apply::supply(&stack, &actual, &context.fleet, false).await?;
            let wishes = Wishes { force: self.force };
            let mut plan =
                plan::plan(&stack, &actual, &supply.versions, wishes).map_err(anyhow::Error::msg)?;
            let marathon = survey::marathon_of(&context.fleet, Some(&stack), &actual);
            plan.blocked.extend(rehearse(&marathon, &stack, &actual, &plan).await);
            anyhow::Ok(plan)
        })?;
        output::print(&if global.json { output::json_line(&plan)? } else { told(&plan) })?;
        Ok(match (plan.changes().next(), plan.blocked.is_empty()) {
            (Some(_), _) => ExitCode::from(PENDING),
            (None, false) => ExitCode::FAILURE,
            (None, true) => ExitCode::SUCCESS,
        })
    }
}

fn told(plan: &Plan) -> String {
    let mut text = plan.describe();
    match plan.changes().count() {
        0 if plan.is_empty() && plan.blocked.is_empty() => text.push_str("nothing to do\n"),
        0 => text.push_str("nothing to change; see `meshd stack status`\n"),
        1 => text.push_str("1 change; `meshd stack up` makes it\n"),
        count => text.push_str(&format!("{count} changes; `meshd stack up` makes them\n")),
    }
    text
}
