//! The two clocks of the core, read from the kernel.

use std::time::{SystemTime, UNIX_EPOCH};

use nix::time::{ClockId, clock_gettime};

use crate::time::{Mono, Now, UnixMs};

/// Both clocks now.
pub fn now() -> Now {
    Now { mono: mono(), wall: wall() }
}

/// `CLOCK_BOOTTIME` in microseconds: monotonic, and goes on while the machine sleeps (clock_gettime(2)).
///
/// Where a sandbox refuses that clock, `CLOCK_MONOTONIC`, which stands still during suspend.
pub fn mono() -> Mono {
    let time = clock_gettime(ClockId::CLOCK_BOOTTIME).or_else(|_| clock_gettime(ClockId::CLOCK_MONOTONIC));
    let time = time.expect("CLOCK_MONOTONIC exists on every Linux");
    let seconds = u64::try_from(time.tv_sec()).unwrap_or(0);
    let micros = u64::try_from(time.tv_nsec()).unwrap_or(0) / 1000;
    Mono(seconds * 1_000_000 + micros)
}

/// `CLOCK_REALTIME` in milliseconds since the Unix epoch; zero if the machine believes to be before 1970.
pub fn wall() -> UnixMs {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    UnixMs(u64::try_from(since.as_millis()).unwrap_or(u64::MAX))
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn the_monotonic_clock_never_goes_back_and_counts_microseconds() {
        let reference = std::time::Instant::now();
        let start = mono();
        std::thread::sleep(Duration::from_millis(20));
        let (end, passed) = (mono(), reference.elapsed());
        let measured = end.since(start);
        assert!(end > start);
        assert!(measured >= Duration::from_millis(19), "{measured:?}");
        assert!(measured <= passed + Duration::from_millis(5), "{measured:?} against {passed:?}");
    }

    #[test]
    fn the_wall_clock_is_in_milliseconds() {
        let seconds = wall().seconds();
        assert!(seconds > 1_600_000_000 && seconds < 10_000_000_000, "{seconds}");
    }
}
