//! From the socket to the device: authenticate, open, check, deliver — or pass on.

use std::collections::hash_map::Entry;
use std::collections::{HashMap, VecDeque};
use std::hash::{BuildHasherDefault, Hash, Hasher};
use std::net::SocketAddr;
use std::ops::Range;
use std::time::Duration;

use proto::arrivals::{Arrivals, LENGTHS};
use proto::data;
use proto::datagram::Kind;
use proto::id::{Counter, MemberId, ReceiverIndex, RelayLabel};
use proto::lane::{self, Lane, Role};
use proto::relay as wire;

use super::budget::Budgets;
use super::fair::{RELAY_WEIGHT, Shares};
use super::merge::Segment;
use super::packet::{self, Addresses};
use super::snapshot::{IndexHasher, MemberSlot, Receiver, Snapshot};
use super::{Drop, mss, relay};
use crate::crypto::{LaneOpener, Opener, ReplayWindow};
use crate::path::SocketId;
use crate::time::Mono;

/// How a datagram came.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Via {
    /// In a UDP datagram from the peer.
    Direct {
        /// The socket that received it.
        socket: SocketId,
        /// The UDP source.
        from: SocketAddr,
    },
    /// Through a relay.
    Relayed {
        /// The last hop.
        relay: MemberSlot,
        /// Who sent it, when the relay header says so (as handshakes do). The relay vouches for it, nothing more.
        source: Option<MemberId>,
    },
}

impl Via {
    /// The same way, whether or not the header named the source.
    fn same_way(&self, other: &Via) -> bool {
        match (self, other) {
            (Via::Relayed { relay: a, .. }, Via::Relayed { relay: b, .. }) => a == b,
            (a, b) => a == b,
        }
    }
}

/// What became of a datagram. Ranges are in the buffer that was given.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Verdict {
    /// An inner packet for the device.
    Deliver {
        /// The packet.
        packet: Range<usize>,
        /// Who sent it.
        from: MemberSlot,
        /// Whether it is part of something longer, and what is left to compute: for [`super::Run::push`].
        segment: Segment,
    },
    /// Control frames for the control plane.
    Control {
        /// The session.
        receiver: ReceiverIndex,
        /// How it came.
        via: Via,
        /// The frames.
        frames: Range<usize>,
    },
    /// A handshake or join datagram for the control plane, unauthenticated.
    HandUp {
        /// How it came.
        via: Via,
        /// The datagram.
        datagram: Range<usize>,
    },
    /// Send this on to the next hop.
    Forward {
        /// The socket that sends.
        socket: SocketId,
        /// The next hop.
        to: SocketAddr,
        /// The datagram, its relay header rewritten.
        datagram: Range<usize>,
    },
    /// An authenticated datagram without content: it only shows that the peer lives.
    Keepalive,
    /// It belongs to the [`Rx`] with this number.
    Elsewhere(usize),
    /// Dropped.
    Drop(Drop),
}

/// Something the control plane should know; drained with [`Rx::poll_notice`].
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Notice {
    /// Authenticated data arrived on this session this way: told for the first datagram and then a few times a second
    /// while it goes on.
    Heard {
        /// The session.
        receiver: ReceiverIndex,
        /// How it came.
        via: Via,
        /// Whether it was an inner packet, not just control or keepalive.
        traffic: bool,
        /// Bytes of inner packets that came this way since it was last told.
        bytes: u64,
        /// The number of their lane.
        lane: u8,
        /// How many packets, by length ([`Arrivals::length`]).
        packets: [u32; LENGTHS],
    },
    /// Something is being relayed: told now and then while it goes on.
    Relaying {
        /// Since it was last told, there was more to forward than can be.
        pressed: bool,
    },
    /// A neighbour used the long relay header for a destination that has a label.
    WantsLabel {
        /// The neighbour.
        neighbour: MemberSlot,
        /// The destination.
        destination: MemberId,
    },
    /// A neighbour asked to relay to a destination that cannot be served.
    CannotRelay {
        /// The neighbour.
        neighbour: MemberSlot,
        /// The label that it used.
        label: RelayLabel,
        /// The destination, where the header named it.
        destination: Option<MemberId>,
    },
}

