//! Handshakes between honest nodes over networks of any quality.

use proto::datagram::Kind;
use proto::handshake::{Attachment, INIT_LEN, INIT_MAX_LEN, RESPONSE_LEN, ResponsePayload};
use proto::id::MemberId;
use std::collections::BTreeMap;
use std::time::Duration;

use super::pair::*;
use crate::session::macs::MacKeys;
use crate::session::*;

#[test]
fn an_init_a_response_and_both_have_the_same_keys() {
    let mut pair = Pair::new(1);
    pair.want(A);
    assert!(pair.nodes[A].session.is_initiating());
    pair.run_ms(100);
    assert!(pair.is_connected());
    assert_eq!(pair.sent(A, Kind::Init).iter().map(Vec::len).collect::<Vec<_>>(), [INIT_LEN]);
    assert_eq!(pair.sent(B, Kind::Response).iter().map(Vec::len).collect::<Vec<_>>(), [RESPONSE_LEN]);
    for from in [A, B] {
        let number = pair.send_data(from).unwrap();
        pair.run_ms(20);
        assert!(pair.nodes[1 - from].received.contains(&number));
    }
    let keypair = pair.nodes[A].session.sending().unwrap();
    let other = pair.nodes[B].session.sending().unwrap();
    assert_eq!((keypair.is_initiator, other.is_initiator), (true, false));
    assert_eq!(keypair.suite, other.suite);
    assert_eq!((pair.stats(A).dh_operations, pair.stats(B).dh_operations), (4, 4));
    assert_eq!((pair.stats(A).completed, pair.stats(B).inits_accepted), (1, 1));
}

#[test]
fn the_responder_sends_nothing_before_the_initiators_first_datagram() {
    let mut pair = Pair::new(2);
    pair.want(A);
    pair.run_ms(10);
    assert_eq!(pair.nodes[B].session.keypairs().count(), 1);
    assert!(pair.nodes[B].session.sending().is_none());
    assert_eq!(pair.send_data(B), None);
    pair.run_ms(10);
    assert!(pair.nodes[A].session.sending().is_some() && pair.nodes[B].session.sending().is_none());
    pair.run_ms(10);
    assert!(pair.nodes[B].session.sending().is_some());
    assert_eq!(pair.stats(B).inits_sent, 0, "wanting keys while they are about to be proven begins nothing");
}

#[test]
fn a_responder_whose_initiator_vanishes_begins_itself() {
    let mut pair = Pair::new(3);
    pair.want(A);
    pair.run_ms(10);
    pair.send_data(B);
    // The response is lost, and the initiator with it.
    pair.flights.clear();
    restart(&mut pair, A);
    pair.run_until(8, Pair::is_connected);
    assert!(pair.stats(B).inits_sent >= 1);
}

#[test]
fn an_init_over_several_paths_makes_one_session() {
    let mut pair = Pair::new(4);
    pair.want(A);
    let init = pair.sent(A, Kind::Init)[0].clone();
    for _ in 0..3 {
        pair.send(A, init.clone());
    }
    pair.run_ms(10);
    let relayed = Origin::Relayed(pair.nodes[A].handshaker.member);
    pair.deliver_init(B, relayed, &init);
    let answers = pair.sent(B, Kind::Response);
    assert_eq!(answers.len(), 5);
    assert!(answers.iter().all(|answer| *answer == answers[0]));
    assert_eq!((pair.stats(B).inits_accepted, pair.stats(B).duplicates), (1, 4));
    assert_eq!(pair.stats(B).dh_operations, 4, "duplicates cost none");
    pair.run_ms(100);
    assert!(pair.is_connected());
    assert_eq!((pair.stats(A).completed, pair.stats(A).dropped(DropReason::UnknownIndex)), (1, 4));
}

