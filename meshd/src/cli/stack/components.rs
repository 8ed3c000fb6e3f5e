//! `meshd stack components`.

use std::fmt::Write as _;
use std::process::ExitCode;

use super::super::Global;
use crate::exit::Failure;
use crate::output;
use crate::stack::components::{Catalogue, Component, Value};
use crate::stack::spec::suggest;

/// Arguments of `meshd stack components`.
#[derive(clap::Args, Debug)]
#[command(after_help = "Examples:\n  meshd stack components\n  meshd stack components zookeeper")]
pub(super) struct Args {
    /// The component to show
    name: Option<String>,
}

impl Args {
    /// Runs the verb.
    ///
    /// # Errors
    /// If there is no such component.
    pub(super) fn run(self, global: &Global, catalogue: &Catalogue) -> anyhow::Result<ExitCode> {
        let text = match &self.name {
            None if global.json => output::json_line(&catalogue.iter().collect::<Vec<_>>())?,
            None => {
                let longest = catalogue.names().map(str::len).max().unwrap_or(0);
                let line = |one: &Component| format!("{:longest$}  {}\n", one.name, one.description);
                catalogue.iter().map(line).collect()
            }
            Some(name) => match catalogue.get(name) {
                Some(component) if global.json => output::json_line(component)?,
                Some(component) => describe(component),
                None => {
                    let hint = suggest(name, "there are", catalogue.names());
                    return Err(Failure::Usage(format!("there is no component `{name}`; {hint}")).into());
                }
            },
        };
        output::print(&text)?;
        Ok(ExitCode::SUCCESS)
    }
}

fn describe(component: &Component) -> String {
    let mut text = format!("{}: {}\n", component.name, component.description);
    let mut line = |title: &str, items: Vec<String>| {
        if !items.is_empty() {
            let _ = writeln!(text, "\n{title}");
            items.iter().for_each(|item| text.push_str(&format!("  {item}\n")));
        }
    };
    line(
        "images",
        component.images.iter().map(|(arch, image)| format!("{:<6} {image}", arch.word())).collect(),
    );
    line("ports", component.ports.iter().map(|(name, number)| format!("{name} = {number}")).collect());
    let setting = |(name, setting): (&String, &crate::stack::components::Setting)| {
        format!("{name} = {}  # {}", literal(&setting.default), setting.help)
    };
    line("settings", component.settings.iter().map(setting).collect());
    line(
        "secrets",
        component.secrets.iter().map(|(name, secret)| format!("{name}: {}", secret.help)).collect(),
    );
    let volumes = component.volumes.iter();
    line("volumes", volumes.map(|(name, one)| format!("{name}: {} ({})", one.path, one.help)).collect());
    line("starts after", component.after.clone());
    line("needs", component.needs.clone());
    text
}

fn literal(value: &Value) -> String {
    serde_json::to_string(value).unwrap_or_default()
}
