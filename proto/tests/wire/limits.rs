//! Every list and text has a limit: what is at it is read, what is over it is refused, and nothing over it is signed.

use std::net::{IpAddr, Ipv4Addr};

use ipnet::{IpNet, Ipv4Net};
use proto::Error;
use proto::bundle::{BundleSignature, MAX_ROOTS, MAX_SIGNATURES, SignedBundle, TrustBundle};
use proto::certificate::{Certificate, IssuerConstraints, MAX_ADDRESSES, MAX_PREFIXES};
use proto::endpoint::{Candidate, CandidateKind, MAX_CANDIDATES};
use proto::frame::{
    Frame, KEM_CIPHERTEXT_LEN, KEM_KEY_LEN, KEM_PIECE_OVERHEAD, KemPiece, MAX_FRAGMENT_LEN, MAX_FRAGMENTS,
    MAX_PADDING, MAX_VERSION_TEXT, MAX_VERSIONS, frames,
};
use proto::handshake::{INIT_MAX_LEN, Init, InitPayload, MAX_ATTACHMENTS};
use proto::id::{BootEpoch, HandshakeId, IdentityKey, InvitationId, KeyEpochNumber, MemberId, Name, Seq};
use proto::invitation::{Host, HostPort, Invitation, InvitationError, MAX_ENDPOINTS, MAX_URL_LEN};
use proto::join::{JOIN_MAX_LEN, Join, MAX_PIECE_LEN, Piece, Stage};
use proto::key_epoch::Capabilities;
use proto::record::{
    KeyPlan, Link, MAX_CONFIRMS, MAX_LINKS, MAX_SHORT_CONFIRMS, MAX_SUBNETS, MAX_WITHOUT, Record, Subnet,
};
use proto::signed::{Body, OBJECT_MAX_LEN, OBJECT_VERSION, Signed};
use proto::stale::{STALE_KEY_MAX_LEN, StaleKey};
use proto::{data, relay};

use crate::sample::{self, CREATED_S, MEMBER, SIGNATURE};
use crate::vectors::vector;

#[test]
fn certificate_lists_are_limited() {
    let with = |addresses: usize, prefixes: usize| Certificate {
        addresses: (0..addresses).map(|at| IpAddr::V4(Ipv4Addr::new(10, 0, 0, at as u8))).collect(),
        prefixes: prefixes_v4(prefixes),
        ..sample::certificate_minimal()
    };
    accepts(&with(MAX_ADDRESSES, MAX_PREFIXES));
    refuses(&with(MAX_ADDRESSES + 1, 0), Error::TooLong("addresses"));
    refuses(&with(0, MAX_PREFIXES + 1), Error::TooLong("prefixes"));
    refuses_to_sign(&with(0, 100_000), Error::TooLong("prefixes"));
    // 64 IPv6 prefixes are allowed by number, but too long for a certificate.
    let wide = (0..MAX_PREFIXES as u16).map(|at| format!("fd00:{at:x}::/32").parse().unwrap()).collect();
    refuses(&Certificate { prefixes: wide, ..sample::certificate_minimal() }, Error::TooLong("certificate"));
}

#[test]
fn issuer_constraints_are_limited() {
    let with = |name_suffix: &str, prefixes: usize| Certificate {
        constraints: Some(Box::new(IssuerConstraints {
            name_suffix: name_suffix.to_owned(),
            prefixes: prefixes_v4(prefixes),
            max_lifetime_s: 1,
        })),
        ..sample::certificate_minimal()
    };
    accepts(&with("", 0));
    accepts(&with(&"a".repeat(Name::MAX_LEN), MAX_PREFIXES));
    refuses(&with("", MAX_PREFIXES + 1), Error::TooLong("prefixes"));
    refuses(&with(&"a".repeat(Name::MAX_LEN + 1), 0), Error::TooLong("name suffix"));
    refuses_to_sign(&with(&"a".repeat(1000), 0), Error::TooLong("name suffix"));
    for never_a_suffix in [".dc1", "DC1", "dc1-", "dc\u{e9}"] {
        refuses(&with(never_a_suffix, 0), Error::InvalidField("name suffix"));
    }
}

