//! The kernel's memory formats: socket addresses and control messages, written and read as bytes; and the system calls
//! that std, socket2 and nix do not have in a form without allocation.
//!
//! Layouts: ip(7), ipv6(7), cmsg(3), linux/socket.h. They are part of the kernel's ABI and the same on every Linux
//! architecture up to byte order and word size, which `ne_bytes` and `usize` follow.

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, SocketAddrV6};
use std::os::fd::{AsRawFd, BorrowedFd};

use super::Family;

/// A `sockaddr_in` or `sockaddr_in6`.
#[derive(Clone, Copy, Debug)]
#[repr(C, align(8))]
pub(super) struct Name([u8; NAME_BYTES]);

pub(super) const NAME_BYTES: usize = 28;
const NAME_V4_BYTES: u32 = 16;

impl Name {
    pub(super) const EMPTY: Name = Name([0; NAME_BYTES]);

    /// `address` as a socket of `family` wants it; `None` if it cannot speak to it.
    pub(super) fn new(address: SocketAddr, family: Family) -> Option<(Name, u32)> {
        let mut name = Name::EMPTY;
        let bytes = &mut name.0;
        bytes[2..4].copy_from_slice(&address.port().to_be_bytes());
        match (address, family) {
            (SocketAddr::V4(v4), Family::V4) => {
                bytes[..2].copy_from_slice(&(libc::AF_INET as u16).to_ne_bytes());
                bytes[4..8].copy_from_slice(&v4.ip().octets());
                return Some((name, NAME_V4_BYTES));
            }
            (SocketAddr::V4(v4), Family::Dual) => {
                bytes[8..24].copy_from_slice(&v4.ip().to_ipv6_mapped().octets());
            }
            (SocketAddr::V6(v6), Family::V6 | Family::Dual) => {
                bytes[4..8].copy_from_slice(&v6.flowinfo().to_be_bytes());
                bytes[8..24].copy_from_slice(&v6.ip().octets());
                bytes[24..28].copy_from_slice(&v6.scope_id().to_ne_bytes());
            }
            (SocketAddr::V4(_), Family::V6) | (SocketAddr::V6(_), Family::V4) => return None,
        }
        bytes[..2].copy_from_slice(&(libc::AF_INET6 as u16).to_ne_bytes());
        Some((name, NAME_BYTES as u32))
    }

    /// The address in the first `len` bytes; mapped addresses come out as IPv4.
    pub(super) fn read(&self, len: usize) -> Option<SocketAddr> {
        read_address(self.0.get(..len)?)
    }
}

fn read_address(bytes: &[u8]) -> Option<SocketAddr> {
    let family = i32::from(u16::from_ne_bytes(array(bytes, 0)?));
    let port = u16::from_be_bytes(array(bytes, 2)?);
    if family == libc::AF_INET {
        return Some(SocketAddr::new(Ipv4Addr::from(array::<4>(bytes, 4)?).into(), port));
    }
    if family != libc::AF_INET6 {
        return None;
    }
    let ip = Ipv6Addr::from(array::<16>(bytes, 8)?);
    if let Some(v4) = ip.to_ipv4_mapped() {
        return Some(SocketAddr::new(v4.into(), port));
    }
    let scope = u32::from_ne_bytes(array(bytes, 24)?);
    Some(SocketAddrV6::new(ip, port, 0, scope).into())
}

fn array<const N: usize>(bytes: &[u8], start: usize) -> Option<[u8; N]> {
    bytes.get(start..)?.first_chunk().copied()
}

/// Room for control messages.
#[derive(Clone, Copy, Debug)]
#[repr(C, align(8))]
pub(super) struct Control {
    bytes: [u8; CONTROL_BYTES],
    len: usize,
}

/// Enough for what we ask for at once: packet information (40), two kinds of TOS (24 each), segment size (24); or an
/// extended error with its offender (16 + 16 + 28).
pub(super) const CONTROL_BYTES: usize = 160;
const WORD: usize = size_of::<usize>();
const HEADER: usize = WORD + 8;

impl Control {
    pub(super) const EMPTY: Control = Control { bytes: [0; CONTROL_BYTES], len: 0 };

