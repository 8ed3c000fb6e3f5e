//! Trouble as a list of steps: drawn from a seed, written as text, read back, and made to happen. A run that fails prints its
//! list, which is kept in `tests/tests/scenarios` and replayed by every later run.

use std::fmt;
use std::str::FromStr;
use std::time::Duration;

use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};

use super::net::{HostId, SiteId, Uplink};
use super::world::{MachineId, World};

/// Something that goes wrong, or that somebody does. Machines and sites are named by number; numbers over their count are
/// taken modulo it, so that a list fits any mesh.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Step {
    /// A daemon ends without warning.
    Crash(usize),
    /// A daemon ends in order.
    Stop(usize),
    /// A daemon ends without warning and is started at once.
    Restart(usize),
    /// A third of all daemons end without warning and are started at once.
    Storm(usize),
    /// Nothing goes in or out of a machine.
    Silence(usize),
    /// It does again.
    Heard(usize),
    /// Nothing passes between two machines.
    Block(usize, usize),
    /// Nothing passes from one machine to another.
    OneWay(usize, usize),
    /// Nothing passes between the machines with even numbers and the others.
    Partition,
    /// The parts are joined again, and all that was blocked is open.
    Join,
    /// A site's uplink goes down, or comes up.
    Uplink(usize),
    /// A site's uplink goes down and comes up every half second, five times.
    Flap(usize),
    /// A site's translator forgets its mappings and gives others.
    Rebind(usize),
    /// A machine moves to a site (relays stay where they are).
    Move(usize, usize),
    /// A machine's clock is off by so many seconds.
    Clock(usize, i64),
    /// Packets begin to flow between two machines.
    Flow(usize, usize),
}

/// Steps, each with the milliseconds to wait after it.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Trouble(pub Vec<(Step, u64)>);

impl Trouble {
    /// So many steps, drawn from a seed.
    pub fn draw(seed: u64, steps: usize) -> Trouble {
        let mut rng = StdRng::seed_from_u64(seed ^ 0x7472_6f75_626c_6521);
        let mut any = |below: u64| rng.random_range(0..below) as usize;
        let step = |any: &mut dyn FnMut(u64) -> usize| {
            let (a, b) = (any(1000), any(1000));
            match any(19) {
                0 => Step::Crash(a),
                1 => Step::Stop(a),
                2 | 3 => Step::Restart(a),
                4 => Step::Storm(a),
                5 => Step::Silence(a),
                6 => Step::Heard(a),
                7 => Step::Block(a, b),
                8 => Step::OneWay(a, b),
                9 => Step::Partition,
                10 => Step::Join,
                11 => Step::Uplink(a),
                12 => Step::Flap(a),
                13 => Step::Rebind(a),
                14 => Step::Move(a, b),
                15 => Step::Clock(a, any(600) as i64 - 300),
                _ => Step::Flow(a, b),
            }
        };
        Trouble((0..steps).map(|_| (step(&mut any), any(4000) as u64)).collect())
    }
}

impl fmt::Display for Trouble {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (step, ms) in &self.0 {
            let words = format!("{step:?}").replace(['(', ','], " ").replace(')', "");
            writeln!(f, "{words} wait {ms}")?;
        }
        Ok(())
    }
}

impl FromStr for Trouble {
    type Err = String;

    fn from_str(text: &str) -> Result<Trouble, String> {
        let lines = text.lines().map(|line| line.split('#').next().unwrap_or_default().trim());
        lines.filter(|line| !line.is_empty()).map(step_of).collect::<Result<_, _>>().map(Trouble)
    }
}

