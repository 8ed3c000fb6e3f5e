//! Joining a mesh with an invitation: what the two ends tell each other inside the handshake of
//! [`meshnet::session::join`], and the two ends themselves.
//!
//! ```text
//! message 2   objects: the inviter's certificate (and its issuer's), key epoch, all trust bundles
//! message 3   identity key 32 | its signature over the handshake 64 | signed key epoch
//! welcome     gate key 32 | objects: the joiner's certificate first, its issuer's, all trust bundles, then members'
//!             certificates, key epochs, and records, so that the newcomer knows its way
//! ```
//! A list of objects is each after its length in 2 bytes.

pub mod client;
pub mod server;

use std::fmt;

use meshnet::membership::{
    BundleError, CertificateError, TrustChain, VerifiedCertificate, verify_epoch, verify_join,
};
use proto::bundle::SignedBundle;
use proto::certificate::Certificate;
use proto::id::{IdentityKey, MeshId, TransportKey};
use proto::key_epoch::KeyEpoch;
use proto::signed::{ObjectKind, Signed};
use zeroize::Zeroizing;

use crate::state::files::{emit_objects, parse_objects};

/// Why an inviter says no. It says so only to who knows the invitation.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub enum Refusal {
    /// The invitation's time is over.
    Expired = 1,
    /// Another node has used it.
    Used = 2,
    /// Its name or address has gone to another member since.
    Taken = 3,
    /// The inviter may not issue certificates any more.
    NotAnIssuer = 4,
    /// The inviter cannot write its state.
    Broken = 5,
    /// What the joiner said makes no sense to the inviter.
    Malformed = 6,
}

impl Refusal {
    /// The refusal with this code.
    pub fn of_code(code: u8) -> Option<Refusal> {
        use Refusal::{Broken, Expired, Malformed, NotAnIssuer, Taken, Used};
        [Expired, Used, Taken, NotAnIssuer, Broken, Malformed]
            .into_iter()
            .find(|refusal| *refusal as u8 == code)
    }
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Refusal::Expired => "the invitation has expired: ask for a new one",
            Refusal::Used => "the invitation has been used by another node: ask for a new one",
            Refusal::Taken => {
                "the name or address it promises has gone to another member since: ask for a new one"
            }
            Refusal::NotAnIssuer => {
                "the inviting node may not let anybody in any more: ask another one for an invitation"
            }
            Refusal::Broken => "the inviting node cannot write its state (its log says why): try again later",
            Refusal::Malformed => {
                "the inviting node does not understand this version of meshd: update the older of the two"
            }
        })
    }
}

