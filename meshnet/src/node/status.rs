//! What people and scripts see of a node.

use std::collections::BTreeSet;
use std::net::{IpAddr, SocketAddr};

use proto::id::{MemberId, Name};

use super::hybrid::PostQuantum;
use super::view::{CurrentPath, Decision, NodeView, PeerState, PeerView, RouteView, Warning};
use super::{Node, Peer};
use crate::membership::{Claimed, Validity};
use crate::path::PathId;
use crate::route::Route;
use crate::route::spf::LOST;
use crate::time::Now;

impl Node {
    /// The whole node.
    pub fn view(&self, now: Now) -> NodeView {
        let me = self.me.member;
        let certificate = self.membership.get(me).map(|own| own.certificate().body());
        NodeView {
            member: me,
            name: self.me.name.clone(),
            mesh: self.membership.trust().current().name.clone(),
            addresses: self.membership.addresses(now.wall, me),
            datacenter: self.settings.datacenter.clone(),
            roles: certificate.map(|certificate| certificate.roles).unwrap_or_default(),
            relays: self.relays_now(now),
            candidates: self
                .own_candidates()
                .iter()
                .filter(|candidate| !candidate.kind.is_stream())
                .map(|candidate| candidate.endpoint)
                .collect(),
            subnets: self.own_subnets(now.wall).iter().map(|subnet| (subnet.prefix, subnet.weight)).collect(),
            key_epoch: self.keys.in_use().number(),
            certificate_ends_s: certificate.map_or(0, |certificate| certificate.not_after_s),
            peers: self.peer_views(now),
            warnings: self.warnings(now),
        }
    }

    /// Every other member, by name.
    pub fn peer_views(&self, now: Now) -> Vec<PeerView> {
        let others = self.membership.iter().map(|(member, _)| member);
        let shown = others.filter(|member| {
            let honoured = self.membership.is_honoured(now.wall, *member);
            *member != self.me.member && (honoured || self.has_lately_expired(now, *member))
        });
        let mut views: Vec<PeerView> = shown.filter_map(|member| self.peer_view(now, member)).collect();
        views.sort_by(|a, b| a.name.cmp(&b.name));
        views
    }

    /// Every prefix that members announce, and who gets its packets.
    pub fn route_views(&self, now: Now) -> Vec<RouteView> {
        let mut views = Vec::new();
        for (member, entry) in self.lsdb.live(now.mono) {
            let Some(owner) = self.name_of(member) else { continue };
            let own = member == self.me.member;
            let peer = self.peers.get(&member);
            let reachable = own || peer.is_none_or(|peer| !peer.unresponsive(now.mono));
            let slot = self.slots.of.get(&member);
            let addresses = self.membership.addresses(now.wall, member).into_iter().map(|ip| (ip.into(), 0));
            let subnets = entry
                .view()
                .subnets()
                .into_iter()
                .filter(|subnet| self.may_route(now, member, &subnet.prefix))
                .map(|subnet| (subnet.prefix, subnet.weight));
            for (prefix, weight) in addresses.chain(subnets) {
                let chosen =
                    slot.is_some_and(|slot| self.routing.fib.owners(&prefix.network()).contains(slot));
                views.push(RouteView { prefix, owner: owner.clone(), weight, chosen, reachable, own });
            }
        }
        views.sort_by(|a, b| (a.prefix, a.weight, &a.owner).cmp(&(b.prefix, b.weight, &b.owner)));
        views
    }

