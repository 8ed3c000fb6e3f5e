//! The envelope of signed objects.
//!
//! ```text
//! | version 1 | kind 1 | body length 2 | body: fields | signature 64 |
//! ```
//!
//! The body is a run of fields (type 1, length 2, value) in ascending order of type. A [`Signed`] keeps the bytes it was
//! read from, so that fields of a newer version survive being passed on and the signature stays valid.

use std::fmt;

use crate::Error;
use crate::codec::{Reader, Writer};

/// Version of the envelope.
pub const OBJECT_VERSION: u8 = 1;
/// Length of what comes before the body.
pub const OBJECT_HEADER_LEN: usize = 4;
/// Length of an Ed25519 signature.
pub const SIGNATURE_LEN: usize = 64;
/// Longest object of any kind.
pub const OBJECT_MAX_LEN: usize = 8 * 1024;

/// The kind of a signed object.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
#[repr(u8)]
pub enum ObjectKind {
    /// A membership certificate.
    Certificate = 1,
    /// One epoch of a transport key.
    KeyEpoch = 2,
    /// A link-state record.
    Record = 3,
    /// A revocation.
    Revocation = 4,
    /// A trust bundle; its envelope carries several signatures, see [`crate::bundle`].
    TrustBundle = 5,
}

impl ObjectKind {
    /// The kind of an encoded object; `None` when its version or kind is unknown.
    pub fn of(object: &[u8]) -> Option<ObjectKind> {
        let [OBJECT_VERSION, kind, ..] = object else { return None };
        match kind {
            1 => Some(ObjectKind::Certificate),
            2 => Some(ObjectKind::KeyEpoch),
            3 => Some(ObjectKind::Record),
            4 => Some(ObjectKind::Revocation),
            5 => Some(ObjectKind::TrustBundle),
            _ => None,
        }
    }

    /// Its name in the signature's domain.
    pub fn name(self) -> &'static str {
        match self {
            ObjectKind::Certificate => "certificate",
            ObjectKind::KeyEpoch => "key epoch",
            ObjectKind::Record => "record",
            ObjectKind::Revocation => "revocation",
            ObjectKind::TrustBundle => "trust bundle",
        }
    }
}

/// The content of a signed object.
pub trait Body: Sized {
    /// Its kind.
    const KIND: ObjectKind;
    /// Longest whole object, envelope included.
    const MAX_LEN: usize;

    /// An error when a list or text is over its limit, so that the content must not be encoded.
    fn check_limits(&self) -> Result<(), Error> {
        Ok(())
    }

    /// Reads the fields.
    fn parse_body(body: &[u8]) -> Result<Self, Error>;

    /// Appends the fields.
    fn emit_body(&self, out: &mut Vec<u8>);
}

/// What is signed: the domain, a zero byte, and the encoded header and body.
pub fn signing_bytes(kind: ObjectKind, header_and_body: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(32 + header_and_body.len());
    out.put(b"meshnet ");
    out.put(kind.name().as_bytes());
    out.put_u8(0);
    out.put(header_and_body);
    out
}

/// Encodes header and body, ready to be signed.
///
/// # Errors
/// When a list or the object would be longer than its kind allows, or a reader would refuse it.
pub fn encode_unsigned<T: Body>(body: &T) -> Result<Vec<u8>, Error> {
    encode_checked(body).map(|(_, unsigned)| unsigned)
}

/// Encodes header and body; returns with them the content as a reader will see it.
fn encode_checked<T: Body>(body: &T) -> Result<(T, Vec<u8>), Error> {
    body.check_limits()?;
    let mut fields = Vec::new();
    body.emit_body(&mut fields);
    if OBJECT_HEADER_LEN + fields.len() + SIGNATURE_LEN > T::MAX_LEN {
        return Err(Error::TooLong(T::KIND.name()));
    }
    // Nothing is signed that others would refuse, or read as something else.
    let as_read = T::parse_body(&fields)?;
    let mut out = Vec::with_capacity(OBJECT_HEADER_LEN + fields.len() + SIGNATURE_LEN);
    out.put(&[OBJECT_VERSION, T::KIND as u8]);
    out.put_bytes16(&fields);
    Ok((as_read, out))
}

