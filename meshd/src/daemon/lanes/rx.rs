//! A receiving thread: sockets to device, to the next hop, or to the control plane.

use std::io::IoSlice;
use std::net::{IpAddr, SocketAddr};
use std::ops::Range;
use std::os::fd::AsFd;
use std::sync::Arc;
use std::sync::mpsc;
use std::time::Duration;

use arc_swap::{ArcSwap, Cache};
use meshnet::dataplane::merge::RUN_MAX;
use meshnet::dataplane::{Drop as Reason, Run, Rx, Segment, Snapshot, Verdict, Via, packet};
use meshnet::io::clock;
use meshnet::io::udp::{Batch, Message, Socket};
use meshnet::io::wake::{Interest, Ready};
use meshnet::node::Inbound;
use meshnet::path::SocketId;
use meshnet::time::Mono;
use proto::lane;

use super::counters::{Counters, add};
use super::inbox::Stray;
use super::outbox::Outbox;
use super::report::Report;
use super::sources::Learner;
use super::{Queues, SOCKETS_MAX, Shared, Sockets};

/// Batches taken from one socket before the next one has its turn.
const ROUNDS: usize = 16;
/// How long a full send buffer may hold up receiving; what cannot be relayed by then is dropped.
const PATIENCE: Duration = Duration::from_millis(2);
/// Rest after an error that should not be.
const REST: Duration = Duration::from_millis(20);
/// The ECN bits of TOS or traffic class when a router is congested (RFC 3168).
const CONGESTED: u8 = 3;
/// Datagrams taken from other threads before the sockets have their turn.
const STRAYS: usize = 256;
/// Room for them: several of the longest.
const GATHERED_BYTES: usize = 256 * 1024;

/// One receiving thread.
pub(super) struct Receiver {
    batch: Batch,
    snapshot: Cache<Arc<ArcSwap<Snapshot>>, Arc<Snapshot>>,
    sockets: Cache<Arc<ArcSwap<Sockets>>, Arc<Sockets>>,
    inbox: mpsc::Receiver<Stray>,
    /// What came from there, side by side; made when the first comes.
    gathered: Box<[u8]>,
    work: Work,
}

/// All but what the batch is borrowed from.
struct Work {
    /// Which of the threads it is, and so which wake-up and counters are ours.
    number: usize,
    shared: Arc<Shared>,
    /// All of the device's: a flow is answered on the queue that its packets are written to.
    queues: Vec<Queues>,
    rx: Rx,
    /// What the device gets next.
    run: Run,
    /// The lane of the packets in it.
    run_lane: u8,
    /// When the datagrams at hand were received.
    now: Mono,
    /// Other threads that have something in their inbox, by number.
    to_wake: u32,
    outbox: Outbox,
    learner: Learner,
}

impl Receiver {
    /// The thread with this number.
    pub(super) fn new(
        shared: Arc<Shared>,
        queues: &[Queues],
        number: usize,
        inbox: mpsc::Receiver<Stray>,
    ) -> Receiver {
        let run = Run::new(queues[0].first.offloads());
        Receiver {
            batch: Batch::new(),
            snapshot: Cache::new(shared.snapshot.clone()),
            sockets: Cache::new(shared.sockets.clone()),
            inbox,
            gathered: Box::default(),
            work: Work {
                number,
                rx: Rx::for_lanes(number, shared.receivers),
                shared,
                queues: queues.to_vec(),
                run,
                run_lane: 0,
                now: Mono(0),
                to_wake: 0,
                outbox: Outbox::new(number),
                learner: Learner::default(),
            },
        }
    }

    /// Runs until told to stop.
    pub(super) fn run(mut self) {
        loop {
            let sockets = self.sockets.load().clone();
            let ready = self.wait(&sockets);
            let stopping = self.work.shared.is_stopping();
            self.take_strays();
            for (number, group) in sockets.iter().enumerate() {
                let (id, socket) = (SocketId(number as u8), group.of_lane(self.work.number));
                if ready.source(number) || stopping {
                    self.drain(id, socket);
                }
                if ready.error(number) {
                    let reporter = &self.work.shared.reporter;
                    socket.read_faults(|fault| reporter.tell(Report::Fault { socket: id, fault }));
                }
            }
            if stopping {
                return;
            }
        }
    }

    fn wait(&self, sockets: &Sockets) -> Ready {
        let (wake, number) = (&self.work.shared.wakes[self.work.number], self.work.number);
        let Some(first) = sockets.first() else {
            return wake.wait(&[], None).unwrap_or_default();
        };
        let mut sources = [(first.of_lane(number).as_fd(), Interest::Readable); SOCKETS_MAX];
        for (source, group) in sources.iter_mut().zip(sockets) {
            source.0 = group.of_lane(number).as_fd();
        }
        wake.wait(&sources[..sockets.len()], None).unwrap_or_else(|error| {
            tracing::error!(%error, "cannot wait for the sockets");
            add(&self.work.counters().receive_errors, 1);
            std::thread::sleep(REST);
            Ready::default()
        })
    }

