//! The connections that there are, as those see them who send datagrams over them.
//!
//! The data plane's threads look a connection up in a map that is replaced as a whole, and put what they have into its
//! bounded queue: nobody waits, and nobody takes a lock. What does not fit is dropped, as a full socket buffer would do it.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::time::Instant;

use arc_swap::ArcSwap;
use meshnet::path::SocketId;
use proto::stream;
use tokio::sync::mpsc;

/// Room in a connection's queue, in chunks ...
pub(super) const QUEUE_CHUNKS: usize = 256;
/// ... and in bytes, whichever is used up first.
pub(super) const QUEUE_BYTES: usize = 1024 * 1024;
/// Connections that this node makes, at most.
const DIALED_MAX: usize = 256;
/// Connections that wait to be made.
const COMMANDS_MAX: usize = 64;

/// Which connection: how it is made, and the other end.
pub(in crate::daemon) type Key = (SocketId, SocketAddr);

/// All connections.
pub(in crate::daemon) struct Table {
    links: ArcSwap<HashMap<Key, Arc<Link>>>,
    dial: mpsc::Sender<Dial>,
    pub(super) counters: Counters,
}

/// A connection to be made.
pub(in crate::daemon) struct Dial {
    pub(super) key: Key,
    pub(super) link: Arc<Link>,
    pub(super) queue: mpsc::Receiver<Chunk>,
}

/// One connection, made or being made.
pub(super) struct Link {
    queue: mpsc::Sender<Chunk>,
    /// Bytes in the queue.
    queued: AtomicUsize,
    /// Something authenticated arrived on it.
    authentic: AtomicBool,
}

/// Framed datagrams.
pub(super) struct Chunk {
    pub(super) queued_at: Instant,
    pub(super) datagrams: u64,
    pub(super) bytes: Vec<u8>,
}

/// What happened on all connections. All only grow.
#[derive(Default)]
pub(super) struct Counters {
    pub(super) dialed: AtomicU64,
    pub(super) dial_failed: AtomicU64,
    pub(super) accepted: AtomicU64,
    /// Connections refused because there are too many, or too many from one address.
    pub(super) refused: AtomicU64,
    /// Connections closed because nothing authentic came in time, or nonsense.
    pub(super) strangers: AtomicU64,
    pub(super) sent: AtomicU64,
    pub(super) received: AtomicU64,
    /// Datagrams for a connection that there is not.
    pub(super) no_link: AtomicU64,
    /// Datagrams that a full queue had no room for.
    pub(super) queue_full: AtomicU64,
    /// Datagrams that had waited for too long.
    pub(super) stale: AtomicU64,
    /// Received datagrams that the data plane's threads had no room for.
    pub(super) inbox_full: AtomicU64,
}

impl Table {
    /// An empty one, and where connections to be made come out.
    pub(in crate::daemon) fn new() -> (Arc<Table>, mpsc::Receiver<Dial>) {
        let (dial, dials) = mpsc::channel(COMMANDS_MAX);
        (Arc::new(Table { links: ArcSwap::default(), dial, counters: Counters::default() }), dials)
    }

