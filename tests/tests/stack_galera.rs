//! A real MariaDB Galera cluster across a real mesh, through every kind of outage, while somebody writes all the time.

use meshnet_tests::net::{SETTLE, done, figure};
use meshnet_tests::stack::galera::{compare, door, sql, state};
use meshnet_tests::stack::{Cluster, Node, Ran};
use netlab::writes::Writer;
use std::time::{Duration, Instant};

const NODES: [&str; 3] = ["ams", "fra", "par"];
const STACK: &str = "db";
const CONTAINER: &str = "meshd-db-mariadb";
/// What a replica may take to come back: a state transfer on a busy machine.
const RETURN: Duration = Duration::from_secs(180);

/// The cluster under test, its specification, and its client.
struct Scene {
    cluster: Cluster,
    writer: Writer,
}

impl Scene {
    /// Three nodes, brought up by one `up`.
    fn new() -> Scene {
        let cluster = Cluster::new(&NODES, &["mariadb"]);
        for node in &cluster.nodes {
            for other in NODES.iter().filter(|other| **other != node.name) {
                done(node.member.wait_for_peer(other, SETTLE, |_| true));
            }
        }
        cluster.specify(&specification(32));
        let started = Instant::now();
        worked(cluster.node("ams").stack(&["up", "--file", &cluster.file()]));
        figure("galera: up from nothing", seconds(started.elapsed()));
        let writer = done(Writer::start(cluster.nodes.iter().map(|node| door(node, STACK)).collect()));
        let scene = Scene { cluster, writer };
        done(scene.writer.goes_on(RETURN));
        scene
    }

    fn up(&self, further: &[&str]) -> Ran {
        let file = self.cluster.file();
        self.cluster.node("ams").stack(&[&["up", "--file", &file], further].concat())
    }

    fn plan(&self, further: &[&str]) -> Ran {
        let file = self.cluster.file();
        self.cluster.node("ams").stack(&[&["plan", "--file", &file], further].concat())
    }

    fn docker(&self, verb: &[&str], nodes: &[&str]) {
        std::thread::scope(|scope| {
            for node in nodes {
                let node = self.cluster.node(node);
                scope.spawn(|| node.docker(&[verb, &[CONTAINER]].concat()));
            }
        });
    }

    /// Waits until a replica is in no primary component.
    fn stands_still(&self, node: &str) {
        let node = self.cluster.node(node);
        let what = format!("{} to stand still", node.name);
        done(netlab::wait::until(&what, RETURN, || match state(node, STACK) {
            state if state.starts_with("non-Primary") => Ok(()),
            other => Err(other),
        }));
    }

    /// Waits until all three are in step, and compares the rows of each with what was acknowledged.
    fn whole(&self, row: &str, since: Instant) {
        for node in &self.cluster.nodes {
            let what = format!("{} to be in step", node.name);
            done(netlab::wait::until(&what, RETURN, || match state(node, STACK) {
                state if state == "Primary Synced 3" => Ok(()),
                other => Err(other),
            }));
        }
        done(self.writer.goes_on(RETURN));
        for node in &self.cluster.nodes {
            let seen = compare(&self.writer, node, STACK, since);
            assert_eq!(seen.lost, 0, "{row}: {} has not all that was acknowledged: {seen:?}", node.name);
            if node.name == NODES[0] {
                let acknowledged = seen.acknowledged;
                figure(
                    &format!("galera: {row}"),
                    format!("{} without service, 0 of {acknowledged} writes lost", seconds(seen.gap)),
                );
            }
        }
        // No replica would found a cluster of its own when it is started again.
        for node in &self.cluster.nodes {
            let line = node.docker(&["inspect", "--format", "{{.Config.Cmd}}", CONTAINER]);
            assert!(!line.contains("--wsrep-new-cluster"), "{row}: {} keeps the founding flag", node.name);
        }
        assert_eq!(self.plan(&[]).code, Some(0), "{row}: something is left to do");
    }
}

fn specification(buffer_pool_mb: u32) -> String {
    format!(
        "name = \"{STACK}\"\n[components.mariadb]\nnodes = [\"ams\", \"fra\", \"par\"]\nimage = \"meshnet-test/mariadb:test\"\n\
         settings.buffer_pool_mb = {buffer_pool_mb}\n"
    )
}

fn worked(ran: Ran) -> Ran {
    assert_eq!(ran.code, Some(0), "{}\n{}", ran.stdout, ran.stderr);
    ran
}

fn seconds(time: Duration) -> String {
    format!("{:.1} s", time.as_secs_f64())
}

