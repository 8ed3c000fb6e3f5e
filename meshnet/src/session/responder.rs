//! A session's part as responder: answering inits.

use std::time::Duration;

use proto::handshake::{Response, ResponsePayload};
use proto::id::{MemberId, ReceiverIndex};

use super::handshaker::{Fingerprint, Handshaker, OpenedInit, RemoteEpoch, psk2};
use super::keypair::{Keypair, KeypairInfo};
use super::macs::MacKeys;
use super::noise::{Noise, PSK2};
use super::peer::{ERASE_AFTER, Session};
use super::stats::DropReason;
use crate::crypto::{MAC_LEN, Secret, Suite};
use crate::time::{Mono, Now};

/// How long the side that goes first in a simultaneous initiation turns the other's inits away. After that its own do not
/// seem to get through, and it takes what it gets.
pub const TIE_PATIENCE: Duration = Duration::from_secs(3);

/// What came of an init that opened.
pub enum Accepted {
    /// There is a new, unproven keypair. Send this response back the way the init came.
    Response(Vec<u8>),
    /// The timestamp was not new. Send this challenge back the way the init came; nothing else has changed.
    Challenge(Vec<u8>),
    /// Nothing is to be sent.
    Drop(DropReason),
}

impl Session {
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
        let (timestamp_us, remote_capabilities) = (payload.timestamp_us, payload.capabilities);
        if opened.remote_static != remote.key {
            return Accepted::Drop(handshaker.stats.count(DropReason::WrongKey));
        }
        if payload.sender_epoch != remote.number {
            return Accepted::Drop(handshaker.stats.count(DropReason::Epoch));
        }
        let Some(local) = handshaker.epoch(opened.local_epoch).cloned() else {
            return Accepted::Drop(handshaker.stats.count(DropReason::Epoch));
        };
        let named = payload.secret;
        let inherited = self.named(handshaker, named);
        let psk = psk2(&handshaker.gate, inherited.map(|inherited| &inherited.secret), &remote.hash);
        let hybrid = inherited.is_some();
        let respond = Respond {
            init: opened.sender,
            fingerprint: opened.fingerprint,
            noise: opened.noise,
            remote,
            psk,
            hybrid,
        };
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
            members: (self.member, handshaker.member),
            suite: Suite::choose(local.capabilities, remote.capabilities),
            local_epoch: local.number,
            remote_epoch: remote.number,
            local_capabilities: handshaker.advert.capabilities,
            remote_capabilities,
            hybrid,
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
        let pushed_out = self.slots.install_unproven(Keypair::new(info, &noise.split(PSK2)));
        self.expire(handshaker, pushed_out);
        self.erase_at = Some(now.mono + ERASE_AFTER);
        self.changed();
        handshaker.stats.inits_accepted += 1;
        handshaker.stats.hybrid += u64::from(hybrid);
        Accepted::Response(datagram)
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
        noise.set_psk(PSK2, &respond.psk);
        let (mut encoded, mut message, mut datagram) = (Vec::new(), Vec::new(), Vec::new());
        payload.emit(&mut encoded);
        noise.write(&encoded, &mut message).map_err(|_| DropReason::Noise)?;
        let response = Response {
            sender: index,
            receiver: respond.init,
            named_secret: respond.hybrid,
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
}

/// What is needed to answer an init.
struct Respond<'a> {
    init: ReceiverIndex,
    fingerprint: Fingerprint,
    noise: Noise,
    remote: &'a RemoteEpoch,
    psk: Secret<32>,
    /// The psk contains the secret that the init names.
    hybrid: bool,
}
