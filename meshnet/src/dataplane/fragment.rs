//! Cutting packets that are longer than the path into IP fragments, where that is allowed.
//!
//! IPv4 packets without DF are cut as any router does it (RFC 791 section 3.2). IPv6 packets are cut only up to 1280 bytes:
//! so much every link has to carry, and hosts need not believe that one carries less (RFC 8200 section 5). What the
//! fragments look like is then as if the sender had made them.

/// So long an IPv6 packet may be without asking.
const V6_MTU_MIN: usize = 1280;
const V4_DONT: u16 = 0x4000;
const V4_MORE: u16 = 0x2000;
const OFFSET: u16 = 0x1fff;
const FRAGMENT: u8 = 44;
const FRAGMENT_HEADER: usize = 8;

/// How one packet is cut.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Fragments {
    kind: Kind,
    /// Bytes of the packet before what is cut.
    header_len: usize,
    /// Bytes of the packet that are not repeated: its own fragment header.
    dropped: usize,
    /// Payload bytes of each fragment but the last: a multiple of 8.
    size: usize,
    payload_len: usize,
    /// Where the payload lies in the packet that it is a fragment of already, in bytes.
    offset: usize,
    /// That packet goes on behind it.
    more: bool,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Kind {
    V4,
    V6 {
        /// Place of the next-header field that points to the fragment header.
        pointer: usize,
        /// What is cut.
        protocol: u8,
        identification: u32,
    },
}

impl Fragments {
    /// How to cut `packet` into fragments of at most `mtu` bytes; one for which [`super::packet::addresses`] gave
    /// something. `None` where its sender has to send shorter ones. `identification` is used for an IPv6 packet that is
    /// no fragment yet.
    pub fn new(packet: &[u8], mtu: usize, identification: u32) -> Option<Fragments> {
        let fragments = if packet.first()? >> 4 == 4 { v4(packet)? } else { v6(packet, identification)? };
        let size = mtu.checked_sub(fragments.header_len + fragments.added())? & !7;
        (size > 0).then_some(Fragments { size, ..fragments })
    }

    /// How many there are.
    pub fn count(&self) -> usize {
        self.payload_len.div_ceil(self.size).max(1)
    }

    /// Length of fragment number `index`, headers included.
    pub fn len_of(&self, index: usize) -> usize {
        self.header_len + self.added() + self.size.min(self.payload_len - index * self.size)
    }

    /// Writes fragment number `index` of `packet`, which must be what this was made from, to `out`.
    ///
    /// # Panics
    /// When there is no such fragment, or `out` has not its length.
    pub fn write(&self, packet: &[u8], index: usize, out: &mut [u8]) {
        let (start, is_last) = (index * self.size, index + 1 == self.count());
        let payload = &packet[self.header_len + self.dropped..];
        let payload = &payload[start..(start + self.size).min(payload.len())];
        let place = ((self.offset + start) / 8) as u16;
        let more = self.more || !is_last;
        let len = out.len();
        let (header, body) = out.split_at_mut(self.header_len + self.added());
        body.copy_from_slice(payload);
        header[..self.header_len].copy_from_slice(&packet[..self.header_len]);
        match self.kind {
            Kind::V4 => {
                if index > 0 {
                    keep_copied_options(&mut header[20..]);
                }
                let field = place | if more { V4_MORE } else { 0 };
                header[6..8].copy_from_slice(&field.to_be_bytes());
                let identification = u16::from_be_bytes([header[4], header[5]]);
                super::split::write_v4(header, len as u16, identification);
            }
            Kind::V6 { pointer, protocol, identification } => {
                header[4..6].copy_from_slice(&((len - 40) as u16).to_be_bytes());
                header[pointer] = FRAGMENT;
                let fragment = &mut header[self.header_len..];
                (fragment[0], fragment[1]) = (protocol, 0);
                fragment[2..4].copy_from_slice(&(place << 3 | u16::from(more)).to_be_bytes());
                fragment[4..8].copy_from_slice(&identification.to_be_bytes());
            }
        }
    }

    fn added(&self) -> usize {
        match self.kind {
            Kind::V4 => 0,
            Kind::V6 { .. } => FRAGMENT_HEADER,
        }
    }
}

fn v4(packet: &[u8]) -> Option<Fragments> {
    let field = u16::from_be_bytes([packet[6], packet[7]]);
    let header_len = usize::from(packet[0] & 0x0f) * 4;
    (field & V4_DONT == 0).then(|| Fragments {
        kind: Kind::V4,
        header_len,
        dropped: 0,
        size: 0,
        payload_len: packet.len() - header_len,
        offset: usize::from(field & OFFSET) * 8,
        more: field & V4_MORE != 0,
    })
}

