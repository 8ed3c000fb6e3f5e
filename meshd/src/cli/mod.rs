//! The command line: what can be typed, one verb a file.

use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Args, Parser, Subcommand};

use crate::demo::{self, DemoArgs};
use crate::exit;

/// Where state lives unless `--state` says otherwise.
pub const DEFAULT_STATE: &str = "/var/lib/meshd";

/// Parses the arguments, runs the verb, and gives the process's exit code.
pub fn main() -> ExitCode {
    let cli = match Cli::try_parse() {
        Ok(cli) => cli,
        Err(error) => {
            // A closed pipe is no reason to change the exit code.
            let _ = error.print();
            return if error.use_stderr() { ExitCode::from(exit::USAGE) } else { ExitCode::SUCCESS };
        }
    };
    cli.run().unwrap_or_else(|error| exit::report(&error))
}

/// A mesh VPN for self-managed clusters.
#[derive(Parser, Debug)]
#[command(name = "meshd", version, propagate_version = true, arg_required_else_help = true)]
struct Cli {
    #[command(flatten)]
    global: Global,
    #[command(subcommand)]
    verb: Verb,
}

/// What every verb understands.
#[derive(Args, Debug, Clone)]
pub struct Global {
    /// Directory with keys, certificate, and cached records
    #[arg(long, global = true, value_name = "DIR", env = "MESHD_STATE", help_heading = "Global options")]
    pub state: Option<PathBuf>,
    /// Configuration file [default: STATE/meshd.toml]
    #[arg(long, global = true, value_name = "FILE", env = "MESHD_CONFIG", help_heading = "Global options")]
    pub config: Option<PathBuf>,
    /// Log more; twice: even more
    #[arg(short, long, global = true, action = clap::ArgAction::Count, help_heading = "Global options")]
    pub verbose: u8,
    /// Print JSON, one value a line
    #[arg(long, global = true, help_heading = "Global options")]
    pub json: bool,
}

#[derive(Subcommand, Debug)]
enum Verb {
    /// Build a small mesh in network namespaces on this machine and show it recover
    Demo(DemoArgs),
}

impl Cli {
    fn run(self) -> anyhow::Result<ExitCode> {
        match self.verb {
            Verb::Demo(args) => demo::run(&DemoArgs { json: self.global.json, ..args }),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory;

    #[test]
    fn the_arguments_are_consistent() {
        Cli::command().debug_assert();
    }
}
