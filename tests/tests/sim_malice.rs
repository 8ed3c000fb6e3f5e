//! A member that cheats: it has a certificate and sessions, and says whatever it likes. Only its own record suffers.

use std::time::Duration;

use meshnet::crypto::hash;
use meshnet::membership::IdentitySecret;
use meshnet::node::{RouteView, Settings};
use meshnet_tests::sim::{Link, MachineId, NatKind, Spec, Swallows, World, seeds};
use proto::frame::{Frame, MAX_FRAGMENT_LEN, MAX_FRAGMENTS};
use proto::id::{BootEpoch, MemberId, Seq};
use proto::record::{Link as Said, MAX_LINKS, Record, Subnet};
use proto::signed::{OBJECT_MAX_LEN, Signed};
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};

const SECOND: Duration = Duration::from_secs(1);

/// Two relays, three honest members of which two need a relay between them, and a cheat, who may relay as well.
struct Scene {
    world: World,
    relays: [MachineId; 2],
    honest: [MachineId; 3],
    cheat: MachineId,
}

impl Scene {
    fn new(seed: u64) -> Scene {
        let mut world = World::new(seed);
        let dc = [
            world.public_site("198.51.100.0/24", Link::delay_ms(5)),
            world.public_site("203.0.113.0/24", Link::delay_ms(15)),
        ];
        let homes = [
            world.nat_site("192.168.1.0/24", NatKind::Symmetric, "192.0.2.1", Link::delay_ms(8)),
            world.nat_site("192.168.2.0/24", NatKind::Symmetric, "192.0.2.2", Link::delay_ms(12)),
        ];
        let relays = [
            world.add(Spec::new("r1", dc[0], "198.51.100.1").relay()),
            world.add(Spec::new("r2", dc[1], "203.0.113.1").relay()),
        ];
        let honest = [
            world.add(Spec::new("a", homes[0], "192.168.1.10")),
            world.add(Spec::new("b", homes[1], "192.168.2.10")),
            world.add(Spec::new("c", dc[1], "203.0.113.10").subnet("172.16.5.0/24", 10)),
        ];
        let cheat = world.add(Spec::new("cheat", dc[0], "198.51.100.66").relay());
        world.form(&[relays[0], relays[1], honest[0], honest[1], honest[2], cheat]);
        world.settle(60 * SECOND);
        let mut scene = Scene { world, relays, honest, cheat };
        // The cheat has sessions with all of them.
        for other in scene.others() {
            let flow = scene.world.flow(scene.cheat, other, SECOND / 10);
            scene.world.run_for(SECOND);
            scene.world.end_flow(flow);
        }
        scene
    }

    fn others(&self) -> Vec<MachineId> {
        self.relays.iter().chain(&self.honest).copied().collect()
    }

    fn record(&self, at: MachineId, of: MachineId) -> Signed<Record> {
        let member = self.world.machine(of).member();
        let node = self.world.machine(at).node().expect("it runs");
        node.lsdb().get(member).expect("a record").signed().clone()
    }

    /// The cheat sends frames to everybody.
    fn say(&mut self, frames: &[Frame]) {
        for other in self.others() {
            self.world.cheat_frames(self.cheat, other, frames);
        }
    }

    /// Signs what the cheat says of itself.
    fn sign(&self, record: Record) -> Signed<Record> {
        IdentitySecret::from_bytes(&self.world.machine(self.cheat).disk.identity)
            .sign_record(record)
            .expect("it fits")
    }

    /// All honest members hold the same of each other, news travel between them, and packets arrive.
    fn require_peace(&mut self) {
        let all = self.others();
        for at in &all {
            for of in &all {
                assert_eq!(self.record(*at, *of), self.record(*of, *of));
            }
        }
        let (a, c) = (self.honest[0], self.honest[2]);
        let settings = self.world.machine(c).settings.clone();
        let port = 1 + self.world.random(60_000) as u16;
        self.world.reconfigure(c, Settings { endpoints: vec![([203, 0, 113, 10], port).into()], ..settings });
        self.world.run_for(SECOND);
        assert_eq!(self.record(a, c), self.record(c, c));
        assert!(
            self.record(a, c).body().candidates.iter().any(|candidate| candidate.endpoint.port() == port)
        );
        let flow = self.world.flow(a, self.honest[1], SECOND / 20);
        self.world.run_for(2 * SECOND);
        assert_eq!(self.world.finish(flow).lost(), 0);
    }
}

