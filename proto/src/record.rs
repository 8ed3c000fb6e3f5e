//! The link-state record: where a member can be reached, what it announces, and which links it has.

mod view;

use ipnet::IpNet;

use crate::Error;
use crate::certificate::{emit_prefix, exact, parse_prefix};
use crate::codec::{Fields, Reader, Writer, put_field};
use crate::endpoint::{Candidate, emit_candidates, parse_candidates};
use crate::id::{BootEpoch, KeyEpochNumber, MemberId, MeshId, Name, Seq, Serial};
use crate::signed::{Body, OBJECT_MAX_LEN, ObjectKind};

pub use view::RecordView;

/// Most subnets in a record. A record with the most subnets and the most links is over [`OBJECT_MAX_LEN`].
pub const MAX_SUBNETS: usize = 256;
/// Most links in a record.
pub const MAX_LINKS: usize = 256;

/// Most confirmations in a record that name the member.
pub const MAX_CONFIRMS: usize = 64;
/// Most confirmations in a record beside those, in short.
pub const MAX_SHORT_CONFIRMS: usize = 1024;

/// Which of the origin's key epochs still count.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct KeyFloor {
    /// Handshakes with earlier epochs are refused, by the origin and by everybody else.
    pub accepted: KeyEpochNumber,
    /// Sessions that were made with earlier epochs end at once: one of those keys was stolen.
    pub cut: KeyEpochNumber,
}

/// Most members that a plan goes on without.
pub const MAX_WITHOUT: usize = 64;

/// An operator's plan that all members replace their transport keys.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct KeyPlan {
    /// Keys made before are to be replaced, in seconds since the Unix epoch. Of several plans the newest counts.
    pub created_s: u64,
    /// It was called off: nobody begins any more because of it.
    pub aborted: bool,
    /// How many members replace their keys at a time.
    pub wave: u16,
    /// Members that neither take part nor are waited for.
    pub without: Vec<MemberId>,
}

impl KeyPlan {
    /// The value of its field.
    pub fn to_bytes(&self) -> Vec<u8> {
        let mut value = Vec::with_capacity(11 + self.without.len() * 16);
        value.put_u64(self.created_s);
        value.put_u8(u8::from(self.aborted));
        value.put_u16(self.wave);
        self.without.iter().for_each(|member| value.put(&member.0));
        value
    }

    /// Reads the value of its field.
    ///
    /// # Errors
    /// Where it is cut off, too long, or says something else of being called off than yes or no.
    pub fn parse(value: &[u8]) -> Result<KeyPlan, Error> {
        let mut reader = Reader::new(value);
        let (created_s, aborted, wave) = (reader.u64()?, reader.u8()?, reader.u16()?);
        if aborted > 1 {
            return Err(Error::InvalidField("plan"));
        }
        let mut without = Vec::new();
        while !reader.is_empty() {
            if without.len() == MAX_WITHOUT {
                return Err(Error::TooLong("without"));
            }
            without.push(MemberId(reader.array()?));
        }
        Ok(KeyPlan { created_s, aborted: aborted == 1, wave, without })
    }
}

/// A prefix behind a member.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct Subnet {
    /// The prefix.
    pub prefix: IpNet,
    /// Preference among several owners; lower wins.
    pub weight: u16,
}

/// An adjacency to another member.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct Link {
    /// The neighbour.
    pub member: MemberId,
    /// Smoothed round-trip time in microseconds.
    pub cost_us: u32,
}

impl Link {
    /// Length of its encoding.
    pub const LEN: usize = 20;

    fn from_bytes(bytes: &[u8; Self::LEN]) -> Link {
        let [.., a, b, c, d] = *bytes;
        Link {
            member: MemberId(std::array::from_fn(|at| bytes[at])),
            cost_us: u32::from_be_bytes([a, b, c, d]),
        }
    }
}

