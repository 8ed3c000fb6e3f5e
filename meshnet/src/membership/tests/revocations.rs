use super::*;

fn ends(members: &[u8]) -> Result<Option<Revoked>, RevocationError> {
    let ended = members.iter().map(|n| id(*n)).collect();
    Ok(Some(Revoked { ended, readmitted: Vec::new() }))
}

/// Members 1 to 3, and the operators 4 to 7.
pub(super) fn with_operators() -> Membership {
    let mut table = table([1, 2, 3]);
    for n in 4..8 {
        let operator = Request { roles: Roles::OPERATOR, ..request(n) };
        let operator = issue_root(table.trust(), START, operator).signed().clone();
        table.add_certificate(START, operator, None).unwrap();
    }
    table
}

/// Operator `by` revokes member `whom`, at a time of its choice.
pub(super) fn by_operator(by: u8, whom: u8, created_s: u64) -> Signed<Revocation> {
    let target = RevocationTarget::Member(id(whom));
    let body = unsigned_revocation(target, START.seconds(), Issuer::Member(id(by), Serial(0)));
    identity(by).sign(Revocation { created_s, ..body }).unwrap()
}

pub(super) fn by_root(whom: u8) -> Signed<Revocation> {
    revocation(RevocationTarget::Member(id(whom)), START.seconds())
}

/// Whom of 1 to 7 the table does not have.
fn out(table: &Membership) -> Vec<u8> {
    (1..8).filter(|n| table.get(id(*n)).is_none()).collect()
}

#[test]
fn a_revoked_operator_revokes_nobody_whatever_time_it_claims() {
    let mut table = with_operators();
    table.add_revocation(by_root(4)).unwrap();
    for created_s in [0, START.seconds() - 1, START.seconds(), u64::MAX] {
        let forged = table.add_revocation(by_operator(4, 1, created_s));
        assert_eq!(forged, Err(RevocationError::SignerRevoked));
    }
    let mut other = with_operators();
    other.add_revocation(by_operator(5, 4, 9)).unwrap();
    assert_eq!(other.add_revocation(by_operator(4, 1, 0)), Err(RevocationError::SignerRevoked));
    assert_eq!(other.add_revocation(by_operator(4, 6, 0)), Err(RevocationError::SignerRevoked));
    assert_eq!((out(&table), out(&other)), (vec![4], vec![4]));
}

#[test]
fn what_a_revoked_operator_had_revoked_is_undone_unless_somebody_takes_it_over() {
    let mut table = with_operators();
    table.add_key_epoch(epoch(1, 3, 77)).unwrap();
    for whom in [1, 2] {
        assert_eq!(table.add_revocation(by_operator(4, whom, 5)), ends(&[whom]));
    }
    let seen: Vec<_> = table.revocations().signed_by(id(4)).map(|one| one.target).collect();
    assert_eq!(seen.len(), 2);
    // The one who revokes the operator has taken over what it had done to 2.
    table.add_revocation(by_root(2)).unwrap();
    let undone = table.add_revocation(by_root(4)).unwrap().unwrap();
    assert_eq!(undone, Revoked { ended: vec![id(4)], readmitted: vec![id(1)] });
    assert_eq!(out(&table), [2, 4]);
    assert_eq!(table.with_key(&TransportKey([77; 32])), Some((id(1), KeyEpochNumber(3))), "with its keys");
    assert_eq!(table.owner(START, &ip("10.99.0.1")), Some(id(1)));
    assert!(!table.revocations().has_member(id(1)));
}

#[test]
fn operators_that_revoke_each_other_are_out_and_others_decide() {
    let mut table = with_operators();
    table.add_revocation(by_operator(4, 1, 5)).unwrap();
    table.add_revocation(by_operator(4, 5, 5)).unwrap();
    table.add_revocation(by_operator(5, 4, 5)).unwrap();
    assert_eq!(out(&table), [4, 5], "neither revokes anybody else");
    assert_eq!(table.add_revocation(by_operator(4, 6, 5)), Err(RevocationError::SignerRevoked));
    // A third one says who of them was the thief.
    table.add_revocation(by_operator(6, 4, 5)).unwrap();
    assert_eq!(out(&table), [4]);
    // And the authority has the last word of all.
    table.add_revocation(by_root(6)).unwrap();
    assert_eq!(out(&table), [4, 5, 6]);
    assert_eq!(table.add_revocation(by_operator(7, 7, 5)), Err(RevocationError::Oneself));
}

