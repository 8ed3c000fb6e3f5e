//! The networks and nodes of the demo.
//!
//! ```text
//!   dc-a 10.1.0.0/24          internet 203.0.113.0/24          dc-b 10.2.0.0/24
//!   a1, a2 --- NAT (symmetric) ---+--- ra   rb ---+--- NAT (symmetric) --- b1, b2
//!                                 |
//!                  home 10.3.0.0/24: NAT (port-restricted) --- home
//! ```
//! `ra` and `rb` are the datacentres' public relays. Behind symmetric NATs the datacentres' other nodes cannot reach each
//! other directly, so that their packets must go through a relay.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::path::Path;
use std::time::Duration;

use netlab::mesh::{Member, PathStatus};
use netlab::{Error, Lab, NatKind, ping};

/// The nodes, in the order in which they are shown.
pub(super) const NODES: [Node; 7] = [
    Node { name: "a1", site: Site::DcA, relay: false },
    Node { name: "a2", site: Site::DcA, relay: false },
    Node { name: "ra", site: Site::DcA, relay: true },
    Node { name: "b1", site: Site::DcB, relay: false },
    Node { name: "b2", site: Site::DcB, relay: false },
    Node { name: "rb", site: Site::DcB, relay: true },
    Node { name: "home", site: Site::Home, relay: false },
];

/// The first node, which founds the mesh.
pub(super) const FOUNDER: &str = "ra";

/// How long one echo may take before it is asked for again.
const ECHO_LIMIT: Duration = Duration::from_millis(400);

/// A node of the demo.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Node {
    /// Its name in the mesh, and its machine's.
    pub(super) name: &'static str,
    /// Where it stands.
    pub(super) site: Site,
    /// Whether it has a public address and relays for others.
    pub(super) relay: bool,
}

/// Where nodes stand.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Site {
    /// The first datacentre.
    DcA,
    /// The second datacentre.
    DcB,
    /// A home behind a NAT.
    Home,
}

/// What must lie between two nodes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Expected {
    /// They share a network, or one of them is public.
    Direct,
    /// Only relays reach both.
    Relayed,
}

/// The lab with its members.
#[derive(Debug)]
pub(super) struct Scene {
    lab: Lab,
    members: BTreeMap<&'static str, Member>,
    addresses: BTreeMap<&'static str, IpAddr>,
}

/// Echoes by (from, to); `None` where none came back.
pub(super) type Echoes = BTreeMap<(&'static str, &'static str), Option<Duration>>;

/// Paths by (from, to), for those nodes whose daemon answers.
pub(super) type Paths = BTreeMap<(&'static str, &'static str), Option<PathStatus>>;

impl Site {
    /// The name given to `--datacenter`.
    pub(super) fn name(self) -> &'static str {
        match self {
            Site::DcA => "dc-a",
            Site::DcB => "dc-b",
            Site::Home => "home",
        }
    }
}

/// What must lie between two different nodes of [`NODES`].
pub(super) fn expected(from: Node, to: Node) -> Expected {
    if from.relay || to.relay || from.site == to.site { Expected::Direct } else { Expected::Relayed }
}

impl Scene {
    /// The networks and machines, without daemons.
    ///
    /// # Errors
    /// What keeps the lab from being built.
    pub(super) fn build(binary: &Path) -> Result<Scene, Error> {
        let lab = Lab::new()?;
        let internet = lab.switch("internet")?;
        let mut members = BTreeMap::new();
        let sites = [
            (Site::DcA, 1, NatKind::Symmetric),
            (Site::DcB, 2, NatKind::Symmetric),
            (Site::Home, 3, NatKind::PortRestricted),
        ];
        for (site, number, nat) in sites {
            let inside = lab.switch(site.name())?;
            let gateway = format!("10.{number}.0.254");
            let outside = format!("203.0.113.{number}/24");
            let nat_name = format!("nat-{}", site.name());
            lab.nat(&nat_name, nat, (&inside, &format!("{gateway}/24")), (&internet, &outside))?;
            for (index, node) in (1..).zip(NODES.iter().filter(|node| node.site == site)) {
                let machine = lab.machine(node.name)?;
                if node.relay {
                    machine.plug(&internet, &[&format!("203.0.113.{}/24", number * 10)])?;
                } else {
                    machine.plug(&inside, &[&format!("10.{number}.0.{index}/24")])?;
                    machine.default_route(&gateway)?;
                }
                members.insert(node.name, Member::new(&machine, binary));
            }
        }
        Ok(Scene { lab, members, addresses: BTreeMap::new() })
    }

