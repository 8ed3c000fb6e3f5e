//! Headers, and whole transforms of the data plane: a packet in, a datagram out, and back, and through a relay.

use std::hint::black_box;
use std::net::{IpAddr, SocketAddr};
use std::ops::Range;
use std::sync::Arc;
use std::time::Duration;

use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use meshnet::crypto::{LaneOpener, LaneSealer, Opener, Sealer, Suite};
use meshnet::dataplane::meta::{Checksum, Meta, Offloads, Segmentation};
use meshnet::dataplane::relay::{next_header, prefix_len as relay_prefix_len, stamp, verify, wrap};
use meshnet::dataplane::snapshot::{MemberSlot, Receivers};
use meshnet::dataplane::split::{Fill, Split};
use meshnet::dataplane::{
    Carrier, HEADROOM, LocalPrefixes, PeerStats, PeerTx, Receiver, RelayHop, RelayTable, Run, Rx, Snapshot,
    TAILROOM, Tx, TxVerdict, Verdict,
};
use meshnet::membership::SourceTableBuilder;
use meshnet::path::SocketId;
use meshnet::route::FibBuilder;
use meshnet::time::Mono;
use proto::id::{Counter, MemberId, ReceiverIndex, RelayLabel};
use proto::lane::{Lane, Role};
use proto::{data, relay};

const NOW: Mono = Mono(5_000_000);
const SOCKET: SocketId = SocketId(0);
/// Sender, receiver, relay.
const NODES: usize = 3;
const RELAY: usize = 2;

fn member(at: usize) -> MemberId {
    MemberId([at as u8 + 1; 16])
}

fn slot(at: usize) -> MemberSlot {
    MemberSlot(at as u32)
}

fn endpoint(at: usize) -> SocketAddr {
    SocketAddr::from(([192, 0, 2, at as u8 + 1], 4655))
}

fn overlay(at: usize) -> IpAddr {
    [10, 99, 0, at as u8 + 1].into()
}

fn index(from: usize, at: usize) -> ReceiverIndex {
    ReceiverIndex((from as u32 + 1) * 0x0100_0001 + at as u32)
}

fn key(from: usize, at: usize) -> [u8; 32] {
    [(from * NODES + at) as u8 + 1; 32]
}

fn sealer(from: usize, to: usize) -> Arc<Sealer> {
    Arc::new(Sealer::new(Suite::Aes256Gcm, &key(from, to), index(from, to), true))
}

/// What a node sees; the sender reaches the receiver through the relay when `relayed`.
fn snapshot(at: usize, relayed: bool) -> Snapshot {
    let (mut fib, mut sources) = (FibBuilder::new(), SourceTableBuilder::new());
    let (mut receivers, mut peers) = (Receivers::default(), Vec::new());
    for other in 0..NODES {
        fib.add_address(overlay(other), slot(other));
        sources.add_address(overlay(other), slot(other));
        if other == at {
            peers.push(None);
            continue;
        }
        let primary = if relayed && other != RELAY && at != RELAY {
            Carrier::Relayed {
                socket: SOCKET,
                to: endpoint(RELAY),
                hop: sealer(at, RELAY),
                label: RelayLabel(3),
                destination: member(other),
                source: member(at),
            }
        } else {
            Carrier::Direct { socket: SOCKET, to: endpoint(other) }
        };
        let stats = Arc::new(PeerStats::default());
        peers.push(Some(Arc::new(PeerTx {
            member: member(other),
            sealer: sealer(at, other),
            primary,
            duplicate: None,
            spread: None,
            mtu: u16::MAX,
            offload: true,
            silent: false,
            stats: stats.clone(),
        })));
        let opener = Arc::new(Opener::new(Suite::Aes256Gcm, &key(other, at), true));
        let is_relay = other == RELAY;
        let receiver =
            Receiver { slot: slot(other), member: member(other), is_relay, packets: true, opener, stats };
        receivers.insert(index(other, at), receiver);
    }
    let hop = |to: usize| {
        let label = RelayLabel::SELF;
        Some(Arc::new(RelayHop {
            neighbour: slot(to),
            socket: SOCKET,
            to: endpoint(to),
            sealer: sealer(RELAY, to),
            label,
        }))
    };
    let table = RelayTable {
        labels: vec![None, None, Some(slot(0)), Some(slot(1))],
        members: vec![(member(0), slot(0)), (member(1), slot(1))],
        hops: vec![hop(0), hop(1), None],
        limit: None,
    };
    Snapshot {
        generation: 1,
        own: member(at),
        fib: Arc::new(fib.build()),
        peers,
        receivers,
        sources: Arc::new(sources.build()),
        local: LocalPrefixes::new(vec![overlay(at)], Vec::new()),
        relay: (at == RELAY).then_some(table),
        ..Snapshot::default()
    }
}

