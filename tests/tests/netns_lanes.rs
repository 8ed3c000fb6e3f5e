//! Several lanes between real daemons: more than one carries, order is kept, nothing is lost.

use meshnet_tests::net::{Lan, SETTLE, Split, done, figure, flow, overlay, restart_with, transfer};
use meshnet_tests::net::{let_send, wait_for_arrivals};
use netlab::mesh::{Member, PathStatus};
use serde_json::Value;

/// So many flows that they all take one lane of two once in half a million runs.
const FLOWS: usize = 20;
/// Packets a second of each: more than 1,000/s in all.
const RATE_PPS: u32 = 60;
const PACKETS_OF_EACH: u64 = 240;

/// What each lane of a member has carried, by the name of the counter.
fn by_lane(member: &Member, counter: &str) -> Vec<u64> {
    let status: Value = done(member.json(&["status"]));
    let lanes = status["lanes"]["each"].as_array().expect("lanes in the status");
    assert_eq!(status["lanes"]["count"], lanes.len());
    let counts: Vec<u64> = lanes.iter().map(|lane| lane[counter].as_u64().expect("a counter")).collect();
    assert_eq!(status["lanes"]["total"][counter], counts.iter().sum::<u64>());
    counts
}

/// The growth of a counter during `body`, in each lane.
fn growth(member: &Member, counter: &str, body: impl FnOnce()) -> Vec<u64> {
    let before = by_lane(member, counter);
    body();
    by_lane(member, counter).iter().zip(before).map(|(after, before)| after - before).collect()
}

/// Lanes that carried a good part of a flow, not just a stray answer.
fn busy(growth: &[u64]) -> usize {
    growth.iter().filter(|count| **count >= PACKETS_OF_EACH / 2).count()
}

/// Many numbered flows at once; none may lose, double, or reorder anything.
fn run_flows(from: &Member, to: &Member, what: &str) {
    let flows: Vec<_> = (0..FLOWS).map(|_| flow(from, to, RATE_PPS)).collect();
    // They all send at one rate.
    let_send(&flows[FLOWS - 1], PACKETS_OF_EACH);
    // Each waits for what is on its way: all at once.
    let stopping: Vec<_> = flows.into_iter().map(|flow| std::thread::spawn(|| flow.stop())).collect();
    for thread in stopping {
        let report = done(thread.join().expect("a flow that ends"));
        assert_eq!((report.lost, report.duplicated, report.reordered), (0, 0, 0), "{what}: {report}");
    }
}

fn give_lanes(member: &mut Member, lanes: usize) {
    restart_with(member, &format!("lanes = {lanes}"));
}

#[test]
fn flows_spread_over_the_lanes_in_order_and_without_loss() {
    let mut lan = Lan::new(2);
    for (left, right) in [(2, 2), (4, 1), (2, 3)] {
        give_lanes(&mut lan.nodes[0], left);
        give_lanes(&mut lan.nodes[1], right);
        let (a, b) = (&lan.nodes[0], &lan.nodes[1]);
        done(a.wait_for_ping(overlay(b), SETTLE));
        done(a.wait_for_path("n2", SETTLE, PathStatus::is_direct));
        done(b.wait_for_path("n1", SETTLE, PathStatus::is_direct));
        wait_for_arrivals(&flow(a, b, 200), 200);
        let mut received = Vec::new();
        let sent = growth(a, "tx_packets", || {
            received = growth(b, "delivered", || run_flows(a, b, &format!("{left} to {right} lanes")));
        });
        figure(
            &format!("{FLOWS} flows of {RATE_PPS}/s over {left} and {right} lanes"),
            format!("sent by lane {sent:?}, received by lane {received:?}"),
        );
        assert!(busy(&sent) >= 2, "{left} to {right}: {sent:?}");
        assert!(busy(&received) >= 2.min(right), "{left} to {right}: {received:?}");
        let drops: Value = done(b.json(&["status"]));
        for reason in ["rx_unknown_lane", "rx_not_authentic", "rx_replayed", "handover_full"] {
            assert_eq!(drops["drops"].get(reason), None, "{left} to {right}: {}", drops["drops"]);
        }
        // Super-packets both ways, every byte compared.
        for (from, to) in [(a, b), (b, a)] {
            transfer(from.machine(), to.machine(), overlay(to), 20_000_000);
        }
    }
}

#[test]
fn a_relay_with_lanes_of_its_own_keeps_flows_in_order() {
    let mut split = Split::new(1);
    for (left, middle, right) in [(4, 2, 3), (2, 1, 4)] {
        give_lanes(&mut split.relays[0], middle);
        give_lanes(&mut split.a, left);
        give_lanes(&mut split.b, right);
        done(split.a.wait_for_ping(overlay(&split.b), SETTLE));
        done(split.b.wait_for_path("a", SETTLE, PathStatus::is_relayed));
        done(split.a.wait_for_path("b", SETTLE, PathStatus::is_relayed));
        wait_for_arrivals(&flow(&split.a, &split.b, 200), 200);
        let what = format!("relayed, {left}, {middle}, and {right} lanes");
        let (mut forwarded, mut received) = (Vec::new(), Vec::new());
        let sent = growth(&split.a, "tx_packets", || {
            forwarded = growth(&split.relays[0], "forwarded", || {
                received = growth(&split.b, "delivered", || run_flows(&split.a, &split.b, &what));
            });
        });
        figure(&what, format!("sent {sent:?}, forwarded {forwarded:?}, received {received:?}"));
        assert!(busy(&sent) >= 2 && busy(&received) >= 2, "{what}: {sent:?}, {received:?}");
        assert!(busy(&forwarded) >= 2.min(middle), "{what}: {forwarded:?}");
        transfer(split.a.machine(), split.b.machine(), overlay(&split.b), 20_000_000);
    }
}

#[test]
fn a_plain_device_has_one_lane_and_says_so() {
    let mut lan = Lan::new(2);
    restart_with(&mut lan.nodes[0], "lanes = 4\noffload = \"off\"");
    give_lanes(&mut lan.nodes[1], 2);
    let (a, b) = (&lan.nodes[0], &lan.nodes[1]);
    done(a.wait_for_ping(overlay(b), SETTLE));
    let status = done(a.ok(&["status"]));
    assert!(status.contains("1 (the device without offload has one queue)"), "{status}");
    assert!(done(b.ok(&["status"])).contains("2 (as configured)"));
    for (from, to) in [(a, b), (b, a)] {
        run_flows(from, to, "one plain lane and two");
    }
}
