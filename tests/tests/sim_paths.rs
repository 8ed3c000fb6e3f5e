//! Which paths carry traffic, and what happens when they die.

use std::net::IpAddr;
use std::time::Duration;

use meshnet::node::PeerState;
use meshnet_tests::sim::{Link, MachineId, NatKind, Spec, World, packet, seeds};

const SECOND: Duration = Duration::from_secs(1);
const EVERY: Duration = Duration::from_millis(4);

/// Two datacentres with a relay and a node each, both nodes behind a translator, and a home site.
struct Mesh {
    world: World,
    relays: [MachineId; 2],
    nodes: [MachineId; 2],
}

fn state(world: &World, from: MachineId, to: MachineId) -> Option<PeerState> {
    let machine = world.machine(from);
    let member = world.machine(to).member();
    let node = machine.node()?;
    let now = machine.now(world.elapsed().as_micros() as u64);
    node.view(now).peers.into_iter().find(|peer| peer.member == member).map(|peer| peer.state)
}

/// Two relays in public sites of their own and two nodes behind translators of the given kinds.
fn mesh(seed: u64, kinds: [NatKind; 2]) -> Mesh {
    let mut world = World::new(seed);
    let dc = [
        world.public_site("198.51.100.0/24", Link::delay_ms(5)),
        world.public_site("203.0.113.0/24", Link::delay_ms(15)),
    ];
    let homes = [
        world.nat_site("192.168.1.0/24", kinds[0], "192.0.2.1", Link::delay_ms(8)),
        world.nat_site("192.168.1.0/24", kinds[1], "192.0.2.2", Link::delay_ms(12)),
    ];
    let relays = [
        world.add(Spec::new("r1", dc[0], "198.51.100.1").relay()),
        world.add(Spec::new("r2", dc[1], "203.0.113.1").relay()),
    ];
    let nodes = [
        world.add(Spec::new("a", homes[0], "192.168.1.10")),
        world.add(Spec::new("b", homes[1], "192.168.1.20")),
    ];
    world.form(&[relays[0], relays[1], nodes[0], nodes[1]]);
    Mesh { world, relays, nodes }
}

#[test]
fn a_mesh_forms_and_everybody_reaches_everybody() {
    for seed in seeds(5) {
        let Mesh { mut world, .. } = mesh(seed, [NatKind::PortRestricted, NatKind::Symmetric]);
        world.settle(30 * SECOND);
        world.check_reach(5, 5);
    }
}

#[test]
fn neighbours_talk_directly_and_go_on_without_the_uplink() {
    for seed in seeds(5) {
        let mut world = World::new(seed);
        let dc = world.public_site("198.51.100.0/24", Link::delay_ms(10));
        let home = world.nat_site("192.168.1.0/24", NatKind::Symmetric, "192.0.2.1", Link::delay_ms(10));
        let relay = world.add(Spec::new("r", dc, "198.51.100.1").relay());
        let a = world.add(Spec::new("a", home, "192.168.1.1"));
        let b = world.add(Spec::new("b", home, "192.168.1.2"));
        world.form(&[relay, a, b]);
        world.settle(30 * SECOND);
        let flow = world.flow(a, b, EVERY);
        world.run_for(5 * SECOND);
        assert_eq!(state(&world, a, b), Some(PeerState::Direct));
        world.net.site_mut(home).up = false;
        world.run_for(30 * SECOND);
        assert_eq!(world.finish(flow).lost(), 0);
    }
}

#[test]
fn translators_are_passed_where_that_is_possible_and_relayed_where_not() {
    use NatKind::{FullCone, PortRestricted, Symmetric};
    let direct = [
        (FullCone, FullCone, true),
        (FullCone, PortRestricted, true),
        (FullCone, Symmetric, true),
        (PortRestricted, PortRestricted, true),
        (PortRestricted, Symmetric, false),
        (Symmetric, Symmetric, false),
    ];
    for (a, b, direct) in direct {
        for seed in seeds(3) {
            let Mesh { mut world, nodes, .. } = mesh(seed, [a, b]);
            world.settle(30 * SECOND);
            let flow = world.flow(nodes[0], nodes[1], EVERY);
            world.run_for(20 * SECOND);
            let expected = if direct { PeerState::Direct } else { PeerState::Relayed };
            for (from, to) in [(nodes[0], nodes[1]), (nodes[1], nodes[0])] {
                assert_eq!(state(&world, from, to), Some(expected), "{a:?} and {b:?}, seed {seed}");
            }
            assert_eq!(world.finish(flow).lost(), 0, "{a:?} and {b:?}, seed {seed}");
        }
    }
}

