//! A machine: one network namespace.

use crate::fault::Port;
use crate::process::{self, Finished, Process};
use crate::wire::{Wire, WireShape};
use crate::{Capture, Error, Switch, ping, tool};
use nix::sched::{CloneFlags, setns};
use std::fs::{self, File};
use std::net::{IpAddr, UdpSocket};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

/// What every machine starts with, through `sysctl`s that are the namespace's own: addresses that can be used
/// at once (no duplicate address detection), no filtering by return path, unprivileged ICMP sockets, every ICMP error.
const SYSCTLS: [(&str, &str); 7] = [
    ("net.ipv6.conf.all.accept_dad", "0"),
    ("net.ipv6.conf.default.accept_dad", "0"),
    ("net.ipv4.conf.all.rp_filter", "0"),
    ("net.ipv4.conf.default.rp_filter", "0"),
    ("net.ipv4.ping_group_range", "0 0"),
    ("net.ipv4.icmp_ratelimit", "0"),
    ("net.ipv6.icmp.ratelimit", "0"),
];

/// A network namespace with a name. A handle: clones mean the same machine, which lives as long as its lab.
#[derive(Clone, Debug)]
pub struct Machine {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    name: String,
    namespace: String,
    directory: PathBuf,
    handle: File,
    next_interface: AtomicU32,
    next_log: AtomicU32,
}

impl Machine {
    pub(crate) fn create(tag: &str, name: &str, lab_directory: &Path) -> Result<Machine, Error> {
        let namespace = format!("{tag}-{name}");
        tool::ip(&format!("netns add {namespace}"))?;
        let path = Path::new("/run/netns").join(&namespace);
        let handle = File::open(&path).map_err(Error::file(&path))?;
        let directory = lab_directory.join(name);
        fs::create_dir_all(&directory).map_err(Error::file(&directory))?;
        let inner = Inner {
            name: name.to_owned(),
            namespace,
            directory,
            handle,
            next_interface: AtomicU32::new(0),
            next_log: AtomicU32::new(0),
        };
        let machine = Machine { inner: Arc::new(inner) };
        machine.enter(|| SYSCTLS.iter().try_for_each(|(key, value)| write_sysctl(key, value)))??;
        machine.ip("link set lo up")?;
        Ok(machine)
    }

    /// The name given to [`crate::Lab::machine`].
    pub fn name(&self) -> &str {
        &self.inner.name
    }

    /// The name of the namespace, as `ip netns` knows it.
    pub fn namespace(&self) -> &str {
        &self.inner.namespace
    }

    /// A directory for this machine's files; it goes with the lab.
    pub fn directory(&self) -> &Path {
        &self.inner.directory
    }

    /// Plugs a cable into a switch: the machine gets its next interface (`eth0`, `eth1`, ...), up, with these
    /// addresses (`ADDRESS/LENGTH`, IPv4 and IPv6).
    ///
    /// # Errors
    /// A failed command, for example for an address that `ip` does not understand.
    pub fn plug(&self, switch: &Switch, addresses: &[&str]) -> Result<Port, Error> {
        let (interface, far) = (self.next_interface(), switch.next_port());
        let fabric = switch.fabric.namespace();
        tool::ip_batch(
            self.namespace(),
            &format!("link add {interface} type veth peer name {far} netns {fabric}\n"),
        )?;
        self.connect(switch, interface, far, addresses)
    }

    /// As [`Machine::plug`], with a cable that has a length.
    ///
    /// # Errors
    /// As [`Machine::plug`]; [`Error::System`] without access to `/dev/net/tun`.
    pub fn plug_by_wire(&self, switch: &Switch, addresses: &[&str], shape: WireShape) -> Result<Port, Error> {
        let (interface, far) = (self.next_interface(), switch.next_port());
        let ends = [(self.clone(), interface.clone()), (switch.fabric.clone(), far.clone())];
        let [near_end, far_end] = ends;
        switch.keep(Wire::new(near_end, far_end, shape)?);
        self.connect(switch, interface, far, addresses)
    }

    fn next_interface(&self) -> String {
        format!("eth{}", self.inner.next_interface.fetch_add(1, Ordering::Relaxed))
    }

    /// Brings both ends of a cable up.
    fn connect(
        &self,
        switch: &Switch,
        interface: String,
        far: String,
        addresses: &[&str],
    ) -> Result<Port, Error> {
        let mut near = String::new();
        for address in addresses {
            let nodad = if address.contains(':') { " nodad" } else { "" };
            near.push_str(&format!("addr add {address} dev {interface}{nodad}\n"));
        }
        near.push_str(&format!("link set {interface} up\n"));
        tool::ip_batch(self.namespace(), &near)?;
        let bridge = &switch.bridge;
        tool::ip_batch(
            switch.fabric.namespace(),
            &format!("link set {far} master {bridge}\nlink set {far} up\n"),
        )?;
        Ok(Port::new(self.clone(), interface, switch.fabric.clone(), far))
    }

    /// Sends everything that has no better route to `gateway`.
    ///
    /// # Errors
    /// A failed command.
    pub fn default_route(&self, gateway: &str) -> Result<(), Error> {
        self.ip(&format!("route replace default via {gateway}")).map(drop)
    }

