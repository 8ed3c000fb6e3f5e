//! Answering on the control socket.
//!
//! Connections only read lines and carry them to the daemon's loop through a bounded channel; what is asked is decided
//! there, by the one owner of the node.

use std::io;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::{Semaphore, mpsc, oneshot};
use tracing::debug;

use super::{Access, Answer, Line, MAX_REQUEST_BYTES, Refusal, Request, VERSION};
use crate::exit;

/// Most connections at a time; more wait in the socket's backlog.
const MAX_CONNECTIONS: usize = 32;
/// A connection that asks nothing for so long is closed.
const IDLE_LIMIT: Duration = Duration::from_secs(300);
/// Longest path of a unix socket (`sun_path` in unix(7)), without its terminator.
const MAX_PATH_BYTES: usize = 107;

/// One request on its way to the daemon's loop.
#[derive(Debug)]
pub struct Call {
    /// What is asked; the caller may ask it.
    pub request: Request,
    /// Where the answer goes.
    pub reply: oneshot::Sender<Answer>,
}

/// Binds the socket at `path`, replacing what a dead daemon left. The caller holds the state directory's lock.
///
/// # Errors
/// What the system says.
pub fn bind(path: &Path) -> io::Result<UnixListener> {
    let length = path.as_os_str().len();
    if length > MAX_PATH_BYTES {
        let message = format!(
            "its path has {length} bytes, a socket's can have {MAX_PATH_BYTES}: choose a shorter --state"
        );
        return Err(io::Error::new(io::ErrorKind::InvalidFilename, message));
    }
    match std::fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    let listener = UnixListener::bind(path)?;
    // Nobody else can get at it before: the directory is closed to others.
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o660))?;
    if let Some(directory) = path.parent() {
        let group = std::os::unix::fs::MetadataExt::gid(&std::fs::metadata(directory)?);
        // Without the right to, it stays in our own group.
        let _ = std::os::unix::fs::chown(path, None, Some(group));
    }
    Ok(listener)
}

/// Removes the socket when the daemon ends.
#[derive(Debug)]
pub struct Unlink(pub PathBuf);

impl Drop for Unlink {
    fn drop(&mut self) {
        // The next daemon replaces it anyway.
        let _ = std::fs::remove_file(&self.0);
    }
}

/// Serves connections until the receiver of `calls` is gone.
pub async fn serve(listener: UnixListener, calls: mpsc::Sender<Call>) {
    let places = Arc::new(Semaphore::new(MAX_CONNECTIONS));
    while let Ok(place) = places.clone().acquire_owned().await {
        let stream = tokio::select! {
            accepted = listener.accept() => match accepted {
                Ok((stream, _)) => stream,
                Err(error) => {
                    // Out of file descriptors, most likely: leave time for some to come back.
                    debug!(%error, "cannot accept on the control socket");
                    tokio::time::sleep(Duration::from_secs(1)).await;
                    continue;
                }
            },
            () = calls.closed() => return,
        };
        let calls = calls.clone();
        tokio::spawn(async move {
            if let Err(error) = converse(stream, calls).await {
                debug!(%error, "control connection ended");
            }
            drop(place);
        });
    }
}

async fn converse(stream: UnixStream, calls: mpsc::Sender<Call>) -> io::Result<()> {
    let access = access_of(stream.peer_cred()?.uid());
    let (reader, mut writer) = stream.into_split();
    let mut reader = BufReader::with_capacity(MAX_REQUEST_BYTES, reader);
    let mut line = Vec::new();
    loop {
        line.clear();
        let mut bounded = (&mut reader).take(MAX_REQUEST_BYTES as u64);
        match tokio::time::timeout(IDLE_LIMIT, bounded.read_until(b'\n', &mut line)).await {
            Ok(Ok(0)) | Err(_) => return Ok(()),
            Ok(read) => read?,
        };
        let whole = line.last() == Some(&b'\n');
        let answer = if whole {
            answer(&line, access, &calls).await
        } else {
            refuse(exit::USAGE, "a request is one line of at most 4096 bytes")
        };
        let mut text = serde_json::to_vec(&Line::new(answer))?;
        text.push(b'\n');
        writer.write_all(&text).await?;
        if !whole {
            return Ok(());
        }
    }
}

