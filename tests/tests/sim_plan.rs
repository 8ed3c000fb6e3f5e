//! An operator has the whole mesh replace its keys.

use std::collections::BTreeSet;
use std::time::Duration;

use meshnet::node::{PlanError, PlanState};
use meshnet_tests::sim::{FlowId, Link, MachineId, NatKind, PowerCut, Spec, World, seeds};
use proto::certificate::Roles;
use proto::id::MemberId;
use proto::record::MAX_WITHOUT;

const SECOND: Duration = Duration::from_secs(1);

/// Two relays, both operators, and ten nodes at two homes.
fn mesh(seed: u64) -> (World, Vec<MachineId>) {
    let mut world = World::new(seed);
    let dc = world.public_site("198.51.100.0/24", Link::delay_ms(3));
    let homes = [
        world.nat_site("192.168.1.0/24", NatKind::PortRestricted, "192.0.2.1", Link::delay_ms(8)),
        world.nat_site("192.168.2.0/24", NatKind::Symmetric, "192.0.2.2", Link::delay_ms(12)),
    ];
    let mut machines = vec![
        world.add(Spec::new("r1", dc, "198.51.100.1").relay().role(Roles::OPERATOR)),
        world.add(Spec::new("r2", dc, "198.51.100.2").relay().role(Roles::OPERATOR)),
    ];
    for number in 0..10 {
        let home = number % 2;
        let address = format!("192.168.{}.{}", home + 1, 10 + number);
        machines.push(world.add(Spec::new(&format!("n{number}"), homes[home], &address)));
    }
    world.form(&machines);
    world.settle(30 * SECOND);
    (world, machines)
}

fn plan(world: &mut World, by: MachineId, without: &[MemberId]) -> Result<(), PlanError> {
    let plan = world.ask(by, |node, now| node.make_plan(now, without))?;
    world.machine_mut(by).disk.plan = Some(plan.clone());
    world.ask(by, |node, now| node.set_plan(now, plan));
    Ok(())
}

fn epoch(world: &World, id: MachineId) -> u32 {
    let now = world.machine(id).now(world.elapsed().as_micros() as u64);
    world.machine(id).node().map_or(0, |node| node.view(now).key_epoch.0)
}

fn is_done(world: &World, at: MachineId) -> bool {
    let now = world.machine(at).now(world.elapsed().as_micros() as u64);
    world.machine(at).node().and_then(|node| node.plan_view(now)).is_some_and(|view| view.done)
}

fn until_done(world: &mut World, at: MachineId) -> Duration {
    world.run_until("the plan is done", 120 * SECOND, |world| is_done(world, at))
}

fn flows(world: &mut World, machines: &[MachineId]) -> Vec<FlowId> {
    let pairs = [(2, 4), (4, 2), (2, 3), (3, 2), (0, 5), (5, 0), (1, 0)];
    let every = Duration::from_millis(2);
    pairs.map(|(from, to)| world.flow(machines[from], machines[to], every)).into()
}

#[test]
fn twelve_nodes_replace_their_keys_and_no_packet_is_lost() {
    for seed in seeds(2) {
        let (mut world, machines) = mesh(seed);
        let flows = flows(&mut world, &machines);
        world.run_for(2 * SECOND);
        plan(&mut world, machines[0], &[]).unwrap();
        let took = until_done(&mut world, machines[0]);
        assert!(took < 20 * SECOND, "{took:?}");
        assert!(machines.iter().all(|machine| epoch(&world, *machine) == 2));
        world.run_for(2 * SECOND);
        for flow in flows {
            let report = world.finish(flow);
            assert_eq!(report.lost(), 0, "{report:?}, seed {seed}");
        }
        // It is over: nobody goes on.
        world.run_for(60 * SECOND);
        assert!(machines.iter().all(|machine| epoch(&world, *machine) == 2));
    }
}

/// The planner's clock may be behind that of others, and keys may be of the second of the plan.
#[test]
fn a_plan_replaces_every_key_that_there_is_however_young_and_by_whichever_clock() {
    for seed in seeds(2) {
        let (mut world, machines) = mesh(seed);
        for (number, off_s) in [(1, 4), (3, 240), (4, -250), (5, -3)] {
            world.machine_mut(machines[number]).clock_error_ms = off_s * 1000;
        }
        let epochs =
            |world: &World| machines.iter().map(|machine| epoch(world, *machine)).collect::<Vec<_>>();
        for round in 2..5 {
            // At once after the last one was done.
            plan(&mut world, machines[0], &[]).unwrap();
            let took = until_done(&mut world, machines[0]);
            assert!(took < 20 * SECOND, "{took:?}");
            assert_eq!(epochs(&world), [round; 12], "seed {seed}");
        }
        // So soon that the planner has not heard of the key, or that it is not even written.
        world.run_for(30 * SECOND);
        for number in [0, 6, 7] {
            world.ask(machines[number], |node, now| node.rotate_keys(now, false)).unwrap();
        }
        plan(&mut world, machines[0], &[]).unwrap();
        until_done(&mut world, machines[0]);
        assert_eq!(epochs(&world), [6, 5, 5, 5, 5, 5, 6, 6, 5, 5, 5, 5], "seed {seed}");
    }
}

