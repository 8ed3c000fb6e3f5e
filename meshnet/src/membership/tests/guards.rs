//! The edges of what is accepted, where changes to the code were not noticed, or not in time (docs/mutants.md).

use proto::certificate::{MAX_ADDRESSES, MAX_PREFIXES};

use super::*;

fn change(
    chain: &TrustChain,
    signers: &[u8],
    change: impl FnOnce(&mut proto::bundle::TrustBundle),
) -> Result<SignedBundle, BundleError> {
    let signers: Vec<_> = signers.iter().map(|n| root(*n)).collect();
    succeed(chain, &signers.iter().collect::<Vec<_>>(), START.seconds() + 1, change)
}

#[test]
fn the_recovery_key_is_replaced_by_itself_alone() {
    let chain = trust();
    let other = root(98).public();
    let by_root = change(&chain, &[1], |next| next.recovery = other);
    assert_eq!(by_root, Err(BundleError::RecoveryChanged));
    let by_both = change(&chain, &[1, 99], |next| next.recovery = other).unwrap();
    let mut chain = chain;
    assert_eq!(chain.extend(by_both), Ok(Extended::Added));
    assert!(chain.is_by_recovery(2) && !chain.is_by_recovery(1) && !chain.is_by_recovery(3));
    // What was the recovery key is none any more.
    assert_eq!(change(&chain, &[99], |next| next.created_s += 1), Err(BundleError::OldThreshold));
}

#[test]
fn a_first_bundle_is_version_1_and_follows_nothing() {
    let first = trust().after(0)[0].clone();
    for alter in [(|body| body.version = 2) as fn(&mut proto::bundle::TrustBundle), |body| {
        body.previous = Some([0; 32])
    }] {
        let mut body = first.body().clone();
        alter(&mut body);
        let altered = SignedBundle::unsigned(body).unwrap();
        assert_eq!(TrustChain::begin(altered), Err(BundleError::NotFirst));
    }
}

#[test]
fn an_issuers_certificate_counts_to_the_second_in_which_its_grace_ends() {
    let trust = trust();
    let by = issuer(&trust);
    let end_s = by.body().not_after_s + GRACE_S;
    let issued = |not_before_s: u64| {
        let mut body = issue_home(&trust, START, &by, home_request(2)).unwrap().body().clone();
        (body.not_before_s, body.not_after_s) = (not_before_s, not_before_s + DAY_S);
        VerifiedCertificate::verify(&trust, identity(50).sign(body).unwrap(), Some(&by)).map(drop)
    };
    assert_eq!(issued(end_s), Ok(()));
    assert_eq!(issued(end_s + 1), Err(CertificateError::IssuedTooLate));
}

#[test]
fn the_oldest_key_that_is_still_accepted_is_not_forgotten() {
    let mut table = table([1]);
    for number in 1..=3 {
        table.add_key_epoch(epoch(1, number, number as u8)).unwrap();
    }
    table.retire_key_epochs(id(1), KeyEpochNumber(2));
    let accepted = |table: &Membership| {
        let epochs = table.get(id(1)).unwrap().epochs();
        epochs.accepted().map(|epoch| epoch.body().number.0).collect::<Vec<_>>()
    };
    assert_eq!(accepted(&table), [2, 3]);
    assert_eq!(table.with_key(&TransportKey([2; 32])), Some((id(1), KeyEpochNumber(2))));
    assert_eq!(table.with_key(&TransportKey([1; 32])), None);
}

#[test]
fn what_a_member_says_is_checked_against_its_own_key() {
    let table = table([1, 2]);
    let own = epoch(1, 7, 7);
    assert_eq!(table.get(id(1)).unwrap().verify(&own), Ok(()));
    assert_eq!(table.get(id(2)).unwrap().verify(&own), Err(BadSignature));
}

#[test]
fn a_request_is_proven_by_its_signers_key_for_this_message() {
    let signature = identity(1).sign_request(b"message");
    assert_eq!(verify_request(&identity(1).public(), b"message", &signature), Ok(()));
    assert_eq!(verify_request(&identity(1).public(), b"another", &signature), Err(BadSignature));
    assert_eq!(verify_request(&identity(2).public(), b"message", &signature), Err(BadSignature));
    // A signature over a join is none over a request.
    let join = identity(1).sign_join(b"message");
    assert_eq!(verify_request(&identity(1).public(), b"message", &join), Err(BadSignature));
}

#[test]
fn what_a_root_certifies_goes_before_what_an_issuer_does() {
    let trust = trust();
    let by = issuer(&trust);
    // Whoever has the smaller id would win otherwise: try both.
    for (first, second) in [(2, 3), (3, 2)] {
        let mut table = Membership::new(trust.clone());
        table.add_certificate(START, by.signed().clone(), None).unwrap();
        let contested = ip("10.99.8.77");
        let of_issuer = Request { addresses: vec![contested], ..home_request(first) };
        let of_issuer = issue_home(&trust, START, &by, of_issuer).unwrap();
        let of_root = issue_root(&trust, START, Request { addresses: vec![contested], ..request(second) });
        for certificate in [of_issuer, of_root] {
            table.add_certificate(START, certificate.signed().clone(), None).unwrap();
        }
        assert_eq!(table.owner(START, &contested), Some(id(second)));
    }
}

