//! Replacing a file so that after a crash at any moment there is either the whole old one or the whole new one.

use std::fs::{File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

/// The steps of a replacement, in order.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Step {
    /// Make the temporary file beside the old one.
    Create,
    /// Fill it.
    Write,
    /// Flush it to the disk.
    Sync,
    /// Put it in the old one's place.
    Rename,
    /// Flush the directory, so that the new name survives a power cut.
    SyncDirectory,
}

/// Writes `bytes` to `directory/name` with `mode`, in place of what is there.
///
/// # Errors
/// The first step that failed. Up to and including [`Step::Rename`] the old file is untouched; if only
/// [`Step::SyncDirectory`] failed the new one is in place, but may be lost with the power.
pub fn replace(directory: &Path, name: &str, bytes: &[u8], mode: u32) -> Result<(), (Step, io::Error)> {
    replace_with(directory, name, bytes, mode, &mut |_| Ok(()))
}

/// The temporary file that [`replace`] uses for `name`; a crash may leave it behind, the next write overwrites it.
pub fn temporary(directory: &Path, name: &str) -> PathBuf {
    directory.join(format!(".{name}.tmp"))
}

/// [`replace`], with `before` called ahead of each step: an error from it fails the step, as a test's stand-in for a
/// disk that does.
fn replace_with(
    directory: &Path,
    name: &str,
    bytes: &[u8],
    mode: u32,
    before: &mut dyn FnMut(Step) -> io::Result<()>,
) -> Result<(), (Step, io::Error)> {
    let temporary = temporary(directory, name);
    let written = write_temporary(&temporary, bytes, mode, before)
        .and_then(|()| at(Step::Rename, before, || std::fs::rename(&temporary, directory.join(name))));
    if let Err(failure) = written {
        // Best effort: gives the space back on a full disk; a leftover is overwritten by the next write.
        let _ = std::fs::remove_file(&temporary);
        return Err(failure);
    }
    at(Step::SyncDirectory, before, || File::open(directory)?.sync_all())
}

fn write_temporary(
    path: &Path,
    bytes: &[u8],
    mode: u32,
    before: &mut dyn FnMut(Step) -> io::Result<()>,
) -> Result<(), (Step, io::Error)> {
    let mut file = at(Step::Create, before, || {
        // A leftover may have another mode or be a link; a file made anew has what we say.
        match std::fs::remove_file(path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
        OpenOptions::new().write(true).create_new(true).mode(mode).open(path)
    })?;
    at(Step::Write, before, || file.write_all(bytes))?;
    at(Step::Sync, before, || file.sync_all())
}

fn at<T>(
    step: Step,
    before: &mut dyn FnMut(Step) -> io::Result<()>,
    run: impl FnOnce() -> io::Result<T>,
) -> Result<T, (Step, io::Error)> {
    before(step).and_then(|()| run()).map_err(|error| (step, error))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt;

    const STEPS: [Step; 5] = [Step::Create, Step::Write, Step::Sync, Step::Rename, Step::SyncDirectory];

    #[test]
    fn a_failure_at_any_step_leaves_a_whole_file() {
        for failing in STEPS {
            let directory = tempfile::tempdir().unwrap();
            replace(directory.path(), "f", b"old", 0o600).unwrap();
            let failed = replace_with(directory.path(), "f", b"new", 0o600, &mut |step| {
                if step == failing { Err(io::Error::from(io::ErrorKind::StorageFull)) } else { Ok(()) }
            });
            assert_eq!(failed.unwrap_err().0, failing);
            let found = std::fs::read(directory.path().join("f")).unwrap();
            let expected: &[u8] = if failing == Step::SyncDirectory { b"new" } else { b"old" };
            assert_eq!(found, expected, "after {failing:?} failed");
            assert!(!temporary(directory.path(), "f").exists());
        }
    }

    #[test]
    fn a_leftover_of_a_crash_does_not_matter() {
        let directory = tempfile::tempdir().unwrap();
        std::fs::write(temporary(directory.path(), "f"), b"half").unwrap();
        replace(directory.path(), "f", b"new", 0o600).unwrap();
        assert_eq!(std::fs::read(directory.path().join("f")).unwrap(), b"new");
        let mode = std::fs::metadata(directory.path().join("f")).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
    }

    #[test]
    fn a_crash_between_steps_leaves_the_old_or_the_new_file() {
        for crash in STEPS {
            let directory = tempfile::tempdir().unwrap();
            replace(directory.path(), "f", b"old", 0o600).unwrap();
            let crashed = std::panic::catch_unwind(|| {
                // As with kill -9, nothing after this point runs, not even the removal of the temporary file.
                let _ = replace_with(directory.path(), "f", b"new", 0o600, &mut |step| {
                    assert!(step != crash, "crash");
                    Ok(())
                });
            });
            assert!(crashed.is_err());
            let found = std::fs::read(directory.path().join("f")).unwrap();
            assert!(found == b"old" || found == b"new");
            replace(directory.path(), "f", b"newer", 0o600).unwrap();
            assert_eq!(std::fs::read(directory.path().join("f")).unwrap(), b"newer");
        }
    }
}
