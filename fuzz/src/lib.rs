//! What the fuzz targets do with their input. Each entry function takes any bytes and panics when a parser breaks a
//! promise: parsing never panics, what is accepted is emitted as something that is read as the same value, and a signed
//! object is emitted byte for byte as it came. Those over [`packets`] and [`relays`] also compare the packet path with
//! simple readings of its rules, those over [`trust`] and [`store`] what is accepted, and those over [`files`] what is on a
//! node's disk and asked on its control socket.
//!
//! ```text
//! cargo test -p meshnet-fuzz                        a seeded smoke test
//! cd fuzz && cargo run --example seed_corpus        writes inputs to begin with to corpus/TARGET/
//! make fuzz FUZZ_TARGETS=TARGET                     libFuzzer; TARGET: a name of TARGETS
//! ```

pub mod files;
pub mod gossip;
pub mod packets;
pub mod relays;
mod seeds;
pub mod store;
pub mod trust;

use std::fmt::Debug;
use std::io;
use std::path::PathBuf;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use blake2::{Blake2s256, Digest};
use proto::bundle::SignedBundle;
use proto::certificate::Certificate;
use proto::cookie::Cookie;
use proto::datagram::Kind;
use proto::frame::Frame;
use proto::handshake::{Init, InitPayload, Response, ResponsePayload};
use proto::invitation::Invitation;
use proto::join::Join;
use proto::key_epoch::KeyEpoch;
use proto::record::Record;
use proto::revocation::Revocation;
use proto::signed::{Body, ObjectKind, Signed, encode_unsigned};
use proto::stale::StaleKey;
use proto::{data, relay};

