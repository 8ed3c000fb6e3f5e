//! Large meshes of whole nodes: how they are laid out, and what is measured on them.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use meshnet::membership::IdentitySecret;
use meshnet::node::{PostQuantum, Settings};
use meshnet::route::Version;
use proto::endpoint::{Candidate, CandidateKind};
use proto::id::{BootEpoch, KeyEpochNumber, MemberId, Name, Seq};
use proto::record::{KeyFloor, Link as RecordLink, Record};

use super::build::Spec;
use super::flow::Report;
use super::machine::{Disk, START};
use super::nat::NatKind;
use super::net::{Link, SiteId};
use super::world::{MachineId, Metered, PORT, World};

/// What a crowd looks like.
#[derive(Clone, Copy, Debug)]
pub struct Plan {
    /// Members that relay, spread over the datacentres.
    pub relays: usize,
    /// Members that do not: two thirds in datacentres, the others at homes behind translators.
    pub leaves: usize,
    /// Datacentres, 2 to 50 ms apart, each way.
    pub datacentres: usize,
    /// Share of datagrams that every link between sites loses.
    pub loss: f64,
    /// Whether sessions are hybrid.
    pub pq: PostQuantum,
}

/// A mesh of whole nodes.
pub struct Crowd {
    /// The world that it is in.
    pub world: World,
    /// Members that relay.
    pub relays: Vec<MachineId>,
    /// Members that do not.
    pub leaves: Vec<MachineId>,
    /// Whether to tell on stderr how far it is.
    pub tells: bool,
}

/// How often it is told how many daemons were started.
const TELL_STARTED: usize = 100;
/// Leaves at one home.
const AT_HOME: usize = 20;

/// What a mesh did until nothing changed any more.
#[derive(Clone, Debug)]
pub struct Converged {
    /// When the last database changed, after the beginning.
    pub after: Duration,
    /// What each machine did until then.
    pub metered: Vec<Metered>,
}

impl Crowd {
    /// Machines with the records of each other from before, whose daemons do not run.
    pub fn new(plan: Plan, seed: u64) -> Crowd {
        let mut world = World::new(seed);
        world.large();
        let wan = |ms: u64| Link { jitter_us: 500, ..Link::delay_ms(ms) }.lossy(plan.loss);
        let datacentres: Vec<SiteId> = (0..plan.datacentres)
            .map(|number| {
                world.public_site(&format!("172.{}.0.0/16", 16 + number), wan(1 + 3 * number as u64 % 25))
            })
            .collect();
        let mut crowd = Crowd { world, relays: Vec::new(), leaves: Vec::new(), tells: false };
        for number in 0..plan.relays {
            let at = number % plan.datacentres;
            let address = format!("172.{}.0.{}", 16 + at, 1 + number / plan.datacentres);
            let spec = Spec::new(&format!("r{number}"), datacentres[at], &address).relay().pq(plan.pq);
            let machine = crowd.world.add(spec);
            crowd.settle_in(machine, at);
            crowd.relays.push(machine);
        }
        let mut home = None;
        for number in 0..plan.leaves {
            let at = number % plan.datacentres;
            let name = format!("n{number}");
            let spec = if number % 3 < 2 {
                Spec::new(
                    &name,
                    datacentres[at],
                    &format!("172.{}.{}.{}", 16 + at, 1 + number / 250, 1 + number % 250),
                )
            } else {
                let (homes, inside) = (number / 3 / AT_HOME, number / 3 % AT_HOME);
                if inside == 0 {
                    let public = format!("192.0.{}.{}", 2 + homes / 250, 1 + homes % 250);
                    let link = wan(5 + homes as u64 % 20);
                    home =
                        Some(crowd.world.nat_site("192.168.1.0/24", NatKind::PortRestricted, &public, link));
                }
                Spec::new(&name, home.expect("the first brings it"), &format!("192.168.1.{}", 10 + inside))
            };
            let machine = crowd.world.add(spec.pq(plan.pq));
            crowd.settle_in(machine, at);
            crowd.leaves.push(machine);
        }
        crowd
    }

    fn settle_in(&mut self, machine: MachineId, datacentre: usize) {
        let name = Name::new(&format!("dc{datacentre}")).expect("a name");
        self.world.machine_mut(machine).settings.datacenter = Some(name);
    }

    /// All machines.
    pub fn machines(&self) -> Vec<MachineId> {
        self.relays.iter().chain(&self.leaves).copied().collect()
    }

