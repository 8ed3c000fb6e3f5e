//! Transport keys are replaced under traffic by real daemons.

use meshnet_tests::net::{
    PORT, SETTLE, Split, admit, done, figure, flow, found, let_send, limit, overlay, wait_for_all_pairs,
    wait_for_arrivals,
};
use netlab::mesh::Member;
use netlab::{Lab, WireShape};
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
fn a_node_that_was_away_for_rotations_and_a_roll_over_comes_back_by_itself() {
    let mut split = Split::new(1);
    split.b.kill();
    let rounds: u64 = limit("MESHNET_ROTATIONS", 3);
    for _ in 0..rounds {
        done(split.a.ok(&["keys", "rotate", "--timeout", "60s"]));
        done(split.relays[0].ok(&["keys", "rotate", "--timeout", "60s"]));
    }
    assert_eq!((current(&split.a), current(&split.relays[0])), (1 + rounds, 1 + rounds));
    done(split.relays[0].ok(&["authority", "rotate", "--without", "b", "--timeout", "60s"]));
    let start = Instant::now();
    done(split.b.up());
    done(split.b.wait_for_ping(overlay(&split.a), SETTLE));
    let what = format!("back after {rounds} rotations of all others and a roll-over of the authority");
    figure(&what, format!("{:?}", start.elapsed()));
    wait_for_all_pairs(&[&split.a, &split.b, &split.relays[0]]);
    done(netlab::wait::until("b to have the newest trust bundle", SETTLE, || {
        let shown: Value = done(split.b.json(&["authority", "show"]));
        let version = shown["version"].as_u64();
        if version == Some(3) { Ok(()) } else { Err(format!("{version:?}")) }
    }));
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

/// 1 % of the frames are lost, and frames overtake each other: with two rotations as many packets are lost as without,
/// within what chance does.
#[test]
fn under_loss_and_reordering_a_rotation_loses_no_more_than_the_network() {
    let lab = done(Lab::new());
    let lan = done(lab.switch("lan"));
    let node = |name: &str, address: &str, seed: u64| {
        let machine = done(lab.machine(name));
        let shape = WireShape {
            delay: Duration::from_millis(2),
            jitter: Duration::from_millis(4),
            loss_permille: 10,
            seed,
            ..WireShape::default()
        };
        done(machine.plug_by_wire(&lan, &[address], shape));
        machine
    };
    let a = found(&node("a", "192.0.2.1/24", 1), &["--endpoint", &format!("192.0.2.1:{PORT}")]);
    let b = admit(&a, &node("b", "192.0.2.2/24", 2), &[], &[]);
    wait_for_all_pairs(&[&a, &b]);
    let mut shares = Vec::new();
    for rotate in [false, true] {
        let flows = [(&a, &b), (&b, &a)].map(|(from, to)| flow(from, to, 1000));
        flows.iter().for_each(|flow| let_send(flow, 1000));
        if rotate {
            for member in [&a, &b] {
                done(member.ok(&["keys", "rotate", "--timeout", "60s"]));
            }
        }
        flows.iter().for_each(|flow| let_send(flow, 4000));
        let reports = flows.map(|flow| done(flow.stop()));
        let (sent, lost) =
            reports.iter().fold((0, 0), |(sent, lost), one| (sent + one.sent, lost + one.lost));
        let which = if rotate { "two rotations" } else { "no rotation" };
        figure(&format!("1 % loss and reordering, {which}"), format!("lost {lost} of {sent}"));
        assert!(reports.iter().all(|report| report.duplicated == 0));
        shares.push((lost as f64, sent as f64));
    }
    assert_eq!((current(&a), current(&b)), (2, 2));
    let [(without, of), (with, of_with)] = shares[..] else { panic!("two runs") };
    let expected = without / of * of_with;
    // The difference of two binomials: four standard deviations.
    let tolerance = 4.0 * (with + expected).sqrt();
    assert!(
        with <= expected + tolerance,
        "{with} lost with rotations, {expected} without, give or take {tolerance}"
    );
}

/// Twelve nodes, of which a third is away when the operator asks for new keys.
#[test]
fn twelve_nodes_replace_their_keys_without_loss_and_wait_for_the_third_that_is_away() {
    let lab = done(Lab::new());
    let lan = done(lab.switch("lan"));
    let mut members: Vec<Member> = Vec::new();
    for number in 1..=12 {
        let machine = done(lab.machine(&format!("n{number}")));
        done(machine.plug(&lan, &[&format!("192.0.2.{number}/24")]));
        let member = match members.first() {
            None => found(&machine, &["--relay", "--endpoint", &format!("192.0.2.1:{PORT}")]),
            Some(founder) => admit(founder, &machine, &[], &[]),
        };
        members.push(member);
    }
    let everybody: Vec<&Member> = members.iter().collect();
    wait_for_all_pairs(&everybody[..3]);
    let flows = |members: &[Member]| {
        [(1, 2), (2, 1), (0, 3)].map(|(from, to)| flow(&members[from], &members[to], 1000))
    };
    let all = flows(&members);
    all.iter().for_each(|flow| wait_for_arrivals(flow, 300));
    let start = Instant::now();
    done(members[0].ok(&["keys", "rotate", "--all", "--timeout", "60s"]));
    figure("meshd keys rotate --all, twelve nodes", format!("{:?}", start.elapsed()));
    assert!(members.iter().all(|member| current(member) == 2));

    for member in &mut members[8..] {
        member.kill();
    }
    let waits = done(members[0].run(&["keys", "rotate", "--all", "--timeout", "5s"]));
    assert_eq!(waits.status.code(), Some(1), "{waits:?}");
    for name in ["n9", "n10", "n11", "n12"] {
        assert!(waits.stderr.contains(name), "{name}: {}", waits.stderr);
    }
    assert!(members[..8].iter().all(|member| current(member) == 2));
    for member in &mut members[8..11] {
        done(member.up());
    }
    // One stays away, and is named.
    let shown = done(members[0].ok(&["keys", "rotate", "--all", "--without", "n12", "--timeout", "60s"]));
    println!("{shown}");
    assert!(members[..11].iter().all(|member| current(member) == 3));
    for flow in all {
        let report = done(flow.stop());
        figure("a flow while twelve nodes replace their keys twice", &report);
        assert_eq!((report.lost, report.duplicated), (0, 0), "{report}");
    }
    // It comes back by itself all the same.
    done(members[11].up());
    done(members[11].wait_for_ping(overlay(&members[0]), SETTLE));
}

/// The sweep: while all replace their keys, `kill -9` of each daemon in turn, at moments all over the plan. Whoever is killed
/// comes back, the plan ends, and a flow between others loses nothing. MESHNET_SWEEP moments for each, 2 unless told.
#[test]
fn a_plan_for_all_survives_the_kill_of_any_daemon_in_each_phase() {
    let mut split = Split::new(2);
    let moments: u64 = limit("MESHNET_SWEEP", 2);
    let mut epoch = 1;
    for victim in 0..3 {
        for moment in 0..moments {
            // The plan takes about a second and a half.
            let delay = Duration::from_millis(30 + moment * 1500 / moments + victim as u64 * 100);
            // Between two that are not killed; the relays carry nothing for them.
            let pair = if victim == 2 { (&split.a, &split.relays[0]) } else { (&split.b, &split.relays[1]) };
            let bystander = flow(pair.0, pair.1, 1000);
            wait_for_arrivals(&bystander, 200);
            done(split.relays[0].ok(&["keys", "rotate", "--all", "--detach"]));
            std::thread::sleep(delay);
            let killed = match victim {
                0 => &mut split.relays[0],
                1 => &mut split.a,
                _ => &mut split.b,
            };
            killed.kill();
            let killed_at = Instant::now();
            done(killed.up());
            epoch += 1;
            let members = [&split.a, &split.b, &split.relays[0], &split.relays[1]];
            done(netlab::wait::until("all to have new keys", 2 * SETTLE, || {
                let epochs = members.map(keys);
                let over = |shown: &Value| {
                    shown["current"].as_u64() == Some(epoch)
                        && shown["epochs"].as_array().is_some_and(|all| all.len() == 1)
                };
                if epochs.iter().all(over) { Ok(()) } else { Err(format!("{epochs:?}")) }
            }));
            let name = ["the operator", "a node", "another node"][victim];
            let report = done(bystander.stop());
            figure(
                &format!("{name} killed {delay:?} into a plan for all"),
                format!("over {:?} later; a flow between others: {report}", killed_at.elapsed()),
            );
            assert_eq!((report.lost, report.duplicated), (0, 0), "{name} after {delay:?}: {report}");
            wait_for_all_pairs(&members);
        }
    }
}
