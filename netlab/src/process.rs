//! Programs on machines: started, watched, signalled, killed.

use crate::{Error, tool, wait};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use std::fs::{self, File};
use std::io::{Read, Seek, SeekFrom};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

/// A running program. Dropping it kills it.
#[derive(Debug)]
pub struct Process {
    child: Child,
    log: PathBuf,
    line: String,
}

/// How a program ended, and what it wrote.
#[derive(Clone, Debug)]
pub struct Finished {
    /// The command line.
    pub line: String,
    /// The exit status.
    pub status: ExitStatus,
    /// All of its standard output.
    pub stdout: String,
    /// All of its standard error.
    pub stderr: String,
}

/// Memory and processor time of a process (proc_pid_status(5), proc_pid_stat(5)).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Usage {
    /// Resident memory.
    pub resident_bytes: u64,
    /// The part of it that is private: without the pages of the program file and of libraries.
    pub anonymous_bytes: u64,
    /// User and system time since its start.
    pub cpu: Duration,
}

impl Process {
    /// The process id.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// The file that its standard output and standard error go to.
    pub fn log(&self) -> &Path {
        &self.log
    }

    /// What it has written so far.
    pub fn log_text(&self) -> String {
        fs::read_to_string(&self.log).unwrap_or_default()
    }

    /// Has it ended? With which status?
    pub fn try_wait(&mut self) -> Option<ExitStatus> {
        self.child.try_wait().ok().flatten()
    }

    /// Waits for its end.
    ///
    /// # Errors
    /// [`Error::Timeout`] when it still runs after `limit`; it goes on running.
    pub fn wait(&mut self, limit: Duration) -> Result<ExitStatus, Error> {
        let what = format!("the end of `{}`", self.line);
        wait::until(&what, limit, || self.child.try_wait().ok().flatten().ok_or("it runs"))
    }

    /// Sends a signal. A process that is gone already is no error.
    pub fn signal(&self, signal: Signal) {
        // The child has not been waited for unless `try_wait` saw its end, so the pid cannot be another's; a zombie
        // takes signals without effect.
        let _ = kill(Pid::from_raw(self.child.id().cast_signed()), signal);
    }

    /// `kill -9`, and waits until it is gone.
    pub fn kill(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }

    /// Asks it to end (SIGTERM).
    pub fn terminate(&self) {
        self.signal(Signal::SIGTERM);
    }

    /// Stops it where it stands (SIGSTOP), as a machine that is suspended.
    pub fn pause(&self) {
        self.signal(Signal::SIGSTOP);
    }

    /// Lets it go on after [`Process::pause`].
    pub fn resume(&self) {
        self.signal(Signal::SIGCONT);
    }

    /// What it uses now.
    ///
    /// # Errors
    /// [`Error::File`] when it is gone.
    pub fn usage(&self) -> Result<Usage, Error> {
        usage(self.pid())
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        if self.try_wait().is_none() {
            self.kill();
        }
    }
}

impl Finished {
    /// Did it end with exit code 0?
    pub fn success(&self) -> bool {
        self.status.success()
    }

    /// The exit code; `None` when a signal ended it.
    pub fn code(&self) -> Option<i32> {
        self.status.code()
    }

    /// Its standard output, or the error that tells why it failed.
    ///
    /// # Errors
    /// [`Error::Command`] for any exit code but 0.
    pub fn stdout(self) -> Result<String, Error> {
        if self.success() {
            return Ok(self.stdout);
        }
        Err(Error::Command { line: self.line, status: self.status, stderr: self.stderr.trim().to_owned() })
    }
}

/// What a process uses now.
///
/// # Errors
/// [`Error::File`] when there is no such process.
pub fn usage(pid: u32) -> Result<Usage, Error> {
    let status_path = PathBuf::from(format!("/proc/{pid}/status"));
    let status = fs::read_to_string(&status_path).map_err(Error::file(&status_path))?;
    let bytes_of = |field: &str| {
        let line = status.lines().find_map(|line| line.strip_prefix(field))?;
        line.trim().strip_suffix("kB")?.trim().parse::<u64>().ok().map(|kib| kib * 1024)
    };
    let stat_path = PathBuf::from(format!("/proc/{pid}/stat"));
    let stat = fs::read_to_string(&stat_path).map_err(Error::file(&stat_path))?;
    let after_name = stat.rsplit_once(')').map_or("", |(_, rest)| rest);
    let ticks: u64 =
        after_name.split_whitespace().skip(11).take(2).filter_map(|field| field.parse::<u64>().ok()).sum();
    let per_second = nix::unistd::sysconf(nix::unistd::SysconfVar::CLK_TCK).ok().flatten().unwrap_or(100);
    Ok(Usage {
        resident_bytes: bytes_of("VmRSS:").unwrap_or(0),
        anonymous_bytes: bytes_of("RssAnon:").unwrap_or(0),
        cpu: Duration::from_secs_f64(ticks as f64 / per_second as f64),
    })
}

