//! The register of invitations: one file each, so that `meshd invite` and a running daemon share it.
//!
//! Redeeming is atomic. Under the register's lock the file is replaced by one that names the identity that redeemed
//! it, and is on the disk before a certificate is signed. Of any number of joiners one wins; the same joiner may ask
//! again and gets the same certificate.

use std::net::IpAddr;
use std::path::PathBuf;

use ipnet::IpNet;
use serde::{Deserialize, Serialize};
use zeroize::Zeroize;

use super::{Error, Lock, StateDir, read_container, remove, write_container};

/// Most invitation files looked at.
const MAX_INVITATIONS: usize = 65_536;
/// How long an expired invitation that nobody used is kept, so that its late user gets a clear answer.
const KEEP_EXPIRED_S: u64 = 30 * 24 * 3600;
const WORD: &str = "invitation";
const SUFFIX: &str = ".invitation";
const REMEDY: &str = "move it away: only this invitation is lost";

/// One invitation, as its inviter keeps it. It cannot be turned back into the URL.
#[derive(Serialize, Deserialize, Clone)]
#[serde(deny_unknown_fields)]
pub struct Invitation {
    /// What the joiner calls it.
    pub id: [u8; 8],
    /// The handshake's pre-shared key, derived from the URL's secret.
    pub psk: Psk,
    /// The name that the new node gets.
    pub name: String,
    /// The overlay addresses that it gets.
    pub addresses: Vec<IpAddr>,
    /// The prefixes that it may announce.
    pub prefixes: Vec<IpNet>,
    /// The roles that it gets, as in certificates.
    pub roles: u8,
    /// What it may certify, as an issuer.
    #[serde(default)]
    pub limits: Limits,
    /// When it was made, in seconds since the Unix epoch.
    pub created_s: u64,
    /// When it ends, in seconds since the Unix epoch.
    pub expires_s: u64,
    /// Who used it.
    pub redeemed: Option<Redeemed>,
}

/// What an issuer may certify.
#[derive(Serialize, Deserialize, Clone, Debug, PartialEq, Eq, Default)]
#[serde(deny_unknown_fields)]
pub struct Limits {
    /// Names that end so; all if empty.
    pub names: String,
    /// Addresses and prefixes within these; addresses of the mesh's network, and no prefixes, if empty.
    pub prefixes: Vec<IpNet>,
    /// For so many seconds at most; the usual lifetime if absent.
    pub lifetime_s: Option<u32>,
}

/// The use of an invitation.
#[derive(Serialize, Deserialize, Clone, Debug, PartialEq, Eq)]
#[serde(deny_unknown_fields)]
pub struct Redeemed {
    /// The identity key that it was used for.
    #[serde(with = "bytes32")]
    pub identity: [u8; 32],
    /// When, in seconds since the Unix epoch.
    pub at_s: u64,
    /// The certificate issued, once it is.
    #[serde(with = "blob")]
    pub certificate: Vec<u8>,
}

/// An invitation's pre-shared key.
#[derive(Clone, Zeroize)]
#[zeroize(drop)]
pub struct Psk(pub [u8; 32]);

/// Why an invitation cannot be redeemed.
#[derive(Debug, thiserror::Error)]
pub enum RedeemError {
    /// There is no such invitation.
    #[error("there is no such invitation")]
    Unknown,
    /// Its time is over.
    #[error("the invitation has expired")]
    Expired,
    /// Another node has used it.
    #[error("the invitation has been used")]
    Used,
    /// The register cannot be read or written.
    #[error(transparent)]
    State(#[from] Error),
}

/// The register of a state directory.
#[derive(Debug, Clone)]
pub struct Register {
    directory: PathBuf,
}

/// The register while no other process can change it.
#[derive(Debug)]
pub struct Locked<'r> {
    register: &'r Register,
    _lock: Lock,
}

impl Register {
    /// The register of `state`, made if need be.
    ///
    /// # Errors
    /// What the system says, or that its directory is open to others.
    pub fn open(state: &StateDir) -> Result<Register, Error> {
        let made = StateDir::create(&state.path().join("invitations"))?;
        Ok(Register { directory: made.path })
    }

