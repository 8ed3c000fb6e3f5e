//! Junk and forged handshakes at a daemon's socket. MESHNET_FLOOD=1 for floods as fast as the project's claims say.

use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use meshnet::crypto::{MAC_LEN, Secret, TransportSecret, keyed_mac, secret_hash};
use meshnet::session::LOAD_HANDSHAKES_PER_S;
use meshnet_tests::net::{
    Lan, PORT, SETTLE, Throughput, done, figure, flow, iperf, iperf_at, limit, overlay, wait_for_arrivals,
};
use netlab::flood::{FloodReport, flood, forged};
use netlab::mesh::Status;
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};
use std::net::Ipv4Addr;
use std::time::{Duration, Instant};

/// Ethernet, IPv4 without options, UDP.
const HEADERS_BYTES: usize = 14 + 20 + 8;
/// So many genuine datagrams are the least that junk is made of ...
const GENUINE: usize = 400;
/// ... and after so many seconds of listening they have to be there.
const ROUNDS: usize = 8;

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
    // A change to the relay under the flood is looked at again after a minute.
    done(lan.nodes[1].wait_for_path("n1", Duration::from_secs(70), netlab::mesh::PathStatus::is_direct));
    done(lan.nodes[1].wait_for_ping(target, SETTLE));
    // The restarted daemon finds what it left: the junk has not reached the disk either.
    lan.nodes[0].kill();
    done(lan.nodes[0].up());
    done(lan.nodes[1].wait_for_ping(target, SETTLE));
}

/// Real datagrams between the two nodes: handshakes and data, as an eavesdropper has them. On a busy machine several leave
/// in one send, and are seen as one: it listens until it has enough.
fn genuine_datagrams(lan: &Lan) -> Vec<Vec<u8>> {
    let mut datagrams = Vec::new();
    for _ in 0..ROUNDS {
        let capture = done(lan.nodes[0].machine().capture("eth0"));
        let flow = flow(&lan.nodes[1], &lan.nodes[0], 500);
        wait_for_arrivals(&flow, 500);
        done(flow.stop());
        let recording = done(capture.stop());
        let udp = recording.packets.into_iter().filter(|packet| packet.bytes.len() > HEADERS_BYTES);
        datagrams.extend(udp.map(|packet| packet.bytes[HEADERS_BYTES..].to_vec()));
        if datagrams.len() >= GENUINE {
            return datagrams;
        }
    }
    panic!("{} genuine datagrams seen in {ROUNDS} rounds", datagrams.len());
}

