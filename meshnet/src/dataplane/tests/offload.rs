//! Super-packets from one device to another, sealed.

use proto::data::{self, TrailerFlags};
use proto::lane::Lane;

use super::*;
use crate::dataplane::checksum;
use crate::dataplane::meta::{Checksum, Offloads, Segmentation};
use crate::dataplane::packet::Layout;

/// A TCP super-packet over IPv4 with timestamps, and its metadata.
pub(super) fn tcp(from: IpAddr, to: IpAddr, size: u16, len: usize) -> (Vec<u8>, Meta) {
    let (IpAddr::V4(from), IpAddr::V4(to)) = (from, to) else { panic!("IPv4 only") };
    let mut packet = vec![0x45, 0];
    packet.extend(((52 + len) as u16).to_be_bytes());
    packet.extend([0x12, 0x34, 0x40, 0, 64, 6, 0, 0]);
    packet.extend(from.octets());
    packet.extend(to.octets());
    packet.extend([0x1f, 0x90, 0x23, 0x28, 0, 0, 0, 9, 0, 0, 0, 1, 0x80, 0x18, 0x20, 0, 0, 0, 0, 0]);
    packet.extend([1, 1, 8, 10, 0, 0, 0, 1, 0, 0, 0, 2]);
    packet.extend((0..len).map(|at| (at * 13 + at / 256) as u8));
    let sum = !checksum::sum(&packet[..20]);
    packet[10..12].copy_from_slice(&sum.to_be_bytes());
    let layout = Layout::of(&packet).expect("TCP");
    let pseudo = checksum::pseudo_header(layout.addresses(&packet), 6, (32 + len) as u16);
    packet[36..38].copy_from_slice(&pseudo.to_be_bytes());
    let segmentation = if len > usize::from(size) { Segmentation::Tcp4 { size } } else { Segmentation::None };
    let header_len = if segmentation == Segmentation::None { 0 } else { 52 };
    (packet, Meta { segmentation, checksum: Checksum::Partial { start: 20, offset: 16 }, header_len })
}

/// Lets `sender` know what the peer in slot 1 can do, and where it is reached too.
pub(super) fn peer_with(sender: &mut Snapshot, offload: bool, duplicate: Option<Carrier>) {
    let peer = sender.peers[1].as_ref().expect("a peer");
    sender.peers[1] = Some(Arc::new(PeerTx {
        member: peer.member,
        sealer: peer.sealer.clone(),
        primary: peer.primary.clone(),
        duplicate,
        spread: None,
        mtu: peer.mtu,
        offload,
        silent: false,
        stats: peer.stats.clone(),
    }));
}

/// Passes a packet through the sender's transform, with so much room for segments; returns the datagrams on the chosen
/// path and on the second one.
fn send_all(snapshot: &Snapshot, packet: &[u8], meta: &Meta, room: usize) -> (Vec<Vec<u8>>, Vec<Vec<u8>>) {
    send_all_by(&mut Tx::new(), snapshot, packet, meta, room)
}

/// As [`send_all`], by this transform.
pub(super) fn send_all_by(
    tx: &mut Tx,
    snapshot: &Snapshot,
    packet: &[u8],
    meta: &Meta,
    room: usize,
) -> (Vec<Vec<u8>>, Vec<Vec<u8>>) {
    let mut buf = vec![0xee; HEADROOM + packet.len() + TAILROOM + room];
    let inner = HEADROOM..HEADROOM + packet.len();
    buf[inner.clone()].copy_from_slice(packet);
    let (mut first, mut second) = (Vec::new(), Vec::new());
    match tx.process(snapshot, NOW, &mut buf, inner.clone(), meta) {
        TxVerdict::Send { first: one, second: other } => {
            first.push(buf[one.range].to_vec());
            second.extend(other.map(|other| buf[other.range].to_vec()));
        }
        TxVerdict::Cut(mut cut) => {
            while cut.left() > 0 {
                let free = inner.end + TAILROOM..buf.len();
                let (one, other) = cut.seal(&mut buf, inner.clone(), free).expect("room");
                assert!(one.count <= tx::BURST_MAX && one.bytes() <= 65_507);
                first.extend(one.datagrams().map(|range| buf[range].to_vec()));
                second.extend(other.iter().flat_map(|it| it.datagrams()).map(|range| buf[range].to_vec()));
            }
        }
        other => panic!("{other:?}"),
    }
    (first, second)
}

