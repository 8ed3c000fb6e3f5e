//! The first byte of every datagram: version and type.

use crate::{Error, VERSION};

/// The type of a datagram.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
#[repr(u8)]
pub enum Kind {
    /// First handshake message.
    Init = 1,
    /// Second handshake message.
    Response = 2,
    /// The answer of a loaded responder.
    Cookie = 3,
    /// The answer to a handshake with an old transport key.
    StaleKey = 4,
    /// Sealed with a session's key.
    Data = 5,
    /// Carried through a relay.
    Relay = 6,
    /// Part of a join exchange.
    Join = 7,
}

impl Kind {
    /// The type of a datagram; `None` when the version or type is unknown or there is no first byte.
    pub fn of(datagram: &[u8]) -> Option<Kind> {
        let first = *datagram.first()?;
        if first >> 4 != VERSION {
            return None;
        }
        match first & 0x0f {
            1 => Some(Kind::Init),
            2 => Some(Kind::Response),
            3 => Some(Kind::Cookie),
            4 => Some(Kind::StaleKey),
            5 => Some(Kind::Data),
            6 => Some(Kind::Relay),
            7 => Some(Kind::Join),
            _ => None,
        }
    }

    /// The first byte of a datagram of this type.
    pub const fn first_byte(self) -> u8 {
        VERSION << 4 | self as u8
    }

    /// An error unless `first` is the first byte of this type.
    pub fn expect(self, first: u8) -> Result<(), Error> {
        if first >> 4 != VERSION {
            Err(Error::UnknownVersion(first >> 4))
        } else if first != self.first_byte() {
            Err(Error::UnexpectedType(first & 0x0f))
        } else {
            Ok(())
        }
    }
}
