//! The mesh as this node knows it, to be drawn.

use std::collections::BTreeSet;

use meshnet::node::Node;
use meshnet::route::Graph as Links;
use meshnet::time::Now;
use proto::id::MemberId;

use super::show;
use crate::api::view::{Graph, GraphLink, GraphNode, GraphPath};

/// Members, links that count, and the paths that this node's traffic takes.
pub(super) fn graph(node: &Node, now: Now) -> Graph {
    let view = node.view(now);
    let mut nodes = vec![GraphNode {
        name: view.name.to_string(),
        datacenter: view.datacenter.as_ref().map(ToString::to_string),
        relay: view.relays,
        state: None,
    }];
    let mut paths = Vec::new();
    for peer in view.peers.iter().map(|view| show::peer(node, view)) {
        if let Some(path) = peer.path {
            let name = peer.name.clone();
            paths.push(GraphPath { peer: name, kind: path.kind, via: path.via, rtt_ms: path.rtt_ms });
        }
        let state = Some(peer.state);
        nodes.push(GraphNode { name: peer.name, datacenter: peer.datacenter, relay: peer.relay, state });
    }
    nodes.sort_by(|a, b| a.name.cmp(&b.name));
    Graph { own: view.name.to_string(), nodes, links: links(node, now), paths }
}

fn links(node: &Node, now: Now) -> Vec<GraphLink> {
    let mut announced = Links::new();
    let mut pairs = BTreeSet::new();
    for (member, entry) in node.lsdb().live(now.mono) {
        let links = entry.view().links().map(|link| (link.member, link.cost_us));
        pairs.extend(links.clone().map(|(other, _)| (member.min(other), member.max(other))));
        announced.announce(member, entry.view().relays(), links);
    }
    let name = |member: &MemberId| node.membership().get(*member).map(|known| known.name().to_string());
    let mut links: Vec<GraphLink> = pairs
        .iter()
        .filter_map(|(a, b)| {
            let rtt_ms = f64::from(announced.link(*a, *b)?) / 1000.0;
            Some(GraphLink { a: name(a)?, b: name(b)?, rtt_ms })
        })
        .collect();
    links.sort_by(|a, b| (&a.a, &a.b).cmp(&(&b.a, &b.b)));
    links
}
