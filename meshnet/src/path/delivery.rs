//! Whether what is sent over a path arrives: judged on data, because a relay can tell probes from data and may pass on
//! only the former, and because a faulty one may lose packets of one length or one lane.
//!
//! A probe over a path that carries traffic asks how many packets of each kind came over it (`Frame::Arrived`), and the
//! answer is compared with what was sent before the probe. Receivers count a few times a second only, but a packet after a
//! pause at once; so nothing is concluded from the last [`LAG`] before a probe, and from the first [`LAG`] after the last
//! packet that is known to have come.

use std::collections::VecDeque;
use std::time::Duration;

use proto::arrivals::{Arrivals, KINDS};

use crate::time::Mono;

/// How late a receiver may count what has come (`TELL_EVERY_US` of `dataplane::rx`).
const LAG: Duration = Duration::from_millis(250);
/// Packets of one kind after which a path does not deliver them, if none came: at a loss of a tenth, that happens by
/// chance once in a thousand times, and costs a change of the path.
const LOST: u32 = 3;
/// Whether most is lost is judged over no less than this, and no fewer packets.
const POOR_OVER: Duration = Duration::from_millis(1500);
const POOR_OF: u32 = 50;
/// A path that did not deliver is used again after this, if others work; twice as long after each further time.
const AGAIN_AFTER: Duration = Duration::from_secs(10);
/// So many times twice as long, at most: 10 s to 5 min.
const MAX_DOUBLINGS: u32 = 5;
/// A path that has delivered for so long is trusted as others are.
const FORGIVEN_AFTER: Duration = Duration::from_secs(60);
/// Whether most is lost is judged anew after so long without a question: who was not asked may have begun to count anew.
const PAUSE: Duration = Duration::from_secs(2);
/// Probes that may still be answered, and those before them that their answers are compared with.
const MAX_ASKED: usize = 8;

/// What is known of one path's delivery.
#[derive(Default)]
pub(super) struct Delivery {
    /// Packets sent on this path alone, so far.
    sent: Arrivals,
    /// Probes, with what had been sent before them; the oldest first.
    asked: VecDeque<Asked>,
    /// What had been sent before the last two probes that were answered.
    settled: [Arrivals; 2],
    kinds: [Kind; KINDS],
    window: Option<Window>,
    /// How many of all kinds had come by the last answer.
    total: Option<u32>,
    failures: u32,
    /// It is not to be used before then, if another one works.
    until: Mono,
    /// It has failed before, and has not delivered anything since it is used again.
    on_trial: bool,
}

#[derive(Clone, Copy)]
struct Asked {
    id: u32,
    at: Mono,
    sent: Arrivals,
}

/// One kind of packets.
#[derive(Clone, Copy, Default)]
struct Kind {
    /// The last probe before which some of it are known to have come, or when the path began to be used.
    base: Mono,
    /// How many have come by then.
    received: Option<u32>,
    /// How many had been sent when those that came were certainly counted.
    from: Option<u32>,
}

/// Over which it is judged whether most is lost.
#[derive(Clone, Copy)]
struct Window {
    at: Mono,
    sent: u32,
    received: u32,
}

/// What an answer showed.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Verdict {
    /// Nothing new.
    Open,
    /// Something came.
    Delivers,
    /// Of some kind nothing came, though several were sent.
    Nothing,
    /// Less than half came.
    Poor,
}

impl Delivery {
    /// The path begins to carry traffic.
    pub(super) fn begins(&mut self, now: Mono) {
        self.kinds = [Kind { base: now, ..Kind::default() }; KINDS];
        self.window = None;
        self.total = None;
        self.asked.clear();
        self.on_trial = self.failures > 0;
    }

    /// Packets were sent over this path and no other.
    pub(super) fn sent(&mut self, packets: &Arrivals) {
        self.sent = self.sent.plus(packets);
    }

    /// A probe leaves. Whether it should ask what has come.
    pub(super) fn asks(&mut self, now: Mono, id: u32) -> bool {
        if self.sent == self.settled[1] {
            return false;
        }
        if self.asked.back().is_some_and(|last| now.since(last.at) >= PAUSE) {
            self.window = None;
        }
        if self.asked.len() >= MAX_ASKED {
            self.asked.pop_front();
        }
        self.asked.push_back(Asked { id, at: now, sent: self.sent });
        true
    }

    /// Whether it asked with this probe.
    pub(super) fn has_asked(&self, id: u32) -> bool {
        self.asked.iter().any(|asked| asked.id == id)
    }

