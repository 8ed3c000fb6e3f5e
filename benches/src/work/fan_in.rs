//! TCP streams of several machines to one, by threads of this process: started together, and counted over the same
//! span, which several programs of one stream each could not promise.

use anyhow::Context;
use netlab::Machine;
use std::io::{ErrorKind, Read, Write};
use std::net::{IpAddr, SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

/// What a sender writes and a receiver reads at once.
const CHUNK_BYTES: usize = 128 << 10;

/// Streams grow to their rate before they are counted.
const RUN_UP: Duration = Duration::from_millis(300);

/// How long a stream may take to be there.
const CONNECT_LIMIT: Duration = Duration::from_secs(10);

/// How long a thread stays in one system call.
const PATIENCE: Duration = Duration::from_millis(200);

/// Payload of one stream from each of `from` to `to` at `address`, all together, in Gbit/s at the receiver.
///
/// # Errors
/// When a stream does not come up, or all of them carry nothing.
pub fn rate(from: &[Machine], to: &Machine, address: IpAddr, duration: Duration) -> anyhow::Result<f64> {
    let streams = Streams::open(from, to, address)?;
    std::thread::sleep(RUN_UP);
    let (start, before) = (Instant::now(), streams.counts());
    std::thread::sleep(duration);
    let (took, after) = (start.elapsed(), streams.counts());
    drop(streams);
    let bytes = after.iter().sum::<u64>() - before.iter().sum::<u64>();
    anyhow::ensure!(bytes > 0, "the streams stand still");
    Ok(bytes as f64 * 8.0 / 1e9 / took.as_secs_f64())
}

/// Streams that run until they are dropped.
struct Streams {
    stop: Arc<AtomicBool>,
    received: Vec<Arc<AtomicU64>>,
    threads: Vec<JoinHandle<Result<(), netlab::Error>>>,
}

impl Streams {
    fn open(from: &[Machine], to: &Machine, address: IpAddr) -> anyhow::Result<Streams> {
        let listener = to.enter(|| TcpListener::bind(SocketAddr::new(address, 0)))?.context("listening")?;
        let target = listener.local_addr()?;
        let mut streams = Streams { stop: Arc::default(), received: Vec::new(), threads: Vec::new() };
        for machine in from {
            let outbound = machine
                .enter(|| TcpStream::connect_timeout(&target, CONNECT_LIMIT))?
                .with_context(|| format!("{} connects", machine.name()))?;
            let (inbound, _) = listener.accept().context("accepting")?;
            outbound.set_write_timeout(Some(PATIENCE))?;
            inbound.set_read_timeout(Some(PATIENCE))?;
            let count = Arc::new(AtomicU64::new(0));
            streams.received.push(count.clone());
            let stop = streams.stop.clone();
            streams.threads.push(to.thread(move || receive(inbound, &count, &stop))?);
            let stop = streams.stop.clone();
            streams.threads.push(machine.thread(move || send(outbound, &stop))?);
        }
        Ok(streams)
    }

    fn counts(&self) -> Vec<u64> {
        self.received.iter().map(|count| count.load(Ordering::Relaxed)).collect()
    }
}

impl Drop for Streams {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        for thread in self.threads.drain(..) {
            // They end within their sockets' time-outs; a panic in one is told on standard error.
            let _ = thread.join();
        }
    }
}

fn send(mut stream: TcpStream, stop: &AtomicBool) {
    let chunk = vec![0x5a; CHUNK_BYTES];
    while !stop.load(Ordering::Relaxed) {
        match stream.write(&chunk) {
            Err(error) if !is_patience(error.kind()) => return,
            _ => {}
        }
    }
}

fn receive(mut stream: TcpStream, count: &AtomicU64, stop: &AtomicBool) {
    let mut chunk = vec![0; CHUNK_BYTES];
    while !stop.load(Ordering::Relaxed) {
        match stream.read(&mut chunk) {
            Ok(0) => return,
            Ok(bytes) => drop(count.fetch_add(bytes as u64, Ordering::Relaxed)),
            Err(error) if !is_patience(error.kind()) => return,
            Err(_) => {}
        }
    }
}

fn is_patience(kind: ErrorKind) -> bool {
    matches!(kind, ErrorKind::WouldBlock | ErrorKind::TimedOut | ErrorKind::Interrupted)
}
