//! What the agents report: the containers, images, and secrets that are there.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::definition::DriverKind;
use super::definition::{Arch, Definition};
use super::desired::Ids;
use super::galera::Evidence;

/// The nodes of a stack as they are, by name.
#[derive(Serialize, Deserialize, Debug, Clone, Default, PartialEq)]
pub struct Actual {
    /// What each one reports, or why it does not.
    pub nodes: BTreeMap<String, Result<Report, String>>,
    /// How many applications Marathon has of the stack, or why it does not tell; absent where none runs.
    #[serde(default)]
    pub marathon: Option<Result<usize, String>>,
}

/// What one agent reports about one stack.
#[derive(Serialize, Deserialize, Debug, Clone, PartialEq)]
pub struct Report {
    /// The machine's architecture.
    pub arch: Option<Arch>,
    /// The engine's version.
    pub engine: String,
    /// The stack's containers, and others under names that it would use.
    pub containers: Vec<Found>,
    /// Images by reference.
    pub images: BTreeMap<String, ImageFact>,
    /// Versions of the stack's secrets, by name.
    pub secrets: BTreeMap<String, SecretFact>,
    /// What the data of Galera replicas says, by component, container or not.
    #[serde(default)]
    pub evidence: BTreeMap<String, Evidence>,
}

/// An image on a node.
#[derive(Serialize, Deserialize, Debug, Clone, PartialEq, Eq)]
pub struct ImageFact {
    /// Its content.
    pub id: String,
    /// What it was built for.
    pub arch: String,
}

/// A secret on a node.
#[derive(Serialize, Deserialize, Debug, Clone, PartialEq, Eq)]
pub struct SecretFact {
    /// Its version.
    pub version: String,
    /// When it was made, in milliseconds since the Unix epoch.
    pub made_ms: u64,
}

/// A container on a node.
#[derive(Serialize, Deserialize, Debug, Clone, PartialEq, Default)]
pub struct Found {
    /// Its name.
    pub name: String,
    /// Who made it.
    #[serde(default)]
    pub driver: DriverKind,
    /// The component's name; empty if the container is not of this stack.
    pub component: String,
    /// The hash that it was made with.
    pub hash: String,
    /// What it was made from; absent if that cannot be read.
    pub definition: Option<Definition>,
    /// The numbers of all replicas when it was made.
    pub members: BTreeMap<String, u32>,
    /// Whether it was made to found a cluster.
    pub founding: bool,
    /// The content of its image.
    pub image_id: String,
    /// Whether it runs.
    pub running: bool,
    /// How it ended.
    pub exit_code: Option<i64>,
    /// How often the engine restarted it.
    pub restarts: u64,
    /// Seconds since it started.
    pub up_s: u64,
    /// How it differs from its definition: somebody changed it by hand.
    pub drift: Vec<String>,
    /// What its checks say, if it runs.
    pub probe: Option<Probe>,
}

/// What checks say about a replica.
#[derive(Serialize, Deserialize, Debug, Clone, PartialEq, Eq, Default)]
pub struct Probe {
    /// The process lives.
    pub alive: bool,
    /// It does its work.
    pub ready: bool,
    /// `leader`, `follower`, and the like.
    pub role: Option<String>,
    /// The version that runs.
    pub version: Option<String>,
    /// Why it is not ready, or what it says about itself.
    pub detail: String,
    /// Addresses outside the overlay on which it listens.
    pub exposed: Vec<String>,
}

impl Actual {
    /// The report of a node, if it gave one.
    pub fn report(&self, node: &str) -> Option<&Report> {
        self.nodes.get(node).and_then(|report| report.as_ref().ok())
    }

    /// The container of a component on a node.
    pub fn found(&self, node: &str, component: &str) -> Option<&Found> {
        self.report(node)?.containers.iter().find(|found| found.component == component)
    }

    /// All numbers of replicas that any container remembers.
    pub fn known_ids(&self) -> Ids {
        let mut ids = Ids::new();
        for (node, report) in &self.nodes {
            for found in report.iter().flat_map(|report| &report.containers) {
                if found.component.is_empty() {
                    continue;
                }
                let known = ids.entry(found.component.clone()).or_default();
                for (member, id) in &found.members {
                    known.entry(member.clone()).or_insert(*id);
                }
                if let Some(definition) = &found.definition {
                    known.insert(node.clone(), definition.id);
                }
            }
        }
        ids
    }
}

impl Found {
    /// Whether it runs and does its work.
    pub fn is_ready(&self) -> bool {
        self.running && self.probe.as_ref().is_some_and(|probe| probe.ready)
    }

    /// Whether it leads.
    pub fn leads(&self) -> bool {
        self.probe.as_ref().and_then(|probe| probe.role.as_deref()) == Some("leader")
    }
}
