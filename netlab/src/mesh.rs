//! `meshd` on machines, driven as a user would: through its command line and its JSON output.

use crate::{Error, Machine, Process, wait};
use serde::Deserialize;
use serde::de::DeserializeOwned;
use std::collections::BTreeMap;
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use crate::Finished;

/// Names the `meshd` program to use.
pub const BINARY: &str = "MESHD_BIN";

/// Further arguments for every daemon, split at white space (`-vv`).
pub const ARGUMENTS: &str = "MESHD_ARGS";

/// The TUN interface of a member on its machine.
pub const INTERFACE: &str = "mesh0";

/// A command that takes longer than this hangs. Some wait for others up to a minute, where they are told to.
const COMMAND_LIMIT: Duration = Duration::from_secs(75);

/// A daemon that does not answer after this long has failed to start.
const START_LIMIT: Duration = Duration::from_secs(10);

/// One member of a mesh: a state directory and (from [`Member::up`] on) a daemon on a machine.
#[derive(Debug)]
pub struct Member {
    machine: Machine,
    binary: PathBuf,
    state: PathBuf,
    log: PathBuf,
    daemon: Option<Process>,
    environment: BTreeMap<String, String>,
    wrapper: Vec<String>,
}

/// What `meshd status --json` tells. Fields that are not looked at here are left out.
#[derive(Clone, Debug, Deserialize)]
pub struct Status {
    /// The node itself.
    pub node: NodeStatus,
    /// Every member it knows, without itself.
    #[serde(default)]
    pub peers: Vec<PeerStatus>,
    /// What an operator should look at.
    #[serde(default)]
    pub warnings: Vec<String>,
    /// What was lost, by reason.
    #[serde(default)]
    pub drops: BTreeMap<String, u64>,
    /// What handshakes did, by name.
    #[serde(default)]
    pub handshakes: BTreeMap<String, u64>,
}

/// The node of a [`Status`].
#[derive(Clone, Debug, Deserialize)]
pub struct NodeStatus {
    /// Its name in the mesh.
    pub name: String,
    /// Its overlay addresses.
    pub addresses: Vec<String>,
    /// The datacentre it says it is in.
    #[serde(default)]
    pub datacenter: Option<String>,
}

/// One peer of a [`Status`].
#[derive(Clone, Debug, Deserialize)]
pub struct PeerStatus {
    /// Its name in the mesh.
    pub name: String,
    /// Its overlay addresses.
    #[serde(default)]
    pub addresses: Vec<String>,
    /// What the daemon thinks of it, in its own words.
    #[serde(default)]
    pub state: String,
    /// The path in use, if any.
    #[serde(default)]
    pub path: Option<PathStatus>,
    /// Whether the session is post-quantum, in the daemon's words.
    #[serde(default)]
    pub post_quantum: Option<String>,
    /// Whether packets wait until it is.
    #[serde(default)]
    pub withheld: bool,
    /// Bytes received from it.
    #[serde(default)]
    pub rx_bytes: u64,
    /// Bytes sent to it.
    #[serde(default)]
    pub tx_bytes: u64,
}

/// The path to a peer.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
pub struct PathStatus {
    /// `direct`, `relay` or `tcp`.
    pub kind: String,
    /// The endpoint that packets are sent to.
    #[serde(default)]
    pub remote: Option<String>,
    /// The names of the relays on the way.
    #[serde(default)]
    pub via: Vec<String>,
    /// The round-trip time.
    #[serde(default)]
    pub rtt_ms: Option<f64>,
    /// The cipher suite of the session.
    #[serde(default)]
    pub suite: String,
    /// The longest packet that it carries, in bytes.
    #[serde(default)]
    pub mtu: u32,
}

/// The `meshd` program: [`BINARY`] in the environment, else the one in the directory (or its parent) of the running
/// program, where cargo puts it.
///
/// # Errors
/// [`Error::MissingTool`]-like text when there is none.
pub fn binary() -> Result<PathBuf, Error> {
    if let Some(path) = std::env::var_os(BINARY) {
        let path = PathBuf::from(path);
        return if path.is_file() { Ok(path) } else { Err(no_binary(path)) };
    }
    let own = std::env::current_exe().map_err(Error::system("finding the own program"))?;
    let candidates = own.ancestors().skip(1).take(2).map(|directory| directory.join("meshd"));
    candidates.into_iter().find(|path| path.is_file()).ok_or_else(|| no_binary(own.with_file_name("meshd")))
}

fn no_binary(path: PathBuf) -> Error {
    let source = std::io::Error::new(
        std::io::ErrorKind::NotFound,
        "no meshd here: `cargo build -p meshd` first, or name it in MESHD_BIN",
    );
    Error::File { path, source }
}

