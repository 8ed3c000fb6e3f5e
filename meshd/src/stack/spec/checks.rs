//! What a stack must be beyond its syntax: quorums that hold, ports that do not clash, sites that can be lost.

use std::collections::{BTreeMap, BTreeSet};

use super::resolve::Resolver;
use super::{Node, Placed};
use crate::stack::agent::DEFAULT_PORT as AGENT_PORT;
use crate::stack::components::{Component, Kind};
use crate::stack::definition::Arch;

/// Numbers of replicas: too few, too many, or even where more than half must agree.
pub(super) fn count(resolver: &mut Resolver<'_, '_>, name: &str, nodes: &[String], component: &Component) {
    let at = ["components", name, "nodes"];
    let count = nodes.len() as u32;
    if count == 0 {
        return;
    }
    if count < component.minimum {
        let message = match component.kind {
            Kind::Quorum if count == 2 => {
                format!("{name} on two nodes is worse than on one: the loss of either stops it")
            }
            Kind::Quorum => format!("{name} on {count} cannot lose any node: more than half must live"),
            _ => format!("{name} needs at least {} nodes, these are {count}", component.minimum),
        };
        resolver.wrong(&at, message, Some(format!("name at least {} nodes", component.minimum)));
    } else if component.maximum.is_some_and(|most| count > most) {
        let most = component.maximum.unwrap_or(count);
        resolver.wrong(&at, format!("{name} can have at most {most} nodes, these are {count}"), None);
    } else if component.kind == Kind::Quorum && count.is_multiple_of(2) {
        let message = format!(
            "{name} on {count} nodes can lose {}, no more than on {}: an even number only adds votes to win",
            (count - 1) / 2,
            count - 1
        );
        resolver.wrong(&at, message, Some(format!("name {} or {} nodes", count - 1, count + 1)));
    }
}

/// What is wrong with an image's reference, or better not done.
pub(super) fn image(resolver: &mut Resolver<'_, '_>, name: &str, image: &str, component: &Component) {
    let at = ["components", name, "image"];
    let (reference, digest) =
        image.split_once('@').map_or((image, None), |(name, digest)| (name, Some(digest)));
    let tag = reference.rsplit('/').next().and_then(|last| last.split_once(':')).map(|(_, tag)| tag);
    if let Some(digest) = digest {
        let hex = digest.strip_prefix("sha256:");
        if !hex.is_some_and(|hex| hex.len() == 64 && hex.chars().all(|c| c.is_ascii_hexdigit())) {
            let instead = "write IMAGE@sha256: and 64 hexadecimal digits".to_owned();
            resolver.wrong(&at, format!("`{digest}` is no digest"), Some(instead));
        }
    }
    for refuse in &component.refuse {
        if tag.is_some_and(|tag| tag == refuse.tag || tag.starts_with(&format!("{}-", refuse.tag))) {
            let instead =
                component.images.values().next().map(|image| format!("write for example \"{image}\""));
            resolver.wrong(&at, format!("`{image}` cannot be used: {}", refuse.why), instead);
        }
    }
    if digest.is_none() && tag.is_none_or(|tag| tag == "latest") {
        let message = format!("`{image}` is another image tomorrow");
        resolver.wrong(&at, message, Some("name a version, or pin it with @sha256:...".into()));
    }
}

/// Components that need each other, and ports on the same node.
pub(super) fn together(resolver: &mut Resolver<'_, '_>, placed: &[Placed]) {
    let present: BTreeSet<&str> = placed.iter().map(|placed| placed.component.name.as_str()).collect();
    let mut taken: BTreeMap<(String, u16), (String, String)> = BTreeMap::new();
    for one in placed {
        let name = one.component.name.as_str();
        for needed in one.component.needs.iter().filter(|needed| !present.contains(needed.as_str())) {
            let instead = Some(format!("add components.{needed}"));
            resolver.wrong_key(
                &["components", name],
                format!("{name} cannot work without {needed}"),
                instead,
            );
        }
        for (port, number) in &one.ports {
            let at = ["components", name, "ports", port.as_str()];
            if *number == AGENT_PORT {
                let message = format!("{name}'s port `{port}` is {number}, where meshd's own agents listen");
                resolver.wrong(&at, message, Some("choose another".into()));
            }
            for node in &one.nodes {
                let place = (node.clone(), *number);
                match taken.get(&place) {
                    Some((other, their)) if other != name || their != port => {
                        let message = format!(
                            "on {node}, {name}'s port `{port}` and {other}'s port `{their}` are both {number}"
                        );
                        let instead =
                            format!("write for example components.{name}.ports.{port} = {}", next(*number));
                        resolver.wrong(&at, message, Some(instead));
                        break;
                    }
                    Some(_) => {}
                    None => {
                        taken.insert(place, (name.to_owned(), port.clone()));
                    }
                }
            }
        }
    }
}

