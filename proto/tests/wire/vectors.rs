//! Byte-exact vectors: what is written down in `proto/tests/vectors` is what is emitted, and parses to the same value.
//!
//! The files were written by an encoder of their own, from the tables of `docs/wire.md`. They change only together with
//! [`proto::VERSION`] or when a format gains a field.

use std::collections::BTreeSet;
use std::fmt::Debug;
use std::path::PathBuf;

use proto::Error;
use proto::arrivals::Arrivals;
use proto::bundle::SignedBundle;
use proto::certificate::Certificate;
use proto::cookie::Cookie;
use proto::data::{self, Trailer, TrailerFlags};
use proto::datagram::Kind;
use proto::frame::{Frame, KemPiece, frames};
use proto::handshake::{Attachment, Init, InitPayload, Response, ResponsePayload};
use proto::id::{
    BootEpoch, Counter, HandshakeId, InvitationId, KeyEpochNumber, MemberId, ReceiverIndex, RelayLabel,
    SecretId, Seq,
};
use proto::invitation::Invitation;
use proto::join::{Join, Piece, Stage};
use proto::key_epoch::{Capabilities, KeyEpoch};
use proto::lane::Role;
use proto::record::Record;
use proto::relay;
use proto::revocation::{Revocation, RevocationTarget};
use proto::signed::{ObjectKind, Signed};
use proto::stale::StaleKey;

use crate::sample;
use crate::sample::{IDENTITY, MAC1, MAC2, MEMBER, PEER, REVOCATIONS, SENDER, SERIAL, SIGNATURE, run, sign};

/// The bytes of a vector: hexadecimal, with comments from `#` to the end of the line.
pub(crate) fn vector(name: &str) -> Vec<u8> {
    let path = directory().join(format!("{name}.hex"));
    let text = std::fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    let digits: Vec<u8> = text
        .lines()
        .flat_map(|line| line.split('#').next().unwrap_or_default().bytes())
        .filter(|byte| !byte.is_ascii_whitespace())
        .collect();
    digits.chunks(2).map(|pair| u8::from_str_radix(std::str::from_utf8(pair).unwrap(), 16).unwrap()).collect()
}

/// The names of all vectors.
pub(crate) fn names() -> BTreeSet<String> {
    std::fs::read_dir(directory())
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .filter(|path| path.extension().is_some_and(|extension| extension == "hex"))
        .map(|path| path.file_stem().unwrap().to_str().unwrap().to_owned())
        .collect()
}

fn directory() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/vectors")
}

fn check<T: PartialEq + Debug>(name: &str, value: &T, emitted: &[u8], parsed: Result<T, Error>) {
    let hex = |bytes: &[u8]| bytes.iter().map(|byte| format!("{byte:02x}")).collect::<String>();
    assert_eq!(hex(emitted), hex(&vector(name)), "{name}: what is emitted is not what is written down");
    assert_eq!(parsed.as_ref(), Ok(value), "{name}: what is written down parses to another value");
}

/// A test for each vector, and the list of their names.
macro_rules! vectors {
    ($($name:ident: $type:ty = $value:expr;)*) => {
        $(
            #[test]
            fn $name() {
                let bytes = vector(stringify!($name));
                // A match, so that what the value borrows lives on.
                match $value {
                    value => {
                        let mut emitted = Vec::new();
                        value.emit(&mut emitted);
                        check(stringify!($name), &value, &emitted, <$type>::parse(&bytes));
                    }
                }
            }
        )*

        const COVERED: &[&str] = &[$(stringify!($name)),*];
    };
}

