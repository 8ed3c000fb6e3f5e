//! Handshake datagrams, and when to make sessions.

use std::sync::atomic::Ordering;
use std::time::Duration;

use proto::arrivals::LENGTHS;
use proto::certificate::Certificate;
use proto::datagram::Kind;
use proto::handshake::{Attachment, InitPayload};
use proto::id::{MemberId, ReceiverIndex, TransportKey};
use proto::key_epoch::KeyEpoch;
use proto::signed::Signed;
use rand::Rng;

use super::peer::Peer;
use super::{Event, Node};
use crate::dataplane::icmp::Error;
use crate::dataplane::{Carrier, Via, tx};
use crate::path::{IDLE_AFTER, PathId};
use crate::session::{
    Accepted, CookieOutcome, DropReason, EpochHash, InitOutcome, OpenedInit, Origin, RemoteEpoch,
    ResponseOutcome, Session, SessionEvent,
};
use crate::time::Now;

/// Paths that one init goes out by, at most.
const MAX_INIT_PATHS: usize = 8;
/// A peer that nobody needs is forgotten after this long.
const FORGET_AFTER: Duration = Duration::from_secs(600);

impl Node {
    /// Takes a handshake or join datagram that nobody has authenticated yet.
    pub(super) fn handle_datagram(&mut self, now: Now, via: Via, datagram: &[u8]) {
        match Kind::of(datagram) {
            Some(Kind::Init) => self.handle_init(now, via, datagram),
            Some(Kind::Response) => self.handle_response(now, via, datagram),
            Some(Kind::Cookie) => self.handle_cookie(now, via, datagram),
            Some(Kind::StaleKey) => self.handle_stale_key(now, datagram),
            Some(Kind::Join) => self.handle_join(now, via, datagram),
            Some(Kind::Data | Kind::Relay) | None => {}
        }
    }

    /// Takes a packet whose owner has no session yet.
    pub(super) fn handle_packet(&mut self, now: Now, packet: Vec<u8>) {
        if crate::dataplane::packet::addresses(&packet).is_none() {
            return;
        }
        let Some(member) = self.flow_owner(&packet).filter(|member| *member != self.me.member) else {
            self.refuse(vec![packet], Error::NoRoute);
            return;
        };
        if self.want(now, member).is_none() {
            self.refuse(vec![packet], Error::Unreachable);
            return;
        }
        self.note_traffic(now, member);
        if self.peers.get(&member).is_some_and(|peer| self.is_refused(peer)) {
            self.refuse(vec![packet], Error::Prohibited);
            return;
        }
        let unresponsive = self.peers.get(&member).is_some_and(|peer| peer.unresponsive(now.mono));
        if unresponsive {
            // It may answer yet, so the packet waits; but whoever sent it need not.
            self.events.push_back(Event::Undeliverable { packet: packet.clone(), error: Error::Unreachable });
        }
        if let Some(peer) = self.peers.get_mut(&member) {
            let gone = peer.enqueue(now.mono, packet);
            self.refuse(gone, Error::Unreachable);
        }
        self.flush_waiting(now, member);
    }

    /// Counts packets that cannot be sent, and has their senders told.
    pub(super) fn refuse(&mut self, packets: Vec<Vec<u8>>, error: Error) {
        for packet in packets {
            self.stats.packets_dropped += 1;
            self.events.push_back(Event::Undeliverable { packet, error });
        }
    }

    /// Traffic flows to or from a member.
    pub(super) fn note_traffic(&mut self, now: Now, member: MemberId) {
        let Some(peer) = self.peers.get_mut(&member) else { return };
        peer.needed = now.mono;
        peer.session.note_traffic(now.mono);
        let rate = peer.rate(now.mono);
        if peer.stats.large.swap(false, Ordering::Relaxed) {
            peer.paths.note_large(now.mono, rate);
        }
        if peer.paths.traffic(now.mono) {
            self.refresh_paths(now, member);
            self.send_expectation(now, member);
            self.send_probes(now, member);
        }
        self.revive_if_dead(now, member);
        self.dirty.peers.insert(member);
    }

    /// Asks for a session with a member. `None` when its key is not known.
    pub(super) fn want(&mut self, now: Now, member: MemberId) -> Option<()> {
        self.ensure_peer(now, member)?;
        self.refresh_paths(now, member);
        let peer = self.peers.get_mut(&member)?;
        peer.needed = now.mono;
        peer.session.want(now);
        peer.session.handle_timeout(now, &mut self.handshaker);
        self.drain_session(now, member);
        self.dirty.peers.insert(member);
        Some(())
    }

