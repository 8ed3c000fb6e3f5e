//! Bar charts as SVG: small files that read in any browser, light or dark.

use super::Report;
use super::table::short;
use crate::metric::{Better, Metric};
use std::fmt::Write;

const WIDTH: f64 = 720.0;
const LABEL: f64 = 150.0;
const BAR: f64 = 22.0;
const STEP: f64 = 30.0;
const TOP: f64 = 44.0;

/// One metric: a bar a system with the median, and a whisker over the rounds. `None` when nobody has that figure.
/// The figure of a system whose rounds scatter too much is drawn pale.
pub fn bars(report: &Report, metric: Metric) -> Option<String> {
    let systems = report.systems.iter().filter_map(|entry| Some((entry, entry.figures.get(&metric)?)));
    let systems: Vec<_> = systems.collect();
    let most = systems.iter().filter_map(|(_, figure)| figure.rounds.range()).map(|(_, high)| high);
    let most = most.fold(0.0, f64::max);
    if systems.is_empty() || most <= 0.0 {
        return None;
    }
    let scale = (WIDTH - LABEL - 90.0) / most;
    let height = TOP + STEP * systems.len() as f64 + 26.0;
    let better = match metric.better() {
        Better::Higher => "more is better",
        Better::Lower => "less is better",
    };
    let mut svg = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {WIDTH} {height}\" width=\"{WIDTH}\" \
         font-family=\"system-ui, sans-serif\" font-size=\"13\">\n\
         <style>text{{fill:#222}}.bar{{fill:#8aa1b4}}.own{{fill:#d9622b}}.whisker{{stroke:#222;fill:none}}\
         @media(prefers-color-scheme:dark){{text{{fill:#ddd}}.whisker{{stroke:#ddd}}}}</style>\n\
         <text x=\"8\" y=\"24\" font-size=\"16\" font-weight=\"600\">{}, {} ({better})</text>\n",
        escape(metric.title()),
        metric.unit()
    );
    for (row, (entry, figure)) in systems.iter().enumerate() {
        let (y, width) = (TOP + STEP * row as f64, figure.median * scale);
        let middle = y + BAR / 2.0;
        let class = if entry.name.starts_with("meshnet") { "own" } else { "bar" };
        let opacity = if figure.quotable { "1" } else { "0.4" };
        let name = escape(&entry.name);
        let (low, high) = figure.rounds.range().unwrap_or((figure.median, figure.median));
        let (from, to) = (LABEL + low * scale, LABEL + high * scale);
        let _ = write!(
            svg,
            "<text x=\"{:.0}\" y=\"{:.1}\" text-anchor=\"end\">{name}</text>\n\
             <rect class=\"{class}\" opacity=\"{opacity}\" x=\"{LABEL}\" y=\"{y:.1}\" width=\"{width:.1}\" \
             height=\"{BAR}\" rx=\"2\"/>\n\
             <path class=\"whisker\" d=\"M{from:.1} {middle:.1}H{to:.1}\"/>\n\
             <text x=\"{:.1}\" y=\"{:.1}\">{}</text>\n",
            LABEL - 8.0,
            middle + 4.5,
            to.max(LABEL + width) + 7.0,
            middle + 4.5,
            short(figure.median)
        );
    }
    let machine = &report.machine;
    let _ = write!(
        svg,
        "<text x=\"8\" y=\"{:.0}\" font-size=\"11\">{}, {} cores, Linux {}, {}: medians; lines span the rounds</text>\n</svg>\n",
        height - 8.0,
        escape(&machine.processor),
        machine.cores,
        escape(&machine.kernel),
        escape(&machine.date)
    );
    Some(svg)
}

fn escape(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::report::tests::report;

    #[test]
    fn there_is_a_bar_for_each_system_and_markup_in_names_is_escaped() {
        let report = report(&[("meshnet", &[4.0, 4.0]), ("a <b>", &[1.0, 9.0])]);
        let svg = bars(&report, Metric::TcpThere).expect("a chart");
        assert_eq!(svg.matches("<rect").count(), 2);
        assert!(svg.contains("a &lt;b&gt;") && !svg.contains("a <b>"));
        assert!(svg.contains("class=\"own\" opacity=\"1\"") && svg.contains("class=\"bar\" opacity=\"0.4\""));
        assert_eq!(bars(&report, Metric::Udp64), None);
    }
}
