//! Which of the paths carries a peer's traffic, and why.
//!
//! The lowest score wins: round-trip time, jitter, and what loss costs ([`Quality::score_us`]), with a handicap for ways
//! that cost others something (docs/adr/0010-path-score.md has the figures). Changing over costs nothing, because a path is
//! proven before it is chosen, but paths of about the same quality must not take turns: so another one must be clearly
//! better, and the one in use is kept for a while; only a change to a better *kind* of path needs no margin.

use std::net::IpAddr;
use std::time::Duration;

use super::rest::REST;
use super::*;

/// Shortest time between two changes of the chosen path while both are alive.
const DWELL: Duration = Duration::from_secs(1);
/// A relayed path must be better than a direct one by this much: it costs others their bandwidth.
const RELAY_HANDICAP_US: u64 = 3_000;
/// A path over public addresses must be better than one inside the LAN by this much: the LAN costs nobody anything, and a
/// NAT that sends back in what comes from its inside is a bottleneck.
const OUTSIDE_HANDICAP_US: u64 = 300;
/// A path to a link-local address must be better than one to another address on the LAN by this much: addresses that
/// somebody gave say more to whoever reads them.
const LINK_HANDICAP_US: u64 = 200;
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
    /// The one before answered probes, but did not deliver what was sent.
    Barren,
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
    /// Paths that carry some of the flows instead of the chosen one, because they are as good.
    pub spread: Spread,
}

