mod offload;
mod secrecy;
mod spread;
pub(super) mod two;

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use proptest::prelude::*;
use proto::id::{MemberId, ReceiverIndex, RelayLabel};
use proto::lane::{Lane, Role};

use super::meta::Meta;
use super::snapshot::{MemberSlot, Receivers};
use super::*;
use crate::crypto::{Opener, Sealer, Suite};
use crate::membership::SourceTableBuilder;
use crate::path::SocketId;
use crate::route::FibBuilder;
use crate::time::Mono;

const NOW: Mono = Mono(5_000_000);
const SOCKET: SocketId = SocketId(0);
const RELAY: usize = 2;

fn member(at: usize) -> MemberId {
    MemberId([at as u8 + 1; 16])
}

fn slot(at: usize) -> MemberSlot {
    MemberSlot(at as u32)
}

fn endpoint(at: usize) -> SocketAddr {
    SocketAddr::from(([192, 0, 2, at as u8 + 1], 7946))
}

fn overlay(at: usize) -> IpAddr {
    [10, 99, 0, at as u8 + 1].into()
}

/// The receiver index of the session from `from` at `at`, and its key.
fn index(from: usize, at: usize) -> ReceiverIndex {
    ReceiverIndex((from as u32 + 1) * 1000 + at as u32)
}

fn key(from: usize, at: usize) -> [u8; 32] {
    [(from * 16 + at) as u8 + 1; 32]
}

/// What nodes 0, 1, and the relay 2 see; 0 and 1 reach each other through the relay when `relayed`.
fn snapshot(at: usize, relayed: Option<RelayLabel>) -> Snapshot {
    let mut fib = FibBuilder::new();
    let mut sources = SourceTableBuilder::new();
    let mut receivers = Receivers::default();
    let mut peers = vec![None, None, None];
    let sealer =
        |to: usize| Arc::new(Sealer::new(Suite::ChaCha20Poly1305, &key(at, to), index(at, to), true));
    let to_relay = sealer(RELAY);
    for (other, entry) in peers.iter_mut().enumerate() {
        fib.add_address(overlay(other), slot(other));
        sources.add_address(overlay(other), slot(other));
        if other == at {
            continue;
        }
        let direct = Carrier::Direct { socket: SOCKET, to: endpoint(other) };
        let primary = match relayed {
            Some(label) if other != RELAY && at != RELAY => Carrier::Relayed {
                socket: SOCKET,
                to: endpoint(RELAY),
                hop: to_relay.clone(),
                label,
                destination: member(other),
                source: member(at),
            },
            _ => direct,
        };
        let stats = Arc::new(PeerStats::default());
        let sealer = if other == RELAY { to_relay.clone() } else { sealer(other) };
        *entry = Some(Arc::new(PeerTx {
            member: member(other),
            sealer,
            primary,
            duplicate: None,
            spread: None,
            mtu: u16::MAX,
            offload: false,
            silent: false,
            stats: stats.clone(),
        }));
        let receiver = Receiver {
            slot: slot(other),
            member: member(other),
            is_relay: other == RELAY,
            packets: true,
            opener: Arc::new(Opener::new(Suite::ChaCha20Poly1305, &key(other, at), true)),
            stats,
        };
        receivers.insert(index(other, at), receiver);
    }
    Snapshot {
        generation: 1,
        own: member(at),
        fib: Arc::new(fib.build()),
        peers,
        receivers,
        sources: Arc::new(sources.build()),
        local: LocalPrefixes::new(vec![overlay(at)], Vec::new()),
        relay: (at == RELAY).then(|| relay_table(&to_relay)),
        ..Snapshot::default()
    }
}

fn relay_table(_: &Arc<Sealer>) -> RelayTable {
    let hop = |to: usize| RelayHop {
        neighbour: slot(to),
        socket: SOCKET,
        to: endpoint(to),
        sealer: Arc::new(Sealer::new(Suite::ChaCha20Poly1305, &key(RELAY, to), index(RELAY, to), true)),
        label: RelayLabel::SELF,
    };
    RelayTable {
        labels: vec![None, None, Some(slot(0)), Some(slot(1))],
        members: vec![(member(0), slot(0)), (member(1), slot(1))],
        hops: vec![Some(Arc::new(hop(0))), Some(Arc::new(hop(1))), None],
        limit: None,
    }
}

