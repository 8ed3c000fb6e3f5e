//! What the data plane is to do once for some peers: send again over another path what it sent them lately, because their
//! relay is gone; or tell the senders of long packets that these did not arrive, because the path got narrower.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use crate::dataplane::snapshot::{MemberSlot, Once};
use crate::time::Mono;

/// A request stays in the snapshots for so long; the data plane looks at them many times as often.
const KEPT_FOR: Duration = Duration::from_secs(2);
/// Most requests in one snapshot: a relay that is gone may have carried many peers.
const REQUESTS_MAX: usize = 1024;

/// The requests of the last seconds.
#[derive(Default)]
pub(super) struct Requests {
    asked: VecDeque<(Mono, u64, MemberSlot)>,
    number: u64,
    published: Arc<[(u64, MemberSlot)]>,
}

impl Requests {
    /// Asks for it to be done for the peer in `slot`.
    pub(super) fn ask(&mut self, now: Mono, slot: MemberSlot) {
        while self.asked.len() >= REQUESTS_MAX
            || self.asked.front().is_some_and(|(at, ..)| now.since(*at) > KEPT_FOR)
        {
            self.asked.pop_front();
        }
        self.number += 1;
        self.asked.push_back((now, self.number, slot));
        self.published = self.asked.iter().map(|(_, number, slot)| (*number, *slot)).collect();
    }

    /// For the snapshot.
    pub(super) fn current(&self) -> Once {
        Once { number: self.number, peers: self.published.clone() }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_grow_and_old_requests_go() {
        let mut requests = Requests::default();
        assert_eq!(requests.current().number, 0);
        requests.ask(Mono(0), MemberSlot(1));
        requests.ask(Mono(1_000_000), MemberSlot(2));
        assert_eq!(*requests.current().peers, [(1, MemberSlot(1)), (2, MemberSlot(2))]);
        requests.ask(Mono(2_500_000), MemberSlot(1));
        assert_eq!(*requests.current().peers, [(2, MemberSlot(2)), (3, MemberSlot(1))]);
        assert_eq!(requests.current().number, 3);
        for number in 0..5000 {
            requests.ask(Mono(2_500_000), MemberSlot(number));
        }
        assert_eq!(requests.current().peers.len(), REQUESTS_MAX);
    }
}
