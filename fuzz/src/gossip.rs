//! What members say about records, in any order and however wrong: the record store against a plain map, and flooding
//! against its bounds.

use std::collections::BTreeMap;

use meshnet::route::flood::{Action, Flood, Level, Neighbour};
use meshnet::route::lsdb::{Inserted, Lsdb, Part, Verdict};
use meshnet::route::{Authored, Version};
use meshnet::time::{Mono, Now, UnixMs};
use proto::frame::Frame;
use proto::id::{BootEpoch, KeyEpochNumber, MemberId, MeshId, Seq, Serial};
use proto::record::Record;
use proto::signed::Signed;

const MESH: MeshId = MeshId([7; 16]);
/// Signatures by the origin itself, and by others.
const GENUINE: [u8; 64] = [1; 64];
const FORGED: [u8; 64] = [2; 64];

/// Few members, of ids that share buckets.
fn member(byte: u8) -> MemberId {
    let mut id = [0; 16];
    (id[0], id[1]) = (byte & 7, byte & 1);
    MemberId(id)
}

fn record(by: MemberId, boot: u8, seq: u8, relays: bool) -> Record {
    Record {
        mesh: MESH,
        member: by,
        boot: BootEpoch(boot.into()),
        seq: Seq(seq.into()),
        created_s: 0,
        certificate: Serial(0),
        key_epoch: KeyEpochNumber(1),
        candidates: Vec::new(),
        subnets: Vec::new(),
        datacenter: None,
        relays,
        links: Vec::new(),
        floor: None,
        confirms: Vec::new(),
        short_confirms: Vec::new(),
        bundle: None,
        plan: None,
    }
}

fn sign(record: Record, signature: [u8; 64]) -> Option<Signed<Record>> {
    Signed::sign_with(record, |_| signature).ok()
}

fn verdict(record: &Signed<Record>) -> Verdict {
    if *record.signature() == GENUINE { Verdict::Genuine } else { Verdict::Forged }
}

