//! Following what the daemon has under way, over its restarts.

use std::time::{Duration, Instant};

use super::Global;
use crate::api::client::{Client, Error};

/// How often what a daemon has under way is looked at.
pub(super) const LOOK_EVERY: Duration = Duration::from_millis(150);
/// How long to wait for a daemon that went away in the middle of it.
const RESTART_PATIENCE: Duration = Duration::from_secs(60);

/// Waits for a daemon that went away.
pub(super) fn again(global: &Global, error: Error) -> anyhow::Result<Client> {
    let until = Instant::now() + RESTART_PATIENCE;
    while Instant::now() < until {
        std::thread::sleep(LOOK_EVERY);
        if let Ok(client) = global.client() {
            return Ok(client);
        }
    }
    Err(error.into())
}
