//! Who is answered, and what is taken from whom, before there is a session.

use proto::handshake::{Attachment, InitPayload};
use proto::id::SecretId;

use super::*;

/// What an init says, with these attachments.
fn payload(attachments: Vec<Attachment<'_>>) -> InitPayload<'_> {
    InitPayload {
        timestamp_us: START_S * 1_000_000,
        sender_epoch: KeyEpochNumber(1),
        responder_epoch: KeyEpochNumber(1),
        capabilities: Capabilities::default(),
        bundle_version: 1,
        revocations: [0; 8],
        secret: SecretId(0),
        attachments,
    }
}

/// A key epoch of a member, signed by another host or by itself.
fn epoch(world: &World, of: usize, signer: usize, number: u32, secret: &TransportSecret) -> Signed<KeyEpoch> {
    let epoch = KeyEpoch {
        mesh: world.trust.mesh(),
        member: world.id(of),
        number: KeyEpochNumber(number),
        key: secret.public(),
        created_s: START_S,
        capabilities: Capabilities::default(),
    };
    IdentitySecret::from_bytes(&world.hosts[signer].identity).sign_key_epoch(epoch).unwrap()
}

#[test]
fn who_comes_with_a_retired_key_of_his_own_gets_the_newest_epoch_and_others_nothing() {
    let mut world = World::new(30, &[false, false, false]);
    let now = world.now;
    let mut rng = StdRng::seed_from_u64(31);
    let (old, new) = (TransportSecret::new(world.hosts[1].transport), TransportSecret::random(&mut rng));
    let newest = epoch(&world, 1, 1, 2, &new);
    let own = epoch(&world, 1, 1, 1, &old).to_bytes();
    let forged = epoch(&world, 1, 2, 1, &old).to_bytes();
    let later = epoch(&world, 1, 1, 3, &old).to_bytes();
    let certificate = world.hosts[1].certificate.to_bytes();
    world.hosts[0].node.as_mut().unwrap().learn_key_epoch(now, newest.clone(), None);
    let newest = newest.to_bytes();

    let node = world.hosts[0].node.as_ref().unwrap();
    let answer = |key: &TransportSecret, attachments: Vec<Attachment<'_>>| {
        node.newest_of_retired(&key.public(), &payload(attachments))
    };
    let with_certificate = vec![Attachment::Certificate(&certificate), Attachment::KeyEpoch(&own)];
    assert_eq!(answer(&old, with_certificate), Some(newest.clone()));
    assert_eq!(answer(&old, vec![Attachment::Certificate(&certificate)]), None, "no epoch");
    assert_eq!(answer(&old, vec![Attachment::KeyEpoch(&forged)]), None, "another member's signature");
    assert_eq!(answer(&new, vec![Attachment::KeyEpoch(&own)]), None, "another key");
    assert_eq!(answer(&new, vec![Attachment::KeyEpoch(&newest)]), None, "not retired");
    assert_eq!(answer(&old, vec![Attachment::KeyEpoch(&later)]), None, "not retired either");
    assert_eq!(answer(&old, vec![Attachment::KeyEpoch(&own[..own.len() - 1])]), None, "cut off");
}

#[test]
fn a_key_counts_only_with_an_epoch_that_is_of_it_and_a_certificate_that_is_known_or_comes_along() {
    let mut world = World::new(32, &[false, false]);
    let now = world.now;
    // Node 0 has never heard of node 1.
    world.hosts[0].cache = Vec::new();
    world.start(0);
    let secret = TransportSecret::new(world.hosts[1].transport);
    let other = TransportSecret::random(&mut StdRng::seed_from_u64(33));
    let own = epoch(&world, 1, 1, 1, &secret).to_bytes();
    let certificate = world.hosts[1].certificate.to_bytes();
    let member = world.id(1);
    let node = world.hosts[0].node.as_mut().unwrap();
    let mut learn = |key: &TransportSecret, attachments: Vec<Attachment<'_>>| {
        node.learn_attachments(now, &payload(attachments), &key.public())
    };
    assert_eq!(learn(&secret, vec![Attachment::KeyEpoch(&own)]), None, "nobody's certificate");
    let both = || vec![Attachment::Certificate(&certificate), Attachment::KeyEpoch(&own)];
    assert_eq!(learn(&other, both()), None, "an epoch of another key");
    assert_eq!(learn(&secret, vec![Attachment::Certificate(&certificate)]), None, "no epoch");
    assert_eq!(
        learn(&secret, vec![Attachment::KeyEpoch(&own)]),
        Some(member),
        "the certificate is known now"
    );
}

#[test]
fn no_session_is_made_with_oneself_nor_with_who_is_no_member_any_more() {
    let mut world = World::new(34, &[false, false]);
    let (now, me, other) = (world.now, world.id(0), world.id(1));
    let node = world.hosts[0].node.as_mut().unwrap();
    assert_eq!(node.want(now, me), None);
    assert_eq!(node.want(now, MemberId([7; 16])), None);
    assert_eq!(node.want(now, other), Some(()));
    // A year later its certificate, and the grace after it, are over.
    let later = Now { wall: UnixMs((START_S + 365 * 86_400) * 1000), ..now };
    assert_eq!(node.want(later, other), None);
}
