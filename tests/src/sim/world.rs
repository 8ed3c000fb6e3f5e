//! The world: machines, the underlay between them, and the order of everything that happens.

use std::collections::{BTreeMap, VecDeque};
use std::hash::{DefaultHasher, Hasher};
use std::net::{IpAddr, SocketAddr};
use std::time::{Duration, Instant};

use memchr::memmem::Finder;
use meshnet::crypto::Secret;
use meshnet::membership::{AuthoritySecret, Founding, TrustChain, found};
use meshnet::node::{Node, Settings};
use meshnet::path::SocketId;
use meshnet::session::GateKey;
use meshnet::time::Now;
use proto::datagram::Kind;
use proto::frame::Frame;
use proto::id::{MemberId, Name};
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};

use super::checks::Checks;
use super::flow::{Flow, MARKER, Report, numbers};
use super::machine::{HEADERS, Machine, Output, START};
use super::net::{HostId, SiteId, Underlay};
use super::stream::Connection;

/// The UDP port of every node.
pub const PORT: u16 = 4655;

/// Lines of the trace that are kept for a failure's message.
const KEPT_LINES: usize = 60;

/// Things that wait to happen; more mean that something multiplies without bound.
const MAX_PENDING: usize = 200_000;

/// Times that a node may ask to be woken at one moment.
const MAX_WAKES: u32 = 1000;

/// A machine in the world.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct MachineId(pub usize);

/// A flow in the world.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct FlowId(pub usize);

pub(super) enum Happening {
    Datagram {
        to: HostId,
        from: SocketAddr,
        bytes: Vec<u8>,
        sent: Option<Origin>,
    },
    /// An ICMP error: nobody listens at `remote`.
    Refused {
        to: HostId,
        remote: SocketAddr,
    },
    /// An ICMP error: what was sent to `remote` was longer than the `mtu` bytes that pass.
    TooBig {
        to: HostId,
        remote: SocketAddr,
        mtu: usize,
    },
    /// A datagram that comes over a connection.
    Stream {
        to: MachineId,
        socket: SocketId,
        from: SocketAddr,
        bytes: Vec<u8>,
    },
    /// A connection was closed.
    Closed {
        to: MachineId,
        socket: SocketId,
        remote: SocketAddr,
    },
    /// Something that was said on a local network.
    Announcement {
        to: HostId,
        from: SocketAddr,
        bytes: Vec<u8>,
    },
    Wake(MachineId),
    Packet(FlowId),
}

/// Who sent a datagram, where to, and when: a host without daemon answers that with an ICMP error.
#[derive(Clone, Copy)]
pub(super) struct Origin {
    host: HostId,
    to: SocketAddr,
    at_us: u64,
}

/// A host sends another one ICMP errors at most this often (Linux: `net.ipv4.icmp_ratelimit`, without its burst).
const ICMP_EVERY_US: u64 = 1_000_000;

/// What an attacker in the middle of the underlay does with the datagrams that it sees.
#[derive(Clone, Copy, PartialEq, Debug, Default)]
pub struct Attacker {
    /// Share of datagrams that it repeats later, from their true source.
    pub replay: f64,
    /// Share of datagrams that it repeats with a bit turned over.
    pub alter: f64,
    /// Share of datagrams that it repeats from another source address.
    pub spoof: f64,
}

/// The world.
pub struct World {
    seed: u64,
    pub(super) now_us: u64,
    pub(super) rng: StdRng,
    /// The underlay; faults are made here.
    pub net: Underlay,
    pub(super) authority: AuthoritySecret,
    recovery: AuthoritySecret,
    pub(super) trust: TrustChain,
    pub(super) gate: GateKey,
    pub(super) machines: Vec<Machine>,
    pub(super) connections: Vec<Connection>,
    pub(super) next_port: u16,
    flows: Vec<Flow>,
    pending: BTreeMap<(u64, u64), Happening>,
    sequence: u64,
    refused_us: BTreeMap<(HostId, HostId), u64>,
    pub(super) wakes: Vec<(u64, u32)>,
    /// What is done to datagrams on their way.
    pub attacker: Attacker,
    marker: Finder<'static>,
    pub(super) checks: Checks,
    announcements: u64,
    announced: Vec<u8>,
    trace: DefaultHasher,
    lines: VecDeque<String>,
    print: Print,
    most_pending: usize,
    pub(super) metered: Vec<Metered>,
    metering: bool,
}

