//! The sending thread: device to sockets.

use std::ops::Range;
use std::os::fd::AsFd;
use std::sync::Arc;
use std::time::Duration;

use arc_swap::{ArcSwap, Cache};
use meshnet::dataplane::fragment::Fragments;
use meshnet::dataplane::icmp::Error;
use meshnet::dataplane::meta::{Meta, Segmentation};
use meshnet::dataplane::split::{Fill, Split};
use meshnet::dataplane::{Cut, Drop as Reason, HEADROOM, Snapshot, TAILROOM, Tx, TxVerdict, packet, tx};
use meshnet::io::clock;
use meshnet::io::tun::{Device, DeviceError, READ_MAX_BYTES};
use meshnet::io::wake::Interest;
use meshnet::node::Inbound;
use meshnet::time::Mono;
use proto::lane::{self, Flows};

use super::answers::Answers;
use super::counters::{Counters, add};
use super::outbox::Outbox;
use super::report::Report;
use super::{Queues, Shared};

/// A batch ends after this many packets ...
const BATCH_PACKETS: usize = 64;
/// ... or this many bytes, whichever comes first.
const BATCH_BYTES: usize = 60_000;
/// Each packet starts on a cache line.
const ALIGNMENT: usize = 64;
/// Room for one packet of any size.
const READ_BYTES: usize = HEADROOM + READ_MAX_BYTES + TAILROOM + ALIGNMENT;
/// Room for its segments, if it is a super-packet: all of them at ordinary segment sizes; more than one round otherwise.
const SEGMENTS_BYTES: usize = 128 * 1024;
/// Room for a batch and one super-packet more. What is never written to takes no memory.
const ARENA_BYTES: usize =
    BATCH_BYTES + BATCH_PACKETS * (HEADROOM + TAILROOM + ALIGNMENT) + READ_BYTES + SEGMENTS_BYTES;
/// Segments of a super-packet that is handed up because there is no session.
const HAND_UP_MAX: usize = 64;
/// How long to wait for a full send buffer: meanwhile packets queue up before the device, where senders feel it.
const PATIENCE: Duration = Duration::from_millis(100);
/// Rest after an error that should not be.
const REST: Duration = Duration::from_millis(20);

