//! Control frames: what nodes say to each other inside sealed datagrams.
//!
//! ```text
//! | type 1 | length 2 | value |
//! ```
//!
//! A datagram holds a run of frames. A frame of unknown type, or a known one with more bytes than this build knows, is
//! read as far as it is known. Every frame is idempotent: datagrams may be lost, repeated, and reordered.

use std::net::SocketAddr;

use crate::Error;
use crate::arrivals::Arrivals;
use crate::codec::{Reader, Writer};
use crate::endpoint::{Candidate, emit_candidates, emit_endpoint, parse_candidates, parse_endpoint};
use crate::id::{BootEpoch, HandshakeId, MemberId, RelayLabel, Seq};
use crate::join::JOIN_MAX_LEN;
use crate::key_epoch::Capabilities;
use crate::signed::OBJECT_MAX_LEN;

/// Number of buckets that records are hashed into for comparison.
pub const BUCKETS: usize = 16;
/// Most entries in one [`Frame::BucketVersions`].
pub const MAX_VERSIONS: usize = 34;
/// Longest piece in a [`Frame::Fragment`].
pub const MAX_FRAGMENT_LEN: usize = 1100;
/// Most fragments of one object.
pub const MAX_FRAGMENTS: u8 = 8;
/// Longest version text in a [`Frame::Hello`].
pub const MAX_VERSION_TEXT: usize = 32;
/// Length of an ML-KEM-768 encapsulation key (FIPS 203, table 3).
pub const KEM_KEY_LEN: usize = 1184;
/// Length of an ML-KEM-768 ciphertext (FIPS 203, table 3).
pub const KEM_CIPHERTEXT_LEN: usize = 1088;
/// Bytes of a frame with a [`KemPiece`] that are not the piece: type, length, handshake, offset.
pub const KEM_PIECE_OVERHEAD: usize = 1 + 2 + 8 + 2;
/// Longest padding of a probe.
pub const MAX_PADDING: usize = 9000;

/// Most endpoints in a [`Frame::Expect`].
pub const MAX_EXPECTED: usize = 12;

