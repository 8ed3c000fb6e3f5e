//! From a definition to a Marathon application, and back from what Marathon has.
//!
//! Every replica is an application of its own, `/STACK/COMPONENT/NODE`, pinned to its node: each one's command line has its
//! node's address, ensembles must not be restarted side by side, and Galera must be founded by one. The container has the
//! labels that an agent would give it, so that its node's agent reports it as it reports its own.
//!
//! Facts about applications: <https://mesosphere.github.io/marathon/docs/> (application JSON, constraints, health checks,
//! deployments) for 1.11.

use std::collections::BTreeMap;
use std::net::IpAddr;

use serde_json::{Value, json};

use crate::stack::actual::Found;
use crate::stack::components::Check;
use crate::stack::definition::DriverKind;
use crate::stack::definition::{Definition, LABEL, Source};
use crate::stack::engine::file_name;

/// Memory of a replica without a limit, in MiB: Mesos wants a number.
const DEFAULT_MEMORY_MB: u64 = 256;
/// Processors of a replica without a limit.
const DEFAULT_CPUS: f64 = 0.1;
/// How often Marathon asks whether a replica lives, in seconds.
const HEALTH_EVERY_S: u32 = 10;
/// How long an answer may take, in seconds.
const HEALTH_LIMIT_S: u32 = 5;
/// So many failures in a row have it killed.
const HEALTH_FAILURES: u32 = 6;
/// Longest pause between attempts to start what ends at once, in seconds.
const MAX_PAUSE_S: u32 = 60;

/// Where a replica is to run, and what its node's agent prepared for it.
#[derive(Debug, Clone, Copy)]
pub struct Place<'a> {
    /// The node.
    pub node: &'a str,
    /// Its overlay address: the host name of its Mesos agent.
    pub address: IpAddr,
    /// The content of the image there.
    pub image_id: &'a str,
    /// Where the container's files and secrets lie on the node.
    pub files: &'a str,
    /// The numbers of all replicas.
    pub members: &'a BTreeMap<String, u32>,
    /// Arguments beyond the definition.
    pub founding: &'a [String],
    /// Marathon's health checks, as [`health`] makes them.
    pub health: &'a Value,
}

/// The application's id.
pub fn id(stack: &str, component: &str, node: &str) -> String {
    format!("/{stack}/{component}/{node}")
}

/// The application for a replica.
pub fn render(definition: &Definition, place: &Place<'_>) -> Value {
    let mut app = json!({
        "id": id(&definition.stack, &definition.component, place.node),
        "instances": 1,
        "cpus": if definition.cpus_milli == 0 { DEFAULT_CPUS } else { definition.cpus_milli as f64 / 1000.0 },
        "mem": if definition.memory_mb == 0 { DEFAULT_MEMORY_MB } else { definition.memory_mb },
        "disk": 0,
        "env": definition.environment,
        "labels": all_labels(definition, place),
        "constraints": [["hostname", "IS", place.address.to_string()], ["node", "IS", place.node]],
        "networks": [{ "mode": "host" }],
        "portDefinitions": ports(definition),
        "requirePorts": true,
        "container": {
            "type": "DOCKER",
            "docker": {
                "image": definition.image,
                "privileged": definition.privileged,
                // The agent has brought it and looked at its architecture.
                "forcePullImage": false,
                "parameters": parameters(definition, place),
            },
            "volumes": volumes(definition, place.files),
        },
        "healthChecks": place.health,
        // The old one ends before the new one starts: both want the same ports and the same data.
        "upgradeStrategy": { "minimumHealthCapacity": 0, "maximumOverCapacity": 0 },
        // What cannot be reached may live on, with its data: no second one is started elsewhere, and pinned it could not.
        "unreachableStrategy": "disabled",
        "taskKillGracePeriodSeconds": definition.stop_grace_s,
        "backoffSeconds": 1,
        "backoffFactor": 1.5,
        "maxLaunchDelaySeconds": MAX_PAUSE_S,
    });
    let arguments: Vec<&String> =
        definition.entrypoint.iter().skip(1).chain(&definition.command).chain(place.founding).collect();
    if !arguments.is_empty() {
        app["args"] = json!(arguments);
    }
    app
}

