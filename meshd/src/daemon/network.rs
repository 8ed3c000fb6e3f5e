//! The kernel's side of the overlay: the device's addresses and routes; and the machine's own addresses.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::File;
use std::net::{IpAddr, SocketAddr};
use std::num::NonZeroU16;
use std::os::unix::fs::FileExt;
use std::time::Duration;

use ipnet::{IpNet, Ipv4Net, Ipv6Net};
use meshnet::dataplane::tx::super_packet_max_bytes;
use meshnet::io::netlink::{
    DEFAULT_PRIORITY, Exclude, LinkSettings, MAIN_TABLE, Netlink, NetlinkError, OurRules, RouteOptions,
    RouteReport, Rule, rules,
};
use meshnet::io::tun::{Offloads, Opened, Reason};
use meshnet::membership::member_network6;
use meshnet::node::{self, Route, Settings};
use proto::id::Name;
use proto::record::Subnet;
use tracing::{debug, info, warn};

use super::portmap::{self, Wanted};
use super::streams::HAS_TLS;
use crate::config::{Config, DEFAULT_FWMARK, DEFAULT_MTU, Mtu};
use crate::state::Home;

/// Packets that wait in the device for the daemon before the kernel drops.
const QUEUE_PACKETS: u32 = 1000;
/// With `mtu = "auto"` the device grows for paths that carry packets of so many bytes.
const JUMBO_FROM: u16 = 2000;

/// The device and what is set on it.
pub(super) struct Network {
    netlink: Netlink,
    name: String,
    offload: (Offloads, Reason),
    /// The device's MTU as the node knows it ...
    mtu: u16,
    /// ... and as the kernel does.
    applied: u16,
    routes: RouteOptions,
    rules: RulesWish,
    /// What the node told last.
    told: Vec<Route>,
    /// The overlay's own networks: never dialled as underlay.
    overlay: Vec<IpNet>,
}

impl Network {
    /// Gives the device its addresses and brings it up.
    pub(super) async fn set_up(
        netlink: Netlink,
        home: &Home,
        config: &Config,
        device: &Opened,
    ) -> Result<Network, NetlinkError> {
        let (index, name) = (device.first().index(), device.first().name().to_owned());
        let offload = (device.first().offloads(), device.reason);
        let network4 = home.chain.current().network4;
        let network6 = member_network6(home.chain.mesh());
        let with_network = |address: IpAddr| match address {
            IpAddr::V4(v4) => {
                let len = network4
                    .filter(|network| network.contains(&v4))
                    .map_or(32, |network| network.prefix_len());
                IpNet::new_assert(address, len)
            }
            IpAddr::V6(v6) => {
                IpNet::new_assert(address, if network6.contains(&v6) { network6.prefix_len() } else { 128 })
            }
        };
        let addresses: Vec<IpNet> = home.certificate.addresses().map(with_network).collect();
        let mtu = match config.mtu {
            Mtu::Auto => DEFAULT_MTU,
            Mtu::Fixed(mtu) => mtu,
        };
        let link = LinkSettings {
            mtu: Some(mtu.into()),
            queue_packets: Some(QUEUE_PACKETS),
            super_packet_bytes: offload.0.tcp.then(|| super_packet_max_bytes(mtu)),
            no_link_local: true,
            up: true,
        };
        if let Err(error) = netlink.take_off_queue(index).await {
            debug!(%error, "the device keeps its queueing discipline");
        }
        netlink.set_link(index, &link).await?;
        let report = netlink.set_addresses(index, &addresses).await?;
        for (address, error) in report.refused {
            if error.is_permission() && address.addr().is_ipv4() {
                return Err(error);
            }
            // A machine without IPv6 is no reason for a warning.
            if address.addr().is_ipv4() {
                warn!(%address, %error, "the device does not take its address");
            } else {
                debug!(%address, %error, "the device does not take its address");
            }
        }
        let routes = RouteOptions {
            table: config.route_table.unwrap_or(MAIN_TABLE),
            metric: config.route_metric,
            default_table: Some(exit_table(config)),
            ..RouteOptions::new(index)
        };
        let overlay = network4.map(IpNet::V4).into_iter().chain([IpNet::V6(network6)]).collect();
        let rules = RulesWish {
            priority: config.rule_priority,
            mark: config.fwmark,
            own: config.route_table.filter(|table| !BUILT_IN_TABLES.contains(table)),
            exit_table: exit_table(config),
            exit: false,
        };
        let told = Vec::new();
        let mut network = Network { netlink, name, offload, mtu, applied: mtu, routes, rules, told, overlay };
        // Before anything else can be sent: who wants all its packets to go through a member wants none to go elsewhere.
        network.set_exit(config.exit_node.is_some()).await;
        let addresses = network.local_addresses().await;
        network.set_rules(&addresses).await;
        Ok(network)
    }

    /// What the device takes over from us, and why.
    pub(super) fn offload(&self) -> (Offloads, Reason) {
        self.offload
    }

