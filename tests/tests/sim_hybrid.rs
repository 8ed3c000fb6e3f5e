//! Post-quantum sessions between whole nodes: who gets them, what waits for them, and what they survive.

use std::time::Duration;

use meshnet::node::{PeerState, PeerView, PostQuantum, Quantum, Settings, Warning};
use meshnet_tests::sim::{Link, MachineId, NatKind, Spec, World, seeds};
use proto::id::{KeyEpochNumber, Name};

const SECOND: Duration = Duration::from_secs(1);
/// 200 packets a second.
const EVERY: Duration = Duration::from_millis(5);
/// 20 packets a second, for minutes.
const SELDOM: Duration = Duration::from_millis(50);

/// A relay, two nodes beside each other, and one that both reach through the relay only; with what each wants.
fn mesh(seed: u64, loss: f64, wants: [PostQuantum; 4]) -> (World, [MachineId; 4]) {
    let mut world = World::new(seed);
    let lossy = |ms| Link { loss, ..Link::delay_ms(ms) };
    let dc = world.public_site("198.51.100.0/24", lossy(3));
    let home = world.nat_site("192.168.1.0/24", NatKind::Symmetric, "192.0.2.1", lossy(8));
    let other = world.nat_site("192.168.2.0/24", NatKind::Symmetric, "192.0.2.2", lossy(12));
    let machines = [
        world.add(Spec::new("r", dc, "198.51.100.1").relay().pq(wants[0])),
        world.add(Spec::new("a", home, "192.168.1.10").pq(wants[1])),
        world.add(Spec::new("b", home, "192.168.1.11").pq(wants[2])),
        world.add(Spec::new("c", other, "192.168.2.10").pq(wants[3])),
    ];
    world.form(&machines);
    // What a lossy link swallows is found when databases are compared, some seconds after the news.
    world.settle(30 * SECOND);
    (world, machines)
}

fn peer(world: &mut World, of: MachineId, name: &str) -> PeerView {
    let views = world.ask(of, |node, now| node.peer_views(now));
    views.into_iter().find(|view| view.name.as_str() == name).expect("it is a member")
}

fn quantum(world: &mut World, of: MachineId, name: &str) -> Option<Quantum> {
    peer(world, of, name).quantum
}

/// Numbered packets between two for so long: how many were sent, how many arrived, there and back.
fn between(world: &mut World, a: MachineId, b: MachineId, span: Duration) -> [(u64, u64); 2] {
    let flows = [world.flow(a, b, EVERY), world.flow(b, a, EVERY)];
    world.run_for(span);
    flows.map(|flow| {
        let report = world.finish(flow);
        (report.sent, report.arrived)
    })
}

#[test]
fn sessions_become_hybrid_under_traffic_and_stay_so_and_nothing_is_lost() {
    for seed in seeds(1) {
        let (mut world, [r, a, b, c]) = mesh(seed, 0.0, [PostQuantum::Prefer; 4]);
        let pairs = [(a, b), (a, c), (a, r), (c, b)];
        let flows: Vec<_> = pairs
            .iter()
            .flat_map(|(x, y)| [(*x, *y), (*y, *x)])
            .map(|(x, y)| world.flow(x, y, SELDOM))
            .collect();
        world.run_for(2 * SECOND);
        for (x, name) in [(a, "b"), (a, "c"), (a, "r"), (c, "b"), (b, "a"), (r, "c")] {
            assert_eq!(quantum(&mut world, x, name), Some(Quantum::Hybrid), "{name}");
        }
        // Over several rekeyings, a rotation of keys, and one because of theft.
        for _ in 0..13 {
            world.run_for(20 * SECOND);
            for (x, name) in [(a, "b"), (a, "c"), (r, "a")] {
                assert_eq!(quantum(&mut world, x, name), Some(Quantum::Hybrid), "{name}");
            }
        }
        let number = world.ask(a, |node, now| node.rotate_keys(now, false)).unwrap();
        assert_eq!(number, KeyEpochNumber(2));
        world.run_for(10 * SECOND);
        assert_eq!(quantum(&mut world, c, "a"), Some(Quantum::Hybrid));
        for flow in flows {
            let report = world.finish(flow);
            if report.lost() > 0 {
                world.fail(&format!("{flow:?}: {report:?}"));
            }
        }
        let stats = world.ask(a, |node, _| node.handshake_stats());
        assert!(stats.hybrid >= 9 && stats.kem_refused == 0, "{stats:?}");
        world.ask(a, |node, now| node.rotate_keys(now, true)).unwrap();
        world.run_for(5 * SECOND);
        for (x, name) in [(a, "b"), (c, "a"), (r, "a")] {
            assert_eq!(quantum(&mut world, x, name), Some(Quantum::Hybrid), "{name}");
        }
    }
}

