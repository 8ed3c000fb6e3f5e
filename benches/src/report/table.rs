//! Tables for terminals and for Markdown.

use super::{OWN, OWN_CHACHA, RAW, Report};
use crate::metric::{Better, Metric};
use comfy_table::{CellAlignment, Table, presets};

/// All figures: a row a metric, a column a system.
///
/// A median stands with the spread of its rounds; `~` marks one that is not to be quoted; `failed` one that could not
/// be measured; `-` what the system cannot do.
pub fn figures(report: &Report, markdown: bool) -> String {
    let mut table = Table::new();
    table.load_style(if markdown { presets::ASCII_MARKDOWN } else { presets::NOTHING });
    let names = report.systems.iter().map(|entry| entry.name.clone());
    let mut header = vec![String::new(), "unit".to_owned()];
    header.extend(names);
    let columns = header.len();
    table.set_header(header);
    for metric in Metric::ALL {
        let is_known = |entry: &super::Entry| {
            entry.figures.contains_key(&metric) || entry.failures.contains_key(&metric)
        };
        if !report.systems.iter().any(is_known) {
            continue;
        }
        let mut row = vec![metric.title().to_owned(), metric.unit().to_owned()];
        row.extend(report.systems.iter().map(|entry| {
            match (entry.figures.get(&metric), entry.failures.get(&metric)) {
                (Some(figure), _) => {
                    let mark = if figure.quotable { "" } else { "~" };
                    let median = short(figure.median);
                    if figure.rounds.0.len() < 2 {
                        return format!("{mark}{median}");
                    }
                    format!("{mark}{median} ±{:.0} %", figure.spread * 50.0)
                }
                (None, Some(_)) => "failed".to_owned(),
                (None, None) => "-".to_owned(),
            }
        }));
        table.add_row(row);
    }
    align(&mut table, 2..columns);
    table.to_string()
}

/// meshnet beside the best peer, tinc, and the bare cable; and with ChaCha20-Poly1305 beside the best peer that has it.
/// "12 x better" is twelve times the rate, or a twelfth of the cost; `-` stands where one of the two cannot be quoted.
pub fn ratios(report: &Report, markdown: bool) -> String {
    let mut table = Table::new();
    table.load_style(if markdown { presets::ASCII_MARKDOWN } else { presets::NOTHING });
    let header = [
        "",
        "unit",
        "meshnet",
        "best peer",
        "better",
        "than tinc",
        "than raw veth",
        "ChaCha, than the best with it",
    ];
    table.set_header(header);
    for metric in Metric::ALL {
        let Some(own) = report.system(OWN).and_then(|own| own.quotable(metric)) else { continue };
        let against = |name: &str| times(metric, report.ratio(metric, OWN, name));
        let best = report.best_peer(metric, false);
        let chacha = report.best_peer(metric, true).and_then(|(peer, _)| {
            Some((times(metric, Some(report.ratio(metric, OWN_CHACHA, &peer.name)?)), &peer.name))
        });
        table.add_row([
            metric.title().to_owned(),
            metric.unit().to_owned(),
            short(own),
            best.map_or_else(|| "-".to_owned(), |(peer, value)| format!("{} {}", peer.name, short(value))),
            best.map_or_else(|| "-".to_owned(), |(peer, _)| against(&peer.name)),
            against("tinc"),
            against(RAW),
            chacha.map_or_else(|| "-".to_owned(), |(times, name)| format!("{times} ({name})")),
        ]);
    }
    align(&mut table, 2..header.len());
    table.to_string()
}

/// A ratio of figures as how many times better it is.
fn times(metric: Metric, ratio: Option<f64>) -> String {
    match (ratio, metric.better()) {
        (None, _) => "-".to_owned(),
        (Some(ratio), Better::Higher) => format!("{} x", short(ratio)),
        (Some(ratio), Better::Lower) => format!("{} x", short(1.0 / ratio)),
    }
}

fn align(table: &mut Table, columns: std::ops::Range<usize>) {
    for column in columns {
        if let Some(column) = table.column_mut(column) {
            column.set_cell_alignment(CellAlignment::Right);
        }
    }
}

/// Machine, versions, what is absent and what failed.
pub fn notes(report: &Report) -> String {
    let machine = &report.machine;
    let mut lines = vec![format!(
        "{}, {} cores, {} MB, Linux {}, {}{}, load {:.1} before; {} plan, {} rounds",
        machine.processor,
        machine.cores,
        machine.memory_mb,
        machine.kernel,
        machine.date,
        machine.commit.as_ref().map(|commit| format!(", commit {commit}")).unwrap_or_default(),
        machine.load_before,
        report.plan,
        report.rounds,
    )];
    lines.extend(report.systems.iter().map(|entry| format!("- {}: {}", entry.name, entry.description)));
    lines.extend(report.absent.iter().map(|(name, why)| format!("- {name}: absent ({why})")));
    for entry in &report.systems {
        let failures = entry.failures.iter();
        lines.extend(
            failures.map(|(metric, why)| format!("- {}, {}: failed: {why}", entry.name, metric.title())),
        );
    }
    lines.join("\n")
}

/// Three significant digits.
pub(crate) fn short(value: f64) -> String {
    match value.abs() {
        large if large >= 99.95 => format!("{value:.0}"),
        middle if middle >= 9.995 => format!("{value:.1}"),
        _ => format!("{value:.2}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::report::tests::report;

    #[test]
    fn values_have_three_digits() {
        assert_eq!([0.584, 5.714, 57.14, 571.4, 5714.0].map(short), ["0.58", "5.71", "57.1", "571", "5714"]);
        assert_eq!([9.996, 99.96].map(short), ["10.0", "100"]);
    }

    #[test]
    fn what_scatters_is_marked_and_has_no_ratio() {
        let report =
            report(&[("raw veth", &[20.0, 20.0]), ("meshnet", &[4.0, 4.0]), ("tinc", &[0.1, 0.5, 0.9])]);
        let table = figures(&report, true);
        let row = table.lines().find(|line| line.contains("TCP, one stream")).expect("a row");
        assert!(row.contains("~0.50 ±80 %"), "{row}");
        let ratios = ratios(&report, true);
        let row = ratios.lines().find(|line| line.contains("TCP, one stream")).expect("a row");
        assert!(row.contains("0.20 x") && row.contains(" - |") && !row.contains("tinc"), "{row}");
        assert!(notes(&report).contains("boringtun: absent (not installed)"));
    }
}
