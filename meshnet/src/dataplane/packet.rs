//! The little that is read of an inner packet: version, length, addresses, and where its headers end.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// Addresses of an inner IP packet.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Addresses {
    /// Source.
    pub source: IpAddr,
    /// Destination.
    pub destination: IpAddr,
}

/// Reads the addresses of an IPv4 (RFC 791) or IPv6 (RFC 8200) packet. `None` when it is neither, or when its length
/// fields do not match the buffer: a packet must fill it exactly.
pub fn addresses(packet: &[u8]) -> Option<Addresses> {
    let len = match packet.first()? >> 4 {
        4 => usize::from(u16::from_be_bytes(*packet.get(2..)?.first_chunk()?)),
        6 => usize::from(u16::from_be_bytes(*packet.get(4..)?.first_chunk()?)) + 40,
        _ => return None,
    };
    if len == packet.len() { addresses_of_head(packet) } else { None }
}

/// The same of the beginning of a packet, whatever length it says that it has.
pub fn addresses_of_head(packet: &[u8]) -> Option<Addresses> {
    match packet.first()? >> 4 {
        4 => {
            let header: &[u8; 20] = packet.first_chunk()?;
            let header_len = usize::from(header[0] & 0x0f) * 4;
            if header_len < 20 || header_len > packet.len() {
                return None;
            }
            let source = Ipv4Addr::new(header[12], header[13], header[14], header[15]);
            let destination = Ipv4Addr::new(header[16], header[17], header[18], header[19]);
            Some(Addresses { source: source.into(), destination: destination.into() })
        }
        6 => {
            let header: &[u8; 40] = packet.first_chunk()?;
            let source: [u8; 16] = header[8..24].try_into().ok()?;
            let destination: [u8; 16] = header[24..40].try_into().ok()?;
            Some(Addresses {
                source: Ipv6Addr::from(source).into(),
                destination: Ipv6Addr::from(destination).into(),
            })
        }
        _ => None,
    }
}

/// Whether an address names one host, so that a route to one owner makes sense.
pub fn is_unicast(address: IpAddr) -> bool {
    match address {
        IpAddr::V4(v4) => {
            !(v4.is_multicast() || v4.is_broadcast() || v4.is_unspecified() || v4.is_loopback())
        }
        IpAddr::V6(v6) => {
            !(v6.is_multicast() || v6.is_unspecified() || v6.is_loopback() || v6.is_unicast_link_local())
        }
    }
}

/// Whether an address is one of the internet: not of a private or local network (RFC 1918, 3927, 6598), nor, for IPv6,
/// outside of what is given out as global unicast (RFC 4291). What an exit takes packets to, and answers from.
pub fn is_internet(address: IpAddr) -> bool {
    match address {
        IpAddr::V4(v4) => {
            let [a, b, ..] = v4.octets();
            let shared = a == 100 && (64..128).contains(&b);
            !(v4.is_private() || v4.is_link_local() || shared || a == 0) && a < 240 && is_unicast(address)
        }
        IpAddr::V6(v6) => v6.segments()[0] & 0xe000 == 0x2000,
    }
}

/// A transport protocol whose checksum can be left to somebody else, and whose packets can be cut and merged.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Transport {
    /// TCP (RFC 9293).
    Tcp,
    /// UDP (RFC 768).
    Udp,
}

impl Transport {
    /// Its number in the IP header.
    pub const fn number(self) -> u8 {
        match self {
            Transport::Tcp => 6,
            Transport::Udp => 17,
        }
    }

    /// Place of the checksum in its header.
    pub const fn checksum_at(self) -> usize {
        match self {
            Transport::Tcp => 16,
            Transport::Udp => 6,
        }
    }
}

/// Where the headers of an unfragmented TCP or UDP packet lie.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Layout {
    /// Whether it is IPv4; else IPv6.
    pub is_v4: bool,
    /// What it carries.
    pub transport: Transport,
    /// Length in bytes of the IP header with options or extension headers: where the transport header begins.
    pub network_len: usize,
    /// Length in bytes of all headers: where the payload begins.
    pub header_len: usize,
}

/// Most IPv6 extension headers that are walked over. RFC 8200 section 4.1 wants each at most once, but for one.
const MAX_EXTENSIONS: usize = 6;

impl Layout {
    /// Reads the headers of a packet for which [`addresses`] gave something. `None` for fragments, for other protocols,
    /// and for headers that do not fit into the packet.
    ///
    /// IPv6 extension headers are walked over, except for a routing header on its way: the checksum of such a packet is
    /// not over the destination that it has now (RFC 8200 section 8.1).
    pub fn of(packet: &[u8]) -> Option<Layout> {
        let (is_v4, protocol, network_len) = match packet.first()? >> 4 {
            4 => {
                let header: &[u8; 20] = packet.first_chunk()?;
                let fragment = u16::from_be_bytes([header[6], header[7]]) & 0x3fff;
                if fragment != 0 {
                    return None;
                }
                (true, header[9], usize::from(header[0] & 0x0f) * 4)
            }
            6 => {
                let (protocol, network_len) = walk_extensions(packet)?;
                (false, protocol, network_len)
            }
            _ => return None,
        };
        let header = packet.get(network_len..)?;
        let (transport, transport_len) = match protocol {
            6 => (Transport::Tcp, usize::from(header.get(12)? >> 4) * 4),
            17 => (Transport::Udp, 8),
            _ => return None,
        };
        let too_short = transport == Transport::Tcp && transport_len < 20;
        if too_short || header.len() < transport_len {
            return None;
        }
        Some(Layout { is_v4, transport, network_len, header_len: network_len + transport_len })
    }