#[test]
fn a_certificate_does_not_end_before_it_begins() {
    accepts(&Certificate { not_after_s: CREATED_S, ..sample::certificate() });
    let certificate = Certificate { not_after_s: CREATED_S - 1, ..sample::certificate() };
    refuses(&certificate, Error::InvalidField("validity"));
}

#[test]
fn record_lists_are_limited() {
    let with = |subnets: usize, links: usize| Record {
        subnets: prefixes_v4(subnets).into_iter().map(|prefix| Subnet { prefix, weight: 1 }).collect(),
        links: (0..links).map(|at| Link { member: MemberId([at as u8; 16]), cost_us: 1 }).collect(),
        ..sample::record_minimal()
    };
    accepts(&with(MAX_SUBNETS, MAX_LINKS));
    refuses(&with(MAX_SUBNETS + 1, 0), Error::TooLong("subnets"));
    refuses(&with(0, MAX_LINKS + 1), Error::TooLong("links"));
    let confirming = |count: usize| Record {
        confirms: (0..count).map(|at| (MemberId([at as u8; 16]), KeyEpochNumber(1))).collect(),
        ..sample::record_minimal()
    };
    let planning = |count: usize| Record {
        plan: Some(KeyPlan { created_s: 1, aborted: true, wave: 1, without: vec![MEMBER; count] }),
        ..sample::record_minimal()
    };
    accepts(&planning(MAX_WITHOUT));
    refuses(&planning(MAX_WITHOUT + 1), Error::TooLong("without"));
    accepts(&confirming(MAX_CONFIRMS));
    refuses(&confirming(MAX_CONFIRMS + 1), Error::TooLong("confirms"));
    let in_short = |count: usize| Record { short_confirms: vec![7; count], ..sample::record_minimal() };
    accepts(&in_short(MAX_SHORT_CONFIRMS));
    refuses(&in_short(MAX_SHORT_CONFIRMS + 1), Error::TooLong("short confirms"));
    refuses_to_sign(&with(0, 100_000), Error::TooLong("links"));
}

#[test]
fn a_record_over_8_kib_is_refused() {
    let wide: Vec<Subnet> = (0..MAX_SUBNETS as u16)
        .map(|at| Subnet { prefix: format!("fd00:{at:x}::/32").parse().unwrap(), weight: 1 })
        .collect();
    let links = vec![Link { member: MEMBER, cost_us: 1 }; MAX_LINKS];
    refuses(&Record { subnets: wide, links, ..sample::record_minimal() }, Error::TooLong("record"));
    assert_eq!(Signed::<Record>::parse(&[1; OBJECT_MAX_LEN + 1]), Err(Error::TooLong("record")));
}

#[test]
fn what_is_signed_is_held_as_readers_see_it() {
    let subnet = |prefix: &str| Subnet { prefix: prefix.parse().unwrap(), weight: 1 };
    let record = Record { subnets: vec![subnet("10.1.2.3/16")], ..sample::record() };
    let signed = sample::sign(record);
    assert_eq!(signed.body().subnets, [subnet("10.1.0.0/16")]);
    assert_eq!(Signed::parse(&signed.to_bytes()), Ok(signed));
}

#[test]
fn host_bits_of_a_prefix_are_refused() {
    let mut object = vector("record");
    let at = object.windows(6).position(|bytes| bytes == [4, 16, 10, 1, 0, 0]).unwrap();
    object[at + 5] = 1;
    assert_eq!(Signed::<Record>::parse(&object), Err(Error::InvalidField("prefix")));
    object[at + 1] = 33;
    assert_eq!(Signed::<Record>::parse(&object), Err(Error::InvalidField("prefix")));
}

#[test]
fn bundle_lists_are_limited() {
    let with = |roots: usize, threshold: u8| {
        let roots = (0..roots).map(|at| IdentityKey([at as u8; 32])).collect();
        SignedBundle::unsigned(TrustBundle { roots, threshold, ..sample::bundle_body() })
    };
    let mut full = with(MAX_ROOTS, MAX_ROOTS as u8).unwrap();
    for at in 0..=MAX_SIGNATURES as u8 {
        full.add_signature(BundleSignature { key: [at; 8], signature: SIGNATURE });
    }
    assert_eq!(full.signatures().len(), MAX_SIGNATURES);
    assert_eq!(SignedBundle::parse(&full.to_bytes()), Ok(full));
    assert_eq!(with(MAX_ROOTS + 1, 1).err(), Some(Error::TooLong("roots")));
    assert_eq!(with(100_000, 1).err(), Some(Error::TooLong("roots")));
    assert_eq!(with(0, 1).err(), Some(Error::InvalidField("roots")));
    assert_eq!(with(2, 3).err(), Some(Error::InvalidField("threshold")));
    assert_eq!(with(2, 0).err(), Some(Error::InvalidField("threshold")));
}

