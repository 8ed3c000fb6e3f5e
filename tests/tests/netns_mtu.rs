//! What paths carry: found out, lost again, different from peer to peer, and told to those who send too much.

use meshnet_tests::net::{
    Lan, PORT, SETTLE, Split, admit, done, enlist, figure, found, overlay, restart_with, timed, transfer,
    transfer_during, without_link_local,
};
use netlab::{Fault, Lab, Machine};
use nix::sys::socket::{getsockopt, sockopt::TcpMaxSeg};
use std::net::{IpAddr, TcpListener, TcpStream};
use std::process::Command;
use std::time::Duration;

/// What the path carries on a hop of 1300 bytes: less IPv4 and UDP (28), header, trailer, and tag (34).
const HOLE: u32 = 1300;
const THROUGH_HOLE: u32 = HOLE - 28 - 34;

fn narrow() -> Fault {
    Fault { swallow_longer_than_bytes: Some(HOLE), ..Fault::default() }
}

/// What ping(8) says about one packet of so many bytes with DF.
fn ping_whole(machine: &Machine, to: IpAddr, packet_bytes: usize) -> String {
    let headers = if to.is_ipv4() { 28 } else { 48 };
    let mut ping = Command::new("ping");
    ping.args([
        "-M",
        "do",
        "-c",
        "1",
        "-W",
        "2",
        "-s",
        &(packet_bytes - headers).to_string(),
        &to.to_string(),
    ]);
    let finished = done(machine.run(ping, Duration::from_secs(5)));
    format!("{}{}", finished.stdout, finished.stderr)
}

fn route(machine: &Machine, to: IpAddr) -> String {
    done(machine.ip(&format!("route get {to}")))
}

#[test]
fn a_hole_that_opens_under_a_transfer_does_not_end_it() {
    let lan = Lan::new(2);
    let (a, b) = (&lan.nodes[0], &lan.nodes[1]);
    done(a.wait_for_path("n2", SETTLE, |path| path.mtu == 1354));
    let went = transfer_during(a.machine(), b.machine(), overlay(b), 100_000_000, || {
        done(lan.ports[0].apply(&narrow()));
    });
    figure("longest pause of TCP when long packets begin to vanish", format!("{:?}", went.longest_gap));
    assert!(went.longest_gap < Duration::from_secs(2), "{went:?}");
    // It falls to a size that is known to pass, and is searched for from there.
    let exact = THROUGH_HOLE - 20..=THROUGH_HOLE;
    done(a.wait_for_path("n2", SETTLE, |path| path.is_direct() && exact.contains(&path.mtu)));
    // Other packets: what may be cut arrives, and the kernel knows what a path carries.
    // (The other end finds out with its first long answers.)
    for to in [overlay(b), done(b.address(true))] {
        done(netlab::wait::until("long echoes", SETTLE, || lab_ping(a.machine(), to, 4000)));
    }
    done(netlab::wait::until("the kernel to know", SETTLE, || {
        let known = route(a.machine(), overlay(b));
        match a.path_to("n2") {
            Ok(Some(path)) if known.contains(&format!("mtu {}", path.mtu)) => Ok(()),
            other => Err(format!("{known}: {other:?}")),
        }
    }));
    // And it comes back, by itself.
    done(lan.ports[0].heal());
    transfer(a.machine(), b.machine(), overlay(b), 1_000_000);
    let wide = netlab::wait::until("the old size", Duration::from_secs(60), || {
        transfer(a.machine(), b.machine(), overlay(b), 100_000);
        match a.path_to("n2") {
            Ok(Some(path)) if path.mtu == 1354 => Ok(()),
            other => Err(format!("{other:?}")),
        }
    });
    done(wide);
    done(netlab::wait::until("the kernel to know that, too", SETTLE, || {
        let known = route(a.machine(), overlay(b));
        if known.contains("mtu 12") { Err(known) } else { Ok(()) }
    }));
}

/// An echo of so many bytes that the kernel may cut.
fn lab_ping(machine: &Machine, to: IpAddr, bytes: usize) -> Result<(), String> {
    let mut ping = Command::new("ping");
    ping.args(["-M", "dont", "-c", "3", "-i", "0.2", "-W", "2", "-s", &bytes.to_string(), &to.to_string()]);
    let finished = done(machine.run(ping, Duration::from_secs(8)));
    let text = format!("{}{}", finished.stdout, finished.stderr);
    if text.contains(" 0% packet loss") { Ok(()) } else { Err(text) }
}

