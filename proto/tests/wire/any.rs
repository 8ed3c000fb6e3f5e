//! Strategies: any value of every format, within its limits.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use ipnet::{IpNet, Ipv4Net, Ipv6Net};
use proptest::collection::vec;
use proptest::prelude::*;
use proto::arrivals::{Arrivals, KINDS};
use proto::bundle::{BundleSignature, MAX_ROOTS, MAX_SIGNATURES, SignedBundle, TrustBundle};
use proto::certificate::{Certificate, Issuer, IssuerConstraints, MAX_ADDRESSES, Roles};
use proto::endpoint::{Candidate, CandidateKind, MAX_CANDIDATES};
use proto::frame::{
    BUCKETS, Frame, KEM_CIPHERTEXT_LEN, KEM_KEY_LEN, KemPiece, MAX_FRAGMENT_LEN, MAX_FRAGMENTS, MAX_PADDING,
    MAX_VERSIONS,
};
use proto::handshake::ResponsePayload;
use proto::id::{
    BootEpoch, Counter, HandshakeId, IdentityKey, KeyEpochNumber, MemberId, MeshId, Name, ReceiverIndex,
    RelayLabel, Seq, Serial, TransportKey,
};
use proto::invitation::{Host, HostPort, Invitation, MAX_ENDPOINTS, StreamEndpoint};
use proto::key_epoch::{Capabilities, KeyEpoch};
use proto::lane::Role;
use proto::record::{KeyFloor, KeyPlan, Link, Record, Subnet};
use proto::revocation::{Revocation, RevocationTarget};
use proto::signed::{Body, Signed};
use proto::{data, relay};

/// Any run of bytes up to a length.
pub(crate) fn bytes(max_len: usize) -> impl Strategy<Value = Vec<u8>> {
    vec(any::<u8>(), 0..=max_len)
}

pub(crate) fn member() -> impl Strategy<Value = MemberId> {
    any::<[u8; 16]>().prop_map(MemberId)
}

pub(crate) fn index() -> impl Strategy<Value = ReceiverIndex> {
    any::<u32>().prop_map(ReceiverIndex)
}

pub(crate) fn name() -> impl Strategy<Value = Name> {
    "[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?".prop_map(|text| Name::new(&text).unwrap())
}

pub(crate) fn endpoint() -> impl Strategy<Value = SocketAddr> {
    (address(), any::<u16>()).prop_map(|(ip, port)| SocketAddr::new(ip, port))
}

pub(crate) fn candidates() -> impl Strategy<Value = Vec<Candidate>> {
    let kind = prop_oneof![
        Just(CandidateKind::Interface),
        Just(CandidateKind::Configured),
        Just(CandidateKind::Reflexive),
        Just(CandidateKind::Mapped),
        Just(CandidateKind::Tcp),
        Just(CandidateKind::Tls),
    ];
    let candidate = (kind, endpoint()).prop_map(|(kind, endpoint)| Candidate { kind, endpoint });
    vec(candidate, 0..=MAX_CANDIDATES)
}

pub(crate) fn data_header() -> impl Strategy<Value = data::Header> {
    (any::<u16>(), index(), any::<u64>()).prop_map(|(lane, receiver, counter)| data::Header {
        lane,
        receiver,
        counter: Counter(counter),
    })
}

pub(crate) fn relay_header() -> impl Strategy<Value = relay::Header> {
    let towards = prop_oneof![
        (1..=u16::MAX).prop_map(|label| (RelayLabel(label), None)),
        (member(), member()).prop_map(|ids| (RelayLabel::LONG, Some(ids))),
    ];
    let role = prop_oneof![Just(Role::Queue), Just(Role::Forward), Just(Role::Control)];
    (0..=relay::MAX_TTL, role, towards, index(), any::<u64>()).prop_map(
        |(ttl, role, (label, ids), receiver, counter)| relay::Header {
            ttl,
            role,
            label,
            receiver,
            counter: Counter(counter),
            ids,
        },
    )
}

pub(crate) fn response_payload() -> impl Strategy<Value = ResponsePayload> {
    let epoch = || any::<u32>().prop_map(KeyEpochNumber);
    prop_oneof![
        (epoch(), capabilities(), any::<u32>(), any::<[u8; 8]>()).prop_map(
            |(epoch, capabilities, bundle_version, revocations)| ResponsePayload::Accepted {
                epoch,
                capabilities,
                bundle_version,
                revocations,
            }
        ),
        (epoch(), any::<u64>())
            .prop_map(|(epoch, floor_us)| ResponsePayload::StaleTimestamp { epoch, floor_us }),
    ]
}