    /// The device's name.
    pub(super) fn name(&self) -> &str {
        &self.name
    }

    /// The device's MTU in bytes.
    pub(super) fn mtu(&self) -> u16 {
        self.mtu
    }

    /// What the device's MTU should become now that a path carries packets of `widest` bytes; `None` if it stays. It only
    /// ever grows, and only where the path is so wide that it saves much: with one MTU for all the kernel has less to
    /// know.
    pub(super) fn wider(&self, config: &Config, widest: u16) -> Option<u16> {
        (config.mtu == Mtu::Auto && widest >= JUMBO_FROM && widest > self.mtu).then_some(widest)
    }

    /// Lets the device take packets up to the MTU that the node was told of.
    pub(super) async fn grow(&mut self) {
        if self.mtu <= self.applied {
            return;
        }
        let link = LinkSettings {
            mtu: Some(self.mtu.into()),
            super_packet_bytes: self.offload.0.tcp.then(|| super_packet_max_bytes(self.mtu)),
            ..LinkSettings::default()
        };
        match self.netlink.set_link(self.routes.index, &link).await {
            Ok(()) => info!(mtu = self.mtu, "the device takes longer packets: a path carries them"),
            Err(error) => warn!(%error, "cannot set the device's MTU"),
        }
        self.applied = self.mtu;
    }

    /// The device's MTU will be this; see [`Network::grow`].
    pub(super) fn set_mtu(&mut self, mtu: u16) {
        self.mtu = mtu;
    }

    /// Makes `routes` the routes over the device.
    pub(super) async fn set_routes(&mut self, routes: &[Route]) {
        self.told = routes.to_vec();
        self.apply_routes().await;
    }

    /// Default routes through the overlay, whether or not the chosen member can be reached: what cannot be sent is refused
    /// here, and does not leave by another way.
    pub(super) async fn set_exit(&mut self, exit: bool) {
        if std::mem::replace(&mut self.rules.exit, exit) != exit {
            self.apply_routes().await;
        }
    }

    async fn apply_routes(&self) {
        let mtu = |route: &Route| {
            // IPv6 knows no smaller one; what is longer than the path is cut by us.
            let least = if route.prefix.addr().is_ipv4() { 0 } else { 1280 };
            route.mtu.map(|mtu| u32::from(mtu.max(least)))
        };
        let mut wanted: BTreeMap<IpNet, Option<u32>> =
            self.told.iter().map(|route| (route.prefix, mtu(route))).collect();
        if self.rules.exit {
            for default in [IpNet::V4(Ipv4Net::default()), IpNet::V6(Ipv6Net::default())] {
                wanted.entry(default).or_insert(None);
            }
        }
        match self.netlink.set_routes(&self.routes, &wanted).await {
            Ok(report) => {
                for (prefix, error) in &report.refused {
                    let quiet = matches!(prefix, IpNet::V6(_));
                    if quiet {
                        debug!(%prefix, %error, "a route is refused");
                    } else {
                        warn!(%prefix, %error, "a route is refused");
                    }
                }
                let RouteReport { added, changed, removed, .. } = report;
                debug!(added, changed, removed, "routes set");
            }
            Err(error) => warn!(%error, "cannot set routes"),
        }
    }

    /// Makes the rules that lead to our routing tables what they should be, with these addresses of the machine.
    pub(super) async fn set_rules(&self, addresses: &[IpAddr]) {
        let RulesWish { priority, mark, own, exit_table, exit } = self.rules;
        let wanted = match priority {
            0 => BTreeSet::new(),
            _ => rules(priority, mark, own, exit.then_some(exit_table), addresses),
        };
        self.apply_rules(&wanted).await;
    }

    async fn apply_rules(&self, wanted: &BTreeSet<Rule>) {
        let RulesWish { priority, own, exit_table, .. } = self.rules;
        let tables: Vec<u32> = own.into_iter().chain([exit_table]).collect();
        let priority = if priority == 0 { DEFAULT_PRIORITY } else { priority };
        match self.netlink.set_rules(OurRules { priority, tables: &tables }, wanted).await {
            Ok(report) => {
                for (rule, error) in &report.refused {
                    match rule.is_v4 {
                        true => warn!(?rule, %error, "a routing rule is refused"),
                        false => debug!(?rule, %error, "a routing rule is refused"),
                    }
                }
                debug!(added = report.added, removed = report.removed, "routing rules set");
            }
            Err(error) => warn!(%error, "cannot set routing rules"),
        }
    }

    /// Removes our rules and routes; the device takes its addresses along when it goes.
    pub(super) async fn tear_down(&self) {
        self.apply_rules(&BTreeSet::new()).await;
        if let Err(error) = self.netlink.remove_leftovers(self.routes.index).await {
            debug!(%error, "cannot remove routes");
        }
    }

