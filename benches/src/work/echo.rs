//! Round trips of ICMP echoes, one after the other.

use crate::stats::quantile;
use anyhow::Context;
use netlab::{Machine, ping};
use std::net::IpAddr;
use std::time::{Duration, Instant};

/// Between an answer and the next echo: longer than a busy-polling daemon stays awake by itself.
const PAUSE: Duration = Duration::from_millis(1);

/// Round-trip times in microseconds.
#[derive(Clone, Copy, PartialEq, Debug)]
pub struct RoundTrips {
    /// The median.
    pub p50_us: f64,
    /// 99 of 100 are at most this.
    pub p99_us: f64,
}

/// Echoes for so long.
///
/// # Errors
/// When fewer than half of them are answered.
pub fn round_trips(from: &Machine, to: IpAddr, duration: Duration) -> anyhow::Result<RoundTrips> {
    from.enter(|| {
        let start = Instant::now();
        let (mut times_us, mut sent) = (Vec::new(), 0usize);
        while start.elapsed() < duration {
            sent += 1;
            let answers = ping::burst(to, 1, Duration::from_millis(500))?;
            times_us.extend(answers.into_iter().flatten().map(|time| time.as_secs_f64() * 1e6));
            std::thread::sleep(PAUSE);
        }
        anyhow::ensure!(times_us.len() * 2 >= sent, "{} of {sent} echoes answered", times_us.len());
        let p50_us = quantile(&mut times_us, 0.5).context("no echo was answered")?;
        let p99_us = quantile(&mut times_us, 0.99).context("no echo was answered")?;
        Ok(RoundTrips { p50_us, p99_us })
    })?
}

/// Waits for the first answer; the time since `since`.
///
/// # Errors
/// When none comes within `limit`.
pub fn first_answer(from: &Machine, to: IpAddr, since: Instant, limit: Duration) -> anyhow::Result<Duration> {
    from.enter(|| {
        while since.elapsed() < limit {
            let answers = ping::burst(to, 1, Duration::from_millis(5))?;
            if answers.iter().any(Option::is_some) {
                return Ok(since.elapsed());
            }
            std::thread::sleep(Duration::from_millis(1));
        }
        anyhow::bail!("no echo was answered within {limit:?}")
    })?
}
