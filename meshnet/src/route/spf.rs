//! Shortest paths over announced links (Dijkstra, "A note on two problems in connexion with graphs", 1959), bounded in
//! the number of relays, with loop-free alternates (RFC 5286).
//!
//! A link counts only when both of its ends announce it, at the dearer of the two announced costs, so that a member can
//! make ways over itself look worse but not better than its neighbour measures. Only members that relay are passed
//! through; everybody can be an end.
//!
//! A link between a relay and a member that does not relay is an *attachment*: the member's word is enough, since no way
//! but the one to itself leads over it, and the relay speaks up only when it has lost the member ([`LOST`]). So a relay's
//! announcement does not grow with the members that it serves, nor change when they come.
//!
//! The search is over relays alone. Ways to other members are put together from their attachments when they are asked
//! for, so that a change costs no more in a mesh of ten thousand members than in one of its relays.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet, BinaryHeap};

/// Relays that a packet may pass at most: the relay header's hop limit.
pub const MAX_RELAYS: u8 = 4;

/// Routes kept for one destination.
pub const MAX_ROUTES: usize = 4;

/// Neighbours considered as first hops of alternates, the cheapest links first.
pub const MAX_FIRST_HOPS: usize = 8;

/// Cost of a link that a member says it has lost.
pub const LOST: u32 = u32::MAX;

/// What the members announce about their links. `N` names a member.
#[derive(Clone, Debug)]
pub struct Graph<N> {
    /// Ascending by the other end.
    announced: BTreeMap<N, Box<[(N, u32)]>>,
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
        let mut links: Vec<(N, u32)> = links.map(|(to, cost_us)| (to, cost_us.max(1))).collect();
        // Of two links to one member the last counts.
        links.reverse();
        links.sort_by_key(|(to, _)| *to);
        links.dedup_by_key(|(to, _)| *to);
        self.announced.insert(member, links.into_boxed_slice());
        if relays {
            self.relays.insert(member);
        } else {
            self.relays.remove(&member);
        }
    }

    /// Cost of the link between two members, or `None` unless it counts.
    pub fn link(&self, a: N, b: N) -> Option<u32> {
        let said = |by: N, of: N| self.said(by, of);
        let relays = |member: N| self.relays.contains(&member);
        let cost_us = match (said(a, b), said(b, a)) {
            (Some(there), Some(back)) => there.max(back),
            (Some(there), None) if relays(b) && !relays(a) && self.announced.contains_key(&b) => there,
            (None, Some(back)) if relays(a) && !relays(b) && self.announced.contains_key(&a) => back,
            _ => return None,
        };
        (cost_us != LOST).then_some(cost_us)
    }

    /// What one member says of its link to another.
    fn said(&self, by: N, of: N) -> Option<u32> {
        let links = self.announced.get(&by)?;
        let at = links.binary_search_by_key(&of, |(to, _)| *to).ok()?;
        links.get(at).map(|(_, cost_us)| *cost_us)
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
    /// The source and all relays, ascending; what follows names them by their position here.
    names: Vec<N>,
    start: usize,
    start_relays: bool,
    max_links: u32,
    /// Ways from the source.
    best: Ways,
    /// Ways from the relays next to it.
    alternates: Vec<Alternate>,
    attached: Attached<N>,
    /// Members next to the source of which neither relays.
    beside: BTreeMap<N, u32>,
}

/// The attachments of all who are no relays: mostly two or three for each, of ten thousand.
#[derive(Clone, PartialEq, Eq, Debug)]
struct Attached<N> {
    /// Ascending, each with the end of what is its own in `links`.
    members: Vec<(N, u32)>,
    /// Relays, by position, and the cost of the link in microseconds.
    links: Vec<(u32, u32)>,
}

impl<N: Copy + Ord> Attached<N> {
    /// Adds a member greater than those before.
    fn push(&mut self, member: N, to_relays: impl Iterator<Item = (u32, u32)>) {
        let before = self.links.len();
        self.links.extend(to_relays);
        if self.links.len() > before {
            self.members.push((member, self.links.len() as u32));
        }
    }

    fn of(&self, member: N) -> &[(u32, u32)] {
        let Ok(at) = self.members.binary_search_by_key(&member, |(name, _)| *name) else { return &[] };
        let end = |at: usize| self.members.get(at).map_or(0, |(_, end)| *end as usize);
        let start = at.checked_sub(1).map_or(0, end);
        self.links.get(start..end(at)).unwrap_or_default()
    }

    fn shrink(&mut self) {
        self.members.shrink_to_fit();
        self.links.shrink_to_fit();
    }
}

impl<N> Default for Attached<N> {
    fn default() -> Self {
        Self { members: Vec::new(), links: Vec::new() }
    }
}

