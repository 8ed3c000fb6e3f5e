//! Meshes of real `meshd` daemons in network namespaces, for the scenarios under `tests/`.
//!
//! Underlay addresses come from the documentation ranges; every scenario has a [`Lab`] of its own. Failed commands
//! end a scenario with their message, so the helpers here panic where a test would.

mod figures;
mod goodput;
mod grid;
mod iperf;
mod noise;
mod office;
mod proxy;
mod transfer;
mod trials;

pub use figures::{figure, limit};
pub use goodput::goodput;
pub use grid::{BYSTANDERS, Flows, Grid, PAIRS, Pair, ROUGH, Tally};
pub use iperf::{Throughput, iperf, iperf_at};
pub use office::Office;
pub use proxy::{PASSWORD, TestProxy, USER};
pub use transfer::{Transferred, transfer, transfer_during};
pub use trials::{Cost, Costs, timed, trials};

use netlab::flow::{Flow, FlowShape};
use netlab::mesh::Member;
use netlab::{Lab, Machine, Switch, WireShape};
use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::time::Duration;

/// The mesh's name in all scenarios.
pub const MESH: &str = "lab";

/// The port `meshd` listens on by default.
pub const PORT: u16 = 4655;

/// Long enough for anything that is not measured.
pub const SETTLE: Duration = Duration::from_secs(20);

/// The `meshd` under test.
///
/// # Panics
/// When it has not been built.
pub fn meshd() -> PathBuf {
    netlab::mesh::binary().unwrap_or_else(|error| panic!("{error}"))
}

/// No link-local addresses on what is plugged in from now on: paths are over the addresses that a test gives, cuts, counts, and
/// knows the size of.
///
/// # Panics
/// When the kernel has no IPv6.
pub fn without_link_local(machine: &Machine) {
    done(machine.sysctl("net.ipv6.conf.default.addr_gen_mode", "1"));
}

/// Starts a mesh on a machine: `init` with these arguments, then the daemon.
///
/// # Panics
/// When that fails.
pub fn found(machine: &Machine, arguments: &[&str]) -> Member {
    let mut member = Member::new(machine, &meshd());
    let init = [&["init", "--mesh", MESH, "--name", machine.name()], arguments].concat();
    done(member.ok(&init));
    done(member.up());
    member
}

/// Lets a machine join: an invitation from `inviter` with the first arguments, `join` with the second, then the daemon.
///
/// # Panics
/// When that fails.
pub fn admit(inviter: &Member, machine: &Machine, invite: &[&str], join: &[&str]) -> Member {
    let mut member = enlist(inviter, machine, invite, join);
    done(member.up());
    member
}

/// [`admit`] without starting the daemon.
///
/// # Panics
/// When that fails.
pub fn enlist(inviter: &Member, machine: &Machine, invite: &[&str], join: &[&str]) -> Member {
    let member = Member::new(machine, &meshd());
    let url = done(inviter.invite(machine.name(), invite));
    done(member.ok(&[&["join", url.as_str()], join].concat()));
    member
}

/// Starts a member's daemon again with these lines in its configuration, instead of what an earlier call gave it.
///
/// # Panics
/// When that fails.
pub fn restart_with(member: &mut Member, configuration: &str) {
    const END: &str = "# end of what the scenario says\n";
    done(member.terminate(Duration::from_secs(5)));
    let file = member.state().join("meshd.toml");
    let before = done(std::fs::read_to_string(&file));
    let own = before.split_once(END).map_or(&*before, |(_, own)| own);
    done(std::fs::write(&file, format!("{configuration}\n{END}{own}")));
    done(member.up());
}

/// A member's overlay IPv4 address.
///
/// # Panics
/// When the daemon does not tell.
pub fn overlay(member: &Member) -> IpAddr {
    done(member.address(false))
}

