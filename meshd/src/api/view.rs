//! What the daemon shows: the shapes of `meshd status --json` and its relatives. Names and units here are kept.

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};

use ipnet::IpNet;
use serde::{Deserialize, Serialize};

/// `meshd status --json`.
#[derive(Serialize, Deserialize, Debug, Clone, PartialEq)]
pub struct Status {
    /// This node.
    pub node: Node,
    /// The overlay's network device.
    pub interface: Interface,
    /// The threads that carry packets.
    #[serde(default)]
    pub lanes: Lanes,
    /// What the daemon has given up after its start.
    #[serde(default)]
    pub sandbox: Sandbox,
    /// Datagrams over TCP.
    #[serde(default)]
    pub tcp: Tcp,
    /// A port of the gateway that leads to this node.
    #[serde(default)]
    pub port_mapping: PortMapping,
    /// The way to the internet.
    #[serde(default)]
    pub exit: Exit,
    /// All other members, by name.
    pub peers: Vec<Peer>,
    /// What an operator should look at.
    pub warnings: Vec<String>,
    /// Datagrams and packets dropped since the start, by reason; reasons that never occurred are left out.
    #[serde(default)]
    pub drops: BTreeMap<String, u64>,
    /// What handshakes did since the start, by name; `dh_operations` are key agreements.
    #[serde(default)]
    pub handshakes: BTreeMap<String, u64>,
}

/// A port of the default gateway that leads to this node. All is absent where none is asked for: it is turned off, or this
/// machine has a public address.
#[derive(Serialize, Deserialize, Debug, Clone, PartialEq, Default)]
pub struct PortMapping {
    /// Who was asked.
    pub gateway: Option<IpAddr>,
    /// How: `PCP`, `NAT-PMP`, or `UPnP`.
    pub protocol: Option<String>,
    /// The gateway's address outside, and the port.
    pub endpoint: Option<SocketAddr>,
    /// What is wrong, if anything.
    pub note: String,
}

/// The way to the internet, and who offers one.
#[derive(Serialize, Deserialize, Debug, Clone, PartialEq, Default)]
pub struct Exit {
    /// Whether this node offers it to others.
    pub offered: bool,
    /// The member that this node has chosen.
    pub used: Option<String>,
    /// Whether that member offers it, and can be reached.
    pub reachable: bool,
    /// Members that offer it.
    pub offered_by: Vec<String>,
}

/// Datagrams over TCP, for where UDP is blocked.
#[derive(Serialize, Deserialize, Debug, Clone, PartialEq, Default)]
pub struct Tcp {
    /// Connections that there are, or that are being made.
    pub connections: usize,
    /// What was counted since the start: `dialed`, `dial_failed`, `accepted`, `refused` (connections), and `sent` and
    /// `received` (datagrams).
    pub counters: BTreeMap<String, u64>,
}

/// This node.
#[derive(Serialize, Deserialize, Debug, Clone, PartialEq)]
pub struct Node {
    /// Its name.
    pub name: String,
    /// Its member id, 32 hexadecimal digits.
    pub member_id: String,
    /// Its overlay addresses.
    pub addresses: Vec<IpAddr>,
    /// Its datacentre.
    pub datacenter: Option<String>,
    /// meshd's version.
    pub version: String,
    /// The mesh's name.
    pub mesh: String,
    /// The mesh's id, 32 hexadecimal digits.
    pub mesh_id: String,
    /// Whether it relays for others.
    pub relay: bool,
    /// Addresses that it listens on.
    pub listen: Vec<SocketAddr>,
    /// Endpoints that it announces.
    pub endpoints: Vec<SocketAddr>,
    /// Prefixes that it announces.
    pub subnets: Vec<IpNet>,
    /// Seconds since the daemon started.
    pub uptime_s: u64,
    /// End of its certificate, in seconds since the Unix epoch.
    pub certificate_expires_s: u64,
    /// Number of its transport key.
    pub key_epoch: u32,
}

