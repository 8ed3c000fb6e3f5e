//! Cookies and limits: what a node does when handshakes come faster than it wants to serve them.

use proto::datagram::Kind;
use std::net::SocketAddr;
use std::time::Duration;

use super::handshake::restart;
use super::pair::*;
use crate::session::*;

/// Puts a node under load for one second.
fn load(pair: &mut Pair, node: usize) {
    let now = pair.now;
    pair.nodes[node].handshaker.note_backlog(now, 100, 100);
}

fn first_init(pair: &mut Pair, from: usize) -> Vec<u8> {
    pair.want(from);
    pair.flights.clear();
    pair.sent(from, Kind::Init).last().unwrap().clone()
}

/// An init to the second node from somebody that it does not know, who is a member all the same.
fn strangers_init(pair: &Pair, seed: u64) -> Vec<u8> {
    let mut stranger = Pair::new(seed);
    let remote = pair.nodes[A].session.remote().clone();
    stranger.nodes[A].session = Session::new(pair.nodes[A].session.member(), remote);
    first_init(&mut stranger, A)
}

fn address(text: &str) -> SocketAddr {
    text.parse().unwrap()
}

#[test]
fn under_load_a_cookie_comes_first_and_costs_no_key_agreement() {
    let mut pair = Pair::new(1);
    load(&mut pair, B);
    pair.want(A);
    pair.run_ms(15);
    assert_eq!(pair.sent(B, Kind::Cookie).len(), 1);
    assert_eq!(pair.stats(B).dh_operations, 0);
    pair.run_ms(45);
    assert!(pair.is_connected(), "after one more round trip");
    assert_eq!((pair.stats(A).cookies_received, pair.stats(A).inits_sent), (1, 1));
}

#[test]
fn the_next_handshake_brings_its_cookie_along() {
    let mut pair = Pair::new(2);
    load(&mut pair, B);
    pair.want(A);
    pair.run_ms(60);
    pair.log.clear();
    load(&mut pair, B);
    pair.nodes[A].session.renew(pair.now.mono);
    pair.run_ms(40);
    assert!(pair.sent(B, Kind::Cookie).is_empty());
    assert_eq!(pair.stats(A).completed, 2);
}

#[test]
fn a_cookie_is_bound_to_address_and_port() {
    let mut pair = Pair::new(3);
    load(&mut pair, B);
    pair.want(A);
    pair.run_ms(20);
    let proven = pair.sent(A, Kind::Init)[1].clone();
    let now = pair.now;
    for other in ["192.0.2.1:656", "192.0.2.9:655", "[2001:db8::1]:655"] {
        let origin = Origin::Direct(address(other));
        assert!(matches!(pair.nodes[B].handshaker.open_init(now, origin, &proven), InitOutcome::Cookie(_)));
    }
    let origin = Origin::Direct(pair.nodes[A].address);
    assert!(matches!(pair.nodes[B].handshaker.open_init(now, origin, &proven), InitOutcome::Opened(_)));
}

#[test]
fn a_cookie_ends_with_its_secret() {
    let mut pair = Pair::new(4);
    load(&mut pair, B);
    pair.want(A);
    pair.run_ms(20);
    let proven = pair.sent(A, Kind::Init)[1].clone();
    pair.flights.clear();
    pair.run_ms(2 * COOKIE_RENEWAL.as_millis() as u64 + 1000);
    load(&mut pair, B);
    let (now, origin) = (pair.now, Origin::Direct(pair.nodes[A].address));
    assert!(matches!(pair.nodes[B].handshaker.open_init(now, origin, &proven), InitOutcome::Cookie(_)));
}

#[test]
fn forged_and_foreign_cookies_change_nothing() {
    let mut pair = Pair::new(5);
    load(&mut pair, B);
    pair.want(A);
    pair.run_ms(15);
    let cookie = pair.sent(B, Kind::Cookie)[0].clone();
    pair.flights.clear();
    let before = pair.state_of(A);
    let from = pair.nodes[B].address;
    for bit in 0..cookie.len() * 8 {
        let mut forged = cookie.clone();
        forged[bit / 8] ^= 1 << (bit % 8);
        // Flags and reserved bytes are not looked at.
        if (1..4).contains(&(bit / 8)) {
            continue;
        }
        let now = pair.now;
        let node = &mut pair.nodes[A];
        let outcome = node.session.handle_cookie(now, &mut node.handshaker, from, &forged);
        assert!(matches!(outcome, CookieOutcome::Drop(_)), "bit {bit}");
    }
    assert!(before == pair.state_of(A));
    pair.deliver(A, &cookie);
    assert!(before != pair.state_of(A));
}

