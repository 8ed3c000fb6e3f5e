//! Labs: what holds the machines of one scenario together and takes them down again.

use crate::machine::Machine;
use crate::wire::Wire;
use crate::{Error, access, tool};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

/// Set to keep a lab's directory (logs, state) after its end.
pub const KEEP: &str = "NETLAB_KEEP";

/// How many lines of each log are shown when a test fails.
const LOG_TAIL_LINES: usize = 30;

/// The namespace that holds all switches of a lab. No machine can have that name: it has an underscore.
const FABRIC: &str = "_fabric";

/// Takes down the lab of a tag: its processes, its namespaces, its directory. Arguments: tag, directory.
/// With a third argument it first waits for the end of its standard input.
const REAP: &str = r#"
trap '' INT TERM HUP QUIT
[ -z "$3" ] || cat >/dev/null
names=$(cd /run/netns 2>/dev/null && ls -d "$1"-* 2>/dev/null)
for name in $names; do
  for pid in $(ip netns pids "$name" 2>/dev/null); do kill -9 "$pid" 2>/dev/null; done
  ip netns del "$name" 2>/dev/null
done
[ -n "$NETLAB_KEEP" ] || rm -rf "$2"
exit 0"#;

/// A network of machines in namespaces of their own. Many labs can be up side by side, also in several processes.
///
/// Dropping it kills the processes on its machines, and removes the namespaces and the directory. In a panicking
/// thread the ends of the logs are printed first.
#[derive(Debug)]
pub struct Lab {
    tag: String,
    directory: PathBuf,
    shared: Arc<Shared>,
    next_switch: AtomicU32,
    machines: Mutex<Vec<Machine>>,
    fabric: Machine,
    reaper: Child,
    reaper_stdin: Option<ChildStdin>,
}

/// An Ethernet switch: a bridge without an address.
#[derive(Clone, Debug)]
pub struct Switch {
    pub(crate) bridge: String,
    pub(crate) fabric: Machine,
    shared: Arc<Shared>,
}

/// What a lab's switches share.
#[derive(Debug, Default)]
struct Shared {
    next_port: AtomicU32,
    wires: Mutex<Vec<Wire>>,
}

impl Lab {
    /// An empty lab. Removes what labs of dead processes left behind.
    ///
    /// # Errors
    /// [`Error::Access`] without the right to make namespaces (call [`access::acquire`] early in `main` to get it),
    /// [`Error::MissingTool`], or a failed command.
    pub fn new() -> Result<Lab, Error> {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        access::check_tools()?;
        if !access::is_available() {
            return Err(Error::Access {
                why: "this process may not".to_owned(),
                remedy: "run it as root, or inside a user namespace: `unshare --user --map-root-user --net --mount`, \
                         then `mount -t tmpfs none /run && mkdir /run/netns`",
            });
        }
        remove_leftovers();
        let pid = std::process::id();
        let number = COUNT.fetch_add(1, Ordering::Relaxed);
        let tag = format!("netlab-{pid}-{}-{number}", start_of(pid).unwrap_or(0));
        let directory = directory_of(&tag);
        fs::create_dir_all(&directory).map_err(Error::file(&directory))?;
        let (reaper, reaper_stdin) = start_reaper(&tag, &directory)?;
        let fabric = Machine::create(&tag, FABRIC, &directory)?;
        fabric.sysctl("net.ipv6.conf.default.disable_ipv6", "1")?;
        Ok(Lab {
            tag,
            directory,
            shared: Arc::default(),
            next_switch: AtomicU32::new(0),
            machines: Mutex::new(Vec::new()),
            fabric,
            reaper,
            reaper_stdin: Some(reaper_stdin),
        })
    }

    /// A switch. The name is only for people.
    ///
    /// # Errors
    /// A failed command.
    pub fn switch(&self, name: &str) -> Result<Switch, Error> {
        let bridge = format!("br{}", self.next_switch.fetch_add(1, Ordering::Relaxed));
        let add = format!(
            "link add {bridge} type bridge stp_state 0 forward_delay 0 mcast_snooping 0\n\
             link set {bridge} alias {name}\nlink set {bridge} up\n"
        );
        tool::ip_batch(self.fabric.namespace(), &add)?;
        Ok(Switch { bridge, fabric: self.fabric.clone(), shared: self.shared.clone() })
    }

    /// A machine with nothing but its loopback, up.
    ///
    /// # Errors
    /// [`Error::Name`] for a name that is not 1 to 24 of `a-z`, `0-9`, `-`; a failed command.
    pub fn machine(&self, name: &str) -> Result<Machine, Error> {
        let of_name = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-';
        if name.is_empty() || name.len() > 24 || !name.bytes().all(of_name) {
            return Err(Error::Name(name.to_owned()));
        }
        let machine = Machine::create(&self.tag, name, &self.directory)?;
        self.machines.lock().unwrap_or_else(PoisonError::into_inner).push(machine.clone());
        Ok(machine)
    }

    /// A machine that forwards packets between its ports, IPv4 and IPv6.
    ///
    /// # Errors
    /// As [`Lab::machine`].
    pub fn router(&self, name: &str) -> Result<Machine, Error> {
        let machine = self.machine(name)?;
        machine.sysctl("net.ipv4.ip_forward", "1")?;
        machine.sysctl("net.ipv6.conf.all.forwarding", "1")?;
        Ok(machine)
    }

