//! Sending: single datagrams, segmented runs, and batches to several destinations.

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::ops::Range;
use std::os::fd::AsRawFd;
use std::sync::atomic::Ordering;

use super::faults::may_be_earlier;
use super::sys::{self, Control, Name};
use super::{PAYLOAD_MAX_BYTES, Socket, count};

/// Most datagrams in one segmented send (`UDP_MAX_SEGMENTS` since Linux 6.9; 64 before).
pub const SEGMENTS_MAX: usize = 128;
/// Most messages that one system call sends.
const MESSAGES_MAX: usize = 16;
/// Most pieces in the messages that one system call sends.
const VECTORS_MAX: usize = 256;
/// Most errors in a row that count as the fate of earlier datagrams.
const OLD_ERRORS_MAX: usize = 16;

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
    /// The datagrams; any number.
    pub payload: Payload<'a>,
}

impl<'a> Transmit<'a> {
    /// A single datagram.
    pub fn single(to: SocketAddr, from: Option<IpAddr>, bytes: &'a [u8]) -> Transmit<'a> {
        Transmit { to, from, tos: 0, segment: bytes.len().max(1), payload: Payload::Whole(bytes) }
    }

    /// Datagrams of `segment` bytes, one after the other; the last may be shorter.
    pub fn run(to: SocketAddr, from: Option<IpAddr>, segment: usize, bytes: &'a [u8]) -> Transmit<'a> {
        Transmit { to, from, tos: 0, segment: segment.max(1), payload: Payload::Whole(bytes) }
    }
}

/// Where the datagrams of a [`Transmit`] lie.
#[derive(Clone, Copy, Debug)]
pub enum Payload<'a> {
    /// One after the other.
    Whole(&'a [u8]),
    /// Scattered over a buffer. Each piece has one or more datagrams of full size; only the last piece's last datagram
    /// may be shorter.
    Pieces {
        /// The buffer.
        buffer: &'a [u8],
        /// The pieces in the order of sending; their bounds must lie in the buffer.
        pieces: &'a [Piece],
    },
}

impl<'a> Payload<'a> {
    /// Length of all datagrams in bytes.
    #[allow(clippy::len_without_is_empty, reason = "a payload without bytes is one empty datagram")]
    pub fn len(&self) -> usize {
        match self {
            Payload::Whole(bytes) => bytes.len(),
            Payload::Pieces { pieces, .. } => pieces.iter().map(|piece| piece.len as usize).sum(),
        }
    }

    fn piece(&self, index: usize) -> Option<&'a [u8]> {
        match self {
            Payload::Whole(bytes) => (index == 0).then_some(bytes),
            Payload::Pieces { buffer, pieces } => pieces.get(index).map(|piece| &buffer[piece.range()]),
        }
    }
}

/// Part of a buffer.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Piece {
    /// First byte.
    pub start: u32,
    /// Length in bytes.
    pub len: u32,
}

impl Piece {
    /// The piece as a range.
    pub fn range(self) -> Range<usize> {
        self.start as usize..self.start as usize + self.len as usize
    }
}

impl Cursor {
    /// Datagrams of `transmits` that are not dealt with yet.
    pub fn left(&self, transmits: &[Transmit<'_>]) -> usize {
        let mut left = 0;
        for (index, transmit) in transmits.iter().enumerate().skip(self.index) {
            let offset = if index == self.index { self.offset } else { 0 };
            left += Part { transmit, offset, len: transmit.payload.len() - offset }.datagrams();
        }
        left
    }
}

/// A part of a transmit that fits into one system call: whole datagrams.
#[derive(Clone, Copy)]
struct Part<'a> {
    transmit: &'a Transmit<'a>,
    /// First byte, counted over the transmit's payload.
    offset: usize,
    len: usize,
}

