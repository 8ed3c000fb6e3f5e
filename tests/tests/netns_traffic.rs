//! What happens to packets beside being carried: their marks, limits of relays, errors, loss.

use meshnet_tests::net::{
    Lan, SETTLE, Split, admit, done, figure, flow, let_send, limit, overlay, restart_with, transfer,
    wait_for_arrivals,
};
use netlab::mesh::{INTERFACE, Member, PathStatus};
use netlab::{Fault, Machine};
use std::io::{Read, Write};
use std::net::IpAddr;
use std::process::Command;
use std::time::Duration;

/// ping(8) with a TOS; what it says.
fn ping(machine: &Machine, to: IpAddr, tos: u8) -> String {
    let mut ping = Command::new("ping");
    ping.args(["-c", "5", "-i", "0.2", "-W", "1", "-Q", &tos.to_string(), &to.to_string()]);
    let finished = done(machine.run(ping, Duration::from_secs(8)));
    format!("{}{}", finished.stdout, finished.stderr)
}

/// TOS of the IPv4 packets of a protocol that a machine's interface sees meanwhile.
fn seen(machine: &Machine, interface: &str, protocol: u8, meanwhile: impl FnOnce()) -> Vec<u8> {
    let link = if interface == INTERFACE { 0 } else { 14 };
    let capture = done(machine.capture(interface));
    meanwhile();
    let recording = done(capture.stop());
    let packets = recording.packets.iter().filter_map(|packet| packet.bytes.get(link..));
    packets.filter(|ip| ip.len() >= 20 && ip[0] == 0x45 && ip[9] == protocol).map(|ip| ip[1]).collect()
}

#[test]
fn marks_go_out_where_that_is_asked_for_and_congestion_comes_back_in() {
    const ICMP: u8 = 1;
    const UDP: u8 = 17;
    const URGENT_ECT: u8 = 0xb8 | 2;
    let mut lan = Lan::new(2);
    let target = overlay(&lan.nodes[1]);
    let at = |lan: &Lan| lan.ports[1].interface().to_owned();
    let machine = lan.nodes[1].machine().clone();
    let outside = seen(&machine, &at(&lan), UDP, || {
        ping(lan.nodes[0].machine(), target, URGENT_ECT);
    });
    assert!(!outside.is_empty() && outside.iter().all(|tos| *tos == 0), "unless asked for: {outside:?}");
    restart_with(&mut lan.nodes[0], "tos = \"copy\"");
    let a = &lan.nodes[0];
    done(a.wait_for_ping(target, SETTLE));
    let outside = seen(&machine, &at(&lan), UDP, || {
        ping(a.machine(), target, URGENT_ECT);
    });
    assert!(outside.iter().filter(|tos| **tos == URGENT_ECT).count() >= 5, "{outside:?}");
    // A queue on the way is long and says so.
    let mark = format!(
        "table netdev congest {{ chain ingress {{ type filter hook ingress device \"{}\" priority 0; \
         ip protocol udp ip ecn set ce; }};}}",
        at(&lan)
    );
    done(machine.nft(&mark));
    let inside = seen(&machine, INTERFACE, ICMP, || {
        let text = ping(a.machine(), target, URGENT_ECT);
        assert!(text.contains(" 0% packet loss"), "{text}");
    });
    assert!(inside.iter().filter(|tos| **tos == URGENT_ECT | 3).count() >= 5, "{inside:?}");
    // Whose transport knows nothing of ECN has to notice by loss.
    let text = ping(a.machine(), target, 0);
    assert!(text.contains("100% packet loss"), "{text}");
    let drops = done(lan.nodes[1].status()).drops;
    assert!(drops.get("rx_not_ecn_capable").is_some_and(|count| *count >= 5), "{drops:?}");
}

