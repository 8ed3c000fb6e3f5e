//! How much a relay carries for each of its neighbours: token buckets over bytes, one for each source.

use super::snapshot::{MemberSlot, RelayLimit};
use crate::time::Mono;

/// Buckets by the slot of the neighbour that the datagrams come from.
#[derive(Debug, Default)]
pub struct Budgets(Vec<Bucket>);

/// When it is full again; taking bytes moves that on (the virtual scheduling form of GCRA, ITU-T I.371). In nanoseconds,
/// for a datagram may take less than a microsecond.
#[derive(Clone, Copy, Debug, Default)]
struct Bucket {
    full_at_ns: u64,
}

const NS_PER_S: u64 = 1_000_000_000;

impl Budgets {
    /// Takes `bytes` from the allowance of the neighbour in `slot`; `false` if there is not so much left.
    pub fn spend(&mut self, slot: MemberSlot, limit: &RelayLimit, now: Mono, bytes: usize) -> bool {
        if self.0.len() <= slot.index() {
            // Grows with the number of members, not with datagrams.
            self.0.resize(slot.index() + 1, Bucket::default());
        }
        let bucket = &mut self.0[slot.index()];
        let now_ns = now.0.saturating_mul(1000);
        let full_at_ns = bucket.full_at_ns.max(now_ns).saturating_add(time_of(bytes as u64, limit));
        let allowed = full_at_ns <= now_ns.saturating_add(time_of(limit.burst_bytes, limit));
        if allowed {
            bucket.full_at_ns = full_at_ns;
        }
        allowed
    }
}

/// What so many bytes take at the limit's rate, in nanoseconds.
fn time_of(bytes: u64, limit: &RelayLimit) -> u64 {
    let nanoseconds = u128::from(bytes) * u128::from(NS_PER_S) / u128::from(limit.bytes_per_s.max(1));
    u64::try_from(nanoseconds).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    const LIMIT: RelayLimit = RelayLimit { bytes_per_s: 1_000_000, burst_bytes: 50_000 };

    #[test]
    fn a_flood_gets_its_rate_and_no_more_and_others_do_not_feel_it() {
        let mut budgets = Budgets::default();
        let (flood, other) = (MemberSlot(7), MemberSlot(2));
        let (mut carried, mut others) = (0, 0);
        for step in 0..1_000_000_u64 {
            let now = Mono(5_000_000 + step * 10);
            carried += u64::from(budgets.spend(flood, &LIMIT, now, 1000)) * 1000;
            if step % 200 == 0 {
                others += u64::from(budgets.spend(other, &LIMIT, now, 1000));
            }
        }
        let expected = 10 * LIMIT.bytes_per_s + LIMIT.burst_bytes;
        assert!(carried.abs_diff(expected) <= 2000, "{carried} of {expected}");
        assert_eq!(others, 5000, "at half the rate nothing is dropped");
    }

    #[test]
    fn a_burst_passes_at_once_and_what_is_longer_than_it_never() {
        let mut budgets = Budgets::default();
        let (slot, now) = (MemberSlot(0), Mono(1));
        assert_eq!((0..60).filter(|_| budgets.spend(slot, &LIMIT, now, 1000)).count(), 50);
        assert!(!budgets.spend(slot, &LIMIT, Mono(u64::MAX / 2000), 50_001));
        let fast = RelayLimit { bytes_per_s: u64::MAX, burst_bytes: 1500 };
        assert!((0..1000).all(|_| budgets.spend(MemberSlot(1), &fast, now, 1500)));
    }
}
