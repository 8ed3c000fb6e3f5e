//! The same fault several times, and what it cost.

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
pub struct Costs(pub Vec<Cost>);

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

/// Makes a fault as often as `MESHNET_RUNS` says (once on an ordinary day), prints what it cost, and gives all of it.
///
/// # Panics
/// When the fault was never made.
pub fn trials(fault: &str, mut once: impl FnMut() -> Vec<Cost>) -> Costs {
    let runs = limit(RUNS, 1_usize).max(1);
    let costs = Costs((0..runs).flat_map(|_| once()).collect());
    assert!(!costs.0.is_empty(), "nothing was measured");
    figure(fault, format!("{runs} runs, {} flows: {costs}", costs.0.len()));
    costs
}

/// As [`trials`], for something that takes a time.
pub fn timed(what: &str, mut once: impl FnMut() -> Vec<Duration>) -> Vec<Duration> {
    let runs = limit(RUNS, 1_usize).max(1);
    let mut times: Vec<Duration> = (0..runs).flat_map(|_| once()).collect();
    times.sort_unstable();
    let ms: Vec<u64> = times.iter().map(|time| time.as_millis() as u64).collect();
    figure(what, format!("{runs} runs: {}", summary("ms", &ms)));
    times
}

impl Costs {
    /// The worst of one figure.
    pub fn worst(&self, of: impl Fn(&Cost) -> u64) -> u64 {
        self.0.iter().map(of).max().unwrap_or(0)
    }
}

impl fmt::Display for Costs {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let all = |of: fn(&Cost) -> u64| {
            let mut values: Vec<u64> = self.0.iter().map(of).collect();
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
    fn ranks_are_the_nearest_ones() {
        let values: Vec<u64> = (1..=20).collect();
        assert_eq!(summary("x", &values), "x p50 10 p95 19 max 20");
        assert_eq!(summary("x", &[7]), "x p50 7 p95 7 max 7");
    }
}
