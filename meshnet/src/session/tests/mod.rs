//! Sessions between whole nodes, over a fake link in virtual time.

mod join;
