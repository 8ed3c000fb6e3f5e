//! Control frames, in and out.

use std::net::{IpAddr, SocketAddr};

use proto::data::TrailerFlags;
use proto::endpoint::{Candidate, CandidateKind};
use proto::frame::{self, Frame};
use proto::id::{MemberId, ReceiverIndex, RelayLabel};
use proto::lane::Lane;

use super::gossip::want;
use super::{Event, Node};
use crate::dataplane::fragment::Fragments;
use crate::dataplane::icmp::Error;
use crate::dataplane::meta::Checksum;
use crate::dataplane::mss;
use crate::dataplane::snapshot::MemberSlot;
use crate::dataplane::split::{Fill, Split};
use crate::dataplane::{Carrier, HEADROOM, PeerTx, TAILROOM, Via, checksum, tx};
use crate::path::{Origin, PathId, SocketId};
use crate::route::flood::Level;
use crate::time::Now;

/// Frames are packed into datagrams of at most this many bytes, or of what the path carries.
const PACK_LEN: usize = 1180;
/// In [`Frame::Probe`]: the sender's traffic takes this path.
pub(super) const IN_USE: u8 = 1;
/// In [`Frame::Probe`]: the sender wants to know what has come over this path.
const ASKS: u8 = 2;
/// In [`Frame::RelayUnknown`]: the label is unknown.
const UNKNOWN_LABEL: u8 = 0;
/// In [`Frame::RelayUnknown`]: there is no way to the destination.
const NO_ROUTE: u8 = 1;

impl Node {
    /// Takes a run of control frames that the data plane opened.
    pub(super) fn handle_control(&mut self, now: Now, receiver: ReceiverIndex, via: Via, content: &[u8]) {
        let Some(member) = self.note_arrival(now, receiver, via) else { return };
        for frame in frame::frames(content) {
            let Ok(frame) = frame else {
                self.stats.bad_frames += 1;
                return;
            };
            // A frame may end the session that the rest came on.
            if !self.peers.contains_key(&member) {
                return;
            }
            self.handle_frame(now, member, via, frame);
        }
    }

    fn handle_frame(&mut self, now: Now, member: MemberId, via: Via, frame: Frame) {
        let Some(path) = self.path_of(via) else { return };
        match frame {
            Frame::Probe { id, sent_us, path: flags, .. } => {
                let observed = match via {
                    // The port of a connection is of no use to others.
                    Via::Direct { socket, from } => (!socket.is_stream()).then_some(from),
                    Via::Relayed { .. } => None,
                };
                let in_use = u8::from(self.uses(member, path));
                let reply = Frame::ProbeReply { id, sent_us, path: in_use, observed };
                let mut frames = vec![reply];
                if flags & ASKS != 0 {
                    let arrivals = self.peers.get(&member).and_then(|peer| peer.paths.arrivals(&path));
                    frames.extend(arrivals.map(|packets| Frame::Arrived { id, packets }));
                }
                let load = self.relay_load();
                frames.extend((load > 0).then_some(Frame::Load { eighths: load }));
                self.send_frames(now, member, Some(path), &frames);
            }
            Frame::Arrived { id, packets } => {
                if let Some(peer) = self.peers.get_mut(&member) {
                    peer.paths.handle_arrivals(now.mono, id, &packets);
                    self.dirty.peers.insert(member);
                }
            }
            Frame::Load { eighths } => self.take_load(now, member, eighths),
            Frame::ProbeReply { id, observed, .. } => {
                let Some(peer) = self.peers.get_mut(&member) else { return };
                if peer.paths.handle_reply(now.mono, &path, id).is_some()
                    && let Some(observed) = observed
                    && !path.is_stream()
                {
                    self.note_reflexive(now, member, observed);
                }
                self.dirty.peers.insert(member);
            }
            Frame::Hello { boot, version, bundle_version, revocations, .. } => {
                if let Some(peer) = self.peers.get_mut(&member) {
                    peer.hello = Some((boot, version));
                }
                self.note_boot(now, member, boot);
                self.compare_trust(now, member, bundle_version, revocations);
            }
            Frame::Expect(endpoints) => self.handle_expectation(now, member, &endpoints),
            Frame::Candidates(candidates) => self.handle_candidates(now, member, candidates),
            Frame::Summary(_)
            | Frame::BucketVersions { .. }
            | Frame::Object(_)
            | Frame::Fragment { .. }
            | Frame::Get { .. }
            | Frame::Have(_)
            | Frame::Want(_)
            | Frame::GetBundles { .. }
            | Frame::Renew
            | Frame::RevocationSummary(_) => {
                if self.charge(now, member, &frame) {
                    self.handle_gossip(now, member, frame);
                }
            }
            Frame::KemKey(_) | Frame::KemCiphertext(_) if !self.charge(now, member, &frame) => {}
            Frame::KemKey(piece) => self.take_kem_key(now, member, path, &piece),
            Frame::KemCiphertext(piece) => self.take_kem_ciphertext(now, member, &piece),
            Frame::RelayLabel { destination, label } => {
                let is_member = self.membership.get(destination).is_some();
                if let Some(peer) = self.peers.get_mut(&member)
                    && is_member
                    && label >= RelayLabel::FIRST
                    && peer.labels.insert(destination, label) != Some(label)
                {
                    self.dirty.snapshot = true;
                }
            }
            Frame::RelayUnknown { label, destination, reason } => {
                let Some(peer) = self.peers.get_mut(&member) else { return };
                let labelled = peer.labels.iter().find(|(_, known)| **known == label);
                let named = labelled.map_or(destination, |(destination, _)| *destination);
                let before = peer.labels.len();
                peer.labels.retain(|known, known_label| *known != destination && *known_label != label);
                self.dirty.snapshot |= peer.labels.len() != before;
                if reason == NO_ROUTE {
                    self.doubt_path(now, named, PathId::Relay { relay: member });
                }
            }
            Frame::JoinForward { joiner, bytes } => self.take_forwarded_join(now, member, joiner, bytes),
            Frame::JoinBack { joiner, bytes } => self.return_join(now, joiner, bytes),
            Frame::Close { .. } => self.close_peer(now, member),
            Frame::Echo { id, sent_us } => {
                self.send_frames(now, member, Some(path), &[Frame::EchoReply { id, sent_us }]);
            }
            Frame::EchoReply { id, sent_us } => {
                let rtt_us = now.mono.0.saturating_sub(sent_us);
                self.events.push_back(Event::Pong { id, rtt_us, via });
            }
        }
    }

