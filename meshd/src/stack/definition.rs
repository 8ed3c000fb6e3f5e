//! One container as it should be: what is compared, hashed, and handed to an engine.

use std::collections::BTreeMap;
use std::fmt;

use blake2::{Blake2s256, Digest};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// Version of what goes into the hash. It changes only when an equal definition would make another container; then
/// every container is rolled once, and the plan says why.
pub const SCHEMA: u32 = 1;
/// What a file's text has where a secret goes: `@secret(NAME)@`. Only the node that runs the container fills it in.
pub const SECRET_OPEN: &str = "@secret(";
/// The end of such a place.
pub const SECRET_CLOSE: &str = ")@";
/// Labels that meshd writes begin with this.
pub const LABEL: &str = "org.meshnet.stack";

/// Who makes the containers of a component.
#[derive(
    Serialize, Deserialize, JsonSchema, Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default,
)]
#[serde(rename_all = "lowercase")]
pub enum DriverKind {
    /// The agents.
    #[default]
    Direct,
    /// Marathon.
    Marathon,
}

impl DriverKind {
    /// Whether it is [`DriverKind::Direct`].
    pub fn is_direct(&self) -> bool {
        *self == DriverKind::Direct
    }

    /// Its word in a specification.
    pub fn word(self) -> &'static str {
        match self {
            DriverKind::Direct => "direct",
            DriverKind::Marathon => "marathon",
        }
    }
}

/// A processor architecture, in Docker's words.
#[derive(
    Serialize, Deserialize, schemars::JsonSchema, Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash,
)]
#[serde(rename_all = "lowercase")]
pub enum Arch {
    /// x86_64.
    Amd64,
    /// aarch64.
    Arm64,
    /// armv7l: overlay and telemetry only.
    Arm,
}

impl Arch {
    /// Every one.
    pub const ALL: [Arch; 3] = [Arch::Amd64, Arch::Arm64, Arch::Arm];

    /// Docker's word for it.
    pub fn word(self) -> &'static str {
        match self {
            Arch::Amd64 => "amd64",
            Arch::Arm64 => "arm64",
            Arch::Arm => "arm",
        }
    }

    /// What `uname -m`, Rust, or an engine calls it.
    pub fn parse(word: &str) -> Option<Arch> {
        match word {
            "amd64" | "x86_64" => Some(Arch::Amd64),
            "arm64" | "aarch64" => Some(Arch::Arm64),
            "arm" | "armv7" | "armv7l" | "armhf" => Some(Arch::Arm),
            _ => None,
        }
    }
}

impl fmt::Display for Arch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.word())
    }
}

/// A container of a stack. Two are the same if all fields are; none of them holds a secret.
#[derive(Serialize, Deserialize, Debug, Clone, PartialEq, Eq)]
pub struct Definition {
    /// The stack's name.
    pub stack: String,
    /// The component's name.
    pub component: String,
    /// The replica's number within its component: kept for as long as it lives, never given twice.
    pub id: u32,
    /// Who makes the container.
    #[serde(default, skip_serializing_if = "DriverKind::is_direct")]
    pub driver: DriverKind,
    /// The image, as the specification writes it.
    pub image: String,
    /// The architecture that the image must have.
    pub arch: Arch,
    /// The program, if it is not the image's own.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub entrypoint: Vec<String>,
    /// Its arguments.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub command: Vec<String>,
    /// Its environment.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub environment: BTreeMap<String, String>,
    /// The user to run as, if it is not the image's own.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub user: Option<String>,
    /// Data: where in the container, and what.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub volumes: BTreeMap<String, Source>,
    /// Directories and sockets of the machine, at the same or another place in the container.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub mounts: BTreeMap<String, Mount>,
    /// Files made for the container, by their path in it.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub files: BTreeMap<String, String>,
    /// Secrets by their path in the container: which, and its version.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub secrets: BTreeMap<String, SecretRef>,
    /// Ports that it listens on, all on the node's overlay address.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub ports: BTreeMap<String, u16>,
    /// Labels for those who read Marathon's applications (marathon-lb).
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub labels: BTreeMap<String, String>,
    /// Whether it may do everything on the machine (a Mesos agent).
    #[serde(default, skip_serializing_if = "is_false")]
    pub privileged: bool,
    /// Whether it sees the machine's processes.
    #[serde(default, skip_serializing_if = "is_false")]
    pub pid_host: bool,
    /// Capabilities beyond Docker's own set.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub capabilities: Vec<String>,
    /// Most memory, in MiB; 0 for no limit.
    pub memory_mb: u64,
    /// Share of processors, in thousandths; 0 for no limit.
    pub cpus_milli: u64,
    /// How long it has to end by itself, in seconds.
    pub stop_grace_s: u32,
}

/// Where a volume's data is.
#[derive(Serialize, Deserialize, Debug, Clone, PartialEq, Eq)]
#[serde(rename_all = "lowercase")]
pub enum Source {
    /// A volume of the engine, by name.
    Named(String),
    /// A directory of the machine.
    Path(String),
}

/// A part of the machine's file system in a container.
#[derive(Serialize, Deserialize, Debug, Clone, PartialEq, Eq)]
pub struct Mount {
    /// The path on the machine.
    pub source: String,
    /// Whether it can only be read.
    #[serde(default)]
    pub read_only: bool,
    /// Whether the directory is made where it is not there.
    #[serde(default, skip_serializing_if = "is_false")]
    pub make: bool,
}

