//! `--watch`: what changed since the last look stands out.

use std::collections::BTreeMap;

/// Reverse video, and its end, which leaves colours as they are (ECMA-48, SGR 7 and 27).
const BEGIN: &str = "\x1b[7m";
const END: &str = "\x1b[27m";

/// `new` with all fields marked that are not as in `old`. A line is known by its first field; those that were not there
/// before are marked whole, and so is what follows of fields that there are more or less of.
pub(super) fn highlight(old: &str, new: &str) -> String {
    let before: BTreeMap<String, &str> = old.lines().map(|line| (key(line), line)).collect();
    let mut text = String::new();
    for line in new.lines() {
        match before.get(&key(line)) {
            Some(same) if *same == line => text.push_str(line),
            Some(before) => mark_changes(before, line, &mut text),
            None => mark_all(line, &mut text),
        }
        text.push('\n');
    }
    text
}

fn mark_changes(before: &str, line: &str, text: &mut String) {
    let before: Vec<String> = fields(before).into_iter().map(|(_, field)| plain(field)).collect();
    for (at, (space, field)) in fields(line).into_iter().enumerate() {
        text.push_str(space);
        match before.get(at) {
            Some(before) if *before == plain(field) => text.push_str(field),
            _ => mark(field, text),
        }
    }
}

fn mark_all(line: &str, text: &mut String) {
    for (space, field) in fields(line) {
        text.push_str(space);
        mark(field, text);
    }
}

fn mark(field: &str, text: &mut String) {
    if field.is_empty() {
        return;
    }
    text.push_str(BEGIN);
    text.push_str(field);
    text.push_str(END);
}

fn key(line: &str) -> String {
    fields(line).first().map(|(_, field)| plain(field)).unwrap_or_default()
}

/// The fields of a line, which two spaces or more part, each with the spaces before it.
fn fields(line: &str) -> Vec<(&str, &str)> {
    let mut fields = Vec::new();
    let mut rest = line;
    while !rest.is_empty() {
        let begin = rest.len() - rest.trim_start_matches(' ').len();
        let (space, tail) = rest.split_at(begin);
        let (field, next) = tail.split_at(tail.find("  ").unwrap_or(tail.len()));
        fields.push((space, field));
        rest = next;
    }
    fields
}

/// Without colours.
fn plain(field: &str) -> String {
    let mut text = String::new();
    let mut pieces = field.split("\x1b[");
    text.push_str(pieces.next().unwrap_or_default());
    for piece in pieces {
        text.push_str(piece.split_once('m').map_or("", |(_, rest)| rest));
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    const OLD: &str =
        "PEER  STATE      PATH\na     \x1b[32mconnected\x1b[0m  direct 192.0.2.1:1\nb     idle       -\n";

    #[test]
    fn only_fields_that_changed_are_marked() {
        let new = OLD.replace("direct 192.0.2.1:1", "via r");
        let shown = highlight(OLD, &new);
        assert_eq!(shown.lines().nth(1), Some("a     \x1b[32mconnected\x1b[0m  \x1b[7mvia r\x1b[27m"));
        assert_eq!(shown.matches(BEGIN).count(), 1);
        assert_eq!(highlight(OLD, OLD), OLD);
    }

    #[test]
    fn a_line_that_moves_is_not_new_and_a_new_one_is_marked_whole() {
        let new = OLD.replace("\nb ", "\naa    idle       -\nb ");
        let marked: Vec<String> = highlight(OLD, &new).lines().map(str::to_owned).collect();
        assert_eq!(marked[2], "\x1b[7maa\x1b[27m    \x1b[7midle\x1b[27m       \x1b[7m-\x1b[27m");
        assert!(!marked[3].contains(BEGIN), "{marked:?}");
    }

    #[test]
    fn another_colour_alone_is_no_change_and_other_widths_neither() {
        let wider = OLD.replace("connected\x1b[0m  ", "connected\x1b[0m      ").replace("32m", "31m");
        assert!(!highlight(OLD, &wider).contains(BEGIN));
    }

    #[test]
    fn what_it_writes_is_the_text_and_marks_alone() {
        let shown = highlight(OLD, "x  y\n\n  z\n");
        assert_eq!(shown.replace(BEGIN, "").replace(END, ""), "x  y\n\n  z\n");
    }
}
