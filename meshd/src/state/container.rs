//! The text around every state file, which tells what the file is and whether it is whole.
//!
//! ```text
//! meshd-state 1 identity
//! q83vEjRWeJCrze8SNFZ4kKvN7xI0VniQq83vEjRWeJA=
//! blake2s 3b0f...
//! ```
//! The checksum covers the first line and the payload. It finds accidents (a full disk, a bad sector, an editor), not
//! forgers: who can write these files owns the node. Decoding accepts exactly what encoding makes, byte for byte, so
//! that every truncation and every changed byte shows.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use blake2::{Blake2s256, Digest};
use zeroize::Zeroizing;

/// Version of the container.
const VERSION: u32 = 1;
/// Base64 characters a line, as in PEM.
const LINE_CHARS: usize = 64;
const MAGIC: &str = "meshd-state";

/// Why some bytes are no valid container.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Damage {
    /// The first line is not that of a state file.
    #[error("it is not a meshd state file")]
    Foreign,
    /// A newer meshd wrote it.
    #[error("a newer meshd wrote it, in format {0}")]
    Newer(u32),
    /// It is a state file, but another one.
    #[error("it holds something else than its name says")]
    OtherKind,
    /// The checksum line is missing.
    #[error("its end is missing")]
    Truncated,
    /// Content and checksum disagree.
    #[error("its content does not match its checksum")]
    Altered,
    /// The container is whole, but its payload is not what this version writes.
    #[error("its content makes no sense")]
    Payload,
}

/// Wraps `payload` as a state file of `kind` (one word).
pub fn encode(kind: &str, payload: &[u8]) -> Zeroizing<String> {
    let body = Zeroizing::new(STANDARD.encode(payload));
    let head = header(kind);
    let mut text =
        Zeroizing::new(String::with_capacity(head.len() + body.len() + body.len() / LINE_CHARS + 80));
    text.push_str(&head);
    let mut rest = body.as_str();
    while !rest.is_empty() {
        let (line, tail) = rest.split_at(rest.len().min(LINE_CHARS));
        text.push_str(line);
        text.push('\n');
        rest = tail;
    }
    text.push_str("blake2s ");
    for byte in checksum(&head, payload) {
        text.push(char::from_digit(u32::from(byte >> 4), 16).unwrap_or('0'));
        text.push(char::from_digit(u32::from(byte & 15), 16).unwrap_or('0'));
    }
    text.push('\n');
    text
}

/// Unwraps a state file of `kind`.
///
/// # Errors
/// [`Damage`] if `bytes` differ in any way from what [`encode`] makes.
pub fn decode(kind: &str, bytes: &[u8]) -> Result<Zeroizing<Vec<u8>>, Damage> {
    let text = std::str::from_utf8(bytes).map_err(|_| Damage::Altered)?;
    check_header(kind, text)?;
    let head = header(kind);
    let body = text.strip_prefix(head.as_str()).ok_or(Damage::Altered)?;
    let (body, _) = match body.strip_prefix("blake2s ") {
        Some(sum) => ("", sum),
        None => body.split_once("\nblake2s ").ok_or(Damage::Truncated)?,
    };
    let joined = Zeroizing::new(body.replace('\n', ""));
    let payload = Zeroizing::new(STANDARD.decode(joined.as_bytes()).map_err(|_| Damage::Altered)?);
    let canonical = encode(kind, &payload);
    if canonical.as_bytes() == bytes {
        Ok(payload)
    } else if canonical.as_bytes().starts_with(bytes) {
        Err(Damage::Truncated)
    } else {
        Err(Damage::Altered)
    }
}

fn header(kind: &str) -> String {
    format!("{MAGIC} {VERSION} {kind}\n")
}

fn check_header(kind: &str, text: &str) -> Result<(), Damage> {
    let Some((first, _)) = text.split_once('\n') else {
        return Err(if text.is_empty() || header(kind).starts_with(text) {
            Damage::Truncated
        } else {
            Damage::Foreign
        });
    };
    let mut words = first.split(' ');
    if words.next() != Some(MAGIC) {
        return Err(Damage::Foreign);
    }
    let version: u32 = words.next().and_then(|word| word.parse().ok()).ok_or(Damage::Foreign)?;
    if version > VERSION {
        return Err(Damage::Newer(version));
    }
    if words.next() != Some(kind) {
        return Err(Damage::OtherKind);
    }
    Ok(())
}

fn checksum(head: &str, payload: &[u8]) -> [u8; 32] {
    let mut hash = Blake2s256::new();
    hash.update(head.as_bytes());
    hash.update(payload);
    hash.finalize().into()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn the_format_is_this_text() {
        let text = encode("gate", &[0xab; 3]);
        assert_eq!(
            text.as_str(),
            "meshd-state 1 gate\nq6ur\nblake2s ead3ca1079591321c363b323ebfc4b9696bbd33f5c61e5028e19796e73ccdca6\n"
        );
    }

    #[test]
    fn other_kinds_and_newer_versions_are_told_apart() {
        let text = encode("gate", b"x");
        assert_eq!(decode("identity", text.as_bytes()).unwrap_err(), Damage::OtherKind);
        let newer = text.replacen(" 1 ", " 2 ", 1);
        assert_eq!(decode("gate", newer.as_bytes()).unwrap_err(), Damage::Newer(2));
        assert_eq!(decode("gate", b"").unwrap_err(), Damage::Truncated);
        assert_eq!(decode("gate", b"[mesh]\n").unwrap_err(), Damage::Foreign);
    }

    proptest! {
        #[test]
        fn what_is_encoded_decodes_and_no_prefix_does(payload in proptest::collection::vec(any::<u8>(), 0..300)) {
            let text = encode("records", &payload);
            prop_assert_eq!(&*decode("records", text.as_bytes()).unwrap(), &payload);
            for end in 0..text.len() {
                prop_assert!(decode("records", &text.as_bytes()[..end]).is_err(), "cut at {}", end);
            }
        }

        #[test]
        fn every_changed_byte_shows(payload in proptest::collection::vec(any::<u8>(), 0..100), flip in 1u8..=255) {
            let text = encode("records", &payload);
            for at in 0..text.len() {
                let mut bytes = text.as_bytes().to_vec();
                bytes[at] ^= flip;
                prop_assert!(decode("records", &bytes).is_err(), "byte {}", at);
            }
        }

        #[test]
        fn garbage_never_panics(bytes in proptest::collection::vec(any::<u8>(), 0..300)) {
            prop_assert!(decode("records", &bytes).is_err());
        }
    }
}
