//! The table of members: what of certificates, key epochs, revocations, and trust bundles is known here, and what follows.
//!
//! Certificates arrive in any order and from anybody, and all nodes must come to the same table: the certificate with the
//! highest serial counts for a member, the same revocations are in force ([`super::RevocationSet`]), and of two members certified for one address or name
//! the same one wins everywhere ([`Membership::owner`]).
//!
//! Nothing is forgotten because the clock says that it has expired: a clock can jump. Expired members merely have no
//! rights, and make room for others when the table is full.
//!
//! A trust bundle that drops a root leaves those whom it certified without support ([`Membership::unsupported`]). They stay
//! for as long as the owner of the table likes, so that their new certificates, by another root, can arrive over the
//! sessions that they have; but nothing else that the dropped root has signed is taken any more.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use ipnet::IpNet;
use proto::bundle::SignedBundle;
use proto::certificate::{Certificate, Issuer, Roles};
use proto::id::{KeyEpochNumber, MemberId, MeshId, Name, Serial, TransportKey};
use proto::key_epoch::KeyEpoch;
use proto::revocation::Revocation;
use proto::signed::{Body, Signed};

use super::bundle::{BundleError, Extended, TrustChain};
use super::certificate::{CertificateError, Validity, VerifiedCertificate};
use super::epoch::{EpochError, KeyEpochs};
use super::revocation::{RevocationError, RevocationSet};
use super::secret::{BadSignature, verify_signed};
use crate::pack::pack;
use crate::time::UnixMs;

/// Bound on the number of members.
pub const MAX_MEMBERS: usize = 16_384;

/// Bound on the revoked operators whose certificates are kept, to verify what they had revoked.
pub const MAX_FORMER_OPERATORS: usize = 256;

/// Bound on the revoked members that are kept, for the case that the revocation is undone.
const MAX_FORMER: usize = 1024;

/// What follows from a revocation.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Revoked {
    /// Members that are out, whose sessions are to be closed and whose records dropped.
    pub ended: Vec<MemberId>,
    /// Members that are in again: an operator that had revoked them was revoked, and nobody has taken that over.
    pub readmitted: Vec<MemberId>,
}

/// A member: a certificate that verifies and was not revoked, and the key epochs known.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Member {
    certificate: VerifiedCertificate,
    epochs: KeyEpochs,
}

impl Member {
    /// The newest certificate.
    pub fn certificate(&self) -> &VerifiedCertificate {
        &self.certificate
    }

    /// The newest key epochs.
    pub fn epochs(&self) -> &KeyEpochs {
        &self.epochs
    }

    /// The certified name; another member may have the better claim to it.
    pub fn name(&self) -> &Name {
        &self.certificate.body().name
    }

    /// Checks that this member signed `signed`.
    ///
    /// # Errors
    /// [`BadSignature`] where it did not.
    pub fn verify<T: Body>(&self, signed: &Signed<T>) -> Result<(), BadSignature> {
        verify_signed(&self.certificate.body().identity, signed)
    }
}

/// What became of a certificate.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Added {
    /// The member is new here.
    New,
    /// It took the place of one with a lower serial.
    Renewed,
    /// It was known.
    Known,
    /// One with a higher serial is known; the sender should get that.
    Older,
}

/// Why a certificate is not in the table.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
pub enum AddError {
    /// It does not verify.
    #[error(transparent)]
    Certificate(#[from] CertificateError),
    /// It, its member, its key, or its issuer was revoked.
    #[error("the certificate was revoked")]
    Revoked,
    /// Its issuer was revoked, and it was not known here before.
    #[error("the certificate is by an issuer that was revoked")]
    IssuerRevoked,
    /// Another certificate of this member has the same serial: an alarm, an issuer's state was copied or rolled back.
    #[error("two different certificates of serial {} exist", .0.0)]
    Conflict(Serial),
    /// The table holds [`MAX_MEMBERS`], and none has expired.
    #[error("there are too many members")]
    Full,
}

/// Two members are certified for the same address or name; the winner has it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Clash {
    /// What both claim.
    pub over: Claimed,
    /// Who has it.
    pub winner: MemberId,
    /// Who goes without.
    pub loser: MemberId,
}

