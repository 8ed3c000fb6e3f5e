//! Which inits of the members were seen, over a restart: an init that somebody recorded earlier gets a challenge, as it did
//! before, instead of a keypair that nobody ever uses.
//!
//! The timestamps ride in the cache, which is replaced as a whole. They are written along with anything else, at the end,
//! and at least every [`SAVE_EVERY`] while sessions are made; what a crash takes with it is the newest ones.

use std::collections::BTreeMap;
use std::time::Duration;

use proto::id::MemberId;

use super::{Event, Node};
use crate::session::MAX_FLOORS;
use crate::time::{Mono, Now};

/// How long a newer timestamp may wait to be written.
const SAVE_EVERY: Duration = Duration::from_secs(600);
/// Timestamps further ahead than this are not believed: a clock was wrong, or the file is somebody else's.
const AHEAD_US: u64 = 24 * 3600 * 1_000_000;
/// Begins such an object in the cache; signed objects begin with another byte.
const MAGIC: &[u8] = b"seen 1";
/// A member id and a timestamp.
const ENTRY_LEN: usize = 16 + 8;
/// Entries of one object, which has at most 65,535 bytes.
const MAX_ENTRIES: usize = 1024;

/// What is not written yet.
#[derive(Default)]
pub(super) struct Seen {
    changed: bool,
    saved_at: Option<Mono>,
}

impl Seen {
    /// An init was accepted.
    pub(super) fn note(&mut self) {
        self.changed = true;
    }

    /// Whether they are to be written now.
    fn take_due(&mut self, now: Mono) -> bool {
        let saved_at = *self.saved_at.get_or_insert(now);
        let due = self.changed && now.since(saved_at) >= SAVE_EVERY;
        if due {
            *self = Seen { changed: false, saved_at: Some(now) };
        }
        due
    }
}

impl Node {
    /// Has the cache written, if timestamps have waited long enough.
    pub(super) fn save_seen_if_due(&mut self, now: Now) {
        if self.seen.take_due(now.mono) {
            self.events.push_back(Event::CacheChanged);
        }
    }

    /// The timestamps as objects of the cache.
    pub(super) fn export_seen(&self) -> Vec<Vec<u8>> {
        let mut seen: BTreeMap<MemberId, u64> = self.handshaker.floors().collect();
        for (member, peer) in &self.peers {
            let newest = seen.entry(*member).or_default();
            *newest = peer.session.seen_us().max(*newest);
        }
        emit(seen.into_iter().filter(|(_, seen_us)| *seen_us > 0))
    }

    /// Takes timestamps from an object of the cache; anything else is left alone.
    pub(super) fn import_seen(&mut self, now: Now, object: &[u8]) {
        let latest = now.wall.0.saturating_mul(1000).saturating_add(AHEAD_US);
        for (member, seen_us) in parse(object).filter(|(_, seen_us)| *seen_us <= latest) {
            if self.membership.get(member).is_some() {
                self.handshaker.keep_floor(member, seen_us);
            }
        }
    }
}

fn emit(seen: impl Iterator<Item = (MemberId, u64)>) -> Vec<Vec<u8>> {
    let entries: Vec<(MemberId, u64)> = seen.take(MAX_FLOORS).collect();
    let object = |part: &[(MemberId, u64)]| {
        let mut object = MAGIC.to_vec();
        for (member, seen_us) in part {
            object.extend_from_slice(&member.0);
            object.extend_from_slice(&seen_us.to_be_bytes());
        }
        object
    };
    entries.chunks(MAX_ENTRIES).map(object).collect()
}

fn parse(object: &[u8]) -> impl Iterator<Item = (MemberId, u64)> {
    let entries = object.strip_prefix(MAGIC).unwrap_or_default();
    entries.chunks_exact(ENTRY_LEN).take(MAX_ENTRIES).filter_map(|entry| {
        let (member, seen_us) = entry.split_first_chunk::<16>()?;
        Some((MemberId(*member), u64::from_be_bytes(seen_us.try_into().ok()?)))
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(16))]
        #[test]
        fn timestamps_survive_the_cache_up_to_their_bound(
            seen in proptest::collection::btree_map(any::<[u8; 16]>(), 1u64.., 0..3000)
        ) {
            let seen: BTreeMap<MemberId, u64> = seen.into_iter().map(|(id, us)| (MemberId(id), us)).collect();
            let objects = emit(seen.clone().into_iter());
            prop_assert!(objects.iter().all(|object| object.len() <= usize::from(u16::MAX)));
            let back: BTreeMap<MemberId, u64> = objects.iter().flat_map(|object| parse(object)).collect();
            prop_assert_eq!(back, seen);
        }

        #[test]
        fn any_object_parses(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            prop_assert!(parse(&bytes).count() <= bytes.len() / ENTRY_LEN);
        }
    }

    #[test]
    fn timestamps_are_written_every_ten_minutes_while_there_are_new_ones() {
        let (mut seen, minute) = (Seen::default(), |minute: u64| Mono(minute * 60_000_000));
        assert!(!seen.take_due(minute(1)));
        assert!(!seen.take_due(minute(20)), "there are none");
        seen.note();
        assert!(seen.take_due(minute(20)), "the last time is long ago");
        assert!(!seen.take_due(minute(40)), "no new ones");
        seen.note();
        assert!(seen.take_due(minute(40)));
        seen.note();
        assert!(!seen.take_due(minute(49)));
        assert!(seen.take_due(minute(50)));
    }

    #[test]
    fn no_more_are_written_than_are_kept() {
        let many = (0..2 * MAX_FLOORS as u128).map(|id| (MemberId(id.to_be_bytes()), 1));
        assert_eq!(emit(many).iter().flat_map(|object| parse(object)).count(), MAX_FLOORS);
    }
}
