//! The daemon's configuration: read raw (`raw`), judged once, and from then on only seen resolved ([`Config`]).

pub mod diagnose;
mod exit;
pub mod hooks;
mod host_port;
mod peers;
mod raw;
mod resolve;
pub mod streams;
mod values;
pub mod write;

use std::collections::BTreeMap;
use std::io;
use std::net::{IpAddr, Ipv6Addr, SocketAddr};
use std::path::{Path, PathBuf};

use ipnet::IpNet;
use meshnet::crypto::Suite;
use meshnet::dataplane::RelayLimit;
use meshnet::io::netlink;
use meshnet::io::tun::Wish;
use meshnet::node::{PeerPolicy, PostQuantum};
use proto::id::Name;
use proto::key_epoch::Capabilities;

use diagnose::Findings;
pub use diagnose::{Invalid, Problem};
pub use host_port::{HostPort, HostPortError};
pub use values::parse_prefix;

use crate::hooks as hooked;
use crate::sandbox::Mode;

/// UDP port used where none is given.
pub const DEFAULT_PORT: u16 = 4655;
/// Name of the network device unless configured.
pub const DEFAULT_INTERFACE: &str = "mesh0";
/// Fits one relayed datagram over IPv6 into an underlay of 1500 bytes.
pub const DEFAULT_MTU: u16 = 1354;
/// Mark on underlay packets unless configured: "me" in ASCII.
pub const DEFAULT_FWMARK: u32 = 0x6d65;
/// Weight of a subnet unless configured.
pub const DEFAULT_WEIGHT: u16 = 100;
/// Seconds between replacements of the transport key unless configured: a week.
pub const DEFAULT_ROTATE_EVERY_S: u64 = 7 * 24 * 3600;
/// Shortest time between replacements, in seconds: one is to be over before the next begins.
pub const SHORTEST_ROTATE_EVERY_S: u64 = 600;
/// Most lanes unless configured.
pub const AUTO_LANES_MAX: usize = 4;
/// Most addresses to listen on.
pub const MAX_LISTEN: usize = 8;
/// Most configured endpoints.
pub const MAX_ENDPOINTS: usize = 8;
/// Most subnets of one node, as in its record.
pub const MAX_SUBNETS: usize = 256;

/// Why a configuration could not be had.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// It was read, but it is wrong.
    #[error(transparent)]
    Invalid(#[from] Invalid),
    /// It was not read.
    #[error("cannot read the configuration {path}")]
    Unreadable {
        /// The file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
}

/// The resolved configuration.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Config {
    /// State directory, if the file names one.
    pub state: Option<PathBuf>,
    /// Name of the overlay's network device.
    pub interface: String,
    /// The device's MTU.
    pub mtu: Mtu,
    /// Whether the kernel is asked to carry packets in batches, in device and sockets.
    pub offload: Wish,
    /// Which cipher suites the node's key epochs declare.
    pub suite: SuiteWish,
    /// Whether sessions are made with ML-KEM-768 beside X25519.
    pub pq: PostQuantum,
    /// How many queues and pairs of threads carry packets.
    pub lanes: LanesWish,
    /// UDP addresses to listen on; at least one. `[::]` stands for both families, or for IPv4 where there is no IPv6.
    pub listen: Vec<SocketAddr>,
    /// Endpoints at which the node can be reached from outside.
    pub endpoints: Vec<HostPort>,
    /// The datacentre the node is in.
    pub datacenter: Option<String>,
    /// Whether the node relays for others (its certificate must allow it).
    pub relay: bool,
    /// Subnets behind the node (its certificate must allow them).
    pub subnets: Vec<Subnet>,
    /// Whether TOS or traffic class of inner packets is copied outward.
    pub copy_tos: bool,
    /// How much to relay for one neighbour; `None` for as much as there is.
    pub relay_limit: Option<RelayLimit>,
    /// What the node can relay in all, in bytes a second; `None` where it is to find out.
    pub relay_capacity: Option<u64>,
    /// Whether to announce the node to its LANs, and listen for others there.
    pub lan_discovery: bool,
    /// Whether to ask the default gateway for a port.
    pub port_mapping: bool,
    /// Which paths may lead to a peer, by its name.
    pub peers: BTreeMap<Name, PeerPolicy>,
    /// Commands to run when something happens.
    pub hooks: hooked::Config,
    /// TCP, for where UDP is blocked.
    pub streams: streams::Streams,
    /// Mark on the underlay's packets, so that they take no overlay route.
    pub fwmark: u32,
    /// Whether the node takes traffic of others to the internet (its certificate must allow it).
    pub exit: bool,
    /// Whether it hides them behind its own address.
    pub exit_nat: bool,
    /// The member through which this node reaches the internet.
    pub exit_node: Option<Name>,
    /// Routing table for the overlay's routes; the main one if `None`.
    pub route_table: Option<u32>,
    /// Metric of the overlay's routes.
    pub route_metric: u32,
    /// Priority of the first of the daemon's own routing rules; it makes none if 0.
    pub rule_priority: u32,
    /// Seconds between replacements of the transport key; never if `None`.
    pub rotate_every: Option<u64>,
    /// Where scrapers are answered over HTTP; nowhere without it.
    pub metrics: Option<SocketAddr>,
    /// Path of the container engine's socket; without one, no agent runs on this node.
    pub engine: Option<PathBuf>,
    /// What the daemon gives up.
    pub sandbox: Mode,
    /// Log level.
    pub log: Level,
}

