//! A deterministic simulator: real nodes and the real packet path over a fake network, in virtual time.
//!
//! Everything random comes from one seed, which a failing run prints. Two runs of one seed are equal to the last
//! datagram. `MESHNET_SIM_SEED` runs every scenario with that seed alone; `MESHNET_SIM_TRACE` prints what happens.
//!
//! Whatever a scenario does, the world fails it when a packet arrives twice, altered, at the wrong machine, or in the
//! name of another; when a packet's content is seen on the underlay; when a node spins; or when it makes datagrams
//! without bound.

mod checks;
mod flow;
mod machine;
mod nat;
mod net;
mod world;

pub use flow::{Flow, MARKER, Report, packet};
pub use machine::{Disk, Machine, Output, START};
pub use nat::{Nat, NatKind};
pub use net::{Arrival, Host, HostId, Link, NetStats, Site, SiteId, Underlay, Uplink};
pub use world::{Attacker, FlowId, MachineId, PORT, Spec, World};

/// The seeds of a scenario: `count` of them, or the one that the environment asks for.
pub fn seeds(count: u64) -> Vec<u64> {
    match std::env::var("MESHNET_SIM_SEED").ok().and_then(|seed| seed.parse().ok()) {
        Some(seed) => vec![seed],
        None => (1..=count).collect(),
    }
}
