//! The simulator, and scenarios in network namespaces.

pub mod net;
