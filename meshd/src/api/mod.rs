//! The control socket's language: one JSON value a line each way, over `STATE/meshd.sock`.
//!
//! A request is `{"v":1,"verb":"status"}`, its answer `{"v":1,"answer":"status",...}` or
//! `{"v":1,"answer":"error",...}`; a connection may carry any number of them, one after the other. Fields may be added
//! within a version; a reader ignores those that it does not know. There is no TCP: who may connect is decided by the
//! socket's mode (0660) and its directory, who may change something by the caller's user id.

pub mod authority;
pub mod client;
pub mod keys;
pub mod server;
pub mod view;

use std::net::IpAddr;

use serde::{Deserialize, Serialize};

pub use view::{Graph, Happening, Peer, Route, Status, Why};

/// Version of the language.
pub const VERSION: u32 = 1;
/// Longest line that either side reads, in bytes: a status of 10,000 peers fits.
pub const MAX_LINE_BYTES: usize = 16 << 20;
/// Longest request line, in bytes.
pub const MAX_REQUEST_BYTES: usize = 4096;

/// A line: a body with the language's version.
#[derive(Serialize, Deserialize, Debug, Clone, PartialEq)]
pub struct Line<T> {
    /// [`VERSION`].
    pub v: u32,
    /// The body.
    #[serde(flatten)]
    pub body: T,
}

impl<T> Line<T> {
    /// `body` in today's version.
    pub fn new(body: T) -> Line<T> {
        Line { v: VERSION, body }
    }
}

/// What can be asked.
#[derive(Serialize, Deserialize, Debug, Clone, PartialEq)]
#[serde(tag = "verb", rename_all = "kebab-case")]
pub enum Request {
    /// The node, its peers, and what an operator should know.
    Status,
    /// Counters and measurements, in the text format of Prometheus.
    Metrics,
    /// The routes through the overlay.
    Routes,
    /// All paths to one peer and why the chosen one was.
    Why {
        /// The peer's name, address, or member id.
        peer: String,
    },
    /// What happened to the peers lately.
    Events {
        /// Only what came after the one with this number; 0 for all that is remembered.
        after: u64,
    },
    /// Members, links, and the paths in use.
    Graph,
    /// One round trip to a peer through the session with it.
    Ping {
        /// The peer's name, address, or member id.
        peer: String,
        /// How long to wait for the answer.
        timeout_ms: u32,
    },
    /// Who has an overlay address.
    Identify {
        /// The address.
        address: IpAddr,
    },
    /// What an invitation needs to know about this node.
    Reachability,
    /// Read the configuration again.
    Reload,
    /// This node's key epochs, and what the others know of them.
    Keys,
    /// Replace this node's transport key.
    RotateKeys {
        /// The old one was stolen: no overlap.
        stolen: bool,
    },
    /// Have all members replace their transport keys, or go on with that.
    PlanKeys {
        /// Names, addresses, or ids of members that are left out.
        without: Vec<String>,
    },
    /// Call the plan under way off.
    AbortPlan,
    /// How far the plan is that all members replace their keys.
    KeyPlan,
    /// Revoke a member or a certificate.
    Revoke(RevokeRequest),
    /// The mesh's roots, issuers, and trust bundles, and a roll-over under way.
    Authority,
    /// Replace the authority's key, or go on with that in another way.
    RotateAuthority {
        /// How long to wait for members, in seconds.
        patience_s: u64,
        /// Names, addresses, or ids of members that are not waited for.
        without: Vec<String>,
    },
    /// Call that off.
    AbortAuthority,
    /// All trust bundles.
    Chain,
    /// Take a trust bundle that the recovery key has signed, and issue everything anew with the key in the file of the
    /// roll-over.
    RecoverAuthority {
        /// The bundle, in base64.
        bundle: String,
    },
}

/// What is to be revoked.
#[derive(Serialize, Deserialize, Debug, Clone, PartialEq, Eq)]
pub struct RevokeRequest {
    /// The member's name, address, or id; or a serial.
    pub target: String,
    /// 0 unspecified, 1 stolen, 2 left, 3 replaced.
    pub reason: u8,
    /// What the member issued from then on falls too, in seconds since the Unix epoch; now if absent.
    pub cutoff_s: Option<u64>,
    /// It may be this node.
    #[serde(default)]
    pub myself: bool,
}

/// What a caller may do.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Access {
    /// Look.
    Read,
    /// Change.
    Admin,
}

impl Request {
    /// What a caller must be allowed to do for this request.
    pub fn needs(&self) -> Access {
        match self {
            Request::Status
            | Request::Metrics
            | Request::Routes
            | Request::Identify { .. }
            | Request::Why { .. }
            | Request::Events { .. }
            | Request::Graph
            | Request::Ping { .. }
            | Request::Keys
            | Request::KeyPlan
            | Request::Chain
            | Request::Authority => Access::Read,
            // Endpoints of relays and the like are for who holds the keys to invite.
            Request::Reachability
            | Request::Reload
            | Request::RotateKeys { .. }
            | Request::PlanKeys { .. }
            | Request::AbortPlan
            | Request::RotateAuthority { .. }
            | Request::AbortAuthority
            | Request::RecoverAuthority { .. }
            | Request::Revoke(_) => Access::Admin,
        }
    }
}

