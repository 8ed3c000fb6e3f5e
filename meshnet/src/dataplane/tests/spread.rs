//! Several ways to one peer that share its flows.

use super::*;
use crate::dataplane::{Share, Spread, Tally};

/// Node 0 with ways to node 1 by these endpoints, the first being that of the primary path, and what counts the others.
fn shared(ways: &[usize]) -> (Snapshot, Vec<Arc<Tally>>) {
    let mut sender = snapshot(0, None);
    let peer = sender.peers[1].take().expect("a peer");
    let carrier = |way: usize| Carrier::Direct { socket: SOCKET, to: endpoint(way) };
    let tallies: Vec<Arc<Tally>> = ways[1..].iter().map(|_| Arc::default()).collect();
    let others = ways[1..].iter().zip(&tallies).map(|(way, tally)| Share {
        salt: *way as u64,
        carrier: carrier(*way),
        tally: tally.clone(),
    });
    sender.peers[1] = Some(Arc::new(PeerTx {
        member: peer.member,
        sealer: peer.sealer.clone(),
        primary: carrier(ways[0]),
        duplicate: None,
        spread: Some(Box::new(Spread { salt: ways[0] as u64, others: others.collect() })),
        mtu: 1400,
        offload: false,
        silent: false,
        stats: peer.stats.clone(),
    }));
    (sender, tallies)
}

/// A packet of the flow from this port.
fn of_flow(port: u16, len: usize) -> Vec<u8> {
    let mut packet = udp(overlay(0), overlay(1), &vec![7; len]);
    packet[20..22].copy_from_slice(&port.to_be_bytes());
    packet
}

/// Which way each of 300 flows takes.
fn ways(sender: &Snapshot) -> Vec<SocketAddr> {
    let way = |port: u16| {
        let (verdict, _) = verdict(sender, &of_flow(port, 100));
        let TxVerdict::Send { first, second: None } = verdict else { panic!("{verdict:?}") };
        first.to
    };
    (1000..1300).map(way).collect()
}

#[test]
fn flows_are_shared_evenly_keep_to_their_way_and_only_those_of_a_way_that_goes_move() {
    let (three, tallies) = shared(&[5, 6, 7]);
    let first = ways(&three);
    assert_eq!(ways(&three), first, "the same each time");
    let count = |way: usize| first.iter().filter(|to| **to == endpoint(way)).count();
    assert!(
        [5, 6, 7].iter().all(|way| (70..130).contains(&count(*way))),
        "{:?}",
        [count(5), count(6), count(7)]
    );
    // Another primary path does not change who has which flow, as long as all are there.
    assert_eq!(ways(&shared(&[7, 5, 6]).0), first);
    let without = ways(&shared(&[5, 7]).0);
    for (before, after) in first.iter().zip(&without) {
        assert!(before == after || *before == endpoint(6), "{before} to {after}");
    }
    // What went by the others is counted there, and all of it for the peer.
    let (bytes, packets) = tallies[0].read();
    assert_eq!((bytes, packets.total() as usize), (2 * count(6) as u64 * 128, 2 * count(6)));
    let all = three.peers[1].as_ref().expect("a peer").stats.traffic();
    assert_eq!(all.tx_packets, 600);
}

#[test]
fn what_is_cut_leaves_by_one_way() {
    let (sender, tallies) = shared(&[5, 6]);
    for port in 1000..1020u16 {
        let mut packet = tcp(4000, 0x18, &[]);
        packet[20..22].copy_from_slice(&port.to_be_bytes());
        packet[36..38].copy_from_slice(&[0; 2]);
        let pseudo = checksum::pseudo_header(&packet[12..20], 6, (packet.len() - 20) as u16);
        packet[36..38].copy_from_slice(&pseudo.to_be_bytes());
        checksum::complete(&mut packet[20..], 16);
        let before = tallies[0].read().1.total();
        let (TxVerdict::Cut(mut cut), mut buf) = verdict(&sender, &packet) else { panic!("not cut") };
        let segments = cut.left();
        let room = buf.len();
        buf.resize(room + 8000, 0);
        let end = buf.len();
        let (burst, second) =
            cut.seal(&mut buf, HEADROOM..HEADROOM + packet.len(), room..end).expect("sealed");
        assert_eq!((burst.count, second), (segments, None));
        let by_other = (tallies[0].read().1.total() - before) as usize;
        assert_eq!(by_other, if burst.to == endpoint(6) { segments } else { 0 });
    }
    assert!(tallies[0].read().1.total() > 0, "some went there");
}
