//! Founding a mesh: the keys, the first trust bundle, and the first member's certificate.

use std::net::Ipv4Addr;

use ipnet::{IpNet, Ipv4Net};
use meshnet::membership::{
    AuthoritySecret, BundleError, DEFAULT_LIFETIME_S, Founding, IdentitySecret, IssueError, Request, Signer,
    TrustChain, VerifiedCertificate, found, issue,
};
use meshnet::time::UnixMs;
use proto::certificate::Roles;
use proto::id::{KeyEpochNumber, Name};
use rand::rngs::StdRng;
use rand::{Rng, RngExt};
use zeroize::Zeroizing;

use crate::state::files::{TransportKey, TransportKeys};
use crate::state::{self, Kind, StateDir};

/// The first epoch of every node's transport key.
pub const FIRST_EPOCH: KeyEpochNumber = KeyEpochNumber(1);

/// What is to be founded.
#[derive(Debug, Clone)]
pub struct Founder {
    /// The mesh's name.
    pub mesh: Name,
    /// The first member's name.
    pub name: Name,
    /// The overlay's IPv4 network.
    pub network: Ipv4Net,
    /// The first member's address in it.
    pub address: Ipv4Addr,
    /// Prefixes that the first member may announce.
    pub prefixes: Vec<IpNet>,
}

/// A mesh that is founded, but whose first member is not complete yet.
#[derive(Debug)]
pub struct Founded {
    /// The trust chain: version 1.
    pub chain: TrustChain,
    /// The first member's certificate.
    pub certificate: VerifiedCertificate,
}

/// Why a mesh could not be founded.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The trust bundle cannot be made.
    #[error(transparent)]
    Bundle(#[from] BundleError),
    /// The certificate cannot be made.
    #[error(transparent)]
    Certificate(#[from] IssueError),
    /// An object would be too long.
    #[error(transparent)]
    Format(#[from] proto::Error),
    /// Something cannot be written.
    #[error(transparent)]
    State(#[from] state::Error),
}

impl Founder {
    /// Makes all keys and writes all but the certificate to `state`, which is to be completed with
    /// [`Founded::complete`]. Until then founding again starts over.
    ///
    /// # Errors
    /// [`Error`].
    pub fn found(&self, state: &StateDir, wall: UnixMs, rng: &mut StdRng) -> Result<Founded, Error> {
        let authority = AuthoritySecret::generate(rng);
        let recovery = AuthoritySecret::generate(rng);
        let identity = IdentitySecret::generate(rng);
        let founding = Founding {
            name: self.mesh.clone(),
            recovery: recovery.public(),
            network4: Some(self.network),
            created_s: wall.seconds(),
        };
        let chain = found(founding, &[&authority], 1)?;
        let request = Request {
            identity: identity.public(),
            name: self.name.clone(),
            addresses: vec![self.address.into()],
            prefixes: self.prefixes.clone(),
            // Whether it does relay is for its configuration to say.
            roles: Roles::RELAY.union(Roles::OPERATOR),
            constraints: None,
            lifetime_s: DEFAULT_LIFETIME_S,
        };
        let certificate = issue(wall, &chain, &Signer::Root(&authority), request, None, rng.random())?;
        let transport = TransportKey::generate(rng, &identity, chain.mesh(), FIRST_EPOCH, wall.seconds())?;
        let mut gate = Zeroizing::new([0; 32]);
        rng.fill_bytes(gate.as_mut());

        state.write(Kind::Founding, self.mesh.as_str().as_bytes())?;
        state.write(Kind::Authority, &*authority.to_bytes())?;
        state.write(Kind::Recovery, &*recovery.to_bytes())?;
        state.write(Kind::Gate, &*gate)?;
        state.write(Kind::Identity, &*identity.to_bytes())?;
        TransportKeys::first(transport).save(state)?;
        state.write_objects(Kind::Chain, chain.after(0).iter().map(|bundle| bundle.to_bytes()))?;
        Ok(Founded { chain, certificate })
    }
}

impl Founded {
    /// Writes the certificate: from then on a member lives in `state`.
    ///
    /// # Errors
    /// As [`StateDir::write`].
    pub fn complete(&self, state: &StateDir) -> Result<(), state::Error> {
        state.write_objects(Kind::Certificate, [self.certificate.signed().to_bytes()])?;
        state.remove(Kind::Founding)
    }
}
