//! Marathon makes the containers: each replica is an application, its node's agent prepares images, files, and volumes.
//!
//! What is asked of Marathon goes over the overlay from the node that the operator is on. Every change is such that it can
//! be asked for again: after a lost connection, a change of leader, or a run that was killed.

pub mod app;
pub mod client;

use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use serde_json::{Value, json};

use super::{Driver, Order, Replica, Waiting};
use crate::stack::actual::Actual;
use crate::stack::agent::{Answer, Request};
use crate::stack::definition::{Definition, DriverKind, LABEL};
use crate::stack::desired;
use crate::stack::fleet::Fleet;
use crate::stack::plan::{Action, Blocked, Plan};
use crate::stack::spec::Stack;
use client::{Client, Deployment, Error};

/// How often deployments are looked at.
const POLL: Duration = Duration::from_millis(500);
/// How long Marathon may take to tell what it has, for a report.
const LOOK_LIMIT: Duration = Duration::from_secs(8);
/// The component's name.
const COMPONENT: &str = "marathon";
/// The name of its port for requests.
const PORT: &str = "http";

/// Marathon, as a driver.
pub struct Marathon<'a> {
    /// How agents are reached.
    pub fleet: &'a Fleet,
    /// How Marathon is reached.
    pub client: &'a Client,
    /// The stack, for what applications have beyond definitions.
    pub stack: Option<&'a Stack>,
    /// Take applications out of the hands of deployments that are not the stack's own.
    pub force: bool,
}

/// A client of the stack's Marathon: where it should be, and where it still is.
pub fn client(stack: Option<&Stack>, actual: &Actual, address: impl Fn(&str) -> Option<IpAddr>) -> Client {
    let mut servers = Vec::new();
    if let Some(placed) = stack.and_then(|stack| stack.component(COMPONENT)) {
        let port = placed.ports.get(PORT).copied();
        servers.extend(placed.nodes.iter().filter_map(|node| Some(SocketAddr::new(address(node)?, port?))));
    }
    for node in actual.nodes.keys() {
        let found = actual.found(node, COMPONENT).filter(|found| found.running);
        let port = found.and_then(|found| found.definition.as_ref()?.ports.get(PORT).copied());
        if let (Some(address), Some(port)) = (address(node), port) {
            let at = SocketAddr::new(address, port);
            if !servers.contains(&at) {
                servers.push(at);
            }
        }
    }
    Client::new(servers)
}

/// Adds to what the agents report what Marathon knows: applications without a container, and those changed by hand.
pub async fn look(
    client: &Client,
    stack: &str,
    actual: &mut Actual,
    address: impl Fn(&str) -> Option<IpAddr>,
) {
    let runs =
        actual.nodes.keys().any(|node| actual.found(node, COMPONENT).is_some_and(|found| found.running));
    if !runs {
        return;
    }
    let looked = tokio::time::timeout(LOOK_LIMIT, client.apps(&format!("/{stack}/"))).await;
    let apps = match looked.unwrap_or_else(|_| Err(Error::NoLeader("no answer in time".into()))) {
        Ok(apps) => apps,
        Err(error) => {
            actual.marathon = Some(Err(error.to_string()));
            return;
        }
    };
    let mut seen = Vec::new();
    for one in &apps {
        let Some((node, mut found)) = app::found(stack, one) else { continue };
        let Some(Ok(report)) = actual.nodes.get_mut(&node) else { continue };
        let at = address(&node).unwrap_or(IpAddr::from([0, 0, 0, 0]));
        found.drift = app::drift(&found, &node, at, one);
        seen.push((node, found.component.clone()));
        let place = report.containers.iter().position(|other| other.component == found.component);
        match place.map(|place| &mut report.containers[place]) {
            // An agent's own container is removed before.
            Some(container) if container.driver == DriverKind::Direct => {}
            // The application counts: the container may be the one that it replaces at this moment.
            Some(container) => {
                container.drift.append(&mut found.drift);
                if container.hash != found.hash {
                    container.hash = found.hash;
                    container.definition = found.definition;
                    container.running = false;
                    container.probe = None;
                }
            }
            None => report.containers.push(found),
        }
    }
    // A container whose application is gone ends by itself, or is left over.
    for (node, report) in &mut actual.nodes {
        for found in report.iter_mut().flat_map(|report| &mut report.containers) {
            let known = seen.iter().any(|(at, component)| at == node && *component == found.component);
            if found.driver == DriverKind::Marathon && !known {
                found.drift.push("application: there is none in Marathon".into());
            }
        }
    }
    actual.marathon = Some(Ok(seen.len()));
}

