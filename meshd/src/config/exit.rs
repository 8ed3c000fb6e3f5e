//! The way to the internet, and the routes and rules of the overlay.

use proto::id::Name;
use toml::Spanned;

use super::Config;
use super::diagnose::{Findings, example};
use super::raw::Raw;
use super::values::{choice, integer};

/// Judges it; after the device, for `fwmark`.
pub(super) fn resolve(raw: &mut Raw, config: &mut Config, findings: &mut Findings<'_>) {
    if let Some(metric) = integer("route_metric", raw.route_metric.take(), 0..=i64::from(u32::MAX), findings)
    {
        config.route_metric = metric as u32;
    }
    // Before the main table's rule, with room for ours.
    if let Some(priority) = integer("rule_priority", raw.rule_priority.take(), 0..=32_750, findings) {
        config.rule_priority = priority as u32;
    }
    config.exit = raw.exit.take().is_some_and(Spanned::into_inner);
    let hidden = [("auto", true), ("off", false)];
    config.exit_nat = choice("exit_nat", raw.exit_nat.take(), &hidden, findings).unwrap_or(config.exit_nat);
    let Some(node) = raw.exit_node.take() else { return };
    match Name::new(node.get_ref()) {
        Ok(name) => config.exit_node = Some(name),
        Err(_) => {
            let message = format!("`{}` is no member's name", node.get_ref());
            return findings.add(node.span(), message, example("exit_node"));
        }
    }
    let (what, instead) = if config.exit {
        ("a node with `exit_node` cannot be an exit itself", "leave one of the two out")
    } else if config.fwmark == 0 {
        (
            "`exit_node` needs a `fwmark`, which keeps the mesh's own packets out of the mesh",
            "leave `fwmark` out",
        )
    } else if config.rule_priority == 0 {
        ("`exit_node` needs rules, which `rule_priority = 0` forbids", "leave `rule_priority` out")
    } else {
        return;
    };
    findings.add(node.span(), what, Some(instead.into()));
}