async fn answer(line: &[u8], access: Access, calls: &mpsc::Sender<Call>) -> Answer {
    let request = match read_request(line, access) {
        Ok(request) => request,
        Err(refusal) => return Answer::Error(refusal),
    };
    let (reply, answered) = oneshot::channel();
    if calls.send(Call { request, reply }).await.is_err() {
        return refuse(exit::UNAVAILABLE, "the daemon is shutting down");
    }
    answered.await.unwrap_or_else(|_| refuse(exit::UNAVAILABLE, "the daemon is shutting down"))
}

/// What a line asks, if its sender may ask it.
///
/// # Errors
/// What the sender is told.
pub fn read_request(line: &[u8], access: Access) -> Result<Request, Refusal> {
    let refusal = |code, message| Refusal { code, message };
    let line: Line<Request> = serde_json::from_slice(line)
        .map_err(|error| refusal(exit::USAGE, format!("this daemon does not know the request: {error}")))?;
    if line.v != VERSION {
        return Err(refusal(exit::FAILED, format!("this daemon speaks version {VERSION}, not {}", line.v)));
    }
    if line.body.needs() > access {
        let message = "only root, or the user that the daemon runs as, may do this".to_owned();
        return Err(refusal(exit::NOT_PERMITTED, message));
    }
    Ok(line.body)
}

/// An error answer.
pub fn refuse(code: u8, message: impl Into<String>) -> Answer {
    Answer::Error(Refusal { code, message: message.into() })
}

fn access_of(user: u32) -> Access {
    if user == 0 || user == nix::unistd::geteuid().as_raw() { Access::Admin } else { Access::Read }
}

#[cfg(test)]
mod tests {
    use super::super::client::{Client, Error};
    use super::*;

    fn runtime() -> tokio::runtime::Runtime {
        tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap()
    }

    #[test]
    fn a_request_is_carried_to_the_loop_and_its_answer_back() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("meshd.sock");
        runtime().block_on(async {
            let (calls, mut inbox) = mpsc::channel(1);
            tokio::spawn(serve(bind(&path).unwrap(), calls));
            let asking = tokio::task::spawn_blocking(move || {
                let mut client = Client::connect(&path).unwrap();
                (client.ask(Request::Reload), client.ask(Request::Status))
            });
            for answer in [Answer::Done { notes: vec!["n".into()] }, refuse(exit::FAILED, "no")] {
                let call: Call = inbox.recv().await.unwrap();
                call.reply.send(answer).unwrap();
            }
            let (first, second) = asking.await.unwrap();
            assert_eq!(first.unwrap(), Answer::Done { notes: vec!["n".into()] });
            assert!(matches!(second, Err(Error::Refused(refusal)) if refusal.code == exit::FAILED));
        });
    }

    #[test]
    fn nonsense_and_long_lines_get_an_answer() {
        use std::io::{Read, Write};
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("meshd.sock");
        runtime().block_on(async {
            let (calls, _inbox) = mpsc::channel(1);
            tokio::spawn(serve(bind(&path).unwrap(), calls));
            for line in [
                b"{}\n".to_vec(),
                b"{\"v\":9,\"verb\":\"status\"}\n".to_vec(),
                vec![b'x'; 2 * MAX_REQUEST_BYTES],
            ] {
                let path = path.clone();
                let answer = tokio::task::spawn_blocking(move || {
                    let mut stream = std::os::unix::net::UnixStream::connect(path).unwrap();
                    // The server may close before all of the long line is written.
                    let _ = stream.write_all(&line);
                    let _ = stream.shutdown(std::net::Shutdown::Write);
                    let mut text = Vec::new();
                    let _ = stream.read_to_end(&mut text);
                    String::from_utf8(text).unwrap()
                });
                let answer = answer.await.unwrap();
                assert!(answer.is_empty() || answer.contains("\"answer\":\"error\""), "{answer}");
            }
        });
    }

    #[test]
    fn nobody_listening_is_told_apart() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("meshd.sock");
        assert!(matches!(Client::connect(&path), Err(Error::NotRunning(_))));
        drop(runtime().block_on(async { bind(&path).unwrap() }));
        assert!(matches!(Client::connect(&path), Err(Error::NotRunning(_))));
        let long = directory.path().join("x".repeat(120));
        assert_eq!(
            runtime().block_on(async { bind(&long).unwrap_err().kind() }),
            io::ErrorKind::InvalidFilename
        );
    }

    #[test]
    fn only_root_and_the_daemons_user_may_change_things() {
        assert_eq!(access_of(0), Access::Admin);
        assert_eq!(access_of(nix::unistd::geteuid().as_raw()), Access::Admin);
        assert_eq!(access_of(54_321), Access::Read);
        assert!(Request::Reload.needs() > Access::Read);
    }
}
