//! A path that scores better than the one in use has to show it while traffic flows, side by side with that one.
//!
//! A path in use is probed three times a second, others once in some seconds. So when traffic begins to fill a queue at either
//! end, which all paths share, the one in use looks worse at once, and another one looks as it did when it was idle. And such
//! a queue wavers: by chance it is now one path and now another that finds it full.

use std::time::Duration;

use super::choose::{is_clearly_better, score_as};
use super::quality::Quality;
use super::{PROBE_ACTIVE, Path, PathId, PathSet};
use crate::time::Mono;

/// After so many answers of both, one path is better if its slowest is clearly better than the fastest of the other ...
const FEW: usize = 3;
/// ... by this much at least. Queues at the ends waver by less, and nobody misses it.
const MUCH_US: u64 = 10_000;
/// After so many, it is better if its fastest is: whatever the queues did, it is the shorter way. Or if the mean is, with its
/// deviation, by as much as that.
const MANY: usize = 12;

/// The path that looks better.
#[derive(Clone, Copy)]
pub(super) struct Contender {
    path: PathId,
    /// Round-trip times since then ...
    times: Times,
    /// ... and those of the path in use.
    in_use: Times,
}

/// The first round-trip times of a comparison, in microseconds.
#[derive(Clone, Copy, Default)]
struct Times {
    us: [u64; MANY],
    count: usize,
}

impl Times {
    fn push(&mut self, rtt: Duration) {
        if let Some(place) = self.us.get_mut(self.count) {
            *place = u64::try_from(rtt.as_micros()).unwrap_or(u64::MAX);
            self.count += 1;
        }
    }

    fn known(&self) -> &[u64] {
        &self.us[..self.count]
    }

    fn least(&self) -> u64 {
        self.known().iter().copied().min().unwrap_or(0)
    }

    fn most(&self) -> u64 {
        self.known().iter().copied().max().unwrap_or(0)
    }

    /// The mean, and the mean deviation from it.
    fn mean(&self) -> (u64, u64) {
        let count = self.count.max(1) as u64;
        let mean = self.known().iter().sum::<u64>() / count;
        (mean, self.known().iter().map(|us| us.abs_diff(mean)).sum::<u64>() / count)
    }
}

impl PathSet {
    /// Whether a path that looks better, too, has been measured for long enough beside the one in use, and is better.
    /// Without traffic nobody fills a queue.
    pub(super) fn has_shown(&self, now: Mono, current: &PathId, best: &PathId) -> bool {
        if !self.is_active(now) {
            return true;
        }
        let contender = self.contender.filter(|contender| contender.path == *best);
        let paths = self.paths.get(current).zip(self.paths.get(best));
        let (Some(contender), Some((from, to))) = (contender, paths) else { return false };
        let (old, new) = (contender.in_use, contender.times);
        let score = |id, path: &Path, (rtt_us, deviation_us)| {
            let quality = Quality::of(rtt_us, deviation_us, path.quality.loss());
            score_as(id, path, &quality, !self.is_crowded(now))
        };
        let compare = |old, new| {
            let (old, new) = (score(current, from, old), score(best, to, new));
            (is_clearly_better(new, old), new + MUCH_US < old)
        };
        match old.count.min(new.count) {
            ..FEW => false,
            FEW..MANY => compare((old.least(), 0), (new.most(), 0)) == (true, true),
            MANY.. => {
                let (is_shorter, _) = compare((old.least(), 0), (new.least(), 0));
                is_shorter || compare(old.mean(), new.mean()) == (true, true)
            }
        }
    }

    /// This path looks better than the one in use, or none does.
    pub(super) fn note_contender(&mut self, now: Mono, better: Option<PathId>) {
        let goes_on = |contender: Contender| contender.times.count.min(contender.in_use.count) < MANY;
        if self.contender.filter(|contender| goes_on(*contender)).map(|contender| contender.path) == better {
            return;
        }
        self.contender =
            better.map(|path| Contender { path, times: Times::default(), in_use: Times::default() });
        if let Some(path) = better.and_then(|id| self.paths.get_mut(&id)) {
            path.next_probe = path.next_probe.min(now + PROBE_ACTIVE / 3);
        }
    }

    /// Whether a path is measured as often as the one in use.
    pub(super) fn contends(&self, id: &PathId) -> bool {
        self.contender.is_some_and(|contender| contender.path == *id)
    }

    /// A path has answered.
    pub(super) fn note_answer(&mut self, id: &PathId, rtt: Duration) {
        let in_use = self.primary == Some(*id);
        let Some(contender) = &mut self.contender else { return };
        if contender.path == *id {
            contender.times.push(rtt);
        } else if in_use {
            contender.in_use.push(rtt);
        }
    }
}
