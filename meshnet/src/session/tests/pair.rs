//! Two nodes and the link between them.

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::time::Duration;

use proto::datagram::Kind;
use proto::frame::{Frame, KemPiece, frames};
use proto::id::{HandshakeId, KeyEpochNumber, MemberId, MeshId, ReceiverIndex};
use proto::key_epoch::Capabilities;
use proto::lane::Lane;
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};

use crate::crypto::{HEADER_LEN, ReplayWindow, TAG_LEN, TransportSecret};
use crate::session::*;
use crate::time::{Mono, Now, UnixMs};

/// The first node and the second one: the smaller member id is the first's.
pub(super) const A: usize = 0;
pub(super) const B: usize = 1;

pub(super) const MESH: MeshId = MeshId([0xaa; 16]);

/// One node with a session to the other.
pub(super) struct TestNode {
    pub(super) handshaker: Handshaker,
    pub(super) session: Session,
    pub(super) address: SocketAddr,
    /// The epochs of the peer that this node knows, by number.
    pub(super) known: BTreeMap<KeyEpochNumber, RemoteEpoch>,
    pub(super) clock_ahead_ms: i64,
    windows: BTreeMap<ReceiverIndex, ReplayWindow>,
    /// Numbers of the data that arrived, and how often something arrived twice or did not open.
    pub(super) received: BTreeSet<u64>,
    pub(super) undeliverable: u64,
    pub(super) gave_up: u64,
    pub(super) established: u64,
}

/// What the link does to datagrams.
#[derive(Clone, Copy)]
pub(super) struct Link {
    pub(super) loss: f64,
    pub(super) duplication: f64,
    pub(super) delay_ms: (u64, u64),
}

pub(super) struct Flight {
    pub(super) at: Mono,
    pub(super) to: usize,
    pub(super) datagram: Vec<u8>,
}

/// Two nodes over a lossy, reordering, duplicating link. Prints its seed when a test fails.
pub(super) struct Pair {
    pub(super) nodes: [TestNode; 2],
    pub(super) now: Now,
    pub(super) link: Link,
    /// Longer datagrams are lost.
    pub(super) longest: usize,
    pub(super) flights: Vec<Flight>,
    /// Every datagram sent, with its sender.
    pub(super) log: Vec<(usize, Vec<u8>)>,
    pub(super) rng: StdRng,
    seed: u64,
    sent: u64,
}

impl Drop for Pair {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("seed {}", self.seed);
        }
    }
}

pub(super) fn epoch(rng: &mut StdRng, number: u32) -> LocalEpoch {
    let secret = TransportSecret::random(rng);
    let capabilities = crate::crypto::Suite::local_capabilities();
    let hash = EpochHash::of(&[&secret.public().0[..], &number.to_be_bytes()].concat());
    LocalEpoch { number: KeyEpochNumber(number), secret, hash, capabilities }
}

pub(super) fn remote_of(epoch: &LocalEpoch) -> RemoteEpoch {
    RemoteEpoch {
        key: epoch.secret.public(),
        number: epoch.number,
        hash: epoch.hash,
        capabilities: epoch.capabilities,
    }
}

pub(super) fn only(epoch: LocalEpoch) -> LocalEpochs {
    LocalEpochs {
        current: epoch,
        next: None,
        previous: None,
        retired: Vec::new(),
        announcement: vec![0x77; 150],
    }
}

pub(super) fn config(member: u8, epochs: LocalEpochs) -> HandshakerConfig {
    HandshakerConfig {
        member: MemberId([member; 16]),
        mesh: MESH,
        gate: GateKey::new([0x47; 32]),
        epochs,
        advert: Advert { capabilities: Capabilities(0), bundle_version: 1, revocations: [0; 8] },
        last_timestamp_us: 0,
    }
}

impl Pair {
    pub(super) fn new(seed: u64) -> Pair {
        Pair::with(seed, |_, _| {})
    }