/// The overlay's network device.
#[derive(Serialize, Deserialize, Debug, Clone, PartialEq)]
pub struct Interface {
    /// Its name.
    pub name: String,
    /// Its MTU, in bytes.
    pub mtu: u32,
    /// What the kernel takes over: `checksum`, `tcp`, and `udp` (super-packets) joined by `+`, or `none`.
    #[serde(default)]
    pub offload: String,
    /// Why it is that.
    #[serde(default)]
    pub offload_reason: String,
}

/// What the daemon has given up: `sandbox` in `meshd.toml`.
#[derive(Serialize, Deserialize, Debug, Clone, Default, PartialEq, Eq)]
pub struct Sandbox {
    /// `off`, `normal`, or `strict`.
    pub mode: String,
    /// Its parts: `core_dumps`, `no_new_privileges`, `memory_lock`, `capabilities`, `files`, `system_calls`.
    pub parts: Vec<SandboxPart>,
}

/// A part of the sandbox.
#[derive(Serialize, Deserialize, Debug, Clone, PartialEq, Eq)]
pub struct SandboxPart {
    /// Its name.
    pub name: String,
    /// Whether it is in force.
    pub in_force: bool,
    /// What it does; why not, if it is not in force.
    pub detail: String,
}

/// The data plane's lanes: each is a queue of the device, a socket of every listen address, and their threads.
#[derive(Serialize, Deserialize, Debug, Clone, Default, PartialEq)]
pub struct Lanes {
    /// How many there are.
    pub count: usize,
    /// Threads that receive: as many, or one.
    pub receivers: usize,
    /// Why so many.
    pub reason: String,
    /// What all of them have carried since the start.
    pub total: Carried,
    /// What each has carried.
    pub each: Vec<Carried>,
}

/// What was carried since the start.
#[derive(Serialize, Deserialize, Debug, Clone, Default, PartialEq)]
pub struct Carried {
    /// Counters by name: `tx_` from the device to the network, `rx_` from the network.
    #[serde(flatten)]
    pub counters: BTreeMap<String, u64>,
    /// Packets from the device for each batch; a super-packet is one.
    pub tx_batch_packets: f64,
    /// Datagrams for each batch received.
    pub rx_batch_datagrams: f64,
    /// The share of super-packets among packets from the device, 0 to 1.
    pub tx_super_share: f64,
    /// The share of super-packets among what was written to the device, 0 to 1.
    pub rx_super_share: f64,
}

/// Another member.
#[derive(Serialize, Deserialize, Debug, Clone, PartialEq)]
pub struct Peer {
    /// Its name.
    pub name: String,
    /// Its member id, 32 hexadecimal digits.
    pub member_id: String,
    /// Its overlay addresses.
    pub addresses: Vec<IpAddr>,
    /// Its datacentre.
    pub datacenter: Option<String>,
    /// Whether it relays for others.
    pub relay: bool,
    /// How things stand with it.
    pub state: PeerState,
    /// The path in use, if there is one.
    pub path: Option<Path>,
    /// Payload bytes received from it since the start.
    pub rx_bytes: u64,
    /// Payload bytes sent to it since the start.
    pub tx_bytes: u64,
    /// Seconds since the last handshake; absent if there was none.
    pub last_handshake_s: Option<u64>,
    /// Number of its transport key; absent if none is known.
    pub key_epoch: Option<u32>,
    /// Whether the session is post-quantum: `hybrid`, `pending` (a key exchange is under way), `off` (here), `unsupported`
    /// (there); absent without a session.
    #[serde(default)]
    pub post_quantum: Option<String>,
    /// Packets are withheld until the session is post-quantum, which this node or the peer requires.
    #[serde(default)]
    pub withheld: bool,
    /// The version of meshd that it runs, once it has told.
    pub version: Option<String>,
    /// Prefixes that it announces.
    pub subnets: Vec<IpNet>,
    /// What each path has carried, of those that carried something.
    #[serde(default)]
    pub paths: Vec<PathTraffic>,
}