/// Which cipher suites a node is to use with its peers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SuiteWish {
    /// AES-256-GCM with peers that can, where this build and this CPU can.
    Auto,
    /// ChaCha20-Poly1305 with everyone.
    ChaCha20Poly1305,
}

/// MTU of the overlay's network device.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mtu {
    /// [`DEFAULT_MTU`], and more once a path carries jumbo frames.
    Auto,
    /// So many bytes.
    Fixed(u16),
}

/// How many lanes (a queue of the device, a socket, and two threads each) are to carry packets.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LanesWish {
    /// One for two processors, at least 1 and at most [`AUTO_LANES_MAX`].
    Auto,
    /// So many.
    Fixed(u8),
}

impl LanesWish {
    /// The number of lanes on a machine with so many processors.
    pub fn count(self, processors: usize) -> usize {
        match self {
            LanesWish::Auto => (processors / 2).clamp(1, AUTO_LANES_MAX),
            LanesWish::Fixed(count) => count.into(),
        }
    }
}

/// A subnet to announce.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Subnet {
    /// The prefix.
    pub prefix: IpNet,
    /// Its weight: the owner with the lowest one is used.
    pub weight: u16,
}

/// Log levels, quietest first.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Level {
    /// Something is lost.
    Error,
    /// An operator should look.
    Warn,
    /// What a quiet day looks like.
    Info,
    /// What each session and path does.
    Debug,
    /// Every datagram of the control plane.
    Trace,
}

impl Default for Config {
    fn default() -> Self {
        Config {
            state: None,
            interface: DEFAULT_INTERFACE.into(),
            mtu: Mtu::Auto,
            copy_tos: false,
            relay_limit: None,
            relay_capacity: None,
            offload: Wish::Auto,
            suite: SuiteWish::Auto,
            pq: PostQuantum::Prefer,
            lanes: LanesWish::Auto,
            listen: vec![(IpAddr::V6(Ipv6Addr::UNSPECIFIED), DEFAULT_PORT).into()],
            endpoints: Vec::new(),
            datacenter: None,
            relay: false,
            subnets: Vec::new(),
            lan_discovery: true,
            port_mapping: true,
            peers: BTreeMap::new(),
            hooks: hooked::Config::default(),
            streams: streams::Streams::default(),
            fwmark: DEFAULT_FWMARK,
            exit: false,
            exit_nat: true,
            exit_node: None,
            route_table: None,
            route_metric: netlink::DEFAULT_METRIC,
            rule_priority: netlink::DEFAULT_PRIORITY,
            rotate_every: Some(DEFAULT_ROTATE_EVERY_S),
            metrics: None,
            engine: None,
            sandbox: Mode::Normal,
            log: Level::Info,
        }
    }
}

impl Config {
    /// Reads the file at `path`.
    ///
    /// # Errors
    /// [`Error`]; [`Error::Invalid`] names all places.
    pub fn load(path: &Path) -> Result<Config, Error> {
        let text = std::fs::read_to_string(path)
            .map_err(|source| Error::Unreadable { path: path.to_owned(), source })?;
        Ok(Config::parse(path, &text)?)
    }

