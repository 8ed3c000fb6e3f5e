//! The daemon's configuration: read raw (`raw`), judged once, and from then on only seen resolved ([`Config`]).

pub mod diagnose;
mod peers;
mod raw;
pub mod streams;
pub mod write;

use std::collections::BTreeMap;
use std::fmt;
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::str::FromStr;

use ipnet::IpNet;
use meshnet::crypto::Suite;
use meshnet::dataplane::RelayLimit;
use meshnet::io::tun::Wish;
use meshnet::node::PeerPolicy;
use proto::id::Name;
use proto::key_epoch::Capabilities;
use proto::lane::LANES_MAX;
use toml::Spanned;

use diagnose::{Findings, example, nearest};
pub use diagnose::{Invalid, Problem};
use raw::{Raw, RawMtu, RawSubnet};

use crate::output::units;
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
    /// Which paths may lead to a peer, by its name.
    pub peers: BTreeMap<Name, PeerPolicy>,
    /// TCP, for where UDP is blocked.
    pub streams: streams::Streams,
    /// Mark on the underlay's packets, so that they take no overlay route.
    pub fwmark: u32,
    /// Routing table for the overlay's routes; the main one if `None`.
    pub route_table: Option<u32>,
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

/// A host name or an address, with a port.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct HostPort {
    /// A DNS name, or an address without brackets.
    pub host: String,
    /// The UDP port.
    pub port: u16,
}

/// Why a text is no [`HostPort`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum HostPortError {
    /// There is no `:PORT`.
    #[error("the port is missing")]
    NoPort,
    /// The port is not 1 to 65535.
    #[error("the port is not a number from 1 to 65535")]
    Port,
    /// The host is neither an address nor a host name.
    #[error("the host is neither an address nor a host name")]
    Host,
}

