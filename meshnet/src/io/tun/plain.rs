//! The device without offload, made with the `tun-tap` crate: one packet a read, one packet a write.

use std::fs::File;
use std::io::{self, IoSlice, Read, Write};
use std::os::fd::{AsFd, BorrowedFd, FromRawFd, IntoRawFd, OwnedFd};

use nix::fcntl::{FcntlArg, FdFlag, OFlag, fcntl};
use nix::net::if_::if_nametoindex;
use tun_tap::{Iface, Mode};

use super::{Checksum, Device, DeviceError, Meta, Offloads, OpenError, Packet, Segmentation, check_name};

/// A TUN device that carries plain packets.
#[derive(Debug)]
pub struct Plain {
    file: File,
    name: String,
    index: u32,
}

impl Plain {
    /// Makes the interface `name` (without packet information, non-blocking, close-on-exec).
    ///
    /// # Errors
    /// See [`OpenError`].
    pub fn open(name: &str) -> Result<Plain, OpenError> {
        check_name(name)?;
        let iface =
            Iface::without_packet_info(name, Mode::Tun).map_err(|error| OpenError::from_io(error, name))?;
        let name = iface.name().to_owned();
        // SAFETY: `into_raw_fd` gives up the crate's ownership of an open descriptor, so that we are its only owner.
        let fd = unsafe { OwnedFd::from_raw_fd(iface.into_raw_fd()) };
        fcntl(&fd, FcntlArg::F_SETFL(OFlag::O_NONBLOCK)).map_err(io::Error::from)?;
        fcntl(&fd, FcntlArg::F_SETFD(FdFlag::FD_CLOEXEC)).map_err(io::Error::from)?;
        let index = if_nametoindex(name.as_str()).map_err(io::Error::from)?;
        Ok(Plain { file: File::from(fd), name, index })
    }
}

impl AsFd for Plain {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.file.as_fd()
    }
}

impl Device for Plain {
    fn name(&self) -> &str {
        &self.name
    }

    fn index(&self) -> u32 {
        self.index
    }

    fn offloads(&self) -> Offloads {
        Offloads::NONE
    }

    fn read(&self, buffer: &mut [u8]) -> Result<Option<Packet>, DeviceError> {
        loop {
            match (&self.file).read(buffer) {
                Ok(len) => return Ok(Some(Packet { len, meta: Meta::PLAIN })),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(None),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(DeviceError::from_io(error)),
            }
        }
    }

