//! The state directory: keys, certificate, caches, and who may touch them.
//!
//! The directory belongs to the user who runs meshd and is closed to all others (a group may be let in to reach the
//! control socket); files are 0600. Every file is replaced atomically ([`atomic`]) and carries a checksum
//! ([`container`]), so a file that reads at all is whole, and one that does not is never written over: meshd says
//! which file it is and what to do.

pub mod atomic;
pub mod container;
pub mod files;
pub mod home;
pub mod invitations;
mod lock;
pub mod rollover;
pub mod vault;

use std::io;
use std::os::unix::fs::{DirBuilderExt, MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};

use zeroize::Zeroizing;

pub use container::Damage;
pub use files::{PendingJoin, TransportKeys};
pub use home::{Home, HomeError};
pub use lock::Lock;

/// Largest state file that is read: far above what bounded tables can fill.
const MAX_FILE_BYTES: u64 = 64 << 20;

/// What can be wrong with the state directory or a file in it.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// There is no mesh in this directory.
    #[error("there is no mesh in {0}: start one with `meshd init`, or join one with `meshd join URL`")]
    Empty(PathBuf),
    /// A file that must be there is not.
    #[error("{path} is missing; {remedy}")]
    Missing {
        /// The file.
        path: PathBuf,
        /// What to do.
        remedy: &'static str,
    },
    /// A file is truncated, altered, or no such file at all.
    #[error("{path} is damaged: {damage}. It was left as it is; {remedy}")]
    Damaged {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        damage: Damage,
        /// What to do.
        remedy: &'static str,
    },
    /// Another process uses the directory.
    #[error("{directory} is in use by another meshd{}", .pid.map(|pid| format!(" (process {pid})")).unwrap_or_default())]
    InUse {
        /// The state directory.
        directory: PathBuf,
        /// The process that uses it, if it told.
        pid: Option<u32>,
    },
    /// A file or the directory belongs to another user.
    #[error(
        "{path} belongs to user {owner}, but meshd runs as user {user}: run it as the owner, or `chown` the file"
    )]
    Owner {
        /// The file or directory.
        path: PathBuf,
        /// The user it belongs to.
        owner: u32,
        /// The user that we are.
        user: u32,
    },
    /// Others may read or change a file that is ours alone.
    #[error("{path} is open to other users (mode {mode:03o}): close it with `chmod {wanted:03o} {path}`")]
    Open {
        /// The file or directory.
        path: PathBuf,
        /// Its permission bits.
        mode: u32,
        /// The bits it should have.
        wanted: u32,
    },
    /// A file could not be replaced.
    #[error("cannot write {path}; what was there before is untouched")]
    Write {
        /// The file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// Another operation failed.
    #[error("cannot {action} {path}")]
    Io {
        /// The operation, as a verb.
        action: &'static str,
        /// The file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
}

impl Error {
    fn io(action: &'static str, path: &Path, source: io::Error) -> Error {
        Error::Io { action, path: path.to_owned(), source }
    }
}

/// The files of a state directory.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Kind {
    /// The node's Ed25519 secret.
    Identity,
    /// The node's X25519 secrets, by epoch.
    Transport,
    /// The mesh's gate key.
    Gate,
    /// The mesh authority's Ed25519 secret; only where `init` ran, or where it was imported.
    Authority,
    /// The key that is to replace the authority's, while that is under way.
    Rollover,
    /// The recovery key's Ed25519 secret; to be kept offline.
    Recovery,
    /// All versions of the trust bundle, in order.
    Chain,
    /// The node's certificate, then its issuer's if that is not a root.
    Certificate,
    /// Certificates, key epochs, and records of the other members.
    Records,
    /// The revocations known.
    Revocations,
    /// Its plan, as an operator, that all replace their keys.
    Plan,
    /// The number of the daemon's last start.
    Boot,
    /// The highest handshake timestamp that may have been used.
    Floor,
    /// Keys of a join that has not been answered yet.
    Pending,
    /// Marks that `init` has begun and not ended.
    Founding,
}

