//! The keys of a keypair's lanes, in one direction: [`Sealer`] for those we send on, [`Opener`] for the peer's.
//!
//! The first lane has the direction's own key, so that a peer that knows of no lanes sees nothing new. The others' are
//! derived from it when they are first used. Each sealing lane counts for itself: threads with a lane of their own share
//! nothing that is written.

use std::sync::OnceLock;

use proto::id::ReceiverIndex;
use proto::lane::{LANES_MAX, Lane, Role};

use super::hash::kdf;
use super::secret::Secret;
use super::suite::Suite;
use super::transport::{LaneOpener, LaneSealer};

/// Seals to one peer, on any lane. Shared by every thread that sends; each should have its own lane.
pub struct Sealer {
    suite: Suite,
    key: Secret<32>,
    remote_index: ReceiverIndex,
    has_lanes: bool,
    first: LaneSealer,
    control: OnceLock<Box<LaneSealer>>,
    queues: [OnceLock<Box<LaneSealer>>; LANES_MAX as usize - 1],
    forward: OnceLock<Box<[OnceLock<Box<LaneSealer>>; LANES_MAX as usize]>>,
}

impl Sealer {
    /// A sealer for a direction's `key`, to a peer that opens the lanes if `has_lanes`. `remote_index` is what the peer
    /// chose to recognise the keypair by.
    ///
    /// # Panics
    /// If this build does not support `suite`; [`Suite::choose`] over truthful capabilities never gives such a one.
    pub fn new(suite: Suite, key: &[u8; 32], remote_index: ReceiverIndex, has_lanes: bool) -> Sealer {
        Sealer {
            suite,
            key: Secret::new(*key),
            remote_index,
            has_lanes,
            first: LaneSealer::new(suite, key, remote_index, Lane::FIRST),
            control: OnceLock::new(),
            queues: Default::default(),
            forward: OnceLock::new(),
        }
    }

    /// The sealer of `lane`; that of [`Lane::FIRST`] if the peer knows no other.
    pub fn lane(&self, lane: Lane) -> &LaneSealer {
        if !self.has_lanes {
            return &self.first;
        }
        let slot = match (lane.role(), lane.number()) {
            (Role::Queue, 0) => return &self.first,
            (Role::Queue, number) => &self.queues[usize::from(number) - 1],
            (Role::Forward, number) => &self.forward.get_or_init(Box::default)[usize::from(number)],
            (Role::Control, _) => &self.control,
        };
        slot.get_or_init(|| {
            let key = lane_key(&self.key, lane);
            Box::new(LaneSealer::new(self.suite, key.bytes(), self.remote_index, lane))
        })
    }

    /// How many counters the busiest lane has given out: limits on the use of a key are those of its lane's key.
    pub fn most_used(&self) -> u64 {
        let forward = self.forward.get().into_iter().flat_map(|lanes| lanes.iter());
        let derived = self.queues.iter().chain(forward).chain([&self.control]).filter_map(OnceLock::get);
        derived.map(|lane| lane.used()).fold(self.first.used(), u64::max)
    }

    /// The receiver index to write into headers.
    pub fn remote_index(&self) -> ReceiverIndex {
        self.remote_index
    }

    /// The suite that seals.
    pub fn suite(&self) -> Suite {
        self.suite
    }
}

/// Opens what one peer sealed, on any lane. It keeps no state: who receives on a lane has its [`LaneOpener`] and its
/// [`super::ReplayWindow`].
pub struct Opener {
    suite: Suite,
    key: Secret<32>,
    has_lanes: bool,
}

impl Opener {
    /// An opener for a direction's `key`, from a peer that seals on lanes if `has_lanes`.
    pub fn new(suite: Suite, key: &[u8; 32], has_lanes: bool) -> Opener {
        Opener { suite, key: Secret::new(*key), has_lanes }
    }

    /// The lane of a data datagram whose header says `lane`; `None` if the peer cannot have sealed on it.
    pub fn data_lane(&self, lane: u16) -> Option<Lane> {
        Lane::from_wire(lane).filter(|lane| self.has_lanes || *lane == Lane::FIRST)
    }

    /// The lane of a hop tag that says it was made in this role, around a datagram with this number.
    pub fn hop_lane(&self, role: Role, number: u8) -> Option<Lane> {
        if self.has_lanes { Lane::new(role, number) } else { Some(Lane::FIRST) }
    }

    /// The opener of `lane`, computed anew: keep it.
    ///
    /// # Panics
    /// If this build does not support the suite, as [`Sealer::new`].
    pub fn lane(&self, lane: Lane) -> LaneOpener {
        if lane == Lane::FIRST {
            return LaneOpener::new(self.suite, self.key.bytes());
        }
        LaneOpener::new(self.suite, lane_key(&self.key, lane).bytes())
    }

    /// The suite that opens.
    pub fn suite(&self) -> Suite {
        self.suite
    }
}

