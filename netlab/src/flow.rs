//! A numbered UDP flow from one machine to another: how much arrives, in which order, and how long nothing does.

use crate::{Error, Machine};
use nix::sys::socket::{setsockopt, sockopt};
use std::fmt;
use std::net::{SocketAddr, UdpSocket};
use std::os::fd::AsFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

/// How long packets on their way may still arrive after the last was sent.
const LINGER: Duration = Duration::from_millis(700);

/// A silence at the receiver this long counts as a gap, when it is also at least four sending intervals.
const SHORTEST_GAP: Duration = Duration::from_millis(25);

/// Packets of a flow are at least this long: the flow's id and the number.
const HEADER_BYTES: usize = 16;

/// What the sender sends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FlowShape {
    /// Packets per second.
    pub rate_pps: u32,
    /// Payload of each, at least 16 bytes.
    pub payload_bytes: usize,
}

/// A flow that goes on until [`Flow::stop`], or until it is dropped.
#[derive(Debug)]
pub struct Flow {
    shape: FlowShape,
    start: Instant,
    stop: StopOnDrop,
    sent: Arc<AtomicU64>,
    arrivals: Arc<Arrivals>,
    sender: JoinHandle<Result<Sent, Error>>,
    receiver: JoinHandle<Vec<Option<u64>>>,
}

/// Tells both threads of a flow to end.
#[derive(Debug, Default)]
struct StopOnDrop(Arc<AtomicBool>);

impl Drop for StopOnDrop {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Release);
    }
}

/// The state of a flow right now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FlowProgress {
    /// Packets sent so far.
    pub sent: u64,
    /// Different packets received so far.
    pub received: u64,
    /// How long ago the last one came; `None` when none came yet.
    pub silent_for: Option<Duration>,
}

/// What became of a flow.
#[derive(Clone, Debug)]
pub struct FlowReport {
    /// Packets sent.
    pub sent: u64,
    /// Different packets received.
    pub received: u64,
    /// Packets sent and never received.
    pub lost: u64,
    /// Second and further copies.
    pub duplicated: u64,
    /// Packets that came after one with a higher number.
    pub reordered: u64,
    /// Sends that the kernel refused (no route, for example); these packets count as lost as well.
    pub refused: u64,
    /// The silences at the receiver, in order.
    pub gaps: Vec<Gap>,
    /// Runs of lost packets with consecutive numbers, in order.
    pub losses: Vec<LossRun>,
    /// One-way delay.
    pub delay: Delay,
    start: Instant,
    sent_us: Vec<u64>,
    arrived_us: Vec<Option<u64>>,
}

/// A time in which nothing arrived.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Gap {
    /// From the start of the flow to the start of the gap.
    pub at_ms: u64,
    /// Its length.
    pub length_ms: u64,
}

/// Consecutive packets that never arrived.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LossRun {
    /// The number of the first.
    pub first: u64,
    /// How many.
    pub count: u64,
    /// When the first was sent, from the start of the flow.
    pub at_ms: u64,
}

/// One-way delay in microseconds (both ends have the same clock).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Delay {
    /// The median.
    pub p50_us: u64,
    /// 99 of 100 are at most this.
    pub p99_us: u64,
    /// The longest.
    pub max_us: u64,
}

#[derive(Debug, Default)]
struct Arrivals {
    received: AtomicU64,
    duplicated: AtomicU64,
    reordered: AtomicU64,
    last_us: AtomicU64,
}

struct Sent {
    at_us: Vec<u64>,
    refused: u64,
}

impl Flow {
    /// Starts to send from one machine to `target`, an address of the other.
    ///
    /// # Errors
    /// [`Error::System`] when a socket cannot be made: `target` must be an address that `to` has by now.
    pub fn start(from: &Machine, to: &Machine, target: SocketAddr, shape: FlowShape) -> Result<Flow, Error> {
        let inbound = to.enter(|| listen(target))??;
        let target = inbound.local_addr().map_err(Error::system("asking a socket for its address"))?;
        let any = if target.is_ipv4() { "0.0.0.0:0" } else { "[::]:0" };
        let outbound = from.udp(any)?;
        let id = u64::from(std::process::id()) << 32 | u64::from(target.port());
        let start = Instant::now();
        let (stop, sent, arrivals) = (StopOnDrop::default(), Arc::new(AtomicU64::new(0)), Arc::default());
        let receiver = {
            let arrivals: Arc<Arrivals> = Arc::clone(&arrivals);
            let stop = stop.0.clone();
            named("flow receiver", move || receive(&inbound, id, start, &arrivals, &stop))?
        };
        let sender = {
            let (stop, sent) = (stop.0.clone(), sent.clone());
            named("flow sender", move || send(&outbound, target, id, shape, start, &sent, &stop))?
        };
        Ok(Flow { shape, start, stop, sent, arrivals, sender, receiver })
    }

