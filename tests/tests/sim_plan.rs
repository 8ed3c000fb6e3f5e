//! An operator has the whole mesh replace its keys.

use std::collections::BTreeSet;
use std::time::Duration;

use meshnet::node::{PlanError, PlanState};
use meshnet_tests::sim::{FlowId, Link, MachineId, NatKind, PowerCut, Spec, World, seeds};
use proto::certificate::Roles;
use proto::id::MemberId;

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
