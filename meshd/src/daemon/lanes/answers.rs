//! ICMP errors to those who sent packets into the overlay that cannot go on, at a bounded rate.

use std::io::IoSlice;
use std::sync::Arc;
use std::sync::atomic::AtomicU64;
use std::time::Duration;

use meshnet::dataplane::icmp::{self, Error, MAX_LEN};
use meshnet::io::tun::{Device, Meta};
use meshnet::route::limit::TokenBucket;
use meshnet::time::Mono;

use super::counters::add;

/// Errors about packets that are too long, at once, and the time between two after that. Each of them saves a sender from
/// losing more.
const TOO_BIG_BURST: u32 = 50;
const TOO_BIG_EVERY: Duration = Duration::from_millis(10);
/// Errors about destinations that cannot be reached: three a second.
const UNREACHABLE_BURST: u32 = 3;
const UNREACHABLE_EVERY: Duration = Duration::from_millis(333);

/// Answers through one queue of the device. Every thread has one of its own.
#[derive(Debug)]
pub(super) struct Answers {
    device: Arc<dyn Device>,
    too_big: TokenBucket,
    unreachable: TokenBucket,
    buffer: Box<[u8; MAX_LEN]>,
}

/// What a thread's answers count.
#[derive(Debug, Default)]
pub(super) struct AnswerCounters {
    sent: AtomicU64,
    limited: AtomicU64,
}

impl AnswerCounters {
    /// Errors that were told, and those that were not because there had been too many.
    pub(super) fn both(&self) -> [(&'static str, &AtomicU64); 2] {
        [("icmp_sent", &self.sent), ("icmp_limited", &self.limited)]
    }
}

impl Answers {
    pub(super) fn new(device: Arc<dyn Device>) -> Answers {
        Answers {
            device,
            too_big: TokenBucket::new(TOO_BIG_BURST, TOO_BIG_EVERY),
            unreachable: TokenBucket::new(UNREACHABLE_BURST, UNREACHABLE_EVERY),
            buffer: Box::new([0; MAX_LEN]),
        }
    }

    /// Tells the sender of `about` what is wrong with it, if that may be told and was not told too often.
    pub(super) fn answer(&mut self, counters: &AnswerCounters, now: Mono, about: &[u8], error: Error) {
        let Some(len) = icmp::write(error, about, &mut self.buffer) else { return };
        let bucket = match error {
            Error::TooBig { .. } => &mut self.too_big,
            Error::NoRoute | Error::Unreachable => &mut self.unreachable,
        };
        if !bucket.take(now) {
            add(&counters.limited, 1);
            return;
        }
        match self.device.write(&Meta::PLAIN, &[IoSlice::new(&self.buffer[..len])]) {
            Ok(()) => add(&counters.sent, 1),
            Err(error) => tracing::trace!(%error, "an ICMP error is not delivered"),
        }
    }
}
