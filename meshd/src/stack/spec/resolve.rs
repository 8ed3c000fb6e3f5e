//! From the raw specification to the resolved one.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use super::checks;
use super::drivers;
use super::places::{self, Places, example, suggest};
use super::raw::{Image, Placement, Raw, RawComponent};
use super::{Member, NO_DATACENTER, Node, Placed, SecretSource, Stack};
use crate::config::diagnose::Findings;
use crate::config::{Invalid, Problem};
use crate::stack::components::{Catalogue, Component, Value};
use crate::stack::definition::Arch;

/// Longest name of a stack.
const MAX_NAME_LEN: usize = 32;
/// Most components of a stack.
const MAX_COMPONENTS: usize = 64;
/// Shortest generated secret.
const MIN_SECRET_LEN: i64 = 16;
/// Longest generated secret.
const MAX_SECRET_LEN: i64 = 256;

/// What resolving one specification needs.
pub(super) struct Resolver<'a, 't> {
    pub(super) places: Places<'t>,
    pub(super) findings: Findings<'t>,
    pub(super) warnings: Findings<'t>,
    pub(super) catalogue: &'a Catalogue,
    pub(super) members: &'a [Member],
}

/// Resolves the specification in `text`; `path` is for messages and for what the text names beside it.
///
/// # Errors
/// All findings, with their places and what to write instead.
pub fn resolve(path: &Path, text: &str, catalogue: &Catalogue, members: &[Member]) -> Result<Stack, Invalid> {
    let (raw, places) = places::read(path, text)?;
    let findings = Findings::new(text);
    let mut resolver = Resolver { places, findings, warnings: Findings::new(text), catalogue, members };
    let stack = resolver.stack(path, &raw);
    let Resolver { findings, warnings, .. } = resolver;
    findings.finish(path)?;
    let warnings: Vec<Problem> = warnings.finish(path).err().map(|found| found.problems).unwrap_or_default();
    Ok(Stack { warnings, ..stack })
}

impl Resolver<'_, '_> {
    /// Adds a finding at the value that `at` leads to.
    pub(super) fn wrong(&mut self, at: &[&str], message: impl Into<String>, instead: Option<String>) {
        self.findings.add(self.places.value(at), message, instead);
    }

    /// Adds a finding at the key that `at` leads to.
    pub(super) fn wrong_key(&mut self, at: &[&str], message: impl Into<String>, instead: Option<String>) {
        self.findings.add(self.places.key(at), message, instead);
    }

    /// Adds something that works, but should be known.
    pub(super) fn warn(&mut self, at: &[&str], message: impl Into<String>, instead: Option<String>) {
        self.warnings.add(self.places.key(at), message, instead);
    }

    fn stack(&mut self, path: &Path, raw: &Raw) -> Stack {
        self.name(&raw.name);
        self.node_names(raw);
        if raw.components.is_empty() {
            let instead = "`meshd stack init` proposes some for this mesh".to_owned();
            self.wrong(&["components"], "there are no components", Some(instead));
        }
        if raw.components.len() > MAX_COMPONENTS {
            self.wrong(&["components"], format!("there are more than {MAX_COMPONENTS} components"), None);
        }
        let mut placed = Vec::new();
        for (name, component) in &raw.components {
            placed.extend(self.component(raw, name, component));
        }
        checks::together(self, &placed);
        drivers::settle(self, raw, &mut placed);
        let secrets = self.secrets(path, raw, &placed);
        let mut nodes = BTreeMap::new();
        for name in placed.iter().flat_map(|placed| &placed.nodes) {
            if let Some(node) = self.node(raw, name) {
                nodes.insert(name.clone(), node);
            }
        }
        checks::spread(self, &placed, &nodes);
        let placed = checks::in_order(self, placed);
        Stack { name: raw.name.clone(), nodes, placed, secrets, warnings: Vec::new() }
    }

    fn name(&mut self, name: &str) {
        let allowed = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-';
        if name.is_empty() || name.len() > MAX_NAME_LEN || !name.chars().all(allowed) || name.starts_with('-')
        {
            let message =
                format!("`{name}` is no name of a stack: it has 1 to {MAX_NAME_LEN} of a-z, 0-9, and -");
            self.wrong(&["name"], message, example("name"));
        }
    }

