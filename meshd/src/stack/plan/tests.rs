//! Plans on a made-up fleet that carries them out, is killed anywhere, and is planned for again.

use std::path::Path;

use nix::time::{ClockId, clock_gettime};
use proptest::prelude::*;

use super::*;
use crate::stack::actual::{Found, ImageFact, Probe, Report, SecretFact};
use crate::stack::components::Catalogue;
use crate::stack::definition::Arch;
use crate::stack::galera::Evidence;
use crate::stack::spec::{self, Member};

/// Nodes of the made-up mesh.
const NODES: [&str; 7] = ["a", "b", "c", "d", "e", "f", "g"];

fn members() -> Vec<Member> {
    let member = |(number, name): (usize, &&str)| Member {
        name: (*name).to_owned(),
        address: format!("10.66.0.{}", number + 1).parse().unwrap(),
        datacenter: Some(format!("dc{}", number % 3)),
        arch: Some(Arch::Amd64),
        reachable: true,
    };
    NODES.iter().enumerate().map(member).collect()
}

fn stack(text: &str) -> Stack {
    spec::resolve(Path::new("stack.toml"), text, &Catalogue::built_in(), &members())
        .unwrap_or_else(|error| panic!("{error}\n{text}"))
}

fn list(nodes: &[&str]) -> String {
    nodes.iter().map(|node| format!("\"{node}\"")).collect::<Vec<_>>().join(", ")
}

/// A fleet that does what it is told, and in which a quorum is as a quorum is.
#[derive(Clone)]
struct Fleet {
    actual: Actual,
    /// Galera replicas that have ever joined have data.
    data: BTreeSet<String>,
}

impl Fleet {
    fn new() -> Fleet {
        let report = Report {
            arch: Some(Arch::Amd64),
            engine: "20.10".into(),
            containers: vec![],
            images: BTreeMap::new(),
            secrets: BTreeMap::new(),
            evidence: BTreeMap::new(),
        };
        let nodes = NODES.iter().map(|node| ((*node).to_owned(), Ok(report.clone()))).collect();
        Fleet { actual: Actual { nodes, ..Actual::default() }, data: BTreeSet::new() }
    }

    fn report(&mut self, node: &str) -> &mut Report {
        self.actual.nodes.get_mut(node).unwrap().as_mut().unwrap()
    }

    fn found(&mut self, node: &str, component: &str) -> &mut Found {
        self.report(node).containers.iter_mut().find(|found| found.component == component).unwrap()
    }

    fn running(&self, component: &str) -> Vec<&str> {
        let runs = |node: &&String| self.actual.found(node, component).is_some_and(|found| found.running);
        self.actual.nodes.keys().filter(runs).map(String::as_str).collect()
    }

    /// Carries out a step; a wait that can never end is a failure of the plan.
    fn run(&mut self, step: &Step, ids: &Ids) -> Result<(), String> {
        let (node, component) = (step.node.as_str(), step.component.as_str());
        match &step.action {
            Action::Pull { image } => {
                let fact = ImageFact { id: format!("sha256:{image}"), arch: "amd64".into() };
                self.report(node).images.insert(image.clone(), fact);
            }
            Action::Secret { name } => {
                let fact = SecretFact { version: "v".into(), made_ms: 1 };
                self.report(node).secrets.insert(name.clone(), fact);
            }
            Action::Hold { others, least } => {
                let ready = others
                    .iter()
                    .filter(|node| self.actual.found(node, component).is_some_and(Found::is_ready));
                let count = ready.count();
                if count < *least {
                    return Err(format!("{node}/{component}: {count} of {others:?} ready, {least} wanted"));
                }
            }
            Action::Remove { container, .. } => {
                self.report(node).containers.retain(|found| found.name != *container);
            }
            Action::Create { definition, founding } => {
                let name = definition.container_name();
                let report = self.report(node);
                assert!(
                    report.containers.iter().all(|found| found.name != name),
                    "made twice: {name} on {node}"
                );
                let image_id = report.images[&definition.image].id.clone();
                assert!(definition.secrets.values().all(|secret| report.secrets.contains_key(&secret.name)));
                report.containers.push(Found {
                    name,
                    component: component.to_owned(),
                    hash: definition.hash(&image_id),
                    definition: Some((**definition).clone()),
                    members: ids[component].clone(),
                    founding: !founding.is_empty(),
                    image_id,
                    running: true,
                    ..Found::default()
                });
            }
            Action::Start { .. } => self.found(node, component).running = true,
            Action::Ready => {
                if !self.actual.found(node, component).is_some_and(Found::is_ready) {
                    return Err(format!("{component} on {node} never becomes ready"));
                }
            }
            Action::Promote | Action::Recover { .. } => {}
        }
        self.settle();
        Ok(())
    }

