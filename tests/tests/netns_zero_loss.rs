//! The promise of rotation, for all kinds of paths at once: twelve real daemons, 1,000 numbered packets a second both ways on
//! direct, relayed, and TCP paths, while the key of a node, of all nodes, or of the authority is replaced; in a calm network, in
//! one that loses and reorders, with a third of the nodes away, and with `kill -9` in each phase.

use meshnet_tests::net::{BYSTANDERS, Grid, PAIRS, Pair, ROUGH, SETTLE, Tally, done, figure, limit, overlay};
use netlab::mesh::Member;
use serde_json::Value;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

/// Long enough for twelve nodes on a busy machine.
const LONG: Duration = Duration::from_secs(60);
/// What a cable loses in [`ROUGH`].
const UNDERNEATH: f64 = 0.01;
/// A third of twelve.
const AWAY: [&str; 4] = ["a3", "a4", "b3", "b4"];

/// One mesh of twelve at a time: two of them, with sixteen flows, are more than two cores carry.
fn alone() -> MutexGuard<'static, ()> {
    static ALONE: Mutex<()> = Mutex::new(());
    ALONE.lock().unwrap_or_else(PoisonError::into_inner)
}

fn keys(member: &Member) -> Value {
    done(member.json(&["keys", "show"]))
}

fn current(member: &Member) -> Option<u64> {
    keys(member)["current"].as_u64()
}

fn authority(member: &Member) -> Value {
    done(member.json(&["authority", "show"]))
}

fn root(member: &Member) -> String {
    let shown = authority(member);
    shown["roots"][0]["fingerprint"].as_str().unwrap_or_else(|| panic!("{shown}")).to_owned()
}

/// Replaces something under flows, and tells what became of them.
fn under_flows(grid: &Grid, pairs: &[Pair], what: &str, replace: impl FnOnce(&Grid)) -> Tally {
    let flows = grid.flows(pairs);
    let start = Instant::now();
    replace(grid);
    let took = start.elapsed();
    let tally = flows.stop();
    figure(&format!("twelve nodes, {what}"), format!("{took:.1?}; {tally}"));
    if tally.lost() > 0 {
        println!("dropped so far:\n{}", grid.drops());
    }
    tally
}

fn rotate_nodes(grid: &Grid) {
    for name in ["a1", "b1", "t1", "r2"] {
        done(grid.at(name).ok(&["keys", "rotate", "--timeout", "60s"]));
    }
}

fn rotate_all(grid: &Grid) {
    done(grid.at("r1").ok(&["keys", "rotate", "--all", "--timeout", "60s"]));
}

fn rotate_authority(grid: &Grid) {
    done(grid.at("r1").ok(&["authority", "rotate", "--timeout", "60s"]));
}

#[test]
fn nothing_is_lost_on_any_kind_of_path_whichever_key_is_replaced_and_who_is_away_is_waited_for() {
    let _alone = alone();
    let mut grid = Grid::new(None);
    under_flows(&grid, &PAIRS, "keys of four nodes", rotate_nodes).is_whole("keys of four nodes");
    under_flows(&grid, &PAIRS, "keys of all", rotate_all).is_whole("keys of all");
    let before = root(grid.at("r1"));
    under_flows(&grid, &PAIRS, "the authority", rotate_authority).is_whole("the authority");
    assert_ne!(root(grid.at("r1")), before);
    // Both at once, by two people.
    let epochs: Vec<_> = grid.members().iter().map(current).collect();
    let both = under_flows(&grid, &PAIRS, "keys of all and the authority at once", |grid| {
        done(grid.at("r1").ok(&["authority", "rotate", "--detach"]));
        rotate_all(grid);
        rotate_authority(grid);
    });
    both.is_whole("both at once");
    assert!(grid.members().iter().map(current).zip(epochs).all(|(now, before)| now > before));
    let after = root(grid.at("r1"));
    assert!(grid.members().iter().all(|member| root(member) == after));
    assert!(grid.members().iter().all(|member| current(member) >= Some(2)));
    // No overlap: a pause, which is told, and no more.
    let stolen = under_flows(&grid, &PAIRS, "a stolen key", |grid| {
        done(grid.at("a1").ok(&["keys", "rotate", "--compromised", "--timeout", "60s"]));
    });
    assert!(stolen.longest_gap_ms < 1500 && stolen.duplicated == 0, "{stolen}");

    // A third is away: the authority's roll-over waits, says for whom, and goes on when they are back or named.
    AWAY.iter().for_each(|name| grid.at_mut(name).kill());
    let flows = grid.flows(&PAIRS);
    let waits = done(grid.at("r1").run(&["authority", "rotate", "--timeout", "4s"]));
    assert_eq!(waits.status.code(), Some(1), "{waits:?}");
    let told = format!("{}{}", waits.stdout, waits.stderr);
    for name in AWAY {
        assert!(told.contains(name), "{name}: {told}");
    }
    let start = Instant::now();
    AWAY[..3].iter().for_each(|name| done(grid.at_mut(name).up()));
    // A second one is the first one, and says so.
    let second = done(grid.at("r1").run(&["authority", "rotate", "--without", AWAY[3], "--timeout", "60s"]));
    assert!(second.status.success() && second.stderr.contains("under way already"), "{second:?}");
    let tally = flows.stop();
    figure("twelve nodes, the authority while a third is away", format!("{:.1?}; {tally}", start.elapsed()));
    tally.is_whole("the authority while a third is away");
    assert_ne!(root(grid.at("r1")), after);

    // It comes back by itself.
    let start = Instant::now();
    done(grid.at_mut(AWAY[3]).up());
    for name in ["b1", "a1", "r2"] {
        done(grid.at(AWAY[3]).wait_for_ping(overlay(grid.at(name)), SETTLE));
    }
    figure("twelve nodes, back after a roll-over", format!("{:.1?}", start.elapsed()));
    let newest = root(grid.at("r1"));
    done(netlab::wait::until_true("it to know the newest root", SETTLE, || root(grid.at(AWAY[3])) == newest));
}

