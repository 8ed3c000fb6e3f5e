//! The life of a keypair: rekeying, the end of sending, of receiving, and of everything.

use proto::datagram::Kind;
use std::collections::BTreeSet;
use std::time::Duration;

use super::pair::*;
use crate::session::*;

#[test]
fn a_keypair_in_use_is_replaced_at_120_s_by_its_initiator() {
    let mut pair = Pair::connected(1);
    let created = pair.nodes[A].session.keypairs().next().unwrap().created;
    while pair.sent(A, Kind::Init).is_empty() {
        pair.send_data(A);
        pair.run_ms(500);
    }
    let age = pair.now.mono.since(created);
    assert!(age >= REKEY_AFTER && age < REKEY_AFTER + Duration::from_secs(1), "{age:?}");
    pair.run_ms(1000);
    assert_eq!((pair.stats(A).completed, pair.stats(B).inits_accepted), (2, 2));
    assert!(pair.sent(B, Kind::Init).is_empty());
}

#[test]
fn traffic_in_one_direction_only_is_enough_to_rekey() {
    for from in [A, B] {
        let mut pair = Pair::connected(2);
        for _ in 0..400 {
            assert!(pair.send_data(from).is_some(), "there always is a keypair to send with");
            pair.run_ms(1000);
        }
        assert!((2..=4).contains(&(pair.stats(A).completed + pair.stats(B).completed - 1)));
    }
}

#[test]
fn an_idle_keypair_is_not_replaced_but_ends() {
    let mut pair = Pair::connected(3);
    pair.run_ms(179_900);
    assert!(pair.is_connected());
    pair.run_ms(200);
    assert!(pair.nodes.iter().all(|node| node.session.sending().is_none()));
    assert!(
        pair.nodes.iter().all(|node| node.session.keypairs().count() == 1),
        "what is under way still opens"
    );
    pair.run_ms(RECEIVE_GRACE.as_millis() as u64);
    assert!(pair.nodes.iter().all(|node| node.session.keypairs().count() == 0));
    assert!(pair.log.is_empty(), "all in silence");
}

/// Each end sends a keepalive every 15 s, for so long.
fn keep_alive(pair: &mut Pair, span_s: u64) {
    for _ in 0..span_s / 15 {
        pair.send_keepalive(A);
        pair.send_keepalive(B);
        pair.run_ms(15_000);
    }
}

#[test]
fn a_keypair_that_carries_no_packets_is_replaced_after_a_quarter_of_an_hour() {
    let mut pair = Pair::connected(1);
    keep_alive(&mut pair, QUIET_REKEY_AFTER.as_secs() - 30);
    assert!(pair.sent(A, Kind::Init).is_empty() && pair.sent(B, Kind::Init).is_empty());
    assert!(pair.is_connected());
    keep_alive(&mut pair, 60);
    assert_eq!((pair.stats(A).completed, pair.stats(B).inits_accepted), (2, 2));
    assert!(pair.sent(B, Kind::Init).is_empty());
    pair.run_ms(70_000);
    assert!(pair.nodes.iter().all(|node| node.session.keypairs().count() == 1), "the old one is erased");
}

#[test]
fn a_keypair_that_carried_no_packets_ends_a_minute_after_the_last_keepalive() {
    let mut pair = Pair::connected(2);
    keep_alive(&mut pair, 300);
    pair.run_ms((QUIET_SILENCE - Duration::from_secs(16)).as_millis() as u64);
    assert!(pair.is_connected());
    pair.run_ms(2_000);
    assert!(pair.nodes.iter().all(|node| node.session.sending().is_none()));
    pair.run_ms(RECEIVE_GRACE.as_millis() as u64);
    assert!(pair.nodes.iter().all(|node| node.session.keypairs().count() == 0));
}

#[test]
fn an_old_keypair_that_begins_to_carry_packets_is_replaced_at_once() {
    for from in [A, B] {
        let mut pair = Pair::connected(3);
        keep_alive(&mut pair, 600);
        pair.send_data(from);
        pair.run_ms(1_000);
        assert_eq!(pair.stats(A).completed, 2, "from {from}");
        assert_eq!(pair.nodes[1 - from].received.len(), 1);
        // What carried the packet is erased in a minute.
        keep_alive(&mut pair, 75);
        assert!(pair.nodes.iter().all(|node| node.session.keypairs().count() == 1));
        assert_eq!(pair.nodes[A].undeliverable + pair.nodes[B].undeliverable, 0);
    }
}