    /// The peer for `member`, made if it is not there. `None` when it is no member or its key is not known.
    fn ensure_peer(&mut self, now: Now, member: MemberId) -> Option<&mut Peer> {
        if member == self.me.member || !self.membership.is_honoured(now.wall, member) {
            return None;
        }
        if !self.peers.contains_key(&member) {
            let remote = remote_epoch(self.membership.get(member)?.epochs().newest()?);
            let slot = self.slots.get(member);
            let session = Session::new(member, remote);
            let mut probe_key = [0; 16];
            self.rng.fill_bytes(&mut probe_key);
            let peer = Peer::new(now.mono, member, slot, session, probe_key);
            self.peers.insert(member, peer);
        }
        self.peers.get_mut(&member)
    }

    /// Acts on what a session asks for.
    pub(super) fn drain_session(&mut self, now: Now, member: MemberId) {
        while let Some(event) = self.peers.get_mut(&member).and_then(|peer| peer.session.poll_event()) {
            match event {
                SessionEvent::NeedInit => self.send_init(now, member),
                SessionEvent::RepeatInit => self.spread_init(now, member),
                SessionEvent::KeysChanged | SessionEvent::Expired(_) => self.dirty.snapshot = true,
                SessionEvent::KemDue => self.send_kem_key(now, member),
                SessionEvent::GaveUp => self.give_up(now, member),
            }
        }
        self.note_end(now, member);
    }

    fn send_init(&mut self, now: Now, member: MemberId) {
        let Some(peer) = self.peers.get_mut(&member) else { return };
        if peer.paths.is_idle(now.mono) && now.mono.since(peer.needed) > IDLE_AFTER {
            // New keys for a session that nobody needs would keep it alive for ever: the greeting counts as use.
            return;
        }
        let introduce = !peer.knows_us || peer.unanswered > 0 || !self.knows_our_key(member);
        let key_epoch = self.keys.in_use().signed.to_bytes();
        let Some(peer) = self.peers.get_mut(&member) else { return };
        let mut attachments = Vec::new();
        // Whoever does not answer may have been started anew, from a cache without us.
        if introduce {
            attachments.push(Attachment::Certificate(&self.me.certificate));
            attachments.push(Attachment::KeyEpoch(&key_epoch));
            attachments.extend(self.me.issuer.as_deref().map(Attachment::IssuerCertificate));
        }
        let made = peer.session.initiate(now, &mut self.handshaker, &attachments);
        if made.is_err() {
            // A certificate too large to go along: the responder has to know it from the records.
            let _ = peer.session.initiate(now, &mut self.handshaker, &[]);
        }
        peer.unanswered = peer.unanswered.saturating_add(1);
        let works = if peer.session.take_routine() { peer.paths.trusted(now.mono) } else { None };
        if peer.unanswered == 2 {
            self.routing.timer.changed(now.mono);
        }
        // What replaces keys that work goes by the path that works; by the others if that is not answered.
        match works {
            Some(path) => self.send_init_over(now, member, path),
            None => self.spread_init(now, member),
        }
    }

    /// Sends the init that is under way over every path worth trying.
    pub(super) fn spread_init(&mut self, now: Now, member: MemberId) {
        self.refresh_paths(now, member);
        let Some(peer) = self.peers.get(&member) else { return };
        for path in peer.paths.handshake_paths(now.mono, MAX_INIT_PATHS) {
            self.send_init_over(now, member, path);
        }
    }

    /// Sends the init that is under way over one more path.
    pub(super) fn send_init_over(&mut self, now: Now, member: MemberId, path: PathId) {
        let Some(carrier) = self.carrier(now, member, path) else { return };
        let to = match &carrier {
            Carrier::Direct { to, .. } => Some(*to),
            Carrier::Relayed { .. } => None,
        };
        let init = self.peers.get(&member).and_then(|peer| peer.session.pending_init(now, to));
        if let Some(sent) = init.and_then(|init| tx::carry(&carrier, &init)) {
            self.transmit(sent);
        }
    }

