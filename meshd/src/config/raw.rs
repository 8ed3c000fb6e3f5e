//! The configuration file as it is written, before anything in it is judged.

use std::path::PathBuf;

use serde::Deserialize;
use toml::Spanned;

/// `meshd.toml`. Every key may be left out.
#[derive(Deserialize, Debug, Default)]
#[serde(deny_unknown_fields)]
pub struct Raw {
    /// State directory.
    pub state: Option<Spanned<PathBuf>>,
    /// Name of the overlay's network device.
    pub interface: Option<Spanned<String>>,
    /// The device's MTU, in bytes, or a word.
    pub mtu: Option<Spanned<RawMtu>>,
    /// Whether to let the kernel carry packets in batches.
    pub offload: Option<Spanned<String>>,
    /// Which cipher suite to offer.
    pub suite: Option<Spanned<String>>,
    /// Whether sessions are post-quantum.
    pub pq: Option<Spanned<String>>,
    /// How many queues and threads carry packets: a number or a word.
    pub lanes: Option<Spanned<toml::Value>>,
    /// UDP addresses to listen on.
    pub listen: Option<Vec<Spanned<String>>>,
    /// TCP addresses to listen on.
    pub listen_tcp: Option<Vec<Spanned<String>>>,
    /// TCP addresses to listen on, with TLS.
    pub listen_tls: Option<Vec<Spanned<String>>>,
    /// The certificate shown there, in PEM.
    pub tls_certificate: Option<Spanned<PathBuf>>,
    /// Its key.
    pub tls_key: Option<Spanned<PathBuf>>,
    /// The name asked for in TLS.
    pub tls_name: Option<Spanned<String>>,
    /// Whether TCP is used where UDP does not get through.
    pub tcp: Option<Spanned<String>>,
    /// The proxy for TCP.
    pub proxy: Option<Spanned<Unprinted>>,
    /// File with the proxy's password.
    pub proxy_password_file: Option<Spanned<PathBuf>>,
    /// Endpoints at which the node can be reached from outside.
    pub endpoints: Option<Vec<Spanned<String>>>,
    /// The datacentre the node is in.
    pub datacenter: Option<Spanned<String>>,
    /// Whether the node relays for others.
    pub relay: Option<Spanned<bool>>,
    /// How much to relay for one neighbour.
    pub relay_limit: Option<Spanned<String>>,
    /// How much the node can relay in all.
    pub relay_capacity: Option<Spanned<String>>,
    /// Whether TOS or traffic class is copied outward.
    pub tos: Option<Spanned<String>>,
    /// Subnets behind the node.
    pub subnets: Option<Vec<RawSubnet>>,
    /// Whether to ask the gateway for a port.
    pub port_mapping: Option<Spanned<String>>,
    /// Whether to look for members on the LAN.
    pub lan_discovery: Option<Spanned<bool>>,
    /// Which paths may lead to a peer.
    pub peer: Option<Vec<RawPeer>>,
    /// Commands to run when something happens.
    pub hooks: Option<super::hooks::RawHooks>,
    /// Mark on the underlay's packets.
    pub fwmark: Option<Spanned<i64>>,
    /// Routing table for the overlay's routes.
    pub route_table: Option<Spanned<i64>>,
    /// Metric of the overlay's routes.
    pub route_metric: Option<Spanned<i64>>,
    /// Priority of the daemon's routing rules.
    pub rule_priority: Option<Spanned<i64>>,
    /// Whether the node is a way to the internet for others.
    pub exit: Option<Spanned<bool>>,
    /// Whether they are hidden behind its address.
    pub exit_nat: Option<Spanned<String>>,
    /// The member that is the way to the internet.
    pub exit_node: Option<Spanned<String>>,
    /// How often the transport key is replaced.
    pub rotate_every: Option<Spanned<String>>,
    /// Address at which scrapers are answered.
    pub metrics: Option<Spanned<String>>,
    /// Socket of the container engine that `meshd stack` may use here.
    pub engine: Option<Spanned<String>>,
    /// What the daemon gives up.
    pub sandbox: Option<Spanned<String>>,
    /// Log level.
    pub log: Option<Spanned<String>>,
}

/// A text that may have a password in it.
#[derive(Deserialize)]
#[serde(transparent)]
pub struct Unprinted(pub String);

impl std::fmt::Debug for Unprinted {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("(not printed)")
    }
}

/// A number or a word.
#[derive(Deserialize, Debug)]
#[serde(untagged)]
pub enum RawMtu {
    /// Bytes.
    Bytes(i64),
    /// `auto`.
    Word(String),
}

