//! Every format under one roof: the bytes of any valid message, and reading and emitting them again.

use proptest::collection::vec;
use proptest::prelude::*;
use proto::Error;
use proto::bundle::SignedBundle;
use proto::certificate::Certificate;
use proto::cookie::Cookie;
use proto::data;
use proto::frame::{Frame, frames};
use proto::handshake::{Attachment, Init, InitPayload, Response, ResponsePayload};
use proto::id::{InvitationId, KeyEpochNumber, SecretId};
use proto::invitation::Invitation;
use proto::join::{Join, Piece, Stage};
use proto::key_epoch::KeyEpoch;
use proto::record::Record;
use proto::relay;
use proto::revocation::Revocation;
use proto::signed::{Body, Signed};
use proto::stale::StaleKey;

use crate::any;

/// A format.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Format {
    Init,
    InitPayload,
    Response,
    ResponsePayload,
    Cookie,
    StaleKey,
    Data,
    Relay,
    Join,
    Frames,
    Certificate,
    KeyEpoch,
    Record,
    Revocation,
    Bundle,
    Invitation,
}

impl Format {
    pub(crate) const ALL: [Format; 16] = [
        Format::Init,
        Format::InitPayload,
        Format::Response,
        Format::ResponsePayload,
        Format::Cookie,
        Format::StaleKey,
        Format::Data,
        Format::Relay,
        Format::Join,
        Format::Frames,
        Format::Certificate,
        Format::KeyEpoch,
        Format::Record,
        Format::Revocation,
        Format::Bundle,
        Format::Invitation,
    ];

    /// Whether a message that is cut anywhere is no longer valid. The others end with bytes of any length.
    pub(crate) fn knows_its_length(self) -> bool {
        match self {
            Format::Response
            | Format::ResponsePayload
            | Format::Cookie
            | Format::Certificate
            | Format::KeyEpoch
            | Format::Record
            | Format::Revocation
            | Format::Bundle
            | Format::Invitation => true,
            Format::Init
            | Format::InitPayload
            | Format::StaleKey
            | Format::Data
            | Format::Relay
            | Format::Join
            | Format::Frames => false,
        }
    }

    /// Reads `bytes` and emits what was read.
    pub(crate) fn emit_again(self, bytes: &[u8]) -> Result<Vec<u8>, Error> {
        let mut out = Vec::new();
        match self {
            Format::Init => Init::parse(bytes)?.emit(&mut out),
            Format::InitPayload => InitPayload::parse(bytes)?.emit(&mut out),
            Format::Response => Response::parse(bytes)?.emit(&mut out),
            Format::ResponsePayload => ResponsePayload::parse(bytes)?.emit(&mut out),
            Format::Cookie => Cookie::parse(bytes)?.emit(&mut out),
            Format::StaleKey => StaleKey::parse(bytes)?.emit(&mut out),
            Format::Data => {
                out.extend([0; data::HEADER_LEN]);
                data::Header::parse(bytes)?.write(&mut out);
                out.extend(&bytes[data::HEADER_LEN..]);
            }
            Format::Relay => {
                let header = relay::Header::parse(bytes)?;
                out.resize(header.len(), 0);
                header.write(&mut out);
                out.extend(&bytes[header.len()..]);
            }
            Format::Join => Join::parse(bytes)?.emit(&mut out),
            Format::Frames => {
                for frame in frames(bytes) {
                    frame?.emit(&mut out);
                }
            }
            Format::Certificate => Signed::<Certificate>::parse(bytes)?.emit(&mut out),
            Format::KeyEpoch => Signed::<KeyEpoch>::parse(bytes)?.emit(&mut out),
            Format::Record => Signed::<Record>::parse(bytes)?.emit(&mut out),
            Format::Revocation => Signed::<Revocation>::parse(bytes)?.emit(&mut out),
            Format::Bundle => SignedBundle::parse(bytes)?.emit(&mut out),
            Format::Invitation => {
                let text = std::str::from_utf8(bytes).map_err(|_| Error::InvalidField("text"))?;
                let read: Invitation = text.parse().map_err(|_| Error::InvalidField("invitation"))?;
                out.extend(read.to_string().bytes());
            }
        }
        Ok(out)
    }

