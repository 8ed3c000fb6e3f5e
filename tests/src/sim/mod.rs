//! A deterministic simulator: real nodes and the real packet path over a fake network, in virtual time.
//!
//! Everything random comes from one seed, which a failing run prints. Two runs of one seed are equal to the last
//! datagram. `MESHNET_SIM_SEED` runs every scenario with that seed alone, `MESHNET_SIM_RUNS` with that
//! many seeds (from `MESHNET_SIM_FROM` on); `MESHNET_SIM_TRACE=notes` prints what
//! happens, `MESHNET_SIM_TRACE=datagrams` every datagram too.
//!
//! Whatever a scenario does, the world fails it when a packet arrives twice, altered, at the wrong machine, or in the
//! name of another; when a packet's content is seen on the underlay; when a node spins; or when it makes datagrams
//! without bound.

mod build;
mod checks;
mod crowd;
mod flow;
mod homes;
mod machine;
mod nat;
mod net;
mod rollover;
mod spread;
mod stream;
mod trouble;
mod world;

pub use build::Spec;
pub use crowd::{Converged, Crowd, Plan};
pub use flow::{Flow, MARKER, Report, packet};
pub use homes::{flows_between, homes, homes_and, nothing_lost};
pub use machine::{Disk, Machine, Output, PowerCut, START, Swallows};
pub use nat::{Nat, NatKind};
pub use net::{Arrival, Host, HostId, Link, NetStats, Site, SiteId, TooLong, Underlay, Uplink};
pub use rollover::Roller;
pub use spread::{Shape, Spread, Spreading};
pub use trouble::{Step, Trouble};
pub use world::{Attacker, FlowId, MachineId, Metered, PORT, World};

/// The seeds of a scenario: `count` of them, `MESHNET_SIM_RUNS` of them, or the one named by `MESHNET_SIM_SEED`.
pub fn seeds(count: u64) -> Vec<u64> {
    let number = |name| std::env::var(name).ok().and_then(|value| value.parse().ok());
    match number("MESHNET_SIM_SEED") {
        Some(seed) => vec![seed],
        None => {
            (number("MESHNET_SIM_FROM").unwrap_or(1)..=number("MESHNET_SIM_RUNS").unwrap_or(count)).collect()
        }
    }
}
