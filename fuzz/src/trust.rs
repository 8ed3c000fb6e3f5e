//! Certificates and trust bundles that are really signed, with whatever content: what is accepted keeps to the rules as they
//! are said here once more.

use std::net::IpAddr;
use std::sync::LazyLock;

use ed25519_dalek::{Signer as _, SigningKey};
use ipnet::IpNet;
use meshnet::membership::{
    AuthoritySecret, Extended, Founding, IdentitySecret, Request, Signer, TrustChain, VerifiedCertificate,
    found, issue, member_address6, member_id, member_network6, root_key_id,
};
use meshnet::time::UnixMs;
use proto::bundle::{BundleSignature, MAX_ROOTS, SignedBundle, TrustBundle};
use proto::certificate::{Certificate, Issuer, IssuerConstraints, Roles};
use proto::id::{IdentityKey, Name};
use proto::signed::{Body, Signed};

/// The time at which the mesh was made, in seconds since the Unix epoch.
pub(crate) const START_S: u64 = 1_760_000_000;
/// The mesh's IPv4 network.
const NETWORK: &str = "10.99.0.0/16";
/// Keys that trust bundles may name as roots; the last one is the recovery key.
const KEYS: u8 = 6;
/// What the constrained issuer may certify at most, in seconds.
const LIFETIME_S: u32 = 24 * 3600;

/// A mesh with one root, and two issuers: one may issue what it likes, one only within its constraints.
struct Mesh {
    trust: TrustChain,
    issuers: [(SigningKey, VerifiedCertificate); 2],
}

static MESH: LazyLock<Mesh> = LazyLock::new(|| {
    let trust = founded();
    let issuer = |seed: u8, constraints: Option<IssuerConstraints>| {
        let identity = IdentitySecret::from_bytes(&[seed; 32]);
        let request = Request {
            identity: identity.public(),
            name: Name::new("issuer").expect("a name"),
            addresses: Vec::new(),
            prefixes: Vec::new(),
            roles: Roles::ISSUER.union(Roles::RELAY),
            constraints,
            lifetime_s: 90 * 24 * 3600,
        };
        let signer = AuthoritySecret::from_bytes(&root_seed(0));
        let issued =
            issue(UnixMs(START_S * 1000), &trust, &Signer::Root(&signer), request, None, seed.into());
        (SigningKey::from_bytes(&[seed; 32]), issued.expect("a sound request"))
    };
    let constraints = IssuerConstraints {
        name_suffix: "-home".to_owned(),
        prefixes: vec!["10.99.8.0/24".parse().expect("a prefix")],
        max_lifetime_s: LIFETIME_S,
    };
    let issuers = [issuer(100, None), issuer(101, Some(constraints))];
    Mesh { trust, issuers }
});

/// A mesh that trusts root 0, with the last key for recovery.
pub(crate) fn founded() -> TrustChain {
    let founding = Founding {
        name: Name::new("lab").expect("a name"),
        recovery: root_key(KEYS - 1),
        network4: NETWORK.parse().ok(),
        created_s: START_S,
    };
    found(founding, &[&AuthoritySecret::from_bytes(&root_seed(0))], 1)
        .expect("one root and a threshold of one")
}

/// The seed of a root.
pub(crate) fn root_seed(number: u8) -> [u8; 32] {
    [number + 1; 32]
}

fn root_key(number: u8) -> IdentityKey {
    IdentityKey(SigningKey::from_bytes(&root_seed(number)).verifying_key().to_bytes())
}

/// A certificate: the bytes as they are, which nobody has signed; then the content behind the first byte, signed by a root,
/// by an issuer, or by a stranger, as that byte says. Its bit 7 has the fields filled in that an attacker would not get wrong.
pub fn certificate(bytes: &[u8]) {
    let mesh = &*MESH;
    if let Ok(found) = Signed::<Certificate>::parse(bytes) {
        let genuine = mesh.issuers.iter().any(|(_, issuer)| issuer.signed().to_bytes() == bytes);
        for (_, issuer) in &mesh.issuers {
            let verified = VerifiedCertificate::verify(&mesh.trust, found.clone(), Some(issuer));
            assert!(verified.is_err() || genuine, "nobody has signed it");
        }
    }
    let Some((choice, content)) = bytes.split_first() else { return };
    let whole = || Signed::<Certificate>::parse(content).ok().map(|whole| whole.body().clone());
    let Some(mut body) = Certificate::parse_body(content).ok().or_else(whole) else { return };
    let (key, issuer) = match choice & 3 {
        0 => (SigningKey::from_bytes(&root_seed(0)), None),
        1 => (mesh.issuers[0].0.clone(), Some(&mesh.issuers[0].1)),
        2 => (mesh.issuers[1].0.clone(), Some(&mesh.issuers[1].1)),
        _ => (SigningKey::from_bytes(&[200; 32]), Some(&mesh.issuers[0].1)),
    };
    if choice & 0x80 != 0 {
        body.mesh = mesh.trust.mesh();
        body.member = member_id(&body.identity);
        body.issuer = match issuer {
            None => Issuer::Root(root_key_id(&root_key(0))),
            Some(issuer) => Issuer::Member(issuer.body().member, issuer.body().serial),
        };
    }
    let Ok(signed) = Signed::sign_with(body, |message| key.sign(message).to_bytes()) else { return };
    if let Ok(accepted) = VerifiedCertificate::verify(&mesh.trust, signed, issuer) {
        assert!(choice & 3 != 3, "it is signed by a stranger");
        keeps_the_rules(accepted.body(), issuer.map(VerifiedCertificate::body));
    }
}

