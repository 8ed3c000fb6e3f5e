//! One peer's session: its keypairs, the handshake under way, and their timers.

use std::collections::VecDeque;
use std::time::Duration;

use proto::id::{KeyEpochNumber, MemberId, ReceiverIndex};

use super::attempts::{Attempts, CONFIRM_TIMEOUT, Due, RETRY_JITTER, UsageWatch};
use super::handshaker::{Handshaker, RemoteEpoch};
use super::initiator::{HeldCookie, Pending};
use super::keypair::{Keypair, REJECT_AFTER, Slots};
use crate::time::{Mono, Now};

/// Time without new keys after which a session keeps nothing of a handshake any more.
pub const ERASE_AFTER: Duration = Duration::from_secs(3 * REJECT_AFTER.as_secs());

/// How much later than the initiator a responder replaces a keypair, in case that the initiator does not.
const RESPONDER_REKEY_DELAY: Duration = Duration::from_secs(10);

/// Something that the owner of a session has to act upon.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum SessionEvent {
    /// An init is due: call [`Session::initiate`], and send [`Session::pending_init`] by every path worth trying.
    NeedInit,
    /// [`Session::pending_init`] is due once more, as it is.
    RepeatInit,
    /// [`Session::keypairs`] or [`Session::sending`] give something else than before.
    KeysChanged,
    /// The keypair of this local index is erased.
    Expired(ReceiverIndex),
    /// A post-quantum key is due: call [`Session::kem_offer`], and send what it returns.
    KemDue,
    /// The peer has not answered for 90 s. No more inits until [`Session::want`].
    GaveUp,
}

/// The session with one peer.
pub struct Session {
    pub(super) member: MemberId,
    pub(super) remote: RemoteEpoch,
    pub(super) slots: Slots,
    /// The current keypair is too old to send with.
    stopped: bool,
    pub(super) pending: Option<Pending>,
    pub(super) attempts: Attempts,
    pub(super) challenges: u8,
    /// How often in a row a handshake was made anew to be hybrid, and was not.
    pub(super) not_hybrid: u32,
    watch: Option<UsageWatch>,
    /// The next init replaces keys that work.
    routine: bool,
    pub(super) erase_at: Option<Mono>,
    pub(super) cookies: VecDeque<HeldCookie>,
    /// The newest timestamp in an init of the peer's.
    pub(super) seen_us: u64,
    /// The newest timestamp that the peer has seen in an init of ours, as far as we know.
    pub(super) told_us: u64,
    events: VecDeque<SessionEvent>,
}

impl Session {
    /// A session without keys.
    pub fn new(member: MemberId, remote: RemoteEpoch) -> Session {
        Session {
            member,
            remote,
            slots: Slots::default(),
            stopped: false,
            pending: None,
            attempts: Attempts::default(),
            challenges: 0,
            not_hybrid: 0,
            watch: None,
            routine: false,
            erase_at: None,
            cookies: VecDeque::new(),
            seen_us: 0,
            told_us: 0,
            events: VecDeque::new(),
        }
    }

    /// The peer.
    pub fn member(&self) -> MemberId {
        self.member
    }

    /// The peer's key epoch that inits are made to.
    pub fn remote(&self) -> &RemoteEpoch {
        &self.remote
    }

    /// All keypairs that receive, four at most: current, next, and two previous ones.
    pub fn keypairs(&self) -> impl Iterator<Item = &Keypair> {
        self.slots.iter()
    }

    /// The keypair to send with. Never one that the peer, as initiator, has not used yet.
    pub fn sending(&self) -> Option<&Keypair> {
        self.slots.current.as_ref().filter(|_| !self.stopped)
    }

    /// Whether an init of ours waits for its response.
    pub fn is_initiating(&self) -> bool {
        self.pending.is_some()
    }

    /// The newest timestamp accepted from the peer, in microseconds since the Unix epoch. Persisting it, and giving it
    /// to [`Session::restore_seen`], keeps inits from before a restart from being accepted after it.
    pub fn seen_us(&self) -> u64 {
        self.seen_us
    }

    /// Refuses the peer's inits up to this timestamp.
    pub fn restore_seen(&mut self, seen_us: u64) {
        self.seen_us = self.seen_us.max(seen_us);
    }

