//! Revoked members are out, everywhere, at once, and for good.

use std::time::Duration;

use meshnet::membership::{AuthoritySecret, IdentitySecret, succeed};
use meshnet_tests::sim::{MachineId, World, homes_and, seeds};
use proto::certificate::{Issuer, Roles};
use proto::revocation::{Revocation, RevocationTarget};

const SECOND: Duration = Duration::from_secs(1);
const EVERY: Duration = Duration::from_millis(5);

/// A relay, an operator beside it, two nodes at one home, and one elsewhere that needs the relay.
fn mesh(seed: u64) -> (World, [MachineId; 5]) {
    homes_and(seed, "op", Roles::OPERATOR)
}

fn revoke(world: &mut World, by: MachineId, whom: MachineId) {
    let target = RevocationTarget::Member(world.machine(whom).member());
    let now_s = world.machine(by).now(world.elapsed().as_micros() as u64).wall.seconds();
    world.ask(by, |node, now| node.revoke(now, target, now_s, 1)).expect("an authority revokes");
}

fn knows(world: &World, machine: MachineId, whom: MachineId) -> bool {
    let member = world.machine(whom).member();
    world.machine(machine).node().is_some_and(|node| node.membership().revocations().has_member(member))
}

#[test]
fn a_revoked_member_is_cut_off_everywhere_within_the_time_that_news_take() {
    for seed in seeds(3) {
        let (mut world, [r, op, a, b, c]) = mesh(seed);
        // Direct to b, through the relay to c, and to the relay itself.
        let flows = [(a, b), (b, a), (a, c), (c, a), (a, r), (r, a)].map(|(x, y)| world.flow(x, y, EVERY));
        let bystanders = [(b, c), (c, b)].map(|(x, y)| world.flow(x, y, EVERY));
        world.run_for(2 * SECOND);
        revoke(&mut world, op, a);
        let took = world.run_until("all have heard", SECOND, |world| {
            [r, op, b, c].iter().all(|machine| knows(world, *machine, a))
        });
        // Two hops of at most 15 ms each.
        assert!(took < Duration::from_millis(60), "{took:?}");
        // What is on its way may still arrive.
        world.run_for(Duration::from_millis(60));
        let arrived = flows.map(|flow| world.report(flow).arrived);
        world.run_for(30 * SECOND);
        assert_eq!(flows.map(|flow| world.report(flow).arrived), arrived, "it still talks");
        // It was told, and gives up the rest by itself.
        assert!(knows(&world, a, a));
        for flow in bystanders {
            assert_eq!(world.finish(flow).lost(), 0);
        }
        for machine in [r, op, b, c] {
            let member = world.machine(a).member();
            assert!(world.machine(machine).node().unwrap().membership().get(member).is_none());
        }
    }
}

#[test]
fn a_node_that_was_away_learns_in_its_first_handshake() {
    for seed in seeds(3) {
        let (mut world, [r, op, a, b, c]) = mesh(seed);
        world.crash(c);
        world.run_for(SECOND);
        revoke(&mut world, op, a);
        world.run_for(5 * SECOND);
        world.start(c);
        let up = |world: &World| {
            let now = world.machine(c).now(world.elapsed().as_micros() as u64);
            let views = world.machine(c).node().map(|node| node.peer_views(now)).unwrap_or_default();
            views.iter().any(|view| view.last_handshake.is_some())
        };
        world.run_until("the first handshake", 10 * SECOND, up);
        let took = world.run_until("it has heard", SECOND, |world| knows(world, c, a));
        assert!(took < Duration::from_millis(80), "{took:?}");
        let digests = [r, op, b, c]
            .map(|machine| world.machine(machine).node().unwrap().membership().revocations().digest());
        assert!(digests.iter().all(|digest| *digest == digests[0]));
    }
}

#[test]
fn revocations_survive_restarts_and_a_revoked_member_does_not_get_back_in() {
    let (mut world, [r, op, a, b, c]) = mesh(4);
    revoke(&mut world, op, a);
    world.run_for(SECOND);
    for machine in [r, op, b, c, a] {
        world.crash(machine);
    }
    world.run_for(SECOND);
    // Even where its own disk has forgotten, and the others start with caches in which it is a member.
    world.machine_mut(a).disk.revocations.clear();
    for machine in [a, r, b, c] {
        world.start(machine);
    }
    let flow = world.flow(a, b, EVERY);
    world.run_for(20 * SECOND);
    assert_eq!(world.report(flow).arrived, 0);
    assert!([r, b, c].iter().all(|machine| knows(&world, *machine, a)));
}

#[test]
fn what_a_revoked_operator_had_revoked_stays_so_for_those_who_hear_of_it_last() {
    let (mut world, [r, op, a, b, c]) = mesh(6);
    world.crash(c);
    world.run_for(SECOND);
    revoke(&mut world, op, a);
    world.run_for(SECOND);
    let now_s = world.machine(r).now(world.elapsed().as_micros() as u64).wall.seconds();
    let by_authority = Revocation {
        mesh: world.machine(r).disk.trust.mesh(),
        target: RevocationTarget::Member(world.machine(op).member()),
        created_s: now_s,
        cutoff_s: now_s,
        reason: 1,
        issuer: Issuer::Root(world.authority().key_id()),
    };
    let with_taken_over = world.ask(r, |node, _| node.with_taken_over(by_authority));
    assert_eq!(with_taken_over.len(), 2);
    for revocation in with_taken_over {
        let signed = world.authority().sign_revocation(revocation).unwrap();
        world.ask(r, |node, now| node.add_revocation(now, signed)).unwrap();
    }
    world.run_for(SECOND);
    // The one that comes back has never heard of either, and the operator's certificate may be gone from its cache.
    world.machine_mut(c).disk.cache.clear();
    let cache = world.machine(r).node().unwrap().export_cache();
    world.machine_mut(c).disk.cache = cache;
    world.start(c);
    world.run_until("it has heard of both", 10 * SECOND, |world| knows(world, c, a) && knows(world, c, op));
    let digest = |world: &World, machine: MachineId| {
        world.machine(machine).node().unwrap().membership().revocations().digest()
    };
    assert_eq!(digest(&world, c), digest(&world, b));
}