/// Marathon's health checks for a component's. Marathon kills what fails them, so that they ask only whether the process
/// lives; whether it works is asked by the node's agent. `MESOS_HTTP` is not used: it asks at 127.0.0.1.
pub fn health(check: &Check, ports: &BTreeMap<String, u16>, grace_s: u32) -> Value {
    let port = crate::stack::spec::port_of(check).and_then(|port| ports.get(port));
    let Some(port) = port else { return json!([]) };
    let mut one = json!({
        "port": port,
        "gracePeriodSeconds": grace_s,
        "intervalSeconds": HEALTH_EVERY_S,
        "timeoutSeconds": HEALTH_LIMIT_S,
        "maxConsecutiveFailures": HEALTH_FAILURES,
    });
    match check {
        Check::Http { path, .. } => {
            one["protocol"] = json!("HTTP");
            one["path"] = json!(path);
        }
        _ => one["protocol"] = json!("TCP"),
    }
    json!([one])
}

/// The labels by which replicas are known again, on applications and on containers.
fn labels(definition: &Definition, place: &Place<'_>) -> BTreeMap<String, String> {
    let members: Vec<String> = place.members.iter().map(|(node, id)| format!("{node}={id}")).collect();
    BTreeMap::from([
        (LABEL.to_owned(), definition.stack.clone()),
        (format!("{LABEL}.component"), definition.component.clone()),
        (format!("{LABEL}.node"), place.node.to_owned()),
        (format!("{LABEL}.driver"), DriverKind::Marathon.word().to_owned()),
        (format!("{LABEL}.hash"), definition.hash(place.image_id)),
        (format!("{LABEL}.image"), place.image_id.to_owned()),
        (format!("{LABEL}.members"), members.join(",")),
        (format!("{LABEL}.founding"), (!place.founding.is_empty()).to_string()),
        (format!("{LABEL}.definition"), serde_json::to_string(definition).unwrap_or_default()),
    ])
}

fn all_labels(definition: &Definition, place: &Place<'_>) -> BTreeMap<String, String> {
    let mut all = labels(definition, place);
    all.insert(format!("{LABEL}.files"), place.files.to_owned());
    all.insert(format!("{LABEL}.extra"), place.founding.join("\n"));
    all.insert(format!("{LABEL}.health"), place.health.to_string());
    all.extend(definition.labels.clone());
    all
}

fn ports(definition: &Definition) -> Value {
    let one = |(name, port): (&String, &u16)| json!({ "port": port, "name": name, "protocol": "tcp" });
    definition.ports.iter().map(one).collect()
}

fn parameters(definition: &Definition, place: &Place<'_>) -> Value {
    let mut list = Vec::new();
    let mut add = |key: &str, value: String| list.push(json!({ "key": key, "value": value }));
    for (name, value) in labels(definition, place) {
        add("label", format!("{name}={value}"));
    }
    for (target, source) in &definition.volumes {
        if let Source::Named(name) = source {
            add("volume", format!("{name}:{target}"));
        }
    }
    definition.capabilities.iter().for_each(|one| add("cap-add", one.clone()));
    if let Some(program) = definition.entrypoint.first() {
        add("entrypoint", program.clone());
    }
    if let Some(user) = &definition.user {
        add("user", user.clone());
    }
    if definition.pid_host {
        add("pid", "host".into());
    }
    Value::Array(list)
}

fn volumes(definition: &Definition, files: &str) -> Value {
    let mut list: Vec<(String, String, bool)> = Vec::new();
    for (target, source) in &definition.volumes {
        if let Source::Path(path) = source {
            list.push((target.clone(), path.clone(), false));
        }
    }
    for (target, mount) in &definition.mounts {
        list.push((target.clone(), mount.source.clone(), mount.read_only));
    }
    let secrets = definition.secrets.keys().filter(|path| path.starts_with('/'));
    for target in definition.files.keys().chain(secrets) {
        list.push((target.clone(), format!("{files}/{}", file_name(target)), true));
    }
    list.sort();
    let one = |(target, source, read_only): (String, String, bool)| {
        let mode = if read_only { "RO" } else { "RW" };
        json!({ "containerPath": target, "hostPath": source, "mode": mode })
    };
    list.into_iter().map(one).collect()
}

/// What an application says about its replica: the node, and the container as it was made. `None` if it is not of `stack`.
pub fn found(stack: &str, app: &Value) -> Option<(String, Found)> {
    let label = |key: &str| app["labels"][format!("{LABEL}{key}")].as_str().unwrap_or_default().to_owned();
    if label("") != stack || label(".component").is_empty() {
        return None;
    }
    let members = label(".members")
        .split(',')
        .filter_map(|pair| pair.split_once('='))
        .filter_map(|(node, id)| Some((node.to_owned(), id.parse().ok()?)))
        .collect();
    let found = Found {
        name: app["id"].as_str().unwrap_or_default().to_owned(),
        component: label(".component"),
        hash: label(".hash"),
        definition: serde_json::from_str(&label(".definition")).ok(),
        members,
        founding: label(".founding") == "true",
        image_id: label(".image"),
        driver: DriverKind::Marathon,
        ..Found::default()
    };
    Some((label(".node"), found))
}

