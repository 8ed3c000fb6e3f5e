//! Receiving in batches.

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::ops::Range;
use std::os::fd::AsRawFd;

use super::faults::may_be_earlier;
use super::sys::{self, CONTROL_BYTES, Control, NAME_BYTES, Name};
use super::{PAYLOAD_MAX_BYTES, Socket, count};

/// Most messages that one system call fetches.
const MESSAGES_MAX: usize = 32;
/// Room for one message. Not a power of two, so that the messages' first bytes do not all fall into one cache set.
const STRIDE: usize = 65_536 + 17 * 64;
/// A message up to this size is small: fetching several in one call pays.
const SMALL_BYTES: usize = 4096;
/// Errors of earlier datagrams that one receive steps over.
const ERRORS_MAX: usize = 64;

/// Buffers for one receiving thread, used again and again. Memory that no message ever filled is not resident.
#[derive(Debug)]
pub struct Batch {
    arena: Box<[u8]>,
    slots: Box<[Slot]>,
    /// Messages to ask for next time.
    wanted: usize,
    filled: usize,
}

#[derive(Clone, Copy, Debug)]
struct Slot {
    name: Name,
    control: Control,
    len: usize,
    details: Option<Details>,
}

#[derive(Clone, Copy, Debug)]
struct Details {
    from: SocketAddr,
    local: Option<IpAddr>,
    tos: u8,
    segment: usize,
}

impl Batch {
    /// Room for 32 messages of 64 kB each.
    pub fn new() -> Batch {
        let slot = Slot { name: Name::EMPTY, control: Control::EMPTY, len: 0, details: None };
        Batch {
            arena: vec![0; MESSAGES_MAX * STRIDE].into_boxed_slice(),
            slots: vec![slot; MESSAGES_MAX].into_boxed_slice(),
            wanted: 1,
            filled: 0,
        }
    }

    /// The messages of the last [`Socket::receive`], and the buffer that they lie in.
    pub fn messages(&mut self) -> (&mut [u8], impl Iterator<Item = Message> + '_) {
        let messages = self.slots.iter().take(self.filled).enumerate().filter_map(|(index, slot)| {
            let Details { from, local, tos, segment } = slot.details?;
            Some(Message { from, local, tos, segment, start: index * STRIDE, len: slot.len })
        });
        (&mut self.arena, messages)
    }

    /// One message at a time while they are large or few, more while more are pending and small.
    fn adapt(&mut self, bytes: usize) {
        let small = bytes <= self.filled * SMALL_BYTES;
        if !small {
            self.wanted = 1;
        } else if self.filled == self.wanted {
            self.wanted = (self.wanted * 2).min(MESSAGES_MAX);
        } else if self.filled * 2 < self.wanted {
            self.wanted = (self.wanted / 2).max(1);
        }
    }
}

impl Default for Batch {
    fn default() -> Batch {
        Batch::new()
    }
}

/// One datagram, or several of one sender and of equal size (the last may be shorter).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Message {
    /// The sender.
    pub from: SocketAddr,
    /// Our address that it was sent to, if the socket serves several: answer from there.
    pub local: Option<IpAddr>,
    /// TOS or traffic class; the lowest two bits are ECN.
    pub tos: u8,
    /// Size in bytes of each datagram but the last; at least 1.
    pub segment: usize,
    start: usize,
    len: usize,
}

impl Message {
    /// Where the datagrams lie in the batch's buffer. An empty datagram gives none.
    pub fn datagrams(&self) -> impl Iterator<Item = Range<usize>> + use<> {
        let (end, segment) = (self.start + self.len, self.segment);
        (self.start..end).step_by(segment).map(move |start| start..end.min(start + segment))
    }
}

impl Socket {
    /// Fetches what has arrived, up to the batch's size, without blocking, and gives the number of messages; 0 if there
    /// is none. Then see [`Batch::messages`]. No allocation, one system call.
    ///
    /// # Errors
    /// Out of memory and the like: worth a short rest, not the end of the socket.
    pub fn receive(&self, batch: &mut Batch) -> io::Result<usize> {
        batch.filled = 0;
        for _ in 0..ERRORS_MAX {
            match self.receive_once(batch) {
                Ok(count) => return Ok(count),
                Err(error) => match error.raw_os_error() {
                    Some(libc::EAGAIN) => return Ok(0),
                    Some(libc::EINTR) => {}
                    // The fate of an earlier datagram; `read_faults` has the details.
                    Some(errno) if may_be_earlier(errno) || errno == libc::ENETDOWN => {
                        count(&self.stats.faults, 1);
                    }
                    _ => return Err(error),
                },
            }
        }
        Ok(0)
    }

