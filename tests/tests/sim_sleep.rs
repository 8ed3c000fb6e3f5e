//! Machines that sleep, and clocks that are set.

use std::time::Duration;

use meshnet_tests::sim::{Link, MachineId, NatKind, Spec, World, seeds};

const SECOND: Duration = Duration::from_secs(1);
const EVERY: Duration = Duration::from_millis(20);

/// A relay, a node in another public site, and two nodes behind translators, of which one is symmetric.
fn mesh(seed: u64) -> (World, [MachineId; 4]) {
    let mut world = World::new(seed);
    let dc = world.public_site("198.51.100.0/24", Link::delay_ms(5));
    let other = world.public_site("203.0.113.0/24", Link::delay_ms(9));
    let home = world.nat_site("192.168.1.0/24", NatKind::PortRestricted, "192.0.2.1", Link::delay_ms(8));
    let far = world.nat_site("192.168.2.0/24", NatKind::Symmetric, "192.0.2.2", Link::delay_ms(12));
    let machines = [
        world.add(Spec::new("r", dc, "198.51.100.1").relay()),
        world.add(Spec::new("server", other, "203.0.113.5")),
        world.add(Spec::new("laptop", home, "192.168.1.10")),
        world.add(Spec::new("phone", far, "192.168.2.10")),
    ];
    world.form(&machines);
    (world, machines)
}

/// How long it takes from now until packets from and to `sleeper` arrive.
fn recovery(world: &mut World, sleeper: MachineId, others: &[MachineId]) -> Duration {
    let mut longest = Duration::ZERO;
    let pairs = others.iter().flat_map(|other| [(sleeper, *other), (*other, sleeper)]);
    let flows: Vec<_> = pairs.map(|(from, to)| world.flow(from, to, EVERY)).collect();
    for flow in &flows {
        let took =
            world.run_until("a packet of each flow", 20 * SECOND, |world| world.report(*flow).arrived > 0);
        longest += took;
    }
    flows.into_iter().for_each(|flow| world.end_flow(flow));
    longest
}

#[test]
fn a_machine_that_wakes_up_is_back_within_a_second_however_long_it_slept() {
    for seed in seeds(2) {
        // Sessions live through a short sleep, are too old after minutes, and records expire in an hour.
        for slept in [5, 100, 400, 2 * 3600] {
            let (mut world, [relay, server, laptop, phone]) = mesh(seed);
            world.settle(30 * SECOND);
            recovery(&mut world, laptop, &[relay, server, phone]);
            world.sleep(laptop, true);
            world.run_for(Duration::from_secs(slept));
            world.sleep(laptop, false);
            let took = recovery(&mut world, laptop, &[relay, server, phone]);
            assert!(took <= SECOND, "{took:?} after {slept} s, seed {seed}");
            world.settle(60 * SECOND);
        }
    }
}

#[test]
fn a_machine_that_wakes_up_elsewhere_is_back_within_a_second() {
    for seed in seeds(3) {
        let (mut world, [relay, server, laptop, phone]) = mesh(seed);
        world.settle(30 * SECOND);
        recovery(&mut world, laptop, &[relay, server]);
        let cafe = world.nat_site("10.7.0.0/24", NatKind::FullCone, "192.0.2.7", Link::delay_ms(10));
        world.sleep(laptop, true);
        world.run_for(60 * SECOND);
        world.renumber(laptop, cafe, "10.7.0.3");
        world.sleep(laptop, false);
        let took = recovery(&mut world, laptop, &[relay, server, phone]);
        assert!(took <= SECOND, "{took:?}, seed {seed}");
        world.settle(60 * SECOND);
    }
}

#[test]
fn a_clock_that_is_set_costs_no_packet_and_no_session() {
    for seed in seeds(2) {
        let (mut world, [relay, server, laptop, phone]) = mesh(seed);
        world.settle(30 * SECOND);
        let pairs = [(laptop, phone), (phone, server), (server, laptop), (relay, laptop)];
        let flows: Vec<_> = pairs.into_iter().map(|(from, to)| world.flow(from, to, EVERY * 5)).collect();
        world.run_for(10 * SECOND);
        // Half a day ahead, and then back to an hour before the truth: at both ends of sessions.
        let hour_ms: i64 = 3_600_000;
        for machine in [laptop, server] {
            world.set_clock(machine, 12 * hour_ms);
            world.run_for(130 * SECOND);
            world.set_clock(machine, -13 * hour_ms);
            world.run_for(130 * SECOND);
            world.set_clock(machine, hour_ms);
            world.run_for(10 * SECOND);
        }
        for flow in flows {
            let report = world.finish(flow);
            assert!(report.sent > 5_000 && report.lost() == 0, "{report:?}, seed {seed}");
        }
        world.settle(60 * SECOND);
    }
}
