//! Who belongs to the mesh: authority, certificates, revocations, and which addresses each member may use.

pub mod source;

pub use source::{SourceTable, SourceTableBuilder};