/// A fuzz target: its name and its entry function.
pub type Target = (&'static str, fn(&[u8]));

/// All targets.
pub const TARGETS: [Target; 15] = [
    ("datagram", datagram),
    ("frames", frames),
    ("signed", signed),
    ("invitation", invitation),
    ("packet", packets::packet),
    ("split_merge", packets::split_merge),
    ("trailer", packets::trailer),
    ("relay", relays::relay),
    ("certificate", trust::certificate),
    ("bundle", trust::bundle),
    ("store", store::store),
    ("key_file", files::key_file),
    ("control", files::control),
    ("records", gossip::records),
    ("flooding", gossip::flooding),
];

/// Inputs that a target begins with, by name: packets for those that take packets, and so on; else the test vectors.
///
/// # Errors
/// When the vectors cannot be read.
pub fn seeds(target: &str) -> io::Result<Vec<(String, Vec<u8>)>> {
    Ok(match target {
        "packet" => seeds::packets(),
        "split_merge" => seeds::super_packets(),
        "trailer" => seeds::with_trailers(),
        "certificate" => trust::certificate_seeds(),
        "bundle" => trust::bundle_seeds(),
        "store" => store::seeds(),
        "key_file" => files::key_file_seeds(),
        "control" => files::control_seeds(),
        _ => vectors()?,
    })
}

/// Emits what was read of a format and reads it again: the same value.
macro_rules! settles {
    ($bytes:expr, $format:ident) => {
        if let Ok(read) = $format::parse($bytes) {
            let mut emitted = Vec::new();
            read.emit(&mut emitted);
            assert_eq!($format::parse(&emitted), Ok(read));
        }
    };
}

/// A datagram from the network, and the same bytes as the payloads of handshakes.
pub fn datagram(bytes: &[u8]) {
    match Kind::of(bytes) {
        Some(Kind::Init) => settles!(bytes, Init),
        Some(Kind::Response) => settles!(bytes, Response),
        Some(Kind::Cookie) => settles!(bytes, Cookie),
        Some(Kind::StaleKey) => settles!(bytes, StaleKey),
        Some(Kind::Join) => settles!(bytes, Join),
        Some(Kind::Data) => {
            if let Ok(header) = data::Header::parse(bytes) {
                let mut again = bytes.to_vec();
                header.write(&mut again[..data::HEADER_LEN]);
                assert_eq!(data::Header::parse(&again), Ok(header));
            }
            let _ = data::Trailer::split(bytes);
        }
        Some(Kind::Relay) => {
            if let Ok(header) = relay::Header::parse(bytes) {
                let mut again = bytes.to_vec();
                header.write(&mut again[..header.len()]);
                assert_eq!(relay::Header::parse(&again), Ok(header));
            }
        }
        None => {}
    }
    settles!(bytes, InitPayload);
    settles!(bytes, ResponsePayload);
}

/// The opened content of a control datagram.
pub fn frames(bytes: &[u8]) {
    let read: Vec<Frame> = proto::frame::frames(bytes).map_while(Result::ok).collect();
    let mut emitted = Vec::new();
    for frame in &read {
        let before = emitted.len();
        frame.emit(&mut emitted);
        assert_eq!(frame.encoded_len(), emitted.len() - before);
    }
    let again: Vec<Frame> =
        proto::frame::frames(&emitted).map(|frame| frame.expect("an emitted frame is read")).collect();
    assert_eq!(again, read);
}

/// A signed object of any kind; the bytes are also read as each of the kinds.
pub fn signed(bytes: &[u8]) {
    passes_on::<Certificate>(bytes);
    passes_on::<KeyEpoch>(bytes);
    passes_on::<Record>(bytes);
    passes_on::<Revocation>(bytes);
    if let Ok(bundle) = SignedBundle::parse(bytes) {
        assert_eq!(bundle.to_bytes(), bytes);
        let again =
            SignedBundle::unsigned(bundle.body().clone()).expect("a bundle that was read can be made");
        assert_eq!(again.body(), bundle.body());
        let _ = bundle.mesh_id_of_first();
    }
}

/// An invitation: the bytes as text, and as the content of a URL whose checksum is right.
pub fn invitation(bytes: &[u8]) {
    if let Ok(text) = std::str::from_utf8(bytes) {
        reads_back(text);
    }
    let checksum = Blake2s256::new().chain_update(b"lab\0").chain_update(bytes).finalize();
    let blob = [bytes, &checksum[..4]].concat();
    reads_back(&format!("meshd://lab/{}", URL_SAFE_NO_PAD.encode(blob)));
}

/// The committed test vectors, by name, in order; the invitation is there as content without its checksum, and as a URL.
///
/// # Errors
/// When the files cannot be read.
pub fn vectors() -> io::Result<Vec<(String, Vec<u8>)>> {
    let mut vectors = Vec::new();
    for entry in std::fs::read_dir(PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../proto/tests/vectors"))?
    {
        let path = entry?.path();
        let text = std::fs::read_to_string(&path)?;
        let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
        let bytes = match name.as_str() {
            "invitation.url" => text.trim().as_bytes().to_vec(),
            "invitation.hex" => {
                hex(&text)?.split_last_chunk::<4>().map(|(content, _)| content.to_vec()).unwrap_or_default()
            }
            _ => hex(&text)?,
        };
        vectors.push((name, bytes));
    }
    vectors.sort();
    Ok(vectors)
}

fn passes_on<T: Body + PartialEq + Debug>(bytes: &[u8]) {
    let Ok(read) = Signed::<T>::parse(bytes) else { return };
    assert_eq!(ObjectKind::of(bytes), Some(T::KIND));
    assert_eq!(read.to_bytes(), bytes);
    let again = encode_unsigned(read.body()).expect("content that was read can be signed");
    assert_eq!(T::parse_body(&again[4..]).as_ref(), Ok(read.body()));
}

fn reads_back(text: &str) {
    if let Ok(read) = text.parse::<Invitation>() {
        assert!(read.to_string().parse::<Invitation>() == Ok(read), "an invitation reads back as another");
    }
}

fn hex(text: &str) -> io::Result<Vec<u8>> {
    let digits: Vec<u8> = text
        .lines()
        .flat_map(|line| line.split('#').next().unwrap_or_default().bytes())
        .filter(|byte| !byte.is_ascii_whitespace())
        .collect();
    let byte = |pair: &[u8]| u8::from_str_radix(std::str::from_utf8(pair).ok()?, 16).ok();
    digits.chunks(2).map(|pair| byte(pair).ok_or(io::Error::from(io::ErrorKind::InvalidData))).collect()
}
