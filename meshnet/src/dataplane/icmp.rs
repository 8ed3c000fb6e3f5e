//! Errors told to who sent a packet that cannot go on: too long for the path (RFC 1191, RFC 8201), or no way there
//! (RFC 792, RFC 4443).
//!
//! They come from the packet's own destination: Linux takes no IPv4 packet in that claims to come from one of the
//! machine's own addresses (`fib_validate_source`), and what is told concerns exactly that destination.

use std::net::IpAddr;

use super::{checksum, packet};

/// Most bytes of an error about an IPv6 packet: what passes everywhere (RFC 4443 section 2.4).
pub const MAX_LEN: usize = 1280;
/// The same for IPv4 (RFC 1812 section 4.3.2.3).
const MAX_LEN_V4: usize = 576;
const V4_HEADER: usize = 20;
const V6_HEADER: usize = 40;
/// Type, code, checksum, and four bytes that depend on the type.
const ICMP_HEADER: usize = 8;
/// The smallest MTU that IPv6 knows; a host need not believe in a smaller one (RFC 8201 section 4).
const V6_MTU_MIN: u16 = 1280;
/// As Linux marks its own errors (`RT_TOS` with `IPTOS_PREC_INTERNETCONTROL`).
const TOS: u8 = 0xc0;
const TTL: u8 = 64;
const ICMP_V4: u8 = 1;
const ICMP_V6: u8 = 58;

/// What is wrong.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Error {
    /// The packet is longer than the path carries.
    TooBig {
        /// What it carries, in bytes.
        mtu: u16,
    },
    /// Nobody owns the destination.
    NoRoute,
    /// The owner of the destination cannot be reached.
    Unreachable,
    /// What this node or the owner requires of a session with the other cannot be had.
    Prohibited,
}

impl Error {
    /// Type, code, and the last four bytes of the ICMP header.
    fn header_v4(self) -> (u8, u8, u32) {
        match self {
            Error::TooBig { mtu } => (3, 4, u32::from(mtu)),
            Error::NoRoute => (3, 0, 0),
            Error::Unreachable => (3, 1, 0),
            Error::Prohibited => (3, 13, 0),
        }
    }

    fn header_v6(self) -> (u8, u8, u32) {
        match self {
            Error::TooBig { mtu } => (2, 0, u32::from(mtu.max(V6_MTU_MIN))),
            Error::NoRoute => (1, 0, 0),
            Error::Unreachable => (1, 3, 0),
            Error::Prohibited => (1, 1, 0),
        }
    }
}

/// Writes the error about `about` to the start of `out`, which has [`MAX_LEN`] bytes, and gives its length. `None` when
/// there must be none: about an ICMP error, a later fragment, or a packet that no single host sent to a single host.
pub fn write(error: Error, about: &[u8], out: &mut [u8; MAX_LEN]) -> Option<usize> {
    packet::addresses(about)?;
    write_about_head(error, about, out)
}

/// As [`write()`], about a packet of which only the beginning is there.
pub fn write_about_head(error: Error, about: &[u8], out: &mut [u8; MAX_LEN]) -> Option<usize> {
    let addresses = packet::addresses_of_head(about)?;
    let answerable = packet::is_unicast(addresses.source) && packet::is_unicast(addresses.destination);
    if !answerable || !may_be_answered(about) {
        return None;
    }
    match (addresses.source, addresses.destination) {
        (IpAddr::V4(sender), IpAddr::V4(destination)) => {
            let quoted = about.len().min(MAX_LEN_V4 - V4_HEADER - ICMP_HEADER);
            let len = V4_HEADER + ICMP_HEADER + quoted;
            let (header, message) = out[..len].split_at_mut(V4_HEADER);
            header.fill(0);
            (header[0], header[1], header[8], header[9]) = (0x45, TOS, TTL, ICMP_V4);
            header[2..4].copy_from_slice(&(len as u16).to_be_bytes());
            header[12..16].copy_from_slice(&destination.octets());
            header[16..20].copy_from_slice(&sender.octets());
            let sum = !checksum::sum(header);
            header[10..12].copy_from_slice(&sum.to_be_bytes());
            message[ICMP_HEADER..].copy_from_slice(&about[..quoted]);
            write_message(message, error.header_v4(), 0);
            Some(len)
        }
        (IpAddr::V6(sender), IpAddr::V6(destination)) => {
            let quoted = about.len().min(MAX_LEN - V6_HEADER - ICMP_HEADER);
            let len = V6_HEADER + ICMP_HEADER + quoted;
            let (header, message) = out[..len].split_at_mut(V6_HEADER);
            header.fill(0);
            (header[0], header[6], header[7]) = (0x60, ICMP_V6, TTL);
            header[4..6].copy_from_slice(&((len - V6_HEADER) as u16).to_be_bytes());
            header[8..24].copy_from_slice(&destination.octets());
            header[24..40].copy_from_slice(&sender.octets());
            message[ICMP_HEADER..].copy_from_slice(&about[..quoted]);
            let pseudo = checksum::pseudo_header(&header[8..40], ICMP_V6, message.len() as u16);
            write_message(message, error.header_v6(), pseudo);
            Some(len)
        }
        _ => None,
    }
}

fn write_message(message: &mut [u8], (kind, code, rest): (u8, u8, u32), pseudo: u16) {
    (message[0], message[1]) = (kind, code);
    message[2..4].fill(0);
    message[4..8].copy_from_slice(&rest.to_be_bytes());
    let sum = !checksum::add(checksum::sum(message), pseudo);
    message[2..4].copy_from_slice(&sum.to_be_bytes());
}

