//! How fast one change reaches everybody: the real flooding ([`Flood`]) of up to tens of thousands of nodes, with nothing
//! around it.
//!
//! A whole node holds the records of all others, so that ten thousand of them do not fit on one machine. What decides how
//! far and how fast a change spreads is the flooding alone; so here a node is its [`Flood`] and the version that it has of
//! the one record that changes. What is left out: sessions and their handshakes (they are all up), signatures, the
//! comparing of databases (which would repair what flooding misses), and the time that processors take.
//! `tests/sim_scale.rs` has whole nodes, in smaller numbers, to compare with.

use std::collections::BTreeMap;
use std::time::Duration;

use meshnet::route::Version;
use meshnet::route::flood::{Action, Flood, Level, Neighbour};
use meshnet::time::Mono;
use proto::id::{BootEpoch, MemberId, Seq};
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};

/// What the mesh looks like.
#[derive(Clone, Copy, Debug)]
pub struct Shape {
    /// Members that relay.
    pub relays: usize,
    /// Members that do not.
    pub leaves: usize,
    /// Relays that each relay seeks.
    pub links_of_relay: usize,
    /// Relays that each other member is attached to.
    pub links_of_leaf: usize,
    /// Share of datagrams lost.
    pub loss: f64,
}

/// What became of one change.
#[derive(Clone, Debug)]
pub struct Spread {
    /// How long it took to reach each node but its origin, ascending.
    pub reached: Vec<Duration>,
    /// Nodes that it did not reach.
    pub missed: usize,
    /// Whole records sent.
    pub records: u64,
    /// Versions told.
    pub versions: u64,
    /// Questions asked.
    pub questions: u64,
}

impl Spread {
    /// The time within which the change reached this share of the nodes; those that it did not reach count as an hour.
    pub fn quantile(&self, share: f64) -> Duration {
        let all = self.reached.len() + self.missed;
        let at = ((all as f64 * share).ceil() as usize).saturating_sub(1);
        self.reached.get(at).copied().unwrap_or(Duration::from_secs(3600))
    }
}

enum Message {
    Record(Version),
    Version(Version),
    Question,
    Want(Level),
}

struct Station {
    flood: Flood,
    relays: bool,
    /// One-way delay from its site to the backbone.
    delay_us: u64,
    neighbours: Vec<usize>,
    version: Version,
    reached_us: Option<u64>,
    wake_us: u64,
}

type Pending = (usize, Option<(usize, Message)>);

/// Nodes that flood changes of one record after the other.
pub struct Spreading {
    now_us: u64,
    rng: StdRng,
    loss: f64,
    relays: usize,
    stations: Vec<Station>,
    /// By time in microseconds and sequence: to whom, and from whom what, or a wake-up.
    pending: BTreeMap<(u64, u64), Pending>,
    sequence: u64,
    origin: usize,
    version: u64,
    counts: [u64; 3],
}

fn id(at: usize) -> MemberId {
    MemberId(((at as u128) + 1).to_be_bytes())
}

fn at(id: MemberId) -> usize {
    (u128::from_be_bytes(id.0) - 1) as usize
}

impl Spreading {
    /// A mesh of this shape; everything random comes from `seed`.
    pub fn new(shape: Shape, seed: u64) -> Spreading {
        let mut rng = StdRng::seed_from_u64(seed);
        let mut stations: Vec<Station> = (0..shape.relays + shape.leaves)
            .map(|number| Station {
                flood: Flood::default(),
                relays: number < shape.relays,
                delay_us: rng.random_range(1_000..25_000),
                neighbours: Vec::new(),
                version: Version { boot: BootEpoch(1), seq: Seq(0) },
                reached_us: None,
                wake_us: u64::MAX,
            })
            .collect();
        for number in 0..stations.len() {
            let links = if number < shape.relays { shape.links_of_relay } else { shape.links_of_leaf };
            let links = links.min(shape.relays - usize::from(number < shape.relays));
            let mut left = links;
            while left > 0 {
                let other = rng.random_range(0..shape.relays);
                if other != number && !stations[number].neighbours.contains(&other) {
                    stations[number].neighbours.push(other);
                    stations[other].neighbours.push(number);
                    left -= 1;
                } else if stations[number].neighbours.len() >= links {
                    break;
                }
            }
        }
        for station in &mut stations {
            for neighbour in &station.neighbours {
                station.flood.established(id(*neighbour), true);
            }
        }
        Spreading {
            now_us: 0,
            rng,
            loss: shape.loss,
            relays: shape.relays,
            stations,
            pending: BTreeMap::new(),
            sequence: 0,
            origin: 0,
            version: 0,
            counts: [0; 3],
        }
    }

    /// Lets a random member that does not relay change its record, and follows the change for `within`.
    pub fn change(&mut self, within: Duration) -> Spread {
        let leaves = self.relays.min(self.stations.len() - 1);
        self.origin = self.rng.random_range(leaves..self.stations.len());
        self.version += 1;
        self.counts = [0; 3];
        let start_us = self.now_us;
        let version = Version { boot: BootEpoch(1), seq: Seq(self.version) };
        self.stations.iter_mut().for_each(|station| station.reached_us = None);
        let station = &mut self.stations[self.origin];
        station.version = version;
        // A node gathers changes of its own record before it makes a new one.
        let made = Mono(start_us) + meshnet::route::flood::BATCH;
        station.flood.learned(made, id(self.origin), version, None);
        self.act(self.origin);
        let end_us = start_us + within.as_micros() as u64;
        while let Some(entry) = self.pending.first_entry().filter(|entry| entry.key().0 <= end_us) {
            let ((at_us, _), (to, message)) = entry.remove_entry();
            self.now_us = at_us;
            match message {
                Some((from, message)) => self.receive(to, from, message),
                None if self.stations[to].wake_us == at_us => {
                    self.stations[to].wake_us = u64::MAX;
                    self.act(to);
                }
                None => {}
            }
        }
        self.now_us = end_us;
        let others = || self.stations.iter().enumerate().filter(|(number, _)| *number != self.origin);
        let mut reached: Vec<Duration> = others()
            .filter_map(|(_, station)| station.reached_us)
            .map(|at_us| Duration::from_micros(at_us - start_us))
            .collect();
        reached.sort_unstable();
        let [records, versions, questions] = self.counts;
        Spread { missed: self.stations.len() - 1 - reached.len(), reached, records, versions, questions }
    }

