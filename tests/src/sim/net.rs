//! The underlay: sites with their local networks, translators, and uplinks to an internet that knows no site's inside.
//!
//! A datagram goes to a host of the same site over the local network, or out over the uplink, through the translator
//! if the site has one, and in at the site that owns the destination. On each link on its way it can be late, lost,
//! doubled, or overtaken; if it is too long for a link it ends there, and its sender may be told. Everything random comes
//! from the seed.

use std::collections::{BTreeMap, BTreeSet, HashMap};
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
    /// Longest IP packet that passes. Segments of TCP are never longer: TCP finds that out by itself.
    pub mtu: usize,
    /// Whether it tells the senders of longer ones by ICMP; else they vanish.
    pub answers: bool,
}

impl Link {
    /// A link with some delay, and a twentieth of it as jitter.
    pub const fn delay_ms(ms: u64) -> Link {
        Link {
            delay_us: ms * 1000,
            jitter_us: ms * 50,
            loss: 0.0,
            duplicate: 0.0,
            reorder: 0.0,
            mtu: 1500,
            answers: false,
        }
    }

    /// The same link with a share of datagrams lost.
    #[must_use]
    pub const fn lossy(self, loss: f64) -> Link {
        Link { loss, ..self }
    }

    /// The same link with another MTU, of which it tells or not.
    #[must_use]
    pub const fn narrow(self, mtu: usize, answers: bool) -> Link {
        Link { mtu, answers, ..self }
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
    /// The local network lets no host reach another, as for guests.
    pub isolated: bool,
    /// Its translator sends back in what comes from its inside for its own address (RFC 4787, section 6).
    pub hairpin: bool,
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

/// What the sender of a datagram hears that was too long for a link.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct TooLong {
    /// When, in microseconds.
    pub at_us: u64,
    /// The longest IP packet that would have passed that link.
    pub mtu: usize,
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
    /// Where each host was found last.
    places: HashMap<(SiteId, IpAddr), HostId>,
    blocked: BTreeSet<(HostId, HostId)>,
    nowhere: BTreeMap<SocketAddr, u64>,
    answer: Option<TooLong>,
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
            places: HashMap::new(),
            blocked: BTreeSet::new(),
            nowhere: BTreeMap::new(),
            answer: None,
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

    /// Blocks or unblocks all datagrams from one host to another.
    pub fn set_blocked_towards(&mut self, from: HostId, to: HostId, blocked: bool) {
        if blocked {
            self.blocked.insert((from, to));
        } else {
            self.blocked.remove(&(from, to));
        }
    }

    /// Unblocks all.
    pub fn unblock_all(&mut self) {
        self.blocked.clear();
    }

    /// Number of sites.
    pub fn site_count(&self) -> usize {
        self.sites.len()
    }

    /// Whether datagrams from one host to another are blocked.
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
        let mut arrivals = self.carry(now_us, from, port, to, len, true);
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
        self.carry(now_us, from, port, to, len, false)
    }

    /// What a link has to say about the datagram that was sent last.
    pub fn take_answer(&mut self) -> Option<TooLong> {
        self.answer.take()
    }