impl Kind {
    /// Every kind.
    pub const ALL: [Kind; 15] = [
        Kind::Identity,
        Kind::Transport,
        Kind::Gate,
        Kind::Authority,
        Kind::Rollover,
        Kind::Recovery,
        Kind::Chain,
        Kind::Certificate,
        Kind::Records,
        Kind::Revocations,
        Kind::Plan,
        Kind::Boot,
        Kind::Floor,
        Kind::Pending,
        Kind::Founding,
    ];

    /// The file's name in the state directory.
    pub fn file_name(self) -> &'static str {
        match self {
            Kind::Identity => "identity.key",
            Kind::Transport => "transport.keys",
            Kind::Gate => "gate.key",
            Kind::Authority => "authority.key",
            Kind::Rollover => "authority.next",
            Kind::Recovery => "recovery.key",
            Kind::Chain => "trust.chain",
            Kind::Certificate => "certificate",
            Kind::Records => "records.cache",
            Kind::Revocations => "revocations",
            Kind::Plan => "keys.plan",
            Kind::Boot => "boot.epoch",
            Kind::Floor => "timestamp.floor",
            Kind::Pending => "join.pending",
            Kind::Founding => "init.pending",
        }
    }

    /// The kind's word in the container.
    pub fn word(self) -> &'static str {
        match self {
            Kind::Identity => "identity",
            Kind::Transport => "transport",
            Kind::Gate => "gate",
            Kind::Authority => "authority",
            Kind::Rollover => "rollover",
            Kind::Recovery => "recovery",
            Kind::Chain => "chain",
            Kind::Certificate => "certificate",
            Kind::Records => "records",
            Kind::Revocations => "revocations",
            Kind::Plan => "plan",
            Kind::Boot => "boot",
            Kind::Floor => "floor",
            Kind::Pending => "pending",
            Kind::Founding => "founding",
        }
    }

    /// Reads a whole file of this kind, and gives what would be written in its place.
    ///
    /// # Errors
    /// What is wrong with it.
    pub fn read_back(self, file: &[u8]) -> Result<Zeroizing<String>, Damage> {
        let payload = container::decode(self.word(), file)?;
        let payload = files::payload_again(self, payload).ok_or(Damage::Payload)?;
        Ok(container::encode(self.word(), &payload))
    }

    /// What to do when the file is missing or damaged.
    fn remedy(self) -> &'static str {
        match self {
            Kind::Identity | Kind::Transport | Kind::Gate | Kind::Chain | Kind::Certificate => {
                "restore it from a backup, or move the directory away and join again with a new invitation"
            }
            Kind::Authority | Kind::Recovery => "restore it from the copy made when the mesh was started",
            Kind::Rollover => {
                "restore it from a backup; without it, the authority has to be replaced with the recovery key \
                 (meshd authority recover)"
            }
            Kind::Records => "move it away: the other members send their records again",
            Kind::Revocations => "move it away: the other members send the revocations again",
            Kind::Plan => "move it away, and make the plan again: meshd keys rotate --all",
            Kind::Boot | Kind::Floor => "move it away: the clock takes its place",
            Kind::Founding => "move it away: it only marks an `init` that was interrupted",
            Kind::Pending => "move it away and join again, if need be with a new invitation",
        }
    }
}

/// A state directory that exists and is ours.
#[derive(Debug, Clone)]
pub struct StateDir {
    path: PathBuf,
}