fn v6(packet: &[u8], identification: u32) -> Option<Fragments> {
    if packet.len() > V6_MTU_MIN {
        return None;
    }
    let (pointer, header_len) = unfragmentable(packet)?;
    let protocol = packet[pointer];
    let payload_len = packet.len().checked_sub(header_len)?;
    let whole = Fragments {
        kind: Kind::V6 { pointer, protocol, identification },
        header_len,
        dropped: 0,
        size: 0,
        payload_len,
        offset: 0,
        more: false,
    };
    if protocol != FRAGMENT {
        return Some(whole);
    }
    let own: &[u8; FRAGMENT_HEADER] = packet.get(header_len..)?.first_chunk()?;
    let field = u16::from_be_bytes([own[2], own[3]]);
    let identification = u32::from_be_bytes([own[4], own[5], own[6], own[7]]);
    Some(Fragments {
        kind: Kind::V6 { pointer, protocol: own[0], identification },
        dropped: FRAGMENT_HEADER,
        payload_len: payload_len - FRAGMENT_HEADER,
        offset: usize::from(field >> 3) * 8,
        more: field & 1 != 0,
        ..whole
    })
}

/// The headers that every fragment needs (RFC 8200 section 4.5): the place of the last one's next-header field, and where
/// they end. Destination options belong to them only before a routing header.
fn unfragmentable(packet: &[u8]) -> Option<(usize, usize)> {
    const HOP_BY_HOP: u8 = 0;
    const ROUTING: u8 = 43;
    const DESTINATION: u8 = 60;
    let (mut pointer, mut at) = (6, 40);
    let (mut end_pointer, mut end) = (pointer, at);
    for _ in 0..4 {
        let kind = *packet.get(pointer)?;
        if !matches!(kind, HOP_BY_HOP | ROUTING | DESTINATION) {
            break;
        }
        let len = usize::from(*packet.get(at + 1)?) * 8 + 8;
        (pointer, at) = (at, at + len);
        if kind != DESTINATION {
            (end_pointer, end) = (pointer, at);
        }
    }
    (end <= packet.len()).then_some((end_pointer, end))
}

