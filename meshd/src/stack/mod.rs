//! `meshd stack`: a container stack across the overlay.
//!
//! A specification (`spec`) says which components (`components`, data files) run on which members. From it come the
//! containers as they should be (`desired`, `definition`); `plan` compares them with what the agents report and gives
//! steps; `apply` walks them. Every node's daemon runs an agent (`agent`), which drives the node's own container engine
//! (`engine`). docs/stack.md is the guide, docs/adr/0009-stack.md has the decisions.

pub mod actual;
pub mod agent;
pub mod apply;
pub mod components;
pub mod definition;
pub mod desired;
pub mod driver;
pub mod engine;
pub mod fleet;
pub mod galera;
pub mod http;
pub mod plan;
pub mod progress;
pub mod spec;
pub mod status;
pub mod survey;

/// Random bytes from the operating system's generator.
pub(crate) fn random_bytes<const N: usize>() -> [u8; N] {
    use rand::RngExt;
    let mut rng: rand::rngs::StdRng = rand::make_rng();
    rng.random()
}
