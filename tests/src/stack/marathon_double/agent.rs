//! In the place of a Mesos agent: starts on the local engine what it finds for itself in ZooKeeper, and tells how it goes.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use serde_json::{Value, json};

use super::http::{Answer, Request, ask_engine, serve};
use super::master::AGENTS;
use super::words::{now, words};
use super::zookeeper::{EPHEMERAL, Zookeeper};
use super::{Flags, TICK};

/// Where tasks are put for agents: `TASKS/IP/ID`.
pub(super) const TASKS: &str = "/double/tasks";
/// Where agents tell how they are.
pub(super) const STATES: &str = "/double/states";
/// How long the engine may take for one answer, beyond a grace.
const PATIENCE: Duration = Duration::from_secs(30);

pub(super) fn play(flags: &Flags) {
    let (ip, port) = (flags["ip"].clone(), flags["port"].clone());
    let (zookeeper, _) = Zookeeper::connect(&flags["master"]);
    let registered = Arc::new(AtomicBool::new(false));
    let shown = Arc::clone(&registered);
    let at = format!("{ip}:{port}").parse().expect("an address");
    std::thread::spawn(move || {
        serve(at, move |request| match request.path.as_str() {
            "/health" => Answer::text(200, ""),
            "/metrics/snapshot" => {
                let registered = f64::from(u8::from(shown.load(Ordering::Relaxed)));
                Answer::json(200, &json!({ "slave/registered": registered }))
            }
            _ => Answer::text(404, ""),
        });
    });
    let attributes: BTreeMap<&str, &str> =
        flags["attributes"].split(';').filter_map(|one| one.split_once(':')).collect();
    let ports = flags["resources"].trim_start_matches("ports:[").trim_end_matches(']');
    let own =
        json!({ "id": format!("agent-{ip}"), "hostname": ip, "attributes": attributes, "ports": ports });
    zookeeper.make(AGENTS);
    zookeeper.make(STATES);
    zookeeper.make(&format!("{TASKS}/{ip}"));
    loop {
        // The node of an agent that was killed lives for as long as its session.
        let name = format!("{AGENTS}/{ip}");
        if zookeeper.create(&name, own.to_string().as_bytes(), EPHEMERAL).is_ok() {
            registered.store(true, Ordering::Relaxed);
        }
        look(&zookeeper, &ip);
        std::thread::sleep(TICK);
    }
}

fn look(zookeeper: &Zookeeper, ip: &str) {
    let place = format!("{TASKS}/{ip}");
    for id in zookeeper.children(&place) {
        let data = zookeeper.get(&format!("{place}/{id}")).unwrap_or_default();
        let Ok(task) = serde_json::from_slice::<Value>(&data) else { continue };
        let state = zookeeper.get(&format!("{STATES}/{id}"));
        let state: Value = state.and_then(|data| serde_json::from_slice(&data).ok()).unwrap_or_default();
        let word = state["state"].as_str().unwrap_or_default();
        if word.starts_with("TASK_F") || word == "TASK_KILLED" {
            continue;
        }
        let told = step(&id, &task, word);
        if let Some((word, message)) = told
            && word != state["state"]
        {
            let new = json!({ "state": word, "message": message, "since": now() });
            zookeeper.put(&format!("{STATES}/{id}"), new.to_string().as_bytes());
        }
    }
}

/// What is now to be said of a task.
fn step(id: &str, task: &Value, word: &str) -> Option<(&'static str, String)> {
    let container = format!("mesos-{id}");
    let seen = engine("GET", &format!("/containers/{container}/json"), None, PATIENCE);
    let to_be_killed = task["kill"] == true;
    match seen {
        Ok((404, _)) if to_be_killed || word == "TASK_RUNNING" => {
            let state = if to_be_killed { "TASK_KILLED" } else { "TASK_FAILED" };
            Some((state, "Container is gone".into()))
        }
        Ok((404, _)) => match launch(&container, id, task) {
            Ok(()) => Some(("TASK_RUNNING", String::new())),
            Err(why) => Some(("TASK_FAILED", why)),
        },
        Ok((200, seen)) if seen["State"]["Running"] == true => {
            if to_be_killed && word != "TASK_KILLING" {
                let grace = task["app"]["taskKillGracePeriodSeconds"].as_u64().unwrap_or(3);
                // In a thread: the others are not to wait for it.
                std::thread::spawn(move || {
                    let limit = PATIENCE + Duration::from_secs(grace);
                    engine("POST", &format!("/containers/{container}/stop?t={grace}"), None, limit)
                });
                return Some(("TASK_KILLING", String::new()));
            }
            (word == "TASK_STAGING" || word.is_empty()).then(|| ("TASK_RUNNING", String::new()))
        }
        Ok((200, seen)) => {
            // The container stays, as with the real ones.
            let code = seen["State"]["ExitCode"].as_i64().unwrap_or(-1);
            match (to_be_killed, code, seen["State"]["Status"].as_str()) {
                (true, _, _) => Some(("TASK_KILLED", "Container killed".into())),
                (_, _, Some("created")) => {
                    match engine("POST", &format!("/containers/{container}/start"), None, PATIENCE) {
                        Ok((204 | 304, _)) => Some(("TASK_RUNNING", String::new())),
                        other => {
                            Some(("TASK_FAILED", format!("Failed to launch container: {}", said(&other))))
                        }
                    }
                }
                (_, 0, _) => Some(("TASK_FINISHED", String::new())),
                (_, code, _) => Some(("TASK_FAILED", format!("Container exited with status {code}"))),
            }
        }
        // The engine is being restarted.
        _ => None,
    }
}

