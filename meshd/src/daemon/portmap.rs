//! A port of the gateway that leads here: asked for by PCP (RFC 6887), NAT-PMP (RFC 6886), or UPnP, renewed, and given back
//! at the end.
//!
//! Nobody but the default gateway is asked, and only where this machine's own address is a private one. What the gateway
//! answers is authenticated by nothing; so it is a candidate, which handshakes prove or not.

use std::net::{IpAddr, Ipv4Addr, SocketAddr, UdpSocket};
use std::num::NonZeroU16;
use std::time::Duration;

use crab_nat::{InternetProtocol, PortMapping as Leased, PortMappingOptions, PortMappingType, TimeoutConfig};
use igd_next::aio::Gateway;
use igd_next::aio::tokio::{Tokio, search_gateway};
use igd_next::{PortMappingProtocol, SearchOptions};
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio::time::timeout;
use tracing::{debug, info};

use crate::api::view::PortMapping as View;

/// How long the gateway is asked to keep the port; it is asked again when half of it is over.
const LEASE_S: u32 = 3600;
/// A gateway that gives less is asked this often at most.
const RENEW_AT_LEAST: Duration = Duration::from_secs(5);
/// Time to the next try after the first that failed; doubled each time, up to [`RETRY_AT_MOST`].
const RETRY: Duration = Duration::from_secs(60);
/// See [`RETRY`].
const RETRY_AT_MOST: Duration = Duration::from_secs(1800);
/// PCP and NAT-PMP are asked after these pauses, doubled each time: 250, 500, and 1000 ms.
const PATIENCE: TimeoutConfig =
    TimeoutConfig { initial_timeout: Duration::from_millis(250), max_retries: 2, max_retry_timeout: None };
/// A gateway has this long to answer a search for UPnP ...
const SEARCH_TIME: Duration = Duration::from_secs(3);
/// ... and this long for each further question.
const UPNP_TIME: Duration = Duration::from_secs(5);
/// Giving a port back may take this long.
const RELEASE_TIME: Duration = Duration::from_millis(700);
/// What the gateway's list of mappings shows.
const DESCRIPTION: &str = "meshd";
/// Where UPnP is searched (SSDP).
const SSDP_PORT: u16 = 1900;

/// What is to be mapped.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Wanted {
    /// The default gateway.
    pub(super) gateway: Ipv4Addr,
    /// The UDP port that the node listens on.
    pub(super) port: NonZeroU16,
}

/// Keeps a port mapped, beside the daemon's loop.
pub(super) struct PortMap {
    /// Gone when it is to end.
    wanted: Option<watch::Sender<Option<Wanted>>>,
    state: watch::Receiver<View>,
    task: JoinHandle<()>,
}

impl PortMap {
    /// With nothing to map yet.
    pub(super) fn start() -> PortMap {
        let (wanted, wanted_rx) = watch::channel(None);
        let (state_tx, state) = watch::channel(View::default());
        let task = tokio::spawn(Keeper { state: state_tx, held: None }.run(wanted_rx));
        PortMap { wanted: Some(wanted), state, task }
    }

    /// Says what is to be mapped; nothing if `None`.
    pub(super) fn set(&self, wanted: Option<Wanted>) {
        if let Some(sender) = &self.wanted {
            sender.send_if_modified(|old| std::mem::replace(old, wanted) != wanted);
        }
    }

    /// What is known now.
    pub(super) fn state(&self) -> View {
        self.state.borrow().clone()
    }

    /// Waits until that has changed. Cancelling loses nothing.
    pub(super) async fn changed(&mut self) {
        if self.state.changed().await.is_err() {
            // The task is gone only when the daemon is on its way out.
            std::future::pending::<()>().await;
        }
    }

    /// Gives the port back.
    pub(super) async fn finish(&mut self) {
        drop(self.wanted.take());
        let _ = timeout(RELEASE_TIME + Duration::from_millis(100), &mut self.task).await;
    }
}

impl Drop for PortMap {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// Whether a machine with this address is behind a translator.
pub(super) fn is_private(ip: Ipv4Addr) -> bool {
    let [a, b, ..] = ip.octets();
    // RFC 6598: between a carrier's translator and ours.
    ip.is_private() || (a == 100 && (64..128).contains(&b))
}

struct Keeper {
    state: watch::Sender<View>,
    held: Option<Held>,
}

/// A port that the gateway gave.
struct Held {
    wanted: Wanted,
    external: SocketAddr,
    lease: Duration,
    by: By,
}

enum By {
    /// PCP or NAT-PMP.
    Lease(Box<Leased>),
    Upnp(Box<Gateway<Tokio>>),
}

impl Keeper {
    async fn run(mut self, mut wanted: watch::Receiver<Option<Wanted>>) {
        let mut failures: u32 = 0;
        loop {
            let now = *wanted.borrow_and_update();
            if self.held.as_ref().is_some_and(|held| Some(held.wanted) != now) {
                self.release().await;
                failures = 0;
            }
            let changed = tokio::select! {
                pause = self.keep(now, &mut failures) => tokio::select! {
                    changed = wanted.changed() => changed,
                    () = sleep(pause) => Ok(()),
                },
                changed = wanted.changed() => changed,
            };
            if changed.is_err() {
                return self.release().await;
            }
        }
    }

