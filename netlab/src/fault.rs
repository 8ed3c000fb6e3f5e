//! What can be wrong with a cable.

use crate::machine::Machine;
use crate::{Error, Switch, tool};
use std::fmt::Write;
use std::net::IpAddr;
use std::process::Command;
use std::time::Duration;

/// One end of a cable: an interface of a machine, and the switch's port at the other end.
///
/// Faults are nftables rules at the ingress of both ends, so that the machine itself sees no error from its own
/// sends: a packet leaves, and does not arrive.
#[derive(Clone, Debug)]
pub struct Port {
    machine: Machine,
    interface: String,
    fabric: Machine,
    far: String,
}

/// The faults of a cable, all at once; the default is a sound one. ARP and neighbour discovery always pass, so that
/// a fault shows as silence and not as "host unreachable".
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Fault {
    /// Nothing passes either way.
    pub silent: bool,
    /// Nothing passes to these addresses from the machine.
    pub cut_to: Vec<IpAddr>,
    /// Nothing passes from these addresses to the machine.
    pub cut_from: Vec<IpAddr>,
    /// So many of a thousand packets leaving the machine are lost.
    pub loss_out_permille: u16,
    /// So many of a thousand packets coming to the machine are lost.
    pub loss_in_permille: u16,
    /// Longer IP packets than this vanish without a message, both ways (a path MTU black hole).
    pub swallow_longer_than_bytes: Option<u32>,
}

impl Port {
    pub(crate) fn new(machine: Machine, interface: String, fabric: Machine, far: String) -> Port {
        Port { machine, interface, fabric, far }
    }

    /// The machine's interface.
    pub fn interface(&self) -> &str {
        &self.interface
    }

    /// Puts these faults in the place of those there were.
    ///
    /// # Errors
    /// A failed command.
    pub fn apply(&self, fault: &Fault) -> Result<(), Error> {
        if fault.swallow_longer_than_bytes.is_some() {
            self.send_segments_apart()?;
        }
        self.fabric.nft(&rules(&self.far, fault, &fault.cut_to, "daddr", fault.loss_out_permille))?;
        self.machine.nft(&rules(&self.interface, fault, &fault.cut_from, "saddr", fault.loss_in_permille))?;
        Ok(())
    }

    /// Has both ends of the cable send UDP datagrams one by one: else a segmented send passes as one long packet, whose
    /// length says nothing about that of the datagrams.
    fn send_segments_apart(&self) -> Result<(), Error> {
        for (end, interface) in [(&self.machine, &self.interface), (&self.fabric, &self.far)] {
            let mut ethtool = Command::new("ethtool");
            ethtool.args(["--features", interface, "tx-udp-segmentation", "off"]);
            end.run(ethtool, Duration::from_secs(5))?.stdout()?;
        }
        Ok(())
    }

    /// Lets nothing pass either way, without a message to anyone.
    ///
    /// # Errors
    /// A failed command.
    pub fn silence(&self) -> Result<(), Error> {
        self.apply(&Fault { silent: true, ..Fault::default() })
    }

    /// Takes all faults away.
    ///
    /// # Errors
    /// A failed command.
    pub fn heal(&self) -> Result<(), Error> {
        self.apply(&Fault::default())
    }

    /// Limits what the machine sends: `20mbit` and the like (tc-tbf(8)). `None` lifts the limit.
    ///
    /// # Errors
    /// A failed command.
    pub fn limit_rate(&self, rate: Option<&str>) -> Result<(), Error> {
        let (namespace, interface) = (self.machine.namespace(), &self.interface);
        // Deleting fails when there is nothing to delete: replace by the default first.
        tool::run("tc", &["-n", namespace, "qdisc", "replace", "dev", interface, "root", "pfifo"], None)?;
        let Some(rate) = rate else {
            return tool::run("tc", &["-n", namespace, "qdisc", "del", "dev", interface, "root"], None)
                .map(drop);
        };
        let shape = ["-n", namespace, "qdisc", "replace", "dev", interface, "root", "tbf"];
        let limits = ["rate", rate, "burst", "64kb", "latency", "50ms"];
        tool::run("tc", &[shape.as_slice(), limits.as_slice()].concat(), None).map(drop)
    }

    /// Takes the machine's interface down or up. The kernel forgets routes over an interface that goes down.
    ///
    /// # Errors
    /// A failed command.
    pub fn set_up(&self, up: bool) -> Result<(), Error> {
        let state = if up { "up" } else { "down" };
        self.machine.ip(&format!("link set {} {state}", self.interface)).map(drop)
    }

    /// Pulls the cable out of the switch, or puts it back: the machine's interface loses its carrier and keeps its
    /// addresses and routes.
    ///
    /// # Errors
    /// A failed command.
    pub fn set_carrier(&self, plugged: bool) -> Result<(), Error> {
        let state = if plugged { "up" } else { "down" };
        self.fabric.ip(&format!("link set {} {state}", self.far)).map(drop)
    }

    /// Plugs the cable into another switch.
    ///
    /// # Errors
    /// A failed command.
    pub fn move_to(&self, switch: &Switch) -> Result<(), Error> {
        self.fabric.ip(&format!("link set {} master {}", self.far, switch.bridge)).map(drop)
    }

    /// Sets the MTU at both ends of the cable.
    ///
    /// # Errors
    /// A failed command.
    pub fn set_mtu(&self, bytes: u32) -> Result<(), Error> {
        self.machine.ip(&format!("link set {} mtu {bytes}", self.interface))?;
        self.fabric.ip(&format!("link set {} mtu {bytes}", self.far)).map(drop)
    }

    /// Gives the interface one address more (`ADDRESS/LENGTH`).
    ///
    /// # Errors
    /// A failed command.
    pub fn add_address(&self, address: &str) -> Result<(), Error> {
        let nodad = if address.contains(':') { " nodad" } else { "" };
        self.machine.ip(&format!("addr add {address} dev {}{nodad}", self.interface)).map(drop)
    }

    /// Takes an address (`ADDRESS/LENGTH`) from the interface.
    ///
    /// # Errors
    /// A failed command.
    pub fn remove_address(&self, address: &str) -> Result<(), Error> {
        self.machine.ip(&format!("addr del {address} dev {}", self.interface)).map(drop)
    }
}

/// The nftables script for one end: replaces the table of this interface as a whole, atomically.
fn rules(interface: &str, fault: &Fault, cuts: &[IpAddr], field: &str, loss_permille: u16) -> String {
    let table = format!("netdev fault_{interface}");
    let mut text = format!("add table {table}\ndelete table {table}\n");
    if *fault == Fault::default() {
        return text;
    }
    let _ = writeln!(text, "table {table} {{ chain ingress {{");
    let _ = writeln!(text, "type filter hook ingress device \"{interface}\" priority 0; policy accept;");
    text.push_str("meta protocol arp accept\n");
    text.push_str("icmpv6 type { nd-neighbor-solicit, nd-neighbor-advert, nd-router-solicit, nd-router-advert } accept\n");
    if fault.silent {
        text.push_str("drop\n");
    }
    for address in cuts {
        let family = if address.is_ipv4() { "ip" } else { "ip6" };
        let _ = writeln!(text, "{family} {field} {address} drop");
    }
    if loss_permille > 0 {
        let _ = writeln!(text, "numgen random mod 1000 < {loss_permille} drop");
    }
    if let Some(bytes) = fault.swallow_longer_than_bytes {
        let _ = writeln!(text, "meta length > {bytes} drop");
    }
    text.push_str("}\n}\n");
    text
}
