//! One epoch of a member's transport key, signed by its identity key.

use crate::Error;
use crate::codec::{Fields, Reader, Writer, put_field};
use crate::id::{KeyEpochNumber, MemberId, MeshId, TransportKey};
use crate::signed::{Body, ObjectKind};

/// Longest key epoch: it must fit into a stale-key answer, which is not longer than an init.
pub const KEY_EPOCH_MAX_LEN: usize = 152;

/// What a node can do, as a set of bits. Unknown bits are kept and ignored.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Debug)]
pub struct Capabilities(pub u32);

impl Capabilities {
    /// The CPU has instructions for AES and carry-less multiplication.
    pub const AES_GCM: Capabilities = Capabilities(1);
    /// The device takes super-packets and partial checksums.
    pub const OFFLOAD: Capabilities = Capabilities(2);
    /// Opens what any [`crate::lane::Lane`] sealed.
    pub const LANES: Capabilities = Capabilities(4);
    /// Exchanges ML-KEM-768 keys inside of sessions, and makes the next session with what comes of it.
    pub const HYBRID: Capabilities = Capabilities(16);
    /// Takes and sends inner packets only in sessions that were made so.
    pub const HYBRID_ONLY: Capabilities = Capabilities(256);

    /// Whether all of `other` are among these.
    pub const fn contains(self, other: Capabilities) -> bool {
        self.0 & other.0 == other.0
    }

    /// Capabilities of both sets.
    #[must_use]
    pub const fn union(self, other: Capabilities) -> Capabilities {
        Capabilities(self.0 | other.0)
    }
}

/// One epoch of a transport key.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct KeyEpoch {
    /// The mesh.
    pub mesh: MeshId,
    /// The member.
    pub member: MemberId,
    /// The epoch's number, growing.
    pub number: KeyEpochNumber,
    /// The key.
    pub key: TransportKey,
    /// When it was made, in seconds since the Unix epoch.
    pub created_s: u64,
    /// What the node can do; both ends' capabilities fix the cipher suite.
    pub capabilities: Capabilities,
}

impl Body for KeyEpoch {
    const KIND: ObjectKind = ObjectKind::KeyEpoch;
    const MAX_LEN: usize = KEY_EPOCH_MAX_LEN;

    fn parse_body(body: &[u8]) -> Result<KeyEpoch, Error> {
        let mut fields = Fields::new(body);
        // One field, to stay short enough for a stale-key answer.
        let mut reader = Reader::new(fields.required(1, "key epoch")?);
        let epoch = KeyEpoch {
            mesh: MeshId(reader.array()?),
            member: MemberId(reader.array()?),
            number: KeyEpochNumber(reader.u32()?),
            key: TransportKey(reader.array()?),
            created_s: reader.u64()?,
            capabilities: Capabilities(reader.u32()?),
        };
        reader.finish()?;
        fields.finish()?;
        Ok(epoch)
    }

    fn emit_body(&self, out: &mut Vec<u8>) {
        let mut value = Vec::with_capacity(80);
        value.put(&self.mesh.0);
        value.put(&self.member.0);
        value.put_u32(self.number.0);
        value.put(&self.key.0);
        value.put_u64(self.created_s);
        value.put_u32(self.capabilities.0);
        put_field(out, 1, &value);
    }
}
