//! What the daemon shows of the authority: the shapes of `meshd authority --json`. Names and units here are kept.

use ipnet::IpNet;
use serde::{Deserialize, Serialize};

/// `meshd authority show --json`, and one step of `meshd authority rotate --json`.
#[derive(Serialize, Deserialize, Debug, Clone, PartialEq, Eq)]
pub struct Authority {
    /// The mesh's name.
    pub mesh: String,
    /// Version of the newest trust bundle.
    pub version: u32,
    /// The roots that it trusts.
    pub roots: Vec<Root>,
    /// How many of them sign the next version.
    pub threshold: u8,
    /// Fingerprint of the recovery key, 16 hexadecimal digits.
    pub recovery: String,
    /// Whether the recovery key still lies in this node's state directory.
    pub recovery_here: bool,
    /// Members with the role of an issuer, by name.
    pub issuers: Vec<Issuer>,
    /// All versions of the trust bundle.
    pub chain: Vec<Generation>,
    /// The roll-over under way at this node.
    pub rollover: Option<Rollover>,
}

/// A root of the mesh.
#[derive(Serialize, Deserialize, Debug, Clone, PartialEq, Eq)]
pub struct Root {
    /// 16 hexadecimal digits.
    pub fingerprint: String,
    /// Whether its secret is on this node.
    pub here: bool,
}

/// A member that lets others in.
#[derive(Serialize, Deserialize, Debug, Clone, PartialEq, Eq)]
pub struct Issuer {
    /// Its name.
    pub name: String,
    /// When its certificate ends, in seconds since the Unix epoch.
    pub until_s: u64,
    /// Names that it certifies end so; all if empty.
    pub names: String,
    /// Addresses and prefixes that it certifies; addresses of the mesh's network, and no prefixes, if empty.
    pub prefixes: Vec<IpNet>,
    /// Longest lifetime of what it certifies, in seconds; as long as it likes if absent.
    pub max_lifetime_s: Option<u32>,
    /// Members whose certificates are by it.
    pub issued: usize,
}

/// A version of the trust bundle.
#[derive(Serialize, Deserialize, Debug, Clone, PartialEq, Eq)]
pub struct Generation {
    /// Its number.
    pub version: u32,
    /// When it was made, in seconds since the Unix epoch.
    pub created_s: u64,
    /// Fingerprints of its roots.
    pub roots: Vec<String>,
    /// Whether the recovery key signed it.
    pub by_recovery: bool,
}

/// A roll-over of the authority.
#[derive(Serialize, Deserialize, Debug, Clone, PartialEq, Eq)]
pub struct Rollover {
    /// `adding`, `confirming`, `reissuing`, `taking`, `dropping`, `settling`, or `done`.
    pub stage: String,
    /// It was called off, and leads back to the old root.
    pub aborted: bool,
    /// Fingerprint of the root that stays.
    pub target: String,
    /// Fingerprint of the root that goes.
    pub leaving: Option<String>,
    /// When waiting ends, in seconds since the Unix epoch.
    pub deadline_s: u64,
    /// Seconds until then.
    pub left_s: u64,
    /// Names of the members that this stage waits for.
    pub waiting_for: Vec<String>,
    /// Every other member, by name.
    pub members: Vec<Member>,
}

/// How far a roll-over is with one member.
#[derive(Serialize, Deserialize, Debug, Clone, PartialEq, Eq)]
pub struct Member {
    /// Its name.
    pub name: String,
    /// Whether it takes part now.
    pub present: bool,
    /// The newest trust bundle that it says it knows.
    pub bundle: Option<u32>,
    /// Whether its new certificate is issued.
    pub reissued: bool,
    /// Whether it says that it has it.
    pub took: bool,
}
