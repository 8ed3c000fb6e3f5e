//! Which member may send packets from which overlay address, checked for every packet that arrives.
//!
//! A source is accepted only where the *longest* prefix that covers it belongs to the sender: who announces 10.0.0.0/8
//! must not speak for the owner of 10.1.0.1 (Nebula accepted any covering prefix).

use std::collections::BTreeMap;
use std::net::IpAddr;

use ipnet::IpNet;
use prefix_trie::joint::JointPrefixMap;

use crate::lpm::LpmTable;

/// Bound on the prefixes of one table: 16,384 members with two addresses each, and as many subnets again.
pub const MAX_SOURCES: usize = 65_536;

/// Bound on the members that share one prefix.
pub const MAX_OWNERS: usize = 256;

/// An immutable longest-prefix table from source addresses to the members `T` that may send from them.
///
/// A lookup costs a hash for a member's address, and at most 7 (IPv4) or 26 (IPv6) trie nodes more for others.
#[derive(Clone, Debug)]
pub struct SourceTable<T> {
    prefixes: LpmTable<Owners<T>>,
    /// Members that share a prefix, ascending.
    shared: Box<[Box<[T]>]>,
}

/// The owners of one prefix: nearly always one.
#[derive(Clone, Copy, Debug)]
enum Owners<T> {
    One(T),
    /// An index into [`SourceTable::shared`].
    Many(u32),
}

impl<T: Copy + Ord> SourceTable<T> {
    /// Whether `member` may send packets from `source`: the longest prefix that covers it is one of the member's.
    #[inline]
    pub fn accepts(&self, source: &IpAddr, member: T) -> bool {
        match self.prefixes.lookup(source) {
            Some(Owners::One(owner)) => *owner == member,
            Some(Owners::Many(at)) => {
                self.shared.get(*at as usize).is_some_and(|owners| owners.binary_search(&member).is_ok())
            }
            None => false,
        }
    }

    /// Number of prefixes.
    pub fn len(&self) -> usize {
        self.prefixes.len()
    }

    /// Whether there is no prefix at all, so that nothing is accepted.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

impl<T> Default for SourceTable<T> {
    /// A table that accepts nothing.
    fn default() -> Self {
        Self { prefixes: LpmTable::default(), shared: Box::default() }
    }
}

/// Collects who may send from where.
#[derive(Clone, Debug)]
pub struct SourceTableBuilder<T> {
    addresses: BTreeMap<IpAddr, T>,
    /// Ascending owners.
    subnets: JointPrefixMap<IpNet, Vec<T>>,
    refused: u64,
}

impl<T: Copy + Ord> SourceTableBuilder<T> {
    /// A builder without prefixes.
    pub fn new() -> Self {
        Self { addresses: BTreeMap::new(), subnets: JointPrefixMap::new(), refused: 0 }
    }

    /// Adds a member's own address. It belongs to that member alone: the first to be added keeps it, and no announced
    /// prefix takes it over. Clashes between certificates are decided before by the caller.
    pub fn add_address(&mut self, address: IpAddr, member: T) {
        if self.addresses.contains_key(&address) {
            return;
        }
        if self.is_full() {
            self.refused += 1;
            return;
        }
        self.addresses.insert(address, member);
    }

    /// Adds a prefix that a member announces and is certified for; several members may share it. Bits of `prefix` behind
    /// its length are ignored.
    pub fn add_subnet(&mut self, prefix: IpNet, member: T) {
        let full = self.is_full();
        match self.subnets.get_mut(&prefix) {
            Some(owners) => match owners.binary_search(&member) {
                Ok(_) => {}
                Err(_) if owners.len() >= MAX_OWNERS => self.refused += 1,
                Err(at) => owners.insert(at, member),
            },
            None if full => self.refused += 1,
            None => drop(self.subnets.insert(prefix, vec![member])),
        }
    }

    /// Entries refused because a bound was reached.
    pub fn refused(&self) -> u64 {
        self.refused
    }

    /// The table.
    pub fn build(self) -> SourceTable<T> {
        let mut shared: Vec<Box<[T]>> = Vec::new();
        let hosts =
            self.addresses.iter().map(|(address, owner)| (IpNet::from(*address), Owners::One(*owner)));
        let is_taken = |prefix: &IpNet| {
            prefix.prefix_len() == prefix.max_prefix_len() && self.addresses.contains_key(&prefix.addr())
        };
        let subnets = self.subnets.into_iter().filter(|(prefix, _)| !is_taken(prefix));
        let subnets = subnets.map(|(prefix, owners)| match owners.as_slice() {
            [one] => (prefix, Owners::One(*one)),
            _ => {
                shared.push(owners.into_boxed_slice());
                (prefix, Owners::Many(shared.len() as u32 - 1))
            }
        });
        let prefixes = hosts.chain(subnets).collect();
        SourceTable { prefixes, shared: shared.into_boxed_slice() }
    }

