//! What the set of revocations keeps beside them, its bounds, and how two sets find out what they lack.

use proto::frame::BUCKETS;

use super::revocations::{by_operator, by_root, with_operators};
use super::*;
use crate::membership::revocation::{MAX_LATE, MAX_REVOCATIONS};

/// Members as targets by id and by key, and certificates.
fn target(n: u8) -> RevocationTarget {
    match n % 3 {
        0 => RevocationTarget::Member(id(n / 3)),
        1 => RevocationTarget::Key(identity(n / 3).public()),
        _ => RevocationTarget::Serial(Serial(u64::from(n / 3))),
    }
}

fn set(revocations: &[(u8, u64)]) -> RevocationSet {
    let (trust, mut set) = (trust(), RevocationSet::new());
    for (n, cutoff_s) in revocations {
        set.insert(&trust, None, revocation(target(*n), *cutoff_s)).unwrap();
    }
    set.assert_sound();
    set
}

/// As signed by operator `by`, with a cutoff.
fn by_operator_from(by: u8, n: u8, cutoff_s: u64) -> Signed<Revocation> {
    identity(by).sign(unsigned_revocation(target(n), cutoff_s, Issuer::Member(id(by), Serial(0)))).unwrap()
}

/// Member 60's certificate for member 1 is of this second.
fn certified_by_60(not_before_s: u64) -> Certificate {
    let mut certificate = issue_root(&trust(), START, request(1)).body().clone();
    (certificate.issuer, certificate.not_before_s) = (Issuer::Member(id(60), Serial(7)), not_before_s);
    certificate
}

#[test]
fn the_summary_tells_targets_and_cutoffs_apart() {
    assert_eq!((set(&[]).summary(), set(&[]).len()), ([0; BUCKETS], 0));
    let all: Vec<_> = (0..60).map(|n| set(&[(n, 5)]).summary()).collect();
    assert_eq!(BTreeSet::from_iter(&all).len(), 60, "each target has a mark of its own");
    assert!(all.iter().all(|one| one.iter().filter(|mark| **mark != 0).count() == 1), "in one bucket");
    let used: BTreeSet<_> = all.iter().filter_map(|one| one.iter().position(|mark| *mark != 0)).collect();
    assert!(used.len() > BUCKETS.min(60) / 3, "spread over buckets: {}", used.len());
    let cutoffs: BTreeSet<_> = (0..60).map(|cutoff_s| set(&[(0, cutoff_s)]).summary()).collect();
    assert_eq!(cutoffs.len(), 60, "and each of its cutoffs");
}

#[test]
fn a_set_finds_what_another_one_lacks_and_little_else() {
    let known: Vec<(u8, u64)> = (0..60).map(|n| (n, 5)).collect();
    let (mine, same) = (set(&known), set(&known));
    assert_eq!(mine.differing(&same.summary()).count(), 0);
    assert_eq!(mine.len(), 60);
    for (n, other) in [(7, 4), (59, 9)] {
        let mut theirs = known.clone();
        theirs[usize::from(n)].1 = other;
        let theirs = set(&theirs);
        let found: Vec<_> = mine.differing(&theirs.summary()).map(|one| one.body().target).collect();
        assert!(found.contains(&target(n)) && found.len() < 30, "{found:?}");
        assert_ne!(mine.digest(), theirs.digest());
    }
}

#[test]
fn the_earliest_cutoff_of_a_member_counts_by_whichever_of_its_targets() {
    // 180 is member 60 by its id, 181 by its key.
    for order in
        [[(180, 100), (181, 50)], [(181, 50), (180, 100)], [(180, 50), (181, 100)], [(181, 100), (180, 50)]]
    {
        let set = set(&order);
        assert!(!set.ends(&certified_by_60(49)), "{order:?}");
        assert!(set.ends(&certified_by_60(50)), "{order:?}");
    }
    // A stronger one of the same target, and a weaker one.
    let set = set(&[(180, 100), (180, 70), (180, 90)]);
    assert!(set.ends(&certified_by_60(70)) && !set.ends(&certified_by_60(69)));
}

#[test]
fn a_full_set_takes_nothing_new_but_what_makes_known_ones_stronger() {
    let (trust, mut set) = (trust(), set(&[(0, 50)]));
    set.pretend(MAX_REVOCATIONS - 1);
    assert_eq!(set.insert(&trust, None, revocation(target(1), 5)), Ok(true));
    assert_eq!(set.insert(&trust, None, revocation(target(2), 5)), Err(RevocationError::Full));
    assert_eq!(set.insert(&trust, None, revocation(target(0), 5)), Ok(true), "stronger");
    assert_eq!(set.insert(&trust, None, revocation(target(0), 9)), Ok(false), "weaker");
}

