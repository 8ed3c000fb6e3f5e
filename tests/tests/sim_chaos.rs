//! Random meshes under random trouble. Whatever happened, when it is over all agree and reach each other again.
//!
//! What happens is a list of steps ([`Trouble`]) drawn from the seed. A run that fails prints the list; lists that once failed
//! are kept in `scenarios/` beside this file, and every run replays them.

use std::path::Path;
use std::time::Duration;

use meshnet_tests::sim::{Attacker, Link, MachineId, NatKind, SiteId, Spec, Trouble, World, seeds};

const SECOND: Duration = Duration::from_secs(1);

struct Chaos {
    world: World,
    sites: Vec<SiteId>,
    machines: Vec<MachineId>,
    /// Next unused address at a site.
    next_address: u64,
}

fn random_link(world: &mut World) -> Link {
    let link = Link::delay_ms(1 + world.random(60));
    match world.random(3) {
        0 => link,
        1 => link.lossy(0.01),
        _ => link.lossy(0.02).messy(0.02, 0.05),
    }
}

fn subnet_of(site: SiteId) -> String {
    format!("172.{}.0.0/16", 16 + site.0)
}

fn address_at(site: SiteId, number: u64) -> String {
    format!("172.{}.{}.{}", 16 + site.0, number / 250, number % 250 + 1)
}

impl Chaos {
    /// One to three relays in public sites, and two to six nodes anywhere.
    fn new(seed: u64) -> Chaos {
        let mut world = World::new(seed);
        let publics = 1 + world.random(3) as usize;
        let homes = 1 + world.random(4) as usize;
        let mut sites = Vec::new();
        for n in 0..publics + homes {
            let link = random_link(&mut world);
            let kinds = [NatKind::FullCone, NatKind::PortRestricted, NatKind::Symmetric];
            let kind = kinds[world.random(3) as usize];
            let subnet = subnet_of(SiteId(n));
            sites.push(if n < publics {
                world.public_site(&subnet, link)
            } else {
                world.nat_site(&subnet, kind, &format!("192.0.2.{n}"), link)
            });
        }
        let relays = 1 + world.random(3);
        let nodes = 2 + world.random(5);
        let mut machines = Vec::new();
        for n in 0..relays {
            let site = sites[world.random(publics as u64) as usize];
            machines.push(world.add(Spec::new(&format!("r{n}"), site, &address_at(site, n)).relay()));
        }
        for n in 0..nodes {
            let site = sites[world.random(sites.len() as u64) as usize];
            machines.push(world.add(Spec::new(&format!("n{n}"), site, &address_at(site, 10 + n))));
        }
        world.form(&machines);
        Chaos { world, sites, machines, next_address: 300 }
    }

    /// Lets all of it happen, then heals everything, and requires that all is well again.
    fn go_through(&mut self, trouble: &Trouble) {
        for (step, ms) in &trouble.0 {
            let next = &mut self.next_address;
            self.world.suffer(*step, |site| {
                *next += 1;
                address_at(site, *next)
            });
            self.world.run_for(Duration::from_millis(*ms));
            self.world.check_records();
            self.world.check_bounds();
        }
        self.heal();
        self.world.settle(90 * SECOND);
        self.world.run_for(30 * SECOND);
        // Sessions that were idle find out by their first packets that the other end has moved or restarted.
        self.world.check_reach(50, 25);
        self.world.check_reach(5, 5);
    }

    fn heal(&mut self) {
        self.world.end_flows();
        self.world.net.unblock_all();
        for site in &self.sites {
            let site = self.world.net.site_mut(*site);
            site.up = true;
            site.wan = Link { loss: 0.0, duplicate: 0.0, reorder: 0.0, ..site.wan };
        }
        for machine in &self.machines {
            self.world.silence(*machine, false);
            if self.world.machine(*machine).node().is_none() {
                self.world.start(*machine);
            }
        }
    }
}

#[test]
fn after_any_faults_all_agree_and_reach_each_other_again() {
    for seed in seeds(20) {
        let mut chaos = Chaos::new(seed);
        if seed % 3 == 0 {
            chaos.world.attacker = Attacker { replay: 0.05, alter: 0.05, spoof: 0.05 };
        }
        for round in 0..2 {
            let trouble = Trouble::draw(seed * 2 + round, 20);
            println!(
                "seed {seed}, round {round}; to keep it: tests/tests/scenarios/{seed}-NAME.txt\n{trouble}"
            );
            chaos.go_through(&trouble);
        }
    }
}

/// A scenario's file is named after the seed of its mesh: `7-what-it-is.txt`.
#[test]
fn what_once_went_wrong_does_not_go_wrong_again() {
    let directory = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/scenarios");
    let mut files: Vec<_> =
        std::fs::read_dir(directory).unwrap().map(|entry| entry.unwrap().path()).collect();
    files.sort();
    assert!(!files.is_empty());
    for file in files {
        let name = file.file_name().unwrap().to_string_lossy().into_owned();
        let seed: u64 =
            name.split('-').next().and_then(|seed| seed.parse().ok()).expect("a seed in the name");
        let trouble: Trouble = std::fs::read_to_string(&file).unwrap().parse().expect("steps");
        println!("{name}");
        Chaos::new(seed).go_through(&trouble);
    }
}
