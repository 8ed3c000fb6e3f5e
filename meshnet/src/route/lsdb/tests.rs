use std::collections::BTreeMap;
use std::time::Duration;

use proptest::prelude::*;
use proto::id::{BootEpoch, KeyEpochNumber, MemberId, MeshId, Seq, Serial};
use proto::record::{Link, Record};
use proto::signed::Signed;

use super::*;
use crate::time::{Now, UnixMs};

const MESH: MeshId = MeshId([1; 16]);

fn member(n: u8) -> MemberId {
    MemberId([n; 16])
}

fn at(seconds: u64) -> Now {
    Now { mono: Mono(seconds * 1_000_000), wall: UnixMs(seconds * 1000) }
}

fn content(links: &[(u8, u32)]) -> Record {
    Record {
        mesh: MESH,
        member: member(0),
        boot: BootEpoch(0),
        seq: Seq(0),
        created_s: 0,
        certificate: Serial(1),
        key_epoch: KeyEpochNumber(1),
        candidates: Vec::new(),
        subnets: Vec::new(),
        datacenter: None,
        relays: false,
        links: links.iter().map(|(n, cost_us)| Link { member: member(*n), cost_us: *cost_us }).collect(),
        floor: None,
        confirms: Vec::new(),
        short_confirms: Vec::new(),
        bundle: None,
        plan: None,
    }
}

/// Content that differs from that of every other number.
fn saying(number: u64) -> Record {
    Record { certificate: Serial(number), ..content(&[]) }
}

fn record(origin: u8, boot: u64, seq: u64) -> Record {
    Record { member: member(origin), boot: BootEpoch(boot), seq: Seq(seq), ..content(&[]) }
}

/// Stands for a signature: the origin's id over and over. Real ones are the caller's business.
fn sign(record: Record) -> Result<Signed<Record>, proto::Error> {
    let by = record.member.0[0];
    Signed::sign_with(record, |_| [by; 64])
}

fn signed(record: Record) -> Signed<Record> {
    sign(record).unwrap()
}

fn forge(record: Record) -> Signed<Record> {
    Signed::sign_with(record, |_| [0xff; 64]).unwrap()
}

fn check(record: &Signed<Record>) -> Verdict {
    let genuine = *record.signature() == [record.body().member.0[0]; 64];
    if genuine { Verdict::Genuine } else { Verdict::Forged }
}

fn lsdb(me: u8) -> Lsdb {
    Lsdb::new(MESH, member(me), BootEpoch(1))
}

fn versions(lsdb: &Lsdb) -> BTreeMap<MemberId, Version> {
    lsdb.iter().map(|(member, entry)| (member, entry.version())).collect()
}

#[test]
fn the_newest_boot_then_sequence_wins() {
    let mut db = lsdb(1);
    let now = at(0).mono;
    assert_eq!(db.insert(now, signed(record(2, 1, 5)), check), Inserted::Newer);
    assert_eq!(db.insert(now, signed(record(2, 1, 5)), check), Inserted::Known);
    assert_eq!(db.insert(now, signed(record(2, 1, 4)), check), Inserted::Older);
    assert_eq!(db.insert(now, signed(record(2, 2, 0)), check), Inserted::Newer);
    assert_eq!(db.insert(now, signed(record(2, 1, 9)), check), Inserted::Older);
    let expected = LsdbStats { newer: 2, known: 1, older: 2, ..LsdbStats::default() };
    assert_eq!(db.stats(), expected);
}

