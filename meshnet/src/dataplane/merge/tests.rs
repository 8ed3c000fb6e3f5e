use proptest::prelude::*;

use super::*;
use crate::dataplane::packet;
use crate::dataplane::split::{Fill, Split};

const RECEIVER: ReceiverIndex = ReceiverIndex(7);

/// A super-packet as the kernel gives it, and how to cut it.
#[derive(Clone, Debug)]
struct Super {
    packet: Vec<u8>,
    meta: Meta,
}

#[derive(Clone, Debug)]
struct Shape {
    is_v4: bool,
    transport: Transport,
    tos: u8,
    /// IPv4 options or one IPv6 destination options header, in units of 4 or 8 bytes.
    network_options: usize,
    /// TCP options in units of 4 bytes.
    transport_options: usize,
    tcp_flags: u8,
    size: u16,
    payload: Vec<u8>,
    seed: u32,
}

impl Shape {
    fn tcp4(size: u16, len: usize) -> Shape {
        Shape {
            is_v4: true,
            transport: Transport::Tcp,
            tos: 0,
            network_options: 0,
            transport_options: 3,
            tcp_flags: 0x10,
            size,
            payload: (0..len).map(|at| (at * 7 + at / 256) as u8).collect(),
            seed: 0x8765_4321,
        }
    }

    fn build(&self) -> Super {
        let transport_len = match self.transport {
            Transport::Tcp => 20 + self.transport_options * 4,
            Transport::Udp => 8,
        };
        let mut packet = self.network_header(transport_len + self.payload.len());
        let network_len = packet.len();
        packet.extend([0x1f, 0x90, 0x23, 0x28]);
        match self.transport {
            Transport::Tcp => {
                packet.extend(self.seed.to_be_bytes());
                packet.extend([0x11, 0x22, 0x33, 0x44]);
                packet.extend([(transport_len as u8 / 4) << 4, self.tcp_flags, 0x20, 0x00, 0, 0, 0, 0]);
                packet.extend((0..self.transport_options * 4).map(|at| at as u8 | 0x80));
            }
            Transport::Udp => {
                packet.extend(((8 + self.payload.len()) as u16).to_be_bytes());
                packet.extend([0, 0]);
            }
        }
        packet.extend(&self.payload);
        let size = self.size;
        let meta = Meta {
            segmentation: match (self.transport, self.is_v4) {
                (Transport::Tcp, true) => Segmentation::Tcp4 { size },
                (Transport::Tcp, false) => Segmentation::Tcp6 { size },
                (Transport::Udp, _) => Segmentation::Udp { size },
            },
            checksum: Checksum::Partial {
                start: network_len as u16,
                offset: self.transport.checksum_at() as u16,
            },
            header_len: (network_len + transport_len) as u16,
        };
        set_pseudo_header(&mut packet);
        Super { packet, meta }
    }

    fn network_header(&self, inner_len: usize) -> Vec<u8> {
        let protocol = self.transport.number();
        if self.is_v4 {
            let len = 20 + self.network_options * 4;
            let mut header = vec![0x40 | (len / 4) as u8, self.tos];
            header.extend(((len + inner_len) as u16).to_be_bytes());
            header.extend((self.seed as u16).to_be_bytes());
            header.extend([0x40, 0, 61, protocol, 0, 0, 192, 0, 2, 1, 198, 51, 100, 7]);
            header.resize(len, 1);
            write_v4(&mut header, (len + inner_len) as u16, self.seed as u16);
            return header;
        }
        let extension = self.network_options > 0;
        let options_len = if extension { 8 * self.network_options } else { 0 };
        let mut header = vec![0x60 | self.tos >> 4, self.tos << 4, 0x12, 0x34];
        header.extend(((options_len + inner_len) as u16).to_be_bytes());
        header.extend([if extension { 60 } else { protocol }, 61]);
        header.extend([0x20, 1, 0x0d, 0xb8, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1]);
        header.extend([0x20, 1, 0x0d, 0xb8, 0, 0, 0, 9, 0, 0, 0, 0, 0, 0, 0, 2]);
        if extension {
            header.extend([protocol, self.network_options as u8 - 1, 1, (options_len - 4) as u8]);
            header.resize(40 + options_len, 0);
        }
        header
    }
}

