//! The forwarding table: which member takes a packet, by longest prefix of the destination address.
//!
//! A table is built whole from what is reachable now and never changed afterwards, so that it can be published to the
//! data plane in a snapshot. Of several members that announce the same prefix one is chosen at build time.

use std::net::IpAddr;

use ipnet::IpNet;
use prefix_trie::joint::JointPrefixMap;

use crate::lpm::LpmTable;

/// An immutable longest-prefix table from destination addresses to the member `T` that takes them.
///
/// A lookup costs a hash for a member's address, and at most 7 (IPv4) or 26 (IPv6) trie nodes more for others (Eatherton,
/// Dittia, Varghese: "Tree bitmap: hardware/software IP lookups with incremental updates", 2004).
#[derive(Clone, Debug)]
pub struct Fib<T> {
    prefixes: LpmTable<T>,
}

impl<T: Copy> Fib<T> {
    /// The owner of the longest prefix that covers `destination`.
    pub fn lookup(&self, destination: &IpAddr) -> Option<T> {
        self.prefixes.lookup(destination).copied()
    }

    /// Every prefix with its owner, ascending, IPv4 before IPv6.
    pub fn iter(&self) -> impl Iterator<Item = (IpNet, T)> + '_ {
        self.prefixes.iter().map(|(prefix, owner)| (prefix, *owner))
    }

    /// Number of prefixes.
    pub fn len(&self) -> usize {
        self.prefixes.len()
    }

    /// Whether there is no prefix at all.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

impl<T> Default for Fib<T> {
    /// A table without prefixes.
    fn default() -> Self {
        Self { prefixes: LpmTable::default() }
    }
}

/// One member's offer to take packets for a prefix.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Offer<T> {
    /// The member that takes the packets.
    pub owner: T,
    /// Preference as announced; the lowest wins, whatever the cost.
    pub weight: u16,
    /// Cost of the way to the owner in microseconds, which decides between equal weights; `None` where there is no way
    /// at present.
    pub cost_us: Option<u32>,
}

impl<T> Offer<T> {
    /// What decides between offers for the same prefix; lower is better.
    fn rank(&self) -> (bool, u16, u32) {
        (self.cost_us.is_none(), self.weight, self.cost_us.unwrap_or(u32::MAX))
    }
}

/// Collects offers and chooses between them.
///
/// Equal offers are decided by order: the one added first wins, so callers add members in the order of their ids to
/// make every node choose alike.
#[derive(Clone, Debug)]
pub struct FibBuilder<T> {
    offers: JointPrefixMap<IpNet, Chosen<T>>,
    full: u64,
}

#[derive(Clone, Copy, Debug)]
struct Chosen<T> {
    offer: Offer<T>,
    pinned: bool,
}

/// Bound on the prefixes of one table: 4,096 members with two addresses each, and as many subnets again.
pub const MAX_PREFIXES: usize = 16_384;

impl<T: Copy> FibBuilder<T> {
    /// A builder without offers.
    pub fn new() -> Self {
        Self { offers: JointPrefixMap::new(), full: 0 }
    }

    /// Adds a member's own address.
    ///
    /// It stays in the table when the member cannot be reached: packets for it must fail, not fall to the announcer of a
    /// prefix around it. A host address also wins over announcements of the same host prefix.
    pub fn add_address(&mut self, address: IpAddr, owner: T) {
        let offer = Offer { owner, weight: 0, cost_us: None };
        self.put(IpNet::from(address), Chosen { offer, pinned: true });
    }

    /// Adds a subnet that a member announces. Bits of `prefix` behind its length are ignored.
    pub fn add_subnet(&mut self, prefix: IpNet, offer: Offer<T>) {
        self.put(prefix, Chosen { offer, pinned: false });
    }

    /// Offers refused because the table held [`MAX_PREFIXES`] prefixes.
    pub fn refused(&self) -> u64 {
        self.full
    }

    /// The table of chosen owners. Subnets that no reachable member offers are left out, so that a shorter prefix
    /// around them takes their packets.
    pub fn build(&self) -> Fib<T> {
        let usable = self.offers.iter().filter(|(_, chosen)| chosen.pinned || chosen.offer.cost_us.is_some());
        Fib { prefixes: usable.map(|(prefix, chosen)| (prefix, chosen.offer.owner)).collect() }
    }

    fn put(&mut self, prefix: IpNet, new: Chosen<T>) {
        if let Some(old) = self.offers.get_mut(&prefix) {
            let better = match (new.pinned, old.pinned) {
                (true, false) => true,
                (_, true) => false,
                (false, false) => new.offer.rank() < old.offer.rank(),
            };
            if better {
                *old = new;
            }
        } else if self.offers.len() < MAX_PREFIXES {
            self.offers.insert(prefix, new);
        } else {
            self.full += 1;
        }
    }
}

impl<T: Copy> Default for FibBuilder<T> {
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

    fn offer(owner: u32, weight: u16, cost_us: Option<u32>) -> Offer<u32> {
        Offer { owner, weight, cost_us }
    }

