//! Walking a plan: side by side where the order allows it, gated by health, stopping at the first failure.

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use futures_util::StreamExt;
use futures_util::stream::FuturesUnordered;
use rand::RngExt;

use super::agent::{Answer, Login, Request, Secret};
use super::components::Check;
use super::definition::{DriverKind, hex};
use super::driver::direct::Direct;
use super::driver::marathon::{Marathon, client::Client};
use super::driver::{Driver, Order, Replica, Waiting};
use super::engine::probe::DISCONNECTED;
use super::fleet::{self, Fleet};
use super::plan::secrets::{self, NOT_YET};
use super::plan::{Action, Plan, Step, Wishes};
use super::progress::{Observer, Progress};
use super::spec::{Placed, SecretSource, Stack, registry_of};
use super::{actual::Actual, random_bytes};

/// How often a replica is asked whether it is ready.
const POLL: Duration = Duration::from_millis(500);
/// A Galera replica that is seen without its cluster so often in a row is restarted.
const GIVEN_UP_AFTER: u32 = 12;
/// Most steps under way at a time.
const MAX_STEPS_AT_ONCE: usize = 32;
/// Last lines of a container's log that are shown when it fails.
const LAST_LINES: u32 = 15;
/// How long those may take to come.
const LOG_LIMIT: Duration = Duration::from_secs(5);
/// Length of a secret's version, in bytes.
const VERSION_LEN: usize = 8;

/// A step that failed.
#[derive(Debug, Clone, thiserror::Error)]
#[error("{component} on {node}: {what} failed after {after_s} s: {why}{}", last(.last_lines))]
pub struct Failure {
    /// The component.
    pub component: String,
    /// The node.
    pub node: String,
    /// What was done.
    pub what: String,
    /// Why it failed.
    pub why: String,
    /// After how many seconds.
    pub after_s: u64,
    /// What the container printed last.
    pub last_lines: Vec<String>,
}

fn last(lines: &[String]) -> String {
    if lines.is_empty() {
        return String::new();
    }
    format!("\nThe last lines of its log:\n  {}", lines.join("\n  "))
}

/// The secrets of one run: their versions, and those made or read from files by it.
#[derive(Debug, Default)]
pub struct Supply {
    /// The version of each secret that counts.
    pub versions: BTreeMap<String, String>,
    made: BTreeMap<String, Secret>,
    holders: BTreeMap<String, String>,
}

/// Finds out which version of each secret counts. With `make`, missing ones are made, and files read; they reach the nodes
/// by the plan's steps.
///
/// # Errors
/// If a file cannot be read, or a holder does not hand out what a file is compared with.
pub async fn supply(stack: &Stack, actual: &Actual, fleet: &Fleet, make: bool) -> anyhow::Result<Supply> {
    let mut supply = Supply::default();
    let holders = secrets::holders(stack, actual);
    for (name, source) in &stack.secrets {
        let holder = holders.get(name);
        let value = match source {
            SecretSource::Generate(_) if holder.is_some() => None,
            SecretSource::Generate(length) => make.then(|| generate(*length)),
            // Another operator's node takes up the stack without the file: what the nodes keep counts.
            SecretSource::File(path) if holder.is_some() && !path.exists() => None,
            SecretSource::File(path) => {
                let text = std::fs::read_to_string(path).map_err(|error| {
                    anyhow::anyhow!("cannot read the secret {name} from {}: {error}", path.display())
                })?;
                let value = text.strip_suffix('\n').unwrap_or(&text).to_owned();
                let kept = match holder {
                    Some(holder) => Some(get(fleet, &stack.name, name, &holder.node).await?),
                    None => None,
                };
                (kept.is_none_or(|kept| kept.value != value)).then_some(value)
            }
        };
        let version = match (value, holder) {
            (Some(value), _) if make => {
                let version = hex(&random_bytes::<VERSION_LEN>());
                let made_ms = now_ms();
                supply.made.insert(name.clone(), Secret { version: version.clone(), made_ms, value });
                version
            }
            (None, Some(holder)) => {
                supply.holders.insert(name.clone(), holder.node.clone());
                holder.version.clone()
            }
            _ => NOT_YET.to_owned(),
        };
        supply.versions.insert(name.clone(), version);
    }
    Ok(supply)
}

async fn get(fleet: &Fleet, stack: &str, name: &str, node: &str) -> anyhow::Result<Secret> {
    let request = Request::GetSecret { stack: stack.to_owned(), name: name.to_owned() };
    match fleet.ask(node, &request).await? {
        Answer::Secret(secret) => Ok(secret),
        _ => anyhow::bail!("{node} did not hand out the secret {name}"),
    }
}

/// Letters and digits at random.
fn generate(length: u32) -> String {
    const LETTERS: &[u8] = b"ABCDEFGHJKLMNPQRSTUVWXYZabcdefghijkmnopqrstuvwxyz23456789";
    let mut rng: rand::rngs::StdRng = rand::make_rng();
    (0..length).map(|_| char::from(LETTERS[rng.random_range(0..LETTERS.len())])).collect()
}

