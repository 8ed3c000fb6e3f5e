//! Large meshes in the simulator, with figures: what `make scale` runs.
//!
//! ```text
//! simulate start  NODES [SEED]     all nodes start at once, whole nodes
//! simulate change NODES [SEED]     how far and fast one change spreads, whole nodes, without loss and with
//! simulate spread NODES [SEED]     the same, of flooding alone
//! simulate idle   NODES [SEED] [LEAVES]   traffic and work of three idle whole relays and their leaves (100) among NODES members
//! simulate memory NODES [SEED]     what a node keeps for each of NODES members
//! simulate flap   NODES [SEED]     a relay restarts twenty times a minute: who loses packets
//! ```
//!
//! Sessions are hybrid, as they are by default. How far it is is told on stderr.

use std::time::{Duration, Instant};

use meshnet::io::heap;
use meshnet::node::PostQuantum;
use meshnet_tests::sim::{Crowd, MachineId, Metered, Plan, Shape, Spreading};

const SECOND: Duration = Duration::from_secs(1);

fn main() {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let number =
        |at: usize, otherwise: u64| arguments.get(at).map_or(otherwise, |n| n.parse().expect("a number"));
    let (nodes, seed) = (number(1, 1000) as usize, number(2, 1));
    match arguments.first().map(String::as_str) {
        Some("start") => start(nodes, seed),
        Some("change") => change(nodes, seed),
        Some("spread") => spread(nodes, seed),
        Some("idle") => idle(nodes, seed, number(3, 100) as usize),
        Some("memory") => memory(nodes, seed),
        Some("flap") => flap(nodes, seed),
        _ => panic!("simulate start|change|spread|idle|memory|flap NODES [SEED]"),
    }
}

fn plan(nodes: usize) -> Plan {
    let relays = (nodes / 50).max(4);
    Plan { relays, leaves: nodes - relays, datacentres: 8, loss: 0.0, pq: PostQuantum::Prefer }
}

fn started(plan: Plan, seed: u64) -> Crowd {
    let mut crowd = Crowd::new(plan, seed);
    crowd.tells = true;
    crowd.world.meter_time();
    crowd.world.meter_kinds();
    crowd.start_at_once();
    crowd
}

fn start(nodes: usize, seed: u64) {
    let plan = plan(nodes);
    let began = Instant::now();
    let mut crowd = started(plan, seed);
    let loaded = crowd.world.metered();
    eprintln!("loaded after {:.1?}", began.elapsed());
    let converged = crowd.converge(3 * SECOND, 60 * SECOND);
    println!("{nodes} whole nodes ({} relays) start at once, seed {seed}", plan.relays);
    println!("converged after          {:.1} s", converged.after.as_secs_f64());
    let (relays, leaves) = converged.metered.split_at(plan.relays);
    for (who, metered) in [("leaf", leaves), ("relay", relays)] {
        row(&format!("{who}: received, kB"), metered, |metered| metered.received_bytes as f64 / 1e3);
        row(&format!("{who}: sent, kB"), metered, |metered| metered.sent_bytes as f64 / 1e3);
        row(&format!("{who}: events"), metered, |metered| metered.events as f64);
    }
    row("all: received, kB", &converged.metered, |metered| metered.received_bytes as f64 / 1e3);
    for (who, of) in [("leaf", &crowd.leaves), ("relay", &crowd.relays)] {
        kinds(&format!("{who}: received"), &crowd, of, 1.0);
    }
    let worked: Vec<Metered> = converged
        .metered
        .iter()
        .zip(&loaded)
        .map(|(all, loaded)| Metered { busy: all.busy - loaded.busy, ..*all })
        .collect();
    row("processor to load, ms", &loaded, |metered| metered.busy.as_secs_f64() * 1e3);
    let (relays, leaves) = worked.split_at(plan.relays);
    for (who, metered) in [("leaf", leaves), ("relay", relays)] {
        row(&format!("{who}: processor after that, ms"), metered, |metered| metered.busy.as_secs_f64() * 1e3);
        let event = |metered: &Metered| metered.busy.as_secs_f64() * 1e6 / metered.events.max(1) as f64;
        row(&format!("{who}: processor for one event, µs"), metered, event);
    }
    eprintln!("done after {:?}", began.elapsed());
}

