//! Shortest paths over announced links (Dijkstra, "A note on two problems in connexion with graphs", 1959), bounded in
//! the number of relays, with loop-free alternates (RFC 5286).
//!
//! A link counts only when both of its ends announce it, at the dearer of the two announced costs, so that a member can
//! make ways over itself look worse but not better than its neighbour measures. Only members that relay are passed
//! through; everybody can be an end.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet, BinaryHeap};

/// Relays that a packet may pass at most: the relay header's hop limit.
pub const MAX_RELAYS: u8 = 4;

/// Routes kept for one destination.
pub const MAX_ROUTES: usize = 4;

/// Neighbours considered as first hops of alternates, the cheapest links first.
pub const MAX_FIRST_HOPS: usize = 8;

/// What the members announce about their links. `N` names a member.
#[derive(Clone, Debug)]
pub struct Graph<N> {
    announced: BTreeMap<N, BTreeMap<N, u32>>,
    relays: BTreeSet<N>,
}

impl<N: Copy + Ord> Graph<N> {
    /// A graph without members.
    pub fn new() -> Self {
        Self { announced: BTreeMap::new(), relays: BTreeSet::new() }
    }

    /// Adds or replaces what `member` announces: whether packets may pass through it, and its links with their costs in
    /// microseconds. A cost of zero counts as one. A member's link to itself is ignored.
    pub fn announce(&mut self, member: N, relays: bool, links: impl IntoIterator<Item = (N, u32)>) {
        let links = links.into_iter().filter(|(to, _)| *to != member);
        self.announced.insert(member, links.map(|(to, cost_us)| (to, cost_us.max(1))).collect());
        if relays {
            self.relays.insert(member);
        } else {
            self.relays.remove(&member);
        }
    }

    /// Cost of the link between two members, or `None` unless both announce it.
    pub fn link(&self, a: N, b: N) -> Option<u32> {
        let there = self.announced.get(&a)?.get(&b)?;
        let back = self.announced.get(&b)?.get(&a)?;
        Some(*there.max(back))
    }
}

impl<N: Copy + Ord> Default for Graph<N> {
    fn default() -> Self {
        Self::new()
    }
}

/// A way to a destination.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub struct Route<N> {
    /// Sum of the links' costs in microseconds, saturating.
    pub cost_us: u32,
    /// Members that the packet passes through; zero for a neighbour.
    pub relays: u8,
    /// The neighbour that gets the packet: a relay, or the destination itself.
    pub first_hop: N,
}

/// The ways from one member to all others that it can reach.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct ShortestPaths<N> {
    routes: BTreeMap<N, Vec<Route<N>>>,
}