#[test]
fn an_old_keypair_that_carries_packets_and_cannot_be_replaced_ends_in_a_minute() {
    let mut pair = Pair::connected(4);
    keep_alive(&mut pair, 600);
    pair.link.loss = 1.0;
    pair.send_data(A);
    // The last keepalive came 15 s ago.
    pair.run_ms(44_000);
    assert!(pair.nodes[A].session.sending().is_some());
    pair.run_ms(17_000);
    assert!(pair.nodes[A].session.sending().is_none());
}

#[test]
fn a_young_keypair_that_begins_to_carry_packets_is_replaced_at_120_s() {
    let mut pair = Pair::connected(5);
    keep_alive(&mut pair, 60);
    for second in 60..118 {
        pair.send_data(A);
        pair.run_ms(1_000);
        assert!(pair.sent(A, Kind::Init).is_empty(), "after {second} s");
    }
    for _ in 0..6 {
        pair.send_data(A);
        pair.run_ms(1_000);
    }
    assert_eq!(pair.stats(A).completed, 2);
}

#[test]
fn time_may_jump() {
    for jump_s in [1, 100, 119, 130, 179, 181, 184, 186, 539, 541, 100_000] {
        let mut pair = Pair::connected(8);
        pair.nodes[A].session.renew(pair.now.mono + Duration::from_secs(1000));
        pair.now = pair.now.after(Duration::from_secs(jump_s));
        pair.tick(A);
        pair.tick(B);
        pair.want(A);
        pair.run_ms(100);
        assert!(pair.is_connected(), "after {jump_s} s");
    }
}

#[test]
fn without_a_peer_a_keypair_ends_at_180_s_and_the_session_at_540_s() {
    let mut pair = Pair::connected(4);
    let created = pair.nodes[A].session.keypairs().next().unwrap().created;
    pair.link.loss = 1.0;
    let mut last = None;
    while pair.now.mono.since(created) < Duration::from_secs(600) {
        if pair.nodes[A].session.sending().is_some() {
            pair.send_data(A);
            last = Some(pair.now.mono);
        }
        pair.run_ms(500);
        let age = pair.now.mono.since(created);
        if age > ERASE_AFTER {
            assert_eq!(pair.nodes[A].session.poll_timeout(), None, "nothing is left");
        }
    }
    let last_s = last.unwrap().since(created).as_secs();
    assert!((179..=180).contains(&last_s), "{last_s}");
    assert_eq!(pair.nodes[A].session.keypairs().count(), 0);
    assert_eq!(pair.nodes[A].gave_up, 1);
}

#[test]
fn rekeying_loses_nothing() {
    for seed in 0..2 {
        let mut pair = Pair::connected(seed);
        // Reordering over 60 ms at one datagram in 20 ms around each rekeying; nothing is lost on the way.
        pair.link = Link { loss: 0.0, duplication: 0.1, delay_ms: (5, 65) };
        let mut sent = [BTreeSet::new(), BTreeSet::new()];
        for _ in 0..3 {
            pair.run_ms(100_000);
            for _ in 0..(35 * 50) {
                for from in [A, B] {
                    sent[from].insert(pair.send_data(from).expect("there always is a keypair to send with"));
                }
                pair.run_ms(20);
            }
        }
        pair.run_ms(100);
        assert!(pair.stats(A).completed + pair.stats(B).completed >= 4, "it has rekeyed");
        for from in [A, B] {
            assert_eq!(pair.nodes[1 - from].received, sent[from]);
            assert_eq!(pair.nodes[from].undeliverable, 0);
        }
    }
}

#[test]
fn rekeying_under_loss_never_leaves_a_side_without_keys() {
    for seed in 0..10 {
        let mut pair = Pair::connected(seed);
        pair.link = Link { loss: 0.2, duplication: 0.1, delay_ms: (5, 200) };
        for _ in 0..(1000 * 2) {
            for from in [A, B] {
                pair.send_data(from).expect("there always is a keypair to send with");
            }
            pair.run_ms(500);
        }
        assert_eq!(pair.nodes[A].undeliverable + pair.nodes[B].undeliverable, 0);
    }
}

