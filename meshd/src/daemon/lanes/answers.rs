//! ICMP errors to those who sent packets into the overlay that cannot go on, at a bounded rate.

use std::io::IoSlice;
use std::sync::Arc;
use std::time::Duration;

use meshnet::dataplane::icmp::{self, Error, MAX_LEN};
use meshnet::io::tun::{Device, Meta};
use meshnet::route::limit::TokenBucket;
use meshnet::time::Mono;

use super::counters::{AnswerCounters, add};

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
        if let Some(len) = icmp::write(error, about, &mut self.buffer) {
            self.send(counters, now, error, len);
        }
    }

    /// Tells the sender of a packet that begins with `head` that it was lost, because no more than `mtu` bytes pass.
    pub(super) fn tell_lost(&mut self, counters: &AnswerCounters, now: Mono, head: &[u8], mtu: u16) {
        let error = Error::TooBig { mtu };
        if let Some(len) = icmp::write_about_head(error, head, &mut self.buffer) {
            self.send(counters, now, error, len);
        }
    }

    /// Sends what is in the buffer.
    fn send(&mut self, counters: &AnswerCounters, now: Mono, error: Error, len: usize) {
        let bucket = match error {
            Error::TooBig { .. } => &mut self.too_big,
            Error::NoRoute | Error::Unreachable | Error::Prohibited => &mut self.unreachable,
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