#[test]
fn a_signature_is_looked_at_last_and_only_where_it_matters() {
    let mut db = lsdb(1);
    let now = at(0).mono;
    let never = |_: &Signed<Record>| -> Verdict { panic!("verified for nothing") };
    db.insert(now, signed(record(2, 1, 5)), check);
    assert_eq!(db.insert(now, signed(record(2, 1, 5)), never), Inserted::Known);
    assert_eq!(db.insert(now, forge(record(2, 1, 4)), never), Inserted::Older);
    let foreign = Record { mesh: MeshId([9; 16]), ..record(2, 1, 6) };
    assert_eq!(db.insert(now, signed(foreign), never), Inserted::Refused(Refusal::WrongMesh));
    assert_eq!(db.insert(now, forge(record(2, 9, 9)), check), Inserted::Refused(Refusal::Forged));
    let unknown = |_: &Signed<Record>| Verdict::UnknownOrigin;
    assert_eq!(db.insert(now, signed(record(3, 1, 1)), unknown), Inserted::Refused(Refusal::UnknownOrigin));
    assert_eq!(versions(&db).len(), 1);
    assert_eq!(db.get(member(2)).unwrap().version(), Version { boot: BootEpoch(1), seq: Seq(5) });
}

#[test]
fn two_records_of_one_version_are_an_alarm_and_the_first_stays() {
    let mut db = lsdb(1);
    let now = at(0).mono;
    let other = Record { relays: true, ..record(2, 1, 5) };
    db.insert(now, signed(record(2, 1, 5)), check);
    assert_eq!(db.insert(now, forge(other.clone()), check), Inserted::Refused(Refusal::Forged));
    assert_eq!(db.insert(now, signed(other), check), Inserted::Conflict);
    assert!(!db.get(member(2)).unwrap().record().relays);
    assert_eq!(db.stats().conflicts, 1);
}

#[test]
fn forged_records_do_not_use_up_the_rate_of_their_alleged_origin() {
    let mut db = lsdb(1);
    let now = at(0).mono;
    for seq in 0..1000 {
        assert_eq!(db.insert(now, forge(record(2, 1, seq)), check), Inserted::Refused(Refusal::Forged));
    }
    assert_eq!(db.insert(now, signed(record(2, 1, 1)), check), Inserted::Newer);
}

#[test]
fn an_origin_that_changes_its_record_all_the_time_is_slowed_down() {
    let mut db = lsdb(1);
    let accepted = |db: &mut Lsdb, now: Mono, from: u64| {
        (from..from + 100)
            .filter(|seq| db.insert(now, signed(record(2, 1, *seq)), check) == Inserted::Newer)
            .count()
    };
    assert_eq!(accepted(&mut db, at(0).mono, 0), 16);
    assert_eq!(accepted(&mut db, at(1).mono, 100), 2);
    assert_eq!(accepted(&mut db, at(100).mono, 200), 16);
    assert_eq!(db.stats().too_fast, 300 - 34);
}

#[test]
fn the_database_is_bounded_and_the_own_record_always_has_room() {
    let mut db = lsdb(1);
    let id = |n: usize| MemberId(((n as u128) << 64).to_be_bytes());
    for n in 0..MAX_RECORDS + 10 {
        db.insert(at(0).mono, forge(Record { member: id(n + 1), ..content(&[]) }), |_| Verdict::Genuine);
    }
    assert_eq!((db.len(), db.stats().full), (MAX_RECORDS, 10));
    assert_eq!(db.author(at(0), content(&[]), sign), Authored::New);
    let newer = Record { member: id(1), seq: Seq(1), ..content(&[]) };
    assert_eq!(db.insert(at(0).mono, forge(newer), |_| Verdict::Genuine), Inserted::Newer);
    assert!(db.remove(id(5)));
    assert!(!db.remove(id(5)));
    assert_eq!(db.len(), MAX_RECORDS);
}

