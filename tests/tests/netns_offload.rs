//! Super-packets through the mesh: every byte arrives, and every checksum that a host outside sees is right.

use meshnet_tests::net::{
    Lan, Office, PORT, SETTLE, admit, done, figure, found, limit, overlay, restart_with, transfer,
};
use netlab::{Lab, Machine};

/// Bytes of one transfer.
fn bytes() -> u64 {
    limit("MESHNET_TRANSFER_MB", 200_u64) * 1_000_000
}

/// What the kernel of `machine` counted as damaged: protocol, counter, and how many. A SYN that comes again on a connection
/// that is up is among TCP's `InErrs` (tcp_validate_incoming in net/ipv4/tcp_input.c), and no damage.
fn checksum_errors(machine: &Machine) -> Vec<(String, String, u64)> {
    let counted = |file: &str| {
        let path = format!("/proc/thread-self/net/{file}");
        counters(&done(done(machine.enter(|| std::fs::read_to_string(&path)))))
    };
    let repeated: u64 = counted("netstat")
        .iter()
        .filter(|(_, name, _)| name == "TCPSYNChallenge")
        .map(|(_, _, count)| count)
        .sum();
    let mut errors = counted("snmp");
    errors.retain(|(_, name, _)| ["InCsumErrors", "InHdrErrors", "InErrs"].contains(&name.as_str()));
    for (_, _, count) in errors.iter_mut().filter(|(protocol, name, _)| protocol == "Tcp" && name == "InErrs")
    {
        *count = count.saturating_sub(repeated);
    }
    errors.retain(|&(_, _, count)| count > 0);
    errors
}

/// What tells of handshakes that took more than one attempt, or were answered twice.
fn handshake_counters(machine: &Machine) -> Vec<(String, u64)> {
    let path = "/proc/thread-self/net/netstat";
    let counted = counters(&done(done(machine.enter(|| std::fs::read_to_string(path)))));
    let tells = ["TCPSYNChallenge", "TCPSynRetrans", "TCPTimeouts", "TCPLossProbes", "ListenDrops"];
    let mut counted: Vec<(String, u64)> = counted.into_iter().map(|(_, name, count)| (name, count)).collect();
    counted.retain(|(name, count)| *count > 0 && tells.contains(&name.as_str()));
    counted
}

/// The counters in a file as the kernel's `snmp` and `netstat`: a line of names, a line of values, for each protocol.
fn counters(text: &str) -> Vec<(String, String, u64)> {
    let lines: Vec<&str> = text.lines().collect();
    let mut counters = Vec::new();
    for pair in lines.chunks_exact(2) {
        let protocol = pair[0].split(':').next().unwrap_or_default();
        let named = pair[0].split_whitespace().zip(pair[1].split_whitespace());
        let values = named.filter_map(|(name, value)| Some((name, value.parse::<u64>().ok()?)));
        counters.extend(values.map(|(name, value)| (protocol.to_owned(), name.to_owned(), value)));
    }
    counters
}

#[test]
fn every_byte_arrives_both_ways_over_ipv4_and_ipv6() {
    let lan = Lan::new(2);
    let (a, b) = (&lan.nodes[0], &lan.nodes[1]);
    for v6 in [false, true] {
        for (from, to) in [(a, b), (b, a)] {
            let rate = transfer(from.machine(), to.machine(), done(to.address(v6)), bytes());
            figure(
                &format!("verified transfer, direct, IPv{}", if v6 { 6 } else { 4 }),
                format!("{rate:.0} Mbit/s"),
            );
        }
    }
    for node in [a, b] {
        assert_eq!(checksum_errors(node.machine()), [], "{}", node.machine().name());
    }
}

#[test]
fn a_device_without_offload_and_one_with_it_understand_each_other() {
    let mut lan = Lan::new(2);
    restart_with(&mut lan.nodes[1], "offload = \"off\"");
    let (a, b) = (&lan.nodes[0], &lan.nodes[1]);
    done(a.wait_for_ping(overlay(b), SETTLE));
    done(b.wait_for_ping(overlay(a), SETTLE));
    for (from, to) in [(a, b), (b, a)] {
        let rate = transfer(from.machine(), to.machine(), overlay(to), bytes() / 10);
        figure("verified transfer, offload at one end", format!("{rate:.0} Mbit/s"));
    }
    for node in [a, b] {
        assert_eq!(checksum_errors(node.machine()), [], "{}", node.machine().name());
    }
    let status = done(b.ok(&["status"]));
    assert!(status.contains("none (turned off in the configuration)"), "{status}");
}

#[test]
fn a_host_behind_a_member_gets_complete_checksums_and_its_own_are_carried_verbatim() {
    let office = Office::new(1);
    office.take_nothing_over();
    let Office { client, host, gateways, .. } = &office;
    let address = Office::HOST[0];
    done(client.wait_for_ping(address, SETTLE));
    for (name, from, to, at) in
        [("to", client.machine(), host, address), ("from", host, client.machine(), overlay(client))]
    {
        let rate = transfer(from, to, at, bytes());
        figure(&format!("verified transfer {name} a host without offload"), format!("{rate:.0} Mbit/s"));
    }
    for machine in [client.machine(), gateways[0].machine(), host] {
        println!("{}: {:?}", machine.name(), handshake_counters(machine));
        assert_eq!(checksum_errors(machine), [], "{}", machine.name());
    }
}

#[test]
fn every_byte_arrives_through_a_relay() {
    let lab = done(Lab::new());
    let (left, right) = (done(lab.switch("left")), done(lab.switch("right")));
    let relay = done(lab.machine("relay"));
    done(relay.plug(&left, &["192.0.2.9/24"]));
    done(relay.plug(&right, &["198.51.100.9/24"]));
    let endpoints = [format!("192.0.2.9:{PORT}"), format!("198.51.100.9:{PORT}")];
    let relay = found(&relay, &["--relay", "--endpoint", &endpoints[0], "--endpoint", &endpoints[1]]);
    let node = |name: &str, switch, address: &str| {
        let machine = done(lab.machine(name));
        done(machine.plug(switch, &[address]));
        admit(&relay, &machine, &[], &[])
    };
    let (a, b) = (node("a", &left, "192.0.2.1/24"), node("b", &right, "198.51.100.1/24"));
    done(a.wait_for_ping(overlay(&b), SETTLE));
    for (from, to) in [(&a, &b), (&b, &a)] {
        let rate = transfer(from.machine(), to.machine(), overlay(to), bytes());
        figure("verified transfer, relayed", format!("{rate:.0} Mbit/s"));
    }
    for node in [&a, &b] {
        assert_eq!(checksum_errors(node.machine()), [], "{}", node.machine().name());
    }
}
