//! `meshd demo`: a mesh in network namespaces of this machine, shown while it forms, and while a relay dies.
//!
//! Everything shown is measured on real daemons: the demo starts this very program with `init`, `invite`, `join` and
//! `up`, as a user would, and looks at them through `status --json`. With `--stack`: a container stack in the same way.

mod acts;
mod interrupt;
mod promise;
mod scene;
mod screen;
mod stack;

use std::path::PathBuf;
use std::process::ExitCode;

use clap::Args;

use crate::exit::Failure;
use interrupt::Interrupt;
use screen::{Mode, Screen};

/// Arguments of `meshd demo`.
#[derive(Args, Debug, Clone, Default)]
#[command(
    after_help = "With --stack: Docker's engine and debootstrap are needed (Debian: apt-get install docker.io debootstrap), root, and \
                  a mirror of Debian for the images. The first time takes some minutes, later ones about two."
)]
pub struct DemoArgs {
    /// Keep the mesh up at the end and tell how to play with it
    #[arg(long)]
    pub stay: bool,
    /// Show a container stack instead: ZooKeeper, MariaDB Galera, InfluxDB, and HAProxy on three nodes, one of which dies
    #[arg(long, conflicts_with = "stay")]
    pub stack: bool,
    /// Where the images of --stack are kept once they are built
    #[arg(long, value_name = "DIR", requires = "stack", default_value = stack::IMAGES)]
    pub images: PathBuf,
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
    if args.stack {
        stack::check(&args.images)?;
    }
    netlab::access::acquire().map_err(refusal)?;
    let interrupt = Interrupt::install(if args.stack { stack::LIMIT } else { interrupt::LIMIT })?;
    let mut screen = Screen::new(Mode::of(args));
    let promises = if args.stack {
        stack::perform(&args.images, &interrupt, &mut screen)?
    } else {
        acts::perform(args.stay, &interrupt, &mut screen)?
    };
    Ok(if promises.all_kept() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// Missing rights have an exit code of their own.
fn refusal(error: netlab::Error) -> anyhow::Error {
    match error {
        netlab::Error::Access { .. } => Failure::NotPermitted(error.to_string()).into(),
        other => other.into(),
    }
}