    /// Sends datagrams, of which each has `segment` bytes but the last one of each piece, over a connection that there is.
    pub(in crate::daemon) fn send<'a>(
        &self,
        key: Key,
        segment: usize,
        pieces: impl Iterator<Item = &'a [u8]> + Clone,
    ) {
        let chunk = Chunk::of(segment, pieces);
        match self.links.load().get(&key) {
            Some(link) => self.put(link, chunk),
            None => count(&self.counters.no_link, chunk.datagrams),
        }
    }

    /// Sends one datagram, and makes the connection if there is none yet. For the control plane's thread.
    pub(in crate::daemon) fn send_or_dial(&self, key: Key, datagram: &[u8]) {
        let chunk = Chunk::of(datagram.len().max(1), std::iter::once(datagram));
        let known = self.links.load().get(&key).cloned();
        let link = match known {
            Some(link) => Some(link),
            None if key.0 != SocketId::ACCEPTED => self.begin(key),
            None => None,
        };
        match link {
            Some(link) => self.put(&link, chunk),
            None => count(&self.counters.no_link, 1),
        }
    }

    fn begin(&self, key: Key) -> Option<Arc<Link>> {
        let dialed = self.links.load().keys().filter(|(socket, _)| *socket != SocketId::ACCEPTED).count();
        if dialed >= DIALED_MAX {
            return None;
        }
        let place = self.dial.try_reserve().ok()?;
        let (link, queue) = Link::new();
        self.insert(key, link.clone());
        place.send(Dial { key, link: link.clone(), queue });
        Some(link)
    }

    fn put(&self, link: &Link, chunk: Chunk) {
        let (len, datagrams) = (chunk.bytes.len(), chunk.datagrams);
        let before = link.queued.fetch_add(len, Ordering::Relaxed);
        if before + len > QUEUE_BYTES || link.queue.try_send(chunk).is_err() {
            link.queued.fetch_sub(len, Ordering::Relaxed);
            count(&self.counters.queue_full, datagrams);
        }
    }

    /// Something authenticated arrived on a connection: it may stay.
    pub(in crate::daemon) fn confirm(&self, key: Key) {
        if let Some(link) = self.links.load().get(&key) {
            link.authentic.store(true, Ordering::Relaxed);
        }
    }

    pub(super) fn insert(&self, key: Key, link: Arc<Link>) {
        self.links.rcu(|links| {
            let mut next = HashMap::clone(links);
            next.insert(key, link.clone());
            next
        });
    }

    /// Removes a connection, unless another has taken its place.
    pub(super) fn remove(&self, key: Key, link: &Arc<Link>) {
        self.links.rcu(|links| {
            let mut next = HashMap::clone(links);
            if next.get(&key).is_some_and(|known| Arc::ptr_eq(known, link)) {
                next.remove(&key);
            }
            next
        });
    }

    /// Number of connections, made or being made.
    pub(in crate::daemon) fn len(&self) -> usize {
        self.links.load().len()
    }

    /// What was counted, by name.
    pub(in crate::daemon) fn counted(&self) -> [(&'static str, u64); 6] {
        let counters = &self.counters;
        let named = [
            ("dialed", &counters.dialed),
            ("dial_failed", &counters.dial_failed),
            ("accepted", &counters.accepted),
            ("refused", &counters.refused),
            ("sent", &counters.sent),
            ("received", &counters.received),
        ];
        named.map(|(name, counter)| (name, counter.load(Ordering::Relaxed)))
    }

    /// What was lost, by reason.
    pub(in crate::daemon) fn losses(&self) -> [(&'static str, u64); 5] {
        let counters = &self.counters;
        let named = [
            ("tcp_no_link", &counters.no_link),
            ("tcp_queue_full", &counters.queue_full),
            ("tcp_stale", &counters.stale),
            ("tcp_inbox_full", &counters.inbox_full),
            ("tcp_strangers", &counters.strangers),
        ];
        named.map(|(name, counter)| (name, counter.load(Ordering::Relaxed)))
    }
}

impl Link {
    pub(super) fn new() -> (Arc<Link>, mpsc::Receiver<Chunk>) {
        let (queue, out) = mpsc::channel(QUEUE_CHUNKS);
        let link = Link { queue, queued: AtomicUsize::new(0), authentic: AtomicBool::new(false) };
        (Arc::new(link), out)
    }

    pub(super) fn is_authentic(&self) -> bool {
        self.authentic.load(Ordering::Relaxed)
    }

    /// A chunk left the queue.
    pub(super) fn taken(&self, chunk: &Chunk) {
        self.queued.fetch_sub(chunk.bytes.len(), Ordering::Relaxed);
    }
}

impl Chunk {
    fn of<'a>(segment: usize, pieces: impl Iterator<Item = &'a [u8]> + Clone) -> Chunk {
        let total: usize =
            pieces.clone().map(|piece| piece.len() + piece.len() / segment.max(1) * 2 + 2).sum();
        let mut bytes = Vec::with_capacity(total);
        let mut datagrams = 0;
        for datagram in pieces.flat_map(|piece| piece.chunks(segment.max(1))) {
            // What no stream can carry is lost, as it would be on a socket.
            let Some(header) = stream::header(datagram.len()) else { continue };
            bytes.extend_from_slice(&header);
            bytes.extend_from_slice(datagram);
            datagrams += 1;
        }
        Chunk { queued_at: Instant::now(), datagrams, bytes }
    }
}

