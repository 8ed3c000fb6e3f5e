//! Issuing certificates.

use std::net::IpAddr;

use ipnet::IpNet;
use proto::certificate::{Certificate, Issuer, IssuerConstraints, MAX_ADDRESSES, MAX_PREFIXES, Roles};
use proto::id::{IdentityKey, Name, Serial};

use super::bundle::TrustChain;
use super::certificate::{CLOCK_TOLERANCE_S, CertificateError, VerifiedCertificate, member_id};
use super::secret::{AuthoritySecret, IdentitySecret};
use crate::time::UnixMs;

/// Lifetime of a certificate where nothing else is asked for.
pub const DEFAULT_LIFETIME_S: u64 = 90 * 24 * 3600;

/// What a certificate is to say.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Request {
    /// The member's identity key, which makes its id.
    pub identity: IdentityKey,
    /// The member's name within the mesh.
    pub name: Name,
    /// Overlay addresses beside the derived IPv6 address, at most [`MAX_ADDRESSES`].
    pub addresses: Vec<IpAddr>,
    /// Prefixes that the member may announce, at most [`MAX_PREFIXES`].
    pub prefixes: Vec<IpNet>,
    /// Roles of the member.
    pub roles: Roles,
    /// What the member may certify in turn, if it is to be an issuer.
    pub constraints: Option<IssuerConstraints>,
    /// Seconds from now to the end.
    pub lifetime_s: u64,
}

impl Request {
    /// All that `old` says, for as long again.
    pub fn again(old: &Certificate) -> Request {
        Request {
            identity: old.identity,
            name: old.name.clone(),
            addresses: old.addresses.clone(),
            prefixes: old.prefixes.clone(),
            roles: old.roles,
            constraints: old.constraints.as_deref().cloned(),
            lifetime_s: old.not_after_s - old.not_before_s,
        }
    }
}

/// Who signs.
pub enum Signer<'a> {
    /// A root of the mesh.
    Root(&'a AuthoritySecret),
    /// A member with the role of an issuer.
    Member {
        /// Its identity key.
        secret: &'a IdentitySecret,
        /// Its certificate.
        certificate: &'a VerifiedCertificate,
    },
}

/// Why a certificate cannot be issued.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
pub enum IssueError {
    /// More than [`MAX_ADDRESSES`].
    #[error("more than {MAX_ADDRESSES} addresses for one member")]
    TooManyAddresses,
    /// More than [`MAX_PREFIXES`].
    #[error("more than {MAX_PREFIXES} prefixes for one member")]
    TooManyPrefixes,
    /// All of it together does not fit into a certificate.
    #[error("a certificate cannot hold this many addresses and prefixes")]
    TooLong(#[from] proto::Error),
    /// What came out would not be accepted by the members.
    #[error(transparent)]
    Refused(#[from] CertificateError),
}

/// Issues a certificate that begins now (or, against clocks that are behind, a little earlier).
///
/// `previous` is the serial of the member's certificate that this one replaces. Serials grow with time, so that the
/// newest certificate of a member is told by its serial; `salt` is a random number that keeps serials of different
/// issuers apart.
///
/// # Errors
/// [`IssueError`] where the members would refuse the result; nobody gets to see it then.
pub fn issue(
    wall: UnixMs,
    trust: &TrustChain,
    signer: &Signer<'_>,
    request: Request,
    previous: Option<Serial>,
    salt: u16,
) -> Result<VerifiedCertificate, IssueError> {
    if request.addresses.len() > MAX_ADDRESSES {
        return Err(IssueError::TooManyAddresses);
    }
    if request.prefixes.len() > MAX_PREFIXES {
        return Err(IssueError::TooManyPrefixes);
    }
    let now_s = wall.seconds();
    // Issuers bound the whole span, so what is given before now is taken from the end.
    let not_before_s = now_s.saturating_sub(CLOCK_TOLERANCE_S.min(request.lifetime_s / 2));
    let issuer = match signer {
        Signer::Root(root) => Issuer::Root(root.key_id()),
        Signer::Member { certificate, .. } => {
            Issuer::Member(certificate.body().member, certificate.body().serial)
        }
    };
    let mut prefixes: Vec<_> = request.prefixes.iter().map(IpNet::trunc).collect();
    prefixes.sort_unstable();
    prefixes.dedup();
    let certificate = Certificate {
        mesh: trust.mesh(),
        member: member_id(&request.identity),
        serial: serial(wall, previous, salt),
        identity: request.identity,
        name: request.name,
        addresses: request.addresses,
        prefixes,
        roles: request.roles,
        constraints: request.constraints.map(Box::new),
        not_before_s,
        not_after_s: not_before_s.saturating_add(request.lifetime_s),
        issuer,
    };
    let verified = match signer {
        Signer::Root(root) => VerifiedCertificate::verify(trust, root.sign(certificate)?, None),
        Signer::Member { secret, certificate: own } => {
            VerifiedCertificate::verify(trust, secret.sign(certificate)?, Some(own))
        }
    };
    Ok(verified?)
}

/// Milliseconds since the Unix epoch, then 16 random bits; above `previous` even where the clock has gone back.
fn serial(wall: UnixMs, previous: Option<Serial>, salt: u16) -> Serial {
    let by_time = (wall.0 << 16) | u64::from(salt);
    Serial(previous.map_or(by_time, |previous| by_time.max(previous.0.saturating_add(1))))
}
