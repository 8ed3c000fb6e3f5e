//! The underlay: sites with their local networks, translators, and uplinks to an internet that knows no site's inside.
//!
//! A datagram goes to a host of the same site over the local network, or out over the uplink, through the translator
//! if the site has one, and in at the site that owns the destination. On each link on its way it can be late, lost,
//! doubled, or overtaken. Everything random comes from the seed.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, SocketAddr};

use ipnet::IpNet;
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};

use super::nat::Nat;

/// A host in the underlay.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct HostId(pub usize);

/// A site in the underlay.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct SiteId(pub usize);

/// What a link does to datagrams, in one direction.
#[derive(Clone, Copy, PartialEq, Debug)]
pub struct Link {
    /// Least delay in microseconds.
    pub delay_us: u64,
    /// Random delay on top, up to this, in microseconds. Datagrams overtake each other within it.
    pub jitter_us: u64,
    /// Share of datagrams lost.
    pub loss: f64,
    /// Share of datagrams that arrive twice.
    pub duplicate: f64,
    /// Share of datagrams held back by another three delays and jitters, so that many overtake them.
    pub reorder: f64,
    /// Longest IP packet that passes.
    pub mtu: usize,
}

impl Link {
    /// A link with some delay, and a twentieth of it as jitter.
    pub const fn delay_ms(ms: u64) -> Link {
        Link { delay_us: ms * 1000, jitter_us: ms * 50, loss: 0.0, duplicate: 0.0, reorder: 0.0, mtu: 1500 }
    }

    /// The same link with a share of datagrams lost.
    #[must_use]
    pub const fn lossy(self, loss: f64) -> Link {
        Link { loss, ..self }
    }

    /// The same link with shares of datagrams doubled and held back.
    #[must_use]
    pub const fn messy(self, duplicate: f64, reorder: f64) -> Link {
        Link { duplicate, reorder, ..self }
    }
}

/// How a site reaches the others.
#[derive(Clone, Debug)]
pub enum Uplink {
    /// Not at all.
    None,
    /// Its addresses are the internet's.
    Public,
    /// Through a translator.
    Nat(Nat),
}

/// A site: one local network.
#[derive(Clone, Debug)]
pub struct Site {
    /// Addresses of its hosts.
    pub subnets: Vec<IpNet>,
    /// How it reaches the others.
    pub uplink: Uplink,
    /// Whether the uplink works.
    pub up: bool,
    /// The local network.
    pub lan: Link,
    /// The uplink, each way.
    pub wan: Link,
}

/// A host's place in the underlay.
#[derive(Clone, Debug)]
pub struct Host {
    /// Its interfaces, the one with the default route first.
    pub interfaces: Vec<(SiteId, IpAddr)>,
    /// Nothing goes in or out, without anybody being told.
    pub silent: bool,
    /// Of everything else than TCP, nothing goes in or out.
    pub tcp_only: bool,
}

/// A datagram on its way.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Arrival {
    /// When it arrives, in microseconds.
    pub at_us: u64,
    /// Where.
    pub host: HostId,
    /// The UDP source that the receiver sees.
    pub from: SocketAddr,
}

/// Counts of datagrams.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub struct NetStats {
    /// Given to the network.
    pub sent: u64,
    /// Bytes of them.
    pub sent_bytes: u64,
    /// Delivered, each copy counted.
    pub delivered: u64,
    /// Lost by chance.
    pub lost: u64,
    /// With nowhere to go: no such address, uplink down, filtered, blocked, silenced.
    pub unroutable: u64,
    /// Longer than a link's MTU.
    pub too_long: u64,
}

/// The underlay.
#[derive(Debug)]
pub struct Underlay {
    sites: Vec<Site>,
    hosts: Vec<Host>,
    blocked: BTreeSet<(HostId, HostId)>,
    nowhere: BTreeMap<SocketAddr, u64>,
    rng: StdRng,
    stats: NetStats,
}

/// Where a datagram ends up and over which links.
struct Course {
    host: HostId,
    from: SocketAddr,
    links: Vec<Link>,
}

impl Underlay {
    /// Without sites.
    pub fn new(seed: u64) -> Underlay {
        Underlay {
            sites: Vec::new(),
            hosts: Vec::new(),
            blocked: BTreeSet::new(),
            nowhere: BTreeMap::new(),
            rng: StdRng::seed_from_u64(seed),
            stats: NetStats::default(),
        }
    }

    /// Adds a site.
    pub fn add_site(&mut self, site: Site) -> SiteId {
        self.sites.push(site);
        SiteId(self.sites.len() - 1)
    }

    /// Adds a host with its interfaces, the one with the default route first.
    pub fn add_host(&mut self, interfaces: Vec<(SiteId, IpAddr)>) -> HostId {
        self.hosts.push(Host { interfaces, silent: false, tcp_only: false });
        HostId(self.hosts.len() - 1)
    }

    /// A site, to change it.
    pub fn site_mut(&mut self, site: SiteId) -> &mut Site {
        &mut self.sites[site.0]
    }

