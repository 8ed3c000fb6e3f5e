//! Which members to stay connected with, which adjacencies to announce, and which paths may lead to a peer.

use std::collections::BTreeSet;
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use ipnet::IpNet;
use proto::certificate::Roles;
use proto::endpoint::{Candidate, CandidateKind, MAX_CANDIDATES};
use proto::id::{BootEpoch, MemberId, Name};
use proto::record::Link;

use super::Node;
use crate::crypto::hash;
use crate::membership;
use crate::path::{Origin, PathId, Policy};
use crate::route::spf::LOST;
use crate::time::Now;

/// Relays that a node which does not relay stays connected with.
const TARGET_RELAYS: usize = 3;
/// Of them, those of its own datacentre.
const TARGET_RELAYS_NEAR: usize = 2;
/// Other relays that a relay stays connected with.
const TARGET_RELAYS_OF_RELAY: usize = 16;
/// Members that a node stays connected with while no relay answers.
const TARGET_MEMBERS: usize = 3;
/// Links that one node announces.
pub(super) const MAX_OWN_LINKS: usize = 224;
/// A relay that has started waits so long for those who say that they are attached to it, before it says that it has lost
/// them.
const LOST_AFTER: Duration = Duration::from_secs(30);
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
    /// A node stays connected with up to three relays: two of its own datacentre, which share what stays inside, and then of
    /// as many datacentres as possible; relays stay connected with each other; and while no relay answers, any members will
    /// do, so that news still travel. Ties are broken by a hash of both ends, so that nodes spread over equal relays.
    pub(super) fn choose_targets(&mut self, now: Now) {
        let relays: Vec<(MemberId, Option<Name>)> = self
            .lsdb
            .iter()
            .filter(|(member, entry)| {
                *member != self.me.member && entry.view().relays() && self.may_relay(now, *member)
            })
            .map(|(member, entry)| (member, entry.view().datacenter()))
            .collect();
        let mut targets = BTreeSet::new();
        if self.relays_now(now) {
            let mut others: Vec<MemberId> = relays.iter().map(|(member, _)| *member).collect();
            others.sort_by_cached_key(|member| self.affinity(*member));
            targets.extend(others.into_iter().take(TARGET_RELAYS_OF_RELAY));
        } else {
            let mut left: Vec<(MemberId, Option<Name>)> = relays;
            let mut seen: BTreeSet<Option<Name>> = BTreeSet::new();
            let mut near = 0;
            while targets.len() < TARGET_RELAYS && !left.is_empty() {
                let own = &self.settings.datacenter;
                let best = left
                    .iter()
                    .enumerate()
                    .min_by_key(|(_, (member, datacenter))| {
                        let silent = self.peers.get(member).is_some_and(|peer| peer.unresponsive(now.mono));
                        let inside = own.is_some() && datacenter == own && near < TARGET_RELAYS_NEAR;
                        (silent, !inside, seen.contains(datacenter), self.affinity(*member))
                    })
                    .map(|(at, _)| at);
                let Some(best) = best else { break };
                let (member, datacenter) = left.swap_remove(best);
                near += usize::from(datacenter == self.settings.datacenter);
                seen.insert(datacenter);
                targets.insert(member);
            }
        }
        // One that was not asked twice yet may answer: when many start at once, they must not all turn to each other.
        let answering =
            targets.iter().any(|member| self.peers.get(member).is_none_or(|peer| peer.unanswered < 2));
        if !answering {
            let mut others: Vec<MemberId> = self
                .membership
                .iter()
                .map(|(member, _)| member)
                .filter(|member| *member != self.me.member && !targets.contains(member))
                .collect();
            others.sort_by_cached_key(|member| (!self.lan.has(now.mono, *member), self.affinity(*member)));
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
        self.tend_flood(now);
    }

    /// Whether a member is a neighbour in the control plane: one that we stay connected with, or, for a relay, one that
    /// says so of us. (If that held for others too, two nodes would keep each other for no other reason.)
    pub(super) fn is_adjacency(&self, member: MemberId) -> bool {
        let lists_us = || self.attached.contains(&member);
        let we_relay = || self.lsdb.get(self.me.member).is_some_and(|own| own.view().relays());
        self.targets.contains(&member) || (we_relay() && lists_us())
    }

    /// Whether the paths to a member are looked after though no traffic flows: those to neighbours, and those to an owner
    /// of subnets that does not answer, who is to have its traffic back when it does.
    pub(super) fn is_kept(&self, now: Now, member: MemberId) -> bool {
        let owns = || self.lsdb.get(member).is_some_and(|entry| entry.view().has_subnets());
        let lost = || self.peers.get(&member).is_some_and(|peer| peer.unresponsive(now.mono));
        self.is_adjacency(member) || (owns() && lost())
    }

    /// Whether keepalives are left to a member that stays connected with this node, as it says itself: those of members that do
    /// not relay come from behind their translators, and so does what they have to hear of themselves; of two relays one does.
    fn follows(&self, now: Now, member: MemberId) -> bool {
        self.attached.contains(&member)
            && self.relays_now(now)
            && (!self.announces_relay(now, member) || self.me.member > member)
    }

    /// Links to announce: adjacencies with a direct path that is alive, and as a relay the members that have lost theirs.
    pub(super) fn own_links(&mut self, now: Now) -> Vec<Link> {
        let members: Vec<MemberId> = self.peers.keys().copied().collect();
        for member in members {
            let keep = self.is_kept(now, member);
            let follow = self.follows(now, member);
            if let Some(peer) = self.peers.get_mut(&member) {
                peer.paths.set_keep(keep);
                peer.paths.set_follow(follow);
            }
        }
        let others: BTreeSet<MemberId> = self.peers.keys().chain(&self.attached).copied().collect();
        let links = others.into_iter().filter_map(|member| self.own_link(now, member));
        let (lost, alive): (Vec<Link>, Vec<Link>) = links.partition(|link| link.cost_us == LOST);
        let mut links: Vec<Link> = alive.into_iter().chain(lost).take(MAX_OWN_LINKS).collect();
        links.sort_unstable_by_key(|link| link.member);
        links
    }

    /// What to announce of the link with one member. Members that do not relay announce their attachments to relays
    /// themselves; the relay only says whom it has lost, so that its record does not grow with those whom it serves.
    pub(super) fn own_link(&self, now: Now, member: MemberId) -> Option<Link> {
        let peer = self.peers.get(&member);
        let alive = peer.filter(|peer| peer.up).and_then(|peer| peer.paths.best_direct(now.mono));
        let attaches = self.attached.contains(&member) && !self.announces_relay(now, member);
        if attaches && self.relays_now(now) {
            let settled = now.mono.since(self.started) >= LOST_AFTER;
            let lost = alive.is_none() && (settled || peer.is_some_and(|peer| peer.last_handshake.is_some()));
            return lost.then_some(Link { member, cost_us: LOST });
        }
        let (_, rtt) = alive.filter(|_| self.is_adjacency(member))?;
        let cost_us = u32::try_from(rtt.as_micros()).unwrap_or(LOST).clamp(1, LOST - 1);
        Some(Link { member, cost_us })
    }

    /// Whether a member says that it relays, and may.
    pub(super) fn announces_relay(&self, now: Now, member: MemberId) -> bool {
        self.may_relay(now, member) && self.lsdb.get(member).is_some_and(|entry| entry.view().relays())
    }

    /// Notes whether a member says that it has a link with this node.
    pub(super) fn note_attachment(&mut self, member: MemberId) {
        let me = self.me.member;
        let link = self.lsdb.get(member).and_then(|entry| entry.view().link(me));
        let lists_us = link.is_some_and(|link| link.cost_us != LOST);
        let changed = if lists_us { self.attached.insert(member) } else { self.attached.remove(&member) };
        if changed {
            self.author_soon();
        }
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
        if let Some(mapped) = self.settings.mapped {
            add(CandidateKind::Mapped, mapped);
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
        let recorded = self.lsdb.get(member).into_iter().flat_map(|entry| entry.view().candidates());
        let candidates: Vec<Candidate> = told.chain(recorded).collect();
        self.add_lan_candidates(now, member);
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
        self.charge_tolls(member);
        // An init that left before this way was known need not wait for its next turn.
        for path in fresh {
            self.send_init_over(now, member, path);
        }
    }

    /// What the configuration says about the paths to a member, with the members that it names.
    pub(super) fn policy_for(&self, now: Now, member: MemberId) -> Policy {
        let name = self.membership.get(member).map(|known| known.name());
        let carried = self.carried_networks();
        let Some(said) = name.and_then(|name| self.settings.policies.get(name)) else {
            return Policy { forbidden_networks: carried, ..Policy::default() };
        };
        // A name that is nobody's must not widen what is allowed: it stays in the list as a relay that nobody is.
        let ids = |names: &[Name]| -> Vec<MemberId> {
            names.iter().map(|name| self.membership.with_name(now.wall, name).unwrap_or_default()).collect()
        };
        Policy {
            paths: said.paths,
            via: ids(&said.via),
            forbidden_relays: ids(&said.forbidden_relays),
            forbidden_networks: [&said.forbidden_networks[..], &carried].concat(),
        }
    }

    /// Networks that this machine's routes lead into the overlay: the overlay's own, and subnets of others. A gateway's address
    /// in its subnet answers from everywhere, through the mesh. A path to it would carry the mesh over itself, and look like
    /// one inside the LAN. Where the machine is in the subnet itself, its own route comes first. Default routes
    /// lead our datagrams elsewhere by a rule.
    fn carried_networks(&self) -> Vec<IpNet> {
        let lives_in =
            |prefix: &IpNet| self.settings.interface_addresses.iter().any(|ip| prefix.contains(ip));
        let subnets =
            self.routing.prefixes.iter().filter(|prefix| prefix.prefix_len() > 0 && !lives_in(prefix));
        let own4 = self.membership.trust().current().network4.map(IpNet::from);
        let own6 = IpNet::from(membership::mesh_network6(self.membership.mesh()));
        subnets.copied().chain(own4).chain([own6]).collect()
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

    /// A member says which boot it is of. If it has restarted, no path through it is relied on before something came back over
    /// it: for a moment a relay has no way to those who have not noticed yet.
    pub(super) fn note_boot(&mut self, now: Now, member: MemberId, boot: BootEpoch) {
        if !self.peers.get_mut(&member).is_some_and(|peer| peer.note_boot(boot)) {
            return;
        }
        let others: Vec<MemberId> = self.peers.keys().copied().filter(|other| *other != member).collect();
        for other in others {
            self.doubt_path(now, other, PathId::Relay { relay: member });
        }
    }

    /// A path is probed at once, and until it answers its traffic also goes elsewhere, as does what was sent over it through a
    /// relay lately.
    pub(super) fn doubt_path(&mut self, now: Now, member: MemberId, path: PathId) {
        let Some(peer) = self.peers.get_mut(&member) else { return };
        if !peer.paths.doubt(now.mono, &path) {
            return;
        }
        let used = peer.selection.primary == Some(path) || peer.selection.spread.contains(&path);
        if used && !path.is_direct() {
            self.resend.ask(now.mono, peer.slot);
        }
        self.send_probes(now, member);
        self.dirty.peers.insert(member);
    }

    /// First hops that may relay to a member: those on announced ways to it; where no way is announced, any relay that
    /// we are connected with is worth a try.
    fn relays_towards(&self, now: Now, member: MemberId) -> BTreeSet<MemberId> {
        let usable = |relay: MemberId| {
            relay != member
                && self.may_relay(now, relay)
                && self.lsdb.get(relay).is_some_and(|entry| entry.view().relays())
                && self.peers.get(&relay).is_some_and(|peer| {
                    peer.session.sending().is_some() && peer.paths.best_direct(now.mono).is_some()
                })
        };
        let announced: BTreeSet<MemberId> = self
            .routing
            .paths
            .routes(member)
            .into_iter()
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
        // A link-local address means nothing without the link.
        let scoped =
            !matches!(endpoint, SocketAddr::V6(v6) if v6.ip().is_unicast_link_local() && v6.scope_id() == 0);
        let plain = endpoint.port() != 0 && !ip.is_unspecified() && !ip.is_multicast() && scoped;
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