#[test]
fn a_switch_to_a_narrower_path_loses_nothing_for_tcp() {
    // TCP tries again after 0.2, 0.6, 1.4, and 3 s.
    timed("longest pause of TCP when it has to take a narrower path", Duration::from_secs(3), || {
        let mut lan = Lan::new(2);
        done(lan.uplink.apply(&narrow()));
        // Restarted, the nodes find the relay's path narrow, and the one between them wide.
        for node in &mut lan.nodes {
            restart_with(node, "");
        }
        let (a, b) = (&lan.nodes[0], &lan.nodes[1]);
        done(a.wait_for_ping(overlay(b), SETTLE));
        done(a.wait_for_path("n2", SETTLE, |path| path.is_direct() && path.mtu == 1354));
        let went = transfer_during(a.machine(), b.machine(), overlay(b), 100_000_000, || {
            let cut = |to: &str| Fault { cut_to: vec![done(to.parse())], ..Fault::default() };
            done(lan.ports[0].apply(&cut("192.0.2.2")));
            done(lan.ports[1].apply(&cut("192.0.2.1")));
        });
        let path = done(a.wait_for_path("n2", SETTLE, netlab::mesh::PathStatus::is_relayed));
        assert!(path.mtu <= THROUGH_HOLE - 32 && path.mtu > 1100, "{path:?}");
        vec![went.longest_gap]
    });
}

#[test]
fn jumbo_frames_are_used_where_they_pass_and_nowhere_else() {
    let lab = done(Lab::new());
    let (wide, usual) = (done(lab.switch("wide")), done(lab.switch("usual")));
    let machine = |name: &str| {
        let machine = done(lab.machine(name));
        without_link_local(&machine);
        machine
    };
    let (first, second, third) = (machine("a"), machine("b"), machine("c"));
    for (machine, address) in [(&first, "192.0.2.1/24"), (&second, "192.0.2.2/24")] {
        let port = done(machine.plug(&wide, &[address]));
        done(port.set_mtu(9000));
    }
    for (machine, address) in [(&first, "198.51.100.1/24"), (&third, "198.51.100.3/24")] {
        done(machine.plug(&usual, &[address]));
    }
    let endpoints = [format!("192.0.2.1:{PORT}"), format!("198.51.100.1:{PORT}")];
    let a = found(&first, &["--relay", "--endpoint", &endpoints[0], "--endpoint", &endpoints[1]]);
    let b = admit(&a, &second, &[], &[]);
    let c = admit(&a, &third, &[], &[]);
    meshnet_tests::net::wait_for_all_pairs(&[&a, &b, &c]);
    let path = done(a.wait_for_path("b", SETTLE, |path| path.mtu > 8000));
    figure("MTU found on an underlay of 9000 bytes", path.mtu);
    assert_eq!(path.mtu, 9000 - 28 - 34);
    let link = done(a.machine().ip(&format!("link show dev {}", netlab::mesh::INTERFACE)));
    assert!(link.contains(&format!("mtu {}", path.mtu)), "{link}");
    // The others are as narrow as they are, and the kernel knows.
    let narrow = done(a.wait_for_path("c", SETTLE, |path| path.mtu < 1500));
    assert!(route(a.machine(), overlay(&c)).contains(&format!("mtu {}", narrow.mtu)));
    assert!(ping_whole(a.machine(), overlay(&b), 8000).contains(" 0% packet loss"));
    for (from, to) in [(&a, &b), (&b, &a), (&a, &c), (&c, &a), (&b, &c), (&c, &b)] {
        let rate = transfer(from.machine(), to.machine(), overlay(to), 20_000_000);
        let names = [from.machine().name(), to.machine().name()].join(" to ");
        figure(&format!("verified transfer, mixed MTUs, {names}"), format!("{rate:.0} Mbit/s"));
    }
    // Through the relay it is the narrowest hop that counts.
    let relayed = done(b.wait_for_path("c", SETTLE, netlab::mesh::PathStatus::is_relayed));
    assert!((1300..1500).contains(&relayed.mtu), "{relayed:?}");
}

