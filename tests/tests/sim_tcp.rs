//! Where UDP is blocked, in virtual time.

use std::time::Duration;

use meshnet::path::PathId;
use meshnet_tests::sim::{HostId, Link, MachineId, NatKind, Spec, World, seeds};

const SECOND: Duration = Duration::from_secs(1);
const EVERY: Duration = Duration::from_millis(4);

/// A relay that listens on TCP, and two nodes behind translators.
fn mesh(seed: u64, wan: Link) -> (World, MachineId, [MachineId; 2]) {
    let mut world = World::new(seed);
    let public = world.public_site("198.51.100.0/24", Link::delay_ms(5));
    let homes = [
        world.nat_site("192.168.1.0/24", NatKind::PortRestricted, "192.0.2.1", wan),
        world.nat_site("192.168.1.0/24", NatKind::FullCone, "192.0.2.2", wan),
    ];
    let relay = world.add(Spec::new("r", public, "198.51.100.1").relay().tcp());
    let nodes = [
        world.add(Spec::new("a", homes[0], "192.168.1.10")),
        world.add(Spec::new("b", homes[1], "192.168.1.20")),
    ];
    world.form(&[relay, nodes[0], nodes[1]]);
    world.settle(30 * SECOND);
    (world, relay, nodes)
}

/// Whether a machine's path to another is a connection, or begins with one.
fn by_stream(world: &World, from: MachineId, to: MachineId) -> Option<bool> {
    let machine = world.machine(from);
    let member = world.machine(to).member();
    let node = machine.node()?;
    let now = machine.now(world.elapsed().as_micros() as u64);
    let view = node.view(now).peers.into_iter().find(|peer| peer.member == member)?;
    view.path.map(|path| path.by_stream)
}

#[test]
fn traffic_goes_on_within_five_seconds_when_udp_is_blocked_and_returns_when_it_is_not() {
    for (seed, wan) in
        seeds(6).into_iter().zip([Link::delay_ms(10), Link::delay_ms(60).lossy(0.02)].into_iter().cycle())
    {
        let (mut world, relay, [a, b]) = mesh(seed, wan);
        let flows = [(a, relay), (relay, a), (a, b), (b, a)].map(|(from, to)| world.flow(from, to, EVERY));
        world.run_for(5 * SECOND);
        assert_eq!(by_stream(&world, a, relay), Some(false), "seed {seed}");
        world.net.host_mut(HostId(a.0)).tcp_only = true;
        world.run_for(8 * SECOND);
        assert_eq!(
            [(a, relay), (relay, a), (a, b)].map(|(from, to)| by_stream(&world, from, to)),
            [Some(true); 3]
        );
        for flow in flows {
            let report = world.report(flow);
            assert!(report.longest_outage <= 5 * SECOND, "seed {seed}: {report:?}");
        }
        world.net.host_mut(HostId(a.0)).tcp_only = false;
        world.run_until("everybody is back on UDP", 40 * SECOND, |world| {
            [(a, relay), (relay, a), (a, b), (b, a)]
                .iter()
                .all(|(from, to)| by_stream(world, *from, *to) == Some(false))
        });
        // Nobody keeps connections that are not needed.
        world.run_for(60 * SECOND);
        let node = world.machine(a).node().expect("it runs");
        let now = world.machine(a).now(world.elapsed().as_micros() as u64);
        let views = node.view(now).peers.into_iter().flat_map(|peer| peer.paths);
        let streams =
            views.filter(|path| matches!(path.id, PathId::Direct { socket, .. } if socket.is_stream()));
        assert!(streams.map(|path| path.quality).all(|quality| quality.is_none()), "seed {seed}");
    }
}

#[test]
fn a_node_that_starts_without_udp_is_connected_within_five_seconds_and_again_after_the_relay_restarts() {
    for seed in seeds(5) {
        let (mut world, relay, [a, b]) = mesh(seed, Link::delay_ms(20));
        world.crash(a);
        world.net.host_mut(HostId(a.0)).tcp_only = true;
        world.run_for(20 * SECOND);
        world.start(a);
        let took = world
            .run_until("the node is connected", 5 * SECOND, |world| by_stream(world, a, relay) == Some(true));
        assert!(took >= SECOND, "UDP has a second to itself, not {took:?}");
        world.run_for(5 * SECOND);
        let flow = world.flow(a, b, EVERY);
        world.run_for(5 * SECOND);
        let report = world.finish(flow);
        assert_eq!(report.lost(), 0, "seed {seed}: {report:?}");
        world.crash(relay);
        world.run_for(3 * SECOND);
        world.start(relay);
        world.run_until("the node is connected again", 10 * SECOND, |world| {
            by_stream(world, a, relay) == Some(true)
        });
    }
}