/// What every certificate that is accepted is like.
fn keeps_the_rules(body: &Certificate, issuer: Option<&Certificate>) {
    let mesh = MESH.trust.mesh();
    assert_eq!((body.mesh, body.member), (mesh, member_id(&body.identity)));
    assert!(body.not_before_s < body.not_after_s);
    assert!(body.constraints.is_none() || body.roles.contains(Roles::ISSUER));
    let network: ipnet::Ipv4Net = NETWORK.parse().expect("a network");
    for address in &body.addresses {
        match address {
            IpAddr::V4(v4) => {
                assert!(network.contains(v4) && *v4 != network.network() && *v4 != network.broadcast());
            }
            IpAddr::V6(v6) => {
                assert!(!v6.is_multicast() && !v6.is_loopback() && !v6.is_unspecified());
                assert!(!member_network6(mesh).contains(v6) || *v6 == member_address6(mesh, body.member));
            }
        }
    }
    assert!(body.prefixes.iter().all(|prefix| prefix.trunc() == *prefix));
    let Some(issuer) = issuer else { return };
    assert!(!body.roles.contains(Roles::ISSUER) && issuer.roles.contains(body.roles));
    assert!(matches!(body.issuer, Issuer::Member(member, _) if member == issuer.member));
    let Some(limits) = &issuer.constraints else { return };
    assert!(body.name.as_str().ends_with(&limits.name_suffix));
    assert!(body.not_after_s - body.not_before_s <= u64::from(limits.max_lifetime_s));
    let within = |prefix: &IpNet| limits.prefixes.iter().any(|allowed| allowed.contains(prefix));
    assert!(body.prefixes.iter().all(within));
    assert!(body.addresses.iter().all(|address| within(&IpNet::from(*address))));
}

/// Attempts to extend a chain of trust bundles, eight bytes each: who is trusted, how many must sign, who signs, and what is
/// wrong with it. The rest is tried as a bundle that nobody has signed.
pub fn bundle(bytes: &[u8]) {
    let mut chain = founded();
    if let Ok(bundle) = SignedBundle::parse(bytes) {
        let genuine = bundle == chain.after(0)[0];
        // The known one with other signatures is the known one.
        let taken = chain.clone().extend(bundle.clone());
        assert!(matches!(taken, Err(_) | Ok(Extended::Known)), "nobody has signed it");
        assert!(genuine || TrustChain::begin(bundle).is_err(), "nobody has signed it");
    }
    for choice in bytes.as_chunks::<8>().0.iter().take(16) {
        attempt(&mut chain, choice);
    }
    let whole = TrustChain::verify(chain.mesh(), chain.after(0).iter().cloned());
    assert_eq!(whole, Ok(chain), "what was taken step by step is taken as a whole");
}

