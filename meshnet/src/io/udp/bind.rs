//! Making a socket.

use std::io;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};
use std::os::fd::AsFd;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicUsize};

use nix::errno::Errno;
use nix::sys::socket::setsockopt;
use nix::sys::socket::sockopt::{RcvBufForce, SndBufForce};
use socket2::{Domain, Protocol, Type};

use super::sys::set_int;
use super::{Family, SEGMENTS_MAX, Socket, Stats};

/// Segments in one send that kernels before 6.9 take (`UDP_MAX_SEGMENTS`).
const SEGMENTS_MAX_OLD: usize = 64;

/// What kind of socket to make.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Options {
    /// Address and port.
    pub bind: Bind,
    /// `SO_REUSEPORT`: several sockets of this user may have it, see [`super::Group`].
    pub share_port: bool,
    /// `SO_MARK`, for policy routing.
    pub mark: Option<u32>,
    /// Receive buffer in bytes, as far as the kernel permits.
    pub receive_buffer_bytes: usize,
    /// Send buffer in bytes, as far as the kernel permits.
    pub send_buffer_bytes: usize,
    /// Use segmentation offload where the kernel has it.
    pub offload: bool,
    /// Have ICMP errors reported: see [`Socket::read_faults`].
    pub report_faults: bool,
    /// Whether the kernel may fragment.
    pub mtu_discovery: MtuDiscovery,
}

impl Options {
    /// What suits a daemon: large buffers, offload, errors reported, fragmenting allowed.
    pub fn new(bind: Bind) -> Options {
        Options {
            bind,
            share_port: false,
            mark: None,
            receive_buffer_bytes: 8 << 20,
            send_buffer_bytes: 2 << 20,
            offload: true,
            report_faults: true,
            mtu_discovery: MtuDiscovery::Fragment,
        }
    }
}

/// Where a socket listens.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Bind {
    /// All addresses of the machine, IPv6 and IPv4, or IPv4 only where there is no IPv6. Port 0: any free one.
    Any {
        /// UDP port.
        port: u16,
    },
    /// One address. The unspecified addresses mean all of that family only.
    Address(SocketAddr),
}

impl From<SocketAddr> for Bind {
    /// `[::]` stands for both families, as people expect from a listen address.
    fn from(address: SocketAddr) -> Bind {
        if address.ip() == Ipv6Addr::UNSPECIFIED {
            Bind::Any { port: address.port() }
        } else {
            Bind::Address(address)
        }
    }
}

/// Whether datagrams longer than the path's MTU are fragmented.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum MtuDiscovery {
    /// By the kernel and by IPv4 routers: no DF bit.
    Fragment,
    /// Never: DF bit set, and the kernel's own idea of the path's MTU ignored (`IP_PMTUDISC_PROBE`, ip(7)).
    Probe,
}

/// Why there is no socket.
#[derive(Debug, thiserror::Error)]
pub enum BindError {
    /// Somebody has that port.
    #[error("UDP {0} is in use by another program")]
    InUse(SocketAddr),
    /// The address is not one of this machine.
    #[error("{0} is not an address of this machine")]
    NotOurs(SocketAddr),
    /// A port below 1024, or a mark, without the capability.
    #[error(
        "no permission for UDP {0}: ports below 1024 need CAP_NET_BIND_SERVICE, a mark needs CAP_NET_ADMIN"
    )]
    Permission(SocketAddr),
    /// Anything else.
    #[error("cannot open UDP {0}: {1}")]
    Io(SocketAddr, io::Error),
}

impl BindError {
    fn new(address: SocketAddr, error: io::Error) -> BindError {
        match error.raw_os_error().map(Errno::from_raw) {
            Some(Errno::EADDRINUSE) => BindError::InUse(address),
            Some(Errno::EADDRNOTAVAIL) => BindError::NotOurs(address),
            Some(Errno::EACCES | Errno::EPERM) => BindError::Permission(address),
            _ => BindError::Io(address, error),
        }
    }
}

impl Socket {
    /// Makes and binds a socket.
    ///
    /// # Errors
    /// See [`BindError`]. What the kernel does not have (offload, big buffers, error reports) is done without.
    pub fn bind(options: &Options) -> Result<Socket, BindError> {
        match options.bind {
            Bind::Address(address) => {
                let family = if address.is_ipv4() { Family::V4 } else { Family::V6 };
                open(options, address, family).map_err(|error| BindError::new(address, error))
            }
            Bind::Any { port } => {
                let address = SocketAddr::new(Ipv6Addr::UNSPECIFIED.into(), port);
                match open(options, address, Family::Dual) {
                    Ok(socket) => Ok(socket),
                    Err(error) if error.raw_os_error() == Some(libc::EADDRINUSE) => {
                        Err(BindError::InUse(address))
                    }
                    Err(_) => {
                        let address = SocketAddr::new(Ipv4Addr::UNSPECIFIED.into(), port);
                        open(options, address, Family::V4).map_err(|error| BindError::new(address, error))
                    }
                }
            }
        }
    }
}

