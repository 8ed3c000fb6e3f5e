//! What the control plane publishes for the data plane: immutable, replaced as a whole.

use std::collections::HashMap;
use std::hash::{BuildHasherDefault, Hasher};
use std::net::{IpAddr, SocketAddr};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};

use ipnet::IpNet;
use proto::data;
use proto::id::{MemberId, ReceiverIndex, RelayLabel};
use proto::lane::LANES_MAX;

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
    /// It answers on no path, though its keys are still good: what is sent to it may be lost, and its senders are told.
    pub silent: bool,
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

/// Traffic of one peer, counted by the data plane and read by the control plane. Each lane counts for itself.
#[derive(Default, Debug)]
pub struct PeerStats {
    first: LaneStats,
    others: OnceLock<Box<[LaneStats; LANES_MAX as usize - 1]>>,
    /// Packets that are long enough to meet a limit of the path were sent since this was reset.
    pub large: AtomicBool,
}

/// The sums of a peer's counters.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub struct Traffic {
    /// Inner bytes sent.
    pub tx_bytes: u64,
    /// Inner packets sent.
    pub tx_packets: u64,
    /// Inner bytes received.
    pub rx_bytes: u64,
    /// Inner packets received.
    pub rx_packets: u64,
    /// Datagrams forwarded for this peer as the previous hop.
    pub relayed_packets: u64,
    /// Bytes of them.
    pub relayed_bytes: u64,
}

/// Two threads write it, each its own part.
#[derive(Default, Debug)]
struct LaneStats {
    out: Sent,
    received: Received,
}

#[derive(Default, Debug)]
#[repr(align(64))]
struct Sent {
    bytes: AtomicU64,
    packets: AtomicU64,
}

#[derive(Default, Debug)]
#[repr(align(64))]
struct Received {
    bytes: AtomicU64,
    packets: AtomicU64,
    relayed_packets: AtomicU64,
    relayed_bytes: AtomicU64,
}

impl PeerStats {
    /// What was counted so far.
    pub fn traffic(&self) -> Traffic {
        let read = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        let others = self.others.get().into_iter().flat_map(|others| others.iter());
        std::iter::once(&self.first).chain(others).fold(Traffic::default(), |sum, lane| Traffic {
            tx_bytes: sum.tx_bytes + read(&lane.out.bytes),
            tx_packets: sum.tx_packets + read(&lane.out.packets),
            rx_bytes: sum.rx_bytes + read(&lane.received.bytes),
            rx_packets: sum.rx_packets + read(&lane.received.packets),
            relayed_packets: sum.relayed_packets + read(&lane.received.relayed_packets),
            relayed_bytes: sum.relayed_bytes + read(&lane.received.relayed_bytes),
        })
    }

    /// Packets of `len` bytes together were sent on the lane with this number.
    pub(crate) fn sent(&self, lane: usize, packets: usize, len: usize) {
        let sent = &self.lane(lane).out;
        sent.bytes.fetch_add(len as u64, Ordering::Relaxed);
        sent.packets.fetch_add(packets as u64, Ordering::Relaxed);
    }

    /// Packets of `len` bytes each went out.
    pub(super) fn note_len(&self, len: usize) {
        if len > LARGE && !self.large.load(Ordering::Relaxed) {
            self.large.store(true, Ordering::Relaxed);
        }
    }

    pub(super) fn received(&self, lane: usize, len: usize) {
        let received = &self.lane(lane).received;
        received.bytes.fetch_add(len as u64, Ordering::Relaxed);
        received.packets.fetch_add(1, Ordering::Relaxed);
    }

    pub(super) fn relayed(&self, lane: usize, len: usize) {
        let received = &self.lane(lane).received;
        received.relayed_bytes.fetch_add(len as u64, Ordering::Relaxed);
        received.relayed_packets.fetch_add(1, Ordering::Relaxed);
    }

    fn lane(&self, number: usize) -> &LaneStats {
        match number.checked_sub(1) {
            None => &self.first,
            Some(at) => &self.others.get_or_init(Box::default)[at % (usize::from(LANES_MAX) - 1)],
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_all_lanes_counted_is_summed_up() {
        let stats = PeerStats::default();
        for lane in 0..usize::from(LANES_MAX) {
            stats.sent(lane, 2, 100);
            stats.received(lane, 10);
            stats.relayed(lane, 1000);
        }
        let expected = Traffic {
            tx_bytes: 1600,
            tx_packets: 32,
            rx_bytes: 160,
            rx_packets: 16,
            relayed_packets: 16,
            relayed_bytes: 16_000,
        };
        assert_eq!(stats.traffic(), expected);
    }
}