fn attempt(chain: &mut TrustChain, choice: &[u8; 8]) {
    let [roots, threshold, signers, back, faults, recovery, spare, twice] = *choice;
    let mut body = chain.current().clone();
    body.roots = (0..KEYS).filter(|number| roots & (1 << number) != 0).map(root_key).collect();
    if twice & 7 == 7 {
        let again = body.roots.first().copied();
        body.roots.extend(again);
    }
    body.threshold = threshold % 5;
    // Mostly the next version; also any before it, or one too far.
    let back = u32::from(back % 4);
    let (version, before) = if faults & 1 != 0 {
        (body.version + 2, body.version)
    } else {
        let version = (body.version + 1).saturating_sub(back).max(1);
        (version, version - 1)
    };
    body.version = version;
    let previous = before.checked_sub(1).and_then(|index| chain.after(index).first());
    body.previous = previous.map(SignedBundle::hash);
    if faults & 2 != 0 {
        body.previous = body.previous.map(|hash| hash.map(|byte| byte ^ 1));
    }
    if faults & 4 != 0 {
        body.mesh.0[0] ^= 1;
    }
    if recovery % 4 == 3 {
        body.recovery = root_key(recovery / 4 % KEYS);
    }
    body.created_s += u64::from(spare);
    let Ok(mut signed) = SignedBundle::unsigned(body) else { return };
    let message = signed.signing_bytes();
    for number in (0..KEYS).filter(|number| signers & (1 << number) != 0) {
        let mut signature = SigningKey::from_bytes(&root_seed(number)).sign(&message).to_bytes();
        if faults & 8 != 0 && number % 2 == 0 {
            signature[usize::from(spare) % 64] ^= 1;
        }
        signed.add_signature(BundleSignature { key: root_key_id(&root_key(number)), signature });
    }
    let good = |number: u8| signers & (1 << number) != 0 && (faults & 8 == 0 || !number.is_multiple_of(2));
    let was = chain.clone();
    match chain.extend(signed.clone()) {
        Err(_) => assert_eq!(*chain, was, "a refused bundle changes nothing"),
        Ok(Extended::Known) => {
            assert!(*chain == was && was.after(0).iter().any(|one| one.hash() == signed.hash()))
        }
        Ok(extended) => {
            assert_eq!(faults & 7, 0);
            assert!(!body_is_empty(signed.body()));
            let old = previous_body(&was, version);
            let signed_by = |keys: &[IdentityKey]| {
                (0..KEYS).filter(|number| good(*number) && keys.contains(&root_key(*number))).count()
            };
            let by_recovery = signed_by(std::slice::from_ref(&old.recovery)) == 1;
            let new = signed.body();
            assert!(by_recovery || signed_by(&old.roots) >= usize::from(old.threshold));
            assert!(signed_by(&new.roots) >= usize::from(new.threshold));
            assert!(by_recovery || new.recovery == old.recovery);
            match extended {
                Extended::Replaced => {
                    assert!(by_recovery && !was.is_by_recovery(version) && version <= was.version());
                }
                _ => assert_eq!(version, was.version() + 1),
            }
            assert_eq!(chain.version(), version);
        }
    }
}

fn body_is_empty(body: &TrustBundle) -> bool {
    let mut roots = body.roots.clone();
    roots.sort_unstable_by_key(|root| root.0);
    roots.dedup();
    roots.is_empty() || roots.len() != body.roots.len() || roots.len() > MAX_ROOTS || body.threshold == 0
}

fn previous_body(chain: &TrustChain, version: u32) -> TrustBundle {
    chain.after(version - 2)[0].body().clone()
}

/// Inputs to begin with: a certificate's content signed by each, and genuine ones.
pub(crate) fn certificate_seeds() -> Vec<(String, Vec<u8>)> {
    let mut seeds = Vec::new();
    for (number, (_, issuer)) in MESH.issuers.iter().enumerate() {
        let whole = issuer.signed().to_bytes();
        let mut body = issuer.body().clone();
        body.roles = Roles::RELAY;
        body.constraints = None;
        body.name = Name::new("nas-home").expect("a name");
        body.addresses = vec!["10.99.8.7".parse().expect("an address")];
        body.prefixes = vec!["10.99.8.128/25".parse().expect("a prefix")];
        body.not_after_s = body.not_before_s + u64::from(LIFETIME_S);
        let unsigned = proto::signed::encode_unsigned(&body).expect("a short certificate");
        for choice in [0x80, 0x81, 0x82, 0x83, 0] {
            seeds.push((format!("content-{number}-{choice}"), [&[choice], &unsigned[4..]].concat()));
        }
        seeds.push((format!("genuine-{number}"), whole));
    }
    seeds
}

/// Inputs to begin with: a plain roll-over, one by recovery, one that adds roots, and a genuine first bundle.
pub(crate) fn bundle_seeds() -> Vec<(String, Vec<u8>)> {
    let steps = |name: &str, steps: &[[u8; 8]]| (name.to_owned(), steps.concat());
    vec![
        steps("roll-over", &[[3, 1, 3, 0, 0, 0, 0, 0], [2, 1, 3, 0, 0, 0, 1, 0]]),
        steps(
            "recovery",
            &[[3, 1, 3, 0, 0, 0, 0, 0], [4, 1, 0x24, 0, 0, 0, 0, 0], [8, 1, 0x28, 1, 0, 0, 2, 0]],
        ),
        steps("threshold", &[[7, 2, 7, 0, 0, 0, 0, 0], [6, 2, 7, 0, 0, 0, 0, 0], [6, 2, 2, 0, 0, 0, 0, 0]]),
        ("first".to_owned(), founded().after(0)[0].to_bytes()),
    ]
}
