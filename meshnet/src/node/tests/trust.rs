//! How two members find out that one knows of trust bundles or revocations that the other does not.

use proto::certificate::Issuer;
use proto::frame::BUCKETS;
use proto::id::Serial;
use proto::revocation::{Revocation, RevocationTarget};

use super::*;
use crate::membership::succeed;

const SEED: u64 = 50;

fn authority() -> AuthoritySecret {
    // What the world draws first.
    AuthoritySecret::generate(&mut StdRng::seed_from_u64(SEED))
}

/// Three nodes, of which the second has heard nothing of what the first knows; nothing is on the way.
fn apart(tell: impl Fn(&mut World, Now)) -> World {
    let mut world = World::new(SEED, &[false, false, false]);
    world.run(seconds(2));
    world.silent.insert(1);
    let now = world.now;
    tell(&mut world, now);
    world.drain(0);
    world.run(Duration::from_millis(20));
    world.silent.clear();
    world
}

fn revocation(world: &World, target: RevocationTarget, issuer: Issuer) -> Revocation {
    let created_s = world.now.wall.seconds();
    Revocation { mesh: world.trust.mesh(), target, created_s, cutoff_s: created_s, reason: 0, issuer }
}

fn revoke(world: &mut World, now: Now, target: RevocationTarget) {
    let root = authority();
    let revocation = revocation(world, target, Issuer::Root(root.key_id()));
    let node = world.hosts[0].node.as_mut().unwrap();
    node.add_revocation(now, root.sign_revocation(revocation).unwrap()).unwrap();
}

fn next_bundle(world: &mut World, now: Now) {
    let node = world.hosts[0].node.as_mut().unwrap();
    let next = succeed(node.membership().trust(), &[&authority()], now.wall.seconds(), |_| {}).unwrap();
    assert_eq!(node.add_bundle(now, next), Ok(true));
}

fn node(world: &mut World, at: usize) -> &mut Node {
    world.hosts[at].node.as_mut().unwrap()
}

fn version(world: &mut World, at: usize) -> u32 {
    node(world, at).membership().trust().version()
}

/// What a node does with what a peer says about bundles and revocations: the datagrams that it sends.
fn compare(world: &mut World, at: usize, with: usize, version: u32, digest: [u8; 8]) -> u64 {
    let (now, from, before) = (world.now, world.id(with), world.sent);
    node(world, at).compare_trust(now, from, version, digest);
    world.drain(at);
    world.sent - before
}

#[test]
fn whoever_has_the_older_bundle_gets_the_newer_one_and_equals_say_nothing() {
    for asks in [false, true] {
        let mut world = apart(next_bundle);
        assert_eq!([version(&mut world, 0), version(&mut world, 1)], [2, 1]);
        let none = node(&mut world, 0).membership().revocations().digest();
        assert_eq!((compare(&mut world, 0, 1, 2, none), compare(&mut world, 1, 0, 1, none)), (0, 0));
        let sent = if asks { compare(&mut world, 1, 0, 2, none) } else { compare(&mut world, 0, 1, 1, none) };
        assert!(sent > 0);
        world.run(Duration::from_millis(20));
        assert_eq!(version(&mut world, 1), 2, "asks: {asks}");
    }
}

#[test]
fn what_is_known_is_said_in_the_next_handshake() {
    let mut world = apart(|world, now| {
        next_bundle(world, now);
        revoke(world, now, RevocationTarget::Serial(Serial(5)));
    });
    for at in [0, 1] {
        let own = node(&mut world, at);
        let expected = (own.membership().trust().version(), own.membership().revocations().digest());
        assert_eq!((own.handshaker.advert.bundle_version, own.handshaker.advert.revocations), expected);
        assert_eq!(expected.0, 2 - at as u32);
    }
}