    /// How it goes.
    pub fn progress(&self) -> FlowProgress {
        let last_us = self.arrivals.last_us.load(Ordering::Acquire);
        let now_us = micros(self.start.elapsed());
        FlowProgress {
            sent: self.sent.load(Ordering::Relaxed),
            received: self.arrivals.received.load(Ordering::Relaxed),
            silent_for: (last_us > 0).then(|| Duration::from_micros(now_us.saturating_sub(last_us))),
        }
    }

    /// Stops sending, waits for what is on its way, and counts.
    ///
    /// # Errors
    /// [`Error::System`] when the sender failed.
    pub fn stop(self) -> Result<FlowReport, Error> {
        drop(self.stop);
        let sent = self.sender.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))?;
        let mut arrived_us = self.receiver.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic));
        arrived_us.resize(sent.at_us.len(), None);
        let received = arrived_us.iter().flatten().count() as u64;
        let total = sent.at_us.len() as u64;
        Ok(FlowReport {
            sent: total,
            received,
            lost: total - received,
            duplicated: self.arrivals.duplicated.load(Ordering::Relaxed),
            reordered: self.arrivals.reordered.load(Ordering::Relaxed),
            refused: sent.refused,
            gaps: gaps(&sent.at_us, &arrived_us, self.shape.rate_pps),
            losses: losses(&sent.at_us, &arrived_us),
            delay: delay(&sent.at_us, &arrived_us),
            start: self.start,
            sent_us: sent.at_us,
            arrived_us,
        })
    }
}

impl FlowReport {
    /// The longest gap, if there was one.
    pub fn longest_gap(&self) -> Option<Gap> {
        self.gaps.iter().copied().max_by_key(|gap| gap.length_ms)
    }

    /// The length of the longest gap; 0 when there was none.
    pub fn longest_gap_ms(&self) -> u64 {
        self.longest_gap().map_or(0, |gap| gap.length_ms)
    }

    /// The longest gap that ended after `event`; zero when there was none.
    pub fn gap_since(&self, event: Instant) -> Duration {
        let event_ms = event.saturating_duration_since(self.start).as_millis() as u64;
        let later = self.gaps.iter().filter(|gap| gap.at_ms + gap.length_ms >= event_ms);
        Duration::from_millis(later.map(|gap| gap.length_ms).max().unwrap_or(0))
    }

    /// How long after `event` the flow was whole again: from the event to the arrival of the first packet that was
    /// sent after the last loss. Zero when nothing sent after the event was lost, `None` when the flow never came back.
    pub fn recovery(&self, event: Instant) -> Option<Duration> {
        let event_us = micros(event.saturating_duration_since(self.start));
        // Packets that were on their way at the event are part of what it cost.
        let from_us = event_us.saturating_sub(100_000);
        let last_lost = (0..self.sent_us.len())
            .rev()
            .find(|&number| self.arrived_us[number].is_none() && self.sent_us[number] >= from_us);
        let Some(last_lost) = last_lost else { return Some(Duration::ZERO) };
        let back_us = self.arrived_us[last_lost + 1..].iter().flatten().min()?;
        Some(Duration::from_micros(back_us.saturating_sub(event_us)))
    }

    /// How long after `event` packets were still let through: until the last one was sent that arrived. Zero when none of those
    /// arrived that were sent after it.
    pub fn let_through_since(&self, event: Instant) -> Duration {
        let event_us = micros(event.saturating_duration_since(self.start));
        let arrived = self.sent_us.iter().zip(&self.arrived_us).rev().find(|(_, arrived)| arrived.is_some());
        Duration::from_micros(arrived.map_or(0, |(sent, _)| sent.saturating_sub(event_us)))
    }

    /// Packets lost among those sent at or after this moment.
    pub fn lost_since(&self, event: Instant) -> u64 {
        let event_us = micros(event.saturating_duration_since(self.start));
        let since = self.sent_us.iter().zip(&self.arrived_us).filter(|(sent, _)| **sent >= event_us);
        since.filter(|(_, arrived)| arrived.is_none()).count() as u64
    }
}

