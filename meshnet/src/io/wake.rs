//! Blocking without tokio: poll a few descriptors together with an eventfd by which other threads get attention.

use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::eventfd::{EfdFlags, EventFd};

use super::clock;
use crate::time::Mono;

/// Most descriptors that one [`Wake::wait`] takes.
pub const MAX_SOURCES: usize = 16;

/// Wakes a thread that blocks in [`Wake::wait`]. Cheap to clone; all clones are the same wake-up.
#[derive(Clone, Debug)]
pub struct Wake(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    event: EventFd,
    courtesy: Courtesy,
}

impl Wake {
    /// A new wake-up (eventfd(2), non-blocking, close-on-exec).
    ///
    /// # Errors
    /// When the process or the system is out of descriptors.
    pub fn new() -> io::Result<Wake> {
        let fd = EventFd::from_value_and_flags(0, EfdFlags::EFD_NONBLOCK | EfdFlags::EFD_CLOEXEC)?;
        Ok(Wake(Arc::new(Inner { event: fd, courtesy: Courtesy::default() })))
    }

    /// Makes the current or next [`Wake::wait`] return with [`Ready::woken`]. Never blocks; several calls before the
    /// waiter looks are one wake-up.
    pub fn wake(&self) {
        // EAGAIN means that the counter is full, so that the waiter is as awake as it gets.
        let _ = self.0.event.write(1);
    }

    /// Blocks until one of `sources` is ready, somebody called [`Wake::wake`], or `timeout` is over (`None`: no
    /// limit). A pending wake-up is consumed.
    ///
    /// Before it sleeps, it lets whoever else wants this processor run, and looks again: under load that is who makes the
    /// next packet, and a thread that did not sleep needs no wake-up, which costs more than sealing a packet (see
    /// docs/adr/0004-packet-path.md). On an idle machine it costs two system calls that return at once; and where others
    /// would keep the processor for long, it is left out.
    ///
    /// # Errors
    /// Only for misuse (a closed descriptor); an interrupting signal counts as a wake-up by time.
    ///
    /// # Panics
    /// With more than [`MAX_SOURCES`] sources.
    pub fn wait(
        &self,
        sources: &[(BorrowedFd<'_>, Interest)],
        timeout: Option<Duration>,
    ) -> io::Result<Ready> {
        assert!(sources.len() <= MAX_SOURCES, "{} sources to wait for", sources.len());
        let mut polled: [PollFd<'_>; MAX_SOURCES + 1] =
            std::array::from_fn(|_| PollFd::new(self.0.event.as_fd(), PollFlags::POLLIN));
        for (slot, (fd, interest)) in polled[1..].iter_mut().zip(sources) {
            *slot = PollFd::new(*fd, interest.flags());
        }
        let polled = &mut polled[..=sources.len()];
        match look_twice(&self.0.courtesy, polled, timeout) {
            Ok(_) => {}
            Err(Errno::EINTR) => return Ok(Ready::default()),
            Err(errno) => return Err(errno.into()),
        }
        let mut ready = Ready::default();
        for (index, slot) in polled.iter().enumerate() {
            let flags = slot.revents().unwrap_or(PollFlags::empty());
            if flags.is_empty() {
                continue;
            }
            let Some(source) = index.checked_sub(1) else {
                ready.woken = true;
                let _ = self.0.event.read();
                continue;
            };
            ready.sources |= 1 << source;
            if flags.intersects(PollFlags::POLLERR | PollFlags::POLLHUP | PollFlags::POLLNVAL) {
                ready.errors |= 1 << source;
            }
        }
        Ok(ready)
    }
}

/// What to wait for on a descriptor.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Interest {
    /// Something to read. Errors are always reported.
    Readable,
    /// Room to write. Errors are always reported.
    Writable,
    /// Either.
    Both,
    /// Errors only: for a source that has to rest while something else is awaited.
    Errors,
}

impl Interest {
    fn flags(self) -> PollFlags {
        match self {
            Interest::Readable => PollFlags::POLLIN,
            Interest::Writable => PollFlags::POLLOUT,
            Interest::Both => PollFlags::POLLIN | PollFlags::POLLOUT,
            Interest::Errors => PollFlags::empty(),
        }
    }
}

/// What a [`Wake::wait`] saw.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Ready {
    /// Somebody called [`Wake::wake`].
    pub woken: bool,
    sources: u32,
    errors: u32,
}

impl Ready {
    /// Source number `index` has something (data, room, or an error).
    pub fn source(self, index: usize) -> bool {
        self.sources & (1 << index) != 0
    }

    /// Source number `index` has an error: for a socket, look at its error queue; for a device, it may be gone.
    pub fn error(self, index: usize) -> bool {
        self.errors & (1 << index) != 0
    }

    /// Neither a source nor a wake-up: the time was over, or a signal came.
    pub fn timed_out(self) -> bool {
        !self.woken && self.sources == 0
    }
}

/// A turn of others that takes longer is not that of who makes the next packet: they compute. Whoever gives way to such
/// waits for all of them each time, and pays for a slice that it has not used (`yield_task_fair` in kernel/sched/fair.c):
/// on a busy machine packets would wait for tens of milliseconds, while a thread that sleeps has its turn when it wakes.
const LONG_TURN: Duration = Duration::from_millis(4);
/// How long nobody is given way to after such a turn; twice that after each further one.
const FIRST_PAUSE: Duration = Duration::from_millis(100);
const LONGEST_PAUSE: Duration = Duration::from_secs(3);

/// Whether to give way to others. Only the thread that waits looks at it and changes it.
#[derive(Debug, Default)]
struct Courtesy {
    /// Not before then, in microseconds of [`Mono`].
    resumes_us: AtomicU64,
    /// The last pause; 0 while turns are short.
    pause_us: AtomicU64,
}

impl Courtesy {
    fn is_due(&self, now: Mono) -> bool {
        now.0 >= self.resumes_us.load(Ordering::Relaxed)
    }

