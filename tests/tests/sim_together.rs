//! Keys, authority, and members change at the same time, or while somebody is away for all of it.

use std::time::Duration;

use meshnet::membership::AuthoritySecret;
use meshnet::node::{Phase, Stage};
use meshnet_tests::sim::{Link, MachineId, NatKind, Roller, Spec, World, seeds};
use proto::certificate::Roles;
use proto::revocation::RevocationTarget;

const SECOND: Duration = Duration::from_secs(1);
const MINUTE: Duration = Duration::from_secs(60);
/// 1,000 packets a second.
const EVERY: Duration = Duration::from_millis(1);

/// A relay, an operator, two nodes beside each other, and one that both reach through the relay only.
fn mesh(seed: u64) -> (World, [MachineId; 5]) {
    let mut world = World::new(seed);
    let dc = world.public_site("198.51.100.0/24", Link::delay_ms(3));
    let home = world.nat_site("192.168.1.0/24", NatKind::Symmetric, "192.0.2.1", Link::delay_ms(8));
    let other = world.nat_site("192.168.2.0/24", NatKind::Symmetric, "192.0.2.2", Link::delay_ms(12));
    let machines = [
        world.add(Spec::new("r", dc, "198.51.100.1").relay()),
        world.add(Spec::new("o", dc, "198.51.100.2").role(Roles::OPERATOR)),
        world.add(Spec::new("a", home, "192.168.1.10")),
        world.add(Spec::new("b", home, "192.168.1.11")),
        world.add(Spec::new("c", other, "192.168.2.10")),
    ];
    world.form(&machines);
    world.settle(30 * SECOND);
    (world, machines)
}

fn epoch(world: &World, id: MachineId) -> u32 {
    world.machine(id).node().map_or(0, |node| node.view(world.machine(id).now(0)).key_epoch.0)
}

fn has_replaced(world: &World, id: MachineId, number: u32) -> bool {
    let now = world.machine(id).now(world.elapsed().as_micros() as u64);
    let phase = world.machine(id).node().map(|node| node.keys_view(now).phase);
    epoch(world, id) == number && phase.is_some_and(|one| matches!(one, Phase::Draining | Phase::Steady))
}

fn version(world: &World, id: MachineId) -> u32 {
    world.machine(id).node().map_or(0, |node| node.membership().trust().version())
}

#[test]
fn keys_and_authority_are_replaced_at_once_and_a_member_is_revoked_meanwhile_and_nothing_of_others_is_lost() {
    for seed in seeds(3) {
        for plan in [false, true] {
            let (mut world, machines) = mesh(seed);
            let [r, o, a, b, c] = machines;
            let pairs = [(a, b), (b, a), (a, r), (r, a), (b, r)];
            let flows = pairs.map(|(from, to)| world.flow(from, to, EVERY));
            world.run_for(SECOND);
            let old = AuthoritySecret::from_bytes(&world.authority().to_bytes());
            let mut roller = Roller::new(r, &AuthoritySecret::from_bytes(&[7; 32]), Some(&old));
            roller.step(&mut world);
            if plan {
                world.ask(o, |node, now| {
                    let plan = node.make_plan(now, &[]).expect("it is an operator");
                    node.set_plan(now, plan);
                });
            } else {
                for machine in machines {
                    world.ask(machine, |node, now| node.rotate_keys(now, false)).expect("none is under way");
                }
            }
            // In the middle of both, a member turns out to be stolen.
            world.run_for(Duration::from_millis(seed * 37 % 400));
            roller.step(&mut world);
            let stolen = world.machine(c).member();
            world
                .ask(o, |node, now| node.revoke(now, RevocationTarget::Member(stolen), now.wall.seconds(), 1))
                .expect("it is an operator");
            roller.run_until(&mut world, Stage::Done, 2 * MINUTE);
            let rest = [r, o, a, b];
            world.run_until("the rest has new keys", MINUTE, |world| {
                rest.iter().all(|machine| has_replaced(world, *machine, 2))
            });
            world.run_for(2 * SECOND);
            for flow in flows {
                let report = world.finish(flow);
                if report.lost() > 0 {
                    world.fail(&format!("plan {plan}, {flow:?}: {report:?}"));
                }
            }
            for machine in rest {
                assert_eq!(version(&world, machine), 3, "{}", world.name(machine));
                let membership = world.machine(machine).node().expect("it runs").membership();
                assert!(membership.get(stolen).is_none() && membership.len() == 4);
                assert!(membership.unsupported().is_empty());
            }
        }
    }
}

#[test]
fn who_was_away_for_ten_rotations_of_everybody_and_a_roll_over_comes_back_by_itself() {
    for seed in seeds(2) {
        let (mut world, [r, o, a, b, c]) = mesh(seed);
        world.crash(c);
        world.run_for(2 * SECOND);
        let there = [r, o, a, b];
        let old = AuthoritySecret::from_bytes(&world.authority().to_bytes());
        for round in 1..=10 {
            for machine in there {
                world.ask(machine, |node, now| node.rotate_keys(now, false)).expect("none is under way");
            }
            world.run_until("all have new keys", MINUTE, |world| {
                there.iter().all(|machine| has_replaced(world, *machine, 1 + round))
            });
            if round == 5 {
                let mut roller = Roller::new(r, &AuthoritySecret::from_bytes(&[7; 32]), Some(&old));
                roller.rollover.without = vec![world.machine(c).member()];
                roller.run_until(&mut world, Stage::Done, MINUTE);
            }
        }
        world.start(c);
        let flows = [(c, a), (a, c), (c, r), (b, c)].map(|(from, to)| world.flow(from, to, 20 * EVERY));
        world.run_until("it is back, with everything that it missed", 20 * SECOND, |world| {
            version(world, c) == 3 && flows.iter().all(|flow| world.report(*flow).arrived > 0)
        });
        world.run_for(MINUTE);
        let membership = world.machine(c).node().expect("it runs").membership();
        assert!(membership.len() == 5 && membership.unsupported().is_empty());
    }
}
