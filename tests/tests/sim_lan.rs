//! Members that find each other on a local network, in virtual time.

use std::time::Duration;

use meshnet::node::{PeerView, Settings};
use meshnet_tests::sim::{Link, MachineId, NatKind, SiteId, Spec, World, seeds};

const SECOND: Duration = Duration::from_secs(1);
const EVERY: Duration = Duration::from_millis(10);

/// A relay outside, two nodes at home behind a translator, and an island that nobody knows.
fn mesh(seed: u64) -> (World, MachineId, [MachineId; 2], SiteId) {
    let mut world = World::new(seed);
    let public = world.public_site("198.51.100.0/24", Link::delay_ms(5));
    let home = world.nat_site("192.168.1.0/24", NatKind::PortRestricted, "192.0.2.1", Link::delay_ms(10));
    let island = world.closed_site("172.16.5.0/24");
    let relay = world.add(Spec::new("r", public, "198.51.100.1").relay());
    let nodes = [("a", "192.168.1.10"), ("b", "192.168.1.20")]
        .map(|(name, address)| world.add(Spec::new(name, home, address).discovery()));
    world.form(&[relay, nodes[0], nodes[1]]);
    world.settle(30 * SECOND);
    (world, relay, nodes, island)
}

fn view(world: &World, from: MachineId, to: MachineId) -> PeerView {
    let machine = world.machine(from);
    let now = machine.now(world.elapsed().as_micros() as u64);
    let peers = machine.node().expect("it runs").view(now).peers;
    peers.into_iter().find(|peer| peer.member == world.machine(to).member()).expect("a peer")
}

#[test]
fn two_that_move_to_an_island_find_each_other_there() {
    for seed in seeds(6) {
        let (mut world, _, [a, b], island) = mesh(seed);
        world.renumber(a, island, "172.16.5.7");
        world.run_for(7 * SECOND);
        world.renumber(b, island, "172.16.5.9");
        let flow = world.flow(a, b, EVERY);
        let took = world.run_until("they find each other", 5 * SECOND, |world| {
            let path = view(world, a, b).path;
            path.is_some_and(|path| path.via.is_empty() && path.remote.ip().to_string() == "172.16.5.9")
        });
        world.run_for(5 * SECOND);
        let report = world.finish(flow);
        println!("seed {seed}: found after {took:?}, {report:?}");
        let found = view(&world, a, b).paths.into_iter().find(|path| path.on_lan).expect("the path");
        assert!(found.score_us.is_some(), "seed {seed}: {found:?}");
    }
}

#[test]
fn what_a_stranger_repeats_is_not_answered_and_a_quiet_lan_hears_little() {
    for seed in seeds(4) {
        let (mut world, _, [a, b], _) = mesh(seed);
        // The first ones are over.
        world.run_for(60 * SECOND);
        let before = world.announcements();
        world.run_for(600 * SECOND);
        let quiet = world.announcements() - before;
        assert!((14..=20).contains(&quiet), "seed {seed}: {quiet} announcements in ten minutes");
        let before = world.announcements();
        let stranger = "192.168.1.66:4656".parse().expect("an endpoint");
        for _ in 0..20 {
            world.repeat_announcement(a, stranger);
            world.repeat_announcement(b, stranger);
            world.run_for(SECOND / 2);
        }
        assert!(world.announcements() - before <= 2, "seed {seed}: somebody answers");
        for from in [a, b] {
            for peer in [a, b] {
                let paths = if from == peer { Vec::new() } else { view(&world, from, peer).paths };
                let there = paths.iter().find(|path| format!("{:?}", path.id).contains("192.168.1.66"));
                assert!(there.is_none(), "seed {seed}: {there:?}");
            }
        }
    }
}

#[test]
fn who_does_not_want_it_neither_speaks_nor_listens() {
    let (mut world, _, [a, b], island) = mesh(1);
    let settings = Settings { lan_discovery: false, ..world.machine(a).settings.clone() };
    world.reconfigure(a, settings);
    for (node, address) in [(a, "172.16.5.7"), (b, "172.16.5.9")] {
        world.renumber(node, island, address);
    }
    world.flow(b, a, EVERY);
    world.run_for(20 * SECOND);
    for (from, to) in [(a, b), (b, a)] {
        let paths = view(&world, from, to).paths;
        let there = paths.iter().find(|path| path.on_lan && format!("{:?}", path.id).contains("172.16.5."));
        assert!(there.is_none(), "{there:?}");
    }
    assert_ne!(view(&world, b, a).path.map(|path| path.remote.ip().to_string()), Some("172.16.5.7".into()));
}