#[test]
fn a_bundle_begins_at_version_1_and_has_a_network_without_host_bits() {
    let versionless = TrustBundle { version: 0, ..sample::bundle_body() };
    assert_eq!(SignedBundle::unsigned(versionless).err(), Some(Error::InvalidField("version")));
    let mut bytes = vector("trust_bundle");
    let at = bytes.windows(8).position(|bytes| bytes == [7, 0, 5, 10, 99, 0, 0, 16]).unwrap();
    bytes[at + 6] = 1;
    assert_eq!(SignedBundle::parse(&bytes), Err(Error::InvalidField("network")));
    bytes[at + 6..at + 8].copy_from_slice(&[0, 33]);
    assert_eq!(SignedBundle::parse(&bytes), Err(Error::InvalidField("network")));
    let hosted = TrustBundle { network4: Some("10.99.1.2/16".parse().unwrap()), ..sample::bundle_body() };
    let bundle = SignedBundle::unsigned(hosted).unwrap();
    assert_eq!(bundle.body().network4, sample::bundle_body().network4);
}

#[test]
fn a_bundle_names_each_root_and_each_signer_once() {
    let body = TrustBundle { roots: vec![sample::IDENTITY; 2], ..sample::bundle_body() };
    assert_eq!(SignedBundle::unsigned(body).err(), Some(Error::InvalidField("roots")));
    let mut bundle = sample::bundle();
    bundle.add_signature(bundle.signatures()[0]);
    assert_eq!(bundle.signatures().len(), 2);
    let mut bytes = bundle.to_bytes();
    let second_at = bytes.len() - 72;
    let first_at = second_at - 72;
    bytes.copy_within(first_at..first_at + 8, second_at);
    assert_eq!(SignedBundle::parse(&bytes), Err(Error::InvalidField("signatures")));
}

#[test]
fn candidates_over_the_limit_are_not_sent_and_not_read() {
    let endpoint = "192.0.2.1:1".parse().unwrap();
    let frame =
        Frame::Candidates(vec![Candidate { kind: CandidateKind::Mapped, endpoint }; MAX_CANDIDATES + 1]);
    let mut bytes = encoded(&frame);
    let Some(Ok(Frame::Candidates(read))) = frames(&bytes).next() else { panic!("not candidates") };
    assert_eq!(read.len(), MAX_CANDIDATES);
    bytes[3] += 1;
    assert_eq!(first_error(&bytes), Some(Error::TooLong("candidates")));
}

#[test]
fn frame_lists_are_limited() {
    let versions = vec![(MEMBER, BootEpoch(1), Seq(1)); MAX_VERSIONS + 1];
    let mut bytes = encoded(&Frame::BucketVersions { bucket: 15, part: 0, more: false, versions });
    assert_eq!(first_error(&bytes), None);
    bytes[6] += 1;
    assert_eq!(first_error(&bytes), Some(Error::TooLong("versions")));
    bytes[3] = 16;
    assert_eq!(first_error(&bytes), Some(Error::InvalidField("bucket")));

    let object = |len: usize| encoded(&Frame::Object(vec![0; len]));
    assert_eq!(first_error(&object(OBJECT_MAX_LEN)), None);
    assert_eq!(first_error(&object(OBJECT_MAX_LEN + 1)), Some(Error::TooLong("object")));

    let join = |len: usize| {
        let (joiner, bytes) = ("192.0.2.1:1".parse().unwrap(), vec![0; len]);
        encoded(&Frame::JoinForward { joiner, bytes })
    };
    assert_eq!(first_error(&join(JOIN_MAX_LEN)), None);
    assert_eq!(first_error(&join(JOIN_MAX_LEN + 1)), Some(Error::TooLong("join")));
}

