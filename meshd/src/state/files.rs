//! The payloads of the state files: fixed, big-endian layouts, parsed totally.

use meshnet::crypto::{Suite, TransportSecret};
use meshnet::membership::{IdentitySecret, member_id};
use meshnet::node::{KeyRing, OwnEpoch};
use meshnet::session::MAX_RETIRED;
use proto::id::{KeyEpochNumber, MeshId, TransportKey as PublicKey};
use proto::key_epoch::{Capabilities, KeyEpoch};
use proto::record::KeyPlan;
use proto::signed::Signed;
use rand::CryptoRng;
use zeroize::{Zeroize, ZeroizeOnDrop, Zeroizing};

use super::rollover::Pending as Rollover;
use super::{Error, Kind, StateDir};

/// Most transport keys kept: previous, current, and next, with room for an interrupted rotation.
const MAX_TRANSPORT_KEYS: usize = 8;

/// Most replaced keys that are remembered.
const MAX_RETIRED_KEYS: usize = 64;

/// In the place of a first key's number: what follows is how far a rotation is, and only then the keys.
const WITH_ROTATION: u32 = u32::MAX;

/// A node's transport secrets by key epoch, oldest first, and how far their rotation is.
#[derive(Default, Zeroize, ZeroizeOnDrop)]
pub struct TransportKeys {
    /// The keys; the last is the newest.
    pub keys: Vec<TransportKey>,
    /// The number of the epoch that handshakes are made with.
    pub in_use: u32,
    /// Sessions made with earlier epochs are void; 0: none.
    pub cut: u32,
    /// Public halves of replaced keys, oldest first.
    pub retired: Vec<[u8; 32]>,
}

/// One epoch's transport secret.
#[derive(Clone, Zeroize, ZeroizeOnDrop)]
pub struct TransportKey {
    /// The key epoch's number.
    pub number: u32,
    /// The X25519 secret.
    pub secret: [u8; 32],
    /// The signed key epoch, as the other members have it: handshakes bind its bytes, so it is never made anew.
    pub epoch: Vec<u8>,
}

/// What a node keeps while its join has not been answered, so that asking again is the same request.
#[derive(Zeroize, ZeroizeOnDrop)]
pub struct PendingJoin {
    /// The invitation's id.
    pub invitation: [u8; 8],
    /// The Ed25519 secret that the node will have.
    pub identity: [u8; 32],
    /// The X25519 secret of its first key epoch.
    pub transport: [u8; 32],
    /// That key epoch, signed.
    pub epoch: Vec<u8>,
}

impl TransportKey {
    /// A new key, as epoch `number` of the member with `identity`, that declares what this build on this CPU can do.
    ///
    /// # Errors
    /// None in practice: a key epoch has a fixed size.
    pub fn generate(
        rng: &mut impl CryptoRng,
        identity: &IdentitySecret,
        mesh: MeshId,
        number: KeyEpochNumber,
        now_s: u64,
    ) -> Result<TransportKey, proto::Error> {
        TransportKey::declaring(Suite::local_capabilities(), rng, identity, mesh, number, now_s)
    }

    /// The same with other capabilities.
    fn declaring(
        capabilities: Capabilities,
        rng: &mut impl CryptoRng,
        identity: &IdentitySecret,
        mesh: MeshId,
        number: KeyEpochNumber,
        now_s: u64,
    ) -> Result<TransportKey, proto::Error> {
        let secret = TransportSecret::random(rng);
        let epoch = identity.sign_key_epoch(KeyEpoch {
            mesh,
            member: member_id(&identity.public()),
            number,
            key: secret.public(),
            created_s: now_s,
            capabilities,
        })?;
        Ok(TransportKey { number: number.0, secret: *secret.bytes(), epoch: epoch.to_bytes() })
    }
}

impl TransportKeys {
    /// A node's first key.
    pub fn first(key: TransportKey) -> TransportKeys {
        TransportKeys { in_use: key.number, cut: 0, retired: Vec::new(), keys: vec![key] }
    }

    /// What the core wants to have written.
    pub fn of(ring: &KeyRing) -> TransportKeys {
        let key = |epoch: &OwnEpoch| TransportKey {
            number: epoch.number().0,
            secret: *epoch.secret.bytes(),
            epoch: epoch.signed.to_bytes(),
        };
        TransportKeys {
            keys: ring.epochs().iter().map(key).collect(),
            in_use: ring.in_use().0,
            cut: ring.cut().0,
            retired: ring.retired().iter().map(|key| key.0).collect(),
        }
    }

