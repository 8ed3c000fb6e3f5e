//! The addresses that members send from.
//!
//! Under a flood of junk, what comes from elsewhere is thinned out ([`super::gate`]); a member that moves becomes familiar
//! with the first of its datagrams that gets through.

use std::net::IpAddr;
use std::time::Duration;

use meshnet::io::udp::FAMILIAR_MAX;
use meshnet::time::Mono;

/// An address that was heard of within this time is not forgotten for another one.
const LATELY: Duration = Duration::from_secs(60);

/// One receiving thread's.
#[derive(Default)]
pub(super) struct Familiar {
    /// The address, and when something authentic came from there last; at most [`FAMILIAR_MAX`].
    heard: Vec<(IpAddr, Mono)>,
    /// Which was last: mostly the next is from there, too.
    last: usize,
    /// When there were more than can be remembered.
    crowded: Option<Mono>,
    /// An address is new since [`Familiar::take_changed`].
    changed: bool,
}

impl Familiar {
    /// Something authentic came from there.
    pub(super) fn hear(&mut self, now: Mono, address: IpAddr) {
        if let Some(last) = self.heard.get_mut(self.last)
            && last.0 == address
        {
            last.1 = now;
            return;
        }
        if let Some(place) = self.heard.iter().position(|(known, _)| *known == address) {
            self.heard[place].1 = now;
            self.last = place;
            return;
        }
        self.changed = true;
        if self.heard.len() < FAMILIAR_MAX {
            self.last = self.heard.len();
            self.heard.push((address, now));
            return;
        }
        let oldest = self.heard.iter().enumerate().min_by_key(|(_, (_, at))| *at);
        let Some((place, at)) = oldest.map(|(place, (_, at))| (place, *at)) else { return };
        if now.since(at) < LATELY {
            self.crowded = Some(now);
        }
        self.heard[place] = (address, now);
        self.last = place;
    }

    /// Whether something from there is worth more than from anywhere. All addresses are familiar while there are too many to
    /// remember.
    pub(super) fn knows(&self, now: Mono, address: IpAddr) -> bool {
        self.is_crowded(now) || self.heard.iter().any(|(known, _)| *known == address)
    }

    /// All of them; `None` while there are too many.
    pub(super) fn all(&self, now: Mono) -> Option<Vec<IpAddr>> {
        (!self.is_crowded(now)).then(|| self.heard.iter().map(|(known, _)| *known).collect())
    }

    /// Whether an address is new since this was asked last.
    pub(super) fn take_changed(&mut self) -> bool {
        std::mem::take(&mut self.changed)
    }

    fn is_crowded(&self, now: Mono) -> bool {
        self.crowded.is_some_and(|at| now.since(at) < LATELY)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at_s(seconds: u64) -> Mono {
        Mono(1_000_000_000 + seconds * 1_000_000)
    }

    fn address(number: usize) -> IpAddr {
        IpAddr::V4((0x0a00_0000 + number as u32).into())
    }

    #[test]
    fn who_was_heard_is_familiar_and_others_are_not() {
        let mut familiar = Familiar::default();
        assert!(!familiar.take_changed() && !familiar.knows(at_s(0), address(1)));
        for round in 0..2 {
            for number in [1, 1, 2, 1] {
                familiar.hear(at_s(round), address(number));
            }
            assert_eq!(familiar.take_changed(), round == 0);
        }
        assert!(familiar.knows(at_s(9), address(1)) && familiar.knows(at_s(9), address(2)));
        assert!(!familiar.knows(at_s(9), address(3)));
        assert_eq!(familiar.all(at_s(9)), Some(vec![address(1), address(2)]));
    }

    #[test]
    fn the_longest_silent_makes_room_and_of_too_many_all_are_familiar() {
        let mut familiar = Familiar::default();
        (0..FAMILIAR_MAX).for_each(|number| familiar.hear(at_s(number as u64 / 32), address(number)));
        familiar.hear(at_s(100), address(0));
        familiar.hear(at_s(100), address(1000));
        assert!(familiar.knows(at_s(100), address(0)) && familiar.knows(at_s(100), address(1000)));
        assert!(!familiar.knows(at_s(100), address(1)), "forgotten for the new one");
        assert_eq!(familiar.all(at_s(100)).map(|all| all.len()), Some(FAMILIAR_MAX));
        // All of them lately, and one more.
        (0..FAMILIAR_MAX).for_each(|number| familiar.hear(at_s(101), address(number)));
        familiar.hear(at_s(102), address(2000));
        assert!(familiar.knows(at_s(103), address(5000)) && familiar.all(at_s(103)).is_none());
        assert!(!familiar.knows(at_s(200), address(5000)) && familiar.all(at_s(200)).is_some());
    }
}
