//! Transport keys are replaced under traffic: nothing is lost, whatever fails meanwhile.

use std::time::Duration;

use meshnet::node::{Node, Phase, RotateError};
use meshnet_tests::sim::{MachineId, PowerCut, World, flows_between, homes, nothing_lost, seeds};
use proto::id::KeyEpochNumber;

const SECOND: Duration = Duration::from_secs(1);
/// 1,000 packets a second.
const EVERY: Duration = Duration::from_millis(1);

fn epoch(world: &World, id: MachineId) -> u32 {
    world.machine(id).node().map_or(0, |node| node.view(world.machine(id).now(0)).key_epoch.0)
}

fn phase(world: &World, id: MachineId) -> Option<Phase> {
    let now = world.machine(id).now(world.elapsed().as_micros() as u64);
    world.machine(id).node().map(|node| node.keys_view(now).phase)
}

/// Waits until the old key is gone.
fn until_replaced(world: &mut World, id: MachineId, number: u32) -> Duration {
    world.run_until("the old key is replaced", 60 * SECOND, |world| {
        epoch(world, id) == number
            && phase(world, id).is_some_and(|p| matches!(p, Phase::Draining | Phase::Steady))
    })
}

#[test]
fn a_node_replaces_its_key_under_1000_packets_a_second_and_none_is_lost() {
    for seed in seeds(2) {
        let (mut world, machines) = homes(seed);
        let flows = flows_between(&mut world, machines, EVERY);
        world.run_for(SECOND);
        let number = world.ask(machines[1], |node, now| node.rotate_keys(now, false)).unwrap();
        assert_eq!(number, KeyEpochNumber(2));
        let took = until_replaced(&mut world, machines[1], 2);
        assert!(took < 5 * SECOND, "{took:?}");
        world.run_for(3 * SECOND);
        let second = world.ask(machines[1], |node, now| node.keys_view(now));
        for peer in &second.peers {
            assert_eq!(peer.confirmed, Some(KeyEpochNumber(2)), "{}", peer.name);
        }
        nothing_lost(&mut world, flows);
    }
}

#[test]
fn all_nodes_replace_their_keys_at_the_same_moment_and_no_packet_is_lost() {
    for seed in seeds(2) {
        let (mut world, machines) = homes(seed);
        let flows = flows_between(&mut world, machines, EVERY);
        world.run_for(SECOND);
        for machine in machines {
            world.ask(machine, |node, now| node.rotate_keys(now, false)).unwrap();
        }
        for machine in machines {
            until_replaced(&mut world, machine, 2);
        }
        world.run_for(2 * SECOND);
        nothing_lost(&mut world, flows);
        world.settle(30 * SECOND);
    }
}

#[test]
fn under_loss_and_reordering_a_rotation_loses_no_more_than_the_network() {
    let lost = |rotate: bool, seed: u64| {
        let (mut world, machines) = homes(seed);
        for site in 0..3 {
            let site = world.net.site_mut(meshnet_tests::sim::SiteId(site));
            site.lan = site.lan.lossy(0.01).messy(0.0, 0.02);
        }
        let flows =
            [world.flow(machines[1], machines[2], EVERY), world.flow(machines[2], machines[1], EVERY)];
        world.run_for(SECOND);
        if rotate {
            world.ask(machines[1], |node, now| node.rotate_keys(now, false)).unwrap();
        }
        world.run_for(20 * SECOND);
        flows.map(|flow| world.finish(flow)).iter().map(|report| report.lost()).sum::<u64>()
    };
    for seed in seeds(2) {
        let (without, with) = (lost(false, seed), lost(true, seed));
        // Two binomials of some 420 each: five standard deviations of the difference.
        let tolerance = 5.0 * ((without + with) as f64).sqrt();
        assert!(with.abs_diff(without) as f64 <= tolerance, "{with} with, {without} without, seed {seed}");
    }
}

