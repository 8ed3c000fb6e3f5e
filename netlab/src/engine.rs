//! Container engines on machines: a `dockerd` of its own in each namespace, whose containers use the machine's network.

use crate::{Error, Machine, Process, tool, wait};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

/// Long enough for an engine to start, or an image to load.
const START_LIMIT: Duration = Duration::from_secs(90);
/// How long an engine has to end in its own way.
const STOP_LIMIT: Duration = Duration::from_secs(20);
/// Where engines keep their files: the paths of sockets are short, and a machine's directory may not be.
const PLACES: &str = "/tmp/mn-";

/// A container engine (Docker's) on a machine. Dropping it removes its containers, its volumes, and its files.
#[derive(Debug)]
pub struct Engine {
    machine: Machine,
    place: PathBuf,
    process: Option<Process>,
}

impl Engine {
    /// An engine on a machine, not yet started: its socket's path is known, as a daemon's configuration wants it.
    ///
    /// # Errors
    /// When its directory cannot be made.
    pub fn new(machine: &Machine) -> Result<Engine, Error> {
        static NUMBER: AtomicU32 = AtomicU32::new(0);
        remove_leftovers();
        let number = NUMBER.fetch_add(1, Ordering::Relaxed);
        let place = PathBuf::from(format!("{PLACES}{}-{number}", std::process::id()));
        std::fs::create_dir_all(&place).map_err(Error::file(&place))?;
        Ok(Engine { machine: machine.clone(), place, process: None })
    }

    /// Its socket.
    pub fn socket(&self) -> PathBuf {
        self.place.join("sock")
    }

    /// Starts it and waits until it answers.
    ///
    /// # Errors
    /// [`Error::MissingTool`], or [`Error::Timeout`] with the end of its log.
    pub fn start(&mut self) -> Result<(), Error> {
        let at = |name: &str| self.place.join(name).to_string_lossy().into_owned();
        let mut command = tool::system_command("dockerd");
        command.args(["--data-root", &at("data"), "--exec-root", &at("exec"), "--pidfile", &at("pid")]);
        command.args(["-H", &format!("unix://{}", self.socket().display()), "--bridge=none"]);
        command.args(["--iptables=false", "--ip6tables=false"]);
        let process = self.machine.spawn(command)?;
        let log = process.log().to_owned();
        let end = || {
            let text = std::fs::read_to_string(&log).unwrap_or_default();
            text.lines().last().unwrap_or_default().to_owned()
        };
        let process = self.process.insert(process);
        let socket = self.place.join("sock");
        let answers = || {
            let mut ask = docker(&socket);
            tool::finish(ask.args(["info", "--format", "."]), None)
        };
        let what = format!("the container engine of {} to answer", self.machine.name());
        wait::until(&what, START_LIMIT, || match (answers(), process.try_wait()) {
            (Ok(_), _) => Ok(Ok(())),
            // Where it cannot run it says so at once.
            (_, Some(status)) => Ok(Err(Error::Command { line: "dockerd".into(), status, stderr: end() })),
            (Err(error), None) => Err(format!("{error}: {}", end())),
        })?
    }

    /// Stops it as a system's shut-down does: its containers end in their own way, and come back with [`Engine::start`].
    ///
    /// # Errors
    /// [`Error::Timeout`] when it takes longer than `limit`.
    pub fn stop(&mut self, limit: Duration) -> Result<(), Error> {
        if let Some(mut process) = self.process.take() {
            process.terminate();
            process.wait(limit)?;
            self.unmount();
        }
        Ok(())
    }

    /// `kill -9` to the engine and to all that runs in its containers, as when the power fails. Only `meshd` is spared.
    ///
    /// # Errors
    /// When the machine's processes cannot be listed.
    pub fn kill(&mut self) -> Result<(), Error> {
        // The engine first, and its helpers with it: nothing must be written down in an orderly way.
        if let Some(mut process) = self.process.take() {
            process.kill();
        }
        let pids = tool::ip(&format!("netns pids {}", self.machine.namespace()))?;
        for pid in pids.split_whitespace() {
            let name = std::fs::read_to_string(format!("/proc/{pid}/comm")).unwrap_or_default();
            if name.trim() != "meshd" {
                kill(pid);
            }
        }
        self.unmount();
        Ok(())
    }

    /// The process id of a container's first process.
    pub fn pid(&self, container: &str) -> Option<u32> {
        let text = self.docker(&["inspect", "--format", "{{.State.Pid}}", container]).ok()?;
        text.trim().parse().ok().filter(|pid| *pid > 0)
    }

    /// `docker ARGUMENTS...` against this engine, not started.
    pub fn command(&self, arguments: &[&str]) -> Command {
        let mut command = docker(&self.socket());
        command.args(arguments);
        command
    }

    /// Runs `docker ARGUMENTS...` against this engine; its standard output.
    ///
    /// # Errors
    /// [`Error::Command`] when it fails.
    pub fn docker(&self, arguments: &[&str]) -> Result<String, Error> {
        tool::finish(&mut self.command(arguments), None)
    }

    fn unmount(&self) {
        // The engine leaves its own namespace mounted there.
        let _ = nix::mount::umount2(&self.place.join("exec/netns/default"), nix::mount::MntFlags::MNT_DETACH);
    }
}

impl Drop for Engine {
    fn drop(&mut self) {
        // Containers outlive an engine that is killed: end them first, then the engine in its own way.
        if let Ok(ids) = self.docker(&["ps", "-aq"]) {
            let ids: Vec<&str> = ids.lines().collect();
            if !ids.is_empty() {
                let _ = self.docker(&[&["rm", "-f", "-v"], &ids[..]].concat());
            }
        }
        let _ = self.stop(STOP_LIMIT);
        self.unmount();
        let _ = std::fs::remove_dir_all(&self.place);
    }
}

fn docker(socket: &Path) -> Command {
    let mut command = tool::system_command("docker");
    command.arg("-H").arg(format!("unix://{}", socket.display()));
    command
}

fn kill(pid: &str) {
    if let Ok(pid) = pid.parse() {
        let _ = nix::sys::signal::kill(nix::unistd::Pid::from_raw(pid), nix::sys::signal::Signal::SIGKILL);
    }
}

/// Removes the files of engines whose owner was killed.
fn remove_leftovers() {
    let (directory, prefix) = PLACES.rsplit_once('/').unwrap_or(("", PLACES));
    for entry in std::fs::read_dir(directory).into_iter().flatten().flatten() {
        let name = entry.file_name().to_string_lossy().into_owned();
        let owner = name.strip_prefix(prefix).and_then(|rest| rest.split('-').next());
        let Some(owner) = owner.and_then(|owner| owner.parse::<u32>().ok()) else { continue };
        if !Path::new(&format!("/proc/{owner}")).exists() {
            unmount_below(&entry.path());
            let _ = std::fs::remove_dir_all(entry.path());
        }
    }
}

/// Takes away what is mounted below a directory, the last first.
fn unmount_below(directory: &Path) {
    let mounts = std::fs::read_to_string("/proc/self/mounts").unwrap_or_default();
    let points = mounts.lines().filter_map(|line| line.split(' ').nth(1)).map(PathBuf::from);
    let mut points: Vec<PathBuf> = points.filter(|point| point.starts_with(directory)).collect();
    points.reverse();
    for point in points {
        let _ = nix::mount::umount2(&point, nix::mount::MntFlags::MNT_DETACH);
    }
}