#[test]
fn who_sends_too_much_with_df_is_told_what_passes() {
    let mut lan = Lan::new(2);
    // In a table that no rule leads to, the routes tell the kernel nothing: it is up to us.
    restart_with(&mut lan.nodes[0], "route_table = 5000");
    let (a, b) = (&lan.nodes[0], &lan.nodes[1]);
    done(lan.ports[0].apply(&narrow()));
    let targets = [overlay(b), done(b.address(true))];
    for to in targets {
        done(a.wait_for_ping(to, SETTLE));
    }
    let path = done(netlab::wait::until("a narrow path", SETTLE, || {
        ping_whole(a.machine(), targets[0], 1354);
        match a.path_to("n2") {
            Ok(Some(path)) if path.is_direct() && path.mtu <= THROUGH_HOLE => Ok(path),
            other => Err(format!("{other:?}")),
        }
    }));
    for (to, told) in [(targets[0], path.mtu), (targets[1], 1280)] {
        let text = netlab::wait::until("the error", SETTLE, || {
            done(a.machine().ip("route flush cache"));
            let text = ping_whole(a.machine(), to, 1354);
            // By an ICMP error, or by the kernel where the route says so already; ping has words of its own for each.
            if ["mtu=", "mtu = ", "mtu: "].iter().any(|words| text.contains(&format!("{words}{told}"))) {
                Ok(text)
            } else {
                Err(text)
            }
        });
        done(text);
    }
    let drops = done(a.status()).drops;
    // At the device; or not even there, where the route was narrower before the first of them came.
    let counted = ["tx_too_big", "udp_too_big"].iter().filter_map(|reason| drops.get(*reason));
    assert!(counted.sum::<u64>() > 0, "{drops:?}");
    // Both families go on with what does pass; IPv6 has a right to 1280.
    assert!(ping_whole(a.machine(), targets[0], path.mtu as usize).contains(" 0% packet loss"));
    assert!(ping_whole(a.machine(), targets[1], 1280).contains(" 0% packet loss"));
}

#[test]
fn nobody_behind_a_member_agrees_on_segments_that_do_not_pass() {
    let lab = done(Lab::new());
    let (internet, office) = (done(lab.switch("internet")), done(lab.switch("office")));
    let client = done(lab.machine("client"));
    let port = done(client.plug(&internet, &["203.0.113.1/24"]));
    let client = found(&client, &["--relay", "--endpoint", &format!("203.0.113.1:{PORT}")]);
    let gateway = done(lab.router("gateway"));
    done(gateway.plug(&internet, &["203.0.113.2/24"]));
    done(gateway.plug(&office, &["192.168.7.1/24"]));
    let mut member = enlist(&client, &gateway, &["--subnet", "192.168.7.0/24"], &[]);
    let offer = "subnets = [{ prefix = \"192.168.7.0/24\" }]\n";
    done(std::fs::write(member.state().join("meshd.toml"), offer));
    done(member.up());
    let host = done(lab.machine("host"));
    done(host.plug(&office, &["192.168.7.80/24"]));
    done(host.default_route("192.168.7.1"));
    let address: IpAddr = done("192.168.7.80".parse());
    done(client.wait_for_ping(address, SETTLE));
    done(port.apply(&narrow()));
    // Who sends long packets finds out.
    for (from, to, at, sender, peer) in [
        (client.machine(), &host, address, &client, "gateway"),
        (&host, client.machine(), overlay(&client), &member, "client"),
    ] {
        done(netlab::wait::until("a narrow path", SETTLE, || {
            transfer(from, to, at, 3_000_000);
            match sender.path_to(peer) {
                Ok(Some(path)) if path.mtu <= THROUGH_HOLE => Ok(()),
                other => Err(format!("{other:?}")),
            }
        }));
        let listener = done(done(to.enter(|| TcpListener::bind((at, 8080)))));
        let connected = done(done(from.enter(|| TcpStream::connect((at, 8080)))));
        let (accepted, _) = done(listener.accept());
        for stream in [&connected, &accepted] {
            let segment = done(getsockopt(stream, TcpMaxSeg));
            assert!(segment <= THROUGH_HOLE - 40, "{segment} at one end");
        }
    }
}

#[test]
fn a_narrow_hop_behind_a_relay_is_found_and_a_transfer_goes_on_when_it_appears() {
    timed("longest pause of TCP when a hop behind the relay gets narrow", Duration::from_secs(2), || {
        let split = Split::new(1);
        let (a, b) = (&split.a, &split.b);
        let went = transfer_during(a.machine(), b.machine(), overlay(b), 60_000_000, || {
            done(split.relay_ports[0][1].apply(&narrow()));
        });
        let path = done(a.wait_for_path("b", SETTLE, |path| path.mtu <= THROUGH_HOLE - 32));
        assert!(path.is_relayed() && path.mtu > 1150, "{path:?}");
        vec![went.longest_gap]
    });
}