/// An IPv4 packet (RFC 791) with a UDP header, from the sender to the receiver.
fn packet(len: usize) -> Vec<u8> {
    let mut packet = vec![0x45, 0];
    packet.extend((len as u16).to_be_bytes());
    packet.extend([0, 0, 0, 0, 64, 17, 0, 0]);
    for address in [overlay(0), overlay(1)] {
        let IpAddr::V4(address) = address else { unreachable!("the overlay is IPv4") };
        packet.extend(address.octets());
    }
    packet.resize(len, 0x5a);
    packet
}

/// Passes a packet through the sender.
fn sent(tx: &mut Tx, from: &Snapshot, packet: &[u8]) -> Vec<u8> {
    let mut buf = vec![0; HEADROOM + packet.len() + TAILROOM];
    let range = HEADROOM..HEADROOM + packet.len();
    buf[range.clone()].copy_from_slice(packet);
    match tx.process(from, NOW, &mut buf, range, &Meta::PLAIN) {
        TxVerdict::Send { first, .. } => buf[first.range].to_vec(),
        other => panic!("{other:?}"),
    }
}

fn headers(c: &mut Criterion) {
    let mut group = c.benchmark_group("header parse");
    let mut sealed = [0u8; 100];
    data::Header { lane: 0, receiver: index(0, 1), counter: Counter(77) }
        .write(&mut sealed[..data::HEADER_LEN]);
    group.bench_function("data", |b| b.iter(|| data::Header::parse(black_box(&sealed))));
    for (name, ids) in [("relay, short", None), ("relay, long", Some((member(1), member(0))))] {
        let label = if ids.is_some() { RelayLabel::LONG } else { RelayLabel(3) };
        let header = relay::Header {
            ttl: relay::MAX_TTL,
            role: Role::Queue,
            label,
            receiver: index(0, RELAY),
            counter: Counter(77),
            ids,
        };
        let mut relayed = [0u8; 200];
        header.write(&mut relayed[..header.len()]);
        group.bench_function(name, |b| b.iter(|| relay::Header::parse(black_box(&relayed))));
    }
    group.finish();
}

fn transforms(c: &mut Criterion) {
    let mut group = c.benchmark_group("transform");
    group.throughput(Throughput::Elements(1));
    for len in [92, 1428] {
        let inner = packet(len);
        group.bench_function(BenchmarkId::new("device to socket", len), |b| {
            let (mut tx, from) = (Tx::new(), snapshot(0, false));
            let mut buf = vec![0; HEADROOM + len + TAILROOM];
            let range = HEADROOM..HEADROOM + len;
            b.iter(|| {
                buf[range.clone()].copy_from_slice(&inner);
                tx.process(&from, NOW, black_box(&mut buf), range.clone(), &Meta::PLAIN)
            });
        });
        group.bench_function(BenchmarkId::new("socket to device", len), |b| {
            let (mut tx, from) = (Tx::new(), snapshot(0, false));
            let (mut rx, at) = (Rx::new(), snapshot(1, false));
            b.iter_batched_ref(
                || sent(&mut tx, &from, &inner),
                |buf| deliver(&mut rx, &at, 0, buf),
                criterion::BatchSize::SmallInput,
            );
        });
        group.bench_function(BenchmarkId::new("relay", len), |b| {
            let (mut tx, from) = (Tx::new(), snapshot(0, true));
            let (mut rx, at) = (Rx::new(), snapshot(RELAY, false));
            b.iter_batched_ref(
                || sent(&mut tx, &from, &inner),
                |buf| forward(&mut rx, &at, buf),
                criterion::BatchSize::SmallInput,
            );
        });
    }
    group.finish();
}

