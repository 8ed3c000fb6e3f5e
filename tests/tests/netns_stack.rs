//! `meshd stack` on real engines across a real mesh, with a component so small that every run can afford it. Scenarios with
//! ZooKeeper, Galera, and the others are in `stack_*.rs`.

use meshnet_tests::net::{SETTLE, done, figure};
use meshnet_tests::stack::bell::{FOREIGN_IMAGE, IMAGE, hear};
use meshnet_tests::stack::recorder::Recorder;
use meshnet_tests::stack::sought::assert_nowhere;
use meshnet_tests::stack::{Cluster, Node, Ran, engines, skipped};
use std::net::IpAddr;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

const PROGRAM: &str = env!("CARGO_BIN_EXE_bell");
const CONTAINER: &str = "meshd-small-bell";
/// What an `up` with nothing to do may take.
const IDLE_UP: Duration = Duration::from_secs(5);
/// What two seconds of an engine's own pauses between restarts may grow to.
const BACK: Duration = Duration::from_secs(40);

/// One scenario at a time: nodes of a name keep what containers see of their secrets in one place of the machine.
static ALONE: Mutex<()> = Mutex::new(());

/// Two nodes with bells, or why there are none.
fn cluster() -> Result<Cluster, String> {
    engines()?;
    // What a run that was killed has left.
    for node in ["ams", "fra"] {
        drop(std::fs::remove_dir_all(format!("/run/meshd-stack/{node}/small")));
    }
    let cluster = Cluster::new(&["ams", "fra"], &[]);
    cluster.add_bell(PROGRAM);
    for (node, other) in cluster.nodes.iter().zip(["fra", "ams"]) {
        done(node.member.wait_for_peer(other, SETTLE, |_| true));
    }
    cluster.specify(&bells(IMAGE, ""));
    Ok(cluster)
}

fn bells(image: &str, more: &str) -> String {
    format!("name = \"small\"\n[components.bell]\nnodes = [\"ams\", \"fra\"]\nimage = \"{image}\"\n{more}\n")
}

fn worked(ran: Ran) -> Ran {
    assert_eq!(ran.code, Some(0), "{}\n{}", ran.stdout, ran.stderr);
    ran
}

fn failed(ran: Ran, expected: &[&str]) {
    assert_eq!(ran.code, Some(1), "{}\n{}", ran.stdout, ran.stderr);
    for words in expected {
        assert!(ran.stderr.contains(words), "{words}: {}\n{}", ran.stderr, ran.stdout);
    }
}

fn address(node: &Node) -> IpAddr {
    done(node.member.address(false))
}

/// Asks the bell of one node from another one's machine.
fn from(node: &Node, at: IpAddr) -> Option<(String, u32)> {
    done(node.machine().enter(|| hear(at)))
}

fn containers(cluster: &Cluster) -> Vec<Vec<String>> {
    cluster.nodes.iter().map(Node::containers).collect()
}

fn ready(cluster: &Cluster) -> serde_json::Value {
    cluster.stack_status()["components"][0]["ready"].clone()
}

fn only_reads(recorders: &[Recorder]) {
    for recorder in recorders {
        let asked = recorder.take();
        assert!(asked.iter().any(|one| one.contains("/containers/json")), "nobody asked: {asked:?}");
        let written: Vec<&String> =
            asked.iter().filter(|one| !one.starts_with("GET ") && !one.starts_with("HEAD ")).collect();
        assert!(written.is_empty(), "{written:?}");
    }
}

