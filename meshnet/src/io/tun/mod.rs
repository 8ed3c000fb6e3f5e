//! The overlay device: IP packets from the kernel, IP packets to the kernel.
//!
//! The interface is made for super-packets: a read gives one packet or one super-packet with [`Meta`] that tells how to
//! cut it, a write takes the pieces of one packet (or super-packet) and the same metadata. A device without offload
//! gives and takes plain packets with [`Meta::PLAIN`] only; [`Device::offloads`] tells which it is.
//!
//! All descriptors are non-blocking: block with [`super::wake::Wake::wait`].

mod plain;

use std::fmt;
use std::io::{self, IoSlice};
use std::os::fd::AsFd;
use std::sync::Arc;

use nix::errno::Errno;

pub use plain::Plain;

/// Longest interface name in bytes (`IFNAMSIZ` less the final zero, netdevice(7)).
pub const NAME_MAX_BYTES: usize = 15;
/// The longest that one read can give: an IP packet's length field has 16 bits.
pub const READ_MAX_BYTES: usize = 65_535;

/// One queue of an overlay device. Reads and writes may run on different threads at once.
pub trait Device: AsFd + Send + Sync + fmt::Debug {
    /// The interface's name when it was made.
    fn name(&self) -> &str;

    /// The interface's index, which survives renaming.
    fn index(&self) -> u32;

    /// What the kernel and this implementation agreed on.
    fn offloads(&self) -> Offloads;

    /// Takes one packet or super-packet off the queue; `None` if there is none now. A packet longer than `buffer` is
    /// cut: give [`READ_MAX_BYTES`].
    ///
    /// # Errors
    /// See [`DeviceError`].
    fn read(&self, buffer: &mut [u8]) -> Result<Option<Packet>, DeviceError>;

    /// Gives one packet or super-packet, which is the concatenation of `pieces`, to the kernel.
    ///
    /// # Errors
    /// [`DeviceError::Gone`] is the end of the device. Anything else lost this packet only: count it.
    fn write(&self, meta: &Meta, pieces: &[IoSlice<'_>]) -> Result<(), DeviceError>;
}

/// What a read gave: `len` bytes at the start of the buffer.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Packet {
    /// Length in bytes, headers included.
    pub len: usize,
    /// How to cut it and what is left to compute.
    pub meta: Meta,
}

/// What travels beside a packet between us and the kernel: the virtio network header's content (virtio 1.2 section
/// 5.1.6, linux/virtio_net.h), as types.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Meta {
    /// Whether and how the packet stands for several.
    pub segmentation: Segmentation,
    /// Whether the transport checksum is complete.
    pub checksum: Checksum,
    /// Length in bytes of all headers (IP and transport) of a super-packet; 0 for a single packet. A hint: check it
    /// against the packet.
    pub header_len: u16,
}

impl Meta {
    /// A single packet with a complete checksum.
    pub const PLAIN: Meta =
        Meta { segmentation: Segmentation::None, checksum: Checksum::Complete, header_len: 0 };
}

/// Into what a super-packet is cut.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Segmentation {
    /// A single packet.
    None,
    /// TCP over IPv4, `size` bytes of payload each, the last may have less.
    Tcp4 {
        /// Payload bytes of a segment.
        size: u16,
    },
    /// TCP over IPv6.
    Tcp6 {
        /// Payload bytes of a segment.
        size: u16,
    },
    /// UDP over either: every segment is a datagram of its own (not IP fragments), at most 128 of them.
    Udp {
        /// Payload bytes of a datagram.
        size: u16,
    },
}

/// State of a packet's transport checksum.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Checksum {
    /// Complete in the packet: carry it verbatim.
    Complete,
    /// The field holds the folded, not complemented sum over the pseudo-header; the sum over the bytes from `start` to
    /// the end is still to be added, and the result stored at `start + offset`.
    Partial {
        /// First byte covered, from the start of the packet.
        start: u16,
        /// Place of the checksum field, from `start`: 16 for TCP, 6 for UDP.
        offset: u16,
    },
}

/// What a device can take over from us.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Offloads {
    /// Packets carry a virtio header: [`Checksum::Partial`] is understood in both directions.
    pub checksum: bool,
    /// TCP super-packets in both directions.
    pub tcp: bool,
    /// UDP super-packets in both directions (Linux 6.2).
    pub udp: bool,
}

impl Offloads {
    /// None at all: plain packets only.
    pub const NONE: Offloads = Offloads { checksum: false, tcp: false, udp: false };
}

impl fmt::Display for Offloads {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let granted = [(self.checksum, "checksum"), (self.tcp, "tcp"), (self.udp, "udp")];
        let mut separator = "";
        for (_, name) in granted.iter().filter(|(granted, _)| *granted) {
            write!(f, "{separator}{name}")?;
            separator = "+";
        }
        if separator.is_empty() { f.write_str("none") } else { Ok(()) }
    }
}

/// What to open.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Options {
    /// The interface's name, at most [`NAME_MAX_BYTES`] bytes; `%d` in it becomes the first free number.
    pub name: String,
}

/// Makes the overlay interface, which vanishes again when the last queue is dropped, and gives its queues (one for
/// now). It is down and has no addresses: see [`super::netlink`].
///
/// # Errors
/// See [`OpenError`].
pub fn open(options: &Options) -> Result<Vec<Arc<dyn Device>>, OpenError> {
    let plain = Plain::open(&options.name)?;
    Ok(vec![Arc::new(plain)])
}