#[test]
fn the_own_record_changes_with_its_content_and_with_time_only() {
    let mut db = lsdb(1);
    assert_eq!(db.poll_timeout(), None);
    assert_eq!(db.author(at(0), content(&[(2, 10_000)]), sign), Authored::New);
    assert_eq!(db.author(at(1), content(&[(2, 10_000)]), sign), Authored::Unchanged);
    assert_eq!(db.author(at(2), content(&[(2, 12_400)]), sign), Authored::Unchanged, "within a quarter");
    assert_eq!(db.author(at(3), content(&[(2, 12_600)]), sign), Authored::New);
    assert_eq!(db.author(at(3), content(&[]), sign), Authored::New);
    assert_eq!(db.poll_timeout(), Some(at(3 + 1200).mono));
    assert_eq!(db.author(at(3 + 1199), content(&[]), sign), Authored::Unchanged);
    assert_eq!(db.author(at(3 + 1200), content(&[]), sign), Authored::New);
    let own = db.get(member(1)).unwrap();
    assert_eq!(own.version(), Version { boot: BootEpoch(1), seq: Seq(3) });
    assert_eq!((own.record().member, own.record().created_s), (member(1), 1203));
}

#[test]
fn own_changes_are_held_back_to_what_others_accept_and_none_is_lost() {
    let (mut db, mut peer) = (lsdb(1), lsdb(2));
    let mut later = 0;
    for tenth in 0..600 {
        let now = Now { mono: Mono(tenth * 100_000), wall: UnixMs(0) };
        match db.author(now, saying(tenth), sign) {
            Authored::New => {
                let own = db.get(member(1)).unwrap().signed().clone();
                assert_eq!(peer.insert(now.mono, own, check), Inserted::Newer);
            }
            Authored::Later => {
                later += 1;
                let due = db.poll_timeout().unwrap();
                assert!(due > now.mono && due <= now.mono + Duration::from_secs(1));
            }
            other => panic!("{other:?}"),
        }
    }
    assert!(later > 500);
    assert_eq!(db.author(at(62), saying(599), sign), Authored::New);
}

#[test]
fn a_node_that_lost_its_state_exceeds_what_others_hold_of_it() {
    let mut db = lsdb(1);
    assert_eq!(db.author(at(0), content(&[]), sign), Authored::New);
    assert_eq!(db.insert(at(1).mono, forge(record(1, 8, 3)), check), Inserted::Refused(Refusal::Forged));
    assert_eq!(db.author(at(1), content(&[]), sign), Authored::Unchanged);
    assert_eq!(db.insert(at(1).mono, signed(record(1, 8, 3)), check), Inserted::OwnSuperseded);
    assert_eq!(db.author(at(1), content(&[]), sign), Authored::New);
    assert_eq!(db.get(member(1)).unwrap().version(), Version { boot: BootEpoch(8), seq: Seq(4) });
    assert_eq!(db.author(at(1), content(&[]), sign), Authored::Unchanged);

    let clone = Record { relays: true, ..record(1, 8, 4) };
    assert_eq!(db.insert(at(2).mono, signed(clone), check), Inserted::Conflict);
    assert_eq!(db.author(at(2), content(&[]), sign), Authored::New);
    assert_eq!(db.get(member(1)).unwrap().version(), Version { boot: BootEpoch(8), seq: Seq(5) });

    assert_eq!(db.insert(at(3).mono, signed(record(1, 8, u64::MAX)), check), Inserted::OwnSuperseded);
    assert_eq!(db.author(at(3), content(&[]), sign), Authored::New);
    assert_eq!(db.get(member(1)).unwrap().version(), Version { boot: BootEpoch(9), seq: Seq(0) });
}

#[test]
fn a_record_turns_stale_but_stays_and_stale_ones_do_not_come_back_to_life() {
    let mut db = lsdb(1);
    db.insert(at(0).mono, signed(record(2, 1, 0)), check);
    assert_eq!(db.poll_timeout(), Some(at(3600).mono));
    assert_eq!(db.live(at(3599).mono).count(), 1);
    assert_eq!(db.live(at(3600).mono).count(), 0);
    assert!(db.note_time(at(3600).mono));
    assert_eq!(db.insert(at(3601).mono, signed(record(2, 1, 0)), check), Inserted::Known);
    assert_eq!(db.live(at(3601).mono).count(), 0);
    assert_eq!((db.len(), db.poll_timeout()), (1, None));
    db.insert(at(3602).mono, signed(record(2, 1, 1)), check);
    assert_eq!(db.live(at(3603).mono).count(), 1);
}