pub(crate) fn capabilities() -> impl Strategy<Value = Capabilities> {
    any::<u32>().prop_map(Capabilities)
}

pub(crate) fn frame() -> impl Strategy<Value = Frame> {
    prop_oneof![probing_frame(), gossip_frame(), relay_and_join_frame()]
}

fn probing_frame() -> impl Strategy<Value = Frame> {
    let id_and_time = || (any::<u32>(), any::<u64>());
    prop_oneof![
        (id_and_time(), any::<u8>(), 0..=MAX_PADDING as u16)
            .prop_map(|((id, sent_us), path, padding)| Frame::Probe { id, sent_us, path, padding }),
        (id_and_time(), any::<u8>(), prop::option::of(endpoint()))
            .prop_map(|((id, sent_us), path, observed)| Frame::ProbeReply { id, sent_us, path, observed }),
        (any::<u64>(), capabilities(), any::<u32>(), any::<[u8; 8]>(), "[ -~]{0,32}").prop_map(
            |(boot, capabilities, bundle_version, revocations, version)| Frame::Hello {
                boot: BootEpoch(boot),
                capabilities,
                bundle_version,
                revocations,
                version,
            }
        ),
        any::<u8>().prop_map(|reason| Frame::Close { reason }),
        (any::<u32>(), any::<[u32; KINDS]>())
            .prop_map(|(id, counts)| Frame::Arrived { id, packets: Arrivals(counts) }),
        any::<u8>().prop_map(|eighths| Frame::Load { eighths }),
        id_and_time().prop_map(|(id, sent_us)| Frame::Echo { id, sent_us }),
        id_and_time().prop_map(|(id, sent_us)| Frame::EchoReply { id, sent_us }),
    ]
}

fn gossip_frame() -> impl Strategy<Value = Frame> {
    let version =
        || (member(), any::<u64>(), any::<u64>()).prop_map(|(id, boot, seq)| (id, BootEpoch(boot), Seq(seq)));
    prop_oneof![
        candidates().prop_map(Frame::Candidates),
        vec(endpoint(), 0..=proto::frame::MAX_EXPECTED).prop_map(Frame::Expect),
        any::<[u64; BUCKETS]>().prop_map(Frame::Summary),
        any::<[u64; BUCKETS]>().prop_map(Frame::RevocationSummary),
        any::<u32>().prop_map(|after| Frame::GetBundles { after }),
        Just(Frame::Renew),
        kem_piece(KEM_KEY_LEN).prop_map(Frame::KemKey),
        kem_piece(KEM_CIPHERTEXT_LEN).prop_map(Frame::KemCiphertext),
        vec(version(), 0..=MAX_VERSIONS).prop_map(Frame::Have),
        (0u8..3).prop_map(Frame::Want),
        (0..BUCKETS as u8, any::<u8>(), any::<bool>(), vec(version(), 0..=MAX_VERSIONS)).prop_map(
            |(bucket, part, more, versions)| Frame::BucketVersions { bucket, part, more, versions }
        ),
        bytes(300).prop_map(Frame::Object),
        (any::<u64>(), 1..=MAX_FRAGMENTS, any::<u8>(), bytes(MAX_FRAGMENT_LEN))
            .prop_map(|(id, total, index, bytes)| Frame::Fragment { id, index: index % total, total, bytes }),
        (member(), any::<u8>()).prop_map(|(member, what)| Frame::Get { member, what }),
    ]
}

fn kem_piece(whole: usize) -> impl Strategy<Value = KemPiece> {
    (any::<u64>(), any::<u16>(), vec(any::<u8>(), 1..=whole)).prop_map(move |(handshake, offset, bytes)| {
        let offset = offset % (whole - bytes.len() + 1) as u16;
        KemPiece { handshake: HandshakeId(handshake), offset, bytes }
    })
}

fn relay_and_join_frame() -> impl Strategy<Value = Frame> {
    let label = || any::<u16>().prop_map(RelayLabel);
    prop_oneof![
        (member(), label()).prop_map(|(destination, label)| Frame::RelayLabel { destination, label }),
        (label(), member(), any::<u8>()).prop_map(|(label, destination, reason)| Frame::RelayUnknown {
            label,
            destination,
            reason
        }),
        (endpoint(), bytes(1200)).prop_map(|(joiner, bytes)| Frame::JoinForward { joiner, bytes }),
        (endpoint(), bytes(1200)).prop_map(|(joiner, bytes)| Frame::JoinBack { joiner, bytes }),
    ]
}

