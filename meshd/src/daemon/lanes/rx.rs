//! The receiving thread: sockets to device, to the next hop, or to the control plane.

use std::io::IoSlice;
use std::ops::Range;
use std::os::fd::AsFd;
use std::sync::Arc;
use std::time::Duration;

use arc_swap::{ArcSwap, Cache};
use meshnet::dataplane::merge::RUN_MAX;
use meshnet::dataplane::{Run, Rx, Segment, Snapshot, Verdict, Via, packet};
use meshnet::io::clock;
use meshnet::io::tun::Device;
use meshnet::io::udp::{Batch, Message, Socket};
use meshnet::io::wake::{Interest, Ready};
use meshnet::node::Inbound;
use meshnet::path::SocketId;
use meshnet::time::Mono;

use super::counters::add;
use super::outbox::Outbox;
use super::report::Report;
use super::sources::Learner;
use super::{SOCKETS_MAX, Shared, Sockets};

/// Batches taken from one socket before the next one has its turn.
const ROUNDS: usize = 16;
/// How long a full send buffer may hold up receiving; what cannot be relayed by then is dropped.
const PATIENCE: Duration = Duration::from_millis(2);
/// Rest after an error that should not be.
const REST: Duration = Duration::from_millis(20);
/// The ECN bits of TOS or traffic class when a router is congested (RFC 3168).
const CONGESTED: u8 = 3;
/// Which of the wake-ups is ours.
const WAKE: usize = 0;

/// The receiving thread.
pub(super) struct Receiver {
    batch: Batch,
    snapshot: Cache<Arc<ArcSwap<Snapshot>>, Arc<Snapshot>>,
    sockets: Cache<Arc<ArcSwap<Sockets>>, Arc<Sockets>>,
    work: Work,
}

/// All but what the batch is borrowed from.
struct Work {
    shared: Arc<Shared>,
    device: Arc<dyn Device>,
    rx: Rx,
    /// What the device gets next.
    run: Run,
    outbox: Outbox,
    learner: Learner,
}

impl Receiver {
    pub(super) fn new(shared: Arc<Shared>, device: Arc<dyn Device>) -> Receiver {
        let run = Run::new(device.offloads());
        Receiver {
            batch: Batch::new(),
            snapshot: Cache::new(shared.snapshot.clone()),
            sockets: Cache::new(shared.sockets.clone()),
            work: Work {
                shared,
                device,
                rx: Rx::new(),
                run,
                outbox: Outbox::new(),
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
            for (number, socket) in sockets.iter().enumerate() {
                let id = SocketId(number as u8);
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
        let wake = &self.work.shared.wakes[WAKE];
        let Some(first) = sockets.first() else {
            return wake.wait(&[], None).unwrap_or_default();
        };
        let mut sources = [(first.as_fd(), Interest::Readable); SOCKETS_MAX];
        for (source, socket) in sources.iter_mut().zip(sockets) {
            source.0 = socket.as_fd();
        }
        wake.wait(&sources[..sockets.len()], None).unwrap_or_else(|error| {
            tracing::error!(%error, "cannot wait for the sockets");
            add(&self.work.shared.counters.receive_errors, 1);
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
                    add(&self.work.shared.counters.receive_errors, 1);
                    std::thread::sleep(REST);
                    return;
                }
            }
            let (snapshot, now) = (self.snapshot.load(), clock::mono());
            let (buffer, messages) = self.batch.messages();
            for message in messages {
                self.work.message(snapshot, now, id, &message, buffer);
            }
            self.work.deliver(buffer);
            self.work.flush(buffer);
            while let Some(notice) = self.work.rx.poll_notice() {
                self.work.shared.reporter.tell(Report::Inbound(Inbound::Notice(notice)));
            }
            add(&self.work.shared.counters.rx_batches, 1);
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
        let (mut datagrams, mut bytes) = (0, 0);
        let mut trust = None;
        for range in message.datagrams() {
            datagrams += 1;
            bytes += range.len();
            let verdict = self.rx.process(snapshot, now, socket, message.from, buffer, range);
            trust = trust.max(trust_in(&verdict));
            if let Verdict::Deliver { packet, .. } = &verdict
                && message.tos & CONGESTED == CONGESTED
            {
                packet::mark_congestion(&mut buffer[packet.clone()]);
            }
            self.carry_out(verdict, buffer);
        }
        add(&self.shared.counters.rx_datagrams, datagrams);
        add(&self.shared.counters.rx_bytes, bytes);
        if let (Some(local), Some(trust)) = (message.local, trust) {
            let remote = (socket, message.from);
            self.learner.learn(&self.shared.sources, now, remote, local, trust == Trust::Authentic);
        }
    }

    fn carry_out(&mut self, verdict: Verdict, buffer: &mut [u8]) {
        match verdict {
            Verdict::Deliver { packet, from: _, segment } => self.collect(buffer, packet, &segment),
            Verdict::Forward { socket, to, datagram } => {
                if self.outbox.is_full() {
                    self.flush(buffer);
                }
                add(&self.shared.counters.forwarded, 1);
                self.outbox.push(socket, to, datagram);
            }
            Verdict::Control { receiver, via, frames } => {
                let frames = copy(buffer, frames);
                self.shared.reporter.tell(Report::Inbound(Inbound::Control { receiver, via, frames }));
            }
            Verdict::HandUp { via, datagram } => {
                let bytes = copy(buffer, datagram);
                self.shared.reporter.tell(Report::Inbound(Inbound::Datagram { via, bytes }));
            }
            Verdict::Keepalive | Verdict::Elsewhere(_) => {}
            Verdict::Drop(reason) => self.shared.counters.drop_rx(reason),
        }
    }

    /// Adds a packet to the run, after writing the run if the packet does not belong to it.
    fn collect(&mut self, buffer: &mut [u8], packet: Range<usize>, segment: &Segment) {
        if !self.run.push(buffer, packet.clone(), segment) {
            self.deliver(buffer);
            self.run.push(buffer, packet, segment);
        }
    }

    /// Writes the run to the device.
    fn deliver(&mut self, buffer: &mut [u8]) {
        let Some((meta, pieces)) = self.run.finish(buffer) else { return };
        let mut parts = [IoSlice::new(&[]); RUN_MAX];
        for (part, piece) in parts.iter_mut().zip(pieces) {
            *part = IoSlice::new(&buffer[piece.clone()]);
        }
        let counters = &self.shared.counters;
        match self.device.write(&meta, &parts[..pieces.len()]) {
            Ok(()) => {
                add(&counters.device_writes, 1);
                add(&counters.delivered, pieces.len());
            }
            Err(error) => {
                tracing::trace!(%error, "not delivered");
                add(&counters.device_refused, pieces.len());
            }
        }
    }

    fn flush(&mut self, buffer: &[u8]) {
        self.outbox.flush(buffer, &self.shared, &self.shared.wakes[WAKE], PATIENCE);
    }
}

fn copy(buffer: &[u8], range: Range<usize>) -> Vec<u8> {
    buffer[range].to_vec()
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