/// What a machine has done so far, as far as the control plane is concerned: there may be no flows.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub struct Metered {
    /// Bytes sent, with IPv4 and UDP headers.
    pub sent_bytes: u64,
    /// Bytes that arrived, with those headers.
    pub received_bytes: u64,
    /// Datagrams sent.
    pub sent: u64,
    /// Datagrams, timers, and others that it dealt with.
    pub events: u64,
    /// Time that it took a real processor to do so; none unless that is measured ([`World::meter_time`]).
    pub busy: Duration,
}

/// What is printed while it happens.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Print {
    Nothing,
    Notes,
    Datagrams,
}

impl World {
    /// A world without sites. Everything random in it comes from `seed`.
    pub fn new(seed: u64) -> World {
        let mut rng = StdRng::seed_from_u64(seed);
        let authority = AuthoritySecret::generate(&mut rng);
        let recovery = AuthoritySecret::generate(&mut rng);
        let founding = Founding {
            name: Name::new("simulated").expect("a name"),
            recovery: recovery.public(),
            network4: Some("10.99.0.0/16".parse().expect("a network")),
            created_s: START.seconds(),
        };
        World {
            seed,
            now_us: 0,
            net: Underlay::new(rng.random()),
            trust: found(founding, &[&authority], 1).expect("one root and its threshold"),
            authority,
            recovery,
            gate: Secret::random(&mut rng),
            rng,
            machines: Vec::new(),
            connections: Vec::new(),
            next_port: 40_000,
            flows: Vec::new(),
            pending: BTreeMap::new(),
            sequence: 0,
            refused_us: BTreeMap::new(),
            wakes: Vec::new(),
            attacker: Attacker::default(),
            marker: Finder::new(MARKER),
            checks: Checks::default(),
            announcements: 0,
            announced: Vec::new(),
            trace: DefaultHasher::new(),
            lines: VecDeque::new(),
            most_pending: MAX_PENDING,
            metered: Vec::new(),
            metering: false,
            print: match std::env::var("MESHNET_SIM_TRACE").as_deref() {
                Ok("datagrams") => Print::Datagrams,
                Ok(_) => Print::Notes,
                Err(_) => Print::Nothing,
            },
        }
    }

    /// Makes room for some thousands of machines, which save no caches: one is as large as the mesh.
    pub fn large(&mut self) {
        self.most_pending = 100 * MAX_PENDING;
    }

    /// Measures from now on how much of a processor's time each machine takes. That differs from run to run, and nothing
    /// in the world depends on it.
    pub fn meter_time(&mut self) {
        self.metering = true;
    }

    /// Counts from now on what it is that arrives at each machine.
    pub fn meter_kinds(&mut self) {
        self.machines.iter_mut().for_each(|machine| machine.kinds = Some(BTreeMap::new()));
    }

    /// Bytes that arrived at some machines, by what they were, most first.
    pub fn kinds(&self, of: &[MachineId]) -> Vec<(String, u64)> {
        let mut sum: BTreeMap<String, u64> = BTreeMap::new();
        for (kind, bytes) in of.iter().filter_map(|id| self.machines[id.0].kinds.as_ref()).flatten() {
            *sum.entry(kind.clone()).or_default() += bytes;
        }
        let mut sum: Vec<(String, u64)> = sum.into_iter().collect();
        sum.sort_by_key(|(_, bytes)| std::cmp::Reverse(*bytes));
        sum
    }

    /// What each machine has done so far.
    pub fn metered(&self) -> Vec<Metered> {
        self.metered.clone()
    }

