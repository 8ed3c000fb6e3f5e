//! What goes into a node and what comes out of it.

use std::net::SocketAddr;
use std::sync::Arc;

use ipnet::IpNet;
use proto::id::{KeyEpochNumber, MemberId, Name, ReceiverIndex};

use super::config::KeyRing;
use crate::dataplane::snapshot::MemberSlot;
use crate::dataplane::{Snapshot, Via};
use crate::path::{Change, PathId, SocketId};

/// A datagram to send.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Transmit {
    /// The socket that sends.
    pub socket: SocketId,
    /// The destination.
    pub to: SocketAddr,
    /// The UDP payload.
    pub bytes: Vec<u8>,
    /// Must not be fragmented: it finds out what the path carries. If this machine refuses it for its length, tell
    /// [`super::Node::handle_refused`].
    pub whole: bool,
}

/// Control frames that the data plane opened, or its report that data arrived.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Inbound {
    /// A run of control frames.
    Control {
        /// The session they came on.
        receiver: ReceiverIndex,
        /// How they came.
        via: Via,
        /// The opened frames.
        frames: Vec<u8>,
    },
    /// Something the receiving side noticed.
    Notice(crate::dataplane::Notice),
    /// A handshake or join datagram, unauthenticated.
    Datagram {
        /// How it came.
        via: Via,
        /// Its bytes.
        bytes: Vec<u8>,
    },
    /// An inner packet whose destination has no session yet.
    Packet(Vec<u8>),
    /// Packets are being sent to this member.
    Active(MemberSlot),
}

/// Who is at the other end of a join exchange, to answer it.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub enum JoinOrigin {
    /// The joiner reached this node itself.
    Direct {
        /// The socket that received.
        socket: SocketId,
        /// The joiner.
        from: SocketAddr,
    },
    /// A relay passed it on.
    Relayed {
        /// The relay.
        relay: MemberId,
        /// The joiner as the relay sees it.
        from: SocketAddr,
    },
}

/// A prefix that leads into the overlay.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub struct Route {
    /// The prefix: a subnet of a member, or an address of one to which the path is narrow.
    pub prefix: IpNet,
    /// The longest packet in bytes that goes there, where that is less than what the device takes.
    pub mtu: Option<u16>,
}

/// What the node tells its surroundings.
pub enum Event {
    /// The data plane must use this from now on. Always handle it before sending what [`super::Node::poll_transmit`]
    /// gives: answers may arrive at once.
    Snapshot(Arc<Snapshot>),
    /// The complete set of routes into the overlay, beside the network of the node's own addresses, in ascending order.
    Routes(Vec<Route>),
    /// Some path carries inner packets of this many bytes, which is more than the overlay's device takes
    /// ([`super::Settings::mtu`]). Told again when there is a wider one.
    Wider(u16),
    /// A packet that was handed up cannot be sent: its sender should be told.
    Undeliverable {
        /// The inner packet.
        packet: Vec<u8>,
        /// What is wrong.
        error: crate::dataplane::icmp::Error,
    },
    /// Records, certificates, or key epochs changed: [`super::Node::export_cache`] should be saved soon.
    CacheChanged,
    /// Handshake timestamps up to this one (microseconds since the Unix epoch) may be used from now on; it must be on
    /// disk before the node starts again.
    ReserveTimestamp(u64),
    /// The node's transport keys have to be written, whole; [`super::Node::keys_saved`] with the same generation must
    /// follow when they are on disk, and not before. A later one takes the place of an earlier one.
    SaveKeys {
        /// What to write.
        ring: Box<KeyRing>,
        /// Comes back.
        generation: u64,
    },
    /// A rotation of the transport key is complete: nothing made with an older key is in use.
    KeysRotated {
        /// The epoch in use.
        epoch: KeyEpochNumber,
    },
    /// The revocations of [`super::Node::membership`] changed: they have to be saved.
    RevocationsChanged,
    /// A member, maybe this node, asks for a certificate that says what its own says, for as long again. Whoever can sign it
    /// gives it to [`super::Node::add_certificate`].
    Renew {
        /// The member.
        member: MemberId,
    },
    /// This node has a new certificate, in [`super::Node::membership`]: it has to be saved.
    CertificateChanged,
    /// This node's certificate ends, and nobody has renewed it yet.
    CertificateEnds {
        /// Seconds left; negative when it has ended.
        seconds_left: i64,
    },
    /// The trust bundles of [`super::Node::membership`] changed: they have to be saved.
    BundlesChanged,
    /// A member was revoked; it may be this node.
    Revoked {
        /// The member.
        member: MemberId,
        /// Its name, if it was known.
        name: Option<Name>,
    },
    /// A member, maybe this node, is one again: who had revoked it was an operator that was itself revoked.
    Readmitted {
        /// The member.
        member: MemberId,
        /// Its name.
        name: Option<Name>,
    },
    /// A session with this member was made, by handshake, while there was none.
    PeerUp {
        /// The member.
        member: MemberId,
        /// Its name.
        name: Name,
    },
    /// The last session with this member ended.
    PeerDown {
        /// The member.
        member: MemberId,
        /// Its name.
        name: Name,
    },
    /// A member can be reached from now on, whether or not there is a session with it.
    NodeUp {
        /// The member.
        member: MemberId,
        /// Its name.
        name: Name,
    },
    /// A member cannot be reached any more, or is none any more.
    NodeDown {
        /// The member.
        member: MemberId,
        /// Its name.
        name: Name,
    },
    /// A subnet can be reached through this member, which may be this node.
    SubnetUp {
        /// The member.
        member: MemberId,
        /// Its name.
        name: Name,
        /// The subnet.
        prefix: IpNet,
        /// Its weight.
        weight: u16,
    },
    /// A subnet cannot be reached through this member any more.
    SubnetDown {
        /// The member.
        member: MemberId,
        /// Its name.
        name: Name,
        /// The subnet.
        prefix: IpNet,
        /// Its weight.
        weight: u16,
    },
    /// Traffic to this member takes another path from now on.
    PathChanged {
        /// The member.
        member: MemberId,
        /// Its name.
        name: Name,
        /// The new path.
        path: Option<PathId>,
        /// The one before.
        before: Option<PathId>,
        /// Why.
        reason: Change,
    },
    /// This node is to be announced on every LAN, in datagrams to the groups of [`proto::lan`], each one by
    /// [`super::Node::announcement`].
    Announce {
        /// Those who hear it should announce themselves, too.
        ask: bool,
    },
    /// Somebody wants to join with an invitation of this node; the answer goes to [`super::Node::answer_join`].
    Join {
        /// Where the answer goes.
        origin: JoinOrigin,
        /// The join datagram.
        bytes: Vec<u8>,
    },
    /// An answer to [`super::Node::ping`].
    Pong {
        /// The number that `ping` gave.
        id: u32,
        /// Round-trip time in microseconds.
        rtt_us: u64,
        /// Over which path the answer came.
        via: Via,
    },
}
