//! The helper that runs the commands, one after the other, in the order in which things happened.
//!
//! Its standard input gives it a [`Setup`] and then jobs; on standard output it tells what came of them. It ends when its
//! input does, after what it has read. Signals that end the daemon do not end it: the `down` command is still to come.

use std::io;
use std::os::fd::AsFd;
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::path::{Path, PathBuf};
use std::process::{ExitStatus, Stdio};
use std::time::Duration;

use nix::sys::signal::{Signal, killpg};
use nix::unistd::Pid;
use tokio::io::{AsyncBufRead, AsyncBufReadExt, AsyncRead, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::unix::pipe;
use tokio::signal::unix::{SignalKind, signal};

use super::job::{self, Happened, Job, Outcome, Ran, Setup};
use super::{Command, On};

/// Most lines of a command's output that are kept.
pub const LINES_MAX: usize = 64;
/// Longest of them, in bytes.
pub const LINE_BYTES_MAX: usize = 512;
/// Longest line that the daemon may send, in bytes.
const REQUEST_BYTES_MAX: u64 = 64 * 1024;
/// How long output may still come from what a command left running.
const LINGER: Duration = Duration::from_millis(200);

/// Runs until standard input ends.
///
/// # Errors
/// When what comes in is not from a daemon.
pub fn run() -> anyhow::Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(async {
        // Taken and never looked at: so they end nobody.
        let _ignored = [SignalKind::terminate(), SignalKind::interrupt(), SignalKind::hangup()]
            .map(signal)
            .into_iter()
            .collect::<io::Result<Vec<_>>>()?;
        let input = pipe::Receiver::from_owned_fd(io::stdin().as_fd().try_clone_to_owned()?)?;
        let output = pipe::Sender::from_owned_fd(io::stdout().as_fd().try_clone_to_owned()?)?;
        serve(BufReader::new(input), output).await
    })
}

/// The same with any input and output, for tests.
///
/// # Errors
/// As [`run`].
pub async fn serve(
    mut input: impl AsyncBufRead + Unpin,
    mut output: impl tokio::io::AsyncWrite + Unpin,
) -> anyhow::Result<()> {
    let Some(setup) = line(&mut input).await? else { return Ok(()) };
    let setup: Setup = serde_json::from_str(&setup)?;
    if let Some(nat) = &setup.nat {
        translate(&setup, &nat.begin(&setup.interface), &mut output).await;
    }
    while let Some(text) = line(&mut input).await? {
        let job: Job = serde_json::from_str(&text)?;
        for (program, command) in commands(&setup, &job) {
            let (outcome, printed) = execute(&setup, &job, &command).await;
            let ran = Ran {
                number: job.number,
                on: job.on,
                program,
                outcome: Some(outcome),
                more: printed.more,
                output: printed.lines,
            };
            tell(&mut output, &ran).await;
        }
        if job.on == On::Down
            && let Some(nat) = &setup.nat
        {
            translate(&setup, &nat.end(&setup.interface), &mut output).await;
        }
        let end = Ran {
            number: job.number,
            on: job.on,
            program: String::new(),
            outcome: None,
            output: vec![],
            more: 0,
        };
        tell(&mut output, &end).await;
    }
    Ok(())
}

/// Has the kernel's packet filter changed, by nft(8).
async fn translate(setup: &Setup, script: &str, output: &mut (impl tokio::io::AsyncWrite + Unpin)) {
    let command = Command::Program(vec!["nft".into(), script.into()]);
    let job = Job { number: 0, on: On::Up, happened: Happened::default() };
    let (outcome, printed) = execute(setup, &job, &command).await;
    let program = "nft, to translate packets to the internet".to_owned();
    let ran = Ran {
        number: 0,
        on: On::Up,
        program,
        outcome: Some(outcome),
        output: printed.lines,
        more: printed.more,
    };
    tell(output, &ran).await;
}

async fn line(input: &mut (impl AsyncBufRead + Unpin)) -> anyhow::Result<Option<String>> {
    let mut text = String::new();
    let read = input.take(REQUEST_BYTES_MAX).read_line(&mut text).await?;
    if read > 0 && !text.ends_with('\n') {
        anyhow::bail!("a line that is cut off");
    }
    Ok((read > 0).then_some(text))
}

/// A daemon that is gone hears nothing; its commands are run all the same.
async fn tell(output: &mut (impl tokio::io::AsyncWrite + Unpin), ran: &Ran) {
    let Ok(mut text) = serde_json::to_string(ran) else { return };
    text.push('\n');
    if output.write_all(text.as_bytes()).await.is_ok() {
        let _ = output.flush().await;
    }
}

/// What to run for a job, with what it is called: the configured command, then tinc's scripts that exist.
fn commands(setup: &Setup, job: &Job) -> Vec<(String, Command)> {
    let mut commands = Vec::new();
    if let Some(command) = setup.config.commands.get(&job.on) {
        commands.push((job.on.name().to_owned(), command.clone()));
    }
    if let Some(directory) = &setup.config.tinc {
        for script in scripts(directory, job) {
            // As tinc does: what is not there or may not be run is no script.
            if nix::unistd::access(&script, nix::unistd::AccessFlags::X_OK).is_ok() {
                let path = script.display().to_string();
                commands.push((path.clone(), Command::Program(vec![path])));
            }
        }
    }
    commands
}