    /// Takes what has arrived at one socket, up to some batches.
    fn drain(&mut self, id: SocketId, socket: &Socket) {
        for _ in 0..ROUNDS {
            match socket.receive(&mut self.batch) {
                Ok(0) => return,
                Ok(_) => {}
                Err(error) => {
                    tracing::warn!(%error, "cannot receive");
                    add(&self.work.counters().receive_errors, 1);
                    std::thread::sleep(REST);
                    return;
                }
            }
            let (snapshot, now) = (self.snapshot.load(), clock::mono());
            self.work.now = now;
            let (buffer, messages) = self.batch.messages();
            for message in messages {
                self.work.message(snapshot, now, id, &message, buffer);
            }
            self.work.finish(buffer);
            add(&self.work.counters().rx_batches, 1);
        }
    }

    /// Takes what other threads received for this one, up to some; for the rest it wakes itself.
    fn take_strays(&mut self) {
        let (mut left, mut end) = (STRAYS, 0);
        while left > 0 {
            let Ok(Stray { socket, from, local, tos, bytes }) = self.inbox.try_recv() else { break };
            left -= 1;
            if self.gathered.is_empty() {
                self.gathered = vec![0; GATHERED_BYTES].into_boxed_slice();
            }
            if GATHERED_BYTES - end < bytes.len() {
                self.work.finish(&mut self.gathered);
                end = 0;
            }
            // Side by side, so that what belongs together is written to the device together.
            let range = end..end + bytes.len();
            self.gathered[range.clone()].copy_from_slice(&bytes);
            end = range.end;
            let (snapshot, now) = (self.snapshot.load(), clock::mono());
            let origin = Origin { socket, from, local, tos };
            self.work.now = now;
            let trust = self.work.datagram(snapshot, now, &origin, &mut self.gathered, range);
            if socket == SocketId::ACCEPTED && trust == Some(Trust::Authentic) {
                self.work.shared.streams.confirm((socket, from));
            }
            self.work.learn(now, &origin, trust);
        }
        if end > 0 {
            self.work.finish(&mut self.gathered);
        }
        if left == 0 {
            self.work.shared.wakes[self.work.number].wake();
        }
    }
}

impl Work {
    fn message(
        &mut self,
        snapshot: &Snapshot,
        now: Mono,
        socket: SocketId,
        message: &Message,
        buffer: &mut [u8],
    ) {
        let origin = Origin { socket, from: message.from, local: message.local, tos: message.tos };
        let (mut datagrams, mut bytes) = (0, 0);
        let mut trust = None;
        for range in message.datagrams() {
            datagrams += 1;
            bytes += range.len();
            trust = trust.max(self.datagram(snapshot, now, &origin, buffer, range));
        }
        add(&self.counters().rx_datagrams, datagrams);
        add(&self.counters().rx_bytes, bytes);
        self.learn(now, &origin, trust);
    }

    /// Does what is to be done with the datagram in `buffer[range]`, and says what it tells about its sender.
    fn datagram(
        &mut self,
        snapshot: &Snapshot,
        now: Mono,
        origin: &Origin,
        buffer: &mut [u8],
        range: Range<usize>,
    ) -> Option<Trust> {
        // A relay is a router: it passes on what the datagram says of its urgency, and that a queue was long.
        self.outbox.mark(origin.tos);
        let verdict = self.rx.process(snapshot, now, origin.socket, origin.from, buffer, range.clone());
        if let Verdict::Elsewhere(thread) = verdict {
            self.hand_over(thread, origin, &buffer[range]);
            return None;
        }
        let trust = trust_in(&verdict);
        if let Verdict::Deliver { packet, .. } = &verdict
            && origin.tos & CONGESTED == CONGESTED
            && !packet::mark_congestion(&mut buffer[packet.clone()])
        {
            self.counters().drop_rx(Reason::NotEcnCapable);
            return trust;
        }
        self.carry_out(verdict, buffer);
        trust
    }

    fn learn(&mut self, now: Mono, origin: &Origin, trust: Option<Trust>) {
        if let (Some(local), Some(trust)) = (origin.local, trust) {
            let remote = (origin.socket, origin.from);
            self.learner.learn(&self.shared.sources, now, remote, local, trust == Trust::Authentic);
        }
    }

