//! In the place of a Mesos master: who leads, and which agents there are.

use std::sync::Arc;

use serde_json::{Value, json};

use super::Flags;
use super::election::Candidate;
use super::http::{Answer, Request, serve};
use super::zookeeper::Zookeeper;

/// Where agents are known, in ZooKeeper.
pub(super) const AGENTS: &str = "/double/agents";

pub(super) fn play(flags: &Flags) {
    let (ip, port) = (&flags["ip"], &flags["port"]);
    let (zookeeper, path) = Zookeeper::connect(&flags["zk"]);
    let info = json!({ "address": { "ip": ip, "port": port.parse::<u16>().unwrap_or(0) }, "hostname": ip });
    let candidate = Candidate::stand(&zookeeper, &path, "json.info_", &info.to_string());
    let shared = Arc::new((zookeeper, candidate));
    let at = format!("{ip}:{port}").parse().expect("an address");
    serve(at, move |request| answer(request, &shared.0, &shared.1));
}

fn answer(request: &Request, zookeeper: &Zookeeper, candidate: &Candidate) -> Answer {
    let leader = candidate.leader();
    let leads = leader.as_ref().is_some_and(|(_, own)| *own);
    match (request.method.as_str(), request.path.as_str()) {
        (_, "/health") => Answer::text(200, ""),
        (_, "/metrics/snapshot") => {
            let agents = if leads { zookeeper.children(AGENTS).len() } else { 0 };
            let metrics = json!({
                "master/elected": f64::from(u8::from(leads)),
                "registrar/log/recovered": 1.0,
                "master/slaves_active": agents,
            });
            Answer::json(200, &metrics)
        }
        (_, "/redirect" | "/master/redirect") => {
            let info: Option<Value> = leader.and_then(|(text, _)| serde_json::from_str(&text).ok());
            let Some(info) = info else { return Answer::text(503, "no leader") };
            let to =
                format!("//{}:{}", info["address"]["ip"].as_str().unwrap_or(""), info["address"]["port"]);
            Answer { headers: vec![("Location".into(), to)], ..Answer::text(307, "") }
        }
        (_, "/master/slaves" | "/slaves" | "/master/state" | "/state") if leads => {
            let agents: Vec<Value> = agents(zookeeper);
            Answer::json(200, &json!({ "slaves": agents, "activated_slaves": agents.len() }))
        }
        ("POST", "/api/v1") if leads => {
            let call: Value = serde_json::from_slice(&request.body).unwrap_or_default();
            match call["type"].as_str() {
                Some("GET_AGENTS") => {
                    let one = |agent: Value| json!({ "agent_info": agent, "active": true });
                    let agents: Vec<Value> = agents(zookeeper).into_iter().map(one).collect();
                    Answer::json(200, &json!({ "type": "GET_AGENTS", "get_agents": { "agents": agents } }))
                }
                _ => Answer::text(501, "this stand-in does not do that"),
            }
        }
        ("POST", "/api/v1") => Answer::text(503, "not the leader"),
        _ => Answer::text(404, ""),
    }
}

/// What the agents said about themselves.
pub(super) fn agents(zookeeper: &Zookeeper) -> Vec<Value> {
    let names = zookeeper.children(AGENTS);
    let read = |name: &String| serde_json::from_slice(&zookeeper.get(&format!("{AGENTS}/{name}"))?).ok();
    names.iter().filter_map(read).collect()
}
