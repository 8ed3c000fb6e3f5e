//! One peer's session: its keypairs, the handshake under way, and their timers.

use std::collections::VecDeque;
use std::net::SocketAddr;
use std::time::Duration;

use proto::cookie::Cookie as CookieMessage;
use proto::handshake::{Attachment, INIT_MAX_LEN, Init, InitPayload, Response, ResponsePayload};
use proto::id::{KeyEpochNumber, MemberId, ReceiverIndex};
use proto::stale::StaleKey;

use super::TIMESTAMP_LIMIT_US;
use super::attempts::{Attempts, CONFIRM_TIMEOUT, Due, RETRY_JITTER, UsageWatch};
use super::handshaker::{Fingerprint, Handshaker, OpenedInit, RemoteEpoch, psk2};
use super::keypair::{Keypair, KeypairInfo, REJECT_AFTER, REKEY_AFTER, Slots};
use super::macs::{COOKIE_RENEWAL, Cookie, MacKeys};
use super::noise::Noise;
use super::stats::DropReason;
use crate::crypto::{MAC_LEN, Suite};
use crate::time::{Mono, Now};

/// Time without new keys after which a session keeps nothing of a handshake any more.
pub const ERASE_AFTER: Duration = Duration::from_secs(3 * REJECT_AFTER.as_secs());

/// How long the side that goes first in a simultaneous initiation turns the other's inits away. After that its own do not
/// seem to get through, and it takes what it gets.
pub const TIE_PATIENCE: Duration = Duration::from_secs(3);

/// How much later than the initiator a responder replaces a keypair, in case that the initiator does not.
const RESPONDER_REKEY_DELAY: Duration = Duration::from_secs(10);

/// Endpoints of a peer whose cookies are kept.
const MAX_COOKIES: usize = 8;

/// Cookies that make the same init go out again at once.
const MAX_COOKIE_RESENDS: u8 = 4;

/// Timestamp challenges followed at once within one series of attempts.
const MAX_CHALLENGES: u8 = 3;

/// Something that the owner of a session has to act upon.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum SessionEvent {
    /// An init is due: call [`Session::initiate`], and send [`Session::pending_init`] by every path worth trying.
    NeedInit,
    /// [`Session::keypairs`] or [`Session::sending`] give something else than before.
    KeysChanged,
    /// The keypair of this local index is erased.
    Expired(ReceiverIndex),
    /// The peer has not answered for 90 s. No more inits until [`Session::want`].
    GaveUp,
}

/// What came of an init that opened.
pub enum Accepted {
    /// There is a new, unproven keypair. Send this response back the way the init came.
    Response(Vec<u8>),
    /// The timestamp was not new. Send this challenge back the way the init came; nothing else has changed.
    Challenge(Vec<u8>),
    /// Nothing is to be sent.
    Drop(DropReason),
}

/// What came of a response.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum ResponseOutcome {
    /// There is a new current keypair. Send something with it now: the peer does not send before it has seen it used.
    Established {
        /// Its local index.
        index: ReceiverIndex,
        /// What the peer says about itself.
        payload: ResponsePayload,
    },
    /// The peer has seen a later timestamp; a [`SessionEvent::NeedInit`] for another try is due at once.
    Challenged,
    /// Nothing has changed.
    Drop(DropReason),
}

/// What came of a cookie.
#[derive(PartialEq, Eq, Debug)]
pub enum CookieOutcome {
    /// Send this init, the same with a proof of address, to where the cookie came from.
    Resend(Vec<u8>),
    /// The cookie is kept for the next attempt.
    Kept,
    /// Nothing has changed.
    Drop(DropReason),
}

/// The session with one peer.
pub struct Session {
    member: MemberId,
    remote: RemoteEpoch,
    slots: Slots,
    /// The current keypair is too old to send with.
    stopped: bool,
    pending: Option<Pending>,
    attempts: Attempts,
    challenges: u8,
    watch: Option<UsageWatch>,
    erase_at: Option<Mono>,
    cookies: VecDeque<HeldCookie>,
    /// The newest timestamp in an init of the peer's.
    seen_us: u64,
    /// The newest timestamp that the peer has seen in an init of ours, as far as we know.
    told_us: u64,
    events: VecDeque<SessionEvent>,
}