    /// Starts a machine's daemon with what it has on disk.
    pub fn start(&mut self, id: MachineId) {
        self.note(id, "starts");
        let seed = self.rng.random();
        let now_us = self.now_us;
        self.act(id, |machine| machine.start(now_us, seed));
    }

    /// Gives a machine what a join at `inviter` gives, and starts its daemon.
    pub fn join(&mut self, id: MachineId, inviter: MachineId) {
        let inviter = self.machines[inviter.0].node().expect("the inviter runs");
        self.machines[id.0].disk.cache = inviter.export_cache();
        self.start(id);
    }

    /// Asks something of a machine's node, as its owner would over the control socket.
    pub fn ask<T>(&mut self, id: MachineId, ask: impl FnOnce(&mut Node, Now) -> T) -> T {
        let now_us = self.now_us;
        let mut answer = None;
        self.act(id, |machine| {
            let (value, outputs) = machine.ask(now_us, ask);
            answer = Some(value);
            outputs
        });
        answer.expect("it was asked")
    }

    /// Gives a machine other settings, and tells its daemon.
    pub fn reconfigure(&mut self, id: MachineId, settings: Settings) {
        let now_us = self.now_us;
        self.act(id, |machine| machine.reconfigure(now_us, settings));
    }

    /// The mesh's authority.
    pub fn authority(&self) -> &AuthoritySecret {
        &self.authority
    }

    /// The key that stands in for the authority.
    pub fn recovery(&self) -> &AuthoritySecret {
        &self.recovery
    }

    /// Ends a machine's daemon without warning; its disk stays.
    pub fn crash(&mut self, id: MachineId) {
        self.drop_connections(id);
        self.note(id, "crashes");
        self.machines[id.0].crash();
    }

    /// Ends a machine's daemon in order.
    pub fn stop(&mut self, id: MachineId) {
        self.note(id, "stops");
        let now_us = self.now_us;
        self.act(id, |machine| machine.stop(now_us));
        self.drop_connections(id);
    }

    /// Lets nothing in or out of a machine, without anybody being told.
    pub fn silence(&mut self, id: MachineId, silent: bool) {
        self.note(id, if silent { "falls silent" } else { "is heard again" });
        self.net.host_mut(HostId(id.0)).silent = silent;
    }

    /// Has a machine stand still, or go on.
    pub fn sleep(&mut self, id: MachineId, asleep: bool) {
        self.note(id, if asleep { "falls asleep" } else { "wakes up" });
        self.net.host_mut(HostId(id.0)).silent = asleep;
        let now_us = self.now_us;
        match asleep {
            true => self.machines[id.0].sleep(now_us),
            false => self.act(id, |machine| machine.wake_up(now_us)),
        }
    }

    /// Sets a machine's wall clock, by so many milliseconds.
    pub fn set_clock(&mut self, id: MachineId, by_ms: i64) {
        self.note(id, &format!("has its clock set by {by_ms} ms"));
        let now_us = self.now_us;
        self.act(id, |machine| machine.set_clock(now_us, by_ms));
    }

    /// Gives a machine's first interface another address, maybe at another site, and tells its daemon.
    pub fn renumber(&mut self, id: MachineId, site: SiteId, address: &str) {
        self.note(id, &format!("moves to {address}"));
        let host = self.net.host_mut(HostId(id.0));
        host.interfaces[0] = (site, address.parse().expect("an address"));
        let interface_addresses = host.interfaces.iter().map(|(_, address)| *address).collect();
        let settings = Settings { interface_addresses, ..self.machines[id.0].settings.clone() };
        let now_us = self.now_us;
        self.act(id, |machine| machine.reconfigure(now_us, settings));
    }

    /// Starts a flow between the IPv4 addresses of two machines, until told otherwise by [`World::end_flow`].
    pub fn flow(&mut self, from: MachineId, to: MachineId, every: Duration) -> FlowId {
        let destination = self.machines[to.0].addresses()[0];
        self.flow_to(from, to, destination, every)
    }

