use super::*;

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
        assert_eq!(table.add_revocation(revocation(target, 0)), Ok(Some(vec![id(1)])));
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
        let ended = table.add_revocation(revocation(target, days(2).seconds())).unwrap().unwrap();
        assert_eq!(BTreeSet::from_iter(ended), BTreeSet::from([id(50), id(4)]));
        assert_eq!(table.add_revocation(revocation(target, days(3).seconds())), Ok(None), "weaker");
        let ended = table.add_revocation(revocation(target, 0)).unwrap();
        assert_eq!(ended, Some(vec![id(3)]), "stronger");
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
    assert_eq!(table.add_revocation(by_member(8)), Ok(Some(vec![id(2)])));
}

proptest! {
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
