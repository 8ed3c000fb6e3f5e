//! What happened to the peers lately, for `meshd events`.

use std::collections::VecDeque;

use meshnet::path::PathId;
use meshnet::time::Now;
use proto::id::Name;

use crate::api::view::{Happening, HappeningKind};

/// So much is remembered; the oldest goes first.
const REMEMBERED_MAX: usize = 1024;

/// What is remembered.
#[derive(Default)]
pub(super) struct History {
    happenings: VecDeque<Happening>,
    number: u64,
}

/// A change of the path to a peer, in words.
pub(super) struct PathChange {
    pub(super) from: Option<String>,
    pub(super) to: Option<String>,
    pub(super) reason: String,
}

impl History {
    /// Remembers that a session was made or ended.
    pub(super) fn session(&mut self, now: Now, peer: &Name, kind: HappeningKind) {
        self.add(now, peer, kind, None);
    }

    /// Remembers another path.
    pub(super) fn path(&mut self, now: Now, peer: &Name, change: PathChange) {
        self.add(now, peer, HappeningKind::PathChanged, Some(change));
    }

    /// What came after the happening with this number, the oldest first.
    pub(super) fn after(&self, number: u64) -> Vec<Happening> {
        self.happenings.iter().filter(|happening| happening.number > number).cloned().collect()
    }

    fn add(&mut self, now: Now, peer: &Name, kind: HappeningKind, change: Option<PathChange>) {
        if self.happenings.len() >= REMEMBERED_MAX {
            self.happenings.pop_front();
        }
        self.number += 1;
        let (from, to, reason) = match change {
            Some(PathChange { from, to, reason }) => (from, to, Some(reason)),
            None => (None, None, None),
        };
        let peer = peer.to_string();
        let happening = Happening { number: self.number, at_ms: now.wall.0, peer, kind, from, to, reason };
        self.happenings.push_back(happening);
    }
}

/// A path in words; `name_of` names relays.
pub(super) fn describe(path: PathId, name_of: impl Fn(proto::id::MemberId) -> String) -> String {
    match path {
        PathId::Direct { socket, remote } if socket.is_stream() => format!("tcp {remote}"),
        PathId::Direct { remote, .. } => format!("direct {remote}"),
        PathId::Relay { relay } => format!("via {}", name_of(relay)),
    }
}

#[cfg(test)]
mod tests {
    use meshnet::time::{Mono, UnixMs};

    use super::*;

    #[test]
    fn the_latest_are_remembered_and_counted_on() {
        let mut history = History::default();
        let (now, peer) = (Now { mono: Mono(0), wall: UnixMs(7) }, Name::new("b").unwrap());
        for _ in 0..REMEMBERED_MAX + 10 {
            history.session(now, &peer, HappeningKind::Connected);
        }
        let all = history.after(0);
        assert_eq!((all.len(), all[0].number), (REMEMBERED_MAX, 11));
        let last = history.after(REMEMBERED_MAX as u64 + 8);
        assert_eq!(last.iter().map(|it| it.number).collect::<Vec<_>>(), [1033, 1034]);
    }
}
