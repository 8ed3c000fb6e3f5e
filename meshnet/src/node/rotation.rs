//! Rotation of this node's transport key, without the loss of a packet.
//!
//! | phase | new handshakes of ours | accepted from others | ends when |
//! |---|---|---|---|
//! | [`Steady`](Phase::Steady) | with e | to e | somebody asks, or the key is old enough |
//! | [`Saving`](Phase::Saving) | with e | to e | e+1 is on disk; nobody has heard of it before |
//! | [`Announced`](Phase::Announced) | with e | to e and e+1 | every member that can be reached has confirmed e+1 |
//! | [`Renewing`](Phase::Renewing) | with e+1 | to e and e+1 | every session in use was made with e+1 |
//! | [`Erasing`](Phase::Erasing) | with e+1 | to e+1; who comes with e is told e+1 | e is gone from the disk |
//! | [`Draining`](Phase::Draining) | with e+1 | to e+1 | the last session made with e is over |
//!
//! Sessions never depend on a transport key once they are made, so none is interrupted. What is on disk is always ahead of
//! what others were told, and every state on disk is one to go on from: two keys with the older in use is `Announced`, two
//! with the newer in use is `Renewing`, one is `Steady`.
//!
//! Members confirm in their own records, so that confirmations reach everybody by the way that everything does. Who does
//! not confirm is waited for, but not for ever: it gets the newer key, signed, when it comes with the older one.
//!
//! With a key that was *stolen* there is no overlap: e+1 replaces e on disk, in handshakes, and in all sessions at once.

use std::collections::BTreeMap;
use std::time::Duration;

use proto::frame::Frame;
use proto::id::{KeyEpochNumber, MemberId, TransportKey};
use proto::key_epoch::KeyEpoch;
use proto::record::{KeyFloor, MAX_CONFIRMS, MAX_SHORT_CONFIRMS, RecordView};
use proto::signed::OBJECT_MAX_LEN;

use super::config::{KeyRing, OwnEpoch};
use super::gossip::frames_of;
use super::view::{EpochUse, EpochView, KeysView, PeerKeys};
use super::{Event, Node};
use crate::crypto::TransportSecret;
use crate::session::{EpochHash, LocalEpoch, LocalEpochs, MAX_RETIRED, REJECT_AFTER};
use crate::time::{Mono, Now};

/// How long to wait for confirmations of members that can be reached.
pub const CONFIRM_PATIENCE: Duration = Duration::from_secs(30);
/// How long to wait for sessions in use to be made anew, after the last was begun. Those that are not made anew by then
/// go on all the same, and end like every session.
pub const RENEW_PATIENCE: Duration = Duration::from_secs(5);
/// For so long after a start, members that took part before it are taken to be reachable: sessions with them are only being
/// made.
const RESUME_PATIENCE: Duration = Duration::from_secs(1);
/// How often members that have not confirmed are told again.
const NUDGE_EVERY: Duration = Duration::from_secs(1);
/// Sessions are made anew over a time that grows with their number, so that nobody gets all handshakes at once …
const RENEW_PER_PEER: Duration = Duration::from_millis(20);
/// … at least this long …
const RENEW_AT_LEAST: Duration = Duration::from_millis(500);
/// … and at most this long.
const RENEW_AT_MOST: Duration = Duration::from_secs(20);
/// How often a rotation under way looks whether it can go on.
const LOOK_EVERY: Duration = Duration::from_millis(100);
/// Part of the interval between scheduled rotations by which nodes differ.
const SCHEDULE_JITTER: u64 = 10;
/// Bytes of a record that are neither a candidate, a subnet, a link, nor a confirmation.
const RECORD_REST: usize = 512;

/// How far the rotation of the node's own key is. [`crate::node`]'s table tells what holds in each phase.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum Phase {
    /// There is one key.
    Steady,
    /// The new key is being written.
    Saving,
    /// Both keys are accepted; members are confirming the new one.
    Announced,
    /// Sessions are being made anew with the new key.
    Renewing,
    /// The old key is refused, and being erased.
    Erasing,
    /// The last sessions made with the old key end.
    Draining,
}