    /// For the core; `None` where the signed epochs do not parse, or do not fit together.
    pub fn ring(&self) -> Option<KeyRing> {
        let epoch = |key: &TransportKey| {
            let signed = Signed::parse(&key.epoch).ok()?;
            Some(OwnEpoch { secret: TransportSecret::new(key.secret), signed })
        };
        let epochs: Option<Vec<OwnEpoch>> = self.keys.iter().map(epoch).collect();
        let retired = self.retired.iter().map(|key| PublicKey(*key)).collect();
        KeyRing::new(epochs?, KeyEpochNumber(self.in_use), retired, KeyEpochNumber(self.cut)).ok()
    }

    /// Reads them.
    ///
    /// # Errors
    /// As [`StateDir::require`].
    pub fn load(state: &StateDir) -> Result<TransportKeys, Error> {
        let payload = state.require(Kind::Transport)?;
        TransportKeys::parse(&payload).ok_or_else(|| state.nonsense(Kind::Transport))
    }

    /// Writes them.
    ///
    /// # Errors
    /// As [`StateDir::write`].
    pub fn save(&self, state: &StateDir) -> Result<(), Error> {
        state.write(Kind::Transport, &self.payload())
    }

    /// The content of the file.
    pub fn payload(&self) -> Zeroizing<Vec<u8>> {
        let mut payload =
            Zeroizing::new(Vec::with_capacity(64 + self.retired.len() * 32 + self.keys.len() * 256));
        for number in [WITH_ROTATION, self.in_use, self.cut] {
            payload.extend_from_slice(&number.to_be_bytes());
        }
        // The core bounds them to fewer than MAX_RETIRED_KEYS.
        payload.extend_from_slice(&(self.retired.len() as u16).to_be_bytes());
        self.retired.iter().for_each(|key| payload.extend_from_slice(key));
        for key in &self.keys {
            payload.extend_from_slice(&key.number.to_be_bytes());
            payload.extend_from_slice(&key.secret);
            // A key epoch has at most 152 bytes.
            payload.extend_from_slice(&(key.epoch.len() as u16).to_be_bytes());
            payload.extend_from_slice(&key.epoch);
        }
        payload
    }

    /// Makes the newest key epoch one that declares AES-256-GCM exactly when `capabilities` do: peers choose the suite by
    /// it, and what is signed cannot be taken back but by a newer epoch. Such a newer one is needed when the
    /// configuration, the CPU, or the build has changed. Tells whether a key was added; the caller saves it before it is
    /// used.
    ///
    /// # Errors
    /// When the newest key epoch cannot be read.
    pub fn declare(
        &mut self,
        capabilities: Capabilities,
        rng: &mut impl CryptoRng,
        identity: &IdentitySecret,
        mesh: MeshId,
        now_s: u64,
    ) -> Result<bool, proto::Error> {
        let Some(newest) = self.keys.last() else { return Ok(false) };
        let declared = Signed::<KeyEpoch>::parse(&newest.epoch)?.body().capabilities;
        let aes = Capabilities::AES_GCM;
        if declared.contains(aes) == capabilities.contains(aes) {
            return Ok(false);
        }
        let number = KeyEpochNumber(newest.number + 1);
        let key = TransportKey::declaring(capabilities, rng, identity, mesh, number, now_s)?;
        // Who comes with an older one, which says something else of the ciphers, is told the new one.
        for old in self.keys.drain(..) {
            self.retired.push(Signed::<KeyEpoch>::parse(&old.epoch)?.body().key.0);
        }
        let surplus = self.retired.len().saturating_sub(MAX_RETIRED);
        self.retired.drain(..surplus);
        self.in_use = key.number;
        self.keys.push(key);
        Ok(true)
    }