/// Puts into the checksum field what the kernel has there when the checksum is partial.
fn set_pseudo_header(packet: &mut [u8]) {
    let layout = Layout::of(packet).expect("TCP or UDP");
    let len = (packet.len() - layout.network_len) as u16;
    let sum = checksum::pseudo_header(layout.addresses(packet), layout.transport.number(), len);
    let at = layout.checksum_at();
    packet[at..at + 2].copy_from_slice(&sum.to_be_bytes());
}

/// The kernel's rules, told once more in the plainest way: headers rebuilt field by field for every segment.
fn kernel_segments(whole: &Super) -> Vec<Vec<u8>> {
    let layout = Layout::of(&whole.packet).expect("TCP or UDP");
    let (Segmentation::Tcp4 { size } | Segmentation::Tcp6 { size } | Segmentation::Udp { size }) =
        whole.meta.segmentation
    else {
        panic!("a single packet")
    };
    let (headers, payload) = whole.packet.split_at(layout.header_len);
    let chunks: Vec<&[u8]> = payload.chunks(size.into()).collect();
    let mut segments = Vec::new();
    for (number, chunk) in chunks.iter().enumerate() {
        let mut segment = [headers, chunk].concat();
        let total = segment.len() as u16;
        let at = layout.network_len;
        if layout.is_v4 {
            segment[2..4].copy_from_slice(&total.to_be_bytes());
            let id = u16::from_be_bytes([headers[4], headers[5]]).wrapping_add(number as u16);
            segment[4..6].copy_from_slice(&id.to_be_bytes());
            segment[10..12].fill(0);
            let sum = !checksum::sum(&segment[..at]);
            segment[10..12].copy_from_slice(&sum.to_be_bytes());
        } else {
            segment[4..6].copy_from_slice(&(total - 40).to_be_bytes());
        }
        match layout.transport {
            Transport::Udp => segment[at + 4..at + 6].copy_from_slice(&(total - at as u16).to_be_bytes()),
            Transport::Tcp => {
                let sequence =
                    u32::from_be_bytes([headers[at + 4], headers[at + 5], headers[at + 6], headers[at + 7]]);
                let sequence = sequence.wrapping_add(number as u32 * u32::from(size));
                segment[at + 4..at + 8].copy_from_slice(&sequence.to_be_bytes());
                if number + 1 < chunks.len() {
                    segment[at + 13] &= !0x09;
                }
                if number > 0 {
                    segment[at + 13] &= !0x80;
                }
            }
        }
        set_pseudo_header(&mut segment);
        checksum::complete(&mut segment[at..], layout.transport.checksum_at());
        segments.push(segment);
    }
    segments
}

fn cut(whole: &Super, fill: Fill) -> Vec<Vec<u8>> {
    let split = Split::new(&whole.packet, &whole.meta).expect("a super-packet");
    let write = |index| {
        let mut segment = vec![0xaa; split.len_of(index)];
        split.write(&whole.packet, index, fill, &mut segment);
        segment
    };
    (0..split.count()).map(write).collect()
}

/// Segments as they come out of opened datagrams, numbered from `counter` on.
fn arriving(segments: &[Vec<u8>], counter: u64) -> Vec<(Vec<u8>, Segment)> {
    let last = segments.len() - 1;
    let segment = |(index, bytes): (usize, &Vec<u8>)| {
        let mut flags = TrailerFlags::CSUM_PARTIAL.union(TrailerFlags::GSO_SEG);
        if index == 0 {
            flags = flags.union(TrailerFlags::FIRST);
        }
        if index == last {
            flags = flags.union(TrailerFlags::LAST);
        }
        let segment = Segment {
            receiver: RECEIVER,
            lane: Lane::FIRST,
            counter: Counter(counter + index as u64),
            trailer: Trailer { flags, index: index as u8 },
            partial: packet::checksummed(bytes),
        };
        (bytes.clone(), segment)
    };
    segments.iter().enumerate().map(segment).collect()
}

