//! Who makes containers: each node's agent itself (`direct`), or Marathon (`marathon`), which has Mesos start them.
//!
//! A plan is the same for both: it says which replica is placed, started, or removed, and in which order. Base components
//! are always direct; services go through Marathon where the stack has it, unless the specification says otherwise.

pub mod direct;
pub mod marathon;

use std::collections::BTreeMap;

use super::definition::Definition;
use super::plan::Step;
use super::progress::{Observer, Progress};

/// A replica to be placed.
#[derive(Debug, Clone, Copy)]
pub struct Order<'a> {
    /// The node that is to run it.
    pub node: &'a str,
    /// What it is made from.
    pub definition: &'a Definition,
    /// Arguments beyond the definition, to found a cluster.
    pub founding: &'a [String],
    /// The numbers of all replicas.
    pub members: &'a BTreeMap<String, u32>,
    /// Paths of volumes that belong to the replica's number.
    pub keeps_id: &'a [String],
}

/// A replica that is there.
#[derive(Debug, Clone, Copy)]
pub struct Replica<'a> {
    /// The node that runs it.
    pub node: &'a str,
    /// The stack.
    pub stack: &'a str,
    /// The component.
    pub component: &'a str,
    /// The container's name.
    pub container: &'a str,
    /// How long it has to end by itself, in seconds.
    pub grace_s: u32,
}

/// What makes, starts, and removes containers. Each call may be made again after any interruption, and comes to the same
/// end; each takes as long as it needs: the caller has the deadline, and [`Waiting`] the reason that is shown then.
pub trait Driver {
    /// Makes a replica and starts it. Marathon also changes one that is there; with the agents it must have been removed.
    ///
    /// # Errors
    /// Why it cannot be made, if waiting does not help.
    fn place(&self, order: &Order<'_>, waiting: &mut Waiting<'_>)
    -> impl Future<Output = anyhow::Result<()>>;

    /// Starts a replica that is there, but does not run.
    ///
    /// # Errors
    /// Why it cannot be started, if waiting does not help.
    fn start(
        &self,
        replica: &Replica<'_>,
        waiting: &mut Waiting<'_>,
    ) -> impl Future<Output = anyhow::Result<()>>;

    /// Stops a replica and removes it; its data stays.
    ///
    /// # Errors
    /// Why it cannot be removed, if waiting does not help.
    fn remove(
        &self,
        replica: &Replica<'_>,
        waiting: &mut Waiting<'_>,
    ) -> impl Future<Output = anyhow::Result<()>>;
}

/// Tells what a step waits for.
pub struct Waiting<'a> {
    /// Who hears it.
    pub observer: &'a dyn Observer,
    /// The step.
    pub step: &'a Step,
    /// What is shown if the deadline comes.
    pub why: &'a mut String,
}

impl Waiting<'_> {
    /// Says what is waited for now.
    pub fn tell(&mut self, why: String) {
        self.observer.goes_on(self.step, &Progress::Waits(why.clone()));
        *self.why = why;
    }
}
