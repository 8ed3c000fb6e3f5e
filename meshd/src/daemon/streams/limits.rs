//! How many connections may come in.
//!
//! Who connects is nobody yet: connections on which nothing authentic has arrived are few, few from one address, and short.

use std::collections::HashMap;
use std::net::{IpAddr, Ipv6Addr};
use std::sync::{Arc, Mutex, PoisonError};

/// Connections that came in, at most.
const ACCEPTED_MAX: usize = 4096;
/// From one address (or network of 64 bits, with IPv6), at most: members behind one translator share it.
const FROM_ONE_MAX: usize = 64;
/// Those that nobody has authenticated, at most ...
const STRANGERS_MAX: usize = 256;
/// ... and from one address.
const STRANGERS_FROM_ONE_MAX: usize = 16;

/// Counts connections that came in.
#[derive(Clone, Default)]
pub(super) struct Limits(Arc<Mutex<Counts>>);

#[derive(Default)]
struct Counts {
    all: Count,
    from: HashMap<IpAddr, Count>,
}

#[derive(Default, Clone, Copy)]
struct Count {
    all: usize,
    strangers: usize,
}

/// A connection that counts as long as it is held: first as a stranger's.
pub(super) struct Admission {
    limits: Limits,
    from: IpAddr,
    stranger: bool,
}

impl Limits {
    /// Lets a connection in; `None` when there are too many.
    pub(super) fn admit(&self, from: IpAddr) -> Option<Admission> {
        let from = network_of(from);
        let mut counts = self.counts();
        let (all, own) = (counts.all, counts.from.get(&from).copied().unwrap_or_default());
        let full = all.all >= ACCEPTED_MAX
            || all.strangers >= STRANGERS_MAX
            || own.all >= FROM_ONE_MAX
            || own.strangers >= STRANGERS_FROM_ONE_MAX;
        if full {
            return None;
        }
        for count in counts.both(from) {
            count.all += 1;
            count.strangers += 1;
        }
        Some(Admission { limits: self.clone(), from, stranger: true })
    }

    fn counts(&self) -> std::sync::MutexGuard<'_, Counts> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Counts {
    fn both(&mut self, from: IpAddr) -> [&mut Count; 2] {
        [&mut self.all, self.from.entry(from).or_default()]
    }
}

impl Admission {
    /// Something authentic arrived: it counts as a member's from now on.
    pub(super) fn known(&mut self) {
        if std::mem::take(&mut self.stranger) {
            self.limits.counts().both(self.from).into_iter().for_each(|count| count.strangers -= 1);
        }
    }
}

impl Drop for Admission {
    fn drop(&mut self) {
        self.known();
        let mut counts = self.limits.counts();
        counts.both(self.from).into_iter().for_each(|count| count.all -= 1);
        if counts.from.get(&self.from).is_some_and(|count| count.all == 0) {
            counts.from.remove(&self.from);
        }
    }
}

/// One customer has 64 bits of IPv6 at least.
fn network_of(ip: IpAddr) -> IpAddr {
    match ip.to_canonical() {
        IpAddr::V4(v4) => v4.into(),
        IpAddr::V6(v6) => Ipv6Addr::from(u128::from(v6) & !u128::from(u64::MAX)).into(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn v4(a: u8, b: u8) -> IpAddr {
        [10, 0, a, b].into()
    }

    #[test]
    fn strangers_are_few_in_all_and_from_one_address_and_members_more() {
        let limits = Limits::default();
        let mut held: Vec<Admission> = (0..100).filter_map(|_| limits.admit(v4(0, 1))).collect();
        assert_eq!(held.len(), STRANGERS_FROM_ONE_MAX);
        held.iter_mut().for_each(Admission::known);
        let more: Vec<Admission> = (0..100).filter_map(|_| limits.admit(v4(0, 1))).collect();
        assert_eq!(more.len(), STRANGERS_FROM_ONE_MAX, "members do not count as strangers");
        let others: Vec<Admission> = (0..=255u8).filter_map(|at| limits.admit(v4(1, at))).collect();
        assert_eq!(others.len(), STRANGERS_MAX - more.len());
        drop((held, more, others));
        let counts = limits.counts();
        assert_eq!((counts.all.all, counts.all.strangers, counts.from.len()), (0, 0, 0));
    }

    #[test]
    fn addresses_of_one_network_of_ipv6_are_one() {
        let ip = |text: &str| network_of(text.parse().unwrap());
        assert_eq!(ip("2001:db8:1:2::1"), ip("2001:db8:1:2:ffff::9"));
        assert_ne!(ip("2001:db8:1:2::1"), ip("2001:db8:1:3::1"));
        assert_eq!(ip("::ffff:192.0.2.1"), ip("192.0.2.1"));
    }
}
