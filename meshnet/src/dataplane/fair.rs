//! Who may relay how much while a relay has more to forward than it can: everybody an equal share, and what some do not
//! use is divided among the others (max-min fairness).
//!
//! As long as there is enough for all, nothing is held back and nobody is asked. The thread that forwards says when there
//! is not ([`Shares::press`]): what it sent, or what arrived, found no room in the kernel. Streams that probe for the rate
//! of the path make that happen now and then, and slow down by themselves; if it goes on, somebody does not. Then it
//! forwards in each window a little less than it got out of the last one, shared among the neighbours, and drops the rest
//! before it costs anything. The sum is raised slowly while nobody says that it is too much, and when all
//! get what they ask for anyway, the limit is lifted.

use std::time::Duration;

use super::snapshot::MemberSlot;
use crate::time::Mono;

/// Shares hold for so long; then they are divided anew.
const WINDOW: Duration = Duration::from_millis(20);
/// Forwarded in a window by all together however hard it is pressed: 2 Mbit/s. Less says that the machine was busy with
/// something else.
const LEAST_BYTES: u64 = 5_000;
/// The sum is raised by one part of so many in each window that was not pressed, and lowered by ten of them in others.
const STEP: u64 = 64;
/// Nobody is limited before so many more windows were pressed than were not.
const PATIENCE: u32 = 5;
/// After so many windows in which everybody got all he asked for, nothing is limited any more.
const CALM: u32 = 50;
/// Another relay brings what several members send: it counts as so many of them.
pub const RELAY_WEIGHT: u64 = 4;

/// What the neighbours of a relay forward through it, on one thread.
#[derive(Debug, Default)]
pub struct Shares {
    began: Mono,
    /// By slot. Those that are not zero are in `seen`.
    sources: Vec<Source>,
    seen: Vec<MemberSlot>,
    pressed: bool,
    /// How many more windows were pressed than were not lately, up to [`PATIENCE`].
    strain: u32,
    limit: Option<Limit>,
}

#[derive(Clone, Copy, Debug, Default)]
struct Source {
    weight: u64,
    /// Bytes in this window.
    forwarded: u64,
    /// It wanted to forward more.
    refused: bool,
}

#[derive(Clone, Copy, Debug)]
struct Limit {
    /// Bytes in a window of all together.
    sum: u64,
    /// Of each, times its weight.
    share: u64,
    /// Windows in a row in which nobody was refused anything.
    calm: u32,
}

impl Shares {
    /// There is more to forward than can be.
    pub fn press(&mut self, now: Mono) {
        self.turn(now);
        self.pressed = true;
    }

    /// Whether the neighbour in `slot` has used up its share, so that what it sends is to be dropped. It does not have to be
    /// known to be authentic yet: that it is from somebody else would do no harm.
    pub fn refuses(&mut self, slot: MemberSlot, now: Mono) -> bool {
        if self.limit.is_none() {
            return false;
        }
        self.turn(now);
        let (Some(limit), Some(source)) = (self.limit, self.sources.get_mut(slot.index())) else {
            return false;
        };
        let refused = source.weight > 0 && source.forwarded >= limit.share.saturating_mul(source.weight);
        source.refused |= refused;
        refused
    }

    /// `bytes` are forwarded for the neighbour in `slot`, which counts as `weight` members.
    pub fn forwarded(&mut self, slot: MemberSlot, weight: u64, now: Mono, bytes: usize) {
        self.turn(now);
        if self.sources.len() <= slot.index() {
            // Grows with the number of members, not with datagrams.
            self.sources.resize(slot.index() + 1, Source::default());
        }
        let source = &mut self.sources[slot.index()];
        if source.weight == 0 {
            self.seen.push(slot);
        }
        source.weight = weight.max(1);
        source.forwarded += bytes as u64;
    }

    /// Begins a new window when it is time.
    #[inline]
    fn turn(&mut self, now: Mono) {
        if now.since(self.began) >= WINDOW {
            self.begin(now);
        }
    }

    fn begin(&mut self, now: Mono) {
        // Nothing happened in the windows between: whatever pressed has passed.
        let idle = now.since(self.began) >= WINDOW * CALM;
        let total: u64 = self.seen.iter().map(|slot| self.sources[slot.index()].forwarded).sum();
        let refused = self.seen.iter().any(|slot| self.sources[slot.index()].refused);
        self.strain = match self.pressed {
            _ if idle => 0,
            true => (self.strain + 1).min(PATIENCE),
            false => self.strain.saturating_sub(1),
        };
        self.limit = match (self.limit, self.pressed) {
            _ if idle => None,
            (None, _) if self.strain < PATIENCE => None,
            (None, false) => None,
            (before, true) => {
                let most = before.map_or(total, |limit| total.min(limit.sum));
                let sum = (most - most * 10 / STEP).max(LEAST_BYTES);
                Some(Limit { sum, share: self.share_of(sum), calm: 0 })
            }
            (Some(limit), false) => {
                let calm = if refused { 0 } else { limit.calm + 1 };
                let sum = limit.sum + limit.sum.div_ceil(STEP);
                (calm < CALM).then(|| Limit { sum, share: self.share_of(sum), calm })
            }
        };
        for slot in self.seen.drain(..) {
            self.sources[slot.index()] = Source::default();
        }
        (self.began, self.pressed) = (now, false);
    }

