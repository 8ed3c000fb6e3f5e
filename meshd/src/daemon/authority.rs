//! The authority: showing it, replacing it, and going on with that after a restart.
//!
//! What is given to the node, and so to the others, is on the disk first. The steps themselves follow from what is there
//! (`meshnet::node::authority`).

use std::time::Duration;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use meshnet::membership::{AuthoritySecret, TrustChain, root_key_id};
use meshnet::node::{Node, Stage, Work};
use meshnet::time::Now;
use proto::bundle::SignedBundle;
use proto::certificate::{Issuer as IssuerId, Roles};
use proto::id::IdentityKey;
use tokio::time::Instant;
use tracing::{error, info, warn};

use super::calls::find_all;
use super::service::Service;
use crate::api::Answer;
use crate::api::authority::{Authority, Generation, Issuer, Member, Rollover, Root};
use crate::api::server::refuse;
use crate::exit;
use crate::state::rollover::{MAX_WITHOUT, Pending};
use crate::state::{self, Kind, StateDir};

/// How often a roll-over looks whether it can go on.
const LOOK_EVERY: Duration = Duration::from_millis(250);
/// The old root is not dropped earlier after a start: members that joined just before it are in no cache, and are heard of
/// from the others.
const HEAR_FIRST: Duration = Duration::from_secs(10);
/// How often it does after something failed.
const RETRY_EVERY: Duration = Duration::from_secs(10);

/// The roll-over under way, if there is one.
#[derive(Default)]
pub(super) struct Driver {
    pending: Option<Pending>,
    due: Option<Instant>,
    told: Option<Stage>,
}

impl Driver {
    /// Goes on with what is on the disk.
    pub(super) fn resume(state: &StateDir) -> Result<Driver, state::Error> {
        let pending = Pending::load(state)?;
        let due = pending.is_some().then(Instant::now);
        Ok(Driver { pending, due, told: None })
    }

    /// When [`Service::drive_rollover`] has something to do.
    pub(super) fn due(&self) -> Option<Instant> {
        self.due
    }
}

/// How a root is named.
pub fn fingerprint(root: &IdentityKey) -> String {
    crate::stack::definition::hex(&root_key_id(root))
}

/// What there is to know about a chain of trust bundles, and which of its keys lie in `state`.
///
/// # Errors
/// If a key file is there and cannot be read.
pub fn describe(state: &StateDir, chain: &TrustChain) -> Result<Authority, state::Error> {
    let key = |kind| -> Result<Option<IdentityKey>, state::Error> {
        if !state.has(kind) {
            return Ok(None);
        }
        Ok(Some(AuthoritySecret::from_bytes(&*state.secret(kind)?).public()))
    };
    let mut here: Vec<IdentityKey> = key(Kind::Authority)?.into_iter().collect();
    here.extend(Pending::load(state)?.map(|pending| pending.secret().public()));
    let current = chain.current();
    let generation = |bundle: &SignedBundle| Generation {
        version: bundle.body().version,
        created_s: bundle.body().created_s,
        roots: bundle.body().roots.iter().map(fingerprint).collect(),
        by_recovery: chain.is_by_recovery(bundle.body().version),
    };
    let root = |root: &IdentityKey| Root { fingerprint: fingerprint(root), here: here.contains(root) };
    Ok(Authority {
        mesh: current.name.to_string(),
        version: current.version,
        roots: current.roots.iter().map(root).collect(),
        threshold: current.threshold,
        recovery: fingerprint(&current.recovery),
        recovery_here: key(Kind::Recovery)? == Some(current.recovery),
        issuers: Vec::new(),
        chain: chain.after(0).iter().map(generation).collect(),
        rollover: None,
    })
}

fn issuers(node: &Node, now: Now) -> Vec<Issuer> {
    let members = node.membership();
    let honoured = members.iter().filter(|(member, _)| members.is_honoured(now.wall, *member));
    let mut issuers: Vec<Issuer> = honoured
        .filter(|(_, known)| known.certificate().body().roles.contains(Roles::ISSUER))
        .map(|(id, known)| {
            let body = known.certificate().body();
            let limits = body.constraints.as_deref();
            let by_it = |other: &meshnet::membership::Member| {
                matches!(other.certificate().body().issuer, IssuerId::Member(by, _) if by == id)
            };
            Issuer {
                name: body.name.to_string(),
                until_s: body.not_after_s,
                names: limits.map(|limits| limits.name_suffix.to_string()).unwrap_or_default(),
                prefixes: limits.map(|limits| limits.prefixes.clone()).unwrap_or_default(),
                max_lifetime_s: limits.map(|limits| limits.max_lifetime_s),
                issued: members.iter().filter(|(_, other)| by_it(other)).count(),
            }
        })
        .collect();
    issuers.sort_by(|a, b| a.name.cmp(&b.name));
    issuers
}

