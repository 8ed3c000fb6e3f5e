//! The trust bundle: the roots of a mesh. Versions form a chain; each is signed by a threshold of the roots before it
//! and of its own.
//!
//! ```text
//! | version 1 | kind 1 | body length 2 | body: fields | count 1 | count times: root key id 8, signature 64 |
//! ```

use std::net::Ipv4Addr;

use blake2::{Blake2s256, Digest};
use bytes::Bytes;
use ipnet::Ipv4Net;

use crate::Error;
use crate::certificate::exact;
use crate::codec::{FIELD_HEADER_LEN, Fields, Reader, Writer, put_field};
use crate::id::{IdentityKey, MeshId, Name};
use crate::signed::{
    OBJECT_HEADER_LEN, OBJECT_VERSION, ObjectKind, SIGNATURE_LEN, signing_bytes, take_unsigned,
};

/// Longest trust bundle.
pub const BUNDLE_MAX_LEN: usize = 2048;
/// Most roots.
pub const MAX_ROOTS: usize = 8;
/// Most signatures: old and new roots, and the recovery key.
pub const MAX_SIGNATURES: usize = 2 * MAX_ROOTS + 1;

/// Who is trusted to sign certificates, and the facts of the mesh that every member shares.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct TrustBundle {
    /// The mesh: [`TrustBundle::mesh_id_of_first`] of version 1.
    pub mesh: MeshId,
    /// From 1, without gaps.
    pub version: u32,
    /// The mesh's name.
    pub name: Name,
    /// Keys that sign certificates.
    pub roots: Vec<IdentityKey>,
    /// How many of the roots must sign the next version.
    pub threshold: u8,
    /// A key kept offline that can sign the next version alone when the roots are lost.
    pub recovery: IdentityKey,
    /// The IPv4 network that addresses are given from.
    pub network4: Option<Ipv4Net>,
    /// When it was made, in seconds since the Unix epoch.
    pub created_s: u64,
    /// BLAKE2s-256 of the encoded version before; none for version 1.
    pub previous: Option<[u8; 32]>,
}

impl TrustBundle {
    /// The mesh id that follows from this content as version 1: the first 16 bytes of
    /// BLAKE2s-256("meshnet mesh" | body with a zero mesh id). For making a mesh; whoever checks a bundle that was read
    /// uses [`SignedBundle::mesh_id_of_first`], which keeps fields of a newer version.
    pub fn mesh_id_of_first(&self) -> MeshId {
        let mut body = Vec::new();
        TrustBundle { mesh: MeshId::default(), ..self.clone() }.emit_body(&mut body);
        hash_mesh_id(&[&body])
    }

    fn parse_body(body: &[u8]) -> Result<TrustBundle, Error> {
        let mut fields = Fields::new(body);
        let mesh = MeshId(exact(fields.required(1, "mesh")?, "mesh")?);
        let version = u32::from_be_bytes(exact(fields.required(2, "version")?, "version")?);
        let name = Name::parse(fields.required(3, "name")?)?;
        let roots = parse_keys(fields.required(4, "roots")?)?;
        let [threshold] = exact(fields.required(5, "threshold")?, "threshold")?;
        let recovery = IdentityKey(exact(fields.required(6, "recovery")?, "recovery")?);
        let network4 = fields.optional(7)?.map(parse_network).transpose()?;
        let created_s = u64::from_be_bytes(exact(fields.required(8, "created")?, "created")?);
        let previous = fields.optional(9)?.map(|value| exact(value, "previous")).transpose()?;
        fields.finish()?;
        if version == 0 {
            return Err(Error::InvalidField("version"));
        }
        if threshold == 0 || usize::from(threshold) > roots.len() {
            return Err(Error::InvalidField("threshold"));
        }
        Ok(TrustBundle { mesh, version, name, roots, threshold, recovery, network4, created_s, previous })
    }

    fn emit_body(&self, out: &mut Vec<u8>) {
        put_field(out, 1, &self.mesh.0);
        put_field(out, 2, &self.version.to_be_bytes());
        put_field(out, 3, self.name.as_str().as_bytes());
        put_field(out, 4, &self.roots.iter().flat_map(|key| key.0).collect::<Vec<u8>>());
        put_field(out, 5, &[self.threshold]);
        put_field(out, 6, &self.recovery.0);
        if let Some(network) = &self.network4 {
            let mut value = network.network().octets().to_vec();
            value.push(network.prefix_len());
            put_field(out, 7, &value);
        }
        put_field(out, 8, &self.created_s.to_be_bytes());
        if let Some(previous) = &self.previous {
            put_field(out, 9, previous);
        }
    }
}

/// One signature over a bundle.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct BundleSignature {
    /// The first 8 bytes of BLAKE2s-256 of the key.
    pub key: [u8; 8],
    /// The signature.
    pub signature: [u8; SIGNATURE_LEN],
}

/// A trust bundle with its signatures and the bytes it was read from. That the signatures are right is for the caller
/// to check.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct SignedBundle {
    body: TrustBundle,
    unsigned: Bytes,
    signatures: Vec<BundleSignature>,
}

