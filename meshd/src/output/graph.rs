//! Pictures of the mesh: for Graphviz, and as SVG.
//!
//! The SVG puts relays on an inner circle and the others on an outer one, ordered by datacentre, so that what belongs
//! together lies together and links cross little.

use std::collections::BTreeMap;
use std::f64::consts::TAU;
use std::fmt::Write;

use crate::api::view::{Graph, GraphNode, PathKind, PeerState};

/// Colours of datacentres, in turn (ColorBrewer's "Set3" without its greys).
const COLOURS: [&str; 8] =
    ["#8dd3c7", "#bebada", "#fdb462", "#80b1d3", "#fb8072", "#b3de69", "#fccde5", "#ffed6f"];
/// Of nodes without datacentre.
const NO_COLOUR: &str = "#eeeeee";
const DIRECT: &str = "#2b8a3e";
const RELAYED: &str = "#d9480f";

/// The graph in the language of Graphviz; `neato` and `fdp` draw it well.
pub fn dot(graph: &Graph) -> String {
    let mut text = String::from("graph mesh {\n  overlap=false; splines=true; node [style=filled];\n");
    let colours = colours(graph);
    for node in &graph.nodes {
        let shape = if node.relay { "box" } else { "ellipse" };
        let label = match &node.datacenter {
            Some(datacenter) => format!("{}\\n{datacenter}", node.name),
            None => node.name.clone(),
        };
        let width = if node.name == graph.own { 3 } else { 1 };
        let colour = colour(&colours, node);
        let style = if is_lost(node) { ", style=\"filled,dashed\", fontcolor=\"#888888\"" } else { "" };
        // Writing to a string does not fail.
        let _ = writeln!(
            text,
            "  \"{}\" [label=\"{label}\", shape={shape}, fillcolor=\"{colour}\", penwidth={width}{style}];",
            node.name
        );
    }
    for link in &graph.links {
        let (a, b, rtt) = (&link.a, &link.b, label_of(Some(link.rtt_ms)));
        let _ = writeln!(text, "  \"{a}\" -- \"{b}\" [label=\"{rtt}\", color=\"#999999\"];");
    }
    for path in &graph.paths {
        let colour = if path.kind == PathKind::Relay { RELAYED } else { DIRECT };
        let mut stops: Vec<&str> = vec![&graph.own];
        stops.extend(path.via.iter().map(String::as_str));
        stops.push(&path.peer);
        let chain: Vec<String> = stops.iter().map(|stop| format!("\"{stop}\"")).collect();
        let rtt = label_of(path.rtt_ms);
        let _ = writeln!(
            text,
            "  {} [color=\"{colour}\", penwidth=2, label=\"{rtt}\", fontcolor=\"{colour}\"];",
            chain.join(" -- ")
        );
    }
    text.push_str("}\n");
    text
}

/// The graph as a picture.
pub fn svg(graph: &Graph) -> String {
    let places = places(graph);
    let size = 2.0 * (outer_radius(graph) + 90.0);
    let legend = 30.0;
    let mut text = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {size:.0} {:.0}\" \
         font-family=\"sans-serif\" font-size=\"12\" text-anchor=\"middle\">\n\
         <rect width=\"100%\" height=\"100%\" fill=\"white\"/>\n",
        size + legend
    );
    let place = |name: &str| places.get(name).copied().unwrap_or((size / 2.0, size / 2.0));
    for link in &graph.links {
        line(&mut text, &[place(&link.a), place(&link.b)], "#bbbbbb", 1.0, "");
    }
    for path in &graph.paths {
        let mut stops = vec![place(&graph.own)];
        stops.extend(path.via.iter().map(|relay| place(relay)));
        stops.push(place(&path.peer));
        match path.kind {
            PathKind::Relay => line(&mut text, &stops, RELAYED, 2.0, " stroke-dasharray=\"6 4\""),
            PathKind::Direct | PathKind::Tcp => line(&mut text, &stops, DIRECT, 2.5, ""),
        }
    }
    let drawn: Vec<(&str, &str)> = graph
        .paths
        .iter()
        .filter(|path| path.via.is_empty())
        .flat_map(|path| [(graph.own.as_str(), path.peer.as_str()), (&path.peer, &graph.own)])
        .collect();
    for link in graph.links.iter().filter(|link| !drawn.contains(&(&link.a, &link.b))) {
        label(&mut text, (place(&link.a), place(&link.b)), 0.5, &label_of(Some(link.rtt_ms)), "#666666");
    }
    for path in &graph.paths {
        let last = path.via.last().map_or_else(|| place(&graph.own), |relay| place(relay));
        let colour = if path.kind == PathKind::Relay { RELAYED } else { DIRECT };
        // Nearer to the peer, so that paths which share their first part do not hide each other's figures.
        label(&mut text, (last, place(&path.peer)), 0.62, &label_of(path.rtt_ms), colour);
    }
    let colours = colours(graph);
    for node in &graph.nodes {
        draw_node(&mut text, graph, node, colour(&colours, node), place(&node.name));
    }
    draw_legend(&mut text, &colours, size);
    text.push_str("</svg>\n");
    text
}

