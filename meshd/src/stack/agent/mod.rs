//! The node's agent: what it is asked over the overlay, and by whom.
//!
//! One TCP connection carries JSON lines each way. The agent begins with a challenge; the caller proves with its node's
//! identity key that it is the member whose overlay address it calls from. Both must fit: the address is certified by the
//! data path, the key is readable by that machine's root alone, so that neither another member nor another user of an
//! operator's machine can give orders. Then the member's certificate must have the role `operator`. Everything that
//! changes something is written to the audit log.

pub mod client;
mod lines;
mod proof;
mod secrets;
pub mod server;
mod work;

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::actual::{Probe, Report};
use super::definition::{Arch, Definition, Source};
use super::engine::probe::Question;

/// TCP port of the agents, on the overlay address.
pub const DEFAULT_PORT: u16 = 4656;
/// Version of the language.
pub const VERSION: u32 = 1;
/// Longest line, in bytes: a definition with its files fits many times over.
pub const MAX_LINE_BYTES: usize = 4 << 20;

/// What the agent says first.
#[derive(Serialize, Deserialize, Debug, Clone, PartialEq, Eq)]
pub struct Greeting {
    /// [`VERSION`].
    pub v: u32,
    /// 64 hexadecimal digits, new for each connection.
    pub challenge: String,
}

/// What the caller says first.
#[derive(Serialize, Deserialize, Debug, Clone, PartialEq, Eq)]
pub struct Proof {
    /// The signature over challenge and both members, in base64.
    pub proof: String,
}

/// What can be asked.
#[derive(Serialize, Deserialize, Debug, Clone, PartialEq)]
#[serde(tag = "ask", rename_all = "kebab-case")]
pub enum Request {
    /// Who is there.
    Hello,
    /// What there is of a stack.
    Report {
        /// The stack.
        stack: String,
        /// Replicas on this node to ask how they are.
        questions: Vec<Question>,
        /// Images to look for.
        images: Vec<String>,
        /// Where Galera replicas have their data, by component.
        galera: BTreeMap<String, Source>,
    },
    /// How one replica is.
    Probe {
        /// The replica.
        question: Question,
    },
    /// Bring an image here. Answered by any number of [`Answer::Progress`] before the end.
    Pull {
        /// The image.
        image: String,
        /// What it must be built for.
        arch: Arch,
        /// As whom the registry is asked.
        #[serde(default)]
        login: Option<Login>,
    },
    /// Keep a secret.
    PutSecret {
        /// The stack.
        stack: String,
        /// Its name.
        name: String,
        /// The secret and its version.
        secret: Secret,
    },
    /// Hand out a secret, for a node that needs it too.
    GetSecret {
        /// The stack.
        stack: String,
        /// Its name.
        name: String,
    },
    /// Make a container and start it.
    Create {
        /// What it is made from.
        definition: Box<Definition>,
        /// Arguments beyond the definition.
        founding: Vec<String>,
        /// The numbers of all replicas.
        members: BTreeMap<String, u32>,
        /// Paths of volumes that belong to the replica's number.
        keeps_id: Vec<String>,
    },
    /// Prepare everything for a container that Marathon is to start here: files, secrets, volumes; and see that its image
    /// is there.
    Prepare {
        /// What it is made from.
        definition: Box<Definition>,
        /// It is to found a cluster.
        founding: bool,
        /// Paths of volumes that belong to the replica's number.
        keeps_id: Vec<String>,
    },
    /// Find out how far a stopped Galera replica's data goes, and remember it for reports.
    Recover {
        /// The replica.
        definition: Box<Definition>,
    },
    /// Start a container that is there.
    Start {
        /// The stack.
        stack: String,
        /// Its name.
        container: String,
    },
    /// Stop and remove a container.
    Remove {
        /// The stack.
        stack: String,
        /// Its name.
        container: String,
        /// How long it has to end by itself, in seconds.
        grace_s: u32,
    },
    /// Run a program in a container of the stack.
    Run {
        /// The stack.
        stack: String,
        /// The container.
        container: String,
        /// The program and its arguments.
        command: Vec<String>,
    },
    /// Remove the volumes, secrets, and files of a stack.
    Forget {
        /// The stack.
        stack: String,
    },
    /// What a container printed. Answered by any number of [`Answer::Line`] before the end.
    Logs {
        /// The stack.
        stack: String,
        /// The container.
        container: String,
        /// So many of the last lines.
        tail: u32,
        /// Go on with those to come.
        follow: bool,
    },
    /// Keep others from changing the stack for as long as this connection lives.
    Lock {
        /// The stack.
        stack: String,
    },
    /// Keep the specification, so that it can be taken up from elsewhere.
    PutSpec {
        /// The stack.
        stack: String,
        /// The text.
        text: String,
        /// When it was put in force, in milliseconds since the Unix epoch.
        made_ms: u64,
        /// The architectures of its nodes: while one is away, nobody else could tell.
        #[serde(default)]
        architectures: BTreeMap<String, Arch>,
    },
    /// The specifications that are kept.
    GetSpecs,
}

