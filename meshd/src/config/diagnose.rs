//! Saying what is wrong with a configuration file: where, what, and what to write instead.

use std::fmt;
use std::ops::Range;
use std::path::{Path, PathBuf};

use serde::de::{self, DeserializeOwned, Visitor};
use toml::de::{DeTable, DeValue};

use super::hooks::RawHooks;
use super::raw::{EXAMPLES, Raw, RawPeer, RawSubnet};

/// Everything that is wrong with one configuration file.
#[derive(Debug, thiserror::Error)]
pub struct Invalid {
    /// The file.
    pub path: PathBuf,
    /// The findings, in the file's order; at least one.
    pub problems: Vec<Problem>,
}

/// One finding.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Problem {
    /// Line, from 1.
    pub line: usize,
    /// Column in characters, from 1.
    pub column: usize,
    /// What is wrong.
    pub message: String,
    /// What to write instead.
    pub instead: Option<String>,
}

impl fmt::Display for Invalid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (number, problem) in self.problems.iter().enumerate() {
            if number > 0 {
                writeln!(f)?;
            }
            write!(f, "{}:{}:{}: {}", self.path.display(), problem.line, problem.column, problem.message)?;
            if let Some(instead) = &problem.instead {
                write!(f, "; {instead}")?;
            }
        }
        Ok(())
    }
}

/// Collects findings about one text.
pub struct Findings<'t> {
    text: &'t str,
    found: Vec<(usize, Problem)>,
}

impl<'t> Findings<'t> {
    /// No findings about `text` yet.
    pub fn new(text: &'t str) -> Self {
        Findings { text, found: Vec::new() }
    }

    /// Adds one that starts at byte `span.start`.
    pub fn add(&mut self, span: Range<usize>, message: impl Into<String>, instead: Option<String>) {
        let (line, column) = position(self.text, span.start);
        self.found.push((span.start, Problem { line, column, message: message.into(), instead }));
    }

    /// Whether nothing was found so far.
    pub fn is_empty(&self) -> bool {
        self.found.is_empty()
    }

    /// Whether one with this message was added.
    pub fn has(&self, message: &str) -> bool {
        self.found.iter().any(|(_, problem)| problem.message == message)
    }

    /// `Ok` if nothing was found, otherwise all of it.
    ///
    /// # Errors
    /// The findings, as an error about the file at `path`.
    pub fn finish(mut self, path: &Path) -> Result<(), Invalid> {
        if self.found.is_empty() {
            return Ok(());
        }
        self.found.sort_by_key(|(at, _)| *at);
        Err(Invalid {
            path: path.to_owned(),
            problems: self.found.into_iter().map(|(_, problem)| problem).collect(),
        })
    }
}

/// Reads the raw configuration from `text`.
///
/// # Errors
/// Syntax errors, all unknown keys, or the first value of a wrong type.
pub fn read(path: &Path, text: &str) -> Result<Raw, Invalid> {
    let mut findings = Findings::new(text);
    match DeTable::parse(text) {
        Ok(table) => {
            unknown_keys(table.get_ref(), &mut findings);
            match toml::from_str::<Raw>(text) {
                Ok(raw) => return findings.finish(path).map(|()| raw),
                // An unknown key has been told already, with its neighbour.
                Err(_) if !findings.found.is_empty() => {}
                Err(error) => wrong_type(table.get_ref(), &error, &mut findings),
            }
        }
        Err(error) => {
            let end = text.len()..text.len();
            findings.add(error.span().unwrap_or(end), one_line(error.message()), Some(syntax_help()));
        }
    }
    findings.finish(path).map(|()| Raw::default())
}

/// The candidate nearest to `word`, if one is near enough to be meant.
pub fn nearest<'c>(word: &str, candidates: impl IntoIterator<Item = &'c str>) -> Option<&'c str> {
    candidates
        .into_iter()
        .map(|candidate| (strsim::jaro_winkler(&word.to_lowercase(), candidate), candidate))
        .filter(|(score, _)| *score > 0.7)
        .max_by(|(a, _), (b, _)| a.total_cmp(b))
        .map(|(_, candidate)| candidate)
}

/// "write for example ..." for a key.
pub fn example(key: &str) -> Option<String> {
    EXAMPLES.iter().find(|(name, _)| *name == key).map(|(_, line)| format!("write for example: {line}"))
}

fn unknown_keys(table: &DeTable<'_>, findings: &mut Findings<'_>) {
    check_keys(table, keys_of::<Raw>(), findings);
    for (key, keys) in [("subnets", keys_of::<RawSubnet>()), ("peer", keys_of::<RawPeer>())] {
        let Some(items) = table.get(key).and_then(|value| value.get_ref().as_array()) else { continue };
        for item in items.iter().filter_map(|item| item.get_ref().as_table()) {
            check_keys(item, keys, findings);
        }
    }
    if let Some(hooks) = table.get("hooks").and_then(|value| value.get_ref().as_table()) {
        check_keys(hooks, keys_of::<RawHooks>(), findings);
    }
}

