//! Replacing the transport keys of the whole mesh, by the plan of an operator.
//!
//! The plan is in the operator's own record, signed and carried like all it says. Each member follows it by a rotation of
//! its own key, with two differences from one that it began itself:
//!
//! | | what a member does | where others see it |
//! |---|---|---|
//! | prepare | makes and announces its new key when all members of earlier waves are done | newest epoch younger than the plan, above its floor |
//! | confirm | waits for *every* member, also those that are away, but for those that the plan leaves out | confirmations in the members' records |
//! | commit | makes handshakes with the new key | |
//! | finalize | refuses and erases the old key | floor is an epoch younger than the plan |
//!
//! No member commits before all have confirmed, so at no time is there a pair that cannot make a handshake. Whoever comes
//! back later finds the plan in the records and follows it then. A plan that is called off binds nobody any more: who has
//! not prepared does not, and who has goes on as with a rotation of its own.

use proto::certificate::Roles;
use proto::id::{KeyEpochNumber, MemberId};
use proto::record::{KeyPlan, MAX_WITHOUT};

use super::rotation::confirmed_in;
use super::view::{PlanMember, PlanState, PlanView};
use super::{Node, Phase};
use crate::membership::CLOCK_TOLERANCE_S;
use crate::time::Now;

/// Members that replace their keys at a time: half of what fits into a record as confirmations.
pub const WAVE: u16 = 32;
/// How far ahead of the planner's clock a plan may be dated, in seconds, to be later than all keys: half of what clocks may
/// differ by, so that it is in force at once where they are behind by the other half.
const AHEAD_S: u64 = CLOCK_TOLERANCE_S / 2;

/// Why there cannot be a plan.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub enum PlanError {
    /// This node's certificate lacks the role.
    #[error("this node's certificate does not have the operator role")]
    NotOperator,
    /// Another operator's plan is under way.
    #[error("a plan of {0} is under way: follow that one, or call it off")]
    UnderWay(MemberId),
    /// More members are left out than a record can name.
    #[error("a plan goes on without {MAX_WITHOUT} members at most: revoke those that do not come back")]
    TooMany,
}

impl Node {
    /// Makes a plan that everybody but `without` replaces the transport key; or, where one of this node's is under way,
    /// the same without those too. It has to be on disk before [`Node::set_plan`] announces it.
    ///
    /// # Errors
    /// [`PlanError`].
    pub fn make_plan(&self, now: Now, without: &[MemberId]) -> Result<KeyPlan, PlanError> {
        self.check_operator()?;
        let me = self.me.member;
        let mut plan = match self.plan_in_force(now).filter(|_| !self.plan_is_done(now)) {
            Some((origin, _)) if origin != me => return Err(PlanError::UnderWay(origin)),
            Some((_, own)) => own,
            None => {
                KeyPlan { created_s: self.next_plan_s(now), aborted: false, wave: WAVE, without: Vec::new() }
            }
        };
        plan.without.extend(without.iter().copied().filter(|member| *member != me));
        plan.without.sort_unstable();
        plan.without.dedup();
        if plan.without.len() > MAX_WITHOUT { Err(PlanError::TooMany) } else { Ok(plan) }
    }

    /// The time of a new plan, in seconds since the Unix epoch: later than that of every plan before it, so that it counts,
    /// and than that of every key there is, so that each is replaced. A key that nobody here has heard of yet was made
    /// this second at the latest, or by a clock that is ahead.
    ///
    /// What is dated later than [`AHEAD_S`] from now is left out of account: others are to take the plan for one of the
    /// present, by clocks that are behind this one. A key of such a date counts as new.
    fn next_plan_s(&self, now: Now) -> u64 {
        let now_s = now.wall.seconds();
        let keys =
            self.membership.iter().filter_map(|(_, known)| Some(known.epochs().newest()?.body().created_s));
        let plans = self.plans(now).map(|(_, plan)| plan.created_s);
        let own = [self.keys.newest_created_s()];
        let dates = keys.chain(plans).chain(own).filter(|date_s| *date_s <= now_s.saturating_add(AHEAD_S));
        dates.fold(now_s, u64::max).saturating_add(1)
    }

