//! A long run: real daemons, a random fault every now and then, and in the end everybody reaches everybody, and no daemon
//! has grown.
//!
//! Without `MESHNET_SOAK` it has ten daemons and forty seconds. `MESHNET_SOAK=180` is part of `make test`, `MESHNET_SOAK=1200` is
//! `make soak`: thirty daemons, a fault every 20 s for so many seconds. `MESHNET_SOAK_SEED` chooses the faults; a failure tells it.

use meshnet_tests::net::{PORT, admit, done, enlist, figure, found, limit, wait_for_all_pairs};
use netlab::mesh::Member;
use netlab::{Fault, Lab, Port};
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};
use std::net::IpAddr;
use std::time::{Duration, Instant};

/// What a daemon may have more in the end than after everybody had reached everybody for the first time.
const MORE_BYTES: u64 = 4_000_000;
const MORE_DESCRIPTORS: usize = 4;

struct Station {
    member: Member,
    port: Port,
    /// Its address on the underlay, which faults may change.
    address: String,
    /// Its relays' addresses are configured: they stay where they are.
    fixed: bool,
}

/// What a daemon holds.
#[derive(Clone, Copy, Debug)]
struct Held {
    anonymous_bytes: u64,
    descriptors: usize,
}

struct Soak {
    stations: Vec<Station>,
    rng: StdRng,
    next_address: u32,
}

impl Soak {
    /// Two relays and others on one network.
    fn new(lab: &Lab, count: usize, seed: u64) -> Soak {
        let switch = done(lab.switch("internet"));
        let mut stations: Vec<Station> = Vec::new();
        for number in 1..=count {
            let relay = number <= 2;
            let machine = done(lab.machine(&format!("n{number}")));
            let address = format!("203.0.113.{number}");
            let port = done(machine.plug(&switch, &[&format!("{address}/24")]));
            let endpoint = format!("{address}:{PORT}");
            let offer = ["--relay", "--endpoint", &endpoint];
            let member = match stations.first() {
                None => found(&machine, &offer),
                Some(first) if relay => {
                    let mut member = enlist(&first.member, &machine, &["--role", "relay"], &offer);
                    done(member.up());
                    member
                }
                Some(first) => admit(&first.member, &machine, &[], &[]),
            };
            stations.push(Station { member, port, address, fixed: relay });
        }
        Soak { stations, rng: StdRng::seed_from_u64(seed), next_address: 100 }
    }

    fn members(&self) -> Vec<&Member> {
        self.stations.iter().map(|station| &station.member).collect()
    }

    fn pick(&mut self) -> usize {
        self.rng.random_range(0..self.stations.len())
    }

    /// One fault, held for `held`, and its end. Says what it was.
    fn trouble(&mut self, held: Duration) -> String {
        let (at, other) = (self.pick(), self.pick());
        let name = |soak: &Soak, at: usize| soak.stations[at].member.machine().name().to_owned();
        let (this, that) = (name(self, at), name(self, other));
        match self.rng.random_range(0..9) {
            0 => {
                self.stations[at].member.kill();
                pass(held);
                done(self.stations[at].member.up());
                format!("{this} killed and started")
            }
            1 => {
                done(self.stations[at].member.terminate(Duration::from_secs(5)));
                done(self.stations[at].member.up());
                format!("{this} stopped and started")
            }
            2 => {
                done(self.stations[at].port.silence());
                pass(held);
                done(self.stations[at].port.heal());
                format!("{this} silent")
            }
            3 if at != other => {
                let far: Vec<IpAddr> = vec![self.stations[other].address.parse().expect("an address")];
                done(self.stations[at].port.apply(&Fault {
                    cut_to: far.clone(),
                    cut_from: far,
                    ..Fault::default()
                }));
                pass(held);
                done(self.stations[at].port.heal());
                format!("nothing between {this} and {that}")
            }
            4 if at != other => {
                let far = vec![self.stations[other].address.parse().expect("an address")];
                done(self.stations[at].port.apply(&Fault { cut_to: far, ..Fault::default() }));
                pass(held);
                done(self.stations[at].port.heal());
                format!("nothing from {this} to {that}")
            }
            5 => {
                for _ in 0..5 {
                    done(self.stations[at].port.set_carrier(false));
                    pass(held / 10);
                    done(self.stations[at].port.set_carrier(true));
                    pass(held / 10);
                }
                format!("{this} flapped")
            }
            6 => {
                let daemon = self.stations[at].member.daemon().expect("it runs");
                daemon.pause();
                pass(held);
                daemon.resume();
                format!("{this} asleep")
            }
            7 if !self.stations[at].fixed => {
                self.next_address += 1;
                let address = format!("203.0.113.{}", self.next_address);
                let station = &mut self.stations[at];
                done(station.port.remove_address(&format!("{}/24", station.address)));
                done(station.port.add_address(&format!("{address}/24")));
                station.address = address;
                pass(held);
                format!("{this} has another address")
            }
            _ => {
                let storm: Vec<usize> = (0..self.stations.len() / 3).map(|_| self.pick()).collect();
                for at in &storm {
                    self.stations[*at].member.kill();
                }
                pass(held / 2);
                for at in &storm {
                    if self.stations[*at].member.pid().is_none() {
                        done(self.stations[*at].member.up());
                    }
                }
                format!("{} restarted at once", storm.len())
            }
        }
    }

