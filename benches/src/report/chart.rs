//! Bar charts as SVG: small files that read in any browser, light or dark.

use super::table::short;
use super::{Entry, Figure, OWN, RAW, Report};
use crate::metric::{Better, Metric};
use std::fmt::Write;

const WIDTH: f64 = 720.0;
const LABEL: f64 = 190.0;
/// Right of the bars, for their values.
const VALUE: f64 = 110.0;
const BAR: f64 = 20.0;
const STEP: f64 = 28.0;
const TOP: f64 = 46.0;
const BOTTOM: f64 = 30.0;
/// Half the height of a whisker's end.
const CAP: f64 = 4.0;

/// One metric: a bar a system with the median, and a whisker over the rounds; the bare cable first, then the best first.
/// `None` when nobody has that figure. The figure of a system whose rounds scatter too much is drawn pale.
pub fn bars(report: &Report, metric: Metric) -> Option<String> {
    let systems = report.systems.iter().filter_map(|entry| Some((entry, entry.figures.get(&metric)?)));
    let mut systems: Vec<(&Entry, &Figure)> = systems.collect();
    let most = systems.iter().filter_map(|(_, figure)| figure.rounds.range()).map(|(_, high)| high);
    let most = most.fold(0.0, f64::max);
    if systems.is_empty() || most <= 0.0 {
        return None;
    }
    let key = |figure: &Figure| match metric.better() {
        Better::Higher => -figure.median,
        Better::Lower => figure.median,
    };
    systems.sort_by(|(a, of_a), (b, of_b)| {
        (b.name == RAW).cmp(&(a.name == RAW)).then(key(of_a).total_cmp(&key(of_b)))
    });
    let better = match metric.better() {
        Better::Higher => "more is better",
        Better::Lower => "less is better",
    };
    let scale = (WIDTH - LABEL - VALUE) / most;
    let mut svg = head(&format!("{}, {} ({better})", metric.title(), metric.unit()), systems.len());
    let mut pale = false;
    for (row, (entry, figure)) in systems.iter().enumerate() {
        let y = TOP + STEP * row as f64;
        let (middle, width) = (y + BAR / 2.0, figure.median * scale);
        let class = match entry.name.as_str() {
            OWN => "own",
            RAW => "raw",
            name if name.starts_with(OWN) => "own2",
            _ => "bar",
        };
        let (opacity, mark) = if figure.quotable { ("1", "") } else { ("0.4", "~") };
        pale |= !figure.quotable;
        let (low, high) = figure.rounds.range().unwrap_or((figure.median, figure.median));
        let (from, to) = (LABEL + low * scale, LABEL + high * scale);
        let _ = write!(
            svg,
            "<text x=\"{:.0}\" y=\"{:.1}\" text-anchor=\"end\">{}</text>\n\
             <rect class=\"{class}\" opacity=\"{opacity}\" x=\"{LABEL}\" y=\"{y:.1}\" width=\"{width:.1}\" \
             height=\"{BAR}\" rx=\"2\"/>\n",
            LABEL - 8.0,
            middle + 4.5,
            escape(&entry.name),
        );
        if to - from > 1.0 {
            let (top, bottom) = (middle - CAP, middle + CAP);
            let _ = writeln!(
                svg,
                "<path class=\"whisker\" d=\"M{from:.1} {top:.1}V{bottom:.1}M{from:.1} {middle:.1}H{to:.1}M{to:.1} \
                 {top:.1}V{bottom:.1}\"/>"
            );
        }
        let _ = writeln!(
            svg,
            "<text x=\"{:.1}\" y=\"{:.1}\">{mark}{}</text>",
            to.max(LABEL + width) + 7.0,
            middle + 4.5,
            short(figure.median)
        );
    }
    let pale = if pale { "; pale: scattered" } else { "" };
    svg.push_str(&foot(report, systems.len(), &format!("medians, lines span the rounds{pale}")));
    Some(svg)
}

