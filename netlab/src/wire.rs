//! Cables with a length: delay, jitter, loss and doubling, made in this process because not every kernel has netem.
//!
//! A TAP device stands at each end; a pair of threads per direction reads frames, holds them back in a heap, and
//! writes them at the other end. Accurate to about 0.1 ms on a machine that is not overloaded, and good for some
//! hundred thousand packets a second.

use crate::Error;
use crate::machine::Machine;
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};
use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, RecvTimeoutError, SyncSender, sync_channel};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};
use tun_tap::{Iface, Mode};

/// Frames on their way in one direction; more are dropped, as by any full queue.
const QUEUE_FRAMES: usize = 20_000;

/// The longest frame of a TAP device.
const FRAME_BYTES: usize = 65_536;

/// What a wire does to the frames of each direction. The default is a wire of no length.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct WireShape {
    /// One-way delay.
    pub delay: Duration,
    /// Up to so much more, drawn anew for each frame: frames overtake each other.
    pub jitter: Duration,
    /// So many of a thousand frames are lost.
    pub loss_permille: u16,
    /// So many of a thousand of the others arrive twice, each when its own draw says.
    pub duplicate_permille: u16,
    /// Where the random draws start: the same seed draws the same.
    pub seed: u64,
}

/// A wire between two interfaces. Lives in its lab.
#[derive(Debug)]
pub(crate) struct Wire {
    near: (Machine, String),
    threads: Vec<JoinHandle<()>>,
    far: (Machine, String),
}

/// A frame and when it is due; the number keeps the order of frames that are due at the same time.
type Due = Reverse<(Instant, u64, Vec<u8>)>;

impl Wire {
    /// Makes both interfaces, down and without addresses, and joins them.
    pub(crate) fn new(
        near: (Machine, String),
        far: (Machine, String),
        shape: WireShape,
    ) -> Result<Wire, Error> {
        let tap = |(machine, name): &(Machine, String)| -> Result<Arc<Iface>, Error> {
            let made = machine.enter(|| Iface::without_packet_info(name, Mode::Tap))?;
            made.map(Arc::new).map_err(Error::system("making a TAP device"))
        };
        let (near_tap, far_tap) = (tap(&near)?, tap(&far)?);
        let mut wire = Wire { near, threads: Vec::new(), far };
        wire.join(near_tap.clone(), far_tap.clone(), shape, shape.seed)?;
        wire.join(far_tap, near_tap, shape, shape.seed.wrapping_add(1))?;
        Ok(wire)
    }

    fn join(&mut self, from: Arc<Iface>, to: Arc<Iface>, shape: WireShape, seed: u64) -> Result<(), Error> {
        let (queue, frames) = sync_channel(QUEUE_FRAMES);
        let rng = StdRng::seed_from_u64(seed);
        let start = |work: Box<dyn FnOnce() + Send>| {
            let thread = std::thread::Builder::new().name("wire".to_owned()).spawn(work);
            thread.map_err(Error::system("starting a thread"))
        };
        self.threads.push(start(Box::new(move || take_in(&from, shape, rng, &queue)))?);
        self.threads.push(start(Box::new(move || give_out(&frames, &to)))?);
        Ok(())
    }
}

impl Drop for Wire {
    /// Reading from a TAP device ends when the device is gone. The namespaces could not go before: the devices hold them.
    fn drop(&mut self) {
        for (machine, name) in [&self.near, &self.far] {
            // Gone already when the lab's namespaces are.
            let _ = machine.ip(&format!("link del {name}"));
        }
        for thread in self.threads.drain(..) {
            let _ = thread.join();
        }
    }
}

/// Reads frames until the device is gone.
fn take_in(from: &Iface, shape: WireShape, mut rng: StdRng, queue: &SyncSender<Due>) {
    let mut buffer = vec![0; FRAME_BYTES];
    let mut number = 0;
    while let Ok(length) = from.recv(&mut buffer) {
        let mut chance = |permille: u16| permille > 0 && rng.random_range(0..1000) < permille;
        let lost = chance(shape.loss_permille);
        let copies = if chance(shape.duplicate_permille) { 2 } else { 1 };
        for _ in 0..copies {
            let extra = if shape.jitter.is_zero() { 0.0 } else { rng.random::<f64>() };
            if lost {
                continue;
            }
            let due = Instant::now() + shape.delay + shape.jitter.mul_f64(extra);
            number += 1;
            // A full queue drops.
            let _ = queue.try_send(Reverse((due, number, buffer[..length].to_vec())));
        }
    }
}

/// Writes frames when they are due, until the other side has ended.
fn give_out(frames: &Receiver<Due>, to: &Iface) {
    let mut heap: BinaryHeap<Due> = BinaryHeap::new();
    loop {
        let now = Instant::now();
        while heap.peek().is_some_and(|Reverse((due, ..))| *due <= now) {
            if let Some(Reverse((_, _, frame))) = heap.pop() {
                // Fails while the interface is down, as a pulled cable.
                let _ = to.send(&frame);
            }
        }
        let pause = heap
            .peek()
            .map_or(Duration::from_secs(1), |Reverse((due, ..))| due.saturating_duration_since(now));
        match frames.recv_timeout(pause) {
            Ok(frame) if heap.len() < QUEUE_FRAMES => heap.push(frame),
            Ok(_) | Err(RecvTimeoutError::Timeout) => {}
            Err(RecvTimeoutError::Disconnected) => return,
        }
    }
}
