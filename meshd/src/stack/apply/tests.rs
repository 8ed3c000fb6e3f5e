//! Plans carried out by agents that are made up, but reached over TCP in the agents' language.

use std::path::Path;
use std::sync::{Arc, Mutex};

use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader};
use tokio::net::TcpListener;
use tokio::sync::Barrier;

use super::*;
use crate::stack::actual::{Found, ImageFact, Probe, Report};
use crate::stack::agent::{Greeting, VERSION};
use crate::stack::components::Catalogue;
use crate::stack::definition::Arch;
use crate::stack::desired;
use crate::stack::plan;
use crate::stack::spec::{self, Member};

/// Long enough for everything here, short enough for a test that stands still.
const LIMIT: Duration = Duration::from_secs(30);

/// How made-up agents behave, and what they were asked.
#[derive(Default)]
struct Script {
    /// So many pulls must be under way at once before any of them ends.
    pulls: Option<Barrier>,
    /// Nodes that refuse to make containers, with the reason.
    refuses: BTreeMap<String, String>,
    /// Nodes whose replicas never become ready, with what they say.
    unready: BTreeMap<String, String>,
    /// What was asked, in order: node, what.
    asked: Mutex<Vec<(String, String)>>,
}

impl Script {
    async fn answer(&self, node: &str, request: Request) -> Vec<Answer> {
        if let Some(what) = request.audited() {
            self.asked.lock().unwrap().push((node.to_owned(), what));
        }
        match request {
            Request::Pull { .. } => {
                if let Some(pulls) = &self.pulls {
                    pulls.wait().await;
                }
                vec![Answer::Progress { done: 1, total: 2 }, Answer::Done]
            }
            Request::Create { .. } | Request::Start { .. } => match self.refuses.get(node) {
                Some(why) => vec![Answer::Refused { why: why.clone() }],
                None => vec![Answer::Done],
            },
            Request::Probe { .. } => {
                let detail = self.unready.get(node).cloned();
                vec![Answer::Probe(Probe {
                    alive: true,
                    ready: detail.is_none(),
                    detail: detail.unwrap_or_default(),
                    ..Probe::default()
                })]
            }
            Request::Logs { .. } => {
                vec![Answer::Line { text: format!("last words of {node}\n") }, Answer::Done]
            }
            _ => vec![Answer::Done],
        }
    }

    fn asked(&self) -> Vec<(String, String)> {
        self.asked.lock().unwrap().clone()
    }
}

/// Agents of these nodes.
async fn agents(nodes: &[String], script: &Arc<Script>) -> Fleet {
    let mut places = BTreeMap::new();
    for node in nodes {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        places.insert(node.clone(), listener.local_addr().unwrap());
        let (node, script) = (node.clone(), Arc::clone(script));
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let (node, script) = (node.clone(), Arc::clone(&script));
                tokio::spawn(async move {
                    let (reader, mut writer) = stream.into_split();
                    let mut lines = BufReader::new(reader).lines();
                    let greeting = Greeting { v: VERSION, challenge: "00".repeat(32) };
                    writer.write_all(&line(&greeting)).await?;
                    // The proof, which is the agents' own matter.
                    lines.next_line().await?;
                    writer.write_all(&line(&Answer::Done)).await?;
                    while let Some(request) = lines.next_line().await? {
                        for answer in script.answer(&node, serde_json::from_str(&request)?).await {
                            writer.write_all(&line(&answer)).await?;
                        }
                    }
                    std::io::Result::Ok(())
                });
            }
        });
    }
    Fleet::at(&places)
}

fn line(value: &impl serde::Serialize) -> Vec<u8> {
    let mut line = serde_json::to_vec(value).unwrap();
    line.push(b'\n');
    line
}

/// Keeps what it hears.
#[derive(Default)]
struct Heard(Mutex<Vec<String>>);

impl Observer for Heard {
    fn begins(&self, step: &Step) {
        self.0.lock().unwrap().push(format!("begins {} {}: {step}", step.component, step.node));
    }
    fn goes_on(&self, _: &Step, _: &Progress) {}
    fn done(&self, step: &Step, _: Duration) {
        self.0.lock().unwrap().push(format!("done {} {}: {step}", step.component, step.node));
    }
}

fn names(count: usize) -> Vec<String> {
    (1..=count).map(|number| format!("n{number}")).collect()
}

