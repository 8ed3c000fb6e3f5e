//! A mesh of twelve in which packets go on every kind of path at once.

use super::{PORT, SETTLE, admit, done, flow, found, restart_with, wait_for_arrivals};
use netlab::flow::{Flow, FlowReport};
use netlab::mesh::{Member, PathStatus};
use netlab::{Lab, Switch, WireShape};
use std::fmt;
use std::time::Duration;

/// Two networks without a way between them: `a1` to `a4` on the left, `b1` to `b4` on the right; `r1`, which founded the mesh,
/// and `r2` stand in both and relay. `t1` and `t2` are on the left as well, and only TCP passes out of their machines.
#[derive(Debug)]
pub struct Grid {
    _lab: Lab,
    members: Vec<Member>,
}

/// A flow's two ends, by name, and what its packets go by.
pub type Pair = (&'static str, &'static str, &'static str);

/// Numbered packets on every kind of path; each goes both ways.
pub const PAIRS: [Pair; 4] =
    [("a1", "a2", "direct"), ("a1", "b1", "relayed"), ("t1", "r2", "TCP"), ("t1", "b1", "relayed by TCP")];

/// Those of [`PAIRS`] that need neither `r1` nor a relay.
pub const BYSTANDERS: [Pair; 3] = [("a1", "a2", "direct"), ("b1", "r2", "direct"), ("t1", "r2", "TCP")];

/// Flows under way, with what their packets go by.
#[derive(Debug)]
pub struct Flows(Vec<(&'static str, Flow)>);

/// What became of flows.
#[derive(Debug, Default)]
pub struct Tally {
    /// Packets sent, and lost, by what they went by.
    pub by_path: Vec<(&'static str, u64, u64)>,
    /// Packets that were given to a receiver twice.
    pub duplicated: u64,
    /// The longest silence at a receiver, in milliseconds.
    pub longest_gap_ms: u64,
    /// By what packets went that were lost one after the other, how many, and when: in milliseconds since their flow began.
    runs: Vec<(&'static str, u64, u64)>,
}

impl Grid {
    /// Builds it, every cable shaped like this, and waits until all of [`PAIRS`] have the paths that they should.
    ///
    /// # Panics
    /// When that fails.
    pub fn new(shape: Option<WireShape>) -> Grid {
        let lab = done(Lab::new());
        let (left, right) = (done(lab.switch("left")), done(lab.switch("right")));
        let mut seed = 0;
        let mut machine = |name: &str, plugs: &[(&Switch, String)]| {
            let machine = done(lab.machine(name));
            for (switch, address) in plugs {
                seed += 1;
                match shape {
                    None => done(machine.plug(switch, &[address])),
                    Some(shape) => {
                        done(machine.plug_by_wire(switch, &[address], WireShape { seed, ..shape }))
                    }
                };
            }
            machine
        };
        let mut members: Vec<Member> = Vec::new();
        for number in [1, 2] {
            let (at_left, at_right) = (format!("192.0.2.10{number}"), format!("198.51.100.10{number}"));
            let plugs = [(&left, format!("{at_left}/24")), (&right, format!("{at_right}/24"))];
            let machine = machine(&format!("r{number}"), &plugs);
            let endpoints = [format!("{at_left}:{PORT}"), format!("{at_right}:{PORT}")];
            let offer = ["--relay", "--endpoint", &endpoints[0], "--endpoint", &endpoints[1]];
            let mut relay = match members.first() {
                None => found(&machine, &offer),
                Some(founder) => admit(founder, &machine, &["--role", "relay"], &offer),
            };
            restart_with(&mut relay, &format!("listen_tcp = [\"[::]:{PORT}\"]"));
            members.push(relay);
        }
        let nodes = (1..=4).flat_map(|number| {
            [
                (format!("a{number}"), &left, format!("192.0.2.{number}/24")),
                (format!("b{number}"), &right, format!("198.51.100.{number}/24")),
            ]
        });
        let over_tcp = (1..=2).map(|number| (format!("t{number}"), &left, format!("192.0.2.2{number}/24")));
        for (name, switch, address) in nodes.chain(over_tcp) {
            let machine = machine(&name, &[(switch, address)]);
            let member = admit(&members[0], &machine, &[], &[]);
            members.push(member);
        }
        for name in ["t1", "t2"] {
            let member = members.iter().find(|member| member.machine().name() == name).expect("it is in");
            done(member.machine().nft(
                "table inet wall {\nchain out { type filter hook output priority 0; oifname \"eth0\" meta l4proto udp drop; }\n\
                 chain in { type filter hook input priority 0; iifname \"eth0\" meta l4proto udp drop; }\n}\n",
            ));
        }
        let grid = Grid { _lab: lab, members };
        for (from, to, by) in PAIRS.into_iter().chain(BYSTANDERS) {
            for (from, to) in [(from, to), (to, from)] {
                let is_right = |path: &PathStatus| match by {
                    "direct" => path.is_direct(),
                    "TCP" => path.kind == "tcp",
                    _ => path.is_relayed(),
                };
                done(grid.at(from).wait_for_ping(super::overlay(grid.at(to)), SETTLE));
                done(grid.at(from).wait_for_path(to, 2 * SETTLE, is_right));
            }
        }
        grid
    }

    /// A member by its name.
    ///
    /// # Panics
    /// When there is none.
    pub fn at(&self, name: &str) -> &Member {
        let named = self.members.iter().find(|member| member.machine().name() == name);
        named.unwrap_or_else(|| panic!("{name} is not in the grid"))
    }

    /// As [`Grid::at`], to be killed or started.
    ///
    /// # Panics
    /// When there is none.
    pub fn at_mut(&mut self, name: &str) -> &mut Member {
        let named = self.members.iter_mut().find(|member| member.machine().name() == name);
        named.unwrap_or_else(|| panic!("{name} is not in the grid"))
    }

    /// All twelve; the relays first.
    pub fn members(&self) -> &[Member] {
        &self.members
    }

    /// What every member has dropped so far, by its own count.
    pub fn drops(&self) -> String {
        let of = |member: &Member| {
            let counters = member.ok(&["metrics"]).unwrap_or_else(|error| error.to_string());
            let is_drop =
                |line: &&str| line.contains("drops") && !line.starts_with('#') && !line.ends_with(" 0");
            let drops: Vec<&str> = counters.lines().filter(is_drop).collect();
            format!("{}: {}\n", member.machine().name(), drops.join(", "))
        };
        self.members.iter().map(of).collect()
    }

    /// Starts 1,000 numbered packets a second each way, and waits until all of them arrive.
    ///
    /// # Panics
    /// When they do not.
    pub fn flows(&self, pairs: &[Pair]) -> Flows {
        let both = |(from, to, by): &Pair| [(*from, *to, *by), (*to, *from, *by)];
        let start = |(from, to, by): Pair| (by, flow(self.at(from), self.at(to), 1000));
        let flows = Flows(pairs.iter().flat_map(both).map(start).collect());
        flows.arrive(300);
        flows
    }
}

impl Flows {
    /// Waits until so many more packets of each have arrived.
    ///
    /// # Panics
    /// When they do not.
    pub fn arrive(&self, packets: u64) {
        self.0.iter().for_each(|(_, flow)| wait_for_arrivals(flow, packets));
    }

    /// Ends them, after some packets more.
    ///
    /// # Panics
    /// When a sender failed.
    pub fn stop(self) -> Tally {
        self.arrive(500);
        let mut tally = Tally::default();
        for (by, flow) in self.0 {
            tally.add(by, &done(flow.stop()));
        }
        tally
    }
}

impl Tally {
    fn add(&mut self, by: &'static str, report: &FlowReport) {
        self.duplicated += report.duplicated;
        self.longest_gap_ms = self.longest_gap_ms.max(report.longest_gap_ms());
        self.runs.extend(report.losses.iter().map(|run| (by, run.count, run.at_ms)));
        match self.by_path.iter_mut().find(|(known, ..)| *known == by) {
            Some((_, sent, lost)) => {
                *sent += report.sent;
                *lost += report.lost;
            }
            None => self.by_path.push((by, report.sent, report.lost)),
        }
    }

    /// All packets lost.
    pub fn lost(&self) -> u64 {
        self.by_path.iter().map(|(_, _, lost)| lost).sum()
    }

    /// Asserts that no packet is missing, and none was given to a receiver twice.
    ///
    /// # Panics
    /// When one is.
    #[track_caller]
    pub fn is_whole(&self, what: &str) {
        assert_eq!((self.lost(), self.duplicated), (0, 0), "{what}: {self}; lost runs: {:?}", self.runs);
    }
}

impl fmt::Display for Tally {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (by, sent, lost) in &self.by_path {
            write!(f, "{by} {lost} of {sent} lost, ")?;
        }
        write!(f, "{} twice, longest gap {} ms", self.duplicated, self.longest_gap_ms)
    }
}

/// 1 % of the frames are lost, and frames overtake each other.
pub const ROUGH: WireShape = WireShape {
    delay: Duration::from_millis(2),
    jitter: Duration::from_millis(4),
    loss_permille: 10,
    duplicate_permille: 0,
    seed: 0,
};
