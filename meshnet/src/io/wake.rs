//! Blocking without tokio: poll a few descriptors together with an eventfd by which other threads get attention.

use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::sync::Arc;
use std::time::Duration;

use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::eventfd::{EfdFlags, EventFd};

/// Most descriptors that one [`Wake::wait`] takes.
pub const MAX_SOURCES: usize = 15;

/// Wakes a thread that blocks in [`Wake::wait`]. Cheap to clone; all clones are the same wake-up.
#[derive(Clone, Debug)]
pub struct Wake(Arc<EventFd>);

impl Wake {
    /// A new wake-up (eventfd(2), non-blocking, close-on-exec).
    ///
    /// # Errors
    /// When the process or the system is out of descriptors.
    pub fn new() -> io::Result<Wake> {
        let fd = EventFd::from_value_and_flags(0, EfdFlags::EFD_NONBLOCK | EfdFlags::EFD_CLOEXEC)?;
        Ok(Wake(Arc::new(fd)))
    }

    /// Makes the current or next [`Wake::wait`] return with [`Ready::woken`]. Never blocks; several calls before the
    /// waiter looks are one wake-up.
    pub fn wake(&self) {
        // EAGAIN means that the counter is full, so that the waiter is as awake as it gets.
        let _ = self.0.write(1);
    }

    /// Blocks until one of `sources` is ready, somebody called [`Wake::wake`], or `timeout` is over (`None`: no
    /// limit). A pending wake-up is consumed.
    ///
    /// Before it sleeps, it lets whoever else wants this processor run, and looks again: under load that is who makes the
    /// next packet, and a thread that did not sleep needs no wake-up, which costs more than sealing a packet (see
    /// docs/adr/0004-packet-path.md). On an idle machine it costs two system calls that return at once.
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
            std::array::from_fn(|_| PollFd::new(self.0.as_fd(), PollFlags::POLLIN));
        for (slot, (fd, interest)) in polled[1..].iter_mut().zip(sources) {
            *slot = PollFd::new(*fd, interest.flags());
        }
        let polled = &mut polled[..=sources.len()];
        match look_twice(polled, timeout) {
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
                let _ = self.0.read();
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
    sources: u16,
    errors: u16,
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

/// Looks after others ran, and only then sleeps.
fn look_twice(polled: &mut [PollFd<'_>], timeout: Option<Duration>) -> Result<i32, Errno> {
    if timeout != Some(Duration::ZERO) {
        std::thread::yield_now();
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
    fn a_short_wait_is_rounded_up_not_down() {
        let wake = Wake::new().unwrap();
        let start = Instant::now();
        assert!(wake.wait(&[], Some(Duration::from_micros(300))).unwrap().timed_out());
        assert!(start.elapsed() >= Duration::from_micros(300));
    }
}