/// The sweep: the power fails before and after every write of the keys, and the machine comes back.
#[test]
fn a_rotation_survives_a_power_cut_at_every_write() {
    for cut in (1..=3).flat_map(|write| [PowerCut::Before(write), PowerCut::After(write)]) {
        let (mut world, machines) = homes(7);
        let [r, a, b, c] = machines;
        let others = [(b, c), (c, b), (b, r)].map(|(from, to)| world.flow(from, to, EVERY));
        world.machine_mut(a).power_cut = Some(cut);
        world.ask(a, |node, now| node.rotate_keys(now, false)).unwrap();
        world.run_until("the power fails", 60 * SECOND, |world| world.machine(a).node().is_none());
        world.run_for(SECOND);
        world.start(a);
        let to = [r, b, c].map(|peer| world.flow(a, peer, 20 * EVERY));
        let from = [r, b, c].map(|peer| world.flow(peer, a, 20 * EVERY));
        world.run_until("everybody reaches it again", 10 * SECOND, |world| {
            to.iter().chain(&from).all(|flow| world.report(*flow).arrived > 0)
        });
        // Before the first write nothing had begun; otherwise the rotation goes on by itself.
        let number = if cut == PowerCut::Before(1) { 1 } else { 2 };
        until_replaced(&mut world, a, number);
        world.run_for(SECOND);
        let before: Vec<u64> = to.iter().map(|flow| world.report(*flow).lost()).collect();
        world.run_for(5 * SECOND);
        for (flow, before) in to.into_iter().zip(before) {
            // What was on its way had not arrived yet.
            assert!(world.finish(flow).lost() <= before, "{cut:?}");
        }
        nothing_lost(&mut world, others.to_vec());
        // And it can be done again.
        world.ask(a, |node, now| node.rotate_keys(now, false)).unwrap();
        until_replaced(&mut world, a, number + 1);
    }
}

#[test]
fn a_node_that_was_away_for_one_or_ten_rotations_comes_back_by_itself() {
    for rotations in [1, 10] {
        for seed in seeds(2) {
            let (mut world, [r, a, b, c]) = homes(seed);
            world.crash(c);
            world.run_for(2 * SECOND);
            for round in 1..=rotations {
                for machine in [r, a, b] {
                    world.ask(machine, |node, now| node.rotate_keys(now, false)).unwrap();
                }
                for machine in [r, a, b] {
                    until_replaced(&mut world, machine, 1 + round);
                }
            }
            world.start(c);
            let flows = [(c, a), (a, c), (c, r)].map(|(from, to)| world.flow(from, to, 20 * EVERY));
            world.run_until("it is back", 10 * SECOND, |world| {
                flows.iter().all(|flow| world.report(*flow).arrived > 0)
            });
        }
    }
}

#[test]
fn all_nodes_that_were_away_at_once_with_caches_of_different_age_find_each_other() {
    // Each knows an older key of the others than the one in use.
    let (mut world, machines) = homes(3);
    let [r, a, b, _] = machines;
    world.crash(b);
    for machine in [r, a] {
        world.ask(machine, |node, now| node.rotate_keys(now, false)).unwrap();
    }
    until_replaced(&mut world, r, 2);
    until_replaced(&mut world, a, 2);
    world.crash(r);
    world.crash(a);
    world.start(b);
    world.ask(b, |node, now| node.rotate_keys(now, false)).unwrap();
    until_replaced(&mut world, b, 2);
    for machine in [r, a] {
        world.start(machine);
    }
    world.settle(60 * SECOND);
}