/// A link-state record.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Record {
    /// The mesh.
    pub mesh: MeshId,
    /// The origin; only it signs its record.
    pub member: MemberId,
    /// The origin's boot; together with `seq` it orders records.
    pub boot: BootEpoch,
    /// Grows with each record of a boot.
    pub seq: Seq,
    /// When it was made, in seconds since the Unix epoch.
    pub created_s: u64,
    /// The certificate in use.
    pub certificate: Serial,
    /// The newest key epoch.
    pub key_epoch: KeyEpochNumber,
    /// Where the member may be reached.
    pub candidates: Vec<Candidate>,
    /// Prefixes behind it.
    pub subnets: Vec<Subnet>,
    /// Its datacentre.
    pub datacenter: Option<Name>,
    /// Whether it relays now.
    pub relays: bool,
    /// Its links.
    pub links: Vec<Link>,
    /// Which of its key epochs still count; older nodes do not tell.
    pub floor: Option<KeyFloor>,
    /// New key epochs of members that are rotating, which this one knows and makes handshakes to.
    pub confirms: Vec<(MemberId, KeyEpochNumber)>,
    /// More of them than there is room for in `confirms`: the first 4 bytes of a hash over member and number.
    pub short_confirms: Vec<u32>,
    /// The newest trust bundle that it knows; older nodes do not tell.
    pub bundle: Option<u32>,
    /// Its plan, as an operator, that all replace their keys.
    pub plan: Option<KeyPlan>,
}

const FLAG_RELAYS: u8 = 1;

/// Length of a confirmation that names the member.
const CONFIRM_LEN: usize = 20;

impl Body for Record {
    const KIND: ObjectKind = ObjectKind::Record;
    const MAX_LEN: usize = OBJECT_MAX_LEN;

    fn check_limits(&self) -> Result<(), Error> {
        if self.subnets.len() > MAX_SUBNETS {
            Err(Error::TooLong("subnets"))
        } else if self.links.len() > MAX_LINKS {
            Err(Error::TooLong("links"))
        } else if self.confirms.len() > MAX_CONFIRMS {
            Err(Error::TooLong("confirms"))
        } else if self.short_confirms.len() > MAX_SHORT_CONFIRMS {
            Err(Error::TooLong("short confirms"))
        } else if self.plan.as_ref().is_some_and(|plan| plan.without.len() > MAX_WITHOUT) {
            Err(Error::TooLong("without"))
        } else {
            Ok(())
        }
    }

    fn parse_body(body: &[u8]) -> Result<Record, Error> {
        let mut fields = Fields::new(body);
        let mesh = MeshId(exact(fields.required(1, "mesh")?, "mesh")?);
        let member = MemberId(exact(fields.required(2, "member")?, "member")?);
        let mut version = Reader::new(fields.required(3, "version")?);
        let (boot, seq) = (BootEpoch(version.u64()?), Seq(version.u64()?));
        version.finish()?;
        let created_s = u64::from_be_bytes(exact(fields.required(4, "created")?, "created")?);
        let mut keys = Reader::new(fields.required(5, "keys")?);
        let (certificate, key_epoch) = (Serial(keys.u64()?), KeyEpochNumber(keys.u32()?));
        keys.finish()?;
        let candidates = match fields.optional(6)? {
            Some(value) => whole(value, parse_candidates)?,
            None => Vec::new(),
        };
        let subnets = match fields.optional(7)? {
            Some(value) => parse_subnets(value)?,
            None => Vec::new(),
        };
        let datacenter = fields.optional(8)?.map(Name::parse).transpose()?;
        let flags = fields.optional(9)?.map_or(Ok([0]), |value| exact(value, "flags"))?[0];
        let links = match fields.optional(10)? {
            Some(value) => parse_links(value)?,
            None => Vec::new(),
        };
        let floor = match fields.optional(160)? {
            Some(value) => Some(whole(value, parse_floor)?),
            None => None,
        };
        let confirms = match fields.optional(161)? {
            Some(value) => parse_confirms(value)?,
            None => Vec::new(),
        };
        let plan = match fields.optional(162)? {
            Some(value) => Some(KeyPlan::parse(value)?),
            None => None,
        };
        let bundle =
            fields.optional(163)?.map(|value| exact(value, "bundle").map(u32::from_be_bytes)).transpose()?;
        let short_confirms = match fields.optional(164)? {
            Some(value) => parse_short_confirms(value)?,
            None => Vec::new(),
        };
        fields.finish()?;
        Ok(Record {
            mesh,
            member,
            boot,
            seq,
            created_s,
            certificate,
            key_epoch,
            candidates,
            subnets,
            datacenter,
            relays: flags & FLAG_RELAYS != 0,
            links,
            floor,
            confirms,
            short_confirms,
            bundle,
            plan,
        })
    }