    /// A pair whose configurations (of the first node, of the second) `change` has changed.
    pub(super) fn with(seed: u64, change: impl Fn(usize, &mut HandshakerConfig)) -> Pair {
        let mut rng = StdRng::seed_from_u64(seed);
        let now = Now { mono: Mono(7_000_000), wall: UnixMs(1_800_000_000_000) };
        let epochs = [epoch(&mut rng, 1), epoch(&mut rng, 1)];
        let mut node = |own: usize| {
            let peer = 1 - own;
            let mut config = config(own as u8 + 1, only(epochs[own].clone()));
            change(own, &mut config);
            let remote = remote_of(&epochs[peer]);
            TestNode {
                handshaker: Handshaker::new(config, now, StdRng::seed_from_u64(rng.random())).unwrap(),
                session: Session::new(MemberId([peer as u8 + 1; 16]), remote.clone()),
                address: SocketAddr::from(([192, 0, 2, own as u8 + 1], 655)),
                known: BTreeMap::from([(remote.number, remote)]),
                clock_ahead_ms: 0,
                windows: BTreeMap::new(),
                received: BTreeSet::new(),
                undeliverable: 0,
                gave_up: 0,
                established: 0,
            }
        };
        let nodes = [node(A), node(B)];
        let link = Link { loss: 0.0, duplication: 0.0, delay_ms: (10, 10) };
        Pair {
            nodes,
            now,
            link,
            longest: usize::MAX,
            flights: Vec::new(),
            log: Vec::new(),
            rng,
            seed,
            sent: 0,
        }
    }

    /// A pair that has a session, begun by the first node, and nothing under way.
    pub(super) fn connected(seed: u64) -> Pair {
        let mut pair = Pair::new(seed);
        pair.want(A);
        pair.run_ms(100);
        assert!(pair.is_connected());
        pair.log.clear();
        pair
    }

    pub(super) fn is_connected(&self) -> bool {
        self.nodes.iter().all(|node| node.session.sending().is_some())
    }

    /// The time on a node's own clocks.
    pub(super) fn now_of(&self, node: usize) -> Now {
        let ms = self.now.wall.0.saturating_add_signed(self.nodes[node].clock_ahead_ms);
        Now { wall: UnixMs(ms), ..self.now }
    }

    pub(super) fn want(&mut self, node: usize) {
        let now = self.now_of(node);
        self.nodes[node].session.want(now);
        self.tick(node);
    }

    /// Sends one numbered datagram if there are keys; else asks for them.
    pub(super) fn send_data(&mut self, from: usize) -> Option<u64> {
        if self.nodes[from].session.sending().is_none() {
            self.want(from);
            return None;
        }
        self.sent += 1;
        self.seal_and_send(from, &self.sent.to_be_bytes());
        self.nodes[from].session.note_traffic(self.now.mono);
        self.tick(from);
        Some(self.sent)
    }

    /// Sends a datagram with nothing to deliver in it, as control frames are.
    pub(super) fn send_keepalive(&mut self, from: usize) {
        self.seal_and_send(from, &[]);
    }

    fn seal_and_send(&mut self, from: usize, text: &[u8]) {
        let Some(keypair) = self.nodes[from].session.sending() else { return };
        let sealer = keypair.sealer.lane(Lane::FIRST);
        let Some(counter) = sealer.reserve(1) else { return };
        let mut datagram = vec![Kind::Data.first_byte(), 0, 0, 0];
        datagram.extend(keypair.sealer.remote_index().0.to_be_bytes());
        datagram.extend(counter.0.to_be_bytes());
        datagram.extend(text);
        datagram.extend([0; TAG_LEN]);
        sealer.seal_in_place(counter, &mut datagram);
        self.send(from, datagram);
    }

    pub(super) fn send(&mut self, from: usize, datagram: Vec<u8>) {
        self.log.push((from, datagram.clone()));
        let copies = 1 + usize::from(self.rng.random_bool(self.link.duplication));
        for _ in 0..copies {
            if self.rng.random_bool(self.link.loss) || datagram.len() > self.longest {
                continue;
            }
            let delay = self.rng.random_range(self.link.delay_ms.0..=self.link.delay_ms.1);
            let at = self.now.mono + Duration::from_millis(delay);
            self.flights.push(Flight { at, to: 1 - from, datagram: datagram.clone() });
        }
    }

    pub(super) fn run_ms(&mut self, ms: u64) {
        let until = self.now.mono + Duration::from_millis(ms);
        while self.step(until) {}
    }

    /// Runs until `done`, or fails after `limit_s`.
    pub(super) fn run_until(&mut self, limit_s: u64, done: impl Fn(&Pair) -> bool) {
        let until = self.now.mono + Duration::from_secs(limit_s);
        while !done(self) {
            assert!(self.step(until), "not done within {limit_s} s");
        }
    }