/// Why what the other end says is not to be believed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Implausible {
    /// It cannot be parsed, or parts are missing.
    #[error("it makes no sense to this version of meshd")]
    Malformed,
    /// The trust chain is not that of the mesh.
    #[error("its trust chain is not that of the mesh in the invitation")]
    Chain(#[from] BundleError),
    /// A certificate does not verify.
    #[error("its certificate does not verify")]
    Certificate(#[from] CertificateError),
    /// It is not who the invitation names, or does not hold the keys that it should.
    #[error("it is not the node that the invitation names")]
    SomebodyElse,
}

/// What the inviter shows in message 2.
pub struct InviterProof {
    /// Its certificate.
    pub certificate: VerifiedCertificate,
    /// Its issuer's certificate, if that is a member.
    pub issuer: Option<VerifiedCertificate>,
    /// Its current key epoch.
    pub epoch: Signed<KeyEpoch>,
    /// The mesh's trust chain.
    pub chain: TrustChain,
}

impl InviterProof {
    /// The payload of message 2.
    pub fn emit(&self) -> Vec<u8> {
        let certificates = [Some(&self.certificate), self.issuer.as_ref()].into_iter().flatten();
        let mut objects: Vec<Vec<u8>> = certificates.map(|one| one.signed().to_bytes()).collect();
        objects.push(self.epoch.to_bytes());
        objects.extend(self.chain.after(0).iter().map(SignedBundle::to_bytes));
        emit_objects(objects)
    }

    /// Reads the payload of message 2 and checks that the inviter is the one with `key_hash` in `mesh`, and that its
    /// Noise key `static_key` is the one its identity vouches for.
    ///
    /// # Errors
    /// [`Implausible`].
    pub fn parse(
        payload: &[u8],
        mesh: MeshId,
        key_hash: &[u8; 16],
        static_key: &TransportKey,
    ) -> Result<InviterProof, Implausible> {
        let objects = Objects::parse(payload)?;
        let chain = TrustChain::verify(mesh, objects.bundles)?;
        let mut certificates = objects.certificates.into_iter();
        let own = certificates.next().ok_or(Implausible::Malformed)?;
        let issuer = certificates
            .next()
            .map(|issuer| VerifiedCertificate::verify(&chain, issuer, None))
            .transpose()?;
        let certificate = VerifiedCertificate::verify(&chain, own, issuer.as_ref())?;
        let epoch = objects.epochs.into_iter().next().ok_or(Implausible::Malformed)?;
        let identity = &certificate.body().identity;
        let is_named = proto::invitation::key_hash(identity) == *key_hash;
        let holds_key = epoch.body().key == *static_key
            && epoch.body().member == certificate.body().member
            && verify_epoch(identity, &epoch).is_ok();
        if is_named && holds_key {
            Ok(InviterProof { certificate, issuer, epoch, chain })
        } else {
            Err(Implausible::SomebodyElse)
        }
    }
}

/// What the joiner shows in message 3.
#[derive(Debug)]
pub struct JoinerProof {
    /// Its identity.
    pub identity: IdentityKey,
    /// Its first key epoch.
    pub epoch: Signed<KeyEpoch>,
}

impl JoinerProof {
    /// The payload of message 3, with the identity's `signature` over the handshake.
    pub fn emit(identity: &IdentityKey, signature: &[u8; 64], epoch: &[u8]) -> Vec<u8> {
        [&identity.0[..], signature, epoch].concat()
    }

    /// Reads the payload of message 3 and checks that the joiner holds all the keys it shows.
    ///
    /// # Errors
    /// [`Implausible`].
    pub fn parse(
        payload: &[u8],
        mesh: MeshId,
        binding: &[u8],
        static_key: &TransportKey,
    ) -> Result<JoinerProof, Implausible> {
        let (identity, rest) = payload.split_first_chunk::<32>().ok_or(Implausible::Malformed)?;
        let (signature, epoch) = rest.split_first_chunk::<64>().ok_or(Implausible::Malformed)?;
        let identity = IdentityKey(*identity);
        let epoch = Signed::<KeyEpoch>::parse(epoch).map_err(|_| Implausible::Malformed)?;
        let body = epoch.body();
        let holds_keys = verify_join(&identity, binding, signature).is_ok()
            && verify_epoch(&identity, &epoch).is_ok()
            && body.key == *static_key
            && body.mesh == mesh
            && body.member == meshnet::membership::member_id(&identity);
        if holds_keys { Ok(JoinerProof { identity, epoch }) } else { Err(Implausible::SomebodyElse) }
    }
}

/// What makes the joiner a member.
pub struct Welcome {
    /// The mesh's gate key.
    pub gate: Zeroizing<[u8; 32]>,
    /// The joiner's certificate.
    pub certificate: VerifiedCertificate,
    /// Its issuer's certificate, if that is a member.
    pub issuer: Option<VerifiedCertificate>,
    /// The mesh's trust chain.
    pub chain: TrustChain,
    /// Objects of other members, to begin with.
    pub others: Vec<Vec<u8>>,
}

impl Welcome {
    /// The welcome's content. Of the others' objects those that fit into `max_bytes` are taken.
    pub fn emit(&self, max_bytes: usize) -> Zeroizing<Vec<u8>> {
        let certificates = [Some(&self.certificate), self.issuer.as_ref()].into_iter().flatten();
        let mut objects: Vec<Vec<u8>> = certificates.map(|one| one.signed().to_bytes()).collect();
        objects.extend(self.chain.after(0).iter().map(SignedBundle::to_bytes));
        let mut used = self.gate.len() + objects.iter().map(|object| 2 + object.len()).sum::<usize>();
        for other in &self.others {
            if used + 2 + other.len() <= max_bytes {
                used += 2 + other.len();
                objects.push(other.clone());
            }
        }
        let mut content = Zeroizing::new(self.gate.to_vec());
        content.extend(emit_objects(objects));
        content
    }

    /// Reads a welcome and checks that it makes the node with `identity` a member of `mesh`. The others' objects are
    /// left for the node to check.
    ///
    /// # Errors
    /// [`Implausible`].
    pub fn parse(content: &[u8], mesh: MeshId, identity: &IdentityKey) -> Result<Welcome, Implausible> {
        let (gate, rest) = content.split_first_chunk::<32>().ok_or(Implausible::Malformed)?;
        let raw = parse_objects(rest).ok_or(Implausible::Malformed)?;
        let objects = Objects::parse(rest)?;
        let chain = TrustChain::verify(mesh, objects.bundles)?;
        let mut certificates = objects.certificates.into_iter();
        let own = certificates.next().ok_or(Implausible::Malformed)?;
        let issuer = match own.body().issuer {
            proto::certificate::Issuer::Root(_) => None,
            proto::certificate::Issuer::Member(..) => {
                let issuer = certificates.next().ok_or(Implausible::Malformed)?;
                Some(VerifiedCertificate::verify(&chain, issuer, None)?)
            }
        };
        let certificate = VerifiedCertificate::verify(&chain, own, issuer.as_ref())?;
        if certificate.body().identity != *identity {
            return Err(Implausible::SomebodyElse);
        }
        let own_bytes = certificate.signed().to_bytes();
        let others = raw
            .into_iter()
            .filter(|object| ObjectKind::of(object) != Some(ObjectKind::TrustBundle) && *object != own_bytes)
            .collect();
        Ok(Welcome { gate: Zeroizing::new(*gate), certificate, issuer, chain, others })
    }
}

#[derive(Default)]
struct Objects {
    certificates: Vec<Signed<Certificate>>,
    epochs: Vec<Signed<KeyEpoch>>,
    bundles: Vec<SignedBundle>,
}

impl Objects {
    /// Sorts a list of objects by kind. Kinds that are not needed here are passed over.
    fn parse(payload: &[u8]) -> Result<Objects, Implausible> {
        let mut objects = Objects::default();
        for object in parse_objects(payload).ok_or(Implausible::Malformed)? {
            let malformed = |_| Implausible::Malformed;
            match ObjectKind::of(&object) {
                Some(ObjectKind::Certificate) => {
                    objects.certificates.push(Signed::parse(&object).map_err(malformed)?);
                }
                Some(ObjectKind::KeyEpoch) => objects.epochs.push(Signed::parse(&object).map_err(malformed)?),
                Some(ObjectKind::TrustBundle) => {
                    objects.bundles.push(SignedBundle::parse(&object).map_err(malformed)?);
                }
                Some(ObjectKind::Record | ObjectKind::Revocation) | None => {}
            }
        }
        Ok(objects)
    }
}

#[cfg(test)]
mod tests;
