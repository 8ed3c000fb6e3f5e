//! Relay headers: put before a sealed datagram, checked and rewritten by each hop. The body is never touched.

use std::ops::Range;

use proto::id::{Counter, MemberId, ReceiverIndex, RelayLabel};
use proto::relay as wire;

use crate::crypto::{Opener, Sealer};

/// How many bytes of the inner datagram the hop tag covers: its header.
const COVERED: usize = 16;
/// Longest input of a hop tag: long header and the covered part.
const MAX_AAD: usize = wire::LONG_LEN + COVERED;

/// Bytes that a relay header with `label` takes before the inner datagram, hop tag included.
pub fn prefix_len(label: RelayLabel) -> usize {
    let header_len = if label == RelayLabel::LONG { wire::LONG_LEN } else { wire::HEADER_LEN };
    header_len + wire::HOP_TAG_LEN
}

/// Writes a relay header and hop tag before the inner datagram in `buf[inner]`, with `counter` out of the hop's session.
/// There must be [`prefix_len`] bytes of room before it. Returns where the whole datagram lies.
pub fn wrap(
    buf: &mut [u8],
    inner: Range<usize>,
    (hop, counter): (&Sealer, Counter),
    label: RelayLabel,
    destination: MemberId,
    source: MemberId,
) -> Range<usize> {
    let ids = (label == RelayLabel::LONG).then_some((destination, source));
    let header = wire::Header { ttl: wire::MAX_TTL, label, receiver: hop.remote_index(), counter, ids };
    let start = inner.start - prefix_len(label);
    stamp(&mut buf[start..inner.end], &header, hop);
    start..inner.end
}

/// Writes `header` and its hop tag at the start of `datagram`, which already has its inner part in place.
pub fn stamp(datagram: &mut [u8], header: &wire::Header, hop: &Sealer) {
    let header_len = header.len();
    header.write(&mut datagram[..header_len]);
    let (aad, aad_len) = covered(datagram, header_len);
    let tag = hop.tag(header.counter, &aad[..aad_len]);
    datagram[header_len..header_len + wire::HOP_TAG_LEN].copy_from_slice(&tag);
}

/// Whether the hop tag of `datagram` is authentic. `header_len` is that of its parsed header.
pub fn verify(datagram: &[u8], header_len: usize, counter: Counter, opener: &Opener) -> bool {
    let Some(tag) = datagram.get(header_len..header_len + wire::HOP_TAG_LEN) else { return false };
    let Ok(tag) = <&[u8; 16]>::try_from(tag) else { return false };
    let (aad, aad_len) = covered(datagram, header_len);
    opener.check_tag(counter, &aad[..aad_len], tag).is_ok()
}

/// A new header for the next hop: one hop less to live, and the next session's index and counter.
pub fn next_header(
    header: &wire::Header,
    receiver: ReceiverIndex,
    counter: Counter,
    label: RelayLabel,
) -> wire::Header {
    wire::Header { ttl: header.ttl - 1, label, receiver, counter, ids: header.ids }
}

fn covered(datagram: &[u8], header_len: usize) -> ([u8; MAX_AAD], usize) {
    let mut aad = [0; MAX_AAD];
    aad[..header_len].copy_from_slice(&datagram[..header_len]);
    let inner = &datagram[header_len + wire::HOP_TAG_LEN..];
    let part = inner.len().min(COVERED);
    aad[header_len..header_len + part].copy_from_slice(&inner[..part]);
    (aad, header_len + part)
}
