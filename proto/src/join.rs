//! The framing of the join exchange: how a newcomer with an invitation becomes a member.
//!
//! ```text
//! | version/type 1 | stage 1 | reserved 2 | token 4 | inviter 16 | body |
//! ```
//!
//! A relay that gets a join datagram passes it on to the inviter by the member id in the header, and answers back to
//! the joiner; it learns nothing but that somebody joins. The handshake is `Noise_XXpsk3_25519_ChaChaPoly_BLAKE2s`.

use crate::Error;
use crate::codec::{Reader, Writer};
use crate::datagram::Kind;
use crate::handshake::MAC_LEN;
use crate::id::{InvitationId, MemberId};

/// Length of the header.
pub const JOIN_HEADER_LEN: usize = 24;
/// Longest join datagram.
pub const JOIN_MAX_LEN: usize = 1200;

/// A join datagram.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Join<'a> {
    /// Drawn by the joiner; the same in every datagram of one attempt, in both directions.
    pub token: u32,
    /// Whom the joiner was invited by.
    pub inviter: MemberId,
    /// What it says.
    pub stage: Stage<'a>,
}

/// The content of a join datagram.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Stage<'a> {
    /// Joiner to inviter: which invitation, Noise message 1, and a MAC keyed from the invitation over everything before
    /// it: whoever does not know the invitation gets no answer.
    Hello {
        /// The invitation.
        invitation: InvitationId,
        /// Noise message 1, padded: the first answer must not be longer than the question.
        noise: &'a [u8],
        /// The MAC.
        mac: [u8; MAC_LEN],
    },
    /// Inviter to joiner: a fragment of Noise message 2.
    Answer(Piece<'a>),
    /// Joiner to inviter: Noise message 3.
    Finish(&'a [u8]),
    /// Joiner to inviter: asks for a piece of Noise message 2 (sealed false) or of the sealed welcome (true).
    Request {
        /// Which message.
        sealed: bool,
        /// Which piece, from 0.
        index: u8,
    },
    /// Inviter to joiner: a piece of the sealed welcome.
    Welcome(Piece<'a>),
    /// Inviter to joiner: no. A reason in one byte and a MAC keyed from the invitation, so that nobody else can refuse.
    Refused(&'a [u8]),
}

/// A piece of a message that is too long for one datagram.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Piece<'a> {
    /// Which piece, from 0.
    pub index: u8,
    /// How many pieces.
    pub total: u8,
    /// The piece.
    pub bytes: &'a [u8],
}

/// Longest piece.
pub const MAX_PIECE_LEN: usize = 1100;

const HELLO: u8 = 1;
const ANSWER: u8 = 2;
const FINISH: u8 = 3;
const REQUEST: u8 = 4;
const WELCOME: u8 = 5;
const REFUSED: u8 = 6;

impl<'a> Join<'a> {
    /// Reads a datagram.
    pub fn parse(datagram: &'a [u8]) -> Result<Join<'a>, Error> {
        if datagram.len() > JOIN_MAX_LEN {
            return Err(Error::TooLong("join"));
        }
        let mut reader = Reader::new(datagram);
        Kind::Join.expect(reader.u8()?)?;
        let stage = reader.u8()?;
        reader.take(2)?;
        let token = reader.u32()?;
        let inviter = MemberId(reader.array()?);
        let stage = match stage {
            HELLO => {
                let invitation = InvitationId(reader.array()?);
                let noise_len = reader.rest().len().checked_sub(MAC_LEN).ok_or(Error::Truncated)?;
                Stage::Hello { invitation, noise: reader.take(noise_len)?, mac: reader.array()? }
            }
            ANSWER => Stage::Answer(Piece::parse(reader)?),
            FINISH => Stage::Finish(reader.rest()),
            REQUEST => {
                let (sealed, index) = (reader.u8()? != 0, reader.u8()?);
                reader.finish()?;
                Stage::Request { sealed, index }
            }
            WELCOME => Stage::Welcome(Piece::parse(reader)?),
            REFUSED => Stage::Refused(reader.rest()),
            other => return Err(Error::UnexpectedType(other)),
        };
        Ok(Join { token, inviter, stage })
    }

    /// Appends the datagram.
    pub fn emit(&self, out: &mut Vec<u8>) {
        let stage = match self.stage {
            Stage::Hello { .. } => HELLO,
            Stage::Answer(_) => ANSWER,
            Stage::Finish(_) => FINISH,
            Stage::Request { .. } => REQUEST,
            Stage::Welcome(_) => WELCOME,
            Stage::Refused(_) => REFUSED,
        };
        out.put(&[Kind::Join.first_byte(), stage, 0, 0]);
        out.put_u32(self.token);
        out.put(&self.inviter.0);
        match &self.stage {
            Stage::Hello { invitation, noise, mac } => {
                out.put(&invitation.0);
                out.put(noise);
                out.put(mac);
            }
            Stage::Answer(piece) | Stage::Welcome(piece) => {
                out.put(&[piece.index, piece.total]);
                out.put(piece.bytes);
            }
            Stage::Finish(bytes) | Stage::Refused(bytes) => out.put(bytes),
            Stage::Request { sealed, index } => out.put(&[u8::from(*sealed), *index]),
        }
    }
}

impl<'a> Piece<'a> {
    fn parse(mut reader: Reader<'a>) -> Result<Piece<'a>, Error> {
        let (index, total) = (reader.u8()?, reader.u8()?);
        if index >= total {
            return Err(Error::InvalidField("piece"));
        }
        if reader.rest().len() > MAX_PIECE_LEN {
            return Err(Error::TooLong("piece"));
        }
        Ok(Piece { index, total, bytes: reader.rest() })
    }
}
