//! What a run gave, summed up and written down.

pub mod chart;
pub mod page;
pub mod table;

use crate::facts::Facts;
use crate::metric::{Better, Metric};
use crate::stats::Rounds;
use crate::suite::Figures;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// When more than this share of all figures scatters too much, the machine was too busy for any of them.
const UNQUOTABLE_LIMIT: f64 = 0.34;

/// meshnet's name, and the beginning of the names of its variants.
pub const OWN: &str = "meshnet";

/// meshnet with ChaCha20-Poly1305.
pub const OWN_CHACHA: &str = "meshnet-chacha";

/// No tunnel.
pub const RAW: &str = "raw veth";

/// Everything about one run; also the JSON file.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Report {
    /// The machine.
    pub machine: Facts,
    /// Rounds that were asked for.
    pub rounds: usize,
    /// `short` or `full`.
    pub plan: String,
    /// The systems, in the order of the tables.
    pub systems: Vec<Entry>,
    /// Peers that could not be had, with the reason.
    pub absent: BTreeMap<String, String>,
}

/// One system of a [`Report`].
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Entry {
    /// Its name.
    pub name: String,
    /// Version, cipher and the like.
    pub description: String,
    /// Whether it seals packets with ChaCha20-Poly1305.
    #[serde(default)]
    pub chacha: bool,
    /// Its figures.
    pub figures: BTreeMap<Metric, Figure>,
    /// What failed, with the reason.
    pub failures: BTreeMap<Metric, String>,
}

/// One figure of a system.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Figure {
    /// The median of the rounds.
    pub median: f64,
    /// See [`Rounds::spread`].
    pub spread: f64,
    /// Whether the rounds agree well enough to quote it.
    pub quotable: bool,
    /// Each round.
    pub rounds: Rounds,
    /// The unit.
    pub unit: String,
}

impl Figure {
    /// Sums rounds up; `None` without any.
    pub fn of(metric: Metric, rounds: &Rounds) -> Option<Figure> {
        let (median, spread) = (rounds.median()?, rounds.spread()?);
        // One round says nothing of how far another would lie.
        let quotable = rounds.0.len() >= 2 && spread <= metric.scatter_limit();
        Some(Figure { median, spread, quotable, rounds: rounds.clone(), unit: metric.unit().to_owned() })
    }
}

impl Entry {
    /// From what was measured.
    pub fn new(name: &str, description: String, chacha: bool, measured: &Figures) -> Entry {
        let figures = measured.values.iter();
        let figures = figures.filter_map(|(metric, rounds)| Some((*metric, Figure::of(*metric, rounds)?)));
        Entry {
            name: name.to_owned(),
            description,
            chacha,
            figures: figures.collect(),
            failures: measured.failures.clone(),
        }
    }

    /// Whether it is neither meshnet nor the bare cable.
    pub fn is_peer(&self) -> bool {
        !self.name.starts_with(OWN) && self.name != RAW
    }

    /// A figure that may be quoted.
    pub fn quotable(&self, metric: Metric) -> Option<f64> {
        self.figures.get(&metric).filter(|figure| figure.quotable).map(|figure| figure.median)
    }
}

impl Report {
    /// A system by name.
    pub fn system(&self, name: &str) -> Option<&Entry> {
        self.systems.iter().find(|entry| entry.name == name)
    }

    /// How many times the first system's figure is that of the second; `None` unless both can be quoted.
    pub fn ratio(&self, metric: Metric, of: &str, to: &str) -> Option<f64> {
        let (of, to) = (self.system(of)?.quotable(metric)?, self.system(to)?.quotable(metric)?);
        (to > 0.0).then_some(of / to)
    }

    /// The peer with the best figure that can be quoted, of all or of those with ChaCha20-Poly1305.
    pub fn best_peer(&self, metric: Metric, chacha_only: bool) -> Option<(&Entry, f64)> {
        let peers = self.systems.iter().filter(|entry| entry.is_peer() && (entry.chacha || !chacha_only));
        let figures = peers.filter_map(|entry| Some((entry, entry.quotable(metric)?)));
        figures.reduce(|best, other| {
            let is_better = match metric.better() {
                Better::Higher => other.1 > best.1,
                Better::Lower => other.1 < best.1,
            };
            if is_better { other } else { best }
        })
    }

