//! Cutting a super-packet of the kernel into packets that stand alone, by the kernel's own rules
//! (`tcp_gso_segment`, `__udp_gso_segment`, `inet_gso_segment`).

use super::checksum;
use super::meta::{Checksum, Meta, Segmentation};
use super::packet::{Layout, Transport};

/// FIN and PSH: only the last segment of a super-packet has them.
pub(super) const TCP_LAST: u8 = 0x01 | 0x08;
/// CWR: only the first segment has it (RFC 3168 section 6.1.2 wants it once).
pub(super) const TCP_FIRST: u8 = 0x80;
/// Place of the flags in a TCP header.
pub(super) const TCP_FLAGS_AT: usize = 13;

/// How one super-packet is cut.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Split {
    layout: Layout,
    /// Payload bytes of each segment but the last.
    size: usize,
    /// Length of the super-packet.
    len: usize,
    /// Number of segments.
    count: usize,
    /// IPv4 identification of the first segment.
    identification: u16,
    /// Sum of what all segments' IPv4 headers have in common: all but length, identification, and checksum.
    common_sum: u16,
    /// Sequence number of the first segment, for TCP.
    sequence: u32,
}

/// What becomes of a segment's transport checksum.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Fill {
    /// The receiver computes it: the field is zero.
    Leave,
    /// It is computed.
    Complete,
}

impl Split {
    /// Reads how `packet` is to be cut. `None` when `meta` says that it is a single packet, or when the two contradict
    /// each other.
    pub fn new(packet: &[u8], meta: &Meta) -> Option<Split> {
        let layout = Layout::of(packet)?;
        let (size, fits) = match meta.segmentation {
            Segmentation::None => return None,
            Segmentation::Tcp4 { size } => (size, layout.transport == Transport::Tcp && layout.is_v4),
            Segmentation::Tcp6 { size } => (size, layout.transport == Transport::Tcp && !layout.is_v4),
            Segmentation::Udp { size } => (size, layout.transport == Transport::Udp),
        };
        let partial = match meta.checksum {
            Checksum::Partial { start, offset } => {
                usize::from(start) == layout.network_len
                    && usize::from(offset) == layout.transport.checksum_at()
            }
            Checksum::Complete => false,
        };
        if !fits || !partial || size == 0 {
            return None;
        }
        Split::into_pieces(packet, layout, usize::from(size))
    }

    /// The same, with segments of at most `mtu` bytes: a TCP stream may be cut anywhere. `None` for UDP, whose datagrams
    /// are what their sender made them, and when the headers alone are too long.
    pub fn narrowed(&self, mtu: usize) -> Option<Split> {
        if self.segment_len() <= mtu {
            return Some(*self);
        }
        let size = mtu.checked_sub(self.layout.header_len).filter(|size| *size > 0)?;
        let size = size.min(self.size);
        let count = count(self.len - self.layout.header_len, size);
        (self.layout.transport == Transport::Tcp).then_some(Split { size, count, ..*self })
    }

    /// How to cut a single TCP segment into several of at most `mtu` bytes. `None` for other packets, for segments that
    /// mean something as a whole (SYN, RST, urgent data), and where the checksum is wrong: it would be right afterwards.
    pub fn of_segment(packet: &[u8], checksum: &Checksum, mtu: usize) -> Option<Split> {
        const ALONE: u8 = 0x02 | 0x04 | 0x20;
        let layout = Layout::of(packet).filter(|layout| layout.transport == Transport::Tcp)?;
        let flags = packet[layout.network_len + TCP_FLAGS_AT];
        let size = mtu.checked_sub(layout.header_len).filter(|size| *size > 0)?;
        let is_right = match *checksum {
            Checksum::Partial { start, offset } => {
                usize::from(start) == layout.network_len
                    && usize::from(offset) == layout.transport.checksum_at()
            }
            Checksum::Complete => {
                let segment = &packet[layout.network_len..];
                let pseudo = checksum::pseudo_header(layout.addresses(packet), 6, segment.len() as u16);
                checksum::add(checksum::sum(segment), pseudo) == 0xffff
            }
        };
        if flags & ALONE != 0 || packet.len() == layout.header_len || !is_right {
            return None;
        }
        Split::into_pieces(packet, layout, size)
    }

    /// Number of segments; at least 1.
    pub fn count(&self) -> usize {
        self.count
    }

    /// Length of every segment but the last, headers included.
    pub fn segment_len(&self) -> usize {
        (self.layout.header_len + self.size).min(self.len)
    }

