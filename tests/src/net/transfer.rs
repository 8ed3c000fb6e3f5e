//! TCP transfers whose every byte is checked.

use super::done;
use netlab::Machine;
use std::io::{self, Read, Write};
use std::net::{IpAddr, Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
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
    let listener = done(done(to.enter(|| TcpListener::bind((address, 0)))));
    let target = done(listener.local_addr());
    let arrived = Arc::new(AtomicU64::new(0));
    let counter = arrived.clone();
    let start = Instant::now();
    let receiver = done(to.thread(move || receive(&listener, bytes, &counter)));
    let sender = done(from.thread(move || send(target, bytes)));
    while arrived.load(Ordering::Relaxed) < bytes / 4 && !receiver.is_finished() {
        std::thread::sleep(Duration::from_millis(2));
    }
    event();
    let received = receiver.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic));
    let sent = sender.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic));
    let longest_gap = done(done(received));
    done(done(sent));
    let mbit_per_s = bytes as f64 * 8.0 / 1e6 / start.elapsed().as_secs_f64();
    Transferred { mbit_per_s, longest_gap }
}

fn send(target: SocketAddr, bytes: u64) -> io::Result<()> {
    let mut stream = TcpStream::connect_timeout(&target, STALL)?;
    stream.set_write_timeout(Some(STALL))?;
    stream.set_read_timeout(Some(STALL))?;
    let mut noise = Noise::new();
    let mut chunk = vec![0; CHUNK];
    let mut left = bytes;
    while left > 0 {
        let len = usize::try_from(left).unwrap_or(CHUNK).min(CHUNK);
        noise.fill(&mut chunk);
        stream.write_all(&chunk[..len])?;
        left -= len as u64;
    }
    stream.shutdown(Shutdown::Write)?;
    stream.read_exact(&mut [0])
}

fn receive(listener: &TcpListener, bytes: u64, arrived: &AtomicU64) -> io::Result<Duration> {
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
            longest_gap = longest_gap.max(waits.elapsed());
        }
        noise.fill(&mut expected);
        if chunk[..filled] != expected[..filled] {
            return Err(io::Error::new(io::ErrorKind::InvalidData, format!("wrong bytes after {received}")));
        }
        received += filled as u64;
        arrived.store(received, Ordering::Relaxed);
        if filled < CHUNK {
            break;
        }
    }
    if received != bytes {
        return Err(io::Error::new(io::ErrorKind::UnexpectedEof, format!("{received} of {bytes} bytes")));
    }
    stream.write_all(&[1])?;
    Ok(longest_gap)
}

/// The same noise at both ends (splitmix64).
struct Noise(u64);

impl Noise {
    fn new() -> Noise {
        Noise(0x6d65_7368)
    }

    fn fill(&mut self, chunk: &mut [u8]) {
        for word in chunk.chunks_exact_mut(8) {
            self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
            let mut value = self.0;
            value = (value ^ value >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
            value = (value ^ value >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
            word.copy_from_slice(&(value ^ value >> 31).to_le_bytes());
        }
    }
}
