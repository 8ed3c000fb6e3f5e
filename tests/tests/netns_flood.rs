//! Junk at a daemon's socket.

use meshnet_tests::net::{Lan, PORT, SETTLE, done, figure, flow, limit, overlay, wait_for_arrivals};
use netlab::flood::flood;
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};
use std::time::{Duration, Instant};

/// Ethernet, IPv4 without options, UDP.
const HEADERS_BYTES: usize = 14 + 20 + 8;

/// The daemon's memory may grow by so much, for buffers that it had not used before.
const GROWTH_LIMIT_BYTES: u64 = 5_000_000;

#[test]
fn junk_at_the_socket_changes_nothing_and_memory_stays_flat() {
    let mut lan = Lan::new(2);
    let count: u64 = limit("MESHNET_JUNK", 2_000_000);
    let seed: u64 = limit("MESHNET_SEED", 7);
    println!("MESHNET_SEED={seed}");
    let target = overlay(&lan.nodes[0]);
    let genuine = genuine_datagrams(&lan);
    let attacker = done(lan.lab.machine("attacker"));
    done(attacker.plug(&lan.switch, &["192.0.2.66/24"]));

    let flow = flow(&lan.nodes[1], &lan.nodes[0], 500);
    wait_for_arrivals(&flow, 500);
    let status_before = done(lan.nodes[0].status());
    let usage_before = done(lan.nodes[0].daemon().expect("it runs").usage());
    let mut rng = StdRng::seed_from_u64(seed);
    let endpoint = format!("192.0.2.1:{PORT}").parse().expect("an endpoint");
    let sent = done(flood(&attacker, endpoint, count, |buffer| junk(&mut rng, &genuine, buffer)));
    let ended_at = Instant::now();
    wait_for_arrivals(&flow, 1000);
    let report = done(flow.stop());
    let usage_after = done(lan.nodes[0].daemon().expect("it runs").usage());
    let status_after = done(lan.nodes[0].status());

    let rate = sent.sent as f64 / sent.took.as_secs_f64();
    let growth = usage_after.resident_bytes.saturating_sub(usage_before.resident_bytes);
    figure("junk", format!("{} datagrams at {rate:.0}/s, memory +{} kB", sent.sent, growth / 1000));
    figure("500/s through the junk", &report);
    assert!(growth < GROWTH_LIMIT_BYTES, "{growth} bytes");
    let recovery = report.recovery(ended_at);
    assert!(recovery.is_some_and(|time| time < Duration::from_secs(1)), "{report}: {recovery:?}");
    let names =
        |status: &netlab::mesh::Status| status.peers.iter().map(|peer| peer.name.clone()).collect::<Vec<_>>();
    assert_eq!(names(&status_before), names(&status_after));
    assert_eq!(status_after.warnings, status_before.warnings);
    let path = done(lan.nodes[1].path_to("n1")).expect("a path");
    assert!(path.is_direct(), "{path:?}");
    done(lan.nodes[1].wait_for_ping(target, SETTLE));
    // The restarted daemon finds what it left: the junk has not reached the disk either.
    lan.nodes[0].kill();
    done(lan.nodes[0].up());
    done(lan.nodes[1].wait_for_ping(target, SETTLE));
}

/// Real datagrams between the two nodes: handshakes and data, as an eavesdropper has them.
fn genuine_datagrams(lan: &Lan) -> Vec<Vec<u8>> {
    let capture = done(lan.nodes[0].machine().capture("eth0"));
    let flow = flow(&lan.nodes[1], &lan.nodes[0], 500);
    wait_for_arrivals(&flow, 500);
    done(flow.stop());
    let recording = done(capture.stop());
    let udp = recording.packets.into_iter().filter(|packet| packet.bytes.len() > HEADERS_BYTES);
    let datagrams: Vec<Vec<u8>> = udp.map(|packet| packet.bytes[HEADERS_BYTES..].to_vec()).collect();
    assert!(datagrams.len() >= 400, "{} datagrams seen", datagrams.len());
    datagrams
}

/// One junk datagram: random bytes; a right first byte and random bytes; a genuine datagram with changed bits, cut,
/// lengthened, or as it was.
fn junk(rng: &mut StdRng, genuine: &[Vec<u8>], buffer: &mut Vec<u8>) {
    let kind = rng.random_range(0..8);
    if kind < 3 {
        let length = if kind == 0 { rng.random_range(0..64) } else { rng.random_range(0..1400) };
        buffer.resize(length, 0);
        rng.fill(&mut buffer[..]);
        if let Some(first) = buffer.first_mut().filter(|_| kind > 1) {
            *first = 0x10 | rng.random_range(1..8u8);
        }
        return;
    }
    buffer.extend_from_slice(&genuine[rng.random_range(0..genuine.len())]);
    match kind {
        3 => {}
        4 => buffer.truncate(rng.random_range(0..=buffer.len())),
        5 => buffer.resize(buffer.len() + rng.random_range(1..64), 0),
        _ => {
            for _ in 0..rng.random_range(1..8) {
                let position = rng.random_range(0..buffer.len());
                buffer[position] ^= 1 << rng.random_range(0..8u8);
            }
        }
    }
}
