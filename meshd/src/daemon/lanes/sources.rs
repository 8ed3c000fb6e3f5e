//! From which of our addresses to answer.
//!
//! A machine with several addresses must answer from the one that was asked: the other end's NAT lets nothing else in,
//! and a provider may not route it. The receiving threads learn; everybody who sends asks. The map is replaced as a
//! whole when something new is learnt, so that nobody ever waits.

use arc_swap::ArcSwap;
use meshnet::path::SocketId;
use meshnet::time::Mono;
use std::collections::HashMap;
use std::net::{IpAddr, SocketAddr};

/// Most remote endpoints remembered; when full, all are forgotten and learnt again.
const REMOTES_MAX: usize = 1024;
/// Strangers can make us learn this often in a second.
const STRANGERS_PER_S: u32 = 50;
const SECOND_US: u64 = 1_000_000;

type Map = HashMap<(SocketId, SocketAddr), Known>;

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
struct Known {
    local: IpAddr,
    authentic: bool,
}

/// Local addresses by remote endpoint.
#[derive(Default)]
pub(super) struct Sources(ArcSwap<Map>);

impl Sources {
    /// Our address at which `remote` last reached us on `socket`, if that is known.
    pub(super) fn of(&self, socket: SocketId, remote: SocketAddr) -> Option<IpAddr> {
        self.0.load().get(&(socket, remote)).map(|known| known.local)
    }
}

/// Learns; each receiving thread has one.
#[derive(Default)]
pub(super) struct Learner {
    /// What was learnt last, since the same remote mostly comes again.
    last: Option<(SocketId, SocketAddr, Known)>,
    second: u64,
    strangers: u32,
}

impl Learner {
    /// `remote` reached us at `local`. What is not `authentic` never replaces what is, and counts against a rate.
    pub(super) fn learn(
        &mut self,
        sources: &Sources,
        now: Mono,
        (socket, remote): (SocketId, SocketAddr),
        local: IpAddr,
        authentic: bool,
    ) {
        let known = Known { local, authentic };
        if self.last == Some((socket, remote, known)) {
            return;
        }
        let map = sources.0.load();
        let old = map.get(&(socket, remote)).copied();
        let keep_old = old.is_some_and(|old| old == known || old.authentic && !authentic);
        if !keep_old {
            if !authentic && !self.may_learn_from_stranger(now) {
                return;
            }
            sources.0.rcu(|map| {
                let mut next = if map.len() < REMOTES_MAX { Map::clone(map) } else { Map::new() };
                next.insert((socket, remote), known);
                next
            });
        }
        self.last = Some((socket, remote, known));
    }

    fn may_learn_from_stranger(&mut self, now: Mono) -> bool {
        let second = now.0 / SECOND_US;
        if second != self.second {
            (self.second, self.strangers) = (second, 0);
        }
        self.strangers += 1;
        self.strangers <= STRANGERS_PER_S
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SOCKET: SocketId = SocketId(0);

    fn remote(port: u16) -> (SocketId, SocketAddr) {
        (SOCKET, SocketAddr::from(([192, 0, 2, 1], port)))
    }

    fn local(last: u8) -> IpAddr {
        [10, 0, 0, last].into()
    }

    #[test]
    fn the_last_authentic_address_is_used_and_strangers_cannot_change_it() {
        let (sources, mut learner, now) = (Sources::default(), Learner::default(), Mono(5));
        let (id, at) = remote(1);
        assert_eq!(sources.of(id, at), None);
        learner.learn(&sources, now, remote(1), local(1), false);
        assert_eq!(sources.of(id, at), Some(local(1)));
        learner.learn(&sources, now, remote(1), local(2), true);
        learner.learn(&sources, now, remote(1), local(3), false);
        assert_eq!(sources.of(id, at), Some(local(2)));
        learner.learn(&sources, now, remote(1), local(4), true);
        assert_eq!(sources.of(id, at), Some(local(4)));
    }

    #[test]
    fn strangers_are_limited_per_second_and_the_map_is_bounded() {
        let (sources, mut learner) = (Sources::default(), Learner::default());
        for port in 1..=1000 {
            learner.learn(&sources, Mono(SECOND_US), remote(port), local(1), false);
        }
        assert_eq!(sources.0.load().len(), STRANGERS_PER_S as usize);
        learner.learn(&sources, Mono(2 * SECOND_US), remote(2000), local(1), false);
        assert_eq!(sources.0.load().len(), STRANGERS_PER_S as usize + 1);
        for port in 1..=5000 {
            learner.learn(&sources, Mono(SECOND_US), remote(port), local(2), true);
            assert!(sources.0.load().len() <= REMOTES_MAX);
        }
    }
}