impl Member {
    /// A member-to-be on a machine, with a state directory that does not exist yet.
    pub fn new(machine: &Machine, binary: &Path) -> Member {
        Member {
            machine: machine.clone(),
            binary: binary.to_owned(),
            state: machine.directory().join("state"),
            log: machine.directory().join("meshd.log"),
            daemon: None,
            environment: BTreeMap::new(),
            wrapper: Vec::new(),
        }
    }

    /// The machine it runs on.
    pub fn machine(&self) -> &Machine {
        &self.machine
    }

    /// Its state directory.
    pub fn state(&self) -> &Path {
        &self.state
    }

    /// Uses another state directory.
    pub fn set_state(&mut self, state: impl Into<PathBuf>) {
        self.state = state.into();
    }

    /// Sets an environment variable for all further commands and daemons.
    pub fn set_env(&mut self, key: &str, value: &str) {
        self.environment.insert(key.to_owned(), value.to_owned());
    }

    /// Runs all further commands and daemons through a program that takes a command line as its last arguments
    /// (`["nice", "-n5"]`); none with an empty list.
    pub fn set_wrapper<S: AsRef<str>>(&mut self, wrapper: &[S]) {
        self.wrapper = wrapper.iter().map(|word| word.as_ref().to_owned()).collect();
    }

    /// `meshd --state DIR ARGUMENTS...`, not started.
    pub fn command(&self, arguments: &[&str]) -> Command {
        let mut command = match self.wrapper.split_first() {
            None => Command::new(&self.binary),
            Some((program, first)) => {
                let mut command = Command::new(program);
                command.args(first).arg(&self.binary);
                command
            }
        };
        command.arg("--state").arg(&self.state).args(arguments).envs(&self.environment);
        command
    }

    /// Runs `meshd ARGUMENTS...` on the machine to its end, whatever its exit code.
    ///
    /// # Errors
    /// [`Error::Timeout`] when it hangs.
    pub fn run(&self, arguments: &[&str]) -> Result<Finished, Error> {
        self.machine.run(self.command(arguments), COMMAND_LIMIT)
    }

    /// Runs `meshd ARGUMENTS...`; its standard output.
    ///
    /// # Errors
    /// [`Error::Command`] for an exit code other than 0.
    pub fn ok(&self, arguments: &[&str]) -> Result<String, Error> {
        self.run(arguments)?.stdout()
    }

    /// Runs `meshd ARGUMENTS... --json` and reads its answer.
    ///
    /// # Errors
    /// [`Error::Answer`] when that is no such JSON.
    pub fn json<T: DeserializeOwned>(&self, arguments: &[&str]) -> Result<T, Error> {
        let arguments = [arguments, &["--json"]].concat();
        let text = self.ok(&arguments)?;
        serde_json::from_str(&text).map_err(|error| Error::Answer {
            line: format!("meshd {}", arguments.join(" ")),
            why: error.to_string(),
        })
    }

    /// Asks for an invitation; the URL.
    ///
    /// # Errors
    /// [`Error::Command`] when the daemon refuses.
    pub fn invite(&self, name: &str, arguments: &[&str]) -> Result<String, Error> {
        let url = self.ok(&[&["invite", name], arguments].concat())?;
        Ok(url.trim().to_owned())
    }

    /// Starts the daemon and waits until it answers.
    ///
    /// # Errors
    /// [`Error::Timeout`] with the end of its log when it does not.
    pub fn up(&mut self) -> Result<(), Error> {
        self.start(&[])?;
        self.wait_until_up(START_LIMIT)
    }

    /// Starts the daemon with further arguments and does not wait.
    ///
    /// # Errors
    /// When the program cannot be started.
    pub fn start(&mut self, arguments: &[&str]) -> Result<(), Error> {
        let further = std::env::var(ARGUMENTS).unwrap_or_default();
        let further: Vec<&str> = further.split_whitespace().collect();
        let command = self.command(&[&["up", "--interface", INTERFACE], arguments, &further].concat());
        self.daemon = Some(self.machine.spawn_logging_to(command, &self.log)?);
        Ok(())
    }

    /// Waits until the daemon answers.
    ///
    /// # Errors
    /// [`Error::Timeout`] with the end of its log.
    pub fn wait_until_up(&mut self, limit: Duration) -> Result<(), Error> {
        let what = format!("meshd on {} to answer", self.machine.name());
        wait::until(&what, limit, || {
            if let Some(status) = self.daemon.as_mut().and_then(Process::try_wait) {
                // The time left would not help: give the reason at once.
                return Ok(Err(Error::Answer {
                    line: format!("meshd up (on {})", self.machine.name()),
                    why: format!("it ended with {status}: {}", self.log_end()),
                }));
            }
            self.status().map(|_| Ok(())).map_err(|error| format!("{error}\n{}", self.log_end()))
        })?
    }

