//! Writing what the node wants to find again: its cache beside the loop, the timestamp floor at once.

use std::time::Duration;

use blake2::{Blake2s256, Digest};
use tokio::task::JoinHandle;
use tokio::time::Instant;
use tracing::{debug, error};

use crate::state::{self, Kind, StateDir};

/// The cache is written so long after its first change: changes come in flocks.
const SETTLE: Duration = Duration::from_secs(1);
/// Time from one write of the cache to the next: a crash loses at most this much, which the others send again.
const PAUSE: Duration = Duration::from_secs(10);

/// Writes to the state directory while the daemon runs.
pub(super) struct Store {
    state: StateDir,
    saved: [u8; 32],
    due: Option<Instant>,
    last: Option<Instant>,
    writing: Option<JoinHandle<Result<(), state::Error>>>,
    failing: bool,
}

impl Store {
    /// For `state`, whose cache holds `cache` now.
    pub(super) fn new(state: StateDir, cache: &[u8]) -> Store {
        Store { state, saved: digest(cache), due: None, last: None, writing: None, failing: false }
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

    /// Writes the cache beside the loop, if it differs from what is there.
    pub(super) async fn save(&mut self, cache: Vec<u8>) {
        self.due = None;
        let digest = digest(&cache);
        if digest == self.saved {
            return;
        }
        self.finish().await;
        self.last = Some(Instant::now());
        self.saved = digest;
        let state = self.state.clone();
        self.writing = Some(tokio::task::spawn_blocking(move || state.write(Kind::Records, &cache)));
    }

    /// Waits for the write under way, if there is one.
    pub(super) async fn finish(&mut self) {
        let Some(writing) = self.writing.take() else { return };
        let Ok(result) = writing.await else { return };
        if let Err(error) = &result {
            // To be tried again at the next change.
            self.saved = [0; 32];
            if !self.failing {
                error!(%error, "cannot save the cache of records");
            }
        } else if self.failing {
            debug!("the cache of records is saved again");
        }
        self.failing = result.is_err();
    }

    /// Notes that handshake timestamps up to `floor_us` may be used. It is on the disk when this returns.
    pub(super) fn reserve(&mut self, floor_us: u64) {
        if let Err(error) = self.state.write_number(Kind::Floor, floor_us) {
            // The clock is mostly right, and peers challenge a timestamp that is too old.
            error!(%error, "cannot save the handshake timestamps");
            self.failing = true;
        }
    }

    /// Whether the last write failed: something for the status.
    pub(super) fn is_failing(&self) -> bool {
        self.failing
    }
}

fn digest(cache: &[u8]) -> [u8; 32] {
    Blake2s256::digest(cache).into()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn the_cache_is_written_once_for_many_changes_and_only_if_it_differs() {
        let directory = tempfile::tempdir().unwrap();
        let state = StateDir::create(&directory.path().join("s")).unwrap();
        let mut store = Store::new(state.clone(), b"");
        let start = Instant::now();
        store.cache_changed();
        store.cache_changed();
        assert!(store.due().is_some_and(|due| due >= start + SETTLE && due < start + PAUSE));
        store.save(b"".to_vec()).await;
        assert_eq!(store.due(), None);
        assert!(!state.has(Kind::Records));
        store.save(b"one".to_vec()).await;
        store.finish().await;
        assert_eq!(state.read(Kind::Records).unwrap().unwrap().as_slice(), b"one");
        store.cache_changed();
        assert!(store.due().is_some_and(|due| due >= start + PAUSE));
    }

    #[tokio::test]
    async fn a_write_that_fails_is_told_and_tried_again() {
        let directory = tempfile::tempdir().unwrap();
        let state = StateDir::create(&directory.path().join("s")).unwrap();
        let mut store = Store::new(state.clone(), b"");
        // A directory in the file's place: root may write everywhere else.
        std::fs::create_dir_all(state.file(Kind::Records).join("x")).unwrap();
        store.save(b"one".to_vec()).await;
        store.finish().await;
        assert!(store.is_failing());
        std::fs::remove_dir_all(state.file(Kind::Records)).unwrap();
        store.save(b"one".to_vec()).await;
        store.finish().await;
        assert!(!store.is_failing());
        assert!(state.has(Kind::Records));
    }
}
