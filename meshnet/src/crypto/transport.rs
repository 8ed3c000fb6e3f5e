//! One lane of a keypair: [`LaneSealer`] counts and seals, [`LaneOpener`] authenticates and opens.
//!
//! One key seals data datagrams (header as AAD) and hop tags of relayed datagrams (empty plaintext, outer header and
//! start of the inner datagram as AAD). The two can never be taken for each other: the AAD begins with the datagram's
//! type, and both draw from the one counter.

use proto::id::{Counter, ReceiverIndex};
use proto::lane::Lane;

use super::aead::{Aead, OpenError, TAG_LEN};
use super::suite::Suite;

/// Length of a data datagram's header, in bytes: {type 1, flags 1, lane 2, receiver 4, counter 8}.
pub const HEADER_LEN: usize = 16;

/// Where the counter stands in the header; big-endian.
const COUNTER_AT: std::ops::Range<usize> = 8..16;

/// Seals the datagrams of one lane.
///
/// One thread should draw on it, but nothing breaks when several do: the counter is atomic, the key is only read. Key material is wiped on drop as far
/// as the AEAD's implementation does (`ring` keeps its expanded keys as they are).
#[repr(align(64))]
pub struct LaneSealer {
    aead: Aead,
    lane: Lane,
    suite: Suite,
    remote_index: ReceiverIndex,
    next: SharedCounter,
}

impl LaneSealer {
    /// A sealer for `key`, counting from zero. `remote_index` is what the peer chose to recognise the keypair by.
    ///
    /// # Panics
    /// If this build does not support `suite`; [`Suite::choose`] over truthful capabilities never gives such a one.
    pub fn new(suite: Suite, key: &[u8; 32], remote_index: ReceiverIndex, lane: Lane) -> Self {
        LaneSealer { aead: Aead::new(suite, key), lane, suite, remote_index, next: SharedCounter::new(0) }
    }

    /// Takes `n` consecutive counters and returns the first, or `None` when fewer than `n` are left below
    /// [`Suite::reject_after`]. A counter is given out once, ever.
    pub fn reserve(&self, n: u32) -> Option<Counter> {
        self.next.reserve(u64::from(n), self.suite.reject_after()).map(Counter)
    }

    /// Seals a data datagram in place. `buf` is header 16 | plaintext | trailer 2 | room for the tag 16; the header is
    /// complete, carries `counter`, and becomes the AAD.
    ///
    /// # Panics
    /// If `buf` is shorter than header and tag.
    pub fn seal_in_place(&self, counter: Counter, buf: &mut [u8]) {
        assert!(buf.len() >= HEADER_LEN + TAG_LEN, "room for header and tag");
        let (header, rest) = buf.split_at_mut(HEADER_LEN);
        debug_assert_eq!(header[COUNTER_AT], counter.0.to_be_bytes());
        let (text, tag) = rest.split_at_mut(rest.len() - TAG_LEN);
        tag.copy_from_slice(&self.aead.seal(counter.0, header, text));
    }

    /// The tag over `aad` with an empty plaintext: the hop tag of a relayed datagram.
    pub fn tag(&self, counter: Counter, aad: &[u8]) -> [u8; TAG_LEN] {
        self.aead.seal(counter.0, aad, &mut [])
    }

    /// The receiver index to write into headers.
    pub fn remote_index(&self) -> ReceiverIndex {
        self.remote_index
    }

    /// The lane, to write into headers.
    pub fn lane(&self) -> Lane {
        self.lane
    }

    /// The suite that seals.
    pub fn suite(&self) -> Suite {
        self.suite
    }

    /// How many counters were given out.
    pub fn used(&self) -> u64 {
        self.next.load()
    }

    /// A sealer that counts from `first`, to test limits.
    #[cfg(test)]
    pub(crate) fn starting_at(suite: Suite, key: &[u8; 32], remote_index: ReceiverIndex, first: u64) -> Self {
        LaneSealer {
            next: SharedCounter::new(first),
            ..LaneSealer::new(suite, key, remote_index, Lane::FIRST)
        }
    }
}

/// Opens the datagrams of one lane. It keeps no state: replay is for the receiver's
/// [`super::ReplayWindow`] to see, after authentication.
pub struct LaneOpener {
    aead: Aead,
    suite: Suite,
}

impl LaneOpener {
    /// An opener for `key`.
    ///
    /// # Panics
    /// If this build does not support `suite`, as [`LaneSealer::new`].
    pub fn new(suite: Suite, key: &[u8; 32]) -> Self {
        LaneOpener { aead: Aead::new(suite, key), suite }
    }