fn launch(container: &str, id: &str, task: &Value) -> Result<(), String> {
    let app = &task["app"];
    let docker = &app["container"]["docker"];
    let mut environment: Vec<String> = Vec::new();
    for (name, value) in app["env"].as_object().into_iter().flatten() {
        environment.push(format!("{name}={}", value.as_str().unwrap_or_default()));
    }
    let id_variable = format!("MESOS_TASK_ID={id}");
    let app_variable = format!("MARATHON_APP_ID={}", app["id"].as_str().unwrap_or_default());
    environment.extend([id_variable, app_variable, format!("HOST={}", task["host"].as_str().unwrap_or(""))]);
    let mut binds = Vec::new();
    for volume in app["container"]["volumes"].as_array().into_iter().flatten() {
        let (source, target) = (words(&volume["hostPath"]), words(&volume["containerPath"]));
        let mode = if volume["mode"] == "RO" { "ro" } else { "rw" };
        // As Mesos's --volume: a source that is not there becomes an empty directory, and nobody is told.
        binds.push(format!("{source}:{target}:{mode}"));
    }
    let parameters: Vec<(String, String)> = docker["parameters"]
        .as_array()
        .into_iter()
        .flatten()
        .map(|one| (words(&one["key"]), words(&one["value"])))
        .collect();
    let of = |key: &str| {
        parameters.iter().filter(|(name, _)| name == key).map(|(_, value)| value.clone()).collect()
    };
    let labels: Vec<String> = of("label");
    let labels: BTreeMap<&str, &str> = labels.iter().filter_map(|one| one.split_once('=')).collect();
    let named: Vec<String> = of("volume");
    binds.extend(named);
    let (added, users, entries, pids): (Vec<String>, Vec<String>, Vec<String>, Vec<String>) =
        (of("cap-add"), of("user"), of("entrypoint"), of("pid"));
    let mut body = json!({
        "Image": docker["image"],
        "Env": environment,
        "Labels": labels,
        "User": users.first().cloned().unwrap_or_default(),
        "HostConfig": {
            "NetworkMode": "host",
            "Binds": binds,
            "Privileged": docker["privileged"],
            "CapAdd": added,
            "PidMode": pids.first().cloned().unwrap_or_default(),
            "Memory": (app["mem"].as_f64().unwrap_or(0.0) * 1048576.0) as u64,
        },
    });
    if let Some(arguments) = app["args"].as_array().filter(|list| !list.is_empty()) {
        body["Cmd"] = json!(arguments);
    }
    if !entries.is_empty() {
        body["Entrypoint"] = json!(entries);
    }
    match engine("POST", &format!("/containers/create?name={container}"), Some(&body), PATIENCE) {
        Ok((201 | 409, _)) => {}
        other => return Err(format!("Failed to launch container: {}", said(&other))),
    }
    match engine("POST", &format!("/containers/{container}/start"), None, PATIENCE) {
        Ok((204 | 304, _)) => Ok(()),
        other => Err(format!("Failed to launch container: {}", said(&other))),
    }
}

fn engine(
    method: &str,
    target: &str,
    body: Option<&Value>,
    limit: Duration,
) -> std::io::Result<(u16, Value)> {
    let request = Request {
        method: method.into(),
        target: target.into(),
        body: body.map(|body| body.to_string().into_bytes()).unwrap_or_default(),
        ..Request::default()
    };
    let answer = ask_engine(&request, limit)?;
    Ok((answer.status, serde_json::from_slice(&answer.body).unwrap_or_default()))
}

fn said(answer: &std::io::Result<(u16, Value)>) -> String {
    match answer {
        Ok((status, body)) => format!("{status} {}", words(&body["message"])),
        Err(error) => error.to_string(),
    }
}
