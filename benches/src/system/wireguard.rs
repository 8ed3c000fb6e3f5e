//! WireGuard in user space: wireguard-go, boringtun, and others with the same control socket.

use super::{Running, System, arguments, beside, overlay, run};
use crate::facts;
use crate::rig::{Rig, Shape};
use anyhow::Context;
use netlab::Process;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

const PORT: u16 = 51820;

/// IPv4, UDP, and WireGuard's own 32 bytes; the default MTU of 1420 leaves room for IPv6.
const OVERHEAD_BYTES: u32 = 60;

/// Most machines of a rig.
const MACHINES: usize = 9;

/// A program that makes a WireGuard interface.
#[derive(Debug)]
pub struct WireGuard {
    name: String,
    daemon: PathBuf,
    wg: PathBuf,
    /// Private key file and public key of each node.
    keys: Vec<(PathBuf, String)>,
}

impl WireGuard {
    /// Makes the keys.
    ///
    /// # Errors
    /// Without the `wg` program.
    pub fn new(name: &str, daemon: &Path, scratch: &Path) -> anyhow::Result<WireGuard> {
        let wg = beside(daemon, "wg").context("`wg` is not installed: apt-get install wireguard-tools")?;
        let key = |number: usize| -> anyhow::Result<(PathBuf, String)> {
            let private = scratch.join(format!("{}-{number}.key", name.replace('/', "-")));
            fs::create_dir_all(scratch)?;
            fs::write(&private, run(&wg, arguments!["genkey"])?)?;
            let public = run("sh", arguments!["-c", "exec \"$1\" pubkey <\"$2\"", "sh", &wg, &private])?;
            Ok((private, public.trim().to_owned()))
        };
        let keys = (0..MACHINES).map(key).collect::<anyhow::Result<Vec<_>>>()?;
        Ok(WireGuard { name: name.to_owned(), daemon: daemon.to_owned(), wg, keys })
    }

    /// boringtun reads no longer packets than the interface's MTU was when it made it: 1500.
    fn mtu(&self, shape: Shape) -> u32 {
        let fits = shape.underlay_mtu - OVERHEAD_BYTES;
        if self.program().contains("boringtun") { fits.min(1500) } else { fits }
    }

    fn program(&self) -> String {
        self.daemon.file_name().unwrap_or_default().to_string_lossy().into_owned()
    }

    fn command(&self, interface: &str) -> Command {
        let mut command = Command::new(&self.daemon);
        if self.program().contains("wireguard-go") {
            command.args(["-f", interface]).env("LOG_LEVEL", "error");
        } else {
            command.args(["--foreground", "--disable-drop-privileges", interface]);
        }
        command
    }
}

impl System for WireGuard {
    fn name(&self) -> &str {
        &self.name
    }

    fn description(&self) -> String {
        let version = facts::output(&self.daemon.to_string_lossy(), &["--version"]);
        format!("{}, ChaCha20-Poly1305", version.unwrap_or_else(|| self.name.clone()))
    }

    fn is_chacha(&self) -> bool {
        true
    }

    /// Relaying between peers is not WireGuard's.
    fn can(&self, shape: Shape) -> bool {
        shape.relays == 0
    }

    fn start(&self, rig: &Rig) -> anyhow::Result<Running> {
        let started = Instant::now();
        let mut processes: Vec<Process> = Vec::new();
        // The control sockets of all namespaces are in one directory: names must differ on the whole machine.
        let interface = |number| format!("wb{}n{number}", std::process::id() % 1_000_000_000);
        let interfaces: Vec<String> = (0..rig.machines().len()).map(interface).collect();
        for (machine, interface) in rig.machines().iter().zip(&interfaces) {
            processes.push(machine.spawn(self.command(interface))?);
        }
        for (number, machine) in rig.machines().iter().enumerate() {
            let interface = &interfaces[number];
            let socket = PathBuf::from(format!("/var/run/wireguard/{interface}.sock"));
            netlab::wait::until_true("the WireGuard interface", Duration::from_secs(5), || {
                socket.exists() && machine.ip(&format!("link show {interface}")).is_ok()
            })
            .with_context(|| processes[number].log_text())?;
            let mut set = Command::new(&self.wg);
            set.args(["set", interface, "listen-port", &PORT.to_string(), "private-key"]);
            set.arg(&self.keys[number].0);
            for other in rig.neighbours(number) {
                set.args(["peer", &self.keys[other].1]);
                set.arg("allowed-ips").arg(format!("{}/32", overlay(other)));
                set.arg("endpoint").arg(format!("{}:{PORT}", rig.address_towards(other, number)));
            }
            machine.run(set, Duration::from_secs(5))?.stdout()?;
            let mtu = self.mtu(rig.shape());
            machine.ip(&format!("addr add {}/24 dev {interface}", overlay(number)))?;
            machine.ip(&format!("link set {interface} mtu {mtu} up"))?;
        }
        Ok(Running::processes(rig, started, processes))
    }
}