#[test]
fn who_lacks_a_revocation_gets_it_and_who_has_another_is_asked_for_it_now_and_then() {
    let mut world = apart(|world, now| revoke(world, now, RevocationTarget::Member(world.id(2))));
    let revoked = world.id(2);
    let own = node(&mut world, 0).membership().revocations().digest();
    assert_eq!(compare(&mut world, 0, 1, 1, own), 0, "nothing to say");
    let peer = world.id(1);
    let summarise = |world: &mut World, theirs: &[u64; BUCKETS]| {
        let (now, before) = (world.now, world.sent);
        node(world, 0).handle_revocation_summary(now, peer, theirs);
        world.drain(0);
        (world.sent - before, node(world, 0).peers[&peer].summarised)
    };
    let same = node(&mut world, 0).membership().revocations().summary();
    assert_eq!(summarise(&mut world, &same), (0, None), "they are equal");
    // Its summary has nothing that is not here.
    let (sent, asked) = summarise(&mut world, &[0; BUCKETS]);
    assert!(sent > 0 && asked.is_none());
    world.run(Duration::from_millis(20));
    assert!(node(&mut world, 1).membership().revocations().has_member(revoked));
    // It has something else, in a bucket of its own: it is asked, once in a while.
    let mut other = same;
    let free = same.iter().position(|mark| *mark == 0).unwrap();
    other[free] = 7;
    let first = world.now.mono;
    assert_eq!(summarise(&mut world, &other).1, Some(first));
    world.run(Duration::from_millis(500));
    assert_eq!(summarise(&mut world, &other).1, Some(first));
    world.run(Duration::from_millis(600));
    assert_eq!(summarise(&mut world, &other).1, Some(world.now.mono));
}

#[test]
fn a_difference_in_revocations_is_found_out_by_their_digest() {
    let mut world = apart(|world, now| revoke(world, now, RevocationTarget::Member(world.id(2))));
    let revoked = world.id(2);
    let theirs = node(&mut world, 1).membership().revocations().digest();
    assert!(compare(&mut world, 0, 1, 1, theirs) > 0);
    // Its summary goes there, theirs comes back, and then what they lack.
    world.run(Duration::from_millis(40));
    assert!(node(&mut world, 1).membership().revocations().has_member(revoked));
}

#[test]
fn an_operators_certificate_goes_along_with_what_it_revoked() {
    let mut world = World::new(SEED, &[false, false]);
    let (operator, root) = (world.id(1), authority());
    let by_operator =
        revocation(&world, RevocationTarget::Serial(Serial(5)), Issuer::Member(operator, Serial(0)));
    let by_operator =
        IdentitySecret::from_bytes(&world.hosts[1].identity).sign_revocation(by_operator).unwrap();
    let by_root = revocation(&world, RevocationTarget::Serial(Serial(5)), Issuer::Root(root.key_id()));
    let by_root = root.sign_revocation(by_root).unwrap();
    let certificate = world.hosts[1].certificate.to_bytes();
    let node = node(&mut world, 0);
    assert_eq!((node.operator_of(&by_operator), node.operator_of(&by_root)), (Some(certificate), None));
}

#[test]
fn the_sessions_of_who_is_revoked_end_at_once_everywhere() {
    let mut world = World::new(SEED, &[false, false, false]);
    world.packet(0, 1, 1);
    world.packet(2, 1, 1);
    world.run(seconds(2));
    let (now, revoked) = (world.now, world.id(1));
    assert!([0, 2].iter().all(|at| world.hosts[*at].node.as_ref().unwrap().peers.contains_key(&revoked)));
    let receivers = |world: &World, at: usize| world.hosts[at].snapshot.receivers.len();
    let before = receivers(&world, 0);
    revoke(&mut world, now, RevocationTarget::Member(revoked));
    world.drain(0);
    assert!(!node(&mut world, 0).peers.contains_key(&revoked));
    assert!(receivers(&world, 0) < before, "nothing of its opens any more");
    world.run(Duration::from_millis(20));
    assert!(!node(&mut world, 2).peers.contains_key(&revoked));
    assert!(node(&mut world, 1).peers.is_empty(), "it has heard of it, too");
    world.run(seconds(5));
    assert!(!node(&mut world, 0).peers.contains_key(&revoked));
}
