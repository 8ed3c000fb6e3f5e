//! What a newer version may add is passed over and passed on; what it must not hide is refused.

use proto::bundle::SignedBundle;
use proto::certificate::{CERTIFICATE_MAX_LEN, Certificate};
use proto::cookie::Cookie;
use proto::data::{self, Trailer};
use proto::datagram::Kind;
use proto::endpoint::CandidateKind;
use proto::frame::{Frame, frames};
use proto::handshake::{Attachment, Init, InitPayload, Response, ResponsePayload};
use proto::invitation::{Invitation, InvitationError};
use proto::join::Join;
use proto::key_epoch::{KEY_EPOCH_MAX_LEN, KeyEpoch};
use proto::record::Record;
use proto::relay;
use proto::revocation::Revocation;
use proto::signed::{Body, ObjectKind, Signed};
use proto::stale::StaleKey;
use proto::{Error, VERSION};

use crate::vectors::vector;

/// Fields of a newer version, which this one may skip: the first and the last such type.
const SKIPPABLE: &[u8] = &[0x80, 0, 2, 0xde, 0xad, 0xff, 0, 0];
/// A field of a newer version that this one must not skip.
const CRITICAL: &[u8] = &[0x7f, 0, 1, 0];

#[test]
fn unknown_fields_of_objects_are_skipped_and_kept() {
    fields_are_skipped_and_kept::<Certificate>(&["certificate", "certificate_minimal"]);
    fields_are_skipped_and_kept::<Record>(&["record", "record_minimal"]);
    fields_are_skipped_and_kept::<Revocation>(&["revocation_member", "revocation_serial", "revocation_key"]);
}

fn fields_are_skipped_and_kept<T: Body + PartialEq + std::fmt::Debug>(names: &[&str]) {
    for name in names {
        let known = Signed::<T>::parse(&vector(name)).unwrap();
        let newer = with_fields(&vector(name), SKIPPABLE);
        let read = Signed::<T>::parse(&newer).unwrap();
        assert_eq!(read.body(), known.body(), "{name}");
        assert_eq!(read.to_bytes(), newer, "{name}: passed on with other bytes");
        let signed = read.signing_bytes();
        assert!(signed.ends_with(&newer[..newer.len() - 64]), "{name}: the signature does not cover all");
        assert_ne!(read, known, "{name}");
    }
}

#[test]
fn unknown_critical_fields_of_objects_are_refused() {
    let critical = |name: &str| with_fields(&vector(name), CRITICAL);
    let error = Error::UnknownCriticalField(0x7f);
    assert_eq!(Signed::<Certificate>::parse(&critical("certificate")), Err(error));
    assert_eq!(Signed::<Record>::parse(&critical("record_minimal")), Err(error));
    assert_eq!(Signed::<Revocation>::parse(&critical("revocation_key")), Err(error));
    assert_eq!(SignedBundle::parse(&critical("trust_bundle")), Err(error));
    let epoch = with_fields(&vector("key_epoch"), &[]);
    assert!(Signed::<KeyEpoch>::parse(&epoch).is_ok());
    // Between known fields as well: one before the first.
    let mut early = vector("record");
    early.splice(4..4, [0, 0, 0]);
    grow_body_len(&mut early, 3);
    assert_eq!(Signed::<Record>::parse(&early), Err(Error::UnknownCriticalField(0)));
}

#[test]
fn a_key_epoch_has_no_room_for_fields() {
    // It must fit into a stale-key answer: what a newer version has to say goes into the capability bits.
    let newer = with_fields(&vector("key_epoch"), &[0x80, 0, 0]);
    assert_eq!(newer.len(), KEY_EPOCH_MAX_LEN + 2);
    assert_eq!(Signed::<KeyEpoch>::parse(&newer), Err(Error::TooLong("key epoch")));
    let mut capable = vector("key_epoch");
    let bits = 4 + 3 + 76;
    capable[bits..bits + 4].fill(0xff);
    let read = Signed::<KeyEpoch>::parse(&capable).unwrap();
    assert_eq!(read.body().capabilities.0, u32::MAX);
    assert_eq!(read.to_bytes(), capable);
}

