//! The forwarding table: which member takes a packet, by longest prefix of the destination address.
//!
//! A table is built whole from what is reachable now and never changed afterwards, so that it can be published to the
//! data plane in a snapshot. Of several members that announce the same prefix those with the lowest weight are chosen at
//! build time, and share its flows by rendezvous hashing (Thaler, Ravishankar: "Using name-based mappings to increase hit
//! rates", 1998): a flow keeps its owner as long as that is there, and when one goes only its own flows move.

use std::cmp::Ordering;
use std::collections::BTreeMap;
use std::net::IpAddr;

use ipnet::IpNet;
use prefix_trie::joint::JointPrefixMap;

use crate::lpm::{LpmTable, mix};

/// An immutable longest-prefix table from destination addresses to the member `T` that takes them.
///
/// A lookup costs a hash for a member's address, and at most 7 (IPv4) or 26 (IPv6) trie nodes more for others (Eatherton,
/// Dittia, Varghese: "Tree bitmap: hardware/software IP lookups with incremental updates", 2004).
#[derive(Clone, Debug)]
pub struct Fib<T> {
    prefixes: LpmTable<Owners<T>>,
    shared: Box<[Box<[Share<T>]>]>,
}

#[derive(Clone, Copy, Debug)]
enum Owners<T> {
    One(T),
    /// An index into [`Fib::shared`].
    Several(u32),
}

/// One of several owners, in the order of their ranks.
#[derive(Clone, Copy, Debug)]
struct Share<T> {
    salt: u64,
    owner: T,
}

impl<T: Copy> Fib<T> {
    /// The owner of the longest prefix that covers `destination`, for the flow whose number `flow` gives; it is asked only
    /// where several owners share the prefix.
    #[inline]
    pub fn lookup(&self, destination: &IpAddr, flow: impl FnOnce() -> u64) -> Option<T> {
        match self.prefixes.lookup(destination)? {
            Owners::One(owner) => Some(*owner),
            Owners::Several(at) => self.share(*at, flow()),
        }
    }

    /// All that share the longest prefix that covers `destination`, the best first; none if no prefix does.
    pub fn owners(&self, destination: &IpAddr) -> Vec<T> {
        match self.prefixes.lookup(destination) {
            None => Vec::new(),
            Some(owners) => self.all(owners),
        }
    }

    /// Every prefix with its owners, ascending, IPv4 before IPv6.
    pub fn iter(&self) -> impl Iterator<Item = (IpNet, Vec<T>)> + '_ {
        self.prefixes.iter().map(|(prefix, owners)| (prefix, self.all(owners)))
    }

    fn all(&self, owners: &Owners<T>) -> Vec<T> {
        match owners {
            Owners::One(owner) => vec![*owner],
            Owners::Several(at) => self.shares(*at).iter().map(|share| share.owner).collect(),
        }
    }

    #[cold]
    fn share(&self, at: u32, flow: u64) -> Option<T> {
        let shares = self.shares(at).iter();
        shares.max_by_key(|share| mix(flow ^ share.salt)).map(|share| share.owner)
    }

    fn shares(&self, at: u32) -> &[Share<T>] {
        self.shared.get(at as usize).map_or(&[], |shares| shares)
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
        Self { prefixes: LpmTable::default(), shared: Box::default() }
    }
}

/// One member's offer to take packets for a prefix.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Offer<T> {
    /// The member that takes the packets.
    pub owner: T,
    /// Preference as announced; the lowest wins, and those that have it share the flows.
    pub weight: u16,
    /// What is known of the way to the owner.
    pub way: Way,
    /// Which flows it gets where it is one of several: something that is the member's own, so that all nodes choose alike.
    pub salt: u64,
}

/// What is known of the way to a member, the best first.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum Way {
    /// There is one.
    Known,
    /// It may be reached: where it is, is known.
    Possible,
    /// There is none at present.
    None,
}

impl<T> Offer<T> {
    /// What decides between offers for the same prefix; lower is better, equals share.
    fn rank(&self) -> (bool, u16, Way) {
        (self.way == Way::None, self.weight, self.way)
    }
}