    /// The share of one member if `sum` is divided: those who asked for less have what they asked for, and of what is left
    /// all others have the same.
    fn share_of(&self, sum: u64) -> u64 {
        let mut asked: Vec<(u64, u64)> =
            self.seen.iter().map(|slot| self.sources[slot.index()]).map(asked).collect();
        asked.sort_unstable();
        let (mut left, mut weights) = (sum, asked.iter().map(|(_, weight)| weight).sum::<u64>());
        for (each, weight) in asked {
            let share = left / weights;
            if each >= share {
                return share;
            }
            left -= each * weight;
            weights -= weight;
            if weights == 0 {
                // Who comes anew may have what nobody asked for.
                return each.max(left);
            }
        }
        sum
    }
}

/// How much a source asked for as each of the members that it counts as, and how many these are.
fn asked(source: Source) -> (u64, u64) {
    let each = if source.refused { u64::MAX } else { source.forwarded.div_ceil(source.weight) };
    (each, source.weight)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A relay that gets `capacity` bytes a window out: what is more presses.
    struct Relay {
        shares: Shares,
        now: Mono,
        capacity: u64,
        out: u64,
        lost: u64,
    }

    impl Relay {
        fn new(capacity: u64) -> Relay {
            Relay { shares: Shares::default(), now: Mono(1_000_000), capacity, out: 0, lost: 0 }
        }

        /// Each source sends its number of datagrams of 1,000 bytes in every window, spread evenly. Gives how many of each
        /// were carried in the last `of` windows.
        fn run(&mut self, windows: usize, of: usize, sources: &[(u32, u64, usize)]) -> Vec<usize> {
            let mut carried = vec![0; sources.len()];
            for window in 0..windows {
                self.out = 0;
                for step in 0..200_usize {
                    self.now = self.now + WINDOW / 200;
                    for (at, (slot, weight, each)) in sources.iter().enumerate() {
                        let due = each * (step + 1) / 200 - each * step / 200;
                        for _ in 0..due {
                            if self.forward(MemberSlot(*slot), *weight) && window >= windows - of {
                                carried[at] += 1;
                            }
                        }
                    }
                }
            }
            carried
        }

        fn forward(&mut self, slot: MemberSlot, weight: u64) -> bool {
            if self.shares.refuses(slot, self.now) {
                return false;
            }
            self.shares.forwarded(slot, weight, self.now, 1000);
            self.out += 1000;
            if self.out > self.capacity {
                self.lost += 1;
                self.shares.press(self.now);
                return false;
            }
            true
        }
    }

    #[test]
    fn where_there_is_enough_nobody_is_refused() {
        let mut relay = Relay::new(u64::MAX);
        assert_eq!(relay.run(100, 100, &[(1, 1, 500), (2, 1, 5)]), [50_000, 500]);
        assert!(relay.shares.limit.is_none());
    }

    #[test]
    fn a_hog_leaves_the_others_what_they_ask_for_and_has_the_rest() {
        let mut relay = Relay::new(100_000);
        relay.run(100, 0, &[(7, 1, 1000), (2, 1, 5), (3, 1, 20)]);
        let lost = relay.lost;
        let carried = relay.run(200, 200, &[(7, 1, 1000), (2, 1, 5), (3, 1, 20)]);
        assert!(carried[1] >= 990 && carried[2] >= 3960, "{carried:?} of 1000 and 4000");
        let sum: usize = carried.iter().sum();
        assert!(sum >= 17_000, "{sum} of 20,000 that can be carried");
        assert!((relay.lost - lost) * 100 <= 2 * sum as u64, "most is dropped before it gets there");
    }

    #[test]
    fn hogs_share_alike_and_a_relay_counts_for_several() {
        let mut relay = Relay::new(120_000);
        let sources = [(1, 1, 800), (2, 1, 300), (9, RELAY_WEIGHT, 2000)];
        relay.run(100, 0, &sources);
        let carried = relay.run(200, 200, &sources);
        assert!(carried[0].abs_diff(carried[1]) * 10 <= carried[1], "{carried:?}");
        assert!(carried[2].abs_diff(4 * carried[1]) * 10 <= carried[2], "{carried:?}");
    }

    #[test]
    fn the_limit_goes_when_the_hog_has_gone_and_a_newcomer_has_its_share_in_the_next_window() {
        let mut relay = Relay::new(100_000);
        relay.run(100, 0, &[(1, 1, 1000)]);
        assert!(relay.shares.limit.is_some());
        let carried = relay.run(2, 1, &[(1, 1, 1000), (5, 1, 30)]);
        assert!(carried[1] >= 25, "{carried:?}");
        relay.run(CALM as usize + 20, 0, &[(5, 1, 30)]);
        assert!(relay.shares.limit.is_none());
        // Nor does it outlast a pause.
        relay.run(100, 0, &[(1, 1, 1000)]);
        relay.now = relay.now + WINDOW * (CALM + 1);
        assert_eq!(relay.run(1, 1, &[(1, 1, 90)]), [90]);
        assert!(relay.shares.limit.is_none());
    }
}