/// Feeds a device with what arrives, in this order; gives what it was told to write.
fn write_all(offloads: Offloads, arriving: &[(Vec<u8>, Segment)]) -> Vec<Super> {
    let mut buf = vec![0x55; 13];
    let mut places = Vec::new();
    for (bytes, segment) in arriving {
        let start = buf.len() + 50;
        buf.resize(start, 0x55);
        buf.extend(bytes);
        places.push((start..buf.len(), segment));
    }
    let mut run = Run::new(offloads);
    let mut written = Vec::new();
    let mut write = |run: &mut Run, buf: &mut [u8]| {
        let Some((meta, pieces)) = run.finish(buf) else { return };
        written.push(Super {
            packet: pieces.iter().flat_map(|piece| buf[piece.clone()].to_vec()).collect(),
            meta,
        });
    };
    for (place, segment) in places {
        if !run.push(&buf, place.clone(), segment) {
            write(&mut run, &mut buf);
            assert!(run.push(&buf, place, segment), "an empty run takes anything");
        }
    }
    write(&mut run, &mut buf);
    assert!(run.is_empty() && run.finish(&mut buf).is_none());
    written
}

/// What the kernel makes of a write: the packets on the wire, with complete checksums. Panics over what the kernel would
/// refuse.
fn wire(written: &Super) -> Vec<Vec<u8>> {
    let mut packet = written.packet.clone();
    assert!(packet::addresses(&packet).is_some(), "lengths agree");
    let Checksum::Partial { start, offset } = written.meta.checksum else {
        assert_eq!(written.meta, Meta::PLAIN);
        return vec![packet];
    };
    let layout = Layout::of(&packet).expect("TCP or UDP");
    assert_eq!(
        (usize::from(start), usize::from(offset)),
        (layout.network_len, layout.transport.checksum_at())
    );
    let mut expected = packet.clone();
    set_pseudo_header(&mut expected);
    assert!(expected == packet, "the field holds the sum over the pseudo-header");
    if written.meta.segmentation == Segmentation::None {
        checksum::complete(&mut packet[layout.network_len..], layout.transport.checksum_at());
        return vec![packet];
    }
    assert_eq!(usize::from(written.meta.header_len), layout.header_len);
    let segments = kernel_segments(written);
    assert!(segments.len() > 1 && segments.len() <= RUN_MAX, "{} segments", segments.len());
    segments
}

fn shapes() -> impl Strategy<Value = Shape> {
    let transport = prop_oneof![Just(Transport::Tcp), Just(Transport::Udp)];
    let network_options = prop_oneof![3 => Just(0), 1 => 0..5usize];
    let flags =
        prop_oneof![4 => Just(0x10u8), 1 => Just(0x18), 1 => Just(0x90), 1 => Just(0xd9), 1 => any::<u8>()];
    let sizes = (1..2000u16).prop_flat_map(|size| {
        let most = (usize::from(size) * 100).min(60_000);
        (Just(size), 1..=most)
    });
    (any::<bool>(), transport, any::<u8>(), network_options, 0..11usize, flags, sizes, any::<u32>()).prop_map(
        |(is_v4, transport, tos, network_options, transport_options, tcp_flags, (size, len), seed)| Shape {
            is_v4,
            transport,
            tos,
            network_options,
            transport_options,
            tcp_flags,
            size,
            payload: (0..len).map(|at| (at as u32 ^ seed) as u8).collect(),
            seed,
        },
    )
}

/// Whether merging may be expected to restore a super-packet whole.
fn merges_whole(shape: &Shape) -> bool {
    let alone = shape.transport == Transport::Tcp && shape.tcp_flags & TCP_ALONE != 0;
    shape.network_options == 0 && !alone
}

#[test]
fn a_stream_of_ordinary_segments_is_merged_into_one() {
    let whole = Shape { tcp_flags: 0x18, ..Shape::tcp4(1302, 46 * 1302) }.build();
    let segments = cut(&whole, Fill::Leave);
    assert_eq!(segments.len(), 46);
    let written = write_all(Offloads::ALL, &arriving(&segments, 1000));
    assert_eq!(written.len(), 1);
    assert!(written[0].packet == whole.packet);
    assert_eq!(written[0].meta, whole.meta);
}