#[test]
fn padding_of_probes_is_limited() {
    let mut bytes = encoded(&Frame::Probe { id: 1, sent_us: 2, path: 0, padding: u16::MAX });
    let Some(Ok(Frame::Probe { padding, .. })) = frames(&bytes).next() else { panic!("not a probe") };
    assert_eq!(usize::from(padding), MAX_PADDING);
    bytes.push(0);
    let len = bytes.len() as u16 - 3;
    bytes[1..3].copy_from_slice(&len.to_be_bytes());
    assert_eq!(first_error(&bytes), Some(Error::TooLong("padding")));
}

#[test]
fn pieces_of_keys_lie_within_them() {
    let piece = |offset: usize, len: usize| KemPiece {
        handshake: HandshakeId(1),
        offset: offset as u16,
        bytes: vec![0; len],
    };
    let error = Some(Error::InvalidField("piece of a key"));
    for (offset, len) in [(0, 0), (0, KEM_KEY_LEN + 1), (1, KEM_KEY_LEN), (KEM_KEY_LEN, 1), (65535, 2)] {
        assert_eq!(first_error(&encoded(&Frame::KemKey(piece(offset, len)))), error, "{offset} {len}");
    }
    let last = piece(KEM_CIPHERTEXT_LEN - 1, 1);
    assert_eq!(first_error(&encoded(&Frame::KemCiphertext(last))), None);
    let behind = piece(KEM_CIPHERTEXT_LEN, 1);
    assert_eq!(first_error(&encoded(&Frame::KemCiphertext(behind))), error);
    let whole = Frame::KemKey(piece(0, KEM_KEY_LEN));
    assert_eq!(whole.encoded_len(), KEM_PIECE_OVERHEAD + KEM_KEY_LEN);
}

#[test]
fn fragments_are_limited_in_number_and_length() {
    let fragment = |index: u8, total: u8, len: usize| {
        encoded(&Frame::Fragment { id: 1, index, total, bytes: vec![0; len] })
    };
    assert_eq!(first_error(&fragment(MAX_FRAGMENTS - 1, MAX_FRAGMENTS, MAX_FRAGMENT_LEN)), None);
    assert_eq!(first_error(&fragment(0, 1, MAX_FRAGMENT_LEN + 1)), Some(Error::TooLong("fragment")));
    for (index, total) in [(0, 0), (1, 1), (0, MAX_FRAGMENTS + 1)] {
        assert_eq!(first_error(&fragment(index, total, 1)), Some(Error::InvalidField("fragment")));
    }
    // The longest object can be sent.
    const { assert!(MAX_FRAGMENTS as usize * MAX_FRAGMENT_LEN >= OBJECT_MAX_LEN) };
}

#[test]
fn a_long_version_text_is_cut_at_a_character() {
    let hello = |version: &str| Frame::Hello {
        boot: BootEpoch(1),
        capabilities: Capabilities(0),
        bundle_version: 1,
        revocations: [0; 8],
        version: version.to_owned(),
    };
    let bytes = encoded(&hello(&"x".repeat(1000)));
    let Some(Ok(Frame::Hello { version, .. })) = frames(&bytes).next() else { panic!("not a hello") };
    assert_eq!(version.len(), MAX_VERSION_TEXT);
    let control = encoded(&hello("\u{1b}[2J"));
    assert_eq!(first_error(&control), Some(Error::InvalidField("version")));
}

#[test]
fn frames_end_at_the_first_error() {
    let mut bytes = encoded(&Frame::Close { reason: 1 });
    bytes.extend([14, 0, 0]);
    bytes.extend(encoded(&Frame::Close { reason: 2 }));
    let read: Vec<_> = frames(&bytes).collect();
    assert_eq!(read, [Ok(Frame::Close { reason: 1 }), Err(Error::Truncated)]);
}

#[test]
fn an_init_is_limited_in_length_and_attachments() {
    let mut init = vector("init");
    init.resize(INIT_MAX_LEN, 0);
    assert!(Init::parse(&init).is_ok());
    init.push(0);
    assert_eq!(Init::parse(&init), Err(Error::TooLong("init")));

    let mut payload = vector("init_payload");
    payload.extend([1, 0, 0].repeat(MAX_ATTACHMENTS));
    assert_eq!(InitPayload::parse(&payload).unwrap().attachments.len(), MAX_ATTACHMENTS);
    // Those of unknown kind count too.
    payload.extend([200, 0, 0]);
    assert_eq!(InitPayload::parse(&payload), Err(Error::TooLong("attachments")));
}