#[test]
#[ignore = "needs root, dockerd, and images from Debian's mirror: make test-stack"]
fn a_database_survives_every_outage_and_loses_no_acknowledged_write() {
    let scene = Scene::new();
    let (writer, cluster) = (&scene.writer, &scene.cluster);

    // A process that dies is started again by its engine, and joins without anybody's help.
    let since = Instant::now();
    let pid = cluster.node("fra").engine.pid(CONTAINER).expect("it runs");
    done(nix::sys::signal::kill(
        nix::unistd::Pid::from_raw(pid.cast_signed()),
        nix::sys::signal::Signal::SIGKILL,
    ));
    done(netlab::wait::until_true("its end to be noticed", RETURN, || {
        state(cluster.node("ams"), STACK).ends_with(" 2")
    }));
    scene.whole("one killed, back by itself", since);

    // A container that stays away is brought back by `up`.
    let since = Instant::now();
    scene.docker(&["kill"], &["ams"]);
    done(writer.goes_on(RETURN));
    worked(scene.up(&[]));
    scene.whole("one killed for good", since);

    // A change reaches one after the other.
    let since = Instant::now();
    cluster.specify(&specification(48));
    let plan = scene.plan(&[]);
    assert!(plan.code == Some(2) && plan.stdout.contains("90-meshd.cnf"), "{}", plan.stdout);
    worked(scene.up(&[]));
    for node in &cluster.nodes {
        let pool = sql(node, STACK, "SELECT @@innodb_buffer_pool_size");
        assert_eq!(pool.trim(), (48 << 20).to_string(), "{}", node.name);
    }
    scene.whole("rolling change", since);

    // Two of three killed: the third has all data and does not go on alone unless told.
    let since = Instant::now();
    scene.docker(&["kill"], &["fra", "par"]);
    scene.stands_still("ams");
    worked(scene.up(&[]));
    scene.whole("two of three killed, then up", since);

    // The same, and one of the two has lost its disk: the one that was made primary hands over everything.
    let since = Instant::now();
    scene.docker(&["kill"], &["fra", "par"]);
    scene.docker(&["rm"], &["par"]);
    cluster.node("par").docker(&["volume", "rm", "meshd-db-mariadb-data"]);
    scene.stands_still("ams");
    worked(scene.up(&[]));
    scene.whole("two of three killed, one without its data, then up", since);
}

#[test]
#[ignore = "needs root, dockerd, and images from Debian's mirror: make test-stack"]
fn a_database_that_stands_still_is_founded_again_where_its_newest_data_is() {
    let scene = Scene::new();
    let cluster = &scene.cluster;

    // One after the other: the last one is marked.
    let since = Instant::now();
    for node in NODES {
        scene.docker(&["stop", "-t", "120"], &[node]);
    }
    let plan = scene.plan(&[]);
    assert!(plan.stdout.contains("safe_to_bootstrap: 1"), "{}\n{}", plan.stdout, plan.stderr);
    worked(scene.up(&[]));
    scene.whole("all stopped one by one, then up", since);

    // All at once: nobody is marked, or nobody alone.
    let since = Instant::now();
    scene.docker(&["stop", "-t", "120"], &NODES);
    worked(scene.up(&[]));
    scene.whole("all stopped at once, then up", since);

    // All killed at once: they remember each other. As when the power comes back, nobody gives a command.
    let since = Instant::now();
    scene.docker(&["kill"], &NODES);
    scene.docker(&["start"], &NODES);
    scene.whole("all killed at once, started again", since);

    // The same, and `up` is what starts them.
    let since = Instant::now();
    scene.docker(&["kill"], &NODES);
    let plan = scene.plan(&[]);
    assert!(plan.stdout.contains("remember the same primary component"), "{}\n{}", plan.stdout, plan.stderr);
    worked(scene.up(&[]));
    scene.whole("all killed at once, then up", since);

    // All machines are shut down in an orderly way and started: every replica looks in vain for one to join.
    let since = Instant::now();
    for node in NODES {
        scene.docker(&["stop", "-t", "120"], &[node]);
    }
    scene.docker(&["start"], &NODES);
    done(netlab::wait::until_true("replicas to give up", RETURN, || {
        let count = cluster.node("ams").docker(&["inspect", "--format", "{{.RestartCount}}", CONTAINER]);
        count.trim() != "0"
    }));
    worked(scene.up(&[]));
    scene.whole("all machines restarted in order, then up", since);

    // Two are killed; the third, marked as the last of an older outage, is older. The mark must not count.
    let since = Instant::now();
    scene.docker(&["kill"], &NODES);
    let state = mark(cluster.node("par"));
    assert!(state.contains("safe_to_bootstrap: 1"), "{state}");
    for node in NODES {
        forget_view(cluster.node(node));
    }
    let up = worked(scene.up(&[]));
    assert!(!up.stdout.contains("stopped last"), "{}", up.stdout);
    scene.whole("a mark from an older outage", since);

    // One has another history: whose data is kept is for a person to say.
    let since = Instant::now();
    scene.docker(&["stop", "-t", "120"], &NODES);
    rewrite(cluster.node("fra"), "grastate.dat", |text| {
        let uuid =
            text.lines().find_map(|line| line.strip_prefix("uuid:")).expect("a uuid").trim().to_owned();
        text.replace(&uuid, "0badc0de-0000-11ee-8000-000000000001")
    });
    let refused = scene.up(&[]);
    assert!(refused.code == Some(1) && refused.stderr.contains("2 different histories"), "{refused:?}");
    assert!(cluster.nodes.iter().all(|node| node.engine.pid(CONTAINER).is_none()), "nothing was started");
    worked(scene.up(&["--force"]));
    scene.whole("different histories, then up --force", since);
}

