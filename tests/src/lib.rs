//! The simulator, and scenarios in network namespaces.

pub mod net;

pub mod sim;
pub mod stack;
