//! Which members to stay connected with, which adjacencies to announce, and which paths may lead to a peer.

use std::collections::BTreeSet;
use std::net::{IpAddr, SocketAddr};

use proto::certificate::Roles;
use proto::endpoint::{Candidate, CandidateKind, MAX_CANDIDATES};
use proto::id::{MemberId, Name};
use proto::record::Link;

use super::Node;
use crate::crypto::hash;
use crate::membership;
use crate::path::{Origin, PathId, Policy};
use crate::time::Now;

/// Relays that a node which does not relay stays connected with.
const TARGET_RELAYS: usize = 3;
/// Other relays that a relay stays connected with.
const TARGET_RELAYS_OF_RELAY: usize = 16;
/// Members that a node stays connected with while no relay answers.
const TARGET_MEMBERS: usize = 3;
/// Links that one node announces.
pub(super) const MAX_OWN_LINKS: usize = 224;
/// Reflexive endpoints announced, at most.
const MAX_REFLEXIVE: usize = 4;
/// Endpoints on TCP announced, at most.
const MAX_STREAM_CANDIDATES: usize = 4;

impl Node {
    /// Whether this node relays for others: it is asked to, and its certificate says that it may.
    pub(super) fn relays_now(&self, now: Now) -> bool {
        self.settings.relay && self.may_relay(now, self.me.member)
    }

    pub(super) fn may_relay(&self, now: Now, member: MemberId) -> bool {
        self.membership.is_honoured(now.wall, member)
            && self
                .membership
                .get(member)
                .is_some_and(|known| known.certificate().body().roles.contains(Roles::RELAY))
    }

    /// Chooses whom to stay connected with.
    ///
    /// A node stays connected with up to three relays, its own datacentre's first and then of as many datacentres as
    /// possible; relays stay connected with each other; and while no relay answers, any members will do, so that news
    /// still travel. Ties are broken by a hash of both ends, so that nodes spread over equal relays.
    pub(super) fn choose_targets(&mut self, now: Now) {
        let relays: Vec<(MemberId, Option<Name>)> = self
            .lsdb
            .iter()
            .filter(|(member, entry)| {
                *member != self.me.member && entry.record().relays && self.may_relay(now, *member)
            })
            .map(|(member, entry)| (member, entry.record().datacenter.clone()))
            .collect();
        let mut targets = BTreeSet::new();
        if self.relays_now(now) {
            let mut others: Vec<MemberId> = relays.iter().map(|(member, _)| *member).collect();
            others.sort_by_key(|member| self.affinity(*member));
            targets.extend(others.into_iter().take(TARGET_RELAYS_OF_RELAY));
        } else {
            let mut left: Vec<(MemberId, Option<Name>)> = relays;
            let mut seen: BTreeSet<Option<Name>> = BTreeSet::new();
            while targets.len() < TARGET_RELAYS && !left.is_empty() {
                let own = &self.settings.datacenter;
                let best = left
                    .iter()
                    .enumerate()
                    .min_by_key(|(_, (member, datacenter))| {
                        let silent = self.peers.get(member).is_some_and(|peer| peer.unresponsive(now.mono));
                        let foreign = own.is_none() || datacenter != own;
                        (silent, seen.contains(datacenter), foreign, self.affinity(*member))
                    })
                    .map(|(at, _)| at);
                let Some(best) = best else { break };
                let (member, datacenter) = left.swap_remove(best);
                seen.insert(datacenter);
                targets.insert(member);
            }
        }
        let answering = targets
            .iter()
            .any(|member| self.peers.get(member).is_some_and(|peer| peer.up && peer.unanswered < 2));
        if !answering {
            let mut others: Vec<MemberId> = self
                .membership
                .iter()
                .map(|(member, _)| member)
                .filter(|member| *member != self.me.member && !targets.contains(member))
                .collect();
            others.sort_by_key(|member| self.affinity(*member));
            targets.extend(others.into_iter().take(TARGET_MEMBERS));
        }
        let dropped: Vec<MemberId> = self.targets.difference(&targets).copied().collect();
        self.targets = targets;
        for member in dropped {
            let keep = self.is_kept(now, member);
            if let Some(peer) = self.peers.get_mut(&member) {
                peer.paths.set_keep(keep);
            }
        }
        for member in self.targets.clone() {
            self.want(now, member);
            if let Some(peer) = self.peers.get_mut(&member) {
                peer.paths.set_keep(true);
            }
            self.revive_if_dead(now, member);
        }
    }

