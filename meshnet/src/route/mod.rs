//! Who is where, and by which way: the link-state database, shortest paths over it, and the forwarding table.
//!
//! Every member authors one signed record; records are flooded and compared until all members hold the same set
//! ([`lsdb`], [`flood`]). Links that both of their ends announce, and attachments to relays, form a graph whose shortest paths lead over members that relay
//! ([`spf`]). Addresses and announced subnets become a longest-prefix table ([`fib`]).
//!
//! Nothing here verifies signatures or knows certificates: the caller passes verdicts in.

pub mod fib;
pub mod flood;
pub mod limit;
pub mod lsdb;
pub mod spf;

pub use fib::{Fib, FibBuilder, Offer, Way};
pub use lsdb::{Authored, Inserted, Lsdb, Refusal, Verdict, Version};
pub use spf::{Graph, Route, ShortestPaths};
