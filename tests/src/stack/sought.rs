//! Looking for secrets where none must be.

use std::path::Path;

use super::Cluster;
use super::marathon_double::fetch;
use crate::net::done;

impl Cluster {
    /// The secrets of a stack, as its containers find them.
    ///
    /// # Panics
    /// When a file cannot be read.
    pub fn secrets(&self, stack: &str) -> Vec<String> {
        let mut secrets = Vec::new();
        for node in &self.nodes {
            let files = Path::new("/run/meshd-stack").join(&node.name).join(stack);
            for component in std::fs::read_dir(files).into_iter().flatten().flatten() {
                for file in done(std::fs::read_dir(component.path())).flatten() {
                    if file.file_name().to_string_lossy().starts_with("run_secrets_") {
                        secrets.push(done(std::fs::read_to_string(file.path())));
                    }
                }
            }
        }
        secrets.sort();
        secrets.dedup();
        secrets
    }

    /// Everything in which a secret could show, by what it is: containers as engines describe them, argument lists of all
    /// processes, audit logs, daemons' logs, specifications, plans, Marathon's applications.
    ///
    /// # Panics
    /// When something cannot be read.
    pub fn public_places(&self, further: &[(&str, String)]) -> Vec<(String, String)> {
        let mut places: Vec<(String, String)> =
            further.iter().map(|(what, text)| ((*what).to_owned(), text.clone())).collect();
        for entry in done(std::fs::read_dir("/proc")).flatten() {
            // Processes come and go.
            if let Ok(line) = std::fs::read(entry.path().join("cmdline")) {
                let text = String::from_utf8_lossy(&line).replace('\0', " ");
                places.push((format!("{}", entry.path().display()), text));
            }
        }
        for node in &self.nodes {
            let ids = node.docker(&["ps", "-aq"]);
            let ids: Vec<&str> = ids.lines().collect();
            if !ids.is_empty() {
                let text = node.docker(&[&["inspect"], &ids[..]].concat());
                places.push((format!("containers of {}", node.name), text));
                for id in ids {
                    let output = done(node.engine.command(&["logs", id]).output());
                    let text = [output.stdout, output.stderr].concat();
                    let text = String::from_utf8_lossy(&text).into_owned();
                    places.push((format!("log of {id} on {}", node.name), text));
                }
            }
            let audit = node.member.state().join("stack/audit.log");
            places.push((format!("audit log of {}", node.name), done(std::fs::read_to_string(audit))));
            places.push((format!("log of meshd on {}", node.name), node.member.log_text()));
            let stack = node.member.state().join("stack");
            for part in ["specs", "prepared"] {
                for file in std::fs::read_dir(stack.join(part)).into_iter().flatten().flatten() {
                    let text = done(std::fs::read_to_string(file.path()));
                    places.push((format!("{part} on {}", node.name), text));
                }
            }
            // Only where the stack has Marathon.
            let at = std::net::SocketAddr::new(done(node.member.address(false)), 8080);
            if let Ok(Some(text)) = node.machine().enter(|| fetch(at, "/v2/apps")) {
                places.push((format!("applications by {}", node.name), text));
            }
        }
        let plan = self.stack(&["plan", "--json"]);
        places.push(("plan".into(), plan.stdout + &plan.stderr));
        places
    }
}

/// Panics if one of the secrets shows in one of the places, which must be more than `least` letters together.
///
/// # Panics
/// Then.
pub fn assert_nowhere(secrets: &[String], places: &[(String, String)], least: usize) {
    assert!(
        !secrets.is_empty() && secrets.iter().all(|secret| secret.len() >= 16),
        "{} secrets",
        secrets.len()
    );
    let all: usize = places.iter().map(|(_, text)| text.len()).sum();
    assert!(all > least, "there are only {all} letters to look through");
    for (what, text) in places {
        assert!(!secrets.iter().any(|secret| text.contains(secret.as_str())), "a secret shows in: {what}");
    }
}
