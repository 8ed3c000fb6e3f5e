//! meshnet itself, set up as a user would: `init`, `invite`, `join`, `up`.

use super::{Daemons, Running, System};
use crate::facts;
use crate::rig::{Rig, Shape};
use anyhow::Context;
use netlab::mesh::Member;
use std::path::PathBuf;
use std::time::{Duration, Instant};

/// The port that `meshd` listens on by default.
const PORT: u16 = 4655;

/// What a meshd adds to a packet on the worst path: an IPv6 and UDP header, the long relay header, the data header,
/// trailer and tag.
const OVERHEAD_BYTES: u32 = 146;

/// How long a daemon may take to end.
const END_LIMIT: Duration = Duration::from_secs(5);

/// A `meshd` program.
#[derive(Debug)]
pub struct Meshnet {
    binary: PathBuf,
}

impl Meshnet {
    /// This program.
    pub fn new(binary: PathBuf) -> Meshnet {
        Meshnet { binary }
    }
}

impl System for Meshnet {
    fn name(&self) -> &str {
        "meshnet"
    }

    fn description(&self) -> String {
        let version = facts::output(&self.binary.to_string_lossy(), &["--version"]);
        let aes = std::fs::read_to_string("/proc/cpuinfo").is_ok_and(|text| text.contains(" aes"));
        let cipher = if aes { "AES-256-GCM" } else { "ChaCha20-Poly1305" };
        format!("{}, {cipher}", version.unwrap_or_else(|| "meshd".to_owned()))
    }

    fn can(&self, _: Shape) -> bool {
        true
    }

    fn start(&self, rig: &Rig) -> anyhow::Result<Running> {
        let mut members = self.enlist(rig)?;
        let (near, far) = (members[0].address(false)?, members[members.len() - 1].address(false)?);
        for member in &mut members {
            member.terminate(END_LIMIT)?;
            self.configure(member, rig)?;
        }
        let started = Instant::now();
        for member in &mut members {
            member.start(&[])?;
        }
        let pids = members.iter().filter_map(Member::pid).collect();
        Ok(Running { near, far, started, pids, daemons: Daemons::Members(members) })
    }
}

impl Meshnet {
    /// Everyone joined and running, in the order of the machines.
    fn enlist(&self, rig: &Rig) -> anyhow::Result<Vec<Member>> {
        let machines = rig.machines();
        // The first relay founds the mesh; without relays the first node does.
        let founder = usize::from(rig.shape().relays > 0);
        let offer = |number: usize| -> Vec<String> {
            if !rig.is_relay(number) && number != founder {
                return Vec::new();
            }
            let endpoints = rig.addresses(number);
            let endpoints = endpoints.iter().flat_map(|at| ["--endpoint".to_owned(), format!("{at}:{PORT}")]);
            std::iter::once("--relay".to_owned()).chain(endpoints).collect()
        };
        let mut members: Vec<Option<Member>> = machines.iter().map(|_| None).collect();
        let mut first = Member::new(&machines[founder], &self.binary);
        let own = offer(founder);
        let mut init = vec!["init", "--mesh", "bench", "--name", machines[founder].name()];
        init.extend(own.iter().map(String::as_str));
        first.ok(&init)?;
        first.up()?;
        // Relays first, each in reach of the one before; then the ends.
        let relays = (0..machines.len()).filter(|number| rig.is_relay(*number));
        let ends = [0, machines.len() - 1];
        for number in relays.chain(ends).filter(|number| *number != founder) {
            let role: &[&str] = if rig.is_relay(number) { &["--role", "relay"] } else { &[] };
            let url = first.invite(machines[number].name(), role)?;
            let mut member = Member::new(&machines[number], &self.binary);
            let own = offer(number);
            let mut join = vec!["join", url.as_str()];
            join.extend(own.iter().map(String::as_str));
            member.ok(&join).with_context(|| format!("{} joins", machines[number].name()))?;
            member.up()?;
            members[number] = Some(member);
        }
        let (near, far) = (rig.first().name(), rig.last().name());
        members[founder] = Some(first);
        let members: Vec<Member> = members.into_iter().flatten().collect();
        // Whoever restarts knows everyone from its cache, as in a mesh that has been running.
        members[0].wait_for_peer(far, Duration::from_secs(20), |_| true)?;
        members[members.len() - 1].wait_for_peer(near, Duration::from_secs(20), |_| true)?;
        Ok(members)
    }

    /// Nothing on an ordinary underlay; on a larger one the overlay's MTU.
    fn configure(&self, member: &Member, rig: &Rig) -> anyhow::Result<()> {
        if rig.shape().underlay_mtu <= 1500 {
            return Ok(());
        }
        let path = member.state().join("meshd.toml");
        let text = std::fs::read_to_string(&path).unwrap_or_default();
        let mtu = rig.shape().underlay_mtu - OVERHEAD_BYTES;
        std::fs::write(&path, format!("mtu = {mtu}\n{text}")).with_context(|| path.display().to_string())
    }
}
