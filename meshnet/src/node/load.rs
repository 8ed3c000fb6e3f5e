//! How busy relays are: this one says so to those it works for, and what others say goes into the scores of the paths
//! through them.
//!
//! A relay compares what it forwards with what it can: what is configured, or else what it forwarded when it was last pressed
//! (`dataplane/fair.rs`). It says so in eighths, in which small changes do not show, when that changes, and with the answers to
//! probes. Who hears that a relay became busier takes that into account at some moment of the next seconds only: else all would
//! leave it together, and come back together.

use std::collections::BTreeMap;
use std::time::Duration;

use proto::frame::Frame;
use proto::id::MemberId;

use super::Node;
use crate::path::Toll;
use crate::time::{Mono, Now};

/// The own load is measured over this.
const MEASURED_OVER: Duration = Duration::from_secs(1);
/// Neighbours for which something was relayed so lately are told.
const TOLD_FOR: Duration = Duration::from_secs(10);
/// What a relay said of its load holds for so long; it repeats it with the answers to keepalives.
const HOLDS_FOR: Duration = Duration::from_secs(40);
/// That a relay became busier is taken into account within this.
const SPREAD_OVER: Duration = Duration::from_secs(3);
/// What was forwarded when it was too much is remembered for so long.
const LEARNT_FOR: Duration = Duration::from_secs(600);
/// Less than so many bytes a second says nothing about what can be forwarded.
const LEAST_CAPACITY: u64 = 125_000;
/// Into how many parts an eighth is divided for hysteresis.
const PARTS: u64 = 8;

/// The load of this node, as a relay, and of others.
#[derive(Default)]
pub(super) struct Loads {
    /// When the own one was measured last.
    measured: Option<Mono>,
    /// It was too much since then.
    pressed: bool,
    /// What can be forwarded, in bytes a second, and when that was learnt.
    learnt: Option<(Mono, u64)>,
    /// The own load as it was said last.
    own: u8,
    /// What others said, if not 0.
    others: BTreeMap<MemberId, Said>,
}

/// What a relay said of its load.
struct Said {
    eighths: u8,
    at: Mono,
    /// What counts, and when `eighths` will.
    counts: u8,
    from: Mono,
}

impl Loads {
    pub(super) fn poll_timeout(&self) -> Option<Mono> {
        let own = self.measured.filter(|_| self.own > 0).map(|at| at + MEASURED_OVER);
        let others = self.others.values().filter(|said| said.eighths != said.counts).map(|said| said.from);
        others.chain(own).min()
    }

    /// The load of a relay that counts.
    pub(super) fn of(&self, relay: MemberId) -> u8 {
        self.others.get(&relay).map_or(0, |said| said.counts)
    }
}

impl Node {
    /// How busy this node is as a relay, in eighths of what it can forward.
    pub fn relay_load(&self) -> u8 {
        self.loads.own
    }

    /// Something is being relayed, and maybe it is too much.
    pub(super) fn note_relaying(&mut self, now: Now, pressed: bool) {
        self.loads.pressed |= pressed;
        let since = *self.loads.measured.get_or_insert(now.mono);
        if now.mono.since(since) >= MEASURED_OVER {
            self.measure_load(now);
        }
    }

    /// Does what is due.
    pub(super) fn drive_loads(&mut self, now: Now) {
        let measured = self.loads.measured.filter(|_| self.loads.own > 0);
        if measured.is_some_and(|at| now.mono.since(at) >= MEASURED_OVER) {
            self.measure_load(now);
        }
        let due: Vec<MemberId> = self
            .loads
            .others
            .iter()
            .filter(|(_, said)| said.eighths != said.counts && said.from <= now.mono)
            .map(|(relay, _)| *relay)
            .collect();
        for relay in due {
            if let Some(said) = self.loads.others.get_mut(&relay) {
                said.counts = said.eighths;
            }
            self.charge_tolls_of(relay);
        }
    }

    /// Forgets what was said too long ago.
    pub(super) fn expire_loads(&mut self, now: Now) {
        let expired = |said: &Said| now.mono.since(said.at) >= HOLDS_FOR || said.eighths + said.counts == 0;
        let gone: Vec<MemberId> =
            self.loads.others.iter().filter(|(_, said)| expired(said)).map(|(relay, _)| *relay).collect();
        for relay in gone {
            self.loads.others.remove(&relay);
            self.charge_tolls_of(relay);
        }
    }

