//! Members are revoked while they talk.

use meshnet_tests::net::{
    SETTLE, Split, done, figure, flow, let_send, overlay, timed, wait_for_all_pairs, wait_for_arrivals,
};
use std::time::{Duration, Instant};

#[test]
fn a_revoked_member_is_cut_off_within_milliseconds_and_stays_out() {
    let mut last = None;
    timed("a revoked member is cut off, beyond what the command took", Duration::from_millis(150), || {
        let split = Split::new(1);
        let times = revoke_under_traffic(&split);
        last = Some(split);
        times
    });
    let mut split = last.expect("it was done");
    let name = split.b.machine().name().to_owned();

    // Restarts change nothing, neither its own nor the others'.
    split.b.kill();
    split.a.kill();
    done(split.a.up());
    done(split.b.up());
    done(split.a.wait_for_ping(overlay(&split.relays[0]), SETTLE));
    let status = done(split.a.status());
    assert!(status.peers.iter().all(|peer| peer.name != name), "{:?}", status.peers);
    // It says why to who looks there, and its name is free for the machine that takes its place.
    let check = done(split.b.run(&["status", "--check"]));
    assert!(check.status.code() == Some(1) && check.stdout.contains("was revoked"), "{check:?}");
    done(split.relays[0].ok(&["invite", &name]));
}

/// Revokes `b`; for how much longer than the command took, packets from and to it were let through.
fn revoke_under_traffic(split: &Split) -> Vec<Duration> {
    let name = split.b.machine().name().to_owned();
    let flows = [(&split.a, &split.b), (&split.b, &split.a)].map(|(from, to)| flow(from, to, 1000));
    let bystander = flow(&split.relays[0], &split.a, 1000);
    flows.iter().chain([&bystander]).for_each(|flow| wait_for_arrivals(flow, 300));

    // Only the founder holds the authority's key, and nobody is an operator.
    let refused = done(split.a.run(&["revoke", &name]));
    assert_eq!(refused.status.code(), Some(77), "{refused:?}");

    let start = Instant::now();
    done(split.relays[0].ok(&["revoke", &name, "--reason", "stolen"]));
    let took = start.elapsed();
    let_send(&flows[0], 1000);
    let mut beyond = Vec::new();
    for flow in flows {
        let report = done(flow.stop());
        let passed = report.let_through_since(start);
        figure(
            "a flow with a member that is revoked",
            format!("{report}; let through for {passed:?}; revoke took {took:?}"),
        );
        beyond.push(passed.saturating_sub(took));
    }
    let report = done(bystander.stop());
    assert_eq!((report.lost, report.duplicated), (0, 0), "{report}");
    assert!(split.b.log_text().contains("this node was revoked"), "{}", split.b.log_text());
    beyond
}

#[test]
fn a_node_that_was_away_hears_of_a_revocation_when_it_comes_back() {
    let mut split = Split::new(1);
    wait_for_all_pairs(&[&split.a, &split.b]);
    split.a.kill();
    let (name, out) = (split.b.machine().name().to_owned(), overlay(&split.b));
    done(split.relays[0].ok(&["revoke", &name]));
    let start = Instant::now();
    done(split.a.up());
    done(netlab::wait::until("the one that was away to hear", SETTLE, || {
        let status = split.a.status().map_err(|error| error.to_string())?;
        if status.peers.iter().any(|peer| peer.name == name) {
            Err("still a member".into())
        } else {
            Ok::<(), String>(())
        }
    }));
    figure("a node that was away hears of a revocation after its start", format!("{:?}", start.elapsed()));
    let ping = done(split.a.run(&["ping", &out.to_string()]));
    assert_ne!(ping.status.code(), Some(0), "{ping:?}");
}
