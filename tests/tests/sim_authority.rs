//! The authority is replaced, lost, stolen, and away for a year: nothing is lost but the old key's power.

use std::time::Duration;

use meshnet::membership::{
    AuthoritySecret, BundleError, DEFAULT_LIFETIME_S, IdentitySecret, Request, Signer, TrustChain,
    VerifiedCertificate, issue, succeed,
};
use meshnet::node::{REISSUE_PATIENCE, Stage};
use meshnet_tests::sim::{FlowId, MachineId, Roller, World, flows_between, homes_and, nothing_lost, seeds};
use proto::bundle::SignedBundle;
use proto::certificate::{Issuer, IssuerConstraints, Roles};
use proto::id::Name;
use proto::revocation::{Revocation, RevocationTarget};

const SECOND: Duration = Duration::from_secs(1);
const MINUTE: Duration = Duration::from_secs(60);
/// 1,000 packets a second.
const EVERY: Duration = Duration::from_millis(1);
const DAY_MS: i64 = 24 * 3600 * 1000;

/// A relay, an issuer, two nodes beside each other, and one that both reach through the relay only.
fn mesh(seed: u64) -> (World, [MachineId; 5]) {
    homes_and(seed, "i", Roles::ISSUER)
}

/// Numbered packets both ways on a direct path, on a relayed one, and to the relay.
fn flows(world: &mut World, [r, _, a, b, c]: [MachineId; 5]) -> Vec<FlowId> {
    flows_between(world, [r, a, b, c], EVERY)
}

fn chain(world: &World, id: MachineId) -> &TrustChain {
    world.machine(id).node().expect("it runs").membership().trust()
}

/// Whether everybody's certificate holds, as `id` sees it, and everybody is in.
fn all_hold(world: &World, id: MachineId, members: usize) -> bool {
    world
        .machine(id)
        .node()
        .is_some_and(|node| node.membership().len() == members && node.membership().unsupported().is_empty())
}

/// A certificate for a stranger, with every right, by whoever has `root`; `chain` is one that trusts it.
fn forged(root: &AuthoritySecret, chain: &TrustChain, now_s: u64) -> VerifiedCertificate {
    let request = Request {
        identity: IdentitySecret::from_bytes(&[66; 32]).public(),
        name: Name::new("mallory").expect("a name"),
        addresses: vec!["10.99.7.7".parse().expect("an address")],
        prefixes: Vec::new(),
        roles: Roles::RELAY.union(Roles::OPERATOR),
        constraints: None,
        lifetime_s: DEFAULT_LIFETIME_S,
    };
    let wall = meshnet::time::UnixMs(now_s * 1000);
    issue(wall, chain, &Signer::Root(root), request, None, 1).expect("the request is allowed")
}

fn now_s(world: &World, id: MachineId) -> u64 {
    world.machine(id).now(world.elapsed().as_micros() as u64).wall.seconds()
}

#[test]
fn the_authority_is_replaced_without_the_loss_of_a_packet() {
    for seed in seeds(3) {
        let (mut world, machines) = mesh(seed);
        let [r, i, a, b, c] = machines;
        let flows = flows(&mut world, machines);
        world.run_for(SECOND);
        let (old, new) = (
            AuthoritySecret::from_bytes(&world.authority().to_bytes()),
            AuthoritySecret::from_bytes(&[7; 32]),
        );
        let mut roller = Roller::new(r, &new, Some(&old));
        let took = roller.run_until(&mut world, Stage::Done, MINUTE);
        assert!(took < 10 * SECOND, "{took:?}");
        world.run_for(5 * SECOND);
        nothing_lost(&mut world, flows);
        for machine in [r, i, a, b, c] {
            assert_eq!(chain(&world, machine).version(), 3);
            assert_eq!(chain(&world, machine).current().roots, [new.public()]);
            assert!(all_hold(&world, machine, 5), "{}", world.name(machine));
            assert_eq!(world.machine(machine).disk.trust.version(), 3, "on the disk");
            let own = world.machine(machine).disk.certificate.body().issuer;
            assert_eq!(own, Issuer::Root(new.key_id()), "on the disk");
        }
    }
}

