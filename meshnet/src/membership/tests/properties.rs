//! Chains of trust bundles and issuers' constraints against simple readings of their rules.

use super::*;

/// A next version: its roots, their threshold, who signs (99 is the recovery key), and whether it names another recovery
/// key.
#[derive(Clone, Debug)]
struct Next {
    roots: BTreeSet<u8>,
    threshold: u8,
    signers: BTreeSet<u8>,
    other_recovery: bool,
}

fn next() -> impl Strategy<Value = Next> {
    let keys = || proptest::collection::btree_set(1u8..5, 0..4);
    (keys(), 0u8..4, keys(), any::<bool>(), 0u8..8).prop_map(
        |(roots, threshold, mut signers, recovery, other)| {
            signers.extend(recovery.then_some(99));
            Next { roots, threshold, signers, other_recovery: other == 0 }
        },
    )
}

/// A version as its maker would write it, whatever is wrong with it.
fn made(before: &SignedBundle, next: &Next) -> Option<SignedBundle> {
    let mut body = before.body().clone();
    body.version += 1;
    body.previous = Some(before.hash());
    body.roots = next.roots.iter().map(|n| root(*n).public()).collect();
    body.threshold = next.threshold;
    if next.other_recovery {
        body.recovery = root(98).public();
    }
    let mut signed = SignedBundle::unsigned(body).ok()?;
    let message = signed.signing_bytes();
    for n in &next.signers {
        let (key, signature) = (root(*n).key_id(), root(*n).sign_bytes(&message));
        signed.add_signature(proto::bundle::BundleSignature { key, signature });
    }
    Some(signed)
}

