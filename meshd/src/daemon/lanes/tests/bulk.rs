//! A lane with a second queue for flows in bulk.

use super::*;

/// Two nodes with offload and two queues for their one lane; the threads of `a` do not run yet.
fn prepared() -> (World, Node, Node) {
    let (world, a, mut b) = silent();
    b.run();
    (world, a, b)
}

/// The same, and those of `b` neither.
fn silent() -> (World, Node, Node) {
    let mut world = World { offload: true, ..World::default() };
    let [a, b] = [0, 1].map(|number| {
        let mut node = Node::prepare_lanes(number, Bind::Any { port: 0 }, Offloads::ALL, 2, 1);
        node.lanes_wanted = 1;
        node
    });
    world.publish(&a, 2, vec![(1, World::direct(&b), None)], None);
    world.publish(&b, 2, vec![(0, World::direct(&a), None)], None);
    (world, a, b)
}

fn bulk(node: &Node) -> &UnixDatagram {
    &node.more[0].1
}

fn next(from: &UnixDatagram) -> Vec<u8> {
    let mut buffer = vec![0; 70_000];
    let len = from.recv(&mut buffer).expect("a packet comes out of the queue");
    buffer[FAKE_HEADER..len].to_vec()
}

/// A packet as [`Fake`] has it with offload.
fn plain(packet: &[u8]) -> Vec<u8> {
    [&[0; FAKE_HEADER], packet].concat()
}

#[test]
fn answers_to_a_flow_in_bulk_are_written_to_its_queue_and_other_packets_to_the_first() {
    let (_world, mut a, b) = prepared();
    a.run();
    let sent = super_packet(0, 1, 1302, 20_000);
    let mut answer = super_packet(1, 0, 1302, 0)[FAKE_HEADER..].to_vec();
    // The ports the other way round, so that it is of the same flow.
    let (source, destination) = ([sent[24], sent[25]], [sent[26], sent[27]]);
    answer[20..22].copy_from_slice(&destination);
    answer[22..24].copy_from_slice(&source);
    b.emit(&plain(&answer));
    assert_eq!(next(&a.kernel), answer, "nothing is in bulk yet");
    // It is in bulk for a second from then on: again, where a busy machine takes longer to answer.
    bulk(&a).set_read_timeout(Some(Duration::from_secs(2))).unwrap();
    let start = Instant::now();
    let mut buffer = vec![0; 70_000];
    let came = loop {
        a.emit(&sent);
        assert_eq!(next(&b.kernel).len(), sent.len() - FAKE_HEADER);
        b.emit(&plain(&answer));
        match bulk(&a).recv(&mut buffer) {
            Ok(len) => break &buffer[FAKE_HEADER..len],
            Err(_) => assert!(start.elapsed() < SOON && next(&a.kernel) == answer),
        }
    };
    assert_eq!(came, answer);
    b.emit(&plain(&packet(1, 0, 7, 100)));
    assert_eq!(next(&a.kernel), packet(1, 0, 7, 100));
}

#[test]
fn what_waits_in_the_first_queue_overtakes_what_waits_in_bulk() {
    let (_world, mut a, b) = prepared();
    for number in 0..5 {
        bulk(&a).send(&plain(&packet(0, 1, number, 1000))).unwrap();
    }
    for number in 5..10 {
        a.emit(&plain(&packet(0, 1, number, 100)));
    }
    a.run();
    let order: Vec<_> = (0..10).map(|_| next(&b.kernel)).collect();
    let expected: Vec<_> = (5..10)
        .map(|number| packet(0, 1, number, 100))
        .chain((0..5).map(|number| packet(0, 1, number, 1000)))
        .collect();
    assert!(order == expected, "{:?}", order.iter().map(Vec::len).collect::<Vec<_>>());
    a.wait_for(|counters| counters.tx_bulk_packets.load(Ordering::Relaxed) == 5);
    assert_eq!(a.lanes().counters().tx_packets.load(Ordering::Relaxed), 10);
}

#[test]
fn what_waits_at_the_receiver_overtakes_what_waits_there_in_bulk_and_a_flow_keeps_its_order() {
    let (_world, mut a, mut b) = silent();
    a.run();
    let sent =
        |count: u64| a.wait_for(|_| a.socket.first().stats().send_calls.load(Ordering::Relaxed) == count);
    // A flow whose first packets were in no bulk.
    a.emit(&plain(&packet(0, 1, 0, 1000)));
    sent(1);
    for number in 1..6 {
        bulk(&a).send(&plain(&packet(0, 1, number, 1000))).unwrap();
        sent(u64::from(number) + 1);
    }
    a.emit(&plain(&packet(0, 1, 6, 100)));
    sent(7);
    b.run();
    let order: Vec<u8> = (0..7).map(|_| next(&b.kernel)[23]).collect();
    // They take turns, and as long as few wait, a turn is one datagram.
    assert_eq!(order, [0, 1, 6, 2, 3, 4, 5]);
    assert_eq!(b.lanes().losses().values().sum::<u64>(), 0, "{:?}", b.lanes().losses());
}

#[test]
fn a_flood_of_the_first_queue_does_not_starve_the_other() {
    let (_world, mut a, b) = prepared();
    a.run();
    let stop = AtomicBool::new(false);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            while !stop.load(Ordering::Relaxed) {
                let _ = a.kernel.send(&plain(&packet(0, 1, 2, 100)));
            }
        });
        // Read by nobody, the other end would stand still.
        scope.spawn(|| {
            let mut buffer = vec![0; 70_000];
            while !stop.load(Ordering::Relaxed) {
                let _ = b.kernel.recv(&mut buffer);
            }
        });
        bulk(&a).send(&plain(&packet(0, 1, 1, 999))).unwrap();
        // What was sent counts, not what arrived: the flood fills the other end's socket, and any datagram may be lost there.
        let sent = || a.lanes().counters().tx_bulk_packets.load(Ordering::Relaxed) == 1;
        let start = Instant::now();
        while !sent() && start.elapsed() < SOON {
            std::thread::yield_now();
        }
        stop.store(true, Ordering::Relaxed);
        assert!(sent());
    });
}
