//! `meshd demo`: a mesh in network namespaces of this machine, shown while it forms, and while a relay dies.
//!
//! Everything shown is measured on real daemons: the demo starts this very program with `init`, `invite`, `join` and
//! `up`, as a user would, and looks at them through `status --json`.

mod acts;
mod interrupt;
mod promise;
mod scene;
mod screen;

use std::process::ExitCode;

use clap::Args;

use crate::exit::Failure;
use interrupt::Interrupt;
use screen::{Mode, Screen};

/// Arguments of `meshd demo`.
#[derive(Args, Debug, Clone, Default)]
pub struct DemoArgs {
    /// Keep the mesh up at the end and tell how to play with it
    #[arg(long)]
    pub stay: bool,
    /// Plain lines instead of a table that updates (the default where there is no terminal)
    #[arg(long, conflicts_with = "json")]
    pub plain: bool,
    /// One JSON value a line instead of text (the global `--json`)
    #[arg(skip)]
    pub json: bool,
}

/// Builds the mesh, shows it, and cleans up.
///
/// # Errors
/// Whatever keeps the demo from being shown; the exit code is 1 if it ran and did not keep a promise.
pub fn run(args: &DemoArgs) -> anyhow::Result<ExitCode> {
    netlab::access::acquire().map_err(refusal)?;
    let interrupt = Interrupt::install()?;
    let mut screen = Screen::new(Mode::of(args));
    let promises = acts::perform(args.stay, &interrupt, &mut screen)?;
    Ok(if promises.all_kept() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// Missing rights have an exit code of their own.
fn refusal(error: netlab::Error) -> anyhow::Error {
    match error {
        netlab::Error::Access { .. } => Failure::NotPermitted(error.to_string()).into(),
        other => other.into(),
    }
}