/// What a plan asks for, patience with those who are away, ends with it.
#[test]
fn a_rotation_of_one_key_after_a_plan_waits_no_longer_than_without() {
    let (mut world, machines) = mesh(8);
    plan(&mut world, machines[0], &[]).unwrap();
    until_done(&mut world, machines[0]);
    world.run_for(10 * SECOND);
    world.crash(machines[11]);
    for number in [0, 4] {
        world.ask(machines[number], |node, now| node.rotate_keys(now, false)).unwrap();
    }
    world.run_for(SECOND / 5);
    // What was done stays done.
    assert!([0, 1, 4, 5].iter().all(|at| is_done(&world, machines[*at])));
    world.run_for(60 * SECOND);
    for number in [0, 4] {
        let keys = world.ask(machines[number], |node, now| node.keys_view(now));
        assert_eq!((keys.epochs.len(), keys.epochs[0].number.0), (1, 3), "{keys:?}");
    }
}

/// A member's clock was weeks ahead when it made its key. No plan is dated so, or it would be in force nowhere.
#[test]
fn a_key_from_the_future_does_not_take_plans_along() {
    let (mut world, machines) = mesh(7);
    world.machine_mut(machines[5]).clock_error_ms = 3_000_000_000;
    world.ask(machines[5], |node, now| node.rotate_keys(now, false)).unwrap();
    world.run_for(20 * SECOND);
    plan(&mut world, machines[0], &[]).unwrap();
    let took = until_done(&mut world, machines[0]);
    assert!(took < 20 * SECOND, "{took:?}");
    assert!(machines.iter().all(|machine| epoch(&world, *machine) == 2));
}

#[test]
fn a_plan_counts_in_the_second_in_which_another_was_called_off() {
    let (mut world, machines) = mesh(9);
    world.crash(machines[11]);
    world.run_for(2 * SECOND);
    plan(&mut world, machines[0], &[]).unwrap();
    world.run_for(SECOND / 5);
    let abort = world.ask(machines[1], |node, now| node.make_abort(now)).unwrap().unwrap();
    world.ask(machines[1], |node, now| node.set_plan(now, abort));
    world.run_for(SECOND / 5);
    let without = [world.machine(machines[11]).member()];
    plan(&mut world, machines[0], &without).unwrap();
    until_done(&mut world, machines[0]);
    assert!(machines[..11].iter().all(|machine| epoch(&world, *machine) >= 2));
}

#[test]
fn with_a_third_away_the_plan_waits_names_them_and_ends_when_they_are_back() {
    for seed in seeds(2) {
        let (mut world, machines) = mesh(seed);
        let away = &machines[8..];
        for machine in away {
            world.crash(*machine);
        }
        world.run_for(5 * SECOND);
        plan(&mut world, machines[0], &[]).unwrap();
        world.run_for(120 * SECOND);
        let names: BTreeSet<MemberId> = away.iter().map(|machine| world.machine(*machine).member()).collect();
        let view = world.ask(machines[0], |node, now| node.plan_view(now)).unwrap();
        let owing: BTreeSet<MemberId> =
            view.members.iter().filter(|one| one.owes).map(|one| one.member).collect();
        assert!(!view.done);
        assert_eq!(owing, names);
        // Nobody has given the old key up, so that those who come back are not locked out.
        assert!(machines[..8].iter().all(|machine| epoch(&world, *machine) == 1));
        for machine in away {
            world.start(*machine);
        }
        until_done(&mut world, machines[0]);
        assert!(machines.iter().all(|machine| epoch(&world, *machine) == 2));
        world.settle(60 * SECOND);
    }
}

#[test]
fn a_plan_goes_on_without_those_that_are_named_and_can_be_called_off() {
    let (mut world, machines) = mesh(3);
    let (gone, member) = (machines[11], world.machine(machines[11]).member());
    world.crash(gone);
    world.run_for(2 * SECOND);
    plan(&mut world, machines[0], &[]).unwrap();
    world.run_for(40 * SECOND);
    assert!(!is_done(&world, machines[0]));
    // Another operator cannot make a second one meanwhile, but call this one off.
    let refused = plan(&mut world, machines[1], &[]);
    assert_eq!(refused, Err(PlanError::UnderWay(world.machine(machines[0]).member())));
    plan(&mut world, machines[0], &[member]).unwrap();
    until_done(&mut world, machines[0]);
    let view = world.ask(machines[0], |node, now| node.plan_view(now)).unwrap();
    assert!(view.members.iter().any(|one| one.member == member && one.state == PlanState::LeftOut));

    plan(&mut world, machines[0], &[]).unwrap();
    world.run_for(10 * SECOND);
    let abort = world.ask(machines[1], |node, now| node.make_abort(now)).unwrap().unwrap();
    world.ask(machines[1], |node, now| node.set_plan(now, abort));
    world.run_for(60 * SECOND);
    // Whoever had prepared has gone on by itself, and all talk.
    assert!(world.ask(machines[0], |node, now| node.plan_view(now)).is_none());
    world.start(gone);
    world.settle(60 * SECOND);
    world.check_reach(10, 9);
}