/// Noise messages, as long as they are in the protocol.
const NOISE_1: [u8; 136] = run(0xc0);
const NOISE_2: [u8; 76] = run(0xc0);
/// A sealed datagram inside a relay header.
const INNER: &[u8] = &[
    0x15, 0, 0, 0, 0x0a, 0x0b, 0x0c, 0x0d, 0, 0, 0, 0, 0, 0, 0, 9, 0xc0, 0xc1, 0xc2, 0xc3, 0xc4, 0xc5, 0xc6,
    0xc7, 0xc8, 0xc9, 0xca, 0xcb, 0xcc, 0xcd, 0xce, 0xcf, 0xd0, 0xd1,
];
const CAPABILITIES: Capabilities = Capabilities(3);

vectors! {
    init: Init<'_> = Init { sender: SENDER, noise: &NOISE_1, mac1: MAC1, mac2: MAC2 };
    response: Response<'_> = Response {
        sender: ReceiverIndex(0x0506_0708),
        receiver: SENDER,
        named_secret: false,
        noise: &NOISE_2,
        mac1: MAC1,
        mac2: MAC2,
    };
    response_named_secret: Response<'_> = Response {
        sender: ReceiverIndex(0x0506_0708),
        receiver: SENDER,
        named_secret: true,
        noise: &NOISE_2,
        mac1: MAC1,
        mac2: MAC2,
    };
    cookie: Cookie = Cookie { receiver: SENDER, nonce: run(0), sealed: run(0xc0) };
    stale_key: StaleKey<'_> = StaleKey { receiver: SENDER, key_epoch: &sign(sample::key_epoch()).to_bytes(), mac: MAC1 };
    data: DataDatagram = DataDatagram {
        header: data::Header { lane: 2, receiver: SENDER, counter: Counter(0x1122_3344_5566_7788) },
        inner: run::<20>(0x45).to_vec(),
        trailer: Trailer { flags: TrailerFlags::GSO_SEG.union(TrailerFlags::FIRST), index: 0 },
        tag: [0xa9; 16],
    };
    relay_short: RelayDatagram = RelayDatagram {
        header: relay::Header {
            ttl: 4,
            role: Role::Queue,
            label: RelayLabel(7),
            receiver: SENDER,
            counter: Counter(0x0102_0304_0506_0708),
            ids: None,
        },
        tag_and_inner: [&[0xa8; 16], INNER].concat(),
    };
    relay_long: RelayDatagram = RelayDatagram {
        header: relay::Header {
            ttl: 3,
            role: Role::Forward,
            label: RelayLabel::LONG,
            receiver: SENDER,
            counter: Counter(0x0102_0304_0506_0708),
            ids: Some((PEER, MEMBER)),
        },
        tag_and_inner: [&[0xa8; 16], INNER].concat(),
    };

    join_hello: Join<'_> = join(Stage::Hello {
        invitation: InvitationId(run(0xb0)),
        noise: &run::<48>(0xc0),
        mac: MAC1,
    });
    join_answer: Join<'_> = join(Stage::Answer(Piece { index: 0, total: 2, bytes: &run::<40>(0xc0) }));
    join_finish: Join<'_> = join(Stage::Finish(&run::<64>(0xc0)));
    join_request: Join<'_> = join(Stage::Request { sealed: true, index: 3 });
    join_welcome: Join<'_> = join(Stage::Welcome(Piece { index: 3, total: 4, bytes: &run::<24>(0xc0) }));
    join_refused: Join<'_> = join(Stage::Refused(&run::<17>(0xc0)));

    init_payload: InitPayload<'_> = payload(Vec::new());
    init_payload_secret: InitPayload<'_> =
        InitPayload { secret: SecretId(0x0102_0304_0506_0708), ..payload(Vec::new()) };
    init_payload_attachments: InitPayload<'_> = payload(vec![
        Attachment::Certificate(&run::<20>(0)),
        Attachment::KeyEpoch(&run::<9>(0x20)),
        Attachment::IssuerCertificate(&run::<3>(0x40)),
    ]);
    response_payload: ResponsePayload = ResponsePayload::Accepted {
        epoch: KeyEpochNumber(2),
        capabilities: Capabilities::AES_GCM,
        bundle_version: 5,
        revocations: REVOCATIONS,
    };
    response_payload_stale_timestamp: ResponsePayload = ResponsePayload::StaleTimestamp {
        epoch: KeyEpochNumber(2),
        floor_us: 1_700_000_000_123_456,
    };

    frame_probe: OneFrame = OneFrame(Frame::Probe { id: 7, sent_us: 123_456_789, path: 1, padding: 5 });
    frame_probe_reply: OneFrame = OneFrame(Frame::ProbeReply {
        id: 7,
        sent_us: 123_456_789,
        path: 0,
        observed: Some("203.0.113.9:51820".parse().unwrap()),
    });
    frame_probe_reply_relayed: OneFrame =
        OneFrame(Frame::ProbeReply { id: 7, sent_us: 123_456_789, path: 1, observed: None });
    frame_hello: OneFrame = OneFrame(Frame::Hello {
        boot: BootEpoch(12),
        capabilities: CAPABILITIES,
        bundle_version: 5,
        revocations: REVOCATIONS,
        version: "0.1.0".to_owned(),
    });
    frame_candidates: OneFrame = OneFrame(Frame::Candidates(sample::candidates()));
    frame_kem_key: OneFrame = OneFrame(Frame::KemKey(KemPiece {
        handshake: HandshakeId(0xfeed_face_cafe_beef),
        offset: 592,
        bytes: run::<10>(0xc0).to_vec(),
    }));
    frame_kem_ciphertext: OneFrame = OneFrame(Frame::KemCiphertext(KemPiece {
        handshake: HandshakeId(0xfeed_face_cafe_beef),
        offset: 0,
        bytes: run::<6>(0xd0).to_vec(),
    }));
    frame_renew: OneFrame = OneFrame(Frame::Renew);
    frame_have: OneFrame = OneFrame(Frame::Have(vec![(MEMBER, BootEpoch(12), Seq(34)), (PEER, BootEpoch(1), Seq(2))]));
    frame_want: OneFrame = OneFrame(Frame::Want(Frame::WANT_VERSIONS));
    frame_get_bundles: OneFrame = OneFrame(Frame::GetBundles { after: 7 });
    frame_revocation_summary: OneFrame =
        OneFrame(Frame::RevocationSummary(std::array::from_fn(|bucket| 0x0101_0101_0101_0101 * bucket as u64)));
    frame_summary: OneFrame =
        OneFrame(Frame::Summary(std::array::from_fn(|bucket| 0x0101_0101_0101_0101 * bucket as u64)));
    frame_bucket_versions: OneFrame = OneFrame(Frame::BucketVersions {
        bucket: 3,
        part: 0,
        more: true,
        versions: vec![(MEMBER, BootEpoch(12), Seq(34)), (PEER, BootEpoch(1), Seq(2))],
    });
    frame_object: OneFrame = OneFrame(Frame::Object(sign(sample::key_epoch()).to_bytes()));
    frame_fragment: OneFrame = OneFrame(Frame::Fragment {
        id: 0xfeed_face_cafe_beef,
        index: 1,
        total: 3,
        bytes: run::<10>(0xc0).to_vec(),
    });
    frame_get: OneFrame = OneFrame(Frame::Get {
        member: MEMBER,
        what: Frame::GET_CERTIFICATE | Frame::GET_KEY_EPOCH | Frame::GET_RECORD,
    });
    frame_relay_label: OneFrame = OneFrame(Frame::RelayLabel { destination: PEER, label: RelayLabel(7) });
    frame_relay_unknown: OneFrame =
        OneFrame(Frame::RelayUnknown { label: RelayLabel(7), destination: MemberId::default(), reason: 0 });
    frame_join_forward: OneFrame = OneFrame(Frame::JoinForward {
        joiner: "198.51.100.7:50000".parse().unwrap(),
        bytes: run::<12>(0x17).to_vec(),
    });
    frame_join_back: OneFrame = OneFrame(Frame::JoinBack {
        joiner: "[2001:db8::7]:50000".parse().unwrap(),
        bytes: run::<12>(0x17).to_vec(),
    });
    frame_arrived: OneFrame =
        OneFrame(Frame::Arrived { id: 7, packets: Arrivals(std::array::from_fn(|kind| 0x1000 + kind as u32)) });
    frame_load: OneFrame = OneFrame(Frame::Load { eighths: 5 });
    frame_close: OneFrame = OneFrame(Frame::Close { reason: 1 });
    frame_echo: OneFrame = OneFrame(Frame::Echo { id: 9, sent_us: 123_456_789 });
    frame_echo_reply: OneFrame = OneFrame(Frame::EchoReply { id: 9, sent_us: 123_456_789 });

    certificate: Signed<Certificate> = sign(sample::certificate());
    certificate_minimal: Signed<Certificate> = sign(sample::certificate_minimal());
    key_epoch: Signed<KeyEpoch> = sign(sample::key_epoch());
    record: Signed<Record> = sign(sample::record());
    record_minimal: Signed<Record> = sign(sample::record_minimal());
    record_keys: Signed<Record> = sign(sample::record_keys());
    record_trust: Signed<Record> = sign(sample::record_trust());
    revocation_member: Signed<Revocation> = sign(sample::revocation(RevocationTarget::Member(PEER)));
    revocation_serial: Signed<Revocation> = sign(sample::revocation(RevocationTarget::Serial(SERIAL)));
    revocation_key: Signed<Revocation> = sign(sample::revocation(RevocationTarget::Key(IDENTITY)));
    trust_bundle: SignedBundle = sample::bundle();
    trust_bundle_second: SignedBundle = sample::bundle_second();
}

