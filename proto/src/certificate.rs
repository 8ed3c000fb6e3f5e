//! The membership certificate: who a node is and what it may do.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use ipnet::{IpNet, Ipv4Net, Ipv6Net};

use crate::Error;
use crate::codec::{Fields, Reader, Writer, put_field};
use crate::id::{IdentityKey, MemberId, MeshId, Name, Serial};
use crate::signed::{Body, ObjectKind};

/// Longest certificate.
pub const CERTIFICATE_MAX_LEN: usize = 1024;
/// Most overlay addresses of one member, the derived IPv6 address not counted.
pub const MAX_ADDRESSES: usize = 4;
/// Most prefixes that one member may announce.
pub const MAX_PREFIXES: usize = 64;

/// What a member may do beside taking part.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Debug)]
pub struct Roles(pub u8);

impl Roles {
    /// Forward traffic between others.
    pub const RELAY: Roles = Roles(1);
    /// Issue certificates.
    pub const ISSUER: Roles = Roles(2);
    /// Give orders to other nodes.
    pub const OPERATOR: Roles = Roles(4);
    /// Take packets of others to the internet.
    pub const EXIT: Roles = Roles(8);

    /// Whether all roles of `other` are among these.
    pub const fn contains(self, other: Roles) -> bool {
        self.0 & other.0 == other.0
    }

    /// Roles of both.
    #[must_use]
    pub const fn union(self, other: Roles) -> Roles {
        Roles(self.0 | other.0)
    }

    /// Names of the known roles.
    pub fn names(self) -> impl Iterator<Item = &'static str> {
        let all = [
            (Roles::RELAY, "relay"),
            (Roles::ISSUER, "issuer"),
            (Roles::OPERATOR, "operator"),
            (Roles::EXIT, "exit"),
        ];
        all.into_iter().filter(move |(role, _)| self.contains(*role)).map(|(_, name)| name)
    }
}

/// What an issuer may issue.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct IssuerConstraints {
    /// Names it issues must end with this: at most [`Name::MAX_LEN`] of `a-z`, `0-9`, and `-`; empty allows every name.
    pub name_suffix: String,
    /// Addresses and prefixes that it issues must lie within these; empty allows only overlay addresses.
    pub prefixes: Vec<IpNet>,
    /// Longest lifetime of what it issues, in seconds.
    pub max_lifetime_s: u32,
}

/// Who signed a certificate.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Issuer {
    /// A root of the trust bundle: the first 8 bytes of BLAKE2s-256 of its key.
    Root([u8; 8]),
    /// A member with the issuer role, by its certificate.
    Member(MemberId, Serial),
}

/// A membership certificate.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Certificate {
    /// The mesh.
    pub mesh: MeshId,
    /// The member.
    pub member: MemberId,
    /// This certificate's number.
    pub serial: Serial,
    /// The member's identity key.
    pub identity: IdentityKey,
    /// The member's name.
    pub name: Name,
    /// Overlay addresses, beside the IPv6 address that is derived from the member id.
    pub addresses: Vec<IpAddr>,
    /// Prefixes that the member may announce.
    pub prefixes: Vec<IpNet>,
    /// What it may do.
    pub roles: Roles,
    /// For issuers; few members are.
    pub constraints: Option<Box<IssuerConstraints>>,
    /// Start of validity, in seconds since the Unix epoch.
    pub not_before_s: u64,
    /// End of validity, in seconds since the Unix epoch.
    pub not_after_s: u64,
    /// Who signed it.
    pub issuer: Issuer,
}

impl Body for Certificate {
    const KIND: ObjectKind = ObjectKind::Certificate;
    const MAX_LEN: usize = CERTIFICATE_MAX_LEN;

    fn check_limits(&self) -> Result<(), Error> {
        let constrained = self.constraints.as_ref();
        let within = constrained.map_or(&[][..], |constraints| &constraints.prefixes);
        if self.addresses.len() > MAX_ADDRESSES {
            Err(Error::TooLong("addresses"))
        } else if self.prefixes.len().max(within.len()) > MAX_PREFIXES {
            Err(Error::TooLong("prefixes"))
        } else if constrained.is_some_and(|constraints| constraints.name_suffix.len() > Name::MAX_LEN) {
            Err(Error::TooLong("name suffix"))
        } else {
            Ok(())
        }
    }

