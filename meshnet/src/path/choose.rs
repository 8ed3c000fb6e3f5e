//! Which of the paths carries a peer's traffic, and why.
//!
//! The lowest score wins: round-trip time, jitter, and what loss costs ([`Quality::score_us`]), with a handicap for ways
//! that cost others something (docs/adr/0010-path-score.md has the figures). Changing over costs nothing, because a path is
//! proven before it is chosen, but paths of about the same quality must not take turns: so another one must be clearly
//! better, and the one in use is kept for a while; only a change to a better *kind* of path needs no margin.

use std::net::IpAddr;
use std::time::Duration;

use super::*;

/// Shortest time between two changes of the chosen path while both are alive.
const DWELL: Duration = Duration::from_secs(1);
/// A relayed path must be better than a direct one by this much: it costs others their bandwidth.
const RELAY_HANDICAP_US: u64 = 3_000;
/// A path over public addresses must be better than one inside the LAN by this much: the LAN costs nobody anything, and a
/// NAT that sends back in what comes from its inside is a bottleneck.
const OUTSIDE_HANDICAP_US: u64 = 300;
/// A TCP connection must be better than datagrams by this much: what is lost holds up all that comes after it. Less than a
/// relay's, whose first hop may well be a TCP connection, too.
const STREAM_HANDICAP_US: u64 = 2_000;
/// A path must be better than the chosen one by a fifth and by this much to replace it.
const SWITCH_MARGIN_US: u64 = 500;
/// What a path counts as that is proven by a handshake but not measured yet.
const UNMEASURED_US: u64 = 50_000;

/// Why the chosen path was chosen.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Change {
    /// It was the first that worked.
    First,
    /// The one before died.
    Died,
    /// The one before had left several probes unanswered.
    Doubted,
    /// It is of a better kind: inside the LAN, direct, or without TCP.
    Kind,
    /// It scored better by so many microseconds.
    Better(u64),
    /// The one before may not be used any more.
    Forbidden,
}

/// Which paths carry a peer's traffic.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Selection {
    /// The chosen path.
    pub primary: Option<PathId>,
    /// While there is doubt about the chosen path: everything goes out here too; the replay window of the receiver
    /// removes what arrives twice.
    pub duplicate: Option<PathId>,
}

/// Why a path is or is not the chosen one, for `meshd why`.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Standing {
    /// It carries the traffic.
    Chosen,
    /// Alive, and kept warm as the next one.
    Warm,
    /// Alive, but its score is worse.
    Worse,
    /// Some probes stayed without answer.
    Suspect,
    /// Was proven once; now silent.
    Dead,
    /// Never answered a probe.
    Unproven,
    /// Not to be used: the configuration says so.
    Forbidden,
}

/// A path's state as shown to people.
#[derive(Clone, Debug)]
pub struct PathView {
    /// Which path.
    pub id: PathId,
    /// Where it was learnt.
    pub origin: Origin,
    /// Its standing among the others.
    pub standing: Standing,
    /// Measurements; `None` before the first reply.
    pub quality: Option<Quality>,
    /// The score in microseconds, lower is better; `None` while it is not alive.
    pub score_us: Option<u64>,
    /// Unanswered probes since the last sign of life.
    pub misses: u32,
    /// When it is probed next.
    pub next_probe: Mono,
    /// The longest UDP payload that it carries, in bytes.
    pub datagram_len: u16,
    /// Whether that was measured; else it is assumed.
    pub len_is_proven: bool,
    /// Bytes of inner packets sent on it, since it is known.
    pub tx_bytes: u64,
    /// Bytes of inner packets received on it.
    pub rx_bytes: u64,
}

impl PathSet {
    /// The paths that carry traffic now.
    pub fn select(&mut self, now: Mono) -> Selection {
        self.count_misses(now);
        self.expire_candidates(now);
        let best = self.best(now, None);
        let current = self.primary.filter(|id| self.paths.get(id).is_some_and(|path| path.alive(now)));
        let chosen = match (current, best) {
            (Some(current), Some(best)) if best != current && self.should_switch(now, &current, &best) => {
                Some(best)
            }
            (Some(current), _) => Some(current),
            (None, best) => best,
        };
        // With nothing alive, the last choice is still the best guess.
        let chosen = chosen.or(self.primary.filter(|id| self.policy.allows(id)));
        if chosen != self.primary {
            self.change = self.change_to(now, chosen);
            self.primary = chosen;
            self.switched = now;
            if let Some(path) = chosen.and_then(|id| self.paths.get_mut(&id)) {
                path.next_probe = path.next_probe.min(now + PROBE_ACTIVE);
            }
        }
        let in_doubt = chosen.and_then(|id| self.paths.get(&id)).is_some_and(|path| {
            path.suspect(now) || !path.alive(now) || (path.quiet_for(now) > KEEPALIVE * 2 && path.misses == 0)
        });
        let duplicate =
            if in_doubt { self.best(now, chosen).or_else(|| self.fallback(now, chosen)) } else { None };
        Selection { primary: chosen, duplicate }
    }

    /// Why the path in use was chosen, and when.
    pub fn last_change(&self) -> (Change, Mono) {
        (self.change, self.switched)
    }

    /// When another path may take over at the earliest while the one in use works.
    pub fn settled_at(&self) -> Mono {
        self.switched + DWELL
    }

