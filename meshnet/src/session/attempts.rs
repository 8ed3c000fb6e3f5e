//! When to try a handshake, when to try again, and when to stop; and when a keypair has been used long enough.

use std::time::Duration;

use crate::time::Mono;

/// How long one series of attempts goes on.
pub const GIVE_UP_AFTER: Duration = Duration::from_secs(90);

/// Most random delay of an attempt, so that two peers do not stay in step.
pub const RETRY_JITTER: Duration = Duration::from_millis(333);

/// How long a responder that wants keys waits for the initiator to prove the new ones before it begins a handshake
/// itself. Short, because the init may have been an old one, sent again by somebody else after our restart.
pub const CONFIRM_TIMEOUT: Duration = Duration::from_secs(1);

/// Waits after the first, second, ... attempt; the last one repeats.
const BACKOFF: [Duration; 4] =
    [Duration::from_secs(1), Duration::from_secs(2), Duration::from_secs(4), Duration::from_secs(5)];

/// When the first attempt's init goes out again as it is. It may have come before the peer, or a relay on the way, was
/// ready for it, and the responder answers a repetition from its memory.
const REPEAT_AFTER: [Duration; 2] = [Duration::from_millis(200), Duration::from_millis(600)];

/// One series of attempts at a handshake.
#[derive(Default)]
pub(super) struct Attempts {
    series: Option<Series>,
}

struct Series {
    started: Mono,
    made: usize,
    due: Mono,
    repeats: Repeats,
}

/// The repetitions of an attempt's init that are still to come.
#[derive(Clone, Copy, Default)]
struct Repeats {
    from: Mono,
    left: &'static [Duration],
}

impl Repeats {
    fn due(&self) -> Option<Mono> {
        self.left.first().map(|after| self.from + *after)
    }

    /// Leaves behind what is due; whether there was any.
    fn pass(&mut self, now: Mono) -> bool {
        let before = self.left.len();
        while self.due().is_some_and(|at| at <= now) {
            self.left = &self.left[1..];
        }
        self.left.len() < before
    }
}

/// What is to be done when time has passed.
#[derive(PartialEq, Eq, Debug)]
pub(super) enum Due {
    Nothing,
    Attempt,
    Repeat,
    GiveUp,
}

impl Attempts {
    /// Begins a series with a first attempt at `at`, unless one is under way or is to begin earlier.
    pub(super) fn start(&mut self, at: Mono) {
        let new = Series { started: at, made: 0, due: at, repeats: Repeats::default() };
        let series = self.series.get_or_insert(Series { ..new });
        if series.made == 0 && at < series.due {
            *series = new;
        }
    }

    /// Ends the series: there are keys.
    pub(super) fn stop(&mut self) {
        self.series = None;
    }

    /// Moves the next attempt, if there is a series.
    pub(super) fn reschedule(&mut self, at: Mono) {
        if let Some(series) = &mut self.series {
            series.due = at;
        }
    }

    /// How long the series has been going on.
    pub(super) fn age(&self, now: Mono) -> Option<Duration> {
        self.series.as_ref().map(|series| now.since(series.started))
    }

    pub(super) fn is_active(&self) -> bool {
        self.series.is_some()
    }

    pub(super) fn next_due(&self) -> Option<Mono> {
        let series = self.series.as_ref()?;
        Some(series.repeats.due().map_or(series.due, |repeat| repeat.min(series.due)))
    }

    /// Advances the series: each attempt and each repetition is told once, whether or not anything can be sent.
    pub(super) fn advance(&mut self, now: Mono, jitter: Duration) -> Due {
        let Some(series) = self.series.as_mut() else { return Due::Nothing };
        if series.due > now {
            return if series.repeats.pass(now) { Due::Repeat } else { Due::Nothing };
        }
        if now.since(series.started) >= GIVE_UP_AFTER {
            self.series = None;
            return Due::GiveUp;
        }
        series.due = now + BACKOFF[series.made.min(BACKOFF.len() - 1)] + jitter;
        series.repeats = Repeats { from: now, left: if series.made == 0 { &REPEAT_AFTER } else { &[] } };
        series.made += 1;
        Due::Attempt
    }
}

/// How long before the age of rekeying, and then how often, it is looked whether a keypair is in use.
const LOOK_EVERY: Duration = Duration::from_secs(5);

/// Whether a keypair that is old enough to be replaced is in use at all.
///
/// It looks at the counter of what was sent, rather than being told of every packet.
pub(super) struct UsageWatch {
    look_at: Mono,
    used: u64,
    from: Mono,
    limit: u64,
}

