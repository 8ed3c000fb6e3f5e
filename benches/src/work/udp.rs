//! The highest rate of UDP packets that gets through.
//!
//! Sender and receiver are threads of this process in the namespaces of the two ends. The sender follows a time-table
//! in small bursts and never uses segmentation offload: each packet is one packet for the tunnel. The search doubles
//! the rate until too much is lost, and then halves the interval in between.

use anyhow::Context;
use netlab::Machine;
use nix::sys::socket::{
    ControlMessage, MsgFlags, MultiHeaders, SockaddrStorage, recvmmsg, sendmmsg, setsockopt, sockopt,
};
use std::io::{IoSlice, IoSliceMut};
use std::net::{IpAddr, SocketAddr, UdpSocket};
use std::os::fd::AsRawFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};
use std::time::{Duration, Instant};

/// Packets in one system call.
const BATCH: usize = 32;

/// Up to this share may be lost.
pub const LOSS_LIMIT: f64 = 0.001;

/// Where the search begins, in packets a second.
const FIRST_RATE: f64 = 10_000.0;

/// No generator here gets further.
const LAST_RATE: f64 = 4_000_000.0;

/// A sender that reaches less than this share of the rate asked for is itself the limit.
const KEEPS_UP: f64 = 0.93;

/// The receiver has got everything when nothing more came for so long.
const QUIET: Duration = Duration::from_millis(25);

/// Receive buffer; the kernel's share for bookkeeping included.
const BUFFER_BYTES: usize = 8 << 20;

/// How to search.
#[derive(Clone, Copy, PartialEq, Debug)]
pub struct Search {
    /// Payload of each packet, at least 4 bytes.
    pub payload_bytes: usize,
    /// How long each rate is tried.
    pub each: Duration,
    /// How often the interval between a rate that works and one that does not is halved.
    pub halvings: u32,
}

/// What came of one rate.
#[derive(Clone, Copy, PartialEq, Debug)]
struct Try {
    sent_pps: f64,
    loss: f64,
}

/// The highest rate, in packets a second, with a loss of at most [`LOSS_LIMIT`]. A rate is given up only after it
/// failed twice, so that one hiccup of the machine does not decide.
///
/// # Errors
/// When a socket cannot be made, or even the lowest rate does not get through.
pub fn highest_rate(from: &Machine, to: &Machine, target: IpAddr, search: Search) -> anyhow::Result<f64> {
    let link = Link::new(from, to, target)?;
    let result = find(search.halvings, |rate| {
        let first = link.run(rate, search)?;
        if first.loss <= LOSS_LIMIT { Ok(first) } else { link.run(rate, search) }
    });
    link.stop();
    result?.context("packets are lost even at the lowest rate")
}

/// The search itself, over any way to try a rate.
fn find(halvings: u32, mut run: impl FnMut(f64) -> anyhow::Result<Try>) -> anyhow::Result<Option<f64>> {
    let (mut best, mut works, mut fails) = (None::<f64>, 0.0, FIRST_RATE);
    while fails < LAST_RATE {
        let outcome = run(fails)?;
        if outcome.loss > LOSS_LIMIT {
            break;
        }
        best = Some(best.unwrap_or(0.0).max(outcome.sent_pps));
        if outcome.sent_pps < fails * KEEPS_UP {
            return Ok(best);
        }
        (works, fails) = (fails, fails * 2.0);
    }
    if works == 0.0 {
        (works, fails) = (FIRST_RATE / 16.0, FIRST_RATE);
    }
    for _ in 0..halvings {
        let rate = f64::midpoint(works, fails);
        let outcome = run(rate)?;
        if outcome.loss > LOSS_LIMIT {
            fails = rate;
            continue;
        }
        best = Some(best.unwrap_or(0.0).max(outcome.sent_pps));
        if outcome.sent_pps < rate * KEEPS_UP {
            break;
        }
        works = rate;
    }
    Ok(best)
}

/// A sending socket, a receiving thread.
struct Link {
    outbound: UdpSocket,
    from: Machine,
    shared: Arc<Shared>,
    receiver: std::thread::JoinHandle<Result<(), netlab::Error>>,
}

#[derive(Default)]
struct Shared {
    /// The number of the try that counts; it stands at the front of each packet.
    current: AtomicU32,
    received: AtomicU64,
    stop: AtomicBool,
}

impl Link {
    fn new(from: &Machine, to: &Machine, target: IpAddr) -> anyhow::Result<Link> {
        let inbound = to.udp(&SocketAddr::new(target, 0).to_string())?;
        let port = inbound.local_addr()?.port();
        inbound.set_read_timeout(Some(Duration::from_millis(20)))?;
        // Past net.core.rmem_max where the right is there; the plain option otherwise.
        if setsockopt(&inbound, sockopt::RcvBufForce, &BUFFER_BYTES).is_err() {
            setsockopt(&inbound, sockopt::RcvBuf, &BUFFER_BYTES)?;
        }
        let outbound = from.udp(if target.is_ipv4() { "0.0.0.0:0" } else { "[::]:0" })?;
        outbound.connect(SocketAddr::new(target, port))?;
        let shared = Arc::new(Shared::default());
        let of_thread = shared.clone();
        let receiver = to.thread(move || receive(&inbound, &of_thread))?;
        Ok(Link { outbound, from: from.clone(), shared, receiver })
    }

