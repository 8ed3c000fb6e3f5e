//! Asking the daemon.

use std::io::{self, BufRead, BufReader, Read, Write};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::time::Duration;

use super::{Answer, Line, MAX_LINE_BYTES, Refusal, Request, VERSION};

/// How long an answer may take on top of what the request itself waits for.
const PATIENCE: Duration = Duration::from_secs(10);

/// Why an answer could not be had.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// Nobody listens.
    #[error(
        "the daemon is not running: nobody answers at {0}. Start it with `systemctl start meshd` or `meshd up`; \
         if its state is elsewhere, say where with --state"
    )]
    NotRunning(PathBuf),
    /// The socket is closed to us.
    #[error(
        "you may not talk to the daemon at {0}: run this as root, or as a member of the group that owns the socket"
    )]
    NotPermitted(PathBuf),
    /// The daemon went away or does not answer.
    #[error("the daemon at {path} did not answer")]
    Broken {
        /// The socket.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// The daemon is another version.
    #[error("the daemon at {0} speaks another version: restart it after an upgrade")]
    Version(PathBuf),
    /// The daemon says no.
    #[error(transparent)]
    Refused(#[from] Refusal),
}

/// A connection to the daemon.
#[derive(Debug)]
pub struct Client {
    path: PathBuf,
    patience: Duration,
    stream: BufReader<UnixStream>,
}

impl Client {
    /// Connects to the socket at `path`.
    ///
    /// # Errors
    /// [`Error::NotRunning`] or [`Error::NotPermitted`].
    pub fn connect(path: &Path) -> Result<Client, Error> {
        match UnixStream::connect(path) {
            Ok(stream) => {
                Ok(Client { path: path.to_owned(), patience: PATIENCE, stream: BufReader::new(stream) })
            }
            Err(error) if error.kind() == io::ErrorKind::PermissionDenied => {
                Err(Error::NotPermitted(path.to_owned()))
            }
            Err(_) => Err(Error::NotRunning(path.to_owned())),
        }
    }

    /// Waits at most so long for answers, on top of what a request itself waits for.
    pub fn set_patience(&mut self, patience: Duration) {
        self.patience = patience;
    }

    /// Asks and waits for the answer.
    ///
    /// # Errors
    /// [`Error`]; a refusal is an error too.
    pub fn ask(&mut self, request: Request) -> Result<Answer, Error> {
        let wait = match &request {
            Request::Ping { timeout_ms, .. } => self.patience + Duration::from_millis(u64::from(*timeout_ms)),
            _ => self.patience,
        };
        let text = self
            .exchange(request, wait)
            .map_err(|source| Error::Broken { path: self.path.clone(), source })?;
        // Look at the version alone first: the rest may have changed beyond reading.
        let version = serde_json::from_str::<VersionOnly>(&text).map(|line| line.v);
        if version.ok() != Some(VERSION) {
            return Err(Error::Version(self.path.clone()));
        }
        match serde_json::from_str::<Line<Answer>>(&text) {
            Ok(Line { body: Answer::Error(refusal), .. }) => Err(refusal.into()),
            Ok(line) => Ok(line.body),
            Err(_) => Err(Error::Version(self.path.clone())),
        }
    }

    /// The error for an answer to another question.
    pub fn astray(&self) -> Error {
        Error::Version(self.path.clone())
    }

    fn exchange(&mut self, request: Request, wait: Duration) -> io::Result<String> {
        let mut line = serde_json::to_vec(&Line::new(request))?;
        line.push(b'\n');
        let stream = self.stream.get_mut();
        stream.set_read_timeout(Some(wait))?;
        stream.set_write_timeout(Some(wait))?;
        stream.write_all(&line)?;
        let mut text = String::new();
        (&mut self.stream).take(MAX_LINE_BYTES as u64).read_line(&mut text)?;
        if text.ends_with('\n') { Ok(text) } else { Err(io::ErrorKind::UnexpectedEof.into()) }
    }
}

#[derive(serde::Deserialize)]
struct VersionOnly {
    v: u32,
}
