//! When TCP connections to a peer are of use.
//!
//! They are candidates like any other, but each costs both ends a connection, and datagrams over TCP wait for each other. So
//! they are tried only where no datagram gets straight to the peer: [`STREAM_AFTER`] the peer is first looked for, and at
//! once where datagrams did arrive and now do not. Once datagrams have arrived for [`STREAM_LINGER`] again, what was known
//! of the connections is forgotten, nothing is sent on them any more, and they close for want of use.

use std::time::Duration;

use super::{Path, PathId, PathSet, Quality};
use crate::time::Mono;

/// So long UDP has to itself before TCP is tried with a peer that was not reached yet.
pub const STREAM_AFTER: Duration = Duration::from_secs(1);
/// Connections are kept so long after datagrams arrive again: what blocked UDP once may do so again.
pub const STREAM_LINGER: Duration = Duration::from_secs(30);

/// Whether datagrams get straight to the peer.
#[derive(Default)]
pub(super) struct Reach {
    /// They do.
    works: bool,
    /// They did, at some time.
    ever: bool,
    /// Since when it is so; `None` before anybody looked.
    since: Option<Mono>,
}

impl Reach {
    /// When connections are worth trying; `None` while they are not.
    pub(super) fn streams_wanted_at(&self) -> Option<Mono> {
        let grace = if self.ever { Duration::ZERO } else { STREAM_AFTER };
        self.since.filter(|_| !self.works).map(|since| since + grace)
    }

    pub(super) fn streams_wanted(&self, now: Mono) -> bool {
        self.streams_wanted_at().is_some_and(|at| at <= now)
    }

    /// Nobody looked for long: it begins anew.
    pub(super) fn forget(&mut self) {
        *self = Reach::default();
    }
}

impl Path {
    /// Whether it is to be probed at all: a connection only when it is wanted, or while it is known to work.
    pub(super) fn is_of_use(&self, id: &PathId, streams_wanted: bool) -> bool {
        self.proven || streams_wanted || !id.is_stream()
    }
}

impl PathSet {
    /// Looks whether datagrams get straight to the peer.
    pub(super) fn note_reach(&mut self, now: Mono) {
        let udp = |id: &PathId| id.is_direct() && !id.is_stream();
        let works = self.paths.iter().any(|(id, path)| udp(id) && path.alive(now) && !path.suspect(now));
        let changed = self.reach.since.is_none() || works != self.reach.works;
        if changed {
            self.reach.since = Some(now);
            self.reach.works = works;
            self.reach.ever |= works;
        }
        if changed && let Some(at) = self.reach.streams_wanted_at() {
            for (_, path) in self.paths.iter_mut().filter(|(id, _)| id.is_stream()) {
                path.tries = 0;
                path.next_probe = at;
            }
        }
        let settled = self.reach.since.is_some_and(|since| now.since(since) >= STREAM_LINGER);
        if works && settled {
            let primary = self.primary;
            let stale = |id: &PathId, path: &Path| id.is_stream() && path.proven && primary != Some(*id);
            for (_, path) in self.paths.iter_mut().filter(|(id, path)| stale(id, path)) {
                path.forget();
            }
        }
    }

    /// The TCP connection of a path was closed. Returns whether it was thought to work.
    pub fn stream_closed(&mut self, now: Mono, id: &PathId) -> bool {
        let Some(path) = self.paths.get_mut(id).filter(|_| id.is_stream()) else { return false };
        let was_alive = path.alive(now);
        path.forget();
        let accepted = matches!(id, PathId::Direct { socket, .. } if *socket == super::SocketId::ACCEPTED);
        if accepted && self.primary != Some(*id) {
            self.paths.remove(id);
        }
        if was_alive && self.primary == Some(*id) {
            self.ask_others(now);
        }
        was_alive
    }
}

impl Path {
    fn forget(&mut self) {
        self.proven = false;
        self.quality = Quality::default();
        self.in_flight.clear();
        self.misses = 0;
    }
}