/// What is answered.
#[derive(Serialize, Deserialize, Debug, Clone, PartialEq)]
#[serde(tag = "answer", rename_all = "kebab-case")]
pub enum Answer {
    /// To [`Request::Status`].
    Status(Box<Status>),
    /// To [`Request::Metrics`].
    Metrics {
        /// The text.
        text: String,
    },
    /// To [`Request::Routes`].
    Routes {
        /// The routes, by prefix.
        routes: Vec<Route>,
    },
    /// To [`Request::Why`].
    Why(Box<Why>),
    /// To [`Request::Events`].
    Events {
        /// The oldest first.
        events: Vec<Happening>,
    },
    /// To [`Request::Graph`].
    Graph(Box<Graph>),
    /// To [`Request::Ping`].
    Pong(Pong),
    /// To [`Request::Identify`].
    Identity(Identity),
    /// To [`Request::Reachability`].
    Reachability {
        /// `host:port`, the best first.
        endpoints: Vec<String>,
        /// The same on TCP.
        #[serde(default)]
        tcp: Vec<String>,
        /// The same on TCP with TLS.
        #[serde(default)]
        tls: Vec<String>,
    },
    /// To a request that has nothing to tell.
    Done {
        /// What an operator should know all the same.
        notes: Vec<String>,
    },
    /// To [`Request::Keys`].
    Keys(Box<keys::Keys>),
    /// To [`Request::RotateKeys`].
    Rotating {
        /// The epoch that will be in use.
        epoch: u32,
        /// Why that is another rotation than the one asked for.
        note: Option<String>,
    },
    /// To [`Request::PlanKeys`], [`Request::AbortPlan`], and [`Request::KeyPlan`].
    Plan {
        /// The plan; absent if there is none.
        plan: Option<Box<keys::Plan>>,
    },
    /// To [`Request::Revoke`].
    Revoked {
        /// Ids of the members whose membership ended.
        members: Vec<String>,
        /// Revocations of the mesh.
        total: usize,
    },
    /// To [`Request::Authority`], [`Request::RotateAuthority`], [`Request::AbortAuthority`], and
    /// [`Request::RecoverAuthority`].
    Authority(Box<authority::Authority>),
    /// To [`Request::Chain`].
    Chain {
        /// The trust bundles in base64, from version 1 up.
        bundles: Vec<String>,
    },
    /// The request could not be met.
    Error(Refusal),
}

/// A member whose certificate is honoured.
#[derive(Serialize, Deserialize, Debug, Clone, PartialEq)]
pub struct Identity {
    /// Its name.
    pub name: String,
    /// Its member id, 32 hexadecimal digits.
    pub member_id: String,
    /// Its identity key, 64 hexadecimal digits.
    pub key: String,
    /// Its roles, by name.
    pub roles: Vec<String>,
}

/// One answered ping.
#[derive(Serialize, Deserialize, Debug, Clone, PartialEq)]
pub struct Pong {
    /// The peer's name.
    pub peer: String,
    /// The round trip, in milliseconds; absent if no answer came in time.
    pub rtt_ms: Option<f64>,
    /// The path that the session uses.
    pub path: Option<view::Path>,
}

/// Why a request was not met.
#[derive(Serialize, Deserialize, Debug, Clone, PartialEq, thiserror::Error)]
#[error("{message}")]
pub struct Refusal {
    /// The exit code that the command line should end with.
    pub code: u8,
    /// The reason, for people.
    pub message: String,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_language_is_this_json() {
        let line = serde_json::to_string(&Line::new(Request::Status)).unwrap();
        assert_eq!(line, r#"{"v":1,"verb":"status"}"#);
        let line = serde_json::to_string(&Line::new(Request::Why { peer: "b".into() })).unwrap();
        assert_eq!(line, r#"{"v":1,"verb":"why","peer":"b"}"#);
        let line = serde_json::to_string(&Line::new(Answer::Done { notes: vec![] })).unwrap();
        assert_eq!(line, r#"{"v":1,"answer":"done","notes":[]}"#);
        let refusal = Answer::Error(Refusal { code: 1, message: "no".into() });
        let line = serde_json::to_string(&Line::new(refusal.clone())).unwrap();
        assert_eq!(line, r#"{"v":1,"answer":"error","code":1,"message":"no"}"#);
        assert_eq!(serde_json::from_str::<Line<Answer>>(&line).unwrap().body, refusal);
    }

    #[test]
    fn fields_of_a_newer_version_are_ignored() {
        let line: Line<Request> =
            serde_json::from_str(r#"{"v":1,"verb":"ping","peer":"b","timeout_ms":5,"new":1}"#).unwrap();
        assert_eq!(line.body.needs(), Access::Read);
    }
}