#[test]
fn a_small_stack_comes_up_is_mended_and_goes_down() {
    let _alone = ALONE.lock().unwrap_or_else(PoisonError::into_inner);
    let cluster = match cluster() {
        Ok(cluster) => cluster,
        Err(why) => return skipped("a small stack", &why),
    };
    let (ams, fra) = (cluster.node("ams"), cluster.node("fra"));
    let recorders: Vec<Recorder> =
        cluster.nodes.iter().map(|node| Recorder::before(&node.engine.socket())).collect();

    // A plan says what would be done, by its exit code too, and has no engine do anything.
    let plan = cluster.stack(&["plan"]);
    assert_eq!(plan.code, Some(2), "{}\n{}", plan.stdout, plan.stderr);
    only_reads(&recorders);
    assert_eq!(containers(&cluster), [Vec::<String>::new(), Vec::new()]);

    let started = Instant::now();
    let up = worked(cluster.stack(&["up"]));
    figure("small stack: up from nothing", format!("{:.1} s", started.elapsed().as_secs_f64()));
    // Each answers at its overlay address, to the other node.
    assert_eq!(from(ams, address(fra)), Some(("ding".into(), 1)));
    assert_eq!(from(fra, address(ams)), Some(("ding".into(), 1)));

    let before = containers(&cluster);
    recorders.iter().for_each(|recorder| drop(recorder.take()));
    // The faster one of two: other scenarios run beside this one.
    let idle = || {
        let started = Instant::now();
        let again = worked(cluster.stack(&["up"]));
        assert!(again.stdout.starts_with("nothing to do"), "{}", again.stdout);
        started.elapsed()
    };
    let took = idle().min(idle());
    figure("small stack: up with nothing to do", format!("{:.2} s", took.as_secs_f64()));
    assert!(took < IDLE_UP, "{took:?}");
    only_reads(&recorders);
    assert_eq!(containers(&cluster), before);

    // The secret was made here, is in both containers, and shows nowhere else.
    let secrets = cluster.secrets("small");
    assert_eq!(secrets.len(), 1);
    let told = [("what up said", up.stdout + &up.stderr)];
    assert_nowhere(&secrets, &cluster.public_places(&told), 10_000);

    // One is killed: `status` tells, `up` mends it and leaves the other alone.
    fra.docker(&["kill", CONTAINER]);
    let mut kills = 1;
    if ready(&cluster) == 2 {
        // Its agent had met no engine when it started, and looked after its containers, once, just now.
        fra.docker(&["kill", CONTAINER]);
        kills += 1;
    }
    assert_eq!(ready(&cluster), 1);
    worked(cluster.stack(&["up"]));
    assert_eq!((ready(&cluster), from(ams, address(fra))), (2.into(), Some(("ding".into(), 1 + kills))));
    assert_eq!(ams.containers(), before[0]);

    // Changed by hand.
    fra.docker(&["update", "--memory", "100m", "--memory-swap", "100m", CONTAINER]);
    let plan = cluster.stack(&["plan"]);
    assert!(plan.code == Some(2) && plan.stdout.contains("memory"), "{}", plan.stdout);
    worked(cluster.stack(&["up"]));

    // Another word: both are made anew, one after the other, by the other operator, who has no file.
    cluster.specify(&bells(IMAGE, "settings.word = \"dong\""));
    let plan = cluster.stack(&["plan"]);
    assert!(
        plan.stdout.contains("-word = ding") || plan.stdout.contains("/etc/bell.conf"),
        "{}",
        plan.stdout
    );
    worked(cluster.stack(&["up"]));
    let elsewhere = worked(cluster.stack_on(fra, &["up", "--stack", "small"]));
    assert!(elsewhere.stdout.starts_with("nothing to do"), "{}", elsewhere.stdout);
    assert_eq!(from(ams, address(fra)).map(|(word, _)| word), Some("dong".into()));

    // Down keeps the data, and the next up goes on with it; with --volumes nothing is left.
    let volumes = |node: &Node| node.docker(&["volume", "ls", "-q"]);
    worked(cluster.stack(&["down"]));
    assert!(containers(&cluster).concat().is_empty() && volumes(ams).contains("meshd-small-bell-data"));
    worked(cluster.stack(&["up"]));
    assert!(from(fra, address(ams)).is_some_and(|(_, starts)| starts > 2), "the count goes on");
    worked(cluster.stack(&["down", "--volumes"]));
    assert!(containers(&cluster).concat().is_empty());
    assert_eq!((volumes(ams).trim(), volumes(fra).trim()), ("", ""));
}

