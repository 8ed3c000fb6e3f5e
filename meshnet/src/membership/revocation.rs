//! Revocations: a set that is the same on every member once all have heard of all.
//!
//! Who is revoked by somebody with the right to is out; what is revoked by the authority is never readmitted. Bytes of
//! certificates are never a target: a certificate can be encoded anew (Nebula's blocklist of fingerprints was evaded that
//! way).
//!
//! # Operators that were revoked
//! Whoever has stolen an operator's key can sign revocations, and can say of them that they were made long ago. So no time
//! decides which of them count, but this: **an operator that is revoked revokes nobody**, now or then. Who revokes an
//! operator takes over what it had revoked, by signing it too ([`RevocationSet::signed_by`]), and so has the last word about
//! it; what nobody takes over is undone, on every member alike, whatever the order in which it hears.
//!
//! An operator that was itself revoked by one that is not cannot revoke operators either. Where operators have revoked each
//! other in a circle, those fall whom most of the others have revoked; of two that have revoked each other both are out
//! until a third one, or the authority, decides.

use std::collections::{BTreeMap, BTreeSet};

use blake2::{Blake2s256, Digest};
use proto::certificate::{Certificate, Issuer, Roles};
use proto::frame::BUCKETS;
use proto::id::{IdentityKey, MemberId, Serial};
use proto::revocation::{Revocation, RevocationTarget};
use proto::signed::Signed;

use super::bundle::{TrustChain, root_key_id};
use super::certificate::{VerifiedCertificate, member_id};
use super::secret::verify_signed;

/// Bound on the number of revocations in force.
pub const MAX_REVOCATIONS: usize = 16_384;

/// Bound on revocations by operators that are revoked, which are kept for the case that those are not any more.
const MAX_SUSPENDED: usize = 1024;

/// Bound on what is kept of one operator that signs on when it is revoked. It is of use only where operators have revoked
/// each other: whoever hears of a circle must know all of it.
pub(super) const MAX_LATE: usize = 64;

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
    /// The operator who made it was revoked, and nobody has taken it over.
    #[error("the operator who made the revocation was revoked")]
    SignerRevoked,
    /// An operator revokes itself: nobody could tell whether what it signs later counts.
    #[error("an operator cannot revoke itself: another one can, or the authority")]
    Oneself,
    /// The signature is wrong.
    #[error("the revocation's signature does not verify")]
    BadSignature,
    /// The set holds [`MAX_REVOCATIONS`].
    #[error("there are too many revocations")]
    Full,
}

/// Who signed a revocation.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
enum By {
    Root([u8; 8]),
    Operator(MemberId),
}

impl By {
    fn of(revocation: &Revocation) -> By {
        match revocation.issuer {
            Issuer::Root(id) => By::Root(id),
            Issuer::Member(member, _) => By::Operator(member),
        }
    }
}

/// What everybody has heard of as revoked.
#[derive(Clone, Debug, Default)]
pub struct RevocationSet {
    /// What is in force: for each target one revocation of everybody who revoked it, the one with the earliest cutoff.
    by_target: BTreeMap<RevocationTarget, BTreeMap<By, Signed<Revocation>>>,
    /// By operators that are revoked.
    suspended: BTreeMap<(RevocationTarget, By), Signed<Revocation>>,
    len: usize,
    /// How many revocations each operator has signed, in force or not.
    signed: BTreeMap<MemberId, usize>,
    /// Members revoked by id or by key, with the earliest cutoff.
    members: BTreeMap<MemberId, u64>,
    /// Of each bucket, the XOR of a hash of each target in it.
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
    /// Whether the operator's certificate has expired since does not matter: everybody must come to the same set, in
    /// whichever order they hear of things.
    ///
    /// # Errors
    /// [`RevocationError`]; the set is unchanged then.
    pub fn insert(
        &mut self,
        trust: &TrustChain,
        operator: Option<&VerifiedCertificate>,
        revocation: Signed<Revocation>,
    ) -> Result<bool, RevocationError> {
        self.insert_by(trust, TrustChain::root, operator, revocation)
    }