/// One sending thread.
pub(super) struct Sender {
    shared: Arc<Shared>,
    queues: Queues,
    /// The last batch was full without a packet in bulk: it is their turn.
    bulk_waits: bool,
    snapshot: Cache<Arc<ArcSwap<Snapshot>>, Arc<Snapshot>>,
    tx: Tx,
    outbox: Outbox,
    answers: Answers,
    arena: Box<[u8]>,
    /// Which of the wake-ups and counters are ours.
    thread: usize,
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

/// What was read so far.
#[derive(Default)]
struct Batch {
    /// Where the arena is free.
    start: usize,
    packets: usize,
    bytes: usize,
}

impl Batch {
    fn has_room(&self) -> bool {
        self.packets < BATCH_PACKETS
            && self.bytes < BATCH_BYTES
            && self.start + READ_BYTES + SEGMENTS_BYTES <= ARENA_BYTES
    }
}

impl Sender {
    pub(super) fn new(shared: Arc<Shared>, queues: Queues, number: usize) -> Sender {
        let (snapshot, thread) = (Cache::new(shared.snapshot.clone()), shared.receivers + number);
        let answers = Answers::new(queues.first.clone());
        Sender {
            shared,
            queues,
            bulk_waits: false,
            snapshot,
            tx: Tx::for_queue(number as u8),
            outbox: Outbox::new(number),
            answers,
            arena: vec![0; ARENA_BYTES].into_boxed_slice(),
            thread,
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
        let first = (self.queues.first.as_fd(), Interest::Readable);
        let sources =
            [first, self.queues.bulk.as_ref().map_or(first, |bulk| (bulk.as_fd(), Interest::Readable))];
        let count = 1 + usize::from(self.queues.bulk.is_some());
        if let Err(error) = self.shared.wakes[self.thread].wait(&sources[..count], None) {
            tracing::error!(%error, "cannot wait for the device");
            add(&self.counters().receive_errors, 1);
            std::thread::sleep(REST);
        }
    }

    /// Reads, seals, and sends what is waiting, up to one batch. Flows in bulk have their turn when nothing else waits, or
    /// after a batch of others: so every other batch may be theirs, and none of them starves.
    fn batch(&mut self) -> Drained {
        let now = clock::mono();
        self.resend(now);
        self.tell_lost(now);
        let mut batch = Batch::default();
        let bulk_first = std::mem::take(&mut self.bulk_waits);
        let drained = if bulk_first {
            match self.read_bulk(now, &mut batch) {
                Drained::Empty => self.read_first(now, &mut batch),
                other => other,
            }
        } else {
            match self.read_first(now, &mut batch) {
                Drained::Empty => self.read_bulk(now, &mut batch),
                other => {
                    self.bulk_waits = self.queues.bulk.is_some();
                    other
                }
            }
        };
        if batch.packets > 0 {
            let counters = self.counters();
            add(&counters.tx_batches, 1);
            add(&counters.tx_packets, batch.packets);
            add(&counters.tx_bytes, batch.bytes);
            self.flush();
        }
        drained
    }

    fn read_first(&mut self, now: Mono, batch: &mut Batch) -> Drained {
        let queue = self.queues.first.clone();
        self.read(&*queue, now, batch)
    }

    fn read_bulk(&mut self, now: Mono, batch: &mut Batch) -> Drained {
        let Some(queue) = self.queues.bulk.clone() else { return Drained::Empty };
        let before = batch.packets;
        self.tx.turn_to(Flows::Bulk);
        let drained = self.read(&*queue, now, batch);
        self.tx.turn_to(Flows::Sparse);
        add(&self.counters().tx_bulk_packets, batch.packets - before);
        drained
    }

    /// Takes packets off one queue, until it is empty or the batch is full.
    fn read(&mut self, queue: &dyn Device, now: Mono, batch: &mut Batch) -> Drained {
        while batch.has_room() {
            let inner = batch.start + HEADROOM;
            let packet = match queue.read(&mut self.arena[inner..inner + READ_MAX_BYTES]) {
                Ok(Some(packet)) => packet,
                Ok(None) => return Drained::Empty,
                Err(DeviceError::Gone) => return Drained::Gone,
                Err(error) => {
                    tracing::warn!(%error, "cannot read from the device");
                    add(&self.counters().receive_errors, 1);
                    std::thread::sleep(REST);
                    return Drained::Full;
                }
            };
            batch.start = self.packet(now, inner..inner + packet.len, &packet.meta);
            batch.packets += 1;
            batch.bytes += packet.len;
        }
        Drained::Full
    }

    /// Sends once more what a relay lost that is gone, if the control plane asks for it.
    fn resend(&mut self, now: Mono) {
        let snapshot = self.snapshot.load();
        if !self.tx.has_resend(snapshot) {
            return;
        }
        let (shared, outbox) = (&self.shared, &mut self.outbox);
        outbox.mark(0);
        let thread = self.thread;
        let count = self.tx.resend(snapshot, now, &mut self.arena, |arena, outgoing| {
            outbox.push(
                lane::number_of(&arena[outgoing.range.clone()]),
                outgoing.socket,
                outgoing.to,
                outgoing.range,
            );
            // The next one takes the same place.
            outbox.flush(arena, shared, thread, PATIENCE);
        });
        add(&shared.counters[thread].resent, count);
    }

    /// Tells the senders of packets that were lost because a path got narrower, if the control plane says that one did.
    fn tell_lost(&mut self, now: Mono) {
        let snapshot = self.snapshot.load();
        if !self.tx.has_narrowed(snapshot) {
            return;
        }
        let (answers, counters) = (&mut self.answers, &self.shared.counters[self.thread].answers);
        self.tx.narrowed(snapshot, now, |head, mtu| answers.tell_lost(counters, now, head, mtu));
    }

    /// Deals with one packet, and says where the arena is free behind all that has to be sent.
    fn packet(&mut self, now: Mono, inner: Range<usize>, meta: &Meta) -> usize {
        let mut free = (inner.end + TAILROOM).next_multiple_of(ALIGNMENT);
        let lane = self.tx.lane().number();
        let snapshot = self.snapshot.load();
        let tos = if snapshot.copy_tos { packet::tos(&self.arena[inner.clone()]) } else { 0 };
        self.outbox.mark(tos);
        let mut verdict = self.tx.process(snapshot, now, &mut self.arena, inner.clone(), meta);
        if matches!(verdict, TxVerdict::Silent) {
            let counters = &self.shared.counters[self.thread].answers;
            self.answers.answer(counters, now, &self.arena[inner.clone()], Error::Unreachable);
            verdict = self.tx.process_all_the_same(snapshot, now, &mut self.arena, inner.clone(), meta);
        }
        match verdict {
            TxVerdict::Send { first, second } => {
                for outgoing in std::iter::once(first).chain(second) {
                    free = free.max(outgoing.range.end.next_multiple_of(ALIGNMENT));
                    if self.outbox.is_full() {
                        self.flush();
                    }
                    self.outbox.push(lane, outgoing.socket, outgoing.to, outgoing.range);
                }
            }
            TxVerdict::Cut(cut) => {
                if self.queues.bulk.is_some() && meta.segmentation != Segmentation::None {
                    self.shared.bulk.note(now, &self.arena[inner.clone()]);
                }
                free = self.cut(cut, inner, free);
            }
            TxVerdict::Fragment(fragments) => free = self.fragment(now, &fragments, inner, free),
            TxVerdict::TooBig { mtu } => self.refuse(now, inner, Reason::TooBig, Error::TooBig { mtu }),
            TxVerdict::Drop(Reason::NoRoute) => self.refuse(now, inner, Reason::NoRoute, Error::NoRoute),
            // The latter was dealt with above.
            TxVerdict::HandUp | TxVerdict::Silent => self.hand_up(inner, meta),
            TxVerdict::Drop(reason) => self.counters().drop_tx(reason),
        }
        if let Some(slot) = self.tx.poll_active() {
            self.shared.reporter.tell(Report::Inbound(Inbound::Active(slot)));
        }
        free
    }

    /// Seals the segments of the super-packet in `inner` behind it, from `free` on.
    fn cut(&mut self, mut cut: Cut, inner: Range<usize>, free: usize) -> usize {
        add(&self.counters().tx_super_packets, 1);
        let (mut next, lane) = (free, self.tx.lane().number());
        while cut.left() > 0 {
            if self.outbox.room() < 2 || ARENA_BYTES - next < cut.stride() {
                self.flush();
                next = free;
            }
            let Some((first, second)) = cut.seal(&mut self.arena, inner.clone(), next..ARENA_BYTES) else {
                // The session with the relay is used up.
                (0..cut.left()).for_each(|_| self.counters().drop_tx(Reason::RelayNoRoute));
                break;
            };
            next = next.max(first.end());
            self.outbox.push_burst(lane, &first);
            if let Some(second) = second {
                next = next.max(second.end());
                self.outbox.push_burst(lane, &second);
            }
        }
        next.next_multiple_of(ALIGNMENT)
    }

    /// Cuts the packet in `inner` into fragments behind it, from `free` on, and sends each.
    fn fragment(&mut self, now: Mono, fragments: &Fragments, inner: Range<usize>, free: usize) -> usize {
        let mut next = free;
        for index in 0..fragments.count() {
            let len = fragments.len_of(index);
            if ARENA_BYTES - next < HEADROOM + len + TAILROOM + ALIGNMENT {
                self.flush();
                next = free;
            }
            let (front, back) = self.arena.split_at_mut(next);
            fragments.write(&front[inner.clone()], index, &mut back[HEADROOM..HEADROOM + len]);
            next = self.packet(now, next + HEADROOM..next + HEADROOM + len, &Meta::PLAIN);
        }
        next
    }

    /// Drops a packet, and tells its sender why.
    #[cold]
    fn refuse(&mut self, now: Mono, packet: Range<usize>, reason: Reason, error: Error) {
        self.counters().drop_tx(reason);
        self.answers.answer(&self.shared.counters[self.thread].answers, now, &self.arena[packet], error);
    }

    /// Gives a packet to the control plane, which makes a session. What waits there is plain packets.
    fn hand_up(&mut self, inner: Range<usize>, meta: &Meta) {
        let packet = &mut self.arena[inner];
        let tell = |bytes| self.shared.reporter.tell(Report::Inbound(Inbound::Packet(bytes)));
        let Some(split) = Split::new(packet, meta) else {
            if tx::complete(packet, meta) {
                tell(packet.to_vec());
            }
            return;
        };
        for index in 0..split.count().min(HAND_UP_MAX) {
            let mut segment = vec![0; split.len_of(index)];
            split.write(packet, index, Fill::Complete, &mut segment);
            tell(segment);
        }
    }

    fn flush(&mut self) {
        self.outbox.flush(&self.arena, &self.shared, self.thread, PATIENCE);
    }

    fn counters(&self) -> &Counters {
        &self.shared.counters[self.thread]
    }

    /// The control plane must hear of it, even if the channel is full now.
    fn tell_gone(&self) {
        self.shared.reporter.insist(Report::DeviceGone, || self.shared.is_stopping());
    }
}