    /// Others had a turn, which began at `now`.
    fn note(&self, now: Mono, took: Duration) {
        let last_us = self.pause_us.load(Ordering::Relaxed);
        let pause = match took >= LONG_TURN {
            true => Duration::from_micros(2 * last_us).clamp(FIRST_PAUSE, LONGEST_PAUSE),
            false if last_us == 0 => return,
            false => Duration::ZERO,
        };
        self.pause_us.store(pause.as_micros() as u64, Ordering::Relaxed);
        self.resumes_us.store((now + took + pause).0, Ordering::Relaxed);
    }
}

/// Looks after others ran, and only then sleeps.
fn look_twice(
    courtesy: &Courtesy,
    polled: &mut [PollFd<'_>],
    timeout: Option<Duration>,
) -> Result<i32, Errno> {
    let now = clock::mono();
    if timeout != Some(Duration::ZERO) && courtesy.is_due(now) {
        std::thread::yield_now();
        courtesy.note(now, clock::mono().since(now));
        let ready = poll(polled, PollTimeout::ZERO)?;
        if ready > 0 {
            return Ok(ready);
        }
    }
    poll(polled, to_poll_timeout(timeout))
}

fn to_poll_timeout(timeout: Option<Duration>) -> PollTimeout {
    let Some(timeout) = timeout else {
        return PollTimeout::NONE;
    };
    // Round up, so that a waiter for 0.4 ms does not spin.
    let ms = timeout.as_nanos().div_ceil(1_000_000);
    i32::try_from(ms).ok().and_then(|ms| PollTimeout::try_from(ms).ok()).unwrap_or(PollTimeout::MAX)
}

#[cfg(test)]
mod tests {
    use std::io::Write;
    use std::os::unix::net::UnixStream;
    use std::time::Instant;

    use super::*;

    #[test]
    fn a_wake_from_another_thread_ends_an_unlimited_wait_once() {
        let wake = Wake::new().unwrap();
        let other = wake.clone();
        let thread = std::thread::spawn(move || {
            other.wake();
            other.wake();
        });
        let ready = wake.wait(&[], None).unwrap();
        assert!(ready.woken && !ready.timed_out());
        thread.join().unwrap();
        // The second wake may have come after the first wait; both together are consumed by now plus one wait.
        let _ = wake.wait(&[], Some(Duration::ZERO)).unwrap();
        assert!(wake.wait(&[], Some(Duration::ZERO)).unwrap().timed_out());
    }

    #[test]
    fn sources_are_told_apart_and_hang_up_is_an_error() {
        let wake = Wake::new().unwrap();
        let (quiet, _quiet_peer) = UnixStream::pair().unwrap();
        let (busy, mut busy_peer) = UnixStream::pair().unwrap();
        busy_peer.write_all(b"x").unwrap();
        let sources = [(quiet.as_fd(), Interest::Readable), (busy.as_fd(), Interest::Readable)];
        let ready = wake.wait(&sources, Some(Duration::from_secs(5))).unwrap();
        assert!(!ready.source(0) && ready.source(1) && !ready.error(1) && !ready.woken);
        drop(busy_peer);
        let sources = [(busy.as_fd(), Interest::Errors)];
        let ready = wake.wait(&sources, Some(Duration::from_secs(5))).unwrap();
        assert!(ready.error(0));
    }

    #[test]
    fn what_is_ready_before_the_wait_is_seen_whatever_the_timeout() {
        let wake = Wake::new().unwrap();
        let (source, mut peer) = UnixStream::pair().unwrap();
        peer.write_all(b"x").unwrap();
        for timeout in [None, Some(Duration::ZERO), Some(Duration::from_secs(60))] {
            let ready = wake.wait(&[(source.as_fd(), Interest::Readable)], timeout).unwrap();
            assert!(ready.source(0) && !ready.woken && !ready.timed_out(), "{timeout:?}");
        }
    }

    #[test]
    fn after_long_turns_of_others_nobody_is_given_way_to_for_ever_longer_until_one_is_short() {
        let (courtesy, long, short) = (Courtesy::default(), LONG_TURN, Duration::from_millis(3));
        let mut now = Mono(1_000_000);
        courtesy.note(now, short);
        assert!(courtesy.is_due(now));
        for pause_ms in [100, 200, 400, 800, 1600, 3000, 3000] {
            courtesy.note(now, long);
            let end = now + long + Duration::from_millis(pause_ms);
            assert!(!courtesy.is_due(now) && !courtesy.is_due(Mono(end.0 - 1)) && courtesy.is_due(end));
            now = end;
        }
        courtesy.note(now, short);
        assert!(courtesy.is_due(now + short));
        courtesy.note(now, long);
        assert!(courtesy.is_due(now + long + FIRST_PAUSE), "from the beginning");
    }

    #[test]
    fn a_short_wait_is_rounded_up_not_down() {
        let wake = Wake::new().unwrap();
        let start = Instant::now();
        assert!(wake.wait(&[], Some(Duration::from_micros(300))).unwrap().timed_out());
        assert!(start.elapsed() >= Duration::from_micros(300));
    }
}
