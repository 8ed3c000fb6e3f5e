//! A node's state as shown to people and scripts: plain values, no references into the core.

use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use ipnet::IpNet;
use proto::certificate::Roles;
use proto::id::{KeyEpochNumber, MemberId, Name};

use crate::crypto::Suite;
use crate::path::PathView;

/// The whole node.
#[derive(Clone, Debug)]
pub struct NodeView {
    /// This node's member id.
    pub member: MemberId,
    /// Its name.
    pub name: Name,
    /// The mesh's name.
    pub mesh: Name,
    /// Its overlay addresses.
    pub addresses: Vec<IpAddr>,
    /// Its datacentre.
    pub datacenter: Option<Name>,
    /// Its roles.
    pub roles: Roles,
    /// Whether it relays now.
    pub relays: bool,
    /// Endpoints that it announces.
    pub candidates: Vec<SocketAddr>,
    /// Prefixes that it announces, with their weights.
    pub subnets: Vec<(IpNet, u16)>,
    /// The epoch of its transport key.
    pub key_epoch: KeyEpochNumber,
    /// When its certificate ends, in seconds since the Unix epoch.
    pub certificate_ends_s: u64,
    /// Every other member.
    pub peers: Vec<PeerView>,
    /// What an operator should look at.
    pub warnings: Vec<Warning>,
}

/// How a member can be reached now.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum PeerState {
    /// Traffic goes straight to it.
    Direct,
    /// Traffic goes through a relay.
    Relayed,
    /// A handshake is under way.
    Connecting,
    /// No session; one is made when a packet wants to go there.
    Idle,
    /// No session, and nothing known that leads there.
    Unreachable,
}

/// One member as seen from this node.
#[derive(Clone, Debug)]
pub struct PeerView {
    /// Its member id.
    pub member: MemberId,
    /// Its name.
    pub name: Name,
    /// Its overlay addresses.
    pub addresses: Vec<IpAddr>,
    /// Its datacentre.
    pub datacenter: Option<Name>,
    /// Whether it relays.
    pub relays: bool,
    /// How it can be reached.
    pub state: PeerState,
    /// Every path, with measurements.
    pub paths: Vec<PathView>,
    /// The path in use.
    pub path: Option<CurrentPath>,
    /// Inner bytes received from it.
    pub rx_bytes: u64,
    /// Inner bytes sent to it.
    pub tx_bytes: u64,
    /// Time since the last handshake.
    pub last_handshake: Option<Duration>,
    /// The epoch of its transport key.
    pub key_epoch: Option<KeyEpochNumber>,
    /// The version that it runs.
    pub version: Option<String>,
    /// Prefixes that it announces, with their weights.
    pub subnets: Vec<(IpNet, u16)>,
}

/// The path in use.
#[derive(Clone, Debug)]
pub struct CurrentPath {
    /// The UDP endpoint that datagrams are sent to: the peer's, or the first relay's.
    pub remote: SocketAddr,
    /// Names of the relays on the way that are known.
    pub via: Vec<Name>,
    /// Smoothed round-trip time.
    pub rtt: Duration,
    /// Share of probes lost.
    pub loss: f32,
    /// Inner MTU.
    pub mtu: u16,
    /// Cipher of the session.
    pub suite: Suite,
}

/// Where a prefix leads.
#[derive(Clone, Debug)]
pub struct RouteView {
    /// The prefix.
    pub prefix: IpNet,
    /// Who owns it.
    pub owner: Name,
    /// Its weight; lower wins.
    pub weight: u16,
    /// Whether packets take this route now (else another owner is better, or this one cannot be reached).
    pub chosen: bool,
    /// Whether the owner can be reached.
    pub reachable: bool,
    /// This node owns it.
    pub own: bool,
}

/// Something that an operator should look at.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Warning {
    /// Two members claim the same name or address; the loser's is ignored.
    Clash {
        /// Who goes without.
        loser: Name,
        /// Who keeps it.
        holder: Name,
        /// The address; `None` when it is the name.
        over: Option<IpAddr>,
    },
    /// The own certificate ends soon or has ended.
    CertificateEnds {
        /// Seconds left; negative when it has ended.
        seconds_left: i64,
    },
    /// A subnet is configured that the certificate does not allow to announce.
    SubnetNotCertified(IpNet),
    /// Configured to relay, but the certificate lacks the role.
    NoRelayRole,
    /// No other member can be reached.
    Alone,
}