/// A secret in a container.
#[derive(Serialize, Deserialize, Debug, Clone, PartialEq, Eq)]
pub struct SecretRef {
    /// Its name in the stack.
    pub name: String,
    /// Its version: made at random when the secret was, so that it tells nothing about it.
    pub version: String,
}

/// One difference between two definitions, without secrets.
#[derive(Serialize, Deserialize, Debug, Clone, PartialEq, Eq)]
pub struct Change {
    /// The field, as `environment.ZOO_SERVERS`.
    pub field: String,
    /// What it was; absent if it was not there.
    pub before: Option<String>,
    /// What it becomes; absent if it goes.
    pub after: Option<String>,
}

impl fmt::Display for Change {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match (&self.before, &self.after) {
            (Some(before), Some(after)) => write!(f, "{}: {before} -> {after}", self.field),
            (None, Some(after)) => write!(f, "{}: new, {after}", self.field),
            (Some(before), None) => write!(f, "{}: removed, was {before}", self.field),
            (None, None) => f.write_str(&self.field),
        }
    }
}

impl Definition {
    /// The container's name on its engine. It never begins with `mesos-`: agents kill what does.
    pub fn container_name(&self) -> String {
        format!("meshd-{}-{}", self.stack, self.component)
    }

    /// The hash over all fields, their schema's version, and the image's content. `image_id` is what the reference
    /// stands for on the node, so that a tag that was moved shows.
    pub fn hash(&self, image_id: &str) -> String {
        let canonical =
            serde_json::to_vec(&serde_json::to_value(self).unwrap_or_default()).unwrap_or_default();
        let mut hasher = Blake2s256::new();
        for part in [&SCHEMA.to_be_bytes()[..], image_id.as_bytes(), &[0], &canonical] {
            hasher.update(part);
        }
        hex(&hasher.finalize()[..16])
    }

    /// What `new` changes, field by field.
    pub fn changes_to(&self, new: &Definition) -> Vec<Change> {
        let (mut before, mut after) = (BTreeMap::new(), BTreeMap::new());
        flatten("", &serde_json::to_value(self).unwrap_or_default(), &mut before);
        flatten("", &serde_json::to_value(new).unwrap_or_default(), &mut after);
        let fields: std::collections::BTreeSet<&String> = before.keys().chain(after.keys()).collect();
        fields
            .into_iter()
            .filter(|field| before.get(*field) != after.get(*field))
            .map(|field| Change {
                field: field.clone(),
                before: before.get(field).cloned(),
                after: after.get(field).cloned(),
            })
            .collect()
    }
}

/// Lower-case hexadecimal digits.
pub fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn is_false(value: &bool) -> bool {
    !*value
}

fn flatten(prefix: &str, value: &serde_json::Value, into: &mut BTreeMap<String, String>) {
    match value {
        serde_json::Value::Object(fields) => {
            for (name, inner) in fields {
                let path = if prefix.is_empty() { name.clone() } else { format!("{prefix}.{name}") };
                flatten(&path, inner, into);
            }
        }
        serde_json::Value::Array(items) => {
            let text: Vec<String> = items.iter().map(plain).collect();
            into.insert(prefix.to_owned(), text.join(" "));
        }
        other => {
            into.insert(prefix.to_owned(), plain(other));
        }
    }
}

fn plain(value: &serde_json::Value) -> String {
    match value {
        serde_json::Value::String(text) => text.clone(),
        other => other.to_string(),
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    /// A container with something in most fields.
    pub(crate) fn any() -> Definition {
        Definition {
            stack: "s".into(),
            component: "zookeeper".into(),
            id: 1,
            driver: DriverKind::Direct,
            image: "zookeeper:3.9.5".into(),
            arch: Arch::Amd64,
            entrypoint: vec![],
            command: vec!["a".into(), "b".into()],
            environment: [("ZOO_MY_ID".to_owned(), "1".to_owned())].into(),
            user: None,
            volumes: [("/data".to_owned(), Source::Named("v".into()))].into(),
            mounts: BTreeMap::new(),
            files: BTreeMap::new(),
            secrets: BTreeMap::new(),
            ports: [("client".to_owned(), 2181)].into(),
            labels: BTreeMap::new(),
            privileged: false,
            pid_host: false,
            capabilities: vec![],
            memory_mb: 512,
            cpus_milli: 0,
            stop_grace_s: 10,
        }
    }

    #[test]
    fn the_hash_stays_what_it_was_in_the_last_release() {
        // A change here recreates every container of every stack: raise SCHEMA and say so in the changelog.
        assert_eq!(any().hash("sha256:1"), "abe0e3cc5e29ab602433aad90d7e116b");
    }

    #[test]
    fn every_field_and_the_image_count_in_the_hash() {
        let base = any().hash("sha256:1");
        assert_ne!(base, any().hash("sha256:2"));
        let mut other = any();
        other.environment.insert("A".into(), "b".into());
        assert_ne!(base, other.hash("sha256:1"));
        let mut other = any();
        other.command = vec!["a b".into()];
        assert_ne!(base, other.hash("sha256:1"));
    }

    #[test]
    fn changes_name_their_fields() {
        let mut new = any();
        new.environment.insert("ZOO_MY_ID".into(), "2".into());
        new.ports.remove("client");
        new.privileged = true;
        let told: Vec<String> = any().changes_to(&new).iter().map(ToString::to_string).collect();
        let expected =
            ["environment.ZOO_MY_ID: 1 -> 2", "ports.client: removed, was 2181", "privileged: new, true"];
        assert_eq!(told, expected);
    }
}
