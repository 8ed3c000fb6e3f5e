//! What those hear who watch a plan being walked.

use std::time::Duration;

use super::plan::Step;

/// Who hears what goes on.
pub trait Observer {
    /// A step begins.
    fn begins(&self, step: &Step);
    /// A step is under way: bytes that came and bytes expected, for a pull, or what it waits for.
    fn goes_on(&self, step: &Step, how: &Progress);
    /// A step is done.
    fn done(&self, step: &Step, took: Duration);
}

/// How far a step is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Progress {
    /// Of a pull.
    Bytes {
        /// What came.
        done: u64,
        /// What is known to come.
        total: u64,
    },
    /// Of a wait: for what.
    Waits(String),
}
