//! The link-state database: the newest record of every member.
//!
//! Only its origin makes a record, every copy is signed, and the newest (boot epoch, sequence number) wins; so copies may
//! arrive in any order, any number of times, from anybody, and all databases end up equal. What differs between two
//! databases is found by comparing bucket hashes, then the versions in the buckets that differ ([`compare`]).
//!
//! A record that was not renewed for [`Lsdb::lifetime`] is *stale*: it no longer counts for links and subnets, but is kept as
//! the last known whereabouts of its origin, for as long as the origin is a member. Dropping it by age would let databases
//! hand expired records to each other for ever, and would leave a mesh that was switched off overnight without addresses.

mod author;
mod compare;
mod entry;
#[cfg(test)]
mod tests;

use std::collections::BTreeMap;
use std::time::Duration;

use proto::id::{BootEpoch, MemberId, MeshId, Seq};
use proto::record::Record;
use proto::signed::Signed;

use super::limit::TokenBucket;
use crate::pack::pack;
use crate::time::Mono;

pub use author::Authored;
pub use compare::{BUCKETS, Difference, Part, VERSIONS_PER_PART};
pub use entry::Entry;

/// Bound on the number of records.
pub const MAX_RECORDS: usize = 16_384;

/// Age at which the origin renews its own record even if nothing changed, in a mesh of up to 20 members.
pub const REFRESH: Duration = Duration::from_secs(1200);

/// What a member adds to that in larger ones, up to [`FEW`].
const REFRESH_PER_MEMBER: Duration = Duration::from_secs(60);
/// In a mesh of so many members each node hears one record in a minute for no reason but age.
const FEW: u32 = 100;
/// What a member beyond these adds. A relay sends each record on to all that rely on it, so that the traffic of an idle relay
/// grows with both: in a mesh of ten thousand it hears one record in ten minutes for no reason but age. Whoever is gone is found by
/// silence, long before.
const REFRESH_PER_MEMBER_OF_MANY: Duration = Duration::from_secs(600);

/// A record that was not renewed is stale after so many times the age at which it should have been.
pub const LIFETIMES: u32 = 3;

/// New records accepted from one origin: a burst, then one every interval.
const ACCEPT: TokenBucket = TokenBucket::new(16, Duration::from_millis(500));

/// Age at which a record is renewed in a mesh of so many members.
pub fn refresh_among(members: u32) -> Duration {
    let few = REFRESH.max(REFRESH_PER_MEMBER * members.min(FEW));
    few.saturating_add(REFRESH_PER_MEMBER_OF_MANY.saturating_mul(members.saturating_sub(FEW)))
}

/// What orders the records of one origin.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct Version {
    /// Grows with every start of the origin.
    pub boot: BootEpoch,
    /// Grows with every record within one boot.
    pub seq: Seq,
}

impl Version {
    /// The version of `record`.
    pub fn of(record: &Record) -> Self {
        Self { boot: record.boot, seq: record.seq }
    }

    /// The version right after this one.
    fn next(self) -> Self {
        match self.seq.0.checked_add(1) {
            Some(seq) => Self { boot: self.boot, seq: Seq(seq) },
            None => Self { boot: BootEpoch(self.boot.0.saturating_add(1)), seq: Seq(0) },
        }
    }
}

/// What the caller found about a record's signature, in the light of its origin's certificate.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Verdict {
    /// The origin is a member and signed it.
    Genuine,
    /// The origin is a member, but this is not its signature.
    Forged,
    /// The origin's certificate is not known, or it is no member any more.
    UnknownOrigin,
}

/// What became of a record given to [`Lsdb::insert`].
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Inserted {
    /// It is newer than what was known, and is to be passed on.
    Newer,
    /// This very record was known.
    Known,
    /// A newer one is known; the sender should get that.
    Older,
    /// It claims to be a newer record of this node itself, from before a loss of state: author again at once.
    OwnSuperseded,
    /// The origin signed two different records of the same version: its state was copied or rolled back. Not stored.
    Conflict,
    /// Not stored.
    Refused(Refusal),
}

