//! From the device to the socket: find the peer, seal, address.

mod cut;

use std::net::SocketAddr;
use std::ops::Range;
use std::sync::Arc;

use proto::data;
use proto::id::{Counter, RelayLabel};
use proto::lane::{Flows, Lane, QUEUES_MAX, Role};

use super::flow;
use super::fragment::Fragments;
use super::long::LongFlows;
use super::meta::{Checksum, Meta, Segmentation};
use super::packet::{self, Layout};
use super::recent::Recent;
use super::snapshot::{Carrier, MemberSlot, PeerTx, Snapshot};
use super::split::Split;
use super::{Drop, HEADROOM, TAILROOM, checksum, mss, relay};
use crate::crypto::{LaneSealer, Sealer};
use crate::path::SocketId;
use crate::time::Mono;

pub use cut::{BURST_MAX, Burst, Cut, super_packet_max_bytes};

/// A datagram ready to be sent: where it lies in the buffer and where it goes.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Outgoing {
    /// The socket that sends.
    pub socket: SocketId,
    /// The destination of the UDP datagram.
    pub to: SocketAddr,
    /// Its bytes in the buffer that was given.
    pub range: Range<usize>,
}

/// What became of a packet.
#[derive(Debug)]
pub enum TxVerdict {
    /// Send these.
    Send {
        /// On the chosen path.
        first: Outgoing,
        /// The same sealed datagram on a second path, while the first is in doubt. It lies in the same buffer: in the
        /// same place, or, if both paths are relayed, behind the first.
        second: Option<Outgoing>,
    },
    /// It is a super-packet, or a TCP segment that is too long for the path: seal its parts with [`Cut::seal`].
    Cut(Cut),
    /// It is too long for the path, but may be cut: each fragment is then a packet for [`Tx::process`].
    Fragment(Fragments),
    /// It is too long for the path, and its sender has to be told.
    TooBig {
        /// What the path carries, in bytes.
        mtu: u16,
    },
    /// The owner of the destination answers on no path, though there are keys. Nothing was done: the sender has to be told,
    /// and [`Tx::process_all_the_same`] sends it, for the owner may be back.
    Silent,
    /// There is no session with the owner of the destination yet: the control plane queues it and makes one.
    HandUp,
    /// Dropped.
    Drop(Drop),
}

/// Transforms packets of one device queue.
#[derive(Default)]
pub struct Tx {
    /// The lane for what is at hand.
    lane: Lane,
    /// What was told to the control plane of the traffic to a peer, by slot.
    told: Vec<Told>,
    active: Option<MemberSlot>,
    /// Of the last packet that was cut into IPv6 fragments.
    identification: u32,
    recent: Recent,
    /// The last of [`Snapshot::resend`] that was dealt with.
    resent: u64,
    long: LongFlows,
    /// The last of [`Snapshot::narrowed`] that was dealt with.
    narrowed: u64,
}

/// What was told of the traffic to one peer.
#[derive(Clone, Copy, Default)]
struct Told {
    at: Mono,
    /// It is told again after this.
    again_us: u64,
}

/// Traffic to a peer is told to the control plane when it begins, so soon after that, in microseconds, then in doubling
/// intervals: how much it is going to be shows at the beginning, and what is asked of its path depends on that.
const TELL_AGAIN_US: u64 = 25_000;
/// The longest of those intervals. Traffic begins anew after a pause of twice as long.
const TELL_EVERY_US: u64 = 250_000;

impl Tx {
    /// For the first device queue, or the only one.
    pub fn new() -> Tx {
        Tx::default()
    }

    /// For the device queue with this number.
    ///
    /// # Panics
    /// When the number is not below [`QUEUES_MAX`].
    pub fn for_queue(number: u8) -> Tx {
        assert!(number < QUEUES_MAX, "queue {number}");
        Tx { lane: Lane::of_queue(number, Flows::Sparse).unwrap_or_default(), ..Tx::default() }
    }