impl Default for Config {
    fn default() -> Self {
        Config {
            state: None,
            interface: DEFAULT_INTERFACE.into(),
            mtu: Mtu::Auto,
            copy_tos: false,
            relay_limit: None,
            offload: Wish::Auto,
            suite: SuiteWish::Auto,
            lanes: LanesWish::Auto,
            listen: vec![(IpAddr::V6(Ipv6Addr::UNSPECIFIED), DEFAULT_PORT).into()],
            endpoints: Vec::new(),
            datacenter: None,
            relay: false,
            subnets: Vec::new(),
            peers: BTreeMap::new(),
            streams: streams::Streams::default(),
            fwmark: DEFAULT_FWMARK,
            route_table: None,
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
        let config = resolve(raw, &mut findings);
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

impl FromStr for HostPort {
    type Err = HostPortError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        if let Ok(socket) = text.parse::<SocketAddr>() {
            return match socket.port() {
                0 => Err(HostPortError::Port),
                port => Ok(HostPort { host: socket.ip().to_string(), port }),
            };
        }
        if text.parse::<Ipv6Addr>().is_ok() {
            return Err(HostPortError::NoPort);
        }
        let (host, port) = text.rsplit_once(':').ok_or(HostPortError::NoPort)?;
        let port = port.parse().ok().filter(|port| *port != 0).ok_or(HostPortError::Port)?;
        // Digits and dots alone are a mistyped address, never a host name.
        let numeric = host.chars().all(|c| c.is_ascii_digit() || c == '.');
        let label = |label: &str| {
            (1..=63).contains(&label.len())
                && label.chars().all(|c| c.is_ascii_alphanumeric() || c == '-' || c == '_')
                && !label.starts_with('-')
                && !label.ends_with('-')
        };
        let name = host.strip_suffix('.').unwrap_or(host);
        if numeric || name.len() > 253 || !name.split('.').all(label) {
            return Err(HostPortError::Host);
        }
        Ok(HostPort { host: host.to_owned(), port })
    }
}

impl HostPort {
    /// The endpoint, if the host is an address and needs no look-up.
    pub fn literal(&self) -> Option<SocketAddr> {
        self.host.parse::<IpAddr>().ok().map(|address| SocketAddr::new(address, self.port))
    }
}

impl fmt::Display for HostPort {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.host.contains(':') {
            write!(f, "[{}]:{}", self.host, self.port)
        } else {
            write!(f, "{}:{}", self.host, self.port)
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

fn resolve(mut raw: Raw, findings: &mut Findings<'_>) -> Config {
    let streams = streams::resolve(&mut raw, findings);
    let mut config = Config { state: raw.state.map(Spanned::into_inner), streams, ..Config::default() };
    if let Some(interface) = raw.interface {
        let (span, name) = (interface.span(), interface.into_inner());
        if !is_interface_name(&name) {
            let message = format!(
                "`{name}` is no name for a network device: 1 to 15 characters without spaces, `/` and `:`"
            );
            findings.add(span, message, example("interface"));
        }
        config.interface = name;
    }
    // Below 1280 there is no IPv6 (RFC 8200, section 5).
    match raw.mtu.map(|mtu| (mtu.span(), mtu.into_inner())) {
        None => {}
        Some((_, RawMtu::Word(word))) if word == "auto" => config.mtu = Mtu::Auto,
        Some((span, RawMtu::Word(word))) => {
            findings.add(span, format!("`{word}` is no choice for `mtu`"), example("mtu"));
        }
        Some((span, RawMtu::Bytes(bytes))) => {
            let set = |value| config.mtu = Mtu::Fixed(value as u16);
            integer("mtu", Some(Spanned::new(span, bytes)), 1280..=65_535, findings, set);
        }
    }
    integer("fwmark", raw.fwmark, 0..=i64::from(u32::MAX), findings, |value| config.fwmark = value as u32);
    integer("route_table", raw.route_table, 1..=i64::from(u32::MAX), findings, |value| {
        config.route_table = Some(value as u32);
    });
    if let Some(offload) = raw.offload {
        match offload.get_ref().as_str() {
            "auto" => config.offload = Wish::Auto,
            "off" => config.offload = Wish::Off,
            other => findings.add(
                offload.span(),
                format!("`{other}` is no choice for `offload`"),
                Some("write \"auto\" or \"off\"".into()),
            ),
        }
    }
    if let Some(suite) = raw.suite {
        match suite.get_ref().as_str() {
            "auto" => config.suite = SuiteWish::Auto,
            "chacha20poly1305" => config.suite = SuiteWish::ChaCha20Poly1305,
            other => findings.add(
                suite.span(),
                format!("`{other}` is no choice for `suite`"),
                Some("write \"auto\" or \"chacha20poly1305\"".into()),
            ),
        }
    }
    if let Some(every) = raw.rotate_every {
        match every.get_ref().as_str() {
            "off" => config.rotate_every = None,
            text => match units::parse_span(text) {
                Ok(span) if span >= SHORTEST_ROTATE_EVERY_S => config.rotate_every = Some(span),
                Ok(_) => findings.add(
                    every.span(),
                    format!("`rotate_every` is {text}, but must be 10m or more"),
                    example("rotate_every"),
                ),
                Err(_) => findings.add(
                    every.span(),
                    format!("`{text}` is no span of time"),
                    Some("write for example \"7d\" or \"12h\", or \"off\"".into()),
                ),
            },
        }
    }
    if let Some(lanes) = raw.lanes {
        match lanes.get_ref() {
            toml::Value::String(word) if word == "auto" => {}
            toml::Value::Integer(count) if (1..=i64::from(LANES_MAX)).contains(count) => {
                config.lanes = LanesWish::Fixed(*count as u8);
            }
            other => findings.add(
                lanes.span(),
                format!("{other} is no choice for `lanes`"),
                Some(format!("write \"auto\" or a number from 1 to {LANES_MAX}")),
            ),
        }
    }
    if let Some(listen) = raw.listen {
        config.listen = resolve_listen(listen, findings);
    }
    config.endpoints = resolve_endpoints(raw.endpoints.unwrap_or_default(), findings);
    if let Some(datacenter) = raw.datacenter {
        if is_name(datacenter.get_ref()) {
            config.datacenter = Some(datacenter.into_inner());
        } else {
            let message = format!("`{}` is no name: use 1 to 63 of a-z, 0-9 and `-`", datacenter.get_ref());
            findings.add(datacenter.span(), message, example("datacenter"));
        }
    }
    config.relay = raw.relay.is_some_and(Spanned::into_inner);
    if let Some(tos) = raw.tos {
        match tos.get_ref().as_str() {
            "copy" => config.copy_tos = true,
            "off" => config.copy_tos = false,
            other => findings.add(
                tos.span(),
                format!("`{other}` is no choice for `tos`"),
                Some("write \"copy\" or \"off\"".into()),
            ),
        }
    }
    if let Some(limit) = raw.relay_limit {
        match relay_limit(limit.get_ref()) {
            Ok(limit) => config.relay_limit = limit,
            Err(message) => findings.add(limit.span(), message, example("relay_limit")),
        }
    }
    config.subnets = resolve_subnets(raw.subnets.unwrap_or_default(), findings);
    if let Some(metrics) = raw.metrics {
        match metrics.get_ref().parse::<SocketAddr>() {
            Ok(address) if address.port() != 0 => config.metrics = Some(address),
            _ => {
                let message = format!("`{}` is no address with a port", metrics.get_ref());
                findings.add(metrics.span(), message, example("metrics"));
            }
        }
    }
    if let Some(engine) = raw.engine {
        let path = engine.get_ref().strip_prefix("unix://").unwrap_or(engine.get_ref());
        if path.starts_with('/') {
            config.engine = Some(path.into());
        } else {
            let message = format!("`{}` is no local socket", engine.get_ref());
            findings.add(engine.span(), message, example("engine"));
        }
    }
    config.peers = peers::resolve(raw.peer.unwrap_or_default(), findings);
    if let Some(sandbox) = raw.sandbox {
        match Mode::ALL.iter().find(|(_, name)| name == sandbox.get_ref()) {
            Some((mode, _)) => config.sandbox = *mode,
            None => findings.add(
                sandbox.span(),
                format!("`{}` is no choice for `sandbox`", sandbox.get_ref()),
                Some("write \"off\", \"normal\", or \"strict\"".into()),
            ),
        }
    }
    if let Some(log) = raw.log {
        match Level::ALL.iter().find(|(_, name)| name == log.get_ref()) {
            Some((level, _)) => config.log = *level,
            None => {
                let names = Level::ALL.map(|(_, name)| name);
                let instead = match nearest(log.get_ref(), names) {
                    Some(near) => format!("did you mean \"{near}\"?"),
                    None => format!("write one of {}", names.join(", ")),
                };
                findings.add(log.span(), format!("`{}` is no log level", log.get_ref()), Some(instead));
            }
        }
    }
    config
}

/// A rate in bits a second with a unit, or `off`. The burst is what the rate carries in a tenth of a second, but enough
/// for some segmented sends.
fn relay_limit(text: &str) -> Result<Option<RelayLimit>, String> {
    const BURST_MIN_BYTES: u64 = 256 * 1024;
    if text == "off" {
        return Ok(None);
    }
    let digits = text.len() - text.trim_start_matches(|c: char| c.is_ascii_digit()).len();
    let (number, unit) = text.split_at(digits);
    let factor = match unit.trim() {
        "kbit" => 1_000,
        "mbit" => 1_000_000,
        "gbit" => 1_000_000_000,
        _ => {
            return Err(format!(
                "`{text}` is no rate: use a number and `kbit`, `mbit`, or `gbit`, or \"off\""
            ));
        }
    };
    let bits =
        number.parse::<u64>().ok().and_then(|number| number.checked_mul(factor)).filter(|bits| *bits >= 8000);
    let Some(bits) = bits else {
        return Err(format!("`{text}` is no rate from 8kbit to 1000gbit and the like"));
    };
    let bytes_per_s = bits / 8;
    Ok(Some(RelayLimit { bytes_per_s, burst_bytes: (bytes_per_s / 10).max(BURST_MIN_BYTES) }))
}

fn resolve_listen(listen: Vec<Spanned<String>>, findings: &mut Findings<'_>) -> Vec<SocketAddr> {
    let mut resolved: Vec<SocketAddr> = Vec::new();
    if listen.is_empty() {
        findings.add(0..0, "`listen` is empty", example("listen"));
    }
    for item in &listen {
        match item.get_ref().parse::<SocketAddr>() {
            Ok(address) if resolved.contains(&address) => {
                findings.add(item.span(), format!("{address} is in `listen` twice"), None);
            }
            Ok(address) => resolved.push(address),
            Err(_) => {
                let message = format!("`{}` is not ADDRESS:PORT", item.get_ref());
                findings.add(item.span(), message, Some(listen_hint(item.get_ref())));
            }
        }
    }
    bounded("listen", &listen, MAX_LISTEN, findings);
    // `[::]` listens on IPv4 too, so that 0.0.0.0 beside it would find its port in use.
    let both: Vec<u16> = resolved
        .iter()
        .filter(|address| address.ip() == Ipv6Addr::UNSPECIFIED)
        .map(SocketAddr::port)
        .collect();
    resolved.retain(|address| address.ip() != Ipv4Addr::UNSPECIFIED || !both.contains(&address.port()));
    resolved
}

fn listen_hint(text: &str) -> String {
    if let Ok(address) = text.parse::<IpAddr>() {
        return format!("write \"{}\"", SocketAddr::new(address, DEFAULT_PORT));
    }
    match text.strip_prefix(':').unwrap_or(text).parse::<u16>() {
        Ok(port) => format!("write \"[::]:{port}\" for all addresses of the machine"),
        Err(_) => format!("write for example \"[::]:{DEFAULT_PORT}\""),
    }
}

fn resolve_endpoints(endpoints: Vec<Spanned<String>>, findings: &mut Findings<'_>) -> Vec<HostPort> {
    let mut resolved: Vec<HostPort> = Vec::new();
    for item in &endpoints {
        match item.get_ref().parse::<HostPort>() {
            Ok(endpoint) if resolved.contains(&endpoint) => {
                findings.add(item.span(), format!("{endpoint} is in `endpoints` twice"), None);
            }
            Ok(endpoint) => resolved.push(endpoint),
            Err(HostPortError::NoPort) => {
                let host = item.get_ref();
                let host = if host.parse::<Ipv6Addr>().is_ok() { format!("[{host}]") } else { host.clone() };
                let message = format!("`{}`: {}", item.get_ref(), HostPortError::NoPort);
                findings.add(item.span(), message, Some(format!("write \"{host}:{DEFAULT_PORT}\"")));
            }
            Err(error) => {
                findings.add(item.span(), format!("`{}`: {error}", item.get_ref()), example("endpoints"))
            }
        }
    }
    bounded("endpoints", &endpoints, MAX_ENDPOINTS, findings);
    resolved
}

fn resolve_subnets(subnets: Vec<RawSubnet>, findings: &mut Findings<'_>) -> Vec<Subnet> {
    let mut resolved: Vec<Subnet> = Vec::new();
    if let Some(over) = subnets.get(MAX_SUBNETS) {
        findings.add(over.prefix.span(), format!("`subnets` has more than {MAX_SUBNETS} items"), None);
    }
    for subnet in subnets {
        let mut weight = DEFAULT_WEIGHT;
        integer("weight", subnet.weight, 0..=i64::from(u16::MAX), findings, |value| weight = value as u16);
        match parse_prefix(subnet.prefix.get_ref()) {
            Ok(prefix) if resolved.iter().any(|other| other.prefix == prefix) => {
                findings.add(subnet.prefix.span(), format!("{prefix} is in `subnets` twice"), None);
            }
            Ok(prefix) => resolved.push(Subnet { prefix, weight }),
            Err(instead) => {
                let message = format!("`{}` is not a network prefix", subnet.prefix.get_ref());
                findings.add(subnet.prefix.span(), message, Some(instead));
            }
        }
    }
    resolved
}

/// Reads a prefix without host bits.
///
/// # Errors
/// What to write instead.
pub fn parse_prefix(text: &str) -> Result<IpNet, String> {
    match text.parse::<IpNet>() {
        Ok(net) if net.trunc() == net => Ok(net),
        Ok(net) => Err(format!("its host bits are set: write \"{}\"", net.trunc())),
        Err(_) => Err(match text.parse::<IpAddr>() {
            Ok(address) => format!("write \"{}\"", IpNet::from(address)),
            Err(_) => "write for example \"192.168.7.0/24\"".into(),
        }),
    }
}

fn integer(
    key: &str,
    value: Option<Spanned<i64>>,
    range: std::ops::RangeInclusive<i64>,
    findings: &mut Findings<'_>,
    set: impl FnOnce(i64),
) {
    let Some(value) = value else { return };
    let span: Range<usize> = value.span();
    let value = value.into_inner();
    if range.contains(&value) {
        set(value);
    } else {
        let message = format!("`{key}` is {value}, but must be from {} to {}", range.start(), range.end());
        findings.add(span, message, example(key));
    }
}

fn bounded(key: &str, items: &[Spanned<String>], most: usize, findings: &mut Findings<'_>) {
    if let Some(over) = items.get(most) {
        findings.add(over.span(), format!("`{key}` has more than {most} items"), None);
    }
}

#[cfg(test)]
mod tests;