impl StateDir {
    /// Opens a directory that is there, checking who may touch it.
    ///
    /// # Errors
    /// [`Error::Empty`] if it does not exist, [`Error::Owner`] or [`Error::Open`] if it is not ours alone.
    pub fn open(path: &Path) -> Result<StateDir, Error> {
        let meta = match std::fs::metadata(path) {
            Ok(meta) => meta,
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                return Err(Error::Empty(path.to_owned()));
            }
            Err(error) => return Err(Error::io("open", path, error)),
        };
        if !meta.is_dir() {
            return Err(Error::io("use", path, io::Error::from(io::ErrorKind::NotADirectory)));
        }
        // A group may be let in to reach the control socket, but not to write.
        check_access(path, &meta, 0o027, 0o700)?;
        Ok(StateDir { path: path.to_owned() })
    }

    /// Opens the directory, making it and its parents if need be. An empty one is closed to others.
    ///
    /// # Errors
    /// As [`StateDir::open`], and what the system says.
    pub fn create(path: &Path) -> Result<StateDir, Error> {
        if let Some(parent) = path.parent().filter(|parent| !parent.as_os_str().is_empty()) {
            std::fs::create_dir_all(parent).map_err(|source| Error::io("make", parent, source))?;
        }
        match std::fs::DirBuilder::new().mode(0o700).create(path) {
            Ok(()) => {}
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => close_if_empty(path)?,
            Err(error) => return Err(Error::io("make", path, error)),
        }
        StateDir::open(path)
    }

    /// Where the directory is.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The path of a file in it.
    pub fn file(&self, kind: Kind) -> PathBuf {
        self.path.join(kind.file_name())
    }

    /// The path of the daemon's control socket.
    pub fn socket(&self) -> PathBuf {
        self.path.join("meshd.sock")
    }

    /// Takes the directory for this process: for the daemon, and for verbs that may not run beside it.
    ///
    /// # Errors
    /// [`Error::InUse`] if another process has it.
    pub fn lock(&self) -> Result<Lock, Error> {
        Lock::try_take(&self.path.join("lock"))
    }

    /// Whether the file is there, in whatever condition.
    pub fn has(&self, kind: Kind) -> bool {
        self.file(kind).symlink_metadata().is_ok()
    }

    /// Whether a node lives here: its identity and its certificate are there.
    pub fn is_member(&self) -> bool {
        self.has(Kind::Identity) && self.has(Kind::Certificate)
    }

    /// The payload of a file, or `None` if there is no such file.
    ///
    /// # Errors
    /// [`Error::Damaged`], [`Error::Owner`], [`Error::Open`], or what the system says.
    pub fn read(&self, kind: Kind) -> Result<Option<Zeroizing<Vec<u8>>>, Error> {
        read_container(&self.file(kind), kind.word(), kind.remedy())
    }

    /// The payload of a file that must be there.
    ///
    /// # Errors
    /// [`Error::Empty`] if no node lives here at all, [`Error::Missing`] if the file is not there, and as
    /// [`StateDir::read`].
    pub fn require(&self, kind: Kind) -> Result<Zeroizing<Vec<u8>>, Error> {
        match self.read(kind)? {
            Some(payload) => Ok(payload),
            None if !self.has(Kind::Identity) => Err(Error::Empty(self.path.clone())),
            None => Err(Error::Missing { path: self.file(kind), remedy: kind.remedy() }),
        }
    }

    /// Reads every file that is there but the cache, so that damage shows at the start and not on the day that the file
    /// is needed.
    ///
    /// # Errors
    /// As [`StateDir::read`], of the first file that is not sound.
    pub fn check(&self) -> Result<(), Error> {
        Kind::ALL
            .into_iter()
            .filter(|kind| *kind != Kind::Records)
            .try_for_each(|kind| self.read(kind).map(drop))
    }

    /// Replaces a file.
    ///
    /// # Errors
    /// [`Error::Write`]; what was there before is untouched.
    pub fn write(&self, kind: Kind, payload: &[u8]) -> Result<(), Error> {
        write_container(&self.path, kind.file_name(), kind.word(), payload)
    }

    /// Removes a file, if it is there.
    ///
    /// # Errors
    /// What the system says.
    pub fn remove(&self, kind: Kind) -> Result<(), Error> {
        remove(&self.file(kind))
    }

    /// Moves a damaged file out of the way, keeping it under the name returned.
    ///
    /// # Errors
    /// What the system says.
    pub fn set_aside(&self, kind: Kind) -> Result<PathBuf, Error> {
        let from = self.file(kind);
        let mut number = 0;
        loop {
            let to = self.path.join(format!("{}.damaged.{number}", kind.file_name()));
            if to.symlink_metadata().is_err() {
                return match std::fs::rename(&from, &to) {
                    Ok(()) => Ok(to),
                    Err(source) => Err(Error::io("move", &from, source)),
                };
            }
            number += 1;
        }
    }

    /// The error for a file whose container is whole, but whose payload this version cannot read.
    pub fn nonsense(&self, kind: Kind) -> Error {
        Error::Damaged { path: self.file(kind), damage: Damage::Payload, remedy: kind.remedy() }
    }
}