/// For every relay the ways from one member that no other beats in both cost and links, cheapest first.
type Ways = Vec<Vec<Label>>;

#[derive(Clone, PartialEq, Eq, Debug)]
struct Alternate {
    via: usize,
    link_us: u32,
    onward: Ways,
    back_us: Option<u32>,
}

impl<N: Copy + Ord> ShortestPaths<N> {
    /// Computes the ways from `source` over at most `max_relays` relays.
    pub fn compute(graph: &Graph<N>, source: N, max_relays: u8) -> Self {
        let topology = Topology::new(graph, source);
        let start = topology.index(source).expect("the source is part of it");
        let max_links = u32::from(max_relays) + 1;
        let alternates = topology
            .first_hops(start)
            .into_iter()
            .map(|(via, link_us)| {
                let onward = topology.search(via, max_links);
                let back_us = cheapest(&onward[start], max_links).map(|label| label.cost_us);
                Alternate { via, link_us, onward, back_us }
            })
            .collect();
        let best = topology.search(start, max_links);
        let start_relays = topology.relays[start];
        let mut attached = Attached::default();
        let mut beside = BTreeMap::new();
        for (member, links) in &graph.announced {
            if topology.index(*member).is_some() {
                continue;
            }
            let to_relays = links.iter().filter_map(|(to, _)| {
                let at = topology.index(*to).filter(|at| topology.relays[*at])?;
                Some((at as u32, graph.link(*member, *to)?))
            });
            attached.push(*member, to_relays);
            if !start_relays && let Some(cost_us) = graph.link(*member, source) {
                beside.insert(*member, cost_us);
            }
        }
        attached.shrink();
        let names = topology.names;
        Self { names, start, start_relays, max_links, best, alternates, attached, beside }
    }

    /// The shortest way to `destination`.
    pub fn best(&self, destination: N) -> Option<Route<N>> {
        let label = *self.labels(&self.best, self.start, destination).first()?;
        Some(self.route(label, destination))
    }

    /// All ways to `destination`, the shortest first; empty where it cannot be reached.
    ///
    /// The first is the shortest (then the one over fewer relays, then over the smallest first hop). Those behind it are
    /// loop-free alternates: their first hop's own shortest way does not lead back over the source (inequality 1 of RFC
    /// 5286). All have different first hops, and there are at most [`MAX_ROUTES`].
    pub fn routes(&self, destination: N) -> Vec<Route<N>> {
        let Some(best) = self.labels(&self.best, self.start, destination).first().copied() else {
            return Vec::new();
        };
        let mut ways = vec![self.route(best, destination)];
        for Alternate { via, link_us, onward, back_us } in &self.alternates {
            let first_hop = self.names[*via];
            let onward = self.labels(onward, *via, destination);
            let here = if destination == first_hop {
                Some(Label { cost_us: 0, links: 0, first_hop: Hop::Core(*via) })
            } else {
                cheapest(&onward, self.max_links - 1)
            };
            let taken = ways.iter().any(|way| way.first_hop == first_hop);
            let Some(here) = here.filter(|_| !taken) else { continue };
            let loops = self.start_relays
                && back_us.is_some_and(|back_us| {
                    // The neighbour chooses without regard to the links that the packet has left.
                    cheapest(&onward, self.max_links)
                        .is_some_and(|own| own.cost_us >= back_us.saturating_add(best.cost_us))
                });
            if !loops {
                let cost_us = link_us.saturating_add(here.cost_us);
                ways.push(Route { cost_us, relays: here.links as u8, first_hop });
            }
        }
        // The first stays first: no alternate is cheaper, and equal ones have lost the tie already.
        ways[1..].sort_unstable();
        ways.truncate(MAX_ROUTES);
        ways
    }

    /// Destinations that can be reached, ascending, each with its ways.
    pub fn iter(&self) -> impl Iterator<Item = (N, Vec<Route<N>>)> + '_ {
        let attached = self.attached.members.iter().map(|(member, _)| *member);
        let all: BTreeSet<N> =
            self.names.iter().copied().chain(attached).chain(self.beside.keys().copied()).collect();
        all.into_iter().map(|member| (member, self.routes(member))).filter(|(_, ways)| !ways.is_empty())
    }

    /// The ways to `destination` in the result of a search from `from`, cheapest first.
    fn labels(&self, ways: &Ways, from: usize, destination: N) -> Vec<Label> {
        if let Ok(at) = self.names.binary_search(&destination) {
            return if at == self.start && from == self.start { Vec::new() } else { ways[at].clone() };
        }
        let mut labels = Vec::new();
        for (relay, link_us) in self.attached.of(destination) {
            let relay = *relay as usize;
            if relay == from {
                labels.push(Label { cost_us: *link_us, links: 1, first_hop: Hop::Attached });
            }
            let onward = ways[relay].iter().filter(|label| label.links < self.max_links && relay != from);
            labels.extend(onward.map(|label| Label {
                cost_us: label.cost_us.saturating_add(*link_us),
                links: label.links + 1,
                first_hop: label.first_hop,
            }));
        }
        if from == self.start
            && let Some(cost_us) = self.beside.get(&destination)
        {
            labels.push(Label { cost_us: *cost_us, links: 1, first_hop: Hop::Attached });
        }
        labels.sort_unstable();
        let mut fewest = u32::MAX;
        labels.retain(|label| {
            let better = label.links < fewest;
            fewest = fewest.min(label.links);
            better
        });
        labels
    }

    fn route(&self, label: Label, destination: N) -> Route<N> {
        let first_hop = match label.first_hop {
            Hop::Core(at) => self.names[at],
            Hop::Attached => destination,
        };
        Route { cost_us: label.cost_us, relays: (label.links - 1) as u8, first_hop }
    }
}