    /// The machine's own addresses, without the overlay's.
    pub(super) async fn local_addresses(&self) -> Vec<IpAddr> {
        let exclude = Exclude { index: Some(self.routes.index), prefixes: &self.overlay };
        match self.netlink.local_addresses(&exclude).await {
            Ok(found) => found.into_iter().map(|local| local.address.addr()).collect(),
            Err(error) => {
                warn!(%error, "cannot list this machine's addresses");
                Vec::new()
            }
        }
    }

    /// The port that the default gateway should map to this node; `None` where there is nothing to map.
    pub(super) async fn port_to_map(&self, config: &Config, listening: &Listening) -> Option<Wanted> {
        let socket = listening.sockets.iter().find(|socket| config.port_mapping && socket.ipv4)?;
        let found = self.netlink.default_gateway4(self.routes.index).await;
        let gateway = found.inspect_err(|error| debug!(%error, "no default gateway")).ok()??;
        let private = portmap::own_address(gateway).is_ok_and(portmap::is_private);
        let port = NonZeroU16::new(socket.port)?;
        private.then_some(Wanted { gateway, port })
    }

    /// What the node has to know of configuration and machine.
    pub(super) fn settings(
        &self,
        config: &Config,
        endpoints: Vec<SocketAddr>,
        interface_addresses: Vec<IpAddr>,
        listening: &Listening,
    ) -> Settings {
        let inside =
            |endpoint: &SocketAddr| self.overlay.iter().any(|network| network.contains(&endpoint.ip()));
        Settings {
            // Its form was checked when the configuration was read.
            datacenter: config.datacenter.as_deref().and_then(|name| Name::new(name).ok()),
            subnets: config
                .subnets
                .iter()
                .map(|one| Subnet { prefix: one.prefix, weight: one.weight })
                .collect(),
            relay: config.relay,
            exit: config.exit,
            exit_node: config.exit_node.clone(),
            endpoints: endpoints.into_iter().filter(|endpoint| !inside(endpoint)).collect(),
            mapped: None,
            interface_addresses,
            sockets: listening.sockets.clone(),
            streams: listening.streams.clone(),
            dial_tcp: config.streams.dial,
            dial_tls: config.streams.dial && HAS_TLS,
            mtu: self.mtu,
            copy_tos: config.copy_tos,
            relay_limit: config.relay_limit,
            relay_capacity: config.relay_capacity,
            pq: config.pq,
            rotate_every: config.rotate_every.map(Duration::from_secs),
            lan_discovery: config.lan_discovery,
            policies: config.peers.clone(),
        }
    }
}

/// What decides which routing rules there are.
#[derive(Clone, Copy)]
struct RulesWish {
    priority: u32,
    mark: u32,
    /// The table of our routes, where it needs a rule to be found.
    own: Option<u32>,
    /// The table of default routes through the overlay.
    exit_table: u32,
    /// Whether there are such.
    exit: bool,
}

/// The default, main, and local tables, which have rules of the system's.
const BUILT_IN_TABLES: [u32; 3] = [253, 254, 255];

/// The table of default routes through the overlay: not the one that all look into, and another for each mesh on a machine
/// that has several, as their marks are.
fn exit_table(config: &Config) -> u32 {
    match config.fwmark {
        mark if mark > BUILT_IN_TABLES[2] && config.route_table != Some(mark) => mark,
        _ => DEFAULT_FWMARK + 1,
    }
}

/// What the node listens on.
pub(super) struct Listening {
    /// UDP.
    pub(super) sockets: Vec<node::Socket>,
    /// TCP.
    pub(super) streams: Vec<node::StreamSocket>,
}

/// Whether this machine forwards packets, opened once: the sandbox leaves `/proc` out.
pub(super) struct Forwarding {
    ipv4: Option<File>,
    ipv6: Option<File>,
}

impl Forwarding {
    /// Opens the kernel's settings.
    pub(super) fn open() -> Forwarding {
        let open = |path: &str| File::open(path).ok();
        Forwarding {
            ipv4: open("/proc/sys/net/ipv4/ip_forward"),
            ipv6: open("/proc/sys/net/ipv6/conf/all/forwarding"),
        }
    }

    /// What keeps packets for announced subnets from getting through this machine, if anything.
    pub(super) fn warning(&self, config: &Config) -> Option<String> {
        let off = |setting: &Option<File>| {
            let mut byte = [0];
            setting.as_ref().is_some_and(|file| file.read_exact_at(&mut byte, 0).is_ok() && byte == *b"0")
        };
        let has = |v4: bool| {
            config.exit || config.subnets.iter().any(|subnet| subnet.prefix.addr().is_ipv4() == v4)
        };
        let key = if has(true) && off(&self.ipv4) {
            "net.ipv4.ip_forward"
        } else if has(false) && off(&self.ipv6) {
            "net.ipv6.conf.all.forwarding"
        } else {
            return None;
        };
        let what = if config.exit { "it is to be an exit" } else { "subnets are announced" };
        Some(format!("{what}, but this machine does not forward packets to them: sysctl -w {key}=1"))
    }
}
