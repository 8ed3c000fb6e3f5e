//! What each fault costs, with real daemons and 1,000 numbered packets a second: `gap_ms` is the longest silence at the
//! receiver. `MESHNET_RUNS=5` makes each fault five times and prints medians and 95th percentiles.

use meshnet_tests::net::{
    Cost, Lan, PORT, SETTLE, Split, admit, done, enlist, figure, flow, found, let_send, overlay,
    restart_with, timed, trials, wait_for_all_pairs, wait_for_arrivals,
};
use netlab::flow::{Flow, FlowShape};
use netlab::mesh::{Member, PathStatus};
use netlab::{Fault, Lab, ping};
use std::net::SocketAddr;
use std::time::{Duration, Instant};

const RATE_PPS: u32 = 1000;
/// Delays of two relays that do not share the flows, so that all of them meet the fault.
const UNEQUAL: [Duration; 2] = [Duration::ZERO, Duration::from_millis(3)];

/// Flows in both directions between two members.
struct Flows([Flow; 2]);

impl Flows {
    fn start(a: &Member, b: &Member) -> Flows {
        let flows = Flows([flow(a, b, RATE_PPS), flow(b, a, RATE_PPS)]);
        flows.0.iter().for_each(|flow| wait_for_arrivals(flow, 500));
        flows
    }

    /// Lets them go on for a while, and says what the event at `at` cost each.
    fn cost(self, at: Instant, packets: u64) -> Vec<Cost> {
        let_send(&self.0[0], packets);
        self.0.into_iter().map(|flow| Cost::of(&done(flow.stop()), at)).collect()
    }
}

#[test]
fn a_relay_that_is_killed_costs_no_packet() {
    let costs = trials("relay killed (port unreachable)", 500, || {
        let mut split = Split::with_delays(&UNEQUAL);
        let used = split.relay_in_use();
        let flows = Flows::start(&split.a, &split.b);
        let at = Instant::now();
        split.relays[used].kill();
        let costs = flows.cost(at, 4000);
        assert_ne!(split.relay_in_use(), used);
        costs
    });
    assert_eq!(costs.worst(|cost| cost.lost), 0, "{costs:?}");
}

#[test]
fn a_relay_that_falls_silent_costs_a_second_and_a_half_at_most() {
    trials("relay silent", 1500, || {
        let split = Split::with_delays(&UNEQUAL);
        let used = split.relay_in_use();
        let flows = Flows::start(&split.a, &split.b);
        let at = Instant::now();
        split.relay_ports[used].iter().for_each(|port| done(port.silence()));
        let costs = flows.cost(at, 5000);
        assert_ne!(split.relay_in_use(), used);
        costs
    });
}

/// Two nodes with a direct path and a relay, who know of no other way.
fn two_on_a_lan() -> Lan {
    let mut lan = Lan::new(2);
    // Or they find the way by IPv6, which stays open.
    lan.nodes.iter_mut().for_each(|node| restart_with(node, "lan_discovery = false"));
    let (a, b) = (&lan.nodes[0], &lan.nodes[1]);
    wait_for_all_pairs(&[a, b, &lan.relay]);
    wait_until_direct(&lan);
    lan
}

fn wait_until_direct(lan: &Lan) {
    done(lan.nodes[0].wait_for_path("n2", SETTLE, PathStatus::is_direct));
    done(lan.nodes[1].wait_for_path("n1", SETTLE, PathStatus::is_direct));
}

/// Cuts the direct path off, and waits until the relay has taken its place.
fn black_hole(lan: &Lan) {
    let other = vec!["192.0.2.2".parse().expect("an address")];
    done(lan.ports[0].apply(&Fault { cut_to: other.clone(), cut_from: other, ..Fault::default() }));
    let path = done(lan.nodes[0].wait_for_path("n2", SETTLE, PathStatus::is_relayed));
    assert_eq!(path.via, ["relay"]);
}

#[test]
fn a_direct_path_that_goes_dark_is_replaced_by_a_relay() {
    trials("direct path black-holed", 1500, || {
        let lan = two_on_a_lan();
        let flows = Flows::start(&lan.nodes[0], &lan.nodes[1]);
        let at = Instant::now();
        black_hole(&lan);
        flows.cost(at, 3000)
    });
}