#[test]
fn parts_of_a_bucket_overlap_by_one_and_cover_it_all() {
    let mut db = lsdb(1);
    for n in 0..100u8 {
        // Equal last two bytes fold away, so all are in one bucket.
        let mut id = [0; 16];
        (id[14], id[15]) = (n, n);
        db.insert(at(0).mono, forge(Record { member: MemberId(id), ..content(&[]) }), |_| Verdict::Genuine);
    }
    let parts = db.versions(0);
    assert_eq!(parts.len(), 4);
    assert!(parts.windows(2).all(|pair| pair[0].versions.last() == pair[1].versions.first()));
    assert!(parts.iter().take(3).all(|part| part.more && part.versions.len() == VERSIONS_PER_PART));
    assert!(!parts[3].more);
    assert_eq!(db.versions(1), [Part { bucket: 1, part: 0, more: false, versions: Vec::new() }]);

    let mut empty = lsdb(2);
    let wanted: usize = parts.iter().map(|part| empty.compare(part).want.len()).sum();
    assert_eq!(wanted, 100 + 3);
    assert_eq!(db.compare(&empty.versions(0)[0]).send.len(), 100);
}

#[test]
fn lists_that_are_no_valid_part_are_counted_and_ignored() {
    let mut db = lsdb(1);
    db.insert(at(0).mono, signed(record(2, 1, 0)), check);
    let listed = |n: u8| (member(n), BootEpoch(1), Seq(0));
    let part = |bucket, part, versions| Part { bucket, part, more: false, versions };
    let bad = [
        part(16, 0, Vec::new()),
        part(0, 1, Vec::new()),
        part(1, 0, vec![listed(2)]),
        part(0, 0, vec![listed(4), listed(3)]),
        part(0, 0, vec![listed(3), listed(3)]),
    ];
    for part in &bad {
        assert_eq!(db.compare(part), Difference::default());
    }
    assert_eq!(db.stats().bad_parts, bad.len() as u64);
}

/// Five nodes that gossip over a lossy, reordering, duplicating network, and one origin's records forged by another.
#[derive(Clone, Debug)]
enum Step {
    Author(u8),
    /// Everything that one node has goes to another, except what falls out by the pattern of bits.
    Flood(u8, u8, u16),
    /// One round of comparison, of which messages may be lost.
    Compare(u8, u8, u16),
    Forge(u8, u8),
    Restart(u8),
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let node = || 1u8..6;
    let step = prop_oneof![
        3 => node().prop_map(Step::Author),
        3 => (node(), node(), any::<u16>()).prop_map(|(a, b, lost)| Step::Flood(a, b, lost)),
        3 => (node(), node(), any::<u16>()).prop_map(|(a, b, lost)| Step::Compare(a, b, lost)),
        1 => (node(), node()).prop_map(|(a, b)| Step::Forge(a, b)),
        1 => node().prop_map(Step::Restart),
    ];
    proptest::collection::vec(step, 0..60)
}

/// Moves records from `from` to `to` after one comparison, except what falls out by the bits of `lost`.
fn exchange(nodes: &mut BTreeMap<u8, Lsdb>, now: Mono, from: u8, to: u8, lost: u16) {
    let mut message = 0;
    let mut arrives = || {
        message += 1;
        lost >> (message % 16) & 1 == 0
    };
    let summary = nodes.get_mut(&from).unwrap().summary();
    for bucket in nodes.get_mut(&to).unwrap().differing(&summary) {
        for part in nodes[&to].versions(bucket) {
            if !arrives() {
                continue;
            }
            let difference = nodes.get_mut(&from).unwrap().compare(&part);
            for (giver, taker, members) in [(from, to, difference.send), (to, from, difference.want)] {
                for member in members.into_iter().filter(|_| arrives()).collect::<Vec<_>>() {
                    let record = nodes[&giver].get(member).unwrap().signed().clone();
                    nodes.get_mut(&taker).unwrap().insert(now, record, check);
                }
            }
        }
    }
}

