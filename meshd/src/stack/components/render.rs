//! Filling in a component's templates for one replica.
//!
//! The language is minijinja's with strict undefined values: a misspelt name is an error, never an empty text. It has
//! no access to files, time, or randomness, so that equal input renders to equal output on every node.

use std::collections::BTreeMap;
use std::sync::Arc;

use minijinja::{Environment, Error, ErrorKind, UndefinedBehavior, context};
use serde::Serialize;

use super::{Component, Value};
use crate::stack::definition::{Arch, Mount, SECRET_CLOSE, SECRET_OPEN};

/// A replica's place, as templates see it.
#[derive(Serialize, Debug, Clone, PartialEq, Eq)]
pub struct Seat {
    /// The replica's number.
    pub id: u32,
    /// The node's name.
    pub node: String,
    /// Its overlay address.
    pub address: String,
    /// Its datacentre; `default` if it has none.
    pub datacenter: String,
    /// The datacentre's place among those of the stack, from 0.
    pub datacenter_number: usize,
    /// Its architecture.
    pub arch: Arch,
}

/// Everything that templates can see.
#[derive(Debug, Clone, Default)]
pub struct Scene {
    /// The stack's name.
    pub stack: String,
    /// All nodes of the stack, by name; the number of each is its place.
    pub nodes: Vec<Seat>,
    /// The replicas of each component, by number.
    pub members: BTreeMap<String, Vec<Seat>>,
    /// The ports of each component.
    pub ports: BTreeMap<String, BTreeMap<String, u16>>,
    /// The settings of each component.
    pub settings: BTreeMap<String, BTreeMap<String, Value>>,
}

/// What a component's templates became.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Rendered {
    /// The program.
    pub entrypoint: Vec<String>,
    /// Its arguments.
    pub command: Vec<String>,
    /// The environment.
    pub environment: BTreeMap<String, String>,
    /// Files, with places for secrets.
    pub files: BTreeMap<String, String>,
    /// Parts of the machine.
    pub mounts: BTreeMap<String, Mount>,
    /// Labels of the application on Marathon.
    pub labels: BTreeMap<String, String>,
}

/// Renders `component` for the replica at `seat`.
///
/// # Errors
/// Which template is wrong, and why.
pub fn render(component: &Component, seat: &Seat, scene: &Arc<Scene>) -> Result<Rendered, String> {
    let plain = environment(scene, false);
    let with_secrets = environment(scene, true);
    let none = BTreeMap::new();
    let context = context! {
        self => seat,
        stack => scene.stack,
        nodes => scene.nodes,
        members => scene.members.get(&component.name).map(Vec::as_slice).unwrap_or_default(),
        ports => scene.ports.get(&component.name).unwrap_or(&none),
        settings => scene.settings.get(&component.name),
    };
    let one = |environment: &Environment<'_>, place: &str, text: &str| {
        environment.render_str(text, &context).map_err(|error| told(&component.name, place, text, &error))
    };
    let container = &component.container;
    let list = |place: &str, items: &[String]| -> Result<Vec<String>, String> {
        let mut arguments = Vec::new();
        for item in items {
            // What renders to several lines is as many arguments.
            let text = one(&plain, place, item)?;
            arguments.extend(text.lines().filter(|line| !line.is_empty()).map(str::to_owned));
        }
        Ok(arguments)
    };
    let mut environment = BTreeMap::new();
    for (name, text) in &container.environment {
        let value = one(&plain, &format!("container.environment.{name}"), text)?;
        if !value.is_empty() {
            environment.insert(name.clone(), value);
        }
    }
    let mut files = BTreeMap::new();
    for (path, text) in &component.files {
        files.insert(path.clone(), one(&with_secrets, &format!("files.\"{path}\""), text)?);
    }
    let mut mounts = BTreeMap::new();
    for mount in &component.mounts {
        let source = one(&plain, "mounts.source", &mount.source)?;
        let target = match &mount.target {
            Some(target) => one(&plain, "mounts.target", target)?,
            None => source.clone(),
        };
        mounts.insert(target, Mount { source, read_only: mount.read_only, make: mount.make });
    }
    let mut labels = BTreeMap::new();
    for (name, text) in &component.marathon.labels {
        let value = one(&plain, &format!("marathon.labels.{name}"), text)?;
        if !value.is_empty() {
            labels.insert(name.clone(), value);
        }
    }
    Ok(Rendered {
        labels,
        entrypoint: list("container.entrypoint", &container.entrypoint)?,
        command: list("container.command", &container.command)?,
        environment,
        files,
        mounts,
    })
}

/// Whether a component's templates can be rendered, tried on a made-up mesh of three.
///
/// # Errors
/// Which template is wrong, and why.
pub fn check(component: &Component) -> Result<(), String> {
    let seat = |id: u32| Seat {
        id,
        node: format!("n{id}"),
        address: format!("10.0.0.{id}"),
        datacenter: format!("dc{id}"),
        datacenter_number: id as usize - 1,
        arch: Arch::Amd64,
    };
    let seats: Vec<Seat> = (1..=3).map(seat).collect();
    let mut scene = Scene { stack: "check".into(), nodes: seats.clone(), ..Scene::default() };
    let catalogue = super::Catalogue::built_in();
    for known in catalogue.iter().chain([component]) {
        scene.members.insert(known.name.clone(), seats.clone());
        scene.ports.insert(known.name.clone(), known.ports.clone());
        let defaults = known.settings.iter().map(|(name, setting)| (name.clone(), setting.default.clone()));
        scene.settings.insert(known.name.clone(), defaults.collect());
    }
    let mentioned = [&component.health, &component.ready].into_iter().filter_map(super::super::spec::port_of);
    for port in mentioned {
        if !component.ports.contains_key(port) {
            return Err(format!(
                "{}: a check asks at the port `{port}`, which is not in [ports]",
                component.name
            ));
        }
    }
    render(component, &seats[0], &Arc::new(scene)).map(drop)
}

