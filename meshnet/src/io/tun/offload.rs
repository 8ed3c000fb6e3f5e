//! The device with offload: a virtio network header before every packet, super-packets in both directions.
//!
//! Interface: drivers/net/tun.c, linux/if_tun.h, linux/virtio_net.h. Without `TUNSETVNETLE` the header's fields are in
//! native byte order.

use std::fs::{File, OpenOptions};
use std::io::{self, IoSlice, IoSliceMut, Read, Write};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd};
use std::os::unix::fs::OpenOptionsExt;

use nix::net::if_::if_nametoindex;

use super::{
    Checksum, Device, DeviceError, Meta, NAME_MAX_BYTES, Offloads, OpenError, Packet, QUEUES_MAX,
    Segmentation, check_name,
};

/// `struct virtio_net_hdr`.
const HEADER_BYTES: usize = 10;
/// The transport checksum is partial (`VIRTIO_NET_HDR_F_NEEDS_CSUM`).
const NEEDS_CSUM: u8 = 1;
const GSO_NONE: u8 = 0;
const GSO_TCPV4: u8 = 1;
const GSO_TCPV6: u8 = 4;
const GSO_UDP_L4: u8 = 5;
/// Or-ed to a TCP type: a segment has CWR.
const GSO_ECN: u8 = 0x80;
/// Place of the flags in a TCP header, and CWR.
const TCP_FLAGS_AT: usize = 13;
const TCP_CWR: u8 = 0x80;
/// Most pieces of one write, the virtio header not counted: more than the longest run of segments.
const PIECES_MAX: usize = 159;

/// One queue of a TUN device that takes and gives super-packets.
#[derive(Debug)]
pub struct Offload {
    file: File,
    name: String,
    index: u32,
    offloads: Offloads,
}

impl Offload {
    /// Makes the interface `name` with so many queues.
    ///
    /// # Errors
    /// See [`OpenError`]. A kernel that has no virtio headers on TUN devices refuses with [`OpenError::Io`].
    ///
    /// # Panics
    /// When `queues` is 0 or more than [`QUEUES_MAX`].
    pub fn open(name: &str, queues: usize) -> Result<Vec<Offload>, OpenError> {
        assert!((1..=QUEUES_MAX).contains(&queues), "{queues} queues");
        check_name(name)?;
        let mut opened: Vec<Offload> = Vec::with_capacity(queues);
        for _ in 0..queues {
            // `%d` is only replaced for the first one.
            let name = opened.first().map_or(name, |first| &first.name).to_owned();
            opened.push(Offload::attach(&name, queues > 1)?);
        }
        // The kernel keeps them for all queues; fewer than asked for by any are all that there is.
        Ok(opened)
    }

    fn attach(name: &str, multi_queue: bool) -> Result<Offload, OpenError> {
        let fail = |error| OpenError::from_io(error, name);
        let file = OpenOptions::new()
            .read(true)
            .write(true)
            .custom_flags(libc::O_NONBLOCK | libc::O_CLOEXEC)
            .open("/dev/net/tun")
            .map_err(fail)?;
        let name = set_interface(&file, name, multi_queue).map_err(fail)?;
        set_header_len(&file).map_err(fail)?;
        let offloads = set_offloads(&file).map_err(fail)?;
        let index = if_nametoindex(name.as_str()).map_err(io::Error::from)?;
        Ok(Offload { file, name, index, offloads })
    }
}

impl AsFd for Offload {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.file.as_fd()
    }
}

impl Device for Offload {
    fn name(&self) -> &str {
        &self.name
    }

    fn index(&self) -> u32 {
        self.index
    }

    fn offloads(&self) -> Offloads {
        self.offloads
    }

