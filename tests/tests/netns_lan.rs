//! Two nodes on an isolated LAN find each other: no server, no address configured, none of those they had before.

use meshnet_tests::net::{PORT, SETTLE, admit, done, figure, found, overlay, timed, without_link_local};
use netlab::mesh::{Member, PathStatus};
use netlab::{Lab, Machine, Port, Switch};
use std::net::{IpAddr, SocketAddr};
use std::time::{Duration, Instant};

/// Time that finding each other may take, from the moment that the last one has its new address.
const LIMIT: Duration = Duration::from_secs(10);

/// Ethernet, IPv4, and UDP.
const HEADERS: usize = 14 + 20 + 8;

/// A relay and two nodes in one datacentre, and another switch to which nothing is plugged yet.
struct Island {
    _lab: Lab,
    _relay: Member,
    nodes: [Member; 2],
    ports: [Port; 2],
    island: Switch,
}

fn build() -> Island {
    let lab = done(Lab::new());
    let (datacenter, island) = (done(lab.switch("dc")), done(lab.switch("island")));
    let plugged = |name: &str, address: &str| -> (Machine, Port) {
        let machine = done(lab.machine(name));
        // Link-local addresses only where they are what is looked at.
        without_link_local(&machine);
        let port = done(machine.plug(&datacenter, &[address]));
        (machine, port)
    };
    let (relay, _) = plugged("relay", "203.0.113.1/24");
    let relay = found(&relay, &["--relay", "--endpoint", &format!("203.0.113.1:{PORT}")]);
    let (a, port_a) = plugged("a", "203.0.113.2/24");
    let (b, port_b) = plugged("b", "203.0.113.3/24");
    let nodes = [admit(&relay, &a, &[], &[]), admit(&relay, &b, &[], &[])];
    done(nodes[0].wait_for_ping(overlay(&nodes[1]), SETTLE));
    Island { _lab: lab, _relay: relay, nodes, ports: [port_a, port_b], island }
}

impl Island {
    /// Cuts both nodes off, and puts them on the island with addresses that nobody knows.
    fn move_over(&self, addresses: [&str; 2]) {
        for ((node, port), address) in self.nodes.iter().zip(&self.ports).zip(addresses) {
            done(port.set_up(false));
            done(node.machine().plug(&self.island, &[address]));
        }
    }
}

#[test]
fn two_nodes_on_an_isolated_lan_find_each_other() {
    for (family, addresses) in [
        ("IPv4", ["192.168.77.1/24", "192.168.77.2/24"]),
        ("IPv6", ["fd77::1/64", "fd77::2/64"]),
        ("IPv6 link-local only", ["fe80::7701/64", "fe80::7702/64"]),
    ] {
        timed(&format!("isolated LAN, {family}: to the first echo"), LIMIT, || {
            let island = build();
            island.move_over(addresses);
            let at = Instant::now();
            done(island.nodes[0].wait_for_ping(overlay(&island.nodes[1]), SETTLE));
            let took = at.elapsed();
            let local = |path: &PathStatus| {
                let there = addresses[1].split(':').next().unwrap_or_default().trim_end_matches("/24");
                path.is_direct() && path.remote.as_ref().is_some_and(|remote| remote.contains(there))
            };
            done(island.nodes[0].wait_for_path("b", SETTLE, local));
            vec![took]
        });
    }
}

#[test]
fn they_do_so_after_a_restart_too_and_strangers_hear_noise_and_no_answer() {
    let mut island = build();
    for node in &mut island.nodes {
        done(node.terminate(Duration::from_secs(5)));
    }
    let stranger = done(island._lab.machine("stranger"));
    done(stranger.plug(&island.island, &["192.168.77.9/24"]));
    let tap = done(stranger.capture("eth0"));
    island.move_over(["192.168.77.1/24", "192.168.77.2/24"]);
    for node in &mut island.nodes {
        done(node.up());
    }
    let at = Instant::now();
    done(island.nodes[1].wait_for_ping(overlay(&island.nodes[0]), LIMIT));
    figure("isolated LAN, after a restart: to the first echo", format!("{:?}", at.elapsed()));

    // The stranger repeats what it hears, and sends noise of the same length, to the group and to each.
    let listener = done(stranger.udp("192.168.77.9:4656"));
    done(listener.set_read_timeout(Some(Duration::from_secs(2))));
    let recording = done(tap.stop());
    let group: IpAddr = "239.255.77.83".parse().expect("an address");
    let heard: Vec<&[u8]> = recording
        .packets
        .iter()
        .filter(|packet| packet.bytes.len() > HEADERS && packet.bytes[30..34] == [239, 255, 77, 83])
        .map(|packet| &packet.bytes[HEADERS..])
        .collect();
    assert!(heard.len() >= 2, "each announces itself: {}", heard.len());
    for target in [group, "192.168.77.1".parse().expect("an address")] {
        for payload in heard.iter().copied().chain([&[0x5a; 100][..]]) {
            done(listener.send_to(payload, SocketAddr::new(target, 4656)));
        }
    }
    let mut buffer = [0; 600];
    let answer = listener.recv_from(&mut buffer);
    assert!(answer.is_err(), "a stranger is answered: {answer:?}");
    for (name, node) in [("a", &island.nodes[0]), ("b", &island.nodes[1])] {
        let id = done(node.json::<serde_json::Value>(&["status"]))["node"]["member_id"].clone();
        let id = id.as_str().expect("an id").to_owned();
        let bytes: Vec<u8> =
            (0..16).map(|at| u8::from_str_radix(&id[2 * at..2 * at + 2], 16).expect("hexadecimal")).collect();
        assert_eq!(recording.count_with(&bytes), 0, "the id of {name} in clear");
    }
}