impl Phase {
    /// The word for it, for people and scripts.
    pub fn word(self) -> &'static str {
        match self {
            Phase::Steady => "steady",
            Phase::Saving => "saving",
            Phase::Announced => "announced",
            Phase::Renewing => "renewing",
            Phase::Erasing => "erasing",
            Phase::Draining => "draining",
        }
    }
}

/// Why a rotation cannot begin.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
pub enum RotateError {
    /// One is under way already: it leads to a key that is as new.
    #[error("a rotation to key epoch {} is under way", .0.0)]
    UnderWay(KeyEpochNumber),
    /// A key that was stolen is being replaced already.
    #[error("the keys are being replaced already")]
    Replacing,
    /// There are no numbers left.
    #[error("this node has used up the numbers of its key epochs")]
    Exhausted,
    /// A key epoch does not fit its format: cannot happen.
    #[error("the new key epoch cannot be written: {0}")]
    Encoding(#[from] proto::Error),
}

/// The node's own keys and how far their rotation is.
pub(super) struct OwnKeys {
    ring: KeyRing,
    phase: Phase,
    since: Mono,
    until: Mono,
    look_at: Mono,
    nudge_at: Mono,
    /// Until then it is not known who can be reached.
    resuming_until: Mono,
    /// When to look whether a plan asks for something.
    plan_at: Option<Mono>,
    /// What is being written, and is in force as soon as it is on disk.
    planned: Option<KeyRing>,
    /// Of the last [`Event::SaveKeys`].
    generation: u64,
    /// Newest own epoch that each member is known to know.
    confirmed: BTreeMap<MemberId, KeyEpochNumber>,
}

impl OwnKeys {
    /// From the disk: goes on where it was left.
    pub(super) fn resume(ring: KeyRing, now: Mono) -> OwnKeys {
        let newest = ring.newest().number();
        let phase = match ring.epochs.len() {
            1 => Phase::Steady,
            _ if ring.in_use == newest => Phase::Renewing,
            _ => Phase::Announced,
        };
        let patience = if phase == Phase::Renewing { RENEW_PATIENCE } else { CONFIRM_PATIENCE };
        OwnKeys {
            ring,
            phase,
            since: now,
            until: now + patience,
            look_at: now + LOOK_EVERY,
            nudge_at: now + NUDGE_EVERY,
            resuming_until: now + RESUME_PATIENCE,
            plan_at: Some(now),
            planned: None,
            generation: 0,
            confirmed: BTreeMap::new(),
        }
    }

    /// The newest key epoch, in use or only announced.
    pub(super) fn announced(&self) -> KeyEpochNumber {
        self.ring.newest().number()
    }

    /// The key epoch that handshakes are made with.
    pub(super) fn in_use(&self) -> &OwnEpoch {
        self.ring.current()
    }

    /// What the own record says about earlier epochs.
    pub(super) fn floor(&self) -> KeyFloor {
        KeyFloor { accepted: self.ring.oldest().number(), cut: self.ring.cut }
    }

    pub(super) fn poll_timeout(&self) -> Option<Mono> {
        let look = !matches!(self.phase, Phase::Steady | Phase::Saving | Phase::Erasing);
        [look.then_some(self.look_at), self.plan_at].into_iter().flatten().min()
    }

    /// For the handshaker.
    pub(super) fn local_epochs(&self) -> LocalEpochs {
        local_epochs(&self.ring)
    }

    fn enter(&mut self, now: Mono, phase: Phase, patience: Duration) {
        (self.phase, self.since, self.until, self.look_at) = (phase, now, now + patience, now);
        self.nudge_at = now + NUDGE_EVERY;
        self.plan_at = Some(now);
    }

    pub(super) fn phase(&self) -> Phase {
        self.phase
    }

    #[cfg(test)]
    pub(super) fn waits_until(&self) -> Mono {
        self.until
    }

    /// When the newest key was made, in seconds since the Unix epoch.
    pub(super) fn announced_created_s(&self) -> u64 {
        self.ring.newest().signed.body().created_s
    }

    /// When the newest key was made, also one that is still being written, in seconds since the Unix epoch.
    pub(super) fn newest_created_s(&self) -> u64 {
        self.planned.as_ref().unwrap_or(&self.ring).newest().signed.body().created_s
    }