    /// Length of the last segment, headers included.
    pub fn last_len(&self) -> usize {
        self.len - (self.count() - 1) * self.size
    }

    /// Length of segment number `index`, headers included.
    pub fn len_of(&self, index: usize) -> usize {
        if index + 1 == self.count() { self.last_len() } else { self.segment_len() }
    }

    /// Writes segment number `index` of `packet`, which must be what this was made from, to `out`.
    ///
    /// # Panics
    /// When there is no such segment, or `out` has not its length.
    pub fn write(&self, packet: &[u8], index: usize, fill: Fill, out: &mut [u8]) {
        let header_len = self.layout.header_len;
        let start = header_len + index * self.size;
        let payload = &packet[start..(start + self.size).min(self.len)];
        let (header, body) = out.split_at_mut(header_len);
        header.copy_from_slice(&packet[..header_len]);
        self.write_network_header(header, index, payload.len());
        self.write_transport_header(header, index, payload.len());
        // Last, so that the header's small stores are done when the cipher loads them in large words.
        body.copy_from_slice(payload);
        if fill == Fill::Complete {
            let transport_len = out.len() - self.layout.network_len;
            let pseudo = checksum::pseudo_header(
                self.layout.addresses(out),
                self.layout.transport.number(),
                transport_len as u16,
            );
            let transport = &mut out[self.layout.network_len..];
            let at = self.layout.transport.checksum_at();
            transport[at..at + 2].copy_from_slice(&pseudo.to_be_bytes());
            checksum::complete(transport, at);
        }
    }

    fn into_pieces(packet: &[u8], layout: Layout, size: usize) -> Option<Split> {
        Some(Split {
            layout,
            size,
            len: packet.len(),
            count: count(packet.len() - layout.header_len, size),
            identification: u16::from_be_bytes([packet[4], packet[5]]),
            common_sum: if layout.is_v4 { common_sum(&packet[..layout.network_len]) } else { 0 },
            sequence: match layout.transport {
                Transport::Tcp => u32::from_be_bytes(*packet[layout.network_len + 4..].first_chunk()?),
                Transport::Udp => 0,
            },
        })
    }

    fn write_network_header(&self, header: &mut [u8], index: usize, payload_len: usize) {
        let len = header.len() + payload_len;
        if self.layout.is_v4 {
            let identification = self.identification.wrapping_add(index as u16);
            let sum = checksum::add(checksum::add(self.common_sum, len as u16), identification);
            header[2..4].copy_from_slice(&(len as u16).to_be_bytes());
            header[4..6].copy_from_slice(&identification.to_be_bytes());
            header[10..12].copy_from_slice(&(!sum).to_be_bytes());
        } else {
            header[4..6].copy_from_slice(&((len - 40) as u16).to_be_bytes());
        }
    }

    fn write_transport_header(&self, header: &mut [u8], index: usize, payload_len: usize) {
        let transport = &mut header[self.layout.network_len..];
        match self.layout.transport {
            Transport::Tcp => {
                let sequence = self.sequence.wrapping_add((index * self.size) as u32);
                transport[4..8].copy_from_slice(&sequence.to_be_bytes());
                if index + 1 < self.count() {
                    transport[TCP_FLAGS_AT] &= !TCP_LAST;
                }
                if index > 0 {
                    transport[TCP_FLAGS_AT] &= !TCP_FIRST;
                }
            }
            Transport::Udp => transport[4..6].copy_from_slice(&((payload_len + 8) as u16).to_be_bytes()),
        }
        let at = self.layout.transport.checksum_at();
        transport[at..at + 2].fill(0);
    }
}

fn count(payload_len: usize, size: usize) -> usize {
    payload_len.div_ceil(size).max(1)
}

/// The sum of an IPv4 header without its total length, identification, and checksum.
fn common_sum(header: &[u8]) -> u16 {
    [&header[..2], &header[6..10], &header[12..]]
        .into_iter()
        .fold(0, |sum, part| checksum::add(sum, checksum::sum(part)))
}

/// Sets the total length and the identification of an IPv4 header, and its checksum.
pub(super) fn write_v4(header: &mut [u8], total_len: u16, identification: u16) {
    header[2..4].copy_from_slice(&total_len.to_be_bytes());
    header[4..6].copy_from_slice(&identification.to_be_bytes());
    header[10..12].fill(0);
    let sum = !checksum::sum(header);
    header[10..12].copy_from_slice(&sum.to_be_bytes());
}
