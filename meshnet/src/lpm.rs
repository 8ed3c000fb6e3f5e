//! Longest-prefix tables that the data plane asks for every packet.
//!
//! Nearly all packets go between members' own addresses. A host prefix is the longest there can be, so those are found by
//! a hash table alone, in a tenth of the time that the trie takes for an IPv6 address; only what is no member's address
//! goes on to the trie of shorter prefixes.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use ipnet::IpNet;
use prefix_trie::joint::JointPrefixMap;

/// An immutable longest-prefix table.
#[derive(Clone, Debug)]
pub(crate) struct LpmTable<V> {
    hosts4: HostTable<Ipv4Addr, V>,
    hosts6: HostTable<Ipv6Addr, V>,
    prefixes: JointPrefixMap<IpNet, V>,
}

impl<V> LpmTable<V> {
    /// The value of the longest prefix that covers `address`.
    #[inline]
    pub(crate) fn lookup(&self, address: &IpAddr) -> Option<&V> {
        let host = match address {
            IpAddr::V4(v4) => self.hosts4.get(*v4),
            IpAddr::V6(v6) => self.hosts6.get(*v6),
        };
        host.or_else(|| self.prefixes.get_lpm(&IpNet::from(*address)).map(|(_, value)| value))
    }

    /// Number of prefixes.
    pub(crate) fn len(&self) -> usize {
        self.hosts4.len + self.hosts6.len + self.prefixes.len()
    }

    /// All prefixes, ascending, IPv4 first.
    pub(crate) fn iter(&self) -> impl Iterator<Item = (IpNet, &V)> + '_ {
        let hosts4 = self.hosts4.iter().map(|(address, value)| (IpNet::from(IpAddr::V4(address)), value));
        let hosts6 = self.hosts6.iter().map(|(address, value)| (IpNet::from(IpAddr::V6(address)), value));
        let hosts = hosts4.chain(hosts6);
        let mut all: Vec<_> = hosts.chain(self.prefixes.iter()).collect();
        all.sort_unstable_by_key(|(prefix, _)| *prefix);
        all.into_iter()
    }
}

impl<V> FromIterator<(IpNet, V)> for LpmTable<V> {
    /// Builds the table; of equal prefixes the last counts.
    fn from_iter<I: IntoIterator<Item = (IpNet, V)>>(prefixes: I) -> Self {
        let (mut hosts4, mut hosts6, mut shorter) = (Vec::new(), Vec::new(), JointPrefixMap::new());
        for (prefix, value) in prefixes {
            match prefix {
                IpNet::V4(v4) if v4.prefix_len() == 32 => hosts4.push((v4.addr(), value)),
                IpNet::V6(v6) if v6.prefix_len() == 128 => hosts6.push((v6.addr(), value)),
                _ => drop(shorter.insert(prefix, value)),
            }
        }
        Self { hosts4: HostTable::new(hosts4), hosts6: HostTable::new(hosts6), prefixes: shorter }
    }
}

impl<V> Default for LpmTable<V> {
    fn default() -> Self {
        Self::from_iter([])
    }
}

/// A hash table with linear probing. Its keys are certified addresses, not what a stranger sends. It is never more than a
/// quarter full, and with more than [`MANY`] entries two thirds: room that is not there is not read from memory.
#[derive(Clone, Debug)]
struct HostTable<K, V> {
    /// A power of two.
    slots: Box<[Option<(K, V)>]>,
    len: usize,
}

/// See [`HostTable`].
const MANY: usize = 4096;

impl<K: Host, V> HostTable<K, V> {
    fn new(entries: Vec<(K, V)>) -> Self {
        let room = if entries.len() > MANY { entries.len() * 3 / 2 } else { entries.len() * 4 };
        let size = room.next_power_of_two();
        let mut table = Self { slots: (0..size).map(|_| None).collect(), len: 0 };
        for (key, value) in entries {
            let at = table.position(key);
            table.len += usize::from(table.slots[at].is_none());
            table.slots[at] = Some((key, value));
        }
        table
    }

    #[inline]
    fn get(&self, key: K) -> Option<&V> {
        if self.len == 0 {
            return None;
        }
        self.slots[self.position(key)].as_ref().map(|(_, value)| value)
    }

