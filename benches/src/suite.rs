//! The rounds: every system does every work once a round, side by side.

use crate::metric::Metric;
use crate::rig::{Rig, Shape};
use crate::stats::Rounds;
use crate::system::{Daemons, Running, System};
use crate::work::{echo, fan_in, tcp, udp};
use anyhow::Context;
use netlab::mesh::PathStatus;
use std::collections::BTreeMap;
use std::ops::Range;
use std::time::{Duration, Instant};

/// How long a system may take from start to the first echo.
const START_LIMIT: Duration = Duration::from_secs(30);

/// Peers of the node in the middle for [`Metric::TcpFanIn`].
const SPOKES: usize = 8;

/// So much of the data's packets are lost for [`Metric::TcpLoss`], per thousand.
const LOSS_PERMILLE: u16 = 10;

/// How much to measure.
#[derive(Clone, Copy, PartialEq, Debug)]
pub struct Plan {
    /// Rounds.
    pub rounds: usize,
    /// Length of the main TCP streams, in seconds.
    pub stream_s: u32,
    /// Length of the other TCP streams, in seconds.
    pub side_stream_s: u32,
    /// How long round trips are measured with nothing else under way.
    pub echo: Duration,
    /// How long each packet rate is tried.
    pub each_rate: Duration,
    /// How often the interval of rates is halved.
    pub halvings: u32,
    /// No round begins that would end later than this after the start if it took as long as the one before, and nothing at
    /// all begins later than this.
    pub limit: Option<Duration>,
}

impl Plan {
    /// Ends within five minutes, whatever systems there are: where those are slow or many, with fewer rounds, down to a
    /// part of one. What has a single round is not quoted.
    pub const SHORT: Plan = Plan {
        rounds: 3,
        stream_s: 1,
        side_stream_s: 1,
        echo: Duration::from_millis(300),
        each_rate: Duration::from_millis(120),
        halvings: 3,
        limit: Some(Duration::from_secs(265)),
    };

    /// For figures to be relied on; about an hour.
    pub const FULL: Plan = Plan {
        rounds: 7,
        stream_s: 10,
        side_stream_s: 5,
        echo: Duration::from_secs(3),
        each_rate: Duration::from_secs(1),
        halvings: 6,
        limit: None,
    };
}

/// What processor time counts for, and of which daemons in the order of the machines.
type Cost = (Metric, Range<usize>);

/// The figures of one system.
#[derive(Clone, Debug, Default)]
pub struct Figures {
    /// What was measured.
    pub values: BTreeMap<Metric, Rounds>,
    /// What failed, with the last reason.
    pub failures: BTreeMap<Metric, String>,
}

/// Which metrics are wanted.
pub type Wanted<'a> = &'a dyn Fn(Metric) -> bool;

/// Runs the rounds. `progress` is told what begins; `keep` gets all figures so far whenever a round has ended, so that a run
/// that is killed is not lost.
///
/// A failure of one system in one work is kept with its figures and ends nothing else.
pub fn run(
    systems: &[Box<dyn System>],
    plan: Plan,
    wanted: Wanted<'_>,
    mut progress: impl FnMut(&str),
    mut keep: impl FnMut(usize, &[Figures]),
) -> Vec<Figures> {
    let start = Instant::now();
    let mut all: Vec<Figures> = systems.iter().map(|_| Figures::default()).collect();
    let mut last_round = Duration::ZERO;
    for round in 0..plan.rounds {
        let begun = start.elapsed();
        if plan.limit.is_some_and(|limit| begun + last_round > limit) {
            progress(&format!("{round} rounds took {} s: no further one", begun.as_secs()));
            break;
        }
        for group in Group::ALL {
            if !group.metrics().iter().any(|metric| wanted(*metric)) {
                continue;
            }
            for at in 0..systems.len() {
                let system = &systems[at];
                if !system.can(group.shape()) {
                    continue;
                }
                if plan.limit.is_some_and(|limit| start.elapsed() > limit) {
                    progress(&format!("the time is up in round {}", round + 1));
                    return all;
                }
                progress(&format!(
                    "round {} of {}: {}, {}",
                    round + 1,
                    plan.rounds,
                    group.title(),
                    system.name()
                ));
                Session { plan, wanted, figures: &mut all[at] }.run(system.as_ref(), group);
            }
        }
        last_round = start.elapsed() - begun;
        keep(round + 1, &all);
    }
    all
}

/// Works that share a rig.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Group {
    Direct,
    Jumbo,
    Star,
    OneRelay,
    TwoRelays,
}

impl Group {
    const ALL: [Group; 5] = [Group::Direct, Group::Jumbo, Group::Star, Group::OneRelay, Group::TwoRelays];

    fn shape(self) -> Shape {
        match self {
            Group::Direct => Shape::DIRECT,
            Group::Jumbo => Shape { underlay_mtu: 9000, ..Shape::DIRECT },
            Group::Star => Shape { spokes: SPOKES, ..Shape::DIRECT },
            Group::OneRelay => Shape { relays: 1, ..Shape::DIRECT },
            Group::TwoRelays => Shape { relays: 2, ..Shape::DIRECT },
        }
    }

