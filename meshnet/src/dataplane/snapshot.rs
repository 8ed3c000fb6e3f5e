//! What the control plane publishes for the data plane: immutable, replaced as a whole.

use std::collections::HashMap;
use std::hash::{BuildHasherDefault, Hasher};
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use ipnet::IpNet;
use proto::data;
use proto::id::{MemberId, ReceiverIndex, RelayLabel};

use super::{TAILROOM, relay};
use crate::crypto::{Opener, Sealer};
use crate::membership::SourceTable;
use crate::path::SocketId;
use crate::path::mtu::LARGE;
use crate::route::Fib;

/// A member's dense number on this node, valid for the life of the daemon.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct MemberSlot(pub u32);

impl MemberSlot {
    /// As an index into a vector.
    pub fn index(self) -> usize {
        self.0 as usize
    }
}

/// Everything that the data plane reads.
#[derive(Default)]
pub struct Snapshot {
    /// Grows with each snapshot; windows of sessions that are gone are dropped when it changes.
    pub generation: u64,
    /// This node.
    pub own: MemberId,
    /// Destination to owner.
    pub fib: Arc<Fib<MemberSlot>>,
    /// How to reach a member, by slot; `None` when there is no session with it.
    pub peers: Vec<Option<Arc<PeerTx>>>,
    /// Who may receive under which index.
    pub receivers: Receivers,
    /// Who may use which inner source address.
    pub sources: Arc<SourceTable<MemberSlot>>,
    /// This node's own addresses and subnets.
    pub local: LocalPrefixes,
    /// Present when this node relays.
    pub relay: Option<RelayTable>,
    /// Whether TOS or traffic class of inner packets is copied outward.
    pub copy_tos: bool,
    /// Peers whose relay was reported gone lately.
    pub resend: Resend,
}

/// Peers to send once more what was sent to them lately, each with a number; numbers only grow, so that a sender knows
/// what it has done already.
#[derive(Clone, Default, Debug)]
pub struct Resend {
    /// The highest number so far; 0 before the first one.
    pub number: u64,
    /// The peers, by number, oldest first.
    pub peers: Arc<[(u64, MemberSlot)]>,
}

impl Snapshot {
    /// How to reach the member in `slot`.
    pub fn peer(&self, slot: MemberSlot) -> Option<&Arc<PeerTx>> {
        self.peers.get(slot.index())?.as_ref()
    }
}

/// Sessions by our receiver index.
pub type Receivers = HashMap<ReceiverIndex, Receiver, BuildHasherDefault<IndexHasher>>;

/// Receiver indices are random already: they are their own hash.
#[derive(Default, Clone, Copy)]
pub struct IndexHasher(u64);

impl Hasher for IndexHasher {
    fn finish(&self) -> u64 {
        // hashbrown takes the top seven bits as a tag, so both halves must carry entropy.
        self.0 | (self.0 << 32)
    }

    fn write(&mut self, bytes: &[u8]) {
        for byte in bytes {
            self.0 = (self.0 << 8) | u64::from(*byte);
        }
    }

    fn write_u32(&mut self, value: u32) {
        self.0 = u64::from(value);
    }
}

/// The way out to one peer.
pub struct PeerTx {
    /// The member.
    pub member: MemberId,
    /// Seals to it.
    pub sealer: Arc<Sealer>,
    /// The chosen path.
    pub primary: Carrier,
    /// A second path that gets everything too, while the first is in doubt.
    pub duplicate: Option<Carrier>,
    /// The longest inner packet in bytes that the paths carry.
    pub mtu: u16,
    /// Its device takes partial checksums and super-packets: transport checksums are left to it.
    pub offload: bool,
    /// Traffic counters.
    pub stats: Arc<PeerStats>,
}

/// How a sealed datagram gets to a peer.
#[derive(Clone)]
pub enum Carrier {
    /// In a UDP datagram to the peer.
    Direct {
        /// The socket that sends.
        socket: SocketId,
        /// The peer's endpoint.
        to: SocketAddr,
    },
    /// Behind a relay header.
    Relayed {
        /// The socket that sends.
        socket: SocketId,
        /// The relay's endpoint.
        to: SocketAddr,
        /// The session with the relay, which authenticates the headers.
        hop: Arc<Sealer>,
        /// The relay's label for the peer; [`RelayLabel::LONG`] until it told one.
        label: RelayLabel,
        /// The peer.
        destination: MemberId,
        /// This node.
        source: MemberId,
    },
}

