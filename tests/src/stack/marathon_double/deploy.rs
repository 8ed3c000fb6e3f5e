//! Marathon's promises: applications have as many tasks as they are to have, of their newest version, where their
//! constraints allow it; a deployment has its applications until that is so.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Weak};
use std::time::Duration;

use serde_json::{Value, json};

use super::agent::{STATES, TASKS};
use super::http::get;
use super::master::agents;
use super::words::{address, in_ranges, now, words};
use super::zookeeper::Zookeeper;

/// How often a task's health is asked.
const HEALTH_EVERY: Duration = Duration::from_secs(1);

/// What the leader knows. Applications and deployments are in ZooKeeper too, so that the next leader goes on with them.
pub(super) struct State {
    zookeeper: Zookeeper,
    path: String,
    apps: BTreeMap<String, Value>,
    deployments: Vec<Deployment>,
    troubles: BTreeMap<String, Trouble>,
    health: BTreeMap<String, Arc<AtomicU32>>,
    tasks: Vec<Task>,
}

struct Deployment {
    id: String,
    version: String,
    apps: Vec<String>,
    /// What was there before, for a rollback by the same leader.
    before: BTreeMap<String, Option<Value>>,
}

/// What stands against an application's start.
#[derive(Default)]
struct Trouble {
    failures: u32,
    until: f64,
    last: Option<Value>,
    rejected: BTreeMap<&'static str, u32>,
}

struct Task {
    id: String,
    node: String,
    host: String,
    app: String,
    version: String,
    is_ending: bool,
    state: String,
    message: String,
    since: f64,
}

/// What became of a request.
pub(super) enum Taken {
    Deployment {
        id: String,
        version: String,
    },
    Nothing,
    Locked(Vec<String>),
    /// Which field, and why.
    Invalid(String, String),
    Absent,
}

impl State {
    /// What the leader before left.
    pub(super) fn load(zookeeper: Zookeeper, path: &str) -> State {
        let path = format!("{path}/state");
        zookeeper.make(&format!("{path}/apps"));
        let read = |at: &str| -> Option<Value> { serde_json::from_slice(&zookeeper.get(at)?).ok() };
        let apps: BTreeMap<String, Value> = zookeeper
            .children(&format!("{path}/apps"))
            .iter()
            .filter_map(|name| read(&format!("{path}/apps/{name}")))
            .map(|app| (words(&app["id"]), app))
            .collect();
        let list = read(&format!("{path}/deployments")).unwrap_or_default();
        let of = |one: &Value| Deployment {
            id: words(&one["id"]),
            version: words(&one["version"]),
            apps: one["affectedApps"].as_array().into_iter().flatten().map(words).collect(),
            before: BTreeMap::new(),
        };
        let deployments = list.as_array().into_iter().flatten().map(of).collect();
        let (troubles, health) = (BTreeMap::new(), BTreeMap::new());
        State { zookeeper, path, apps, deployments, troubles, health, tasks: Vec::new() }
    }

    pub(super) fn apps(&self) -> impl Iterator<Item = &Value> {
        self.apps.values().filter(|app| app["deleted"] != true)
    }

    pub(super) fn app(&self, id: &str) -> Option<&Value> {
        self.apps.get(id).filter(|app| app["deleted"] != true)
    }

    /// An application with what embeds ask for.
    pub(super) fn shown(&self, app: &Value) -> Value {
        let mut shown = app.clone();
        let id = words(&app["id"]);
        let mine: Vec<&Task> = self.tasks.iter().filter(|task| task.app == id).collect();
        let running = mine.iter().filter(|task| task.state == "TASK_RUNNING");
        let checked = app["healthChecks"].as_array().is_some_and(|checks| !checks.is_empty());
        let healthy = running.clone().filter(|task| self.is_healthy(task)).count();
        shown["tasksRunning"] = json!(running.clone().count());
        shown["tasksStaged"] = json!(mine.iter().filter(|task| task.state.is_empty()).count());
        shown["tasksHealthy"] = json!(if checked { healthy } else { 0 });
        shown["tasksUnhealthy"] =
            json!(if checked { running.filter(|task| self.is_failing(task)).count() } else { 0 });
        if let Some(last) = self.troubles.get(&id).and_then(|trouble| trouble.last.clone()) {
            shown["lastTaskFailure"] = last;
        }
        let holding = self.deployments.iter().filter(|one| one.apps.contains(&id));
        shown["deployments"] = holding.map(|one| json!({ "id": one.id })).collect();
        shown
    }

