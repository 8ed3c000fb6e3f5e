//! Routes over the overlay interface.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use futures_util::TryStreamExt;
use ipnet::IpNet;
use nix::errno::Errno;
use rtnetlink::RouteMessageBuilder;
use rtnetlink::packet_route::route::{
    RouteAddress, RouteAttribute, RouteHeader, RouteMessage, RouteMetric, RouteProtocol, RouteScope,
};

use super::{Netlink, NetlinkError, family_of};

/// The protocol number that marks our routes (`ip route show proto 109`): free in iproute2's `rt_protos`.
pub const PROTOCOL: u8 = 109;
/// The main routing table.
pub const MAIN_TABLE: u32 = RouteHeader::RT_TABLE_MAIN as u32;
/// Metric of our routes unless configured: worse than what the kernel (0, 256), DHCP clients (100 to 600), and router
/// advertisements (1024) give to directly attached networks, so that a subnet announced by a member never takes over
/// the LAN that this machine is on.
pub const DEFAULT_METRIC: u32 = 3000;

/// Where routes go.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct RouteOptions {
    /// The overlay interface.
    pub index: u32,
    /// Routing table.
    pub table: u32,
    /// Metric; lower wins among routes to the same prefix.
    pub metric: u32,
    /// Table of default routes, if it is another.
    pub default_table: Option<u32>,
}

impl RouteOptions {
    /// Main table, usual metric.
    pub fn new(index: u32) -> RouteOptions {
        RouteOptions { index, table: MAIN_TABLE, metric: DEFAULT_METRIC, default_table: None }
    }

    fn table_of(&self, prefix: &IpNet) -> u32 {
        let default = self.default_table.filter(|_| prefix.prefix_len() == 0);
        default.unwrap_or(self.table)
    }
}

/// What [`Netlink::set_routes`] did.
#[derive(Debug, Default)]
pub struct RouteReport {
    /// Routes added.
    pub added: usize,
    /// Routes that got another MTU.
    pub changed: usize,
    /// Routes removed.
    pub removed: usize,
    /// What the kernel did not take, and why; IPv6 routes where IPv6 is disabled come here.
    pub refused: Vec<(IpNet, NetlinkError)>,
}

impl Netlink {
    /// Makes `wanted` the set of our routes ([`PROTOCOL`]) over the interface: adds what is missing, and removes what is
    /// too much, in whichever table or with whichever metric it is. Routes of others are never touched. With a prefix goes
    /// the MTU of its route in bytes, if it is another than the interface's; a route whose MTU changes is replaced, with
    /// which the kernel forgets what it has learnt about it.
    ///
    /// # Errors
    /// When the routes cannot be listed. A route that cannot be set is in the report.
    pub async fn set_routes(
        &self,
        options: &RouteOptions,
        wanted: &BTreeMap<IpNet, Option<u32>>,
    ) -> Result<RouteReport, NetlinkError> {
        let mut report = RouteReport::default();
        let mut present = BTreeMap::new();
        for route in self.our_routes(options.index).await? {
            let current = route.table == options.table_of(&route.prefix) && route.metric == options.metric;
            if current && wanted.contains_key(&route.prefix) {
                present.insert(route.prefix, route.mtu);
                continue;
            }
            match self.handle.route().del(route.message(options.index)).execute().await {
                Ok(()) => report.removed += 1,
                Err(error) => match NetlinkError::new("remove a route", error) {
                    error if error.errno() == Some(Errno::ESRCH) => report.removed += 1,
                    error => report.refused.push((route.prefix, error)),
                },
            }
        }
        for (prefix, &mtu) in wanted {
            let prefix = prefix.trunc();
            let there = present.get(&prefix).copied();
            if there == Some(mtu) {
                continue;
            }
            let route = OurRoute { prefix, table: options.table_of(&prefix), metric: options.metric, mtu };
            let request = self.handle.route().add(route.message(options.index));
            let request = if there.is_some() { request.replace() } else { request };
            match request.execute().await {
                Ok(()) if there.is_some() => report.changed += 1,
                Ok(()) => report.added += 1,
                Err(error) => report.refused.push((prefix, NetlinkError::new("add a route", error))),
            }
        }
        Ok(report)
    }

