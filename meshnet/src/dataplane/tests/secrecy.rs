//! What leaves and what is accepted, whatever is sent and whatever the network does with it.

use std::collections::{BTreeMap, HashSet};

use proto::lane::Flows;

use super::offload::{peer_with, tcp};
use super::*;

/// Bytes in a row that are in no ciphertext by chance: one in 10^13 for all that a case compares.
const WINDOW: usize = 10;

/// A packet to be sent.
#[derive(Clone, Debug)]
struct Errand {
    /// Payload bytes.
    len: usize,
    /// Segment size, if it is a TCP super-packet.
    segment: Option<u16>,
    /// The lane of the device queue that it came from.
    lane: Lane,
    way: Way,
    seed: u64,
}

#[derive(Clone, Copy, Debug)]
enum Way {
    Direct,
    ByLabel,
    ByName,
    /// On the direct path and through the relay.
    Both,
}

impl Errand {
    fn any() -> impl Strategy<Value = Errand> {
        let way = prop_oneof![Just(Way::Direct), Just(Way::ByLabel), Just(Way::ByName), Just(Way::Both)];
        let size = prop_oneof![
            (0..1400_usize).prop_map(|len| (len, None)),
            (2..9000_usize, 90..1400_u16).prop_map(|(len, size)| (len, Some(size))),
        ];
        let lane = (0..2_u8, prop_oneof![Just(Flows::Sparse), Just(Flows::Bulk)])
            .prop_map(|(queue, flows)| Lane::of_queue(queue, flows).expect("a lane"));
        (size, lane, way, any::<u64>()).prop_map(|((len, segment), lane, way, seed)| Errand {
            len,
            segment,
            lane,
            way,
            seed,
        })
    }

    fn packet(&self) -> (Vec<u8>, Meta) {
        let mut noise = self.seed;
        let mut byte = || {
            noise = noise.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            (noise >> 56) as u8
        };
        match self.segment {
            None => {
                let payload: Vec<u8> = (0..self.len).map(|_| byte()).collect();
                (udp(overlay(0), overlay(1), &payload), Meta::PLAIN)
            }
            Some(size) => {
                let (mut packet, meta) = tcp(overlay(0), overlay(1), size, self.len);
                packet[52..].fill_with(byte);
                (packet, meta)
            }
        }
    }
}

/// Members that keep their sessions while the ways between them change.
struct World {
    direct: Snapshot,
    by_label: Snapshot,
    by_name: Snapshot,
    both: Snapshot,
}

impl World {
    fn new() -> World {
        let direct = snapshot(0, None);
        let sessions = |mut other: Snapshot| {
            // The same sealers: counters go on whatever the way.
            for slot in 0..other.peers.len() {
                let (Some(peer), Some(same)) = (&other.peers[slot], &direct.peers[slot]) else { continue };
                let primary = match &peer.primary {
                    Carrier::Relayed { socket, to, label, destination, source, .. } => Carrier::Relayed {
                        socket: *socket,
                        to: *to,
                        hop: direct.peers[RELAY].as_ref().expect("a relay").sealer.clone(),
                        label: *label,
                        destination: *destination,
                        source: *source,
                    },
                    direct => direct.clone(),
                };
                other.peers[slot] = Some(Arc::new(PeerTx {
                    member: peer.member,
                    sealer: same.sealer.clone(),
                    primary,
                    duplicate: None,
                    spread: None,
                    mtu: peer.mtu,
                    offload: true,
                    silent: false,
                    stats: same.stats.clone(),
                }));
            }
            other
        };
        let by_label = sessions(snapshot(0, Some(RelayLabel(3))));
        let by_name = sessions(snapshot(0, Some(RelayLabel::LONG)));
        let mut both = sessions(snapshot(0, None));
        let copy = by_label.peers[1].as_ref().map(|peer| peer.primary.clone());
        peer_with(&mut both, true, copy);
        World { direct: sessions(snapshot(0, None)), by_label, by_name, both }
    }

