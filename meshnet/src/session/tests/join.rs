//! The join exchange.

use proptest::prelude::*;
use proto::id::{MemberId, MeshId, TransportKey};
use proto::invitation::Invitation;
use proto::join::{JOIN_HEADER_LEN, JOIN_MAX_LEN, Join, MAX_PIECE_LEN, Piece, Stage};
use rand::SeedableRng;
use rand::rngs::StdRng;

use crate::crypto::TransportSecret;
use crate::session::join::*;

const MESH: MeshId = MeshId([1; 16]);
const INVITER: MemberId = MemberId([2; 16]);
const SECRET: [u8; 16] = [3; 16];

struct Exchange {
    joiner: JoinInitiator,
    inviter: JoinResponder,
    joiner_key: TransportKey,
    inviter_key: TransportKey,
}

/// Up to the accepted hello, with a message 2 of several pieces.
fn begun(seed: u64) -> Exchange {
    let rng = &mut StdRng::seed_from_u64(seed);
    let (own, theirs) = (TransportSecret::random(rng), TransportSecret::random(rng));
    let context = JoinContext::random(MESH, INVITER, rng);
    let joiner = JoinInitiator::new(context, JoinKeys::of_secret(&SECRET), &own, rng);
    let hello = joiner.poll_datagram().unwrap();
    assert!(hello.len() <= JOIN_MAX_LEN);
    let keys = JoinKeys::of_secret(&SECRET);
    let inviter = JoinResponder::accept_hello(MESH, keys, &theirs, &hello, &[8; 2500], rng).unwrap();
    Exchange { joiner, inviter, joiner_key: own.public(), inviter_key: theirs.public() }
}

/// What the inviter does with a datagram, as its owner would.
fn serve(inviter: &mut JoinResponder, datagram: &[u8]) -> Option<Vec<u8>> {
    match Join::parse(datagram).unwrap().stage {
        Stage::Hello { .. } if inviter.began_with(datagram) => inviter.answer(0),
        Stage::Request { sealed: false, index } => inviter.answer(index),
        Stage::Request { sealed: true, index } => inviter.welcome(index),
        Stage::Finish(message) => {
            inviter.handle_finish(message).unwrap();
            inviter.set_welcome(&[9; 5000]).unwrap();
            inviter.welcome(0)
        }
        _ => None,
    }
}

fn answered(exchange: &mut Exchange) -> InviterSays {
    loop {
        let question = exchange.joiner.poll_datagram().unwrap();
        let answer = serve(&mut exchange.inviter, &question).unwrap();
        assert!(answer.len() <= question.len() || matches!(question[1], 4), "no longer than the question");
        let Stage::Answer(piece) = Join::parse(&answer).unwrap().stage else { panic!("not an answer") };
        if let Some(says) = exchange.joiner.handle_answer(&piece).unwrap() {
            return says;
        }
    }
}

fn finish_of(exchange: &Exchange) -> Vec<u8> {
    match Join::parse(&exchange.joiner.poll_datagram().unwrap()).unwrap().stage {
        Stage::Finish(message) => message.to_vec(),
        _ => panic!("message 3 is due"),
    }
}

#[test]
fn both_learn_who_the_other_is_and_the_welcome_arrives() {
    let mut exchange = begun(1);
    let inviter_says = answered(&mut exchange);
    assert_eq!(inviter_says.payload, [8; 2500]);
    assert_eq!(inviter_says.static_key, exchange.inviter_key);
    assert_eq!(exchange.joiner.poll_datagram(), None);
    exchange.joiner.finish(b"me").unwrap();
    let joiner_says = exchange.inviter.handle_finish(&finish_of(&exchange)).unwrap();
    assert_eq!((&joiner_says.payload[..], joiner_says.static_key), (&b"me"[..], exchange.joiner_key));
    assert_eq!(joiner_says.binding, inviter_says.binding);

    let content = loop {
        let question = exchange.joiner.poll_datagram().unwrap();
        let answer = serve(&mut exchange.inviter, &question).unwrap();
        let Stage::Welcome(piece) = Join::parse(&answer).unwrap().stage else { panic!("not a welcome") };
        if let Some(content) = exchange.joiner.handle_welcome(&piece).unwrap() {
            break content;
        }
    };
    assert_eq!(content, [9; 5000]);
}

#[test]
fn who_does_not_know_the_invitation_gets_no_answer() {
    let rng = &mut StdRng::seed_from_u64(1);
    let own = TransportSecret::random(rng);
    let context = JoinContext::random(MESH, INVITER, rng);
    let mut forger = JoinKeys::of_secret(&[4; 16]);
    forger.invitation = Invitation::id_of(&SECRET);
    let hello = JoinInitiator::new(context, forger, &own, rng).poll_datagram().unwrap();
    let outcome = JoinResponder::accept_hello(MESH, JoinKeys::of_secret(&SECRET), &own, &hello, b"", rng);
    assert_eq!(outcome.err(), Some(JoinError::Mac));
}

