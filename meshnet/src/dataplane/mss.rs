//! Keeping TCP from segments that a path does not carry: the MSS option of SYNs is lowered (as `tcp_mss` of iptables and
//! nftables does). Only ever lowered, and never added.

use super::checksum;
use super::packet::{Layout, Transport};

const SYN: u8 = 0x02;
const TCP_FLAGS_AT: usize = 13;
const TCP_HEADER: usize = 20;
/// TCP options (RFC 9293 section 3.1): end, padding, maximum segment size.
const END: u8 = 0;
const PADDING: u8 = 1;
const MSS: u8 = 2;

/// Whether the packet begins a TCP connection, as far as its fixed headers tell. Quick, for every packet.
pub fn is_syn(packet: &[u8]) -> bool {
    let (protocol, transport) = match packet.first().map(|byte| byte >> 4) {
        Some(4) => (packet.get(9), usize::from(packet[0] & 0x0f) * 4),
        Some(6) => (packet.get(6), 40),
        _ => return false,
    };
    protocol == Some(&6) && packet.get(transport + TCP_FLAGS_AT).is_some_and(|flags| flags & SYN != 0)
}

/// Lowers the MSS option of a SYN so that segments fit into `mtu`. The checksum is updated if it is `complete`; one that
/// is still to be computed is over what is there then. Returns whether something was changed.
pub fn clamp(packet: &mut [u8], mtu: u16, complete: bool) -> bool {
    let Some(layout) = Layout::of(packet).filter(|layout| layout.transport == Transport::Tcp) else {
        return false;
    };
    let fixed = if layout.is_v4 { 20 } else { 40 } + TCP_HEADER as u16;
    let most = mtu.saturating_sub(fixed);
    let options = layout.network_len + TCP_HEADER..layout.header_len;
    let Some(at) = find_mss(&packet[options.clone()]).map(|at| options.start + at) else { return false };
    let old = u16::from_be_bytes([packet[at], packet[at + 1]]);
    if old <= most {
        return false;
    }
    packet[at..at + 2].copy_from_slice(&most.to_be_bytes());
    if complete {
        // An option may begin at any byte: in the sum its two bytes then change places (RFC 1071 section 2).
        let turned = (at - layout.network_len) % 2 == 1;
        let (old, new) = if turned { (old.swap_bytes(), most.swap_bytes()) } else { (old, most) };
        let field = layout.checksum_at();
        let before = u16::from_be_bytes([packet[field], packet[field + 1]]);
        let after = !checksum::add(checksum::add(!before, !old), new);
        packet[field..field + 2].copy_from_slice(&after.to_be_bytes());
    }
    true
}

/// Place of the MSS value in the options of a TCP header.
fn find_mss(options: &[u8]) -> Option<usize> {
    let mut at = 0;
    loop {
        match *options.get(at)? {
            END => return None,
            PADDING => at += 1,
            MSS if options.get(at + 1) == Some(&4) => return options.get(at + 3).map(|_| at + 2),
            // A length below 2 would never end.
            _ => at += usize::from(*options.get(at + 1)?).max(2),
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn syn(is_v4: bool, options: &[u8]) -> Vec<u8> {
        let mut tcp = vec![0x30, 0x39, 0, 80, 1, 2, 3, 4, 0, 0, 0, 0, 0, SYN, 0xff, 0xff, 0, 0, 0, 0];
        tcp.extend_from_slice(options);
        tcp.resize(tcp.len().next_multiple_of(4), 0);
        tcp[12] = ((tcp.len() / 4) << 4) as u8;
        let mut packet = if is_v4 {
            vec![0x45, 0, 0, 0, 0, 1, 0x40, 0, 64, 6, 0, 0, 10, 9, 0, 1, 10, 9, 0, 2]
        } else {
            let mut header = vec![0x60, 0, 0, 0, 0, 0, 6, 64];
            header.extend_from_slice(&[0xfd; 32]);
            header
        };
        let network_len = packet.len();
        packet.extend_from_slice(&tcp);
        let len = packet.len() as u16;
        match is_v4 {
            true => packet[2..4].copy_from_slice(&len.to_be_bytes()),
            false => packet[4..6].copy_from_slice(&(len - 40).to_be_bytes()),
        }
        let layout = Layout::of(&packet).unwrap();
        let pseudo = checksum::pseudo_header(layout.addresses(&packet), 6, len - network_len as u16);
        let at = layout.checksum_at();
        packet[at..at + 2].copy_from_slice(&pseudo.to_be_bytes());
        checksum::complete(&mut packet[network_len..], 16);
        packet
    }

    fn is_right(packet: &[u8]) -> bool {
        let layout = Layout::of(packet).unwrap();
        let len = (packet.len() - layout.network_len) as u16;
        let pseudo = checksum::pseudo_header(layout.addresses(packet), 6, len);
        checksum::add(checksum::sum(&packet[layout.network_len..]), pseudo) == 0xffff
    }

    #[test]
    fn only_what_is_too_long_is_lowered() {
        for (is_v4, mtu, given, expected) in [
            (true, 1354, 1460_u16, 1314_u16),
            (false, 1354, 1440, 1294),
            (true, 1354, 536, 536),
            (true, 9000, 1460, 1460),
        ] {
            let [high, low] = given.to_be_bytes();
            let mut packet = syn(is_v4, &[2, 4, high, low, 1, 3, 3, 7, 4, 2]);
            assert!(is_syn(&packet));
            assert_eq!(clamp(&mut packet, mtu, true), given != expected);
            let at = if is_v4 { 42 } else { 62 };
            assert_eq!(packet[at..at + 2], expected.to_be_bytes());
            assert!(is_right(&packet));
        }
    }

    #[test]
    fn a_checksum_that_is_still_to_be_computed_stays() {
        let mut packet = syn(true, &[2, 4, 5, 0xb4]);
        packet[36..38].copy_from_slice(&[0x12, 0x34]);
        assert!(clamp(&mut packet, 1000, false));
        assert_eq!(packet[36..38], [0x12, 0x34]);
    }

    #[test]
    fn what_is_no_syn_is_told_apart() {
        let mut packet = syn(true, &[2, 4, 5, 0xb4]);
        packet[33] = 0x10;
        assert!(!is_syn(&packet));
        packet[33] = SYN;
        packet[9] = 17;
        assert!(!is_syn(&packet) && !clamp(&mut packet, 500, true));
        assert!(!is_syn(&[]) && !is_syn(&[0x45; 21]));
    }

    proptest! {
        #[test]
        fn whatever_the_options_the_checksum_stays_right(
            options in prop::collection::vec(any::<u8>(), 0..40),
            padding in 0_usize..4,
            mss in any::<u16>(),
            mtu in 100_u16..9000,
            is_v4: bool,
        ) {
            let mut all = vec![PADDING; padding];
            all.extend_from_slice(&[MSS, 4]);
            all.extend_from_slice(&mss.to_be_bytes());
            all.extend_from_slice(&options[..options.len().min(40 - all.len())]);
            let mut packet = syn(is_v4, &all);
            prop_assert_eq!(clamp(&mut packet, mtu, true), mss > mtu - if is_v4 { 40 } else { 60 });
            prop_assert!(is_right(&packet));
        }

        #[test]
        fn nonsense_is_survived(bytes in prop::collection::vec(any::<u8>(), 0..120), mtu: u16) {
            let mut packet = bytes;
            is_syn(&packet);
            if super::super::packet::addresses(&packet).is_some() {
                clamp(&mut packet, mtu, true);
            }
        }
    }
}
