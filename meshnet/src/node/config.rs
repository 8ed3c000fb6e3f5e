//! What a node is made from, and what can be changed while it runs.

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use ipnet::IpNet;
use proto::certificate::Certificate;
use proto::id::{BootEpoch, KeyEpochNumber, Name, TransportKey};
use proto::key_epoch::KeyEpoch;
use proto::record::{KeyPlan, Subnet};
use proto::signed::Signed;

use super::hybrid::PostQuantum;
use crate::crypto::TransportSecret;
use crate::dataplane::RelayLimit;
use crate::membership::{AddError, IdentitySecret, TrustChain};
use crate::path::{SocketId, Use};
use crate::session::{GateKey, UnsupportedEpoch};

/// What a node is made from. Everything comes from disk; nothing of it changes while the node runs, except
/// [`Settings`].
pub struct NodeConfig {
    /// The node's identity.
    pub identity: IdentitySecret,
    /// The secret that the members share.
    pub gate: GateKey,
    /// The node's transport keys, as [`super::Event::SaveKeys`] had them written last.
    pub keys: KeyRing,
    /// The node's certificate.
    pub certificate: Signed<Certificate>,
    /// The certificate of the member that issued it, unless a root did.
    pub issuer: Option<Signed<Certificate>>,
    /// The chain of trust bundles.
    pub trust: TrustChain,
    /// What [`super::Node::export_revocations`] gave last: revocations, and the certificates of who made them.
    pub revocations: Vec<Vec<u8>>,
    /// What [`super::Node::set_plan`] announced last.
    pub plan: Option<KeyPlan>,
    /// This start of the daemon; greater than at every start before.
    pub boot: BootEpoch,
    /// No handshake timestamp up to this one may be used, in microseconds since the Unix epoch: the greatest that
    /// [`super::Event::ReserveTimestamp`] ever told.
    pub timestamp_floor_us: u64,
    /// What [`super::Node::export_cache`] gave at the last run, or nothing.
    pub cache: Vec<u8>,
    /// The overlay device takes partial checksums and super-packets: peers are told.
    pub offload: bool,
    /// The software version that peers are told.
    pub version: String,
    /// What can be changed while the node runs.
    pub settings: Settings,
}

/// One of the node's transport keys.
#[derive(Clone)]
pub struct OwnEpoch {
    /// The private key.
    pub secret: TransportSecret,
    /// The signed epoch.
    pub signed: Signed<KeyEpoch>,
}

impl OwnEpoch {
    /// The epoch's number.
    pub fn number(&self) -> KeyEpochNumber {
        self.signed.body().number
    }
}

/// The node's transport keys as they are on disk. Never empty.
#[derive(Clone)]
pub struct KeyRing {
    /// The private keys with their signed epochs, oldest first: one, or two while the key is being rotated.
    pub(super) epochs: Vec<OwnEpoch>,
    /// The epoch that handshakes are made with.
    pub(super) in_use: KeyEpochNumber,
    /// Public halves of keys that were replaced, oldest first: who comes with one is told the newest.
    pub(super) retired: Vec<TransportKey>,
    /// Sessions made with earlier epochs are void: one of those keys was stolen. 0: none.
    pub(super) cut: KeyEpochNumber,
}

impl KeyRing {
    /// From the disk. `epochs` are in ascending order of number and `in_use` is the number of one of them.
    ///
    /// # Errors
    /// [`NodeError::NoTransportKey`] where that is not so.
    pub fn new(
        epochs: Vec<OwnEpoch>,
        in_use: KeyEpochNumber,
        retired: Vec<TransportKey>,
        cut: KeyEpochNumber,
    ) -> Result<KeyRing, NodeError> {
        let ascending = epochs.is_sorted_by(|a, b| a.number() < b.number());
        if !ascending || !epochs.iter().any(|epoch| epoch.number() == in_use) {
            return Err(NodeError::NoTransportKey);
        }
        Ok(KeyRing { epochs, in_use, retired, cut })
    }

    /// A node's first key.
    pub fn first(epoch: OwnEpoch) -> KeyRing {
        let in_use = epoch.number();
        KeyRing { epochs: vec![epoch], in_use, retired: Vec::new(), cut: KeyEpochNumber(0) }
    }

    /// The private keys with their signed epochs, oldest first.
    pub fn epochs(&self) -> &[OwnEpoch] {
        &self.epochs
    }

    /// The epoch that handshakes are made with.
    pub fn in_use(&self) -> KeyEpochNumber {
        self.in_use
    }

    /// Public halves of keys that were replaced, oldest first.
    pub fn retired(&self) -> &[TransportKey] {
        &self.retired
    }