/// Signed with any 64 bytes.
pub(crate) fn signed<T: Body + std::fmt::Debug>(
    body: impl Strategy<Value = T>,
) -> impl Strategy<Value = Signed<T>> {
    (body, any::<[u8; 32]>()).prop_map(|(body, half)| {
        Signed::sign_with(body, |_| {
            let mut signature = [0; 64];
            signature[..32].copy_from_slice(&half);
            signature
        })
        .unwrap()
    })
}

pub(crate) fn certificate() -> impl Strategy<Value = Certificate> {
    let constraints = ("[a-z0-9-]{0,62}[a-z0-9]", vec(prefix(), 0..=8), any::<u32>()).prop_map(
        |(name_suffix, prefixes, max_lifetime_s)| IssuerConstraints { name_suffix, prefixes, max_lifetime_s },
    );
    let who = (mesh(), member(), any::<u64>(), identity(), name());
    let rights = (
        vec(address(), 0..=MAX_ADDRESSES),
        vec(prefix(), 0..=20),
        any::<u8>().prop_map(Roles),
        prop::option::of(constraints),
    );
    let validity = (any::<u64>(), any::<u64>()).prop_map(|(a, b)| (a.min(b), a.max(b)));
    (who, rights, validity, issuer()).prop_map(
        |(
            (mesh, member, serial, identity, name),
            (addresses, prefixes, roles, constraints),
            (not_before_s, not_after_s),
            issuer,
        )| Certificate {
            mesh,
            member,
            serial: Serial(serial),
            identity,
            name,
            addresses,
            prefixes,
            roles,
            constraints: constraints.map(Box::new),
            not_before_s,
            not_after_s,
            issuer,
        },
    )
}

pub(crate) fn key_epoch() -> impl Strategy<Value = KeyEpoch> {
    (mesh(), member(), any::<u32>(), any::<[u8; 32]>(), any::<u64>(), capabilities()).prop_map(
        |(mesh, member, number, key, created_s, capabilities)| KeyEpoch {
            mesh,
            member,
            number: KeyEpochNumber(number),
            key: TransportKey(key),
            created_s,
            capabilities,
        },
    )
}

pub(crate) fn record() -> impl Strategy<Value = Record> {
    let subnet = (prefix(), any::<u16>()).prop_map(|(prefix, weight)| Subnet { prefix, weight });
    let link = (member(), any::<u32>()).prop_map(|(member, cost_us)| Link { member, cost_us });
    let version = (any::<u64>(), any::<u64>(), any::<u64>(), any::<u64>(), any::<u32>());
    let content =
        (candidates(), vec(subnet, 0..=40), prop::option::of(name()), any::<bool>(), vec(link, 0..=40));
    let floor = (any::<u32>(), any::<u32>()).prop_map(|(accepted, cut)| KeyFloor {
        accepted: KeyEpochNumber(accepted),
        cut: KeyEpochNumber(cut),
    });
    let confirm = (member(), any::<u32>()).prop_map(|(member, number)| (member, KeyEpochNumber(number)));
    let plan = (any::<u64>(), any::<bool>(), any::<u16>(), vec(member(), 0..=20))
        .prop_map(|(created_s, aborted, wave, without)| KeyPlan { created_s, aborted, wave, without });
    let trust = (vec(any::<u32>(), 0..=40), prop::option::of(any::<u32>()));
    let keys = (prop::option::of(floor), vec(confirm, 0..=40), prop::option::of(plan), trust);
    (mesh(), member(), version, content, keys).prop_map(
        |(
            mesh,
            member,
            (boot, seq, created_s, certificate, key_epoch),
            (candidates, subnets, datacenter, relays, links),
            (floor, confirms, plan, (short_confirms, bundle)),
        )| Record {
            mesh,
            member,
            boot: BootEpoch(boot),
            seq: Seq(seq),
            created_s,
            certificate: Serial(certificate),
            key_epoch: KeyEpochNumber(key_epoch),
            candidates,
            subnets,
            datacenter,
            relays,
            links,
            floor,
            confirms,
            short_confirms,
            bundle,
            plan,
        },
    )
}