    /// Removes every route with our protocol number over interface `index`, whoever left it, and tells how many.
    ///
    /// # Errors
    /// When the routes cannot be listed.
    pub async fn remove_leftovers(&self, index: u32) -> Result<usize, NetlinkError> {
        Ok(self.set_routes(&RouteOptions::new(index), &BTreeMap::new()).await?.removed)
    }

    /// The gateway of the IPv4 default route that the kernel prefers, other than over interface `except`.
    ///
    /// # Errors
    /// When the routes cannot be listed.
    pub async fn default_gateway4(&self, except: u32) -> Result<Option<Ipv4Addr>, NetlinkError> {
        let mut query = RouteMessage::default();
        query.header.address_family = family_of(true);
        if self.strict {
            query.header.table = MAIN_TABLE as u8;
        }
        let mut best: Option<(u32, Ipv4Addr)> = None;
        let mut stream = self.handle.route().get(query).execute();
        loop {
            let message = match stream.try_next().await {
                Ok(Some(message)) => message,
                Ok(None) => break,
                Err(error) => match NetlinkError::new("list routes", error) {
                    // A filter that matches no table.
                    error if error.errno() == Some(Errno::ENOENT) => break,
                    error => return Err(error),
                },
            };
            let header = &message.header;
            if header.destination_prefix_length != 0 || u32::from(header.table) != MAIN_TABLE {
                continue;
            }
            let (mut gateway, mut metric, mut elsewhere) = (None, 0, true);
            for attribute in &message.attributes {
                match attribute {
                    RouteAttribute::Gateway(RouteAddress::Inet(ip)) => gateway = Some(*ip),
                    RouteAttribute::Priority(priority) => metric = *priority,
                    RouteAttribute::Oif(oif) => elsewhere = *oif != except,
                    _ => {}
                }
            }
            if let Some(gateway) = gateway.filter(|_| elsewhere)
                && best.is_none_or(|(least, _)| metric < least)
            {
                best = Some((metric, gateway));
            }
        }
        Ok(best.map(|(_, gateway)| gateway))
    }

    async fn our_routes(&self, index: u32) -> Result<Vec<OurRoute>, NetlinkError> {
        let mut found = Vec::new();
        for is_v4 in [true, false] {
            let mut query = RouteMessage::default();
            query.header.address_family = family_of(is_v4);
            if self.strict {
                query.header.protocol = RouteProtocol::Other(PROTOCOL);
                query.attributes.push(RouteAttribute::Oif(index));
            }
            let mut stream = self.handle.route().get(query).execute();
            loop {
                match stream.try_next().await {
                    Ok(Some(message)) => found.extend(OurRoute::read(&message, index)),
                    Ok(None) => break,
                    Err(error) => match NetlinkError::new("list routes", error) {
                        // A filter that matches no table, or a kernel without that family.
                        error if matches!(error.errno(), Some(Errno::ENOENT | Errno::EAFNOSUPPORT)) => break,
                        error => return Err(error),
                    },
                }
            }
        }
        Ok(found)
    }
}

#[derive(Debug)]
struct OurRoute {
    prefix: IpNet,
    table: u32,
    metric: u32,
    mtu: Option<u32>,
}

impl OurRoute {
    /// `None` if the route is not ours or not over interface `index`.
    fn read(message: &RouteMessage, index: u32) -> Option<OurRoute> {
        if message.header.protocol != RouteProtocol::Other(PROTOCOL) {
            return None;
        }
        let is_v4 = message.header.address_family == family_of(true);
        let mut ip: IpAddr = if is_v4 { Ipv4Addr::UNSPECIFIED.into() } else { Ipv6Addr::UNSPECIFIED.into() };
        let (mut output, mut metric, mut table) = (None, 0, u32::from(message.header.table));
        let mut mtu = None;
        for attribute in &message.attributes {
            match attribute {
                RouteAttribute::Destination(RouteAddress::Inet(address)) => ip = (*address).into(),
                RouteAttribute::Destination(RouteAddress::Inet6(address)) => ip = (*address).into(),
                RouteAttribute::Oif(oif) => output = Some(*oif),
                RouteAttribute::Priority(priority) => metric = *priority,
                RouteAttribute::Table(number) => table = *number,
                RouteAttribute::Metrics(metrics) => {
                    mtu = metrics.iter().find_map(|metric| match metric {
                        RouteMetric::Mtu(bytes) => Some(*bytes),
                        _ => None,
                    });
                }
                _ => {}
            }
        }
        let prefix = IpNet::new(ip, message.header.destination_prefix_length).ok()?.trunc();
        (output == Some(index)).then_some(OurRoute { prefix, table, metric, mtu })
    }

