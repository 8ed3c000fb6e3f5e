//! Routes from the records, and the snapshot for the data plane.

use std::collections::BTreeMap;
use std::sync::Arc;

use ipnet::IpNet;
use proto::id::{MemberId, RelayLabel};
use proto::key_epoch::Capabilities;

use super::{Event, Node};
use crate::dataplane::snapshot::{MemberSlot, Receivers};
use crate::dataplane::{
    DEFAULT_MTU, LocalPrefixes, PeerTx, Receiver, RelayHop, RelayTable, Share, Snapshot, Spread,
};
use crate::lpm::mix;
use crate::membership::SourceTableBuilder;
use crate::path::PathId;
use crate::route::spf::MAX_RELAYS;
use crate::route::{FibBuilder, Graph, Offer, Route, ShortestPaths, Way};
use crate::time::Now;

impl Node {
    /// Computes shortest paths, the forwarding table, and the table of source addresses anew.
    pub(super) fn compute_routes(&mut self, now: Now) {
        let mut graph = Graph::new();
        for (member, entry) in self.lsdb.live(now.mono) {
            let record = entry.view();
            let relays = record.relays() && self.may_relay(now, member);
            graph.announce(member, relays, record.links().map(|link| (link.member, link.cost_us)));
        }
        self.routing.paths = ShortestPaths::compute(&graph, self.me.member, MAX_RELAYS);
        self.choose_targets(now);
        self.refresh_all_paths(now);

        let mut fib = FibBuilder::new();
        let mut sources = SourceTableBuilder::new();
        let mut prefixes = Vec::new();
        let own: Vec<IpNet> = self.own_subnets(now.wall).iter().map(|subnet| subnet.prefix).collect();
        let members: Vec<MemberId> = self.membership.iter().map(|(member, _)| member).collect();
        for member in members {
            if !self.membership.is_honoured(now.wall, member) {
                continue;
            }
            let slot = self.slots.get(member);
            let way = self.way_to(now, member);
            for address in self.membership.addresses(now.wall, member) {
                fib.add_address(address, slot);
                sources.add_address(address, slot);
            }
            let Some(entry) = self.lsdb.get(member).filter(|entry| self.lsdb.is_live(entry, now.mono)) else {
                continue;
            };
            for subnet in entry.view().subnets() {
                if !self.may_route(now, member, &subnet.prefix) {
                    continue;
                }
                fib.add_subnet(
                    subnet.prefix,
                    Offer { owner: slot, weight: subnet.weight, way, salt: salt(member) },
                );
                sources.add_subnet(subnet.prefix, slot);
                if member != self.me.member && way != Way::None && !own.contains(&subnet.prefix) {
                    prefixes.push(subnet.prefix);
                }
            }
        }
        let me = self.slots.get(self.me.member);
        own.iter().for_each(|prefix| fib.add_own(*prefix, me));
        self.routing.fib = Arc::new(fib.build());
        self.routing.sources = Arc::new(sources.build());
        prefixes.sort();
        prefixes.dedup();
        if prefixes != self.routing.prefixes {
            self.routing.prefixes = prefixes;
            // No path may lead into one of them.
            self.refresh_all_paths(now);
        }
        self.dirty.snapshot = true;
        self.tell_reach(now);
    }

    /// Whether packets for a prefix may be given to a member that announces it: its certificate allows it.
    pub(super) fn may_route(&self, now: Now, member: MemberId, prefix: &IpNet) -> bool {
        if prefix.prefix_len() == 0 {
            // Nobody gets all packets because it says so: this node must have chosen it.
            return self.is_our_exit(now, member);
        }
        self.membership.may_announce(now.wall, member, prefix)
    }

    /// What is known of the way to a member.
    fn way_to(&self, now: Now, member: MemberId) -> Way {
        if member == self.me.member {
            return Way::Known;
        }
        let peer = self.peers.get(&member);
        if peer.is_some_and(|peer| peer.unresponsive(now.mono) || peer.refused) {
            return Way::None;
        }
        let direct = peer.is_some_and(|peer| peer.up && peer.paths.best_direct(now.mono).is_some());
        if direct || self.routing.paths.best(member).is_some() {
            return Way::Known;
        }
        let placed = self.lsdb.get(member).is_some_and(|entry| entry.view().has_candidates());
        if placed || peer.is_some_and(|peer| peer.up) { Way::Possible } else { Way::None }
    }

    /// Publishes a snapshot of everything that the data plane reads.
    pub(super) fn publish(&mut self, now: Now) {
        self.tell_routes(now);
        self.dirty.generation += 1;
        let mut peers: Vec<Option<Arc<PeerTx>>> = vec![None; self.slots.members.len()];
        let mut receivers = Receivers::default();
        for (member, peer) in &self.peers {
            peers[peer.slot.index()] = self.peer_tx(now, *member);
            let is_relay = self.may_relay(now, *member);
            for keypair in peer.session.keypairs() {
                receivers.insert(
                    keypair.local_index,
                    Receiver {
                        slot: peer.slot,
                        member: *member,
                        is_relay,
                        packets: self.may_carry(keypair),
                        opener: keypair.opener.clone(),
                        stats: peer.stats.clone(),
                    },
                );
            }
        }
        let addresses = self.membership.addresses(now.wall, self.me.member);
        let subnets = self.own_subnets(now.wall).iter().map(|subnet| subnet.prefix).collect();
        let snapshot = Snapshot {
            generation: self.dirty.generation,
            own: self.me.member,
            fib: self.routing.fib.clone(),
            peers,
            receivers,
            sources: self.routing.sources.clone(),
            local: LocalPrefixes::new(addresses, subnets).with_internet(self.exits_now(now)),
            relay: self.relays_now(now).then(|| self.relay_table(now)),
            copy_tos: self.settings.copy_tos,
            resend: self.resend.current(),
            narrowed: self.narrowed.current(),
        };
        self.events.push_back(Event::Snapshot(Arc::new(snapshot)));
    }

