//! TCP transfers whose every byte is checked.

use super::done;
use super::noise::Noise;
use netlab::Machine;
use std::io::{self, Read, Write};
use std::net::{IpAddr, Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

/// Bytes made and checked at a time.
const CHUNK: usize = 1 << 16;
/// A transfer that stands still for so long has failed.
const STALL: Duration = Duration::from_secs(10);

/// Sends so many bytes of noise over TCP from one machine to an address of another, which checks that each of them is
/// what was sent, and answers in the end. Gives the rate in Mbit/s.
///
/// # Panics
/// When a byte is wrong or missing, or nothing moves for some seconds.
pub fn transfer(from: &Machine, to: &Machine, address: IpAddr, bytes: u64) -> f64 {
    transfer_during(from, to, address, bytes, || {}).mbit_per_s
}

/// How a transfer went.
#[derive(Clone, Copy, Debug)]
pub struct Transferred {
    /// The rate.
    pub mbit_per_s: f64,
    /// The longest time in which nothing arrived.
    pub longest_gap: Duration,
}

/// As [`transfer`]; something happens when a quarter of it has arrived.
///
/// # Panics
/// When a byte is wrong or missing, or nothing moves for some seconds.
pub fn transfer_during(
    from: &Machine,
    to: &Machine,
    address: IpAddr,
    bytes: u64,
    event: impl FnOnce(),
) -> Transferred {
    let start = Instant::now();
    let mut stream = Stream::start(from, to, address, bytes);
    stream.wait_for(bytes / 4);
    event();
    let longest_gap = stream.end();
    Transferred { mbit_per_s: bytes as f64 * 8.0 / 1e6 / start.elapsed().as_secs_f64(), longest_gap }
}

/// A thread in a machine, which may not get there, and may fail there.
type Inside<T> = JoinHandle<Result<io::Result<T>, netlab::Error>>;

/// A transfer under way.
struct Stream {
    receiver: Option<Inside<(u64, Duration)>>,
    sender: Option<Inside<u64>>,
    arrived: Arc<AtomicU64>,
}

impl Stream {
    fn start(from: &Machine, to: &Machine, address: IpAddr, bytes: u64) -> Stream {
        let listener = done(done(to.enter(|| TcpListener::bind((address, 0)))));
        let target = done(listener.local_addr());
        let arrived = Arc::new(AtomicU64::new(0));
        let counter = arrived.clone();
        let receiver = Some(done(to.thread(move || receive(&listener, &counter))));
        let sender = Some(done(from.thread(move || send(target, bytes))));
        Stream { receiver, sender, arrived }
    }

    fn arrived(&self) -> u64 {
        self.arrived.load(Ordering::Relaxed)
    }

    /// Until so many bytes have arrived, or it has failed.
    fn wait_for(&self, bytes: u64) {
        let failed = || self.receiver.as_ref().is_none_or(JoinHandle::is_finished);
        while self.arrived() < bytes && !failed() {
            std::thread::sleep(Duration::from_millis(2));
        }
    }

    /// Gives the longest time in which nothing arrived.
    fn end(&mut self) -> Duration {
        fn joined<T>(thread: Option<Inside<T>>) -> Option<T> {
            let joined = |thread: Inside<T>| thread.join().unwrap_or_else(|it| std::panic::resume_unwind(it));
            thread.map(|thread| done(done(joined(thread))))
        }
        let Some((received, longest_gap)) = joined(self.receiver.take()) else { return Duration::ZERO };
        let sent = joined(self.sender.take());
        assert_eq!(Some(received), sent, "bytes that arrived, and that were sent");
        longest_gap
    }
}

/// Gives the number of bytes.
fn send(target: SocketAddr, bytes: u64) -> io::Result<u64> {
    let mut stream = TcpStream::connect_timeout(&target, STALL)?;
    stream.set_write_timeout(Some(STALL))?;
    stream.set_read_timeout(Some(STALL))?;
    let mut noise = Noise::new();
    let mut chunk = vec![0; CHUNK];
    let mut sent = 0;
    while sent < bytes {
        let len = usize::try_from(bytes - sent).unwrap_or(CHUNK).min(CHUNK);
        noise.fill(&mut chunk);
        stream.write_all(&chunk[..len])?;
        sent += len as u64;
    }
    stream.shutdown(Shutdown::Write)?;
    stream.read_exact(&mut [0])?;
    Ok(sent)
}

/// Gives the number of bytes, and the longest time in which nothing came.
fn receive(listener: &TcpListener, arrived: &AtomicU64) -> io::Result<(u64, Duration)> {
    let (mut stream, _) = listener.accept()?;
    stream.set_read_timeout(Some(STALL))?;
    let mut noise = Noise::new();
    let (mut chunk, mut expected) = (vec![0; CHUNK], vec![0; CHUNK]);
    let mut received = 0;
    let mut longest_gap = Duration::ZERO;
    loop {
        let mut filled = 0;
        while filled < CHUNK {
            let waits = Instant::now();
            match stream.read(&mut chunk[filled..])? {
                0 => break,
                len => filled += len,
            }
            arrived.store(received + filled as u64, Ordering::Relaxed);
            longest_gap = longest_gap.max(waits.elapsed());
        }
        noise.fill(&mut expected);
        if chunk[..filled] != expected[..filled] {
            return Err(io::Error::new(io::ErrorKind::InvalidData, format!("wrong bytes after {received}")));
        }
        received += filled as u64;
        if filled < CHUNK {
            break;
        }
    }
    stream.write_all(&[1])?;
    Ok((received, longest_gap))
}
