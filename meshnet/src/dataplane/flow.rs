//! Which packets belong together: they take one way, so that they stay in order.

use super::packet::Layout;
use crate::lpm::mix;

/// A number that all packets of a flow have in common: from addresses, protocol, and, where the packet is whole, ports.
/// `packet` is one for which [`super::packet::addresses`] gave something. Fragments go by their addresses alone, because
/// all but the first have no ports.
pub fn hash(packet: &[u8]) -> u64 {
    let addresses = match packet.first().map(|first| first >> 4) {
        Some(4) => packet.get(12..20),
        _ => packet.get(8..40),
    };
    let mut mixed = 0;
    for word in addresses.unwrap_or_default().chunks(8) {
        mixed = words(mixed, word);
    }
    if let Some(layout) = Layout::of(packet) {
        let ports = packet.get(layout.network_len..layout.network_len + 4).unwrap_or_default();
        mixed = words(mixed ^ u64::from(layout.transport.number()), ports);
    }
    mixed
}

fn words(mixed: u64, bytes: &[u8]) -> u64 {
    bytes.chunks(8).fold(mixed, |mixed, chunk| {
        let mut word = [0; 8];
        word[..chunk.len()].copy_from_slice(chunk);
        mix(mixed ^ u64::from_le_bytes(word))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    /// UDP over IPv4 from 10.0.0.1 to 10.1.0.`host`.
    fn udp(host: u8, from: u16, to: u16, fragment: u16) -> Vec<u8> {
        let mut packet = vec![0x45, 0, 0, 32, 0, 0, 0, 0, 64, 17, 0, 0, 10, 0, 0, 1, 10, 1, 0, host];
        packet[6..8].copy_from_slice(&fragment.to_be_bytes());
        packet.extend(from.to_be_bytes());
        packet.extend(to.to_be_bytes());
        packet.extend([0, 12, 0, 0, 1, 2, 3, 4]);
        packet
    }

    #[test]
    fn a_flow_has_one_number_and_others_have_others() {
        let one = hash(&udp(1, 1000, 53, 0));
        let mut later = udp(1, 1000, 53, 0);
        later[28] = 99;
        assert_eq!(hash(&later), one, "its content does not matter");
        assert_ne!(hash(&udp(1, 1001, 53, 0)), one);
        assert_ne!(hash(&udp(2, 1000, 53, 0)), one);
        assert_ne!(hash(&udp(1, 53, 1000, 0)), one);
    }

    #[test]
    fn fragments_of_one_datagram_stay_together() {
        let first = hash(&udp(1, 1000, 53, 0x2000));
        assert_eq!(first, hash(&udp(1, 7, 8, 0x0010)));
    }

    #[test]
    fn ports_that_count_up_spread_evenly() {
        let mut halves = [0u32; 2];
        for port in 0..4000 {
            halves[(hash(&udp(1, 30_000 + port, 443, 0)) & 1) as usize] += 1;
        }
        assert!(halves.iter().all(|half| (1800..2200).contains(half)), "{halves:?}");
    }
}