    fn emit_body(&self, out: &mut Vec<u8>) {
        put_field(out, 1, &self.mesh.0);
        put_field(out, 2, &self.member.0);
        let mut version = Vec::with_capacity(16);
        version.put_u64(self.boot.0);
        version.put_u64(self.seq.0);
        put_field(out, 3, &version);
        put_field(out, 4, &self.created_s.to_be_bytes());
        let mut keys = Vec::with_capacity(12);
        keys.put_u64(self.certificate.0);
        keys.put_u32(self.key_epoch.0);
        put_field(out, 5, &keys);
        if !self.candidates.is_empty() {
            let mut value = Vec::new();
            emit_candidates(&self.candidates, &mut value);
            put_field(out, 6, &value);
        }
        if !self.subnets.is_empty() {
            let mut value = Vec::new();
            for subnet in &self.subnets {
                value.put_u16(subnet.weight);
                emit_prefix(&subnet.prefix, &mut value);
            }
            put_field(out, 7, &value);
        }
        if let Some(datacenter) = &self.datacenter {
            put_field(out, 8, datacenter.as_str().as_bytes());
        }
        if self.relays {
            put_field(out, 9, &[FLAG_RELAYS]);
        }
        if !self.links.is_empty() {
            let mut value = Vec::with_capacity(self.links.len() * 20);
            for link in &self.links {
                value.put(&link.member.0);
                value.put_u32(link.cost_us);
            }
            put_field(out, 10, &value);
        }
        if let Some(floor) = &self.floor {
            let mut value = Vec::with_capacity(8);
            value.put_u32(floor.accepted.0);
            value.put_u32(floor.cut.0);
            put_field(out, 160, &value);
        }
        if !self.confirms.is_empty() {
            let mut value = Vec::with_capacity(self.confirms.len() * 20);
            for (member, number) in &self.confirms {
                value.put(&member.0);
                value.put_u32(number.0);
            }
            put_field(out, 161, &value);
        }
        if let Some(plan) = &self.plan {
            put_field(out, 162, &plan.to_bytes());
        }
        if let Some(bundle) = &self.bundle {
            put_field(out, 163, &bundle.to_be_bytes());
        }
        if !self.short_confirms.is_empty() {
            let value: Vec<u8> = self.short_confirms.iter().flat_map(|mark| mark.to_be_bytes()).collect();
            put_field(out, 164, &value);
        }
    }
}

fn parse_floor(reader: &mut Reader<'_>) -> Result<KeyFloor, Error> {
    Ok(KeyFloor { accepted: KeyEpochNumber(reader.u32()?), cut: KeyEpochNumber(reader.u32()?) })
}

fn parse_confirms(value: &[u8]) -> Result<Vec<(MemberId, KeyEpochNumber)>, Error> {
    let mut reader = Reader::new(value);
    let mut confirms = Vec::new();
    while !reader.is_empty() {
        if confirms.len() == MAX_CONFIRMS {
            return Err(Error::TooLong("confirms"));
        }
        confirms.push((MemberId(reader.array()?), KeyEpochNumber(reader.u32()?)));
    }
    Ok(confirms)
}

fn parse_short_confirms(value: &[u8]) -> Result<Vec<u32>, Error> {
    let (marks, rest) = value.as_chunks::<4>();
    if !rest.is_empty() {
        return Err(Error::InvalidField("short confirms"));
    }
    if marks.len() > MAX_SHORT_CONFIRMS {
        return Err(Error::TooLong("short confirms"));
    }
    Ok(marks.iter().map(|mark| u32::from_be_bytes(*mark)).collect())
}

fn whole<'a, T>(
    value: &'a [u8],
    parse: impl FnOnce(&mut Reader<'a>) -> Result<T, Error>,
) -> Result<T, Error> {
    let mut reader = Reader::new(value);
    let parsed = parse(&mut reader)?;
    reader.finish()?;
    Ok(parsed)
}

fn parse_subnets(value: &[u8]) -> Result<Vec<Subnet>, Error> {
    let mut reader = Reader::new(value);
    let mut subnets = Vec::new();
    while !reader.is_empty() {
        if subnets.len() == MAX_SUBNETS {
            return Err(Error::TooLong("subnets"));
        }
        let weight = reader.u16()?;
        subnets.push(Subnet { prefix: parse_prefix(&mut reader)?, weight });
    }
    Ok(subnets)
}

fn parse_links(value: &[u8]) -> Result<Vec<Link>, Error> {
    let (links, rest) = value.as_chunks::<{ Link::LEN }>();
    if links.len() > MAX_LINKS {
        return Err(Error::TooLong("links"));
    }
    if !rest.is_empty() {
        return Err(Error::Truncated);
    }
    Ok(links.iter().map(Link::from_bytes).collect())
}
