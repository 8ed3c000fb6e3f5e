//! A node as its state directory tells it: who it is, and how it may prove it.

use meshnet::membership::{
    AuthoritySecret, BundleError, CertificateError, IdentitySecret, Membership, TrustChain,
    VerifiedCertificate,
};
use meshnet::node::import_revocations;
use meshnet::time::UnixMs;
use proto::bundle::SignedBundle;
use proto::certificate::Certificate;
use proto::id::IdentityKey;
use proto::signed::{ObjectKind, Signed};
use zeroize::Zeroizing;

use super::{Error, Kind, StateDir};

/// The state of a member, read and checked against itself.
pub struct Home {
    /// Where it lives.
    pub state: StateDir,
    /// Its identity.
    pub identity: IdentitySecret,
    /// The trust bundles up to the newest.
    pub chain: TrustChain,
    /// Its certificate.
    pub certificate: VerifiedCertificate,
    /// The certificate of who issued it, if that was a member.
    pub issuer: Option<VerifiedCertificate>,
}

/// Why the files of a state directory do not make a member.
#[derive(Debug, thiserror::Error)]
pub enum HomeError {
    /// One of them cannot be read.
    #[error(transparent)]
    State(#[from] Error),
    /// The trust chain does not verify.
    #[error("the trust chain in {path} does not verify")]
    Chain {
        /// The file.
        path: std::path::PathBuf,
        /// Why.
        source: BundleError,
    },
    /// The certificate does not verify.
    #[error("the certificate in {path} does not verify")]
    Certificate {
        /// The file.
        path: std::path::PathBuf,
        /// Why.
        source: CertificateError,
    },
    /// The certificate is for another identity.
    #[error("{certificate} is not for the key in {identity}: they come from different nodes or backups")]
    Mixed {
        /// The certificate's file.
        certificate: std::path::PathBuf,
        /// The key's file.
        identity: std::path::PathBuf,
    },
}

impl Home {
    /// Reads the member that lives in `state`.
    ///
    /// # Errors
    /// [`HomeError`]; [`Error::Empty`] if none lives there.
    pub fn load(state: StateDir) -> Result<Home, HomeError> {
        let identity = IdentitySecret::from_bytes(&*state.secret(Kind::Identity)?);
        if !state.has(Kind::Certificate) && state.has(Kind::Pending) {
            return Err(Error::Empty(state.path().to_owned()).into());
        }
        let chain = load_chain(&state)?;
        let (certificate, issuer) = load_certificate(&state, &chain)?;
        if certificate.body().identity != identity.public() {
            return Err(HomeError::Mixed {
                certificate: state.file(Kind::Certificate),
                identity: state.file(Kind::Identity),
            });
        }
        Ok(Home { state, identity, chain, certificate, issuer })
    }

    /// The mesh's authority, if its key is kept here.
    ///
    /// # Errors
    /// As [`StateDir::read`].
    pub fn authority(&self) -> Result<Option<AuthoritySecret>, Error> {
        if !self.state.has(Kind::Authority) {
            return Ok(None);
        }
        let secret = AuthoritySecret::from_bytes(&*self.state.secret(Kind::Authority)?);
        Ok(self.chain.root(&secret.key_id()).is_some().then_some(secret))
    }

    /// The mesh's gate key.
    ///
    /// # Errors
    /// As [`StateDir::require`].
    pub fn gate(&self) -> Result<Zeroizing<[u8; 32]>, Error> {
        self.state.secret(Kind::Gate)
    }

    /// The members known from the disk: this one, and those of the cache.
    ///
    /// # Errors
    /// As [`StateDir::read`]. What is in the cache and does not verify is left out.
    pub fn membership(&self, wall: UnixMs) -> Result<Membership, Error> {
        let mut membership = Membership::new(self.chain.clone());
        import_revocations(&mut membership, wall, &self.state.objects(Kind::Revocations)?);
        let issuer = self.issuer.as_ref().map(|issuer| issuer.signed().clone());
        // The own certificate verified on loading; it is refused here only if it has been revoked.
        let _ = membership.keep_certificate(wall, self.certificate.signed().clone(), issuer);
        let cached: Vec<Signed<Certificate>> = self
            .state
            .objects(Kind::Records)?
            .iter()
            .filter(|object| ObjectKind::of(object) == Some(ObjectKind::Certificate))
            .filter_map(|object| Signed::parse(object).ok())
            .collect();
        // Issuers first: what they issued verifies only after them.
        let (by_root, by_member): (Vec<_>, Vec<_>) = cached
            .into_iter()
            .partition(|signed| matches!(signed.body().issuer, proto::certificate::Issuer::Root(_)));
        for signed in by_root.into_iter().chain(by_member) {
            let _ = membership.keep_certificate(wall, signed, None);
        }
        Ok(membership)
    }

    /// The identity key's public half.
    pub fn identity_key(&self) -> IdentityKey {
        self.identity.public()
    }
}

fn load_chain(state: &StateDir) -> Result<TrustChain, HomeError> {
    state.require(Kind::Chain)?;
    let bundles: Option<Vec<SignedBundle>> =
        state.objects(Kind::Chain)?.iter().map(|bytes| SignedBundle::parse(bytes).ok()).collect();
    let bundles = bundles.filter(|list| !list.is_empty()).ok_or_else(|| state.nonsense(Kind::Chain))?;
    let mesh = bundles[0].body().mesh;
    TrustChain::verify(mesh, bundles)
        .map_err(|source| HomeError::Chain { path: state.file(Kind::Chain), source })
}

fn load_certificate(
    state: &StateDir,
    chain: &TrustChain,
) -> Result<(VerifiedCertificate, Option<VerifiedCertificate>), HomeError> {
    state.require(Kind::Certificate)?;
    let objects = state.objects(Kind::Certificate)?;
    let mut parsed = objects.iter().map(|bytes| Signed::<Certificate>::parse(bytes).ok());
    let nonsense = || state.nonsense(Kind::Certificate);
    let own = parsed.next().flatten().ok_or_else(nonsense)?;
    let issuer = parsed.next().map(|issuer| issuer.ok_or_else(nonsense)).transpose()?;
    let refused = |source| HomeError::Certificate { path: state.file(Kind::Certificate), source };
    // The authority may have been replaced since it was written: the new certificate then comes from the others.
    let issuer = issuer
        .map(|issuer| VerifiedCertificate::verify_kept(chain, issuer, None))
        .transpose()
        .map_err(refused)?;
    let own = VerifiedCertificate::verify_kept(chain, own, issuer.as_ref()).map_err(refused)?;
    Ok((own, issuer))
}
