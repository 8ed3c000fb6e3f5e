//! What a node makes of a challenge: that the peer has seen a later timestamp than the init's.

use proto::id::KeyEpochNumber;

use super::epochs::answer;
use super::pair::{A, Pair};
use crate::session::*;

/// The challenge to an init of the first node, if the second has seen this timestamp of it.
fn challenge(pair: &mut Pair, seen_us: u64) -> Vec<u8> {
    match answer(pair, seen_us, KeyEpochNumber(1)) {
        Accepted::Challenge(challenge) => challenge,
        _ => panic!("it is challenged"),
    }
}

/// What the first node makes of a challenge: whether it follows it, and otherwise why not.
fn follows(pair: &mut Pair, challenge: &[u8]) -> bool {
    match pair.deliver_response(A, challenge) {
        Some(ResponseOutcome::Challenged) => true,
        Some(ResponseOutcome::Drop(DropReason::Challenge)) => false,
        other => panic!("neither followed nor dropped: {}", other.is_some()),
    }
}

#[test]
fn a_challenge_beyond_all_times_is_not_followed() {
    for (seen_us, expected) in [(TIMESTAMP_LIMIT_US - 1, true), (TIMESTAMP_LIMIT_US, false)] {
        let mut pair = Pair::new(9);
        let challenge = challenge(&mut pair, seen_us);
        assert_eq!(follows(&mut pair, &challenge), expected, "{seen_us}");
    }
}

/// A peer that has seen an earlier time than it was told has no reason to challenge.
#[test]
fn a_challenge_with_an_earlier_time_than_was_told_is_not_followed() {
    let seen_us = TIMESTAMP_LIMIT_US - 100;
    for (told_us, expected) in [(seen_us - 1, true), (seen_us, true), (seen_us + 1, false)] {
        let mut pair = Pair::new(9);
        let challenge = challenge(&mut pair, seen_us);
        pair.nodes[A].session.told_us = told_us;
        assert_eq!(follows(&mut pair, &challenge), expected, "{told_us}");
        let told = pair.nodes[A].session.told_us;
        assert_eq!(told, if expected { seen_us } else { told_us }, "what is dropped changes nothing");
    }
}

/// Each with a later time than the one before, as from a peer that wants to keep a node busy.
#[test]
fn three_challenges_in_a_series_of_attempts_are_followed_at_once_and_no_more() {
    let mut pair = Pair::new(9);
    let followed: Vec<bool> = (0..4)
        .map(|round| {
            let challenge = challenge(&mut pair, TIMESTAMP_LIMIT_US - 1000 + 100 * round);
            follows(&mut pair, &challenge)
        })
        .collect();
    assert_eq!(followed, [true, true, true, false]);
    assert_eq!(pair.stats(A).challenges_received, 3);
}
