//! Sessions between whole nodes, over a fake link in virtual time.

mod epochs;
mod handshake;
mod hostile;
mod join;
mod load;
mod pair;
mod secrecy;
mod timers;
