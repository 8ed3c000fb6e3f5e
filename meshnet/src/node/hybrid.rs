//! Post-quantum sessions: the exchange of keys over control frames, and what may be carried before it is done.

use proto::frame::{Frame, KEM_PIECE_OVERHEAD, KemPiece};
use proto::id::{HandshakeId, MemberId};
use proto::key_epoch::Capabilities;

use super::{Node, Peer};
use crate::path::PathId;
use crate::session::{Advert, KemOutcome, Keypair};
use crate::time::Now;

/// Pieces are not made smaller than this, whatever the path carries.
const PIECE_MIN: usize = 64;

/// Whether sessions are made with ML-KEM-768 beside X25519.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Default)]
pub enum PostQuantum {
    /// Never.
    #[default]
    Off,
    /// With every member that can; until the exchange is done, and with others, traffic flows without.
    Prefer,
    /// Inner packets are sent and taken in such sessions only.
    Require,
}

impl PostQuantum {
    /// What peers are told.
    pub fn capabilities(self) -> Capabilities {
        match self {
            PostQuantum::Off => Capabilities(0),
            PostQuantum::Prefer => Capabilities::HYBRID,
            PostQuantum::Require => Capabilities::HYBRID.union(Capabilities::HYBRID_ONLY),
        }
    }
}

/// Whether the session with a peer is post-quantum.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Quantum {
    /// It is.
    Hybrid,
    /// Not yet: the exchange is under way.
    Pending,
    /// No, because this node does not want it.
    Off,
    /// No, because the peer does not want it, or is too old to.
    Unsupported,
}

impl Quantum {
    /// The word for it, for people and scripts.
    pub fn word(self) -> &'static str {
        match self {
            Quantum::Hybrid => "hybrid",
            Quantum::Pending => "pending",
            Quantum::Off => "off",
            Quantum::Unsupported => "unsupported",
        }
    }
}

impl Node {
    /// Sends the key that is due, in pieces that the path carries.
    pub(super) fn send_kem_key(&mut self, now: Now, member: MemberId) {
        let Some(peer) = self.peers.get_mut(&member) else { return };
        let Some((handshake, key)) = peer.session.kem_offer(now, &mut self.handshaker) else { return };
        // Where no path has been chosen yet, the one that proved the session does.
        let path = match peer.selection.primary {
            Some(_) => Vec::new(),
            None => peer.paths.handshake_paths(now.mono, 1),
        };
        self.send_pieces(now, member, path.first().copied(), handshake, &key[..], Frame::KemKey);
    }

    pub(super) fn take_kem_key(&mut self, now: Now, member: MemberId, path: PathId, piece: &KemPiece) {
        let Some(peer) = self.peers.get_mut(&member) else { return };
        if peer.session.handle_kem_key(&mut self.handshaker, piece) != KemOutcome::Answer {
            return;
        }
        let Some(answer) = peer.session.kem_answer(piece.handshake).copied() else { return };
        self.send_pieces(now, member, Some(path), piece.handshake, &answer, Frame::KemCiphertext);
    }

    pub(super) fn take_kem_ciphertext(&mut self, now: Now, member: MemberId, piece: &KemPiece) {
        let Some(peer) = self.peers.get_mut(&member) else { return };
        if peer.session.handle_kem_ciphertext(now, &mut self.handshaker, piece) == KemOutcome::Ready {
            peer.session.handle_timeout(now, &mut self.handshaker);
            self.drain_session(now, member);
        }
    }

    fn send_pieces(
        &mut self,
        now: Now,
        member: MemberId,
        path: Option<PathId>,
        handshake: HandshakeId,
        bytes: &[u8],
        frame: fn(KemPiece) -> Frame,
    ) {
        let room = self.frame_room(member, path).saturating_sub(KEM_PIECE_OVERHEAD).max(PIECE_MIN);
        let len = bytes.len().div_ceil(bytes.len().div_ceil(room));
        let cut = |(number, bytes): (usize, &[u8])| {
            frame(KemPiece { handshake, offset: (number * len) as u16, bytes: bytes.to_vec() })
        };
        let frames: Vec<Frame> = bytes.chunks(len).enumerate().map(cut).collect();
        self.send_frames(now, member, path, &frames);
    }

    /// Whether inner packets may be carried in this session: it is hybrid, or neither end insists.
    pub(super) fn may_carry(&self, keypair: &Keypair) -> bool {
        let insists = self.settings.pq == PostQuantum::Require
            || keypair.remote_capabilities.contains(Capabilities::HYBRID_ONLY);
        keypair.hybrid || !insists
    }

    /// Inner packets wait for a hybrid session.
    pub(super) fn is_withheld(&self, peer: &Peer) -> bool {
        peer.session.sending().is_some_and(|keypair| !self.may_carry(keypair))
    }

    /// Inner packets wait for a hybrid session that there will not be.
    pub(super) fn is_refused(&self, peer: &Peer) -> bool {
        peer.session.sending().is_some_and(|keypair| !self.may_carry(keypair) && !keypair.exchanges())
    }

    /// Whether the session with a peer is post-quantum; `None` without one.
    pub(super) fn quantum(&self, peer: &Peer) -> Option<Quantum> {
        let keypair = peer.session.sending()?;
        Some(match keypair.exchanges() {
            _ if keypair.hybrid => Quantum::Hybrid,
            true => Quantum::Pending,
            false if self.settings.pq == PostQuantum::Off => Quantum::Off,
            false => Quantum::Unsupported,
        })
    }

    /// The node wants something else than before: peers are told by new handshakes.
    pub(super) fn change_pq(&mut self, now: Now) {
        let others = self.me.capabilities.0 & !PostQuantum::Require.capabilities().0;
        self.me.capabilities = Capabilities(others).union(self.settings.pq.capabilities());
        self.handshaker.set_advert(Advert {
            capabilities: self.me.capabilities,
            bundle_version: self.membership.trust().version(),
            revocations: self.membership.revocations().digest(),
        });
        let up: Vec<MemberId> = self.peers.values().filter(|peer| peer.up).map(|peer| peer.member).collect();
        for member in up {
            if let Some(peer) = self.peers.get_mut(&member) {
                peer.session.renew(now.mono);
                peer.session.handle_timeout(now, &mut self.handshaker);
                self.drain_session(now, member);
            }
        }
    }
}
