//! The keys of one finished handshake, and the slots that hold them.

use std::sync::Arc;
use std::time::Duration;

use proto::id::{KeyEpochNumber, ReceiverIndex};
use proto::key_epoch::Capabilities;

use super::noise::SplitKeys;
use crate::crypto::{Opener, Sealer, Suite};
use crate::time::Mono;

/// Age from which on a keypair in use is replaced by a new one.
pub const REKEY_AFTER: Duration = Duration::from_secs(120);

/// Age from which on nothing is sent with a keypair.
pub const REJECT_AFTER: Duration = Duration::from_secs(180);

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
    pub(super) remote_capabilities: Capabilities,
}

impl Keypair {
    pub(super) fn new(info: KeypairInfo, keys: &SplitKeys) -> Keypair {
        let (send, receive) = match info.is_initiator {
            true => (&keys.from_initiator, &keys.from_responder),
            false => (&keys.from_responder, &keys.from_initiator),
        };
        let has_lanes = info.remote_capabilities.contains(Capabilities::LANES);
        Keypair {
            local_index: info.local_index,
            sealer: Arc::new(Sealer::new(info.suite, send.bytes(), info.remote_index, has_lanes)),
            opener: Arc::new(Opener::new(info.suite, receive.bytes(), has_lanes)),
            created: info.created,
            is_initiator: info.is_initiator,
            suite: info.suite,
            local_epoch: info.local_epoch,
            remote_epoch: info.remote_epoch,
            remote_capabilities: info.remote_capabilities,
        }
    }

    /// When sending with it ends.
    pub fn rejects_at(&self) -> Mono {
        self.created + REJECT_AFTER
    }

    /// When receiving with it ends and it is erased.
    pub fn expires_at(&self) -> Mono {
        self.created + REJECT_AFTER + RECEIVE_GRACE
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
