//! Who may cost us a Diffie-Hellman, and how often: load detection and a token bucket per source.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr};
use std::time::Duration;

use proto::id::MemberId;

use crate::time::Mono;

/// Handshakes that one source may start per second.
pub const HANDSHAKES_PER_S: u64 = 20;

/// Handshakes that one source may start at once.
pub const HANDSHAKE_BURST: u64 = 5;

/// Sources remembered by one limiter. A source that has all its tokens need not be remembered.
pub const MAX_SOURCES: usize = 4096;

/// Handshakes per second from all sources together from which on the node is under load: each costs a responder four
/// Diffie-Hellman operations.
pub const LOAD_HANDSHAKES_PER_S: u32 = 250;

/// How long the node stays under load after the last sign of it.
pub const LOAD_HOLD: Duration = Duration::from_secs(1);

/// Microseconds for one token to come back.
const INTERVAL_US: u64 = 1_000_000 / HANDSHAKES_PER_S;

/// What a bucket is kept for: an IPv4 address, an IPv6 /64 (a whole one is had for the asking), or, for datagrams
/// that came through a relay, the member that they say they are from.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub(super) enum Source {
    V4(Ipv4Addr),
    V6Net([u8; 8]),
    Member(MemberId),
}

impl Source {
    pub(super) fn of(address: IpAddr) -> Source {
        match address.to_canonical() {
            IpAddr::V4(v4) => Source::V4(v4),
            IpAddr::V6(v6) => Source::V6Net(*v6.octets().first_chunk().expect("16 octets have 8")),
        }
    }
}

/// One token bucket per source, in a bounded table.
///
/// A bucket is the time at which it will be full again (the generic cell rate algorithm), so that it needs no upkeep.
pub(super) struct RateLimiter {
    full_at: BTreeMap<Source, Mono>,
    swept: Mono,
}

impl RateLimiter {
    pub(super) fn new() -> Self {
        RateLimiter { full_at: BTreeMap::new(), swept: Mono(0) }
    }

    /// Takes a token of `source`; false when it has none, or when the table is full of others.
    pub(super) fn take(&mut self, now: Mono, source: Source) -> bool {
        let full_at = self.full_at.get(&source).copied();
        if full_at.is_none() && !self.has_room(now) {
            return false;
        }
        let full_at = full_at.map_or(now, |at| at.max(now));
        if full_at.0 - now.0 > (HANDSHAKE_BURST - 1) * INTERVAL_US {
            return false;
        }
        self.full_at.insert(source, Mono(full_at.0 + INTERVAL_US));
        true
    }

    /// Sweeps out full buckets when the table is full, at most once per time that a bucket takes to fill.
    fn has_room(&mut self, now: Mono) -> bool {
        if self.full_at.len() < MAX_SOURCES {
            return true;
        }
        if now.0.saturating_sub(self.swept.0) < HANDSHAKE_BURST * INTERVAL_US {
            return false;
        }
        self.swept = now;
        self.full_at.retain(|_, full_at| *full_at > now);
        self.full_at.len() < MAX_SOURCES
    }

    #[cfg(test)]
    pub(super) fn len(&self) -> usize {
        self.full_at.len()
    }
}

/// Whether handshakes come faster than they should be served without proof of address.
pub(super) struct Load {
    second: Mono,
    handshakes: u32,
    until: Mono,
}

impl Load {
    pub(super) fn new() -> Self {
        Load { second: Mono(0), handshakes: 0, until: Mono(0) }
    }

    /// Counts one handshake that is about to cost Diffie-Hellman operations.
    pub(super) fn note_handshake(&mut self, now: Mono) {
        if now.since(self.second) >= Duration::from_secs(1) {
            (self.second, self.handshakes) = (now, 0);
        }
        self.handshakes = self.handshakes.saturating_add(1);
        if self.handshakes > LOAD_HANDSHAKES_PER_S {
            self.until = now + LOAD_HOLD;
        }
    }

    /// Counts one that was turned away. It does not begin a load, so that a single source cannot; but while they come as
    /// fast as before, a load does not end, and no round of them gets through each second.
    pub(super) fn note_turned_away(&mut self, now: Mono) {
        if self.is_high(now) {
            self.note_handshake(now);
        }
    }

    /// Learns how full the queue of handshakes is: over an eighth is load.
    pub(super) fn note_backlog(&mut self, now: Mono, queued: usize, capacity: usize) {
        if queued > capacity / 8 {
            self.until = now + LOAD_HOLD;
        }
    }

