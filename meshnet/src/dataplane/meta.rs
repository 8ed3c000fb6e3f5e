//! What travels beside a packet between the overlay device and the transforms.
//!
//! It is the virtio network header's content (virtio 1.2 section 5.1.6, linux/virtio_net.h), as types. It never crosses
//! the network: a receiver derives its own from the packets that it opened.

use std::fmt;

/// How a packet is to be cut, and what is left to compute in it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Meta {
    /// Whether and how the packet stands for several.
    pub segmentation: Segmentation,
    /// Whether the transport checksum is complete.
    pub checksum: Checksum,
    /// Length in bytes of all headers (IP and transport) of a super-packet; 0 for a single packet. A hint: check it
    /// against the packet.
    pub header_len: u16,
}

impl Meta {
    /// A single packet with a complete checksum.
    pub const PLAIN: Meta =
        Meta { segmentation: Segmentation::None, checksum: Checksum::Complete, header_len: 0 };
}

/// Into what a super-packet is cut.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Segmentation {
    /// A single packet.
    None,
    /// TCP over IPv4, `size` bytes of payload each, the last may have less.
    Tcp4 {
        /// Payload bytes of a segment.
        size: u16,
    },
    /// TCP over IPv6.
    Tcp6 {
        /// Payload bytes of a segment.
        size: u16,
    },
    /// UDP over either: every segment is a datagram of its own (not IP fragments), at most 128 of them.
    Udp {
        /// Payload bytes of a datagram.
        size: u16,
    },
}

/// State of a packet's transport checksum.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Checksum {
    /// Complete in the packet: carry it verbatim.
    Complete,
    /// The field holds the folded, not complemented sum over the pseudo-header; the sum over the bytes from `start` to
    /// the end is still to be added, and the result stored at `start + offset`.
    Partial {
        /// First byte covered, from the start of the packet.
        start: u16,
        /// Place of the checksum field, from `start`: 16 for TCP, 6 for UDP.
        offset: u16,
    },
}

/// What a device can take over from us.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Offloads {
    /// Packets carry a virtio header: [`Checksum::Partial`] is understood in both directions.
    pub checksum: bool,
    /// TCP super-packets in both directions.
    pub tcp: bool,
    /// UDP super-packets in both directions (Linux 6.2).
    pub udp: bool,
}

impl Offloads {
    /// None at all: plain packets only.
    pub const NONE: Offloads = Offloads { checksum: false, tcp: false, udp: false };
    /// All of them.
    pub const ALL: Offloads = Offloads { checksum: true, tcp: true, udp: true };
}

impl fmt::Display for Offloads {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let granted = [(self.checksum, "checksum"), (self.tcp, "tcp"), (self.udp, "udp")];
        let mut separator = "";
        for (_, name) in granted.iter().filter(|(granted, _)| *granted) {
            write!(f, "{separator}{name}")?;
            separator = "+";
        }
        if separator.is_empty() { f.write_str("none") } else { Ok(()) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn offloads_read_as_a_list() {
        assert_eq!(Offloads::NONE.to_string(), "none");
        assert_eq!(Offloads { checksum: true, tcp: true, udp: false }.to_string(), "checksum+tcp");
    }
}
