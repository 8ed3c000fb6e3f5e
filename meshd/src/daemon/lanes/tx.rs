//! The sending thread: device to sockets.

use std::ops::Range;
use std::os::fd::AsFd;
use std::sync::Arc;
use std::time::Duration;

use arc_swap::{ArcSwap, Cache};
use meshnet::dataplane::{HEADROOM, Snapshot, TAILROOM, Tx, TxVerdict};
use meshnet::io::clock;
use meshnet::io::tun::{Device, DeviceError, READ_MAX_BYTES};
use meshnet::io::wake::Interest;
use meshnet::node::Inbound;
use meshnet::time::Mono;

use super::Shared;
use super::counters::add;
use super::outbox::Outbox;
use super::report::Report;

/// A batch ends after this many packets ...
const BATCH_PACKETS: usize = 64;
/// ... or this many bytes, whichever comes first.
const BATCH_BYTES: usize = 60_000;
/// Each packet starts on a cache line.
const ALIGNMENT: usize = 64;
/// Room for a batch and one packet of any size.
const ARENA_BYTES: usize =
    BATCH_BYTES + BATCH_PACKETS * (HEADROOM + TAILROOM + ALIGNMENT) + HEADROOM + READ_MAX_BYTES + TAILROOM;
/// How long to wait for a full send buffer: meanwhile packets queue up before the device, where senders feel it.
const PATIENCE: Duration = Duration::from_millis(100);
/// Rest after an error that should not be.
const REST: Duration = Duration::from_millis(20);

/// One sending thread.
pub(super) struct Sender {
    shared: Arc<Shared>,
    device: Arc<dyn Device>,
    snapshot: Cache<Arc<ArcSwap<Snapshot>>, Arc<Snapshot>>,
    tx: Tx,
    outbox: Outbox,
    arena: Box<[u8]>,
    /// Which of the wake-ups is ours.
    wake: usize,
}

/// Why a batch ended.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Drained {
    /// More may be waiting.
    Full,
    /// Nothing is waiting.
    Empty,
    /// The device is gone.
    Gone,
}

impl Sender {
    pub(super) fn new(shared: Arc<Shared>, device: Arc<dyn Device>, number: usize) -> Sender {
        let snapshot = Cache::new(shared.snapshot.clone());
        Sender {
            shared,
            device,
            snapshot,
            tx: Tx::new(),
            outbox: Outbox::new(),
            arena: vec![0; ARENA_BYTES].into_boxed_slice(),
            wake: number + 1,
        }
    }

    /// Runs until told to stop or the device is gone.
    pub(super) fn run(mut self) {
        loop {
            let drained = self.batch();
            if drained == Drained::Gone {
                return self.tell_gone();
            }
            if self.shared.is_stopping() {
                return;
            }
            if drained == Drained::Empty {
                self.wait();
            }
        }
    }

    fn wait(&self) {
        let sources = [(self.device.as_fd(), Interest::Readable)];
        if let Err(error) = self.shared.wakes[self.wake].wait(&sources, None) {
            tracing::error!(%error, "cannot wait for the device");
            add(&self.shared.counters.receive_errors, 1);
            std::thread::sleep(REST);
        }
    }

    /// Reads, seals, and sends what is waiting, up to one batch.
    fn batch(&mut self) -> Drained {
        let now = clock::mono();
        let (mut start, mut packets, mut bytes) = (0, 0, 0);
        let mut drained = Drained::Full;
        while packets < BATCH_PACKETS && bytes < BATCH_BYTES {
            let inner = start + HEADROOM;
            let len = match self.device.read(&mut self.arena[inner..inner + READ_MAX_BYTES]) {
                Ok(Some(packet)) => packet.len,
                Ok(None) => {
                    drained = Drained::Empty;
                    break;
                }
                Err(DeviceError::Gone) => {
                    drained = Drained::Gone;
                    break;
                }
                Err(error) => {
                    tracing::warn!(%error, "cannot read from the device");
                    add(&self.shared.counters.receive_errors, 1);
                    std::thread::sleep(REST);
                    break;
                }
            };
            self.packet(now, inner..inner + len);
            packets += 1;
            bytes += len;
            start = (inner + len + TAILROOM).next_multiple_of(ALIGNMENT);
        }
        if packets > 0 {
            let counters = &self.shared.counters;
            add(&counters.tx_batches, 1);
            add(&counters.tx_packets, packets);
            add(&counters.tx_bytes, bytes);
            self.flush();
        }
        drained
    }

    fn packet(&mut self, now: Mono, inner: Range<usize>) {
        let snapshot = self.snapshot.load();
        match self.tx.process(snapshot, now, &mut self.arena, inner.clone()) {
            TxVerdict::Send { first, second } => {
                for outgoing in std::iter::once(first).chain(second) {
                    if self.outbox.is_full() {
                        self.flush();
                    }
                    self.outbox.push(outgoing.socket, outgoing.to, outgoing.range);
                }
            }
            TxVerdict::HandUp => {
                self.shared.reporter.tell(Report::Inbound(Inbound::Packet(self.arena[inner].to_vec())));
            }
            TxVerdict::Drop(reason) => self.shared.counters.drop_tx(reason),
        }
        if let Some(slot) = self.tx.poll_active() {
            self.shared.reporter.tell(Report::Inbound(Inbound::Active(slot)));
        }
    }

    fn flush(&mut self) {
        self.outbox.flush(&self.arena, &self.shared, &self.shared.wakes[self.wake], PATIENCE);
    }

    /// The control plane must hear of it, even if the channel is full now.
    fn tell_gone(&self) {
        self.shared.reporter.insist(Report::DeviceGone, || self.shared.is_stopping());
    }
}
