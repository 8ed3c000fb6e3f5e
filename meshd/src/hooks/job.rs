//! What happened, as the daemon tells its helper, and the environment that a command gets for it.

use std::net::SocketAddr;
use std::path::PathBuf;

use ipnet::IpNet;
use proto::id::Name;
use serde::{Deserialize, Deserializer, Serialize, Serializer};

use super::nat::Nat;
use super::{Config, On};

/// What the helper has to know before the first job. The first line that it reads.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub struct Setup {
    /// The commands.
    pub config: Config,
    /// What to translate, as an exit.
    pub nat: Option<Nat>,
    /// This node.
    pub name: NameText,
    /// The mesh.
    pub mesh: NameText,
    /// The overlay's network device.
    pub interface: String,
    /// The state directory.
    pub state: PathBuf,
    /// The configuration file.
    pub configuration: PathBuf,
}

/// Something happened. One line each.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Job {
    /// Counts up from 1.
    pub number: u64,
    /// What.
    pub on: On,
    /// To whom, and how.
    #[serde(flatten)]
    pub happened: Happened,
}

/// The particulars. All of it is typed, so that no value can be anything else than it says.
#[derive(Clone, PartialEq, Eq, Default, Debug, Serialize, Deserialize)]
pub struct Happened {
    /// The member.
    pub node: Option<NameText>,
    /// Its endpoint on the underlay, if it is reached without a relay.
    pub remote: Option<SocketAddr>,
    /// The subnet.
    pub subnet: Option<IpNet>,
    /// Its weight.
    pub weight: Option<u16>,
    /// The path that traffic takes from now on.
    pub path: Option<PathKind>,
    /// The relay that it goes through.
    pub via: Option<NameText>,
    /// The path before.
    pub before: Option<PathKind>,
}

/// Kinds of paths.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum PathKind {
    /// Straight to the member.
    Direct,
    /// The same over TCP.
    Tcp,
    /// Through a relay.
    Relay,
}

impl PathKind {
    fn name(self) -> &'static str {
        match self {
            PathKind::Direct => "direct",
            PathKind::Tcp => "tcp",
            PathKind::Relay => "relay",
        }
    }
}

/// A name, written as text and checked when it is read.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct NameText(pub Name);

impl Serialize for NameText {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(self.0.as_str())
    }
}

impl<'de> Deserialize<'de> for NameText {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<NameText, D::Error> {
        let text = String::deserialize(deserializer)?;
        Name::new(&text).map(NameText).map_err(|_| serde::de::Error::custom("not a name"))
    }
}

/// The variables of a job, beside those that the daemon was started with. The first ones are tinc's (its manual, "Scripts"),
/// which leaves out what it does not know.
pub fn environment(setup: &Setup, job: &Job) -> Vec<(&'static str, String)> {
    let Happened { node, remote, subnet, weight, path, via, before } = &job.happened;
    let mut variables = vec![
        ("NETNAME", setup.mesh.0.to_string()),
        ("NAME", setup.name.0.to_string()),
        ("DEVICE", "/dev/net/tun".to_owned()),
        ("INTERFACE", setup.interface.clone()),
    ];
    let mut add = |key, value: Option<String>| variables.extend(value.map(|value| (key, value)));
    add("NODE", node.as_ref().map(|node| node.0.to_string()));
    add("REMOTEADDRESS", remote.map(|remote| remote.ip().to_string()));
    add("REMOTEPORT", remote.map(|remote| remote.port().to_string()));
    add("SUBNET", subnet.map(|subnet| subnet.to_string()));
    add("WEIGHT", weight.map(|weight| weight.to_string()));
    add("MESHD_EVENT", Some(job.on.name().to_owned()));
    add("MESHD_PATH", path.map(|path| path.name().to_owned()));
    add("MESHD_VIA", via.as_ref().map(|via| via.0.to_string()));
    add("MESHD_PATH_BEFORE", before.map(|before| before.name().to_owned()));
    add("MESHD_STATE", Some(setup.state.display().to_string()));
    add("MESHD_CONFIG", Some(setup.configuration.display().to_string()));
    variables
}

/// All that [`environment`] may set: what the daemon was started with must not stand in for what did not happen.
pub const VARIABLES: [&str; 15] = [
    "NETNAME",
    "NAME",
    "DEVICE",
    "INTERFACE",
    "NODE",
    "REMOTEADDRESS",
    "REMOTEPORT",
    "SUBNET",
    "WEIGHT",
    "MESHD_EVENT",
    "MESHD_PATH",
    "MESHD_VIA",
    "MESHD_PATH_BEFORE",
    "MESHD_STATE",
    "MESHD_CONFIG",
];
/// What systemd means for the daemon alone.
pub const NOT_FOR_COMMANDS: [&str; 6] =
    ["NOTIFY_SOCKET", "WATCHDOG_PID", "WATCHDOG_USEC", "LISTEN_PID", "LISTEN_FDS", "JOURNAL_STREAM"];

/// What came of a command. The helper's answer, one line each; the last one of a job says so.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Ran {
    /// The job's number.
    pub number: u64,
    /// What happened.
    pub on: On,
    /// The program.
    pub program: String,
    /// How it ended; `None` if nothing had to be run, which ends the job.
    pub outcome: Option<Outcome>,
    /// What it printed, at most [`super::runner::LINES_MAX`] lines.
    pub output: Vec<String>,
    /// Lines beyond that.
    pub more: usize,
}

/// How a command ended.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Outcome {
    /// With exit code 0.
    Done,
    /// With another, or by a signal.
    Failed(String),
    /// It took too long and was killed, with all that it had started.
    Killed,
    /// It could not be started.
    NotStarted(String),
}