/// An init of ours that waits for its response.
struct Pending {
    noise: Noise,
    index: ReceiverIndex,
    /// The whole datagram, with mac2 zero.
    datagram: Vec<u8>,
    /// Of messages to the peer.
    macs: MacKeys,
    /// Of messages to us.
    own_macs: MacKeys,
    local_epoch: KeyEpochNumber,
    remote_epoch: KeyEpochNumber,
    suite: Suite,
    cookie_resends: u8,
}

struct HeldCookie {
    endpoint: SocketAddr,
    cookie: Cookie,
    received: Mono,
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
            watch: None,
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
        self.begin_series(at);
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

    /// Makes an init, in place of one that may be under way. [`Session::pending_init`] gives the datagrams to send.
    ///
    /// # Errors
    /// [`proto::Error::TooLong`], if the attachments do not fit an init; nothing has changed then.
    pub fn initiate(
        &mut self,
        now: Now,
        handshaker: &mut Handshaker,
        attachments: &[Attachment<'_>],
    ) -> Result<(), proto::Error> {
        let (local, advert) = (handshaker.current_epoch().clone(), handshaker.advert);
        let payload = InitPayload {
            timestamp_us: handshaker.timestamp_us(now, self.told_us),
            sender_epoch: local.number,
            responder_epoch: self.remote.number,
            capabilities: advert.capabilities,
            bundle_version: advert.bundle_version,
            revocations: advert.revocations,
            attachments: attachments.to_vec(),
        };
        let told_us = payload.timestamp_us;
        let mut encoded = Vec::new();
        payload.emit(&mut encoded);

        let mut noise = handshaker.begin(&self.remote);
        let mut message = Vec::new();
        let index = handshaker.allocate(self.member);
        let written = noise.write(&encoded, &mut message);
        let mut datagram = Vec::new();
        Init { sender: index, noise: &message, mac1: [0; MAC_LEN], mac2: [0; MAC_LEN] }.emit(&mut datagram);
        if written.is_err() || datagram.len() > INIT_MAX_LEN {
            handshaker.release(index);
            return Err(proto::Error::TooLong("init"));
        }
        let macs = MacKeys::new(&self.remote.key, &handshaker.gate);
        macs.seal(&mut datagram, None);

        self.abandon_pending(handshaker);
        self.told_us = told_us;
        self.pending = Some(Pending {
            noise,
            index,
            datagram,
            macs,
            own_macs: MacKeys::new(&local.secret.public(), &handshaker.gate),
            local_epoch: local.number,
            remote_epoch: self.remote.number,
            suite: Suite::choose(local.capabilities, self.remote.capabilities),
            cookie_resends: 0,
        });
        handshaker.stats.inits_sent += 1;
        Ok(())
    }

    /// The init under way, for sending to `to` (`None`: through a relay). It may go out by any number of paths; it is
    /// the same except for the proof of our address, where the peer has asked for one there.
    pub fn pending_init(&self, now: Now, to: Option<SocketAddr>) -> Option<Vec<u8>> {
        let pending = self.pending.as_ref()?;
        let mut datagram = pending.datagram.clone();
        if let Some(cookie) = to.and_then(|to| self.cookie_for(now.mono, to)) {
            pending.macs.seal(&mut datagram, Some(cookie));
        }
        Some(datagram)
    }

    /// Answers an init that opened, and that is from this session's peer with its key epoch `remote` (which need not be
    /// the one that our own inits are made to).
    pub fn accept_init(
        &mut self,
        now: Now,
        handshaker: &mut Handshaker,
        opened: OpenedInit,
        remote: &RemoteEpoch,
    ) -> Accepted {
        let payload = opened.payload();
        let timestamp_us = payload.timestamp_us;
        if opened.remote_static != remote.key {
            return Accepted::Drop(handshaker.stats.count(DropReason::WrongKey));
        }
        if payload.sender_epoch != remote.number {
            return Accepted::Drop(handshaker.stats.count(DropReason::Epoch));
        }
        let Some(local) = handshaker.epoch(opened.local_epoch).cloned() else {
            return Accepted::Drop(handshaker.stats.count(DropReason::Epoch));
        };
        let respond =
            Respond { init: opened.sender, fingerprint: opened.fingerprint, noise: opened.noise, remote };
        self.seen_us = self.seen_us.max(handshaker.floor(self.member));
        if timestamp_us <= self.seen_us {
            let challenge = ResponsePayload::StaleTimestamp { epoch: local.number, floor_us: self.seen_us };
            return match self.respond(now, handshaker, respond, ReceiverIndex(0), challenge) {
                Ok((datagram, _)) => {
                    handshaker.stats.challenges_sent += 1;
                    Accepted::Challenge(datagram)
                }
                Err(reason) => Accepted::Drop(handshaker.stats.count(reason)),
            };
        }
        if self.goes_first(now.mono, handshaker.member) {
            // Seen is seen: it must not be accepted when our own handshake is done, nor challenged when it comes again
            // by another path.
            self.seen_us = timestamp_us;
            handshaker.remember_answer(now.mono, self.member, respond.fingerprint, None);
            return Accepted::Drop(handshaker.stats.count(DropReason::TieBreak));
        }

        let accepted = ResponsePayload::Accepted {
            epoch: local.number,
            capabilities: handshaker.advert.capabilities,
            bundle_version: handshaker.advert.bundle_version,
            revocations: handshaker.advert.revocations,
        };
        let info = KeypairInfo {
            local_index: handshaker.allocate(self.member),
            remote_index: opened.sender,
            created: now.mono,
            is_initiator: false,
            suite: Suite::choose(local.capabilities, remote.capabilities),
            local_epoch: local.number,
            remote_epoch: remote.number,
        };
        let index = info.local_index;
        let (datagram, noise) = match self.respond(now, handshaker, respond, index, accepted) {
            Ok(done) => done,
            Err(reason) => {
                handshaker.release(index);
                return Accepted::Drop(handshaker.stats.count(reason));
            }
        };
        // An init of ours, and its next attempt, stay until the new keypair is proven: until then this init may be one that
        // somebody has recorded.
        self.seen_us = timestamp_us;
        let pushed_out = self.slots.install_unproven(Keypair::new(info, &noise.split(PSK_POSITION)));
        self.expire(handshaker, pushed_out);
        self.erase_at = Some(now.mono + ERASE_AFTER);
        self.changed();
        handshaker.stats.inits_accepted += 1;
        Accepted::Response(datagram)
    }

    /// Handles a response whose receiver index is of this session ([`Handshaker::addressee`]). A response that does not
    /// open changes nothing: the right one may still come.
    pub fn handle_response(
        &mut self,
        now: Now,
        handshaker: &mut Handshaker,
        datagram: &[u8],
    ) -> ResponseOutcome {
        match self.try_response(now, handshaker, datagram) {
            Ok(outcome) => outcome,
            Err(reason) => ResponseOutcome::Drop(handshaker.stats.count(reason)),
        }
    }

    fn try_response(
        &mut self,
        now: Now,
        handshaker: &mut Handshaker,
        datagram: &[u8],
    ) -> Result<ResponseOutcome, DropReason> {
        let response = Response::parse(datagram).map_err(|_| DropReason::Malformed)?;
        let pending = self
            .pending
            .as_mut()
            .filter(|pending| pending.index == response.receiver)
            .ok_or(DropReason::UnknownIndex)?;
        if !pending.own_macs.check(datagram) {
            return Err(DropReason::Mac1);
        }
        let payload = pending.noise.read(response.noise).map_err(|_| DropReason::Noise)?;

        // From here on it is the peer who speaks, and the Noise state is used up.
        let Some(pending) = self.pending.take() else { return Err(DropReason::UnknownIndex) };
        match ResponsePayload::parse(&payload) {
            Ok(payload @ ResponsePayload::Accepted { epoch, .. }) if epoch == pending.remote_epoch => {
                let index = pending.index;
                self.establish(now.mono, handshaker, pending, response.sender);
                Ok(ResponseOutcome::Established { index, payload })
            }
            Ok(ResponsePayload::StaleTimestamp { epoch, floor_us }) if epoch == pending.remote_epoch => {
                handshaker.release(pending.index);
                self.follow_challenge(now.mono, handshaker, floor_us)
            }
            Ok(_) => {
                handshaker.release(pending.index);
                Err(DropReason::Epoch)
            }
            Err(_) => {
                handshaker.release(pending.index);
                Err(DropReason::Malformed)
            }
        }
    }

    /// Handles a cookie whose receiver index is of this session.
    pub fn handle_cookie(
        &mut self,
        now: Now,
        handshaker: &mut Handshaker,
        from: SocketAddr,
        datagram: &[u8],
    ) -> CookieOutcome {
        match self.try_cookie(now.mono, handshaker, from, datagram) {
            Ok(outcome) => outcome,
            Err(reason) => CookieOutcome::Drop(handshaker.stats.count(reason)),
        }
    }

    fn try_cookie(
        &mut self,
        now: Mono,
        handshaker: &mut Handshaker,
        from: SocketAddr,
        datagram: &[u8],
    ) -> Result<CookieOutcome, DropReason> {
        let message = CookieMessage::parse(datagram).map_err(|_| DropReason::Malformed)?;
        let pending = self
            .pending
            .as_mut()
            .filter(|pending| pending.index == message.receiver)
            .ok_or(DropReason::UnknownIndex)?;
        let cookie =
            handshaker.open_cookie(&pending.macs, &pending.datagram, &message).ok_or(DropReason::Cookie)?;
        handshaker.stats.cookies_received += 1;
        let resend = (pending.cookie_resends < MAX_COOKIE_RESENDS).then(|| {
            pending.cookie_resends += 1;
            let mut init = pending.datagram.clone();
            pending.macs.seal(&mut init, Some(&cookie));
            init
        });
        self.cookies.retain(|held| held.endpoint != from);
        if self.cookies.len() >= MAX_COOKIES {
            self.cookies.pop_front();
        }
        self.cookies.push_back(HeldCookie { endpoint: from, cookie, received: now });
        Ok(resend.map_or(CookieOutcome::Kept, CookieOutcome::Resend))
    }

    /// Handles a stale-key answer whose receiver index is of this session, and returns the signed key epoch in it. Verify
    /// that it is the peer's and newer, then call [`Session::set_remote`].
    ///
    /// # Errors
    /// Why it was dropped; nothing has changed then.
    pub fn handle_stale_key<'a>(
        &mut self,
        handshaker: &mut Handshaker,
        datagram: &'a [u8],
    ) -> Result<&'a [u8], DropReason> {
        let dropped = match StaleKey::parse(datagram) {
            Err(_) => DropReason::Malformed,
            Ok(stale) if self.pending.as_ref().is_none_or(|pending| pending.index != stale.receiver) => {
                DropReason::UnknownIndex
            }
            Ok(_) if !handshaker.check_stale(datagram) => DropReason::Mac1,
            Ok(stale) => {
                handshaker.stats.stale_keys_received += 1;
                return Ok(stale.key_epoch);
            }
        };
        Err(handshaker.stats.count(dropped))
    }

    /// To be called when an authenticated, not replayed datagram has arrived on the keypair of this local index: if
    /// that is the unproven one, it becomes current. True if so.
    pub fn confirmed(&mut self, now: Now, handshaker: &mut Handshaker, index: ReceiverIndex) -> bool {
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
        [expiry, stop, watch, self.attempts.next_due(), self.erase_at].into_iter().flatten().min()
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
            self.watch = None;
            self.changed();
        }
        if let (Some(watch), Some(current)) = (&mut self.watch, &self.slots.current)
            && !self.attempts.is_active()
            && watch.advance(now, current.sealer.used())
        {
            self.begin_series(now);
        }
        let jitter = handshaker.jitter(RETRY_JITTER);
        match self.attempts.advance(now, jitter) {
            Due::Nothing => {}
            Due::Attempt => self.events.push_back(SessionEvent::NeedInit),
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

    /// Writes the answer to an init, and keeps it for when the init comes again.
    fn respond(
        &self,
        now: Now,
        handshaker: &mut Handshaker,
        respond: Respond<'_>,
        index: ReceiverIndex,
        payload: ResponsePayload,
    ) -> Result<(Vec<u8>, Noise), DropReason> {
        let mut noise = respond.noise;
        noise.set_psk(PSK_POSITION, &psk2(&handshaker.gate, &respond.remote.hash));
        let (mut encoded, mut message, mut datagram) = (Vec::new(), Vec::new(), Vec::new());
        payload.emit(&mut encoded);
        noise.write(&encoded, &mut message).map_err(|_| DropReason::Noise)?;
        let response = Response {
            sender: index,
            receiver: respond.init,
            noise: &message,
            mac1: [0; MAC_LEN],
            mac2: [0; MAC_LEN],
        };
        response.emit(&mut datagram);
        MacKeys::new(&respond.remote.key, &handshaker.gate).seal(&mut datagram, None);
        handshaker.remember_answer(now.mono, self.member, respond.fingerprint, Some(datagram.clone()));
        Ok((datagram, noise))
    }

    /// Whether our own init, under way, goes before the peer's: the smaller member id initiates.
    fn goes_first(&self, now: Mono, own: MemberId) -> bool {
        let young = self.attempts.age(now).is_none_or(|age| age < TIE_PATIENCE);
        self.pending.is_some() && young && own < self.member
    }

    fn establish(&mut self, now: Mono, handshaker: &mut Handshaker, pending: Pending, remote: ReceiverIndex) {
        let info = KeypairInfo {
            local_index: pending.index,
            remote_index: remote,
            created: now,
            is_initiator: true,
            suite: pending.suite,
            local_epoch: pending.local_epoch,
            remote_epoch: pending.remote_epoch,
        };
        let pushed_out = self.slots.install_proven(Keypair::new(info, &pending.noise.split(PSK_POSITION)));
        handshaker.stats.completed += 1;
        self.installed(now, handshaker, pushed_out);
    }

    /// There is a new current keypair.
    fn installed(&mut self, now: Mono, handshaker: &mut Handshaker, pushed_out: Option<Keypair>) {
        self.expire(handshaker, pushed_out);
        self.attempts.stop();
        self.challenges = 0;
        self.stopped = false;
        self.erase_at = Some(now + ERASE_AFTER);
        self.watch = self.slots.current.as_ref().map(|current| {
            let delay = if current.is_initiator { Duration::ZERO } else { RESPONDER_REKEY_DELAY };
            UsageWatch::new(current.created + REKEY_AFTER + delay, current.suite.rekey_after())
        });
        self.changed();
    }

    fn follow_challenge(
        &mut self,
        now: Mono,
        handshaker: &mut Handshaker,
        floor_us: u64,
    ) -> Result<ResponseOutcome, DropReason> {
        if floor_us < self.told_us || floor_us >= TIMESTAMP_LIMIT_US || self.challenges >= MAX_CHALLENGES {
            return Err(DropReason::Challenge);
        }
        self.challenges += 1;
        self.told_us = floor_us;
        self.attempts.start(now);
        self.attempts.reschedule(now);
        handshaker.stats.challenges_received += 1;
        Ok(ResponseOutcome::Challenged)
    }

    fn begin_series(&mut self, at: Mono) {
        if !self.attempts.is_active() {
            self.challenges = 0;
            self.attempts.start(at);
        }
    }

    fn cookie_for(&self, now: Mono, to: SocketAddr) -> Option<&Cookie> {
        let fresh = |held: &&HeldCookie| held.endpoint == to && now.since(held.received) < COOKIE_RENEWAL;
        self.cookies.iter().find(fresh).map(|held| &held.cookie)
    }

    fn abandon_pending(&mut self, handshaker: &mut Handshaker) -> bool {
        let pending = self.pending.take();
        if let Some(pending) = &pending {
            handshaker.release(pending.index);
        }
        pending.is_some()
    }

    fn expire(&mut self, handshaker: &mut Handshaker, keypair: Option<Keypair>) {
        if let Some(keypair) = keypair {
            handshaker.release(keypair.local_index);
            self.events.push_back(SessionEvent::Expired(keypair.local_index));
        }
    }

    fn changed(&mut self) {
        if !self.events.contains(&SessionEvent::KeysChanged) {
            self.events.push_back(SessionEvent::KeysChanged);
        }
    }
}

/// Where the pre-shared key is mixed in: at the end of message 2.
const PSK_POSITION: usize = 2;

/// What is needed to answer an init.
struct Respond<'a> {
    init: ReceiverIndex,
    fingerprint: Fingerprint,
    noise: Noise,
    remote: &'a RemoteEpoch,
}