    fn parse_body(body: &[u8]) -> Result<Certificate, Error> {
        let mut fields = Fields::new(body);
        let mesh = MeshId(exact(fields.required(1, "mesh")?, "mesh")?);
        let member = MemberId(exact(fields.required(2, "member")?, "member")?);
        let serial = Serial(u64::from_be_bytes(exact(fields.required(3, "serial")?, "serial")?));
        let identity = IdentityKey(exact(fields.required(4, "identity")?, "identity")?);
        let name = Name::parse(fields.required(5, "name")?)?;
        let mut addresses = fields.optional(6)?.map_or(Ok(Vec::new()), parse_addresses)?;
        addresses.shrink_to_fit();
        let prefixes = fields.optional(7)?.map_or(Ok(Vec::new()), parse_prefixes)?;
        let roles = Roles(fields.optional(8)?.map_or(Ok([0]), |value| exact(value, "roles"))?[0]);
        let constraints = fields.optional(9)?.map(parse_constraints).transpose()?.map(Box::new);
        let mut validity = Reader::new(fields.required(10, "validity")?);
        let (not_before_s, not_after_s) = (validity.u64()?, validity.u64()?);
        validity.finish()?;
        if not_after_s < not_before_s {
            return Err(Error::InvalidField("validity"));
        }
        let issuer = parse_issuer(fields.required(11, "issuer")?)?;
        fields.finish()?;
        Ok(Certificate {
            mesh,
            member,
            serial,
            identity,
            name,
            addresses,
            prefixes,
            roles,
            constraints,
            not_before_s,
            not_after_s,
            issuer,
        })
    }

    fn emit_body(&self, out: &mut Vec<u8>) {
        put_field(out, 1, &self.mesh.0);
        put_field(out, 2, &self.member.0);
        put_field(out, 3, &self.serial.0.to_be_bytes());
        put_field(out, 4, &self.identity.0);
        put_field(out, 5, self.name.as_str().as_bytes());
        if !self.addresses.is_empty() {
            let mut value = Vec::new();
            self.addresses.iter().for_each(|address| emit_address(address, &mut value));
            put_field(out, 6, &value);
        }
        if !self.prefixes.is_empty() {
            let mut value = Vec::new();
            self.prefixes.iter().for_each(|prefix| emit_prefix(prefix, &mut value));
            put_field(out, 7, &value);
        }
        if self.roles != Roles::default() {
            put_field(out, 8, &[self.roles.0]);
        }
        if let Some(constraints) = &self.constraints {
            let mut value = Vec::new();
            value.put_u32(constraints.max_lifetime_s);
            value.put_bytes8(constraints.name_suffix.as_bytes());
            constraints.prefixes.iter().for_each(|prefix| emit_prefix(prefix, &mut value));
            put_field(out, 9, &value);
        }
        let mut validity = Vec::new();
        validity.put_u64(self.not_before_s);
        validity.put_u64(self.not_after_s);
        put_field(out, 10, &validity);
        put_field(out, 11, &emit_issuer(&self.issuer));
    }
}

/// The value of a field that has exactly `N` bytes.
pub(crate) fn exact<const N: usize>(value: &[u8], name: &'static str) -> Result<[u8; N], Error> {
    value.try_into().map_err(|_| Error::InvalidField(name))
}

/// Reads a prefix: family, length, address. Host bits must be zero.
pub(crate) fn parse_prefix(reader: &mut Reader<'_>) -> Result<IpNet, Error> {
    let family = reader.u8()?;
    let prefix_len = reader.u8()?;
    let prefix: Option<IpNet> = match family {
        4 => Ipv4Net::new(Ipv4Addr::from(reader.array::<4>()?), prefix_len).ok().map(IpNet::V4),
        6 => Ipv6Net::new(Ipv6Addr::from(reader.array::<16>()?), prefix_len).ok().map(IpNet::V6),
        _ => return Err(Error::InvalidField("address family")),
    };
    prefix.filter(|prefix| prefix.trunc() == *prefix).ok_or(Error::InvalidField("prefix"))
}

