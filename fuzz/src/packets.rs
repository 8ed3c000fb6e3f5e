//! Inner packets: what is read of them, how super-packets are cut and put together again, and what a member may say of
//! its packets in their trailers. The packets come in behind a few bytes that choose what is done with them.

use std::ops::Range;

use meshnet::dataplane::meta::{Checksum, Meta, Offloads, Segmentation};
use meshnet::dataplane::packet::{Layout, Transport, addresses, checksummed, mark_congestion};
use meshnet::dataplane::split::{Fill, Split};
use meshnet::dataplane::{Run, Segment, checksum, tx};
use proto::data::{TRAILER_LEN, Trailer, TrailerFlags};
use proto::id::{Counter, ReceiverIndex};
use proto::lane::Lane;

/// Segments larger than this are no concern of the kernel's.
const SEGMENTS_MAX: usize = 128;

/// A packet from the device or from a member: what is read of it lies within it, and completing its checksum or marking
/// it leaves a packet of the same addresses.
pub fn packet(bytes: &[u8]) {
    let Some(read) = addresses(bytes) else { return };
    let Some(layout) = Layout::of(bytes) else {
        assert!(checksummed(bytes).is_none());
        return;
    };
    assert!(layout.network_len < layout.header_len && layout.header_len <= bytes.len());
    assert!(layout.checksum_at() + 2 <= layout.header_len);
    let mut marked = bytes.to_vec();
    mark_congestion(&mut marked);
    assert_eq!((addresses(&marked), Layout::of(&marked)), (Some(read), Some(layout)));
    if checksummed(bytes).is_none() {
        return;
    }
    let mut completed = bytes.to_vec();
    leave_checksum(&mut completed, &layout);
    assert!(tx::complete(&mut completed, &partial(&layout, Segmentation::None, 0)));
    verify_checksum(&completed, &layout);
    assert_eq!(completed.len(), bytes.len());
}

/// A super-packet, cut and put together: segments are what an independent reading of the kernel's rules gives, and what
/// arrives of them becomes super-packets that are cut into just these segments again.
///
/// The first two bytes are the size of a segment, the next four say which segments are lost or come twice.
pub fn split_merge(bytes: &[u8]) {
    let Some(([high, low, loss @ ..], packet)) = bytes.split_first_chunk::<6>() else { return };
    let size = u16::from_be_bytes([*high, *low]);
    let mut packet = packet.to_vec();
    fit_lengths(&mut packet);
    let (Some(_), Some(layout)) = (addresses(&packet), Layout::of(&packet)) else { return };
    leave_checksum(&mut packet, &layout);
    let segmentation = match (layout.transport, layout.is_v4) {
        (Transport::Tcp, true) => Segmentation::Tcp4 { size },
        (Transport::Tcp, false) => Segmentation::Tcp6 { size },
        (Transport::Udp, _) => Segmentation::Udp { size },
    };
    let meta = partial(&layout, segmentation, layout.header_len);
    let Some(split) = Split::new(&packet, &meta) else { return };
    if split.count() > SEGMENTS_MAX {
        return;
    }
    let cut = |fill: Fill| -> Vec<Vec<u8>> {
        (0..split.count())
            .map(|index| {
                let mut segment = vec![0; split.len_of(index)];
                split.write(&packet, index, fill, &mut segment);
                segment
            })
            .collect()
    };
    let (left, complete) = (cut(Fill::Leave), cut(Fill::Complete));
    assert_eq!(complete, by_the_rules(&packet, &layout, usize::from(size)));

    let last = left.len() - 1;
    let mut arrived = Vec::new();
    for (index, segment) in left.iter().enumerate() {
        let mut flags = TrailerFlags::CSUM_PARTIAL.union(TrailerFlags::GSO_SEG);
        flags = if index == 0 { flags.union(TrailerFlags::FIRST) } else { flags };
        flags = if index == last { flags.union(TrailerFlags::LAST) } else { flags };
        let times = match loss[index % 4] >> (index / 4 % 4 * 2) & 3 {
            1 => 0,
            2 => 2,
            _ => 1,
        };
        arrived.extend(std::iter::repeat_n((segment.clone(), flags, index as u8, index as u64), times));
    }
    let out = merge(&arrived);
    let expected: Vec<&Vec<u8>> =
        arrived.iter().map(|(_, _, index, _)| &complete[usize::from(*index)]).collect();
    assert_eq!(out.iter().flat_map(|run| &run.packets).collect::<Vec<_>>(), expected);
    let whole = *loss == [0; 4] && layout.is_bare();
    let alone = layout.transport == Transport::Tcp && packet[layout.network_len + 13] & 0x26 != 0;
    if whole
        && !alone
        && packet.len() > layout.header_len
        && left.iter().all(|one| checksummed(one).is_some())
    {
        assert_eq!(out.len(), 1, "nothing was lost, and {} pieces came of it", out.len());
    }
}