/// The same thing is told at most this often, in microseconds.
const TELL_EVERY_US: u64 = 250_000;
/// That something is relayed is told at most this often.
const RELAYING_EVERY: Duration = Duration::from_millis(500);
/// Most notices waiting to be drained; more are not remembered (each is repeated while its cause lasts).
const MAX_NOTICES: usize = 64;
/// Ways of one session that are remembered, to tell new ones.
const MAX_WAYS: usize = 4;

/// Transforms datagrams of some queues' lanes: all those whose queue's number gives its own, modulo the number of such transforms.
///
/// It owns the replay windows of these lanes, so datagrams from all sockets have to come to the same one.
pub struct Rx {
    number: usize,
    of: usize,
    generation: u64,
    sessions: Sessions,
    notices: VecDeque<Notice>,
    relay_told: Mono,
    /// When it was last told that something is relayed, and whether it has been too much since.
    relaying: (Mono, bool),
    budgets: Budgets,
    shares: Shares,
    /// What was admitted last under this snapshot: the next packet is mostly of the same flow.
    admitted: Option<(MemberSlot, Addresses)>,
}

/// What is kept for each lane of a session that something authentic came on.
type Sessions = HashMap<SessionLane, Box<Inbound>, BuildHasherDefault<IndexHasher>>;

/// One lane of a session.
#[derive(Clone, Copy, PartialEq, Eq)]
struct SessionLane {
    receiver: ReceiverIndex,
    lane: Lane,
}

impl Hash for SessionLane {
    fn hash<H: Hasher>(&self, state: &mut H) {
        // The index is random: it is enough that the lanes of one session differ.
        state.write_u32(self.receiver.0 ^ u32::from(self.lane.to_wire()).wrapping_mul(0x9E37_79B1));
    }
}

struct Inbound {
    opener: LaneOpener,
    window: ReplayWindow,
    ways: Vec<Way>,
}

/// A way that a lane's datagrams came.
struct Way {
    via: Via,
    told: Mono,
    /// Inner packets since then.
    came: Came,
}

/// Inner packets that came.
#[derive(Clone, Copy, Default)]
struct Came {
    bytes: u64,
    packets: [u32; LENGTHS],
}

impl Rx {
    /// For all lanes.
    pub fn new() -> Rx {
        Rx::for_lanes(0, 1)
    }

    /// For the lanes of queues with this number, modulo `of`.
    ///
    /// # Panics
    /// When `number` is not below `of`.
    pub fn for_lanes(number: usize, of: usize) -> Rx {
        assert!(number < of, "transform {number} of {of}");
        Rx {
            number,
            of,
            generation: 0,
            sessions: Sessions::default(),
            notices: VecDeque::new(),
            relay_told: Mono(0),
            relaying: (Mono(0), false),
            budgets: Budgets::default(),
            shares: Shares::default(),
            admitted: None,
        }
    }

    /// Opens the datagram in `buf[datagram]` in place. [`Verdict::Elsewhere`] leaves it as it is.
    pub fn process(
        &mut self,
        snapshot: &Snapshot,
        now: Mono,
        socket: SocketId,
        from: SocketAddr,
        buf: &mut [u8],
        datagram: Range<usize>,
    ) -> Verdict {
        if self.generation != snapshot.generation {
            self.generation = snapshot.generation;
            self.admitted = None;
            self.sessions.retain(|session, _| snapshot.receivers.contains_key(&session.receiver));
        }
        if self.of > 1 {
            let belongs_to = usize::from(lane::queue_of(&buf[datagram.clone()])) % self.of;
            if belongs_to != self.number {
                return Verdict::Elsewhere(belongs_to);
            }
        }
        let via = Via::Direct { socket, from };
        match Kind::of(&buf[datagram.clone()]) {
            Some(Kind::Data) => self.open(snapshot, now, via, buf, datagram),
            Some(Kind::Relay) => self.relayed(snapshot, now, buf, datagram),
            Some(Kind::Init | Kind::Response | Kind::Cookie | Kind::StaleKey | Kind::Join) => {
                Verdict::HandUp { via, datagram }
            }
            None => Verdict::Drop(Drop::UnknownDatagram),
        }
    }

