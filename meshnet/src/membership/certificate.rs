//! Certificates: checking that a root, or a member whom a root made an issuer, vouches for a member.
//!
//! Time is looked at apart from trust: a certificate that verifies once verifies for as long as its root is trusted, and
//! [`Validity`] tells what the clock says about it.

use std::net::IpAddr;

use blake2::{Blake2s256, Digest};
use ipnet::IpNet;
use proto::bundle::TrustBundle;
use proto::certificate::{Certificate, Issuer, IssuerConstraints, Roles};
use proto::id::{IdentityKey, MemberId};
use proto::signed::Signed;

use super::address::{is_host_of, member_address6, member_network6};
use super::bundle::TrustChain;
use super::secret::verify_signed;
use crate::time::UnixMs;

/// How long a certificate is still honoured after its end, with a loud status, so that a mesh whose issuers were away
/// does not fall apart. Theft is answered by revocation, not by expiry.
pub const GRACE_S: u64 = 14 * 24 * 3600;

/// How far clocks of members may be apart.
pub const CLOCK_TOLERANCE_S: u64 = 600;

/// The id of the member with an identity key: the first 16 bytes of a hash over it. So an id can never come to mean
/// another key, whatever an issuer signs.
pub fn member_id(identity: &IdentityKey) -> MemberId {
    let hash = Blake2s256::new().chain_update(b"meshnet member").chain_update(identity.0).finalize();
    MemberId(std::array::from_fn(|i| hash[i]))
}

/// What the clock says about a certificate.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Validity {
    /// Its time has not come, even for clocks that are [`CLOCK_TOLERANCE_S`] apart.
    NotYet,
    /// Within its time.
    Valid,
    /// Over, by less than [`GRACE_S`]: honoured, but to be renewed at once.
    Grace,
    /// Over for good.
    Expired,
}

impl Validity {
    /// Judges `certificate` at the time `wall`.
    pub fn of(certificate: &Certificate, wall: UnixMs) -> Self {
        let now_s = wall.seconds();
        if now_s.saturating_add(CLOCK_TOLERANCE_S) < certificate.not_before_s {
            Self::NotYet
        } else if now_s <= certificate.not_after_s {
            Self::Valid
        } else if now_s <= certificate.not_after_s.saturating_add(GRACE_S) {
            Self::Grace
        } else {
            Self::Expired
        }
    }

    /// The moments at which the clock changes what it says about `certificate`.
    pub fn changes(certificate: &Certificate) -> impl Iterator<Item = UnixMs> {
        let begin_s = certificate.not_before_s.saturating_sub(CLOCK_TOLERANCE_S);
        let grace_s = certificate.not_after_s.saturating_add(1);
        [begin_s, grace_s, grace_s.saturating_add(GRACE_S)]
            .into_iter()
            .map(|s| UnixMs(s.saturating_mul(1000)))
    }

    /// Whether the member may take part.
    pub fn is_honoured(self) -> bool {
        matches!(self, Self::Valid | Self::Grace)
    }
}

/// Why a certificate is refused.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
pub enum CertificateError {
    /// It is of another mesh.
    #[error("the certificate is of another mesh")]
    WrongMesh,
    /// The member id is not that of the identity key.
    #[error("the certificate names a key that is not its member's")]
    WrongIdentity,
    /// It ends before it begins.
    #[error("the certificate's time is empty")]
    EmptyTime,
    /// An address is none that the mesh gives to a member.
    #[error("the address {0} is none of the mesh's")]
    BadAddress(IpAddr),
    /// A prefix takes everything, or is no unicast prefix, or has bits behind its length.
    #[error("the prefix {0} cannot be announced")]
    BadPrefix(IpNet),
    /// Only issuers have constraints.
    #[error("the certificate has constraints without the role of an issuer")]
    StrayConstraints,
    /// No root of the current bundle has the named key.
    #[error("the certificate is by a root that is not trusted")]
    UnknownRoot,
    /// The certificate of the member who issued it is not known.
    #[error("the certificate of the issuer is not known")]
    UnknownIssuer,
    /// The member who issued it is no issuer.
    #[error("the certificate is by a member that is no issuer")]
    NotIssuer,
    /// Its issuer was made an issuer by another issuer; only a root can.
    #[error("the issuer's own certificate is not by a root")]
    ChainTooLong,
    /// It was issued after its issuer's own certificate ended.
    #[error("the certificate was issued when its issuer's own had ended")]
    IssuedTooLate,
    /// It is valid for longer than its issuer may certify.
    #[error("the certificate is valid for longer than its issuer may certify")]
    LifetimeTooLong,
    /// It gives roles that its issuer lacks, or makes an issuer.
    #[error("the certificate gives roles that its issuer may not give")]
    RolesNotAllowed,
    /// Its issuer may not certify this name.
    #[error("the issuer may not certify this name")]
    NameNotAllowed,
    /// Its issuer may not certify this address or prefix.
    #[error("the issuer may not certify {0}")]
    PrefixNotAllowed(IpNet),
    /// The signature is wrong.
    #[error("the certificate's signature does not verify")]
    BadSignature,
}