    /// The datagrams of a packet, with whether they go to the relay.
    fn send(&self, errand: &Errand) -> Vec<(Vec<u8>, bool)> {
        let (packet, meta) = errand.packet();
        let (snapshot, relayed) = match errand.way {
            Way::Direct => (&self.direct, false),
            Way::ByLabel => (&self.by_label, true),
            Way::ByName => (&self.by_name, true),
            Way::Both => (&self.both, false),
        };
        let mut tx = Tx::for_queue(errand.lane.queue());
        if errand.lane.number() % 2 == 1 {
            tx.turn_to(Flows::Bulk);
        }
        let (first, second) = super::offload::send_all_by(&mut tx, snapshot, &packet, &meta, 70_000);
        let first = first.into_iter().map(|datagram| (datagram, relayed));
        first.chain(second.into_iter().map(|datagram| (datagram, true))).collect()
    }
}

/// What to look for: all of it but what is mostly zeros, which the counters in the outer headers are too.
fn windows(bytes: &[u8]) -> impl Iterator<Item = &[u8]> {
    bytes.windows(WINDOW).filter(|window| window.iter().filter(|&&byte| byte == 0).count() <= WINDOW / 2)
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 64, ..ProptestConfig::default() })]

    /// Packets and super-packets of all sizes, from several queues, straight, through a relay, and by both ways; the
    /// network copies everything up to three times and delivers it in any order to any number of threads; snapshots change.
    #[test]
    fn no_packet_leaves_in_clear_and_none_is_accepted_twice(
        errands in prop::collection::vec(Errand::any(), 1..12),
        threads in 1..4_usize,
        order in any::<u64>(),
    ) {
        let world = World::new();
        let mut clear = HashSet::new();
        let mut expected: BTreeMap<Lane, usize> = BTreeMap::new();
        let mut under_way = Vec::new();
        for errand in &errands {
            let (packet, _) = errand.packet();
            clear.extend(windows(&packet).map(<[u8]>::to_vec));
            let sent = world.send(errand);
            let copies = if matches!(errand.way, Way::Both) { 2 } else { 1 };
            *expected.entry(errand.lane).or_default() += sent.len() / copies;
            under_way.extend(sent);
        }
        for (datagram, _) in &under_way {
            // Relay headers name members, which are no secret, and not in any packet.
            let leaked = windows(datagram).find(|window| clear.contains(*window));
            prop_assert!(leaked.is_none(), "{:02x?} of a packet is in a datagram", leaked);
        }
        // The network.
        let mut noise = order;
        let mut draw = |below: usize| {
            noise = noise.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            (noise >> 33) as usize % below
        };
        let mut arriving = Vec::new();
        for sent in &under_way {
            (0..=draw(3)).for_each(|_| arriving.push(sent.clone()));
        }
        for at in (1..arriving.len()).rev() {
            arriving.swap(at, draw(at + 1));
        }
        let mut hops: Vec<Rx> = (0..threads).map(|number| Rx::for_lanes(number, threads)).collect();
        let mut receivers: Vec<Rx> = (0..threads).map(|number| Rx::for_lanes(number, threads)).collect();
        let (at_relay, mut at_receiver) = (snapshot(RELAY, None), snapshot(1, None));
        let mut accepted: BTreeMap<Lane, usize> = BTreeMap::new();
        for (datagram, relayed) in arriving {
            if draw(8) == 0 {
                at_receiver.generation += 1;
            }
            let thread = usize::from(proto::lane::queue_of(&datagram)) % threads;
            let (from, datagram) = match relayed {
                false => (0, datagram),
                true => match receive(&mut hops[thread], &at_relay, 0, &datagram) {
                    (Verdict::Forward { datagram, .. }, buf) => (RELAY, buf[datagram].to_vec()),
                    (Verdict::Drop(Drop::Replayed), _) => continue,
                    (other, _) => return Err(TestCaseError::fail(format!("relay: {other:?}"))),
                },
            };
            match receive(&mut receivers[thread], &at_receiver, from, &datagram).0 {
                Verdict::Deliver { segment, .. } => {
                    *accepted.entry(segment.lane).or_default() += 1;
                }
                Verdict::Drop(Drop::Replayed) => {}
                other => return Err(TestCaseError::fail(format!("receiver: {other:?}"))),
            }
        }
        prop_assert_eq!(accepted, expected, "each exactly once");
    }
}