    /// An answer: what had come when it left.
    pub(super) fn answered(&mut self, id: u32, received: &Arrivals) -> Verdict {
        let Some(asked) = self.asked.iter().find(|asked| asked.id == id).copied() else {
            return Verdict::Open;
        };
        if self.begins_to_count_anew(received) {
            self.begins(asked.at);
            return Verdict::Open;
        }
        let before = |other: &&Asked| asked.at.since(other.at) >= LAG && other.at < asked.at;
        let earlier = self.asked.iter().rev().find(before).map(|other| other.sent);
        self.settled = [asked.sent, self.settled[0]];
        let mut verdict = Verdict::Open;
        for (number, kind) in self.kinds.iter_mut().enumerate() {
            let earlier = earlier.map(|sent| sent.0[number]);
            match kind.judge(&asked, asked.sent.0[number], earlier, received.0[number]) {
                Verdict::Nothing => verdict = Verdict::Nothing,
                Verdict::Delivers if verdict == Verdict::Open => verdict = Verdict::Delivers,
                _ => {}
            }
        }
        if verdict == Verdict::Delivers {
            self.on_trial = false;
            if self.failures > 0 && asked.at.since(self.until) >= FORGIVEN_AFTER && asked.at > self.until {
                self.failures = 0;
            }
            if self.is_poor(&asked, earlier, received.total()) {
                verdict = Verdict::Poor;
            }
        }
        verdict
    }

    /// Fewer have come than before: the other end had forgotten the path, because its relay or the end itself has restarted.
    fn begins_to_count_anew(&mut self, received: &Arrivals) -> bool {
        let before = self.total.replace(received.total());
        before.is_some_and(|before| (received.total().wrapping_sub(before) as i32) < 0)
    }

    /// Something came since the last answer, so that everything has been counted that was sent before `earlier`. Whether
    /// less than half of it came.
    fn is_poor(&mut self, asked: &Asked, earlier: Option<Arrivals>, received: u32) -> bool {
        let begin = Window { at: asked.at, sent: asked.sent.total(), received };
        let (Some(window), Some(earlier)) = (self.window, earlier) else {
            self.window.get_or_insert(begin);
            return false;
        };
        let sent = earlier.total().wrapping_sub(window.sent) as i32;
        if asked.at.since(window.at) < POOR_OVER || sent < POOR_OF as i32 {
            return false;
        }
        self.window = Some(begin);
        let came = received.wrapping_sub(window.received);
        u64::from(came) * 2 < sent as u64
    }

    /// It is not to be used for a while.
    pub(super) fn fails(&mut self, now: Mono) {
        let doublings = self.failures.min(MAX_DOUBLINGS);
        if self.until <= now {
            self.failures += 1;
        }
        self.until = now + AGAIN_AFTER * (1 << doublings);
        self.begins(now);
        self.on_trial = false;
    }

    /// Whether another path should be used, if there is one.
    pub(super) fn failed(&self, now: Mono) -> bool {
        self.failures > 0 && now < self.until
    }

    /// Whether it has failed, and is not trusted as others are yet.
    pub(super) fn has_failed(&self) -> bool {
        self.failures > 0
    }

    /// Whether it has failed, and has still to show that it delivers.
    pub(super) fn on_trial(&self) -> bool {
        self.on_trial
    }
}

