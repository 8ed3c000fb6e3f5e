//! Sharing a peer's flows among relays that are equally good, and what using a relay costs others.
//!
//! A flow that changes its path may be overtaken, so sharing is slow: relays begin to share together, and not again within a
//! minute; who has ceased to share rests (`rest`); and small differences end nothing.

use std::fmt;

use super::choose::score;
use super::rest::REST;
use super::*;

/// Most paths that carry a peer's flows at the same time.
const MAX_SHARING: usize = 4;
/// A path begins to share if it scores worse than the chosen one by no more than a tenth and this.
const JOIN_MARGIN_US: u64 = 1_000;
/// It goes on while it does by no more than a quarter and this.
const STAY_MARGIN_US: u64 = 2_000;
/// How often a path must have been measured to share: the first measurements are taken for little, and its jitter for much.
pub(super) const JOIN_REPLIES: u32 = 10;
/// A path on which so long nothing was heard has to show that it works before it carries flows.
const STALE_AFTER: Duration = Duration::from_secs(30);
/// What a relay's load costs, by eighths of what it can carry: thousandths of the path's score, and microseconds. Nothing while
/// there is plenty; and when it is full, more than any path that shares may be worse.
const LOAD_COST: [(u64, u64); 9] =
    [(0, 0), (0, 0), (0, 0), (0, 0), (20, 500), (50, 1_000), (100, 2_000), (250, 6_000), (600, 15_000)];
/// From this load on a relay is left for another one that has some room, without further margin.
const FULL: u8 = 7;
/// So many eighths less is some room.
const ROOM: u8 = 2;
/// No more than this is plenty of room.
const PLENTY: u8 = 4;
/// For so long loads do not count after each of several relays was too small alone.
const CROWDED_FOR: Duration = Duration::from_secs(600);
/// What it costs to leave a datacentre that both ends are in.
const LEAVES_COST_US: u64 = 10_000;

/// The paths that share a peer's traffic with the chosen one.
#[derive(Clone, Copy, PartialEq, Eq, Default)]
pub struct Spread([Option<PathId>; MAX_SHARING - 1]);

impl Spread {
    /// Each of them.
    pub fn iter(&self) -> impl Iterator<Item = &PathId> {
        self.0.iter().flatten()
    }

    /// Whether a path is one of them.
    pub fn contains(&self, id: &PathId) -> bool {
        self.iter().any(|other| other == id)
    }

    /// Puts a path in the place of another one. Returns whether that was there.
    pub(super) fn replace(&mut self, old: &PathId, new: PathId) -> bool {
        let place = self.0.iter_mut().flatten().find(|path| *path == old);
        place.is_some_and(|path| std::mem::replace(path, new) == *old)
    }
}

impl FromIterator<PathId> for Spread {
    fn from_iter<T: IntoIterator<Item = PathId>>(paths: T) -> Spread {
        let mut spread = Spread::default();
        spread.0.iter_mut().zip(paths).for_each(|(place, path)| *place = Some(path));
        spread
    }
}

impl fmt::Debug for Spread {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries(self.iter()).finish()
    }
}

/// What using a relay costs others.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub struct Toll {
    /// How busy it says that it is, in eighths of what it can carry.
    pub load: u8,
    /// It is in another datacentre, though both ends are in the same one.
    pub leaves: bool,
}

impl Toll {
    /// What it adds to a score, in microseconds; its load only if that is to count.
    pub(super) fn cost_us(self, score_us: u64, loaded: bool) -> u64 {
        let (thousandths, more_us) = LOAD_COST[usize::from(self.load).min(LOAD_COST.len() - 1)];
        let load = if loaded { score_us * thousandths / 1000 + more_us } else { 0 };
        load + if self.leaves { LEAVES_COST_US } else { 0 }
    }

    /// Whether the relay is full, and another one has room.
    pub(super) fn is_full_beside(self, other: Toll) -> bool {
        self.load >= FULL && other.load + ROOM <= self.load
    }
}

impl PathSet {
    /// What using a relay costs others, as far as is known. Returns whether that is new.
    pub fn set_toll(&mut self, relay: MemberId, toll: Toll) -> bool {
        let path = self.paths.get_mut(&PathId::Relay { relay });
        path.is_some_and(|path| std::mem::replace(&mut path.toll, toll) != toll)
    }

