//! Several transport keys at once: rotation, late peers, and what the handshake binds.

use proto::datagram::Kind;
use proto::id::KeyEpochNumber;
use proto::key_epoch::Capabilities;
use rand::SeedableRng;
use rand::rngs::StdRng;

use super::pair::*;
use crate::crypto::Suite;
use crate::session::*;

/// A second epoch for `node`.
fn newer(seed: u64) -> LocalEpoch {
    epoch(&mut StdRng::seed_from_u64(seed), 2)
}

fn current(pair: &Pair, node: usize) -> LocalEpoch {
    pair.nodes[node].handshaker.current_epoch().clone()
}

fn set(pair: &mut Pair, node: usize, epochs: LocalEpochs) {
    pair.nodes[node].handshaker.set_epochs(epochs).unwrap();
}

fn learn(pair: &mut Pair, node: usize, epoch: &LocalEpoch) {
    pair.nodes[node].known.insert(epoch.number, remote_of(epoch));
}

fn epochs_in_use(pair: &Pair) -> (KeyEpochNumber, KeyEpochNumber) {
    let keypair = pair.nodes[A].session.sending().unwrap();
    (keypair.local_epoch, keypair.remote_epoch)
}

#[test]
fn current_next_and_previous_epochs_are_all_accepted() {
    for place in 0..3 {
        let mut pair = Pair::new(1);
        let (used, other, third) = (current(&pair, B), newer(7), epoch(&mut StdRng::seed_from_u64(8), 3));
        let epochs = match place {
            0 => LocalEpochs { next: Some(other), previous: Some(third), ..only(used) },
            1 => LocalEpochs { next: Some(used), previous: Some(third), ..only(other) },
            _ => LocalEpochs { next: Some(third), previous: Some(used), ..only(other) },
        };
        set(&mut pair, B, epochs);
        pair.want(A);
        pair.run_ms(40);
        assert!(pair.is_connected());
        assert_eq!(epochs_in_use(&pair), (KeyEpochNumber(1), KeyEpochNumber(1)));
    }
}

#[test]
fn a_rotation_with_overlap_loses_nothing() {
    let mut pair = Pair::connected(2);
    let (old, new) = (current(&pair, B), newer(7));
    let mut sent = std::collections::BTreeSet::new();
    for round in 0..300 {
        match round {
            50 => set(&mut pair, B, LocalEpochs { next: Some(new.clone()), ..only(old.clone()) }),
            100 => {
                learn(&mut pair, A, &new);
                let now = pair.now;
                let node = &mut pair.nodes[A];
                node.session.set_remote(now, &mut node.handshaker, remote_of(&new));
                set(&mut pair, B, LocalEpochs { previous: Some(old.clone()), ..only(new.clone()) });
                pair.nodes[B].session.renew(now.mono);
            }
            200 => set(&mut pair, B, LocalEpochs { retired: vec![old.secret.public()], ..only(new.clone()) }),
            _ => {}
        }
        sent.insert(pair.send_data(A).unwrap());
        sent.insert(pair.send_data(B).unwrap());
        pair.run_ms(10);
    }
    pair.run_ms(50);
    assert_eq!(epochs_in_use(&pair), (KeyEpochNumber(1), KeyEpochNumber(2)));
    let received: std::collections::BTreeSet<u64> =
        pair.nodes.iter().flat_map(|node| node.received.iter().copied()).collect();
    assert_eq!(received, sent);
}

#[test]
fn a_late_peer_gets_the_newer_key_and_uses_it_at_once() {
    let mut pair = Pair::new(3);
    let (old, new) = (current(&pair, B), newer(7));
    set(&mut pair, B, LocalEpochs { retired: vec![old.secret.public()], ..only(new.clone()) });
    pair.want(A);
    learn(&mut pair, A, &new);
    pair.run_ms(70);
    assert!(pair.is_connected());
    assert_eq!(epochs_in_use(&pair), (KeyEpochNumber(1), KeyEpochNumber(2)));
    let answers = pair.sent(B, Kind::StaleKey);
    assert_eq!(answers.len(), 1);
    assert!(answers[0].len() <= proto::stale::STALE_KEY_MAX_LEN);
    assert_eq!((pair.stats(B).stale_keys_sent, pair.stats(A).stale_keys_received), (1, 1));
}