    /// Authenticates and decrypts a whole data datagram in place, with the counter in its header, and returns the
    /// plaintext with the trailer at its end.
    ///
    /// # Errors
    /// [`OpenError`]; the bytes behind the header are then undefined.
    pub fn open_in_place<'a>(&self, datagram: &'a mut [u8]) -> Result<&'a mut [u8], OpenError> {
        if datagram.len() < HEADER_LEN + TAG_LEN {
            return Err(OpenError::Short);
        }
        let (header, rest) = datagram.split_at_mut(HEADER_LEN);
        let counter = u64::from_be_bytes(header[COUNTER_AT].try_into().expect("the range is 8 bytes"));
        let (text, tag) = rest.split_at_mut(rest.len() - TAG_LEN);
        let tag: &[u8; TAG_LEN] = (&*tag).try_into().expect("split off as 16 bytes");
        self.aead.open(counter, header, text, tag)?;
        Ok(text)
    }

    /// Checks a hop tag: that the peer computed `tag` over `aad` with `counter`, in constant time.
    ///
    /// # Errors
    /// [`OpenError::Forged`].
    pub fn check_tag(&self, counter: Counter, aad: &[u8], tag: &[u8; TAG_LEN]) -> Result<(), OpenError> {
        self.aead.open(counter.0, aad, &mut [], tag)
    }

    /// The suite that opens.
    pub fn suite(&self) -> Suite {
        self.suite
    }
}

#[cfg(target_has_atomic = "64")]
struct SharedCounter(std::sync::atomic::AtomicU64);

#[cfg(target_has_atomic = "64")]
impl SharedCounter {
    fn new(first: u64) -> Self {
        SharedCounter(first.into())
    }

    fn load(&self) -> u64 {
        self.0.load(std::sync::atomic::Ordering::Relaxed)
    }

    /// Not a plain addition: one that overshot could wrap after enough refused calls.
    fn reserve(&self, n: u64, limit: u64) -> Option<u64> {
        use std::sync::atomic::Ordering::Relaxed;
        self.0.fetch_update(Relaxed, Relaxed, |next| next.checked_add(n).filter(|end| *end <= limit)).ok()
    }
}

/// For 32-bit targets without 64-bit atomics.
#[cfg(not(target_has_atomic = "64"))]
struct SharedCounter(std::sync::Mutex<u64>);

#[cfg(not(target_has_atomic = "64"))]
impl SharedCounter {
    fn new(first: u64) -> Self {
        SharedCounter(first.into())
    }

    fn load(&self) -> u64 {
        *self.0.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
    }

