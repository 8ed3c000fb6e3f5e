//! Benchmarks of meshnet beside other mesh VPNs.
//!
//! Every [`system`] is started in network namespaces of its own ([`rig`]), does the same [`work`], and is measured in
//! several interleaved rounds ([`suite`]), so that whatever else the machine does falls on all of them alike. What
//! the rounds gave is summed up as a median and a spread ([`stats`]) and [`report`]ed as a table, JSON, and charts. A
//! figure whose rounds scatter too much is shown, but not quoted: no ratio is made from it.
//!
//! [`micro`] compares the criterion micro-benchmarks of this crate with the last committed figures.

pub mod facts;
pub mod faults;
pub mod metric;
pub mod micro;
pub mod report;
pub mod rig;
pub mod stats;
pub mod suite;
pub mod system;
pub mod work;