#[test]
#[ignore = "needs root, dockerd, and images from Debian's mirror: make test-stack"]
fn a_partition_stops_the_smaller_side_only_and_heals_by_itself() {
    let scene = Scene::new();
    let (writer, cluster) = (&scene.writer, &scene.cluster);

    // Cut off for longer than any time-out: the two go on, the one stands still and is left alone.
    let since = Instant::now();
    done(cluster.node("par").port.silence());
    scene.stands_still("par");
    done(writer.goes_on(RETURN));
    let serving = Instant::now();
    let alone = worked_or_not(scene.up(&[]));
    assert!(alone.stderr.contains("par"), "{alone:?}");
    while serving.elapsed() < Duration::from_secs(80) {
        done(writer.goes_on(RETURN));
    }
    assert!(sql_fails(cluster.node("par")), "who is cut off must not take writes");
    done(cluster.node("par").port.heal());
    scene.whole("one cut off for 80 s, then healed", since);

    // Two are gone with their nodes: nobody here can know whether they serve.
    let since = Instant::now();
    for node in ["fra", "par"] {
        scene.docker(&["kill"], &[node]);
        done(cluster.node(node).port.silence());
    }
    scene.stands_still("ams");
    let refused = scene.up(&[]);
    assert!(refused.code == Some(1), "{refused:?}");
    for node in ["fra", "par"] {
        done(cluster.node(node).port.heal());
    }
    done(netlab::wait::until_true("the nodes to answer again", RETURN, || {
        scene.plan(&[]).stdout.contains("fra") && !scene.plan(&[]).stderr.contains("answer")
    }));
    worked(scene.up(&[]));
    scene.whole("two of three killed and cut off, healed, then up", since);

    // One is cut off, the other two go on and are killed: it must join them, not they it.
    let since = Instant::now();
    done(cluster.node("ams").port.silence());
    scene.stands_still("ams");
    done(writer.goes_on(RETURN));
    scene.docker(&["kill"], &["fra", "par"]);
    done(cluster.node("ams").port.heal());
    done(netlab::wait::until_true("the nodes to answer again", RETURN, || {
        !scene.plan(&[]).stderr.contains("answer")
    }));
    worked(scene.up(&[]));
    scene.whole("one cut off, the other two killed later, then up", since);
}

fn worked_or_not(ran: Ran) -> Ran {
    assert!(matches!(ran.code, Some(0 | 1)), "{ran:?}");
    ran
}

fn sql_fails(node: &Node) -> bool {
    let insert = "INSERT INTO probe.w VALUES (4000000000, 'nobody')";
    let client =
        ["exec", CONTAINER, "mariadb", "--defaults-extra-file=/run/meshd/client.cnf", "-NBe", insert];
    node.engine.docker(&client).is_err()
}

fn data(node: &Node, file: &str) -> std::path::PathBuf {
    let at = node.docker(&["volume", "inspect", "--format", "{{.Mountpoint}}", "meshd-db-mariadb-data"]);
    std::path::PathBuf::from(at.trim()).join(file)
}

fn rewrite(node: &Node, file: &str, change: impl Fn(String) -> String) -> String {
    let path = data(node, file);
    let text = change(done(std::fs::read_to_string(&path)));
    done(std::fs::write(&path, &text));
    text
}

fn mark(node: &Node) -> String {
    rewrite(node, "grastate.dat", |text| {
        text.replace("seqno:   -1", "seqno:   1").replace("safe_to_bootstrap: 0", "safe_to_bootstrap: 1")
    })
}

fn forget_view(node: &Node) {
    let _ = std::fs::remove_file(data(node, "gvwstate.dat"));
}