    /// What is to be forwarded does not find room, or more arrives than can be dealt with: until that is over, nobody gets
    /// more than his share forwarded.
    pub fn press(&mut self, now: Mono) {
        self.shares.press(now);
        self.relaying.1 = true;
    }

    /// The next notice.
    pub fn poll_notice(&mut self) -> Option<Notice> {
        self.notices.pop_front()
    }

    fn open(
        &mut self,
        snapshot: &Snapshot,
        now: Mono,
        via: Via,
        buf: &mut [u8],
        datagram: Range<usize>,
    ) -> Verdict {
        let bytes = &mut buf[datagram.clone()];
        let Ok(header) = data::Header::parse(bytes) else { return Verdict::Drop(Drop::UnknownDatagram) };
        let Some(receiver) = snapshot.receivers.get(&header.receiver) else {
            return Verdict::Drop(Drop::UnknownReceiver);
        };
        let Some(lane) = receiver.opener.data_lane(header.lane) else {
            return Verdict::Drop(Drop::UnknownLane);
        };
        let place = SessionLane { receiver: header.receiver, lane };
        let opens = |opener: &LaneOpener| opener.open_in_place(bytes).is_ok();
        let session = match authenticate(&mut self.sessions, place, &receiver.opener, header.counter, opens) {
            Ok(session) => session,
            Err(reason) => return Verdict::Drop(reason),
        };
        let plaintext = datagram.start + data::HEADER_LEN..datagram.end - data::TAG_LEN;
        let Some((inner, trailer)) = data::Trailer::split(&buf[plaintext.clone()]) else {
            return Verdict::Drop(Drop::Malformed);
        };
        let content = plaintext.start..plaintext.start + inner.len();
        let control = trailer.flags.contains(data::TrailerFlags::CONTROL);
        let traffic = !control && !content.is_empty();
        if let Some(Came { bytes, packets }) = session.news(now, via, traffic.then_some(content.len())) {
            let (receiver, lane) = (header.receiver, lane.number());
            self.tell(Notice::Heard { receiver, via, traffic, bytes, lane, packets });
        }
        if control {
            return Verdict::Control { receiver: header.receiver, via, frames: content };
        }
        if !traffic {
            return Verdict::Keepalive;
        }
        if !receiver.packets {
            return Verdict::Drop(Drop::NotPostQuantum);
        }
        let packet = &buf[content.clone()];
        if let Err(reason) = self.admit(snapshot, receiver.slot, packet) {
            return Verdict::Drop(reason);
        }
        if !trailer.flags.contains(data::TrailerFlags::GSO_SEG)
            && mss::is_syn(packet)
            && let Some(peer) = snapshot.peer(receiver.slot)
        {
            // What our side sends on this connection takes the way back.
            let complete = !trailer.flags.contains(data::TrailerFlags::CSUM_PARTIAL);
            mss::clamp(&mut buf[content.clone()], peer.mtu, complete);
        }
        let packet = &buf[content.clone()];
        let partial = match trailer.flags.contains(data::TrailerFlags::CSUM_PARTIAL) {
            true => match packet::checksummed(packet) {
                Some(layout) => Some(layout),
                None => return Verdict::Drop(Drop::Malformed),
            },
            false => None,
        };
        receiver.stats.received(self.number, content.len());
        let segment = Segment { receiver: header.receiver, lane, counter: header.counter, trailer, partial };
        Verdict::Deliver { packet: content, from: receiver.slot, segment }
    }

    /// The checks on an inner packet: well-formed, from an address of the sender's certificate, to an address or subnet
    /// of this node (a member is no router for the mesh unless it announces the prefix).
    fn admit(&mut self, snapshot: &Snapshot, from: MemberSlot, packet: &[u8]) -> Result<(), Drop> {
        let addresses = packet::addresses(packet).ok_or(Drop::Malformed)?;
        if self.admitted == Some((from, addresses)) {
            return Ok(());
        }
        if !snapshot.sources.accepts(&addresses.source, from) {
            return Err(Drop::SourceNotCertified);
        }
        if !snapshot.local.contains(addresses.destination) {
            return Err(Drop::NotForUs);
        }
        self.admitted = Some((from, addresses));
        Ok(())
    }