impl<N: Copy + Ord> ShortestPaths<N> {
    /// Computes the ways from `source` over at most `max_relays` relays.
    ///
    /// The first route of a destination is the shortest (then the one over fewer relays, then over the smallest first
    /// hop). Those behind it are loop-free alternates: their first hop's own shortest way does not lead back over
    /// `source` (inequality 1 of RFC 5286). All have different first hops.
    pub fn compute(graph: &Graph<N>, source: N, max_relays: u8) -> Self {
        let topology = Topology::new(graph, source);
        let Some(start) = topology.index(source) else { return Self { routes: BTreeMap::new() } };
        let max_links = u32::from(max_relays) + 1;
        let best = topology.search(start, max_links);

        let mut found: Vec<Vec<Route<usize>>> = best
            .iter()
            .map(|labels| {
                let route = |label: &Label| Route {
                    cost_us: label.cost_us,
                    relays: (label.links - 1) as u8,
                    first_hop: label.first_hop,
                };
                labels.first().map(route).into_iter().collect()
            })
            .collect();

        for (via, link_us) in topology.first_hops(start) {
            let onward = topology.search(via, max_links);
            let back_us = cheapest(&onward[start], max_links).map(|label| label.cost_us);
            for (destination, routes) in found.iter_mut().enumerate() {
                let here = if destination == via {
                    Some(Label { cost_us: 0, links: 0, first_hop: via })
                } else {
                    cheapest(&onward[destination], max_links - 1)
                };
                let (Some(here), Some(best)) = (here, best[destination].first()) else { continue };
                if destination == start || routes.iter().any(|route| route.first_hop == via) {
                    continue;
                }
                let loops = topology.relays[start]
                    && back_us.is_some_and(|back_us| {
                        // The neighbour chooses without regard to the links that the packet has left.
                        cheapest(&onward[destination], max_links)
                            .is_some_and(|own| own.cost_us >= back_us.saturating_add(best.cost_us))
                    });
                if !loops {
                    let cost_us = link_us.saturating_add(here.cost_us);
                    routes.push(Route { cost_us, relays: here.links as u8, first_hop: via });
                }
            }
        }

        let mut routes = BTreeMap::new();
        for (destination, mut ways) in found.into_iter().enumerate() {
            // The first stays first: no alternate is cheaper, and equal ones have lost the tie already.
            if ways.len() > 1 {
                ways[1..].sort_unstable();
                ways.truncate(MAX_ROUTES);
            }
            if !ways.is_empty() && destination != start {
                let named = ways.into_iter().map(|way| Route {
                    cost_us: way.cost_us,
                    relays: way.relays,
                    first_hop: topology.names[way.first_hop],
                });
                routes.insert(topology.names[destination], named.collect());
            }
        }
        Self { routes }
    }

    /// The shortest way to `destination`.
    pub fn best(&self, destination: N) -> Option<Route<N>> {
        self.routes(destination).first().copied()
    }

    /// All ways to `destination`, the shortest first; empty where it cannot be reached.
    pub fn routes(&self, destination: N) -> &[Route<N>] {
        self.routes.get(&destination).map_or(&[], Vec::as_slice)
    }

    /// Destinations that can be reached, ascending, each with its ways.
    pub fn iter(&self) -> impl Iterator<Item = (N, &[Route<N>])> + '_ {
        self.routes.iter().map(|(destination, ways)| (*destination, ways.as_slice()))
    }
}

impl<N> Default for ShortestPaths<N> {
    /// Nothing can be reached.
    fn default() -> Self {
        Self { routes: BTreeMap::new() }
    }
}

/// A way found from the start of a search to some member.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
struct Label {
    cost_us: u32,
    links: u32,
    first_hop: usize,
}

/// The cheapest way of at most `max_links` links.
fn cheapest(labels: &[Label], max_links: u32) -> Option<Label> {
    labels.iter().find(|label| label.links <= max_links).copied()
}

/// The graph with members numbered in the order of their ids, and only the links that both ends announce.
struct Topology<N> {
    names: Vec<N>,
    relays: Vec<bool>,
    links: Vec<Vec<(usize, u32)>>,
}

impl<N: Copy + Ord> Topology<N> {
    fn new(graph: &Graph<N>, source: N) -> Self {
        let mut names: Vec<N> = graph.announced.keys().copied().collect();
        if let Err(at) = names.binary_search(&source) {
            names.insert(at, source);
        }
        let links = names
            .iter()
            .map(|from| {
                let announced = graph.announced.get(from).into_iter().flatten();
                announced
                    .filter_map(|(to, _)| Some((names.binary_search(to).ok()?, graph.link(*from, *to)?)))
                    .collect()
            })
            .collect();
        let relays = names.iter().map(|name| graph.relays.contains(name)).collect();
        Self { names, relays, links }
    }

    fn index(&self, name: N) -> Option<usize> {
        self.names.binary_search(&name).ok()
    }

    /// The relays next to `start`, cheapest link first.
    fn first_hops(&self, start: usize) -> Vec<(usize, u32)> {
        let mut hops: Vec<_> = self.links[start].iter().copied().filter(|(to, _)| self.relays[*to]).collect();
        hops.sort_unstable_by_key(|(to, cost_us)| (*cost_us, *to));
        hops.truncate(MAX_FIRST_HOPS);
        hops
    }

