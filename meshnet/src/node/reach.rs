//! Which members and which of their subnets can be reached, told when it changes: for people's scripts.
//!
//! A member that nothing was sent to for a while has no session, and is no less reachable for it. So reachability is what
//! the announced links say; where no link was ever announced that leads to a member, it is what its sessions said last.

use std::collections::BTreeSet;
use std::net::SocketAddr;

use ipnet::IpNet;
use proto::id::{MemberId, Name};

use super::{Event, Node};
use crate::path::PathId;
use crate::time::Now;

/// What was told last, by ascending member id: this node too, which always reaches itself.
#[derive(Default)]
pub(super) struct Told(Vec<(MemberId, Reached)>);

impl Told {
    fn get(&self, member: MemberId) -> Option<&Reached> {
        let at = self.0.binary_search_by_key(&member, |(reached, _)| *reached).ok()?;
        self.0.get(at).map(|(_, reached)| reached)
    }
}

#[derive(Clone, PartialEq, Eq)]
struct Reached {
    name: Name,
    /// Announced links lead there: if they no longer do, it is lost.
    announced: bool,
    /// Prefixes with their weights, ascending.
    subnets: Box<[(IpNet, u16)]>,
}

impl Node {
    /// Compares with what was told last, and tells the difference: a member before its subnets when it comes and when it
    /// goes, as tinc runs its scripts.
    pub(super) fn tell_reach(&mut self, now: Now) {
        let mut current = Told::default();
        for (member, entry) in self.lsdb.live(now.mono) {
            if !self.membership.is_honoured(now.wall, member) {
                continue;
            }
            let Some(name) = self.name_of(member) else { continue };
            let announced = self.routing.paths.best(member).is_some();
            if member != self.me.member && !self.is_reached(now, member, announced) {
                continue;
            }
            let mut subnets: BTreeSet<(IpNet, u16)> = BTreeSet::new();
            if member == self.me.member {
                subnets
                    .extend(self.own_subnets(now.wall).iter().map(|subnet| (subnet.prefix, subnet.weight)));
            } else {
                let allowed = entry
                    .view()
                    .subnets()
                    .into_iter()
                    .filter(|subnet| self.may_route(now, member, &subnet.prefix));
                subnets.extend(allowed.map(|subnet| (subnet.prefix, subnet.weight)));
            }
            current.0.push((member, Reached { name, announced, subnets: subnets.into_iter().collect() }));
        }
        current.0.shrink_to_fit();
        let before = std::mem::take(&mut self.reach);
        for (member, old) in &before.0 {
            let new = current.get(*member);
            if new.is_none() && *member != self.me.member {
                self.events.push_back(Event::NodeDown { member: *member, name: old.name.clone() });
            }
            for (prefix, weight) in &old.subnets {
                if new.is_none_or(|new| !new.subnets.contains(&(*prefix, *weight))) {
                    let (prefix, weight, name) = (*prefix, *weight, old.name.clone());
                    self.events.push_back(Event::SubnetDown { member: *member, name, prefix, weight });
                }
            }
        }
        for (member, new) in &current.0 {
            let old = before.get(*member);
            if old.is_none() && *member != self.me.member {
                self.events.push_back(Event::NodeUp { member: *member, name: new.name.clone() });
            }
            for (prefix, weight) in &new.subnets {
                if old.is_none_or(|old| !old.subnets.contains(&(*prefix, *weight))) {
                    let (prefix, weight, name) = (*prefix, *weight, new.name.clone());
                    self.events.push_back(Event::SubnetUp { member: *member, name, prefix, weight });
                }
            }
        }
        self.reach = current;
    }

    /// Where a member is reached on the underlay without a relay; else where it says that it is.
    pub fn endpoint_of(&self, member: MemberId) -> Option<SocketAddr> {
        let used = self.peers.get(&member).and_then(|peer| peer.selection.primary);
        match used {
            Some(PathId::Direct { remote, .. }) => Some(remote),
            Some(PathId::Relay { .. }) | None => {
                let candidates = self.lsdb.get(member)?.view().candidates();
                candidates.first().map(|candidate| candidate.endpoint)
            }
        }
    }

    /// Whether a member can be reached, as was told last.
    pub fn is_reachable(&self, member: MemberId) -> bool {
        self.reach.get(member).is_some()
    }

    /// The member that gets a packet, which may be this node.
    pub fn flow_owner(&self, packet: &[u8]) -> Option<MemberId> {
        let addresses = crate::dataplane::packet::addresses(packet)?;
        let flow = || crate::dataplane::flow::hash(packet);
        self.slots.member(self.routing.fib.lookup(&addresses.destination, flow)?)
    }

    fn is_reached(&self, now: Now, member: MemberId, announced: bool) -> bool {
        let peer = self.peers.get(&member);
        if peer.is_some_and(|peer| peer.unresponsive(now.mono)) {
            return false;
        }
        let alive = peer.is_some_and(|peer| peer.up && peer.paths.any_alive(now.mono));
        let stays = || self.reach.get(member).is_some_and(|before| !before.announced);
        announced || alive || stays()
    }
}
