//! Secrets on a node: sealed at rest with a key from the node's identity, laid down as files for containers that need them.

use std::collections::BTreeMap;
use std::io;
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};

use chacha20poly1305::aead::{Aead, KeyInit, Payload};
use chacha20poly1305::{Key, XChaCha20Poly1305, XNonce};
use meshnet::crypto::kdf;

use super::Secret;
use crate::stack::actual::SecretFact;
use crate::stack::definition::{Definition, SECRET_CLOSE, SECRET_OPEN};
use crate::stack::engine::file_name;
use crate::stack::random_bytes;
use crate::state::atomic;

/// Longest secret, in bytes.
pub(super) const MAX_SECRET_BYTES: usize = 64 << 10;
const NONCE_LEN: usize = 24;

/// The secrets of a node.
pub(super) struct Vault {
    directory: PathBuf,
    files: PathBuf,
    cipher: XChaCha20Poly1305,
}

impl Vault {
    /// Opens the vault in `directory`; `files` is where containers find theirs, on a file system in memory.
    pub(super) fn open(directory: PathBuf, files: PathBuf, identity: &[u8; 32]) -> io::Result<Vault> {
        make_private(&directory)?;
        make_private(&files)?;
        let key = kdf(identity, "meshnet stack secrets v1", &[]);
        let cipher = XChaCha20Poly1305::new(&Key::from(*key.bytes()));
        Ok(Vault { directory, files, cipher })
    }

    /// Where a container's files are.
    pub(super) fn files_of(&self, stack: &str, component: &str) -> PathBuf {
        self.files.join(stack).join(component)
    }

    pub(super) fn put(&self, stack: &str, name: &str, secret: &Secret) -> io::Result<()> {
        if secret.value.is_empty() || secret.value.len() > MAX_SECRET_BYTES {
            return Err(io::Error::new(io::ErrorKind::InvalidInput, "a secret has 1 to 65536 bytes"));
        }
        let file = file(stack, name)?;
        let text = zeroize::Zeroizing::new(serde_json::to_vec(secret)?);
        let nonce: [u8; NONCE_LEN] = random_bytes();
        // The name is part of it, so that files cannot be exchanged for each other.
        let payload = Payload { msg: &text, aad: file.as_bytes() };
        let sealed = self
            .cipher
            .encrypt(&XNonce::from(nonce), payload)
            .map_err(|_| io::Error::other("cannot seal"))?;
        let bytes = [&nonce[..], &sealed].concat();
        atomic::replace(&self.directory, &file, &bytes, 0o600).map_err(|(_, error)| error)
    }

    pub(super) fn get(&self, stack: &str, name: &str) -> io::Result<Secret> {
        let file = file(stack, name)?;
        let bytes = std::fs::read(self.directory.join(&file))?;
        let damaged =
            || io::Error::new(io::ErrorKind::InvalidData, format!("the secret {stack}/{name} is damaged"));
        let (nonce, sealed) = bytes.split_at_checked(NONCE_LEN).ok_or_else(damaged)?;
        let nonce: [u8; NONCE_LEN] = nonce.try_into().map_err(|_| damaged())?;
        let payload = Payload { msg: sealed, aad: file.as_bytes() };
        let text = self.cipher.decrypt(&XNonce::from(nonce), payload).map_err(|_| damaged())?;
        serde_json::from_slice(&zeroize::Zeroizing::new(text)).map_err(|_| damaged())
    }

    /// The versions of a stack's secrets.
    pub(super) fn facts(&self, stack: &str) -> BTreeMap<String, SecretFact> {
        let prefix = format!("{stack}.");
        let mut facts = BTreeMap::new();
        for entry in std::fs::read_dir(&self.directory).into_iter().flatten().flatten() {
            let name = entry.file_name().to_string_lossy().into_owned();
            let secret = name.strip_prefix(&prefix).and_then(|rest| rest.strip_suffix(".secret"));
            if let Some(secret) = secret
                && let Ok(kept) = self.get(stack, secret)
            {
                let fact = SecretFact { version: kept.version.clone(), made_ms: kept.made_ms };
                facts.insert(secret.to_owned(), fact);
            }
        }
        facts
    }

    pub(super) fn forget(&self, stack: &str) -> io::Result<()> {
        for name in self.facts(stack).keys() {
            std::fs::remove_file(self.directory.join(file(stack, name)?))?;
        }
        self.forget_files(&self.files.join(checked(stack)?))
    }

