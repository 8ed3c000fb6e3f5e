use super::*;

/// The next version, trusting `roots` with `threshold`, signed by `signers`.
fn next(
    chain: &TrustChain,
    roots: &[u8],
    threshold: u8,
    signers: &[u8],
) -> Result<SignedBundle, BundleError> {
    let signers: Vec<_> = signers.iter().map(|n| root(*n)).collect();
    let roots = roots.iter().map(|n| root(*n).public()).collect();
    succeed(chain, &signers.iter().collect::<Vec<_>>(), START.seconds() + 1, |bundle| {
        bundle.roots = roots;
        bundle.threshold = threshold;
    })
}

fn founded(roots: &[u8], threshold: u8) -> TrustChain {
    let roots: Vec<_> = roots.iter().map(|n| root(*n)).collect();
    found(founding(), &roots.iter().collect::<Vec<_>>(), threshold).unwrap()
}

#[test]
fn the_mesh_id_admits_one_first_bundle_only() {
    let (ours, theirs) = (founded(&[1], 1), founded(&[2], 1));
    assert_ne!(ours.mesh(), theirs.mesh());
    let verify = |bundle: &SignedBundle| TrustChain::verify(ours.mesh(), [bundle.clone()]);
    assert_eq!(verify(&ours.after(0)[0]), Ok(ours.clone()));
    assert_eq!(verify(&theirs.after(0)[0]), Err(BundleError::WrongMesh));
    let mut lie = theirs.current().clone();
    lie.mesh = ours.mesh();
    let lie = SignedBundle::unsigned(lie).unwrap();
    assert_eq!(verify(&lie), Err(BundleError::MeshIdMismatch));
    assert_eq!(TrustChain::verify(ours.mesh(), []), Err(BundleError::Empty));
}

#[test]
fn a_first_bundle_needs_the_signatures_of_its_own_threshold() {
    let bundle = founded(&[1, 2], 2).after(0)[0].clone();
    let bare = SignedBundle::unsigned(bundle.body().clone()).unwrap();
    assert_eq!(TrustChain::begin(bare.clone()), Err(BundleError::NewThreshold));
    let mut one = bare.clone();
    one.add_signature(bundle.signatures()[0]);
    assert_eq!(TrustChain::begin(one), Err(BundleError::NewThreshold));
    let mut crossed = bare;
    let (a, b) = (bundle.signatures()[0], bundle.signatures()[1]);
    crossed.add_signature(proto::bundle::BundleSignature { key: a.key, signature: b.signature });
    crossed.add_signature(proto::bundle::BundleSignature { key: b.key, signature: a.signature });
    assert_eq!(TrustChain::begin(crossed), Err(BundleError::NewThreshold));
}

#[test]
fn a_rotation_needs_the_old_threshold_and_the_new() {
    let chain = founded(&[1, 2, 3], 2);
    assert!(next(&chain, &[4, 5], 2, &[1, 2, 4, 5]).is_ok());
    assert_eq!(next(&chain, &[4, 5], 2, &[1, 4, 5]), Err(BundleError::OldThreshold));
    assert_eq!(next(&chain, &[4, 5], 2, &[4, 5]), Err(BundleError::OldThreshold));
    assert_eq!(next(&chain, &[4, 5], 2, &[1, 2, 4]), Err(BundleError::NewThreshold));
    assert_eq!(next(&chain, &[1, 2], 2, &[1, 1]), Err(BundleError::OldThreshold));
}

#[test]
fn the_recovery_key_stands_in_for_the_old_roots_but_not_for_the_new() {
    let chain = founded(&[1, 2, 3], 2);
    assert!(next(&chain, &[4], 1, &[99, 4]).is_ok());
    assert_eq!(next(&chain, &[4], 1, &[99]), Err(BundleError::NewThreshold));
    assert_eq!(next(&chain, &[4], 1, &[98, 4]), Err(BundleError::OldThreshold));
}

#[test]
fn roots_and_thresholds_that_make_no_sense_are_refused() {
    let chain = founded(&[1], 1);
    for (roots, threshold) in [(&[][..], 1), (&[1], 0), (&[1], 2), (&[1, 1], 1)] {
        assert_eq!(next(&chain, roots, threshold, &[1]), Err(BundleError::BadRoots));
    }
}

#[test]
fn versions_follow_each_other_without_gaps_and_a_fork_is_an_alarm() {
    let start = founded(&[1], 1);
    let second = next(&start, &[1, 2], 1, &[1]).unwrap();
    let mut chain = start.clone();
    assert_eq!(chain.extend(second.clone()), Ok(Extended::Added));
    let third = next(&chain, &[2], 1, &[1, 2]).unwrap();
    assert_eq!(start.clone().extend(third.clone()), Err(BundleError::Gap { have: 1, got: 3 }));
    assert_eq!(chain.extend(third.clone()), Ok(Extended::Added));
    assert_eq!(chain.extend(second.clone()), Ok(Extended::Known));
    assert_eq!((chain.version(), chain.after(1)), (3, &[second.clone(), third][..]));
    assert_eq!(chain.after(3), []);
    assert_eq!(chain.after(9), []);
    assert_eq!(TrustChain::verify(start.mesh(), chain.after(0).to_vec()), Ok(chain.clone()));
    assert_eq!(TrustChain::verify(start.mesh(), chain.after(1).to_vec()), Err(BundleError::NotFirst));

    let fork = next(&start, &[1, 7], 1, &[1]).unwrap();
    assert_eq!(chain.extend(fork.clone()), Err(BundleError::Fork(2)));
    let mut unsigned = fork.body().clone();
    unsigned.threshold = 2;
    let unsigned = SignedBundle::unsigned(unsigned).unwrap();
    assert_eq!(chain.extend(unsigned), Err(BundleError::OldThreshold), "strangers raise no alarm");
    let mut other = start.clone();
    other.extend(fork).unwrap();
    let on_fork = next(&other, &[1], 1, &[1]).unwrap();
    let mut here = start;
    here.extend(second).unwrap();
    assert_eq!(here.extend(on_fork), Err(BundleError::WrongPrevious));
}

#[test]
fn another_signature_on_a_known_version_changes_nothing() {
    let mut chain = founded(&[1, 2], 1);
    let first = chain.after(0)[0].clone();
    let mut fewer = SignedBundle::unsigned(first.body().clone()).unwrap();
    fewer.add_signature(first.signatures()[1]);
    assert_eq!(chain.extend(fewer.clone()), Ok(Extended::Known));
    let other = TrustChain::begin(fewer).unwrap();
    assert!(chain.extend(next(&other, &[1], 1, &[1]).unwrap()).is_ok());
}
