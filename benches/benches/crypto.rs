//! Sealing, opening, and replay windows: what every packet costs at least.

use std::hint::black_box;
use std::time::Duration;

use criterion::{BatchSize, BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use meshnet::crypto::{
    HEADER_LEN, KemSecret, LaneOpener, LaneSealer, REPLAY_WINDOW, ReplayWindow, Suite, TAG_LEN, encapsulate,
};
use proto::data::{Header, TRAILER_LEN};
use proto::id::{Counter, ReceiverIndex};
use proto::lane::Lane;
use rand::SeedableRng;
use rand::rngs::StdRng;

/// Inner packet sizes, in bytes.
const SIZES: [usize; 3] = [64, 256, 1400];
const SUITES: [(&str, Suite); 2] =
    [("aes-256-gcm", Suite::Aes256Gcm), ("chacha20-poly1305", Suite::ChaCha20Poly1305)];
const KEY: [u8; 32] = [7; 32];
const RECEIVER: ReceiverIndex = ReceiverIndex(0x0102_0304);

/// Room for a packet of this size with its header, trailer, and tag.
fn datagram(size: usize, counter: Counter) -> Vec<u8> {
    let mut buf = vec![0x5a; HEADER_LEN + size + TRAILER_LEN + TAG_LEN];
    Header { lane: 0, receiver: RECEIVER, counter }.write(&mut buf[..HEADER_LEN]);
    buf
}

fn seal(c: &mut Criterion) {
    let mut group = c.benchmark_group("seal");
    for (name, suite) in SUITES {
        let sealer = LaneSealer::new(suite, &KEY, RECEIVER, Lane::FIRST);
        for size in SIZES {
            group.throughput(Throughput::Bytes(size as u64));
            let mut buf = datagram(size, Counter(0));
            group.bench_function(BenchmarkId::new(name, size), |b| {
                b.iter(|| {
                    let counter = sealer.reserve(1).expect("far from the limit");
                    buf[8..16].copy_from_slice(&counter.0.to_be_bytes());
                    sealer.seal_in_place(counter, black_box(&mut buf));
                });
            });
        }
    }
    group.finish();
}

fn open(c: &mut Criterion) {
    let mut group = c.benchmark_group("open");
    for (name, suite) in SUITES {
        let sealer = LaneSealer::new(suite, &KEY, RECEIVER, Lane::FIRST);
        let opener = LaneOpener::new(suite, &KEY);
        for size in SIZES {
            group.throughput(Throughput::Bytes(size as u64));
            let counter = sealer.reserve(1).expect("far from the limit");
            let mut sealed = datagram(size, counter);
            sealer.seal_in_place(counter, &mut sealed);
            group.bench_function(BenchmarkId::new(name, size), |b| {
                b.iter_batched_ref(
                    || sealed.clone(),
                    |buf| opener.open_in_place(black_box(buf)).expect("authentic").len(),
                    BatchSize::SmallInput,
                );
            });
        }
    }
    group.finish();
}

fn replay(c: &mut Criterion) {
    let mut group = c.benchmark_group("replay window");
    group.throughput(Throughput::Elements(1));
    group.bench_function("in order", |b| {
        let (mut window, mut next) = (ReplayWindow::new(), 0u64);
        b.iter(|| {
            next += 1;
            window.check(black_box(next)) && window.accept(black_box(next))
        });
    });
    group.bench_function("swapped pairs", |b| {
        let (mut window, mut next) = (ReplayWindow::new(), 0u64);
        b.iter(|| {
            next += 1;
            let counter = next ^ 1;
            window.check(black_box(counter)) && window.accept(black_box(counter))
        });
    });
    group.bench_function("refused", |b| {
        let mut window = ReplayWindow::new();
        let newest = 4 * REPLAY_WINDOW;
        assert!(window.accept(newest));
        b.iter(|| window.check(black_box(newest)) || window.check(black_box(1)));
    });
    group.finish();
}

/// Two minutes for all benchmarks of the crate together.
fn brief() -> Criterion {
    Criterion::default().warm_up_time(Duration::from_millis(500)).measurement_time(Duration::from_secs(2))
}

/// What the post-quantum half of a session costs: its initiator makes a key and opens the answer, its responder answers.
fn kem(c: &mut Criterion) {
    let mut rng = StdRng::seed_from_u64(1);
    let secret = KemSecret::random(&mut rng);
    let key = secret.public();
    let (ciphertext, _) = encapsulate(&key, &mut rng).expect("a key");
    let mut group = c.benchmark_group("ml-kem-768");
    group.bench_function("key", |b| b.iter(|| KemSecret::random(&mut rng).public()));
    group.bench_function("answer", |b| b.iter(|| encapsulate(black_box(&key), &mut rng).expect("a key")));
    group.bench_function("open", |b| b.iter(|| secret.open(black_box(&ciphertext))));
    group.finish();
}

criterion_group!(name = benches; config = brief(); targets = seal, open, replay, kem);
criterion_main!(benches);