impl Carrier {
    /// Bytes that it and the sealing add to an inner packet, without IP and UDP headers.
    pub fn overhead(&self) -> u16 {
        let prefix = match self {
            Carrier::Direct { .. } => 0,
            Carrier::Relayed { label, .. } => relay::prefix_len(*label),
        };
        (prefix + data::HEADER_LEN + TAILROOM) as u16
    }
}

/// One session as the receiver sees it.
#[derive(Clone)]
pub struct Receiver {
    /// Who sends under this index.
    pub slot: MemberSlot,
    /// Its member id.
    pub member: MemberId,
    /// Whether its certificate lets it relay for others.
    pub is_relay: bool,
    /// Opens what it sealed.
    pub opener: Arc<Opener>,
    /// Traffic counters.
    pub stats: Arc<PeerStats>,
}

/// What a relay needs to forward.
#[derive(Clone, Default)]
pub struct RelayTable {
    /// Destination by label; slot 0 and 1 of the label space are never members.
    pub labels: Vec<Option<MemberSlot>>,
    /// Member id to slot, for the long form.
    pub members: HashMap<MemberId, MemberSlot>,
    /// Next hop by destination slot.
    pub hops: Vec<Option<RelayHop>>,
    /// What is carried for one neighbour that does not relay itself.
    pub limit: Option<RelayLimit>,
}

/// How much a relay carries for one neighbour: a token bucket over bytes.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct RelayLimit {
    /// In the long run, in bytes a second.
    pub bytes_per_s: u64,
    /// At once, in bytes.
    pub burst_bytes: u64,
}

/// The next hop towards a destination.
#[derive(Clone)]
pub struct RelayHop {
    /// The neighbour: the destination itself or another relay.
    pub neighbour: MemberSlot,
    /// The socket that sends.
    pub socket: SocketId,
    /// The neighbour's endpoint.
    pub to: SocketAddr,
    /// The session with the neighbour.
    pub sealer: Arc<Sealer>,
    /// The neighbour's label for the destination: [`RelayLabel::SELF`] when it is the destination,
    /// [`RelayLabel::LONG`] when it has not told one.
    pub label: RelayLabel,
}

/// This node's own addresses and announced subnets.
#[derive(Clone, Default, Debug)]
pub struct LocalPrefixes {
    addresses: Vec<IpAddr>,
    subnets: Vec<IpNet>,
}

impl LocalPrefixes {
    /// From overlay addresses and announced subnets.
    pub fn new(addresses: Vec<IpAddr>, subnets: Vec<IpNet>) -> LocalPrefixes {
        LocalPrefixes { addresses, subnets }
    }

    /// Whether `address` is one of the node's or in one of its subnets.
    pub fn contains(&self, address: IpAddr) -> bool {
        self.addresses.contains(&address) || self.subnets.iter().any(|subnet| subnet.contains(&address))
    }

    /// Whether `address` is one of the node's own.
    pub fn is_own(&self, address: IpAddr) -> bool {
        self.addresses.contains(&address)
    }
}

/// Traffic of one peer, counted by the data plane and read by the control plane.
#[derive(Default, Debug)]
pub struct PeerStats {
    /// Inner bytes sent.
    pub tx_bytes: AtomicU64,
    /// Inner packets sent.
    pub tx_packets: AtomicU64,
    /// Inner bytes received.
    pub rx_bytes: AtomicU64,
    /// Inner packets received.
    pub rx_packets: AtomicU64,
    /// Datagrams forwarded for this peer as the previous hop.
    pub relayed_packets: AtomicU64,
    /// Bytes of them.
    pub relayed_bytes: AtomicU64,
    /// Packets that are long enough to meet a limit of the path were sent since this was reset.
    pub large: AtomicBool,
}

impl PeerStats {
    pub(super) fn sent(&self, packets: usize, len: usize) {
        self.tx_bytes.fetch_add(len as u64, Ordering::Relaxed);
        self.tx_packets.fetch_add(packets as u64, Ordering::Relaxed);
    }

    /// Packets of `len` bytes each went out.
    pub(super) fn note_len(&self, len: usize) {
        if len > LARGE && !self.large.load(Ordering::Relaxed) {
            self.large.store(true, Ordering::Relaxed);
        }
    }

    pub(super) fn received(&self, len: usize) {
        self.rx_bytes.fetch_add(len as u64, Ordering::Relaxed);
        self.rx_packets.fetch_add(1, Ordering::Relaxed);
    }

    pub(super) fn relayed(&self, len: usize) {
        self.relayed_bytes.fetch_add(len as u64, Ordering::Relaxed);
        self.relayed_packets.fetch_add(1, Ordering::Relaxed);
    }
}