/// What members can clash over.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Claimed {
    /// An overlay address.
    Address(IpAddr),
    /// A name.
    Name(Name),
}

/// A claim to an address or name. The least one wins: a root's word counts more than an issuer's, then the id decides.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
struct Claim {
    by_issuer: bool,
    member: MemberId,
}

/// Who claims what: addresses, or names. Hardly ever is there more than one claim to anything, and of ten thousand members
/// a list for each would be most of it.
#[derive(Clone, Debug)]
struct Claims<K>(BTreeSet<(K, Claim)>);

impl<K: Ord + Clone> Claims<K> {
    /// Who claims `over`, the best claim first.
    fn of(&self, over: &K) -> impl Iterator<Item = MemberId> {
        let first = Claim { by_issuer: false, member: MemberId::default() };
        let from = self.0.range((over.clone(), first)..);
        from.take_while(move |(key, _)| key == over).map(|(_, claim)| claim.member)
    }

    /// What more than one member claims, with all of them, the best claim first.
    fn contested(&self) -> Vec<(K, Vec<MemberId>)> {
        let all: Vec<&(K, Claim)> = self.0.iter().collect();
        let several = all.chunk_by(|(a, _), (b, _)| a == b).filter(|claims| claims.len() > 1);
        several
            .map(|claims| (claims[0].0.clone(), claims.iter().map(|(_, claim)| claim.member).collect()))
            .collect()
    }
}

impl<K> Default for Claims<K> {
    fn default() -> Self {
        Self(BTreeSet::new())
    }
}

/// Everything known about who belongs to the mesh.
#[derive(Clone, Debug)]
pub struct Membership {
    trust: TrustChain,
    revocations: RevocationSet,
    /// Operators that were revoked. What they had revoked stays so, and everybody must be able to verify it.
    former_operators: BTreeMap<MemberId, VerifiedCertificate>,
    /// Members that were revoked.
    former: BTreeMap<MemberId, Box<Member>>,
    /// Boxed, for a tree's nodes are half empty.
    members: BTreeMap<MemberId, Box<Member>>,
    /// Beginnings of the transport keys that handshakes may be made with; the keys themselves are with their members.
    by_key: BTreeSet<(u64, MemberId)>,
    addresses: Claims<IpAddr>,
    names: Claims<Name>,
}

impl Membership {
    /// A table without members.
    pub fn new(trust: TrustChain) -> Self {
        Self {
            trust,
            revocations: RevocationSet::new(),
            former_operators: BTreeMap::new(),
            former: BTreeMap::new(),
            members: BTreeMap::new(),
            by_key: BTreeSet::new(),
            addresses: Claims::default(),
            names: Claims::default(),
        }
    }

    /// Makes its trees as small as they can be, which matters when much has come at once.
    pub fn pack(&mut self) {
        pack(&mut self.members);
        pack(&mut self.by_key);
        pack(&mut self.addresses.0);
        pack(&mut self.names.0);
    }

    /// The mesh.
    pub fn mesh(&self) -> MeshId {
        self.trust.mesh()
    }

    /// The chain of trust bundles.
    pub fn trust(&self) -> &TrustChain {
        &self.trust
    }

    /// The revocations.
    pub fn revocations(&self) -> &RevocationSet {
        &self.revocations
    }

    /// Takes a certificate; `issuer` is that of the member who issued it, if it came along. One that is in the table serves
    /// as well.
    ///
    /// # Errors
    /// [`AddError`]; the table is unchanged then.
    pub fn add_certificate(
        &mut self,
        wall: UnixMs,
        signed: Signed<Certificate>,
        issuer: Option<Signed<Certificate>>,
    ) -> Result<Added, AddError> {
        let certificate = signed.body();
        let (member, serial) = (certificate.member, certificate.serial);
        let known = self.members.get(&member).map(|known| &known.certificate);
        match known {
            Some(known) if *known.signed() == signed => return Ok(Added::Known),
            Some(known) if serial < known.body().serial => return Ok(Added::Older),
            _ => {}
        }
        if self.revocations.ends(certificate) {
            if certificate.roles.contains(Roles::OPERATOR)
                && let Ok(verified) = self.verify(signed, issuer)
            {
                self.keep_operator(verified);
            }
            return Err(AddError::Revoked);
        }
        // When it was issued, its issuer has said itself: whoever stole the issuer's key says what he likes.
        if matches!(certificate.issuer, Issuer::Member(issuer, _) if self.revocations.has_member(issuer)) {
            return Err(AddError::IssuerRevoked);
        }
        let verified = self.verify(signed, issuer)?;
        if known.is_some_and(|known| known.body().serial == serial) {
            return Err(AddError::Conflict(serial));
        }
        if known.is_none() && self.members.len() >= MAX_MEMBERS && !self.evict_expired(wall) {
            return Err(AddError::Full);
        }
        Ok(self.store(verified))
    }

