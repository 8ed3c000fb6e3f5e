//! The authority of real daemons is replaced, taken offline, and recovered, under traffic.

use meshnet_tests::net::{
    SETTLE, Split, admit, done, figure, flow, overlay, wait_for_all_pairs, wait_for_arrivals,
};
use netlab::mesh::Member;
use serde_json::Value;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

fn authority(member: &Member) -> Value {
    done(member.json(&["authority", "show"]))
}

fn root(member: &Member) -> String {
    let shown = authority(member);
    let roots = shown["roots"].as_array().expect("roots");
    assert_eq!(roots.len(), 1, "{shown}");
    roots[0]["fingerprint"].as_str().expect("a fingerprint").to_owned()
}

fn everybody(split: &Split) -> Vec<&Member> {
    [&split.a, &split.b].into_iter().chain(&split.relays).collect()
}

/// A file of the member's state directory.
fn file(member: &Member, name: &str) -> PathBuf {
    member.state().join(name)
}

/// A passphrase in a file, and a file beside it that does not exist yet.
fn away(member: &Member) -> (String, String) {
    let passphrase = file(member, "passphrase");
    done(std::fs::write(&passphrase, "correct horse battery\n"));
    (passphrase.display().to_string(), file(member, "key.age").display().to_string())
}

#[test]
fn the_authority_is_replaced_under_1000_packets_a_second_without_the_loss_of_one() {
    let split = Split::new(1);
    let founder = &split.relays[0];
    let old = root(founder);
    let pairs = [(&split.a, &split.b), (&split.b, &split.a), (&split.a, founder)];
    let flows = pairs.map(|(from, to)| flow(from, to, 1000));
    flows.iter().for_each(|flow| wait_for_arrivals(flow, 500));
    // Only where the key is.
    let refused = done(split.a.run(&["authority", "rotate"]));
    assert_eq!(refused.status.code(), Some(77), "{refused:?}");
    let start = Instant::now();
    done(founder.ok(&["authority", "rotate", "--timeout", "60s"]));
    figure("meshd authority rotate, three nodes", format!("{:?}", start.elapsed()));
    let new = root(founder);
    assert_ne!(new, old);
    for member in everybody(&split) {
        let shown = authority(member);
        assert_eq!((root(member), shown["version"].as_u64()), (new.clone(), Some(3)), "{shown}");
    }
    flows.iter().for_each(|flow| wait_for_arrivals(flow, 1000));
    for (flow, (from, to)) in flows.into_iter().zip(pairs) {
        let report = done(flow.stop());
        let (from, to) = (from.machine().name(), to.machine().name());
        figure(&format!("{from} to {to} while the authority is replaced"), &report);
        assert_eq!((report.lost, report.duplicated), (0, 0), "{from} to {to}: {report}");
    }
    // The new one lets members in.
    let machine = done(split.lab.machine("late"));
    done(machine.plug(&split.left, &["192.0.2.9/24"]));
    let late = admit(founder, &machine, &[], &[]);
    done(late.wait_for_ping(overlay(&split.b), SETTLE));
}

/// kill -9 of the one who drives it, at moments all over; and one that is away for all of it.
#[test]
fn a_roll_over_goes_on_when_its_daemon_is_killed_and_who_was_away_comes_back() {
    let mut split = Split::new(1);
    let mut last = root(&split.relays[0]);
    split.b.kill();
    for delay_ms in [0, 120, 500] {
        done(split.relays[0].ok(&["authority", "rotate", "--detach", "--without", "b"]));
        std::thread::sleep(Duration::from_millis(delay_ms));
        split.relays[0].kill();
        done(split.relays[0].up());
        done(netlab::wait::until("the end of the roll-over", Duration::from_secs(40), || {
            let shown = authority(&split.relays[0]);
            if shown["rollover"].is_null() { Ok(()) } else { Err(shown.to_string()) }
        }));
        let now = root(&split.relays[0]);
        assert_ne!(now, last, "killed after {delay_ms} ms");
        assert_eq!(root(&split.a), now);
        last = now;
    }
    let start = Instant::now();
    done(split.b.up());
    done(split.b.wait_for_ping(overlay(&split.a), SETTLE));
    figure("back after three roll-overs", format!("{:?}", start.elapsed()));
    done(netlab::wait::until_true("b to know the newest root", SETTLE, || root(&split.b) == last));
    wait_for_all_pairs(&everybody(&split));
}

