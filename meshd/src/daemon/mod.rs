//! The daemon behind `meshd up`.
//!
//! One thread runs `service::Service`, the owner of the [`meshnet::node::Node`]: it takes what the data plane's
//! threads ([`lanes`]) hand up, timers, signals, changes of the network, and requests from the control socket, feeds
//! them to the node, and carries out what the node wants.
//!
//! | module | what it does |
//! |---|---|
//! | `start` | reads the state, opens sockets and device, makes the node |
//! | `service` | the loop |
//! | `authority` | the authority over the control socket, and replacing it |
//! | `calls` | answers requests from the control socket |
//! | `clocks` | notices that the machine slept, or that its clock was set |
//! | `show` | the node's state as the control socket shows it |
//! | `discovery` | tells the LAN who is here, and hears others |
//! | `history` | what happened to the peers lately |
//! | `hooked` | what happened, for the commands in `[hooks]` |
//! | `graph` | members, links, and paths, to be drawn |
//! | `network` | the device's addresses and routes, the machine's own addresses |
//! | `store` | writes the cache and the timestamp floor, on a thread of its own |
//! | `trust` | keys and revocations over the control socket |
//! | [`dns`] | keeps the configured endpoints' addresses up to date |
//! | [`lanes`] | the data plane's threads |
//! | `streams` | datagrams over TCP, on a thread of its own |
//! | `portmap` | asks the gateway for a port |
//! | [`notify`] | tells systemd |

mod authority;
mod calls;
mod clocks;
mod discovery;
pub mod dns;
mod graph;
mod history;
mod hooked;
pub mod lanes;
mod network;
pub mod notify;
mod portmap;
mod service;
mod show;
mod start;
mod store;
pub(crate) mod streams;
mod trust;

use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

pub use authority::{describe as describe_authority, fingerprint};
pub use start::{Error, Permission};

/// Threads for what blocks: name look-ups.
const MAX_BLOCKING_THREADS: usize = 2;
/// How long the end of the daemon may wait for those.
const LINGER: Duration = Duration::from_millis(200);

/// How to run.
#[derive(Debug, Clone)]
pub struct Options {
    /// The state directory.
    pub state: PathBuf,
    /// The configuration file; it may be missing.
    pub config: PathBuf,
    /// Name of the device, against the configuration.
    pub interface: Option<String>,
    /// Steps by which logs are to be more talkative than configured.
    pub verbose: u8,
}

/// Runs the daemon until it is told to end.
///
/// # Errors
/// Why it cannot start, or cannot go on.
pub fn run(options: Options) -> anyhow::Result<ExitCode> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .max_blocking_threads(MAX_BLOCKING_THREADS)
        .thread_keep_alive(Duration::from_secs(1))
        .build()?;
    let result = runtime.block_on(async { start::start(options).await?.run().await });
    runtime.shutdown_timeout(LINGER);
    result.map(|()| ExitCode::SUCCESS)
}
