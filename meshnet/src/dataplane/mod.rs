//! The packet's way, as pure transforms: buffers in, buffers out.
//!
//! [`tx`] takes a packet from the device, finds its peer, and seals it in place. [`rx`] takes a datagram from a socket,
//! opens it in place, and says where it goes: to the device, up to the control plane, or on to the next hop. Both read
//! an immutable [`Snapshot`] that the control plane publishes; nothing here locks, blocks, or allocates per packet.
//!
//! Buffer layout while sending, so that sealing and relaying need no copy:
//!
//! ```text
//! | relay header 16 | ids 32 | hop tag 16 | data header 16 | inner packet | trailer 2 | tag 16 |
//! |<--------------------- HEADROOM --------------------->|              |<-- TAILROOM -->|
//! ```
//!
//! A short relay header has no ids and starts 32 bytes later.
//!
//! A super-packet of the kernel is cut ([`split`]) into segments that stand alone and lie one behind the other, each with
//! only as much room before it as its path needs, so that one segmented send takes them all. Their transport checksums
//! are left to the receiver, who puts together what arrived in order ([`merge`]) and leaves them to its kernel.
//!
//! What is longer than the path carries is cut: TCP into shorter segments, other packets into fragments ([`fragment`]) if
//! they allow it. Else their sender is told ([`icmp`]). So are TCP's senders when a path turns out narrower than it was
//! (`long`), for what they sent is lost then.
//!
//! While a path is in doubt everything leaves on a second one too. If both go through relays, their headers do not fit
//! before one body, and the second gets a copy of it.

pub mod budget;
pub mod checksum;
pub mod fair;
pub mod flow;
pub mod fragment;
pub mod icmp;
mod long;
pub mod merge;
pub mod meta;
pub mod mss;
pub mod packet;
mod recent;
pub mod relay;
pub mod rx;
pub mod snapshot;
pub mod split;
pub mod tx;

pub use merge::{Run, Segment};
pub use rx::{Notice, Rx, Verdict, Via};
pub use snapshot::{
    Carrier, LocalPrefixes, PeerStats, PeerTx, Receiver, RelayHop, RelayLimit, RelayTable, Share, Snapshot,
    Spread, Tally,
};
pub use tx::{Burst, Cut, Outgoing, Tx, TxVerdict};

use proto::data;
use proto::relay as wire;

/// Bytes that must be free before an inner packet: the longest relay header and the data header.
pub const HEADROOM: usize = wire::LONG_LEN + wire::HOP_TAG_LEN + data::HEADER_LEN;
/// Bytes that must be free after an inner packet: the trailer and the authentication tag.
pub const TAILROOM: usize = data::TRAILER_LEN + data::TAG_LEN;
/// What the overlay adds to an inner packet on the worst path: a long relay header over IPv6 and UDP.
pub const WORST_OVERHEAD: usize = 40 + 8 + HEADROOM + TAILROOM;
/// The overlay's MTU on a 1500-byte underlay: every path fits without fragments.
pub const DEFAULT_MTU: u16 = (1500 - WORST_OVERHEAD) as u16;

/// The longest inner packet of a sealed datagram of `datagram_len` bytes, through a relay by its label.
pub fn inner_mtu(datagram_len: u16, relayed: bool) -> u16 {
    let prefix = if relayed { wire::HEADER_LEN + wire::HOP_TAG_LEN } else { 0 };
    datagram_len.saturating_sub((prefix + data::HEADER_LEN + TAILROOM) as u16)
}

/// Why a packet or a datagram was dropped. Each has a counter.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
#[repr(u8)]
pub enum Drop {
    /// Not an IPv4 or IPv6 packet, or its lengths contradict each other.
    Malformed,
    /// A packet from the device whose source is not an address or subnet of this node.
    ForeignSource,
    /// Multicast, broadcast, or an address of this node itself.
    NotUnicast,
    /// No member owns the destination.
    NoRoute,
    /// A datagram of an unknown version or type, or too short.
    UnknownDatagram,
    /// A receiver index that no session of ours has.
    UnknownReceiver,
    /// A lane that there is not, or that the peer has not.
    UnknownLane,
    /// The counter was seen before or is too old.
    Replayed,
    /// Authentication failed.
    NotAuthentic,
    /// The peer's certificate does not cover the inner source address.
    SourceNotCertified,
    /// The inner destination is neither an address nor a subnet of this node.
    NotForUs,
    /// To be relayed, but this node does not relay.
    NotARelay,
    /// To be relayed for somebody that the previous hop may not speak for.
    RelaySourceForged,
    /// To be relayed to a member that is unknown or cannot be reached from here.
    RelayNoRoute,
    /// The hop limit of a relayed datagram was used up, or it would go back where it came from.
    RelayLoop,
    /// A packet from the device that the path does not carry and that may not be cut; its sender is told.
    TooBig,
    /// A queue on the way was long and said so, but the inner packet's transport does not know of ECN (RFC 6040).
    NotEcnCapable,
    /// Who asked to relay it has used up what the relay carries for one.
    RelayLimited,
    /// The relay has more to forward than it can, and who asked has had its share.
    RelayShare,
    /// An inner packet in a session that is not post-quantum, which this node or the sender requires.
    NotPostQuantum,
    /// A packet from the device to a network of this node itself: routed in a circle.
    OwnNetwork,
}

/// Number of [`Drop`] reasons.
pub const DROP_REASONS: usize = Drop::ALL.len();

impl Drop {
    /// Every reason, in the order of its counter.
    pub const ALL: [Drop; 21] = [
        Drop::Malformed,
        Drop::ForeignSource,
        Drop::NotUnicast,
        Drop::NoRoute,
        Drop::UnknownDatagram,
        Drop::UnknownReceiver,
        Drop::UnknownLane,
        Drop::Replayed,
        Drop::NotAuthentic,
        Drop::SourceNotCertified,
        Drop::NotForUs,
        Drop::NotARelay,
        Drop::RelaySourceForged,
        Drop::RelayNoRoute,
        Drop::RelayLoop,
        Drop::TooBig,
        Drop::NotEcnCapable,
        Drop::RelayLimited,
        Drop::RelayShare,
        Drop::NotPostQuantum,
        Drop::OwnNetwork,
    ];

    /// Its name in metrics and JSON.
    pub fn name(self) -> &'static str {
        match self {
            Drop::Malformed => "malformed",
            Drop::ForeignSource => "foreign_source",
            Drop::NotUnicast => "not_unicast",
            Drop::NoRoute => "no_route",
            Drop::UnknownDatagram => "unknown_datagram",
            Drop::UnknownReceiver => "unknown_receiver",
            Drop::UnknownLane => "unknown_lane",
            Drop::Replayed => "replayed",
            Drop::NotAuthentic => "not_authentic",
            Drop::SourceNotCertified => "source_not_certified",
            Drop::NotForUs => "not_for_us",
            Drop::NotARelay => "not_a_relay",
            Drop::RelaySourceForged => "relay_source_forged",
            Drop::RelayNoRoute => "relay_no_route",
            Drop::RelayLoop => "relay_loop",
            Drop::TooBig => "too_big",
            Drop::NotEcnCapable => "not_ecn_capable",
            Drop::RelayLimited => "relay_limited",
            Drop::RelayShare => "relay_share",
            Drop::NotPostQuantum => "not_post_quantum",
            Drop::OwnNetwork => "own_network",
        }
    }
}

#[cfg(test)]
mod tests;
