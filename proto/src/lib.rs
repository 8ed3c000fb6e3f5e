//! Wire formats of meshnet: every datagram, control frame, and signed object, as parse and emit.
//!
//! Nothing here does I/O, reads a clock, draws randomness, or verifies a signature. Parsing is total: any input gives a
//! value or an [`Error`], never a panic. All integers are big-endian. One family of messages a module:
//!
//! | module | what it holds |
//! |---|---|
//! | [`id`] | newtypes for identifiers, keys, epochs, and counters |
//! | [`codec`] | the bounded reader, the writer, and type-length-value fields |
//! | [`datagram`] | the first byte of every datagram |
//! | [`handshake`] | init and response, and their encrypted payloads |
//! | [`cookie`] | the answer of a loaded responder |
//! | [`stale`] | the answer to a handshake with an old transport key |
//! | [`data`] | the header and trailer of sealed datagrams |
//! | [`lane`] | which key of a session, and which thread of the receiver |
//! | [`relay`] | the outer header of relayed datagrams |
//! | [`join`] | the framing of the join exchange |
//! | [`frame`] | control frames, inside sealed datagrams |
//! | [`arrivals`] | counts of what came, by lane and length |
//! | [`endpoint`] | endpoints and candidates |
//! | [`signed`] | the envelope of signed objects |
//! | [`certificate`], [`key_epoch`], [`record`], [`revocation`], [`bundle`] | the signed objects |
//! | [`invitation`] | the invitation URL |
#![forbid(unsafe_code)]

pub mod arrivals;
pub mod bundle;
pub mod certificate;
pub mod codec;
pub mod cookie;
pub mod data;
pub mod datagram;
pub mod endpoint;
mod error;
pub mod frame;
pub mod handshake;
pub mod id;
pub mod invitation;
pub mod join;
pub mod key_epoch;
pub mod lan;
pub mod lane;
pub mod record;
pub mod relay;
pub mod revocation;
pub mod signed;
pub mod stale;
pub mod stream;

pub use error::Error;

/// The wire version, in the high nibble of every datagram's first byte.
pub const VERSION: u8 = 1;
