//! What is shown of a stack: how many replicas are ready, and how many more can be lost.

use serde::Serialize;

use super::actual::{Actual, Found};
use super::components::Kind;
use super::desired::Ids;
use super::spec::{Placed, Stack};

/// `meshd stack status --json`.
#[derive(Serialize, Debug, Clone, PartialEq)]
pub struct Status {
    /// The stack's name.
    pub stack: String,
    /// The components, in their order.
    pub components: Vec<Component>,
    /// What an operator should look at.
    pub warnings: Vec<String>,
}

/// One component.
#[derive(Serialize, Debug, Clone, PartialEq)]
pub struct Component {
    /// Its name.
    pub name: String,
    /// Replicas that are ready.
    pub ready: usize,
    /// Replicas wanted.
    pub wanted: usize,
    /// How many more can be lost before it stops; negative if it stands still now.
    pub can_lose: i64,
    /// The same, in words.
    pub margin: String,
    /// The node that leads.
    pub leader: Option<String>,
    /// The replicas, by node.
    pub replicas: Vec<Replica>,
}

/// One replica.
#[derive(Serialize, Debug, Clone, PartialEq)]
pub struct Replica {
    /// Its node.
    pub node: String,
    /// Its number.
    pub id: Option<u32>,
    /// `ready`, `not ready`, `stopped`, `missing`, or `unknown`.
    pub state: &'static str,
    /// `leader`, `follower`, and the like.
    pub role: Option<String>,
    /// The version that runs.
    pub version: Option<String>,
    /// The image as the specification had it.
    pub image: Option<String>,
    /// How often the engine restarted it.
    pub restarts: u64,
    /// What it says, or why it is not ready.
    pub detail: String,
    /// What somebody changed by hand.
    pub drift: Vec<String>,
    /// Where it listens outside the overlay.
    pub exposed: Vec<String>,
}

/// The state of `stack` as `actual` tells it.
pub fn status(stack: &Stack, actual: &Actual) -> Status {
    let known = actual.known_ids();
    let components: Vec<Component> =
        stack.placed.iter().map(|placed| component(placed, actual, &known)).collect();
    let mut warnings: Vec<String> = stack.warnings.iter().map(|problem| problem.message.clone()).collect();
    for one in &components {
        for replica in &one.replicas {
            let place = format!("{} on {}", one.name, replica.node);
            if !replica.exposed.is_empty() {
                warnings.push(format!("{place} listens outside the overlay: {}", replica.exposed.join(", ")));
            }
            if !replica.drift.is_empty() {
                warnings.push(format!("{place} was changed by hand: {}", replica.drift.join("; ")));
            }
            if replica.restarts > 0 && replica.state != "ready" {
                warnings.push(format!("{place} was restarted {} times", replica.restarts));
            }
        }
    }
    Status { stack: stack.name.clone(), components, warnings }
}

fn component(placed: &Placed, actual: &Actual, known: &Ids) -> Component {
    let name = &placed.component.name;
    let replicas: Vec<Replica> = placed
        .nodes
        .iter()
        .map(|node| {
            let id = known.get(name).and_then(|ids| ids.get(node)).copied();
            match actual.nodes.get(node) {
                Some(Ok(_)) => replica(node, id, actual.found(node, name)),
                Some(Err(why)) => Replica { detail: why.clone(), ..empty(node, id, "unknown") },
                None => empty(node, id, "unknown"),
            }
        })
        .collect();
    let ready = replicas.iter().filter(|replica| replica.state == "ready").count();
    let can_lose = spare(placed.component.kind, ready, placed.nodes.len());
    let leader = replicas.iter().find(|replica| replica.role.as_deref() == Some("leader"));
    Component {
        name: name.clone(),
        ready,
        wanted: placed.nodes.len(),
        can_lose,
        margin: margin(placed.component.kind, can_lose),
        leader: leader.map(|replica| replica.node.clone()),
        replicas,
    }
}

/// How many ready replicas can be lost before the component stops; negative if it has stopped.
pub fn spare(kind: Kind, ready: usize, wanted: usize) -> i64 {
    let needed = match kind {
        Kind::Quorum | Kind::Erasure => wanted / 2 + 1,
        Kind::Standby | Kind::Each => 1,
    };
    ready as i64 - needed as i64
}

fn margin(kind: Kind, can_lose: i64) -> String {
    match (kind, can_lose) {
        (Kind::Each, 0..) => "each on its own".into(),
        (_, 0) => "can lose none".into(),
        (_, 1..) => format!("can lose {can_lose} more"),
        (Kind::Quorum, _) => format!("no quorum: {} missing", -can_lose),
        (_, _) => "stands still".into(),
    }
}

fn replica(node: &str, id: Option<u32>, found: Option<&Found>) -> Replica {
    let Some(found) = found else { return empty(node, id, "missing") };
    let probe = found.probe.clone().unwrap_or_default();
    let state = match (found.running, probe.ready) {
        (true, true) => "ready",
        (true, false) => "not ready",
        (false, _) => "stopped",
    };
    let detail = match found.exit_code {
        Some(code) if !found.running => format!("ended with {code}"),
        _ => probe.detail,
    };
    Replica {
        node: node.to_owned(),
        id,
        state,
        role: probe.role,
        version: probe.version,
        image: found.definition.as_ref().map(|definition| definition.image.clone()),
        restarts: found.restarts,
        detail,
        drift: found.drift.clone(),
        exposed: probe.exposed,
    }
}

fn empty(node: &str, id: Option<u32>, state: &'static str) -> Replica {
    Replica {
        node: node.to_owned(),
        id,
        state,
        role: None,
        version: None,
        image: None,
        restarts: 0,
        detail: String::new(),
        drift: Vec::new(),
        exposed: Vec::new(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn margins_are_those_of_majorities() {
        let words = |kind, ready, wanted| margin(kind, spare(kind, ready, wanted));
        assert_eq!(words(Kind::Quorum, 3, 3), "can lose 1 more");
        assert_eq!(words(Kind::Quorum, 2, 3), "can lose none");
        assert_eq!(words(Kind::Quorum, 1, 3), "no quorum: 1 missing");
        assert_eq!(words(Kind::Quorum, 5, 5), "can lose 2 more");
        assert_eq!(words(Kind::Standby, 2, 3), "can lose 1 more");
        assert_eq!(words(Kind::Standby, 0, 3), "stands still");
        assert_eq!(words(Kind::Erasure, 4, 4), "can lose 1 more");
    }
}
