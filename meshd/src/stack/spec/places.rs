//! Finding where in the text of a specification a key or value stands, and reading it with explanations.

use std::ops::Range;
use std::path::Path;

use serde::de::DeserializeOwned;
use toml::Spanned;
use toml::de::{DeTable, DeValue};

use super::raw::{EXAMPLES, Raw, RawComponent, RawNode, RawRegistry, RawSecret};
use crate::config::diagnose::{Findings, check_keys, keys_of, nearest, one_line, syntax_help};
use crate::config::{Invalid, Problem};

/// The parsed text, to look up places in.
pub(super) struct Places<'t> {
    table: Spanned<DeTable<'t>>,
}

impl Places<'_> {
    /// Where the value at `path` begins; failing that, the nearest key above it.
    pub(super) fn value(&self, path: &[&str]) -> Range<usize> {
        self.find(path, |_, value| value.span())
    }

    /// Where the key at the end of `path` begins.
    pub(super) fn key(&self, path: &[&str]) -> Range<usize> {
        self.find(path, |key, _| key)
    }

    fn find(
        &self,
        path: &[&str],
        pick: impl Fn(Range<usize>, &Spanned<DeValue<'_>>) -> Range<usize>,
    ) -> Range<usize> {
        let mut best = 0..0;
        let mut table = Some(self.table.get_ref());
        let mut array: Option<&[Spanned<DeValue<'_>>]> = None;
        for (depth, step) in path.iter().enumerate() {
            let found = match (table, array) {
                (Some(table), _) => table
                    .iter()
                    .find(|(key, _)| key.get_ref().as_ref() == *step)
                    .map(|(key, value)| (key.span(), value)),
                (None, Some(items)) => {
                    step.parse::<usize>().ok().and_then(|at| items.get(at)).map(|value| (value.span(), value))
                }
                (None, None) => None,
            };
            let Some((key, value)) = found else { return best };
            best = if depth + 1 == path.len() { pick(key, value) } else { key };
            table = value.get_ref().as_table();
            array = value.get_ref().as_array().map(|array| &**array);
        }
        best
    }
}

/// Reads the raw specification and the places in it.
///
/// # Errors
/// Syntax errors, all unknown keys, or the first value of a wrong type.
pub(super) fn read<'t>(path: &Path, text: &'t str) -> Result<(Raw, Places<'t>), Invalid> {
    let mut findings = Findings::new(text);
    match DeTable::parse(text) {
        Ok(table) => {
            unknown_keys(table.get_ref(), &mut findings);
            match toml::from_str::<Raw>(text) {
                Ok(raw) => return findings.finish(path).map(|()| (raw, Places { table })),
                // An unknown key has been told already, with its neighbour.
                Err(_) if !findings.is_empty() => {}
                Err(error) => wrong_type(table.get_ref(), &error, &mut findings),
            }
        }
        Err(error) => {
            let end = text.len()..text.len();
            findings.add(error.span().unwrap_or(end), one_line(error.message()), Some(syntax_help()));
        }
    }
    match findings.finish(path) {
        Err(invalid) => Err(invalid),
        Ok(()) => Err(Invalid {
            path: path.to_owned(),
            problems: vec![Problem { line: 1, column: 1, message: "cannot be read".into(), instead: None }],
        }),
    }
}

/// "write for example ..." for a key.
pub(super) fn example(key: &str) -> Option<String> {
    EXAMPLES.iter().find(|(name, _)| *name == key).map(|(_, line)| format!("write for example: {line}"))
}

/// "did you mean ...", or what there is.
pub fn suggest<'c>(word: &str, what: &str, known: impl IntoIterator<Item = &'c str> + Clone) -> String {
    match nearest(word, known.clone()) {
        Some(near) => format!("did you mean `{near}`?"),
        None => format!("{what} {}", known.into_iter().collect::<Vec<_>>().join(", ")),
    }
}

fn unknown_keys(table: &DeTable<'_>, findings: &mut Findings<'_>) {
    check_keys(table, keys_of::<Raw>(), findings);
    inner_keys::<RawNode>(table, "nodes", findings);
    inner_keys::<RawSecret>(table, "secrets", findings);
    inner_keys::<RawRegistry>(table, "registries", findings);
    inner_keys::<RawComponent>(table, "components", findings);
}

fn inner_keys<T: DeserializeOwned>(table: &DeTable<'_>, key: &str, findings: &mut Findings<'_>) {
    let Some(inner) = table.get(key).and_then(|value| value.get_ref().as_table()) else { return };
    for (_, value) in inner {
        if let Some(table) = value.get_ref().as_table() {
            check_keys(table, keys_of::<T>(), findings);
        }
    }
}

fn wrong_type(table: &DeTable<'_>, error: &toml::de::Error, findings: &mut Findings<'_>) {
    let span = error.span().unwrap_or(0..0);
    let keys = keys_around(table, &span);
    let message = match keys.last() {
        Some(key) => format!("`{key}`: {}", one_line(error.message())),
        None => one_line(error.message()),
    };
    // The innermost key that has an example: settings and the like are the user's own words.
    let instead = keys.iter().rev().find_map(|key| example(key));
    findings.add(span, message, instead);
}

/// The keys whose values cover `span`, the outermost first.
fn keys_around<'a>(table: &'a DeTable<'_>, span: &Range<usize>) -> Vec<&'a str> {
    for (key, value) in table {
        // A table's own span is that of its header: look inside in any case.
        let mut inner = match value.get_ref() {
            DeValue::Table(inner) => keys_around(inner, span),
            _ => Vec::new(),
        };
        let outer = value.span();
        if !inner.is_empty() || (outer.start <= span.start && span.end <= outer.end) {
            inner.insert(0, key.get_ref().as_ref());
            return inner;
        }
    }
    Vec::new()
}