    pub(super) fn is_high(&self, now: Mono) -> bool {
        now < self.until
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn v4(n: u32) -> Source {
        Source::of(IpAddr::from(Ipv4Addr::from_bits(n)))
    }

    fn at_ms(ms: u64) -> Mono {
        Mono(1_000_000_000 + ms * 1000)
    }

    #[test]
    fn a_source_gets_its_burst_then_its_rate() {
        let mut limiter = RateLimiter::new();
        let at_once = (0..100).filter(|_| limiter.take(at_ms(0), v4(1))).count();
        assert_eq!(at_once as u64, HANDSHAKE_BURST);
        let in_ten_seconds = (1..=10_000).filter(|ms| limiter.take(at_ms(*ms), v4(1))).count();
        assert_eq!(in_ten_seconds as u64, 10 * HANDSHAKES_PER_S);
    }

    #[test]
    fn one_source_takes_nothing_from_another() {
        let mut limiter = RateLimiter::new();
        while limiter.take(at_ms(0), v4(1)) {}
        assert!(limiter.take(at_ms(0), v4(2)));
        assert!(limiter.take(at_ms(0), Source::Member(MemberId([0; 16]))));
    }

    #[test]
    fn addresses_of_one_ipv6_network_share_a_bucket_and_mapped_ones_are_ipv4() {
        let v6 = |text: &str| Source::of(text.parse().unwrap());
        assert_eq!(v6("2001:db8:1:2::1"), v6("2001:db8:1:2:ffff::9"));
        assert_ne!(v6("2001:db8:1:2::1"), v6("2001:db8:1:3::1"));
        assert_eq!(v6("::ffff:192.0.2.1"), v6("192.0.2.1"));
    }

    #[test]
    fn the_table_is_bounded_and_recovers() {
        let mut limiter = RateLimiter::new();
        let taken = (0..2 * MAX_SOURCES as u32).filter(|n| limiter.take(at_ms(0), v4(*n))).count();
        assert_eq!((taken, limiter.len()), (MAX_SOURCES, MAX_SOURCES));
        assert!(limiter.take(at_ms(0), v4(1)), "who is in the table keeps its tokens");
        assert!(limiter.take(at_ms(300), v4(u32::MAX)));
        assert!(limiter.len() < 10);
    }

    #[test]
    fn a_full_table_is_swept_once_in_the_time_a_bucket_takes_to_fill_and_of_full_buckets_only() {
        let time_us = HANDSHAKE_BURST * INTERVAL_US;
        let start = at_ms(0);
        let after = |us: u64| Mono(start.0 + us);
        let mut limiter = RateLimiter::new();
        for n in 0..MAX_SOURCES as u32 {
            assert!(limiter.take(start, v4(n)));
        }
        // The first one to come too late has it swept: nobody's bucket is full yet.
        assert!(!limiter.take(start, v4(u32::MAX)));
        assert_eq!(limiter.len(), MAX_SOURCES);
        // Theirs are full soon after; but it was swept just now.
        assert!(!limiter.take(after(INTERVAL_US), v4(u32::MAX)));
        assert!(!limiter.take(after(time_us - 1), v4(u32::MAX)));
        assert_eq!(limiter.len(), MAX_SOURCES);
        // One has taken another token, and is kept.
        assert!(limiter.take(after(time_us - 1), v4(7)));
        assert!(limiter.take(after(time_us), v4(u32::MAX)));
        assert_eq!(limiter.len(), 2);
        // Exactly when a bucket is full it is no longer needed.
        let mut limiter = RateLimiter::new();
        for n in 0..MAX_SOURCES as u32 {
            assert!(limiter.take(start, v4(n)));
        }
        assert!(limiter.take(after(INTERVAL_US), v4(u32::MAX)));
        assert_eq!(limiter.len(), 1);
    }

    #[test]
    fn load_comes_from_rate_or_backlog_and_passes() {
        let mut load = Load::new();
        for _ in 0..LOAD_HANDSHAKES_PER_S {
            load.note_handshake(at_ms(0));
        }
        assert!(!load.is_high(at_ms(0)));
        load.note_handshake(at_ms(1));
        assert!(load.is_high(at_ms(1000)) && !load.is_high(at_ms(1001)));
        load.note_backlog(at_ms(5000), 8, 64);
        assert!(!load.is_high(at_ms(5000)));
        load.note_backlog(at_ms(5000), 9, 64);
        assert!(load.is_high(at_ms(5999)) && !load.is_high(at_ms(6000)));
    }

    #[test]
    fn those_turned_away_keep_a_load_up_and_begin_none() {
        let mut load = Load::new();
        for ms in 0..10_000 {
            load.note_turned_away(at_ms(ms));
            assert!(!load.is_high(at_ms(ms)));
        }
        load.note_backlog(at_ms(10_000), 9, 64);
        for ms in 10_000..20_000 {
            load.note_turned_away(at_ms(ms));
            assert!(load.is_high(at_ms(ms)), "{ms}");
        }
        // Slower than the limit: it passes.
        for ms in (20_000..24_000).step_by(10) {
            load.note_turned_away(at_ms(ms));
        }
        assert!(!load.is_high(at_ms(24_000)));
    }
}