/// What somebody tries who has stolen the old key, in time or later.
#[test]
fn with_the_old_authority_key_nobody_is_let_in_revoked_or_trusted_after_its_replacement() {
    for seed in seeds(2) {
        let (mut world, machines) = mesh(seed);
        let [r, _, a, b, _] = machines;
        let old = AuthoritySecret::from_bytes(&world.authority().to_bytes());
        let before = chain(&world, r).clone();
        let stranger = forged(&old, &before, now_s(&world, a));
        let mut roller = Roller::new(r, &AuthoritySecret::from_bytes(&[7; 32]), Some(&old));
        roller.run_until(&mut world, Stage::Done, MINUTE);
        world.run_for(SECOND);
        assert!(
            world.ask(a, |node, now| node.add_certificate(now, stranger.signed().clone(), None)).is_err()
        );
        let target = RevocationTarget::Member(world.machine(b).member());
        let revocation = Revocation {
            mesh: before.mesh(),
            target,
            created_s: 0,
            cutoff_s: 0,
            reason: 0,
            issuer: Issuer::Root(old.key_id()),
        };
        let revocation = old.sign_revocation(revocation).unwrap();
        assert!(world.ask(a, |node, now| node.add_revocation(now, revocation)).is_err());
        let refused = succeed(chain(&world, a), &[&old], 1, |next| next.roots = vec![old.public()]);
        assert_eq!(refused.unwrap_err(), BundleError::OldThreshold);
        // A fork of the version in which it was still trusted is an alarm, and no more.
        let fork: SignedBundle = succeed(&before, &[&old], 1, |next| next.threshold = 1).unwrap();
        assert_eq!(world.ask(a, |node, now| node.add_bundle(now, fork)), Err(BundleError::Fork(2)));
        assert!(all_hold(&world, a, 5));
    }
}

#[test]
fn a_node_that_was_away_for_the_whole_roll_over_comes_back_by_itself() {
    for seed in seeds(3) {
        let (mut world, machines) = mesh(seed);
        let [r, i, a, b, c] = machines;
        world.crash(c);
        world.run_for(SECOND);
        let old = AuthoritySecret::from_bytes(&world.authority().to_bytes());
        let mut steps = [&old].into_iter().map(|one| *one.to_bytes()).collect::<Vec<_>>();
        // Twice, so that the chain it has to follow is long.
        for number in [7, 8] {
            let leaving = AuthoritySecret::from_bytes(steps.last().unwrap());
            let new = AuthoritySecret::from_bytes(&[number; 32]);
            let mut roller = Roller::new(r, &new, Some(&leaving));
            roller.run_until(&mut world, Stage::Confirming, MINUTE);
            world.run_for(10 * SECOND);
            assert_eq!(roller.step(&mut world), Stage::Confirming, "it waits for the one that is away");
            let now = world.machine(r).now(world.elapsed().as_micros() as u64);
            let missing =
                world.machine(r).node().unwrap().rollover_missing(now, &roller.rollover, Stage::Confirming);
            assert_eq!(missing, [world.machine(c).member()]);
            roller.rollover.without = vec![world.machine(c).member()];
            roller.run_until(&mut world, Stage::Done, MINUTE);
            steps.push(*new.to_bytes());
        }
        // Long enough for the others to forget whom nobody has issued anew.
        world.run_for(REISSUE_PATIENCE + MINUTE);
        assert_eq!(chain(&world, a).version(), 5);
        world.start(c);
        let back = |world: &World| chain(world, c).version() == 5 && all_hold(world, c, 5);
        world.run_until("it has all bundles and certificates", 20 * SECOND, back);
        let flows = flows(&mut world, machines);
        world.run_for(5 * SECOND);
        // The first packets may come before the paths.
        let arrived = flows.iter().map(|flow| world.report(*flow).arrived).collect::<Vec<_>>();
        assert!(arrived.iter().all(|count| *count > 3_000), "{arrived:?}");
        flows.iter().for_each(|flow| world.end_flow(*flow));
        world.run_for(REISSUE_PATIENCE + MINUTE);
        for machine in [r, i, a, b, c] {
            assert!(all_hold(&world, machine, 5), "{}", world.name(machine));
        }
        // And its disk makes a node again.
        world.crash(c);
        world.start(c);
        world.settle(MINUTE);
    }
}