/// How an application differs from the one that it was made as: somebody changed it in Marathon.
pub fn drift(found: &Found, node: &str, address: IpAddr, app: &Value) -> Vec<String> {
    let Some(definition) = &found.definition else { return vec!["labels: they cannot be read".into()] };
    let label = |key: &str| app["labels"][format!("{LABEL}.{key}")].as_str().unwrap_or_default().to_owned();
    let founding: Vec<String> = label("extra").lines().map(str::to_owned).collect();
    let health = serde_json::from_str(&label("health")).unwrap_or_else(|_| json!([]));
    let place = Place {
        node,
        address,
        image_id: &found.image_id,
        files: &label("files"),
        members: &found.members,
        founding: &founding,
        health: &health,
    };
    let mut fields = Vec::new();
    differences("", &render(definition, &place), app, &mut fields);
    // What was added where nothing is wanted does not show by going through what is wanted.
    for extra in ["cmd", "user", "fetch", "secrets", "residency", "executor"] {
        let there = match &app[extra] {
            Value::Null => false,
            Value::String(text) => !text.is_empty(),
            Value::Array(items) => !items.is_empty(),
            Value::Object(items) => !items.is_empty(),
            _ => true,
        };
        if there {
            fields.push(format!("{extra}: somebody set it in Marathon"));
        }
    }
    fields
}

/// Every field of `wanted` that is another in `has`; Marathon adds defaults of its own, which do not count.
fn differences(path: &str, wanted: &Value, has: &Value, into: &mut Vec<String>) {
    let at = |key: &str| if path.is_empty() { key.to_owned() } else { format!("{path}.{key}") };
    match (wanted, has) {
        (Value::Object(wanted), Value::Object(has)) => {
            for (key, value) in wanted {
                match has.get(key) {
                    Some(other) => differences(&at(key), value, other, into),
                    // Nothing is also said by leaving it out.
                    None if is_empty(value) => {}
                    None => into.push(format!("{}: somebody removed it in Marathon", at(key))),
                }
            }
            if path == "env" {
                let added = has.keys().filter(|key| !wanted.contains_key(*key));
                into.extend(added.map(|key| format!("env.{key}: somebody added it in Marathon")));
            }
        }
        (Value::Array(one), Value::Array(other)) if one.len() == other.len() => {
            for (number, (one, other)) in one.iter().zip(other).enumerate() {
                differences(&at(&number.to_string()), one, other, into);
            }
        }
        (Value::Number(one), Value::Number(other)) if one.as_f64() == other.as_f64() => {}
        (one, other) if one == other => {}
        (one, other) => into.push(format!("{path}: {one} -> {other}")),
    }
}