fn udp(from: IpAddr, to: IpAddr, payload: &[u8]) -> Vec<u8> {
    let (IpAddr::V4(from), IpAddr::V4(to)) = (from, to) else { panic!("IPv4 only") };
    let total_len = (28 + payload.len()) as u16;
    let mut packet = vec![0x45, 0];
    packet.extend(total_len.to_be_bytes());
    packet.extend([0, 0, 0, 0, 64, 17, 0, 0]);
    packet.extend(from.octets());
    packet.extend(to.octets());
    packet.extend([0; 8]);
    packet.extend(payload);
    packet
}

/// Passes a plain packet through the sender's transform; returns the datagram, or why it was dropped.
fn send(snapshot: &Snapshot, packet: &[u8]) -> Result<Vec<u8>, Option<Drop>> {
    let mut buf = vec![0; HEADROOM + packet.len() + TAILROOM];
    let range = HEADROOM..HEADROOM + packet.len();
    buf[range.clone()].copy_from_slice(packet);
    match Tx::new().process(snapshot, NOW, &mut buf, range, &Meta::PLAIN) {
        TxVerdict::Send { first, .. } => Ok(buf[first.range].to_vec()),
        TxVerdict::Drop(reason) => Err(Some(reason)),
        TxVerdict::Silent
        | TxVerdict::HandUp
        | TxVerdict::Cut(_)
        | TxVerdict::Fragment(_)
        | TxVerdict::TooBig { .. } => Err(None),
    }
}

/// Passes a datagram through the receiver's transform; returns the verdict and the buffer.
fn receive(rx: &mut Rx, snapshot: &Snapshot, from: usize, datagram: &[u8]) -> (Verdict, Vec<u8>) {
    let mut buf = datagram.to_vec();
    let all = 0..buf.len();
    let verdict = rx.process(snapshot, NOW, SOCKET, endpoint(from), &mut buf, all);
    (verdict, buf)
}

fn delivered(outcome: (Verdict, Vec<u8>)) -> Vec<u8> {
    match outcome {
        (Verdict::Deliver { packet, .. }, buf) => buf[packet].to_vec(),
        (other, _) => panic!("{other:?}"),
    }
}

/// Passes a datagram through the relay; returns what it sends on.
fn relay(rx: &mut Rx, from: usize, datagram: &[u8]) -> Result<Vec<u8>, Verdict> {
    match receive(rx, &snapshot(RELAY, None), from, datagram) {
        (Verdict::Forward { datagram, .. }, buf) => Ok(buf[datagram].to_vec()),
        (other, _) => Err(other),
    }
}

#[test]
fn a_packet_arrives_unchanged_and_never_twice() {
    let packet = udp(overlay(0), overlay(1), b"hello");
    let datagram = send(&snapshot(0, None), &packet).expect("sent");
    assert!(!datagram.windows(5).any(|window| window == b"hello"), "left in clear");
    let (mut rx, receiver) = (Rx::new(), snapshot(1, None));
    assert_eq!(delivered(receive(&mut rx, &receiver, 0, &datagram)), packet);
    assert_eq!(receive(&mut rx, &receiver, 0, &datagram).0, Verdict::Drop(Drop::Replayed));
}

#[test]
fn a_relayed_packet_arrives_unchanged_in_both_header_forms_and_the_relay_sees_only_ciphertext() {
    for label in [RelayLabel::LONG, RelayLabel(3)] {
        let packet = udp(overlay(0), overlay(1), b"secret payload");
        let datagram = send(&snapshot(0, Some(label)), &packet).expect("sent");
        let mut rx = Rx::new();
        let forwarded = relay(&mut rx, 0, &datagram).expect("forwarded");
        for bytes in [&datagram, &forwarded] {
            assert!(!bytes.windows(6).any(|window| window == b"secret"), "left in clear");
        }
        assert_eq!(delivered(receive(&mut Rx::new(), &snapshot(1, None), RELAY, &forwarded)), packet);
        assert_eq!(relay(&mut rx, 0, &datagram), Err(Verdict::Drop(Drop::Replayed)));
    }
}

