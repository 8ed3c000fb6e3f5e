//! Between an engine and whoever asks it: what is asked is written down, and handed on unchanged.

use std::io::{Read, Write};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use crate::net::done;

/// The requests that an engine got: method and path.
#[derive(Clone, Default)]
pub struct Recorder(Arc<Mutex<Vec<String>>>);

impl Recorder {
    /// Steps between the engine that listens at `socket` and everybody who connects from now on.
    ///
    /// # Panics
    /// When the socket cannot be moved.
    pub fn before(socket: &Path) -> Recorder {
        let behind: PathBuf = socket.with_extension("behind");
        done(std::fs::rename(socket, &behind));
        let listener = done(UnixListener::bind(socket));
        let recorder = Recorder::default();
        let heard = recorder.clone();
        std::thread::spawn(move || {
            for near in listener.incoming().flatten() {
                let Ok(far) = UnixStream::connect(&behind) else { continue };
                let (Ok(near_back), Ok(far_back)) = (near.try_clone(), far.try_clone()) else { continue };
                let heard = heard.clone();
                std::thread::spawn(move || copy(near, far, Some(&heard)));
                std::thread::spawn(move || copy(far_back, near_back, None));
            }
        });
        recorder
    }

    /// What was asked since the last call.
    pub fn take(&self) -> Vec<String> {
        std::mem::take(&mut *self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

fn copy(mut from: UnixStream, mut to: UnixStream, heard: Option<&Recorder>) {
    let mut buffer = [0; 16 << 10];
    let mut tail = Vec::new();
    while let Ok(length @ 1..) = from.read(&mut buffer) {
        if let Some(recorder) = heard {
            tail.extend_from_slice(&buffer[..length]);
            // A request's first line, wherever it stands; what may still grow is looked at again.
            let text = String::from_utf8_lossy(&tail).into_owned();
            let whole = text.rfind('\n').map_or(0, |end| end + 1);
            for line in text[..whole].lines().filter(|line| line.contains(" HTTP/1.")) {
                let request = line.rsplit_once(" HTTP/1.").map_or(line, |(request, _)| request);
                recorder.0.lock().unwrap_or_else(PoisonError::into_inner).push(request.to_owned());
            }
            tail = text.as_bytes()[whole..].to_vec();
        }
        if to.write_all(&buffer[..length]).is_err() {
            break;
        }
    }
    let _ = to.shutdown(std::net::Shutdown::Write);
}
