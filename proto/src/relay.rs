//! The outer header of relayed datagrams.
//!
//! ```text
//! short | version/type 1 | role, TTL 1 | label 2 | receiver 4 | counter 8 | hop tag 16 | inner datagram |
//! long  | version/type 1 | role, TTL 1 | 0     2 | receiver 4 | counter 8 | destination 16 | source 16 | hop tag 16 | inner |
//! ```
//!
//! The hop tag authenticates the header and the first 16 bytes of the inner datagram with the session between the two
//! neighbours. The inner datagram is sealed end to end and never touched.

use crate::Error;
use crate::codec::Reader;
use crate::datagram::Kind;
use crate::id::{Counter, MemberId, ReceiverIndex, RelayLabel};
use crate::lane::Role;

/// Length of the short header.
pub const HEADER_LEN: usize = 16;
/// Length of the long header.
pub const LONG_LEN: usize = HEADER_LEN + 32;
/// Length of the hop tag.
pub const HOP_TAG_LEN: usize = 16;
/// The most relays on the way.
pub const MAX_TTL: u8 = 4;

pub(crate) const LONG: u8 = 0x80;
const TTL_MASK: u8 = 0x0f;
/// Two bits: the role of the lane whose key made the hop tag.
const ROLE_SHIFT: u32 = 4;
const ROLE_MASK: u8 = 0x03;

/// A relay header.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Header {
    /// How many more nodes may forward it.
    pub ttl: u8,
    /// Who in the sender made the hop tag. The lane's number is that of the inner datagram ([`crate::lane::number_of`]).
    pub role: Role,
    /// The destination in the receiver's label space; [`RelayLabel::LONG`] exactly when `ids` is there.
    pub label: RelayLabel,
    /// The session between the two neighbours, at the receiver.
    pub receiver: ReceiverIndex,
    /// That session's nonce.
    pub counter: Counter,
    /// Destination and source, in the long form.
    pub ids: Option<(MemberId, MemberId)>,
}

impl Header {
    /// Reads the header at the front of `datagram`; the hop tag and at least one more byte must follow.
    pub fn parse(datagram: &[u8]) -> Result<Header, Error> {
        let mut reader = Reader::new(datagram);
        Kind::Relay.expect(reader.u8()?)?;
        let flags = reader.u8()?;
        let label = RelayLabel(reader.u16()?);
        let receiver = ReceiverIndex(reader.u32()?);
        let counter = Counter(reader.u64()?);
        let long = flags & LONG != 0;
        if long != (label == RelayLabel::LONG) {
            return Err(Error::InvalidField("label"));
        }
        let ttl = flags & TTL_MASK;
        if ttl > MAX_TTL {
            return Err(Error::InvalidField("ttl"));
        }
        let role = Role::from_bits(flags >> ROLE_SHIFT & ROLE_MASK).ok_or(Error::InvalidField("role"))?;
        let ids = if long { Some((MemberId(reader.array()?), MemberId(reader.array()?))) } else { None };
        if reader.rest().len() <= HOP_TAG_LEN {
            return Err(Error::Truncated);
        }
        Ok(Header { ttl, role, label, receiver, counter, ids })
    }

    /// Length of the header in bytes, without the hop tag.
    #[expect(clippy::len_without_is_empty, reason = "a header is never empty")]
    pub fn len(&self) -> usize {
        if self.ids.is_some() { LONG_LEN } else { HEADER_LEN }
    }

    /// Writes the header into `out`.
    ///
    /// # Panics
    /// When `out` is not [`Header::len`] bytes long.
    pub fn write(&self, out: &mut [u8]) {
        assert_eq!(out.len(), self.len());
        debug_assert_eq!(self.ids.is_some(), self.label == RelayLabel::LONG);
        let long = if self.ids.is_some() { LONG } else { 0 };
        out[0] = Kind::Relay.first_byte();
        out[1] = long | (self.role as u8) << ROLE_SHIFT | (self.ttl & TTL_MASK);
        out[2..4].copy_from_slice(&self.label.0.to_be_bytes());
        out[4..8].copy_from_slice(&self.receiver.0.to_be_bytes());
        out[8..16].copy_from_slice(&self.counter.0.to_be_bytes());
        if let Some((destination, source)) = &self.ids {
            out[16..32].copy_from_slice(&destination.0);
            out[32..48].copy_from_slice(&source.0);
        }
    }
}
