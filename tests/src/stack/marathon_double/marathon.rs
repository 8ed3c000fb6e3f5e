//! In the place of Marathon: its HTTP interface. What it promises is kept by `deploy`.

use std::sync::{Arc, Mutex, PoisonError};

use serde_json::{Value, json};

use super::deploy::{State, Taken};
use super::election::Candidate;
use super::http::{Answer, Request, ask, serve};
use super::words::{address, words};
use super::zookeeper::Zookeeper;
use super::{Flags, TICK};

struct Shared {
    candidate: Candidate,
    own: String,
    state: Mutex<Option<State>>,
}

pub(super) fn play(flags: &Flags) {
    let own = format!("{}:{}", flags["http_address"], flags["http_port"]);
    let (zookeeper, path) = Zookeeper::connect(&flags["zk"]);
    let candidate = Candidate::stand(&zookeeper, &format!("{path}/leader"), "member_", &own);
    let shared = Arc::new(Shared { candidate, own: own.clone(), state: Mutex::new(None) });
    let working = Arc::clone(&shared);
    std::thread::spawn(move || work(&working, &zookeeper, &path));
    serve(address(&own).expect("an address"), move |request| answer(&shared, request));
}

/// The leader's work; whoever loses the lead ends, as the real one does.
fn work(shared: &Shared, zookeeper: &Zookeeper, path: &str) {
    let mut led = false;
    loop {
        let leads = shared.candidate.leader().is_some_and(|(_, own)| own);
        if led && !leads {
            eprintln!("lost the lead");
            std::process::exit(1);
        }
        if leads {
            let mut state = shared.state.lock().unwrap_or_else(PoisonError::into_inner);
            state.get_or_insert_with(|| State::load(zookeeper.clone(), path)).step();
            led = true;
        }
        std::thread::sleep(TICK);
    }
}

fn answer(shared: &Shared, request: &Request) -> Answer {
    if request.path == "/ping" {
        return Answer::text(200, "pong");
    }
    let leader = shared.candidate.leader();
    match (&leader, request.method.as_str(), request.path.as_str()) {
        (None, _, "/v2/leader") => return Answer::message(404, "There is no leader"),
        (Some((at, _)), "GET", "/v2/leader") => return Answer::json(200, &json!({ "leader": at })),
        (None, _, _) => return Answer::message(503, "Could not determine the current leader"),
        (Some((at, false)), _, _) => return hand_on(shared, at, request),
        (Some((_, true)), "DELETE", "/v2/leader") => {
            // The answer first.
            std::thread::spawn(|| {
                std::thread::sleep(TICK);
                std::process::exit(0);
            });
            return Answer::message(200, "Leadership abdicated");
        }
        (Some((_, true)), _, _) => {}
    }
    let mut state = shared.state.lock().unwrap_or_else(PoisonError::into_inner);
    let Some(state) = state.as_mut() else {
        return Answer::message(503, "Could not determine the current leader");
    };
    let mut answer = led(state, request);
    answer.headers.push(("X-Marathon-Leader".into(), format!("http://{}", shared.own)));
    answer
}

fn hand_on(shared: &Shared, leader: &str, request: &Request) -> Answer {
    if request.headers.contains_key("x-marathon-via") {
        return Answer::message(502, "Detected proxying loop.");
    }
    let Some(at) = address(leader) else { return Answer::message(502, "no address") };
    let mut handed = Request { headers: Default::default(), ..request.clone() };
    handed.headers.insert("X-Marathon-Via".into(), shared.own.clone());
    ask(at, &handed).unwrap_or_else(|error| Answer::message(502, &error.to_string()))
}

