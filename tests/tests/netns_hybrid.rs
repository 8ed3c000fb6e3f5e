//! Post-quantum sessions between real daemons: they come up and go by a change of configuration, and nothing is lost.

use std::process::Command;
use std::time::Duration;

use meshnet_tests::net::{
    SETTLE, Split, done, figure, flow, let_send, overlay, restart_with, wait_for_all_pairs, wait_for_arrivals,
};
use netlab::mesh::{Member, PeerStatus};
use nix::sys::signal::Signal;

/// Gives a running daemon another line of configuration, in place of what an earlier call gave it.
fn reload_with(member: &mut Member, line: &str) {
    let file = member.state().join("meshd.toml");
    let before = done(std::fs::read_to_string(&file));
    let rest: String =
        before.lines().filter(|line| !line.starts_with("pq =")).map(|line| format!("{line}\n")).collect();
    done(std::fs::write(&file, format!("{line}\n{rest}")));
    member.daemon().expect("it runs").signal(Signal::SIGHUP);
}

fn is(word: &'static str) -> impl Fn(&PeerStatus) -> bool {
    move |peer| peer.post_quantum.as_deref() == Some(word)
}

#[test]
fn sessions_become_post_quantum_under_1000_packets_a_second_and_none_is_lost() {
    let mut split = Split::new(1);
    // By default they are, directly and through a relay.
    for (from, to) in [(&split.a, "r1"), (&split.a, "b"), (&split.b, "a"), (&split.relays[0], "b")] {
        done(from.wait_for_peer(to, SETTLE, is("hybrid")));
    }
    let table = done(split.a.ok(&["peers"]));
    assert!(table.contains("PQ") && table.contains("yes"), "{table}");

    let pairs = |split: &Split| {
        [
            (&split.a, &split.b),
            (&split.b, &split.a),
            (&split.a, &split.relays[0]),
            (&split.relays[0], &split.a),
        ]
        .map(|(from, to)| {
            (flow(from, to, 1000), format!("{} to {}", from.machine().name(), to.machine().name()))
        })
    };
    let flows = pairs(&split);
    flows.iter().for_each(|(flow, _)| wait_for_arrivals(flow, 300));
    for (line, words) in [
        ("pq = \"off\"", ["off", "unsupported"]),
        ("pq = \"prefer\"", ["hybrid"; 2]),
        ("pq = \"require\"", ["hybrid"; 2]),
    ] {
        reload_with(&mut split.a, line);
        done(split.a.wait_for_peer("b", SETTLE, is(words[0])));
        done(split.a.wait_for_peer("r1", SETTLE, is(words[0])));
        done(split.b.wait_for_peer("a", SETTLE, is(words[1])));
        let_send(&flows[0].0, 500);
    }
    for (flow, names) in flows {
        let report = done(flow.stop());
        figure(&format!("pq off, prefer, require, {names}"), &report);
        assert_eq!((report.lost, report.duplicated), (0, 0), "{names}: {report}");
    }

    // Who requires it does not talk to who does not want it, and both are told.
    restart_with(&mut split.b, "pq = \"off\"");
    // Nobody makes a session before somebody wants one.
    let want = || {
        let mut ping = Command::new("ping");
        ping.args(["-c", "1", "-W", "1", &overlay(&split.b).to_string()]);
        done(split.a.machine().run(ping, SETTLE))
    };
    want();
    done(split.b.wait_for_peer("a", SETTLE, |peer| peer.withheld));
    done(split.a.wait_for_peer("b", SETTLE, |peer| peer.withheld));
    let warned = |member: &Member| done(member.status()).warnings.join("\n");
    assert!(warned(&split.a).contains("off at b"), "{}", warned(&split.a));
    assert!(warned(&split.b).contains("it requires post-quantum sessions"), "{}", warned(&split.b));
    let ping = want();
    assert!(ping.stdout.to_lowercase().contains("filtered"), "{}", ping.stdout);
    let why = done(split.a.ok(&["why", "b"]));
    assert!(why.contains("withheld"), "{why}");

    // And again with who does.
    restart_with(&mut split.b, "pq = \"require\"");
    wait_for_all_pairs(&[&split.a, &split.b, &split.relays[0]]);
    done(split.a.wait_for_peer("b", Duration::from_secs(5), is("hybrid")));
    assert_eq!(warned(&split.a), "");
}
