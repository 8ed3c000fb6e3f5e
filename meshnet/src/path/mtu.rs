//! How long datagrams may be on one path: packetization layer path MTU discovery (RFC 8899) by padded probes.
//!
//! All sizes here are those of UDP payloads in bytes, so that they hold for both address families and with whatever
//! headers a relay needs. A new path is taken to carry [`ASSUMED`], what fits nearly everywhere, and is asked at once.
//! From then on a size is only ever raised by an answer to a probe of that size.
//!
//! *Black holes.* While datagrams longer than [`LARGE`] flow, the size in use is confirmed every [`CONFIRM_EVERY`], and the
//! more often the more flows, for [`CONFIRM_SHARE`] of it. A short *witness* leaves with each such probe, right behind it:
//! when the witness was answered and the long one not within a moment, the long one was lost, and nobody waits longer. Then
//! several more go out in quick succession, together with shorter ones; as many as make it improbable (1 in 100,000) that
//! chance took all of them on a path with this loss. If all stay unanswered while something shorter is answered, the size no
//! longer passes, and the longest one that was answered takes its place.
//!
//! *Loss* is the highest of three shares: that of all round trips; that of the probes here, of sizes that pass, for a full
//! queue drops long datagrams first; and that of those in this very succession, for a stream that overflows a queue loses half
//! of what it sends for a moment.

use std::time::Duration;

use crate::time::Mono;

/// Passes wherever IPv6 does (1280 less IPv6 and UDP headers): RFC 8899's `BASE_PLPMTU`.
pub const BASE: u16 = 1280 - 48;
/// What a path is taken to carry before it was asked: Ethernet, less IPv6 and UDP headers.
pub const ASSUMED: u16 = 1500 - 48;
/// The longest that is looked for: a jumbo frame of 9000, less IPv4 and UDP headers.
pub const LARGEST: u16 = 9000 - 28;
/// Inner packets up to this length fit into [`BASE`] whatever the path, so that they say nothing about a longer one.
pub const LARGE: usize = 1134;
/// While long datagrams flow, the size in use is asked for at least this often ...
const CONFIRM_EVERY: Duration = Duration::from_millis(250);
/// ... and at most this often ...
const CONFIRM_EVERY_LEAST: Duration = Duration::from_millis(50);
/// ... as long as its probes are one of so many of the bytes that flow.
const CONFIRM_SHARE: u64 = 100;
/// Long datagrams flow for so long after it was said that they do. Traffic is told every 250 ms.
const LARGE_FOR: Duration = Duration::from_millis(300);
/// Between the probes that are sent in quick succession once one stayed without answer.
const BURST_EVERY: Duration = Duration::from_millis(20);
/// What a witness is as long as: it passes where anything does.
const WITNESS: u16 = SIZES[0];
/// A path that answers nothing at all is asked for sizes again after this.
const SILENCE: Duration = Duration::from_secs(1);
/// Longer sizes are tried again after this (RFC 8899's `PMTU_RAISE_TIMER`), while traffic flows ...
const RAISE_EVERY: Duration = Duration::from_secs(600);
/// ... but this soon once on a new path, whose loss is hardly known yet so that chance may have taken all probes of a size;
/// and after a size had to be given up, then in doubling intervals.
const RAISE_SOON: Duration = Duration::from_secs(10);
/// A lost probe of any size is tried again so often at least (RFC 8899's `MAX_PROBES`) and at most.
const TRIES: std::ops::RangeInclusive<u8> = 3..=12;
/// That chance alone has a size given up. Up to 20 times a second there is an opportunity for it.
const BY_CHANCE: f32 = 1e-5;
/// Late answers are taken for this long.
const REMEMBER: Duration = Duration::from_secs(5);
/// Most probes that are remembered.
const MAX_FLIGHTS: usize = 48;

/// The sizes that are tried: underlay MTUs that occur, less 28 (IPv4) and 48 (IPv6) bytes, in steps of at most 20 bytes
/// below 1500. The two smallest are for IPv4 links that IPv6 could not use.
const SIZES: [u16; 24] = [
    548, 996, BASE, 1252, 1272, 1292, 1312, 1332, 1352, 1372, 1392, 1412, 1432, 1444, ASSUMED, 1464, 1472,
    1952, 2276, 3952, 7952, 8848, 8952, LARGEST,
];