    /// What checks would say: a quorum is ready where more than half of each one's own list runs.
    fn settle(&mut self) {
        for component in ["zookeeper", "mesos-master", "mariadb", "influxdb"] {
            let running: Vec<String> = self.running(component).into_iter().map(str::to_owned).collect();
            let founded = running.iter().any(|node| self.data.contains(&format!("{component}/{node}")))
                || running.iter().any(|node| self.actual.found(node, component).unwrap().founding);
            let leader = running.first().cloned();
            for node in &running {
                let found = self.found(node, component);
                let list = found.members.len();
                let known = found.members.clone();
                let votes = running.iter().filter(|other| known.contains_key(*other)).count();
                let ready = match component {
                    "influxdb" => true,
                    "mariadb" => founded,
                    _ => votes > list / 2,
                };
                let role = match component {
                    "mariadb" => "primary",
                    _ if leader.as_ref() == Some(node) => "leader",
                    _ => "follower",
                };
                let role = ready.then(|| role.to_owned());
                found.probe = Some(Probe { alive: true, ready, role, ..Probe::default() });
                if component == "mariadb" && ready {
                    self.data.insert(format!("{component}/{node}"));
                    let evidence = Evidence {
                        has_data: true,
                        uuid: Some("u".into()),
                        seqno: Some(1),
                        ..Evidence::default()
                    };
                    self.report(node).evidence.insert(component.to_owned(), evidence);
                }
            }
            // What does not run loses its data's currency as Galera's does: the last one to end is safe.
            if component == "mariadb" && running.is_empty() {
                let first = self.data.iter().next().cloned();
                for place in self.data.clone() {
                    let node = place.split_once('/').unwrap().1.to_owned();
                    let safe = Some(&place) == first.as_ref();
                    if let Some(evidence) = self.report(&node).evidence.get_mut(component) {
                        evidence.safe_to_bootstrap = safe;
                    }
                }
            }
        }
    }

    fn plan(&self, stack: &Stack) -> Plan {
        let versions = stack.secrets.keys().map(|name| (name.clone(), "v".to_owned())).collect();
        super::plan(stack, &self.actual, &versions, Wishes::default()).unwrap()
    }

    /// Plans and carries out, at most `steps` steps in an order that the graph allows, chosen by `pick`.
    fn up(
        &mut self,
        stack: &Stack,
        steps: usize,
        pick: &mut impl FnMut(usize) -> usize,
    ) -> Result<(), String> {
        let plan = self.plan(stack);
        let mut done = BTreeSet::new();
        while done.len() < plan.steps.len().min(steps) {
            let free: Vec<&Step> = plan
                .steps
                .iter()
                .filter(|step| {
                    !done.contains(&step.id) && step.after.iter().all(|before| done.contains(before))
                })
                .collect();
            let step = free[pick(free.len()) % free.len()];
            self.run(step, &plan.ids)?;
            self.check(stack);
            done.insert(step.id);
        }
        Ok(())
    }

    /// What must hold at every moment.
    fn check(&self, _: &Stack) {
        let masters: Vec<&Found> = NODES
            .iter()
            .filter_map(|node| self.actual.found(node, "mesos-master"))
            .filter(|found| found.running)
            .collect();
        let quorum = |found: &Found| -> usize {
            let command = &found.definition.as_ref().unwrap().command;
            let flag = command.iter().find_map(|argument| argument.strip_prefix("--quorum=")).unwrap();
            flag.parse().unwrap()
        };
        if let Some(least) = masters.iter().map(|found| quorum(found)).min() {
            assert!(
                masters.len() < 2 * least,
                "{} masters with quorum {least}: the log can be corrupted",
                masters.len()
            );
        }
    }

