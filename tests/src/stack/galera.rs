//! A client of a Galera cluster that writes all the time and remembers what was acknowledged.

use super::Node;
use std::collections::BTreeSet;
use std::io::{BufRead, BufReader, Write};
use std::process::{Child, ChildStdin, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

/// A write that is not acknowledged after this long is given up, and the next replica is tried, as a proxy would.
const PATIENCE: Duration = Duration::from_secs(3);
/// Between two writes, and two tries.
const PAUSE: Duration = Duration::from_millis(20);

/// Writes numbered rows, one after the other, to the first replica that takes them.
pub struct Writer {
    record: Arc<Mutex<Record>>,
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

#[derive(Default)]
struct Record {
    acknowledged: Vec<(u64, Instant)>,
    unsure: u64,
}

/// What the writer saw.
#[derive(Debug, Clone, Copy)]
pub struct Service {
    /// Writes that were acknowledged.
    pub acknowledged: usize,
    /// Of those, the ones that a replica does not have: must be 0.
    pub lost: usize,
    /// The longest time without an acknowledged write.
    pub gap: Duration,
}

/// `docker exec` of a client in each replica's container, in the order in which they are tried.
pub struct Door {
    /// The node.
    pub name: String,
    /// The command.
    pub command: Box<dyn Fn() -> std::process::Command + Send>,
}

impl Door {
    /// The client in this node's container of the stack.
    pub fn of(node: &Node, stack: &str) -> Door {
        let container = format!("meshd-{stack}-mariadb");
        let line: Vec<String> = node
            .engine
            .command(&[
                "exec",
                "-i",
                &container,
                "mariadb",
                "--defaults-extra-file=/run/meshd/client.cnf",
                "-nNB",
            ])
            .get_args()
            .map(|argument| argument.to_string_lossy().into_owned())
            .collect();
        let command = move || {
            let mut command = std::process::Command::new("docker");
            command.args(&line);
            command
        };
        Door { name: node.name.clone(), command: Box::new(command) }
    }
}

impl Writer {
    /// Makes the table and starts to write.
    ///
    /// # Panics
    /// When the thread cannot be started.
    pub fn start(doors: Vec<Door>) -> Writer {
        let record = Arc::new(Mutex::new(Record::default()));
        let stop = Arc::new(AtomicBool::new(false));
        let (records, stopped) = (record.clone(), stop.clone());
        let thread = std::thread::Builder::new()
            .name("writer".into())
            .spawn(move || write(&doors, &records, &stopped))
            .expect("a thread can be started");
        Writer { record, stop, thread: Some(thread) }
    }

    /// How many writes were acknowledged so far.
    pub fn acknowledged(&self) -> usize {
        self.record().acknowledged.len()
    }

    /// Waits until so many more writes are acknowledged.
    ///
    /// # Panics
    /// When they are not within `limit`.
    pub fn goes_on(&self, limit: Duration) {
        let wanted = self.acknowledged() + 10;
        crate::net::done(netlab::wait::until_true("writes to be acknowledged", limit, || {
            self.acknowledged() >= wanted
        }));
    }

    /// The longest time without an acknowledged write since `since`, until now.
    pub fn gap_since(&self, since: Instant) -> Duration {
        let record = self.record();
        let times = record.acknowledged.iter().map(|(_, at)| *at).filter(|at| *at >= since);
        let times: Vec<Instant> = std::iter::once(since).chain(times).chain([Instant::now()]).collect();
        times.windows(2).map(|pair| pair[1] - pair[0]).max().unwrap_or_default()
    }

    /// Compares what was acknowledged until now with what a replica has.
    ///
    /// # Panics
    /// When the replica does not answer.
    pub fn compare(&self, node: &Node, stack: &str, since: Instant) -> Service {
        // First what was acknowledged, then what is there.
        let acknowledged: Vec<u64> = self.record().acknowledged.iter().map(|(number, _)| *number).collect();
        let rows = sql(node, stack, "SET SESSION wsrep_sync_wait=1; SELECT n FROM probe.w");
        let rows: BTreeSet<u64> = rows.lines().filter_map(|line| line.trim().parse().ok()).collect();
        let lost = acknowledged.iter().filter(|number| !rows.contains(number)).count();
        Service { acknowledged: acknowledged.len(), lost, gap: self.gap_since(since) }
    }

    /// Writes whose acknowledgement did not come: they may be there or not.
    pub fn unsure(&self) -> u64 {
        self.record().unsure
    }

    fn record(&self) -> std::sync::MutexGuard<'_, Record> {
        self.record.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Writer {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
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

/// A client that stays connected.
struct Session {
    child: Child,
    input: ChildStdin,
    answers: Receiver<String>,
}

impl Session {
    fn open(door: &Door) -> Option<Session> {
        let mut command = (door.command)();
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::null());
        let mut child = command.spawn().ok()?;
        let (input, output) = (child.stdin.take()?, child.stdout.take()?);
        let (told, answers) = channel();
        std::thread::spawn(move || {
            for line in BufReader::new(output).lines().map_while(Result::ok) {
                if told.send(line).is_err() {
                    break;
                }
            }
        });
        Some(Session { child, input, answers })
    }

    /// Runs statements that end by printing `word`; whether it came.
    fn run(&mut self, statements: &str, word: &str) -> bool {
        if writeln!(self.input, "{statements} SELECT '{word}';").and_then(|()| self.input.flush()).is_err() {
            return false;
        }
        let deadline = Instant::now() + PATIENCE;
        while let Ok(line) = self.answers.recv_timeout(deadline.saturating_duration_since(Instant::now())) {
            if line == word {
                return true;
            }
        }
        false
    }
}

impl Drop for Session {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn write(doors: &[Door], record: &Mutex<Record>, stop: &AtomicBool) {
    let mut next = 0;
    let mut number = 0u64;
    'connect: while !stop.load(Ordering::Relaxed) {
        let door = &doors[next % doors.len()];
        next += 1;
        let Some(mut session) = Session::open(door) else { continue };
        let table =
            "CREATE TABLE IF NOT EXISTS probe.w (n BIGINT PRIMARY KEY, node VARCHAR(32)) ENGINE=InnoDB;";
        if !session.run("SELECT 1;", "there")
            || (number == 0 && !session.run(&format!("CREATE DATABASE IF NOT EXISTS probe; {table}"), "made"))
        {
            std::thread::sleep(PAUSE);
            continue;
        }
        while !stop.load(Ordering::Relaxed) {
            number += 1;
            let insert = format!("INSERT INTO probe.w VALUES ({number}, '{}');", door.name);
            let acknowledged = session.run(&insert, &format!("row {number}"));
            let mut record = record.lock().unwrap_or_else(PoisonError::into_inner);
            if !acknowledged {
                record.unsure += 1;
                continue 'connect;
            }
            record.acknowledged.push((number, Instant::now()));
            drop(record);
            std::thread::sleep(PAUSE);
        }
    }
}
