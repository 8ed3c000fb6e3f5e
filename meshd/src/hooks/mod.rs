//! Commands that are run when something happens in the mesh: `[hooks]` in `meshd.toml`, and tinc's scripts.
//!
//! The daemon itself runs no programs: its sandbox forbids it. A helper, the same program started before the sandbox is
//! closed, is given the commands once, and later only what happened ([`job::Job`]): typed values, from which it makes the
//! environment. Whoever takes over the daemon cannot make it run anything else, nor with other variables.
//!
//! | module | what it does |
//! |---|---|
//! | [`job`] | what happened, and the variables that it becomes |
//! | [`nat`] | hiding other members' packets behind this machine's address, as an exit does |
//! | [`queue`] | the daemon's side: a bounded queue, and what the commands printed |
//! | [`runner`] | the helper: one command after the other, each with its time |

pub mod job;
pub mod nat;
pub mod queue;
pub mod runner;
#[cfg(test)]
mod tests;

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::Duration;

use serde::{Deserialize, Serialize};

pub use job::{Happened, Job};
pub use queue::{Queue, Waiting};

/// How long a command may take unless configured.
pub const DEFAULT_TIMEOUT: Duration = Duration::from_secs(10);
/// Longest time that can be configured.
pub const TIMEOUT_MAX: Duration = Duration::from_secs(300);

/// What can happen.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum On {
    /// The daemon is up, its device has its addresses.
    Up,
    /// The daemon ends; the device is still there.
    Down,
    /// A member can be reached.
    NodeUp,
    /// A member cannot be reached any more.
    NodeDown,
    /// A subnet can be reached through a member.
    SubnetUp,
    /// A subnet cannot be reached through a member any more.
    SubnetDown,
    /// Traffic to a member takes another path.
    PathChange,
}

impl On {
    /// Everything that can happen, with its key in `[hooks]`.
    pub const ALL: [(On, &'static str); 7] = [
        (On::Up, "up"),
        (On::Down, "down"),
        (On::NodeUp, "node_up"),
        (On::NodeDown, "node_down"),
        (On::SubnetUp, "subnet_up"),
        (On::SubnetDown, "subnet_down"),
        (On::PathChange, "path_change"),
    ];

    /// Its key in `[hooks]`.
    pub fn name(self) -> &'static str {
        Self::ALL[self as usize].1
    }
}

/// A command to run.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Command {
    /// For `/bin/sh -c`.
    Shell(String),
    /// A program and its arguments; never empty.
    Program(Vec<String>),
}

/// What is configured.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Config {
    /// What to run, by what happened.
    pub commands: BTreeMap<On, Command>,
    /// A directory with tinc's scripts: `tinc-up`, `host-up`, `hosts/NAME-up`, `subnet-up`, and their counterparts.
    pub tinc: Option<PathBuf>,
    /// How long each command may take.
    pub timeout: Duration,
}

impl Default for Config {
    fn default() -> Config {
        Config { commands: BTreeMap::new(), tinc: None, timeout: DEFAULT_TIMEOUT }
    }
}

impl Config {
    /// Whether there is nothing to run, whatever happens.
    pub fn is_empty(&self) -> bool {
        self.commands.is_empty() && self.tinc.is_none()
    }

    /// Whether something may be run when this happens. A script of tinc's may come later, so that one is not looked for.
    pub fn wants(&self, on: On) -> bool {
        self.commands.contains_key(&on) || (self.tinc.is_some() && on != On::PathChange)
    }
}
