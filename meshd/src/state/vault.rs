//! Secrets that leave the state directory: encrypted with a passphrase, as text, by the age library
//! (<https://age-encryption.org/v1>, scrypt). `age -d` opens them as well, should there be no meshd at hand.
//!
//! Inside is the same container as in the state directory, so that a key cannot be taken for another one.

use std::io::{Read, Write};

use age::armor::{ArmoredReader, ArmoredWriter, Format};
use age::secrecy::SecretString;
use meshnet::membership::AuthoritySecret;
use zeroize::Zeroizing;

use super::container;

/// Shortest passphrase that is taken, in characters. Scrypt makes guessing slow, and not impossible.
pub const MIN_PASSPHRASE: usize = 10;
/// Longest file that is read.
pub const MAX_BYTES: u64 = 64 << 10;

/// What is in such a file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Content {
    /// The authority's key.
    Authority,
    /// The recovery key.
    Recovery,
}

impl Content {
    fn word(self) -> &'static str {
        match self {
            Content::Authority => "authority",
            Content::Recovery => "recovery",
        }
    }
}

/// Why it cannot be encrypted or opened.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The passphrase is too short.
    #[error("a passphrase of at least {MIN_PASSPHRASE} characters is needed")]
    Short,
    /// The library refuses to encrypt.
    #[error("cannot encrypt: {0}")]
    Encrypt(std::io::Error),
    /// The passphrase is wrong, or the file was altered.
    #[error("the passphrase is wrong, or the file is damaged: {0}")]
    Decrypt(age::DecryptError),
    /// What is inside cannot be read.
    #[error("the file is damaged: {0}")]
    Damaged(std::io::Error),
    /// It is another key, or none.
    #[error("the file does not hold the {} key: {}", .0.word(), .1)]
    Content(Content, container::Damage),
}

/// Encrypts a key. Takes about a second, on purpose.
///
/// # Errors
/// [`Error::Short`], or what the library says.
pub fn seal(content: Content, key: &AuthoritySecret, passphrase: &str) -> Result<String, Error> {
    if passphrase.chars().count() < MIN_PASSPHRASE {
        return Err(Error::Short);
    }
    let plain = container::encode(content.word(), key.to_bytes().as_slice());
    let encryptor = age::Encryptor::with_user_passphrase(SecretString::from(passphrase.to_owned()));
    let mut text = Vec::new();
    let write = || -> std::io::Result<()> {
        let armour = ArmoredWriter::wrap_output(&mut text, Format::AsciiArmor)?;
        let mut writer = encryptor.wrap_output(armour)?;
        writer.write_all(plain.as_bytes())?;
        writer.finish()?.finish()?;
        Ok(())
    };
    write().map_err(Error::Encrypt)?;
    String::from_utf8(text)
        .map_err(|error| Error::Encrypt(std::io::Error::new(std::io::ErrorKind::InvalidData, error)))
}

/// Opens what [`seal`] made.
///
/// # Errors
/// [`Error`].
pub fn open(content: Content, text: &[u8], passphrase: &str) -> Result<AuthoritySecret, Error> {
    let decryptor = age::Decryptor::new(ArmoredReader::new(text)).map_err(Error::Decrypt)?;
    let identity = age::scrypt::Identity::new(SecretString::from(passphrase.to_owned()));
    let identities = std::iter::once(&identity as &dyn age::Identity);
    let reader = decryptor.decrypt(identities).map_err(Error::Decrypt)?;
    let mut plain = Zeroizing::new(Vec::with_capacity(1024));
    reader.take(MAX_BYTES).read_to_end(&mut plain).map_err(Error::Damaged)?;
    plain_key(content, &plain)
}

/// Whether a file is encrypted, and not a key file of the state directory.
pub fn is_sealed(text: &[u8]) -> bool {
    text.trim_ascii_start().starts_with(b"-----BEGIN AGE ENCRYPTED FILE-----")
}

/// The key in a file of the state directory.
///
/// # Errors
/// [`Error::Content`].
pub fn plain_key(content: Content, text: &[u8]) -> Result<AuthoritySecret, Error> {
    let seed = container::decode(content.word(), text).map_err(|damage| Error::Content(content, damage))?;
    let seed: Zeroizing<[u8; 32]> = Zeroizing::new(
        seed.as_slice().try_into().map_err(|_| Error::Content(content, container::Damage::Payload))?,
    );
    Ok(AuthoritySecret::from_bytes(&seed))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_sealed_key_opens_with_its_passphrase_alone_and_is_what_it_says() {
        let key = AuthoritySecret::from_bytes(&[7; 32]);
        let text = seal(Content::Authority, &key, "correct horse").unwrap();
        assert!(is_sealed(text.as_bytes()) && !is_sealed(b"meshd-state 1 authority\n"));
        let opened = open(Content::Authority, text.as_bytes(), "correct horse").unwrap();
        assert_eq!(*opened.to_bytes(), [7; 32]);
        assert!(matches!(open(Content::Authority, text.as_bytes(), "wrong horse!"), Err(Error::Decrypt(_))));
        let other = open(Content::Recovery, text.as_bytes(), "correct horse");
        assert!(matches!(other, Err(Error::Content(Content::Recovery, _))));
        let mut altered = text.into_bytes();
        let middle = altered.len() / 2;
        altered[middle] = if altered[middle] == b'A' { b'B' } else { b'A' };
        assert!(open(Content::Authority, &altered, "correct horse").is_err());
        assert!(matches!(seal(Content::Authority, &key, "short"), Err(Error::Short)));
    }
}