#[test]
fn an_init_that_begins_as_another_one_is_no_duplicate_of_it() {
    let mut pair = Pair::new(4);
    pair.want(A);
    let init = pair.sent(A, Kind::Init)[0].clone();
    let origin = Origin::Direct(pair.nodes[A].address);
    pair.deliver_init(B, origin, &init);
    let mut other = init.clone();
    let middle = other.len() / 2;
    other[middle] ^= 1;
    let key = pair.nodes[A].session.remote().key;
    MacKeys::new(&key, &GateKey::new([0x47; 32])).seal(&mut other, None);
    let now = pair.now;
    let outcome = pair.nodes[B].handshaker.open_init(now, origin, &other);
    assert!(matches!(outcome, InitOutcome::Drop(DropReason::Noise)));
    let again = pair.nodes[B].handshaker.open_init(now, origin, &init);
    assert!(matches!(again, InitOutcome::Duplicate(_)));
}

#[test]
fn what_was_seen_of_a_member_makes_room_for_another_one_only_when_there_is_none() {
    let mut pair = Pair::new(4);
    let handshaker = &mut pair.nodes[A].handshaker;
    let member = |n: usize| MemberId((n as u128).to_be_bytes());
    for n in 0..MAX_FLOORS {
        handshaker.keep_floor(member(n), 1000 + n as u64);
    }
    assert_eq!(handshaker.floors().count(), MAX_FLOORS);
    // A newer timestamp of one that is there, and an older one.
    handshaker.keep_floor(member(0), 9000);
    handshaker.keep_floor(member(0), 5);
    assert_eq!(handshaker.floors().count(), MAX_FLOORS);
    // One more: whose newest is the oldest goes.
    handshaker.keep_floor(member(MAX_FLOORS), 7);
    let floors: BTreeMap<MemberId, u64> = handshaker.floors().collect();
    assert_eq!(floors.len(), MAX_FLOORS);
    assert_eq!((floors.get(&member(0)), floors.get(&member(1))), (Some(&9000), None));
    assert_eq!(floors.get(&member(MAX_FLOORS)), Some(&7));
}

#[test]
fn attachments_travel_and_their_length_is_limited() {
    let mut pair = Pair::new(5);
    let now = pair.now;
    let node = &mut pair.nodes[A];
    let certificate = vec![1; 900];
    node.session.initiate(now, &mut node.handshaker, &[Attachment::Certificate(&certificate)]).unwrap();
    let init = node.session.pending_init(now, None).unwrap();
    assert!(init.len() > 900 && init.len() <= INIT_MAX_LEN);
    let too_long = vec![1; 1100];
    let refused = node.session.initiate(now, &mut node.handshaker, &[Attachment::Certificate(&too_long)]);
    assert_eq!(refused, Err(proto::Error::TooLong("init")));
    assert_eq!(node.session.pending_init(now, None).as_ref(), Some(&init), "the one under way stays");
    let origin = Origin::Direct(pair.nodes[A].address);
    let InitOutcome::Opened(opened) = pair.nodes[B].handshaker.open_init(now, origin, &init) else {
        panic!("it opens")
    };
    assert_eq!(opened.payload().attachments, [Attachment::Certificate(&certificate)]);
}

#[test]
fn what_nodes_tell_about_themselves_arrives() {
    let advert = |bundle_version| Advert {
        bundle_version,
        revocations: [bundle_version as u8; 8],
        ..Advert::default()
    };
    let mut pair = Pair::with(6, |node, config| config.advert = advert(node as u32 + 5));
    pair.want(A);
    let init = pair.sent(A, Kind::Init)[0].clone();
    let origin = Origin::Direct(pair.nodes[A].address);
    let now = pair.now;
    let InitOutcome::Opened(opened) = pair.nodes[B].handshaker.open_init(now, origin, &init) else {
        panic!("it opens")
    };
    let payload = opened.payload();
    assert_eq!((payload.bundle_version, payload.revocations), (5, [5; 8]));
    pair.run_ms(10);
    let response = pair.sent(B, Kind::Response)[0].clone();
    match pair.deliver_response(A, &response) {
        Some(ResponseOutcome::Established {
            payload: ResponsePayload::Accepted { bundle_version, revocations, .. },
            ..
        }) => assert_eq!((bundle_version, revocations), (6, [6; 8])),
        other => panic!("{other:?}"),
    }
}