#[test]
fn of_the_first_packets_between_strangers_none_is_lost() {
    for seed in seeds(10) {
        let Mesh { mut world, nodes, .. } = mesh(seed, [NatKind::PortRestricted, NatKind::PortRestricted]);
        world.settle(30 * SECOND);
        let flow = world.flow(nodes[0], nodes[1], Duration::from_millis(200));
        world.run_for(SECOND - EVERY);
        let report = world.finish(flow);
        assert_eq!((report.sent, report.lost()), (5, 0), "seed {seed}");
        assert!(report.longest_delay < SECOND, "{report:?}, seed {seed}");
    }
}

/// The relay that traffic from one node to another takes now.
fn relay_in_use(mesh: &Mesh) -> MachineId {
    let machine = mesh.world.machine(mesh.nodes[0]);
    let now = machine.now(mesh.world.elapsed().as_micros() as u64);
    let view = machine.node().expect("runs").view(now);
    let member = mesh.world.machine(mesh.nodes[1]).member();
    let path = view.peers.iter().find(|peer| peer.member == member).and_then(|peer| peer.path.clone());
    let remote = path.expect("there is a path").remote.ip();
    let used =
        |relay: &&MachineId| mesh.world.machine(**relay).settings.interface_addresses.contains(&remote);
    *mesh.relays.iter().find(used).expect("a relay is in use")
}

#[test]
fn a_relay_that_dies_costs_no_packet_and_one_that_falls_silent_costs_a_second_and_a_half_at_most() {
    for seed in seeds(10) {
        for silent in [false, true] {
            let mut mesh = mesh(seed, [NatKind::Symmetric, NatKind::Symmetric]);
            mesh.world.settle(30 * SECOND);
            let [a, b] = mesh.nodes;
            let flows = [mesh.world.flow(a, b, EVERY), mesh.world.flow(b, a, EVERY)];
            mesh.world.run_for(10 * SECOND);
            let relay = relay_in_use(&mesh);
            let before = flows.map(|flow| mesh.world.report(flow).lost());
            if silent {
                mesh.world.silence(relay, true);
            } else {
                mesh.world.crash(relay);
            }
            mesh.world.run_for(10 * SECOND);
            assert_ne!(relay_in_use(&mesh), relay);
            mesh.world.run_for(SECOND);
            for flow in flows {
                let report = mesh.world.finish(flow);
                if !silent {
                    assert_eq!(report.lost(), 0, "{report:?}, before {before:?}, seed {seed}");
                }
                assert!(report.longest_outage <= 3 * SECOND / 2, "{report:?}, seed {seed}, silent {silent}");
            }
        }
    }
}

#[test]
fn a_node_that_restarts_is_back_from_its_cache_with_every_relay_down() {
    for seed in seeds(5) {
        let mut world = World::new(seed);
        let dc = world.public_site("198.51.100.0/24", Link::delay_ms(10));
        let other = world.public_site("203.0.113.0/24", Link::delay_ms(10));
        let relay = world.add(Spec::new("r", dc, "198.51.100.1").relay());
        let a = world.add(Spec::new("a", dc, "198.51.100.2"));
        let b = world.add(Spec::new("b", other, "203.0.113.2"));
        world.form(&[relay, a, b]);
        world.settle(30 * SECOND);
        world.check_reach(5, 5);
        world.crash(relay);
        world.run_for(5 * SECOND);
        world.crash(a);
        world.run_for(SECOND);
        world.start(a);
        let flow = world.flow(b, a, EVERY);
        world.run_until("packets arrive again", 2 * SECOND, |world| world.report(flow).arrived > 0);
        let back = world.flow(a, b, EVERY);
        world.run_until("and the other way", SECOND, |world| world.report(back).arrived > 0);
    }
}

