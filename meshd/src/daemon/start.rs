//! From the state directory to a running service: everything that can be missing or wrong is found here, and told.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use anyhow::Context;
use arc_swap::ArcSwap;
use ipnet::IpNet;
use meshnet::crypto::Secret;
use meshnet::io::clock;
use meshnet::io::netlink::{Netlink, Watch};
use meshnet::io::tun;
use meshnet::io::udp::{self, Bind, BindError};
use meshnet::membership::{IdentitySecret, member_network6};
use meshnet::node::{self, Node, NodeConfig};
use meshnet::path::SocketId;
use proto::id::BootEpoch;
use proto::record::KeyPlan;
use rand::SeedableRng;
use rand::rngs::StdRng;
use tokio::sync::mpsc;
use tracing::{info, warn};

use super::authority::Driver;
use super::discovery::Discovery;
use super::dns::Resolver;
use super::lanes::{CHANNEL_LEN, Lanes, Queues, SOCKETS_MAX, Sockets};
use super::network::{Forwarding, Listening, Network};
use super::portmap::PortMap;
use super::service::{Parts, Service};
use super::store::{MAX_SAVED, Store};
use super::streams::{PrepareError, Prepared};
use super::{Options, notify};
use crate::api::server;
use crate::config::{Config, LanesWish};
use crate::hooks::nat::Nat;
use crate::hooks::{Waiting, job};
use crate::join::server::Server as JoinServer;
use crate::log;
use crate::metrics;
use crate::sandbox::{self, Needs};
use crate::stack::agent::server as agent;
use crate::state::files::TransportKeys;
use crate::state::invitations::Register;
use crate::state::{self, Home, Kind, StateDir};

/// Requests from the control socket that wait for the loop.
const MAX_CALLS: usize = 16;

/// Why the daemon cannot start, where that needs more words than the cause has.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// Rights are missing.
    #[error("{0}")]
    Permission(#[from] Permission),
    /// A UDP address cannot be had.
    #[error("{cause}: change `listen` in {config}, or end the other program")]
    Listen {
        /// What the system says.
        cause: BindError,
        /// The configuration file.
        config: PathBuf,
    },
    /// TCP cannot be listened on.
    #[error("{cause}: change the configuration {config}")]
    Streams {
        /// What is wrong.
        cause: String,
        /// The configuration file.
        config: PathBuf,
    },
    /// The name of the device is taken.
    #[error("{cause}: choose another with --interface or `interface` in {config}")]
    Interface {
        /// What the system says.
        cause: tun::OpenError,
        /// The configuration file.
        config: PathBuf,
    },
    /// The control socket cannot be made.
    #[error("cannot make the control socket {path}")]
    ControlSocket {
        /// Where it should be.
        path: PathBuf,
        /// Why not.
        source: std::io::Error,
    },
}

/// Missing rights (exit code 77), with the way to get them.
#[derive(Debug, thiserror::Error)]
#[error(
    "{0}\nRun it as root (sudo meshd up), under systemd with contrib/systemd/meshd.service, or give the program the \
     right: setcap cap_net_admin,cap_net_bind_service+ep /usr/bin/meshd. \
     In a container: --cap-add NET_ADMIN --device /dev/net/tun"
)]
pub struct Permission(pub String);