#[test]
fn a_node_restored_from_a_backup_older_than_a_rotation_makes_a_newer_key_and_is_back() {
    for with_cache in [true, false] {
        let (mut world, [r, a, b, _]) = homes(11);
        let backup = (world.machine(b).disk.keys.clone(), world.machine(b).disk.cache.clone());
        for round in 2..4 {
            world.ask(b, |node, now| node.rotate_keys(now, false)).unwrap();
            until_replaced(&mut world, b, round);
        }
        world.run_for(2 * SECOND);
        world.crash(b);
        world.run_for(2 * SECOND);
        let disk = &mut world.machine_mut(b).disk;
        disk.keys = backup.0;
        if !with_cache {
            disk.cache = backup.1;
        }
        world.start(b);
        let flows = [(b, a), (a, b), (b, r)].map(|(from, to)| world.flow(from, to, 20 * EVERY));
        world.run_until("it is back", 15 * SECOND, |world| {
            flows.iter().all(|flow| world.report(*flow).arrived > 0)
        });
        assert_eq!(epoch(&world, b), 4);
    }
}

#[test]
fn a_stolen_key_counts_for_nothing_as_soon_as_members_hear_of_it() {
    for seed in seeds(2) {
        let (mut world, machines) = homes(seed);
        let [r, a, b, c] = machines;
        let flows = flows_between(&mut world, machines, EVERY);
        world.run_for(SECOND);
        world.ask(a, |node, now| node.rotate_keys(now, true)).unwrap();
        world.run_for(SECOND);
        assert_eq!(epoch(&world, a), 2);
        let me = world.machine(a).member();
        for machine in [r, b, c] {
            let (known, session) = world.ask(machine, |node, now| {
                let known = node.membership().get(me).map(|known| known.epochs().floor());
                let session = node.keys_view(now).peers.into_iter().find(|peer| peer.member == me);
                (known, session.and_then(|peer| peer.session))
            });
            assert_eq!(known, Some(KeyEpochNumber(2)));
            assert!(session.is_none_or(|(_, theirs)| theirs == KeyEpochNumber(2)), "{session:?}");
        }
        for flow in flows {
            let report = world.finish(flow);
            assert!(report.longest_outage < Duration::from_millis(300), "{report:?}");
        }
    }
}

#[test]
fn two_rotations_at_once_are_one_and_a_stolen_key_overtakes_a_rotation() {
    let (mut world, [_, a, ..]) = homes(1);
    let ask = |world: &mut World, stolen| world.ask(a, |node: &mut Node, now| node.rotate_keys(now, stolen));
    assert_eq!(ask(&mut world, false), Ok(KeyEpochNumber(2)));
    assert_eq!(ask(&mut world, false), Err(RotateError::UnderWay(KeyEpochNumber(2))));
    world.run_for(Duration::from_millis(100));
    assert_eq!(ask(&mut world, false), Err(RotateError::UnderWay(KeyEpochNumber(2))));
    // Both keys may have been seen.
    assert_eq!(ask(&mut world, true), Ok(KeyEpochNumber(3)));
    world.run_for(SECOND);
    assert_eq!(epoch(&world, a), 3);
    world.settle(30 * SECOND);
}

#[test]
fn keys_are_replaced_by_themselves_when_they_are_old_enough_and_not_all_at_once() {
    let (mut world, machines) = homes(5);
    for machine in machines {
        let settings = meshnet::node::Settings {
            rotate_every: Some(1000 * SECOND),
            ..world.machine(machine).settings.clone()
        };
        world.reconfigure(machine, settings);
    }
    world.run_for(850 * SECOND - world.elapsed());
    assert_eq!(machines.map(|machine| epoch(&world, machine)), [1; 4]);
    let mut times = Vec::new();
    let mut rotated = std::collections::BTreeSet::new();
    while rotated.len() < machines.len() {
        world.run_for(10 * SECOND);
        assert!(world.elapsed() < 1100 * SECOND, "{rotated:?} only");
        for machine in machines {
            if epoch(&world, machine) == 2 && rotated.insert(machine) {
                times.push(world.elapsed());
            }
        }
    }
    times.dedup();
    assert!(times.len() > 1, "all at {times:?}");
}
