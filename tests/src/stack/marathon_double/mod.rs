//! A stand-in for Mesos and Marathon, and for what else of a stack cannot be had here: it speaks the parts of their
//! documented HTTP interfaces that meshd and this crate's scenarios use, elects its leaders in a real ZooKeeper, keeps its
//! state there, and really launches applications on the local container engine. It is no Mesos: tasks go through
//! ZooKeeper instead of offers and executors, and resources other than ports are not counted.
//!
//! One program plays every part; which one it is told by its arguments, which are those of the real ones.

mod agent;
mod balancer;
mod deploy;
mod election;
mod http;
mod marathon;
mod master;
mod words;
mod zookeeper;

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::time::Duration;

use http::{Answer, serve};

/// How often the parts look at what changed.
const TICK: Duration = Duration::from_millis(250);

/// Flags as the real programs take them: `--name=value` or `--name value`.
type Flags = BTreeMap<String, String>;

/// Plays a part until it is killed.
///
/// # Panics
/// When its arguments are nobody's.
pub fn play() {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let flags = flags(&arguments);
    let has = |name: &str| flags.contains_key(name);
    let variable = |name: &str| std::env::var(name).ok();
    if has("quorum") {
        master::play(&flags);
    } else if has("attributes") {
        agent::play(&flags);
    } else if has("framework_name") {
        marathon::play(&flags);
    } else if arguments.first().is_some_and(|first| first == "sse") {
        balancer::play(&arguments);
    } else if arguments.iter().any(|one| one == "-config=/config.json") {
        names();
    } else if arguments.first().is_some_and(|first| first == "server") {
        objects(&flags);
    } else if let (Some(address), Some(port)) =
        (variable("GF_SERVER_HTTP_ADDR"), variable("GF_SERVER_HTTP_PORT"))
    {
        answer(&format!("{address}:{port}"), &["/api/health"]);
    } else if let Ok(text) = std::fs::read_to_string("/etc/telegraf/telegraf.conf") {
        let at = text.lines().find_map(|line| line.trim().strip_prefix("service_address = \"http://"));
        answer(at.expect("Telegraf's configuration has an [[outputs.health]]").trim_end_matches('"'), &["/"]);
    } else {
        panic!("whom am I to stand in for? {arguments:?}");
    }
}

/// What is answered to a GET, if it is well.
pub fn fetch(at: SocketAddr, path: &str) -> Option<String> {
    let answer = http::get(at, path).ok().filter(|answer| answer.status == 200)?;
    Some(String::from_utf8_lossy(&answer.body).into_owned())
}

/// Asks something else than GET, with a JSON body or an empty one; the status.
pub fn request(method: &str, at: SocketAddr, path: &str, body: &str) -> Option<u16> {
    let request = http::Request {
        method: method.into(),
        target: path.into(),
        body: body.into(),
        ..http::Request::default()
    };
    http::ask(at, &request).ok().map(|answer| answer.status)
}

fn flags(arguments: &[String]) -> Flags {
    let mut flags = Flags::new();
    let mut rest = arguments.iter().peekable();
    while let Some(argument) = rest.next() {
        let Some(name) = argument.strip_prefix("--") else { continue };
        match name.split_once('=') {
            Some((name, value)) => drop(flags.insert(name.into(), value.into())),
            None => {
                let value = rest.next_if(|next| !next.starts_with("--")).cloned().unwrap_or_default();
                flags.insert(name.into(), value);
            }
        }
    }
    flags
}

/// mesos-dns, as far as its health goes.
fn names() {
    let text = std::fs::read_to_string("/config.json").expect("its configuration is bound in");
    let config: serde_json::Value = serde_json::from_str(&text).expect("its configuration is JSON");
    answer(
        &format!("{}:{}", config["listener"].as_str().unwrap_or(""), config["httpport"]),
        &["/v1/version"],
    );
}

/// MinIO, as far as its health goes: its cluster is well when more than half of the servers answer.
fn objects(flags: &Flags) {
    let at: SocketAddr = flags["address"].parse().expect("an address");
    let servers: Vec<SocketAddr> = std::env::args()
        .filter_map(|one| one.strip_prefix("http://")?.split('/').next()?.parse().ok())
        .collect();
    for secret in ["MINIO_ROOT_USER_FILE", "MINIO_ROOT_PASSWORD_FILE"] {
        let path = std::env::var(secret).expect("MinIO's credentials are in files");
        assert!(std::fs::metadata(path).is_ok_and(|file| file.len() > 0), "{secret} is empty");
    }
    serve(at, move |request| match request.path.as_str() {
        "/minio/health/live" => Answer::text(200, ""),
        "/minio/health/cluster" => {
            let alive = |at: &&SocketAddr| {
                http::get(**at, "/minio/health/live").is_ok_and(|answer| answer.status == 200)
            };
            let count = servers.iter().filter(alive).count();
            Answer::text(if 2 * count > servers.len() { 200 } else { 503 }, "")
        }
        _ => Answer::text(404, ""),
    });
}

/// Answers 200 at these paths.
fn answer(at: &str, paths: &'static [&'static str]) {
    let at = at.parse().unwrap_or_else(|_| panic!("{at} is no address"));
    serve(at, move |request| {
        Answer::text(if paths.contains(&request.path.as_str()) { 200 } else { 404 }, "{}")
    });
}
