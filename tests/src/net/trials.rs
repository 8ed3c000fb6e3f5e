//! The same fault several times, what it cost, and whether that is within what was promised.
//!
//! A bound on a time is judged by one run where that keeps it. Where it does not, the machine may have stood still for a moment, of
//! which the daemons know nothing: two more runs are made, and the median counts. What must not be lost is lost in no run.

use super::{figure, limit};
use netlab::flow::FlowReport;
use std::fmt;
use std::time::{Duration, Instant};

/// How many times a fault is made; its figures mean little below five.
const RUNS: &str = "MESHNET_RUNS";

/// What one fault cost one flow.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Cost {
    /// The longest silence at the receiver from shortly before the fault on, in milliseconds; 0 when there was none
    /// worth the name.
    pub gap_ms: u64,
    /// Packets that never arrived.
    pub lost: u64,
    /// Packets that arrived more than once.
    pub duplicated: u64,
}

/// What a fault cost over several runs.
#[derive(Clone, Debug, Default)]
pub struct Costs {
    /// What it cost the flows of each run.
    pub runs: Vec<Vec<Cost>>,
}

/// Runs that decide when the first of them was out of bounds.
const DECIDING_RUNS: usize = 3;

impl Cost {
    /// What `event` cost a flow.
    pub fn of(report: &FlowReport, event: Instant) -> Cost {
        Cost {
            gap_ms: report.gap_since(event).as_millis() as u64,
            lost: report.lost,
            duplicated: report.duplicated,
        }
    }
}

/// Makes a fault as often as `MESHNET_RUNS` says (once on an ordinary day), prints what it cost, and gives all of it. No silence may
/// be longer than `gap_ms`, and nothing may arrive twice.
///
/// # Panics
/// When the fault was never made, or a bound was not kept.
pub fn trials(fault: &str, gap_ms: u64, mut once: impl FnMut() -> Vec<Cost>) -> Costs {
    let worst_gap = |run: &Vec<Cost>| run.iter().map(|cost| cost.gap_ms).max();
    let (runs, is_kept) = decided(gap_ms, &mut once, |run| worst_gap(run).expect("something was measured"));
    let costs = Costs { runs };
    figure(fault, format!("{} runs, {} flows: {costs}", costs.runs.len(), costs.all().count()));
    assert!(is_kept, "{fault}, no more than {gap_ms} ms: {costs:?}");
    assert_eq!(costs.worst(|cost| cost.duplicated), 0, "{fault}: {costs:?}");
    costs
}

/// As [`trials`], for something that takes a time. Gives all of them, the shortest first.
///
/// # Panics
/// When it takes longer than `most`.
pub fn timed(what: &str, most: Duration, mut once: impl FnMut() -> Vec<Duration>) -> Vec<Duration> {
    let longest = |run: &Vec<Duration>| run.iter().copied().max().expect("something was measured");
    let (runs, is_kept) = decided(most, &mut once, longest);
    let mut times: Vec<Duration> = runs.iter().flatten().copied().collect();
    times.sort_unstable();
    let ms: Vec<u64> = times.iter().map(|time| time.as_millis() as u64).collect();
    figure(what, format!("{} runs: {}", runs.len(), summary("ms", &ms)));
    assert!(is_kept, "{what}, no more than {most:?}: {times:?}");
    times
}

/// Runs as many as `MESHNET_RUNS` says, and as it takes to decide; whether the figure of each keeps the bound, or that of
/// two out of three.
fn decided<T, B: PartialOrd>(bound: B, once: &mut impl FnMut() -> T, of: impl Fn(&T) -> B) -> (Vec<T>, bool) {
    let mut runs: Vec<T> = (0..limit(RUNS, 1_usize).max(1)).map(|_| once()).collect();
    let kept = |runs: &[T]| runs.iter().filter(|run| of(run) <= bound).count();
    if kept(&runs) == runs.len() || runs.len() >= DECIDING_RUNS {
        let all = kept(&runs) == runs.len();
        return (runs, all);
    }
    runs.extend((runs.len()..DECIDING_RUNS).map(|_| once()));
    let most = kept(&runs) * 2 > runs.len();
    (runs, most)
}

impl Costs {
    fn all(&self) -> impl Iterator<Item = &Cost> {
        self.runs.iter().flatten()
    }

    /// The worst of one figure.
    pub fn worst(&self, of: impl Fn(&Cost) -> u64) -> u64 {
        self.all().map(of).max().unwrap_or(0)
    }
}

impl fmt::Display for Costs {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let all = |of: fn(&Cost) -> u64| {
            let mut values: Vec<u64> = self.all().map(of).collect();
            values.sort_unstable();
            values
        };
        let gap = summary("gap_ms", &all(|cost| cost.gap_ms));
        let lost = summary("lost", &all(|cost| cost.lost));
        write!(f, "{gap}; {lost}; duplicated {}", self.worst(|cost| cost.duplicated))
    }
}

/// Median, 95th percentile (the nearest rank), and worst of sorted values.
fn summary(name: &str, sorted: &[u64]) -> String {
    let rank = |percent: usize| sorted.len().saturating_mul(percent).div_ceil(100).max(1) - 1;
    let at = |percent| sorted.get(rank(percent)).copied().unwrap_or(0);
    format!("{name} p50 {} p95 {} max {}", at(50), at(95), sorted.last().copied().unwrap_or(0))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_run_out_of_bounds_is_outvoted_and_two_are_not() {
        let verdict = |figures: [u32; 3]| {
            let mut left = figures.into_iter();
            let (runs, is_kept) =
                decided(10, &mut || left.next().expect("three are enough"), |figure| *figure);
            (runs.len(), is_kept)
        };
        assert_eq!(verdict([10, 99, 99]), (1, true));
        assert_eq!(verdict([11, 10, 9]), (3, true));
        assert_eq!(verdict([11, 10, 99]), (3, false));
    }

    #[test]
    fn ranks_are_the_nearest_ones() {
        let values: Vec<u64> = (1..=20).collect();
        assert_eq!(summary("x", &values), "x p50 10 p95 19 max 20");
        assert_eq!(summary("x", &[7]), "x p50 7 p95 7 max 7");
    }
}
