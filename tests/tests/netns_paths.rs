//! What the administrator says about paths is obeyed, and what happens to them is told.

use meshnet_tests::net::{SETTLE, Split, done, flow, wait_for_arrivals};
use netlab::mesh::{Member, PathStatus};
use serde_json::Value;
use std::time::Duration;

fn configure(member: &mut Member, text: &str) {
    let path = member.state().join("meshd.toml");
    let before = std::fs::read_to_string(&path).unwrap_or_default();
    let kept = before.split("[[peer]]").next().unwrap_or_default();
    done(std::fs::write(&path, format!("{kept}{text}")));
    member.daemon().expect("it runs").signal(nix::sys::signal::Signal::SIGHUP);
}

fn json(member: &Member, arguments: &[&str]) -> Vec<Value> {
    let text = done(member.ok(&[arguments, &["--json"]].concat()));
    text.lines().map(|line| done(serde_json::from_str(line))).collect()
}

#[test]
fn a_pinned_relay_is_used_a_forbidden_one_is_not_and_both_are_told() {
    let mut split = Split::with_delays(&[Duration::from_millis(2), Duration::from_millis(20)]);
    let flow = flow(&split.a, &split.b, 200);
    wait_for_arrivals(&flow, 200);
    done(split.a.wait_for_path("b", SETTLE, |path| path.via == ["r1"]));
    configure(&mut split.a, "[[peer]]\nname = \"b\"\nvia = [\"r2\"]\n");
    done(split.a.wait_for_path("b", SETTLE, |path| path.via == ["r2"]));
    let why = &json(&split.a, &["why", "b"])[0];
    let paths = why["paths"].as_array().expect("paths");
    let of =
        |relay: &str| paths.iter().find(|path| path["via"][0] == relay).expect("a path through the relay");
    assert!(of("r1")["reason"].as_str().is_some_and(|text| text.contains("configuration")), "{why}");
    assert!(of("r2")["score_ms"].as_f64().is_some_and(|score| score > 20.0), "{why}");
    assert!(why["decision"]["looked_at_again_ms"].as_f64().is_some_and(|ms| ms <= 1000.0), "{why}");
    // Forbidding it leaves no way but the other; what is said about nobody is warned about.
    configure(&mut split.a, "[[peer]]\nname = \"b\"\nforbid = [\"r2\", \"nobody\"]\n");
    done(split.a.wait_for_path("b", SETTLE, |path| path.via == ["r1"]));
    let warnings = done(split.a.status()).warnings;
    assert!(warnings.iter().any(|warning| warning.contains("nobody")), "{warnings:?}");
    let report = done(flow.stop());
    assert_eq!(report.lost, 0, "{report}");

    let events = json(&split.a, &["events", "b"]);
    let changes: Vec<&str> = events.iter().filter_map(|event| event["to"].as_str()).collect();
    assert!(changes.ends_with(&["via r1", "via r2", "via r1"]), "{events:?}");
    let numbers: Vec<u64> = events.iter().filter_map(|event| event["number"].as_u64()).collect();
    assert!(numbers.is_sorted() && events.iter().all(|event| event["peer"] == "b"), "{events:?}");

    let graph = &json(&split.a, &["graph"])[0];
    assert_eq!(graph["nodes"].as_array().map(Vec::len), Some(4), "{graph}");
    let svg = done(split.a.ok(&["graph", "--format", "svg"]));
    assert!(svg.contains("stroke-dasharray=\"6 4\"") && svg.trim_end().ends_with("</svg>"), "{svg}");
    if let Some(path) = std::env::var_os("MESHNET_SVG") {
        done(std::fs::write(path, svg));
    }
    let dot = done(split.a.ok(&["graph"]));
    assert!(dot.contains("\"a\" -- \"r1\" -- \"b\""), "{dot}");
    assert!(done(split.a.path_to("b")).is_some_and(|path: PathStatus| path.is_relayed()));
}
