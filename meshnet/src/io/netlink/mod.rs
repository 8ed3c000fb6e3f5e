//! The kernel's network configuration through rtnetlink(7): addresses, routes, and link settings of the overlay
//! interface, the machine's own addresses, and a [`Watch`] on changes.
//!
//! All functions are asynchronous and need a tokio runtime with I/O. What is set is described as a whole
//! ([`Netlink::set_addresses`], [`Netlink::set_routes`]): the functions compare with the kernel and do the difference,
//! so that calling them again changes nothing.

mod address;
mod route;
mod rule;
mod watch;

use std::io;

use futures_util::{StreamExt, TryStreamExt};
use nix::errno::Errno;
use rtnetlink::packet_core::{
    NLM_F_ACK, NLM_F_CREATE, NLM_F_REPLACE, NLM_F_REQUEST, NetlinkMessage, NetlinkPayload,
};
use rtnetlink::packet_route::link::{AfSpecInet6, AfSpecUnspec, In6AddrGenMode, LinkAttribute, LinkFlags};
use rtnetlink::packet_route::tc::{TcAttribute, TcHandle, TcMessage};
use rtnetlink::packet_route::{AddressFamily, RouteNetlinkMessage};
use rtnetlink::{Handle, LinkUnspec};
use tokio::task::JoinHandle;

pub use address::{AddressReport, Exclude, LocalAddress};
pub use route::{DEFAULT_METRIC, MAIN_TABLE, PROTOCOL, RouteOptions, RouteReport};
pub use rule::{DEFAULT_PRIORITY, Match, OurRules, PRIORITIES, Rule, RuleReport, rules};
pub use watch::{Changes, Watch};

/// A connection to the kernel for requests. One is enough for a process.
#[derive(Debug)]
pub struct Netlink {
    handle: Handle,
    connection: JoinHandle<()>,
    /// The kernel filters dumps for us (Linux 4.20); else every route of the machine passes by.
    strict: bool,
}

impl Netlink {
    /// Opens the connection, in the network namespace of the calling thread.
    ///
    /// # Errors
    /// When the process is out of descriptors, or a sandbox forbids netlink.
    ///
    /// # Panics
    /// Outside of a tokio runtime.
    pub fn connect() -> Result<Netlink, NetlinkError> {
        let (strict, connection, handle) = match rtnetlink::new_connection_with_strict_check() {
            Ok((connection, handle, _)) => (true, connection, handle),
            Err(_) => {
                let (connection, handle, _) = rtnetlink::new_connection().map_err(NetlinkError::Connect)?;
                (false, connection, handle)
            }
        };
        Ok(Netlink { handle, connection: tokio::spawn(connection), strict })
    }

    /// The index of the interface called `name`, if there is one.
    ///
    /// # Errors
    /// [`NetlinkError::Request`] if the kernel refuses to tell.
    pub async fn index_of(&self, name: &str) -> Result<Option<u32>, NetlinkError> {
        let mut links = self.handle.link().get().match_name(name).execute();
        match links.try_next().await {
            Ok(link) => Ok(link.map(|link| link.header.index)),
            Err(error) => match NetlinkError::new("look up an interface", error) {
                NetlinkError::Request { errno: Errno::ENODEV, .. } => Ok(None),
                other => Err(other),
            },
        }
    }

    /// Sets what `settings` names on interface `index`, and leaves the rest alone.
    ///
    /// # Errors
    /// [`NetlinkError::Request`]: `ENODEV` if the interface is gone, `EPERM` without `CAP_NET_ADMIN`, `EINVAL` for an
    /// MTU that the device cannot have.
    pub async fn set_link(&self, index: u32, settings: &LinkSettings) -> Result<(), NetlinkError> {
        if settings.no_link_local {
            self.stop_link_local(index).await;
        }
        let mut message = LinkUnspec::new_with_index(index);
        if let Some(mtu) = settings.mtu {
            message = message.mtu(mtu);
        }
        if let Some(packets) = settings.queue_packets {
            message = message.txqueuelen(packets);
        }
        if let Some(bytes) = settings.super_packet_bytes {
            message = message.append_extra_attribute(LinkAttribute::GsoMaxSize(bytes));
        }
        if settings.up {
            message = message.up();
        }
        let request = self.handle.link().set(message.build());
        request.execute().await.map_err(|error| NetlinkError::new("set up the interface", error))
    }