/// One junk datagram: random bytes; a right first byte and random bytes; a genuine datagram with changed bits, cut,
/// lengthened, or as it was.
fn junk(rng: &mut StdRng, genuine: &[Vec<u8>], buffer: &mut Vec<u8>) {
    let kind = rng.random_range(0..8);
    if kind < 3 {
        let length = match kind {
            0 => rng.random_range(0..64),
            // Now and then as long as UDP allows, in fragments.
            1 if rng.random_range(0..500) == 0 => rng.random_range(60_000..=65_507),
            _ => rng.random_range(0..1400),
        };
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

/// Forged sources: a network for benchmarks (RFC 2544), which nobody has.
const FORGED: Ipv4Addr = Ipv4Addr::new(198, 18, 0, 0);
/// The stream beside a flood, where one of a steady rate is meant.
const STEADY_MBIT_S: u32 = 100;

/// Forged handshakes a second, on an ordinary day and in the long form.
const HANDSHAKES_PER_S: [u64; 2] = [20_000, 50_000];
/// Junk datagrams a second, likewise.
const JUNK_PER_S: [u64; 2] = [20_000, 100_000];
/// Rounds of a stream as fast as it goes, each beside a flood at somebody else and one at `n1`: on a machine of two processors, which
/// the attacker and both ends of the stream share with the daemons, one round says little.
const FASTEST_ROUNDS: usize = 5;
/// What a stream keeps beside a flood, of what it has beside the same flood at somebody else.
const LEAST_SHARE: f64 = 0.8;
/// Junk datagrams that are made before the flood, which then sends them over and over: making them takes longer than sending.
const PREPARED: usize = 4096;
/// Key agreements that the floods at `n1` may cost: those before each is noticed, one for each init that does not open; and
/// some for the sessions' own handshakes.
fn agreements_limit() -> u64 {
    // An attacker who stands still for a second begins anew.
    let floods = if is_long() { 2 + FASTEST_ROUNDS } else { 2 };
    floods as u64 * (LOAD_HANDSHAKES_PER_S as u64 + 1) + 100
}

/// Whether a flood is to be as fast as the project's claims say, and the stream beside it to be held to them. Otherwise the
/// throughput is told, and what does not depend on how busy the machine is, is held to: counters and memory.
fn is_long() -> bool {
    limit("MESHNET_FLOOD", 0) > 0
}

/// A stream from `n2` to `n1` while the attacker sends `rate_per_s` datagrams a second, each made by `next`, to `target`.
fn stream_under(
    lan: &Lan,
    attacker: &netlab::Machine,
    target: &str,
    rate_per_s: u64,
    steady: bool,
    next: impl FnMut(&mut Vec<u8>) + Send,
) -> (Throughput, FloodReport) {
    let seconds: u32 = if is_long() { 4 } else { 2 };
    let length = Duration::from_secs(u64::from(seconds) + 2);
    let endpoint = format!("{target}:{PORT}").parse().expect("an endpoint");
    std::thread::scope(|scope| {
        let flood = scope.spawn(move || forged(attacker, FORGED, endpoint, rate_per_s, length, next));
        std::thread::sleep(Duration::from_millis(500));
        let stream = match steady {
            true => iperf_at(&lan.nodes[1], &lan.nodes[0], seconds, STEADY_MBIT_S),
            false => iperf(&lan.nodes[1], &lan.nodes[0], seconds),
        };
        (stream, done(flood.join().expect("the flood ended")))
    })
}

/// What an attacker can do who has the mesh's gate key: inits that are all different, with a right mac1.
#[test]
fn a_flood_of_handshakes_from_forged_addresses_costs_no_key_agreement_and_a_stream_goes_on() {
    let mut lan = Lan::new(2);
    let rate = HANDSHAKES_PER_S[usize::from(is_long())];
    let (attacker, sink) = attackers(&lan);
    // Genuine inits to n1, which it gets when n2 is new.
    let capture = done(lan.nodes[0].machine().capture("eth0"));
    lan.nodes[1].kill();
    done(lan.nodes[1].up());
    done(lan.nodes[1].wait_for_ping(overlay(&lan.nodes[0]), SETTLE));
    let recording = done(capture.stop());
    let udp = recording.packets.iter().filter_map(|packet| packet.bytes.get(HEADERS_BYTES..));
    let init = udp.filter(|datagram| datagram.first() == Some(&0x11)).max_by_key(|datagram| datagram.len());
    let template = init.expect("an init").to_vec();
    let key = mac1_key(&lan);
    let mut number = 0_u64;
    let mut next = |buffer: &mut Vec<u8>| {
        buffer.extend_from_slice(&template);
        number += 1;
        // Somewhere in the sealed static key; then mac1, and no mac2.
        buffer[44..52].copy_from_slice(&number.to_be_bytes());
        let body = buffer.len() - 2 * MAC_LEN;
        let mac1 = keyed_mac(key.bytes(), &[&buffer[..body]]);
        buffer[body..body + MAC_LEN].copy_from_slice(&mac1);
        buffer[body + MAC_LEN..].fill(0);
    };
    under_flood(&mut lan, &attacker, &sink, "forged handshakes", rate, &mut next, |before, after, sent| {
        let grown = |name: &str| after.handshakes[name] - before.handshakes[name];
        let (agreements, cookies) = (grown("dh_operations"), grown("cookies_sent"));
        figure("key agreements and cookies under forged handshakes", format!("{agreements}, {cookies}"));
        assert!(agreements <= agreements_limit(), "{agreements}");
        assert!(cookies > 1000, "{cookies}");
        // The kernel had most of the rest.
        let thinned = after.drops["udp_thinned"] - before.drops.get("udp_thinned").unwrap_or(&0);
        figure("thinned out of the forged handshakes", thinned);
        assert!(thinned > sent / 4, "{thinned} of {sent}");
    });
    // Somebody who was not there before gets through: his repetitions do, and the answers to what the flooded node asks.
    lan.nodes[1].kill();
    let endpoint = format!("192.0.2.1:{PORT}").parse().expect("an endpoint");
    let length = Duration::from_secs(if is_long() { 15 } else { 5 });
    let back = std::thread::scope(|scope| {
        scope.spawn(|| done(forged(&attacker, FORGED, endpoint, rate, length, &mut next)));
        std::thread::sleep(Duration::from_millis(500));
        let start = Instant::now();
        done(lan.nodes[1].up());
        done(lan.nodes[1].wait_for_ping(overlay(&lan.nodes[0]), SETTLE));
        start.elapsed()
    });
    figure("a member starts amid forged handshakes and is connected after", format!("{back:.1?}"));
    assert!(!is_long() || back < length - Duration::from_secs(1), "{back:?}: the flood was over");
}

#[test]
fn junk_from_forged_addresses_is_dropped_and_a_stream_goes_on() {
    let mut lan = Lan::new(2);
    let rate = JUNK_PER_S[usize::from(is_long())];
    let (attacker, sink) = attackers(&lan);
    let genuine = genuine_datagrams(&lan);
    let mut rng = StdRng::seed_from_u64(limit("MESHNET_SEED", 7));
    let mut prepared = vec![Vec::new(); PREPARED];
    prepared.iter_mut().for_each(|datagram| junk(&mut rng, &genuine, datagram));
    let mut number = 0;
    let mut next = |buffer: &mut Vec<u8>| {
        buffer.extend_from_slice(&prepared[number % PREPARED]);
        number += 1;
    };
    under_flood(&mut lan, &attacker, &sink, "junk", rate, &mut next, |before, after, sent| {
        let agreements = after.handshakes["dh_operations"] - before.handshakes["dh_operations"];
        figure("key agreements under junk", agreements);
        assert!(agreements <= agreements_limit(), "{agreements}");
        // What is neither a handshake nor from where a member sends, the kernel had most of.
        let thinned = after.drops["udp_thinned"] - before.drops.get("udp_thinned").unwrap_or(&0);
        figure("thinned out of the junk", thinned);
        assert!(thinned > sent / 4, "{thinned} of {sent}");
    });
    // A member that gets another address, from which nothing has come yet, is heard amid the junk.
    let endpoint = format!("192.0.2.1:{PORT}").parse().expect("an endpoint");
    let length = Duration::from_secs(if is_long() { 15 } else { 6 });
    let back = std::thread::scope(|scope| {
        scope.spawn(|| done(forged(&attacker, FORGED, endpoint, rate, length, &mut next)));
        std::thread::sleep(Duration::from_secs(1));
        let start = Instant::now();
        let machine = lan.nodes[1].machine();
        done(machine.ip("address del 192.0.2.2/24 dev eth0"));
        done(machine.ip("address add 192.0.2.22/24 dev eth0"));
        done(machine.ip("route replace default via 192.0.2.254"));
        done(lan.nodes[1].wait_for_ping(overlay(&lan.nodes[0]), SETTLE));
        done(lan.nodes[1].wait_for_path("n1", SETTLE, netlab::mesh::PathStatus::is_direct));
        start.elapsed()
    });
    figure("a member gets another address amid junk and is connected directly after", format!("{back:.1?}"));
    assert!(!is_long() || back < length - Duration::from_secs(2), "{back:?}: the flood was over");
}

/// An attacker, and somebody on the same LAN who drops what comes: the flood's own cost is the same to both.
fn attackers(lan: &Lan) -> (netlab::Machine, String) {
    let attacker = done(lan.lab.machine("attacker"));
    done(attacker.plug(&lan.switch, &["192.0.2.66/24"]));
    let sink = done(lan.lab.machine("sink"));
    done(sink.plug(&lan.switch, &["192.0.2.67/24"]));
    done(sink.nft("add table ip t; add chain ip t in { type filter hook input priority 0; }; add rule ip t in udp dport 4655 drop"));
    // Answers to forged addresses go back where they came from, and end there.
    done(lan.nodes[0].machine().ip("route replace 198.18.0.0/16 via 192.0.2.66"));
    (attacker, "192.0.2.67".into())
}

/// The stream beside a flood at somebody else, then beside one at `n1`.
fn under_flood(
    lan: &mut Lan,
    attacker: &netlab::Machine,
    sink: &str,
    name: &str,
    rate: u64,
    mut next: &mut (impl FnMut(&mut Vec<u8>) + Send),
    check: impl FnOnce(&Status, &Status, u64),
) {
    // Buffers that grow with the first stream have grown.
    iperf(&lan.nodes[1], &lan.nodes[0], 1);
    let usage_before = done(lan.nodes[0].daemon().expect("it runs").usage());
    let before = done(lan.nodes[0].status());
    let mut at_it = 0;
    for (steady, rounds) in [(true, 1), (false, if is_long() { FASTEST_ROUNDS } else { 0 })] {
        let which = if steady { "100 Mbit/s" } else { "as fast as it goes" };
        let mut shares = Vec::new();
        for _ in 0..rounds {
            let (elsewhere, _) = stream_under(lan, attacker, sink, rate, steady, &mut next);
            let (here, sent) = stream_under(lan, attacker, "192.0.2.1", rate, steady, &mut next);
            at_it += sent.sent;
            let reached = sent.sent as f64 / sent.took.as_secs_f64();
            figure(
                &format!("{name} at {reached:.0}/s beside a stream, {which}"),
                format!("{here}; with the flood at another machine: {elsewhere}"),
            );
            shares.push(here.mean_mbit_s / elsewhere.mean_mbit_s);
        }
        shares.sort_by(f64::total_cmp);
        let Some(median) = shares.get(shares.len() / 2) else { continue };
        let told = format!("share of a stream, {which}, under {name}");
        figure(&told, format!("median of {shares:.2?}: {median:.2}"));
        assert!(*median >= LEAST_SHARE || !is_long(), "{told}: {shares:.2?}");
    }
    let after = done(lan.nodes[0].status());
    let usage_after = done(lan.nodes[0].daemon().expect("it runs").usage());
    let growth = usage_after.resident_bytes.saturating_sub(usage_before.resident_bytes);
    figure(&format!("memory under {name}"), format!("+{} kB", growth / 1000));
    assert!(growth < GROWTH_LIMIT_BYTES, "{growth} bytes");
    check(&before, &after, at_it);
    done(lan.nodes[1].wait_for_ping(overlay(&lan.nodes[0]), SETTLE));
}

/// The key of mac1 to `n1` (docs/wire.md, section 7), as a member could make it, from the files of its state directory.
fn mac1_key(lan: &Lan) -> Secret<32> {
    let payload = |name: &str| -> Vec<u8> {
        let text = done(std::fs::read_to_string(lan.nodes[0].state().join(name)));
        let body = text.lines().skip(1).take_while(|line| !line.starts_with("blake2s "));
        done(BASE64_STANDARD.decode(body.collect::<String>()))
    };
    let keys = payload("transport.keys");
    // Three numbers, the retired keys, then number, secret, and signed epoch of each key.
    let retired = usize::from(u16::from_be_bytes([keys[12], keys[13]]));
    let first = &keys[14 + 32 * retired..];
    let secret = *first[4..].first_chunk::<32>().expect("a secret");
    let epoch_len = usize::from(u16::from_be_bytes([first[36], first[37]]));
    assert_eq!(first.len(), 38 + epoch_len, "one key");
    secret_hash("meshnet mac1", &[&TransportSecret::new(secret).public().0, &payload("gate.key")])
}