    fn parse(payload: &[u8]) -> Option<TransportKeys> {
        let mut rest = payload;
        let mut keys = TransportKeys::default();
        // The first version wrote the keys alone; the newest was in use.
        let with_rotation = payload.starts_with(&WITH_ROTATION.to_be_bytes());
        if with_rotation {
            let [_, in_use, cut]: [u32; 3] = [
                u32::from_be_bytes(take(&mut rest)?),
                u32::from_be_bytes(take(&mut rest)?),
                u32::from_be_bytes(take(&mut rest)?),
            ];
            (keys.in_use, keys.cut) = (in_use, cut);
            let count = usize::from(u16::from_be_bytes(take(&mut rest)?));
            if count > MAX_RETIRED_KEYS {
                return None;
            }
            for _ in 0..count {
                keys.retired.push(take(&mut rest)?);
            }
        }
        while !rest.is_empty() {
            let number = u32::from_be_bytes(take(&mut rest)?);
            let secret = take(&mut rest)?;
            let len = u16::from_be_bytes(take(&mut rest)?);
            let (epoch, tail) = rest.split_at_checked(len.into())?;
            rest = tail;
            let rises = keys.keys.last().is_none_or(|last| last.number < number);
            if !rises || keys.keys.len() == MAX_TRANSPORT_KEYS {
                return None;
            }
            keys.keys.push(TransportKey { number, secret, epoch: epoch.to_vec() });
        }
        if !with_rotation {
            keys.in_use = keys.keys.last()?.number;
        }
        keys.keys.iter().any(|key| key.number == keys.in_use).then_some(keys)
    }
}

impl PendingJoin {
    /// Reads it, if there is one.
    ///
    /// # Errors
    /// As [`StateDir::read`].
    pub fn load(state: &StateDir) -> Result<Option<PendingJoin>, Error> {
        let Some(payload) = state.read(Kind::Pending)? else { return Ok(None) };
        PendingJoin::parse(&payload).map(Some).ok_or_else(|| state.nonsense(Kind::Pending))
    }

    /// Writes it.
    ///
    /// # Errors
    /// As [`StateDir::write`].
    pub fn save(&self, state: &StateDir) -> Result<(), Error> {
        state.write(Kind::Pending, &self.payload())
    }

    fn payload(&self) -> Zeroizing<Vec<u8>> {
        let mut payload = Zeroizing::new(Vec::with_capacity(256));
        payload.extend_from_slice(&self.invitation);
        payload.extend_from_slice(&self.identity);
        payload.extend_from_slice(&self.transport);
        payload.extend_from_slice(&self.epoch);
        payload
    }

    fn parse(payload: &[u8]) -> Option<PendingJoin> {
        let mut rest = payload;
        Some(PendingJoin {
            invitation: take(&mut rest)?,
            identity: take(&mut rest)?,
            transport: take(&mut rest)?,
            epoch: rest.to_vec(),
        })
    }
}

/// The payload that would be written in the place of this one; `None` if it makes no sense.
pub(super) fn payload_again(kind: Kind, payload: Zeroizing<Vec<u8>>) -> Option<Zeroizing<Vec<u8>>> {
    match kind {
        Kind::Identity | Kind::Gate | Kind::Authority | Kind::Recovery => {
            (payload.len() == 32).then_some(payload)
        }
        Kind::Boot | Kind::Floor => (payload.len() == 8).then_some(payload),
        Kind::Transport => TransportKeys::parse(&payload).map(|keys| {
            // The core's view of it must not fall over either.
            let _ = keys.ring();
            keys.payload()
        }),
        Kind::Rollover => Rollover::parse(&payload).map(|pending| pending.payload()),
        Kind::Pending => PendingJoin::parse(&payload).map(|pending| pending.payload()),
        Kind::Plan => KeyPlan::parse(&payload).ok().map(|plan| Zeroizing::new(plan.to_bytes())),
        Kind::Chain | Kind::Certificate | Kind::Records | Kind::Revocations => {
            parse_objects(&payload).map(|objects| Zeroizing::new(emit_objects(objects)))
        }
        Kind::Founding => Some(payload),
    }
}

impl StateDir {
    /// A file that holds one 32-byte secret.
    ///
    /// # Errors
    /// As [`StateDir::require`].
    pub fn secret(&self, kind: Kind) -> Result<Zeroizing<[u8; 32]>, Error> {
        let payload = self.require(kind)?;
        let secret: [u8; 32] = payload.as_slice().try_into().map_err(|_| self.nonsense(kind))?;
        Ok(Zeroizing::new(secret))
    }