    /// For every member the ways from `start` that no other beats in both cost and links, cheapest first.
    ///
    /// Settling labels in the order (cost, links) means that a later label of the same member is only of use if it has
    /// fewer links; so a member has at most `max_links` labels.
    fn search(&self, start: usize, max_links: u32) -> Vec<Vec<Label>> {
        let mut settled: Vec<Vec<Label>> = vec![Vec::new(); self.names.len()];
        let mut queue = BinaryHeap::new();
        for (to, cost_us) in &self.links[start] {
            queue.push(Reverse((Label { cost_us: *cost_us, links: 1, first_hop: *to }, *to)));
        }
        while let Some(Reverse((label, at))) = queue.pop() {
            if at == start || settled[at].last().is_some_and(|last| last.links <= label.links) {
                continue;
            }
            settled[at].push(label);
            if !self.relays[at] || label.links == max_links {
                continue;
            }
            for (to, cost_us) in &self.links[at] {
                let cost_us = label.cost_us.saturating_add(*cost_us);
                queue.push(Reverse((Label { cost_us, links: label.links + 1, ..label }, *to)));
            }
        }
        settled
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// A graph from links announced by both ends, and its relays.
    fn graph(relays: &[u8], links: &[(u8, u8, u32)]) -> Graph<u8> {
        let mut announced: BTreeMap<u8, BTreeMap<u8, u32>> = BTreeMap::new();
        for (a, b, cost_us) in links {
            announced.entry(*a).or_default().insert(*b, *cost_us);
            announced.entry(*b).or_default().insert(*a, *cost_us);
        }
        let mut graph = Graph::new();
        for (member, links) in announced {
            graph.announce(member, relays.contains(&member), links);
        }
        graph
    }

    fn route(cost_us: u32, relays: u8, first_hop: u8) -> Route<u8> {
        Route { cost_us, relays, first_hop }
    }

    #[test]
    fn a_link_counts_only_when_both_ends_announce_it_at_the_dearer_cost() {
        let mut graph = Graph::new();
        graph.announce(1, false, [(2, 10)]);
        assert_eq!(ShortestPaths::compute(&graph, 1, MAX_RELAYS).best(2), None);
        graph.announce(2, false, [(1, 3)]);
        assert_eq!(ShortestPaths::compute(&graph, 1, MAX_RELAYS).best(2), Some(route(10, 0, 2)));
        graph.announce(2, false, []);
        assert_eq!(ShortestPaths::compute(&graph, 1, MAX_RELAYS).best(2), None);
    }

    #[test]
    fn only_relays_are_passed_through() {
        let links = [(1, 2, 1), (2, 3, 1), (1, 4, 5), (4, 3, 5)];
        let paths = ShortestPaths::compute(&graph(&[4], &links), 1, MAX_RELAYS);
        assert_eq!(paths.routes(3), [route(10, 1, 4)]);
        let paths = ShortestPaths::compute(&graph(&[2, 4], &links), 1, MAX_RELAYS);
        assert_eq!(paths.routes(3), [route(2, 1, 2), route(10, 1, 4)]);
    }

    #[test]
    fn a_dearer_way_is_taken_where_the_cheaper_passes_too_many_relays() {
        let links = [(1, 2, 1), (2, 3, 1), (3, 4, 1), (4, 5, 1), (1, 6, 50), (6, 5, 50)];
        let graph = graph(&[2, 3, 4, 6], &links);
        assert_eq!(ShortestPaths::compute(&graph, 1, 3).best(5), Some(route(4, 3, 2)));
        assert_eq!(ShortestPaths::compute(&graph, 1, 2).best(5), Some(route(100, 1, 6)));
        assert_eq!(ShortestPaths::compute(&graph, 1, 0).best(5), None);
    }

    #[test]
    fn an_alternate_whose_own_way_leads_back_is_refused() {
        // From 1, the neighbour 2 reaches 3 best over 1 itself, unless 1 does not relay.
        let links = [(1, 3, 1), (1, 2, 1), (2, 3, 10)];
        assert_eq!(ShortestPaths::compute(&graph(&[1, 2], &links), 1, 4).routes(3), [route(1, 0, 3)]);
        let leaf = ShortestPaths::compute(&graph(&[2], &links), 1, 4);
        assert_eq!(leaf.routes(3), [route(1, 0, 3), route(11, 1, 2)]);
    }

    #[test]
    fn routes_and_first_hops_are_bounded_and_the_source_is_no_destination() {
        let relays: Vec<u8> = (10..30).collect();
        let links: Vec<_> = relays.iter().flat_map(|r| [(1, *r, 10), (*r, 2, 10)]).collect();
        let paths = ShortestPaths::compute(&graph(&relays, &links), 1, MAX_RELAYS);
        assert_eq!(paths.routes(2).len(), MAX_ROUTES);
        assert_eq!(paths.best(2), Some(route(20, 1, 10)));
        assert_eq!(paths.best(1), None);
        assert_eq!(ShortestPaths::compute(&Graph::new(), 1, 4).iter().count(), 0);
    }

    /// Rounds of relaxation: after round n, the cheapest way of at most n links (Bellman 1958, Ford 1956).
    fn bellman_ford(graph: &Graph<u8>, source: u8, max_links: u32) -> BTreeMap<u8, u64> {
        let mut cost: BTreeMap<u8, u64> = BTreeMap::from([(source, 0)]);
        for _ in 0..max_links {
            let before = cost.clone();
            for (from, to) in
                graph.announced.iter().flat_map(|(from, to)| to.keys().map(move |to| (*from, *to)))
            {
                let passes = from == source || graph.relays.contains(&from);
                if let (true, Some(link), Some(so_far)) = (passes, graph.link(from, to), before.get(&from)) {
                    let way = so_far + u64::from(link);
                    cost.entry(to).and_modify(|cost| *cost = way.min(*cost)).or_insert(way);
                }
            }
        }
        cost.remove(&source);
        cost
    }

    fn any_graph() -> impl Strategy<Value = Graph<u8>> {
        let member = (any::<bool>(), proptest::collection::btree_map(0u8..10, 0u32..20, 0..10));
        proptest::collection::btree_map(0u8..10, member, 0..10).prop_map(|members| {
            let mut graph = Graph::new();
            for (member, (relays, links)) in members {
                graph.announce(member, relays, links);
            }
            graph
        })
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(512))]

