//! The same faults for each system, and what they cost a flow of 1,000 packets a second.
//!
//! Four machines on one switch: the two ends, which could talk directly, and two relays. Every system is told the underlay
//! addresses of all.

use crate::rig::{Rig, Shape, on_switch};
use crate::system::{Daemons, Running, System};
use anyhow::Context;
use netlab::flow::{Flow, FlowShape};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::fmt::Write;
use std::net::{IpAddr, SocketAddr};
use std::time::{Duration, Instant};

const SHAPE: Shape = Shape { relays: 2, switched: true, ..Shape::DIRECT };
const FLOW: FlowShape = FlowShape { rate_pps: 1000, payload_bytes: 200 };

/// How long packets may take to flow at first.
const START_LIMIT: Duration = Duration::from_secs(60);
/// How long after a fault a flow is waited for. What takes longer counts as this.
const LIMIT: Duration = Duration::from_secs(45);
/// A flow without a silence for so long has come back.
const STEADY: Duration = Duration::from_secs(2);

/// Something that goes wrong.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Fault {
    /// Nothing passes between the two ends any more; both reach the relays.
    DirectDark,
    /// Nothing passes between the ends from the beginning; now the relay in use falls silent.
    RelaySilent,
    /// The same, and the relay's daemon is killed.
    RelayKilled,
    /// The first end gets another address.
    AddressChange,
}

/// What one fault cost.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Cost {
    /// The longest silence at the receiver, in milliseconds.
    pub gap_ms: u64,
    /// Packets that never arrived.
    pub lost: u64,
}

impl Fault {
    /// All.
    pub const ALL: [Fault; 4] =
        [Fault::DirectDark, Fault::RelaySilent, Fault::RelayKilled, Fault::AddressChange];

    /// What `--only` takes.
    pub fn name(self) -> &'static str {
        match self {
            Fault::DirectDark => "direct_dark",
            Fault::RelaySilent => "relay_silent",
            Fault::RelayKilled => "relay_killed",
            Fault::AddressChange => "address_change",
        }
    }

    fn title(self) -> &'static str {
        match self {
            Fault::DirectDark => "direct path black-holed",
            Fault::RelaySilent => "relay silent",
            Fault::RelayKilled => "relay's daemon killed",
            Fault::AddressChange => "underlay address changes",
        }
    }

    /// Starts the system on a new rig, makes the fault, and tells what it cost.
    ///
    /// # Errors
    /// When a command fails, or packets do not flow before there is a fault.
    pub fn cost(self, system: &dyn System) -> anyhow::Result<Cost> {
        let rig = Rig::new(SHAPE)?;
        let last = rig.machines().len() - 1;
        // Neighbours on a LAN find each other by IPv6, too: what is cut is the path that all systems have.
        for (machine, port) in rig.machines().iter().zip(rig.ports()) {
            machine.sysctl(&format!("net.ipv6.conf.{}.disable_ipv6", port.interface()), "1")?;
        }
        let apart = || {
            let cut = |other: usize| {
                let other = vec![IpAddr::from(on_switch(other))];
                netlab::Fault { cut_to: other.clone(), cut_from: other, ..netlab::Fault::default() }
            };
            rig.ports()[0].apply(&cut(last))
        };
        if matches!(self, Fault::RelaySilent | Fault::RelayKilled) {
            apart()?;
        }
        let mut running = system.start(&rig)?;
        let flow = flowing(&rig, &running)?;
        // All systems improve their paths in the first seconds.
        wait(Duration::from_secs(5) + system.warm_up());
        let before = flow.progress();
        wait(Duration::from_secs(1));
        let after = flow.progress();
        anyhow::ensure!(
            after.received >= before.received + 900,
            "packets do not flow: {before:?}, a second later {after:?}"
        );
        let at = Instant::now();
        match self {
            Fault::DirectDark => apart()?,
            Fault::RelaySilent => rig.ports()[relay_in_use(&rig)?].silence()?,
            Fault::RelayKilled => {
                let relay = relay_in_use(&rig)?;
                match &mut running.daemons {
                    Daemons::Processes(processes) => processes[relay].kill(),
                    Daemons::Members(members) => members[relay].kill(),
                    Daemons::Kernel => anyhow::bail!("the kernel has no daemon"),
                }
            }
            Fault::AddressChange => {
                rig.ports()[0].remove_address(&format!("{}/24", on_switch(0)))?;
                rig.ports()[0].add_address(&format!("{}/24", on_switch(100)))?;
            }
        }
        let mut received = flow.progress().received;
        let mut steady = Instant::now();
        while at.elapsed() < LIMIT {
            wait(Duration::from_millis(100));
            let now = flow.progress().received;
            if now < received + 50 {
                steady = Instant::now();
            }
            received = now;
            // A fault that does not show within a while has cost nothing.
            if steady.elapsed() >= STEADY && at.elapsed() >= Duration::from_secs(5) {
                break;
            }
        }
        let came_back = steady.elapsed() >= STEADY;
        let report = flow.stop()?;
        let gap_ms = report.gap_since(at).as_millis() as u64;
        let gap_ms = if came_back { gap_ms } else { LIMIT.as_millis() as u64 };
        Ok(Cost { gap_ms, lost: report.lost_since(at) })
    }
}

