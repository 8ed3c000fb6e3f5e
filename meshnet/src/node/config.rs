//! What a node is made from, and what can be changed while it runs.

use std::net::{IpAddr, SocketAddr};

use proto::certificate::Certificate;
use proto::id::{BootEpoch, Name};
use proto::key_epoch::KeyEpoch;
use proto::record::Subnet;
use proto::revocation::Revocation;
use proto::signed::Signed;

use crate::crypto::TransportSecret;
use crate::membership::{AddError, IdentitySecret, TrustChain};
use crate::path::SocketId;
use crate::session::{GateKey, UnsupportedEpoch};

/// What a node is made from. Everything comes from disk; nothing of it changes while the node runs, except
/// [`Settings`].
pub struct NodeConfig {
    /// The node's identity.
    pub identity: IdentitySecret,
    /// The secret that the members share.
    pub gate: GateKey,
    /// The node's transport keys with their signed epochs, oldest first; the last one is current.
    pub epochs: Vec<OwnEpoch>,
    /// The node's certificate.
    pub certificate: Signed<Certificate>,
    /// The certificate of the member that issued it, unless a root did.
    pub issuer: Option<Signed<Certificate>>,
    /// The chain of trust bundles.
    pub trust: TrustChain,
    /// Revocations known so far.
    pub revocations: Vec<Signed<Revocation>>,
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
pub struct OwnEpoch {
    /// The private key.
    pub secret: TransportSecret,
    /// The signed epoch.
    pub signed: Signed<KeyEpoch>,
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
    /// Endpoints at which the node can be reached from outside, as configured.
    pub endpoints: Vec<SocketAddr>,
    /// Addresses of the node's interfaces, without the overlay's own.
    pub interface_addresses: Vec<IpAddr>,
    /// The node's UDP sockets.
    pub sockets: Vec<Socket>,
    /// MTU of the overlay interface.
    pub mtu: u16,
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