    fn reserve(&self, n: u64, limit: u64) -> Option<u64> {
        let mut next = self.0.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        let end = next.checked_add(n).filter(|end| *end <= limit)?;
        Some(std::mem::replace(&mut *next, end))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::crypto::COUNTER_LIMIT;
    use proptest::prelude::*;

    const KEY: [u8; 32] = [7; 32];
    const INDEX: ReceiverIndex = ReceiverIndex(0x0102_0304);

    fn suites() -> Vec<Suite> {
        [Suite::Aes256Gcm, Suite::ChaCha20Poly1305].into_iter().filter(|s| s.is_supported()).collect()
    }

    fn datagram(counter: u64, text: &[u8]) -> Vec<u8> {
        let mut buf = vec![0x15, 0, 0, 1];
        buf.extend(INDEX.0.to_be_bytes());
        buf.extend(counter.to_be_bytes());
        buf.extend(text);
        buf.extend([0; TAG_LEN]);
        buf
    }

    #[test]
    fn sealers_and_openers_are_shared_between_threads() {
        fn shared<T: Send + Sync>() {}
        shared::<LaneSealer>();
        shared::<LaneOpener>();
    }

    /// Computed with Python's `cryptography` (OpenSSL): key 07.., nonce 00000000 | little-endian counter, AAD the header.
    const VECTORS: [(Suite, &str); 2] = [
        (Suite::Aes256Gcm, "07720453b78ffea1cd7ba4b01e691aeb200571673a8232aabd"),
        (Suite::ChaCha20Poly1305, "3a3ed5c0c1c34f1334a8284ae5514633fbc563ee7f0cab7676"),
    ];

    #[test]
    fn sealing_is_what_openssl_computes() {
        for (suite, expected) in VECTORS.into_iter().filter(|(suite, _)| suite.is_supported()) {
            let counter = Counter(0x0102_0304_0506_0708);
            let mut buf = datagram(counter.0, b"meshnet\0\0");
            LaneSealer::new(suite, &KEY, INDEX, Lane::FIRST).seal_in_place(counter, &mut buf);
            let sealed: String = buf[HEADER_LEN..].iter().map(|byte| format!("{byte:02x}")).collect();
            assert_eq!(sealed, expected, "{suite:?}");
        }
    }

    #[test]
    fn what_is_sealed_opens() {
        for suite in suites() {
            let (sealer, opener) =
                (LaneSealer::new(suite, &KEY, INDEX, Lane::FIRST), LaneOpener::new(suite, &KEY));
            for len in [0, 1, 2, 15, 16, 17, 1400, 9000] {
                let text: Vec<u8> = (0..len).map(|i| i as u8).collect();
                let counter = sealer.reserve(1).unwrap();
                let mut buf = datagram(counter.0, &text);
                sealer.seal_in_place(counter, &mut buf);
                assert!(len < 15 || buf[HEADER_LEN..HEADER_LEN + len] != text[..]);
                assert_eq!(opener.open_in_place(&mut buf).unwrap(), &text[..]);
            }
        }
    }

    #[test]
    fn hop_tags_bind_counter_and_aad() {
        for suite in suites() {
            let (sealer, opener) =
                (LaneSealer::new(suite, &KEY, INDEX, Lane::FIRST), LaneOpener::new(suite, &KEY));
            let tag = sealer.tag(Counter(5), b"\x16header");
            assert_eq!(opener.check_tag(Counter(5), b"\x16header", &tag), Ok(()));
            assert_eq!(opener.check_tag(Counter(6), b"\x16header", &tag), Err(OpenError::Forged));
            assert_eq!(opener.check_tag(Counter(5), b"\x15header", &tag), Err(OpenError::Forged));
        }
    }

    #[test]
    fn every_bit_of_a_sealed_datagram_counts_and_of_its_header_too() {
        for suite in suites() {
            let sealer = LaneSealer::new(suite, &KEY, INDEX, Lane::FIRST);
            let opener = LaneOpener::new(suite, &KEY);
            let counter = sealer.reserve(1).unwrap();
            let mut sealed = datagram(counter.0, b"text");
            sealer.seal_in_place(counter, &mut sealed);
            for bit in 0..sealed.len() * 8 {
                let mut altered = sealed.clone();
                altered[bit / 8] ^= 1 << (bit % 8);
                assert_eq!(
                    opener.open_in_place(&mut altered),
                    Err(OpenError::Forged),
                    "{suite:?}, bit {bit}"
                );
            }
            assert_eq!(opener.open_in_place(&mut sealed).unwrap(), b"text");
        }
    }

    #[test]
    fn short_datagrams_do_not_open() {
        for suite in suites() {
            let opener = LaneOpener::new(suite, &KEY);
            for len in 0..HEADER_LEN + TAG_LEN {
                assert_eq!(opener.open_in_place(&mut vec![0; len]), Err(OpenError::Short));
            }
        }
    }

    #[test]
    fn counters_are_given_out_once_and_end() {
        let limit = COUNTER_LIMIT;
        let sealer = LaneSealer::starting_at(Suite::ChaCha20Poly1305, &KEY, INDEX, limit - 10);
        assert_eq!(sealer.reserve(4), Some(Counter(limit - 10)));
        assert_eq!(sealer.reserve(7), None);
        assert_eq!(sealer.reserve(6), Some(Counter(limit - 6)));
        for n in [1, u32::MAX] {
            assert_eq!(sealer.reserve(n), None);
        }
        assert_eq!(sealer.used(), limit);
    }

    #[test]
    fn a_counter_at_the_very_end_does_not_wrap() {
        let sealer = LaneSealer::starting_at(Suite::ChaCha20Poly1305, &KEY, INDEX, u64::MAX - 1);
        assert_eq!(sealer.reserve(1), None);
        assert_eq!(sealer.reserve(u32::MAX), None);
        assert_eq!(sealer.used(), u64::MAX - 1);
    }

    #[test]
    fn concurrent_reservations_do_not_overlap() {
        let sealer = LaneSealer::new(Suite::ChaCha20Poly1305, &KEY, INDEX, Lane::FIRST);
        let mut firsts: Vec<u64> = std::thread::scope(|scope| {
            let threads: Vec<_> = (0..4)
                .map(|_| scope.spawn(|| (0..1000).map(|_| sealer.reserve(3).unwrap().0).collect()))
                .collect();
            threads.into_iter().flat_map(|t| -> Vec<u64> { t.join().unwrap() }).collect()
        });
        firsts.sort_unstable();
        assert_eq!(firsts, (0..4000).map(|i| i * 3).collect::<Vec<_>>());
    }

    proptest! {
        #[test]
        fn any_flipped_bit_is_noticed(text in proptest::collection::vec(any::<u8>(), 0..64), bit in any::<prop::sample::Index>()) {
            for suite in suites() {
                let (sealer, opener) = (LaneSealer::new(suite, &KEY, INDEX, Lane::FIRST), LaneOpener::new(suite, &KEY));
                let mut buf = datagram(9, &text);
                sealer.seal_in_place(Counter(9), &mut buf);
                let bit = bit.index(buf.len() * 8);
                buf[bit / 8] ^= 1 << (bit % 8);
                prop_assert_eq!(opener.open_in_place(&mut buf), Err(OpenError::Forged));
            }
        }
    }
}
