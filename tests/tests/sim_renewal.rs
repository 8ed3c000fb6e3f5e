//! Certificates are renewed by themselves, by whoever can, before and shortly after they end.

use std::time::Duration;

use meshnet::node::{PeerState, Warning};
use meshnet_tests::sim::{Link, MachineId, NatKind, Spec, World, seeds};

const SECOND: Duration = Duration::from_secs(1);
const HOUR: Duration = Duration::from_secs(3600);

/// A relay, the founder, and a node behind a translator whose certificate has `left` to go.
fn mesh(seed: u64, left: Duration) -> (World, [MachineId; 3]) {
    let mut world = World::new(seed);
    let dc = world.public_site("198.51.100.0/24", Link::delay_ms(3));
    let home = world.nat_site("192.168.1.0/24", NatKind::Symmetric, "192.0.2.1", Link::delay_ms(8));
    let machines = [
        world.add(Spec::new("r", dc, "198.51.100.1").relay()),
        world.add(Spec::new("founder", dc, "198.51.100.2")),
        world.add(Spec::new("a", home, "192.168.1.10").ends_in(left)),
    ];
    (world, machines)
}

fn keep_authority(world: &mut World, at: MachineId) {
    let seed = *world.authority().to_bytes();
    world.machine_mut(at).disk.authority = Some(seed);
}

fn ends_s(world: &World, at: MachineId, of: MachineId) -> u64 {
    let member = world.machine(of).member();
    let node = world.machine(at).node();
    node.and_then(|node| node.membership().get(member))
        .map_or(0, |known| known.certificate().body().not_after_s)
}

#[test]
fn a_certificate_is_renewed_before_its_end_while_packets_flow() {
    for seed in seeds(1) {
        let (mut world, machines) = mesh(seed, HOUR);
        let [r, founder, a] = machines;
        keep_authority(&mut world, founder);
        let before = world.machine(a).disk.certificate.body().not_after_s;
        world.form(&machines);
        world.settle(30 * SECOND);
        let flow = world.flow(a, r, Duration::from_millis(20));
        world.run_until("everybody knows the new one", 200 * SECOND, |world| {
            machines.iter().all(|machine| ends_s(world, *machine, a) > before)
        });
        assert!(world.machine(a).disk.certificate.body().not_after_s > before);
        let renewed = ends_s(&world, r, a);
        world.run_for(600 * SECOND);
        assert_eq!(world.finish(flow).lost(), 0);
        assert_eq!(ends_s(&world, r, a), renewed, "it was renewed again, without need");
        // It is what the node starts with the next time.
        world.crash(a);
        world.start(a);
        world.settle(60 * SECOND);
    }
}

#[test]
fn a_member_in_its_grace_still_talks_and_is_renewed_when_the_authority_is_back() {
    let (mut world, machines) = mesh(4, 120 * SECOND);
    let [r, founder, a] = machines;
    world.form(&machines);
    let flow = world.flow(a, r, Duration::from_millis(100));
    world.run_for(600 * SECOND);
    let before = ends_s(&world, r, a);
    let now_s = world.machine(r).now(world.elapsed().as_micros() as u64).wall.seconds();
    assert!(before < now_s, "it has ended");
    assert!(world.report(flow).arrived > 5_900);
    world.crash(founder);
    keep_authority(&mut world, founder);
    world.start(founder);
    world.run_until("it is renewed", 300 * SECOND, |world| ends_s(world, r, a) > now_s);
}

#[test]
fn nobody_renews_what_has_time() {
    let (mut world, machines) = mesh(5, 60 * 24 * HOUR);
    keep_authority(&mut world, machines[1]);
    world.form(&machines);
    world.run_for(400 * SECOND);
    for (asker, machine) in [(0, 2), (2, 0)] {
        let member = world.machine(machines[machine]).member();
        let node = world.machine(machines[asker]).node().unwrap();
        let known = node.membership().get(member).map(|known| known.certificate().body().serial);
        let first = world.machine(machines[machine]).disk.certificate.body().serial;
        assert_eq!(known, Some(first));
        assert!(
            node.membership().get(member).unwrap().certificate().body().not_before_s < 1_780_000_000 - 86_400
        );
    }
}

#[test]
fn after_its_grace_a_member_has_no_session_with_anybody_and_is_shown_as_expired() {
    let (mut world, machines) = mesh(6, 60 * 24 * HOUR);
    world.form(&machines);
    world.settle(30 * SECOND);
    let [r, founder, a] = machines;
    let flow = world.flow(a, r, Duration::from_millis(100));
    world.run_for(5 * SECOND);
    assert!(world.report(flow).arrived > 40);
    // The certificates of the other two hold longer.
    let day_ms = 24 * 3_600_000;
    for machine in machines {
        world.set_clock(machine, 60 * day_ms + 14 * day_ms - 60_000);
    }
    world.run_for(5 * SECOND);
    let in_grace = world.report(flow).arrived;
    assert!(in_grace > 80, "{in_grace}");
    world.run_for(120 * SECOND);
    let over = world.report(flow).arrived;
    let name = "a".parse().expect("a name");
    for at in [r, founder] {
        // Not for a moment again, whoever begins: sessions would be made anew within this time.
        for _ in 0..20 {
            world.run_for(10 * SECOND);
            let view = world.ask(at, |node, now| node.view(now));
            let seen = view.peers.iter().find(|peer| peer.name == name).expect("it is shown");
            assert_eq!((seen.state, seen.path.is_some()), (PeerState::Expired, false), "{seen:?}");
        }
    }
    assert_eq!(world.report(flow).arrived, over);
    let warnings = world.ask(a, |node, now| node.view(now).warnings);
    assert!(
        matches!(warnings[..], [Warning::CertificateEnds { seconds_left }] if seconds_left < 0),
        "{warnings:?}"
    );
}