    fn receive_once(&self, batch: &mut Batch) -> io::Result<usize> {
        let empty = libc::mmsghdr { msg_hdr: sys::empty_header(), msg_len: 0 };
        let mut headers = [empty; MESSAGES_MAX];
        let mut vectors = [libc::iovec { iov_base: std::ptr::null_mut(), iov_len: 0 }; MESSAGES_MAX];
        let buffers = batch.arena.chunks_mut(STRIDE);
        let parts = headers.iter_mut().zip(&mut vectors).zip(&mut batch.slots).zip(buffers);
        for (((header, vector), slot), buffer) in parts.take(batch.wanted) {
            *vector = libc::iovec { iov_base: buffer.as_mut_ptr().cast(), iov_len: buffer.len() };
            let header = &mut header.msg_hdr;
            header.msg_name = (&raw mut slot.name).cast();
            header.msg_namelen = NAME_BYTES as u32;
            header.msg_iov = vector;
            header.msg_iovlen = 1;
            header.msg_control = slot.control.as_mut_ptr().cast();
            header.msg_controllen = CONTROL_BYTES as _;
        }
        // SAFETY: the first `wanted` headers (at most MESSAGES_MAX) point to names, vectors, buffers and control space
        // that live over the call, are of the lengths told, and are not looked at through other references meanwhile.
        let received = unsafe {
            libc::recvmmsg(
                self.inner.as_raw_fd(),
                headers.as_mut_ptr(),
                batch.wanted as u32,
                libc::MSG_DONTWAIT as _,
                std::ptr::null_mut(),
            )
        };
        let received = usize::try_from(received).map_err(|_| io::Error::last_os_error())?;
        batch.filled = received;
        let (mut bytes, mut datagrams) = (0, 0);
        for (slot, header) in batch.slots.iter_mut().zip(&headers).take(received) {
            self.read_slot(slot, header);
            bytes += slot.len;
            datagrams += slot.details.map_or(0, |details| slot.len.div_ceil(details.segment));
        }
        count(&self.stats.receive_calls, 1);
        count(&self.stats.received, datagrams);
        count(&self.stats.received_bytes, bytes);
        batch.adapt(bytes);
        Ok(received)
    }

    fn read_slot(&self, slot: &mut Slot, header: &libc::mmsghdr) {
        slot.len = (header.msg_len as usize).min(STRIDE);
        slot.details = None;
        if header.msg_hdr.msg_flags & libc::MSG_TRUNC != 0 || slot.len > PAYLOAD_MAX_BYTES + 20 {
            count(&self.stats.truncated, 1);
            return;
        }
        let Some(from) = slot.name.read(header.msg_hdr.msg_namelen as usize) else {
            count(&self.stats.other_errors, 1);
            return;
        };
        let mut details = Details { from, local: None, tos: 0, segment: slot.len.max(1) };
        for (level, kind, payload) in slot.control.read(sys::control_len(&header.msg_hdr)) {
            match (level, kind) {
                (libc::SOL_UDP, libc::UDP_GRO) => {
                    let size = sys::read_int(payload).and_then(|size| usize::try_from(size).ok());
                    details.segment = size.filter(|&size| size > 0).unwrap_or(details.segment);
                }
                (libc::IPPROTO_IP, libc::IP_TOS) | (libc::IPPROTO_IPV6, libc::IPV6_TCLASS) => {
                    details.tos = sys::read_int(payload).unwrap_or(0) as u8;
                }
                (libc::IPPROTO_IP, libc::IP_PKTINFO) if self.tells_local => {
                    details.local = sys::read_packet_info4(payload);
                }
                (libc::IPPROTO_IPV6, libc::IPV6_PKTINFO) if self.tells_local => {
                    details.local = sys::read_packet_info6(payload);
                }
                _ => {}
            }
        }
        slot.details = Some(details);
    }
}