fn is_empty(value: &Value) -> bool {
    match value {
        Value::Array(items) => items.is_empty(),
        Value::Object(items) => items.is_empty(),
        Value::Null => true,
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::stack::definition::{Mount, SecretRef};

    fn definition() -> Definition {
        let mut one = crate::stack::definition::tests::any();
        one.component = "grafana".into();
        one.driver = DriverKind::Marathon;
        one.files.insert("/etc/a.ini".into(), "x".into());
        let secret = SecretRef { name: "db".into(), version: "v7".into() };
        one.secrets.insert("/run/secrets/db".into(), secret);
        one.mounts.insert("/sys".into(), Mount { source: "/sys".into(), read_only: true, make: false });
        one.volumes.insert("/srv".into(), Source::Path("/srv/g".into()));
        one.capabilities = vec!["NET_RAW".into()];
        one.entrypoint = vec!["/bin/run".into(), "--first".into()];
        one.labels.insert("HAPROXY_GROUP".into(), "external".into());
        one
    }

    fn with<T>(work: impl FnOnce(&Place<'_>) -> T) -> T {
        let ports = [("client".to_owned(), 2181)].into();
        let health = health(&Check::Tcp { port: "client".into() }, &ports, 90);
        let members = [("ams".to_owned(), 1)].into();
        let address = "10.66.0.1".parse().unwrap();
        let (founding, image_id, files) = (["--new".to_owned()], "sha256:1", "/run/f");
        work(&Place {
            node: "ams",
            address,
            image_id,
            files,
            members: &members,
            founding: &founding,
            health: &health,
        })
    }

    /// The application as Marathon gives it back: with its own defaults and other kinds of numbers.
    fn as_marathon_has_it(mut app: Value) -> Value {
        app["mem"] = json!(app["mem"].as_f64().unwrap());
        app["version"] = json!("2026-01-01T00:00:00.000Z");
        app["killSelection"] = json!("YOUNGEST_FIRST");
        app["cmd"] = Value::Null;
        app["user"] = Value::Null;
        app["fetch"] = json!([]);
        app["healthChecks"][0]["delaySeconds"] = json!(15);
        app["portDefinitions"][0]["labels"] = json!({});
        app["tasksRunning"] = json!(1);
        app
    }

    #[test]
    fn an_application_is_pinned_checked_labelled_and_has_its_ports() {
        let app = with(|place| render(&definition(), place));
        assert_eq!(app["id"], "/s/grafana/ams");
        assert_eq!(app["constraints"], json!([["hostname", "IS", "10.66.0.1"], ["node", "IS", "ams"]]));
        assert_eq!(app["args"], json!(["--first", "a", "b", "--new"]));
        assert_eq!(app["requirePorts"], true);
        assert_eq!(app["portDefinitions"][0]["port"], 2181);
        assert_eq!(app["upgradeStrategy"]["maximumOverCapacity"], 0);
        assert_eq!(app["unreachableStrategy"], "disabled");
        assert_eq!(app["labels"]["HAPROXY_GROUP"], "external");
        assert_eq!(app["healthChecks"][0]["protocol"], "TCP");
        let text = app.to_string();
        for expected in [
            r#"{"key":"volume","value":"v:/data"}"#,
            r#"{"key":"cap-add","value":"NET_RAW"}"#,
            r#"{"key":"entrypoint","value":"/bin/run"}"#,
            r#"{"containerPath":"/run/secrets/db","hostPath":"/run/f/run_secrets_db","mode":"RO"}"#,
            r#"{"containerPath":"/srv","hostPath":"/srv/g","mode":"RW"}"#,
        ] {
            assert!(text.contains(expected), "{expected} is not in {text}");
        }
    }

    #[test]
    fn an_application_that_nobody_touched_is_read_back_without_drift() {
        let app = as_marathon_has_it(with(|place| render(&definition(), place)));
        let (node, found) = found("s", &app).unwrap();
        assert_eq!((node.as_str(), found.component.as_str(), found.founding), ("ams", "grafana", true));
        assert_eq!(found.hash, definition().hash("sha256:1"));
        assert_eq!(found.definition.as_ref(), Some(&definition()));
        assert_eq!(drift(&found, "ams", "10.66.0.1".parse().unwrap(), &app), Vec::<String>::new());
        assert!(super::found("other", &app).is_none());
    }

    #[test]
    fn what_somebody_changed_in_marathon_is_named() {
        let untouched = as_marathon_has_it(with(|place| render(&definition(), place)));
        let mut app = untouched.clone();
        app["instances"] = json!(0);
        app["env"]["NEW"] = json!("1");
        app["env"]["ZOO_MY_ID"] = json!("9");
        app["cmd"] = json!("sleep 1");
        app["constraints"] = json!([]);
        let (_, found) = found("s", &app).unwrap();
        let told = drift(&found, "ams", "10.66.0.1".parse().unwrap(), &app);
        let mut expected = [
            "instances: 1 -> 0",
            "env.NEW: somebody added it in Marathon",
            "env.ZOO_MY_ID: \"1\" -> \"9\"",
            "cmd: somebody set it in Marathon",
        ];
        expected.sort_unstable();
        assert!(expected.iter().all(|one| told.iter().any(|line| line == one)), "{told:?}");
        assert!(told.iter().any(|line| line.starts_with("constraints: ")) && told.len() == 5, "{told:?}");
    }

    #[test]
    fn checks_that_marathon_cannot_make_are_left_to_the_agents() {
        let ports = [("sql".to_owned(), 3306)].into();
        assert_eq!(health(&Check::Exec { command: vec!["x".into()] }, &ports, 1), json!([]));
        let http =
            health(&Check::Http { port: "sql".into(), path: "/h".into(), status: None }, &ports, 3_600);
        assert_eq!((&http[0]["path"], &http[0]["gracePeriodSeconds"]), (&json!("/h"), &json!(3_600)));
    }
}