    /// Packets are of such flows from now on; at first they are of sparse ones. A flow's packets should stay on one lane.
    pub fn turn_to(&mut self, flows: Flows) {
        self.lane = Lane::of_queue(self.lane.queue(), flows).unwrap_or_default();
    }

    /// The lane of packets now.
    pub fn lane(&self) -> Lane {
        self.lane
    }

    /// Seals the packet in `buf[packet]`, about which the device said `meta`; or prepares to cut it.
    ///
    /// There must be [`HEADROOM`] bytes before and [`TAILROOM`] bytes after it, and as much again as all that is written
    /// to if it leaves through two relays. A packet that is handed up may still need [`complete`].
    pub fn process(
        &mut self,
        snapshot: &Snapshot,
        now: Mono,
        buf: &mut [u8],
        packet: Range<usize>,
        meta: &Meta,
    ) -> TxVerdict {
        self.transform(snapshot, now, buf, packet, meta, false)
    }

    /// As [`Tx::process`], after [`TxVerdict::Silent`], which it never gives.
    #[cold]
    pub fn process_all_the_same(
        &mut self,
        snapshot: &Snapshot,
        now: Mono,
        buf: &mut [u8],
        packet: Range<usize>,
        meta: &Meta,
    ) -> TxVerdict {
        self.transform(snapshot, now, buf, packet, meta, true)
    }

    #[inline]
    fn transform(
        &mut self,
        snapshot: &Snapshot,
        now: Mono,
        buf: &mut [u8],
        packet: Range<usize>,
        meta: &Meta,
        all_the_same: bool,
    ) -> TxVerdict {
        debug_assert!(packet.start >= HEADROOM && packet.end + TAILROOM <= buf.len());
        let Some(addresses) = packet::addresses(&buf[packet.clone()]) else {
            return TxVerdict::Drop(Drop::Malformed);
        };
        let destination = addresses.destination;
        if !packet::is_unicast(destination) || snapshot.local.is_own(destination) {
            return TxVerdict::Drop(Drop::NotUnicast);
        }
        if !snapshot.local.contains(addresses.source) {
            return TxVerdict::Drop(Drop::ForeignSource);
        }
        let flow = || flow::hash(&buf[packet.clone()]);
        let Some(slot) = snapshot.fib.lookup(&destination, flow) else {
            return TxVerdict::Drop(Drop::NoRoute);
        };
        let Some(peer) = snapshot.peer(slot) else {
            // What the device gets for a network of this node itself would come back for ever.
            let own = snapshot.local.contains(destination);
            return if own { TxVerdict::Drop(Drop::OwnNetwork) } else { TxVerdict::HandUp };
        };
        if peer.silent && !all_the_same {
            return TxVerdict::Silent;
        }
        self.note(slot, now);
        let way = peer.way_of(|| flow::hash(&buf[packet.clone()]));
        if meta.segmentation != Segmentation::None {
            return match Split::new(&buf[packet.clone()], meta) {
                Some(split) => {
                    let split = split.narrowed(peer.mtu.into());
                    let len = split.map_or(0, |split| split.segment_len());
                    self.long.note(slot, now, &buf[packet], len);
                    self.cut(peer, way, split)
                }
                None => TxVerdict::Drop(Drop::Malformed),
            };
        }
        self.long.note(slot, now, &buf[packet.clone()], packet.len());
        if packet.len() > usize::from(peer.mtu) {
            return self.too_long(peer, way, &mut buf[packet], meta);
        }
        if mss::is_syn(&buf[packet.clone()]) {
            mss::clamp(&mut buf[packet.clone()], peer.mtu, meta.checksum == Checksum::Complete);
        }
        let flags = if peer.offload && may_leave_checksum(&buf[packet.clone()], meta) {
            data::TrailerFlags::CSUM_PARTIAL
        } else if complete(&mut buf[packet.clone()], meta) {
            data::TrailerFlags::empty()
        } else {
            return TxVerdict::Drop(Drop::Malformed);
        };
        match seal_on(peer, way, self.lane, buf, packet.clone(), flags) {
            Some((first, second)) => {
                peer.sent(way, self.lane.number().into(), 1, packet.len(), packet.len());
                peer.stats.note_len(packet.len());
                if second.is_none() && matches!(peer.primary, Carrier::Relayed { .. }) {
                    let sealed = packet.start - data::HEADER_LEN..packet.end + TAILROOM;
                    self.recent.keep(slot, now, &buf[sealed]);
                }
                TxVerdict::Send { first, second }
            }
            None => TxVerdict::HandUp,
        }
    }