/// Adds a finding for each key of `table` that is not among `known`.
pub(crate) fn check_keys(table: &DeTable<'_>, known: &'static [&'static str], findings: &mut Findings<'_>) {
    for key in table.keys() {
        let name = key.get_ref().as_ref();
        if known.contains(&name) {
            continue;
        }
        let instead = match nearest(name, known.iter().copied()) {
            Some(near) => format!("did you mean `{near}`?"),
            None => format!("the keys here are {}", known.join(", ")),
        };
        findings.add(key.span(), format!("unknown key `{name}`"), Some(instead));
    }
}

fn wrong_type(table: &DeTable<'_>, error: &toml::de::Error, findings: &mut Findings<'_>) {
    let span = error.span().unwrap_or(0..0);
    let key = key_around(table, &span);
    let message = match key {
        Some(key) => format!("`{key}`: {}", one_line(error.message())),
        None => one_line(error.message()),
    };
    findings.add(span, message, key.and_then(example));
}

/// The innermost key whose value covers `span`.
fn key_around<'a>(table: &'a DeTable<'_>, span: &Range<usize>) -> Option<&'a str> {
    let covers = |outer: Range<usize>| outer.start <= span.start && span.end <= outer.end;
    let (key, value) = table.iter().find(|(_, value)| covers(value.span()))?;
    let inner = match value.get_ref() {
        DeValue::Array(items) => {
            items.iter().filter_map(|item| item.get_ref().as_table()).find_map(|item| key_around(item, span))
        }
        DeValue::Table(inner) => key_around(inner, span),
        _ => None,
    };
    Some(inner.unwrap_or(key.get_ref().as_ref()))
}

/// How the language looks, for who does not know it.
pub(crate) fn syntax_help() -> String {
    "a line is `key = value`, texts are in double quotes, lists in [ ]".into()
}

/// A parser's message without line breaks.
pub(crate) fn one_line(message: &str) -> String {
    message.lines().map(str::trim).collect::<Vec<_>>().join(" ")
}

fn position(text: &str, at: usize) -> (usize, usize) {
    let before = text.get(..at.min(text.len())).unwrap_or(text);
    let line = before.matches('\n').count() + 1;
    let start = before.rfind('\n').map_or(0, |newline| newline + 1);
    (line, before[start..].chars().count() + 1)
}

/// The field names of a struct, as its `Deserialize` knows them: the one list that cannot go stale.
pub(crate) fn keys_of<T: DeserializeOwned>() -> &'static [&'static str] {
    let mut keys: &'static [&'static str] = &[];
    // It always ends in the error that carries the names out.
    let _ = T::deserialize(FieldNames(&mut keys));
    keys
}

struct FieldNames<'k>(&'k mut &'static [&'static str]);

impl<'de> de::Deserializer<'de> for FieldNames<'_> {
    type Error = de::value::Error;

    fn deserialize_any<V: Visitor<'de>>(self, _: V) -> Result<V::Value, Self::Error> {
        Err(de::Error::custom("not a struct"))
    }

    fn deserialize_struct<V: Visitor<'de>>(
        self,
        _: &'static str,
        fields: &'static [&'static str],
        _: V,
    ) -> Result<V::Value, Self::Error> {
        *self.0 = fields;
        Err(de::Error::custom("names taken"))
    }

    serde::forward_to_deserialize_any! {
        bool i8 i16 i32 i64 i128 u8 u16 u32 u64 u128 f32 f64 char str string bytes byte_buf option unit
        unit_struct newtype_struct seq tuple tuple_struct map enum identifier ignored_any
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn problems(text: &str) -> Vec<Problem> {
        read(Path::new("m.toml"), text).unwrap_err().problems
    }

    #[test]
    fn every_unknown_key_is_told_with_its_place_and_neighbour() {
        let found =
            problems("relay = true\nlisen = []\n[[subnets]]\nprefix = \"10.0.0.0/8\"\n  wieght = 3\n");
        assert_eq!((found[0].line, found[0].column), (2, 1));
        assert_eq!(found[0].instead.as_deref(), Some("did you mean `listen`?"));
        assert_eq!((found[1].line, found[1].column), (5, 3));
        assert_eq!(found[1].instead.as_deref(), Some("did you mean `weight`?"));
    }

    #[test]
    fn a_key_like_no_other_gets_the_list() {
        let found = problems("zzz = 1\n");
        assert!(
            found[0]
                .instead
                .as_deref()
                .unwrap()
                .contains("interface, mtu, offload, suite, pq, lanes, listen")
        );
    }

    #[test]
    fn a_wrong_type_gets_an_example() {
        let found = problems("interface = \"m\"\nrelay = \"yes\"\n");
        assert_eq!((found[0].line, found[0].column), (2, 9));
        assert!(found[0].message.starts_with("`relay`: invalid type"), "{}", found[0].message);
        assert_eq!(found[0].instead.as_deref(), Some("write for example: relay = true"));
        let found = problems("subnets = [{ prefix = 7 }]\n");
        assert!(found[0].message.starts_with("`prefix`"), "{}", found[0].message);
    }

    #[test]
    fn broken_syntax_has_a_place() {
        let found = problems("relay = true\nlisten = [\"a\"\nmtu = 3\n");
        assert!(found[0].line >= 2, "{found:?}");
        problems("listen = 0.0.0.0:1\n");
    }

    #[test]
    fn every_key_has_an_example_that_reads() {
        for key in keys_of::<Raw>().iter().chain(keys_of::<RawSubnet>()).chain(keys_of::<RawHooks>()) {
            assert!(example(key).is_some(), "{key}");
        }
        for (key, line) in EXAMPLES {
            if keys_of::<Raw>().contains(key) {
                read(Path::new("m.toml"), line).unwrap();
            }
        }
    }
}