    fn handle_init(&mut self, now: Now, via: Via, datagram: &[u8]) {
        let origin = match via {
            Via::Direct { from, .. } => Origin::Direct(from),
            Via::Relayed { source: Some(source), .. } => Origin::Relayed(source),
            Via::Relayed { source: None, .. } => return,
        };
        match self.handshaker.open_init(now, origin, datagram) {
            InitOutcome::Drop(_) => {}
            InitOutcome::Cookie(answer) | InitOutcome::StaleKey(answer) | InitOutcome::Duplicate(answer) => {
                self.answer(now, via, &answer);
            }
            InitOutcome::Opened(opened) => self.accept_init(now, via, *opened),
        }
    }

    fn accept_init(&mut self, now: Now, via: Via, opened: OpenedInit) {
        let Some(member) = self.identify(now, &opened) else {
            self.stats.strangers += 1;
            if let Some(newest) = self.newest_of_retired(&opened.remote_static, &opened.payload()) {
                let answer = self.handshaker.stale_answer(opened.sender, &newest);
                self.answer(now, via, &answer);
            }
            return;
        };
        if let Via::Relayed { source, .. } = via
            && source != Some(member)
        {
            self.stats.strangers += 1;
            return;
        }
        let remote = self
            .membership
            .get(member)
            .and_then(|known| known.epochs().with_key(&opened.remote_static))
            .map(remote_epoch);
        let Some(remote) = remote else { return };
        if self.ensure_peer(now, member).is_none() {
            self.stats.strangers += 1;
            return;
        }
        let Some(peer) = self.peers.get_mut(&member) else { return };
        let accepted = peer.session.accept_init(now, &mut self.handshaker, opened, &remote);
        self.drain_session(now, member);
        match accepted {
            Accepted::Response(answer) => {
                self.seen.note();
                self.refresh_paths(now, member);
                if let (Some(path), Some(peer)) = (self.path_of(via), self.peers.get_mut(&member)) {
                    peer.paths.add(now.mono, path, crate::path::Origin::Heard);
                }
                self.dirty.snapshot = true;
                self.answer(now, via, &answer);
            }
            Accepted::Challenge(answer) => self.answer(now, via, &answer),
            Accepted::Drop(DropReason::TieBreak) => {
                // Our init goes first, and this way works: the peer may not have heard of it by any other.
                if let Some(path) = self.path_of(via) {
                    self.send_init_over(now, member, path);
                }
            }
            Accepted::Drop(_) => {}
        }
        self.dirty.peers.insert(member);
    }

    /// Whose key an init was made with: a member's that is known, or one that its attachments make known.
    fn identify(&mut self, now: Now, opened: &OpenedInit) -> Option<MemberId> {
        let key = opened.remote_static;
        if let Some((member, _)) = self.membership.with_key(&key) {
            return self.membership.is_honoured(now.wall, member).then_some(member);
        }
        let payload = opened.payload();
        let member = self.learn_attachments(now, &payload, &key)?;
        self.membership.is_honoured(now.wall, member).then_some(member)
    }

    /// Who comes with a retired key of a member's, and that member's signature for it, was restored from an old backup, or
    /// has found an old key. The newest epoch helps the one, and tells the other nothing that members do not know.
    pub(super) fn newest_of_retired(&self, key: &TransportKey, payload: &InitPayload<'_>) -> Option<Vec<u8>> {
        let epoch = payload.attachments.iter().find_map(|attachment| match attachment {
            Attachment::KeyEpoch(bytes) => Signed::<KeyEpoch>::parse(bytes).ok(),
            _ => None,
        })?;
        let known = self.membership.get(epoch.body().member)?;
        let newest = known.epochs().newest()?;
        let retired = epoch.body().key == *key && epoch.body().number < newest.body().number;
        (retired && known.verify(&epoch).is_ok()).then(|| newest.to_bytes())
    }

    pub(super) fn learn_attachments(
        &mut self,
        now: Now,
        payload: &InitPayload<'_>,
        key: &TransportKey,
    ) -> Option<MemberId> {
        let mut certificate: Option<Signed<Certificate>> = None;
        let mut issuer = None;
        let mut epoch: Option<Signed<KeyEpoch>> = None;
        for attachment in &payload.attachments {
            match attachment {
                Attachment::Certificate(bytes) => certificate = Signed::parse(bytes).ok(),
                Attachment::IssuerCertificate(bytes) => issuer = Signed::parse(bytes).ok(),
                Attachment::KeyEpoch(bytes) => epoch = Signed::parse(bytes).ok(),
            }
        }
        // A member whose certificate is known may come with just a new key.
        if let Some(certificate) = certificate {
            self.learn_certificate(now, certificate, issuer);
        }
        let epoch = epoch.filter(|epoch| epoch.body().key == *key)?;
        self.learn_key_epoch(now, epoch, None);
        self.membership.with_key(key).map(|(member, _)| member)
    }

