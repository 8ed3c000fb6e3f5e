//! Handshakes of `Noise_IKpsk2_25519_ChaChaPoly_BLAKE2s`, with everything around them: cookies' macs, limits, keypairs; and
//! hybrid ones, each with the exchange of ML-KEM-768 that went before it in the session (docs/adr/0016-post-quantum.md).

use std::hint::black_box;
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use meshnet::crypto::{Suite, TransportSecret};
use meshnet::session::{
    Accepted, Advert, EpochHash, GateKey, Handshaker, HandshakerConfig, InitOutcome, KemOutcome, LocalEpoch,
    LocalEpochs, Origin, RemoteEpoch, ResponseOutcome, Session,
};
use meshnet::time::{Mono, Now, UnixMs};
use proto::frame::{KEM_PIECE_OVERHEAD, KemPiece};
use proto::id::{HandshakeId, KeyEpochNumber, MemberId, MeshId};
use proto::key_epoch::Capabilities;
use rand::SeedableRng;
use rand::rngs::StdRng;

/// Between two handshakes of the pair, on their clock: no limit bites.
const APART_MS: u64 = 1000;
/// Keys and answers of ML-KEM go in two pieces each.
const PIECES: usize = 2;
/// IPv4 and UDP; and what a data datagram has around its frames: header, trailer, tag (docs/wire.md).
const UDP_BYTES: usize = 20 + 8;
const DATA_BYTES: usize = 16 + 2 + 16;

struct Node {
    handshaker: Handshaker,
    session: Session,
    remote: RemoteEpoch,
    address: SocketAddr,
}

/// Two nodes that know each other's keys.
struct Pair {
    initiator: Node,
    responder: Node,
    now: Now,
}

fn epoch(rng: &mut StdRng) -> LocalEpoch {
    let secret = TransportSecret::random(rng);
    let hash = EpochHash::of(&secret.public().0);
    LocalEpoch { number: KeyEpochNumber(1), secret, hash, capabilities: Suite::local_capabilities() }
}

/// A key or an answer of ML-KEM, cut as the daemon does on an ordinary path.
fn pieces(handshake: HandshakeId, bytes: &[u8]) -> impl Iterator<Item = KemPiece> {
    let len = bytes.len().div_ceil(PIECES);
    let cut = move |(number, bytes): (usize, &[u8])| KemPiece {
        handshake,
        offset: (number * len) as u16,
        bytes: bytes.to_vec(),
    };
    bytes.chunks(len).enumerate().map(cut)
}

impl Pair {
    /// Sessions by X25519 alone, or with ML-KEM-768 beside it.
    fn new(hybrid: bool) -> Pair {
        let mut rng = StdRng::seed_from_u64(1);
        let now = Now { mono: Mono(7_000_000), wall: UnixMs(1_800_000_000_000) };
        let epochs = [epoch(&mut rng), epoch(&mut rng)];
        let node = |own: usize| {
            let (local, peer) = (&epochs[own], &epochs[1 - own]);
            let remote = RemoteEpoch {
                key: peer.secret.public(),
                number: peer.number,
                hash: peer.hash,
                capabilities: peer.capabilities,
            };
            let config = HandshakerConfig {
                member: MemberId([own as u8 + 1; 16]),
                mesh: MeshId([0xaa; 16]),
                gate: GateKey::new([0x47; 32]),
                epochs: LocalEpochs {
                    current: local.clone(),
                    next: None,
                    previous: None,
                    retired: Vec::new(),
                    announcement: vec![0x77; 150],
                },
                advert: Advert {
                    capabilities: if hybrid { Capabilities::HYBRID } else { Capabilities::default() },
                    ..Advert::default()
                },
                last_timestamp_us: 0,
            };
            Node {
                handshaker: Handshaker::new(config, now, StdRng::seed_from_u64(own as u64))
                    .expect("this build serves its own capabilities"),
                session: Session::new(MemberId([2 - own as u8; 16]), remote.clone()),
                remote,
                address: SocketAddr::from(([192, 0, 2, own as u8 + 1], 4655)),
            }
        };
        Pair { initiator: node(0), responder: node(1), now }
    }

    fn init(&mut self) -> Vec<u8> {
        self.now.mono = self.now.mono + Duration::from_millis(APART_MS);
        self.now.wall.0 += APART_MS;
        let (now, node, to) = (self.now, &mut self.initiator, self.responder.address);
        node.session.initiate(now, &mut node.handshaker, &[]).expect("no attachments");
        node.session.pending_init(now, Some(to)).expect("just initiated")
    }

    fn respond(&mut self, init: &[u8]) -> Vec<u8> {
        let (now, node) = (self.now, &mut self.responder);
        let origin = Origin::Direct(self.initiator.address);
        let InitOutcome::Opened(opened) = node.handshaker.open_init(now, origin, init) else {
            panic!("the init opens")
        };
        match node.session.accept_init(now, &mut node.handshaker, *opened, &node.remote) {
            Accepted::Response(response) => response,
            Accepted::Challenge(_) | Accepted::Drop(_) => panic!("the init is accepted"),
        }
    }

