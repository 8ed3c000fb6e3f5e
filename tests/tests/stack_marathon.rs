//! Whole stacks through Marathon's interface, on real engines across a real mesh. Mesos and Marathon are played by the
//! stand-in (`stack::marathon_double`); ZooKeeper, MariaDB Galera, InfluxDB, and HAProxy are real.

use meshnet_tests::net::{SETTLE, done, figure};
use meshnet_tests::stack::marathon_double::{fetch, request};
use meshnet_tests::stack::recorder::Recorder;
use meshnet_tests::stack::sought::assert_nowhere;
use meshnet_tests::stack::whole::{self, IMAGES};
use meshnet_tests::stack::{Cluster, Ran};
use std::net::SocketAddr;
use std::time::{Duration, Instant};

const NODES: [&str; 3] = ["ams", "fra", "par"];
const PROGRAM: &str = env!("CARGO_BIN_EXE_marathon_double");

fn cluster(names: &[&str], images: &[&str]) -> Cluster {
    let cluster = Cluster::new(names, images);
    cluster.add_double(PROGRAM);
    for node in &cluster.nodes {
        for other in names.iter().filter(|other| **other != node.name) {
            done(node.member.wait_for_peer(other, SETTLE, |_| true));
        }
    }
    cluster
}

fn worked(ran: Ran) -> Ran {
    assert_eq!(ran.code, Some(0), "{}\n{}", ran.stdout, ran.stderr);
    ran
}

fn seconds(took: Duration) -> String {
    format!("{:.1} s", took.as_secs_f64())
}

#[test]
#[ignore = "needs root, dockerd, and images from Debian's mirror: make test-stack"]
fn three_fresh_nodes_become_a_whole_stack_with_one_command() {
    let cluster = cluster(&NODES, &IMAGES);
    cluster.specify(&whole::all("e2e", &NODES));

    // A plan asks the engines, and changes nothing: what each of them was asked is on record.
    let recorders: Vec<Recorder> =
        cluster.nodes.iter().map(|node| Recorder::before(&node.engine.socket())).collect();
    let plan = cluster.stack(&["plan"]);
    assert_eq!(plan.code, Some(2), "{}\n{}", plan.stdout, plan.stderr);
    assert_reads_only(&recorders);

    let started = Instant::now();
    let up = worked(cluster.stack(&["up"]));
    figure("stack of three nodes: up from nothing", seconds(started.elapsed()));
    println!("{}{}", up.stderr, up.stdout);
    let running = cluster.running();
    figure("stack of three nodes: containers", running.len().to_string());
    assert!(running.iter().any(|(_, component, _, driver)| component == "grafana" && driver == "marathon"));
    assert!(running.iter().all(|(_, component, _, driver)| component != "zookeeper" || driver.is_empty()));
    assert_all_ready(&cluster, &up);

    // Again: nothing to do, nothing new, quickly.
    recorders.iter().for_each(|recorder| drop(recorder.take()));
    let started = Instant::now();
    let again = worked(cluster.stack(&["up"]));
    let took = started.elapsed();
    figure("stack of three nodes: up with nothing to do", seconds(took));
    assert!(again.stdout.starts_with("nothing to do") && took < Duration::from_secs(5), "{}", again.stdout);
    assert_eq!(running, cluster.running());
    assert_eq!(cluster.stack(&["plan"]).code, Some(0));
    assert_reads_only(&recorders);

    // HAProxy serves what Marathon starts, by its name.
    let front = done(cluster.nodes[0].member.address(false));
    let through =
        cluster.nodes[2].machine().enter(|| whole::ask_by_name(front, "grafana.example.org", "/api/health"));
    assert_eq!(done(through), Some(200));

    let secrets = cluster.secrets("e2e");
    assert!(secrets.len() >= 4, "{} secrets", secrets.len());
    let told = [("what up said", up.stdout + &up.stderr)];
    assert_nowhere(&secrets, &cluster.public_places(&told), 200_000);

    let volumes = |cluster: &Cluster| cluster.nodes[0].docker(&["volume", "ls", "-q"]);
    let kept = volumes(&cluster);
    worked(cluster.stack(&["down"]));
    assert!(cluster.running().is_empty(), "{:?}", cluster.running());
    assert_eq!(volumes(&cluster), kept);
}