fn show(node: &Node, now: Now, pending: &Pending) -> Rollover {
    let rollover = pending.rollover();
    let members = node.rollover_members(now, &rollover);
    Rollover {
        stage: node.rollover_stage(now, &rollover).word().into(),
        aborted: pending.aborted,
        target: fingerprint(&rollover.target),
        leaving: rollover.leaving.as_ref().map(fingerprint),
        deadline_s: rollover.deadline_s,
        left_s: rollover.deadline_s.saturating_sub(now.wall.seconds()),
        waiting_for: members.iter().filter(|one| one.waited_for).map(|one| one.name.to_string()).collect(),
        members: members
            .iter()
            .map(|one| Member {
                name: one.name.to_string(),
                present: one.present,
                bundle: one.bundle,
                reissued: one.reissued,
                took: one.took,
            })
            .collect(),
    }
}

impl Service {
    /// The authority as this node sees it.
    pub(super) fn authority(&self, now: Now) -> Answer {
        match describe(&self.parts.home.state, self.parts.node.membership().trust()) {
            Ok(described) => Answer::Authority(Box::new(Authority {
                issuers: issuers(&self.parts.node, now),
                rollover: self.driver.pending.as_ref().map(|pending| show(&self.parts.node, now, pending)),
                ..described
            })),
            Err(error) => refuse(exit::FAILED, error.to_string()),
        }
    }

    /// Begins to replace the authority's key, or goes on with other limits.
    pub(super) fn rotate_authority(&mut self, now: Now, patience_s: u64, without: &[String]) -> Answer {
        let members = match find_all(&self.parts.node, now, without) {
            Ok(members) => members,
            Err(refusal) => return *refusal,
        };
        if members.len() > MAX_WITHOUT {
            return refuse(exit::FAILED, format!("it can go on without {MAX_WITHOUT} members at most"));
        }
        let deadline_s = now.wall.seconds().saturating_add(patience_s);
        let pending = match self.driver.pending.take() {
            Some(mut under_way) => {
                under_way.without.extend(members);
                under_way.without.sort_unstable();
                under_way.without.dedup();
                under_way.deadline_s = deadline_s;
                under_way
            }
            None => match self.new_rollover(now, deadline_s, members) {
                Ok(pending) => pending,
                Err(refusal) => return *refusal,
            },
        };
        self.begin(now, pending)
    }

    fn new_rollover(
        &mut self,
        now: Now,
        deadline_s: u64,
        without: Vec<proto::id::MemberId>,
    ) -> Result<Pending, Box<Answer>> {
        let parts = &mut self.parts;
        let old = match parts.home.authority() {
            Ok(Some(old)) => old,
            Ok(None) => {
                return Err(Box::new(refuse(
                    exit::NOT_PERMITTED,
                    "the authority's key is not on this node: run this where it is, or import it first \
                     (meshd authority import FILE)",
                )));
            }
            Err(error) => return Err(Box::new(refuse(exit::FAILED, error.to_string()))),
        };
        let threshold = parts.node.membership().trust().current().threshold;
        if threshold > 1 {
            return Err(Box::new(refuse(
                exit::FAILED,
                format!(
                    "{threshold} roots have to sign the next trust bundle, and one of them is here; the recovery key can \
                     replace them all (meshd authority recover)"
                ),
            )));
        }
        Ok(Pending {
            target: *AuthoritySecret::generate(&mut parts.rng).to_bytes(),
            leaving: Some(old.public().0),
            created_s: now.wall.seconds(),
            deadline_s,
            aborted: false,
            without,
        })
    }

    /// Calls the roll-over off: the old root stays, and the new one goes.
    pub(super) fn abort_authority(&mut self, now: Now) -> Answer {
        let Some(pending) = &self.driver.pending else {
            return refuse(exit::NOTHING, "no replacement of the authority's key is under way at this node");
        };
        let old = self.stored_authority();
        let (Some(leaving), Some(old)) = (pending.leaving, old) else {
            return refuse(exit::FAILED, "there is no way back: the old key is gone");
        };
        if pending.aborted || old.public().0 != leaving {
            return refuse(exit::FAILED, "it is called off already, or the old root was dropped already");
        }
        if !self.parts.node.membership().trust().current().roots.contains(&old.public()) {
            return refuse(exit::FAILED, "the old root was dropped already: rotate once more instead");
        }
        let back = Pending {
            target: *old.to_bytes(),
            leaving: Some(pending.secret().public().0),
            created_s: pending.created_s,
            deadline_s: pending.deadline_s,
            aborted: true,
            without: pending.without.clone(),
        };
        self.begin(now, back)
    }

    /// Takes the trust bundle that the recovery key has signed; the new root's key is in the file of the roll-over.
    pub(super) fn recover_authority(&mut self, now: Now, bundle: &str) -> Answer {
        let bundle = STANDARD.decode(bundle).ok().and_then(|bytes| SignedBundle::parse(&bytes).ok());
        let Some(bundle) = bundle else { return refuse(exit::FAILED, "that is no trust bundle") };
        let pending = match Pending::load(&self.parts.home.state) {
            Ok(Some(pending)) => pending,
            Ok(None) => return refuse(exit::FAILED, "the new root's key is not on the disk"),
            Err(error) => return refuse(exit::FAILED, error.to_string()),
        };
        if !bundle.body().roots.contains(&pending.secret().public()) {
            return refuse(exit::FAILED, "the trust bundle does not name the new root");
        }
        if let Err(error) = self.take_bundle(now, bundle) {
            return refuse(exit::FAILED, error);
        }
        self.begin(now, pending)
    }

