//! Datagrams made by others: outsiders, forgers, members of other meshes, and the network itself.

use proptest::prelude::*;
use proto::datagram::Kind;
use proto::handshake::{INIT_HEADER_LEN, MAC_LEN, Response};
use proto::id::{MeshId, TransportKey};
use std::time::Duration;

use super::pair::*;
use crate::session::macs::MacKeys;
use crate::session::*;

/// The points of order 1, 2, 4, and 8, and their other encodings: what a Diffie-Hellman with them gives is all zeroes
/// (from RFC 7748's curve; the list is that of libsodium's `has_small_order`).
const SMALL_ORDER: [&str; 7] = [
    "0000000000000000000000000000000000000000000000000000000000000000",
    "0100000000000000000000000000000000000000000000000000000000000000",
    "e0eb7a7c3b41b8ae1656e3faf19fc46ada098deb9c32b1fd866205165f49b800",
    "5f9c95bca3508c24b1d0b1559c83ef5b04445cc4581c8e86d8224eddd09f1157",
    "ecffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff7f",
    "edffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff7f",
    "eeffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff7f",
];

/// Makes the MACs of a changed datagram to `node` right again, as a member could.
fn reseal(pair: &Pair, node: usize, datagram: &mut [u8]) {
    let key = pair.nodes[node].handshaker.current_epoch().secret.public();
    MacKeys::new(&key, &pair.nodes[node].handshaker.gate).seal(datagram, None);
}

fn init_under_way(pair: &mut Pair) -> Vec<u8> {
    pair.want(A);
    pair.flights.clear();
    pair.sent(A, Kind::Init).last().unwrap().clone()
}

#[test]
fn outsiders_get_silence() {
    let mut pair = Pair::with(1, |node, config| {
        if node == A {
            config.gate = GateKey::new([0x48; 32]);
        }
    });
    pair.want(A);
    pair.run_ms(20_000);
    assert!(pair.log.iter().all(|(from, _)| *from == A));
    assert_eq!(pair.stats(B).dropped(DropReason::Mac1), pair.sent(A, Kind::Init).len() as u64);
    assert_eq!(pair.stats(B).dh_operations, 0);
}

#[test]
fn members_of_another_mesh_get_silence_even_with_the_gate_key() {
    let mut pair = Pair::with(2, |node, config| {
        if node == A {
            config.mesh = MeshId([0xbb; 16]);
        }
    });
    pair.want(A);
    pair.run_ms(20);
    assert_eq!((pair.log.len(), pair.stats(B).dropped(DropReason::Noise)), (1, 1));
}

#[test]
fn unknown_versions_get_silence() {
    let mut pair = Pair::new(3);
    let mut init = init_under_way(&mut pair);
    for version in (0..16u8).filter(|version| *version != proto::VERSION) {
        init[0] = version << 4 | Kind::Init as u8;
        reseal(&pair, B, &mut init);
        let (now, origin) = (pair.now, Origin::Direct(pair.nodes[A].address));
        let outcome = pair.nodes[B].handshaker.open_init(now, origin, &init);
        assert!(matches!(outcome, InitOutcome::Drop(DropReason::Malformed)));
    }
}

#[test]
fn an_all_zero_shared_secret_is_refused() {
    for (n, hex) in SMALL_ORDER.into_iter().enumerate() {
        let point: Vec<u8> =
            (0..32).map(|i| u8::from_str_radix(&hex[2 * i..2 * i + 2], 16).unwrap()).collect();
        // As ephemeral key of an init.
        let mut pair = Pair::new(4);
        let mut init = init_under_way(&mut pair);
        init[INIT_HEADER_LEN..INIT_HEADER_LEN + 32].copy_from_slice(&point);
        reseal(&pair, B, &mut init);
        let (now, origin) = (pair.now, Origin::Direct(pair.nodes[A].address));
        let outcome = pair.nodes[B].handshaker.open_init(now, origin, &init);
        assert!(matches!(outcome, InitOutcome::Drop(DropReason::Noise)), "point {n}");
        assert_eq!(pair.stats(B).dh_operations, 1, "refused at the first agreement");
        // As a peer's static key: no init can be made to it.
        let node = &mut pair.nodes[A];
        let remote =
            RemoteEpoch { key: TransportKey(point.try_into().unwrap()), ..node.session.remote().clone() };
        node.session.set_remote(now, &mut node.handshaker, remote);
        assert!(node.session.initiate(now, &mut node.handshaker, &[]).is_err());
    }
}