fn change(nodes: usize, seed: u64) {
    let mut crowd = started(plan(nodes), seed);
    crowd.converge(3 * SECOND, 60 * SECOND);
    for _ in 0..10 {
        crowd.change(5 * SECOND);
        crowd.world.run_for(SECOND);
    }
    let before = crowd.world.metered();
    let mut all: Vec<Duration> = Vec::new();
    let changes = 10;
    for _ in 0..changes {
        all.extend(crowd.change(5 * SECOND));
        crowd.world.run_for(SECOND);
    }
    all.sort_unstable();
    println!("{nodes} whole nodes, {changes} changes, seed {seed}");
    times("reached", &all);
    let after = crowd.world.metered();
    let busy: Duration = after.iter().zip(&before).map(|(after, before)| after.busy - before.busy).sum();
    let each = busy.as_secs_f64() * 1e6 / (changes * nodes) as f64;
    println!("processor for one change at one node (with {} s of idling)  {each:.0} µs", changes);
}

fn spread(nodes: usize, seed: u64) {
    for loss in [0.0, 0.2] {
        let relays = (nodes / 50).max(4);
        let shape = Shape { relays, leaves: nodes - relays, links_of_relay: 16, links_of_leaf: 3, loss };
        let mut spreading = Spreading::new(shape, seed);
        for _ in 0..30 {
            spreading.change(5 * SECOND);
        }
        let changes: Vec<_> = (0..20).map(|_| spreading.change(5 * SECOND)).collect();
        let mut all: Vec<Duration> = changes.iter().flat_map(|change| change.reached.clone()).collect();
        all.sort_unstable();
        println!("flooding among {nodes} nodes ({relays} relays), {:.0} % lost, seed {seed}", loss * 100.0);
        times("reached", &all);
        let sum = |of: fn(&meshnet_tests::sim::Spread) -> u64| {
            changes.iter().map(of).sum::<u64>() as f64 / changes.len() as f64 / nodes as f64
        };
        println!(
            "a node sends records     {:.2}   versions {:.2}   questions {:.2}; missed {}",
            sum(|change| change.records),
            sum(|change| change.versions),
            sum(|change| change.questions),
            changes.iter().map(|change| change.missed).sum::<usize>()
        );
    }
}

fn idle(nodes: usize, seed: u64, leaves: usize) {
    // Each leaf stays connected with three relays.
    let plan = Plan { relays: 3, leaves, datacentres: 3, loss: 0.0, pq: PostQuantum::Prefer };
    let mut crowd = Crowd::new(plan, seed);
    crowd.world.meter_time();
    crowd.start_among(nodes.saturating_sub(plan.relays + plan.leaves));
    crowd.world.run_for(600 * SECOND);
    let before = crowd.world.metered();
    crowd.world.meter_kinds();
    let span = 1800.0;
    crowd.world.run_for(Duration::from_secs_f64(span));
    let after = crowd.world.metered();
    let spent: Vec<Metered> = after
        .iter()
        .zip(&before)
        .map(|(after, before)| Metered {
            sent_bytes: after.sent_bytes - before.sent_bytes,
            received_bytes: after.received_bytes - before.received_bytes,
            sent: after.sent - before.sent,
            events: after.events - before.events,
            busy: after.busy - before.busy,
        })
        .collect();
    println!("{} relays and {} leaves, idle, among {nodes} members, seed {seed}", plan.relays, plan.leaves);
    let (relays, leaves) = spent.split_at(plan.relays);
    for (who, metered) in [("leaf", leaves), ("relay", relays)] {
        row(&format!("{who}: sent, B/s"), metered, |metered| metered.sent_bytes as f64 / span);
        row(&format!("{who}: received, B/s"), metered, |metered| metered.received_bytes as f64 / span);
        let of = if who == "leaf" { &crowd.leaves } else { &crowd.relays };
        kinds(&format!("{who}: received, B/s"), &crowd, of, span);
        row(&format!("{who}: processor, µs/s"), metered, |metered| metered.busy.as_secs_f64() * 1e6 / span);
        let event = |metered: &Metered| metered.busy.as_secs_f64() * 1e6 / metered.events.max(1) as f64;
        row(&format!("{who}: processor for one event, µs"), metered, event);
    }
    let aged = nodes as f64 / meshnet::route::lsdb::refresh_among(nodes as u32).as_secs_f64();
    println!(
        "besides, {aged:.4} records a second are renewed because of their age, which these members on paper do not do"
    );
}

