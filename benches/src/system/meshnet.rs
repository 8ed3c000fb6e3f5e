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

/// What a meshd adds to a packet on these direct paths: an IPv4 and UDP header, the data header, trailer and tag. What is free
/// where there are relays by default, 146 bytes, is enough for IPv6 and the long relay header.
const OVERHEAD_BYTES: u32 = 62;

/// How long a daemon may take to end.
const END_LIMIT: Duration = Duration::from_secs(5);

/// The cipher suite that a meshnet is to use.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Cipher {
    /// What nodes on this machine choose by themselves.
    Auto,
    /// ChaCha20-Poly1305, by the configuration.
    ChaCha,
}

/// A `meshd` program.
#[derive(Debug)]
pub struct Meshnet {
    binary: PathBuf,
    cipher: Cipher,
}

impl Meshnet {
    /// This program.
    pub fn new(binary: PathBuf, cipher: Cipher) -> Meshnet {
        Meshnet { binary, cipher }
    }
}

impl System for Meshnet {
    fn name(&self) -> &str {
        match self.cipher {
            Cipher::Auto => "meshnet",
            Cipher::ChaCha => "meshnet-chacha",
        }
    }

    fn description(&self) -> String {
        let version = facts::output(&self.binary.to_string_lossy(), &["--version"]);
        let aes = std::fs::read_to_string("/proc/cpuinfo").is_ok_and(|text| text.contains(" aes"));
        let aes = aes && self.cipher == Cipher::Auto;
        let cipher = if aes { "AES-256-GCM" } else { "ChaCha20-Poly1305 by its configuration" };
        format!("{}, {cipher}", version.unwrap_or_else(|| "meshd".to_owned()))
    }

    fn is_chacha(&self) -> bool {
        self.cipher == Cipher::ChaCha
    }

    fn can(&self, _: Shape) -> bool {
        true
    }

    fn start(&self, rig: &Rig) -> anyhow::Result<Running> {
        let mut members = self.enlist(rig)?;
        let (near, far) = (members[0].address(false)?, members[members.len() - 1].address(false)?);
        for member in &mut members {
            member.terminate(END_LIMIT)?;
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
        // The first relay founds the mesh, or the one in the middle; without either the first node does.
        let founder = match rig.shape() {
            Shape { spokes: 1.., .. } => machines.len() - 1,
            Shape { relays, .. } => usize::from(relays > 0),
        };
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
        self.configure(&first, rig)?;
        first.up()?;
        // Relays first, each in reach of the one before; then the others.
        let (relays, others): (Vec<usize>, Vec<usize>) =
            (0..machines.len()).partition(|number| rig.is_relay(*number));
        for number in relays.into_iter().chain(others).filter(|number| *number != founder) {
            let role: &[&str] = if rig.is_relay(number) { &["--role", "relay"] } else { &[] };
            let url = first.invite(machines[number].name(), role)?;
            let mut member = Member::new(&machines[number], &self.binary);
            let own = offer(number);
            let mut join = vec!["join", url.as_str()];
            join.extend(own.iter().map(String::as_str));
            member.ok(&join).with_context(|| format!("{} joins", machines[number].name()))?;
            self.configure(&member, rig)?;
            member.up()?;
            members[number] = Some(member);
        }
        let (near, far) = (rig.first().name(), rig.last().name());
        members[founder] = Some(first);
        let members: Vec<Member> = members.into_iter().flatten().collect();
        // Whoever restarts knows everyone from its cache, as in a mesh that has been running.
        for sender in &members[..rig.senders().len()] {
            sender.wait_for_peer(far, Duration::from_secs(20), |_| true)?;
        }
        members[members.len() - 1].wait_for_peer(near, Duration::from_secs(20), |_| true)?;
        Ok(members)
    }

    /// The largest MTU that fits, as for the others, where there are no relays. The suite, if it is not the usual one.
    fn configure(&self, member: &Member, rig: &Rig) -> anyhow::Result<()> {
        let path = member.state().join("meshd.toml");
        let mut text = std::fs::read_to_string(&path).unwrap_or_default();
        if rig.shape().relays == 0 {
            text.insert_str(0, &format!("mtu = {}\n", rig.shape().underlay_mtu - OVERHEAD_BYTES));
        }
        if self.cipher == Cipher::ChaCha {
            text.insert_str(0, "suite = \"chacha20poly1305\"\n");
        }
        std::fs::write(&path, text).with_context(|| path.display().to_string())
    }
}
