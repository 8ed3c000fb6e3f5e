//! Nodes behind translators of every kind, in virtual time: straight to each other wherever that is possible at all.

use std::time::Duration;

use meshnet::node::PeerView;
use meshnet_tests::sim::{Link, MachineId, NatKind, Spec, World, seeds};

const SECOND: Duration = Duration::from_secs(1);
const EVERY: Duration = Duration::from_millis(10);
const KINDS: [NatKind; 5] = [
    NatKind::FullCone,
    NatKind::Restricted,
    NatKind::PortRestricted,
    NatKind::Symmetric,
    NatKind::Counting(2),
];

/// Two relays outside, and a node behind a translator of each kind.
fn mesh(seed: u64, kinds: [NatKind; 2]) -> (World, [MachineId; 2]) {
    let mut world = World::new(seed);
    let public = world.public_site("198.51.100.0/24", Link::delay_ms(5));
    let homes = [
        world.nat_site("192.168.1.0/24", kinds[0], "192.0.2.1", Link::delay_ms(10)),
        world.nat_site("192.168.2.0/24", kinds[1], "192.0.2.2", Link::delay_ms(20)),
    ];
    let relays = [("r1", "198.51.100.1"), ("r2", "198.51.100.2")]
        .map(|(name, address)| world.add(Spec::new(name, public, address).relay()));
    let nodes = [
        world.add(Spec::new("a", homes[0], "192.168.1.10")),
        world.add(Spec::new("b", homes[1], "192.168.2.20")),
    ];
    world.form(&[relays[0], relays[1], nodes[0], nodes[1]]);
    world.settle(30 * SECOND);
    (world, nodes)
}

fn view(world: &World, from: MachineId, to: MachineId) -> PeerView {
    let machine = world.machine(from);
    let now = machine.now(world.elapsed().as_micros() as u64);
    let peers = machine.node().expect("it runs").view(now).peers;
    peers.into_iter().find(|peer| peer.member == world.machine(to).member()).expect("a peer")
}

fn is_direct(world: &World, from: MachineId, to: MachineId) -> bool {
    view(world, from, to).path.is_some_and(|path| path.via.is_empty())
}

/// Whether two nodes can reach each other without a relay: a port that nobody can know must not be filtered by port.
fn theory(a: NatKind, b: NatKind) -> bool {
    let by_destination = |kind| matches!(kind, NatKind::Symmetric | NatKind::Counting(_));
    let by_port = |kind| kind == NatKind::PortRestricted || by_destination(kind);
    let hidden = |of: NatKind, other: NatKind| by_destination(of) && by_port(other);
    // Whose ports can be told beforehand is no riddle to a cone.
    let told = |of: NatKind, other: NatKind| matches!(of, NatKind::Counting(_)) && !by_destination(other);
    [(a, b), (b, a)].into_iter().all(|(of, other)| !hidden(of, other) || told(of, other))
}

#[test]
fn every_pair_of_kinds_is_direct_where_it_can_be_and_loses_nothing_on_the_way() {
    for seed in seeds(2) {
        for (number, a) in KINDS.into_iter().enumerate() {
            for b in &KINDS[number..] {
                for kinds in [[a, *b], [*b, a]] {
                    let (mut world, [one, other]) = mesh(seed, kinds);
                    let flow = world.flow(one, other, EVERY);
                    let at = world.elapsed();
                    if theory(a, *b) {
                        world.run_until(&format!("{kinds:?} are direct"), 5 * SECOND, |world| {
                            is_direct(world, one, other) && is_direct(world, other, one)
                        });
                        println!("seed {seed}, {kinds:?}: direct after {:?}", world.elapsed() - at);
                    } else {
                        world.run_for(10 * SECOND);
                        let direct = is_direct(&world, one, other);
                        // Two that count may meet by chance.
                        let may = matches!(kinds, [NatKind::Counting(_), NatKind::Counting(_)]);
                        assert!(!direct || may, "seed {seed}, {kinds:?}: how?");
                    }
                    let report = world.finish(flow);
                    assert_eq!(report.lost(), 0, "seed {seed}, {kinds:?}: {report:?}");
                }
            }
        }
    }
}

#[test]
fn ports_are_guessed_only_where_they_are_counted_and_only_a_few() {
    for (kind, expected) in
        [(NatKind::Counting(3), true), (NatKind::Symmetric, false), (NatKind::Restricted, false)]
    {
        let (mut world, [a, b]) = mesh(3, [kind, NatKind::Symmetric]);
        let flow = world.flow(a, b, EVERY);
        world.run_for(SECOND);
        let guessed = |world: &World| {
            let paths = view(world, b, a).paths;
            paths.iter().filter(|path| path.origin == meshnet::path::Origin::Predicted).count()
        };
        let tried = guessed(&world);
        assert_eq!((1..=12).contains(&tried), expected, "{kind:?}: {tried}");
        world.run_for(15 * SECOND);
        assert_eq!(guessed(&world), 0, "{kind:?}: they are forgotten");
        world.finish(flow);
    }
}

#[test]
fn isolated_hosts_behind_one_translator_meet_where_it_sends_back_in_and_are_relayed_elsewhere() {
    for seed in seeds(1) {
        for kind in KINDS {
            for hairpin in [true, false] {
                let mut world = World::new(seed);
                let public = world.public_site("198.51.100.0/24", Link::delay_ms(5));
                let home = world.nat_site("192.168.1.0/24", kind, "192.0.2.1", Link::delay_ms(10));
                world.net.site_mut(home).isolated = true;
                world.net.site_mut(home).hairpin = hairpin;
                let relays = [("r1", "198.51.100.1"), ("r2", "198.51.100.2")]
                    .map(|(name, address)| world.add(Spec::new(name, public, address).relay()));
                let nodes = [("a", "192.168.1.10"), ("b", "192.168.1.20")]
                    .map(|(name, address)| world.add(Spec::new(name, home, address)));
                world.form(&[relays[0], relays[1], nodes[0], nodes[1]]);
                world.settle(30 * SECOND);
                let flow = world.flow(nodes[0], nodes[1], EVERY);
                if hairpin && theory(kind, kind) && kind != NatKind::Counting(2) {
                    let took = world.run_until(&format!("{kind:?} is direct"), 5 * SECOND, |world| {
                        is_direct(world, nodes[0], nodes[1]) && is_direct(world, nodes[1], nodes[0])
                    });
                    println!("seed {seed}, {kind:?} that sends back in: direct after {took:?}");
                } else {
                    world.run_for(5 * SECOND);
                    let counts = hairpin && kind == NatKind::Counting(2);
                    assert!(counts || !is_direct(&world, nodes[0], nodes[1]), "seed {seed}, {kind:?}: how?");
                }
                let report = world.finish(flow);
                assert_eq!(report.lost(), 0, "seed {seed}, {kind:?}, {hairpin}: {report:?}");
            }
        }
    }
}
