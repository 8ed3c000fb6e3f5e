//! `meshd authority export`, `import`: the authority's key away from every machine.

use std::io::Read;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::{Context, bail};
use meshnet::membership::AuthoritySecret;
use zeroize::Zeroizing;

use crate::cli::Global;
use crate::cli::passphrase::Source;
use crate::daemon::fingerprint;
use crate::output;
use crate::state::vault::{self, Content, MAX_BYTES};
use crate::state::{Home, Kind, StateDir, atomic};

/// Arguments of `meshd authority export`.
#[derive(clap::Args, Debug)]
#[command(after_help = "\
The file is text in the format of age (age-encryption.org), so that `age -d` opens it as well. It is read back before \
anything is removed. Removing overwrites nothing: on flash and journalling file systems traces may stay, so found the \
mesh where you can afford that, or rotate the authority after its first export.

Examples:
  meshd authority export authority.age --remove
  meshd authority export recovery.age --recovery --remove
  meshd authority export /media/stick/authority.age --passphrase-fd 3 3< pass")]
pub(super) struct Export {
    /// Where to write it; must not exist
    file: PathBuf,
    /// The recovery key instead of the authority's
    #[arg(long)]
    recovery: bool,
    /// Remove the key from this node when the file is written and was read back
    #[arg(long)]
    remove: bool,
    #[command(flatten)]
    passphrase: Source,
}

/// Arguments of `meshd authority import`.
#[derive(clap::Args, Debug)]
#[command(after_help = "\
Examples:
  meshd authority import authority.age    # then invite, revoke, rotate
  meshd authority export authority2.age --remove")]
pub(super) struct Import {
    /// The file to read: as exported, or a key file of a state directory
    file: PathBuf,
    #[command(flatten)]
    passphrase: Source,
}

impl Export {
    /// Runs the verb.
    ///
    /// # Errors
    /// If the key is not here, or the file cannot be written.
    pub(super) fn run(self, global: &Global) -> anyhow::Result<ExitCode> {
        let state = StateDir::open(&global.state_path()?)?;
        let (kind, content, name) = match self.recovery {
            true => (Kind::Recovery, Content::Recovery, "recovery"),
            false => (Kind::Authority, Content::Authority, "authority's"),
        };
        if !state.has(kind) {
            bail!("the {name} key is not on this node: there is no {}", state.file(kind).display());
        }
        if !self.recovery && state.has(Kind::Rollover) {
            bail!(
                "the authority is being replaced: wait for the end (meshd authority show), then export the new key"
            );
        }
        let key = AuthoritySecret::from_bytes(&*state.secret(kind)?);
        let print = fingerprint(&key.public());
        let passphrase = self.passphrase.new_one(&format!("the {name} key {print}"))?;
        write_sealed(&self.file, content, &key, &passphrase)?;
        if self.remove {
            state.remove(kind)?;
            sync(state.path())?;
        }
        let removed = if self.remove { "; it is not on this node any more" } else { "" };
        let text = match global.json {
            true => output::json_line(&serde_json::json!({
                "fingerprint": print, "file": self.file, "removed": self.remove,
            }))?,
            false => format!("the {name} key {print} is in {}{removed}\n", self.file.display()),
        };
        output::print(&text)?;
        Ok(ExitCode::SUCCESS)
    }
}

/// Writes a key encrypted to a file that is not there yet, and reads it back.
///
/// # Errors
/// If the file is there, or cannot be written or read.
pub(in crate::cli) fn write_sealed(
    file: &Path,
    content: Content,
    key: &AuthoritySecret,
    passphrase: &str,
) -> anyhow::Result<()> {
    let wrong = |action: &str| format!("cannot {action} {}", file.display());
    let text = vault::seal(content, key, passphrase)?;
    // Nothing is overwritten, also if somebody else makes it just now.
    let made = std::fs::OpenOptions::new().write(true).create_new(true).mode(0o600).open(file);
    if made.as_ref().is_err_and(|error| error.kind() == std::io::ErrorKind::AlreadyExists) {
        bail!("{} exists, and nothing is overwritten: give another name", file.display());
    }
    drop(made.with_context(|| wrong("make"))?);
    let directory = file.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let name = file.file_name().and_then(|name| name.to_str()).context("the file has no usable name")?;
    atomic::replace(directory, name, text.as_bytes(), 0o600)
        .map_err(|(_, error)| error)
        .with_context(|| wrong("write"))?;
    let back = vault::open(content, &read(file)?, passphrase).with_context(|| wrong("read back"))?;
    if back.public() != key.public() {
        bail!("{} does not hold what was written", file.display());
    }
    Ok(())
}

impl Import {
    /// Runs the verb.
    ///
    /// # Errors
    /// If the key is no root of this mesh, or cannot be written.
    pub(super) fn run(self, global: &Global) -> anyhow::Result<ExitCode> {
        let home = Home::load(StateDir::open(&global.state_path()?)?)?;
        let key = read_key(&self.file, Content::Authority, &self.passphrase)?;
        let print = fingerprint(&key.public());
        if !home.chain.current().roots.contains(&key.public()) {
            let known = home.chain.after(0).iter().any(|bundle| bundle.body().roots.contains(&key.public()));
            match known {
                true => bail!("the key {print} was replaced: this mesh does not trust it any more"),
                false => {
                    bail!("the key {print} is not an authority of the mesh {}", home.chain.current().name)
                }
            }
        }
        if home.state.has(Kind::Rollover) {
            bail!("the authority is being replaced by this node: wait for the end (meshd authority show)");
        }
        home.state.write(Kind::Authority, key.to_bytes().as_slice())?;
        let text = match global.json {
            true => output::json_line(&serde_json::json!({ "fingerprint": print }))?,
            false => {
                format!("the authority's key {print} is on this node now; {} stays\n", self.file.display())
            }
        };
        output::print(&text)?;
        Ok(ExitCode::SUCCESS)
    }
}

/// The key in a file, encrypted or not.
///
/// # Errors
/// If it cannot be read, is another key, or the passphrase is wrong.
pub(super) fn read_key(
    file: &Path,
    content: Content,
    passphrase: &Source,
) -> anyhow::Result<AuthoritySecret> {
    let text = read(file)?;
    let key = match vault::is_sealed(&text) {
        true => vault::open(content, &text, &passphrase.existing(&file.display().to_string())?),
        false => vault::plain_key(content, &text),
    };
    key.with_context(|| format!("cannot read {}", file.display()))
}

fn read(file: &Path) -> anyhow::Result<Zeroizing<Vec<u8>>> {
    let mut text = Zeroizing::new(Vec::with_capacity(4096));
    let open = || std::fs::File::open(file)?.take(MAX_BYTES).read_to_end(&mut text);
    let mut open = open;
    open().with_context(|| format!("cannot read {}", file.display()))?;
    Ok(text)
}

fn sync(directory: &Path) -> anyhow::Result<()> {
    std::fs::File::open(directory)
        .and_then(|directory| directory.sync_all())
        .with_context(|| format!("cannot flush {}", directory.display()))
}