#[test]
fn what_is_kept_on_the_disk_is_taken_once_and_the_newest_stays() {
    let trust = trust();
    let (older, newer) = (issue_root(&trust, START, request(1)), issue_root(&trust, days(1), request(1)));
    let mut table = Membership::new(trust);
    let keep = |table: &mut Membership, one: &VerifiedCertificate| {
        table.keep_certificate(days(1), one.signed().clone(), None)
    };
    assert_eq!(keep(&mut Membership::new(table.trust().clone()), &newer), Ok(Added::New));
    assert_eq!(keep(&mut table, &older), Ok(Added::New));
    assert_eq!(keep(&mut table, &newer), Ok(Added::Renewed));
    assert_eq!(keep(&mut table, &newer), Ok(Added::Known));
    assert_eq!(keep(&mut table, &older), Ok(Added::Older));
    assert_eq!(table.get(id(1)).unwrap().certificate(), &newer);
    // Revocations that were kept take effect as new ones do, and once.
    let revoked = revocation(RevocationTarget::Member(id(1)), START.seconds());
    assert!(matches!(table.keep_revocation(revoked.clone()), Ok(Some(_))));
    assert!(table.get(id(1)).is_none());
    assert!(matches!(table.keep_revocation(revoked), Ok(None)));
    assert_eq!(keep(&mut table, &newer), Err(AddError::Revoked));
    // And nobody's word but a root's, or an operator's, is kept.
    let forged = unsigned_revocation(RevocationTarget::Member(id(2)), 0, Issuer::Root(root(1).key_id()));
    assert!(table.keep_revocation(root(5).sign(forged).unwrap()).is_err());
}

#[test]
fn what_an_issuer_certified_is_kept_with_the_issuers_certificate_of_the_table_or_one_beside_it() {
    let trust = trust();
    let by = issuer(&trust);
    let leaf = issue_home(&trust, START, &by, home_request(2)).unwrap();
    let keep = |table: &mut Membership, beside: Option<&VerifiedCertificate>| {
        table.keep_certificate(START, leaf.signed().clone(), beside.map(|one| one.signed().clone()))
    };
    let mut table = Membership::new(trust.clone());
    let unknown = Err(AddError::Certificate(CertificateError::UnknownIssuer));
    assert_eq!(keep(&mut table, None), unknown);
    assert_eq!(keep(&mut table, Some(&by)), Ok(Added::New));
    let mut table = Membership::new(trust);
    table.add_certificate(START, by.signed().clone(), None).unwrap();
    assert_eq!(keep(&mut table, None), Ok(Added::New));
}

#[test]
fn a_certificate_is_given_for_as_long_as_was_asked_and_from_a_little_before() {
    let trust = trust();
    let now_s = START.seconds();
    for (lifetime_s, before_s) in [(DEFAULT_LIFETIME_S, CLOCK_TOLERANCE_S), (1200, 600), (100, 50)] {
        let issued = issue_root(&trust, START, Request { lifetime_s, ..request(1) });
        let body = issued.body();
        let span = (body.not_before_s, body.not_after_s);
        assert_eq!(span, (now_s - before_s, now_s - before_s + lifetime_s));
        let again = Request::again(body);
        assert_eq!(
            (again.lifetime_s, again.identity, again.prefixes),
            (lifetime_s, body.identity, body.prefixes.clone())
        );
    }
}

#[test]
fn a_certificate_has_so_many_addresses_and_prefixes_and_no_more() {
    let trust = trust();
    let with = |addresses: usize, prefixes: usize| {
        let addresses = (0..addresses).map(|n| IpAddr::from([10, 99, 1, n as u8])).collect();
        let prefixes = (0..prefixes).map(|n| net(&format!("172.16.{n}.0/24"))).collect();
        let request = Request { addresses, prefixes, ..request(1) };
        issue(START, &trust, &Signer::Root(&root(1)), request, None, 0).map(drop)
    };
    assert_eq!(with(MAX_ADDRESSES, MAX_PREFIXES), Ok(()));
    assert_eq!(with(MAX_ADDRESSES + 1, 0), Err(IssueError::TooManyAddresses));
    assert_eq!(with(0, MAX_PREFIXES + 1), Err(IssueError::TooManyPrefixes));
}

#[test]
fn secrets_are_what_was_written_of_them() {
    let secret = root(7);
    assert_eq!(AuthoritySecret::from_bytes(&secret.to_bytes()).public(), secret.public());
    let secret = identity(7);
    assert_eq!(IdentitySecret::from_bytes(&secret.to_bytes()).public(), secret.public());
}

#[test]
fn what_convinces_who_follows_a_fork_begins_with_the_recovery_keys_version() {
    let mut chain = trust();
    let mut extend = |signers: &[u8], to: u8| {
        let next = change(&chain, signers, |next| next.roots = vec![root(to).public()]).unwrap();
        chain.extend(next).unwrap();
        chain.since_recovery().iter().map(|one| one.body().version).collect::<Vec<_>>()
    };
    assert_eq!(extend(&[1, 2], 2), []);
    // The recovery key speaks where the root does not.
    assert_eq!(extend(&[99, 3], 3), [3]);
    assert_eq!(extend(&[3, 4], 4), [3, 4]);
    assert_eq!(extend(&[99, 5], 5), [5]);
}

#[test]
fn the_clock_is_looked_at_again_when_it_changes_something_later() {
    let table = table([1, 2]);
    assert_eq!(table.mesh(), table.trust().mesh());
    let mut at = START;
    let mut changes = 0;
    while let Some(next) = table.next_change(at) {
        assert!(next > at, "{next:?}");
        (at, changes) = (next, changes + 1);
    }
    assert!(changes >= 2);
    assert!((1..3).all(|n| !table.is_honoured(at, id(n))));
}