/// The one vector whose outside is text.
const INVITATION: &str = "invitation";

#[test]
fn invitation_url_holds_the_vector() {
    use base64::Engine as _;
    let blob = base64::engine::general_purpose::URL_SAFE_NO_PAD.encode(vector(INVITATION));
    let url = std::fs::read_to_string(directory().join("invitation.url")).unwrap();
    assert_eq!(url.trim(), format!("meshd://lab/{blob}"));
    let invitation = sample::invitation();
    assert_eq!(invitation.to_string(), url.trim());
    assert!(url.parse::<Invitation>() == Ok(invitation.clone()));
    assert_eq!(invitation.id().to_string(), "5c469a83893e8bff");
}

#[test]
fn every_vector_is_tested() {
    let covered = COVERED.iter().copied().chain([INVITATION]).map(str::to_owned).collect::<BTreeSet<_>>();
    assert_eq!(names(), covered);
}

#[test]
fn first_bytes_tell_the_type() {
    for (name, kind) in [
        ("init", Kind::Init),
        ("response", Kind::Response),
        ("cookie", Kind::Cookie),
        ("stale_key", Kind::StaleKey),
        ("data", Kind::Data),
        ("relay_short", Kind::Relay),
        ("relay_long", Kind::Relay),
        ("join_hello", Kind::Join),
    ] {
        assert_eq!(Kind::of(&vector(name)), Some(kind), "{name}");
        assert_eq!(vector(name)[0], kind.first_byte(), "{name}");
    }
}

