//! The keys of one finished handshake, and the slots that hold them.

use std::sync::Arc;
use std::time::Duration;

use proto::id::{KeyEpochNumber, MemberId, ReceiverIndex};
use proto::key_epoch::Capabilities;

use super::hybrid::{Exchange, Roots};
use super::joined;
use super::noise::SplitKeys;
use crate::crypto::{Opener, Sealer, Suite, kdf};
use crate::time::Mono;

/// Age from which on a keypair that carries packets is replaced by a new one.
pub const REKEY_AFTER: Duration = Duration::from_secs(120);

/// Age from which on nothing is sent with a keypair that carries packets, or on which nothing is heard.
pub const REJECT_AFTER: Duration = Duration::from_secs(180);

/// The same as [`REKEY_AFTER`] for a keypair that carries control frames alone. When packets come, an older one than that
/// is replaced at once.
pub const QUIET_REKEY_AFTER: Duration = Duration::from_secs(15 * 60);

/// A keypair older than [`REJECT_AFTER`] is given up this long after the peer was last heard on it: four keepalives.
pub const QUIET_SILENCE: Duration = Duration::from_secs(60);

/// How much longer than [`REJECT_AFTER`] a keypair still receives: the peer finished the same handshake up to a round
/// trip later, and what it sent last is still under way. Then the keypair is erased.
pub const RECEIVE_GRACE: Duration = Duration::from_secs(5);

/// The keys of one handshake, for both directions.
pub struct Keypair {
    /// By what datagrams to us name this keypair; random, unique in this node.
    pub local_index: ReceiverIndex,
    /// Seals to the peer, and knows its index.
    pub sealer: Arc<Sealer>,
    /// Opens what the peer sealed.
    pub opener: Arc<Opener>,
    /// When the handshake was finished at our end.
    pub created: Mono,
    /// When it was last heard on.
    pub(super) heard: Mono,
    /// Since when it has the short life of one that carries packets, or that is to be replaced.
    pub(super) hastened: Option<Mono>,
    /// Whether we began the handshake.
    pub is_initiator: bool,
    /// The cipher suite of both directions.
    pub suite: Suite,
    /// Our key epoch in the handshake.
    pub local_epoch: KeyEpochNumber,
    /// The peer's key epoch in the handshake.
    pub remote_epoch: KeyEpochNumber,
    /// What the peer said in the handshake that it can do now; what it cannot change while the epoch lasts is in the
    /// signed key epoch.
    pub remote_capabilities: Capabilities,
    /// Whether a secret of an earlier session went into it, which a quantum computer does not find.
    pub hybrid: bool,
    /// The exchange for the next handshake; `None` where one of the two does not want any.
    pub(super) exchange: Option<Exchange>,
}

/// What a handshake fixes about its keypair, other than the keys.
pub(super) struct KeypairInfo {
    pub(super) local_index: ReceiverIndex,
    pub(super) remote_index: ReceiverIndex,
    pub(super) created: Mono,
    pub(super) is_initiator: bool,
    pub(super) suite: Suite,
    pub(super) local_epoch: KeyEpochNumber,
    pub(super) remote_epoch: KeyEpochNumber,
    pub(super) local_capabilities: Capabilities,
    pub(super) remote_capabilities: Capabilities,
    pub(super) hybrid: bool,
    /// Initiator and responder.
    pub(super) members: (MemberId, MemberId),
}

impl Keypair {
    pub(super) fn new(info: KeypairInfo, keys: &SplitKeys) -> Keypair {
        let (send, receive) = match info.is_initiator {
            true => (&keys.from_initiator, &keys.from_responder),
            false => (&keys.from_responder, &keys.from_initiator),
        };
        let both_exchange = [info.local_capabilities, info.remote_capabilities]
            .iter()
            .all(|capabilities| capabilities.contains(Capabilities::HYBRID));
        let exchange = both_exchange.then(|| {
            let secret = joined(&keys.from_initiator, keys.from_responder.bytes());
            let (initiator, responder) = info.members;
            let roots = Roots {
                handshake: keys.handshake,
                secret: kdf(secret.bytes(), "meshnet session secret", &[&keys.handshake]),
                initiator,
                responder,
            };
            Exchange::new(info.created, roots, info.is_initiator, info.hybrid)
        });
        let has_lanes = info.remote_capabilities.contains(Capabilities::LANES);
        Keypair {
            local_index: info.local_index,
            sealer: Arc::new(Sealer::new(info.suite, send.bytes(), info.remote_index, has_lanes)),
            opener: Arc::new(Opener::new(info.suite, receive.bytes(), has_lanes)),
            created: info.created,
            heard: info.created,
            hastened: None,
            is_initiator: info.is_initiator,
            suite: info.suite,
            local_epoch: info.local_epoch,
            remote_epoch: info.remote_epoch,
            remote_capabilities: info.remote_capabilities,
            hybrid: info.hybrid,
            exchange,
        }
    }

