//! A deterministic simulator: real nodes and the real packet path over a fake network, in virtual time.
//!
//! Everything random comes from one seed, which a failing run prints. Two runs of one seed are equal to the last
//! datagram.

pub mod nat;
pub mod net;

pub use nat::{Nat, NatKind};
pub use net::{HostId, Link, Site, SiteId, Underlay, Uplink};
