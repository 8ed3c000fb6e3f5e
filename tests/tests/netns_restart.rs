//! Daemons that end, are killed, and start again.

use meshnet_tests::net::{
    self, Lan, SETTLE, done, figure, flow, let_send, overlay, timed, wait_for_arrivals,
};
use netlab::mesh::INTERFACE;
use std::time::{Duration, Instant};

#[test]
fn a_node_restarts_from_its_cache_without_any_help() {
    let mut lan = Lan::new(2);
    let target = overlay(&lan.nodes[1]);
    // An orderly end writes the cache at once; a running daemon does so within some seconds.
    done(lan.nodes[0].terminate(SETTLE));
    done(lan.nodes[0].up());
    done(lan.nodes[0].wait_for_ping(target, SETTLE));
    // Nobody but the other node is left to talk to.
    done(lan.uplink.set_carrier(false));
    timed("restart after kill -9 to the first echo, without a core", Duration::from_secs(2), || {
        lan.nodes[0].kill();
        let started_at = Instant::now();
        done(lan.nodes[0].start(&[]));
        done(lan.nodes[0].wait_for_ping(target, SETTLE));
        vec![started_at.elapsed()]
    });
}

#[test]
fn a_node_that_lost_its_cache_is_told_of_the_others_by_themselves() {
    let mut lan = Lan::new(2);
    let forgetful = overlay(&lan.nodes[0]);
    done(lan.uplink.set_carrier(false));
    lan.nodes[0].kill();
    let cache = lan.nodes[0].state().join("records.cache");
    if cache.exists() {
        done(std::fs::remove_file(cache));
    }
    let started_at = Instant::now();
    done(lan.nodes[0].start(&[]));
    // The other one has traffic for it, and nobody else could introduce the two.
    done(lan.nodes[1].wait_for_ping(forgetful, SETTLE));
    figure("restart after kill -9 without a cache to the first echo", format!("{:?}", started_at.elapsed()));
}

#[test]
fn a_peer_that_restarts_is_reached_again_by_the_one_that_stayed() {
    let mut lan = Lan::new(2);
    timed(
        "flow to a node that is killed and restarts, from the start to the last loss",
        Duration::from_secs(3),
        || {
            let flow = flow(&lan.nodes[1], &lan.nodes[0], 1000);
            wait_for_arrivals(&flow, 500);
            lan.nodes[0].kill();
            let started_at = Instant::now();
            done(lan.nodes[0].start(&[]));
            wait_for_arrivals(&flow, 1000);
            let report = done(flow.stop());
            vec![report.recovery(started_at).unwrap_or_else(|| panic!("it never came back: {report}"))]
        },
    );
}

#[test]
fn a_node_that_is_to_use_no_aes_any_more_is_reached_by_peers_that_know_its_old_keys() {
    let mut lan = Lan::new(2);
    let config = lan.nodes[0].state().join("meshd.toml");
    let (name, target) = (lan.nodes[0].machine().name().to_owned(), overlay(&lan.nodes[0]));
    let usual = done(lan.nodes[1].path_to(&name)).expect("a path").suite;
    let old = done(std::fs::read_to_string(&config));
    done(lan.nodes[0].terminate(SETTLE));
    done(std::fs::write(&config, format!("suite = \"chacha20poly1305\"\n{old}")));
    let started_at = Instant::now();
    done(lan.nodes[0].start(&[]));
    done(lan.nodes[1].wait_for_ping(target, SETTLE));
    figure("restart with another suite to the first echo", format!("{:?}", started_at.elapsed()));
    done(lan.nodes[1].wait_for_path(&name, SETTLE, |path| path.suite == "chacha20-poly1305"));
    // And back to what this machine's processor makes of it.
    done(lan.nodes[0].terminate(SETTLE));
    done(std::fs::write(&config, old));
    done(lan.nodes[0].start(&[]));
    done(lan.nodes[1].wait_for_ping(target, SETTLE));
    done(lan.nodes[1].wait_for_path(&name, SETTLE, |path| path.suite == usual));
}

#[test]
fn sigterm_removes_routes_and_device_and_sighup_loses_nothing() {
    let mut lan = Lan::new(2);
    let flow = flow(&lan.nodes[0], &lan.nodes[1], 1000);
    wait_for_arrivals(&flow, 300);
    lan.nodes[0].daemon().expect("it runs").signal(nix::sys::signal::Signal::SIGHUP);
    let_send(&flow, 2000);
    let report = done(flow.stop());
    figure("SIGHUP under 1,000/s", &report);
    assert_eq!(report.lost, 0, "{report}");

    let machine = lan.nodes[0].machine().clone();
    let links = || done(machine.ip("-brief link"));
    let routes = || done(machine.ip("route show table all")) + &done(machine.ip("-6 route show table all"));
    let rules = || done(machine.ip("rule")) + &done(machine.ip("-6 rule"));
    assert!(links().contains(INTERFACE) && routes().contains(INTERFACE));
    let start = Instant::now();
    let status = done(lan.nodes[0].terminate(Duration::from_secs(5)));
    figure("SIGTERM to the end", format!("{:?}", start.elapsed()));
    assert!(status.is_some_and(|status| status.success()), "{status:?}: {}", lan.nodes[0].log_text());
    assert!(!links().contains(INTERFACE), "{}", links());
    assert!(!routes().contains(INTERFACE), "{}", routes());
    let left: Vec<_> = rules().lines().filter(|line| !standard_rule(line)).map(str::to_owned).collect();
    assert!(left.is_empty(), "{left:?}");
}

/// The rules every namespace has.
fn standard_rule(line: &str) -> bool {
    ["lookup local", "lookup main", "lookup default"].iter().any(|standard| line.ends_with(standard))
}

#[test]
fn a_daemon_killed_at_any_moment_always_starts_again() {
    let mut lan = Lan::new(2);
    let kills = net::limit::<u64>("MESHNET_KILLS", 200);
    let target = overlay(&lan.nodes[1]);
    let flow = flow(&lan.nodes[1], &lan.nodes[0], 500);
    let start = Instant::now();
    let mut slowest = Duration::ZERO;
    for round in 0..kills {
        lan.nodes[0].kill();
        let started_at = Instant::now();
        done(lan.nodes[0].start(&[]));
        // From the first instructions to well after the first packets: the moments are spread over 200 ms. Every
        // tenth start is let go on to its end.
        if round % 10 == 9 {
            done(lan.nodes[0].wait_until_up(SETTLE));
            done(lan.nodes[0].wait_for_ping(target, SETTLE));
            slowest = slowest.max(started_at.elapsed());
        } else {
            let moment = Duration::from_micros(round * 7919 % 200 * 1000);
            let at = Instant::now() + moment;
            let mut gone = None;
            done(netlab::wait::until_true("the moment to kill", SETTLE, || {
                gone = gone.or(lan.nodes[0].daemon().and_then(netlab::Process::try_wait));
                Instant::now() >= at
            }));
            assert_eq!(gone, None, "it did not start in round {round}: {}", lan.nodes[0].log_text());
        }
    }
    lan.nodes[0].kill();
    done(lan.nodes[0].up());
    done(lan.nodes[0].wait_for_ping(target, SETTLE));
    let report = done(flow.stop());
    figure(
        "kills -9 under traffic",
        format!("{kills} in {:?}, slowest start to the first echo {slowest:?}; {report}", start.elapsed()),
    );
}