    /// The relays of the paths that are known.
    pub fn relays(&self) -> Vec<MemberId> {
        let relay = |id: &PathId| match id {
            PathId::Relay { relay } => Some(*relay),
            PathId::Direct { .. } => None,
        };
        self.paths.keys().filter_map(relay).collect()
    }

    /// Which relayed paths share the flows of the chosen one, if that is relayed, too: those that are about as good and have
    /// nothing against them.
    pub(super) fn spread_beside(&mut self, now: Mono, chosen: Option<PathId>) -> Spread {
        let before = std::mem::take(&mut self.spread);
        let relayed = chosen.filter(|id| !id.is_direct());
        let Some((id, best)) = relayed.and_then(|id| Some((id, self.paths.get(&id)?))) else {
            return Spread::default();
        };
        let least = self.cost(now, &id, best);
        let fits = |other: &PathId, path: &Path| {
            *other != id && !other.is_direct() && path.may_share(now) && path.may_share_with(best)
        };
        let stays = |other: &PathId, path: &Path| {
            let own = self.cost(now, other, path);
            before.contains(other) && own <= least + least / 4 + STAY_MARGIN_US
        };
        let is_near = |cost: u64| cost <= least + least / 10 + JOIN_MARGIN_US;
        let could_join = |other: &PathId, path: &Path| {
            !before.contains(other) && path.rest.until(now).is_none() && fits(other, path)
        };
        let joins =
            |other: &PathId, path: &Path| could_join(other, path) && is_near(self.cost(now, other, path));
        // All that will share are to begin together.
        let lately = self.joined.is_some_and(|at| now.since(at) < REST);
        let unmeasured = |other: &PathId, path: &Path| {
            let rtt_us = path.quality.rtt().as_micros() as u64;
            path.quality.replies() < JOIN_REPLIES && could_join(other, path) && is_near(rtt_us)
        };
        let opens = !lately && !self.paths.iter().any(|(other, path)| unmeasured(other, path));
        let mut sharing: Vec<(bool, u64, PathId)> = self
            .paths
            .iter()
            .filter(|(other, path)| {
                (fits(other, path) && stays(other, path)) || (opens && joins(other, path))
            })
            .map(|(other, path)| (!before.contains(other), self.cost(now, other, path), *other))
            .collect();
        sharing.sort_unstable();
        let spread: Spread = sharing.into_iter().map(|(_, _, other)| other).collect();
        for other in before.iter().filter(|other| !spread.contains(other) && **other != id) {
            self.ceases_to_share(now, &id, other);
        }
        for other in spread.iter().filter(|other| !before.contains(other)) {
            self.joined = Some(now);
            if let Some(path) = self.paths.get_mut(other) {
                path.next_probe = path.next_probe.min(now + PROBE_ACTIVE);
                if let Some(delivery) = &mut path.delivery {
                    delivery.begins(now);
                }
            }
        }
        self.spread = spread;
        spread
    }

    fn ceases_to_share(&mut self, now: Mono, chosen: &PathId, id: &PathId) {
        let Some(best) = self.paths.get(chosen) else { return };
        let (least, load) = (score(chosen, best, false), best.toll.load);
        let Some(path) = self.paths.get_mut(id) else { return };
        let near = score(id, path, false) <= least + least / 4 + STAY_MARGIN_US;
        if path.may_share(now) && near && path.toll.load > load {
            path.rest.begin_busy(now);
        } else if path.alive(now) && !path.suspect(now) && !path.is_stale(now) {
            // One in doubt may be back at once, and none the worse for it: its relay has restarted, for instance.
            path.rest.begin(now);
        }
    }

    /// Whether loads do not count for now.
    pub(super) fn is_crowded(&self, now: Mono) -> bool {
        now < self.crowded
    }