/// Why a path is or is not the chosen one, for `meshd why`.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Standing {
    /// It carries the traffic.
    Chosen,
    /// It carries some of the flows, being as good as the chosen one.
    Shares,
    /// Alive, and kept warm as the next one.
    Warm,
    /// Alive, but its score is worse.
    Worse,
    /// Some probes stayed without answer.
    Suspect,
    /// It answers probes, but did not deliver what was sent.
    Barren,
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
    /// Whether the peer announced itself there on the LAN.
    pub on_lan: bool,
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
    /// What using its relay costs others.
    pub toll: Toll,
    /// Until when it is not taken again while others work, having been given up for one.
    pub rests_until: Option<Mono>,
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
        self.note_crowd(now);
        let current = self.primary.filter(|id| self.paths.get(id).is_some_and(|path| path.alive(now)));
        let chosen = match current {
            Some(current) => self.better(now, &current).or(Some(current)),
            None => self.best(now, None),
        };
        // With nothing alive, the last choice is still the best guess.
        let chosen = chosen.or(self.primary.filter(|id| self.policy.allows(id)));
        if chosen != self.primary {
            self.change = self.change_to(now, chosen);
            self.give_up(now, chosen);
            if let Change::Better(_) = self.change {
                self.bettered = Some(now);
            }
            self.primary = chosen;
            self.switched = now;
            if let Some(path) = chosen.and_then(|id| self.paths.get_mut(&id)) {
                path.next_probe = path.next_probe.min(now + PROBE_ACTIVE);
                if let Some(delivery) = &mut path.delivery {
                    delivery.begins(now);
                }
            }
        }
        let in_use = self.primary.filter(|_| self.is_active(now));
        let better = in_use.and_then(|current| self.better_by(now, &current, PathSet::looks_better));
        self.note_contender(now, better);
        let in_doubt = chosen.and_then(|id| self.paths.get(&id)).is_some_and(|path| {
            path.suspect(now)
                || path.on_trial()
                || !path.alive(now)
                || (path.quiet_for(now) > KEEPALIVE * 2 && path.misses == 0)
        });
        let duplicate =
            if in_doubt { self.second(now, chosen).or_else(|| self.fallback(now, chosen)) } else { None };
        let spread = if in_doubt { Spread::default() } else { self.spread_beside(now, chosen) };
        Selection { primary: chosen, duplicate, spread }
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
        if old.barren(now) {
            return Change::Barren;
        }
        if kind(&new_id, new) < kind(&old_id, old) {
            return Change::Kind;
        }
        Change::Better(self.cost(now, &old_id, old).saturating_sub(self.cost(now, &new_id, new)))
    }

    /// The best direct path that is alive, with its smoothed round-trip time: what makes a link.
    pub fn best_direct(&self, now: Mono) -> Option<(PathId, Duration)> {
        self.paths
            .iter()
            .filter(|(id, path)| id.is_direct() && path.alive(now))
            .min_by_key(|(id, path)| (path.suspect(now), self.cost(now, id, path), **id))
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
                on_lan: path.on_lan,
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
                } else if path.barren(now) {
                    Standing::Barren
                } else if self.spread.contains(id) {
                    Standing::Shares
                } else if warm == Some(*id) {
                    Standing::Warm
                } else {
                    Standing::Worse
                },
                quality: path.proven.then_some(path.quality),
                score_us: path.alive(now).then(|| self.cost(now, id, path)),
                misses: path.misses,
                next_probe: path.next_probe,
                datagram_len: path.mtu.size(),
                len_is_proven: path.mtu.is_proven(),
                toll: path.toll,
                rests_until: path.rest.until(now),
                tx_bytes: path.tx_bytes,
                rx_bytes: path.rx_bytes,
            })
            .collect()
    }

    /// The best path that is alive, other than `except`. Healthy paths come before suspected ones, and those that deliver
    /// before others.
    fn best(&self, now: Mono, except: Option<PathId>) -> Option<PathId> {
        self.best_of(now, |id, _| except != Some(*id))
    }

    fn best_of(&self, now: Mono, is_eligible: impl Fn(&PathId, &Path) -> bool) -> Option<PathId> {
        self.paths
            .iter()
            .filter(|(id, path)| path.alive(now) && is_eligible(id, path))
            .min_by_key(|(id, path)| (path.suspect(now), path.barren(now), self.cost(now, id, path), **id))
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
        self.second(now, self.primary)
    }

    /// The path to fall back on: of those that did not deliver lately none, as long as there is another.
    fn second(&self, now: Mono, first: Option<PathId>) -> Option<PathId> {
        let is_other = |id: &PathId| first != Some(*id);
        let proven =
            self.best_of(now, |id, path| is_other(id) && !path.failed_before() && !path.suspect(now));
        proven.or_else(|| self.best_of(now, |id, _| is_other(id)))
    }

    /// The path that is to replace the one in use, which is alive.
    fn better(&self, now: Mono, current: &PathId) -> Option<PathId> {
        self.better_by(now, current, PathSet::should_switch)
    }

    /// The best path, or the best one that does not rest, if it `replaces` the one in use.
    fn better_by(
        &self,
        now: Mono,
        current: &PathId,
        replaces: impl Fn(&PathSet, Mono, &PathId, &PathId) -> bool,
    ) -> Option<PathId> {
        let replaces = |id: &PathId| id != current && replaces(self, now, current, id);
        // The best one may rest.
        self.best(now, None).filter(replaces).or_else(|| {
            let next = self.best_of(now, |id, path| id != current && path.rest.until(now).is_none());
            next.filter(replaces)
        })
    }

    fn should_switch(&self, now: Mono, current: &PathId, best: &PathId) -> bool {
        let (Some(from), Some(to)) = (self.paths.get(current), self.paths.get(best)) else { return false };
        if from.suspect(now) && !to.suspect(now) {
            return from.misses >= DEAD_MISSES - 1;
        }
        if from.barren(now) != to.barren(now) {
            return from.barren(now);
        }
        match self.compare(now, current, best) {
            Comparison::Upgrade => true,
            Comparison::Better => now.since(self.switched) >= DWELL && self.has_shown(now, current, best),
            Comparison::NoBetter => false,
        }
    }

    fn looks_better(&self, now: Mono, current: &PathId, other: &PathId) -> bool {
        matches!(self.compare(now, current, other), Comparison::Better)
    }

    /// Compares two paths that work.
    fn compare(&self, now: Mono, current: &PathId, best: &PathId) -> Comparison {
        let (Some(from), Some(to)) = (self.paths.get(current), self.paths.get(best)) else {
            return Comparison::NoBetter;
        };
        if to.quality.replies() < 2 {
            return Comparison::NoBetter;
        }
        let (old, new) = (self.cost(now, current, from), self.cost(now, best, to));
        // None of these wavers; that a relay is full does, but then it rests.
        let inside = from.toll.leaves && !to.toll.leaves;
        let freer = !self.is_crowded(now) && from.toll.is_full_beside(to.toll);
        let upgrade = (kind(best, to) < kind(current, from) || inside || freer) && new < old;
        // A full relay does not wait for one that was given up for another reason.
        let rests = to.rest.until(now).is_some() && (!freer || to.rest.spares(now));
        let lately = self.bettered.is_some_and(|at| now.since(at) < REST);
        let settled = inside || (!rests && (upgrade || !lately));
        let measured = |id, path| score(id, path, false);
        if !settled && 2 * measured(best, to) + SWITCH_MARGIN_US > measured(current, from) {
            return Comparison::NoBetter;
        }
        match (upgrade, is_clearly_better(new, old)) {
            (true, _) => Comparison::Upgrade,
            (false, true) => Comparison::Better,
            (false, false) => Comparison::NoBetter,
        }
    }

    /// The path in use works, but another one is chosen: it is not taken again for a while. If the other one shared the
    /// traffic, this one does now.
    fn give_up(&mut self, now: Mono, chosen: Option<PathId>) {
        let (Some(old), Some(new)) = (self.primary, chosen) else { return };
        if self.spread.replace(&new, old) {
            return;
        }
        let (Some(from), Some(to)) = (self.paths.get(&old), self.paths.get(&new)) else { return };
        let by_load = from.toll.is_full_beside(to.toll)
            && !is_clearly_better(score(&new, to, false), score(&old, from, false));
        let Some(path) = self.paths.get_mut(&old) else { return };
        match self.change {
            Change::Better(_) if by_load => path.rest.begin_busy(now),
            Change::Better(_) | Change::Kind => path.rest.begin(now),
            Change::First | Change::Died | Change::Doubted | Change::Barren | Change::Forbidden => {}
        }
    }

    /// Whether a path is of a better kind than the one in use. Then it is measured as often: what it was like when the machine
    /// was busy is else believed of it for a minute, while a relay carries what could go directly.
    pub(super) fn is_of_better_kind(&self, id: &PathId) -> bool {
        let kind_of = |id: &PathId| self.paths.get(id).map(|path| kind(id, path));
        self.primary.and_then(|primary| Some(kind_of(id)? < kind_of(&primary)?)).unwrap_or(false)
    }

    /// A path's score as it counts now.
    pub(super) fn cost(&self, now: Mono, id: &PathId, path: &Path) -> u64 {
        score(id, path, !self.is_crowded(now))
    }
}

