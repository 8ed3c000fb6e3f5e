//! A real ZooKeeper ensemble and a real Galera cluster over three datacentres that reach each other through relays only:
//! what happens to those who write when a relay, a node, or a datacentre is gone.

use meshnet_tests::net::{SETTLE, done, figure};
use meshnet_tests::stack::Ran;
use meshnet_tests::stack::galera::{Service, compare, compare_zookeeper, door, state, zookeeper_door};
use meshnet_tests::stack::sites::{SITES, Sites};
use netlab::mesh::PathStatus;
use netlab::writes::Writer;
use std::time::{Duration, Instant};

const STACK: &str = "sites";
const RETURN: Duration = Duration::from_secs(240);
/// Nobody may be without service for longer than this while a majority lives.
const LONGEST_GAP: Duration = Duration::from_secs(45);

const SPECIFICATION: &str = "name = \"sites\"
[components.zookeeper]
nodes = [\"ams1\", \"ams2\", \"fra1\", \"fra2\", \"par1\"]
image = \"meshnet-test/zookeeper:test\"
settings.heap_mb = 64
memory_mb = 384
[components.mariadb]
nodes = [\"ams1\", \"ams2\", \"fra1\", \"fra2\", \"par1\"]
image = \"meshnet-test/mariadb:test\"
settings.buffer_pool_mb = 16
";

struct Clients {
    database: Writer,
    zookeeper: Writer,
}

impl Clients {
    fn go_on(&self) {
        done(self.database.goes_on(RETURN));
        done(self.zookeeper.goes_on(RETURN));
    }
}

fn worked(ran: Ran) -> Ran {
    assert_eq!(ran.code, Some(0), "{}\n{}", ran.stdout, ran.stderr);
    ran
}

/// Waits until all five are in step again, and compares what each one has with what was acknowledged.
fn whole(sites: &Sites, clients: &Clients, what: &str, since: Instant) {
    for node in &sites.cluster.nodes {
        let in_step = netlab::wait::until(&format!("{} to be in step", node.name), RETURN, || {
            match state(node, STACK) {
                state if state == "Primary Synced 5" => Ok(()),
                other => Err(other),
            }
        });
        if in_step.is_err() {
            tell_logs(sites, "mariadb", what, since);
        }
        done(in_step);
    }
    let operator = sites.cluster.node("par1");
    done(netlab::wait::until("the ensemble to be whole", RETURN, || {
        let zookeeper = operator.component(&sites.cluster.file(), "zookeeper");
        if zookeeper["ready"] == 5 { Ok(()) } else { Err(zookeeper.to_string()) }
    }));
    clients.go_on();
    let tell = |store: &str, seen: Service| {
        assert_eq!(seen.lost, 0, "{what}, {store}: {seen:?}");
        if seen.gap > LONGEST_GAP {
            tell_logs(sites, if store == "Galera" { "mariadb" } else { "zookeeper" }, what, since);
        }
        assert!(seen.gap <= LONGEST_GAP, "{what}, {store}: {seen:?}");
        let gap = seen.gap.as_secs_f64();
        figure(
            &format!("five nodes over three datacentres, {what}, {store}"),
            format!("{gap:.1} s without service, 0 of {} writes lost", seen.acknowledged),
        );
    };
    for node in &sites.cluster.nodes {
        let seen = compare(&clients.database, node, STACK, since);
        assert_eq!(seen.lost, 0, "{what}: {} lost rows: {seen:?}", node.name);
    }
    tell("Galera", compare(&clients.database, operator, STACK, since));
    tell("ZooKeeper", compare_zookeeper(&clients.zookeeper, operator, STACK, since));
}

/// What all replicas said since something happened.
fn tell_logs(sites: &Sites, component: &str, what: &str, since: Instant) {
    let age = since.elapsed().as_secs();
    for node in &sites.cluster.nodes {
        let log = node.last_log(STACK, component, age);
        println!("--- {component} on {}, since {what}, {age} s ago ---\n{log}", node.name);
    }
}

#[test]
#[ignore = "needs root, dockerd, and images from Debian's mirror: make test-stack"]
fn the_loss_of_a_relay_a_node_or_a_datacentre_loses_no_write() {
    let mut sites = Sites::new(&["zookeeper", "mariadb"]);
    let names: Vec<&str> = SITES.iter().flat_map(|(_, names)| names.iter().copied()).collect();
    for node in &sites.cluster.nodes {
        for other in names.iter().filter(|other| **other != node.name) {
            done(node.member.wait_for_peer(other, SETTLE, |_| true));
        }
    }
    sites.cluster.specify(SPECIFICATION);
    let file = sites.cluster.file();
    let started = Instant::now();
    worked(sites.cluster.node("ams1").stack(&["up", "--file", &file]));
    figure(
        "five nodes over three datacentres, up from nothing",
        format!("{:.0} s", started.elapsed().as_secs_f64()),
    );
    let started = Instant::now();
    let again = worked(sites.cluster.node("par1").stack(&["up", "--stack", STACK]));
    let took = started.elapsed();
    assert!(
        again.stdout.starts_with("nothing to do") && took < Duration::from_secs(5),
        "{took:?} {}",
        again.stdout
    );

    // Clients that know all servers, those of Amsterdam first: they are what will be lost.
    let clients = {
        let nodes = &sites.cluster.nodes;
        Clients {
            database: done(Writer::start(nodes.iter().map(|node| door(node, STACK)).collect())),
            zookeeper: done(Writer::start(nodes.iter().map(|node| zookeeper_door(node, STACK)).collect())),
        }
    };
    clients.go_on();

    // The relay that carries Amsterdam's packets to Frankfurt.
    let path = done(sites.cluster.node("ams1").member.wait_for_path("fra1", SETTLE, PathStatus::is_relayed));
    let since = Instant::now();
    let number = usize::from(path.via.iter().any(|via| via == "r2"));
    sites.relays[number].kill();
    clients.go_on();
    done(sites.relays[number].up());
    whole(&sites, &clients, "a relay killed", since);

    // A node, with all that is on it: it comes back by itself.
    let since = Instant::now();
    sites.power_off("fra1");
    clients.go_on();
    let margin = sites.cluster.node("par1").component(&file, "zookeeper")["margin"].clone();
    assert_eq!(margin, "can lose 1 more");
    sites.power_on("fra1");
    whole(&sites, &clients, "a node lost", since);

    // A datacentre of two: three of five are left.
    let since = Instant::now();
    for name in ["ams1", "ams2"] {
        sites.power_off(name);
    }
    clients.go_on();
    let seen = sites.cluster.node("par1").component(&file, "mariadb");
    assert_eq!((&seen["ready"], &seen["margin"]), (&3.into(), &"can lose none".into()), "{seen}");
    for name in ["ams1", "ams2"] {
        sites.power_on(name);
    }
    whole(&sites, &clients, "a datacentre lost", since);

    // The same, but it lives and is cut off: it must not serve on its own.
    let since = Instant::now();
    done(sites.uplinks["ams"].silence());
    done(netlab::wait::until("the part that is cut off to stand still", RETURN, || {
        match state(sites.cluster.node("ams1"), STACK) {
            state if state.starts_with("non-Primary") => Ok(()),
            other => Err(other),
        }
    }));
    clients.go_on();
    done(sites.uplinks["ams"].heal());
    whole(&sites, &clients, "a datacentre cut off", since);
    assert_eq!(sites.cluster.node("par1").stack(&["plan", "--file", &file]).code, Some(0));
}