    fn title(self) -> &'static str {
        match self {
            Group::Direct => "direct",
            Group::Jumbo => "9000-byte underlay",
            Group::Star => "eight peers",
            Group::OneRelay => "one relay",
            Group::TwoRelays => "two relays",
        }
    }

    fn metrics(self) -> &'static [Metric] {
        match self {
            Group::Direct => &[
                Metric::Start,
                Metric::RttIdleP50,
                Metric::RttIdleP99,
                Metric::TcpThere,
                Metric::CpuPerGb,
                Metric::CpuSender,
                Metric::CpuReceiver,
                Metric::TcpBack,
                Metric::TcpFour,
                Metric::RttLoadP50,
                Metric::RttLoadP99,
                Metric::Resident,
                Metric::Udp64,
                Metric::Udp1400,
                Metric::TcpLoss,
            ],
            Group::Jumbo => &[Metric::TcpJumbo],
            Group::Star => &[Metric::TcpFanIn],
            Group::OneRelay => &[Metric::TcpRelayed, Metric::CpuRelay],
            Group::TwoRelays => &[Metric::TcpRelayedTwice],
        }
    }
}

/// One system in one group of one round.
struct Session<'a> {
    plan: Plan,
    wanted: Wanted<'a>,
    figures: &'a mut Figures,
}

impl Session<'_> {
    fn run(&mut self, system: &dyn System, group: Group) {
        let begun = Rig::new(group.shape()).and_then(|rig| {
            let running = system.start(&rig)?;
            let took = echo::first_answer(rig.first(), running.far, running.started, START_LIMIT)?;
            for sender in &rig.senders()[1..] {
                echo::first_answer(sender, running.far, Instant::now(), START_LIMIT)
                    .with_context(|| format!("from {}", sender.name()))?;
            }
            settle(&rig, &running)?;
            if !system.warm_up().is_zero() {
                fan_in::rate(rig.senders(), rig.last(), running.far, system.warm_up())
                    .context("warming up")?;
            }
            let server = tcp::Server::start(rig.last(), running.far)?;
            Ok((rig, running, took, server))
        });
        let (rig, running, took, server) = match begun {
            Ok(begun) => begun,
            Err(error) => {
                for metric in group.metrics().iter().filter(|metric| (self.wanted)(**metric)) {
                    self.figures.failures.insert(*metric, format!("{error:#}"));
                }
                return;
            }
        };
        let at = At { rig: &rig, running: &running, server: &server };
        match group {
            Group::Direct => {
                // Without a tunnel nothing starts.
                if !running.pids.is_empty() {
                    self.keep(Metric::Start, || Ok(took.as_secs_f64() * 1e3));
                }
                self.direct(&at);
            }
            Group::Jumbo => self.side_stream(Metric::TcpJumbo, &at),
            Group::Star => {
                let duration = Duration::from_secs(self.plan.side_stream_s.into());
                self.keep(Metric::TcpFanIn, || {
                    fan_in::rate(rig.senders(), rig.last(), running.far, duration)
                });
            }
            Group::OneRelay => {
                self.stream_with_cost(
                    &at,
                    Metric::TcpRelayed,
                    self.plan.side_stream_s,
                    &[(Metric::CpuRelay, 1..2)],
                );
            }
            Group::TwoRelays => self.side_stream(Metric::TcpRelayedTwice, &at),
        }
    }

    fn direct(&mut self, at: &At<'_>) {
        let plan = self.plan;
        let (first, last, far) = (at.rig.first(), at.rig.last(), at.running.far);
        self.keep_pair([Metric::RttIdleP50, Metric::RttIdleP99], || echo::round_trips(first, far, plan.echo));
        let costs = [(Metric::CpuPerGb, 0..2), (Metric::CpuSender, 0..1), (Metric::CpuReceiver, 1..2)];
        self.stream_with_cost(at, Metric::TcpThere, plan.stream_s, &costs);
        let seconds = plan.stream_s;
        self.keep(Metric::TcpBack, || at.stream(tcp::Streams { count: 1, back: true, seconds }));
        let seconds = plan.side_stream_s;
        self.keep(Metric::TcpFour, || at.stream(tcp::Streams { count: 4, back: false, seconds }));
        self.keep_pair([Metric::RttLoadP50, Metric::RttLoadP99], || at.round_trips_beside_a_stream(seconds));
        if !at.running.pids.is_empty() {
            self.keep(Metric::Resident, || {
                let sizes = at.running.pids.iter().map(|pid| netlab::usage(*pid).map(|it| it.resident_bytes));
                let sizes = sizes.collect::<Result<Vec<u64>, _>>()?;
                Ok(sizes.into_iter().max().unwrap_or(0) as f64 / 1e6)
            });
        }
        for (metric, payload_bytes) in [(Metric::Udp64, 64), (Metric::Udp1400, 1400)] {
            let search = udp::Search { payload_bytes, each: plan.each_rate, halvings: plan.halvings };
            self.keep(metric, || Ok(udp::highest_rate(first, last, far, search)? / 1e3));
        }
        self.keep(Metric::TcpLoss, || {
            at.rig.lose(LOSS_PERMILLE)?;
            let rate = at.stream(tcp::Streams { count: 1, back: false, seconds });
            at.rig.lose(0)?;
            rate
        });
    }

    /// One stream, and what some of the daemons (in the order of the machines) used for it.
    fn stream_with_cost(&mut self, at: &At<'_>, rate: Metric, seconds: u32, costs: &[Cost]) {
        let all = || std::iter::once(rate).chain(costs.iter().map(|(metric, _)| *metric));
        if !all().any(|metric| (self.wanted)(metric)) {
            return;
        }
        let measured = at.cpu_s().and_then(|before| {
            let received = at.server.run(at.rig.first(), tcp::Streams { count: 1, back: false, seconds })?;
            Ok((received, before, at.cpu_s()?))
        });
        match measured {
            Ok((received, before, after)) => {
                self.keep(rate, || Ok(received.gbit_s));
                let gb = received.bytes / 1e9;
                for (metric, daemons) in costs.iter().filter(|(_, daemons)| daemons.end <= after.len()) {
                    let used = |times: &[f64]| times[daemons.clone()].iter().sum::<f64>();
                    self.keep(*metric, || Ok((used(&after) - used(&before)) / gb));
                }
            }
            Err(error) => {
                for metric in all() {
                    self.figures.failures.insert(metric, format!("{error:#}"));
                }
            }
        }
    }

    fn side_stream(&mut self, metric: Metric, at: &At<'_>) {
        let seconds = self.plan.side_stream_s;
        self.keep(metric, || at.stream(tcp::Streams { count: 1, back: false, seconds }));
    }

    fn keep(&mut self, metric: Metric, measure: impl FnOnce() -> anyhow::Result<f64>) {
        if !(self.wanted)(metric) {
            return;
        }
        match measure() {
            Ok(value) => self.figures.values.entry(metric).or_default().0.push(value),
            Err(error) => {
                self.figures.failures.insert(metric, format!("{error:#}"));
            }
        }
    }

    fn keep_pair(
        &mut self,
        metrics: [Metric; 2],
        measure: impl FnOnce() -> anyhow::Result<echo::RoundTrips>,
    ) {
        if !metrics.iter().any(|metric| (self.wanted)(*metric)) {
            return;
        }
        match measure() {
            Ok(times) => {
                self.keep(metrics[0], || Ok(times.p50_us));
                self.keep(metrics[1], || Ok(times.p99_us));
            }
            Err(error) => {
                for metric in metrics {
                    self.figures.failures.insert(metric, format!("{error:#}"));
                }
            }
        }
    }
}