    /// A site.
    pub fn site(&self, site: SiteId) -> &Site {
        &self.sites[site.0]
    }

    /// A host, to change it.
    pub fn host_mut(&mut self, host: HostId) -> &mut Host {
        &mut self.hosts[host.0]
    }

    /// A host.
    pub fn host(&self, host: HostId) -> &Host {
        &self.hosts[host.0]
    }

    /// Blocks or unblocks all datagrams between two hosts.
    pub fn set_blocked(&mut self, a: HostId, b: HostId, blocked: bool) {
        for pair in [(a, b), (b, a)] {
            if blocked {
                self.blocked.insert(pair);
            } else {
                self.blocked.remove(&pair);
            }
        }
    }

    /// Whether datagrams between two hosts are blocked.
    pub fn is_blocked(&self, a: HostId, b: HostId) -> bool {
        self.blocked.contains(&(a, b))
    }

    /// Datagrams that were sent to an endpoint that is nobody's.
    pub fn sent_to(&self, nobody: SocketAddr) -> u64 {
        self.nowhere.get(&nobody).copied().unwrap_or(0)
    }

    /// What was counted.
    pub fn stats(&self) -> NetStats {
        self.stats
    }

    /// Sends a datagram of `len` bytes from a port of a host. Returns its copies as they arrive: none, one, or two.
    pub fn send(&mut self, now_us: u64, from: HostId, port: u16, to: SocketAddr, len: usize) -> Vec<Arrival> {
        let mut arrivals = self.send_tcp(now_us, from, port, to, len);
        let dropped = self.hosts[from.0].tcp_only;
        arrivals.retain(|arrival| !dropped && !self.hosts[arrival.host.0].tcp_only);
        arrivals
    }

    /// The same for a segment of TCP.
    pub fn send_tcp(
        &mut self,
        now_us: u64,
        from: HostId,
        port: u16,
        to: SocketAddr,
        len: usize,
    ) -> Vec<Arrival> {
        self.stats.sent += 1;
        self.stats.sent_bytes += len as u64;
        let Some(course) = self.course(now_us, from, port, to) else {
            self.stats.unroutable += 1;
            *self.nowhere.entry(to).or_default() += 1;
            return Vec::new();
        };
        let packet_len = len + if to.is_ipv4() { 28 } else { 48 };
        if course.links.iter().any(|link| packet_len > link.mtu) {
            self.stats.too_long += 1;
            return Vec::new();
        }
        if course.links.iter().any(|link| link.loss > 0.0 && self.rng.random_bool(link.loss)) {
            self.stats.lost += 1;
            return Vec::new();
        }
        let twice =
            course.links.iter().any(|link| link.duplicate > 0.0 && self.rng.random_bool(link.duplicate));
        let copies = if twice { 2 } else { 1 };
        self.stats.delivered += copies;
        (0..copies)
            .map(|_| {
                let delay_us: u64 = course.links.iter().map(|link| delay_us(link, &mut self.rng)).sum();
                Arrival { at_us: now_us + delay_us, host: course.host, from: course.from }
            })
            .collect()
    }

    fn course(&mut self, now_us: u64, from: HostId, port: u16, to: SocketAddr) -> Option<Course> {
        let host = &self.hosts[from.0];
        if host.silent {
            return None;
        }
        let of_family = |address: &IpAddr| address.is_ipv4() == to.is_ipv4();
        let local = host.interfaces.iter().find(|(site, address)| {
            of_family(address) && self.sites[site.0].subnets.iter().any(|subnet| subnet.contains(&to.ip()))
        });
        let course = match local {
            Some((site, address)) => {
                let there = self.host_at(*site, to.ip())?;
                let lan = self.sites[site.0].lan;
                Course { host: there, from: SocketAddr::new(*address, port), links: vec![lan] }
            }
            None => {
                let (site, address) = *host.interfaces.iter().find(|(_, address)| of_family(address))?;
                self.course_outside(now_us, site, SocketAddr::new(address, port), to)?
            }
        };
        let reachable = !self.hosts[course.host.0].silent && !self.is_blocked(from, course.host);
        reachable.then_some(course)
    }

    fn course_outside(
        &mut self,
        now_us: u64,
        site: SiteId,
        inside: SocketAddr,
        to: SocketAddr,
    ) -> Option<Course> {
        let here = &mut self.sites[site.0];
        let wan = here.wan;
        if !here.up {
            return None;
        }
        let from = match &mut here.uplink {
            Uplink::None => return None,
            Uplink::Public => inside,
            Uplink::Nat(nat) => nat.outbound(now_us, inside, to)?,
        };
        let owner = self.sites.iter().position(|there| match &there.uplink {
            Uplink::None => false,
            Uplink::Public => there.subnets.iter().any(|subnet| subnet.contains(&to.ip())),
            Uplink::Nat(nat) => nat.public() == to.ip(),
        })?;
        // No translator here sends back in what comes from its own inside.
        if owner == site.0 {
            return None;
        }
        let there = &mut self.sites[owner];
        if !there.up {
            return None;
        }
        let address = match &mut there.uplink {
            Uplink::None => return None,
            Uplink::Public => to.ip(),
            Uplink::Nat(nat) => nat.inbound(now_us, from, to.port())?.ip(),
        };
        let links = vec![wan, there.wan];
        Some(Course { host: self.host_at(SiteId(owner), address)?, from, links })
    }