#[test]
fn objects_grow_up_to_their_limit() {
    let padded = |len: usize| {
        let value = vec![0; len - vector("certificate").len() - 3];
        with_fields(
            &vector("certificate"),
            &[&[0x80][..], &(value.len() as u16).to_be_bytes(), &value].concat(),
        )
    };
    assert!(Signed::<Certificate>::parse(&padded(CERTIFICATE_MAX_LEN)).is_ok());
    let error = Error::TooLong("certificate");
    assert_eq!(Signed::<Certificate>::parse(&padded(CERTIFICATE_MAX_LEN + 1)), Err(error));
}

#[test]
fn unknown_fields_of_a_bundle_are_part_of_mesh_id_and_hash() {
    let known = SignedBundle::parse(&vector("trust_bundle")).unwrap();
    let newer = with_fields(&vector("trust_bundle"), SKIPPABLE);
    let read = SignedBundle::parse(&newer).unwrap();
    assert_eq!(read.body(), known.body());
    assert_eq!(read.to_bytes(), newer);
    assert_ne!(read.hash(), known.hash());
    assert_ne!(read.mesh_id_of_first(), known.mesh_id_of_first());
    assert_ne!(read.signing_bytes(), known.signing_bytes());
}

#[test]
fn fields_out_of_order_or_twice_are_refused() {
    let twice = with_fields(&vector("record"), &[0x80, 0, 0, 0x80, 0, 0]);
    assert_eq!(Signed::<Record>::parse(&twice), Err(Error::FieldOrder));
    let backwards = with_fields(&vector("record"), &[0x81, 0, 0, 0x80, 0, 0]);
    assert_eq!(Signed::<Record>::parse(&backwards), Err(Error::FieldOrder));
    let late = with_fields(&vector("record"), &[9, 0, 1, 1]);
    assert_eq!(Signed::<Record>::parse(&late), Err(Error::FieldOrder));
}

#[test]
fn no_known_field_takes_a_byte_more() {
    for name in
        ["certificate", "key_epoch", "record", "revocation_member", "revocation_serial", "revocation_key"]
    {
        every_field_refuses_a_byte_more(name, |object| match ObjectKind::of(object) {
            Some(ObjectKind::Certificate) => Signed::<Certificate>::parse(object).is_err(),
            Some(ObjectKind::KeyEpoch) => KeyEpoch::parse_body(&object[4..object.len() - 64]).is_err(),
            Some(ObjectKind::Record) => Signed::<Record>::parse(object).is_err(),
            _ => Signed::<Revocation>::parse(object).is_err(),
        });
    }
    every_field_refuses_a_byte_more("trust_bundle", |object| SignedBundle::parse(object).is_err());
    every_field_refuses_a_byte_more("trust_bundle_second", |object| SignedBundle::parse(object).is_err());
}

fn every_field_refuses_a_byte_more(name: &str, refused: impl Fn(&[u8]) -> bool) {
    let object = vector(name);
    let body_end = 4 + usize::from(u16::from_be_bytes([object[2], object[3]]));
    let mut at = 4;
    while at < body_end {
        let len = u16::from_be_bytes([object[at + 1], object[at + 2]]);
        let end = at + 3 + usize::from(len);
        let mut longer = object.clone();
        longer.insert(end, 0);
        longer[at + 1..at + 3].copy_from_slice(&(len + 1).to_be_bytes());
        grow_body_len(&mut longer, 1);
        assert!(refused(&longer), "{name}: field {}", object[at]);
        at = end;
    }
}

#[test]
fn missing_fields_are_named() {
    let mut object = vector("record_minimal");
    // Without the last field, the keys.
    let keys_at = object.len() - 64 - 15;
    object.drain(keys_at..keys_at + 15);
    let len = u16::from_be_bytes([object[2], object[3]]) - 15;
    object[2..4].copy_from_slice(&len.to_be_bytes());
    assert_eq!(Signed::<Record>::parse(&object), Err(Error::MissingField("keys")));
}

#[test]
fn other_envelopes_and_kinds_are_refused() {
    let mut newer = vector("record");
    newer[0] = 2;
    assert_eq!(Signed::<Record>::parse(&newer), Err(Error::UnknownVersion(2)));
    assert_eq!(ObjectKind::of(&newer), None);
    assert_eq!(Signed::<Record>::parse(&vector("certificate")), Err(Error::UnexpectedType(1)));
    assert_eq!(SignedBundle::parse(&vector("certificate")), Err(Error::UnexpectedType(1)));
    assert_eq!(ObjectKind::of(&[1, 6]), None);
    assert_eq!(ObjectKind::of(&[1]), None);
}

