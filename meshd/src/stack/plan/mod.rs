//! From what should be and what is to the steps between: a pure function.
//!
//! The steps are a graph: each names those that it waits for, so that nodes are worked on side by side where the order
//! allows it. A plan is never continued after an interruption: it is made anew from what is then there, and comes to the
//! same end.

mod galera;
mod order;
pub mod secrets;
mod show;

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};

use super::actual::{Actual, Found};
use super::components::{First, Grow, Kind, RollOrder};
use super::definition::{Change, Definition, DriverKind as Driver};
use super::desired::{self, Ids, Replica};
use super::spec::{Placed, Stack};
use order::Builder;

/// How long an image may take to come, in seconds.
pub const PULL_DEADLINE_S: u32 = 1_800;
/// How long a container may take to be made, started, or removed beyond its own grace, in seconds.
pub const ENGINE_DEADLINE_S: u32 = 60;

/// What to do, in which order.
#[derive(Serialize, Deserialize, Debug, Clone, Default, PartialEq)]
pub struct Plan {
    /// The steps; each waits only for earlier ones.
    pub steps: Vec<Step>,
    /// What cannot be done now, and why.
    pub blocked: Vec<Blocked>,
    /// The numbers of all replicas.
    pub ids: Ids,
}

/// One step.
#[derive(Serialize, Deserialize, Debug, Clone, PartialEq)]
pub struct Step {
    /// Its place in the plan.
    pub id: usize,
    /// The steps that must be done before.
    pub after: Vec<usize>,
    /// The component.
    pub component: String,
    /// The node that does it.
    pub node: String,
    /// What is done.
    pub action: Action,
    /// Why.
    pub reason: Reason,
    /// How long it may take, in seconds.
    pub deadline_s: u32,
}

/// What is done to a replica.
#[derive(Serialize, Deserialize, Debug, Clone, PartialEq)]
#[serde(tag = "do", rename_all = "kebab-case")]
pub enum Action {
    /// Bring the image to the node.
    Pull {
        /// The image.
        image: String,
    },
    /// Bring a secret to the node.
    Secret {
        /// Its name.
        name: String,
    },
    /// Wait until at least so many other replicas are ready, so that this one can be spared.
    Hold {
        /// The nodes of the others.
        others: Vec<String>,
        /// How many of them.
        least: usize,
    },
    /// Stop and remove the container; its volumes stay.
    Remove {
        /// The container's name.
        container: String,
        /// How long it has to end by itself, in seconds.
        grace_s: u32,
        /// Who made it.
        #[serde(default)]
        driver: Driver,
    },
    /// Make the container and start it; through Marathon, also to change one that is there.
    Create {
        /// What it is made from.
        definition: Box<Definition>,
        /// Arguments beyond the definition, to found a cluster.
        founding: Vec<String>,
    },
    /// Start the container that is there.
    Start {
        /// Its name.
        container: String,
        /// Who made it.
        #[serde(default)]
        driver: Driver,
    },
    /// Wait until the replica is ready.
    Ready,
    /// Make the replicas that run a primary component again, on this node (Galera).
    Promote,
    /// Find out how far the data of a stopped replica goes (Galera).
    Recover {
        /// The replica.
        definition: Box<Definition>,
    },
}

impl Action {
    /// Whether it changes something; otherwise it waits.
    pub fn changes(&self) -> bool {
        !matches!(self, Action::Hold { .. } | Action::Ready)
    }
}

/// Why a step is done.
#[derive(Serialize, Deserialize, Debug, Clone, PartialEq)]
#[serde(tag = "reason", rename_all = "kebab-case")]
pub enum Reason {
    /// It is not there.
    New,
    /// It does not run.
    NotRunning {
        /// How it ended.
        exit_code: Option<i64>,
    },
    /// Its definition is another now.
    Changed {
        /// The fields.
        changes: Vec<Change>,
    },
    /// The tag stands for other content now.
    Image {
        /// The content that runs.
        before: String,
        /// The content on the node.
        after: String,
    },
    /// Somebody changed it by hand.
    Drift {
        /// What differs.
        fields: Vec<String>,
    },
    /// An earlier meshd made it in another way.
    Schema,
    /// The specification does not have it here any more.
    Left,
    /// The stack is taken down.
    Down,
    /// It founded the cluster, which lives: it is made again as an ordinary member.
    Founded,
    /// It runs, but is not ready.
    Unready {
        /// What its check says.
        detail: String,
    },
    /// What Galera's recovery decided.
    Recovery {
        /// Why.
        why: String,
    },
    /// The replica's next step needs it.
    Needed,
}