#[test]
fn a_flood_through_a_relay_is_limited_and_another_source_does_not_feel_it() {
    let mut split = Split::new(1);
    let machine = done(split.lab.machine("c"));
    done(machine.plug(&split.left, &["192.0.2.3/24"]));
    let quiet = admit(&split.relays[0], &machine, &[], &[]);
    restart_with(&mut split.relays[0], "relay_limit = \"4mbit\"");
    done(split.a.wait_for_ping(overlay(&split.b), SETTLE));
    done(quiet.wait_for_ping(overlay(&split.b), SETTLE));
    let other = flow(&quiet, &split.b, 200);
    wait_for_arrivals(&other, 200);
    // 200 bytes, inner headers, and what sealing and relaying add: 294 bytes, 47 Mbit/s.
    let flood = flow(&split.a, &split.b, 20_000);
    wait_for_arrivals(&flood, 2_000);
    let (before, start) = (flood.progress().received, std::time::Instant::now());
    let_send(&other, 1_000);
    let rate = (flood.progress().received - before) as f64 / start.elapsed().as_secs_f64();
    let flood = done(flood.stop());
    let other = done(other.stop());
    let mbit = rate * 294.0 * 8.0 / 1e6;
    figure("a flood of 47 Mbit/s through a relay with a limit of 4", format!("{mbit:.1} Mbit/s arrive"));
    figure("packets of another source that are lost meanwhile", format!("{} of {}", other.lost, other.sent));
    assert!((2.0..5.0).contains(&mbit), "{mbit}");
    assert!(flood.lost > 0 && other.lost * 100 <= other.sent, "{other:?}");
    let drops = done(split.relays[0].status()).drops;
    assert!(drops.get("rx_relay_limited").is_some_and(|count| *count > 1000), "{drops:?}");
}

#[test]
fn a_hog_on_a_saturated_relay_leaves_the_others_what_they_ask_for() {
    let split = Split::new(1);
    let machine = done(split.lab.machine("c"));
    done(machine.plug(&split.left, &["192.0.2.3/24"]));
    let quiet = admit(&split.relays[0], &machine, &[], &[]);
    done(quiet.wait_for_ping(overlay(&split.b), SETTLE));
    // The relay's way to the right carries less than what comes from the left. No limit is configured.
    done(split.relay_ports[0][1].limit_rate(Some("10mbit")));
    let other = flow(&quiet, &split.b, 200);
    wait_for_arrivals(&other, 200);
    let hog = flow(&split.a, &split.b, 20_000);
    wait_for_arrivals(&hog, 2_000);
    let before = other.progress();
    let (hog_before, start) = (hog.progress().received, std::time::Instant::now());
    let_send(&other, 1_000);
    let rate = (hog.progress().received - hog_before) as f64 / start.elapsed().as_secs_f64();
    let (hog, other) = (done(hog.stop()), done(other.stop()));
    let arrived = other.received - before.received;
    let sent = other.sent - before.sent;
    figure(
        "a hog of 47 Mbit/s through a relay that carries 10",
        format!("{:.1} Mbit/s of it arrive; of another source {arrived} of {sent}", rate * 294.0 * 8.0 / 1e6),
    );
    assert!(hog.lost > 0, "{hog:?}");
    // Without shares it would lose as large a part as the hog does, four of five.
    assert!(arrived * 20 >= sent * 19, "{arrived} of {sent}");
    let drops = done(split.relays[0].status()).drops;
    assert!(drops.get("rx_relay_share").is_some_and(|count| *count > 1000), "{drops:?}");
}

#[test]
fn a_stream_that_takes_all_that_a_relay_can_do_is_not_held_back() {
    const BYTES: u64 = 500_000_000;
    let split = Split::new(1);
    done(split.a.wait_for_ping(overlay(&split.b), SETTLE));
    let mbit_per_s = transfer(split.a.machine(), split.b.machine(), overlay(&split.b), BYTES);
    let drops = done(split.relays[0].status()).drops;
    let refused = drops.get("rx_relay_share").copied().unwrap_or(0);
    figure(
        "a stream alone on a relay",
        format!("{:.2} Gbit/s; {refused} datagrams held back", mbit_per_s / 1e3),
    );
    // Of some 400,000. Streams find the relay's rate by themselves.
    assert!(refused <= 40, "{drops:?}");
}

#[test]
fn who_sends_to_nobody_is_told() {
    let lan = Lan::new(1);
    let a = &lan.nodes[0];
    let IpAddr::V4(v4) = overlay(a) else { panic!("IPv4") };
    let [x, y, _, _] = v4.octets();
    let nobody: IpAddr = [x, y, 200, 200].into();
    let text = ping(a.machine(), nobody, 0);
    assert!(text.contains("Destination Net Unreachable"), "{text}");
}

#[test]
fn who_sends_to_a_member_that_died_is_told_and_reaches_it_again_when_it_is_back() {
    let mut lan = Lan::new(2);
    let target = overlay(&lan.nodes[1]);
    // The keys outlive the daemon by minutes.
    lan.nodes[1].kill();
    let start = std::time::Instant::now();
    let machine = lan.nodes[0].machine();
    done(netlab::wait::until("the error", SETTLE, || {
        let text = ping(machine, target, 0);
        if text.contains("Destination Host Unreachable") { Ok(()) } else { Err(text) }
    }));
    figure("told that a member does not answer, after its death", format!("{:?} at most", start.elapsed()));
    done(lan.nodes[1].up());
    done(lan.nodes[0].wait_for_ping(target, SETTLE));
    let text = ping(lan.nodes[0].machine(), target, 0);
    assert!(text.contains(" 0% packet loss"), "{text}");
}