/// Reads a container file; `None` if there is none.
fn read_container(
    path: &Path,
    word: &str,
    remedy: &'static str,
) -> Result<Option<Zeroizing<Vec<u8>>>, Error> {
    let file = match std::fs::File::open(path) {
        Ok(file) => file,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(Error::io("read", path, error)),
    };
    let meta = file.metadata().map_err(|source| Error::io("read", path, source))?;
    check_access(path, &meta, 0o077, 0o600)?;
    let damaged = |damage| Error::Damaged { path: path.to_owned(), damage, remedy };
    if !meta.is_file() || meta.len() > MAX_FILE_BYTES {
        return Err(damaged(Damage::Foreign));
    }
    let mut bytes = Zeroizing::new(Vec::with_capacity(usize::try_from(meta.len()).unwrap_or(0)));
    io::Read::read_to_end(&mut io::Read::take(file, MAX_FILE_BYTES), &mut bytes)
        .map_err(|source| Error::io("read", path, source))?;
    container::decode(word, &bytes).map(Some).map_err(damaged)
}

/// Replaces `directory/name` by a container.
fn write_container(directory: &Path, name: &str, word: &str, payload: &[u8]) -> Result<(), Error> {
    let text = container::encode(word, payload);
    atomic::replace(directory, name, text.as_bytes(), 0o600).map_err(|(step, source)| {
        let path = directory.join(name);
        match step {
            atomic::Step::SyncDirectory => Error::io("flush the directory of", &path, source),
            _ => Error::Write { path, source },
        }
    })
}

fn remove(path: &Path) -> Result<(), Error> {
    match std::fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(Error::io("remove", path, error)),
        _ => Ok(()),
    }
}

/// A directory of ours that somebody has made for us may have the usual mode; nothing is in it that others have seen.
fn close_if_empty(path: &Path) -> Result<(), Error> {
    let failed = |source| Error::io("close", path, source);
    let meta = std::fs::metadata(path).map_err(failed)?;
    let is_ours = meta.is_dir() && meta.uid() == nix::unistd::geteuid().as_raw();
    if !is_ours || meta.mode() & 0o027 == 0 || std::fs::read_dir(path).map_err(failed)?.next().is_some() {
        return Ok(());
    }
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o700)).map_err(failed)
}

