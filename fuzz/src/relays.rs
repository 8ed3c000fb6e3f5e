//! Relay headers over any datagram: a hop tag holds over what it covers and breaks with it, and a relay changes the
//! header alone.

use meshnet::crypto::{LaneOpener, LaneSealer, Suite};
use meshnet::dataplane::relay;
use proto::id::{Counter, MemberId, ReceiverIndex, RelayLabel};
use proto::lane::{Lane, Role};
use proto::relay::{HOP_TAG_LEN, Header, LONG_LEN, MAX_TTL};

/// Keys of the hop before the relay, and of the one after it.
const KEYS: [[u8; 32]; 2] = [[3; 32], [5; 32]];

/// How much of the inner datagram a hop tag covers.
const COVERED: usize = 16;

/// The first byte chooses a bit to flip, the next two the label, the next the role; the rest is the inner datagram.
/// Everything is also read as a datagram that comes from outside.
pub fn relay(bytes: &[u8]) {
    let [before, after] = KEYS.map(|key| LaneOpener::new(Suite::ChaCha20Poly1305, &key));
    if let Ok(header) = Header::parse(bytes) {
        assert!(!relay::verify(bytes, header.len(), header.counter, &before), "nobody made that tag");
    }
    let Some(([flip, high, low, role], inner)) = bytes.split_first_chunk::<4>() else { return };
    if inner.is_empty() {
        return;
    }
    let label = RelayLabel(u16::from_be_bytes([*high, *low]));
    let Some(lane) = Role::from_bits(*role & 3).and_then(|role| Lane::new(role, 0)) else { return };
    let sealer = |key, index| LaneSealer::new(Suite::ChaCha20Poly1305, &key, ReceiverIndex(index), lane);
    let (to_relay, onward) = (sealer(KEYS[0], 1), sealer(KEYS[1], 2));
    let (source, destination) = (MemberId([1; 16]), MemberId([2; 16]));

    let mut buf = vec![0; LONG_LEN + HOP_TAG_LEN];
    let start = buf.len();
    buf.extend_from_slice(inner);
    let end = buf.len();
    let whole = relay::wrap(&mut buf, start..end, (&to_relay, Counter(9)), label, destination, source);
    let mut datagram = buf[whole].to_vec();
    let header = Header::parse(&datagram).expect("what is sent is read");
    assert_eq!((header.ttl, header.label, header.role), (MAX_TTL, label, lane.role()));
    assert_eq!(header.ids, (label == RelayLabel::LONG).then_some((destination, source)));
    let len = header.len();
    assert!(relay::verify(&datagram, len, header.counter, &before));
    assert!(!relay::verify(&datagram, len, header.counter, &after), "the tag of another session");

    // One bit of what the tag covers, or of the tag.
    let covered = len + HOP_TAG_LEN + inner.len().min(COVERED);
    let (byte, bit) = (usize::from(*flip) / 8 % covered, flip % 8);
    datagram[byte] ^= 1 << bit;
    assert!(!relay::verify(&datagram, len, header.counter, &before), "byte {byte} is not covered");
    datagram[byte] ^= 1 << bit;

    let next = relay::next_header(&header, (&onward, Counter(11)), label);
    relay::stamp(&mut datagram, &next, &onward);
    assert_eq!(Header::parse(&datagram), Ok(next));
    assert_eq!((next.ttl, next.ids), (MAX_TTL - 1, header.ids));
    assert!(relay::verify(&datagram, len, next.counter, &after));
    assert_eq!(&datagram[len + HOP_TAG_LEN..], inner, "a relay touches no body");
}