fn lane_key(key: &Secret<32>, lane: Lane) -> Secret<32> {
    kdf(key.bytes(), "meshnet lane", &[&lane.to_wire().to_be_bytes()])
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use proptest::prelude::*;
    use proto::id::Counter;

    use super::*;
    use crate::crypto::{HEADER_LEN, OpenError, TAG_LEN};

    const KEY: [u8; 32] = [7; 32];
    const INDEX: ReceiverIndex = ReceiverIndex(0x0102_0304);
    const SUITE: Suite = Suite::ChaCha20Poly1305;

    fn all() -> impl Iterator<Item = Lane> {
        (0..=u16::MAX).filter_map(Lane::from_wire)
    }

    fn sealed(sealer: &LaneSealer, counter: Counter) -> Vec<u8> {
        let mut datagram = vec![0; HEADER_LEN + 8 + TAG_LEN];
        datagram[8..HEADER_LEN].copy_from_slice(&counter.0.to_be_bytes());
        sealer.seal_in_place(counter, &mut datagram);
        datagram
    }

    #[test]
    fn each_lane_opens_what_was_sealed_on_it_and_nothing_else() {
        let (sealer, opener) = (Sealer::new(SUITE, &KEY, INDEX, true), Opener::new(SUITE, &KEY, true));
        let datagrams: Vec<_> = all().map(|lane| (lane, sealed(sealer.lane(lane), Counter(5)))).collect();
        for lane in all() {
            let opener = opener.lane(lane);
            for (sealed_on, datagram) in &datagrams {
                let opened = opener.open_in_place(&mut datagram.clone()).map(|_| ());
                let expected = if *sealed_on == lane { Ok(()) } else { Err(OpenError::Forged) };
                assert_eq!(opened, expected, "sealed on {sealed_on:?}, opened on {lane:?}");
            }
        }
    }

    /// HKDF over HMAC-BLAKE2s-256 of `07` * 32 with info `"meshnet lane" | 0001`, from Python's `hmac`.
    #[test]
    fn the_first_lane_has_the_key_itself_and_the_second_a_derived_one() {
        let sealer = Sealer::new(SUITE, &KEY, INDEX, true);
        let plain = LaneSealer::new(SUITE, &KEY, INDEX, Lane::FIRST);
        assert_eq!(sealed(sealer.lane(Lane::FIRST), Counter(1)), sealed(&plain, Counter(1)));
        let second = Lane::new(Role::Queue, 1).unwrap();
        let key: String =
            lane_key(&Secret::new(KEY), second).bytes().iter().map(|b| format!("{b:02x}")).collect();
        assert_eq!(key, "d40f8b8d873f4845abfd3ea48bc96d53d0580d02446a99b5ca1aa517187bb55d");
    }

    #[test]
    fn a_peer_without_lanes_has_the_first_for_everything() {
        let (sealer, opener) = (Sealer::new(SUITE, &KEY, INDEX, false), Opener::new(SUITE, &KEY, false));
        for lane in all() {
            assert_eq!(sealer.lane(lane).lane(), Lane::FIRST);
            assert_eq!(opener.data_lane(lane.to_wire()).is_some(), lane == Lane::FIRST);
            assert_eq!(opener.hop_lane(lane.role(), lane.number()), Some(Lane::FIRST));
        }
        assert_eq!(sealer.lane(Lane::CONTROL).reserve(3), Some(Counter(0)));
        assert_eq!(sealer.lane(Lane::FIRST).reserve(1), Some(Counter(3)));
    }

    #[test]
    fn the_busiest_lane_tells_when_new_keys_are_due() {
        let sealer = Sealer::new(SUITE, &KEY, INDEX, true);
        for (uses, lane) in all().enumerate() {
            sealer.lane(lane).reserve(uses as u32).unwrap();
        }
        assert_eq!(sealer.most_used(), all().count() as u64 - 1);
        sealer.lane(Lane::FIRST).reserve(1000).unwrap();
        assert_eq!(sealer.most_used(), 1000);
    }

    proptest! {
        /// Threads of all roles draw at once, on lanes of their own and on shared ones, over several keypairs.
        #[test]
        fn no_key_seals_twice_with_one_counter(
            draws in proptest::collection::vec((0..3usize, 0..33usize, 1..50u32), 1..64), lanes in any::<bool>(),
        ) {
            let keypairs: Vec<Sealer> =
                (0..3u8).map(|key| Sealer::new(SUITE, &[key; 32], INDEX, lanes)).collect();
            let lanes: Vec<Lane> = all().collect();
            let (keypairs, lanes) = (&keypairs, &lanes);
            let drawn: Vec<(usize, Lane, u64)> = std::thread::scope(|scope| {
                let threads: Vec<_> = draws.chunks(16).map(|draws| scope.spawn(move || {
                    draws.iter().flat_map(|&(keypair, lane, count)| {
                        let sealer = keypairs[keypair].lane(lanes[lane]);
                        let first = sealer.reserve(count).unwrap().0;
                        (first..first + u64::from(count)).map(move |counter| (keypair, sealer.lane(), counter))
                    }).collect::<Vec<_>>()
                })).collect();
                threads.into_iter().flat_map(|thread| thread.join().unwrap()).collect()
            });
            let distinct: BTreeSet<_> = drawn.iter().collect();
            prop_assert_eq!(distinct.len(), drawn.len());
        }
    }
}