impl UsageWatch {
    /// Watches for use from `from` on, and for more than `limit` messages.
    pub(super) fn new(from: Mono, limit: u64) -> Self {
        UsageWatch {
            look_at: Mono(from.0.saturating_sub(LOOK_EVERY.as_micros() as u64)),
            used: u64::MAX,
            from,
            limit,
        }
    }

    /// It is to be replaced from `from` on, if that is earlier: where that is over, at once, because it is in use.
    pub(super) fn hasten(&mut self, from: Mono) {
        if from < self.from {
            let look_at = Mono(from.0.saturating_sub(LOOK_EVERY.as_micros() as u64));
            (self.from, self.look_at, self.used) = (from, self.look_at.min(look_at), 0);
        }
    }

    pub(super) fn next_due(&self) -> Mono {
        self.look_at
    }

    /// True when the keypair, with which `used` messages were sent, is to be replaced.
    pub(super) fn advance(&mut self, now: Mono, used: u64) -> bool {
        if now < self.look_at {
            return false;
        }
        let in_use = used > self.used;
        (self.look_at, self.used) = (now + LOOK_EVERY, used);
        used >= self.limit || (in_use && now >= self.from)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn s(seconds: u64) -> Mono {
        Mono(seconds * 1_000_000)
    }

    #[test]
    fn attempts_back_off_and_end_and_only_the_first_is_repeated() {
        let mut attempts = Attempts::default();
        assert_eq!(attempts.advance(s(10), Duration::ZERO), Due::Nothing);
        attempts.start(s(10));
        attempts.start(s(99));
        let (mut at, mut repeated) = (Vec::new(), Vec::new());
        while let Some(due) = attempts.next_due() {
            match attempts.advance(due, Duration::ZERO) {
                Due::Attempt => at.push(due.since(s(10)).as_secs()),
                Due::Repeat => repeated.push(due.since(s(10)).as_millis()),
                Due::GiveUp => assert!(due.since(s(10)) >= GIVE_UP_AFTER),
                Due::Nothing => panic!("it was due"),
            }
        }
        assert_eq!(at[..6], [0, 1, 3, 7, 12, 17]);
        assert_eq!(repeated, [200, 600]);
        assert_eq!((at.len(), at.last().copied()), (20, Some(87)));
    }

    #[test]
    fn a_first_attempt_may_be_moved_nearer_but_a_series_not_begun_again() {
        let mut attempts = Attempts::default();
        attempts.start(s(10));
        attempts.start(s(20));
        assert_eq!(attempts.next_due(), Some(s(10)));
        attempts.start(s(5));
        assert_eq!(attempts.advance(s(5), Duration::ZERO), Due::Attempt);
        attempts.start(s(5));
        assert_eq!(attempts.next_due(), Some(s(5) + REPEAT_AFTER[0]));
        assert_eq!(attempts.advance(s(6), Duration::ZERO), Due::Attempt);
    }

    #[test]
    fn an_attempt_is_told_once() {
        let mut attempts = Attempts::default();
        attempts.start(s(0));
        assert_eq!(attempts.advance(s(0), RETRY_JITTER), Due::Attempt);
        assert_eq!(attempts.advance(s(0), RETRY_JITTER), Due::Nothing);
        assert_eq!(attempts.advance(s(0) + REPEAT_AFTER[1], RETRY_JITTER), Due::Repeat);
        assert_eq!(attempts.advance(s(0) + REPEAT_AFTER[1], RETRY_JITTER), Due::Nothing);
        assert_eq!(attempts.next_due(), Some(s(1) + RETRY_JITTER));
    }

    #[test]
    fn an_idle_keypair_is_not_replaced_and_a_busy_one_is() {
        let mut watch = UsageWatch::new(s(120), 1000);
        assert!(!watch.advance(s(114), 7) && watch.next_due() == s(115));
        assert!(!watch.advance(s(115), 7));
        assert!(!watch.advance(s(120), 7));
        assert!(!watch.advance(s(125), 7));
        assert!(watch.advance(s(130), 8));
        assert!(!watch.advance(s(135), 8));
        assert!(watch.advance(s(140), 1000));
    }

    #[test]
    fn a_keypair_that_begins_to_carry_packets_is_replaced_when_it_is_old_enough_and_not_before() {
        let mut old = UsageWatch::new(s(900), 1000);
        assert!(!old.advance(s(600), 7));
        old.hasten(s(600));
        assert!(old.next_due() <= s(600) && old.advance(s(600), 7));
        let mut young = UsageWatch::new(s(900), 1000);
        young.hasten(s(120));
        assert_eq!(young.next_due(), s(115));
        assert!(!young.advance(s(115), 7) && young.advance(s(120), 8));
        young.hasten(s(500));
        assert!(young.advance(s(125), 9), "it is not put off");
    }
}
