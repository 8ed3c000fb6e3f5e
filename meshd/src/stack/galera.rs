//! How a Galera cluster gets up again: a pure decision from what each replica's data says.
//!
//! The rules, in this order: a primary component that exists is joined; replicas that all remember the same last
//! primary component (`gvwstate.dat`) find it again by themselves when started together; a clean shut-down marks the last one
//! (`safe_to_bootstrap: 1`); otherwise the highest recovered position of one history founds the cluster anew. A mark that
//! another one's data contradicts does not count. Whatever could lose a committed write is left to a person.

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};

/// The uuid of a replica that has never been in a cluster.
const NO_HISTORY: &str = "00000000-0000-0000-0000-000000000000";

/// What a stopped replica's data says.
#[derive(Serialize, Deserialize, Debug, Clone, PartialEq, Eq, Default)]
pub struct Evidence {
    /// Whether there is a database at all.
    pub has_data: bool,
    /// The history's uuid, of `grastate.dat`.
    pub uuid: Option<String>,
    /// Its position: of `grastate.dat`, or recovered (`--wsrep-recover`); absent if it says -1.
    pub seqno: Option<i64>,
    /// Whether `grastate.dat` says that a start from here loses nothing.
    pub safe_to_bootstrap: bool,
    /// The last primary component's id, of `gvwstate.dat`.
    pub view: Option<String>,
    /// Number of members in that view.
    pub view_members: usize,
}

/// A replica as seen now.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum State {
    /// Its node does not answer.
    Unknown,
    /// It runs and is in a primary component.
    Primary,
    /// Its server answers, but it is in no primary component.
    NonPrimary {
        /// The position of its data; absent if it did not say.
        last_committed: Option<i64>,
        /// Its history's uuid, if its data tells.
        uuid: Option<String>,
    },
    /// It runs, but its server has not answered yet: it starts, or ends again and again because it finds nobody to join.
    Starting {
        /// What its data says.
        evidence: Evidence,
        /// Whether it was started to found a cluster.
        founding: bool,
    },
    /// It does not run.
    Stopped(Evidence),
}

/// What to do.
#[derive(Serialize, Deserialize, Debug, Clone, PartialEq, Eq)]
pub enum Decision {
    /// There is a primary component: start the others, one after the other; they join it.
    Join,
    /// No replica has data: found a new cluster on this node, then let the others join.
    Found {
        /// The node.
        node: String,
        /// Why this one.
        why: String,
    },
    /// All remember the same primary component: start all and wait; they find it again.
    StartAll {
        /// Why that is safe.
        why: String,
    },
    /// Read the positions of these nodes first (`--wsrep-recover`), then decide again.
    Recover {
        /// The nodes.
        nodes: Vec<String>,
    },
    /// Make the running replicas a primary component again on this node (`pc.bootstrap=YES`).
    Promote {
        /// The node.
        node: String,
        /// Why this one.
        why: String,
    },
    /// A person must decide.
    Ask {
        /// What is known, and what `--force` would do.
        why: String,
        /// The node that `--force` founds or promotes.
        best: Option<String>,
    },
}

/// Decides from the states of all replicas, by node. `forced` allows what could lose writes.
pub fn decide(states: &BTreeMap<String, State>, forced: bool) -> Decision {
    if states.values().any(|state| *state == State::Primary) {
        return Decision::Join;
    }
    let unknown: Vec<&str> = names(states, |state| *state == State::Unknown);
    let running: BTreeMap<&str, Option<i64>> = states
        .iter()
        .filter_map(|(node, state)| match state {
            State::NonPrimary { last_committed, .. } => Some((node.as_str(), *last_committed)),
            _ => None,
        })
        .collect();
    // One that does not answer is judged by its data, as if it were stopped: it cannot become primary by itself unless the
    // others remember the same component, and then it is let be.
    let stopped: BTreeMap<&str, &Evidence> = states
        .iter()
        .filter_map(|(node, state)| match state {
            State::Stopped(evidence) | State::Starting { evidence, .. } => Some((node.as_str(), evidence)),
            _ => None,
        })
        .collect();
    if !running.is_empty() {
        let own = states.values().filter_map(|state| match state {
            State::NonPrimary { uuid, .. } => uuid.as_deref(),
            _ => None,
        });
        let own = own.filter(|uuid| *uuid != NO_HISTORY).collect();
        return promote(&running, own, &stopped, &unknown, states.len(), forced);
    }
    if states.values().any(|state| matches!(state, State::Starting { founding: true, .. })) {
        return Decision::StartAll { why: "a replica is founding the cluster".into() };
    }
    let with_data = with_data(&stopped);
    if !unknown.is_empty() && !forced {
        let best = best(&with_data).map(|(node, _)| node.to_owned());
        let why = format!(
            "{} cannot be reached and may have newer data: bring {} back, or `--force` goes on without",
            unknown.join(", "),
            if unknown.len() == 1 { "it" } else { "them" }
        );
        return Decision::Ask { why, best };
    }
    let Some(first) = stopped.keys().next() else {
        return Decision::Ask { why: "no replica can be reached".into(), best: None };
    };
    if with_data.is_empty() {
        return Decision::Found { node: (*first).to_owned(), why: "no replica has data".into() };
    }
    if let Some(decision) = same_view(&with_data, states.len()) {
        return decision;
    }
    found_again(&with_data, forced)
}