    /// Appends one control message.
    pub(super) fn push(&mut self, level: i32, kind: i32, payload: &[u8]) {
        let end = self.len + HEADER + payload.len();
        let slot = &mut self.bytes[self.len..end];
        slot[..WORD].copy_from_slice(&(HEADER + payload.len()).to_ne_bytes());
        slot[WORD..WORD + 4].copy_from_slice(&level.to_ne_bytes());
        slot[WORD + 4..HEADER].copy_from_slice(&kind.to_ne_bytes());
        slot[HEADER..].copy_from_slice(payload);
        self.len = end.next_multiple_of(WORD);
    }

    pub(super) fn len(&self) -> usize {
        self.len
    }

    pub(super) fn as_ptr(&self) -> *const u8 {
        self.bytes.as_ptr()
    }

    pub(super) fn as_mut_ptr(&mut self) -> *mut u8 {
        self.bytes.as_mut_ptr()
    }

    /// The control messages in the first `len` bytes: level, type, payload.
    pub(super) fn read(&self, len: usize) -> ControlMessages<'_> {
        ControlMessages { rest: &self.bytes[..len.min(CONTROL_BYTES)] }
    }
}

pub(super) struct ControlMessages<'a> {
    rest: &'a [u8],
}

impl<'a> Iterator for ControlMessages<'a> {
    type Item = (i32, i32, &'a [u8]);

    fn next(&mut self) -> Option<Self::Item> {
        let len = usize::from_ne_bytes(array(self.rest, 0)?);
        let level = i32::from_ne_bytes(array(self.rest, WORD)?);
        let kind = i32::from_ne_bytes(array(self.rest, WORD + 4)?);
        let payload = self.rest.get(HEADER..len)?;
        self.rest = self.rest.get(len.next_multiple_of(WORD)..).unwrap_or(&[]);
        Some((level, kind, payload))
    }
}

/// An `int` in a control message; some are sent as one byte.
pub(super) fn read_int(payload: &[u8]) -> Option<i32> {
    match array::<4>(payload, 0) {
        Some(bytes) => Some(i32::from_ne_bytes(bytes)),
        None => payload.first().map(|&byte| i32::from(byte)),
    }
}

/// `struct in_pktinfo`: interface, local address, header's destination.
pub(super) fn read_packet_info4(payload: &[u8]) -> Option<IpAddr> {
    Some(Ipv4Addr::from(array::<4>(payload, 4)?).into())
}

/// `struct in6_pktinfo`: address, interface.
pub(super) fn read_packet_info6(payload: &[u8]) -> Option<IpAddr> {
    Some(super::plain_ip(Ipv6Addr::from(array::<16>(payload, 0)?).into()))
}

/// Appends the source address of a datagram.
pub(super) fn push_source(control: &mut Control, source: IpAddr) {
    match source {
        IpAddr::V4(ip) => {
            let mut info = [0; 12];
            info[4..8].copy_from_slice(&ip.octets());
            control.push(libc::IPPROTO_IP, libc::IP_PKTINFO, &info);
        }
        IpAddr::V6(ip) => {
            let mut info = [0; 20];
            info[..16].copy_from_slice(&ip.octets());
            control.push(libc::IPPROTO_IPV6, libc::IPV6_PKTINFO, &info);
        }
    }
}

/// `struct sock_extended_err` (linux/errqueue.h) and the address of who found out.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct ExtendedError {
    pub(super) errno: i32,
    pub(super) info: u32,
    pub(super) offender: Option<IpAddr>,
}

pub(super) fn read_extended_error(payload: &[u8]) -> Option<ExtendedError> {
    Some(ExtendedError {
        errno: i32::from_ne_bytes(array(payload, 0)?),
        info: u32::from_ne_bytes(array(payload, 8)?),
        offender: payload.get(16..).and_then(read_address).map(|address| address.ip()),
    })
}