/// No error about an error (RFC 1122 section 3.2.2, RFC 4443 section 2.4), nor about a fragment that is not the first.
fn may_be_answered(about: &[u8]) -> bool {
    if about[0] >> 4 == 4 {
        let later_fragment = u16::from_be_bytes([about[6], about[7]]) & 0x1fff != 0;
        let header_len = usize::from(about[0] & 0x0f) * 4;
        // Echo, timestamp, and the like ask for something; all other types tell of errors or are obsolete.
        let asks = |kind: &u8| matches!(kind, 0 | 8 | 13 | 14 | 17 | 18);
        return !later_fragment && (about[9] != ICMP_V4 || about.get(header_len).is_some_and(asks));
    }
    let (protocol, at) = match packet::upper_layer(about) {
        Some(found) => found,
        None => return false,
    };
    protocol != ICMP_V6 || about.get(at).is_some_and(|kind| *kind >= 128)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn v4(protocol: u8, payload: &[u8]) -> Vec<u8> {
        let mut packet = vec![0x45, 0, 0, 0, 0, 1, 0x40, 0, 64, protocol, 0, 0, 10, 9, 0, 1, 10, 9, 0, 2];
        packet.extend_from_slice(payload);
        let len = packet.len() as u16;
        packet[2..4].copy_from_slice(&len.to_be_bytes());
        packet
    }

    fn v6(protocol: u8, payload: &[u8]) -> Vec<u8> {
        let mut packet = vec![0x60, 0, 0, 0, 0, 0, protocol, 64];
        for last in [1, 2] {
            packet.extend_from_slice(&[0xfd, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, last]);
        }
        packet[4..6].copy_from_slice(&(payload.len() as u16).to_be_bytes());
        packet.extend_from_slice(payload);
        packet
    }

    fn answer(error: Error, about: &[u8]) -> Option<Vec<u8>> {
        let mut out = [0xaa; MAX_LEN];
        write(error, about, &mut out).map(|len| out[..len].to_vec())
    }

    #[test]
    fn an_ipv4_sender_is_told_the_mtu_with_a_quote_and_right_checksums() {
        let about = v4(17, &[7; 1400]);
        let packet = answer(Error::TooBig { mtu: 1198 }, &about).unwrap();
        assert_eq!(packet.len(), 576);
        assert_eq!(checksum::sum(&packet[..20]), 0xffff);
        assert_eq!(checksum::sum(&packet[20..]), 0xffff);
        assert_eq!(packet[20..28][..2], [3, 4]);
        assert_eq!(packet[26..28], 1198_u16.to_be_bytes());
        assert_eq!(packet[28..], about[..548]);
        let addresses = packet::addresses(&packet).unwrap();
        assert_eq!((addresses.source, addresses.destination), ([10, 9, 0, 2].into(), [10, 9, 0, 1].into()));
    }

    #[test]
    fn an_ipv6_sender_is_never_told_less_than_1280() {
        let about = v6(17, &[7; 1400]);
        for (mtu, told) in [(1354, 1354_u32), (1198, 1280)] {
            let packet = answer(Error::TooBig { mtu }, &about).unwrap();
            assert_eq!(packet.len(), 1280);
            assert_eq!(packet[40..42], [2, 0]);
            assert_eq!(packet[44..48], told.to_be_bytes());
            let pseudo = checksum::pseudo_header(&packet[8..40], 58, (packet.len() - 40) as u16);
            assert_eq!(checksum::add(checksum::sum(&packet[40..]), pseudo), 0xffff);
        }
    }

    #[test]
    fn short_packets_are_quoted_whole_and_ways_that_there_are_not_have_codes_of_their_own() {
        let about = v4(17, &[7; 30]);
        let packet = answer(Error::Unreachable, &about).unwrap();
        assert_eq!((&packet[20..22], &packet[28..]), (&[3, 1][..], &about[..]));
        assert_eq!(answer(Error::NoRoute, &about).unwrap()[20..22], [3, 0]);
        assert_eq!(answer(Error::Prohibited, &about).unwrap()[20..22], [3, 13]);
        assert_eq!(answer(Error::Prohibited, &v6(6, &[0; 20])).unwrap()[40..42], [1, 1]);
        assert_eq!(answer(Error::NoRoute, &v6(6, &[0; 20])).unwrap()[40..42], [1, 0]);
        assert_eq!(answer(Error::Unreachable, &v6(6, &[0; 20])).unwrap()[40..42], [1, 3]);
    }

    #[test]
    fn there_is_no_error_about_an_error_a_later_fragment_or_many_hosts() {
        let error = Error::Unreachable;
        assert!(answer(error, &v4(1, &[8; 20])).is_some(), "an echo request");
        for kind in [3, 4, 5, 11, 12] {
            assert_eq!(answer(error, &v4(1, &[kind; 20])), None, "ICMP type {kind}");
        }
        assert!(answer(error, &v6(58, &[128; 20])).is_some());
        for kind in [1, 2, 3, 4, 127] {
            assert_eq!(answer(error, &v6(58, &[kind; 20])), None, "ICMPv6 type {kind}");
        }
        let mut fragment = v4(17, &[0; 20]);
        fragment[7] = 1;
        assert_eq!(answer(error, &fragment), None);
        // A fragment header with an offset.
        let mut fragment = v6(44, &[17, 0, 0, 8, 0, 0, 0, 1, 0, 0, 0, 0]);
        assert_eq!(answer(error, &fragment), None);
        fragment[43] = 1;
        assert!(answer(error, &fragment).is_some(), "the first fragment");
        let mut multicast = v4(17, &[0; 20]);
        multicast[16] = 224;
        assert_eq!(answer(error, &multicast), None);
        assert_eq!(answer(error, &[]), None);
    }
}
