//! Key epochs: the generations of a node's transport key, each signed by its identity.

use proto::certificate::Certificate;
use proto::id::{IdentityKey, KeyEpochNumber, TransportKey};
use proto::key_epoch::KeyEpoch;
use proto::signed::Signed;

use super::secret::verify_signed;

/// Epochs kept for one member: the one in use, the one before while it drains, and the one prepared.
pub const MAX_EPOCHS: usize = 3;

/// Why a key epoch is refused.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
pub enum EpochError {
    /// It is of another mesh.
    #[error("the key epoch is of another mesh")]
    WrongMesh,
    /// Its member is not known.
    #[error("the key epoch is of an unknown member")]
    UnknownMember,
    /// The signature is not by the member's identity.
    #[error("the key epoch's signature does not verify")]
    BadSignature,
    /// Newer epochs have taken its place.
    #[error("key epoch {} is older than those in use", .0.0)]
    Old(KeyEpochNumber),
    /// Another member's epoch has the same transport key: one of the two claims a key that is not its own.
    #[error("the transport key of key epoch {} is another member's", .0.0)]
    KeyTaken(KeyEpochNumber),
    /// The identity signed two different epochs of the same number: an alarm, its state was copied or rolled back.
    #[error("two different key epochs of number {} exist", .0.0)]
    Conflict(KeyEpochNumber),
}

/// The newest key epochs of one member.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct KeyEpochs {
    /// Ascending. Mostly there is one, and of ten thousand members: a map would make room for eleven of each.
    known: Vec<Signed<KeyEpoch>>,
    /// The member no longer uses earlier ones.
    floor: KeyEpochNumber,
}

impl KeyEpochs {
    /// Verifies an epoch and keeps it if it is among the [`MAX_EPOCHS`] newest. Returns whether it is new here.
    pub(super) fn insert(
        &mut self,
        certificate: &Certificate,
        epoch: Signed<KeyEpoch>,
    ) -> Result<bool, EpochError> {
        let value = epoch.body();
        if value.mesh != certificate.mesh {
            return Err(EpochError::WrongMesh);
        }
        if value.member != certificate.member {
            return Err(EpochError::UnknownMember);
        }
        let number = value.number;
        if number < self.floor {
            return Err(EpochError::Old(number));
        }
        match self.get(number) {
            Some(known) if *known == epoch => return Ok(false),
            Some(_) => {
                verify_epoch(&certificate.identity, &epoch)?;
                return Err(EpochError::Conflict(number));
            }
            None => {}
        }
        let oldest = self.known.first().map(|oldest| oldest.body().number);
        if self.known.len() >= MAX_EPOCHS && oldest.is_some_and(|oldest| number < oldest) {
            return Err(EpochError::Old(number));
        }
        verify_epoch(&certificate.identity, &epoch)?;
        self.known.reserve_exact(1);
        self.known.insert(self.known.partition_point(|known| known.body().number < number), epoch);
        if self.known.len() > MAX_EPOCHS {
            self.known.remove(0);
        }
        self.forget_retired();
        Ok(true)
    }

    /// Epochs before `oldest` are used no more. The newest known one stays until a newer one comes, so that the member can
    /// be asked for it; but handshakes from it are not taken. Returns whether that is news.
    pub(super) fn retire_below(&mut self, oldest: KeyEpochNumber) -> bool {
        let news = oldest > self.floor;
        self.floor = self.floor.max(oldest);
        self.forget_retired();
        news
    }

    /// The epochs that the member's handshakes may be made with.
    pub fn accepted(&self) -> impl Iterator<Item = &Signed<KeyEpoch>> + '_ {
        self.known.iter().filter(|epoch| epoch.body().number >= self.floor)
    }

    /// The oldest epoch that is not retired, as far as the member has told.
    pub fn floor(&self) -> KeyEpochNumber {
        self.floor
    }

    fn forget_retired(&mut self) {
        while let [oldest, _, ..] = self.known.as_slice()
            && oldest.body().number < self.floor
        {
            self.known.remove(0);
        }
    }

    /// The epoch of a number.
    pub fn get(&self, number: KeyEpochNumber) -> Option<&Signed<KeyEpoch>> {
        self.known.iter().find(|epoch| epoch.body().number == number)
    }

    /// The newest epoch.
    pub fn newest(&self) -> Option<&Signed<KeyEpoch>> {
        self.known.last()
    }

    /// The epoch with this transport key, unless it is retired.
    pub fn with_key(&self, key: &TransportKey) -> Option<&Signed<KeyEpoch>> {
        self.accepted().find(|epoch| epoch.body().key == *key)
    }

    /// The epochs, ascending.
    pub fn iter(&self) -> impl Iterator<Item = &Signed<KeyEpoch>> + '_ {
        self.known.iter()
    }
}

/// Checks that `identity` signed `epoch`.
///
/// # Errors
/// [`EpochError::BadSignature`].
pub fn verify_epoch(identity: &IdentityKey, epoch: &Signed<KeyEpoch>) -> Result<(), EpochError> {
    verify_signed(identity, epoch).map_err(|_| EpochError::BadSignature)
}
