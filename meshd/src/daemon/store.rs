//! Writing what the node wants to find again, on a thread of its own: a disk that hangs must not hold up the loop.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

use blake2::{Blake2s256, Digest};
use tokio::sync::{mpsc, oneshot};
use tokio::time::Instant;
use tracing::{error, info};
use zeroize::Zeroizing;

use crate::state::{self, Kind, StateDir};

/// The cache is written so long after its first change: changes come in flocks.
const SETTLE: Duration = Duration::from_secs(1);
/// Time from one write of the cache to the next: a crash loses at most this much, which the others send again.
const PAUSE: Duration = Duration::from_secs(10);
/// Time from a write that failed to the next try.
const RETRY: Duration = Duration::from_secs(2);
/// Most files that were saved and not taken note of yet.
pub(super) const MAX_SAVED: usize = 64;

/// Writes to the state directory while the daemon runs.
pub(super) struct Store {
    shared: Arc<Shared>,
    thread: Option<JoinHandle<()>>,
    saved: [u8; 32],
    due: Option<Instant>,
    last: Option<Instant>,
}

#[derive(Default)]
struct Shared {
    wanted: Mutex<Wanted>,
    changed: Condvar,
    failing: AtomicBool,
}

/// A file that [`Store::persist`] was given is on the disk.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Saved {
    /// Which file.
    pub(super) kind: Kind,
    /// The generation given.
    pub(super) generation: u64,
}

/// What is to be written. A newer one takes the place of an older one, so nothing piles up.
#[derive(Default)]
struct Wanted {
    cache: Option<Vec<u8>>,
    floor_us: Option<u64>,
    files: BTreeMap<Kind, (u64, Zeroizing<Vec<u8>>)>,
    waiting: Vec<oneshot::Sender<()>>,
    end: bool,
}

impl Store {
    /// For `state`, whose cache holds `cache` now.
    ///
    /// # Errors
    /// When there is no thread to be had.
    pub(super) fn start(
        state: StateDir,
        cache: &[u8],
        saved_files: mpsc::Sender<Saved>,
    ) -> std::io::Result<Store> {
        let shared = Arc::new(Shared::default());
        let writer = shared.clone();
        let thread = std::thread::Builder::new()
            .name("mesh-store".into())
            .spawn(move || write_until_end(&state, &writer, &saved_files))?;
        Ok(Store { shared, thread: Some(thread), saved: digest(cache), due: None, last: None })
    }

    /// The cache has changed.
    pub(super) fn cache_changed(&mut self) {
        let earliest = self.last.map(|last| last + PAUSE);
        let soon = Instant::now() + SETTLE;
        self.due.get_or_insert(earliest.map_or(soon, |earliest| earliest.max(soon)));
    }

    /// When [`Store::save`] is due.
    pub(super) fn due(&self) -> Option<Instant> {
        self.due
    }

    /// Has the cache written, if it differs from what was written last or that failed.
    pub(super) fn save(&mut self, cache: Vec<u8>) {
        self.due = None;
        let digest = digest(&cache);
        if digest == self.saved && !self.is_failing() {
            return;
        }
        (self.saved, self.last) = (digest, Some(Instant::now()));
        self.want(|wanted| wanted.cache = Some(cache));
    }

    /// Notes that handshake timestamps up to `floor_us` may be used.
    pub(super) fn reserve(&self, floor_us: u64) {
        self.want(|wanted| wanted.floor_us = Some(floor_us));
    }

    /// Has a file written, and tells when it is on the disk. A write that fails is tried again until it succeeds, or a
    /// later one takes its place.
    pub(super) fn persist(&self, kind: Kind, generation: u64, payload: Zeroizing<Vec<u8>>) {
        self.want(|wanted| {
            wanted.files.insert(kind, (generation, payload));
        });
    }

    /// Waits until all that was wanted so far is on the disk, or has failed.
    pub(super) async fn finish(&self) {
        let (done, waiting) = oneshot::channel();
        self.want(|wanted| wanted.waiting.push(done));
        // The thread ends only with us.
        let _ = waiting.await;
    }

    /// Whether the last write failed: something for the status.
    pub(super) fn is_failing(&self) -> bool {
        self.shared.failing.load(Ordering::Relaxed)
    }

    fn want(&self, change: impl FnOnce(&mut Wanted)) {
        change(&mut self.shared.wanted.lock().unwrap_or_else(PoisonError::into_inner));
        self.shared.changed.notify_one();
    }
}

impl Drop for Store {
    fn drop(&mut self) {
        self.want(|wanted| wanted.end = true);
        // A thread that waits for the disk would hold up the end of the daemon; its write is atomic anyway.
        if let Some(thread) = self.thread.take().filter(JoinHandle::is_finished) {
            let _ = thread.join();
        }
    }
}