    fn fingerprint(&self) -> BTreeMap<(String, String), (String, bool)> {
        let of = |(node, report): (&String, &Result<Report, String>)| {
            let report = report.as_ref().unwrap();
            let line =
                |found: &Found| ((node.clone(), found.name.clone()), (found.hash.clone(), found.running));
            report.containers.iter().map(line).collect::<Vec<_>>()
        };
        self.actual.nodes.iter().flat_map(of).collect()
    }
}

fn first(_: usize) -> usize {
    0
}

/// A stack of three kinds of quorums on `nodes`, and something that stands on its own.
fn text(nodes: &[&str], heap: i64) -> String {
    let nodes = list(nodes);
    format!(
        "name = \"s\"\n[components.zookeeper]\nnodes = [{nodes}]\nsettings.heap_mb = {heap}\n\
         [components.mesos-master]\nnodes = [{nodes}]\n[components.mariadb]\nnodes = [{nodes}]\n\
         settings.buffer_pool_mb = {heap}\n[components.influxdb]\nnodes = [\"a\", \"g\"]\n"
    )
}

#[test]
fn up_twice_does_nothing() {
    let stack = stack(&text(&["a", "b", "c"], 256));
    let mut fleet = Fleet::new();
    fleet.up(&stack, usize::MAX, &mut first).unwrap();
    let plan = fleet.plan(&stack);
    assert!(plan.is_empty() && plan.blocked.is_empty(), "{}", plan.describe());
    assert!(
        fleet
            .actual
            .nodes
            .values()
            .flatten()
            .flat_map(|report| &report.containers)
            .all(|found| !found.founding)
    );
}

#[test]
fn the_first_up_waits_for_what_is_needed() {
    let plan = Fleet::new().plan(&stack(&text(&["a", "b", "c"], 256)));
    let position = |wanted: &dyn Fn(&Step) -> bool| plan.steps.iter().find(|step| wanted(step)).unwrap();
    let master =
        position(&|step| step.component == "mesos-master" && matches!(step.action, Action::Create { .. }));
    let gates: Vec<&Step> = plan
        .steps
        .iter()
        .filter(|step| step.component == "zookeeper" && step.action == Action::Ready)
        .collect();
    assert_eq!(gates.len(), 3);
    assert!(gates.iter().all(|gate| master.after.contains(&gate.id)), "{:?}", master.after);
    // Images come at once, whatever the order.
    assert!(
        plan.steps
            .iter()
            .filter(|step| matches!(step.action, Action::Pull { .. }))
            .all(|step| step.after.is_empty())
    );
}

#[test]
fn a_change_rolls_followers_first_and_names_its_fields() {
    let mut fleet = Fleet::new();
    fleet.up(&stack(&text(&["a", "b", "c"], 256)), usize::MAX, &mut first).unwrap();
    let plan = fleet.plan(&stack(&text(&["a", "b", "c"], 512)));
    let removed: Vec<&str> = plan
        .steps
        .iter()
        .filter(|step| step.component == "zookeeper" && matches!(step.action, Action::Remove { .. }))
        .map(|step| step.node.as_str())
        .collect();
    // a leads.
    assert_eq!(removed, ["b", "c", "a"]);
    let told = plan.describe();
    assert!(told.contains("environment.ZK_SERVER_HEAP: 256 -> 512"), "{told}");
    assert!(!plan.steps.iter().any(|step| step.component == "influxdb"), "{told}");
}

#[test]
fn what_was_changed_by_hand_is_made_again() {
    let stack = stack(&text(&["a", "b", "c"], 256));
    let mut fleet = Fleet::new();
    fleet.up(&stack, usize::MAX, &mut first).unwrap();
    fleet.found("b", "zookeeper").drift = vec!["environment.X: new, 1".into()];
    let plan = fleet.plan(&stack);
    assert!(
        plan.describe().contains("it was changed by hand") && plan.changes().count() == 2,
        "{}",
        plan.describe()
    );
    fleet.found("b", "zookeeper").drift.clear();
    fleet.found("c", "zookeeper").running = false;
    let plan = fleet.plan(&stack);
    assert!(matches!(plan.steps[0].action, Action::Start { .. }), "{}", plan.describe());
    // A tag that was moved shows as other content.
    fleet.found("c", "zookeeper").running = true;
    fleet.report("a").images.values_mut().for_each(|image| image.id.push('2'));
    let told = fleet.plan(&stack).describe();
    assert!(told.contains("the image has other content"), "{told}");
}