    fn measure_load(&mut self, now: Now) {
        let span = self.loads.measured.replace(now.mono).map_or(MEASURED_OVER, |at| now.mono.since(at));
        let mut bytes = 0;
        for peer in self.peers.values_mut() {
            let relayed = peer.stats.traffic().relayed_bytes;
            let since = relayed.saturating_sub(std::mem::replace(&mut peer.relayed.1, relayed));
            if since > 0 {
                peer.relayed.0 = now.mono;
            }
            bytes += since;
        }
        let rate = u128::from(bytes) * 1_000_000 / span.as_micros().max(1);
        let rate = u64::try_from(rate).unwrap_or(u64::MAX);
        let pressed = std::mem::take(&mut self.loads.pressed);
        if pressed && rate >= LEAST_CAPACITY {
            self.loads.learnt = Some((now.mono, rate));
        }
        let learnt = self.loads.learnt.filter(|(at, _)| now.mono.since(*at) < LEARNT_FOR);
        let capacity = self.settings.relay_capacity.or(learnt.map(|(_, rate)| rate));
        let load = if pressed { Frame::FULL } else { eighths(self.loads.own, rate, capacity) };
        if load != self.loads.own {
            self.loads.own = load;
            let told = |at: Mono| now.mono.since(at) < TOLD_FOR;
            let whom: Vec<MemberId> =
                self.peers.values().filter(|peer| told(peer.relayed.0)).map(|peer| peer.member).collect();
            for member in whom {
                self.send_frames(now, member, None, &[Frame::Load { eighths: load }]);
            }
        }
    }

    /// A relay says how busy it is.
    pub(super) fn take_load(&mut self, now: Now, relay: MemberId, eighths: u8) {
        if !self.may_relay(now, relay) {
            return;
        }
        let eighths = eighths.min(Frame::FULL);
        if eighths == 0 && !self.loads.others.contains_key(&relay) {
            return;
        }
        let pause = self.random_jitter(SPREAD_OVER);
        let said = self.loads.others.entry(relay).or_insert(Said {
            eighths: 0,
            at: now.mono,
            counts: 0,
            from: now.mono,
        });
        said.at = now.mono;
        if said.eighths != eighths {
            let busier = eighths > said.counts;
            (said.eighths, said.from) = (eighths, if busier { now.mono + pause } else { now.mono });
        }
        self.drive_loads(now);
    }

    /// Brings what the paths through a relay cost up to date.
    fn charge_tolls_of(&mut self, relay: MemberId) {
        let members: Vec<MemberId> = self.peers.keys().copied().collect();
        for member in members {
            self.charge_toll(member, relay);
        }
    }

    /// Brings what the relayed paths to a member cost up to date.
    pub(super) fn charge_tolls(&mut self, member: MemberId) {
        let relays = self.peers.get(&member).map(|peer| peer.paths.relays()).unwrap_or_default();
        for relay in relays {
            self.charge_toll(member, relay);
        }
    }

    fn charge_toll(&mut self, member: MemberId, relay: MemberId) {
        let datacenter = |of| self.lsdb.get(of).and_then(|entry| entry.view().datacenter());
        let own = &self.settings.datacenter;
        let leaves = own.is_some() && datacenter(member) == *own && datacenter(relay) != *own;
        let toll = Toll { load: self.loads.of(relay), leaves };
        if let Some(peer) = self.peers.get_mut(&member)
            && peer.paths.set_toll(relay, toll)
        {
            self.dirty.peers.insert(member);
        }
    }
}

/// What to say of the load at a rate, if `said` was said last: it has to be well beyond a step to be said anew.
fn eighths(said: u8, rate: u64, capacity: Option<u64>) -> u8 {
    let Some(capacity) = capacity.filter(|capacity| *capacity > 0) else { return 0 };
    let full = u64::from(Frame::FULL) * PARTS;
    let parts = u128::from(rate) * u128::from(full) / u128::from(capacity);
    let parts = u64::try_from(parts).unwrap_or(full).min(full);
    let step = u64::from(said) * PARTS;
    let (above, below) = (step + PARTS + PARTS / 4, step.saturating_sub(PARTS / 2));
    match parts >= above.min(full) || parts < below {
        true => (parts / PARTS) as u8,
        false => said,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn small_changes_of_the_load_do_not_show_and_full_is_full() {
        let at = |said, rate| eighths(said, rate, Some(800));
        assert_eq!((at(0, 0), at(0, 90), at(0, 110), at(0, 130)), (0, 0, 0, 1));
        assert_eq!((at(4, 460), at(4, 530), at(4, 360), at(4, 330)), (4, 5, 4, 3));
        assert_eq!((at(7, 799), at(7, 800), at(3, 5000), at(8, 770), at(8, 740)), (7, 8, 8, 8, 7));
        assert_eq!((at(1, 60), at(1, 40)), (1, 0));
        assert_eq!(eighths(0, 1_000_000, None), 0, "nobody knows");
    }
}
