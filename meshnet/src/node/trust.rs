//! Revocations and trust bundles: telling them, hearing of them, and what follows.
//!
//! Both are pushed to every peer the moment they are known, and compared with whoever a session is made with: version and
//! digest are in each greeting. A node that was away learns from the first member that it meets.

use proto::bundle::SignedBundle;
use proto::certificate::{Certificate, Issuer, Roles};
use proto::frame::{BUCKETS, Frame};
use proto::id::MemberId;
use proto::revocation::{Revocation, RevocationTarget};
use proto::signed::Signed;

use super::gossip::frames_of;
use super::{Event, Node};
use crate::membership::{BundleError, Membership, RevocationError, member_id};
use crate::session::Advert;
use crate::time::{Now, UnixMs};

/// Trust bundles sent at once to a peer that lacks them; it asks for more.
const MAX_BUNDLES_AT_ONCE: usize = 8;
/// Revocations sent at once to a peer that lacks them; the next comparison goes on.
const MAX_REVOCATIONS_AT_ONCE: usize = 256;

/// Why this node cannot revoke.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
pub enum RevokeError {
    /// Its certificate lacks the role.
    #[error("this node's certificate does not have the operator role")]
    NotOperator,
    /// It does not verify.
    #[error(transparent)]
    Refused(#[from] RevocationError),
    /// It does not fit its format: cannot happen.
    #[error("the revocation cannot be written: {0}")]
    Encoding(#[from] proto::Error),
}

impl Node {
    /// Revokes as an operator. Returns the members whose membership that ended; empty if it was known.
    ///
    /// What an operator that is revoked had revoked before the cutoff is taken over: this node signs it too.
    ///
    /// # Errors
    /// [`RevokeError`]; nothing has changed then.
    pub fn revoke(
        &mut self,
        now: Now,
        target: RevocationTarget,
        cutoff_s: u64,
        reason: u8,
    ) -> Result<Vec<MemberId>, RevokeError> {
        let own = self.membership.get(self.me.member).ok_or(RevokeError::NotOperator)?.certificate().body();
        if !own.roles.contains(Roles::OPERATOR) {
            return Err(RevokeError::NotOperator);
        }
        let revocation = Revocation {
            mesh: self.membership.mesh(),
            target,
            created_s: now.wall.seconds(),
            cutoff_s,
            reason,
            issuer: Issuer::Member(own.member, own.serial),
        };
        let mut ended = Vec::new();
        for revocation in self.with_taken_over(revocation) {
            let signed = self.me.identity.sign_revocation(revocation)?;
            ended.extend(self.add_revocation(now, signed)?);
        }
        Ok(ended)
    }

    /// What has to be signed to revoke something: if that is an operator, first what it has revoked before the cutoff, which
    /// would be undone otherwise.
    pub fn with_taken_over(&self, revocation: Revocation) -> Vec<Revocation> {
        let operator = match &revocation.target {
            RevocationTarget::Member(member) => Some(*member),
            RevocationTarget::Key(key) => Some(member_id(key)),
            RevocationTarget::Serial(_) => None,
        };
        let signed = operator.into_iter().flat_map(|one| self.membership.revocations().signed_by(one));
        let own = match revocation.issuer {
            Issuer::Member(member, _) => Some(member),
            Issuer::Root(_) => None,
        };
        let mut taken: Vec<Revocation> = signed
            .filter(|one| one.created_s < revocation.cutoff_s)
            .filter(|one| own.is_none_or(|own| one.target != RevocationTarget::Member(own)))
            .map(|one| Revocation {
                created_s: revocation.created_s,
                issuer: revocation.issuer,
                ..one.clone()
            })
            .collect();
        taken.push(revocation);
        taken
    }

    /// Takes a revocation that was signed elsewhere, by the authority for example, and tells everybody. Returns the
    /// members whose membership that ended.
    ///
    /// # Errors
    /// [`RevokeError::Refused`]; nothing has changed then.
    pub fn add_revocation(
        &mut self,
        now: Now,
        revocation: Signed<Revocation>,
    ) -> Result<Vec<MemberId>, RevokeError> {
        let ended = self.take_revocation(now, revocation, None)?;
        self.settle(now);
        Ok(ended)
    }

    /// Takes the next version of the trust bundle, made by the authority, and tells everybody. Returns whether it is news.
    ///
    /// # Errors
    /// [`BundleError`]; nothing has changed then.
    pub fn add_bundle(&mut self, now: Now, bundle: SignedBundle) -> Result<bool, BundleError> {
        let news = self.take_bundle(now, bundle, None)?;
        self.settle(now);
        Ok(news)
    }

    /// The revocations that are known, and the certificates of who made them, to be saved.
    pub fn export_revocations(&self) -> Vec<Vec<u8>> {
        let mut certificates = Vec::new();
        let mut seen = std::collections::BTreeSet::new();
        for revocation in self.membership.revocations().iter() {
            let Issuer::Member(operator, _) = revocation.body().issuer else { continue };
            let Some(operator) = self.membership.certificate_of_operator(operator) else { continue };
            let issuer = match operator.body().issuer {
                Issuer::Member(issuer, _) => {
                    self.membership.get(issuer).map(|one| one.certificate().signed())
                }
                Issuer::Root(_) => None,
            };
            for certificate in issuer.into_iter().chain([operator.signed()]) {
                if seen.insert(certificate.body().serial) {
                    certificates.push(certificate.to_bytes());
                }
            }
        }
        certificates.extend(self.membership.revocations().iter().map(Signed::to_bytes));
        certificates
    }

    pub(super) fn learn_revocation(&mut self, now: Now, from: MemberId, revocation: Signed<Revocation>) {
        let issuer = revocation.body().issuer;
        match self.take_revocation(now, revocation, Some(from)) {
            Ok(_) => {}
            Err(RevokeError::Refused(RevocationError::UnknownIssuer)) => {
                if let Issuer::Member(member, _) = issuer {
                    // The next comparison brings the revocation again.
                    self.send_frames(now, from, None, &[Frame::Get { member, what: Frame::GET_CERTIFICATE }]);
                }
            }
            Err(_) => self.stats.objects_refused += 1,
        }
    }

    fn take_revocation(
        &mut self,
        now: Now,
        revocation: Signed<Revocation>,
        from: Option<MemberId>,
    ) -> Result<Vec<MemberId>, RevokeError> {
        let names: Vec<_> = self.membership.iter().map(|(id, member)| (id, member.name().clone())).collect();
        let Some(revoked) = self.membership.add_revocation(revocation.clone())? else {
            return Ok(Vec::new());
        };
        let ended = revoked.ended;
        let mut frames = self.operator_of(&revocation).map(|bytes| frames_of(&bytes)).unwrap_or_default();
        frames.push(Frame::Object(revocation.to_bytes()));
        let peers: Vec<MemberId> =
            self.peers.values().filter(|peer| peer.up).map(|peer| peer.member).collect();
        for peer in peers.into_iter().filter(|peer| Some(*peer) != from && !ended.contains(peer)) {
            self.send_frames(now, peer, None, &frames);
        }
        // The end comes in one datagram with the reason: of two, the first could be overtaken.
        frames.push(Frame::Close { reason: CLOSE_REVOKED });
        for member in &ended {
            self.send_frames(now, *member, None, &frames);
            self.close_peer(now, *member);
            self.lsdb.remove(*member);
            self.attached.remove(member);
            let name = names.iter().find(|(id, _)| id == member).map(|(_, name)| name.clone());
            self.events.push_back(Event::Revoked { member: *member, name });
        }
        if ended.contains(&self.me.member) {
            let others: Vec<MemberId> = self.peers.keys().copied().collect();
            others.into_iter().for_each(|member| self.close_peer(now, member));
        }
        for member in revoked.readmitted {
            self.certificate_is_new(now, member);
            let name = self.name_of(member);
            self.events.push_back(Event::Readmitted { member, name });
        }
        self.note_support(now);
        self.trust_changed(now);
        self.events.push_back(Event::RevocationsChanged);
        Ok(ended)
    }

    pub(super) fn learn_bundle(&mut self, now: Now, from: MemberId, bundle: SignedBundle) {
        match self.take_bundle(now, bundle, Some(from)) {
            Ok(_) => {}
            Err(BundleError::Gap { have, .. }) => {
                self.send_frames(now, from, None, &[Frame::GetBundles { after: have }]);
            }
            Err(error) => {
                self.stats.objects_refused += 1;
                if matches!(error, BundleError::Fork(_) | BundleError::WrongPrevious) {
                    self.correct_fork(now, from);
                }
            }
        }
    }

    fn take_bundle(
        &mut self,
        now: Now,
        bundle: SignedBundle,
        from: Option<MemberId>,
    ) -> Result<bool, BundleError> {
        if !self.membership.add_bundle(bundle.clone())? {
            return Ok(false);
        }
        let frames = frames_of(&bundle.to_bytes());
        let peers: Vec<MemberId> =
            self.peers.values().filter(|peer| peer.up).map(|peer| peer.member).collect();
        for peer in peers.into_iter().filter(|peer| Some(*peer) != from) {
            self.send_frames(now, peer, None, &frames);
        }
        self.trust_changed(now);
        self.note_support(now);
        self.renew_if_due(now);
        self.events.push_back(Event::BundlesChanged);
        Ok(true)
    }

    fn trust_changed(&mut self, now: Now) {
        self.handshaker.set_advert(Advert {
            capabilities: self.me.capabilities,
            bundle_version: self.membership.trust().version(),
            revocations: self.membership.revocations().digest(),
        });
        self.dirty.snapshot = true;
        self.dirty.record = true;
        self.routing.timer.changed(now.mono);
        self.events.push_back(Event::CacheChanged);
    }

    /// A peer has said which trust bundle and which revocations it knows.
    pub(super) fn compare_trust(&mut self, now: Now, from: MemberId, version: u32, digest: [u8; 8]) {
        let own = self.membership.trust().version();
        if version > own {
            self.send_frames(now, from, None, &[Frame::GetBundles { after: own }]);
        } else if version < own {
            self.bring_up(now, from, version);
        }
        if digest != self.membership.revocations().digest() {
            let summary = Frame::RevocationSummary(self.membership.revocations().summary());
            self.send_frames(now, from, None, &[summary]);
        }
    }

    pub(super) fn send_bundles(&mut self, now: Now, to: MemberId, after: u32) {
        let frames: Vec<Frame> = self
            .membership
            .trust()
            .after(after)
            .iter()
            .take(MAX_BUNDLES_AT_ONCE)
            .flat_map(|bundle| frames_of(&bundle.to_bytes()))
            .collect();
        self.send_frames(now, to, None, &frames);
    }

    /// Sends what a peer's summary shows that it may lack, and our own summary where ours lacks something.
    pub(super) fn handle_revocation_summary(&mut self, now: Now, from: MemberId, theirs: &[u64; BUCKETS]) {
        let revocations = self.membership.revocations();
        let own = revocations.summary();
        if own == *theirs {
            return;
        }
        let mut frames = Vec::new();
        let mut operators = std::collections::BTreeSet::new();
        // What a root has signed that was dropped nobody takes any more.
        let trusted = |revocation: &&Signed<Revocation>| match revocation.body().issuer {
            Issuer::Root(id) => self.membership.trust().root(&id).is_some(),
            Issuer::Member(..) => true,
        };
        for revocation in revocations.differing(theirs).filter(trusted).take(MAX_REVOCATIONS_AT_ONCE) {
            if let Issuer::Member(operator, _) = revocation.body().issuer
                && operators.insert(operator)
            {
                frames.extend(self.operator_of(revocation).iter().flat_map(|bytes| frames_of(bytes)));
            }
            frames.push(Frame::Object(revocation.to_bytes()));
        }
        let lacking = own.iter().zip(theirs).any(|(own, theirs)| own != theirs && *theirs != 0);
        let peer = self.peers.get_mut(&from);
        // Once in a while, so that two that cannot agree do not go round in circles.
        if let Some(peer) = peer
            .filter(|peer| lacking && peer.summarised.is_none_or(|at| now.mono.since(at) > SUMMARISE_EVERY))
        {
            peer.summarised = Some(now.mono);
            frames.push(Frame::RevocationSummary(own));
        }
        self.send_frames(now, from, None, &frames);
    }

    /// The certificate of the operator who made a revocation, which others need to verify it.
    pub(super) fn operator_of(&self, revocation: &Signed<Revocation>) -> Option<Vec<u8>> {
        match revocation.body().issuer {
            Issuer::Root(_) => None,
            Issuer::Member(member, _) => {
                self.membership.certificate_of_operator(member).map(|one| one.signed().to_bytes())
            }
        }
    }
}

/// Takes what [`Node::export_revocations`] gave. What is on disk was verified when it came; what no longer verifies is of
/// no use.
pub fn import_revocations(membership: &mut Membership, wall: UnixMs, objects: &[Vec<u8>]) {
    // Issuers come before those they certified, whatever the order.
    for _ in 0..2 {
        for certificate in objects.iter().filter_map(|object| Signed::<Certificate>::parse(object).ok()) {
            let _ = membership.keep_certificate(wall, certificate, None);
        }
    }
    for revocation in objects.iter().filter_map(|object| Signed::<Revocation>::parse(object).ok()) {
        let _ = membership.keep_revocation(revocation);
    }
}

/// In [`Frame::Close`]: the receiver was revoked.
const CLOSE_REVOKED: u8 = 2;
/// How often a summary answers a summary.
const SUMMARISE_EVERY: std::time::Duration = std::time::Duration::from_secs(1);