fn led(state: &mut State, request: &Request) -> Answer {
    let is_forced = request.query.get("force").is_some_and(|value| value == "true");
    let body: Value = serde_json::from_slice(&request.body).unwrap_or_default();
    let parts: Vec<&str> = request.path.split('/').filter(|part| !part.is_empty()).collect();
    match (request.method.as_str(), &parts[..]) {
        ("GET", ["v2", "info"]) => Answer::json(200, &json!({ "name": "marathon", "version": "1.11.24" })),
        ("GET", ["v2", "apps"]) => {
            let part = request.query.get("id").cloned().unwrap_or_default();
            let apps = state.apps().filter(|app| words(&app["id"]).contains(&part));
            let apps: Vec<Value> = apps.map(|app| state.shown(app)).collect();
            Answer::json(200, &json!({ "apps": apps }))
        }
        ("POST", ["v2", "apps"]) => {
            let id = words(&body["id"]);
            if state.app(&id).is_some() {
                return Answer::message(409, &format!("An app with id [{id}] already exists."));
            }
            taken(state.put(&[body], is_forced), 201)
        }
        ("PUT", ["v2", "apps"]) => {
            taken(state.put(body.as_array().map(Vec::as_slice).unwrap_or_default(), is_forced), 200)
        }
        (method, ["v2", "apps", rest @ ..]) => {
            let id = format!("/{}", rest.join("/"));
            let absent = || Answer::message(404, &format!("App '{id}' does not exist"));
            match method {
                "GET" => match state.app(&id) {
                    Some(app) => Answer::json(200, &json!({ "app": state.shown(app) })),
                    None => absent(),
                },
                "PUT" => {
                    let mut app = body;
                    app["id"] = json!(id);
                    let status = if state.app(&id).is_some() { 200 } else { 201 };
                    taken(state.put(&[app], is_forced), status)
                }
                "DELETE" if state.app(&id).is_none() => absent(),
                "DELETE" => taken(state.delete(&id, is_forced), 200),
                _ => Answer::message(405, "this stand-in does not do that"),
            }
        }
        ("PUT", ["v2", "groups", rest @ ..]) => {
            let mut apps = Vec::new();
            gather(&body, &mut apps);
            if request.query.get("dryRun").is_some_and(|value| value == "true") {
                return match state.check(&apps) {
                    Ok(()) => Answer::json(200, &json!({ "steps": [{ "actions": apps.len() }] })),
                    Err(taken) => self::taken(taken, 200),
                };
            }
            let _ = rest;
            taken(state.put(&apps, is_forced), 200)
        }
        ("GET", ["v2", "deployments"]) => Answer::json(200, &state.deployments()),
        ("DELETE", ["v2", "deployments", id]) => taken(state.cancel(id, is_forced), 200),
        ("GET", ["v2", "queue"]) => Answer::json(200, &state.queue()),
        ("DELETE", ["v2", "queue", rest @ .., "delay"]) => {
            state.forget_delay(&format!("/{}", rest.join("/")));
            Answer::text(204, "")
        }
        _ => Answer::message(404, "this stand-in has no such thing"),
    }
}

fn gather(group: &Value, into: &mut Vec<Value>) {
    into.extend(group["apps"].as_array().into_iter().flatten().cloned());
    for inner in group["groups"].as_array().into_iter().flatten() {
        gather(inner, into);
    }
}

fn taken(taken: Taken, status: u16) -> Answer {
    match taken {
        Taken::Deployment { id, version } => {
            let mut answer = Answer::json(status, &json!({ "version": version, "deploymentId": id }));
            answer.headers.push(("Marathon-Deployment-Id".into(), id));
            answer
        }
        Taken::Nothing => Answer::text(202, ""),
        Taken::Locked(ids) => {
            let ids: Vec<Value> = ids.iter().map(|id| json!({ "id": id })).collect();
            let message = "App is locked by one or more deployments. Override with the option '?force=true'. View details at '/v2/deployments/<DEPLOYMENT_ID>'.";
            Answer::json(409, &json!({ "message": message, "deployments": ids }))
        }
        Taken::Invalid(path, error) => Answer::json(
            422,
            &json!({ "message": "Object is not valid", "details": [{ "path": path, "errors": [error] }] }),
        ),
        Taken::Absent => Answer::message(404, "there is no such thing"),
    }
}