    fn relayed(&mut self, snapshot: &Snapshot, now: Mono, buf: &mut [u8], datagram: Range<usize>) -> Verdict {
        let bytes = &buf[datagram.clone()];
        let Ok(header) = wire::Header::parse(bytes) else { return Verdict::Drop(Drop::UnknownDatagram) };
        let Some(hop) = snapshot.receivers.get(&header.receiver) else {
            return Verdict::Drop(Drop::UnknownReceiver);
        };
        let Some(lane) = hop.opener.hop_lane(header.role, lane::number_of(bytes)) else {
            return Verdict::Drop(Drop::UnknownLane);
        };
        let destination = header.ids.map(|(destination, _)| destination);
        let is_for_us = header.label == RelayLabel::SELF || destination == Some(snapshot.own);
        if !is_for_us && self.shares.refuses(hop.slot, now) {
            return Verdict::Drop(Drop::RelayShare);
        }
        let place = SessionLane { receiver: header.receiver, lane };
        let verifies = |opener: &LaneOpener| relay::verify(bytes, header.len(), header.counter, opener);
        if let Err(reason) = authenticate(&mut self.sessions, place, &hop.opener, header.counter, verifies) {
            return Verdict::Drop(reason);
        }
        let inner = datagram.start + header.len() + wire::HOP_TAG_LEN..datagram.end;
        if is_for_us {
            if !hop.is_relay {
                return Verdict::Drop(Drop::RelaySourceForged);
            }
            let via = Via::Relayed { relay: hop.slot, source: header.ids.map(|(_, source)| source) };
            return match Kind::of(&buf[inner.clone()]) {
                Some(Kind::Data) => self.open(snapshot, now, via, buf, inner),
                Some(Kind::Init | Kind::Response | Kind::Cookie | Kind::StaleKey) => {
                    Verdict::HandUp { via, datagram: inner }
                }
                Some(Kind::Relay | Kind::Join) | None => Verdict::Drop(Drop::UnknownDatagram),
            };
        }
        self.forward(snapshot, now, hop, &header, buf, datagram)
    }

    fn forward(
        &mut self,
        snapshot: &Snapshot,
        now: Mono,
        previous: &Receiver,
        header: &wire::Header,
        buf: &mut [u8],
        datagram: Range<usize>,
    ) -> Verdict {
        let Some(table) = &snapshot.relay else { return Verdict::Drop(Drop::NotARelay) };
        if header.ttl <= 1 {
            return Verdict::Drop(Drop::RelayLoop);
        }
        if let Some((_, source)) = header.ids
            && source != previous.member
            && !previous.is_relay
        {
            return Verdict::Drop(Drop::RelaySourceForged);
        }
        let slot = match header.ids {
            Some((destination, _)) => table.slot_of(&destination),
            None => table.labels.get(usize::from(header.label.0)).copied().flatten(),
        };
        let hop = slot.and_then(|slot| table.hop(slot));
        // A short header cannot grow into a long one: without the next relay's label the sender has to name both ends.
        let Some(hop) = hop.filter(|hop| header.ids.is_some() || hop.label != RelayLabel::LONG) else {
            if self.may_tell_of_relaying(now) {
                let destination = header.ids.map(|(destination, _)| destination);
                self.tell(Notice::CannotRelay { neighbour: previous.slot, label: header.label, destination });
            }
            return Verdict::Drop(Drop::RelayNoRoute);
        };
        if hop.neighbour == previous.slot {
            return Verdict::Drop(Drop::RelayLoop);
        }
        let inner = datagram.start + header.len() + wire::HOP_TAG_LEN..datagram.end;
        let Some(sealer) = relay::hop_lane(&hop.sealer, Role::Forward, &buf[inner.clone()]) else {
            return Verdict::Drop(Drop::UnknownLane);
        };
        // What comes from another relay was counted there, by whom it came from.
        if let Some(limit) = table.limit.filter(|_| !previous.is_relay)
            && !self.budgets.spend(previous.slot, &limit, now, datagram.len())
        {
            return Verdict::Drop(Drop::RelayLimited);
        }
        let Some(counter) = sealer.reserve(1) else { return Verdict::Drop(Drop::RelayNoRoute) };
        let label = if header.ids.is_some() { RelayLabel::LONG } else { hop.label };
        let next = relay::next_header(header, (sealer, counter), label);
        relay::stamp(&mut buf[datagram.clone()], &next, sealer);
        previous.stats.relayed(self.number, datagram.len());
        if now.since(self.relaying.0) >= RELAYING_EVERY {
            let (_, pressed) = std::mem::replace(&mut self.relaying, (now, false));
            self.tell(Notice::Relaying { pressed });
        }
        let weight = if previous.is_relay { RELAY_WEIGHT } else { 1 };
        self.shares.forwarded(previous.slot, weight, now, datagram.len());
        if let Some((destination, _)) = header.ids {
            let is_data = Kind::of(&buf[inner]) == Some(Kind::Data);
            if is_data && hop.label != RelayLabel::LONG && self.may_tell_of_relaying(now) {
                self.tell(Notice::WantsLabel { neighbour: previous.slot, destination });
            }
        }
        Verdict::Forward { socket: hop.socket, to: hop.to, datagram }
    }

