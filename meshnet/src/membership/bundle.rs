//! The trust bundle: which root keys a mesh trusts, and the chain of signed versions that leads there from the mesh id.
//!
//! The mesh id is a hash of version 1, so whoever knows the id needs to trust nobody for the rest. Version n+1 is signed by
//! a threshold of version n's roots and by a threshold of its own; the recovery key of version n can stand in for
//! version n's roots where those are lost or stolen. Versions follow each other without gaps, and each names the hash of
//! the one before.
//!
//! Whoever has stolen a root can sign a next version as well as its owner. So that the owner has the last word, a version
//! signed by the recovery key takes the place of another of the same number that was not, with all that followed it; and
//! only the recovery key can name another recovery key.

use std::collections::BTreeSet;

use blake2::{Blake2s256, Digest};
use proto::bundle::{BundleSignature, MAX_ROOTS, SignedBundle, TrustBundle};
use proto::id::{IdentityKey, MeshId, Name};

use super::secret::{AuthoritySecret, verify};

/// Bound on the versions of one mesh's bundle: two for each rotation of its authority.
pub const MAX_VERSIONS: usize = 1024;

/// The name of a root key in certificates and signatures: the first 8 bytes of its BLAKE2s-256.
pub fn root_key_id(root: &IdentityKey) -> [u8; 8] {
    let hash = Blake2s256::digest(root.0);
    std::array::from_fn(|i| hash[i])
}

/// All versions of a mesh's trust bundle, each verified against the one before.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct TrustChain {
    /// Never empty; version n is at n-1.
    versions: Vec<SignedBundle>,
}

/// What [`TrustChain::extend`] did.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Extended {
    /// The version is the new current one.
    Added,
    /// The chain has it.
    Known,
    /// The version, signed by the recovery key, took the place of one that was not, and of those after it.
    Replaced,
}

/// Why a version of a trust bundle is refused.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
pub enum BundleError {
    /// There is no version at all.
    #[error("the chain of trust bundles is empty")]
    Empty,
    /// The first version of a chain is not version 1.
    #[error("the chain of trust bundles does not begin with version 1")]
    NotFirst,
    /// Version 1 does not hash to the mesh id.
    #[error("trust bundle version 1 is not that of the mesh")]
    MeshIdMismatch,
    /// The bundle is of another mesh.
    #[error("the trust bundle is of another mesh")]
    WrongMesh,
    /// The roots are none, too many, repeated, or fewer than the threshold, or the threshold is zero.
    #[error("the trust bundle's roots and threshold make no sense")]
    BadRoots,
    /// A version between is missing.
    #[error("trust bundle version {got} does not follow version {have}")]
    Gap {
        /// The newest version here.
        have: u32,
        /// The version offered.
        got: u32,
    },
    /// It does not name the hash of the version before.
    #[error("the trust bundle does not build on the version before")]
    WrongPrevious,
    /// Another bundle of the same version is known: the authority has signed a fork.
    #[error("two different trust bundles of version {0} exist")]
    Fork(
        /// The version.
        u32,
    ),
    /// Too few of the roots before it signed it, and the recovery key did not either.
    #[error("the trust bundle is not signed by enough roots of the version before")]
    OldThreshold,
    /// Too few of its own roots signed it.
    #[error("the trust bundle is not signed by enough of its own roots")]
    NewThreshold,
    /// It names another recovery key, and the one before did not sign it.
    #[error("the trust bundle changes the recovery key without its signature")]
    RecoveryChanged,
    /// It does not fit into a bundle.
    #[error("the trust bundle is too long")]
    TooLong,
    /// The chain holds [`MAX_VERSIONS`].
    #[error("the mesh has had too many trust bundles")]
    TooMany,
}

impl TrustChain {
    /// Begins a chain with version 1, which makes its own mesh id.
    ///
    /// # Errors
    /// [`BundleError`] where it is not a version 1, does not hash to the mesh id it names, or lacks signatures.
    pub fn begin(first: SignedBundle) -> Result<Self, BundleError> {
        let bundle = first.body();
        if bundle.version != 1 || bundle.previous.is_some() {
            return Err(BundleError::NotFirst);
        }
        check_roots(bundle)?;
        if first.mesh_id_of_first() != bundle.mesh {
            return Err(BundleError::MeshIdMismatch);
        }
        if signers(&first, &bundle.roots) < usize::from(bundle.threshold) {
            return Err(BundleError::NewThreshold);
        }
        Ok(Self { versions: vec![first] })
    }

