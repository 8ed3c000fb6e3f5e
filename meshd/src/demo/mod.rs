//! `meshd demo`: a mesh in network namespaces of this machine.

use std::process::ExitCode;

use clap::Args;

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
    anyhow::bail!(
        "the demo is not part of this build (stay: {}, plain: {})",
        args.stay,
        args.plain || args.json
    )
}
