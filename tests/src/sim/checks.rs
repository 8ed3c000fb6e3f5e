//! What must hold whatever happens, and the model of who can reach whom.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use proto::id::{BootEpoch, MemberId, Seq};

use super::machine::Machine;
use super::net::{HostId, Uplink};
use super::world::{MachineId, World};

/// Relays that a packet passes at most.
const MAX_RELAYS: usize = 4;

/// What was said by whom, to notice when somebody else's word is put in a member's mouth.
#[derive(Default)]
pub(super) struct Checks {
    authored: BTreeMap<(MemberId, BootEpoch, Seq), Box<[u8]>>,
}

impl Checks {
    /// Checks a machine after something was done with it.
    pub(super) fn after(&mut self, machine: &Machine) -> Result<(), String> {
        let Some(node) = machine.node() else { return Ok(()) };
        let me = machine.member();
        if let Some(own) = node.lsdb().get(me) {
            let version = own.version();
            let key = (me, version.boot, version.seq);
            self.authored.entry(key).or_insert_with(|| own.as_bytes().into());
        }
        if node.stats().transmits_dropped > 0 {
            return Err("a node dropped datagrams because it makes too many at once".into());
        }
        Ok(())
    }

    /// Checks that every record that a node holds was made by its origin.
    pub(super) fn records(&self, machine: &Machine) -> Result<(), String> {
        let Some(node) = machine.node() else { return Ok(()) };
        for (origin, entry) in node.lsdb().iter() {
            let version = entry.version();
            if self.authored.get(&(origin, version.boot, version.seq)).map(AsRef::as_ref)
                != Some(entry.as_bytes())
            {
                return Err(format!("a record of {origin} that it has not made"));
            }
        }
        Ok(())
    }
}

impl World {
    /// Checks that nobody's record was made by another.
    pub fn check_records(&self) {
        for (_, machine) in self.machines() {
            if let Err(what) = self.checks.records(machine) {
                self.fail(&what);
            }
        }
    }

    /// Checks that what waits in any node for something is within its bounds.
    pub fn check_bounds(&self) {
        for (id, machine) in self.machines() {
            if let Some(node) = machine.node() {
                let peers = self.machines.len();
                if node.gossip_len() > 64 + 1024 + 8 * peers {
                    self.fail(&format!("{} records wait at {}", node.gossip_len(), self.name(id)));
                }
            }
        }
    }

    /// Whether all nodes that can reach each other hold the same records, certificates, and key epochs.
    pub fn agrees(&self) -> bool {
        self.components().iter().all(|component| {
            let mut nodes = component.iter().filter_map(|id| self.machine(*id).node());
            let Some(first) = nodes.next() else { return true };
            nodes.all(|node| {
                let same_records = first
                    .lsdb()
                    .iter()
                    .map(|(member, entry)| (member, entry.as_bytes()))
                    .eq(node.lsdb().iter().map(|(member, entry)| (member, entry.as_bytes())));
                same_records && first.membership().iter().eq(node.membership().iter())
            })
        })
    }

    /// Lets time pass until all that can reach each other agree, and then as long as they may take to act on it; checks
    /// the records.
    pub fn settle(&mut self, limit: Duration) -> Duration {
        let took = self.run_until("all hold the same records", limit, World::agrees);
        self.run_for(Duration::from_secs(3));
        self.check_records();
        took
    }

    /// Sends packets each way between every two machines that the model connects, one every 100 ms, and requires that of
    /// `sent` at least `least` arrive.
    pub fn check_reach(&mut self, sent: u32, least: u64) {
        let mut flows = Vec::new();
        for component in self.components() {
            for a in &component {
                for b in component.iter().filter(|b| *b != a) {
                    flows.push((*a, *b, self.flow(*a, *b, Duration::from_millis(100))));
                }
            }
        }
        self.run_for(Duration::from_millis(100) * sent - Duration::from_millis(50));
        flows.iter().for_each(|(_, _, flow)| self.end_flow(*flow));
        self.run_for(Duration::from_secs(4));
        for (a, b, flow) in flows {
            let report = self.report(flow);
            if report.arrived < least {
                self.fail(&format!(
                    "of {} packets from {} to {} arrived {}",
                    report.sent,
                    self.name(a),
                    self.name(b),
                    report.arrived
                ));
            }
        }
    }

    /// Machines that can reach each other, as a model that knows the whole underlay sees it: over a datagram straight
    /// away, or over relays. Pairs of which both are behind translators need a relay here; that they may do without is
    /// for scenarios to require.
    pub fn components(&self) -> Vec<BTreeSet<MachineId>> {
        let running: Vec<MachineId> =
            self.machines().filter(|(_, machine)| machine.node().is_some()).map(|(id, _)| id).collect();
        let mut left: BTreeSet<MachineId> = running.iter().copied().collect();
        let mut components = Vec::new();
        while let Some(start) = left.pop_first() {
            let reached: BTreeSet<MachineId> =
                running.iter().copied().filter(|other| self.connects(start, *other)).collect();
            left.retain(|other| !reached.contains(other));
            components.push(reached);
        }
        components
    }

    /// Whether the model connects two running machines.
    pub fn connects(&self, from: MachineId, to: MachineId) -> bool {
        let mut reached = BTreeSet::from([from]);
        let mut edge = vec![from];
        for _ in 0..=MAX_RELAYS {
            let mut next = Vec::new();
            for at in edge {
                let passes = at == from || self.machine(at).settings.relay;
                for (other, machine) in self.machines() {
                    if passes && machine.node().is_some() && self.adjacent(at, other) && reached.insert(other)
                    {
                        next.push(other);
                    }
                }
            }
            edge = next;
        }
        reached.contains(&to)
    }

    /// Whether one of two machines can send a datagram to the other and get an answer, without the help of a third.
    pub fn adjacent(&self, a: MachineId, b: MachineId) -> bool {
        let (host_a, host_b) = (HostId(a.0), HostId(b.0));
        let silent = self.net.host(host_a).silent || self.net.host(host_b).silent;
        let blocked = self.net.is_blocked(host_a, host_b) || self.net.is_blocked(host_b, host_a);
        if a == b || silent || blocked {
            return false;
        }
        self.opens(host_a, host_b) || self.opens(host_b, host_a)
    }

    fn opens(&self, from: HostId, to: HostId) -> bool {
        let (from, to) = (&self.net.host(from).interfaces, &self.net.host(to).interfaces);
        to.iter().any(|(there, address)| {
            let outbound = from.iter().find(|(_, own)| own.is_ipv4() == address.is_ipv4());
            let local = from.iter().any(|(here, own)| here == there && own.is_ipv4() == address.is_ipv4());
            local
                || outbound.is_some_and(|(here, _)| {
                    let (here, there) = (self.net.site(*here), self.net.site(*there));
                    here.up
                        && !matches!(here.uplink, Uplink::None)
                        && there.up
                        && matches!(there.uplink, Uplink::Public)
                })
        })
    }
}
