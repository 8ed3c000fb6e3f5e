//! What names a path, and where it was learnt.

use std::net::SocketAddr;

use proto::endpoint::CandidateKind;
use proto::id::MemberId;

/// Which of the node's UDP sockets, by its place in the list of listening sockets; or that a stream carries the datagrams.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Default)]
pub struct SocketId(pub u8);

impl SocketId {
    /// A TCP connection that this node makes to the remote endpoint.
    pub const TCP: SocketId = SocketId(253);
    /// The same with TLS.
    pub const TLS: SocketId = SocketId(254);
    /// A TCP connection, with or without TLS, that came from the remote endpoint: once closed, only the other end can make
    /// another.
    pub const ACCEPTED: SocketId = SocketId(255);

    /// Whether it is a TCP connection.
    pub fn is_stream(self) -> bool {
        self >= SocketId::TCP
    }
}

/// What identifies a path to a peer.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub enum PathId {
    /// Straight to an endpoint of the peer.
    Direct {
        /// The socket that sends.
        socket: SocketId,
        /// The peer's endpoint.
        remote: SocketAddr,
    },
    /// Through a relay, which forwards the sealed datagrams.
    Relay {
        /// The first hop.
        relay: MemberId,
    },
}

impl PathId {
    /// Whether the path needs no relay.
    pub fn is_direct(&self) -> bool {
        matches!(self, PathId::Direct { .. })
    }

    /// Whether it leads straight to the peer by a TCP connection.
    pub fn is_stream(&self) -> bool {
        matches!(self, PathId::Direct { socket, .. } if socket.is_stream())
    }
}

/// Where a candidate was learnt. Decides which candidates go first when there are too many.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Origin {
    /// An authenticated datagram came from there.
    Heard,
    /// The peer announced itself on the LAN.
    Lan,
    /// The peer's record or its list of candidates names it.
    Announced(CandidateKind),
    /// A relay that is attached to both ends.
    Relay,
    /// The peer expects that its translator will have it come from there.
    Predicted,
}

impl Origin {
    /// The likelier to work, the lower.
    pub(super) fn rank(self) -> u8 {
        match self {
            Origin::Heard => 0,
            Origin::Lan => 1,
            Origin::Announced(CandidateKind::Configured) => 2,
            Origin::Announced(CandidateKind::Mapped) => 3,
            Origin::Announced(CandidateKind::Reflexive) => 4,
            Origin::Announced(CandidateKind::Interface) => 5,
            Origin::Announced(CandidateKind::Tcp | CandidateKind::Tls) => 6,
            Origin::Relay => 7,
            Origin::Predicted => 8,
        }
    }
}