    /// Makes the plan that calls off the one under way, whosever it is; `None` when there is none. As
    /// [`Node::make_plan`].
    ///
    /// # Errors
    /// [`PlanError::NotOperator`].
    pub fn make_abort(&self, now: Now) -> Result<Option<KeyPlan>, PlanError> {
        self.check_operator()?;
        let me = self.me.member;
        Ok(self.plan_in_force(now).filter(|_| !self.plan_is_done(now)).map(|(origin, plan)| {
            // Another's is overtaken by a newer one.
            let later = u64::from(origin != me);
            KeyPlan { aborted: true, created_s: plan.created_s.saturating_add(later), ..plan }
        }))
    }

    /// Announces a plan, which is on disk.
    pub fn set_plan(&mut self, now: Now, plan: KeyPlan) {
        self.plan = Some(plan);
        self.dirty.record = true;
        self.keys.look_at_plan(now.mono);
        self.settle(now);
    }

    fn check_operator(&self) -> Result<(), PlanError> {
        let own = self.membership.get(self.me.member);
        let may = own.is_some_and(|own| own.certificate().body().roles.contains(Roles::OPERATOR));
        if may { Ok(()) } else { Err(PlanError::NotOperator) }
    }

    /// The newest plan of an operator, and whose it is, unless that was called off.
    pub(super) fn plan_in_force(&self, now: Now) -> Option<(MemberId, KeyPlan)> {
        let newest = self.plans(now).max_by_key(|(origin, plan)| (plan.created_s, *origin));
        newest.filter(|(_, plan)| !plan.aborted)
    }

    /// The last plan of each operator, also if it was called off.
    fn plans(&self, now: Now) -> impl Iterator<Item = (MemberId, KeyPlan)> {
        let operators = self.membership.iter().filter(move |(member, known)| {
            known.certificate().body().roles.contains(Roles::OPERATOR)
                && self.membership.is_honoured(now.wall, *member)
        });
        let plans = operators.filter_map(move |(member, _)| match member == self.me.member {
            true => self.plan.clone().map(|plan| (member, plan)),
            false => self.lsdb.get(member)?.view().plan().map(|plan| (member, plan)),
        });
        // A clock far ahead must not keep later plans out.
        let latest_s = now.wall.seconds().saturating_add(CLOCK_TOLERANCE_S);
        plans.filter(move |(_, plan)| plan.created_s <= latest_s)
    }

    /// Begins to replace the own key where a plan asks for it.
    pub(super) fn follow_plan(&mut self, now: Now) {
        let Some((_, plan)) = self.plan_in_force(now) else { return };
        let own = self.keys.in_use().signed.body().created_s.max(self.keys.announced_created_s());
        let idle = matches!(self.keys.phase(), Phase::Steady | Phase::Draining);
        if !idle || own >= plan.created_s || plan.without.contains(&self.me.member) {
            return;
        }
        let members = self.plan_members(now, &plan);
        let rank = members.iter().position(|member| *member == self.me.member).unwrap_or(0);
        let first = rank - rank % usize::from(plan.wave.max(1));
        if members[..first].iter().all(|member| self.has_replaced(*member, &plan)) {
            // Nothing is under way, so it can begin.
            let _ = self.begin_rotation(now, false);
        }
    }

    /// Whom the announced own key waits for because of a plan: everybody in it who has not confirmed. `None` without one.
    pub(super) fn plan_waits_for(&self, now: Now) -> Option<Vec<MemberId>> {
        let (_, plan) = self.plan_in_force(now)?;
        // A rotation of its own, before the plan or after it, has no more patience than any.
        let followed =
            self.keys.announced_created_s() >= plan.created_s && !self.has_replaced(self.me.member, &plan);
        if !followed || plan.without.contains(&self.me.member) {
            return None;
        }
        let newest = self.keys.announced();
        let others = self.plan_members(now, &plan).into_iter().filter(|member| *member != self.me.member);
        Some(others.filter(|member| !self.has_confirmed(*member, self.me.member, newest)).collect())
    }

