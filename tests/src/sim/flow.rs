//! Numbered overlay packets, and what became of them.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::time::Duration;

/// In every packet's payload. It must never be seen on the underlay.
pub const MARKER: &[u8; 16] = b"in clear nowhere";

/// Shortest overlay packet: an IPv6 and a UDP header, the marker, and the numbers.
const MIN_LEN: usize = 40 + 8 + MARKER.len() + 12;

/// A sender that was told that its packets are too long tries again after this.
const KEEPS_TO: Duration = Duration::from_millis(500);

/// A flow of numbered packets between two machines.
#[derive(Clone, Debug)]
pub struct Flow {
    /// Index of the sending machine.
    pub from: usize,
    /// Index of the machine that is to get the packets.
    pub to: usize,
    /// Inner source.
    pub source: IpAddr,
    /// Inner destination.
    pub destination: IpAddr,
    /// Length of a packet in bytes, unless the sender was told that it is too long.
    pub len: usize,
    /// Time between packets in microseconds.
    pub every_us: u64,
    /// No packet is sent from then on.
    pub until_us: u64,
    /// What the sender was told that passes, and until when it keeps to that.
    limit: Option<(usize, u64)>,
    sent_us: Vec<u64>,
    lens: Vec<usize>,
    arrived_us: BTreeMap<u64, u64>,
}

/// What became of a flow.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Report {
    /// Packets sent.
    pub sent: u64,
    /// Packets that arrived.
    pub arrived: u64,
    /// Longest stretch of consecutive packets that did not arrive, from the first one's sending to the next arriving one's.
    pub longest_outage: Duration,
    /// Longest time on the way.
    pub longest_delay: Duration,
}

impl Report {
    /// Packets that did not arrive.
    pub fn lost(&self) -> u64 {
        self.sent - self.arrived
    }
}

impl Flow {
    /// A flow without packets yet.
    pub fn new(
        (from, source): (usize, IpAddr),
        (to, destination): (usize, IpAddr),
        len: usize,
        every_us: u64,
        until_us: u64,
    ) -> Flow {
        let len = len.max(MIN_LEN);
        let (limit, sent_us, lens, arrived_us) = (None, Vec::new(), Vec::new(), BTreeMap::new());
        Flow { from, to, source, destination, len, every_us, until_us, limit, sent_us, lens, arrived_us }
    }

    /// Makes the next packet.
    pub fn next_packet(&mut self, now_us: u64, flow: u32) -> Vec<u8> {
        let number = self.sent_us.len() as u64;
        let limit = self.limit.filter(|(_, until_us)| now_us < *until_us).map(|(len, _)| len);
        let len = self.len.min(limit.unwrap_or(self.len));
        self.sent_us.push(now_us);
        self.lens.push(len);
        packet(self.source, self.destination, flow, number, len)
    }

    /// The packet made last was refused: no more than `mtu` bytes pass. It counts as never made, and the sender keeps to that
    /// for [`KEEPS_TO`].
    pub fn refused(&mut self, now_us: u64, mtu: usize) {
        self.sent_us.pop();
        self.lens.pop();
        self.limit = Some((mtu.max(MIN_LEN), now_us + KEEPS_TO.as_micros() as u64));
    }

    /// Notes an arrival.
    ///
    /// # Errors
    /// Tells what is wrong with a packet that was never sent, is not as it was sent, or has arrived before.
    pub fn arrived(&mut self, now_us: u64, flow: u32, number: u64, bytes: &[u8]) -> Result<(), &'static str> {
        if number >= self.sent_us.len() as u64 {
            return Err("a packet that was never sent");
        }
        let len = self.lens[number as usize];
        if bytes != packet(self.source, self.destination, flow, number, len) {
            return Err("a packet that is not as it was sent");
        }
        match self.arrived_us.insert(number, now_us) {
            None => Ok(()),
            Some(_) => Err("a packet for the second time"),
        }
    }

    /// What became of the packets sent so far.
    pub fn report(&self) -> Report {
        let mut longest_outage_us = 0;
        let mut since_us = None;
        for (number, sent_us) in self.sent_us.iter().enumerate() {
            if self.arrived_us.contains_key(&(number as u64)) {
                let outage_us = since_us.take().map_or(0, |since_us| sent_us - since_us);
                longest_outage_us = longest_outage_us.max(outage_us);
            } else {
                since_us.get_or_insert(*sent_us);
            }
        }
        if let (Some(since_us), Some(last_us)) = (since_us, self.sent_us.last()) {
            longest_outage_us = longest_outage_us.max(last_us + self.every_us - since_us);
        }
        let delay_us = self.arrived_us.iter().map(|(number, at_us)| at_us - self.sent_us[*number as usize]);
        Report {
            sent: self.sent_us.len() as u64,
            arrived: self.arrived_us.len() as u64,
            longest_outage: Duration::from_micros(longest_outage_us),
            longest_delay: Duration::from_micros(delay_us.max().unwrap_or(0)),
        }
    }
}