    /// The bytes of any valid message of this format.
    pub(crate) fn any(self) -> BoxedStrategy<Vec<u8>> {
        match self {
            Format::Init => (any::index(), vec(any::<u8>(), 136..=1160), any::<[[u8; 16]; 2]>())
                .prop_map(|(sender, noise, [mac1, mac2])| {
                    emitted(|out| Init { sender, noise: &noise, mac1, mac2 }.emit(out))
                })
                .boxed(),
            Format::InitPayload => init_payload().boxed(),
            Format::Response => {
                (any::index(), any::index(), any::<bool>(), vec(any::<u8>(), 76), any::<[[u8; 16]; 2]>())
                    .prop_map(|(sender, receiver, named_secret, noise, [mac1, mac2])| {
                        let noise = &noise;
                        emitted(|out| {
                            Response { sender, receiver, named_secret, noise, mac1, mac2 }.emit(out)
                        })
                    })
                    .boxed()
            }
            Format::ResponsePayload => {
                any::response_payload().prop_map(|payload| emitted(|out| payload.emit(out))).boxed()
            }
            Format::Cookie => (any::index(), any::<[u8; 24]>(), any::<[u8; 32]>())
                .prop_map(|(receiver, nonce, sealed)| {
                    emitted(|out| Cookie { receiver, nonce, sealed }.emit(out))
                })
                .boxed(),
            Format::StaleKey => (any::index(), any::signed(any::key_epoch()), any::<[u8; 16]>())
                .prop_map(|(receiver, epoch, mac)| {
                    let key_epoch = &epoch.to_bytes();
                    emitted(|out| StaleKey { receiver, key_epoch, mac }.emit(out))
                })
                .boxed(),
            Format::Data => (any::data_header(), vec(any::<u8>(), 18..=200))
                .prop_map(|(header, sealed)| {
                    let mut out = vec![0; data::HEADER_LEN];
                    header.write(&mut out);
                    [out, sealed].concat()
                })
                .boxed(),
            Format::Relay => (any::relay_header(), vec(any::<u8>(), 17..=200))
                .prop_map(|(header, rest)| {
                    let mut out = vec![0; header.len()];
                    header.write(&mut out);
                    [out, rest].concat()
                })
                .boxed(),
            Format::Join => join().boxed(),
            Format::Frames => vec(any::frame(), 0..=4)
                .prop_map(|all: Vec<Frame>| emitted(|out| all.iter().for_each(|frame| frame.emit(out))))
                .boxed(),
            Format::Certificate => object(any::certificate()),
            Format::KeyEpoch => object(any::key_epoch()),
            Format::Record => object(any::record()),
            Format::Revocation => object(any::revocation()),
            Format::Bundle => any::bundle().prop_map(|bundle| bundle.to_bytes()).boxed(),
            Format::Invitation => any::invitation().prop_map(String::into_bytes).boxed(),
        }
    }
}

/// Any valid message of any format.
pub(crate) fn any_message() -> impl Strategy<Value = (Format, Vec<u8>)> {
    prop::sample::select(&Format::ALL[..])
        .prop_flat_map(|format| format.any().prop_map(move |bytes| (format, bytes)))
}

fn emitted(emit: impl FnOnce(&mut Vec<u8>)) -> Vec<u8> {
    let mut out = Vec::new();
    emit(&mut out);
    out
}

fn object<T: Body + std::fmt::Debug + 'static>(
    body: impl Strategy<Value = T> + 'static,
) -> BoxedStrategy<Vec<u8>> {
    any::signed(body).prop_map(|signed| signed.to_bytes()).boxed()
}

fn init_payload() -> impl Strategy<Value = Vec<u8>> {
    let attachments = vec((1..=3u8, any::bytes(300)), 0..=8);
    (any::<u64>(), any::<[u32; 3]>(), any::capabilities(), any::<[u8; 8]>(), attachments).prop_map(
        |(timestamp_us, [sender, responder, bundle_version], capabilities, revocations, attachments)| {
            let attachments = attachments
                .iter()
                .map(|(kind, bytes)| match kind {
                    1 => Attachment::Certificate(bytes),
                    2 => Attachment::KeyEpoch(bytes),
                    _ => Attachment::IssuerCertificate(bytes),
                })
                .collect();
            let payload = InitPayload {
                timestamp_us,
                sender_epoch: KeyEpochNumber(sender),
                responder_epoch: KeyEpochNumber(responder),
                capabilities,
                bundle_version,
                revocations,
                secret: SecretId(timestamp_us.rotate_left(7)),
                attachments,
            };
            let bytes = emitted(|out| payload.emit(out));
            assert_eq!(InitPayload::parse(&bytes), Ok(payload));
            bytes
        },
    )
}

fn join() -> impl Strategy<Value = Vec<u8>> {
    let parts = (1..=6u8, any::<[u8; 8]>(), any::<[u8; 16]>(), any::bytes(1100));
    (any::<u32>(), any::member(), parts, any::<u8>(), 1..=u8::MAX).prop_map(
        |(token, inviter, (stage, invitation, mac, bytes), index, total)| {
            let piece = Piece { index: index % total, total, bytes: &bytes };
            let stage = match stage {
                1 => Stage::Hello { invitation: InvitationId(invitation), noise: &bytes, mac },
                2 => Stage::Answer(piece),
                3 => Stage::Finish(&bytes),
                4 => Stage::Request { sealed: index & 1 == 1, index },
                5 => Stage::Welcome(piece),
                _ => Stage::Refused(&bytes),
            };
            let join = Join { token, inviter, stage };
            let bytes = emitted(|out| join.emit(out));
            assert_eq!(Join::parse(&bytes), Ok(join));
            bytes
        },
    )
}