    /// Whether both ends exchange post-quantum keys in it, for the next handshake.
    pub fn exchanges(&self) -> bool {
        self.exchange.is_some()
    }

    /// From now on it lives no longer than one that carries packets.
    pub(super) fn hasten(&mut self, at: Mono) {
        self.hastened = Some(self.hastened.map_or(at, |before| before.min(at)));
    }

    /// When it is to be replaced, if it is in use.
    pub fn rekeys_at(&self) -> Mono {
        let quiet = self.created + QUIET_REKEY_AFTER;
        self.hastened.map_or(quiet, |at| at.max(self.created + REKEY_AFTER).min(quiet))
    }

    /// When sending with it ends.
    pub fn rejects_at(&self) -> Mono {
        let replaced = self.rekeys_at() + (REJECT_AFTER - REKEY_AFTER);
        replaced.min((self.heard + QUIET_SILENCE).max(self.created + REJECT_AFTER))
    }

    /// When receiving with it ends and it is erased.
    pub fn expires_at(&self) -> Mono {
        self.rejects_at() + RECEIVE_GRACE
    }
}

/// Keypairs by their place in a session's life. All of them receive; only `current` sends.
#[derive(Default)]
pub(super) struct Slots {
    /// Made as responder and not yet proven: the initiator has sent nothing with it.
    pub(super) next: Option<Keypair>,
    /// What we send with.
    pub(super) current: Option<Keypair>,
    /// What was current before, for datagrams still under way. Two, because where both ends made a handshake at the same
    /// time two new keypairs become current within one round trip.
    pub(super) previous: [Option<Keypair>; 2],
}

impl Slots {
    pub(super) fn iter(&self) -> impl Iterator<Item = &Keypair> {
        [&self.current, &self.next].into_iter().chain(&self.previous).flatten()
    }

    pub(super) fn iter_mut(&mut self) -> impl Iterator<Item = &mut Keypair> {
        [&mut self.current, &mut self.next].into_iter().chain(&mut self.previous).flatten()
    }

    /// Puts a keypair that we made as initiator, hence proven, into `current`. Returns the one pushed out.
    ///
    /// `next` stays: the peer may already send with it.
    pub(super) fn install_proven(&mut self, keypair: Keypair) -> Option<Keypair> {
        let last = self.current.replace(keypair);
        let [newer, older] = &mut self.previous;
        match last {
            Some(last) => std::mem::replace(older, newer.replace(last)),
            None => None,
        }
    }

    /// Puts a keypair that we made as responder into `next`. Returns the one pushed out.
    pub(super) fn install_unproven(&mut self, keypair: Keypair) -> Option<Keypair> {
        self.next.replace(keypair)
    }

    /// Makes `next` current if it is `index`. `Some` with the keypair pushed out, if any.
    pub(super) fn promote(&mut self, index: ReceiverIndex) -> Option<Option<Keypair>> {
        let proven = self.next.take_if(|next| next.local_index == index)?;
        Some(self.install_proven(proven))
    }

    /// Takes out every keypair for which `dead` holds.
    pub(super) fn drain_if(&mut self, dead: impl Fn(&Keypair) -> bool) -> impl Iterator<Item = Keypair> {
        let [newer, older] = &mut self.previous;
        [&mut self.next, &mut self.current, newer, older]
            .map(|slot| slot.take_if(|keypair| dead(keypair)))
            .into_iter()
            .flatten()
    }
}