/// Appends a prefix with its host bits cleared.
pub(crate) fn emit_prefix(prefix: &IpNet, out: &mut Vec<u8>) {
    match prefix.trunc() {
        IpNet::V4(v4) => {
            out.put(&[4, v4.prefix_len()]);
            out.put(&v4.network().octets());
        }
        IpNet::V6(v6) => {
            out.put(&[6, v6.prefix_len()]);
            out.put(&v6.network().octets());
        }
    }
}

/// Reads who signed.
pub(crate) fn parse_issuer(value: &[u8]) -> Result<Issuer, Error> {
    let mut reader = Reader::new(value);
    let issuer = match reader.u8()? {
        0 => Issuer::Root(reader.array()?),
        1 => Issuer::Member(MemberId(reader.array()?), Serial(reader.u64()?)),
        _ => return Err(Error::InvalidField("issuer")),
    };
    reader.finish()?;
    Ok(issuer)
}

/// Encodes who signed.
pub(crate) fn emit_issuer(issuer: &Issuer) -> Vec<u8> {
    let mut value = Vec::new();
    match issuer {
        Issuer::Root(key) => {
            value.put_u8(0);
            value.put(key);
        }
        Issuer::Member(member, serial) => {
            value.put_u8(1);
            value.put(&member.0);
            value.put_u64(serial.0);
        }
    }
    value
}

fn parse_addresses(value: &[u8]) -> Result<Vec<IpAddr>, Error> {
    let mut reader = Reader::new(value);
    let mut addresses = Vec::new();
    while !reader.is_empty() {
        if addresses.len() == MAX_ADDRESSES {
            return Err(Error::TooLong("addresses"));
        }
        addresses.push(match reader.u8()? {
            4 => IpAddr::V4(Ipv4Addr::from(reader.array::<4>()?)),
            6 => IpAddr::V6(Ipv6Addr::from(reader.array::<16>()?)),
            _ => return Err(Error::InvalidField("address family")),
        });
    }
    Ok(addresses)
}

fn emit_address(address: &IpAddr, out: &mut Vec<u8>) {
    match address {
        IpAddr::V4(v4) => {
            out.put_u8(4);
            out.put(&v4.octets());
        }
        IpAddr::V6(v6) => {
            out.put_u8(6);
            out.put(&v6.octets());
        }
    }
}

fn parse_prefixes(value: &[u8]) -> Result<Vec<IpNet>, Error> {
    let mut reader = Reader::new(value);
    let mut prefixes = Vec::new();
    while !reader.is_empty() {
        if prefixes.len() == MAX_PREFIXES {
            return Err(Error::TooLong("prefixes"));
        }
        prefixes.push(parse_prefix(&mut reader)?);
    }
    Ok(prefixes)
}

fn parse_constraints(value: &[u8]) -> Result<IssuerConstraints, Error> {
    let mut reader = Reader::new(value);
    let max_lifetime_s = reader.u32()?;
    let name_suffix = parse_name_suffix(reader.bytes8()?)?;
    Ok(IssuerConstraints { name_suffix, prefixes: parse_prefixes(reader.rest())?, max_lifetime_s })
}

/// A suffix that no name can end with is a mistake, not a constraint.
fn parse_name_suffix(bytes: &[u8]) -> Result<String, Error> {
    let allowed = |byte: &u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || *byte == b'-';
    if bytes.len() > Name::MAX_LEN {
        return Err(Error::TooLong("name suffix"));
    }
    if !bytes.iter().all(allowed) || bytes.ends_with(b"-") {
        return Err(Error::InvalidField("name suffix"));
    }
    String::from_utf8(bytes.to_vec()).map_err(|_| Error::InvalidField("name suffix"))
}
