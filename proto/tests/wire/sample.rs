//! Fixed values that the vectors in `proto/tests/vectors` hold.

use proto::bundle::{BundleSignature, SignedBundle, TrustBundle};
use proto::certificate::{Certificate, Issuer, IssuerConstraints, Roles};
use proto::endpoint::{Candidate, CandidateKind};
use proto::id::{
    BootEpoch, IdentityKey, KeyEpochNumber, MemberId, MeshId, Name, ReceiverIndex, Seq, Serial, TransportKey,
};
use proto::invitation::{Host, HostPort, Invitation};
use proto::key_epoch::{Capabilities, KeyEpoch};
use proto::record::{KeyFloor, KeyPlan, Link, Record, Subnet};
use proto::revocation::{Revocation, RevocationTarget};
use proto::signed::{Body, Signed};

/// `N` bytes that count up from `start`.
pub(crate) const fn run<const N: usize>(start: u8) -> [u8; N] {
    let mut bytes = [0; N];
    let mut at = 0;
    while at < N {
        bytes[at] = start.wrapping_add(at as u8);
        at += 1;
    }
    bytes
}

pub(crate) const MESH: MeshId = MeshId(run(0x10));
pub(crate) const MEMBER: MemberId = MemberId(run(0x20));
pub(crate) const PEER: MemberId = MemberId(run(0x30));
pub(crate) const RELAY: MemberId = MemberId(run(0xd0));
pub(crate) const IDENTITY: IdentityKey = IdentityKey(run(0x40));
pub(crate) const SECOND_ROOT: IdentityKey = IdentityKey(run(0xb0));
pub(crate) const SERIAL: Serial = Serial(0x0123_4567_89ab_cdef);
pub(crate) const SIGNATURE: [u8; 64] = run(0x80);
pub(crate) const MAC1: [u8; 16] = [0xa1; 16];
pub(crate) const MAC2: [u8; 16] = [0xa2; 16];
pub(crate) const REVOCATIONS: [u8; 8] = run(0xe0);
pub(crate) const SENDER: ReceiverIndex = ReceiverIndex(0x0102_0304);
pub(crate) const CREATED_S: u64 = 1_700_000_000;
pub(crate) const DAY_S: u64 = 86_400;

/// Signs with a fixed pattern: these tests are about bytes, not about keys.
pub(crate) fn sign<T: Body>(body: T) -> Signed<T> {
    Signed::sign_with(body, |_| SIGNATURE).unwrap()
}

pub(crate) fn name(text: &str) -> Name {
    Name::new(text).unwrap()
}

pub(crate) fn key_epoch() -> KeyEpoch {
    KeyEpoch {
        mesh: MESH,
        member: MEMBER,
        number: KeyEpochNumber(3),
        key: TransportKey(run(0x60)),
        created_s: CREATED_S,
        capabilities: Capabilities::AES_GCM.union(Capabilities::OFFLOAD),
    }
}

pub(crate) fn certificate() -> Certificate {
    Certificate {
        mesh: MESH,
        member: MEMBER,
        serial: SERIAL,
        identity: IDENTITY,
        name: name("node-1"),
        addresses: vec!["10.99.0.1".parse().unwrap(), "fd00::1".parse().unwrap()],
        prefixes: vec!["10.1.0.0/16".parse().unwrap(), "fd00:1::/48".parse().unwrap()],
        roles: Roles::RELAY.union(Roles::ISSUER),
        constraints: Some(Box::new(IssuerConstraints {
            name_suffix: "-dc1".to_owned(),
            prefixes: vec!["10.1.0.0/16".parse().unwrap()],
            max_lifetime_s: 7_776_000,
        })),
        not_before_s: CREATED_S,
        not_after_s: CREATED_S + 90 * DAY_S,
        issuer: Issuer::Root(run(0xf0)),
    }
}

pub(crate) fn certificate_minimal() -> Certificate {
    Certificate {
        name: name("n"),
        addresses: Vec::new(),
        prefixes: Vec::new(),
        roles: Roles::default(),
        constraints: None,
        issuer: Issuer::Member(PEER, Serial(9)),
        ..certificate()
    }
}

pub(crate) fn candidates() -> Vec<Candidate> {
    [
        (CandidateKind::Interface, "192.168.1.5:51820"),
        (CandidateKind::Configured, "[2001:db8::1]:443"),
        (CandidateKind::Reflexive, "203.0.113.9:40000"),
        (CandidateKind::Mapped, "203.0.113.9:51821"),
    ]
    .map(|(kind, endpoint)| Candidate { kind, endpoint: endpoint.parse().unwrap() })
    .to_vec()
}

