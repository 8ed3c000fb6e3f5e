//! Sending: single datagrams, segmented runs, and batches to several destinations.

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::os::fd::AsRawFd;
use std::sync::atomic::Ordering;

use super::sys::{self, Control, Name};
use super::{PAYLOAD_MAX_BYTES, Socket, count};

/// Most datagrams in one segmented send (`UDP_MAX_SEGMENTS` since Linux 6.9; 64 before).
pub const SEGMENTS_MAX: usize = 128;
/// Most messages that one system call sends.
const MESSAGES_MAX: usize = 16;

/// One or more datagrams to one destination.
#[derive(Clone, Copy, Debug)]
pub struct Transmit<'a> {
    /// The destination.
    pub to: SocketAddr,
    /// Our address to send from; `None` lets the kernel choose. If it is not ours any more, the kernel chooses, too.
    pub from: Option<IpAddr>,
    /// TOS or traffic class; 0 is the default.
    pub tos: u8,
    /// Size in bytes of each datagram but the last, which may be shorter. At least 1.
    pub segment: usize,
    /// The datagrams, one after the other; any number.
    pub bytes: &'a [u8],
}

impl<'a> Transmit<'a> {
    /// A single datagram.
    pub fn single(to: SocketAddr, from: Option<IpAddr>, bytes: &'a [u8]) -> Transmit<'a> {
        Transmit { to, from, tos: 0, segment: bytes.len().max(1), bytes }
    }

    fn datagrams(&self) -> usize {
        self.bytes.len().div_ceil(self.segment).max(1)
    }
}

/// What became of a send. Whatever was lost is counted in [`super::Stats`].
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Sent {
    /// The kernel has all of it.
    All,
    /// The kernel's buffer is full after this many bytes (whole datagrams): wait until the socket is writable.
    Blocked(usize),
    /// No way to the destination.
    Unreachable,
    /// Nobody listens at the destination.
    Refused,
    /// Longer than the path's MTU.
    TooBig,
    /// The kernel's queue is full.
    NoBuffers,
    /// A firewall on this machine forbids it.
    Forbidden,
    /// Anything else.
    Failed,
}

/// How far [`Socket::send_many`] has come: start from the default.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Cursor {
    index: usize,
    offset: usize,
}

impl Socket {
    /// Sends, in one system call as far as the kernel's limits allow. Losing is not an error of ours: see [`Sent`].
    pub fn send(&self, transmit: &Transmit<'_>) -> Sent {
        let mut done = 0;
        let mut result = Sent::All;
        loop {
            let limit = self.bytes_in_one_send(transmit.segment);
            let end = (done + limit).min(transmit.bytes.len());
            let part = Transmit { bytes: &transmit.bytes[done..end], ..*transmit };
            match self.send_part(&part) {
                Sent::All => {}
                Sent::Blocked(bytes) => return Sent::Blocked(done + bytes),
                lost => result = lost,
            }
            done = end;
            if done >= transmit.bytes.len() {
                return result;
            }
        }
    }