    /// A file that holds one number, or `None` if it is not there.
    ///
    /// # Errors
    /// As [`StateDir::read`].
    pub fn number(&self, kind: Kind) -> Result<Option<u64>, Error> {
        let Some(payload) = self.read(kind)? else { return Ok(None) };
        let bytes: [u8; 8] = payload.as_slice().try_into().map_err(|_| self.nonsense(kind))?;
        Ok(Some(u64::from_be_bytes(bytes)))
    }

    /// Writes a file that holds one number.
    ///
    /// # Errors
    /// As [`StateDir::write`].
    pub fn write_number(&self, kind: Kind, number: u64) -> Result<(), Error> {
        self.write(kind, &number.to_be_bytes())
    }

    /// A file that holds a list of encoded objects; empty if it is not there.
    ///
    /// # Errors
    /// As [`StateDir::read`].
    pub fn objects(&self, kind: Kind) -> Result<Vec<Vec<u8>>, Error> {
        match self.read(kind)? {
            Some(payload) => parse_objects(&payload).ok_or_else(|| self.nonsense(kind)),
            None => Ok(Vec::new()),
        }
    }

    /// Writes a file that holds a list of encoded objects.
    ///
    /// # Errors
    /// As [`StateDir::write`].
    pub fn write_objects<B: AsRef<[u8]>>(
        &self,
        kind: Kind,
        objects: impl IntoIterator<Item = B>,
    ) -> Result<(), Error> {
        self.write(kind, &emit_objects(objects))
    }

    /// The number of this start: above every earlier one, and not below the clock, so that losing the file does not
    /// bring back old numbers. It is on the disk when this returns.
    ///
    /// # Errors
    /// As [`StateDir::number`] and [`StateDir::write`].
    pub fn next_boot(&self, now_s: u64) -> Result<u64, Error> {
        let last = self.number(Kind::Boot)?.unwrap_or(0);
        let next = now_s.max(last.saturating_add(1));
        self.write_number(Kind::Boot, next)?;
        Ok(next)
    }
}

/// Objects one after the other, each after its length in 2 bytes: the format of `Node::export_cache`.
pub fn emit_objects<B: AsRef<[u8]>>(objects: impl IntoIterator<Item = B>) -> Vec<u8> {
    let mut payload = Vec::new();
    for object in objects {
        let bytes = object.as_ref();
        // Objects are at most 8 KiB by their formats.
        payload.extend_from_slice(&(bytes.len() as u16).to_be_bytes());
        payload.extend_from_slice(bytes);
    }
    payload
}

/// The inverse of [`emit_objects`]; `None` if `payload` does not end where an object ends.
pub fn parse_objects(payload: &[u8]) -> Option<Vec<Vec<u8>>> {
    let mut rest = payload;
    let mut objects = Vec::new();
    while !rest.is_empty() {
        let len = usize::from(u16::from_be_bytes(take(&mut rest)?));
        let (object, tail) = rest.split_at_checked(len)?;
        objects.push(object.to_vec());
        rest = tail;
    }
    Some(objects)
}