    /// Asks for keys because there is something to send: begins a series of attempts if there is neither a keypair to send
    /// with nor a series under way.
    pub fn want(&mut self, now: Now) {
        if self.sending().is_some() {
            return;
        }
        // A responder's unproven keypair will be proven in a moment, or its initiator is gone.
        let soon = self.slots.next.as_ref().map(|next| next.created + CONFIRM_TIMEOUT);
        self.begin_series(soon.map_or(now.mono, |soon| soon.max(now.mono)));
    }

    /// Asks for new keys at `at`, whether or not there are some: for the rotation of transport keys.
    pub fn renew(&mut self, at: Mono) {
        self.slots.iter_mut().for_each(|keypair| keypair.hasten(at));
        self.begin_series(at);
    }

    /// Packets are carried, not just control frames. Keys that are older than [`super::REKEY_AFTER`] are replaced at once, for
    /// what is carried is to be open for minutes only to who gets hold of them.
    pub fn note_traffic(&mut self, now: Mono) {
        let Some(current) = self.slots.current.as_mut().filter(|current| current.hastened.is_none()) else {
            return;
        };
        current.hasten(now);
        if let Some(watch) = &mut self.watch {
            watch.hasten(current.rekeys_at() + rekey_delay(current));
        }
    }

    /// Erases the keypairs that were made with a key of ours before `local`, or of the peer's before `remote`: one of them
    /// was stolen. An init under way that was made with one is abandoned too. Returns whether there were any.
    pub fn cut(
        &mut self,
        now: Now,
        handshaker: &mut Handshaker,
        local: KeyEpochNumber,
        remote: KeyEpochNumber,
    ) -> bool {
        let dead = |keypair: &Keypair| keypair.local_epoch < local || keypair.remote_epoch < remote;
        let cut: Vec<Keypair> = self.slots.drain_if(dead).collect();
        let any = !cut.is_empty();
        for keypair in cut {
            self.expire(handshaker, Some(keypair));
            self.changed();
        }
        let stale = self.pending.as_ref().is_some_and(|pending| pending.is_before(local, remote));
        if stale && self.abandon_pending(handshaker) {
            self.attempts.reschedule(now.mono);
        }
        handshaker.forget_answers(self.member);
        any
    }

    /// Takes note of the peer's newer key epoch. An init under way to the old one is abandoned, and made anew at once;
    /// keypairs stay.
    pub fn set_remote(&mut self, now: Now, handshaker: &mut Handshaker, remote: RemoteEpoch) {
        if self.remote == remote {
            return;
        }
        self.remote = remote;
        if self.abandon_pending(handshaker) {
            self.attempts.reschedule(now.mono);
        }
    }

    /// To be called when an authenticated, not replayed datagram has arrived on the keypair of this local index: if
    /// that is the unproven one, it becomes current. True if so.
    pub fn confirmed(&mut self, now: Now, handshaker: &mut Handshaker, index: ReceiverIndex) -> bool {
        if let Some(keypair) = self.slots.iter_mut().find(|keypair| keypair.local_index == index) {
            keypair.heard = now.mono;
        }
        let Some(pushed_out) = self.slots.promote(index) else { return false };
        self.abandon_pending(handshaker);
        self.installed(now.mono, handshaker, pushed_out);
        true
    }

    /// When [`Session::handle_timeout`] has something to do next.
    pub fn poll_timeout(&self) -> Option<Mono> {
        let expiry = self.slots.iter().map(Keypair::expires_at).min();
        let stop = self.sending().map(Keypair::rejects_at);
        let watch = self.watch.as_ref().filter(|_| !self.attempts.is_active()).map(UsageWatch::next_due);
        [expiry, stop, watch, self.attempts.next_due(), self.erase_at, self.kem_due()]
            .into_iter()
            .flatten()
            .min()
    }