    /// Sends all of `transmits` in as few system calls as possible, from `cursor` on. True when all are dealt with;
    /// false if the kernel's buffer is full: wait until the socket is writable, and call again with the same cursor.
    pub fn send_many(&self, transmits: &[Transmit<'_>], cursor: &mut Cursor) -> bool {
        while let Some(transmit) = transmits.get(cursor.index) {
            if cursor.offset == 0 {
                let sent = self.send_messages(&transmits[cursor.index..]);
                cursor.index += sent;
                if sent > 0 {
                    continue;
                }
            }
            // One that needs several calls, or one that failed: `send` finds out which.
            let rest = Transmit { bytes: &transmit.bytes[cursor.offset..], ..*transmit };
            match self.send(&rest) {
                Sent::Blocked(bytes) => {
                    cursor.offset += bytes;
                    return false;
                }
                _ => *cursor = Cursor { index: cursor.index + 1, offset: 0 },
            }
        }
        true
    }

    fn bytes_in_one_send(&self, segment: usize) -> usize {
        let segments = self.segments.load(Ordering::Relaxed).min(PAYLOAD_MAX_BYTES / segment.max(1));
        segments.max(1) * segment.max(1)
    }

    /// The leading messages that fit into one system call each; how many were sent. 0 if the first one is too long for
    /// that or failed.
    fn send_messages(&self, transmits: &[Transmit<'_>]) -> usize {
        let empty = libc::mmsghdr { msg_hdr: sys::empty_header(), msg_len: 0 };
        let mut headers = [empty; MESSAGES_MAX];
        let mut parts = [Parts::EMPTY; MESSAGES_MAX];
        let mut filled = 0;
        for ((transmit, part), header) in transmits.iter().zip(&mut parts).zip(&mut headers) {
            if transmit.bytes.len() > self.bytes_in_one_send(transmit.segment) {
                break;
            }
            let Some(built) = self.parts(transmit) else {
                break;
            };
            *part = built;
            header.msg_hdr = part.header();
            filled += 1;
        }
        if filled == 0 {
            return 0;
        }
        // SAFETY: the first `filled` headers point into `parts` and the transmits' bytes, which live over the call and
        // are only read.
        let sent = unsafe {
            libc::sendmmsg(
                self.inner.as_raw_fd(),
                headers.as_mut_ptr(),
                filled as u32,
                (libc::MSG_DONTWAIT | libc::MSG_NOSIGNAL) as _,
            )
        };
        let Ok(sent) = usize::try_from(sent) else {
            return 0;
        };
        let done = &transmits[..sent];
        count(&self.stats.send_calls, 1);
        count(&self.stats.sent, done.iter().map(Transmit::datagrams).sum());
        count(&self.stats.sent_bytes, done.iter().map(|transmit| transmit.bytes.len()).sum());
        sent
    }

    /// One that fits into one system call.
    fn send_part(&self, transmit: &Transmit<'_>) -> Sent {
        let error = match self.send_message(transmit) {
            Ok(()) => return Sent::All,
            Err(error) => error,
        };
        let several = transmit.bytes.len() > transmit.segment;
        match error.raw_os_error() {
            Some(libc::EAGAIN) => Sent::Blocked(0),
            // Not possible on this way (no checksum offload, IPsec) or a segment beyond the MTU; net/ipv4/udp.c,
            // udp_send_skb.
            Some(libc::EIO | libc::EINVAL | libc::EMSGSIZE | libc::EOPNOTSUPP) if several => {
                count(&self.stats.segmentation_refused, 1);
                self.send_one_by_one(transmit)
            }
            // The source is no address of ours any more (net/ipv4/route.c, ip_route_output_key_hash_rcu), or really no
            // way.
            Some(libc::EINVAL | libc::EADDRNOTAVAIL | libc::ENETUNREACH) if transmit.from.is_some() => {
                let sent = self.send_part(&Transmit { from: None, ..*transmit });
                if sent == Sent::All {
                    count(&self.stats.source_gone, transmit.datagrams());
                }
                sent
            }
            _ => self.lost(&error, transmit.datagrams()),
        }
    }

    fn send_one_by_one(&self, transmit: &Transmit<'_>) -> Sent {
        let mut result = Sent::All;
        for (index, bytes) in transmit.bytes.chunks(transmit.segment).enumerate() {
            match self.send_part(&Transmit { bytes, ..*transmit }) {
                Sent::All => {}
                Sent::Blocked(_) => return Sent::Blocked(index * transmit.segment),
                Sent::TooBig => {
                    // The others have the same length.
                    count(&self.stats.too_big, transmit.datagrams() - index - 1);
                    return Sent::TooBig;
                }
                lost => result = lost,
            }
        }
        result
    }

    fn lost(&self, error: &io::Error, datagrams: usize) -> Sent {
        let (counter, sent) = match error.raw_os_error() {
            Some(
                libc::ENETUNREACH
                | libc::EHOSTUNREACH
                | libc::EHOSTDOWN
                | libc::ENETDOWN
                | libc::EADDRNOTAVAIL
                | libc::EAFNOSUPPORT,
            ) => (&self.stats.unreachable, Sent::Unreachable),
            Some(libc::ECONNREFUSED) => (&self.stats.refused, Sent::Refused),
            Some(libc::EMSGSIZE) => (&self.stats.too_big, Sent::TooBig),
            Some(libc::ENOBUFS | libc::ENOMEM) => (&self.stats.no_buffers, Sent::NoBuffers),
            Some(libc::EPERM | libc::EACCES) => (&self.stats.forbidden, Sent::Forbidden),
            _ => (&self.stats.other_errors, Sent::Failed),
        };
        count(counter, datagrams);
        tracing::trace!(%error, datagrams, "not sent");
        sent
    }

    /// One system call, and a second one if the first only brought the fate of an earlier datagram: with error reports
    /// on, the kernel gives a pending ICMP error to whoever calls next.
    fn send_message(&self, transmit: &Transmit<'_>) -> io::Result<()> {
        let Some(parts) = self.parts(transmit) else {
            return Err(io::Error::from_raw_os_error(libc::EAFNOSUPPORT));
        };
        let mut may_be_old = self.reports_errors;
        loop {
            let header = parts.header();
            // SAFETY: the header points into `parts` and the transmit's bytes, which live over the call and are only
            // read.
            let sent = unsafe {
                libc::sendmsg(
                    self.inner.as_raw_fd(),
                    &raw const header,
                    libc::MSG_DONTWAIT | libc::MSG_NOSIGNAL,
                )
            };
            if sent >= 0 {
                count(&self.stats.send_calls, 1);
                count(&self.stats.sent, transmit.datagrams());
                count(&self.stats.sent_bytes, transmit.bytes.len());
                return Ok(());
            }
            let error = io::Error::last_os_error();
            match error.raw_os_error() {
                Some(libc::EINTR) => {}
                Some(
                    libc::ECONNREFUSED
                    | libc::EHOSTUNREACH
                    | libc::ENETUNREACH
                    | libc::EHOSTDOWN
                    | libc::EMSGSIZE
                    | libc::EPROTO
                    | libc::EACCES
                    | libc::ENOPROTOOPT
                    | libc::EOPNOTSUPP,
                ) if may_be_old => may_be_old = false,
                _ => return Err(error),
            }
        }
    }

    fn parts<'a>(&self, transmit: &Transmit<'a>) -> Option<Parts<'a>> {
        let (name, name_len) = Name::new(transmit.to, self.family)?;
        let mut control = Control::EMPTY;
        if transmit.bytes.len() > transmit.segment {
            let segment = u16::try_from(transmit.segment).ok()?;
            control.push(libc::SOL_UDP, libc::UDP_SEGMENT, &segment.to_ne_bytes());
        }
        match transmit.from {
            Some(from) if !from.is_unspecified() && from.is_ipv4() == transmit.to.is_ipv4() => {
                sys::push_source(&mut control, from);
            }
            _ => {}
        }
        if transmit.tos != 0 {
            let tos = i32::from(transmit.tos).to_ne_bytes();
            match transmit.to {
                SocketAddr::V4(_) => control.push(libc::IPPROTO_IP, libc::IP_TOS, &tos),
                SocketAddr::V6(_) => control.push(libc::IPPROTO_IPV6, libc::IPV6_TCLASS, &tos),
            }
        }
        let vector = libc::iovec {
            iov_base: transmit.bytes.as_ptr().cast_mut().cast(),
            iov_len: transmit.bytes.len(),
        };
        Some(Parts { name, name_len, control, vector, bytes: std::marker::PhantomData })
    }
}

/// What a message header points to.
#[derive(Clone, Copy)]
struct Parts<'a> {
    name: Name,
    name_len: u32,
    control: Control,
    vector: libc::iovec,
    bytes: std::marker::PhantomData<&'a [u8]>,
}

impl Parts<'_> {
    const EMPTY: Parts<'static> = Parts {
        name: Name::EMPTY,
        name_len: 0,
        control: Control::EMPTY,
        vector: libc::iovec { iov_base: std::ptr::null_mut(), iov_len: 0 },
        bytes: std::marker::PhantomData,
    };

    /// A header for sending, which only reads through its pointers; valid as long as `self` stays where it is.
    fn header(&self) -> libc::msghdr {
        let mut header = sys::empty_header();
        header.msg_name = (&raw const self.name).cast_mut().cast();
        header.msg_namelen = self.name_len;
        header.msg_iov = (&raw const self.vector).cast_mut();
        header.msg_iovlen = 1;
        if self.control.len() > 0 {
            header.msg_control = self.control.as_ptr().cast_mut().cast();
            header.msg_controllen = self.control.len() as _;
        }
        header
    }
}
