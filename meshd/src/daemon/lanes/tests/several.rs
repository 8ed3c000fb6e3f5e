//! Nodes with several lanes.

use std::sync::atomic::AtomicU32;

use meshnet::dataplane::tx;
use meshnet::io::udp::{Payload, Steering};
use proto::data::{HEADER_LEN, TrailerFlags};
use proto::lane::{Flows, Lane};

use super::*;

const ANY: Bind = Bind::Any { port: 0 };

impl Node {
    fn start_lanes(number: u32, lanes: usize) -> Node {
        let mut node = Node::prepare_lanes(number, ANY, Offloads::NONE, lanes, lanes);
        assert_eq!((node.socket.steering(), node.socket.threads()), (Steering::ByLane, lanes));
        node.run();
        node
    }

    /// The kernel's side of a queue.
    fn queue(&self, lane: usize) -> &UnixDatagram {
        lane.checked_sub(1).map_or(&self.kernel, |at| &self.more[at].1)
    }

    fn queues(&self) -> usize {
        1 + self.more.len()
    }

    fn emit_on(&self, lane: usize, packet: &[u8]) {
        let start = Instant::now();
        while self.queue(lane).send(packet).is_err() {
            assert!(start.elapsed() < SOON, "the device takes nothing");
            std::thread::yield_now();
        }
    }

    fn received_on(&self, lane: usize) -> Vec<u8> {
        let mut buffer = vec![0; 70_000];
        let len = self.queue(lane).recv(&mut buffer).expect("a packet comes out of the queue");
        buffer.truncate(len);
        buffer
    }

    fn loss(&self, reason: &str) -> u64 {
        self.lanes().losses()[reason]
    }
}

fn connect(world: &mut World, a: &Node, b: &Node) {
    world.publish(a, 2, vec![(1, World::direct(b), None)], None);
    world.publish(b, 2, vec![(0, World::direct(a), None)], None);
}

/// The datagram that `from` would send on this lane.
fn sealed(world: &mut World, from: u32, to: &Node, lane: Lane, content: &[u8]) -> Vec<u8> {
    let peer = PeerTx {
        member: member(to.number),
        sealer: world.sealer(from, to.number),
        primary: World::direct(to),
        duplicate: None,
        spread: None,
        mtu: u16::MAX,
        offload: false,
        silent: false,
        stats: Arc::default(),
    };
    let mut buf = vec![0; meshnet::dataplane::HEADROOM + content.len() + meshnet::dataplane::TAILROOM];
    let inner = meshnet::dataplane::HEADROOM..meshnet::dataplane::HEADROOM + content.len();
    buf[inner.clone()].copy_from_slice(content);
    let (first, _) = tx::seal(&peer, lane, &mut buf, inner, TrailerFlags::empty()).expect("sealed");
    buf[first.range].to_vec()
}

fn queue_lane(number: u8) -> Lane {
    Lane::of_queue(number, Flows::Sparse).expect("a lane")
}

#[test]
fn each_queue_s_packets_come_out_of_its_counterpart_in_order_whatever_the_numbers_of_lanes() {
    for (left, right) in [(2, 2), (4, 4), (1, 4), (4, 1), (2, 3), (3, 2)] {
        let (mut world, a, b) = (World::default(), Node::start_lanes(0, left), Node::start_lanes(1, right));
        connect(&mut world, &a, &b);
        for (from, to) in [(&a, &b), (&b, &a)] {
            for number in 0..200 {
                for lane in 0..from.queues() {
                    let number = number * 16 + lane as u32;
                    let packet = packet(from.number, to.number, number, 24 + (number as usize * 37) % 1300);
                    from.emit_on(lane, &packet);
                    assert_eq!(to.received_on(lane % to.queues()), packet, "{left} to {right}");
                }
            }
        }
        for node in [&a, &b] {
            assert_eq!(node.lanes().losses().values().sum::<u64>(), 0, "{:?}", node.lanes().losses());
            let by_lane = node.lanes().by_lane();
            assert_eq!(by_lane.len(), node.queues());
            let sent = by_lane.iter().map(|lane| lane.tx_packets.load(Ordering::Relaxed));
            assert!(sent.eq((0..node.queues()).map(|_| 200)));
        }
    }
}

#[test]
fn without_steering_one_thread_receives_for_all_lanes_and_keeps_them_apart() {
    let (mut world, a) = (World::default(), Node::start_lanes(0, 3));
    let mut b = Node::prepare_lanes(1, ANY, Offloads::NONE, 3, 0);
    b.run();
    connect(&mut world, &a, &b);
    assert_eq!((b.lanes().receivers(), b.lanes().by_lane().len()), (1, 3));
    for number in 0..300 {
        let lane = number as usize % 3;
        for (from, to) in [(&a, &b), (&b, &a)] {
            let packet = packet(from.number, to.number, number, 100);
            from.emit_on(lane, &packet);
            assert_eq!(to.received_on(lane), packet);
        }
    }
}