    /// Does what is due; the outcome is in [`Session::poll_event`].
    pub fn handle_timeout(&mut self, now: Now, handshaker: &mut Handshaker) {
        let now = now.mono;
        let expired: Vec<Keypair> = self.slots.drain_if(|keypair| keypair.expires_at() <= now).collect();
        for keypair in expired {
            self.expire(handshaker, Some(keypair));
            self.changed();
        }
        if self.sending().is_some_and(|keypair| keypair.rejects_at() <= now) {
            self.stopped = true;
            self.changed();
        }
        if self.sending().is_none() {
            self.watch = None;
        }
        if let (Some(watch), Some(current)) = (&mut self.watch, &self.slots.current)
            && !self.attempts.is_active()
            && watch.advance(now, current.sealer.most_used())
        {
            self.begin_routine(now);
        }
        if self.kem_due().is_some_and(|at| at <= now) {
            self.events.push_back(SessionEvent::KemDue);
        }
        let jitter = handshaker.jitter(RETRY_JITTER);
        match self.attempts.advance(now, jitter) {
            Due::Nothing => {}
            Due::Attempt => self.events.push_back(SessionEvent::NeedInit),
            Due::Repeat if self.pending.is_some() => self.events.push_back(SessionEvent::RepeatInit),
            Due::Repeat => {}
            Due::GiveUp => {
                self.abandon_pending(handshaker);
                handshaker.stats.gave_up += 1;
                self.events.push_back(SessionEvent::GaveUp);
            }
        }
        if self.erase_at.is_some_and(|at| at <= now) {
            self.erase_at = None;
            self.cookies.clear();
            handshaker.forget_answers(self.member);
        }
    }

    /// What has happened since the last call; to be drained after every call that takes the handshaker.
    pub fn poll_event(&mut self) -> Option<SessionEvent> {
        self.events.pop_front()
    }

    /// Ends the session: gives its indices back and erases its keys. The handshaker remembers up to which timestamp the
    /// peer's inits were seen, so that a later session with it accepts none of them again.
    pub fn close(mut self, handshaker: &mut Handshaker) {
        self.abandon_pending(handshaker);
        handshaker.forget_answers(self.member);
        handshaker.keep_floor(self.member, self.seen_us);
        for keypair in self.slots.drain_if(|_| true) {
            handshaker.release(keypair.local_index);
        }
    }

    /// There is a new current keypair.
    pub(super) fn installed(&mut self, now: Mono, handshaker: &mut Handshaker, pushed_out: Option<Keypair>) {
        self.expire(handshaker, pushed_out);
        self.attempts.stop();
        self.challenges = 0;
        self.stopped = false;
        if self.slots.current.as_ref().is_some_and(|current| current.hybrid) {
            self.not_hybrid = 0;
        }
        self.erase_at = Some(now + ERASE_AFTER);
        self.slots.previous.iter_mut().flatten().for_each(|previous| previous.hasten(now));
        self.watch = self.slots.current.as_ref().map(|current| {
            UsageWatch::new(current.rekeys_at() + rekey_delay(current), current.suite.rekey_after())
        });
        self.changed();
    }

    /// Whether the init that is due merely replaces keys that work, and is the first of its series: it need not be tried by
    /// every path at once.
    pub fn take_routine(&mut self) -> bool {
        std::mem::take(&mut self.routine)
    }

    /// As [`Session::begin_series`], to replace keys that work.
    pub(super) fn begin_routine(&mut self, at: Mono) {
        self.begin_series(at);
        self.routine = true;
    }

    pub(super) fn begin_series(&mut self, at: Mono) {
        self.routine = false;
        if !self.attempts.is_active() {
            self.challenges = 0;
        }
        self.attempts.start(at);
    }

    pub(super) fn abandon_pending(&mut self, handshaker: &mut Handshaker) -> bool {
        let pending = self.pending.take();
        if let Some(pending) = &pending {
            handshaker.release(pending.index);
        }
        pending.is_some()
    }

    pub(super) fn expire(&mut self, handshaker: &mut Handshaker, keypair: Option<Keypair>) {
        if let Some(keypair) = keypair {
            handshaker.release(keypair.local_index);
            self.events.push_back(SessionEvent::Expired(keypair.local_index));
        }
    }

    pub(super) fn changed(&mut self) {
        if !self.events.contains(&SessionEvent::KeysChanged) {
            self.events.push_back(SessionEvent::KeysChanged);
        }
    }
}

/// How much later than the initiator this end replaces a keypair.
fn rekey_delay(keypair: &Keypair) -> Duration {
    if keypair.is_initiator { Duration::ZERO } else { RESPONDER_REKEY_DELAY }
}
