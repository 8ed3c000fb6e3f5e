//! What docs/threat-model.md and docs/stack.md say is shown by a test, is: every test that they name exists.

use std::path::Path;

/// `[`name`](../path/to/file.rs)` in a text: names and paths.
fn named_tests(text: &str) -> Vec<(&str, &str)> {
    let mut found = Vec::new();
    for part in text.split("[`").skip(1) {
        let Some((name, rest)) = part.split_once("`](../") else { continue };
        let Some((path, _)) = rest.split_once(')') else { continue };
        if path.ends_with(".rs")
            && name.chars().all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '_')
        {
            found.push((name, path));
        }
    }
    found
}

#[test]
fn every_test_that_the_threat_model_names_exists() {
    all_exist("docs/threat-model.md", 60, false);
}

#[test]
fn every_test_that_the_guide_to_stacks_names_exists() {
    all_exist("docs/stack.md", 40, true);
}

/// Panics unless a document names at least so many tests, and all of them are there; and are run by `make test`, unless some
/// need real containers, which `make test-stack` runs.
fn all_exist(document: &str, least: usize, containers: bool) {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("the workspace");
    let text = std::fs::read_to_string(root.join(document)).expect("the document");
    let named = named_tests(&text);
    assert!(named.len() >= least, "{document} names {}", named.len());
    for (name, path) in named {
        let source =
            std::fs::read_to_string(root.join(path)).unwrap_or_else(|error| panic!("{path}: {error}"));
        let definition = format!("fn {name}(");
        let Some(at) = source.find(&definition) else { panic!("{path} has no test {name}") };
        // An attribute, or a doc comment behind one, is not far before it.
        let before = &source[at.saturating_sub(600)..at];
        assert!(before.contains("#[test]") || before.contains("#[tokio::test"), "{path}: {name} is no test");
        // Its own attributes come after the end of whatever is before it.
        let own = before.rsplit("}\n\n").next().unwrap_or(before);
        let elsewhere = containers && path.starts_with("tests/tests/stack_");
        assert!(elsewhere || !own.contains("#[ignore"), "{path}: {name} is not run");
    }
}

/// What went wrong in other VPNs, one line each, in words of the table's first column: each has a line with a test.
const ELSEWHERE: [&str; 26] = [
    "oracle for authentication",
    "null cipher",
    "long TCP packet",
    "forges any edge or subnet",
    "unknown keys taken through relays",
    "packets lost on rekeying",
    "relays though forwarding is off",
    "spoofed across overlapping prefixes",
    "extension headers",
    "no rekeying by time",
    "blocklist",
    "nonces of 32 bits",
    "cookies without the port",
    "one limit for all",
    "a panic by a long datagram",
    "predictable indices",
    "clock in the future",
    "one-off key used twice",
    "comparisons that take their time",
    "DNS rebinding",
    "inverted check of replays",
    "secrets in logs",
    "keys from 64 bits",
    "without authentication end a session",
    "header is not authenticated",
    "nonce moves on unauthenticated input",
];

#[test]
fn every_fault_that_others_had_has_a_line_with_a_test() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("the workspace");
    let text = std::fs::read_to_string(root.join("docs/threat-model.md")).expect("the threat model");
    let (_, table) = text.split_once("## Faults that others had").expect("the table");
    for fault in ELSEWHERE {
        let line = table.lines().find(|line| line.split('|').nth(1).is_some_and(|cell| cell.contains(fault)));
        let line = line.unwrap_or_else(|| panic!("no line says: {fault}"));
        assert!(!named_tests(line).is_empty(), "no test is named for: {fault}");
    }
}

#[test]
fn names_are_found_and_other_links_are_not() {
    let text = "see [`a_b1`](../x/y.rs) and [`Type`](../x/z.rs), [text](../a.rs), [`c`](../docs/d.md).";
    assert_eq!(named_tests(text), [("a_b1", "x/y.rs")]);
}
