//! Clients of the replicated stores of a stack: MariaDB Galera and ZooKeeper.

use super::Node;
use crate::net::done;
use netlab::writes::{Door, Writer};
use std::collections::BTreeSet;
use std::process::Command;
use std::time::{Duration, Instant};

/// What a writer saw.
#[derive(Debug, Clone, Copy)]
pub struct Service {
    /// Writes that were acknowledged.
    pub acknowledged: usize,
    /// Of those, the ones that a replica does not have: must be 0.
    pub lost: usize,
    /// The longest time without an acknowledged write.
    pub gap: Duration,
}

/// The database's client in this node's container.
pub fn door(node: &Node, stack: &str) -> Door {
    let table = "CREATE TABLE IF NOT EXISTS probe.w (n BIGINT PRIMARY KEY, node VARCHAR(32)) ENGINE=InnoDB;";
    let name = node.name.clone();
    Door {
        command: exec(
            node,
            stack,
            "mariadb",
            &["mariadb", "--defaults-extra-file=/run/meshd/client.cnf", "-nNB"],
        ),
        prepare: (
            format!("CREATE DATABASE IF NOT EXISTS probe; {table} SELECT 'ready';"),
            vec!["ready".into()],
        ),
        write: Box::new(move |number| {
            (
                format!("INSERT INTO probe.w VALUES ({number}, '{name}'); SELECT 'row {number}';"),
                format!("row {number}"),
            )
        }),
    }
}

/// ZooKeeper's client in this node's container, connected to the server there.
pub fn zookeeper_door(node: &Node, stack: &str) -> Door {
    let server = format!("{}:2181", done(node.member.address(false)));
    Door {
        command: exec(node, stack, "zookeeper", &[&zookeeper_client()[..], &["-server", &server]].concat()),
        prepare: ("create /w x".into(), vec!["Created /w".into(), "Node already exists: /w".into()]),
        write: Box::new(|number| (format!("create /w/{number} x"), format!("Created /w/{number}"))),
    }
}

/// ZooKeeper's client, to be followed by its arguments. It acknowledges on its standard error.
fn zookeeper_client() -> [&'static str; 4] {
    let client = "exec java -Xmx48m -XX:TieredStopAtLevel=1 -Dorg.slf4j.simpleLogger.defaultLogLevel=error \
                  -cp '/usr/share/java/*' org.apache.zookeeper.ZooKeeperMain \"$@\" 2>&1";
    ["sh", "-c", client, "client"]
}

fn exec(node: &Node, stack: &str, component: &str, client: &[&str]) -> Box<dyn Fn() -> Command + Send> {
    let container = format!("meshd-{stack}-{component}");
    let line = node.engine.command(&[&["exec", "-i", &container], client].concat());
    let line: Vec<String> = line.get_args().map(|argument| argument.to_string_lossy().into_owned()).collect();
    Box::new(move || {
        let mut command = Command::new("docker");
        command.args(&line);
        command
    })
}

/// Compares what was acknowledged until now with what a node's database has.
///
/// # Panics
/// When the database does not answer.
pub fn compare(writer: &Writer, node: &Node, stack: &str, since: Instant) -> Service {
    let acknowledged = writer.acknowledged();
    let rows = sql(node, stack, "SET SESSION wsrep_sync_wait=1; SELECT n FROM probe.w");
    let rows: BTreeSet<u64> = rows.lines().filter_map(|line| line.trim().parse().ok()).collect();
    let lost = Writer::lost(&acknowledged, &rows);
    Service { acknowledged: acknowledged.len(), lost, gap: writer.gap_since(since) }
}

/// The same for ZooKeeper.
///
/// # Panics
/// When the server does not answer.
pub fn compare_zookeeper(writer: &Writer, node: &Node, stack: &str, since: Instant) -> Service {
    let acknowledged = writer.acknowledged();
    let server = format!("{}:2181", done(node.member.address(false)));
    let container = format!("meshd-{stack}-zookeeper");
    let ask = |words: &[&str]| {
        node.docker(&[&["exec", &container], &zookeeper_client()[..], &["-server", &server], words].concat())
    };
    ask(&["sync", "/w"]);
    let answer = ask(&["ls", "/w"]);
    let there = listed(&answer);
    let lost = Writer::lost(&acknowledged, &there);
    Service { acknowledged: acknowledged.len(), lost, gap: writer.gap_since(since) }
}

/// The numbers that ZooKeeper's client lists, among what it says about its connection and its end (`[main] ERROR ...`).
fn listed(answer: &str) -> BTreeSet<u64> {
    let numbers = |list: &str| list.split(',').map(|name| name.trim().parse().ok()).collect::<Option<_>>();
    let lists = answer.split('[').skip(1).filter_map(|text| numbers(text.split_once(']')?.0));
    lists.last().unwrap_or_default()
}

/// One statement or several on a replica; what they print.
///
/// # Panics
/// When the replica does not answer.
pub fn sql(node: &Node, stack: &str, statements: &str) -> String {
    let container = format!("meshd-{stack}-mariadb");
    let client = ["mariadb", "--defaults-extra-file=/run/meshd/client.cnf", "-NBe", statements];
    node.docker(&[&["exec", &container], &client[..]].concat())
}

/// A Galera status variable of a replica; empty where it does not answer.
pub fn wsrep(node: &Node, stack: &str, name: &str) -> String {
    let container = format!("meshd-{stack}-mariadb");
    let statement = format!("SHOW GLOBAL STATUS LIKE 'wsrep_{name}'");
    let client =
        ["mariadb", "--defaults-extra-file=/run/meshd/client.cnf", "--connect-timeout=3", "-NBe", &statement];
    let answer = node.engine.docker(&[&["exec", &container], &client[..]].concat()).unwrap_or_default();
    answer.split_once('\t').map(|(_, value)| value.trim().to_owned()).unwrap_or_default()
}

/// Whether a replica is in a primary component, in which state, and how many are in it.
pub fn state(node: &Node, stack: &str) -> String {
    ["cluster_status", "local_state_comment", "cluster_size"].map(|name| wsrep(node, stack, name)).join(" ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_the_client_lists_is_found_among_what_else_it_says() {
        let answer = "Connecting to 10.66.0.1:2181\n\nWATCHER::\n\nWatchedEvent state:SyncConnected type:None path:null\n\
                      [1, 10, 2]\n[main] ERROR org.apache.zookeeper.util.ServiceUtils - Exiting JVM with code 0\n";
        assert_eq!(listed(answer), [1, 2, 10].into());
        assert_eq!(listed("path:null[7]\n[main] ERROR x"), [7].into());
        assert_eq!(listed("[]\n[main] ERROR x"), BTreeSet::new());
    }
}