    /// Why the run as a whole must not be quoted, if so.
    pub fn refusal(&self) -> Option<String> {
        let figures: Vec<&Figure> = self.systems.iter().flat_map(|entry| entry.figures.values()).collect();
        let scattered = figures.iter().filter(|figure| !figure.quotable).count();
        if figures.is_empty() {
            return Some("nothing was measured".to_owned());
        }
        let share = scattered as f64 / figures.len() as f64;
        (share > UNQUOTABLE_LIMIT).then(|| {
            format!(
                "the rounds of {scattered} of {} figures scatter too much: this machine was too busy, or the rounds \
                 too few",
                figures.len()
            )
        })
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    /// A run with one figure a system.
    pub(crate) fn report(systems: &[(&str, &[f64])]) -> Report {
        let entry = |(name, rounds): &(&str, &[f64])| {
            let mut figures = Figures::default();
            figures.values.insert(Metric::TcpThere, Rounds(rounds.to_vec()));
            Entry::new(name, format!("{name} 1.0"), *name == "slow", &figures)
        };
        Report {
            machine: Facts {
                processor: "a <fast> one".to_owned(),
                cores: 2,
                memory_mb: 4096,
                kernel: "6.18".to_owned(),
                date: "2026-01-01".to_owned(),
                commit: None,
                load_before: 0.1,
            },
            rounds: 3,
            plan: "short".to_owned(),
            systems: systems.iter().map(entry).collect(),
            absent: BTreeMap::from([("boringtun".to_owned(), "not installed".to_owned())]),
        }
    }

    #[test]
    fn a_ratio_is_made_of_two_quotable_figures_only() {
        let report = report(&[
            ("meshnet", &[4.0, 4.1, 3.9]),
            ("tinc", &[0.5, 0.5, 0.52]),
            ("busy", &[1.0, 5.0, 9.0]),
            ("once", &[1.0]),
        ]);
        assert_eq!(report.ratio(Metric::TcpThere, "meshnet", "tinc"), Some(8.0));
        for other in ["busy", "once", "nobody"] {
            assert_eq!(report.ratio(Metric::TcpThere, "meshnet", other), None, "{other}");
        }
    }

    #[test]
    fn the_best_peer_is_neither_meshnet_nor_the_cable_and_can_be_quoted() {
        let report = report(&[
            ("raw veth", &[20.0, 20.0]),
            ("meshnet", &[4.0, 4.0]),
            ("meshnet-chacha", &[3.0, 3.0]),
            ("slow", &[1.0, 1.0]),
            ("fast", &[2.0, 2.0]),
            ("busy", &[3.0, 9.0]),
        ]);
        let best =
            |chacha_only| report.best_peer(Metric::TcpThere, chacha_only).map(|(entry, _)| &*entry.name);
        assert_eq!((best(false), best(true)), (Some("fast"), Some("slow")));
        assert!(report.best_peer(Metric::Start, false).is_none());
    }

    #[test]
    fn a_run_whose_rounds_scatter_is_refused_as_a_whole() {
        let steady: &[f64] = &[1.0, 1.0, 1.0];
        assert_eq!(report(&[("a", steady), ("b", steady), ("c", steady)]).refusal(), None);
        let wild: &[f64] = &[1.0, 2.0, 3.0];
        assert!(report(&[("a", steady), ("b", wild)]).refusal().is_some());
        assert!(report(&[]).refusal().is_some());
    }

    #[test]
    fn a_report_becomes_json_with_every_round() {
        let report = report(&[("meshnet", &[4.0, 4.1, 3.9])]);
        let json = serde_json::to_value(&report).expect("JSON");
        let again: Report = serde_json::from_value(json.clone()).expect("the same report");
        assert_eq!(again.systems[0].figures, report.systems[0].figures);
        let figure = &json["systems"][0]["figures"]["tcp_there"];
        assert_eq!(figure["median"], 4.0);
        assert_eq!(figure["rounds"].as_array().map(Vec::len), Some(3));
        assert_eq!(json["absent"]["boringtun"], "not installed");
    }
}
