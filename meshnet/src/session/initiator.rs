//! A session's part as initiator: making inits, and handling what answers them.

use std::net::SocketAddr;

use proto::cookie::Cookie as CookieMessage;
use proto::handshake::{Attachment, INIT_MAX_LEN, Init, InitPayload, Response, ResponsePayload};
use proto::id::{KeyEpochNumber, ReceiverIndex, SecretId};
use proto::key_epoch::Capabilities;
use proto::stale::StaleKey;

use super::TIMESTAMP_LIMIT_US;
use super::handshaker::{Handshaker, psk2};
use super::keypair::{Keypair, KeypairInfo};
use super::macs::{COOKIE_RENEWAL, Cookie, MacKeys};
use super::noise::{Noise, PSK2};
use super::peer::Session;
use super::stats::DropReason;
use crate::crypto::{MAC_LEN, Secret, Suite};
use crate::time::{Mono, Now};

/// Endpoints of a peer whose cookies are kept.
const MAX_COOKIES: usize = 8;

/// Cookies that make the same init go out again at once.
const MAX_COOKIE_RESENDS: u8 = 4;

/// Timestamp challenges followed at once within one series of attempts.
const MAX_CHALLENGES: u8 = 3;

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
    /// The peer has seen a later timestamp; a [`super::SessionEvent::NeedInit`] for another try is due at once.
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

/// An init of ours that waits for its response.
pub(super) struct Pending {
    noise: Noise,
    pub(super) index: ReceiverIndex,
    /// The whole datagram, with mac2 zero.
    datagram: Vec<u8>,
    /// Of messages to the peer.
    macs: MacKeys,
    /// Of messages to us.
    own_macs: MacKeys,
    local_epoch: KeyEpochNumber,
    remote_epoch: KeyEpochNumber,
    suite: Suite,
    psk: Secret<32>,
    /// The psk with the secret that the init names, if it names one.
    named_psk: Option<Secret<32>>,
    capabilities: Capabilities,
    cookie_resends: u8,
}

impl Pending {
    /// Whether it was made with a key of ours before `local`, or of the peer's before `remote`.
    pub(super) fn is_before(&self, local: KeyEpochNumber, remote: KeyEpochNumber) -> bool {
        self.local_epoch < local || self.remote_epoch < remote
    }
}

/// A cookie, and the endpoint of the peer that gave it.
pub(super) struct HeldCookie {
    endpoint: SocketAddr,
    cookie: Cookie,
    received: Mono,
}

impl Session {
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
        let inherited = self.inherited(handshaker);
        let named_psk =
            inherited.map(|inherited| psk2(&handshaker.gate, Some(&inherited.secret), &local.hash));
        let payload = InitPayload {
            timestamp_us: handshaker.timestamp_us(now, self.told_us),
            sender_epoch: local.number,
            responder_epoch: self.remote.number,
            capabilities: advert.capabilities,
            bundle_version: advert.bundle_version,
            revocations: advert.revocations,
            secret: inherited.map_or(SecretId(0), |inherited| inherited.id),
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
            psk: psk2(&handshaker.gate, None, &local.hash),
            named_psk,
            capabilities: advert.capabilities,
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
        let psk = match response.named_secret {
            true => pending.named_psk.as_ref().ok_or(DropReason::Noise)?,
            // A responder that has lost its memory. Nobody else can say so: its static key is in what is read now.
            false => &pending.psk,
        };
        pending.noise.set_psk(PSK2, psk);
        let payload = pending.noise.read(response.noise).map_err(|_| DropReason::Noise)?;

        // From here on it is the peer who speaks, and the Noise state is used up.
        let Some(pending) = self.pending.take() else { return Err(DropReason::UnknownIndex) };
        match ResponsePayload::parse(&payload) {
            Ok(payload @ ResponsePayload::Accepted { epoch, capabilities, .. })
                if epoch == pending.remote_epoch =>
            {
                let index = pending.index;
                self.establish(now.mono, handshaker, pending, &response, capabilities);
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

    fn establish(
        &mut self,
        now: Mono,
        handshaker: &mut Handshaker,
        pending: Pending,
        response: &Response<'_>,
        remote_capabilities: Capabilities,
    ) {
        let info = KeypairInfo {
            local_index: pending.index,
            remote_index: response.sender,
            created: now,
            is_initiator: true,
            members: (handshaker.member, self.member),
            suite: pending.suite,
            local_epoch: pending.local_epoch,
            remote_epoch: pending.remote_epoch,
            local_capabilities: pending.capabilities,
            remote_capabilities,
            hybrid: response.named_secret,
        };
        handshaker.stats.hybrid += u64::from(info.hybrid);
        let pushed_out = self.slots.install_proven(Keypair::new(info, &pending.noise.split(PSK2)));
        handshaker.stats.completed += 1;
        self.installed(now, handshaker, pushed_out);
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

    fn cookie_for(&self, now: Mono, to: SocketAddr) -> Option<&Cookie> {
        let fresh = |held: &&HeldCookie| held.endpoint == to && now.since(held.received) < COOKIE_RENEWAL;
        self.cookies.iter().find(fresh).map(|held| &held.cookie)
    }
}