impl<N> Default for ShortestPaths<N> {
    /// Nothing can be reached.
    fn default() -> Self {
        Self {
            names: Vec::new(),
            start: 0,
            start_relays: false,
            max_links: 1,
            best: Vec::new(),
            alternates: Vec::new(),
            attached: Attached::default(),
            beside: BTreeMap::new(),
        }
    }
}

/// A way found from the start of a search to some member.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
struct Label {
    cost_us: u32,
    links: u32,
    first_hop: Hop,
}

/// The neighbour that a way begins with: a relay, or the source of the ways, by position, or the destination itself.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
enum Hop {
    Core(usize),
    Attached,
}

/// The cheapest way of at most `max_links` links.
fn cheapest(labels: &[Label], max_links: u32) -> Option<Label> {
    labels.iter().find(|label| label.links <= max_links).copied()
}

/// The relays and the source, numbered in the order of their ids, and only the links that count.
struct Topology<N> {
    names: Vec<N>,
    relays: Vec<bool>,
    links: Vec<Vec<(usize, u32)>>,
}

impl<N: Copy + Ord> Topology<N> {
    fn new(graph: &Graph<N>, source: N) -> Self {
        let mut names: Vec<N> = graph.relays.iter().copied().collect();
        if let Err(at) = names.binary_search(&source) {
            names.insert(at, source);
        }
        let mut links = vec![Vec::new(); names.len()];
        for (from, name) in names.iter().enumerate() {
            for (to, _) in graph.announced.get(name).into_iter().flatten() {
                let Some((at, cost_us)) = names.binary_search(to).ok().zip(graph.link(*name, *to)) else {
                    continue;
                };
                links[from].push((at, cost_us));
                let back = graph.said(*to, *name).is_some();
                if !back {
                    links[at].push((from, cost_us));
                }
            }
        }
        links.iter_mut().for_each(|links: &mut Vec<(usize, u32)>| links.sort_unstable());
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
            queue.push(Reverse((Label { cost_us: *cost_us, links: 1, first_hop: Hop::Core(*to) }, *to)));
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
    fn a_member_attaches_itself_to_a_relay_until_the_relay_has_lost_it() {
        let mut graph = Graph::new();
        graph.announce(1, true, []);
        graph.announce(2, false, [(1, 7)]);
        assert_eq!(ShortestPaths::compute(&graph, 1, MAX_RELAYS).routes(2), [route(7, 0, 2)]);
        assert_eq!(ShortestPaths::compute(&graph, 2, MAX_RELAYS).routes(1), [route(7, 0, 1)]);
        graph.announce(3, false, [(1, 5)]);
        assert_eq!(ShortestPaths::compute(&graph, 2, MAX_RELAYS).routes(3), [route(12, 1, 1)]);
        graph.announce(1, true, [(3, LOST), (2, 9)]);
        assert_eq!(ShortestPaths::compute(&graph, 2, MAX_RELAYS).routes(3), []);
        assert_eq!(ShortestPaths::compute(&graph, 2, MAX_RELAYS).routes(1), [route(9, 0, 1)]);
        // A relay cannot attach others, nor itself to another relay, nor somebody to one that says nothing.
        let mut graph = Graph::new();
        graph.announce(1, true, [(2, 7), (3, 7)]);
        graph.announce(2, false, [(9, 1)]);
        graph.announce(3, true, []);
        assert_eq!(ShortestPaths::compute(&graph, 1, MAX_RELAYS).iter().count(), 0);
        assert_eq!(ShortestPaths::compute(&graph, 2, MAX_RELAYS).iter().count(), 0);
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
            for (from, to) in (0..10).flat_map(|from| (0..10).map(move |to| (from, to))) {
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
                for way in &ways {
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
