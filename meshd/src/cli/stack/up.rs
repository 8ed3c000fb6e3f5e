//! `meshd stack up`, and what it shares with `down`: locks and progress.

use std::collections::BTreeMap;
use std::process::ExitCode;

use futures_util::future::join_all;

use super::super::Global;
use super::context::{Context, Source, Specified, block_on};
use super::screen::Screen;
use crate::output;
use crate::stack::agent::Request;
use crate::stack::agent::client::Client;
use crate::stack::apply::{self, Site};
use crate::stack::components::Catalogue;
use crate::stack::fleet::Fleet;
use crate::stack::plan::{self, Wishes};
use crate::stack::status;
use crate::stack::survey;

/// How often a plan is made: recovery and founding take several.
const MAX_ROUNDS: usize = 4;

/// Arguments of `meshd stack up`.
#[derive(clap::Args, Debug)]
#[command(
    after_help = "Run it as often as you like: what is as it should be is left alone, and what an interrupted run began is \
                  finished.\nExit codes: 0 done, 1 failed, or something could not be done."
)]
pub(super) struct Args {
    #[command(flatten)]
    source: Source,
    /// Go on where committed writes could be lost, and take applications out of other deployments' hands: see what
    /// `plan` says first
    #[arg(long)]
    force: bool,
}

impl Args {
    /// Runs the verb.
    ///
    /// # Errors
    /// If the daemon does not answer, the specification is wrong, or a step fails.
    pub(super) fn run(self, global: &Global, catalogue: &Catalogue) -> anyhow::Result<ExitCode> {
        block_on(async {
            let context = Context::new(global).await?;
            let specified = context.specified(&self.source, catalogue).await?;
            self.up(global, &context, &specified).await
        })
    }

    async fn up(
        &self,
        global: &Global,
        context: &Context,
        specified: &Specified,
    ) -> anyhow::Result<ExitCode> {
        let (stack, fleet) = (&specified.stack, &context.fleet);
        let nodes: Vec<&str> = stack.nodes.keys().map(String::as_str).collect();
        let _locks = lock(fleet, &stack.name, &nodes).await?;
        let made_ms = apply::now_ms();
        let architectures: BTreeMap<_, _> =
            stack.nodes.iter().map(|(name, node)| (name.clone(), node.arch)).collect();
        let keep = nodes.iter().map(async |node| {
            let (stack, text, architectures) =
                (stack.name.clone(), specified.text.clone(), architectures.clone());
            // A node that is away gets it with the next run.
            let _ = fleet.ask(node, &Request::PutSpec { stack, text, made_ms, architectures }).await;
        });
        join_all(keep).await;
        let screen = Screen::new(global.json);
        for warning in &stack.warnings {
            screen.say(&format!("warning: line {}: {}", warning.line, warning.message));
        }
        let mut changed = 0;
        let mut blocked = Vec::new();
        // What was seen last, while nothing has been done since.
        let mut seen = None;
        for _ in 0..MAX_ROUNDS {
            let actual = survey::actual(fleet, &stack.name, Some(stack)).await;
            let supply = apply::supply(stack, &actual, fleet, true).await?;
            let wishes = Wishes { force: self.force };
            let plan = plan::plan(stack, &actual, &supply.versions, wishes).map_err(anyhow::Error::msg)?;
            blocked.clone_from(&plan.blocked);
            if plan.is_empty() {
                seen = Some(actual);
                break;
            }
            changed += plan.changes().count();
            screen.total(plan.steps.len());
            let marathon = survey::marathon_of(fleet, Some(stack), &actual);
            let site = Site {
                name: &stack.name,
                stack: Some(stack),
                fleet,
                supply: &supply,
                marathon: &marathon,
                wishes,
                observer: &screen,
            };
            apply::apply(&plan, &site).await?;
        }
        screen.finish();
        let actual = match seen {
            Some(actual) => actual,
            None => survey::actual(fleet, &stack.name, Some(stack)).await,
        };
        let status = status::status(stack, &actual);
        if global.json {
            output::print(&output::json_line(&serde_json::json!({ "changed": changed, "status": status }))?)?;
        } else {
            let words = match changed {
                0 if blocked.is_empty() => "nothing to do".into(),
                0 => "nothing could be done".into(),
                1 => "1 change made".into(),
                _ => format!("{changed} changes made"),
            };
            output::print(&format!("{words}\n{}", super::status::told(&status)))?;
        }
        for one in &blocked {
            eprintln!("meshd: not done: {} {}: {}", one.component, one.node, one.why);
        }
        Ok(if blocked.is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
    }
}

/// Takes the stack's lock on its nodes: on the first one that answers before the others, so that of two runs one gets it.
///
/// # Errors
/// If another run has it, or fewer than half of the nodes answer.
pub(super) async fn lock(fleet: &Fleet, stack: &str, nodes: &[&str]) -> anyhow::Result<Vec<Client>> {
    let mut free = Vec::new();
    let mut away = Vec::new();
    let clients = join_all(nodes.iter().map(async |node| (*node, fleet.connect(node).await))).await;
    for (node, client) in clients {
        match client {
            Ok(client) => free.push((node, client)),
            Err(error) => away.push(format!("{node}: {error}")),
        }
    }
    let take = async |(node, mut client): (&str, Client)| {
        let request = Request::Lock { stack: stack.to_owned() };
        let taken = client.ask(&request).await;
        taken.map_err(|error| anyhow::anyhow!("{node}: {error}; wait for it to end"))?;
        anyhow::Ok(client)
    };
    let mut free = free.into_iter();
    let mut held = Vec::new();
    if let Some(first) = free.next() {
        held.push(take(first).await?);
    }
    for client in join_all(free.map(take)).await {
        held.push(client?);
    }
    if 2 * held.len() <= nodes.len() {
        anyhow::bail!(
            "more than half of the stack's nodes must answer, so that no two runs change it:\n  {}",
            away.join("\n  ")
        );
    }
    Ok(held)
}
