//! One field at a time of a record that is kept as its bytes.
//!
//! A node keeps the records of thousands of members, and of most of them it only ever asks whether they relay, and which
//! links they have. Read whole, a record takes several times the memory of its bytes.

use super::{CONFIRM_LEN, FLAG_RELAYS, KeyFloor, KeyPlan, Link, Subnet, parse_floor, parse_subnets, whole};
use crate::codec::{Fields, Reader};
use crate::endpoint::{Candidate, parse_candidates};
use crate::id::{BootEpoch, KeyEpochNumber, MemberId, Name, Seq, Serial};
use crate::record::Record;
use crate::signed::{OBJECT_HEADER_LEN, SIGNATURE_LEN, Signed};

/// Looks at the fields of a record where they lie.
///
/// The bytes are those of a [`Signed<Record>`], which was read whole when it came; so a field that is there can be read, and
/// nothing here can fail. Every question walks over the fields before the one asked for.
#[derive(Clone, Copy, Debug)]
pub struct RecordView<'a> {
    body: &'a [u8],
}

impl<'a> RecordView<'a> {
    /// Looks at the bytes of [`Signed::as_bytes`].
    pub fn new(object: &'a [u8]) -> Self {
        let end = object.len().saturating_sub(SIGNATURE_LEN);
        RecordView { body: object.get(OBJECT_HEADER_LEN..end).unwrap_or_default() }
    }

    /// The boot in which the origin made it, and its number in that.
    pub fn version(&self) -> (BootEpoch, Seq) {
        self.read(3, |reader| Ok((BootEpoch(reader.u64()?), Seq(reader.u64()?)))).unwrap_or_default()
    }

    /// The certificate in use, and the newest key epoch.
    pub fn keys(&self) -> (Serial, KeyEpochNumber) {
        self.read(5, |reader| Ok((Serial(reader.u64()?), KeyEpochNumber(reader.u32()?)))).unwrap_or_default()
    }

    /// Where the member may be reached.
    pub fn candidates(&self) -> Vec<Candidate> {
        self.read(6, parse_candidates).unwrap_or_default()
    }

    /// Whether it says where the member may be reached.
    pub fn has_candidates(&self) -> bool {
        self.field(6).is_some_and(|value| value.first().is_some_and(|count| *count > 0))
    }

    /// Prefixes behind the member.
    pub fn subnets(&self) -> Vec<Subnet> {
        self.field(7).and_then(|value| parse_subnets(value).ok()).unwrap_or_default()
    }

    /// Whether there are any.
    pub fn has_subnets(&self) -> bool {
        self.field(7).is_some_and(|value| !value.is_empty())
    }

    /// Its datacentre.
    pub fn datacenter(&self) -> Option<Name> {
        self.field(8).and_then(|value| Name::parse(value).ok())
    }

    /// Whether it relays now.
    pub fn relays(&self) -> bool {
        self.field(9).is_some_and(|flags| flags.first().is_some_and(|flags| flags & FLAG_RELAYS != 0))
    }

    /// Its links.
    pub fn links(&self) -> impl Iterator<Item = Link> + Clone + use<'a> {
        let (links, _) = self.field(10).unwrap_or_default().as_chunks::<{ Link::LEN }>();
        links.iter().map(Link::from_bytes)
    }

    /// Its link with `member`.
    pub fn link(&self, member: MemberId) -> Option<Link> {
        self.links().find(|link| link.member == member)
    }

    /// Which of its key epochs still count.
    pub fn floor(&self) -> Option<KeyFloor> {
        self.read(160, parse_floor)
    }

    /// The newest epoch of `of` that it says it knows by name.
    pub fn confirmed(&self, of: MemberId) -> Option<KeyEpochNumber> {
        let (confirms, _) = self.field(161).unwrap_or_default().as_chunks::<CONFIRM_LEN>();
        confirms.iter().find(|confirm| confirm.starts_with(&of.0)).map(|confirm| {
            let [.., a, b, c, d] = *confirm;
            KeyEpochNumber(u32::from_be_bytes([a, b, c, d]))
        })
    }

    /// Whether `mark` is among its confirmations in short.
    pub fn confirms_in_short(&self, mark: u32) -> bool {
        let (marks, _) = self.field(164).unwrap_or_default().as_chunks::<4>();
        marks.contains(&mark.to_be_bytes())
    }

    /// Its plan, as an operator, that all replace their keys.
    pub fn plan(&self) -> Option<KeyPlan> {
        self.field(162).and_then(|value| KeyPlan::parse(value).ok())
    }

    /// The newest trust bundle that it knows.
    pub fn bundle(&self) -> Option<u32> {
        self.read(163, Reader::u32)
    }

    fn read<T>(&self, kind: u8, parse: impl FnOnce(&mut Reader<'a>) -> Result<T, crate::Error>) -> Option<T> {
        self.field(kind).and_then(|value| whole(value, parse).ok())
    }

    fn field(&self, kind: u8) -> Option<&'a [u8]> {
        Fields::find(self.body, kind)
    }
}

impl<'a> From<&'a Signed<Record>> for RecordView<'a> {
    fn from(record: &'a Signed<Record>) -> Self {
        RecordView::new(record.as_bytes())
    }
}
