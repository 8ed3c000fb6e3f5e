//! Sessions that a quantum computer does not open: how they come about, stay, and cannot be prevented.

use std::collections::BTreeSet;

use proto::datagram::Kind;
use proto::handshake::{Init, InitPayload, Response};
use proto::id::{KeyEpochNumber, SecretId};
use proto::key_epoch::Capabilities;
use rand::SeedableRng;
use rand::rngs::StdRng;

use super::pair::*;
use crate::crypto::{MAC_LEN, Secret, TransportSecret};
use crate::session::handshaker::{prologue, psk2};
use crate::session::macs::MacKeys;
use crate::session::noise::{DhMeter, Local, Noise, PSK2};
use crate::session::*;

/// Two nodes of which those in `which` want hybrid sessions.
fn pair_of(seed: u64, which: [bool; 2]) -> Pair {
    Pair::with(seed, |node, config| {
        if which[node] {
            config.advert.capabilities = Capabilities::HYBRID;
        }
    })
}

fn both_hybrid(pair: &Pair) -> bool {
    pair.nodes.iter().all(|node| node.session.is_hybrid())
}

fn connected(seed: u64) -> Pair {
    let mut pair = pair_of(seed, [true, true]);
    pair.want(A);
    pair.run_ms(200);
    assert!(both_hybrid(&pair));
    assert!(pair.nodes.iter().all(|node| node.session.sending().unwrap().exchanges()));
    pair
}

/// Handshakes that came to an end, and how many of them were hybrid.
fn handshakes(pair: &Pair) -> (u64, u64) {
    let stats = [pair.stats(A), pair.stats(B)];
    // Each hybrid handshake is counted at both ends.
    (stats.iter().map(|stats| stats.completed).sum(), stats[A].hybrid.min(stats[B].hybrid))
}

#[test]
fn the_first_session_is_replaced_by_a_hybrid_one_without_the_loss_of_a_datagram() {
    for first in [A, B] {
        let mut pair = pair_of(1, [true, true]);
        pair.want(first);
        pair.run_ms(31);
        assert!(pair.is_connected() && !both_hybrid(&pair), "the first one is not");
        let mut sent = [0, 0];
        for _ in 0..500 {
            for from in [A, B] {
                sent[from] += u64::from(pair.send_data(from).is_some());
            }
            pair.run_ms(1);
        }
        pair.run_ms(100);
        assert!(both_hybrid(&pair));
        assert_eq!(handshakes(&pair), (2, 1));
        assert_eq!(sent, [500, 500]);
        let received = [A, B].map(|node| pair.nodes[node].received.len());
        assert_eq!((received, pair.nodes[A].undeliverable, pair.nodes[B].undeliverable), ([500, 500], 0, 0));
    }
}

#[test]
fn it_takes_both() {
    for which in [[true, false], [false, true], [false, false]] {
        let mut pair = pair_of(2, which);
        pair.want(A);
        for _ in 0..300 {
            pair.send_data(A);
            pair.send_data(B);
            pair.run_ms(1000);
        }
        let (all, hybrid) = handshakes(&pair);
        assert_eq!((all, hybrid), (3, 0), "{which:?}");
        assert!(pair.nodes.iter().all(|node| !node.session.sending().unwrap().exchanges()));
        assert_eq!(pair.stats(A).kem_keys_sent + pair.stats(B).kem_keys_sent, 0);
    }
}

#[test]
fn every_later_session_is_hybrid_and_of_an_exchange_of_its_own() {
    let mut pair = connected(3);
    let mut fresh = BTreeSet::new();
    for _ in 0..1000 {
        pair.send_data(A);
        pair.send_data(B);
        pair.run_ms(1000);
        assert!(both_hybrid(&pair));
        let session = &pair.nodes[A].session;
        fresh.extend(session.slots.iter().filter_map(|keypair| Some(keypair.exchange.as_ref()?.fresh()?.id)));
    }
    let (all, hybrid) = handshakes(&pair);
    assert!(all >= 9, "{all}");
    assert_eq!((hybrid, fresh.len() as u64), (all - 1, all));
    assert_eq!(pair.stats(A).kem_keys_sent, all);
}

#[test]
fn loss_repetition_and_disorder_only_delay_it() {
    for seed in 0..20 {
        let mut pair = pair_of(100 + seed, [true, true]);
        pair.link = Link { loss: 0.25, duplication: 0.25, delay_ms: (1, 200) };
        pair.want(A);
        if seed % 2 == 0 {
            pair.want(B);
        }
        pair.run_until(60, both_hybrid);
        for _ in 0..300 {
            pair.send_data(A);
            pair.send_data(B);
            pair.run_ms(1000);
        }
        assert!(both_hybrid(&pair));
        let (all, _) = handshakes(&pair);
        assert!(all <= 12, "{all} handshakes in 300 s");
    }
}