/// A certificate that a root of the mesh, or an issuer within its constraints, has signed. Whether it has expired or was
/// revoked is another question.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct VerifiedCertificate {
    signed: Signed<Certificate>,
}

impl VerifiedCertificate {
    /// Verifies `signed` against the newest trust bundle. `issuer` is the certificate of the member that issued it, where a
    /// member did; any later certificate of the issuer serves as well as the one named, so that the old one can be
    /// forgotten when it is renewed.
    ///
    /// # Errors
    /// [`CertificateError`]: the first thing found wrong, the signature last because it costs the most.
    pub fn verify(
        trust: &TrustChain,
        signed: Signed<Certificate>,
        issuer: Option<&VerifiedCertificate>,
    ) -> Result<Self, CertificateError> {
        Self::verify_by(trust, TrustChain::root, signed, issuer)
    }

    /// As [`VerifiedCertificate::verify`], for one that verified once and was kept on this node's disk: its root may have
    /// been replaced since.
    ///
    /// # Errors
    /// [`CertificateError`].
    pub fn verify_kept(
        trust: &TrustChain,
        signed: Signed<Certificate>,
        issuer: Option<&VerifiedCertificate>,
    ) -> Result<Self, CertificateError> {
        Self::verify_by(trust, TrustChain::root_ever, signed, issuer)
    }

    fn verify_by(
        trust: &TrustChain,
        root: impl for<'a> Fn(&'a TrustChain, &[u8; 8]) -> Option<&'a IdentityKey>,
        signed: Signed<Certificate>,
        issuer: Option<&VerifiedCertificate>,
    ) -> Result<Self, CertificateError> {
        let certificate = signed.body();
        check_content(trust.current(), certificate)?;
        let key = match &certificate.issuer {
            Issuer::Root(id) => root(trust, id).ok_or(CertificateError::UnknownRoot)?,
            Issuer::Member(member, serial) => {
                let issuer = issuer.ok_or(CertificateError::UnknownIssuer)?.body();
                if issuer.member != *member || issuer.serial < *serial || issuer.mesh != certificate.mesh {
                    return Err(CertificateError::UnknownIssuer);
                }
                check_delegation(certificate, issuer)?;
                &issuer.identity
            }
        };
        verify_signed(key, &signed).map_err(|_| CertificateError::BadSignature)?;
        Ok(Self { signed })
    }

    /// The content.
    pub fn body(&self) -> &Certificate {
        self.signed.body()
    }

    /// The certificate as signed.
    pub fn signed(&self) -> &Signed<Certificate> {
        &self.signed
    }

    /// What the clock says.
    pub fn validity(&self, wall: UnixMs) -> Validity {
        Validity::of(self.body(), wall)
    }

    /// Whether a root signed it, and not a member.
    pub fn is_by_root(&self) -> bool {
        matches!(self.body().issuer, Issuer::Root(_))
    }

    /// The member's overlay addresses: the certified ones, then the derived IPv6 address.
    pub fn addresses(&self) -> impl Iterator<Item = IpAddr> + '_ {
        let certificate = self.body();
        let derived = IpAddr::V6(member_address6(certificate.mesh, certificate.member));
        certificate.addresses.iter().copied().filter(move |address| *address != derived).chain([derived])
    }

    /// Whether the member may announce `prefix`: one of its certified prefixes holds all of it.
    pub fn may_announce(&self, prefix: &IpNet) -> bool {
        self.body().prefixes.iter().any(|certified| certified.contains(prefix))
    }
}