#[test]
fn cookies_make_an_init_go_out_again_only_so_often() {
    let mut pair = Pair::new(6);
    let init = first_init(&mut pair, A);
    let origin = Origin::Direct(pair.nodes[A].address);
    let now = pair.now;
    let mut resent = 0;
    for _ in 0..50 {
        load(&mut pair, B);
        let InitOutcome::Cookie(cookie) = pair.nodes[B].handshaker.open_init(now, origin, &init) else {
            panic!("under load")
        };
        let from = pair.nodes[B].address;
        let node = &mut pair.nodes[A];
        if let CookieOutcome::Resend(_) = node.session.handle_cookie(now, &mut node.handshaker, from, &cookie)
        {
            resent += 1;
        }
    }
    assert_eq!(resent, 4);
}

#[test]
fn a_flood_from_one_address_stops_no_other() {
    let mut pair = Pair::new(7);
    let now = pair.now;
    // The flood is of members' making: each init opens, and is from a key that nobody knows.
    let mut outcomes = (0, 0);
    for seed in 0..100 {
        let init = strangers_init(&pair, 1000 + seed);
        match pair.nodes[B].handshaker.open_init(now, Origin::Direct(address("203.0.113.5:1")), &init) {
            InitOutcome::Opened(_) => outcomes.0 += 1,
            InitOutcome::Cookie(_) => outcomes.1 += 1,
            _ => panic!("neither opened nor answered with a cookie"),
        }
    }
    assert_eq!(outcomes, (HANDSHAKE_BURST, 100 - HANDSHAKE_BURST));
    pair.want(A);
    pair.run_ms(40);
    assert!(pair.is_connected(), "at once, and without a cookie");
    assert_eq!(pair.stats(A).cookies_received, 0);
}

#[test]
fn who_forges_an_address_cannot_use_up_its_tokens() {
    let mut pair = Pair::new(8);
    let (now, victim) = (pair.now, pair.nodes[A].address);
    // Recorded inits, sent with the victim's address.
    for seed in 0..50 {
        let init = strangers_init(&pair, 2000 + seed);
        pair.nodes[B].handshaker.open_init(now, Origin::Direct(victim), &init);
    }
    pair.want(A);
    pair.run_ms(60);
    assert!(pair.is_connected(), "by a cookie, one round trip later");
    assert_eq!(pair.stats(A).cookies_received, 1);
}

#[test]
fn relayed_inits_are_limited_by_member_and_need_no_cookie() {
    let mut pair = Pair::new(9);
    load(&mut pair, B);
    let now = pair.now;
    let from = |member: u8| Origin::Relayed(proto::id::MemberId([member; 16]));
    let mut opened = 0;
    for seed in 0..20 {
        let init = strangers_init(&pair, 3000 + seed);
        match pair.nodes[B].handshaker.open_init(now, from(7), &init) {
            InitOutcome::Opened(_) => opened += 1,
            InitOutcome::Drop(reason) => assert_eq!(reason, DropReason::RateLimited),
            _ => panic!("neither opened nor dropped"),
        }
    }
    assert_eq!(opened, HANDSHAKE_BURST);
    let init = first_init(&mut pair, A);
    assert!(matches!(pair.nodes[B].handshaker.open_init(now, from(1), &init), InitOutcome::Opened(_)));
}

