//! Nebula: certificates made once, static addresses, a lighthouse only where there is a relay.

use super::{INTERFACE, Running, System, arguments, beside, overlay, run};
use crate::facts;
use crate::rig::{Rig, Shape};
use anyhow::Context;
use std::fmt::Write;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Instant;

const PORT: u16 = 4242;

/// IPv4, UDP, Nebula's header and tag: what a packet grows by.
const OVERHEAD_BYTES: u32 = 60;

/// A relayed packet has a header and a tag more.
const RELAY_OVERHEAD_BYTES: u32 = 32;

/// Most machines of a rig.
const MACHINES: usize = 9;

/// A `nebula` program, with its nodes' certificates.
#[derive(Debug)]
pub struct Nebula {
    name: String,
    daemon: PathBuf,
    keys: PathBuf,
}

impl Nebula {
    /// Makes an authority and the nodes' certificates.
    ///
    /// # Errors
    /// Without `nebula-cert`, or when it fails.
    pub fn new(name: &str, daemon: &Path, scratch: &Path) -> anyhow::Result<Nebula> {
        let tool = beside(daemon, "nebula-cert").context("`nebula-cert` is not installed")?;
        let keys = scratch.join(name.replace(|byte: char| !byte.is_ascii_alphanumeric(), "-"));
        fs::create_dir_all(&keys)?;
        let file = |name: &str| keys.join(name);
        let (crt, key) = (file("ca.crt"), file("ca.key"));
        run(&tool, arguments!["ca", "-name", "bench", "-out-crt", &crt, "-out-key", &key])?;
        for number in 0..MACHINES {
            let (node, address) = (format!("n{number}"), format!("{}/24", overlay(number)));
            let (own_crt, own_key) = (file(&format!("{node}.crt")), file(&format!("{node}.key")));
            run(
                &tool,
                arguments![
                    "sign", "-ca-crt", &crt, "-ca-key", &key, "-name", &node, "-ip", &address, "-out-crt",
                    &own_crt, "-out-key", &own_key
                ],
            )?;
        }
        Ok(Nebula { name: name.to_owned(), daemon: daemon.to_owned(), keys })
    }

    fn config(&self, rig: &Rig, number: usize) -> String {
        let keys = self.keys.display();
        let relayed = if rig.shape().relays > 0 { RELAY_OVERHEAD_BYTES } else { 0 };
        let mtu = rig.shape().underlay_mtu - OVERHEAD_BYTES - relayed;
        let mut text = format!(
            "pki: {{ca: {keys}/ca.crt, cert: {keys}/n{number}.crt, key: {keys}/n{number}.key}}\n\
             listen: {{host: 0.0.0.0, port: {PORT}}}\n\
             tun: {{dev: {INTERFACE}, mtu: {mtu}}}\n\
             logging: {{level: error}}\n\
             firewall:\n  outbound: [{{port: any, proto: any, host: any}}]\n  \
             inbound: [{{port: any, proto: any, host: any}}]\n\
             static_host_map:\n"
        );
        for other in rig.neighbours(number) {
            let _ = writeln!(
                text,
                "  \"{}\": [\"{}:{PORT}\"]",
                overlay(other),
                rig.address_towards(other, number)
            );
        }
        let relays: Vec<String> = (0..rig.machines().len())
            .filter(|number| rig.is_relay(*number))
            .map(|number| format!("\"{}\"", overlay(number)))
            .collect();
        let relays = (!relays.is_empty()).then(|| relays.join(", "));
        match relays {
            None => text.push_str("lighthouse: {am_lighthouse: false, hosts: []}\n"),
            Some(_) if rig.is_relay(number) => {
                text.push_str(
                    "lighthouse: {am_lighthouse: true}\nrelay: {am_relay: true, use_relays: false}\n",
                );
            }
            Some(relays) => {
                let _ =
                    writeln!(text, "lighthouse: {{am_lighthouse: false, interval: 1, hosts: [{relays}]}}");
                let _ = writeln!(text, "relay: {{am_relay: false, use_relays: true, relays: [{relays}]}}");
            }
        }
        text
    }
}

impl System for Nebula {
    fn name(&self) -> &str {
        &self.name
    }

    fn description(&self) -> String {
        let version = facts::output(&self.daemon.to_string_lossy(), &["-version"]);
        format!("nebula {}, AES-256-GCM", version.unwrap_or_default().replace("Version: ", ""))
    }

    /// It relays once, over any of several relays.
    fn can(&self, shape: Shape) -> bool {
        shape.relays <= 1 || shape.switched
    }

    fn start(&self, rig: &Rig) -> anyhow::Result<Running> {
        let mut configs = Vec::new();
        for number in 0..rig.machines().len() {
            let path = rig.directory().join(format!("nebula-{number}.yml"));
            fs::write(&path, self.config(rig, number))?;
            configs.push(path);
        }
        let started = Instant::now();
        let mut processes = Vec::new();
        for (machine, config) in rig.machines().iter().zip(&configs) {
            let mut command = Command::new(&self.daemon);
            command.arg("-config").arg(config);
            processes.push(machine.spawn(command)?);
        }
        Ok(Running::processes(rig, started, processes))
    }
}