#[test]
fn the_one_who_replaces_it_may_be_killed_after_every_step() {
    for seed in seeds(1) {
        for killed_at in 1..5 {
            let (mut world, machines) = mesh(seed);
            let [r, i, a, b, c] = machines;
            let old = AuthoritySecret::from_bytes(&world.authority().to_bytes());
            let new = AuthoritySecret::from_bytes(&[7; 32]);
            // Not the relay, so that the others can talk meanwhile.
            let mut roller = Roller::new(i, &new, Some(&old));
            let flows = [(a, b), (a, c), (c, a)].map(|(from, to)| world.flow(from, to, 5 * EVERY));
            world.run_for(SECOND);
            let mut limit = 0;
            while roller.steps < killed_at && roller.step(&mut world) < Stage::Done {
                world.run_for(SECOND / 10);
                limit += 1;
                assert!(limit < 600);
            }
            world.crash(i);
            world.run_for(3 * SECOND);
            world.start(i);
            roller.run_until(&mut world, Stage::Done, MINUTE);
            world.run_for(5 * SECOND);
            nothing_lost(&mut world, flows.to_vec());
            for machine in [r, i, a, b, c] {
                assert_eq!(chain(&world, machine).version(), 3);
                assert!(all_hold(&world, machine, 5), "{}", world.name(machine));
            }
        }
    }
}

#[test]
fn a_roll_over_that_is_called_off_leads_back_to_the_old_root() {
    for stage in [Stage::Confirming, Stage::Taking] {
        let (mut world, machines) = mesh(5);
        let flows = flows(&mut world, machines);
        world.run_for(SECOND);
        let old = AuthoritySecret::from_bytes(&world.authority().to_bytes());
        let new = AuthoritySecret::from_bytes(&[7; 32]);
        let mut roller = Roller::new(machines[0], &new, Some(&old));
        roller.run_until(&mut world, stage, MINUTE);
        roller.abort();
        roller.run_until(&mut world, Stage::Done, MINUTE);
        world.run_for(5 * SECOND);
        nothing_lost(&mut world, flows);
        for machine in machines {
            assert_eq!(chain(&world, machine).current().roots, [old.public()]);
            assert!(all_hold(&world, machine, 5), "{}", world.name(machine));
        }
    }
}

#[test]
fn revocations_by_the_old_authority_hold_for_those_who_come_after_it() {
    let (mut world, machines) = mesh(9);
    let [r, i, a, b, c] = machines;
    let old = AuthoritySecret::from_bytes(&world.authority().to_bytes());
    let new = AuthoritySecret::from_bytes(&[7; 32]);
    world.crash(c);
    world.run_for(SECOND);
    let revoked = world.machine(b).member();
    let revocation = Revocation {
        mesh: chain(&world, r).mesh(),
        target: RevocationTarget::Member(revoked),
        created_s: now_s(&world, r),
        cutoff_s: now_s(&world, r),
        reason: 1,
        issuer: Issuer::Root(old.key_id()),
    };
    let revocation = old.sign_revocation(revocation).unwrap();
    world.ask(r, |node, now| node.add_revocation(now, revocation)).unwrap();
    let mut roller = Roller::new(r, &new, Some(&old));
    roller.rollover.without = vec![world.machine(c).member()];
    roller.run_until(&mut world, Stage::Done, MINUTE);
    // One restarts from its disk, the other one hears of all that for the first time.
    world.crash(a);
    world.start(a);
    world.start(c);
    let knows = |world: &World, id: MachineId| {
        let node = world.machine(id).node().unwrap();
        node.membership().revocations().has_member(revoked) && node.membership().get(revoked).is_none()
    };
    world.run_until("both know", 20 * SECOND, |world| knows(world, a) && knows(world, c));
    world.run_for(MINUTE);
    assert!([r, i, a, c].iter().all(|id| knows(&world, *id) && all_hold(&world, *id, 4)));
}

#[test]
fn a_lost_authority_is_replaced_with_the_recovery_key_and_nothing_is_lost() {
    for seed in seeds(3) {
        let (mut world, machines) = mesh(seed);
        let flows = flows(&mut world, machines);
        world.run_for(SECOND);
        let (a, new) = (machines[2], AuthoritySecret::from_bytes(&[8; 32]));
        let recovered = succeed(chain(&world, a), &[world.recovery(), &new], 1, |next| {
            next.roots = vec![new.public()];
        });
        world.ask(a, |node, now| node.add_bundle(now, recovered.unwrap())).unwrap();
        let mut roller = Roller::new(a, &new, None);
        let took = roller.run_until(&mut world, Stage::Done, MINUTE);
        assert!(took < 10 * SECOND, "{took:?}");
        world.run_for(2 * SECOND);
        nothing_lost(&mut world, flows);
        world.run_for(REISSUE_PATIENCE + MINUTE);
        for machine in machines {
            assert!(all_hold(&world, machine, 5), "{}", world.name(machine));
        }
    }
}

