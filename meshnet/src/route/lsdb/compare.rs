//! Finding what differs between two databases: sixteen bucket hashes, then the versions in a bucket.

use std::collections::BTreeSet;

use blake2::{Blake2s256, Digest};
pub use proto::frame::BUCKETS;
use proto::id::{BootEpoch, MemberId, Seq};

use super::{Lsdb, Version};

/// Versions listed in one part of a bucket: 32 bytes each, so that a part fits into one datagram.
pub const VERSIONS_PER_PART: usize = 32;

/// The versions of one bucket, or of a range of member ids in it; the content of
/// [`Frame::BucketVersions`](proto::frame::Frame::BucketVersions).
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Part {
    /// Which bucket.
    pub bucket: u8,
    /// Which part of it, from 0.
    pub part: u8,
    /// Whether another part follows.
    pub more: bool,
    /// Origin and version of each record, by ascending origin.
    pub versions: Vec<(MemberId, BootEpoch, Seq)>,
}

/// What to do about a part of a bucket as listed by a peer.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Difference {
    /// Members whose records are newer here, or missing there: to be sent.
    pub send: Vec<MemberId>,
    /// Those of them that are missing there, of whom nothing may be known there.
    pub missing: BTreeSet<MemberId>,
    /// Members whose records are newer there, or missing here: to be asked for.
    pub want: Vec<MemberId>,
}

impl Lsdb {
    /// One hash for every bucket over the members and versions in it; equal databases have equal hashes.
    ///
    /// A bucket's hash is the sum of its versions' hashes (Clarke et al., "Incremental multiset hash functions", 2003), so
    /// that it follows every change at once, whatever the size of the database.
    pub fn summary(&self) -> [u64; BUCKETS] {
        self.hashes
    }

    /// The buckets in which this database differs from one with the summary `theirs`.
    pub fn differing(&self, theirs: &[u64; BUCKETS]) -> Vec<u8> {
        let ours = self.summary();
        (0..BUCKETS as u8)
            .filter(|bucket| ours[usize::from(*bucket)] != theirs[usize::from(*bucket)])
            .collect()
    }

    /// The versions in a bucket, by ascending member id, cut into parts of at most [`VERSIONS_PER_PART`].
    ///
    /// Each part after the first begins with the last member of the part before, so that every part tells by itself which
    /// range of ids it covers, and parts may be lost or overtake each other. An empty bucket is one empty part.
    pub fn versions(&self, bucket: u8) -> Vec<Part> {
        let all: Vec<_> = self
            .in_bucket(usize::from(bucket))
            .map(|(member, version)| (member, version.boot, version.seq))
            .collect();
        let mut parts = Vec::new();
        let mut start = 0;
        loop {
            let end = all.len().min(start + VERSIONS_PER_PART);
            let more = end < all.len();
            let part = parts.len() as u8;
            parts.push(Part { bucket, part, more, versions: all[start..end].to_vec() });
            if !more {
                return parts;
            }
            start = end - 1;
        }
    }

    /// Compares a part of a bucket listed by a peer with what is here.
    ///
    /// Returns nothing to do, and counts, where the list is no valid part: members out of order or of other buckets.
    pub fn compare(&mut self, theirs: &Part) -> Difference {
        let bucket = usize::from(theirs.bucket);
        let ordered = theirs.versions.windows(2).all(|pair| pair[0].0 < pair[1].0);
        let placed = theirs.versions.iter().all(|version| bucket_of(version.0) == bucket);
        if bucket >= BUCKETS || !ordered || !placed || (theirs.part > 0 && theirs.versions.is_empty()) {
            self.stats.bad_parts += 1;
            return Difference::default();
        }
        let first = theirs.versions.first().filter(|_| theirs.part > 0).map(|version| version.0);
        let last = theirs.versions.last().filter(|_| theirs.more).map(|version| version.0);

        let mut difference = Difference::default();
        let mut listed = BTreeSet::new();
        for (member, boot, seq) in &theirs.versions {
            listed.insert(*member);
            let there = Version { boot: *boot, seq: *seq };
            match self.entries.get(member).map(|entry| entry.version()) {
                Some(here) if here > there => difference.send.push(*member),
                Some(here) if here == there => {}
                Some(_) | None => difference.want.push(*member),
            }
        }
        let missing = self.in_bucket(bucket).map(|(member, _)| member).filter(|member| {
            first.is_none_or(|first| *member >= first)
                && last.is_none_or(|last| *member <= last)
                && !listed.contains(member)
        });
        difference.missing = missing.collect();
        difference.send.extend(&difference.missing);
        difference.send.sort_unstable();
        difference
    }

    /// Notes that the record of `member` has another version.
    pub(super) fn touched(&mut self, member: MemberId, before: Option<Version>, after: Option<Version>) {
        let of = |version: Option<Version>| version.map_or(0, |version| hash(member, version));
        let bucket = &mut self.hashes[bucket_of(member)];
        *bucket = bucket.wrapping_sub(of(before)).wrapping_add(of(after));
    }

    fn in_bucket(&self, bucket: usize) -> impl Iterator<Item = (MemberId, Version)> + '_ {
        self.entries
            .iter()
            .filter(move |(member, _)| bucket_of(**member) == bucket)
            .map(|(member, entry)| (*member, entry.version()))
    }
}

fn hash(member: MemberId, version: Version) -> u64 {
    let mut hash = Blake2s256::new();
    hash.update(member.0);
    hash.update(version.boot.0.to_be_bytes());
    hash.update(version.seq.0.to_be_bytes());
    let hash = hash.finalize();
    u64::from_be_bytes(std::array::from_fn(|i| hash[i]))
}

/// The bucket of a member: its id folded to four bits. Ids are random, so this spreads them evenly.
fn bucket_of(member: MemberId) -> usize {
    let folded = member.0.iter().fold(0, |folded, byte| folded ^ byte);
    usize::from((folded >> 4) ^ (folded & 15))
}