    /// Takes a certificate that this node has taken before and kept on its own disk: the root that it goes back to may have
    /// been dropped, or its issuer revoked, since.
    ///
    /// # Errors
    /// [`AddError`]; the table is unchanged then.
    pub fn keep_certificate(
        &mut self,
        wall: UnixMs,
        signed: Signed<Certificate>,
        issuer: Option<Signed<Certificate>>,
    ) -> Result<Added, AddError> {
        let certificate = signed.body();
        let member = certificate.member;
        match self.members.get(&member).map(|known| &known.certificate) {
            Some(known) if *known.signed() == signed => return Ok(Added::Known),
            Some(known) if certificate.serial <= known.body().serial => return Ok(Added::Older),
            _ => {}
        }
        if self.revocations.ends(certificate) {
            return Err(AddError::Revoked);
        }
        let issuer = match certificate.issuer {
            Issuer::Root(_) => None,
            Issuer::Member(by, serial) => {
                let in_table = self.members.get(&by).map(|issuer| issuer.certificate.clone());
                let kept =
                    issuer.and_then(|one| VerifiedCertificate::verify_kept(&self.trust, one, None).ok());
                in_table.filter(|one| one.body().serial >= serial).or(kept)
            }
        };
        let verified = VerifiedCertificate::verify_kept(&self.trust, signed, issuer.as_ref())?;
        if self.members.len() >= MAX_MEMBERS
            && !self.members.contains_key(&member)
            && !self.evict_expired(wall)
        {
            return Err(AddError::Full);
        }
        Ok(self.store(verified))
    }

    /// Takes a key epoch. Returns whether it is new here, and so to be passed on.
    ///
    /// # Errors
    /// [`EpochError`]; [`EpochError::Conflict`] and [`EpochError::KeyTaken`] are alarms.
    pub fn add_key_epoch(&mut self, epoch: Signed<KeyEpoch>) -> Result<bool, EpochError> {
        let value = epoch.body();
        let (id, key, number) = (value.member, value.key, value.number);
        if !self.members.contains_key(&id) {
            return Err(EpochError::UnknownMember);
        }
        // A member could sign somebody else's public key, and so have the other's handshakes taken for its own.
        if self.with_key(&key).is_some_and(|(holder, _)| holder != id) {
            return Err(EpochError::KeyTaken(number));
        }
        let member = self.members.get_mut(&id).ok_or(EpochError::UnknownMember)?;
        let before: Vec<_> = member.epochs.iter().map(|epoch| epoch.body().key).collect();
        let new = member.epochs.insert(member.certificate.body(), epoch)?;
        if new {
            self.index_keys(id, before);
        }
        Ok(new)
    }

    /// A member has said, in a record of its own, that it uses no key epochs before `oldest` any more: handshakes made with
    /// those are refused from now on. Returns whether that is news.
    pub fn retire_key_epochs(&mut self, member: MemberId, oldest: KeyEpochNumber) -> bool {
        let Some(known) = self.members.get_mut(&member) else { return false };
        let before: Vec<_> = known.epochs.iter().map(|epoch| epoch.body().key).collect();
        let news = known.epochs.retire_below(oldest);
        if news {
            self.index_keys(member, before);
        }
        news
    }

    /// Brings the index of keys up to date for one member, who had the keys `before`.
    fn index_keys(&mut self, id: MemberId, before: Vec<TransportKey>) {
        for key in before {
            self.by_key.remove(&(beginning(&key), id));
        }
        let Some(member) = self.members.get(&id) else { return };
        for epoch in member.epochs.accepted() {
            self.by_key.insert((beginning(&epoch.body().key), id));
        }
    }

