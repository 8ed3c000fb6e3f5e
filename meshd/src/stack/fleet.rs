//! The agents of the mesh, as an operator reaches them.

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use futures_util::future::join_all;
use proto::id::MemberId;

use super::actual::{Actual, Probe, Report};
use super::agent::client::{Caller, Client, Error};
use super::agent::{Answer, DEFAULT_PORT, Request};
use super::components::Check;
use super::definition::Source;
use super::desired::volume_name;
use super::engine::probe::Question;
use super::spec::{Member, Placed, Stack};
use crate::api::Status;

/// How long a report may take.
const REPORT_LIMIT: Duration = Duration::from_secs(20);
/// Most connections to an agent that are kept for the next question.
const MAX_IDLE: usize = 4;

/// The members' agents, by name.
#[derive(Clone)]
pub struct Fleet {
    contacts: BTreeMap<String, Contact>,
    caller: Arc<Caller>,
    own: String,
    /// Connections that wait for the next question: over a long way a new one takes four times as long as a question.
    idle: Arc<Mutex<BTreeMap<String, Vec<Client>>>>,
}

#[derive(Clone)]
struct Contact {
    at: SocketAddr,
    id: MemberId,
    member: Member,
}

impl Fleet {
    /// The fleet of the mesh that the daemon describes.
    pub fn new(status: &Status, caller: Caller) -> Fleet {
        let own = &status.node;
        let own = (&own.name, &own.member_id, &own.addresses, &own.datacenter);
        let peers =
            status.peers.iter().map(|peer| (&peer.name, &peer.member_id, &peer.addresses, &peer.datacenter));
        let mut contacts = BTreeMap::new();
        for (name, id, addresses, datacenter) in std::iter::once(own).chain(peers) {
            let address = addresses.iter().find(|address| address.is_ipv4()).or(addresses.first()).copied();
            if let (Some(address), Ok(id)) = (address, id.parse()) {
                let member = Member {
                    name: name.clone(),
                    address,
                    datacenter: datacenter.clone(),
                    arch: None,
                    reachable: false,
                };
                contacts
                    .insert(name.clone(), Contact { at: SocketAddr::new(address, DEFAULT_PORT), id, member });
            }
        }
        Fleet { contacts, caller: Arc::new(caller), own: status.node.name.clone(), idle: Arc::default() }
    }

    /// A fleet without members.
    #[cfg(test)]
    pub(crate) fn empty() -> Fleet {
        let identity = meshnet::membership::IdentitySecret::from_bytes(&[1; 32]);
        let caller = Arc::new(Caller { member: MemberId([1; 16]), identity });
        Fleet { contacts: BTreeMap::new(), caller, own: "here".into(), idle: Arc::default() }
    }

    /// A fleet whose agents listen at these places, by name.
    #[cfg(test)]
    pub(crate) fn at(places: &BTreeMap<String, SocketAddr>) -> Fleet {
        let contact = |(name, at): (&String, &SocketAddr)| {
            let member = Member {
                name: name.clone(),
                address: at.ip(),
                datacenter: None,
                arch: Some(super::definition::Arch::Amd64),
                reachable: true,
            };
            (name.clone(), Contact { at: *at, id: MemberId([2; 16]), member })
        };
        Fleet { contacts: places.iter().map(contact).collect(), ..Fleet::empty() }
    }

    /// The name of the node on which this runs.
    pub fn own(&self) -> &str {
        &self.own
    }

    /// All members, with what their agents tell of themselves; those without an agent are not reachable.
    ///
    /// # Errors
    /// Why an agent refuses to talk to this node: that concerns all of them.
    pub async fn members(&self) -> Result<Vec<Member>, Error> {
        let members = join_all(self.contacts.iter().map(async |(name, contact)| {
            let mut member = contact.member.clone();
            match self.ask(name, &Request::Hello).await {
                Ok(Answer::Hello { arch, .. }) => {
                    member.arch = arch;
                    member.reachable = true;
                }
                Err(error @ Error::Refused(_)) => return Err(error),
                _ => {}
            }
            Ok(member)
        }))
        .await;
        let mut members = members.into_iter().collect::<Result<Vec<_>, _>>()?;
        if members.iter().any(|member| !member.reachable) {
            // While a node is away, the others remember what it is.
            let there = members.iter().filter(|member| member.reachable).map(|member| &member.name);
            let answers = join_all(there.map(async |node| self.ask(node, &Request::GetSpecs).await)).await;
            let mut known = BTreeMap::new();
            for answer in answers.into_iter().flatten() {
                if let Answer::Specs { architectures, .. } = answer {
                    known.extend(architectures);
                }
            }
            for member in members.iter_mut().filter(|member| member.arch.is_none()) {
                member.arch = known.get(&member.name).copied();
            }
        }
        Ok(members)
    }

