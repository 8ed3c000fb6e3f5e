//! The invitation URL: all that a newcomer needs, in one line.
//!
//! ```text
//! meshd://MESH-NAME/BASE64URL
//!
//! | version 1 | mesh 16 | inviter 16 | key hash 16 | secret 16 | expires 8 | count 1 | endpoints | checksum 4 |
//! endpoint: | 4 | address 4 | port 2 |   | 6 | address 16 | port 2 |   | 7 | length 1 | host name | port 2 |
//! ```
//!
//! Version 2 is made where there is somewhere to join by TCP. It has, before the checksum, a count in one byte and so many
//! `| TLS 1 (0 or 1) | endpoint |`.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::str::FromStr;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use blake2::{Blake2s256, Digest};

use crate::codec::{Reader, Writer};
use crate::id::{IdentityKey, InvitationId, MemberId, MeshId, Name};

/// Most endpoints of an invitation.
pub const MAX_ENDPOINTS: usize = 8;
/// Version of the format without endpoints on TCP.
pub const INVITATION_VERSION: u8 = 1;
/// Version of the format with endpoints on TCP.
pub const INVITATION_VERSION_TCP: u8 = 2;
/// Longest invitation, far above what fits into [`MAX_ENDPOINTS`] host names.
pub const MAX_URL_LEN: usize = 4096;
/// Longest host name (RFC 1035, section 3.1).
pub const MAX_HOST_NAME_LEN: usize = 253;
/// How the URL begins.
pub const SCHEME: &str = "meshd://";
const CHECKSUM_LEN: usize = 4;

/// Why a text is not an invitation. The texts say what to do; none contains any part of the invitation.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
pub enum InvitationError {
    /// It does not begin as one.
    #[error(
        "this is not an invitation: it should begin with `meshd://`; paste the whole line that `meshd invite` printed"
    )]
    NotAnInvitation,
    /// It is cut off or was altered.
    #[error(
        "the invitation is damaged (cut off or altered); copy the whole line that `meshd invite` printed"
    )]
    Damaged,
    /// It was made by a newer version.
    #[error("the invitation was made by a newer version of meshd (format {0}); update meshd on this node")]
    NewerVersion(u8),
}

/// An endpoint that may be a name.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct HostPort {
    /// Address or host name.
    pub host: Host,
    /// Port.
    pub port: u16,
}

/// An endpoint on TCP.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct StreamEndpoint {
    /// Whether TLS is spoken there.
    pub tls: bool,
    /// Where.
    pub endpoint: HostPort,
}

/// An address or a host name.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub enum Host {
    /// An address.
    Ip(IpAddr),
    /// A name to look up; 1 to 253 of letters, digits, `-`, `.`, and `_`.
    Name(String),
}

/// An invitation. It holds a secret: it has no `Debug`, and its `Display` is the URL itself.
#[derive(Clone, PartialEq, Eq)]
pub struct Invitation {
    /// The mesh's name, for people.
    pub mesh_name: Name,
    /// The mesh.
    pub mesh: MeshId,
    /// Who invites.
    pub inviter: MemberId,
    /// [`key_hash`] of the inviter's identity key.
    pub key_hash: [u8; 16],
    /// Proves the right to join, once.
    pub secret: [u8; 16],
    /// When it ends, in seconds since the Unix epoch.
    pub expires_s: u64,
    /// Where the inviter, or a relay that knows it, can be reached. Those over [`MAX_ENDPOINTS`], and those whose host
    /// name is not allowed, do not come into the URL.
    pub endpoints: Vec<HostPort>,
    /// The same on TCP, for newcomers where UDP is blocked. At most [`MAX_ENDPOINTS`], too.
    pub streams: Vec<StreamEndpoint>,
}

impl Invitation {
    /// The public name of the invitation with this secret.
    pub fn id_of(secret: &[u8; 16]) -> InvitationId {
        let hash = Blake2s256::new().chain_update(b"meshnet invitation id").chain_update(secret).finalize();
        let mut id = InvitationId::default();
        id.0.copy_from_slice(&hash[..8]);
        id
    }

