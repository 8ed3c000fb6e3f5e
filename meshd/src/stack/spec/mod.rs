//! The specification of a stack: read raw, judged against the components and the mesh, and from then on only seen
//! resolved ([`Stack`]).

mod checks;
mod drivers;
mod places;
pub mod propose;
pub mod raw;
mod resolve;

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::path::PathBuf;

use serde::{Deserialize, Serialize};

pub use places::suggest;
pub use resolve::resolve;

use super::components::{Check, Component, Value};
use super::definition::Arch;
use super::definition::DriverKind as Driver;
use crate::config::Problem;

/// The datacentre of a node that is in none.
pub const NO_DATACENTER: &str = "default";

/// A member of the mesh, as far as placing needs to know it.
#[derive(Serialize, Deserialize, Debug, Clone, PartialEq, Eq)]
pub struct Member {
    /// Its name.
    pub name: String,
    /// Its overlay address (the IPv4 one, where it has both).
    pub address: IpAddr,
    /// Its datacentre.
    pub datacenter: Option<String>,
    /// Its architecture, if its agent has told.
    pub arch: Option<Arch>,
    /// Whether its agent answers.
    pub reachable: bool,
}

/// A stack, resolved.
#[derive(Debug, Clone)]
pub struct Stack {
    /// Its name.
    pub name: String,
    /// The nodes that run something, by name.
    pub nodes: BTreeMap<String, Node>,
    /// The components, each after those that it waits for.
    pub placed: Vec<Placed>,
    /// The secrets that are needed, by name.
    pub secrets: BTreeMap<String, SecretSource>,
    /// What works, but should be known.
    pub warnings: Vec<Problem>,
}

/// A node of a stack.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Node {
    /// Its overlay address.
    pub address: IpAddr,
    /// Its datacentre.
    pub datacenter: String,
    /// Its architecture.
    pub arch: Arch,
}

/// A component of a stack.
#[derive(Debug, Clone)]
pub struct Placed {
    /// What it is.
    pub component: Component,
    /// Who makes its containers.
    pub driver: Driver,
    /// The nodes that run it, in the order of the specification.
    pub nodes: Vec<String>,
    /// The image by architecture.
    pub images: BTreeMap<Arch, String>,
    /// Who asks for images, by registry.
    pub registries: BTreeMap<String, Registry>,
    /// All ports.
    pub ports: BTreeMap<String, u16>,
    /// All settings.
    pub settings: BTreeMap<String, Value>,
    /// Directories of the machine, by volume.
    pub volumes: BTreeMap<String, String>,
    /// More variables.
    pub environment: BTreeMap<String, String>,
    /// More arguments.
    pub arguments: Vec<String>,
    /// Most memory, in MiB; 0 for no limit.
    pub memory_mb: u64,
    /// Processors in thousandths; 0 for no limit.
    pub cpus_milli: u64,
    /// How long one replica may take to become ready, in seconds.
    pub deadline_s: u32,
}

/// A registry that wants to know who asks.
#[derive(Serialize, Deserialize, Debug, Clone, PartialEq, Eq)]
pub struct Registry {
    /// The user's name there.
    pub user: String,
    /// The secret that is the password.
    pub secret: String,
}

/// The registry of an image: what stands before its first `/`, if that is a host.
pub fn registry_of(image: &str) -> &str {
    match image.split_once('/') {
        Some((host, _)) if host.contains(['.', ':']) || host == "localhost" => host,
        _ => "docker.io",
    }
}

/// Where a secret comes from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum SecretSource {
    /// From a file.
    File(PathBuf),
    /// So many letters and digits at random.
    Generate(u32),
}

impl Stack {
    /// The component of this name.
    pub fn component(&self, name: &str) -> Option<&Placed> {
        self.placed.iter().find(|placed| placed.component.name == name)
    }
}

/// The name of the port that a check asks at.
pub fn port_of(check: &Check) -> Option<&str> {
    match check {
        Check::Tcp { port }
        | Check::Http { port, .. }
        | Check::Zookeeper { port }
        | Check::MesosMaster { port }
        | Check::MesosAgent { port }
        | Check::Marathon { port } => Some(port),
        Check::Exec { .. } | Check::Galera { .. } => None,
    }
}

/// The JSON Schema of `stack.toml`, as it is shipped in docs/stack.schema.json.
pub fn json_schema() -> String {
    let schema = schemars::schema_for!(raw::Raw);
    let mut text = serde_json::to_string_pretty(&schema).unwrap_or_default();
    text.push('\n');
    text
}

#[cfg(test)]
pub(crate) mod tests;
