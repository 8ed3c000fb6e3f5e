//! Checks of sessions at their very edges, which the tests of what goes right do not come near.

use std::time::Duration;

use proto::handshake::{Attachment, INIT_MAX_LEN};
use proto::id::{KeyEpochNumber, MemberId};

use super::pair::*;
use crate::session::*;
use crate::time::{Now, UnixMs};

fn number(number: u32) -> KeyEpochNumber {
    KeyEpochNumber(number)
}

/// A key that was stolen takes what was made with it with it, whichever end's it was; and nothing else.
#[test]
fn sessions_made_with_a_stolen_key_end_and_no_others() {
    for (local, remote, expected) in [(1, 1, false), (2, 1, true), (1, 2, true), (2, 2, true)] {
        let mut pair = Pair::connected(1);
        let now = pair.now;
        let node = &mut pair.nodes[A];
        let cut = node.session.cut(now, &mut node.handshaker, number(local), number(remote));
        assert_eq!(cut, expected, "{local} {remote}");
        assert_eq!(node.session.keypairs().count(), usize::from(!expected));
        let mut events = Vec::new();
        while let Some(event) = node.session.poll_event() {
            events.push(event);
        }
        let told = events.iter().filter(|event| **event == SessionEvent::KeysChanged).count();
        assert_eq!(
            told,
            usize::from(expected),
            "who sends with it has to hear that it is gone, once: {events:?}"
        );
    }
}

/// An init made with a stolen key, of either end, is not waited for any more, and another one is made at once.
#[test]
fn an_init_made_with_a_stolen_key_is_made_anew_and_others_are_not() {
    for (local, remote, anew) in [(1, 1, false), (2, 1, true), (1, 2, true), (2, 2, true)] {
        let mut pair = Pair::new(2);
        pair.want(A);
        let now = pair.now;
        let node = &mut pair.nodes[A];
        let due = node.session.poll_timeout();
        assert!(due.is_some_and(|due| due > now.mono));
        assert!(
            !node.session.cut(now, &mut node.handshaker, number(local), number(remote)),
            "there were no keys"
        );
        assert_eq!(node.session.is_initiating(), !anew, "{local} {remote}");
        assert_eq!(node.handshaker.index_count(), usize::from(!anew));
        assert_eq!(node.session.poll_timeout(), if anew { Some(now.mono) } else { due });
    }
    // With no init under way there is nothing to make anew.
    let mut pair = Pair::connected(2);
    let now = pair.now;
    let node = &mut pair.nodes[A];
    let before = node.session.poll_timeout();
    assert!(!node.session.cut(now, &mut node.handshaker, number(1), number(1)));
    assert_eq!(node.session.poll_timeout(), before);
}

/// What was answered with a stolen key is not answered again.
#[test]
fn answers_are_kept_side_by_side_until_a_key_is_stolen() {
    let mut pair = Pair::new(3);
    let mut inits = Vec::new();
    for _ in 0..3 {
        pair.nodes[A].session.renew(pair.now.mono);
        pair.tick(A);
        inits.push(pair.sent(A, proto::datagram::Kind::Init).last().unwrap().clone());
        pair.run_ms(1000);
    }
    let (now, origin) = (pair.now, Origin::Direct(pair.nodes[A].address));
    let node = &mut pair.nodes[B];
    for init in &inits {
        assert!(matches!(node.handshaker.open_init(now, origin, init), InitOutcome::Duplicate(_)));
    }
    node.session.cut(now, &mut node.handshaker, number(1), number(2));
    for init in &inits {
        assert!(!matches!(node.handshaker.open_init(now, origin, init), InitOutcome::Duplicate(_)));
    }
}