#[test]
fn many_packets_on_all_lanes_at_once_arrive_all_and_in_order() {
    const PACKETS: u32 = 3000;
    let (mut world, a, b) = (World::default(), Node::start_lanes(0, 4), Node::start_lanes(1, 4));
    connect(&mut world, &a, &b);
    let (a, b, arrived) = (&a, &b, &[const { AtomicU32::new(0) }; 4]);
    std::thread::scope(|scope| {
        for (lane, arrived) in arrived.iter().enumerate() {
            scope.spawn(move || {
                for number in 0..PACKETS {
                    // No more under way than a socket pair holds.
                    while number - arrived.load(Ordering::Acquire) >= 8 {
                        std::thread::yield_now();
                    }
                    a.emit_on(lane, &packet(0, 1, number, 200));
                }
            });
            scope.spawn(move || {
                for number in 0..PACKETS {
                    assert_eq!(b.received_on(lane)[20..24], number.to_be_bytes(), "lane {lane}");
                    arrived.store(number + 1, Ordering::Release);
                }
            });
        }
    });
    assert_eq!(b.lanes().losses().values().sum::<u64>(), 0, "{:?}", b.lanes().losses());
}

#[test]
fn datagrams_of_several_lanes_in_one_message_are_handed_to_their_threads() {
    let (mut world, b) = (World::default(), Node::start_lanes(1, 3));
    world.publish(&b, 2, Vec::new(), None);
    let mut message = Vec::new();
    for number in 0..30 {
        let lane = queue_lane(number as u8 % 3);
        message.extend(sealed(&mut world, 0, &b, lane, &packet(0, 1, number, 100)));
    }
    let outside = Group::bind(&Options::new(ANY), 1).unwrap();
    let segment = message.len() / 30;
    let transmit =
        Transmit { to: b.endpoint(), from: None, tos: 0, segment, payload: Payload::Whole(&message) };
    assert_eq!(outside.first().send(&transmit), Sent::All);
    for number in 0..30 {
        assert_eq!(b.received_on(number as usize % 3), packet(0, 1, number, 100));
    }
    assert_eq!(outside.first().stats().send_calls.load(Ordering::Relaxed), 1, "in one message");
    b.wait_for(|counters| counters.handed_over.load(Ordering::Relaxed) == 20);
}

#[test]
fn a_datagram_with_another_lane_in_its_header_is_dropped_and_counted() {
    let (mut world, b) = (World::default(), Node::start_lanes(1, 4));
    world.publish(&b, 2, Vec::new(), None);
    let stranger = UdpSocket::bind("127.0.0.1:0").unwrap();
    let good = sealed(&mut world, 0, &b, queue_lane(1), &packet(0, 1, 1, 100));
    for (lane, reason) in [
        ([0, 3], "rx_not_authentic"),
        ([0, 0], "rx_not_authentic"),
        ([1, 2], "rx_not_authentic"),
        ([2, 0], "rx_not_authentic"),
        ([0, 16], "rx_unknown_lane"),
        ([2, 1], "rx_unknown_lane"),
        ([7, 1], "rx_unknown_lane"),
    ] {
        let before = b.loss(reason);
        let mut moved = good.clone();
        moved[2..4].copy_from_slice(&lane);
        stranger.send_to(&moved, b.endpoint()).unwrap();
        b.wait_for(|_| b.loss(reason) == before + 1);
    }
    assert_eq!(b.lanes().counters().delivered.load(Ordering::Relaxed), 0);
    stranger.send_to(&good, b.endpoint()).unwrap();
    assert_eq!(b.received_on(1), packet(0, 1, 1, 100), "it was not used up");
}

#[test]
fn nothing_is_accepted_twice_on_any_lane_and_lanes_do_not_share_a_window() {
    let (mut world, b) = (World::default(), Node::start_lanes(1, 2));
    world.publish(&b, 2, Vec::new(), None);
    let stranger = UdpSocket::bind("127.0.0.1:0").unwrap();
    let mut seen = Vec::new();
    for number in 0..40 {
        // The counters of all lanes begin at 0: a common window would take the second lane's for replays.
        let datagram = sealed(&mut world, 0, &b, queue_lane(number as u8 % 4), &packet(0, 1, number, 100));
        stranger.send_to(&datagram, b.endpoint()).unwrap();
        assert_eq!(b.received_on(number as usize % 2), packet(0, 1, number, 100));
        seen.push(datagram);
    }
    for datagram in &seen {
        stranger.send_to(datagram, b.endpoint()).unwrap();
    }
    b.wait_for(|counters| counters.rx_drops(Reason::Replayed) == 40);
    assert_eq!(b.lanes().counters().delivered.load(Ordering::Relaxed), 40);
    assert_eq!(seen[0][8..HEADER_LEN], seen[1][8..HEADER_LEN], "two lanes, one counter");
}