    fn peer_view(&self, now: Now, member: MemberId) -> Option<PeerView> {
        let known = self.membership.get(member)?;
        let record = self.lsdb.get(member).map(|entry| entry.view());
        let peer = self.peers.get(&member);
        let traffic = peer.map(|peer| peer.stats.traffic()).unwrap_or_default();
        Some(PeerView {
            member,
            name: known.name().clone(),
            addresses: self.membership.addresses(now.wall, member),
            datacenter: record.and_then(|record| record.datacenter()),
            relays: record.is_some_and(|record| record.relays()) && self.may_relay(now, member),
            state: self.state_of(now, member),
            paths: peer.map(|peer| peer.path_views(now.mono)).unwrap_or_default(),
            decision: peer.filter(|peer| peer.selection.primary.is_some()).map(|peer| {
                let (reason, at) = peer.paths.last_change();
                let next_look = peer.paths.poll_timeout(now.mono).map(|at| at.since(now.mono));
                Decision { reason, age: now.mono.since(at), next_look }
            }),
            path: peer.and_then(|peer| self.current_path(now, peer)),
            rx_bytes: traffic.rx_bytes,
            tx_bytes: traffic.tx_bytes,
            last_handshake: peer.and_then(|peer| peer.last_handshake).map(|at| now.mono.since(at)),
            key_epoch: known.epochs().newest().map(|epoch| epoch.body().number),
            quantum: peer.and_then(|peer| self.quantum(peer)),
            withheld: peer.is_some_and(|peer| self.is_withheld(peer)),
            version: peer.and_then(|peer| peer.hello.as_ref()).map(|(_, version)| version.clone()),
            subnets: record
                .map(|record| record.subnets().iter().map(|subnet| (subnet.prefix, subnet.weight)).collect())
                .unwrap_or_default(),
        })
    }

    /// The shortest way to a member over announced links.
    pub fn announced_way(&self, member: MemberId) -> Option<Route<MemberId>> {
        self.routing.paths.best(member)
    }

    /// Records and pieces of objects that wait for something, which is bounded.
    pub fn gossip_len(&self) -> usize {
        self.gossip.len() + self.peers.values().map(Peer::reassembly_len).sum::<usize>()
    }

    /// Whether a member's certificate and the grace after it are over, and not for so long that it has gone out of mind.
    fn has_lately_expired(&self, now: Now, member: MemberId) -> bool {
        let ended_s = self.membership.get(member).map_or(0, |known| known.certificate().body().not_after_s);
        self.membership.validity(now.wall, member) == Some(Validity::Expired)
            && now.wall.seconds().saturating_sub(ended_s) < SHOWN_FOR_S
    }

    fn state_of(&self, now: Now, member: MemberId) -> PeerState {
        if self.membership.validity(now.wall, member) == Some(Validity::Expired) {
            return PeerState::Expired;
        }
        let has_way = self.announced_way(member).is_some()
            || self.lsdb.get(member).is_some_and(|entry| entry.view().has_candidates());
        let Some(peer) = self.peers.get(&member) else {
            return if has_way { PeerState::Idle } else { PeerState::Unreachable };
        };
        if peer.unresponsive(now.mono) {
            return PeerState::Unreachable;
        }
        if peer.refused {
            return PeerState::Unreachable;
        }
        if !peer.up {
            return if peer.session.is_initiating() { PeerState::Connecting } else { PeerState::Idle };
        }
        match peer.selection.primary {
            Some(PathId::Direct { .. }) => PeerState::Direct,
            Some(PathId::Relay { .. }) => PeerState::Relayed,
            None => PeerState::Connecting,
        }
    }

    fn current_path(&self, now: Now, peer: &Peer) -> Option<CurrentPath> {
        let id = peer.selection.primary.filter(|_| peer.up)?;
        let keypair = peer.session.sending()?;
        let quality = peer.paths.quality(&id).unwrap_or_default();
        let (remote, via) = match id {
            PathId::Direct { remote, .. } => (remote, Vec::new()),
            PathId::Relay { relay } => {
                (self.relay_endpoint(now, relay)?, self.names_towards(relay, peer.member))
            }
        };
        let by_stream = match id {
            PathId::Direct { .. } => id.is_stream(),
            PathId::Relay { relay } => self
                .peers
                .get(&relay)
                .and_then(|relay| relay.paths.best_direct(now.mono))
                .is_some_and(|(first, _)| first.is_stream()),
        };
        Some(CurrentPath {
            remote,
            by_stream,
            via,
            rtt: quality.rtt(),
            loss: quality.loss(),
            mtu: self.inner_mtu(peer, id).min(self.settings.mtu),
            suite: keypair.suite,
        })
    }

    fn relay_endpoint(&self, now: Now, relay: MemberId) -> Option<SocketAddr> {
        match self.peers.get(&relay)?.paths.best_direct(now.mono)? {
            (PathId::Direct { remote, .. }, _) => Some(remote),
            (PathId::Relay { .. }, _) => None,
        }
    }