#[test]
fn a_packet_that_came_by_two_paths_is_delivered_once() {
    let mut sender = snapshot(0, Some(RelayLabel(3)));
    let peer = sender.peers[1].as_ref().expect("a peer");
    sender.peers[1] = Some(Arc::new(PeerTx {
        member: peer.member,
        sealer: peer.sealer.clone(),
        primary: peer.primary.clone(),
        duplicate: Some(Carrier::Direct { socket: SOCKET, to: endpoint(1) }),
        spread: None,
        mtu: peer.mtu,
        offload: peer.offload,
        silent: false,
        stats: peer.stats.clone(),
    }));
    let packet = udp(overlay(0), overlay(1), b"twice");
    let mut buf = vec![0; HEADROOM + packet.len() + TAILROOM];
    let range = HEADROOM..HEADROOM + packet.len();
    buf[range.clone()].copy_from_slice(&packet);
    let TxVerdict::Send { first, second: Some(second) } =
        Tx::new().process(&sender, NOW, &mut buf, range, &Meta::PLAIN)
    else {
        panic!("two datagrams")
    };
    let (mut rx, receiver) = (Rx::new(), snapshot(1, None));
    let relayed = relay(&mut Rx::new(), 0, &buf[first.range]).expect("forwarded");
    assert_eq!(delivered(receive(&mut rx, &receiver, 0, &buf[second.range])), packet);
    assert_eq!(receive(&mut rx, &receiver, RELAY, &relayed).0, Verdict::Drop(Drop::Replayed));
}

#[test]
fn an_inner_source_that_is_not_certified_for_the_sender_is_dropped() {
    // The sender's own filter would stop it: a malicious member has none.
    let mut sender = snapshot(0, None);
    sender.local = LocalPrefixes::new(vec![overlay(2)], Vec::new());
    let datagram = send(&sender, &udp(overlay(2), overlay(1), b"spoofed")).expect("sent");
    let verdict = receive(&mut Rx::new(), &snapshot(1, None), 0, &datagram).0;
    assert_eq!(verdict, Verdict::Drop(Drop::SourceNotCertified));
}

/// The source is that of the fixed header, whatever follows it.
#[test]
fn extension_headers_hide_no_source() {
    let (own, foreign, target): (IpAddr, IpAddr, IpAddr) =
        ("fd00::1".parse().unwrap(), "fd00::66".parse().unwrap(), "fd00::2".parse().unwrap());
    let packet = |source: IpAddr| {
        let (IpAddr::V6(source), IpAddr::V6(to)) = (source, target) else { unreachable!() };
        // Hop-by-hop, destination options, routing (with an address that is allowed in it), and nothing behind.
        let mut rest = vec![60, 0, 1, 4, 0, 0, 0, 0, 43, 0, 1, 4, 0, 0, 0, 0];
        rest.extend([59, 2, 4, 0, 0, 0, 0, 0]);
        rest.extend("fd00::1".parse::<std::net::Ipv6Addr>().unwrap().octets());
        let mut packet = vec![0x60, 0, 0, 0, 0, rest.len() as u8, 0, 64];
        packet.extend(source.octets());
        packet.extend(to.octets());
        packet.extend(rest);
        packet
    };
    let mut sender = snapshot(0, None);
    let mut fib = FibBuilder::new();
    fib.add_address(target, slot(1));
    sender.fib = Arc::new(fib.build());
    sender.local = LocalPrefixes::new(vec![own], Vec::new());
    assert_eq!(send(&sender, &packet(foreign)), Err(Some(Drop::ForeignSource)));
    assert!(send(&sender, &packet(own)).is_ok());
    // A malicious member sends it all the same.
    sender.local = LocalPrefixes::new(vec![foreign], Vec::new());
    let datagram = send(&sender, &packet(foreign)).expect("sent");
    let verdict = receive(&mut Rx::new(), &snapshot(1, None), 0, &datagram).0;
    assert_eq!(verdict, Verdict::Drop(Drop::SourceNotCertified));
}