    /// Where the lab keeps its files; each machine has a directory in it. Removed at the end, unless the
    /// environment has [`KEEP`].
    pub fn directory(&self) -> &Path {
        &self.directory
    }

    /// The start of all names of this lab's namespaces.
    pub fn tag(&self) -> &str {
        &self.tag
    }

    /// Takes the lab down, and makes sure that nothing of it is left.
    ///
    /// # Errors
    /// [`Error::LeftBehind`] with the first thing that is still there.
    pub fn take_down(self) -> Result<(), Error> {
        let (prefix, directory) = (format!("{}-", self.tag), self.directory.clone());
        drop(self);
        let names = fs::read_dir("/run/netns").into_iter().flatten().flatten();
        let left = names.map(|entry| entry.path()).find(|path| path.to_string_lossy().contains(&prefix));
        let kept = directory.exists() && std::env::var_os(KEEP).is_none();
        match left.or(kept.then_some(directory)) {
            None => Ok(()),
            Some(path) => Err(Error::LeftBehind(path)),
        }
    }

    /// The last lines of all logs, for a person who wonders why a test failed.
    pub fn log_tails(&self) -> String {
        let mut text = String::new();
        let machines = self.machines.lock().unwrap_or_else(PoisonError::into_inner);
        for machine in machines.iter() {
            for log in machine.logs() {
                let content = fs::read_to_string(&log).unwrap_or_default();
                let lines: Vec<&str> = content.lines().collect();
                let tail = &lines[lines.len().saturating_sub(LOG_TAIL_LINES)..];
                text.push_str(&format!("--- {} ---\n{}\n", log.display(), tail.join("\n")));
            }
        }
        text
    }
}

impl Switch {
    /// A name for a new port.
    pub(crate) fn next_port(&self) -> String {
        format!("p{}", self.shared.next_port.fetch_add(1, Ordering::Relaxed))
    }

    /// Keeps a wire until the lab ends.
    pub(crate) fn keep(&self, wire: Wire) {
        self.shared.wires.lock().unwrap_or_else(PoisonError::into_inner).push(wire);
    }
}

impl Drop for Lab {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("{}", self.log_tails());
        }
        self.shared.wires.lock().unwrap_or_else(PoisonError::into_inner).clear();
        // The end of its input is the reaper's sign; one way of taking down, used every time.
        drop(self.reaper_stdin.take());
        let _ = self.reaper.wait();
    }
}

/// Removes the labs of processes that are no more.
fn remove_leftovers() {
    let entries = fs::read_dir("/run/netns").into_iter().flatten().flatten();
    let mut tags: Vec<String> = entries
        .filter_map(|entry| tag_of(entry.file_name().to_str()?))
        .filter(|(_, pid, start)| start_of(*pid) != Some(*start))
        .map(|(tag, _, _)| tag)
        .collect();
    tags.sort();
    tags.dedup();
    for tag in tags {
        let directory = directory_of(&tag);
        let mut reap = tool::system_command("sh");
        let _ = reap.args(["-c", REAP, "sh", &tag]).arg(directory).stdin(Stdio::null()).status();
    }
}

/// Splits a namespace's name into its lab's tag, and the owner's pid and start time.
fn tag_of(namespace: &str) -> Option<(String, u32, u64)> {
    let mut parts = namespace.strip_prefix("netlab-")?.splitn(4, '-');
    let (pid, start, number) = (parts.next()?, parts.next()?, parts.next()?);
    parts.next()?;
    Some((format!("netlab-{pid}-{start}-{number}"), pid.parse().ok()?, start.parse().ok()?))
}

/// When a process started, in ticks since boot (proc_pid_stat(5), field 22): with it a pid is never mistaken.
fn start_of(pid: u32) -> Option<u64> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    // The second field, the name in parentheses, may itself hold spaces and parentheses.
    stat.rsplit_once(')')?.1.split_whitespace().nth(19)?.parse().ok()
}

fn directory_of(tag: &str) -> PathBuf {
    std::env::temp_dir().join(tag)
}

fn start_reaper(tag: &str, directory: &Path) -> Result<(Child, ChildStdin), Error> {
    use std::os::unix::process::CommandExt;
    let mut command = tool::system_command("sh");
    command.args(["-c", REAP, "netlab-reaper", tag]).arg(directory).arg("wait").current_dir("/");
    // A process group of its own, so that Ctrl-C at the terminal does not reach it.
    command.stdin(Stdio::piped()).stdout(Stdio::null()).stderr(Stdio::null()).process_group(0);
    let mut child = command.spawn().map_err(|source| tool::spawn_error(&command, source))?;
    let stdin = child.stdin.take().ok_or(Error::System {
        what: "starting the reaper",
        source: std::io::ErrorKind::BrokenPipe.into(),
    })?;
    Ok((child, stdin))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_tag_is_found_in_a_namespace_name_and_nothing_else_matches() {
        assert_eq!(tag_of("netlab-12-345-6-dc1-a"), Some(("netlab-12-345-6".to_owned(), 12, 345)));
        for foreign in ["netlab", "netlab-1-2-3", "docker-1-2-3-4", "netlab-x-2-3-a"] {
            assert_eq!(tag_of(foreign), None, "{foreign}");
        }
    }

    #[test]
    fn the_own_start_time_is_known_and_that_of_no_process_is_not() {
        assert!(start_of(std::process::id()).is_some_and(|start| start > 0));
        assert_eq!(start_of(u32::MAX), None);
    }
}