/// Opens everything and makes the service.
pub(super) async fn start(options: Options) -> anyhow::Result<Service> {
    let mut config = Config::load_or_default(&options.config)?;
    let logs = log::start(config.log.louder(options.verbose));
    if let Some(interface) = &options.interface {
        config.interface.clone_from(interface);
    }
    let state = StateDir::open(&options.state)?;
    let lock = state.lock()?;
    // Before any key is read, and with the rights that a command may need.
    let helper = helper(&config, &options, &state)?;
    let sandbox = sandbox::begin();
    state.check()?;
    let home = Home::load(state.clone())?;
    // Left by an `init` that was killed at its last step.
    state.remove(Kind::Founding)?;

    let now = clock::now();
    let mut keys = TransportKeys::load(&state)?;
    let mut rng: StdRng = rand::make_rng();
    let (mesh, suites) = (home.chain.mesh(), config.suite.capabilities());
    if keys.declare(suites, &mut rng, &home.identity, mesh, now.wall.seconds()).context("transport keys")? {
        keys.save(&state)?;
        info!("a new key epoch says which ciphers this node has now");
    }
    let ring = keys.ring().ok_or_else(|| state.nonsense(Kind::Transport))?;
    let newest = ring.epochs().last().context("there is no transport key")?;
    let join = JoinServer::new(Register::open(&state)?, newest.secret.clone(), newest.signed.clone());
    let cache = load_cache(&state)?;
    let boot = BootEpoch(state.next_boot(now.wall.seconds())?);
    let floor = state.number(Kind::Floor)?.unwrap_or(0);

    let mut lanes = Count::wanted(&config);
    let mut opened = open_sockets(&config, &options.config, lanes.count)?;
    let device = open_device(&config, &options.config, lanes.count)?;
    if device.queues.len() < lanes.count {
        lanes = Count::one_queue();
        drop(opened);
        opened = open_sockets(&config, &options.config, lanes.count)?;
    }
    let (sockets, listening) = opened;
    let streams = Prepared::new(&config.streams, config.fwmark)
        .map_err(|cause| streams_error(cause, &options.config))?;
    let listening = Listening {
        sockets: listening,
        streams: streams.listening().into_iter().map(describe_stream).collect(),
    };
    let netlink = Netlink::connect().map_err(netlink_error)?;
    let network = Network::set_up(netlink, &home, &config, &device).await.map_err(netlink_error)?;
    let watch = Watch::new(Some(device.first().index())).map_err(netlink_error)?;
    let interface_addresses = network.local_addresses().await;
    // What is to know more than the sandbox shows is opened by now, and there is no other thread.
    let forwarding = Forwarding::open();
    let socket_path = state.socket();
    let listener = server::bind(&socket_path)
        .map_err(|source| Error::ControlSocket { path: socket_path.clone(), source })?;
    let scrapers = match config.metrics {
        Some(address) => Some(
            metrics::http::bind(address)
                .with_context(|| format!("`metrics`: cannot listen on {address} (TCP)"))?,
        ),
        None => None,
    };
    let (calls_tx, calls) = mpsc::channel(MAX_CALLS);
    let needs = needs(&config, &options, &state, &home);
    let agent = match &config.engine {
        Some(engine) => Some(
            start_agent(engine, &home, calls_tx.clone(), config.sandbox, needs.clone())
                .context("cannot start the agent of `meshd stack`")?,
        ),
        None => None,
    };
    let sandbox = sandbox::enter(config.sandbox, sandbox, &needs)?;
    if let Some(agent) = agent {
        agent.go();
    }
    let resolver = Resolver::start(config.endpoints.clone(), StdRng::from_rng(&mut rng));
    let mut discovery = Discovery::new();
    discovery.update(config.lan_discovery, network.name());
    let port_map = PortMap::start();
    port_map.set(network.port_to_map(&config, &listening).await);
    let settings = network.settings(&config, resolver.addresses(), interface_addresses, &listening);

    let node = Node::new(
        NodeConfig {
            identity: IdentitySecret::from_bytes(&home.identity.to_bytes()),
            gate: Secret::new(*home.gate()?),
            keys: ring,
            certificate: home.certificate.signed().clone(),
            issuer: home.issuer.as_ref().map(|issuer| issuer.signed().clone()),
            trust: home.chain.clone(),
            revocations: state.objects(Kind::Revocations)?,
            plan: load_plan(&state)?,
            boot,
            timestamp_floor_us: floor,
            cache: cache.to_vec(),
            offload: device.first().offloads().checksum,
            version: env!("CARGO_PKG_VERSION").into(),
            settings,
        },
        now,
        StdRng::from_rng(&mut rng),
    )?;

    let (saved_tx, saved) = mpsc::channel(MAX_SAVED);
    let store = Store::start(state.clone(), &cache, saved_tx)
        .context("cannot start the thread that writes the state")?;
    if let Some(listener) = scrapers {
        tokio::spawn(metrics::http::serve(listener, calls_tx.clone()));
    }
    tokio::spawn(server::serve(listener, calls_tx));
    let hooks = helper.map(Waiting::start).transpose().context("cannot start the threads for [hooks]")?;
    let snapshot = Arc::new(ArcSwap::default());
    let (reports_tx, reports) = mpsc::channel(CHANNEL_LEN);
    let (lane_count, lanes_reason) = (lanes.count, lanes.reason);
    let queues = Queues::of_lanes(&device.queues, lanes.count);
    let mut lanes = Lanes::start(&queues, sockets, snapshot.clone(), reports_tx)
        .context("cannot start the data plane's threads")?;
    let streams = lanes.start_streams(streams).context("cannot start the thread of TCP connections")?;
    let certificate = home.certificate.body();
    info!(
        node = %certificate.name, mesh = %home.chain.current().name, member = %certificate.member,
        interface = config.interface, lanes = lane_count, boot = boot.0, listen = ?listening.sockets.iter().map(|one| one.port).collect::<Vec<_>>(),
        "meshd {} is up", env!("CARGO_PKG_VERSION")
    );
    notify::ready(&format!("{} in mesh {}", certificate.name, home.chain.current().name));
    let driver = Driver::resume(&state)?;
    let parts = Parts {
        options,
        config,
        logs,
        home,
        node,
        lanes,
        lanes_reason,
        snapshot,
        network,
        watch,
        resolver,
        forwarding,
        sandbox,
        discovery,
        port_map,
        listening,
        streams,
        reports,
        calls,
        join,
        store,
        saved,
        hooks,
        rng,
        _unlink: server::Unlink(socket_path),
        _lock: lock,
    };
    Ok(Service::new(parts, driver))
}

