//! Putting consecutive segments together again, so that the kernel takes them as one super-packet.
//!
//! The sender gives the segments of one super-packet consecutive counters and indices. A run is what arrived of them
//! without a gap: its segments are consecutive by both, and their headers are those that cutting the run would give.
//! So a sender that lies about its segments gains nothing, and whatever was lost or came late, every run is valid: none
//! waits for a missing piece. All that the kernel is told is derived from the packets themselves.
//!
//! UDP datagrams of equal size that were sent one by one (DNS, games, QUIC without segmentation offload) make a run as well
//! when they come one after the other on one flow: a write for many costs the kernel a fraction of a write for each. Their
//! headers have to be those that the kernel gives when it cuts the run; only the IPv4 identification may differ where
//! nothing may look at it, in packets that must not be fragmented (RFC 6864 section 4.1).

use std::ops::Range;

use proto::data::{Trailer, TrailerFlags};
use proto::id::{Counter, ReceiverIndex};
use proto::lane::Lane;

use super::checksum;
use super::meta::{Checksum, Meta, Offloads, Segmentation};
use super::packet::{Layout, Transport};
use super::split::{TCP_FIRST, TCP_FLAGS_AT, TCP_LAST, write_v4};

/// Most segments of one run. The kernel's limit for UDP (`UDP_MAX_SEGMENTS`), and more than a full TCP super-packet at
/// an MTU of 1280 has.
pub const RUN_MAX: usize = 128;
/// Most datagrams of one run that were sent one by one: `UDP_MAX_SEGMENTS` of all kernels that merge UDP at all.
const DATAGRAMS_MAX: usize = 64;
/// An IP packet's length field has 16 bits.
const LEN_MAX: usize = 65_535;
/// In the sixth byte of an IPv4 header.
const DONT_FRAGMENT: u8 = 0x40;
/// SYN, RST, and URG: a packet with one of them goes alone.
const TCP_ALONE: u8 = 0x02 | 0x04 | 0x20;

/// What the datagram said of the packet in it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Segment {
    /// The session that it came on.
    pub receiver: ReceiverIndex,
    /// The lane, whose counters these are.
    pub lane: Lane,
    /// Its counter.
    pub counter: Counter,
    /// Its trailer.
    pub trailer: Trailer,
    /// Its headers, if its transport checksum is to be computed.
    pub partial: Option<Layout>,
}

/// Packets for one write to the device. Used again and again, so that nothing is allocated.
#[derive(Debug)]
pub struct Run {
    offloads: Offloads,
    /// The first packet whole, then the payloads of the others.
    pieces: Vec<Range<usize>>,
    /// Of the first packet.
    layout: Option<Layout>,
    /// The session and lane that the first packet came on.
    origin: (ReceiverIndex, Lane),
    /// What may follow.
    next: Next,
    /// Payload bytes of each segment but the last.
    size: usize,
    /// Length of all, the first packet's headers included.
    len: usize,
    /// FIN and PSH, as in the last segment.
    last_flags: u8,
    /// The pieces were given out: the next packet begins anew.
    finished: bool,
}

#[derive(Clone, Copy, Debug)]
enum Next {
    Nothing,
    /// The segment of the same super-packet with this counter and this index.
    Segment {
        counter: u64,
        index: u8,
    },
    /// Another UDP datagram of the flow that is no segment.
    Datagram,
}

impl Run {
    /// An empty run, for a device that takes over `offloads`.
    pub fn new(offloads: Offloads) -> Run {
        Run {
            offloads,
            pieces: Vec::with_capacity(RUN_MAX),
            layout: None,
            origin: (ReceiverIndex(0), Lane::FIRST),
            next: Next::Nothing,
            size: 0,
            len: 0,
            last_flags: 0,
            finished: false,
        }
    }

    /// Whether there is nothing in it.
    pub fn is_empty(&self) -> bool {
        self.finished || self.pieces.is_empty()
    }

    /// Adds the packet in `buf[packet]`. `false` if it does not belong to what is there: [`Run::finish`] that first.
    ///
    /// An empty run takes any packet.
    pub fn push(&mut self, buf: &[u8], packet: Range<usize>, segment: &Segment) -> bool {
        if self.is_empty() {
            self.begin(buf, packet, segment);
            return true;
        }
        let Some(layout) = self.layout else { return false };
        let flags = segment.trailer.flags;
        let (follows, most) = match self.next {
            Next::Nothing => return false,
            Next::Segment { counter, index } => {
                let consecutive = counter == segment.counter.0 && index == segment.trailer.index;
                let inner = flags.contains(TrailerFlags::GSO_SEG) && !flags.contains(TrailerFlags::FIRST);
                (consecutive && inner, RUN_MAX)
            }
            Next::Datagram => (!flags.contains(TrailerFlags::GSO_SEG), DATAGRAMS_MAX),
        };
        if !follows || self.origin != (segment.receiver, segment.lane) || segment.partial != Some(layout) {
            return false;
        }
        let payload = packet.start + layout.header_len..packet.end;
        let fits = !payload.is_empty()
            && payload.len() <= self.size
            && self.len + payload.len() <= LEN_MAX
            && self.pieces.len() < most;
        if !fits || !self.continues(&layout, &buf[self.pieces[0].clone()], &buf[packet.clone()]) {
            return false;
        }
        if layout.transport == Transport::Tcp {
            self.last_flags = buf[packet.start + layout.network_len + TCP_FLAGS_AT] & TCP_LAST;
        }
        let ends = self.last_flags != 0 || payload.len() < self.size || flags.contains(TrailerFlags::LAST);
        self.next = match self.next {
            _ if ends => Next::Nothing,
            Next::Segment { counter, index } => {
                Next::Segment { counter: counter.wrapping_add(1), index: index.wrapping_add(1) }
            }
            other => other,
        };
        self.len += payload.len();
        self.pieces.push(payload);
        true
    }