    fn read(&self, buffer: &mut [u8]) -> Result<Option<Packet>, DeviceError> {
        let mut header = [0; HEADER_BYTES];
        loop {
            let mut parts = [IoSliceMut::new(&mut header), IoSliceMut::new(buffer)];
            match (&self.file).read_vectored(&mut parts) {
                Ok(len) => {
                    let len = len.saturating_sub(HEADER_BYTES);
                    return Ok(Some(Packet { len, meta: parse_header(&header) }));
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(None),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(DeviceError::from_io(error)),
            }
        }
    }

    fn write(&self, meta: &Meta, pieces: &[IoSlice<'_>]) -> Result<(), DeviceError> {
        if pieces.len() > PIECES_MAX {
            return Err(DeviceError::Refused(io::ErrorKind::InvalidInput.into()));
        }
        let header = emit_header(meta, pieces.first().map_or(&[], |piece| piece));
        let mut parts = [IoSlice::new(&[]); PIECES_MAX + 1];
        parts[0] = IoSlice::new(&header);
        parts[1..=pieces.len()].copy_from_slice(pieces);
        loop {
            match (&self.file).write_vectored(&parts[..=pieces.len()]) {
                Ok(_) => return Ok(()),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(DeviceError::from_io(error)),
            }
        }
    }
}

/// Reads a header of the kernel's. A type that we never asked for becomes a single packet.
fn parse_header(header: &[u8; HEADER_BYTES]) -> Meta {
    let [flags, kind, ..] = *header;
    let field = |at: usize| u16::from_ne_bytes([header[at], header[at + 1]]);
    let size = field(4);
    Meta {
        segmentation: match kind & !GSO_ECN {
            GSO_TCPV4 => Segmentation::Tcp4 { size },
            GSO_TCPV6 => Segmentation::Tcp6 { size },
            GSO_UDP_L4 => Segmentation::Udp { size },
            _ => Segmentation::None,
        },
        checksum: match flags & NEEDS_CSUM {
            0 => Checksum::Complete,
            _ => Checksum::Partial { start: field(6), offset: field(8) },
        },
        header_len: field(2),
    }
}

/// Makes the header for a packet that begins with `front`.
fn emit_header(meta: &Meta, front: &[u8]) -> [u8; HEADER_BYTES] {
    let mut header = [0; HEADER_BYTES];
    let mut set = |at: usize, value: u16| header[at..at + 2].copy_from_slice(&value.to_ne_bytes());
    let mut flags = 0;
    let mut has_cwr = false;
    if let Checksum::Partial { start, offset } = meta.checksum {
        flags = NEEDS_CSUM;
        has_cwr = front.get(usize::from(start) + TCP_FLAGS_AT).is_some_and(|it| it & TCP_CWR != 0);
        set(6, start);
        set(8, offset);
    }
    let ecn = if has_cwr { GSO_ECN } else { 0 };
    let (kind, size) = match meta.segmentation {
        Segmentation::None => (GSO_NONE, 0),
        Segmentation::Tcp4 { size } => (GSO_TCPV4 | ecn, size),
        Segmentation::Tcp6 { size } => (GSO_TCPV6 | ecn, size),
        Segmentation::Udp { size } => (GSO_UDP_L4, size),
    };
    if size != 0 {
        set(2, meta.header_len);
        set(4, size);
    }
    (header[0], header[1]) = (flags, kind);
    header
}

/// `TUNSETIFF`; gives the interface's real name.
fn set_interface(file: &File, name: &str, multi_queue: bool) -> io::Result<String> {
    let mut flags = libc::IFF_TUN | libc::IFF_NO_PI | libc::IFF_VNET_HDR;
    if multi_queue {
        flags |= libc::IFF_MULTI_QUEUE;
    }
    let mut request = libc::ifreq {
        ifr_name: [0; NAME_MAX_BYTES + 1],
        ifr_ifru: libc::__c_anonymous_ifr_ifru { ifru_flags: flags as libc::c_short },
    };
    for (to, from) in request.ifr_name.iter_mut().zip(name.as_bytes().iter().take(NAME_MAX_BYTES)) {
        *to = *from as libc::c_char;
    }
    // SAFETY: the request is a whole `ifreq` that lives over the call; the kernel reads it and writes the name back.
    let result = unsafe { libc::ioctl(file.as_raw_fd(), libc::TUNSETIFF as _, &raw mut request) };
    if result < 0 {
        return Err(io::Error::last_os_error());
    }
    let name = request.ifr_name.iter().take_while(|byte| **byte != 0).map(|byte| *byte as u8).collect();
    String::from_utf8(name).map_err(|_| io::ErrorKind::InvalidData.into())
}

/// `TUNSETVNETHDRSZ`, in case that somebody left another length on a persistent interface.
fn set_header_len(file: &File) -> io::Result<()> {
    let len = HEADER_BYTES as libc::c_int;
    // SAFETY: the kernel reads one `int`, which lives over the call.
    let result = unsafe { libc::ioctl(file.as_raw_fd(), libc::TUNSETVNETHDRSZ as _, &raw const len) };
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

/// `TUNSETOFFLOAD`: the most that the kernel grants. UDP needs Linux 6.2.
fn set_offloads(file: &File) -> io::Result<Offloads> {
    let checksum = libc::TUN_F_CSUM;
    let tcp = checksum | libc::TUN_F_TSO4 | libc::TUN_F_TSO6 | libc::TUN_F_TSO_ECN;
    let udp = tcp | libc::TUN_F_USO4 | libc::TUN_F_USO6;
    let wishes = [
        (udp, Offloads::ALL),
        (tcp, Offloads { udp: false, ..Offloads::ALL }),
        (checksum, Offloads { checksum: true, ..Offloads::NONE }),
        (0, Offloads::NONE),
    ];
    for (bits, offloads) in wishes {
        // SAFETY: the argument is a number, not a pointer.
        let result =
            unsafe { libc::ioctl(file.as_raw_fd(), libc::TUNSETOFFLOAD as _, libc::c_ulong::from(bits)) };
        if result >= 0 {
            return Ok(offloads);
        }
        let error = io::Error::last_os_error();
        if error.raw_os_error() != Some(libc::EINVAL) {
            return Err(error);
        }
    }
    Err(io::Error::from_raw_os_error(libc::EINVAL))
}

#[cfg(test)]
#[path = "offload_tests.rs"]
mod tests;