/// Packets of a member, each with a trailer of its choice: what comes out, cut by the kernel's rules, are the packets
/// that went in, whatever the trailers say.
///
/// For each packet: flags, index, step of the counter, length (2 bytes), and its bytes.
pub fn trailer(bytes: &[u8]) {
    let (mut rest, mut counter, mut arrived) = (bytes, 0u64, Vec::new());
    while let Some(([flags, index, step, high, low], tail)) = rest.split_first_chunk::<5>() {
        let len = usize::from(u16::from_be_bytes([*high, *low])).min(tail.len());
        let (packet, next) = tail.split_at(len);
        rest = next;
        counter = counter.wrapping_add(u64::from(*step & 3));
        let mut plaintext = packet.to_vec();
        plaintext.extend([0; TRAILER_LEN]);
        Trailer { flags: TrailerFlags(*flags), index: *index }.write(&mut plaintext[len..]);
        let (content, trailer) = Trailer::split(&plaintext).expect("a trailer was written");
        assert_eq!((content, trailer.flags.0, trailer.index), (packet, *flags, *index));
        if addresses(content).is_some() && arrived.len() < 2 * SEGMENTS_MAX {
            arrived.push((content.to_vec(), trailer.flags, trailer.index, counter));
        }
    }
    arrived.retain(|(packet, flags, ..)| {
        !flags.contains(TrailerFlags::CSUM_PARTIAL) || checksummed(packet).is_some()
    });
    let expected: Vec<Vec<u8>> = arrived
        .iter()
        .map(|(packet, flags, ..)| match checksummed(packet) {
            Some(layout) if flags.contains(TrailerFlags::CSUM_PARTIAL) => completed(packet, &layout),
            _ => packet.clone(),
        })
        .map(without_own_checksum)
        .collect();
    let out = merge(&arrived).into_iter().flat_map(|run| run.packets).map(without_own_checksum);
    let comparable = |packets: Vec<Vec<u8>>| -> Vec<Vec<u8>> {
        let with_flags = packets.into_iter().zip(&arrived);
        with_flags.map(|(packet, (_, flags, ..))| without_free_identification(packet, *flags)).collect()
    };
    let out: Vec<Vec<u8>> = out.collect();
    assert_eq!(out.len(), expected.len());
    assert_eq!(comparable(out), comparable(expected));
}

/// The identification of a packet that must not be fragmented means nothing (RFC 6864), and may change when datagrams that
/// were sent one by one are written together.
fn without_free_identification(mut packet: Vec<u8>, flags: TrailerFlags) -> Vec<u8> {
    const UDP: u8 = 17;
    let is_free = packet[0] >> 4 == 4 && packet[6] & 0x40 != 0 && packet[9] == UDP;
    if is_free && !flags.contains(TrailerFlags::GSO_SEG) {
        packet[4..6].fill(0);
    }
    packet
}

/// The checksum of an IPv4 header is made anew for what was put together, whatever the sender wrote.
fn without_own_checksum(mut packet: Vec<u8>) -> Vec<u8> {
    if packet[0] >> 4 == 4 {
        packet[10..12].fill(0);
    }
    packet
}