    fn is_full(&self) -> bool {
        self.addresses.len() + self.subnets.len() >= MAX_SOURCES
    }
}

impl<T: Copy + Ord> Default for SourceTableBuilder<T> {
    fn default() -> Self {
        Self::new()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn net(text: &str) -> IpNet {
        text.parse().unwrap()
    }

    fn ip(text: &str) -> IpAddr {
        text.parse().unwrap()
    }

    #[test]
    fn only_the_owner_of_the_longest_prefix_is_accepted() {
        let mut builder = SourceTableBuilder::new();
        builder.add_subnet(net("10.0.0.0/8"), 1);
        builder.add_subnet(net("10.1.0.0/16"), 2);
        builder.add_address(ip("10.1.0.1"), 3);
        let table = builder.build();
        let accepted =
            |source: &str| (0..5).filter(|member| table.accepts(&ip(source), *member)).collect::<Vec<_>>();
        assert_eq!(accepted("10.2.0.1"), [1]);
        assert_eq!(accepted("10.1.0.2"), [2]);
        assert_eq!(accepted("10.1.0.1"), [3]);
        assert_eq!(accepted("9.0.0.1"), []);
        assert_eq!(accepted("::ffff:10.1.0.1"), []);
    }

    #[test]
    fn a_shared_prefix_accepts_each_announcer_and_nobody_else() {
        let mut builder = SourceTableBuilder::new();
        for member in [7, 3, 5, 3] {
            builder.add_subnet(net("192.168.1.0/24"), member);
        }
        let table = builder.build();
        for member in 0..10 {
            assert_eq!(table.accepts(&ip("192.168.1.9"), member), [3, 5, 7].contains(&member));
        }
    }

    #[test]
    fn nobody_takes_an_address_over_by_announcing_it_as_a_host_prefix() {
        for address_first in [true, false] {
            let mut builder = SourceTableBuilder::new();
            if address_first {
                builder.add_address(ip("10.1.0.1"), 3);
            }
            builder.add_subnet(net("10.1.0.1/32"), 4);
            if !address_first {
                builder.add_address(ip("10.1.0.1"), 3);
            }
            let table = builder.build();
            assert!(table.accepts(&ip("10.1.0.1"), 3));
            assert!(!table.accepts(&ip("10.1.0.1"), 4));
        }
    }

    #[test]
    fn prefixes_and_owners_are_bounded() {
        let mut builder = SourceTableBuilder::new();
        for member in 0..MAX_OWNERS as u32 + 3 {
            builder.add_subnet(net("fd00::/64"), member);
        }
        for i in 1..MAX_SOURCES as u32 + 5 {
            builder.add_address(IpAddr::from(i.to_be_bytes()), i);
        }
        assert_eq!(builder.refused(), 3 + 5);
        // A full table takes no prefix either, but another owner of one that it has.
        builder.add_subnet(net("fd01::/64"), 1);
        assert_eq!(builder.refused(), 3 + 5 + 1);
        assert_eq!(builder.build().len(), MAX_SOURCES);
    }

    proptest! {
        /// The naive model looks for the longest covering prefix among all entries.
        #[test]
        fn agrees_with_a_walk_over_all_prefixes(
            subnets in proptest::collection::vec((0u32..64, 24u8..=32, 0u32..6), 0..30),
            hosts in proptest::collection::vec((0u32..64, 0u32..6), 0..6),
            sources in proptest::collection::vec(0u32..64, 1..20),
        ) {
            let address = |low: u32| IpAddr::from((0x0a00_0000 | low).to_be_bytes());
            let subnets: Vec<(IpNet, u32)> = subnets
                .into_iter()
                .map(|(low, len, member)| (IpNet::new(address(low), len).unwrap(), member))
                .collect();
            let mut builder = SourceTableBuilder::new();
            subnets.iter().for_each(|(prefix, member)| builder.add_subnet(*prefix, *member));
            hosts.iter().for_each(|(low, member)| builder.add_address(address(*low), *member));
            let table = builder.build();
            for low in sources {
                let source = address(low);
                let longest = subnets.iter().map(|(p, _)| p).filter(|p| p.contains(&source)).map(IpNet::prefix_len).max();
                let host = hosts.iter().find(|(host, _)| *host == low).map(|(_, member)| *member);
                for member in 0..6 {
                    let expected = match host {
                        Some(owner) => owner == member,
                        None => subnets
                            .iter()
                            .any(|(p, m)| *m == member && Some(p.prefix_len()) == longest && p.contains(&source)),
                    };
                    prop_assert_eq!(table.accepts(&source, member), expected);
                }
            }
        }
    }

    #[test]
    fn the_table_can_be_shared_between_threads() {
        fn shared<T: Send + Sync>() {}
        shared::<SourceTable<u32>>();
    }
}