impl fmt::Display for FlowReport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "sent {} received {} lost {} duplicated {} reordered {} refused {}, longest gap {} ms",
            self.sent,
            self.received,
            self.lost,
            self.duplicated,
            self.reordered,
            self.refused,
            self.longest_gap_ms()
        )?;
        if let Some(gap) = self.longest_gap() {
            write!(f, " (at {} ms)", gap.at_ms)?;
        }
        write!(
            f,
            ", delay p50 {} us p99 {} us max {} us",
            self.delay.p50_us, self.delay.p99_us, self.delay.max_us
        )
    }
}

fn listen(target: SocketAddr) -> Result<UdpSocket, Error> {
    let socket = UdpSocket::bind(target).map_err(Error::system("binding the flow's receiver"))?;
    socket.set_read_timeout(Some(Duration::from_millis(20))).map_err(Error::system("setting a timeout"))?;
    enlarge(&socket, 4 << 20)?;
    Ok(socket)
}

/// Gives a socket room for so many bytes. Beyond what the system gives anybody (`net.core.rmem_max`) root alone gets it; who is
/// root in a user namespace gets less.
pub(crate) fn enlarge(socket: &impl AsFd, bytes: usize) -> Result<(), Error> {
    if setsockopt(socket, sockopt::RcvBufForce, &bytes).is_err() {
        setsockopt(socket, sockopt::RcvBuf, &bytes).map_err(Error::system("enlarging a buffer"))?;
    }
    Ok(())
}

fn named<T: Send + 'static>(
    name: &str,
    work: impl FnOnce() -> T + Send + 'static,
) -> Result<JoinHandle<T>, Error> {
    std::thread::Builder::new().name(name.to_owned()).spawn(work).map_err(Error::system("starting a thread"))
}

/// Sends by an absolute time-table: a late wake-up is caught up with, so that the count is right.
fn send(
    socket: &UdpSocket,
    target: SocketAddr,
    id: u64,
    shape: FlowShape,
    start: Instant,
    sent: &AtomicU64,
    stop: &AtomicBool,
) -> Result<Sent, Error> {
    let mut payload = vec![0u8; shape.payload_bytes.max(HEADER_BYTES)];
    payload[..8].copy_from_slice(&id.to_be_bytes());
    let interval = Duration::from_secs(1) / shape.rate_pps.max(1);
    let mut outcome = Sent { at_us: Vec::new(), refused: 0 };
    while !stop.load(Ordering::Acquire) {
        let number = outcome.at_us.len() as u64;
        let due = start + interval * u32::try_from(number).unwrap_or(u32::MAX);
        if let Some(early) = due.checked_duration_since(Instant::now()) {
            std::thread::sleep(early);
        }
        payload[8..16].copy_from_slice(&number.to_be_bytes());
        outcome.at_us.push(micros(start.elapsed()));
        if socket.send_to(&payload, target).is_err() {
            outcome.refused += 1;
        }
        sent.store(number + 1, Ordering::Relaxed);
    }
    Ok(outcome)
}

/// The arrival time of the first copy of each number.
fn receive(
    socket: &UdpSocket,
    id: u64,
    start: Instant,
    arrivals: &Arrivals,
    stop: &AtomicBool,
) -> Vec<Option<u64>> {
    let mut arrived_us: Vec<Option<u64>> = Vec::new();
    let mut highest = None;
    let mut buffer = [0u8; 1 << 16];
    let mut stopped_at = None;
    loop {
        if stopped_at.is_none() && stop.load(Ordering::Acquire) {
            stopped_at = Some(Instant::now());
        }
        if stopped_at.is_some_and(|at| at.elapsed() > LINGER) {
            return arrived_us;
        }
        let Ok(length) = socket.recv(&mut buffer) else { continue };
        let now_us = micros(start.elapsed());
        let Some(number) = number_of(&buffer[..length], id) else { continue };
        let index = number as usize;
        if arrived_us.len() <= index {
            arrived_us.resize(index + 1, None);
        }
        if arrived_us[index].is_some() {
            arrivals.duplicated.fetch_add(1, Ordering::Relaxed);
            continue;
        }
        arrived_us[index] = Some(now_us);
        if highest.is_some_and(|highest| highest > number) {
            arrivals.reordered.fetch_add(1, Ordering::Relaxed);
        }
        highest = highest.max(Some(number));
        arrivals.received.fetch_add(1, Ordering::Relaxed);
        arrivals.last_us.store(now_us.max(1), Ordering::Release);
    }
}