#[test]
fn the_authority_goes_offline_encrypted_and_comes_back() {
    let split = Split::new(1);
    let founder = &split.relays[0];
    let (passphrase, sealed) = away(founder);
    let with = ["--passphrase-file", &*passphrase];
    done(founder.ok(&[&["authority", "export", &*sealed, "--remove"][..], &with].concat()));
    assert!(!file(founder, "authority.key").exists());
    let text = done(std::fs::read_to_string(Path::new(&sealed)));
    assert!(text.starts_with("-----BEGIN AGE ENCRYPTED FILE-----"), "{text}");
    assert_eq!(authority(founder)["roots"][0]["here"], false);
    let refused = done(founder.run(&["authority", "rotate"]));
    assert_eq!(refused.status.code(), Some(77), "{refused:?}");
    assert_ne!(done(founder.run(&["invite", "late"])).status.code(), Some(0));
    // A wrong passphrase, and another mesh's key, change nothing.
    let wrong = file(founder, "wrong");
    done(std::fs::write(&wrong, "incorrect horse\n"));
    let wrong = wrong.display().to_string();
    let refused = done(founder.run(&["authority", "import", &*sealed, "--passphrase-file", &*wrong]));
    assert_eq!(refused.status.code(), Some(1), "{refused:?}");
    assert!(!file(founder, "authority.key").exists());
    done(founder.ok(&[&["authority", "import", &*sealed][..], &with].concat()));
    assert_eq!(authority(founder)["roots"][0]["here"], true);
    done(founder.ok(&["authority", "rotate", "--timeout", "60s"]));
    // What was in the drawer is of no use any more, and says why.
    done(std::fs::remove_file(file(founder, "authority.key")));
    let refused = done(founder.run(&[&["authority", "import", &*sealed][..], &with].concat()));
    assert!(refused.stderr.contains("was replaced"), "{}", refused.stderr);
}

#[test]
fn a_lost_authority_is_recovered_on_another_node_without_the_loss_of_a_packet() {
    let split = Split::new(1);
    let founder = &split.relays[0];
    let (passphrase, sealed) = away(founder);
    let with = ["--passphrase-file", &*passphrase];
    let export = ["authority", "export", &*sealed, "--recovery", "--remove"];
    done(founder.ok(&[&export[..], &with].concat()));
    done(std::fs::remove_file(file(founder, "authority.key")));
    let old = root(founder);
    let flows = [(&split.a, &split.b), (&split.b, &split.a)].map(|(from, to)| flow(from, to, 1000));
    flows.iter().for_each(|flow| wait_for_arrivals(flow, 500));
    let start = Instant::now();
    done(split.a.ok(&[&["authority", "recover", &*sealed, "--timeout", "60s"][..], &with].concat()));
    figure("meshd authority recover, three nodes", format!("{:?}", start.elapsed()));
    flows.iter().for_each(|flow| wait_for_arrivals(flow, 1000));
    for flow in flows {
        let report = done(flow.stop());
        assert_eq!((report.lost, report.duplicated), (0, 0), "{report}");
    }
    let new = root(&split.a);
    assert_ne!(new, old);
    for member in everybody(&split) {
        assert_eq!(root(member), new);
        let shown = authority(member);
        assert_eq!(shown["chain"][1]["by_recovery"], true, "{shown}");
    }
    // It lives on the other node from now on.
    let machine = done(split.lab.machine("late"));
    done(machine.plug(&split.left, &["192.0.2.9/24"]));
    let late = admit(&split.a, &machine, &[], &[]);
    done(late.wait_for_ping(overlay(&split.b), SETTLE));
}

#[test]
fn an_issuer_keeps_to_its_limits_and_others_see_that_it_does() {
    let split = Split::new(1);
    let machine = done(split.lab.machine("i"));
    done(machine.plug(&split.left, &["192.0.2.9/24"]));
    let limits = ["--role", "issuer", "--may-name=-home", "--may-last", "30d"];
    let issuer = admit(&split.relays[0], &machine, &limits, &[]);
    let shown = authority(&split.relays[0]);
    assert_eq!(shown["issuers"][0]["names"], "-home", "{shown}");
    let refused = done(issuer.run(&["invite", "cellar"]));
    assert!(refused.stderr.contains("may not certify this name"), "{refused:?}");
    let machine = done(split.lab.machine("cellar-home"));
    done(machine.plug(&split.left, &["192.0.2.10/24"]));
    let leaf = admit(&issuer, &machine, &[], &[]);
    done(leaf.wait_for_ping(overlay(&split.b), SETTLE));
    done(netlab::wait::until_true("the founder to see it", SETTLE, || {
        authority(&split.relays[0])["issuers"][0]["issued"] == 1
    }));
    // The limits outlive the authority.
    done(split.relays[0].ok(&["authority", "rotate", "--timeout", "60s"]));
    let shown = authority(&split.relays[0]);
    assert_eq!(shown["issuers"][0]["names"], "-home", "{shown}");
    done(leaf.wait_for_ping(overlay(&split.b), SETTLE));
}
