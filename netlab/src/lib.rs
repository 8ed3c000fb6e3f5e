//! Networks in namespaces on one machine: for the demo, the tests, and the benchmarks.
//!
//! A [`Lab`] holds [`Machine`]s (one network namespace each), [`Switch`]es (bridges), routers and NATs, joined by
//! veth cables. On a machine run processes ([`Machine::spawn`]) or closures in this process
//! ([`Machine::enter`]); every [`Port`] of a cable can be made to lose, cut, hold back or swallow packets
//! ([`Fault`]). [`flow`], [`ping`] and [`capture`] measure what arrives; [`wait`] waits on conditions.
//!
//! ```no_run
//! # fn main() -> Result<(), netlab::Error> {
//! let lab = netlab::Lab::new()?;
//! let lan = lab.switch("lan")?;
//! let (a, b) = (lab.machine("a")?, lab.machine("b")?);
//! a.plug(&lan, &["192.0.2.1/24"])?;
//! let port = b.plug(&lan, &["192.0.2.2/24"])?;
//! port.apply(&netlab::Fault { silent: true, ..Default::default() })?;
//! assert!(a.ping("192.0.2.2".parse().expect("an address"), std::time::Duration::from_millis(200))?.is_none());
//! # Ok(())
//! # }
//! ```
//!
//! **Clean-up.** A lab's namespaces, processes and files go away when the [`Lab`] is dropped, and also when the
//! process that made it dies in any way, `kill -9` included: a small shell process (the *reaper*, [`lab`]) waits
//! on a pipe whose other end only the owner holds. What even the reaper could not remove (it was killed as well)
//! is removed by the next lab made on the machine.
//!
//! **Rights.** Making namespaces takes root, or a user namespace: [`access`].

pub mod access;
pub mod capture;
mod engine;
mod error;
mod fault;
pub mod flood;
pub mod flow;
pub mod lab;
mod machine;
pub mod mesh;
mod nat;
pub mod ping;
mod process;
mod tool;
pub mod wait;
mod wire;
pub mod writes;

pub use capture::Capture;
pub use engine::Engine;
pub use error::Error;
pub use fault::{Fault, Port};
pub use flow::{Flow, FlowReport};
pub use lab::{Lab, Switch};
pub use machine::Machine;
pub use nat::{Nat, NatKind};
pub use process::{Finished, Process, Usage, usage};
pub use wire::WireShape;