fn check_access(path: &Path, meta: &std::fs::Metadata, forbidden: u32, wanted: u32) -> Result<(), Error> {
    let user = nix::unistd::geteuid().as_raw();
    if meta.uid() != user {
        return Err(Error::Owner { path: path.to_owned(), owner: meta.uid(), user });
    }
    let mode = meta.mode() & 0o777;
    if mode & forbidden != 0 {
        return Err(Error::Open { path: path.to_owned(), mode, wanted });
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn fresh() -> (tempfile::TempDir, StateDir) {
        let holder = tempfile::tempdir().unwrap();
        let state = StateDir::create(&holder.path().join("state")).unwrap();
        (holder, state)
    }

    #[test]
    fn every_kind_has_its_own_file_and_word() {
        let names: std::collections::BTreeSet<_> = Kind::ALL.iter().map(|kind| kind.file_name()).collect();
        let words: std::collections::BTreeSet<_> = Kind::ALL.iter().map(|kind| kind.word()).collect();
        assert_eq!((names.len(), words.len()), (Kind::ALL.len(), Kind::ALL.len()));
    }

    #[test]
    fn every_truncation_and_flip_of_every_file_is_told_and_left_alone() {
        let (_holder, state) = fresh();
        for kind in Kind::ALL {
            state.write(kind, b"a payload of this kind").unwrap();
            let whole = std::fs::read(state.file(kind)).unwrap();
            for at in 0..whole.len() {
                let mut flipped = whole.clone();
                flipped[at] ^= 0x20;
                for bad in [&whole[..at], &flipped] {
                    std::fs::write(state.file(kind), bad).unwrap();
                    let error = state.read(kind).unwrap_err();
                    assert!(matches!(error, Error::Damaged { .. }), "{error}");
                    assert!(error.to_string().contains(kind.file_name()));
                    assert_eq!(std::fs::read(state.file(kind)).unwrap(), bad);
                }
            }
        }
    }

    #[test]
    fn whole_files_are_read_back_and_payloads_of_another_kind_are_not() {
        let read = |kind: Kind, payload: &[u8]| {
            kind.read_back(container::encode(kind.word(), payload).as_bytes()).map(|text| text.len())
        };
        assert!(read(Kind::Identity, &[7; 32]).is_ok() && read(Kind::Boot, &[7; 8]).is_ok());
        for kind in [Kind::Identity, Kind::Transport, Kind::Boot, Kind::Chain, Kind::Rollover, Kind::Pending]
        {
            assert_eq!(read(kind, &[7; 33]), Err(Damage::Payload), "{kind:?}");
        }
    }

    #[test]
    fn what_others_may_read_is_refused() {
        let (_holder, state) = fresh();
        state.write(Kind::Gate, &[7; 32]).unwrap();
        std::fs::set_permissions(state.file(Kind::Gate), PermissionsExt::from_mode(0o640)).unwrap();
        let error = state.read(Kind::Gate).unwrap_err();
        assert!(error.to_string().contains("chmod 600"), "{error}");
        std::fs::set_permissions(state.path(), PermissionsExt::from_mode(0o755)).unwrap();
        assert!(matches!(StateDir::open(state.path()), Err(Error::Open { mode: 0o755, .. })));
        std::fs::set_permissions(state.path(), PermissionsExt::from_mode(0o710)).unwrap();
        StateDir::open(state.path()).unwrap();
    }

    #[test]
    fn an_empty_directory_is_closed_and_one_with_content_is_refused() {
        let holder = tempfile::tempdir().unwrap();
        let open = |path: &Path| std::fs::set_permissions(path, PermissionsExt::from_mode(0o755)).unwrap();
        open(holder.path());
        StateDir::create(holder.path()).unwrap();
        std::fs::write(holder.path().join("x"), "").unwrap();
        open(holder.path());
        assert!(matches!(StateDir::create(holder.path()), Err(Error::Open { .. })));
    }

    #[test]
    fn an_empty_directory_says_how_to_start() {
        let (_holder, state) = fresh();
        assert!(matches!(state.require(Kind::Certificate), Err(Error::Empty(_))));
        state.write(Kind::Identity, &[1; 32]).unwrap();
        assert!(matches!(state.require(Kind::Certificate), Err(Error::Missing { .. })));
        assert!(matches!(StateDir::open(&state.path().join("none")), Err(Error::Empty(_))));
    }

    #[test]
    fn a_file_set_aside_is_kept() {
        let (_holder, state) = fresh();
        for round in 0..2 {
            std::fs::write(state.file(Kind::Records), [round]).unwrap();
            let kept = state.set_aside(Kind::Records).unwrap();
            assert_eq!(std::fs::read(kept).unwrap(), [round]);
        }
    }
}
