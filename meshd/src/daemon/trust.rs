//! Keys and revocations over the control socket.

use meshnet::membership::{Request as MemberRequest, Signer, issue};
use meshnet::node::{EpochUse, Node, PlanError, PlanState, RevokeError, RotateError};
use meshnet::time::Now;
use proto::certificate::{Issuer, Roles};
use proto::id::{MemberId, Serial};
use proto::record::KeyPlan;
use proto::revocation::{Revocation, RevocationTarget};
use rand::RngExt;
use tracing::{debug, info, warn};

use super::calls::{find, find_all};
use super::service::Service;
use crate::api::keys::{Epoch, Keys, PeerKeys, Plan, PlanMember, SessionEpochs};
use crate::api::server::refuse;
use crate::api::{Answer, RevokeRequest};
use crate::exit;
use crate::join::server::within_limits;
use crate::state::Kind;
use crate::state::files::emit_objects;

/// The keys of this node, and what the others know of them.
pub(super) fn keys(node: &Node, now: Now) -> Keys {
    let view = node.keys_view(now);
    let age = |created_s: u64| now.wall.seconds().saturating_sub(created_s);
    let name = |member: &MemberId| {
        let known = node.membership().get(*member).map(|known| known.name().to_string());
        known.unwrap_or_else(|| member.to_string())
    };
    let epoch = |epoch: &meshnet::node::EpochView| Epoch {
        number: epoch.number.0,
        usage: match epoch.usage {
            EpochUse::Next => "next",
            EpochUse::Current => "current",
            EpochUse::Leaving => "leaving",
        }
        .into(),
        created_s: epoch.created_s,
        age_s: age(epoch.created_s),
    };
    let current = view.epochs.iter().find(|epoch| epoch.usage == EpochUse::Current);
    Keys {
        phase: view.phase.word().into(),
        current: current.map_or(0, |epoch| epoch.number.0),
        target: view.target.0,
        epochs: view.epochs.iter().map(epoch).collect(),
        retired: view.retired,
        next_rotation_s: view.next_rotation_s,
        waiting_for: view.waiting_for.iter().map(name).collect(),
        peers: view
            .peers
            .iter()
            .map(|peer| PeerKeys {
                name: peer.name.to_string(),
                member_id: peer.member.to_string(),
                present: peer.present,
                confirmed: peer.confirmed.map(|number| number.0),
                session: peer.session.map(|(ours, theirs)| SessionEpochs { ours: ours.0, theirs: theirs.0 }),
                epoch: peer.epoch.map(|number| number.0),
                age_s: peer.created_s.map(age),
            })
            .collect(),
    }
}

impl Service {
    /// Begins to replace the transport key. To begin what has begun is no error: the answer says so.
    pub(super) fn rotate_keys(&mut self, now: Now, stolen: bool) -> Answer {
        match self.parts.node.rotate_keys(now, stolen) {
            Ok(epoch) => {
                info!(%epoch, stolen, "replacing the transport key");
                Answer::Rotating { epoch: epoch.0, note: None }
            }
            Err(RotateError::UnderWay(epoch)) => {
                let note = format!("a rotation to key epoch {epoch} is under way already");
                Answer::Rotating { epoch: epoch.0, note: Some(note) }
            }
            Err(error) => refuse(exit::FAILED, error.to_string()),
        }
    }

    /// Revokes a member or a certificate, by the authority where its key is kept here, else as an operator.
    pub(super) fn revoke(&mut self, now: Now, request: &RevokeRequest) -> Answer {
        let parts = &mut self.parts;
        let member = find(&parts.node, now, &request.target)
            .or_else(|| request.target.parse::<MemberId>().ok())
            .map(RevocationTarget::Member);
        let serial = u64::from_str_radix(&request.target, 16).ok().filter(|_| request.target.len() == 16);
        let Some(target) = member.or(serial.map(|serial| RevocationTarget::Serial(Serial(serial)))) else {
            return refuse(
                exit::FAILED,
                format!(
                    "no member has the name, address, or id {}, and it is no serial of 16 hexadecimal digits",
                    request.target
                ),
            );
        };
        let own = RevocationTarget::Member(parts.node.member());
        if target == own && !request.myself {
            return refuse(exit::FAILED, "this is this node itself: say --myself to take it out of the mesh");
        }
        let cutoff_s = request.cutoff_s.unwrap_or(now.wall.seconds());
        let authority = match parts.home.authority() {
            Ok(authority) => authority,
            Err(error) => return refuse(exit::FAILED, error.to_string()),
        };
        let revoked = match authority {
            Some(authority) => {
                let revocation = Revocation {
                    mesh: parts.home.chain.mesh(),
                    target,
                    created_s: now.wall.seconds(),
                    cutoff_s,
                    reason: request.reason,
                    issuer: Issuer::Root(authority.key_id()),
                };
                let mut ended = Ok(Vec::new());
                for revocation in parts.node.with_taken_over(revocation) {
                    ended = ended.and_then(|mut ended| {
                        let signed = authority.sign_revocation(revocation)?;
                        ended.extend(parts.node.add_revocation(now, signed)?);
                        Ok::<_, RevokeError>(ended)
                    });
                }
                ended
            }
            None => parts.node.revoke(now, target, cutoff_s, request.reason),
        };
        match revoked {
            Ok(ended) => Answer::Revoked {
                members: ended.iter().map(ToString::to_string).collect(),
                total: parts.node.membership().revocations().len(),
            },
            Err(error @ RevokeError::NotOperator) => refuse(
                exit::NOT_PERMITTED,
                format!(
                    "{error}, and the authority's key is not here: run this on the node where the mesh was started, \
                     or on one that was invited with --role operator"
                ),
            ),
            Err(error) => refuse(exit::FAILED, error.to_string()),
        }
    }
}