#[test]
fn signed_objects_tell_their_kind_and_name_it_in_what_is_signed() {
    for (name, kind, domain) in [
        ("certificate", ObjectKind::Certificate, "meshnet certificate\0"),
        ("key_epoch", ObjectKind::KeyEpoch, "meshnet key epoch\0"),
        ("record", ObjectKind::Record, "meshnet record\0"),
        ("revocation_key", ObjectKind::Revocation, "meshnet revocation\0"),
        ("trust_bundle", ObjectKind::TrustBundle, "meshnet trust bundle\0"),
    ] {
        assert_eq!(ObjectKind::of(&vector(name)), Some(kind), "{name}");
        let signed = proto::signed::signing_bytes(kind, b"body");
        assert_eq!(signed, [domain.as_bytes(), b"body"].concat(), "{name}");
    }
    let object = vector("record");
    let signed = Signed::<Record>::parse(&object).unwrap();
    let unsigned = &object[..object.len() - 64];
    assert_eq!(signed.signing_bytes(), [b"meshnet record\0", unsigned].concat());
    assert_eq!(signed.signature(), &SIGNATURE);
}

#[test]
fn mesh_id_and_hash_of_a_bundle_are_as_written_down() {
    let first = SignedBundle::parse(&vector("trust_bundle")).unwrap();
    assert_eq!(first.body().mesh.to_string(), "58604288b19059a6523ed40bbd7394ed");
    assert_eq!(first.mesh_id_of_first(), first.body().mesh);
    assert_eq!(first.body().mesh_id_of_first(), first.body().mesh);
    let second = SignedBundle::parse(&vector("trust_bundle_second")).unwrap();
    assert_eq!(second.body().previous, Some(first.hash()));
}