    /// Brings `len` bytes to where they go, in one piece if they must be `whole`.
    fn carry(
        &mut self,
        now_us: u64,
        from: HostId,
        port: u16,
        to: SocketAddr,
        len: usize,
        whole: bool,
    ) -> Vec<Arrival> {
        self.answer = None;
        self.stats.sent += 1;
        self.stats.sent_bytes += len as u64;
        let Some(course) = self.course(now_us, from, port, to) else {
            self.stats.unroutable += 1;
            *self.nowhere.entry(to).or_default() += 1;
            return Vec::new();
        };
        let packet_len = len + if to.is_ipv4() { 28 } else { 48 };
        if let Some(at) = course.links.iter().position(|link| whole && packet_len > link.mtu) {
            self.stats.too_long += 1;
            let link = course.links[at];
            if link.answers {
                // Its router is at the near end of the link.
                let there_us: u64 = course.links[..at].iter().map(|link| link.delay_us).sum();
                self.answer = Some(TooLong { at_us: now_us + 2 * there_us, mtu: link.mtu });
            }
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

    /// What a host says to a multicast group of its local networks, as it arrives at the others there, in both families.
    pub fn announce(&mut self, now_us: u64, from: HostId, port: u16, len: usize) -> Vec<Arrival> {
        let mut arrivals = Vec::new();
        for (site, address) in self.hosts[from.0].interfaces.clone() {
            let family = address.is_ipv4();
            let there = |host: &Host| {
                host.interfaces
                    .iter()
                    .find(|(at, ip)| *at == site && ip.is_ipv4() == family)
                    .map(|(_, ip)| *ip)
            };
            let others: Vec<IpAddr> = (0..self.hosts.len())
                .filter(|at| *at != from.0)
                .filter_map(|at| there(&self.hosts[at]))
                .collect();
            for to in others {
                arrivals.extend(self.send(now_us, from, port, SocketAddr::new(to, port), len));
            }
        }
        arrivals
    }

    fn course(&mut self, now_us: u64, from: HostId, port: u16, to: SocketAddr) -> Option<Course> {
        let host = &self.hosts[from.0];
        if host.silent {
            return None;
        }
        let of_family = |address: &IpAddr| address.is_ipv4() == to.is_ipv4();
        let local = host.interfaces.iter().find(|(site, address)| {
            !self.sites[site.0].isolated
                && of_family(address)
                && self.sites[site.0].subnets.iter().any(|subnet| subnet.contains(&to.ip()))
        });
        let course = match local {
            Some((site, address)) => {
                let (site, address) = (*site, *address);
                let there = self.host_at(site, to.ip())?;
                let lan = self.sites[site.0].lan;
                Course { host: there, from: SocketAddr::new(address, port), links: vec![lan] }
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
        if owner == site.0 && !self.sites[owner].hairpin {
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
        // What is sent back in does not go over the uplink.
        let links = if owner == site.0 { vec![there.lan; 2] } else { vec![wan, there.wan] };
        Some(Course { host: self.host_at(SiteId(owner), address)?, from, links })
    }

    fn host_at(&mut self, site: SiteId, address: IpAddr) -> Option<HostId> {
        let place = (site, address);
        let known = self.places.get(&place).copied();
        if let Some(host) = known.filter(|host| self.hosts[host.0].interfaces.contains(&place)) {
            return Some(host);
        }
        let found = self.hosts.iter().position(|host| host.interfaces.contains(&place)).map(HostId)?;
        self.places.insert(place, found);
        Some(found)
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
        Site {
            subnets,
            uplink,
            up: true,
            lan: Link::delay_ms(0),
            isolated: false,
            hairpin: false,
            wan: Link::delay_ms(10),
        }
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
    fn isolated_hosts_reach_each_other_by_a_translator_that_sends_back_in_and_not_otherwise() {
        let (mut net, [_, a, b]) = net();
        net.site_mut(SiteId(1)).isolated = true;
        assert!(net.send(0, a, PORT, to("192.168.1.2"), 100).is_empty());
        let outside: Vec<SocketAddr> =
            [a, b].map(|host| net.send(0, host, PORT, to("198.51.100.1"), 100)[0].from).to_vec();
        assert!(net.send(0, a, PORT, outside[1], 100).is_empty(), "it does not send back in");
        net.site_mut(SiteId(1)).hairpin = true;
        assert!(net.send(0, a, PORT, outside[1], 100).is_empty(), "b has not sent there");
        let there = net.send(0, b, PORT, outside[0], 100);
        assert_eq!((there[0].host, there[0].from), (a, outside[1]));
        assert_eq!(net.send(0, a, PORT, outside[1], 100)[0].host, b);
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
    fn a_narrow_link_drops_in_silence_or_tells_what_it_carries_and_tcp_fits_it() {
        let (mut net, [public, home, _]) = net();
        // On the far link, which is 10 ms away.
        net.site_mut(SiteId(0)).wan = Link::delay_ms(10).narrow(1300, false);
        assert_eq!(net.send(0, home, PORT, to("198.51.100.1"), 1272).len(), 1);
        assert!(net.send(0, home, PORT, to("198.51.100.1"), 1273).is_empty());
        assert_eq!(net.take_answer(), None);
        net.site_mut(SiteId(0)).wan.answers = true;
        assert!(net.send(5, home, PORT, to("198.51.100.1"), 1273).is_empty());
        assert_eq!(net.take_answer(), Some(TooLong { at_us: 20_005, mtu: 1300 }));
        assert_eq!(net.take_answer(), None);
        assert_eq!(net.send_tcp(0, home, PORT, to("198.51.100.1"), 1452).len(), 1);
        assert_eq!((net.stats().too_long, net.host(public).silent), (2, false));
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