#[test]
fn a_foreign_container_under_our_name_is_left_alone() {
    let stack = stack(&text(&["a", "b", "c"], 256));
    let mut fleet = Fleet::new();
    let foreign = Found { name: "meshd-s-zookeeper".into(), running: true, ..Found::default() };
    fleet.report("b").containers.push(foreign);
    let plan = fleet.plan(&stack);
    assert!(plan.blocked.iter().any(|blocked| blocked.node == "b" && blocked.why.contains("did not make")));
    assert!(!plan.steps.iter().any(|step| step.node == "b" && step.component == "zookeeper"));
}

#[test]
fn an_ensemble_cannot_lose_more_members_than_it_can_spare() {
    let mut fleet = Fleet::new();
    fleet.up(&stack(&text(&["a", "b", "c"], 256)), usize::MAX, &mut first).unwrap();
    let plan = fleet.plan(&stack(&text(&["a", "e", "f"], 256)));
    let blocked: Vec<&str> = plan.blocked.iter().map(|blocked| blocked.node.as_str()).collect();
    assert!(blocked.contains(&"b") && plan.blocked[0].why.contains("one at a time"), "{:?}", plan.blocked);
}

#[test]
fn down_goes_backwards_and_an_unreachable_node_is_told() {
    let stack = stack(&text(&["a", "b", "c"], 256));
    let mut fleet = Fleet::new();
    fleet.up(&stack, usize::MAX, &mut first).unwrap();
    fleet.actual.nodes.insert("g".into(), Err("no answer".into()));
    let plan = down(&fleet.actual, Some(&stack));
    let components: Vec<&str> = plan.steps.iter().map(|step| step.component.as_str()).collect();
    let place = |name: &str| components.iter().position(|one| *one == name).unwrap();
    assert!(place("mesos-master") < place("zookeeper"), "{components:?}");
    // Galera's replicas end one after the other, so that the last one knows that it is.
    let galera: Vec<&Step> = plan.steps.iter().filter(|step| step.component == "mariadb").collect();
    assert!(galera.windows(2).all(|pair| pair[1].after.contains(&pair[0].id)), "{galera:?}");
    assert_eq!(plan.blocked[0].node, "g");
    for step in &plan.steps {
        fleet.run(step, &plan.ids).unwrap();
    }
    assert!(fleet.running("zookeeper").is_empty());
    // The data is there still: Galera is founded by the one that was stopped last.
    fleet.actual.nodes.insert("g".into(), Fleet::new().actual.nodes.remove("g").unwrap());
    let told = fleet.plan(&stack).describe();
    assert!(told.contains("it was stopped last"), "{told}");
}

#[test]
fn a_plan_of_a_hundred_nodes_and_a_thousand_containers_is_quick_to_make() {
    let member = |number: usize| Member {
        name: format!("n{number:03}"),
        address: format!("10.66.{}.{}", number / 250, number % 250 + 1).parse().unwrap(),
        datacenter: Some(format!("dc{}", number % 3)),
        arch: Some(Arch::Amd64),
        reachable: true,
    };
    let members: Vec<Member> = (0..100).map(member).collect();
    let mut catalogue = Catalogue::built_in();
    let directory = tempfile::tempdir().unwrap();
    let mut text = "name = \"big\"\n".to_owned();
    for number in 0..10 {
        let name = format!("worker{number}");
        let component = format!(
            "name = \"{name}\"\ndescription = \"w\"\nlayer = \"base\"\nkind = \"each\"\nimages.amd64 = \"w:1\"\nports.p = {}\n\
             health = {{ kind = \"tcp\", port = \"p\" }}\nready = {{ kind = \"tcp\", port = \"p\" }}\n[container]\n\
             command = [\"--all={{{{ endpoints('{name}', 'p') }}}}\"]\n",
            7000 + number
        );
        std::fs::write(directory.path().join(format!("{name}.toml")), component).unwrap();
        text.push_str(&format!("[components.{name}]\nnodes = \"all\"\n"));
    }
    catalogue.add_directory(directory.path()).unwrap();
    let stack = spec::resolve(Path::new("stack.toml"), &text, &catalogue, &members).unwrap();
    let report = Fleet::new().actual.nodes.remove("a").unwrap();
    let nodes = members.iter().map(|member| (member.name.clone(), report.clone())).collect();
    let actual = Actual { nodes, ..Actual::default() };
    // What the thread itself took: on a busy machine others' turns take longer.
    let used = || clock_gettime(ClockId::CLOCK_THREAD_CPUTIME_ID).map(std::time::Duration::from).unwrap();
    let started = used();
    let plan = plan(&stack, &actual, &BTreeMap::new(), Wishes::default()).unwrap();
    let took = used() - started;
    // Some 0.3 s in a build for tests on a quiet machine; what grows with the square of anything takes minutes.
    assert!(took < std::time::Duration::from_secs(5), "{took:?}");
    let made = plan.steps.iter().filter(|step| matches!(step.action, Action::Create { .. })).count();
    assert_eq!(made, 1000);
}

