//! From a definition to what an engine is asked for, and back from what it has.

use std::collections::{BTreeMap, HashMap};
use std::path::Path;

use bollard::models::{
    ContainerCreateBody, ContainerInspectResponse, HostConfig, ImageInspect, Mount as EngineMount, MountType,
    RestartPolicy, RestartPolicyNameEnum,
};

use crate::stack::actual::Found;
use crate::stack::definition::DriverKind;
use crate::stack::definition::{Definition, LABEL, Source};

/// What an engine is asked for.
pub(super) fn create(
    definition: &Definition,
    founding: &[String],
    members: &BTreeMap<String, u32>,
    hash: &str,
    image_id: &str,
    files: &Path,
) -> ContainerCreateBody {
    let some = |list: Vec<String>| Some(list).filter(|list| !list.is_empty());
    let members: Vec<String> = members.iter().map(|(node, id)| format!("{node}={id}")).collect();
    let labels = HashMap::from([
        (LABEL.to_owned(), definition.stack.clone()),
        (format!("{LABEL}.component"), definition.component.clone()),
        (format!("{LABEL}.hash"), hash.to_owned()),
        (format!("{LABEL}.image"), image_id.to_owned()),
        (format!("{LABEL}.members"), members.join(",")),
        (format!("{LABEL}.founding"), (!founding.is_empty()).to_string()),
        (format!("{LABEL}.definition"), serde_json::to_string(definition).unwrap_or_default()),
    ]);
    ContainerCreateBody {
        image: Some(image_id.to_owned()),
        entrypoint: some(definition.entrypoint.clone()),
        cmd: some(command(definition, founding)),
        env: some(environment(definition)),
        user: definition.user.clone(),
        labels: Some(labels),
        stop_timeout: Some(definition.stop_grace_s.into()),
        host_config: Some(HostConfig {
            network_mode: Some("host".into()),
            mounts: Some(mounts(definition, files)).filter(|mounts| !mounts.is_empty()),
            privileged: Some(definition.privileged),
            pid_mode: definition.pid_host.then(|| "host".to_owned()),
            cap_add: some(definition.capabilities.clone()),
            memory: Some((definition.memory_mb as i64) << 20).filter(|bytes| *bytes > 0),
            nano_cpus: Some(definition.cpus_milli as i64 * 1_000_000).filter(|cpus| *cpus > 0),
            restart_policy: Some(RestartPolicy {
                name: Some(RestartPolicyNameEnum::UNLESS_STOPPED),
                maximum_retry_count: None,
            }),
            ..Default::default()
        }),
        ..Default::default()
    }
}

fn command(definition: &Definition, founding: &[String]) -> Vec<String> {
    definition.command.iter().chain(founding).cloned().collect()
}

fn environment(definition: &Definition) -> Vec<String> {
    definition.environment.iter().map(|(name, value)| format!("{name}={value}")).collect()
}

/// The file on the machine for a path in a container.
pub(crate) fn file_name(target: &str) -> String {
    target.trim_start_matches('/').replace('/', "_")
}

fn mounts(definition: &Definition, files: &Path) -> Vec<EngineMount> {
    let mount = |typ, source: String, target: &str, read_only| EngineMount {
        typ: Some(typ),
        source: Some(source),
        target: Some(target.to_owned()),
        read_only: Some(read_only),
        ..Default::default()
    };
    let mut mounts = Vec::new();
    for (target, source) in &definition.volumes {
        mounts.push(match source {
            Source::Named(name) => mount(MountType::VOLUME, name.clone(), target, false),
            Source::Path(path) => mount(MountType::BIND, path.clone(), target, false),
        });
    }
    for (target, one) in &definition.mounts {
        mounts.push(mount(MountType::BIND, one.source.clone(), target, one.read_only));
    }
    let secrets = definition.secrets.keys().filter(|path| path.starts_with('/'));
    for target in definition.files.keys().chain(secrets) {
        let source = files.join(file_name(target)).to_string_lossy().into_owned();
        mounts.push(mount(MountType::BIND, source, target, true));
    }
    mounts.sort_by(|a, b| a.target.cmp(&b.target));
    mounts
}