    pub(super) fn deployments(&self) -> Value {
        let shown = |one: &Deployment| {
            let actions: Vec<Value> =
                one.apps.iter().map(|app| json!({ "action": "ScaleApplication", "app": app })).collect();
            json!({
                "id": one.id, "version": one.version, "affectedApps": one.apps, "affectedPods": [],
                "currentStep": 1, "totalSteps": 1, "currentActions": actions, "steps": [],
            })
        };
        self.deployments.iter().map(shown).collect()
    }

    pub(super) fn queue(&self) -> Value {
        let mut queue = Vec::new();
        for (id, trouble) in &self.troubles {
            let Some(app) = self.app(id).filter(|_| self.tasks.iter().all(|task| task.app != *id)) else {
                continue;
            };
            let left = (trouble.until - now()).max(0.0).ceil() as u64;
            let processed: u32 = trouble.rejected.values().sum();
            let reasons = trouble.rejected.iter().map(|(reason, declined)| {
                json!({ "reason": reason, "declined": declined, "processed": processed })
            });
            queue.push(json!({
                "app": { "id": id, "version": app["version"] },
                "count": 1,
                "delay": { "timeLeftSeconds": left, "overdue": left == 0 },
                "processedOffersSummary": { "rejectSummaryLastOffers": reasons.collect::<Vec<_>>() },
            }));
        }
        json!({ "queue": queue })
    }

    pub(super) fn forget_delay(&mut self, id: &str) {
        if let Some(trouble) = self.troubles.get_mut(id) {
            trouble.failures = 0;
            trouble.until = 0.0;
        }
    }

    /// Whether applications could be taken.
    pub(super) fn check(&self, apps: &[Value]) -> Result<(), Taken> {
        apps.iter()
            .try_for_each(|app| validate(app).map_err(|(path, error)| Taken::Invalid(path.into(), error)))
    }

    pub(super) fn put(&mut self, apps: &[Value], is_forced: bool) -> Taken {
        if let Err(taken) = self.check(apps) {
            return taken;
        }
        let ids: Vec<String> = apps.iter().map(|app| words(&app["id"])).collect();
        if let Some(locked) = self.locked(&ids, is_forced) {
            return locked;
        }
        let version = format!("{:.6}", now());
        let mut before = BTreeMap::new();
        for (app, id) in apps.iter().zip(&ids) {
            let new = completed(app, &version);
            let old = self.apps.get(id);
            before.insert(id.clone(), old.filter(|old| old["deleted"] != true).cloned());
            let is_same = old.is_some_and(|old| {
                let mut old = old.clone();
                old["version"] = json!(version);
                old == new
            });
            // What is the same as before keeps its version: no task is started anew.
            if !is_same {
                self.troubles.remove(id);
                self.apps.insert(id.clone(), new);
                self.save_app(id);
            }
        }
        self.deploy(ids, before, version)
    }

    pub(super) fn delete(&mut self, id: &str, is_forced: bool) -> Taken {
        let ids = vec![id.to_owned()];
        if let Some(locked) = self.locked(&ids, is_forced) {
            return locked;
        }
        let before = [(id.to_owned(), self.apps.get(id).cloned())].into();
        if let Some(app) = self.apps.get_mut(id) {
            app["deleted"] = json!(true);
        }
        self.save_app(id);
        self.deploy(ids, before, format!("{:.6}", now()))
    }

    pub(super) fn cancel(&mut self, id: &str, is_forced: bool) -> Taken {
        let Some(place) = self.deployments.iter().position(|one| one.id == id) else { return Taken::Absent };
        let old = self.deployments.remove(place);
        if is_forced {
            self.save_deployments();
            return Taken::Nothing;
        }
        let version = format!("{:.6}", now());
        for (id, before) in &old.before {
            match before {
                Some(app) => {
                    let mut app = app.clone();
                    app["version"] = json!(version);
                    self.apps.insert(id.clone(), app);
                }
                None => {
                    if let Some(app) = self.apps.get_mut(id) {
                        app["deleted"] = json!(true);
                    }
                }
            }
            self.save_app(id);
        }
        self.deploy(old.apps, BTreeMap::new(), version)
    }

    fn locked(&mut self, ids: &[String], is_forced: bool) -> Option<Taken> {
        let holds = |one: &Deployment| one.apps.iter().any(|app| ids.contains(app));
        if is_forced {
            self.deployments.retain(|one| !holds(one));
            return None;
        }
        let holding: Vec<String> =
            self.deployments.iter().filter(|one| holds(one)).map(|one| one.id.clone()).collect();
        (!holding.is_empty()).then_some(Taken::Locked(holding))
    }

