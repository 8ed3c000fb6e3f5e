//! The data plane's threads: for each lane one that sends and one that receives.
//!
//! ```text
//! queue --read--> Tx::process --> outbox --sendmmsg--> sockets
//! sockets --recvmmsg--> Rx::process --write--> queue
//!                            |--> outbox --sendmmsg--> sockets     (relayed)
//!                            |--> channel --> control plane        (handshakes, control frames, first packets)
//!                            '--> inbox of another lane            (what the kernel merged across lanes)
//! ```
//!
//! A lane is a queue of the device, a socket of each listen address, and these two threads. The kernel steers datagrams
//! by the lane that they were sealed on to the socket of this number (modulo the lanes), and a flow's packets to the queue
//! that its last packet was written to: so a flow stays on one lane, in order. Where the kernel does not steer datagrams,
//! one thread receives for all lanes.
//!
//! Where the device can have more queues, each lane has a second one for flows in bulk ([`bulk`]), so that others do not wait
//! behind them; and they have keys and a socket of their own for the same reason.
//!
//! They are plain threads without locks, and none writes what another writes. Nothing is allocated per packet, except for
//! what goes to the control plane. The control plane publishes a [`Snapshot`], which the threads look at once per batch.

mod answers;
mod bulk;
mod counters;
mod familiar;
mod gate;
mod inbox;
mod inlet;
mod outbox;
mod report;
mod rx;
mod sources;
mod tx;

#[cfg(test)]
mod tests;

use std::collections::BTreeMap;
use std::io;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;

use arc_swap::ArcSwap;
use meshnet::dataplane::{Snapshot, icmp};
use meshnet::io::tun::Device;
use meshnet::io::udp::{Group, MtuDiscovery, Sent, Transmit};
use meshnet::io::wake::{MAX_SOURCES, Wake};
use meshnet::node;
use meshnet::path::mtu::BASE;
use meshnet::time::Mono;
use tokio::sync::mpsc;

pub use counters::Counters;
pub use report::{CHANNEL_LEN, Report};

use super::streams::{Dial, Prepared, Streams, Table};
use answers::Answers;
use bulk::BulkFlows;
use inbox::Inboxes;
use inlet::LanesInlet;
use report::Reporter;
use sources::Sources;

/// Most addresses that one node listens on; each has two sockets for a thread to wait for.
pub const SOCKETS_MAX: usize = MAX_SOURCES / 2;

/// The node's sockets, a group for each listen address; a [`meshnet::path::SocketId`] is the place in it. All groups have
/// the same number of sockets.
pub type Sockets = Vec<Arc<Group>>;

/// What one lane has of the device.
#[derive(Clone, Debug)]
pub struct Queues {
    /// Read first.
    pub first: Arc<dyn Device>,
    /// For flows in bulk, where the device can have so many queues.
    pub bulk: Option<Arc<dyn Device>>,
}

impl Queues {
    /// For so many lanes from a device's queues: one for each, and if there are enough, a second one for each.
    ///
    /// # Panics
    /// With fewer queues than lanes.
    pub fn of_lanes(queues: &[Arc<dyn Device>], lanes: usize) -> Vec<Queues> {
        let (first, more) = queues.split_at(lanes);
        let bulk = |lane: usize| if more.len() >= lanes { more.get(lane).cloned() } else { None };
        first
            .iter()
            .enumerate()
            .map(|(lane, first)| Queues { first: first.clone(), bulk: bulk(lane) })
            .collect()
    }
}

/// The running threads. Dropping it stops them, too.
pub struct Lanes {
    shared: Arc<Shared>,
    threads: Vec<JoinHandle<()>>,
    /// For what the control plane gives up.
    answers: Mutex<Answers>,
    /// Connections to be made, until somebody makes them.
    dials: Option<mpsc::Receiver<Dial>>,
}

/// What all threads have in common.
struct Shared {
    stop: AtomicBool,
    /// One for each receiving thread, then one for each sending thread.
    wakes: Vec<Wake>,
    /// As the wake-ups; then one for the control plane's thread.
    counters: Vec<Counters>,
    /// Threads that receive.
    receivers: usize,
    inboxes: Inboxes,
    sockets: Arc<ArcSwap<Sockets>>,
    snapshot: Arc<ArcSwap<Snapshot>>,
    sources: Sources,
    bulk: BulkFlows,
    reporter: Reporter,
    /// TCP connections, which are sockets of their own.
    streams: Arc<Table>,
}