    /// Reads the file at `path`, or gives the defaults if there is none.
    ///
    /// # Errors
    /// As [`Config::load`].
    pub fn load_or_default(path: &Path) -> Result<Config, Error> {
        match Config::load(path) {
            Err(Error::Unreadable { source, .. }) if source.kind() == io::ErrorKind::NotFound => {
                Ok(Config::default())
            }
            other => other,
        }
    }

    /// Resolves the configuration in `text`; `path` is for messages only.
    ///
    /// # Errors
    /// All that is wrong with it.
    pub fn parse(path: &Path, text: &str) -> Result<Config, Invalid> {
        let raw = diagnose::read(path, text)?;
        let mut findings = Findings::new(text);
        let config = resolve::resolve(raw, &mut findings);
        findings.finish(path).map(|()| config)
    }

    /// The keys in which `self` differs from `new` and that take effect only at the next start.
    pub fn needs_restart(&self, new: &Config) -> Vec<&'static str> {
        let mut keys = Vec::new();
        let mut check = |same: bool, key| {
            if !same {
                keys.push(key)
            }
        };
        check(self.state == new.state, "state");
        check(self.interface == new.interface, "interface");
        check(self.mtu == new.mtu, "mtu");
        check(self.offload == new.offload, "offload");
        check(self.suite == new.suite, "suite");
        check(self.lanes == new.lanes, "lanes");
        check(self.listen == new.listen, "listen");
        for key in self.streams.changed(&new.streams) {
            check(false, key);
        }
        check(self.fwmark == new.fwmark, "fwmark");
        check(self.route_table == new.route_table, "route_table");
        check(self.route_metric == new.route_metric, "route_metric");
        check(self.rule_priority == new.rule_priority, "rule_priority");
        check(self.exit == new.exit, "exit");
        check(self.exit_nat == new.exit_nat, "exit_nat");
        check(self.hooks == new.hooks, "hooks");
        check(self.metrics == new.metrics, "metrics");
        check(self.engine == new.engine, "engine");
        check(self.sandbox == new.sandbox, "sandbox");
        keys
    }
}

impl SuiteWish {
    /// What the node's key epochs are to declare.
    pub fn capabilities(self) -> Capabilities {
        match self {
            SuiteWish::Auto => Suite::local_capabilities(),
            SuiteWish::ChaCha20Poly1305 => Capabilities(0),
        }
    }
}

impl Level {
    /// Every level, quietest first, with its name.
    pub const ALL: [(Level, &'static str); 5] = [
        (Level::Error, "error"),
        (Level::Warn, "warn"),
        (Level::Info, "info"),
        (Level::Debug, "debug"),
        (Level::Trace, "trace"),
    ];

    /// This level, `steps` more talkative.
    pub fn louder(self, steps: u8) -> Level {
        let at = (self as usize + usize::from(steps)).min(Level::ALL.len() - 1);
        Level::ALL[at].0
    }
}

impl From<Level> for tracing::level_filters::LevelFilter {
    fn from(level: Level) -> Self {
        match level {
            Level::Error => Self::ERROR,
            Level::Warn => Self::WARN,
            Level::Info => Self::INFO,
            Level::Debug => Self::DEBUG,
            Level::Trace => Self::TRACE,
        }
    }
}

/// Whether `text` can name a node, a mesh, or a datacentre: a DNS label in lower case.
pub fn is_name(text: &str) -> bool {
    (1..=63).contains(&text.len())
        && text.bytes().all(|byte| matches!(byte, b'a'..=b'z' | b'0'..=b'9' | b'-'))
        && !text.starts_with('-')
        && !text.ends_with('-')
}

/// Whether the kernel takes `name` for a network device.
pub fn is_interface_name(name: &str) -> bool {
    // IFNAMSIZ is 16 with the terminating zero; dev_valid_name() in net/core/dev.c has the other rules.
    (1..=15).contains(&name.len())
        && name != "."
        && name != ".."
        && name.chars().all(|c| c.is_ascii_graphic() && c != '/' && c != ':')
}

#[cfg(test)]
mod tests;
