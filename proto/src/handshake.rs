//! Handshake datagrams and their encrypted payloads.
//!
//! ```text
//! init     | version/type 1 | flags 1 | reserved 2 | sender 4 | noise message 1 | mac1 16 | mac2 16 |      176 and more
//! response | version/type 1 | flags 1 | reserved 2 | sender 4 | receiver 4 | noise message 2 | mac1 16 | mac2 16 | 120
//! ```
//!
//! The Noise pattern is `Noise_IKpsk2_25519_ChaChaPoly_BLAKE2s`. mac1 covers everything before it, mac2 everything
//! before it including mac1.

use crate::Error;
use crate::codec::{Reader, Writer};
use crate::datagram::Kind;
use crate::id::{KeyEpochNumber, ReceiverIndex, SecretId};
use crate::key_epoch::Capabilities;

/// Length of each of the two MACs.
pub const MAC_LEN: usize = 16;
/// Length of what comes before the Noise message in an init.
pub const INIT_HEADER_LEN: usize = 8;
/// Length of what comes before the Noise message in a response.
pub const RESPONSE_HEADER_LEN: usize = 12;
/// Length of an init without attachments.
pub const INIT_LEN: usize = 176;
/// Longest init.
pub const INIT_MAX_LEN: usize = 1200;
/// Length of a response.
pub const RESPONSE_LEN: usize = 120;
/// Length of an init's payload without attachments.
pub const INIT_PAYLOAD_LEN: usize = 40;
/// Longest payload of an init, attachments and their headers of 3 bytes included.
pub const INIT_PAYLOAD_MAX_LEN: usize = INIT_MAX_LEN - INIT_HEADER_LEN - INIT_NOISE_OVERHEAD - 2 * MAC_LEN;
/// Length of a response's payload.
pub const RESPONSE_PAYLOAD_LEN: usize = 28;
/// What Noise adds to an init's payload: ephemeral key, sealed static key, tag.
pub const INIT_NOISE_OVERHEAD: usize = 32 + 48 + 16;
/// What Noise adds to a response's payload: ephemeral key, tag.
pub const RESPONSE_NOISE_OVERHEAD: usize = 32 + 16;
/// In the flags of a response: its psk contains the secret that the init named.
const NAMED_SECRET: u8 = 1;

/// An init, seen from outside.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Init<'a> {
    /// The session at the initiator.
    pub sender: ReceiverIndex,
    /// Noise message 1.
    pub noise: &'a [u8],
    /// Proves knowledge of the responder's key and the mesh's gate key.
    pub mac1: [u8; MAC_LEN],
    /// Proves ownership of the source address, with a cookie; zeros without one.
    pub mac2: [u8; MAC_LEN],
}

impl<'a> Init<'a> {
    /// Reads a datagram.
    pub fn parse(datagram: &'a [u8]) -> Result<Init<'a>, Error> {
        if datagram.len() > INIT_MAX_LEN {
            return Err(Error::TooLong("init"));
        }
        if datagram.len() < INIT_LEN {
            return Err(Error::Truncated);
        }
        let mut reader = Reader::new(datagram);
        Kind::Init.expect(reader.u8()?)?;
        reader.take(3)?;
        let sender = ReceiverIndex(reader.u32()?);
        let noise = reader.take(reader.rest().len() - 2 * MAC_LEN)?;
        Ok(Init { sender, noise, mac1: reader.array()?, mac2: reader.array()? })
    }

    /// Appends the datagram.
    pub fn emit(&self, out: &mut Vec<u8>) {
        out.put(&[Kind::Init.first_byte(), 0, 0, 0]);
        out.put_u32(self.sender.0);
        out.put(self.noise);
        out.put(&self.mac1);
        out.put(&self.mac2);
    }
}

/// A response, seen from outside.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Response<'a> {
    /// The session at the responder.
    pub sender: ReceiverIndex,
    /// The session at the initiator.
    pub receiver: ReceiverIndex,
    /// Whether the psk contains the secret that the init named: else the responder does not have it.
    pub named_secret: bool,
    /// Noise message 2.
    pub noise: &'a [u8],
    /// As in an init, with the initiator's key.
    pub mac1: [u8; MAC_LEN],
    /// As in an init.
    pub mac2: [u8; MAC_LEN],
}

impl<'a> Response<'a> {
    /// Reads a datagram.
    pub fn parse(datagram: &'a [u8]) -> Result<Response<'a>, Error> {
        let mut reader = Reader::new(datagram);
        Kind::Response.expect(reader.u8()?)?;
        let named_secret = reader.u8()? & NAMED_SECRET != 0;
        reader.take(2)?;
        let sender = ReceiverIndex(reader.u32()?);
        let receiver = ReceiverIndex(reader.u32()?);
        let noise = reader.take(RESPONSE_NOISE_OVERHEAD + RESPONSE_PAYLOAD_LEN)?;
        let (mac1, mac2) = (reader.array()?, reader.array()?);
        let response = Response { sender, receiver, named_secret, noise, mac1, mac2 };
        reader.finish()?;
        Ok(response)
    }

    /// Appends the datagram.
    pub fn emit(&self, out: &mut Vec<u8>) {
        let flags = if self.named_secret { NAMED_SECRET } else { 0 };
        out.put(&[Kind::Response.first_byte(), flags, 0, 0]);
        out.put_u32(self.sender.0);
        out.put_u32(self.receiver.0);
        out.put(self.noise);
        out.put(&self.mac1);
        out.put(&self.mac2);
    }
}

/// What an initiator says under encryption.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct InitPayload<'a> {
    /// Microseconds since the Unix epoch, strictly growing per initiator: an init is accepted once.
    pub timestamp_us: u64,
    /// The epoch of the initiator's key.
    pub sender_epoch: KeyEpochNumber,
    /// The epoch of the responder's key that the initiator used.
    pub responder_epoch: KeyEpochNumber,
    /// What the initiator can do.
    pub capabilities: Capabilities,
    /// The newest trust bundle that the initiator knows.
    pub bundle_version: u32,
    /// Digest of the initiator's set of revocations.
    pub revocations: [u8; 8],
    /// Names a secret of an earlier session of these two, for the psk; 0: none.
    pub secret: SecretId,
    /// Signed objects for a responder that may not know the initiator.
    pub attachments: Vec<Attachment<'a>>,
}