#[test]
fn unknown_frames_are_skipped() {
    let (get, close) = (vector("frame_get"), vector("frame_close"));
    let unknown = [200, 0, 3, 1, 2, 3];
    let datagram = [&unknown[..], &get, &unknown, &[0, 0, 0], &close, &unknown].concat();
    let read: Vec<Frame> = frames(&datagram).map(Result::unwrap).collect();
    let expected: Vec<Frame> =
        [&get, &close].iter().flat_map(|one| frames(one)).map(Result::unwrap).collect();
    assert_eq!(read, expected);
    assert_eq!(frames(&unknown).count(), 0);
}

#[test]
fn known_frames_with_more_bytes_are_read_as_far_as_known() {
    // All but those whose last part is everything that is left.
    let growing = [
        "probe_reply",
        "probe_reply_relayed",
        "hello",
        "candidates",
        "summary",
        "bucket_versions",
        "get",
        "relay_label",
        "relay_unknown",
        "close",
        "echo",
        "echo_reply",
    ];
    for name in growing {
        let known = vector(&format!("frame_{name}"));
        let mut newer = known.clone();
        newer.extend([1, 2, 3]);
        let len = u16::from_be_bytes([newer[1], newer[2]]) + 3;
        newer[1..3].copy_from_slice(&len.to_be_bytes());
        newer.extend(vector("frame_close"));
        let read: Vec<Frame> = frames(&newer).map(Result::unwrap).collect();
        assert_eq!(Some(&read[0]), frames(&known).next().unwrap().as_ref().ok(), "{name}");
        assert_eq!(read[1], Frame::Close { reason: 1 }, "{name}");
    }
}

#[test]
fn unknown_attachments_are_skipped() {
    let mut payload = vector("init_payload");
    payload.extend([9, 0, 2, 7, 7]);
    payload.extend([2, 0, 1, 5]);
    payload.extend([255, 0, 0]);
    let read = InitPayload::parse(&payload).unwrap();
    assert_eq!(read.attachments, [Attachment::KeyEpoch(&[5])]);
}

#[test]
fn reserved_bytes_of_datagrams_are_ignored() {
    for name in ["init", "response", "cookie", "stale_key", "data", "join_finish"] {
        let known = vector(name);
        let mut newer = known.clone();
        match Kind::of(&known).unwrap() {
            Kind::Data => newer[1] = 0xff,
            Kind::Join => newer[2..4].fill(0xff),
            // The lowest flag of a response is in use.
            Kind::Response => newer[1..4].copy_from_slice(&[0xfe, 0xff, 0xff]),
            _ => newer[1..4].fill(0xff),
        }
        match Kind::of(&known).unwrap() {
            Kind::Init => assert_eq!(Init::parse(&newer), Init::parse(&known)),
            Kind::Response => assert_eq!(Response::parse(&newer), Response::parse(&known)),
            Kind::Cookie => assert_eq!(Cookie::parse(&newer), Cookie::parse(&known)),
            Kind::StaleKey => assert_eq!(StaleKey::parse(&newer), StaleKey::parse(&known)),
            Kind::Data => assert_eq!(data::Header::parse(&newer), data::Header::parse(&known)),
            Kind::Join => assert_eq!(Join::parse(&newer), Join::parse(&known)),
            Kind::Relay => unreachable!("not in the list"),
        }
    }
    let mut relayed = vector("relay_short");
    relayed[1] |= 0x40;
    assert_eq!(relay::Header::parse(&relayed), relay::Header::parse(&vector("relay_short")));
    let mut payload = vector("response_payload");
    payload[1..4].fill(0xff);
    payload[24..28].fill(0xff);
    assert_eq!(ResponsePayload::parse(&payload), ResponsePayload::parse(&vector("response_payload")));
}