fn object(record: &Signed<Record>) -> Frame {
    Frame::Object(record.to_bytes())
}

#[test]
fn forged_and_replayed_records_change_nobodys_but_their_signers() {
    for seed in seeds(2) {
        let mut scene = Scene::new(seed);
        let victim = scene.honest[2];
        let old = scene.record(victim, victim);
        let settings = scene.world.machine(victim).settings.clone();
        scene.world.reconfigure(
            victim,
            Settings { endpoints: vec!["203.0.113.10:99".parse().unwrap()], ..settings },
        );
        scene.world.run_for(SECOND);
        let content = scene.record(victim, victim).body().clone();
        for step in 1..50u64 {
            // In the victim's name, by another's key: without its subnets, with other addresses, much newer.
            let newer = Record { seq: Seq(content.seq.0 + step), candidates: Vec::new(), ..content.clone() };
            let rebooted = Record { boot: BootEpoch(u64::MAX), subnets: Vec::new(), ..content.clone() };
            let forged = [scene.sign(newer), scene.sign(rebooted)];
            scene.say(&[object(&forged[0]), object(&forged[1]), object(&old)]);
            scene.world.run_for(SECOND / 20);
        }
        scene.world.check_records();
        scene.require_peace();
        for other in scene.others() {
            assert!(scene.world.machine(other).node().unwrap().lsdb().stats().forged >= 40);
        }
    }
}

#[test]
fn a_flood_of_own_records_versions_and_pieces_slows_only_the_flooder_and_fills_no_memory() {
    for seed in seeds(1) {
        let mut scene = Scene::new(seed);
        let mut rng = StdRng::seed_from_u64(seed);
        let content = scene.record(scene.cheat, scene.cheat).body().clone();
        let known = scene.world.machine(scene.honest[0]).node().unwrap().lsdb().len();
        let before = scene.world.metered();
        for step in 1..600u64 {
            // Its own record, ever newer; members that do not exist; versions that nobody has, of those that do.
            let own = scene.sign(Record { boot: BootEpoch(1000), seq: Seq(step), ..content.clone() });
            let nobody = scene.sign(Record { member: MemberId(rng.random()), ..content.clone() });
            let victims: Vec<_> = scene.others().iter().map(|id| scene.world.machine(*id).member()).collect();
            let claims = (0..34).map(|n| {
                let member = victims.get(n).copied().unwrap_or_else(|| MemberId(rng.random()));
                (member, BootEpoch(u64::MAX), Seq(step))
            });
            let have = Frame::Have(claims.collect());
            let piece = Frame::Fragment { id: step, index: 0, total: 8, bytes: vec![7; 1000] };
            scene.say(&[object(&own), object(&nobody), have, piece]);
            scene.world.run_for(SECOND / 100);
        }
        let after = scene.world.metered();
        for other in scene.others() {
            let node = scene.world.machine(other).node().unwrap();
            assert_eq!(node.lsdb().len(), known, "records of nobody");
            // Waiting for certificates, claimed by the cheat, in pieces, and what honest members have told meanwhile.
            assert!(node.gossip_len() <= 64 + 256 + 8 + 6, "{} things wait", node.gossip_len());
            // Six seconds of it: a burst and two a second are looked at.
            assert!(node.lsdb().stats().newer < 200, "{:?}", node.lsdb().stats());
            // Nothing makes an honest member send much more than it gets.
            let (sent, got) = (
                after[other.0].sent_bytes - before[other.0].sent_bytes,
                after[other.0].received_bytes - before[other.0].received_bytes,
            );
            assert!(sent < got, "{sent} bytes sent for {got}");
        }
        scene.world.run_for(10 * SECOND);
        scene.require_peace();
    }
}

/// The pieces in which an object travels that is too long for one frame.
fn pieces(object: &[u8]) -> Vec<Frame> {
    let hash = hash(&[b"meshnet object", object]);
    let id = u64::from_be_bytes(*hash.first_chunk().expect("a hash is longer"));
    let total = object.len().div_ceil(MAX_FRAGMENT_LEN) as u8;
    let frame = |(bytes, index): (&[u8], u8)| Frame::Fragment { id, index, total, bytes: bytes.to_vec() };
    object.chunks(MAX_FRAGMENT_LEN).zip(0..).map(frame).collect()
}

