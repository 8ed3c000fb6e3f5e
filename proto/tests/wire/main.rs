//! Tests of the wire formats: literal bytes, sizes, limits, newer versions, round trips, and damage.
#![expect(clippy::unwrap_used, reason = "a test that cannot go on fails")]

mod any;
mod damage;
mod formats;
mod limits;
mod newer;
mod round_trip;
mod sample;
mod sizes;
mod vectors;