#[test]
fn a_plan_survives_the_loss_of_power_anywhere() {
    for seed in seeds(3) {
        let (mut world, machines) = mesh(seed);
        for (number, machine) in machines.iter().enumerate().skip(1).step_by(3) {
            let write = 1 + (number as u64 + seed) % 3;
            let cut = if number % 2 == 0 { PowerCut::Before(write) } else { PowerCut::After(write) };
            world.machine_mut(*machine).power_cut = Some(cut);
        }
        plan(&mut world, machines[0], &[]).unwrap();
        world.run_for(SECOND / 2);
        world.crash(machines[0]);
        for _ in 0..60 {
            world.run_for(SECOND);
            for machine in &machines {
                if world.machine(*machine).node().is_none() {
                    world.start(*machine);
                }
            }
        }
        until_done(&mut world, machines[0]);
        assert!(machines.iter().all(|machine| epoch(&world, *machine) == 2));
        world.settle(60 * SECOND);
    }
}

/// Whichever of two operators has the smaller id, and though both do it within one second.
#[test]
fn an_operator_calls_off_its_own_plan_and_anothers_and_leaves_out_so_many_at_most() {
    let (mut world, machines) = mesh(33);
    for (by, who) in [(0, 0), (0, 1), (1, 0), (1, 1)] {
        // Somebody away keeps the plan under way.
        world.crash(machines[11]);
        plan(&mut world, machines[by], &[]).unwrap();
        world.run_for(SECOND);
        let in_force =
            |world: &mut World, at: usize| world.ask(machines[at], |node, now| node.plan_view(now)).is_some();
        assert!((0..3).all(|at| in_force(&mut world, at)));
        let abort = world.ask(machines[who], |node, now| node.make_abort(now)).unwrap().unwrap();
        world.machine_mut(machines[who]).disk.plan = Some(abort.clone());
        world.ask(machines[who], |node, now| node.set_plan(now, abort));
        world.run_for(SECOND);
        assert!(!(0..3).any(|at| in_force(&mut world, at)), "{by}'s, called off by {who}");
        world.start(machines[11]);
        world.settle(30 * SECOND);
    }
    let many: Vec<MemberId> = (0..=MAX_WITHOUT as u128).map(|n| MemberId(n.to_be_bytes())).collect();
    let make = |world: &mut World, without: &[MemberId]| {
        world.ask(machines[0], |node, now| node.make_plan(now, without)).map(|plan| plan.without.len())
    };
    assert_eq!(make(&mut world, &many[1..]), Ok(MAX_WITHOUT));
    assert_eq!(make(&mut world, &many), Err(PlanError::TooMany));
    // Oneself and repetitions do not count.
    let again = [&many[1..], &many[1..], &[world.machine(machines[0]).member()]].concat();
    assert_eq!(make(&mut world, &again), Ok(MAX_WITHOUT));
}

#[test]
fn only_operators_make_plans_and_a_revocation_in_the_middle_ends_the_wait() {
    let (mut world, machines) = mesh(5);
    assert_eq!(plan(&mut world, machines[4], &[]), Err(PlanError::NotOperator));
    // Whoever plans without the role is not listened to.
    let now_s = world.machine(machines[4]).now(world.elapsed().as_micros() as u64).wall.seconds();
    let forged = proto::record::KeyPlan { created_s: now_s, aborted: false, wave: 1, without: vec![] };
    world.ask(machines[4], |node, now| node.set_plan(now, forged));
    world.run_for(15 * SECOND);
    assert!(machines.iter().all(|machine| epoch(&world, *machine) == 1));
    // Somebody who does not come back holds the plan up until it is revoked.
    let member = world.machine(machines[7]).member();
    world.crash(machines[7]);
    world.run_for(2 * SECOND);
    plan(&mut world, machines[0], &[]).unwrap();
    world.run_for(40 * SECOND);
    assert!(!is_done(&world, machines[0]));
    let target = proto::revocation::RevocationTarget::Member(member);
    world.ask(machines[1], |node, now| node.revoke(now, target, now_s, 2)).unwrap();
    until_done(&mut world, machines[0]);
}