    /// When the oldest key that is accepted was made, in seconds since the Unix epoch.
    pub(super) fn oldest_created_s(&self) -> u64 {
        self.ring.oldest().signed.body().created_s
    }

    pub(super) fn look_at_plan(&mut self, now: Mono) {
        self.plan_at = Some(now);
    }
}

fn local_epochs(ring: &KeyRing) -> LocalEpochs {
    let local = |epoch: &OwnEpoch| LocalEpoch {
        number: epoch.number(),
        secret: epoch.secret.clone(),
        hash: EpochHash::of(&epoch.signed.signing_bytes()),
        capabilities: epoch.signed.body().capabilities,
    };
    LocalEpochs {
        current: local(ring.current()),
        next: ring.epochs.iter().rfind(|epoch| epoch.number() > ring.in_use).map(local),
        previous: ring.epochs.iter().rfind(|epoch| epoch.number() < ring.in_use).map(local),
        retired: ring.retired.clone(),
        announcement: ring.newest().signed.to_bytes(),
    }
}

impl Node {
    /// Begins to replace this node's transport key; returns the number of the new epoch.
    ///
    /// With `stolen`, the old key counts for nothing from the moment that the new one is on disk: sessions made with it end
    /// and are made anew, here and at every member that hears of it. That also replaces a rotation under way.
    ///
    /// # Errors
    /// [`RotateError`]; nothing has changed then.
    pub fn rotate_keys(&mut self, now: Now, stolen: bool) -> Result<KeyEpochNumber, RotateError> {
        let number = self.begin_rotation(now, stolen)?;
        self.settle(now);
        Ok(number)
    }

    pub(super) fn begin_rotation(&mut self, now: Now, stolen: bool) -> Result<KeyEpochNumber, RotateError> {
        let keys = &self.keys;
        let replacing = keys.planned.as_ref().is_some_and(|planned| planned.cut > keys.ring.cut);
        match keys.phase {
            _ if replacing => return Err(RotateError::Replacing),
            Phase::Steady | Phase::Draining => {}
            _ if stolen => {}
            _ => {
                let newest = keys.planned.as_ref().unwrap_or(&keys.ring).newest().number();
                return Err(RotateError::UnderWay(newest));
            }
        }
        // Members may know of epochs that a restored backup has never seen.
        let known = self.membership.get(self.me.member).and_then(|own| own.epochs().newest());
        let planned = keys.planned.as_ref().map(|planned| planned.newest().number());
        let last = [Some(keys.announced()), planned, known.map(|epoch| epoch.body().number)];
        let last = last.into_iter().flatten().max().unwrap_or_default();
        let number = KeyEpochNumber(last.0.checked_add(1).ok_or(RotateError::Exhausted)?);
        let secret = TransportSecret::random(&mut self.rng);
        let signed = self.me.identity.sign_key_epoch(KeyEpoch {
            mesh: self.membership.mesh(),
            member: self.me.member,
            number,
            key: secret.public(),
            // Not before a plan that it follows, whosever clock is right.
            created_s: now.wall.seconds().max(self.plan_in_force(now).map_or(0, |(_, plan)| plan.created_s)),
            // What was declared was decided at the start, by CPU, build, and configuration.
            capabilities: keys.in_use().signed.body().capabilities,
        })?;
        let mut planned = keys.ring.clone();
        planned.epochs.push(OwnEpoch { secret, signed });
        if stolen {
            planned.in_use = number;
            planned.cut = number;
            retire(&mut planned);
        }
        self.keys.planned = Some(planned);
        self.keys.enter(now.mono, Phase::Saving, Duration::ZERO);
        self.save_keys();
        Ok(number)
    }

    /// What [`Event::SaveKeys`] of this generation asked for is on disk.
    pub fn keys_saved(&mut self, now: Now, generation: u64) {
        if generation != self.keys.generation {
            return;
        }
        if let Some(ring) = self.keys.planned.take() {
            self.put_in_force(now, ring);
        } else if self.keys.phase == Phase::Erasing {
            self.keys.enter(now.mono, Phase::Draining, REJECT_AFTER);
        }
        self.settle(now);
    }

    fn save_keys(&mut self) {
        self.keys.generation += 1;
        let ring = self.keys.planned.as_ref().unwrap_or(&self.keys.ring).clone();
        self.events.push_back(Event::SaveKeys { ring: Box::new(ring), generation: self.keys.generation });
    }

