//! From the data plane up to the control plane: a bounded channel in which the unauthenticated cannot crowd out the rest.

use std::net::SocketAddr;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use meshnet::io::udp::Fault;
use meshnet::node::Inbound;
use meshnet::path::SocketId;
use tokio::sync::mpsc;
use tokio::sync::mpsc::error::TrySendError;

/// Room in the channel.
pub const CHANNEL_LEN: usize = 1024;
/// What anybody can cause (handshake and join datagrams, ICMP) may fill this much of it.
const UNAUTHENTICATED_MAX: usize = CHANNEL_LEN / 2;
/// What local programs can cause (first packets) may fill it up to here.
const LOCAL_MAX: usize = CHANNEL_LEN * 3 / 4;

/// Something for the control plane.
#[derive(Debug)]
pub enum Report {
    /// For [`meshnet::node::Node::handle_inbound`].
    Inbound(Inbound),
    /// The network says that a datagram did not arrive. Forgeable: a reason to probe at once, nothing more.
    Fault {
        /// The socket that had sent it.
        socket: SocketId,
        /// What is known.
        fault: Fault,
    },
    /// A TCP connection ended, or could not be made.
    StreamClosed {
        /// How it was made.
        socket: SocketId,
        /// The other end.
        remote: SocketAddr,
    },
    /// The overlay interface was deleted: nothing can be carried any more.
    DeviceGone,
}

/// The sending end of the channel.
pub(super) struct Reporter {
    channel: mpsc::Sender<Report>,
    drops: [AtomicU64; 3],
}

/// Who can cause a report, from the least to the most trusted.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Class {
    Unauthenticated,
    Local,
    Authenticated,
}

impl Reporter {
    pub(super) fn new(channel: mpsc::Sender<Report>) -> Reporter {
        Reporter { channel, drops: Default::default() }
    }

    /// Hands up, or drops and counts if there is no room for that class. Never blocks.
    pub(super) fn tell(&self, report: Report) {
        let class = class_of(&report);
        let waiting = self.channel.max_capacity() - self.channel.capacity();
        if waiting >= class.limit(self.channel.max_capacity()) || self.channel.try_send(report).is_err() {
            self.drops[class as usize].fetch_add(1, Ordering::Relaxed);
        }
    }

    /// Hands up what must not get lost: waits for room until `give_up` says so.
    pub(super) fn insist(&self, report: Report, give_up: impl Fn() -> bool) {
        let mut report = report;
        while let Err(TrySendError::Full(back)) = self.channel.try_send(report) {
            if give_up() {
                return;
            }
            report = back;
            std::thread::sleep(Duration::from_millis(5));
        }
    }

    /// Reports that were dropped, by class.
    pub(super) fn drops(&self) -> [(&'static str, u64); 3] {
        [Class::Unauthenticated, Class::Local, Class::Authenticated]
            .map(|class| (class.name(), self.drops[class as usize].load(Ordering::Relaxed)))
    }
}

impl Class {
    fn limit(self, channel_len: usize) -> usize {
        match self {
            Class::Unauthenticated => channel_len * UNAUTHENTICATED_MAX / CHANNEL_LEN,
            Class::Local => channel_len * LOCAL_MAX / CHANNEL_LEN,
            Class::Authenticated => channel_len,
        }
    }

    fn name(self) -> &'static str {
        match self {
            Class::Unauthenticated => "handup_unauthenticated",
            Class::Local => "handup_local",
            Class::Authenticated => "handup_authenticated",
        }
    }
}

fn class_of(report: &Report) -> Class {
    match report {
        Report::Inbound(Inbound::Datagram { .. }) | Report::Fault { .. } => Class::Unauthenticated,
        Report::Inbound(Inbound::Packet(_)) => Class::Local,
        // Anybody can make and close connections to us.
        Report::StreamClosed { socket: SocketId::ACCEPTED, .. } => Class::Unauthenticated,
        Report::Inbound(Inbound::Control { .. } | Inbound::Notice(_) | Inbound::Active(_))
        | Report::StreamClosed { .. }
        | Report::DeviceGone => Class::Authenticated,
    }
}

#[cfg(test)]
mod tests {
    use meshnet::dataplane::Via;
    use meshnet::dataplane::snapshot::MemberSlot;

    use super::*;

    #[test]
    fn a_flood_of_strangers_leaves_room_for_the_others() {
        let (sender, mut receiver) = mpsc::channel(CHANNEL_LEN);
        let reporter = Reporter::new(sender);
        let via = Via::Direct { socket: SocketId(0), from: "192.0.2.1:9".parse().unwrap() };
        for _ in 0..2 * CHANNEL_LEN {
            reporter.tell(Report::Inbound(Inbound::Datagram { via, bytes: Vec::new() }));
        }
        for _ in 0..2 * CHANNEL_LEN {
            reporter.tell(Report::Inbound(Inbound::Packet(Vec::new())));
        }
        for _ in 0..10 {
            reporter.tell(Report::Inbound(Inbound::Active(MemberSlot(1))));
        }
        let [strangers, local, authenticated] = reporter.drops().map(|(_, count)| count as usize);
        assert_eq!(strangers, 2 * CHANNEL_LEN - UNAUTHENTICATED_MAX);
        assert_eq!(local, 2 * CHANNEL_LEN - (LOCAL_MAX - UNAUTHENTICATED_MAX));
        assert_eq!(authenticated, 0);
        let mut told = 0;
        while receiver.try_recv().is_ok() {
            told += 1;
        }
        assert_eq!(told, LOCAL_MAX + 10);
    }
}