    /// Takes a frame from the allowance of a peer; `false`, and counted, when it has sent too much.
    fn charge(&mut self, now: Now, member: MemberId, frame: &Frame) -> bool {
        let len = frame.encoded_len();
        let within = self.peers.get_mut(&member).is_some_and(|peer| peer.charge(now.mono, len));
        self.stats.frames_over_budget += u64::from(!within);
        within
    }

    /// How long frames to a member may be, over `path` or over the paths that its traffic takes.
    pub(super) fn frame_room(&self, member: MemberId, path: Option<PathId>) -> usize {
        let Some(peer) = self.peers.get(&member) else { return PACK_LEN };
        let paths = match path {
            Some(path) => [Some(path), None],
            None => [peer.selection.primary, peer.selection.duplicate],
        };
        let narrowest = paths.into_iter().flatten().map(|path| usize::from(self.inner_mtu(peer, path))).min();
        narrowest.unwrap_or(PACK_LEN).min(PACK_LEN)
    }

    /// Sends frames to a member: over `path`, or over the path that its traffic takes (and the second one, while there
    /// is doubt).
    pub(super) fn send_frames(&mut self, now: Now, member: MemberId, path: Option<PathId>, frames: &[Frame]) {
        let Some(peer) = self.peers.get(&member) else { return };
        let paths = match path {
            Some(path) => [Some(path), None],
            None => [peer.selection.primary, peer.selection.duplicate],
        };
        let Some(sealer) = peer.session.sending().map(|keypair| keypair.sealer.clone()) else { return };
        let pack_len = self.frame_room(member, path);
        let mut packs: Vec<Vec<u8>> = Vec::new();
        for frame in frames {
            let mut encoded = Vec::new();
            frame.emit(&mut encoded);
            match packs.last_mut() {
                Some(pack) if pack.len() + encoded.len() <= pack_len => pack.extend_from_slice(&encoded),
                _ => packs.push(encoded),
            }
        }
        for path in paths.into_iter().flatten() {
            let Some(carrier) = self.carrier(now, member, path) else { continue };
            for pack in &packs {
                if let Some(sent) = tx::seal_control(&sealer, &carrier, pack) {
                    self.transmit(sent);
                }
            }
        }
    }

    /// Sends the probes that are due.
    pub(super) fn send_probes(&mut self, now: Now, member: MemberId) {
        if let Some(peer) = self.peers.get_mut(&member) {
            peer.count_sent(now.mono);
        }
        loop {
            let Some(peer) = self.peers.get_mut(&member) else { return };
            if peer.session.sending().is_none() {
                return;
            }
            let Some(probe) = peer.paths.poll_probe(now.mono) else { break };
            let in_use = if peer.selection.primary == Some(probe.path) { IN_USE } else { 0 };
            let path = in_use | if probe.asks { ASKS } else { 0 };
            let frame = Frame::Probe { id: probe.id, sent_us: now.mono.0, path, padding: 0 };
            self.send_frames(now, member, Some(probe.path), &[frame]);
        }
        while let Some(probe) =
            self.peers.get_mut(&member).and_then(|peer| peer.paths.poll_size_probe(now.mono))
        {
            self.send_size_probe(now, member, probe);
        }
    }