    fn message(&self, index: u32) -> RouteMessage {
        let length = self.prefix.prefix_len();
        let mut message = match self.prefix.addr() {
            IpAddr::V4(ip) => {
                let builder = RouteMessageBuilder::<Ipv4Addr>::new().destination_prefix(ip, length);
                // A route without gateway has link scope (as ip-route(8) sets it).
                builder.scope(RouteScope::Link).output_interface(index).table_id(self.table).build()
            }
            IpAddr::V6(ip) => {
                let builder = RouteMessageBuilder::<Ipv6Addr>::new().destination_prefix(ip, length);
                builder.output_interface(index).table_id(self.table).build()
            }
        };
        message.header.protocol = RouteProtocol::Other(PROTOCOL);
        message.attributes.push(RouteAttribute::Priority(self.metric));
        if let Some(mtu) = self.mtu {
            message.attributes.push(RouteAttribute::Metrics(vec![RouteMetric::Mtu(mtu)]));
        }
        message
    }
}

#[cfg(test)]
mod tests {
    use super::super::tests::with_interface;
    use super::*;
    use crate::io::testing::{add_interface, ip, ip_says};

    fn set(prefixes: &[&str]) -> BTreeMap<IpNet, Option<u32>> {
        prefixes.iter().map(|prefix| (prefix.parse().unwrap(), None)).collect()
    }

    #[test]
    fn the_default_gateway_is_the_one_that_the_kernel_prefers() {
        with_interface(|netlink, index| async move {
            assert_eq!(netlink.default_gateway4(0).await.unwrap(), None);
            ip("addr add 192.0.2.9/24 dev net0");
            ip("link set net0 up");
            ip("route add default via 192.0.2.1 metric 200");
            ip("route add default via 192.0.2.2 metric 100");
            ip("route add 198.51.100.0/24 via 192.0.2.3");
            assert_eq!(netlink.default_gateway4(0).await.unwrap(), Some([192, 0, 2, 2].into()));
            assert_eq!(netlink.default_gateway4(index).await.unwrap(), None, "not over our own");
        });
    }

    #[test]
    fn a_route_gets_the_mtu_of_its_path_and_loses_it_again() {
        with_interface(|netlink, index| async move {
            ip("link set net0 up");
            let options = RouteOptions::new(index);
            let with = |mtu: Option<u32>| -> BTreeMap<IpNet, Option<u32>> {
                ["10.1.0.0/16", "10.2.0.1/32", "fd01::1/128"].map(|net| (net.parse().unwrap(), mtu)).into()
            };
            assert_eq!(netlink.set_routes(&options, &with(None)).await.unwrap().added, 3);
            for (mtu, shown) in [(Some(1300), "mtu 1300"), (Some(1290), "mtu 1290"), (None, "")] {
                let report = netlink.set_routes(&options, &with(mtu)).await.unwrap();
                assert_eq!((report.added, report.changed, report.removed), (0, 3, 0), "{report:?}");
                for family in ["", "-6 "] {
                    let routes = ip_says(&format!("{family}route show proto 109"));
                    assert!(routes.contains(shown), "{routes}");
                    assert_eq!(shown.is_empty(), !routes.contains("mtu"), "{routes}");
                }
                let again = netlink.set_routes(&options, &with(mtu)).await.unwrap();
                assert_eq!((again.changed, again.refused.len()), (0, 0));
            }
        });
    }