    /// Whether a member is a neighbour in the control plane: one that we stay connected with, or, for a relay, one that
    /// says so of us. (If that held for others too, two nodes would keep each other for no other reason.)
    pub(super) fn is_adjacency(&self, member: MemberId) -> bool {
        let record = |of: MemberId| self.lsdb.get(of).map(|entry| entry.record());
        let lists_us = || {
            record(member).is_some_and(|record| record.links.iter().any(|link| link.member == self.me.member))
        };
        let we_relay = || record(self.me.member).is_some_and(|own| own.relays);
        self.targets.contains(&member) || (we_relay() && lists_us())
    }

    /// Whether the paths to a member are looked after though no traffic flows: those to neighbours, and those to an owner
    /// of subnets that does not answer, who is to have its traffic back when it does.
    pub(super) fn is_kept(&self, now: Now, member: MemberId) -> bool {
        let owns = || self.lsdb.get(member).is_some_and(|entry| !entry.record().subnets.is_empty());
        let lost = || self.peers.get(&member).is_some_and(|peer| peer.unresponsive(now.mono));
        self.is_adjacency(member) || (owns() && lost())
    }

    /// Links to announce: adjacencies with a direct path that is alive.
    pub(super) fn own_links(&mut self, now: Now) -> Vec<Link> {
        let mut links = Vec::new();
        let members: Vec<MemberId> = self.peers.keys().copied().collect();
        for member in members {
            let (adjacent, keep) = (self.is_adjacency(member), self.is_kept(now, member));
            let Some(peer) = self.peers.get_mut(&member) else { continue };
            peer.paths.set_keep(keep);
            if !adjacent || !peer.up || links.len() >= MAX_OWN_LINKS {
                continue;
            }
            if let Some((_, rtt)) = peer.paths.best_direct(now.mono) {
                let cost_us = u32::try_from(rtt.as_micros()).unwrap_or(u32::MAX).max(1);
                links.push(Link { member, cost_us });
            }
        }
        links
    }

    /// Where this node may be reached: configured endpoints, its interfaces, and where others saw it.
    pub(super) fn own_candidates(&self) -> Vec<Candidate> {
        let mut candidates: Vec<Candidate> = Vec::new();
        let mut add = |kind, endpoint: SocketAddr| {
            let same = |known: &Candidate| {
                known.endpoint == endpoint && known.kind.is_stream() == CandidateKind::is_stream(kind)
            };
            let new = !candidates.iter().any(same);
            if new && candidates.len() < MAX_CANDIDATES {
                candidates.push(Candidate { kind, endpoint });
            }
        };
        for endpoint in &self.settings.endpoints {
            add(CandidateKind::Configured, *endpoint);
        }
        for (kind, endpoint) in self.stream_candidates().into_iter().take(MAX_STREAM_CANDIDATES) {
            add(kind, endpoint);
        }
        let reflexive: BTreeSet<SocketAddr> = self.reflexive.values().copied().collect();
        let on_interface = |endpoint: &SocketAddr| self.settings.interface_addresses.contains(&endpoint.ip());
        for endpoint in reflexive.iter().filter(|endpoint| !on_interface(endpoint)).take(MAX_REFLEXIVE) {
            add(CandidateKind::Reflexive, *endpoint);
        }
        for socket in &self.settings.sockets {
            for address in &self.settings.interface_addresses {
                let usable = if address.is_ipv4() { socket.ipv4 } else { socket.ipv6 };
                if usable && socket.bound.is_none_or(|bound| bound == *address) {
                    add(CandidateKind::Interface, SocketAddr::new(*address, socket.port));
                }
            }
        }
        candidates
    }

    /// Where the node listens on TCP: at its configured addresses first.
    fn stream_candidates(&self) -> Vec<(CandidateKind, SocketAddr)> {
        let configured = self.settings.endpoints.iter().map(SocketAddr::ip);
        let addresses: Vec<IpAddr> =
            configured.chain(self.settings.interface_addresses.iter().copied()).collect();
        let mut candidates = Vec::new();
        for socket in &self.settings.streams {
            let kind = if socket.tls { CandidateKind::Tls } else { CandidateKind::Tcp };
            for (at, address) in addresses.iter().enumerate() {
                let served = if address.is_ipv4() { socket.ipv4 } else { socket.ipv6 };
                // A configured address may be a translator's, which leads here.
                let here =
                    at < self.settings.endpoints.len() || socket.bound.is_none_or(|bound| bound == *address);
                let candidate = (at, kind, SocketAddr::new(*address, socket.port));
                if served
                    && here
                    && !candidates.iter().any(|(_, kind, at)| (kind, at) == (&candidate.1, &candidate.2))
                {
                    candidates.push(candidate);
                }
            }
        }
        // One address of each listener before the second of any.
        candidates.sort_by_key(|(at, _, _)| *at);
        candidates.into_iter().map(|(_, kind, endpoint)| (kind, endpoint)).collect()
    }