/// A packet, its trailer's flags and index, and its counter.
type Arrived = (Vec<u8>, TrailerFlags, u8, u64);

/// What one write to the device gave the kernel, cut and completed.
struct Written {
    packets: Vec<Vec<u8>>,
}

/// Puts packets together as a receiver does, and cuts what it writes.
fn merge(arrived: &[Arrived]) -> Vec<Written> {
    let (mut buf, mut places) = (Vec::new(), Vec::new());
    for (packet, ..) in arrived {
        places.push(buf.len()..buf.len() + packet.len());
        buf.extend_from_slice(packet);
    }
    let (mut run, mut out) = (Run::new(Offloads::ALL), Vec::new());
    for (place, (packet, flags, index, counter)) in places.into_iter().zip(arrived) {
        let segment = Segment {
            receiver: ReceiverIndex(7),
            lane: Lane::FIRST,
            counter: Counter(*counter),
            trailer: Trailer { flags: *flags, index: *index },
            partial: if flags.contains(TrailerFlags::CSUM_PARTIAL) { checksummed(packet) } else { None },
        };
        if !run.push(&buf, place.clone(), &segment) {
            out.extend(write(&mut run, &mut buf));
            assert!(run.push(&buf, place, &segment), "an empty run takes any packet");
        }
    }
    out.extend(write(&mut run, &mut buf));
    out
}

fn write(run: &mut Run, buf: &mut [u8]) -> Option<Written> {
    let (meta, pieces) = run.finish(buf)?;
    let (meta, pieces): (Meta, Vec<Range<usize>>) = (meta, pieces.to_vec());
    let packet = pieces.iter().flat_map(|piece| buf[piece.clone()].iter().copied()).collect::<Vec<u8>>();
    assert!(addresses(&packet).is_some(), "the kernel gets a packet that fits its length");
    let packets = match Split::new(&packet, &meta) {
        Some(split) => {
            assert_eq!(split.count(), pieces.len());
            let layout = Layout::of(&packet).expect("a super-packet has a layout");
            let size = match meta.segmentation {
                Segmentation::Tcp4 { size } | Segmentation::Tcp6 { size } | Segmentation::Udp { size } => {
                    size
                }
                Segmentation::None => unreachable!("it was cut"),
            };
            by_the_rules(&packet, &layout, usize::from(size))
        }
        None => {
            assert_eq!((meta.segmentation, pieces.len()), (Segmentation::None, 1));
            let mut packet = packet;
            assert!(tx::complete(&mut packet, &meta));
            vec![packet]
        }
    };
    Some(Written { packets })
}

/// Cuts a super-packet by the kernel's rules (`tcp_gso_segment`, `__udp_gso_segment`, `inet_gso_segment`), simply: each
/// segment is written as a packet of its own from the rules, and its checksums are computed over all of it.
fn by_the_rules(packet: &[u8], layout: &Layout, size: usize) -> Vec<Vec<u8>> {
    let (headers, payload) = packet.split_at(layout.header_len);
    let mut chunks: Vec<&[u8]> = payload.chunks(size).collect();
    if chunks.is_empty() {
        chunks.push(&[]);
    }
    let (count, network) = (chunks.len(), layout.network_len);
    let segment = |(index, chunk): (usize, &&[u8])| {
        let mut segment = [headers, chunk].concat();
        let len = segment.len();
        if layout.is_v4 {
            segment[2..4].copy_from_slice(&(len as u16).to_be_bytes());
            let first = u16::from_be_bytes([headers[4], headers[5]]);
            segment[4..6].copy_from_slice(&first.wrapping_add(index as u16).to_be_bytes());
            segment[10..12].fill(0);
            let sum = !naive_sum(&segment[..network], 0);
            segment[10..12].copy_from_slice(&sum.to_be_bytes());
        } else {
            segment[4..6].copy_from_slice(&((len - 40) as u16).to_be_bytes());
        }
        match layout.transport {
            Transport::Tcp => {
                let sequence =
                    u32::from_be_bytes(headers[network + 4..network + 8].try_into().expect("4 bytes"));
                let own = sequence.wrapping_add((index * size) as u32);
                segment[network + 4..network + 8].copy_from_slice(&own.to_be_bytes());
                // FIN and PSH on the last only, CWR on the first only.
                let keep =
                    (if index + 1 == count { 0xff } else { !0x09 }) & (if index == 0 { 0xff } else { !0x80 });
                segment[network + 13] &= keep;
            }
            Transport::Udp => {
                segment[network + 4..network + 6].copy_from_slice(&((len - network) as u16).to_be_bytes());
            }
        }
        completed(&segment, layout)
    };
    chunks.iter().enumerate().map(segment).collect()
}