    /// Takes the queueing discipline off interface `index` (`noqueue`, as devices of tunnels in the kernel have it). A TUN
    /// device never says that it is full, so that nothing ever waits in one: it only costs time. And only without one does
    /// a sender on this machine hear that its packet was dropped (`__dev_queue_xmit` gives it what `tun_net_xmit` says):
    /// TCP then sends slower and the same packet again, and nothing is lost.
    ///
    /// # Errors
    /// [`NetlinkError::Request`]: `EPERM` without `CAP_NET_ADMIN`, `ENODEV` if the interface is gone.
    pub async fn take_off_queue(&self, index: u32) -> Result<(), NetlinkError> {
        let failed = |error| NetlinkError::new("take the queue off the interface", error);
        let mut message = TcMessage::with_index(index.cast_signed());
        message.header.parent = TcHandle::ROOT;
        message.attributes.push(TcAttribute::Kind("noqueue".to_owned()));
        let mut request = NetlinkMessage::from(RouteNetlinkMessage::NewQueueDiscipline(message));
        request.header.flags = NLM_F_REQUEST | NLM_F_ACK | NLM_F_CREATE | NLM_F_REPLACE;
        let mut answers = self.handle.clone().request(request).map_err(failed)?;
        while let Some(answer) = answers.next().await {
            if let NetlinkPayload::Error(error) = answer.payload
                && error.code.is_some()
            {
                return Err(failed(rtnetlink::Error::NetlinkError(error)));
            }
        }
        Ok(())
    }

    /// Without link-local address the kernel sends no router solicitations into the overlay. Old kernels and those
    /// without IPv6 refuse; nothing is lost then.
    async fn stop_link_local(&self, index: u32) {
        let mode = AfSpecUnspec::Inet6(vec![AfSpecInet6::AddrGenMode(In6AddrGenMode::None)]);
        let message = LinkUnspec::new_with_index(index)
            .append_extra_attribute(LinkAttribute::AfSpecUnspec(vec![mode]))
            .build();
        if let Err(error) = self.handle.link().set(message).execute().await {
            tracing::debug!(%error, "the interface keeps its link-local address");
        }
    }

    /// Index, name, and flags of all interfaces.
    async fn links(&self) -> Result<Vec<Link>, NetlinkError> {
        let mut links = Vec::new();
        let mut stream = self.handle.link().get().execute();
        let failed = |error| NetlinkError::new("list interfaces", error);
        while let Some(message) = stream.try_next().await.map_err(failed)? {
            let name = message.attributes.iter().find_map(|attribute| match attribute {
                LinkAttribute::IfName(name) => Some(name.clone()),
                _ => None,
            });
            links.push(Link {
                index: message.header.index,
                name: name.unwrap_or_default(),
                flags: message.header.flags,
            });
        }
        Ok(links)
    }
}

impl Drop for Netlink {
    fn drop(&mut self) {
        self.connection.abort();
    }
}

/// What [`Netlink::set_link`] sets.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct LinkSettings {
    /// Largest IP packet in bytes.
    pub mtu: Option<u32>,
    /// `txqueuelen`: packets (or super-packets) that wait for the daemon before the kernel drops.
    pub queue_packets: Option<u32>,
    /// `gso_max_size`: the longest super-packet that the device is given.
    pub super_packet_bytes: Option<u32>,
    /// Have no IPv6 link-local address (to be set before the interface is up).
    pub no_link_local: bool,
    /// Bring the interface up.
    pub up: bool,
}

/// Why a netlink request failed.
#[derive(Debug, thiserror::Error)]
pub enum NetlinkError {
    /// No connection to the kernel.
    #[error("cannot open a netlink socket: {0}")]
    Connect(io::Error),
    /// The kernel said no.
    #[error("cannot {doing}: {}", errno.desc())]
    Request {
        /// What was asked for, in the infinitive.
        doing: &'static str,
        /// The kernel's answer.
        errno: Errno,
    },
    /// The connection broke, or the kernel answered something that makes no sense.
    #[error("cannot {doing}: no usable answer from the kernel")]
    Lost {
        /// What was asked for, in the infinitive.
        doing: &'static str,
    },
}

