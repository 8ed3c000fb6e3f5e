//! Which relays carry what: equal ones share flows, busy ones are spared, and what stays inside a datacentre stays there.

use std::collections::BTreeMap;
use std::time::Duration;

use meshnet::node::PeerView;
use meshnet::path::{PathId, PathView, Standing};
use meshnet_tests::sim::{FlowId, Link, MachineId, NatKind, SiteId, Spec, Swallows, World, seeds};

const SECOND: Duration = Duration::from_secs(1);
const EVERY: Duration = Duration::from_millis(20);

/// Two members behind translators that let nothing through between them, and relays.
struct Scene {
    world: World,
    relays: Vec<MachineId>,
    ends: [MachineId; 2],
}

fn scene(seed: u64, relay: impl Fn(usize, SiteId, &str) -> Spec, links: &[Link], inside: bool) -> Scene {
    let mut world = World::new(seed);
    let homes = [
        world.nat_site("192.168.1.0/24", NatKind::Symmetric, "192.0.2.1", Link::delay_ms(8)),
        world.nat_site("192.168.2.0/24", NatKind::Symmetric, "192.0.2.2", Link::delay_ms(8)),
    ];
    let mut relays = Vec::new();
    for (number, link) in links.iter().enumerate() {
        let site = world.public_site(&format!("203.0.{number}.0/24"), *link);
        relays.push(world.add(relay(number, site, &format!("203.0.{number}.1"))));
    }
    let mut end = |name: &str, home, address| {
        let spec = Spec::new(name, home, address);
        world.add(if inside { spec.datacenter("ams") } else { spec })
    };
    let ends = [end("a", homes[0], "192.168.1.10"), end("b", homes[1], "192.168.2.10")];
    let all: Vec<MachineId> = relays.iter().chain(&ends).copied().collect();
    world.form(&all);
    world.settle(60 * SECOND);
    Scene { world, relays, ends }
}

impl Scene {
    fn view(&self) -> PeerView {
        let machine = self.world.machine(self.ends[0]);
        let now = machine.now(self.world.elapsed().as_micros() as u64);
        let views = machine.node().expect("it runs").peer_views(now);
        let other = self.world.machine(self.ends[1]).member();
        views.into_iter().find(|peer| peer.member == other).expect("a peer")
    }

    /// Bytes that went through each relay, by its number.
    fn through(&self) -> BTreeMap<usize, u64> {
        let number = |id: PathId| {
            let PathId::Relay { relay } = id else { return None };
            self.relays.iter().position(|other| self.world.machine(*other).member() == relay)
        };
        self.view().paths.iter().filter_map(|path| Some((number(path.id)?, path.tx_bytes))).collect()
    }

    /// Bytes that go through each relay within a time.
    fn within(&mut self, span: Duration) -> BTreeMap<usize, u64> {
        let before = self.through();
        self.world.run_for(span);
        let since =
            |(number, bytes): (usize, u64)| (number, bytes - before.get(&number).copied().unwrap_or(0));
        self.through().into_iter().map(since).collect()
    }

    /// The relays that carry flows, by their numbers.
    fn ways(&self) -> Vec<usize> {
        let carries = |path: &&PathView| {
            matches!(path.standing, Standing::Chosen | Standing::Shares) && !path.id.is_direct()
        };
        let member = |id: PathId| match id {
            PathId::Relay { relay } => Some(relay),
            PathId::Direct { .. } => None,
        };
        let paths = self.view().paths;
        let carrying: Vec<_> = paths.iter().filter(carries).filter_map(|path| member(path.id)).collect();
        let used = |number: &usize| carrying.contains(&self.world.machine(self.relays[*number]).member());
        (0..self.relays.len()).filter(used).collect()
    }

    /// Which relays carry flows from when on, in seconds, whenever that changes: only then do flows move.
    fn watch(&mut self, span: Duration) -> Vec<(f64, Vec<usize>)> {
        let (mut ways, mut changes) = (self.ways(), Vec::new());
        for step in 0..span.as_millis() / 200 {
            self.world.run_for(SECOND / 5);
            let now = self.ways();
            if ways != now {
                changes.push((step as f64 / 5.0, now.clone()));
                ways = now;
            }
        }
        changes
    }

    fn flows(&mut self, count: usize) -> Vec<FlowId> {
        (0..count).map(|_| self.world.flow(self.ends[0], self.ends[1], EVERY)).collect()
    }
}

fn links(delays_ms: &[u64]) -> Vec<Link> {
    delays_ms.iter().map(|ms| Link::delay_ms(*ms)).collect()
}