#[test]
fn a_member_is_no_router_to_what_it_does_not_announce() {
    let mut sender = snapshot(0, None);
    let mut fib = FibBuilder::new();
    fib.add_address([198, 51, 100, 7].into(), slot(1));
    sender.fib = Arc::new(fib.build());
    let datagram = send(&sender, &udp(overlay(0), [198, 51, 100, 7].into(), b"transit")).expect("sent");
    assert_eq!(receive(&mut Rx::new(), &snapshot(1, None), 0, &datagram).0, Verdict::Drop(Drop::NotForUs));
}

#[test]
fn packets_with_foreign_sources_and_malformed_packets_do_not_leave_the_device() {
    let sender = snapshot(0, None);
    let spoofed = udp(overlay(2), overlay(1), b"");
    assert_eq!(send(&sender, &spoofed), Err(Some(Drop::ForeignSource)));
    let mut short = udp(overlay(0), overlay(1), b"cut off");
    short.pop();
    assert_eq!(send(&sender, &short), Err(Some(Drop::Malformed)));
    let multicast = udp(overlay(0), [224, 0, 0, 1].into(), b"");
    assert_eq!(send(&sender, &multicast), Err(Some(Drop::NotUnicast)));
    let nowhere = udp(overlay(0), [10, 99, 9, 9].into(), b"");
    assert_eq!(send(&sender, &nowhere), Err(Some(Drop::NoRoute)));
}

#[test]
fn a_node_without_the_role_relays_nothing_and_is_not_believed_as_a_relay() {
    let datagram =
        send(&snapshot(0, Some(RelayLabel::LONG)), &udp(overlay(0), overlay(1), b"x")).expect("sent");
    let mut no_relay = snapshot(RELAY, None);
    no_relay.relay = None;
    let verdict = receive(&mut Rx::new(), &no_relay, 0, &datagram).0;
    assert_eq!(verdict, Verdict::Drop(Drop::NotARelay));

    let forwarded = relay(&mut Rx::new(), 0, &datagram).expect("forwarded");
    let mut receiver = snapshot(1, None);
    receiver.receivers.get_mut(&index(RELAY, 1)).expect("a session").is_relay = false;
    let verdict = receive(&mut Rx::new(), &receiver, RELAY, &forwarded).0;
    assert_eq!(verdict, Verdict::Drop(Drop::RelaySourceForged));
}

#[test]
fn a_member_cannot_have_relayed_in_another_members_name() {
    let mut sender = snapshot(0, Some(RelayLabel::LONG));
    let peer = sender.peers[1].as_ref().expect("a peer");
    let Carrier::Relayed { socket, to, hop, label, destination, .. } = peer.primary.clone() else { panic!() };
    sender.peers[1] = Some(Arc::new(PeerTx {
        member: peer.member,
        sealer: peer.sealer.clone(),
        primary: Carrier::Relayed { socket, to, hop, label, destination, source: member(1) },
        duplicate: None,
        spread: None,
        mtu: peer.mtu,
        offload: peer.offload,
        silent: false,
        stats: peer.stats.clone(),
    }));
    let datagram = send(&sender, &udp(overlay(0), overlay(1), b"x")).expect("sent");
    assert_eq!(relay(&mut Rx::new(), 0, &datagram), Err(Verdict::Drop(Drop::RelaySourceForged)));
}