#[test]
fn a_gap_makes_two_runs_and_an_end_waits_for_nothing() {
    let whole = Shape { tcp_flags: 0x99, ..Shape::tcp4(1000, 10_000) }.build();
    let mut segments = arriving(&cut(&whole, Fill::Leave), 5);
    segments.remove(4);
    let written = write_all(Offloads::ALL, &segments);
    let counts: Vec<usize> = written.iter().map(|run| wire(run).len()).collect();
    assert_eq!(counts, [4, 5]);
    // CWR with the first, FIN and PSH with the last.
    assert_eq!((written[0].packet[33], written[1].packet[33]), (0x90, 0x19));
}

#[test]
fn a_change_of_ecn_ends_a_run() {
    let whole = Shape { tos: 0x02, ..Shape::tcp4(500, 3000) }.build();
    let mut segments = cut(&whole, Fill::Leave);
    for segment in &mut segments[3..] {
        packet::mark_congestion(segment);
        assert_eq!(checksum::sum(&segment[..20]), 0xffff);
    }
    let written = write_all(Offloads::ALL, &arriving(&segments, 0));
    let seen: Vec<(usize, u8)> = written.iter().map(|run| (wire(run).len(), run.packet[1])).collect();
    assert_eq!(seen, [(3, 0x02), (3, 0x03)]);
}

#[test]
fn only_ecn_capable_packets_are_marked() {
    for (is_v4, tos, marked) in
        [(true, 0x00, 0x00), (true, 0xb9, 0xbb), (true, 0x03, 0x03), (false, 0x00, 0x00), (false, 0xb9, 0xbb)]
    {
        let mut packet = Shape { is_v4, tos, ..Shape::tcp4(500, 100) }.build().packet;
        packet::mark_congestion(&mut packet);
        let found = if is_v4 { packet[1] } else { packet[0] << 4 | packet[1] >> 4 };
        assert_eq!(found, marked, "{is_v4} {tos:#x}");
        assert_eq!(&packet[2..4], &(Shape { is_v4, tos, ..Shape::tcp4(500, 100) }.build().packet)[2..4]);
    }
}

#[test]
fn two_super_packets_stay_two() {
    let first = cut(&Shape::tcp4(1302, 13_020).build(), Fill::Leave);
    let second = cut(&Shape { seed: 0x8765_4321 + 13_020, ..Shape::tcp4(1302, 13_020) }.build(), Fill::Leave);
    let all = [arriving(&first, 0), arriving(&second, 10)].concat();
    assert_eq!(write_all(Offloads::ALL, &all).len(), 2);
}

#[test]
fn a_device_without_offload_gets_complete_single_packets() {
    let whole = Shape::tcp4(1302, 20_000).build();
    let written = write_all(Offloads::NONE, &arriving(&cut(&whole, Fill::Leave), 0));
    assert!(written.iter().all(|run| run.meta == Meta::PLAIN));
    let packets: Vec<_> = written.into_iter().map(|run| run.packet).collect();
    assert!(packets == kernel_segments(&whole));
}

#[test]
fn a_device_without_udp_offload_gets_single_datagrams_with_partial_checksums() {
    let shape = Shape { transport: Transport::Udp, ..Shape::tcp4(1200, 5000) };
    let offloads = Offloads { udp: false, ..Offloads::ALL };
    let written = write_all(offloads, &arriving(&cut(&shape.build(), Fill::Leave), 0));
    assert_eq!(written.len(), 5);
    assert!(written.iter().all(|run| matches!(run.meta.checksum, Checksum::Partial { .. })));
}