    fn node_names(&mut self, raw: &Raw) {
        for name in raw.nodes.keys() {
            self.member(&["nodes", name], name, true);
        }
    }

    /// The member of this name; a finding if there is none.
    fn member(&mut self, at: &[&str], name: &str, key: bool) -> bool {
        if self.members.iter().any(|member| member.name == name) {
            return true;
        }
        let instead =
            suggest(name, "the members are", self.members.iter().map(|member| member.name.as_str()));
        let message = format!("no member of the mesh has the name `{name}`");
        if key {
            self.wrong_key(at, message, Some(instead))
        } else {
            self.wrong(at, message, Some(instead))
        }
        false
    }

    fn node(&mut self, raw: &Raw, name: &str) -> Option<Node> {
        let member = self.members.iter().find(|member| member.name == name)?;
        let said = raw.nodes.get(name);
        let datacenter = member.datacenter.clone().or_else(|| said.and_then(|said| said.datacenter.clone()));
        let arch = member.arch.or_else(|| said.and_then(|said| said.architecture));
        let Some(arch) = arch else {
            let message = format!("the architecture of `{name}` is not known: its agent does not answer");
            let instead = format!(
                "set `engine` in its meshd.toml, or write here: nodes.{name}.architecture = \"amd64\""
            );
            if !self.findings.has(&message) {
                self.wrong_key(&["components"], message, Some(instead));
            }
            return None;
        };
        Some(Node {
            address: member.address,
            datacenter: datacenter.unwrap_or_else(|| NO_DATACENTER.into()),
            arch,
        })
    }

    fn component(&mut self, raw: &Raw, name: &str, given: &RawComponent) -> Option<Placed> {
        let at = ["components", name];
        let Some(component) = self.catalogue.get(name).cloned() else {
            let instead = suggest(name, "the components are", self.catalogue.names());
            self.wrong_key(&at, format!("there is no component `{name}`"), Some(instead));
            return None;
        };
        let nodes = self.nodes(raw, name, given, &component);
        let images = self.images(name, given, &component);
        let settings = self.settings(name, given, &component);
        let ports = self.ports(name, given, &component);
        for (volume, path) in &given.volumes {
            let at = ["components", name, "volumes", volume];
            if !component.volumes.contains_key(volume) {
                let instead =
                    suggest(volume, "its volumes are", component.volumes.keys().map(String::as_str));
                self.wrong_key(&at, format!("{name} has no volume `{volume}`"), Some(instead));
            } else if !path.starts_with('/') || path.split('/').any(|part| part == "..") {
                let message = format!("`{path}` is no absolute path");
                self.wrong(&at, message, Some(format!("write for example \"/srv/{name}\"")));
            }
        }
        let within =
            |resolver: &mut Self, key: &str, value: Option<i64>, least: i64, most: i64, default: i64| {
                let value = value.unwrap_or(default);
                if !(least..=most).contains(&value) {
                    let message = format!("`{key}` is {value}, but must be from {least} to {most}");
                    resolver.wrong(&["components", name, key], message, example(key));
                }
                value.clamp(least, most)
            };
        let memory_mb =
            within(self, "memory_mb", given.memory_mb, 0, 1 << 30, component.resources.memory_mb as i64);
        let deadline_s = within(self, "deadline_s", given.deadline_s, 5, 86_400, component.deadline_s.into());
        let cpus = given.cpus.unwrap_or(component.resources.cpus);
        if !(0.0..=4096.0).contains(&cpus) {
            self.wrong(&["components", name, "cpus"], format!("`cpus` is {cpus}"), example("cpus"));
        }
        // One for all architectures is told once.
        for image in images.values().collect::<BTreeSet<_>>() {
            checks::image(self, name, image, &component);
        }
        // Where a name was wrong, the number says nothing.
        if !matches!(&given.nodes, Some(Placement::Names(names)) if names.len() != nodes.len()) {
            checks::count(self, name, &nodes, &component);
        }
        Some(Placed {
            component,
            driver: crate::stack::definition::DriverKind::Direct,
            registries: registries(raw),
            nodes,
            images,
            ports,
            settings,
            volumes: given.volumes.clone(),
            environment: given.environment.clone(),
            arguments: given.arguments.clone(),
            memory_mb: memory_mb as u64,
            cpus_milli: (cpus * 1000.0) as u64,
            deadline_s: deadline_s as u32,
        })
    }

