//! The steps of a Galera cluster: found, join one at a time, recover, change one at a time.

use super::order::Builder;
use super::*;
use crate::stack::engine::probe::{JOINING, NON_PRIMARY};
use crate::stack::galera::{Decision, State, decide};

impl<'a> Builder<'a> {
    pub(super) fn galera(
        &mut self,
        placed: &Placed,
        replicas: &[&'a Replica],
        versions: &BTreeMap<String, String>,
        wishes: Wishes,
        before: &[usize],
    ) {
        let name = placed.component.name.as_str();
        let states: BTreeMap<String, State> =
            replicas.iter().map(|replica| (replica.node.clone(), state(self.actual, replica))).collect();
        let mut after = before.to_vec();
        let mut rest: Vec<&Replica> = Vec::new();
        for replica in replicas.iter().copied() {
            match standing(self.actual, replica) {
                Standing::Foreign => {
                    let why = "a container under its name is there that this stack did not make: remove or rename it";
                    self.block(name, &replica.node, why);
                }
                Standing::Unreachable => {
                    let why = self.actual.nodes.get(&replica.node).and_then(|report| report.as_ref().err());
                    let why = why.cloned().unwrap_or_else(|| "its agent was not asked".into());
                    self.block(name, &replica.node, why);
                }
                _ => rest.push(replica),
            }
        }
        let mut founder: Option<&Replica> = None;
        match decide(&states, wishes.force) {
            Decision::Join => {}
            Decision::Found { node, why } => {
                let Some(replica) = rest.iter().copied().find(|replica| replica.node == node) else { return };
                let reason = Reason::Recovery { why };
                let mut wait = after.clone();
                if let Some(found) = self.actual.found(&node, name) {
                    wait.extend(self.bring(placed, replica, versions));
                    let (container, driver) = (found.name.clone(), found.driver);
                    let grace_s = replica.definition.stop_grace_s;
                    let action = Action::Remove { container, grace_s, driver };
                    wait = vec![self.act(placed, replica, action, reason.clone(), &wait)];
                }
                let founding = placed.component.container.founding.clone();
                let up = self.create(placed, replica, reason, versions, &wait, founding);
                after = vec![self.ready(placed, replica, Reason::Needed, &[up])];
                rest.retain(|other| other.node != node);
                founder = Some(replica);
            }
            Decision::StartAll { why } => {
                // All at once: none becomes ready before the others are there.
                let mut ups = Vec::new();
                for replica in &rest {
                    let reason = Reason::Recovery { why: why.clone() };
                    match self.actual.found(&replica.node, name) {
                        Some(found) if found.running => {}
                        Some(_) => ups.push(self.start(placed, replica, reason, &after)),
                        None => ups.push(self.create(placed, replica, reason, versions, &after, Vec::new())),
                    }
                }
                let wait = [&after[..], &ups].concat();
                for replica in &rest {
                    let reason = Reason::Recovery { why: why.clone() };
                    self.ready(placed, replica, reason, &wait);
                }
                return;
            }
            Decision::Recover { nodes } => {
                for node in nodes {
                    if let Some(replica) = rest.iter().copied().find(|replica| replica.node == node) {
                        let why = "how far its data goes must be known before the cluster is founded again"
                            .to_owned();
                        let mut wait = [&after[..], &self.bring(placed, replica, versions)].concat();
                        let reason = Reason::Recovery { why: why.clone() };
                        // It would hold the data while it is read: it starts in vain, again and again.
                        if let Some(found) = self
                            .actual
                            .found(&replica.node, name)
                            .filter(|found| found.running || found.restarts > 0)
                        {
                            let (container, driver) = (found.name.clone(), found.driver);
                            let grace_s = replica.definition.stop_grace_s;
                            let action = Action::Remove { container, grace_s, driver };
                            wait = vec![self.act(placed, replica, action, reason, &wait)];
                        }
                        let action = Action::Recover { definition: Box::new(replica.definition.clone()) };
                        self.act(placed, replica, action, Reason::Recovery { why }, &wait);
                    }
                }
                return;
            }
            Decision::Promote { node, why } => {
                let Some(replica) = rest.iter().copied().find(|replica| replica.node == node) else { return };
                let up = self.act(placed, replica, Action::Promote, Reason::Recovery { why }, &after);
                after = vec![self.ready(placed, replica, Reason::Needed, &[up])];
            }
            Decision::Ask { why, .. } => {
                self.block(name, "", why);
                return;
            }
        }
        let total = placed.nodes.len();
        let mut joined: Vec<String> = founder.iter().map(|replica| replica.node.clone()).collect();
        // First those that are not there, one after the other; then changes, one after the other.
        for replica in rest.iter().copied() {
            let up = match standing(self.actual, replica) {
                Standing::Absent => self.create(placed, replica, Reason::New, versions, &after, Vec::new()),
                Standing::Stopped(found) => {
                    self.start(placed, replica, Reason::NotRunning { exit_code: found.exit_code }, &after)
                }
                Standing::Other(found, reason) if !found.running => {
                    self.replace(placed, replica, found, reason, versions, &after)
                }
                _ => continue,
            };
            joined.push(replica.node.clone());
            after = vec![self.ready(placed, replica, Reason::Needed, &[up])];
        }
        for replica in rest.iter().copied() {
            let (found, reason) = match standing(self.actual, replica) {
                Standing::Unready(found) => {
                    let detail = found.probe.as_ref().map(|probe| probe.detail.clone()).unwrap_or_default();
                    after = vec![self.ready(placed, replica, Reason::Unready { detail }, &after)];
                    continue;
                }
                Standing::Fine(found) if found.founding && total > 1 => (found, Reason::Founded),
                Standing::Other(found, reason) if found.running => (found, reason),
                _ => continue,
            };
            let wait = self.hold(placed, replica, &after);
            let up = self.replace(placed, replica, found, reason, versions, &wait);
            after = vec![self.ready(placed, replica, Reason::Needed, &[up])];
        }
        // At the end the founder loses its flag: a restart that still has it is refused while the others live.
        if let Some(replica) = founder.filter(|_| joined.len() > 1) {
            let wait = self.hold(placed, replica, &after);
            let (container, driver) = (replica.definition.container_name(), replica.definition.driver);
            let action = Action::Remove { container, grace_s: replica.definition.stop_grace_s, driver };
            let removed = self.act(placed, replica, action, Reason::Founded, &wait);
            let up = self.create(placed, replica, Reason::Founded, versions, &[removed], Vec::new());
            self.ready(placed, replica, Reason::Needed, &[up]);
        }
    }

    fn hold(&mut self, placed: &Placed, replica: &Replica, after: &[usize]) -> Vec<usize> {
        let others: Vec<String> =
            placed.nodes.iter().filter(|node| **node != replica.node).cloned().collect();
        let least = least_others(Kind::Quorum, placed.nodes.len());
        let action = Action::Hold { others, least };
        vec![self.act(placed, replica, action, Reason::Needed, after)]
    }
}

fn state(actual: &Actual, replica: &Replica) -> State {
    let Some(report) = actual.report(&replica.node) else { return State::Unknown };
    let component = &replica.definition.component;
    let evidence = || report.evidence.get(component).cloned().unwrap_or_default();
    let found = report.containers.iter().find(|found| found.component == *component);
    let Some(found) = found.filter(|found| found.running) else { return State::Stopped(evidence()) };
    let (role, detail) = match &found.probe {
        Some(probe) => (probe.role.as_deref(), probe.detail.as_str()),
        None => (None, ""),
    };
    match role {
        // One that catches up has a primary component to do so with.
        Some("primary" | JOINING) => State::Primary,
        Some(NON_PRIMARY) => {
            let position = detail.split_once("position ").map(|(_, position)| position.trim());
            let last_committed = position.and_then(|position| position.parse().ok());
            State::NonPrimary { last_committed, uuid: evidence().uuid }
        }
        // One that was restarted has found its data unfit to found a cluster on, or others that are there.
        _ => State::Starting { evidence: evidence(), founding: found.founding && found.restarts == 0 },
    }
}
