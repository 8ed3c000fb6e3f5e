//! Nodes without a way between them talk through relays, which cannot read.

use meshnet_tests::net::{self, Split, done, figure, flow, iperf, overlay, wait_for_arrivals};
use netlab::mesh::PathStatus;
use std::net::SocketAddr;
use std::time::{Duration, Instant};

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

#[test]
fn tcp_over_a_relay_has_no_stall_in_30_s() {
    let split = Split::new(1);
    let seconds = net::limit("MESHNET_IPERF_SECONDS", 30);
    let throughput = iperf(&split.a, &split.b, seconds);
    figure("TCP, relayed path", &throughput);
    assert!(throughput.seconds_mbit_s.len() >= seconds as usize - 1, "{throughput:?}");
    assert!(throughput.slowest_mbit_s() > throughput.mean_mbit_s / 20.0, "a stall: {throughput:?}");
}