    /// The public endpoint of a relay.
    pub(super) fn endpoint(node: Node) -> Option<String> {
        let number = match node.site {
            Site::DcA => 10,
            Site::DcB => 20,
            Site::Home => 30,
        };
        node.relay.then(|| format!("203.0.113.{number}:4655"))
    }

    /// A member by its node's name.
    ///
    /// # Panics
    /// For a name that is not in [`NODES`].
    pub(super) fn member(&self, name: &str) -> &Member {
        self.members.get(name).expect("every node of NODES has a member")
    }

    /// As [`Scene::member`].
    ///
    /// # Panics
    /// For a name that is not in [`NODES`].
    pub(super) fn member_mut(&mut self, name: &str) -> &mut Member {
        self.members.get_mut(name).expect("every node of NODES has a member")
    }

    /// Starts a node's daemon and learns its overlay address.
    ///
    /// # Errors
    /// When it does not answer.
    pub(super) fn start(&mut self, node: Node) -> Result<(), Error> {
        let member = self.member_mut(node.name);
        member.up()?;
        let address = member.address(false)?;
        self.addresses.insert(node.name, address);
        Ok(())
    }

    /// A node's overlay address, once it was started.
    pub(super) fn address(&self, name: &str) -> Option<IpAddr> {
        self.addresses.get(name).copied()
    }

    /// One echo from every one of these nodes to every other, all at once.
    ///
    /// # Errors
    /// When no ICMP socket can be made.
    pub(super) fn ping_all(&self, nodes: &[Node]) -> Result<Echoes, Error> {
        std::thread::scope(|scope| {
            let rounds: Vec<_> =
                nodes.iter().map(|from| scope.spawn(|| self.ping_from(*from, nodes))).collect();
            let mut echoes = Echoes::new();
            for round in rounds {
                echoes.extend(round.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))?);
            }
            Ok(echoes)
        })
    }

    fn ping_from(&self, from: Node, nodes: &[Node]) -> Result<Echoes, Error> {
        let targets: Vec<_> = nodes.iter().filter(|to| **to != from).collect();
        self.member(from.name).machine().enter(|| {
            let mut echoes = Echoes::new();
            for to in targets {
                let Some(address) = self.address(to.name) else { continue };
                let answer = ping::burst(address, 1, ECHO_LIMIT)?;
                echoes.insert((from.name, to.name), answer.first().copied().flatten());
            }
            Ok(echoes)
        })?
    }

    /// The paths that these nodes use to each other, as their daemons tell.
    pub(super) fn paths(&self, nodes: &[Node]) -> Paths {
        let mut paths = Paths::new();
        for from in nodes {
            let Ok(status) = self.member(from.name).status() else { continue };
            for to in nodes.iter().filter(|to| *to != from) {
                let peer = status.peers.iter().find(|peer| peer.name == to.name);
                paths.insert((from.name, to.name), peer.and_then(|peer| peer.path.clone()));
            }
        }
        paths
    }

    /// Takes everything down.
    ///
    /// # Errors
    /// [`Error::LeftBehind`] when something stays.
    pub(super) fn take_down(self) -> Result<(), Error> {
        let Scene { lab, members, .. } = self;
        drop(members);
        lab.take_down()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn node(name: &str) -> Node {
        *NODES.iter().find(|node| node.name == name).unwrap()
    }

    #[test]
    fn relays_and_neighbours_are_reached_directly_and_all_others_through_relays() {
        for (from, to, kind) in [
            ("a1", "a2", Expected::Direct),
            ("a1", "ra", Expected::Direct),
            ("home", "rb", Expected::Direct),
            ("ra", "rb", Expected::Direct),
            ("a1", "b1", Expected::Relayed),
            ("b2", "home", Expected::Relayed),
        ] {
            assert_eq!(expected(node(from), node(to)), kind, "{from} {to}");
            assert_eq!(expected(node(to), node(from)), kind, "{to} {from}");
        }
    }
}
