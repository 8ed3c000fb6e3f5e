//! Passphrases: typed in, or read from a file or an open file descriptor. Never from an argument or the environment, which
//! other processes can read.

use std::io::{IsTerminal, Read};
use std::path::{Path, PathBuf};

use anyhow::{Context, bail};
use zeroize::Zeroizing;

use crate::exit::Failure;

/// Longest passphrase that is read, in bytes.
const MAX_BYTES: u64 = 4096;

/// Where a passphrase comes from.
#[derive(clap::Args, Debug, Clone, Default)]
pub(super) struct Source {
    /// Read the passphrase from this open file descriptor, up to its end or the first line's
    #[arg(long, value_name = "N", conflicts_with = "passphrase_file")]
    passphrase_fd: Option<u32>,
    /// Read the passphrase from the first line of this file [default: asked for on the terminal]
    #[arg(long, value_name = "FILE")]
    passphrase_file: Option<PathBuf>,
}

impl Source {
    /// The passphrase for something that was encrypted with it.
    ///
    /// # Errors
    /// If there is none to be had.
    pub(super) fn existing(&self, what: &str) -> anyhow::Result<Zeroizing<String>> {
        match self.given()? {
            Some(passphrase) => Ok(passphrase),
            None => ask(&format!("Passphrase of {what}: ")),
        }
    }

    /// A passphrase for something that is to be encrypted; typed in twice.
    ///
    /// # Errors
    /// If there is none to be had, or the two differ.
    pub(super) fn new_one(&self, what: &str) -> anyhow::Result<Zeroizing<String>> {
        if let Some(passphrase) = self.given()? {
            return Ok(passphrase);
        }
        let first = ask(&format!("New passphrase for {what}: "))?;
        if *first != *ask("The same again: ")? {
            bail!("the two passphrases differ");
        }
        Ok(first)
    }

    fn given(&self) -> anyhow::Result<Option<Zeroizing<String>>> {
        let path = match (self.passphrase_fd, &self.passphrase_file) {
            (Some(number), _) => PathBuf::from(format!("/proc/self/fd/{number}")),
            (None, Some(path)) => path.clone(),
            (None, None) => return Ok(None),
        };
        first_line(&path)
            .with_context(|| format!("cannot read a passphrase from {}", path.display()))
            .map(Some)
    }
}

fn first_line(path: &Path) -> anyhow::Result<Zeroizing<String>> {
    let mut text = Zeroizing::new(String::with_capacity(MAX_BYTES as usize));
    std::fs::File::open(path)?.take(MAX_BYTES).read_to_string(&mut text)?;
    let line = Zeroizing::new(text.lines().next().unwrap_or_default().to_owned());
    if line.is_empty() {
        bail!("it is empty");
    }
    Ok(line)
}

fn ask(prompt: &str) -> anyhow::Result<Zeroizing<String>> {
    if !std::io::stdin().is_terminal() {
        let message =
            "there is no terminal to ask for a passphrase: give --passphrase-file FILE or --passphrase-fd N";
        return Err(Failure::Usage(message.into()).into());
    }
    Ok(Zeroizing::new(rpassword::prompt_password(prompt).context("cannot ask for a passphrase")?))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::fd::AsRawFd;

    #[test]
    fn a_passphrase_is_the_first_line_of_a_file_or_descriptor() {
        let mut file = tempfile::NamedTempFile::new().unwrap();
        std::io::Write::write_all(&mut file, b"correct horse\nbattery\n").unwrap();
        let by_file = Source { passphrase_file: Some(file.path().into()), ..Source::default() };
        assert_eq!(*by_file.existing("x").unwrap(), "correct horse");
        let open = std::fs::File::open(file.path()).unwrap();
        let by_fd = Source { passphrase_fd: Some(open.as_raw_fd() as u32), ..Source::default() };
        assert_eq!(*by_fd.new_one("x").unwrap(), "correct horse");
        let empty = tempfile::NamedTempFile::new().unwrap();
        let none = Source { passphrase_file: Some(empty.path().into()), ..Source::default() };
        assert!(none.existing("x").is_err());
    }
}
