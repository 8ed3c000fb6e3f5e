//! A receiving thread: sockets to device, to the next hop, or to the control plane.

use std::io::IoSlice;
use std::net::{IpAddr, SocketAddr};
use std::ops::Range;
use std::os::fd::AsFd;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::sync::mpsc;
use std::time::Duration;

use arc_swap::{ArcSwap, Cache};
use meshnet::dataplane::merge::RUN_MAX;
use meshnet::dataplane::{Drop as Reason, Run, Rx, Segment, Snapshot, Verdict, Via, packet};
use meshnet::io::clock;
use meshnet::io::udp::{Batch, Class, Group, Message, Shares, Socket};
use meshnet::io::wake::{Interest, Ready};
use meshnet::node::Inbound;
use meshnet::path::SocketId;
use meshnet::time::Mono;
use proto::lane;

use super::counters::{Counters, add};
use super::familiar::Familiar;
use super::gate::{self, Gate};
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
/// A flood is told of at most this often.
const TELL_EVERY: Duration = Duration::from_secs(60);
/// Room for them: several of the longest.
const GATHERED_BYTES: usize = 256 * 1024;

/// One receiving thread.
pub(super) struct Receiver {
    batch: Batch,
    /// From the sockets for flows in bulk.
    bulk: Batch,
    snapshot: Cache<Arc<ArcSwap<Snapshot>>, Arc<Snapshot>>,
    sockets: Cache<Arc<ArcSwap<Sockets>>, Arc<Sockets>>,
    inbox: mpsc::Receiver<Stray>,
    /// What came from there, side by side; made when the first comes.
    gathered: Box<[u8]>,
    /// The sockets that the kernel thins out for, while it does.
    thinned: Option<Arc<Sockets>>,
    /// When a flood was told of last.
    told: Option<Mono>,
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
    /// The queue on whose lane the packets in it came.
    run_queue: u8,
    /// When the datagrams at hand were received.
    now: Mono,
    /// Other threads that have something in their inbox, by number.
    to_wake: u32,
    /// Datagrams that the kernel had no room for on their way out when that was looked at last.
    no_room: u64,
    /// The same for those that arrived, by socket.
    overrun: [u64; SOCKETS_MAX],
    outbox: Outbox,
    gate: Gate,
    familiar: Familiar,
    /// Of the message at hand.
    dropped: u32,
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
            bulk: Batch::new(),
            snapshot: Cache::new(shared.snapshot.clone()),
            sockets: Cache::new(shared.sockets.clone()),
            inbox,
            gathered: Box::default(),
            thinned: None,
            told: None,
            work: Work {
                number,
                rx: Rx::for_lanes(number, shared.receivers),
                shared,
                queues: queues.to_vec(),
                run,
                run_queue: 0,
                now: Mono(0),
                to_wake: 0,
                no_room: 0,
                overrun: [0; SOCKETS_MAX],
                outbox: Outbox::new(number),
                gate: Gate::new(clock::mono().0 ^ number as u64),
                familiar: Familiar::default(),
                dropped: 0,
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
                let id = SocketId(number as u8);
                let [first, bulk] = places(number);
                if ready.source(first) || ready.source(bulk) || stopping {
                    self.drain(id, group, ready.source(bulk) || stopping);
                }
                for (place, socket) in [first, bulk].into_iter().zip(self.work.sockets_of(group)) {
                    if ready.error(place) {
                        let reporter = &self.work.shared.reporter;
                        socket.read_faults(|fault| reporter.tell(Report::Fault { socket: id, fault }));
                    }
                }
            }
            if stopping {
                return;
            }
            if self.work.finds_no_room(&sockets) {
                self.work.rx.press(self.work.now);
            }
            self.mind_floods(&sockets);
        }
    }

    /// Tells the kernel how much of what strangers send it is to let through.
    fn mind_floods(&mut self, sockets: &Arc<Sockets>) {
        let (gate, now) = (&mut self.work.gate, clock::mono());
        let turn = gate.turn(now);
        let replaced = self.thinned.as_ref().is_some_and(|before| !Arc::ptr_eq(before, sockets));
        if let Some((class, per_s)) = turn.as_ref().and_then(|turn| turn.began)
            && self.told.is_none_or(|told| now.since(told) >= TELL_EVERY)
        {
            self.told = Some(now);
            tracing::warn!(
                per_s = per_s.round(),
                "a flood of {}: a share of them is looked at",
                class.name()
            );
        }
        let shares = match turn {
            Some(turn) => turn.shares,
            None if replaced || gate.thins(Class::Stray) && self.work.familiar.take_changed() => {
                gate.shares()
            }
            None => return,
        };
        let familiar = self.work.familiar.all(now);
        let shares = if familiar.is_some() { shares } else { shares.without(Class::Stray) };
        // No genuine handshake is in bulk, but junk is what its sender makes it.
        let number = self.work.number;
        for socket in sockets
            .iter()
            .flat_map(|group| std::iter::once(group.of_thread(number)).chain(group.bulk_of_thread(number)))
        {
            if let Err(error) = socket.thin(shares, familiar.as_deref().unwrap_or_default()) {
                tracing::debug!(%error, "the kernel does not thin out");
                gate.do_without_kernel();
            }
        }
        self.thinned = (shares != Shares::ALL).then(|| sockets.clone());
    }

    fn wait(&self, sockets: &Sockets) -> Ready {
        let wake = &self.work.shared.wakes[self.work.number];
        let timeout = self.work.gate.is_thinning().then_some(gate::WINDOW);
        let Some(first) = sockets.first() else {
            return wake.wait(&[], timeout).unwrap_or_default();
        };
        let mut sources = [(first.first().as_fd(), Interest::Errors); 2 * SOCKETS_MAX];
        for (number, group) in sockets.iter().enumerate() {
            for (place, socket) in places(number).into_iter().zip(self.work.sockets_of(group)) {
                sources[place] = (socket.as_fd(), Interest::Readable);
            }
        }
        wake.wait(&sources[..2 * sockets.len()], timeout).unwrap_or_else(|error| {
            tracing::error!(%error, "cannot wait for the sockets");
            add(&self.work.counters().receive_errors, 1);
            std::thread::sleep(REST);
            Ready::default()
        })
    }

    /// Takes what has arrived at one address, up to some batches. What is in bulk is fetched before the rest, and dealt with
    /// after it: so others overtake it, and no flow overtakes what it sent before it was in bulk.
    fn drain(&mut self, id: SocketId, group: &Group, has_bulk: bool) {
        let first = group.of_thread(self.work.number);
        let mut bulk = group.bulk_of_thread(self.work.number).filter(|_| has_bulk);
        for round in 1..=ROUNDS {
            bulk = bulk.filter(|bulk| self.work.fetch(bulk, &mut self.bulk));
            let others = self.work.fetch(first, &mut self.batch);
            if !others && bulk.is_none() {
                return;
            }
            for batch in
                [others.then_some(&mut self.batch), bulk.map(|_| &mut self.bulk)].into_iter().flatten()
            {
                self.work.batch(self.snapshot.load(), id, batch);
            }
            // A sender that is as quick as this thread keeps it busy without harm: only what was lost says that it is too much.
            if round == ROUNDS && self.work.is_overrun(id, group) {
                self.work.rx.press(self.work.now);
            }
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

/// Where the sockets of the group with this number are among those that are waited for.
fn places(number: usize) -> [usize; 2] {
    [2 * number, 2 * number + 1]
}

impl Work {
    /// The sockets of a group that are this thread's.
    fn sockets_of<'a>(&self, group: &'a Group) -> impl Iterator<Item = &'a Socket> + use<'a> {
        std::iter::once(group.of_thread(self.number)).chain(group.bulk_of_thread(self.number))
    }

    /// Whether there is something to be dealt with.
    fn fetch(&self, socket: &Socket, batch: &mut Batch) -> bool {
        match socket.receive(batch) {
            Ok(count) => count > 0,
            Err(error) => {
                tracing::warn!(%error, "cannot receive");
                add(&self.counters().receive_errors, 1);
                std::thread::sleep(REST);
                false
            }
        }
    }

    fn batch(&mut self, snapshot: &Snapshot, id: SocketId, batch: &mut Batch) {
        self.now = clock::mono();
        let (buffer, messages) = batch.messages();
        for message in messages {
            self.message(snapshot, self.now, id, &message, buffer);
        }
        self.finish(buffer);
        add(&self.counters().rx_batches, 1);
    }

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
        self.dropped = 0;
        for range in message.datagrams() {
            datagrams += 1;
            bytes += range.len();
            trust = trust.max(self.datagram(snapshot, now, &origin, buffer, range));
        }
        add(&self.counters().rx_datagrams, datagrams);
        add(&self.counters().rx_bytes, bytes);
        if trust == Some(Trust::Authentic) {
            self.familiar.hear(now, message.from.ip());
        } else if self.dropped > 0 && !self.familiar.knows(now, message.from.ip()) {
            self.gate.count(Class::Stray, self.dropped);
        }
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
                self.outbox.push(lane, socket, to, datagram);
            }
            Verdict::Control { receiver, via, frames } => {
                let frames = copy(buffer, frames);
                self.shared.reporter.tell(Report::Inbound(Inbound::Control { receiver, via, frames }));
            }
            Verdict::HandUp { via: Via::Direct { socket, .. }, ref datagram }
                if !socket.is_stream()
                    && Class::of(&buffer[datagram.clone()], true)
                        .is_some_and(|class| !self.gate.admit(class)) =>
            {
                add(&self.counters().thinned, 1);
            }
            Verdict::HandUp { via, datagram } => {
                let bytes = copy(buffer, datagram);
                self.shared.reporter.tell(Report::Inbound(Inbound::Datagram { via, bytes }));
            }
            Verdict::Keepalive => {}
            Verdict::Elsewhere(_) => unreachable!("handed over before"),
            Verdict::Drop(reason) => {
                self.dropped += 1;
                self.counters().drop_rx(reason);
            }
        }
    }

    /// Adds a packet to the run, after writing the run if the packet does not belong to it.
    fn collect(&mut self, buffer: &mut [u8], packet: Range<usize>, segment: &Segment) {
        if !self.run.push(buffer, packet.clone(), segment) {
            self.deliver(buffer);
            self.run.push(buffer, packet, segment);
        }
        self.run_queue = segment.lane.queue();
    }

    /// Writes the run to the device.
    fn deliver(&mut self, buffer: &mut [u8]) {
        let Some((meta, pieces)) = self.run.finish(buffer) else { return };
        let mut parts = [IoSlice::new(&[]); RUN_MAX];
        for (part, piece) in parts.iter_mut().zip(pieces) {
            *part = IoSlice::new(&buffer[piece.clone()]);
        }
        let counters = &self.shared.counters[self.number];
        let queues = &self.queues[usize::from(self.run_queue) % self.queues.len()];
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

    /// Whether datagrams were lost on the way out since this was asked last.
    fn finds_no_room(&mut self, sockets: &Sockets) -> bool {
        let own = sockets.iter().map(|group| group.of_thread(self.number).stats());
        let lost: u64 = own.map(|stats| stats.no_buffers.load(Ordering::Relaxed)).sum();
        let no_room = lost + self.counters().send_blocked.load(Ordering::Relaxed);
        // Fewer, after sockets were replaced, say nothing.
        std::mem::replace(&mut self.no_room, no_room) < no_room
    }

    /// Whether more arrived than the sockets' buffers hold since this was asked last.
    fn is_overrun(&mut self, id: SocketId, group: &Group) -> bool {
        let lost = self.sockets_of(group).map(Socket::kernel_drops).sum();
        let Some(before) = self.overrun.get_mut(usize::from(id.0)) else { return false };
        std::mem::replace(before, lost) < lost
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
