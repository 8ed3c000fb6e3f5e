//! Endpoints and candidates.
//!
//! ```text
//! endpoint  | family 1 (4 or 6) | address 4 or 16 | port 2 |
//! candidate | kind 1 | endpoint |
//! ```

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use crate::Error;
use crate::codec::{Reader, Writer};

/// Most candidates in one list.
pub const MAX_CANDIDATES: usize = 16;

/// Reads an endpoint.
pub fn parse_endpoint(reader: &mut Reader<'_>) -> Result<SocketAddr, Error> {
    let ip = match reader.u8()? {
        4 => IpAddr::V4(Ipv4Addr::from(reader.array::<4>()?)),
        6 => IpAddr::V6(Ipv6Addr::from(reader.array::<16>()?)),
        _ => return Err(Error::InvalidField("address family")),
    };
    Ok(SocketAddr::new(ip, reader.u16()?))
}

/// Appends an endpoint. An IPv6 scope or flow label is not carried.
pub fn emit_endpoint(endpoint: &SocketAddr, out: &mut Vec<u8>) {
    match endpoint.ip() {
        IpAddr::V4(v4) => {
            out.put_u8(4);
            out.put(&v4.octets());
        }
        IpAddr::V6(v6) => {
            out.put_u8(6);
            out.put(&v6.octets());
        }
    }
    out.put_u16(endpoint.port());
}

/// How a node knows of one of its endpoints.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
#[repr(u8)]
pub enum CandidateKind {
    /// An address of one of its interfaces.
    Interface = 0,
    /// Configured.
    Configured = 1,
    /// Another member saw its datagrams come from there.
    Reflexive = 2,
    /// Mapped by a gateway (UPnP, NAT-PMP, PCP).
    Mapped = 3,
    /// It listens there on TCP ([`crate::stream`]).
    Tcp = 4,
    /// It listens there on TCP, with TLS around the stream.
    Tls = 5,
}

impl CandidateKind {
    /// Whether it is reached by a stream rather than by datagrams.
    pub fn is_stream(self) -> bool {
        matches!(self, CandidateKind::Tcp | CandidateKind::Tls)
    }
}

/// An endpoint where a node may be reached.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct Candidate {
    /// How the node knows of it.
    pub kind: CandidateKind,
    /// Where.
    pub endpoint: SocketAddr,
}

impl Candidate {
    /// Reads a candidate. A kind that this build does not know counts as reflexive: worth a try.
    pub fn parse(reader: &mut Reader<'_>) -> Result<Candidate, Error> {
        let kind = match reader.u8()? {
            0 => CandidateKind::Interface,
            1 => CandidateKind::Configured,
            3 => CandidateKind::Mapped,
            4 => CandidateKind::Tcp,
            5 => CandidateKind::Tls,
            _ => CandidateKind::Reflexive,
        };
        Ok(Candidate { kind, endpoint: parse_endpoint(reader)? })
    }

    /// Appends the candidate.
    pub fn emit(&self, out: &mut Vec<u8>) {
        out.put_u8(self.kind as u8);
        emit_endpoint(&self.endpoint, out);
    }
}

/// Reads a list of candidates: a count in one byte and that many.
pub fn parse_candidates(reader: &mut Reader<'_>) -> Result<Vec<Candidate>, Error> {
    let count = usize::from(reader.u8()?);
    if count > MAX_CANDIDATES {
        return Err(Error::TooLong("candidates"));
    }
    (0..count).map(|_| Candidate::parse(reader)).collect()
}

/// Appends a list of candidates; those over [`MAX_CANDIDATES`] are left out.
pub fn emit_candidates(candidates: &[Candidate], out: &mut Vec<u8>) {
    let count = candidates.len().min(MAX_CANDIDATES);
    out.put_u8(count as u8);
    candidates[..count].iter().for_each(|candidate| candidate.emit(out));
}
