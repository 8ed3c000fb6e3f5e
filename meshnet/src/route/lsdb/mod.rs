//! The link-state database: the newest record of every member.
//!
//! Only its origin makes a record, every copy is signed, and the newest (boot epoch, sequence number) wins; so copies may
//! arrive in any order, any number of times, from anybody, and all databases end up equal. What differs between two
//! databases is found by comparing bucket hashes, then the versions in the buckets that differ ([`compare`]).
//!
//! A record that was not renewed for [`LIFETIME`] is *stale*: it no longer counts for links and subnets, but is kept as
//! the last known whereabouts of its origin, for as long as the origin is a member. Dropping it by age would let databases
//! hand expired records to each other for ever, and would leave a mesh that was switched off overnight without addresses.

mod author;
mod compare;
#[cfg(test)]
mod tests;

use std::collections::BTreeMap;
use std::time::Duration;

use proto::id::{BootEpoch, MemberId, MeshId, Seq};
use proto::record::Record;
use proto::signed::Signed;

use super::limit::TokenBucket;
use crate::time::Mono;

pub use author::Authored;
pub use compare::{BUCKETS, Difference, Part, VERSIONS_PER_PART};

/// Bound on the number of records.
pub const MAX_RECORDS: usize = 4096;

/// Age at which a record that was not renewed is stale.
pub const LIFETIME: Duration = Duration::from_secs(3600);

/// Age at which the origin renews its own record even if nothing changed.
pub const REFRESH: Duration = Duration::from_secs(1200);

/// New records accepted from one origin: a burst, then one every interval.
const ACCEPT: TokenBucket = TokenBucket::new(16, Duration::from_millis(500));

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

/// A record in the database.
#[derive(Clone, Debug)]
pub struct Entry {
    record: Signed<Record>,
    received: Mono,
    accept: TokenBucket,
}

impl Entry {
    /// The record as signed by its origin.
    pub fn signed(&self) -> &Signed<Record> {
        &self.record
    }

    /// The record's content.
    pub fn record(&self) -> &Record {
        self.record.body()
    }

    /// The record's version.
    pub fn version(&self) -> Version {
        Version::of(self.record())
    }

    /// Time since this version arrived here or was made here.
    pub fn age(&self, now: Mono) -> Duration {
        now.since(self.received)
    }

    /// Whether its links and subnets still count.
    pub fn is_live(&self, now: Mono) -> bool {
        self.age(now) < LIFETIME
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
    entries: BTreeMap<MemberId, Entry>,
    author: author::Author,
    hashes: [Option<u64>; BUCKETS],
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
            hashes: [None; BUCKETS],
            stats: LsdbStats::default(),
        }
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
        self.entries.get(&member)
    }

    /// All records, by ascending member id: the own one, live ones, and stale ones.
    pub fn iter(&self) -> impl Iterator<Item = (MemberId, &Entry)> + '_ {
        self.entries.iter().map(|(member, entry)| (*member, entry))
    }

    /// The records whose links and subnets count, by ascending member id.
    pub fn live(&self, now: Mono) -> impl Iterator<Item = (MemberId, &Entry)> + '_ {
        self.iter().filter(move |(_, entry)| entry.is_live(now))
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
        let removed = self.entries.remove(&member).is_some();
        if removed {
            self.touched(member);
        }
        removed
    }

    /// When something changes by the passing of time alone: the own record is to be renewed or may be authored after
    /// being held back, or another turns stale.
    pub fn poll_timeout(&self, now: Mono) -> Option<Mono> {
        let own = self.author.due(self.entries.get(&self.me));
        let stale =
            self.live(now).filter(|(member, _)| *member != self.me).map(|(_, e)| e.received + LIFETIME);
        stale.chain(own).min()
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
                if old.record == *record {
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
        self.entries.insert(member, Entry { record, received: now, accept });
        self.touched(member);
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
