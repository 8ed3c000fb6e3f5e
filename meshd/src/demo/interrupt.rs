//! The two things that end the demo early: a signal, and the clock.

use std::sync::Arc;
use std::sync::atomic::{AtomicU8, Ordering};
use std::time::{Duration, Instant};

use nix::sys::signal::{SigSet, Signal};

/// The demo of a mesh ends by itself before this.
pub(super) const LIMIT: Duration = Duration::from_secs(90);

/// What the last act and the clean-up may take.
const RESERVE: Duration = Duration::from_secs(10);

/// How often the clock is looked at.
const LOOK_EVERY: Duration = Duration::from_millis(100);

const NONE: u8 = 0;
const SIGNAL: u8 = 1;
const TIME: u8 = 2;
const DISARMED: u8 = 3;

/// Why the demo ends before its end.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub(super) enum Interrupted {
    /// SIGINT, SIGTERM, or SIGHUP.
    #[error("interrupted")]
    Signal,
    /// The time is up.
    #[error("it took longer than it may")]
    Time,
}

/// Tells whether to go on. The first signal asks the demo to clean up and end; the second ends it at once, and leaves
/// the cleaning to the lab's reaper. So does the clock.
#[derive(Debug, Clone)]
pub(super) struct Interrupt {
    state: Arc<AtomicU8>,
}

impl Interrupt {
    /// Takes the signals over, and ends the demo before `limit`. Must be called while the process has one thread.
    ///
    /// # Errors
    /// When a thread cannot be started.
    pub(super) fn install(limit: Duration) -> anyhow::Result<Interrupt> {
        let signals: SigSet = [Signal::SIGINT, Signal::SIGTERM, Signal::SIGHUP].into_iter().collect();
        signals.thread_block()?;
        let interrupt = Interrupt { state: Arc::new(AtomicU8::new(NONE)) };
        let watch = |name: &str, work: Box<dyn FnOnce() + Send>| {
            std::thread::Builder::new().name(name.to_owned()).spawn(work).map(drop)
        };
        let on_signal = interrupt.clone();
        watch("signals", Box::new(move || on_signal.wait_for_signals(signals)))?;
        let on_time = interrupt.clone();
        watch("clock", Box::new(move || on_time.watch_clock(limit)))?;
        Ok(interrupt)
    }

    /// Is there a reason to stop?
    ///
    /// # Errors
    /// The reason.
    pub(super) fn check(&self) -> Result<(), Interrupted> {
        match self.state.load(Ordering::Acquire) {
            SIGNAL => Err(Interrupted::Signal),
            TIME => Err(Interrupted::Time),
            _ => Ok(()),
        }
    }

    /// From now on only signals end the demo.
    pub(super) fn disarm_clock(&self) {
        let _ = self.state.compare_exchange(NONE, DISARMED, Ordering::AcqRel, Ordering::Acquire);
    }

    fn wait_for_signals(&self, signals: SigSet) {
        while signals.wait().is_ok() {
            if self.state.swap(SIGNAL, Ordering::AcqRel) == SIGNAL {
                std::process::exit(1);
            }
        }
    }

    fn watch_clock(&self, limit: Duration) {
        let start = Instant::now();
        while start.elapsed() < limit - Duration::from_secs(2) {
            if self.state.load(Ordering::Acquire) == DISARMED {
                return;
            }
            if start.elapsed() > limit - RESERVE {
                let _ = self.state.compare_exchange(NONE, TIME, Ordering::AcqRel, Ordering::Acquire);
            }
            std::thread::sleep(LOOK_EVERY);
        }
        eprintln!("meshd: the demo hangs; it ends here, and its networks are removed");
        std::process::exit(1);
    }
}