impl SignedBundle {
    /// A bundle without signatures yet.
    ///
    /// # Errors
    /// When it would be too long, or a reader would refuse it.
    pub fn unsigned(body: TrustBundle) -> Result<SignedBundle, Error> {
        if body.roots.len() > MAX_ROOTS {
            return Err(Error::TooLong("roots"));
        }
        let mut fields = Vec::new();
        body.emit_body(&mut fields);
        if OBJECT_HEADER_LEN + fields.len() > BUNDLE_MAX_LEN - 1 - MAX_SIGNATURES * (8 + SIGNATURE_LEN) {
            return Err(Error::TooLong("trust bundle"));
        }
        // The content held is the one that readers will see.
        let body = TrustBundle::parse_body(&fields)?;
        let mut unsigned = Vec::new();
        unsigned.put(&[OBJECT_VERSION, ObjectKind::TrustBundle as u8]);
        unsigned.put_bytes16(&fields);
        Ok(SignedBundle { body, unsigned: unsigned.into(), signatures: Vec::new() })
    }

    /// Adds a signature; one over [`MAX_SIGNATURES`] or by a key that signed already is not added.
    pub fn add_signature(&mut self, signature: BundleSignature) {
        let signed = self.signatures.iter().any(|other| other.key == signature.key);
        if !signed && self.signatures.len() < MAX_SIGNATURES {
            self.signatures.push(signature);
        }
    }

    /// The content.
    pub fn body(&self) -> &TrustBundle {
        &self.body
    }

    /// The signatures.
    pub fn signatures(&self) -> &[BundleSignature] {
        &self.signatures
    }

    /// What the signatures must cover.
    pub fn signing_bytes(&self) -> Vec<u8> {
        signing_bytes(ObjectKind::TrustBundle, &self.unsigned)
    }

    /// The mesh id that follows from this bundle as version 1, over the body as it was read: a build that does not know
    /// every field computes the same id as the one that made the mesh.
    pub fn mesh_id_of_first(&self) -> MeshId {
        // The mesh id is always the first field: type 1, length 16.
        let (head, rest) = self.unsigned[OBJECT_HEADER_LEN..].split_at(FIELD_HEADER_LEN);
        hash_mesh_id(&[head, &MeshId::default().0, &rest[MeshId::default().0.len()..]])
    }

    /// BLAKE2s-256 of header and body: what the next version names as its previous one. Signatures are not part of it,
    /// so that adding one does not break the chain.
    pub fn hash(&self) -> [u8; 32] {
        Blake2s256::digest(&self.unsigned).into()
    }

    /// Reads a bundle that fills `bytes`.
    pub fn parse(bytes: &[u8]) -> Result<SignedBundle, Error> {
        if bytes.len() > BUNDLE_MAX_LEN {
            return Err(Error::TooLong("trust bundle"));
        }
        let mut reader = Reader::new(bytes);
        let (body, unsigned) = take_unsigned(&mut reader, ObjectKind::TrustBundle)?;
        let body = TrustBundle::parse_body(body)?;
        let count = usize::from(reader.u8()?);
        if count > MAX_SIGNATURES {
            return Err(Error::TooLong("signatures"));
        }
        let mut signatures = Vec::with_capacity(count);
        for _ in 0..count {
            let signature = BundleSignature { key: reader.array()?, signature: reader.array()? };
            if signatures.iter().any(|other: &BundleSignature| other.key == signature.key) {
                return Err(Error::InvalidField("signatures"));
            }
            signatures.push(signature);
        }
        reader.finish()?;
        Ok(SignedBundle { body, unsigned: Bytes::copy_from_slice(unsigned), signatures })
    }

    /// Appends the bundle.
    pub fn emit(&self, out: &mut Vec<u8>) {
        out.put(&self.unsigned);
        out.put_u8(self.signatures.len() as u8);
        for signature in &self.signatures {
            out.put(&signature.key);
            out.put(&signature.signature);
        }
    }

    /// The encoded bundle.
    pub fn to_bytes(&self) -> Vec<u8> {
        let mut out = Vec::new();
        self.emit(&mut out);
        out
    }
}

fn hash_mesh_id(body: &[&[u8]]) -> MeshId {
    let mut hasher = Blake2s256::new().chain_update(b"meshnet mesh");
    body.iter().for_each(|part| hasher.update(part));
    let mut id = MeshId::default();
    id.0.copy_from_slice(&hasher.finalize()[..16]);
    id
}

fn parse_keys(value: &[u8]) -> Result<Vec<IdentityKey>, Error> {
    let (keys, rest) = value.as_chunks::<32>();
    if !rest.is_empty() || keys.is_empty() {
        return Err(Error::InvalidField("roots"));
    }
    if keys.len() > MAX_ROOTS {
        return Err(Error::TooLong("roots"));
    }
    // A root listed twice would count once towards the threshold: the next version could never be signed.
    if keys.iter().enumerate().any(|(at, key)| keys[..at].contains(key)) {
        return Err(Error::InvalidField("roots"));
    }
    Ok(keys.iter().map(|key| IdentityKey(*key)).collect())
}

fn parse_network(value: &[u8]) -> Result<Ipv4Net, Error> {
    let [a, b, c, d, prefix_len] = exact(value, "network")?;
    Ipv4Net::new(Ipv4Addr::new(a, b, c, d), prefix_len)
        .ok()
        .filter(|network| network.trunc() == *network)
        .ok_or(Error::InvalidField("network"))
}