    /// A connection to the agent of a node.
    ///
    /// # Errors
    /// As [`Client::connect`].
    pub async fn connect(&self, node: &str) -> Result<Client, Error> {
        let Some(contact) = self.contacts.get(node) else {
            return Err(Error::Refused(format!("no member has the name {node}")));
        };
        Client::connect(contact.at, contact.id, &self.caller).await
    }

    /// Asks the agent of a node one thing.
    ///
    /// # Errors
    /// As [`Client::ask`].
    pub async fn ask(&self, node: &str, request: &Request) -> Result<Answer, Error> {
        if !request.may_repeat() {
            return self.connect(node).await?.ask(request).await;
        }
        if let Some(client) = self.take_idle(node) {
            match self.ask_through(node, client, request).await {
                // The agent has closed it since, or was restarted.
                Err(Error::Broken(_)) => {}
                answer => return answer,
            }
        }
        let client = self.connect(node).await?;
        self.ask_through(node, client, request).await
    }

    /// Asks through a connection, and keeps it for the next question. One whose answer nobody waits for is not kept: the
    /// next question would get it.
    async fn ask_through(&self, node: &str, mut client: Client, request: &Request) -> Result<Answer, Error> {
        let answer = client.ask(request).await;
        if matches!(answer, Ok(_) | Err(Error::Refused(_))) {
            let mut idle = self.idle.lock().unwrap_or_else(PoisonError::into_inner);
            let kept = idle.entry(node.to_owned()).or_default();
            if kept.len() < MAX_IDLE {
                kept.push(client);
            }
        }
        answer
    }

    fn take_idle(&self, node: &str) -> Option<Client> {
        self.idle.lock().unwrap_or_else(PoisonError::into_inner).get_mut(node)?.pop()
    }

    /// What the agents report about a stack, without what Marathon knows. All members are asked, because something may be left
    /// on any of them.
    pub async fn reports(&self, name: &str, stack: Option<&Stack>) -> Actual {
        let nodes = join_all(self.contacts.keys().map(async |node| {
            let concerned = stack.is_none_or(|stack| stack.nodes.contains_key(node));
            let report = tokio::time::timeout(REPORT_LIMIT, self.report(name, stack, node)).await;
            match report.unwrap_or_else(|_| Err("its agent did not answer in time".into())) {
                // A member that has nothing to do with the stack need not have an agent.
                Err(_) if !concerned => None,
                report => Some((node.clone(), report)),
            }
        }))
        .await;
        Actual { nodes: nodes.into_iter().flatten().collect(), marathon: None }
    }

    /// The overlay address of a member.
    pub fn address(&self, node: &str) -> Option<IpAddr> {
        self.contacts.get(node).map(|contact| contact.member.address)
    }

    async fn report(&self, name: &str, stack: Option<&Stack>, node: &str) -> Result<Report, String> {
        let (mut questions, mut images, mut galera) = (Vec::new(), Vec::new(), BTreeMap::new());
        for placed in stack
            .iter()
            .flat_map(|stack| &stack.placed)
            .filter(|placed| placed.nodes.iter().any(|one| one == node))
        {
            questions.push(question(name, placed));
            if let Some(stack) = stack
                && let Some(image) = stack.nodes.get(node).and_then(|node| placed.images.get(&node.arch))
            {
                images.push(image.clone());
            }
            if matches!(placed.component.ready, Check::Galera { .. }) {
                galera.extend(data_of(name, placed).map(|source| (placed.component.name.clone(), source)));
            }
        }
        let request = Request::Report { stack: name.to_owned(), questions, images, galera };
        match self.ask(node, &request).await {
            Ok(Answer::Report(report)) => Ok(*report),
            Ok(_) => Err(Error::Version.to_string()),
            Err(error) => Err(error.to_string()),
        }
    }

    /// How one replica is.
    ///
    /// # Errors
    /// If its agent does not answer.
    pub async fn probe(&self, name: &str, placed: &Placed, node: &str) -> Result<Probe, Error> {
        match self.ask(node, &Request::Probe { question: question(name, placed) }).await? {
            Answer::Probe(probe) => Ok(probe),
            _ => Err(Error::Version),
        }
    }

    /// The newest specification that the agents keep: of the stack called `name`, or of the only one there is.
    ///
    /// # Errors
    /// If there is none, or several without a name.
    pub async fn kept_spec(&self, name: Option<&str>) -> Result<String, String> {
        let answers =
            join_all(self.contacts.keys().map(async |node| self.ask(node, &Request::GetSpecs).await)).await;
        let mut newest: BTreeMap<String, (u64, String)> = BTreeMap::new();
        for answer in answers.into_iter().flatten() {
            let Answer::Specs { specs, .. } = answer else { continue };
            for (stack, spec) in specs {
                let known = newest.entry(stack).or_insert_with(|| spec.clone());
                if spec.0 > known.0 {
                    *known = spec;
                }
            }
        }
        if let Some(name) = name {
            newest.retain(|stack, _| stack == name);
        }
        let names: Vec<String> = newest.keys().cloned().collect();
        match (newest.pop_first(), newest.is_empty()) {
            (Some((_, (_, text))), true) => Ok(text),
            (None, _) => Err("there is no stack.toml here, and no agent keeps one: `meshd stack init` writes one, --file names another".into()),
            (Some(_), false) => {
                Err(format!("the mesh has several stacks: say which with --stack ({})", names.join(", ")))
            }
        }
    }