    /// The relays on the way, as far as they are known: the first hop, then what the records say.
    fn names_towards(&self, first: MemberId, destination: MemberId) -> Vec<Name> {
        let adjacent = |a: MemberId, b: MemberId| {
            let says = |a: MemberId, b: MemberId| {
                let link = self.lsdb.get(a).and_then(|entry| entry.view().link(b));
                link.is_some_and(|link| link.cost_us != LOST)
            };
            says(a, b) || says(b, a)
        };
        let mut names: Vec<Name> = self.name_of(first).into_iter().collect();
        if !adjacent(first, destination) {
            let second = self.lsdb.iter().map(|(member, _)| member).find(|second| {
                *second != self.me.member && adjacent(first, *second) && adjacent(*second, destination)
            });
            names.extend(second.and_then(|second| self.name_of(second)));
        }
        names
    }

    fn warnings(&self, now: Now) -> Vec<Warning> {
        let me = self.me.member;
        let mut warnings = Vec::new();
        for clash in self.membership.clashes(now.wall) {
            if let (Some(loser), Some(holder)) = (self.name_of(clash.loser), self.name_of(clash.winner)) {
                let over = match clash.over {
                    Claimed::Address(address) => Some(address),
                    Claimed::Name(_) => None,
                };
                warnings.push(Warning::Clash { loser, holder, over });
            }
        }
        if let Some(own) = self.membership.get(me) {
            let ends_s = own.certificate().body().not_after_s;
            let seconds_left = ends_s as i64 - now.wall.seconds() as i64;
            let validity = self.membership.validity(now.wall, me);
            if validity == Some(Validity::Expired) {
                // The rest follows from it.
                return vec![Warning::CertificateEnds { seconds_left }];
            }
            if validity != Some(Validity::Valid) || seconds_left < ENDS_SOON_S {
                warnings.push(Warning::CertificateEnds { seconds_left });
            }
        }
        if self.membership.revocations().has_member(me) {
            // The rest follows from it.
            return vec![Warning::Revoked];
        }
        let announced = self.own_subnets(now.wall);
        for subnet in self.settings.subnets.iter().filter(|subnet| !announced.contains(subnet)) {
            warnings.push(Warning::SubnetNotCertified(subnet.prefix));
        }
        let named = self.settings.policies.iter().flat_map(|(peer, policy)| {
            std::iter::once(peer).chain(&policy.via).chain(&policy.forbidden_relays)
        });
        let unknown: BTreeSet<&Name> =
            named.filter(|name| self.membership.with_name(now.wall, name).is_none()).collect();
        warnings.extend(unknown.into_iter().cloned().map(Warning::NoSuchMember));
        if self.settings.relay && !self.may_relay(now, me) {
            warnings.push(Warning::NoRelayRole);
        }
        for peer in self.peers.values().filter(|peer| peer.refused) {
            let required_here = self.settings.pq == PostQuantum::Require;
            let name = self.name_of(peer.member);
            warnings.extend(name.map(|peer| Warning::NotPostQuantum { peer, required_here }));
        }
        if self.settings.exit && !self.may_exit(now, me) {
            warnings.push(Warning::NoExitRole);
        }
        if let Some(name) = &self.settings.exit_node
            && !self.exits(now).iter().any(|exit| exit.used)
        {
            warnings.push(Warning::NoSuchExit(name.clone()));
        }
        if self.membership.len() > 1 && !self.peers.values().any(|peer| peer.up) {
            warnings.push(Warning::Alone);
        }
        warnings
    }

    /// The member that an overlay address belongs to.
    pub fn member_at(&self, now: Now, address: &IpAddr) -> Option<MemberId> {
        self.membership.owner(now.wall, address)
    }
}

/// Members whose certificates ended longer ago, in seconds, are not shown any more.
const SHOWN_FOR_S: u64 = 90 * 24 * 3600;
/// A certificate that ends within this many seconds is warned about: less than a third of the lifetime is left.
const ENDS_SOON_S: i64 = 14 * 24 * 3600;