    fn may_tell_of_relaying(&mut self, now: Mono) -> bool {
        let due = self.relay_told.0 == 0 || now.0.saturating_sub(self.relay_told.0) >= TELL_EVERY_US / 25;
        if due {
            self.relay_told = now;
        }
        due
    }

    fn tell(&mut self, notice: Notice) {
        if self.notices.len() < MAX_NOTICES {
            self.notices.push_back(notice);
        }
    }
}

/// Lets a datagram through once, if `opens` says that it is authentic. Nothing is kept for one that is not, so that
/// strangers cannot make us keep lanes.
fn authenticate<'a>(
    sessions: &'a mut Sessions,
    place: SessionLane,
    openers: &Opener,
    counter: Counter,
    opens: impl FnOnce(&LaneOpener) -> bool,
) -> Result<&'a mut Inbound, Drop> {
    let session = match sessions.entry(place) {
        Entry::Occupied(known) => {
            let session = known.into_mut();
            if !session.window.check(counter.0) {
                return Err(Drop::Replayed);
            }
            if !opens(&session.opener) {
                return Err(Drop::NotAuthentic);
            }
            session
        }
        Entry::Vacant(unknown) => {
            let opener = openers.lane(place.lane);
            if !opens(&opener) {
                return Err(Drop::NotAuthentic);
            }
            unknown.insert(Box::new(Inbound::new(opener)))
        }
    };
    if session.window.accept(counter.0) { Ok(session) } else { Err(Drop::Replayed) }
}

impl Default for Rx {
    fn default() -> Rx {
        Rx::new()
    }
}

impl Inbound {
    fn new(opener: LaneOpener) -> Inbound {
        Inbound { opener, window: ReplayWindow::new(), ways: Vec::with_capacity(MAX_WAYS) }
    }

    /// Notes that something came this way: an inner packet of so many bytes, or something else. What came since the control
    /// plane was told last, if it should be told now.
    fn news(&mut self, now: Mono, via: Via, packet: Option<usize>) -> Option<Came> {
        if let Some(way) = self.ways.iter_mut().find(|way| way.via.same_way(&via)) {
            way.came.count(packet);
            let due = now.0.saturating_sub(way.told.0) >= TELL_EVERY_US;
            return due.then(|| {
                way.told = now;
                std::mem::take(&mut way.came)
            });
        }
        if self.ways.len() >= MAX_WAYS {
            let oldest = (0..self.ways.len()).min_by_key(|at| self.ways[*at].told).unwrap_or(0);
            self.ways.swap_remove(oldest);
        }
        self.ways.push(Way { via, told: now, came: Came::default() });
        let mut came = Came::default();
        came.count(packet);
        Some(came)
    }
}

impl Came {
    fn count(&mut self, packet: Option<usize>) {
        if let Some(len) = packet {
            self.bytes += len as u64;
            let packets = &mut self.packets[Arrivals::length(len)];
            *packets = packets.wrapping_add(1);
        }
    }
}
