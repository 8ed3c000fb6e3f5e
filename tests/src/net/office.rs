//! A network whose hosts know nothing of the mesh, behind members.

use super::{PORT, done, enlist, found};
use netlab::mesh::Member;
use netlab::{Lab, Machine, Port, Switch};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::process::Command;
use std::time::Duration;

/// A client on the internet (203.0.113.1; it founded the mesh and relays), gateways from there to an office (203.0.113.11
/// and on; there 192.168.7.1 and on), and a host in the office that is no member (192.168.7.80).
#[derive(Debug)]
pub struct Office {
    /// The lab.
    pub lab: Lab,
    /// What the client and the gateways stand in.
    pub internet: Switch,
    /// Who uses the office from outside.
    pub client: Member,
    /// The gateways, `gateway1`... Each offers both of the office's networks.
    pub gateways: Vec<Member>,
    /// Their ports in the office.
    pub gateway_ports: Vec<Port>,
    /// The host. Its packets leave by the first gateway.
    pub host: Machine,
    /// Its port.
    pub host_port: Port,
}

impl Office {
    /// The office's networks, of both families.
    pub const SUBNETS: [&str; 2] = ["192.168.7.0/24", "2001:db8:7::/64"];
    /// The host's addresses, of both families.
    pub const HOST: [IpAddr; 2] = [
        IpAddr::V4(Ipv4Addr::new(192, 168, 7, 80)),
        IpAddr::V6(Ipv6Addr::new(0x2001, 0xdb8, 7, 0, 0, 0, 0, 0x80)),
    ];

    /// Builds it with so many gateways, which are up, and waits for nothing.
    ///
    /// # Panics
    /// When it cannot be built.
    pub fn new(gateway_count: usize) -> Office {
        let lab = done(Lab::new());
        let (internet, office) = (done(lab.switch("internet")), done(lab.switch("office")));
        let client = done(lab.machine("client"));
        done(client.plug(&internet, &["203.0.113.1/24"]));
        let client = found(&client, &["--relay", "--endpoint", &format!("203.0.113.1:{PORT}")]);
        let (mut gateways, mut gateway_ports) = (Vec::new(), Vec::new());
        for number in 1..=gateway_count {
            let machine = done(lab.router(&format!("gateway{number}")));
            done(machine.plug(&internet, &[&format!("203.0.113.{}/24", 10 + number)]));
            let inside = [format!("192.168.7.{number}/24"), format!("2001:db8:7::{number}/64")];
            gateway_ports.push(done(machine.plug(&office, &inside.each_ref().map(String::as_str))));
            let allowed = Office::SUBNETS.map(|subnet| ["--subnet", subnet]);
            let mut gateway = enlist(&client, &machine, allowed.as_flattened(), &[]);
            done(std::fs::write(gateway.state().join("meshd.toml"), Office::offer()));
            done(gateway.up());
            gateways.push(gateway);
        }
        let host = done(lab.machine("host"));
        let host_port = done(host.plug(&office, &["192.168.7.80/24", "2001:db8:7::80/64"]));
        done(host.default_route("192.168.7.1"));
        done(host.ip("-6 route add default via 2001:db8:7::1"));
        Office { lab, internet, client, gateways, gateway_ports, host, host_port }
    }

    /// What a gateway's configuration says.
    pub fn offer() -> String {
        let offer = Office::SUBNETS.map(|prefix| format!("{{ prefix = \"{prefix}\", weight = 5 }}"));
        format!("subnets = [{}]\n", offer.join(", "))
    }

    /// Lets the links in the office take nothing over: the kernels of the gateways and of the host have to compute each
    /// checksum, to cut what is too long, and to check what arrives.
    ///
    /// # Panics
    /// When ethtool(8) cannot turn it off.
    pub fn take_nothing_over(&self) {
        let gateways = self.gateways.iter().map(Member::machine).zip(&self.gateway_ports);
        for (machine, port) in gateways.chain([(&self.host, &self.host_port)]) {
            let mut ethtool = Command::new("ethtool");
            ethtool.args(["--offload", port.interface(), "tx", "off"]);
            let finished = done(machine.run(ethtool, Duration::from_secs(5)));
            assert!(finished.success(), "{finished:?}");
        }
    }
}