    /// The first frames of a session, over the path that proved it.
    pub(super) fn greet(&mut self, now: Now, member: MemberId, path: Option<PathId>, level: Level) {
        let hello = Frame::Hello {
            boot: self.me.boot,
            capabilities: self.me.capabilities,
            bundle_version: self.membership.trust().version(),
            revocations: self.membership.revocations().digest(),
            version: self.me.version.clone(),
        };
        let mut frames = vec![hello, Frame::Candidates(self.own_candidates())];
        frames.extend(self.records_to_greet(now, member));
        if level != Level::Records {
            frames.push(want(level));
        }
        frames.extend(self.expectation(now, member));
        self.send_frames(now, member, path, &frames);
    }

    /// Tells every peer where this node can be reached now.
    pub(super) fn announce_candidates(&mut self, now: Now) {
        let frame = Frame::Candidates(self.own_candidates());
        let up: Vec<MemberId> = self.peers.values().filter(|peer| peer.up).map(|peer| peer.member).collect();
        for member in up {
            let paths: Vec<PathId> = self.peers[&member].paths.handshake_paths(now.mono, 4);
            for path in paths {
                self.send_frames(now, member, Some(path), std::slice::from_ref(&frame));
            }
        }
    }

    /// Sends packets and pings that waited for a session and a path.
    pub(super) fn flush_waiting(&mut self, now: Now, member: MemberId) {
        let Some(tx) = self.peer_tx(now, member) else { return };
        let Some(peer) = self.peers.get_mut(&member) else { return };
        let gone = peer.expire_queue(now.mono);
        let packets: Vec<Vec<u8>> = peer.queue.drain(..).map(|(_, packet)| packet).collect();
        let pings: Vec<u32> = peer.pings.drain(..).collect();
        if !packets.is_empty() {
            peer.session.note_traffic(now.mono);
        }
        self.refuse(gone, Error::Unreachable);
        for mut packet in packets {
            match pieces(&mut packet, tx.mtu.into()) {
                Some(pieces) => pieces.iter().for_each(|piece| self.send_packet(&tx, piece)),
                None => self.refuse(vec![packet], Error::TooBig { mtu: tx.mtu }),
            }
        }
        for id in pings {
            self.send_frames(now, member, None, &[Frame::Echo { id, sent_us: now.mono.0 }]);
        }
    }

    fn send_packet(&mut self, tx: &PeerTx, packet: &[u8]) {
        // A second path may need a copy behind the first.
        let copies = if tx.duplicate.is_some() { 2 } else { 1 };
        let mut buf = vec![0; copies * (HEADROOM + packet.len() + TAILROOM)];
        let inner = HEADROOM..HEADROOM + packet.len();
        buf[inner.clone()].copy_from_slice(packet);
        let Some((first, second)) = tx::seal(tx, Lane::CONTROL, &mut buf, inner, TrailerFlags::empty())
        else {
            return;
        };
        tx.sent(None, 0, 1, packet.len(), packet.len());
        for out in [Some(first), second].into_iter().flatten() {
            self.transmit((out.socket, out.to, buf[out.range].to_vec()));
        }
    }

    fn handle_candidates(&mut self, now: Now, member: MemberId, candidates: Vec<Candidate>) {
        let Some(peer) = self.peers.get_mut(&member) else { return };
        if peer.candidates == candidates {
            return;
        }
        let first = peer.candidates.is_empty();
        peer.candidates = candidates;
        if !first {
            // The peer's addresses changed: what was measured before may no longer hold.
            peer.paths.recheck(now.mono);
        }
        self.refresh_paths(now, member);
        self.send_probes(now, member);
        self.dirty.peers.insert(member);
    }

    /// A member saw our datagrams come from `observed`.
    fn note_reflexive(&mut self, now: Now, member: MemberId, observed: SocketAddr) {
        let link_local = matches!(observed.ip(), IpAddr::V6(v6) if v6.is_unicast_link_local());
        if link_local || self.reflexive.insert(member, observed) == Some(observed) {
            return;
        }
        let before = self.lsdb.get(self.me.member).map(|own| own.view().candidates());
        if before.as_ref() != Some(&self.own_candidates()) {
            self.author_soon();
            self.announce_candidates(now);
        }
    }