fn take<const N: usize>(rest: &mut &[u8]) -> Option<[u8; N]> {
    let (head, tail) = rest.split_first_chunk::<N>()?;
    *rest = tail;
    Some(*head)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use rand::rngs::StdRng;

    fn fresh() -> (tempfile::TempDir, StateDir) {
        let holder = tempfile::tempdir().unwrap();
        let state = StateDir::create(&holder.path().join("state")).unwrap();
        (holder, state)
    }

    #[test]
    fn keys_come_back_as_they_were_saved() {
        let (_holder, state) = fresh();
        state.write(Kind::Identity, &[1; 32]).unwrap();
        assert!(matches!(TransportKeys::load(&state), Err(Error::Missing { .. })));
        let key = |number| TransportKey { number, secret: [number as u8; 32], epoch: vec![number as u8; 9] };
        let keys = |keys: Vec<TransportKey>, in_use| TransportKeys {
            keys,
            in_use,
            cut: 2,
            retired: vec![[1; 32], [2; 32]],
        };
        keys(vec![key(3), key(4)], 3).save(&state).unwrap();
        let loaded = TransportKeys::load(&state).unwrap();
        assert_eq!(loaded.keys.iter().map(|key| key.number).collect::<Vec<_>>(), [3, 4]);
        assert_eq!((loaded.in_use, loaded.cut, loaded.retired.clone()), (3, 2, vec![[1; 32], [2; 32]]));
        assert_eq!(loaded.keys[1].epoch, [4; 9]);
        for wrong in [keys(vec![key(4), key(3)], 3), keys(vec![key(3)], 4), keys(vec![], 0)] {
            wrong.save(&state).unwrap();
            assert!(matches!(TransportKeys::load(&state), Err(Error::Damaged { .. })));
        }
    }

    #[test]
    fn keys_that_the_first_version_wrote_are_read() {
        let (_holder, state) = fresh();
        let payload = [&[0, 0, 0, 1][..], &[7; 32], &[0, 3], &[9; 3]].concat();
        state.write(Kind::Transport, &payload).unwrap();
        let loaded = TransportKeys::load(&state).unwrap();
        assert_eq!((loaded.in_use, loaded.cut, loaded.keys.len()), (1, 0, 1));
        assert!(loaded.retired.is_empty());
    }

    #[test]
    fn a_newer_key_epoch_is_made_only_when_the_suites_change() {
        let (none, aes) = (Capabilities(0), Capabilities::AES_GCM);
        let mut rng: StdRng = rand::make_rng();
        let identity = IdentitySecret::generate(&mut rng);
        let mesh = MeshId([5; 16]);
        let first = TransportKey::declaring(aes, &mut rng, &identity, mesh, KeyEpochNumber(1), 7).unwrap();
        let mut keys = TransportKeys::first(first.clone());
        let mut declare = |keys: &mut TransportKeys, capabilities| {
            keys.declare(capabilities, &mut rng, &identity, mesh, 8).unwrap()
        };
        assert!(!declare(&mut keys, aes.union(Capabilities::OFFLOAD)));
        assert!(declare(&mut keys, none) && !declare(&mut keys, none));
        let newest = Signed::<KeyEpoch>::parse(&keys.keys[0].epoch).unwrap();
        assert_eq!((newest.body().number, newest.body().capabilities), (KeyEpochNumber(2), none));
        assert_ne!(keys.keys[0].secret, first.secret);
        assert_eq!((keys.keys.len(), keys.in_use, keys.retired.len()), (1, 2, 1));
        // However often that happens, there is room in the file.
        for round in 0..20 {
            assert!(declare(&mut keys, if round % 2 == 0 { aes } else { none }));
        }
        let (_holder, state) = fresh();
        state.write(Kind::Identity, &[1; 32]).unwrap();
        keys.save(&state).unwrap();
        assert_eq!(TransportKeys::load(&state).unwrap().keys.last().map(|key| key.number), Some(22));
    }

    #[test]
    fn a_pending_join_comes_back_as_it_was_saved() {
        let (_holder, state) = fresh();
        assert!(PendingJoin::load(&state).unwrap().is_none());
        PendingJoin { invitation: [1; 8], identity: [2; 32], transport: [3; 32], epoch: vec![4; 5] }
            .save(&state)
            .unwrap();
        let loaded = PendingJoin::load(&state).unwrap().unwrap();
        assert_eq!((loaded.invitation, loaded.identity, loaded.transport), ([1; 8], [2; 32], [3; 32]));
        assert_eq!(loaded.epoch, [4; 5]);
        state.write(Kind::Pending, &[0; 71]).unwrap();
        assert!(PendingJoin::load(&state).is_err());
    }

    #[test]
    fn boot_numbers_only_rise_whatever_the_clock_does() {
        let (_holder, state) = fresh();
        assert_eq!(state.next_boot(1_000).unwrap(), 1_000);
        assert_eq!(state.next_boot(1_000).unwrap(), 1_001);
        assert_eq!(state.next_boot(500).unwrap(), 1_002);
        assert_eq!(state.next_boot(2_000).unwrap(), 2_000);
    }

    proptest! {
        #[test]
        fn object_lists_round_trip_and_parsing_is_total(
            objects in proptest::collection::vec(proptest::collection::vec(any::<u8>(), 0..40), 0..10),
            garbage in proptest::collection::vec(any::<u8>(), 0..64),
        ) {
            let bytes = emit_objects(&objects);
            prop_assert_eq!(parse_objects(&bytes).unwrap(), objects);
            let _ = parse_objects(&garbage);
            let _ = TransportKeys::parse(&garbage);
        }
    }
}