#[test]
fn two_that_begin_at_once_come_to_rest() {
    let mut pair = pair_of(4, [true, true]);
    pair.want(A);
    pair.want(B);
    pair.run_ms(5000);
    assert!(both_hybrid(&pair));
    let (all, _) = handshakes(&pair);
    assert!(all <= 4, "{all}");
    let before = pair.log.len();
    pair.run_ms(100_000);
    assert_eq!(pair.log.len(), before, "nothing is left to do");
}

#[test]
fn who_drops_the_exchange_brings_about_no_session_without() {
    let mut pair = connected(5);
    pair.run_ms(1000);
    // Long datagrams do not pass any more, but inits, responses, and data do.
    pair.longest = 300;
    for _ in 0..600 {
        pair.send_data(A);
        pair.send_data(B);
        pair.run_ms(1000);
        assert!(both_hybrid(&pair));
    }
    let (all, hybrid) = handshakes(&pair);
    assert!(all >= 5 && hybrid == all - 1, "{hybrid} of {all}");
    // From the start on, it does: there is nothing that the two could have in common.
    let mut pair = pair_of(5, [true, true]);
    pair.longest = 300;
    pair.want(A);
    pair.run_ms(200_000);
    assert_eq!(handshakes(&pair).1, 0);
    assert!(pair.stats(A).kem_keys_sent < 12, "{}", pair.stats(A).kem_keys_sent);
}

#[test]
fn who_has_lost_its_memory_is_made_hybrid_again() {
    let mut pair = connected(6);
    let restarted = pair_of(60, [true, true]);
    // B starts anew with the key that it has on its disk.
    let epoch = pair.nodes[B].handshaker.current_epoch().clone();
    let mut config = config(2, only(epoch));
    config.advert.capabilities = Capabilities::HYBRID;
    pair.nodes[B].handshaker = Handshaker::new(config, pair.now, StdRng::seed_from_u64(61)).unwrap();
    let remote = pair.nodes[B].session.remote().clone();
    pair.nodes[B].session = Session::new(restarted.nodes[B].session.member(), remote);
    // A does not know, and names a secret that is gone.
    pair.nodes[A].session.renew(pair.now.mono);
    pair.tick(A);
    pair.run_ms(31);
    assert!(pair.is_connected() && !both_hybrid(&pair), "answered without");
    pair.run_ms(200);
    assert!(both_hybrid(&pair));
}

#[test]
fn a_stolen_key_takes_what_was_inherited_with_it() {
    let mut pair = connected(7);
    let now = pair.now;
    for node in &mut pair.nodes {
        assert!(node.session.inherited(&node.handshaker).is_some());
        node.session.cut(now, &mut node.handshaker, KeyEpochNumber(2), KeyEpochNumber(0));
        assert!(node.session.inherited(&node.handshaker).is_none());
    }
}

#[test]
fn who_has_turned_it_off_neither_names_nor_knows_a_secret() {
    let mut pair = connected(8);
    let now = pair.now;
    pair.nodes[B].handshaker.set_advert(Advert { capabilities: Capabilities(0), ..Advert::default() });
    let node = &mut pair.nodes[A];
    let id = node.session.inherited(&node.handshaker).unwrap().id;
    assert!(pair.nodes[B].session.named(&pair.nodes[A].handshaker, id).is_some(), "it is known there");
    assert!(pair.nodes[B].session.named(&pair.nodes[B].handshaker, id).is_none());
    assert!(pair.nodes[B].session.inherited(&pair.nodes[B].handshaker).is_none());
    pair.nodes[A].session.renew(now.mono);
    pair.tick(A);
    pair.run_ms(1000);
    assert!(!pair.nodes[A].session.is_hybrid() && !pair.nodes[B].session.is_hybrid());
    assert_eq!(pair.stats(A).kem_keys_sent, 2, "one for each session before");
}

#[test]
fn nobody_on_the_way_can_take_the_secret_out_of_a_handshake() {
    let mut pair = connected(9);
    pair.run_ms(500);
    pair.log.clear();
    pair.nodes[A].session.renew(pair.now.mono);
    pair.tick(A);
    pair.flights.clear();
    let init = pair.sent(A, Kind::Init)[0].clone();
    pair.deliver(B, &init);
    let response = pair.sent(B, Kind::Response)[0].clone();
    pair.flights.clear();
    assert_eq!(response[1], 1, "flagged");
    let before = pair.state_of(A);
    // Without the flag; by an outsider, and by a member, who can make mac1.
    let mut stripped = response.clone();
    stripped[1] = 0;
    pair.deliver(A, &stripped);
    assert_eq!((pair.stats(A).dropped(DropReason::Mac1), pair.state_of(A) == before), (1, true));
    let gate = GateKey::new([0x47; 32]);
    let key = pair.nodes[A].handshaker.current_epoch().secret.public();
    let body = stripped.len() - 2 * MAC_LEN;
    stripped[body..].fill(0);
    MacKeys::new(&key, &gate).seal(&mut stripped, None);
    pair.deliver(A, &stripped);
    assert_eq!((pair.stats(A).dropped(DropReason::Noise), pair.state_of(A) == before), (1, true));
    // The right one still counts.
    pair.deliver(A, &response);
    assert!(pair.nodes[A].session.is_hybrid());
}