    /// A peer that traffic began to flow to, or still flows to; the control plane probes its paths. Ask after each
    /// packet: only the last one is remembered.
    pub fn poll_active(&mut self) -> Option<MemberSlot> {
        self.active.take()
    }

    /// Prepares to cut a packet; `None` is one that cannot be cut so that the path carries it.
    fn cut(&self, peer: &Arc<PeerTx>, way: Option<usize>, split: Option<Split>) -> TxVerdict {
        match split {
            Some(split) => {
                Cut::new(peer.clone(), way, self.lane, split).map_or(TxVerdict::HandUp, TxVerdict::Cut)
            }
            None => TxVerdict::TooBig { mtu: peer.mtu },
        }
    }

    /// A single packet that the path does not carry in one piece. TCP is cut into shorter segments, so that its sender
    /// need not be told and loses no time; others into fragments where the sender does not forbid it.
    #[cold]
    fn too_long(
        &mut self,
        peer: &Arc<PeerTx>,
        way: Option<usize>,
        packet: &mut [u8],
        meta: &Meta,
    ) -> TxVerdict {
        let mtu = usize::from(peer.mtu);
        if let Some(split) = Split::of_segment(packet, &meta.checksum, mtu) {
            return self.cut(peer, way, Some(split));
        }
        self.identification = self.identification.wrapping_add(1);
        match Fragments::new(packet, mtu, self.identification) {
            Some(fragments) if complete(packet, meta) => TxVerdict::Fragment(fragments),
            Some(_) => TxVerdict::Drop(Drop::Malformed),
            None => TxVerdict::TooBig { mtu: peer.mtu },
        }
    }

    /// What to send once more because the relay that had it is gone, over the path that replaces it; call it when there is
    /// a new snapshot. Each datagram is written to `buf` and given to `send`; how many there were.
    pub fn resend(
        &mut self,
        snapshot: &Snapshot,
        now: Mono,
        buf: &mut [u8],
        mut send: impl FnMut(&[u8], Outgoing),
    ) -> usize {
        let mut count = 0;
        for (number, slot) in snapshot.resend.peers.iter() {
            if *number <= self.resent {
                continue;
            }
            let Some(peer) = snapshot.peer(*slot) else { continue };
            let carrier = peer.duplicate.as_ref().unwrap_or(&peer.primary);
            for datagram in self.recent.of(*slot, now) {
                let sealed = HEADROOM..HEADROOM + datagram.len();
                let Some(place) = buf.get_mut(sealed.clone()) else { continue };
                place.copy_from_slice(datagram);
                if let Some(outgoing) = address(carrier, self.lane.role(), buf, sealed) {
                    send(buf, outgoing);
                    count += 1;
                }
            }
        }
        self.resent = snapshot.resend.number;
        count
    }

    /// Whether [`Tx::resend`] has something to do.
    pub fn has_resend(&self, snapshot: &Snapshot) -> bool {
        snapshot.resend.number > self.resent
    }

    /// Whether [`Tx::narrowed`] has something to do.
    pub fn has_narrowed(&self, snapshot: &Snapshot) -> bool {
        snapshot.narrowed.number > self.narrowed
    }