/// A control frame.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Frame {
    /// Asks for a [`Frame::ProbeReply`] over the same path.
    Probe {
        /// Comes back in the reply.
        id: u32,
        /// The sender's clock in microseconds; comes back in the reply.
        sent_us: u64,
        /// A set: 1 when the sender uses this path for its traffic, 2 when it asks for [`Frame::Arrived`].
        path: u8,
        /// Zero bytes that make the datagram longer, to find a path's MTU.
        padding: u16,
    },
    /// Answers a probe.
    ProbeReply {
        /// From the probe.
        id: u32,
        /// From the probe.
        sent_us: u64,
        /// 1 when the sender uses this path for its traffic.
        path: u8,
        /// Where the probe came from, unless through a relay.
        observed: Option<SocketAddr>,
    },
    /// The first frame of a session: what the sender is.
    Hello {
        /// Its boot.
        boot: BootEpoch,
        /// What it can do.
        capabilities: Capabilities,
        /// The newest trust bundle it knows.
        bundle_version: u32,
        /// Digest of its set of revocations.
        revocations: [u8; 8],
        /// Its software version.
        version: String,
    },
    /// Where the sender may be reached now: the other end sends probes there at once.
    Candidates(Vec<Candidate>),
    /// Hashes of the sender's records by bucket.
    Summary([u64; BUCKETS]),
    /// Versions of the sender's records in one bucket, in ascending order of member.
    BucketVersions {
        /// Which bucket.
        bucket: u8,
        /// Which part of it, from 0.
        part: u8,
        /// Whether another part follows.
        more: bool,
        /// Origin and version of each record.
        versions: Vec<(MemberId, BootEpoch, Seq)>,
    },
    /// Versions of records that are new to the sender, who sends the records themselves where they are asked for.
    Have(Vec<(MemberId, BootEpoch, Seq)>),
    /// What the sender wants to get of records that are new to the receiver: [`Frame::WANT_NOTHING`],
    /// [`Frame::WANT_VERSIONS`], or [`Frame::WANT_RECORDS`], as at the beginning of a session.
    Want(u8),
    /// One signed object.
    Object(Vec<u8>),
    /// A piece of a signed object that is too long for one datagram.
    Fragment {
        /// The same for all pieces: a hash of the object.
        id: u64,
        /// Which piece, from 0.
        index: u8,
        /// How many pieces, at most [`MAX_FRAGMENTS`].
        total: u8,
        /// The piece.
        bytes: Vec<u8>,
    },
    /// Asks for objects of a member.
    Get {
        /// The member.
        member: MemberId,
        /// Which objects: a set of [`Frame::GET_CERTIFICATE`], [`Frame::GET_KEY_EPOCH`], [`Frame::GET_RECORD`].
        what: u8,
    },
    /// A relay tells a label for a destination.
    RelayLabel {
        /// The destination.
        destination: MemberId,
        /// Its label in the sender's space.
        label: RelayLabel,
    },
    /// A relay cannot serve a destination (any more).
    RelayUnknown {
        /// The label, or [`RelayLabel::LONG`] when the header was long.
        label: RelayLabel,
        /// The destination, or zeros when only the label is known.
        destination: MemberId,
        /// 0 unknown label, 1 no route.
        reason: u8,
    },
    /// A join datagram for the receiver, from a joiner that reached the sender.
    JoinForward {
        /// The joiner.
        joiner: SocketAddr,
        /// The datagram.
        bytes: Vec<u8>,
    },
    /// The answer to a [`Frame::JoinForward`].
    JoinBack {
        /// The joiner.
        joiner: SocketAddr,
        /// The datagram.
        bytes: Vec<u8>,
    },
    /// Asks for the trust bundles after a version.
    GetBundles {
        /// The newest version that the sender has.
        after: u32,
    },
    /// Hashes of the sender's revocations by bucket of their target; who has others sends them.
    RevocationSummary([u64; BUCKETS]),
    /// The sender's datagrams will come from one of these endpoints, as far as its translator's habits tell: the receiver
    /// sends a few there first, so that its own translator lets them in.
    Expect(Vec<SocketAddr>),
    /// With the reply to a probe that asks for it: data packets that came from the receiver over the probe's path.
    Arrived {
        /// From the probe.
        id: u32,
        /// How many of each kind, since the sender knows the path.
        packets: Arrivals,
    },
    /// How busy the sender is as a relay, in eighths of what it can carry.
    Load {
        /// 0 to [`Frame::FULL`]; more counts as that.
        eighths: u8,
    },
    /// Asks for a new certificate that says what the sender's own says.
    Renew,
    /// A piece of an ML-KEM-768 encapsulation key of the sender, for the next handshake.
    KemKey(KemPiece),
    /// A piece of the ciphertext that answers the receiver's key.
    KemCiphertext(KemPiece),
    /// The sender ends the session.
    Close {
        /// 0 shutting down, 1 no longer needed, 2 revoked.
        reason: u8,
    },
    /// Asks for a [`Frame::EchoReply`], for `meshd ping`.
    Echo {
        /// Comes back in the reply.
        id: u32,
        /// The sender's clock in microseconds; comes back in the reply.
        sent_us: u64,
    },
    /// Answers an echo.
    EchoReply {
        /// From the echo.
        id: u32,
        /// From the echo.
        sent_us: u64,
    },
}

/// A piece of a key or ciphertext; pieces may be cut anywhere, and come in any order and more than once.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct KemPiece {
    /// Names the handshake that the session of the exchange was made by.
    pub handshake: HandshakeId,
    /// Where the piece begins, in bytes.
    pub offset: u16,
    /// The piece.
    pub bytes: Vec<u8>,
}

impl KemPiece {
    fn parse(reader: &mut Reader<'_>, whole: usize) -> Result<KemPiece, Error> {
        let (handshake, offset) = (HandshakeId(reader.u64()?), reader.u16()?);
        let bytes = reader.rest();
        if bytes.is_empty() || usize::from(offset) + bytes.len() > whole {
            return Err(Error::InvalidField("piece of a key"));
        }
        Ok(KemPiece { handshake, offset, bytes: bytes.to_vec() })
    }
}

const PROBE: u8 = 1;
const PROBE_REPLY: u8 = 2;
const HELLO: u8 = 3;
const CANDIDATES: u8 = 4;
const SUMMARY: u8 = 5;
const BUCKET_VERSIONS: u8 = 6;
const OBJECT: u8 = 7;
const FRAGMENT: u8 = 8;
const GET: u8 = 9;
const RELAY_LABEL: u8 = 10;
const RELAY_UNKNOWN: u8 = 11;
const JOIN_FORWARD: u8 = 12;
const JOIN_BACK: u8 = 13;
const CLOSE: u8 = 14;
const ECHO: u8 = 15;
const ECHO_REPLY: u8 = 16;
const GET_BUNDLES: u8 = 20;
const REVOCATION_SUMMARY: u8 = 21;
const RENEW: u8 = 22;
const KEM_KEY: u8 = 23;
const KEM_CIPHERTEXT: u8 = 24;
const EXPECT: u8 = 32;
const ARRIVED: u8 = 33;
const LOAD: u8 = 34;
const HAVE: u8 = 48;
const WANT: u8 = 49;

