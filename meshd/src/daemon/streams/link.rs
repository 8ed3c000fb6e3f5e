//! One connection: what is read from it goes to the data plane, what waits in its queue is written to it.

use std::io;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::{Buf, BytesMut};
use proto::stream;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::sync::mpsc;
use tokio::time::timeout;

use super::table::{Chunk, Key, Link, Table, count};
use super::{Inlet, Io};

/// A datagram that waited for longer is dropped: what is behind it must not wait for it as well.
const STALE: Duration = Duration::from_millis(500);
/// Datagrams may wait this long for a connection to be made.
const STALE_BEFORE: Duration = Duration::from_secs(5);
/// So much is written at a time.
const WRITE_BYTES: usize = 64 * 1024;
/// A connection that takes nothing for this long is given up.
const WRITE_PATIENCE: Duration = Duration::from_secs(15);
/// So much is read at a time.
const READ_BYTES: usize = 64 * 1024;
/// Before something authenticated has arrived, so much is read at a time, and ...
const READ_BYTES_BEFORE: usize = 2 * 1024;
/// ... so much at all.
const STRANGER_BYTES: usize = 64 * 1024;
/// A connection that has to be authenticated must be so after this.
const STRANGER_TIME: Duration = Duration::from_secs(10);
/// A connection on which nothing arrives for this long is closed.
const IDLE: Duration = Duration::from_secs(90);
/// How long the data plane may have no room before what was read is dropped: as long as it may wait at the sender. Nothing else
/// can be in time behind it, and the other end feels that nothing is read.
const INLET_PATIENCE: Duration = STALE;

/// Why a connection ended.
#[derive(Debug, thiserror::Error)]
pub(super) enum End {
    /// The other end closed it.
    #[error("closed by the other end")]
    Closed,
    /// The system says so.
    #[error(transparent)]
    Failed(io::Error),
    /// Nothing came for long, or could be written.
    #[error("nothing came or went for long")]
    Idle,
    /// Whoever is there is no member, or speaks nonsense.
    #[error("no member is there")]
    Stranger,
}

/// Carries datagrams until the connection ends. `must_prove`: it was made by the other end, who may be anybody.
pub(super) async fn run<I: Inlet>(
    (table, inlet): (&Table, &I),
    (key, link): (Key, &Arc<Link>),
    io: Box<dyn Io>,
    queue: &mut mpsc::Receiver<Chunk>,
    must_prove: bool,
) -> End {
    let (reader, writer) = tokio::io::split(io);
    tokio::select! {
        end = read(table, inlet, key, link, reader, must_prove) => end,
        end = write(table, link, writer, queue) => end,
        () = prove(link), if must_prove => {
            count(&table.counters.strangers, 1);
            End::Stranger
        }
    }
}

/// Ends when the connection should have been authenticated, and was not.
async fn prove(link: &Link) {
    tokio::time::sleep(STRANGER_TIME).await;
    if link.is_authentic() {
        std::future::pending::<()>().await;
    }
}

async fn read<I: Inlet>(
    table: &Table,
    inlet: &I,
    key: Key,
    link: &Link,
    mut reader: impl AsyncRead + Unpin,
    must_prove: bool,
) -> End {
    let mut buffer = BytesMut::new();
    let mut strange = 0;
    loop {
        let trusted = !must_prove || link.is_authentic();
        buffer.reserve(if trusted { READ_BYTES } else { READ_BYTES_BEFORE });
        match timeout(IDLE, reader.read_buf(&mut buffer)).await {
            Err(_) => return End::Idle,
            Ok(Err(error)) => return End::Failed(error),
            Ok(Ok(0)) => return End::Closed,
            Ok(Ok(len)) if !trusted => strange += len,
            Ok(Ok(_)) => {}
        }
        if strange > STRANGER_BYTES && !link.is_authentic() {
            count(&table.counters.strangers, 1);
            return End::Stranger;
        }
        let (mut threads, read_at) = (0u32, Instant::now());
        loop {
            let (datagram, next) = match stream::first(&buffer) {
                Ok(Some((datagram, next))) => (datagram.to_vec(), next),
                Ok(None) => break,
                Err(_) => {
                    count(&table.counters.strangers, 1);
                    return End::Stranger;
                }
            };
            buffer.advance(next);
            count(&table.counters.received, 1);
            match give(inlet, key, datagram, read_at).await {
                Some(thread) => threads |= 1 << thread,
                None => count(&table.counters.inbox_full, 1),
            }
        }
        inlet.wake(threads);
    }
}

/// Gives a datagram to the data plane; while that has no room, nothing more is read, and the other end feels it.
async fn give<I: Inlet>(inlet: &I, key: Key, mut datagram: Vec<u8>, read_at: Instant) -> Option<usize> {
    loop {
        match inlet.give(key, datagram) {
            Ok(thread) => return Some(thread),
            Err(back) if read_at.elapsed() < INLET_PATIENCE => datagram = back,
            Err(_) => return None,
        }
        inlet.wake(u32::MAX);
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
}

async fn write(
    table: &Table,
    link: &Link,
    mut writer: impl AsyncWrite + Unpin,
    queue: &mut mpsc::Receiver<Chunk>,
) -> End {
    let made_at = Instant::now();
    let mut buffer = Vec::with_capacity(WRITE_BYTES);
    // The table has a sender as long as the connection is in it.
    while let Some(chunk) = queue.recv().await {
        let mut next = Some(chunk);
        buffer.clear();
        while let Some(chunk) = next {
            link.taken(&chunk);
            let stale = if chunk.queued_at < made_at { STALE_BEFORE } else { STALE };
            if chunk.queued_at.elapsed() > stale {
                count(&table.counters.stale, chunk.datagrams);
            } else {
                count(&table.counters.sent, chunk.datagrams);
                buffer.extend_from_slice(&chunk.bytes);
            }
            next = if buffer.len() < WRITE_BYTES { queue.try_recv().ok() } else { None };
        }
        let written = async {
            writer.write_all(&buffer).await?;
            writer.flush().await
        };
        match timeout(WRITE_PATIENCE, written).await {
            Ok(Ok(())) => {}
            Ok(Err(error)) => return End::Failed(error),
            Err(_) => return End::Idle,
        }
        if buffer.capacity() > 4 * WRITE_BYTES {
            buffer = Vec::with_capacity(WRITE_BYTES);
        }
    }
    End::Closed
}

#[cfg(test)]
mod tests {
    use std::net::SocketAddr;

    use meshnet::path::SocketId;

    use super::*;

    /// Has room from then on, or never.
    #[derive(Clone)]
    struct RoomFrom(Option<Instant>);

    impl Inlet for RoomFrom {
        fn give(&self, _key: Key, datagram: Vec<u8>) -> Result<usize, Vec<u8>> {
            if self.0.is_some_and(|from| Instant::now() >= from) { Ok(3) } else { Err(datagram) }
        }

        fn wake(&self, _threads: u32) {}

        fn closed(&self, _key: Key) {}
    }

    #[tokio::test(flavor = "current_thread")]
    async fn what_was_read_waits_for_room_as_long_as_it_may_wait_at_the_sender() {
        let key = (SocketId::ACCEPTED, SocketAddr::from(([192, 0, 2, 1], 1)));
        let began = Instant::now();
        let soon = RoomFrom(Some(began + Duration::from_millis(100)));
        assert_eq!(give(&soon, key, vec![1], began).await, Some(3));
        assert_eq!(give(&RoomFrom(None), key, vec![2], began).await, None);
        assert!(began.elapsed() >= STALE);
    }
}
