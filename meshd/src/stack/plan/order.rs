//! Putting the steps of one component in order, and the components one after the other.

use super::*;
use crate::stack::spec::registry_of;

/// Collects steps.
pub(super) struct Builder<'a> {
    pub(super) actual: &'a Actual,
    steps: Vec<Step>,
    blocked: Vec<Blocked>,
    /// The last steps of each component that has any: those that wait for it wait for them.
    ends: BTreeMap<String, Vec<usize>>,
    /// Images and secrets that are on their way, by node and name.
    brought: BTreeMap<(String, String), usize>,
}

/// What happens to a replica, in the order in which groups are worked on.
#[derive(Default)]
struct Groups<'a> {
    /// Absent, and not known to all that are there.
    new: Vec<&'a Replica>,
    /// Absent, but known to all that are there: an earlier run was interrupted, or somebody removed it.
    back: Vec<&'a Replica>,
    /// Not running, or replaced while not running.
    down: Vec<(&'a Replica, Option<&'a Found>, Reason)>,
    /// Running and ready, to be replaced.
    replace: Vec<(&'a Replica, &'a Found, Reason)>,
    /// Running, not ready, to be replaced.
    mend: Vec<(&'a Replica, &'a Found, Reason)>,
    /// Running, not ready, as it should be.
    unready: Vec<(&'a Replica, &'a Found)>,
    /// As it should be.
    fine: Vec<&'a Replica>,
}