proptest! {
    #[test]
    fn gossip_in_any_order_with_loss_and_duplicates_converges_on_what_the_origins_said(steps in steps()) {
        let mut nodes: BTreeMap<u8, Lsdb> = (1..6).map(|n| (n, lsdb(n))).collect();
        let mut boots: BTreeMap<u8, u64> = (1..6).map(|n| (n, 1)).collect();
        let mut newest: BTreeMap<MemberId, Signed<Record>> = BTreeMap::new();
        let mut said = 1;
        for (second, step) in (0u64..).step_by(2).zip(steps) {
            let now = at(second);
            match step {
                Step::Author(n) => {
                    said += 1;
                    let db = nodes.get_mut(&n).unwrap();
                    prop_assert_eq!(db.author(now, saying(said), sign), Authored::New);
                    newest.insert(member(n), db.get(member(n)).unwrap().signed().clone());
                }
                Step::Flood(a, b, lost) => {
                    let records: Vec<_> = nodes[&a].iter().map(|(_, entry)| entry.signed().clone()).collect();
                    for (i, record) in records.into_iter().enumerate().filter(|(i, _)| lost >> i & 1 == 0) {
                        let mut copies = if lost >> 15 == 1 { vec![record.clone(), record] } else { vec![record] };
                        if i % 2 == 1 { copies.reverse(); }
                        for copy in copies {
                            nodes.get_mut(&b).unwrap().insert(now.mono, copy, check);
                        }
                    }
                }
                Step::Compare(a, b, lost) => exchange(&mut nodes, now.mono, a, b, lost),
                Step::Forge(a, victim) => {
                    let forged = forge(Record { relays: true, ..record(victim, 99, 99) });
                    nodes.get_mut(&a).unwrap().insert(now.mono, forged, check);
                }
                Step::Restart(n) => {
                    let boot = boots.get_mut(&n).unwrap();
                    *boot += 1;
                    let mut fresh = Lsdb::new(MESH, member(n), BootEpoch(*boot));
                    for (_, entry) in nodes[&n].iter() {
                        fresh.insert(now.mono, entry.signed().clone(), check);
                    }
                    prop_assert_eq!(fresh.author(now, content(&[]), sign), Authored::New);
                    newest.insert(member(n), fresh.get(member(n)).unwrap().signed().clone());
                    nodes.insert(n, fresh);
                }
            }
        }
        // Quiet: a ring of comparisons without loss, each way around.
        for round in 0..2 {
            for (a, b) in [(1, 2), (2, 3), (3, 4), (4, 5), (5, 1), (1, 2), (2, 3), (3, 4)] {
                exchange(&mut nodes, at(1000 + round * 100).mono, a, b, 0);
            }
        }
        let summary = nodes.get_mut(&1).unwrap().summary();
        for db in nodes.values_mut() {
            let held: BTreeMap<_, _> = db.iter().map(|(member, entry)| (member, entry.signed().clone())).collect();
            prop_assert_eq!(&held, &newest);
            prop_assert_eq!(db.summary(), summary);
        }
    }
}

#[test]
fn age_costs_a_node_no_more_than_a_record_in_a_minute_however_many_members_there_are() {
    let mut before = Duration::ZERO;
    for members in [1, 20, 100, 300, 1000, 10_000, MAX_RECORDS as u32] {
        let age = super::refresh_among(members);
        assert!(
            age >= REFRESH && age >= before && age / members >= Duration::from_secs(60),
            "{members}: {age:?}"
        );
        before = age;
    }
    assert_eq!((super::refresh_among(1), super::refresh_among(100)), (REFRESH, Duration::from_secs(6000)));
    assert!(super::refresh_among(10_000) / 10_000 > Duration::from_secs(580));
    // Three times that is counted in microseconds.
    assert!(super::refresh_among(u32::MAX).checked_mul(LIFETIMES).is_some());
}