#[test]
fn many_nodes_behind_one_address_all_get_in() {
    // One responder, sixty initiators whose datagrams all come from one address, as after the restart of a relay.
    let mut hub = Pair::new(10);
    let mut spokes: Vec<Pair> = (0..60).map(|n| Pair::new(4000 + n)).collect();
    let mut connected = 0;
    for (n, spoke) in spokes.iter_mut().enumerate() {
        let node = &mut spoke.nodes[A];
        node.session = Session::new(node.session.member(), hub.nodes[A].session.remote().clone());
        let remote = remote_of(node.handshaker.current_epoch());
        let mut session = Session::new(proto::id::MemberId([100 + n as u8; 16]), remote.clone());
        let (now, from) = (hub.now, Origin::Direct(address("203.0.113.5:40000")));
        let mut init = first_init(spoke, A);
        for _ in 0..2 {
            match hub.nodes[B].handshaker.open_init(now, from, &init) {
                InitOutcome::Opened(opened) => {
                    let accepted = session.accept_init(now, &mut hub.nodes[B].handshaker, *opened, &remote);
                    assert!(matches!(accepted, Accepted::Response(_)));
                    connected += 1;
                    break;
                }
                InitOutcome::Cookie(cookie) => {
                    let node = &mut spoke.nodes[A];
                    let to = address("192.0.2.2:655");
                    match node.session.handle_cookie(now, &mut node.handshaker, to, &cookie) {
                        CookieOutcome::Resend(again) => init = again,
                        other => panic!("{other:?}"),
                    }
                }
                _ => panic!("neither opened nor answered with a cookie"),
            }
        }
    }
    assert_eq!(connected, 60);
}

#[test]
fn too_many_handshakes_are_load_and_load_passes() {
    let mut pair = Pair::new(11);
    for n in 0..=LOAD_HANDSHAKES_PER_S {
        assert!(!pair.nodes[B].handshaker.is_under_load(pair.now), "after {n}");
        let init = strangers_init(&pair, 5000 + u64::from(n));
        let from = SocketAddr::from((std::net::Ipv4Addr::from_bits(0x0a00_0000 + n), 655));
        let now = pair.now;
        assert!(matches!(
            pair.nodes[B].handshaker.open_init(now, Origin::Direct(from), &init),
            InitOutcome::Opened(_)
        ));
    }
    assert!(pair.nodes[B].handshaker.is_under_load(pair.now));
    pair.run_ms(LOAD_HOLD.as_millis() as u64 + 1);
    assert!(!pair.nodes[B].handshaker.is_under_load(pair.now));
}

/// What an attacker with the gate key can do: inits with a right mac1, all different, each from another address.
#[test]
fn a_flood_from_forged_addresses_costs_no_key_agreement_once_it_is_noticed() {
    use crate::session::macs::MacKeys;
    let mut pair = Pair::new(14);
    let to = pair.nodes[B].handshaker.current_epoch().secret.public();
    let macs = MacKeys::new(&to, &GateKey::new([0x47; 32]));
    let mut init = strangers_init(&pair, 9000);
    let mut costs = Vec::new();
    for second in 0..5_u32 {
        let before = pair.stats(B).dh_operations;
        for n in 0..2_000 {
            let number = second * 2_000 + n;
            init[40..44].copy_from_slice(&number.to_be_bytes());
            macs.seal(&mut init, None);
            let from = SocketAddr::from((std::net::Ipv4Addr::from_bits(0x0a00_0000 + number), 655));
            let now = pair.now;
            pair.nodes[B].handshaker.open_init(now, Origin::Direct(from), &init);
            if n % 2 == 0 {
                pair.run_ms(1);
            }
        }
        costs.push(pair.stats(B).dh_operations - before);
    }
    // At most one each for what came before it was noticed: the static key in it does not open.
    assert!(costs[0] <= 2 * u64::from(LOAD_HANDSHAKES_PER_S + 1), "{costs:?}");
    assert_eq!(costs[1..], [0; 4]);
    assert!(pair.stats(B).cookies_sent > 9_000);
    // Who can show a cookie gets in meanwhile.
    pair.want(A);
    pair.run_ms(60);
    assert!(pair.is_connected());
}

#[test]
fn a_cookie_survives_the_responders_rekeying_but_not_its_restart() {
    let mut pair = Pair::new(12);
    load(&mut pair, B);
    pair.want(A);
    pair.run_ms(60);
    restart(&mut pair, B);
    load(&mut pair, B);
    pair.nodes[A].session.renew(pair.now.mono + Duration::from_millis(1));
    pair.run_ms(60);
    assert_eq!(pair.stats(B).cookies_sent, 1, "the old one is not taken; there is a new one");
    assert_eq!(pair.stats(A).completed, 2);
}