    /// Advances to the next thing to happen before `until`; false when there is none, at `until`.
    fn step(&mut self, until: Mono) -> bool {
        let flight = self.flights.iter().map(|flight| flight.at).min();
        let timer = self.nodes.iter().filter_map(|node| node.session.poll_timeout()).min();
        let next = [flight, timer].into_iter().flatten().min().map(|at| at.max(self.now.mono));
        let Some(at) = next.filter(|at| *at <= until) else {
            self.advance_to(until);
            return false;
        };
        self.advance_to(at);
        while let Some(due) = self.flights.iter().position(|flight| flight.at <= at) {
            let flight = self.flights.remove(due);
            self.deliver(flight.to, &flight.datagram);
        }
        self.tick(A);
        self.tick(B);
        true
    }

    fn advance_to(&mut self, at: Mono) {
        let span_us = at.0 - self.now.mono.0;
        self.now.mono = at;
        // The wall clock has milliseconds; it is good enough to let it lag by fractions.
        self.now.wall.0 += span_us / 1000;
    }

    pub(super) fn tick(&mut self, at: usize) {
        let now = self.now_of(at);
        let node = &mut self.nodes[at];
        node.session.handle_timeout(now, &mut node.handshaker);
        self.drain_events(at);
        let due = self.nodes[at].session.poll_timeout();
        assert!(due.is_none_or(|due| due > now.mono), "what is due is done");
    }

    fn drain_events(&mut self, at: usize) {
        let (now, peer) = (self.now_of(at), self.nodes[1 - at].address);
        while let Some(event) = self.nodes[at].session.poll_event() {
            let node = &mut self.nodes[at];
            match event {
                SessionEvent::NeedInit => {
                    node.session.initiate(now, &mut node.handshaker, &[]).unwrap();
                    let init = node.session.pending_init(now, Some(peer)).unwrap();
                    self.send(at, init);
                }
                SessionEvent::RepeatInit => {
                    let init = node.session.pending_init(now, Some(peer)).unwrap();
                    self.send(at, init);
                }
                SessionEvent::KeysChanged => {}
                SessionEvent::KemDue => self.send_kem_key(at),
                SessionEvent::Expired(index) => {
                    node.windows.remove(&index);
                    assert_eq!(node.handshaker.owner(index), None);
                    assert!(node.session.keypairs().all(|keypair| keypair.local_index != index));
                }
                SessionEvent::GaveUp => node.gave_up += 1,
            }
        }
    }

    /// What a node does with a datagram.
    pub(super) fn deliver(&mut self, to: usize, datagram: &[u8]) {
        let from = self.nodes[1 - to].address;
        match Kind::of(datagram) {
            Some(Kind::Init) => self.deliver_init(to, Origin::Direct(from), datagram),
            Some(Kind::Response) => {
                self.deliver_response(to, datagram);
            }
            Some(Kind::Cookie) => self.deliver_cookie(to, from, datagram),
            Some(Kind::StaleKey) => self.deliver_stale_key(to, datagram),
            Some(Kind::Data) => self.deliver_data(to, datagram),
            _ => {}
        }
        self.drain_events(to);
    }

    pub(super) fn deliver_init(&mut self, to: usize, origin: Origin, datagram: &[u8]) {
        let now = self.now_of(to);
        let node = &mut self.nodes[to];
        let answer = match node.handshaker.open_init(now, origin, datagram) {
            InitOutcome::Drop(_) => None,
            InitOutcome::Cookie(answer) | InitOutcome::StaleKey(answer) | InitOutcome::Duplicate(answer) => {
                Some(answer)
            }
            InitOutcome::Opened(opened) => {
                let known = node.known.values().find(|epoch| epoch.key == opened.remote_static).cloned();
                known.and_then(|remote| {
                    match node.session.accept_init(now, &mut node.handshaker, *opened, &remote) {
                        Accepted::Response(answer) | Accepted::Challenge(answer) => Some(answer),
                        Accepted::Drop(_) => None,
                    }
                })
            }
        };
        if let Some(answer) = answer {
            assert!(answer.len() <= datagram.len(), "an answer is not longer than the init");
            self.send(to, answer);
        }
    }

    pub(super) fn deliver_response(&mut self, to: usize, datagram: &[u8]) -> Option<ResponseOutcome> {
        let now = self.now_of(to);
        let node = &mut self.nodes[to];
        node.handshaker.addressee(datagram)?;
        let outcome = node.session.handle_response(now, &mut node.handshaker, datagram);
        if matches!(outcome, ResponseOutcome::Established { .. }) {
            node.established += 1;
            self.seal_and_send(to, b"");
        }
        Some(outcome)
    }

    fn deliver_cookie(&mut self, to: usize, from: SocketAddr, datagram: &[u8]) {
        let now = self.now_of(to);
        let node = &mut self.nodes[to];
        if node.handshaker.addressee(datagram).is_some()
            && let CookieOutcome::Resend(init) =
                node.session.handle_cookie(now, &mut node.handshaker, from, datagram)
        {
            self.send(to, init);
        }
    }