/// Flow and number of a packet made by [`packet`].
pub(super) fn numbers(packet: &[u8]) -> Option<(u32, u64)> {
    let headers = if packet.first()? >> 4 == 4 { 28 } else { 48 };
    let payload = packet.get(headers..)?.strip_prefix(MARKER)?;
    let (flow, rest) = payload.split_first_chunk()?;
    Some((u32::from_be_bytes(*flow), u64::from_be_bytes(*rest.first_chunk()?)))
}

/// A UDP packet that must not be fragmented (its checksum left out, as IPv4 allows, and nobody looks here) of `len` bytes.
pub fn packet(source: IpAddr, destination: IpAddr, flow: u32, number: u64, len: usize) -> Vec<u8> {
    let mut out = Vec::with_capacity(len);
    match (source, destination) {
        (IpAddr::V4(source), IpAddr::V4(destination)) => {
            out.extend([0x45, 0]);
            out.extend((len as u16).to_be_bytes());
            out.extend([0, 0, 0x40, 0, 64, 17, 0, 0]);
            out.extend(source.octets());
            out.extend(destination.octets());
        }
        (IpAddr::V6(source), IpAddr::V6(destination)) => {
            out.extend([0x60, 0, 0, 0]);
            out.extend((len as u16 - 40).to_be_bytes());
            out.extend([17, 64]);
            out.extend(source.octets());
            out.extend(destination.octets());
        }
        _ => panic!("source and destination are of different families"),
    }
    let udp_len = (len - out.len()) as u16;
    // Each flow has a port of its own.
    out.extend((0x4000 | (flow & 0x3fff) as u16).to_be_bytes());
    out.extend([0x1b, 0x58]);
    out.extend(udp_len.to_be_bytes());
    out.extend([0, 0]);
    out.extend(MARKER);
    out.extend(flow.to_be_bytes());
    out.extend(number.to_be_bytes());
    out.resize(len, number as u8);
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    fn flow() -> Flow {
        let at = |last| IpAddr::from([10, 99, 0, last]);
        Flow::new((0, at(1)), (1, at(2)), 200, 1000, u64::MAX)
    }

    #[test]
    fn packets_carry_their_numbers_in_both_families() {
        for (source, destination) in [("10.0.0.1", "10.0.0.2"), ("fd00::1", "fd00::2")] {
            let (source, destination) = (source.parse().unwrap(), destination.parse().unwrap());
            let packet = packet(source, destination, 7, 1 << 40, 300);
            assert_eq!(packet.len(), 300);
            assert_eq!(numbers(&packet), Some((7, 1 << 40)));
            let addresses = meshnet::dataplane::packet::addresses(&packet).unwrap();
            assert_eq!((addresses.source, addresses.destination), (source, destination));
        }
    }

    #[test]
    fn twice_altered_and_never_sent_are_told_apart() {
        let mut flow = flow();
        let mut packet = flow.next_packet(0, 3);
        assert_eq!(flow.arrived(5, 3, 0, &packet), Ok(()));
        assert_eq!(flow.arrived(6, 3, 0, &packet), Err("a packet for the second time"));
        packet[100] ^= 1;
        assert_eq!(flow.arrived(6, 3, 0, &packet), Err("a packet that is not as it was sent"));
        assert_eq!(flow.arrived(6, 3, 1, &packet), Err("a packet that was never sent"));
    }

    #[test]
    fn an_outage_lasts_from_the_first_lost_packet_to_the_next_that_arrives() {
        let mut flow = flow();
        for number in 0..10u64 {
            let packet = flow.next_packet(number * 1000, 0);
            if ![2, 3, 4, 8, 9].contains(&number) {
                flow.arrived(number * 1000 + 70, 0, number, &packet).unwrap();
            }
        }
        let report = flow.report();
        assert_eq!((report.sent, report.lost()), (10, 5));
        assert_eq!(report.longest_outage, Duration::from_millis(3));
        assert_eq!(report.longest_delay, Duration::from_micros(70));
    }
}
