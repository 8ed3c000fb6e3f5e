//! How long packets to a peer may be: probes of the paths' MTUs, and what follows from their answers.

use std::net::SocketAddr;

use ipnet::IpNet;
use proto::data;
use proto::frame::Frame;
use proto::id::{MemberId, RelayLabel};

use super::control::IN_USE;
use super::{Event, Node, Peer, Route};
use crate::dataplane::{TAILROOM, relay, tx};
use crate::path::{PathId, SizeProbe};
use crate::time::Now;

impl Node {
    /// Sends a probe that is padded so that its datagram has just the length that is asked for.
    pub(super) fn send_size_probe(&mut self, now: Now, member: MemberId, probe: SizeProbe) {
        let Some(peer) = self.peers.get(&member) else { return };
        let Some(carrier) = self.carrier(now, member, probe.path) else { return };
        let Some(sealer) = peer.session.sending().map(|keypair| keypair.sealer.clone()) else { return };
        let in_use = if peer.selection.primary == Some(probe.path) { IN_USE } else { 0 };
        let frame = |padding| Frame::Probe { id: probe.id, sent_us: now.mono.0, path: in_use, padding };
        let room = probe.len.saturating_sub(carrier.overhead());
        let padding = room.saturating_sub(frame(0).encoded_len() as u16);
        let mut encoded = Vec::with_capacity(usize::from(room));
        frame(padding).emit(&mut encoded);
        if let Some(sent) = tx::seal_control(&sealer, &carrier, &encoded) {
            self.transmit_whole(sent);
        }
    }

    /// The network or this machine says that datagrams to `remote` are too long, and perhaps what would not be: `mtu`
    /// bytes with IP header; 0 if that is not known. Port 0 stands for every port.
    ///
    /// What this machine says (`local`) is believed. Anybody can forge the rest: it costs a few probes.
    pub fn handle_too_big(&mut self, now: Now, remote: SocketAddr, mtu: u32, local: bool) {
        let headers = if remote.is_ipv4() { 28 } else { 48 };
        let len = u16::try_from(mtu.saturating_sub(headers)).unwrap_or(u16::MAX);
        for (member, path) in self.paths_over(remote) {
            let Some(peer) = self.peers.get_mut(&member) else { continue };
            match local && mtu > 0 {
                true => peer.paths.limit_size(now.mono, &path, len),
                false => peer.paths.doubt_size(now.mono, &path),
            }
            self.send_probes(now, member);
            self.dirty.peers.insert(member);
        }
        self.settle(now);
    }

    /// The overlay's device takes packets of `mtu` bytes from now on, or will in a moment.
    pub fn handle_device_mtu(&mut self, now: Now, mtu: u16) {
        self.settings.mtu = mtu;
        self.dirty.snapshot = true;
        self.settle(now);
    }

    /// This machine refused to send a datagram of `len` bytes to `remote` in one piece.
    pub fn handle_refused(&mut self, now: Now, remote: SocketAddr, len: usize) {
        let longest = u16::try_from(len.saturating_sub(1)).unwrap_or(u16::MAX);
        for (member, path) in self.paths_over(remote) {
            if let Some(peer) = self.peers.get_mut(&member) {
                peer.paths.limit_size(now.mono, &path, longest);
            }
            self.send_probes(now, member);
            self.dirty.peers.insert(member);
        }
        self.settle(now);
    }

    /// Paths whose datagrams this machine sends to `remote`: those straight to it, and those through the member there.
    fn paths_over(&self, remote: SocketAddr) -> Vec<(MemberId, PathId)> {
        let leads_there = |path: &PathId| match path {
            PathId::Direct { socket, .. } if socket.is_stream() => false,
            PathId::Direct { remote: known, .. } => {
                *known == remote || (remote.port() == 0 && known.ip() == remote.ip())
            }
            PathId::Relay { .. } => false,
        };
        let mut paths = Vec::new();
        for peer in self.peers.values() {
            let Some(direct) = peer.paths.find(leads_there) else { continue };
            paths.push((peer.member, direct));
            let relayed = PathId::Relay { relay: peer.member };
            paths.extend(
                self.peers.keys().filter(|other| **other != peer.member).map(|other| (*other, relayed)),
            );
        }
        paths
    }

