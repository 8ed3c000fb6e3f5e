//! Replacing the mesh's authority, step by step, by whoever has its key.
//!
//! | stage | what is done | it ends when |
//! |---|---|---|
//! | [`Adding`](Stage::Adding) | a trust bundle that trusts the new root beside the old | it is made |
//! | [`Confirming`](Stage::Confirming) | | every member's record says that it knows that bundle |
//! | [`Reissuing`](Stage::Reissuing) | the new root issues anew what the old one had, also for members that are away | all is issued |
//! | [`Taking`](Stage::Taking) | | every member's record names its new certificate |
//! | [`Dropping`](Stage::Dropping) | a trust bundle without the old root | it is made |
//! | [`Settling`](Stage::Settling) | | every member's record says that it knows that one |
//!
//! Nothing of this is remembered: each step follows from the chain of bundles, the certificates, and the records as they
//! are, so that whoever has the two keys can go on at any point, in another process, on another node. To call it off is to
//! do the same with the roots the other way round. Waiting ends at a deadline as well, and those who are missing then come
//! back by themselves (`super::reissue`).

use proto::bundle::SignedBundle;
use proto::certificate::Issuer;
use proto::id::{IdentityKey, MemberId, Name, Serial};
use proto::revocation::Revocation;
use proto::signed::Signed;
use rand::{Rng, RngExt};

use super::Node;
use crate::membership::{
    AuthoritySecret, BundleError, IssueError, Request, Signer, VerifiedCertificate, issue, root_key_id,
    succeed,
};
use crate::time::Now;

/// Certificates that are issued at a time, so that the news of them fit into the allowance of control traffic.
const ISSUED_AT_ONCE: usize = 16;

/// What is to take the place of what.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Rollover {
    /// The root that stays.
    pub target: IdentityKey,
    /// The root that goes; absent once there is none left, as after recovery.
    pub leaving: Option<IdentityKey>,
    /// When waiting ends, in seconds since the Unix epoch.
    pub deadline_s: u64,
    /// Members that are not waited for.
    pub without: Vec<MemberId>,
}

/// How far it is.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum Stage {
    /// The new root is not trusted yet.
    Adding,
    /// Members hear that it is.
    Confirming,
    /// Certificates are being issued.
    Reissuing,
    /// Members take them.
    Taking,
    /// The old root is to be dropped.
    Dropping,
    /// Members hear that it was.
    Settling,
    /// All is over.
    Done,
}

impl Stage {
    /// The word for it, for people and scripts.
    pub fn word(self) -> &'static str {
        match self {
            Stage::Adding => "adding",
            Stage::Confirming => "confirming",
            Stage::Reissuing => "reissuing",
            Stage::Taking => "taking",
            Stage::Dropping => "dropping",
            Stage::Settling => "settling",
            Stage::Done => "done",
        }
    }
}

/// What there is to do. All of it is to be on the disk before it is given to the node, and so to the others.
pub enum Work {
    /// A trust bundle, for [`Node::add_bundle`].
    Bundle(SignedBundle),
    /// Certificates, for [`Node::add_certificate`], and revocations, for [`Node::add_revocation`].
    Objects(Vec<VerifiedCertificate>, Vec<Signed<Revocation>>),
    /// Nothing now.
    Wait,
    /// Nothing any more: the old key can be erased. Members may still have to hear of it.
    Settle,
    /// All is over.
    Done,
}