/// What a path has carried since it is known.
#[derive(Serialize, Deserialize, Debug, Clone, PartialEq)]
pub struct PathTraffic {
    /// `direct`, `relay`, or `tcp`.
    pub kind: PathKind,
    /// The peer's endpoint, on a direct path.
    pub remote: Option<SocketAddr>,
    /// The first relay, by name.
    pub via: Vec<String>,
    /// Bytes of packets sent on it.
    pub tx_bytes: u64,
    /// Bytes of packets received on it; a quarter of a second late.
    pub rx_bytes: u64,
}

/// How things stand with a peer.
#[derive(Serialize, Deserialize, Debug, Clone, Copy, PartialEq, Eq)]
#[serde(rename_all = "lowercase")]
pub enum PeerState {
    /// There is a session and a path.
    Connected,
    /// A handshake is under way.
    Connecting,
    /// It can be reached, but nothing has been sent.
    Idle,
    /// No way leads to it now.
    Unreachable,
    /// Its certificate and the grace after it are over: it is no member any more.
    Expired,
}

impl PeerState {
    /// The word for it.
    pub fn word(self) -> &'static str {
        match self {
            PeerState::Connected => "connected",
            PeerState::Connecting => "connecting",
            PeerState::Idle => "idle",
            PeerState::Unreachable => "unreachable",
            PeerState::Expired => "expired",
        }
    }
}

/// A path to a peer.
#[derive(Serialize, Deserialize, Debug, Clone, PartialEq)]
pub struct Path {
    /// `direct`, `relay`, or `tcp`.
    pub kind: PathKind,
    /// Where datagrams are sent: the peer's endpoint, or the first relay's.
    pub remote: Option<SocketAddr>,
    /// The relays on the way, by name.
    pub via: Vec<String>,
    /// Smoothed round trip, in milliseconds; absent before the first measurement.
    pub rtt_ms: Option<f64>,
    /// Share of probes lost lately, 0 to 1.
    pub loss: f64,
    /// Largest overlay packet that fits, in bytes.
    pub mtu: u32,
    /// The cipher.
    pub suite: String,
}

/// Kinds of paths.
#[derive(Serialize, Deserialize, Debug, Clone, Copy, PartialEq, Eq)]
#[serde(rename_all = "lowercase")]
pub enum PathKind {
    /// UDP straight to the peer.
    Direct,
    /// UDP through relays.
    Relay,
    /// TCP.
    Tcp,
}

/// A prefix that the overlay leads to.
#[derive(Serialize, Deserialize, Debug, Clone, PartialEq)]
pub struct Route {
    /// The prefix.
    pub prefix: IpNet,
    /// Who announces it, the one in use first.
    pub owners: Vec<Owner>,
}

/// A member that announces a prefix.
#[derive(Serialize, Deserialize, Debug, Clone, PartialEq)]
pub struct Owner {
    /// Its name.
    pub name: String,
    /// Its weight for the prefix; the lowest reachable one is used.
    pub weight: u16,
    /// Whether a way leads to it.
    pub reachable: bool,
    /// Whether packets for the prefix go to it now.
    pub used: bool,
    /// Whether it is this node.
    pub own: bool,
}

/// `meshd why --json`: every way to a peer.
#[derive(Serialize, Deserialize, Debug, Clone, PartialEq)]
pub struct Why {
    /// The peer.
    pub peer: Peer,
    /// All paths, the one in use first.
    pub paths: Vec<Candidate>,
    /// The last decision about them; absent while none is in use.
    #[serde(default)]
    pub decision: Option<Decision>,
}

/// The last decision about the paths to a peer.
#[derive(Serialize, Deserialize, Debug, Clone, PartialEq)]
pub struct Decision {
    /// Why the path in use was chosen.
    pub reason: String,
    /// Seconds since then.
    pub since_s: f64,
    /// Milliseconds until the paths are looked at again; absent while nobody needs the peer.
    pub looked_at_again_ms: Option<f64>,
}