    /// Sessions made with earlier epochs are void; 0: none.
    pub fn cut(&self) -> KeyEpochNumber {
        self.cut
    }

    pub(super) fn newest(&self) -> &OwnEpoch {
        self.epochs.last().expect("a ring is never empty")
    }

    pub(super) fn oldest(&self) -> &OwnEpoch {
        self.epochs.first().expect("a ring is never empty")
    }

    pub(super) fn current(&self) -> &OwnEpoch {
        self.epochs
            .iter()
            .find(|epoch| epoch.number() == self.in_use)
            .expect("the epoch in use is in the ring")
    }
}

/// What can be changed while the node runs.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Settings {
    /// The datacentre.
    pub datacenter: Option<Name>,
    /// Subnets to announce; those that the certificate does not allow are left out and warned about.
    pub subnets: Vec<Subnet>,
    /// Whether to relay for others, if the certificate allows it.
    pub relay: bool,
    /// Whether to take packets of others to the internet, if the certificate allows it.
    pub exit: bool,
    /// The member through which this node reaches the internet.
    pub exit_node: Option<Name>,
    /// Endpoints at which the node can be reached from outside, as configured.
    pub endpoints: Vec<SocketAddr>,
    /// Where the gateway maps a port to the node's first socket over IPv4.
    pub mapped: Option<SocketAddr>,
    /// Addresses of the node's interfaces, without the overlay's own.
    pub interface_addresses: Vec<IpAddr>,
    /// The node's UDP sockets.
    pub sockets: Vec<Socket>,
    /// Where the node listens on TCP.
    pub streams: Vec<StreamSocket>,
    /// Whether TCP connections may be made to members, where datagrams do not arrive.
    pub dial_tcp: bool,
    /// The same with TLS.
    pub dial_tls: bool,
    /// MTU of the overlay interface.
    pub mtu: u16,
    /// Copy TOS or traffic class of inner packets outward.
    pub copy_tos: bool,
    /// How much to relay for one neighbour; `None` for as much as there is.
    pub relay_limit: Option<RelayLimit>,
    /// What the node can relay in all, in bytes a second; `None` where only its machine knows.
    pub relay_capacity: Option<u64>,
    /// How often the transport key is replaced by itself; never if `None`.
    pub rotate_every: Option<Duration>,
    /// Whether to announce the node to its LANs, and to listen to others there.
    pub lan_discovery: bool,
    /// Whether sessions are made with ML-KEM-768 beside X25519.
    pub pq: PostQuantum,
    /// Which paths may lead to a peer, by its name; to others, any.
    pub policies: BTreeMap<Name, PeerPolicy>,
}

/// Which paths may lead to one peer: a [`crate::path::Policy`] with names for members.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct PeerPolicy {
    /// Which kinds of paths.
    pub paths: Use,
    /// If not empty: the only relays to use.
    pub via: Vec<Name>,
    /// Relays not to use.
    pub forbidden_relays: Vec<Name>,
    /// Networks in which no endpoint of the peer may be used.
    pub forbidden_networks: Vec<IpNet>,
}

/// Where the node listens on TCP.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct StreamSocket {
    /// Whether TLS is spoken there.
    pub tls: bool,
    /// Its port.
    pub port: u16,
    /// Whether it takes IPv4.
    pub ipv4: bool,
    /// Whether it takes IPv6.
    pub ipv6: bool,
    /// The address it is bound to; `None` for all.
    pub bound: Option<IpAddr>,
}

/// A UDP socket of the node.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Socket {
    /// Its number.
    pub id: SocketId,
    /// The local port.
    pub port: u16,
    /// Whether it can send to IPv4 addresses.
    pub ipv4: bool,
    /// Whether it can send to IPv6 addresses.
    pub ipv6: bool,
    /// The one address that it is bound to, if not all.
    pub bound: Option<IpAddr>,
}

/// Why a node cannot start.
#[derive(Debug, thiserror::Error)]
pub enum NodeError {
    /// The node's own certificate is not accepted.
    #[error("this node's certificate is not valid: {0}")]
    Certificate(#[from] AddError),
    /// The identity key is not the one in the certificate.
    #[error("the identity key does not belong to this node's certificate")]
    WrongIdentity,
    /// There is no transport key.
    #[error("this node has no transport key")]
    NoTransportKey,
    /// A transport key epoch is not accepted.
    #[error("this node's transport key is not valid: {0}")]
    KeyEpoch(#[from] crate::membership::EpochError),
    /// A transport key needs a cipher that this build lacks.
    #[error(transparent)]
    Unsupported(#[from] UnsupportedEpoch),
}
