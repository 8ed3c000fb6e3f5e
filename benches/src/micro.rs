//! The criterion micro-benchmarks, compared with the last committed figures.

use anyhow::Context;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use crate::facts::Facts;
use crate::report::table::short;

/// A change beyond this share of the old figure is told as one.
const CHANGE: f64 = 0.10;

/// The committed figures.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Baseline {
    /// Where they come from.
    pub machine: Facts,
    /// Nanoseconds per operation, by benchmark (`group/function/parameter`).
    pub ns: BTreeMap<String, f64>,
}

/// Reads what criterion left under `target/criterion`: the typical time of each benchmark, in nanoseconds (the slope
/// where it measured one, else the mean).
///
/// # Errors
/// When there is nothing, or it is not criterion's.
pub fn measured(criterion: &Path) -> anyhow::Result<BTreeMap<String, f64>> {
    let mut found = BTreeMap::new();
    collect(criterion, &mut found)?;
    anyhow::ensure!(!found.is_empty(), "no results in {}", criterion.display());
    Ok(found)
}

fn collect(directory: &Path, found: &mut BTreeMap<String, f64>) -> anyhow::Result<()> {
    let entries = fs::read_dir(directory).with_context(|| directory.display().to_string())?;
    for entry in entries {
        let path = entry?.path();
        if !path.is_dir() {
            continue;
        }
        let new = path.join("new");
        if !new.join("estimates.json").is_file() {
            collect(&path, found)?;
            continue;
        }
        let name: serde_json::Value = read(&new.join("benchmark.json"))?;
        let estimates: serde_json::Value = read(&new.join("estimates.json"))?;
        let point = |kind: &str| estimates[kind]["point_estimate"].as_f64();
        let name = name["full_id"].as_str().context("a benchmark without a name")?;
        let ns = point("slope").or_else(|| point("mean")).context("a benchmark without a figure")?;
        found.insert(name.to_owned(), ns);
    }
    Ok(())
}

fn read<T: serde::de::DeserializeOwned>(path: &Path) -> anyhow::Result<T> {
    let text = fs::read_to_string(path).with_context(|| path.display().to_string())?;
    serde_json::from_str(&text).with_context(|| path.display().to_string())
}

/// The committed figures, if there are any.
///
/// # Errors
/// When the file is there and cannot be read.
pub fn baseline(path: &Path) -> anyhow::Result<Option<Baseline>> {
    if path.exists() { read(path).map(Some) } else { Ok(None) }
}

/// A line for each benchmark: then, now, and the change where it is more than noise.
pub fn comparison(before: &BTreeMap<String, f64>, now: &BTreeMap<String, f64>) -> String {
    let mut text = format!("{:<44} {:>12} {:>12}\n", "ns per operation", "committed", "now");
    for (name, ns) in now {
        let old = before.get(name);
        let then = old.map_or_else(|| "new".to_owned(), |old| short(*old));
        let change = old.map_or(0.0, |old| ns / old - 1.0);
        let word = match change {
            slower if slower > CHANGE => format!("{:+.0} % slower", slower * 100.0),
            faster if faster < -CHANGE => format!("{:+.0} % faster", faster * 100.0),
            _ => String::new(),
        };
        let line = format!("{name:<44} {then:>12} {:>12}  {word}", short(*ns));
        text.push_str(line.trim_end());
        text.push('\n');
    }
    for name in before.keys().filter(|name| !now.contains_key(*name)) {
        text.push_str(&format!("{name:<44} is no longer measured\n"));
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn changes_beyond_noise_are_told_and_others_are_not() {
        let map = |pairs: &[(&str, f64)]| pairs.iter().map(|(name, ns)| ((*name).to_owned(), *ns)).collect();
        let before = map(&[("steady", 100.0), ("slow", 100.0), ("fast", 100.0), ("gone", 1.0)]);
        let now = map(&[("steady", 105.0), ("slow", 150.0), ("fast", 50.0), ("fresh", 7.0)]);
        let text = comparison(&before, &now);
        let line = |name: &str| text.lines().find(|line| line.starts_with(name)).expect("a line").to_owned();
        assert!(line("slow").ends_with("+50 % slower") && line("fast").ends_with("-50 % faster"), "{text}");
        assert!(line("steady").ends_with("105") && line("fresh").contains("new"), "{text}");
        assert!(line("gone").contains("no longer"), "{text}");
    }
}