    /// The new key is on disk: from now on others may hear of it.
    fn put_in_force(&mut self, now: Now, ring: KeyRing) {
        let stolen = ring.cut > self.keys.ring.cut;
        if self.handshaker.set_epochs(local_epochs(&ring)).is_err() {
            // It declares what this build can do, so it is supported.
            self.keys.enter(now.mono, Phase::Steady, Duration::ZERO);
            return;
        }
        self.keys.ring = ring;
        let signed = self.keys.ring.newest().signed.clone();
        self.gossip.push_object(now.mono, signed.to_bytes(), None);
        // Its own identity signed it.
        let _ = self.membership.add_key_epoch(signed);
        self.events.push_back(Event::CacheChanged);
        self.dirty.record = true;
        if stolen {
            self.membership.retire_key_epochs(self.me.member, self.keys.ring.cut);
            self.replace_sessions(now);
            self.keys.enter(now.mono, Phase::Draining, REJECT_AFTER);
        } else {
            self.keys.enter(now.mono, Phase::Announced, CONFIRM_PATIENCE);
        }
    }

    /// Ends every session that was made with a stolen key, and makes new ones.
    fn replace_sessions(&mut self, now: Now) {
        let cut = self.keys.ring.cut;
        let members: Vec<MemberId> = self.peers.keys().copied().collect();
        for member in members {
            // News travel over the sessions: tell before they end.
            let news = Frame::Object(self.keys.ring.newest().signed.to_bytes());
            self.send_frames(now, member, None, &[news]);
            self.cut_session(now, member, cut, KeyEpochNumber(0));
        }
    }

    /// Erases keypairs made with epochs before `local` (ours) or `remote` (theirs), and makes new ones at once.
    pub(super) fn cut_session(
        &mut self,
        now: Now,
        member: MemberId,
        local: KeyEpochNumber,
        remote: KeyEpochNumber,
    ) {
        let Some(peer) = self.peers.get_mut(&member) else { return };
        if peer.session.cut(now, &mut self.handshaker, local, remote) {
            peer.needed = now.mono;
            peer.session.renew(now.mono);
            peer.session.handle_timeout(now, &mut self.handshaker);
            self.drain_session(now, member);
            self.dirty.peers.insert(member);
        }
    }

    /// Goes on with a rotation where that is possible now.
    pub(super) fn drive_rotation(&mut self, now: Now) {
        if self.keys.poll_timeout().is_none_or(|at| at > now.mono) {
            return;
        }
        if self.keys.plan_at.take().is_some() {
            self.follow_plan(now);
        }
        self.keys.look_at = now.mono + LOOK_EVERY;
        // A plan has all the patience.
        let planned = self.keys.phase == Phase::Announced && self.plan_waits_for(now).is_some();
        let over = now.mono >= self.keys.until && !planned;
        let newest = self.keys.announced();
        match self.keys.phase {
            Phase::Announced if over || self.unconfirmed(now).is_empty() => self.switch_over(now),
            Phase::Announced if now.mono >= self.keys.nudge_at => self.nudge(now),
            Phase::Renewing if over || self.sessions_before(now, newest).is_empty() => {
                self.retire_old_keys(now)
            }
            Phase::Draining if over || !self.any_keypair_before(newest) => {
                self.keys.enter(now.mono, Phase::Steady, Duration::ZERO);
                self.events.push_back(Event::KeysRotated { epoch: newest });
            }
            _ => {}
        }
    }

    /// Tells members that have not confirmed once more: the news may have been lost, or their answer.
    fn nudge(&mut self, now: Now) {
        self.keys.nudge_at = now.mono + NUDGE_EVERY;
        let own = self.lsdb.get(self.me.member).map(|own| own.as_bytes().to_vec());
        let mut frames = vec![Frame::Object(self.keys.ring.newest().signed.to_bytes())];
        frames.extend(own.iter().flat_map(|record| frames_of(record)));
        frames.push(Frame::Summary(self.lsdb.summary()));
        for member in self.unconfirmed(now) {
            self.send_frames(now, member, None, &frames);
        }
    }