#[test]
fn a_direct_path_that_is_mended_is_taken_back_without_loss() {
    let mut costs = Vec::new();
    timed("direct path mended: relay to direct", Duration::from_secs(3), || {
        let lan = two_on_a_lan();
        black_hole(&lan);
        done(lan.nodes[1].wait_for_path("n1", SETTLE, PathStatus::is_relayed));
        let flows = Flows::start(&lan.nodes[0], &lan.nodes[1]);
        let at = Instant::now();
        done(lan.ports[0].heal());
        wait_until_direct(&lan);
        let took = at.elapsed();
        costs.extend(flows.cost(at, 1000));
        vec![took]
    });
    figure("direct path mended, cost", format!("{costs:?}"));
    assert!(costs.iter().all(|cost| (cost.lost, cost.duplicated) == (0, 0)), "{costs:?}");
}

#[test]
fn an_underlay_address_changes_and_sessions_go_on_within_a_second() {
    trials("underlay address change", 1000, || {
        let lan = Lan::new(2);
        let (a, b) = (&lan.nodes[0], &lan.nodes[1]);
        let flows = Flows::start(a, b);
        let at = Instant::now();
        done(lan.ports[0].remove_address("192.0.2.1/24"));
        done(lan.ports[0].add_address("192.0.2.11/24"));
        // The default route went with the address.
        done(a.machine().default_route("192.0.2.254"));
        let costs = flows.cost(at, 4000);
        done(b.wait_for_path("n1", SETTLE, PathStatus::is_direct));
        costs
    });
}

#[test]
fn none_of_the_first_packets_between_strangers_is_lost() {
    timed("five packets at once between strangers, answered", Duration::from_secs(3), || {
        let split = Split::quiet(&[Duration::ZERO]);
        // They must know how to reach each other, and nothing more.
        let prefix = format!("{}/32", overlay(&split.b));
        done(netlab::wait::until("a route to b", SETTLE, || {
            let routes = done(split.a.ok(&["routes"]));
            let leads_there = |line: &str| line.contains(&prefix) && line.ends_with("used");
            if routes.lines().any(leads_there) { Ok(()) } else { Err(routes) }
        }));
        let to = overlay(&split.b);
        let limit = Duration::from_secs(3);
        let answers = done(done(split.a.machine().enter(|| ping::burst(to, 5, limit))));
        answers.into_iter().map(|answer| answer.expect("none is lost")).collect()
    });
}

#[test]
fn a_subnet_moves_to_its_other_owner_within_three_seconds() {
    for silent in [false, true] {
        let how = if silent { "falls silent" } else { "is killed" };
        trials(&format!("subnet moves to its other owner when the first {how}"), 3000, || {
            let lab = done(Lab::new());
            let (internet, office) = (done(lab.switch("internet")), done(lab.switch("office")));
            let relay = done(lab.machine("relay"));
            done(relay.plug(&internet, &["203.0.113.1/24"]));
            let relay = found(&relay, &["--relay", "--endpoint", &format!("203.0.113.1:{PORT}")]);
            let mut owners: Vec<_> = (1..=2)
                .map(|number| {
                    let gateway = done(lab.router(&format!("g{number}")));
                    let port = done(gateway.plug(&internet, &[&format!("203.0.113.1{number}/24")]));
                    done(gateway.plug(&office, &[&format!("192.168.7.{number}/24")]));
                    let mut gateway = enlist(&relay, &gateway, &["--subnet", "192.168.7.0/24"], &[]);
                    let subnets =
                        format!("subnets = [{{ prefix = \"192.168.7.0/24\", weight = {} }}]\n", 10 * number);
                    done(std::fs::write(gateway.state().join("meshd.toml"), subnets));
                    done(gateway.up());
                    (gateway, port)
                })
                .collect();
            let server = done(lab.machine("server"));
            done(server.plug(&office, &["192.168.7.80/24"]));
            done(server.default_route("192.168.7.1"));
            let client = done(lab.machine("client"));
            done(client.plug(&internet, &["203.0.113.3/24"]));
            let client = admit(&relay, &client, &[], &[]);
            done(client.wait_for_ping("192.168.7.80".parse().expect("an address"), SETTLE));
            done(relay.wait_for_ping(overlay(&owners[1].0), SETTLE));
            let target: SocketAddr = "192.168.7.80:0".parse().expect("an address");
            let shape = FlowShape { rate_pps: RATE_PPS, payload_bytes: 200 };
            let flow = done(Flow::start(client.machine(), &server, target, shape));
            wait_for_arrivals(&flow, 500);
            let at = Instant::now();
            if silent {
                done(owners[0].1.silence());
            } else {
                owners[0].0.kill();
            }
            let_send(&flow, 6000);
            vec![Cost::of(&done(flow.stop()), at)]
        });
    }
}
