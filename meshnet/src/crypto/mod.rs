//! Transport ciphers, replay windows, hashes, and secrets.
//!
//! Everything here is a pure function of its arguments. The AEADs come from `ring`, or, without the `ring` feature, from
//! the portable `chacha20poly1305`; the latter knows no AES-GCM, and [`Suite::local_capabilities`] says so.

mod aead;
mod hash;
mod kem;
mod lanes;
mod replay;
mod secret;
mod suite;
mod transport;

pub use aead::{OpenError, TAG_LEN};
pub use hash::{HASH_LEN, MAC_LEN, hash, kdf, keyed_mac, macs_equal, secret_hash};
pub use kem::{InvalidKemKey, KemCiphertext, KemKey, KemSecret, encapsulate};
pub use lanes::{Opener, Sealer};
pub use replay::{COUNTER_LIMIT, REPLAY_WINDOW, ReplayWindow};
#[cfg(test)]
pub(crate) use secret::assert_no_debug;
pub use secret::{Secret, TransportSecret};
pub use suite::Suite;
pub use transport::{HEADER_LEN, LaneOpener, LaneSealer};