/// Why it cannot go on.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
pub enum RolloverError {
    /// The next trust bundle would not verify.
    #[error("the next trust bundle cannot be made: {0}")]
    Bundle(#[from] BundleError),
    /// A certificate cannot be issued anew.
    #[error("a certificate cannot be issued anew: {0}")]
    Issue(#[from] IssueError),
    /// A revocation does not fit its format: cannot happen.
    #[error("a revocation cannot be written: {0}")]
    Encoding(#[from] proto::Error),
}

/// How far a member is.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct RolloverMember {
    /// The member.
    pub member: MemberId,
    /// Its name.
    pub name: Name,
    /// Whether it takes part now.
    pub present: bool,
    /// The newest trust bundle that its record says it knows.
    pub bundle: Option<u32>,
    /// Whether its certificate goes back to the root that stays.
    pub reissued: bool,
    /// Whether its record names the newest certificate.
    pub took: bool,
    /// Whether it is waited for now.
    pub waited_for: bool,
}

impl Node {
    /// How far a roll-over is.
    pub fn rollover_stage(&self, now: Now, rollover: &Rollover) -> Stage {
        let trust = self.membership.trust();
        let over = now.wall.seconds() >= rollover.deadline_s;
        let Some(since) = trust.trusted_since(&rollover.target) else { return Stage::Adding };
        let leaving = rollover.leaving.filter(|root| trust.current().roots.contains(root));
        let missing = |stage| !over && !self.rollover_missing(now, rollover, stage).is_empty();
        if self.knows_bundle(now, rollover, since).next().is_some() && !over && leaving.is_some() {
            return Stage::Confirming;
        }
        if !self.to_reissue(now, rollover).is_empty() || !self.to_sign_anew(rollover).is_empty() {
            return Stage::Reissuing;
        }
        match leaving {
            _ if missing(Stage::Taking) => Stage::Taking,
            Some(_) => Stage::Dropping,
            None if missing(Stage::Settling) => Stage::Settling,
            None => Stage::Done,
        }
    }

    /// Whom a stage waits for.
    pub fn rollover_missing(&self, now: Now, rollover: &Rollover, stage: Stage) -> Vec<MemberId> {
        let trust = self.membership.trust();
        match stage {
            Stage::Confirming => match trust.trusted_since(&rollover.target) {
                Some(since) => self.knows_bundle(now, rollover, since).collect(),
                None => Vec::new(),
            },
            Stage::Taking => {
                let others = self.waited_for(now, rollover);
                others.filter(|member| !self.took_certificate(*member)).collect()
            }
            Stage::Settling => self.knows_bundle(now, rollover, trust.version()).collect(),
            Stage::Adding | Stage::Reissuing | Stage::Dropping | Stage::Done => Vec::new(),
        }
    }

    /// What is to be done next. `target` is the secret of the root that stays, `leaving` that of the one that goes.
    ///
    /// # Errors
    /// [`RolloverError`].
    pub fn rollover_work(
        &self,
        now: Now,
        rollover: &Rollover,
        target: &AuthoritySecret,
        leaving: Option<&AuthoritySecret>,
        rng: &mut impl Rng,
    ) -> Result<Work, RolloverError> {
        let trust = self.membership.trust();
        let signers: Vec<&AuthoritySecret> = leaving.into_iter().chain([target]).collect();
        Ok(match self.rollover_stage(now, rollover) {
            Stage::Adding => {
                let add = |next: &mut proto::bundle::TrustBundle| next.roots.push(rollover.target);
                Work::Bundle(succeed(trust, &signers, now.wall.seconds(), add)?)
            }
            Stage::Dropping => {
                let drop = |next: &mut proto::bundle::TrustBundle| {
                    next.roots.retain(|root| Some(*root) != rollover.leaving);
                    next.threshold = next.threshold.min(next.roots.len() as u8);
                };
                Work::Bundle(succeed(trust, &signers, now.wall.seconds(), drop)?)
            }
            Stage::Reissuing => {
                let certificates = self.to_reissue(now, rollover).into_iter().take(ISSUED_AT_ONCE);
                let certificates: Result<_, IssueError> =
                    certificates.map(|member| self.issue_anew(now, member, target, rng.random())).collect();
                let revocations = self.to_sign_anew(rollover).into_iter().map(|revocation| {
                    target.sign_revocation(Revocation { issuer: Issuer::Root(target.key_id()), ..revocation })
                });
                Work::Objects(certificates?, revocations.collect::<Result<_, _>>()?)
            }
            Stage::Confirming | Stage::Taking => Work::Wait,
            Stage::Settling => Work::Settle,
            Stage::Done => Work::Done,
        })
    }

    /// Every other member, by name, and how far it is.
    pub fn rollover_members(&self, now: Now, rollover: &Rollover) -> Vec<RolloverMember> {
        let missing = self.rollover_missing(now, rollover, self.rollover_stage(now, rollover));
        let pending = self.to_reissue(now, rollover);
        let others = self.membership.iter().filter(|(member, _)| *member != self.me.member);
        let honoured = others.filter(|(member, _)| self.membership.is_honoured(now.wall, *member));
        let mut members: Vec<RolloverMember> = honoured
            .map(|(member, known)| RolloverMember {
                member,
                name: known.name().clone(),
                present: self.is_present(now, member),
                bundle: self.lsdb.get(member).and_then(|entry| entry.view().bundle()),
                reissued: !pending.contains(&member),
                took: self.took_certificate(member),
                waited_for: missing.contains(&member),
            })
            .collect();
        members.sort_by(|a, b| a.name.cmp(&b.name));
        members
    }

    /// Other members that are waited for.
    fn waited_for(&self, now: Now, rollover: &Rollover) -> impl Iterator<Item = MemberId> {
        let members = self.membership.iter().map(|(member, _)| member);
        members.filter(move |member| {
            *member != self.me.member
                && self.membership.is_honoured(now.wall, *member)
                && !rollover.without.contains(member)
        })
    }

    /// Those of them whose records do not say that they know a version of the bundle.
    fn knows_bundle(&self, now: Now, rollover: &Rollover, version: u32) -> impl Iterator<Item = MemberId> {
        self.waited_for(now, rollover).filter(move |member| {
            self.lsdb.get(*member).is_none_or(|entry| entry.view().bundle() < Some(version))
        })
    }

    fn took_certificate(&self, member: MemberId) -> bool {
        let newest = self.membership.get(member).map(|known| known.certificate().body().serial);
        self.lsdb.get(member).map(|entry| entry.view().keys().0) >= newest
    }

    /// Members whose certificates do not go back to a root that stays, this node among them; issuers first, because the
    /// certificates that they have issued hold again then.
    fn to_reissue(&self, now: Now, rollover: &Rollover) -> Vec<MemberId> {
        let leaving = rollover.leaving.as_ref().map(root_key_id);
        let stays = |id: &[u8; 8]| Some(*id) != leaving && self.membership.trust().root(id).is_some();
        let mut members: Vec<(bool, MemberId)> = self
            .membership
            .iter()
            .filter(|(member, known)| {
                *member == self.me.member
                    || self.membership.validity(now.wall, *member).is_some_and(|one| one.is_honoured())
                        && !self.membership.revocations().ends(known.certificate().body())
            })
            .filter(|(_, known)| match known.certificate().body().issuer {
                Issuer::Root(id) => !stays(&id),
                Issuer::Member(issuer, _) => self.membership.get(issuer).is_none(),
            })
            .map(|(member, known)| (known.certificate().body().constraints.is_none(), member))
            .collect();
        members.sort_unstable();
        members.into_iter().map(|(_, member)| member).collect()
    }

    /// Revocations by a root that goes.
    fn to_sign_anew(&self, rollover: &Rollover) -> Vec<Revocation> {
        self.membership.revocations().only_by_others(self.membership.trust(), rollover.leaving.as_ref())
    }

    fn issue_anew(
        &self,
        now: Now,
        member: MemberId,
        root: &AuthoritySecret,
        salt: u16,
    ) -> Result<VerifiedCertificate, IssueError> {
        let old = self.membership.get(member).expect("it is in the table").certificate().body();
        let previous: Option<Serial> = Some(old.serial);
        issue(now.wall, self.membership.trust(), &Signer::Root(root), Request::again(old), previous, salt)
    }
}