    /// The way out to a peer; `None` while there is no session or no path.
    pub(super) fn peer_tx(&self, now: Now, member: MemberId) -> Option<Arc<PeerTx>> {
        let peer = self.peers.get(&member)?;
        let keypair = peer.session.sending().filter(|keypair| self.may_carry(keypair))?;
        let primary = peer.selection.primary.and_then(|path| self.carrier(now, member, path));
        let duplicate = peer.selection.duplicate.and_then(|path| self.carrier(now, member, path));
        let (primary, duplicate) = match (primary, duplicate) {
            // A chosen path whose relay is gone: the other one alone.
            (None, Some(other)) => (other, None),
            (Some(primary), duplicate) => (primary, duplicate),
            (None, None) => return None,
        };
        let shares = peer.selection.spread.iter().filter_map(|path| {
            let PathId::Relay { relay } = path else { return None };
            let (tally, ..) = peer.tallies.get(relay)?;
            let carrier = self.carrier(now, member, *path)?;
            Some(Share { salt: salt(*relay), carrier, tally: tally.clone() })
        });
        let others: Vec<Share> = shares.collect();
        let first = match peer.selection.primary {
            Some(PathId::Relay { relay }) => salt(relay),
            _ => 0,
        };
        let spread = (!others.is_empty()).then(|| Box::new(Spread { salt: first, others }));
        Some(Arc::new(PeerTx {
            member,
            sealer: keypair.sealer.clone(),
            primary,
            duplicate,
            spread,
            mtu: self.mtu_to(peer).unwrap_or(DEFAULT_MTU),
            offload: keypair.remote_capabilities.contains(Capabilities::OFFLOAD),
            silent: peer.unresponsive(now.mono),
            stats: peer.stats.clone(),
        }))
    }

    fn relay_table(&self, now: Now) -> RelayTable {
        let mut hops = vec![None; self.slots.members.len()];
        let mut members = Vec::new();
        let mut shared: BTreeMap<(MemberSlot, RelayLabel), Arc<RelayHop>> = BTreeMap::new();
        for (member, slot) in &self.slots.of {
            if *member == self.me.member {
                continue;
            }
            if let Some(hop) = self.relay_hop(now, *member) {
                let hop = shared.entry((hop.neighbour, hop.label)).or_insert_with(|| Arc::new(hop));
                hops[slot.index()] = Some(hop.clone());
                members.push((*member, *slot));
            }
        }
        members.shrink_to_fit();
        let first = usize::from(RelayLabel::FIRST.0);
        let mut labels: Vec<Option<MemberSlot>> = vec![None; first + self.labels.of.len()];
        for (member, label) in &self.labels.of {
            labels[usize::from(label.0)] = self.slots.of.get(member).copied();
        }
        RelayTable { labels, members, hops, limit: self.settings.relay_limit }
    }

    /// The next hop towards a member, as a relay: the member itself where a direct path is alive, else the next relay on
    /// the shortest way.
    fn relay_hop(&self, now: Now, member: MemberId) -> Option<RelayHop> {
        if !self.membership.is_honoured(now.wall, member) {
            return None;
        }
        self.hop_over(now, member, member).or_else(|| {
            let best = self.routing.paths.best(member)?;
            let over = |route: Route<MemberId>| {
                (route.relays > 0).then(|| self.hop_over(now, route.first_hop, member)).flatten()
            };
            // Alternates cost more to find, and are seldom needed.
            over(best).or_else(|| self.routing.paths.routes(member).into_iter().skip(1).find_map(over))
        })
    }

    fn hop_over(&self, now: Now, neighbour: MemberId, destination: MemberId) -> Option<RelayHop> {
        let peer = self.peers.get(&neighbour)?;
        let keypair = peer.session.sending()?;
        let (PathId::Direct { socket, remote }, _) = peer.paths.best_direct(now.mono)? else { return None };
        let label = if neighbour == destination {
            RelayLabel::SELF
        } else {
            peer.labels.get(&destination).copied().unwrap_or(RelayLabel::LONG)
        };
        Some(RelayHop { neighbour: peer.slot, socket, to: remote, sealer: keypair.sealer.clone(), label })
    }
}

/// Which flows a member gets where it is one of several owners of a subnet, or of several relays.
fn salt(member: MemberId) -> u64 {
    let [a, b, c, d, e, f, g, h, ..] = member.0;
    mix(u64::from_be_bytes([a, b, c, d, e, f, g, h]))
}
