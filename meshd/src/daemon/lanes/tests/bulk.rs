//! A lane with a second queue for flows in bulk.

use super::*;

/// Two nodes with offload and two queues for their one lane; the threads of `a` do not run yet.
fn prepared() -> (World, Node, Node) {
    let mut world = World { offload: true, ..World::default() };
    let [a, mut b] = [0, 1].map(|number| {
        let mut node = Node::prepare_lanes(number, Bind::Any { port: 0 }, Offloads::ALL, 2, 1);
        node.lanes_wanted = 1;
        node
    });
    world.publish(&a, 2, vec![(1, World::direct(&b), None)], None);
    world.publish(&b, 2, vec![(0, World::direct(&a), None)], None);
    b.run();
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
    a.emit(&sent);
    assert_eq!(next(&b.kernel).len(), sent.len() - FAKE_HEADER);
    b.emit(&plain(&answer));
    assert_eq!(next(bulk(&a)), answer);
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
fn a_flood_of_the_first_queue_does_not_starve_the_other() {
    let (_world, mut a, b) = prepared();
    a.run();
    let wanted = packet(0, 1, 1, 999);
    let stop = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let (kernel, stopping) = (&a.kernel, &stop);
        scope.spawn(move || {
            while !stopping.load(Ordering::Relaxed) {
                let _ = kernel.send(&plain(&packet(0, 1, 2, 100)));
            }
        });
        bulk(&a).send(&plain(&wanted)).unwrap();
        let start = Instant::now();
        let came = std::iter::repeat_with(|| next(&b.kernel))
            .take_while(|_| start.elapsed() < SOON)
            .any(|it| it == wanted);
        stop.store(true, Ordering::Relaxed);
        assert!(came);
    });
}