impl NetlinkError {
    fn new(doing: &'static str, error: rtnetlink::Error) -> NetlinkError {
        match error {
            rtnetlink::Error::NetlinkError(message) => {
                NetlinkError::Request { doing, errno: Errno::from_raw(message.raw_code().saturating_neg()) }
            }
            _ => NetlinkError::Lost { doing },
        }
    }

    /// The kernel's error code, if it gave one.
    pub fn errno(&self) -> Option<Errno> {
        match self {
            NetlinkError::Request { errno, .. } => Some(*errno),
            NetlinkError::Connect(error) => error.raw_os_error().map(Errno::from_raw),
            NetlinkError::Lost { .. } => None,
        }
    }

    /// Whether more rights would help (exit code 77).
    pub fn is_permission(&self) -> bool {
        matches!(self.errno(), Some(Errno::EPERM | Errno::EACCES))
    }
}

struct Link {
    index: u32,
    name: String,
    flags: LinkFlags,
}

/// The netlink family of an address.
fn family_of(is_v4: bool) -> AddressFamily {
    if is_v4 { AddressFamily::Inet } else { AddressFamily::Inet6 }
}

#[cfg(test)]
mod tests {
    use std::future::Future;

    use super::*;
    use crate::io::testing::{add_interface, in_namespace, ip, ip_says};

    /// Runs `body` in a runtime on a thread in a namespace with an interface `net0`.
    pub(super) fn with_interface<F: Future<Output = ()>>(
        body: impl FnOnce(Netlink, u32) -> F + Send + 'static,
    ) {
        in_namespace(move || {
            add_interface("net0");
            let index = nix::net::if_::if_nametoindex("net0").unwrap();
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
            runtime.block_on(async { body(Netlink::connect().unwrap(), index).await });
        });
    }

    #[test]
    fn link_settings_arrive_and_no_link_local_address_appears() {
        with_interface(|netlink, index| async move {
            assert_eq!(netlink.index_of("net0").await.unwrap(), Some(index));
            assert_eq!(netlink.index_of("nothing").await.unwrap(), None);
            let settings = LinkSettings {
                mtu: Some(1380),
                queue_packets: Some(77),
                super_packet_bytes: Some(60_001),
                no_link_local: true,
                up: true,
            };
            netlink.set_link(index, &settings).await.unwrap();
            assert!(ip_says("-d link show dev net0").contains("gso_max_size 60001"));
            let link = ip_says("addr show dev net0");
            assert!(link.contains("mtu 1380") && link.contains("qlen 77") && link.contains("UP"), "{link}");
            assert!(!link.contains("fe80"), "{link}");
        });
    }

    #[test]
    fn an_interface_loses_its_queue_also_while_it_is_up_and_a_second_time() {
        with_interface(|netlink, index| async move {
            assert!(!ip_says("link show dev net0").contains("qdisc pfifo"));
            ip("link set net0 up");
            let tc = std::process::Command::new("tc")
                .args(["qdisc", "replace", "dev", "net0", "root", "pfifo"])
                .status();
            assert!(tc.unwrap().success() && ip_says("link show dev net0").contains("qdisc pfifo"));
            for _ in 0..2 {
                netlink.take_off_queue(index).await.unwrap();
                assert!(ip_says("link show dev net0").contains("qdisc noqueue"));
            }
            assert_eq!(netlink.take_off_queue(9999).await.unwrap_err().errno(), Some(Errno::ENODEV));
        });
    }

    #[test]
    fn a_missing_interface_is_told_with_its_errno() {
        with_interface(|netlink, _| async move {
            let settings = LinkSettings { up: true, ..LinkSettings::default() };
            let error = netlink.set_link(9999, &settings).await.unwrap_err();
            assert_eq!(error.errno(), Some(Errno::ENODEV));
            assert_eq!(error.to_string(), "cannot set up the interface: No such device");
        });
    }
}