#[test]
fn a_relayed_datagram_does_not_go_back_or_round_in_circles() {
    let sender = snapshot(0, Some(RelayLabel(2)));
    let back = send(&sender, &udp(overlay(0), overlay(1), b"x")).expect("sent");
    assert_eq!(relay(&mut Rx::new(), 0, &back), Err(Verdict::Drop(Drop::RelayLoop)), "label 2 is the sender");

    let peer = sender.peer(slot(1)).expect("a peer");
    let Carrier::Relayed { hop, .. } = &peer.primary else { panic!() };
    let hop = hop.lane(Lane::FIRST);
    let counter = hop.reserve(1).expect("fresh");
    let header = proto::relay::Header {
        ttl: 1,
        role: Role::Queue,
        label: RelayLabel(3),
        receiver: hop.remote_index(),
        counter,
        ids: None,
    };
    let mut spent = vec![0; header.len() + proto::relay::HOP_TAG_LEN + 40];
    relay::stamp(&mut spent, &header, hop);
    assert_eq!(relay(&mut Rx::new(), 0, &spent), Err(Verdict::Drop(Drop::RelayLoop)));
}

#[test]
fn an_unknown_label_is_refused_and_the_neighbour_is_told() {
    let datagram =
        send(&snapshot(0, Some(RelayLabel(77))), &udp(overlay(0), overlay(1), b"x")).expect("sent");
    let mut rx = Rx::new();
    assert_eq!(relay(&mut rx, 0, &datagram), Err(Verdict::Drop(Drop::RelayNoRoute)));
    let told = std::iter::from_fn(|| rx.poll_notice()).any(|notice| {
        notice == Notice::CannotRelay { neighbour: slot(0), label: RelayLabel(77), destination: None }
    });
    assert!(told);
}

#[test]
fn a_window_outlives_snapshots_but_not_its_session() {
    let datagram = send(&snapshot(0, None), &udp(overlay(0), overlay(1), b"x")).expect("sent");
    let mut rx = Rx::new();
    let mut receiver = snapshot(1, None);
    delivered(receive(&mut rx, &receiver, 0, &datagram));
    receiver.generation = 2;
    assert_eq!(receive(&mut rx, &receiver, 0, &datagram).0, Verdict::Drop(Drop::Replayed));
    receiver.generation = 3;
    receiver.receivers.clear();
    assert_eq!(receive(&mut rx, &receiver, 0, &datagram).0, Verdict::Drop(Drop::UnknownReceiver));
}

#[test]
fn news_of_a_path_come_at_once_and_then_a_few_times_a_second() {
    let sender = snapshot(0, None);
    let receiver = snapshot(1, None);
    let mut rx = Rx::new();
    let mut told = 0;
    for step in 0..1000_u64 {
        let mut buf = send(&sender, &udp(overlay(0), overlay(1), b"x")).expect("sent");
        let all = 0..buf.len();
        rx.process(&receiver, Mono(NOW.0 + step * 1000), SOCKET, endpoint(0), &mut buf, all);
        told += std::iter::from_fn(|| rx.poll_notice()).count();
    }
    assert!((3..=5).contains(&told), "{told} notices in a second");
}

proptest! {
    #[test]
    fn a_changed_datagram_is_never_delivered_and_leaves_no_trace(
        at in any::<prop::sample::Index>(),
        bit in 0..8_u8,
        relayed in any::<bool>(),
    ) {
        let label = relayed.then_some(RelayLabel(3));
        let packet = udp(overlay(0), overlay(1), b"payload of some length");
        let good = send(&snapshot(0, label), &packet).expect("sent");
        let mut bad = good.clone();
        let at = at.index(bad.len());
        bad[at] ^= 1 << bit;
        let (mut hop, mut rx, receiver) = (Rx::new(), Rx::new(), snapshot(1, None));
        let path = |hop: &mut Rx, rx: &mut Rx, datagram: &[u8]| match relayed {
            true => relay(hop, 0, datagram).ok().map(|next| receive(rx, &receiver, RELAY, &next)),
            false => Some(receive(rx, &receiver, 0, datagram)),
        };
        let outcome = path(&mut hop, &mut rx, &bad);
        let arrived = matches!(outcome, Some((Verdict::Deliver { .. } | Verdict::Control { .. }, _)));
        prop_assert!(!arrived, "byte {} bit {}", at, bit);
        // The body is not the relay's to check: if it was forwarded, its header was used up.
        let fresh = send(&snapshot(0, label), &packet).expect("sent");
        let fresh = if outcome.is_some() && relayed { None } else { Some(fresh) };
        if let Some(fresh) = fresh {
            prop_assert_eq!(path(&mut hop, &mut rx, &fresh).map(delivered), Some(packet));
        }
    }

    #[test]
    fn no_datagram_makes_the_receiver_panic(bytes in prop::collection::vec(any::<u8>(), 0..300), kind in 0..16_u8) {
        let mut bytes = bytes;
        if let Some(first) = bytes.first_mut() {
            *first = 0x10 | kind;
        }
        let verdict = receive(&mut Rx::new(), &snapshot(1, None), 0, &bytes).0;
        let harmless = matches!(verdict, Verdict::Drop(_) | Verdict::HandUp { .. });
        prop_assert!(harmless);
    }

    #[test]
    fn no_packet_makes_the_sender_panic(bytes in prop::collection::vec(any::<u8>(), 1..200)) {
        let _ = send(&snapshot(0, None), &bytes);
    }
}