/// Inits say when they were made, in microseconds, whatever the clock says; and each says something later.
#[test]
fn timestamps_are_the_time_and_grow() {
    let mut pair = Pair::new(4);
    let now = pair.now;
    let handshaker = &mut pair.nodes[A].handshaker;
    let wall_us = now.wall.0 * 1000;
    assert_eq!(handshaker.timestamp_us(now, 0), wall_us);
    assert_eq!(handshaker.timestamp_us(now, 0), wall_us + 1);
    assert_eq!(handshaker.timestamp_us(now, wall_us + 10), wall_us + 11);
    assert_eq!(handshaker.timestamp_us(now, 0), wall_us + 3, "what one peer had seen is not told to others");
    // A clock that is off by ages leaves room for as many again.
    let ages = Now { wall: UnixMs(u64::MAX), ..now };
    assert_eq!(handshaker.timestamp_us(ages, 0), TIMESTAMP_LIMIT_US / 2);
    let back = handshaker.timestamp_us(now, 0);
    assert_eq!(back, TIMESTAMP_LIMIT_US / 2 + 1);
}

/// Two sessions with one index would get each other's datagrams.
#[test]
fn an_index_that_is_in_use_or_zero_is_not_given_again() {
    // Both draw the same numbers.
    let (mut first, mut second) = (Pair::new(5), Pair::new(5));
    let member = MemberId([7; 16]);
    let [one, two] = [(); 2].map(|()| first.nodes[A].handshaker.allocate(member));
    let handshaker = &mut second.nodes[A].handshaker;
    handshaker.occupy(one, MemberId([8; 16]));
    assert_eq!(handshaker.allocate(member), two);
    assert_eq!(handshaker.owner(one), Some(MemberId([8; 16])));
    assert_eq!(handshaker.owner(two), Some(member));
}

#[test]
fn delays_by_chance_are_within_their_bounds_and_not_all_alike() {
    let mut pair = Pair::new(6);
    let handshaker = &mut pair.nodes[A].handshaker;
    let max = Duration::from_millis(300);
    let delays: Vec<Duration> = (0..100).map(|_| handshaker.jitter(max)).collect();
    assert!(delays.iter().all(|delay| *delay <= max));
    assert!(delays.iter().any(|delay| *delay < max / 4) && delays.iter().any(|delay| *delay > max * 3 / 4));
}

/// An init may be as long as the format allows, and not by a byte longer.
#[test]
fn an_init_is_as_long_as_it_may_be_and_no_longer() {
    let mut pair = Pair::new(7);
    let now = pair.now;
    let node = &mut pair.nodes[A];
    let mut with = |len: usize| {
        let certificate = vec![1; len];
        let outcome =
            node.session.initiate(now, &mut node.handshaker, &[Attachment::Certificate(&certificate)]);
        outcome.map(|()| node.session.pending_init(now, None).unwrap().len())
    };
    let around = with(900).unwrap() - 900;
    assert_eq!(with(INIT_MAX_LEN - around), Ok(INIT_MAX_LEN));
    assert_eq!(with(INIT_MAX_LEN - around + 1), Err(proto::Error::TooLong("init")));
}

/// A cookie holds for the address that it came from, and for as long as the secret behind it.
#[test]
fn a_cookie_goes_along_only_to_where_it_came_from_and_while_it_holds() {
    let mut pair = Pair::new(8);
    let now = pair.now;
    pair.nodes[B].handshaker.note_backlog(now, 100, 100);
    pair.want(A);
    pair.run_ms(25);
    assert_eq!(pair.stats(A).cookies_received, 1);
    let node = &pair.nodes[A];
    let brings = |now: Now, to: &str| {
        let init = node.session.pending_init(now, Some(to.parse().unwrap())).unwrap();
        init[init.len() - 16..].iter().any(|byte| *byte != 0)
    };
    assert!(brings(now, "192.0.2.2:655"));
    assert!(!brings(now, "192.0.2.2:656") && !brings(now, "192.0.2.3:655"));
    // It came 20 ms after the first init.
    let age = |age: Duration| Now { mono: now.mono + Duration::from_millis(20) + age, ..now };
    assert!(brings(age(COOKIE_RENEWAL - Duration::from_micros(1)), "192.0.2.2:655"));
    assert!(!brings(age(COOKIE_RENEWAL), "192.0.2.2:655"));
    assert!(!brings(age(COOKIE_RENEWAL), "192.0.2.3:655"));
}
