//! A node's state as shown to people and scripts: plain values, no references into the core.

use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use ipnet::IpNet;
use proto::certificate::Roles;
use proto::id::{KeyEpochNumber, MemberId, Name};

use super::hybrid::Quantum;
use super::rotation::Phase;
use crate::crypto::Suite;
use crate::path::{Change, PathView};

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
    /// Its certificate and the grace after it are over: it is no member any more, until it joins anew.
    Expired,
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
    /// Why the path in use was chosen, how long ago, and in how long another that is better may take over at the earliest
    /// (while the one in use works).
    pub decision: Option<Decision>,
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
    /// Whether the session is post-quantum; `None` without a session.
    pub quantum: Option<Quantum>,
    /// Packets are withheld, because this node or the peer wants a post-quantum session for them.
    pub withheld: bool,
    /// The version that it runs.
    pub version: Option<String>,
    /// Prefixes that it announces, with their weights.
    pub subnets: Vec<(IpNet, u16)>,
}

/// The last decision about the path to a peer.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Decision {
    /// Why the path in use was chosen.
    pub reason: Change,
    /// How long ago.
    pub age: Duration,
    /// Time until the paths are looked at again, at the latest; `None` while nobody needs the peer.
    pub next_look: Option<Duration>,
}

/// The path in use.
#[derive(Clone, Debug)]
pub struct CurrentPath {
    /// The UDP endpoint that datagrams are sent to: the peer's, or the first relay's.
    pub remote: SocketAddr,
    /// Whether a TCP connection carries them there.
    pub by_stream: bool,
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

/// The node's transport keys, and what the others know of them.
#[derive(Clone, Debug)]
pub struct KeysView {
    /// How far a rotation is.
    pub phase: Phase,
    /// Time in this phase.
    pub since: Duration,
    /// The newest epoch, or the one that is being made.
    pub target: KeyEpochNumber,
    /// The epochs whose private keys this node has, oldest first.
    pub epochs: Vec<EpochView>,
    /// Replaced keys that are still recognised, to tell late members the newest.
    pub retired: usize,
    /// When the next scheduled rotation is due, in seconds since the Unix epoch.
    pub next_rotation_s: Option<u64>,
    /// Members that this phase waits for.
    pub waiting_for: Vec<MemberId>,
    /// Every other member, by name.
    pub peers: Vec<PeerKeys>,
}

/// One of the node's own key epochs.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct EpochView {
    /// Its number.
    pub number: KeyEpochNumber,
    /// When it was made, in seconds since the Unix epoch.
    pub created_s: u64,
    /// What it is used for.
    pub usage: EpochUse,
}

/// What a key epoch is used for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum EpochUse {
    /// Announced, and accepted.
    Next,
    /// Handshakes are made with it.
    Current,
    /// Replaced, and still accepted.
    Leaving,
}

/// What is known about keys between this node and another member.
#[derive(Clone, Debug)]
pub struct PeerKeys {
    /// Its member id.
    pub member: MemberId,
    /// Its name.
    pub name: Name,
    /// Whether it takes part now, as far as can be told from here.
    pub present: bool,
    /// The newest epoch of this node that it is known to know.
    pub confirmed: Option<KeyEpochNumber>,
    /// The epochs, ours and its, that the session was made with.
    pub session: Option<(KeyEpochNumber, KeyEpochNumber)>,
    /// Its own newest epoch.
    pub epoch: Option<KeyEpochNumber>,
    /// When that was made, in seconds since the Unix epoch.
    pub created_s: Option<u64>,
}

/// How far a plan is that all replace their keys.
#[derive(Clone, Debug)]
pub struct PlanView {
    /// The operator who made it.
    pub origin: MemberId,
    /// When it was made, in seconds since the Unix epoch.
    pub created_s: u64,
    /// Nobody is left to wait for.
    pub done: bool,
    /// Confirmations that each new key needs.
    pub needed: usize,
    /// Every member, by name.
    pub members: Vec<PlanMember>,
}

/// What a plan says of one member, and how far that is.
#[derive(Clone, Debug)]
pub struct PlanMember {
    /// Its member id.
    pub member: MemberId,
    /// Its name.
    pub name: Name,
    /// Whether it takes part in the mesh now.
    pub present: bool,
    /// How far it is.
    pub state: PlanState,
    /// Members that have confirmed its new key.
    pub confirmed: usize,
    /// Others wait for its confirmation.
    pub owes: bool,
}

/// How far a member is with a plan.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum PlanState {
    /// It has not begun.
    Waiting,
    /// Its new key is announced.
    Prepared,
    /// The new key is in use, and the old one gone.
    Done,
    /// The plan goes on without it.
    LeftOut,
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
    /// The configuration says something about the paths to or through a member that there is not.
    NoSuchMember(Name),
    /// Configured to relay, but the certificate lacks the role.
    NoRelayRole,
    /// Packets to and from a member are withheld: one of the two requires post-quantum sessions, the other has none.
    NotPostQuantum {
        /// The member.
        peer: Name,
        /// Whether it is this node that requires them, or the member.
        required_here: bool,
    },
    /// Configured to be an exit, but the certificate lacks the role.
    NoExitRole,
    /// The chosen exit is no member, or lacks the role, or does not offer it.
    NoSuchExit(Name),
    /// This node was revoked: it is no member any more.
    Revoked,
    /// No other member can be reached.
    Alone,
}