/// The number in a packet of the flow. Packets of anyone else have another id, or are too short.
fn number_of(packet: &[u8], id: u64) -> Option<u64> {
    let (head, rest) = packet.split_first_chunk::<8>()?;
    let (number, _) = rest.split_first_chunk::<8>()?;
    // A wild number must not make the table of arrivals huge.
    (u64::from_be_bytes(*head) == id)
        .then_some(u64::from_be_bytes(*number))
        .filter(|number| *number < 1 << 28)
}

fn gaps(sent_us: &[u64], arrived_us: &[Option<u64>], rate_pps: u32) -> Vec<Gap> {
    let threshold_us = micros(SHORTEST_GAP).max(4_000_000 / u64::from(rate_pps.max(1)));
    let mut times: Vec<u64> = arrived_us.iter().flatten().copied().collect();
    times.sort_unstable();
    // The flow's own start and end bound silences too.
    times.insert(0, sent_us.first().copied().unwrap_or(0));
    times.extend(sent_us.last().copied().filter(|last| times.last().is_some_and(|time| time < last)));
    let silences = times.windows(2).map(|pair| (pair[0], pair[1] - pair[0]));
    silences
        .filter(|(_, length_us)| *length_us >= threshold_us)
        .map(|(at_us, length_us)| Gap { at_ms: at_us / 1000, length_ms: length_us / 1000 })
        .collect()
}

fn losses(sent_us: &[u64], arrived_us: &[Option<u64>]) -> Vec<LossRun> {
    let mut runs: Vec<LossRun> = Vec::new();
    for (number, arrived) in (0u64..).zip(arrived_us) {
        if arrived.is_some() {
            continue;
        }
        match runs.last_mut() {
            Some(run) if run.first + run.count == number => run.count += 1,
            _ => runs.push(LossRun { first: number, count: 1, at_ms: sent_us[number as usize] / 1000 }),
        }
    }
    runs
}

fn delay(sent_us: &[u64], arrived_us: &[Option<u64>]) -> Delay {
    let pairs = sent_us.iter().zip(arrived_us);
    let mut delays: Vec<u64> =
        pairs.filter_map(|(sent, arrived)| Some((*arrived)?.saturating_sub(*sent))).collect();
    delays.sort_unstable();
    let Some(last) = delays.len().checked_sub(1) else { return Delay::default() };
    Delay { p50_us: delays[last / 2], p99_us: delays[last * 99 / 100], max_us: delays[last] }
}

fn micros(duration: Duration) -> u64 {
    u64::try_from(duration.as_micros()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn every_ms(count: u64) -> Vec<u64> {
        (0..count).map(|number| number * 1000).collect()
    }

    #[test]
    fn a_cut_shows_as_one_gap_and_one_run_of_losses() {
        let sent = every_ms(1000);
        let cut = 300..550;
        let arrived: Vec<_> = (0..1000).map(|n| (!cut.contains(&n)).then_some(n * 1000 + 200)).collect();
        assert_eq!(gaps(&sent, &arrived, 1000), [Gap { at_ms: 299, length_ms: 251 }]);
        assert_eq!(losses(&sent, &arrived), [LossRun { first: 300, count: 250, at_ms: 300 }]);
        assert_eq!(delay(&sent, &arrived), Delay { p50_us: 200, p99_us: 200, max_us: 200 });
    }

    #[test]
    fn silence_at_the_start_and_at_the_end_is_a_gap() {
        let sent = every_ms(1000);
        let arrived: Vec<_> = (0..1000).map(|n| (100..800).contains(&n).then_some(n * 1000)).collect();
        assert_eq!(
            gaps(&sent, &arrived, 1000),
            [Gap { at_ms: 0, length_ms: 100 }, Gap { at_ms: 799, length_ms: 200 }]
        );
        assert_eq!(gaps(&sent, &vec![None; 1000], 1000), [Gap { at_ms: 0, length_ms: 999 }]);
    }

    #[test]
    fn a_slow_flow_has_no_gaps_of_its_own_making() {
        let sent: Vec<u64> = (0..10).map(|number| number * 100_000).collect();
        let arrived: Vec<_> = sent.iter().map(|at| Some(at + 50)).collect();
        assert!(gaps(&sent, &arrived, 10).is_empty());
    }

    #[test]
    fn foreign_and_wild_packets_are_not_of_the_flow() {
        let packet = [7u64.to_be_bytes(), 5u64.to_be_bytes()].concat();
        assert_eq!(number_of(&packet, 7), Some(5));
        assert_eq!(number_of(&packet, 8), None);
        assert_eq!(number_of(&packet[..15], 7), None);
        assert_eq!(number_of(&[7u64.to_be_bytes(), u64::MAX.to_be_bytes()].concat(), 7), None);
    }
}