    /// Brings the candidates and relays of one peer up to date with what the records say.
    pub(super) fn refresh_paths(&mut self, now: Now, member: MemberId) {
        let policy = self.policy_for(now, member);
        let Some(peer) = self.peers.get_mut(&member) else { return };
        peer.paths.set_policy(now.mono, policy);
        let told = peer.candidates.iter().copied();
        let recorded =
            self.lsdb.get(member).into_iter().flat_map(|entry| entry.record().candidates.iter().copied());
        let candidates: Vec<Candidate> = told.chain(recorded).collect();
        self.add_candidates(now, member, &candidates, Origin::Announced);
        let relays = self.relays_towards(now, member);
        let Some(peer) = self.peers.get_mut(&member) else { return };
        peer.paths.retain_relays(|relay| relays.contains(relay));
        let initiating = peer.session.is_initiating();
        let mut fresh = Vec::new();
        for relay in relays {
            let path = PathId::Relay { relay };
            if peer.paths.add(now.mono, path, Origin::Relay) && initiating {
                fresh.push(path);
            }
        }
        // An init that left before this way was known need not wait for its next turn.
        for path in fresh {
            self.send_init_over(now, member, path);
        }
    }

    /// What the configuration says about the paths to a member, with the members that it names.
    fn policy_for(&self, now: Now, member: MemberId) -> Policy {
        let name = self.membership.get(member).map(|known| known.name());
        let Some(said) = name.and_then(|name| self.settings.policies.get(name)) else {
            return Policy::default();
        };
        // A name that is nobody's must not widen what is allowed: it stays in the list as a relay that nobody is.
        let ids = |names: &[Name]| -> Vec<MemberId> {
            names.iter().map(|name| self.membership.with_name(now.wall, name).unwrap_or_default()).collect()
        };
        Policy {
            paths: said.paths,
            via: ids(&said.via),
            forbidden_relays: ids(&said.forbidden_relays),
            forbidden_networks: said.forbidden_networks.clone(),
        }
    }

    pub(super) fn refresh_all_paths(&mut self, now: Now) {
        let members: Vec<MemberId> = self.peers.keys().copied().collect();
        for member in members {
            self.refresh_paths(now, member);
            self.dirty.peers.insert(member);
        }
    }

    /// A session or path with a relay changed: paths through it may have come or gone.
    pub(super) fn relay_changed(&mut self, now: Now, relay: MemberId) {
        if !self.may_relay(now, relay) {
            return;
        }
        let members: Vec<MemberId> = self.peers.keys().copied().filter(|member| *member != relay).collect();
        for member in members {
            self.refresh_paths(now, member);
            self.send_probes(now, member);
            self.dirty.peers.insert(member);
        }
    }

    /// First hops that may relay to a member: those on announced ways to it; where no way is announced, any relay that
    /// we are connected with is worth a try.
    fn relays_towards(&self, now: Now, member: MemberId) -> BTreeSet<MemberId> {
        let usable = |relay: MemberId| {
            relay != member
                && self.may_relay(now, relay)
                && self.lsdb.get(relay).is_some_and(|entry| entry.record().relays)
                && self.peers.get(&relay).is_some_and(|peer| {
                    peer.session.sending().is_some() && peer.paths.best_direct(now.mono).is_some()
                })
        };
        let announced: BTreeSet<MemberId> = self
            .routing
            .paths
            .routes(member)
            .iter()
            .filter(|route| route.relays > 0)
            .map(|route| route.first_hop)
            .filter(|relay| usable(*relay))
            .collect();
        if !announced.is_empty() {
            return announced;
        }
        self.peers.keys().copied().filter(|relay| usable(*relay)).take(TARGET_RELAYS).collect()
    }

    /// Whether an endpoint may be sent to: never one inside the overlay, which would carry the mesh over itself.
    pub(super) fn is_dialable(&self, endpoint: SocketAddr) -> bool {
        let ip = endpoint.ip();
        let plain = endpoint.port() != 0 && !ip.is_unspecified() && !ip.is_multicast();
        let own = self.settings.interface_addresses.contains(&ip)
            && self.settings.sockets.iter().any(|socket| socket.port == endpoint.port());
        plain && !own && !self.in_overlay(ip)
    }

    fn in_overlay(&self, ip: IpAddr) -> bool {
        match ip {
            IpAddr::V4(v4) => {
                self.membership.trust().current().network4.is_some_and(|network| network.contains(&v4))
            }
            IpAddr::V6(v6) => membership::mesh_network6(self.membership.mesh()).contains(&v6),
        }
    }

    pub(super) fn affinity(&self, member: MemberId) -> [u8; 32] {
        let (a, b) = (self.me.member.min(member), self.me.member.max(member));
        hash(&[b"meshnet affinity", &a.0, &b.0])
    }
}