/// Why a record was not stored.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Refusal {
    /// It is of another mesh.
    WrongMesh,
    /// The database holds [`MAX_RECORDS`] records of other members.
    Full,
    /// Its origin changes its record too often; a later comparison brings the newest.
    TooFast,
    /// The signature is wrong.
    Forged,
    /// The origin's certificate is missing; ask for it, then try again.
    UnknownOrigin,
}

/// Counts of records by what became of them.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct LsdbStats {
    /// Stored as the newest of their origin.
    pub newer: u64,
    /// Known already.
    pub known: u64,
    /// Older than what is stored.
    pub older: u64,
    /// Claimed to be newer than this node's own.
    pub own_superseded: u64,
    /// Signed by their origin over a version that it gave to another record.
    pub conflicts: u64,
    /// Of another mesh.
    pub wrong_mesh: u64,
    /// Refused because the database was full.
    pub full: u64,
    /// Refused because of their origin's rate.
    pub too_fast: u64,
    /// With a wrong signature.
    pub forged: u64,
    /// Of an origin without certificate.
    pub unknown_origin: u64,
    /// Lists of versions that were no valid part of a bucket.
    pub bad_parts: u64,
}

/// The newest record of every member, and the authoring of this node's own.
#[derive(Clone, Debug)]
pub struct Lsdb {
    mesh: MeshId,
    me: MemberId,
    /// Boxed, for a tree's nodes are half empty.
    entries: BTreeMap<MemberId, Box<Entry>>,
    author: author::Author,
    hashes: [u64; BUCKETS],
    /// No record turns stale before this.
    stale_at: Option<Mono>,
    stats: LsdbStats,
}

impl Lsdb {
    /// An empty database of member `me`, whose own records start in boot epoch `boot`.
    pub fn new(mesh: MeshId, me: MemberId, boot: BootEpoch) -> Self {
        Self {
            mesh,
            me,
            entries: BTreeMap::new(),
            author: author::Author::new(boot),
            hashes: [0; BUCKETS],
            stale_at: None,
            stats: LsdbStats::default(),
        }
    }

    /// Makes its tree as small as it can be.
    pub fn pack(&mut self) {
        pack(&mut self.entries);
    }

    /// Takes a record from a peer or from the cache.
    ///
    /// `verify` checks the signature against the origin's certificate. It is called last, and only for a record that
    /// would change something.
    pub fn insert(
        &mut self,
        now: Mono,
        record: Signed<Record>,
        verify: impl FnOnce(&Signed<Record>) -> Verdict,
    ) -> Inserted {
        let outcome = self.judge(now, &record, verify);
        self.count(outcome);
        match outcome {
            Inserted::Newer => self.store(now, record),
            Inserted::OwnSuperseded => self.author.exceed(Version::of(record.body())),
            Inserted::Conflict if record.body().member == self.me => {
                self.author.exceed(Version::of(record.body()));
            }
            _ => {}
        }
        outcome
    }

    /// The record of `member`.
    pub fn get(&self, member: MemberId) -> Option<&Entry> {
        self.entries.get(&member).map(Box::as_ref)
    }

