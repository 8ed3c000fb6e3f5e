//! `meshd stack`: one verb a file.

mod components;
mod context;
mod down;
mod init;
mod logs;
mod plan;
mod screen;
mod status;
mod up;

use std::path::PathBuf;
use std::process::ExitCode;

use super::Global;
use crate::stack::components::Catalogue;

/// Arguments of `meshd stack`.
#[derive(clap::Args, Debug)]
#[command(arg_required_else_help = true)]
pub(super) struct Args {
    /// Take components from this directory too, before those that come with meshd
    #[arg(long = "components", global = true, value_name = "DIR")]
    component_directory: Option<PathBuf>,
    #[command(subcommand)]
    verb: Verb,
}

#[derive(clap::Subcommand, Debug)]
enum Verb {
    /// Write a stack.toml for this mesh: proposed from its live members
    Init(init::Args),
    /// Show what `up` would do, without doing anything
    Plan(plan::Args),
    /// Make everything as the specification says
    Up(up::Args),
    /// Show what works, and what more can be lost
    Status(status::Args),
    /// Show what the containers print, of all nodes together
    Logs(logs::Args),
    /// Stop and remove everything; data is kept
    Down(down::Args),
    /// List the components that a stack can use, or show one's settings, ports, and secrets
    Components(components::Args),
    /// Print the JSON Schema of stack.toml, for editors
    Schema,
}

impl Args {
    /// Runs the verb.
    ///
    /// # Errors
    /// What the verb says.
    pub(super) fn run(self, global: &Global) -> anyhow::Result<ExitCode> {
        let mut catalogue = Catalogue::built_in();
        if let Some(directory) = &self.component_directory {
            catalogue.add_directory(directory)?;
        }
        match self.verb {
            Verb::Init(args) => args.run(global),
            Verb::Plan(args) => args.run(global, &catalogue),
            Verb::Up(args) => args.run(global, &catalogue),
            Verb::Status(args) => args.run(global, &catalogue),
            Verb::Logs(args) => args.run(global, &catalogue),
            Verb::Down(args) => args.run(global, &catalogue),
            Verb::Components(args) => args.run(global, &catalogue),
            Verb::Schema => {
                crate::output::print(&crate::stack::spec::json_schema())?;
                Ok(ExitCode::SUCCESS)
            }
        }
    }
}