#[test]
fn whatever_is_lost_on_the_way_every_byte_arrives() {
    let lan = Lan::new(2);
    let (a, b) = (&lan.nodes[0], &lan.nodes[1]);
    for (permille, bytes) in [(10, 20_000_000_u64), (50, 2_000_000), (200, 200_000)] {
        done(lan.ports[0].apply(&Fault { loss_out_permille: permille, ..Fault::default() }));
        let rate = transfer(a.machine(), b.machine(), overlay(b), bytes);
        figure(&format!("verified transfer at {} % loss", permille / 10), format!("{rate:.1} Mbit/s"));
        let path = done(a.path_to("n2")).unwrap_or_default();
        assert_eq!(path.mtu, 1354, "loss is no black hole: {path:?}");
    }
}

/// 1 GB at a time; `MESHNET_LONG_TRANSFER_MB=10000` for ten.
#[test]
fn a_long_transfer_is_whole_direct_and_relayed_with_and_without_offload() {
    let bytes = limit("MESHNET_LONG_TRANSFER_MB", 1000_u64) * 1_000_000;
    let mut lan = Lan::new(2);
    let mut split = Split::new(1);
    for offloads in [["auto", "auto"], ["off", "auto"], ["auto", "off"]] {
        // Without offload it is much slower.
        let bytes = if offloads == ["auto", "auto"] { bytes } else { bytes / 10 };
        if offloads != ["auto", "auto"] {
            for (member, offload) in lan.nodes.iter_mut().zip(offloads) {
                set_offload(member, offload);
            }
            set_offload(&mut split.a, offloads[0]);
            set_offload(&mut split.b, offloads[1]);
        }
        for (name, from, to) in [("direct", &lan.nodes[0], &lan.nodes[1]), ("relayed", &split.a, &split.b)] {
            done(from.wait_for_ping(overlay(to), SETTLE));
            let rate = transfer(from.machine(), to.machine(), overlay(to), bytes);
            let what = format!("verified transfer of {} MB, {name}, offload {offloads:?}", bytes / 1_000_000);
            figure(&what, format!("{rate:.0} Mbit/s"));
        }
    }
}

fn set_offload(member: &mut Member, offload: &str) {
    let file = member.state().join("meshd.toml");
    let text = std::fs::read_to_string(&file).unwrap_or_default();
    let others: Vec<&str> = text.lines().filter(|line| !line.starts_with("offload")).collect();
    done(std::fs::write(&file, others.join("\n")));
    restart_with(member, &format!("offload = \"{offload}\""));
}

#[test]
fn a_scraper_sees_what_each_path_carried_and_every_reason_to_drop() {
    let mut lan = Lan::new(2);
    restart_with(&mut lan.nodes[0], "metrics = \"127.0.0.1:9655\"\nlan_discovery = false");
    let (a, b) = (&lan.nodes[0], &lan.nodes[1]);
    done(a.wait_for_ping(overlay(b), SETTLE));
    done(a.wait_for_path("n2", SETTLE, PathStatus::is_direct));
    transfer(a.machine(), b.machine(), overlay(b), 5_000_000);
    let scraped = done(done(a.machine().enter(|| -> std::io::Result<String> {
        let mut stream = std::net::TcpStream::connect("127.0.0.1:9655")?;
        stream.write_all(b"GET /metrics HTTP/1.1\r\nHost: localhost:9655\r\nConnection: close\r\n\r\n")?;
        let mut text = String::new();
        stream.read_to_string(&mut text)?;
        Ok(text)
    })));
    assert!(scraped.starts_with("HTTP/1.1 200"), "{scraped}");
    for text in [scraped, done(a.ok(&["metrics"]))] {
        let value = |start: &str| {
            let line = text.lines().find(|line| line.starts_with(start));
            let value = line.and_then(|line| line.rsplit(' ').next()?.parse::<f64>().ok());
            value.unwrap_or_else(|| panic!("no {start} in {text}"))
        };
        let direct = "peer=\"n2\",kind=\"direct\",remote=\"192.0.2.2:4655\"";
        assert!(value(&format!("meshd_path_tx_bytes_total{{{direct}")) > 5e6);
        assert!(value(&format!("meshd_path_rx_bytes_total{{{direct}")) > 0.0);
        assert!(value("meshd_drops_total{reason=\"rx_replayed\"}") >= 0.0);
        assert!(value("meshd_lane_tx_super_packets_total{lane=\"0\"}") > 0.0);
    }
}