fn open(options: &Options, address: SocketAddr, family: Family) -> io::Result<Socket> {
    let domain = if family.is_v6_socket() { Domain::IPV6 } else { Domain::IPV4 };
    let inner = socket2::Socket::new(domain, Type::DGRAM, Some(Protocol::UDP))?;
    inner.set_nonblocking(true)?;
    if family.is_v6_socket() {
        inner.set_only_v6(family == Family::V6)?;
    }
    if let Some(mark) = options.mark {
        inner.set_mark(mark)?;
    }
    if options.share_port {
        inner.set_reuse_port(true)?;
    }
    set_buffers(&inner, options);
    if let Err(error) = set_mtu_discovery(&inner, family, options.mtu_discovery) {
        tracing::debug!(%error, "no control over fragmenting");
    }
    inner.bind(&address.into())?;
    let local = inner.local_addr()?.as_socket().unwrap_or(address);
    let tells_local = local.ip().is_unspecified();
    let receive_offload = options.offload && set_int(inner.as_fd(), libc::SOL_UDP, libc::UDP_GRO, 1).is_ok();
    let reports_errors = options.report_faults && ask_for_faults(&inner, family);
    ask_for_details(&inner, family, tells_local);
    let segments = if options.offload { segments_in_one_send(&inner) } else { 1 };
    Ok(Socket {
        inner,
        family,
        local,
        tells_local,
        reports_errors,
        segments: AtomicUsize::new(segments),
        receive_offload,
        thinning: AtomicBool::new(false),
        drops_counted: AtomicU32::new(0),
        stats: Stats::default(),
    })
}

/// With `CAP_NET_ADMIN` beyond `net.core.rmem_max`, else up to it.
fn set_buffers(socket: &socket2::Socket, options: &Options) {
    let (receive, send) = (options.receive_buffer_bytes, options.send_buffer_bytes);
    if setsockopt(socket, RcvBufForce, &receive).is_err() {
        let _ = socket.set_recv_buffer_size(receive);
    }
    if setsockopt(socket, SndBufForce, &send).is_err() {
        let _ = socket.set_send_buffer_size(send);
    }
}

pub(super) fn set_mtu_discovery(
    socket: &socket2::Socket,
    family: Family,
    discovery: MtuDiscovery,
) -> io::Result<()> {
    let (v4, v6) = match discovery {
        MtuDiscovery::Fragment => (libc::IP_PMTUDISC_DONT, libc::IPV6_PMTUDISC_DONT),
        MtuDiscovery::Probe => (libc::IP_PMTUDISC_PROBE, libc::IPV6_PMTUDISC_PROBE),
    };
    if family.may_see_v4() {
        set_int(socket.as_fd(), libc::IPPROTO_IP, libc::IP_MTU_DISCOVER, v4)?;
    }
    if family.is_v6_socket() {
        set_int(socket.as_fd(), libc::IPPROTO_IPV6, libc::IPV6_MTU_DISCOVER, v6)?;
    }
    Ok(())
}

fn ask_for_faults(socket: &socket2::Socket, family: Family) -> bool {
    let fd = socket.as_fd();
    let v4 = !family.may_see_v4() || set_int(fd, libc::IPPROTO_IP, libc::IP_RECVERR, 1).is_ok();
    let v6 = !family.is_v6_socket() || set_int(fd, libc::IPPROTO_IPV6, libc::IPV6_RECVERR, 1).is_ok();
    v4 && v6
}

/// Has TOS and, where the socket serves several addresses, the local address told with each message. A kernel that
/// cannot tell leaves them out.
fn ask_for_details(socket: &socket2::Socket, family: Family, tells_local: bool) {
    let fd = socket.as_fd();
    if family.may_see_v4() {
        let _ = set_int(fd, libc::IPPROTO_IP, libc::IP_RECVTOS, 1);
    }
    if family.is_v6_socket() {
        let _ = set_int(fd, libc::IPPROTO_IPV6, libc::IPV6_RECVTCLASS, 1);
    }
    if tells_local && family.is_v6_socket() {
        let _ = set_int(fd, libc::IPPROTO_IPV6, libc::IPV6_RECVPKTINFO, 1);
    } else if tells_local {
        let _ = set_int(fd, libc::IPPROTO_IP, libc::IP_PKTINFO, 1);
    }
}

fn segments_in_one_send(socket: &socket2::Socket) -> usize {
    // Setting a size of 0 changes nothing, but fails where there is no such option.
    if set_int(socket.as_fd(), libc::SOL_UDP, libc::UDP_SEGMENT, 0).is_err() {
        return 1;
    }
    if kernel_is_at_least(6, 9) { SEGMENTS_MAX } else { SEGMENTS_MAX_OLD }
}

fn kernel_is_at_least(major: u32, minor: u32) -> bool {
    let Ok(names) = nix::sys::utsname::uname() else {
        return false;
    };
    let release = names.release().to_string_lossy().into_owned();
    let mut numbers =
        release.split(|c: char| !c.is_ascii_digit()).map(|part| part.parse::<u32>().unwrap_or(0));
    (numbers.next().unwrap_or(0), numbers.next().unwrap_or(0)) >= (major, minor)
}