#[test]
fn records_that_are_too_long_are_refused_and_the_longest_that_are_not_are_their_signers_affair() {
    for seed in seeds(2) {
        let mut scene = Scene::new(seed);
        let content = scene.record(scene.cheat, scene.cheat).body().clone();
        let refused = |scene: &Scene| -> Vec<u64> {
            let node = |id: &MachineId| scene.world.machine(*id).node().expect("it runs").stats();
            scene.others().iter().map(|id| node(id).objects_refused).collect()
        };
        let before = refused(&scene);
        for step in 1..=10 {
            // A record with a signature that is right, and then as much as eight pieces hold.
            let own = scene.sign(Record { boot: BootEpoch(1000), seq: Seq(step), ..content.clone() });
            let mut long = own.to_bytes();
            long.resize(usize::from(MAX_FRAGMENTS) * MAX_FRAGMENT_LEN, 0);
            assert!(long.len() > OBJECT_MAX_LEN);
            scene.say(&pieces(&long));
            scene.world.run_for(SECOND);
        }
        for (before, after) in before.iter().zip(refused(&scene)) {
            assert_eq!(after - before, 10, "seed {seed}");
        }
        scene.require_peace();
        // As many links as a record may have: everybody takes it, and nobody else's suffers.
        let links = (0..MAX_LINKS).map(|n| Said { member: MemberId([n as u8; 16]), cost_us: 1000 });
        let longest = Record { boot: BootEpoch(1001), links: links.collect(), ..content };
        let bytes = scene.sign(longest).to_bytes();
        assert!(bytes.len() > 4 * MAX_FRAGMENT_LEN && bytes.len() <= OBJECT_MAX_LEN, "{}", bytes.len());
        scene.say(&pieces(&bytes));
        scene.world.run_for(SECOND);
        for other in scene.others() {
            // (The cheat's node, which hears of it too, has said something newer since.)
            assert_eq!(scene.record(other, scene.cheat).body().boot, BootEpoch(1001), "seed {seed}");
        }
        scene.require_peace();
    }
}

#[test]
fn whoever_lies_about_its_links_draws_no_traffic_to_itself() {
    for seed in seeds(2) {
        let mut scene = Scene::new(seed);
        let (a, b) = (scene.honest[0], scene.honest[1]);
        let way = |scene: &Scene| {
            let to = scene.world.machine(b).member();
            let node = scene.world.machine(a).node().expect("it runs");
            node.announced_way(to).expect("a way")
        };
        let before = way(&scene);
        let content = scene.record(scene.cheat, scene.cheat).body().clone();
        let everybody: Vec<_> = scene.others().iter().map(|id| scene.world.machine(*id).member()).collect();
        let links = everybody.iter().map(|member| Said { member: *member, cost_us: 1 }).collect::<Vec<_>>();
        let mut links = links;
        links.sort_by_key(|link| link.member);
        let lie = scene.sign(Record { boot: BootEpoch(1000), links, ..content });
        scene.say(&[object(&lie)]);
        scene.world.run_for(3 * SECOND);
        // The cheat does relay, and may have been on the way before.
        let way = way(&scene);
        assert_eq!(way.first_hop, before.first_hop, "seed {seed}: {before:?}, {way:?}");
        // It costs what its ends have measured, not what the cheat says: 5 + 8 and 5 + 12 ms, both ways.
        assert!(way.cost_us > 30_000, "{way:?}");
        scene.require_peace();
    }
}