    fn receive(&mut self, to: usize, from: usize, message: Message) {
        let (now, now_us) = (Mono(self.now_us), self.now_us);
        let origin = id(self.origin);
        let station = &mut self.stations[to];
        match message {
            Message::Record(version) if version > station.version => {
                station.version = version;
                station.reached_us = Some(now_us);
                station.flood.learned(now, origin, version, Some(id(from)));
            }
            Message::Record(_) => {
                station.flood.known(now, origin, id(from), station.relays, neighbour_of(self.relays));
            }
            Message::Version(version) if version > station.version => {
                station.flood.missing(now, origin, version, id(from));
            }
            Message::Version(_) => {}
            Message::Question => {
                let version = station.version;
                self.send(to, from, Message::Record(version));
            }
            Message::Want(level) => station.flood.wants(id(from), level),
        }
        self.act(to);
    }

    fn act(&mut self, number: usize) {
        let now = Mono(self.now_us);
        let station = &mut self.stations[number];
        let (version, own) = (station.version, station.relays);
        let due = station.flood.poll_timeout().is_some_and(|at| at <= now);
        let actions = if due { station.flood.drive(now, own, neighbour_of(self.relays)) } else { Vec::new() };
        for action in actions {
            match action {
                Action::Push(to, _) => self.send(number, at(to), Message::Record(version)),
                Action::Tell(to, _) => self.send(number, at(to), Message::Version(version)),
                Action::Ask(to, _) => self.send(number, at(to), Message::Question),
                Action::Want(to, level) => self.send(number, at(to), Message::Want(level)),
            }
        }
        let station = &mut self.stations[number];
        let wake_us = station.flood.poll_timeout().map_or(u64::MAX, |at| at.0.max(self.now_us));
        if wake_us != station.wake_us && wake_us != u64::MAX {
            station.wake_us = wake_us;
            self.sequence += 1;
            self.pending.insert((wake_us, self.sequence), (number, None));
        }
    }

    fn send(&mut self, from: usize, to: usize, message: Message) {
        match message {
            Message::Record(_) => self.counts[0] += 1,
            Message::Version(_) => self.counts[1] += 1,
            Message::Question => self.counts[2] += 1,
            Message::Want(_) => {}
        }
        if self.loss > 0.0 && self.rng.random_bool(self.loss) {
            return;
        }
        let jitter_us = self.rng.random_range(0..2_000);
        let delay_us = self.stations[from].delay_us + self.stations[to].delay_us + jitter_us;
        self.sequence += 1;
        self.pending.insert((self.now_us + delay_us, self.sequence), (to, Some((from, message))));
    }
}

/// All links are with neighbours; relays come first by number.
fn neighbour_of(relays: usize) -> impl Fn(MemberId) -> Neighbour {
    move |member| Neighbour { near: at(member) < relays, relies: false }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SHAPE: Shape = Shape { relays: 20, leaves: 480, links_of_relay: 8, links_of_leaf: 3, loss: 0.0 };

    /// The last of ten changes, with what all missed, and the time within which 99 of 100 heard of theirs.
    fn settled(shape: Shape, seed: u64) -> (Spread, Duration) {
        let mut spreading = Spreading::new(shape, seed);
        for _ in 0..30 {
            spreading.change(Duration::from_secs(5));
        }
        let changes: Vec<Spread> = (0..10).map(|_| spreading.change(Duration::from_secs(5))).collect();
        let missed = changes.iter().map(|change| change.missed).sum();
        let mut reached: Vec<Duration> = changes.iter().flat_map(|change| change.reached.clone()).collect();
        reached.sort_unstable();
        let last = changes.into_iter().next_back().expect("ten changes");
        let p99 = Spread { reached, missed, ..last.clone() }.quantile(0.99);
        (Spread { missed, ..last }, p99)
    }

    #[test]
    fn a_change_reaches_all_over_a_few_copies_for_each() {
        let (last, p99) = settled(SHAPE, 1);
        assert_eq!(last.missed, 0);
        assert!(p99 < Duration::from_millis(500), "{p99:?}");
        // One copy for each leaf, three for each relay, and the origin's own to its relays.
        let most = 480 + 3 * 20 + 20;
        assert!(last.records <= most, "{} records", last.records);
        assert_eq!(last.questions, 0);
    }

    #[test]
    fn what_is_lost_is_asked_for_in_time() {
        let (last, p99) = settled(Shape { loss: 0.2, ..SHAPE }, 2);
        // A comparison of databases finds out what so much loss leaves.
        assert!(last.missed <= 10, "{}", last.missed);
        assert!(p99 < Duration::from_secs(1), "{p99:?}");
        assert!(last.questions > 0);
    }
}