/// A flow from the first machine to the last, once packets arrive.
fn flowing(rig: &Rig, running: &Running) -> anyhow::Result<Flow> {
    let target = SocketAddr::new(running.far, 0);
    let begun = Instant::now();
    loop {
        // The address of the last machine may not be there yet.
        let flow = Flow::start(rig.first(), rig.last(), target, FLOW);
        if let Ok(flow) = flow {
            let arrives = netlab::wait::until_true("packets", START_LIMIT, || flow.progress().received > 500);
            arrives.context("packets between the ends")?;
            return Ok(flow);
        }
        anyhow::ensure!(
            begun.elapsed() < START_LIMIT,
            "{}",
            flow.err().map_or(String::new(), |e| e.to_string())
        );
        wait(Duration::from_millis(100));
    }
}

/// The relay that most packets go through.
fn relay_in_use(rig: &Rig) -> anyhow::Result<usize> {
    let count = |machine: usize| -> anyhow::Result<u64> {
        let interface = rig.ports()[machine].interface().to_owned();
        let mut command = std::process::Command::new("cat");
        command.arg("/proc/net/dev");
        let output = rig.machines()[machine].run(command, Duration::from_secs(5))?.stdout()?;
        let line = output.lines().find_map(|line| line.trim().strip_prefix(&format!("{interface}:")));
        // Bytes received, then packets.
        let packets = line.and_then(|line| line.split_whitespace().nth(1));
        Ok(packets.with_context(|| format!("{interface} in {output}"))?.parse()?)
    };
    let relays: Vec<usize> = (0..rig.machines().len()).filter(|machine| rig.is_relay(*machine)).collect();
    let before: Vec<u64> = relays.iter().map(|relay| count(*relay)).collect::<Result<_, _>>()?;
    wait(Duration::from_millis(500));
    let after: Vec<u64> = relays.iter().map(|relay| count(*relay)).collect::<Result<_, _>>()?;
    let most = (0..relays.len()).max_by_key(|at| after[*at] - before[*at]).context("no relay")?;
    anyhow::ensure!(after[most] - before[most] > 200, "no relay is in use");
    Ok(relays[most])
}

fn wait(time: Duration) {
    let start = Instant::now();
    let _ = netlab::wait::until_true("time to pass", time * 2, || start.elapsed() >= time);
}

/// What faults cost systems, by fault and system.
#[derive(Clone, Default, Debug, Serialize, Deserialize)]
pub struct Outcomes {
    /// Version, by system.
    pub systems: BTreeMap<String, String>,
    /// Costs in the order in which they were measured.
    pub costs: BTreeMap<Fault, BTreeMap<String, Vec<Cost>>>,
}

impl Outcomes {
    /// Adds one.
    pub fn add(&mut self, fault: Fault, system: &dyn System, cost: Cost) {
        self.systems.insert(system.name().to_owned(), system.description());
        self.costs.entry(fault).or_default().entry(system.name().to_owned()).or_default().push(cost);
    }

    /// A table in Markdown: a row for each fault and system.
    pub fn table(&self) -> String {
        let mut out = String::from(
            "| fault | system | runs | silence ms, median | 95th percentile | lost of 1,000/s, median | 95th percentile |\n\
             |---|---|---|---|---|---|---|\n",
        );
        for (fault, systems) in &self.costs {
            for (system, costs) in systems {
                let of = |value: fn(&Cost) -> u64| {
                    let mut all: Vec<u64> = costs.iter().map(value).collect();
                    all.sort_unstable();
                    let at = |percent: usize| all[(all.len() * percent).div_ceil(100).max(1) - 1];
                    (at(50), at(95))
                };
                let (gap, lost) = (of(|cost| cost.gap_ms), of(|cost| cost.lost));
                let shown = |ms: u64| {
                    if u128::from(ms) >= LIMIT.as_millis() { format!("over {ms}") } else { ms.to_string() }
                };
                let _ = writeln!(
                    out,
                    "| {} | {system} | {} | {} | {} | {} | {} |",
                    fault.title(),
                    costs.len(),
                    shown(gap.0),
                    shown(gap.1),
                    lost.0,
                    lost.1
                );
            }
        }
        for (system, description) in &self.systems {
            let _ = writeln!(out, "\n{system}: {description}");
        }
        out
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_row_has_medians_and_the_nearest_ranks_and_says_what_never_came_back() {
        let cost = |gap_ms| Cost { gap_ms, lost: gap_ms };
        let mut outcomes = Outcomes::default();
        let costs = vec![cost(3), cost(1), cost(45_000)];
        outcomes.costs.entry(Fault::RelaySilent).or_default().insert("x".into(), costs);
        let table = outcomes.table();
        assert!(table.contains("| relay silent | x | 3 | 3 | over 45000 | 3 | 45000 |"), "{table}");
        let again: Outcomes = serde_json::from_str(&serde_json::to_string(&outcomes).unwrap()).unwrap();
        assert_eq!(again.costs, outcomes.costs);
    }
}