fn deliver(rx: &mut Rx, at: &Snapshot, from: usize, buf: &mut [u8]) {
    let all = 0..buf.len();
    let verdict = rx.process(at, NOW, SOCKET, endpoint(from), black_box(buf), all);
    assert!(matches!(verdict, Verdict::Deliver { .. }), "{verdict:?}");
}

fn forward(rx: &mut Rx, at: &Snapshot, buf: &mut [u8]) {
    let all = 0..buf.len();
    let verdict = rx.process(at, NOW, SOCKET, endpoint(0), black_box(buf), all);
    assert!(matches!(verdict, Verdict::Forward { .. }), "{verdict:?}");
}

/// Two minutes for all benchmarks of the crate together.
fn brief() -> Criterion {
    Criterion::default().warm_up_time(Duration::from_millis(500)).measurement_time(Duration::from_secs(2))
}

/// Payload bytes of a segment at the default MTU, with TCP timestamps.
const SEGMENT: usize = 1302;
/// Headers of IPv4 and TCP with timestamps.
const HEADERS: usize = 52;

/// A TCP super-packet over IPv4, as long as one segmented send allows.
fn super_packet() -> (Vec<u8>, Meta) {
    let mut packet = packet(HEADERS + 46 * SEGMENT);
    (packet[9], packet[32]) = (6, 0x80);
    packet[33] = 0x10;
    let meta = Meta {
        segmentation: Segmentation::Tcp4 { size: SEGMENT as u16 },
        checksum: Checksum::Partial { start: 20, offset: 16 },
        header_len: HEADERS as u16,
    };
    (packet, meta)
}

/// Cuts and seals a super-packet behind itself in `buf`; gives the place of the datagrams.
fn cut(tx: &mut Tx, from: &Snapshot, buf: &mut [u8], inner: &Range<usize>, meta: &Meta) -> Vec<Range<usize>> {
    let TxVerdict::Cut(mut cut) = tx.process(from, NOW, buf, inner.clone(), meta) else {
        panic!("a super-packet is cut")
    };
    let room = inner.end + TAILROOM..buf.len();
    let (burst, _) = cut.seal(buf, inner.clone(), room).expect("room for all segments");
    assert_eq!(cut.left(), 0);
    burst.datagrams().collect()
}

