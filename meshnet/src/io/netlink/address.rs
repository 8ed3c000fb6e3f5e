//! Addresses: those of the overlay interface are set, those of the machine are listed.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use futures_util::TryStreamExt;
use ipnet::IpNet;
use nix::errno::Errno;
use rtnetlink::AddressMessageBuilder;
use rtnetlink::packet_route::address::{AddressAttribute, AddressFlags, AddressMessage};
use rtnetlink::packet_route::link::LinkFlags;

use super::{Netlink, NetlinkError};

/// `IFA_F_TEMPORARY`, which shares its bit with `IFA_F_SECONDARY` (linux/if_addr.h): a privacy address.
const TEMPORARY: AddressFlags = AddressFlags::Secondary;

/// What [`Netlink::set_addresses`] did.
#[derive(Debug, Default)]
pub struct AddressReport {
    /// Addresses added.
    pub added: usize,
    /// Addresses removed.
    pub removed: usize,
    /// What the kernel did not take, and why; IPv6 addresses where IPv6 is disabled come here.
    pub refused: Vec<(IpNet, NetlinkError)>,
}

/// An address of this machine at which others may reach it.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub struct LocalAddress {
    /// The address and the length of its network's prefix.
    pub address: IpNet,
    /// Index of its interface.
    pub index: u32,
    /// Name of its interface.
    pub interface: String,
}

/// What [`Netlink::local_addresses`] leaves out beside what is never useful.
#[derive(Clone, Copy, Debug, Default)]
pub struct Exclude<'a> {
    /// The overlay interface.
    pub index: Option<u32>,
    /// The overlay's networks: no session may run over the overlay itself.
    pub prefixes: &'a [IpNet],
}

impl Netlink {
    /// Makes `wanted` the addresses of interface `index`: adds what is missing, removes what is too much (IPv6
    /// link-local addresses stay). The kernel adds the route to each address' network itself.
    ///
    /// # Errors
    /// When the addresses cannot be listed. An address that cannot be set is in the report.
    pub async fn set_addresses(&self, index: u32, wanted: &[IpNet]) -> Result<AddressReport, NetlinkError> {
        let mut report = AddressReport::default();
        let mut present = Vec::new();
        for (message, address, _) in self.addresses().await? {
            if message.header.index != index || is_link_local(address.addr()) {
                continue;
            }
            if wanted.contains(&address) {
                present.push(address);
                continue;
            }
            match self.handle.address().del(message).execute().await {
                Ok(()) => report.removed += 1,
                Err(error) => match NetlinkError::new("remove an address", error) {
                    // Removing a primary IPv4 address takes its secondary ones along.
                    error if error.errno() == Some(Errno::EADDRNOTAVAIL) => report.removed += 1,
                    error => report.refused.push((address, error)),
                },
            }
        }
        for &address in wanted {
            if present.contains(&address) {
                continue;
            }
            let request = self.handle.address().add(index, address.addr(), address.prefix_len());
            match request.execute().await {
                Ok(()) => report.added += 1,
                Err(error) => report.refused.push((address, NetlinkError::new("add an address", error))),
            }
        }
        Ok(report)
    }

    /// The addresses of this machine that others may be able to reach, in ascending order. Left out are: loopback
    /// interfaces and those without link, link-local, tentative, deprecated and temporary (privacy) addresses, and what
    /// `exclude` names.
    ///
    /// # Errors
    /// When the kernel does not list them.
    pub async fn local_addresses(&self, exclude: &Exclude<'_>) -> Result<Vec<LocalAddress>, NetlinkError> {
        let links = self.links().await?;
        let mut found = Vec::new();
        for (message, address, flags) in self.addresses().await? {
            let Some(link) = links.iter().find(|link| link.index == message.header.index) else {
                continue;
            };
            let ip = address.addr();
            let reachable = link.flags.contains(LinkFlags::Up | LinkFlags::LowerUp)
                && !link.flags.contains(LinkFlags::Loopback)
                && is_routable(ip)
                && is_settled(ip, flags);
            let excluded = exclude.index == Some(link.index)
                || exclude.prefixes.iter().any(|prefix| prefix.contains(&ip));
            if reachable && !excluded {
                found.push(LocalAddress { address, index: link.index, interface: link.name.clone() });
            }
        }
        found.sort();
        Ok(found)
    }

    async fn addresses(&self) -> Result<Vec<(AddressMessage, IpNet, AddressFlags)>, NetlinkError> {
        let mut found = Vec::new();
        let mut stream = self.handle.address().get().execute();
        let failed = |error| NetlinkError::new("list addresses", error);
        while let Some(message) = stream.try_next().await.map_err(failed)? {
            if let Some((address, flags)) = read_address(&message) {
                found.push((deletable(&message, address), address, flags));
            }
        }
        Ok(found)
    }
}

