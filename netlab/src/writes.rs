//! A client that writes to a replicated store all the time, and remembers what was acknowledged: for how long a service was
//! away, and whether it lost anything.
//!
//! It knows no product: it drives interactive clients (`mariadb`, `zkCli.sh`) that read a statement a line and print an
//! answer.

use std::collections::BTreeSet;
use std::io::{BufRead, BufReader, Write};
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, channel};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use crate::{Error, wait};

/// How long a client may take to be ready for the first statement.
const OPEN_LIMIT: Duration = Duration::from_secs(8);
/// A write that is not acknowledged after this long is given up, and the next door is tried, as a proxy would.
const WRITE_LIMIT: Duration = Duration::from_secs(3);
/// Between two writes, and two tries.
const PAUSE: Duration = Duration::from_millis(20);

/// A way to the store: the client of one replica.
pub struct Door {
    /// Starts the client.
    pub command: Box<dyn Fn() -> Command + Send>,
    /// What is said first, and the answers of which one must come.
    pub prepare: (String, Vec<String>),
    /// The write of a number, and the answer that acknowledges it.
    pub write: Box<dyn Fn(u64) -> (String, String) + Send>,
}

/// Writes numbers, one after the other, through the first door that takes them.
#[derive(Debug)]
pub struct Writer {
    record: Arc<Mutex<Record>>,
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

#[derive(Debug, Default)]
struct Record {
    acknowledged: Vec<(u64, Instant)>,
    unsure: u64,
}

impl Writer {
    /// Starts to write.
    ///
    /// # Errors
    /// [`Error::System`] when no thread can be started.
    pub fn start(doors: Vec<Door>) -> Result<Writer, Error> {
        let record = Arc::new(Mutex::new(Record::default()));
        let stop = Arc::new(AtomicBool::new(false));
        let (records, stopped) = (record.clone(), stop.clone());
        let thread = std::thread::Builder::new().name("writer".into());
        let thread = thread.spawn(move || write(&doors, &records, &stopped));
        let thread = thread.map_err(Error::system("starting a thread"))?;
        Ok(Writer { record, stop, thread: Some(thread) })
    }

    /// The numbers that were acknowledged so far.
    pub fn acknowledged(&self) -> Vec<u64> {
        self.record().acknowledged.iter().map(|(number, _)| *number).collect()
    }

    /// How many writes had no answer: they may be there or not.
    pub fn unsure(&self) -> u64 {
        self.record().unsure
    }

    /// How long ago the last write was acknowledged.
    pub fn silent_for(&self) -> Option<Duration> {
        self.record().acknowledged.last().map(|(_, at)| at.elapsed())
    }

    /// Waits until some more writes are acknowledged.
    ///
    /// # Errors
    /// [`Error::Timeout`].
    pub fn goes_on(&self, limit: Duration) -> Result<(), Error> {
        let wanted = self.record().acknowledged.len() + 5;
        wait::until_true("writes to be acknowledged", limit, || self.record().acknowledged.len() >= wanted)
    }

    /// The longest time without an acknowledged write since `since`, until now.
    pub fn gap_since(&self, since: Instant) -> Duration {
        let record = self.record();
        let times = record.acknowledged.iter().map(|(_, at)| *at).filter(|at| *at >= since);
        let times: Vec<Instant> = std::iter::once(since).chain(times).chain([Instant::now()]).collect();
        times.windows(2).map(|pair| pair[1] - pair[0]).max().unwrap_or_default()
    }

    /// How many of the acknowledged writes are not among `there`. Ask for [`Writer::acknowledged`] before reading the store.
    pub fn lost(acknowledged: &[u64], there: &BTreeSet<u64>) -> usize {
        acknowledged.iter().filter(|number| !there.contains(number)).count()
    }

    fn record(&self) -> MutexGuard<'_, Record> {
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
        // It ends with the client's output.
        std::thread::spawn(move || {
            for line in BufReader::new(output).lines().map_while(Result::ok) {
                if told.send(line).is_err() {
                    break;
                }
            }
        });
        let mut session = Session { child, input, answers };
        let (statement, answers) = &door.prepare;
        session.says(statement, answers, OPEN_LIMIT).then_some(session)
    }

    /// Says a line; whether one of the answers came.
    fn says(&mut self, statement: &str, answers: &[String], limit: Duration) -> bool {
        if writeln!(self.input, "{statement}").and_then(|()| self.input.flush()).is_err() {
            return false;
        }
        let deadline = Instant::now() + limit;
        while let Ok(line) = self.answers.recv_timeout(deadline.saturating_duration_since(Instant::now())) {
            if answers.iter().any(|answer| line.trim() == answer) {
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
    let mut number = 0u64;
    for door in doors.iter().cycle() {
        if stop.load(Ordering::Relaxed) {
            return;
        }
        let Some(mut session) = Session::open(door) else {
            std::thread::sleep(PAUSE);
            continue;
        };
        while !stop.load(Ordering::Relaxed) {
            number += 1;
            let (statement, answer) = (door.write)(number);
            let acknowledged = session.says(&statement, &[answer], WRITE_LIMIT);
            let mut record = record.lock().unwrap_or_else(PoisonError::into_inner);
            if !acknowledged {
                record.unsure += 1;
                break;
            }
            record.acknowledged.push((number, Instant::now()));
            drop(record);
            std::thread::sleep(PAUSE);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn door(script: &'static str) -> Door {
        Door {
            command: Box::new(move || {
                let mut command = Command::new("sh");
                command.args(["-c", script]);
                command
            }),
            prepare: ("hello".into(), vec!["hello".into()]),
            write: Box::new(|number| (format!("w{number}"), format!("w{number}"))),
        }
    }

    #[test]
    fn what_one_door_does_not_take_goes_through_the_next_and_silence_is_measured() {
        // The first takes two writes and ends; the second takes all, after a second.
        let doors = vec![
            door("for i in 1 2 3; do read -r line; echo \"$line\"; done"),
            door("sleep 1; while read -r line; do echo \"$line\"; done"),
        ];
        let since = Instant::now();
        let writer = Writer::start(doors).unwrap();
        writer.goes_on(Duration::from_secs(20)).unwrap();
        writer.goes_on(Duration::from_secs(20)).unwrap();
        let acknowledged = writer.acknowledged();
        assert!(acknowledged.starts_with(&[1, 2]) && !acknowledged.contains(&3), "{acknowledged:?}");
        assert_eq!(writer.unsure(), 1);
        assert!(writer.gap_since(since) >= Duration::from_millis(900));
        let there: BTreeSet<u64> = acknowledged.iter().copied().filter(|number| *number != 2).collect();
        assert_eq!(Writer::lost(&acknowledged, &there), 1);
    }
}
