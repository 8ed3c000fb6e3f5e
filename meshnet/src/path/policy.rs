//! What the administrator says about the paths to one peer.

use ipnet::IpNet;
use proto::id::MemberId;

use super::PathId;

/// Which paths to one peer may be used. The default allows all.
///
/// A path that is not allowed is neither probed nor used, not even when no other works; what the peer sends over it is
/// still taken.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Policy {
    /// Which kinds of paths.
    pub paths: Use,
    /// If not empty: the only relays to use.
    pub via: Vec<MemberId>,
    /// Relays not to use.
    pub forbidden_relays: Vec<MemberId>,
    /// Networks in which no endpoint of the peer may be used.
    pub forbidden_networks: Vec<IpNet>,
}

/// Kinds of paths that may be used.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum Use {
    /// Whatever is best.
    #[default]
    Any,
    /// Only straight to the peer.
    Direct,
    /// Only through relays.
    Relay,
}

impl Policy {
    /// Whether a path may be used.
    pub fn allows(&self, id: &PathId) -> bool {
        match id {
            PathId::Direct { remote, .. } => {
                let forbidden = self.forbidden_networks.iter().any(|network| network.contains(&remote.ip()));
                self.paths != Use::Relay && !forbidden
            }
            PathId::Relay { relay } => {
                let named = self.via.is_empty() || self.via.contains(relay);
                self.paths != Use::Direct && named && !self.forbidden_relays.contains(relay)
            }
        }
    }
}