    /// Starts a flow to an address that is behind machine `to`, or one of its own.
    pub fn flow_to(
        &mut self,
        from: MachineId,
        to: MachineId,
        destination: IpAddr,
        every: Duration,
    ) -> FlowId {
        self.flow_of(from, to, destination, every, 200)
    }

    /// As [`World::flow_to`], of packets of `len` bytes. They may not be fragmented; when one is refused because it is too
    /// long, the next ones are shorter for a while.
    pub fn flow_of(
        &mut self,
        from: MachineId,
        to: MachineId,
        destination: IpAddr,
        every: Duration,
        len: usize,
    ) -> FlowId {
        let sources = self.machines[from.0].addresses();
        let source = sources.into_iter().find(|source| source.is_ipv4() == destination.is_ipv4());
        let source = source.expect("an address of the destination's family");
        let every_us = every.as_micros() as u64;
        self.flows.push(Flow::new((from.0, source), (to.0, destination), len, every_us, u64::MAX));
        let flow = FlowId(self.flows.len() - 1);
        self.push(self.now_us, Happening::Packet(flow));
        flow
    }

    /// Ends a flow.
    pub fn end_flow(&mut self, flow: FlowId) {
        self.flows[flow.0].until_us = self.now_us;
    }

    /// Ends all flows.
    pub fn end_flows(&mut self) {
        for flow in &mut self.flows {
            flow.until_us = flow.until_us.min(self.now_us);
        }
    }

    /// Ends a flow, waits for the last packets, and tells what became of all.
    pub fn finish(&mut self, flow: FlowId) -> Report {
        self.end_flow(flow);
        self.run_for(Duration::from_secs(2));
        self.report(flow)
    }

    /// What became of a flow's packets so far; those on their way have not arrived.
    pub fn report(&self, flow: FlowId) -> Report {
        self.flows[flow.0].report()
    }

    /// Sends an inner packet whose source is not `from`'s own, sealed for `to` as a cheating member would.
    pub fn cheat(&mut self, from: MachineId, to: MachineId, packet: &[u8]) {
        let member = self.machines[to.0].member();
        self.act(from, |machine| machine.send_unchecked(member, packet));
    }

    /// Sends control frames that the node of `from` has not made, over its session with `to`.
    pub fn cheat_frames(&mut self, from: MachineId, to: MachineId, frames: &[Frame]) {
        let member = self.machines[to.0].member();
        self.act(from, |machine| machine.send_frames(member, frames));
    }

    /// Sends a datagram from an address that need not be anybody's.
    pub fn inject(&mut self, to: MachineId, from: SocketAddr, bytes: Vec<u8>) {
        self.push(self.now_us, Happening::Datagram { to: HostId(to.0), from, bytes, sent: None });
    }

    /// Has a host hear on its local network what was said on one last, as if `from` had said it.
    pub fn repeat_announcement(&mut self, to: MachineId, from: SocketAddr) {
        let bytes = self.announced.clone();
        self.push(self.now_us, Happening::Announcement { to: HostId(to.0), from, bytes });
    }

    /// Announcements that were made on local networks so far.
    pub fn announcements(&self) -> u64 {
        self.announcements
    }

    /// Lets time pass.
    pub fn run_for(&mut self, span: Duration) {
        let end_us = self.now_us + span.as_micros() as u64;
        while let Some(entry) = self.pending.first_entry().filter(|entry| entry.key().0 <= end_us) {
            let ((at_us, _), happening) = entry.remove_entry();
            self.now_us = self.now_us.max(at_us);
            self.happen(happening);
        }
        self.now_us = end_us;
    }

    /// Lets time pass until `done`, or fails after `limit`. Returns how long it took, to 10 ms.
    pub fn run_until(
        &mut self,
        what: &str,
        limit: Duration,
        mut done: impl FnMut(&World) -> bool,
    ) -> Duration {
        let step = Duration::from_millis(10);
        let mut passed = Duration::ZERO;
        while !done(self) {
            if passed >= limit {
                self.fail(&format!("not within {limit:?}: {what}"));
            }
            self.run_for(step);
            passed += step;
        }
        passed
    }