/// Later fragments have only the options that say so; the others become padding (as `ip_options_fragment` has it).
fn keep_copied_options(options: &mut [u8]) {
    const COPIED: u8 = 0x80;
    let mut at = 0;
    while at < options.len() {
        let len = match options[at] {
            0 => return,
            1 => 1,
            kind => {
                let len = usize::from(options.get(at + 1).copied().unwrap_or(0));
                if len < 2 || at + len > options.len() {
                    return;
                }
                if kind & COPIED == 0 {
                    options[at..at + len].fill(1);
                }
                len
            }
        };
        at += len;
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::super::{checksum, packet};
    use super::*;

    fn v4_packet(options: &[u8], payload: &[u8], field: u16) -> Vec<u8> {
        let header_len = 20 + options.len();
        let mut packet = vec![0x40 | (header_len / 4) as u8, 0, 0, 0, 0x12, 0x34, 0, 0, 64, 17, 0, 0];
        packet.extend_from_slice(&[10, 9, 0, 1, 10, 9, 0, 2]);
        packet.extend_from_slice(options);
        packet.extend_from_slice(payload);
        packet[6..8].copy_from_slice(&field.to_be_bytes());
        let len = packet.len() as u16;
        packet[2..4].copy_from_slice(&len.to_be_bytes());
        packet
    }

    fn v6_packet(extensions: &[u8], first: u8, payload: &[u8]) -> Vec<u8> {
        let mut packet = vec![0x60, 0, 0, 0, 0, 0, first, 64];
        packet.extend_from_slice(&[0xfd; 32]);
        packet.extend_from_slice(extensions);
        packet.extend_from_slice(payload);
        let len = (packet.len() - 40) as u16;
        packet[4..6].copy_from_slice(&len.to_be_bytes());
        packet
    }

    fn cut(packet: &[u8], mtu: usize) -> Option<Vec<Vec<u8>>> {
        let fragments = Fragments::new(packet, mtu, 0x0102_0304)?;
        let write = |index| {
            let mut out = vec![0xaa; fragments.len_of(index)];
            fragments.write(packet, index, &mut out);
            assert!(out.len() <= mtu && packet::addresses(&out).is_some());
            out
        };
        Some((0..fragments.count()).map(write).collect())
    }

    /// Payloads put together by their offsets, and whether the last one says that it is.
    fn reassemble_v4(pieces: &[Vec<u8>]) -> (Vec<u8>, bool) {
        let (mut payload, mut ended) = (Vec::new(), false);
        for piece in pieces {
            let header_len = usize::from(piece[0] & 0x0f) * 4;
            assert_eq!(checksum::sum(&piece[..header_len]), 0xffff);
            let field = u16::from_be_bytes([piece[6], piece[7]]);
            assert_eq!(usize::from(field & OFFSET) * 8, payload.len());
            assert!(!ended);
            ended = field & V4_MORE == 0;
            payload.extend_from_slice(&piece[header_len..]);
        }
        (payload, ended)
    }

    #[test]
    fn ipv4_without_df_is_cut_and_with_df_it_is_not() {
        let payload: Vec<u8> = (0..3000).map(|at| at as u8).collect();
        assert_eq!(cut(&v4_packet(&[], &payload, V4_DONT), 1198), None);
        let pieces = cut(&v4_packet(&[], &payload, 0), 1198).unwrap();
        assert_eq!(pieces.len(), 3);
        assert_eq!(reassemble_v4(&pieces), (payload.clone(), true));
        // A fragment in the middle of something is cut again, and goes on.
        let pieces = cut(&v4_packet(&[], &payload[..1200], V4_MORE), 700).unwrap();
        assert_eq!(reassemble_v4(&pieces), (payload[..1200].to_vec(), false));
        let later = cut(&v4_packet(&[], &payload[..1200], 100), 700).unwrap();
        assert_eq!(u16::from_be_bytes([later[1][6], later[1][7]]) & OFFSET, 100 + 680 / 8);
    }

    #[test]
    fn options_are_copied_where_they_say_so() {
        // A record route (7), not copied, and a router alert (0x94), copied.
        let options = [7, 3, 4, 1, 0x94, 4, 0, 0];
        let pieces = cut(&v4_packet(&options, &[9; 2000], 0), 1000).unwrap();
        assert_eq!(pieces[0][20..28], options);
        assert_eq!(pieces[1][20..28], [1, 1, 1, 1, 0x94, 4, 0, 0]);
        assert_eq!(reassemble_v4(&pieces), (vec![9; 2000], true));
    }

    #[test]
    fn ipv6_is_cut_only_up_to_what_every_link_has_to_carry() {
        assert_eq!(cut(&v6_packet(&[], 17, &[1; 1241]), 1198), None);
        let payload: Vec<u8> = (0..1240).map(|at| at as u8).collect();
        let pieces = cut(&v6_packet(&[], 17, &payload), 1198).unwrap();
        assert_eq!(pieces.len(), 2);
        assert_eq!(pieces[0][6], FRAGMENT);
        assert_eq!(pieces[0][40..48], [17, 0, 0, 1, 1, 2, 3, 4]);
        let offset = u16::from_be_bytes([pieces[1][42], pieces[1][43]]);
        assert_eq!((usize::from(offset & !7), offset & 1), (pieces[0].len() - 48, 0));
        assert_eq!([&pieces[0][48..], &pieces[1][48..]].concat(), payload);
    }

    #[test]
    fn a_fragment_of_ipv6_is_cut_again_behind_the_headers_that_all_need() {
        // Hop-by-hop options, then a fragment header at 800 bytes with more to follow.
        let extensions = [FRAGMENT, 0, 1, 4, 0, 0, 0, 0, 58, 0, 3, 0x21, 5, 6, 7, 8];
        let pieces = cut(&v6_packet(&extensions, 0, &[1; 1200]), 900).unwrap();
        assert_eq!(pieces.len(), 2);
        for (piece, offset) in pieces.iter().zip([800, 800 + 840]) {
            assert_eq!((piece[6], piece[40], piece[48]), (0, FRAGMENT, 58));
            assert_eq!(u16::from_be_bytes([piece[50], piece[51]]), offset | 1);
            assert_eq!(piece[52..56], [5, 6, 7, 8]);
        }
    }

    proptest! {
        #[test]
        fn nothing_is_lost_whatever_the_sizes(len in 0_usize..4000, mtu in 68_usize..2000, noise: u8) {
            let payload: Vec<u8> = (0..len).map(|at| at as u8 ^ noise).collect();
            let pieces = cut(&v4_packet(&[], &payload, 0), mtu).unwrap();
            prop_assert_eq!(reassemble_v4(&pieces), (payload, true));
        }

        #[test]
        fn nonsense_is_survived(bytes in prop::collection::vec(any::<u8>(), 1..200), mtu in 0_usize..200) {
            if packet::addresses(&bytes).is_some() {
                cut(&bytes, mtu);
            }
        }
    }
}