/// A TCP packet over IPv4 with right checksums.
fn tcp(len: usize, flags: u8, options: &[u8]) -> Vec<u8> {
    let header_len = 40 + options.len();
    let mut packet: Vec<u8> = (0..header_len + len).map(|at| at as u8).collect();
    packet[..20].copy_from_slice(&[0x45, 0, 0, 0, 0, 7, 0x40, 0, 64, 6, 0, 0, 10, 9, 0, 0, 10, 9, 0, 0]);
    let (IpAddr::V4(source), IpAddr::V4(destination)) = (overlay(0), overlay(1)) else { panic!("IPv4") };
    packet[12..16].copy_from_slice(&source.octets());
    packet[16..20].copy_from_slice(&destination.octets());
    packet[2..4].copy_from_slice(&((header_len + len) as u16).to_be_bytes());
    packet[32] = (((header_len - 20) / 4) << 4) as u8;
    packet[33] = flags;
    packet[40..header_len].copy_from_slice(options);
    let pseudo = checksum::pseudo_header(&packet[12..20], 6, (header_len - 20 + len) as u16);
    packet[36..38].copy_from_slice(&pseudo.to_be_bytes());
    checksum::complete(&mut packet[20..], 16);
    packet
}

/// Node 0 with a path of this MTU to node 1.
fn narrow(mtu: u16) -> Snapshot {
    let mut sender = snapshot(0, None);
    let peer = sender.peers[1].as_ref().expect("a peer");
    sender.peers[1] = Some(Arc::new(PeerTx {
        member: peer.member,
        sealer: peer.sealer.clone(),
        primary: peer.primary.clone(),
        duplicate: None,
        spread: None,
        mtu,
        offload: false,
        silent: false,
        stats: peer.stats.clone(),
    }));
    sender
}

fn verdict(sender: &Snapshot, packet: &[u8]) -> (TxVerdict, Vec<u8>) {
    let mut buf = vec![0; HEADROOM + packet.len() + TAILROOM];
    let range = HEADROOM..HEADROOM + packet.len();
    buf[range.clone()].copy_from_slice(packet);
    (Tx::new().process(sender, NOW, &mut buf, range, &Meta::PLAIN), buf)
}