/// Replicas run, but none is primary: a partition, or most were killed.
fn promote<'e>(
    running: &BTreeMap<&str, Option<i64>>,
    mut histories: BTreeSet<&'e str>,
    stopped: &BTreeMap<&str, &'e Evidence>,
    unknown: &[&str],
    total: usize,
    forced: bool,
) -> Decision {
    let node = running.iter().max_by_key(|(_, position)| **position).map(|(node, _)| (*node).to_owned());
    let Some(node) = node else { return Decision::Ask { why: "no replica runs".into(), best: None } };
    if !unknown.is_empty() && !forced {
        // They may be primary on the other side of a partition: a second primary component would be two histories.
        let why = format!(
            "{} of {total} replicas run without a primary component, and {} cannot be reached: if they are only cut off, they may \
             be serving; `--force` makes {node} primary all the same",
            running.len(),
            unknown.join(", ")
        );
        return Decision::Ask { why, best: Some(node) };
    }
    if running.values().any(Option::is_none) && !forced {
        let why =
            "a replica without a primary component has not told how far its data goes: try again".into();
        return Decision::Ask { why, best: Some(node) };
    }
    let newest = running.values().flatten().max().copied();
    let with_data = with_data(stopped);
    histories.extend(self::histories(&with_data));
    if histories.len() > 1 && !forced {
        return Decision::Ask { why: torn(&histories, &node), best: Some(node) };
    }
    if !forced {
        // Those that were killed together may have gone on without the ones that run, which were cut off before. Were they
        // started beside them, they would find their component again, and the state of those that run would count: what
        // they have beyond it would be lost. So the newest founds the cluster, and the others join it.
        let lost = without_position(&with_data);
        if !lost.is_empty() {
            return Decision::Recover { nodes: lost };
        }
    }
    let ahead = with_data.iter().filter(|(_, one)| newest.is_none_or(|newest| one.seqno > Some(newest)));
    let ahead: BTreeMap<&str, &Evidence> = ahead.map(|(node, one)| (*node, *one)).collect();
    if !ahead.is_empty() {
        // The running ones join whoever founds: nothing is lost if all of the stopped are of one history.
        return found_again(&with_data, forced);
    }
    let why = match newest {
        Some(newest) => format!(
            "no replica is primary, all others are stopped, and it has the newest data (position {newest})"
        ),
        None => "forced".to_owned(),
    };
    Decision::Promote { node, why }
}

/// All were killed together and remember the same primary component.
fn same_view(with_data: &BTreeMap<&str, &Evidence>, total: usize) -> Option<Decision> {
    let mut views = with_data.values().map(|one| one.view.as_deref());
    let first = views.next()??;
    let members = with_data.values().map(|one| one.view_members).max().unwrap_or(0);
    // Fewer than the view had would wait for the missing ones for ever.
    (views.all(|view| view == Some(first)) && with_data.len() >= members.min(total) && with_data.len() > 1)
        .then(|| Decision::StartAll {
            why: format!("all remember the same primary component ({})", short(first)),
        })
}