/// Milliseconds since the Unix epoch.
pub fn now_ms() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_millis() as u64
}

/// What steps need to be carried out.
pub struct Site<'a> {
    /// The stack's name.
    pub name: &'a str,
    /// The stack; not needed to take one down.
    pub stack: Option<&'a Stack>,
    /// The agents.
    pub fleet: &'a Fleet,
    /// The secrets.
    pub supply: &'a Supply,
    /// The stack's Marathon; a client without servers where it has none.
    pub marathon: &'a Client,
    /// What an operator asked for beyond the specification.
    pub wishes: Wishes,
    /// Who hears what goes on.
    pub observer: &'a dyn Observer,
}

/// Carries out a plan. Nothing new is begun after a failure; what is under way is let finish.
///
/// # Errors
/// The first [`Failure`].
pub async fn apply(plan: &Plan, site: &Site<'_>) -> Result<(), Failure> {
    let mut done: BTreeSet<usize> = BTreeSet::new();
    let mut begun: BTreeSet<usize> = BTreeSet::new();
    let mut running = FuturesUnordered::new();
    let mut failure = None;
    loop {
        if failure.is_none() {
            for step in &plan.steps {
                let free = !begun.contains(&step.id) && step.after.iter().all(|before| done.contains(before));
                if free && running.len() < MAX_STEPS_AT_ONCE {
                    begun.insert(step.id);
                    running.push(async move { (step.id, run(plan, step, site).await) });
                }
            }
        }
        match running.next().await {
            Some((id, Ok(()))) => drop(done.insert(id)),
            Some((_, Err(error))) => drop(failure.get_or_insert(error)),
            None => break,
        }
    }
    failure.map_or(Ok(()), Err)
}

async fn run(plan: &Plan, step: &Step, site: &Site<'_>) -> Result<(), Failure> {
    let started = Instant::now();
    site.observer.begins(step);
    let limit = Duration::from_secs(step.deadline_s.into());
    let mut waits_for = String::new();
    let result = match tokio::time::timeout(limit, attempt(plan, step, site, &mut waits_for)).await {
        Ok(result) => result.map_err(|error| format!("{error:#}")),
        Err(_) if waits_for.is_empty() => Err("it took too long".to_owned()),
        Err(_) => Err(waits_for),
    };
    match result {
        Ok(()) => {
            site.observer.done(step, started.elapsed());
            Ok(())
        }
        Err(why) => Err(Failure {
            component: step.component.clone(),
            node: step.node.clone(),
            what: step.to_string(),
            why,
            after_s: started.elapsed().as_secs(),
            last_lines: last_lines(step, site).await,
        }),
    }
}

async fn attempt(plan: &Plan, step: &Step, site: &Site<'_>, waits_for: &mut String) -> anyhow::Result<()> {
    let stack = site.name.to_owned();
    let placed = || {
        let placed = site.stack.and_then(|stack| stack.component(&step.component));
        placed.ok_or_else(|| anyhow::anyhow!("the specification has no {}", step.component))
    };
    match &step.action {
        Action::Pull { image } => {
            let arch = site.stack.and_then(|stack| stack.nodes.get(&step.node)).map(|node| node.arch);
            let arch = arch.ok_or_else(|| anyhow::anyhow!("{} is not in the stack", step.node))?;
            let mut client = site.fleet.connect(&step.node).await?;
            let registry = placed()?.registries.get(registry_of(image)).cloned();
            let login = registry.map(|one| Login { stack, user: one.user, secret: one.secret });
            let request = Request::Pull { image: image.clone(), arch, login };
            client
                .ask_with(&request, |part| {
                    if let Answer::Progress { done, total } = part {
                        site.observer.goes_on(step, &Progress::Bytes { done, total });
                    }
                })
                .await?;
        }
        Action::Secret { name } => {
            let secret = match (site.supply.made.get(name), site.supply.holders.get(name)) {
                (Some(made), _) => made.clone(),
                (None, Some(holder)) => get(site.fleet, &stack, name, holder).await?,
                (None, None) => anyhow::bail!("nobody has the secret {name}"),
            };
            ask(site, step, Request::PutSecret { stack, name: name.clone(), secret }).await?;
        }
        Action::Hold { others, least } => {
            let placed = placed()?;
            loop {
                let answers = others.iter().map(|node| site.fleet.probe(site.name, placed, node));
                let answers = futures_util::future::join_all(answers).await;
                let ready =
                    answers.iter().filter(|answer| answer.as_ref().is_ok_and(|probe| probe.ready)).count();
                if ready >= *least {
                    break;
                }
                let why = format!(
                    "{ready} of {} are ready, {least} must be before {} is touched",
                    others.join(", "),
                    step.node
                );
                wait(site, step, waits_for, why).await;
            }
        }
        Action::Remove { container, grace_s, driver } => {
            let replica = replica(site, step, container, *grace_s);
            let waiting = &mut Waiting { observer: site.observer, step, why: waits_for };
            match driver {
                DriverKind::Direct => Direct { fleet: site.fleet }.remove(&replica, waiting).await?,
                DriverKind::Marathon => marathon(site).remove(&replica, waiting).await?,
            }
        }
        Action::Create { definition, founding } => {
            let none = BTreeMap::new();
            let order = Order {
                node: &step.node,
                definition,
                founding,
                members: plan.ids.get(&step.component).unwrap_or(&none),
                keeps_id: &fleet::keeps_id(placed()?),
            };
            let waiting = &mut Waiting { observer: site.observer, step, why: waits_for };
            match definition.driver {
                DriverKind::Direct => Direct { fleet: site.fleet }.place(&order, waiting).await?,
                DriverKind::Marathon => marathon(site).place(&order, waiting).await?,
            }
        }
        Action::Start { container, driver } => {
            let replica = replica(site, step, container, 0);
            let waiting = &mut Waiting { observer: site.observer, step, why: waits_for };
            match driver {
                DriverKind::Direct => Direct { fleet: site.fleet }.start(&replica, waiting).await?,
                DriverKind::Marathon => marathon(site).start(&replica, waiting).await?,
            }
        }
        Action::Ready => {
            let placed = placed()?;
            let mut given_up = 0;
            loop {
                let why = match site.fleet.probe(site.name, placed, &step.node).await {
                    Ok(probe) if probe.ready => break,
                    Ok(probe) => {
                        // For a moment while it starts, it looks the same.
                        let lost = probe.role.as_deref() == Some(DISCONNECTED);
                        given_up = if lost { given_up + 1 } else { 0 };
                        probe.detail
                    }
                    Err(error) => error.to_string(),
                };
                if given_up == GIVEN_UP_AFTER {
                    given_up = 0;
                    // It ends, its engine starts it again, and it joins anew. With wsrep_on it would refuse the order.
                    client(site, step, placed, "SET SESSION wsrep_on=OFF; SHUTDOWN").await?;
                }
                wait(site, step, waits_for, why).await;
            }
        }
        Action::Promote => promote(site, step, placed()?).await?,
        Action::Recover { definition } => {
            ask(site, step, Request::Recover { definition: definition.clone() }).await?;
        }
    }
    Ok(())
}