    /// All records, by ascending member id: the own one, live ones, and stale ones.
    pub fn iter(&self) -> impl Iterator<Item = (MemberId, &Entry)> + '_ {
        self.entries.iter().map(|(member, entry)| (*member, entry.as_ref()))
    }

    /// The records whose links and subnets count, by ascending member id.
    pub fn live(&self, now: Mono) -> impl Iterator<Item = (MemberId, &Entry)> + '_ {
        let lifetime = self.lifetime();
        self.iter().filter(move |(_, entry)| entry.age(now) < lifetime)
    }

    /// Number of records.
    pub fn len(&self) -> usize {
        self.entries.len()
    }

    /// Whether there is no record.
    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    /// Forgets the record of a node that is no member any more.
    pub fn remove(&mut self, member: MemberId) -> bool {
        let removed = self.entries.remove(&member);
        if let Some(old) = &removed {
            self.touched(member, Some(old.version()), None);
        }
        removed.is_some()
    }

    /// Whether the links and subnets of a record still count.
    pub fn is_live(&self, entry: &Entry, now: Mono) -> bool {
        entry.age(now) < self.lifetime()
    }

    /// Age at which the origin renews its own record even if nothing changed: the larger the mesh, the later.
    pub fn refresh(&self) -> Duration {
        refresh_among(u32::try_from(self.entries.len()).unwrap_or(u32::MAX))
    }

    /// Age at which a record that was not renewed is stale.
    pub fn lifetime(&self) -> Duration {
        self.refresh() * LIFETIMES
    }

    /// When something changes by the passing of time alone: the own record is to be renewed or may be authored after
    /// being held back, or another may turn stale ([`Lsdb::note_time`] is to be called then).
    pub fn poll_timeout(&self) -> Option<Mono> {
        let own = self.author.due(self.get(self.me), self.refresh());
        self.stale_at.into_iter().chain(own).min()
    }

    /// Looks for records that turned stale. Returns whether there may be some.
    pub fn note_time(&mut self, now: Mono) -> bool {
        let due = self.stale_at.is_some_and(|at| at <= now);
        if due {
            let lifetime = self.lifetime();
            let live = self.live(now).filter(|(member, _)| *member != self.me);
            self.stale_at = live.map(|(_, entry)| entry.received + lifetime).min();
        }
        due
    }

    /// What became of records so far.
    pub fn stats(&self) -> LsdbStats {
        self.stats
    }

    fn judge(
        &self,
        now: Mono,
        record: &Signed<Record>,
        verify: impl FnOnce(&Signed<Record>) -> Verdict,
    ) -> Inserted {
        let value = record.body();
        if value.mesh != self.mesh {
            return Inserted::Refused(Refusal::WrongMesh);
        }
        let own = value.member == self.me;
        let version = Version::of(value);
        let mut conflict = false;
        match self.entries.get(&value.member) {
            Some(old) if version < old.version() => return Inserted::Older,
            Some(old) if version == old.version() => {
                if old.as_bytes() == record.as_bytes() {
                    return Inserted::Known;
                }
                conflict = true;
            }
            Some(old) if !own && old.accept.ready_at(now) > now => {
                return Inserted::Refused(Refusal::TooFast);
            }
            Some(_) => {}
            None if !own && self.others() >= MAX_RECORDS => return Inserted::Refused(Refusal::Full),
            None => {}
        }
        match verify(record) {
            Verdict::Forged => Inserted::Refused(Refusal::Forged),
            Verdict::UnknownOrigin => Inserted::Refused(Refusal::UnknownOrigin),
            Verdict::Genuine if conflict => Inserted::Conflict,
            Verdict::Genuine if own => Inserted::OwnSuperseded,
            Verdict::Genuine => Inserted::Newer,
        }
    }

    fn others(&self) -> usize {
        self.entries.len() - usize::from(self.entries.contains_key(&self.me))
    }

    fn store(&mut self, now: Mono, record: Signed<Record>) {
        let member = record.body().member;
        let mut accept = self.entries.get(&member).map_or(ACCEPT, |old| old.accept);
        accept.take(now);
        let after = Version::of(record.body());
        let before = self.entries.insert(member, Box::new(Entry::new(record, now, accept)));
        self.touched(member, before.map(|old| old.version()), Some(after));
        if member != self.me {
            let stale_at = now + self.lifetime();
            self.stale_at = Some(self.stale_at.map_or(stale_at, |at| at.min(stale_at)));
        }
    }

    fn count(&mut self, outcome: Inserted) {
        let stats = &mut self.stats;
        let counter = match outcome {
            Inserted::Newer => &mut stats.newer,
            Inserted::Known => &mut stats.known,
            Inserted::Older => &mut stats.older,
            Inserted::OwnSuperseded => &mut stats.own_superseded,
            Inserted::Conflict => &mut stats.conflicts,
            Inserted::Refused(Refusal::WrongMesh) => &mut stats.wrong_mesh,
            Inserted::Refused(Refusal::Full) => &mut stats.full,
            Inserted::Refused(Refusal::TooFast) => &mut stats.too_fast,
            Inserted::Refused(Refusal::Forged) => &mut stats.forged,
            Inserted::Refused(Refusal::UnknownOrigin) => &mut stats.unknown_origin,
        };
        *counter += 1;
    }
}