/// Something that happened to a peer: `meshd events --json`.
#[derive(Serialize, Deserialize, Debug, Clone, PartialEq)]
pub struct Happening {
    /// Counts from 1 at the start of the daemon.
    pub number: u64,
    /// When, in milliseconds since the Unix epoch.
    pub at_ms: u64,
    /// The peer's name.
    pub peer: String,
    /// What.
    pub kind: HappeningKind,
    /// The path that was in use before.
    pub from: Option<String>,
    /// The path in use now.
    pub to: Option<String>,
    /// Why it changed.
    pub reason: Option<String>,
}

/// What can happen to a peer.
#[derive(Serialize, Deserialize, Debug, Clone, Copy, PartialEq, Eq)]
#[serde(rename_all = "kebab-case")]
pub enum HappeningKind {
    /// A session was made.
    Connected,
    /// The last session ended.
    Disconnected,
    /// Its traffic takes another path.
    PathChanged,
}

/// The mesh as this node knows it: `meshd graph --json`.
#[derive(Serialize, Deserialize, Debug, Clone, PartialEq)]
pub struct Graph {
    /// This node's name.
    pub own: String,
    /// All members, by name.
    pub nodes: Vec<GraphNode>,
    /// Links that both ends announce.
    pub links: Vec<GraphLink>,
    /// The paths that this node's traffic takes.
    pub paths: Vec<GraphPath>,
}

/// A member in a [`Graph`].
#[derive(Serialize, Deserialize, Debug, Clone, PartialEq)]
pub struct GraphNode {
    /// Its name.
    pub name: String,
    /// Its datacentre.
    pub datacenter: Option<String>,
    /// Whether it relays.
    pub relay: bool,
    /// How things stand with it; absent for this node.
    pub state: Option<PeerState>,
}

/// A link in a [`Graph`].
#[derive(Serialize, Deserialize, Debug, Clone, PartialEq)]
pub struct GraphLink {
    /// One end.
    pub a: String,
    /// The other end.
    pub b: String,
    /// The round trip that the two announce, the longer one if they differ, in milliseconds.
    pub rtt_ms: f64,
}

/// A path of this node in a [`Graph`].
#[derive(Serialize, Deserialize, Debug, Clone, PartialEq)]
pub struct GraphPath {
    /// The peer.
    pub peer: String,
    /// `direct`, `relay`, or `tcp`.
    pub kind: PathKind,
    /// The relays on the way.
    pub via: Vec<String>,
    /// Smoothed round trip, in milliseconds.
    pub rtt_ms: Option<f64>,
}

/// One way to a peer, and what speaks for or against it.
#[derive(Serialize, Deserialize, Debug, Clone, PartialEq)]
pub struct Candidate {
    /// `direct`, `relay`, or `tcp`.
    pub kind: PathKind,
    /// Where datagrams are sent.
    pub remote: Option<SocketAddr>,
    /// The relays on the way, by name.
    pub via: Vec<String>,
    /// How it became known: `the peer was heard there`, `announced on the LAN`, ...
    #[serde(default)]
    pub source: String,
    /// Whether it is in use.
    pub used: bool,
    /// Smoothed round trip, in milliseconds.
    pub rtt_ms: Option<f64>,
    /// Its variation, in milliseconds.
    pub jitter_ms: Option<f64>,
    /// Share of probes lost lately, 0 to 1.
    pub loss: Option<f64>,
    /// The longest packet in bytes that it was found to carry.
    #[serde(default)]
    pub mtu: Option<u32>,
    /// What it counts as, in milliseconds; the lowest wins. Absent while it does not work.
    #[serde(default)]
    pub score_ms: Option<f64>,
    /// Milliseconds until it is measured again; absent if it is not to be used.
    #[serde(default)]
    pub measured_again_ms: Option<f64>,
    /// Bytes of packets sent on it, since it is known.
    #[serde(default)]
    pub tx_bytes: u64,
    /// Bytes of packets received on it; a quarter of a second late.
    #[serde(default)]
    pub rx_bytes: u64,
    /// Why it is in use, or why not.
    pub reason: String,
}
