//! A revocation: a member, certificate, or key that is trusted no longer.

use crate::Error;
use crate::certificate::{Issuer, emit_issuer, exact, parse_issuer};
use crate::codec::{Fields, Reader, Writer, put_field};
use crate::id::{IdentityKey, MemberId, MeshId, Serial};
use crate::signed::{Body, ObjectKind};

/// Longest revocation.
pub const REVOCATION_MAX_LEN: usize = 512;

/// What is revoked. Never certificate bytes: a signature can be re-encoded, a key or number cannot.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub enum RevocationTarget {
    /// A member, with all its certificates.
    Member(MemberId),
    /// One certificate.
    Serial(Serial),
    /// An identity key.
    Key(IdentityKey),
}

/// A revocation.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Revocation {
    /// The mesh.
    pub mesh: MeshId,
    /// What is revoked.
    pub target: RevocationTarget,
    /// When it was made, in seconds since the Unix epoch.
    pub created_s: u64,
    /// For an issuer: what it issued from then on falls too, in seconds since the Unix epoch.
    pub cutoff_s: u64,
    /// Why, for people: 0 unspecified, 1 stolen, 2 left, 3 replaced.
    pub reason: u8,
    /// Who signed it.
    pub issuer: Issuer,
}

impl Body for Revocation {
    const KIND: ObjectKind = ObjectKind::Revocation;
    const MAX_LEN: usize = REVOCATION_MAX_LEN;

    fn parse_body(body: &[u8]) -> Result<Revocation, Error> {
        let mut fields = Fields::new(body);
        let mesh = MeshId(exact(fields.required(1, "mesh")?, "mesh")?);
        let target = parse_target(fields.required(2, "target")?)?;
        let mut times = Reader::new(fields.required(3, "times")?);
        let (created_s, cutoff_s) = (times.u64()?, times.u64()?);
        times.finish()?;
        let [reason] = exact(fields.required(4, "reason")?, "reason")?;
        let issuer = parse_issuer(fields.required(5, "issuer")?)?;
        fields.finish()?;
        Ok(Revocation { mesh, target, created_s, cutoff_s, reason, issuer })
    }

    fn emit_body(&self, out: &mut Vec<u8>) {
        put_field(out, 1, &self.mesh.0);
        let mut target = Vec::new();
        match &self.target {
            RevocationTarget::Member(member) => {
                target.put_u8(0);
                target.put(&member.0);
            }
            RevocationTarget::Serial(serial) => {
                target.put_u8(1);
                target.put_u64(serial.0);
            }
            RevocationTarget::Key(key) => {
                target.put_u8(2);
                target.put(&key.0);
            }
        }
        put_field(out, 2, &target);
        let mut times = Vec::new();
        times.put_u64(self.created_s);
        times.put_u64(self.cutoff_s);
        put_field(out, 3, &times);
        put_field(out, 4, &[self.reason]);
        put_field(out, 5, &emit_issuer(&self.issuer));
    }
}

fn parse_target(value: &[u8]) -> Result<RevocationTarget, Error> {
    let mut reader = Reader::new(value);
    let target = match reader.u8()? {
        0 => RevocationTarget::Member(MemberId(reader.array()?)),
        1 => RevocationTarget::Serial(Serial(reader.u64()?)),
        2 => RevocationTarget::Key(IdentityKey(reader.array()?)),
        _ => return Err(Error::InvalidField("target")),
    };
    reader.finish()?;
    Ok(target)
}