fn step_of(line: &str) -> Result<(Step, u64), String> {
    let wrong = || format!("no step: {line:?}");
    let (step, wait) = line.split_once(" wait ").ok_or_else(wrong)?;
    let mut words = step.split_whitespace();
    let name = words.next().ok_or_else(wrong)?;
    let numbers: Vec<i64> = words.map(str::parse).collect::<Result<_, _>>().map_err(|_| wrong())?;
    let at = |place: usize| numbers.get(place).and_then(|n| usize::try_from(*n).ok()).ok_or_else(wrong);
    let step = match name {
        "Crash" => Step::Crash(at(0)?),
        "Stop" => Step::Stop(at(0)?),
        "Restart" => Step::Restart(at(0)?),
        "Storm" => Step::Storm(at(0)?),
        "Silence" => Step::Silence(at(0)?),
        "Heard" => Step::Heard(at(0)?),
        "Block" => Step::Block(at(0)?, at(1)?),
        "OneWay" => Step::OneWay(at(0)?, at(1)?),
        "Partition" => Step::Partition,
        "Join" => Step::Join,
        "Uplink" => Step::Uplink(at(0)?),
        "Flap" => Step::Flap(at(0)?),
        "Rebind" => Step::Rebind(at(0)?),
        "Move" => Step::Move(at(0)?, at(1)?),
        "Clock" => Step::Clock(at(0)?, *numbers.get(1).ok_or_else(wrong)?),
        "Flow" => Step::Flow(at(0)?, at(1)?),
        _ => return Err(wrong()),
    };
    Ok((step, wait.parse().map_err(|_| wrong())?))
}

impl World {
    /// Makes a step happen to the machines and sites that there are; `address` gives a new address at a site.
    ///
    /// # Panics
    /// Never on its own; the world fails when something does not hold.
    pub fn suffer(&mut self, step: Step, mut address: impl FnMut(SiteId) -> String) {
        let count = self.machines().count();
        let sites = self.net.site_count();
        let machine = |number: usize| MachineId(number % count);
        let site = |number: usize| SiteId(number % sites);
        let host = |id: MachineId| HostId(id.0);
        match step {
            Step::Crash(at) => self.crash(machine(at)),
            Step::Stop(at) => self.stop(machine(at)),
            Step::Restart(at) => {
                self.crash(machine(at));
                self.start(machine(at));
            }
            Step::Storm(at) => {
                let hit: Vec<MachineId> = (0..count.div_ceil(3)).map(|n| machine(at + 3 * n)).collect();
                hit.iter().for_each(|id| self.crash(*id));
                for id in hit {
                    if self.machine(id).node().is_none() {
                        self.start(id);
                    }
                }
            }
            Step::Silence(at) => self.silence(machine(at), true),
            Step::Heard(at) => self.silence(machine(at), false),
            Step::Block(a, b) => self.net.set_blocked(host(machine(a)), host(machine(b)), true),
            Step::OneWay(a, b) => self.net.set_blocked_towards(host(machine(a)), host(machine(b)), true),
            Step::Partition => {
                for a in (0..count).step_by(2) {
                    for b in (1..count).step_by(2) {
                        self.net.set_blocked(HostId(a), HostId(b), true);
                    }
                }
            }
            Step::Join => self.net.unblock_all(),
            Step::Uplink(at) => self.net.site_mut(site(at)).up ^= true,
            Step::Flap(at) => {
                for _ in 0..10 {
                    self.net.site_mut(site(at)).up ^= true;
                    self.run_for(Duration::from_millis(500));
                }
            }
            Step::Rebind(at) => {
                if let Uplink::Nat(nat) = &mut self.net.site_mut(site(at)).uplink {
                    nat.restart();
                }
            }
            Step::Move(at, to) => {
                // A relay's endpoint is configured: it stays where it is.
                if !self.machine(machine(at)).settings.relay {
                    let address = address(site(to));
                    self.renumber(machine(at), site(to), &address);
                }
            }
            Step::Clock(at, seconds) => self.machine_mut(machine(at)).clock_error_ms = seconds * 1000,
            Step::Flow(a, b) => {
                if machine(a) != machine(b) {
                    self.flow(machine(a), machine(b), Duration::from_millis(20));
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn trouble_is_read_as_it_is_written() {
        for seed in 0..50 {
            let trouble = Trouble::draw(seed, 40);
            assert_eq!(trouble.to_string().parse(), Ok(trouble));
        }
        let text = "# what happened\n\nBlock 3 4 wait 20 # and why\nClock 1 -7 wait 0\n";
        let steps = vec![(Step::Block(3, 4), 20), (Step::Clock(1, -7), 0)];
        assert_eq!(text.parse(), Ok(Trouble(steps)));
        assert!("Crash wait 3".parse::<Trouble>().is_err());
        assert!("Crash 1".parse::<Trouble>().is_err());
        assert!("Explode 1 wait 3".parse::<Trouble>().is_err());
    }
}