#[test]
fn a_flag_that_answers_no_name_is_refused() {
    let mut pair = pair_of(10, [false, false]);
    pair.want(A);
    pair.flights.clear();
    pair.deliver(B, &pair.sent(A, Kind::Init)[0].clone());
    let mut response = pair.sent(B, Kind::Response)[0].clone();
    response[1] = 1;
    let body = response.len() - 2 * MAC_LEN;
    response[body..].fill(0);
    let key = pair.nodes[A].handshaker.current_epoch().secret.public();
    MacKeys::new(&key, &GateKey::new([0x47; 32])).seal(&mut response, None);
    pair.deliver(A, &response);
    assert_eq!((pair.stats(A).dropped(DropReason::Noise), pair.is_connected()), (1, false));
}

/// Somebody has recorded everything, has all long-term keys and the gate key, and breaks X25519: that is, has the
/// ephemeral private keys as well. The session before is open to him too, with the exchange in it.
#[test]
fn recorded_hybrid_sessions_stay_closed_for_who_breaks_x25519() {
    let mut pair = connected(11);
    let now = pair.now;
    let known = |pair: &Pair, node: usize| pair.nodes[node].handshaker.current_epoch().clone();
    let (ours, theirs) = (known(&pair, A), known(&pair, B));
    let gate = || GateKey::new([0x47; 32]);

    // What the two do next, with ephemeral keys that he finds.
    let inherited = {
        let node = &pair.nodes[A];
        let inherited = node.session.inherited(&node.handshaker).unwrap();
        assert!(pair.nodes[B].session.named(&pair.nodes[B].handshaker, inherited.id).is_some());
        (inherited.id, inherited.secret.clone())
    };
    let prologue = prologue(&MESH, &theirs.hash);
    let meter = DhMeter::default();
    let begin = |ephemeral: &Secret<32>| {
        let local = Local { secret: &ours.secret, prologue: &prologue, ephemeral, meter: &meter };
        Noise::ik_initiator(&local, &theirs.secret.public())
    };
    let ephemeral = Secret::new([0x21; 32]);
    let payload = InitPayload {
        timestamp_us: now.wall.0 * 1000 + 999_000,
        sender_epoch: ours.number,
        responder_epoch: theirs.number,
        capabilities: Capabilities::HYBRID,
        bundle_version: 1,
        revocations: [0; 8],
        secret: inherited.0,
        attachments: Vec::new(),
    };
    let mut encoded = Vec::new();
    payload.emit(&mut encoded);
    let mut honest = begin(&ephemeral);
    let mut message = Vec::new();
    honest.write(&encoded, &mut message).unwrap();
    let mut init = Vec::new();
    let sender = proto::id::ReceiverIndex(7);
    Init { sender, noise: &message, mac1: [0; MAC_LEN], mac2: [0; MAC_LEN] }.emit(&mut init);
    MacKeys::new(&theirs.secret.public(), &gate()).seal(&mut init, None);
    pair.log.clear();
    pair.deliver(B, &init);
    let response = pair.sent(B, Kind::Response)[0].clone();
    let response = Response::parse(&response).unwrap();
    assert!(response.named_secret);

    // He repeats the handshake from the initiator's place, and tries what he knows for the psk.
    let opens = |secret: Option<&Secret<32>>| {
        let mut noise = begin(&ephemeral);
        let mut again = Vec::new();
        noise.write(&encoded, &mut again).unwrap();
        assert_eq!(again, message, "all of the first message is open to him");
        noise.set_psk(PSK2, &psk2(&gate(), secret, &ours.hash));
        noise.read(response.noise).is_ok()
    };
    assert!(opens(Some(&inherited.1)), "with the secret it would open");
    assert!(!opens(None));
    for guess in [
        [0; 32],
        [0x47; 32],
        *ephemeral.bytes(),
        *TransportSecret::random(&mut StdRng::seed_from_u64(1)).bytes(),
    ] {
        assert!(!opens(Some(&Secret::new(guess))));
    }
    // The name of the secret, which he reads in the init, says nothing about it.
    assert_ne!(inherited.0, SecretId(0));
    let mut from_id = [0; 32];
    from_id[..8].copy_from_slice(&inherited.0.0.to_be_bytes());
    assert!(!opens(Some(&Secret::new(from_id))));
}
