//! What is emitted is read as the same value, and emitted again as the same bytes.

use proptest::prelude::*;
use proto::bundle::SignedBundle;
use proto::endpoint::{emit_candidates, emit_endpoint, parse_candidates, parse_endpoint};
use proto::frame::{Frame, frames};
use proto::handshake::ResponsePayload;
use proto::id::{MemberId, Name};
use proto::invitation::HostPort;
use proto::record::RecordView;
use proto::signed::Signed;
use proto::{codec, data, relay};

use crate::any;
use crate::formats::any_message;

proptest! {
    #[test]
    fn every_message_is_emitted_as_it_was_read((format, bytes) in any_message()) {
        prop_assert_eq!(format.emit_again(&bytes), Ok(bytes));
    }

    #[test]
    fn certificates(signed in any::signed(any::certificate())) {
        prop_assert_eq!(Signed::parse(&signed.to_bytes()), Ok(signed));
    }

    #[test]
    fn certificates_hold_what_was_signed(body in any::certificate()) {
        let signed = Signed::sign_with(body.clone(), |_| [0; 64]).unwrap();
        prop_assert_eq!(signed.body(), &body);
    }

    #[test]
    fn key_epochs(signed in any::signed(any::key_epoch())) {
        prop_assert_eq!(Signed::parse(&signed.to_bytes()), Ok(signed));
    }

    #[test]
    fn records(signed in any::signed(any::record())) {
        prop_assert_eq!(Signed::parse(&signed.to_bytes()), Ok(signed));
    }

    #[test]
    fn records_hold_what_was_signed(body in any::record()) {
        let signed = Signed::sign_with(body.clone(), |_| [0; 64]).unwrap();
        prop_assert_eq!(signed.body(), &body);
    }

    #[test]
    fn a_record_read_field_by_field_says_what_it_says_as_a_whole(signed in any::signed(any::record())) {
        let (view, whole) = (RecordView::from(&signed), signed.body());
        prop_assert_eq!(view.version(), (whole.boot, whole.seq));
        prop_assert_eq!(view.keys(), (whole.certificate, whole.key_epoch));
        prop_assert_eq!(&view.candidates(), &whole.candidates);
        prop_assert_eq!(view.has_candidates(), !whole.candidates.is_empty());
        prop_assert_eq!(&view.subnets(), &whole.subnets);
        prop_assert_eq!(view.has_subnets(), !whole.subnets.is_empty());
        prop_assert_eq!(&view.datacenter(), &whole.datacenter);
        prop_assert_eq!(view.relays(), whole.relays);
        prop_assert!(view.links().eq(whole.links.iter().copied()));
        for link in &whole.links {
            let first = whole.links.iter().find(|other| other.member == link.member).copied();
            prop_assert_eq!(view.link(link.member), first);
        }
        prop_assert_eq!(view.floor(), whole.floor);
        for (member, _) in &whole.confirms {
            let first = whole.confirms.iter().find(|(other, _)| other == member).map(|(_, number)| *number);
            prop_assert_eq!(view.confirmed(*member), first);
        }
        for mark in whole.short_confirms.iter().chain([&0, &7]) {
            prop_assert_eq!(view.confirms_in_short(*mark), whole.short_confirms.contains(mark));
        }
        prop_assert_eq!(&view.plan(), &whole.plan);
        prop_assert_eq!(view.bundle(), whole.bundle);
    }

    #[test]
    fn revocations(signed in any::signed(any::revocation())) {
        prop_assert_eq!(Signed::parse(&signed.to_bytes()), Ok(signed));
    }

    #[test]
    fn bundles(bundle in any::bundle()) {
        let read = SignedBundle::parse(&bundle.to_bytes()).unwrap();
        prop_assert_eq!(&read, &bundle);
        // Signatures are not part of what the next version refers to.
        let bare = SignedBundle::unsigned(bundle.body().clone()).unwrap();
        prop_assert_eq!(bare.hash(), bundle.hash());
        prop_assert_eq!(bare.signing_bytes(), bundle.signing_bytes());
        prop_assert_eq!(read.mesh_id_of_first(), bundle.body().mesh_id_of_first());
    }

    #[test]
    fn runs_of_frames(sent in prop::collection::vec(any::frame(), 0..=8)) {
        let mut bytes = Vec::new();
        for frame in &sent {
            let before = bytes.len();
            frame.emit(&mut bytes);
            prop_assert_eq!(frame.encoded_len(), bytes.len() - before);
        }
        let read: Vec<Frame> = frames(&bytes).map(Result::unwrap).collect();
        prop_assert_eq!(read, sent);
    }

    #[test]
    fn response_payloads(payload in any::response_payload()) {
        let mut bytes = Vec::new();
        payload.emit(&mut bytes);
        prop_assert_eq!(ResponsePayload::parse(&bytes), Ok(payload));
    }

    #[test]
    fn data_headers(header in any::data_header(), rest in prop::collection::vec(any::<u8>(), 18..100)) {
        let mut bytes = vec![0; data::HEADER_LEN];
        header.write(&mut bytes);
        bytes.extend(&rest);
        prop_assert_eq!(data::Header::parse(&bytes), Ok(header));
    }

    #[test]
    fn trailers(flags: u8, index: u8, inner in any::bytes(50)) {
        let trailer = data::Trailer { flags: data::TrailerFlags(flags), index };
        let mut bytes = inner.clone();
        bytes.extend([0; data::TRAILER_LEN]);
        trailer.write(&mut bytes[inner.len()..]);
        prop_assert_eq!(data::Trailer::split(&bytes), Some((&inner[..], trailer)));
    }

    #[test]
    fn relay_headers(header in any::relay_header(), rest in prop::collection::vec(any::<u8>(), 17..100)) {
        let mut bytes = vec![0; header.len()];
        header.write(&mut bytes);
        bytes.extend(&rest);
        prop_assert_eq!(relay::Header::parse(&bytes), Ok(header));
    }

    #[test]
    fn endpoints_and_candidates(endpoint in any::endpoint(), candidates in any::candidates()) {
        let mut bytes = Vec::new();
        emit_endpoint(&endpoint, &mut bytes);
        emit_candidates(&candidates, &mut bytes);
        let mut reader = codec::Reader::new(&bytes);
        prop_assert_eq!(parse_endpoint(&mut reader), Ok(endpoint));
        prop_assert_eq!(parse_candidates(&mut reader), Ok(candidates));
        prop_assert_eq!(reader.finish(), Ok(()));
    }

    #[test]
    fn texts_of_ids_names_and_endpoints(member in any::member(), name in any::name(), endpoint in any::endpoint()) {
        prop_assert_eq!(member.to_string().parse::<MemberId>(), Ok(member));
        prop_assert_eq!(name.to_string().parse::<Name>(), Ok(name));
        if endpoint.port() != 0 {
            prop_assert_eq!(endpoint.to_string().parse::<HostPort>().unwrap().to_string(), endpoint.to_string());
        }
    }
}