/// Has Marathon look at all applications of the stack as they would be, without changing anything. Nothing is found where
/// it does not run yet.
///
/// # Errors
/// If a definition cannot be made.
pub async fn rehearse(client: &Client, stack: &Stack, actual: &Actual, plan: &Plan) -> Vec<Blocked> {
    if !matches!(actual.marathon, Some(Ok(_))) {
        return Vec::new();
    }
    let mut groups: std::collections::BTreeMap<String, Vec<Value>> = Default::default();
    let versions = crate::stack::plan::secrets::versions(stack, actual);
    let Ok(replicas) = desired::replicas(stack, &plan.ids, &versions) else { return Vec::new() };
    for replica in &replicas {
        let definition = &replica.definition;
        if definition.driver != DriverKind::Marathon {
            continue;
        }
        let report = actual.report(&replica.node);
        let image = report.and_then(|report| report.images.get(&definition.image));
        let place = app::Place {
            node: &replica.node,
            address: stack.nodes[&replica.node].address,
            image_id: image.map_or("", |image| &image.id),
            files: "/run/meshd-stack",
            members: &plan.ids[&definition.component],
            founding: &[],
            health: &health(Some(stack), definition),
        };
        let apps = groups.entry(format!("/{}/{}", stack.name, definition.component)).or_default();
        apps.push(app::render(definition, &place));
    }
    let changes = |step: &crate::stack::plan::Step| matches!(&step.action, Action::Create { definition, .. } if definition.driver == DriverKind::Marathon);
    if groups.is_empty() || !plan.steps.iter().any(changes) {
        return Vec::new();
    }
    let id = format!("/{}", stack.name);
    let groups: Vec<Value> = groups.into_iter().map(|(id, apps)| json!({ "id": id, "apps": apps })).collect();
    let group = json!({ "id": id, "groups": groups });
    match client.try_group(&id, &group).await {
        Ok(_) => Vec::new(),
        // Whoever has it now is asked again when it is done.
        Err(Error::NoLeader(_) | Error::Locked { .. }) => Vec::new(),
        Err(error) => {
            vec![Blocked { component: COMPONENT.into(), node: String::new(), why: error.to_string() }]
        }
    }
}

fn health(stack: Option<&Stack>, definition: &Definition) -> Value {
    let Some(placed) = stack.and_then(|stack| stack.component(&definition.component)) else {
        return json!([]);
    };
    let grace_s = placed.component.marathon.grace_s.unwrap_or(placed.deadline_s);
    app::health(&placed.component.health, &placed.ports, grace_s)
}

