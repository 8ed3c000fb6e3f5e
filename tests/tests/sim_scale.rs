//! Large meshes, in the reduced form that fits into every test run; `make scale` runs them in full.

use std::time::Duration;

use meshnet::node::PostQuantum;
use meshnet_tests::sim::{Crowd, Metered, Plan, Shape, Spreading, seeds};

const SECOND: Duration = Duration::from_secs(1);

fn mean(metered: &[Metered], bytes: impl Fn(&Metered) -> u64) -> u64 {
    metered.iter().map(bytes).sum::<u64>() / metered.len() as u64
}

fn quantile(ascending: &[Duration], share: f64) -> Duration {
    ascending[((ascending.len() as f64 * share).ceil() as usize).max(1) - 1]
}

#[test]
fn eighty_nodes_that_start_at_once_converge_within_ten_seconds_and_hear_of_changes_within_half_a_second() {
    for seed in seeds(1) {
        let plan = Plan { relays: 5, leaves: 75, datacentres: 3, loss: 0.0, pq: PostQuantum::Off };
        let mut crowd = Crowd::new(plan, seed);
        crowd.start_at_once();
        let converged = crowd.converge(3 * SECOND, 30 * SECOND);
        let received = mean(&converged.metered, |metered| metered.received_bytes);
        println!("80 nodes: converged after {:?}, {received} bytes received by each", converged.after);
        assert!(converged.after < 10 * SECOND, "{:?}, seed {seed}", converged.after);
        // Each needs 79 records of 300 bytes; most is what a relay's sessions with all others cost.
        assert!(received < 300_000, "{received} bytes, seed {seed}");
        for _ in 0..5 {
            let reached = crowd.change(2 * SECOND);
            println!("a change: p50 {:?}, p99 {:?}", quantile(&reached, 0.5), quantile(&reached, 0.99));
            assert!(quantile(&reached, 0.99) < SECOND / 2, "{reached:?}, seed {seed}");
            crowd.world.run_for(SECOND);
        }
        crowd.world.check_records();
    }
}

#[test]
fn a_relay_that_crashes_twenty_times_a_minute_disturbs_no_other_pair() {
    for seed in seeds(1) {
        let plan = Plan { relays: 4, leaves: 12, datacentres: 3, loss: 0.0, pq: PostQuantum::Prefer };
        let mut crowd = Crowd::new(plan, seed);
        crowd.start_at_once();
        crowd.converge(3 * SECOND, 30 * SECOND);
        for (from, to, report) in crowd.flap(8, 4) {
            let pair = [from, to].map(|id| crowd.world.name(id).to_owned());
            assert_eq!(report.lost(), 0, "{pair:?}: {report:?}, seed {seed}");
            assert!(report.sent > 700, "{report:?}");
        }
    }
}

#[test]
fn one_change_reaches_two_thousand_nodes_within_half_a_second_and_within_one_where_a_fifth_is_lost() {
    for seed in seeds(1) {
        for (loss, within) in [(0.0, SECOND / 2), (0.2, SECOND)] {
            let shape = Shape { relays: 40, leaves: 1960, links_of_relay: 8, links_of_leaf: 3, loss };
            let mut spreading = Spreading::new(shape, seed);
            for _ in 0..20 {
                spreading.change(5 * SECOND);
            }
            let (mut reached, mut missed) = (Vec::new(), 0);
            for _ in 0..10 {
                let change = spreading.change(5 * SECOND);
                reached.extend(change.reached);
                missed += change.missed;
            }
            reached.sort_unstable();
            println!("2,000 nodes, {loss} lost: p99 {:?}, {missed} missed", quantile(&reached, 0.99));
            assert!(quantile(&reached, 0.99) < within, "{:?}, seed {seed}", quantile(&reached, 0.99));
            // Comparing databases finds what so much loss leaves.
            assert!(missed <= if loss > 0.0 { 20 } else { 0 }, "{missed} missed, seed {seed}");
        }
    }
}