fn super_packets(c: &mut Criterion) {
    let mut group = c.benchmark_group("super-packet");
    let (packet, meta) = super_packet();
    group.throughput(Throughput::Bytes(packet.len() as u64));
    let split = Split::new(&packet, &meta).expect("a super-packet");
    for (name, fill) in [("split", Fill::Leave), ("split with checksums", Fill::Complete)] {
        let mut out = vec![0; HEADERS + SEGMENT];
        group.bench_function(name, |b| {
            b.iter(|| {
                for index in 0..split.count() {
                    split.write(black_box(&packet), index, fill, &mut out[..split.len_of(index)]);
                }
            });
        });
    }
    let inner = HEADROOM..HEADROOM + packet.len();
    let mut buf = vec![0; HEADROOM + 2 * packet.len() + 60 * (HEADROOM + HEADERS + TAILROOM)];
    buf[inner.clone()].copy_from_slice(&packet);
    let (mut tx, from) = (Tx::new(), snapshot(0, false));
    group.bench_function("device to socket", |b| {
        b.iter(|| cut(&mut tx, &from, black_box(&mut buf), &inner, &meta));
    });
    let (mut rx, at, mut run) = (Rx::new(), snapshot(1, false), Run::new(Offloads::ALL));
    group.bench_function("socket to device", |b| {
        b.iter_batched_ref(
            || {
                let mut buf = buf.clone();
                let datagrams = cut(&mut tx, &from, &mut buf, &inner, &meta);
                (buf, datagrams)
            },
            |(buf, datagrams)| {
                for datagram in datagrams.iter() {
                    let verdict = rx.process(&at, NOW, SOCKET, endpoint(0), black_box(buf), datagram.clone());
                    let Verdict::Deliver { packet, segment, .. } = verdict else { panic!("{verdict:?}") };
                    assert!(run.push(buf, packet, &segment));
                }
                let (_, pieces) = run.finish(buf).expect("something to write");
                assert_eq!(pieces.len(), datagrams.len());
            },
            criterion::BatchSize::LargeInput,
        );
    });
    // Putting together alone: the datagrams are open already.
    let (mut rx, mut run) = (Rx::new(), Run::new(Offloads::ALL));
    group.bench_function("merge", |b| {
        b.iter_batched_ref(
            || {
                let mut buf = buf.clone();
                let opened: Vec<_> = cut(&mut tx, &from, &mut buf, &inner, &meta)
                    .into_iter()
                    .map(|datagram| match rx.process(&at, NOW, SOCKET, endpoint(0), &mut buf, datagram) {
                        Verdict::Deliver { packet, segment, .. } => (packet, segment),
                        other => panic!("{other:?}"),
                    })
                    .collect();
                (buf, opened)
            },
            |(buf, opened)| {
                for (packet, segment) in opened.iter() {
                    assert!(run.push(black_box(buf), packet.clone(), segment));
                }
                run.finish(buf).expect("something to write").1.len()
            },
            criterion::BatchSize::LargeInput,
        );
    });
    group.finish();
}

/// What a relay does to one datagram beyond finding the way: checking the hop tag, and the header for the next hop.
fn relay_rewrite(c: &mut Criterion) {
    let mut group = c.benchmark_group("relay rewrite");
    group.throughput(Throughput::Elements(1));
    for (name, suite) in [("aes-256-gcm", Suite::Aes256Gcm), ("chacha20-poly1305", Suite::ChaCha20Poly1305)] {
        let lane =
            |from: usize, to: usize| LaneSealer::new(suite, &key(from, to), index(from, to), Lane::FIRST);
        let (hop, onward) = (lane(0, RELAY), lane(RELAY, 1));
        let opener = LaneOpener::new(suite, &key(0, RELAY));
        let mut buf = vec![0x5a; HEADROOM + 1428 + TAILROOM];
        let inner = relay_prefix_len(RelayLabel(3))..buf.len();
        let whole = wrap(&mut buf, inner, (&hop, Counter(1)), RelayLabel(3), member(1), member(0));
        let datagram = buf[whole].to_vec();
        group.bench_function(name, |b| {
            let mut counter = 0;
            b.iter_batched_ref(
                || datagram.clone(),
                |datagram| {
                    let header = relay::Header::parse(black_box(datagram)).expect("a relay header");
                    assert!(verify(datagram, header.len(), header.counter, &opener));
                    counter += 1;
                    let next = next_header(&header, (&onward, Counter(counter)), RelayLabel::SELF);
                    stamp(datagram, &next, &onward);
                },
                criterion::BatchSize::SmallInput,
            );
        });
    }
    group.finish();
}

criterion_group!(
    name = benches;
    config = brief();
    targets = headers, transforms, super_packets, relay_rewrite
);
criterion_main!(benches);