#[test]
fn any_loss_reordering_and_duplication_ends_in_a_session() {
    for seed in 0..60 {
        let mut pair = Pair::new(seed);
        pair.link = Link { loss: 0.3, duplication: 0.3, delay_ms: (1, 900) };
        let wanting: &[usize] = [&[A][..], &[B], &[A, B]][seed as usize % 3];
        for node in wanting {
            pair.want(*node);
        }
        connect_by_traffic(&mut pair, 85);
        // What each sends with is known to the other.
        for from in [A, B] {
            pair.link = Link { loss: 0.0, duplication: 0.0, delay_ms: (1, 1) };
            let number = pair.send_data(from).unwrap();
            pair.run_ms(1);
            assert!(pair.nodes[1 - from].received.contains(&number));
        }
    }
}

#[test]
fn simultaneous_initiation_makes_one_session_whoever_is_first() {
    for (seed, first) in [(1, A), (2, B)] {
        let mut pair = Pair::new(seed);
        pair.want(first);
        pair.run_ms(3);
        pair.want(1 - first);
        pair.run_ms(500);
        assert!(pair.is_connected());
        assert!(pair.nodes[A].session.sending().unwrap().is_initiator, "the smaller member id initiates");
        assert_eq!((pair.stats(A).completed, pair.stats(B).completed), (1, 0));
        assert_eq!(pair.stats(A).dropped(DropReason::TieBreak), 1);
        assert_eq!((pair.stats(A).inits_sent, pair.stats(B).inits_sent), (1, 1), "no restart");
        pair.run_ms(30_000);
        assert_eq!((pair.stats(A).inits_sent, pair.stats(B).inits_sent), (1, 1), "nor later");
    }
}

#[test]
fn simultaneous_inits_over_several_paths_are_not_challenged() {
    let mut pair = Pair::new(3);
    pair.want(A);
    pair.want(B);
    for (from, init) in pair.log.clone() {
        pair.send(from, init.clone());
        pair.send(from, init);
    }
    pair.run_ms(500);
    assert!(pair.is_connected());
    assert_eq!((pair.stats(A).inits_sent, pair.stats(B).inits_sent), (1, 1));
    assert_eq!((pair.stats(A).challenges_sent, pair.stats(B).challenges_sent), (0, 0));
    assert_eq!(pair.stats(A).dropped(DropReason::TieBreak), 3);
    assert_eq!(pair.stats(A).dh_operations, 6, "two for the peer's init, once");
}

#[test]
fn recorded_inits_do_not_keep_a_restarted_node_from_its_peers() {
    let mut pair = Pair::connected(4);
    let mut recorded = Vec::new();
    for _ in 0..20 {
        pair.nodes[A].session.renew(pair.now.mono);
        pair.run_ms(100);
        recorded.extend(pair.sent(A, Kind::Init));
        pair.log.clear();
    }
    restart(&mut pair, B);
    pair.want(B);
    // Somebody plays them back, one every 20 ms, while nothing of the first node's own gets through.
    for init in &recorded {
        pair.deliver(B, init);
        pair.run_ms(20);
    }
    assert!(pair.is_connected());
    assert!(pair.nodes[B].session.sending().unwrap().is_initiator);
    // And when keys are wanted while one of them is unproven, the wait is short.
    restart(&mut pair, B);
    pair.deliver(B, &recorded[0]);
    pair.want(B);
    pair.deliver(B, &recorded[1]);
    pair.run_ms(CONFIRM_TIMEOUT.as_millis() as u64 + 50);
    assert!(pair.nodes[B].session.sending().is_some_and(|keypair| keypair.is_initiator));
}

#[test]
fn a_session_made_anew_does_not_accept_the_inits_of_the_last() {
    let mut pair = Pair::new(5);
    pair.want(A);
    pair.run_ms(100);
    let init = pair.sent(A, Kind::Init)[0].clone();
    let node = &mut pair.nodes[B];
    let fresh = Session::new(node.session.member(), node.session.remote().clone());
    std::mem::replace(&mut node.session, fresh).close(&mut node.handshaker);
    pair.deliver(B, &init);
    assert_eq!((pair.stats(B).inits_accepted, pair.stats(B).challenges_sent), (1, 1));
}

