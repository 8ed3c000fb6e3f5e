//! Routes from the records, and the snapshot for the data plane.

use std::collections::HashMap;
use std::sync::Arc;

use ipnet::IpNet;
use proto::id::{MemberId, RelayLabel};
use proto::key_epoch::Capabilities;

use super::{Event, Node};
use crate::dataplane::snapshot::{MemberSlot, Receivers};
use crate::dataplane::{DEFAULT_MTU, LocalPrefixes, PeerTx, Receiver, RelayHop, RelayTable, Snapshot};
use crate::membership::SourceTableBuilder;
use crate::path::PathId;
use crate::route::spf::MAX_RELAYS;
use crate::route::{FibBuilder, Graph, Offer, ShortestPaths};
use crate::time::Now;

/// Cost of the way to a member that nobody announces a link with, but whose addresses are known, in microseconds.
const UNKNOWN_WAY_US: u32 = 1_000_000;

impl Node {
    /// Computes shortest paths, the forwarding table, and the table of source addresses anew.
    pub(super) fn compute_routes(&mut self, now: Now) {
        let mut graph = Graph::new();
        for (member, entry) in self.lsdb.live(now.mono) {
            let record = entry.record();
            let relays = record.relays && self.may_relay(now, member);
            graph.announce(member, relays, record.links.iter().map(|link| (link.member, link.cost_us)));
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
            let cost_us = self.cost_to(now, member);
            for address in self.membership.addresses(now.wall, member) {
                fib.add_address(address, slot);
                sources.add_address(address, slot);
            }
            let Some(entry) = self.lsdb.get(member).filter(|entry| entry.is_live(now.mono)) else { continue };
            for subnet in &entry.record().subnets {
                if !self.membership.may_announce(now.wall, member, &subnet.prefix) {
                    continue;
                }
                fib.add_subnet(subnet.prefix, Offer { owner: slot, weight: subnet.weight, cost_us });
                sources.add_subnet(subnet.prefix, slot);
                if member != self.me.member && cost_us.is_some() && !own.contains(&subnet.prefix) {
                    prefixes.push(subnet.prefix);
                }
            }
        }
        self.routing.fib = Arc::new(fib.build());
        self.routing.sources = Arc::new(sources.build());
        prefixes.sort();
        prefixes.dedup();
        self.routing.prefixes = prefixes;
        self.dirty.snapshot = true;
    }

    /// Cost of the way to a member in microseconds; `None` while there is none.
    fn cost_to(&self, now: Now, member: MemberId) -> Option<u32> {
        if member == self.me.member {
            return Some(0);
        }
        let peer = self.peers.get(&member);
        if peer.is_some_and(|peer| peer.unresponsive(now.mono)) {
            return None;
        }
        if let Some(route) = self.routing.paths.best(member) {
            return Some(route.cost_us);
        }
        let direct = peer.filter(|peer| peer.up).and_then(|peer| peer.paths.best_direct(now.mono));
        if let Some((_, rtt)) = direct {
            return Some(u32::try_from(rtt.as_micros()).unwrap_or(u32::MAX));
        }
        let known = self.lsdb.get(member).is_some_and(|entry| !entry.record().candidates.is_empty());
        (known || peer.is_some_and(|peer| peer.up)).then_some(UNKNOWN_WAY_US)
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
            local: LocalPrefixes::new(addresses, subnets),
            relay: self.relays_now(now).then(|| self.relay_table(now)),
            copy_tos: self.settings.copy_tos,
            resend: self.resend.current(),
        };
        self.events.push_back(Event::Snapshot(Arc::new(snapshot)));
    }

    /// The way out to a peer; `None` while there is no session or no path.
    pub(super) fn peer_tx(&self, now: Now, member: MemberId) -> Option<Arc<PeerTx>> {
        let peer = self.peers.get(&member)?;
        let keypair = peer.session.sending()?;
        let primary = peer.selection.primary.and_then(|path| self.carrier(now, member, path));
        let duplicate = peer.selection.duplicate.and_then(|path| self.carrier(now, member, path));
        let (primary, duplicate) = match (primary, duplicate) {
            // A chosen path whose relay is gone: the other one alone.
            (None, Some(other)) => (other, None),
            (Some(primary), duplicate) => (primary, duplicate),
            (None, None) => return None,
        };
        Some(Arc::new(PeerTx {
            member,
            sealer: keypair.sealer.clone(),
            primary,
            duplicate,
            mtu: self.mtu_to(peer).unwrap_or(DEFAULT_MTU),
            offload: keypair.remote_capabilities.contains(Capabilities::OFFLOAD),
            silent: peer.unresponsive(now.mono),
            stats: peer.stats.clone(),
        }))
    }

    fn relay_table(&self, now: Now) -> RelayTable {
        let mut hops = vec![None; self.slots.members.len()];
        let mut members = HashMap::new();
        for (member, slot) in &self.slots.of {
            if *member == self.me.member {
                continue;
            }
            if let Some(hop) = self.relay_hop(now, *member) {
                hops[slot.index()] = Some(hop);
                members.insert(*member, *slot);
            }
        }
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
            let ways = self.routing.paths.routes(member).iter().filter(|route| route.relays > 0);
            ways.into_iter().find_map(|route| self.hop_over(now, route.first_hop, member))
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