    /// As [`RevocationSet::insert`], for one that was taken before and kept on this node's disk: its root may have been
    /// replaced since.
    ///
    /// # Errors
    /// [`RevocationError`]; the set is unchanged then.
    pub fn keep(
        &mut self,
        trust: &TrustChain,
        operator: Option<&VerifiedCertificate>,
        revocation: Signed<Revocation>,
    ) -> Result<bool, RevocationError> {
        self.insert_by(trust, TrustChain::root_ever, operator, revocation)
    }

    fn insert_by(
        &mut self,
        trust: &TrustChain,
        root: impl for<'a> Fn(&'a TrustChain, &[u8; 8]) -> Option<&'a IdentityKey>,
        operator: Option<&VerifiedCertificate>,
        revocation: Signed<Revocation>,
    ) -> Result<bool, RevocationError> {
        let value = revocation.body();
        if value.mesh != trust.mesh() {
            return Err(RevocationError::WrongMesh);
        }
        let (target, by, cutoff_s) = (value.target, By::of(value), value.cutoff_s);
        match self.by_target.get(&target).and_then(|signed| signed.get(&by)) {
            Some(known) if known.body().cutoff_s <= cutoff_s => return Ok(false),
            Some(_) => {}
            None if self
                .suspended
                .get(&(target, by))
                .is_some_and(|known| known.body().cutoff_s <= cutoff_s) =>
            {
                return Err(RevocationError::SignerRevoked);
            }
            None if self.len >= MAX_REVOCATIONS => return Err(RevocationError::Full),
            None => {}
        }
        let key = match &value.issuer {
            Issuer::Root(id) => root(trust, id).ok_or(RevocationError::UnknownRoot)?,
            Issuer::Member(member, _) => {
                if member_of(&target) == Some(*member) {
                    return Err(RevocationError::Oneself);
                }
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
        self.forget(target, by);
        self.put(target, by, revocation);
        // Only who has signed something can be hindered, or accused of having.
        let accuses = member_of(&target).is_some_and(|member| self.signed.contains_key(&member));
        let accused = matches!(by, By::Operator(signer) if self.is_accused(signer));
        if accuses || accused {
            let moved = self.settle();
            if !self.by_target.get(&target).is_some_and(|signed| signed.contains_key(&by)) {
                if self.suspended.keys().filter(|(_, signer)| *signer == by).count() > MAX_LATE {
                    self.forget(target, by);
                }
                // Of no force itself, it may still close a circle, and so decide about others: that is news.
                return if moved > 1 { Ok(true) } else { Err(RevocationError::SignerRevoked) };
            }
        }
        Ok(true)
    }

    /// Puts a revocation in force.
    fn put(&mut self, target: RevocationTarget, by: By, revocation: Signed<Revocation>) {
        let before = self.cutoff(&target);
        let signed = self.by_target.entry(target).or_default();
        if signed.insert(by, revocation).is_none() {
            self.len += 1;
            if let By::Operator(signer) = by {
                *self.signed.entry(signer).or_default() += 1;
            }
        }
        self.note(target, before);
    }

    /// Suspends a revocation, where there is room for that.
    fn suspend(&mut self, target: RevocationTarget, by: By) {
        let before = self.cutoff(&target);
        let Some(signed) = self.by_target.get_mut(&target) else { return };
        let Some(revocation) = signed.remove(&by) else { return };
        if signed.is_empty() {
            self.by_target.remove(&target);
        }
        self.len -= 1;
        self.note(target, before);
        if self.suspended.len() < MAX_SUSPENDED {
            self.suspended.insert((target, by), revocation);
        } else {
            self.uncount(by);
        }
    }

    fn forget(&mut self, target: RevocationTarget, by: By) {
        if self.suspended.remove(&(target, by)).is_some() {
            self.uncount(by);
        }
    }

    fn uncount(&mut self, by: By) {
        let By::Operator(signer) = by else { return };
        if let Some(count) = self.signed.get_mut(&signer) {
            *count -= 1;
            if *count == 0 {
                self.signed.remove(&signer);
            }
        }
    }

    /// Brings summary and members up to date for a target that had the cutoff `before`.
    fn note(&mut self, target: RevocationTarget, before: Option<u64>) {
        let after = self.cutoff(&target);
        let bucket = bucket(&target);
        for cutoff_s in before.into_iter().chain(after) {
            self.summary[bucket] ^= mark(&target, cutoff_s);
        }
        let Some(member) = member_of(&target) else { return };
        let cutoffs = self.by_target.iter().filter(|(target, _)| member_of(target) == Some(member));
        let earliest = match target {
            // Nobody is revoked by key as a rule: only then is there something to look for.
            RevocationTarget::Member(_) if !self.members.contains_key(&member) => after,
            _ => cutoffs.flat_map(|(_, signed)| signed.values()).map(|one| one.body().cutoff_s).min(),
        };
        match earliest {
            Some(cutoff_s) => self.members.insert(member, cutoff_s),
            None => self.members.remove(&member),
        };
    }

    /// The earliest cutoff of a target that is revoked.
    fn cutoff(&self, target: &RevocationTarget) -> Option<u64> {
        self.by_target.get(target)?.values().map(|one| one.body().cutoff_s).min()
    }

    fn everything(&self) -> impl Iterator<Item = (&RevocationTarget, &By)> + '_ {
        let in_force =
            self.by_target.iter().flat_map(|(target, signed)| signed.keys().map(move |by| (target, by)));
        in_force.chain(self.suspended.keys().map(|(target, by)| (target, by)))
    }

    fn is_accused(&self, member: MemberId) -> bool {
        self.everything().any(|(target, _)| member_of(target) == Some(member))
    }

    /// Decides anew which revocations are in force. Returns how many of them are not any more, or are again.
    fn settle(&mut self) -> usize {
        let standing = Standing::of(self.everything().map(|(target, by)| (*by, member_of(target))));
        let fall: Vec<(RevocationTarget, By)> = self
            .by_target
            .iter()
            .flat_map(|(target, signed)| signed.keys().map(|by| (*target, *by)))
            .filter(|(target, by)| !standing.holds(*by, member_of(target)))
            .collect();
        let rise: Vec<(RevocationTarget, By)> = self
            .suspended
            .keys()
            .filter(|(target, by)| standing.holds(*by, member_of(target)))
            .copied()
            .collect();
        let moved = fall.len() + rise.len();
        for (target, by) in fall {
            self.suspend(target, by);
        }
        for (target, by) in rise {
            if let Some(revocation) = self.suspended.remove(&(target, by)) {
                self.uncount(by);
                self.put(target, by, revocation);
            }
        }
        moved
    }

    /// What an operator has revoked and is in force: to be taken over by whoever revokes the operator.
    pub fn signed_by(&self, operator: MemberId) -> impl Iterator<Item = &Revocation> + '_ {
        self.iter().map(Signed::body).filter(move |one| By::of(one) == By::Operator(operator))
    }

    /// What only roots have revoked that are trusted no more, or `leaving`: to be signed anew.
    pub fn only_by_others(&self, trust: &TrustChain, leaving: Option<&IdentityKey>) -> Vec<Revocation> {
        let leaving = leaving.map(root_key_id);
        let goes = |id: &[u8; 8]| Some(*id) == leaving || trust.root(id).is_none();
        let anew = |signed: &BTreeMap<By, Signed<Revocation>>| {
            let by_leaving = signed.iter().filter(|(by, _)| matches!(by, By::Root(id) if goes(id)));
            let earliest = by_leaving.map(|(_, one)| one.body()).min_by_key(|one| one.cutoff_s)?;
            let stays = signed.iter().any(|(by, one)| {
                matches!(by, By::Root(id) if !goes(id)) && one.body().cutoff_s <= earliest.cutoff_s
            });
            (!stays).then(|| earliest.clone())
        };
        self.by_target.values().filter_map(anew).collect()
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
        self.iter().filter(|revocation| {
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
        for target in self.by_target.keys() {
            update(&mut hash, target);
            hash.update(self.cutoff(target).unwrap_or_default().to_be_bytes());
        }
        let hash = hash.finalize();
        std::array::from_fn(|i| hash[i])
    }

    /// The revocations in force, ordered by target.
    pub fn iter(&self) -> impl Iterator<Item = &Signed<Revocation>> + '_ {
        self.by_target.values().flat_map(BTreeMap::values)
    }

    /// Number of targets.
    pub fn len(&self) -> usize {
        self.by_target.len()
    }

    /// Whether nothing is revoked.
    pub fn is_empty(&self) -> bool {
        self.by_target.is_empty()
    }
}