fn stack(text: &str, nodes: &[String]) -> Stack {
    let member = |(number, name): (usize, &String)| Member {
        name: name.clone(),
        address: format!("10.66.0.{}", number + 1).parse().unwrap(),
        datacenter: Some(format!("dc{}", number % 3)),
        arch: Some(Arch::Amd64),
        reachable: true,
    };
    let members: Vec<Member> = nodes.iter().enumerate().map(member).collect();
    spec::resolve(Path::new("stack.toml"), text, &Catalogue::built_in(), &members).unwrap()
}

fn quoted(nodes: &[String]) -> String {
    nodes.iter().map(|node| format!("\"{node}\"")).collect::<Vec<_>>().join(", ")
}

/// Nodes without anything, or with all of `there`, running and ready.
fn seen(nodes: &[String], there: Option<&Stack>) -> Actual {
    let empty = Report {
        arch: Some(Arch::Amd64),
        engine: String::new(),
        containers: vec![],
        images: BTreeMap::new(),
        secrets: BTreeMap::new(),
        evidence: BTreeMap::new(),
    };
    let nodes = nodes.iter().map(|node| (node.clone(), Ok(empty.clone()))).collect();
    let mut actual = Actual { nodes, ..Actual::default() };
    let Some(stack) = there else { return actual };
    let ids = desired::assign(stack, &desired::Ids::new());
    for replica in desired::replicas(stack, &ids, &BTreeMap::new()).unwrap() {
        let Some(Ok(report)) = actual.nodes.get_mut(&replica.node) else { continue };
        let definition = replica.definition;
        let id = "sha256:1".to_owned();
        report.images.insert(definition.image.clone(), ImageFact { id: id.clone(), arch: "amd64".into() });
        report.containers.push(Found {
            name: definition.container_name(),
            component: definition.component.clone(),
            hash: definition.hash(&id),
            members: ids[&definition.component].clone(),
            definition: Some(definition),
            image_id: id,
            running: true,
            probe: Some(Probe { alive: true, ready: true, ..Probe::default() }),
            ..Found::default()
        });
    }
    actual
}

/// Plans and carries out: the end, and what was heard.
async fn carry_out(
    stack: &Stack,
    actual: &Actual,
    fleet: &Fleet,
    change: impl Fn(&mut Plan),
) -> (Result<(), Failure>, Vec<String>) {
    let mut plan = plan::plan(stack, actual, &BTreeMap::new(), Wishes::default()).unwrap();
    change(&mut plan);
    let (heard, marathon, supply) = (Heard::default(), Client::new(Vec::new()), Supply::default());
    let site = Site {
        name: &stack.name,
        stack: Some(stack),
        fleet,
        supply: &supply,
        marathon: &marathon,
        wishes: Wishes::default(),
        observer: &heard,
    };
    let end = tokio::time::timeout(LIMIT, apply(&plan, &site)).await.expect("it stands still");
    let heard = heard.0.lock().unwrap().clone();
    (end, heard)
}

#[tokio::test]
async fn nodes_are_worked_on_side_by_side_where_the_order_allows_it() {
    let nodes = names(24);
    // No pull ends before all nodes pull: one after the other, nothing would ever end.
    let script = Arc::new(Script { pulls: Some(Barrier::new(nodes.len())), ..Script::default() });
    let fleet = agents(&nodes, &script).await;
    // Telegraf is on every node and waits for InfluxDB, which has the same nodes' agents make it first.
    let text = format!(
        "name = \"s\"\n[components.influxdb]\nnodes = [{}]\n[components.telegraf]\nnodes = \"all\"\n",
        quoted(&nodes[..2])
    );
    let stack = stack(&text, &nodes);
    let actual = seen(&nodes, None);
    // Only Telegraf's images are to come; InfluxDB's are there.
    let mut there = actual.clone();
    for node in &nodes[..2] {
        let image = ImageFact { id: "sha256:1".into(), arch: "amd64".into() };
        there.nodes.get_mut(node).unwrap().as_mut().unwrap().images.insert("influxdb:1.12".into(), image);
    }
    let (end, heard) = carry_out(&stack, &there, &fleet, |_| ()).await;
    end.unwrap();
    let place = |words: &str| heard.iter().position(|one| one.starts_with(words)).unwrap();
    let last = |words: &str| heard.iter().rposition(|one| one.starts_with(words)).unwrap();
    // The order holds all the same: no Telegraf is made before both InfluxDBs are ready.
    assert!(last("done influxdb") < place("begins telegraf n1: make and start"), "{heard:#?}");
    let made = script.asked().iter().filter(|(_, what)| what.starts_with("create meshd-s-telegraf")).count();
    assert_eq!(made, nodes.len());
}