/// How far the plan is that all replace their keys.
pub(super) fn plan(node: &Node, now: Now) -> Option<Plan> {
    let view = node.plan_view(now)?;
    let origin = node.membership().get(view.origin).map(|known| known.name().to_string());
    let holds_up = |one: &&meshnet::node::PlanMember| {
        one.owes || (!one.present && matches!(one.state, PlanState::Waiting | PlanState::Prepared))
    };
    Some(Plan {
        origin: origin.unwrap_or_else(|| view.origin.to_string()),
        created_s: view.created_s,
        done: view.done,
        needed: view.needed,
        waiting_for: match view.done {
            true => Vec::new(),
            false => view.members.iter().filter(holds_up).map(|one| one.name.to_string()).collect(),
        },
        members: view
            .members
            .iter()
            .map(|one| PlanMember {
                name: one.name.to_string(),
                present: one.present,
                state: match one.state {
                    PlanState::Waiting => "waiting",
                    PlanState::Prepared => "prepared",
                    PlanState::Done => "done",
                    PlanState::LeftOut => "left out",
                }
                .into(),
                confirmed: one.confirmed,
            })
            .collect(),
    })
}

impl Service {
    /// Makes a plan that all but `without` replace their keys, or goes on with the one under way.
    pub(super) fn plan_keys(&mut self, now: Now, without: &[String]) -> Answer {
        let members = match find_all(&self.parts.node, now, without) {
            Ok(members) => members,
            Err(refusal) => return *refusal,
        };
        match self.parts.node.make_plan(now, &members) {
            Ok(plan) => self.announce_plan(now, plan),
            Err(PlanError::UnderWay(origin)) => {
                let known = self.parts.node.membership().get(origin).map(|known| known.name().to_string());
                let origin = known.unwrap_or_else(|| origin.to_string());
                refuse(
                    exit::FAILED,
                    format!(
                        "a plan of {origin} is under way: `meshd keys plan` shows it, `meshd keys abort` calls it off"
                    ),
                )
            }
            Err(error @ PlanError::NotOperator) => refuse(
                exit::NOT_PERMITTED,
                format!("{error}: run this on a node that was invited with --role operator"),
            ),
            Err(error) => refuse(exit::FAILED, error.to_string()),
        }
    }

    /// Calls the plan under way off.
    pub(super) fn abort_plan(&mut self, now: Now) -> Answer {
        match self.parts.node.make_abort(now) {
            Ok(Some(plan)) => self.announce_plan(now, plan),
            Ok(None) => refuse(exit::NOTHING, "no plan is under way"),
            Err(error) => refuse(exit::NOT_PERMITTED, error.to_string()),
        }
    }

    /// The plan is on the disk before anybody hears of it: a restart goes on with it.
    fn announce_plan(&mut self, now: Now, plan: KeyPlan) -> Answer {
        if let Err(error) = self.parts.home.state.write(Kind::Plan, &plan.to_bytes()) {
            return refuse(exit::FAILED, error.to_string());
        }
        info!(
            aborted = plan.aborted,
            without = plan.without.len(),
            "a plan that all members replace their keys"
        );
        self.parts.node.set_plan(now, plan);
        Answer::Plan { plan: self::plan(&self.parts.node, now).map(Box::new) }
    }
}

impl Service {
    /// Issues a member's certificate anew, if the authority's key is here or this node is an issuer.
    pub(super) fn renew(&mut self, now: Now, member: MemberId) {
        let parts = &mut self.parts;
        let Some(old) = parts.node.membership().get(member).map(|known| known.certificate().body().clone())
        else {
            return;
        };
        let authority = match parts.home.authority() {
            Ok(authority) => authority,
            Err(error) => return warn!(%error, "cannot renew certificates"),
        };
        let own = &parts.home.certificate;
        let (signer, issuer) = match &authority {
            Some(authority) => (Signer::Root(authority), None),
            None if own.body().roles.contains(Roles::ISSUER) && member != own.body().member => (
                Signer::Member { secret: &parts.home.identity, certificate: own },
                Some(own.signed().clone()),
            ),
            None => return,
        };
        let trust = parts.node.membership().trust().clone();
        let salt = parts.rng.random();
        let request = within_limits(&signer, MemberRequest::again(&old));
        match issue(now.wall, &trust, &signer, request, Some(old.serial), salt) {
            Ok(renewed) => match parts.node.add_certificate(now, renewed.signed().clone(), issuer) {
                Ok(()) => {
                    info!(name = %old.name, %member, until_s = renewed.body().not_after_s, "certificate renewed")
                }
                // Its own certificate may go back to an authority that was just replaced.
                Err(error) => debug!(%error, %member, "a renewed certificate was not accepted"),
            },
            // An issuer may not sign what another has allowed: somebody else is asked as well.
            Err(error) => debug!(%error, name = %old.name, "cannot renew this certificate"),
        }
    }

    /// Saves this node's new certificate, and uses it for those who join here.
    pub(super) fn save_certificate(&mut self) {
        let parts = &mut self.parts;
        let membership = parts.node.membership();
        let Some(own) = membership.get(parts.node.member()).map(|own| own.certificate().clone()) else {
            return;
        };
        let issuer = match own.body().issuer {
            Issuer::Member(issuer, _) => membership.get(issuer).map(|issuer| issuer.certificate().clone()),
            Issuer::Root(_) => None,
        };
        let objects = [Some(&own), issuer.as_ref()].into_iter().flatten().map(|one| one.signed().to_bytes());
        parts.store.persist(Kind::Certificate, 0, emit_objects(objects).into());
        info!(until_s = own.body().not_after_s, "this node's certificate was renewed");
        (parts.home.certificate, parts.home.issuer) = (own, issuer);
    }
}