/// The member that a target is about, unless it is only one of its certificates.
fn member_of(target: &RevocationTarget) -> Option<MemberId> {
    match target {
        RevocationTarget::Member(member) => Some(*member),
        RevocationTarget::Key(key) => Some(member_id(key)),
        RevocationTarget::Serial(_) => None,
    }
}

/// Which operators' revocations hold.
struct Standing {
    /// Operators that are revoked.
    down: BTreeSet<MemberId>,
    /// Of operators in a circle, who revoked whom that fell: that holds.
    circles: BTreeSet<(MemberId, MemberId)>,
}

impl Standing {
    /// From everything that was signed: by whom, and about whom.
    fn of(revocations: impl Iterator<Item = (By, Option<MemberId>)>) -> Standing {
        let (mut down, mut edges, mut signers) = (BTreeSet::new(), BTreeSet::new(), BTreeSet::new());
        for (by, about) in revocations {
            match (by, about) {
                (By::Root(_), Some(member)) => drop(down.insert(member)),
                (By::Operator(signer), about) => {
                    signers.insert(signer);
                    edges.extend(about.map(|member| (signer, member)));
                }
                (By::Root(_), None) => {}
            }
        }
        // Who has signed nothing hinders nobody.
        edges.retain(|(_, about)| signers.contains(about));
        let mut circles = BTreeSet::new();
        loop {
            edges.retain(|(signer, _)| !down.contains(signer));
            let accused: BTreeSet<MemberId> = edges.iter().map(|(_, about)| *about).collect();
            let before = down.len();
            down.extend(
                edges.iter().filter(|(signer, _)| !accused.contains(signer)).map(|(_, about)| *about),
            );
            if down.len() > before {
                continue;
            }
            // Everybody left is accused by somebody left.
            let circle: Vec<_> =
                edges.iter().filter(|(signer, about)| reaches(&edges, *about, *signer)).copied().collect();
            let accusers = |about: MemberId| circle.iter().filter(|(_, other)| *other == about).count();
            let most = circle.iter().map(|(_, about)| accusers(*about)).max();
            let falls: Vec<_> =
                circle.iter().filter(|(_, about)| Some(accusers(*about)) == most).copied().collect();
            down.extend(falls.iter().map(|(_, about)| *about));
            circles.extend(falls);
            if down.len() == before {
                return Standing { down, circles };
            }
        }
    }