    /// Starts all daemons at one moment, each with the certificates, keys, and records of all from before: the power has
    /// come back.
    pub fn start_at_once(&mut self) {
        self.start_among(0);
    }

    /// As [`Crowd::start_at_once`], in a mesh that has `paper` members more, of whom all know and nobody ever hears.
    pub fn start_among(&mut self, paper: usize) {
        let cache = self.world.remembered(paper, &[]);
        let (began, machines) = (Instant::now(), self.machines());
        for (started, machine) in machines.iter().copied().enumerate() {
            if self.tells && started % TELL_STARTED == 0 {
                eprintln!(
                    "{:>7.1?}: {started} of {} have read their caches",
                    began.elapsed(),
                    machines.len()
                );
            }
            self.world.machine_mut(machine).saves = false;
            self.world.machine_mut(machine).disk.cache.clone_from(&cache);
            self.world.start(machine);
            self.world.machine_mut(machine).disk.cache = Vec::new();
        }
    }

    /// Lets time pass until no database has changed for `quiet`, or fails after `limit`.
    pub fn converge(&mut self, quiet: Duration, limit: Duration) -> Converged {
        let start = self.world.elapsed();
        let step = Duration::from_millis(100);
        let (mut before, mut after) = (self.summaries(), Duration::ZERO);
        let mut metered = self.world.metered();
        let began = Instant::now();
        loop {
            self.world.run_for(step);
            let passed = self.world.elapsed() - start;
            let now = self.summaries();
            if self.tells {
                let agree = most_alike(&now);
                eprintln!(
                    "{:>7.1?}: {:.1} s of virtual time, {agree} of {} databases are alike",
                    began.elapsed(),
                    passed.as_secs_f64(),
                    now.len()
                );
            }
            if now != before {
                (before, after, metered) = (now, passed, self.world.metered());
            } else if passed - after >= quiet && self.is_one() {
                return Converged { after, metered };
            }
            if passed > limit {
                self.world.fail(&format!("databases still change after {limit:?}"));
            }
        }
    }

    fn summaries(&self) -> Vec<[u64; 16]> {
        let nodes = self.world.machines().filter_map(|(_, machine)| machine.node());
        nodes.map(|node| node.lsdb().summary()).collect()
    }

    /// Whether all databases are equal, and every node has a way to every other.
    pub fn is_one(&self) -> bool {
        let summaries = self.summaries();
        let equal = summaries.iter().all(|summary| *summary == summaries[0]);
        let whole = || {
            self.machines().iter().all(|id| {
                let node = self.world.machine(*id).node().expect("it runs");
                node.lsdb()
                    .iter()
                    .all(|(member, _)| member == node.member() || node.announced_way(member).is_some())
            })
        };
        equal && whole()
    }

    /// Lets a random leaf say that it can be reached elsewhere as well, and tells how long it took each other node to know, ascending.
    pub fn change(&mut self, within: Duration) -> Vec<Duration> {
        let origin = self.leaves[self.world.random(self.leaves.len() as u64) as usize];
        let member = self.world.machine(origin).member();
        let settings = self.world.machine(origin).settings.clone();
        let before = self.version(origin, member).expect("it has a record");
        let port = 1 + self.world.random(60_000) as u16;
        let endpoints = vec![SocketAddr::new([203, 0, 113, 1].into(), port)];
        self.world.reconfigure(origin, Settings { endpoints, ..settings });
        let start = self.world.elapsed();
        let mut waiting: Vec<MachineId> = self.machines().into_iter().filter(|id| *id != origin).collect();
        let mut reached = Vec::new();
        while !waiting.is_empty() {
            self.world.run_for(Duration::from_millis(2));
            let passed = self.world.elapsed() - start;
            let all = waiting.len();
            waiting.retain(|id| self.version(*id, member).is_none_or(|version| version <= before));
            reached.resize(reached.len() + all - waiting.len(), passed);
            if passed > within {
                self.world.fail(&format!("{} nodes have not heard within {within:?}", waiting.len()));
            }
        }
        reached
    }

    fn version(&self, at: MachineId, of: MemberId) -> Option<Version> {
        self.world.machine(at).node()?.lsdb().get(of).map(|entry| entry.version())
    }