/// Begins one and waits for its end.
type Replacement = fn(&Grid);

/// As much as the network loses, give or take what chance does.
#[test]
fn under_loss_and_reordering_no_replacement_loses_more_than_the_network() {
    let _alone = alone();
    let grid = Grid::new(Some(ROUGH));
    let without = under_flows(&grid, &PAIRS, "1 % loss and reordering, nothing replaced", |_| {
        std::thread::sleep(Duration::from_secs(limit("MESHNET_BASELINE_S", 6)));
    });
    let replacements: [(&str, Replacement); 3] = [
        ("keys of four nodes", rotate_nodes),
        ("keys of all", rotate_all),
        ("the authority", rotate_authority),
    ];
    for (name, replace) in replacements {
        let with = under_flows(&grid, &PAIRS, &format!("1 % loss and reordering, {name}"), replace);
        assert_eq!(with.duplicated, 0, "{with}");
        for ((by, sent, lost), (_, sent_without, lost_without)) in with.by_path.iter().zip(&without.by_path) {
            // TCP repeats what is lost underneath, and loses now and then some in a row, when a repetition is lost as well.
            let share = (*lost_without as f64 / *sent_without as f64).max(UNDERNEATH);
            let expected = share * *sent as f64;
            // The difference of two binomials: five standard deviations.
            let spread = (expected + expected * *sent as f64 / *sent_without as f64).sqrt();
            assert!(
                *lost as f64 <= expected + 5.0 * spread,
                "{name}, {by}: {lost} of {sent} lost; without, {lost_without} of {sent_without}"
            );
        }
    }
}

/// The sweep: while the authority or all keys are replaced, `kill -9` of the one who drives it, a node, a node behind TCP, and
/// a node beyond the relay, at moments all over it. Whoever is killed comes back, the replacement ends, and flows between others
/// lose nothing. MESHNET_SWEEP moments for each, but five at most; unless told, one for two of them, and the authority only
/// (`netns_rotation` has the keys).
#[test]
fn whoever_is_killed_while_the_authority_or_all_keys_are_replaced_nothing_between_others_is_lost() {
    let _alone = alone();
    let mut grid = Grid::new(None);
    let asked: u64 = limit("MESHNET_SWEEP", 0);
    let moments = asked.clamp(1, 5);
    let (replacements, victims): (&[(&str, u64)], &[&str]) = match asked {
        0 => (&[("authority", 1200)], &["r1", "t2"]),
        _ => (&[("authority", 1200), ("keys", 2000)], &["r1", "a3", "t2", "b3"]),
    };
    for &(replaced, length_ms) in replacements {
        for (number, victim) in victims.iter().enumerate() {
            for moment in 0..moments {
                let step = length_ms / (victims.len() as u64 * moments);
                let delay =
                    Duration::from_millis(20 + (victims.len() as u64 * moment + number as u64) * step);
                let before = (root(grid.at("r1")), current(grid.at("r1")));
                let flows = grid.flows(&BYSTANDERS);
                let verb: &[&str] = match replaced {
                    "authority" => &["authority", "rotate", "--detach"],
                    _ => &["keys", "rotate", "--all", "--detach"],
                };
                done(grid.at("r1").ok(verb));
                std::thread::sleep(delay);
                grid.at_mut(victim).kill();
                let killed_at = Instant::now();
                done(grid.at_mut(victim).up());
                done(netlab::wait::until("the replacement to end", 2 * LONG, || {
                    is_over(&grid, replaced, &before)
                }));
                let tally = flows.stop();
                let what = format!("{replaced} replaced, {victim} killed {delay:?} into it");
                let over = killed_at.elapsed();
                figure(
                    &format!("twelve nodes, {what}"),
                    format!("over {over:.1?} later; flows between others: {tally}"),
                );
                tally.is_whole(&what);
                done(grid.at(victim).wait_for_ping(overlay(grid.at("b1")), SETTLE));
            }
        }
    }
}

/// Whether all have the new key, or the new root.
fn is_over(grid: &Grid, replaced: &str, before: &(String, Option<u64>)) -> Result<(), String> {
    if replaced == "authority" {
        let shown = authority(grid.at("r1"));
        let now = root(grid.at("r1"));
        let behind: Vec<&str> = grid
            .members()
            .iter()
            .filter(|member| root(member) != now)
            .map(|member| member.machine().name())
            .collect();
        return match shown["rollover"].is_null() && now != before.0 && behind.is_empty() {
            true => Ok(()),
            false => Err(format!("{shown} {behind:?}")),
        };
    }
    for member in grid.members() {
        let shown = keys(member);
        let is_one = shown["epochs"].as_array().is_some_and(|all| all.len() == 1);
        if !is_one || shown["current"].as_u64() <= before.1.filter(|_| member.machine().name() == "r1") {
            return Err(format!("{}: {shown}", member.machine().name()));
        }
    }
    Ok(())
}