    /// Its public name.
    pub fn id(&self) -> InvitationId {
        Invitation::id_of(&self.secret)
    }
}

/// The first 16 bytes of BLAKE2s-256 of an identity key.
pub fn key_hash(key: &IdentityKey) -> [u8; 16] {
    let hash = Blake2s256::digest(key.0);
    let mut out = [0; 16];
    out.copy_from_slice(&hash[..16]);
    out
}

impl fmt::Display for Invitation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let streams: Vec<&StreamEndpoint> =
            self.streams.iter().filter(|stream| is_valid(&stream.endpoint)).take(MAX_ENDPOINTS).collect();
        let version = if streams.is_empty() { INVITATION_VERSION } else { INVITATION_VERSION_TCP };
        let mut blob = vec![version];
        blob.put(&self.mesh.0);
        blob.put(&self.inviter.0);
        blob.put(&self.key_hash);
        blob.put(&self.secret);
        blob.put_u64(self.expires_s);
        let endpoints: Vec<&HostPort> =
            self.endpoints.iter().filter(|endpoint| is_valid(endpoint)).take(MAX_ENDPOINTS).collect();
        blob.put_u8(endpoints.len() as u8);
        for endpoint in endpoints {
            emit_endpoint(endpoint, &mut blob);
        }
        if !streams.is_empty() {
            blob.put_u8(streams.len() as u8);
        }
        for stream in streams {
            blob.put_u8(u8::from(stream.tls));
            emit_endpoint(&stream.endpoint, &mut blob);
        }
        let checksum = checksum(&self.mesh_name, &blob);
        blob.put(&checksum);
        write!(f, "{SCHEME}{}/{}", self.mesh_name, URL_SAFE_NO_PAD.encode(&blob))
    }
}

impl FromStr for Invitation {
    type Err = InvitationError;

    fn from_str(text: &str) -> Result<Invitation, InvitationError> {
        let rest = text.trim().strip_prefix(SCHEME).ok_or(InvitationError::NotAnInvitation)?;
        if rest.len() > MAX_URL_LEN {
            return Err(InvitationError::Damaged);
        }
        let (mesh_name, blob) = rest.split_once('/').ok_or(InvitationError::Damaged)?;
        let mesh_name = Name::new(mesh_name).map_err(|_| InvitationError::Damaged)?;
        let blob = URL_SAFE_NO_PAD.decode(blob).map_err(|_| InvitationError::Damaged)?;
        let (content, found) =
            blob.split_at_checked(blob.len().wrapping_sub(CHECKSUM_LEN)).ok_or(InvitationError::Damaged)?;
        if checksum(&mesh_name, content) != *found {
            return Err(InvitationError::Damaged);
        }
        let with_streams = match content.first() {
            Some(&INVITATION_VERSION) => false,
            Some(&INVITATION_VERSION_TCP) => true,
            Some(&newer) if newer > INVITATION_VERSION_TCP => {
                return Err(InvitationError::NewerVersion(newer));
            }
            _ => return Err(InvitationError::Damaged),
        };
        parse_content(mesh_name, &content[1..], with_streams).map_err(|_| InvitationError::Damaged)
    }
}

fn checksum(mesh_name: &Name, content: &[u8]) -> [u8; CHECKSUM_LEN] {
    let hash =
        Blake2s256::new().chain_update(mesh_name.as_str()).chain_update([0]).chain_update(content).finalize();
    let mut out = [0; CHECKSUM_LEN];
    out.copy_from_slice(&hash[..CHECKSUM_LEN]);
    out
}