#[test]
fn simultaneous_initiation_with_loss_settles() {
    for seed in 100..140 {
        let mut pair = Pair::new(seed);
        pair.link = Link { loss: 0.4, duplication: 0.1, delay_ms: (1, 300) };
        pair.want(A);
        pair.want(B);
        connect_by_traffic(&mut pair, 85);
        let before = pair.stats(A).completed + pair.stats(B).completed;
        pair.link.loss = 0.0;
        pair.run_ms(60_000);
        let after = pair.stats(A).completed + pair.stats(B).completed;
        assert!(after - before <= 1, "no restart loop: {before} then {after}");
    }
}

#[test]
fn who_goes_first_gives_way_when_its_own_inits_are_not_heard() {
    let mut pair = Pair::new(7);
    pair.want(A);
    pair.want(B);
    let deadline = pair.now.mono + TIE_PATIENCE + Duration::from_secs(6);
    while !pair.is_connected() {
        // Nothing of the first node's inits gets through; everything else does.
        pair.flights.retain(|flight| flight.to == A || Kind::of(&flight.datagram) != Some(Kind::Init));
        pair.run_ms(5);
        assert!(pair.now.mono < deadline);
    }
    assert!(pair.nodes[B].session.sending().unwrap().is_initiator);
}

#[test]
fn a_replayed_init_gets_a_challenge_and_no_keys() {
    let mut pair = Pair::connected(8);
    pair.want(A);
    pair.nodes[A].session.renew(pair.now.mono);
    pair.tick(A);
    let init = pair.sent(A, Kind::Init)[0].clone();
    pair.run_ms(60_000);
    let before = (pair.state_of(A), pair.state_of(B));
    pair.log.clear();
    pair.deliver(B, &init);
    assert_eq!(pair.stats(B).challenges_sent, 1);
    let answer = pair.sent(B, Kind::Response)[0].clone();
    pair.deliver(B, &init);
    assert_eq!(pair.sent(B, Kind::Response)[1], answer, "again the same");
    assert_eq!(pair.stats(B).dh_operations, 12);
    pair.run_ms(20);
    assert!(before == (pair.state_of(A), pair.state_of(B)));
}

#[test]
fn a_clock_set_back_costs_one_challenge() {
    let mut pair = Pair::connected(9);
    restart(&mut pair, A);
    pair.nodes[A].clock_ahead_ms = -3_600_000;
    pair.want(A);
    pair.run_ms(45);
    assert!(pair.is_connected(), "after two round trips");
    assert_eq!((pair.stats(B).challenges_sent, pair.stats(A).challenges_received), (1, 1));
    // Nor is it challenged again.
    pair.nodes[A].session.renew(pair.now.mono);
    pair.run_ms(100);
    assert_eq!((pair.stats(B).challenges_sent, pair.stats(A).completed), (1, 2));
}

#[test]
fn a_clock_in_the_far_future_does_not_kill_a_key() {
    for years in [10, 1000, 1_000_000] {
        let mut pair = Pair::new(10);
        pair.nodes[A].clock_ahead_ms = years * 365 * 86_400_000;
        pair.want(A);
        pair.run_ms(100);
        assert!(pair.is_connected(), "{years} years ahead");
        restart(&mut pair, A);
        pair.nodes[A].clock_ahead_ms = 0;
        pair.want(A);
        pair.run_ms(100);
        assert_eq!(pair.stats(A).completed, 1, "{years} years ahead, then right");
    }
}

#[test]
fn a_persisted_timestamp_spares_the_challenge() {
    let mut pair = Pair::connected(11);
    let last = pair.nodes[A].handshaker.last_timestamp_us();
    let mut config = config(1, only(pair.nodes[A].handshaker.current_epoch().clone()));
    config.last_timestamp_us = last;
    replace(&mut pair, A, config);
    pair.nodes[A].clock_ahead_ms = -3_600_000;
    pair.want(A);
    pair.run_ms(50);
    assert_eq!((pair.stats(A).completed, pair.stats(B).challenges_sent), (1, 0));
}

