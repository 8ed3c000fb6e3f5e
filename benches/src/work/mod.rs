//! What the systems have to do.

pub mod echo;
pub mod tcp;
pub mod udp;