/// Sets an option that is an `int`.
pub(super) fn set_int(fd: BorrowedFd<'_>, level: i32, option: i32, value: i32) -> io::Result<()> {
    // SAFETY: the pointer and length describe `value`, which lives over the call; the kernel only reads it.
    let result = unsafe {
        libc::setsockopt(fd.as_raw_fd(), level, option, (&raw const value).cast(), size_of::<i32>() as u32)
    };
    if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

/// `SO_MEMINFO`, field `SK_MEMINFO_DROPS` (linux/sock_diag.h).
pub(super) fn receive_drops(fd: BorrowedFd<'_>) -> u32 {
    const DROPS: usize = 8;
    let mut values = [0u32; DROPS + 1];
    let mut len = size_of_val(&values) as u32;
    // SAFETY: the pointer and length describe `values`, into which the kernel writes at most `len` bytes.
    let result = unsafe {
        libc::getsockopt(
            fd.as_raw_fd(),
            libc::SOL_SOCKET,
            libc::SO_MEMINFO,
            values.as_mut_ptr().cast(),
            &raw mut len,
        )
    };
    if result == 0 { values[DROPS] } else { 0 }
}

/// A message header that points nowhere yet.
pub(super) fn empty_header() -> libc::msghdr {
    // SAFETY: `msghdr` consists of integers and raw pointers (and padding fields that cannot be named on some
    // platforms), for which all zeroes are valid.
    unsafe { std::mem::zeroed() }
}

/// The bytes of control messages that the kernel wrote.
#[allow(clippy::unnecessary_cast, reason = "the field has 32 bits with musl")]
pub(super) fn control_len(header: &libc::msghdr) -> usize {
    header.msg_controllen as usize
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_survive_and_mapped_ones_come_out_plain() {
        let cases = [
            ("192.0.2.1:4000", Family::V4),
            ("192.0.2.1:4000", Family::Dual),
            ("[2001:db8::1]:4000", Family::V6),
            ("[2001:db8::1]:4000", Family::Dual),
            ("[fe80::1%3]:4000", Family::Dual),
        ];
        for (text, family) in cases {
            let address: SocketAddr = text.parse().unwrap();
            let (name, len) = Name::new(address, family).unwrap();
            assert_eq!(name.read(len as usize), Some(address), "{text} {family:?}");
        }
        assert!(Name::new("192.0.2.1:1".parse().unwrap(), Family::V6).is_none());
        assert!(Name::new("[2001:db8::1]:1".parse().unwrap(), Family::V4).is_none());
    }

    #[test]
    fn our_address_bytes_are_those_of_socket2() {
        for (text, family) in [("192.0.2.1:4000", Family::V4), ("[fe80::1%3]:4000", Family::V6)] {
            let address: SocketAddr = text.parse().unwrap();
            let (name, len) = Name::new(address, family).unwrap();
            let theirs = socket2::SockAddr::from(address);
            assert_eq!(len, theirs.len());
            // SAFETY: `as_ptr` points to `len` initialised bytes that live as long as `theirs`.
            let bytes = unsafe { std::slice::from_raw_parts(theirs.as_ptr().cast::<u8>(), len as usize) };
            assert_eq!(&name.0[..len as usize], bytes);
        }
    }

    #[test]
    fn control_messages_survive_and_nonsense_ends_them() {
        let mut control = Control::EMPTY;
        control.push(1, 2, &7i32.to_ne_bytes());
        control.push(3, 4, &[9; 20]);
        let read: Vec<_> = control.read(control.len()).collect();
        assert_eq!(read.len(), 2);
        assert_eq!((read[0].0, read[0].1, read_int(read[0].2)), (1, 2, Some(7)));
        assert_eq!((read[1].0, read[1].1, read[1].2), (3, 4, &[9; 20][..]));
        for len in 0..control.len() {
            assert!(control.read(len).count() <= 2);
        }
        let mut nonsense = Control::EMPTY;
        nonsense.bytes = [0; CONTROL_BYTES];
        assert_eq!(nonsense.read(CONTROL_BYTES).count(), 0);
        nonsense.bytes = [0xff; CONTROL_BYTES];
        assert_eq!(nonsense.read(CONTROL_BYTES).count(), 0);
    }

    #[test]
    fn control_messages_are_aligned_as_the_c_library_aligns_them() {
        let mut control = Control::EMPTY;
        control.push(0, 0, &[0; 4]);
        // SAFETY: CMSG_SPACE only computes.
        assert_eq!(control.len(), unsafe { libc::CMSG_SPACE(4) } as usize);
    }
}