    /// Whose packets were too long for a path that got narrower, and are lost: the beginning of the last one of each flow, for
    /// [`icmp::write_about_head`](super::icmp::write_about_head), and what the path carries now.
    pub fn narrowed(&mut self, snapshot: &Snapshot, now: Mono, mut tell: impl FnMut(&[u8], u16)) {
        for (number, slot) in snapshot.narrowed.peers.iter() {
            if *number <= self.narrowed {
                continue;
            }
            let Some(peer) = snapshot.peer(*slot) else { continue };
            for head in self.long.longer(*slot, now, peer.mtu.into()) {
                tell(head, peer.mtu);
            }
        }
        self.narrowed = snapshot.narrowed.number;
    }

    fn note(&mut self, slot: MemberSlot, now: Mono) {
        if self.told.len() <= slot.index() {
            // Grows with the number of members, not with packets.
            self.told.resize(slot.index() + 1, Told::default());
        }
        let told = &mut self.told[slot.index()];
        let since_us = now.0.saturating_sub(told.at.0);
        if told.at.0 == 0 || since_us >= told.again_us {
            let begins = told.at.0 == 0 || since_us >= 2 * TELL_EVERY_US;
            let again_us = if begins { TELL_AGAIN_US } else { TELL_EVERY_US.min(2 * told.again_us) };
            *told = Told { at: now, again_us };
            self.active = Some(slot);
        }
    }
}

/// Whether the receiver can compute the checksum that `meta` says is missing: where it lies must follow from the packet
/// alone. So it does not in a packet inside of another.
fn may_leave_checksum(packet: &[u8], meta: &Meta) -> bool {
    let Checksum::Partial { start, offset } = meta.checksum else { return false };
    packet::checksummed(packet).is_some_and(|layout: Layout| {
        layout.network_len == usize::from(start) && layout.transport.checksum_at() == usize::from(offset)
    })
}

/// Computes the checksum that `meta` says is missing in a single packet. `false` if it would lie outside of it.
pub fn complete(packet: &mut [u8], meta: &Meta) -> bool {
    let Checksum::Partial { start, offset } = meta.checksum else { return true };
    let (start, offset) = (usize::from(start), usize::from(offset));
    let fits = start + offset + 2 <= packet.len();
    if fits {
        checksum::complete(&mut packet[start..], offset);
    }
    fits
}

/// Seals `buf[inner]` for `peer` on a queue's `lane` and addresses it for the primary path. `None` when a session on the way
/// is used up.
pub fn seal(
    peer: &PeerTx,
    lane: Lane,
    buf: &mut [u8],
    inner: Range<usize>,
    flags: data::TrailerFlags,
) -> Option<(Outgoing, Option<Outgoing>)> {
    seal_on(peer, None, lane, buf, inner, flags)
}

/// As [`seal`], on one of the ways that share the peer's flows ([`PeerTx::way_of`]).
#[inline]
fn seal_on(
    peer: &PeerTx,
    way: Option<usize>,
    lane: Lane,
    buf: &mut [u8],
    inner: Range<usize>,
    flags: data::TrailerFlags,
) -> Option<(Outgoing, Option<Outgoing>)> {
    let sealer = peer.sealer.lane(lane);
    let counter = sealer.reserve(1)?;
    let start = inner.start - data::HEADER_LEN;
    let end = inner.end + TAILROOM;
    header(sealer, counter).write(&mut buf[start..inner.start]);
    let trailer = data::Trailer { flags, index: 0 };
    trailer.write(&mut buf[inner.end..inner.end + data::TRAILER_LEN]);
    sealer.seal_in_place(counter, &mut buf[start..end]);
    let carrier = peer.carrier(way);
    let first = address(carrier, lane.role(), buf, start..end)?;
    let second = match (carrier, &peer.duplicate) {
        (_, None) => None,
        (Carrier::Relayed { .. }, Some(carrier @ Carrier::Relayed { .. })) => {
            address_copy(carrier, lane.role(), buf, start..end)
        }
        (_, Some(carrier)) => address(carrier, lane.role(), buf, start..end),
    };
    Some((first, second))
}

