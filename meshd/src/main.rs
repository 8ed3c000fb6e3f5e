//! `meshd`: the meshnet daemon and its command line.

use std::process::ExitCode;

fn main() -> ExitCode {
    meshd::cli::main()
}
