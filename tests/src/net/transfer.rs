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
    let start = Instant::now();
    Stream::start(from, to, address, bytes).end().rate_since(start).mbit_per_s
}

/// How a transfer went.
#[derive(Clone, Copy, Debug)]
pub struct Transferred {
    /// The rate.
    pub mbit_per_s: f64,
    /// The longest time in which nothing arrived.
    pub longest_gap: Duration,
}

/// As [`transfer`]; something happens when a quarter of it has arrived, and the other three are sent when it has happened.
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
    let stream = Stream::start(from, to, address, u64::MAX);
    stream.wait_for(bytes / 4);
    event();
    stream.end_after(bytes / 4 * 3);
    stream.end().rate_since(start)
}

/// What arrived of a transfer.
struct Received {
    bytes: u64,
    /// The longest time in which nothing did.
    longest_gap: Duration,
}

impl Received {
    fn rate_since(&self, start: Instant) -> Transferred {
        let mbit_per_s = self.bytes as f64 * 8.0 / 1e6 / start.elapsed().as_secs_f64();
        Transferred { mbit_per_s, longest_gap: self.longest_gap }
    }
}

/// A thread in a machine, which may not get there, and may fail there.
type Inside<T> = JoinHandle<Result<io::Result<T>, netlab::Error>>;

/// A transfer under way.
struct Stream {
    receiver: Inside<Received>,
    sender: Inside<u64>,
    arrived: Arc<AtomicU64>,
    /// So many bytes are sent.
    goal: Arc<AtomicU64>,
}

impl Stream {
    fn start(from: &Machine, to: &Machine, address: IpAddr, bytes: u64) -> Stream {
        let listener = done(done(to.enter(|| TcpListener::bind((address, 0)))));
        let target = done(listener.local_addr());
        let arrived = Arc::new(AtomicU64::new(0));
        let goal = Arc::new(AtomicU64::new(bytes));
        let (counter, until) = (arrived.clone(), goal.clone());
        let receiver = done(to.thread(move || receive(&listener, &counter)));
        let sender = done(from.thread(move || send(target, &until)));
        Stream { receiver, sender, arrived, goal }
    }

    fn arrived(&self) -> u64 {
        self.arrived.load(Ordering::Relaxed)
    }

    /// Until so many bytes have arrived, or it has failed.
    fn wait_for(&self, bytes: u64) {
        let failed = || self.receiver.is_finished();
        while self.arrived() < bytes && !failed() {
            std::thread::sleep(Duration::from_millis(2));
        }
    }

    /// Lets it end when so many bytes more than now have arrived.
    fn end_after(&self, bytes: u64) {
        self.goal.store(self.arrived() + bytes, Ordering::Relaxed);
    }

    /// Waits for its end.
    fn end(self) -> Received {
        fn joined<T>(thread: Inside<T>) -> T {
            done(done(thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))))
        }
        let received = joined(self.receiver);
        assert_eq!(received.bytes, joined(self.sender), "bytes that arrived, and that were sent");
        received
    }
}

/// Sends up to `goal`, which may be moved meanwhile; gives the number of bytes.
fn send(target: SocketAddr, goal: &AtomicU64) -> io::Result<u64> {
    let mut stream = TcpStream::connect_timeout(&target, STALL)?;
    stream.set_write_timeout(Some(STALL))?;
    stream.set_read_timeout(Some(STALL))?;
    let mut noise = Noise::new();
    let mut chunk = vec![0; CHUNK];
    let mut sent = 0;
    loop {
        let left = goal.load(Ordering::Relaxed).saturating_sub(sent);
        if left == 0 {
            break;
        }
        let len = usize::try_from(left).unwrap_or(CHUNK).min(CHUNK);
        noise.fill(&mut chunk);
        stream.write_all(&chunk[..len])?;
        sent += len as u64;
    }
    stream.shutdown(Shutdown::Write)?;
    stream.read_exact(&mut [0])?;
    Ok(sent)
}

fn receive(listener: &TcpListener, arrived: &AtomicU64) -> io::Result<Received> {
    let mut stream = accept_within(listener, 2 * STALL)?;
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
    Ok(Received { bytes: received, longest_gap })
}

/// Who was to connect may have failed to.
fn accept_within(listener: &TcpListener, limit: Duration) -> io::Result<TcpStream> {
    listener.set_nonblocking(true)?;
    let deadline = Instant::now() + limit;
    loop {
        match listener.accept() {
            Ok((stream, _)) => {
                stream.set_nonblocking(false)?;
                return Ok(stream);
            }
            Err(error) if error.kind() == io::ErrorKind::WouldBlock && Instant::now() < deadline => {
                std::thread::sleep(Duration::from_millis(2));
            }
            Err(error) => return Err(error),
        }
    }
}