fn plain(number: usize, site: SiteId, address: &str) -> Spec {
    Spec::new(&format!("r{number}"), site, address).relay()
}

#[test]
fn equal_relays_share_the_flows_of_a_pair_and_a_worse_one_has_none() {
    for seed in seeds(2) {
        let mut scene = scene(seed, plain, &links(&[5, 5, 30]), false);
        let flows = scene.flows(16);
        scene.world.run_for(5 * SECOND);
        let through = scene.within(5 * SECOND);
        println!("seed {seed}: 16 flows through relays of 5, 5, and 30 ms: {through:?} bytes in 5 s");
        let sum: u64 = through.values().sum();
        assert!(through[&0] * 5 > sum && through[&1] * 5 > sum, "seed {seed}: {through:?}");
        assert_eq!(through[&2], 0, "seed {seed}");
        for flow in flows {
            let report = scene.world.finish(flow);
            assert_eq!(report.lost(), 0, "seed {seed}: {report:?}");
        }
    }
}

#[test]
fn flows_leave_one_of_two_sharing_relays_when_it_falls_silent_or_swallows_packets() {
    for seed in seeds(1) {
        for swallows in [Swallows::Everything, Swallows::Packets { longest: 0 }] {
            let mut scene = scene(seed, plain, &links(&[5, 5]), false);
            let flows = scene.flows(12);
            scene.world.run_for(5 * SECOND);
            // The one that is not the first choice.
            let views = scene.view().paths;
            let shares = views.iter().find(|path| path.standing == Standing::Shares).expect("two share");
            let PathId::Relay { relay } = shares.id else { panic!("a relay") };
            let at = scene.relays.iter().position(|other| scene.world.machine(*other).member() == relay);
            let bad = scene.relays[at.expect("one of them")];
            scene.world.machine_mut(bad).swallows = swallows;
            scene.world.run_for(10 * SECOND);
            let (mut lost, mut longest) = (0, Duration::ZERO);
            for flow in flows {
                let report = scene.world.finish(flow);
                lost += report.lost();
                longest = longest.max(report.longest_outage);
            }
            println!("seed {seed}, {swallows:?}: {lost} lost, {longest:?} without a packet");
            assert!(lost > 0, "nothing went there");
            assert!(longest < 2 * SECOND, "seed {seed}, {swallows:?}: {longest:?}");
        }
    }
}

#[test]
fn a_relay_that_restarts_loses_nothing_and_is_not_given_up_for_it() {
    // How long it is away, and whether flows begin as soon as the sender's session with it is back, or when both are.
    let cases = [(0, true), (300, false), (2000, false), (2000, true)];
    for (seed, (away_ms, both)) in seeds(1).into_iter().flat_map(|seed| cases.map(|case| (seed, case))) {
        let mut scene = scene(seed, plain, &links(&[6, 5]), false);
        // What the other end has counted by now it will have forgotten.
        let before = scene.flows(1);
        scene.world.run_for(3 * SECOND);
        before.into_iter().for_each(|flow| assert_eq!(scene.world.finish(flow).lost(), 0, "seed {seed}"));
        scene.world.run_for(8 * SECOND);
        let relay = scene.relays[1];
        scene.world.crash(relay);
        scene.world.run_for(Duration::from_millis(away_ms));
        scene.world.start(relay);
        let needed = if both { 2 } else { 1 };
        let is_back = |world: &World| {
            let machine = world.machine(relay);
            let now = machine.now(world.elapsed().as_micros() as u64);
            let views = machine.node().expect("it runs").peer_views(now);
            let is_direct = |peer: &PeerView| peer.path.as_ref().is_some_and(|path| path.via.is_empty());
            let ends = scene.ends.map(|end| world.machine(end).member());
            ends[..needed].iter().all(|end| views.iter().any(|peer| peer.member == *end && is_direct(peer)))
        };
        while !is_back(&scene.world) {
            assert!(scene.world.elapsed() < 120 * SECOND, "seed {seed}, {away_ms} ms: it does not come back");
            scene.world.run_for(SECOND / 1000);
        }
        let flows = scene.flows(16);
        scene.world.run_for(5 * SECOND);
        let through = scene.within(5 * SECOND);
        println!("seed {seed}, away {away_ms} ms, both ends back: {both}: {through:?}");
        // Who was seen dead has its part again later: flows move seldom.
        assert!(through[&1] > 0 || away_ms >= 1000, "seed {seed}, {away_ms} ms: {through:?}");
        for path in scene.view().paths {
            let blamed = path.standing == Standing::Barren || path.rests_until.is_some();
            assert!(!blamed, "seed {seed}, {away_ms} ms: {path:?}");
        }
        for flow in flows {
            let report = scene.world.finish(flow);
            assert_eq!(report.lost(), 0, "seed {seed}, {away_ms} ms, {both}: {report:?}");
        }
    }
}