    /// Machines that are in no way special.
    pub fn sample(&mut self, count: usize) -> Vec<MachineId> {
        let mut sample = Vec::new();
        while sample.len() < count {
            let machine = self.leaves[self.world.random(self.leaves.len() as u64) as usize];
            if !sample.contains(&machine) {
                sample.push(machine);
            }
        }
        sample
    }

    /// Lets the first relay crash and start again so often, twenty times a minute, and gives what that does to flows between
    /// so many pairs of others: from whom to whom, and how each went.
    pub fn flap(&mut self, times: usize, pairs: usize) -> Vec<(MachineId, MachineId, Report)> {
        let hub = self.relays[0];
        let members = self.sample(2 * pairs);
        let flows: Vec<_> = members
            .chunks(2)
            .map(|pair| (pair[0], pair[1], self.world.flow(pair[0], pair[1], Duration::from_millis(50))))
            .collect();
        self.world.run_for(Duration::from_secs(10));
        for _ in 0..times {
            self.world.crash(hub);
            self.world.run_for(Duration::from_millis(1500));
            self.world.start(hub);
            self.world.run_for(Duration::from_millis(1500));
        }
        self.world.run_for(Duration::from_secs(5));
        flows.into_iter().map(|(from, to, flow)| (from, to, self.world.finish(flow))).collect()
    }
}

/// How many are as most are.
fn most_alike(summaries: &[[u64; 16]]) -> usize {
    let mut counts: BTreeMap<&[u64; 16], usize> = BTreeMap::new();
    for summary in summaries {
        *counts.entry(summary).or_default() += 1;
    }
    counts.into_values().max().unwrap_or(0)
}

impl World {
    /// What a machine's cache holds that has met all others, and `paper` more members that exist in certificates, keys,
    /// and records only. Their records say that they have links with `relays`.
    pub fn remembered(&mut self, paper: usize, relays: &[MachineId]) -> Vec<u8> {
        let relays: Vec<MemberId> = relays.iter().map(|relay| self.machine(*relay).member()).collect();
        let links: Vec<RecordLink> =
            relays.iter().map(|member| RecordLink { member: *member, cost_us: 10_000 }).collect();
        let mut all: Vec<[Vec<u8>; 3]> =
            self.machines.iter().map(|machine| objects(&machine.disk, &machine.settings, &[])).collect();
        for number in 0..paper {
            let address = format!("172.16.{}.{}", 128 + number / 250, 1 + number % 250);
            let spec = Spec::new(&format!("paper{number}"), SiteId(0), &address);
            let (disk, mut settings) = self.certify(&spec, PAPER + number);
            settings.datacenter = Name::new(&format!("dc{}", number % 8)).ok();
            all.push(objects(&disk, &settings, &links));
        }
        let mut out = Vec::new();
        for kind in 0..3 {
            for object in all.iter().map(|objects| &objects[kind]) {
                out.extend_from_slice(&(object.len() as u16).to_be_bytes());
                out.extend_from_slice(object);
            }
        }
        out
    }
}

/// Members on paper are numbered from here.
const PAPER: usize = 20_000;

/// The certificate, key epoch, and a record from before of a machine.
fn objects(disk: &Disk, settings: &Settings, links: &[RecordLink]) -> [Vec<u8>; 3] {
    let identity = IdentitySecret::from_bytes(&disk.identity);
    let certificate = disk.certificate.body();
    let candidates = settings.interface_addresses.iter().map(|address| Candidate {
        kind: CandidateKind::Interface,
        endpoint: SocketAddr::new(*address, PORT),
    });
    let record = identity.sign_record(Record {
        mesh: certificate.mesh,
        member: certificate.member,
        boot: BootEpoch(0),
        seq: Seq(0),
        created_s: START.seconds(),
        certificate: certificate.serial,
        key_epoch: KeyEpochNumber(1),
        candidates: candidates.collect(),
        subnets: Vec::new(),
        datacenter: settings.datacenter.clone(),
        relays: settings.relay,
        links: links.to_vec(),
        floor: Some(KeyFloor { accepted: KeyEpochNumber(1), cut: KeyEpochNumber(0) }),
        confirms: Vec::new(),
        short_confirms: Vec::new(),
        bundle: Some(1),
        plan: None,
    });
    let epoch = &disk.keys.epochs().first().expect("it has a key").signed;
    [disk.certificate.signed().to_bytes(), epoch.to_bytes(), record.expect("a record fits").to_bytes()]
}
