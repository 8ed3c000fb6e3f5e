//! Tables for terminals and for Markdown.

use super::Report;
use crate::metric::Metric;
use comfy_table::{CellAlignment, Table, presets};

/// The yardsticks that meshnet is put beside.
const RATIOS: [&str; 2] = ["tinc", "raw veth"];

/// All figures: a row a metric, a column a system; then meshnet's ratios to tinc and to raw veth.
///
/// A median stands with the spread of its rounds; `~` marks one that is not to be quoted; `failed` one that could not
/// be measured; `-` what the system cannot do.
pub fn figures(report: &Report, markdown: bool) -> String {
    let mut table = Table::new();
    table.load_style(if markdown { presets::ASCII_MARKDOWN } else { presets::NOTHING });
    let names = report.systems.iter().map(|entry| entry.name.clone());
    let ratios: Vec<&str> = RATIOS.into_iter().filter(|name| report.system(name).is_some()).collect();
    let own = report.system("meshnet").is_some();
    let mut header = vec![String::new(), "unit".to_owned()];
    header.extend(names);
    if own {
        header.extend(ratios.iter().map(|name| format!("meshnet / {name}")));
    }
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
        if own {
            row.extend(ratios.iter().map(|name| {
                let ratio = report.ratio(metric, "meshnet", name);
                ratio.map_or_else(|| "-".to_owned(), |ratio| format!("{} x", short(ratio)))
            }));
        }
        table.add_row(row);
    }
    for column in 2..columns {
        if let Some(column) = table.column_mut(column) {
            column.set_cell_alignment(CellAlignment::Right);
        }
    }
    table.to_string()
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
        assert!(row.contains("~0.50 ±80 %") && row.contains("0.20 x") && row.contains(" - |"), "{row}");
        assert!(notes(&report).contains("boringtun: absent (not installed)"));
    }
}
