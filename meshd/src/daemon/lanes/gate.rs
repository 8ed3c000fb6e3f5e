//! How many datagrams of strangers a receiving thread lets through to the control plane.
//!
//! Each costs the control plane a check of a MAC and often an answer, which from forged addresses is in vain. So of each
//! class only so many a second get there; of more, a random share, so that one who repeats his handshake gets through among
//! any number of forged ones. The kernel is asked to drop the rest, before it is queued; where it refuses, the thread does.
//! Junk, which the thread itself finds out and drops, is held back in the same way by the kernel alone.
//! The measurements are in docs/adr/0022-floods.md.

use std::time::Duration;

use meshnet::io::udp::{CLASSES, Class, Shares};
use meshnet::time::Mono;

/// Datagrams of each class a second that are looked at, about.
pub(super) const LOOKED_AT_PER_S: f64 = 8_000.0;
/// How often the shares are set.
pub(super) const WINDOW: Duration = Duration::from_millis(100);
/// A share is left as it is while it is right within this factor: to set it costs the kernel a little.
const CLOSE_ENOUGH: f64 = 1.25;
/// A share grows at most by this factor in a window, so that a flood which pauses does not begin anew each time.
const GROWTH: f64 = 2.0;
/// The first window of a flood is cut off here, in datagrams of a class.
const FIRST_WINDOW_MAX: u32 = 2 * (LOOKED_AT_PER_S as u32) / 10;

/// One thread's.
pub(super) struct Gate {
    window: Mono,
    meters: [Meter; CLASSES],
    /// Who drops: the kernel, as long as it does what it is told.
    kernel: bool,
    /// State of a generator (xorshift64); there is nothing to gain by foreseeing it that more datagrams would not give.
    random: u64,
}

#[derive(Clone, Copy)]
struct Meter {
    share: f64,
    /// In this window.
    seen: u32,
    looked_at: u32,
}

/// What changes at the end of a window.
#[derive(Debug)]
pub(super) struct Turn {
    /// What the kernel is to let through.
    pub(super) shares: Shares,
    /// The class that begins to be thinned out, and its datagrams a second.
    pub(super) began: Option<(Class, f64)>,
}

impl Gate {
    /// A gate that lets everything through; `seed` is any number.
    pub(super) fn new(seed: u64) -> Gate {
        let meter = Meter { share: 1.0, seen: 0, looked_at: 0 };
        Gate { window: Mono(0), meters: [meter; CLASSES], kernel: true, random: seed | 1 }
    }

    /// Whether this datagram, which arrived, is to be looked at.
    pub(super) fn admit(&mut self, class: Class) -> bool {
        let by_chance = self.kernel || self.draw() < self.meters[class as usize].share;
        let meter = &mut self.meters[class as usize];
        meter.seen = meter.seen.saturating_add(1);
        let admitted = by_chance && meter.looked_at < FIRST_WINDOW_MAX;
        meter.looked_at += u32::from(admitted);
        admitted
    }

    /// So many of the class were looked at, whatever the share: only the kernel holds these back.
    pub(super) fn count(&mut self, class: Class, datagrams: u32) {
        let meter = &mut self.meters[class as usize];
        meter.seen = meter.seen.saturating_add(datagrams);
    }

    /// Sets the shares when a window is over. `Some` if they change.
    pub(super) fn turn(&mut self, now: Mono) -> Option<Turn> {
        let length = now.since(self.window);
        if length < WINDOW {
            return None;
        }
        self.window = now;
        let (mut changed, mut began) = (false, None);
        for (meter, class) in self.meters.iter_mut().zip(Class::ALL) {
            let arrived =
                if self.kernel { f64::from(meter.seen) / meter.share } else { f64::from(meter.seen) };
            let per_s = arrived / length.as_secs_f64();
            let wanted = (LOOKED_AT_PER_S / per_s.max(1.0)).min(meter.share * GROWTH).min(1.0);
            (meter.seen, meter.looked_at) = (0, 0);
            let close = wanted < meter.share * CLOSE_ENOUGH && meter.share < wanted * CLOSE_ENOUGH;
            if wanted == meter.share || close && wanted < 1.0 {
                continue;
            }
            if meter.share == 1.0 {
                began = Some((class, per_s));
            }
            (meter.share, changed) = (wanted, true);
        }
        changed.then(|| Turn { shares: self.shares(), began })
    }

    /// What the kernel is to let through now.
    pub(super) fn shares(&self) -> Shares {
        Shares(self.meters.map(|meter| (meter.share * f64::from(u32::MAX)) as u32))
    }

    /// Whether something is thinned out: then windows end even if nothing arrives.
    pub(super) fn is_thinning(&self) -> bool {
        self.meters.iter().any(|meter| meter.share < 1.0)
    }

    /// Whether some of this class are held back.
    pub(super) fn thins(&self, class: Class) -> bool {
        self.meters[class as usize].share < 1.0
    }

    /// The kernel does not do it: from now on the thread does.
    pub(super) fn do_without_kernel(&mut self) {
        self.kernel = false;
    }

