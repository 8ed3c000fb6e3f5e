//! Locks that keep two processes from using one state directory at the same time.

use std::fs::{File, OpenOptions, TryLockError};
use std::io::{Read, Seek, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

use super::Error;

/// A held lock; dropping it, or the end of the process however it comes, releases it.
#[derive(Debug)]
pub struct Lock {
    _file: File,
}

impl Lock {
    /// Takes the lock file at `path` at once.
    ///
    /// # Errors
    /// [`Error::InUse`] with the holder's process id if another process has it, otherwise what the system says.
    pub fn try_take(path: &Path) -> Result<Lock, Error> {
        let mut file = open(path)?;
        match file.try_lock() {
            Ok(()) => {
                sign(&mut file).map_err(|source| Error::io("write", path, source))?;
                Ok(Lock { _file: file })
            }
            Err(TryLockError::WouldBlock) => {
                let mut holder = String::new();
                // Only for the message: without it the lock is still somebody else's.
                let _ = file.read_to_string(&mut holder);
                let directory = path.parent().unwrap_or(path).to_owned();
                Err(Error::InUse { directory, pid: holder.trim().parse().ok() })
            }
            Err(TryLockError::Error(source)) => Err(Error::io("lock", path, source)),
        }
    }

    /// Takes the lock file at `path`, waiting for its holder: for short critical sections only.
    ///
    /// # Errors
    /// What the system says.
    pub fn wait(path: &Path) -> Result<Lock, Error> {
        let file = open(path)?;
        file.lock().map_err(|source| Error::io("lock", path, source))?;
        Ok(Lock { _file: file })
    }

    /// Takes the lock file at `path` if nobody else has it.
    ///
    /// # Errors
    /// What the system says.
    pub fn if_free(path: &Path) -> Result<Option<Lock>, Error> {
        let file = open(path)?;
        match file.try_lock() {
            Ok(()) => Ok(Some(Lock { _file: file })),
            Err(TryLockError::WouldBlock) => Ok(None),
            Err(TryLockError::Error(source)) => Err(Error::io("lock", path, source)),
        }
    }
}

fn open(path: &Path) -> Result<File, Error> {
    OpenOptions::new()
        .read(true)
        .write(true)
        .create(true)
        .truncate(false)
        .mode(0o600)
        .open(path)
        .map_err(|source| Error::io("open", path, source))
}

/// Leaves our process id for the message that another process will show.
fn sign(file: &mut File) -> std::io::Result<()> {
    file.set_len(0)?;
    file.rewind()?;
    match writeln!(file, "{}", std::process::id()) {
        // On a full disk the lock holds all the same.
        Err(error) if error.kind() == std::io::ErrorKind::StorageFull => Ok(()),
        other => other,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_second_taker_learns_who_has_it() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("lock");
        let held = Lock::try_take(&path).unwrap();
        let Err(Error::InUse { pid, .. }) = Lock::try_take(&path) else { panic!("taken twice") };
        assert_eq!(pid, Some(std::process::id()));
        drop(held);
        Lock::try_take(&path).unwrap();
    }
}
