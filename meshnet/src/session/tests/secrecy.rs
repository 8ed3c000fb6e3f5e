//! What somebody gets who has recorded everything, and later comes into the possession of keys.

use proto::datagram::Kind;
use proto::handshake::{Init, Response};
use proto::id::KeyEpochNumber;
use proto::lane::Lane;
use rand::SeedableRng;
use rand::rngs::StdRng;

use super::pair::*;
use crate::crypto::Secret;
use crate::session::handshaker::{prologue, psk2};
use crate::session::noise::{DhMeter, Local, Noise, PSK2};
use crate::session::*;

/// The data datagrams that some keypair of either node opens.
fn opened(thief: &Pair, recorded: &[Vec<u8>]) -> usize {
    let keypairs = || thief.nodes.iter().flat_map(|node| node.session.keypairs());
    let opens = |datagram: &&Vec<u8>| {
        keypairs()
            .any(|keypair| keypair.opener.lane(Lane::FIRST).open_in_place(&mut (*datagram).clone()).is_ok())
    };
    recorded.iter().filter(opens).count()
}

/// A session with data in both directions, and everything that passed: init, response, data.
fn recording(seed: u64) -> (Pair, Vec<u8>, Vec<u8>, Vec<Vec<u8>>) {
    let mut pair = Pair::new(seed);
    pair.want(A);
    pair.run_ms(100);
    for _ in 0..20 {
        pair.send_data(A).unwrap();
        pair.send_data(B).unwrap();
    }
    pair.run_ms(100);
    let (init, response) = (pair.sent(A, Kind::Init)[0].clone(), pair.sent(B, Kind::Response)[0].clone());
    let data = [pair.sent(A, Kind::Data), pair.sent(B, Kind::Data)].concat();
    assert!(data.len() >= 40);
    (pair, init, response, data)
}

#[test]
fn recorded_traffic_stays_closed_with_all_long_term_keys_known() {
    let (pair, init, response, data) = recording(40);
    // The attempts below would find something: with the handshake's own ephemeral keys everything opens.
    let (mut same, ..) = recording(40);
    assert_eq!(opened(&same, &data), data.len());
    same.nodes[A].session =
        Session::new(same.nodes[A].session.member(), same.nodes[A].session.remote().clone());
    assert!(opened(&same, &data) < data.len());

    // Now all keys that are on the disks of both, and the mesh's own; ephemeral keys of the thief's.
    let epochs = [A, B].map(|node| pair.nodes[node].handshaker.current_epoch().clone());
    for attempt in 0..4 {
        let mut thief = Pair::new(40);
        for node in [A, B] {
            let config = config(node as u8 + 1, only(epochs[node].clone()));
            let rng = StdRng::seed_from_u64(1000 + 2 * attempt + node as u64);
            thief.nodes[node].handshaker = Handshaker::new(config, thief.now, rng).unwrap();
        }
        // As the responder: the recorded init opens, who made it is seen, and keys come out, but others.
        thief.deliver(B, &init);
        assert_eq!((thief.stats(B).inits_opened, thief.nodes[B].session.keypairs().count()), (1, 1));
        assert_eq!(opened(&thief, &data), 0);
        // As the initiator: a handshake of its own, and the recorded response to the other one.
        thief.want(A);
        let pending = Init::parse(&thief.sent(A, Kind::Init)[0].clone()).unwrap().sender;
        let mut answer = response.clone();
        answer[8..12].copy_from_slice(&pending.0.to_be_bytes());
        thief.deliver(A, &answer);
        assert_eq!(thief.nodes[A].session.keypairs().count(), 0);
        // Past everything that is checked around it, too.
        let ephemeral = Secret::new([attempt as u8 + 1; 32]);
        let prologue = prologue(&MESH, &epochs[B].hash);
        let meter = DhMeter::default();
        let local =
            Local { secret: &epochs[A].secret, prologue: &prologue, ephemeral: &ephemeral, meter: &meter };
        let psk = psk2(&GateKey::new([0x47; 32]), None, &epochs[A].hash);
        let mut noise = Noise::ik_initiator(&local, &epochs[B].secret.public());
        noise.set_psk(PSK2, &psk);
        noise.write(b"", &mut Vec::new()).unwrap();
        assert!(noise.read(Response::parse(&response).unwrap().noise).is_err());
        assert_eq!(opened(&thief, &data), 0);
    }
}

#[test]
fn with_the_old_transport_key_nothing_new_is_opened_and_nobody_impersonated() {
    let mut pair = Pair::connected(41);
    // B replaces its key, and A has heard of it.
    let old = pair.nodes[B].handshaker.current_epoch().clone();
    let new = epoch(&mut StdRng::seed_from_u64(7), 2);
    let retired = LocalEpochs { retired: vec![old.secret.public()], ..only(new.clone()) };
    pair.nodes[B].handshaker.set_epochs(retired).unwrap();
    let now = pair.now;
    pair.nodes[A].known = [(new.number, remote_of(&new))].into();
    let node = &mut pair.nodes[A];
    node.session.set_remote(now, &mut node.handshaker, remote_of(&new));
    pair.nodes[A].session.renew(now.mono);
    pair.run_ms(100);
    pair.log.clear();
    for _ in 0..10 {
        pair.send_data(A).unwrap();
        pair.send_data(B).unwrap();
    }
    pair.nodes[A].session.renew(pair.now.mono);
    pair.run_ms(100);
    let used = pair.nodes[A].session.sending().unwrap().remote_epoch;
    assert_eq!(used, KeyEpochNumber(2));
    let data = [pair.sent(A, Kind::Data), pair.sent(B, Kind::Data)].concat();

    // The thief is B as it was: the old key, the gate key, B's member id, and what it knows of A.
    let mut thief = Pair::new(41);
    let rng = StdRng::seed_from_u64(99);
    thief.nodes[B].handshaker = Handshaker::new(config(2, only(old)), pair.now, rng).unwrap();
    (thief.now, thief.nodes[B].clock_ahead_ms) = (pair.now, 3_600_000);
    // It cannot answer in B's place ...
    thief.deliver(B, &pair.sent(A, Kind::Init)[0].clone());
    assert_eq!(thief.stats(B).dropped(DropReason::Mac1), 1);
    assert_eq!((thief.stats(B).inits_opened, opened(&thief, &data)), (0, 0));
    // ... nor begin in B's name: the init is well made, but by a key that is nobody's any more.
    thief.want(B);
    let forged = thief.sent(B, Kind::Init)[0].clone();
    let before = pair.state_of(A);
    let (now, from) = (pair.now, pair.nodes[B].address);
    let node = &mut pair.nodes[A];
    let InitOutcome::Opened(init) = node.handshaker.open_init(now, Origin::Direct(from), &forged) else {
        panic!("it is well made");
    };
    assert!(node.known.values().all(|epoch| epoch.key != init.remote_static));
    // Not even where its key is taken for B's.
    let accepted = node.session.accept_init(now, &mut node.handshaker, *init, &remote_of(&new));
    assert!(matches!(accepted, Accepted::Drop(DropReason::WrongKey)));
    assert_eq!(pair.state_of(A), before);
    assert_eq!(opened(&thief, &data), 0);
}