    fn nodes(&mut self, raw: &Raw, name: &str, given: &RawComponent, component: &Component) -> Vec<String> {
        let key = ["components", name, "nodes"];
        let mut nodes: Vec<String> = Vec::new();
        match &given.nodes {
            None => self.wrong_key(&["components", name], format!("{name} has no `nodes`"), example("nodes")),
            Some(Placement::Word(word)) if word == "all" => {
                for member in self.members {
                    let said = raw.nodes.get(&member.name);
                    let datacenter =
                        member.datacenter.as_ref().or(said.and_then(|said| said.datacenter.as_ref()));
                    let arch = member.arch.or(said.and_then(|said| said.architecture));
                    let in_datacenter = given.datacenters.as_ref().is_none_or(|wanted| {
                        datacenter.is_some_and(|datacenter| wanted.contains(datacenter))
                    });
                    let wanted =
                        |arch| given.architectures.as_ref().is_none_or(|wanted| wanted.contains(&arch));
                    let runs = |arch| component.images.contains_key(&arch) || given.image.is_some();
                    if in_datacenter && arch.is_some_and(|arch| wanted(arch) && runs(arch)) {
                        nodes.push(member.name.clone());
                    }
                }
                if nodes.is_empty() {
                    self.wrong(&key, format!("no member of the mesh can run {name}"), None);
                }
            }
            Some(Placement::Word(word)) => {
                let instead = format!("write \"all\", or a list: [\"{word}\"]");
                self.wrong(&key, format!("`{word}` stands alone"), Some(instead));
            }
            Some(Placement::Names(names)) => {
                for (number, node) in names.iter().enumerate() {
                    let at = ["components", name, "nodes", &number.to_string()];
                    if nodes.contains(node) {
                        self.wrong(&at, format!("`{node}` is there twice"), None);
                    } else if self.member(&at, node, false) {
                        nodes.push(node.clone());
                    }
                }
            }
        }
        let filtered = given.datacenters.is_some() || given.architectures.is_some();
        if filtered && matches!(given.nodes, Some(Placement::Names(_))) {
            let message = "`datacenters` and `architectures` choose among all members".to_owned();
            self.wrong(&key, message, Some("write nodes = \"all\", or leave them out".into()));
        }
        nodes
    }

    fn images(&mut self, name: &str, given: &RawComponent, component: &Component) -> BTreeMap<Arch, String> {
        let mut images = component.images.clone();
        match &given.image {
            None => {}
            Some(Image::One(image)) => images = Arch::ALL.iter().map(|arch| (*arch, image.clone())).collect(),
            Some(Image::Each(each)) => images.extend(each.clone()),
        }
        for (arch, image) in &images {
            if image.is_empty() || image.chars().any(char::is_whitespace) {
                let at = ["components", name, "image", arch.word()];
                self.wrong(&at, format!("`{image}` is no image"), example("image"));
            }
        }
        images
    }

    fn settings(
        &mut self,
        name: &str,
        given: &RawComponent,
        component: &Component,
    ) -> BTreeMap<String, Value> {
        let defaults = component.settings.iter().map(|(key, setting)| (key.clone(), setting.default.clone()));
        let mut settings: BTreeMap<String, Value> = defaults.collect();
        for (key, value) in &given.settings {
            let at = ["components", name, "settings", key];
            let Some(setting) = component.settings.get(key) else {
                let instead = suggest(key, "its settings are", component.settings.keys().map(String::as_str));
                self.wrong_key(&at, format!("{name} has no setting `{key}`"), Some(instead));
                continue;
            };
            if std::mem::discriminant(value) != std::mem::discriminant(&setting.default) {
                let message = format!("`{key}` must be {}", setting.default.type_name());
                self.wrong(&at, message, Some(format!("it is: {}", setting.help)));
                continue;
            }
            if let Value::Number(number) = value {
                let (least, most) =
                    (setting.minimum.unwrap_or(i64::MIN), setting.maximum.unwrap_or(i64::MAX));
                if !(least..=most).contains(number) {
                    self.wrong(&at, format!("`{key}` is {number}, but must be from {least} to {most}"), None);
                }
            }
            if let Value::Text(text) = value
                && !setting.choices.is_empty()
                && !setting.choices.contains(text)
            {
                let instead = suggest(text, "it can be", setting.choices.iter().map(String::as_str));
                self.wrong(&at, format!("`{key}` cannot be `{text}`"), Some(instead));
            }
            settings.insert(key.clone(), value.clone());
        }
        settings
    }

