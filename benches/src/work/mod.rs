//! What the systems have to do.

pub mod echo;
pub mod fan_in;
pub mod tcp;
pub mod udp;
