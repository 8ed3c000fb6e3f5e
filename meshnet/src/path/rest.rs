//! For how long a path that was given up though it worked is not taken again: flows that move are held up or overtaken, and
//! paths whose round-trip times or loads waver would take turns.

use std::time::Duration;

use crate::time::Mono;

/// A path that was given up rests for so long.
pub(super) const REST: Duration = Duration::from_secs(60);
/// One whose relay was too busy rests twice as long each time, so often: 1 to 16 min.
const MAX_DOUBLINGS: u32 = 4;
/// A relay that has not been given up as too busy for so long after its rest begins anew.
const FORGIVEN_AFTER: Duration = Duration::from_secs(600);

/// The rest of one path.
#[derive(Clone, Copy, Default, Debug)]
pub(super) struct Rest {
    until: Mono,
    /// How often in a row it began because the relay was too busy.
    busy: u32,
    /// It began because of that the last time.
    by_load: bool,
}

impl Rest {
    /// Another path was better.
    pub(super) fn begin(&mut self, now: Mono) {
        self.by_load = false;
        self.until = self.until.max(now + REST);
    }

    /// Its relay was too busy.
    pub(super) fn begin_busy(&mut self, now: Mono) {
        if now.since(self.until) >= FORGIVEN_AFTER {
            self.busy = 0;
        }
        self.by_load = true;
        self.until = now + REST * (1 << self.busy.min(MAX_DOUBLINGS));
        self.busy += 1;
    }

    /// It is over: nobody else can carry what the path was spared.
    pub(super) fn end(&mut self, now: Mono) {
        self.until = self.until.min(now);
    }

    /// Until when it lasts, if it does.
    pub(super) fn until(&self, now: Mono) -> Option<Mono> {
        (now < self.until).then_some(self.until)
    }

    /// Whether it lasts, and was meant to spare a busy relay.
    pub(super) fn spares(&self, now: Mono) -> bool {
        self.by_load && now < self.until
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_busy_relay_rests_twice_as_long_each_time_until_it_was_not_busy_for_long() {
        let (mut rest, mut now) = (Rest::default(), Mono(1_000_000_000));
        let mut spans = Vec::new();
        for _ in 0..6 {
            rest.begin_busy(now);
            let until = rest.until(now).unwrap();
            assert!(rest.spares(now));
            spans.push(until.since(now).as_secs());
            now = until + Duration::from_secs(1);
            assert_eq!((rest.until(now), rest.spares(now)), (None, false));
        }
        assert_eq!(spans, [60, 120, 240, 480, 960, 960]);
        now = now + FORGIVEN_AFTER;
        rest.begin_busy(now);
        assert_eq!(rest.until(now), Some(now + REST));
        rest.end(now);
        assert_eq!(rest.until(now), None);
    }
}