    /// Source and destination as they lie in the IP header of `packet`, for the pseudo-header.
    pub fn addresses<'a>(&self, packet: &'a [u8]) -> &'a [u8] {
        if self.is_v4 { &packet[12..20] } else { &packet[8..40] }
    }

    /// Place of the transport checksum in the packet.
    pub fn checksum_at(&self) -> usize {
        self.network_len + self.transport.checksum_at()
    }

    /// Whether the IP header has neither options nor extension headers.
    pub fn is_bare(&self) -> bool {
        self.network_len == if self.is_v4 { 20 } else { 40 }
    }
}

/// The layout of a packet whose transport checksum is left to be computed; `None` if nobody but who made it can tell
/// where the checksum lies and what it is over.
pub fn checksummed(packet: &[u8]) -> Option<Layout> {
    let layout = Layout::of(packet)?;
    let transport = &packet[layout.network_len..];
    let fits = match layout.transport {
        Transport::Tcp => true,
        Transport::Udp => usize::from(u16::from_be_bytes([transport[4], transport[5]])) == transport.len(),
    };
    fits.then_some(layout)
}

/// TOS or traffic class of a packet; 0 for what is neither IPv4 nor IPv6.
pub fn tos(packet: &[u8]) -> u8 {
    match *packet {
        [first, second, ..] if first >> 4 == 4 => second,
        [first, second, ..] if first >> 4 == 6 => first << 4 | second >> 4,
        _ => 0,
    }
}

/// Carries a mark of congestion from the outer packet in (RFC 6040 section 4.2): a packet of an ECN-capable transport
/// becomes CE. `false` for one whose transport does not know of ECN: it has to be dropped, as its sender would not notice
/// the mark. `packet` is one for which [`addresses`] gave something.
pub fn mark_congestion(packet: &mut [u8]) -> bool {
    const CE: u8 = 3;
    let is_v4 = packet[0] >> 4 == 4;
    match tos(packet) & CE {
        0 => return false,
        CE => return true,
        _ => {}
    }
    if !is_v4 {
        packet[1] |= CE << 4;
        return true;
    }
    packet[1] |= CE;
    let header_len = usize::from(packet[0] & 0x0f) * 4;
    packet[10..12].fill(0);
    let sum = !super::checksum::sum(&packet[..header_len]);
    packet[10..12].copy_from_slice(&sum.to_be_bytes());
    true
}

/// The protocol above IPv6 in `packet`, and where its header begins; in the first fragment, too. `None` for later
/// fragments, and for headers that do not fit into the packet.
pub fn upper_layer(packet: &[u8]) -> Option<(u8, usize)> {
    const FRAGMENT: u8 = 44;
    const ROUTING: u8 = 43;
    let (mut kind, mut at) = (*packet.get(6)?, 40);
    for _ in 0..=MAX_EXTENSIONS {
        let len = match kind {
            0 | 60 | ROUTING => usize::from(*packet.get(at + 1)?) * 8 + 8,
            FRAGMENT if u16::from_be_bytes([*packet.get(at + 2)?, *packet.get(at + 3)?]) >> 3 == 0 => 8,
            FRAGMENT => return None,
            other => return Some((other, at)),
        };
        kind = *packet.get(at)?;
        at += len;
    }
    None
}

/// The transport protocol and where its header begins.
fn walk_extensions(packet: &[u8]) -> Option<(u8, usize)> {
    const HOP_BY_HOP: u8 = 0;
    const ROUTING: u8 = 43;
    const DESTINATION: u8 = 60;
    let (mut kind, mut at) = (*packet.get(6)?, 40);
    for _ in 0..=MAX_EXTENSIONS {
        match kind {
            HOP_BY_HOP | DESTINATION => {}
            ROUTING if *packet.get(at + 3)? == 0 => {}
            ROUTING => return None,
            other => return Some((other, at)),
        }
        kind = *packet.get(at)?;
        at += usize::from(*packet.get(at + 1)?) * 8 + 8;
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_internet_is_what_is_neither_private_nor_local() {
        for inside in ["8.8.8.8", "198.51.100.1", "100.128.0.1", "172.32.0.1", "2001:db8::1", "2a00::1"] {
            assert!(is_internet(inside.parse().unwrap()), "{inside}");
        }
        for outside in [
            "10.1.2.3",
            "172.16.0.1",
            "192.168.0.1",
            "100.64.0.1",
            "169.254.1.1",
            "127.0.0.1",
            "0.1.2.3",
            "224.0.0.1",
            "255.255.255.255",
            "240.0.0.1",
            "::1",
            "fd00::1",
            "fe80::1",
            "ff02::1",
            "::ffff:8.8.8.8",
        ] {
            assert!(!is_internet(outside.parse().unwrap()), "{outside}");
        }
    }
}