    /// Takes a revocation. Returns what follows from it, or `None` if it was known.
    ///
    /// # Errors
    /// [`RevocationError`]; nothing changed then.
    pub fn add_revocation(
        &mut self,
        revocation: Signed<Revocation>,
    ) -> Result<Option<Revoked>, RevocationError> {
        let operator = self.operator_behind(&revocation);
        let news = self.revocations.insert(&self.trust, operator.as_ref(), revocation)?;
        Ok(news.then(|| self.apply_revocations()))
    }

    /// Takes a revocation that this node has taken before and kept on its own disk: the root that signed it may have been
    /// dropped since. Returns as [`Membership::add_revocation`].
    ///
    /// # Errors
    /// [`RevocationError`]; nothing changed then.
    pub fn keep_revocation(
        &mut self,
        revocation: Signed<Revocation>,
    ) -> Result<Option<Revoked>, RevocationError> {
        let operator = self.operator_behind(&revocation);
        let news = self.revocations.keep(&self.trust, operator.as_ref(), revocation)?;
        Ok(news.then(|| self.apply_revocations()))
    }

    fn operator_behind(&self, revocation: &Signed<Revocation>) -> Option<VerifiedCertificate> {
        match revocation.body().issuer {
            Issuer::Root(_) => None,
            Issuer::Member(member, _) => self.certificate_of_operator(member).cloned(),
        }
    }

    /// Takes out who is revoked, and in who is not any more.
    fn apply_revocations(&mut self) -> Revoked {
        let ended =
            self.members.iter().filter(|(_, member)| self.revocations.ends(member.certificate.body()));
        let ended: Vec<_> = ended.map(|(id, _)| *id).collect();
        for id in &ended {
            let Some(member) = self.members.get(id).cloned() else { continue };
            if member.certificate.body().roles.contains(Roles::OPERATOR) {
                self.keep_operator(member.certificate.clone());
            }
            self.remove(*id);
            if self.former.len() < MAX_FORMER {
                self.former.insert(*id, member);
            }
        }
        let back: Vec<MemberId> = self
            .former
            .iter()
            .filter(|(_, member)| !self.revocations.ends(member.certificate.body()))
            .map(|(id, _)| *id)
            .collect();
        let mut readmitted = Vec::new();
        for id in back {
            let Some(member) = self.former.remove(&id).filter(|_| !self.members.contains_key(&id)) else {
                continue;
            };
            self.store(member.certificate);
            if let Some(known) = self.members.get_mut(&id) {
                known.epochs = member.epochs;
            }
            self.index_keys(id, Vec::new());
            readmitted.push(id);
        }
        Revoked { ended, readmitted }
    }

    /// The certificate by which a revocation of `member`'s is verified: the member's own, even if it was revoked since.
    pub fn certificate_of_operator(&self, member: MemberId) -> Option<&VerifiedCertificate> {
        let own = self.members.get(&member).map(|member| &member.certificate);
        own.or_else(|| self.former_operators.get(&member))
    }

    fn keep_operator(&mut self, certificate: VerifiedCertificate) {
        let member = certificate.body().member;
        if self.former_operators.len() < MAX_FORMER_OPERATORS || self.former_operators.contains_key(&member) {
            self.former_operators.insert(member, certificate);
        }
    }

    /// Takes the next version of the trust bundle. Returns whether it is news. Members whose certificates it no longer
    /// supports stay: see [`Membership::unsupported`].
    ///
    /// # Errors
    /// [`BundleError`]; nothing changed then. [`BundleError::Fork`] is an alarm.
    pub fn add_bundle(&mut self, bundle: SignedBundle) -> Result<bool, BundleError> {
        Ok(self.trust.extend(bundle)? != Extended::Known)
    }

    /// Members whose certificates go back to a root that is trusted no more, or to an issuer that is no member any more.
    pub fn unsupported(&self) -> Vec<MemberId> {
        let without = self.members.keys().filter(|member| !self.is_supported(**member));
        without.copied().collect()
    }