    /// All paths may have changed with the underlay: probe them at once, from wherever we are now.
    pub(super) fn recheck_paths(&mut self, now: Now) {
        let members: Vec<MemberId> = self.peers.keys().copied().collect();
        for member in members {
            if let Some(peer) = self.peers.get_mut(&member) {
                peer.paths.recheck(now.mono);
            }
            self.refresh_paths(now, member);
            self.send_probes(now, member);
            self.dirty.peers.insert(member);
        }
    }

    /// As a relay: tells a neighbour our label for a destination that it relays to by name.
    pub(super) fn offer_label(&mut self, now: Now, neighbour: MemberSlot, destination: MemberId) {
        let Some(neighbour) = self.slots.member(neighbour) else { return };
        if !self.relays_now(now) || self.membership.get(destination).is_none() {
            return;
        }
        let Some(label) = self.labels.get(destination) else { return };
        self.dirty.snapshot = true;
        self.send_frames(now, neighbour, None, &[Frame::RelayLabel { destination, label }]);
    }

    /// As a relay: tells a neighbour that a destination cannot be served.
    pub(super) fn refuse_relaying(
        &mut self,
        now: Now,
        neighbour: MemberSlot,
        label: RelayLabel,
        destination: Option<MemberId>,
    ) {
        let Some(neighbour) = self.slots.member(neighbour) else { return };
        let reason = if destination.is_none() && !self.labels.of.values().any(|known| *known == label) {
            UNKNOWN_LABEL
        } else {
            NO_ROUTE
        };
        let destination = destination.unwrap_or_default();
        self.send_frames(now, neighbour, None, &[Frame::RelayUnknown { label, destination, reason }]);
    }

    fn uses(&self, member: MemberId, path: PathId) -> bool {
        self.peers.get(&member).is_some_and(|peer| peer.selection.primary == Some(path))
    }

    /// What is needed to send to a member over a path; `None` while the path cannot be used.
    pub(super) fn carrier(&self, now: Now, member: MemberId, path: PathId) -> Option<Carrier> {
        match path {
            PathId::Direct { socket, remote } => Some(Carrier::Direct { socket, to: remote }),
            PathId::Relay { relay } => {
                let via = self.peers.get(&relay)?;
                let keypair = via.session.sending()?;
                let (PathId::Direct { socket, remote }, _) = via.paths.best_direct(now.mono)? else {
                    return None;
                };
                Some(Carrier::Relayed {
                    socket,
                    to: remote,
                    hop: keypair.sealer.clone(),
                    label: self.label_for(relay, member),
                    destination: member,
                    source: self.me.member,
                })
            }
        }
    }

    /// Adds candidates of a peer that are worth probing.
    pub(super) fn add_candidates(
        &mut self,
        now: Now,
        member: MemberId,
        candidates: &[Candidate],
        origin: impl Fn(CandidateKind) -> Origin,
    ) {
        for Candidate { kind, endpoint } in candidates {
            if !self.is_dialable(*endpoint) {
                continue;
            }
            let socket = match kind {
                CandidateKind::Tcp => self.settings.dial_tcp.then_some(SocketId::TCP),
                CandidateKind::Tls => self.settings.dial_tls.then_some(SocketId::TLS),
                _ => self.socket_for(*endpoint),
            };
            let Some(socket) = socket else { continue };
            let path = PathId::Direct { socket, remote: *endpoint };
            if let Some(peer) = self.peers.get_mut(&member) {
                peer.paths.add(now.mono, path, origin(*kind));
            }
        }
    }
}

/// A packet that waited, with complete checksum, as packets of at most `mtu` bytes. `None` if it cannot be cut.
fn pieces(packet: &mut [u8], mtu: usize) -> Option<Vec<Vec<u8>>> {
    if packet.len() <= mtu {
        if mss::is_syn(packet) {
            mss::clamp(packet, u16::try_from(mtu).unwrap_or(u16::MAX), true);
        }
        return Some(vec![packet.to_vec()]);
    }
    if let Some(split) = Split::of_segment(packet, &Checksum::Complete, mtu) {
        let segment = |index| {
            let mut out = vec![0; split.len_of(index)];
            split.write(packet, index, Fill::Complete, &mut out);
            out
        };
        return Some((0..split.count()).map(segment).collect());
    }
    let identification = u32::from(checksum::sum(packet)) << 16 | packet.len() as u32;
    let fragments = Fragments::new(packet, mtu, identification)?;
    let fragment = |index| {
        let mut out = vec![0; fragments.len_of(index)];
        fragments.write(packet, index, &mut out);
        out
    };
    Some((0..fragments.count()).map(fragment).collect())
}
