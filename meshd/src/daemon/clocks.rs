//! Noticing that the machine slept, that this process was stopped, or that the wall clock was set.
//!
//! Three clocks are compared: one that goes on during suspend, one that does not, and the wall's. A timer that the kernel
//! cancels when the wall clock is set, also at the end of a suspend (timerfd_create(2), `TFD_TIMER_CANCEL_ON_SET`), says when
//! to look; other timers would stand still as long as the machine slept.

use std::os::fd::AsFd;
use std::time::{Duration, Instant};

use meshnet::io::clock;
use meshnet::time::{Mono, UnixMs};
use nix::sys::time::TimeSpec;
use nix::sys::timerfd::{ClockId, Expiration, TimerFd, TimerFlags, TimerSetTimeFlags};
use tokio::net::unix::pipe;
use tracing::debug;

/// A loop that comes so late was not just waiting for a processor.
const STOPPED_AFTER: Duration = Duration::from_millis(1_500);
/// A suspend that is shorter changes nothing.
const SLEPT_AFTER: Duration = Duration::from_millis(500);
/// How far the wall clock moves at once when it is set, and not only steered.
const JUMP_MS: u64 = 2_000;
/// The timer is never to end by itself.
const FAR: Duration = Duration::from_secs(365 * 24 * 3600);

/// The clocks at one moment.
#[derive(Clone, Copy, Debug)]
struct Reading {
    boot: Mono,
    steady: Instant,
    wall: UnixMs,
}

/// Something happened to time.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Noticed {
    /// The machine was suspended, or this process stopped, for about so long.
    Slept(Duration),
    /// The wall clock was set by so many milliseconds.
    Jumped(i64),
}

/// The clocks, and what they said last.
pub(super) struct Clocks {
    timer: Option<pipe::Receiver>,
    last: Reading,
}

impl Clocks {
    /// From now on. Must be made in a runtime.
    pub(super) fn new() -> Clocks {
        let timer = arm().inspect_err(|error| debug!(%error, "only a late loop tells of a suspend")).ok();
        Clocks { timer, last: Reading::now() }
    }

    /// Waits until the clock was set or the machine woke up. May be cancelled.
    pub(super) async fn changed(&mut self) {
        let Some(timer) = &self.timer else { return std::future::pending().await };
        // Whatever it says: another takes its place.
        let _ = timer.readable().await;
        self.timer = arm().ok();
    }

    /// What happened since the last look. `late`: by how much the loop missed its next deadline.
    pub(super) fn look(&mut self, late: Duration) -> Vec<Noticed> {
        let before = std::mem::replace(&mut self.last, Reading::now());
        compare(&before, &self.last, late)
    }
}

impl Reading {
    fn now() -> Reading {
        Reading { boot: clock::mono(), steady: Instant::now(), wall: clock::wall() }
    }
}

/// The timer's descriptor, to be waited for as one of a pipe: that is what the runtime has for readable descriptors.
fn arm() -> std::io::Result<pipe::Receiver> {
    let timer = TimerFd::new(ClockId::CLOCK_REALTIME, TimerFlags::TFD_NONBLOCK | TimerFlags::TFD_CLOEXEC)?;
    let end = Duration::from_millis(clock::wall().0) + FAR;
    let flags = TimerSetTimeFlags::TFD_TIMER_ABSTIME | TimerSetTimeFlags::TFD_TIMER_CANCEL_ON_SET;
    timer.set(Expiration::OneShot(TimeSpec::from_duration(end)), flags)?;
    pipe::Receiver::from_owned_fd_unchecked(timer.as_fd().try_clone_to_owned()?)
}

fn compare(before: &Reading, after: &Reading, late: Duration) -> Vec<Noticed> {
    let mut noticed = Vec::new();
    let passed = after.boot.since(before.boot);
    let suspended = passed.saturating_sub(after.steady.saturating_duration_since(before.steady));
    if suspended >= SLEPT_AFTER || late >= STOPPED_AFTER {
        noticed.push(Noticed::Slept(suspended + late));
    }
    let expected_ms = before.wall.0.saturating_add(passed.as_millis() as u64);
    if after.wall.0.abs_diff(expected_ms) >= JUMP_MS {
        let by_ms = i128::from(after.wall.0) - i128::from(expected_ms);
        noticed.push(Noticed::Jumped(i64::try_from(by_ms).unwrap_or(i64::MAX)));
    }
    noticed
}

#[cfg(test)]
mod tests {
    use super::*;

    const NONE: Duration = Duration::ZERO;

    /// Readings between which so many milliseconds passed on each clock.
    fn between(boot: u64, steady: u64, wall: i64) -> (Reading, Reading) {
        let (mono, instant) = (Mono(7_000_000), Instant::now());
        let before = Reading { boot: mono, steady: instant, wall: UnixMs(1_700_000_000_000) };
        let after = Reading {
            boot: mono + Duration::from_millis(boot),
            steady: instant + Duration::from_millis(steady),
            wall: UnixMs(before.wall.0.saturating_add_signed(wall)),
        };
        (before, after)
    }

    fn noticed((before, after): (Reading, Reading), late: Duration) -> Vec<Noticed> {
        compare(&before, &after, late)
    }

    #[test]
    fn an_ordinary_wait_is_nothing_however_long() {
        assert_eq!(noticed(between(600_000, 600_000, 600_000), NONE), []);
        assert_eq!(
            noticed(between(10_000, 9_800, 10_900), Duration::from_millis(900)),
            [],
            "busy, and steered"
        );
    }

    #[test]
    fn a_suspend_shows_as_the_difference_of_two_clocks() {
        let hour = Duration::from_secs(3600);
        assert_eq!(noticed(between(3_602_000, 2_000, 3_602_000), NONE), [Noticed::Slept(hour)]);
    }

    #[test]
    fn a_process_that_was_stopped_is_late_on_all_clocks() {
        let late = Duration::from_secs(20);
        assert_eq!(noticed(between(21_000, 21_000, 21_000), late), [Noticed::Slept(late)]);
    }

    #[test]
    fn a_clock_that_was_set_is_told_with_its_sign() {
        assert_eq!(noticed(between(1_000, 1_000, 61_000), NONE), [Noticed::Jumped(60_000)]);
        assert_eq!(noticed(between(1_000, 1_000, -9_000), NONE), [Noticed::Jumped(-10_000)]);
        let both = [Noticed::Slept(Duration::from_secs(5)), Noticed::Jumped(60_000)];
        assert_eq!(noticed(between(6_000, 1_000, 66_000), NONE), both);
    }

    #[tokio::test(flavor = "current_thread")]
    async fn the_kernel_takes_the_timer_and_it_does_not_end_by_itself() {
        let mut clocks = Clocks::new();
        assert!(clocks.timer.is_some());
        let early = tokio::time::timeout(Duration::from_millis(50), clocks.changed()).await;
        assert!(early.is_err());
        assert_eq!(clocks.look(NONE), []);
    }
}
