//! Network address translators, by the behaviours that RFC 4787 names.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, SocketAddr};

/// Mappings that a translator holds; more are refused, as a small router's table would.
const MAX_MAPPINGS: usize = 4096;

/// How a translator maps and filters.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum NatKind {
    /// Endpoint-independent mapping and filtering: who knows the mapped port gets through.
    FullCone,
    /// Endpoint-independent mapping, address-dependent filtering: whom was sent to gets through, from any port.
    Restricted,
    /// Endpoint-independent mapping, address- and port-dependent filtering: only who was sent to gets through.
    PortRestricted,
    /// Address- and port-dependent mapping and filtering: each destination sees another port.
    Symmetric,
    /// The same, with each new port so much above the last one.
    Counting(u16),
}

impl NatKind {
    /// Whether each destination sees another port.
    fn maps_by_destination(self) -> bool {
        matches!(self, NatKind::Symmetric | NatKind::Counting(_))
    }
}

/// A translator with one public address.
#[derive(Clone, Debug)]
pub struct Nat {
    kind: NatKind,
    public: IpAddr,
    lifetime_us: u64,
    mappings: BTreeMap<Key, Mapping>,
    inside_of: BTreeMap<u16, Key>,
    next_port: u16,
}

/// What a mapping is for: an inside endpoint, and for symmetric translators the destination.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
struct Key {
    inside: SocketAddr,
    remote: Option<SocketAddr>,
}

#[derive(Clone, Debug)]
struct Mapping {
    port: u16,
    used_us: u64,
    allowed: BTreeSet<SocketAddr>,
}

impl Nat {
    /// A translator without mappings, which forgets one after `lifetime_us` without outbound datagrams.
    pub fn new(kind: NatKind, public: IpAddr, lifetime_us: u64) -> Nat {
        Nat {
            kind,
            public,
            lifetime_us,
            mappings: BTreeMap::new(),
            inside_of: BTreeMap::new(),
            next_port: 20_000,
        }
    }

    /// The public address.
    pub fn public(&self) -> IpAddr {
        self.public
    }

    /// Translates the source of an outbound datagram. `None` when the table is full.
    pub fn outbound(&mut self, now_us: u64, inside: SocketAddr, remote: SocketAddr) -> Option<SocketAddr> {
        self.expire(now_us);
        let key = Key { inside, remote: self.kind.maps_by_destination().then_some(remote) };
        if !self.mappings.contains_key(&key) {
            if self.mappings.len() >= MAX_MAPPINGS {
                return None;
            }
            let port = self.free_port();
            self.inside_of.insert(port, key);
            self.mappings.insert(key, Mapping { port, used_us: now_us, allowed: BTreeSet::new() });
        }
        let mapping = self.mappings.get_mut(&key)?;
        mapping.used_us = now_us;
        mapping.allowed.insert(remote);
        Some(SocketAddr::new(self.public, mapping.port))
    }

    /// Translates the destination of an inbound datagram to the inside endpoint. `None` when it is filtered.
    pub fn inbound(&mut self, now_us: u64, from: SocketAddr, port: u16) -> Option<SocketAddr> {
        self.expire(now_us);
        let key = self.inside_of.get(&port)?;
        let mapping = self.mappings.get(key)?;
        let passes = match self.kind {
            NatKind::FullCone => true,
            NatKind::Restricted => mapping.allowed.iter().any(|allowed| allowed.ip() == from.ip()),
            NatKind::PortRestricted | NatKind::Symmetric | NatKind::Counting(_) => {
                mapping.allowed.contains(&from)
            }
        };
        passes.then_some(key.inside)
    }

    /// Forgets all mappings, as a restart does. Ports are not given out again in the same order.
    pub fn restart(&mut self) {
        self.mappings.clear();
        self.inside_of.clear();
    }

