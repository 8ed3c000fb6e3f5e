//! The node's agent: what it is asked over the overlay, and by whom.

/// TCP port of the agents, on the overlay address.
pub const DEFAULT_PORT: u16 = 4656;
