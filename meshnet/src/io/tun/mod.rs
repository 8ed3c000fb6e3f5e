//! The overlay device: IP packets from the kernel, IP packets to the kernel.
//!
//! The interface is made for super-packets: a read gives one packet or one super-packet with [`Meta`] that tells how to
//! cut it, a write takes the pieces of one packet (or super-packet) and the same metadata. A device without offload
//! gives and takes plain packets with [`Meta::PLAIN`] only; [`Device::offloads`] tells which it is.
//!
//! All descriptors are non-blocking: block with [`super::wake::Wake::wait`].

mod offload;
mod plain;

use std::fmt;
use std::io::{self, IoSlice};
use std::os::fd::AsFd;
use std::sync::Arc;

use nix::errno::Errno;

pub use crate::dataplane::meta::{Checksum, Meta, Offloads, Segmentation};
pub use offload::Offload;
pub use plain::Plain;

/// Longest interface name in bytes (`IFNAMSIZ` less the final zero, netdevice(7)).
pub const NAME_MAX_BYTES: usize = 15;
/// The longest that one read can give: an IP packet's length field has 16 bits.
pub const READ_MAX_BYTES: usize = 65_535;
/// Most queues of one device that are asked for.
pub const QUEUES_MAX: usize = 16;

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

/// What to open.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Options {
    /// The interface's name, at most [`NAME_MAX_BYTES`] bytes; `%d` in it becomes the first free number.
    pub name: String,
    /// Whether to ask the kernel for offload.
    pub offload: Wish,
    /// Queues, 1 to [`QUEUES_MAX`]. The device without offload has one, whatever this says.
    pub queues: usize,
    /// So many queues more if that can be had: all of them or none. Not by a device without offload, and not by an interface
    /// that somebody made for one queue.
    pub spare: usize,
}

/// Whether offload is wanted.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum Wish {
    /// As much as the kernel grants.
    #[default]
    Auto,
    /// None.
    Off,
}

/// An overlay device.
#[derive(Clone, Debug)]
pub struct Opened {
    /// Its queues; at least one.
    pub queues: Vec<Arc<dyn Device>>,
    /// Why it is this kind of device.
    pub reason: Reason,
}

impl Opened {
    /// Its first queue, which stands for the device as a whole.
    ///
    /// # Panics
    /// Never for what [`open`] gave.
    pub fn first(&self) -> &dyn Device {
        &*self.queues[0]
    }
}

/// Why a device has the offloads that it has.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Reason {
    /// The kernel granted them.
    Granted,
    /// They are turned off.
    TurnedOff,
    /// The kernel has no device with a virtio header.
    Unsupported,
}

impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Reason::Granted => "granted by the kernel",
            Reason::TurnedOff => "turned off in the configuration",
            Reason::Unsupported => "not supported by the kernel",
        })
    }
}

/// Makes the overlay interface, which vanishes again when the last queue is dropped. It is down and has no addresses: see
/// [`super::netlink`].
///
/// # Errors
/// See [`OpenError`].
///
/// # Panics
/// When the number of queues is out of range.
pub fn open(options: &Options) -> Result<Opened, OpenError> {
    let reason = match options.offload {
        Wish::Off => Reason::TurnedOff,
        Wish::Auto => match open_offload(options) {
            Ok(queues) => {
                let queues = queues.into_iter().map(|queue| Arc::new(queue) as Arc<dyn Device>).collect();
                return Ok(Opened { queues, reason: Reason::Granted });
            }
            Err(OpenError::Io(error)) => {
                tracing::debug!(%error, "no device with offload");
                Reason::Unsupported
            }
            Err(error) => return Err(error),
        },
    };
    let plain = Plain::open(&options.name)?;
    Ok(Opened { queues: vec![Arc::new(plain)], reason })
}

fn open_offload(options: &Options) -> Result<Vec<Offload>, OpenError> {
    let all = options.queues + options.spare;
    if options.spare > 0 && all <= QUEUES_MAX {
        match Offload::open(&options.name, all) {
            Ok(queues) => return Ok(queues),
            Err(error) => tracing::debug!(%error, queues = all, "no device with so many queues"),
        }
    }
    Offload::open(&options.name, options.queues)
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
}