    fn holds(&self, by: By, about: Option<MemberId>) -> bool {
        match (by, about) {
            (By::Root(_), _) => true,
            (By::Operator(signer), _) if !self.down.contains(&signer) => true,
            (By::Operator(signer), Some(about)) => self.circles.contains(&(signer, about)),
            (By::Operator(_), None) => false,
        }
    }
}

/// Whether accusations lead from one operator to another.
fn reaches(edges: &BTreeSet<(MemberId, MemberId)>, from: MemberId, to: MemberId) -> bool {
    let (mut seen, mut next) = (BTreeSet::from([from]), vec![from]);
    while let Some(at) = next.pop() {
        if at == to {
            return true;
        }
        let onward = edges.iter().filter(|(signer, _)| *signer == at).map(|(_, about)| *about);
        next.extend(onward.filter(|about| seen.insert(*about)));
    }
    false
}

#[cfg(test)]
impl RevocationSet {
    /// Panics unless what is kept beside the revocations goes with them.
    pub(super) fn assert_sound(&self) {
        assert_eq!(self.len, self.by_target.values().map(BTreeMap::len).sum::<usize>());
        let (mut signed, mut summary, mut members) = (BTreeMap::new(), [0; BUCKETS], BTreeMap::new());
        for (_, by) in self.everything() {
            if let By::Operator(signer) = by {
                *signed.entry(*signer).or_default() += 1;
            }
        }
        for target in self.by_target.keys() {
            let cutoff_s = self.cutoff(target).expect("no target is kept without a revocation");
            summary[bucket(target)] ^= mark(target, cutoff_s);
            if let Some(member) = member_of(target) {
                members.entry(member).and_modify(|least| *least = cutoff_s.min(*least)).or_insert(cutoff_s);
            }
        }
        assert_eq!((&self.signed, &self.summary, &self.members), (&signed, &summary, &members));
    }

    /// How many are kept of operators that are revoked.
    pub(super) fn suspended(&self) -> usize {
        self.suspended.len()
    }

    /// As if there were so many.
    pub(super) fn pretend(&mut self, len: usize) {
        self.len = len;
    }
}