    /// The slot with `key`, or the free one where it would go. There always is a free one.
    #[inline]
    fn position(&self, key: K) -> usize {
        let mask = self.slots.len() - 1;
        let mut at = hash(key.number()) & mask;
        while self.slots[at].as_ref().is_some_and(|(other, _)| *other != key) {
            at = (at + 1) & mask;
        }
        at
    }

    fn iter(&self) -> impl Iterator<Item = (K, &V)> + '_ {
        self.slots.iter().flatten().map(|(key, value)| (*key, value))
    }
}

/// An address as it is kept: four bytes are enough for most.
trait Host: Copy + Eq {
    fn number(self) -> u128;
}

impl Host for Ipv4Addr {
    #[inline]
    fn number(self) -> u128 {
        u128::from(self.to_bits())
    }
}

impl Host for Ipv6Addr {
    #[inline]
    fn number(self) -> u128 {
        self.to_bits()
    }
}

/// Two rounds of multiply and fold, with the odd constants of SplitMix64 (Steele, Lea, Flood 2014).
#[inline]
fn hash(key: u128) -> usize {
    let mixed = (key as u64 ^ 0x9e37_79b9_7f4a_7c15).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let mixed = (mixed ^ mixed >> 32 ^ (key >> 64) as u64).wrapping_mul(0x94d0_49bb_1331_11eb);
    (mixed ^ mixed >> 32) as usize
}

/// The finaliser of SplitMix64 (Steele, Lea, Flood 2014): each bit of the result depends on every bit that goes in.
pub(crate) fn mix(value: u64) -> u64 {
    let value = value.wrapping_add(0x9e37_79b9_7f4a_7c15);
    let value = (value ^ value >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let value = (value ^ value >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
    value ^ value >> 31
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn address() -> impl Strategy<Value = IpAddr> {
        prop_oneof![
            (0u32..64).prop_map(|low| IpAddr::from((0x0a00_0000 | low).to_be_bytes())),
            (0u128..64).prop_map(|low| IpAddr::from(((0xfd00u128 << 112) | low).to_be_bytes())),
            (0u128..64).prop_map(|low| IpAddr::from((0xffff_0a00_0000u128 | low).to_be_bytes())),
        ]
    }

    proptest! {
        #[test]
        fn agrees_with_a_walk_over_all_prefixes(
            entries in proptest::collection::vec((address(), 0u8..12, 0u32..1000), 0..60),
            queries in proptest::collection::vec(address(), 1..30),
        ) {
            let prefixes: Vec<_> = entries
                .iter()
                .map(|(address, short, value)| {
                    let longest = if address.is_ipv4() { 32 } else { 128 };
                    (IpNet::new(*address, longest - short).unwrap().trunc(), *value)
                })
                .collect();
            let table: LpmTable<u32> = prefixes.iter().copied().collect();
            for query in queries {
                let covering = prefixes.iter().rev().filter(|(prefix, _)| prefix.contains(&query));
                // The last of the equal ones: `max_by_key` returns the last maximum, so the order is turned around.
                let longest = covering.rev().max_by_key(|(prefix, _)| prefix.prefix_len());
                prop_assert_eq!(table.lookup(&query), longest.map(|(_, value)| value));
            }
            let naive: std::collections::BTreeMap<_, _> = prefixes.into_iter().collect();
            prop_assert_eq!(table.len(), naive.len());
            prop_assert!(table.iter().map(|(prefix, value)| (prefix, *value)).eq(naive));
        }
    }

    #[test]
    fn neighbouring_addresses_are_found_in_few_steps() {
        for shift in [0, 8, 64, 96] {
            let entries: Vec<_> =
                (0..4096u128).map(|i| (Ipv6Addr::from(0x0a63_0001 + (i << shift)), ())).collect();
            let table = HostTable::new(entries.clone());
            let mask = table.slots.len() - 1;
            let steps = |key: Ipv6Addr| (table.position(key).wrapping_sub(hash(key.number())) & mask) + 1;
            let total: usize = entries.iter().map(|(key, ())| steps(*key)).sum();
            assert!(total < 4096 * 3 / 2, "shift {shift}: {total} steps");
        }
    }
}