    fn write(&self, meta: &Meta, pieces: &[IoSlice<'_>]) -> Result<(), DeviceError> {
        if meta.segmentation != Segmentation::None || meta.checksum != Checksum::Complete {
            return Err(DeviceError::Refused(io::ErrorKind::Unsupported.into()));
        }
        loop {
            match (&self.file).write_vectored(pieces) {
                Ok(_) => return Ok(()),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(DeviceError::from_io(error)),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::net::UdpSocket;
    use std::time::Duration;

    use super::*;
    use crate::io::testing::{in_namespace, ip, ip_says, may_use_tun, soon};
    use crate::io::wake::{Interest, Wake};

    fn in_tun_namespace(body: impl FnOnce() + Send + 'static) {
        if may_use_tun() {
            in_namespace(body);
        }
    }

    fn open_up(name: &str) -> Plain {
        let device = Plain::open(name).unwrap();
        ip(&format!("link set {name} up"));
        ip(&format!("addr add 10.77.0.1/24 dev {name}"));
        device
    }

    fn wait_for_packet(device: &Plain, buffer: &mut [u8], wanted: impl Fn(&[u8]) -> bool) -> usize {
        let wake = Wake::new().unwrap();
        for _ in 0..100 {
            match device.read(buffer).unwrap() {
                Some(packet) if wanted(&buffer[..packet.len]) => return packet.len,
                Some(_) => {}
                None => {
                    let sources = [(device.as_fd(), Interest::Readable)];
                    wake.wait(&sources, Some(Duration::from_secs(2))).unwrap();
                }
            }
        }
        panic!("the packet never came");
    }

    /// What a UDP datagram from 10.77.0.1 looks like with both ends exchanged.
    fn answer(packet: &[u8]) -> Vec<u8> {
        let mut reply = packet.to_vec();
        reply[12..16].copy_from_slice(&packet[16..20]);
        reply[16..20].copy_from_slice(&packet[12..16]);
        reply[20..22].copy_from_slice(&packet[22..24]);
        reply[22..24].copy_from_slice(&packet[20..22]);
        reply
    }

    #[test]
    fn packets_pass_both_ways_and_gathered_writes_are_one_packet() {
        in_tun_namespace(|| {
            let device = open_up("mesh0");
            let socket = UdpSocket::bind("10.77.0.1:0").unwrap();
            socket.set_read_timeout(Some(Duration::from_secs(2))).unwrap();
            socket.send_to(b"ping across", "10.77.0.2:9").unwrap();
            let mut buffer = vec![0; super::super::READ_MAX_BYTES];
            let len = wait_for_packet(&device, &mut buffer, |packet| packet.ends_with(b"ping across"));
            let reply = answer(&buffer[..len]);
            let pieces =
                [IoSlice::new(&reply[..20]), IoSlice::new(&reply[20..30]), IoSlice::new(&reply[30..])];
            device.write(&Meta::PLAIN, &pieces).unwrap();
            let mut received = [0; 64];
            let (count, from) = socket.recv_from(&mut received).unwrap();
            assert_eq!((&received[..count], from.to_string().as_str()), (&b"ping across"[..], "10.77.0.2:9"));
        });
    }

    #[test]
    fn an_empty_queue_does_not_block_and_a_super_packet_is_refused() {
        in_tun_namespace(|| {
            let device = Plain::open("mesh%d").unwrap();
            assert_eq!((device.name(), device.offloads()), ("mesh0", Offloads::NONE));
            let mut buffer = [0; 100];
            assert!(device.read(&mut buffer).unwrap().is_none());
            let meta = Meta { segmentation: Segmentation::Tcp4 { size: 1400 }, ..Meta::PLAIN };
            assert!(matches!(
                device.write(&meta, &[IoSlice::new(&[0x45; 40])]),
                Err(DeviceError::Refused(_))
            ));
        });
    }

    #[test]
    fn a_name_in_use_is_told_and_the_interface_vanishes_with_its_owner() {
        in_tun_namespace(|| {
            let device = Plain::open("mesh0").unwrap();
            assert!(matches!(Plain::open("mesh0"), Err(OpenError::NameInUse(name)) if name == "mesh0"));
            assert!(matches!(Plain::open("lo"), Err(OpenError::NameInUse(_))));
            assert!(matches!(Plain::open("a-name-far-too-long"), Err(OpenError::BadName(_))));
            drop(device);
            soon("the interface is gone", || (!ip_says("link show").contains("mesh0")).then_some(()));
        });
    }

    #[test]
    fn a_device_that_is_down_or_deleted_says_so() {
        in_tun_namespace(|| {
            let device = Plain::open("mesh0").unwrap();
            let packet = [IoSlice::new(&[0x45; 40])];
            assert!(matches!(device.write(&Meta::PLAIN, &packet), Err(DeviceError::Down)));
            ip("link del mesh0");
            assert!(matches!(device.write(&Meta::PLAIN, &packet), Err(DeviceError::Gone)));
            assert!(matches!(device.read(&mut [0; 100]), Err(DeviceError::Gone)));
        });
    }

    #[test]
    fn without_the_capability_the_error_is_permission() {
        in_tun_namespace(|| {
            // A new user namespace has every capability, but not over this network namespace.
            if let Err(errno) = nix::sched::unshare(nix::sched::CloneFlags::CLONE_NEWUSER) {
                eprintln!("SKIPPED: no new user namespace ({errno})");
                return;
            }
            let error = Plain::open("mesh0").unwrap_err();
            assert!(error.is_permission(), "{error}");
        });
    }
}