#[test]
fn a_restored_floor_refuses_inits_from_before_a_restart() {
    let mut pair = Pair::connected(12);
    pair.nodes[A].session.renew(pair.now.mono);
    pair.tick(A);
    let init = pair.sent(A, Kind::Init)[0].clone();
    pair.run_ms(100);
    let seen = pair.nodes[B].session.seen_us();
    restart(&mut pair, B);
    pair.nodes[B].session.restore_seen(seen);
    pair.deliver(B, &init);
    assert_eq!((pair.stats(B).inits_accepted, pair.stats(B).challenges_sent), (0, 1));
}

#[test]
fn a_restarted_peer_is_back_after_one_round_trip() {
    for node in [A, B] {
        let mut pair = Pair::connected(13);
        restart(&mut pair, node);
        pair.want(node);
        pair.run_ms(40);
        assert!(pair.is_connected());
        for from in [A, B] {
            let number = pair.send_data(from).unwrap();
            pair.run_ms(10);
            assert!(pair.nodes[1 - from].received.contains(&number));
        }
    }
}

#[test]
fn an_unanswered_handshake_is_given_up_and_may_be_wanted_again() {
    let mut pair = Pair::new(14);
    pair.link.loss = 1.0;
    pair.want(A);
    pair.run_ms(100_000);
    assert_eq!(pair.nodes[A].gave_up, 1);
    assert_eq!(pair.nodes[A].session.poll_timeout(), None);
    assert!(!pair.nodes[A].session.is_initiating());
    let sent = pair.stats(A).inits_sent;
    assert!((18..=20).contains(&sent), "{sent}");
    pair.link.loss = 0.0;
    pair.want(A);
    pair.run_ms(40);
    assert!(pair.is_connected());
}

#[test]
fn closing_gives_everything_back() {
    let mut pair = Pair::connected(15);
    pair.nodes[A].session.renew(pair.now.mono);
    pair.tick(A);
    let mut indices: Vec<_> = pair.nodes[A].session.keypairs().map(|keypair| keypair.local_index).collect();
    let init = pair.sent(A, Kind::Init)[0].clone();
    indices.push(proto::handshake::Init::parse(&init).unwrap().sender);
    let remote = pair.nodes[A].session.remote().clone();
    let fresh = Session::new(pair.nodes[A].session.member(), remote);
    let session = std::mem::replace(&mut pair.nodes[A].session, fresh);
    assert!(indices.iter().all(|index| pair.nodes[A].handshaker.owner(*index).is_some()));
    session.close(&mut pair.nodes[A].handshaker);
    assert!(indices.iter().all(|index| pair.nodes[A].handshaker.owner(*index).is_none()));
}

#[test]
fn two_runs_with_one_seed_are_equal() {
    let run = || {
        let mut pair = Pair::new(99);
        pair.link = Link { loss: 0.2, duplication: 0.2, delay_ms: (1, 500) };
        pair.want(A);
        pair.want(B);
        pair.run_ms(400_000);
        pair.log.clone()
    };
    assert_eq!(run(), run());
}

/// Restarts a node: it keeps its key epoch and what it knows, and has no sessions.
pub(super) fn restart(pair: &mut Pair, node: usize) {
    let config = config(node as u8 + 1, only(pair.nodes[node].handshaker.current_epoch().clone()));
    replace(pair, node, config);
}

fn replace(pair: &mut Pair, node: usize, config: HandshakerConfig) {
    use rand::{RngExt, SeedableRng};
    let rng = rand::rngs::StdRng::seed_from_u64(pair.rng.random());
    let remote = pair.nodes[node].session.remote().clone();
    let now = pair.now;
    let node = &mut pair.nodes[node];
    node.handshaker = Handshaker::new(config, now, rng).unwrap();
    node.session = Session::new(node.session.member(), remote);
}

/// Runs until both can send. Who can, sends now and then: the first datagram of an initiator may be lost too.
fn connect_by_traffic(pair: &mut Pair, limit_s: u64) {
    let deadline = pair.now.mono + Duration::from_secs(limit_s);
    while !pair.is_connected() {
        assert!(pair.now.mono < deadline, "not connected within {limit_s} s");
        for node in [A, B] {
            if pair.nodes[node].session.sending().is_some() {
                pair.send_data(node);
            }
        }
        pair.run_ms(500);
    }
}
