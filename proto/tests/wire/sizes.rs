//! The sizes that the design promises: what a datagram costs, and that no answer is longer than the question.

use proto::cookie::COOKIE_LEN;
use proto::data;
use proto::datagram::Kind;
use proto::handshake::{
    Attachment, INIT_HEADER_LEN, INIT_LEN, INIT_MAX_LEN, INIT_NOISE_OVERHEAD, INIT_PAYLOAD_LEN,
    INIT_PAYLOAD_MAX_LEN, Init, InitPayload, MAC_LEN, RESPONSE_HEADER_LEN, RESPONSE_LEN,
    RESPONSE_NOISE_OVERHEAD, RESPONSE_PAYLOAD_LEN,
};
use proto::id::{KeyEpochNumber, SecretId};
use proto::join::JOIN_MAX_LEN;
use proto::key_epoch::{Capabilities, KEY_EPOCH_MAX_LEN};
use proto::relay;
use proto::stale::STALE_KEY_MAX_LEN;

use crate::sample::{self, MAC1, MAC2, REVOCATIONS, SENDER, sign};
use crate::vectors::vector;

/// IPv4 and UDP; IPv6 and UDP.
const UDP_OVER_IPV4: usize = 20 + 8;
const UDP_OVER_IPV6: usize = 40 + 8;

#[test]
fn handshake_datagrams_have_the_promised_sizes() {
    assert_eq!(INIT_LEN, 176);
    assert_eq!(RESPONSE_LEN, 120);
    assert_eq!(COOKIE_LEN, 64);
    assert_eq!(INIT_LEN, INIT_HEADER_LEN + INIT_NOISE_OVERHEAD + INIT_PAYLOAD_LEN + 2 * MAC_LEN);
    assert_eq!(
        RESPONSE_LEN,
        RESPONSE_HEADER_LEN + RESPONSE_NOISE_OVERHEAD + RESPONSE_PAYLOAD_LEN + 2 * MAC_LEN
    );
    assert_eq!(vector("init").len(), INIT_LEN);
    assert_eq!(vector("response").len(), RESPONSE_LEN);
    assert_eq!(vector("cookie").len(), COOKIE_LEN);
    assert_eq!(vector("init_payload").len(), INIT_PAYLOAD_LEN);
    assert_eq!(vector("response_payload").len(), RESPONSE_PAYLOAD_LEN);
    assert_eq!(vector("response_payload_stale_timestamp").len(), RESPONSE_PAYLOAD_LEN);
}

#[test]
fn no_answer_to_an_unknown_sender_is_longer_than_the_shortest_question() {
    const { assert!(RESPONSE_LEN <= INIT_LEN && COOKIE_LEN <= INIT_LEN && STALE_KEY_MAX_LEN <= INIT_LEN) };
    // The longest key epoch fits into a stale-key answer: 8 before it, 16 after it.
    assert_eq!(8 + KEY_EPOCH_MAX_LEN + MAC_LEN, STALE_KEY_MAX_LEN);
    assert_eq!(vector("stale_key").len(), 175);
}

#[test]
fn first_contact_fits_into_one_datagram() {
    let key_epoch = sign(sample::key_epoch()).to_bytes();
    let certificate = sign(sample::certificate()).to_bytes();
    let init = init_with(&[Attachment::Certificate(&certificate), Attachment::KeyEpoch(&key_epoch)]);
    assert_eq!(init.len(), 176 + 3 + 266 + 3 + 151);
    assert!(Init::parse(&init).is_ok());
    // As issued by a member with the issuer role, so that the issuer's certificate comes along.
    let issued = sign(sample::certificate_minimal()).to_bytes();
    let init = init_with(&[
        Attachment::Certificate(&issued),
        Attachment::KeyEpoch(&key_epoch),
        Attachment::IssuerCertificate(&certificate),
    ]);
    assert!(init.len() <= INIT_MAX_LEN, "{}", init.len());
    assert_eq!(INIT_PAYLOAD_MAX_LEN - INIT_PAYLOAD_LEN, INIT_MAX_LEN - INIT_LEN);
}

#[test]
fn data_costs_34_bytes_and_a_relay_32_more() {
    assert_eq!(data::HEADER_LEN + data::TRAILER_LEN + data::TAG_LEN, 34);
    assert_eq!(UDP_OVER_IPV4 + 34, 62);
    assert_eq!(UDP_OVER_IPV6 + 34, 82);
    assert_eq!(relay::HEADER_LEN + relay::HOP_TAG_LEN, 32);
    assert_eq!(relay::LONG_LEN + relay::HOP_TAG_LEN, 64);
    assert_eq!(vector("data").len(), 20 + 34);
    // Both relay vectors hold the same inner datagram.
    let short = relay::Header::parse(&vector("relay_short")).unwrap();
    let long = relay::Header::parse(&vector("relay_long")).unwrap();
    assert_eq!((short.len(), long.len()), (relay::HEADER_LEN, relay::LONG_LEN));
    let inner_at = |header: &relay::Header| header.len() + relay::HOP_TAG_LEN;
    assert_eq!(vector("relay_short")[inner_at(&short)..], vector("relay_long")[inner_at(&long)..]);
    assert_eq!(Kind::of(&vector("relay_long")[inner_at(&long)..]), Some(Kind::Data));
}

#[test]
fn control_datagrams_fit_the_smallest_ipv6_mtu() {
    const IPV6_MIN_MTU: usize = 1280;
    // A fragment of an object, and the longest list of versions, relayed by label.
    let overhead = UDP_OVER_IPV6 + 32 + 34;
    let fragment = 3 + 10 + proto::frame::MAX_FRAGMENT_LEN;
    let versions = 3 + 4 + proto::frame::MAX_VERSIONS * 32;
    assert!(overhead + fragment <= IPV6_MIN_MTU, "{}", overhead + fragment);
    assert!(overhead + versions <= IPV6_MIN_MTU, "{}", overhead + versions);
    // Handshakes and joins, direct.
    const { assert!(UDP_OVER_IPV6 + INIT_MAX_LEN <= IPV6_MIN_MTU) };
    const { assert!(UDP_OVER_IPV6 + JOIN_MAX_LEN <= IPV6_MIN_MTU) };
    const { assert!(24 + 2 + proto::join::MAX_PIECE_LEN <= JOIN_MAX_LEN) };
}

/// An init with attachments; its Noise message is the payload in clear between zeros of the right length.
fn init_with(attachments: &[Attachment<'_>]) -> Vec<u8> {
    let payload = InitPayload {
        timestamp_us: 1,
        sender_epoch: KeyEpochNumber(1),
        responder_epoch: KeyEpochNumber(1),
        capabilities: Capabilities::default(),
        bundle_version: 1,
        revocations: REVOCATIONS,
        secret: SecretId(u64::MAX),
        attachments: attachments.to_vec(),
    };
    let mut noise = vec![0; 32 + 48];
    payload.emit(&mut noise);
    noise.extend([0; 16]);
    let mut init = Vec::new();
    Init { sender: SENDER, noise: &noise, mac1: MAC1, mac2: MAC2 }.emit(&mut init);
    init
}
