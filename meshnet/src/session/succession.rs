//! A session's part in making the next handshake hybrid: which keypair's exchange goes on, and which secret is used.

use std::time::Duration;

use proto::frame::KemPiece;
use proto::id::{HandshakeId, SecretId};

use super::handshaker::Handshaker;
use super::hybrid::{Exchange, Inherited, KemOutcome};
use super::keypair::Keypair;
use super::peer::Session;
use crate::crypto::{KemCiphertext, KemKey};
use crate::time::{Mono, Now};

/// Longest time after which a handshake is made anew to be hybrid, if the last ones were not.
const LONGEST_PAUSE: Duration = Duration::from_secs(64);

impl Session {
    /// The key to send to the peer now, and the handshake that it belongs to: when [`super::SessionEvent::KemDue`] asks for
    /// it.
    pub fn kem_offer(&mut self, now: Now, handshaker: &mut Handshaker) -> Option<(HandshakeId, Box<KemKey>)> {
        let exchange = self.offering_mut()?;
        let id = exchange.id();
        let key = Box::new(*exchange.offer(now.mono, &mut handshaker.rng)?);
        handshaker.stats.kem_keys_sent += 1;
        Some((id, key))
    }

    /// Takes a piece of the peer's key.
    pub fn handle_kem_key(&mut self, handshaker: &mut Handshaker, piece: &KemPiece) -> KemOutcome {
        let outcome = match self.exchange_mut(piece.handshake) {
            Some(exchange) => exchange.take_key(piece, &mut handshaker.rng),
            None => KemOutcome::Stray,
        };
        match outcome {
            KemOutcome::Answer => handshaker.stats.kem_answers_sent += 1,
            KemOutcome::Stray | KemOutcome::Invalid => handshaker.stats.kem_refused += 1,
            KemOutcome::Nothing | KemOutcome::Ready => {}
        }
        outcome
    }

    /// The ciphertext that answers the peer's key of this handshake.
    pub fn kem_answer(&self, handshake: HandshakeId) -> Option<&KemCiphertext> {
        self.exchanges().find(|exchange| exchange.id() == handshake)?.answer()
    }

    /// Takes a piece of the answer to our key. With the last one, a handshake is made anew at once unless the session is
    /// hybrid already; then the secret is for the next one.
    pub fn handle_kem_ciphertext(
        &mut self,
        now: Now,
        handshaker: &mut Handshaker,
        piece: &KemPiece,
    ) -> KemOutcome {
        let outcome = match self.exchange_mut(piece.handshake) {
            Some(exchange) => exchange.take_ciphertext(piece),
            None => KemOutcome::Stray,
        };
        match outcome {
            KemOutcome::Ready if !self.is_hybrid() => {
                self.begin_routine(now.mono + self.pause());
                self.not_hybrid += 1;
            }
            KemOutcome::Stray => handshaker.stats.kem_refused += 1,
            KemOutcome::Ready | KemOutcome::Nothing | KemOutcome::Answer | KemOutcome::Invalid => {}
        }
        outcome
    }

    /// Whether the keypair to send with is hybrid.
    pub fn is_hybrid(&self) -> bool {
        self.sending().is_some_and(|keypair| keypair.hybrid)
    }

    /// When a key is to be sent, for the first time or again.
    pub(super) fn kem_due(&self) -> Option<Mono> {
        offering(self.slots.current.as_ref(), self.slots.previous[0].as_ref())?.exchange.as_ref()?.next_due()
    }

    /// What goes into the psk of the next handshake that we begin: the newest of which the peer has it for certain, else
    /// what it may have.
    pub(super) fn inherited(&self, handshaker: &Handshaker) -> Option<&Inherited> {
        if !handshaker.is_hybrid() {
            return None;
        }
        let keypairs = || [&self.slots.current, &self.slots.previous[0], &self.slots.previous[1]];
        keypairs()
            .into_iter()
            .flatten()
            .find_map(|keypair| keypair.exchange.as_ref()?.certain(keypair.is_initiator))
            .or_else(|| {
                keypairs().into_iter().flatten().find_map(|keypair| keypair.exchange.as_ref()?.fresh())
            })
    }

    /// The secret that an init of the peer's names.
    pub(super) fn named(&self, handshaker: &Handshaker, id: SecretId) -> Option<&Inherited> {
        if !handshaker.is_hybrid() || id == SecretId(0) {
            return None;
        }
        self.exchanges().find_map(|exchange| exchange.named(id))
    }

    fn exchanges(&self) -> impl Iterator<Item = &Exchange> {
        self.slots.iter().filter_map(|keypair| keypair.exchange.as_ref())
    }

    fn exchange_mut(&mut self, handshake: HandshakeId) -> Option<&mut Exchange> {
        self.slots
            .iter_mut()
            .filter_map(|keypair| keypair.exchange.as_mut())
            .find(|exchange| exchange.id() == handshake)
    }

    fn offering_mut(&mut self) -> Option<&mut Exchange> {
        let index = offering(self.slots.current.as_ref(), self.slots.previous[0].as_ref())?.local_index;
        self.slots.iter_mut().find(|keypair| keypair.local_index == index)?.exchange.as_mut()
    }

    fn pause(&self) -> Duration {
        match self.not_hybrid {
            0 => Duration::ZERO,
            times => Duration::from_secs(1 << (times - 1).min(6)).min(LONGEST_PAUSE),
        }
    }
}

/// The keypair of ours whose exchange goes on: the current one, or the one before it where the peer began the current one.
/// (Where both ends made a handshake at once, each may take the other's for the newer one.)
fn offering<'a>(current: Option<&'a Keypair>, previous: Option<&'a Keypair>) -> Option<&'a Keypair> {
    match current? {
        own if own.is_initiator => Some(own),
        _ => previous.filter(|previous| previous.is_initiator),
    }
}
