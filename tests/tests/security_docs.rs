//! What docs/threat-model.md says is shown by a test, is: every test that it names exists.

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
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("the workspace");
    let text = std::fs::read_to_string(root.join("docs/threat-model.md")).expect("the threat model");
    let named = named_tests(&text);
    assert!(named.len() >= 60, "{}", named.len());
    for (name, path) in named {
        let source =
            std::fs::read_to_string(root.join(path)).unwrap_or_else(|error| panic!("{path}: {error}"));
        let definition = format!("fn {name}(");
        let Some(at) = source.find(&definition) else { panic!("{path} has no test {name}") };
        // An attribute, or a doc comment behind one, is not far before it.
        let before = &source[at.saturating_sub(600)..at];
        assert!(before.contains("#[test]") || before.contains("#[tokio::test"), "{path}: {name} is no test");
    }
}

#[test]
fn names_are_found_and_other_links_are_not() {
    let text = "see [`a_b1`](../x/y.rs) and [`Type`](../x/z.rs), [text](../a.rs), [`c`](../docs/d.md).";
    assert_eq!(named_tests(text), [("a_b1", "x/y.rs")]);
}