impl Frame {
    /// In [`Frame::Get`]: the certificate, and its issuer's.
    pub const GET_CERTIFICATE: u8 = 1;
    /// In [`Frame::Get`]: the key epoch.
    pub const GET_KEY_EPOCH: u8 = 2;
    /// In [`Frame::Get`]: the record.
    pub const GET_RECORD: u8 = 4;
    /// In [`Frame::Want`]: nothing.
    pub const WANT_NOTHING: u8 = 0;
    /// In [`Frame::Want`]: versions, as [`Frame::Have`].
    pub const WANT_VERSIONS: u8 = 1;
    /// In [`Frame::Want`]: the records.
    pub const WANT_RECORDS: u8 = 2;
    /// In [`Frame::Load`]: no more can be carried.
    pub const FULL: u8 = 8;

    /// Appends the frame.
    ///
    /// Lists over their limits are cut; an object or datagram over 65,535 bytes cannot occur.
    pub fn emit(&self, out: &mut Vec<u8>) {
        out.put_u8(self.kind());
        let length_at = out.len();
        out.put_u16(0);
        self.emit_value(out);
        let len = out.len() - length_at - 2;
        let len = u16::try_from(len).expect("frames are shorter than 64 KiB");
        out[length_at..length_at + 2].copy_from_slice(&len.to_be_bytes());
    }

    /// Length of the encoded frame in bytes.
    pub fn encoded_len(&self) -> usize {
        let mut out = Vec::new();
        self.emit(&mut out);
        out.len()
    }

    fn kind(&self) -> u8 {
        match self {
            Frame::Probe { .. } => PROBE,
            Frame::ProbeReply { .. } => PROBE_REPLY,
            Frame::Hello { .. } => HELLO,
            Frame::Candidates(_) => CANDIDATES,
            Frame::Summary(_) => SUMMARY,
            Frame::BucketVersions { .. } => BUCKET_VERSIONS,
            Frame::Object(_) => OBJECT,
            Frame::Fragment { .. } => FRAGMENT,
            Frame::Get { .. } => GET,
            Frame::RelayLabel { .. } => RELAY_LABEL,
            Frame::RelayUnknown { .. } => RELAY_UNKNOWN,
            Frame::JoinForward { .. } => JOIN_FORWARD,
            Frame::JoinBack { .. } => JOIN_BACK,
            Frame::Close { .. } => CLOSE,
            Frame::Echo { .. } => ECHO,
            Frame::EchoReply { .. } => ECHO_REPLY,
            Frame::GetBundles { .. } => GET_BUNDLES,
            Frame::RevocationSummary(_) => REVOCATION_SUMMARY,
            Frame::Renew => RENEW,
            Frame::KemKey(_) => KEM_KEY,
            Frame::KemCiphertext(_) => KEM_CIPHERTEXT,
            Frame::Expect(_) => EXPECT,
            Frame::Arrived { .. } => ARRIVED,
            Frame::Load { .. } => LOAD,
            Frame::Have(_) => HAVE,
            Frame::Want(_) => WANT,
        }
    }

