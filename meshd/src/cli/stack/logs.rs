//! `meshd stack logs`.

use std::process::ExitCode;

use futures_util::future::join_all;

use super::super::Global;
use super::context::{Context, Source, block_on};
use crate::exit::Failure;
use crate::output;
use crate::stack::agent::{Answer, Request};
use crate::stack::components::Catalogue;
use crate::stack::spec::suggest;

/// Arguments of `meshd stack logs`.
#[derive(clap::Args, Debug)]
#[command(
    after_help = "Examples:\n  meshd stack logs zookeeper --follow\n  meshd stack logs mariadb --node fra1 --tail 100"
)]
pub(super) struct Args {
    /// Only of these components
    #[arg(value_name = "COMPONENT")]
    names: Vec<String>,
    #[command(flatten)]
    source: Source,
    /// Only of this node
    #[arg(long, value_name = "NAME")]
    node: Option<String>,
    /// Begin with so many of the last lines of each replica
    #[arg(long, value_name = "LINES", default_value_t = 20)]
    tail: u32,
    /// Go on with what is printed from now on
    #[arg(long, short = 'F')]
    follow: bool,
}

impl Args {
    /// Runs the verb.
    ///
    /// # Errors
    /// If the daemon does not answer, or there is no such component.
    pub(super) fn run(self, global: &Global, catalogue: &Catalogue) -> anyhow::Result<ExitCode> {
        block_on(async {
            let context = Context::new(global).await?;
            let stack = context.specified(&self.source, catalogue).await?.stack;
            for name in &self.names {
                if stack.component(name).is_none() {
                    let names = stack.placed.iter().map(|placed| placed.component.name.as_str());
                    let hint = suggest(name, "there are", names);
                    return Err(Failure::Usage(format!("the stack has no component `{name}`; {hint}")).into());
                }
            }
            let wanted = |name: &String| self.names.is_empty() || self.names.contains(name);
            let mut places = Vec::new();
            for placed in stack.placed.iter().filter(|placed| wanted(&placed.component.name)) {
                for node in
                    placed.nodes.iter().filter(|node| self.node.as_ref().is_none_or(|only| only == *node))
                {
                    places.push((node.clone(), placed.component.name.clone()));
                }
            }
            let width =
                places.iter().map(|(node, component)| node.len() + component.len() + 1).max().unwrap_or(0);
            let results = join_all(places.iter().map(async |(node, component)| {
                let prefix = format!("{:width$} | ", format!("{node}/{component}"));
                let container = format!("meshd-{}-{component}", stack.name);
                let (tail, follow) = (self.tail, self.follow);
                let request = Request::Logs { stack: stack.name.clone(), container, tail, follow };
                let mut client =
                    context.fleet.connect(node).await.map_err(|error| format!("{node}: {error}"))?;
                let part = |answer| {
                    let Answer::Line { text } = answer else { return };
                    for line in text.lines() {
                        let told = if global.json {
                            serde_json::json!({ "node": node, "component": component, "line": line })
                                .to_string()
                        } else {
                            format!("{prefix}{line}")
                        };
                        // A closed pipe ends the program; other errors show with the next line.
                        let _ = output::print(&(told + "\n"));
                    }
                };
                client.ask_with(&request, part).await.map_err(|error| format!("{node}: {error}"))
            }))
            .await;
            let failures: Vec<String> = results.into_iter().filter_map(Result::err).collect();
            failures.iter().for_each(|failure| eprintln!("meshd: {failure}"));
            Ok(if failures.is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
        })
    }
}
