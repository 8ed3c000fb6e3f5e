//! The daemon's side: what happened waits in a bounded queue until the helper takes it, and never holds up the daemon.

use std::io::{BufRead, BufReader, Write};
use std::os::unix::process::CommandExt;
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::time::Duration;

use tokio::sync::watch;
use tracing::{error, info, warn};

use super::job::{Happened, Job, Outcome, Ran, Setup};
use super::{Config, On};

/// What waits for the helper, beside what is in the pipe to it (64 KiB, some 400 jobs); more is dropped and counted.
pub const QUEUE_MAX: usize = 256;
/// The hidden verb that makes this program the helper.
pub const VERB: &str = "hook-runner";

/// A helper that runs already, and does nothing yet.
pub struct Waiting {
    child: Child,
    setup: Setup,
}

impl Waiting {
    /// Starts the helper, with the rights that this process has now.
    ///
    /// # Errors
    /// When it cannot be started.
    pub fn spawn(setup: Setup) -> std::io::Result<Waiting> {
        // Not `current_exe`: an update may have put another file there.
        let child = Command::new("/proc/self/exe")
            .arg(VERB)
            // Ctrl-C is for the daemon, which then has the last command run.
            .process_group(0)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()?;
        Ok(Waiting { child, setup })
    }

    /// Starts the threads that talk to it; to be called after the sandbox was entered, for they inherit it.
    ///
    /// # Errors
    /// When there can be no thread.
    pub fn start(mut self) -> std::io::Result<Queue> {
        let missing = || std::io::Error::other("the helper has no pipes");
        let (input, output) = (self.child.stdin.take(), self.child.stdout.take());
        let (input, output) = (input.ok_or_else(missing)?, output.ok_or_else(missing)?);
        let (jobs, waiting) = sync_channel(QUEUE_MAX);
        let counters = Arc::new(Counters::default());
        let (done, finished) = watch::channel(Some(0));
        let (config, translates) = (self.setup.config.clone(), self.setup.nat.is_some());
        let setup = self.setup;
        std::thread::Builder::new().name("hooks-out".into()).spawn(move || write(input, &setup, &waiting))?;
        let counted = counters.clone();
        std::thread::Builder::new().name("hooks-in".into()).spawn(move || read(output, &counted, &done))?;
        Ok(Queue { config, translates, jobs, counters, finished, number: 0 })
    }
}

/// What came of the commands.
#[derive(Default)]
struct Counters {
    run: AtomicU64,
    failed: AtomicU64,
    dropped: AtomicU64,
}

/// Where the daemon puts what happened.
pub struct Queue {
    config: Config,
    /// It translates, and has to be told of the end.
    translates: bool,
    jobs: SyncSender<Job>,
    counters: Arc<Counters>,
    /// The number of the last job that is finished; `None` once the helper is gone.
    finished: watch::Receiver<Option<u64>>,
    number: u64,
}

impl Queue {
    /// Queues what happened, if anything is configured for it. Never waits.
    pub fn tell(&mut self, on: On, happened: Happened) {
        let ends_translation = self.translates && on == On::Down;
        if !self.config.wants(on) && !ends_translation {
            return;
        }
        let job = Job { number: self.number + 1, on, happened };
        match self.jobs.try_send(job) {
            Ok(()) => self.number += 1,
            Err(_) => {
                if self.counters.dropped.fetch_add(1, Ordering::Relaxed) == 0 {
                    warn!(on = on.name(), "commands in [hooks] are too slow: events are dropped and counted");
                }
            }
        }
    }

    /// Waits until all that was queued is finished, but not longer than `limit`.
    pub async fn finish(&mut self, limit: Duration) {
        let last = self.number;
        let finished = self.finished.wait_for(|done| done.is_none_or(|done| done >= last));
        if tokio::time::timeout(limit, finished).await.is_err() {
            warn!("commands in [hooks] still run: not waited for");
        }
    }

    /// Whether the helper has ended though it should not have.
    pub fn is_gone(&self) -> bool {
        self.finished.borrow().is_none()
    }

    /// Commands run, those that failed, and events dropped because too many waited.
    pub fn counted(&self) -> [(&'static str, u64); 3] {
        let read = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        let Counters { run, failed, dropped } = &*self.counters;
        [("hooks_run", read(run)), ("hooks_failed", read(failed)), ("hooks_dropped", read(dropped))]
    }
}

/// Ends, and with it the helper's input, when the queue is dropped or the helper is gone.
fn write(mut input: ChildStdin, setup: &Setup, jobs: &Receiver<Job>) {
    let mut send = |text: serde_json::Result<String>| -> std::io::Result<()> {
        let mut text = text?;
        text.push('\n');
        input.write_all(text.as_bytes())
    };
    if send(serde_json::to_string(setup)).is_err() {
        return;
    }
    while let Ok(job) = jobs.recv() {
        if send(serde_json::to_string(&job)).is_err() {
            return;
        }
    }
}

fn read(output: ChildStdout, counters: &Counters, done: &watch::Sender<Option<u64>>) {
    for line in BufReader::new(output).lines() {
        let Ok(line) = line else { break };
        let Ok(ran) = serde_json::from_str::<Ran>(&line) else { continue };
        match &ran.outcome {
            None => {
                done.send_replace(Some(ran.number));
                continue;
            }
            Some(outcome) => log(&ran, outcome, counters),
        }
    }
    // It is no error if the daemon ends.
    if done.send(None).is_ok() {
        error!(
            "the helper that runs the commands in [hooks] has ended: none is run until meshd is restarted"
        );
    }
}

fn log(ran: &Ran, outcome: &Outcome, counters: &Counters) {
    let (on, program) = (ran.on.name(), ran.program.as_str());
    for line in &ran.output {
        info!(on, program, "hook: {line}");
    }
    if ran.more > 0 {
        info!(on, program, lines = ran.more, "hook: more output is left out");
    }
    counters.run.fetch_add(1, Ordering::Relaxed);
    if *outcome != Outcome::Done {
        counters.failed.fetch_add(1, Ordering::Relaxed);
    }
    match outcome {
        Outcome::Done => tracing::debug!(on, program, "hook done"),
        Outcome::Failed(why) => warn!(on, program, why, "hook failed"),
        Outcome::Killed => warn!(on, program, "hook took too long and was killed"),
        Outcome::NotStarted(why) => warn!(on, program, why, "hook cannot be started"),
    }
}