/// What is left running, without the hashes: a new secret makes a new one.
fn shape(cluster: &Cluster) -> Vec<(String, String, String)> {
    let running = cluster.running().into_iter();
    running.map(|(node, component, _, driver)| (node, component, driver)).collect()
}

#[test]
#[ignore = "needs root, dockerd, and images from Debian's mirror: make test-stack"]
fn killed_at_every_step_and_taken_up_by_another_node_it_comes_to_the_same_end() {
    let cluster = cluster(&NODES, &["zookeeper", "influxdb", "haproxy"]);
    let text = "name = \"sweep\"\n".to_owned()
        + &whole::base(&NODES, &NODES)
        + &whole::component("influxdb", &NODES[..2], "meshnet-test/influxdb:test", "")
        + &whole::component("telegraf", &NODES, whole::DOUBLE, "");
    cluster.specify(&text);
    worked(cluster.stack(&["up"]));
    let expected = shape(&cluster);
    worked(cluster.stack(&["down", "--volumes"]));

    // Killed as soon as a step has begun, then as soon as one is done, and so on, from the first step to the last; each
    // second time it is the other operator's node that goes on, with what the mesh keeps.
    let components = cluster.components();
    let file = cluster.file();
    let started = Instant::now();
    let mut kills: Vec<String> = Vec::new();
    let last = loop {
        // Once a step has begun, the agents may carry it out though nobody waits any more: what is seen as done moves on.
        let word = if kills.len() % 4 < 2 { "begins" } else { "done" };
        let (node, source): (_, &[&str]) = match kills.len() % 2 {
            1 if kills.len() > 2 => (&cluster.nodes[1], &["--stack", "sweep"]),
            _ => (&cluster.nodes[0], &["--file", &file]),
        };
        let arguments = [&["--components", &components, "up", "--json"], source].concat();
        match node.stack_killed_at(&arguments, |line| line.contains(&format!("\"{word}\":"))) {
            Ok(moment) => kills.push(moment),
            Err(ended) => break ended,
        }
        assert!(kills.len() < 400, "it comes to no end: {kills:#?}");
    };
    println!("{kills:#?}");
    figure("stack sweep: kills of up, one after the other", kills.len().to_string());
    figure("stack sweep: all of it", seconds(started.elapsed()));
    worked(last);
    assert_eq!(shape(&cluster), expected);
    let again = worked(cluster.stack(&["up"]));
    assert!(again.stdout.starts_with("nothing to do"), "{}", again.stdout);
    assert_eq!(cluster.stack(&["plan"]).code, Some(0));
    assert!(kills.len() >= 16, "only {} kills", kills.len());
}

/// Where Marathon answers.
fn marathon(cluster: &Cluster, node: usize) -> SocketAddr {
    SocketAddr::new(done(cluster.nodes[node].member.address(false)), 8080)
}

/// Asks Marathon for a change, from the first node.
fn change(cluster: &Cluster, method: &str, path: &str, body: &str) {
    let at = marathon(cluster, 0);
    let status = done(cluster.nodes[0].machine().enter(|| request(method, at, path, body)));
    assert!(status.is_some_and(|status| status < 300), "{method} {path}: {status:?}");
}