pub(crate) fn revocation() -> impl Strategy<Value = Revocation> {
    let target = prop_oneof![
        member().prop_map(RevocationTarget::Member),
        any::<u64>().prop_map(|serial| RevocationTarget::Serial(Serial(serial))),
        identity().prop_map(RevocationTarget::Key),
    ];
    (mesh(), target, any::<u64>(), any::<u64>(), any::<u8>(), issuer()).prop_map(
        |(mesh, target, created_s, cutoff_s, reason, issuer)| Revocation {
            mesh,
            target,
            created_s,
            cutoff_s,
            reason,
            issuer,
        },
    )
}

pub(crate) fn bundle() -> impl Strategy<Value = SignedBundle> {
    let roots = prop::collection::btree_set(identity(), 1..=MAX_ROOTS);
    let signers = prop::collection::btree_set(any::<[u8; 8]>(), 0..=MAX_SIGNATURES);
    let network = (any::<u32>(), 0..=32u8).prop_map(|(ip, len)| network_v4(ip, len));
    let facts = (1..=u32::MAX, name(), any::<u64>(), prop::option::of(any::<[u8; 32]>()));
    (mesh(), facts, roots, any::<u8>(), identity(), prop::option::of(network), signers).prop_map(
        |(mesh, (version, name, created_s, previous), roots, threshold, recovery, network4, signers)| {
            let threshold = 1 + threshold % roots.len() as u8;
            let roots = roots.into_iter().collect();
            let body = TrustBundle {
                mesh,
                version,
                name,
                roots,
                threshold,
                recovery,
                network4,
                created_s,
                previous,
            };
            let mut bundle = SignedBundle::unsigned(body).unwrap();
            for key in signers {
                bundle.add_signature(BundleSignature { key, signature: [key[0]; 64] });
            }
            bundle
        },
    )
}

/// As its URL: an invitation has no `Debug`.
pub(crate) fn invitation() -> impl Strategy<Value = String> {
    let host = prop_oneof![address().prop_map(Host::Ip), "[A-Za-z0-9._-]{1,253}".prop_map(Host::Name)];
    let endpoint = (host, any::<u16>()).prop_map(|(host, port)| HostPort { host, port });
    let who = (name(), mesh(), member(), any::<[u8; 16]>());
    let stream =
        (any::<bool>(), endpoint.clone()).prop_map(|(tls, endpoint)| StreamEndpoint { tls, endpoint });
    let endpoints = (vec(endpoint, 0..=MAX_ENDPOINTS), vec(stream, 0..=MAX_ENDPOINTS));
    (who, any::<[u8; 16]>(), any::<u64>(), endpoints).prop_map(
        |((mesh_name, mesh, inviter, key_hash), secret, expires_s, (endpoints, streams))| {
            Invitation { mesh_name, mesh, inviter, key_hash, secret, expires_s, endpoints, streams }
                .to_string()
        },
    )
}

fn mesh() -> impl Strategy<Value = MeshId> {
    any::<[u8; 16]>().prop_map(MeshId)
}

fn identity() -> impl Strategy<Value = IdentityKey> {
    any::<[u8; 32]>().prop_map(IdentityKey)
}

fn issuer() -> impl Strategy<Value = Issuer> {
    prop_oneof![
        any::<[u8; 8]>().prop_map(Issuer::Root),
        (member(), any::<u64>()).prop_map(|(member, serial)| Issuer::Member(member, Serial(serial))),
    ]
}

fn address() -> impl Strategy<Value = IpAddr> {
    prop_oneof![
        any::<u32>().prop_map(|ip| IpAddr::V4(Ipv4Addr::from(ip))),
        any::<u128>().prop_map(|ip| IpAddr::V6(Ipv6Addr::from(ip))),
    ]
}

fn prefix() -> impl Strategy<Value = IpNet> {
    prop_oneof![
        (any::<u32>(), 0..=32u8).prop_map(|(ip, len)| IpNet::V4(network_v4(ip, len))),
        (any::<u128>(), 0..=128u8)
            .prop_map(|(ip, len)| IpNet::V6(Ipv6Net::new(Ipv6Addr::from(ip), len).unwrap().trunc())),
    ]
}

fn network_v4(ip: u32, len: u8) -> Ipv4Net {
    Ipv4Net::new(Ipv4Addr::from(ip), len).unwrap().trunc()
}