/// Passes datagrams of node 0 through the relay.
fn relay_all(datagrams: &[Vec<u8>]) -> Vec<Vec<u8>> {
    let (mut rx, snapshot) = (Rx::new(), snapshot(RELAY, None));
    let forward = |datagram: &Vec<u8>| match receive(&mut rx, &snapshot, 0, datagram) {
        (Verdict::Forward { datagram, .. }, buf) => buf[datagram].to_vec(),
        (other, _) => panic!("{other:?}"),
    };
    datagrams.iter().map(forward).collect()
}

/// Passes datagrams through the receiver's transforms; returns what the device is told to write.
fn write_all(
    rx: &mut Rx,
    snapshot: &Snapshot,
    offloads: Offloads,
    from: usize,
    datagrams: &[Vec<u8>],
) -> Vec<(Vec<u8>, Meta)> {
    let mut buf = datagrams.concat();
    let mut run = Run::new(offloads);
    let mut written = Vec::new();
    let mut write = |run: &mut Run, buf: &mut [u8]| {
        let Some((meta, pieces)) = run.finish(buf) else { return };
        written.push((pieces.iter().flat_map(|piece| buf[piece.clone()].to_vec()).collect(), meta));
    };
    let mut start = 0;
    for datagram in datagrams {
        let range = start..start + datagram.len();
        start = range.end;
        let Verdict::Deliver { packet, segment, .. } =
            rx.process(snapshot, NOW, SOCKET, endpoint(from), &mut buf, range)
        else {
            continue;
        };
        if !run.push(&buf, packet.clone(), &segment) {
            write(&mut run, &mut buf);
            assert!(run.push(&buf, packet, &segment));
        }
    }
    write(&mut run, &mut buf);
    written
}

#[test]
fn a_super_packet_arrives_as_it_left_direct_and_through_a_relay() {
    for label in [None, Some(RelayLabel::LONG), Some(RelayLabel(3))] {
        let mut sender = snapshot(0, label);
        peer_with(&mut sender, true, None);
        let (packet, meta) = tcp(overlay(0), overlay(1), 1302, 59_000);
        let (mut datagrams, _) = send_all(&sender, &packet, &meta, 70_000);
        assert_eq!(datagrams.len(), 59_000_usize.div_ceil(1302));
        assert!(datagrams[..45].iter().all(|datagram| datagram.len() == datagrams[0].len()), "equal lengths");
        let mut from = 0;
        if label.is_some() {
            datagrams = relay_all(&datagrams);
            from = RELAY;
        }
        let written = write_all(&mut Rx::new(), &snapshot(1, None), Offloads::ALL, from, &datagrams);
        assert_eq!(written.len(), 1, "{label:?}");
        let differs = written[0].0.iter().zip(&packet).position(|(a, b)| a != b);
        assert_eq!((written[0].0.len(), written[0].1, differs), (packet.len(), meta, None), "{label:?}");
    }
}

#[test]
fn no_byte_of_a_super_packet_leaves_in_clear() {
    for label in [None, Some(RelayLabel(3))] {
        let mut sender = snapshot(0, label);
        peer_with(&mut sender, true, None);
        let (mut packet, meta) = tcp(overlay(0), overlay(1), 1000, 20_000);
        packet[52..].fill(b'x');
        let (datagrams, _) = send_all(&sender, &packet, &meta, 70_000);
        let clear = datagrams.iter().any(|datagram| datagram.windows(8).any(|window| window == b"xxxxxxxx"));
        assert!(!clear);
    }
}