/// What an engine has under a name. With its image, also what was changed by hand.
pub(super) fn found(name: &str, seen: &ContainerInspectResponse, image: Option<&ImageInspect>) -> Found {
    let labels = seen.config.as_ref().and_then(|config| config.labels.clone()).unwrap_or_default();
    let label = |key: &str| labels.get(&format!("{LABEL}.{key}")).cloned().unwrap_or_default();
    let members = label("members")
        .split(',')
        .filter_map(|pair| pair.split_once('='))
        .filter_map(|(node, id)| Some((node.to_owned(), id.parse().ok()?)))
        .collect();
    let state = seen.state.clone().unwrap_or_default();
    let running = state.running.unwrap_or(false) && !state.restarting.unwrap_or(false);
    let definition: Option<Definition> = serde_json::from_str(&label("definition")).ok();
    let mut found = Found {
        name: name.to_owned(),
        driver: if label("driver") == DriverKind::Marathon.word() {
            DriverKind::Marathon
        } else {
            DriverKind::Direct
        },
        component: label("component"),
        hash: label("hash"),
        members,
        founding: label("founding") == "true",
        image_id: seen.image.clone().unwrap_or_default(),
        running,
        exit_code: state.exit_code.filter(|_| !running),
        restarts: u64::try_from(seen.restart_count.unwrap_or(0)).unwrap_or(0),
        up_s: 0,
        drift: Vec::new(),
        probe: None,
        definition: None,
    };
    if let (Some(definition), Some(image)) = (&definition, image) {
        found.drift = drift(definition, seen, image, &label("image"), found.driver);
    }
    found.definition = definition;
    found
}

/// How a container differs from its own definition.
fn drift(
    definition: &Definition,
    seen: &ContainerInspectResponse,
    image: &ImageInspect,
    image_id: &str,
    driver: DriverKind,
) -> Vec<String> {
    let config = seen.config.clone().unwrap_or_default();
    let host = seen.host_config.clone().unwrap_or_default();
    let mut fields = Vec::new();
    let mut differs = |field: &str, is: String, should: String| {
        if is != should {
            fields.push(format!("{field}: {should} -> {is}"));
        }
    };
    differs("image", seen.image.clone().unwrap_or_default(), image_id.to_owned());
    differs("network", host.network_mode.unwrap_or_default(), "host".into());
    differs("privileged", host.privileged.unwrap_or(false).to_string(), definition.privileged.to_string());
    // Mesos has its own ways to limit a container, and starts it again itself.
    if driver == DriverKind::Direct {
        let memory = (definition.memory_mb as i64) << 20;
        differs("memory", host.memory.unwrap_or(0).to_string(), memory.to_string());
        let cpus = definition.cpus_milli as i64 * 1_000_000;
        differs("cpus", host.nano_cpus.unwrap_or(0).to_string(), cpus.to_string());
        let restart = host.restart_policy.and_then(|policy| policy.name).map(|name| name.to_string());
        let should = RestartPolicyNameEnum::UNLESS_STOPPED.to_string();
        differs("restart policy", restart.unwrap_or_default(), should);
    }
    if !definition.command.is_empty() && (driver == DriverKind::Direct || definition.entrypoint.len() < 2) {
        let is = config.cmd.unwrap_or_default();
        // What a founder has beyond the definition is no drift.
        let should = definition.command.join(" ");
        let is =
            is.get(..definition.command.len()).map(|part| part.join(" ")).unwrap_or_else(|| is.join(" "));
        differs("command", is, should);
    }
    let variables = |list: Option<Vec<String>>| -> BTreeMap<String, String> {
        let pair =
            |line: String| line.split_once('=').map(|(name, value)| (name.to_owned(), value.to_owned()));
        list.unwrap_or_default().into_iter().filter_map(pair).collect()
    };
    let mut expected = variables(image.config.as_ref().and_then(|config| config.env.clone()));
    expected.extend(definition.environment.clone());
    let present = variables(config.env);
    // Mesos and Marathon tell a task about itself in variables of their own.
    for (name, value) in
        present.iter().filter(|(name, _)| driver == DriverKind::Direct || expected.contains_key(*name))
    {
        if expected.get(name) != Some(value) {
            let should = expected.get(name).cloned().unwrap_or_else(|| "absent".into());
            differs(&format!("environment.{name}"), value.clone(), should);
        }
    }
    for name in expected.keys().filter(|name| !present.contains_key(*name)) {
        differs(&format!("environment.{name}"), "absent".into(), expected[name].clone());
    }
    fields
}