/// The helper that runs the configured commands, where there are any. Strict mode allows it: it is no part of the daemon
/// any more when that closes the door, and takes no orders but to run what was configured now.
fn helper(config: &Config, options: &Options, state: &StateDir) -> anyhow::Result<Option<Waiting>> {
    let translates = config.exit && config.exit_nat;
    if config.hooks.is_empty() && !translates {
        return Ok(None);
    }
    let home = Home::load(state.clone())?;
    let network4 = home.chain.current().network4.map(IpNet::V4);
    let network6 = IpNet::V6(member_network6(home.chain.mesh()));
    let setup = job::Setup {
        config: config.hooks.clone(),
        nat: translates.then(|| Nat {
            members: network4.into_iter().chain([network6]).collect(),
            untouched: config.subnets.iter().map(|subnet| subnet.prefix).collect(),
        }),
        name: job::NameText(home.certificate.body().name.clone()),
        mesh: job::NameText(home.chain.current().name.clone()),
        interface: config.interface.clone(),
        state: state.path().to_owned(),
        configuration: options.config.clone(),
    };
    let helper =
        Waiting::spawn(setup).context("cannot start the helper that runs the commands in [hooks]")?;
    Ok(Some(helper))
}

/// What the daemon goes on needing once everything is open.
fn needs(config: &Config, options: &Options, state: &StateDir, home: &Home) -> Needs {
    let mut write = vec![state.path().to_owned()];
    if config.engine.is_some() {
        write.push(Path::new(CONTAINER_FILES).join(home.certificate.body().name.as_str()));
    }
    // Editors replace a file by another: what is named is its directory.
    let directory = options.config.parent().filter(|path| !path.as_os_str().is_empty());
    Needs {
        write,
        read: vec![directory.unwrap_or(Path::new(".")).to_owned()],
        low_ports: config.listen.iter().any(|address| address.port() < 1024),
        others: usize::from(config.engine.is_some()),
    }
}

fn load_plan(state: &StateDir) -> Result<Option<KeyPlan>, state::Error> {
    let Some(payload) = state.read(Kind::Plan)? else { return Ok(None) };
    KeyPlan::parse(&payload).map(Some).map_err(|_| state.nonsense(Kind::Plan))
}

/// Where the files of a stack's containers are; in memory on every usual system.
const CONTAINER_FILES: &str = "/run/meshd-stack";

/// The agent waits for its sign: until then it does nothing that the sandbox would have to wait for.
fn start_agent(
    engine: &Path,
    home: &Home,
    calls: mpsc::Sender<server::Call>,
    mode: sandbox::Mode,
    needs: Needs,
) -> std::io::Result<agent::Waiting> {
    let certificate = home.certificate.body();
    let options = agent::Options {
        engine: engine.to_owned(),
        node: certificate.name.to_string(),
        member: certificate.member,
        addresses: home.certificate.addresses().collect(),
        directory: home.state.path().join("stack"),
        files: Path::new(CONTAINER_FILES).join(certificate.name.as_str()),
        identity: home.identity.to_bytes(),
        calls,
    };
    agent::start(options, move || sandbox::enter_agent(mode, &needs))
}

/// A damaged cache is no reason not to start: the other members have its content. It is kept for whoever wonders.
fn load_cache(state: &StateDir) -> Result<zeroize::Zeroizing<Vec<u8>>, state::Error> {
    match state.read(Kind::Records) {
        Ok(cache) => Ok(cache.unwrap_or_default()),
        Err(error @ state::Error::Damaged { .. }) => {
            let kept = state.set_aside(Kind::Records)?;
            warn!(%error, kept = %kept.display(), "starting without cached records");
            Ok(Default::default())
        }
        Err(error) => Err(error),
    }
}

/// How many lanes there are to be, and why.
struct Count {
    count: usize,
    reason: String,
}