    /// From now on new handshakes are made with the new key.
    fn switch_over(&mut self, now: Now) {
        self.keys.ring.in_use = self.keys.announced();
        // It was accepted when it was announced.
        let _ = self.handshaker.set_epochs(self.keys.local_epochs());
        let newest = self.keys.announced();
        let old: Vec<MemberId> = self
            .peers
            .values()
            .filter(|peer| sends_with_older(peer, newest))
            .map(|peer| peer.member)
            .collect();
        let span: Duration =
            RENEW_PER_PEER.saturating_mul(old.len() as u32).clamp(RENEW_AT_LEAST, RENEW_AT_MOST);
        self.keys.enter(now.mono, Phase::Renewing, span + RENEW_PATIENCE);
        self.save_keys();
        for member in old {
            let at = now.mono + self.random_jitter(span);
            if let Some(peer) = self.peers.get_mut(&member) {
                peer.session.renew(at);
            }
        }
    }

    /// The old key is refused from now on, and erased.
    fn retire_old_keys(&mut self, now: Now) {
        retire(&mut self.keys.ring);
        let _ = self.handshaker.set_epochs(self.keys.local_epochs());
        self.membership.retire_key_epochs(self.me.member, self.keys.announced());
        self.keys.enter(now.mono, Phase::Erasing, Duration::ZERO);
        self.save_keys();
        self.dirty.record = true;
    }

    /// Members that are waited for before the newest epoch is used: all of a plan that have not confirmed it, or those that
    /// can be reached.
    fn unconfirmed(&self, now: Now) -> Vec<MemberId> {
        if let Some(waiting) = self.plan_waits_for(now) {
            return waiting;
        }
        let newest = self.keys.announced();
        let others = self.membership.iter().map(|(member, _)| member);
        others
            .filter(|member| *member != self.me.member && self.may_be_present(now, *member))
            .filter(|member| self.confirmed_by(*member).is_none_or(|number| number < newest))
            .collect()
    }

    /// Whether a member takes part now, or this node has just started, and it did before.
    fn may_be_present(&self, now: Now, member: MemberId) -> bool {
        self.is_present(now, member) || now.mono < self.keys.resuming_until && self.is_announced(now, member)
    }

    fn is_announced(&self, now: Now, member: MemberId) -> bool {
        self.membership.is_honoured(now.wall, member)
            && self.lsdb.get(member).is_some_and(|entry| self.lsdb.is_live(entry, now.mono))
    }

    /// Whether a member takes part now, as far as can be told from here.
    pub(super) fn is_present(&self, now: Now, member: MemberId) -> bool {
        let peer = self.peers.get(&member);
        self.is_announced(now, member)
            && !peer.is_some_and(|peer| peer.unresponsive(now.mono))
            && (peer.is_some_and(|peer| peer.up) || self.routing.paths.best(member).is_some())
    }

    /// The newest own epoch that a member is known to know: it has said so, or used it.
    pub(super) fn confirmed_by(&self, member: MemberId) -> Option<KeyEpochNumber> {
        let used =
            self.peers.get(&member).and_then(|peer| peer.session.keypairs().map(|k| k.local_epoch).max());
        self.keys.confirmed.get(&member).copied().max(used)
    }

    /// Whether a member is known to know the key that handshakes are made with.
    pub(super) fn knows_our_key(&self, member: MemberId) -> bool {
        self.keys.ring.epochs.len() == 1 && self.keys.ring.retired.is_empty()
            || self.confirmed_by(member).is_some_and(|number| number >= self.keys.ring.in_use)
    }

    fn any_keypair_before(&self, newest: KeyEpochNumber) -> bool {
        self.peers.values().any(|peer| peer.session.keypairs().any(|keypair| keypair.local_epoch < newest))
    }

    /// What a member's record says about this node's key epochs. The records of the cache count as well: a member that
    /// confirmed a key before this node's restart has no reason to say so again.
    pub(super) fn note_confirmation_of(&mut self, now: Now, origin: MemberId) {
        let record = self.lsdb.get(origin).map(|entry| entry.view());
        if let Some(number) =
            record.and_then(|record| confirmed_in(&record, self.me.member, self.keys.announced()))
        {
            let known = self.keys.confirmed.entry(origin).or_default();
            *known = number.max(*known);
            self.keys.look_at = self.keys.look_at.min(now.mono);
        }
    }