impl Driver for Marathon<'_> {
    async fn place(&self, order: &Order<'_>, waiting: &mut Waiting<'_>) -> anyhow::Result<()> {
        let definition = order.definition;
        let request = Request::Prepare {
            definition: Box::new(definition.clone()),
            founding: !order.founding.is_empty(),
            keeps_id: order.keeps_id.to_vec(),
        };
        let Answer::Prepared { image_id, files } = self.fleet.ask(order.node, &request).await? else {
            anyhow::bail!("its agent answered something else");
        };
        let address = self.fleet.address(order.node);
        let address = address.ok_or_else(|| anyhow::anyhow!("no member has the name {}", order.node))?;
        let health = health(self.stack, definition);
        let place = app::Place {
            node: order.node,
            address,
            image_id: &image_id,
            files: &files,
            members: order.members,
            founding: order.founding,
            health: &health,
        };
        let wanted = app::render(definition, &place);
        let id = app::id(&definition.stack, &definition.component, order.node);
        self.submit(&id, &wanted, waiting).await?;
        self.deployed(&id, Some(&wanted), waiting).await
    }

    async fn start(&self, replica: &Replica<'_>, waiting: &mut Waiting<'_>) -> anyhow::Result<()> {
        let id = app::id(replica.stack, replica.component, replica.node);
        loop {
            match self.client.forget_delay(&id).await {
                Ok(()) => break,
                Err(error) if error.is_passing() => self.pause(waiting, error.to_string()).await,
                Err(error) => return Err(error.into()),
            }
        }
        self.deployed(&id, None, waiting).await?;
        loop {
            match self.client.app(&id).await {
                Ok(Some(app)) if app["tasksRunning"].as_u64() > Some(0) => return Ok(()),
                Ok(Some(app)) => {
                    let why = self.reason(&id, &app).await;
                    self.pause(waiting, why).await;
                }
                Ok(None) => anyhow::bail!("its application is gone: run `up` again"),
                Err(error) if error.is_passing() => self.pause(waiting, error.to_string()).await,
                Err(error) => return Err(error.into()),
            }
        }
    }

    async fn remove(&self, replica: &Replica<'_>, waiting: &mut Waiting<'_>) -> anyhow::Result<()> {
        let id = app::id(replica.stack, replica.component, replica.node);
        loop {
            match self.client.delete_app(&id, false).await {
                Ok(()) => break,
                Err(Error::Locked { message, .. }) => match self.owner(&id, replica.stack).await {
                    Owner::Ours => {
                        if let Err(error) = self.client.delete_app(&id, true).await
                            && !error.is_passing()
                        {
                            return Err(error.into());
                        }
                    }
                    Owner::Nobody => {}
                    Owner::Others(who) => self.pause(waiting, format!("{message} ({who})")).await,
                },
                Err(error) if error.is_passing() => self.pause(waiting, error.to_string()).await,
                Err(error) => return Err(error.into()),
            }
        }
        self.deployed(&id, None, waiting).await?;
        // Nothing is left, unless Mesos has lost it.
        let container = format!("meshd-{}-{}", replica.stack, replica.component);
        let request =
            Request::Remove { stack: replica.stack.to_owned(), container, grace_s: replica.grace_s };
        self.fleet.ask(replica.node, &request).await?;
        Ok(())
    }
}

/// Whose deployment has an application.
enum Owner {
    /// It changes applications of the stack only: an earlier run's, or one that somebody began there by hand.
    Ours,
    /// Nobody's any more.
    Nobody,
    /// It changes others too.
    Others(String),
}

