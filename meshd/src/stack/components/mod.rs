//! What a component is: data, not code. The ones that come with meshd are the files beside this one; a directory given
//! on the command line adds others or replaces them by name.

#[cfg(test)]
mod flags;
pub mod render;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::definition::Arch;

/// The components that come with meshd: their files.
pub const BUILT_IN: &[(&str, &str)] = &[
    ("grafana", include_str!("grafana.toml")),
    ("influxdb", include_str!("influxdb.toml")),
    ("marathon", include_str!("marathon.toml")),
    ("marathon-lb", include_str!("marathon-lb.toml")),
    ("mariadb", include_str!("mariadb.toml")),
    ("mesos-agent", include_str!("mesos-agent.toml")),
    ("mesos-dns", include_str!("mesos-dns.toml")),
    ("mesos-master", include_str!("mesos-master.toml")),
    ("minio", include_str!("minio.toml")),
    ("telegraf", include_str!("telegraf.toml")),
    ("zookeeper", include_str!("zookeeper.toml")),
];

/// A kind of container: how it is run, checked, and changed. Texts in `container`, `environment`, `files`, and
/// `mounts` are templates; see docs/stack.md.
#[derive(Serialize, Deserialize, JsonSchema, Debug, Clone, PartialEq)]
#[serde(deny_unknown_fields)]
pub struct Component {
    /// Its name: a-z, 0-9, and -. Not beginning with `mesos-` matters only to containers, and those have a prefix.
    pub name: String,
    /// One line about it.
    pub description: String,
    /// What it is there for.
    pub layer: Layer,
    /// How many of its replicas must live for it to work.
    pub kind: Kind,
    /// Components that must be ready before it starts, where the stack has them.
    #[serde(default)]
    pub after: Vec<String>,
    /// Components without which it cannot work.
    #[serde(default)]
    pub needs: Vec<String>,
    /// The default image by architecture; where there is none, it cannot run.
    pub images: BTreeMap<Arch, String>,
    /// Images that must not be used.
    #[serde(default)]
    pub refuse: Vec<Refuse>,
    /// Smallest number of replicas.
    #[serde(default = "one")]
    pub minimum: u32,
    /// Largest number of replicas.
    #[serde(default)]
    pub maximum: Option<u32>,
    /// Ports by name, all on the overlay address.
    #[serde(default)]
    pub ports: BTreeMap<String, u16>,
    /// What a stack can set.
    #[serde(default)]
    pub settings: BTreeMap<String, Setting>,
    /// Secrets that it needs.
    #[serde(default)]
    pub secrets: BTreeMap<String, SecretUse>,
    /// Where its data is.
    #[serde(default)]
    pub volumes: BTreeMap<String, Volume>,
    /// Parts of the machine that it needs.
    #[serde(default)]
    pub mounts: Vec<BindMount>,
    /// Files made for it, by their path in the container.
    #[serde(default)]
    pub files: BTreeMap<String, String>,
    /// How the container is run.
    #[serde(default)]
    pub container: Container,
    /// Whether the process lives.
    pub health: Check,
    /// Whether it does its work.
    pub ready: Check,
    /// How it is changed while others depend on it.
    #[serde(default)]
    pub roll: Roll,
    /// What its applications have on Marathon.
    #[serde(default)]
    pub marathon: OnMarathon,
    /// What it needs of a machine.
    #[serde(default)]
    pub resources: Resources,
    /// How long one replica may take to become ready, in seconds.
    #[serde(default = "three_minutes")]
    pub deadline_s: u32,
}

/// What a component is there for.
#[derive(Serialize, Deserialize, JsonSchema, Debug, Clone, Copy, PartialEq, Eq)]
#[serde(rename_all = "lowercase")]
pub enum Layer {
    /// The others stand on it, or every node has it.
    Base,
    /// It is what the stack is for.
    Service,
}

/// What the loss of replicas means.
#[derive(Serialize, Deserialize, JsonSchema, Debug, Clone, Copy, PartialEq, Eq)]
#[serde(rename_all = "kebab-case")]
pub enum Kind {
    /// More than half must live.
    Quorum,
    /// One must live: the others take over.
    Standby,
    /// Each is on its own: what one does, no other does.
    Each,
    /// Erasure code: half of them must live to read, one more to write.
    Erasure,
}

/// An image that must not be used.
#[derive(Serialize, Deserialize, JsonSchema, Debug, Clone, PartialEq, Eq)]
#[serde(deny_unknown_fields)]
pub struct Refuse {
    /// A tag, or the beginning of one.
    pub tag: String,
    /// Why.
    pub why: String,
}

/// Something that a stack can set.
#[derive(Serialize, Deserialize, JsonSchema, Debug, Clone, PartialEq)]
#[serde(deny_unknown_fields)]
pub struct Setting {
    /// What it does.
    pub help: String,
    /// Its value unless set; its type is the setting's type.
    pub default: Value,
    /// Smallest number.
    #[serde(default)]
    pub minimum: Option<i64>,
    /// Largest number.
    #[serde(default)]
    pub maximum: Option<i64>,
    /// The only values allowed.
    #[serde(default)]
    pub choices: Vec<String>,
}

