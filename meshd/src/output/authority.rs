//! The tables of `authority`.

use std::fmt::Write;

use comfy_table::{Cell, Color};

use super::tables::{coloured, finish, table};
use super::{Style, units};
use crate::api::authority::{Authority, Issuer, Member, Rollover};

/// `meshd authority show`.
pub fn authority(authority: &Authority, style: Style) -> String {
    let mut text = String::new();
    // Writing to a string does not fail.
    let _ = writeln!(text, "mesh        {}, trust bundle {}", authority.mesh, authority.version);
    for root in &authority.roots {
        let place = if root.here { "its key is on this node" } else { "its key is not on this node" };
        let _ = writeln!(text, "authority   {}, {place}", root.fingerprint);
    }
    if authority.roots.len() > 1 || authority.threshold > 1 {
        let _ = writeln!(text, "threshold   {} of {}", authority.threshold, authority.roots.len());
    }
    let place = match authority.recovery_here {
        true => "LIES ON THIS NODE: meshd authority export FILE --recovery --remove",
        false => "not on this node",
    };
    let _ = writeln!(text, "recovery    {}, {place}", authority.recovery);
    for issuer in &authority.issuers {
        let _ = writeln!(text, "issuer      {}: {}", issuer.name, limits(issuer));
    }
    for one in &authority.chain {
        let by = if one.by_recovery { ", by the recovery key" } else { "" };
        let _ = writeln!(text, "bundle {:<4} trusts {}{by}", one.version, one.roots.join(", "));
    }
    if let Some(under_way) = &authority.rollover {
        text.push('\n');
        text.push_str(&sentence(under_way));
        text.push_str(&members(under_way, style));
    }
    text
}

/// One look at a roll-over to the root `target`.
pub fn rollover(authority: &Authority, target: &str, style: Style) -> String {
    match &authority.rollover {
        Some(under_way) => {
            let mut text = sentence(under_way);
            if style.screen {
                text.push_str(&members(under_way, style));
            }
            text
        }
        None => {
            format!("the authority is {target}, trust bundle {}; the old key is gone\n", authority.version)
        }
    }
}

fn limits(issuer: &Issuer) -> String {
    let mut parts = vec![format!("{} issued", issuer.issued)];
    if !issuer.names.is_empty() {
        parts.push(format!("names ending in {}", issuer.names));
    }
    if !issuer.prefixes.is_empty() {
        let prefixes: Vec<String> = issuer.prefixes.iter().map(ToString::to_string).collect();
        parts.push(format!("within {}", prefixes.join(", ")));
    }
    if let Some(longest_s) = issuer.max_lifetime_s {
        parts.push(format!("for {} at most", units::span(longest_s.into())));
    }
    parts.join(", ")
}

/// How far it is, in words.
fn sentence(one: &Rollover) -> String {
    let all = one.members.len();
    let took = one.members.iter().filter(|member| member.took && member.reissued).count();
    let what = match one.stage.as_str() {
        "adding" => "making a trust bundle with the new root".to_owned(),
        "confirming" => {
            format!("members hear of the new root: {} of {all}", all - one.waiting_for.len().min(all))
        }
        "reissuing" => "issuing certificates anew".into(),
        "taking" => format!("members take their new certificates: {took} of {all}"),
        "dropping" => "dropping the old root".into(),
        "settling" => format!(
            "members hear that the old root is gone: {} of {all}",
            all - one.waiting_for.len().min(all)
        ),
        other => other.to_owned(),
    };
    let waiting = match one.waiting_for.as_slice() {
        [] => String::new(),
        names => format!(", waiting for {} (at most {} more)", names.join(", "), units::span(one.left_s)),
    };
    let back = if one.aborted { "called off, back to " } else { "to " };
    format!("{back}{}: {what}{waiting}\n", one.target)
}

fn members(under_way: &Rollover, style: Style) -> String {
    let mut table = table(style, &["MEMBER", "BUNDLE", "CERTIFICATE", ""]);
    for one in &under_way.members {
        let (state, colour) = state(one);
        let waits = under_way.waiting_for.contains(&one.name);
        table.add_row(vec![
            Cell::new(&one.name),
            Cell::new(one.bundle.map_or_else(|| "-".into(), |version| version.to_string())),
            coloured(state, colour, style),
            Cell::new(match (waits, one.present) {
                (true, true) => "waited for",
                (true, false) => "away, waited for",
                (false, true) => "",
                (false, false) => "away",
            }),
        ]);
    }
    finish(&table)
}

fn state(member: &Member) -> (&'static str, Color) {
    match (member.reissued, member.took) {
        (true, true) => ("new, in use", Color::Green),
        (true, false) => ("new, issued", Color::Yellow),
        (false, _) => ("old", Color::Reset),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::api::authority::{Generation, Root};

    fn sample(stage: Option<&str>) -> Authority {
        let member = |name: &str, present, took| Member {
            name: name.into(),
            present,
            bundle: Some(2),
            reissued: true,
            took,
        };
        Authority {
            mesh: "home".into(),
            version: 2,
            roots: vec![
                Root { fingerprint: "aa".into(), here: true },
                Root { fingerprint: "bb".into(), here: false },
            ],
            threshold: 1,
            recovery: "cc".into(),
            recovery_here: true,
            issuers: vec![Issuer {
                name: "i".into(),
                until_s: 9,
                names: "-home".into(),
                prefixes: vec!["10.0.0.0/8".parse().unwrap()],
                max_lifetime_s: Some(86_400),
                issued: 3,
            }],
            chain: vec![Generation {
                version: 1,
                created_s: 1,
                roots: vec!["aa".into()],
                by_recovery: false,
            }],
            rollover: stage.map(|stage| Rollover {
                stage: stage.into(),
                aborted: false,
                target: "bb".into(),
                leaving: Some("aa".into()),
                deadline_s: 7300,
                left_s: 7200,
                waiting_for: vec!["c".into()],
                members: vec![member("a", true, true), member("c", false, false)],
            }),
        }
    }

    #[test]
    fn a_roll_over_says_whom_it_waits_for_and_how_long() {
        let text = rollover(&sample(Some("taking")), "bb", Style::plain());
        assert_eq!(
            text,
            "to bb: members take their new certificates: 1 of 2, waiting for c (at most 2 h more)\n"
        );
        let text = rollover(&sample(None), "bb", Style::plain());
        assert!(text.contains("the old key is gone"), "{text}");
    }

    #[test]
    fn the_authority_says_where_keys_are_and_what_issuers_may() {
        let text = authority(&sample(Some("confirming")), Style::plain());
        for part in [
            "LIES ON THIS NODE",
            "names ending in -home",
            "within 10.0.0.0/8",
            "for 24 h at most",
            "waited for",
            "bundle 1",
        ] {
            assert!(text.contains(part), "{part} in {text}");
        }
    }
}