#[test]
fn a_bad_response_then_the_good_one() {
    let mut pair = Pair::new(5);
    pair.want(A);
    pair.run_ms(15);
    let response = pair.sent(B, Kind::Response)[0].clone();
    pair.flights.clear();
    let before = pair.state_of(A);
    for at in 0..response.len() - MAC_LEN {
        let mut damaged = response.clone();
        damaged[at] ^= 0x40;
        pair.deliver(A, &damaged);
        // The same by a member, who can make mac1 right.
        if (12..response.len() - 2 * MAC_LEN).contains(&at) {
            reseal(&pair, A, &mut damaged);
            pair.deliver(A, &damaged);
        }
        assert!(before == pair.state_of(A), "byte {at}");
    }
    let ephemeral_at = 12;
    let mut zero = response.clone();
    zero[ephemeral_at..ephemeral_at + 32].fill(0);
    reseal(&pair, A, &mut zero);
    pair.deliver(A, &zero);
    assert!(before == pair.state_of(A));
    pair.deliver(A, &response);
    pair.run_ms(20);
    assert!(pair.is_connected());
}

#[test]
fn every_byte_of_an_init_counts() {
    let mut pair = Pair::connected(6);
    pair.nodes[A].session.renew(pair.now.mono);
    pair.tick(A);
    let init = init_under_way(&mut pair);
    let before = pair.state_of(B);
    let answers = |pair: &Pair| pair.log.iter().filter(|(from, _)| *from == B).count();
    for at in 0..init.len() - MAC_LEN {
        let mut damaged = init.clone();
        damaged[at] ^= 0x04;
        let by_relay = Origin::Relayed(proto::id::MemberId([at as u8; 16]));
        pair.deliver_init(B, by_relay, &damaged);
        // The header before the Noise message is only covered by mac1; a member can change it, to no avail.
        if (INIT_HEADER_LEN..init.len() - 2 * MAC_LEN).contains(&at) {
            reseal(&pair, B, &mut damaged);
            pair.deliver_init(B, by_relay, &damaged);
        }
        assert!(before == pair.state_of(B), "byte {at}");
        assert_eq!(answers(&pair), 0, "byte {at}");
    }
    pair.deliver(B, &init);
    assert_eq!(answers(&pair), 1);
}

#[test]
fn datagrams_of_a_finished_handshake_change_nothing_when_replayed() {
    let mut pair = Pair::new(7);
    pair.want(A);
    pair.run_ms(100);
    let all = pair.log.clone();
    for after_s in [0, 1, 11, 60] {
        pair.run_ms(after_s * 1000);
        let before = (pair.state_of(A), pair.state_of(B));
        for (from, datagram) in &all {
            pair.deliver(1 - from, datagram);
            pair.deliver(*from, datagram);
        }
        pair.run_ms(0);
        assert!(before == (pair.state_of(A), pair.state_of(B)), "after {after_s} s");
        pair.run_ms(20);
        assert!(pair.is_connected());
    }
}

#[test]
fn forged_data_confirms_nothing() {
    let mut pair = Pair::new(8);
    pair.want(A);
    pair.run_ms(10);
    let index = pair.nodes[B].session.keypairs().next().unwrap().local_index;
    let mut forged = vec![Kind::Data.first_byte(), 0, 0, 0];
    forged.extend(index.0.to_be_bytes());
    forged.extend([0; 40]);
    pair.deliver(B, &forged);
    assert!(pair.nodes[B].session.sending().is_none());
    let now = pair.now;
    let node = &mut pair.nodes[B];
    assert!(!node.session.confirmed(now, &mut node.handshaker, proto::id::ReceiverIndex(index.0 ^ 1)));
}

#[test]
fn a_member_cannot_pass_for_another() {
    let mut pair = Pair::new(9);
    let init = init_under_way(&mut pair);
    let (now, origin) = (pair.now, Origin::Direct(pair.nodes[A].address));
    let InitOutcome::Opened(opened) = pair.nodes[B].handshaker.open_init(now, origin, &init) else {
        panic!("it opens")
    };
    let node = &mut pair.nodes[B];
    let remote = RemoteEpoch { key: TransportKey([1; 32]), ..node.session.remote().clone() };
    let outcome = node.session.accept_init(now, &mut node.handshaker, *opened, &remote);
    assert!(matches!(outcome, Accepted::Drop(DropReason::WrongKey)));
    assert_eq!(node.session.keypairs().count(), 0);
}

#[test]
fn challenges_do_not_loop() {
    let mut pair = Pair::new(10);
    pair.nodes[B].session.restore_seen(TIMESTAMP_LIMIT_US);
    pair.want(A);
    pair.run_ms(200_000);
    assert!(!pair.is_connected());
    assert_eq!(pair.nodes[A].gave_up, 1);
    assert!(pair.stats(A).inits_sent < 30);
}

#[test]
fn a_timestamp_beyond_the_limit_is_refused() {
    let mut pair = Pair::new(11);
    pair.nodes[B].session.restore_seen(TIMESTAMP_LIMIT_US - 1);
    pair.want(A);
    pair.run_ms(100);
    assert!(pair.is_connected(), "the last one that is allowed");
    pair.nodes[A].session.renew(pair.now.mono);
    pair.run_ms(10);
    assert_eq!(pair.stats(B).dropped(DropReason::Timestamp), 1);
}