/// Something that cannot be done now.
#[derive(Serialize, Deserialize, Debug, Clone, PartialEq, Eq)]
pub struct Blocked {
    /// The component.
    pub component: String,
    /// The node; empty if it concerns all of them.
    pub node: String,
    /// Why, and what would help.
    pub why: String,
}

/// What an operator asked for beyond the specification.
#[derive(Serialize, Deserialize, Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Wishes {
    /// Decide where data could be lost (Galera).
    pub force: bool,
}

impl Plan {
    /// Whether there is nothing to do and nothing to wait for.
    pub fn is_empty(&self) -> bool {
        self.steps.is_empty()
    }

    /// The steps that change something.
    pub fn changes(&self) -> impl Iterator<Item = &Step> {
        self.steps.iter().filter(|step| step.action.changes())
    }
}

/// Plans the way from `actual` to `stack`. `versions` are the secrets'.
///
/// # Errors
/// Which template cannot be rendered, and why.
pub fn plan(
    stack: &Stack,
    actual: &Actual,
    versions: &BTreeMap<String, String>,
    wishes: Wishes,
) -> Result<Plan, String> {
    let ids = desired::assign(stack, &actual.known_ids());
    let replicas = desired::replicas(stack, &ids, versions)?;
    let mut builder = Builder::new(actual);
    builder.leave(stack);
    for placed in &stack.placed {
        let name = &placed.component.name;
        let replicas: Vec<&Replica> =
            replicas.iter().filter(|replica| replica.definition.component == *name).collect();
        builder.component(placed, &replicas, versions, wishes);
    }
    let (steps, blocked) = builder.finish();
    Ok(Plan { steps, blocked, ids })
}

/// The steps that take a stack down: the last component first. Volumes are no containers and stay.
pub fn down(actual: &Actual, stack: Option<&Stack>) -> Plan {
    let mut builder = Builder::new(actual);
    let known: Vec<&str> = stack
        .iter()
        .flat_map(|stack| stack.placed.iter().rev())
        .map(|placed| placed.component.name.as_str())
        .collect();
    let present: BTreeSet<&str> = actual
        .nodes
        .values()
        .flatten()
        .flat_map(|report| &report.containers)
        .map(|found| found.component.as_str())
        .filter(|component| !component.is_empty())
        .collect();
    let others = present.iter().copied().filter(|name| !known.contains(name));
    let order: Vec<&str> =
        others.chain(known.iter().copied().filter(|name| present.contains(name))).collect();
    for component in order {
        let placed = stack.and_then(|stack| stack.component(component));
        // Galera marks the replica that was stopped last: there the cluster is founded again.
        let one_by_one = placed.is_some_and(|placed| placed.component.roll.first == First::Galera);
        builder.take_down(component, one_by_one);
    }
    for (node, report) in &actual.nodes {
        if let Err(why) = report {
            builder.block("", node, why.clone());
        }
    }
    let (steps, blocked) = builder.finish();
    Plan { steps, blocked, ids: Ids::new() }
}

/// How a replica stands against its definition.
enum Standing<'a> {
    Unreachable,
    Foreign,
    Absent,
    Other(&'a Found, Reason),
    Stopped(&'a Found),
    Unready(&'a Found),
    Fine(&'a Found),
}

fn standing<'a>(actual: &'a Actual, replica: &Replica) -> Standing<'a> {
    let Some(report) = actual.report(&replica.node) else { return Standing::Unreachable };
    let definition = &replica.definition;
    let name = definition.container_name();
    if report.containers.iter().any(|found| found.name == name && found.component.is_empty()) {
        return Standing::Foreign;
    }
    let Some(found) = actual.found(&replica.node, &definition.component) else { return Standing::Absent };
    let image = report.images.get(&definition.image).map_or(&found.image_id, |image| &image.id);
    if found.hash != definition.hash(image) {
        let reason = match &found.definition {
            Some(before) if before != definition => {
                Reason::Changed { changes: before.changes_to(definition) }
            }
            Some(_) if found.image_id != *image => {
                Reason::Image { before: found.image_id.clone(), after: image.clone() }
            }
            _ => Reason::Schema,
        };
        return Standing::Other(found, reason);
    }
    if !found.drift.is_empty() {
        return Standing::Other(found, Reason::Drift { fields: found.drift.clone() });
    }
    if !found.running {
        return Standing::Stopped(found);
    }
    if !found.is_ready() {
        return Standing::Unready(found);
    }
    Standing::Fine(found)
}

/// How many other replicas must be ready while one is taken away.
pub fn least_others(kind: Kind, total: usize) -> usize {
    match kind {
        Kind::Quorum => total / 2 + 1,
        Kind::Erasure => total / 2 + 1,
        Kind::Standby => usize::from(total > 1),
        Kind::Each => 0,
    }
    .min(total.saturating_sub(1))
}

#[cfg(test)]
mod tests;
