//! tinc: one daemon, RSA keys made once and used in all rounds.

use super::{INTERFACE, Running, System, arguments, beside, overlay, run};
use crate::facts;
use crate::rig::{Rig, Shape};
use anyhow::Context;
use std::fmt::Write;
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

/// Most machines of a rig.
const MACHINES: usize = 9;

/// A `tincd` program, with its nodes' keys.
#[derive(Debug)]
pub struct Tinc {
    name: String,
    daemon: PathBuf,
    /// One directory per machine, as after `tincd -K` or `tinc init`.
    keys: PathBuf,
    /// Whether it is 1.1 or a rewrite of it.
    is_new: bool,
    /// A line for every host file, and the cipher that it chooses.
    cipher: Option<(&'static str, &'static str)>,
}

impl Tinc {
    /// Makes the keys: with `tinc init` where a `tinc` program stands beside the daemon (1.1), else with `tincd -K`.
    ///
    /// # Errors
    /// When that fails.
    pub fn new(name: &str, daemon: &Path, scratch: &Path) -> anyhow::Result<Tinc> {
        let keys = scratch.join(name.replace(|byte: char| !byte.is_ascii_alphanumeric(), "-"));
        let tool = beside(daemon, "tinc").filter(|tool| tool.parent() == daemon.parent());
        for number in 0..MACHINES {
            let home = keys.join(format!("n{number}"));
            if let Some(tool) = &tool {
                fs::create_dir_all(&keys)?;
                run(tool, arguments!["-c", &home, "--batch", "init", &format!("n{number}")])?;
            } else {
                fs::create_dir_all(home.join("hosts"))?;
                fs::write(home.join("tinc.conf"), format!("Name = n{number}\n"))?;
                run(daemon, arguments!["-c", &home, "-K2048"])?;
            }
        }
        let is_new = tool.is_some();
        Ok(Tinc { name: name.to_owned(), daemon: daemon.to_owned(), keys, is_new, cipher: None })
    }

    /// The same with AES-256-GCM, which tincr has as an option (`SPTPSCipher` in both host files).
    #[must_use]
    pub fn with_aes(self) -> Tinc {
        Tinc { cipher: Some(("SPTPSCipher = aes-256-gcm\n", "AES-256-GCM by its configuration")), ..self }
    }

    fn write_home(&self, rig: &Rig, number: usize) -> anyhow::Result<PathBuf> {
        let home = rig.directory().join(format!("tinc-{number}"));
        let keys = self.keys.join(format!("n{number}"));
        copy_tree(&keys, &home)?;
        // Neighbours connect to each other, so that none waits for a retry. Nodes without a way to each other say so,
        // which makes the relay take their packets by UDP: tinc's own way to relay at its best.
        let mut config = format!(
            "Name = n{number}\nDeviceType = tun\nInterface = {INTERFACE}\nAddressFamily = ipv4\nMode = router\n"
        );
        for other in rig.neighbours(number) {
            let _ = writeln!(config, "ConnectTo = n{other}");
        }
        fs::write(home.join("tinc.conf"), config)?;
        for other in 0..rig.machines().len() {
            let public = fs::read_to_string(self.keys.join(format!("n{other}/hosts/n{other}")))?;
            let mut host = format!("Subnet = {}/32\n", overlay(other));
            if rig.neighbours(number).contains(&other) {
                let _ = writeln!(host, "Address = {}", rig.address_towards(other, number));
            }
            host.push_str(self.cipher.map_or("", |(line, _)| line));
            if rig.shape().relays > 0 && !rig.shape().switched && !rig.is_relay(other) {
                host.push_str("IndirectData = yes\n");
            }
            fs::write(home.join(format!("hosts/n{other}")), host + &public)?;
        }
        let mtu = rig.shape().underlay_mtu.max(1600) - 100;
        let up = format!(
            "#!/bin/sh\nip addr add {}/24 dev $INTERFACE\nip link set $INTERFACE mtu {mtu} up\n",
            overlay(number)
        );
        let script = home.join("tinc-up");
        fs::write(&script, up)?;
        fs::set_permissions(&script, fs::Permissions::from_mode(0o755))?;
        Ok(home)
    }
}

impl System for Tinc {
    fn name(&self) -> &str {
        &self.name
    }

    fn description(&self) -> String {
        facts::output(&self.daemon.to_string_lossy(), &["--version"]).unwrap_or_else(|| "tinc".to_owned())
            + ", "
            + self.cipher.map_or("its default ciphers", |(_, name)| name)
    }

    /// SPTPS, the protocol of 1.1, has no other; 1.0 has none of the kind.
    fn is_chacha(&self) -> bool {
        self.is_new && self.cipher.is_none()
    }

    fn can(&self, _: Shape) -> bool {
        true
    }

    /// Until it knows the path's MTU, it sends what is longer than it has tried over TCP.
    fn warm_up(&self) -> Duration {
        Duration::from_secs(if self.is_new { 5 } else { 2 })
    }

    fn start(&self, rig: &Rig) -> anyhow::Result<Running> {
        let homes = (0..rig.machines().len())
            .map(|number| self.write_home(rig, number))
            .collect::<anyhow::Result<Vec<_>>>()?;
        let started = Instant::now();
        let mut processes = Vec::new();
        for (machine, home) in rig.machines().iter().zip(&homes) {
            let mut command = Command::new(&self.daemon);
            command.arg("-c").arg(home).arg("-D").arg(format!("--pidfile={}/pid", home.display()));
            processes.push(machine.spawn(command)?);
        }
        Ok(Running::processes(rig, started, processes))
    }
}

/// Copies a directory; there are only files and directories in it.
fn copy_tree(from: &Path, to: &Path) -> anyhow::Result<()> {
    fs::create_dir_all(to)?;
    for entry in fs::read_dir(from).with_context(|| from.display().to_string())? {
        let entry = entry?;
        let target = to.join(entry.file_name());
        if entry.file_type()?.is_dir() {
            copy_tree(&entry.path(), &target)?;
        } else {
            fs::copy(entry.path(), target)?;
        }
    }
    Ok(())
}