#[test]
fn receiver_indices_say_nothing() {
    // The same seed for both nodes' order of events, but other generators: no index is seen twice, none is small.
    let mut seen = std::collections::BTreeSet::new();
    for seed in 0..50 {
        let pair = Pair::connected(seed);
        for node in &pair.nodes {
            seen.insert(node.session.sending().unwrap().local_index.0);
        }
    }
    assert_eq!(seen.len(), 100);
    assert!(seen.iter().filter(|index| **index < 1 << 24).count() < 8);
}

#[test]
fn what_holds_secrets_has_no_debug() {
    use crate::crypto::assert_no_debug;
    use crate::session::join::{JoinInitiator, JoinKeys, JoinResponder};
    assert_no_debug!(GateKey, LocalEpoch, LocalEpochs, HandshakerConfig, Handshaker, OpenedInit);
    assert_no_debug!(Session, Keypair, JoinKeys, JoinInitiator, JoinResponder);
}

/// A node in the middle of everything: a session, a rekeying of ours under way, and one of the peer's unproven.
fn busy_pair() -> Pair {
    let mut pair = Pair::connected(77);
    // The larger member id initiates, so that the smaller one has an unproven keypair.
    pair.nodes[B].session.renew(pair.now.mono);
    pair.run_ms(15);
    pair.flights.clear();
    pair.nodes[A].session.renew(pair.now.mono);
    pair.tick(A);
    pair.flights.clear();
    assert!(pair.nodes[A].session.is_initiating() && pair.nodes[A].session.keypairs().count() == 2);
    pair
}

fn any_datagram(own: Vec<Vec<u8>>) -> impl Strategy<Value = Vec<u8>> {
    let random = (0u8..=8, proptest::collection::vec(any::<u8>(), 0..1300)).prop_map(|(kind, mut bytes)| {
        if let Some(first) = bytes.first_mut() {
            *first = proto::VERSION << 4 | kind;
        }
        bytes
    });
    let flipped = (
        proptest::sample::select(own.clone()),
        proptest::collection::vec(any::<prop::sample::Index>(), 1..4),
    )
        .prop_map(|(mut datagram, bits)| {
            for bit in bits {
                let bit = bit.index((datagram.len() - MAC_LEN) * 8);
                datagram[bit / 8] ^= 1 << (bit % 8);
            }
            datagram
        });
    let cut = (proptest::sample::select(own), any::<prop::sample::Index>()).prop_map(|(datagram, len)| {
        let len = len.index(datagram.len());
        datagram[..len].to_vec()
    });
    prop_oneof![random, flipped, cut]
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 64, ..ProptestConfig::default() })]

    #[test]
    fn garbage_and_damaged_datagrams_never_panic_and_change_nothing(
        datagrams in proptest::collection::vec(any_datagram(own_datagrams()), 1..40),
        resealed in any::<bool>(),
    ) {
        let mut pair = busy_pair();
        let own = own_datagrams();
        let before = pair.state_of(A);
        for mut datagram in datagrams {
            if own.contains(&datagram) {
                continue; // Flipped there and back.
            }
            if resealed && datagram.len() > 60 {
                reseal(&pair, A, &mut datagram);
            }
            if resealed && is_own_noise(&own, &datagram) {
                continue; // A true init or response in another wrapping, which a member may make of it.
            }
            pair.deliver(A, &datagram);
            prop_assert!(before == pair.state_of(A));
        }
        // And everything still works.
        pair.run_ms(10_000);
        for from in [A, B] {
            let number = pair.send_data(from).unwrap();
            pair.run_ms(10);
            prop_assert!(pair.nodes[1 - from].received.contains(&number));
        }
    }
}

/// Datagrams to the first node that are right, to be damaged.
fn own_datagrams() -> Vec<Vec<u8>> {
    let mut pair = busy_pair();
    pair.nodes[B].session.renew(pair.now.mono + Duration::from_millis(1));
    pair.run_ms(6_000);
    pair.log.iter().filter(|(from, _)| *from == B).map(|(_, datagram)| datagram.clone()).collect()
}

fn is_own_noise(own: &[Vec<u8>], datagram: &[u8]) -> bool {
    let noise = |datagram: &[u8]| match Kind::of(datagram) {
        Some(Kind::Init) => datagram.get(INIT_HEADER_LEN..INIT_HEADER_LEN + 136).map(<[u8]>::to_vec),
        Some(Kind::Response) => Response::parse(datagram).ok().map(|response| response.noise.to_vec()),
        _ => None,
    };
    noise(datagram).is_some_and(|changed| own.iter().any(|own| noise(own).as_ref() == Some(&changed)))
}
