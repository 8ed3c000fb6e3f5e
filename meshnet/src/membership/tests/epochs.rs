use super::*;

#[test]
fn the_three_newest_epochs_of_a_member_are_kept() {
    let mut table = table([1]);
    for (number, expected) in [(5, Ok(true)), (5, Ok(false)), (7, Ok(true)), (6, Ok(true)), (8, Ok(true))] {
        assert_eq!(table.add_key_epoch(epoch(1, number, number as u8)), expected, "{number}");
    }
    assert_eq!(table.add_key_epoch(epoch(1, 5, 5)), Err(EpochError::Old(KeyEpochNumber(5))));
    let numbers: Vec<_> = table.get(id(1)).unwrap().epochs().iter().map(|e| e.body().number.0).collect();
    assert_eq!(numbers, [6, 7, 8]);
    assert_eq!(table.with_key(&TransportKey([8; 32])), Some((id(1), KeyEpochNumber(8))));
    assert_eq!(table.with_key(&TransportKey([5; 32])), None);
}

#[test]
fn an_epoch_is_of_its_mesh_and_signed_by_its_member() {
    let mut table = table([1, 2]);
    let signed_by_2 = identity(2).sign_key_epoch(epoch(1, 5, 5).body().clone()).unwrap();
    assert_eq!(table.add_key_epoch(signed_by_2), Err(EpochError::BadSignature));
    assert_eq!(table.add_key_epoch(epoch(3, 5, 5)), Err(EpochError::UnknownMember));
    let foreign = KeyEpoch { mesh: MeshId([9; 16]), ..epoch(1, 5, 5).body().clone() };
    let foreign = identity(1).sign_key_epoch(foreign).unwrap();
    assert_eq!(table.add_key_epoch(foreign), Err(EpochError::WrongMesh));
    assert!(table.get(id(1)).unwrap().epochs().newest().is_none());
}

#[test]
fn the_same_number_with_another_key_is_an_alarm_only_if_the_member_signed_it() {
    let mut table = table([1, 2]);
    table.add_key_epoch(epoch(1, 5, 5)).unwrap();
    assert_eq!(table.add_key_epoch(epoch(1, 5, 6)), Err(EpochError::Conflict(KeyEpochNumber(5))));
    let forged = identity(2).sign_key_epoch(epoch(1, 5, 6).body().clone()).unwrap();
    assert_eq!(table.add_key_epoch(forged), Err(EpochError::BadSignature));
    assert_eq!(table.with_key(&TransportKey([5; 32])), Some((id(1), KeyEpochNumber(5))));
}

#[test]
fn nobody_takes_over_a_key_by_signing_it_as_its_own() {
    let mut table = table([1, 2]);
    table.add_key_epoch(epoch(1, 5, 5)).unwrap();
    assert_eq!(table.add_key_epoch(epoch(2, 1, 5)), Err(EpochError::KeyTaken(KeyEpochNumber(1))));
    assert_eq!(table.with_key(&TransportKey([5; 32])), Some((id(1), KeyEpochNumber(5))));
}

#[test]
fn epochs_survive_the_renewal_of_the_certificate_but_not_the_end_of_membership() {
    let mut table = table([1]);
    table.add_key_epoch(epoch(1, 5, 5)).unwrap();
    let renewed = issue_root(table.trust(), days(60), request(1));
    assert_eq!(table.add_certificate(days(60), renewed.signed().clone(), None), Ok(Added::Renewed));
    assert!(table.with_key(&TransportKey([5; 32])).is_some());
    table.add_revocation(revocation(RevocationTarget::Member(id(1)), 0)).unwrap();
    assert_eq!(table.with_key(&TransportKey([5; 32])), None);
}

#[test]
fn the_proof_of_an_identity_is_bound_to_one_join() {
    let proof = identity(1).sign_join(&[1; 32]);
    assert_eq!(verify_join(&identity(1).public(), &[1; 32], &proof), Ok(()));
    assert_eq!(verify_join(&identity(1).public(), &[2; 32], &proof), Err(BadSignature));
    assert_eq!(verify_join(&identity(2).public(), &[1; 32], &proof), Err(BadSignature));
}

#[test]
fn keys_that_accept_any_signature_are_refused() {
    // The neutral element as a key: with cofactored, loose verification R = S·B holds for any message.
    let mut weak = [0; 32];
    weak[0] = 1;
    let mut signature = [0; 64];
    signature[0] = 1;
    assert_eq!(verify_join(&proto::id::IdentityKey(weak), &[1; 32], &signature), Err(BadSignature));
}

#[test]
fn a_key_that_its_member_has_retired_opens_nothing_any_more() {
    let mut table = table([1]);
    for number in [5, 6] {
        table.add_key_epoch(epoch(1, number, number as u8)).unwrap();
    }
    assert!(table.retire_key_epochs(id(1), KeyEpochNumber(6)));
    assert!(!table.retire_key_epochs(id(1), KeyEpochNumber(6)), "no news");
    assert!(!table.retire_key_epochs(id(1), KeyEpochNumber(5)), "never back");
    assert_eq!(table.with_key(&TransportKey([5; 32])), None);
    assert_eq!(table.get(id(1)).unwrap().epochs().with_key(&TransportKey([5; 32])), None);
    assert_eq!(table.with_key(&TransportKey([6; 32])), Some((id(1), KeyEpochNumber(6))));
    // Whoever has stolen the old key and shows it again is refused.
    assert_eq!(table.add_key_epoch(epoch(1, 5, 5)), Err(EpochError::Old(KeyEpochNumber(5))));
    assert_eq!(table.with_key(&TransportKey([5; 32])), None);
}

#[test]
fn the_newest_known_epoch_stays_for_asking_even_if_it_is_retired() {
    let mut table = table([1]);
    table.add_key_epoch(epoch(1, 5, 5)).unwrap();
    table.retire_key_epochs(id(1), KeyEpochNumber(9));
    let newest = |table: &Membership| table.get(id(1)).unwrap().epochs().newest().unwrap().body().number;
    assert_eq!(newest(&table), KeyEpochNumber(5));
    assert_eq!(table.with_key(&TransportKey([5; 32])), None);
    table.add_key_epoch(epoch(1, 9, 9)).unwrap();
    assert_eq!(newest(&table), KeyEpochNumber(9));
    assert_eq!(table.get(id(1)).unwrap().epochs().iter().count(), 1);
    assert_eq!(table.with_key(&TransportKey([9; 32])), Some((id(1), KeyEpochNumber(9))));
}