    /// Notes whether a relay that was left because it was full could have its part back, now that the one in use is full: then
    /// each of them is too small for all of it, and they had better share than take turns.
    pub(super) fn note_crowd(&mut self, now: Mono) {
        let relayed = self.primary.filter(|id| !id.is_direct() && !self.is_crowded(now));
        let chosen = relayed.and_then(|id| Some((id, self.paths.get(&id)?)));
        let Some((id, best)) = chosen.filter(|(_, path)| path.toll.load >= FULL) else { return };
        let least = score(&id, best, false);
        let spared = |other: &PathId, path: &Path| {
            path.rest.spares(now)
                && path.toll.load <= PLENTY
                && path.may_share(now)
                && path.may_share_with(best)
                && score(other, path, false) <= least + least / 10 + JOIN_MARGIN_US
        };
        let back: Vec<PathId> =
            self.paths.iter().filter(|(other, path)| spared(other, path)).map(|(other, _)| *other).collect();
        if back.is_empty() {
            return;
        }
        self.crowded = now + CROWDED_FOR;
        self.joined = None;
        for other in back {
            if let Some(path) = self.paths.get_mut(&other) {
                path.rest.end(now);
            }
        }
    }
}

impl Path {
    /// Whether nothing is wrong with it.
    fn may_share(&self, now: Mono) -> bool {
        self.alive(now) && !self.suspect(now) && !self.failed_before() && !self.is_stale(now)
    }

    /// Whether it carries what another one does, or at least what nearly every path does, and does not leave a datacentre that
    /// the other one stays in. (What is sent fits into the narrowest of those that share.)
    fn may_share_with(&self, chosen: &Path) -> bool {
        let carries = self.mtu.size() >= chosen.mtu.size().min(super::mtu::ASSUMED);
        (chosen.toll.leaves || !self.toll.leaves) && carries
    }