fn write_until_end(state: &StateDir, shared: &Shared, saved: &mpsc::Sender<Saved>) {
    let mut again = false;
    loop {
        let guard = shared.wanted.lock().unwrap_or_else(PoisonError::into_inner);
        let idle = |wanted: &mut Wanted| {
            wanted.cache.is_none()
                && wanted.floor_us.is_none()
                && wanted.files.is_empty()
                && wanted.waiting.is_empty()
                && !wanted.end
        };
        let mut guard = if again {
            // What failed is still wanted: leave the disk some time.
            let rested = shared.changed.wait_timeout_while(guard, RETRY, |wanted| !wanted.end);
            rested.unwrap_or_else(PoisonError::into_inner).0
        } else {
            shared.changed.wait_while(guard, idle).unwrap_or_else(PoisonError::into_inner)
        };
        let wanted = std::mem::take(&mut *guard);
        drop(guard);
        // The floor first: it is short, and the cache comes back from the other members.
        let floor = wanted.floor_us.map(|floor_us| state.write_number(Kind::Floor, floor_us));
        let cache = wanted.cache.map(|cache| state.write(Kind::Records, &cache));
        let any = floor.is_some() || cache.is_some() || !wanted.files.is_empty();
        let mut outcome = floor.unwrap_or(Ok(())).and(cache.unwrap_or(Ok(())));
        again = false;
        for (kind, (generation, payload)) in wanted.files {
            match state.write(kind, &payload) {
                // Nobody to tell: the daemon is ending.
                Ok(()) => drop(saved.blocking_send(Saved { kind, generation })),
                Err(error) => {
                    outcome = outcome.and(Err(error));
                    again = !wanted.end;
                    let mut guard = shared.wanted.lock().unwrap_or_else(PoisonError::into_inner);
                    guard.files.entry(kind).or_insert((generation, payload));
                }
            }
        }
        if any {
            note(shared, outcome);
        }
        for waiting in wanted.waiting {
            // Who does not wait any more does not mind.
            let _ = waiting.send(());
        }
        if wanted.end {
            return;
        }
    }
}

/// Logs when writing begins to fail and when it works again, not each time.
fn note(shared: &Shared, result: Result<(), state::Error>) {
    let was_failing = shared.failing.swap(result.is_err(), Ordering::Relaxed);
    match result {
        Err(error) if !was_failing => {
            let cause = std::error::Error::source(&error).map(ToString::to_string).unwrap_or_default();
            error!("cannot save state: {error}: {cause}");
        }
        Ok(()) if was_failing => info!("state is saved again"),
        _ => {}
    }
}

fn digest(cache: &[u8]) -> [u8; 32] {
    Blake2s256::digest(cache).into()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn fresh() -> (tempfile::TempDir, StateDir, Store) {
        let directory = tempfile::tempdir().unwrap();
        let state = StateDir::create(&directory.path().join("s")).unwrap();
        let (saved, _) = mpsc::channel(MAX_SAVED);
        let store = Store::start(state.clone(), b"", saved).unwrap();
        (directory, state, store)
    }

    #[tokio::test]
    async fn a_file_is_told_of_when_it_is_on_the_disk_and_not_before() {
        let directory = tempfile::tempdir().unwrap();
        let state = StateDir::create(&directory.path().join("s")).unwrap();
        let (saved, mut told) = mpsc::channel(MAX_SAVED);
        let store = Store::start(state.clone(), b"", saved).unwrap();
        // A directory in the file's place: root may write everywhere else.
        std::fs::create_dir_all(state.file(Kind::Transport).join("x")).unwrap();
        store.persist(Kind::Transport, 1, Zeroizing::new(b"one".to_vec()));
        store.finish().await;
        assert!(store.is_failing());
        assert!(told.try_recv().is_err());
        std::fs::remove_dir_all(state.file(Kind::Transport)).unwrap();
        assert_eq!(told.recv().await, Some(Saved { kind: Kind::Transport, generation: 1 }));
        assert_eq!(state.read(Kind::Transport).unwrap().unwrap().as_slice(), b"one");
    }

    #[tokio::test]
    async fn the_cache_is_written_once_for_many_changes_and_only_if_it_differs() {
        let (_directory, state, mut store) = fresh();
        let start = Instant::now();
        store.cache_changed();
        store.cache_changed();
        assert!(store.due().is_some_and(|due| due >= start + SETTLE && due < start + PAUSE));
        store.save(b"".to_vec());
        assert_eq!(store.due(), None);
        store.finish().await;
        assert!(!state.has(Kind::Records));
        store.save(b"one".to_vec());
        store.reserve(7);
        store.finish().await;
        assert_eq!(state.read(Kind::Records).unwrap().unwrap().as_slice(), b"one");
        assert_eq!(state.number(Kind::Floor).unwrap(), Some(7));
        store.cache_changed();
        assert!(store.due().is_some_and(|due| due >= start + PAUSE));
    }

    #[tokio::test]
    async fn a_write_that_fails_is_told_and_tried_again() {
        let (_directory, state, mut store) = fresh();
        // A directory in the file's place: root may write everywhere else.
        std::fs::create_dir_all(state.file(Kind::Records).join("x")).unwrap();
        store.save(b"one".to_vec());
        store.finish().await;
        assert!(store.is_failing());
        std::fs::remove_dir_all(state.file(Kind::Records)).unwrap();
        store.save(b"one".to_vec());
        store.finish().await;
        assert!(!store.is_failing());
        assert!(state.has(Kind::Records));
    }
}