#[test]
fn tiny_segments_and_little_room_take_several_bursts_with_counters_in_a_row() {
    let mut sender = snapshot(0, None);
    peer_with(&mut sender, true, None);
    let (packet, meta) = tcp(overlay(0), overlay(1), 8, 4_001);
    let (datagrams, _) = send_all(&sender, &packet, &meta, 5_000);
    let counters: Vec<u64> =
        datagrams.iter().map(|it| data::Header::parse(it).expect("a header").counter.0).collect();
    assert_eq!(counters, (0..501).collect::<Vec<_>>());
    let written = write_all(&mut Rx::new(), &snapshot(1, None), Offloads::ALL, 0, &datagrams);
    let payload: Vec<u8> = written.iter().flat_map(|(packet, _)| packet[52..].to_vec()).collect();
    assert!(payload == packet[52..]);
    assert_eq!(written.len(), 501_usize.div_ceil(crate::dataplane::merge::RUN_MAX));
}

#[test]
fn a_peer_without_offload_gets_complete_packets() {
    let sender = snapshot(0, None);
    let (packet, meta) = tcp(overlay(0), overlay(1), 1302, 10_000);
    let (datagrams, _) = send_all(&sender, &packet, &meta, 70_000);
    let written = write_all(&mut Rx::new(), &snapshot(1, None), Offloads::NONE, 0, &datagrams);
    assert_eq!(written.len(), 8);
    for (packet, meta) in &written {
        assert_eq!(*meta, Meta::PLAIN);
        let pseudo = checksum::pseudo_header(&packet[12..20], 6, (packet.len() - 20) as u16);
        assert_eq!(checksum::add(checksum::sum(&packet[20..]), pseudo), 0xffff);
    }
}

#[test]
fn both_paths_carry_a_super_packet_while_one_is_in_doubt() {
    let mut sender = snapshot(0, Some(RelayLabel(3)));
    peer_with(&mut sender, true, Some(Carrier::Direct { socket: SOCKET, to: endpoint(1) }));
    let (packet, meta) = tcp(overlay(0), overlay(1), 1302, 20_000);
    let (relayed, direct) = send_all(&sender, &packet, &meta, 70_000);
    assert_eq!(relayed.len(), direct.len());
    let (mut rx, receiver) = (Rx::new(), snapshot(1, None));
    let relayed = relay_all(&relayed);
    let written = write_all(&mut rx, &receiver, Offloads::ALL, 0, &direct);
    assert!(written == [(packet, meta)]);
    assert!(write_all(&mut rx, &receiver, Offloads::ALL, RELAY, &relayed).is_empty(), "once is enough");
}

/// A second relayed carrier from node 0 to 1, with the long header.
fn second_relay(sender: &Snapshot) -> Carrier {
    let hop = sender.peer(slot(RELAY)).expect("the relay").sealer.clone();
    let (destination, source) = (member(1), member(0));
    Carrier::Relayed { socket: SOCKET, to: endpoint(9), hop, label: RelayLabel::LONG, destination, source }
}

#[test]
fn two_relays_carry_super_packets_and_single_ones_while_one_is_in_doubt() {
    let mut sender = snapshot(0, Some(RelayLabel(3)));
    let second = second_relay(&sender);
    peer_with(&mut sender, true, Some(second));
    for (size, len, room) in [(1302, 20_000, 100_000), (1302, 20_000, 9_000), (1302, 100, 3_000)] {
        let (packet, meta) = tcp(overlay(0), overlay(1), size, len);
        let (one, other) = send_all(&sender, &packet, &meta, room);
        assert_eq!((one.len(), other.len()), (len.div_ceil(1302), len.div_ceil(1302)));
        let (one, other) = (relay_all(&one), relay_all(&other));
        for (first, then) in [(&one, &other), (&other, &one)] {
            let (mut rx, receiver) = (Rx::new(), snapshot(1, None));
            let written = write_all(&mut rx, &receiver, Offloads::ALL, RELAY, first);
            assert!(written == [(packet.clone(), meta)], "{size} {len} {room}");
            assert!(write_all(&mut rx, &receiver, Offloads::ALL, RELAY, then).is_empty(), "once is enough");
        }
    }
}