/// The nodes of an ensemble: an odd number of the first ones, or shifted by one.
fn any_nodes() -> impl Strategy<Value = Vec<&'static str>> {
    prop_oneof![
        Just(vec!["a", "b", "c"]),
        Just(vec!["a", "b", "d"]),
        Just(vec!["b", "c", "d"]),
        Just(vec!["a", "b", "c", "d", "e"]),
        Just(vec!["a", "b", "c", "d", "f"]),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 96, ..ProptestConfig::default() })]

    #[test]
    fn killed_anywhere_and_run_again_it_comes_to_the_same_end(
        kills in proptest::collection::vec(0usize..60, 0..4),
        picks in proptest::collection::vec(any::<usize>(), 1..40),
        nodes in any_nodes(),
    ) {
        let stack = stack(&text(&nodes, 256));
        let mut reference = Fleet::new();
        reference.up(&stack, usize::MAX, &mut first).unwrap();
        let mut fleet = Fleet::new();
        let mut number = 0;
        let mut pick = |_| { number += 1; picks[number % picks.len()] };
        for kill in kills {
            fleet.up(&stack, kill, &mut pick).unwrap();
        }
        // A founder that was left alone is an ordinary member only after the next run.
        fleet.up(&stack, usize::MAX, &mut pick).unwrap();
        fleet.up(&stack, usize::MAX, &mut pick).unwrap();
        prop_assert!(fleet.plan(&stack).is_empty(), "{}", fleet.plan(&stack).describe());
        prop_assert_eq!(fleet.fingerprint(), reference.fingerprint());
    }

    #[test]
    fn changes_of_size_place_and_settings_never_stop_an_ensemble(
        before in any_nodes(), after in any_nodes(), heap in prop_oneof![Just(256i64), Just(512)],
        kills in proptest::collection::vec(0usize..40, 0..3),
        picks in proptest::collection::vec(any::<usize>(), 1..40),
    ) {
        let old = stack(&text(&before, 256));
        let new = stack(&text(&after, heap));
        let mut fleet = Fleet::new();
        fleet.up(&old, usize::MAX, &mut first).unwrap();
        let mut number = 0;
        let mut pick = |_| { number += 1; picks[number % picks.len()] };
        for kill in kills.into_iter().chain([usize::MAX; 3]) {
            let plan = fleet.plan(&new);
            let mut done = BTreeSet::new();
            while done.len() < plan.steps.len().min(kill) {
                let free: Vec<&Step> = plan.steps.iter()
                    .filter(|step| !done.contains(&step.id) && step.after.iter().all(|one| done.contains(one))).collect();
                let step = free[pick(free.len()) % free.len()];
                fleet.run(step, &plan.ids).map_err(TestCaseError::fail)?;
                fleet.check(&new);
                for component in ["zookeeper", "mesos-master", "mariadb"] {
                    // At no moment are two members of an ensemble away that are to stay.
                    let staying: Vec<&&str> = before.iter().filter(|node| after.contains(node)).collect();
                    let away = staying.iter().filter(|node| fleet.actual.found(node, component).is_none()).count();
                    prop_assert!(away <= 1, "{away} members of {component} are away after {step}");
                }
                done.insert(step.id);
            }
        }
        let plan = fleet.plan(&new);
        prop_assert!(plan.is_empty(), "{}", plan.describe());
    }
}

/// The text of a stack whose InfluxDB goes through Marathon.
const ON_MARATHON: &str = "name = \"s\"\n[components.zookeeper]\nnodes = [\"a\", \"b\", \"c\"]\n[components.mesos-master]\n\
     nodes = [\"a\", \"b\", \"c\"]\n[components.mesos-agent]\nnodes = \"all\"\n[components.marathon]\nnodes = [\"a\", \"b\"]\n\
     [components.influxdb]\nnodes = [\"d\", \"g\"]\n";