/// How many times better than the best peer meshnet is in each metric, on a logarithmic scale. `None` without any.
pub fn overview(report: &Report) -> Option<String> {
    let factors: Vec<(Metric, &str, f64)> = Metric::ALL
        .into_iter()
        .filter_map(|metric| {
            let (peer, _) = report.best_peer(metric, false)?;
            let ratio = report.ratio(metric, OWN, &peer.name)?;
            let factor = if metric.better() == Better::Higher { ratio } else { 1.0 / ratio };
            (factor > 0.0).then_some((metric, peer.name.as_str(), factor))
        })
        .collect();
    let logs = || factors.iter().map(|(.., factor)| factor.log2());
    let (least, most) = (logs().fold(-0.5, f64::min), logs().fold(1.0, f64::max));
    if factors.is_empty() {
        return None;
    }
    let scale = (WIDTH - LABEL - VALUE - 60.0) / (most - least);
    let one = LABEL - least * scale;
    let mut svg =
        head("meshnet beside the best peer in each figure (right of the line: better)", factors.len());
    for (row, (metric, peer, factor)) in factors.iter().enumerate() {
        let y = TOP + STEP * row as f64;
        let (text_y, width) = (y + BAR / 2.0 + 4.5, factor.log2() * scale);
        let (class, from) = if width < 0.0 { ("bar", one + width) } else { ("own", one) };
        let _ = write!(
            svg,
            "<text x=\"{:.0}\" y=\"{text_y:.1}\" text-anchor=\"end\">{}</text>\n\
             <rect class=\"{class}\" x=\"{from:.1}\" y=\"{y:.1}\" width=\"{:.1}\" height=\"{BAR}\" rx=\"2\"/>\n\
             <text x=\"{:.1}\" y=\"{text_y:.1}\">{} x {}</text>\n",
            LABEL - 8.0,
            escape(metric.title()),
            width.abs(),
            one.max(one + width) + 7.0,
            short(*factor),
            escape(peer),
        );
    }
    let bottom = TOP + STEP * factors.len() as f64;
    let _ = writeln!(svg, "<path class=\"whisker\" d=\"M{one:.1} {:.1}V{bottom:.1}\"/>", TOP - 6.0);
    svg.push_str(&foot(report, factors.len(), "ratios of medians, logarithmic"));
    Some(svg)
}

fn head(title: &str, rows: usize) -> String {
    let height = TOP + STEP * rows as f64 + BOTTOM;
    format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {WIDTH} {height}\" width=\"{WIDTH}\" \
         font-family=\"system-ui, sans-serif\" font-size=\"13\">\n\
         <style>text{{fill:#222}}.bar{{fill:#8aa1b4}}.own{{fill:#d9622b}}.own2{{fill:#e89a70}}\
         .raw{{fill:#c9c9c9}}.whisker{{stroke:#222;fill:none}}\
         @media(prefers-color-scheme:dark){{text{{fill:#ddd}}.whisker{{stroke:#ddd}}.raw{{fill:#666}}}}</style>\n\
         <text x=\"8\" y=\"24\" font-size=\"16\" font-weight=\"600\">{}</text>\n",
        escape(title)
    )
}

fn foot(report: &Report, rows: usize, note: &str) -> String {
    let machine = &report.machine;
    format!(
        "<text x=\"8\" y=\"{:.0}\" font-size=\"11\">{}, {} cores, Linux {}, {}: {note}</text>\n</svg>\n",
        TOP + STEP * rows as f64 + BOTTOM - 9.0,
        escape(&machine.processor),
        machine.cores,
        escape(&machine.kernel),
        escape(&machine.date)
    )
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

    #[test]
    fn the_cable_comes_first_and_then_the_best() {
        let report = report(&[("slow", &[1.0]), ("meshnet", &[4.0]), ("raw veth", &[2.0])]);
        let svg = bars(&report, Metric::TcpThere).expect("a chart");
        let at = |name: &str| svg.find(&format!(">{name}<")).expect("a label");
        assert!(at("raw veth") < at("meshnet") && at("meshnet") < at("slow"));
    }

    #[test]
    fn the_overview_has_only_what_can_be_quoted() {
        let svg = overview(&report(&[("meshnet", &[4.0, 4.0]), ("slow", &[1.0, 1.0])])).expect("a chart");
        assert!(svg.contains("4.00 x slow"), "{svg}");
        assert_eq!(overview(&report(&[("meshnet", &[4.0, 4.0]), ("busy", &[1.0, 9.0])])), None);
    }
}