pub(super) fn count(counter: &AtomicU64, by: u64) {
    counter.fetch_add(by, Ordering::Relaxed);
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(socket: SocketId, port: u16) -> Key {
        (socket, SocketAddr::from(([192, 0, 2, 1], port)))
    }

    #[test]
    fn segments_are_framed_one_by_one() {
        let pieces: [&[u8]; 2] = [&[1, 1, 2, 2, 3], &[4, 4]];
        let chunk = Chunk::of(2, pieces.into_iter());
        assert_eq!(chunk.bytes, [0, 2, 1, 1, 0, 2, 2, 2, 0, 1, 3, 0, 2, 4, 4]);
        assert_eq!(chunk.datagrams, 4);
    }

    #[test]
    fn only_the_control_plane_makes_connections_and_only_so_many() {
        let (table, mut dials) = Table::new();
        table.send(key(SocketId::TCP, 1), 10, std::iter::once(&[0; 10][..]));
        table.send_or_dial(key(SocketId::ACCEPTED, 1), &[1]);
        assert!(dials.try_recv().is_err());
        for port in 0..DIALED_MAX as u16 + 9 {
            table.send_or_dial(key(SocketId::TLS, port), &[1]);
            table.send_or_dial(key(SocketId::TLS, port), &[2]);
            let dial = dials.try_recv();
            assert_eq!(dial.is_ok(), usize::from(port) < DIALED_MAX);
            let Ok(mut dial) = dial else { continue };
            let queued = [dial.queue.try_recv(), dial.queue.try_recv()].map(|chunk| chunk.unwrap().bytes);
            assert_eq!(queued, [[0, 1, 1], [0, 1, 2]]);
        }
        assert_eq!(table.losses()[0], ("tcp_no_link", 2 + 18));
    }

    #[test]
    fn a_queue_is_bounded_in_bytes_and_in_number_and_what_is_taken_makes_room() {
        let (table, mut dials) = Table::new();
        let at = key(SocketId::TCP, 1);
        table.send_or_dial(at, &[0]);
        let mut dial = dials.try_recv().unwrap();
        let big = vec![0; 60_000];
        for _ in 0..40 {
            table.send(at, 60_000, std::iter::once(&big[..]));
        }
        assert_eq!(table.losses()[1], ("tcp_queue_full", 40 - (QUEUE_BYTES / 60_002) as u64));
        while let Ok(chunk) = dial.queue.try_recv() {
            dial.link.taken(&chunk);
        }
        for _ in 0..QUEUE_CHUNKS + 5 {
            table.send(at, 1, std::iter::once(&[7][..]));
        }
        assert_eq!(table.losses()[1].1, 40 - (QUEUE_BYTES / 60_002) as u64 + 5);
    }

    #[test]
    fn a_connection_that_was_replaced_is_not_removed_with_the_old_one() {
        let (table, _dials) = Table::new();
        let at = key(SocketId::ACCEPTED, 1);
        let [(old, _old_queue), (new, _new_queue)] = [Link::new(), Link::new()];
        table.insert(at, old.clone());
        table.insert(at, new.clone());
        table.remove(at, &old);
        assert_eq!(table.len(), 1);
        table.confirm(at);
        assert!(new.is_authentic() && !old.is_authentic());
        table.remove(at, &new);
        assert_eq!(table.len(), 0);
    }
}
