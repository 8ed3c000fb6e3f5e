//! The systems that are compared.

mod meshnet;
mod nebula;
mod raw;
mod tinc;
mod wireguard;

pub use meshnet::{Cipher, Meshnet};
pub use nebula::Nebula;
pub use raw::Raw;
pub use tinc::Tinc;
pub use wireguard::WireGuard;

use crate::rig::{Rig, Shape};
use netlab::Process;
use netlab::mesh::Member;
use std::ffi::OsStr;
use std::net::{IpAddr, Ipv4Addr};
use std::path::{Path, PathBuf};
use std::str::FromStr;
use std::time::{Duration, Instant};

/// The overlay network of the peers: machine number n has `.n+1`.
pub(crate) const OVERLAY: [u8; 3] = [10, 77, 0];

/// The overlay interface, where its name is ours to choose.
pub(crate) const INTERFACE: &str = "bench0";

/// Something that carries packets between the machines of a rig.
pub trait System {
    /// How reports call it; also what `--only` takes.
    fn name(&self) -> &str;

    /// Version, cipher, and what else tells what was measured.
    fn description(&self) -> String;

    /// Whether it seals packets with ChaCha20-Poly1305.
    fn is_chacha(&self) -> bool {
        false
    }

    /// Whether it can carry traffic over a rig of this shape.
    fn can(&self, shape: Shape) -> bool;

    /// How long traffic has to flow before the system is at its usual rate: not measured.
    fn warm_up(&self) -> Duration {
        Duration::ZERO
    }

    /// Prepares keys and configuration (not timed), then starts the daemons on all machines.
    ///
    /// # Errors
    /// When a daemon or command fails.
    fn start(&self, rig: &Rig) -> anyhow::Result<Running>;
}

/// A system at work. Dropping it ends its daemons.
#[derive(Debug)]
pub struct Running {
    /// The first machine's overlay address.
    pub near: IpAddr,
    /// The last machine's overlay address.
    pub far: IpAddr,
    /// When the first daemon was started.
    pub started: Instant,
    /// The daemons' process ids.
    pub pids: Vec<u32>,
    /// Keeps them running.
    pub daemons: Daemons,
}

/// The daemons of a running system.
#[derive(Debug)]
pub enum Daemons {
    /// None: the kernel does it all.
    Kernel,
    /// Programs.
    Processes(Vec<Process>),
    /// Members of a meshnet.
    Members(Vec<Member>),
}

impl Running {
    /// Of programs that give machine n the overlay address n.
    pub(crate) fn processes(rig: &Rig, started: Instant, processes: Vec<Process>) -> Running {
        Running {
            near: overlay(0).into(),
            far: overlay(rig.machines().len() - 1).into(),
            started,
            pids: processes.iter().map(Process::pid).collect(),
            daemons: Daemons::Processes(processes),
        }
    }
}

/// The overlay address of a machine.
pub(crate) fn overlay(machine: usize) -> Ipv4Addr {
    let [a, b, c] = OVERLAY;
    Ipv4Addr::new(a, b, c, machine as u8 + 1)
}

/// What kind of program a `--peer` is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Kind {
    /// tinc 1.0, or 1.1 (when a `tinc` program stands beside `tincd`).
    Tinc,
    /// A rewrite with the command line of tinc 1.1.
    Tincr,
    /// A WireGuard in user space with the `wg` control socket.
    WireGuard,
    /// Nebula (`nebula-cert` stands beside it).
    Nebula,
}

/// A program of the user's choice, `KIND=PATH`.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Peer {
    /// How it is configured and started.
    pub kind: Kind,
    /// The daemon's program.
    pub path: PathBuf,
}

impl FromStr for Peer {
    type Err = String;

    fn from_str(text: &str) -> Result<Peer, String> {
        let (kind, path) = text.split_once('=').ok_or("write it as KIND=PATH")?;
        let kind = match kind {
            "tinc" => Kind::Tinc,
            "tincr" => Kind::Tincr,
            "wireguard" => Kind::WireGuard,
            "nebula" => Kind::Nebula,
            other => return Err(format!("{other:?} is none of tinc, tincr, wireguard, nebula")),
        };
        if path.is_empty() {
            return Err("the path is empty".to_owned());
        }
        Ok(Peer { kind, path: PathBuf::from(path) })
    }
}