    fn deploy(
        &mut self,
        apps: Vec<String>,
        before: BTreeMap<String, Option<Value>>,
        version: String,
    ) -> Taken {
        let id = format!("deployment-{version}");
        self.deployments.push(Deployment { id: id.clone(), version: version.clone(), apps, before });
        self.save_deployments();
        Taken::Deployment { id, version }
    }

    fn save_app(&self, id: &str) {
        let at = format!("{}/apps/{}", self.path, id.replace('/', "_"));
        match self.apps.get(id) {
            Some(app) => self.zookeeper.put(&at, app.to_string().as_bytes()),
            None => self.zookeeper.delete(&at),
        }
    }

    fn save_deployments(&self) {
        let text = self.deployments().to_string();
        self.zookeeper.put(&format!("{}/deployments", self.path), text.as_bytes());
    }

    /// Looks at everything once, and does what is to be done next.
    pub(super) fn step(&mut self) {
        self.read_tasks();
        self.bury();
        let agents = agents(&self.zookeeper);
        let ids: Vec<String> = self.apps.keys().cloned().collect();
        for id in ids {
            self.tend(&id, &agents);
        }
        let before = self.deployments.len();
        let done: Vec<bool> =
            self.deployments.iter().map(|one| one.apps.iter().all(|app| self.is_settled(app))).collect();
        let mut done = done.into_iter();
        self.deployments.retain(|_| !done.next().unwrap_or(false));
        if self.deployments.len() != before {
            self.save_deployments();
        }
    }

    fn read_tasks(&mut self) {
        self.tasks.clear();
        for host in self.zookeeper.children(TASKS) {
            for id in self.zookeeper.children(&format!("{TASKS}/{host}")) {
                let node = format!("{TASKS}/{host}/{id}");
                let read = |at: &str| -> Value {
                    self.zookeeper
                        .get(at)
                        .and_then(|data| serde_json::from_slice(&data).ok())
                        .unwrap_or_default()
                };
                let (task, state) = (read(&node), read(&format!("{STATES}/{id}")));
                self.tasks.push(Task {
                    host: host.clone(),
                    app: words(&task["app"]["id"]),
                    version: words(&task["app"]["version"]),
                    is_ending: task["kill"] == true,
                    state: words(&state["state"]),
                    message: words(&state["message"]),
                    since: state["since"].as_f64().unwrap_or(0.0),
                    id,
                    node,
                });
            }
        }
        let ids: Vec<&str> = self.tasks.iter().map(|task| task.id.as_str()).collect();
        self.health.retain(|id, _| ids.contains(&id.as_str()));
    }

    /// Forgets tasks that have ended, and remembers why.
    fn bury(&mut self) {
        let ended = |task: &Task| task.state.starts_with("TASK_F") || task.state == "TASK_KILLED";
        let (over, alive): (Vec<Task>, Vec<Task>) =
            std::mem::take(&mut self.tasks).into_iter().partition(ended);
        self.tasks = alive;
        for task in over {
            self.zookeeper.delete(&task.node);
            self.zookeeper.delete(&format!("{STATES}/{}", task.id));
            if task.is_ending {
                continue;
            }
            self.fail(&task);
        }
    }

    fn fail(&mut self, task: &Task) {
        let Some(app) = self.apps.get(&task.app) else { return };
        let number = |key: &str, default: f64| app[key].as_f64().unwrap_or(default);
        let (first, factor, most) = (
            number("backoffSeconds", 1.0),
            number("backoffFactor", 1.15),
            number("maxLaunchDelaySeconds", 300.0),
        );
        let trouble = self.troubles.entry(task.app.clone()).or_default();
        trouble.until = now() + (first * factor.powi(trouble.failures as i32)).min(most);
        trouble.failures += 1;
        trouble.last = Some(json!({
            "appId": task.app, "host": task.host, "message": task.message, "state": task.state, "taskId": task.id,
            "version": task.version,
        }));
    }

    fn tend(&mut self, id: &str, agents: &[Value]) {
        let app = self.apps[id].clone();
        let is_deleted = app["deleted"] == true;
        let wanted = if is_deleted { 0 } else { app["instances"].as_u64().unwrap_or(1) as usize };
        let mine: Vec<usize> = (0..self.tasks.len()).filter(|at| self.tasks[*at].app == id).collect();
        let is_current = |task: &Task| !is_deleted && app["version"] == task.version.as_str();
        let (current, old): (Vec<usize>, Vec<usize>) =
            mine.iter().partition(|at| is_current(&self.tasks[**at]));
        for at in old.iter().chain(current.iter().skip(wanted)) {
            self.end(*at);
        }
        if is_deleted && mine.is_empty() {
            self.apps.remove(id);
            self.save_app(id);
            self.troubles.remove(id);
            return;
        }
        for at in current.iter().take(wanted) {
            self.watch(*at, &app);
        }
        if old.is_empty()
            && current.len() < wanted
            && self.troubles.get(id).is_none_or(|one| now() >= one.until)
        {
            self.launch(id, &app, agents);
        }
    }