#[test]
fn an_invitation_to_another_mesh_does_not_open() {
    let rng = &mut StdRng::seed_from_u64(1);
    let own = TransportSecret::random(rng);
    let context = JoinContext::random(MeshId([7; 16]), INVITER, rng);
    let hello = JoinInitiator::new(context, JoinKeys::of_secret(&SECRET), &own, rng).poll_datagram().unwrap();
    let outcome = JoinResponder::accept_hello(MESH, JoinKeys::of_secret(&SECRET), &own, &hello, b"", rng);
    assert_eq!(outcome.err(), Some(JoinError::Sealed));
}

#[test]
fn every_bit_of_the_hello_counts() {
    let rng = &mut StdRng::seed_from_u64(1);
    let own = TransportSecret::random(rng);
    let context = JoinContext::random(MESH, INVITER, rng);
    let hello = JoinInitiator::new(context, JoinKeys::of_secret(&SECRET), &own, rng).poll_datagram().unwrap();
    for bit in 0..hello.len() * 8 {
        let mut hello = hello.clone();
        hello[bit / 8] ^= 1 << (bit % 8);
        let keys = JoinKeys::of_secret(&SECRET);
        assert!(JoinResponder::accept_hello(MESH, keys, &own, &hello, b"", rng).is_err(), "bit {bit}");
    }
}

#[test]
fn a_damaged_message_2_is_asked_for_again() {
    let mut exchange = begun(2);
    for index in 0..3 {
        let mut answer = exchange.inviter.answer(index).unwrap();
        *answer.last_mut().unwrap() ^= 1;
        let Stage::Answer(piece) = Join::parse(&answer).unwrap().stage else { panic!("not an answer") };
        let outcome = exchange.joiner.handle_answer(&piece).map(|says| says.is_some());
        assert_eq!(outcome, if index < 2 { Ok(false) } else { Err(JoinError::Sealed) });
    }
    assert_eq!(answered(&mut exchange).payload, [8; 2500]);
}

#[test]
fn damaged_message_3_in_any_place_then_the_right_one() {
    let mut exchange = begun(3);
    answered(&mut exchange);
    exchange.joiner.finish(b"me").unwrap();
    let message = finish_of(&exchange);
    for at in 0..message.len() {
        let mut damaged = message.clone();
        damaged[at] ^= 0x10;
        assert_eq!(exchange.inviter.handle_finish(&damaged).err(), Some(JoinError::Sealed), "byte {at}");
    }
    for len in 0..message.len() {
        assert_eq!(exchange.inviter.handle_finish(&message[..len]).err(), Some(JoinError::Sealed));
    }
    assert_eq!(exchange.inviter.handle_finish(&message).unwrap().payload, b"me");
    assert_eq!(exchange.inviter.handle_finish(&message).unwrap().payload, b"me", "and again");
    assert_eq!(exchange.inviter.handle_finish(&message[1..]).err(), Some(JoinError::Unexpected));
}

#[test]
fn garbage_for_message_3_costs_no_key_agreement() {
    let mut exchange = begun(4);
    let before = exchange.inviter.meter.count();
    for n in 0..100 {
        assert!(exchange.inviter.handle_finish(&[n; 200]).is_err());
    }
    assert_eq!(exchange.inviter.meter.count(), before);
}

#[test]
fn refusals_are_believed_from_the_inviter_only() {
    let mut exchange = begun(5);
    let datagram = exchange.inviter.refuse(7).unwrap();
    let Stage::Refused(bytes) = Join::parse(&datagram).unwrap().stage else { panic!("not a refusal") };
    assert_eq!(exchange.joiner.handle_refused(bytes), Ok(7));
    for at in 0..bytes.len() {
        let mut forged = bytes.to_vec();
        forged[at] ^= 1;
        assert_eq!(exchange.joiner.handle_refused(&forged), Err(JoinError::Sealed));
    }
    assert_eq!(begun(6).joiner.handle_refused(bytes), Err(JoinError::Sealed), "another exchange");
}

#[test]
fn an_inviter_sends_only_so_much() {
    let mut exchange = begun(7);
    let sent = (0..2 * MAX_DATAGRAMS).filter(|_| exchange.inviter.answer(0).is_some()).count();
    assert_eq!(sent, MAX_DATAGRAMS as usize);
}