pub(super) fn is_clearly_better(new: u64, old: u64) -> bool {
    new + new / 4 + SWITCH_MARGIN_US < old
}

/// How a path compares with the one in use.
enum Comparison {
    /// It is of a better kind.
    Upgrade,
    /// It scores clearly better.
    Better,
    NoBetter,
}

/// Kinds of paths, the dearest last.
#[derive(PartialEq, Eq, PartialOrd, Ord)]
enum Kind {
    Lan,
    /// To an IPv6 link-local address, which every interface has.
    Link,
    Direct,
    Stream,
    Relay,
}

fn kind(id: &PathId, path: &Path) -> Kind {
    match id {
        PathId::Direct { socket, .. } if socket.is_stream() => Kind::Stream,
        PathId::Direct { remote: SocketAddr::V6(v6), .. } if v6.ip().is_unicast_link_local() => Kind::Link,
        PathId::Direct { remote, .. } if path.on_lan || is_local(remote.ip()) => Kind::Lan,
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

/// What a path costs, by what was measured and what it costs others; the load of its relay only if that is to count.
pub(super) fn score(id: &PathId, path: &Path, loaded: bool) -> u64 {
    score_as(id, path, &path.quality, loaded)
}

/// As [`score`], if this had been measured.
pub(super) fn score_as(id: &PathId, path: &Path, quality: &Quality, loaded: bool) -> u64 {
    let own = if quality.replies() == 0 { UNMEASURED_US } else { quality.score_us() };
    match kind(id, path) {
        Kind::Lan => own,
        Kind::Link => own + LINK_HANDICAP_US,
        Kind::Direct => own + OUTSIDE_HANDICAP_US,
        Kind::Stream => own + own / 10 + STREAM_HANDICAP_US,
        Kind::Relay => {
            let own = own + own / 10 + RELAY_HANDICAP_US;
            own + path.toll.cost_us(own, loaded)
        }
    }
}