fn scripts(directory: &Path, job: &Job) -> Vec<PathBuf> {
    let own = |suffix: &str| {
        let node = job.happened.node.as_ref();
        node.map(|node| directory.join("hosts").join(format!("{}-{suffix}", node.0)))
    };
    let at = |name: &str| vec![directory.join(name)];
    match job.on {
        On::Up => at("tinc-up"),
        On::Down => at("tinc-down"),
        On::NodeUp => at("host-up").into_iter().chain(own("up")).collect(),
        On::NodeDown => at("host-down").into_iter().chain(own("down")).collect(),
        On::SubnetUp => at("subnet-up"),
        On::SubnetDown => at("subnet-down"),
        On::PathChange => Vec::new(),
    }
}

async fn execute(setup: &Setup, job: &Job, command: &Command) -> (Outcome, Printed) {
    let mut process = match command {
        Command::Shell(text) => {
            let mut process = std::process::Command::new("/bin/sh");
            process.arg("-c").arg(text);
            process
        }
        Command::Program(words) => {
            let Some((program, arguments)) = words.split_first() else {
                return (Outcome::NotStarted("no program is named".into()), Printed::default());
            };
            let mut process = std::process::Command::new(program);
            process.args(arguments);
            process
        }
    };
    for variable in job::VARIABLES.iter().chain(&job::NOT_FOR_COMMANDS) {
        process.env_remove(variable);
    }
    process.envs(job::environment(setup, job));
    process.current_dir(setup.config.tinc.as_deref().unwrap_or(Path::new("/")));
    // A group of its own, so that it ends with all that it has started.
    process.process_group(0);
    process.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = match tokio::process::Command::from(process).spawn() {
        Ok(child) => child,
        Err(error) => return (Outcome::NotStarted(error.to_string()), Printed::default()),
    };
    let (out, error) = (child.stdout.take(), child.stderr.take());
    let group = child.id().and_then(|id| i32::try_from(id).ok());
    let mut printed = Printed::default();
    let outcome = {
        let mut reading = std::pin::pin!(read_both(out, error, &mut printed));
        let mut outcome = None;
        let ended = async {
            tokio::select! {
                biased;
                status = child.wait() => Some(status),
                () = tokio::time::sleep(setup.config.timeout) => None,
            }
        };
        let mut ended = std::pin::pin!(ended);
        let mut read_all = false;
        while outcome.is_none() {
            tokio::select! {
                status = &mut ended => outcome = Some(status),
                () = &mut reading, if !read_all => read_all = true,
            }
        }
        let outcome = match outcome.flatten() {
            Some(Ok(status)) => described(status),
            Some(Err(error)) => Outcome::Failed(error.to_string()),
            None => {
                if let Some(group) = group {
                    // It may have ended this moment.
                    let _ = killpg(Pid::from_raw(group), Signal::SIGKILL);
                }
                Outcome::Killed
            }
        };
        if !read_all {
            // Something in the background may hold the pipes open for ever.
            let _ = tokio::time::timeout(LINGER, &mut reading).await;
        }
        outcome
    };
    if outcome == Outcome::Killed {
        let _ = child.wait().await;
    }
    (outcome, printed)
}

fn described(status: ExitStatus) -> Outcome {
    match (status.success(), status.code(), status.signal()) {
        (true, _, _) => Outcome::Done,
        (false, Some(code), _) => Outcome::Failed(format!("exit code {code}")),
        (false, None, Some(signal)) => Outcome::Failed(format!("signal {signal}")),
        (false, None, None) => Outcome::Failed(status.to_string()),
    }
}

/// What a command printed.
#[derive(Default)]
struct Printed {
    lines: Vec<String>,
    more: usize,
}

impl Printed {
    fn add(&mut self, bytes: &[u8]) {
        if self.lines.len() >= LINES_MAX {
            self.more += 1;
            return;
        }
        let text = String::from_utf8_lossy(bytes);
        let visible: String = text.trim_end().chars().filter(|c| !c.is_control() || *c == '\t').collect();
        self.lines.push(visible);
    }
}

async fn read_both<O, E>(out: Option<O>, error: Option<E>, printed: &mut Printed)
where
    O: AsyncRead + Unpin,
    E: AsyncRead + Unpin,
{
    let (mut out, mut error) = (out.map(Lines::new), error.map(Lines::new));
    while out.is_some() || error.is_some() {
        let (line, of_out) = tokio::select! {
            line = next(&mut out), if out.is_some() => (line, true),
            line = next(&mut error), if error.is_some() => (line, false),
        };
        match line {
            Some(line) => printed.add(&line),
            None if of_out => out = None,
            None => error = None,
        }
    }
}

async fn next<R: AsyncRead + Unpin>(lines: &mut Option<Lines<R>>) -> Option<Vec<u8>> {
    match lines {
        Some(lines) => lines.next().await,
        None => None,
    }
}

/// Lines of bounded length: of a longer one the beginning. What was read stays when a wait is cancelled.
struct Lines<R> {
    reader: BufReader<R>,
    line: Vec<u8>,
}

impl<R: AsyncRead + Unpin> Lines<R> {
    fn new(reader: R) -> Lines<R> {
        Lines { reader: BufReader::new(reader), line: Vec::new() }
    }

    async fn next(&mut self) -> Option<Vec<u8>> {
        loop {
            let buffer = self.reader.fill_buf().await.ok()?;
            if buffer.is_empty() {
                return (!self.line.is_empty()).then(|| std::mem::take(&mut self.line));
            }
            let (piece, used, whole) = match buffer.iter().position(|byte| *byte == b'\n') {
                Some(end) => (&buffer[..end], end + 1, true),
                None => (buffer, buffer.len(), false),
            };
            let room = LINE_BYTES_MAX.saturating_sub(self.line.len());
            self.line.extend_from_slice(&piece[..piece.len().min(room)]);
            self.reader.consume(used);
            if whole {
                return Some(std::mem::take(&mut self.line));
            }
        }
    }
}
