//! What survives of a roll-over of the authority: the new key, and what it is to replace. How far it is, the trust bundles
//! and certificates tell.

use meshnet::membership::AuthoritySecret;
use meshnet::node::Rollover;
use proto::id::{IdentityKey, MemberId};
use zeroize::{Zeroize, ZeroizeOnDrop, Zeroizing};

use super::{Error, Kind, StateDir};

/// Most members that are not waited for.
pub const MAX_WITHOUT: usize = 4096;
const VERSION: u8 = 1;
const ABORTED: u8 = 1;

/// A roll-over under way.
#[derive(Zeroize, ZeroizeOnDrop)]
pub struct Pending {
    /// Seed of the root that stays.
    pub target: [u8; 32],
    /// The root that goes; none after recovery.
    #[zeroize(skip)]
    pub leaving: Option<[u8; 32]>,
    /// When it began, in seconds since the Unix epoch.
    pub created_s: u64,
    /// When waiting ends, in seconds since the Unix epoch.
    pub deadline_s: u64,
    /// It was called off: the root that stays is the old one.
    pub aborted: bool,
    /// Members that are not waited for.
    #[zeroize(skip)]
    pub without: Vec<MemberId>,
}

impl Pending {
    /// The key that stays.
    pub fn secret(&self) -> AuthoritySecret {
        AuthoritySecret::from_bytes(&self.target)
    }

    /// For the core.
    pub fn rollover(&self) -> Rollover {
        Rollover {
            target: self.secret().public(),
            leaving: self.leaving.map(IdentityKey),
            deadline_s: self.deadline_s,
            without: self.without.clone(),
        }
    }

    /// Reads it, if there is one.
    ///
    /// # Errors
    /// As [`StateDir::read`].
    pub fn load(state: &StateDir) -> Result<Option<Pending>, Error> {
        let Some(payload) = state.read(Kind::Rollover)? else { return Ok(None) };
        Pending::parse(&payload).map(Some).ok_or_else(|| state.nonsense(Kind::Rollover))
    }

    /// Writes it.
    ///
    /// # Errors
    /// As [`StateDir::write`].
    pub fn save(&self, state: &StateDir) -> Result<(), Error> {
        state.write(Kind::Rollover, &self.payload())
    }

    pub(super) fn payload(&self) -> Zeroizing<Vec<u8>> {
        let mut payload = Zeroizing::new(Vec::with_capacity(128 + self.without.len() * 16));
        payload.extend_from_slice(&[VERSION, if self.aborted { ABORTED } else { 0 }]);
        payload.extend_from_slice(&self.target);
        payload.push(u8::from(self.leaving.is_some()));
        payload.extend_from_slice(&self.leaving.unwrap_or_default());
        payload.extend_from_slice(&self.created_s.to_be_bytes());
        payload.extend_from_slice(&self.deadline_s.to_be_bytes());
        self.without.iter().for_each(|member| payload.extend_from_slice(&member.0));
        payload
    }

    pub(super) fn parse(payload: &[u8]) -> Option<Pending> {
        let ([VERSION, flags @ (0 | ABORTED)], rest) = payload.split_first_chunk()? else { return None };
        let (target, rest) = rest.split_first_chunk::<32>()?;
        let ([has_leaving @ (0 | 1)], rest) = rest.split_first_chunk()? else { return None };
        let (leaving, rest) = rest.split_first_chunk::<32>()?;
        let (created, rest) = rest.split_first_chunk()?;
        let (deadline, rest) = rest.split_first_chunk()?;
        let (without, rest) = rest.as_chunks::<16>();
        if !rest.is_empty() || without.len() > MAX_WITHOUT {
            return None;
        }
        Some(Pending {
            target: *target,
            leaving: (*has_leaving == 1).then_some(*leaving),
            created_s: u64::from_be_bytes(*created),
            deadline_s: u64::from_be_bytes(*deadline),
            aborted: *flags == ABORTED,
            without: without.iter().map(|id| MemberId(*id)).collect(),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sample(leaving: Option<[u8; 32]>) -> Pending {
        Pending {
            target: [1; 32],
            leaving,
            created_s: 5,
            deadline_s: 9,
            aborted: leaving.is_some(),
            without: vec![MemberId([4; 16]), MemberId([5; 16])],
        }
    }

    proptest::proptest! {
        #[test]
        fn whatever_is_in_the_file_is_read_as_what_would_be_written_or_not_at_all(
            mut bytes in proptest::collection::vec(proptest::prelude::any::<u8>(), 70..140),
            sound in proptest::prelude::any::<bool>(),
        ) {
            if sound {
                (bytes[0], bytes[1], bytes[34]) = (VERSION, bytes[1] & 1, 1);
            }
            if let Some(read) = Pending::parse(&bytes) {
                proptest::prop_assert_eq!(&*read.payload(), &bytes);
            }
        }
    }

    #[test]
    fn what_is_written_is_read_and_nothing_else() {
        for leaving in [None, Some([2; 32])] {
            let payload = sample(leaving).payload();
            let read = Pending::parse(&payload).unwrap();
            assert_eq!(*read.payload(), *payload);
            assert_eq!(read.rollover().leaving, leaving.map(IdentityKey));
            for at in 0..payload.len() {
                let whole = at >= 83 && (at - 83) % 16 == 0;
                assert_eq!(Pending::parse(&payload[..at]).is_some(), whole, "cut at {at}");
            }
        }
        assert!(Pending::parse(&[9; 200]).is_none());
    }
}
