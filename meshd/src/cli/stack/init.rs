//! `meshd stack init`.

use std::io::Write;
use std::path::PathBuf;
use std::process::ExitCode;

use super::super::Global;
use super::context::{Context, block_on};
use crate::exit::Failure;
use crate::output;
use crate::stack::spec::propose;

/// Arguments of `meshd stack init`.
#[derive(clap::Args, Debug)]
#[command(after_help = "Examples:\n  meshd stack init production\n  meshd stack init production --file -")]
pub(super) struct Args {
    /// The stack's name
    #[arg(default_value = "main")]
    name: String,
    /// Where to write it; - for standard output
    #[arg(long, short, value_name = "FILE", default_value = "stack.toml")]
    file: PathBuf,
}

impl Args {
    /// Runs the verb.
    ///
    /// # Errors
    /// If the daemon does not answer, or the file is there already.
    pub(super) fn run(self, global: &Global) -> anyhow::Result<ExitCode> {
        let context = block_on(Context::new(global))?;
        let proposal = propose::propose(&self.name, &context.members);
        for note in &proposal.notes {
            eprintln!("meshd: {note}");
        }
        if self.file.as_os_str() == "-" {
            output::print(&proposal.text)?;
            return Ok(ExitCode::SUCCESS);
        }
        let file = std::fs::OpenOptions::new().write(true).create_new(true).open(&self.file);
        let mut file = file.map_err(|error| {
            let hint = "move it away, or name another with --file";
            Failure::Usage(format!("cannot write {}: {error}; {hint}", self.file.display()))
        })?;
        file.write_all(proposal.text.as_bytes())?;
        eprintln!("wrote {}; next: meshd stack plan", self.file.display());
        Ok(ExitCode::SUCCESS)
    }
}