    /// A member's record has come: what it says about key epochs, ours and its own.
    pub(super) fn note_keys_of(&mut self, now: Now, origin: MemberId) {
        let me = self.me.member;
        if origin == me {
            return;
        }
        self.note_confirmation_of(now, origin);
        let Some(record) = self.lsdb.get(origin).map(|entry| entry.view()) else { return };
        let (floor, announced) = (record.floor(), record.keys().1);
        self.keys.look_at_plan(now.mono);
        let Some(floor) = floor else { return };
        if self.membership.retire_key_epochs(origin, floor.accepted) {
            self.events.push_back(Event::CacheChanged);
        }
        if floor.cut > KeyEpochNumber(0) {
            self.cut_session(now, origin, KeyEpochNumber(0), floor.cut);
        }
        let rotating = floor.accepted < announced;
        let own = self.lsdb.get(me).map(|own| own.view());
        let told = own.is_some_and(|own| confirmed_in(&own, origin, announced).is_some());
        if rotating || told {
            self.dirty.record = true;
        }
    }

    /// The confirmations for the own record: members that are rotating, and whose new epoch is known here; those for which
    /// there is no room in short. `used` is the number of candidates, subnets, and links that the record has already.
    pub(super) fn own_confirms(&self, now: Mono, used: usize) -> (Vec<(MemberId, KeyEpochNumber)>, Vec<u32>) {
        let room = OBJECT_MAX_LEN.saturating_sub(RECORD_REST + used * 22);
        let rotating = self.lsdb.live(now).filter_map(|(member, entry)| {
            let (record, known) = (entry.view(), self.membership.get(member)?);
            let (_, announced) = record.keys();
            let rotates = record.floor().is_some_and(|floor| floor.accepted < announced);
            let knows = known.epochs().newest().is_some_and(|newest| newest.body().number >= announced);
            (rotates && knows && member != self.me.member).then_some((member, announced))
        });
        let mut confirms: Vec<_> = rotating.collect();
        let rest = confirms.split_off(confirms.len().min(room / 20).min(MAX_CONFIRMS));
        let room = room.saturating_sub(confirms.len() * 20) / 4;
        let short = rest.iter().map(|(member, number)| confirm_mark(*member, *number));
        (confirms, short.take(room.min(MAX_SHORT_CONFIRMS)).collect())
    }

    /// A key epoch of our own may be known that is newer than what is on our disk: it was restored from a backup. The key
    /// there is of no use, so a newer one replaces it.
    pub(super) fn replace_restored_key(&mut self, now: Now) {
        let planned = self.keys.planned.as_ref().map(|planned| planned.newest().number());
        let known = self.membership.get(self.me.member).and_then(|own| own.epochs().newest());
        let known = known.map(|epoch| epoch.body().number).unwrap_or_default();
        if known > self.keys.announced().max(planned.unwrap_or_default()) {
            // Where numbers are used up there is nothing to be done.
            let _ = self.begin_rotation(now, true);
        }
    }

    /// Rotates when the key in use is as old as the settings say.
    pub(super) fn rotate_if_due(&mut self, now: Now) {
        self.follow_plan(now);
        if self.keys.phase == Phase::Steady
            && self.next_rotation_s().is_some_and(|at| at <= now.wall.seconds())
        {
            // Nothing is under way, so it can begin.
            let _ = self.begin_rotation(now, false);
        }
    }

    /// When the next scheduled rotation is due, in seconds since the Unix epoch. Nodes that were made together do not
    /// rotate together: member and epoch decide by how much of the interval it is early.
    fn next_rotation_s(&self) -> Option<u64> {
        let every_s = self.settings.rotate_every?.as_secs();
        let body = self.keys.in_use().signed.body().clone();
        let hash = crate::crypto::hash(&[b"meshnet rotation", &body.member.0, &body.number.0.to_be_bytes()]);
        let draw = u64::from(u16::from_be_bytes([hash[0], hash[1]]));
        let early_s = every_s / SCHEDULE_JITTER * draw / u64::from(u16::MAX);
        Some(body.created_s.saturating_add(every_s - early_s))
    }