/// Whether `next` may follow a version with these roots and this threshold. After another recovery key, 98 signs for it,
/// which nobody here does.
fn may_follow(roots: &BTreeSet<u8>, threshold: u8, recovery: bool, next: &Next) -> bool {
    let by_recovery = recovery && next.signers.contains(&99);
    let sound = next.threshold >= 1 && usize::from(next.threshold) <= next.roots.len();
    let old = roots.intersection(&next.signers).count() >= usize::from(threshold);
    let new = next.roots.intersection(&next.signers).count() >= usize::from(next.threshold);
    sound && (old || by_recovery) && new && (!next.other_recovery || by_recovery || !recovery)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]
    #[test]
    fn a_chain_takes_exactly_what_its_rules_allow(versions in proptest::collection::vec(next(), 1..6)) {
        let mut chain = found(founding(), &[&root(1)], 1).unwrap();
        let (mut roots, mut threshold, mut recovery) = (BTreeSet::from([1]), 1, true);
        for next in versions {
            let before = chain.after(0).last().unwrap().clone();
            let Some(signed) = made(&before, &next) else {
                // The format refuses it already.
                prop_assert!(!may_follow(&roots, threshold, recovery, &next));
                continue;
            };
            let taken = chain.clone().extend(signed.clone());
            prop_assert_eq!(taken == Ok(Extended::Added), may_follow(&roots, threshold, recovery, &next), "{:?}", next);
            if taken.is_ok() {
                chain.extend(signed.clone()).unwrap();
                (roots, threshold) = (next.roots.clone(), next.threshold);
                recovery &= !next.other_recovery;
                prop_assert_eq!(chain.is_by_recovery(chain.version()), signed.signatures().iter().any(
                    |made| made.key == root_key_id(&before.body().recovery)));
            }
            // What was taken is taken by whoever reads the chain from its beginning.
            prop_assert_eq!(TrustChain::verify(chain.mesh(), chain.after(0).to_vec()), Ok(chain.clone()));
        }
        for n in 1..5 {
            let since = chain.trusted_since(&root(n).public());
            prop_assert_eq!(since.is_some(), roots.contains(&n));
            let all = |version: u32| chain.after(version - 1).iter().all(|one| one.body().roots.contains(&root(n).public()));
            if let Some(since) = since {
                prop_assert!(all(since) && (since == 1 || !all(since - 1)));
            }
        }
    }

    #[test]
    fn of_two_versions_the_one_that_the_recovery_key_signed_wins_in_any_order(
        pairs in proptest::collection::vec((1u8..5, 1u8..5), 1..4),
        late in any::<bool>(),
    ) {
        // A thief with root 1 and the owner with the recovery key follow version 1 with chains of their own.
        let start = found(founding(), &[&root(1)], 1).unwrap();
        let (mut theirs, mut ours) = (start.clone(), start.clone());
        let (mut thief, mut owner) = (1, None);
        for (a, b) in pairs {
            let bundle = succeed(&theirs, &[&root(thief), &root(a)], 7, |next| next.roots = vec![root(a).public()]);
            theirs.extend(bundle.unwrap()).unwrap();
            thief = a;
            let signers = [owner.map_or(root(99), root), root(b + 10)];
            let bundle = succeed(&ours, &[&signers[0], &signers[1]], 8, |next| next.roots = vec![root(b + 10).public()]);
            ours.extend(bundle.unwrap()).unwrap();
            owner = Some(b + 10);
        }
        let mut chain = start;
        let (first, second) = if late { (&theirs, &ours) } else { (&ours, &theirs) };
        for bundle in first.after(1).iter().chain(second.after(1)) {
            let _ = chain.extend(bundle.clone());
        }
        prop_assert_eq!(chain, ours);
    }

    #[test]
    fn an_issuer_certifies_exactly_what_its_constraints_allow(
        suffix in prop_oneof![Just(""), Just("-home"), Just("e1")],
        within in proptest::collection::btree_set(0u8..3, 0..3),
        longest_days in 1u64..60,
        days_wanted in 1u64..60,
        named in prop_oneof![Just("node1"), Just("node1-home"), Just("home")],
        host in 0u8..3,
        subnet in proptest::option::of(0u8..3),
        roles in 0u8..8,
        altered in any::<bool>(),
    ) {
        let trust = trust();
        let allowed = |n: &u8| net(["10.99.0.0/24", "10.99.1.0/24", "172.16.0.0/12"][usize::from(*n)]);
        let constraints = IssuerConstraints {
            name_suffix: suffix.into(),
            prefixes: within.iter().map(allowed).collect(),
            max_lifetime_s: (longest_days * DAY_S) as u32,
        };
        let own = Roles::ISSUER.union(Roles::RELAY);
        let issuer = issue_root(&trust, START, Request { roles: own, constraints: Some(constraints), ..request(50) });
        let wanted = Request {
            name: name(named),
            addresses: vec![IpAddr::from([10, 99, host, 7])],
            prefixes: subnet.iter().map(|n| net(["172.20.0.0/16", "192.168.5.0/24", "10.99.1.0/28"][usize::from(*n)])).collect(),
            roles: Roles(roles),
            lifetime_s: days_wanted * DAY_S,
            ..request(1)
        };
        let free = within.is_empty();
        let expected = named.ends_with(suffix)
            && days_wanted <= longest_days
            && (free || within.contains(&host) && host < 2)
            && subnet.is_none_or(|n| match n { 0 => within.contains(&2), 2 => within.contains(&1), _ => false })
            // Neither an issuer nor an operator.
            && roles & !Roles::RELAY.0 == 0;
        let made = issue(days(1), &trust, &Signer::Member { secret: &identity(50), certificate: &issuer }, wanted, None, 3);
        prop_assert_eq!(made.is_ok(), expected, "{:?}", made);
        if let Ok(made) = made && altered {
            // Whatever is changed afterwards, it is refused.
            let mut body = made.body().clone();
            body.serial.0 += 1;
            let forged = identity(1).sign(body).unwrap();
            let refused = VerifiedCertificate::verify(&trust, forged, Some(&issuer));
            prop_assert_eq!(refused, Err(CertificateError::BadSignature));
        }
    }
}