#[test]
fn members_of_different_minds_get_what_both_can_have_and_are_told_what_they_cannot() {
    for seed in seeds(2) {
        let wants = [PostQuantum::Prefer, PostQuantum::Require, PostQuantum::Prefer, PostQuantum::Off];
        let (mut world, [r, a, b, c]) = mesh(seed, 0.05, wants);
        let [there, back] = between(&mut world, a, b, 3 * SECOND);
        assert!(there.1 > there.0 * 8 / 10 && back.1 > back.0 * 8 / 10, "{there:?} {back:?}");
        assert_eq!(quantum(&mut world, a, "b"), Some(Quantum::Hybrid));
        let [there, back] = between(&mut world, b, c, 3 * SECOND);
        assert!(there.1 > there.0 / 2 && back.1 > back.0 / 2, "{there:?} {back:?}");
        assert_eq!(quantum(&mut world, b, "c"), Some(Quantum::Unsupported));
        assert_eq!(quantum(&mut world, c, "b"), Some(Quantum::Off));
        // Not one packet between the one that requires it and the one that does not want it, though it has a session.
        assert_eq!(between(&mut world, a, c, 3 * SECOND).map(|(_, arrived)| arrived), [0, 0]);
        let view = peer(&mut world, a, "c");
        assert_eq!(
            (view.state, view.withheld, view.quantum),
            (PeerState::Unreachable, true, Some(Quantum::Unsupported))
        );
        for (of, other, required_here) in [(a, "c", true), (c, "a", false)] {
            let warnings = world.ask(of, |node, now| node.view(now).warnings);
            let expected = Warning::NotPostQuantum { peer: Name::new(other).expect("a name"), required_here };
            assert!(warnings.contains(&expected), "{warnings:?}");
        }
        // The relay carries for both: what it carries is sealed end to end.
        assert_eq!(quantum(&mut world, r, "a"), Some(Quantum::Hybrid));

        // `c` changes its mind, while it runs.
        let settings = Settings { pq: PostQuantum::Prefer, ..world.machine(c).settings().clone() };
        world.reconfigure(c, settings);
        world.run_for(5 * SECOND);
        let [there, back] = between(&mut world, a, c, 3 * SECOND);
        assert!(there.1 > there.0 * 7 / 10 && back.1 > back.0 * 7 / 10, "{there:?} {back:?}");
        assert_eq!(quantum(&mut world, a, "c"), Some(Quantum::Hybrid));
        let warnings = world.ask(a, |node, now| node.view(now).warnings);
        assert!(
            !warnings.iter().any(|warning| matches!(warning, Warning::NotPostQuantum { .. })),
            "{warnings:?}"
        );
    }
}

#[test]
fn who_requires_it_gets_the_first_packet_and_all_after_a_restart_of_the_other() {
    for seed in seeds(2) {
        let (mut world, [_, a, b, _]) = mesh(seed, 0.0, [PostQuantum::Require; 4]);
        // Packets wait for the second handshake, as they do for the first.
        let [there, back] = between(&mut world, a, b, SECOND);
        assert_eq!((there.0, back.0), (there.1, back.1));
        world.crash(b);
        world.run_for(SECOND);
        world.start(b);
        world.run_for(10 * SECOND);
        assert_eq!(quantum(&mut world, a, "b"), Some(Quantum::Hybrid));
        let [there, back] = between(&mut world, a, b, SECOND);
        assert_eq!((there.0, back.0), (there.1, back.1));
    }
}
