//! What the data plane counts.

use std::sync::atomic::{AtomicU64, Ordering};

use meshnet::dataplane::{DROP_REASONS, Drop};

/// Counters of one thread, which alone writes them; or sums of several. All only grow.
#[derive(Debug, Default)]
#[repr(align(128))]
pub struct Counters {
    /// Packets read from the device.
    pub tx_packets: AtomicU64,
    /// Bytes of them.
    pub tx_bytes: AtomicU64,
    /// Batches in which they were read.
    pub tx_batches: AtomicU64,
    /// Super-packets among them, which were cut.
    pub tx_super_packets: AtomicU64,
    /// Packets of flows in bulk, which the others overtook before the device.
    pub tx_bulk_packets: AtomicU64,
    /// Datagrams sent once more over another path because the relay that had them is gone.
    pub resent: AtomicU64,
    /// Datagrams received.
    pub rx_datagrams: AtomicU64,
    /// Bytes of them.
    pub rx_bytes: AtomicU64,
    /// Batches in which they came.
    pub rx_batches: AtomicU64,
    /// Datagrams of other lanes among them, given to the threads of those.
    pub handed_over: AtomicU64,
    /// Packets written to the device.
    pub delivered: AtomicU64,
    /// Writes to the device, each of one or several packets.
    pub device_writes: AtomicU64,
    /// Writes of several packets as one super-packet.
    pub rx_super_packets: AtomicU64,
    /// Datagrams relayed for others.
    pub forwarded: AtomicU64,
    /// Packets that the device did not take: it was down, full, or did not like them.
    pub device_refused: AtomicU64,
    /// Datagrams given up because the kernel's send buffer stayed full.
    pub send_blocked: AtomicU64,
    /// Datagrams for a socket that there is not.
    pub no_socket: AtomicU64,
    /// Datagrams of other lanes that those had no room for.
    pub handover_full: AtomicU64,
    /// Handshake and join datagrams of a flood, dropped so that the rest is looked at in time.
    pub thinned: AtomicU64,
    /// Failed calls to receive or wait.
    pub receive_errors: AtomicU64,
    pub(super) answers: AnswerCounters,
    tx_drops: Drops,
    rx_drops: Drops,
}

#[derive(Debug, Default)]
struct Drops([AtomicU64; DROP_REASONS]);

impl Counters {
    /// The sums of several threads' counters, as they are now.
    pub fn sum<'a>(threads: impl IntoIterator<Item = &'a Counters>) -> Counters {
        let sum = Counters::default();
        for thread in threads {
            for (into, from) in sum.all().zip(thread.all()) {
                into.fetch_add(from.load(Ordering::Relaxed), Ordering::Relaxed);
            }
        }
        sum
    }

    /// Packets from the device dropped for `reason`.
    pub fn tx_drops(&self, reason: Drop) -> u64 {
        self.tx_drops.0[reason as usize].load(Ordering::Relaxed)
    }

    /// Datagrams from the network dropped for `reason`.
    pub fn rx_drops(&self, reason: Drop) -> u64 {
        self.rx_drops.0[reason as usize].load(Ordering::Relaxed)
    }

    /// Everything that was lost, by direction and reason.
    pub fn losses(&self) -> impl Iterator<Item = (String, u64)> + '_ {
        let by_reason = Drop::ALL.into_iter().flat_map(|reason| {
            let name = reason.name();
            [(format!("tx_{name}"), self.tx_drops(reason)), (format!("rx_{name}"), self.rx_drops(reason))]
        });
        let others = self.other_losses();
        by_reason.chain(others.map(|(name, counter)| (name.to_owned(), counter.load(Ordering::Relaxed))))
    }

    /// Everything that was carried.
    pub fn work(&self) -> impl Iterator<Item = (&'static str, u64)> + '_ {
        self.carried().map(|(name, counter)| (name, counter.load(Ordering::Relaxed)))
    }

    pub(super) fn drop_tx(&self, reason: Drop) {
        add(&self.tx_drops.0[reason as usize], 1);
    }

    pub(super) fn drop_rx(&self, reason: Drop) {
        add(&self.rx_drops.0[reason as usize], 1);
    }

    fn carried(&self) -> impl Iterator<Item = (&'static str, &AtomicU64)> {
        let carried = [
            ("tx_packets", &self.tx_packets),
            ("tx_bytes", &self.tx_bytes),
            ("tx_batches", &self.tx_batches),
            ("tx_super_packets", &self.tx_super_packets),
            ("tx_bulk_packets", &self.tx_bulk_packets),
            ("resent", &self.resent),
            ("rx_datagrams", &self.rx_datagrams),
            ("rx_bytes", &self.rx_bytes),
            ("rx_batches", &self.rx_batches),
            ("handed_over", &self.handed_over),
            ("delivered", &self.delivered),
            ("device_writes", &self.device_writes),
            ("rx_super_packets", &self.rx_super_packets),
            ("forwarded", &self.forwarded),
        ];
        carried.into_iter().chain(self.answers.both())
    }

    fn other_losses(&self) -> impl Iterator<Item = (&'static str, &AtomicU64)> {
        [
            ("device_refused", &self.device_refused),
            ("send_blocked", &self.send_blocked),
            ("no_socket", &self.no_socket),
            ("handover_full", &self.handover_full),
            ("thinned", &self.thinned),
            ("receive_errors", &self.receive_errors),
        ]
        .into_iter()
    }

    fn all(&self) -> impl Iterator<Item = &AtomicU64> {
        let named = self.carried().chain(self.other_losses()).map(|(_, counter)| counter);
        named.chain(&self.tx_drops.0).chain(&self.rx_drops.0)
    }
}

/// What a thread's answers count.
#[derive(Debug, Default)]
pub(super) struct AnswerCounters {
    pub(super) sent: AtomicU64,
    pub(super) limited: AtomicU64,
}

impl AnswerCounters {
    /// Errors that were told, and those that were not because there had been too many.
    fn both(&self) -> [(&'static str, &AtomicU64); 2] {
        [("icmp_sent", &self.sent), ("icmp_limited", &self.limited)]
    }
}

pub(super) fn add(counter: &AtomicU64, by: usize) {
    counter.fetch_add(by as u64, Ordering::Relaxed);
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn every_reason_has_a_counter_and_a_name_of_its_own() {
        let counters = Counters::default();
        for (times, reason) in Drop::ALL.into_iter().enumerate() {
            (0..times).for_each(|_| counters.drop_tx(reason));
            counters.drop_rx(reason);
        }
        for (times, reason) in Drop::ALL.into_iter().enumerate() {
            assert_eq!((counters.tx_drops(reason), counters.rx_drops(reason)), (times as u64, 1));
        }
        let names: BTreeSet<_> = counters.losses().map(|(name, _)| name).collect();
        assert_eq!(names.len(), counters.losses().count());
    }

    #[test]
    fn a_sum_has_every_counter_of_every_thread() {
        let threads = [Counters::default(), Counters::default(), Counters::default()];
        for (thread, counters) in threads.iter().enumerate() {
            for (at, counter) in counters.all().enumerate() {
                add(counter, (at + 1) * 10_usize.pow(thread as u32));
            }
        }
        let sum = Counters::sum(&threads);
        assert_eq!(sum.all().count(), 16 + 6 + 2 * DROP_REASONS);
        for (at, counter) in sum.all().enumerate() {
            assert_eq!(counter.load(Ordering::Relaxed), (at as u64 + 1) * 111);
        }
        assert_eq!(size_of::<Counters>() % 128, 0, "no two threads' counters share a cache line");
    }
}
