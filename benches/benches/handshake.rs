//! Handshakes of `Noise_IKpsk2_25519_ChaChaPoly_BLAKE2s`, with everything around them: cookies' macs, limits, keypairs.

use std::hint::black_box;
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use meshnet::crypto::{Suite, TransportSecret};
use meshnet::session::{
    Accepted, Advert, EpochHash, GateKey, Handshaker, HandshakerConfig, InitOutcome, LocalEpoch, LocalEpochs,
    Origin, RemoteEpoch, ResponseOutcome, Session,
};
use meshnet::time::{Mono, Now, UnixMs};
use proto::id::{KeyEpochNumber, MemberId, MeshId};
use rand::SeedableRng;
use rand::rngs::StdRng;

/// Between two handshakes of the pair, on their clock: no limit bites.
const APART_MS: u64 = 1000;

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

impl Pair {
    fn new() -> Pair {
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
                advert: Advert::default(),
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
}

fn handshakes(c: &mut Criterion) {
    let mut group = c.benchmark_group("handshake");
    group.throughput(Throughput::Elements(1));
    group.bench_function("both sides", |b| {
        let mut pair = Pair::new();
        b.iter(|| {
            let init = pair.init();
            let response = pair.respond(black_box(&init));
            pair.finish(black_box(&response));
        });
    });
    group.bench_function("responder", |b| {
        let mut pair = Pair::new();
        b.iter_custom(|iterations| {
            let mut total = Duration::ZERO;
            for _ in 0..iterations {
                let init = pair.init();
                let start = Instant::now();
                let response = pair.respond(black_box(&init));
                total += start.elapsed();
                pair.finish(&response);
            }
            total
        });
    });
    group.bench_function("refused without the mesh's secret", |b| {
        let mut pair = Pair::new();
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