/// What is known of the path beside its sizes.
#[derive(Clone, Copy, Debug)]
pub struct Conditions {
    /// How long an answer may take.
    pub patience: Duration,
    /// How much later than that of a shorter one that left after it the answer to a probe may come.
    pub grace: Duration,
    /// Share of round trips that are lost whatever their size.
    pub loss: f32,
    /// When it last answered a probe of any kind.
    pub answered: Option<Mono>,
    /// Whether traffic flows to the peer.
    pub active: bool,
}

/// The search on one path.
#[derive(Clone, Debug)]
pub struct Search {
    size: u16,
    proven: bool,
    phase: Phase,
    /// Sizes to ask for now.
    queue: Vec<u16>,
    flights: Vec<Flight>,
    /// Probes of a size that stayed without answer since one of at least that size was answered.
    misses: Vec<(u16, u8)>,
    losses: Losses,
    /// The longest size answered since the one in use was doubted.
    best: u16,
    /// When the size in use was asked for or doubted last.
    checked: Mono,
    /// When there is something to plan.
    next: Mono,
    /// Long datagrams go out until then.
    large_until: Mono,
    /// How often the size in use is asked for meanwhile.
    confirm_every: Duration,
    raise_at: Mono,
    raise_wait: Duration,
    fell: Option<Mono>,
    /// There is nothing to look for.
    fixed: bool,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Phase {
    /// The size in use is being asked for, in the round of this number.
    Confirm(u32),
    /// Longer sizes are.
    Raise,
    /// Nothing is, until long datagrams flow or it is time to try longer sizes.
    Settled,
}

#[derive(Clone, Copy, Debug)]
struct Flight {
    id: u32,
    size: u16,
    sent: Mono,
    /// When a shorter one was answered that left after it.
    overtaken: Option<Mono>,
    missed: bool,
    /// It was lost although its size passes.
    by_chance: bool,
}

/// How many probes are lost of sizes that pass.
#[derive(Clone, Copy, Default, Debug)]
struct Losses {
    /// Of the last ones, a share.
    share: f32,
    /// How many that share is of, up to [`Losses::MOST`].
    of: u8,
    /// Since the size in use was asked for last.
    lost: u8,
    answered: u8,
}

impl Losses {
    /// One probe has this much weight at first, so that the first one that is lost is not all of them ...
    const FEWEST: u8 = 8;
    /// ... and this much later on.
    const MOST: u8 = 64;

    fn note(&mut self, lost: bool) {
        self.of = (self.of + 1).clamp(Losses::FEWEST, Losses::MOST);
        self.share += (f32::from(u8::from(lost)) - self.share) / f32::from(self.of);
        let count = if lost { &mut self.lost } else { &mut self.answered };
        *count = count.saturating_add(1);
    }

    fn begin(&mut self) {
        (self.lost, self.answered) = (0, 0);
    }

    /// The higher one of both shares.
    fn share(&self) -> f32 {
        let resolved = u16::from(self.lost) + u16::from(self.answered);
        self.share.max(f32::from(self.lost) / f32::from(resolved.max(1)))
    }
}

impl Flight {
    /// When it is taken for lost.
    fn expires(&self, conditions: &Conditions) -> Mono {
        let last = self.sent + conditions.patience;
        self.overtaken.map_or(last, |at| last.min(at + conditions.grace))
    }
}

impl Search {
    /// For a new path: asks at once.
    pub fn new(now: Mono) -> Search {
        Search {
            size: ASSUMED,
            proven: false,
            phase: Phase::Confirm(0),
            queue: Vec::new(),
            flights: Vec::new(),
            misses: Vec::new(),
            losses: Losses::default(),
            best: 0,
            checked: now,
            next: now,
            large_until: Mono(0),
            confirm_every: CONFIRM_EVERY,
            raise_at: now,
            raise_wait: RAISE_SOON,
            fell: None,
            fixed: false,
        }
    }

    /// For a path over a stream, which carries datagrams of any length: they are as long as nearly everywhere else, so that
    /// a change to it and back cuts nothing anew.
    pub fn of_stream(now: Mono) -> Search {
        Search { proven: true, fixed: true, phase: Phase::Settled, ..Search::new(now) }
    }