#[test]
fn relayed_packets_stay_on_their_lane_at_every_hop() {
    for (left, middle, right) in [(2, 2, 2), (4, 2, 3), (3, 1, 3)] {
        let (mut world, a, b, r) = (
            World::default(),
            Node::start_lanes(0, left),
            Node::start_lanes(1, right),
            Node::start_lanes(2, middle),
        );
        let table = world.relaying(&r, &b);
        // The relay sends packets of its own to the same neighbour, too.
        world.publish(&r, 3, vec![(1, World::direct(&b), None)], Some(table));
        world.publish(&b, 3, Vec::new(), None);
        for label in [RelayLabel(2), RelayLabel::LONG] {
            let carrier = world.relayed(&a, &r, &b, label);
            world.publish(&a, 3, vec![(1, carrier, None)], None);
            for number in 0..60 {
                let lane = number as usize % left;
                a.emit_on(lane, &packet(0, 1, number, 300));
                assert_eq!(b.received_on(lane % right), packet(0, 1, number, 300));
                let lane = number as usize % middle;
                r.emit_on(lane, &packet(2, 1, number, 300));
                assert_eq!(b.received_on(lane % right), packet(2, 1, number, 300));
            }
        }
        for node in [&a, &b, &r] {
            assert_eq!(node.lanes().losses().values().sum::<u64>(), 0, "{:?}", node.lanes().losses());
        }
        let forwarded: Vec<u64> =
            r.lanes().by_lane().iter().map(|lane| lane.forwarded.load(Ordering::Relaxed)).collect();
        assert_eq!(forwarded.iter().sum::<u64>(), 120);
        assert!(forwarded.iter().all(|count| *count > 0), "all of the relay's lanes: {forwarded:?}");
    }
}

#[test]
fn a_relay_with_one_thread_sends_no_lanes_together() {
    const OF_EACH: u32 = 20;
    let (mut world, b) = (World::default(), Node::start_lanes(1, 3));
    let mut a = Node::prepare_lanes(0, ANY, Offloads::NONE, 3, 3);
    let mut r = Node::prepare_lanes(2, ANY, Offloads::NONE, 1, 1);
    let table = world.relaying(&r, &b);
    world.publish(&r, 3, Vec::new(), Some(table));
    world.publish(&b, 3, Vec::new(), None);
    let carrier = world.relayed(&a, &r, &b, RelayLabel(2));
    world.publish(&a, 3, vec![(1, carrier, None)], None);
    for number in 0..3 * OF_EACH {
        a.emit_on(number as usize % 3, &packet(0, 1, number, 300));
    }
    a.run();
    a.wait_for(|counters| counters.tx_packets.load(Ordering::Relaxed) == u64::from(3 * OF_EACH));
    // Everything waits for the relay, so that it has datagrams of all lanes at once.
    r.run();
    for number in 0..3 * OF_EACH {
        assert_eq!(b.received_on(number as usize % 3), packet(0, 1, number, 300));
    }
    assert_eq!(
        b.lanes().counters().handed_over.load(Ordering::Relaxed),
        0,
        "what is handed over may be overtaken"
    );
    let calls = r.socket.first().stats().send_calls.load(Ordering::Relaxed);
    assert!(calls <= 6, "{calls} calls");
}

#[test]
fn handshakes_and_control_frames_go_up_from_whichever_lane_they_come_to() {
    let (mut world, mut b) = (World::default(), Node::start_lanes(1, 4));
    world.publish(&b, 2, Vec::new(), None);
    let stranger = UdpSocket::bind("127.0.0.1:0").unwrap();
    let mut init = vec![3; 176];
    init[0] = 0x11;
    stranger.send_to(&init, b.endpoint()).unwrap();
    let to_b = World::direct(&b);
    let (_, to, frames) = tx::seal_control(&world.sealer(0, 1), &to_b, b"frames").unwrap();
    stranger.send_to(&frames, to).unwrap();
    let (mut datagrams, mut controls) = (0, 0);
    b.report(|report| {
        match report {
            Report::Inbound(Inbound::Datagram { bytes, .. }) => datagrams += usize::from(bytes == init),
            Report::Inbound(Inbound::Control { frames, .. }) => controls += usize::from(frames == b"frames"),
            _ => {}
        }
        (datagrams == 1 && controls == 1).then_some(())
    });
    // Data on any lane tells that the peer is there, and proves new keys.
    for number in 0..4 {
        let datagram = sealed(&mut world, 0, &b, queue_lane(number), &packet(0, 1, 1, 100));
        stranger.send_to(&datagram, b.endpoint()).unwrap();
        b.report(|report| match report {
            Report::Inbound(Inbound::Notice(Notice::Heard { receiver, traffic: true, .. })) => {
                assert_eq!(receiver, index(0, 1));
                Some(())
            }
            _ => None,
        });
    }
}
