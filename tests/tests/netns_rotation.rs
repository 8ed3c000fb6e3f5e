//! Transport keys are replaced under traffic by real daemons.

use meshnet_tests::net::{
    SETTLE, Split, done, figure, flow, let_send, overlay, wait_for_all_pairs, wait_for_arrivals,
};
use netlab::mesh::Member;
use serde_json::Value;
use std::time::{Duration, Instant};

fn keys(member: &Member) -> Value {
    done(member.json(&["keys", "show"]))
}

fn current(member: &Member) -> u64 {
    keys(member)["current"].as_u64().expect("the current epoch")
}

#[test]
fn keys_are_replaced_under_1000_packets_a_second_on_direct_and_relayed_paths_without_the_loss_of_one() {
    let split = Split::new(1);
    let relay = &split.relays[0];
    let pairs = [(&split.a, &split.b), (&split.b, &split.a), (&split.a, relay), (relay, &split.a)];
    let flows = pairs.map(|(from, to)| flow(from, to, 1000));
    flows.iter().for_each(|flow| wait_for_arrivals(flow, 500));
    for (round, member) in [&split.a, relay, &split.b, &split.a].into_iter().enumerate() {
        let start = Instant::now();
        done(member.ok(&["keys", "rotate"]));
        figure(
            &format!("meshd keys rotate on {}", member.machine().name()),
            format!("{:?}", start.elapsed()),
        );
        let expected = if round == 3 { 3 } else { 2 };
        let shown = keys(member);
        assert_eq!(shown["current"], expected, "{shown}");
        for peer in shown["peers"].as_array().expect("peers") {
            assert_eq!(peer["confirmed"], expected, "{shown}");
        }
    }
    let_send(&flows[0], 1000);
    for (flow, (from, to)) in flows.into_iter().zip(pairs) {
        let report = done(flow.stop());
        let (from, to) = (from.machine().name(), to.machine().name());
        figure(&format!("{from} to {to} under four rotations"), &report);
        assert_eq!((report.lost, report.duplicated), (0, 0), "{from} to {to}: {report}");
    }
}

#[test]
fn the_whole_mesh_replaces_its_keys_under_traffic_and_waits_for_who_is_away() {
    let mut split = Split::new(2);
    let flows = [(&split.a, &split.b), (&split.b, &split.a), (&split.a, &split.relays[0])]
        .map(|(from, to)| flow(from, to, 1000));
    flows.iter().for_each(|flow| wait_for_arrivals(flow, 500));
    // The founder is an operator; others are refused.
    let refused = done(split.a.run(&["keys", "rotate", "--all"]));
    assert_eq!(refused.status.code(), Some(77), "{refused:?}");
    let start = Instant::now();
    done(split.relays[0].ok(&["keys", "rotate", "--all"]));
    figure("meshd keys rotate --all, four nodes", format!("{:?}", start.elapsed()));
    for member in [&split.a, &split.b, &split.relays[0], &split.relays[1]] {
        assert_eq!(current(member), 2);
    }
    for flow in flows {
        let report = done(flow.stop());
        figure("a flow while all replace their keys", &report);
        assert_eq!((report.lost, report.duplicated), (0, 0), "{report}");
    }

    split.b.kill();
    let waits = done(split.relays[0].run(&["keys", "rotate", "--all", "--timeout", "5s"]));
    assert_eq!(waits.status.code(), Some(1), "{waits:?}");
    assert!(waits.stderr.contains("waiting for b"), "{}", waits.stderr);
    // Nobody has given up the old key, and a restart of the operator's daemon forgets nothing.
    assert_eq!(current(&split.a), 2);
    split.relays[0].kill();
    done(split.relays[0].up());
    done(split.b.up());
    done(split.relays[0].ok(&["keys", "rotate", "--all", "--timeout", "18s"]));
    for member in [&split.a, &split.b, &split.relays[0], &split.relays[1]] {
        assert_eq!(current(member), 3);
    }
    wait_for_all_pairs(&[&split.a, &split.b, &split.relays[0], &split.relays[1]]);
}

/// kill -9 at moments all over a rotation. What was under way between others is not touched, and the rotation goes on.
#[test]
fn a_daemon_killed_in_the_middle_of_a_rotation_goes_on_with_it() {
    let mut split = Split::new(1);
    let bystander = flow(&split.relays[0], &split.b, 1000);
    wait_for_arrivals(&bystander, 200);
    let mut expected = 1;
    for delay_ms in [0, 3, 10, 30, 60, 100, 150, 250, 400, 700] {
        done(split.a.ok(&["keys", "rotate", "--detach"]));
        std::thread::sleep(Duration::from_millis(delay_ms));
        split.a.kill();
        done(split.a.up());
        done(split.a.wait_for_ping(overlay(&split.b), SETTLE));
        done(split.b.wait_for_ping(overlay(&split.a), SETTLE));
        // Killed before the new key was written: nothing has begun.
        let shown = keys(&split.a);
        let begun = shown["target"].as_u64() == Some(expected + 1);
        expected += u64::from(begun);
        done(netlab::wait::until("the rotation to end", SETTLE, || {
            let shown = keys(&split.a);
            let over = shown["current"].as_u64() == Some(expected)
                && shown["epochs"].as_array().is_some_and(|all| all.len() == 1);
            if over { Ok(()) } else { Err(shown.to_string()) }
        }));
        println!("killed after {delay_ms} ms: {}", if begun { "went on" } else { "had not begun" });
    }
    assert!(expected > 1, "no kill came late enough");
    let report = done(bystander.stop());
    figure("others while one is killed in ten rotations", &report);
    assert_eq!((report.lost, report.duplicated), (0, 0), "{report}");
}

#[test]
fn a_node_that_was_away_for_several_rotations_comes_back_by_itself() {
    let mut split = Split::new(1);
    split.b.kill();
    for _ in 0..3 {
        done(split.a.ok(&["keys", "rotate", "--timeout", "60s"]));
        done(split.relays[0].ok(&["keys", "rotate", "--timeout", "60s"]));
    }
    assert_eq!((current(&split.a), current(&split.relays[0])), (4, 4));
    let start = Instant::now();
    done(split.b.up());
    done(split.b.wait_for_ping(overlay(&split.a), SETTLE));
    figure("back after three rotations of all others", format!("{:?}", start.elapsed()));
    wait_for_all_pairs(&[&split.a, &split.b, &split.relays[0]]);
}

#[test]
fn a_stolen_key_is_replaced_at_once_and_traffic_goes_on() {
    let split = Split::new(1);
    let flow = flow(&split.a, &split.b, 1000);
    wait_for_arrivals(&flow, 300);
    done(split.a.ok(&["keys", "rotate", "--compromised"]));
    wait_for_arrivals(&flow, 1000);
    let report = done(flow.stop());
    figure("a flow while a stolen key is replaced", &report);
    assert!(report.longest_gap_ms() < 1500, "{report}");
    let shown = keys(&split.a);
    assert_eq!((shown["current"].as_u64(), shown["retired"].as_u64()), (Some(2), Some(1)), "{shown}");
}