#[test]
fn a_thief_of_the_authority_who_was_first_is_out_when_the_recovery_key_speaks() {
    for seed in seeds(3) {
        let (mut world, machines) = mesh(seed);
        let [r, _, a, _, c] = machines;
        let old = AuthoritySecret::from_bytes(&world.authority().to_bytes());
        let before = chain(&world, r).clone();
        // The thief makes the mesh its own, while one node is away.
        world.crash(c);
        world.run_for(SECOND);
        let thief = AuthoritySecret::from_bytes(&[66; 32]);
        let theft = succeed(&before, &[&old, &thief], 1, |next| next.roots.push(thief.public())).unwrap();
        world.ask(r, |node, now| node.add_bundle(now, theft)).unwrap();
        let more = succeed(chain(&world, r), &[&thief], 2, |next| next.roots = vec![thief.public()]).unwrap();
        world.ask(r, |node, now| node.add_bundle(now, more)).unwrap();
        // It cannot make the recovery key its own.
        let grab = succeed(chain(&world, r), &[&thief], 3, |next| next.recovery = thief.public());
        assert_eq!(grab.unwrap_err(), BundleError::RecoveryChanged);
        let flow = world.flow(a, r, EVERY);
        world.run_for(5 * SECOND);
        assert_eq!(chain(&world, a).version(), 3);

        // The owner finds out. Nodes that went along, and the one that was away, follow what the recovery key says.
        let new = AuthoritySecret::from_bytes(&[8; 32]);
        let recovered =
            succeed(&before, &[world.recovery(), &new], 4, |next| next.roots = vec![new.public()]);
        let stolen_from = chain(&world, a).clone();
        world.ask(a, |node, now| node.add_bundle(now, recovered.unwrap())).unwrap();
        let mut roller = Roller::new(a, &new, None);
        roller.rollover.without = vec![world.machine(c).member()];
        roller.run_until(&mut world, Stage::Done, MINUTE);
        nothing_lost(&mut world, vec![flow]);
        world.start(c);
        world.run_until("all are back", 30 * SECOND, |world| {
            machines.iter().all(|id| chain(world, *id).current().roots == [new.public()])
                && machines.iter().all(|id| all_hold(world, *id, 5))
        });
        for (root, chain) in [(&old, &before), (&thief, &stolen_from)] {
            let stranger = forged(root, chain, now_s(&world, a));
            let refused =
                world.ask(a, |node, now| node.add_certificate(now, stranger.signed().clone(), None));
            assert!(refused.is_err());
        }
    }
}

#[test]
fn a_mesh_with_an_issuer_outlives_a_year_without_its_authority() {
    let (mut world, machines) = mesh(3);
    let [_, i, ..] = machines;
    // The issuer's own certificate is the one thing that only the authority renews: it is given a long one.
    let old = world.machine(i).disk.certificate.body().clone();
    let request = Request {
        roles: old.roles.union(Roles::RELAY),
        constraints: Some(IssuerConstraints {
            name_suffix: String::new(),
            prefixes: Vec::new(),
            max_lifetime_s: DEFAULT_LIFETIME_S as u32,
        }),
        lifetime_s: 400 * 24 * 3600,
        ..Request::again(&old)
    };
    let wall = world.machine(i).now(world.elapsed().as_micros() as u64).wall;
    let trust = world.machine(i).disk.trust.clone();
    let long = issue(wall, &trust, &Signer::Root(world.authority()), request, Some(old.serial), 1).unwrap();
    world.ask(i, |node, now| node.add_certificate(now, long.signed().clone(), None)).unwrap();
    world.run_for(5 * SECOND);
    for _ in 0..13 {
        for machine in machines {
            world.machine_mut(machine).clock_error_ms += 28 * DAY_MS;
        }
        world.run_for(3 * MINUTE);
    }
    let now = world.machine(i).now(world.elapsed().as_micros() as u64);
    for machine in machines {
        let left_s =
            world.machine(machine).disk.certificate.body().not_after_s.saturating_sub(now.wall.seconds());
        assert!(left_s > 20 * 24 * 3600, "{} has {left_s} s left", world.name(machine));
    }
    // The first packets make the sessions.
    let first = flows(&mut world, machines);
    world.run_for(2 * SECOND);
    first.iter().for_each(|flow| world.end_flow(*flow));
    let flows = flows(&mut world, machines);
    world.run_for(2 * SECOND);
    nothing_lost(&mut world, flows);
}
