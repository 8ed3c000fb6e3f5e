//! A small mesh that many scenarios begin with.

use std::time::Duration;

use proto::certificate::Roles;

use super::build::Spec;
use super::nat::NatKind;
use super::net::Link;
use super::world::{FlowId, MachineId, World};

/// A relay with a public address, two nodes beside each other in one home, and one in another home, in this order. Both homes
/// are behind symmetric translators, so that they reach each other through the relay only. All have met, and it is quiet.
pub fn homes(seed: u64) -> (World, [MachineId; 4]) {
    let (world, relay, _, [a, b, c]) = build(seed, None);
    (world, [relay, a, b, c])
}

/// As [`homes`], with one more node after the relay and beside it, which has a role.
pub fn homes_and(seed: u64, name: &str, role: Roles) -> (World, [MachineId; 5]) {
    let (world, relay, beside, [a, b, c]) = build(seed, Some((name, role)));
    (world, [relay, beside.expect("it was asked for"), a, b, c])
}

fn build(seed: u64, beside: Option<(&str, Roles)>) -> (World, MachineId, Option<MachineId>, [MachineId; 3]) {
    let mut world = World::new(seed);
    let dc = world.public_site("198.51.100.0/24", Link::delay_ms(3));
    let home = world.nat_site("192.168.1.0/24", NatKind::Symmetric, "192.0.2.1", Link::delay_ms(8));
    let other = world.nat_site("192.168.2.0/24", NatKind::Symmetric, "192.0.2.2", Link::delay_ms(12));
    let relay = world.add(Spec::new("r", dc, "198.51.100.1").relay());
    let beside = beside.map(|(name, role)| world.add(Spec::new(name, dc, "198.51.100.2").role(role)));
    let others = [
        world.add(Spec::new("a", home, "192.168.1.10")),
        world.add(Spec::new("b", home, "192.168.1.11")),
        world.add(Spec::new("c", other, "192.168.2.10")),
    ];
    let machines: Vec<MachineId> = [relay].into_iter().chain(beside).chain(others).collect();
    world.form(&machines);
    world.settle(Duration::from_secs(30));
    (world, relay, beside, others)
}

/// Numbered packets both ways on a direct path (`a`, `b`), on a relayed one (`a`, `c`), and to the relay.
pub fn flows_between(world: &mut World, [relay, a, b, c]: [MachineId; 4], every: Duration) -> Vec<FlowId> {
    [(a, b), (b, a), (a, c), (c, a), (a, relay), (relay, a)]
        .into_iter()
        .map(|(from, to)| world.flow(from, to, every))
        .collect()
}

/// Ends the flows, and fails the world if a packet of them was lost.
pub fn nothing_lost(world: &mut World, flows: Vec<FlowId>) {
    for flow in flows {
        let report = world.finish(flow);
        if report.lost() > 0 {
            world.fail(&format!("{flow:?}: {report:?}"));
        }
    }
}