#[test]
fn a_relay_that_says_it_is_busy_is_spared_and_used_again_when_it_is_idle() {
    for seed in seeds(2) {
        let relay = |number, site, address: &str| {
            // 16 flows of 50 packets a second of some 270 bytes are 210 kB/s; one of the relays carries a quarter of that.
            let spec = plain(number, site, address);
            if number == 0 { spec.capacity(50_000) } else { spec }
        };
        let mut scene = scene(seed, relay, &links(&[5, 5]), false);
        let flows = scene.flows(16);
        scene.world.run_for(10 * SECOND);
        let through = scene.within(3 * SECOND);
        let sum: u64 = through.values().sum();
        println!("seed {seed}: with a small relay: {through:?}");
        assert!(through[&0] * 20 < sum, "seed {seed}: {through:?}");
        for flow in flows {
            assert_eq!(scene.world.finish(flow).lost(), 0, "seed {seed}");
        }
        let few = scene.flows(1);
        scene.world.run_for(60 * SECOND);
        let loads: Vec<u8> = scene.view().paths.iter().map(|path| path.toll.load).collect();
        assert!(loads.iter().all(|load| *load <= 3), "seed {seed}: {loads:?}");
        few.into_iter().for_each(|flow| assert_eq!(scene.world.finish(flow).lost(), 0));
    }
}

#[test]
fn relays_that_are_too_small_alone_share_and_do_not_take_turns() {
    for seed in seeds(2) {
        // As above, with 210 kB/s; each of them carries 150.
        let relay = |number, site, address: &str| plain(number, site, address).capacity(150_000);
        let mut scene = scene(seed, relay, &links(&[5, 5]), false);
        let flows = scene.flows(16);
        let changes = scene.watch(40 * SECOND);
        let through = scene.within(3 * SECOND);
        println!("seed {seed}: {changes:?}, then {through:?}");
        let sum: u64 = through.values().sum();
        assert!(through.values().all(|bytes| bytes * 4 > sum), "seed {seed}: {through:?}");
        let late = changes.iter().filter(|(at, _)| *at > 20.0).count();
        assert!(late == 0 && changes.len() <= 6, "seed {seed}: {changes:?}");
        for flow in flows {
            assert_eq!(scene.world.finish(flow).lost(), 0, "seed {seed}");
        }
    }
}

#[test]
fn relays_whose_delays_waver_share_without_moving_flows_more_than_once_a_minute() {
    for seed in seeds(1) {
        let wavering = [20, 21, 22].map(|ms| Link { jitter_us: 10_000, ..Link::delay_ms(ms) });
        let mut scene = scene(seed, plain, &wavering, false);
        let flows = scene.flows(4);
        scene.world.run_for(5 * SECOND);
        let ways = scene.ways();
        let changes = scene.watch(90 * SECOND);
        println!("seed {seed}: at first {ways:?}, in a minute and a half {changes:?}");
        assert!(ways.len() > 1 && changes.len() <= 1, "seed {seed}: {changes:?}");
        flows.into_iter().for_each(|flow| assert_eq!(scene.world.finish(flow).lost(), 0, "seed {seed}"));
    }
}

#[test]
fn traffic_inside_a_datacentre_is_relayed_inside_it_if_that_is_possible() {
    for seed in seeds(1) {
        let relay = |number, site, address: &str| {
            plain(number, site, address).datacenter(if number == 1 { "ams" } else { "fra" })
        };
        for (inside, expected) in [(true, 1), (false, 0)] {
            let mut scene = scene(seed, relay, &links(&[5, 6]), inside);
            let flows = scene.flows(4);
            scene.world.run_for(5 * SECOND);
            let through = scene.within(3 * SECOND);
            assert!(through[&expected] > 0, "seed {seed}, {inside}: {through:?}");
            assert!(!inside || through[&0] == 0, "seed {seed}: {through:?}");
            if inside {
                // Not at any price.
                scene.world.silence(scene.relays[1], true);
                scene.world.run_for(3 * SECOND);
                let through = scene.within(3 * SECOND);
                assert!(
                    through[&0] > 0 && through.get(&1).is_none_or(|bytes| *bytes == 0),
                    "seed {seed}: {through:?}"
                );
            }
            scene.world.end_flows();
            flows.into_iter().for_each(|flow| assert!(scene.world.report(flow).arrived > 0));
        }
    }
}
