//! Sessions between whole nodes, over a fake link in virtual time.

mod challenges;
mod epochs;
mod guards;
mod handshake;
mod hostile;
mod hybrid;
mod join;
mod load;
mod pair;
mod secrecy;
mod timers;
