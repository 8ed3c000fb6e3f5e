//! The answer to a handshake with a transport key that is no longer in use: the signed newer key epoch.
//!
//! ```text
//! | version/type 1 | flags 1 | reserved 2 | receiver 4 | signed key epoch | mac 16 |
//! ```

use crate::Error;
use crate::codec::{Reader, Writer};
use crate::datagram::Kind;
use crate::handshake::{INIT_LEN, MAC_LEN};
use crate::id::ReceiverIndex;

/// Longest answer: never longer than the init that it answers.
pub const STALE_KEY_MAX_LEN: usize = INIT_LEN;

/// A stale-key answer.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct StaleKey<'a> {
    /// The session at the initiator.
    pub receiver: ReceiverIndex,
    /// The responder's newest key epoch, a signed object.
    pub key_epoch: &'a [u8],
    /// Keyed with the mesh's gate key; covers everything before it.
    pub mac: [u8; MAC_LEN],
}

impl<'a> StaleKey<'a> {
    /// Reads a datagram.
    pub fn parse(datagram: &'a [u8]) -> Result<StaleKey<'a>, Error> {
        if datagram.len() > STALE_KEY_MAX_LEN {
            return Err(Error::TooLong("stale-key answer"));
        }
        let mut reader = Reader::new(datagram);
        Kind::StaleKey.expect(reader.u8()?)?;
        reader.take(3)?;
        let receiver = ReceiverIndex(reader.u32()?);
        let object_len = reader.rest().len().checked_sub(MAC_LEN).ok_or(Error::Truncated)?;
        let key_epoch = reader.take(object_len)?;
        Ok(StaleKey { receiver, key_epoch, mac: reader.array()? })
    }

    /// Appends the datagram.
    pub fn emit(&self, out: &mut Vec<u8>) {
        out.put(&[Kind::StaleKey.first_byte(), 0, 0, 0]);
        out.put_u32(self.receiver.0);
        out.put(self.key_epoch);
        out.put(&self.mac);
    }
}