fn memory(nodes: usize, seed: u64) {
    let plan = Plan { relays: 2, leaves: 2, datacentres: 1, loss: 0.0, pq: PostQuantum::Prefer };
    let mut crowd = Crowd::new(plan, seed);
    let relays = crowd.relays.clone();
    // One that knows nobody runs for a while before anything is measured: the program's own pages are no members.
    crowd.world.start(crowd.leaves[1]);
    crowd.world.run_for(20 * SECOND);
    let cache = crowd.world.remembered(nodes, &relays);
    let (relay, leaf) = (relays[0], crowd.leaves[0]);
    for machine in [relay, leaf] {
        crowd.world.machine_mut(machine).saves = false;
        crowd.world.machine_mut(machine).disk.cache.clone_from(&cache);
    }
    println!("{nodes} members, each with links to two relays, seed {seed}");
    // A relay first: by it, the leaf then has ways to all of them.
    for (who, machine) in [("relay", relay), ("leaf", leaf)] {
        heap::trim();
        let (resident, in_use, began) = (resident_bytes(), heap::in_use_bytes(), Instant::now());
        crowd.world.start(machine);
        println!("{who}: processor to start from the cache  {:.2} s", began.elapsed().as_secs_f64());
        crowd.world.run_for(20 * SECOND);
        let untrimmed = resident_bytes();
        heap::trim();
        let each = |after: u64, before: u64| after.saturating_sub(before) / nodes as u64;
        println!(
            "{who}: memory for each known member  {} bytes allocated, {} resident, {} before what is free was given back",
            each(heap::in_use_bytes(), in_use),
            each(resident_bytes(), resident),
            each(untrimmed, resident),
        );
    }
    let node = crowd.world.machine(leaf).node().expect("it runs");
    let reached = node.membership().iter().filter(|(member, _)| node.is_reachable(*member)).count();
    println!("the leaf reaches {reached}");
}

/// Resident memory of this process (proc(5), `statm`).
fn resident_bytes() -> u64 {
    let text = std::fs::read_to_string("/proc/self/statm").expect("proc is mounted");
    let pages: u64 =
        text.split_whitespace().nth(1).and_then(|pages| pages.parse().ok()).expect("a number of pages");
    pages * 4096
}

fn flap(nodes: usize, seed: u64) {
    let mut crowd = started(plan(nodes), seed);
    crowd.converge(3 * SECOND, 60 * SECOND);
    println!("{nodes} whole nodes, a relay crashes and starts 20 times a minute, seed {seed}");
    for (from, to, report) in crowd.flap(20, 10) {
        println!(
            "{} to {}: {} of {} packets lost; longest outage {:?}",
            crowd.world.name(from),
            crowd.world.name(to),
            report.lost(),
            report.sent,
            report.longest_outage
        );
    }
}

/// What it was that arrived: the eight that are most, as bytes for each machine over `span` seconds.
fn kinds(what: &str, crowd: &Crowd, of: &[MachineId], span: f64) {
    let each = |bytes: u64| bytes as f64 / of.len() as f64 / span;
    let kinds: Vec<String> = crowd
        .world
        .kinds(of)
        .into_iter()
        .take(8)
        .map(|(kind, bytes)| format!("{kind} {:.0}", each(bytes)))
        .collect();
    println!("{what}: {}", kinds.join(", "));
}

fn row(what: &str, metered: &[Metered], of: impl Fn(&Metered) -> f64) {
    let mut all: Vec<f64> = metered.iter().map(of).collect();
    all.sort_by(f64::total_cmp);
    let mean = all.iter().sum::<f64>() / all.len() as f64;
    println!(
        "{what:<34} mean {mean:>10.1}   median {:>10.1}   most {:>10.1}",
        all[all.len() / 2],
        all[all.len() - 1]
    );
}

fn times(what: &str, ascending: &[Duration]) {
    let quantile =
        |share: f64| ascending[((ascending.len() as f64 * share).ceil() as usize).max(1) - 1].as_millis();
    println!("{what:<24} p50 {} ms   p99 {} ms   last {} ms", quantile(0.5), quantile(0.99), quantile(1.0));
}
