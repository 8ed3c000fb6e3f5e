use super::*;

#[test]
fn the_highest_serial_counts_for_a_member() {
    let trust = trust();
    let mut table = table([1]);
    let old = table.get(id(1)).unwrap().certificate().signed().clone();
    let new = issue_root(&trust, days(1), Request { name: name("renamed"), ..request(1) }).signed().clone();
    assert_eq!(table.add_certificate(days(1), old.clone(), None), Ok(Added::Known));
    assert_eq!(table.add_certificate(days(1), new, None), Ok(Added::Renewed));
    assert_eq!(table.add_certificate(days(1), old, None), Ok(Added::Older));
    assert_eq!(table.with_name(days(1), &name("renamed")), Some(id(1)));
    assert_eq!(table.with_name(days(1), &name("node1")), None);
    let serial = table.get(id(1)).unwrap().certificate().body().serial;
    let twin = altered(&trust, 1, |c| c.serial = serial);
    assert_eq!(table.add_certificate(days(1), twin, None), Err(AddError::Conflict(serial)));
}

#[test]
fn a_certificate_by_an_issuer_needs_the_issuers_own_here_or_along() {
    let mut table = table([]);
    let trust = table.trust().clone();
    let by = issuer(&trust);
    let leaf = issue_home(&trust, START, &by, home_request(3)).unwrap().signed().clone();
    let missing = Err(AddError::Certificate(CertificateError::UnknownIssuer));
    assert_eq!(table.add_certificate(START, leaf.clone(), None), missing);
    let wrong = issue_root(&trust, START, request(4)).signed().clone();
    assert_eq!(table.add_certificate(START, leaf.clone(), Some(wrong)), missing);
    let forged = Signed::sign_with(by.body().clone(), |_| [0; 64]).unwrap();
    assert!(table.add_certificate(START, leaf.clone(), Some(forged)).is_err());
    assert_eq!(table.add_certificate(START, leaf, Some(by.signed().clone())), Ok(Added::New));
    assert_eq!(table.len(), 1, "the issuer's own certificate is looked at, not taken in");
}

#[test]
fn rights_end_with_time_and_nothing_is_forgotten() {
    let table = table([1]);
    let address = ip("10.99.0.1");
    for (day, honoured) in [(0, true), (89, true), (95, true), (110, false)] {
        let wall = days(day);
        assert_eq!(table.is_honoured(wall, id(1)), honoured);
        assert_eq!(table.may_use(wall, id(1), &address), honoured);
        assert_eq!(table.may_announce(wall, id(1), &net("192.168.7.0/24")), honoured);
        assert_eq!(table.addresses(wall, id(1)).len(), if honoured { 2 } else { 0 });
        assert_eq!(table.with_name(wall, &name("node1")).is_some(), honoured);
    }
    assert_eq!(table.validity(days(95), id(1)), Some(Validity::Grace));
    assert_eq!(table.validity(days(95), id(2)), None);
    assert!(!table.is_honoured(days(0), id(2)));
    assert_eq!(table.len(), 1);
    let change = table.next_change(days(1)).unwrap();
    assert!(change > days(89) && change < days(91));
    assert_eq!(table.next_change(days(200)), None);
}

#[test]
fn prefixes_are_announced_within_certified_ones_only() {
    let table = table([1]);
    let may = |prefix: &str| table.may_announce(START, id(1), &net(prefix));
    assert!(may("192.168.0.0/16") && may("192.168.255.255/32"));
    assert!(!may("192.0.0.0/8") && !may("0.0.0.0/0") && !may("10.99.0.1/32") && !may("::/0"));
}