    fn plan_members(&self, now: Now, plan: &KeyPlan) -> Vec<MemberId> {
        let members = self.membership.iter().map(|(member, _)| member);
        let honoured = members.filter(|member| self.membership.is_honoured(now.wall, *member));
        honoured.filter(|member| !plan.without.contains(member)).collect()
    }

    fn plan_is_done(&self, now: Now) -> bool {
        self.plan_in_force(now).is_none_or(|(_, plan)| {
            self.plan_members(now, &plan).iter().all(|member| self.has_replaced(*member, &plan))
        })
    }

    /// The newest epoch of a member, if it was made after the plan.
    fn prepared(&self, member: MemberId, plan: &KeyPlan) -> Option<KeyEpochNumber> {
        let newest = self.membership.get(member)?.epochs().newest()?.body();
        (newest.created_s >= plan.created_s).then_some(newest.number)
    }

    /// Whether a member refuses every key that it made before the plan. That stays so: a rotation of its own that it begins
    /// later does not make the plan one that is under way.
    fn has_replaced(&self, member: MemberId, plan: &KeyPlan) -> bool {
        if member == self.me.member {
            return self.keys.oldest_created_s() >= plan.created_s;
        }
        let floor = self.lsdb.get(member).and_then(|entry| entry.view().floor());
        let known = self.membership.get(member);
        let oldest = floor.zip(known).and_then(|(floor, known)| known.epochs().get(floor.accepted));
        oldest.is_some_and(|oldest| oldest.body().created_s >= plan.created_s)
    }

    /// Whether `member` knows epoch `number` of `of`, as far as can be told from here.
    fn has_confirmed(&self, member: MemberId, of: MemberId, number: KeyEpochNumber) -> bool {
        if of == self.me.member && self.confirmed_by(member).is_some_and(|known| known >= number) {
            return true;
        }
        if member == of || member == self.me.member {
            return true;
        }
        let record = self.lsdb.get(member).map(|entry| entry.view());
        record.is_some_and(|record| confirmed_in(&record, of, number).is_some_and(|known| known >= number))
    }

    /// How far the plan in force is; `None` without one.
    pub fn plan_view(&self, now: Now) -> Option<PlanView> {
        let (origin, plan) = self.plan_in_force(now)?;
        let members = self.plan_members(now, &plan);
        let under_way: Vec<(MemberId, KeyEpochNumber)> = members
            .iter()
            .filter(|member| !self.has_replaced(**member, &plan))
            .filter_map(|member| Some((*member, self.prepared(*member, &plan)?)))
            .collect();
        let everybody =
            self.membership.iter().filter(|(member, _)| self.membership.is_honoured(now.wall, *member));
        let mut views: Vec<PlanMember> = everybody
            .map(|(member, known)| {
                let number = self.prepared(member, &plan);
                let state = match number {
                    _ if plan.without.contains(&member) => PlanState::LeftOut,
                    _ if self.has_replaced(member, &plan) => PlanState::Done,
                    None => PlanState::Waiting,
                    Some(_) => PlanState::Prepared,
                };
                let confirmed = |number| {
                    let others = members.iter().filter(|other| **other != member);
                    others.filter(|other| self.has_confirmed(**other, member, number)).count()
                };
                PlanMember {
                    member,
                    name: known.name().clone(),
                    present: member == self.me.member || self.is_present(now, member),
                    state,
                    confirmed: match (state, number) {
                        (PlanState::Prepared, Some(number)) => confirmed(number),
                        (PlanState::Done, _) => members.len() - 1,
                        _ => 0,
                    },
                    owes: members.contains(&member)
                        && under_way
                            .iter()
                            .any(|(other, number)| !self.has_confirmed(member, *other, *number)),
                }
            })
            .collect();
        views.sort_by(|a, b| a.name.cmp(&b.name));
        let done = views.iter().all(|one| matches!(one.state, PlanState::Done | PlanState::LeftOut));
        Some(PlanView {
            origin,
            created_s: plan.created_s,
            done,
            needed: members.len().saturating_sub(1),
            members: views,
        })
    }
}