    /// Virtual time since the beginning.
    pub fn elapsed(&self) -> Duration {
        Duration::from_micros(self.now_us)
    }

    /// A machine.
    pub fn machine(&self, id: MachineId) -> &Machine {
        &self.machines[id.0]
    }

    /// A machine's name.
    pub fn name(&self, id: MachineId) -> String {
        self.machines[id.0].disk.certificate.body().name.to_string()
    }

    /// A machine, to change its clock.
    pub fn machine_mut(&mut self, id: MachineId) -> &mut Machine {
        &mut self.machines[id.0]
    }

    /// All machines.
    pub fn machines(&self) -> impl Iterator<Item = (MachineId, &Machine)> + '_ {
        self.machines.iter().enumerate().map(|(index, machine)| (MachineId(index), machine))
    }

    /// A random number for the scenario.
    pub fn random(&mut self, below: u64) -> u64 {
        self.rng.random_range(0..below)
    }

    /// A hash over everything that has happened.
    pub fn trace(&self) -> u64 {
        self.trace.finish()
    }

    /// Ends the run as a failure, telling the seed and what happened last.
    ///
    /// # Panics
    /// Always.
    pub fn fail(&self, what: &str) -> ! {
        let lines: Vec<&str> = self.lines.iter().map(String::as_str).collect();
        panic!(
            "at {:?}: {what}\nthe last that happened:\n{}\nseed {}: MESHNET_SIM_SEED={} runs this again",
            self.elapsed(),
            lines.join("\n"),
            self.seed,
            self.seed
        );
    }

    fn happen(&mut self, happening: Happening) {
        let now_us = self.now_us;
        match happening {
            Happening::Refused { to, remote } => {
                self.act(MachineId(to.0), |machine| machine.refused(now_us, remote));
            }
            Happening::TooBig { to, remote, mtu } => {
                self.act(MachineId(to.0), |machine| machine.too_big(now_us, remote, mtu));
            }
            Happening::Datagram { to, from, bytes, sent } => {
                self.metered[to.0].received_bytes += bytes.len() as u64 + HEADERS;
                self.record(&[now_us, to.0 as u64, u64::from(from.port())], &bytes);
                if let Some(origin) = sent.filter(|_| self.machines[to.0].node().is_none()) {
                    self.refuse(to, origin);
                }
                self.act(MachineId(to.0), |machine| machine.receive(now_us, SocketId(0), from, bytes));
            }
            Happening::Stream { to, socket, from, bytes } => {
                self.record(&[now_us, to.0 as u64, u64::from(from.port())], &bytes);
                self.act(to, |machine| machine.receive(now_us, socket, from, bytes));
            }
            Happening::Announcement { to, from, bytes } => {
                self.metered[to.0].received_bytes += bytes.len() as u64 + HEADERS;
                if let Some(kinds) = &mut self.machines[to.0].kinds {
                    *kinds.entry("announcements on the LAN".to_owned()).or_default() +=
                        bytes.len() as u64 + HEADERS;
                }
                self.record(&[now_us, to.0 as u64], &bytes);
                self.act(MachineId(to.0), |machine| machine.hear(now_us, from, &bytes));
            }
            Happening::Closed { to, socket, remote } => self.closed(to, socket, remote),
            Happening::Wake(id) => {
                if self.wakes[id.0].0 == now_us {
                    self.wakes[id.0].0 = u64::MAX;
                    self.act(id, |machine| machine.wake(now_us));
                }
            }
            Happening::Packet(id) => {
                let flow = &mut self.flows[id.0];
                if now_us >= flow.until_us {
                    return;
                }
                let packet = flow.next_packet(now_us, id.0 as u32);
                let (from, next_us) = (MachineId(flow.from), now_us + flow.every_us);
                if self.print == Print::Datagrams {
                    eprintln!("{} sends packet of {id:?}", self.stamp(from));
                }
                self.push(next_us, Happening::Packet(id));
                self.act(from, |machine| machine.send(now_us, &packet));
            }
        }
    }

    /// Does something with a machine, and carries out what it does in turn.
    pub(super) fn act(&mut self, id: MachineId, action: impl FnOnce(&mut Machine) -> Vec<Output>) {
        let began = self.metering.then(Instant::now);
        let outputs = action(&mut self.machines[id.0]);
        let metered = &mut self.metered[id.0];
        metered.events += 1;
        metered.busy += began.map_or(Duration::ZERO, |began| began.elapsed());
        for output in outputs {
            match output {
                Output::Datagram { socket, to, bytes } if socket.is_stream() => {
                    if self.marker.find(&bytes).is_some() {
                        self.fail("a packet's content on the underlay");
                    }
                    self.send_stream(id, socket, to, &bytes);
                }
                Output::Datagram { to, bytes, .. } => self.send(id, to, bytes),
                Output::Announcement(bytes) => {
                    self.announcements += 1;
                    let metered = &mut self.metered[id.0];
                    metered.sent += 1;
                    metered.sent_bytes += bytes.len() as u64 + HEADERS;
                    for arrival in self.net.announce(self.now_us, HostId(id.0), PORT, bytes.len()) {
                        let (to, from) = (arrival.host, arrival.from);
                        let bytes = bytes.clone();
                        self.push(arrival.at_us, Happening::Announcement { to, from, bytes });
                    }
                    self.announced = bytes;
                }
                Output::Packet { from, bytes } => self.deliver(id, from, &bytes),
                Output::TooBig { bytes, mtu } => {
                    self.note(id, &format!("too big: more than {mtu}"));
                    let flow = numbers(&bytes).and_then(|(flow, _)| self.flows.get_mut(flow as usize));
                    if let Some(flow) = flow {
                        flow.refused(self.now_us, mtu.into());
                    }
                }
                Output::Note(line) => self.note(id, &line),
            }
        }
        if let Err(what) = self.checks.after(&self.machines[id.0]) {
            self.fail(&what);
        }
        self.schedule_wake(id);
    }

    fn schedule_wake(&mut self, id: MachineId) {
        let wake_at_us = self.machines[id.0].wake_at_us(self.now_us);
        let at_us = wake_at_us.map_or(u64::MAX, |at_us| at_us.max(self.now_us));
        if at_us == self.wakes[id.0].0 {
            return;
        }
        let again = if at_us == self.now_us { self.wakes[id.0].1 + 1 } else { 0 };
        if again > MAX_WAKES {
            self.fail("a node has something to do at once for ever");
        }
        self.wakes[id.0] = (at_us, again);
        if at_us != u64::MAX {
            self.push(at_us, Happening::Wake(id));
        }
    }

    fn send(&mut self, id: MachineId, to: SocketAddr, bytes: Vec<u8>) {
        if self.marker.find(&bytes).is_some() {
            self.fail("a packet's content on the underlay");
        }
        let too_long = self.net.stats().too_long;
        let arrivals = self.net.send(self.now_us, HostId(id.0), PORT, to, bytes.len());
        if let Some(answer) = self.net.take_answer() {
            let told = Happening::TooBig { to: HostId(id.0), remote: to, mtu: answer.mtu };
            self.push(answer.at_us, told);
        }
        // What is too long for a link does not go over it.
        if self.net.stats().too_long == too_long {
            let metered = &mut self.metered[id.0];
            metered.sent += 1;
            metered.sent_bytes += bytes.len() as u64 + HEADERS;
        }
        if self.print == Print::Datagrams {
            let kind = Kind::of(&bytes);
            let taken: Vec<String> =
                arrivals.iter().map(|arrival| self.name(MachineId(arrival.host.0))).collect();
            eprintln!(
                "{} sends {} bytes of {kind:?} to {to}, which is {taken:?}",
                self.stamp(id),
                bytes.len()
            );
        }
        let origin = Origin { host: HostId(id.0), to, at_us: self.now_us };
        for arrival in arrivals {
            self.attack(arrival.at_us, arrival.host, arrival.from, &bytes);
            let datagram = Happening::Datagram {
                to: arrival.host,
                from: arrival.from,
                bytes: bytes.clone(),
                sent: Some(origin),
            };
            self.push(arrival.at_us, datagram);
        }
    }

    /// Nobody listens at `host`: the sender is told, by the same way back, if that is not too often.
    fn refuse(&mut self, host: HostId, origin: Origin) {
        let last_us = self.refused_us.entry((host, origin.host)).or_insert(0);
        let often = *last_us != 0 && self.now_us - *last_us < ICMP_EVERY_US;
        if often || self.net.host(host).silent || self.net.host(origin.host).silent {
            return;
        }
        *last_us = self.now_us;
        let at_us = self.now_us + (self.now_us - origin.at_us);
        self.push(at_us, Happening::Refused { to: origin.host, remote: origin.to });
    }

    fn attack(&mut self, at_us: u64, to: HostId, from: SocketAddr, bytes: &[u8]) {
        let Attacker { replay, alter, spoof } = self.attacker;
        for (share, kind) in [(replay, 0), (alter, 1), (spoof, 2)] {
            if share == 0.0 || !self.rng.random_bool(share) {
                continue;
            }
            // An altered datagram is most dangerous before the true one. But relays do not authenticate bodies: whoever
            // sees a datagram on its way to a relay and is faster can have an altered one forwarded in its place.
            let relayed = Kind::of(bytes) == Some(Kind::Relay);
            let early = kind == 1 && !relayed;
            let at_us = if early { at_us } else { at_us + self.rng.random_range(0..2_000_000) };
            let (mut from, mut bytes) = (from, bytes.to_vec());
            if kind == 1 && !bytes.is_empty() {
                let bit = self.rng.random_range(0..bytes.len() * 8);
                bytes[bit / 8] ^= 1 << (bit % 8);
            }
            if kind == 2 {
                from.set_port(self.rng.random_range(1024..=u16::MAX));
            }
            self.push(at_us, Happening::Datagram { to, from, bytes, sent: None });
        }
    }

    fn deliver(&mut self, id: MachineId, from: MemberId, bytes: &[u8]) {
        self.record(&[self.now_us, id.0 as u64], bytes);
        let Some((index, number)) = numbers(bytes) else { self.fail("a packet that nobody sent") };
        let Some(flow) = self.flows.get_mut(index as usize) else { self.fail("a packet of no flow") };
        let (sender, receiver) = (flow.from, flow.to);
        if self.print == Print::Datagrams {
            eprintln!("{:>12.6} packet {number} of flow {index} arrives", self.now_us as f64 / 1e6);
        }
        if let Err(what) = flow.arrived(self.now_us, index, number, bytes) {
            self.fail(what);
        }
        if receiver != id.0 {
            self.fail("a packet at the wrong machine");
        }
        if self.machines[sender].member() != from {
            self.fail("a packet in the name of another member");
        }
    }

    pub(super) fn push(&mut self, at_us: u64, happening: Happening) {
        if self.pending.len() >= self.most_pending {
            self.fail("too much is under way");
        }
        self.sequence += 1;
        self.pending.insert((at_us, self.sequence), happening);
    }

    fn note(&mut self, id: MachineId, what: &str) {
        let line = format!("{} {what}", self.stamp(id));
        self.trace.write(line.as_bytes());
        if self.print != Print::Nothing {
            eprintln!("{line}");
        }
        if self.lines.len() >= KEPT_LINES {
            self.lines.pop_front();
        }
        self.lines.push_back(line);
    }

    fn stamp(&self, id: MachineId) -> String {
        format!("{:>12.6} {}", self.elapsed().as_secs_f64(), self.name(id))
    }

    fn record(&mut self, numbers: &[u64], bytes: &[u8]) {
        numbers.iter().for_each(|number| self.trace.write_u64(*number));
        self.trace.write(bytes);
    }
}