    fn run(&self, rate_pps: f64, search: Search) -> anyhow::Result<Try> {
        let number = self.shared.current.fetch_add(1, Ordering::Relaxed) + 1;
        self.shared.received.store(0, Ordering::Relaxed);
        let (sent, took) = self.from.enter(|| send(&self.outbound, number, rate_pps, search))?;
        let mut received = self.shared.received.load(Ordering::Relaxed);
        while received < sent {
            std::thread::sleep(QUIET);
            let now = self.shared.received.load(Ordering::Relaxed);
            if now == received {
                break;
            }
            received = now;
        }
        let loss = 1.0 - received as f64 / sent.max(1) as f64;
        Ok(Try { sent_pps: sent as f64 / took.as_secs_f64(), loss })
    }

    fn stop(self) {
        self.shared.stop.store(true, Ordering::Relaxed);
        // The thread ends within its socket's time-out; a panic in it is told on standard error.
        let _ = self.receiver.join();
    }
}

/// Sends by the time-table; how many, and how long it took.
fn send(socket: &UdpSocket, number: u32, rate_pps: f64, search: Search) -> (u64, Duration) {
    let mut payload = vec![0; search.payload_bytes.max(4)];
    payload[..4].copy_from_slice(&number.to_be_bytes());
    let slices: Vec<[IoSlice<'_>; 1]> = (0..BATCH).map(|_| [IoSlice::new(&payload)]).collect();
    let mut headers = MultiHeaders::<SockaddrStorage>::preallocate(BATCH, None);
    let nobody: [Option<SockaddrStorage>; BATCH] = [None; BATCH];
    let nothing: [ControlMessage<'_>; 0] = [];
    let start = Instant::now();
    let mut sent = 0u64;
    loop {
        let elapsed = start.elapsed();
        if elapsed >= search.each {
            return (sent, elapsed);
        }
        let due = (elapsed.as_secs_f64() * rate_pps) as u64;
        let batch = due.saturating_sub(sent).min(BATCH as u64) as usize;
        if batch == 0 {
            let next = Duration::from_secs_f64(1.0 / rate_pps);
            std::thread::sleep(next.clamp(Duration::from_micros(20), Duration::from_micros(200)));
            continue;
        }
        let flags = MsgFlags::empty();
        let taken =
            sendmmsg(socket.as_raw_fd(), &mut headers, &slices[..batch], &nobody[..batch], nothing, flags);
        // What the kernel refuses (a full queue) is a loss as well: the time-table goes on.
        sent += taken.map_or(batch, |results| results.count().max(1)) as u64;
    }
}

/// Counts packets of the current try until it is told to stop.
fn receive(socket: &UdpSocket, shared: &Shared) {
    let mut buffers = vec![[0u8; 2048]; BATCH];
    let mut headers = MultiHeaders::<SockaddrStorage>::preallocate(BATCH, None);
    while !shared.stop.load(Ordering::Relaxed) {
        let count = {
            let mut slices: Vec<[IoSliceMut<'_>; 1]> =
                buffers.iter_mut().map(|buffer| [IoSliceMut::new(buffer)]).collect();
            let flags = MsgFlags::MSG_WAITFORONE;
            recvmmsg(socket.as_raw_fd(), &mut headers, slices.iter_mut(), flags, None)
                .map_or(0, Iterator::count)
        };
        let current = shared.current.load(Ordering::Relaxed).to_be_bytes();
        let ours = buffers[..count].iter().filter(|buffer| buffer[..4] == current).count();
        shared.received.fetch_add(ours as u64, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A tunnel that carries so much, fed by a generator that makes so much.
    fn search(capacity: f64, generator: f64) -> Option<f64> {
        find(6, |rate| {
            let sent_pps = rate.min(generator);
            Ok(Try { sent_pps, loss: if sent_pps > capacity { 0.5 } else { 0.0 } })
        })
        .expect("nothing fails")
    }

    #[test]
    fn the_search_finds_the_capacity_from_below() {
        for capacity in [1_000.0, 9_999.0, 44_000.0, 333_333.0] {
            let found = search(capacity, f64::INFINITY).expect("a rate");
            assert!(found <= capacity && found > capacity * 0.85, "{capacity}: {found}");
        }
    }

    #[test]
    fn a_generator_at_its_limit_ends_the_search_with_what_it_sent() {
        assert_eq!(search(1e9, 123_456.0), Some(123_456.0));
    }

    #[test]
    fn nothing_is_claimed_when_everything_is_lost() {
        assert_eq!(search(1.0, 1e9), None);
    }
}
