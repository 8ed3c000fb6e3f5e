//! Links that get narrower and wider under traffic, in silence or telling of it, drawn from seeds.

use std::time::Duration;

use meshnet::dataplane::DEFAULT_MTU;
use meshnet_tests::sim::{Link, MachineId, NatKind, SiteId, Spec, World, seeds};

const SECOND: Duration = Duration::from_secs(1);
/// Of inner packets, in bytes: they fit on an underlay of 1362 bytes without a relay.
const LONG: usize = 1300;
const EVERY: Duration = Duration::from_millis(2);
/// From the last packet that passed a link before it got narrower to the first one after it. The flows are too thin for more
/// than four looks a second; what a look costs are round trips of up to 70 ms.
const OUTAGE_MAX: Duration = Duration::from_millis(650);

struct Pair {
    world: World,
    sites: [SiteId; 2],
    nodes: [MachineId; 2],
}

/// Two nodes behind translators that let a direct path come about, or do not, and a relay.
fn pair(seed: u64) -> Pair {
    let mut world = World::new(seed);
    let public = world.public_site("198.51.100.0/24", Link::delay_ms(5));
    let relayed = world.random(2) == 0;
    let kind = if relayed { NatKind::Symmetric } else { NatKind::PortRestricted };
    let sites = [
        world.nat_site("192.168.1.0/24", kind, "192.0.2.1", Link::delay_ms(8)),
        world.nat_site("192.168.2.0/24", kind, "192.0.2.2", Link::delay_ms(12)),
    ];
    let relay = world.add(Spec::new("r", public, "198.51.100.1").relay());
    let nodes = [
        world.add(Spec::new("a", sites[0], "192.168.1.10")),
        world.add(Spec::new("b", sites[1], "192.168.2.20")),
    ];
    world.form(&[relay, nodes[0], nodes[1]]);
    world.settle(30 * SECOND);
    Pair { world, sites, nodes }
}

/// The longest inner packet that a node sends to the other one.
fn mtu(world: &World, from: MachineId, to: MachineId) -> Option<u16> {
    let (machine, member) = (world.machine(from), world.machine(to).member());
    let now = machine.now(world.elapsed().as_micros() as u64);
    let view = machine.node()?.view(now);
    let peer = view.peers.into_iter().find(|peer| peer.member == member)?;
    peer.path.map(|path| path.mtu)
}

#[test]
fn links_that_get_narrower_and_wider_under_traffic_cost_a_moment_and_never_the_flow() {
    for seed in seeds(3) {
        let Pair { mut world, sites, nodes: [a, b] } = pair(seed);
        let ways = [(a, b), (b, a)];
        let flows = ways.map(|(from, to)| {
            let destination = world.machine(to).addresses()[0];
            world.flow_of(from, to, destination, EVERY, LONG)
        });
        world.run_for(5 * SECOND);
        let before = flows.map(|flow| world.report(flow));
        for report in &before {
            // The last ones are on their way.
            assert!(report.longest_outage <= report.longest_delay + EVERY, "seed {seed}: {report:?}");
        }
        for _ in 0..4 {
            let (site, bytes) = (sites[world.random(2) as usize], 1280 + world.random(221) as usize);
            let answers = world.random(2) == 0;
            let link = world.net.site(site).wan;
            world.net.site_mut(site).wan = link.narrow(bytes, answers);
            let span = Duration::from_millis(1500 + world.random(3000));
            world.run_for(span);
        }
        for flow in flows {
            let report = world.report(flow);
            assert!(report.longest_outage <= OUTAGE_MAX, "seed {seed}: {report:?}");
            world.end_flow(flow);
        }
        // Wide again: found out by itself, and nothing is lost meanwhile.
        for site in sites {
            let link = world.net.site(site).wan;
            world.net.site_mut(site).wan = link.narrow(1500, false);
        }
        world.run_for(SECOND);
        let slow = ways.map(|(from, to)| {
            let destination = world.machine(to).addresses()[0];
            world.flow_of(from, to, destination, 25 * EVERY, LONG)
        });
        world.run_until("the old size in both directions", 330 * SECOND, |world| {
            ways.iter().all(|(from, to)| mtu(world, *from, *to).is_some_and(|mtu| mtu >= DEFAULT_MTU))
        });
        for flow in slow {
            let report = world.finish(flow);
            assert_eq!(report.lost(), 0, "seed {seed}: {report:?}");
        }
    }
}