#[test]
fn whoever_announces_what_its_certificate_does_not_allow_gets_no_packet_and_has_none_taken() {
    for seed in seeds(1) {
        let mut scene = Scene::new(seed);
        let (a, c) = (scene.honest[0], scene.honest[2]);
        // The network of another with a better weight, a part of it, the address of a member, and one that is nobody's.
        let prefixes = ["10.7.0.0/16", "10.99.0.5/32", "172.16.5.0/24", "172.16.5.7/32"];
        let subnets = prefixes.map(|prefix| Subnet { prefix: prefix.parse().unwrap(), weight: 0 });
        let content = scene.record(scene.cheat, scene.cheat).body().clone();
        let flow = scene.world.flow_to(a, c, "172.16.5.7".parse().unwrap(), SECOND / 20);
        scene.world.run_for(SECOND);
        let mut heard = 0;
        for step in 1..30 {
            let (boot, subnets) = (BootEpoch(1000 + step), subnets.to_vec());
            let thief = scene.sign(Record { boot, subnets, ..content.clone() });
            scene.say(&[object(&thief)]);
            // Its own node takes it back as soon as it hears of it.
            scene.world.run_for(SECOND / 10);
            heard += usize::from(scene.record(a, scene.cheat).body().subnets.len() == prefixes.len());
        }
        assert!(heard > 0, "seed {seed}");
        for other in scene.others() {
            let node = scene.world.machine(other).node().expect("it runs");
            let now = scene.world.machine(other).now(scene.world.elapsed().as_micros() as u64);
            let routes = node.route_views(now);
            let stolen = |route: &RouteView| {
                route.owner.to_string() == "cheat" && prefixes.contains(&&*route.prefix.to_string())
            };
            assert!(!routes.iter().any(stolen), "{routes:?}");
        }
        // The world fails when a packet comes to the wrong machine, or in the name of a network that is not the sender's.
        let packet = meshnet_tests::sim::packet(
            "10.7.0.1".parse().unwrap(),
            scene.world.machine(a).addresses()[0],
            0,
            0,
            200,
        );
        scene.world.cheat(scene.cheat, a, &packet);
        scene.world.run_for(SECOND);
        assert_eq!(scene.world.finish(flow).lost(), 0, "seed {seed}");
    }
}

#[test]
fn traffic_leaves_a_relay_that_passes_nothing_on_within_three_seconds() {
    for seed in seeds(3) {
        let mut scene = Scene::new(seed);
        let (a, b) = (scene.honest[0], scene.honest[1]);
        let flow = scene.world.flow(a, b, SECOND / 50);
        scene.world.run_for(5 * SECOND);
        // Every relay is the cheat once: the one that carries the traffic is among them.
        for relay in [scene.relays[0], scene.relays[1], scene.cheat] {
            scene.world.machine_mut(relay).swallows = Swallows::Everything;
            scene.world.run_for(20 * SECOND);
            scene.world.machine_mut(relay).swallows = Swallows::Nothing;
            scene.world.run_for(20 * SECOND);
        }
        let report = scene.world.finish(flow);
        assert!(report.longest_outage < 3 * SECOND, "{report:?}, seed {seed}");
        println!("a relay passes nothing on: {:?} without a packet", report.longest_outage);
        assert!(report.lost() > 0, "no relay was used, seed {seed}");
    }
}

/// Which relay carries what `from` sends to `to`.
fn relay_in_use(world: &World, from: MachineId, to: MachineId) -> Option<String> {
    let machine = world.machine(from);
    let now = machine.now(world.elapsed().as_micros() as u64);
    let views = machine.node().expect("it runs").peer_views(now);
    let peer = views.into_iter().find(|peer| peer.member == world.machine(to).member())?;
    peer.path?.via.first().map(ToString::to_string)
}