    /// The longest UDP payload that the path is known, or taken, to carry.
    pub fn size(&self) -> u16 {
        self.size
    }

    /// Whether a probe of this size was answered; else it is assumed.
    pub fn is_proven(&self) -> bool {
        self.proven
    }

    /// When the size in use was asked for last.
    pub fn checked(&self) -> Mono {
        self.checked
    }

    /// Long datagrams go out on the path, among so many bytes a second.
    pub fn note_large(&mut self, now: Mono, bytes_per_s: u64) {
        self.large_until = now + LARGE_FOR;
        let round_bytes = u64::from(self.size) + u64::from(WITNESS);
        let every_us = (round_bytes * CONFIRM_SHARE * 1_000_000).checked_div(bytes_per_s);
        self.confirm_every =
            every_us.map_or(CONFIRM_EVERY, Duration::from_micros).clamp(CONFIRM_EVERY_LEAST, CONFIRM_EVERY);
    }

    /// Long datagrams may go out on the path at any moment.
    pub fn note_may_be_large(&mut self, now: Mono) {
        self.large_until = now;
        self.confirm_every = CONFIRM_EVERY;
    }

    /// Something suggests that the size in use does not pass any more: it is asked for at once.
    pub fn doubt(&mut self, now: Mono) {
        if !self.fixed && !matches!(self.phase, Phase::Confirm(_)) {
            self.confirm(now);
            // No waiting for the first probe before the others follow.
            self.phase = Phase::Confirm(1);
        }
    }

    /// The path may be another one from now on: what is known to be too long is tried again, too.
    pub fn restart(&mut self, now: Mono) {
        if self.fixed {
            return;
        }
        self.misses.clear();
        self.raise_at = now;
        self.confirm(now);
    }

    /// This machine itself refuses to send more than `size` on this path.
    pub fn limit(&mut self, now: Mono, size: u16) {
        if self.fixed {
            return;
        }
        self.queue.retain(|queued| *queued <= size);
        self.flights.retain(|flight| flight.size <= size);
        for &too_long in SIZES.iter().filter(|known| **known > size) {
            self.set_misses(too_long, *TRIES.end());
        }
        if self.size > size {
            let longest = SIZES.iter().rev().copied().find(|known| *known <= size);
            (self.size, self.proven) = (longest.unwrap_or(SIZES[0]), false);
            self.raise_at = now;
            self.confirm(now);
        }
        self.next = self.next.min(now);
    }

    /// The size of the next probe that is due, if any; [`Search::sent`] follows. Call until it gives `None`.
    pub fn poll(&mut self, now: Mono, conditions: &Conditions) -> Option<u16> {
        if self.fixed {
            return None;
        }
        self.expire(now, conditions);
        // Each turn of the loop plans for a later time, or fills the queue.
        for _ in 0..8 {
            if let Some(size) = self.queue.pop() {
                return Some(size);
            }
            if !self.is_due(now, conditions.active) {
                return None;
            }
            self.plan(now, conditions);
        }
        None
    }

    /// A probe of `size` left under this number.
    pub fn sent(&mut self, now: Mono, id: u32, size: u16) {
        if self.flights.len() >= MAX_FLIGHTS {
            self.flights.remove(0);
        }
        self.flights.push(Flight { id, size, sent: now, overtaken: None, missed: false, by_chance: false });
    }

    /// An answer came to the probe with this number. `false` if it is none of this path's.
    pub fn answered(&mut self, now: Mono, id: u32) -> bool {
        let Some(at) = self.flights.iter().position(|flight| flight.id == id) else { return false };
        let size = self.flights.remove(at).size;
        for earlier in self.flights[..at].iter_mut().filter(|earlier| earlier.size > size) {
            earlier.overtaken.get_or_insert(now);
        }
        self.misses.retain(|(missed, _)| *missed > size);
        self.losses.note(false);
        self.best = self.best.max(size);
        self.count_losses();
        if size < self.size {
            return true;
        }
        self.size = size;
        self.proven = true;
        self.queue.retain(|queued| *queued > size);
        if matches!(self.phase, Phase::Confirm(_)) {
            // Longer ones may be on their way; others are tried while traffic flows.
            self.phase = Phase::Settled;
            self.next = now;
        }
        true
    }

