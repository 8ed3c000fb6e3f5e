//! Damaged messages: every input gives a value or an error, never a panic.

use proptest::prelude::*;

use crate::formats::{Format, any_message};
use crate::vectors;

proptest! {
    #[test]
    fn a_message_cut_at_any_byte_is_an_error((format, bytes) in any_message()) {
        for len in 0..bytes.len() {
            survives(format, &bytes[..len]);
            if format.knows_its_length() {
                prop_assert!(format.emit_again(&bytes[..len]).is_err(), "{:?} cut at {}", format, len);
            }
        }
    }

    #[test]
    fn a_message_with_more_bytes_is_an_error((format, mut bytes) in any_message(), more in 1..200usize) {
        bytes.extend(vec![b'A'; more]);
        survives(format, &bytes);
        if format.knows_its_length() {
            prop_assert!(format.emit_again(&bytes).is_err(), "{:?} with {} more bytes", format, more);
        }
    }

    #[test]
    fn flipped_bits_do_no_harm(
        (format, mut bytes) in any_message(),
        flips in prop::collection::vec((any::<prop::sample::Index>(), 0..8u8), 1..=8),
    ) {
        prop_assume!(!bytes.is_empty());
        for (at, bit) in flips {
            let at = at.index(bytes.len());
            bytes[at] ^= 1 << bit;
        }
        survives(format, &bytes);
    }

    #[test]
    fn a_message_read_as_another_format_does_no_harm((_, bytes) in any_message()) {
        for format in Format::ALL {
            survives(format, &bytes);
        }
    }

    #[test]
    fn noise_does_no_harm(bytes in prop::collection::vec(any::<u8>(), 0..=1500), first in 0..=8u8) {
        for format in Format::ALL {
            survives(format, &bytes);
            // With the first byte of each type, so that more than the first check is reached.
            let typed: Vec<u8> = [&[0x10 | first], &bytes[..]].concat();
            survives(format, &typed);
        }
    }
}

#[test]
fn every_vector_cut_flipped_and_read_as_anything_does_no_harm() {
    for name in vectors::names() {
        let bytes = vectors::vector(&name);
        for format in Format::ALL {
            for len in 0..=bytes.len() {
                survives(format, &bytes[..len]);
            }
            for bit in 0..8 * bytes.len() {
                let mut flipped = bytes.clone();
                flipped[bit / 8] ^= 1 << (bit % 8);
                survives(format, &flipped);
            }
        }
    }
}

#[test]
fn the_invitation_url_notices_every_change_of_a_character() {
    let url = crate::sample::invitation().to_string();
    for at in 0..url.len() {
        for replacement in ["A", "-", "0", "/"] {
            if url[at..=at] != *replacement {
                let mut changed = url.clone();
                changed.replace_range(at..=at, replacement);
                assert!(Format::Invitation.emit_again(changed.as_bytes()).is_err(), "at {at}");
            }
        }
    }
}

/// Reads damaged bytes. What is accepted is emitted as something that is read as the same, and a signed object is
/// emitted byte for byte.
fn survives(format: Format, bytes: &[u8]) {
    let Ok(again) = format.emit_again(bytes) else { return };
    match format {
        Format::Certificate | Format::KeyEpoch | Format::Record | Format::Revocation | Format::Bundle => {
            assert_eq!(again, bytes, "{format:?}: passed on with other bytes");
        }
        _ => assert_eq!(format.emit_again(&again), Ok(again), "{format:?}: does not settle"),
    }
}