#[test]
fn a_tcp_segment_that_is_too_long_is_cut_and_arrives_as_segments_with_right_checksums() {
    const PSH_ACK: u8 = 0x18;
    let packet = tcp(1400, PSH_ACK, &[]);
    let (TxVerdict::Cut(mut cut), mut buf) = verdict(&narrow(1000), &packet) else { panic!("not cut") };
    let room = buf.len();
    buf.resize(room + 4000, 0);
    let end = buf.len();
    let (burst, _) = cut.seal(&mut buf, HEADROOM..HEADROOM + packet.len(), room..end).expect("sealed");
    assert_eq!((burst.count, cut.left()), (2, 0));
    let (mut rx, receiver) = (Rx::new(), snapshot(1, None));
    let (mut payload, mut flags) = (Vec::new(), Vec::new());
    for range in burst.datagrams() {
        let (verdict, opened) = receive(&mut rx, &receiver, 0, &buf[range]);
        let Verdict::Deliver { packet: at, .. } = verdict else { panic!("{verdict:?}") };
        let segment = &opened[at];
        assert!(segment.len() <= 1000);
        let pseudo = checksum::pseudo_header(&segment[12..20], 6, (segment.len() - 20) as u16);
        assert_eq!(checksum::add(checksum::sum(&segment[20..]), pseudo), 0xffff);
        payload.extend_from_slice(&segment[40..]);
        flags.push(segment[33]);
    }
    assert_eq!((payload, flags), (packet[40..].to_vec(), vec![0x10, PSH_ACK]));
}

#[test]
fn a_damaged_segment_is_not_made_whole_by_cutting_it() {
    let mut packet = tcp(1400, 0x10, &[]);
    packet[700] ^= 1;
    let (verdict, _) = verdict(&narrow(1000), &packet);
    assert!(matches!(verdict, TxVerdict::TooBig { mtu: 1000 }), "{verdict:?}");
}

#[test]
fn other_packets_that_are_too_long_are_cut_into_fragments_or_their_sender_is_told() {
    let mut packet = udp(overlay(0), overlay(1), &[5; 1400]);
    packet[6] |= 0x40;
    let (told, _) = verdict(&narrow(1000), &packet);
    assert!(matches!(told, TxVerdict::TooBig { mtu: 1000 }), "{told:?}");
    packet[6] &= !0x40;
    let (TxVerdict::Fragment(fragments), _) = verdict(&narrow(1000), &packet) else { panic!("not cut") };
    assert_eq!(fragments.count(), 2);
    for index in 0..2 {
        let mut fragment = vec![0; fragments.len_of(index)];
        fragments.write(&packet, index, &mut fragment);
        assert!(matches!(verdict(&narrow(1000), &fragment).0, TxVerdict::Send { .. }));
    }
    assert!(matches!(verdict(&narrow(1428), &packet).0, TxVerdict::Send { .. }), "it just fits");
}

#[test]
fn the_mss_is_clamped_on_the_way_out_and_on_the_way_in() {
    let mss = |packet: &[u8]| u16::from_be_bytes([packet[42], packet[43]]);
    let right = |packet: &[u8]| {
        let pseudo = checksum::pseudo_header(&packet[12..20], 6, (packet.len() - 20) as u16);
        checksum::add(checksum::sum(&packet[20..]), pseudo) == 0xffff
    };
    let syn = tcp(0, 0x02, &[2, 4, 0x23, 0x28]);
    assert!(right(&syn));
    for (out, back, expected) in [(1000, 9000, 960), (9000, 1200, 1160), (9100, 9100, 9000)] {
        let datagram = send(&narrow(out), &syn).expect("sent");
        let mut receiver = snapshot(1, None);
        let peer = receiver.peers[0].as_ref().expect("a peer");
        receiver.peers[0] = Some(Arc::new(PeerTx {
            member: peer.member,
            sealer: peer.sealer.clone(),
            primary: peer.primary.clone(),
            duplicate: None,
            spread: None,
            mtu: back,
            offload: false,
            silent: false,
            stats: peer.stats.clone(),
        }));
        let (verdict, opened) = receive(&mut Rx::new(), &receiver, 0, &datagram);
        let Verdict::Deliver { packet, .. } = verdict else { panic!("{verdict:?}") };
        let packet = &opened[packet];
        assert_eq!(mss(packet), expected);
        assert!(right(packet));
    }
}