/// Checks what does not depend on who signed.
fn check_content(bundle: &TrustBundle, certificate: &Certificate) -> Result<(), CertificateError> {
    if certificate.mesh != bundle.mesh {
        return Err(CertificateError::WrongMesh);
    }
    if member_id(&certificate.identity) != certificate.member {
        return Err(CertificateError::WrongIdentity);
    }
    if certificate.not_before_s >= certificate.not_after_s {
        return Err(CertificateError::EmptyTime);
    }
    if certificate.constraints.is_some() && !certificate.roles.contains(Roles::ISSUER) {
        return Err(CertificateError::StrayConstraints);
    }
    for address in &certificate.addresses {
        let good = match address {
            IpAddr::V4(v4) => bundle.network4.is_some_and(|network| is_host_of(network, *v4)),
            // Addresses beside the derived one must not be what another member derives.
            IpAddr::V6(v6) => {
                is_unicast(address)
                    && (!member_network6(bundle.mesh).contains(v6)
                        || *v6 == member_address6(bundle.mesh, certificate.member))
            }
        };
        if !good {
            return Err(CertificateError::BadAddress(*address));
        }
    }
    for prefix in &certificate.prefixes {
        if prefix.trunc() != *prefix || !(prefix.prefix_len() == 0 || is_unicast(&prefix.network())) {
            return Err(CertificateError::BadPrefix(*prefix));
        }
    }
    Ok(())
}

/// Checks that `issuer` may issue `certificate`.
pub(super) fn check_delegation(
    certificate: &Certificate,
    issuer: &Certificate,
) -> Result<(), CertificateError> {
    if !matches!(issuer.issuer, Issuer::Root(_)) {
        return Err(CertificateError::ChainTooLong);
    }
    if !issuer.roles.contains(Roles::ISSUER) {
        return Err(CertificateError::NotIssuer);
    }
    if certificate.not_before_s > issuer.not_after_s.saturating_add(GRACE_S) {
        return Err(CertificateError::IssuedTooLate);
    }
    if certificate.roles.contains(Roles::ISSUER) || !issuer.roles.contains(certificate.roles) {
        return Err(CertificateError::RolesNotAllowed);
    }
    let Some(constraints) = &issuer.constraints else { return Ok(()) };
    if certificate.not_after_s - certificate.not_before_s > u64::from(constraints.max_lifetime_s) {
        return Err(CertificateError::LifetimeTooLong);
    }
    check_names_and_prefixes(certificate, constraints)
}

fn is_unicast(address: &IpAddr) -> bool {
    !address.is_multicast() && !address.is_loopback() && !address.is_unspecified()
}

/// Checks what an issuer's own certificate says about names, addresses, and prefixes.
fn check_names_and_prefixes(
    certificate: &Certificate,
    constraints: &IssuerConstraints,
) -> Result<(), CertificateError> {
    if !certificate.name.as_str().ends_with(constraints.name_suffix.as_str()) {
        return Err(CertificateError::NameNotAllowed);
    }
    // Without a list of prefixes an issuer gives addresses of the mesh's network, which are checked already, and no more.
    if !constraints.prefixes.is_empty() {
        for address in &certificate.addresses {
            check_within(IpNet::from(*address), constraints)?;
        }
    }
    certificate.prefixes.iter().try_for_each(|prefix| check_within(*prefix, constraints))
}

fn check_within(prefix: IpNet, constraints: &IssuerConstraints) -> Result<(), CertificateError> {
    let within = constraints.prefixes.iter().any(|allowed| allowed.contains(&prefix));
    if within { Ok(()) } else { Err(CertificateError::PrefixNotAllowed(prefix)) }
}
