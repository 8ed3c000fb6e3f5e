//! What the control plane publishes for the data plane: immutable, replaced as a whole.

use std::collections::HashMap;
use std::hash::{BuildHasherDefault, Hasher};
use std::net::{IpAddr, SocketAddr};
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};

use ipnet::IpNet;
use proto::arrivals::{Arrivals, KINDS, LENGTHS};
use proto::data;
use proto::id::{MemberId, ReceiverIndex, RelayLabel};
use proto::lane::LANES_MAX;

use super::{TAILROOM, packet, relay};
use crate::crypto::{Opener, Sealer};
use crate::lpm::mix;
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
    /// Peers whose relay was reported gone lately: they get once more what was sent to them.
    pub resend: Once,
    /// Peers whose path was found narrower than it had been: the senders of longer packets are told.
    pub narrowed: Once,
}

/// Peers for which something is to be done once, each with a number; numbers only grow, so that a sender knows what it has
/// done already.
#[derive(Clone, Default, Debug)]
pub struct Once {
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
    /// Other relays that are as good as the primary path's, which all carry a share of the flows.
    pub spread: Option<Box<Spread>>,
    /// The longest inner packet in bytes that the paths carry.
    pub mtu: u16,
    /// Its device takes partial checksums and super-packets: transport checksums are left to it.
    pub offload: bool,
    /// It answers on no path, though its keys are still good: what is sent to it may be lost, and its senders are told.
    pub silent: bool,
    /// Traffic counters.
    pub stats: Arc<PeerStats>,
}

impl PeerTx {
    /// Which way a flow takes: the place among the shares, or `None` for the primary path. As long as the ways are the same,
    /// so is the answer; and when one comes or goes, only flows to or from it move (rendezvous hashing).
    #[inline]
    pub fn way_of(&self, flow: impl FnOnce() -> u64) -> Option<usize> {
        let spread = self.spread.as_ref()?;
        let flow = flow();
        let rank = |salt: u64| mix(flow ^ salt);
        let best = spread.others.iter().enumerate().max_by_key(|(_, share)| rank(share.salt))?;
        (rank(best.1.salt) > rank(spread.salt)).then_some(best.0)
    }

    /// What carries the flows of a way.
    #[inline]
    pub fn carrier(&self, way: Option<usize>) -> &Carrier {
        self.share(way).map_or(&self.primary, |share| &share.carrier)
    }

    fn share(&self, way: Option<usize>) -> Option<&Share> {
        self.spread.as_ref()?.others.get(way?)
    }

    /// `count` packets were sent on a way, from the lane with this number: of `len` bytes each, the last one of `last_len`.
    pub(crate) fn sent(&self, way: Option<usize>, lane: usize, count: usize, len: usize, last_len: usize) {
        self.stats.sent_run(lane, count, len, last_len);
        if let Some(share) = self.share(way) {
            share.tally.add(lane, count, len, last_len);
        }
    }
}

/// The ways that share a peer's flows.
pub struct Spread {
    /// The primary path's.
    pub salt: u64,
    /// The other ones.
    pub others: Vec<Share>,
}

/// One of the ways that share a peer's flows.
pub struct Share {
    /// Decides which flows it gets: the same number for the same relay.
    pub salt: u64,
    /// The way.
    pub carrier: Carrier,
    /// What was sent on it.
    pub tally: Arc<Tally>,
}

/// What was sent on one of several ways, by all lanes together.
#[derive(Default, Debug)]
pub struct Tally {
    bytes: AtomicU64,
    packets: [AtomicU32; KINDS],
}

impl Tally {
    fn add(&self, lane: usize, count: usize, len: usize, last_len: usize) {
        self.bytes.fetch_add(((count - 1) * len + last_len) as u64, Ordering::Relaxed);
        let kind = |len| &self.packets[Arrivals::kind(lane, Arrivals::length(len))];
        if count > 1 {
            kind(len).fetch_add(count as u32 - 1, Ordering::Relaxed);
        }
        kind(last_len).fetch_add(1, Ordering::Relaxed);
    }