#[test]
fn what_a_relay_lost_is_sent_again_once_and_what_a_direct_path_carried_is_not() {
    let mut sender = snapshot(0, Some(RelayLabel(3)));
    let mut tx = Tx::new();
    let packets: Vec<Vec<u8>> = (0..5).map(|number| udp(overlay(0), overlay(1), &[number; 20])).collect();
    let send = |tx: &mut Tx, sender: &Snapshot, packet: &[u8]| {
        let mut buf = [&vec![0; HEADROOM][..], packet, &[0; TAILROOM]].concat();
        let inner = HEADROOM..HEADROOM + packet.len();
        let verdict = tx.process(sender, NOW, &mut buf, inner, &Meta::PLAIN);
        assert!(matches!(verdict, TxVerdict::Send { second: None, .. }));
    };
    packets.iter().for_each(|packet| send(&mut tx, &sender, packet));
    send(&mut tx, &snapshot(0, None), &udp(overlay(0), overlay(1), b"by a direct path"));
    assert!(!tx.has_resend(&sender));
    let second = second_relay(&sender);
    peer_with(&mut sender, true, Some(second));
    sender.resend.number = 1;
    sender.resend.peers = Arc::new([(1, slot(1))]);
    assert!(tx.has_resend(&sender));
    let mut again = Vec::new();
    let count = tx.resend(&sender, NOW, &mut [0; 2000], |buf, out| {
        assert_eq!(out.to, endpoint(9), "over the other path");
        again.push(buf[out.range].to_vec());
    });
    assert_eq!(count, packets.len());
    assert!(!tx.has_resend(&sender));
    let written = write_all(&mut Rx::new(), &snapshot(1, None), Offloads::ALL, RELAY, &relay_all(&again));
    assert_eq!(written.into_iter().map(|(packet, _)| packet).collect::<Vec<_>>(), packets);
}

#[test]
fn a_single_packet_with_a_partial_checksum_arrives_so_and_a_complete_one_verbatim() {
    let mut sender = snapshot(0, None);
    peer_with(&mut sender, true, None);
    let (packet, meta) = tcp(overlay(0), overlay(1), 1302, 100);
    let (datagrams, _) = send_all(&sender, &packet, &meta, 0);
    let written = write_all(&mut Rx::new(), &snapshot(1, None), Offloads::ALL, 0, &datagrams);
    assert!(written == [(packet.clone(), meta)]);
    let (datagrams, _) = send_all(&sender, &packet, &Meta::PLAIN, 0);
    let written = write_all(&mut Rx::new(), &snapshot(1, None), Offloads::ALL, 0, &datagrams);
    assert!(written == [(packet, Meta::PLAIN)]);
}

#[test]
fn a_checksum_deep_in_a_packet_is_completed_before_it_leaves() {
    let mut sender = snapshot(0, None);
    peer_with(&mut sender, true, None);
    let packet = udp(overlay(0), overlay(1), &[7; 60]);
    let meta = Meta { checksum: Checksum::Partial { start: 48, offset: 16 }, ..Meta::PLAIN };
    let (datagrams, _) = send_all(&sender, &packet, &meta, 0);
    let written = write_all(&mut Rx::new(), &snapshot(1, None), Offloads::ALL, 0, &datagrams);
    assert_eq!(written[0].1, Meta::PLAIN);
    // What the field held before stands for the pseudo-header.
    assert_eq!(checksum::add(checksum::sum(&written[0].0[48..]), 0x0707), 0xffff);
    let outside = Meta { checksum: Checksum::Partial { start: 80, offset: 16 }, ..Meta::PLAIN };
    let mut buf = [&vec![0; HEADROOM][..], &packet, &[0; TAILROOM]].concat();
    let inner = HEADROOM..HEADROOM + packet.len();
    let verdict = Tx::new().process(&sender, NOW, &mut buf, inner, &outside);
    assert!(matches!(verdict, TxVerdict::Drop(Drop::Malformed)));
}