/// The packet with its transport checksum computed over its bytes as they are.
fn completed(packet: &[u8], layout: &Layout) -> Vec<u8> {
    let mut packet = packet.to_vec();
    let at = layout.checksum_at();
    packet[at..at + 2].fill(0);
    let sum = !naive_sum(&packet[layout.network_len..], pseudo_header(&packet, layout));
    // A sum of 0 means "none" in UDP (RFC 768), and 0xffff is the same number; `skb_checksum_help` writes it in TCP, too.
    let sum = if sum == 0 { 0xffff } else { sum };
    packet[at..at + 2].copy_from_slice(&sum.to_be_bytes());
    packet
}

fn verify_checksum(packet: &[u8], layout: &Layout) {
    assert_eq!(naive_sum(&packet[layout.network_len..], pseudo_header(packet, layout)), 0xffff);
}

/// Puts into the checksum field what the kernel leaves there: the sum over the pseudo-header.
fn leave_checksum(packet: &mut [u8], layout: &Layout) {
    let sum = pseudo_header(packet, layout);
    let len = (packet.len() - layout.network_len) as u16;
    assert_eq!(sum, checksum::pseudo_header(layout.addresses(packet), layout.transport.number(), len));
    let at = layout.checksum_at();
    packet[at..at + 2].copy_from_slice(&sum.to_be_bytes());
}

fn pseudo_header(packet: &[u8], layout: &Layout) -> u16 {
    let len = (packet.len() - layout.network_len) as u16;
    let addresses = if layout.is_v4 { &packet[12..20] } else { &packet[8..40] };
    let rest = [&[0, layout.transport.number()], &len.to_be_bytes()[..]].concat();
    naive_sum(&rest, naive_sum(addresses, 0))
}

/// RFC 1071, 16 bits at a time.
fn naive_sum(bytes: &[u8], start: u16) -> u16 {
    let mut sum = u32::from(start);
    for pair in bytes.chunks(2) {
        sum += u32::from(u16::from_be_bytes([pair[0], *pair.get(1).unwrap_or(&0)]));
        sum = (sum & 0xffff) + (sum >> 16);
    }
    sum as u16
}

fn partial(layout: &Layout, segmentation: Segmentation, header_len: usize) -> Meta {
    let (start, offset) = (layout.network_len as u16, layout.transport.checksum_at() as u16);
    Meta { segmentation, checksum: Checksum::Partial { start, offset }, header_len: header_len as u16 }
}

/// Writes the packet's length where its version has it, and UDP's: a fuzzer seldom guesses them.
fn fit_lengths(packet: &mut [u8]) {
    let len = packet.len() as u16;
    match packet {
        [0x40..=0x4f, _, high, low, ..] => [*high, *low] = len.to_be_bytes(),
        [0x60..=0x6f, _, _, _, high, low, ..] => [*high, *low] = len.saturating_sub(40).to_be_bytes(),
        _ => {}
    }
    if let Some(layout) = Layout::of(packet)
        && layout.transport == Transport::Udp
    {
        let own = (packet.len() - layout.network_len) as u16;
        packet[layout.network_len + 4..layout.network_len + 6].copy_from_slice(&own.to_be_bytes());
    }
}