/// A setting's value.
#[derive(Serialize, Deserialize, JsonSchema, Debug, Clone, PartialEq, Eq)]
#[serde(untagged)]
pub enum Value {
    /// true or false.
    Flag(bool),
    /// A whole number.
    Number(i64),
    /// A text.
    Text(String),
    /// Several texts.
    List(Vec<String>),
}

impl Value {
    /// The type's name, with an example.
    pub fn type_name(&self) -> &'static str {
        match self {
            Value::Flag(_) => "true or false",
            Value::Number(_) => "a whole number",
            Value::Text(_) => "a text in double quotes",
            Value::List(_) => "a list of texts, as [\"a\", \"b\"]",
        }
    }
}

/// A secret that a component needs.
#[derive(Serialize, Deserialize, JsonSchema, Debug, Clone, PartialEq, Eq)]
#[serde(deny_unknown_fields)]
pub struct SecretUse {
    /// What it is for.
    pub help: String,
    /// Where the container finds it, as a file; absent if only `files` mention it.
    #[serde(default)]
    pub path: Option<String>,
    /// Number of letters and digits to generate where the stack does not give one; 0 if it must.
    #[serde(default = "thirty_two")]
    pub generate: u32,
}

/// Data that outlives a container.
#[derive(Serialize, Deserialize, JsonSchema, Debug, Clone, PartialEq, Eq)]
#[serde(deny_unknown_fields)]
pub struct Volume {
    /// Where the container finds it.
    pub path: String,
    /// What is in it.
    pub help: String,
    /// The replica's number is written into the data, so that the volume must never serve another.
    #[serde(default)]
    pub keeps_id: bool,
}

/// A part of the machine in the container.
#[derive(Serialize, Deserialize, JsonSchema, Debug, Clone, PartialEq, Eq)]
#[serde(deny_unknown_fields)]
pub struct BindMount {
    /// The path on the machine.
    pub source: String,
    /// The path in the container; the same if absent.
    #[serde(default)]
    pub target: Option<String>,
    /// Whether it can only be read.
    #[serde(default)]
    pub read_only: bool,
    /// Make the directory on the machine if it is not there.
    #[serde(default)]
    pub make: bool,
}

/// How a container is run. An argument or variable that renders to nothing is left out.
#[derive(Serialize, Deserialize, JsonSchema, Debug, Clone, PartialEq, Eq, Default)]
#[serde(deny_unknown_fields)]
pub struct Container {
    /// The program, if it is not the image's own.
    #[serde(default)]
    pub entrypoint: Vec<String>,
    /// Its arguments.
    #[serde(default)]
    pub command: Vec<String>,
    /// Arguments added only while a replica founds the cluster; then it is made again without them.
    #[serde(default)]
    pub founding: Vec<String>,
    /// Its environment.
    #[serde(default)]
    pub environment: BTreeMap<String, String>,
    /// The user to run as.
    #[serde(default)]
    pub user: Option<String>,
    /// Everything on the machine is allowed.
    #[serde(default)]
    pub privileged: bool,
    /// It sees the machine's processes.
    #[serde(default)]
    pub pid_host: bool,
    /// Capabilities beyond Docker's own set.
    #[serde(default)]
    pub capabilities: Vec<String>,
    /// How long it has to end by itself, in seconds.
    #[serde(default = "thirty")]
    pub stop_grace_s: u32,
}

/// A question to a replica, asked by its own node. `port` is a name from `ports`.
#[derive(Serialize, Deserialize, JsonSchema, Debug, Clone, PartialEq, Eq)]
#[serde(tag = "kind", rename_all = "kebab-case", deny_unknown_fields)]
pub enum Check {
    /// A connection is taken.
    Tcp {
        /// The port.
        port: String,
    },
    /// An HTTP request is answered.
    Http {
        /// The port.
        port: String,
        /// The path.
        path: String,
        /// The status wanted; any of 200 to 299 if absent.
        #[serde(default)]
        status: Option<u16>,
    },
    /// ZooKeeper's `srvr` has a `Mode:`; `imok` comes without quorum too.
    Zookeeper {
        /// The client port.
        port: String,
    },
    /// A Mesos master has recovered its log, and there is a leader.
    MesosMaster {
        /// The port.
        port: String,
    },
    /// A Mesos agent is registered.
    MesosAgent {
        /// The port.
        port: String,
    },
    /// Marathon answers and has a leader.
    Marathon {
        /// The port.
        port: String,
    },
    /// A program in the container ends with 0.
    Exec {
        /// The program and its arguments.
        command: Vec<String>,
    },
    /// A program in the container prints the `wsrep_` status variables, and they say `Synced` in a primary component.
    Galera {
        /// The program and its arguments.
        command: Vec<String>,
    },
}