/// A signed object that comes with an init.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Attachment<'a> {
    /// The initiator's certificate.
    Certificate(&'a [u8]),
    /// The initiator's key epoch.
    KeyEpoch(&'a [u8]),
    /// The certificate of the member that issued the initiator's.
    IssuerCertificate(&'a [u8]),
}

/// Most attachments of one init.
pub const MAX_ATTACHMENTS: usize = 8;

impl<'a> InitPayload<'a> {
    /// Reads a decrypted payload. Attachments of unknown kind are skipped.
    pub fn parse(payload: &'a [u8]) -> Result<InitPayload<'a>, Error> {
        let mut reader = Reader::new(payload);
        let timestamp_us = reader.u64()?;
        let sender_epoch = KeyEpochNumber(reader.u32()?);
        let responder_epoch = KeyEpochNumber(reader.u32()?);
        let capabilities = Capabilities(reader.u32()?);
        let bundle_version = reader.u32()?;
        let revocations = reader.array()?;
        let secret = SecretId(reader.u64()?);
        let mut attachments = Vec::new();
        let mut seen = 0;
        while !reader.is_empty() {
            seen += 1;
            if seen > MAX_ATTACHMENTS {
                return Err(Error::TooLong("attachments"));
            }
            let kind = reader.u8()?;
            let bytes = reader.bytes16()?;
            match kind {
                1 => attachments.push(Attachment::Certificate(bytes)),
                2 => attachments.push(Attachment::KeyEpoch(bytes)),
                3 => attachments.push(Attachment::IssuerCertificate(bytes)),
                _ => {}
            }
        }
        Ok(InitPayload {
            timestamp_us,
            sender_epoch,
            responder_epoch,
            capabilities,
            bundle_version,
            revocations,
            secret,
            attachments,
        })
    }

    /// Appends the payload.
    pub fn emit(&self, out: &mut Vec<u8>) {
        out.put_u64(self.timestamp_us);
        out.put_u32(self.sender_epoch.0);
        out.put_u32(self.responder_epoch.0);
        out.put_u32(self.capabilities.0);
        out.put_u32(self.bundle_version);
        out.put(&self.revocations);
        out.put_u64(self.secret.0);
        for attachment in &self.attachments {
            let (kind, bytes) = match attachment {
                Attachment::Certificate(bytes) => (1, bytes),
                Attachment::KeyEpoch(bytes) => (2, bytes),
                Attachment::IssuerCertificate(bytes) => (3, bytes),
            };
            out.put_u8(kind);
            out.put_bytes16(bytes);
        }
    }
}

/// What a responder says under encryption.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum ResponsePayload {
    /// The session is made.
    Accepted {
        /// The epoch of the responder's key.
        epoch: KeyEpochNumber,
        /// What the responder can do.
        capabilities: Capabilities,
        /// The newest trust bundle that the responder knows.
        bundle_version: u32,
        /// Digest of the responder's set of revocations.
        revocations: [u8; 8],
    },
    /// The init was valid, but its timestamp is not newer than one seen before: try again with a later one. No session
    /// is made.
    StaleTimestamp {
        /// The epoch of the responder's key.
        epoch: KeyEpochNumber,
        /// The newest timestamp seen from this initiator, in microseconds since the Unix epoch.
        floor_us: u64,
    },
}

impl ResponsePayload {
    /// Reads a decrypted payload.
    pub fn parse(payload: &[u8]) -> Result<ResponsePayload, Error> {
        let mut reader = Reader::new(payload);
        let status = reader.u8()?;
        reader.take(3)?;
        let epoch = KeyEpochNumber(reader.u32()?);
        let capabilities = Capabilities(reader.u32()?);
        let bundle_version = reader.u32()?;
        let tail = reader.array()?;
        reader.take(4)?;
        reader.finish()?;
        match status {
            0 => Ok(ResponsePayload::Accepted { epoch, capabilities, bundle_version, revocations: tail }),
            1 => Ok(ResponsePayload::StaleTimestamp { epoch, floor_us: u64::from_be_bytes(tail) }),
            other => Err(Error::UnexpectedType(other)),
        }
    }

    /// Appends the payload.
    pub fn emit(&self, out: &mut Vec<u8>) {
        let (status, epoch, capabilities, bundle_version, tail) = match *self {
            ResponsePayload::Accepted { epoch, capabilities, bundle_version, revocations } => {
                (0, epoch, capabilities, bundle_version, revocations)
            }
            ResponsePayload::StaleTimestamp { epoch, floor_us } => {
                (1, epoch, Capabilities(0), 0, floor_us.to_be_bytes())
            }
        };
        out.put(&[status, 0, 0, 0]);
        out.put_u32(epoch.0);
        out.put_u32(capabilities.0);
        out.put_u32(bundle_version);
        out.put(&tail);
        out.put_u32(0);
    }
}
