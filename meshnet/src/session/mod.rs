//! Noise handshakes, keypairs, and their timers.
//!
//! A [`Handshaker`] has what all handshakes of a node share: transport keys, receiver indices, cookies, limits. A
//! [`Session`] has what concerns one peer: its keypairs, the handshake under way, when to make the next. Both are
//! sans-IO; the owner passes datagrams and time in, and sends what is returned.
//!
//! ```text
//! Session::want, a timer -> NeedInit -> Session::initiate -> pending_init ----------.
//!                                                                                    v init
//!            Session::accept_init <- (who is that key?) <- Opened <- Handshaker::open_init
//! response |         `-- keypair in `next`                     Cookie, StaleKey, Duplicate: sent back as they are
//!          v
//! Session::handle_response: keypair in `current`; the first datagram sealed with it ------.
//!                                                                                          v
//!                                                          Session::confirmed: `next` becomes `current`
//! ```
//!
//! The pattern is `Noise_IKpsk2_25519_ChaChaPoly_BLAKE2s`. The prologue binds the protocol version, the mesh, and the
//! responder's signed key epoch; the pre-shared key comes from the mesh's gate key and binds the initiator's. The cipher
//! suite of the transport follows from the two key epochs, so nothing is negotiated in the open. Members that can
//! exchange ML-KEM-768 keys inside of a session, and mix what comes of it into the pre-shared key of the next handshake.

mod attempts;
mod handshaker;
mod hybrid;
mod initiator;
pub mod join;
mod keypair;
mod limiter;
mod macs;
mod noise;
mod peer;
mod responder;
mod stats;
mod succession;
#[cfg(test)]
mod tests;

pub use attempts::{CONFIRM_TIMEOUT, GIVE_UP_AFTER, RETRY_JITTER};
pub use handshaker::{
    ANSWER_LIFETIME, Advert, Handshaker, HandshakerConfig, InitOutcome, LocalEpoch, LocalEpochs, MAX_ANSWERS,
    MAX_FLOORS, MAX_RETIRED, OpenedInit, Origin, RemoteEpoch, UnsupportedEpoch,
};
pub use hybrid::KemOutcome;
pub use initiator::{CookieOutcome, ResponseOutcome};
pub use keypair::{Keypair, QUIET_REKEY_AFTER, QUIET_SILENCE, RECEIVE_GRACE, REJECT_AFTER, REKEY_AFTER};
pub use limiter::{HANDSHAKE_BURST, HANDSHAKES_PER_S, LOAD_HANDSHAKES_PER_S, LOAD_HOLD, MAX_SOURCES};
pub use macs::COOKIE_RENEWAL;
pub use peer::{ERASE_AFTER, Session, SessionEvent};
pub use responder::{Accepted, TIE_PATIENCE};
pub use stats::{DropReason, HandshakeStats};

use zeroize::Zeroize;

use crate::crypto::{Secret, hash};

/// The secret that all members of a mesh share. Who does not have it gets no answer.
pub type GateKey = Secret<32>;

/// Two secrets, one behind the other, to derive one from both.
fn joined(a: &Secret<32>, b: &[u8; 32]) -> Secret<64> {
    let mut bytes = [0; 64];
    bytes[..32].copy_from_slice(a.bytes());
    bytes[32..].copy_from_slice(b);
    let secret = Secret::new(bytes);
    bytes.zeroize();
    secret
}

/// Timestamps in inits are refused above this, in microseconds since the Unix epoch (some 146,000 years), so that
/// there is always room for a later one, whatever a peer's clock said.
pub const TIMESTAMP_LIMIT_US: u64 = 1 << 62;

/// Identifies the content of a signed key epoch: its hash.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct EpochHash(pub [u8; 32]);

impl EpochHash {
    /// From what the key epoch's signature covers (not the signature, which could be written in more than one way).
    pub fn of(signing_bytes: &[u8]) -> EpochHash {
        EpochHash(hash(&[b"meshnet key epoch", signing_bytes]))
    }
}