    fn host_at(&self, site: SiteId, address: IpAddr) -> Option<HostId> {
        self.hosts.iter().position(|host| host.interfaces.contains(&(site, address))).map(HostId)
    }
}

fn delay_us(link: &Link, rng: &mut StdRng) -> u64 {
    let jitter =
        |rng: &mut StdRng| if link.jitter_us == 0 { 0 } else { rng.random_range(0..=link.jitter_us) };
    let mut delay_us = link.delay_us + jitter(rng);
    if link.reorder > 0.0 && rng.random_bool(link.reorder) {
        delay_us += 3 * (link.delay_us + jitter(rng));
    }
    delay_us
}

#[cfg(test)]
mod tests {
    use super::super::nat::NatKind;
    use super::*;

    const PORT: u16 = 4655;

    fn ip(text: &str) -> IpAddr {
        text.parse().unwrap()
    }

    fn site(subnet: &str, uplink: Uplink) -> Site {
        let subnets = vec![subnet.parse().unwrap()];
        Site { subnets, uplink, up: true, lan: Link::delay_ms(0), wan: Link::delay_ms(10) }
    }

    /// A public site with one host, and a home behind a translator with two.
    fn net() -> (Underlay, [HostId; 3]) {
        let mut net = Underlay::new(1);
        let public = net.add_site(site("198.51.100.0/24", Uplink::Public));
        let nat = Nat::new(NatKind::PortRestricted, ip("203.0.113.1"), 60_000_000);
        let home = net.add_site(site("192.168.1.0/24", Uplink::Nat(nat)));
        let hosts = [
            net.add_host(vec![(public, ip("198.51.100.1"))]),
            net.add_host(vec![(home, ip("192.168.1.1"))]),
            net.add_host(vec![(home, ip("192.168.1.2"))]),
        ];
        (net, hosts)
    }

    fn to(address: &str) -> SocketAddr {
        SocketAddr::new(ip(address), PORT)
    }

    #[test]
    fn a_home_reaches_the_world_and_the_world_answers_only() {
        let (mut net, [public, home, _]) = net();
        assert!(net.send(0, public, PORT, to("192.168.1.1"), 100).is_empty());
        assert!(net.send(0, public, PORT, to("203.0.113.1"), 100).is_empty());
        let out = net.send(0, home, PORT, to("198.51.100.1"), 100);
        assert_eq!((out[0].host, out[0].from.ip()), (public, ip("203.0.113.1")));
        assert!((20_000..=21_000).contains(&out[0].at_us));
        let back = net.send(out[0].at_us, public, PORT, out[0].from, 100);
        assert_eq!((back[0].host, back[0].from), (home, to("198.51.100.1")));
        assert!(net.send(out[0].at_us, public, PORT + 1, out[0].from, 100).is_empty());
    }

    #[test]
    fn hosts_of_a_site_talk_without_the_uplink() {
        let (mut net, [_, a, b]) = net();
        net.site_mut(SiteId(1)).up = false;
        let there = net.send(0, a, PORT, to("192.168.1.2"), 100);
        assert_eq!((there[0].host, there[0].from), (b, to("192.168.1.1")));
        assert!(net.send(0, a, PORT, to("198.51.100.1"), 100).is_empty());
    }

    #[test]
    fn silence_blocks_and_long_datagrams() {
        let (mut net, [public, a, b]) = net();
        net.set_blocked(a, b, true);
        assert!(net.send(0, a, PORT, to("192.168.1.2"), 100).is_empty());
        net.set_blocked(a, b, false);
        assert_eq!(net.send(0, a, PORT, to("192.168.1.2"), 1472).len(), 1);
        assert!(net.send(0, a, PORT, to("192.168.1.2"), 1473).is_empty());
        net.host_mut(public).silent = true;
        assert!(net.send(0, a, PORT, to("198.51.100.1"), 100).is_empty());
        assert_eq!((net.stats().sent, net.stats().unroutable, net.stats().too_long), (4, 2, 1));
    }

    #[test]
    fn loss_and_doubling_come_out_as_asked_for_and_equal_for_equal_seeds() {
        let run = || {
            let (mut net, [_, a, _]) = net();
            net.site_mut(SiteId(1)).lan = Link::delay_ms(1).lossy(0.1).messy(0.1, 0.1);
            (0..10_000).flat_map(|i| net.send(i, a, PORT, to("192.168.1.2"), 100)).collect::<Vec<_>>()
        };
        let first = run();
        assert!((9700..10_100).contains(&first.len()), "{}", first.len());
        assert!(first.windows(2).any(|pair| pair[0].at_us > pair[1].at_us));
        assert_eq!(first, run());
    }
}
