//! `stack.toml` as it is written, before anything in it is judged. The JSON Schema is made from these types.

use std::collections::BTreeMap;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::stack::components::Value;
use crate::stack::definition::Arch;
use crate::stack::definition::DriverKind as Driver;

/// A stack: which components run where.
#[derive(Deserialize, Serialize, JsonSchema, Debug, Default)]
#[serde(deny_unknown_fields)]
pub struct Raw {
    /// The stack's name: a-z, 0-9, and -. Containers, volumes, and secrets carry it.
    pub name: String,
    /// Who starts the services: "marathon", where the stack has it, or "direct", the nodes' own agents.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub driver: Option<Driver>,
    /// Facts about nodes that they cannot tell themselves.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub nodes: BTreeMap<String, RawNode>,
    /// Where secrets come from; those that are not here are generated.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub secrets: BTreeMap<String, RawSecret>,
    /// Registries that want to know who asks, by host and port as in the names of images.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub registries: BTreeMap<String, RawRegistry>,
    /// The components, by name.
    #[serde(default)]
    pub components: BTreeMap<String, RawComponent>,
}

/// One `[nodes.NAME]`.
#[derive(Deserialize, Serialize, JsonSchema, Debug, Default)]
#[serde(deny_unknown_fields)]
pub struct RawNode {
    /// The processor, for a node that has never been reached.
    pub architecture: Option<Arch>,
    /// The datacentre, where the node does not announce one.
    pub datacenter: Option<String>,
}

/// One `[secrets.NAME]`: `file` or `generate`.
#[derive(Deserialize, Serialize, JsonSchema, Debug, Default)]
#[serde(deny_unknown_fields)]
pub struct RawSecret {
    /// Read it from this file, relative to the specification; one line break at its end is left out.
    pub file: Option<String>,
    /// Generate so many letters and digits at the first `up`.
    pub generate: Option<i64>,
}

/// One `[registries."HOST"]`.
#[derive(Deserialize, Serialize, JsonSchema, Debug, Default)]
#[serde(deny_unknown_fields)]
pub struct RawRegistry {
    /// The user's name there.
    pub user: String,
    /// Which of `[secrets]` is the password.
    pub secret: String,
}

/// One `[components.NAME]`.
#[derive(Deserialize, Serialize, JsonSchema, Debug, Default)]
#[serde(deny_unknown_fields)]
pub struct RawComponent {
    /// The nodes that run it: names, or "all" for every member.
    pub nodes: Option<Placement>,
    /// Who starts it, if not the one that starts the other services.
    pub driver: Option<Driver>,
    /// With "all": only nodes in these datacentres.
    pub datacenters: Option<Vec<String>>,
    /// With "all": only nodes with these processors.
    pub architectures: Option<Vec<Arch>>,
    /// The image, for all architectures or one each; with `@sha256:...` it is pinned to its content.
    pub image: Option<Image>,
    /// Settings of the component: `meshd stack components NAME` lists them.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub settings: BTreeMap<String, Value>,
    /// Other ports than the usual ones.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub ports: BTreeMap<String, i64>,
    /// Directories of the machine for volumes; otherwise the engine keeps them.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub volumes: BTreeMap<String, String>,
    /// More variables. Never secrets: everybody on the machine can see them.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub environment: BTreeMap<String, String>,
    /// More arguments.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub arguments: Vec<String>,
    /// Most memory, in MiB; 0 for no limit.
    pub memory_mb: Option<i64>,
    /// Processors; 0 for no limit.
    pub cpus: Option<f64>,
    /// How long one replica may take to become ready, in seconds.
    pub deadline_s: Option<i64>,
}

/// Which nodes.
#[derive(Deserialize, Serialize, JsonSchema, Debug, Clone)]
#[serde(untagged)]
pub enum Placement {
    /// "all".
    Word(String),
    /// These.
    Names(Vec<String>),
}

/// Which image.
#[derive(Deserialize, Serialize, JsonSchema, Debug, Clone)]
#[serde(untagged)]
pub enum Image {
    /// One for all architectures.
    One(String),
    /// One each.
    Each(BTreeMap<Arch, String>),
}

/// An example for each key, shown where a value is wrong.
pub(super) const EXAMPLES: &[(&str, &str)] = &[
    ("name", r#"name = "production""#),
    ("driver", r#"driver = "direct""#),
    ("nodes", r#"nodes = ["ams1", "fra1", "par1"]"#),
    ("secrets", r#"secrets.mariadb-root = { file = "root.secret" }"#),
    ("components", r#"components.zookeeper = { nodes = ["ams1", "fra1", "par1"] }"#),
    ("registries", r#"registries."registry.example.org" = { user = "stack", secret = "registry" }"#),
    ("user", r#"user = "stack""#),
    ("secret", r#"secret = "registry""#),
    ("architecture", r#"architecture = "arm64""#),
    ("architectures", r#"architectures = ["amd64", "arm64"]"#),
    ("datacenter", r#"datacenter = "ams""#),
    ("datacenters", r#"datacenters = ["ams", "fra"]"#),
    ("file", r#"file = "root.secret""#),
    ("generate", "generate = 32"),
    ("image", r#"image = { amd64 = "registry.example.org/zookeeper:3.9.5" }"#),
    ("settings", "settings = { heap_mb = 512 }"),
    ("ports", "ports = { client = 2182 }"),
    ("volumes", r#"volumes = { data = "/srv/zookeeper" }"#),
    ("environment", r#"environment = { TZ = "UTC" }"#),
    ("arguments", r#"arguments = ["--verbose"]"#),
    ("memory_mb", "memory_mb = 1024"),
    ("cpus", "cpus = 1.5"),
    ("deadline_s", "deadline_s = 300"),
];
