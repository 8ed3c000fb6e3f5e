//! Between receiving threads: datagrams that came to a thread to whose lanes they do not belong.
//!
//! The kernel steers by the first datagram of what it has put together, and puts together what came in a row from one
//! sender, of whichever lanes. So at the seam between two lanes' bursts a few datagrams come to the wrong socket. They are
//! handed over by bounded queues that never block. What comes over TCP is handed in the same way.

use std::net::{IpAddr, SocketAddr};
use std::sync::mpsc::{Receiver, SyncSender, TrySendError, sync_channel};

use meshnet::path::SocketId;

/// Room in each queue, in datagrams.
const INBOX_LEN: usize = 512;

/// A datagram for another thread.
#[derive(Debug)]
pub(super) struct Stray {
    /// The listen address that it came to.
    pub(super) socket: SocketId,
    /// Who sent it.
    pub(super) from: SocketAddr,
    /// Our address that it was sent to, where that is told.
    pub(super) local: Option<IpAddr>,
    /// TOS or traffic class.
    pub(super) tos: u8,
    /// The datagram.
    pub(super) bytes: Vec<u8>,
}

/// The sending ends, by receiving thread.
pub(super) struct Inboxes(Vec<SyncSender<Stray>>);

impl Inboxes {
    /// Queues for so many threads, and their receiving ends.
    pub(super) fn new(threads: usize) -> (Inboxes, Vec<Receiver<Stray>>) {
        let (senders, receivers) = (0..threads).map(|_| sync_channel(INBOX_LEN)).unzip();
        (Inboxes(senders), receivers)
    }

    /// Hands over; gives it back if there is no room. The thread still has to be woken.
    pub(super) fn give(&self, thread: usize, stray: Stray) -> Result<(), Stray> {
        self.0[thread].try_send(stray).map_err(|error| match error {
            TrySendError::Full(stray) | TrySendError::Disconnected(stray) => stray,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_has_no_room_is_refused_and_nothing_blocks() {
        let stray = |number: usize| Stray {
            socket: SocketId(0),
            from: SocketAddr::from(([192, 0, 2, 1], 1)),
            local: None,
            tos: 0,
            bytes: number.to_be_bytes().to_vec(),
        };
        let (inboxes, receivers) = Inboxes::new(2);
        let taken = (0..2 * INBOX_LEN).filter(|number| inboxes.give(1, stray(*number)).is_ok()).count();
        assert_eq!(taken, INBOX_LEN);
        assert!(inboxes.give(0, stray(7)).is_ok(), "the other's is empty");
        let order: Vec<_> = receivers[1].try_iter().map(|stray| stray.bytes).collect();
        assert_eq!(order, (0..INBOX_LEN).map(|number| number.to_be_bytes().to_vec()).collect::<Vec<_>>());
    }
}