impl Kind {
    fn judge(&mut self, asked: &Asked, sent: u32, earlier: Option<u32>, received: u32) -> Verdict {
        if asked.at <= self.base {
            return Verdict::Open;
        }
        let before = *self.received.get_or_insert(received);
        if received != before {
            *self = Kind { base: asked.at, received: Some(received), from: None };
            return Verdict::Delivers;
        }
        match (self.from, earlier) {
            (None, _) if asked.at.since(self.base) >= LAG => self.from = Some(sent),
            (Some(from), Some(earlier)) if earlier.wrapping_sub(from) as i32 >= LOST as i32 => {
                return Verdict::Nothing;
            }
            _ => {}
        }
        Verdict::Open
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A path on which packets of some kinds come, with a probe every 300 ms that is answered at once.
    struct Line {
        delivery: Delivery,
        now: Mono,
        id: u32,
        received: Arrivals,
    }

    impl Line {
        fn new() -> Line {
            let (mut delivery, now) = (Delivery::default(), Mono(1_000_000));
            delivery.begins(now);
            Line { delivery, now, id: 0, received: Arrivals::default() }
        }

        /// Sends `packets` of each kind of lane 0 before each of `probes` probes; of those, `come` are counted.
        fn run(&mut self, probes: usize, packets: [u32; 4], come: [u32; 4]) -> Vec<Verdict> {
            let mut verdicts = Vec::new();
            for _ in 0..probes {
                self.now = self.now + Duration::from_millis(300);
                let mut sent = Arrivals::default();
                sent.add(0, &packets);
                self.delivery.sent(&sent);
                self.id += 1;
                self.received.add(0, &come);
                if self.delivery.asks(self.now, self.id) {
                    verdicts.push(self.delivery.answered(self.id, &self.received));
                }
            }
            verdicts
        }
    }

    #[test]
    fn a_path_that_delivers_is_left_alone_and_one_that_does_not_is_found_in_four_probes() {
        let mut line = Line::new();
        let fine = line.run(20, [0, 6, 0, 9], [0, 6, 0, 9]);
        assert!(fine[1..].iter().all(|verdict| *verdict == Verdict::Delivers), "{fine:?}");
        let found = line.run(4, [0, 6, 0, 9], [0; 4]);
        assert!(found[..2].iter().all(|verdict| *verdict == Verdict::Open), "{found:?}");
        assert!(found.contains(&Verdict::Nothing), "{found:?}");
    }

    #[test]
    fn packets_of_one_length_that_vanish_are_missed_among_others_that_come() {
        let mut line = Line::new();
        line.run(5, [3, 0, 0, 9], [3, 0, 0, 9]);
        assert!(line.run(5, [3, 0, 0, 9], [3, 0, 0, 0]).contains(&Verdict::Nothing));
    }

    #[test]
    fn a_burst_that_is_counted_late_is_no_loss_and_neither_are_a_few_packets() {
        let mut line = Line::new();
        line.run(5, [1, 0, 0, 0], [1, 0, 0, 0]);
        // A hundred at once, of which only the first is counted, and then nothing any more.
        assert_eq!(line.run(1, [100, 0, 0, 0], [1, 0, 0, 0]), [Verdict::Delivers]);
        let after = line.run(30, [0; 4], [0; 4]);
        assert!(after.len() <= 2 && after.iter().all(|verdict| *verdict == Verdict::Open), "{after:?}");
        // The next packet after that pause has the rest counted.
        assert_eq!(line.run(1, [1, 0, 0, 0], [100, 0, 0, 0]), [Verdict::Delivers]);
        // Two packets that do not come say nothing, three do.
        line.run(3, [0; 4], [0; 4]);
        assert!(!line.run(2, [1, 0, 0, 0], [0; 4]).contains(&Verdict::Nothing));
        assert!(line.run(3, [1, 0, 0, 0], [0; 4]).contains(&Verdict::Nothing));
    }

    #[test]
    fn most_lost_is_poor_and_a_third_is_not() {
        let mut line = Line::new();
        assert!(!line.run(30, [30, 0, 0, 0], [20, 0, 0, 0]).contains(&Verdict::Poor));
        assert!(line.run(12, [30, 0, 0, 0], [6, 0, 0, 0]).contains(&Verdict::Poor));
    }

    #[test]
    fn an_end_that_has_begun_to_count_anew_has_lost_nothing() {
        let mut line = Line::new();
        line.run(10, [15, 0, 0, 0], [15, 0, 0, 0]);
        // The relay restarts while nothing flows, and the other end forgets the path and what came over it.
        for (pause_s, come) in [(10, 0), (10, 3), (0, 0)] {
            line.now = line.now + Duration::from_secs(pause_s);
            line.received = Arrivals::default();
            line.received.add(0, &[come, 0, 0, 0]);
            let after = line.run(12, [70, 0, 0, 0], [70, 0, 0, 0]);
            let bad = |verdict: &Verdict| matches!(verdict, Verdict::Poor | Verdict::Nothing);
            assert!(!after.iter().any(bad), "{after:?}");
            assert_eq!(after.last(), Some(&Verdict::Delivers));
        }
        // It is still noticed when nothing comes any more.
        assert!(line.run(4, [70, 0, 0, 0], [0; 4]).contains(&Verdict::Nothing));
    }

    #[test]
    fn who_fails_again_waits_longer_and_who_delivers_for_a_minute_is_trusted_anew() {
        let mut delivery = Delivery::default();
        let mut now = Mono(1_000_000);
        let mut waits = Vec::new();
        for _ in 0..8 {
            delivery.begins(now);
            delivery.fails(now);
            assert!(delivery.failed(now) && !delivery.on_trial());
            waits.push(delivery.until.since(now).as_secs());
            now = delivery.until;
            delivery.begins(now);
            assert!(!delivery.failed(now) && delivery.on_trial());
        }
        assert_eq!(waits, [10, 20, 40, 80, 160, 320, 320, 320]);
        let mut line = Line { delivery, now, id: 0, received: Arrivals::default() };
        line.run(3, [1, 0, 0, 0], [1, 0, 0, 0]);
        assert!(!line.delivery.on_trial() && line.delivery.failures > 0);
        line.run(210, [1, 0, 0, 0], [1, 0, 0, 0]);
        assert_eq!(line.delivery.failures, 0);
    }
}