/// Why there is no overlay device.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// Neither root nor `CAP_NET_ADMIN`, or the sandbox hides the device.
    #[error(
        "no permission to make a TUN device: this needs root or CAP_NET_ADMIN, and access to /dev/net/tun"
    )]
    Permission,
    /// `/dev/net/tun` is not there.
    #[error(
        "/dev/net/tun is missing: load the kernel module (modprobe tun) or pass the device to the container"
    )]
    Missing,
    /// Another program has it, or another kind of interface has that name.
    #[error("an interface with the name {0} exists already")]
    NameInUse(String),
    /// Not acceptable to the kernel.
    #[error("{0:?} cannot name an interface: 1 to 15 bytes, no spaces, slashes, or colons")]
    BadName(String),
    /// Anything else.
    #[error("cannot make the TUN device: {0}")]
    Io(#[from] io::Error),
}

impl OpenError {
    /// Whether running with more rights, or in a machine that has the device, would help (exit code 77).
    pub fn is_permission(&self) -> bool {
        matches!(self, OpenError::Permission | OpenError::Missing)
    }

    /// Sorts the errors of opening `/dev/net/tun` and of `TUNSETIFF` (drivers/net/tun.c).
    fn from_io(error: io::Error, name: &str) -> OpenError {
        let exists = nix::net::if_::if_nametoindex(name).is_ok();
        match error.raw_os_error().map(Errno::from_raw) {
            Some(Errno::EPERM | Errno::EACCES) => OpenError::Permission,
            Some(Errno::ENOENT | Errno::ENODEV | Errno::ENXIO) => OpenError::Missing,
            Some(Errno::EBUSY | Errno::EEXIST) => OpenError::NameInUse(name.to_owned()),
            Some(Errno::EINVAL) if exists => OpenError::NameInUse(name.to_owned()),
            Some(Errno::EINVAL) => OpenError::BadName(name.to_owned()),
            _ => OpenError::Io(error),
        }
    }
}

/// Why a read or write did not happen.
#[derive(Debug, thiserror::Error)]
pub enum DeviceError {
    /// The interface was deleted: nothing will ever come again.
    #[error("the overlay interface is gone")]
    Gone,
    /// The interface is down (`EIO` from a write).
    #[error("the overlay interface is down")]
    Down,
    /// The kernel's queue is full.
    #[error("the kernel takes no more packets now")]
    Full,
    /// The kernel does not accept this packet.
    #[error("the kernel refused a packet: {0}")]
    Refused(io::Error),
}

impl DeviceError {
    /// Sorts the errors of `tun_chr_read_iter` and `tun_chr_write_iter` (drivers/net/tun.c).
    fn from_io(error: io::Error) -> DeviceError {
        match error.raw_os_error().map(Errno::from_raw) {
            Some(Errno::EBADFD | Errno::EBADF | Errno::ENODEV) => DeviceError::Gone,
            Some(Errno::EIO) => DeviceError::Down,
            Some(Errno::EAGAIN | Errno::ENOBUFS | Errno::ENOMEM) => DeviceError::Full,
            _ => DeviceError::Refused(error),
        }
    }
}

/// Refuses what the kernel would refuse or, worse, shorten.
fn check_name(name: &str) -> Result<(), OpenError> {
    let forbidden = |byte: u8| byte.is_ascii_whitespace() || byte.is_ascii_control() || b"/:".contains(&byte);
    let good = !name.is_empty()
        && name.len() <= NAME_MAX_BYTES
        && name != "."
        && name != ".."
        && !name.bytes().any(forbidden);
    if good { Ok(()) } else { Err(OpenError::BadName(name.to_owned())) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bad_names_are_refused_before_the_kernel_shortens_them() {
        for name in ["", ".", "..", "a/b", "a b", "a:b", "mesh\n", "sixteen-bytes-xx"] {
            assert!(matches!(check_name(name), Err(OpenError::BadName(_))), "{name:?}");
        }
        for name in ["mesh0", "fifteen-bytes-x", "mesh%d"] {
            assert!(check_name(name).is_ok(), "{name:?}");
        }
    }

    #[test]
    fn the_kernels_refusals_become_typed_errors() {
        let open = |errno: Errno| OpenError::from_io(errno.into(), "no-such-name");
        assert!(open(Errno::EPERM).is_permission() && open(Errno::EACCES).is_permission());
        assert!(open(Errno::ENOENT).is_permission() && matches!(open(Errno::ENODEV), OpenError::Missing));
        assert!(matches!(open(Errno::EBUSY), OpenError::NameInUse(_)));
        assert!(matches!(OpenError::from_io(Errno::EINVAL.into(), "lo"), OpenError::NameInUse(_)));
        assert!(matches!(open(Errno::EMFILE), OpenError::Io(_)));
        let device = |errno: Errno| DeviceError::from_io(errno.into());
        assert!(matches!(device(Errno::EBADFD), DeviceError::Gone));
        assert!(matches!(device(Errno::EIO), DeviceError::Down));
        assert!(matches!(device(Errno::EINVAL), DeviceError::Refused(_)));
    }

    #[test]
    fn offloads_read_as_a_list() {
        assert_eq!(Offloads::NONE.to_string(), "none");
        assert_eq!(Offloads { checksum: true, tcp: true, udp: false }.to_string(), "checksum+tcp");
    }
}
