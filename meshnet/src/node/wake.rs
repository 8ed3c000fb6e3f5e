//! The machine slept, or its clock was set.

use std::time::Duration;

use proto::id::MemberId;

use super::Node;
use crate::path::IDLE_AFTER;
use crate::time::Now;

impl Node {
    /// The machine, or this process, stood still for so long. What was known of paths is old, and this machine may be
    /// elsewhere by now: all paths are probed at once, sessions that are too old are made anew where they are wanted, and
    /// databases are compared. To be called before [`Node::handle_timeout`], for which nothing has happened since.
    pub fn handle_wake(&mut self, now: Now, slept: Duration) {
        let members: Vec<MemberId> = self.peers.keys().copied().collect();
        let mut wanted = Vec::new();
        for member in &members {
            let Some(peer) = self.peers.get_mut(member) else { continue };
            // Silence during the sleep is nobody's fault.
            peer.paths.slept(now.mono, slept);
            peer.compare_at = now.mono;
            let used = now.mono.since(peer.needed).saturating_sub(slept) < IDLE_AFTER;
            if self.targets.contains(member) || used {
                wanted.push(*member);
            }
            let Some(peer) = self.peers.get_mut(member) else { continue };
            peer.session.handle_timeout(now, &mut self.handshaker);
            self.drain_session(now, *member);
        }
        self.recheck_paths(now);
        for member in wanted {
            self.want(now, member);
        }
        self.choose_targets(now);
        self.announce_candidates(now);
        self.routing.timer.changed(now.mono);
        self.dirty.record = true;
        self.settle(now);
    }

    /// The wall clock was set: certificates may have begun or ended meanwhile.
    pub fn handle_clock_change(&mut self, now: Now) {
        self.compute_routes(now);
        self.chores_at = now.mono;
        self.dirty.record = true;
        self.settle(now);
    }
}