#[test]
fn what_goes_wrong_on_the_way_is_told_and_put_right_by_the_next_up() {
    let _alone = ALONE.lock().unwrap_or_else(PoisonError::into_inner);
    let mut cluster = match cluster() {
        Ok(cluster) => cluster,
        Err(why) => return skipped("a small stack with trouble", &why),
    };
    // What an engine leaves that ends while it makes a volume.
    cluster.node("fra").docker(&["volume", "create", "meshd-small-bell-data"]);

    // Somebody else's container has our name: it is left alone, and told.
    cluster.node("fra").docker(&["create", "--name", CONTAINER, IMAGE]);
    let foreign = cluster.node("fra").containers();
    failed(cluster.stack(&["up"]), &["bell fra", CONTAINER, "did not make"]);
    assert_eq!(cluster.node("fra").containers(), foreign);
    cluster.node("fra").docker(&["rm", CONTAINER]);

    // An image for other machines, though the engine would take it.
    cluster.specify(&bells(FOREIGN_IMAGE, ""));
    failed(cluster.stack(&["up"]), &["but this node is", "name an image for"]);

    // Slow, and two operators at once: one is refused. The engine restarts meanwhile, and the end is the same.
    cluster.specify(&bells(IMAGE, "arguments = [\"--wait=3\"]"));
    let (components, file) = (cluster.components(), cluster.file());
    let mut first = cluster.nodes[0].stack_begin(&["--components", &components, "up", "--file", &file]);
    done(netlab::wait::until_true("the first run to have begun", SETTLE, || {
        !containers(&cluster).concat().is_empty()
    }));
    let second = cluster.stack_on(&cluster.nodes[1], &["up", "--stack", "small"]);
    failed(second, &["is changing small at this moment"]);
    let fra = cluster.node_mut("fra");
    done(fra.engine.stop(Duration::from_secs(20)));
    done(fra.engine.start());
    // It either waited for the engine, or says that it was gone.
    let _ = done(first.wait());
    worked(cluster.stack(&["up"]));
    assert_eq!((ready(&cluster), cluster.stack(&["plan"]).code), (2.into(), Some(0)));
    assert!(containers(&cluster).iter().all(|of_node| of_node.len() == 1), "{:?}", containers(&cluster));

    // What cannot live stops the run with its last words; the other replica is not touched.
    let before = cluster.node("fra").containers();
    cluster.specify(&bells(IMAGE, "arguments = [\"--broken\"]\ndeadline_s = 5"));
    failed(cluster.stack(&["up"]), &["bell on ams", "last lines of its log", "the clapper is missing"]);
    assert_eq!(cluster.node("fra").containers(), before);

    // One that listens on all addresses is told of.
    cluster.specify(&bells(IMAGE, "arguments = [\"--also=0.0.0.0:7999\"]"));
    worked(cluster.stack(&["up"]));
    let warnings = cluster.stack_status()["warnings"].to_string();
    assert!(warnings.contains("listens outside the overlay") && warnings.contains("7999"), "{warnings}");

    // The machine starts before the mesh: no overlay address, no bell; both come without anybody's command.
    let fra = cluster.node_mut("fra");
    let there = address(fra);
    done(fra.member.terminate(Duration::from_secs(10)));
    fra.docker(&["restart", CONTAINER]);
    done(netlab::wait::until("the bell to find no address", SETTLE, || {
        let log = fra.last_log("small", "bell", 60);
        if log.contains("its address is there") { Ok(()) } else { Err(log) }
    }));
    let away = cluster.stack_status();
    assert_eq!(away["components"][0]["replicas"][1]["state"], "unknown", "{away}");
    done(cluster.node_mut("fra").member.up());
    done(netlab::wait::until_true("the bell to ring again", BACK, || {
        from(cluster.node("ams"), there).is_some()
    }));
    done(netlab::wait::until_true("the stack to be whole", SETTLE, || ready(&cluster) == 2));

    // A node that leaves the file loses its replica; its data stays.
    cluster
        .specify("name = \"small\"\n[components.bell]\nnodes = [\"ams\"]\nimage = \"meshnet-test/bell:1\"\n");
    worked(cluster.stack(&["up"]));
    assert!(cluster.node("fra").containers().is_empty());
    assert!(cluster.node("fra").docker(&["volume", "ls", "-q"]).contains("meshd-small-bell-data"));

    // Placed there under another number, it would find data that belongs to the one it had.
    worked(cluster.stack(&["down"]));
    cluster
        .specify("name = \"small\"\n[components.bell]\nnodes = [\"fra\"]\nimage = \"meshnet-test/bell:1\"\n");
    failed(cluster.stack(&["up"]), &["has the data of replica 2", "this is replica 1"]);
    assert!(cluster.node("fra").containers().is_empty());

    // A full disk.
    let full = Full::new(&cluster.directory().join("full"));
    let volume = format!("volumes = {{ data = \"{}\" }}\ndeadline_s = 5", full.0.display());
    cluster.specify(&format!(
        "name = \"small\"\n[components.bell]\nnodes = [\"ams\"]\nimage = \"meshnet-test/bell:1\"\n{volume}\n"
    ));
    failed(cluster.stack(&["up"]), &["bell on ams", "No space left on device"]);
}

/// A file system without room, for as long as this lives.
struct Full(std::path::PathBuf);

impl Full {
    fn new(at: &std::path::Path) -> Full {
        done(std::fs::create_dir_all(at));
        let (kind, size) = (Some("tmpfs"), Some("size=16k"));
        done(nix::mount::mount(kind, at, kind, nix::mount::MsFlags::empty(), size));
        let full = Full(at.to_owned());
        let _ = std::fs::write(at.join("filler"), [0; 64 << 10]);
        full
    }
}

impl Drop for Full {
    fn drop(&mut self) {
        let _ = nix::mount::umount2(&self.0, nix::mount::MntFlags::MNT_DETACH);
    }
}