    fn emit_value(&self, out: &mut Vec<u8>) {
        match self {
            Frame::Probe { id, sent_us, path, padding } => {
                out.put_u32(*id);
                out.put_u64(*sent_us);
                out.put_u8(*path);
                out.resize(out.len() + usize::from(*padding).min(MAX_PADDING), 0);
            }
            Frame::ProbeReply { id, sent_us, path, observed } => {
                out.put_u32(*id);
                out.put_u64(*sent_us);
                out.put_u8(*path);
                match observed {
                    Some(endpoint) => emit_endpoint(endpoint, out),
                    None => out.put_u8(0),
                }
            }
            Frame::Hello { boot, capabilities, bundle_version, revocations, version } => {
                out.put_u64(boot.0);
                out.put_u32(capabilities.0);
                out.put_u32(*bundle_version);
                out.put(revocations);
                let end = version.floor_char_boundary(MAX_VERSION_TEXT);
                out.put_bytes8(&version.as_bytes()[..end]);
            }
            Frame::Candidates(candidates) => emit_candidates(candidates, out),
            Frame::Summary(buckets) | Frame::RevocationSummary(buckets) => {
                buckets.iter().for_each(|bucket| out.put_u64(*bucket))
            }
            Frame::BucketVersions { bucket, part, more, versions } => {
                out.put(&[*bucket, *part, u8::from(*more)]);
                emit_versions(versions, out);
            }
            Frame::Have(versions) => emit_versions(versions, out),
            Frame::Want(what) => out.put_u8(*what),
            Frame::Object(bytes) => out.put(bytes),
            Frame::Fragment { id, index, total, bytes } => {
                out.put_u64(*id);
                out.put(&[*index, *total]);
                out.put(bytes);
            }
            Frame::Get { member, what } => {
                out.put(&member.0);
                out.put_u8(*what);
            }
            Frame::RelayLabel { destination, label } => {
                out.put(&destination.0);
                out.put_u16(label.0);
            }
            Frame::RelayUnknown { label, destination, reason } => {
                out.put_u16(label.0);
                out.put(&destination.0);
                out.put_u8(*reason);
            }
            Frame::JoinForward { joiner, bytes } | Frame::JoinBack { joiner, bytes } => {
                emit_endpoint(joiner, out);
                out.put(bytes);
            }
            Frame::Close { reason } => out.put_u8(*reason),
            Frame::GetBundles { after } => out.put_u32(*after),
            Frame::Renew => {}
            Frame::KemKey(piece) | Frame::KemCiphertext(piece) => {
                out.put_u64(piece.handshake.0);
                out.put_u16(piece.offset);
                out.put(&piece.bytes);
            }
            Frame::Expect(endpoints) => {
                let count = endpoints.len().min(MAX_EXPECTED);
                out.put_u8(count as u8);
                endpoints[..count].iter().for_each(|endpoint| emit_endpoint(endpoint, out));
            }
            Frame::Arrived { id, packets } => {
                out.put_u32(*id);
                packets.emit(out);
            }
            Frame::Load { eighths } => out.put_u8(*eighths),
            Frame::Echo { id, sent_us } | Frame::EchoReply { id, sent_us } => {
                out.put_u32(*id);
                out.put_u64(*sent_us);
            }
        }
    }

    /// Reads the value of a frame; `None` for a type that this build does not know.
    fn parse_value(kind: u8, value: &[u8]) -> Result<Option<Frame>, Error> {
        let mut reader = Reader::new(value);
        let frame = match kind {
            PROBE => {
                let (id, sent_us, path) = (reader.u32()?, reader.u64()?, reader.u8()?);
                if reader.rest().len() > MAX_PADDING {
                    return Err(Error::TooLong("padding"));
                }
                Frame::Probe { id, sent_us, path, padding: reader.rest().len() as u16 }
            }
            PROBE_REPLY => {
                let (id, sent_us, path) = (reader.u32()?, reader.u64()?, reader.u8()?);
                let observed = match reader.rest().first() {
                    Some(0) => None,
                    _ => Some(parse_endpoint(&mut reader)?),
                };
                Frame::ProbeReply { id, sent_us, path, observed }
            }
            HELLO => Frame::Hello {
                boot: BootEpoch(reader.u64()?),
                capabilities: Capabilities(reader.u32()?),
                bundle_version: reader.u32()?,
                revocations: reader.array()?,
                version: version_text(reader.bytes8()?)?,
            },
            CANDIDATES => Frame::Candidates(parse_candidates(&mut reader)?),
            SUMMARY => Frame::Summary(buckets(&mut reader)?),
            RENEW => Frame::Renew,
            KEM_KEY => Frame::KemKey(KemPiece::parse(&mut reader, KEM_KEY_LEN)?),
            KEM_CIPHERTEXT => Frame::KemCiphertext(KemPiece::parse(&mut reader, KEM_CIPHERTEXT_LEN)?),
            EXPECT => {
                let count = usize::from(reader.u8()?);
                if count > MAX_EXPECTED {
                    return Err(Error::TooLong("expected endpoints"));
                }
                Frame::Expect((0..count).map(|_| parse_endpoint(&mut reader)).collect::<Result<_, _>>()?)
            }
            ARRIVED => Frame::Arrived { id: reader.u32()?, packets: Arrivals::parse(&mut reader)? },
            LOAD => Frame::Load { eighths: reader.u8()? },
            GET_BUNDLES => Frame::GetBundles { after: reader.u32()? },
            REVOCATION_SUMMARY => Frame::RevocationSummary(buckets(&mut reader)?),
            BUCKET_VERSIONS => {
                let (bucket, part, more) = (reader.u8()?, reader.u8()?, reader.u8()? != 0);
                if usize::from(bucket) >= BUCKETS {
                    return Err(Error::InvalidField("bucket"));
                }
                Frame::BucketVersions { bucket, part, more, versions: versions(&mut reader)? }
            }
            HAVE => Frame::Have(versions(&mut reader)?),
            WANT => match reader.u8()? {
                what @ Frame::WANT_NOTHING..=Frame::WANT_RECORDS => Frame::Want(what),
                _ => return Err(Error::InvalidField("want")),
            },
            OBJECT => Frame::Object(at_most(OBJECT_MAX_LEN, value, "object")?),
            FRAGMENT => {
                let (id, index, total) = (reader.u64()?, reader.u8()?, reader.u8()?);
                if total == 0 || total > MAX_FRAGMENTS || index >= total {
                    return Err(Error::InvalidField("fragment"));
                }
                let bytes = at_most(MAX_FRAGMENT_LEN, reader.rest(), "fragment")?;
                Frame::Fragment { id, index, total, bytes }
            }
            GET => Frame::Get { member: MemberId(reader.array()?), what: reader.u8()? },
            RELAY_LABEL => {
                Frame::RelayLabel { destination: MemberId(reader.array()?), label: RelayLabel(reader.u16()?) }
            }
            RELAY_UNKNOWN => Frame::RelayUnknown {
                label: RelayLabel(reader.u16()?),
                destination: MemberId(reader.array()?),
                reason: reader.u8()?,
            },
            JOIN_FORWARD => {
                let joiner = parse_endpoint(&mut reader)?;
                Frame::JoinForward { joiner, bytes: at_most(JOIN_MAX_LEN, reader.rest(), "join")? }
            }
            JOIN_BACK => {
                let joiner = parse_endpoint(&mut reader)?;
                Frame::JoinBack { joiner, bytes: at_most(JOIN_MAX_LEN, reader.rest(), "join")? }
            }
            CLOSE => Frame::Close { reason: reader.u8()? },
            ECHO => Frame::Echo { id: reader.u32()?, sent_us: reader.u64()? },
            ECHO_REPLY => Frame::EchoReply { id: reader.u32()?, sent_us: reader.u64()? },
            _ => return Ok(None),
        };
        Ok(Some(frame))
    }
}

