//! A super-packet on its way out: cut, sealed, and addressed in bursts that one segmented send carries.

use std::fmt;
use std::net::SocketAddr;
use std::ops::Range;
use std::sync::Arc;

use proto::data::{self, TrailerFlags};
use proto::id::Counter;
use proto::lane::Lane;
use proto::relay as wire;

use crate::crypto::LaneSealer;
use crate::dataplane::snapshot::{Carrier, PeerTx};
use crate::dataplane::split::{Fill, Split};
use crate::dataplane::{TAILROOM, relay};
use crate::path::SocketId;

/// Most datagrams of one burst (`UDP_MAX_SEGMENTS` since Linux 6.9).
pub const BURST_MAX: usize = 128;
/// Most bytes of one burst: the longest UDP payload over IPv4.
const BURST_MAX_BYTES: usize = 65_507;

/// The longest super-packet that the device of `mtu` should give (its `gso_max_size`), so that all segments of one leave
/// in one segmented send, even through a relay.
pub fn super_packet_max_bytes(mtu: u16) -> u32 {
    /// What the kernel keeps free for headers: `MAX_TCP_HEADER` of include/net/tcp.h and one byte (`sk_setup_caps`).
    const KERNEL_RESERVE: u32 = 320 + 1;
    /// IPv4 and TCP with timestamps, as nearly all segments have them.
    const HEADERS: u32 = 20 + 32;
    let datagram =
        u32::from(mtu) + (wire::HEADER_LEN + wire::HOP_TAG_LEN + data::HEADER_LEN + TAILROOM) as u32;
    let segments = (BURST_MAX_BYTES as u32 / datagram).max(1);
    segments * u32::from(mtu).saturating_sub(HEADERS) + KERNEL_RESERVE
}

/// Sealed datagrams of equal size to one destination, at equal distances in the buffer; the last may be shorter.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Burst {
    /// The socket that sends.
    pub socket: SocketId,
    /// The destination of the UDP datagrams.
    pub to: SocketAddr,
    /// Where the first one begins.
    pub start: usize,
    /// Length of each but the last.
    pub len: usize,
    /// From the beginning of one to that of the next.
    pub stride: usize,
    /// How many.
    pub count: usize,
    /// Length of the last one.
    pub last_len: usize,
}

impl Burst {
    /// Where the datagrams lie.
    pub fn datagrams(&self) -> impl Iterator<Item = Range<usize>> + use<> {
        let Burst { start, len, stride, count, last_len, .. } = *self;
        (0..count).map(move |index| {
            let begin = start + index * stride;
            begin..begin + if index + 1 == count { last_len } else { len }
        })
    }

    /// Where the last one ends.
    pub fn end(&self) -> usize {
        self.start + (self.count - 1) * self.stride + self.last_len
    }

    /// Length of all datagrams.
    pub fn bytes(&self) -> usize {
        (self.count - 1) * self.len + self.last_len
    }

    /// Whether they lie one behind the other.
    pub fn is_dense(&self) -> bool {
        self.stride == self.len
    }
}

/// A super-packet that is being sealed segment by segment.
///
/// All its counters are taken at once, so that they are consecutive: by counter and index the receiver knows which
/// segments belong together.
pub struct Cut {
    peer: Arc<PeerTx>,
    /// Which of the ways that share the peer's flows.
    way: Option<usize>,
    lane: Lane,
    split: Split,
    counter: Counter,
    next: usize,
}

impl fmt::Debug for Cut {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Cut { peer, way, lane, split, counter, next } = self;
        f.debug_struct("Cut")
            .field("member", &peer.member)
            .field("way", way)
            .field("lane", lane)
            .field("split", split)
            .field("counter", counter)
            .field("next", next)
            .finish()
    }
}

impl Cut {
    /// `None` when the session is used up.
    pub(super) fn new(peer: Arc<PeerTx>, way: Option<usize>, lane: Lane, split: Split) -> Option<Cut> {
        let sealer = peer.sealer.lane(lane);
        let (lane, counter) = (sealer.lane(), sealer.reserve(split.count() as u32)?);
        Some(Cut { peer, way, lane, split, counter, next: 0 })
    }

    /// Segments that are not sealed yet.
    pub fn left(&self) -> usize {
        self.split.count() - self.next
    }

    /// Room in bytes that [`Cut::seal`] needs to get on at all.
    pub fn stride(&self) -> usize {
        self.prefix_len() + data::HEADER_LEN + self.split.segment_len() + TAILROOM
    }