/// An initiator whose init was to a key that is not accepted any more, and what it is answered, which it has not seen yet.
fn stale_answer() -> (Pair, Vec<u8>) {
    let mut pair = Pair::new(4);
    let (old, new) = (current(&pair, B), newer(7));
    set(&mut pair, B, LocalEpochs { retired: vec![old.secret.public()], ..only(new) });
    pair.want(A);
    pair.run_ms(15);
    let answer = pair.sent(B, Kind::StaleKey)[0].clone();
    pair.flights.clear();
    (pair, answer)
}

#[test]
fn a_stale_key_answer_must_fit_the_init_and_come_from_a_member() {
    let (mut pair, answer) = stale_answer();
    let before = pair.state_of(A);
    for at in 4..answer.len() {
        let mut forged = answer.clone();
        forged[at] ^= 1;
        let node = &mut pair.nodes[A];
        assert!(node.session.handle_stale_key(&mut node.handshaker, &forged).is_err(), "byte {at}");
    }
    assert!(before == pair.state_of(A));
    let node = &mut pair.nodes[A];
    assert_eq!(node.session.handle_stale_key(&mut node.handshaker, &answer), Ok(&[0x77; 150][..]));
}

#[test]
fn stale_key_answers_are_limited_per_address() {
    let mut pair = Pair::new(5);
    let (old, new) = (current(&pair, B), newer(7));
    set(&mut pair, B, LocalEpochs { retired: vec![old.secret.public()], ..only(new) });
    pair.want(A);
    let init = pair.sent(A, Kind::Init)[0].clone();
    for _ in 0..100 {
        pair.deliver(B, &init);
    }
    assert_eq!(pair.stats(B).stale_keys_sent, HANDSHAKE_BURST);
    assert_eq!(pair.stats(B).dh_operations, 0);
}

#[test]
fn a_key_that_was_never_ours_is_met_with_silence() {
    let mut pair = Pair::new(6);
    set(&mut pair, B, only(newer(7)));
    pair.want(A);
    pair.run_ms(10);
    assert_eq!((pair.log.len(), pair.stats(B).dropped(DropReason::Mac1)), (1, 1));
}

#[test]
fn an_epoch_of_other_content_does_not_open() {
    // The responder's: the same key and number, but other capabilities were signed. (Prologue.)
    let mut pair = Pair::new(7);
    let other = LocalEpoch { hash: EpochHash([9; 32]), ..current(&pair, B) };
    set(&mut pair, B, only(other));
    pair.want(A);
    pair.run_ms(40);
    assert!(!pair.is_connected());
    assert_eq!(pair.stats(B).dropped(DropReason::Noise), 1);

    // The initiator's. (Pre-shared key of message 2: it is the response that does not open.)
    let mut pair = Pair::new(7);
    let other = LocalEpoch { hash: EpochHash([9; 32]), ..current(&pair, A) };
    set(&mut pair, A, only(other));
    pair.want(A);
    pair.run_ms(40);
    assert!(!pair.is_connected());
    assert_eq!(pair.stats(A).dropped(DropReason::Noise), 1);
}

#[test]
fn an_epoch_number_that_does_not_go_with_the_key_is_refused() {
    let mut pair = Pair::new(8);
    let other = LocalEpoch { number: KeyEpochNumber(5), ..current(&pair, B) };
    set(&mut pair, B, only(other));
    pair.want(A);
    pair.run_ms(40);
    assert_eq!(pair.stats(B).dropped(DropReason::Epoch), 1);

    let mut pair = Pair::new(8);
    let other = LocalEpoch { number: KeyEpochNumber(5), ..current(&pair, A) };
    set(&mut pair, A, only(other));
    pair.want(A);
    pair.run_ms(40);
    assert_eq!(pair.stats(B).dropped(DropReason::Epoch), 1);
    assert!(!pair.is_connected());
}

