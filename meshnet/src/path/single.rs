//! One path: what was sent and heard on it, and what that says.

use std::time::Duration;

use proto::arrivals::Arrivals;

use super::{
    DEAD_MISSES, ONE_WAY_MISSES, Origin, PROBE_ACTIVE, PathId, Quality, Rest, SUSPECT_MISSES, Toll, delivery,
    mtu,
};
use crate::time::Mono;

/// What is kept for it.
pub(super) struct Path {
    pub(super) origin: Origin,
    /// The peer announced on the LAN that it is there.
    pub(super) on_lan: bool,
    /// The administrator does not want it to be used: it is only shown.
    pub(super) forbidden: bool,
    pub(super) announced: Mono,
    pub(super) proven: bool,
    pub(super) quality: Quality,
    pub(super) last_reply: Option<Mono>,
    pub(super) last_heard: Option<Mono>,
    pub(super) misses: u32,
    /// It was dead at some time since the last answer to a probe. (Heard again, it is alive before that answer.)
    pub(super) died: bool,
    pub(super) tries: u32,
    pub(super) next_probe: Mono,
    pub(super) in_flight: Vec<InFlight>,
    pub(super) mtu: mtu::Search,
    pub(super) tx_bytes: u64,
    pub(super) rx_bytes: u64,
    /// There from when it carries traffic.
    pub(super) delivery: Option<Box<delivery::Delivery>>,
    /// Packets that came over it, once there are any.
    pub(super) received: Option<Box<Arrivals>>,
    /// What using its relay costs others.
    pub(super) toll: Toll,
    /// While it is not taken again.
    pub(super) rest: Rest,
}

/// A probe that may still be answered.
pub(super) struct InFlight {
    pub(super) id: u32,
    pub(super) sent: Mono,
    /// It was counted as missed. A late reply is still taken: the path may just have become slower.
    pub(super) missed: bool,
}

impl Path {
    pub(super) fn new(id: &PathId, origin: Origin, forbidden: bool, now: Mono) -> Path {
        Path {
            origin,
            on_lan: origin == Origin::Lan,
            forbidden,
            announced: now,
            proven: false,
            quality: Quality::default(),
            last_reply: None,
            last_heard: None,
            misses: 0,
            died: false,
            tries: 0,
            next_probe: now,
            in_flight: Vec::new(),
            mtu: if id.is_stream() { mtu::Search::of_stream(now) } else { mtu::Search::new(now) },
            tx_bytes: 0,
            rx_bytes: 0,
            delivery: None,
            received: None,
            toll: Toll::default(),
            rest: Rest::default(),
        }
    }

    /// It answers probes, but what was sent over it did not arrive.
    pub(super) fn barren(&self, now: Mono) -> bool {
        self.delivery.as_ref().is_some_and(|delivery| delivery.failed(now))
    }

    /// It was barren lately.
    pub(super) fn failed_before(&self) -> bool {
        self.delivery.as_ref().is_some_and(|delivery| delivery.has_failed())
    }

    /// It was barren once, and has still to show that it is no longer.
    pub(super) fn on_trial(&self) -> bool {
        self.delivery.as_ref().is_some_and(|delivery| delivery.on_trial())
    }

    /// What the search for its MTU has to know. `None` while that makes no sense: before the first measurement, and while
    /// the path is not alive.
    pub(super) fn conditions(&self, now: Mono, active: bool) -> Option<mtu::Conditions> {
        (self.alive(now) && self.quality.replies() > 0).then(|| mtu::Conditions {
            patience: self.quality.patience(),
            grace: self.quality.grace(),
            loss: self.quality.loss(),
            answered: self.last_reply,
            active,
        })
    }

    pub(super) fn quiet_for(&self, now: Mono) -> Duration {
        self.last_reply.max(self.last_heard).map_or(Duration::MAX, |at| now.since(at))
    }

    pub(super) fn alive(&self, now: Mono) -> bool {
        self.proven
            && !self.forbidden
            && self.misses < ONE_WAY_MISSES
            && (self.misses < DEAD_MISSES || self.quiet_for(now) < PROBE_ACTIVE * DEAD_MISSES)
    }

    pub(super) fn suspect(&self, now: Mono) -> bool {
        self.misses >= SUSPECT_MISSES && self.quiet_for(now) >= PROBE_ACTIVE
    }

    pub(super) fn sent(&self, probe: u32) -> bool {
        self.in_flight.iter().any(|flight| flight.id == probe)
    }

    pub(super) fn doubt(&mut self, now: Mono) {
        let quiet_since = Mono(now.0.saturating_sub(PROBE_ACTIVE.as_micros() as u64));
        self.next_probe = now;
        self.tries = 0;
        self.misses = self.misses.max(SUSPECT_MISSES);
        self.last_heard = None;
        self.last_reply = self.last_reply.map(|at| at.min(quiet_since));
        self.mtu.restart(now);
    }

    /// How long a probe may stay unanswered before it counts as missed.
    pub(super) fn patience(&self) -> Duration {
        PROBE_ACTIVE.max(self.quality.patience()) - Duration::from_millis(10)
    }
}