    fn expire(&mut self, now_us: u64) {
        let lifetime_us = self.lifetime_us;
        self.mappings.retain(|_, mapping| now_us.saturating_sub(mapping.used_us) < lifetime_us);
        let mappings = &self.mappings;
        self.inside_of.retain(|_, key| mappings.contains_key(key));
    }

    /// Ports are far apart, so that nobody finds one by trying the neighbours of another; but where the translator counts.
    fn free_port(&mut self) -> u16 {
        loop {
            // A full cycle through 20,000..60,000: 7,919 is prime and no divisor of 40,000.
            let step = if let NatKind::Counting(step) = self.kind { step } else { 7919 };
            self.next_port = 20_000 + (self.next_port - 20_000 + step) % 40_000;
            if !self.inside_of.contains_key(&self.next_port) {
                return self.next_port;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn endpoint(text: &str) -> SocketAddr {
        text.parse().unwrap()
    }

    fn nat(kind: NatKind) -> Nat {
        Nat::new(kind, "203.0.113.1".parse().unwrap(), 60_000_000)
    }

    #[test]
    fn cones_map_an_endpoint_to_one_port_and_symmetric_ones_to_one_a_destination() {
        let inside = endpoint("192.168.1.2:4655");
        let (a, b) = (endpoint("198.51.100.1:1"), endpoint("198.51.100.1:2"));
        for (kind, same) in
            [(NatKind::FullCone, true), (NatKind::PortRestricted, true), (NatKind::Symmetric, false)]
        {
            let mut nat = nat(kind);
            assert_eq!(nat.outbound(0, inside, a) == nat.outbound(0, inside, b), same, "{kind:?}");
            assert_eq!(nat.outbound(0, inside, a), nat.outbound(1, inside, a));
        }
    }

    #[test]
    fn only_a_full_cone_lets_strangers_in() {
        let inside = endpoint("192.168.1.2:4655");
        let (friend, stranger) = (endpoint("198.51.100.1:1"), endpoint("198.51.100.1:2"));
        for (kind, open) in
            [(NatKind::FullCone, true), (NatKind::PortRestricted, false), (NatKind::Symmetric, false)]
        {
            let mut nat = nat(kind);
            let port = nat.outbound(0, inside, friend).unwrap().port();
            assert_eq!(nat.inbound(1, friend, port), Some(inside));
            assert_eq!(nat.inbound(1, stranger, port).is_some(), open, "{kind:?}");
            assert_eq!(nat.inbound(1, friend, port ^ 1), None);
        }
    }

    #[test]
    fn a_restricted_cone_lets_in_other_ports_of_whom_was_sent_to_and_a_counting_one_counts() {
        let inside = endpoint("192.168.1.2:4655");
        let mut cone = nat(NatKind::Restricted);
        let port = cone.outbound(0, inside, endpoint("198.51.100.1:1")).unwrap().port();
        assert!(cone.inbound(1, endpoint("198.51.100.1:2"), port).is_some());
        assert!(cone.inbound(1, endpoint("198.51.100.2:1"), port).is_none());
        let mut counting = nat(NatKind::Counting(2));
        let mut ports = (1..4)
            .map(|to| counting.outbound(0, inside, endpoint(&format!("198.51.100.1:{to}"))).unwrap().port());
        let first = ports.next().unwrap();
        assert_eq!((ports.next(), ports.next()), (Some(first + 2), Some(first + 4)));
    }

    #[test]
    fn mappings_die_without_outbound_traffic_and_with_a_restart() {
        let (inside, remote) = (endpoint("192.168.1.2:4655"), endpoint("198.51.100.1:1"));
        let mut nat = nat(NatKind::FullCone);
        let port = nat.outbound(0, inside, remote).unwrap().port();
        assert!(nat.inbound(59_999_999, remote, port).is_some());
        assert!(nat.inbound(60_000_000, remote, port).is_none(), "inbound traffic does not keep it");
        let port = nat.outbound(60_000_000, inside, remote).unwrap().port();
        nat.restart();
        assert!(nat.inbound(60_000_001, remote, port).is_none());
    }
}