fn header(sealer: &LaneSealer, counter: Counter) -> data::Header {
    data::Header { lane: sealer.lane().to_wire(), receiver: sealer.remote_index(), counter }
}

/// Addresses a copy of `buf[sealed]` behind it. `None` when there is no room.
fn address_copy(carrier: &Carrier, role: Role, buf: &mut [u8], sealed: Range<usize>) -> Option<Outgoing> {
    let start = sealed.end + HEADROOM - data::HEADER_LEN;
    let copy = start..start + sealed.len();
    if copy.end > buf.len() {
        return None;
    }
    buf.copy_within(sealed, copy.start);
    address(carrier, role, buf, copy)
}

/// Puts what `carrier` needs before the sealed datagram in `buf[sealed]`, on behalf of `role`.
pub fn address(carrier: &Carrier, role: Role, buf: &mut [u8], sealed: Range<usize>) -> Option<Outgoing> {
    match carrier {
        Carrier::Direct { socket, to } => Some(Outgoing { socket: *socket, to: *to, range: sealed }),
        Carrier::Relayed { socket, to, hop, label, destination, source } => {
            let hop = relay::hop_lane(hop, role, &buf[sealed.clone()])?;
            let range = relay::wrap(buf, sealed, (hop, hop.reserve(1)?), *label, *destination, *source);
            Some(Outgoing { socket: *socket, to: *to, range })
        }
    }
}

/// Seals a run of control frames for `carrier` into a datagram of its own, on the control plane's lane. `None` when a session is used up.
pub fn seal_control(
    sealer: &Sealer,
    carrier: &Carrier,
    frames: &[u8],
) -> Option<(SocketId, SocketAddr, Vec<u8>)> {
    let mut buf = vec![0; HEADROOM + frames.len() + TAILROOM];
    let inner = HEADROOM..HEADROOM + frames.len();
    buf[inner.clone()].copy_from_slice(frames);
    let sealer = sealer.lane(Lane::CONTROL);
    let counter = sealer.reserve(1)?;
    let start = inner.start - data::HEADER_LEN;
    header(sealer, counter).write(&mut buf[start..inner.start]);
    let flags = if frames.is_empty() { data::TrailerFlags::empty() } else { data::TrailerFlags::CONTROL };
    data::Trailer { flags, index: 0 }.write(&mut buf[inner.end..inner.end + data::TRAILER_LEN]);
    let end = buf.len();
    sealer.seal_in_place(counter, &mut buf[start..end]);
    finish(carrier, buf, start..end)
}

/// Carries an unsealed datagram (a handshake) over `carrier`. `None` when the hop's session is used up.
pub fn carry(carrier: &Carrier, datagram: &[u8]) -> Option<(SocketId, SocketAddr, Vec<u8>)> {
    let mut buf = vec![0; HEADROOM + datagram.len()];
    let end = buf.len();
    buf[HEADROOM..].copy_from_slice(datagram);
    // The answer has to find its way back: handshakes always name both ends.
    match carrier {
        Carrier::Relayed { socket, to, hop, destination, source, .. } => {
            let hop = hop.lane(Lane::CONTROL);
            let hop = (hop, hop.reserve(1)?);
            let range = relay::wrap(&mut buf, HEADROOM..end, hop, RelayLabel::LONG, *destination, *source);
            buf.drain(..range.start);
            Some((*socket, *to, buf))
        }
        Carrier::Direct { .. } => finish(carrier, buf, HEADROOM..end),
    }
}

fn finish(
    carrier: &Carrier,
    mut buf: Vec<u8>,
    sealed: Range<usize>,
) -> Option<(SocketId, SocketAddr, Vec<u8>)> {
    let out = address(carrier, Role::Control, &mut buf, sealed)?;
    buf.truncate(out.range.end);
    buf.drain(..out.range.start);
    Some((out.socket, out.to, buf))
}