fn join(stage: Stage<'_>) -> Join<'_> {
    Join { token: 0x0bad_cafe, inviter: MEMBER, stage }
}

fn payload(attachments: Vec<Attachment<'_>>) -> InitPayload<'_> {
    InitPayload {
        timestamp_us: 1_700_000_000_123_456,
        sender_epoch: KeyEpochNumber(3),
        responder_epoch: KeyEpochNumber(2),
        capabilities: CAPABILITIES,
        bundle_version: 5,
        revocations: REVOCATIONS,
        secret: SecretId(0),
        attachments,
    }
}

/// A datagram that holds one frame.
#[derive(PartialEq, Debug)]
struct OneFrame(Frame);

impl OneFrame {
    fn parse(bytes: &[u8]) -> Result<OneFrame, Error> {
        let mut all = frames(bytes);
        let frame = all.next().ok_or(Error::Truncated)??;
        assert!(all.next().is_none());
        Ok(OneFrame(frame))
    }

    fn emit(&self, out: &mut Vec<u8>) {
        assert_eq!(self.0.encoded_len(), {
            self.0.emit(out);
            out.len()
        });
    }
}

/// A data datagram with its sealed part in clear.
#[derive(PartialEq, Debug)]
struct DataDatagram {
    header: data::Header,
    inner: Vec<u8>,
    trailer: Trailer,
    tag: [u8; 16],
}

impl DataDatagram {
    fn parse(bytes: &[u8]) -> Result<DataDatagram, Error> {
        let header = data::Header::parse(bytes)?;
        let (plaintext, tag) = bytes[data::HEADER_LEN..].split_last_chunk().unwrap();
        let (inner, trailer) = Trailer::split(plaintext).unwrap();
        Ok(DataDatagram { header, inner: inner.to_vec(), trailer, tag: *tag })
    }

    fn emit(&self, out: &mut Vec<u8>) {
        out.resize(data::HEADER_LEN, 0);
        self.header.write(out);
        out.extend(&self.inner);
        let mut trailer = [0; data::TRAILER_LEN];
        self.trailer.write(&mut trailer);
        out.extend(trailer);
        out.extend(self.tag);
    }
}

/// A relay datagram, cut after its header.
#[derive(PartialEq, Debug)]
struct RelayDatagram {
    header: relay::Header,
    tag_and_inner: Vec<u8>,
}

impl RelayDatagram {
    fn parse(bytes: &[u8]) -> Result<RelayDatagram, Error> {
        let header = relay::Header::parse(bytes)?;
        Ok(RelayDatagram { header, tag_and_inner: bytes[header.len()..].to_vec() })
    }

    fn emit(&self, out: &mut Vec<u8>) {
        out.resize(self.header.len(), 0);
        self.header.write(out);
        out.extend(&self.tag_and_inner);
    }
}