    #[test]
    fn routes_become_exactly_the_wanted_ones_and_others_stay() {
        with_interface(|netlink, index| async move {
            ip("link set net0 up");
            ip("route add 203.0.113.0/24 dev net0");
            let options = RouteOptions::new(index);
            let wanted = set(&["10.1.0.0/16", "10.1.2.3/32", "fd01::/48", "0.0.0.0/0", "::/0"]);
            let report = netlink.set_routes(&options, &wanted).await.unwrap();
            assert_eq!((report.added, report.removed, report.refused.len()), (5, 0, 0), "{report:?}");
            let again = netlink.set_routes(&options, &wanted).await.unwrap();
            assert_eq!((again.added, again.removed, again.refused.len()), (0, 0, 0), "{again:?}");
            let shown = ip_says("route show proto 109");
            assert!(
                shown.contains("10.1.0.0/16") && shown.contains("10.1.2.3") && shown.contains("metric 3000")
            );
            let report = netlink.set_routes(&options, &set(&["10.1.0.0/16", "fd02::/48"])).await.unwrap();
            assert_eq!((report.added, report.removed), (1, 4), "{report:?}");
            assert!(ip_says("-6 route show proto 109").contains("fd02::/48"));
            assert!(ip_says("route show").contains("203.0.113.0/24"));
        });
    }

    #[test]
    fn leftovers_of_a_killed_daemon_are_removed_from_every_table() {
        with_interface(|netlink, index| async move {
            ip("link set net0 up");
            add_interface("other0");
            ip("link set other0 up");
            ip("route add 10.1.0.0/16 dev net0 proto 109 metric 7");
            ip("route add 10.2.0.0/16 dev net0 proto 109 table 5000");
            ip("route add fd01::/48 dev net0 proto 109 table 5000");
            ip("route add 10.3.0.0/16 dev other0 proto 109");
            assert_eq!(netlink.remove_leftovers(index).await.unwrap(), 3);
            assert_eq!(netlink.remove_leftovers(index).await.unwrap(), 0);
            assert!(ip_says("route show").contains("10.3.0.0/16"), "another mesh's route stays");
        });
    }

    #[test]
    fn an_attached_network_is_not_taken_over() {
        with_interface(|netlink, index| async move {
            ip("link set net0 up");
            add_interface("lan0");
            ip("link set lan0 up");
            ip("addr add 192.168.1.5/24 dev lan0");
            let report =
                netlink.set_routes(&RouteOptions::new(index), &set(&["192.168.1.0/24"])).await.unwrap();
            assert_eq!((report.added, report.refused.len()), (1, 0), "{report:?}");
            let way = ip_says("route get 192.168.1.77");
            assert!(way.contains("dev lan0"), "{way}");
        });
    }

    #[test]
    fn another_table_is_used_and_moving_there_removes_the_old_routes() {
        with_interface(|netlink, index| async move {
            ip("link set net0 up");
            let (main, wanted) = (RouteOptions::new(index), set(&["10.1.0.0/16"]));
            netlink.set_routes(&main, &wanted).await.unwrap();
            let other = RouteOptions { table: 70_000, ..main };
            let report = netlink.set_routes(&other, &wanted).await.unwrap();
            assert_eq!((report.added, report.removed), (1, 1), "{report:?}");
            assert!(ip_says("route show table 70000").contains("10.1.0.0/16"));
            assert!(!ip_says("route show").contains("10.1.0.0/16"));
        });
    }

    #[test]
    fn default_routes_go_into_a_table_of_their_own() {
        with_interface(|netlink, index| async move {
            ip("link set net0 up");
            let options = RouteOptions { default_table: Some(70_000), ..RouteOptions::new(index) };
            let wanted = set(&["10.1.0.0/16", "0.0.0.0/0", "::/0"]);
            assert_eq!(netlink.set_routes(&options, &wanted).await.unwrap().added, 3);
            let again = netlink.set_routes(&options, &wanted).await.unwrap();
            assert_eq!((again.added, again.removed, again.refused.len()), (0, 0, 0), "{again:?}");
            assert!(ip_says("route show table 70000").contains("default"));
            assert!(ip_says("-6 route show table 70000").contains("default"));
            let main = ip_says("route show");
            assert!(main.contains("10.1.0.0/16") && !main.contains("default"), "{main}");
            let report = netlink.set_routes(&options, &set(&["10.1.0.0/16"])).await.unwrap();
            assert_eq!((report.added, report.removed), (0, 2));
        });
    }

    #[test]
    fn a_route_over_an_interface_that_is_down_is_reported() {
        with_interface(|netlink, index| async move {
            let report = netlink.set_routes(&RouteOptions::new(index), &set(&["10.1.0.0/16"])).await.unwrap();
            assert_eq!(report.refused.len(), 1);
            assert_eq!(report.refused[0].1.errno(), Some(Errno::ENETDOWN));
        });
    }
}