    /// Rebuilds the headers in `buf`, which must be what the packets were pushed from, and gives what to write in one go:
    /// the metadata and the places of the pieces. The run is empty from then on. `None` if it was.
    pub fn finish(&mut self, buf: &mut [u8]) -> Option<(Meta, &[Range<usize>])> {
        if self.is_empty() {
            return None;
        }
        let first = self.pieces[0].clone();
        let meta = match self.layout {
            None => Meta::PLAIN,
            Some(layout) => self.rebuild(&layout, &mut buf[first]),
        };
        self.finished = true;
        Some((meta, &self.pieces))
    }

    fn begin(&mut self, buf: &[u8], packet: Range<usize>, segment: &Segment) {
        self.pieces.clear();
        (self.layout, self.next, self.last_flags, self.finished) = (segment.partial, Next::Nothing, 0, false);
        (self.origin, self.len) = ((segment.receiver, segment.lane), packet.len());
        if let Some(layout) = segment.partial {
            self.size = packet.len() - layout.header_len;
            self.next = self.what_may_follow(&layout, &buf[packet.clone()], segment);
        }
        self.pieces.push(packet);
    }

    fn what_may_follow(&self, layout: &Layout, packet: &[u8], segment: &Segment) -> Next {
        let flags = segment.trailer.flags;
        let device_merges = match layout.transport {
            Transport::Tcp => self.offloads.tcp,
            Transport::Udp => self.offloads.udp,
        };
        if !device_merges || !layout.is_bare() || self.size == 0 {
            return Next::Nothing;
        }
        if !flags.contains(TrailerFlags::GSO_SEG) {
            return if layout.transport == Transport::Udp { Next::Datagram } else { Next::Nothing };
        }
        let ends = layout.transport == Transport::Tcp
            && packet[layout.network_len + TCP_FLAGS_AT] & (TCP_ALONE | TCP_LAST) != 0;
        if ends || flags.contains(TrailerFlags::LAST) {
            return Next::Nothing;
        }
        Next::Segment {
            counter: segment.counter.0.wrapping_add(1),
            index: segment.trailer.index.wrapping_add(1),
        }
    }

    /// Whether `packet` has the headers that cutting the run with `first` at its front would give it. Lengths agree with
    /// the headers already.
    fn continues(&self, layout: &Layout, first: &[u8], packet: &[u8]) -> bool {
        let network = if layout.is_v4 {
            let identification = |packet: &[u8]| u16::from_be_bytes([packet[4], packet[5]]);
            let expected = identification(first).wrapping_add(self.pieces.len() as u16);
            let is_free = matches!(self.next, Next::Datagram) && first[6] & DONT_FRAGMENT != 0;
            first[..2] == packet[..2]
                && (identification(packet) == expected || is_free)
                && first[6..10] == packet[6..10]
                && first[12..20] == packet[12..20]
        } else {
            first[..4] == packet[..4] && first[6..40] == packet[6..40]
        };
        let (first, packet) =
            (&first[layout.network_len..layout.header_len], &packet[layout.network_len..layout.header_len]);
        network
            && match layout.transport {
                Transport::Udp => first[..4] == packet[..4],
                Transport::Tcp => {
                    let sequence =
                        |header: &[u8]| u32::from_be_bytes([header[4], header[5], header[6], header[7]]);
                    let sent = (self.pieces.len() * self.size) as u32;
                    first[..4] == packet[..4]
                        && sequence(packet) == sequence(first).wrapping_add(sent)
                        && first[8..13] == packet[8..13]
                        && first[TCP_FLAGS_AT] & !TCP_FIRST == packet[TCP_FLAGS_AT] & !TCP_LAST
                        && first[14..16] == packet[14..16]
                        && first[18..] == packet[18..]
                }
            }
    }

    /// Completes the headers of the run's first packet so that they stand for all of it.
    fn rebuild(&self, layout: &Layout, first: &mut [u8]) -> Meta {
        let merged = self.pieces.len() > 1;
        let transport_len = self.len - layout.network_len;
        if merged {
            if layout.is_v4 {
                let identification = u16::from_be_bytes([first[4], first[5]]);
                write_v4(&mut first[..layout.network_len], self.len as u16, identification);
            } else {
                first[4..6].copy_from_slice(&((self.len - 40) as u16).to_be_bytes());
            }
            let transport = &mut first[layout.network_len..];
            match layout.transport {
                Transport::Tcp => transport[TCP_FLAGS_AT] |= self.last_flags,
                Transport::Udp => transport[4..6].copy_from_slice(&(transport_len as u16).to_be_bytes()),
            }
        }
        let protocol = layout.transport.number();
        let pseudo = checksum::pseudo_header(layout.addresses(first), protocol, transport_len as u16);
        let at = layout.checksum_at();
        first[at..at + 2].copy_from_slice(&pseudo.to_be_bytes());
        if !self.offloads.checksum {
            checksum::complete(&mut first[layout.network_len..], layout.transport.checksum_at());
            return Meta::PLAIN;
        }
        let size = self.size as u16;
        Meta {
            segmentation: match (merged, layout.transport) {
                (false, _) => Segmentation::None,
                (true, Transport::Tcp) if layout.is_v4 => Segmentation::Tcp4 { size },
                (true, Transport::Tcp) => Segmentation::Tcp6 { size },
                (true, Transport::Udp) => Segmentation::Udp { size },
            },
            checksum: Checksum::Partial {
                start: layout.network_len as u16,
                offset: layout.transport.checksum_at() as u16,
            },
            header_len: if merged { layout.header_len as u16 } else { 0 },
        }
    }
}

#[cfg(test)]
mod tests;