fn told(component: &str, place: &str, text: &str, error: &Error) -> String {
    let line = error.line().and_then(|line| text.lines().nth(line - 1)).unwrap_or(text).trim();
    let mut message = format!("{component}: {place}: {}", error.kind());
    if let Some(detail) = error.detail() {
        message.push_str(&format!(": {detail}"));
    }
    format!("{message}, in `{line}`")
}

fn environment(scene: &Arc<Scene>, secrets: bool) -> Environment<'static> {
    let mut environment = Environment::new();
    environment.set_undefined_behavior(UndefinedBehavior::Strict);
    let shared = Arc::clone(scene);
    let members =
        move |component: &str| -> Vec<Seat> { shared.members.get(component).cloned().unwrap_or_default() };
    let of = members.clone();
    environment
        .add_function("peers", move |component: String| minijinja::Value::from_serialize(of(&component)));
    let of = members.clone();
    environment.add_function("has", move |component: String| !of(&component).is_empty());
    let shared = Arc::clone(scene);
    environment.add_function("endpoints", move |component: String, port: String| -> Result<String, Error> {
        let number = port_number(&shared, &component, &port)?;
        let of = members(&component);
        Ok(of.iter().map(|seat| format!("{}:{number}", seat.address)).collect::<Vec<_>>().join(","))
    });
    let shared = Arc::clone(scene);
    environment
        .add_function("port", move |component: String, port: String| port_number(&shared, &component, &port));
    let shared = Arc::clone(scene);
    environment.add_function("setting", move |component: String, name: String| {
        let value = shared.settings.get(&component).and_then(|settings| settings.get(&name));
        value
            .map(minijinja::Value::from_serialize)
            .ok_or_else(|| wrong(format!("{component} has no setting {name}")))
    });
    environment.add_function("quorum", |members: minijinja::Value| -> Result<usize, Error> {
        members
            .len()
            .map(|count| count / 2 + 1)
            .ok_or_else(|| wrong("quorum() wants a list of members".into()))
    });
    if secrets {
        environment.add_function("secret", |name: String| format!("{SECRET_OPEN}{name}{SECRET_CLOSE}"));
    } else {
        environment.add_function("secret", |_: String| -> Result<String, Error> {
            Err(wrong("secrets can be in [files] only: arguments and environments are seen by others".into()))
        });
    }
    environment
}

fn port_number(scene: &Scene, component: &str, port: &str) -> Result<u16, Error> {
    let number = scene.ports.get(component).and_then(|ports| ports.get(port)).copied();
    number.ok_or_else(|| wrong(format!("{component} has no port {port}, or is not in the stack")))
}

fn wrong(message: String) -> Error {
    Error::new(ErrorKind::InvalidOperation, message)
}

#[cfg(test)]
mod tests {
    use super::super::Catalogue;
    use super::*;

    #[test]
    fn every_built_in_component_reads_and_renders() {
        for (name, text) in super::super::BUILT_IN {
            let component: Component = toml::from_str(text).unwrap_or_else(|error| panic!("{name}: {error}"));
            assert_eq!(component.name, *name);
            check(&component).unwrap_or_else(|message| panic!("{message}"));
            for other in component.after.iter().chain(&component.needs) {
                assert!(Catalogue::built_in().get(other).is_some(), "{name} names {other}");
            }
        }
    }

    fn zookeeper_with(change: impl FnOnce(&mut Component)) -> Result<(), String> {
        let mut component = Catalogue::built_in().get("zookeeper").unwrap().clone();
        change(&mut component);
        check(&component)
    }

    #[test]
    fn a_misspelt_name_is_an_error_with_its_place() {
        let error = zookeeper_with(|component| {
            component.container.environment.insert("A".into(), "{{ self.adress }}".into());
        });
        let error = error.unwrap_err();
        assert!(error.contains("container.environment.A") && error.contains("self.adress"), "{error}");
    }

    #[test]
    fn a_secret_cannot_get_into_arguments_or_environment() {
        let place = "{{ secret('x') }}".to_owned();
        let error = zookeeper_with(|component| component.container.command.push(place.clone())).unwrap_err();
        assert!(error.contains("[files] only"), "{error}");
        zookeeper_with(|component| {
            component.container.environment.insert("A".into(), place.clone());
        })
        .unwrap_err();
        zookeeper_with(|component| {
            component.files.insert("/x".into(), place.clone());
        })
        .unwrap();
    }

    #[test]
    fn a_check_at_an_unknown_port_is_told() {
        let error = zookeeper_with(|component| {
            component.ready = super::super::Check::Tcp { port: "sql".into() };
        });
        assert!(error.unwrap_err().contains("`sql`"));
    }
}