    /// Verifies the whole chain of the mesh `mesh`, from version 1 up.
    ///
    /// # Errors
    /// [`BundleError`] of the first version that does not verify.
    pub fn verify(
        mesh: MeshId,
        versions: impl IntoIterator<Item = SignedBundle>,
    ) -> Result<Self, BundleError> {
        let mut versions = versions.into_iter();
        let first = versions.next().ok_or(BundleError::Empty)?;
        if first.body().mesh != mesh {
            return Err(BundleError::WrongMesh);
        }
        let mut chain = Self::begin(first)?;
        for version in versions {
            chain.extend(version)?;
        }
        Ok(chain)
    }

    /// Adds the next version.
    ///
    /// # Errors
    /// [`BundleError`]; the chain is unchanged then. [`BundleError::Fork`] is an alarm.
    pub fn extend(&mut self, next: SignedBundle) -> Result<Extended, BundleError> {
        let (have, bundle) = (self.current(), next.body());
        if bundle.mesh != have.mesh {
            return Err(BundleError::WrongMesh);
        }
        let gap = BundleError::Gap { have: have.version, got: bundle.version };
        let index = (bundle.version as usize).checked_sub(1).ok_or(gap)?;
        if let Some(known) = self.versions.get(index) {
            if known.hash() == next.hash() {
                return Ok(Extended::Known);
            }
            let before = index.checked_sub(1).and_then(|before| self.versions.get(before));
            let before = before.ok_or(BundleError::MeshIdMismatch)?;
            // Only a bundle that would have been accepted in place of the known one proves a fork.
            check_successor(before, &next)?;
            if is_by_recovery(before, known) || !is_by_recovery(before, &next) {
                return Err(BundleError::Fork(bundle.version));
            }
            self.versions.truncate(index);
            self.versions.push(next);
            return Ok(Extended::Replaced);
        }
        if index > self.versions.len() {
            return Err(gap);
        }
        if self.versions.len() >= MAX_VERSIONS {
            return Err(BundleError::TooMany);
        }
        check_successor(self.newest(), &next)?;
        self.versions.push(next);
        Ok(Extended::Added)
    }

    /// The newest version's content.
    pub fn current(&self) -> &TrustBundle {
        self.newest().body()
    }

    /// The mesh that the chain belongs to.
    pub fn mesh(&self) -> MeshId {
        self.current().mesh
    }

    /// The newest version's number.
    pub fn version(&self) -> u32 {
        self.current().version
    }

    /// The versions after `version`, ascending, for a node that has come up to that one; all for 0.
    pub fn after(&self, version: u32) -> &[SignedBundle] {
        self.versions.get(version as usize..).unwrap_or(&[])
    }

    /// The root key of the newest version that `id` names.
    pub fn root(&self, id: &[u8; 8]) -> Option<&IdentityKey> {
        self.current().roots.iter().find(|root| root_key_id(root) == *id)
    }

    /// The root key that `id` names, in the newest version or any before: for what was verified when that was trusted, and
    /// has been kept since.
    pub(super) fn root_ever(&self, id: &[u8; 8]) -> Option<&IdentityKey> {
        self.versions.iter().rev().flat_map(|one| &one.body().roots).find(|root| root_key_id(root) == *id)
    }

    /// The version since which `root` is trusted without a break; `None` if it is not.
    pub fn trusted_since(&self, root: &IdentityKey) -> Option<u32> {
        let newest_first = self.versions.iter().rev();
        newest_first.take_while(|one| one.body().roots.contains(root)).last().map(|one| one.body().version)
    }

    /// Whether the recovery key has signed version `version`.
    pub fn is_by_recovery(&self, version: u32) -> bool {
        let index = version as usize;
        let (Some(before), Some(one)) = (index.checked_sub(2), index.checked_sub(1)) else { return false };
        match (self.versions.get(before), self.versions.get(one)) {
            (Some(before), Some(one)) => is_by_recovery(before, one),
            _ => false,
        }
    }

    /// The newest version that the recovery key has signed, and those after it: they convince whoever follows a fork.
    pub fn since_recovery(&self) -> &[SignedBundle] {
        let newest = (2..=self.version()).rev().find(|version| self.is_by_recovery(*version));
        newest.map_or(&[], |version| self.after(version - 1))
    }

    fn newest(&self) -> &SignedBundle {
        self.versions.last().expect("a chain begins with a version and never loses one")
    }
}