        #[test]
        fn costs_agree_with_bellman_ford_in_rounds(graph in any_graph(), max_relays in 0u8..6) {
            let paths = ShortestPaths::compute(&graph, 0, max_relays);
            let model = bellman_ford(&graph, 0, u32::from(max_relays) + 1);
            let found: BTreeMap<u8, u64> =
                paths.iter().map(|(destination, ways)| (destination, u64::from(ways[0].cost_us))).collect();
            prop_assert_eq!(found, model);
        }

        /// Follows each route as relays forward: the first hop as told, then everybody's own best.
        #[test]
        fn every_route_leads_to_its_destination_without_passing_the_source_again(graph in any_graph()) {
            let own: Vec<_> = (0..10).map(|n| ShortestPaths::compute(&graph, n, 9)).collect();
            for (destination, ways) in own[0].iter() {
                let mut hops = BTreeSet::new();
                for way in ways {
                    prop_assert!(hops.insert(way.first_hop), "two ways over one first hop");
                    prop_assert!(way.cost_us >= ways[0].cost_us);
                    let (mut at, mut relays) = (way.first_hop, 0);
                    while at != destination {
                        prop_assert!(graph.relays.contains(&at));
                        relays += 1;
                        prop_assert!(relays < 10, "a loop towards {}", destination);
                        at = own[usize::from(at)].best(destination).expect("a relay knows the way").first_hop;
                        prop_assert!(at != 0, "back at the source towards {}", destination);
                    }
                    prop_assert_eq!(relays, way.relays);
                }
            }
        }
    }
}
