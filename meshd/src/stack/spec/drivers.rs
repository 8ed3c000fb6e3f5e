//! Who starts what: base components are the agents' own, services go through Marathon where it can reach their nodes.

use super::Placed;
use super::raw::Raw;
use super::resolve::Resolver;
use crate::stack::components::{Layer, Value};
use crate::stack::definition::DriverKind;

/// What starts services by Marathon's order.
const AGENT: &str = "mesos-agent";
/// What gives the orders.
const MARATHON: &str = "marathon";

/// Settles who starts each component; what goes through Marathon waits for it.
pub(super) fn settle(resolver: &mut Resolver<'_, '_>, raw: &Raw, placed: &mut [Placed]) {
    let find = |placed: &[Placed], name: &str| placed.iter().find(|one| one.component.name == name).cloned();
    let (marathon, agent) = (find(placed, MARATHON), find(placed, AGENT));
    if raw.driver == Some(DriverKind::Marathon) && (marathon.is_none() || agent.is_none()) {
        let missing = if marathon.is_none() { MARATHON } else { AGENT };
        let message = format!("services cannot go through Marathon: the stack has no {missing}");
        let instead = format!("add components.{missing}, or write driver = \"direct\"");
        resolver.wrong(&["driver"], message, Some(instead));
        return;
    }
    for one in placed.iter_mut() {
        let name = one.component.name.clone();
        let at = ["components", name.as_str(), "driver"];
        let asked = raw.components.get(&name).and_then(|given| given.driver);
        if one.component.layer == Layer::Base {
            if asked == Some(DriverKind::Marathon) {
                let message =
                    format!("{name} cannot go through Marathon: Marathon stands on it, or every node has it");
                resolver.wrong(&at, message, Some("leave `driver` out".into()));
            }
            continue;
        }
        let (Some(_), Some(agent)) = (&marathon, &agent) else {
            if asked == Some(DriverKind::Marathon) {
                let message = format!("{name} cannot go through Marathon: the stack has none");
                resolver.wrong(&at, message, Some("leave `driver` out".into()));
            }
            continue;
        };
        let kind = asked.or(raw.driver).unwrap_or(DriverKind::Marathon);
        if kind == DriverKind::Direct {
            continue;
        }
        let without: Vec<&str> =
            one.nodes.iter().filter(|node| !agent.nodes.contains(node)).map(String::as_str).collect();
        if !without.is_empty() {
            let nodes = without.join(", ");
            if asked.or(raw.driver).is_some() {
                let message = format!("{name} cannot go through Marathon on {nodes}: there is no {AGENT}");
                let instead = format!("add it to components.{AGENT}.nodes, or write driver = \"direct\"");
                resolver.wrong(&at, message, Some(instead));
            } else {
                let message =
                    format!("{name} is placed by meshd itself, not by Marathon: {nodes} has no {AGENT}");
                resolver.warn(&["components", &name], message, None);
            }
            continue;
        }
        offered(resolver, one, agent);
        one.driver = DriverKind::Marathon;
        for before in [MARATHON, AGENT] {
            if !one.component.after.iter().any(|name| name == before) {
                one.component.after.push(before.to_owned());
            }
        }
    }
}

/// A task gets only ports that the agents offer; otherwise it would wait for an offer for ever.
fn offered(resolver: &mut Resolver<'_, '_>, one: &Placed, agent: &Placed) {
    let Some(Value::Text(text)) = agent.settings.get("ports") else { return };
    let ranges: Vec<(u16, u16)> = text
        .split(',')
        .filter_map(|range| range.trim().split_once('-'))
        .filter_map(|(first, last)| Some((first.trim().parse().ok()?, last.trim().parse().ok()?)))
        .collect();
    let name = one.component.name.as_str();
    for (port, number) in &one.ports {
        if !ranges.iter().any(|(first, last)| (*first..=*last).contains(number)) {
            let message = format!("{name}'s port `{port}` is {number}, which no {AGENT} offers to Marathon");
            let instead = format!("add {number}-{number} to components.{AGENT}.settings.ports");
            resolver.wrong(&["components", name, "ports", port], message, Some(instead));
        }
    }
}
