//! The bounded reader, the writer, and type-length-value fields that every format is made of.

use crate::Error;

/// Reads big-endian values from the front of a slice.
#[derive(Clone, Copy, Debug)]
pub struct Reader<'a> {
    rest: &'a [u8],
}

impl<'a> Reader<'a> {
    /// Reads from `bytes`.
    pub fn new(bytes: &'a [u8]) -> Self {
        Reader { rest: bytes }
    }

    /// What is left.
    pub fn rest(&self) -> &'a [u8] {
        self.rest
    }

    /// Whether nothing is left.
    pub fn is_empty(&self) -> bool {
        self.rest.is_empty()
    }

    /// The next `len` bytes.
    pub fn take(&mut self, len: usize) -> Result<&'a [u8], Error> {
        let (head, rest) = self.rest.split_at_checked(len).ok_or(Error::Truncated)?;
        self.rest = rest;
        Ok(head)
    }

    /// The next `N` bytes.
    pub fn array<const N: usize>(&mut self) -> Result<[u8; N], Error> {
        let (head, rest) = self.rest.split_first_chunk().ok_or(Error::Truncated)?;
        self.rest = rest;
        Ok(*head)
    }

    /// One byte.
    pub fn u8(&mut self) -> Result<u8, Error> {
        Ok(self.array::<1>()?[0])
    }

    /// Two bytes.
    pub fn u16(&mut self) -> Result<u16, Error> {
        Ok(u16::from_be_bytes(self.array()?))
    }

    /// Four bytes.
    pub fn u32(&mut self) -> Result<u32, Error> {
        Ok(u32::from_be_bytes(self.array()?))
    }

    /// Eight bytes.
    pub fn u64(&mut self) -> Result<u64, Error> {
        Ok(u64::from_be_bytes(self.array()?))
    }

    /// A length in two bytes and that many bytes.
    pub fn bytes16(&mut self) -> Result<&'a [u8], Error> {
        let len = self.u16()?;
        self.take(usize::from(len))
    }

    /// A length in one byte and that many bytes.
    pub fn bytes8(&mut self) -> Result<&'a [u8], Error> {
        let len = self.u8()?;
        self.take(usize::from(len))
    }

    /// An error unless everything was read.
    pub fn finish(self) -> Result<(), Error> {
        if self.rest.is_empty() { Ok(()) } else { Err(Error::TrailingBytes) }
    }
}

/// Appends big-endian values to a buffer.
pub trait Writer {
    /// Bytes as they are.
    fn put(&mut self, bytes: &[u8]);

    /// One byte.
    fn put_u8(&mut self, value: u8) {
        self.put(&[value]);
    }

    /// Two bytes.
    fn put_u16(&mut self, value: u16) {
        self.put(&value.to_be_bytes());
    }

    /// Four bytes.
    fn put_u32(&mut self, value: u32) {
        self.put(&value.to_be_bytes());
    }

    /// Eight bytes.
    fn put_u64(&mut self, value: u64) {
        self.put(&value.to_be_bytes());
    }

    /// A length in two bytes and the bytes.
    ///
    /// # Panics
    /// When there are more than 65,535 bytes; the limits of every format are far below.
    fn put_bytes16(&mut self, bytes: &[u8]) {
        self.put_u16(u16::try_from(bytes.len()).expect("limits keep fields under 64 KiB"));
        self.put(bytes);
    }

    /// A length in one byte and the bytes.
    ///
    /// # Panics
    /// When there are more than 255 bytes; the limits of every format are below.
    fn put_bytes8(&mut self, bytes: &[u8]) {
        self.put_u8(u8::try_from(bytes.len()).expect("limits keep short fields under 256 bytes"));
        self.put(bytes);
    }
}

impl Writer for Vec<u8> {
    fn put(&mut self, bytes: &[u8]) {
        self.extend_from_slice(bytes);
    }
}

/// Fields of a newer version from this type on are skipped by those who do not know them; unknown fields below it are
/// critical: whoever does not know them must refuse the object.
pub const FIRST_SKIPPABLE: u8 = 0x80;

/// Length of what comes before a field's value: type and length.
pub const FIELD_HEADER_LEN: usize = 3;

/// Appends a field: type, length, value. Fields must be written in ascending order of type.
pub fn put_field(out: &mut Vec<u8>, kind: u8, value: &[u8]) {
    out.put_u8(kind);
    out.put_bytes16(value);
}

/// Reads fields in ascending order of type.
#[derive(Clone, Debug)]
pub struct Fields<'a> {
    reader: Reader<'a>,
    last: Option<u8>,
    peeked: Option<(u8, &'a [u8])>,
}

impl<'a> Fields<'a> {
    /// Reads the fields that fill `bytes`.
    pub fn new(bytes: &'a [u8]) -> Self {
        Fields { reader: Reader::new(bytes), last: None, peeked: None }
    }

    /// The value of field `kind`, if it is the next known one. Unknown fields before it are skipped when they may be.
    pub fn optional(&mut self, kind: u8) -> Result<Option<&'a [u8]>, Error> {
        loop {
            let Some((next, value)) = self.next()? else { return Ok(None) };
            if next == kind {
                return Ok(Some(value));
            }
            if next > kind {
                self.peeked = Some((next, value));
                return Ok(None);
            }
            skippable(next)?;
        }
    }

    /// The value of field `kind`; an error naming `name` when it is missing.
    pub fn required(&mut self, kind: u8, name: &'static str) -> Result<&'a [u8], Error> {
        self.optional(kind)?.ok_or(Error::MissingField(name))
    }

    /// The value of field `kind` in `bytes` that were read before, so that what is wrong with them does not matter any more.
    pub(crate) fn find(bytes: &'a [u8], kind: u8) -> Option<&'a [u8]> {
        let mut reader = Reader::new(bytes);
        loop {
            let (next, value) = (reader.u8().ok()?, reader.bytes16().ok()?);
            if next >= kind {
                return (next == kind).then_some(value);
            }
        }
    }

    /// An error unless all that is left may be skipped.
    pub fn finish(mut self) -> Result<(), Error> {
        while let Some((kind, _)) = self.next()? {
            skippable(kind)?;
        }
        Ok(())
    }

    fn next(&mut self) -> Result<Option<(u8, &'a [u8])>, Error> {
        if let Some(field) = self.peeked.take() {
            return Ok(Some(field));
        }
        if self.reader.is_empty() {
            return Ok(None);
        }
        let kind = self.reader.u8()?;
        let value = self.reader.bytes16()?;
        if self.last.is_some_and(|last| last >= kind) {
            return Err(Error::FieldOrder);
        }
        self.last = Some(kind);
        Ok(Some((kind, value)))
    }
}

fn skippable(kind: u8) -> Result<(), Error> {
    if kind >= FIRST_SKIPPABLE { Ok(()) } else { Err(Error::UnknownCriticalField(kind)) }
}