pub(crate) fn record() -> Record {
    Record {
        mesh: MESH,
        member: MEMBER,
        boot: BootEpoch(12),
        seq: Seq(34),
        created_s: CREATED_S,
        certificate: SERIAL,
        key_epoch: KeyEpochNumber(3),
        candidates: candidates(),
        subnets: vec![
            Subnet { prefix: "10.1.0.0/16".parse().unwrap(), weight: 100 },
            Subnet { prefix: "fd00:1::/48".parse().unwrap(), weight: 200 },
        ],
        datacenter: Some(name("dc1")),
        relays: true,
        links: vec![Link { member: PEER, cost_us: 1500 }, Link { member: RELAY, cost_us: 32_000 }],
        floor: None,
        confirms: Vec::new(),
        short_confirms: Vec::new(),
        bundle: None,
        plan: None,
    }
}

/// The least that a member says of the trust bundle, and of more rotations than it has room to name.
pub(crate) fn record_trust() -> Record {
    Record { bundle: Some(7), short_confirms: vec![0x0102_0304, 0xf0f1_f2f3], ..record_minimal() }
}

/// The least that a member says while keys are rotated.
pub(crate) fn record_keys() -> Record {
    Record {
        floor: Some(KeyFloor { accepted: KeyEpochNumber(2), cut: KeyEpochNumber(1) }),
        confirms: vec![(PEER, KeyEpochNumber(5)), (RELAY, KeyEpochNumber(9))],
        plan: Some(KeyPlan { created_s: CREATED_S, aborted: false, wave: 16, without: vec![PEER] }),
        ..record_minimal()
    }
}

pub(crate) fn record_minimal() -> Record {
    Record {
        candidates: Vec::new(),
        subnets: Vec::new(),
        datacenter: None,
        relays: false,
        links: Vec::new(),
        ..record()
    }
}

pub(crate) fn revocation(target: RevocationTarget) -> Revocation {
    Revocation {
        mesh: MESH,
        target,
        created_s: CREATED_S,
        cutoff_s: CREATED_S - 60,
        reason: 1,
        issuer: Issuer::Root(run(0xf0)),
    }
}

/// Version 1, with the mesh id that follows from it.
pub(crate) fn bundle_body() -> TrustBundle {
    let mut body = TrustBundle {
        mesh: MeshId::default(),
        version: 1,
        name: name("lab"),
        roots: vec![IDENTITY, SECOND_ROOT],
        threshold: 1,
        recovery: IdentityKey(run(0x90)),
        network4: Some("10.99.0.0/16".parse().unwrap()),
        created_s: CREATED_S,
        previous: None,
    };
    body.mesh = body.mesh_id_of_first();
    body
}

/// The first 8 bytes of BLAKE2s-256 of [`IDENTITY`] and [`SECOND_ROOT`], computed elsewhere.
pub(crate) const ROOT_IDS: [[u8; 8]; 2] =
    [[0xdf, 0x05, 0x22, 0x3f, 0x22, 0xd1, 0x5e, 0xb0], [0x9b, 0x2d, 0x1c, 0xaf, 0xc6, 0xe8, 0x13, 0xec]];

pub(crate) fn bundle() -> SignedBundle {
    let mut bundle = SignedBundle::unsigned(bundle_body()).unwrap();
    for key in ROOT_IDS {
        bundle.add_signature(BundleSignature { key, signature: SIGNATURE });
    }
    bundle
}

/// Version 2, after [`bundle`].
pub(crate) fn bundle_second() -> SignedBundle {
    let first = bundle();
    let body = TrustBundle {
        version: 2,
        roots: vec![IDENTITY],
        network4: None,
        created_s: CREATED_S + 100,
        previous: Some(first.hash()),
        ..first.body().clone()
    };
    let mut second = SignedBundle::unsigned(body).unwrap();
    second.add_signature(BundleSignature { key: ROOT_IDS[0], signature: SIGNATURE });
    second
}

pub(crate) fn invitation() -> Invitation {
    Invitation {
        mesh_name: name("lab"),
        mesh: MESH,
        inviter: MEMBER,
        key_hash: proto::invitation::key_hash(&IDENTITY),
        secret: run(0xf0),
        expires_s: CREATED_S + DAY_S,
        endpoints: vec![
            HostPort { host: Host::Ip("203.0.113.9".parse().unwrap()), port: 51820 },
            HostPort { host: Host::Ip("2001:db8::1".parse().unwrap()), port: 443 },
            HostPort { host: Host::Name("vpn.example.org".to_owned()), port: 51820 },
        ],
        streams: Vec::new(),
    }
}