    fn end(&mut self, at: usize) {
        let task = &mut self.tasks[at];
        if task.is_ending {
            return;
        }
        let data = self.zookeeper.get(&task.node).unwrap_or_default();
        let mut value: Value = serde_json::from_slice(&data).unwrap_or_default();
        value["kill"] = json!(true);
        self.zookeeper.put(&task.node, value.to_string().as_bytes());
        task.is_ending = true;
    }

    fn launch(&mut self, id: &str, app: &Value, agents: &[Value]) {
        let mut rejected: BTreeMap<&'static str, u32> = BTreeMap::new();
        for agent in agents {
            match self.fits(app, agent) {
                Ok(()) => {
                    let host = words(&agent["hostname"]);
                    let name = format!("{}.{:.6}", id.trim_start_matches('/').replace('/', "_"), now());
                    let task = json!({ "app": app, "host": host });
                    let _ = self.zookeeper.create(
                        &format!("{TASKS}/{host}/{name}"),
                        task.to_string().as_bytes(),
                        0,
                    );
                    if let Some(trouble) = self.troubles.get_mut(id) {
                        trouble.rejected.clear();
                    }
                    return;
                }
                Err(reason) => *rejected.entry(reason).or_default() += 1,
            }
        }
        self.troubles.entry(id.to_owned()).or_default().rejected = rejected;
    }

    /// Whether an agent's offer fits.
    fn fits(&self, app: &Value, agent: &Value) -> Result<(), &'static str> {
        for constraint in app["constraints"].as_array().into_iter().flatten() {
            let (field, value) = (words(&constraint[0]), words(&constraint[2]));
            let has = if field == "hostname" { &agent["hostname"] } else { &agent["attributes"][&field] };
            if has.as_str() != Some(&value) {
                return Err("UnfulfilledConstraint");
            }
        }
        let wanted: Vec<u64> = app["portDefinitions"]
            .as_array()
            .into_iter()
            .flatten()
            .filter_map(|one| one["port"].as_u64())
            .collect();
        let offered = words(&agent["ports"]);
        let host = words(&agent["hostname"]);
        let taken = |port: &u64| {
            let others = self
                .tasks
                .iter()
                .filter(|task| task.host == host)
                .filter_map(|task| self.apps.get(&task.app));
            others
                .flat_map(|other| other["portDefinitions"].as_array().into_iter().flatten())
                .any(|one| one["port"].as_u64() == Some(*port))
        };
        if wanted.iter().any(|port| !in_ranges(&offered, *port) || taken(port)) {
            return Err("InsufficientPorts");
        }
        Ok(())
    }

    /// Has a task's health asked, and ends what fails.
    fn watch(&mut self, at: usize, app: &Value) {
        let task = &self.tasks[at];
        let check = &app["healthChecks"][0];
        if task.state != "TASK_RUNNING" || check.is_null() {
            return;
        }
        if !self.health.contains_key(&task.id) {
            let shared = Arc::new(AtomicU32::new(u32::MAX));
            let (weak, check, host) = (Arc::downgrade(&shared), check.clone(), task.host.clone());
            std::thread::spawn(move || ask_health(&weak, &check, &host));
            self.health.insert(task.id.clone(), shared);
        }
        let fails = self.health[&task.id].load(Ordering::Relaxed);
        let most = check["maxConsecutiveFailures"].as_u64().unwrap_or(3) as u32;
        let grace = check["gracePeriodSeconds"].as_f64().unwrap_or(300.0);
        if fails != u32::MAX && fails >= most && now() - task.since > grace {
            let mut failed =
                Task { message: "Task was killed since health check failed.".into(), ..clone(task) };
            failed.state = "TASK_KILLED".into();
            self.fail(&failed);
            self.end(at);
        }
    }

    fn is_healthy(&self, task: &Task) -> bool {
        self.health.get(&task.id).is_some_and(|fails| fails.load(Ordering::Relaxed) == 0)
    }

    fn is_failing(&self, task: &Task) -> bool {
        let fails = self.health.get(&task.id).map(|fails| fails.load(Ordering::Relaxed));
        fails.is_some_and(|fails| fails != 0 && fails != u32::MAX)
    }

    fn is_settled(&self, id: &str) -> bool {
        let Some(app) = self.apps.get(id) else { return true };
        if app["deleted"] == true {
            return false;
        }
        let mine: Vec<&Task> = self.tasks.iter().filter(|task| task.app == id).collect();
        let checked = app["healthChecks"].as_array().is_some_and(|checks| !checks.is_empty());
        let is_well = |task: &&&Task| {
            app["version"] == task.version.as_str()
                && task.state == "TASK_RUNNING"
                && !task.is_ending
                && (!checked || self.is_healthy(task))
        };
        let well = mine.iter().filter(is_well).count();
        well == mine.len() && Some(well as u64) == app["instances"].as_u64()
    }
}