    /// When [`Search::poll`] may have something.
    pub fn poll_timeout(&self, conditions: &Conditions) -> Option<Mono> {
        if self.fixed {
            return None;
        }
        let expiry = self.expiry(conditions);
        let due = match self.phase {
            Phase::Confirm(_) | Phase::Raise => Some(self.next),
            Phase::Settled => self.settled_until(conditions.active),
        };
        [expiry, due].into_iter().flatten().min()
    }

    fn settled_until(&self, active: bool) -> Option<Mono> {
        let confirm = Some(self.checked + self.confirm_every).filter(|at| *at <= self.large_until);
        let raise = active.then_some(self.raise_at);
        [confirm, raise].into_iter().flatten().min()
    }

    fn is_due(&self, now: Mono, active: bool) -> bool {
        match self.phase {
            Phase::Confirm(_) | Phase::Raise => self.next <= now,
            Phase::Settled => self.settled_until(active).is_some_and(|at| at <= now),
        }
    }

    fn expiry(&self, conditions: &Conditions) -> Option<Mono> {
        let open = self.flights.iter().filter(|flight| !flight.missed);
        open.map(|flight| flight.expires(conditions)).min()
    }

    fn expire(&mut self, now: Mono, conditions: &Conditions) {
        for at in 0..self.flights.len() {
            let flight = self.flights[at];
            if !flight.missed && now >= flight.expires(conditions) {
                self.flights[at].missed = true;
                let misses = self.misses_of(flight.size).saturating_add(1);
                self.set_misses(flight.size, misses);
                self.next = self.next.min(now);
            }
        }
        self.count_losses();
        self.flights.retain(|flight| now.since(flight.sent) < REMEMBER.max(conditions.patience));
    }

    /// What was lost although something at least as long was answered was lost by chance.
    fn count_losses(&mut self) {
        let passing = self.best;
        let passes = |flight: &&mut Flight| flight.missed && !flight.by_chance && flight.size <= passing;
        for lost in self.flights.iter_mut().filter(passes) {
            lost.by_chance = true;
            self.losses.note(true);
        }
    }

    fn plan(&mut self, now: Mono, conditions: &Conditions) {
        match self.phase {
            Phase::Settled if self.checked + self.confirm_every <= now.min(self.large_until) => {
                self.confirm(now);
            }
            Phase::Settled => {
                self.phase = Phase::Raise;
                self.next = now;
            }
            Phase::Confirm(round) => self.plan_confirming(now, conditions, round),
            Phase::Raise => self.plan_raising(now, conditions),
        }
    }

    fn confirm(&mut self, now: Mono) {
        self.phase = Phase::Confirm(0);
        (self.checked, self.next, self.best) = (now, now, 0);
        self.losses.begin();
        let size = self.size;
        self.misses.retain(|(missed, _)| *missed > size);
        self.flights.retain(|flight| !flight.missed || flight.size > size);
    }

    fn plan_confirming(&mut self, now: Mono, conditions: &Conditions, round: u32) {
        let tries = self.tries(conditions);
        let (missed, open) = (self.misses_of(self.size), self.open(self.size));
        if missed >= tries {
            let answers = self.best > 0 || conditions.answered.is_some_and(|at| at > self.checked);
            if answers {
                let most = self.size - 1;
                self.fall(now, most);
            } else {
                // Nothing passes: that is not about sizes.
                self.confirm(now);
                self.next = now + SILENCE;
            }
            return;
        }
        if missed + open >= tries {
            self.next = self.expiry(conditions).unwrap_or(now + BURST_EVERY);
            return;
        }
        self.phase = Phase::Confirm(round + 1);
        if round == 0 {
            self.queue.extend(self.witness());
            self.queue.push(self.size);
            if !self.proven {
                // Mostly the first look at a path shows all there is to it.
                let more = [1472, LARGEST];
                let more = more.into_iter().filter(|size| *size > self.size && !self.fails(*size, tries));
                let more: Vec<u16> = more.collect();
                self.queue.extend(more);
            }
            self.next = now + conditions.patience;
            return;
        }
        match round % 2 == 1 {
            true => self.queue.extend(self.ladder(round == 1)),
            false => self.queue.extend(self.witness()),
        }
        self.queue.push(self.size);
        self.next = now + BURST_EVERY;
    }