    /// Maps or renews. Returns when to do so again; never if `None`.
    async fn keep(&mut self, wanted: Option<Wanted>, failures: &mut u32) -> Option<Duration> {
        let Some(wanted) = wanted else {
            self.tell(View::default());
            return None;
        };
        let renewed = match &mut self.held {
            Some(held) => held.renew().await,
            None => false,
        };
        if !renewed {
            self.held = None;
            match Held::ask(wanted).await {
                Ok(held) => self.held = Some(held),
                Err(why) => {
                    debug!(gateway = %wanted.gateway, why, "the gateway maps no port");
                    let gateway = Some(wanted.gateway.into());
                    self.tell(View {
                        gateway,
                        note: format!("the gateway maps no port: {why}"),
                        ..View::default()
                    });
                    let pause = RETRY.saturating_mul(1 << (*failures).min(8)).min(RETRY_AT_MOST);
                    *failures = failures.saturating_add(1);
                    return Some(pause);
                }
            }
        }
        *failures = 0;
        let held = self.held.as_ref()?;
        let (external, protocol) = (held.external, held.protocol());
        let behind_another = matches!(external.ip(), IpAddr::V4(v4) if is_private(v4));
        let note = match behind_another {
            true => "the gateway is behind another translator: others there reach this node by it".into(),
            false => String::new(),
        };
        let (gateway, protocol) = (Some(wanted.gateway.into()), Some(protocol.into()));
        self.tell(View { gateway, protocol, endpoint: Some(external), note });
        Some((held.lease / 2).max(RENEW_AT_LEAST))
    }

    async fn release(&mut self) {
        if let Some(held) = self.held.take() {
            let external = held.external;
            let given_back = timeout(RELEASE_TIME, held.release()).await.unwrap_or(false);
            info!(%external, given_back, "the gateway's port is no longer ours");
        }
        self.tell(View::default());
    }

    fn tell(&self, view: View) {
        self.state.send_if_modified(|old| {
            let differs = *old != view;
            if differs && let (Some(endpoint), Some(protocol)) = (view.endpoint, &view.protocol) {
                info!(%endpoint, protocol, "the gateway maps a port to this node");
            }
            *old = view;
            differs
        });
    }
}

async fn sleep(pause: Option<Duration>) {
    match pause {
        Some(pause) => tokio::time::sleep(pause).await,
        None => std::future::pending().await,
    }
}

impl Held {
    /// Asks by PCP, then NAT-PMP, then UPnP; what was wrong with each if none works.
    async fn ask(wanted: Wanted) -> Result<Held, String> {
        let own = own_address(wanted.gateway).map_err(|error| error.to_string())?;
        let by_lease = Held::by_lease(wanted, own).await;
        let error = match by_lease {
            Ok(held) => return Ok(held),
            Err(error) => error,
        };
        Held::by_upnp(wanted, own).await.map_err(|upnp| format!("PCP and NAT-PMP: {error}; UPnP: {upnp}"))
    }

    async fn by_lease(wanted: Wanted, own: Ipv4Addr) -> Result<Held, String> {
        let options = PortMappingOptions {
            external_port: Some(wanted.port),
            lifetime_seconds: Some(LEASE_S),
            timeout_config: Some(PATIENCE),
        };
        let leased =
            Leased::new(wanted.gateway.into(), own.into(), InternetProtocol::Udp, wanted.port, options)
                .await
                .map_err(|error| error.to_string())?;
        let ip = match leased.mapping_type() {
            PortMappingType::Pcp { external_ip, .. } => external_ip.to_canonical(),
            PortMappingType::NatPmp => {
                let asked = crab_nat::natpmp::external_address(wanted.gateway.into(), Some(PATIENCE)).await;
                asked.map_err(|error| error.to_string())?.into()
            }
        };
        let external = usable(ip, leased.external_port().get())?;
        let lease = Duration::from_secs(leased.lifetime().into());
        Ok(Held { wanted, external, lease, by: By::Lease(Box::new(leased)) })
    }

