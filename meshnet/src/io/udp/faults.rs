//! What the network tells about datagrams that did not arrive (ICMP errors, from the socket's error queue; ip(7),
//! `IP_RECVERR`).
//!
//! Anybody on the way can forge ICMP: a fault is a reason to probe at once, never a proof.

use std::net::{IpAddr, SocketAddr};
use std::os::fd::AsRawFd;

use super::sys::{self, CONTROL_BYTES, Control, NAME_BYTES, Name};
use super::{Socket, count};

/// Most faults that one call reads.
const FAULTS_MAX: usize = 64;

/// One datagram did not arrive.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Fault {
    /// Where it was sent to.
    pub remote: SocketAddr,
    /// Why it did not arrive.
    pub kind: FaultKind,
    /// Who says so: the destination itself or a router; `None` if this machine.
    pub reporter: Option<IpAddr>,
}

/// Why a datagram did not arrive.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum FaultKind {
    /// The machine is there, but nobody listens on the port.
    Refused,
    /// There is no way to the machine or network, or it is forbidden.
    Unreachable,
    /// It exceeds the MTU somewhere on the way.
    TooBig {
        /// That MTU in bytes, IP header included; 0 if it was not told.
        mtu: u32,
    },
    /// Anything else.
    Other,
}

impl Socket {
    /// Reads the pending faults without blocking and gives each to `tell`; returns their number, at most 64 a call. To
    /// be called when polling reports an error on the socket: it does until the queue is read.
    pub fn read_faults(&self, mut tell: impl FnMut(Fault)) -> usize {
        for read in 0..FAULTS_MAX {
            match self.read_fault() {
                Queue::Empty => return read,
                Queue::Unknown => {}
                Queue::Fault(fault) => tell(fault),
            }
            count(&self.stats.faults, 1);
        }
        FAULTS_MAX
    }

    fn read_fault(&self) -> Queue {
        let mut name = Name::EMPTY;
        let mut control = Control::EMPTY;
        // The head of the lost datagram; of no use.
        let mut bytes = [0u8; 64];
        let mut vector = libc::iovec { iov_base: bytes.as_mut_ptr().cast(), iov_len: bytes.len() };
        let mut header = sys::empty_header();
        header.msg_name = (&raw mut name).cast();
        header.msg_namelen = NAME_BYTES as u32;
        header.msg_iov = &raw mut vector;
        header.msg_iovlen = 1;
        header.msg_control = control.as_mut_ptr().cast();
        header.msg_controllen = CONTROL_BYTES as _;
        // SAFETY: the header points to a name, a vector, a buffer and control space of the lengths told, which live
        // over the call and are not looked at meanwhile.
        let received = unsafe {
            libc::recvmsg(self.inner.as_raw_fd(), &raw mut header, libc::MSG_ERRQUEUE | libc::MSG_DONTWAIT)
        };
        if received < 0 {
            return Queue::Empty;
        }
        let Some(remote) = name.read(header.msg_namelen as usize) else {
            return Queue::Unknown;
        };
        for (level, kind, payload) in control.read(sys::control_len(&header)) {
            let is_error = matches!(
                (level, kind),
                (libc::IPPROTO_IP, libc::IP_RECVERR) | (libc::IPPROTO_IPV6, libc::IPV6_RECVERR)
            );
            if let (true, Some(error)) = (is_error, sys::read_extended_error(payload)) {
                let reporter = error.offender.map(super::plain_ip).filter(|ip| !ip.is_unspecified());
                return Queue::Fault(Fault { remote, kind: kind_of(error.errno, error.info), reporter });
            }
        }
        Queue::Unknown
    }
}

enum Queue {
    Empty,
    Unknown,
    Fault(Fault),
}

fn kind_of(errno: i32, info: u32) -> FaultKind {
    match errno {
        libc::ECONNREFUSED => FaultKind::Refused,
        libc::EHOSTUNREACH | libc::ENETUNREACH | libc::EHOSTDOWN | libc::EACCES | libc::ENETDOWN => {
            FaultKind::Unreachable
        }
        libc::EMSGSIZE => FaultKind::TooBig { mtu: info },
        _ => FaultKind::Other,
    }
}

/// Whether an error that a call gives may be the fate of an earlier datagram.
pub(super) fn may_be_earlier(errno: i32) -> bool {
    matches!(
        errno,
        libc::ECONNREFUSED
            | libc::EHOSTUNREACH
            | libc::ENETUNREACH
            | libc::EHOSTDOWN
            | libc::EMSGSIZE
            | libc::EPROTO
            | libc::EACCES
            | libc::ENOPROTOOPT
            | libc::EOPNOTSUPP
    )
}