    fn deliver_stale_key(&mut self, to: usize, datagram: &[u8]) {
        let now = self.now_of(to);
        let newest = self.nodes[to].known.values().next_back().cloned();
        let node = &mut self.nodes[to];
        if node.handshaker.addressee(datagram).is_none() {
            return;
        }
        if node.session.handle_stale_key(&mut node.handshaker, datagram).is_ok()
            && let Some(newest) = newest
        {
            node.session.set_remote(now, &mut node.handshaker, newest);
        }
    }

    fn deliver_data(&mut self, to: usize, datagram: &[u8]) {
        let now = self.now_of(to);
        let node = &mut self.nodes[to];
        let Some(header) = datagram.first_chunk::<HEADER_LEN>() else { return };
        let index = ReceiverIndex(u32::from_be_bytes([header[4], header[5], header[6], header[7]]));
        let Some(keypair) = node.session.keypairs().find(|keypair| keypair.local_index == index) else {
            node.undeliverable += 1;
            return;
        };
        let mut datagram = datagram.to_vec();
        let Ok(text) = keypair.opener.lane(Lane::FIRST).open_in_place(&mut datagram) else {
            node.undeliverable += 1;
            return;
        };
        let counter = u64::from_be_bytes(header[8..].try_into().unwrap());
        if !node.windows.entry(index).or_default().accept(counter) {
            return;
        }
        let text = text.to_vec();
        node.session.confirmed(now, &mut node.handshaker, index);
        match text[..].try_into() {
            Ok(number) => {
                node.received.insert(u64::from_be_bytes(number));
                node.session.note_traffic(now.mono);
            }
            Err(_) => self.deliver_frames(to, &text),
        }
    }

    fn send_kem_key(&mut self, at: usize) {
        let now = self.now_of(at);
        let node = &mut self.nodes[at];
        let (handshake, key) = node.session.kem_offer(now, &mut node.handshaker).expect("it was due");
        self.send_pieces(at, handshake, &key[..], Frame::KemKey);
    }

    fn send_pieces(&mut self, at: usize, handshake: HandshakeId, bytes: &[u8], frame: fn(KemPiece) -> Frame) {
        for (number, bytes) in bytes.chunks(600).enumerate() {
            let piece = KemPiece { handshake, offset: number as u16 * 600, bytes: bytes.to_vec() };
            let mut text = Vec::new();
            frame(piece).emit(&mut text);
            self.seal_and_send(at, &text);
        }
    }

    fn deliver_frames(&mut self, to: usize, text: &[u8]) {
        let now = self.now_of(to);
        for frame in frames(text).map(Result::unwrap) {
            let node = &mut self.nodes[to];
            match frame {
                Frame::KemKey(piece) => {
                    if node.session.handle_kem_key(&mut node.handshaker, &piece) == KemOutcome::Answer {
                        let answer = *node.session.kem_answer(piece.handshake).unwrap();
                        self.send_pieces(to, piece.handshake, &answer, Frame::KemCiphertext);
                    }
                }
                Frame::KemCiphertext(piece) => {
                    node.session.handle_kem_ciphertext(now, &mut node.handshaker, &piece);
                }
                other => panic!("{other:?}"),
            }
        }
    }

    /// All that a node's state shows to the outside, apart from counters of events.
    pub(super) fn state_of(&self, at: usize) -> impl PartialEq + std::fmt::Debug + use<> {
        let node = &self.nodes[at];
        (
            node.session.keypairs().map(|keypair| keypair.local_index).collect::<Vec<_>>(),
            node.session.sending().map(|keypair| keypair.local_index),
            node.session.poll_timeout(),
            node.session.seen_us(),
            node.session.pending_init(self.now, Some(self.nodes[1 - at].address)),
            node.session.remote().clone(),
            node.handshaker.last_timestamp_us(),
        )
    }

    /// Datagrams of a kind that a node has sent.
    pub(super) fn sent(&self, from: usize, kind: Kind) -> Vec<Vec<u8>> {
        let of_kind =
            |(sender, datagram): &&(usize, Vec<u8>)| *sender == from && Kind::of(datagram) == Some(kind);
        self.log.iter().filter(of_kind).map(|(_, datagram)| datagram.clone()).collect()
    }

    pub(super) fn stats(&self, node: usize) -> HandshakeStats {
        self.nodes[node].handshaker.stats()
    }
}