#[test]
fn traffic_leaves_a_relay_that_passes_on_probes_but_no_packets_or_only_short_ones() {
    for seed in seeds(2) {
        for longest in [0, 600] {
            let mut scene = Scene::new(seed);
            let (a, b) = (scene.honest[0], scene.honest[1]);
            let to = scene.world.machine(b).addresses()[0];
            let short = scene.world.flow(a, b, SECOND / 50);
            let long = scene.world.flow_of(a, b, to, SECOND / 50, 1200);
            scene.world.run_for(5 * SECOND);
            let mut avoided = 0;
            for relay in [scene.relays[0], scene.relays[1], scene.cheat] {
                let lost = |scene: &Scene| [short, long].map(|flow| scene.world.report(flow).lost());
                let arrived = |scene: &Scene| [short, long].map(|flow| scene.world.report(flow).arrived);
                let before = lost(&scene);
                scene.world.machine_mut(relay).swallows = Swallows::Packets { longest };
                scene.world.run_for(5 * SECOND);
                // Some packets are always on their way. Relays may share: each flow counts for itself.
                let hit = lost(&scene).iter().zip(before).any(|(after, before)| *after > before + 10);
                avoided += u32::from(hit);
                let midway = arrived(&scene);
                scene.world.run_for(5 * SECOND);
                let since: Vec<u64> =
                    arrived(&scene).iter().zip(midway).map(|(after, before)| after - before).collect();
                assert!(
                    since.iter().all(|packets| *packets > 240),
                    "{since:?} of 250, seed {seed}, {longest}"
                );
                scene.world.machine_mut(relay).swallows = Swallows::Nothing;
                scene.world.run_for(12 * SECOND);
            }
            let (short, long) = (scene.world.finish(short), scene.world.finish(long));
            println!(
                "seed {seed}, passes packets up to {longest} bytes: {:?} and {:?} without a packet",
                short.longest_outage, long.longest_outage
            );
            assert!(avoided > 0 && long.lost() > 0, "no relay was used, seed {seed}");
            assert!(short.longest_outage < 3 * SECOND, "{short:?}, seed {seed}");
            assert!(long.longest_outage < 3 * SECOND, "{long:?}, seed {seed}");
        }
    }
}

#[test]
fn relays_that_go_on_swallowing_packets_are_tried_again_without_losing_any() {
    for seed in seeds(1) {
        let mut scene = Scene::new(seed);
        let (a, b) = (scene.honest[0], scene.honest[1]);
        let flow = scene.world.flow(a, b, SECOND / 20);
        scene.world.run_for(5 * SECOND);
        // The two that are nearer than the third.
        let near = [scene.relays[0], scene.cheat];
        for relay in near {
            scene.world.machine_mut(relay).swallows = Swallows::Packets { longest: 0 };
        }
        let far = Some(scene.world.name(scene.relays[1]));
        scene.world.run_for(6 * SECOND);
        assert_eq!(relay_in_use(&scene.world, a, b), far, "seed {seed}");
        let lost = |world: &World| world.report(flow).lost();
        let after = lost(&scene.world);
        assert!(after > 0, "seed {seed}");
        // They are tried after 10 s, 20 s, and so on: what goes over them then also goes over the other one.
        scene.world.run_for(80 * SECOND);
        assert!(lost(&scene.world) <= after + 1, "seed {seed}: {} after {after}", lost(&scene.world));
        // And one is taken again in the end.
        for relay in near {
            scene.world.machine_mut(relay).swallows = Swallows::Nothing;
        }
        scene.world.run_until("a near relay carries traffic again", 200 * SECOND, |world| {
            relay_in_use(world, a, b) != far
        });
        let report = scene.world.finish(flow);
        assert!(report.lost() <= after + 1, "seed {seed}: {report:?}");
    }
}

#[test]
fn a_relay_that_claims_to_be_near_everybody_and_passes_nothing_on_keeps_no_traffic() {
    for seed in seeds(2) {
        let mut scene = Scene::new(seed);
        let content = scene.record(scene.cheat, scene.cheat).body().clone();
        let everybody: Vec<_> = scene.others().iter().map(|id| scene.world.machine(*id).member()).collect();
        let mut links: Vec<_> = everybody.iter().map(|member| Said { member: *member, cost_us: 1 }).collect();
        links.sort_by_key(|link| link.member);
        let flow = scene.world.flow(scene.honest[0], scene.honest[1], SECOND / 50);
        scene.world.run_for(5 * SECOND);
        let cheat = scene.cheat;
        scene.world.machine_mut(cheat).swallows = Swallows::Everything;
        for step in 0..30u64 {
            // Of the same boot: who seems to have restarted loses its sessions.
            let lie = Record {
                seq: Seq(content.seq.0 + 1000 * (step + 1)),
                links: links.clone(),
                datacenter: None,
                ..content.clone()
            };
            let lie = scene.sign(lie);
            scene.say(&[object(&lie)]);
            scene.world.run_for(SECOND);
        }
        let report = scene.world.finish(flow);
        assert!(report.longest_outage < 3 * SECOND, "{report:?}, seed {seed}");
        println!("a liar passes nothing on: {:?} without a packet", report.longest_outage);
        scene.world.machine_mut(cheat).swallows = Swallows::Nothing;
        scene.world.run_for(10 * SECOND);
        scene.require_peace();
    }
}
