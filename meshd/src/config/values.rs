//! How single values are read: numbers in a range, one of some words, prefixes. What is wrong becomes a finding.

use std::net::IpAddr;
use std::ops::RangeInclusive;

use ipnet::IpNet;
use toml::Spanned;

use super::diagnose::{Findings, example, nearest};

/// Which of `choices` was written; nothing was, or something else, if none.
pub(super) fn choice<T: Copy>(
    key: &str,
    written: Option<Spanned<String>>,
    choices: &[(&str, T)],
    findings: &mut Findings<'_>,
) -> Option<T> {
    let written = written?;
    let word = written.get_ref().as_str();
    let chosen = choices.iter().find(|(name, _)| *name == word).map(|(_, choice)| *choice);
    if chosen.is_none() {
        let names = choices.iter().map(|(name, _)| *name);
        let instead = match nearest(word, names.clone()) {
            Some(near) => format!("did you mean \"{near}\"?"),
            None => format!("write {}", alternatives(names)),
        };
        findings.add(written.span(), format!("`{word}` is no choice for `{key}`"), Some(instead));
    }
    chosen
}

/// `"a" or "b"`, `"a", "b", or "c"`.
fn alternatives<'n>(names: impl Iterator<Item = &'n str>) -> String {
    let quoted: Vec<_> = names.map(|name| format!("\"{name}\"")).collect();
    match &quoted[..] {
        [first, second] => format!("{first} or {second}"),
        [others @ .., last] if !others.is_empty() => format!("{}, or {last}", others.join(", ")),
        few => few.join(""),
    }
}

/// The number, if one was written that is within `range`.
pub(super) fn integer(
    key: &str,
    written: Option<Spanned<i64>>,
    range: RangeInclusive<i64>,
    findings: &mut Findings<'_>,
) -> Option<i64> {
    let written = written?;
    let value = *written.get_ref();
    if !range.contains(&value) {
        let message = format!("`{key}` is {value}, but must be from {} to {}", range.start(), range.end());
        findings.add(written.span(), message, example(key));
        return None;
    }
    Some(value)
}

/// Finds lists that are too long.
pub(super) fn bounded(key: &str, items: &[Spanned<String>], most: usize, findings: &mut Findings<'_>) {
    if let Some(over) = items.get(most) {
        findings.add(over.span(), format!("`{key}` has more than {most} items"), None);
    }
}

/// Reads a prefix without host bits.
///
/// # Errors
/// What to write instead.
pub fn parse_prefix(text: &str) -> Result<IpNet, String> {
    match text.parse::<IpNet>() {
        Ok(net) if net.trunc() == net => Ok(net),
        Ok(net) => Err(format!("its host bits are set: write \"{}\"", net.trunc())),
        Err(_) => Err(match text.parse::<IpAddr>() {
            Ok(address) => format!("write \"{}\"", IpNet::from(address)),
            Err(_) => "write for example \"192.168.7.0/24\"".into(),
        }),
    }
}