#[test]
fn renewing_on_both_sides_at_once_loses_nothing() {
    for seed in 0..20 {
        let mut pair = Pair::connected(seed);
        pair.link.delay_ms = (5, 65);
        let mut sent = [BTreeSet::new(), BTreeSet::new()];
        for round in 0..500 {
            if round % 50 == 10 {
                let now = pair.now.mono;
                pair.nodes[A].session.renew(now);
                pair.nodes[B].session.renew(now);
            }
            for from in [A, B] {
                sent[from].insert(pair.send_data(from).expect("there always is a keypair to send with"));
            }
            pair.run_ms(10);
        }
        pair.run_ms(100);
        assert!(pair.stats(A).completed >= 5);
        for from in [A, B] {
            assert_eq!(pair.nodes[1 - from].received, sent[from]);
        }
    }
}

#[test]
fn renewing_at_any_two_moments_loses_nothing() {
    for seed in 0..60 {
        let mut pair = Pair::connected(seed);
        pair.link.delay_ms = (5, 65);
        let mut sent = [BTreeSet::new(), BTreeSet::new()];
        for round in 0..60 {
            let now = pair.now.mono;
            if round == 10 {
                pair.nodes[(seed % 2) as usize].session.renew(now);
            }
            if round == 10 + seed / 4 {
                pair.nodes[1 - (seed % 2) as usize].session.renew(now);
            }
            for from in [A, B] {
                sent[from].insert(pair.send_data(from).expect("there always is a keypair to send with"));
            }
            pair.run_ms(10);
        }
        pair.run_ms(100);
        for from in [A, B] {
            assert_eq!(pair.nodes[1 - from].received, sent[from]);
        }
    }
}

#[test]
fn there_are_never_more_than_four_keypairs_and_a_bounded_number_of_indices() {
    let mut pair = Pair::connected(5);
    pair.link = Link { loss: 0.5, duplication: 0.3, delay_ms: (1, 900) };
    for round in 0..2000u64 {
        if round % 3 == 0 {
            let now = pair.now.mono;
            pair.nodes[(round % 2) as usize].session.renew(now);
        }
        pair.send_data((round % 2) as usize);
        pair.run_ms(300);
        for node in &pair.nodes {
            assert!(node.session.keypairs().count() <= 4);
            assert!(node.handshaker.index_count() <= 5);
        }
    }
}

#[test]
fn a_series_of_attempts_backs_off_with_jitter() {
    let mut pair = Pair::new(6);
    pair.link.loss = 1.0;
    pair.want(A);
    let mut at = vec![pair.now.mono];
    for inits in 2..8 {
        pair.run_until(10, |pair| pair.stats(A).inits_sent == inits);
        at.push(pair.now.mono);
    }
    for (pair, wait_s) in at.windows(2).zip([1, 2, 4, 5, 5, 5]) {
        let wait = pair[1].since(pair[0]);
        let least = Duration::from_secs(wait_s);
        assert!(least <= wait && wait <= least + RETRY_JITTER, "{wait:?}");
    }
}

#[test]
fn inits_of_one_series_differ_and_their_timestamps_grow() {
    let mut pair = Pair::new(7);
    pair.link.loss = 1.0;
    pair.nodes[A].clock_ahead_ms = -1_700_000_000_000;
    pair.want(A);
    pair.run_ms(30_000);
    let mut inits = pair.sent(A, Kind::Init);
    // The first goes out three times as it is.
    inits.dedup();
    assert!(inits.len() >= 6);
    assert_eq!(inits.iter().collect::<BTreeSet<_>>().len(), inits.len());
    let mut last = 0;
    for init in inits {
        let origin = Origin::Relayed(pair.nodes[A].handshaker.member);
        let now = pair.now;
        let InitOutcome::Opened(opened) = pair.nodes[B].handshaker.open_init(now, origin, &init) else {
            continue;
        };
        assert!(opened.payload().timestamp_us > last);
        last = opened.payload().timestamp_us;
    }
    assert!(last > 0);
}
