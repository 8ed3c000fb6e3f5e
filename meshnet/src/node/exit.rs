//! The internet through another member: who offers it, and who is used for it.

use ipnet::IpNet;
use proto::certificate::Roles;
use proto::id::{MemberId, Name};
use proto::record::Subnet;

use super::Node;
use crate::dataplane::packet::is_internet;
use crate::time::Now;

/// A member that offers its way to the internet.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct ExitView {
    /// Its name.
    pub name: Name,
    /// Whether this node uses it.
    pub used: bool,
}

impl Node {
    /// Whether this node takes packets of others to the internet: it is asked to, and its certificate says that it may.
    pub(super) fn exits_now(&self, now: Now) -> bool {
        self.settings.exit && self.may_exit(now, self.me.member)
    }

    /// Whether this node takes packets of others to the internet now.
    pub fn is_exit(&self, now: Now) -> bool {
        self.exits_now(now)
    }

    pub(super) fn may_exit(&self, now: Now, member: MemberId) -> bool {
        let known = || self.membership.get(member);
        self.membership.is_honoured(now.wall, member)
            && known().is_some_and(|known| known.certificate().body().roles.contains(Roles::EXIT))
    }

    /// Whether this node's packets to the internet go through a member: this node has chosen it, and its certificate says
    /// that it may.
    pub(super) fn is_our_exit(&self, now: Now, member: MemberId) -> bool {
        let chosen = self.settings.exit_node.as_ref();
        member != self.me.member
            && chosen.is_some_and(|name| self.membership.with_name(now.wall, name) == Some(member))
            && self.may_exit(now, member)
    }

    /// What an exit announces: a default route of each family in which this machine has a way out. IPv4 is translated,
    /// so that any address will do; for IPv6 it has to be a global one.
    pub(super) fn exit_subnets(&self, now: Now) -> Vec<Subnet> {
        if !self.exits_now(now) {
            return Vec::new();
        }
        let global6 = |address: &std::net::IpAddr| address.is_ipv6() && is_internet(*address);
        let v6 = self.settings.interface_addresses.iter().any(global6).then(|| IpNet::V6(Default::default()));
        let prefixes = std::iter::once(IpNet::V4(Default::default())).chain(v6);
        prefixes.map(|prefix| Subnet { prefix, weight: 0 }).collect()
    }

    /// The members that offer to be this node's exit, by name.
    pub fn exits(&self, now: Now) -> Vec<ExitView> {
        let mut exits: Vec<ExitView> = self
            .lsdb
            .live(now.mono)
            .filter(|(member, entry)| {
                let offers = entry.view().subnets().iter().any(|subnet| subnet.prefix.prefix_len() == 0);
                offers && *member != self.me.member && self.may_exit(now, *member)
            })
            .filter_map(|(member, _)| {
                Some(ExitView { name: self.name_of(member)?, used: self.is_our_exit(now, member) })
            })
            .collect();
        exits.sort_by(|a, b| a.name.cmp(&b.name));
        exits
    }
}