/// How a component is changed.
#[derive(Serialize, Deserialize, JsonSchema, Debug, Clone, PartialEq, Eq, Default)]
#[serde(deny_unknown_fields)]
pub struct Roll {
    /// Which replica first.
    #[serde(default)]
    pub order: RollOrder,
    /// How members are added to an ensemble that lives.
    #[serde(default)]
    pub grow: Grow,
    /// How the first ones come up.
    #[serde(default)]
    pub first: First,
}

/// Which replica is changed first.
#[derive(Serialize, Deserialize, JsonSchema, Debug, Clone, Copy, PartialEq, Eq, Default)]
#[serde(rename_all = "kebab-case")]
pub enum RollOrder {
    /// By name.
    #[default]
    Any,
    /// The leader when all others are done.
    LeaderLast,
}

/// How members are added.
#[derive(Serialize, Deserialize, JsonSchema, Debug, Clone, Copy, PartialEq, Eq, Default)]
#[serde(rename_all = "kebab-case")]
pub enum Grow {
    /// The others need not know.
    #[default]
    Free,
    /// The present ones learn the new size first, then the new ones start: two quorums never exist beside each other.
    ExistingFirst,
}

/// How the first replicas come up.
#[derive(Serialize, Deserialize, JsonSchema, Debug, Clone, Copy, PartialEq, Eq, Default)]
#[serde(rename_all = "kebab-case")]
pub enum First {
    /// All at once.
    #[default]
    Together,
    /// One until it is ready (it prepares shared state), then the others.
    OneThenRest,
    /// One after the other; the first one founds the cluster.
    Galera,
}

/// What a component has on Marathon beyond its container.
#[derive(Serialize, Deserialize, JsonSchema, Debug, Clone, PartialEq, Eq, Default)]
#[serde(deny_unknown_fields)]
pub struct OnMarathon {
    /// How long failing health checks are let pass after a start, in seconds; the deadline if absent.
    #[serde(default)]
    pub grace_s: Option<u32>,
    /// Labels for those who read Marathon's applications, as marathon-lb does; templates. What renders to nothing is left out.
    #[serde(default)]
    pub labels: BTreeMap<String, String>,
}

/// What a replica needs.
#[derive(Serialize, Deserialize, JsonSchema, Debug, Clone, PartialEq, Default)]
#[serde(deny_unknown_fields)]
pub struct Resources {
    /// Most memory, in MiB; 0 for no limit.
    #[serde(default)]
    pub memory_mb: u64,
    /// Processors; 0 for no limit.
    #[serde(default)]
    pub cpus: f64,
}

/// The components that a stack can use, by name.
#[derive(Debug, Clone)]
pub struct Catalogue(BTreeMap<String, Component>);

/// Why a component cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum CatalogueError {
    /// The directory cannot be read.
    #[error("cannot read the components in {path}")]
    Unreadable {
        /// The directory or file.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// A file is no component.
    #[error("{path}: {message}")]
    Invalid {
        /// The file.
        path: PathBuf,
        /// What is wrong, with its place.
        message: String,
    },
}

impl Catalogue {
    /// The components that come with meshd.
    ///
    /// # Panics
    /// Never: a test reads all of them.
    pub fn built_in() -> Catalogue {
        let read = |(name, text): &(&str, &str)| {
            let component: Component = toml::from_str(text).expect("the tests read every built-in component");
            ((*name).to_owned(), component)
        };
        Catalogue(BUILT_IN.iter().map(read).collect())
    }

    /// Adds the `*.toml` of a directory; what has the name of one that is there takes its place.
    ///
    /// # Errors
    /// If a file cannot be read, or is no component.
    pub fn add_directory(&mut self, directory: &Path) -> Result<(), CatalogueError> {
        let unreadable = |source| CatalogueError::Unreadable { path: directory.to_owned(), source };
        let mut paths = Vec::new();
        for entry in std::fs::read_dir(directory).map_err(unreadable)? {
            paths.push(entry.map_err(unreadable)?.path());
        }
        paths.sort();
        for path in paths.into_iter().filter(|path| path.extension().is_some_and(|end| end == "toml")) {
            let text = std::fs::read_to_string(&path)
                .map_err(|source| CatalogueError::Unreadable { path: path.clone(), source })?;
            let component: Component = toml::from_str(&text).map_err(|error| CatalogueError::Invalid {
                path: path.clone(),
                message: error.to_string(),
            })?;
            render::check(&component)
                .map_err(|message| CatalogueError::Invalid { path: path.clone(), message })?;
            self.0.insert(component.name.clone(), component);
        }
        Ok(())
    }

    /// The component of this name.
    pub fn get(&self, name: &str) -> Option<&Component> {
        self.0.get(name)
    }

    /// All names, in order.
    pub fn names(&self) -> impl Iterator<Item = &str> + Clone {
        self.0.keys().map(String::as_str)
    }

    /// All components, by name.
    pub fn iter(&self) -> impl Iterator<Item = &Component> {
        self.0.values()
    }
}

fn one() -> u32 {
    1
}

fn thirty() -> u32 {
    30
}

fn thirty_two() -> u32 {
    32
}

fn three_minutes() -> u32 {
    180
}