    fn hand_over(&mut self, thread: usize, origin: &Origin, datagram: &[u8]) {
        let Origin { socket, from, local, tos } = *origin;
        let stray = Stray { socket, from, local, tos, bytes: datagram.to_vec() };
        if self.shared.inboxes.give(thread, stray).is_ok() {
            self.to_wake |= 1 << thread;
            add(&self.counters().handed_over, 1);
        } else {
            add(&self.counters().handover_full, 1);
        }
    }

    /// Brings to an end what the datagrams in `buffer` began.
    fn finish(&mut self, buffer: &mut [u8]) {
        self.deliver(buffer);
        self.flush(buffer);
        while let Some(notice) = self.rx.poll_notice() {
            self.shared.reporter.tell(Report::Inbound(Inbound::Notice(notice)));
        }
        while self.to_wake != 0 {
            let thread = self.to_wake.trailing_zeros();
            self.to_wake &= self.to_wake - 1;
            self.shared.wakes[thread as usize].wake();
        }
    }

    fn carry_out(&mut self, verdict: Verdict, buffer: &mut [u8]) {
        match verdict {
            Verdict::Deliver { packet, from: _, segment } => self.collect(buffer, packet, &segment),
            Verdict::Forward { socket, to, datagram } => {
                if self.outbox.is_full() {
                    self.flush(buffer);
                }
                add(&self.counters().forwarded, 1);
                let lane = lane::number_of(&buffer[datagram.clone()]);
                self.outbox.push_of_lane(lane, socket, to, datagram);
            }
            Verdict::Control { receiver, via, frames } => {
                let frames = copy(buffer, frames);
                self.shared.reporter.tell(Report::Inbound(Inbound::Control { receiver, via, frames }));
            }
            Verdict::HandUp { via, datagram } => {
                let bytes = copy(buffer, datagram);
                self.shared.reporter.tell(Report::Inbound(Inbound::Datagram { via, bytes }));
            }
            Verdict::Keepalive => {}
            Verdict::Elsewhere(_) => unreachable!("handed over before"),
            Verdict::Drop(reason) => self.counters().drop_rx(reason),
        }
    }

    /// Adds a packet to the run, after writing the run if the packet does not belong to it.
    fn collect(&mut self, buffer: &mut [u8], packet: Range<usize>, segment: &Segment) {
        if !self.run.push(buffer, packet.clone(), segment) {
            self.deliver(buffer);
            self.run.push(buffer, packet, segment);
        }
        self.run_lane = segment.lane.number();
    }

    /// Writes the run to the device.
    fn deliver(&mut self, buffer: &mut [u8]) {
        let Some((meta, pieces)) = self.run.finish(buffer) else { return };
        let mut parts = [IoSlice::new(&[]); RUN_MAX];
        for (part, piece) in parts.iter_mut().zip(pieces) {
            *part = IoSlice::new(&buffer[piece.clone()]);
        }
        let counters = &self.shared.counters[self.number];
        let queues = &self.queues[usize::from(self.run_lane) % self.queues.len()];
        let queue = match &queues.bulk {
            Some(bulk) if self.shared.bulk.are_answered_by(self.now, &parts[0]) => bulk,
            _ => &queues.first,
        };
        match queue.write(&meta, &parts[..pieces.len()]) {
            Ok(()) => {
                add(&counters.device_writes, 1);
                add(&counters.rx_super_packets, usize::from(pieces.len() > 1));
                add(&counters.delivered, pieces.len());
            }
            Err(error) => {
                tracing::trace!(%error, "not delivered");
                add(&counters.device_refused, pieces.len());
            }
        }
    }

    fn flush(&mut self, buffer: &[u8]) {
        self.outbox.flush(buffer, &self.shared, self.number, PATIENCE);
    }

    fn counters(&self) -> &Counters {
        &self.shared.counters[self.number]
    }
}

fn copy(buffer: &[u8], range: Range<usize>) -> Vec<u8> {
    buffer[range].to_vec()
}

/// Where a datagram came from.
struct Origin {
    socket: SocketId,
    from: SocketAddr,
    local: Option<IpAddr>,
    tos: u8,
}

/// What a datagram says about the address that it came from.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Trust {
    /// Somebody sends handshakes from there.
    Stranger,
    /// A peer sends from there.
    Authentic,
}

fn trust_in(verdict: &Verdict) -> Option<Trust> {
    match verdict {
        Verdict::Deliver { .. } | Verdict::Control { .. } | Verdict::Keepalive | Verdict::Forward { .. } => {
            Some(Trust::Authentic)
        }
        Verdict::HandUp { via: Via::Relayed { .. }, .. } => Some(Trust::Authentic),
        Verdict::HandUp { via: Via::Direct { .. }, .. } => Some(Trust::Stranger),
        Verdict::Drop(_) | Verdict::Elsewhere(_) => None,
    }
}
