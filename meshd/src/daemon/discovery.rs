//! The sockets by which the node announces itself to its LANs and hears others. What is said, and when, is the node's
//! business ([`meshnet::node::Event::Announce`]).

use std::collections::BTreeSet;
use std::io::{self, IoSlice};
use std::net::{Ipv6Addr, SocketAddr, SocketAddrV4, SocketAddrV6};
use std::os::fd::AsRawFd;
use std::time::Duration;

use nix::libc::in_pktinfo;
use nix::sys::socket::{ControlMessage, MsgFlags, SockaddrIn, sendmsg};
use proto::lan::{GROUP4, GROUP6, MAX_LEN, PORT};
use socket2::{Domain, InterfaceIndexOrAddress, Protocol, SockRef, Socket, Type};
use tokio::net::UdpSocket;
use tokio::time::Instant;
use tracing::debug;

/// So many announcements are heard in a second; anybody on the LAN can make more.
const HEARD_PER_S: u32 = 200;
/// Most network devices that are served.
const INTERFACES_MAX: usize = 64;

/// The sockets; none while discovery is turned off, or where the machine has no multicast.
pub(super) struct Discovery {
    v4: Option<UdpSocket>,
    v6: Option<UdpSocket>,
    interfaces: BTreeSet<u32>,
    /// The second that is counted, and what was heard in it.
    second: Instant,
    heard: u32,
}

impl Discovery {
    /// Without sockets yet.
    pub(super) fn new() -> Discovery {
        Discovery { v4: None, v6: None, interfaces: BTreeSet::new(), second: Instant::now(), heard: 0 }
    }

    /// Opens or closes the sockets, and joins the groups on devices that are new. `own` is the overlay's device, which is
    /// no LAN.
    pub(super) fn update(&mut self, enabled: bool, own: &str) {
        if !enabled {
            (self.v4, self.v6) = (None, None);
            self.interfaces.clear();
            return;
        }
        let said = |family| move |error: &io::Error| debug!(%error, family, "no discovery in the LAN");
        if self.v4.is_none() && self.v6.is_none() {
            self.v4 = open(Domain::IPV4).inspect_err(said("IPv4")).ok();
            self.v6 = open(Domain::IPV6).inspect_err(said("IPv6")).ok();
        }
        let mut present = BTreeSet::new();
        for interface in nix::net::if_::if_nameindex().iter().flatten().take(INTERFACES_MAX) {
            let (index, name) = (interface.index(), interface.name().to_str());
            if name == Ok(own) || name == Ok("lo") {
                continue;
            }
            present.insert(index);
            if !self.interfaces.contains(&index) {
                self.join(index);
            }
        }
        self.interfaces = present;
    }

    /// A device without multicast, or without IPv6, refuses; so be it.
    fn join(&self, index: u32) {
        if let Some(v4) = &self.v4 {
            let joined =
                SockRef::from(v4).join_multicast_v4_n(&GROUP4, &InterfaceIndexOrAddress::Index(index));
            debug!(?joined, index, "discovery over IPv4");
        }
        if let Some(v6) = &self.v6 {
            let joined = v6.join_multicast_v6(&GROUP6, index);
            debug!(?joined, index, "discovery over IPv6");
        }
    }

    /// Says an `announcement` on every LAN, one for each address family. What is not sent is said again in a while.
    pub(super) fn announce(&self, mut announcement: impl FnMut() -> Vec<u8>) {
        let group = SockaddrIn::from(SocketAddrV4::new(GROUP4, PORT));
        for index in &self.interfaces {
            if let Some(v4) = &self.v4 {
                let device = in_pktinfo {
                    ipi_ifindex: i32::try_from(*index).unwrap_or(0),
                    ipi_spec_dst: nix::libc::in_addr { s_addr: 0 },
                    ipi_addr: nix::libc::in_addr { s_addr: 0 },
                };
                let announcement = announcement();
                let (bytes, device) =
                    ([IoSlice::new(&announcement)], [ControlMessage::Ipv4PacketInfo(&device)]);
                let sent =
                    sendmsg(v4.as_raw_fd(), &bytes, &device, MsgFlags::MSG_DONTWAIT, Some(&group)).err();
                debug!(error = ?sent, index, "announced over IPv4");
            }
            if let Some(v6) = &self.v6 {
                let group = SocketAddrV6::new(GROUP6, PORT, 0, *index);
                let sent = v6.try_send_to(&announcement(), group.into()).err();
                debug!(error = ?sent, index, "announced over IPv6");
            }
        }
    }

    /// One was heard.
    pub(super) fn count(&mut self) {
        if self.second.elapsed() >= Duration::from_secs(1) {
            (self.second, self.heard) = (Instant::now(), 0);
        }
        self.heard += 1;
    }

    /// The next announcement of somebody, and where it comes from. Cancelling loses nothing. What comes too fast waits in
    /// the kernel, or is lost.
    pub(super) async fn receive(&self) -> (SocketAddr, Vec<u8>) {
        if self.heard >= HEARD_PER_S {
            tokio::time::sleep_until(self.second + Duration::from_secs(1)).await;
        }
        let mut buffers = [[0; MAX_LEN + 1]; 2];
        let [first, second] = &mut buffers;
        tokio::select! {
            (from, len) = receive_from(self.v4.as_ref(), first) => (from, first[..len].to_vec()),
            (from, len) = receive_from(self.v6.as_ref(), second) => (from, second[..len].to_vec()),
        }
    }
}

async fn receive_from(socket: Option<&UdpSocket>, buffer: &mut [u8]) -> (SocketAddr, usize) {
    let Some(socket) = socket else { return std::future::pending().await };
    loop {
        match socket.recv_from(buffer).await {
            Ok((len, from)) if is_near(from) => return (from, len),
            Ok(_) => {}
            // An ICMP error of something sent before, at worst again and again.
            Err(_) => tokio::time::sleep(Duration::from_millis(50)).await,
        }
    }
}

/// Whether it was sent to the group on a link of this machine. The IPv4 socket is bound to the group; the IPv6 one cannot be,
/// but what goes to a link-local group comes from a link-local address, and no router passes such a one on.
fn is_near(from: SocketAddr) -> bool {
    match from {
        SocketAddr::V4(_) => true,
        SocketAddr::V6(v6) => v6.ip().is_unicast_link_local(),
    }
}

fn open(domain: Domain) -> io::Result<UdpSocket> {
    let socket = Socket::new(domain, Type::DGRAM, Some(Protocol::UDP))?;
    // Other daemons of this machine listen too.
    socket.set_reuse_address(true)?;
    socket.set_nonblocking(true)?;
    let local = if domain == Domain::IPV6 {
        socket.set_only_v6(true)?;
        socket.set_multicast_hops_v6(1)?;
        socket.set_multicast_all_v6(false)?;
        SocketAddr::from((Ipv6Addr::UNSPECIFIED, PORT))
    } else {
        socket.set_multicast_ttl_v4(1)?;
        socket.set_multicast_all_v4(false)?;
        SocketAddr::from((GROUP4, PORT))
    };
    socket.bind(&local.into())?;
    UdpSocket::from_std(socket.into())
}