/// A numbered flow from one member to another over the overlay.
///
/// # Panics
/// When a socket cannot be made.
pub fn flow(from: &Member, to: &Member, rate_pps: u32) -> Flow {
    let target = SocketAddr::new(overlay(to), 0);
    done(Flow::start(from.machine(), to.machine(), target, FlowShape { rate_pps, payload_bytes: 200 }))
}

/// Waits until a flow has had nothing but arrivals for a while: `packets` more came, without a silence in between.
///
/// # Panics
/// When it does not get there within [`SETTLE`].
pub fn wait_for_arrivals(flow: &Flow, packets: u64) {
    let before = flow.progress().received;
    done(netlab::wait::until("packets of the flow", SETTLE, || {
        let progress = flow.progress();
        if progress.received >= before + packets { Ok(()) } else { Err(format!("{progress:?}")) }
    }));
}

/// Lets a flow send `packets` more, whether they arrive or not.
///
/// # Panics
/// When the sender stands still.
pub fn let_send(flow: &Flow, packets: u64) {
    let before = flow.progress().sent;
    done(netlab::wait::until_true("the flow to send", Duration::from_secs(60), || {
        flow.progress().sent >= before + packets
    }));
}

/// Waits until every member can ping every other over the overlay.
///
/// # Panics
/// When some pair cannot within [`SETTLE`].
pub fn wait_for_all_pairs(members: &[&Member]) {
    for from in members {
        for to in members.iter().filter(|to| to.machine().name() != from.machine().name()) {
            done(from.wait_for_ping(overlay(to), SETTLE));
        }
    }
}

/// The value, or the end of the scenario with the error's message.
///
/// # Panics
/// On an error.
#[track_caller]
pub fn done<T, E: std::fmt::Display>(result: Result<T, E>) -> T {
    match result {
        Ok(value) => value,
        Err(error) => panic!("{error}"),
    }
}

/// Two networks without a way between them, each with a node, and relays that stand in both:
/// `a` (192.0.2.1) and `b` (198.51.100.1); relay number n has .100+n in both.
#[derive(Debug)]
pub struct Split {
    /// The lab.
    pub lab: Lab,
    /// The network of `a`.
    pub left: Switch,
    /// The network of `b`.
    pub right: Switch,
    /// The relays. The first founded the mesh.
    pub relays: Vec<Member>,
    /// The node on the left.
    pub a: Member,
    /// The node on the right.
    pub b: Member,
    /// The relays' ports, left and right.
    pub relay_ports: Vec<[netlab::Port; 2]>,
}

impl Split {
    /// Builds it with so many relays and waits until everyone reaches everyone.
    ///
    /// # Panics
    /// When it cannot be built.
    pub fn new(relay_count: usize) -> Split {
        Split::with_delays(&vec![Duration::ZERO; relay_count])
    }

    /// As [`Split::new`], with one relay per delay, which is that of each of its cables one way.
    ///
    /// # Panics
    /// When it cannot be built.
    pub fn with_delays(delays: &[Duration]) -> Split {
        let split = Split::quiet(delays);
        let mut members = vec![&split.a, &split.b];
        members.extend(&split.relays);
        wait_for_all_pairs(&members);
        split
    }