    /// All trust bundles.
    pub(super) fn chain(&self) -> Answer {
        let chain = self.parts.node.membership().trust().after(0);
        Answer::Chain { bundles: chain.iter().map(|bundle| STANDARD.encode(bundle.to_bytes())).collect() }
    }

    /// On the disk first: a restart goes on with it.
    fn begin(&mut self, now: Now, pending: Pending) -> Answer {
        // With the members that are to be waited for, and to be issued anew.
        let state = &self.parts.home.state;
        let saved = state.write(Kind::Records, &self.parts.node.export_cache());
        if let Err(error) = saved.and_then(|()| pending.save(state)) {
            let answer = refuse(exit::FAILED, error.to_string());
            // What was under way before stays so.
            self.driver.pending = Pending::load(&self.parts.home.state).ok().flatten();
            return answer;
        }
        info!(target = %fingerprint(&pending.secret().public()), aborted = pending.aborted, "replacing the authority");
        self.driver = Driver { pending: Some(pending), due: Some(Instant::now()), told: None };
        self.drive_rollover(now);
        self.authority(now)
    }

    fn stored_authority(&self) -> Option<AuthoritySecret> {
        let state = &self.parts.home.state;
        if !state.has(Kind::Authority) {
            return None;
        }
        let seed = state.secret(Kind::Authority).inspect_err(|error| warn!(%error, "no key")).ok()?;
        Some(AuthoritySecret::from_bytes(&seed))
    }

    /// Goes on with the roll-over where that is possible now.
    pub(super) fn drive_rollover(&mut self, now: Now) {
        let Some(pending) = &self.driver.pending else { return };
        if self.driver.due.is_none_or(|due| due > Instant::now()) {
            return;
        }
        let rollover = pending.rollover();
        let target = pending.secret();
        let leaving = self.stored_authority().filter(|one| Some(one.public()) == rollover.leaving);
        let parts = &mut self.parts;
        let stage = parts.node.rollover_stage(now, &rollover);
        if self.driver.told.replace(stage) != Some(stage) {
            info!(stage = stage.word(), "replacing the authority");
        }
        let work = parts.node.rollover_work(now, &rollover, &target, leaving.as_ref(), &mut parts.rng);
        let early = stage == Stage::Dropping && now.mono.since(self.started) < HEAR_FIRST;
        let done = match work {
            Ok(Work::Wait) => Ok(false),
            Ok(_) if early => Ok(false),
            Ok(Work::Bundle(bundle)) => self.take_bundle(now, bundle).map(|()| false),
            Ok(Work::Objects(certificates, revocations)) => {
                for certificate in certificates {
                    if let Err(error) = parts.node.add_certificate(now, certificate.signed().clone(), None) {
                        warn!(%error, "a certificate that was issued anew was not accepted");
                    }
                }
                for revocation in revocations {
                    if let Err(error) = parts.node.add_revocation(now, revocation) {
                        warn!(%error, "a revocation that was signed anew was not accepted");
                    }
                }
                Ok(false)
            }
            Ok(Work::Settle) => self.put_in_place(&target).map(|()| false),
            Ok(Work::Done) => self.put_in_place(&target).map(|()| true),
            Err(error) => Err(error.to_string()),
        };
        let pause = match done {
            Ok(false) => LOOK_EVERY,
            Ok(true) => {
                // Only now: until then the file is what a restart goes on from.
                match self.parts.home.state.remove(Kind::Rollover) {
                    Ok(()) => {
                        info!(root = %fingerprint(&target.public()), "the authority was replaced");
                        self.driver = Driver::default();
                        return;
                    }
                    Err(error) => warn!(%error, "the roll-over is over, but its file is still there"),
                }
                RETRY_EVERY
            }
            Err(error) => {
                error!("cannot go on replacing the authority: {error}");
                RETRY_EVERY
            }
        };
        self.driver.due = Some(Instant::now() + pause);
    }

    /// A trust bundle is on the disk before anybody else has it: two of one version, after a crash, would be a fork.
    fn take_bundle(&mut self, now: Now, bundle: SignedBundle) -> Result<(), String> {
        let parts = &mut self.parts;
        let mut chain = parts.node.membership().trust().clone();
        chain.extend(bundle.clone()).map_err(|error| error.to_string())?;
        let bundles = chain.after(0).iter().map(SignedBundle::to_bytes);
        parts.home.state.write_objects(Kind::Chain, bundles).map_err(|error| error.to_string())?;
        parts.node.add_bundle(now, bundle).map_err(|error| error.to_string())?;
        Ok(())
    }

    /// The key that stays is the authority's from now on; the other one is overwritten.
    fn put_in_place(&self, target: &AuthoritySecret) -> Result<(), String> {
        if self.stored_authority().is_some_and(|stored| stored.public() == target.public()) {
            return Ok(());
        }
        let written = self.parts.home.state.write(Kind::Authority, target.to_bytes().as_slice());
        written.map_err(|error| error.to_string())
    }
}
