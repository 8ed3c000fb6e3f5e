//! Underlay sockets: UDP in batches, with segmentation offload both ways.
//!
//! A [`Socket`] is non-blocking and shared between threads; block with [`super::wake::Wake::wait`]. Its interface speaks
//! plain IPv4 or IPv6 addresses even where one IPv6 socket serves both. Sending never fails for good: what the network
//! or the kernel refuses is counted in [`Stats`] and told in [`Sent`].

mod bind;
mod faults;
mod group;
mod receive;
mod send;
mod sys;
mod thin;

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::os::fd::{AsFd, BorrowedFd};
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, AtomicUsize, Ordering};

pub use bind::{Bind, BindError, MtuDiscovery, Options};
pub use faults::{Fault, FaultKind};
pub use group::{Group, Steering};
pub use receive::{Batch, Message};
pub use send::{Cursor, Payload, Piece, SEGMENTS_MAX, Sent, Transmit};
pub use thin::{CLASSES, Class, FAMILIAR_MAX, Shares};

/// Most bytes of one UDP datagram over IPv4, and so of one segmented send.
pub const PAYLOAD_MAX_BYTES: usize = 65_507;

/// A UDP socket.
#[derive(Debug)]
pub struct Socket {
    inner: socket2::Socket,
    family: Family,
    local: SocketAddr,
    /// Asks for the local address of what arrives.
    tells_local: bool,
    /// Errors of earlier datagrams come up in later calls.
    reports_errors: bool,
    /// Segments in one send; 1 if the kernel has no segmentation offload or it is turned off.
    segments: AtomicUsize,
    receive_offload: bool,
    /// The kernel drops some of what arrives: see [`Socket::thin`].
    thinning: AtomicBool,
    /// Drops that the kernel told of so far.
    drops_counted: AtomicU32,
    stats: Stats,
}

impl Socket {
    /// The address and port that the socket is bound to; unspecified address if it serves all of them.
    pub fn local_addr(&self) -> SocketAddr {
        self.local
    }

    /// `SO_REUSEPORT`: whether sockets of this user that have it, too, may be bound to the same address from now on.
    fn share_port(&self, share: bool) -> io::Result<()> {
        self.inner.set_reuse_port(share)
    }

    /// Whether `to` can be reached by this socket as far as the address family goes.
    pub fn serves(&self, to: SocketAddr) -> bool {
        match self.family {
            Family::V4 => to.is_ipv4(),
            Family::V6 => to.is_ipv6(),
            Family::Dual => true,
        }
    }

    /// Whether sends and receives carry several datagrams.
    pub fn offloads(&self) -> UdpOffloads {
        UdpOffloads { segmentation: self.segments.load(Ordering::Relaxed) > 1, receive: self.receive_offload }
    }

    /// Turns the kernel's fragmenting on or off.
    ///
    /// # Errors
    /// When the kernel does not know the option.
    pub fn set_mtu_discovery(&self, discovery: MtuDiscovery) -> io::Result<()> {
        bind::set_mtu_discovery(&self.inner, self.family, discovery)
    }

    /// What happened so far.
    pub fn stats(&self) -> &Stats {
        &self.stats
    }

    /// Datagrams that the kernel dropped because this socket's receive buffer was full, since it was made; 0 if the kernel does
    /// not tell. While datagrams are thinned out, those count as thinned as well.
    pub fn kernel_drops(&self) -> u64 {
        self.count_thinned();
        u64::from(self.all_kernel_drops()).saturating_sub(self.stats.thinned.load(Ordering::Relaxed))
    }

    /// `SK_MEMINFO_DROPS`.
    fn all_kernel_drops(&self) -> u32 {
        sys::receive_drops(self.inner.as_fd())
    }
}

impl AsFd for Socket {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.inner.as_fd()
    }
}

/// What the kernel granted.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct UdpOffloads {
    /// `UDP_SEGMENT`: one send of several datagrams of equal size.
    pub segmentation: bool,
    /// `UDP_GRO`: one receive of several datagrams of equal size.
    pub receive: bool,
}

/// Counters of a socket. All only grow.
#[derive(Debug, Default)]
pub struct Stats {
    /// Datagrams sent.
    pub sent: AtomicU64,
    /// Bytes sent, without UDP and IP headers.
    pub sent_bytes: AtomicU64,
    /// System calls that sent something.
    pub send_calls: AtomicU64,
    /// Datagrams received.
    pub received: AtomicU64,
    /// Bytes received, without UDP and IP headers.
    pub received_bytes: AtomicU64,
    /// System calls that received something.
    pub receive_calls: AtomicU64,
    /// Messages that did not fit into the buffer, and so were dropped.
    pub truncated: AtomicU64,
    /// Segmented sends that the kernel refused and that were then sent one by one.
    pub segmentation_refused: AtomicU64,
    /// Datagrams whose source address is not ours any more, sent from another.
    pub source_gone: AtomicU64,
    /// Datagrams lost because there is no way to the destination (`ENETUNREACH`, `EHOSTUNREACH`, ...).
    pub unreachable: AtomicU64,
    /// Datagrams lost because nobody listens there (`ECONNREFUSED`).
    pub refused: AtomicU64,
    /// Datagrams lost because they exceed the path's MTU (`EMSGSIZE`).
    pub too_big: AtomicU64,
    /// Datagrams lost because the kernel's queue was full (`ENOBUFS`).
    pub no_buffers: AtomicU64,
    /// Datagrams lost because a firewall on this machine forbids them (`EPERM`).
    pub forbidden: AtomicU64,
    /// Datagrams lost for any other reason.
    pub other_errors: AtomicU64,
    /// Datagrams of a flood that were dropped so that the rest finds room: see [`Socket::thin`].
    pub thinned: AtomicU64,
    /// Errors that the network told about earlier datagrams.
    pub faults: AtomicU64,
}

impl Stats {
    /// What was lost, by reason.
    pub fn losses(&self) -> impl Iterator<Item = (&'static str, u64)> {
        [
            ("truncated", &self.truncated),
            ("thinned", &self.thinned),
            ("unreachable", &self.unreachable),
            ("refused", &self.refused),
            ("too_big", &self.too_big),
            ("no_buffers", &self.no_buffers),
            ("forbidden", &self.forbidden),
            ("other_errors", &self.other_errors),
        ]
        .map(|(name, counter)| (name, counter.load(Ordering::Relaxed)))
        .into_iter()
    }
}

fn count(counter: &AtomicU64, by: usize) {
    counter.fetch_add(by as u64, Ordering::Relaxed);
}

/// Which addresses a socket can speak to.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Family {
    V4,
    V6,
    /// An IPv6 socket that serves IPv4 by mapped addresses.
    Dual,
}

impl Family {
    fn is_v6_socket(self) -> bool {
        self != Family::V4
    }

    fn may_see_v4(self) -> bool {
        self != Family::V6
    }
}

/// An IPv4-mapped IPv6 address as the IPv4 address that it stands for.
fn plain_ip(ip: IpAddr) -> IpAddr {
    ip.to_canonical()
}

#[cfg(test)]
mod tests;
