//! The store of a node: the cache of certificates, key epochs, and records, and the revocations, as they are on its disk.

use std::sync::LazyLock;

use meshnet::crypto::{Secret, TransportSecret};
use meshnet::membership::{AuthoritySecret, DEFAULT_LIFETIME_S, IdentitySecret, Request, Signer, issue};
use meshnet::node::{KeyRing, Node, NodeConfig, OwnEpoch, Settings};
use meshnet::time::{Mono, Now, UnixMs};
use proto::certificate::{Certificate, Issuer, Roles};
use proto::id::{BootEpoch, KeyEpochNumber, MemberId, Name};
use proto::key_epoch::{Capabilities, KeyEpoch};
use proto::record::Record;
use proto::revocation::{Revocation, RevocationTarget};
use proto::signed::{ObjectKind, Signed};
use rand::SeedableRng;
use rand::rngs::StdRng;

use crate::trust::{START_S, founded, root_seed};

/// Members of the mesh; the first is the node whose store it is, the last an operator.
const MEMBERS: u8 = 4;

static CERTIFICATES: LazyLock<Vec<Signed<Certificate>>> = LazyLock::new(|| {
    let root = AuthoritySecret::from_bytes(&root_seed(0));
    let certificate = |number: u8| {
        let request = Request {
            identity: identity(number).public(),
            name: Name::new(&format!("n{number}")).expect("a name"),
            addresses: vec![[10, 99, 0, number + 1].into()],
            prefixes: Vec::new(),
            roles: if number + 1 == MEMBERS { Roles::OPERATOR } else { Roles::RELAY },
            constraints: None,
            lifetime_s: DEFAULT_LIFETIME_S,
        };
        let issued = issue(now().wall, &founded(), &Signer::Root(&root), request, None, number.into());
        issued.expect("a sound request").signed().clone()
    };
    (0..MEMBERS).map(certificate).collect()
});

fn now() -> Now {
    Now { mono: Mono(1_000_000), wall: UnixMs((START_S + 60) * 1000) }
}

fn identity(number: u8) -> IdentitySecret {
    IdentitySecret::from_bytes(&[50 + number; 32])
}

/// The node of a member, with this on its disk.
fn node(number: u8, cache: Vec<u8>, revocations: Vec<Vec<u8>>) -> Node {
    let certificate = CERTIFICATES[usize::from(number)].clone();
    let (identity, secret) = (identity(number), TransportSecret::new([150 + number; 32]));
    let epoch = KeyEpoch {
        mesh: certificate.body().mesh,
        member: certificate.body().member,
        number: KeyEpochNumber(1),
        key: secret.public(),
        created_s: START_S,
        capabilities: Capabilities::default(),
    };
    let signed = identity.sign_key_epoch(epoch).expect("a key epoch has a fixed size");
    let config = NodeConfig {
        identity,
        gate: Secret::new([9; 32]),
        keys: KeyRing::first(OwnEpoch { secret, signed }),
        certificate,
        issuer: None,
        trust: founded(),
        revocations,
        plan: None,
        boot: BootEpoch(1),
        timestamp_floor_us: 0,
        cache,
        offload: false,
        version: "fuzz".to_owned(),
        settings: Settings { mtu: 1340, ..Settings::default() },
    };
    Node::new(config, now(), StdRng::seed_from_u64(1)).expect("the node's own files are sound")
}

/// A node starts from any bytes: nobody is in it that is not certified, whoever signed nothing said nothing, and what it
/// writes is read again as it was.
pub fn store(bytes: &[u8]) {
    let (cache, revocations) = split(bytes);
    let first = node(0, cache.to_vec(), revocations);
    let known: Vec<MemberId> = CERTIFICATES.iter().map(|one| one.body().member).collect();
    assert!(first.membership().iter().all(|(member, _)| known.contains(&member)), "a stranger got in");
    let again = node(0, first.export_cache(), first.export_revocations());
    assert_eq!(others(&again.export_cache()), others(&first.export_cache()));
    let revoked = |node: &Node| sorted(node.export_revocations());
    assert_eq!(revoked(&again), revoked(&first));
}

/// The cache, and behind it the revocations: the first two bytes are the length of the former.
fn split(bytes: &[u8]) -> (&[u8], Vec<Vec<u8>>) {
    let Some((len, rest)) = bytes.split_first_chunk() else { return (bytes, Vec::new()) };
    let (cache, revocations) = rest.split_at(usize::from(u16::from_be_bytes(*len)).min(rest.len()));
    (cache, objects(revocations))
}

fn objects(mut bytes: &[u8]) -> Vec<Vec<u8>> {
    let mut objects = Vec::new();
    while let Some((len, rest)) = bytes.split_first_chunk() {
        let Some((object, rest)) = rest.split_at_checked(usize::from(u16::from_be_bytes(*len))) else {
            break;
        };
        objects.push(object.to_vec());
        bytes = rest;
    }
    objects
}

/// All of a cache but the node's own record, which each start makes anew.
fn others(cache: &[u8]) -> Vec<Vec<u8>> {
    let me = CERTIFICATES[0].body().member;
    let own = |object: &Vec<u8>| {
        ObjectKind::of(object) == Some(ObjectKind::Record)
            && Signed::<Record>::parse(object).is_ok_and(|record| record.body().member == me)
    };
    sorted(objects(cache).into_iter().filter(|object| !own(object)).collect())
}

fn sorted(mut objects: Vec<Vec<u8>>) -> Vec<Vec<u8>> {
    objects.sort_unstable();
    objects
}

fn framed(objects: impl IntoIterator<Item = Vec<u8>>) -> Vec<u8> {
    let frame = |object: Vec<u8>| [&(object.len() as u16).to_be_bytes()[..], &object].concat();
    objects.into_iter().flat_map(frame).collect()
}

/// Inputs to begin with: all that the members say of themselves, without and with revocations by root and operator.
pub(crate) fn seeds() -> Vec<(String, Vec<u8>)> {
    let cache: Vec<u8> =
        (0..MEMBERS).flat_map(|number| node(number, Vec::new(), Vec::new()).export_cache()).collect();
    let revocation = |issuer| Revocation {
        mesh: founded().mesh(),
        target: RevocationTarget::Member(CERTIFICATES[1].body().member),
        created_s: START_S + 30,
        reason: 1,
        cutoff_s: START_S + 30,
        issuer,
    };
    let root = AuthoritySecret::from_bytes(&root_seed(0));
    let by_root = root.sign_revocation(revocation(Issuer::Root(root.key_id())));
    let operator = &CERTIFICATES[usize::from(MEMBERS) - 1];
    let issuer = Issuer::Member(operator.body().member, operator.body().serial);
    let by_operator = identity(MEMBERS - 1).sign_revocation(revocation(issuer));
    let seed = |name: &str, revocations: Vec<Vec<u8>>| {
        let len = (cache.len() as u16).to_be_bytes();
        (name.to_owned(), [&len[..], &cache, &framed(revocations)].concat())
    };
    vec![
        seed("members", Vec::new()),
        seed("revoked-by-root", by_root.iter().map(Signed::to_bytes).collect()),
        seed(
            "revoked-by-operator",
            by_operator.iter().map(Signed::to_bytes).chain([operator.to_bytes()]).collect(),
        ),
    ]
}
