//! A mesh with its authority, issuers, and members, and what each may do to the others' tables.

mod certificates;
mod chain;
mod epochs;
mod guards;
mod properties;
mod revocation_set;
mod revocations;
mod table;

use std::collections::BTreeSet;
use std::net::IpAddr;

use ipnet::IpNet;
use proptest::prelude::*;
use proto::bundle::SignedBundle;
use proto::certificate::{Certificate, Issuer, IssuerConstraints, Roles};
use proto::id::{KeyEpochNumber, MemberId, MeshId, Name, Serial, TransportKey};
use proto::key_epoch::{Capabilities, KeyEpoch};
use proto::revocation::{Revocation, RevocationTarget};
use proto::signed::Signed;

use super::*;
use crate::time::UnixMs;

const DAY_S: u64 = 24 * 3600;
/// Some day in 2026.
const START: UnixMs = UnixMs(1_780_000_000_000);

fn days(n: u64) -> UnixMs {
    UnixMs(START.0 + n * DAY_S * 1000)
}

fn root(n: u8) -> AuthoritySecret {
    AuthoritySecret::from_bytes(&[n; 32])
}

fn identity(n: u8) -> IdentitySecret {
    IdentitySecret::from_bytes(&[100 + n; 32])
}

fn id(n: u8) -> MemberId {
    member_id(&identity(n).public())
}

fn name(text: &str) -> Name {
    Name::new(text).unwrap()
}

fn ip(text: &str) -> IpAddr {
    text.parse().unwrap()
}

fn net(text: &str) -> IpNet {
    text.parse().unwrap()
}

fn founding() -> Founding {
    Founding {
        name: name("test"),
        recovery: root(99).public(),
        network4: Some("10.99.0.0/16".parse().unwrap()),
        created_s: START.seconds(),
    }
}

/// A mesh with one root.
fn trust() -> TrustChain {
    found(founding(), &[&root(1)], 1).unwrap()
}

fn request(n: u8) -> Request {
    Request {
        identity: identity(n).public(),
        name: name(&format!("node{n}")),
        addresses: vec![IpAddr::from([10, 99, 0, n])],
        prefixes: vec![net("192.168.0.0/16")],
        roles: Roles::default(),
        constraints: None,
        lifetime_s: DEFAULT_LIFETIME_S,
    }
}

fn issue_root(trust: &TrustChain, wall: UnixMs, request: Request) -> VerifiedCertificate {
    let salt = u16::from_be_bytes([request.identity.0[0], request.identity.0[1]]);
    issue(wall, trust, &Signer::Root(&root(1)), request, None, salt).unwrap()
}

/// Member 50 with the roles of an issuer and a relay.
fn issuer(trust: &TrustChain) -> VerifiedCertificate {
    let constraints = IssuerConstraints {
        name_suffix: "-home".into(),
        prefixes: vec![net("10.99.8.0/24"), net("172.16.0.0/12")],
        max_lifetime_s: 30 * DAY_S as u32,
    };
    let roles = Roles::ISSUER.union(Roles::RELAY);
    issue_root(trust, START, Request { roles, constraints: Some(constraints), ..request(50) })
}

/// Something that [`issuer`] may issue.
fn home_request(n: u8) -> Request {
    Request {
        name: name(&format!("node{n}-home")),
        addresses: vec![IpAddr::from([10, 99, 8, n])],
        prefixes: vec![net("172.16.3.0/24")],
        lifetime_s: 30 * DAY_S,
        ..request(n)
    }
}

fn issue_home(
    trust: &TrustChain,
    wall: UnixMs,
    by: &VerifiedCertificate,
    request: Request,
) -> Result<VerifiedCertificate, IssueError> {
    issue(wall, trust, &Signer::Member { secret: &identity(50), certificate: by }, request, None, 8)
}

/// A certificate as issued to member `n` by the root, altered, and signed by the root again.
fn altered(trust: &TrustChain, n: u8, alter: impl FnOnce(&mut Certificate)) -> Signed<Certificate> {
    let mut certificate = issue_root(trust, START, request(n)).body().clone();
    alter(&mut certificate);
    root(1).sign(certificate).unwrap()
}

fn epoch(n: u8, number: u32, key: u8) -> Signed<KeyEpoch> {
    let epoch = KeyEpoch {
        mesh: trust().mesh(),
        member: id(n),
        number: KeyEpochNumber(number),
        key: TransportKey([key; 32]),
        created_s: START.seconds(),
        capabilities: Capabilities(0),
    };
    identity(n).sign_key_epoch(epoch).unwrap()
}

fn revocation(target: RevocationTarget, cutoff_s: u64) -> Signed<Revocation> {
    root(1).sign(unsigned_revocation(target, cutoff_s, Issuer::Root(root(1).key_id()))).unwrap()
}

fn unsigned_revocation(target: RevocationTarget, cutoff_s: u64, issuer: Issuer) -> Revocation {
    Revocation { mesh: trust().mesh(), target, created_s: START.seconds(), cutoff_s, reason: 0, issuer }
}

fn table(members: impl IntoIterator<Item = u8>) -> Membership {
    let trust = trust();
    let mut table = Membership::new(trust.clone());
    for n in members {
        let certificate = issue_root(&trust, START, request(n));
        assert_eq!(table.add_certificate(START, certificate.signed().clone(), None), Ok(Added::New));
    }
    table
}
