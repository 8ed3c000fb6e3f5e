//! What was sent lately through relays, so that it can be sent once more when the relay turns out to be gone.
//!
//! The kernel tells that nobody listens at a relay's port any more ([`crate::io::udp::Fault`]) only after the datagrams
//! that were on their way, or in the relay's hands, are lost. A sealed datagram can be sent again over another path: the
//! receiver's replay window lets through whichever copy comes first. So single packets for relayed peers are copied into a
//! ring as they leave. Direct paths, and paths in doubt, which get everything twice already, cost nothing; the segments of
//! super-packets are left out, because their senders repeat what is lost.

use std::collections::VecDeque;
use std::ops::Range;
use std::time::Duration;

use super::snapshot::MemberSlot;
use crate::time::Mono;

/// Bytes that are kept, for all peers together.
const RING_BYTES: usize = 512 * 1024;
/// Datagrams that are kept, for all peers together.
const ENTRIES_MAX: usize = 2048;
/// What is older is not sent again: it covers the way to a relay and back, and what queues at its socket.
const KEPT_FOR: Duration = Duration::from_millis(250);

/// The ring of one sending thread. Takes no memory before the first datagram.
#[derive(Default)]
pub(super) struct Recent {
    bytes: Box<[u8]>,
    /// Where the next datagram goes.
    head: usize,
    entries: VecDeque<Entry>,
}

struct Entry {
    slot: MemberSlot,
    at: Mono,
    start: usize,
    len: usize,
}

impl Recent {
    /// Keeps a copy of a sealed datagram for `slot`. The oldest ones make room.
    pub(super) fn keep(&mut self, slot: MemberSlot, now: Mono, sealed: &[u8]) {
        if self.bytes.is_empty() {
            self.bytes = vec![0; RING_BYTES].into_boxed_slice();
            self.entries.reserve_exact(ENTRIES_MAX);
        }
        if sealed.len() > RING_BYTES {
            return;
        }
        if self.head + sealed.len() > RING_BYTES {
            // What lies between here and the end is the oldest, and would never be reached again.
            let head = self.head;
            while self.entries.front().is_some_and(|oldest| oldest.start >= head) {
                self.entries.pop_front();
            }
            self.head = 0;
        }
        let place = self.head..self.head + sealed.len();
        while self.entries.len() >= ENTRIES_MAX
            || self.entries.front().is_some_and(|oldest| overlaps(oldest, &place))
        {
            self.entries.pop_front();
        }
        self.bytes[place.clone()].copy_from_slice(sealed);
        self.head = place.end;
        self.entries.push_back(Entry { slot, at: now, start: place.start, len: sealed.len() });
    }

    /// The datagrams for `slot` that are young enough to be sent again, oldest first.
    pub(super) fn of(&self, slot: MemberSlot, now: Mono) -> impl Iterator<Item = &[u8]> {
        let young = move |entry: &&Entry| entry.slot == slot && now.since(entry.at) <= KEPT_FOR;
        self.entries.iter().filter(young).map(|entry| &self.bytes[entry.start..entry.start + entry.len])
    }
}

fn overlaps(entry: &Entry, place: &Range<usize>) -> bool {
    entry.start < place.end && place.start < entry.start + entry.len
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::dataplane::tests::two::{A, B, at};

    #[test]
    fn what_is_young_comes_back_in_order_and_only_for_its_peer() {
        let mut recent = Recent::default();
        for number in 0..10_u8 {
            recent.keep(if number % 2 == 0 { A } else { B }, at(u64::from(number) * 100), &[number; 3]);
        }
        let numbers: Vec<u8> = recent.of(A, at(900)).map(|datagram| datagram[0]).collect();
        assert_eq!(numbers, [8], "600 is more than 250 ms before 900");
        let numbers: Vec<u8> = recent.of(A, at(850)).map(|datagram| datagram[0]).collect();
        assert_eq!(numbers, [6, 8]);
    }

    #[test]
    fn however_much_is_kept_it_is_intact_and_bounded() {
        let mut recent = Recent::default();
        for number in 0..20_000_u32 {
            let len = 4 + (number as usize * 7919) % 1500;
            let mut datagram = vec![number as u8; len];
            datagram[..4].copy_from_slice(&number.to_be_bytes());
            recent.keep(A, at(1), &datagram);
            assert!(recent.entries.len() <= ENTRIES_MAX);
        }
        let kept: Vec<&[u8]> = recent.of(A, at(1)).collect();
        assert!(kept.iter().map(|datagram| datagram.len()).sum::<usize>() > RING_BYTES / 2);
        for (back, datagram) in kept.iter().rev().enumerate() {
            let number = 19_999 - back as u32;
            assert_eq!(datagram[..4], number.to_be_bytes());
            assert!(datagram[4..].iter().all(|byte| *byte == number as u8), "{number}");
        }
    }
}