#[test]
fn the_suite_follows_from_both_epochs() {
    let aes = |epoch: LocalEpoch, on: bool| LocalEpoch {
        capabilities: if on { Suite::local_capabilities() } else { Capabilities(0) },
        ..epoch
    };
    for (a, b) in [(true, true), (true, false), (false, true), (false, false)] {
        let mut pair = Pair::new(9);
        let (epoch_a, epoch_b) = (aes(current(&pair, A), a), aes(current(&pair, B), b));
        set(&mut pair, A, only(epoch_a.clone()));
        set(&mut pair, B, only(epoch_b.clone()));
        pair.nodes[B].known = [(epoch_a.number, remote_of(&epoch_a))].into();
        let now = pair.now;
        let node = &mut pair.nodes[A];
        node.session.set_remote(now, &mut node.handshaker, remote_of(&epoch_b));
        pair.want(A);
        pair.run_ms(40);
        let suites = [A, B].map(|node| pair.nodes[node].session.sending().unwrap().suite);
        let expected = match a && b {
            true => Suite::choose(Suite::local_capabilities(), Suite::local_capabilities()),
            false => Suite::ChaCha20Poly1305,
        };
        assert_eq!(suites, [expected; 2]);
    }
}

#[test]
#[cfg(not(feature = "ring"))]
fn an_epoch_that_promises_aes_is_refused_by_a_build_without() {
    let pair = Pair::new(10);
    let promised = LocalEpoch { capabilities: Capabilities::AES_GCM, ..current(&pair, A) };
    let refused = Handshaker::new(config(1, only(promised)), pair.now, StdRng::seed_from_u64(1));
    assert_eq!(refused.err(), Some(UnsupportedEpoch(KeyEpochNumber(1))));
}

#[test]
fn a_response_after_our_own_rotation_still_completes() {
    let mut pair = Pair::new(11);
    pair.want(A);
    pair.run_ms(5);
    set(&mut pair, A, only(newer(7)));
    pair.run_ms(40);
    assert!(pair.is_connected());
    assert_eq!(epochs_in_use(&pair), (KeyEpochNumber(1), KeyEpochNumber(1)));
}

/// What the second node answers to an init of the first, if it has seen this timestamp of it and takes the init for one to
/// this epoch.
pub(super) fn answer(pair: &mut Pair, seen_us: u64, asked: KeyEpochNumber) -> Accepted {
    pair.want(A);
    let init = pair.sent(A, Kind::Init).last().unwrap().clone();
    let (now, asker) = (pair.now, pair.nodes[A].handshaker.member);
    let origin = Origin::Direct(pair.nodes[A].address);
    let remote = remote_of(&current(pair, A));
    let node = &mut pair.nodes[B];
    node.handshaker.keep_floor(asker, seen_us);
    let InitOutcome::Opened(mut opened) = node.handshaker.open_init(now, origin, &init) else {
        panic!("it opens")
    };
    opened.local_epoch = asked;
    node.session.accept_init(now, &mut node.handshaker, *opened, &remote)
}

/// A responder can only be asked for the epoch that its key is of. One that answers for another all the same, be it with a
/// session or with a challenge, has made a mistake or lies.
#[test]
fn an_answer_for_another_epoch_than_was_asked_makes_no_session() {
    for seen_us in [0, TIMESTAMP_LIMIT_US - 1] {
        let mut pair = Pair::new(9);
        let (old, new) = (current(&pair, B), newer(7));
        set(&mut pair, B, LocalEpochs { next: Some(new), ..only(old) });
        let answer = match answer(&mut pair, seen_us, KeyEpochNumber(2)) {
            Accepted::Response(answer) if seen_us == 0 => answer,
            Accepted::Challenge(answer) if seen_us > 0 => answer,
            _ => panic!("it is answered"),
        };
        let outcome = pair.deliver_response(A, &answer);
        assert!(matches!(outcome, Some(ResponseOutcome::Drop(DropReason::Epoch))), "{seen_us}");
        assert!(pair.nodes[A].session.sending().is_none());
    }
}

#[test]
fn a_stale_key_answer_to_an_init_of_before_is_dropped() {
    let (mut pair, answer) = stale_answer();
    let node = &mut pair.nodes[A];
    assert!(node.session.handle_stale_key(&mut node.handshaker, &answer).is_ok());
    let mut other = Session::new(node.session.member(), node.session.remote().clone());
    let dropped = other.handle_stale_key(&mut node.handshaker, &answer);
    assert_eq!(dropped, Err(DropReason::UnknownIndex));
}