#[test]
fn what_a_thief_revokes_with_an_operators_key_is_undone_when_the_operator_is_revoked() {
    for seed in seeds(2) {
        let (mut world, [r, op, a, b, c]) = mesh(seed);
        // One that was away hears of it last.
        world.crash(b);
        world.run_for(SECOND);
        revoke(&mut world, op, a);
        revoke(&mut world, op, c);
        world.run_for(5 * SECOND);
        assert!(knows(&world, r, a) && knows(&world, r, c) && knows(&world, c, c));
        let by_authority = Revocation {
            mesh: world.machine(r).disk.trust.mesh(),
            target: RevocationTarget::Member(world.machine(op).member()),
            created_s: 0,
            // All that it has done is undone.
            cutoff_s: 0,
            reason: 1,
            issuer: Issuer::Root(world.authority().key_id()),
        };
        let signed = world.authority().sign_revocation(by_authority).unwrap();
        world.ask(r, |node, now| node.add_revocation(now, signed)).unwrap();
        world.start(b);
        world.run_until("a and c are back", 60 * SECOND, |world| {
            [r, a, b, c].iter().all(|machine| {
                let member = world.machine(op).member();
                let node = world.machine(*machine).node().unwrap();
                node.membership().len() == 4 && node.membership().get(member).is_none()
            })
        });
        world.run_for(10 * SECOND);
        let flows = [(a, c), (c, a), (a, b), (b, c)].map(|(x, y)| world.flow(x, y, EVERY));
        world.run_for(5 * SECOND);
        for flow in flows {
            let report = world.finish(flow);
            assert!(report.arrived > 900, "{report:?}");
        }
        // Its key is of no use any more, whatever time it claims.
        let target = RevocationTarget::Member(world.machine(a).member());
        let node = world.machine(op).disk.identity;
        let forged = IdentitySecret::from_bytes(&node)
            .sign_revocation(Revocation {
                mesh: world.machine(r).disk.trust.mesh(),
                target,
                created_s: 0,
                cutoff_s: 0,
                reason: 1,
                issuer: Issuer::Member(
                    world.machine(op).member(),
                    world.machine(op).disk.certificate.body().serial,
                ),
            })
            .unwrap();
        assert!(world.ask(b, |node, now| node.add_revocation(now, forged)).is_err());
    }
}

#[test]
fn only_operators_and_the_authority_can_revoke() {
    let (mut world, [r, _, a, b, _]) = mesh(8);
    let target = RevocationTarget::Member(world.machine(a).member());
    assert!(world.ask(b, |node, now| node.revoke(now, target, 0, 0)).is_err());
    // Nor does a forged one get anywhere.
    let stranger = meshnet::membership::AuthoritySecret::from_bytes(&[9; 32]);
    let forged = stranger
        .sign_revocation(Revocation {
            mesh: world.machine(r).disk.trust.mesh(),
            target,
            created_s: 0,
            cutoff_s: 0,
            reason: 0,
            issuer: Issuer::Root(world.authority().key_id()),
        })
        .unwrap();
    assert!(world.ask(r, |node, now| node.add_revocation(now, forged)).is_err());
    assert!(!knows(&world, r, a));
}

#[test]
fn a_member_that_comes_and_goes_keeps_no_operator_busy_when_all_agree() {
    // Two that agree exchange no revocations: the summaries are equal.
    let (mut world, [r, op, a, b, _]) = mesh(9);
    revoke(&mut world, op, a);
    world.run_for(2 * SECOND);
    let theirs = world.machine(b).node().unwrap().membership().revocations().summary();
    let own = world.machine(r).node().unwrap().membership().revocations();
    assert_eq!(own.differing(&theirs).count(), 0);
    assert_ne!(own.summary(), [0; 16]);
}

#[test]
fn trust_bundles_reach_everybody_and_those_who_were_away_get_all_that_they_missed() {
    for seed in seeds(2) {
        let (mut world, [r, op, a, b, c]) = mesh(seed);
        let version = |world: &World, machine: MachineId| {
            world.machine(machine).node().map_or(0, |node| node.membership().trust().version())
        };
        world.crash(c);
        world.run_for(SECOND);
        // The old root stays, so that nobody needs a new certificate.
        for (number, expected) in [(21, 2), (22, 3)] {
            let added = AuthoritySecret::from_bytes(&[number; 32]);
            let chain = world.machine(r).node().unwrap().membership().trust().clone();
            let signers = [world.authority(), &added];
            let bundle =
                succeed(&chain, &signers, 1_780_000_100, |next| next.roots.push(added.public())).unwrap();
            assert_eq!(world.ask(r, |node, now| node.add_bundle(now, bundle)), Ok(true));
            let took = world.run_until("all have the bundle", SECOND, |world| {
                [r, op, a, b].iter().all(|machine| version(world, *machine) == expected)
            });
            assert!(took < Duration::from_millis(60), "{took:?}");
        }
        world.start(c);
        world.run_until("the one that was away has both", 10 * SECOND, |world| version(world, c) == 3);
        assert_eq!(world.machine(c).disk.trust.version(), 3, "it is on the disk");
        // And a restart begins with it.
        world.crash(b);
        world.start(b);
        assert_eq!(version(&world, b), 3);
        world.settle(60 * SECOND);
    }
}
