//! Random meshes under random faults. Whatever happened, when it is over all agree and reach each other again.

use std::time::Duration;

use meshnet_tests::sim::{
    Attacker, FlowId, HostId, Link, MachineId, NatKind, SiteId, Spec, Uplink, World, seeds,
};

const SECOND: Duration = Duration::from_secs(1);

struct Chaos {
    world: World,
    sites: Vec<SiteId>,
    machines: Vec<MachineId>,
    blocked: Vec<(HostId, HostId)>,
    flows: Vec<FlowId>,
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
        Chaos { world, sites, machines, blocked: Vec::new(), flows: Vec::new(), next_address: 300 }
    }

    fn any_machine(&mut self) -> MachineId {
        self.machines[self.world.random(self.machines.len() as u64) as usize]
    }

    fn any_site(&mut self) -> SiteId {
        self.sites[self.world.random(self.sites.len() as u64) as usize]
    }

    fn do_something(&mut self) {
        let (a, b, site) = (self.any_machine(), self.any_machine(), self.any_site());
        let world = &mut self.world;
        match world.random(12) {
            0 => world.crash(a),
            1 => world.stop(a),
            2 | 3 => {
                world.crash(a);
                world.start(a);
            }
            4 => world.silence(a, true),
            5 => world.silence(a, false),
            6 if a != b => {
                world.net.set_blocked(HostId(a.0), HostId(b.0), true);
                self.blocked.push((HostId(a.0), HostId(b.0)));
            }
            7 => world.net.site_mut(site).up ^= true,
            8 => {
                if let Uplink::Nat(nat) = &mut world.net.site_mut(site).uplink {
                    nat.restart();
                }
            }
            // A relay's endpoint is configured: it stays where it is.
            9 if !world.machine(a).settings.relay => {
                self.next_address += 1;
                world.renumber(a, site, &address_at(site, self.next_address));
            }
            10 => {
                let error_ms = world.random(600_000) as i64 - 300_000;
                world.machine_mut(a).clock_error_ms = error_ms;
            }
            _ if a != b => self.flows.push(world.flow(a, b, Duration::from_millis(20))),
            _ => {}
        }
    }

    fn heal(&mut self) {
        for flow in std::mem::take(&mut self.flows) {
            self.world.end_flow(flow);
        }
        for (a, b) in std::mem::take(&mut self.blocked) {
            self.world.net.set_blocked(a, b, false);
        }
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
        for _ in 0..2 {
            for _ in 0..20 {
                chaos.do_something();
                let ms = chaos.world.random(4000);
                chaos.world.run_for(Duration::from_millis(ms));
                chaos.world.check_records();
            }
            chaos.heal();
            chaos.world.settle(90 * SECOND);
            chaos.world.run_for(30 * SECOND);
            // Sessions that were idle find out by their first packets that the other end has moved or restarted.
            chaos.world.check_reach(50, 25);
            chaos.world.check_reach(5, 5);
        }
    }
}