    /// The initiator's keys, and the responder's first sight of them in use.
    fn finish(&mut self, response: &[u8]) {
        let (now, node) = (self.now, &mut self.initiator);
        assert!(node.handshaker.addressee(response).is_some());
        let outcome = node.session.handle_response(now, &mut node.handshaker, response);
        assert!(matches!(outcome, ResponseOutcome::Established { .. }), "{outcome:?}");
        let node = &mut self.responder;
        let newest = node.session.keypairs().max_by_key(|keypair| keypair.created);
        let newest = newest.expect("just accepted").local_index;
        assert!(node.session.confirmed(now, &mut node.handshaker, newest));
    }

    /// The initiator's part in the exchange that goes before the next session, until the responder has its key.
    fn offer(&mut self) -> (HandshakeId, Vec<KemPiece>) {
        let (now, node) = (self.now, &mut self.initiator);
        let (id, key) = node.session.kem_offer(now, &mut node.handshaker).expect("the session is new");
        (id, pieces(id, &key[..]).collect())
    }

    /// The responder's part.
    fn answer(&mut self, id: HandshakeId, key: &[KemPiece]) -> Vec<KemPiece> {
        let node = &mut self.responder;
        let outcome = key.iter().map(|piece| node.session.handle_kem_key(&mut node.handshaker, piece)).last();
        assert_eq!(outcome, Some(KemOutcome::Answer));
        pieces(id, node.session.kem_answer(id).expect("just made")).collect()
    }

    fn take_answer(&mut self, answer: &[KemPiece]) {
        let (now, node) = (self.now, &mut self.initiator);
        let take = |piece| node.session.handle_kem_ciphertext(now, &mut node.handshaker, piece);
        assert_eq!(answer.iter().map(take).last(), Some(KemOutcome::Ready));
    }

    /// The whole exchange; the bytes that it has on the wire.
    fn exchange(&mut self) -> usize {
        let (id, key) = self.offer();
        let answer = self.answer(id, &key);
        self.take_answer(&answer);
        let datagram = |piece: &KemPiece| UDP_BYTES + DATA_BYTES + KEM_PIECE_OVERHEAD + piece.bytes.len();
        key.iter().chain(&answer).map(datagram).sum()
    }

    /// A whole handshake; the bytes that it has on the wire.
    fn handshake(&mut self) -> usize {
        let init = self.init();
        let response = self.respond(black_box(&init));
        self.finish(black_box(&response));
        init.len() + response.len() + 2 * UDP_BYTES
    }

    /// The time that the responder takes for its part in an exchange.
    fn exchange_at_responder(&mut self) -> Duration {
        let (id, key) = self.offer();
        let start = Instant::now();
        let answer = self.answer(id, black_box(&key));
        let took = start.elapsed();
        self.take_answer(&answer);
        took
    }

    /// The time that the responder takes for its part in a handshake.
    fn handshake_at_responder(&mut self) -> Duration {
        let init = self.init();
        let start = Instant::now();
        let response = self.respond(black_box(&init));
        let took = start.elapsed();
        self.finish(&response);
        took
    }

    /// One with a session already hybrid; the first two are made, of which the first is not.
    fn hybrid() -> Pair {
        let mut pair = Pair::new(true);
        pair.handshake();
        pair.exchange();
        pair.handshake();
        assert!(pair.initiator.session.is_hybrid() && pair.responder.session.is_hybrid());
        pair
    }
}

fn tell_bytes() {
    let mut pair = Pair::new(true);
    let (alone, beside) = (pair.handshake(), pair.exchange());
    assert_eq!(alone, pair.handshake(), "an init names its secret where there were reserved bytes");
    println!("handshake: {alone} bytes in 2 datagrams over IPv4; hybrid: {beside} more in {}", 2 * PIECES);
}

fn handshakes(c: &mut Criterion) {
    tell_bytes();
    let mut group = c.benchmark_group("handshake");
    group.throughput(Throughput::Elements(1));
    group.bench_function("both sides", |b| {
        let mut pair = Pair::new(false);
        b.iter(|| pair.handshake());
    });
    group.bench_function("both sides, hybrid", |b| {
        let mut pair = Pair::hybrid();
        b.iter(|| {
            pair.exchange();
            pair.handshake();
        });
        assert!(pair.initiator.session.is_hybrid());
    });
    group.bench_function("responder", |b| {
        let mut pair = Pair::new(false);
        b.iter_custom(|iterations| (0..iterations).map(|_| pair.handshake_at_responder()).sum());
    });
    group.bench_function("responder, hybrid", |b| {
        let mut pair = Pair::hybrid();
        b.iter_custom(|iterations| {
            (0..iterations).map(|_| pair.exchange_at_responder() + pair.handshake_at_responder()).sum()
        });
    });
    group.bench_function("refused without the mesh's secret", |b| {
        let mut pair = Pair::new(false);
        let mut init = pair.init();
        // The first byte of mac1.
        let at = init.len() - 32;
        init[at] ^= 1;
        let origin = Origin::Direct(pair.initiator.address);
        b.iter(|| {
            let outcome = pair.responder.handshaker.open_init(pair.now, origin, black_box(&init));
            assert!(matches!(outcome, InitOutcome::Drop(_)));
        });
    });
    group.finish();
}

/// Two minutes for all benchmarks of the crate together.
fn brief() -> Criterion {
    Criterion::default().warm_up_time(Duration::from_millis(500)).measurement_time(Duration::from_secs(2))
}

criterion_group!(name = benches; config = brief(); targets = handshakes);
criterion_main!(benches);
