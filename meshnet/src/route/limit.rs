//! Pacing: how often a record may change, and how soon after a change shortest paths are computed anew.

use std::time::Duration;

use crate::time::Mono;

/// A token bucket over events: `burst` at once, then one every `interval`.
#[derive(Clone, Copy, Debug)]
pub struct TokenBucket {
    /// When the bucket is full again; each event moves it by one interval (the virtual scheduling form of GCRA, ITU-T
    /// I.371).
    full_at: Mono,
    /// In microseconds; small, for there is a bucket for each member.
    interval_us: u32,
    burst: u32,
}

impl TokenBucket {
    /// A full bucket.
    ///
    /// # Panics
    /// When `interval` is over an hour.
    pub const fn new(burst: u32, interval: Duration) -> Self {
        assert!(interval.as_secs() < 3600, "it fits into 32 bits of microseconds");
        Self { full_at: Mono(0), interval_us: interval.as_micros() as u32, burst }
    }

    /// When the next event may happen: `now`, or later.
    pub fn ready_at(&self, now: Mono) -> Mono {
        let slack_us = u64::from(self.interval_us) * u64::from(self.burst.saturating_sub(1));
        now.max(Mono(self.full_at.0.saturating_sub(slack_us)))
    }

    /// Takes one token; `false` if there is none.
    pub fn take(&mut self, now: Mono) -> bool {
        let ready = self.ready_at(now) <= now;
        if ready {
            self.full_at = Mono(self.full_at.max(now).0 + u64::from(self.interval_us));
        }
        ready
    }
}

/// Decides when to compute shortest paths: soon after a lone change, ever later in a storm of changes, up to a bound that
/// grows with what a computation costs; back to soon after a quiet time (after RFC 8405, with doubling in place of three
/// states).
#[derive(Clone, Debug)]
pub struct SpfTimer {
    due: Option<Mono>,
    delay: Duration,
    last: Option<Mono>,
    bound: Duration,
}

impl SpfTimer {
    /// Delay of the first computation, which gathers changes that arrive together.
    pub const SHORTEST: Duration = Duration::from_millis(50);
    /// Bound on the delay in the largest meshes.
    pub const LONGEST: Duration = Duration::from_secs(1);
    /// What the bound grows by with each member: a computation takes some microseconds for each, so that one takes at most
    /// some hundredths of the time between two. A small mesh, which changes most while it is set up, waits for nothing.
    pub const LONGEST_PER_MEMBER: Duration = Duration::from_micros(100);
    /// A time without changes after which the delay is [`SpfTimer::SHORTEST`] again.
    pub const QUIET: Duration = Duration::from_secs(10);

    /// A timer with nothing due.
    pub const fn new() -> Self {
        Self { due: None, delay: Self::SHORTEST, last: None, bound: Self::SHORTEST }
    }

    /// Tells that something changed.
    pub fn changed(&mut self, now: Mono) {
        if self.last.is_none_or(|last| now.since(last) >= Self::QUIET) {
            self.delay = Self::SHORTEST;
        }
        self.last = Some(now);
        if self.due.is_none() {
            self.due = Some(now + self.delay);
            self.delay = (self.delay * 2).min(self.bound);
        }
    }

    /// When to call [`SpfTimer::fire`] next.
    pub fn poll_timeout(&self) -> Option<Mono> {
        self.due
    }

    /// Whether a computation is due at `now`, over so many members; true once per computation.
    pub fn fire(&mut self, now: Mono, members: usize) -> bool {
        let due = self.due.is_some_and(|due| due <= now);
        if due {
            self.due = None;
            let members = u32::try_from(members).unwrap_or(u32::MAX);
            self.bound =
                Self::LONGEST_PER_MEMBER.saturating_mul(members).clamp(Self::SHORTEST, Self::LONGEST);
        }
        due
    }
}

impl Default for SpfTimer {
    fn default() -> Self {
        Self::new()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: u64 = 1_000_000;

    #[test]
    fn a_bucket_gives_its_burst_then_its_rate_and_fills_again() {
        let mut bucket = TokenBucket::new(3, Duration::from_secs(1));
        let taken = |bucket: &mut TokenBucket, at: u64| (0..10).filter(|_| bucket.take(Mono(at))).count();
        assert_eq!(taken(&mut bucket, 0), 3);
        assert_eq!(bucket.ready_at(Mono(0)), Mono(SECOND));
        assert_eq!(taken(&mut bucket, SECOND - 1), 0);
        assert_eq!(taken(&mut bucket, SECOND), 1);
        assert_eq!(taken(&mut bucket, 3 * SECOND), 2);
        assert_eq!(taken(&mut bucket, 1000 * SECOND), 3);
    }

    #[test]
    fn a_storm_of_changes_costs_ever_fewer_computations_and_quiet_resets() {
        let mut timer = SpfTimer::new();
        let mut computed = Vec::new();
        for ms in 0..60_000 {
            let now = Mono(ms * 1000);
            timer.changed(now);
            if timer.fire(now, 100_000) {
                computed.push(ms);
            }
        }
        assert_eq!(computed[0], 50);
        assert!(computed.len() < 70, "{computed:?}");
        let gaps: Vec<u64> = computed.windows(2).map(|pair| pair[1] - pair[0]).collect();
        assert!(gaps.windows(2).all(|pair| pair[0] <= pair[1]), "{gaps:?}");
        assert!(gaps.iter().all(|gap| *gap <= 1_001));

        let later = Mono(600 * SECOND);
        timer.fire(later, 100_000);
        timer.changed(later);
        assert_eq!(timer.poll_timeout(), Some(later + SpfTimer::SHORTEST));
        assert!(!timer.fire(later, 100_000));
        assert!(timer.fire(later + SpfTimer::SHORTEST, 100_000));
        assert!(!timer.fire(later + SpfTimer::SHORTEST, 100_000));
        assert_eq!(timer.poll_timeout(), None);
    }

    #[test]
    fn a_small_mesh_does_not_wait_however_much_it_changes() {
        let mut timer = SpfTimer::new();
        let computed = (0..10_000u64).filter(|ms| {
            let now = Mono(ms * 1000);
            timer.changed(now);
            timer.fire(now, 20)
        });
        assert!(computed.count() > 190);
    }
}
