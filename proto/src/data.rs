//! Sealed datagrams: header in clear, content and trailer sealed, authentication tag.
//!
//! ```text
//! | version/type 1 | flags 1 | lane 2 | receiver 4 | counter 8 | sealed(inner | trailer 2) | tag 16 |
//! ```

use crate::Error;
use crate::codec::Reader;
use crate::datagram::Kind;
use crate::id::{Counter, ReceiverIndex};

/// Length of the header, which is also the additional data of the AEAD.
pub const HEADER_LEN: usize = 16;
/// Length of the sealed trailer.
pub const TRAILER_LEN: usize = 2;
/// Length of the authentication tag.
pub const TAG_LEN: usize = 16;

/// The header of a sealed datagram.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Header {
    /// The lane whose key sealed it, as [`crate::lane::Lane::from_wire`] reads it. Any number is well-formed.
    pub lane: u16,
    /// The session at the receiver.
    pub receiver: ReceiverIndex,
    /// The nonce.
    pub counter: Counter,
}

impl Header {
    /// Reads the header at the front of `datagram`; what follows is not looked at, except that header, trailer, and tag
    /// must fit.
    pub fn parse(datagram: &[u8]) -> Result<Header, Error> {
        if datagram.len() < HEADER_LEN + TRAILER_LEN + TAG_LEN {
            return Err(Error::Truncated);
        }
        let mut reader = Reader::new(datagram);
        Kind::Data.expect(reader.u8()?)?;
        // Flags are reserved: a newer sender may set them, and the AEAD covers them.
        reader.u8()?;
        Ok(Header {
            lane: reader.u16()?,
            receiver: ReceiverIndex(reader.u32()?),
            counter: Counter(reader.u64()?),
        })
    }

    /// Writes the header into `out`.
    ///
    /// # Panics
    /// When `out` is not [`HEADER_LEN`] bytes long.
    pub fn write(&self, out: &mut [u8]) {
        assert_eq!(out.len(), HEADER_LEN);
        out[0] = Kind::Data.first_byte();
        out[1] = 0;
        out[2..4].copy_from_slice(&self.lane.to_be_bytes());
        out[4..8].copy_from_slice(&self.receiver.0.to_be_bytes());
        out[8..16].copy_from_slice(&self.counter.0.to_be_bytes());
    }
}

/// What the trailer says of the content.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub struct TrailerFlags(pub u8);

impl TrailerFlags {
    /// The content is a run of control frames.
    pub const CONTROL: TrailerFlags = TrailerFlags(1);
    /// The transport checksum of the inner packet is left to the receiver.
    pub const CSUM_PARTIAL: TrailerFlags = TrailerFlags(2);
    /// The inner packet is a segment of a super-packet.
    pub const GSO_SEG: TrailerFlags = TrailerFlags(4);
    /// It is the first segment.
    pub const FIRST: TrailerFlags = TrailerFlags(8);
    /// It is the last segment.
    pub const LAST: TrailerFlags = TrailerFlags(16);

    /// No flag.
    pub const fn empty() -> TrailerFlags {
        TrailerFlags(0)
    }

    /// Whether all flags of `other` are set.
    pub const fn contains(self, other: TrailerFlags) -> bool {
        self.0 & other.0 == other.0
    }

    /// Flags of both.
    #[must_use]
    pub const fn union(self, other: TrailerFlags) -> TrailerFlags {
        TrailerFlags(self.0 | other.0)
    }
}

/// The last two sealed bytes.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub struct Trailer {
    /// What the content is.
    pub flags: TrailerFlags,
    /// Place of the segment in its super-packet.
    pub index: u8,
}

impl Trailer {
    /// Splits an opened datagram into its content and its trailer; `None` when it is too short.
    pub fn split(plaintext: &[u8]) -> Option<(&[u8], Trailer)> {
        let (inner, [flags, index]) = plaintext.split_last_chunk()?;
        Some((inner, Trailer { flags: TrailerFlags(*flags), index: *index }))
    }

    /// Writes the trailer into `out`.
    ///
    /// # Panics
    /// When `out` is not [`TRAILER_LEN`] bytes long.
    pub fn write(&self, out: &mut [u8]) {
        out.copy_from_slice(&[self.flags.0, self.index]);
    }
}
