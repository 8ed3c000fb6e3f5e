//! Which flows send in bulk, so that the others overtake them before the device.
//!
//! A TUN device keeps packets in the order in which they came, and its kernel takes them off their sockets: some MB of a
//! fast TCP stream can wait there, and everything else behind them. So each lane has a second queue of the device, for flows
//! that sent super-packets of late, and the sending thread reads it when the first one is empty. The kernel sends a flow's
//! packets to the queue that the last packet of its other direction was written to (`tun_flow_update`): the receiving
//! thread chooses, by what the sending one noted here.

use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use meshnet::dataplane::packet::Layout;
use meshnet::time::Mono;

/// Places in the table. Two flows in one place share their fate, which costs one of them an advantage and nothing else.
const PLACES: usize = 1024;
/// A flow is one in bulk for so long after its last super-packet: longer than any queue before the device is.
const LASTS: Duration = Duration::from_secs(1);
/// A place is written at most this often.
const NOTE_EVERY_MS: u32 = 50;

/// When a flow last sent a super-packet, by a hash of it. Shared by all threads; a note that comes late is no harm.
#[derive(Debug)]
pub(super) struct BulkFlows(Box<[AtomicU32]>);

impl BulkFlows {
    /// Without a flow.
    pub(super) fn new() -> BulkFlows {
        BulkFlows((0..PLACES).map(|_| AtomicU32::new(0)).collect())
    }

    /// The super-packet `packet` was sent at `now`.
    pub(super) fn note(&self, now: Mono, packet: &[u8]) {
        let Some(place) = self.place(packet) else { return };
        let (now_ms, noted_ms) = (to_ms(now), place.load(Ordering::Relaxed));
        if noted_ms == 0 || now_ms.wrapping_sub(noted_ms) >= NOTE_EVERY_MS {
            place.store(now_ms, Ordering::Relaxed);
        }
    }

    /// Whether what answers `packet` is part of a flow in bulk.
    pub(super) fn are_answered_by(&self, now: Mono, packet: &[u8]) -> bool {
        let Some(place) = self.place(packet) else { return false };
        let noted_ms = place.load(Ordering::Relaxed);
        noted_ms != 0 && u128::from(to_ms(now).wrapping_sub(noted_ms)) < LASTS.as_millis()
    }

    /// The place of a TCP or UDP flow, the same for both directions.
    fn place(&self, packet: &[u8]) -> Option<&AtomicU32> {
        let layout = Layout::of(packet)?;
        let (source, destination) = {
            let addresses = layout.addresses(packet);
            addresses.split_at(addresses.len() / 2)
        };
        let ports = packet.get(layout.network_len..layout.network_len + 4)?;
        let ends = end(source, &ports[..2]).wrapping_add(end(destination, &ports[2..]));
        self.0.get(mix(ends ^ u64::from(layout.transport.number())) as usize % PLACES)
    }
}

/// A number for one end of a flow.
fn end(address: &[u8], port: &[u8]) -> u64 {
    let words = address.chunks(4).chain([port]);
    words.fold(0, |sum, word| {
        let word = word.iter().fold(0, |word, byte| word << 8 | u64::from(*byte));
        mix(sum ^ word)
    })
}

/// Spreads the bits (the end of MurmurHash3).
fn mix(mut bits: u64) -> u64 {
    bits = (bits ^ bits >> 33).wrapping_mul(0xff51_afd7_ed55_8ccd);
    bits = (bits ^ bits >> 33).wrapping_mul(0xc4ce_b9fe_1a85_ec53);
    bits ^ bits >> 33
}

/// Milliseconds, never 0, which stands for never.
fn to_ms(now: Mono) -> u32 {
    ((now.0 / 1000) as u32).max(1)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    const NOW: Mono = Mono(7_000_000);

    fn after(ms: u64) -> Mono {
        Mono(NOW.0 + ms * 1000)
    }

    /// A TCP packet between 10.0.0.`ends` with these ports.
    fn tcp4(ends: (u8, u8), ports: (u16, u16)) -> Vec<u8> {
        let mut packet = vec![0x45, 0, 0, 40, 0, 0, 0x40, 0, 64, 6, 0, 0, 10, 0, 0, ends.0, 10, 0, 0, ends.1];
        packet.extend(ports.0.to_be_bytes());
        packet.extend(ports.1.to_be_bytes());
        packet.extend([0, 0, 0, 1, 0, 0, 0, 1, 0x50, 0x10, 0xff, 0xff, 0, 0, 0, 0]);
        packet
    }

    fn tcp6(ends: (u8, u8), ports: (u16, u16)) -> Vec<u8> {
        let mut packet = vec![0x60, 0, 0, 0, 0, 20, 6, 64];
        for end in [ends.0, ends.1] {
            packet.extend([0xfd; 15]);
            packet.push(end);
        }
        packet.extend(&tcp4(ends, ports)[20..]);
        packet
    }

    #[test]
    fn answers_to_a_flow_in_bulk_are_known_for_a_second_and_those_of_others_are_not() {
        for make in [tcp4, tcp6] {
            let flows = BulkFlows::new();
            let answer = make((2, 1), (80, 4000));
            assert!(!flows.are_answered_by(NOW, &answer));
            flows.note(NOW, &make((1, 2), (4000, 80)));
            assert!(flows.are_answered_by(NOW, &answer) && flows.are_answered_by(after(999), &answer));
            assert!(!flows.are_answered_by(after(1000), &answer));
            assert!(!flows.are_answered_by(NOW, &make((2, 1), (80, 4001))));
            assert!(!flows.are_answered_by(NOW, &make((2, 3), (80, 4000))));
            flows.note(after(900), &make((1, 2), (4000, 80)));
            assert!(flows.are_answered_by(after(1800), &answer));
        }
    }

    #[test]
    fn what_has_no_ports_is_never_in_bulk() {
        let flows = BulkFlows::new();
        let mut icmp = tcp4((1, 2), (4000, 80));
        icmp[9] = 1;
        let mut fragment = tcp4((1, 2), (4000, 80));
        fragment[6] = 0x20;
        for packet in [&icmp[..], &fragment, &[], &[0x45]] {
            flows.note(NOW, packet);
            assert!(!flows.are_answered_by(NOW, packet));
        }
    }

    #[test]
    fn flows_are_spread() {
        let flows = BulkFlows::new();
        let places: BTreeSet<_> = (0..PLACES as u16)
            .filter_map(|port| flows.place(&tcp4((1, 2), (40_000 + port, 443))))
            .map(std::ptr::from_ref)
            .collect();
        // As many as balls thrown at random would hit: all but one in e.
        assert!((600..700).contains(&places.len()), "{}", places.len());
    }
}