    fn ports(&mut self, name: &str, given: &RawComponent, component: &Component) -> BTreeMap<String, u16> {
        let mut ports = component.ports.clone();
        for (port, number) in &given.ports {
            let at = ["components", name, "ports", port];
            if !component.ports.contains_key(port) {
                let instead = suggest(port, "its ports are", component.ports.keys().map(String::as_str));
                self.wrong_key(&at, format!("{name} has no port `{port}`"), Some(instead));
                continue;
            }
            match u16::try_from(*number).ok().filter(|number| *number > 0) {
                Some(number) => {
                    ports.insert(port.clone(), number);
                }
                None => self.wrong(&at, format!("`{number}` is no port: 1 to 65535"), example("ports")),
            }
        }
        ports
    }

    fn secrets(&mut self, path: &Path, raw: &Raw, placed: &[Placed]) -> BTreeMap<String, SecretSource> {
        let mut needed: BTreeMap<String, u32> = BTreeMap::new();
        for (name, secret) in placed.iter().flat_map(|placed| &placed.component.secrets) {
            let length = needed.entry(name.clone()).or_insert(secret.generate);
            *length = (*length).max(secret.generate);
        }
        for (host, registry) in &raw.registries {
            let at = ["registries", host.as_str()];
            if host.contains('/') || host.chars().any(char::is_whitespace) {
                let message = format!("`{host}` is no host: what stands before the first / of an image");
                self.wrong_key(&at, message, example("registries"));
            }
            let is_asked = |image: &String| super::registry_of(image) == host;
            if !placed.iter().flat_map(|placed| placed.images.values()).any(is_asked) {
                self.warn(&at, format!("no image comes from {host}"), None);
            }
            // It is somebody's password there: none can be made up.
            needed.insert(registry.secret.clone(), 0);
        }
        for name in raw.secrets.keys().filter(|name| !needed.contains_key(*name)) {
            let instead = suggest(name, "the secrets here are", needed.keys().map(String::as_str));
            let message = format!("no component needs the secret `{name}`");
            self.findings.add(self.places.key(&["secrets", name]), message, Some(instead));
        }
        let mut sources = BTreeMap::new();
        for (name, length) in needed {
            let at = ["secrets", name.as_str()];
            let given = raw.secrets.get(&name);
            let source =
                match (given.and_then(|given| given.file.as_ref()), given.and_then(|given| given.generate)) {
                    (Some(_), Some(_)) => {
                        self.wrong_key(
                            &at,
                            format!("`{name}` has both `file` and `generate`"),
                            Some("keep one".into()),
                        );
                        continue;
                    }
                    (Some(file), None) => {
                        SecretSource::File(path.parent().unwrap_or(Path::new("")).join(file))
                    }
                    (None, Some(length)) if !(MIN_SECRET_LEN..=MAX_SECRET_LEN).contains(&length) => {
                        let message = format!(
                            "`generate` is {length}, but must be from {MIN_SECRET_LEN} to {MAX_SECRET_LEN}"
                        );
                        self.wrong(&["secrets", &name, "generate"], message, example("generate"));
                        continue;
                    }
                    (None, Some(length)) => SecretSource::Generate(length as u32),
                    (None, None) if length == 0 => {
                        let message = format!("the secret `{name}` must be given: it cannot be generated");
                        self.wrong_key(
                            &["components"],
                            message,
                            Some(format!("write secrets.{name}.file = \"...\"")),
                        );
                        continue;
                    }
                    (None, None) => SecretSource::Generate(length),
                };
            sources.insert(name, source);
        }
        sources
    }
}

fn registries(raw: &Raw) -> BTreeMap<String, super::Registry> {
    let one = |(host, given): (&String, &super::raw::RawRegistry)| {
        (host.clone(), super::Registry { user: given.user.clone(), secret: given.secret.clone() })
    };
    raw.registries.iter().map(one).collect()
}
