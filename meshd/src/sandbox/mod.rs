//! What the running daemon gives up: rights, files, and system calls that it does not need, so that a fault in it is worth
//! less to whoever finds one ([ADR 14](../../../docs/adr/0014-sandbox.md)).
//!
//! Everything that needs more is opened first; then [`enter`] closes the door behind the only thread there is, and the
//! threads that start later inherit it. All of it goes through libraries: there is no `unsafe` here.
//!
//! | part | module | what is given up |
//! |---|---|---|
//! | `core_dumps`, `memory_lock` | [`memory`] | core dumps, debuggers of the same user, swap where that is cheap |
//! | `no_new_privileges` | this one | gaining rights by running a program |
//! | `capabilities` | [`capabilities`] | all but the network's administration |
//! | `files` | [`files`] | all but the state directory, the configuration, and what name look-ups read (Landlock) |
//! | `system_calls` | [`calls`] | all but those that the daemon makes (seccomp) |

#[cfg_attr(not(any(target_arch = "x86_64", target_arch = "aarch64")), path = "no_calls.rs")]
pub mod calls;
pub mod capabilities;
pub mod files;
pub mod memory;

use std::path::PathBuf;

use tracing::{debug, warn};

use crate::api::view;

/// How much the daemon is to give up: `sandbox` in `meshd.toml`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mode {
    /// Only core dumps, debuggers, and gaining rights.
    Off,
    /// All that this kernel can do; what it cannot is logged.
    Normal,
    /// All, or the daemon does not start. A forbidden system call that no mistake explains ends the daemon.
    Strict,
}

impl Mode {
    /// Every mode with its name in the configuration.
    pub const ALL: [(Mode, &'static str); 3] =
        [(Mode::Off, "off"), (Mode::Normal, "normal"), (Mode::Strict, "strict")];

    /// Its name in the configuration.
    pub fn name(self) -> &'static str {
        match self {
            Mode::Off => "off",
            Mode::Normal => "normal",
            Mode::Strict => "strict",
        }
    }
}

/// What the daemon goes on needing.
#[derive(Debug, Clone, Default)]
pub struct Needs {
    /// Directories in which files are made, written, and removed.
    pub write: Vec<PathBuf>,
    /// Files and directories that are read.
    pub read: Vec<PathBuf>,
    /// Whether a port below 1024 may have to be bound again.
    pub low_ports: bool,
    /// Threads that run already, and look after themselves ([`enter_agent`]).
    pub others: usize,
}

/// A part that is not in force, and why.
#[derive(Debug, thiserror::Error)]
#[error(
    "the sandbox cannot be had on this machine: {part}: {why}. With sandbox = \"strict\" meshd does not start without it; \
     sandbox = \"normal\" does what can be done"
)]
pub struct Unavailable {
    /// Which part.
    pub part: &'static str,
    /// Why.
    pub why: String,
}

/// What is in force.
#[derive(Debug)]
pub struct Report {
    mode: Mode,
    parts: Vec<(&'static str, Result<String, String>)>,
}

/// Given up before any key is read, whatever the mode.
pub fn begin() -> Report {
    let mut report = Report { mode: Mode::Off, parts: Vec::new() };
    let privileges = nix::sys::prctl::set_no_new_privs();
    report.add("core_dumps", memory::forbid_dumps().map(|()| "none".into()));
    report.add(
        "no_new_privileges",
        privileges.map(|()| "running a program gives no rights".into()).map_err(|error| error.to_string()),
    );
    report
}

/// Gives up what `needs` does not list. To be called by the only thread, but for `needs.others`.
///
/// # Errors
/// [`Unavailable`] in strict mode.
pub fn enter(mode: Mode, mut report: Report, needs: &Needs) -> Result<Report, Unavailable> {
    report.mode = mode;
    if mode == Mode::Off {
        return Ok(report);
    }
    let alone = match std::fs::read_dir("/proc/self/task").map(Iterator::count) {
        Ok(threads) if threads > 1 + needs.others => Err(format!("{threads} threads run already")),
        // Without /proc nobody can tell; the daemon starts none before this.
        Ok(_) | Err(_) => Ok(()),
    };
    report.add("memory_lock", memory::lock());
    // Rules are made from paths: before the rights that may be needed to look at those are gone.
    let rules = files::Rules::new(mode, needs);
    report.add(
        "capabilities",
        alone.clone().and_then(|()| capabilities::keep(&capabilities::of_daemon(needs))),
    );
    report.add("files", alone.and_then(|()| rules.and_then(files::Rules::enforce)));
    report.add("system_calls", calls::restrict(mode));
    report.judge()?;
    Ok(report)
}

/// Gives up capabilities for the thread that talks to the container engine. Landlock would keep it from seeing containers'
/// processes and data; and whoever has the engine's socket is root through it.
pub fn enter_agent(mode: Mode, needs: &Needs) {
    if mode == Mode::Off {
        return;
    }
    if let Err(why) = capabilities::keep(&capabilities::of_agent(needs)) {
        warn!(why, "the agent keeps all capabilities");
    }
}

/// Swap may be encrypted or absent, and the limit on locked memory is the administrator's.
fn is_required(part: &str) -> bool {
    part != "memory_lock"
}

impl Report {
    fn add(&mut self, part: &'static str, outcome: Result<String, String>) {
        self.parts.push((part, outcome));
    }

    /// Logs what is not in force, or in strict mode refuses to go on without it.
    fn judge(&self) -> Result<(), Unavailable> {
        for (part, outcome) in &self.parts {
            match outcome {
                Ok(detail) => debug!(part, detail, "sandbox"),
                Err(why) if !is_required(part) => debug!(part, why, "sandbox"),
                Err(why) if self.mode == Mode::Strict => return Err(Unavailable { part, why: why.clone() }),
                Err(why) => warn!(part, why, "this part of the sandbox is not in force"),
            }
        }
        Ok(())
    }

    /// For `meshd status`.
    pub fn view(&self) -> view::Sandbox {
        let part = |(name, outcome): &(&'static str, Result<String, String>)| {
            let (in_force, detail) = match outcome {
                Ok(detail) => (true, detail.clone()),
                Err(why) => (false, why.clone()),
            };
            view::SandboxPart { name: (*name).into(), in_force, detail }
        };
        view::Sandbox { mode: self.mode.name().into(), parts: self.parts.iter().map(part).collect() }
    }
}

#[cfg(test)]
mod tests;