    /// Waits until no other process changes the register, and keeps it so.
    ///
    /// # Errors
    /// What the system says.
    pub fn lock(&self) -> Result<Locked<'_>, Error> {
        Ok(Locked { _lock: Lock::wait(&self.directory.join("lock"))?, register: self })
    }

    /// Keeps other processes from changing the register, unless one does so now. For the daemon, which must not wait
    /// for a `meshd invite` that somebody has stopped.
    ///
    /// # Errors
    /// What the system says.
    pub fn try_lock(&self) -> Result<Option<Locked<'_>>, Error> {
        let lock = Lock::if_free(&self.directory.join("lock"))?;
        Ok(lock.map(|lock| Locked { _lock: lock, register: self }))
    }

    /// One invitation.
    ///
    /// # Errors
    /// As [`StateDir::read`].
    pub fn get(&self, id: [u8; 8]) -> Result<Option<Invitation>, Error> {
        self.read(&file_name(id))
    }

    /// All invitations; those that cannot be read are given as errors.
    ///
    /// # Errors
    /// If the directory itself cannot be read.
    pub fn all(&self) -> Result<(Vec<Invitation>, Vec<Error>), Error> {
        let listing = std::fs::read_dir(&self.directory)
            .map_err(|source| Error::io("read", &self.directory, source))?;
        let mut names: Vec<String> = listing
            .filter_map(|entry| entry.ok()?.file_name().into_string().ok())
            .filter(|name| name.ends_with(SUFFIX) && !name.starts_with('.'))
            .take(MAX_INVITATIONS)
            .collect();
        names.sort();
        let (mut invitations, mut errors) = (Vec::new(), Vec::new());
        for name in names {
            match self.read(&name) {
                Ok(Some(invitation)) => invitations.push(invitation),
                Ok(None) => {}
                Err(error) => errors.push(error),
            }
        }
        Ok((invitations, errors))
    }

    fn read(&self, name: &str) -> Result<Option<Invitation>, Error> {
        let path = self.directory.join(name);
        let Some(payload) = read_container(&path, WORD, REMEDY)? else { return Ok(None) };
        let nonsense =
            || Error::Damaged { path: path.clone(), damage: super::Damage::Payload, remedy: REMEDY };
        let invitation: Invitation = serde_json::from_slice(&payload).map_err(|_| nonsense())?;
        if file_name(invitation.id) == name { Ok(Some(invitation)) } else { Err(nonsense()) }
    }
}

impl Locked<'_> {
    /// The register, for reading.
    pub fn register(&self) -> &Register {
        self.register
    }

    /// Adds or replaces an invitation.
    ///
    /// # Errors
    /// As [`StateDir::write`].
    pub fn put(&self, invitation: &Invitation) -> Result<(), Error> {
        // Serialising numbers, strings, and byte lists does not fail.
        let payload = zeroize::Zeroizing::new(serde_json::to_vec(invitation).unwrap_or_default());
        write_container(&self.register.directory, &file_name(invitation.id), WORD, &payload)
    }

    /// Removes an invitation, so that it cannot be used any more.
    ///
    /// # Errors
    /// What the system says.
    pub fn withdraw(&self, id: [u8; 8]) -> Result<(), Error> {
        remove(&self.register.directory.join(file_name(id)))
    }

    /// Removes what expired long ago unused.
    ///
    /// # Errors
    /// What the system says.
    pub fn prune(&self, now_s: u64) -> Result<(), Error> {
        for invitation in self.register.all()?.0 {
            if invitation.redeemed.is_none() && invitation.expires_s.saturating_add(KEEP_EXPIRED_S) < now_s {
                remove(&self.register.directory.join(file_name(invitation.id)))?;
            }
        }
        Ok(())
    }

    /// Gives the invitation to `identity`, if it is still to be had or has been given to the same identity before.
    /// It is on the disk when this returns.
    ///
    /// # Errors
    /// [`RedeemError`].
    pub fn redeem(&self, id: [u8; 8], identity: [u8; 32], now_s: u64) -> Result<Invitation, RedeemError> {
        let mut invitation = self.register.get(id)?.ok_or(RedeemError::Unknown)?;
        match &invitation.redeemed {
            Some(redeemed) if redeemed.identity == identity => return Ok(invitation),
            Some(_) => return Err(RedeemError::Used),
            None if invitation.expires_s <= now_s => return Err(RedeemError::Expired),
            None => {}
        }
        invitation.redeemed = Some(Redeemed { identity, at_s: now_s, certificate: Vec::new() });
        self.put(&invitation)?;
        Ok(invitation)
    }
}

fn file_name(id: [u8; 8]) -> String {
    format!("{:016x}{SUFFIX}", u64::from_be_bytes(id))
}

impl Serialize for Psk {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        bytes32::serialize(&self.0, serializer)
    }
}

impl<'de> Deserialize<'de> for Psk {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        bytes32::deserialize(deserializer).map(Psk)
    }
}

/// 32 bytes as base64.
mod bytes32 {
    use serde::{Deserializer, Serializer, de::Error};