#[test]
fn of_two_claims_to_an_address_or_name_the_same_one_wins_everywhere() {
    let trust = trust();
    let by = issuer(&trust);
    let clashing =
        |n: u8| Request { name: name("x-home"), addresses: vec![ip("10.99.8.9")], ..home_request(n) };
    let by_root = issue_root(&trust, START, clashing(1));
    let by_issuer = [2, 3].map(|n| issue_home(&trust, START, &by, clashing(n)).unwrap());
    let all = [by, by_root, by_issuer[0].clone(), by_issuer[1].clone()];
    let mut outcomes = BTreeSet::new();
    for order in [[0, 1, 2, 3], [0, 3, 2, 1], [0, 2, 1, 3], [0, 3, 1, 2]] {
        let mut table = Membership::new(trust.clone());
        for i in order {
            table.add_certificate(START, all[i].signed().clone(), None).unwrap();
        }
        assert_eq!(table.owner(START, &ip("10.99.8.9")), Some(id(1)), "a root's word counts more");
        assert_eq!(table.clashes(START).len(), 4);
        assert_eq!(table.addresses(START, id(2)), [IpAddr::V6(member_address6(trust.mesh(), id(2)))]);
        assert!(!table.may_use(START, id(3), &ip("10.99.8.9")));
        table.add_revocation(revocation(RevocationTarget::Member(id(1)), 0)).unwrap();
        assert_eq!(table.clashes(START).len(), 2);
        outcomes.insert((table.owner(START, &ip("10.99.8.9")), table.with_name(START, &name("x-home"))));
    }
    let lower = id(2).min(id(3));
    assert_eq!(outcomes, BTreeSet::from([(Some(lower), Some(lower))]));
}

#[test]
fn an_authority_rotation_keeps_who_is_reissued_and_drops_the_rest() {
    let mut table = table([1, 2]);
    let by = issuer(table.trust());
    table.add_certificate(START, by.signed().clone(), None).unwrap();
    let leaf = issue_home(table.trust(), START, &by, home_request(3)).unwrap();
    table.add_certificate(START, leaf.signed().clone(), None).unwrap();

    let (old, new) = (root(1), root(2));
    let both = succeed(table.trust(), &[&old], 1, |b| b.roots.push(new.public())).unwrap();
    assert_eq!(table.add_bundle(both.clone()), Ok(true));
    assert_eq!(table.add_bundle(both), Ok(false));
    assert_eq!(table.unsupported(), []);
    let previous = table.get(id(1)).map(|member| member.certificate().body().serial);
    let reissued = issue(days(1), table.trust(), &Signer::Root(&new), request(1), previous, 0).unwrap();
    assert_eq!(table.add_certificate(days(1), reissued.signed().clone(), None), Ok(Added::Renewed));
    let only_new = succeed(table.trust(), &[&old, &new], 2, |b| b.roots = vec![new.public()]).unwrap();
    assert_eq!(table.add_bundle(only_new), Ok(true));
    let without = BTreeSet::from([id(2), id(3), id(50)]);
    assert_eq!(BTreeSet::from_iter(table.unsupported()), without);
    // They stay for a while, but nothing new by the old root gets in, not even through an issuer of its making.
    let late = issue_root(&trust(), days(2), request(4)).signed().clone();
    let refused = Err(AddError::Certificate(CertificateError::UnknownRoot));
    assert_eq!(table.add_certificate(days(2), late, None), refused);
    let leaf = issue_home(&trust(), days(2), &by, home_request(5)).unwrap();
    let with_issuer = table.add_certificate(days(2), leaf.signed().clone(), Some(by.signed().clone()));
    assert_eq!(with_issuer, refused);
    let no_issuer = Err(AddError::Certificate(CertificateError::UnknownIssuer));
    assert_eq!(table.add_certificate(days(2), leaf.signed().clone(), None), no_issuer);
    assert_eq!(table.len(), 4);
    assert_eq!(BTreeSet::from_iter(table.drop_unsupported(id(9))), without);
    assert_eq!(table.iter().map(|(id, _)| id).collect::<Vec<_>>(), [id(1)]);
    let stale = issue_root(&trust(), days(2), request(2)).signed().clone();
    assert_eq!(table.add_certificate(days(2), stale, None), refused);
}