impl<'a> Builder<'a> {
    pub(super) fn new(actual: &'a Actual) -> Builder<'a> {
        Builder {
            actual,
            steps: Vec::new(),
            blocked: Vec::new(),
            ends: BTreeMap::new(),
            brought: BTreeMap::new(),
        }
    }

    pub(super) fn finish(self) -> (Vec<Step>, Vec<Blocked>) {
        (self.steps, self.blocked)
    }

    pub(super) fn block(&mut self, component: &str, node: &str, why: impl Into<String>) {
        self.blocked.push(Blocked { component: component.into(), node: node.into(), why: why.into() });
    }

    fn step(
        &mut self,
        component: &str,
        node: &str,
        action: Action,
        reason: Reason,
        after: &[usize],
        deadline_s: u32,
    ) -> usize {
        let id = self.steps.len();
        let mut after = after.to_vec();
        after.sort_unstable();
        after.dedup();
        let (component, node) = (component.to_owned(), node.to_owned());
        self.steps.push(Step { id, after, component, node, action, reason, deadline_s });
        id
    }

    /// Removes what the specification does not have any more. Members of an ensemble that goes on are left to
    /// [`Builder::component`], which spares them only while the others hold.
    pub(super) fn leave(&mut self, stack: &Stack) {
        let gone: Vec<(String, &Found)> =
            self.everything().filter(|(_, found)| stack.component(&found.component).is_none()).collect();
        for (node, found) in gone {
            self.remove(&node, found, Reason::Left, &[]);
        }
    }

    fn everything(&self) -> impl Iterator<Item = (String, &'a Found)> + use<'a> {
        let actual = self.actual;
        let of = |(node, report): (&'a String, &'a Result<_, _>)| {
            let report: Option<&'a super::super::actual::Report> = report.as_ref().ok();
            let containers = report.map(|report| report.containers.as_slice()).unwrap_or_default();
            containers.iter().map(move |found| (node.clone(), found)).collect::<Vec<_>>()
        };
        actual.nodes.iter().flat_map(of).filter(|(_, found)| !found.component.is_empty())
    }

    /// Takes down all containers of a component, after those taken down before.
    /// One after the other with `one_by_one`, so that the last one knows that it is.
    pub(super) fn take_down(&mut self, component: &str, one_by_one: bool) {
        let before: Vec<usize> = self.ends.values().flatten().copied().collect();
        let of: Vec<(String, &Found)> =
            self.everything().filter(|(_, found)| found.component == component).collect();
        let mut last = Vec::new();
        // The leader last: nobody has to be elected for the time that is left.
        let (leaders, followers): (Vec<_>, Vec<_>) = of.into_iter().partition(|(_, found)| found.leads());
        for (node, found) in followers {
            let after = if one_by_one { [&before[..], &last].concat() } else { before.clone() };
            last.push(self.remove(&node, found, Reason::Down, &after));
        }
        for (node, found) in leaders {
            let after = [&before[..], &last].concat();
            let step = self.remove(&node, found, Reason::Down, &after);
            last.push(step);
        }
        self.ends.insert(component.to_owned(), last);
    }

    fn remove(&mut self, node: &str, found: &Found, reason: Reason, after: &[usize]) -> usize {
        let grace_s = found.definition.as_ref().map_or(30, |definition| definition.stop_grace_s);
        let action = Action::Remove { container: found.name.clone(), grace_s, driver: found.driver };
        self.step(&found.component, node, action, reason, after, grace_s + ENGINE_DEADLINE_S)
    }

    /// Plans one component; those that it waits for have been planned before.
    pub(super) fn component(
        &mut self,
        placed: &Placed,
        replicas: &[&'a Replica],
        versions: &BTreeMap<String, String>,
        wishes: Wishes,
    ) {
        let component = &placed.component;
        let name = component.name.as_str();
        let before: Vec<usize> = component
            .after
            .iter()
            .chain(&component.needs)
            .filter_map(|before| self.ends.get(before))
            .flatten()
            .copied()
            .collect();
        let first_step = self.steps.len();
        let mut groups = self.sort(placed, replicas);
        if component.roll.order == RollOrder::LeaderLast {
            groups.replace.sort_by_key(|(_, found, _)| found.leads());
        }
        let mut done = self.members_that_left(placed, replicas, &before);
        if component.roll.first == First::Galera {
            let wait = [&before[..], &done].concat();
            self.galera(placed, replicas, versions, wishes, &wait);
        } else {
            self.usual(placed, groups, versions, &before, &mut done);
        }
        let ends: Vec<usize> = (first_step..self.steps.len()).collect();
        // Only the steps that no other one of the component waits for.
        let waited: BTreeSet<usize> =
            self.steps[first_step..].iter().flat_map(|step| step.after.iter().copied()).collect();
        let ends: Vec<usize> = ends.into_iter().filter(|id| !waited.contains(id)).collect();
        // A component without steps passes on what it waits for itself.
        self.ends.insert(name.to_owned(), if ends.is_empty() { before } else { ends });
    }

    fn sort(&mut self, placed: &Placed, replicas: &[&'a Replica]) -> Groups<'a> {
        let name = placed.component.name.as_str();
        let mut groups = Groups::default();
        for replica in replicas.iter().copied() {
            match standing(self.actual, replica) {
                Standing::Unreachable => {
                    let why = match self.actual.nodes.get(&replica.node) {
                        Some(Err(why)) => why.clone(),
                        _ => "its agent was not asked".to_owned(),
                    };
                    self.block(name, &replica.node, why);
                }
                Standing::Foreign => {
                    let container = replica.definition.container_name();
                    let why = format!(
                        "a container called {container} is there that this stack did not make: remove or rename it"
                    );
                    self.block(name, &replica.node, why);
                }
                Standing::Absent if self.is_known(name, &replica.node) => groups.back.push(replica),
                Standing::Absent => groups.new.push(replica),
                Standing::Other(found, reason) if !found.running => {
                    groups.down.push((replica, Some(found), reason));
                }
                Standing::Other(found, reason) if found.is_ready() => {
                    groups.replace.push((replica, found, reason));
                }
                Standing::Other(found, reason) => groups.mend.push((replica, found, reason)),
                Standing::Stopped(found) => {
                    groups.down.push((replica, None, Reason::NotRunning { exit_code: found.exit_code }));
                }
                Standing::Unready(found) => groups.unready.push((replica, found)),
                Standing::Fine(_) => groups.fine.push(replica),
            }
        }
        groups
    }

    /// Whether all replicas that are there count on one on `node`.
    fn is_known(&self, component: &str, node: &str) -> bool {
        let mut there = self.everything().filter(|(_, found)| found.component == component).peekable();
        there.peek().is_some() && there.all(|(_, found)| found.members.contains_key(node))
    }

    fn members_that_left(&mut self, placed: &Placed, replicas: &[&Replica], before: &[usize]) -> Vec<usize> {
        let name = placed.component.name.as_str();
        let left: Vec<(String, &Found)> = self
            .everything()
            .filter(|(node, found)| {
                found.component == name && !replicas.iter().any(|replica| replica.node == *node)
            })
            .collect();
        if left.is_empty() {
            return Vec::new();
        }
        let staying: Vec<String> = replicas.iter().map(|replica| replica.node.clone()).collect();
        let ready =
            staying.iter().filter(|node| self.actual.found(node, name).is_some_and(Found::is_ready)).count();
        // More than half of the old ensemble must stay, or nobody could tell the others of the new one.
        let old = left.len() + staying.iter().filter(|node| self.actual.found(node, name).is_some()).count();
        let least = match placed.component.kind {
            Kind::Quorum => old / 2 + 1,
            kind => least_others(kind, old),
        };
        let leaving_ready = left.iter().any(|(_, found)| found.is_ready());
        if placed.component.kind == Kind::Quorum && leaving_ready && ready < least {
            for (node, _) in &left {
                let why = format!(
                    "it is to leave, but only {ready} of the {old} members would stay ready, and {least} must: replace members \
                     one at a time, and mend those that are not ready first"
                );
                self.block(name, node, why);
            }
            return Vec::new();
        }
        let mut after = before.to_vec();
        for (node, found) in left {
            let mut wait = after.clone();
            if found.is_ready() && least > 0 {
                let action = Action::Hold { others: staying.clone(), least: least.min(staying.len()) };
                wait = vec![self.step(name, &node, action, Reason::Needed, &after, placed.deadline_s)];
            }
            after = vec![self.remove(&node, found, Reason::Left, &wait)];
        }
        after
    }

    fn usual(
        &mut self,
        placed: &Placed,
        groups: Groups<'a>,
        versions: &BTreeMap<String, String>,
        before: &[usize],
        done: &mut Vec<usize>,
    ) {
        let roll = &placed.component.roll;
        let total = placed.nodes.len();
        let present = groups.fine.len()
            + groups.back.len()
            + groups.down.len()
            + groups.replace.len()
            + groups.mend.len()
            + groups.unready.len();
        let mut after: Vec<usize> = [before, &done[..]].concat();
        // 1. What is down costs nothing to touch: all at once, because none may become ready before enough are up.
        let mut waits = Vec::new();
        for (replica, found, reason) in &groups.down {
            let up = match found {
                Some(found) => self.replace(placed, replica, found, reason.clone(), versions, &after),
                None => self.start(placed, replica, reason.clone(), &after),
            };
            waits.push((*replica, up));
        }
        for replica in &groups.back {
            waits.push((*replica, self.create(placed, replica, Reason::New, versions, &after, Vec::new())));
        }
        // 2. What runs without being ready and is to change: one at a time, without waiting for the first to become ready,
        // which it may only do when all have changed.
        let mut last: Vec<usize> = after.iter().copied().chain(waits.iter().map(|(_, up)| *up)).collect();
        for (replica, found, reason) in &groups.mend {
            let up = self.replace(placed, replica, found, reason.clone(), versions, &last);
            last = vec![up];
            waits.push((*replica, up));
        }
        // Where nothing is ready, nothing may become ready before the new ones are there.
        let alive = !groups.replace.is_empty() || !groups.fine.is_empty();
        let ups: Vec<usize> = waits.iter().map(|(_, up)| *up).collect();
        let (early, late) =
            if alive || present == 0 { (Vec::new(), groups.new) } else { (groups.new, Vec::new()) };
        for replica in early {
            let wait = [&after[..], &ups].concat();
            waits.push((replica, self.create(placed, replica, Reason::New, versions, &wait, Vec::new())));
        }
        let mut gates: Vec<usize> = Vec::new();
        let ups: Vec<usize> = waits.iter().map(|(_, up)| *up).collect();
        for (replica, _) in &waits {
            gates.push(self.ready(placed, replica, Reason::Needed, &ups));
        }
        for (replica, found) in &groups.unready {
            let detail = found.probe.as_ref().map(|probe| probe.detail.clone()).unwrap_or_default();
            let wait: Vec<usize> = [&after[..], &ups].concat();
            gates.push(self.ready(placed, replica, Reason::Unready { detail }, &wait));
        }
        after.extend(&gates);
        // 3. What is ready and is to change: one at a time, the leader last, while the others hold.
        for (replica, found, reason) in &groups.replace {
            let others: Vec<String> =
                placed.nodes.iter().filter(|node| **node != replica.node).cloned().collect();
            // Of an ensemble that grows, only the present members can be counted on.
            let counted = if roll.grow == Grow::ExistingFirst { present } else { total };
            let least = least_others(placed.component.kind, counted);
            let mut wait = after.clone();
            if least > 0 {
                let bring = self.bring(placed, replica, versions);
                wait.extend(bring);
                let action = Action::Hold { others, least };
                let deadline_s = placed.deadline_s;
                wait = vec![self.step(
                    &placed.component.name,
                    &replica.node,
                    action,
                    Reason::Needed,
                    &wait,
                    deadline_s,
                )];
            }
            let up = self.replace(placed, replica, found, reason.clone(), versions, &wait);
            after = vec![self.ready(placed, replica, Reason::Needed, &[up])];
        }
        // 4. What is new.
        let one_by_one = roll.grow == Grow::ExistingFirst && present > 0;
        let first_alone = roll.first == First::OneThenRest && present == 0;
        let mut ups = Vec::new();
        for (number, replica) in late.into_iter().enumerate() {
            let up = self.create(placed, replica, Reason::New, versions, &after, Vec::new());
            if one_by_one || (first_alone && number == 0) {
                after = vec![self.ready(placed, replica, Reason::Needed, &[up])];
            } else {
                ups.push((replica, up));
            }
        }
        let all: Vec<usize> = ups.iter().map(|(_, up)| *up).collect();
        for (replica, _) in &ups {
            self.ready(placed, replica, Reason::Needed, &all);
        }
        *done = after;
    }

    /// Image and secrets for a replica: at once, beside everything else.
    pub(super) fn bring(
        &mut self,
        placed: &Placed,
        replica: &Replica,
        versions: &BTreeMap<String, String>,
    ) -> Vec<usize> {
        let mut steps = Vec::new();
        let name = placed.component.name.as_str();
        let node = replica.node.as_str();
        let report = self.actual.report(node);
        let image = &replica.definition.image;
        let has_image = report.is_some_and(|report| {
            report.images.get(image).is_some_and(|fact| {
                super::super::definition::Arch::parse(&fact.arch) == Some(replica.definition.arch)
            })
        });
        if !has_image {
            // The registry's password first.
            let registry = placed.registries.get(registry_of(image));
            let login = registry.and_then(|one| self.secret(name, node, &one.secret, versions));
            let action = Action::Pull { image: image.clone() };
            let after: Vec<usize> = login.into_iter().collect();
            steps.push(self.once(name, node, &format!("image {image}"), action, &after, PULL_DEADLINE_S));
        }
        for secret in placed.component.secrets.keys() {
            steps.extend(self.secret(name, node, secret, versions));
        }
        steps
    }

    /// The step that gives a node a secret, if it does not have it.
    fn secret(
        &mut self,
        component: &str,
        node: &str,
        secret: &str,
        versions: &BTreeMap<String, String>,
    ) -> Option<usize> {
        let there = self.actual.report(node).and_then(|report| report.secrets.get(secret));
        if there.map(|fact| &fact.version) == versions.get(secret) {
            return None;
        }
        let action = Action::Secret { name: secret.to_owned() };
        Some(self.once(component, node, &format!("secret {secret}"), action, &[], ENGINE_DEADLINE_S))
    }

    fn once(
        &mut self,
        component: &str,
        node: &str,
        what: &str,
        action: Action,
        after: &[usize],
        deadline_s: u32,
    ) -> usize {
        let key = (node.to_owned(), what.to_owned());
        if let Some(step) = self.brought.get(&key) {
            return *step;
        }
        let step = self.step(component, node, action, Reason::Needed, after, deadline_s);
        self.brought.insert(key, step);
        step
    }

    pub(super) fn create(
        &mut self,
        placed: &Placed,
        replica: &Replica,
        reason: Reason,
        versions: &BTreeMap<String, String>,
        after: &[usize],
        founding: Vec<String>,
    ) -> usize {
        let mut wait = self.bring(placed, replica, versions);
        wait.extend(after);
        let action = Action::Create { definition: Box::new(replica.definition.clone()), founding };
        // Marathon's deployment ends when the replica passes its health check.
        let deadline_s = match replica.definition.driver {
            Driver::Direct => ENGINE_DEADLINE_S,
            Driver::Marathon => ENGINE_DEADLINE_S + placed.deadline_s,
        };
        self.step(&placed.component.name, &replica.node, action, reason, &wait, deadline_s)
    }

    pub(super) fn replace(
        &mut self,
        placed: &Placed,
        replica: &Replica,
        found: &Found,
        reason: Reason,
        versions: &BTreeMap<String, String>,
        after: &[usize],
    ) -> usize {
        // Marathon itself stops the old one before it starts the new one.
        if (found.driver, replica.definition.driver) == (Driver::Marathon, Driver::Marathon) {
            return self.create(placed, replica, reason, versions, after, Vec::new());
        }
        let mut wait = self.bring(placed, replica, versions);
        wait.extend(after);
        let removed = self.remove(&replica.node, found, reason, &wait);
        self.create(placed, replica, Reason::Needed, versions, &[removed], Vec::new())
    }

    pub(super) fn start(
        &mut self,
        placed: &Placed,
        replica: &Replica,
        reason: Reason,
        after: &[usize],
    ) -> usize {
        let driver = replica.definition.driver;
        let deadline_s = if driver == Driver::Direct { ENGINE_DEADLINE_S } else { placed.deadline_s };
        let action = Action::Start { container: replica.definition.container_name(), driver };
        self.step(&placed.component.name, &replica.node, action, reason, after, deadline_s)
    }

    pub(super) fn ready(
        &mut self,
        placed: &Placed,
        replica: &Replica,
        reason: Reason,
        after: &[usize],
    ) -> usize {
        let (name, deadline_s) = (placed.component.name.as_str(), placed.deadline_s);
        self.step(name, &replica.node, Action::Ready, reason, after, deadline_s)
    }

    pub(super) fn act(
        &mut self,
        placed: &Placed,
        replica: &Replica,
        action: Action,
        reason: Reason,
        after: &[usize],
    ) -> usize {
        let (name, deadline_s) = (placed.component.name.as_str(), placed.deadline_s);
        self.step(name, &replica.node, action, reason, after, deadline_s)
    }
}