/// A system that is up.
struct At<'a> {
    rig: &'a Rig,
    running: &'a Running,
    server: &'a tcp::Server,
}

impl At<'_> {
    fn stream(&self, streams: tcp::Streams) -> anyhow::Result<f64> {
        Ok(self.server.run(self.rig.first(), streams)?.gbit_s)
    }

    /// Processor time of each daemon so far, in seconds, in the order of the machines.
    fn cpu_s(&self) -> anyhow::Result<Vec<f64>> {
        let times = self.running.pids.iter().map(|pid| netlab::usage(*pid).map(|it| it.cpu.as_secs_f64()));
        Ok(times.collect::<Result<_, _>>()?)
    }

    fn round_trips_beside_a_stream(&self, seconds: u32) -> anyhow::Result<echo::RoundTrips> {
        let streams = tcp::Streams { count: 1, back: false, seconds };
        std::thread::scope(|scope| {
            let stream = scope.spawn(|| self.server.run(self.rig.first(), streams));
            // The stream's own start and end are left out.
            let margin = Duration::from_millis(150);
            std::thread::sleep(margin);
            let duration = Duration::from_secs(u64::from(seconds)).saturating_sub(margin);
            let times = echo::round_trips(self.rig.first(), self.running.far, duration);
            stream.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))?;
            times
        })
    }
}

/// Waits until a meshnet carries traffic the way that the rig has for it, and checks that it does.
fn settle(rig: &Rig, running: &Running) -> anyhow::Result<()> {
    let Daemons::Members(members) = &running.daemons else { return Ok(()) };
    let relays = rig.shape().relays;
    let as_built = |path: &PathStatus| match relays {
        0 => path.is_direct(),
        _ => path.is_relayed() && path.via.len() == relays,
    };
    let last = &members[members.len() - 1];
    for sender in &members[..rig.senders().len()] {
        for (from, to) in [(sender, last), (last, sender)] {
            from.wait_for_path(to.machine().name(), START_LIMIT, as_built)?;
        }
    }
    Ok(())
}