#[test]
fn a_partial_checksum_that_nobody_can_place_is_not_delivered() {
    let sender = snapshot(0, None);
    let peer = sender.peer(slot(1)).expect("a peer");
    let mut fragment = udp(overlay(0), overlay(1), b"part of something longer");
    fragment[6] = 0x20;
    let mut wrong_len = udp(overlay(0), overlay(1), b"not so long");
    wrong_len[25] = 99;
    for packet in [fragment, wrong_len] {
        let mut buf = [&vec![0; HEADROOM][..], &packet, &[0; TAILROOM]].concat();
        let inner = HEADROOM..HEADROOM + packet.len();
        let sealed = tx::seal(peer, Lane::FIRST, &mut buf, inner, TrailerFlags::CSUM_PARTIAL);
        let datagram = buf[sealed.expect("sealed").0.range].to_vec();
        let verdict = receive(&mut Rx::new(), &snapshot(1, None), 0, &datagram).0;
        assert_eq!(verdict, Verdict::Drop(Drop::Malformed));
    }
}

#[test]
fn each_source_address_is_checked_though_the_last_one_was_right() {
    let sender = snapshot(0, None);
    let peer = sender.peer(slot(1)).expect("a peer");
    let mut rx = Rx::new();
    let mut verdict_on = |packet: Vec<u8>| {
        let mut buf = [&vec![0; HEADROOM][..], &packet, &[0; TAILROOM]].concat();
        let inner = HEADROOM..HEADROOM + packet.len();
        let sealed = tx::seal(peer, Lane::FIRST, &mut buf, inner, TrailerFlags::empty()).expect("sealed");
        let datagram = buf[sealed.0.range].to_vec();
        receive(&mut rx, &snapshot(1, None), 0, &datagram).0
    };
    for _ in 0..2 {
        assert!(matches!(verdict_on(udp(overlay(0), overlay(1), b"right")), Verdict::Deliver { .. }));
        let spoofed = verdict_on(udp(overlay(2), overlay(1), b"wrong"));
        assert_eq!(spoofed, Verdict::Drop(Drop::SourceNotCertified));
        let astray = verdict_on(udp(overlay(0), overlay(2), b"wrong"));
        assert_eq!(astray, Verdict::Drop(Drop::NotForUs));
    }
}

proptest! {
    #[test]
    fn a_lossy_way_costs_only_what_it_lost(
        size in 500..1400u16,
        len in 1..50_000usize,
        lost in prop::collection::btree_set(0..100usize, 0..20),
    ) {
        let mut sender = snapshot(0, None);
        peer_with(&mut sender, true, None);
        let (packet, meta) = tcp(overlay(0), overlay(1), size, len);
        let (datagrams, _) = send_all(&sender, &packet, &meta, 70_000);
        let arrived: Vec<_> = datagrams
            .iter()
            .enumerate()
            .filter(|(index, _)| !lost.contains(index))
            .map(|(_, datagram)| datagram.clone())
            .collect();
        let written = write_all(&mut Rx::new(), &snapshot(1, None), Offloads::ALL, 0, &arrived);
        let got: usize = written.iter().map(|(packet, _)| packet.len() - 52).sum();
        let expected: usize = packet[52..]
            .chunks(size.into())
            .enumerate()
            .filter(|(index, _)| !lost.contains(index))
            .map(|(_, chunk)| chunk.len())
            .sum();
        prop_assert_eq!(got, expected);
        for (part, _) in &written {
            let at = u32::from_be_bytes([part[24], part[25], part[26], part[27]]) as usize - 9;
            let payload = &part[52..];
            prop_assert!(payload == &packet[52 + at..52 + at + payload.len()]);
        }
    }
}