/// Starts a program in the namespace of the calling thread.
pub(crate) fn spawn(mut command: Command, log: &Path) -> Result<Process, Error> {
    let file = File::options().create(true).append(true).open(log).map_err(Error::file(log))?;
    let again = file.try_clone().map_err(Error::file(log))?;
    // Ctrl-C at the terminal must reach only the owner, who decides what becomes of the machines.
    command.stdin(Stdio::null()).stdout(file).stderr(again).process_group(0);
    let child = command.spawn().map_err(|source| tool::spawn_error(&command, source))?;
    Ok(Process { child, log: log.to_owned(), line: tool::line(&command, None) })
}

/// Runs a program to its end in the namespace of the calling thread.
pub(crate) fn run(mut command: Command, limit: Duration) -> Result<Finished, Error> {
    // Into files, not pipes: a pipe that nobody empties would stop the program, and a grandchild keep it open.
    let (mut stdout, mut stderr) = (scratch()?, scratch()?);
    let hand = |file: &File| file.try_clone().map_err(Error::system("duplicating a file"));
    command.stdin(Stdio::null()).stdout(hand(&stdout)?).stderr(hand(&stderr)?).process_group(0);
    let mut child = command.spawn().map_err(|source| tool::spawn_error(&command, source))?;
    let start = Instant::now();
    let status = loop {
        if let Some(status) = child.try_wait().map_err(Error::system("waiting for a program"))? {
            break status;
        }
        if start.elapsed() >= limit {
            let _ = child.kill();
            let _ = child.wait();
            let last = format!("it wrote: {}{}", content(&mut stdout), content(&mut stderr));
            let what = format!("the end of `{}`", tool::line(&command, None));
            return Err(Error::Timeout { what, waited_ms: start.elapsed().as_millis(), last });
        }
        std::thread::sleep(Duration::from_millis(2));
    };
    let line = tool::line(&command, None);
    Ok(Finished { line, status, stdout: content(&mut stdout), stderr: content(&mut stderr) })
}

/// An unnamed file in memory.
fn scratch() -> Result<File, Error> {
    let descriptor = nix::sys::memfd::memfd_create(c"netlab", nix::sys::memfd::MFdFlags::MFD_CLOEXEC);
    descriptor.map(File::from).map_err(Error::system("making a scratch file"))
}

fn content(file: &mut File) -> String {
    let mut bytes = Vec::new();
    if file.seek(SeekFrom::Start(0)).and_then(|_| file.read_to_end(&mut bytes)).is_err() {
        return String::new();
    }
    String::from_utf8_lossy(&bytes).into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_program_s_output_and_exit_code_are_told() {
        let mut command = Command::new("sh");
        command.args(["-c", "echo out; echo err >&2; exit 3"]);
        let finished = run(command, Duration::from_secs(10)).expect("sh runs");
        assert_eq!(
            (finished.code(), finished.stdout.trim(), finished.stderr.trim()),
            (Some(3), "out", "err")
        );
        assert!(finished.stdout().expect_err("exit code 3").to_string().contains("err"));
    }

    #[test]
    fn a_program_that_does_not_end_is_killed() {
        let mut command = Command::new("sleep");
        command.arg("1000");
        let error = run(command, Duration::from_millis(50)).expect_err("it sleeps");
        assert!(matches!(error, Error::Timeout { .. }), "{error}");
    }

    #[test]
    fn a_missing_tool_is_told_with_its_package() {
        let mut command = Command::new("iperf3");
        command.env("PATH", "/nonexistent");
        let error = run(command, Duration::from_secs(1)).expect_err("not in that PATH");
        assert!(error.to_string().contains("apt-get install iperf3"), "{error}");
    }

    #[test]
    fn the_own_usage_is_plausible() {
        let usage = usage(std::process::id()).expect("we run");
        assert!(usage.resident_bytes > 100_000 && usage.anonymous_bytes <= usage.resident_bytes, "{usage:?}");
    }
}