impl Lanes {
    /// Starts the threads: one for each lane in `queues` that sends, and as many that receive as the groups have sockets for.
    ///
    /// What the control plane has to see goes to `to_control`, a channel with room for [`CHANNEL_LEN`] reports.
    ///
    /// # Errors
    /// When the system is out of threads or descriptors.
    ///
    /// # Panics
    /// Without a lane, with more than [`SOCKETS_MAX`] groups, or with sockets in one for more threads than there are lanes.
    pub fn start(
        queues: &[Queues],
        sockets: Sockets,
        snapshot: Arc<ArcSwap<Snapshot>>,
        to_control: mpsc::Sender<Report>,
    ) -> io::Result<Lanes> {
        assert!(!queues.is_empty() && sockets.len() <= SOCKETS_MAX);
        let receivers = sockets.first().map_or(1, |group| group.threads());
        assert!(receivers <= queues.len() && sockets.iter().all(|group| group.threads() == receivers));
        let threads = receivers + queues.len();
        let wakes = (0..threads).map(|_| Wake::new()).collect::<io::Result<_>>()?;
        let (inboxes, outlets) = Inboxes::new(receivers);
        let (streams, dials) = Table::new();
        let shared = Arc::new(Shared {
            stop: AtomicBool::new(false),
            wakes,
            sockets: Arc::new(ArcSwap::from_pointee(sockets)),
            snapshot,
            sources: Sources::default(),
            bulk: BulkFlows::new(),
            counters: (0..=threads).map(|_| Counters::default()).collect(),
            receivers,
            inboxes,
            reporter: Reporter::new(to_control),
            streams,
        });
        let answers = Mutex::new(Answers::new(queues[0].first.clone()));
        let mut lanes = Lanes { shared, threads: Vec::new(), answers, dials: Some(dials) };
        for (number, inbox) in outlets.into_iter().enumerate() {
            let receiver = rx::Receiver::new(lanes.shared.clone(), queues, number, inbox);
            lanes.spawn(&format!("mesh-rx{number}"), move || receiver.run())?;
        }
        for (number, queues) in queues.iter().enumerate() {
            let sender = tx::Sender::new(lanes.shared.clone(), queues.clone(), number);
            lanes.spawn(&format!("mesh-tx{number}"), move || sender.run())?;
        }
        Ok(lanes)
    }

    /// Sends a datagram of the control plane, from the address at which its destination last reached us. What the kernel
    /// does not take at once is lost, as anything may be on the way. To be called by one thread only.
    pub fn send(&self, transmit: &node::Transmit) -> Sent {
        if transmit.socket.is_stream() {
            self.shared.streams.send_or_dial((transmit.socket, transmit.to), &transmit.bytes);
            return Sent::All;
        }
        let sockets = self.shared.sockets.load();
        let Some(group) = sockets.get(usize::from(transmit.socket.0)) else {
            return Sent::Unreachable;
        };
        let sender = group.first();
        let from = self.shared.sources.of(transmit.socket, transmit.to);
        let datagram = Transmit::single(transmit.to, from, &transmit.bytes);
        if transmit.whole || transmit.bytes.len() <= usize::from(BASE) {
            return sender.send(&datagram);
        }
        // A handshake with long certificates has to arrive whatever the path carries. What the sending threads send in
        // this moment may be fragmented, too: it would have been lost otherwise.
        let fragmenting = sender.set_mtu_discovery(MtuDiscovery::Fragment);
        let sent = sender.send(&datagram);
        if fragmenting.is_ok()
            && let Err(error) = sender.set_mtu_discovery(MtuDiscovery::Probe)
        {
            tracing::warn!(%error, "the kernel goes on fragmenting");
        }
        sent
    }