impl Count {
    fn wanted(config: &Config) -> Count {
        let processors = std::thread::available_parallelism().map_or(1, usize::from);
        let count = config.lanes.count(processors);
        if config.offload == tun::Wish::Off && count > 1 {
            return Count::one_queue();
        }
        let reason = match config.lanes {
            LanesWish::Auto => format!("chosen for {processors} processors"),
            LanesWish::Fixed(_) => "as configured".into(),
        };
        Count { count, reason }
    }

    fn one_queue() -> Count {
        Count { count: 1, reason: "the device without offload has one queue".into() }
    }
}

/// Groups with sockets for `lanes` threads each, or of one socket where the kernel cannot steer datagrams to them.
fn open_sockets(config: &Config, path: &Path, lanes: usize) -> Result<(Sockets, Vec<node::Socket>), Error> {
    match open_groups(config, path, |options| udp::Group::bind(options, lanes))? {
        (groups, _) if groups.iter().any(|group| group.steering() == udp::Steering::Unsupported) => {
            drop(groups);
            open_groups(config, path, udp::Group::alone)
        }
        steered => Ok(steered),
    }
}

fn open_groups(
    config: &Config,
    path: &Path,
    bind: impl Fn(&udp::Options) -> Result<udp::Group, BindError>,
) -> Result<(Sockets, Vec<node::Socket>), Error> {
    let mut sockets = Sockets::new();
    let mut listening = Vec::new();
    for (number, address) in config.listen.iter().take(SOCKETS_MAX).enumerate() {
        let mark = (config.fwmark != 0).then_some(config.fwmark);
        let offload = config.offload == tun::Wish::Auto;
        let open = |mark| {
            let options = udp::Options::new(Bind::from(*address));
            // Datagrams are as long as the path is known to carry: a longer one is to be lost, and so noticed.
            let mtu_discovery = udp::MtuDiscovery::Probe;
            bind(&udp::Options { mark, offload, mtu_discovery, ..options })
        };
        let group = match open(mark) {
            // The mark only matters to routing rules; without the right to set it there can be none of ours.
            Err(BindError::Permission(_)) if mark.is_some() => open(None),
            other => other,
        };
        let group = group.map_err(|cause| match cause {
            BindError::Permission(_) => Error::Permission(Permission(cause.to_string())),
            cause => Error::Listen { cause, config: path.to_owned() },
        })?;
        let id = SocketId(u8::try_from(number).unwrap_or(u8::MAX));
        listening.push(describe(id, group.first()));
        sockets.push(Arc::new(group));
    }
    Ok((sockets, listening))
}

fn describe(id: SocketId, socket: &udp::Socket) -> node::Socket {
    let local = socket.local_addr();
    let any4 = SocketAddr::from((Ipv4Addr::new(192, 0, 2, 1), 9));
    let any6 = SocketAddr::from((Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 1), 9));
    let bound: Option<IpAddr> = (!local.ip().is_unspecified()).then(|| local.ip());
    node::Socket { id, port: local.port(), ipv4: socket.serves(any4), ipv6: socket.serves(any6), bound }
}

fn describe_stream((local, tls): (SocketAddr, bool)) -> node::StreamSocket {
    let all = local.ip().is_unspecified();
    let bound = (!all).then(|| local.ip());
    // `[::]` takes IPv4, too.
    let (ipv4, ipv6) = (local.is_ipv4() || all, local.is_ipv6());
    node::StreamSocket { tls, port: local.port(), ipv4, ipv6, bound }
}

fn streams_error(cause: PrepareError, config: &Path) -> Error {
    match cause {
        PrepareError::Listen { ref source, .. } if source.kind() == std::io::ErrorKind::PermissionDenied => {
            Error::Permission(Permission(cause.to_string()))
        }
        cause => Error::Streams { cause: cause.to_string(), config: config.to_owned() },
    }
}

/// A device with a queue for each of `lanes`, and another one for each if it takes so many.
fn open_device(config: &Config, path: &Path, lanes: usize) -> Result<tun::Opened, Error> {
    let options =
        tun::Options { name: config.interface.clone(), offload: config.offload, queues: lanes, spare: lanes };
    tun::open(&options).map_err(|cause| match cause {
        cause if cause.is_permission() => Error::Permission(Permission(cause.to_string())),
        cause => Error::Interface { cause, config: path.to_owned() },
    })
}

fn netlink_error(error: meshnet::io::netlink::NetlinkError) -> anyhow::Error {
    if error.is_permission() { Error::Permission(Permission(error.to_string())).into() } else { error.into() }
}