fn emit_versions(versions: &[(MemberId, BootEpoch, Seq)], out: &mut Vec<u8>) {
    let count = versions.len().min(MAX_VERSIONS);
    out.put_u8(count as u8);
    for (member, boot, seq) in &versions[..count] {
        out.put(&member.0);
        out.put_u64(boot.0);
        out.put_u64(seq.0);
    }
}

fn versions(reader: &mut Reader<'_>) -> Result<Vec<(MemberId, BootEpoch, Seq)>, Error> {
    let count = usize::from(reader.u8()?);
    if count > MAX_VERSIONS {
        return Err(Error::TooLong("versions"));
    }
    let one = |reader: &mut Reader<'_>| {
        Ok((MemberId(reader.array()?), BootEpoch(reader.u64()?), Seq(reader.u64()?)))
    };
    (0..count).map(|_| one(reader)).collect()
}

fn buckets(reader: &mut Reader<'_>) -> Result<[u64; BUCKETS], Error> {
    let mut buckets = [0; BUCKETS];
    for bucket in &mut buckets {
        *bucket = reader.u64()?;
    }
    Ok(buckets)
}

/// Reads the frames of an opened control datagram one after the other. Ends after the first error.
pub fn frames(content: &[u8]) -> impl Iterator<Item = Result<Frame, Error>> + '_ {
    let mut reader = Reader::new(content);
    std::iter::from_fn(move || {
        loop {
            if reader.is_empty() {
                return None;
            }
            match next_frame(&mut reader) {
                Ok(Some(frame)) => return Some(Ok(frame)),
                Ok(None) => {}
                Err(error) => {
                    reader = Reader::new(&[]);
                    return Some(Err(error));
                }
            }
        }
    })
}

fn next_frame(reader: &mut Reader<'_>) -> Result<Option<Frame>, Error> {
    let kind = reader.u8()?;
    let value = reader.bytes16()?;
    Frame::parse_value(kind, value)
}

fn at_most(limit: usize, bytes: &[u8], name: &'static str) -> Result<Vec<u8>, Error> {
    if bytes.len() > limit { Err(Error::TooLong(name)) } else { Ok(bytes.to_vec()) }
}

fn version_text(bytes: &[u8]) -> Result<String, Error> {
    let printable = bytes.iter().all(|byte| (0x20..0x7f).contains(byte));
    if bytes.len() > MAX_VERSION_TEXT || !printable {
        return Err(Error::InvalidField("version"));
    }
    String::from_utf8(bytes.to_vec()).map_err(|_| Error::InvalidField("version"))
}