#[test]
fn a_stale_key_answer_is_not_longer_than_an_init() {
    let mut answer = vector("stale_key");
    answer.push(0);
    assert_eq!(answer.len(), STALE_KEY_MAX_LEN);
    assert!(StaleKey::parse(&answer).is_ok());
    answer.push(0);
    assert_eq!(StaleKey::parse(&answer), Err(Error::TooLong("stale-key answer")));
}

#[test]
fn a_join_is_limited_in_length() {
    let piece = |len: usize| {
        let bytes = vec![0; len];
        let stage = Stage::Welcome(Piece { index: 0, total: 1, bytes: &bytes });
        let mut out = Vec::new();
        Join { token: 1, inviter: MEMBER, stage }.emit(&mut out);
        out
    };
    assert!(Join::parse(&piece(MAX_PIECE_LEN)).is_ok());
    assert_eq!(Join::parse(&piece(MAX_PIECE_LEN + 1)), Err(Error::TooLong("piece")));
    assert_eq!(Join::parse(&piece(JOIN_MAX_LEN)), Err(Error::TooLong("join")));
    let mut none_of_none = piece(1);
    none_of_none[25] = 0;
    assert_eq!(Join::parse(&none_of_none), Err(Error::InvalidField("piece")));
    let mut request = vector("join_request");
    request.push(0);
    assert_eq!(Join::parse(&request), Err(Error::TrailingBytes));
}

#[test]
fn a_relay_header_has_a_label_or_ids_and_at_most_four_hops() {
    let mut datagram = vector("relay_short");
    datagram[1] = relay::MAX_TTL + 1;
    assert_eq!(relay::Header::parse(&datagram), Err(Error::InvalidField("ttl")));
    datagram[1] = 0x80 | 4;
    assert_eq!(relay::Header::parse(&datagram), Err(Error::InvalidField("label")));
    datagram[1] = 0x30 | 4;
    assert_eq!(relay::Header::parse(&datagram), Err(Error::InvalidField("role")));
    let mut datagram = vector("relay_long");
    datagram[1] = 4;
    assert_eq!(relay::Header::parse(&datagram), Err(Error::InvalidField("label")));
}

#[test]
fn sealed_and_relayed_datagrams_have_room_for_what_must_follow_the_header() {
    let header_alone = data::HEADER_LEN + data::TRAILER_LEN + data::TAG_LEN;
    let sealed = vector("data");
    assert!(data::Header::parse(&sealed[..header_alone]).is_ok());
    assert_eq!(data::Header::parse(&sealed[..header_alone - 1]), Err(Error::Truncated));
    for (name, len) in [("relay_short", relay::HEADER_LEN), ("relay_long", relay::LONG_LEN)] {
        let relayed = vector(name);
        assert!(relay::Header::parse(&relayed[..len + relay::HOP_TAG_LEN + 1]).is_ok());
        assert_eq!(relay::Header::parse(&relayed[..len + relay::HOP_TAG_LEN]), Err(Error::Truncated));
    }
}

#[test]
fn names_are_dns_labels() {
    let longest = "a".repeat(Name::MAX_LEN);
    for good in ["a", "0", "node-1", "a--b", longest.as_str()] {
        assert_eq!(Name::new(good).unwrap().as_str(), good);
    }
    let too_long = "a".repeat(Name::MAX_LEN + 1);
    for bad in ["", "-", "-a", "a-", "A", "a.b", "a_b", "a b", "\u{e9}", too_long.as_str()] {
        assert_eq!(Name::new(bad), Err(Error::InvalidField("name")), "{bad}");
    }
    assert_eq!(Name::parse(&[0xff]), Err(Error::InvalidField("name")));
}

#[test]
fn ids_read_exactly_their_hexadecimal() {
    let id = InvitationId([0, 1, 2, 3, 0xfc, 0xfd, 0xfe, 0xff]);
    assert_eq!(id.to_string(), "00010203fcfdfeff");
    assert_eq!("00010203fcfdfeff".parse(), Ok(id));
    assert_eq!("00010203FCFDFEFF".parse(), Ok(id));
    for bad in ["", "00", "00010203fcfdfef", "00010203fcfdfeff0", "+0010203fcfdfeff", "0001020\u{e9}fcfdfef"]
    {
        assert_eq!(bad.parse::<InvitationId>(), Err(Error::InvalidField("InvitationId")), "{bad}");
    }
}

