//! What is measured of a path: round-trip time, jitter, loss.

use std::time::Duration;

/// Smoothed measurements of one path. Round-trip time and its deviation are smoothed as TCP does (RFC 6298, gains 1/8
/// and 1/4), except that good news counts at once: probes are seconds apart, and one that met a busy machine would speak
/// against the path for half a minute. Loss is an exponential average over probes with gain 1/16.
#[derive(Clone, Copy, PartialEq, Debug, Default)]
pub struct Quality {
    srtt_us: u64,
    deviation_us: u64,
    loss: f32,
    replies: u32,
}

/// What one per cent of loss costs in the score: a lost packet delays its stream by about a retransmission.
const LOSS_COST_US: f32 = 4_000.0;
/// With fewer replies than this, the first one still weighs so much that it is better forgotten fast.
const FEW_REPLIES: u32 = 6;
/// Gain of the loss average.
const LOSS_GAIN: f32 = 1.0 / 16.0;

impl Quality {
    /// Of a path with these round-trip times and this loss.
    pub(super) fn of(rtt_us: u64, deviation_us: u64, loss: f32) -> Quality {
        Quality { srtt_us: rtt_us, deviation_us, loss, replies: 1 }
    }

    /// A probe was answered after `rtt`.
    pub fn answered(&mut self, rtt: Duration) {
        let sample = u64::try_from(rtt.as_micros()).unwrap_or(u64::MAX);
        if self.replies == 0 {
            self.srtt_us = sample;
            self.deviation_us = sample / 2;
        } else {
            let error = self.srtt_us.abs_diff(sample);
            let falls = sample < self.srtt_us;
            self.srtt_us = match (falls, self.replies < FEW_REPLIES) {
                (true, true) => (self.srtt_us + sample) / 2,
                (true, false) => (3 * self.srtt_us + sample) / 4,
                (false, _) => (7 * self.srtt_us + sample) / 8,
            };
            // That it got much faster is no sign of jitter (as Linux has it, tcp_rtt_estimator in net/ipv4/tcp_input.c).
            self.deviation_us = if falls && error > self.deviation_us {
                (31 * self.deviation_us + error) / 32
            } else {
                (3 * self.deviation_us + error) / 4
            };
        }
        self.loss -= self.loss * LOSS_GAIN;
        self.replies = self.replies.saturating_add(1);
    }

    /// `count` probes stayed without answer.
    pub fn missed(&mut self, count: u32) {
        for _ in 0..count.min(64) {
            self.loss += (1.0 - self.loss) * LOSS_GAIN;
        }
    }

    /// Smoothed round-trip time.
    pub fn rtt(&self) -> Duration {
        Duration::from_micros(self.srtt_us)
    }

    /// Smoothed deviation of the round-trip time.
    pub fn jitter(&self) -> Duration {
        Duration::from_micros(self.deviation_us)
    }

    /// Share of probes lost, 0.0 to 1.0.
    pub fn loss(&self) -> f32 {
        self.loss
    }

    /// Probes answered so far.
    pub fn replies(&self) -> u32 {
        self.replies
    }

    /// One figure to compare paths by, in microseconds; lower is better: round-trip time, twice its deviation but at
    /// most as much again, and what the loss costs. The bound is there because deviation is forgotten slowly, and fastest
    /// on the path that is probed most, which is the one in use; and because much of it comes from busy machines at the
    /// ends, which all paths have in common.
    pub fn score_us(&self) -> u64 {
        // A single lost probe moves the average by a sixteenth: up to that it says nothing about the path.
        let loss = (self.loss - LOSS_GAIN).max(0.0) * 100.0;
        self.srtt_us + (2 * self.deviation_us).min(self.srtt_us) + (loss * LOSS_COST_US) as u64
    }

    /// How long to wait for a reply before it counts as lost (RFC 6298 section 2.3, without its floor of a second).
    pub fn patience(&self) -> Duration {
        Duration::from_micros(self.srtt_us + (4 * self.deviation_us).max(100_000))
    }

    /// How much later an answer may come than one that was asked for after it: packets overtake each other, and long ones
    /// take longer on slow lines.
    pub fn grace(&self) -> Duration {
        Duration::from_micros((4 * self.deviation_us).max(20_000)).min(self.patience())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn after(samples_ms: &[u64]) -> Quality {
        let mut quality = Quality::default();
        samples_ms.iter().for_each(|ms| quality.answered(Duration::from_millis(*ms)));
        quality
    }

    #[test]
    fn a_bad_start_is_soon_forgotten() {
        let quality = after(&[80, 2, 2, 2, 2, 2, 2, 2]);
        assert!(quality.rtt() < Duration::from_millis(5), "{quality:?}");
        assert!(quality.score_us() < after(&[20; 8]).score_us(), "{quality:?}");
    }

    #[test]
    fn one_slow_answer_moves_it_little_and_a_slower_path_shows() {
        assert!(after(&[2, 2, 2, 2, 2, 50]).rtt() < Duration::from_millis(9));
        assert!(after(&[2, 2, 2, 50, 50, 50, 50, 50, 50, 50, 50]).rtt() > Duration::from_millis(30));
    }

    #[test]
    fn a_path_that_wavers_is_worse_than_a_steady_one_of_the_same_mean() {
        let wavers: Vec<u64> = (0..40).map(|n| if n % 2 == 0 { 5 } else { 35 }).collect();
        assert!(after(&wavers).score_us() > after(&[20; 40]).score_us());
    }
}