    /// Whether a member's certificate goes back to a root that is trusted, by an issuer that is a member.
    pub fn is_supported(&self, member: MemberId) -> bool {
        let Some(member) = self.members.get(&member) else { return false };
        let root_holds = |certificate: &VerifiedCertificate| match certificate.body().issuer {
            Issuer::Root(id) => self.trust.root(&id).is_some(),
            Issuer::Member(..) => false,
        };
        match member.certificate.body().issuer {
            Issuer::Root(_) => root_holds(&member.certificate),
            Issuer::Member(issuer, _) => {
                self.members.get(&issuer).is_some_and(|issuer| root_holds(&issuer.certificate))
            }
        }
    }

    /// Takes members without support out of the table, until they show newer certificates; `but` stays. Returns them.
    pub fn drop_unsupported(&mut self, but: MemberId) -> Vec<MemberId> {
        let mut dropped = self.unsupported();
        dropped.retain(|member| *member != but);
        dropped.iter().for_each(|member| self.remove(*member));
        dropped
    }

    /// A member by id. Its time may be over: see [`Membership::is_honoured`].
    pub fn get(&self, member: MemberId) -> Option<&Member> {
        self.members.get(&member).map(Box::as_ref)
    }

    /// The member and epoch that a transport key belongs to.
    pub fn with_key(&self, key: &TransportKey) -> Option<(MemberId, KeyEpochNumber)> {
        let begin = beginning(key);
        let from = self.by_key.range((begin, MemberId::default())..);
        from.take_while(|(other, _)| *other == begin).find_map(|(_, member)| {
            let epoch = self.members.get(member)?.epochs.with_key(key)?;
            Some((*member, epoch.body().number))
        })
    }

    /// The honoured member that has a name.
    pub fn with_name(&self, wall: UnixMs, name: &Name) -> Option<MemberId> {
        self.winner(wall, self.names.of(name))
    }