    /// Inner bytes, and packets by kind.
    pub fn read(&self) -> (u64, Arrivals) {
        let packets = self.packets.each_ref().map(|count| count.load(Ordering::Relaxed));
        (self.bytes.load(Ordering::Relaxed), Arrivals(packets))
    }
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
    /// Whether inner packets are taken in this session, and not only control frames.
    pub packets: bool,
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
    /// Member id to slot, ascending, for the long form: of those that have a next hop.
    pub members: Vec<(MemberId, MemberSlot)>,
    /// Next hop by destination slot. Those that are reached over the same neighbour alike share it.
    pub hops: Vec<Option<Arc<RelayHop>>>,
    /// What is carried for one neighbour that does not relay itself.
    pub limit: Option<RelayLimit>,
}

impl RelayTable {
    /// The slot of a member that has a next hop.
    pub fn slot_of(&self, member: &MemberId) -> Option<MemberSlot> {
        let at = self.members.binary_search_by_key(member, |(member, _)| *member).ok()?;
        Some(self.members[at].1)
    }

    /// The next hop towards the member in `slot`.
    pub fn hop(&self, slot: MemberSlot) -> Option<&RelayHop> {
        self.hops.get(slot.index())?.as_deref()
    }
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
    internet: bool,
}

impl LocalPrefixes {
    /// From overlay addresses and announced subnets.
    pub fn new(addresses: Vec<IpAddr>, subnets: Vec<IpNet>) -> LocalPrefixes {
        LocalPrefixes { addresses, subnets, internet: false }
    }

    /// The same of a node that takes packets of others to the internet, if `exits`: all of that is behind it, too.
    #[must_use]
    pub fn with_internet(self, exits: bool) -> LocalPrefixes {
        LocalPrefixes { internet: exits, ..self }
    }

    /// Whether `address` is one of the node's or in one of its subnets.
    pub fn contains(&self, address: IpAddr) -> bool {
        self.addresses.contains(&address)
            || self.subnets.iter().any(|subnet| subnet.contains(&address))
            || (self.internet && packet::is_internet(address))
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
    /// Packets, by length.
    packets: [AtomicU64; LENGTHS],
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
            tx_packets: sum.tx_packets + lane.out.packets.iter().map(read).sum::<u64>(),
            rx_bytes: sum.rx_bytes + read(&lane.received.bytes),
            rx_packets: sum.rx_packets + read(&lane.received.packets),
            relayed_packets: sum.relayed_packets + read(&lane.received.relayed_packets),
            relayed_bytes: sum.relayed_bytes + read(&lane.received.relayed_bytes),
        })
    }

    /// Packets sent so far, by kind.
    pub fn sent_by_kind(&self) -> Arrivals {
        let others = self.others.get().into_iter().flat_map(|others| others.iter());
        let mut sent = Arrivals::default();
        for (number, lane) in std::iter::once(&self.first).chain(others).enumerate() {
            // Modulo 2^32, as they are compared.
            let packets = lane.out.packets.each_ref().map(|count| count.load(Ordering::Relaxed) as u32);
            sent.add(number, &packets);
        }
        sent
    }

    /// `count` packets were sent on the lane with this number: of `len` bytes each, the last one of `last_len`.
    fn sent_run(&self, lane: usize, count: usize, len: usize, last_len: usize) {
        let sent = &self.lane(lane).out;
        sent.bytes.fetch_add(((count - 1) * len + last_len) as u64, Ordering::Relaxed);
        let (kind, last) = (Arrivals::length(len), Arrivals::length(last_len));
        let like_last = if kind == last { count } else { 1 };
        sent.packets[last].fetch_add(like_last as u64, Ordering::Relaxed);
        if count > like_last {
            sent.packets[kind].fetch_add((count - like_last) as u64, Ordering::Relaxed);
        }
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
            stats.sent_run(lane, 2, 60, 40);
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
        assert_eq!(stats.sent_by_kind().total(), 32);
    }

    #[test]
    fn what_is_sent_is_counted_by_lane_and_length_and_the_last_of_a_run_by_its_own() {
        let stats = PeerStats::default();
        stats.sent_run(1, 5, 1400, 90);
        stats.sent_run(1, 3, 1400, 1300);
        stats.sent_run(5, 1, 600, 600);
        let sent = stats.sent_by_kind();
        let of = |lane, len| sent.0[Arrivals::kind(lane, Arrivals::length(len))];
        assert_eq!((of(1, 1400), of(1, 90), of(5, 600), of(2, 600)), (7, 1, 1, 0));
        assert_eq!((sent.total(), stats.traffic().tx_packets), (9, 9));
        assert_eq!(stats.traffic().tx_bytes, 4 * 1400 + 90 + 2 * 1400 + 1300 + 600);
    }
}