fn draw_node(text: &mut String, graph: &Graph, node: &GraphNode, colour: &str, (x, y): (f64, f64)) {
    let width = (node.name.chars().count() as f64 * 7.5 + 18.0).max(44.0);
    let (stroke, stroke_width) = if node.name == graph.own { ("#000000", 3.0) } else { ("#555555", 1.0) };
    let (dash, opacity) = if is_lost(node) { (" stroke-dasharray=\"3 3\"", 0.5) } else { ("", 1.0) };
    let corner = if node.relay { 2.0 } else { 13.0 };
    let _ = writeln!(
        text,
        "<g opacity=\"{opacity}\"><rect x=\"{:.1}\" y=\"{:.1}\" width=\"{width:.1}\" height=\"26\" rx=\"{corner}\" \
         fill=\"{colour}\" stroke=\"{stroke}\" stroke-width=\"{stroke_width}\"{dash}/>\
         <text x=\"{x:.1}\" y=\"{:.1}\">{}</text></g>",
        x - width / 2.0,
        y - 13.0,
        y + 4.0,
        escape(&node.name)
    );
}

fn draw_legend(text: &mut String, colours: &BTreeMap<&str, &str>, size: f64) {
    let mut x = 20.0;
    let mut entry = |text: &mut String, mark: String, word: &str| {
        let _ = writeln!(
            text,
            "<g transform=\"translate({x:.0} {:.0})\" text-anchor=\"start\">{mark}<text x=\"28\" y=\"4\">{}</text></g>",
            size + 8.0,
            escape(word)
        );
        x += 46.0 + word.chars().count() as f64 * 7.0;
    };
    let stroke = |colour: &str, more: &str| {
        format!("<line x1=\"0\" x2=\"22\" y1=\"0\" y2=\"0\" stroke=\"{colour}\" stroke-width=\"2.5\"{more}/>")
    };
    entry(text, stroke(DIRECT, ""), "direct");
    entry(text, stroke(RELAYED, " stroke-dasharray=\"6 4\""), "through relays");
    entry(text, stroke("#bbbbbb", ""), "link");
    let square = |corner: u8, fill: &str| {
        format!(
            "<rect x=\"2\" y=\"-8\" width=\"20\" height=\"16\" rx=\"{corner}\" fill=\"{fill}\" stroke=\"#555555\"/>"
        )
    };
    entry(text, square(2, "white"), "relay");
    for (datacenter, colour) in colours {
        entry(text, square(8, colour), datacenter);
    }
}

fn line(text: &mut String, stops: &[(f64, f64)], colour: &str, width: f64, more: &str) {
    let points: Vec<String> = stops.iter().map(|(x, y)| format!("{x:.1},{y:.1}")).collect();
    let _ = writeln!(
        text,
        "<polyline points=\"{}\" fill=\"none\" stroke=\"{colour}\" stroke-width=\"{width}\"{more}/>",
        points.join(" ")
    );
}

fn label(text: &mut String, (from, to): ((f64, f64), (f64, f64)), at: f64, word: &str, colour: &str) {
    let (x, y) = (from.0 + (to.0 - from.0) * at, from.1 + (to.1 - from.1) * at);
    let _ = writeln!(
        text,
        "<text x=\"{x:.1}\" y=\"{:.1}\" font-size=\"10\" fill=\"{colour}\" stroke=\"white\" stroke-width=\"3\" \
         paint-order=\"stroke\">{word}</text>",
        y + 3.0
    );
}

