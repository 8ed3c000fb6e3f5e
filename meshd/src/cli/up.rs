//! `meshd up`: the daemon.

use std::process::ExitCode;

use super::Global;
use crate::config;
use crate::daemon::{self, Options};
use crate::exit::Failure;

/// Arguments of `meshd up`.
#[derive(clap::Args, Debug)]
#[command(after_help = "\
Runs in the foreground and logs to standard error. Signals: TERM and INT end it, HUP reads the
configuration again. Under systemd: systemctl enable --now meshd

Examples:
  sudo meshd up
  sudo meshd up -v --interface mesh1 --state /var/lib/meshd-test")]
pub(super) struct Args {
    /// Name of the network device [default: the configuration's, or mesh0]
    #[arg(long, value_name = "NAME")]
    interface: Option<String>,
}

impl Args {
    /// Runs the verb.
    ///
    /// # Errors
    /// Why the daemon cannot start, or cannot go on.
    pub(super) fn run(self, global: &Global) -> anyhow::Result<ExitCode> {
        if let Some(name) = self.interface.as_ref().filter(|name| !config::is_interface_name(name)) {
            let message = format!(
                "--interface {name}: a device's name has 1 to 15 characters without spaces, `/` and `:`"
            );
            return Err(Failure::Usage(message).into());
        }
        let state = global.state_path()?;
        let config = global.config_path(&state);
        daemon::run(Options { state, config, interface: self.interface, verbose: global.verbose })
    }
}
