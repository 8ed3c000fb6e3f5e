//! Relay headers: put before a sealed datagram, checked and rewritten by each hop. The body is never touched.

use std::ops::Range;

use proto::id::{Counter, MemberId, RelayLabel};
use proto::lane::{self, Lane, Role};
use proto::relay as wire;

use crate::crypto::{LaneOpener, LaneSealer, Sealer};

/// How many bytes of the inner datagram the hop tag covers: its header.
const COVERED: usize = 16;
/// Longest input of a hop tag: long header and the covered part.
const MAX_AAD: usize = wire::LONG_LEN + COVERED;

/// Bytes that a relay header with `label` takes before the inner datagram, hop tag included.
pub fn prefix_len(label: RelayLabel) -> usize {
    let header_len = if label == RelayLabel::LONG { wire::LONG_LEN } else { wire::HEADER_LEN };
    header_len + wire::HOP_TAG_LEN
}

/// Writes a relay header and hop tag before the inner datagram in `buf[inner]`, with `counter` out of the
/// hop's lane, which must have the number of the inner datagram. There must be [`prefix_len`] bytes of room before it. Returns where the whole datagram lies.
pub fn wrap(
    buf: &mut [u8],
    inner: Range<usize>,
    (hop, counter): (&LaneSealer, Counter),
    label: RelayLabel,
    destination: MemberId,
    source: MemberId,
) -> Range<usize> {
    let ids = (label == RelayLabel::LONG).then_some((destination, source));
    let role = hop.lane().role();
    let header = wire::Header { ttl: wire::MAX_TTL, role, label, receiver: hop.remote_index(), counter, ids };
    let start = inner.start - prefix_len(label);
    stamp(&mut buf[start..inner.end], &header, hop);
    start..inner.end
}

/// Writes `header` and its hop tag at the start of `datagram`, which already has its inner part in place.
pub fn stamp(datagram: &mut [u8], header: &wire::Header, hop: &LaneSealer) {
    let header_len = header.len();
    header.write(&mut datagram[..header_len]);
    let (aad, aad_len) = covered(datagram, header_len);
    let tag = hop.tag(header.counter, &aad[..aad_len]);
    datagram[header_len..header_len + wire::HOP_TAG_LEN].copy_from_slice(&tag);
}

/// Whether the hop tag of `datagram` is authentic. `header_len` is that of its parsed header.
pub fn verify(datagram: &[u8], header_len: usize, counter: Counter, opener: &LaneOpener) -> bool {
    let Some(tag) = datagram.get(header_len..header_len + wire::HOP_TAG_LEN) else { return false };
    let Ok(tag) = <&[u8; 16]>::try_from(tag) else { return false };
    let (aad, aad_len) = covered(datagram, header_len);
    opener.check_tag(counter, &aad[..aad_len], tag).is_ok()
}

/// A new header for the next hop, with `counter` out of its lane: one hop less to live.
pub fn next_header(
    header: &wire::Header,
    (hop, counter): (&LaneSealer, Counter),
    label: RelayLabel,
) -> wire::Header {
    let (role, receiver) = (hop.lane().role(), hop.remote_index());
    wire::Header { ttl: header.ttl - 1, role, label, receiver, counter, ids: header.ids }
}

/// The sealer of the session `hop` for the hop around `inner`, in this role. `None` if the inner datagram's lane has a
/// number that there is not.
pub fn hop_lane<'a>(hop: &'a Sealer, role: Role, inner: &[u8]) -> Option<&'a LaneSealer> {
    let number = if role == Role::Control { 0 } else { lane::number_of(inner) };
    Some(hop.lane(Lane::new(role, number)?))
}

fn covered(datagram: &[u8], header_len: usize) -> ([u8; MAX_AAD], usize) {
    let mut aad = [0; MAX_AAD];
    aad[..header_len].copy_from_slice(&datagram[..header_len]);
    let inner = &datagram[header_len + wire::HOP_TAG_LEN..];
    let part = inner.len().min(COVERED);
    aad[header_len..header_len + part].copy_from_slice(&inner[..part]);
    (aad, header_len + part)
}