/// Which machines and which sites: architectures, and what the loss of a site means.
pub(super) fn spread(resolver: &mut Resolver<'_, '_>, placed: &[Placed], nodes: &BTreeMap<String, Node>) {
    for one in placed {
        let name = one.component.name.as_str();
        for (number, node) in one.nodes.iter().enumerate() {
            let Some(arch) = nodes.get(node).map(|node| node.arch) else { continue };
            let at = ["components", name, "nodes", &number.to_string()];
            if arch == Arch::Arm && matches!(one.component.kind, Kind::Quorum | Kind::Erasure) {
                let message = format!("{node} is armv7: too small to be a member of {name}'s quorum");
                resolver.wrong(
                    &at,
                    message,
                    Some("use it for telegraf, and an amd64 or arm64 node here".into()),
                );
            } else if !one.images.contains_key(&arch) {
                let message = format!("{name} has no image for {node}, which is {arch}");
                let instead = format!("write components.{name}.image.{arch} = \"...\", or take another node");
                resolver.wrong(&at, message, Some(instead));
            }
        }
        sites(resolver, one, nodes);
    }
}

fn sites(resolver: &mut Resolver<'_, '_>, placed: &Placed, nodes: &BTreeMap<String, Node>) {
    let name = placed.component.name.as_str();
    if placed.component.kind != Kind::Quorum {
        return;
    }
    let mut sites: BTreeMap<&str, usize> = BTreeMap::new();
    for node in placed.nodes.iter().filter_map(|node| nodes.get(node)) {
        *sites.entry(node.datacenter.as_str()).or_default() += 1;
    }
    let total: usize = sites.values().sum();
    let mesh_sites: BTreeSet<&str> = nodes.values().map(|node| node.datacenter.as_str()).collect();
    let at = ["components", name, "nodes"];
    let Some((largest, most)) = sites.iter().max_by_key(|(_, count)| **count) else { return };
    match sites.len() {
        1 if mesh_sites.len() > 1 => {
            let message = format!("all of {name} is in {largest}: the loss of that datacentre stops it");
            resolver.warn(&at, message, Some("spread it over three datacentres".into()));
        }
        2 => {
            let message = format!(
                "{name} is in two datacentres, {most} of {total} in {largest}: the loss of {largest} stops it, however they \
                 are divided"
            );
            resolver.warn(&at, message, Some("put one member in a third site, as 2-2-1".into()));
        }
        count if count > 2 && *most > (total - 1) / 2 => {
            let message =
                format!("{most} of {total} members of {name} are in {largest}: its loss stops the rest");
            resolver.warn(&at, message, Some(format!("have at most {} in one datacentre", (total - 1) / 2)));
        }
        _ => {}
    }
}

/// The components in such an order that each comes after those that it waits for.
pub(super) fn in_order(resolver: &mut Resolver<'_, '_>, placed: Vec<Placed>) -> Vec<Placed> {
    let mut waiting: BTreeMap<String, Placed> =
        placed.into_iter().map(|placed| (placed.component.name.clone(), placed)).collect();
    let mut ordered = Vec::new();
    while !waiting.is_empty() {
        let free = |placed: &&Placed| {
            let before = placed.component.after.iter().chain(&placed.component.needs);
            before.into_iter().all(|name| !waiting.contains_key(name))
        };
        let Some(name) = waiting.values().find(free).map(|placed| placed.component.name.clone()) else {
            let names: Vec<&str> = waiting.keys().map(String::as_str).collect();
            let message = format!("{} wait for each other", names.join(", "));
            resolver.wrong_key(&["components", names[0]], message, None);
            break;
        };
        ordered.extend(waiting.remove(&name));
    }
    ordered
}

fn next(port: u16) -> u16 {
    port.checked_add(100).unwrap_or(port - 100)
}