    /// The caller that is used.
    pub fn caller(&self) -> &Arc<Caller> {
        &self.caller
    }
}

/// What to ask a replica of a component.
pub fn question(stack: &str, placed: &Placed) -> Question {
    Question {
        component: placed.component.name.clone(),
        container: format!("meshd-{stack}-{}", placed.component.name),
        ports: placed.ports.clone(),
        health: placed.component.health.clone(),
        ready: placed.component.ready.clone(),
    }
}

/// Paths of volumes whose data has the replica's number in it.
pub fn keeps_id(placed: &Placed) -> Vec<String> {
    placed
        .component
        .volumes
        .values()
        .filter(|volume| volume.keeps_id)
        .map(|volume| volume.path.clone())
        .collect()
}

fn data_of(stack: &str, placed: &Placed) -> Option<Source> {
    let name = placed.component.volumes.keys().next()?;
    Some(match placed.volumes.get(name) {
        Some(path) => Source::Path(path.clone()),
        None => Source::Named(volume_name(stack, &placed.component.name, name)),
    })
}

/// The identity of this node, to prove who asks.
///
/// # Errors
/// If the state directory cannot be read: only root may.
pub fn caller(state: &Path) -> Result<Caller, crate::state::HomeError> {
    let state = crate::state::StateDir::open(state)?;
    let home = crate::state::Home::load(state)?;
    let member = home.certificate.body().member;
    Ok(Caller { member, identity: home.identity })
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};

    use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader};
    use tokio::net::TcpListener;

    use super::*;
    use crate::stack::agent::{Greeting, VERSION};

    /// An agent that answers `answers` requests on each connection and then closes it; counts connections and requests.
    async fn agent(answers: usize) -> (Fleet, Arc<[AtomicUsize; 2]>) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let fleet = Fleet::at(&[("there".to_owned(), listener.local_addr().unwrap())].into());
        let counts = Arc::new([AtomicUsize::new(0), AtomicUsize::new(0)]);
        let counted = Arc::clone(&counts);
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                counted[0].fetch_add(1, Ordering::Relaxed);
                let (reader, mut writer) = stream.into_split();
                let mut lines = BufReader::new(reader).lines();
                let done = || serde_json::to_string(&Answer::Done).unwrap() + "\n";
                let greeting = Greeting { v: VERSION, challenge: "00".repeat(32) };
                let greeting = serde_json::to_string(&greeting).unwrap() + "\n";
                writer.write_all(greeting.as_bytes()).await.unwrap();
                lines.next_line().await.unwrap();
                writer.write_all(done().as_bytes()).await.unwrap();
                for _ in 0..answers {
                    let Ok(Some(_)) = lines.next_line().await else { break };
                    counted[1].fetch_add(1, Ordering::Relaxed);
                    writer.write_all(done().as_bytes()).await.unwrap();
                }
            }
        });
        (fleet, counts)
    }

    fn seen(counts: &[AtomicUsize; 2]) -> (usize, usize) {
        (counts[0].load(Ordering::Relaxed), counts[1].load(Ordering::Relaxed))
    }

    #[tokio::test(flavor = "current_thread")]
    async fn questions_share_a_connection_and_one_that_was_closed_is_replaced() {
        let (fleet, counts) = agent(usize::MAX).await;
        for _ in 0..3 {
            fleet.ask("there", &Request::Hello).await.unwrap();
        }
        assert_eq!(seen(&counts), (1, 3));
        let (fleet, counts) = agent(1).await;
        for _ in 0..3 {
            fleet.ask("there", &Request::Hello).await.unwrap();
        }
        assert_eq!(seen(&counts), (3, 3));
    }

    #[tokio::test(flavor = "current_thread")]
    async fn what_changes_something_is_never_asked_twice() {
        let (fleet, counts) = agent(1).await;
        fleet.ask("there", &Request::Hello).await.unwrap();
        // The kept connection is closed already: had it gone there, nobody would know whether it was heard.
        let start = Request::Start { stack: "s".into(), container: "c".into() };
        fleet.ask("there", &start).await.unwrap();
        assert_eq!(seen(&counts), (2, 2));
        let (fleet, counts) = agent(0).await;
        assert!(matches!(fleet.ask("there", &start).await, Err(Error::Broken(_))));
        assert_eq!(seen(&counts), (1, 0));
    }
}