    /// The daemon's process, when it was started.
    pub fn daemon(&mut self) -> Option<&mut Process> {
        self.daemon.as_mut()
    }

    /// The daemon's process id.
    pub fn pid(&self) -> Option<u32> {
        self.daemon.as_ref().map(Process::pid)
    }

    /// `kill -9` to the daemon.
    pub fn kill(&mut self) {
        if let Some(mut daemon) = self.daemon.take() {
            daemon.kill();
        }
    }

    /// SIGTERM to the daemon, and its exit status.
    ///
    /// # Errors
    /// [`Error::Timeout`] when it does not end within `limit`.
    pub fn terminate(&mut self, limit: Duration) -> Result<Option<std::process::ExitStatus>, Error> {
        let Some(mut daemon) = self.daemon.take() else { return Ok(None) };
        daemon.terminate();
        daemon.wait(limit).map(Some)
    }

    /// Everything the daemon has logged.
    pub fn log_text(&self) -> String {
        std::fs::read_to_string(&self.log).unwrap_or_default()
    }

    /// What the daemon tells about itself and its peers.
    ///
    /// # Errors
    /// [`Error::Command`] when it does not answer.
    pub fn status(&self) -> Result<Status, Error> {
        self.json(&["status"])
    }

    /// Its first overlay address of a family.
    ///
    /// # Errors
    /// [`Error::Answer`] when it has none.
    pub fn address(&self, v6: bool) -> Result<IpAddr, Error> {
        let status = self.status()?;
        let addresses = status.node.addresses.iter().filter_map(|text| parse_address(text));
        addresses.into_iter().find(|address| address.is_ipv6() == v6).ok_or_else(|| Error::Answer {
            line: "meshd status --json".to_owned(),
            why: format!("no overlay address of that family among {:?}", status.node.addresses),
        })
    }

    /// The path that it uses to a peer now.
    ///
    /// # Errors
    /// When the daemon does not answer.
    pub fn path_to(&self, peer: &str) -> Result<Option<PathStatus>, Error> {
        let status = self.status()?;
        Ok(status.peers.into_iter().find(|known| known.name == peer).and_then(|known| known.path))
    }

    /// Waits until the daemon knows a member of this name, and it is as wished.
    ///
    /// # Errors
    /// [`Error::Timeout`] with the members that it knows.
    pub fn wait_for_peer(
        &self,
        peer: &str,
        limit: Duration,
        is_wished: impl Fn(&PeerStatus) -> bool,
    ) -> Result<PeerStatus, Error> {
        let what = format!("{} to know {peer} as wished", self.machine.name());
        wait::until(&what, limit, || {
            let peers = self.status().map_err(|error| error.to_string())?.peers;
            let known: Vec<String> =
                peers.iter().map(|known| format!("{} {}", known.name, known.state)).collect();
            peers
                .into_iter()
                .find(|known| known.name == peer && is_wished(known))
                .ok_or_else(|| known.join(", "))
        })
    }

    /// Waits until the path to a peer is as wished; the path.
    ///
    /// # Errors
    /// [`Error::Timeout`] with the path that there is.
    pub fn wait_for_path(
        &self,
        peer: &str,
        limit: Duration,
        is_wished: impl Fn(&PathStatus) -> bool,
    ) -> Result<PathStatus, Error> {
        let what = format!("the wished path from {} to {peer}", self.machine.name());
        wait::until(&what, limit, || match self.path_to(peer) {
            Ok(Some(path)) if is_wished(&path) => Ok(path),
            Ok(other) => Err(format!("{other:?}")),
            Err(error) => Err(error.to_string()),
        })
    }

    /// Pings an address from the machine until an answer comes; the time from the call to the answer.
    ///
    /// # Errors
    /// [`Error::Timeout`].
    pub fn wait_for_ping(&self, to: IpAddr, limit: Duration) -> Result<Duration, Error> {
        let start = std::time::Instant::now();
        let what = format!("an echo from {to} to {}", self.machine.name());
        wait::until(&what, limit, || match self.machine.ping(to, Duration::from_millis(100)) {
            Ok(Some(_)) => Ok(start.elapsed()),
            Ok(None) => Err("silence".to_owned()),
            Err(error) => Err(error.to_string()),
        })
    }

    fn log_end(&self) -> String {
        let text = self.log_text();
        let lines: Vec<&str> = text.lines().collect();
        lines[lines.len().saturating_sub(8)..].join("\n")
    }
}

impl PathStatus {
    /// Do packets go straight to the peer?
    pub fn is_direct(&self) -> bool {
        self.kind == "direct"
    }

    /// Do packets go through relays?
    pub fn is_relayed(&self) -> bool {
        self.kind == "relay"
    }
}

/// An address with or without a prefix length.
pub fn parse_address(text: &str) -> Option<IpAddr> {
    text.split('/').next()?.parse().ok()
}
