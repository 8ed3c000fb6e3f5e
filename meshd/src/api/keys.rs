//! What the daemon shows of keys: the shapes of `meshd keys --json`. Names and units here are kept.

use serde::{Deserialize, Serialize};

/// `meshd keys show --json`, and one step of `meshd keys rotate --json`.
#[derive(Serialize, Deserialize, Debug, Clone, PartialEq, Eq)]
pub struct Keys {
    /// `steady`, or how far a rotation is: `saving`, `announced`, `renewing`, `erasing`, `draining`.
    pub phase: String,
    /// The epoch that handshakes are made with.
    pub current: u32,
    /// The newest epoch, or the one that is being made.
    pub target: u32,
    /// The epochs whose private keys this node has, oldest first.
    pub epochs: Vec<Epoch>,
    /// Replaced keys that are still recognised, to tell late members the newest.
    pub retired: usize,
    /// When the next scheduled rotation is due, in seconds since the Unix epoch.
    pub next_rotation_s: Option<u64>,
    /// Names of the members that this phase waits for.
    pub waiting_for: Vec<String>,
    /// Every other member, by name.
    pub peers: Vec<PeerKeys>,
}

/// One of the node's own key epochs.
#[derive(Serialize, Deserialize, Debug, Clone, PartialEq, Eq)]
pub struct Epoch {
    /// Its number.
    pub number: u32,
    /// `next`, `current`, or `leaving`.
    pub usage: String,
    /// When it was made, in seconds since the Unix epoch.
    pub created_s: u64,
    /// Its age in seconds.
    pub age_s: u64,
}

/// What is known about keys between this node and another member.
#[derive(Serialize, Deserialize, Debug, Clone, PartialEq, Eq)]
pub struct PeerKeys {
    /// Its name.
    pub name: String,
    /// Its member id, 32 hexadecimal digits.
    pub member_id: String,
    /// Whether it takes part now.
    pub present: bool,
    /// The newest epoch of this node that it is known to know; absent if it never told.
    pub confirmed: Option<u32>,
    /// The epochs that the session was made with; absent without one.
    pub session: Option<SessionEpochs>,
    /// Its own newest epoch.
    pub epoch: Option<u32>,
    /// The age of that, in seconds.
    pub age_s: Option<u64>,
}

/// The key epochs of a session.
#[derive(Serialize, Deserialize, Debug, Clone, Copy, PartialEq, Eq)]
pub struct SessionEpochs {
    /// This node's.
    pub ours: u32,
    /// The other's.
    pub theirs: u32,
}

impl Keys {
    /// Whether epoch `number` is in use, and no older key of this node is accepted any more.
    pub fn has_replaced(&self, number: u32) -> bool {
        self.current >= number && matches!(self.phase.as_str(), "steady" | "draining")
    }
}

/// `meshd keys plan --json`, and one step of `meshd keys rotate --all --json`.
#[derive(Serialize, Deserialize, Debug, Clone, PartialEq, Eq)]
pub struct Plan {
    /// The operator who made it.
    pub origin: String,
    /// When it was made, in seconds since the Unix epoch.
    pub created_s: u64,
    /// Nobody is left to wait for.
    pub done: bool,
    /// Confirmations that each new key needs.
    pub needed: usize,
    /// Names of the members that hold it up: they are away, or have not confirmed.
    pub waiting_for: Vec<String>,
    /// Every member, by name.
    pub members: Vec<PlanMember>,
}

/// How far a plan is with one member.
#[derive(Serialize, Deserialize, Debug, Clone, PartialEq, Eq)]
pub struct PlanMember {
    /// Its name.
    pub name: String,
    /// Whether it takes part in the mesh now.
    pub present: bool,
    /// `waiting`, `prepared`, `done`, or `left out`.
    pub state: String,
    /// Members that have confirmed its new key.
    pub confirmed: usize,
}