    /// The longest inner packet in bytes that all paths carry which a peer's packets take now.
    pub(super) fn mtu_to(&self, peer: &Peer) -> Option<u16> {
        let paths = [peer.selection.primary, peer.selection.duplicate];
        let paths = paths.iter().flatten().chain(peer.selection.spread.iter());
        paths.map(|path| self.inner_mtu(peer, *path)).min()
    }

    /// The longest inner packet that a path carries to a peer, as far as is known, in bytes.
    pub(super) fn inner_mtu(&self, peer: &Peer, path: PathId) -> u16 {
        let prefix = match path {
            PathId::Direct { .. } => 0,
            PathId::Relay { relay } => relay::prefix_len(self.label_for(relay, peer.member)),
        };
        peer.paths.datagram_len(&path).saturating_sub((prefix + data::HEADER_LEN + TAILROOM) as u16)
    }

    /// A relay's label for a member; the long form until it told one.
    pub(super) fn label_for(&self, relay: MemberId, member: MemberId) -> RelayLabel {
        let told = self.peers.get(&relay).and_then(|relay| relay.labels.get(&member));
        told.copied().unwrap_or(RelayLabel::LONG)
    }

    /// Has the data plane told when the MTU towards a peer changes. If the path is the same and carries less than it did,
    /// long packets were lost on it, and those who sent them wait for nothing: they are told.
    pub(super) fn note_mtu(&mut self, now: Now, member: MemberId) {
        let Some(peer) = self.peers.get(&member) else { return };
        let mtu = self.mtu_to(peer);
        let carries = peer.selection.primary.map(|path| (path, peer.paths.datagram_len(&path)));
        let Some(peer) = self.peers.get_mut(&member) else { return };
        let narrowed = match (peer.carried, carries) {
            (Some((before, carried)), Some((path, carries))) => before == path && carries < carried,
            _ => false,
        };
        peer.carried = carries;
        if peer.mtu != mtu {
            peer.mtu = mtu;
            self.dirty.snapshot = true;
        }
        if narrowed {
            self.narrowed.ask(now.mono, peer.slot);
            self.dirty.snapshot = true;
        }
    }

    /// Tells which routes there have to be, if that changed: the subnets of others, and those addresses of members to
    /// which the path is narrower than the device.
    pub(super) fn tell_routes(&mut self, now: Now) {
        let device = self.settings.mtu;
        let narrow = |peer: &Peer| peer.mtu.filter(|mtu| *mtu < device);
        let of_owner = |prefix: &IpNet| {
            let owners = self.routing.fib.owners(&prefix.network()).into_iter();
            owners.filter_map(|slot| narrow(self.peers.get(&self.slots.member(slot)?)?)).min()
        };
        let mut routes: Vec<Route> = self
            .routing
            .prefixes
            .iter()
            .map(|prefix| Route { prefix: *prefix, mtu: of_owner(prefix) })
            .collect();
        for peer in self.peers.values() {
            let Some(mtu) = narrow(peer) else { continue };
            let addresses = self.membership.addresses(now.wall, peer.member);
            routes.extend(
                addresses.into_iter().map(|address| Route { prefix: address.into(), mtu: Some(mtu) }),
            );
        }
        routes.sort();
        routes.dedup_by_key(|route| route.prefix);
        if routes != self.routing.told {
            self.routing.told.clone_from(&routes);
            self.events.push_back(Event::Routes(routes));
        }
        let widest = self.peers.values().filter_map(|peer| peer.mtu).max().unwrap_or(0);
        if widest > device.max(self.routing.widest) {
            self.routing.widest = widest;
            self.events.push_back(Event::Wider(widest));
        }
    }
}
