//! Revocations: a set that only grows, the same on every member once all have heard of all.
//!
//! For each target the set keeps one revocation, the one with the earliest cutoff. What is revoked is never readmitted; a
//! node that returns gets a new member id. Bytes of certificates are never a target: a certificate can be encoded anew
//! (Nebula's blocklist of fingerprints was evaded that way).

use std::collections::BTreeMap;

use blake2::{Blake2s256, Digest};
use proto::certificate::{Certificate, Issuer, Roles};
use proto::frame::BUCKETS;
use proto::id::{MemberId, Serial};
use proto::revocation::{Revocation, RevocationTarget};
use proto::signed::Signed;

use super::bundle::TrustChain;
use super::certificate::{VerifiedCertificate, member_id};
use super::secret::verify_signed;

/// Bound on the number of targets.
pub const MAX_REVOCATIONS: usize = 16_384;

/// Which bucket a target belongs to.
fn bucket(target: &RevocationTarget) -> usize {
    (mark(target, 0) % BUCKETS as u64) as usize
}

/// A hash of target and cutoff.
fn mark(target: &RevocationTarget, cutoff_s: u64) -> u64 {
    let mut hash = Blake2s256::new();
    update(&mut hash, target);
    hash.update(cutoff_s.to_be_bytes());
    let hash = hash.finalize();
    u64::from_be_bytes(std::array::from_fn(|i| hash[i]))
}

fn update(hash: &mut Blake2s256, target: &RevocationTarget) {
    match target {
        RevocationTarget::Member(member) => hash.update([&[1], member.0.as_slice()].concat()),
        RevocationTarget::Serial(serial) => hash.update([&[2], serial.0.to_be_bytes().as_slice()].concat()),
        RevocationTarget::Key(key) => hash.update([&[3], key.0.as_slice()].concat()),
    }
}

/// Why a revocation is refused.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
pub enum RevocationError {
    /// It is of another mesh.
    #[error("the revocation is of another mesh")]
    WrongMesh,
    /// No root of the current bundle has the named key.
    #[error("the revocation is by a root that is not trusted")]
    UnknownRoot,
    /// The certificate of the operator who made it is not known.
    #[error("the certificate of the revocation's issuer is not known")]
    UnknownIssuer,
    /// The member who made it is no operator.
    #[error("the revocation's issuer is no operator")]
    NotOperator,
    /// The signature is wrong.
    #[error("the revocation's signature does not verify")]
    BadSignature,
    /// The set holds [`MAX_REVOCATIONS`] targets.
    #[error("there are too many revocations")]
    Full,
}

/// What everybody has heard of as revoked.
#[derive(Clone, Debug, Default)]
pub struct RevocationSet {
    by_target: BTreeMap<RevocationTarget, Signed<Revocation>>,
    /// Members revoked by id or by key, with the earliest cutoff.
    members: BTreeMap<MemberId, u64>,
    /// Of each bucket, the XOR of a hash of each revocation in it.
    summary: [u64; BUCKETS],
}

