//! Nodes that can reach each other talk directly, whatever happens around them.

use meshnet_tests::net::{
    self, Lan, PORT, SETTLE, admit, done, figure, flow, found, iperf, let_send, overlay, wait_for_all_pairs,
    wait_for_arrivals, without_link_local,
};
use netlab::mesh::PathStatus;
use netlab::{Lab, NatKind};
use std::time::Duration;

#[test]
fn two_nodes_on_a_lan_talk_directly_and_go_on_when_it_loses_its_uplink() {
    let lan = Lan::new(2);
    let (a, b) = (&lan.nodes[0], &lan.nodes[1]);
    let flow = flow(a, b, 1000);
    wait_for_arrivals(&flow, 500);
    done(lan.uplink.set_carrier(false));
    // Long enough for the relay to be given up: what follows from that must not touch the LAN.
    let_send(&flow, 6000);
    let report = done(flow.stop());
    figure("LAN without uplink, 1,000/s", &report);
    assert_eq!(report.lost, 0, "{report}");
    let path = done(a.path_to("n2")).expect("a path");
    assert!(path.is_direct() && path.remote.as_deref() == Some(&format!("192.0.2.2:{PORT}")), "{path:?}");
    // And strangers to the uplink find each other still.
    done(b.wait_for_ping(overlay(a), Duration::from_secs(1)));
}

#[test]
fn three_nodes_behind_one_nat_and_one_outside_all_reach_each_other() {
    let lab = done(Lab::new());
    let (home, internet) = (done(lab.switch("home")), done(lab.switch("internet")));
    done(lab.nat("nat", NatKind::PortRestricted, (&home, "10.0.0.254/24"), (&internet, "198.51.100.254/24")));
    let outside = done(lab.machine("outside"));
    done(outside.plug(&internet, &["198.51.100.1/24"]));
    let outside = found(&outside, &["--relay", "--endpoint", &format!("198.51.100.1:{PORT}")]);
    let inside: Vec<_> = (1..=3)
        .map(|number| {
            let machine = done(lab.machine(&format!("n{number}")));
            without_link_local(&machine);
            done(machine.plug(&home, &[&format!("10.0.0.{number}/24")]));
            done(machine.default_route("10.0.0.254"));
            admit(&outside, &machine, &[], &[])
        })
        .collect();
    let mut members = vec![&outside];
    members.extend(&inside);
    wait_for_all_pairs(&members);
    for from in &inside {
        done(from.wait_for_path("outside", SETTLE, PathStatus::is_direct));
        for to in inside.iter().filter(|to| to.machine().name() != from.machine().name()) {
            let path = done(from.wait_for_path(to.machine().name(), SETTLE, PathStatus::is_direct));
            assert!(path.remote.as_deref().is_some_and(|it| it.starts_with("10.0.0.")), "{path:?}");
        }
    }
    // What the NAT maps survives only as long as it is used: a flow in from outside must not need a first word.
    let flow = flow(&outside, &inside[2], 200);
    wait_for_arrivals(&flow, 400);
    let report = done(flow.stop());
    figure("into a NAT with three nodes, 200/s", &report);
    assert_eq!(report.lost, 0, "{report}");
}

#[test]
fn an_underlay_of_ipv6_only_carries_the_mesh() {
    let lab = done(Lab::new());
    let lan = done(lab.switch("lan"));
    let machine = |name: &str, address: &str| {
        let machine = done(lab.machine(name));
        without_link_local(&machine);
        done(machine.plug(&lan, &[address]));
        machine
    };
    let founder = machine("a", "2001:db8::1/64");
    let founder = found(&founder, &["--relay", "--endpoint", &format!("[2001:db8::1]:{PORT}")]);
    let b = admit(&founder, &machine("b", "2001:db8::2/64"), &[], &[]);
    let c = admit(&founder, &machine("c", "2001:db8::3/64"), &[], &[]);
    wait_for_all_pairs(&[&founder, &b, &c]);
    let path = done(b.wait_for_path("c", SETTLE, PathStatus::is_direct));
    assert_eq!(path.remote.as_deref(), Some(format!("[2001:db8::3]:{PORT}").as_str()));
    // The overlay has both families over it.
    let ula = done(c.address(true));
    let took = done(b.wait_for_ping(ula, Duration::from_secs(2)));
    figure("overlay IPv6 over an IPv6-only underlay", format!("{ula} answers, first echo after {took:?}"));
}

#[test]
fn tcp_over_a_direct_path_has_no_stall_in_30_s() {
    let lan = Lan::new(2);
    let seconds = net::limit("MESHNET_IPERF_SECONDS", 30);
    let throughput = iperf(&lan.nodes[0], &lan.nodes[1], seconds);
    figure("TCP, direct path", &throughput);
    assert!(throughput.seconds_mbit_s.len() >= seconds as usize - 1, "{throughput:?}");
    assert!(throughput.slowest_mbit_s() > throughput.mean_mbit_s / 20.0, "a stall: {throughput:?}");
}
