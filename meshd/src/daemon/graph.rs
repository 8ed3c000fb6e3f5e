//! The mesh as this node knows it, to be drawn.

use std::collections::BTreeMap;

use meshnet::node::Node;
use meshnet::time::Now;
use proto::id::MemberId;

use super::show;
use crate::api::view::{Graph, GraphLink, GraphNode, GraphPath};

/// Members, links that both ends announce, and the paths that this node's traffic takes.
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
    let mut announced: BTreeMap<(MemberId, MemberId), u32> = BTreeMap::new();
    for (member, entry) in node.lsdb().live(now.mono) {
        for link in &entry.record().links {
            announced.insert((member, link.member), link.cost_us);
        }
    }
    let name = |member: &MemberId| node.membership().get(*member).map(|known| known.name().to_string());
    let mut links: Vec<GraphLink> = announced
        .iter()
        .filter(|((a, b), _)| a < b)
        .filter_map(|((a, b), cost_us)| {
            let back_us = announced.get(&(*b, *a))?;
            let rtt_ms = f64::from(*cost_us.max(back_us)) / 1000.0;
            Some(GraphLink { a: name(a)?, b: name(b)?, rtt_ms })
        })
        .collect();
    links.sort_by(|a, b| (&a.a, &a.b).cmp(&(&b.a, &b.b)));
    links
}
