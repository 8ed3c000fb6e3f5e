//! Newtypes for identifiers, keys, epochs, and counters.

use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

use crate::Error;

macro_rules! bytes_id {
    ($(#[$doc:meta])* $name:ident, $len:literal) => {
        $(#[$doc])*
        #[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
        pub struct $name(pub [u8; $len]);

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, "{}({self})", stringify!($name))
            }
        }

        impl FromStr for $name {
            type Err = Error;

            /// From lower- or upper-case hexadecimal of the exact length.
            fn from_str(text: &str) -> Result<Self, Error> {
                let mut bytes = [0; $len];
                if text.len() != 2 * $len || !text.bytes().all(|byte| byte.is_ascii_hexdigit()) {
                    return Err(Error::InvalidField(stringify!($name)));
                }
                for (at, byte) in bytes.iter_mut().enumerate() {
                    *byte = u8::from_str_radix(&text[2 * at..2 * at + 2], 16)
                        .map_err(|_| Error::InvalidField(stringify!($name)))?;
                }
                Ok($name(bytes))
            }
        }
    };
}

macro_rules! number_id {
    ($(#[$doc:meta])* $name:ident, $inner:ty) => {
        $(#[$doc])*
        #[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Debug)]
        pub struct $name(pub $inner);

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                self.0.fmt(f)
            }
        }
    };
}

bytes_id!(
    /// Names a member for life: a hash of its identity key, see `meshnet::membership::member_id`.
    MemberId,
    16
);
bytes_id!(
    /// Names a mesh: a hash of its first trust bundle.
    MeshId,
    16
);
bytes_id!(
    /// An Ed25519 public key: a member's identity, or a root of the mesh (RFC 8032).
    IdentityKey,
    32
);
bytes_id!(
    /// An X25519 public key: one epoch of a member's transport key (RFC 7748).
    TransportKey,
    32
);
bytes_id!(
    /// Names an invitation without giving its secret away.
    InvitationId,
    8
);
number_id!(
    /// Numbers the certificates of a mesh. Grows with time, so that the newest certificate of a member is told by it.
    Serial,
    u64
);
number_id!(
    /// Names a session at its receiver. Random, so that it says nothing about the number of sessions.
    ReceiverIndex,
    u32
);
number_id!(
    /// Counts the datagrams sealed with one key; the AEAD nonce. Never wraps.
    Counter,
    u64
);
number_id!(
    /// Numbers the generations of a node's transport key, from 1.
    KeyEpochNumber,
    u32
);
number_id!(
    /// Names a handshake between two members, for what follows from it.
    HandshakeId,
    u64
);
number_id!(
    /// Names a secret that two members have from an earlier session; 0 is none.
    SecretId,
    u64
);
number_id!(
    /// Counts the starts of a node's daemon; persisted, so that a restart is newer than what came before.
    BootEpoch,
    u64
);
number_id!(
    /// Counts the records that a node published since its boot.
    Seq,
    u64
);
number_id!(
    /// A destination in the label space of the node that receives the relay header.
    RelayLabel,
    u16
);

impl RelayLabel {
    /// No label: the header names both ends.
    pub const LONG: RelayLabel = RelayLabel(0);
    /// The receiver itself.
    pub const SELF: RelayLabel = RelayLabel(1);
    /// The first label that can stand for another member.
    pub const FIRST: RelayLabel = RelayLabel(2);
}

/// The name of a node, mesh, or datacentre: a DNS label (RFC 1123) in lower case. Copies share the text.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Name(Arc<str>);

impl Name {
    /// Longest name in bytes.
    pub const MAX_LEN: usize = 63;

    /// 1 to 63 of `a-z`, `0-9`, and `-`, neither beginning nor ending with `-`.
    pub fn new(text: &str) -> Result<Name, Error> {
        let allowed = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-';
        let fits = (1..=Name::MAX_LEN).contains(&text.len());
        if !fits || !text.bytes().all(allowed) || text.starts_with('-') || text.ends_with('-') {
            return Err(Error::InvalidField("name"));
        }
        Ok(Name(text.into()))
    }

    /// From the bytes of a message.
    pub fn parse(bytes: &[u8]) -> Result<Name, Error> {
        Name::new(std::str::from_utf8(bytes).map_err(|_| Error::InvalidField("name"))?)
    }

    /// As text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&self.0)
    }
}

impl fmt::Debug for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(&self.0, f)
    }
}

impl FromStr for Name {
    type Err = Error;

    fn from_str(text: &str) -> Result<Name, Error> {
        Name::new(text)
    }
}