/// Where each node lies.
fn places(graph: &Graph) -> BTreeMap<&str, (f64, f64)> {
    let outer = outer_radius(graph);
    let centre = outer + 90.0;
    let mut places = BTreeMap::new();
    for relay in [true, false] {
        let mut ring: Vec<&GraphNode> = graph.nodes.iter().filter(|node| node.relay == relay).collect();
        ring.sort_by_key(|node| (&node.datacenter, &node.name));
        let radius = match (relay, ring.len()) {
            (true, 1) => 0.0,
            (true, _) => outer * 0.5,
            (false, _) => outer,
        };
        // Half a step off, so that an inner node lies between two outer ones.
        let offset = if relay { 0.5 } else { 0.0 };
        for (at, node) in ring.iter().enumerate() {
            let angle = TAU * ((at as f64 + offset) / ring.len() as f64 - 0.25);
            let place = (centre + radius * angle.cos(), centre + radius * angle.sin());
            places.insert(node.name.as_str(), place);
        }
    }
    places
}

fn outer_radius(graph: &Graph) -> f64 {
    let outside = graph.nodes.iter().filter(|node| !node.relay).count();
    (outside as f64 * 80.0 / TAU).max(180.0)
}

fn colours(graph: &Graph) -> BTreeMap<&str, &'static str> {
    let mut datacenters: Vec<&str> =
        graph.nodes.iter().filter_map(|node| node.datacenter.as_deref()).collect();
    datacenters.sort_unstable();
    datacenters.dedup();
    datacenters.into_iter().zip(COLOURS.iter().copied().cycle()).collect()
}

fn colour(colours: &BTreeMap<&str, &'static str>, node: &GraphNode) -> &'static str {
    let known = node.datacenter.as_deref().and_then(|datacenter| colours.get(datacenter));
    known.copied().unwrap_or(NO_COLOUR)
}

fn is_lost(node: &GraphNode) -> bool {
    matches!(node.state, Some(PeerState::Unreachable | PeerState::Expired))
}

fn label_of(rtt_ms: Option<f64>) -> String {
    rtt_ms.map_or_else(String::new, super::units::milliseconds)
}

fn escape(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::api::view::{GraphLink, GraphPath};

    fn graph() -> Graph {
        let node = |name: &str, datacenter: &str, relay, state| GraphNode {
            name: name.into(),
            datacenter: (!datacenter.is_empty()).then(|| datacenter.into()),
            relay,
            state,
        };
        let connected = Some(PeerState::Connected);
        Graph {
            own: "a".into(),
            nodes: vec![
                node("a", "ams", false, None),
                node("b", "fra", false, connected),
                node("c", "", false, Some(PeerState::Unreachable)),
                node("r1", "ams", true, connected),
                node("r2", "fra", true, connected),
            ],
            links: vec![
                GraphLink { a: "a".into(), b: "r1".into(), rtt_ms: 0.4 },
                GraphLink { a: "r1".into(), b: "r2".into(), rtt_ms: 8.0 },
            ],
            paths: vec![
                GraphPath {
                    peer: "b".into(),
                    kind: PathKind::Relay,
                    via: vec!["r1".into(), "r2".into()],
                    rtt_ms: Some(9.0),
                },
                GraphPath { peer: "r1".into(), kind: PathKind::Direct, via: vec![], rtt_ms: Some(0.4) },
            ],
        }
    }

    #[test]
    fn dot_names_every_node_link_and_path() {
        let text = dot(&graph());
        assert!(text.starts_with("graph mesh {") && text.ends_with("}\n"));
        assert!(text.contains("\"r1\" -- \"r2\" [label=\"8.0 ms\""), "{text}");
        assert!(text.contains("\"a\" -- \"r1\" -- \"r2\" -- \"b\" [color=\"#d9480f\""), "{text}");
        assert!(
            text.contains("\"c\" [label=\"c\", shape=ellipse") && text.contains("filled,dashed"),
            "{text}"
        );
    }

    #[test]
    fn no_two_nodes_of_the_picture_lie_upon_each_other() {
        let graph = graph();
        let places: Vec<(f64, f64)> = places(&graph).into_values().collect();
        for (at, a) in places.iter().enumerate() {
            for b in &places[at + 1..] {
                assert!((a.0 - b.0).hypot(a.1 - b.1) > 50.0, "{a:?} {b:?}");
            }
        }
        let text = svg(&graph);
        assert_eq!(text.matches("<g opacity").count(), 5);
        assert_eq!(text.matches("<svg").count(), text.matches("</svg>").count());
    }
}
