//! The network under a benchmark: machines in a row, joined by veth cables, without a way past the neighbour; or
//! machines around one switch.

use anyhow::Context;
use netlab::{Lab, Machine, Port};
use std::net::{IpAddr, Ipv4Addr};

/// Networks of the cables, in a row (RFC 5737); the first is also that of the switch.
const CABLES: [[u8; 3]; 3] = [[192, 0, 2], [198, 51, 100], [203, 0, 113]];

/// What a rig looks like.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub struct Shape {
    /// Relays between the first and the last machine: 0 to 2.
    pub relays: usize,
    /// Peers of the last machine on one switch with it; 0 for machines in a row.
    pub spokes: usize,
    /// All machines are on one switch, and every two could talk without another between them.
    pub switched: bool,
    /// MTU of the cables, in bytes.
    pub underlay_mtu: u32,
}

impl Shape {
    /// Two machines on one cable with an MTU of 1500.
    pub const DIRECT: Shape = Shape { relays: 0, spokes: 0, switched: false, underlay_mtu: 1500 };
}

/// Machines in a row, the interface towards the next machine called `right`, towards the one before `left`. Or
/// [`Shape::spokes`] machines and then the one in their middle, all on one switch.
#[derive(Debug)]
pub struct Rig {
    machines: Vec<Machine>,
    shape: Shape,
    ports: Vec<Port>,
    // Dropped last: takes the namespaces down.
    lab: Lab,
}

impl Rig {
    /// Builds it.
    ///
    /// # Errors
    /// Without the right to make namespaces, or when a command fails.
    pub fn new(shape: Shape) -> anyhow::Result<Rig> {
        let lab = Lab::new()?;
        let count = shape.machines();
        let machines =
            (0..count).map(|number| lab.machine(&format!("n{number}"))).collect::<Result<Vec<_>, _>>()?;
        let mut rig = Rig { machines, shape, ports: Vec::new(), lab };
        if shape.on_one_switch() {
            let switch = rig.lab.switch("lan")?;
            for (number, machine) in rig.machines.clone().iter().enumerate() {
                rig.ports.push(machine.plug(&switch, &[&format!("{}/24", on_switch(number))])?);
            }
            return Ok(rig);
        }
        for cable in 0..count - 1 {
            rig.join(cable).with_context(|| format!("joining machines {cable} and {}", cable + 1))?;
        }
        Ok(rig)
    }

    /// What it looks like.
    pub fn shape(&self) -> Shape {
        self.shape
    }

    /// The machines' ports, where they are on one switch.
    pub fn ports(&self) -> &[Port] {
        &self.ports
    }

    /// The machines in a row.
    pub fn machines(&self) -> &[Machine] {
        &self.machines
    }

    /// The machine that traffic starts at.
    pub fn first(&self) -> &Machine {
        &self.machines[0]
    }

    /// The machine that traffic goes to.
    pub fn last(&self) -> &Machine {
        &self.machines[self.machines.len() - 1]
    }

    /// The machines that traffic starts at: the first, or all spokes.
    pub fn senders(&self) -> &[Machine] {
        &self.machines[..self.shape.spokes.max(1)]
    }

    /// Whether this machine stands between two others.
    pub fn is_relay(&self, machine: usize) -> bool {
        self.shape.spokes == 0 && machine > 0 && machine + 1 < self.machines.len()
    }

    /// The machines that this one exchanges traffic with, without another between them.
    pub fn neighbours(&self, machine: usize) -> Vec<usize> {
        let last = self.machines.len() - 1;
        match self.shape.spokes {
            _ if self.shape.switched => (0..=last).filter(|other| *other != machine).collect(),
            0 => (0..=last).filter(|other| other.abs_diff(machine) == 1).collect(),
            _ if machine == last => (0..last).collect(),
            _ => vec![last],
        }
    }

    /// The underlay addresses of a machine, towards the machine before and then towards the next.
    pub fn addresses(&self, machine: usize) -> Vec<Ipv4Addr> {
        if self.shape.on_one_switch() {
            return vec![on_switch(machine)];
        }
        let before = machine.checked_sub(1).map(|cable| at(cable, 2));
        let next = (machine + 1 < self.machines.len()).then(|| at(machine, 1));
        before.into_iter().chain(next).collect()
    }

    /// The address at which machine `to` reaches its neighbour `of`.
    ///
    /// # Panics
    /// When they are no neighbours.
    pub fn address_towards(&self, of: usize, to: usize) -> Ipv4Addr {
        assert!(self.neighbours(to).contains(&of), "neighbours");
        if self.shape.on_one_switch() {
            return on_switch(of);
        }
        if of < to { at(of, 1) } else { at(to, 2) }
    }

    /// The underlay address of the last machine.
    pub fn last_address(&self) -> IpAddr {
        self.address_towards(self.machines.len() - 1, self.machines.len() - 2).into()
    }

    /// A directory for files of this rig; gone with it.
    pub fn directory(&self) -> &std::path::Path {
        self.lab.directory()
    }

    /// Loses so many of a thousand packets on the way from the first machine, and only there. Super-packets are cut
    /// by the kernel before the cable, so that a loss is one packet of the wire's size for everyone.
    ///
    /// # Errors
    /// A failed command.
    pub fn lose(&self, permille: u16) -> anyhow::Result<()> {
        let segments = if permille == 0 { 65_535 } else { 1 };
        for machine in [self.first(), &self.machines[1]] {
            let interface = if machine.name() == self.first().name() { "right" } else { "left" };
            machine.ip(&format!("link set {interface} gso_max_segs {segments}"))?;
        }
        let rule = if permille == 0 {
            String::new()
        } else {
            format!(
                "table netdev loss {{ chain ingress {{ type filter hook ingress device \"left\" priority 0; \
                 numgen random mod 1000 < {permille} drop\n }}\n }}\n"
            )
        };
        self.machines[1].nft(&format!("add table netdev loss\ndelete table netdev loss\n{rule}"))?;
        Ok(())
    }

    fn join(&self, cable: usize) -> anyhow::Result<()> {
        let (near, far) = (&self.machines[cable], &self.machines[cable + 1]);
        let mtu = self.shape.underlay_mtu;
        near.ip(&format!(
            "link add right mtu {mtu} type veth peer name left mtu {mtu} netns {}",
            far.namespace()
        ))?;
        for (machine, interface, host) in [(near, "right", 1), (far, "left", 2)] {
            // Who finds its neighbour by IPv6, too, has a second way on the same cable, which carries 20 bytes less.
            machine.sysctl(&format!("net.ipv6.conf.{interface}.disable_ipv6"), "1")?;
            machine.ip(&format!("addr add {}/24 dev {interface}", at(cable, host)))?;
            machine.ip(&format!("link set {interface} up"))?;
        }
        Ok(())
    }
}

impl Shape {
    fn on_one_switch(self) -> bool {
        self.switched || self.spokes > 0
    }

    /// How many machines it has.
    pub fn machines(self) -> usize {
        if self.spokes > 0 { self.spokes + 1 } else { self.relays + 2 }
    }
}

/// The address of a machine on the switch.
pub(crate) fn on_switch(machine: usize) -> Ipv4Addr {
    at(0, machine as u8 + 1)
}

fn at(cable: usize, host: u8) -> Ipv4Addr {
    let [a, b, c] = CABLES[cable];
    Ipv4Addr::new(a, b, c, host)
}