impl Request {
    /// Whether it may be asked again where it is not known whether it was heard: questions, and what leaves the same behind.
    pub fn may_repeat(&self) -> bool {
        matches!(self, Request::PutSpec { .. }) || self.audited().is_none()
    }

    /// What the audit log calls it; `None` for what changes nothing.
    pub fn audited(&self) -> Option<String> {
        match self {
            Request::Hello | Request::Report { .. } | Request::Probe { .. } | Request::GetSpecs => None,
            Request::Pull { image, .. } => Some(format!("pull {image}")),
            Request::PutSecret { stack, name, .. } => Some(format!("put secret {stack}/{name}")),
            Request::GetSecret { stack, name } => Some(format!("get secret {stack}/{name}")),
            Request::Create { definition, .. } => {
                Some(format!("create {} from {}", definition.container_name(), definition.image))
            }
            Request::Prepare { definition, .. } => Some(format!(
                "prepare {} from {} for Marathon",
                definition.container_name(),
                definition.image
            )),
            Request::Recover { definition } => Some(format!("recover {}", definition.container_name())),
            Request::Start { container, .. } => Some(format!("start {container}")),
            Request::Remove { container, .. } => Some(format!("remove {container}")),
            Request::Run { container, command, .. } => Some(format!(
                "run {} in {container}",
                command.first().map(String::as_str).unwrap_or_default()
            )),
            Request::Forget { stack } => Some(format!("remove volumes and secrets of {stack}")),
            Request::Logs { container, .. } => Some(format!("read the log of {container}")),
            Request::Lock { stack } => Some(format!("lock {stack}")),
            Request::PutSpec { stack, .. } => Some(format!("keep the specification of {stack}")),
        }
    }
}

/// As whom a registry is asked: the password is a secret that the node has.
#[derive(Serialize, Deserialize, Debug, Clone, PartialEq, Eq)]
pub struct Login {
    /// The stack.
    pub stack: String,
    /// The user's name.
    pub user: String,
    /// The secret's name.
    pub secret: String,
}

/// A secret on its way.
#[derive(Serialize, Deserialize, Clone, PartialEq, Eq)]
pub struct Secret {
    /// Its version: random.
    pub version: String,
    /// When it was made, in milliseconds since the Unix epoch.
    pub made_ms: u64,
    /// The secret itself.
    pub value: String,
}

impl std::fmt::Debug for Secret {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Secret").field("version", &self.version).finish_non_exhaustive()
    }
}

impl Drop for Secret {
    fn drop(&mut self) {
        zeroize::Zeroize::zeroize(&mut self.value);
    }
}

/// What is answered.
#[derive(Serialize, Deserialize, Debug, Clone, PartialEq)]
#[serde(tag = "answer", rename_all = "kebab-case")]
pub enum Answer {
    /// To [`Request::Hello`].
    Hello {
        /// The node's name.
        node: String,
        /// Its architecture.
        arch: Option<Arch>,
        /// meshd's version.
        version: String,
    },
    /// To [`Request::Report`].
    Report(Box<Report>),
    /// To [`Request::Probe`].
    Probe(Probe),
    /// To [`Request::Prepare`].
    Prepared {
        /// The content of the image.
        image_id: String,
        /// Where the container's files lie.
        files: String,
    },
    /// How far a pull is, in bytes.
    Progress {
        /// What came.
        done: u64,
        /// What is known to come.
        total: u64,
    },
    /// Part of a log.
    Line {
        /// The text, with its line breaks.
        text: String,
    },
    /// To [`Request::GetSecret`].
    Secret(Secret),
    /// To [`Request::Run`].
    Ran {
        /// How it ended.
        code: i64,
        /// What it printed.
        output: String,
    },
    /// To [`Request::GetSpecs`].
    Specs {
        /// By stack: when it was put in force, and the text.
        specs: BTreeMap<String, (u64, String)>,
        /// The architectures of nodes, as they were at the last `up`.
        #[serde(default)]
        architectures: BTreeMap<String, Arch>,
    },
    /// It is done.
    Done,
    /// It is not done.
    Refused {
        /// Why.
        why: String,
    },
}