    fn handle_response(&mut self, now: Now, via: Via, datagram: &[u8]) {
        let Some(member) = self.handshaker.addressee(datagram) else { return };
        let Some(peer) = self.peers.get_mut(&member) else { return };
        let outcome = peer.session.handle_response(now, &mut self.handshaker, datagram);
        match outcome {
            ResponseOutcome::Established { .. } => {
                peer.knows_us = true;
                self.establish(now, member, via);
            }
            // The peer answers: only our timestamp was behind.
            ResponseOutcome::Challenged => peer.session.handle_timeout(now, &mut self.handshaker),
            ResponseOutcome::Drop(_) => {}
        }
        self.drain_session(now, member);
    }

    fn handle_cookie(&mut self, now: Now, via: Via, datagram: &[u8]) {
        let Via::Direct { socket, from } = via else { return };
        let Some(member) = self.handshaker.addressee(datagram) else { return };
        let Some(peer) = self.peers.get_mut(&member) else { return };
        match peer.session.handle_cookie(now, &mut self.handshaker, from, datagram) {
            CookieOutcome::Resend(init) => self.transmit((socket, from, init)),
            CookieOutcome::Kept | CookieOutcome::Drop(_) => {}
        }
        self.drain_session(now, member);
    }

    fn handle_stale_key(&mut self, now: Now, datagram: &[u8]) {
        let Some(member) = self.handshaker.addressee(datagram) else { return };
        let Some(peer) = self.peers.get_mut(&member) else { return };
        let Ok(epoch) = peer.session.handle_stale_key(&mut self.handshaker, datagram) else { return };
        if let Ok(epoch) = Signed::<KeyEpoch>::parse(epoch)
            && (epoch.body().member == member || epoch.body().member == self.me.member)
        {
            self.learn_key_epoch(now, epoch, None);
        }
        self.drain_session(now, member);
    }

    /// Something authenticated arrived on a session: proves an unproven keypair, and shows that the path works.
    pub(super) fn handle_heard(&mut self, now: Now, receiver: ReceiverIndex, via: Via, traffic: bool) {
        let Some(member) = self.note_arrival(now, receiver, via) else { return };
        if traffic {
            self.note_traffic(now, member);
        }
    }

    /// Bytes of inner packets came on a path.
    pub(super) fn count_received(
        &mut self,
        receiver: ReceiverIndex,
        via: Via,
        bytes: u64,
        lane: u8,
        packets: &[u32; LENGTHS],
    ) {
        let path = self.path_of(via).filter(|_| bytes > 0);
        let member = self.handshaker.owner(receiver);
        if let (Some(path), Some(peer)) = (path, member.and_then(|member| self.peers.get_mut(&member))) {
            peer.paths.count(&path, 0, bytes);
            peer.paths.count_packets(&path, lane, packets);
        }
    }

    /// As [`Node::handle_heard`]; returns whose session it is.
    pub(super) fn note_arrival(&mut self, now: Now, receiver: ReceiverIndex, via: Via) -> Option<MemberId> {
        let member = self.handshaker.owner(receiver)?;
        let peer = self.peers.get_mut(&member)?;
        peer.unanswered = 0;
        if peer.session.confirmed(now, &mut self.handshaker, receiver) {
            self.establish(now, member, via);
            self.drain_session(now, member);
        }
        let path = self.path_of(via)?;
        let peer = self.peers.get_mut(&member)?;
        if peer.paths.heard(now.mono, path) {
            self.send_probes(now, member);
        }
        self.dirty.peers.insert(member);
        Some(member)
    }

