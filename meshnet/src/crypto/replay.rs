//! The sliding window that lets each counter through once.

/// Width of the window in counters: how far a datagram may come behind the newest one. At 1 Mpps it covers 8 ms of
/// reordering between paths.
pub const REPLAY_WINDOW: u64 = 8192;

/// Counters from here on are refused, by senders and receivers alike, so that nothing ever wraps.
pub const COUNTER_LIMIT: u64 = u64::MAX - REPLAY_WINDOW;

/// One word more than the window, so that the whole window is there whatever the newest counter's place in its word.
const WORDS: u64 = REPLAY_WINDOW / 64 + 1;

/// Which counters of a keypair were seen; owned by the one thread that receives for it.
///
/// A ring of words addressed by the counter itself (RFC 6479), so that moving ahead clears words and shifts nothing.
#[derive(Clone)]
pub struct ReplayWindow {
    /// One past the newest accepted counter; 0 before the first.
    end: u64,
    seen: [u64; WORDS as usize],
}

impl ReplayWindow {
    /// A window that has seen nothing.
    pub fn new() -> Self {
        ReplayWindow { end: 0, seen: [0; WORDS as usize] }
    }

    /// Whether `counter` could be accepted: neither seen, nor behind the window, nor past [`COUNTER_LIMIT`]. A cheap
    /// test before decryption; it changes nothing.
    pub fn check(&self, counter: u64) -> bool {
        if counter >= COUNTER_LIMIT {
            return false;
        }
        if counter >= self.end {
            return true;
        }
        if self.end - counter > REPLAY_WINDOW {
            return false;
        }
        self.seen[slot(counter)] & bit(counter) == 0
    }

    /// Marks `counter` as seen; true once per counter. To be called only after authentication: otherwise anyone could
    /// push the window ahead.
    pub fn accept(&mut self, counter: u64) -> bool {
        if !self.check(counter) {
            return false;
        }
        if counter >= self.end {
            self.clear_up_to(counter);
            self.end = counter + 1;
        }
        self.seen[slot(counter)] |= bit(counter);
        true
    }

    /// The newest accepted counter.
    pub fn newest(&self) -> Option<u64> {
        self.end.checked_sub(1)
    }

    /// Empties the words between the newest counter's and that of `counter`, which lie ahead of it.
    fn clear_up_to(&mut self, counter: u64) {
        // The first word is clear from the start, and the word of `end - 1` is in use.
        let first = self.end.div_ceil(64);
        let last = counter / 64;
        if last.saturating_sub(first) >= WORDS {
            self.seen = [0; WORDS as usize];
            return;
        }
        for word in first..=last {
            self.seen[(word % WORDS) as usize] = 0;
        }
    }
}

impl Default for ReplayWindow {
    fn default() -> Self {
        Self::new()
    }
}

fn slot(counter: u64) -> usize {
    (counter / 64 % WORDS) as usize
}

fn bit(counter: u64) -> u64 {
    1 << (counter % 64)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::BTreeSet;

    /// What the window should do, said naively: remember everything.
    #[derive(Default)]
    struct Model {
        seen: BTreeSet<u64>,
    }

    impl Model {
        fn accept(&mut self, counter: u64) -> bool {
            let behind =
                self.seen.last().is_some_and(|newest| newest.saturating_sub(counter) >= REPLAY_WINDOW);
            counter < COUNTER_LIMIT && !behind && self.seen.insert(counter)
        }
    }

    #[test]
    fn each_counter_passes_once_in_any_order_within_the_window() {
        let mut window = ReplayWindow::new();
        for counter in (0..REPLAY_WINDOW).rev() {
            assert!(window.check(counter) && window.accept(counter), "{counter}");
        }
        for counter in 0..REPLAY_WINDOW {
            assert!(!window.check(counter) && !window.accept(counter), "{counter}");
        }
    }

    #[test]
    fn the_window_is_exactly_as_wide_as_it_says() {
        for newest in [REPLAY_WINDOW, REPLAY_WINDOW + 1, 100_000, 100_031, 100_032, 100_063] {
            let mut window = ReplayWindow::new();
            assert!(window.accept(newest));
            assert!(!window.accept(newest - REPLAY_WINDOW));
            assert!(window.accept(newest - REPLAY_WINDOW + 1));
        }
    }

    #[test]
    fn counters_end_before_they_wrap() {
        let mut window = ReplayWindow::new();
        assert!(window.accept(COUNTER_LIMIT - 1));
        for counter in [COUNTER_LIMIT, COUNTER_LIMIT + 1, u64::MAX - 1, u64::MAX] {
            assert!(!window.check(counter) && !window.accept(counter));
        }
        assert!(window.accept(COUNTER_LIMIT - 2));
        assert!(!window.accept(0));
        assert_eq!(window.newest(), Some(COUNTER_LIMIT - 1));
    }

    #[test]
    fn what_lies_ahead_is_never_taken_for_seen_whatever_the_steps() {
        for step in
            [1, 63, 64, 65, 1000, REPLAY_WINDOW - 1, REPLAY_WINDOW, 64 * WORDS, 64 * WORDS + 1, 100_000]
        {
            let mut window = ReplayWindow::new();
            for counter in (0..20_000).map(|number| number * step) {
                assert!(window.accept(counter), "{counter}, step {step}");
                assert!(!window.accept(counter), "{counter} again, step {step}");
            }
        }
    }

    #[test]
    fn checking_changes_nothing() {
        let mut window = ReplayWindow::new();
        assert!(window.check(1 << 40));
        assert_eq!(window.newest(), None);
        assert!(window.accept(0) && window.check(5) && window.accept(5));
    }

    /// Steps around the interesting distances, from a base near zero, anywhere, or near the limit.
    fn counters() -> impl Strategy<Value = Vec<u64>> {
        let base = prop_oneof![Just(0u64), any::<u64>(), Just(COUNTER_LIMIT - 20_000)];
        let step = prop_oneof![
            -200i64..200,
            -9000i64..9000,
            Just(64),
            Just(-64),
            Just(REPLAY_WINDOW as i64),
            Just(-(REPLAY_WINDOW as i64)),
            Just(1 - REPLAY_WINDOW as i64),
            Just(20_000),
            Just(0),
        ];
        (base, proptest::collection::vec(step, 1..150)).prop_map(|(base, steps)| {
            let mut at = base;
            let forward = |at: &mut u64, step: i64| {
                *at = at.saturating_add_signed(step);
                *at
            };
            steps.into_iter().map(|step| forward(&mut at, step)).collect()
        })
    }

    proptest! {
        #[test]
        fn behaves_as_a_set_of_everything_seen(counters in counters()) {
            let (mut window, mut model) = (ReplayWindow::new(), Model::default());
            for counter in counters {
                let checked = window.check(counter);
                let accepted = window.accept(counter);
                prop_assert_eq!(checked, accepted);
                prop_assert_eq!(accepted, model.accept(counter), "{}", counter);
            }
        }
    }
}