    #[test]
    fn the_longest_prefix_wins_over_weight_and_cost() {
        let mut builder = FibBuilder::new();
        builder.add_subnet(net("10.0.0.0/8"), offer(1, 0, Some(0)));
        builder.add_subnet(net("10.1.0.0/16"), offer(2, 9, Some(9)));
        builder.add_address(ip("10.1.0.1"), 3);
        let fib = builder.build();
        assert_eq!(fib.lookup(&ip("10.2.0.1")), Some(1));
        assert_eq!(fib.lookup(&ip("10.1.0.2")), Some(2));
        assert_eq!(fib.lookup(&ip("10.1.0.1")), Some(3));
        assert_eq!(fib.lookup(&ip("11.0.0.1")), None);
        assert_eq!(fib.lookup(&ip("::ffff:10.2.0.1")), None, "a mapped address is no IPv4 address");
    }

    #[test]
    fn among_owners_of_one_prefix_reachable_then_weight_then_cost_then_order_decides() {
        let chosen = |offers: &[Offer<u32>]| {
            let mut builder = FibBuilder::new();
            offers.iter().for_each(|offer| builder.add_subnet(net("fd00::/64"), *offer));
            builder.build().lookup(&ip("fd00::1"))
        };
        assert_eq!(chosen(&[offer(1, 0, None), offer(2, 7, Some(50))]), Some(2));
        assert_eq!(chosen(&[offer(1, 5, Some(1)), offer(2, 4, Some(50))]), Some(2));
        assert_eq!(chosen(&[offer(1, 5, Some(9)), offer(2, 5, Some(8))]), Some(2));
        assert_eq!(chosen(&[offer(2, 5, Some(8)), offer(1, 5, Some(8))]), Some(2));
        assert_eq!(chosen(&[offer(1, 5, None)]), None);
    }

    #[test]
    fn an_unreachable_subnet_falls_to_the_prefix_around_it_but_an_unreachable_address_does_not() {
        let mut builder = FibBuilder::new();
        builder.add_subnet(net("10.0.0.0/8"), offer(1, 0, Some(0)));
        builder.add_subnet(net("10.1.0.0/16"), offer(2, 0, None));
        builder.add_address(ip("10.1.0.1"), 3);
        let fib = builder.build();
        assert_eq!(fib.lookup(&ip("10.1.0.2")), Some(1));
        assert_eq!(fib.lookup(&ip("10.1.0.1")), Some(3));
    }

    #[test]
    fn nobody_takes_an_address_over_by_announcing_it_as_a_host_prefix() {
        for owner_first in [true, false] {
            let mut builder = FibBuilder::new();
            if owner_first {
                builder.add_address(ip("10.1.0.1"), 3);
            }
            builder.add_subnet(net("10.1.0.1/32"), offer(4, 0, Some(0)));
            if !owner_first {
                builder.add_address(ip("10.1.0.1"), 3);
            }
            assert_eq!(builder.build().lookup(&ip("10.1.0.1")), Some(3));
        }
    }

    #[test]
    fn the_table_is_bounded() {
        let mut builder = FibBuilder::new();
        for i in 0..MAX_PREFIXES as u32 + 5 {
            builder.add_address(IpAddr::from(i.to_be_bytes()), i);
        }
        assert_eq!(builder.build().len(), MAX_PREFIXES);
        assert_eq!(builder.refused(), 5);
    }

    /// Prefixes crowded into a small space so that they overlap, with bits behind the length.
    fn prefix() -> impl Strategy<Value = IpNet> {
        prop_oneof![
            (0u32..64, 24u8..=32).prop_map(|(low, len)| net(&format!(
                "{}/{len}",
                std::net::Ipv4Addr::from(0x0a00_0000 | low)
            ))),
            (0u128..64, 120u8..=128).prop_map(|(low, len)| net(&format!(
                "{}/{len}",
                std::net::Ipv6Addr::from((0xfd00u128 << 112) | low)
            ))),
            Just(net("0.0.0.0/0")),
        ]
    }

    fn address() -> impl Strategy<Value = IpAddr> {
        prop_oneof![
            (0u32..64).prop_map(|low| IpAddr::from((0x0a00_0000 | low).to_be_bytes())),
            (0u128..64).prop_map(|low| IpAddr::from(((0xfd00u128 << 112) | low).to_be_bytes())),
        ]
    }

    proptest! {
        /// The naive model walks all prefixes, longest first.
        #[test]
        fn lookups_agree_with_a_walk_over_all_offers(
            subnets in proptest::collection::vec((prefix(), 0u32..8, 0u16..3, proptest::option::of(0u32..3)), 0..40),
            hosts in proptest::collection::vec((address(), 100u32..108), 0..8),
            queries in proptest::collection::vec(address(), 1..20),
        ) {
            let mut builder = FibBuilder::new();
            for (prefix, owner, weight, cost_us) in &subnets {
                builder.add_subnet(*prefix, offer(*owner, *weight, *cost_us));
            }
            for (address, owner) in &hosts {
                builder.add_address(*address, *owner);
            }
            let fib = builder.build();
            for query in queries {
                let host = hosts.iter().find(|(address, _)| *address == query).map(|(_, owner)| *owner);
                let subnet = subnets
                    .iter()
                    .filter(|(prefix, _, _, cost)| prefix.contains(&query) && cost.is_some())
                    .min_by_key(|(prefix, _, weight, cost)| (128 - prefix.prefix_len(), *weight, *cost))
                    .map(|(_, owner, _, _)| *owner);
                prop_assert_eq!(fib.lookup(&query), host.or(subnet));
            }
        }
    }
}