#[test]
fn member_serial_and_key_each_end_a_certificate_for_good() {
    let serial = table([1]).get(id(1)).unwrap().certificate().body().serial;
    let targets = [
        RevocationTarget::Member(id(1)),
        RevocationTarget::Serial(serial),
        RevocationTarget::Key(identity(1).public()),
    ];
    for target in targets {
        let mut table = table([1, 2]);
        let old = table.get(id(1)).unwrap().certificate().signed().clone();
        assert_eq!(table.add_revocation(revocation(target, 0)), ends(&[1]));
        assert_eq!(table.add_revocation(revocation(target, 0)), Ok(None));
        assert_eq!(table.add_certificate(START, old, None), Err(AddError::Revoked));
        assert_eq!(table.owner(START, &ip("10.99.0.1")), None);
        assert_eq!(table.len(), 1);
        let renewed = issue_root(table.trust(), days(1), request(1)).signed().clone();
        let again = table.add_certificate(days(1), renewed, None);
        let only_serial = matches!(target, RevocationTarget::Serial(_));
        assert_eq!(again, if only_serial { Ok(Added::New) } else { Err(AddError::Revoked) });
    }
}

#[test]
fn a_revoked_issuer_takes_down_what_it_issued_after_the_cutoff() {
    for by_key in [false, true] {
        let mut table = table([]);
        let trust = table.trust().clone();
        let by = issuer(&trust);
        table.add_certificate(START, by.signed().clone(), None).unwrap();
        for (n, day) in [(3, 1), (4, 3)] {
            let leaf = issue_home(&trust, days(day), &by, home_request(n)).unwrap();
            assert_eq!(table.add_certificate(days(day), leaf.signed().clone(), None), Ok(Added::New));
        }
        let target = match by_key {
            true => RevocationTarget::Key(identity(50).public()),
            false => RevocationTarget::Member(id(50)),
        };
        let ended = table.add_revocation(revocation(target, days(2).seconds())).unwrap().unwrap().ended;
        assert_eq!(BTreeSet::from_iter(ended), BTreeSet::from([id(50), id(4)]));
        assert_eq!(table.add_revocation(revocation(target, days(3).seconds())), Ok(None), "weaker");
        // When it was issued, its issuer says: unseen before, it does not get in however long ago that is said to be.
        let late = issue_home(&trust, days(1), &by, home_request(5)).unwrap();
        let issuer = Some(by.signed().clone());
        let again = table.add_certificate(days(3), late.signed().clone(), issuer.clone());
        assert_eq!(again, Err(AddError::IssuerRevoked));
        assert_eq!(table.unsupported(), [id(3)], "it needs another certificate, by somebody else");
        let other = issue_root(&trust, days(3), home_request(3)).signed().clone();
        assert_eq!(table.clone().add_certificate(days(3), other, None), Ok(Added::Renewed));
        assert_eq!(table.add_revocation(revocation(target, 0)), ends(&[3]), "stronger");
    }
}

#[test]
fn only_roots_and_operators_revoke() {
    let mut table = table([1, 2]);
    let target = RevocationTarget::Member(id(2));
    let by_member =
        |n: u8| identity(n).sign(unsigned_revocation(target, 0, Issuer::Member(id(n), Serial(0)))).unwrap();
    assert_eq!(table.add_revocation(by_member(1)), Err(RevocationError::NotOperator));
    assert_eq!(table.add_revocation(by_member(8)), Err(RevocationError::UnknownIssuer));
    let operator = Request { roles: Roles::OPERATOR, ..request(8) };
    let operator = issue_root(table.trust(), START, operator).signed().clone();
    table.add_certificate(START, operator, None).unwrap();
    let issuer = Issuer::Member(id(8), Serial(0));
    let forged = identity(1).sign(unsigned_revocation(target, 0, issuer)).unwrap();
    assert_eq!(table.add_revocation(forged), Err(RevocationError::BadSignature));
    let by_unknown = unsigned_revocation(target, 0, Issuer::Root([0; 8]));
    assert_eq!(table.add_revocation(root(1).sign(by_unknown).unwrap()), Err(RevocationError::UnknownRoot));
    let foreign = Revocation {
        mesh: MeshId([9; 16]),
        ..unsigned_revocation(target, 0, Issuer::Root(root(1).key_id()))
    };
    assert_eq!(table.add_revocation(root(1).sign(foreign).unwrap()), Err(RevocationError::WrongMesh));
    assert_eq!(table.revocations().digest(), [0; 8]);
    assert_eq!(table.add_revocation(by_member(8)), ends(&[2]));
}

/// Whom one of a circle has revoked outside of it is not of the circle, and is back when that one falls.
#[test]
fn who_is_accused_from_within_a_circle_does_not_fall_with_it() {
    let mut table = with_operators();
    for (by, whom) in [(6, 1), (5, 6), (4, 5), (5, 4)] {
        let _ = table.add_revocation(by_operator(by, whom, 5));
    }
    assert_eq!(out(&table), [1, 4, 5]);
    // Before circles are looked at, the word of those counts whom nobody accuses.
    table.add_revocation(by_operator(7, 4, 5)).unwrap();
    assert_eq!(out(&table), [4, 6]);
}

