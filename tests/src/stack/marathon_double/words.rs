//! Small things that several parts need.

use std::net::SocketAddr;
use std::time::{SystemTime, UNIX_EPOCH};

use serde_json::Value;

/// A text, or nothing.
pub(super) fn words(value: &Value) -> String {
    value.as_str().unwrap_or_default().to_owned()
}

/// Seconds since the Unix epoch.
pub(super) fn now() -> f64 {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs_f64()
}

/// `ip:port` as an address.
pub(super) fn address(text: &str) -> Option<SocketAddr> {
    text.parse().ok()
}

/// Whether `port` is in `1-2,5-6`.
pub(super) fn in_ranges(ranges: &str, port: u64) -> bool {
    ranges
        .split(',')
        .filter_map(|range| range.split_once('-'))
        .any(|(first, last)| (first.parse().unwrap_or(0)..=last.parse().unwrap_or(0)).contains(&port))
}