#[test]
#[ignore = "needs root, dockerd, and images from Debian's mirror: make test-stack"]
fn a_change_of_leader_a_manual_edit_and_a_failing_application_end_as_they_should() {
    let cluster = cluster(&NODES, &["zookeeper", "influxdb", "haproxy"]);
    let text = |more: &str| {
        let influxdb = whole::component("influxdb", &NODES[..2], "meshnet-test/influxdb:test", more);
        "name = \"app\"\n".to_owned() + &whole::base(&NODES, &NODES) + &influxdb
    };
    cluster.specify(&text(""));
    worked(cluster.stack(&["up"]));

    // The leader goes in the middle of a deployment, and a server with it.
    cluster.specify(&text("environment = { A = \"1\" }"));
    let (components, file) = (cluster.components(), cluster.file());
    let mut up = cluster.nodes[0].stack_begin(&["--components", &components, "up", "--file", &file]);
    let busy = || {
        let text = done(cluster.nodes[0].machine().enter(|| fetch(marathon(&cluster, 0), "/v2/deployments")));
        text.is_some_and(|text| text.contains("affectedApps"))
    };
    done(netlab::wait::until_true("a deployment", Duration::from_secs(60), busy));
    change(&cluster, "DELETE", "/v2/leader", "");
    assert!(done(up.wait()).success());
    assert_eq!(cluster.stack(&["plan"]).code, Some(0));

    // Somebody scales an application to nothing and gives it another variable.
    let id = "/v2/apps/app/influxdb/ams";
    let shown =
        done(cluster.nodes[0].machine().enter(|| fetch(marathon(&cluster, 0), id))).expect("the application");
    let mut app: serde_json::Value = done(serde_json::from_str(&shown));
    app["app"]["instances"] = 0.into();
    app["app"]["env"]["B"] = "by hand".into();
    change(&cluster, "PUT", id, &app["app"].to_string());
    let plan = cluster.stack(&["plan"]);
    assert_eq!(plan.code, Some(2), "{}", plan.stdout);
    for expected in ["instances: 1 -> 0", "env.B: somebody added it in Marathon"] {
        assert!(plan.stdout.contains(expected), "{}", plan.stdout);
    }
    worked(cluster.stack(&["up"]));
    assert_eq!(cluster.stack(&["plan"]).code, Some(0));

    // What cannot live meets its deadline, with the reason; the other replica is not touched.
    let before = cluster.running();
    cluster.specify(&text("arguments = [\"--no-such-argument\"]\ndeadline_s = 10"));
    let failed = cluster.stack(&["up"]);
    assert_eq!(failed.code, Some(1), "{}\n{}", failed.stdout, failed.stderr);
    for expected in ["have Marathon start it", "deployment", "exited with status", "last lines of its log"] {
        assert!(failed.stderr.contains(expected), "{expected}: {}", failed.stderr);
    }
    let of_fra = |list: &[(String, String, String, String)]| -> Vec<(String, String, String, String)> {
        list.iter()
            .filter(|(node, component, ..)| node == "fra" && component == "influxdb")
            .cloned()
            .collect()
    };
    assert_eq!(of_fra(&cluster.running()), of_fra(&before));
    // Its deployment is still there; the next run replaces it.
    cluster.specify(&text(""));
    worked(cluster.stack(&["up"]));
    assert_eq!(cluster.stack(&["plan"]).code, Some(0));

    // The agents take over from Marathon, and Marathon goes.
    cluster.specify(&text("driver = \"direct\""));
    worked(cluster.stack(&["up"]));
    let direct = cluster.running().into_iter().filter(|(_, component, ..)| component == "influxdb");
    assert!(direct.clone().count() == 2 && direct.clone().all(|(.., driver)| driver.is_empty()));
}

#[test]
#[ignore = "needs root, dockerd, and images from Debian's mirror: make test-stack"]
fn five_nodes_in_three_datacentres_become_a_whole_stack_with_one_command() {
    let names = ["ams1", "fra1", "par1", "ams2", "fra2"];
    let cluster = cluster(&names, &IMAGES);
    cluster.specify(&whole::all("five", &names));
    let started = Instant::now();
    let up = worked(cluster.stack(&["up"]));
    figure("stack of five nodes: up from nothing", seconds(started.elapsed()));
    figure("stack of five nodes: containers", cluster.running().len().to_string());
    assert_all_ready(&cluster, &up);
    let started = Instant::now();
    let again = worked(cluster.stack(&["up"]));
    figure("stack of five nodes: up with nothing to do", seconds(started.elapsed()));
    assert!(again.stdout.starts_with("nothing to do"), "{}", again.stdout);
    assert!(started.elapsed() < Duration::from_secs(5));
}

/// Checks may run programs in containers (Galera's client); everything else only reads.
fn assert_reads_only(recorders: &[Recorder]) {
    for recorder in recorders {
        let asked = recorder.take();
        assert!(
            asked.iter().any(|one| one.contains("/containers/json")),
            "the engine was not asked: {asked:?}"
        );
        let is_read =
            |one: &&String| one.starts_with("GET ") || one.starts_with("HEAD ") || one.contains("/exec");
        let written: Vec<&String> = asked.iter().filter(|one| !is_read(one)).collect();
        assert!(written.is_empty(), "{written:?}");
    }
}

fn assert_all_ready(cluster: &Cluster, up: &Ran) {
    let status = cluster.stack_status();
    for component in status["components"].as_array().expect("components") {
        assert_eq!(component["ready"], component["wanted"], "{component}\n{}\n{}", up.stdout, up.stderr);
    }
}