fn clone(task: &Task) -> Task {
    Task {
        id: task.id.clone(),
        node: task.node.clone(),
        host: task.host.clone(),
        app: task.app.clone(),
        version: task.version.clone(),
        is_ending: task.is_ending,
        state: task.state.clone(),
        message: task.message.clone(),
        since: task.since,
    }
}

/// Counts failures in a row, for as long as somebody wants to know.
fn ask_health(fails: &Weak<AtomicU32>, check: &Value, host: &str) {
    let Some(at) = address(&format!("{host}:{}", check["port"])) else { return };
    while let Some(fails) = fails.upgrade() {
        let is_well = match check["protocol"].as_str() {
            Some("HTTP") => {
                let path = check["path"].as_str().unwrap_or("/");
                get(at, path).is_ok_and(|answer| (200..400).contains(&answer.status))
            }
            _ => std::net::TcpStream::connect_timeout(&at, Duration::from_secs(1)).is_ok(),
        };
        let before = fails.load(Ordering::Relaxed);
        let after = match (is_well, before) {
            (true, _) => 0,
            (false, u32::MAX) => 1,
            (false, before) => before + 1,
        };
        fails.store(after, Ordering::Relaxed);
        drop(fails);
        std::thread::sleep(HEALTH_EVERY);
    }
}

/// What Marathon would refuse: the field, and why.
fn validate(app: &Value) -> Result<(), (&'static str, String)> {
    let id = words(&app["id"]);
    let allowed = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-' || c == '.';
    let is_path = id.starts_with('/')
        && id.split('/').skip(1).all(|part| !part.is_empty() && part.chars().all(allowed));
    if !is_path {
        return Err(("/id", format!("must fully match regular expression: {id}")));
    }
    if !app["cpus"].as_f64().is_some_and(|cpus| cpus > 0.0) {
        return Err(("/cpus", "must be greater than 0".into()));
    }
    if !app["mem"].as_f64().is_some_and(|mem| mem >= 32.0) {
        return Err(("/mem", "must be greater than or equal to 32".into()));
    }
    if app["container"]["docker"]["image"].as_str().is_none_or(str::is_empty) {
        return Err(("/container/docker/image", "must not be empty".into()));
    }
    for constraint in app["constraints"].as_array().into_iter().flatten() {
        let operator = words(&constraint[1]);
        if !["UNIQUE", "CLUSTER", "GROUP_BY", "LIKE", "UNLIKE", "MAX_PER", "IS"].contains(&operator.as_str())
        {
            return Err(("/constraints", format!("{operator} is not a valid operator")));
        }
    }
    Ok(())
}

/// An application with Marathon's defaults in it, and without what it does not know.
fn completed(app: &Value, version: &str) -> Value {
    const KNOWN: [&str; 24] = [
        "id",
        "instances",
        "cpus",
        "mem",
        "disk",
        "env",
        "labels",
        "constraints",
        "networks",
        "portDefinitions",
        "requirePorts",
        "container",
        "healthChecks",
        "upgradeStrategy",
        "unreachableStrategy",
        "args",
        "cmd",
        "user",
        "taskKillGracePeriodSeconds",
        "backoffSeconds",
        "backoffFactor",
        "maxLaunchDelaySeconds",
        "dependencies",
        "secrets",
    ];
    let mut new = json!({});
    for (key, value) in app.as_object().into_iter().flatten().filter(|(key, _)| KNOWN.contains(&key.as_str()))
    {
        new[key] = value.clone();
    }
    for key in ["cpus", "mem", "disk"] {
        new[key] = json!(app[key].as_f64().unwrap_or(0.0));
    }
    for (key, value) in
        [("killSelection", json!("YOUNGEST_FIRST")), ("executor", json!("")), ("fetch", json!([]))]
    {
        new[key] = value;
    }
    for port in new["portDefinitions"].as_array_mut().into_iter().flatten() {
        port["labels"] = json!({});
    }
    for check in new["healthChecks"].as_array_mut().into_iter().flatten() {
        check["delaySeconds"] = json!(15);
    }
    new["version"] = json!(version);
    new
}