/// On a point-to-point link `Address` is the other end and `Local` is ours (rtnetlink(7)).
fn read_address(message: &AddressMessage) -> Option<(IpNet, AddressFlags)> {
    let (mut local, mut address) = (None, None);
    let mut flags = AddressFlags::from_bits_retain(u32::from(message.header.flags.bits()));
    for attribute in &message.attributes {
        match attribute {
            AddressAttribute::Local(ip) => local = Some(*ip),
            AddressAttribute::Address(ip) => address = Some(*ip),
            AddressAttribute::Flags(all) => flags = *all,
            _ => {}
        }
    }
    let ip = local.or(address)?;
    Some((IpNet::new(ip, message.header.prefix_len).ok()?, flags))
}

/// The message that removes `address`: only what names it.
fn deletable(message: &AddressMessage, address: IpNet) -> AddressMessage {
    let (index, length) = (message.header.index, address.prefix_len());
    match address.addr() {
        IpAddr::V4(ip) => AddressMessageBuilder::<Ipv4Addr>::new().index(index).address(ip, length).build(),
        IpAddr::V6(ip) => AddressMessageBuilder::<Ipv6Addr>::new().index(index).address(ip, length).build(),
    }
}

fn is_link_local(ip: IpAddr) -> bool {
    matches!(ip, IpAddr::V6(ip) if ip.is_unicast_link_local())
}

fn is_routable(ip: IpAddr) -> bool {
    if ip.is_loopback() || ip.is_unspecified() || ip.is_multicast() {
        return false;
    }
    match ip {
        IpAddr::V4(ip) => !ip.is_link_local(),
        IpAddr::V6(ip) => !ip.is_unicast_link_local(),
    }
}

fn is_settled(ip: IpAddr, flags: AddressFlags) -> bool {
    let unsettled = AddressFlags::Tentative | AddressFlags::Dadfailed | AddressFlags::Deprecated;
    let temporary = ip.is_ipv6() && flags.intersects(TEMPORARY);
    !temporary && !flags.intersects(unsettled)
}

#[cfg(test)]
mod tests {
    use super::super::tests::with_interface;
    use super::*;
    use crate::io::testing::{add_interface, ip, ip_says};

    fn nets(nets: &[&str]) -> Vec<IpNet> {
        nets.iter().map(|net| net.parse().unwrap()).collect()
    }

    #[test]
    fn addresses_become_exactly_the_wanted_ones_and_setting_again_changes_nothing() {
        with_interface(|netlink, index| async move {
            ip("link set net0 up");
            let wanted = nets(&["10.99.0.1/16", "fd00:1:2::1/64", "10.50.0.1/24", "10.50.0.2/24"]);
            let report = netlink.set_addresses(index, &wanted).await.unwrap();
            assert_eq!((report.added, report.removed, report.refused.len()), (4, 0, 0), "{report:?}");
            let again = netlink.set_addresses(index, &wanted).await.unwrap();
            assert_eq!((again.added, again.removed), (0, 0));
            let report = netlink.set_addresses(index, &nets(&["10.99.0.1/24"])).await.unwrap();
            assert_eq!((report.added, report.removed, report.refused.len()), (1, 4, 0), "{report:?}");
            let shown = ip_says("-br addr show dev net0");
            assert!(shown.contains("10.99.0.1/24") && !shown.contains("10.99.0.1/16"), "{shown}");
            assert!(!shown.contains("10.50.") && !shown.contains("fd00:"), "{shown}");
            assert!(shown.contains("fe80:"), "the link-local address stays: {shown}");
        });
    }

    #[test]
    fn an_address_that_the_kernel_refuses_is_reported_and_the_others_are_set() {
        with_interface(|netlink, index| async move {
            std::fs::write("/proc/sys/net/ipv6/conf/net0/disable_ipv6", "1").unwrap();
            let wanted = nets(&["fd00:1:2::1/64", "10.99.0.1/16"]);
            let report = netlink.set_addresses(index, &wanted).await.unwrap();
            assert_eq!((report.added, report.refused.len()), (1, 1), "{report:?}");
            assert_eq!(report.refused[0].0, wanted[0]);
        });
    }

    #[test]
    fn local_addresses_are_those_that_others_can_reach() {
        with_interface(|netlink, index| async move {
            ip("link set net0 up");
            ip("addr add 192.0.2.7/24 dev net0");
            ip("addr add 169.254.1.1/16 dev net0");
            ip("addr add 2001:db8::7/64 dev net0 nodad");
            ip("addr add fd99::7/64 dev net0 nodad");
            ip("addr add 2001:db8::8/64 dev net0 nodad preferred_lft 0");
            add_interface("over0");
            ip("addr add 10.99.0.1/16 dev over0");
            ip("link set over0 up");
            add_interface("down0");
            ip("addr add 198.51.100.1/24 dev down0");
            let overlay = nix::net::if_::if_nametoindex("over0").unwrap();
            let exclude = Exclude { index: Some(overlay), prefixes: &nets(&["fd99::/48"]) };
            let found = netlink.local_addresses(&exclude).await.unwrap();
            let shown: Vec<_> = found.iter().map(|local| local.address.to_string()).collect();
            assert_eq!(shown, ["192.0.2.7/24", "2001:db8::7/64"]);
            assert!(found.iter().all(|local| local.index == index && local.interface == "net0"));
        });
    }
}
