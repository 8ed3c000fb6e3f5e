//! `meshd stack down`.

use std::process::ExitCode;

use super::super::Global;
use super::context::{Context, Source, block_on};
use super::screen::Screen;
use super::up::lock;
use crate::output;
use crate::stack::agent::Request;
use crate::stack::apply::{self, Site, Supply};
use crate::stack::components::Catalogue;
use crate::stack::plan::{self, Wishes};
use crate::stack::survey;

/// Arguments of `meshd stack down`.
#[derive(clap::Args, Debug)]
#[command(
    after_help = "Containers go, the last component first. Data stays, and the next `up` finds it again."
)]
pub(super) struct Args {
    #[command(flatten)]
    source: Source,
    /// Remove the engines' volumes and the secrets too: the data is lost. Directories named in stack.toml are left
    #[arg(long)]
    volumes: bool,
}

impl Args {
    /// Runs the verb.
    ///
    /// # Errors
    /// If the daemon does not answer, the specification is wrong, or a step fails.
    pub(super) fn run(self, global: &Global, catalogue: &Catalogue) -> anyhow::Result<ExitCode> {
        block_on(async {
            let context = Context::new(global).await?;
            let (stack, fleet) = (context.specified(&self.source, catalogue).await?.stack, &context.fleet);
            let nodes: Vec<&str> = stack.nodes.keys().map(String::as_str).collect();
            let _locks = lock(fleet, &stack.name, &nodes).await?;
            let actual = survey::actual(fleet, &stack.name, Some(&stack)).await;
            let plan = plan::down(&actual, Some(&stack));
            let screen = Screen::new(global.json);
            screen.total(plan.steps.len());
            let supply = Supply::default();
            let marathon = survey::marathon_of(fleet, Some(&stack), &actual);
            let site = Site {
                name: &stack.name,
                stack: Some(&stack),
                fleet,
                supply: &supply,
                marathon: &marathon,
                wishes: Wishes::default(),
                observer: &screen,
            };
            apply::apply(&plan, &site).await?;
            screen.finish();
            if self.volumes {
                for node in actual.nodes.iter().filter(|(_, report)| report.is_ok()).map(|(node, _)| node) {
                    fleet.ask(node, &Request::Forget { stack: stack.name.clone() }).await?;
                }
            }
            let kept = if self.volumes { "data and secrets are gone" } else { "data is kept" };
            if global.json {
                output::print(&output::json_line(&serde_json::json!({ "removed": plan.steps.len() }))?)?;
            } else {
                output::print(&format!("{} containers removed; {kept}\n", plan.steps.len()))?;
            }
            for one in &plan.blocked {
                eprintln!("meshd: not done on {}: {}", one.node, one.why);
            }
            Ok(if plan.blocked.is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
        })
    }
}
