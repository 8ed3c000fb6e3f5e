//! Nodes without a way between them talk through relays, which cannot read, and may die.

use meshnet_tests::net::{self, Split, done, figure, flow, iperf, let_send, overlay, wait_for_arrivals};
use netlab::mesh::PathStatus;
use netlab::{Flow, ping};
use std::net::SocketAddr;
use std::time::{Duration, Instant};

/// How soon traffic must go on after a relay dies.
const RECOVERY_LIMIT: Duration = Duration::from_secs(3);

/// What is looked for in captures: long enough to be in no other packet by chance.
const PLAINTEXT: &[u8] = b"the relay must not read this sentence";

#[test]
fn a_relay_sees_nothing_but_ciphertext() {
    let split = Split::new(1);
    let relay = split.relays[0].machine();
    let overlay_tap = done(relay.capture(netlab::mesh::INTERFACE));
    let underlay_taps = ["eth0", "eth1"].map(|interface| done(relay.capture(interface)));
    let receiver = done(split.b.machine().udp(&SocketAddr::new(overlay(&split.b), 9000).to_string()));
    done(receiver.set_read_timeout(Some(Duration::from_secs(2))));
    let sender = done(split.a.machine().udp("0.0.0.0:0"));
    for _ in 0..200 {
        done(sender.send_to(PLAINTEXT, SocketAddr::new(overlay(&split.b), 9000)));
        let mut buffer = [0; 100];
        let length = done(receiver.recv(&mut buffer));
        assert_eq!(&buffer[..length], PLAINTEXT);
    }
    let on_overlay = done(overlay_tap.stop());
    let on_underlay = underlay_taps.map(|tap| done(tap.stop()));
    let (left, right) = (on_underlay[0].packets.len(), on_underlay[1].packets.len());
    figure(
        "200 packets through a relay, seen there",
        format!("underlay {left} + {right} packets, overlay {}", on_overlay.packets.len()),
    );
    assert!(left >= 200 && right >= 200, "all of it passes the relay's underlay");
    for recording in on_underlay.iter().chain([&on_overlay]) {
        assert_eq!(recording.left_out, 0);
        assert_eq!(recording.count_with(&PLAINTEXT[..16]), 0, "plaintext on the relay");
    }
    let relayed_on_overlay = on_overlay.packets.iter().filter(|packet| concerns(&packet.bytes, &split));
    assert_eq!(relayed_on_overlay.count(), 0, "relayed traffic on the relay's overlay interface");
}

/// Is this IPv4 packet between `a` and `b`?
fn concerns(packet: &[u8], split: &Split) -> bool {
    let addresses = [overlay(&split.a), overlay(&split.b)].map(|address| match address {
        std::net::IpAddr::V4(address) => address.octets(),
        std::net::IpAddr::V6(_) => panic!("asked for IPv4"),
    });
    packet.len() >= 20
        && addresses.iter().any(|address| packet[12..16] == *address)
        && addresses.iter().any(|address| packet[16..20] == *address)
}

#[test]
fn traffic_goes_on_when_the_relay_in_use_is_killed() {
    let mut split = Split::new(2);
    let used = split.relay_in_use();
    let flows = Flows::start(&split);
    let killed_at = Instant::now();
    split.relays[used].kill();
    flows.must_recover("relay killed", killed_at);
    assert_ne!(split.relay_in_use(), used);
}

#[test]
fn traffic_goes_on_when_the_relay_in_use_falls_silent() {
    let split = Split::new(2);
    let used = split.relay_in_use();
    let flows = Flows::start(&split);
    let silenced_at = Instant::now();
    for port in &split.relay_ports[used] {
        done(port.silence());
    }
    flows.must_recover("relay silenced", silenced_at);
    assert_ne!(split.relay_in_use(), used);
}

#[test]
fn of_several_relays_the_better_one_is_used_and_changing_over_loses_nothing() {
    let (far, near) = (Duration::from_millis(30), Duration::from_millis(5));
    let split = Split::with_delays(&[far, near]);
    let flow = flow(&split.a, &split.b, 200);
    let start = Instant::now();
    let better = |path: &PathStatus| path.is_relayed() && path.via == ["r2"];
    let path = done(split.a.wait_for_path("b", net::SETTLE, better));
    done(split.b.wait_for_path("a", net::SETTLE, better));
    figure("time until the better of two relays is used", format!("{:?}, {path:?}", start.elapsed()));
    wait_for_arrivals(&flow, 400);
    let report = done(flow.stop());
    figure("flow while the better relay is found", &report);
    assert_eq!(report.lost, 0, "{report}");
    assert!(report.delay.p50_us < 25_000, "the last of it went over the near relay: {report}");
}

/// Numbered flows of 1,000/s both ways between `a` and `b`.
struct Flows([(&'static str, Flow); 2]);

impl Flows {
    fn start(split: &Split) -> Flows {
        let flows = [("a to b", flow(&split.a, &split.b, 1000)), ("b to a", flow(&split.b, &split.a, 1000))];
        flows.iter().for_each(|(_, flow)| wait_for_arrivals(flow, 500));
        Flows(flows)
    }

    fn must_recover(self, event: &str, at: Instant) {
        let_send(&self.0[0].1, 6000);
        for (name, flow) in self.0 {
            let report = done(flow.stop());
            let recovery = report.recovery(at);
            figure(&format!("{event}, {name}, 1,000/s"), format!("{report}, back after {recovery:?}"));
            assert!(recovery.is_some_and(|time| time <= RECOVERY_LIMIT), "{report}: {recovery:?}");
        }
    }
}

#[test]
fn none_of_the_first_packets_between_strangers_is_lost() {
    let split = Split::quiet(&[Duration::ZERO]);
    // They must know how to reach each other, and nothing more.
    let prefix = format!("{}/32", overlay(&split.b));
    done(netlab::wait::until("a route to b", net::SETTLE, || {
        let routes = done(split.a.ok(&["routes"]));
        let leads_there = |line: &str| line.contains(&prefix) && line.ends_with("used");
        if routes.lines().any(leads_there) { Ok(()) } else { Err(routes) }
    }));
    let to = overlay(&split.b);
    let limit = Duration::from_secs(3);
    let answers = done(done(split.a.machine().enter(|| ping::burst(to, 5, limit))));
    figure("five packets at once between strangers, ms", times(&answers));
    assert!(answers.iter().all(Option::is_some), "{answers:?}");
}

fn times(answers: &[Option<Duration>]) -> String {
    let words =
        answers.iter().map(|it| it.map_or("lost".to_owned(), |it| format!("{:.1}", it.as_secs_f64() * 1e3)));
    words.collect::<Vec<_>>().join(" ")
}

#[test]
fn tcp_over_a_relay_has_no_stall_in_30_s() {
    let split = Split::new(1);
    let seconds = net::limit("MESHNET_IPERF_SECONDS", 30);
    let throughput = iperf(&split.a, &split.b, seconds);
    figure("TCP, relayed path", &throughput);
    assert!(throughput.seconds_mbit_s.len() >= seconds as usize - 1, "{throughput:?}");
    assert!(throughput.slowest_mbit_s() > throughput.mean_mbit_s / 20.0, "a stall: {throughput:?}");
}