#[test]
fn sessions_go_on_when_an_address_changes() {
    for seed in seeds(5) {
        let Mesh { mut world, nodes, .. } = mesh(seed, [NatKind::PortRestricted, NatKind::PortRestricted]);
        let cafe = world.nat_site("10.20.0.0/16", NatKind::PortRestricted, "192.0.2.77", Link::delay_ms(30));
        world.settle(30 * SECOND);
        let there = world.flow(nodes[0], nodes[1], EVERY);
        let back = world.flow(nodes[1], nodes[0], EVERY);
        world.run_for(10 * SECOND);
        world.renumber(nodes[0], cafe, "10.20.3.4");
        world.run_for(10 * SECOND);
        for flow in [there, back] {
            let report = world.report(flow);
            assert!(report.longest_outage < 2 * SECOND, "{report:?}, seed {seed}");
        }
        assert_eq!(state(&world, nodes[0], nodes[1]), Some(PeerState::Direct), "seed {seed}");
    }
}

#[test]
fn a_translator_that_restarts_costs_a_moment_only() {
    for seed in seeds(5) {
        let Mesh { mut world, nodes, .. } = mesh(seed, [NatKind::PortRestricted, NatKind::PortRestricted]);
        world.settle(30 * SECOND);
        let there = world.flow(nodes[0], nodes[1], EVERY);
        let back = world.flow(nodes[1], nodes[0], EVERY);
        world.run_for(10 * SECOND);
        for site in 2..4 {
            let site = world.net.site_mut(meshnet_tests::sim::SiteId(site));
            if let meshnet_tests::sim::Uplink::Nat(nat) = &mut site.uplink {
                nat.restart();
            }
        }
        world.run_for(20 * SECOND);
        for flow in [there, back] {
            let report = world.report(flow);
            assert!(report.longest_outage < 3 * SECOND, "{report:?}, seed {seed}");
        }
    }
}

#[test]
fn an_underlay_of_ipv6_alone_will_do() {
    for seed in seeds(3) {
        let mut world = World::new(seed);
        let dc = world.public_site("2001:db8:1::/64", Link::delay_ms(10));
        let other = world.public_site("2001:db8:2::/64", Link::delay_ms(10));
        let relay = world.add(Spec::new("r", dc, "2001:db8:1::1").relay());
        let a = world.add(Spec::new("a", dc, "2001:db8:1::2"));
        let b = world.add(Spec::new("b", other, "2001:db8:2::2"));
        world.form(&[relay, a, b]);
        world.settle(30 * SECOND);
        world.check_reach(5, 5);
        let six = world.machine(b).addresses()[1];
        let flow = world.flow_to(a, b, six, EVERY);
        world.run_for(5 * SECOND);
        assert_eq!(world.finish(flow).lost(), 0);
    }
}

#[test]
fn two_sites_without_any_way_between_them_meet_at_a_relay_in_both() {
    for seed in seeds(3) {
        let mut world = World::new(seed);
        let (left, right) = (world.closed_site("10.1.0.0/24"), world.closed_site("10.2.0.0/24"));
        let relay = world.add(Spec::new("r", left, "10.1.0.1").and(right, "10.2.0.1").relay());
        let a = world.add(Spec::new("a", left, "10.1.0.2"));
        let b = world.add(Spec::new("b", right, "10.2.0.2"));
        world.form(&[relay, a, b]);
        world.settle(30 * SECOND);
        world.check_reach(5, 5);
        assert_eq!(state(&world, a, b), Some(PeerState::Relayed));
    }
}

#[test]
fn packets_pass_a_chain_of_relays() {
    for seed in seeds(3) {
        let mut world = World::new(seed);
        let sites: Vec<_> = (1..=4).map(|n| world.closed_site(&format!("10.{n}.0.0/24"))).collect();
        let relays: Vec<_> = (1..=3)
            .map(|n| {
                let spec = Spec::new(&format!("r{n}"), sites[n - 1], &format!("10.{n}.0.1"));
                world.add(spec.and(sites[n], &format!("10.{}.0.2", n + 1)).relay())
            })
            .collect();
        let a = world.add(Spec::new("a", sites[0], "10.1.0.9"));
        let b = world.add(Spec::new("b", sites[3], "10.4.0.9"));
        world.form(&[relays[0], relays[1], relays[2], a, b]);
        world.settle(60 * SECOND);
        world.check_reach(5, 5);
    }
}

