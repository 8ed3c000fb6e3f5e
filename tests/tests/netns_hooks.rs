//! Commands that a daemon has run when something happens.

use meshnet_tests::net::{
    PORT, SETTLE, done, enlist, figure, found, overlay, restart_with, without_link_local,
};
use netlab::Lab;
use netlab::mesh::Member;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::time::{Duration, Instant};

/// Waits until a file has a line that is as wished; all of it.
fn wait_for_line(file: &Path, what: &str, is_wished: impl Fn(&str) -> bool) -> String {
    done(netlab::wait::until(what, SETTLE, || {
        let text = std::fs::read_to_string(file).unwrap_or_default();
        if text.lines().any(&is_wished) { Ok(text) } else { Err(text) }
    }))
}

/// A relay `a` (192.0.2.1), and `b` (192.0.2.2) that may announce 10.1.0.0/16 and is not started.
fn pair(lab: &Lab) -> (Member, Member) {
    let lan = done(lab.switch("lan"));
    let first = done(lab.machine("a"));
    without_link_local(&first);
    done(first.plug(&lan, &["192.0.2.1/24"]));
    let a = found(&first, &["--relay", "--endpoint", &format!("192.0.2.1:{PORT}")]);
    let second = done(lab.machine("b"));
    without_link_local(&second);
    done(second.plug(&lan, &["192.0.2.2/24"]));
    let b = enlist(&a, &second, &["--subnet", "10.1.0.0/16"], &[]);
    (a, b)
}

#[test]
fn commands_run_for_members_subnets_and_paths_beside_a_strict_sandbox() {
    let lab = done(Lab::new());
    let (mut a, mut b) = pair(&lab);
    let log = a.machine().directory().join("hooks.log");
    let say = |what: &str| format!("echo \"{what}\" >> {}", log.display());
    let configuration = format!(
        "relay = true\nendpoints = [\"192.0.2.1:{PORT}\"]\nsandbox = \"strict\"\n[hooks]\nup = '{}'\ndown = '{}'\n\
         node_up = '{}'\nnode_down = '{}'\nsubnet_up = '{}'\nsubnet_down = '{}'\npath_change = '{}'\ntimeout = \"5s\"\n",
        say("up $NAME $NETNAME $INTERFACE $(ip -br addr show dev $INTERFACE | wc -l)"),
        say("down $NAME $(ip -br addr show dev $INTERFACE | wc -l)"),
        say("node_up $NODE $REMOTEADDRESS $REMOTEPORT"),
        say("node_down $NODE"),
        say("subnet_up $NODE $SUBNET $WEIGHT"),
        say("subnet_down $NODE $SUBNET"),
        say("path $NODE $MESHD_PATH"),
    );
    done(a.terminate(Duration::from_secs(5)));
    done(std::fs::write(a.state().join("meshd.toml"), configuration));
    done(a.up());
    wait_for_line(&log, "the command for up", |line| line == "up a lab mesh0 1");

    done(b.up());
    done(b.wait_for_ping(overlay(&a), SETTLE));
    wait_for_line(&log, "the path to b", |line| line == "path b direct");
    let text = wait_for_line(&log, "the subnet of b", |line| line == "subnet_up b 10.1.0.0/16 100");
    let place = |wanted: &str| text.lines().position(|line| line.starts_with(wanted));
    assert!(text.lines().any(|line| line == format!("node_up b 192.0.2.2 {PORT}")), "{text}");
    assert!(place("up") < place("node_up") && place("node_up") < place("subnet_up"), "{text}");

    done(b.terminate(Duration::from_secs(5)));
    let text = wait_for_line(&log, "the end of b", |line| line == "subnet_down b 10.1.0.0/16");
    assert!(text.contains("node_down b"), "{text}");

    done(a.terminate(Duration::from_secs(9)));
    let text = wait_for_line(&log, "the command for down", |line| line.starts_with("down"));
    assert!(text.lines().any(|line| line == "down a 1"), "the device is still there: {text}");
}

#[test]
fn tincs_scripts_run_and_slow_ones_hold_up_neither_packets_nor_the_daemon() {
    let lab = done(Lab::new());
    let (mut a, mut b) = pair(&lab);
    let directory = a.machine().directory().join("tinc");
    done(std::fs::create_dir_all(directory.join("hosts")));
    let log = directory.join("log");
    let script = |file: &str, text: &str| {
        let path = directory.join(file);
        done(std::fs::write(&path, format!("#!/bin/sh\n{text}\n")));
        done(std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o700)));
    };
    script("tinc-up", "echo up $INTERFACE $PWD >> log");
    script("hosts/b-up", "echo b-up $NODE >> log; sleep 60");
    script("host-down", "echo down $NODE >> log");
    script("tinc-down", "echo tinc-down >> log");
    restart_with(&mut a, &format!("hooks = {{ tinc = \"{}\", timeout = \"4s\" }}", directory.display()));
    let at = directory.canonicalize().expect("it exists").display().to_string();
    wait_for_line(&log, "tinc-up", |line| line == format!("up mesh0 {at}"));

    done(b.up());
    wait_for_line(&log, "hosts/b-up", |line| line == "b-up b");
    // It sleeps now. Packets and answers do not wait for it.
    let start = Instant::now();
    done(b.wait_for_ping(overlay(&a), SETTLE));
    done(a.status());
    figure("echo and status while a script sleeps", format!("{:?}", start.elapsed()));
    done(netlab::wait::until_true("the script to be killed", SETTLE, || {
        a.log_text().contains("took too long and was killed")
    }));
    done(b.terminate(Duration::from_secs(5)));
    wait_for_line(&log, "host-down", |line| line == "down b");
    let failed = done(a.status()).drops.get("hooks_failed").copied();
    assert_eq!(failed, Some(1), "only that one: {}", a.log_text());
    done(a.terminate(Duration::from_secs(9)));
    wait_for_line(&log, "tinc-down", |line| line == "tinc-down");
}

#[test]
fn the_daemon_ends_in_time_though_its_last_command_hangs() {
    let lab = done(Lab::new());
    let (mut a, _) = pair(&lab);
    restart_with(&mut a, "hooks = { down = \"sleep 60\", timeout = \"1m\" }");
    let start = Instant::now();
    let status = done(a.terminate(Duration::from_secs(10)));
    assert!(status.is_some_and(|status| status.success()), "{status:?}");
    figure("end of a daemon whose last command hangs", format!("{:?}", start.elapsed()));
}
