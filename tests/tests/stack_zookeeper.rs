//! A real ZooKeeper ensemble across a real mesh, brought up, broken, changed, and taken down by `meshd stack`.

use meshnet_tests::net::{SETTLE, done, figure};
use meshnet_tests::stack::{Cluster, Ran};
use std::time::{Duration, Instant};

const NODES: [&str; 3] = ["ams", "fra", "par"];

fn specification(heap_mb: u32) -> String {
    format!(
        "name = \"e2e\"\n[components.zookeeper]\nnodes = [\"ams\", \"fra\", \"par\"]\nimage = \"meshnet-test/zookeeper:test\"\n\
         settings.heap_mb = {heap_mb}\nmemory_mb = 384\n"
    )
}

fn worked(ran: Ran) -> Ran {
    assert_eq!(ran.code, Some(0), "{}\n{}", ran.stdout, ran.stderr);
    ran
}

#[test]
#[ignore = "needs root, dockerd, and images from Debian's mirror: make test-stack"]
fn an_ensemble_comes_up_is_repaired_rolled_taken_up_elsewhere_and_taken_down() {
    let cluster = Cluster::new(&NODES, &["zookeeper"]);
    let (ams, fra, par) = (cluster.node("ams"), cluster.node("fra"), cluster.node("par"));
    for node in [fra, par] {
        done(ams.member.wait_for_peer(&node.name, SETTLE, |_| true));
        done(node.member.wait_for_peer("ams", SETTLE, |_| true));
    }
    let file = cluster.specify(&specification(96));
    let file = file.to_str().expect("a path in UTF-8");

    // A plan changes nothing, and says by its exit code that there is something to do.
    let plan = ams.stack(&["plan", "--file", file]);
    assert_eq!(plan.code, Some(2), "{}\n{}", plan.stdout, plan.stderr);
    assert!(cluster.nodes.iter().all(|node| node.containers().is_empty()));

    // Killed at any moment, and run again: one end, nothing twice.
    for delay_ms in [300, 900, 1_500, 2_200, 3_500] {
        let mut up = ams.stack_begin(&["up", "--file", file]);
        std::thread::sleep(Duration::from_millis(delay_ms));
        done(up.kill());
        done(up.wait());
    }
    let started = Instant::now();
    worked(ams.stack(&["up", "--file", file]));
    figure("stack up after five kills", format!("{:.1} s", started.elapsed().as_secs_f64()));
    let before: Vec<Vec<String>> = cluster.nodes.iter().map(|node| node.containers()).collect();
    assert!(before.iter().all(|containers| containers.len() == 1), "{before:?}");

    // Again, from another operator's node, without the file: nothing to do.
    let started = Instant::now();
    let again = worked(fra.stack(&["up", "--stack", "e2e"]));
    let took = started.elapsed();
    figure("stack up with nothing to do", format!("{:.1} s", took.as_secs_f64()));
    assert!(again.stdout.starts_with("nothing to do") && took < Duration::from_secs(5), "{}", again.stdout);
    let after: Vec<Vec<String>> = cluster.nodes.iter().map(|node| node.containers()).collect();
    assert_eq!(before, after);
    assert_eq!(ams.component(file, "zookeeper")["margin"], "can lose 1 more");

    // Who is no operator is told so.
    let refused = par.stack(&["status", "--stack", "e2e"]);
    assert_eq!(refused.code, Some(77), "{}", refused.stderr);
    assert!(refused.stderr.contains("par is no operator"), "{}", refused.stderr);
    let audit = done(std::fs::read_to_string(ams.member.state().join("stack/audit.log")));
    assert!(audit.contains("par is no operator") && audit.contains("create meshd-e2e-zookeeper"), "{audit}");

    // One is killed: what is left is told, and `up` repairs it.
    fra.docker(&["kill", "meshd-e2e-zookeeper"]);
    let broken = ams.component(file, "zookeeper");
    assert_eq!((&broken["margin"], &broken["ready"]), (&"can lose none".into(), &2.into()), "{broken}");
    worked(ams.stack(&["up", "--file", file]));
    assert_eq!(ams.component(file, "zookeeper")["ready"], 3);

    // A change rolls, the leader last; two at once exclude each other.
    let leader = ams.component(file, "zookeeper")["leader"].as_str().map(str::to_owned).expect("a leader");
    let file = cluster.specify(&specification(100));
    let file = file.to_str().expect("a path in UTF-8");
    let plan = ams.stack(&["plan", "--file", file]);
    assert!(plan.stdout.contains("environment.ZK_SERVER_HEAP: 96 -> 100"), "{}", plan.stdout);
    let last = plan.stdout.lines().rfind(|line| line.contains("make and start")).unwrap_or_default();
    assert!(last.contains(&leader), "{leader} leads\n{}", plan.stdout);
    let mut first = ams.stack_begin(&["up", "--file", file]);
    done(netlab::wait::until_true("the second run to be refused", Duration::from_secs(20), || {
        let second = fra.stack(&["up", "--stack", "e2e"]);
        second.code == Some(1) && second.stderr.contains("is changing e2e at this moment")
    }));
    assert!(done(first.wait()).success());
    assert_eq!(ams.stack(&["plan", "--file", file]).code, Some(0));

    // Somebody changes it by hand.
    par.docker(&["update", "--memory", "300m", "--memory-swap", "300m", "meshd-e2e-zookeeper"]);
    let drift = ams.stack(&["plan", "--file", file]);
    assert!(drift.code == Some(2) && drift.stdout.contains("memory:"), "{}", drift.stdout);
    worked(ams.stack(&["up", "--file", file]));

    // Logs of all nodes together.
    let logs = worked(ams.stack(&["logs", "zookeeper", "--tail", "3", "--file", file])).stdout;
    for name in NODES {
        assert!(logs.lines().any(|line| line.starts_with(&format!("{name}/zookeeper"))), "{logs}");
    }

    // Down keeps the data; up finds it again.
    worked(ams.stack(&["down", "--file", file]));
    assert!(cluster.nodes.iter().all(|node| node.containers().is_empty()));
    assert!(ams.docker(&["volume", "ls", "-q"]).contains("meshd-e2e-zookeeper-data"));
    let up = worked(ams.stack(&["up", "--file", file]));
    println!("{}{}", up.stderr, up.stdout);
    worked(ams.stack(&["down", "--volumes", "--file", file]));
    assert_eq!(ams.docker(&["volume", "ls", "-q"]).trim(), "");
}