#[test]
fn owners_of_equal_weight_share_flows_and_take_over_each_others_within_three_seconds() {
    for seed in seeds(3) {
        let mut world = World::new(seed);
        let dc = world.public_site("198.51.100.0/24", Link::delay_ms(5));
        let relay = world.add(Spec::new("r", dc, "198.51.100.1").relay());
        let owner = |name, address, weight| Spec::new(name, dc, address).subnet("172.16.0.0/16", weight);
        let first = world.add(owner("first", "198.51.100.2", 10));
        let second = world.add(owner("second", "198.51.100.3", 10));
        let spare = world.add(owner("spare", "198.51.100.4", 20));
        let client = world.add(Spec::new("client", dc, "198.51.100.5"));
        world.form(&[relay, first, second, spare, client]);
        world.settle(30 * SECOND);
        let server = |number: u8| IpAddr::from([172, 16, 0, number]);
        let source = world.machine(client).addresses()[0];
        // Whom a flow goes to is asked of the client, and the world checks that it does. Flows are numbered from 0, and each
        // has a port of its own.
        let owner_of = |world: &World, number: u8| {
            let packet = packet(source, server(number), u32::from(number) - 1, 0, 100);
            let member = world.machine(client).node().and_then(|node| node.flow_owner(&packet));
            [first, second, spare].into_iter().find(|id| Some(world.machine(*id).member()) == member)
        };
        let owners: Vec<_> = (1..=40).filter_map(|number| owner_of(&world, number)).collect();
        let of_first = owners.iter().filter(|owner| **owner == first).count();
        assert_eq!(owners.len(), 40);
        assert!((8..=32).contains(&of_first) && !owners.contains(&spare), "{of_first} of 40, seed {seed}");
        let flows: Vec<_> = (1..=40)
            .zip(&owners)
            .map(|(number, owner)| world.flow_to(client, *owner, server(number), EVERY * 5))
            .collect();
        world.run_for(5 * SECOND);
        for flow in flows {
            let report = world.finish(flow);
            assert_eq!(report.lost(), 0, "{report:?}, seed {seed}");
        }
        // Something flows to the owner itself, so that its silence is noticed.
        world.flow(client, first, EVERY * 5);
        world.run_for(SECOND);
        world.crash(first);
        world.run_for(3 * SECOND);
        for number in 1..=40 {
            assert_eq!(owner_of(&world, number), Some(second), "server {number}, seed {seed}");
        }
        let flow = world.flow_to(client, second, server(1), EVERY * 5);
        world.run_for(5 * SECOND);
        assert_eq!(world.finish(flow).lost(), 0, "seed {seed}");
    }
}

#[test]
fn a_server_behind_a_member_is_reached_and_another_member_takes_over() {
    for seed in seeds(3) {
        let mut world = World::new(seed);
        let dc = world.public_site("198.51.100.0/24", Link::delay_ms(5));
        let relay = world.add(Spec::new("r", dc, "198.51.100.1").relay());
        let first = world.add(Spec::new("first", dc, "198.51.100.2").subnet("172.16.5.0/24", 10));
        let second = world.add(Spec::new("second", dc, "198.51.100.3").subnet("172.16.5.0/24", 20));
        let client = world.add(Spec::new("client", dc, "198.51.100.4"));
        world.form(&[relay, first, second, client]);
        world.settle(30 * SECOND);
        let server = "172.16.5.80".parse().unwrap();
        let flow = world.flow_to(client, first, server, EVERY);
        world.run_for(5 * SECOND);
        assert_eq!(world.finish(flow).lost(), 0);
        world.crash(first);
        world.run_for(15 * SECOND);
        let flow = world.flow_to(client, second, server, EVERY);
        world.run_for(15 * SECOND);
        let report = world.report(flow);
        assert!(report.arrived > 250, "{report:?}, seed {seed}");
    }
}