fn found_again(with_data: &BTreeMap<&str, &Evidence>, forced: bool) -> Decision {
    let histories = histories(with_data);
    if histories.len() > 1 && !forced {
        let best = best(with_data).map(|(node, _)| node.to_owned());
        return Decision::Ask { why: torn(&histories, best.as_deref().unwrap_or("none")), best };
    }
    let lost = without_position(with_data);
    let newest = with_data.values().filter_map(|one| one.seqno).max();
    let marked: Vec<&str> = with_data
        .iter()
        .filter(|(_, one)| one.safe_to_bootstrap && one.seqno == newest)
        .map(|(node, _)| *node)
        .collect();
    // A mark from an earlier outage says nothing about those that went on since and were killed.
    if let [node] = marked[..]
        && lost.is_empty()
    {
        return Decision::Found {
            node: node.to_owned(),
            why: "it was stopped last (safe_to_bootstrap: 1)".into(),
        };
    }
    if !lost.is_empty() && !forced {
        return Decision::Recover { nodes: lost };
    }
    match best(with_data) {
        Some((node, one)) => {
            let position =
                one.seqno.map_or("an unknown position".to_owned(), |seqno| format!("position {seqno}"));
            Decision::Found { node: node.to_owned(), why: format!("it has the newest data ({position})") }
        }
        None => Decision::Ask { why: "no replica has data that can be used".into(), best: None },
    }
}

fn histories<'e>(with_data: &BTreeMap<&str, &'e Evidence>) -> BTreeSet<&'e str> {
    with_data.values().filter_map(|one| one.uuid.as_deref()).filter(|uuid| *uuid != NO_HISTORY).collect()
}

fn torn(histories: &BTreeSet<&str>, best: &str) -> String {
    format!(
        "the replicas have {} different histories ({}): decide whose data to keep; `--force` keeps that of {best}",
        histories.len(),
        histories.iter().map(|uuid| short(uuid)).collect::<Vec<_>>().join(", ")
    )
}

fn with_data<'a, 'e>(stopped: &BTreeMap<&'a str, &'e Evidence>) -> BTreeMap<&'a str, &'e Evidence> {
    stopped.iter().filter(|(_, one)| one.has_data).map(|(node, one)| (*node, *one)).collect()
}

fn without_position(with_data: &BTreeMap<&str, &Evidence>) -> Vec<String> {
    with_data.iter().filter(|(_, one)| one.seqno.is_none()).map(|(node, _)| (*node).to_owned()).collect()
}

/// The replica with the highest position; of equals, the one that was stopped last, then the first by name.
fn best<'a, 'e>(with_data: &BTreeMap<&'a str, &'e Evidence>) -> Option<(&'a str, &'e Evidence)> {
    let mut best: Option<(&'a str, &'e Evidence)> = None;
    for (node, one) in with_data {
        let rank = |one: &Evidence| (one.seqno, one.safe_to_bootstrap);
        if best.is_none_or(|(_, known)| rank(one) > rank(known)) {
            best = Some((*node, *one));
        }
    }
    best
}

fn names(states: &BTreeMap<String, State>, wanted: impl Fn(&State) -> bool) -> Vec<&str> {
    states.iter().filter(|(_, state)| wanted(state)).map(|(node, _)| node.as_str()).collect()
}

fn short(uuid: &str) -> &str {
    uuid.get(..8).unwrap_or(uuid)
}

impl Evidence {
    /// Reads what a replica's files say. `recovered` is what `--wsrep-recover` found, if it ran.
    pub fn read(grastate: Option<&str>, gvwstate: Option<&str>, recovered: Option<(&str, i64)>) -> Evidence {
        let field = |text: &str, name: &str| {
            let line = text.lines().find_map(|line| line.trim().strip_prefix(name)?.trim().strip_prefix(':'));
            line.map(|value| value.trim().to_owned())
        };
        let mut evidence = Evidence::default();
        if let Some(text) = grastate {
            evidence.has_data = true;
            evidence.uuid = field(text, "uuid");
            evidence.seqno =
                field(text, "seqno").and_then(|value| value.parse().ok()).filter(|seqno| *seqno >= 0);
            evidence.safe_to_bootstrap = field(text, "safe_to_bootstrap").as_deref() == Some("1");
        }
        if let Some(text) = gvwstate {
            evidence.view = field(text, "view_id");
            evidence.view_members =
                text.lines().filter(|line| line.trim_start().starts_with("member:")).count();
        }
        if let Some((uuid, seqno)) = recovered {
            evidence.uuid = Some(uuid.to_owned());
            evidence.seqno = Some(seqno).filter(|seqno| *seqno >= 0);
        }
        evidence
    }
}

#[cfg(test)]
mod tests;