/// Content of a mesh's first bundle.
#[derive(Clone, Debug)]
pub struct Founding {
    /// The mesh's name.
    pub name: Name,
    /// Public half of the recovery key, whose secret is written down and kept away.
    pub recovery: IdentityKey,
    /// The network that members' IPv4 addresses come from.
    pub network4: Option<ipnet::Ipv4Net>,
    /// Unix seconds.
    pub created_s: u64,
}

/// Makes version 1 of a mesh's bundle, trusting and signed by all of `roots`, of which `threshold` must sign later ones.
///
/// # Errors
/// [`BundleError::BadRoots`] where roots and threshold make no sense.
pub fn found(
    founding: Founding,
    roots: &[&AuthoritySecret],
    threshold: u8,
) -> Result<TrustChain, BundleError> {
    let mut bundle = TrustBundle {
        mesh: MeshId([0; 16]),
        version: 1,
        name: founding.name,
        roots: roots.iter().map(|root| root.public()).collect(),
        threshold,
        recovery: founding.recovery,
        network4: founding.network4,
        created_s: founding.created_s,
        previous: None,
    };
    check_roots(&bundle)?;
    bundle.mesh = bundle.mesh_id_of_first();
    TrustChain::begin(sign(bundle, roots)?)
}

/// Makes the version after the newest of `chain`, signed by `signers`: the old roots or the recovery key, and the new
/// roots. `change` edits a copy of the newest version's content.
///
/// # Errors
/// [`BundleError`] where the result would not verify.
pub fn succeed(
    chain: &TrustChain,
    signers: &[&AuthoritySecret],
    created_s: u64,
    change: impl FnOnce(&mut TrustBundle),
) -> Result<SignedBundle, BundleError> {
    let mut bundle = chain.current().clone();
    change(&mut bundle);
    bundle.mesh = chain.mesh();
    bundle.version = chain.version().saturating_add(1);
    bundle.created_s = created_s;
    bundle.previous = Some(chain.newest().hash());
    check_roots(&bundle)?;
    let signed = sign(bundle, signers)?;
    chain.clone().extend(signed.clone())?;
    Ok(signed)
}

fn sign(bundle: TrustBundle, signers: &[&AuthoritySecret]) -> Result<SignedBundle, BundleError> {
    let mut signed = SignedBundle::unsigned(bundle).map_err(|_| BundleError::TooLong)?;
    let message = signed.signing_bytes();
    for signer in signers {
        let signature = signer.sign_bytes(&message);
        signed.add_signature(BundleSignature { key: signer.key_id(), signature });
    }
    Ok(signed)
}

fn check_roots(bundle: &TrustBundle) -> Result<(), BundleError> {
    let distinct: BTreeSet<_> = bundle.roots.iter().map(root_key_id).collect();
    let sound = (1..=MAX_ROOTS).contains(&bundle.roots.len())
        && distinct.len() == bundle.roots.len()
        && (1..=bundle.roots.len()).contains(&usize::from(bundle.threshold));
    if sound { Ok(()) } else { Err(BundleError::BadRoots) }
}

fn check_successor(before: &SignedBundle, next: &SignedBundle) -> Result<(), BundleError> {
    let (old, new) = (before.body(), next.body());
    check_roots(new)?;
    if new.mesh != old.mesh {
        return Err(BundleError::WrongMesh);
    }
    if new.previous != Some(before.hash()) {
        return Err(BundleError::WrongPrevious);
    }
    let enough_old = signers(next, &old.roots) >= usize::from(old.threshold);
    if !enough_old && !is_by_recovery(before, next) {
        return Err(BundleError::OldThreshold);
    }
    if signers(next, &new.roots) < usize::from(new.threshold) {
        return Err(BundleError::NewThreshold);
    }
    if new.recovery != old.recovery && !is_by_recovery(before, next) {
        return Err(BundleError::RecoveryChanged);
    }
    Ok(())
}

fn is_by_recovery(before: &SignedBundle, next: &SignedBundle) -> bool {
    signers(next, std::slice::from_ref(&before.body().recovery)) == 1
}

/// How many of the distinct keys `roots` have signed `bundle`.
fn signers(bundle: &SignedBundle, roots: &[IdentityKey]) -> usize {
    let message = bundle.signing_bytes();
    let signed = |root: &&IdentityKey| {
        let id = root_key_id(root);
        bundle
            .signatures()
            .iter()
            .any(|made| made.key == id && verify(root, &message, &made.signature).is_ok())
    };
    roots.iter().filter(signed).count()
}