/// What is as long as it may be arrives; a byte more is refused where it is made.
#[test]
fn every_message_may_be_so_long_and_no_longer() {
    let longest_answer = MAX_PIECES * MAX_PIECE_LEN - ANSWER_OVERHEAD;
    let begin = |len: usize| {
        let rng = &mut StdRng::seed_from_u64(9);
        let (own, theirs) = (TransportSecret::random(rng), TransportSecret::random(rng));
        let context = JoinContext::random(MESH, INVITER, rng);
        let joiner = JoinInitiator::new(context, JoinKeys::of_secret(&SECRET), &own, rng);
        let hello = joiner.poll_datagram().unwrap();
        let keys = JoinKeys::of_secret(&SECRET);
        let inviter = JoinResponder::accept_hello(MESH, keys, &theirs, &hello, &vec![8; len], rng)?;
        Ok((joiner, inviter))
    };
    assert_eq!(begin(longest_answer + 1).err(), Some(JoinError::TooLong));
    let (mut joiner, mut inviter) = begin(longest_answer).unwrap();
    let mut pieces = 0;
    let says = loop {
        let question = joiner.poll_datagram().unwrap();
        let answer = serve(&mut inviter, &question).unwrap();
        let Stage::Answer(piece) = Join::parse(&answer).unwrap().stage else { panic!("not an answer") };
        pieces += 1;
        if let Some(says) = joiner.handle_answer(&piece).unwrap() {
            break says;
        }
    };
    assert_eq!((pieces, says.payload.len()), (MAX_PIECES, longest_answer));

    let longest_finish = JOIN_MAX_LEN - JOIN_HEADER_LEN - FINISH_OVERHEAD;
    assert_eq!(joiner.finish(&vec![1; longest_finish + 1]), Err(JoinError::TooLong));
    joiner.finish(&vec![1; longest_finish]).unwrap();
    let finish = joiner.poll_datagram().unwrap();
    assert_eq!(finish.len(), JOIN_MAX_LEN);
    let Stage::Finish(message) = Join::parse(&finish).unwrap().stage else { panic!("message 3 is due") };
    assert_eq!(inviter.handle_finish(message).unwrap().payload.len(), longest_finish);

    let longest_welcome = MAX_PIECES * MAX_PIECE_LEN - WELCOME_OVERHEAD;
    assert_eq!(inviter.set_welcome(&vec![9; longest_welcome + 1]), Err(JoinError::TooLong));
    inviter.set_welcome(&vec![9; longest_welcome]).unwrap();
    let last = inviter.welcome(MAX_PIECES as u8 - 1).unwrap();
    assert!(inviter.welcome(MAX_PIECES as u8).is_none());
    let Stage::Welcome(piece) = Join::parse(&last).unwrap().stage else { panic!("not a welcome") };
    assert_eq!(piece.bytes.len(), MAX_PIECE_LEN);
}

#[test]
fn a_hello_that_another_exchange_began_with_is_known_for_another_one() {
    let [one, two] = [10, 11].map(begun);
    let hellos = [10, 11].map(|seed| {
        let rng = &mut StdRng::seed_from_u64(seed);
        let (own, _) = (TransportSecret::random(rng), TransportSecret::random(rng));
        let context = JoinContext::random(MESH, INVITER, rng);
        JoinInitiator::new(context, JoinKeys::of_secret(&SECRET), &own, rng).poll_datagram().unwrap()
    });
    let knows = |inviter: &JoinResponder| hellos.each_ref().map(|hello| inviter.began_with(hello));
    assert_eq!((knows(&one.inviter), knows(&two.inviter)), ([true, false], [false, true]));
}

#[test]
fn two_welcomes_never_share_a_nonce() {
    let mut exchange = begun(8);
    answered(&mut exchange);
    exchange.joiner.finish(b"me").unwrap();
    exchange.inviter.handle_finish(&finish_of(&exchange)).unwrap();
    exchange.inviter.set_welcome(b"one").unwrap();
    let one = exchange.inviter.welcome(0).unwrap();
    exchange.inviter.set_welcome(b"one").unwrap();
    assert_ne!(exchange.inviter.welcome(0).unwrap(), one);
}

proptest! {
    #[test]
    fn pieces_in_any_order_and_number_never_panic(
        pieces in proptest::collection::vec((any::<u8>(), any::<u8>(), 0usize..20), 0..60),
    ) {
        let mut exchange = begun(9);
        for (index, total, len) in pieces {
            let _ = exchange.joiner.handle_answer(&Piece { index, total, bytes: &vec![1; len] });
        }
        prop_assert!(exchange.joiner.poll_datagram().is_some());
    }
}