    /// At least 0, less than 1.
    fn draw(&mut self) -> f64 {
        self.random ^= self.random << 13;
        self.random ^= self.random >> 7;
        self.random ^= self.random << 17;
        (self.random >> 11) as f64 / (1_u64 << 53) as f64
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at_ms(ms: u64) -> Mono {
        Mono(1_000_000_000 + ms * 1000)
    }

    /// A gate after `seconds` in which so many datagrams of the class came each second, in every tenth of it; and how many
    /// were looked at in the last second. The kernel's part is played by chance.
    fn flooded(gate: &mut Gate, class: Class, per_s: u32, seconds: u64, from_ms: u64) -> u32 {
        let mut dice = Gate::new(9);
        let mut looked_at = 0;
        for window in 0..seconds * 10 {
            if window == (seconds - 1) * 10 {
                looked_at = 0;
            }
            for _ in 0..per_s / 10 {
                let passes_kernel = !gate.kernel || dice.draw() < gate.meters[class as usize].share;
                looked_at += u32::from(passes_kernel && gate.admit(class));
            }
            gate.turn(at_ms(from_ms + (window + 1) * 100));
        }
        looked_at
    }

    fn ready(kernel: bool) -> Gate {
        let mut gate = Gate::new(7);
        gate.turn(at_ms(0));
        gate.kernel = kernel;
        gate
    }

    #[test]
    fn of_a_flood_about_the_limit_is_looked_at_whoever_drops_the_rest() {
        for kernel in [true, false] {
            for per_s in [10_000, 50_000, 1_000_000] {
                let looked_at = f64::from(flooded(&mut ready(kernel), Class::Bare, per_s, 3, 0));
                let range = LOOKED_AT_PER_S * 0.7..LOOKED_AT_PER_S * 1.3;
                assert!(range.contains(&looked_at), "{looked_at} of {per_s}, kernel {kernel}");
            }
        }
    }

    #[test]
    fn below_the_limit_everything_passes() {
        for kernel in [true, false] {
            let mut gate = ready(kernel);
            assert_eq!(flooded(&mut gate, Class::Bare, 7_000, 3, 0), 7_000);
            assert!(!gate.is_thinning() && gate.shares() == Shares::ALL);
        }
    }

    #[test]
    fn who_floods_one_class_leaves_the_others_alone() {
        for kernel in [true, false] {
            let mut gate = ready(kernel);
            flooded(&mut gate, Class::Bare, 100_000, 1, 0);
            for class in [Class::Claiming, Class::Answer, Class::Join, Class::Stray] {
                assert_eq!(gate.shares().0[class as usize], u32::MAX);
                assert!((0..100).all(|_| gate.admit(class)));
            }
        }
    }

    #[test]
    fn a_flood_is_cut_off_in_its_first_window_and_told_of_once() {
        let mut gate = ready(true);
        let first = (0..100_000).filter(|_| gate.admit(Class::Join)).count();
        assert_eq!(first as u32, FIRST_WINDOW_MAX);
        let turn = gate.turn(at_ms(100)).unwrap();
        let (class, per_s) = turn.began.unwrap();
        assert_eq!((class, per_s.round()), (Class::Join, 1_000_000.0));
        let expected = LOOKED_AT_PER_S / 1_000_000.0 * f64::from(u32::MAX);
        assert!((f64::from(turn.shares.0[Class::Join as usize]) - expected).abs() < 2.0);
        // As many as before, of which the kernel lets so many pass.
        let passed = (0..800).filter(|_| gate.admit(Class::Join)).count();
        assert_eq!(passed, 800);
        assert!(gate.turn(at_ms(200)).is_none(), "it goes on as it is");
    }

    #[test]
    fn after_a_flood_the_gate_opens_within_a_second() {
        let mut gate = ready(true);
        flooded(&mut gate, Class::Bare, 50_000, 2, 0);
        assert!(gate.is_thinning());
        assert!(gate.turn(at_ms(2_050)).is_none(), "within a window nothing changes");
        for window in 0..10 {
            gate.turn(at_ms(2_100 + window * 100));
        }
        assert!(!gate.is_thinning() && gate.shares() == Shares::ALL);
    }

    #[test]
    fn a_flood_that_pauses_for_a_window_does_not_begin_anew() {
        let mut gate = ready(true);
        flooded(&mut gate, Class::Bare, 500_000, 1, 0);
        let before = gate.meters[0].share;
        gate.turn(at_ms(1_100));
        assert!(gate.meters[0].share <= before * GROWTH);
    }

    #[test]
    fn junk_is_thinned_out_by_the_kernel_from_the_limit_on() {
        let mut gate = ready(true);
        gate.count(Class::Stray, 700);
        assert!(gate.turn(at_ms(100)).is_none() && !gate.thins(Class::Stray));
        gate.count(Class::Stray, 10_000);
        let turn = gate.turn(at_ms(200)).unwrap();
        assert!(gate.thins(Class::Stray) && !gate.thins(Class::Bare));
        assert_eq!(turn.began.map(|(class, per_s)| (class, per_s.round())), Some((Class::Stray, 100_000.0)));
        let share = LOOKED_AT_PER_S / 100_000.0;
        assert!((f64::from(turn.shares.0[Class::Stray as usize]) / f64::from(u32::MAX) - share).abs() < 1e-6);
        assert_eq!(turn.shares.without(Class::Stray), Shares::ALL);
        // The kernel lets that share of as many pass.
        gate.count(Class::Stray, 800);
        assert!(gate.turn(at_ms(300)).is_none(), "it goes on as it is");
    }
}