impl Marathon<'_> {
    /// Has Marathon take the application. An earlier deployment of it is waited for if it is the same, and replaced if it is
    /// not: with a lock on the stack, nobody else is to change it.
    async fn submit(&self, id: &str, wanted: &Value, waiting: &mut Waiting<'_>) -> anyhow::Result<()> {
        let mut force = self.force;
        loop {
            match self.client.put_app(id, wanted, force).await {
                Ok(()) => return Ok(()),
                Err(Error::Locked { message, .. }) => {
                    if self.has(id, wanted).await {
                        return Ok(());
                    }
                    let stack = id.split('/').nth(1).unwrap_or_default();
                    match self.owner(id, stack).await {
                        Owner::Ours => force = true,
                        Owner::Nobody => {}
                        Owner::Others(who) => {
                            let why =
                                format!("{message} It is {who}; `meshd stack up --force` takes it over");
                            self.pause(waiting, why).await;
                        }
                    }
                }
                Err(error) if error.is_passing() => {
                    self.pause(waiting, error.to_string()).await;
                    // It may have been heard all the same.
                    if self.has(id, wanted).await {
                        return Ok(());
                    }
                }
                Err(error) => return Err(error.into()),
            }
        }
    }

    /// Whether Marathon has the application as it is wanted, deployed or not.
    async fn has(&self, id: &str, wanted: &Value) -> bool {
        let Ok(Some(app)) = self.client.app(id).await else { return false };
        is_same(&app, wanted)
    }

    async fn owner(&self, id: &str, stack: &str) -> Owner {
        let Ok(deployments) = self.client.deployments().await else { return Owner::Nobody };
        let ours = format!("/{stack}/");
        let mut holding = deployments.iter().filter(|one| one.apps.iter().any(|app| app == id)).peekable();
        if holding.peek().is_none() {
            return Owner::Nobody;
        }
        match holding.find(|one| !one.apps.iter().all(|app| app.starts_with(&ours))) {
            Some(other) => Owner::Others(format!("deployment {} of {}", other.id, other.apps.join(", "))),
            None => Owner::Ours,
        }
    }

    /// Waits until no deployment has the application. With `wanted`, it must then be that one, and run.
    async fn deployed(
        &self,
        id: &str,
        wanted: Option<&Value>,
        waiting: &mut Waiting<'_>,
    ) -> anyhow::Result<()> {
        loop {
            let deployments = match self.client.deployments().await {
                Ok(deployments) => deployments,
                Err(error) if error.is_passing() => {
                    self.pause(waiting, error.to_string()).await;
                    continue;
                }
                Err(error) => return Err(error.into()),
            };
            let holding = deployments.iter().find(|one| one.apps.iter().any(|app| app == id));
            let app = match self.client.app(id).await {
                Ok(app) => app,
                Err(error) if error.is_passing() => {
                    self.pause(waiting, error.to_string()).await;
                    continue;
                }
                Err(error) => return Err(error.into()),
            };
            match (holding, app, wanted) {
                (Some(deployment), Some(app), _) => {
                    let why = format!("{}; {}", words(deployment), self.reason(id, &app).await);
                    self.pause(waiting, why).await;
                }
                (Some(deployment), None, _) => self.pause(waiting, words(deployment)).await,
                (None, _, None) => return Ok(()),
                (None, Some(app), Some(wanted)) if is_same(&app, wanted) => {
                    if app["tasksRunning"].as_u64() > Some(0) {
                        return Ok(());
                    }
                    let why = self.reason(id, &app).await;
                    self.pause(waiting, why).await;
                }
                (None, Some(_), Some(_)) => {
                    anyhow::bail!("somebody else changed the application {id} meanwhile, or rolled it back")
                }
                (None, None, Some(_)) => {
                    anyhow::bail!("somebody removed the application {id} meanwhile, or rolled it back")
                }
            }
        }
    }

    /// Why an application does not run, as far as Marathon knows.
    async fn reason(&self, id: &str, app: &Value) -> String {
        let mut words = Vec::new();
        let count = |key: &str| app[key].as_u64().unwrap_or(0);
        if count("tasksUnhealthy") > 0 {
            words.push("it fails its health check".to_owned());
        } else if count("tasksRunning") > 0 {
            words.push("it runs, but has not passed its health check yet".to_owned());
        } else if count("tasksStaged") > 0 {
            words.push("its agent is starting it".to_owned());
        } else if let Ok(Some(why)) = self.client.queued(id).await {
            words.push(why);
        }
        let failure = &app["lastTaskFailure"];
        // An earlier version's failure tells nothing about this one.
        if let Some(state) = failure["state"].as_str()
            && failure["version"] == app["version"]
        {
            let message = failure["message"].as_str().unwrap_or_default().trim();
            words.push(format!("its last task ended as {state}: {message}"));
        }
        if words.is_empty() { "Marathon has not started it yet".into() } else { words.join("; ") }
    }

    async fn pause(&self, waiting: &mut Waiting<'_>, why: String) {
        waiting.tell(why);
        tokio::time::sleep(POLL).await;
    }
}

fn words(deployment: &Deployment) -> String {
    format!("Marathon's deployment {} is at {}", deployment.id, deployment.now)
}

/// Whether it is the same application: the hash is over the definition and its image, the others are beside it.
fn is_same(app: &Value, wanted: &Value) -> bool {
    let keys = ["hash", "extra", "members", "files", "health"];
    let is = |app: &Value, key: &str| app["labels"][format!("{LABEL}.{key}")].clone();
    keys.iter().all(|key| is(app, key) == is(wanted, key)) && app["instances"] == wanted["instances"]
}

#[cfg(test)]
mod script;
#[cfg(test)]
mod tests;
