//! The part of a page that a run fills: tables and charts, between two marks.

use super::{Report, chart, table};
use crate::metric::Metric;
use std::fmt::Write;

/// Where the part begins in a page.
pub const BEGIN: &str = "<!-- figures: written by `bench report`, not by hand -->";

/// Where it ends.
pub const END: &str = "<!-- end of figures -->";

/// The charts that a page shows, by the names of their files.
const CHARTS: [Metric; 8] = [
    Metric::TcpThere,
    Metric::TcpFanIn,
    Metric::TcpRelayed,
    Metric::CpuPerGb,
    Metric::Udp64,
    Metric::RttIdleP50,
    Metric::RttLoadP50,
    Metric::Resident,
];

/// What was measured where, the tables, and the charts, as Markdown.
pub fn section(report: &Report) -> String {
    let mut text = format!(
        "{}\n\n### meshnet beside the others\n\n{}\n\n### All figures\n\n{}\n",
        table::notes(report),
        table::ratios(report, true),
        table::figures(report, true)
    );
    let overview = chart::overview(report).map(|_| ("meshnet beside the best peer", "overview".to_owned()));
    let charts =
        CHARTS.into_iter().filter(|metric| chart::bars(report, *metric).is_some()).filter_map(|metric| {
            let name = serde_json::to_value(metric).ok()?.as_str()?.to_owned();
            Some((metric.title(), name))
        });
    text.push('\n');
    for (title, name) in overview.into_iter().chain(charts) {
        // Writing to a string does not fail.
        let _ = writeln!(text, "![{title}](benchmarks/{name}.svg)");
    }
    text
}

/// The page with `section` between its marks; `None` if it has not both, in order.
pub fn replace(page: &str, section: &str) -> Option<String> {
    let (before, rest) = page.split_once(BEGIN)?;
    let (_, after) = rest.split_once(END)?;
    Some(format!("{before}{BEGIN}\n\n{section}\n{END}{after}"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::report::tests::report;

    #[test]
    fn a_section_replaces_the_one_before_and_nothing_else() {
        let page = format!("top\n{BEGIN}\nold\n{END}\nbottom\n");
        let section = section(&report(&[("meshnet", &[4.0, 4.0]), ("tinc", &[1.0, 1.0])]));
        assert!(section.contains("4.00 x") && section.contains("benchmarks/tcp_there.svg"), "{section}");
        let new = replace(&page, &section).expect("marks");
        assert!(new.starts_with("top\n") && new.ends_with("bottom\n") && !new.contains("old"));
        assert_eq!(replace(&new, &section).as_ref(), Some(&new));
        assert_eq!(replace("no marks", &section), None);
    }
}