    /// The newest key with its signed epoch, for whoever joins here.
    pub fn newest_key(&self) -> &OwnEpoch {
        self.keys.ring.newest()
    }

    /// The node's keys and what the others know of them.
    pub fn keys_view(&self, now: Now) -> KeysView {
        let keys = &self.keys;
        let epochs = keys.ring.epochs.iter().map(|epoch| EpochView {
            number: epoch.number(),
            created_s: epoch.signed.body().created_s,
            usage: match epoch.number().cmp(&keys.ring.in_use) {
                std::cmp::Ordering::Less => EpochUse::Leaving,
                std::cmp::Ordering::Equal => EpochUse::Current,
                std::cmp::Ordering::Greater => EpochUse::Next,
            },
        });
        let others = self.membership.iter().filter(|(member, _)| *member != self.me.member);
        let honoured = others.filter(|(member, _)| self.membership.is_honoured(now.wall, *member));
        let mut peers: Vec<PeerKeys> = honoured
            .map(|(member, known)| {
                let sending = self.peers.get(&member).and_then(|peer| peer.session.sending());
                let newest = known.epochs().newest().map(|epoch| epoch.body());
                PeerKeys {
                    member,
                    name: known.name().clone(),
                    present: self.is_present(now, member),
                    confirmed: self.confirmed_by(member),
                    session: sending.map(|keypair| (keypair.local_epoch, keypair.remote_epoch)),
                    epoch: newest.map(|newest| newest.number),
                    created_s: newest.map(|newest| newest.created_s),
                }
            })
            .collect();
        peers.sort_by(|a, b| a.name.cmp(&b.name));
        let planned = keys.planned.as_ref().map(|planned| planned.newest().number());
        KeysView {
            phase: keys.phase,
            since: now.mono.since(keys.since),
            target: planned.unwrap_or(keys.announced()),
            epochs: epochs.collect(),
            retired: keys.ring.retired.len(),
            next_rotation_s: self.next_rotation_s(),
            waiting_for: match keys.phase {
                Phase::Announced => self.unconfirmed(now),
                Phase::Renewing => self.sessions_before(now, keys.announced()),
                _ => Vec::new(),
            },
            peers,
        }
    }

    /// Members whose session is in use and was made with an older key of ours.
    fn sessions_before(&self, now: Now, newest: KeyEpochNumber) -> Vec<MemberId> {
        let waits = |peer: &&super::Peer| sends_with_older(peer, newest) && !peer.unresponsive(now.mono);
        self.peers.values().filter(waits).map(|peer| peer.member).collect()
    }
}

/// A confirmation in short. That two are the same by chance, and so a member is taken to know what it does not, costs it the
/// round trip of a stale-key answer.
pub(super) fn confirm_mark(member: MemberId, number: KeyEpochNumber) -> u32 {
    let hash = crate::crypto::hash(&[b"meshnet confirm", &member.0, &number.0.to_be_bytes()]);
    u32::from_be_bytes([hash[0], hash[1], hash[2], hash[3]])
}

/// Which key epoch of `of` a record confirms; `newest` is the one that is waited for.
pub(super) fn confirmed_in(
    record: &RecordView<'_>,
    of: MemberId,
    newest: KeyEpochNumber,
) -> Option<KeyEpochNumber> {
    let in_short = || record.confirms_in_short(confirm_mark(of, newest)).then_some(newest);
    record.confirmed(of).or_else(in_short)
}

/// Whether a peer's session sends with a keypair that was made with an older key of ours.
fn sends_with_older(peer: &super::Peer, newest: KeyEpochNumber) -> bool {
    peer.session.sending().is_some_and(|keypair| keypair.local_epoch < newest)
}

/// Leaves only the newest key, and remembers the public halves of the others.
fn retire(ring: &mut KeyRing) {
    let newest = ring.newest().number();
    let old: Vec<TransportKey> = ring
        .epochs
        .iter()
        .filter(|epoch| epoch.number() < newest)
        .map(|epoch| epoch.signed.body().key)
        .collect();
    ring.epochs.retain(|epoch| epoch.number() == newest);
    ring.retired.extend(old);
    let surplus = ring.retired.len().saturating_sub(MAX_RETIRED);
    ring.retired.drain(..surplus);
}