    pub(super) fn serialize<S: Serializer>(bytes: &[u8; 32], serializer: S) -> Result<S::Ok, S::Error> {
        super::blob::serialize(bytes, serializer)
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<[u8; 32], D::Error> {
        let bytes = zeroize::Zeroizing::new(super::blob::deserialize(deserializer)?);
        bytes.as_slice().try_into().map_err(|_| D::Error::custom("not 32 bytes"))
    }
}

/// Bytes as base64.
mod blob {
    use base64::Engine;
    use base64::engine::general_purpose::STANDARD;
    use serde::{Deserialize, Deserializer, Serializer, de::Error};
    use zeroize::Zeroizing;

    pub(super) fn serialize<S: Serializer>(bytes: &[u8], serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&Zeroizing::new(STANDARD.encode(bytes)))
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Vec<u8>, D::Error> {
        let text = Zeroizing::new(String::deserialize(deserializer)?);
        STANDARD.decode(text.as_bytes()).map_err(|_| D::Error::custom("not base64"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn fresh() -> (tempfile::TempDir, Register) {
        let holder = tempfile::tempdir().unwrap();
        let state = StateDir::create(&holder.path().join("state")).unwrap();
        let register = Register::open(&state).unwrap();
        (holder, register)
    }

    fn invitation(id: u8, expires_s: u64) -> Invitation {
        Invitation {
            id: [id; 8],
            psk: Psk([9; 32]),
            name: format!("node-{id}"),
            addresses: vec!["10.99.0.2".parse().unwrap()],
            prefixes: vec!["192.168.7.0/24".parse().unwrap()],
            roles: 1,
            limits: Limits::default(),
            created_s: 1,
            expires_s,
            redeemed: None,
        }
    }

    #[test]
    fn the_first_identity_wins_and_may_ask_again() {
        let (_holder, register) = fresh();
        let locked = register.lock().unwrap();
        locked.put(&invitation(1, 100)).unwrap();
        locked.redeem([1; 8], [7; 32], 50).unwrap();
        assert!(matches!(locked.redeem([1; 8], [8; 32], 50), Err(RedeemError::Used)));
        let again = locked.redeem([1; 8], [7; 32], 500).unwrap();
        assert_eq!(again.redeemed.unwrap().at_s, 50);
        assert!(matches!(locked.redeem([2; 8], [7; 32], 50), Err(RedeemError::Unknown)));
    }

    #[test]
    fn of_many_at_once_exactly_one_wins() {
        let (_holder, register) = fresh();
        register.lock().unwrap().put(&invitation(1, 100)).unwrap();
        let winners: usize = std::thread::scope(|scope| {
            let runs: Vec<_> = (0..10u8)
                .map(|number| {
                    let register = register.clone();
                    scope.spawn(move || register.lock().unwrap().redeem([1; 8], [number; 32], 50).is_ok())
                })
                .collect();
            runs.into_iter().map(|run| usize::from(run.join().unwrap())).sum()
        });
        assert_eq!(winners, 1);
    }

    #[test]
    fn time_ends_an_invitation_and_later_removes_it() {
        let (_holder, register) = fresh();
        let locked = register.lock().unwrap();
        locked.put(&invitation(1, 100)).unwrap();
        locked.put(&invitation(2, 100)).unwrap();
        locked.redeem([2; 8], [1; 32], 50).unwrap();
        assert!(matches!(locked.redeem([1; 8], [7; 32], 100), Err(RedeemError::Expired)));
        locked.prune(100 + KEEP_EXPIRED_S).unwrap();
        assert_eq!(register.all().unwrap().0.len(), 2);
        locked.prune(101 + KEEP_EXPIRED_S).unwrap();
        assert_eq!(register.all().unwrap().0.iter().map(|left| left.id[0]).collect::<Vec<_>>(), [2]);
    }

    #[test]
    fn a_damaged_invitation_spoils_only_itself() {
        let (_holder, register) = fresh();
        let locked = register.lock().unwrap();
        locked.put(&invitation(1, 100)).unwrap();
        locked.put(&invitation(2, 100)).unwrap();
        let path = register.directory.join(file_name([1; 8]));
        let whole = std::fs::read(&path).unwrap();
        for cut in 0..whole.len() {
            std::fs::write(&path, &whole[..cut]).unwrap();
            let (good, bad) = register.all().unwrap();
            assert_eq!((good.len(), bad.len()), (1, 1));
        }
        assert!(matches!(locked.redeem([1; 8], [7; 32], 50), Err(RedeemError::State(_))));
    }
}