/// Who was revoked may sign on and on.
#[test]
fn of_a_revoked_operator_only_so_many_are_kept() {
    let mut table = with_operators();
    table.add_revocation(by_root(4)).unwrap();
    table.add_revocation(by_operator(5, 1, 5)).unwrap();
    for n in 0..MAX_LATE as u8 + 10 {
        let late = by_operator_from(4, 100 + n, 5);
        assert_eq!(table.add_revocation(late), Err(RevocationError::SignerRevoked));
        assert_eq!(table.revocations().suspended(), usize::from(n + 1).min(MAX_LATE));
        table.revocations().assert_sound();
    }
    // Another one's are kept beside them.
    table.add_revocation(by_root(5)).unwrap();
    assert_eq!(table.revocations().suspended(), MAX_LATE + 1);
    table.revocations().assert_sound();
}

/// An operator's revocation that has no force for the time being is still made stronger, so that all members have the same
/// when it has force again, whatever the order in which they heard.
#[test]
fn what_is_suspended_keeps_its_earliest_cutoff() {
    let undone = |first: u64, second: u64| {
        let mut table = with_operators();
        table.add_revocation(by_operator_from(4, 180, first)).unwrap();
        table.add_revocation(by_operator(5, 4, 5)).unwrap();
        assert_eq!(
            table.add_revocation(by_operator_from(4, 180, second)),
            Err(RevocationError::SignerRevoked)
        );
        table.revocations().assert_sound();
        table.add_revocation(by_root(5)).unwrap();
        table.revocations().assert_sound();
        let set = table.revocations();
        (set.digest(), set.ends(&certified_by_60(50)), set.ends(&certified_by_60(49)))
    };
    assert_eq!(undone(100, 50), undone(50, 100));
    let (_, ends, before) = undone(100, 50);
    assert!(ends && !before);
}

#[test]
fn what_a_leaving_root_alone_has_revoked_is_to_be_signed_anew() {
    let two = found(founding(), &[&root(1), &root(2)], 1).unwrap();
    let signed = |by: u8, n: u8, cutoff_s: u64| {
        let mesh = two.mesh();
        let body = unsigned_revocation(target(n), cutoff_s, Issuer::Root(root(by).key_id()));
        root(by).sign(Revocation { mesh, ..body }).unwrap()
    };
    let mut set = RevocationSet::new();
    for (by, n, cutoff_s) in
        [(1, 0, 5), (2, 3, 5), (1, 6, 5), (2, 6, 5), (1, 9, 5), (2, 9, 9), (1, 12, 9), (2, 12, 5)]
    {
        set.insert(&two, None, signed(by, n, cutoff_s)).unwrap();
    }
    set.assert_sound();
    let anew = |leaving: Option<u8>, trust: &TrustChain| {
        let leaving = leaving.map(|n| root(n).public());
        let of = |one: Revocation| (one.target, one.cutoff_s);
        set.only_by_others(trust, leaving.as_ref()).into_iter().map(of).collect::<BTreeSet<_>>()
    };
    let expected = |those: &[(u8, u64)]| those.iter().map(|(n, cutoff_s)| (target(*n), *cutoff_s)).collect();
    assert_eq!(anew(None, &two), BTreeSet::new());
    // What the other one has revoked as strictly stays by itself.
    assert_eq!(anew(Some(1), &two), expected(&[(0, 5), (9, 5)]));
    assert_eq!(anew(Some(2), &two), expected(&[(3, 5), (12, 5)]));
    // Once the root has gone, it is the same.
    let next = succeed(&two, &[&root(1), &root(2)], START.seconds() + 1, |next| {
        next.roots.retain(|key| *key != root(1).public())
    });
    let mut gone = two.clone();
    gone.extend(next.unwrap()).unwrap();
    assert_eq!(anew(None, &gone), expected(&[(0, 5), (9, 5)]));
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(256))]

    /// Roots and operators revoke members, keys, and certificates, earlier and later, in circles and over again: what is kept
    /// beside the revocations goes with them, and whoever takes one is told whether anything has changed.
    #[test]
    fn the_set_stays_sound_and_says_what_is_news(
        revocations in proptest::collection::vec((3u8..8, 0u8..24, 0u64..3), 0..24),
    ) {
        let mut table = with_operators();
        for (by, n, cutoff_s) in revocations {
            let signed = if by == 3 { revocation(target(n), cutoff_s) } else { by_operator_from(by, n, cutoff_s) };
            let before: Vec<_> = table.revocations().iter().cloned().collect();
            let mut set = table.revocations().clone();
            let operator = table.certificate_of_operator(id(by)).cloned();
            let outcome = set.insert(table.trust(), operator.as_ref(), signed.clone());
            set.assert_sound();
            prop_assert_eq!(!set.iter().eq(before.iter()), outcome == Ok(true), "{:?}", outcome);
            let _ = table.add_revocation(signed);
            table.revocations().assert_sound();
        }
    }
}