    /// Runs an `ip` command inside the machine: `machine.ip("route add 198.51.100.0/24 via 192.0.2.254")`.
    ///
    /// # Errors
    /// A failed command.
    pub fn ip(&self, arguments: &str) -> Result<String, Error> {
        tool::ip(&format!("-netns {} {arguments}", self.namespace()))
    }

    /// Loads nftables rules into the machine.
    ///
    /// # Errors
    /// A failed command.
    pub fn nft(&self, rules: &str) -> Result<String, Error> {
        self.enter(|| tool::run("nft", &["-f", "-"], Some(rules)))?
    }

    /// Sets a `net.*` sysctl of the machine.
    ///
    /// # Errors
    /// [`Error::File`] when the kernel does not have it, or does not like the value.
    pub fn sysctl(&self, key: &str, value: &str) -> Result<(), Error> {
        self.enter(|| write_sysctl(key, value))?
    }

    /// Runs a closure inside the machine and waits for it: sockets that it makes belong to the machine for good.
    ///
    /// # Errors
    /// [`Error::System`] when the thread for it could not be made or moved.
    ///
    /// # Panics
    /// When the closure does.
    pub fn enter<T: Send>(&self, work: impl FnOnce() -> T + Send) -> Result<T, Error> {
        std::thread::scope(|scope| {
            let inside = || -> Result<T, Error> {
                self.move_here()?;
                Ok(work())
            };
            let thread = std::thread::Builder::new()
                .name(format!("in {}", self.name()))
                .spawn_scoped(scope, inside)
                .map_err(Error::system("starting a thread"))?;
            thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
        })
    }

    /// Starts a thread inside the machine; its result is an error when it could not get there.
    ///
    /// # Errors
    /// [`Error::System`] when the thread could not be started.
    pub fn thread<T: Send + 'static>(
        &self,
        work: impl FnOnce() -> T + Send + 'static,
    ) -> Result<JoinHandle<Result<T, Error>>, Error> {
        let machine = self.clone();
        let inside = move || machine.move_here().map(|()| work());
        let thread = std::thread::Builder::new().name(format!("in {}", self.name())).spawn(inside);
        thread.map_err(Error::system("starting a thread"))
    }

    /// A UDP socket of the machine.
    ///
    /// # Errors
    /// [`Error::System`], for example when the address is not the machine's.
    pub fn udp(&self, local: &str) -> Result<UdpSocket, Error> {
        self.enter(|| UdpSocket::bind(local).map_err(Error::system("binding a UDP socket")))?
    }

    /// Starts a program on the machine. Its output goes to a log file ([`Process::log`]).
    ///
    /// # Errors
    /// [`Error::MissingTool`] or [`Error::File`] when the program cannot be started.
    pub fn spawn(&self, command: Command) -> Result<Process, Error> {
        let stem = Path::new(command.get_program()).file_name().unwrap_or_default();
        let number = self.inner.next_log.fetch_add(1, Ordering::Relaxed);
        let log = self.inner.directory.join(format!("{}-{number}.log", stem.to_string_lossy()));
        self.spawn_logging_to(command, &log)
    }

    /// As [`Machine::spawn`], adding to a log file of the caller's choice.
    ///
    /// # Errors
    /// As [`Machine::spawn`].
    pub fn spawn_logging_to(&self, command: Command, log: &Path) -> Result<Process, Error> {
        self.enter(|| process::spawn(command, log))?
    }

    /// Runs a program on the machine to its end, at most for `limit` (it is killed then).
    ///
    /// # Errors
    /// [`Error::Timeout`] when it did not end, or the reason why it could not be started. An exit code other than 0
    /// is no error here: see [`Finished::success`].
    pub fn run(&self, command: Command, limit: Duration) -> Result<Finished, Error> {
        self.enter(|| process::run(command, limit))?
    }

    /// One ICMP echo from the machine; the round-trip time, or `None` when no answer came within `limit`.
    ///
    /// # Errors
    /// [`Error::System`] when no ICMP socket can be made. That the network is unreachable is `None`.
    pub fn ping(&self, to: IpAddr, limit: Duration) -> Result<Option<Duration>, Error> {
        self.enter(|| ping::once(to, limit))?
    }

    /// Starts to record what passes an interface of the machine, both ways.
    ///
    /// # Errors
    /// [`Error::System`] when there is no such interface, or no packet socket.
    pub fn capture(&self, interface: &str) -> Result<Capture, Error> {
        Capture::start(self, interface)
    }

    /// The log files that were made on this machine, oldest first.
    pub fn logs(&self) -> Vec<PathBuf> {
        let entries = fs::read_dir(self.directory()).into_iter().flatten().flatten();
        let mut logs: Vec<PathBuf> = entries
            .map(|entry| entry.path())
            .filter(|path| path.extension().is_some_and(|it| it == "log"))
            .collect();
        logs.sort();
        logs
    }

    fn move_here(&self) -> Result<(), Error> {
        setns(&self.inner.handle, CloneFlags::CLONE_NEWNET)
            .map_err(Error::system("entering a network namespace"))
    }
}

/// Must run inside the machine: the kernel shows `/proc/sys/net` of the namespace of the thread that looks.
fn write_sysctl(key: &str, value: &str) -> Result<(), Error> {
    let path = Path::new("/proc/sys").join(key.replace('.', "/"));
    fs::write(&path, value).map_err(Error::file(path))
}
