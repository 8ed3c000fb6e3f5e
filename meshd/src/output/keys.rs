//! The tables of `keys`.

use std::fmt::Write;

use comfy_table::{Cell, Color};

use super::tables::{coloured, finish, right_align, table};
use super::{Style, units};
use crate::api::keys::{Keys, PeerKeys, Plan};

/// Length of a full bar.
const BAR_CHARS: usize = 20;

/// `meshd keys show`.
pub fn keys(keys: &Keys, style: Style) -> String {
    let mut text = String::new();
    for epoch in &keys.epochs {
        // Writing to a string does not fail.
        let _ =
            writeln!(text, "epoch {:<5} {:<8} {} old", epoch.number, epoch.usage, units::span(epoch.age_s));
    }
    let _ = match keys.phase.as_str() {
        "steady" => writeln!(text, "rotation    none under way"),
        _ => writeln!(text, "rotation    {}", sentence(keys, keys.target)),
    };
    if let Some(next_s) = keys.next_rotation_s {
        let newest = keys.epochs.last();
        let now_s = newest.map_or(next_s, |newest| newest.created_s + newest.age_s);
        let _ = writeln!(text, "next        in {}", units::span(next_s.saturating_sub(now_s)));
    }
    if !keys.peers.is_empty() {
        text.push('\n');
        text.push_str(&peers(keys, style));
    }
    text
}

/// One look at a rotation to `epoch`.
pub fn rotation(keys: &Keys, epoch: u32, style: Style) -> String {
    let mut text = format!("key epoch {epoch}: {}\n", sentence(keys, epoch));
    if style.screen && !keys.peers.is_empty() {
        text.push_str(&peers(keys, style));
    }
    text
}

/// One look at a plan that all replace their keys.
pub fn plan(plan: &Plan, style: Style) -> String {
    let count = |state: &str| plan.members.iter().filter(|one| one.state == state).count();
    let (done, left_out) = (count("done"), count("left out"));
    let waiting = match plan.waiting_for.as_slice() {
        [] => String::new(),
        names => format!(", waiting for {}", names.join(", ")),
    };
    let mut text = format!("{done} of {} members have new keys{waiting}\n", plan.members.len() - left_out);
    if !style.screen {
        return text;
    }
    let mut table = table(style, &["MEMBER", "STATE", "CONFIRMED", ""]);
    right_align(&mut table, 2);
    for one in &plan.members {
        let colour = match one.state.as_str() {
            "done" => Color::Green,
            "prepared" => Color::Yellow,
            _ => Color::Reset,
        };
        let bar = match plan.needed {
            0 => String::new(),
            needed => "#".repeat(one.confirmed * BAR_CHARS / needed),
        };
        table.add_row(vec![
            Cell::new(&one.name),
            coloured(if one.present { &one.state } else { "away" }, colour, style),
            Cell::new(format!("{}/{}", one.confirmed, plan.needed)),
            Cell::new(bar),
        ]);
    }
    text.push_str(&finish(&table));
    text
}

/// How far it is, in words.
fn sentence(keys: &Keys, epoch: u32) -> String {
    let present = keys.peers.iter().filter(|peer| peer.present);
    let (all, confirmed) = present.fold((0, 0), |(all, confirmed), peer| {
        (all + 1, confirmed + u32::from(peer.confirmed.is_some_and(|number| number >= epoch)))
    });
    let waiting = match keys.waiting_for.as_slice() {
        [] => String::new(),
        names => format!(", waiting for {}", names.join(", ")),
    };
    match keys.phase.as_str() {
        _ if keys.has_replaced(epoch) => {
            let late = keys.peers.iter().filter(|peer| !peer.present).count();
            let late =
                if late > 0 { format!("; {late} away, told when they come back") } else { String::new() };
            format!("in use, the old key is erased; confirmed by {confirmed} of {all}{late}")
        }
        "saving" => "writing the new key".into(),
        "announced" => format!("announced, confirmed by {confirmed} of {all}{waiting}"),
        "renewing" => format!("in use, sessions are made anew{waiting}"),
        "erasing" => "in use, erasing the old key".into(),
        other => other.to_owned(),
    }
}

fn peers(keys: &Keys, style: Style) -> String {
    let mut table = table(style, &["PEER", "CONFIRMED", "SESSION", "ITS EPOCH", "AGE"]);
    for column in [1, 2, 3, 4] {
        right_align(&mut table, column);
    }
    let number = |number: Option<u32>| number.map_or_else(|| "-".into(), |number| number.to_string());
    for peer in &keys.peers {
        let (confirmed, colour) = confirmation(peer, keys.target);
        table.add_row(vec![
            Cell::new(&peer.name),
            coloured(&confirmed, colour, style),
            Cell::new(peer.session.map_or_else(|| "-".into(), |one| format!("{}/{}", one.ours, one.theirs))),
            Cell::new(number(peer.epoch)),
            Cell::new(peer.age_s.map_or_else(|| "-".into(), units::span)),
        ]);
    }
    finish(&table)
}

fn confirmation(peer: &PeerKeys, target: u32) -> (String, Color) {
    match peer.confirmed {
        Some(number) if number >= target => (number.to_string(), Color::Green),
        _ if !peer.present => ("away".into(), Color::Yellow),
        Some(number) => (number.to_string(), Color::Yellow),
        None => ("-".into(), Color::Reset),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::api::keys::{Epoch, SessionEpochs};

    fn sample(phase: &str) -> Keys {
        let peer = |name: &str, present, confirmed| PeerKeys {
            name: name.into(),
            member_id: String::new(),
            present,
            confirmed,
            session: Some(SessionEpochs { ours: 1, theirs: 4 }),
            epoch: Some(4),
            age_s: Some(60),
        };
        Keys {
            phase: phase.into(),
            current: if phase == "announced" { 1 } else { 2 },
            target: 2,
            epochs: vec![Epoch { number: 2, usage: "next".into(), created_s: 100, age_s: 20 }],
            retired: 0,
            next_rotation_s: Some(100 + 20 + 7200),
            waiting_for: vec!["b".into()],
            peers: vec![peer("a", true, Some(2)), peer("b", true, None), peer("c", false, None)],
        }
    }

    #[test]
    fn a_rotation_says_who_is_waited_for_and_who_is_away() {
        let text = rotation(&sample("announced"), 2, Style::plain());
        assert_eq!(text, "key epoch 2: announced, confirmed by 1 of 2, waiting for b\n");
        let text = rotation(&sample("draining"), 2, Style::plain());
        assert!(text.contains("erased; confirmed by 1 of 2; 1 away, told when"), "{text}");
    }

    #[test]
    fn keys_show_ages_and_what_was_confirmed() {
        let text = keys(&sample("announced"), Style::plain());
        for part in ["epoch 2", "20 s old", "in 2 h", "1/4", "away"] {
            assert!(text.contains(part), "{part} in {text}");
        }
    }
}