    /// Seals the next segments of the super-packet in `buf[packet]`: as many as `buf[room]`, which lies behind it, and
    /// one segmented send can hold. Gives what to send on the chosen path and on the second one. `None` when all are
    /// sealed, when the session with a relay is used up, or when there is no room for one.
    pub fn seal(
        &mut self,
        buf: &mut [u8],
        packet: Range<usize>,
        room: Range<usize>,
    ) -> Option<(Burst, Option<Burst>)> {
        let (prefix_len, stride) = (self.prefix_len(), self.stride());
        let peer = self.peer.clone();
        // Two relay headers do not fit before one body: then the second path gets copies, behind the first ones.
        let carrier = peer.carrier(self.way);
        let both_relayed = is_relayed(carrier) && peer.duplicate.as_ref().is_some_and(is_relayed);
        let room_len = if both_relayed { room.len() / 2 } else { room.len() };
        let most = BURST_MAX.min(BURST_MAX_BYTES / stride).min(room_len / stride);
        let count = most.min(self.split.count() - self.next);
        if count == 0 {
            return None;
        }
        let first = Track::new(carrier, self.lane, count)?;
        let second = peer.duplicate.as_ref().and_then(|carrier| Track::new(carrier, self.lane, count));
        let beside = second.as_ref().filter(|_| !both_relayed);
        let sealer = peer.sealer.lane(self.lane);
        let (front, back) = buf.split_at_mut(room.start);
        let packet = &front[packet];
        let fill = if self.peer.offload { Fill::Leave } else { Fill::Complete };
        let (mut at, mut last_inner_len, mut last_len) = (0, 0, 0);
        for index in 0..count {
            let number = self.next + index;
            let inner_len = self.split.len_of(number);
            let len = prefix_len + data::HEADER_LEN + inner_len + TAILROOM;
            let slot = &mut back[at..at + len];
            self.seal_segment(sealer, packet, number, fill, &mut slot[prefix_len..]);
            first.stamp(slot, prefix_len, index);
            if let Some(second) = beside {
                second.stamp(slot, prefix_len, index);
            }
            (at, last_inner_len, last_len) = (at + len, inner_len, len);
        }
        self.next += count;
        let number = self.lane.number().into();
        self.peer.sent(self.way, number, count, self.split.segment_len(), last_inner_len);
        self.peer.stats.note_len(self.split.segment_len());
        let shape = Shape { start: room.start, prefix_len, stride, count, last_len };
        let mut second_shape = Shape { start: room.start, ..shape };
        if let (true, Some(second)) = (both_relayed, &second) {
            back.copy_within(..at, at);
            second_shape.start += at;
            for index in 0..count {
                let begin = at + index * stride;
                let len = if index + 1 == count { last_len } else { stride };
                second.stamp(&mut back[begin..begin + len], prefix_len, index);
            }
        }
        Some((first.burst(&shape), second.map(|second| second.burst(&second_shape))))
    }

    fn seal_segment(&self, sealer: &LaneSealer, packet: &[u8], number: usize, fill: Fill, slot: &mut [u8]) {
        let counter = Counter(self.counter.0 + number as u64);
        super::header(sealer, counter).write(&mut slot[..data::HEADER_LEN]);
        let trailer_at = slot.len() - TAILROOM;
        let trailer = self.trailer(number);
        trailer.write(&mut slot[trailer_at..trailer_at + data::TRAILER_LEN]);
        self.split.write(packet, number, fill, &mut slot[data::HEADER_LEN..trailer_at]);
        sealer.seal_in_place(counter, slot);
    }

    fn trailer(&self, number: usize) -> data::Trailer {
        if !self.peer.offload {
            return data::Trailer::default();
        }
        let mut flags = TrailerFlags::CSUM_PARTIAL.union(TrailerFlags::GSO_SEG);
        if number == 0 {
            flags = flags.union(TrailerFlags::FIRST);
        }
        if number + 1 == self.split.count() {
            flags = flags.union(TrailerFlags::LAST);
        }
        // More than 256 segments wrap: the receiver merges fewer at a time, and compares headers.
        data::Trailer { flags, index: number as u8 }
    }

    fn prefix_len(&self) -> usize {
        prefix_len(self.peer.carrier(self.way)).max(self.peer.duplicate.as_ref().map_or(0, prefix_len))
    }
}

fn is_relayed(carrier: &Carrier) -> bool {
    matches!(carrier, Carrier::Relayed { .. })
}

/// Where the datagrams of a burst lie, whichever way they go.
struct Shape {
    start: usize,
    prefix_len: usize,
    stride: usize,
    count: usize,
    /// Length of the last slot.
    last_len: usize,
}

/// One carrier with the counters for a burst.
struct Track<'a> {
    carrier: &'a Carrier,
    hop: Option<(&'a LaneSealer, Counter)>,
}

impl<'a> Track<'a> {
    /// For segments sealed on `lane`.
    fn new(carrier: &'a Carrier, lane: Lane, count: usize) -> Option<Track<'a>> {
        let hop = match carrier {
            Carrier::Direct { .. } => None,
            Carrier::Relayed { hop, .. } => {
                let hop = hop.lane(lane);
                Some((hop, hop.reserve(count as u32)?))
            }
        };
        Some(Track { carrier, hop })
    }

    /// Writes what the carrier needs before the sealed datagram, which begins `prefix_len` bytes into `slot`.
    fn stamp(&self, slot: &mut [u8], prefix_len: usize, index: usize) {
        let (Carrier::Relayed { label, destination, source, .. }, Some((hop, first))) =
            (self.carrier, self.hop)
        else {
            return;
        };
        let (counter, slot_len) = (Counter(first.0 + index as u64), slot.len());
        relay::wrap(slot, prefix_len..slot_len, (hop, counter), *label, *destination, *source);
    }

    fn burst(&self, shape: &Shape) -> Burst {
        let (Carrier::Direct { socket, to } | Carrier::Relayed { socket, to, .. }) = self.carrier;
        let unused = shape.prefix_len - prefix_len(self.carrier);
        Burst {
            socket: *socket,
            to: *to,
            start: shape.start + unused,
            len: if shape.count == 1 { shape.last_len } else { shape.stride } - unused,
            stride: shape.stride,
            count: shape.count,
            last_len: shape.last_len - unused,
        }
    }
}

fn prefix_len(carrier: &Carrier) -> usize {
    match carrier {
        Carrier::Direct { .. } => 0,
        Carrier::Relayed { label, .. } => relay::prefix_len(*label),
    }
}