impl RevocationSet {
    /// An empty set.
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds a revocation by a root, or by the operator whose certificate is `operator`. Returns whether the set changed,
    /// so that the revocation is to be passed on.
    ///
    /// Whether the operator's certificate has expired or was revoked since does not matter: everybody must come to the
    /// same set, in whichever order they hear of things.
    ///
    /// # Errors
    /// [`RevocationError`]; the set is unchanged then.
    pub fn insert(
        &mut self,
        trust: &TrustChain,
        operator: Option<&VerifiedCertificate>,
        revocation: Signed<Revocation>,
    ) -> Result<bool, RevocationError> {
        let value = revocation.body();
        if value.mesh != trust.mesh() {
            return Err(RevocationError::WrongMesh);
        }
        match self.by_target.get(&value.target) {
            Some(known) if known.body().cutoff_s <= value.cutoff_s => return Ok(false),
            Some(_) => {}
            None if self.by_target.len() >= MAX_REVOCATIONS => return Err(RevocationError::Full),
            None => {}
        }
        let key = match &value.issuer {
            Issuer::Root(id) => trust.root(id).ok_or(RevocationError::UnknownRoot)?,
            Issuer::Member(member, _) => {
                let operator = operator.ok_or(RevocationError::UnknownIssuer)?;
                if operator.body().member != *member {
                    return Err(RevocationError::UnknownIssuer);
                }
                if !operator.body().roles.contains(Roles::OPERATOR) {
                    return Err(RevocationError::NotOperator);
                }
                &operator.body().identity
            }
        };
        verify_signed(key, &revocation).map_err(|_| RevocationError::BadSignature)?;
        let member = match &value.target {
            RevocationTarget::Member(member) => Some(*member),
            RevocationTarget::Key(key) => Some(member_id(key)),
            RevocationTarget::Serial(_) => None,
        };
        if let Some(member) = member {
            let cutoff_s = self.members.entry(member).or_insert(value.cutoff_s);
            *cutoff_s = value.cutoff_s.min(*cutoff_s);
        }
        let (bucket, mark) = (bucket(&value.target), mark(&value.target, value.cutoff_s));
        self.summary[bucket] ^= mark;
        if let Some(before) = self.by_target.insert(value.target, revocation) {
            self.summary[bucket] ^= self::mark(&before.body().target, before.body().cutoff_s);
        }
        Ok(true)
    }

    /// A hash of each bucket of targets, to find out what another set lacks: equal buckets have equal hashes.
    pub fn summary(&self) -> [u64; BUCKETS] {
        self.summary
    }

    /// The revocations in the buckets whose hash is not that of `theirs`.
    pub fn differing<'a>(
        &'a self,
        theirs: &'a [u64; BUCKETS],
    ) -> impl Iterator<Item = &'a Signed<Revocation>> + 'a {
        self.by_target.values().filter(|revocation| {
            let bucket = bucket(&revocation.body().target);
            self.summary[bucket] != theirs[bucket]
        })
    }

    /// Whether a revocation ends `certificate`: by its member, serial, or identity key, or because the member who issued it
    /// was revoked with a cutoff before it was issued.
    pub fn ends(&self, certificate: &Certificate) -> bool {
        let issued_after_cutoff = match certificate.issuer {
            Issuer::Root(_) => false,
            Issuer::Member(issuer, _) => {
                self.members.get(&issuer).is_some_and(|cutoff_s| certificate.not_before_s >= *cutoff_s)
            }
        };
        issued_after_cutoff || self.has_member(certificate.member) || self.has_serial(certificate.serial)
    }

    /// Whether a member was revoked, by id or by its identity key.
    pub fn has_member(&self, member: MemberId) -> bool {
        self.members.contains_key(&member)
    }

    /// Whether one certificate was revoked.
    pub fn has_serial(&self, serial: Serial) -> bool {
        self.by_target.contains_key(&RevocationTarget::Serial(serial))
    }

    /// A hash over targets and cutoffs; equal sets have equal digests, whatever the order in which they grew and whoever
    /// signed. Zero for the empty set.
    pub fn digest(&self) -> [u8; 8] {
        if self.by_target.is_empty() {
            return [0; 8];
        }
        let mut hash = Blake2s256::new();
        for (target, revocation) in &self.by_target {
            update(&mut hash, target);
            hash.update(revocation.body().cutoff_s.to_be_bytes());
        }
        let hash = hash.finalize();
        std::array::from_fn(|i| hash[i])
    }

    /// The revocations, ordered by target.
    pub fn iter(&self) -> impl Iterator<Item = &Signed<Revocation>> + '_ {
        self.by_target.values()
    }

    /// Number of targets.
    pub fn len(&self) -> usize {
        self.by_target.len()
    }

    /// Whether nothing was ever revoked.
    pub fn is_empty(&self) -> bool {
        self.by_target.is_empty()
    }
}