fn parse_content(mesh_name: Name, content: &[u8], with_streams: bool) -> Result<Invitation, crate::Error> {
    let mut reader = Reader::new(content);
    let mesh = MeshId(reader.array()?);
    let inviter = MemberId(reader.array()?);
    let key_hash = reader.array()?;
    let secret = reader.array()?;
    let expires_s = reader.u64()?;
    let endpoints =
        (0..count_of(&mut reader)?).map(|_| parse_endpoint(&mut reader)).collect::<Result<_, _>>()?;
    let mut streams = Vec::new();
    if with_streams {
        for _ in 0..count_of(&mut reader)? {
            let tls = match reader.u8()? {
                0 => false,
                1 => true,
                _ => return Err(crate::Error::InvalidField("TLS")),
            };
            streams.push(StreamEndpoint { tls, endpoint: parse_endpoint(&mut reader)? });
        }
        // Each invitation has one form.
        if streams.is_empty() {
            return Err(crate::Error::InvalidField("streams"));
        }
    }
    reader.finish()?;
    Ok(Invitation { mesh_name, mesh, inviter, key_hash, secret, expires_s, endpoints, streams })
}

fn count_of(reader: &mut Reader<'_>) -> Result<usize, crate::Error> {
    let count = usize::from(reader.u8()?);
    if count > MAX_ENDPOINTS { Err(crate::Error::TooLong("endpoints")) } else { Ok(count) }
}

fn parse_endpoint(reader: &mut Reader<'_>) -> Result<HostPort, crate::Error> {
    let host = match reader.u8()? {
        4 => Host::Ip(Ipv4Addr::from(reader.array::<4>()?).into()),
        6 => Host::Ip(Ipv6Addr::from(reader.array::<16>()?).into()),
        7 => Host::Name(host_name(reader.bytes8()?)?),
        _ => return Err(crate::Error::InvalidField("endpoint")),
    };
    Ok(HostPort { host, port: reader.u16()? })
}

fn is_valid(endpoint: &HostPort) -> bool {
    match &endpoint.host {
        Host::Ip(_) => true,
        Host::Name(name) => host_name(name.as_bytes()).is_ok(),
    }
}

fn emit_endpoint(endpoint: &HostPort, blob: &mut Vec<u8>) {
    match &endpoint.host {
        Host::Ip(IpAddr::V4(v4)) => {
            blob.put_u8(4);
            blob.put(&v4.octets());
        }
        Host::Ip(IpAddr::V6(v6)) => {
            blob.put_u8(6);
            blob.put(&v6.octets());
        }
        Host::Name(name) => {
            blob.put_u8(7);
            blob.put_bytes8(name.as_bytes());
        }
    }
    blob.put_u16(endpoint.port);
}

fn host_name(bytes: &[u8]) -> Result<String, crate::Error> {
    let allowed = |byte: &u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'.' | b'_');
    if bytes.is_empty() || bytes.len() > MAX_HOST_NAME_LEN || !bytes.iter().all(allowed) {
        return Err(crate::Error::InvalidField("host name"));
    }
    String::from_utf8(bytes.to_vec()).map_err(|_| crate::Error::InvalidField("host name"))
}

impl fmt::Display for HostPort {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.host {
            Host::Ip(IpAddr::V6(v6)) => write!(f, "[{v6}]:{}", self.port),
            Host::Ip(ip) => write!(f, "{ip}:{}", self.port),
            Host::Name(name) => write!(f, "{name}:{}", self.port),
        }
    }
}

impl FromStr for HostPort {
    type Err = crate::Error;

    /// `HOST:PORT`, `IPV4:PORT`, or `[IPV6]:PORT`. Port 0 is refused.
    fn from_str(text: &str) -> Result<HostPort, crate::Error> {
        let invalid = crate::Error::InvalidField("endpoint");
        let (host, port) = text.rsplit_once(':').ok_or(invalid)?;
        let digits = port.bytes().all(|byte| byte.is_ascii_digit());
        let port = port.parse().ok().filter(|port| digits && *port != 0).ok_or(invalid)?;
        let host = if let Some(v6) = host.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')) {
            Host::Ip(IpAddr::V6(v6.parse().map_err(|_| invalid)?))
        } else if let Ok(v4) = host.parse::<Ipv4Addr>() {
            Host::Ip(IpAddr::V4(v4))
        } else {
            Host::Name(host_name(host.as_bytes())?)
        };
        Ok(HostPort { host, port })
    }
}