    /// All members by ascending id, also those whose time is over.
    pub fn iter(&self) -> impl Iterator<Item = (MemberId, &Member)> + '_ {
        self.members.iter().map(|(id, member)| (*id, member.as_ref()))
    }

    /// Number of members in the table.
    pub fn len(&self) -> usize {
        self.members.len()
    }

    /// Whether the table is empty.
    pub fn is_empty(&self) -> bool {
        self.members.is_empty()
    }

    /// What the clock says about a member's certificate; `None` if it is no member.
    pub fn validity(&self, wall: UnixMs, member: MemberId) -> Option<Validity> {
        self.members.get(&member).map(|member| member.certificate.validity(wall))
    }

    /// Whether `member` may take part: certified, not revoked, and within its time or the grace after it.
    pub fn is_honoured(&self, wall: UnixMs, member: MemberId) -> bool {
        self.validity(wall, member).is_some_and(Validity::is_honoured)
    }

    /// The next moment after `wall` at which the clock alone changes what a member may do.
    pub fn next_change(&self, wall: UnixMs) -> Option<UnixMs> {
        let changes = self.members.values().flat_map(|member| Validity::changes(member.certificate.body()));
        changes.filter(|change| *change > wall).min()
    }

    /// The member that an overlay address belongs to: of those certified for it and honoured, the one certified by a root
    /// rather than by an issuer, then the one with the lowest id.
    pub fn owner(&self, wall: UnixMs, address: &IpAddr) -> Option<MemberId> {
        self.winner(wall, self.addresses.of(address))
    }

    /// The addresses that are certified for `member`, or derived, and not lost to another.
    pub fn addresses(&self, wall: UnixMs, member: MemberId) -> Vec<IpAddr> {
        let certified = self.members.get(&member).into_iter().flat_map(|found| found.certificate.addresses());
        certified.filter(|address| self.may_use(wall, member, address)).collect()
    }

    /// Whether `member` may have `address` as its own.
    pub fn may_use(&self, wall: UnixMs, member: MemberId, address: &IpAddr) -> bool {
        self.owner(wall, address) == Some(member)
    }

    /// Whether `member` may announce `prefix`.
    pub fn may_announce(&self, wall: UnixMs, member: MemberId, prefix: &IpNet) -> bool {
        self.is_honoured(wall, member)
            && self.members.get(&member).is_some_and(|member| member.certificate.may_announce(prefix))
    }

    /// Every clash between honoured members, addresses before names.
    pub fn clashes(&self, wall: UnixMs) -> Vec<Clash> {
        let addresses = self.addresses.contested();
        let names = self.names.contested();
        let over_addresses =
            addresses.into_iter().map(|(address, claims)| (Claimed::Address(address), claims));
        let over_names = names.into_iter().map(|(name, claims)| (Claimed::Name(name), claims));
        let mut clashes = Vec::new();
        for (over, claims) in over_addresses.chain(over_names) {
            let mut honoured = claims.into_iter().filter(|id| self.is_honoured(wall, *id));
            let Some(winner) = honoured.next() else { continue };
            clashes.extend(honoured.map(|loser| Clash { over: over.clone(), winner, loser }));
        }
        clashes
    }

    /// All addresses certified for members, honoured or not, which a new member should not get.
    pub fn certified_addresses(&self) -> impl Iterator<Item = IpAddr> + '_ {
        self.addresses.0.iter().map(|(address, _)| *address)
    }

    fn verify(
        &self,
        signed: Signed<Certificate>,
        issuer: Option<Signed<Certificate>>,
    ) -> Result<VerifiedCertificate, AddError> {
        let Issuer::Member(issuer_id, serial) = signed.body().issuer else {
            return Ok(VerifiedCertificate::verify(&self.trust, signed, None)?);
        };
        let in_table = self.members.get(&issuer_id).map(|issuer| &issuer.certificate);
        let in_table = in_table.filter(|_| self.is_supported(issuer_id));
        if let Some(in_table) = in_table.filter(|in_table| in_table.body().serial >= serial) {
            return Ok(VerifiedCertificate::verify(&self.trust, signed, Some(in_table))?);
        }
        let issuer = issuer.ok_or(CertificateError::UnknownIssuer)?;
        if self.revocations.has_serial(issuer.body().serial) {
            return Err(AddError::Revoked);
        }
        let issuer = VerifiedCertificate::verify(&self.trust, issuer, None)?;
        Ok(VerifiedCertificate::verify(&self.trust, signed, Some(&issuer))?)
    }

    fn store(&mut self, certificate: VerifiedCertificate) -> Added {
        let id = certificate.body().member;
        let epochs = self.unlink(id).map(|old| old.epochs);
        let added = if epochs.is_some() { Added::Renewed } else { Added::New };
        let claim = Claim { by_issuer: !certificate.is_by_root(), member: id };
        for address in certificate.addresses() {
            self.addresses.0.insert((address, claim));
        }
        self.names.0.insert((certificate.body().name.clone(), claim));
        self.members.insert(id, Box::new(Member { certificate, epochs: epochs.unwrap_or_default() }));
        added
    }

    fn remove(&mut self, id: MemberId) {
        if let Some(member) = self.unlink(id) {
            for epoch in member.epochs.iter() {
                self.by_key.remove(&(beginning(&epoch.body().key), id));
            }
        }
    }

    /// Takes a member out with its claims, but not its keys.
    fn unlink(&mut self, id: MemberId) -> Option<Box<Member>> {
        let member = self.members.remove(&id)?;
        let claim = Claim { by_issuer: !member.certificate.is_by_root(), member: id };
        for address in member.certificate.addresses() {
            self.addresses.0.remove(&(address, claim));
        }
        self.names.0.remove(&(member.name().clone(), claim));
        Some(member)
    }

    fn evict_expired(&mut self, wall: UnixMs) -> bool {
        let expired = self.members.iter().find(|(_, m)| m.certificate.validity(wall) == Validity::Expired);
        let expired = expired.map(|(id, _)| *id);
        if let Some(id) = expired {
            self.remove(id);
        }
        expired.is_some()
    }

    fn winner(&self, wall: UnixMs, mut claims: impl Iterator<Item = MemberId>) -> Option<MemberId> {
        claims.find(|member| self.is_honoured(wall, *member))
    }
}

/// The first bytes of a key, which hardly any other begins with.
fn beginning(key: &TransportKey) -> u64 {
    let [a, b, c, d, e, f, g, h, ..] = key.0;
    u64::from_be_bytes([a, b, c, d, e, f, g, h])
}