/// Two stores and a map of the newest genuine version that each was shown. Every four bytes are a step: what, for whom,
/// boot and sequence. What is left of the input is also read as frames, whose lists of versions are compared.
pub fn records(bytes: &[u8]) {
    let me = [member(0), member(3)];
    let mut stores = me.map(|me| Lsdb::new(MESH, me, BootEpoch(1)));
    let mut shown: [BTreeMap<MemberId, Version>; 2] = Default::default();
    let mut now_us = 0;
    for step in bytes.chunks_exact(4) {
        let [what, who, boot, seq] = [step[0], step[1], step[2] & 3, step[3]];
        let at = usize::from(what & 1);
        // Slow enough that no origin is held back.
        now_us += 600_000;
        let now = Now { mono: Mono(now_us), wall: UnixMs(now_us / 1000) };
        match (what >> 1) & 7 {
            0..=2 => {
                let by = member(who);
                let Some(new) = sign(record(by, boot, seq, what & 16 != 0), GENUINE) else { continue };
                let (version, before) = (Version::of(new.body()), stores[at].get(by).map(|old| old.signed()));
                let outcome = stores[at].insert(now.mono, new.clone(), verdict);
                match outcome {
                    Inserted::Newer => {
                        assert!(
                            shown[at].insert(by, version).is_none_or(|old| old < version),
                            "an older one won"
                        );
                        assert_eq!(stores[at].get(by).map(|entry| entry.signed()), Some(new));
                    }
                    Inserted::OwnSuperseded => assert_eq!(by, me[at]),
                    _ => assert_eq!(stores[at].get(by).map(|entry| entry.signed()), before),
                }
            }
            3 => {
                let before = stores[at].summary();
                let forged = sign(record(member(who), 255, seq, true), FORGED);
                if let Some(forged) = forged {
                    assert_ne!(stores[at].insert(now.mono, forged, verdict), Inserted::Newer);
                }
                assert_eq!(stores[at].summary(), before, "a forged record changes something");
            }
            4 => {
                let content = record(me[at], 0, 0, what & 16 != 0);
                let made = stores[at].author(now, content, |record| Signed::sign_with(record, |_| GENUINE));
                assert_ne!(made, Authored::TooLarge);
            }
            5 => {
                let gone = member(who);
                if gone != me[at] {
                    stores[at].remove(gone);
                    shown[at].remove(&gone);
                }
            }
            _ => {
                let all = stores[at].versions(who & 15);
                let other = &mut stores[1 - at];
                for part in all {
                    let difference = other.compare(&part);
                    assert!(difference.missing.iter().all(|member| difference.send.contains(member)));
                    assert!(difference.want.iter().all(|member| !difference.send.contains(member)));
                }
            }
        }
    }
    for frame in proto::frame::frames(bytes).map_while(Result::ok) {
        if let Frame::BucketVersions { bucket, part, more, versions } = frame {
            let difference = stores[0].compare(&Part { bucket, part, more, versions });
            assert!(difference.send.len() <= stores[0].len());
        }
    }
    // Whatever they were told: after they have compared and sent each other everything, they are equal.
    let now = Now { mono: Mono(now_us + 3_600_000_000), wall: UnixMs(0) };
    for round in 0..2 {
        for (at, other) in [(0, 1), (1, 0)] {
            for bucket in stores[at].differing(&stores[other].summary()) {
                for part in stores[other].versions(bucket) {
                    let difference = stores[at].compare(&part);
                    for member in difference.want {
                        let record = stores[other].get(member).map(|entry| entry.signed().clone());
                        let record = record.expect("it listed it");
                        stores[at].insert(now.mono, record, verdict);
                    }
                }
            }
            let content = record(me[at], 0, 0, round == 0);
            stores[at].author(now, content, |record| Signed::sign_with(record, |_| GENUINE));
        }
    }
    for (at, other) in [(0, 1), (1, 0), (0, 1)] {
        let records: Vec<_> = stores[other].iter().map(|(_, entry)| entry.signed().clone()).collect();
        for record in records {
            stores[at].insert(now.mono, record, verdict);
        }
    }
    // Two records of one version stay as they are: the alarm is raised, and versions are equal all the same.
    for (origin, entry) in stores[0].iter().filter(|(origin, _)| !me.contains(origin)) {
        assert_eq!(stores[1].get(origin).map(|entry| entry.version()), Some(entry.version()));
    }
}

/// Steps of four bytes: what happens, with whom, about whom, how much time passes.
pub fn flooding(bytes: &[u8]) {
    let mut flood = Flood::default();
    let near = |member: MemberId| Neighbour { near: member.0[0] < 5, relies: member.0[0] >= 6 };
    let mut now = Mono(0);
    let mut up = BTreeMap::new();
    for step in bytes.chunks_exact(4) {
        let (from, origin) = (member(step[1]), member(step[2] >> 3));
        let version = Version { boot: BootEpoch(u64::from(step[2] & 1)), seq: Seq(u64::from(step[2] & 7)) };
        now = Mono(now.0 + u64::from(step[3]) * 1000);
        let relays = bytes[0] & 1 == 0;
        match step[0] & 7 {
            0 => {
                flood.established(from, step[0] & 8 != 0);
                up.insert(from, ());
            }
            1 => {
                flood.ended(from);
                up.remove(&from);
            }
            2 => {
                flood.wants(from, [Level::Nothing, Level::Versions, Level::Records][usize::from(step[2] % 3)])
            }
            3 => flood.learned(now, origin, version, (step[0] & 8 != 0).then_some(from)),
            4 => flood.known(now, origin, from, relays, near),
            5 => flood.missing(now, origin, version, from),
            6 => flood.tend(now, relays, near),
            _ => {}
        }
        assert!(flood.missing_len() <= 1024);
        for action in flood.drive(now, relays, near) {
            match action {
                Action::Push(to, origins) | Action::Tell(to, origins) => {
                    assert!(up.contains_key(&to), "something for a peer that is gone");
                    assert!(!origins.is_empty() && !origins.contains(&to), "a peer is sent its own record");
                }
                Action::Want(..) | Action::Ask(..) => {}
            }
        }
        // What was due is done: nobody spins.
        assert!(flood.poll_timeout().is_none_or(|at| at > now), "still due at {now:?}");
    }
}
