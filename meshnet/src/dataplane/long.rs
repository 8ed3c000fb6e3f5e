//! The last long packet of each TCP flow, as far as its headers go, so that its sender can be told that it did not arrive.
//!
//! When a path gets narrower in silence, all long packets are lost until that is noticed. Their senders would wait for
//! their timers then: TCP 200 ms, and twice as long each time. They need not: an ICMP error about a segment that is under
//! way has them send again at once what was too long (RFC 1191 section 6.4, `tcp_simple_retransmit` in Linux). The error
//! has to quote a segment that is not acknowledged, and of a flow that stands still the last one sent is none.

use std::time::Duration;

use super::snapshot::MemberSlot;
use crate::path::mtu::LARGE;
use crate::time::Mono;

/// Flows that are remembered. Two in one place take turns.
const PLACES: usize = 64;
/// Headers of a flow that are kept: those of IPv4 with options and the 8 bytes that an error has to quote, and more.
const HEAD_BYTES: usize = 80;
/// A flow that has sent nothing long for so long waits for nothing.
const KEPT_FOR: Duration = Duration::from_secs(2);
const TCP: u8 = 6;

/// The flows of one sending thread. Takes no memory before the first long packet.
#[derive(Default)]
pub(super) struct LongFlows(Box<[Option<Flow>]>);

#[derive(Clone)]
struct Flow {
    slot: MemberSlot,
    at: Mono,
    /// Length of the packet, or of each segment if it is a super-packet.
    len: usize,
    head_len: usize,
    head: [u8; HEAD_BYTES],
}

impl LongFlows {
    /// The TCP packet `packet` leaves for `slot` in pieces of `len` bytes. Others, and short ones, are not noted.
    pub(super) fn note(&mut self, slot: MemberSlot, now: Mono, packet: &[u8], len: usize) {
        if len <= LARGE {
            return;
        }
        let Some(ports_at) = ports_at(packet) else { return };
        let Some(&[a, b, c, d]) = packet.get(ports_at..).and_then(|ports| ports.first_chunk()) else {
            return;
        };
        if self.0.is_empty() {
            self.0 = vec![None; PLACES].into_boxed_slice();
        }
        let ports = u32::from_be_bytes([a, b, c, d]) ^ slot.0;
        let place = (ports.wrapping_mul(0x9E37_79B1) >> 16) as usize % PLACES;
        let head_len = packet.len().min(HEAD_BYTES);
        let flow = self.0[place].get_or_insert(Flow { slot, at: now, len, head_len, head: [0; HEAD_BYTES] });
        (flow.slot, flow.at, flow.len, flow.head_len) = (slot, now, len, head_len);
        flow.head[..head_len].copy_from_slice(&packet[..head_len]);
    }

    /// The beginnings of the last packets to `slot` of those flows whose packets were longer than `mtu` of late.
    pub(super) fn longer(&self, slot: MemberSlot, now: Mono, mtu: usize) -> impl Iterator<Item = &[u8]> {
        let flows = self.0.iter().flatten();
        flows
            .filter(move |flow| flow.slot == slot && flow.len > mtu && now.since(flow.at) <= KEPT_FOR)
            .map(|flow| &flow.head[..flow.head_len])
    }
}

/// Where the ports of an unfragmented TCP packet are; those behind extension headers of IPv6 are not looked for.
fn ports_at(packet: &[u8]) -> Option<usize> {
    match packet.first()? >> 4 {
        4 => {
            let header: &[u8; 20] = packet.first_chunk()?;
            let whole = u16::from_be_bytes([header[6], header[7]]) & 0x3fff == 0;
            (whole && header[9] == TCP).then_some(usize::from(header[0] & 0x0f) * 4)
        }
        6 => (*packet.get(6)? == TCP).then_some(40),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::dataplane::tests::two::{A, B, at};

    fn tcp4(port: u16, sequence: u32, len: usize) -> Vec<u8> {
        let mut packet = vec![0x45, 0, 0, 0, 0, 0, 0x40, 0, 64, 6, 0, 0, 10, 0, 0, 1, 10, 0, 0, 2];
        packet[2..4].copy_from_slice(&(len as u16).to_be_bytes());
        packet.extend(port.to_be_bytes());
        packet.extend([0, 80]);
        packet.extend(sequence.to_be_bytes());
        packet.extend([0, 0, 0, 1, 0x50, 0x10, 0xff, 0xff, 0, 0, 0, 0]);
        packet.resize(len, 0);
        packet
    }

    #[test]
    fn the_last_long_packet_of_each_flow_of_the_peer_is_there() {
        let mut flows = LongFlows::default();
        for sequence in 1..=3 {
            flows.note(A, at(0), &tcp4(1000, sequence, 4000), 1354);
            flows.note(A, at(0), &tcp4(1001, sequence + 10, 1354), 1354);
            flows.note(B, at(0), &tcp4(1000, sequence + 20, 1354), 1354);
        }
        let mut sequences: Vec<u8> = flows.longer(A, at(100), 1238).map(|head| head[27]).collect();
        sequences.sort_unstable();
        assert_eq!(sequences, [3, 13]);
        assert!(flows.longer(A, at(100), 1238).all(|head| head.len() == HEAD_BYTES));
        assert_eq!(flows.longer(A, at(100), 1354).count(), 0, "they pass");
        assert_eq!(flows.longer(A, at(2100), 1238).count(), 0, "long ago");
    }

    #[test]
    fn what_is_short_or_no_tcp_is_not_noted() {
        let mut flows = LongFlows::default();
        flows.note(A, at(0), &tcp4(1000, 1, 1134), 1134);
        let (mut udp, mut fragment) = (tcp4(1000, 1, 1300), tcp4(1000, 1, 1300));
        udp[9] = 17;
        fragment[7] = 1;
        for packet in [&udp[..], &fragment, &[], &[0x45; 4], &[0x60; 7]] {
            flows.note(A, at(0), packet, 1300);
        }
        assert!(flows.0.is_empty());
        let mut v6 = vec![0x60, 0, 0, 0, 5, 0, 6, 64];
        v6.resize(1320, 1);
        flows.note(A, at(0), &v6, 1320);
        assert_eq!(flows.longer(A, at(0), 1280).count(), 1);
    }
}