#[tokio::test]
async fn members_of_an_ensemble_are_changed_one_after_the_other() {
    let nodes = names(5);
    let script = Arc::new(Script::default());
    let fleet = agents(&nodes, &script).await;
    let text = |heap: u32| {
        let nodes = quoted(&nodes);
        format!("name = \"s\"\n[components.zookeeper]\nnodes = [{nodes}]\nsettings.heap_mb = {heap}\n")
    };
    let (before, after) = (stack(&text(256), &nodes), stack(&text(512), &nodes));
    let (end, heard) = carry_out(&after, &seen(&nodes, Some(&before)), &fleet, |_| ()).await;
    end.unwrap();
    // Everything that is begun is done before something else begins.
    let steps: Vec<(&str, &str)> = heard.iter().filter_map(|one| one.split_once(' ')).collect();
    assert!(steps.len() >= 5 * 2 * 4, "{heard:#?}");
    for pair in steps.chunks(2) {
        assert!(pair[0].0 == "begins" && pair[1].0 == "done" && pair[0].1 == pair[1].1, "{pair:?}");
    }
    let changed = script.asked();
    let of: Vec<&str> = changed.iter().map(|(node, _)| node.as_str()).collect();
    assert_eq!(of, ["n1", "n1", "n2", "n2", "n3", "n3", "n4", "n4", "n5", "n5"]);
}

#[tokio::test]
async fn the_first_unhealthy_replica_stops_the_roll_with_its_last_words() {
    let nodes = names(3);
    let unready = [("n1".to_owned(), "srvr says nothing of a mode".to_owned())].into();
    let script = Arc::new(Script { unready, ..Script::default() });
    let fleet = agents(&nodes, &script).await;
    let text = |heap: u32| {
        let nodes = quoted(&nodes);
        format!("name = \"s\"\n[components.zookeeper]\nnodes = [{nodes}]\nsettings.heap_mb = {heap}\n")
    };
    let (before, after) = (stack(&text(256), &nodes), stack(&text(512), &nodes));
    let shorter = |plan: &mut Plan| plan.steps.iter_mut().for_each(|step| step.deadline_s = 1);
    let (end, heard) = carry_out(&after, &seen(&nodes, Some(&before)), &fleet, shorter).await;
    let failure = end.unwrap_err();
    assert_eq!((failure.component.as_str(), failure.node.as_str()), ("zookeeper", "n1"));
    let told = failure.to_string();
    assert!(told.contains("srvr says nothing of a mode") && told.contains("last words of n1"), "{told}");
    assert!(script.asked().iter().all(|(node, _)| node == "n1"), "{:?}", script.asked());
    assert!(
        !heard.iter().any(|one| one.contains("zookeeper n2") || one.contains("zookeeper n3")),
        "{heard:#?}"
    );
}

#[tokio::test]
async fn after_a_failure_nothing_is_begun_and_what_is_under_way_comes_to_its_end() {
    let nodes = names(3);
    let refuses = [("n2".to_owned(), "the node's disk is full".to_owned())].into();
    let script = Arc::new(Script { refuses, ..Script::default() });
    let fleet = agents(&nodes, &script).await;
    let nodes_text = quoted(&nodes);
    let text = format!(
        "name = \"s\"\n[components.zookeeper]\nnodes = [{nodes_text}]\n[components.mesos-master]\nnodes = [{nodes_text}]\n"
    );
    let (end, heard) = carry_out(&stack(&text, &nodes), &seen(&nodes, None), &fleet, |_| ()).await;
    let failure = end.unwrap_err();
    assert!(failure.to_string().contains("the node's disk is full"), "{failure}");
    // The other members were begun beside it and are done; nothing that waits for the ensemble was begun.
    for node in ["n1", "n3"] {
        assert!(
            heard.iter().any(|one| one.starts_with(&format!("done zookeeper {node}: make"))),
            "{heard:#?}"
        );
    }
    assert!(
        !heard.iter().any(|one| one.contains("mesos-master") && one.contains("make and start")),
        "{heard:#?}"
    );
}