/// Collects offers and chooses between them.
///
/// A member's own address, and this node's own networks ([`FibBuilder::add_own`]), are not shared: there the one added first
/// wins, an address before a network, so callers add members in the order of their ids to make every node choose alike.
#[derive(Clone, Debug)]
pub struct FibBuilder<T> {
    addresses: BTreeMap<IpAddr, T>,
    offers: JointPrefixMap<IpNet, Chosen<T>>,
    full: u64,
}

#[derive(Clone, Debug)]
struct Chosen<T> {
    offer: Offer<T>,
    /// Others of the same rank.
    equals: Vec<Share<T>>,
    pinned: bool,
}

/// Bound on the members that share one prefix.
pub const MAX_SHARES: usize = 16;

/// Bound on the prefixes of one table: 16,384 members with two addresses each, and as many subnets again.
pub const MAX_PREFIXES: usize = 65_536;

impl<T: Copy> FibBuilder<T> {
    /// A builder without offers.
    pub fn new() -> Self {
        Self { addresses: BTreeMap::new(), offers: JointPrefixMap::new(), full: 0 }
    }

    /// Adds a member's own address.
    ///
    /// It stays in the table when the member cannot be reached: packets for it must fail, not fall to the announcer of a
    /// prefix around it. A host address also wins over announcements of the same host prefix.
    pub fn add_address(&mut self, address: IpAddr, owner: T) {
        if self.addresses.contains_key(&address) {
            return;
        }
        if self.len() >= MAX_PREFIXES {
            self.full += 1;
            return;
        }
        self.addresses.insert(address, owner);
    }

    /// Adds a network of this node itself. Whoever else announces it, and however it is weighted, this node never sends
    /// its packets to others: they might come back.
    pub fn add_own(&mut self, prefix: IpNet, owner: T) {
        let offer = Offer { owner, weight: 0, way: Way::None, salt: 0 };
        self.put(prefix, Chosen { offer, equals: Vec::new(), pinned: true });
    }

    /// Adds a subnet that a member announces. Bits of `prefix` behind its length are ignored.
    pub fn add_subnet(&mut self, prefix: IpNet, offer: Offer<T>) {
        self.put(prefix, Chosen { offer, equals: Vec::new(), pinned: false });
    }

    /// Offers refused because the table held [`MAX_PREFIXES`] prefixes.
    pub fn refused(&self) -> u64 {
        self.full
    }

    /// The table of chosen owners. Subnets that no reachable member offers are left out, so that a shorter prefix
    /// around them takes their packets.
    pub fn build(&self) -> Fib<T> {
        let mut shared: Vec<Box<[Share<T>]>> = Vec::new();
        let taken = |prefix: &IpNet| {
            prefix.prefix_len() == prefix.max_prefix_len() && self.addresses.contains_key(&prefix.addr())
        };
        let usable = self
            .offers
            .iter()
            .filter(|(prefix, chosen)| (chosen.pinned || chosen.offer.way != Way::None) && !taken(prefix));
        let mut owners = |chosen: &Chosen<T>| {
            let Offer { owner, salt, .. } = chosen.offer;
            if chosen.equals.is_empty() {
                return Owners::One(owner);
            }
            let first = Share { salt, owner };
            shared.push(std::iter::once(first).chain(chosen.equals.iter().copied()).collect());
            Owners::Several(shared.len() as u32 - 1)
        };
        let hosts =
            self.addresses.iter().map(|(address, owner)| (IpNet::from(*address), Owners::One(*owner)));
        let prefixes = hosts.chain(usable.map(|(prefix, chosen)| (prefix, owners(chosen)))).collect();
        Fib { prefixes, shared: shared.into_boxed_slice() }
    }

    fn len(&self) -> usize {
        self.addresses.len() + self.offers.len()
    }

    fn put(&mut self, prefix: IpNet, new: Chosen<T>) {
        if let Some(old) = self.offers.get_mut(&prefix) {
            let better = match (new.pinned, old.pinned) {
                (true, false) => Ordering::Less,
                (_, true) => Ordering::Greater,
                (false, false) => new.offer.rank().cmp(&old.offer.rank()),
            };
            match better {
                Ordering::Less => *old = new,
                Ordering::Equal if old.equals.len() + 1 < MAX_SHARES => {
                    old.equals.push(Share { salt: new.offer.salt, owner: new.offer.owner });
                }
                Ordering::Equal | Ordering::Greater => {}
            }
        } else if self.len() < MAX_PREFIXES {
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
mod tests;
