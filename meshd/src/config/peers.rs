//! `[[peer]]`: which paths may lead to a peer.

use std::collections::BTreeMap;

use meshnet::node::PeerPolicy;
use meshnet::path::Use;
use proto::id::Name;
use toml::Spanned;

use super::diagnose::{Findings, example};
use super::raw::RawPeer;
use super::values::{choice, parse_prefix};

/// Most peers that something is said about.
const MAX_PEERS: usize = 256;
/// Most relays or networks that are named for one peer.
const MAX_NAMED: usize = 16;

/// Judges what was written.
pub(super) fn resolve(raw: Vec<RawPeer>, findings: &mut Findings<'_>) -> BTreeMap<Name, PeerPolicy> {
    let mut peers = BTreeMap::new();
    if let Some(over) = raw.get(MAX_PEERS) {
        findings.add(over.name.span(), format!("there are more than {MAX_PEERS} `[[peer]]`"), None);
    }
    for peer in raw {
        let mut policy = PeerPolicy::default();
        let paths = [("any", Use::Any), ("direct", Use::Direct), ("relay", Use::Relay)];
        policy.paths = choice("path", peer.path.clone(), &paths, findings).unwrap_or(policy.paths);
        for item in bounded("via", peer.via.unwrap_or_default(), findings) {
            policy.via.extend(name(&item, "via", findings));
        }
        for item in bounded("forbid", peer.forbid.unwrap_or_default(), findings) {
            if !item.get_ref().contains(['/', ':', '.']) {
                policy.forbidden_relays.extend(name(&item, "forbid", findings));
                continue;
            }
            match parse_prefix(item.get_ref()) {
                Ok(prefix) => policy.forbidden_networks.push(prefix),
                Err(instead) => {
                    let message = format!("`{}` is not a network prefix", item.get_ref());
                    findings.add(item.span(), message, Some(instead));
                }
            }
        }
        if policy.paths == Use::Direct && !policy.via.is_empty() {
            let message = "`via` names relays, but `path = \"direct\"` allows none";
            findings.add(peer.name.span(), message.to_owned(), Some("leave one of the two out".into()));
        }
        let Some(name) = name(&peer.name, "name", findings) else { continue };
        if peers.contains_key(&name) {
            findings.add(peer.name.span(), format!("there are two `[[peer]]` with the name {name}"), None);
        }
        peers.insert(name, policy);
    }
    peers
}

fn name(item: &Spanned<String>, key: &str, findings: &mut Findings<'_>) -> Option<Name> {
    let name = Name::new(item.get_ref()).ok();
    if name.is_none() {
        let message = format!("`{}` is no member's name: use 1 to 63 of a-z, 0-9 and `-`", item.get_ref());
        findings.add(item.span(), message, example(key));
    }
    name
}

fn bounded(key: &str, mut items: Vec<Spanned<String>>, findings: &mut Findings<'_>) -> Vec<Spanned<String>> {
    if let Some(over) = items.get(MAX_NAMED) {
        findings.add(over.span(), format!("`{key}` has more than {MAX_NAMED} items"), None);
    }
    items.truncate(MAX_NAMED);
    items
}
