//! How datagrams from TCP connections come in: as those do that another lane's thread received.

use std::sync::Arc;

use proto::lane;

use super::Shared;
use super::inbox::Stray;
use super::report::Report;
use crate::daemon::streams::{Inlet, Key};

/// The lanes, as the thread of connections sees them.
#[derive(Clone)]
pub(super) struct LanesInlet(pub(super) Arc<Shared>);

impl Inlet for LanesInlet {
    fn give(&self, (socket, from): Key, bytes: Vec<u8>) -> Result<usize, Vec<u8>> {
        let thread = usize::from(lane::queue_of(&bytes)) % self.0.receivers;
        let stray = Stray { socket, from, local: None, tos: 0, bytes };
        self.0.inboxes.give(thread, stray).map(|()| thread).map_err(|stray| stray.bytes)
    }

    fn wake(&self, threads: u32) {
        for (number, wake) in self.0.wakes[..self.0.receivers].iter().enumerate() {
            if threads & (1 << number) != 0 {
                wake.wake();
            }
        }
    }

    fn closed(&self, (socket, remote): Key) {
        self.0.reporter.tell(Report::StreamClosed { socket, remote });
    }
}