#[test]
fn unknown_bits_are_kept_where_they_are_sets() {
    let mut object = vector("certificate");
    let roles_at = object.windows(4).position(|bytes| bytes == [8, 0, 1, 3]).unwrap() + 3;
    object[roles_at] = 0xf3;
    let read = Signed::<Certificate>::parse(&object).unwrap();
    assert_eq!(read.body().roles.0, 0xf3);
    assert_eq!(read.body().roles.names().collect::<Vec<_>>(), ["relay", "issuer"]);
    let mut object = vector("record");
    let flags_at = object.windows(4).position(|bytes| bytes == [9, 0, 1, 1]).unwrap() + 3;
    for (flags, relays) in [(0xfe, false), (0xff, true)] {
        object[flags_at] = flags;
        let read = Signed::<Record>::parse(&object).unwrap();
        assert_eq!((read.body().relays, read.to_bytes() == object), (relays, true));
    }
    let (_, trailer) = Trailer::split(&[0xff, 0]).unwrap();
    assert_eq!(trailer.flags.0, 0xff);
}

#[test]
fn a_candidate_of_unknown_kind_is_still_tried() {
    let mut bytes = vector("frame_candidates");
    bytes[4] = 77;
    let Some(Ok(Frame::Candidates(read))) = frames(&bytes).next() else { panic!("not candidates") };
    assert_eq!(read[0].kind, CandidateKind::Reflexive);
}

#[test]
fn datagrams_of_another_version_or_type_are_refused() {
    let newer = |name: &str| {
        let mut datagram = vector(name);
        datagram[0] = (VERSION + 1) << 4 | datagram[0] & 0x0f;
        assert_eq!(Kind::of(&datagram), None);
        datagram
    };
    let error = Error::UnknownVersion(VERSION + 1);
    assert_eq!(Init::parse(&newer("init")), Err(error));
    assert_eq!(Response::parse(&newer("response")), Err(error));
    assert_eq!(Cookie::parse(&newer("cookie")), Err(error));
    assert_eq!(StaleKey::parse(&newer("stale_key")), Err(error));
    assert_eq!(data::Header::parse(&newer("data")), Err(error));
    assert_eq!(relay::Header::parse(&newer("relay_short")), Err(error));
    assert_eq!(Join::parse(&newer("join_hello")), Err(error));
    assert_eq!(Cookie::parse(&vector("response")), Err(Error::UnexpectedType(2)));
    for kind in [0, 8, 15] {
        assert_eq!(Kind::of(&[VERSION << 4 | kind]), None);
    }
    assert_eq!(Kind::of(&[]), None);
    let mut stage = vector("join_finish");
    stage[1] = 7;
    assert_eq!(Join::parse(&stage), Err(Error::UnexpectedType(7)));
}

#[test]
fn an_invitation_of_a_newer_version_says_so() {
    let mut blob = vector("invitation");
    blob[0] = 3;
    assert_eq!(url(&mut blob).parse::<Invitation>().err(), Some(InvitationError::NewerVersion(3)));
    // The second has places on TCP.
    blob[0] = 2;
    assert_eq!(url(&mut blob).parse::<Invitation>().err(), Some(InvitationError::Damaged));
    blob[0] = 0;
    assert_eq!(url(&mut blob).parse::<Invitation>().err(), Some(InvitationError::Damaged));
    let mut longer = vector("invitation");
    assert!(url(&mut longer).parse::<Invitation>().is_ok());
    longer.push(0);
    assert_eq!(url(&mut longer).parse::<Invitation>().err(), Some(InvitationError::Damaged));
}

/// The URL of a blob, after its checksum was made right.
fn url(blob: &mut [u8]) -> String {
    use base64::Engine as _;
    use blake2::{Blake2s256, Digest};
    let (content, checksum) = blob.split_last_chunk_mut::<4>().unwrap();
    let hash = Blake2s256::new().chain_update(b"lab\0").chain_update(&*content).finalize();
    checksum.copy_from_slice(&hash[..4]);
    format!("meshd://lab/{}", base64::engine::general_purpose::URL_SAFE_NO_PAD.encode(blob))
}

/// The object with `fields` at the end of its body. Its signature is that of the object without them, which does not
/// matter here.
fn with_fields(object: &[u8], fields: &[u8]) -> Vec<u8> {
    let body_len = usize::from(u16::from_be_bytes([object[2], object[3]]));
    let mut newer = object.to_vec();
    newer.splice(4 + body_len..4 + body_len, fields.iter().copied());
    grow_body_len(&mut newer, fields.len() as u16);
    newer
}

/// Adds to the length of an object's body.
fn grow_body_len(object: &mut [u8], more: u16) {
    let len = u16::from_be_bytes([object[2], object[3]]) + more;
    object[2..4].copy_from_slice(&len.to_be_bytes());
}
