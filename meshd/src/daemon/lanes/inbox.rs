//! Between receiving threads: datagrams that came to a thread to whose lanes they do not belong.
//!
//! The kernel steers by the first datagram of what it has put together, and puts together what came in a row from one
//! sender, of whichever lanes. So at the seam between two lanes' bursts a few datagrams come to the wrong socket. They are
//! handed over by bounded queues that never block.

use std::net::{IpAddr, SocketAddr};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};

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
        // A thread that receives for all has nobody to hear from.
        let room = if threads > 1 { INBOX_LEN } else { 0 };
        let (senders, receivers) = (0..threads).map(|_| sync_channel(room)).unzip();
        (Inboxes(senders), receivers)
    }

    /// Hands over; `false` if there is no room. The thread still has to be woken.
    pub(super) fn give(&self, thread: usize, stray: Stray) -> bool {
        self.0[thread].try_send(stray).is_ok()
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
        let taken = (0..2 * INBOX_LEN).filter(|number| inboxes.give(1, stray(*number))).count();
        assert_eq!(taken, INBOX_LEN);
        assert!(inboxes.give(0, stray(7)), "the other's is empty");
        let order: Vec<_> = receivers[1].try_iter().map(|stray| stray.bytes).collect();
        assert_eq!(order, (0..INBOX_LEN).map(|number| number.to_be_bytes().to_vec()).collect::<Vec<_>>());
        let (alone, _receivers) = Inboxes::new(1);
        assert!(!alone.give(0, stray(1)));
    }
}