/// One `[[subnets]]`.
#[derive(Deserialize, Debug)]
#[serde(deny_unknown_fields)]
pub struct RawSubnet {
    /// The prefix.
    pub prefix: Spanned<String>,
    /// Its weight: the owner with the lowest one is used.
    pub weight: Option<Spanned<i64>>,
}

/// One `[[peer]]`.
#[derive(Deserialize, Debug)]
#[serde(deny_unknown_fields)]
pub struct RawPeer {
    /// The peer's name.
    pub name: Spanned<String>,
    /// Which kinds of paths may be used.
    pub path: Option<Spanned<String>>,
    /// The only relays that may be used.
    pub via: Option<Vec<Spanned<String>>>,
    /// Relays and networks that may not be used.
    pub forbid: Option<Vec<Spanned<String>>>,
}

/// An example line for each key, shown where a value is wrong.
pub(super) const EXAMPLES: &[(&str, &str)] = &[
    ("state", r#"state = "/var/lib/meshd""#),
    ("interface", r#"interface = "mesh0""#),
    ("mtu", "mtu = 1354"),
    ("offload", r#"offload = "auto""#),
    ("suite", r#"suite = "auto""#),
    ("pq", r#"pq = "prefer""#),
    ("lanes", r#"lanes = "auto""#),
    ("listen", r#"listen = ["[::]:4655"]"#),
    ("listen_tcp", r#"listen_tcp = ["[::]:4655"]"#),
    ("listen_tls", r#"listen_tls = ["[::]:443"]"#),
    ("tls_certificate", r#"tls_certificate = "/etc/ssl/site.pem""#),
    ("tls_key", r#"tls_key = "/etc/ssl/site.key""#),
    ("tls_name", r#"tls_name = "www.example.org""#),
    ("tcp", r#"tcp = "auto""#),
    ("proxy", r#"proxy = "socks5://user@proxy.example.org:1080""#),
    ("proxy_password_file", r#"proxy_password_file = "/etc/meshd/proxy-password""#),
    ("endpoints", r#"endpoints = ["vpn.example.org:4655"]"#),
    ("datacenter", r#"datacenter = "ams""#),
    ("relay", "relay = true"),
    ("relay_limit", r#"relay_limit = "100mbit""#),
    ("relay_capacity", r#"relay_capacity = "1gbit""#),
    ("tos", r#"tos = "copy""#),
    ("subnets", r#"subnets = [{ prefix = "192.168.7.0/24", weight = 100 }]"#),
    ("prefix", r#"prefix = "192.168.7.0/24""#),
    ("weight", "weight = 100"),
    ("port_mapping", r#"port_mapping = "off""#),
    ("lan_discovery", "lan_discovery = false"),
    ("peer", r#"peer = [{ name = "nas", path = "relay", via = ["gw1"], forbid = ["10.8.0.0/16"] }]"#),
    ("name", r#"name = "nas""#),
    ("path", r#"path = "direct""#),
    ("via", r#"via = ["gw1", "gw2"]"#),
    ("forbid", r#"forbid = ["gw3", "10.8.0.0/16"]"#),
    ("hooks", r#"hooks = { node_up = "logger mesh: $NODE is up", timeout = "10s" }"#),
    ("up", r#"up = "/etc/meshd/up.sh""#),
    ("down", r#"down = "/etc/meshd/down.sh""#),
    ("node_up", r#"node_up = "logger $NODE is up""#),
    ("node_down", r#"node_down = "logger $NODE is gone""#),
    ("subnet_up", r#"subnet_up = ["/etc/meshd/subnet", "up"]"#),
    ("subnet_down", r#"subnet_down = ["/etc/meshd/subnet", "down"]"#),
    ("path_change", r#"path_change = "logger $NODE by $MESHD_PATH""#),
    ("tinc", r#"tinc = "/etc/tinc/home""#),
    ("timeout", r#"timeout = "10s""#),
    ("fwmark", "fwmark = 0x6d65"),
    ("route_table", "route_table = 254"),
    ("route_metric", "route_metric = 3000"),
    ("rule_priority", "rule_priority = 5200"),
    ("exit", "exit = true"),
    ("exit_nat", r#"exit_nat = "auto""#),
    ("exit_node", r#"exit_node = "gw1""#),
    ("rotate_every", r#"rotate_every = "7d""#),
    ("metrics", r#"metrics = "127.0.0.1:9655""#),
    ("engine", r#"engine = "unix:///var/run/docker.sock""#),
    ("sandbox", r#"sandbox = "normal""#),
    ("log", r#"log = "info""#),
];