    /// Removes the files of a container that is gone.
    pub(super) fn forget_files(&self, directory: &Path) -> io::Result<()> {
        match std::fs::remove_dir_all(directory) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
            _ => Ok(()),
        }
    }

    /// Lays down a container's files and secrets, and returns where. A file that is mounted is written in place.
    pub(super) fn lay_down(&self, definition: &Definition) -> io::Result<PathBuf> {
        let directory = self.files_of(checked(&definition.stack)?, checked(&definition.component)?);
        make_private(&directory)?;
        for (target, text) in &definition.files {
            let text = zeroize::Zeroizing::new(self.fill(&definition.stack, text)?);
            write(&directory.join(file_name(target)), text.as_bytes())?;
        }
        for (target, secret) in definition.secrets.iter().filter(|(target, _)| target.starts_with('/')) {
            let kept = self.get(&definition.stack, &secret.name)?;
            if kept.version != secret.version {
                let message =
                    format!("the secret {} is not the one of this plan: run `up` again", secret.name);
                return Err(io::Error::other(message));
            }
            write(&directory.join(file_name(target)), kept.value.as_bytes())?;
        }
        Ok(directory)
    }

    /// `text` with its places for secrets filled in.
    fn fill(&self, stack: &str, text: &str) -> io::Result<String> {
        let mut filled = String::with_capacity(text.len());
        let mut rest = text;
        while let Some((before, after)) = rest.split_once(SECRET_OPEN) {
            let Some((name, after)) = after.split_once(SECRET_CLOSE) else { break };
            filled.push_str(before);
            filled.push_str(&self.get(stack, name)?.value);
            rest = after;
        }
        filled.push_str(rest);
        Ok(filled)
    }
}

/// A word that cannot lead out of a directory.
pub(super) fn checked(word: &str) -> io::Result<&str> {
    let allowed = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-';
    if word.is_empty() || word.len() > 128 || !word.chars().all(allowed) {
        return Err(io::Error::new(io::ErrorKind::InvalidInput, format!("`{word}` is no name")));
    }
    Ok(word)
}

fn file(stack: &str, name: &str) -> io::Result<String> {
    Ok(format!("{}.{}.secret", checked(stack)?, checked(name)?))
}

fn make_private(directory: &Path) -> io::Result<()> {
    std::fs::DirBuilder::new().recursive(true).mode(0o700).create(directory)?;
    std::fs::set_permissions(directory, std::fs::Permissions::from_mode(0o700))
}

/// Readable by whatever user a container runs as; the directory is closed to the machine's users.
fn write(path: &Path, bytes: &[u8]) -> io::Result<()> {
    let mut file =
        std::fs::OpenOptions::new().write(true).create(true).truncate(true).mode(0o444).open(path)?;
    io::Write::write_all(&mut file, bytes)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::stack::definition::SecretRef;

    fn vault(root: &Path, identity: u8) -> Vault {
        Vault::open(root.join("vault"), root.join("files"), &[identity; 32]).unwrap()
    }

    fn secret(value: &str) -> Secret {
        Secret { version: "v1".into(), made_ms: 7, value: value.into() }
    }

    #[test]
    fn a_secret_is_on_disk_only_sealed_and_opens_only_under_its_name_and_node() {
        let root = tempfile::tempdir().unwrap();
        let here = vault(root.path(), 1);
        here.put("s", "db", &secret("hunter2hunter2")).unwrap();
        assert_eq!(here.get("s", "db").unwrap().value, "hunter2hunter2");
        assert_eq!(here.facts("s")["db"], SecretFact { version: "v1".into(), made_ms: 7 });
        let path = root.path().join("vault/s.db.secret");
        let bytes = std::fs::read(&path).unwrap();
        assert!(!bytes.windows(8).any(|part| part == b"hunter2h"));
        std::fs::copy(&path, root.path().join("vault/s.other.secret")).unwrap();
        here.get("s", "other").unwrap_err();
        vault(root.path(), 2).get("s", "db").unwrap_err();
        here.put("s", "../x", &secret("a")).unwrap_err();
    }

    #[test]
    fn files_get_their_secrets_filled_in_on_the_node_alone() {
        let root = tempfile::tempdir().unwrap();
        let here = vault(root.path(), 1);
        here.put("s", "db", &secret("hunter2")).unwrap();
        let mut definition = crate::stack::definition::tests::any();
        definition.files.insert("/etc/a.cnf".into(), "pw=@secret(db)@\nx".into());
        let version = "v1".to_owned();
        definition.secrets.insert("/run/secrets/db".into(), SecretRef { name: "db".into(), version });
        let directory = here.lay_down(&definition).unwrap();
        assert_eq!(std::fs::read_to_string(directory.join("etc_a.cnf")).unwrap(), "pw=hunter2\nx");
        assert_eq!(std::fs::read_to_string(directory.join("run_secrets_db")).unwrap(), "hunter2");
        assert!(!serde_json::to_string(&definition).unwrap().contains("hunter2"));
        definition.secrets.values_mut().for_each(|secret| secret.version = "v2".into());
        here.lay_down(&definition).unwrap_err();
        here.forget("s").unwrap();
        here.get("s", "db").unwrap_err();
        assert!(!directory.exists());
    }

    #[test]
    fn a_secret_never_shows_when_it_is_printed() {
        assert!(!format!("{:?}", secret("hunter2")).contains("hunter2"));
        let request = super::super::Request::PutSecret {
            stack: "s".into(),
            name: "db".into(),
            secret: secret("hunter2"),
        };
        assert!(!format!("{request:?} {:?}", request.audited()).contains("hunter2"));
    }
}