#[test]
fn a_sender_that_lies_about_its_segments_merges_nothing() {
    let whole = Shape::tcp4(1000, 3000).build();
    let honest = arriving(&cut(&whole, Fill::Leave), 0);
    type Lie = (&'static str, fn(&mut (Vec<u8>, Segment)));
    let lies: [Lie; 12] = [
        ("another source", |it| it.0[15] ^= 1),
        ("another destination", |it| it.0[19] ^= 1),
        ("another identification", |it| it.0[5] ^= 1),
        ("another time to live", |it| it.0[8] -= 1),
        ("another port", |it| it.0[21] ^= 1),
        ("another sequence number", |it| it.0[27] ^= 1),
        ("another acknowledgement", |it| it.0[31] ^= 1),
        ("another window", |it| it.0[35] ^= 1),
        ("another option", |it| it.0[41] ^= 1),
        ("SYN", |it| it.0[33] |= 2),
        ("CWR", |it| it.0[33] |= 0x80),
        ("an index out of order", |it| it.1.trailer.index = 5),
    ];
    for (what, lie) in lies {
        let mut segments = honest.clone();
        lie(&mut segments[1]);
        let written = write_all(Offloads::ALL, &segments);
        assert!(written.len() >= 2, "{what}: {}", written.len());
    }
}

#[test]
fn what_contradicts_its_metadata_is_not_cut() {
    let whole = Shape::tcp4(1000, 3000).build();
    let bad = [
        Meta { segmentation: Segmentation::None, ..whole.meta },
        Meta { segmentation: Segmentation::Tcp4 { size: 0 }, ..whole.meta },
        Meta { segmentation: Segmentation::Tcp6 { size: 1000 }, ..whole.meta },
        Meta { segmentation: Segmentation::Udp { size: 1000 }, ..whole.meta },
        Meta { checksum: Checksum::Complete, ..whole.meta },
        Meta { checksum: Checksum::Partial { start: 24, offset: 16 }, ..whole.meta },
        Meta { checksum: Checksum::Partial { start: 20, offset: 6 }, ..whole.meta },
    ];
    for meta in bad {
        assert!(Split::new(&whole.packet, &meta).is_none(), "{meta:?}");
    }
}

/// A UDP datagram that was sent alone, with the checksum left to the receiver.
fn datagram(is_v4: bool, identification: u16, payload_len: usize) -> Vec<u8> {
    let shape = Shape {
        is_v4,
        transport: Transport::Udp,
        seed: identification.into(),
        ..Shape::tcp4(1, payload_len)
    };
    let mut packet = shape.build().packet;
    let layout = Layout::of(&packet).expect("UDP");
    packet[layout.checksum_at()..layout.checksum_at() + 2].fill(0);
    packet
}

fn alone(packets: &[Vec<u8>]) -> Vec<(Vec<u8>, Segment)> {
    let arrive = |(index, bytes): (usize, &Vec<u8>)| {
        let segment = Segment {
            receiver: RECEIVER,
            lane: Lane::FIRST,
            counter: Counter(3 * index as u64),
            trailer: Trailer { flags: TrailerFlags::CSUM_PARTIAL, index: 0 },
            partial: packet::checksummed(bytes),
        };
        (bytes.clone(), segment)
    };
    packets.iter().enumerate().map(arrive).collect()
}

/// The packet as the receiver's kernel sees it when it comes alone.
fn completed(packet: &[u8]) -> Vec<u8> {
    let mut packet = packet.to_vec();
    set_pseudo_header(&mut packet);
    let layout = Layout::of(&packet).expect("UDP");
    checksum::complete(&mut packet[layout.network_len..], layout.transport.checksum_at());
    packet
}

/// Without the identification of an IPv4 packet that must not be fragmented, and the checksum over it.
fn without_identification(mut packet: Vec<u8>) -> Vec<u8> {
    if packet[0] >> 4 == 4 && packet[6] & DONT_FRAGMENT != 0 {
        packet[4..6].fill(0);
        packet[10..12].fill(0);
    }
    packet
}

#[test]
fn datagrams_of_one_flow_that_were_sent_one_by_one_are_one_write() {
    for is_v4 in [true, false] {
        let packets: Vec<_> = (0..20).map(|number| datagram(is_v4, 500 + number, 64)).collect();
        let written = write_all(Offloads::ALL, &alone(&packets));
        assert_eq!(written.len(), 1);
        assert_eq!(written[0].meta.segmentation, Segmentation::Udp { size: 64 });
        assert!(wire(&written[0]) == packets.iter().map(|it| completed(it)).collect::<Vec<_>>());
    }
}

#[test]
fn the_identification_is_looked_at_only_where_a_router_may_fragment() {
    let same: Vec<_> = (0..5).map(|_| datagram(true, 0, 64)).collect();
    assert_eq!(write_all(Offloads::ALL, &alone(&same)).len(), 1);
    let may_fragment = |mut packet: Vec<u8>, identification| {
        packet[6] &= !DONT_FRAGMENT;
        write_v4(&mut packet[..20], 92, identification);
        packet
    };
    let packets = [7, 8, 10, 10, 11].map(|number| may_fragment(datagram(true, number, 64), number));
    let written = write_all(Offloads::ALL, &alone(&packets));
    let counts: Vec<_> = written.iter().map(|run| wire(run).len()).collect();
    assert_eq!(counts, [2, 1, 2]);
    let packets: Vec<_> = packets.iter().map(|it| completed(it)).collect();
    assert!(written.iter().flat_map(wire).collect::<Vec<_>>() == packets);
}

#[test]
fn a_run_of_datagrams_ends_with_a_shorter_one_and_before_a_longer_one() {
    let packets: Vec<_> = [64, 64, 40, 40, 64, 64, 0, 0, 64].map(|len| datagram(true, 1, len)).into();
    let written = write_all(Offloads::ALL, &alone(&packets));
    let counts: Vec<_> = written.iter().map(|run| wire(run).len()).collect();
    assert_eq!(counts, [3, 1, 2, 1, 1, 1]);
    let many: Vec<_> = (0..150).map(|number| datagram(true, number, 64)).collect();
    let written = write_all(Offloads::ALL, &alone(&many));
    assert_eq!(written.iter().map(|run| wire(run).len()).collect::<Vec<_>>(), [64, 64, 22]);
}

#[test]
fn datagrams_that_differ_in_anything_else_stay_alone() {
    type Change = (&'static str, fn(&mut (Vec<u8>, Segment)));
    let changes: [Change; 11] = [
        ("another source", |it| it.0[15] ^= 1),
        ("another destination", |it| it.0[19] ^= 1),
        ("another time to live", |it| it.0[8] -= 1),
        ("another TOS", |it| it.0[1] ^= 1),
        ("another source port", |it| it.0[21] ^= 1),
        ("another port", |it| it.0[23] ^= 1),
        ("may be fragmented", |it| it.0[6] = 0),
        ("another session", |it| it.1.receiver = ReceiverIndex(8)),
        ("another lane", |it| it.1.lane = Lane::CONTROL),
        ("a complete checksum", |it| it.1.partial = None),
        ("a segment", |it| it.1.trailer.flags = it.1.trailer.flags.union(TrailerFlags::GSO_SEG)),
    ];
    let packets: Vec<_> = (0..3).map(|number| datagram(true, number, 64)).collect();
    for (what, change) in changes {
        let mut arriving = alone(&packets);
        change(&mut arriving[1]);
        assert_eq!(write_all(Offloads::ALL, &arriving).len(), 3, "{what}");
    }
    let tcp: Vec<_> = (0..3).map(|at| Shape { seed: 64 * at, ..Shape::tcp4(1, 64) }.build().packet).collect();
    assert_eq!(write_all(Offloads::ALL, &alone(&tcp)).len(), 3, "TCP");
    assert_eq!(write_all(Offloads { udp: false, ..Offloads::ALL }, &alone(&packets)).len(), 3);
    assert_eq!(write_all(Offloads::NONE, &alone(&packets)).len(), 3);
}

proptest! {
    #[test]
    fn datagrams_come_out_as_they_went_in(
        sent in prop::collection::vec((0..8u8, 0..4u16, prop_oneof![3 => Just(64usize), 1 => 0..70usize]), 1..200),
    ) {
        let mut packets: Vec<Vec<u8>> = Vec::new();
        for (number, (flow, step, len)) in sent.into_iter().enumerate() {
            let identification = (number as u16).wrapping_mul(step);
            let mut packet = datagram(flow & 1 == 0, identification, len);
            let port_at = Layout::of(&packet).expect("UDP").network_len + 1;
            packet[port_at] ^= flow >> 1 & 1;
            if flow & 5 == 4 {
                packet[6] &= !DONT_FRAGMENT;
                let len = packet.len() as u16;
                write_v4(&mut packet[..20], len, identification);
            }
            packets.push(packet);
        }
        let written = write_all(Offloads::ALL, &alone(&packets));
        let came_out: Vec<_> = written.iter().flat_map(wire).map(without_identification).collect();
        let expected: Vec<_> = packets.iter().map(|it| without_identification(completed(it))).collect();
        prop_assert!(came_out == expected);
    }
}

proptest! {
    #[test]
    fn cutting_gives_what_the_kernel_would(shape in shapes()) {
        let whole = shape.build();
        let segments = cut(&whole, Fill::Complete);
        prop_assert!(segments == kernel_segments(&whole));
    }

    #[test]
    fn cutting_and_merging_gives_the_super_packet_again(shape in shapes()) {
        let whole = shape.build();
        let segments = cut(&whole, Fill::Leave);
        let written = write_all(Offloads::ALL, &arriving(&segments, 77));
        let packets: Vec<_> = written.iter().flat_map(wire).collect();
        prop_assert!(packets == kernel_segments(&whole), "on the wire");
        if merges_whole(&shape) {
            prop_assert_eq!(written.len(), 1);
            prop_assert!(written[0].packet == whole.packet);
            if segments.len() > 1 {
                prop_assert_eq!(written[0].meta, whole.meta);
            }
        }
    }

    #[test]
    fn whatever_is_lost_doubled_or_late_every_packet_that_comes_out_is_one_that_went_in(
        shapes in prop::collection::vec(shapes(), 1..4),
        moves in prop::collection::vec((any::<prop::sample::Index>(), any::<prop::sample::Index>(), 0..3u8), 0..12),
        offloads in prop_oneof![Just(Offloads::ALL), Just(Offloads::NONE), Just(Offloads { udp: false, ..Offloads::ALL })],
    ) {
        let mut segments = Vec::new();
        let mut sent = Vec::new();
        for shape in &shapes {
            let whole = shape.build();
            let counter = segments.len() as u64;
            segments.extend(arriving(&cut(&whole, Fill::Leave), counter));
            sent.extend(kernel_segments(&whole));
        }
        let mut order: Vec<usize> = (0..segments.len()).collect();
        for (from, to, what) in moves {
            if order.is_empty() {
                break;
            }
            let (from, to) = (from.index(order.len()), to.index(order.len()));
            match what {
                0 => { order.remove(from); }
                1 => { let it = order[from]; order.insert(to, it); }
                _ => order.swap(from, to),
            }
        }
        let arrived: Vec<_> = order.iter().map(|at| segments[*at].clone()).collect();
        let written = write_all(offloads, &arrived);
        let came_out: Vec<_> = written.iter().flat_map(wire).collect();
        let expected: Vec<_> = order.iter().map(|at| sent[*at].clone()).collect();
        prop_assert!(came_out == expected, "each once for each arrival, in that order");
    }

    #[test]
    fn no_packet_and_no_metadata_makes_it_panic(
        shape in shapes(),
        changes in prop::collection::vec((0..80usize, any::<u8>()), 0..6),
        cut_off in 0..60usize,
        start in any::<u16>(),
        offset in any::<u16>(),
    ) {
        let mut whole = shape.build();
        for (at, value) in changes {
            if let Some(byte) = whole.packet.get_mut(at) {
                *byte = value;
            }
        }
        whole.packet.truncate(whole.packet.len() - cut_off.min(whole.packet.len() - 1));
        let mut single = whole.packet.clone();
        let meta = Meta { checksum: Checksum::Partial { start, offset }, ..Meta::PLAIN };
        crate::dataplane::tx::complete(&mut single, &meta);
        if packet::addresses(&whole.packet).is_none() {
            return Ok(());
        }
        if let Some(split) = Split::new(&whole.packet, &whole.meta) {
            let segments: Vec<_> = (0..split.count()).map(|index| {
                let mut segment = vec![0; split.len_of(index)];
                split.write(&whole.packet, index, Fill::Complete, &mut segment);
                segment
            }).collect();
            write_all(Offloads::ALL, &arriving(&segments, 0));
        }
    }
}