    /// Nobody has asked it for long.
    fn is_stale(&self, now: Mono) -> bool {
        self.misses == 0 && self.quiet_for(now) > STALE_AFTER
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const AT: Mono = Mono(1_000_000);

    fn relay(number: u8) -> PathId {
        PathId::Relay { relay: MemberId([number; 16]) }
    }

    /// A set of relayed paths, by their round-trip times in milliseconds.
    fn set(rtts_ms: &[u64]) -> PathSet {
        let mut set = PathSet::new([1; 16]);
        for (number, rtt_ms) in rtts_ms.iter().enumerate() {
            set.add(AT, relay(number as u8), Origin::Relay);
            measure(&mut set, number as u8, *rtt_ms);
        }
        set
    }

    /// Fifty answers after so many milliseconds each: nothing is left of what was measured before.
    fn measure(set: &mut PathSet, number: u8, rtt_ms: u64) {
        let path = set.paths.get_mut(&relay(number)).unwrap();
        path.proven = true;
        path.last_reply = Some(AT);
        path.quality = Quality::default();
        (0..50).for_each(|_| path.quality.answered(Duration::from_millis(rtt_ms)));
    }

    fn shares(set: &mut PathSet) -> Vec<PathId> {
        set.select(AT).spread.iter().copied().collect()
    }

    #[test]
    fn relays_that_are_about_equal_share_and_worse_ones_do_not() {
        let mut set = set(&[10, 11, 14, 10]);
        assert_eq!(shares(&mut set), [relay(3), relay(1)]);
    }

    #[test]
    fn who_shares_goes_on_until_it_is_clearly_worse() {
        let mut set = set(&[10, 11]);
        assert_eq!(shares(&mut set), [relay(1)]);
        measure(&mut set, 1, 13);
        assert_eq!(shares(&mut set), [relay(1)]);
        measure(&mut set, 1, 16);
        assert_eq!(shares(&mut set), []);
        measure(&mut set, 1, 13);
        assert_eq!(shares(&mut set), []);
    }

    #[test]
    fn a_direct_path_shares_with_nobody() {
        let mut set = set(&[10, 10]);
        let direct = PathId::Direct { socket: SocketId(0), remote: ([192, 0, 2, 1], 1).into() };
        set.prove(AT, direct);
        let path = set.paths.get_mut(&direct).unwrap();
        (0..5).for_each(|_| path.quality.answered(Duration::from_millis(10)));
        assert_eq!(set.select(AT).primary, Some(direct));
        assert_eq!(shares(&mut set), []);
    }

    #[test]
    fn a_busy_relay_shares_no_longer_and_a_full_one_is_left() {
        let mut set = set(&[10, 10]);
        assert_eq!(shares(&mut set), [relay(1)]);
        let toll = |load| Toll { load, leaves: false };
        assert!(set.set_toll(MemberId([1; 16]), toll(6)) && !set.set_toll(MemberId([1; 16]), toll(6)));
        assert_eq!(shares(&mut set), [relay(1)], "it stays");
        set.set_toll(MemberId([1; 16]), toll(8));
        assert_eq!(shares(&mut set), []);
        set.set_toll(MemberId([1; 16]), toll(0));
        assert_eq!(shares(&mut set), [], "it rests");
    }

    #[test]
    fn a_full_relay_is_left_however_long_the_way_is() {
        for rtt_ms in [1, 10, 60, 300] {
            for full in [0, 1] {
                let mut set = set(&[rtt_ms, rtt_ms]);
                assert_eq!((set.select(AT).primary, shares(&mut set)), (Some(relay(0)), vec![relay(1)]));
                set.set_toll(MemberId([full; 16]), Toll { load: 8, leaves: false });
                let left = set.select(AT + Duration::from_millis(10));
                assert_eq!(
                    (left.primary, left.spread),
                    (Some(relay(1 - full)), Spread::default()),
                    "{rtt_ms}"
                );
            }
        }
    }

    #[test]
    fn relays_of_which_each_is_too_small_share_again_and_do_not_take_turns() {
        let mut set = set(&[10, 10]);
        let load = |set: &mut PathSet, number: u8, load| {
            set.set_toll(MemberId([number; 16]), Toll { load, leaves: false });
        };
        assert_eq!(shares(&mut set), [relay(1)]);
        load(&mut set, 1, 8);
        assert_eq!(shares(&mut set), []);
        load(&mut set, 1, 0);
        load(&mut set, 0, 8);
        assert_eq!((set.select(AT).primary, shares(&mut set)), (Some(relay(0)), vec![relay(1)]));
        load(&mut set, 0, 5);
        load(&mut set, 1, 8);
        assert_eq!(shares(&mut set), [relay(1)]);
    }

    #[test]
    fn a_full_relay_is_left_for_one_that_rests_because_it_wavered() {
        let mut set = set(&[10, 10]);
        assert_eq!(shares(&mut set), [relay(1)]);
        measure(&mut set, 1, 20);
        assert_eq!(shares(&mut set), []);
        measure(&mut set, 1, 11);
        assert_eq!(set.select(AT).primary, Some(relay(0)));
        set.set_toll(MemberId([0; 16]), Toll { load: 8, leaves: false });
        assert_eq!(set.select(AT).primary, Some(relay(1)));
    }

    #[test]
    fn a_chosen_relay_that_changes_places_with_one_that_shares_goes_on_sharing() {
        let mut set = set(&[10, 10, 10]);
        assert_eq!(shares(&mut set), [relay(1), relay(2)]);
        measure(&mut set, 0, 11);
        measure(&mut set, 1, 7);
        let now = AT + Duration::from_secs(2);
        let selection = set.select(now);
        assert_eq!(selection.primary, Some(relay(1)));
        assert_eq!(selection.spread.iter().copied().collect::<Vec<_>>(), [relay(2), relay(0)]);
    }

    #[test]
    fn relays_begin_to_share_together_and_a_later_one_a_minute_after() {
        let mut set = set(&[10, 10, 10]);
        set.paths.get_mut(&relay(2)).unwrap().quality = Quality::default();
        set.paths.get_mut(&relay(2)).unwrap().quality.answered(Duration::from_millis(10));
        assert_eq!(shares(&mut set), [], "until the third is known");
        measure(&mut set, 2, 10);
        assert_eq!(shares(&mut set), [relay(1), relay(2)]);
        set.add(AT, relay(3), Origin::Relay);
        measure(&mut set, 3, 10);
        assert_eq!(shares(&mut set), [relay(1), relay(2)]);
        let later = AT + REST;
        set.paths.values_mut().for_each(|path| path.last_reply = Some(later));
        assert_eq!(set.select(later).spread.iter().count(), 3);
    }

    #[test]
    fn a_relay_inside_the_datacentre_wins_over_a_nearer_one_outside() {
        let mut set = set(&[10, 14]);
        set.set_toll(MemberId([0; 16]), Toll { load: 0, leaves: true });
        assert_eq!((set.select(AT).primary, shares(&mut set)), (Some(relay(1)), vec![]));
    }
}