    async fn by_upnp(wanted: Wanted, own: Ipv4Addr) -> Result<Held, String> {
        let mut options = SearchOptions::default();
        options.bind_addr = SocketAddr::from((own, 0));
        options.broadcast_address = SocketAddr::from((wanted.gateway, SSDP_PORT));
        options.timeout = Some(SEARCH_TIME);
        options.single_search_timeout = Some(SEARCH_TIME);
        options.allowed_gateway_ips = vec![wanted.gateway.into()];
        let gateway = search_gateway(options).await.map_err(|error| error.to_string())?;
        if gateway.addr.ip() != IpAddr::V4(wanted.gateway) {
            return Err("somebody else answers".into());
        }
        let local = SocketAddr::from((own, wanted.port.get()));
        let asked = async {
            let ip = gateway.get_external_ip().await.map_err(|error| error.to_string())?;
            // The same port outside where it is free, else any.
            let same = add(&gateway, wanted.port.get(), local).await;
            let port = match same {
                Ok(()) => wanted.port.get(),
                Err(_) => gateway
                    .add_any_port(PortMappingProtocol::UDP, local, LEASE_S, DESCRIPTION)
                    .await
                    .map_err(|error| error.to_string())?,
            };
            usable(ip, port)
        };
        let external = timeout(UPNP_TIME, asked).await.map_err(|_| "no answer in time".to_owned())??;
        let lease = Duration::from_secs(LEASE_S.into());
        Ok(Held { wanted, external, lease, by: By::Upnp(Box::new(gateway)) })
    }

    /// Whether the port is ours for longer.
    async fn renew(&mut self) -> bool {
        let (external, wanted) = (self.external, self.wanted);
        match &mut self.by {
            By::Lease(leased) => {
                let renewed = leased.renew().await.is_ok() && leased.external_port().get() == external.port();
                self.lease = Duration::from_secs(leased.lifetime().into());
                renewed
            }
            By::Upnp(gateway) => {
                let Ok(own) = own_address(wanted.gateway) else { return false };
                let local = SocketAddr::from((own, wanted.port.get()));
                let again = add(gateway, external.port(), local);
                timeout(UPNP_TIME, again).await.is_ok_and(|added| added.is_ok())
            }
        }
    }

    /// Whether the gateway has taken the port back.
    async fn release(self) -> bool {
        match self.by {
            By::Lease(leased) => leased.try_drop().await.is_ok(),
            By::Upnp(gateway) => {
                gateway.remove_port(PortMappingProtocol::UDP, self.external.port()).await.is_ok()
            }
        }
    }

    fn protocol(&self) -> &'static str {
        match &self.by {
            By::Lease(leased) => match leased.mapping_type() {
                PortMappingType::Pcp { .. } => "PCP",
                PortMappingType::NatPmp => "NAT-PMP",
            },
            By::Upnp(_) => "UPnP",
        }
    }
}

async fn add(gateway: &Gateway<Tokio>, port: u16, local: SocketAddr) -> Result<(), igd_next::AddPortError> {
    gateway.add_port(PortMappingProtocol::UDP, port, local, LEASE_S, DESCRIPTION).await
}

/// What a gateway without a connection of its own answers is of no use.
fn usable(ip: IpAddr, port: u16) -> Result<SocketAddr, String> {
    match ip.is_unspecified() || ip.is_loopback() || ip.is_multicast() || port == 0 {
        true => Err(format!("it names {ip} port {port}")),
        false => Ok(SocketAddr::new(ip, port)),
    }
}

/// This machine's address on the way to the gateway. Nothing is sent.
pub(super) fn own_address(gateway: Ipv4Addr) -> std::io::Result<Ipv4Addr> {
    let socket = UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0))?;
    socket.connect((gateway, SSDP_PORT))?;
    match socket.local_addr()?.ip() {
        IpAddr::V4(v4) => Ok(v4),
        IpAddr::V6(_) => Err(std::io::ErrorKind::AddrNotAvailable.into()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn machines_with_an_address_of_the_internet_need_no_mapping() {
        for (ip, private) in [
            ("192.168.1.2", true),
            ("10.0.0.1", true),
            ("172.31.255.1", true),
            ("100.64.0.1", true),
            ("100.127.255.1", true),
            ("100.128.0.1", false),
            ("172.32.0.1", false),
            ("203.0.113.7", false),
        ] {
            assert_eq!(is_private(ip.parse().unwrap()), private, "{ip}");
        }
    }

    #[test]
    fn what_no_datagram_can_reach_is_no_mapping() {
        for (ip, port) in [("0.0.0.0", 4655), ("127.0.0.1", 4655), ("203.0.113.1", 0)] {
            assert!(usable(ip.parse().unwrap(), port).is_err());
        }
        assert!(usable("203.0.113.1".parse().unwrap(), 4655).is_ok());
    }
}
