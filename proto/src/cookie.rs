//! The answer of a responder under load: a cookie that proves ownership of the source address.
//!
//! ```text
//! | version/type 1 | flags 1 | reserved 2 | receiver 4 | nonce 24 | sealed cookie 16 + 16 |
//! ```

use crate::Error;
use crate::codec::{Reader, Writer};
use crate::datagram::Kind;
use crate::id::ReceiverIndex;

/// Length of a cookie answer.
pub const COOKIE_LEN: usize = 64;

/// A cookie answer. The cookie is sealed with XChaCha20-Poly1305; the additional data is mac1 of the message answered.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Cookie {
    /// The session at the initiator.
    pub receiver: ReceiverIndex,
    /// Nonce of the seal.
    pub nonce: [u8; 24],
    /// The sealed cookie and its tag.
    pub sealed: [u8; 32],
}

impl Cookie {
    /// Reads a datagram.
    pub fn parse(datagram: &[u8]) -> Result<Cookie, Error> {
        let mut reader = Reader::new(datagram);
        Kind::Cookie.expect(reader.u8()?)?;
        reader.take(3)?;
        let receiver = ReceiverIndex(reader.u32()?);
        let cookie = Cookie { receiver, nonce: reader.array()?, sealed: reader.array()? };
        reader.finish()?;
        Ok(cookie)
    }

    /// Appends the datagram.
    pub fn emit(&self, out: &mut Vec<u8>) {
        out.put(&[Kind::Cookie.first_byte(), 0, 0, 0]);
        out.put_u32(self.receiver.0);
        out.put(&self.nonce);
        out.put(&self.sealed);
    }
}