impl Peer {
    /// The system, named after the program and its directory so that several of a kind can be told apart; tincr twice,
    /// with each of its ciphers.
    ///
    /// # Errors
    /// When the program or one that it needs is not there.
    pub fn systems(&self, scratch: &Path) -> anyhow::Result<Vec<Box<dyn System>>> {
        let name = self.name();
        Ok(match self.kind {
            Kind::Tinc => vec![Box::new(Tinc::new(&name, &self.path, scratch)?)],
            Kind::Tincr => {
                let tincr = |name| Tinc::new(name, &self.path, scratch);
                vec![Box::new(tincr("tincr")?), Box::new(tincr("tincr-aes")?.with_aes())]
            }
            Kind::WireGuard => vec![Box::new(WireGuard::new(&name, &self.path, scratch)?)],
            Kind::Nebula => vec![Box::new(Nebula::new(&name, &self.path, scratch)?)],
        })
    }

    /// The program's name; with a usual name that of its directory (`/opt/nebula-1.12/nebula`: `nebula-1.12`), with a
    /// mark if that is usual too.
    fn name(&self) -> String {
        let part = |path: Option<&Path>| {
            path.and_then(Path::file_name).map(|name| name.to_string_lossy().replace(',', "-"))
        };
        let usual = ["nebula", "tincd", "wireguard-go", "boringtun-cli", "gotatun"];
        let program = part(Some(&self.path)).unwrap_or_default();
        if !usual.contains(&program.as_str()) {
            return program;
        }
        match part(self.path.parent()) {
            Some(directory) if !usual.contains(&directory.as_str()) && directory != "bin" => directory,
            _ => format!("{program}*"),
        }
    }
}

/// A program by its name in `PATH`, in the directories of system daemons, and in `extra`.
pub fn find(program: &str, extra: &[PathBuf]) -> Option<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let system = [Path::new("/usr/sbin"), Path::new("/sbin")].map(Path::to_owned);
    let mut places = extra.iter().cloned().chain(std::env::split_paths(&path)).chain(system);
    places.find_map(|place| Some(place.join(program)).filter(|path| path.is_file()))
}

/// A program that stands beside another one, or in `PATH`.
pub(crate) fn beside(path: &Path, program: &str) -> Option<PathBuf> {
    let directory = path.parent().unwrap_or(Path::new("")).to_owned();
    find(program, &[directory])
}

/// Runs a program to its end; its standard output.
///
/// # Errors
/// When it cannot be started, or fails; with what it said.
pub(crate) fn run(program: impl AsRef<OsStr>, arguments: &[&OsStr]) -> anyhow::Result<String> {
    let program = program.as_ref();
    let output = std::process::Command::new(program)
        .args(arguments)
        .stdin(std::process::Stdio::null())
        .output()
        .map_err(|error| anyhow::anyhow!("{}: {error}", program.display()))?;
    anyhow::ensure!(
        output.status.success(),
        "{} failed: {}",
        program.display(),
        String::from_utf8_lossy(&output.stderr).trim()
    );
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

/// Arguments of different types in one list.
macro_rules! arguments {
    ($($argument:expr),* $(,)?) => { &[$(std::ffi::OsStr::new($argument)),*] };
}
pub(crate) use arguments;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn peers_are_parsed_and_mistakes_explained() {
        let peer: Peer = "wireguard=/opt/wireguard-go".parse().expect("right");
        assert_eq!(peer, Peer { kind: Kind::WireGuard, path: "/opt/wireguard-go".into() });
        for (text, hint) in [("nebula", "KIND=PATH"), ("ipsec=/x", "none of"), ("tinc=", "empty")] {
            assert!(text.parse::<Peer>().expect_err("wrong").contains(hint), "{text}");
        }
    }

    #[test]
    fn peers_of_a_kind_have_names_of_their_own() {
        let name = |path: &str| Peer { kind: Kind::Nebula, path: path.into() }.name();
        assert_eq!(name("/opt/nebula-1.12/nebula"), "nebula-1.12");
        assert_eq!(name("/opt/my-nebula"), "my-nebula");
        assert_eq!([name("/usr/bin/nebula"), name("nebula")], ["nebula*", "nebula*"]);
    }

    #[test]
    fn a_program_that_is_nowhere_is_not_found() {
        assert_eq!(find("no such program at all", &[]), None);
        assert!(find("sh", &[]).is_some());
    }
}