#[test]
fn who_sends_to_a_silent_peer_is_told_and_the_packet_leaves_all_the_same() {
    let mut sender = snapshot(0, None);
    let peer = sender.peers[1].as_ref().expect("a peer");
    sender.peers[1] = Some(Arc::new(PeerTx {
        member: peer.member,
        sealer: peer.sealer.clone(),
        primary: peer.primary.clone(),
        duplicate: None,
        spread: None,
        mtu: peer.mtu,
        offload: peer.offload,
        silent: true,
        stats: peer.stats.clone(),
    }));
    let packet = udp(overlay(0), overlay(1), b"are you there?");
    let (verdict, mut buf) = verdict(&sender, &packet);
    assert!(matches!(verdict, TxVerdict::Silent));
    let range = HEADROOM..HEADROOM + packet.len();
    assert_eq!(buf[range.clone()], packet, "as it was: its sender gets a part of it back");
    match Tx::new().process_all_the_same(&sender, NOW, &mut buf, range, &Meta::PLAIN) {
        TxVerdict::Send { first, second: None } => {
            let (mut rx, receiver) = (Rx::new(), snapshot(1, None));
            assert_eq!(delivered(receive(&mut rx, &receiver, 0, &buf[first.range])), packet);
        }
        other => panic!("{other:?}"),
    }
}

#[test]
fn traffic_is_told_often_while_it_begins_and_four_times_a_second_then() {
    let (sender, mut tx) = (snapshot(0, None), Tx::new());
    let packet = udp(overlay(0), overlay(1), b"one of many");
    // A packet every millisecond for a second, a pause of another, and half a second more.
    let mut told = Vec::new();
    for ms in (0..1000).chain(2000..2500) {
        let mut buf = vec![0; HEADROOM + packet.len() + TAILROOM];
        let range = HEADROOM..HEADROOM + packet.len();
        buf[range.clone()].copy_from_slice(&packet);
        tx.process(&sender, NOW + Duration::from_millis(ms), &mut buf, range, &Meta::PLAIN);
        told.extend(tx.poll_active().map(|slot| (slot, ms)));
    }
    let expected = [0, 25, 75, 175, 375, 625, 875, 2000, 2025, 2075, 2175, 2375];
    assert_eq!(told, expected.map(|ms| (slot(1), ms)));
}

#[test]
fn a_relay_carries_no_more_for_one_neighbour_than_its_limit() {
    let mut at_relay = snapshot(RELAY, None);
    let limit = super::RelayLimit { bytes_per_s: 1000, burst_bytes: 400 };
    at_relay.relay.as_mut().expect("a relay").limit = Some(limit);
    let (sender, mut rx) = (snapshot(0, Some(RelayLabel::LONG)), Rx::new());
    let packet = udp(overlay(0), overlay(1), &[1; 20]);
    let mut outcomes = Vec::new();
    for _ in 0..6 {
        let datagram = send(&sender, &packet).expect("sent");
        let (verdict, _) = receive(&mut rx, &at_relay, 0, &datagram);
        outcomes.push(match verdict {
            Verdict::Forward { .. } => true,
            Verdict::Drop(reason) => {
                assert_eq!(reason, Drop::RelayLimited);
                false
            }
            other => panic!("{other:?}"),
        });
    }
    assert_eq!(outcomes, [true, true, false, false, false, false]);
}

#[test]
fn a_mark_of_congestion_is_carried_in_or_the_packet_is_dropped() {
    let mut packet = udp(overlay(0), overlay(1), b"x");
    assert!(!packet::mark_congestion(&mut packet), "it knows nothing of ECN");
    for ect in [1, 2] {
        packet[1] = 0xb8 | ect;
        assert!(packet::mark_congestion(&mut packet));
        assert_eq!((packet[1], packet::tos(&packet)), (0xbb, 0xbb));
        assert_eq!(checksum::sum(&packet[..20]), 0xffff);
    }
    let mut v6 = vec![0x6b, 0x80, 0, 0];
    assert_eq!(packet::tos(&v6), 0xb8);
    v6[1] |= 0x20;
    assert!(packet::mark_congestion(&mut v6));
    assert_eq!((v6[0], v6[1], packet::tos(&v6)), (0x6b, 0xb0, 0xbb));
    assert_eq!((packet::tos(&[]), packet::tos(&[0x12, 9])), (0, 0));
}