fn marathon<'a>(site: &Site<'a>) -> Marathon<'a> {
    Marathon { fleet: site.fleet, client: site.marathon, stack: site.stack, force: site.wishes.force }
}

fn replica<'a>(site: &Site<'a>, step: &'a Step, container: &'a str, grace_s: u32) -> Replica<'a> {
    Replica { node: &step.node, stack: site.name, component: &step.component, container, grace_s }
}

async fn wait(site: &Site<'_>, step: &Step, waits_for: &mut String, why: String) {
    site.observer.goes_on(step, &Progress::Waits(why.clone()));
    *waits_for = why;
    tokio::time::sleep(POLL).await;
}

async fn ask(site: &Site<'_>, step: &Step, request: Request) -> anyhow::Result<Answer> {
    Ok(site.fleet.ask(&step.node, &request).await?)
}

/// Makes what is left of a Galera cluster its primary component again.
async fn promote(site: &Site<'_>, step: &Step, placed: &Placed) -> anyhow::Result<()> {
    client(site, step, placed, "SET GLOBAL wsrep_provider_options='pc.bootstrap=YES'").await
}

/// Has a Galera replica carry out a statement.
async fn client(site: &Site<'_>, step: &Step, placed: &Placed, statement: &str) -> anyhow::Result<()> {
    let Check::Galera { command } = &placed.component.ready else {
        anyhow::bail!("{} is no Galera cluster", step.component);
    };
    // The same client as the check's, with another statement.
    let mut command = command.clone();
    command.pop();
    command.push(statement.into());
    let container = format!("meshd-{}-{}", site.name, step.component);
    match ask(site, step, Request::Run { stack: site.name.to_owned(), container, command }).await? {
        Answer::Ran { code: 0, .. } => Ok(()),
        Answer::Ran { code, output } => anyhow::bail!("its client ended with {code}: {}", output.trim()),
        _ => anyhow::bail!("its agent answered something else"),
    }
}

async fn last_lines(step: &Step, site: &Site<'_>) -> Vec<String> {
    let of_container =
        matches!(step.action, Action::Ready | Action::Create { .. } | Action::Start { .. } | Action::Promote);
    if !of_container {
        return Vec::new();
    }
    let container = format!("meshd-{}-{}", site.name, step.component);
    let request = Request::Logs { stack: site.name.to_owned(), container, tail: LAST_LINES, follow: false };
    let mut text = String::new();
    let read = async {
        let mut client = site.fleet.connect(&step.node).await?;
        let part = |answer| {
            if let Answer::Line { text: more } = answer {
                text.push_str(&more);
            }
        };
        client.ask_with(&request, part).await
    };
    // Whatever came is worth showing.
    let _ = tokio::time::timeout(LOG_LIMIT, read).await;
    text.lines().map(str::to_owned).collect()
}

#[cfg(test)]
mod tests;