/// Reads header and body; returns the body and the encoded header and body together.
pub(crate) fn take_unsigned<'a>(
    reader: &mut Reader<'a>,
    kind: ObjectKind,
) -> Result<(&'a [u8], &'a [u8]), Error> {
    let all = reader.rest();
    let version = reader.u8()?;
    if version != OBJECT_VERSION {
        return Err(Error::UnknownVersion(version));
    }
    let found = reader.u8()?;
    if found != kind as u8 {
        return Err(Error::UnexpectedType(found));
    }
    let body = reader.bytes16()?;
    Ok((body, &all[..OBJECT_HEADER_LEN + body.len()]))
}

/// A signed object: its content, the bytes it was read from, and the signature. That the signature is right is for the
/// caller to check.
#[derive(Clone, PartialEq, Eq)]
pub struct Signed<T> {
    body: T,
    /// Header, body, and signature: kept once, for ten thousand members.
    bytes: Box<[u8]>,
}

impl<T: Body> Signed<T> {
    /// From a body and a function that signs [`signing_bytes`]. The content held is the one that readers will see:
    /// prefixes without host bits, lists cut to what is sent.
    ///
    /// # Errors
    /// When a list or the object would be longer than its kind allows, or a reader would refuse it.
    pub fn sign_with(body: T, sign: impl FnOnce(&[u8]) -> [u8; SIGNATURE_LEN]) -> Result<Signed<T>, Error> {
        let (body, mut bytes) = encode_checked(&body)?;
        let signature = sign(&signing_bytes(T::KIND, &bytes));
        bytes.put(&signature);
        Ok(Signed { body, bytes: bytes.into_boxed_slice() })
    }

    /// Reads an object that fills `bytes`.
    pub fn parse(bytes: &[u8]) -> Result<Signed<T>, Error> {
        if bytes.len() > T::MAX_LEN {
            return Err(Error::TooLong(T::KIND.name()));
        }
        let mut reader = Reader::new(bytes);
        let (body, _) = take_unsigned(&mut reader, T::KIND)?;
        reader.array::<SIGNATURE_LEN>()?;
        reader.finish()?;
        Ok(Signed { body: T::parse_body(body)?, bytes: bytes.into() })
    }

    /// Appends the object, byte for byte as it was read or signed.
    pub fn emit(&self, out: &mut Vec<u8>) {
        out.put(&self.bytes);
    }

    /// The encoded object.
    pub fn to_bytes(&self) -> Vec<u8> {
        self.bytes.to_vec()
    }

    /// What the signature must cover.
    pub fn signing_bytes(&self) -> Vec<u8> {
        signing_bytes(T::KIND, self.parts().0)
    }
}

impl<T> Signed<T> {
    /// The content.
    pub fn body(&self) -> &T {
        &self.body
    }

    /// The content alone.
    pub fn into_body(self) -> T {
        self.body
    }

    /// The encoded object, where it lies.
    pub fn as_bytes(&self) -> &[u8] {
        &self.bytes
    }

    /// The encoded object alone.
    pub fn into_bytes(self) -> Box<[u8]> {
        self.bytes
    }

    /// The signature.
    pub fn signature(&self) -> &[u8; SIGNATURE_LEN] {
        self.parts().1
    }

    /// What is signed, without its domain, and the signature.
    fn parts(&self) -> (&[u8], &[u8; SIGNATURE_LEN]) {
        self.bytes.split_last_chunk().expect("every object ends with its signature")
    }
}

impl<T: fmt::Debug> fmt::Debug for Signed<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Signed").field(&self.body).finish()
    }
}