impl Part<'_> {
    fn datagrams(&self) -> usize {
        self.len.div_ceil(self.transmit.segment).max(1)
    }

    fn has_several(&self) -> bool {
        self.len > self.transmit.segment
    }

    /// Points `vectors` to the part's bytes; how many it took. `None` if they are too few.
    fn gather(&self, vectors: &mut [libc::iovec]) -> Option<usize> {
        let (mut skip, mut left, mut used) = (self.offset, self.len, 0);
        for index in 0.. {
            let Some(piece) = self.transmit.payload.piece(index).filter(|_| left > 0) else {
                break;
            };
            if skip >= piece.len() {
                skip -= piece.len();
                continue;
            }
            let bytes = &piece[skip..piece.len().min(skip + left)];
            *vectors.get_mut(used)? =
                libc::iovec { iov_base: bytes.as_ptr().cast_mut().cast(), iov_len: bytes.len() };
            (skip, left, used) = (0, left - bytes.len(), used + 1);
        }
        Some(used)
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
        self.send_from(transmit, 0)
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
            // One that needs several calls, or one that failed: this finds out which.
            match self.send_from(transmit, cursor.offset) {
                Sent::Blocked(bytes) => {
                    cursor.offset = bytes;
                    return false;
                }
                _ => *cursor = Cursor { index: cursor.index + 1, offset: 0 },
            }
        }
        true
    }

    fn send_from(&self, transmit: &Transmit<'_>, offset: usize) -> Sent {
        let (mut offset, len) = (offset, transmit.payload.len());
        let mut result = Sent::All;
        loop {
            let part =
                Part { transmit, offset, len: self.bytes_in_one_send(transmit.segment).min(len - offset) };
            match self.send_part(&part, transmit.from) {
                Sent::All => {}
                Sent::Blocked(bytes) => return Sent::Blocked(offset + bytes),
                lost => result = lost,
            }
            offset += part.len;
            if offset >= len {
                return result;
            }
        }
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
        let mut envelopes = [Envelope::EMPTY; MESSAGES_MAX];
        let mut vectors = [NO_BYTES; VECTORS_MAX];
        let (mut filled, mut vectors_used) = (0, 0);
        for ((transmit, envelope), header) in transmits.iter().zip(&mut envelopes).zip(&mut headers) {
            let part = Part { transmit, offset: 0, len: transmit.payload.len() };
            if part.len > self.bytes_in_one_send(transmit.segment) {
                break;
            }
            let Some(filled_envelope) = self.envelope(&part, transmit.from) else {
                break;
            };
            let Some(used) = part.gather(&mut vectors[vectors_used..]) else {
                break;
            };
            *envelope = filled_envelope;
            header.msg_hdr = envelope.header(&vectors[vectors_used..vectors_used + used]);
            vectors_used += used;
            filled += 1;
        }
        if filled == 0 {
            return 0;
        }
        // SAFETY: the first `filled` headers point into `envelopes`, `vectors` and the transmits' bytes, which live over
        // the call and are only read.
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
        count(&self.stats.send_calls, 1);
        for transmit in &transmits[..sent] {
            self.count_sent(&Part { transmit, offset: 0, len: transmit.payload.len() });
        }
        sent
    }

    fn count_sent(&self, part: &Part<'_>) {
        count(&self.stats.sent, part.datagrams());
        count(&self.stats.sent_bytes, part.len);
    }

    fn send_part(&self, part: &Part<'_>, from: Option<IpAddr>) -> Sent {
        let error = match self.send_message(part, from) {
            Ok(()) => return Sent::All,
            Err(error) => error,
        };
        match error.raw_os_error() {
            Some(libc::EAGAIN) => Sent::Blocked(0),
            // Not possible on this way (no checksum offload, IPsec) or a segment beyond the MTU; net/ipv4/udp.c,
            // udp_send_skb.
            Some(libc::EIO | libc::EINVAL | libc::EMSGSIZE | libc::EOPNOTSUPP) if part.has_several() => {
                count(&self.stats.segmentation_refused, 1);
                self.send_one_by_one(part, from)
            }
            // The source is no address of ours any more (net/ipv4/route.c, ip_route_output_key_hash_rcu), or really no
            // way.
            Some(libc::EINVAL | libc::EADDRNOTAVAIL | libc::ENETUNREACH) if from.is_some() => {
                let sent = self.send_part(part, None);
                if sent == Sent::All {
                    count(&self.stats.source_gone, part.datagrams());
                }
                sent
            }
            _ => self.lost(&error, part.datagrams()),
        }
    }

    fn send_one_by_one(&self, part: &Part<'_>, from: Option<IpAddr>) -> Sent {
        let (mut result, mut done, segment) = (Sent::All, 0, part.transmit.segment);
        while done < part.len {
            let len = segment.min(part.len - done);
            let single = Part { offset: part.offset + done, len, ..*part };
            match self.send_part(&single, from) {
                Sent::All => {}
                Sent::Blocked(_) => return Sent::Blocked(done),
                Sent::TooBig => {
                    result = Sent::TooBig;
                    // The others have the same length, but for the last one, which may be shorter, and somebody else's: a relay
                    // sends what it gets in one go, a probe of the MTU as well.
                    let last = (part.len - 1) / segment * segment;
                    let same = if part.len - last < segment { last } else { part.len };
                    let skipped = Part { len: same.saturating_sub(done), ..single };
                    count(&self.stats.too_big, skipped.datagrams().saturating_sub(1));
                    done = same.max(done + len);
                    continue;
                }
                lost => result = lost,
            }
            done += len;
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

    /// One system call, and more if those before only brought the fate of earlier datagrams: with error reports on, the
    /// kernel gives a pending ICMP error to whoever calls next, and each report that another thread reads meanwhile makes
    /// the next one in the queue pending (net/core/skbuff.c, `sock_dequeue_err_skb`).
    fn send_message(&self, part: &Part<'_>, from: Option<IpAddr>) -> io::Result<()> {
        let Some(envelope) = self.envelope(part, from) else {
            return Err(io::Error::from_raw_os_error(libc::EAFNOSUPPORT));
        };
        let mut vectors = [NO_BYTES; SEGMENTS_MAX];
        let Some(used) = part.gather(&mut vectors) else {
            return Err(io::Error::from_raw_os_error(libc::EINVAL));
        };
        let header = envelope.header(&vectors[..used]);
        let mut old_errors_left = if self.reports_errors { OLD_ERRORS_MAX } else { 0 };
        loop {
            // SAFETY: the header points into `envelope`, `vectors` and the transmit's bytes, which live over the call
            // and are only read.
            let sent = unsafe {
                libc::sendmsg(
                    self.inner.as_raw_fd(),
                    &raw const header,
                    libc::MSG_DONTWAIT | libc::MSG_NOSIGNAL,
                )
            };
            if sent >= 0 {
                count(&self.stats.send_calls, 1);
                self.count_sent(part);
                return Ok(());
            }
            let error = io::Error::last_os_error();
            match error.raw_os_error() {
                Some(libc::EINTR) => {}
                Some(errno) if old_errors_left > 0 && may_be_earlier(errno) => old_errors_left -= 1,
                _ => return Err(error),
            }
        }
    }

    /// Destination and control messages; `None` if this socket cannot speak to the destination.
    fn envelope(&self, part: &Part<'_>, from: Option<IpAddr>) -> Option<Envelope> {
        let transmit = part.transmit;
        let (name, name_len) = Name::new(transmit.to, self.family)?;
        let mut control = Control::EMPTY;
        if part.has_several() {
            let segment = u16::try_from(transmit.segment).ok()?;
            control.push(libc::SOL_UDP, libc::UDP_SEGMENT, &segment.to_ne_bytes());
        }
        match from {
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
        Some(Envelope { name, name_len, control })
    }
}

const NO_BYTES: libc::iovec = libc::iovec { iov_base: std::ptr::null_mut(), iov_len: 0 };

/// What a message header points to beside the bytes.
#[derive(Clone, Copy)]
struct Envelope {
    name: Name,
    name_len: u32,
    control: Control,
}

impl Envelope {
    const EMPTY: Envelope = Envelope { name: Name::EMPTY, name_len: 0, control: Control::EMPTY };

    /// A header for sending, which only reads through its pointers; valid as long as `self` and `vectors` stay where
    /// they are.
    fn header(&self, vectors: &[libc::iovec]) -> libc::msghdr {
        let mut header = sys::empty_header();
        header.msg_name = (&raw const self.name).cast_mut().cast();
        header.msg_namelen = self.name_len;
        header.msg_iov = vectors.as_ptr().cast_mut();
        header.msg_iovlen = vectors.len() as _;
        if self.control.len() > 0 {
            header.msg_control = self.control.as_ptr().cast_mut().cast();
            header.msg_controllen = self.control.len() as _;
        }
        header
    }
}