    fn plan_raising(&mut self, now: Mono, conditions: &Conditions) {
        let tries = self.tries(conditions);
        let ceiling = SIZES
            .iter()
            .copied()
            .find(|size| *size > self.size && self.fails(*size, tries))
            .unwrap_or(u16::MAX);
        let between: Vec<u16> =
            SIZES.iter().copied().filter(|size| (self.size + 1..ceiling).contains(size)).collect();
        let (Some(&first), Some(&last)) = (between.first(), between.last()) else {
            self.phase = Phase::Settled;
            // Next time everything is tried again.
            self.misses.clear();
            self.raise_at = now + self.raise_wait;
            self.raise_wait = match self.fell {
                Some(_) => (self.raise_wait * 2).min(RAISE_EVERY),
                None => RAISE_EVERY,
            };
            self.checked = now;
            return;
        };
        let open = self.flights.iter().any(|flight| !flight.missed && flight.size > self.size);
        if open {
            self.next = self.expiry(conditions).unwrap_or(now + BURST_EVERY);
            return;
        }
        // The longest leave first; the size in use is their witness.
        let mut sizes = vec![self.size, first, between[between.len() / 2], last];
        sizes.dedup();
        self.queue = sizes;
        self.next = now + conditions.patience;
    }

    /// What leaves behind a probe of the size in use, to see when it should have been answered.
    fn witness(&self) -> Option<u16> {
        Some(WITNESS).filter(|witness| *witness < self.size)
    }

    /// Some sizes below the one in use, to see at once what passes when it does not; [`BASE`] among them.
    fn ladder(&self, first_time: bool) -> impl Iterator<Item = u16> + use<> {
        let below: Vec<u16> = SIZES.iter().copied().filter(|size| (BASE..self.size).contains(size)).collect();
        let step = below.len().div_ceil(5).max(1);
        let least = if self.size <= BASE || !first_time { Some(SIZES[0]) } else { None };
        let next = SIZES.iter().rev().copied().find(|size| *size < self.size);
        let chosen: Vec<u16> = below.iter().copied().step_by(step).chain(next).chain(least).collect();
        chosen.into_iter()
    }

    /// The size in use does not pass, and nothing above `most` does: what was answered takes its place.
    fn fall(&mut self, now: Mono, most: u16) {
        let tested = self.best.min(most);
        let untested = SIZES.iter().rev().copied().find(|size| *size <= most.min(BASE)).unwrap_or(SIZES[0]);
        self.proven = tested > 0;
        self.size = if self.proven { tested } else { untested };
        if self.fell.is_none_or(|at| now.since(at) >= RAISE_EVERY) {
            self.raise_wait = RAISE_SOON;
        }
        self.fell = Some(now);
        (self.checked, self.next, self.best) = (now, now, 0);
        // What lies between is looked for right away; what is known to fail not before it is time to raise.
        self.phase = if self.proven { Phase::Raise } else { Phase::Confirm(0) };
        self.raise_at = now;
    }

    /// How many probes in a row have to be lost before that cannot be chance.
    fn tries(&self, conditions: &Conditions) -> u8 {
        tries(conditions.loss.max(self.losses.share()))
    }

    fn fails(&self, size: u16, tries: u8) -> bool {
        self.misses_of(size) >= tries
    }

    fn misses_of(&self, size: u16) -> u8 {
        self.misses.iter().find(|(missed, _)| *missed == size).map_or(0, |(_, count)| *count)
    }

    fn set_misses(&mut self, size: u16, count: u8) {
        match self.misses.iter_mut().find(|(missed, _)| *missed == size) {
            Some((_, old)) => *old = (*old).max(count),
            None => self.misses.push((size, count)),
        }
    }

    fn open(&self, size: u16) -> u8 {
        self.flights.iter().filter(|flight| flight.size == size && !flight.missed).count() as u8
    }
}

/// As [`Search::tries`], with this loss.
fn tries(loss: f32) -> u8 {
    let loss = loss.clamp(0.01, 0.9);
    ((BY_CHANCE.ln() / loss.ln()).ceil() as u8).clamp(*TRIES.start(), *TRIES.end())
}

#[cfg(test)]
mod tests;