    /// Starts the thread of TCP connections, once.
    ///
    /// # Errors
    /// When the system is out of threads or descriptors.
    pub(super) fn start_streams(&mut self, prepared: Prepared) -> io::Result<Option<Streams>> {
        let Some(dials) = self.dials.take() else { return Ok(None) };
        let (table, inlet) = (self.shared.streams.clone(), LanesInlet(self.shared.clone()));
        Streams::start(prepared, table, dials, inlet).map(Some)
    }

    /// The TCP connections.
    pub(super) fn streams(&self) -> &Table {
        &self.shared.streams
    }

    /// Tells the sender of a packet that waited in vain what is wrong.
    pub fn refuse(&self, now: Mono, packet: &[u8], error: icmp::Error) {
        let mut answers = self.answers.lock().unwrap_or_else(PoisonError::into_inner);
        answers.answer(&self.control().answers, now, packet, error);
    }

    /// Lets the sending threads look at the snapshot, even if they have nothing to send.
    pub fn wake_senders(&self) {
        self.shared.wakes[self.shared.receivers..].iter().for_each(Wake::wake);
    }

    /// Replaces the sockets, as after a change of the configuration. Sessions go on.
    ///
    /// # Panics
    /// With more than [`SOCKETS_MAX`] groups, or sockets in one for another number of threads than before.
    pub fn set_sockets(&self, sockets: Sockets) {
        assert!(sockets.len() <= SOCKETS_MAX);
        assert!(sockets.iter().all(|group| group.threads() == self.shared.receivers));
        self.shared.sockets.store(Arc::new(sockets));
        self.shared.wake_all();
    }

    /// The sockets in use, with their own counters.
    pub fn sockets(&self) -> Arc<Sockets> {
        self.shared.sockets.load_full()
    }

    /// What happened so far, in all lanes.
    pub fn counters(&self) -> Counters {
        Counters::sum(&self.shared.counters)
    }

    /// What happened so far in each lane. The first ones have a receiving thread.
    pub fn by_lane(&self) -> Vec<Counters> {
        let (receiving, sending) = self.shared.counters.split_at(self.shared.receivers);
        let sending = &sending[..self.shared.wakes.len() - self.shared.receivers];
        let lane = |(number, sending)| Counters::sum(receiving.get(number).into_iter().chain([sending]));
        sending.iter().enumerate().map(lane).collect()
    }

    /// What happened so far on behalf of the control plane, which is no lane's.
    pub fn control(&self) -> &Counters {
        &self.shared.counters[self.shared.wakes.len()]
    }

    /// Number of threads that receive: as many as send, or one.
    pub fn receivers(&self) -> usize {
        self.shared.receivers
    }

    /// Everything that was lost, by reason, with the sockets' losses (of those in use now) summed up.
    pub fn losses(&self) -> BTreeMap<String, u64> {
        let mut losses: BTreeMap<_, _> = self.counters().losses().collect();
        losses.extend(self.shared.streams.losses().map(|(name, count)| (name.to_owned(), count)));
        losses.extend(self.shared.reporter.drops().map(|(name, count)| (name.to_owned(), count)));
        for socket in self.shared.sockets.load().iter().flat_map(|group| group.sockets()) {
            let kernel = ("receive_buffer_full", socket.kernel_drops());
            for (name, count) in socket.stats().losses().chain([kernel]) {
                *losses.entry(format!("udp_{name}")).or_default() += count;
            }
        }
        losses
    }

    /// Lets the threads deal with what is pending right now, and ends them. Returns the number of threads that had
    /// ended by a panic.
    pub fn stop(mut self) -> usize {
        self.end()
    }

    fn spawn(&mut self, name: &str, body: impl FnOnce() + Send + 'static) -> io::Result<()> {
        let thread = std::thread::Builder::new().name(name.to_owned()).spawn(body)?;
        self.threads.push(thread);
        Ok(())
    }

    fn end(&mut self) -> usize {
        self.shared.stop.store(true, Ordering::Release);
        self.shared.wake_all();
        self.threads.drain(..).map(JoinHandle::join).filter(Result::is_err).count()
    }
}

impl Drop for Lanes {
    fn drop(&mut self) {
        self.end();
    }
}

impl Shared {
    fn is_stopping(&self) -> bool {
        self.stop.load(Ordering::Acquire)
    }

    fn wake_all(&self) {
        self.wakes.iter().for_each(Wake::wake);
    }
}