#[test]
fn a_full_table_takes_a_member_in_only_for_an_expired_one() {
    let mut table = table([]);
    let trust = table.trust().clone();
    let issue = |n: u32, wall: UnixMs| {
        let mut seed = [7; 32];
        seed[..4].copy_from_slice(&n.to_be_bytes());
        let identity = IdentitySecret::from_bytes(&seed).public();
        let request = Request { identity, addresses: Vec::new(), lifetime_s: DAY_S, ..request(1) };
        issue_root(&trust, wall, request).signed().clone()
    };
    let add = |table: &mut Membership, n, wall| table.add_certificate(wall, issue(n, wall), None);
    let keep = |table: &mut Membership, n, wall| table.keep_certificate(wall, issue(n, wall), None);
    for n in 0..MAX_MEMBERS as u32 {
        assert_eq!(add(&mut table, n, START), Ok(Added::New));
    }
    assert_eq!(add(&mut table, 100_000, START), Err(AddError::Full));
    assert_eq!(keep(&mut table, 100_000, START), Err(AddError::Full));
    assert_eq!(add(&mut table, 0, days(1)), Ok(Added::Renewed));
    assert_eq!(keep(&mut table, 1, days(1)), Ok(Added::Renewed));
    assert_eq!(add(&mut table, 100_000, days(16)), Ok(Added::New));
    assert_eq!(keep(&mut table, 100_001, days(16)), Ok(Added::New));
    assert_eq!(table.len(), MAX_MEMBERS);
}

/// Certificates by the root and by an issuer, their renewals, and revocations.
#[derive(Clone, Debug)]
enum Object {
    ByRoot(u8, u64),
    ByIssuer(u8, u64),
    Epoch(u8, u32),
    Revoke(u8),
}

fn object() -> impl Strategy<Value = Object> {
    prop_oneof![
        4 => (1u8..6, 0u64..4).prop_map(|(n, day)| Object::ByRoot(n, day)),
        4 => (1u8..6, 0u64..4).prop_map(|(n, day)| Object::ByIssuer(n, day)),
        4 => (1u8..6, 0u32..3).prop_map(|(n, number)| Object::Epoch(n, number)),
        1 => (1u8..6).prop_map(Object::Revoke),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]
    #[test]
    fn tables_agree_whatever_the_order_in_which_objects_arrive(
        objects in proptest::collection::vec(object(), 1..12),
        seed in any::<u64>(),
    ) {
        let trust = trust();
        let by = issuer(&trust);
        let give = |table: &mut Membership, object: &Object| match object {
            // Members 1 and 2 clash over an address, 3 and 4 over a name.
            Object::ByRoot(n, day) => {
                let address = ip(if *n < 3 { "10.99.8.1" } else { "10.99.8.7" });
                let named = name(if *n < 3 { "one-home" } else { "two-home" });
                let request = Request { addresses: vec![address], name: named, ..home_request(*n) };
                let certificate = issue_root(&trust, days(*day), request);
                let _ = table.add_certificate(START, certificate.signed().clone(), None);
            }
            Object::ByIssuer(n, day) => {
                let certificate = issue_home(&trust, days(*day), &by, home_request(*n)).unwrap();
                let issuer = Some(by.signed().clone());
                let _ = table.add_certificate(START, certificate.signed().clone(), issuer);
            }
            Object::Epoch(n, number) => drop(table.add_key_epoch(epoch(*n, *number, n * 10 + *number as u8))),
            Object::Revoke(n) => {
                table.add_revocation(revocation(RevocationTarget::Member(id(*n)), 0)).unwrap();
            }
        };
        let mut shuffled: Vec<_> = objects.iter().enumerate().collect();
        shuffled.sort_by_key(|(i, _)| (*i as u64 + 1).wrapping_mul(seed | 1));
        let mut a = Membership::new(trust.clone());
        let mut b = Membership::new(trust.clone());
        // Whatever was refused for want of a certificate is asked for again.
        for _ in 0..2 {
            objects.iter().for_each(|object| give(&mut a, object));
            shuffled.iter().for_each(|(_, object)| give(&mut b, object));
        }
        prop_assert!(a.iter().eq(b.iter()));
        prop_assert_eq!(a.clashes(days(2)), b.clashes(days(2)));
        prop_assert_eq!(a.revocations().digest(), b.revocations().digest());
        for (id, _) in a.iter() {
            prop_assert_eq!(a.addresses(days(2), id), b.addresses(days(2), id));
        }
    }
}