    fn held(&mut self) -> Vec<Held> {
        let of = |station: &mut Station| {
            let daemon = station.member.daemon().expect("it runs");
            let descriptors = done(std::fs::read_dir(format!("/proc/{}/fd", daemon.pid()))).count();
            Held { anonymous_bytes: done(daemon.usage()).anonymous_bytes, descriptors }
        };
        self.stations.iter_mut().map(of).collect()
    }
}

#[test]
fn after_a_long_time_of_random_faults_all_reach_each_other_and_no_daemon_has_grown() {
    let long: u64 = limit("MESHNET_SOAK", 0);
    let (count, span, every) = if long > 0 { (30, long, 20) } else { (10, 40, 5) };
    let (span, every) = (Duration::from_secs(span), Duration::from_secs(every));
    let seed = limit("MESHNET_SOAK_SEED", 1_u64);
    let lab = done(Lab::new());
    let mut soak = Soak::new(&lab, count, seed);
    wait_for_all_pairs(&soak.members());
    let before = soak.held();
    let start = Instant::now();
    let mut faults = 0;
    while start.elapsed() < span {
        let began = Instant::now();
        let held = Duration::from_millis(soak.rng.random_range(500..every.as_millis() as u64 * 3 / 4));
        let what = soak.trouble(held);
        faults += 1;
        println!("{:6.1} s: {what}, {:.1} s", start.elapsed().as_secs_f64(), began.elapsed().as_secs_f64());
        pass(every.saturating_sub(began.elapsed()));
    }
    let healed = Instant::now();
    wait_for_all_pairs(&soak.members());
    let healing = healed.elapsed();
    let after = soak.held();
    let more =
        before.iter().zip(&after).map(|(b, a)| a.anonymous_bytes.saturating_sub(b.anonymous_bytes)).max();
    figure(
        &format!("soak: {count} daemons, {faults} faults in {} s", span.as_secs()),
        format!(
            "all pairs again {:.1} s after the last; at most {} kB more and {} descriptors",
            healing.as_secs_f64(),
            more.unwrap_or(0) / 1000,
            after.iter().map(|held| held.descriptors).max().unwrap_or(0)
        ),
    );
    for (station, (before, after)) in soak.stations.iter().zip(before.iter().zip(&after)) {
        let name = station.member.machine().name();
        assert!(
            after.anonymous_bytes <= before.anonymous_bytes + MORE_BYTES,
            "{name}: {before:?}, then {after:?}, seed {seed}"
        );
        assert!(
            after.descriptors <= before.descriptors + MORE_DESCRIPTORS,
            "{name}: {before:?}, then {after:?}, seed {seed}"
        );
        assert!(!station.member.log_text().contains("panicked"), "{name}, seed {seed}");
    }
}

/// Lets time pass: how long a fault lasts is part of it.
fn pass(time: Duration) {
    let start = Instant::now();
    done(netlab::wait::until_true("time to pass", time * 2 + Duration::from_secs(1), || {
        start.elapsed() >= time
    }));
}