#[test]
fn an_invitation_leaves_out_what_it_cannot_carry() {
    let endpoint = |name: &str| HostPort { host: Host::Name(name.to_owned()), port: 1 };
    let mut invitation = sample::invitation();
    invitation.endpoints = vec![endpoint(&"x".repeat(300)), endpoint(""), endpoint("a b"), endpoint("good")];
    let read: Invitation = invitation.to_string().parse().unwrap();
    assert_eq!(read.endpoints, [endpoint("good")]);
    // The most endpoints with the longest names still make a URL that is read.
    invitation.endpoints = vec![endpoint(&"x".repeat(253)); MAX_ENDPOINTS + 1];
    let url = invitation.to_string();
    assert!(url.len() <= MAX_URL_LEN, "{}", url.len());
    assert_eq!(url.parse::<Invitation>().unwrap().endpoints.len(), MAX_ENDPOINTS);
}

#[test]
fn invitation_errors_tell_apart_what_is_wrong() {
    let url = sample::invitation().to_string();
    let error = |text: &str| text.parse::<Invitation>().err();
    assert_eq!(error(&format!("  {url}\n")), None);
    for not_one in ["", "https://lab/AQ", "MESHD://lab/AQ", &url[1..]] {
        assert_eq!(error(not_one), Some(InvitationError::NotAnInvitation), "{not_one}");
    }
    let renamed = url.replacen("lab", "lob", 1);
    let padded = format!("{url}=");
    let endless = format!("{url}{}", "A".repeat(MAX_URL_LEN));
    for damaged in
        [&url[..url.len() - 1], "meshd://lab", "meshd://lab/", "meshd:///AQ", &renamed, &padded, &endless]
    {
        assert_eq!(error(damaged), Some(InvitationError::Damaged), "{damaged}");
    }
}

#[test]
fn endpoints_of_people_are_read_strictly() {
    for text in ["192.0.2.1:51820", "[2001:db8::1]:443", "vpn.example.org:1", "host_1:65535"] {
        assert_eq!(text.parse::<HostPort>().unwrap().to_string(), text);
    }
    for bad in
        ["", ":1", "host", "host:", "host:0", "host:65536", "host:+1", "2001:db8::1:443", "[host]:1", "a b:1"]
    {
        assert!(bad.parse::<HostPort>().is_err(), "{bad}");
    }
}

fn prefixes_v4(count: usize) -> Vec<IpNet> {
    let prefix = |at: usize| Ipv4Net::new(Ipv4Addr::from((at as u32) << 8), 24).unwrap();
    (0..count).map(|at| IpNet::V4(prefix(at))).collect()
}

fn accepts<T: Body + Clone + PartialEq + std::fmt::Debug>(body: &T) {
    let signed = Signed::sign_with(body.clone(), |_| SIGNATURE).unwrap();
    assert_eq!(signed.body(), body);
    assert_eq!(Signed::parse(&signed.to_bytes()), Ok(signed));
}

/// Neither signed here nor read from one who signed it.
fn refuses<T: Body + Clone + PartialEq + std::fmt::Debug>(body: &T, error: Error) {
    refuses_to_sign(body, error);
    let mut fields = Vec::new();
    body.emit_body(&mut fields);
    let mut object = vec![OBJECT_VERSION, T::KIND as u8];
    object.extend((fields.len() as u16).to_be_bytes());
    object.extend(fields);
    object.extend(SIGNATURE);
    assert_eq!(Signed::<T>::parse(&object).err(), Some(error));
}

fn refuses_to_sign<T: Body + Clone + std::fmt::Debug>(body: &T, error: Error) {
    let signed = Signed::sign_with(body.clone(), |_| panic!("signed what no reader takes"));
    assert_eq!(signed.err(), Some(error));
}

fn encoded(frame: &Frame) -> Vec<u8> {
    let mut out = Vec::new();
    frame.emit(&mut out);
    out
}

fn first_error(bytes: &[u8]) -> Option<Error> {
    frames(bytes).find_map(Result::err)
}