/// 6 accuses 4 when 4, by revoking its accusers, had brought it back: of no force itself, that shows the circle, in which 6 falls.
#[test]
fn a_revocation_without_force_that_closes_a_circle_changes_who_is_out() {
    let mut table = with_operators();
    for (by, whom) in [(7, 6), (5, 6), (4, 5), (4, 7)] {
        table.add_revocation(by_operator(by, whom, 5)).unwrap();
    }
    assert_eq!(out(&table), [5, 7]);
    assert_eq!(table.add_revocation(by_operator(6, 4, 5)), ends(&[6]));
    assert_eq!(out(&table), [5, 6, 7]);
    // Once more is no news.
    assert_eq!(table.add_revocation(by_operator(6, 4, 5)), Err(RevocationError::SignerRevoked));
}

/// 7 accuses 5, of which it is accused. Of no force itself, that shows the circle: who is out stays the same, by fewer words.
#[test]
fn a_revocation_without_force_that_ends_the_force_of_another_is_news() {
    let mut table = with_operators();
    for (by, whom) in [(5, 7), (6, 7), (5, 6)] {
        let _ = table.add_revocation(by_operator(by, whom, 5));
    }
    assert_eq!(out(&table), [6, 7]);
    let words = |table: &Membership| table.revocations().iter().cloned().collect::<Vec<_>>();
    let before = words(&table);
    assert_eq!(table.add_revocation(by_operator(7, 5, 5)), ends(&[]));
    assert_eq!(out(&table), [6, 7]);
    assert_ne!(words(&table), before);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(96))]
    #[test]
    fn tables_agree_about_operators_that_revoke_each_other_in_any_order(
        revocations in proptest::collection::vec((3u8..8, 1u8..8), 0..14),
        seed in any::<u64>(),
    ) {
        let give = |table: &mut Membership, (by, whom): (u8, u8)| {
            let signed = if by == 3 { by_root(whom) } else { by_operator(by, whom, 5) };
            let _ = table.add_revocation(signed);
        };
        let mut shuffled: Vec<_> = revocations.iter().enumerate().collect();
        shuffled.sort_by_key(|(i, _)| (*i as u64 + 1).wrapping_mul(seed | 1).rotate_left(17));
        let (mut a, mut b) = (with_operators(), with_operators());
        revocations.iter().for_each(|one| give(&mut a, *one));
        shuffled.iter().for_each(|(_, one)| give(&mut b, **one));
        prop_assert_eq!(out(&a), out(&b));
        prop_assert_eq!(a.revocations().digest(), b.revocations().digest());
        prop_assert_eq!(a.revocations().summary(), b.revocations().summary());
        prop_assert!(a.revocations().iter().eq(b.revocations().iter()));
        // Nobody who is out by another's word, and in no circle, revokes; and the root always does.
        for revoked in a.revocations().iter() {
            if let Issuer::Member(by, _) = revoked.body().issuer {
                let by_roots = a.revocations().iter().any(|one| {
                    one.body().target == RevocationTarget::Member(by) && matches!(one.body().issuer, Issuer::Root(_))
                });
                prop_assert!(!by_roots);
            }
        }
        for (_, whom) in revocations.iter().filter(|(by, _)| *by == 3) {
            prop_assert!(a.revocations().has_member(id(*whom)));
        }
    }

    #[test]
    fn the_set_and_its_digest_do_not_depend_on_order_or_repetition(
        revocations in proptest::collection::vec((0u8..6, 0u64..4), 0..12),
        seed in any::<u64>(),
    ) {
        let trust = trust();
        let target = |n: u8| match n % 3 {
            0 => RevocationTarget::Member(id(n)),
            1 => RevocationTarget::Serial(Serial(u64::from(n))),
            _ => RevocationTarget::Key(identity(n).public()),
        };
        let mut a = RevocationSet::new();
        for (n, cutoff_s) in &revocations {
            a.insert(&trust, None, revocation(target(*n), *cutoff_s)).unwrap();
        }
        let mut shuffled = [revocations.clone(), revocations].concat();
        shuffled.sort_by_key(|(n, cutoff)| (u64::from(*n) << 8 | cutoff).wrapping_add(1).wrapping_mul(seed | 1));
        let mut b = RevocationSet::new();
        for (n, cutoff_s) in &shuffled {
            b.insert(&trust, None, revocation(target(*n), *cutoff_s)).unwrap();
        }
        prop_assert_eq!(a.digest(), b.digest());
        prop_assert!(a.iter().eq(b.iter()));
        let mut less = RevocationSet::new();
        for revocation in a.iter().skip(1) {
            less.insert(&trust, None, revocation.clone()).unwrap();
        }
        prop_assert_eq!(less.digest() == a.digest(), a.is_empty());
    }
}