    /// A new keypair sends: greet over the path that proved it, and send what waited.
    fn establish(&mut self, now: Now, member: MemberId, via: Via) {
        let path = self.path_of(via);
        let Some(peer) = self.peers.get_mut(&member) else { return };
        peer.unanswered = 0;
        peer.last_handshake = Some(now.mono);
        // A relay that has restarted gives its labels to others: they are only as old as the session.
        peer.labels.clear();
        // So is the greeting: if the one that comes with these keys is lost, the boot is not known.
        peer.hello = None;
        let was_up = std::mem::replace(&mut peer.up, true);
        let refused = self.peers.get(&member).is_some_and(|peer| self.is_refused(peer));
        let Some(peer) = self.peers.get_mut(&member) else { return };
        if std::mem::replace(&mut peer.refused, refused) != refused {
            // Another owner of its subnets gets their packets, or no longer.
            self.routing.timer.changed(now.mono);
        }
        if let Some(path) = path {
            peer.paths.prove(now.mono, path);
        }
        self.dirty.snapshot = true;
        if !was_up {
            self.routing.timer.changed(now.mono);
            if let Some(name) = self.name_of(member) {
                self.events.push_back(Event::PeerUp { member, name });
            }
        }
        self.choose_path(now, member);
        let mut level = self.gossip.flood.established(member, !was_up);
        if !was_up {
            level = self.welcome_to_flood(now, member);
        }
        self.greet(now, member, path, level);
        self.send_probes(now, member);
        self.flush_waiting(now, member);
        self.relay_changed(now, member);
    }

    /// A session that has no keys left is at its end.
    fn note_end(&mut self, now: Now, member: MemberId) {
        let Some(peer) = self.peers.get_mut(&member) else { return };
        if peer.up && peer.session.keypairs().next().is_none() {
            peer.up = false;
            peer.hello = None;
            peer.labels.clear();
            self.ended(now, member);
        }
    }

    /// Ends the session with a peer and forgets it.
    pub(super) fn close_peer(&mut self, now: Now, member: MemberId) {
        let Some(peer) = self.peers.remove(&member) else { return };
        let was_up = peer.up;
        self.stats.packets_dropped += peer.queue.len() as u64;
        peer.session.close(&mut self.handshaker);
        if was_up {
            self.ended(now, member);
        }
    }

    fn ended(&mut self, now: Now, member: MemberId) {
        self.gossip.flood.ended(member);
        if let Some(name) = self.name_of(member) {
            self.events.push_back(Event::PeerDown { member, name });
        }
        self.dirty.snapshot = true;
        self.dirty.record = true;
        self.routing.timer.changed(now.mono);
        self.relay_changed(now, member);
    }

    fn give_up(&mut self, now: Now, member: MemberId) {
        self.routing.timer.changed(now.mono);
        if self.targets.contains(&member)
            && let Some(peer) = self.peers.get_mut(&member)
        {
            peer.session.want(now);
        }
    }

    /// Makes a new handshake when there are keys but no path is alive any more: the peer may have restarted, or can
    /// only be reached anew.
    pub(super) fn revive_if_dead(&mut self, now: Now, member: MemberId) {
        let wanted = self.targets.contains(&member);
        let Some(peer) = self.peers.get_mut(&member) else { return };
        let needed = wanted || peer.paths.is_active(now.mono);
        if peer.up && needed && !peer.paths.any_alive(now.mono) && !peer.session.is_initiating() {
            peer.session.renew(now.mono);
            peer.session.handle_timeout(now, &mut self.handshaker);
            self.drain_session(now, member);
        }
    }

    /// Forgets peers without session that nobody has needed for a while.
    pub(super) fn drop_unneeded_peers(&mut self, now: Now) {
        let unneeded: Vec<MemberId> = self
            .peers
            .values()
            .filter(|peer| !peer.up && !self.targets.contains(&peer.member))
            .filter(|peer| now.mono.since(peer.needed) > FORGET_AFTER)
            .map(|peer| peer.member)
            .collect();
        for member in unneeded {
            self.close_peer(now, member);
        }
    }

    /// Sends an answer back the way the question came.
    fn answer(&mut self, now: Now, via: Via, answer: &[u8]) {
        match via {
            Via::Direct { socket, from } => self.transmit((socket, from, answer.to_vec())),
            Via::Relayed { relay, source: Some(source) } => {
                let relay = self.slots.member(relay);
                let carrier = relay.and_then(|relay| self.carrier(now, source, PathId::Relay { relay }));
                if let Some(sent) = carrier.and_then(|carrier| tx::carry(&carrier, answer)) {
                    self.transmit(sent);
                }
            }
            Via::Relayed { source: None, .. } => {}
        }
    }
}

/// What a session needs to know of a signed key epoch.
pub(super) fn remote_epoch(epoch: &Signed<KeyEpoch>) -> RemoteEpoch {
    let body = epoch.body();
    RemoteEpoch {
        key: body.key,
        number: body.number,
        hash: EpochHash::of(&epoch.signing_bytes()),
        capabilities: body.capabilities,
    }
}
