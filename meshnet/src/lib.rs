//! The core of meshnet: who the members are, which sessions and paths lead to them, and how packets travel.
//!
//! Everything outside [`io`] is sans-IO: time and randomness are passed in, there are no sockets, files, threads, or
//! locks. [`node`] is the only place where the other modules meet.

pub mod crypto;
pub mod dataplane;
pub mod io;
mod lpm;
pub mod membership;
pub mod node;
mod pack;
pub mod path;
pub mod route;
pub mod session;
pub mod time;