    fn change_to(&self, now: Mono, chosen: Option<PathId>) -> Change {
        let path = |id: Option<PathId>| id.and_then(|id| Some((id, self.paths.get(&id)?)));
        let Some((old_id, old)) = path(self.primary) else { return Change::First };
        if old.forbidden {
            return Change::Forbidden;
        }
        let Some((new_id, new)) = path(chosen) else { return Change::Died };
        if !old.alive(now) {
            return Change::Died;
        }
        if old.suspect(now) {
            return Change::Doubted;
        }
        if kind(&new_id) < kind(&old_id) {
            return Change::Kind;
        }
        Change::Better(score(&old_id, old).saturating_sub(score(&new_id, new)))
    }

    /// The best direct path that is alive, with its smoothed round-trip time: what makes a link.
    pub fn best_direct(&self, now: Mono) -> Option<(PathId, Duration)> {
        self.paths
            .iter()
            .filter(|(id, path)| id.is_direct() && path.alive(now))
            .min_by_key(|(id, path)| (path.suspect(now), score(id, path), **id))
            .map(|(id, path)| (*id, path.quality.rtt()))
    }

    /// Every path, with why it is or is not chosen.
    pub fn views(&self, now: Mono) -> Vec<PathView> {
        let warm = self.warm(now);
        self.paths
            .iter()
            .map(|(id, path)| PathView {
                id: *id,
                origin: path.origin,
                standing: if path.forbidden {
                    Standing::Forbidden
                } else if !path.proven {
                    Standing::Unproven
                } else if !path.alive(now) {
                    Standing::Dead
                } else if self.primary == Some(*id) {
                    Standing::Chosen
                } else if path.suspect(now) {
                    Standing::Suspect
                } else if warm == Some(*id) {
                    Standing::Warm
                } else {
                    Standing::Worse
                },
                quality: path.proven.then_some(path.quality),
                score_us: path.alive(now).then(|| score(id, path)),
                misses: path.misses,
                next_probe: path.next_probe,
                datagram_len: path.mtu.size(),
                len_is_proven: path.mtu.is_proven(),
                tx_bytes: path.tx_bytes,
                rx_bytes: path.rx_bytes,
            })
            .collect()
    }

    /// The best path that is alive, other than `except`. Healthy paths come before suspected ones.
    fn best(&self, now: Mono, except: Option<PathId>) -> Option<PathId> {
        self.paths
            .iter()
            .filter(|(id, path)| path.alive(now) && except != Some(**id))
            .min_by_key(|(id, path)| (path.suspect(now), score(id, path), **id))
            .map(|(id, _)| *id)
    }

    /// With nothing alive: a relay, else anything that was proven once, else any candidate.
    fn fallback(&self, now: Mono, except: Option<PathId>) -> Option<PathId> {
        if except.and_then(|id| self.paths.get(&id)).is_some_and(|path| path.alive(now)) {
            return None;
        }
        self.paths
            .iter()
            .filter(|(id, path)| except != Some(**id) && !path.forbidden && path.is_of_use(id, false))
            .min_by_key(|(id, path)| (id.is_direct(), !path.proven, **id))
            .map(|(id, _)| *id)
    }

    pub(super) fn warm(&self, now: Mono) -> Option<PathId> {
        self.best(now, self.primary)
    }

    fn should_switch(&self, now: Mono, current: &PathId, best: &PathId) -> bool {
        let (Some(from), Some(to)) = (self.paths.get(current), self.paths.get(best)) else { return false };
        if from.suspect(now) && !to.suspect(now) {
            return from.misses >= DEAD_MISSES - 1;
        }
        if to.quality.replies() < 2 {
            return false;
        }
        let (old, new) = (score(current, from), score(best, to));
        let clearly_better = new + new / 4 + SWITCH_MARGIN_US < old;
        let upgrade = kind(best) < kind(current) && new < old;
        upgrade || (clearly_better && now.since(self.switched) >= DWELL)
    }
}

/// Kinds of paths, the dearest last.
#[derive(PartialEq, Eq, PartialOrd, Ord)]
enum Kind {
    Lan,
    Direct,
    Stream,
    Relay,
}

fn kind(id: &PathId) -> Kind {
    match id {
        PathId::Direct { socket, .. } if socket.is_stream() => Kind::Stream,
        PathId::Direct { remote, .. } if is_local(remote.ip()) => Kind::Lan,
        PathId::Direct { .. } => Kind::Direct,
        PathId::Relay { .. } => Kind::Relay,
    }
}

/// Whether an address is one of a LAN: private (RFC 1918, RFC 4193) or link-local.
fn is_local(ip: IpAddr) -> bool {
    match ip {
        IpAddr::V4(v4) => v4.is_private() || v4.is_link_local(),
        IpAddr::V6(v6) => v6.is_unique_local() || v6.is_unicast_link_local(),
    }
}

pub(super) fn score(id: &PathId, path: &Path) -> u64 {
    let own = if path.quality.replies() == 0 { UNMEASURED_US } else { path.quality.score_us() };
    match kind(id) {
        Kind::Lan => own,
        Kind::Direct => own + OUTSIDE_HANDICAP_US,
        Kind::Stream => own + own / 10 + STREAM_HANDICAP_US,
        Kind::Relay => own + own / 10 + RELAY_HANDICAP_US,
    }
}