#[test]
fn what_marathon_starts_waits_for_it_and_is_changed_in_one_step() {
    let stack = stack(ON_MARATHON);
    let plan = Fleet::new().plan(&stack);
    let step = plan.steps.iter().find(|step| step.to_string().contains("have Marathon start it")).unwrap();
    let gates = plan.steps.iter().filter(|gate| gate.component == "marathon" && gate.action == Action::Ready);
    let gates: Vec<usize> = gates.map(|gate| gate.id).collect();
    assert!(gates.len() == 2 && gates.iter().all(|gate| step.after.contains(gate)), "{:?}", step.after);
    // Changed: no step removes it first. Taken down: Marathon is asked to.
    let mut fleet = Fleet::new();
    let changed = self::stack(&format!("{ON_MARATHON}memory_mb = 77\n"));
    let definition = |stack: &Stack| {
        let ids = desired::assign(stack, &Ids::new());
        let versions = BTreeMap::new();
        let replicas = desired::replicas(stack, &ids, &versions).unwrap();
        replicas
            .into_iter()
            .find(|one| one.node == "d" && one.definition.component == "influxdb")
            .unwrap()
            .definition
    };
    let before = definition(&stack);
    assert_eq!(before.driver, Driver::Marathon);
    let found = Found {
        name: "mesos-1".into(),
        driver: Driver::Marathon,
        component: "influxdb".into(),
        hash: before.hash("i"),
        image_id: "i".into(),
        definition: Some(before),
        running: true,
        probe: Some(Probe { alive: true, ready: true, ..Probe::default() }),
        ..Found::default()
    };
    fleet.report("d").containers.push(found.clone());
    let of = |plan: &Plan| -> Vec<Step> {
        let of = |step: &&Step| (step.component.as_str(), step.node.as_str()) == ("influxdb", "d");
        plan.changes().filter(of).cloned().collect()
    };
    assert!(of(&fleet.plan(&stack)).is_empty());
    let steps = of(&fleet.plan(&changed));
    let told: Vec<String> = steps.iter().map(ToString::to_string).collect();
    assert!(told.iter().any(|step| step == "have Marathon start it: memory_mb changes"), "{told:?}");
    assert!(!steps.iter().any(|step| matches!(step.action, Action::Remove { .. })), "{told:?}");
    let steps = of(&down(&fleet.actual, Some(&stack)));
    assert!(matches!(steps[0].action, Action::Remove { driver: Driver::Marathon, .. }), "{steps:?}");
    // To another driver: away by the one, made by the other.
    let direct = self::stack(&ON_MARATHON.replace("name = \"s\"", "name = \"s\"\ndriver = \"direct\""));
    let steps = of(&fleet.plan(&direct));
    let told: Vec<String> = steps.iter().map(ToString::to_string).collect();
    assert!(matches!(steps[1].action, Action::Remove { driver: Driver::Marathon, .. }), "{told:?}");
    assert_eq!(told.last().map(String::as_str), Some("make and start"), "{told:?}");
}

#[test]
fn the_password_of_a_registry_is_there_before_its_image_is_asked_for() {
    let text = "name = \"s\"\n[registries.\"r.example.org\"]\nuser = \"u\"\nsecret = \"pull\"\n[secrets]\npull.file = \"p\"\n\
                [components.influxdb]\nnodes = [\"a\", \"b\"]\nimage = \"r.example.org/influxdb:1\"\n";
    let stack = stack(text);
    let plan = Fleet::new().plan(&stack);
    let pulls: Vec<&Step> =
        plan.steps.iter().filter(|step| matches!(step.action, Action::Pull { .. })).collect();
    assert_eq!(pulls.len(), 2);
    for pull in pulls {
        let before = &plan.steps[pull.after[0]];
        assert_eq!((&before.node, &before.action), (&pull.node, &Action::Secret { name: "pull".into() }));
    }
    // Where the image is, nobody needs the password.
    let mut fleet = Fleet::new();
    fleet.up(&stack, usize::MAX, &mut first).unwrap();
    NODES.iter().for_each(|node| fleet.report(node).secrets.clear());
    assert!(fleet.plan(&stack).is_empty());
}