    /// Builds it, and lets nobody send anything over the overlay yet.
    ///
    /// # Panics
    /// When it cannot be built.
    pub fn quiet(delays: &[Duration]) -> Split {
        let lab = done(Lab::new());
        let (left, right) = (done(lab.switch("left")), done(lab.switch("right")));
        let mut relays: Vec<Member> = Vec::new();
        let mut relay_ports = Vec::new();
        for (number, delay) in delays.iter().enumerate() {
            let machine = done(lab.machine(&format!("r{}", number + 1)));
            let (at_left, at_right) =
                (format!("192.0.2.{}", 101 + number), format!("198.51.100.{}", 101 + number));
            let plug = |switch: &Switch, address: &str| match *delay {
                Duration::ZERO => done(machine.plug(switch, &[&format!("{address}/24")])),
                delay => {
                    let shape = WireShape { delay, ..WireShape::default() };
                    done(machine.plug_by_wire(switch, &[&format!("{address}/24")], shape))
                }
            };
            let ports = [plug(&left, &at_left), plug(&right, &at_right)];
            let endpoints = [format!("{at_left}:{PORT}"), format!("{at_right}:{PORT}")];
            let offer = ["--relay", "--endpoint", &endpoints[0], "--endpoint", &endpoints[1]];
            let member = match relays.first() {
                None => found(&machine, &offer),
                Some(founder) => admit(founder, &machine, &["--role", "relay"], &offer),
            };
            relays.push(member);
            relay_ports.push(ports);
        }
        let node = |name: &str, switch: &Switch, address: &str| {
            let machine = done(lab.machine(name));
            done(machine.plug(switch, &[address]));
            admit(&relays[0], &machine, &[], &[])
        };
        let a = node("a", &left, "192.0.2.1/24");
        let b = node("b", &right, "198.51.100.1/24");
        Split { lab, left, right, relays, a, b, relay_ports }
    }

    /// The number of the relay that `a` uses towards `b` now.
    ///
    /// # Panics
    /// When there is no relayed path.
    pub fn relay_in_use(&self) -> usize {
        let path = done(self.a.wait_for_path("b", SETTLE, |path| path.is_relayed() && !path.via.is_empty()));
        let name = &path.via[0];
        let position = self.relays.iter().position(|relay| relay.machine().name() == name);
        position.unwrap_or_else(|| panic!("{name} is no relay of this lab"))
    }
}

/// One LAN with so many nodes (`n1`... at 192.0.2.1...), and a relay outside that founded the mesh, behind a router.
#[derive(Debug)]
pub struct Lan {
    /// The lab.
    pub lab: Lab,
    /// The LAN's switch.
    pub switch: Switch,
    /// The nodes on the LAN.
    pub nodes: Vec<Member>,
    /// Their ports.
    pub ports: Vec<netlab::Port>,
    /// The relay, at 203.0.113.1.
    pub relay: Member,
    /// The router's port to the outside.
    pub uplink: netlab::Port,
}

impl Lan {
    /// Builds it and waits until everyone reaches everyone, and the nodes of the LAN do so directly.
    ///
    /// # Panics
    /// When it cannot be built.
    pub fn new(node_count: usize) -> Lan {
        let lab = done(Lab::new());
        let (switch, internet) = (done(lab.switch("lan")), done(lab.switch("internet")));
        let router = done(lab.router("router"));
        done(router.plug(&switch, &["192.0.2.254/24"]));
        let uplink = done(router.plug(&internet, &["203.0.113.254/24"]));
        let outside = done(lab.machine("relay"));
        done(outside.plug(&internet, &["203.0.113.1/24"]));
        done(outside.default_route("203.0.113.254"));
        let relay = found(&outside, &["--relay", "--endpoint", &format!("203.0.113.1:{PORT}")]);
        let (mut nodes, mut ports) = (Vec::new(), Vec::new());
        for number in 1..=node_count {
            let machine = done(lab.machine(&format!("n{number}")));
            without_link_local(&machine);
            ports.push(done(machine.plug(&switch, &[&format!("192.0.2.{number}/24")])));
            done(machine.default_route("192.0.2.254"));
            nodes.push(admit(&relay, &machine, &[], &[]));
        }
        let lan = Lan { lab, switch, nodes, ports, relay, uplink };
        lan.wait_until_direct();
        lan
    }

    fn wait_until_direct(&self) {
        let mut members = vec![&self.relay];
        members.extend(&self.nodes);
        wait_for_all_pairs(&members);
        for from in &self.nodes {
            for to in self.nodes.iter().filter(|to| to.machine().name() != from.machine().name()) {
                done(from.wait_for_path(to.machine().name(), SETTLE, netlab::mesh::PathStatus::is_direct));
            }
        }
    }
}
