//! The daemon's loop.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use anyhow::bail;
use arc_swap::ArcSwap;
use meshnet::dataplane::Snapshot;
use meshnet::io::netlink::Watch;
use meshnet::io::udp::{FaultKind, Sent};
use meshnet::io::{clock, heap};
use meshnet::membership::Membership;
use meshnet::node::{Event, JoinOrigin, Node, Route, Settings};
use meshnet::time::{Mono, Now};
use proto::bundle::SignedBundle;
use proto::id::MemberId;
use rand::rngs::StdRng;
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::mpsc;
use tokio::time::Instant;
use tracing::{debug, error, info, warn};

use super::authority::Driver;
use super::calls::Pings;
use super::clocks::{Clocks, Noticed};
use super::discovery::Discovery;
use super::dns::Resolver;
use super::history::{self, History, PathChange};
use super::lanes::{Lanes, Report};
use super::network::{Forwarding, Listening, Network};
use super::portmap::PortMap;
use super::store::{Saved, Store};
use super::streams::Streams;
use super::{Options, notify};
use crate::api::server::{Call, Unlink};
use crate::api::view::HappeningKind;
use crate::config::{self, Config};
use crate::hooks::{self, Happened, On};
use crate::join::server::{Mesh, Server as JoinServer};
use crate::log;
use crate::sandbox;
use crate::state::files::{TransportKeys, emit_objects, parse_objects};
use crate::state::{Home, Kind, Lock};

/// Reports taken from the data plane in one go.
const BATCH: usize = 64;
/// When the heap is tidied first: what reading the cache and the first routes took is free by then.
const TIDY_FIRST: Duration = Duration::from_secs(30);
/// How often it is tidied after that.
const TIDY_EVERY: Duration = Duration::from_secs(600);
/// How long to wait after a change of the machine's network: changes come in flocks.
const NETWORK_SETTLE: Duration = Duration::from_millis(200);
/// Time that leaving may take, of the 2 seconds that it has.
const GOODBYE: Duration = Duration::from_millis(1_500);

/// Time that the commands in `[hooks]` have beyond that when the daemon ends; systemd gives 10 seconds in all.
const LAST_COMMANDS: Duration = Duration::from_secs(6);

/// What a service is made of.
pub(super) struct Parts {
    pub(super) options: Options,
    pub(super) config: Config,
    pub(super) logs: log::Control,
    pub(super) home: Home,
    pub(super) node: Node,
    pub(super) lanes: Lanes,
    pub(super) lanes_reason: String,
    pub(super) snapshot: Arc<ArcSwap<Snapshot>>,
    pub(super) network: Network,
    pub(super) watch: Watch,
    pub(super) resolver: Resolver,
    pub(super) forwarding: Forwarding,
    pub(super) sandbox: sandbox::Report,
    pub(super) discovery: Discovery,
    pub(super) port_map: PortMap,
    pub(super) listening: Listening,
    /// The thread of TCP connections; it ends with this.
    pub(super) streams: Option<Streams>,
    pub(super) reports: mpsc::Receiver<Report>,
    pub(super) calls: mpsc::Receiver<Call>,
    pub(super) join: JoinServer,
    pub(super) store: Store,
    pub(super) saved: mpsc::Receiver<Saved>,
    /// Runs the configured commands, where there are any.
    pub(super) hooks: Option<hooks::Queue>,
    pub(super) rng: StdRng,
    pub(super) _unlink: Unlink,
    pub(super) _lock: Lock,
}

/// The running daemon, but for its data plane.
pub(super) struct Service {
    pub(super) parts: Parts,
    pub(super) started: Mono,
    pub(super) pings: Pings,
    pub(super) history: History,
    pub(super) driver: Driver,
    /// Routes that the kernel has not got yet.
    routes: Option<Vec<Route>>,
    /// What was asked of the sending threads last, once for each number.
    asked: u64,
}

/// What woke the loop.
enum Wake {
    Reports(usize),
    Call(Call),
    Network,
    NetworkSettled,
    Endpoints,
    Lan(SocketAddr, Vec<u8>),
    Saved(Saved),
    Reload,
    End(&'static str),
    Timer,
    Clock,
    Tidy,
    Alive,
}

impl Service {
    pub(super) fn new(parts: Parts, driver: Driver) -> Service {
        Service {
            parts,
            started: clock::mono(),
            pings: Pings::default(),
            history: History::default(),
            driver,
            routes: None,
            asked: 0,
        }
    }

    /// Runs until a signal ends it.
    pub(super) async fn run(mut self) -> anyhow::Result<()> {
        let mut terminate = signal(SignalKind::terminate())?;
        let mut interrupt = signal(SignalKind::interrupt())?;
        let mut hangup = signal(SignalKind::hangup())?;
        self.hook(On::Up, Happened::default);
        let mut batch = Vec::with_capacity(BATCH);
        let mut network_due: Option<Instant> = None;
        let watchdog = notify::watchdog_interval();
        let mut alive_at = watchdog.map(|_| Instant::now());
        let mut clocks = Clocks::new();
        let mut tidy_at = Instant::now() + TIDY_FIRST;
        loop {
            self.carry_out().await;
            let timer = self.next_timer();
            let wake = tokio::select! {
                // Reports last: a flood of them must not keep the daemon from anything else.
                biased;
                _ = terminate.recv() => Wake::End("terminated"),
                _ = interrupt.recv() => Wake::End("interrupted"),
                _ = hangup.recv() => Wake::Reload,
                () = clocks.changed() => Wake::Clock,
                () = at(alive_at) => Wake::Alive,
                () = at(network_due) => Wake::NetworkSettled,
                () = at(Some(tidy_at)) => Wake::Tidy,
                () = tokio::time::sleep_until(timer) => Wake::Timer,
                Some(call) = self.parts.calls.recv() => Wake::Call(call),
                changes = self.parts.watch.changed() => {
                    if changes.ended() {
                        self.watch_again();
                    }
                    Wake::Network
                }
                _ = self.parts.resolver.changed() => Wake::Endpoints,
                () = self.parts.port_map.changed() => Wake::Endpoints,
                Some(saved) = self.parts.saved.recv() => Wake::Saved(saved),
                count = self.parts.reports.recv_many(&mut batch, BATCH) => Wake::Reports(count),
                (from, bytes) = self.parts.discovery.receive() => Wake::Lan(from, bytes),
            };
            for noticed in clocks.look(timer.elapsed()) {
                self.notice(noticed).await;
            }
            match wake {
                Wake::Clock => {}
                Wake::Reports(0) => bail!("the data plane has ended"),
                Wake::Reports(_) => {
                    for report in batch.drain(..) {
                        self.take_report(report)?;
                    }
                }
                Wake::Call(call) => self.answer(call).await,
                Wake::Network => {
                    network_due.get_or_insert(Instant::now() + NETWORK_SETTLE);
                }
                Wake::NetworkSettled => {
                    network_due = None;
                    // A new network may resolve names another way.
                    self.parts.resolver.set(self.parts.config.endpoints.clone());
                    self.apply_settings().await;
                }
                Wake::Endpoints => self.apply_settings().await,
                Wake::Lan(from, bytes) => {
                    self.parts.discovery.count();
                    self.parts.node.handle_lan(clock::now(), from, &bytes);
                }
                Wake::Saved(saved) => self.take_saved(saved),
                Wake::Reload => {
                    notify::reloading();
                    // What it has to say is in the log.
                    let _ = self.reload().await;
                    notify::ready("reloaded");
                }
                Wake::End(why) => {
                    info!("{why}: leaving");
                    notify::stopping();
                    return self.leave(terminate, interrupt).await;
                }
                Wake::Timer => self.take_timer().await,
                Wake::Tidy => {
                    heap::trim();
                    tidy_at = Instant::now() + TIDY_EVERY;
                }
                Wake::Alive => {
                    notify::alive();
                    alive_at = watchdog.map(|interval| Instant::now() + interval);
                }
            }
        }
    }

    fn take_report(&mut self, report: Report) -> anyhow::Result<()> {
        let now = clock::now();
        match report {
            Report::Inbound(inbound) => self.parts.node.handle_inbound(now, inbound),
            Report::Fault { fault, .. } => {
                debug!(?fault, "the network reports a lost datagram");
                match fault.kind {
                    FaultKind::TooBig { mtu } => {
                        self.parts.node.handle_too_big(now, fault.remote, mtu, fault.reporter.is_none());
                    }
                    FaultKind::Refused | FaultKind::Unreachable | FaultKind::Other => {
                        self.parts.node.handle_unreachable(now, fault.remote);
                    }
                }
            }
            Report::StreamClosed { socket, remote } => {
                self.parts.node.handle_stream_closed(now, socket, remote);
            }
            Report::DeviceGone => bail!("the device {} was deleted", self.parts.network.name()),
        }
        self.drain(now);
        Ok(())
    }

    async fn take_timer(&mut self) {
        let now = clock::now();
        self.parts.node.handle_timeout(now);
        self.pings.expire(Instant::now());
        self.drive_rollover(now);
        if self.parts.store.due().is_some_and(|due| due <= Instant::now()) {
            let cache = self.parts.node.export_cache();
            self.parts.store.save(cache);
        }
    }

    fn next_timer(&self) -> Instant {
        let now = clock::now();
        let node = Instant::now() + self.parts.node.poll_timeout(now).since(now.mono);
        let others = [self.parts.store.due(), self.pings.due(), self.driver.due()];
        others.into_iter().flatten().fold(node, Instant::min)
    }

    /// Does what the node wants: events, then datagrams; routes last, because the kernel takes its time.
    pub(super) async fn carry_out(&mut self) {
        self.drain(clock::now());
        if let Some(routes) = self.routes.take() {
            self.parts.network.set_routes(&routes).await;
        }
        // After the routes that keep packets on narrower paths short.
        self.parts.network.grow().await;
    }

    pub(super) fn drain(&mut self, now: Now) {
        loop {
            while let Some(event) = self.parts.node.poll_event() {
                self.take_event(now, event);
            }
            let Some(transmit) = self.parts.node.poll_transmit() else { return };
            let sent = self.parts.lanes.send(&transmit);
            if transmit.whole && sent == Sent::TooBig {
                self.parts.node.handle_refused(now, transmit.to, transmit.bytes.len());
            }
        }
    }

    fn take_event(&mut self, now: Now, event: Event) {
        match event {
            Event::Snapshot(snapshot) => {
                let asked = snapshot.resend.number + snapshot.narrowed.number;
                self.parts.snapshot.store(snapshot);
                if asked > std::mem::replace(&mut self.asked, asked) {
                    self.parts.lanes.wake_senders();
                }
            }
            Event::Routes(routes) => self.routes = Some(routes),
            Event::Wider(widest) => {
                let parts = &mut self.parts;
                if let Some(mtu) = parts.network.wider(&parts.config, widest) {
                    parts.network.set_mtu(mtu);
                    parts.node.handle_device_mtu(now, mtu);
                }
            }
            Event::Undeliverable { packet, error } => self.parts.lanes.refuse(now.mono, &packet, error),
            Event::CacheChanged => self.parts.store.cache_changed(),
            Event::ReserveTimestamp(floor_us) => self.parts.store.reserve(floor_us),
            Event::SaveKeys { ring, generation } => {
                self.parts.store.persist(Kind::Transport, generation, TransportKeys::of(&ring).payload());
            }
            Event::KeysRotated { epoch } => info!(%epoch, "the transport key was replaced"),
            Event::RevocationsChanged => {
                let payload = emit_objects(self.parts.node.export_revocations());
                self.parts.store.persist(Kind::Revocations, 0, payload.into());
            }
            Event::BundlesChanged => {
                let trust = self.parts.node.membership().trust();
                info!(version = trust.version(), "the mesh has a new trust bundle");
                let payload = emit_objects(trust.after(0).iter().map(SignedBundle::to_bytes));
                self.parts.home.chain = trust.clone();
                self.parts.store.persist(Kind::Chain, 0, payload.into());
            }
            Event::Renew { member } => self.renew(now, member),
            Event::CertificateChanged => self.save_certificate(),
            Event::CertificateEnds { seconds_left } if seconds_left < 0 => {
                error!("{}", super::show::ended(seconds_left.unsigned_abs()));
            }
            Event::CertificateEnds { seconds_left } => warn!(
                days_left = seconds_left / 86_400,
                "this node's certificate ends, and no member could renew it yet"
            ),
            Event::Revoked { member, .. } if member == self.parts.node.member() => {
                error!("this node was revoked: it is no member of the mesh any more");
            }
            Event::Revoked { member, name } => {
                let name = name.map(|name| name.to_string()).unwrap_or_default();
                warn!(peer = %name, %member, "revoked");
            }
            Event::Readmitted { member, name } => {
                let name = name.map(|name| name.to_string()).unwrap_or_default();
                warn!(peer = %name, %member, "readmitted: the operator who had revoked it was revoked");
            }
            Event::PeerUp { name, member } => {
                info!(peer = %name, %member, "connected");
                self.history.session(now, &name, HappeningKind::Connected);
            }
            Event::PeerDown { name, member } => {
                info!(peer = %name, %member, "disconnected");
                self.history.session(now, &name, HappeningKind::Disconnected);
            }
            Event::NodeUp { member, name } => {
                let remote = self.parts.node.endpoint_of(member);
                self.hook(On::NodeUp, || Happened { remote, ..super::hooked::member(&name) });
            }
            Event::NodeDown { name, .. } => self.hook(On::NodeDown, || super::hooked::member(&name)),
            Event::SubnetUp { member, name, prefix, weight } => {
                let remote = self.parts.node.endpoint_of(member);
                let happened = || Happened { remote, ..super::hooked::subnet(&name, prefix, weight) };
                self.hook(On::SubnetUp, happened);
            }
            Event::SubnetDown { name, prefix, weight, .. } => {
                self.hook(On::SubnetDown, || super::hooked::subnet(&name, prefix, weight));
            }
            Event::PathChanged { name, path, before, reason, .. } => {
                let membership = self.parts.node.membership();
                let happened = super::hooked::path(membership, &name, path, before);
                self.hook(On::PathChange, || happened);
                let membership = self.parts.node.membership();
                let word = |path| history::describe(path, |relay| super::show::name_of(membership, relay));
                let (from, to) = (before.map(word), path.map(word));
                debug!(peer = %name, ?from, ?to, ?reason, "path changed");
                let reason = super::show::change(reason);
                self.history.path(now, &name, PathChange { from, to, reason });
            }
            Event::Announce { ask } => {
                let node = &mut self.parts.node;
                self.parts.discovery.announce(|| node.announcement(ask));
            }
            Event::Join { origin, bytes } => self.take_join(now, origin, &bytes),
            Event::Pong { id, rtt_us, .. } => {
                let node = &self.parts.node;
                self.pings.answer(id, rtt_us, |member| super::show::path_to(node, now, member));
            }
        }
    }

    /// The machine slept, or its clock was set.
    async fn notice(&mut self, noticed: Noticed) {
        match noticed {
            Noticed::Slept(span) => {
                info!(seconds = span.as_secs_f64(), "awake again: all paths are looked at");
                // Where this machine is now decides what is announced; before anything that was due meanwhile.
                self.apply_settings().await;
                self.parts.node.handle_wake(clock::now(), span);
            }
            Noticed::Jumped(by_ms) => {
                warn!(by_ms, "the wall clock was set: certificates are judged anew");
                self.parts.node.handle_clock_change(clock::now());
            }
        }
        self.drain(clock::now());
    }

    /// Has the configured command run, if there is one.
    fn hook(&mut self, on: On, happened: impl FnOnce() -> Happened) {
        if let Some(hooks) = &mut self.parts.hooks {
            hooks.tell(on, happened());
        }
    }

    /// A file of the node's is on the disk.
    fn take_saved(&mut self, saved: Saved) {
        if saved.kind == Kind::Transport {
            let now = clock::now();
            self.parts.node.keys_saved(now, saved.generation);
            let newest = self.parts.node.newest_key();
            self.parts.join.set_key(newest.secret.clone(), newest.signed.clone());
            self.drain(now);
        }
    }

    fn take_join(&mut self, now: Now, origin: JoinOrigin, datagram: &[u8]) {
        let parts = &mut self.parts;
        let facts = Facts { node: &parts.node, now };
        let outcome = parts.join.handle(now, &parts.home, &facts, datagram, &mut parts.rng);
        if let Some(answer) = outcome.answer {
            parts.node.answer_join(now, origin, answer);
        }
    }

    /// Tells the node about addresses and endpoints as they are now.
    pub(super) async fn apply_settings(&mut self) {
        let parts = &mut self.parts;
        let addresses = parts.network.local_addresses().await;
        parts.network.set_exit(parts.config.exit_node.is_some()).await;
        parts.network.set_rules(&addresses).await;
        parts.discovery.update(parts.config.lan_discovery, parts.network.name());
        parts.port_map.set(parts.network.port_to_map(&parts.config, &parts.listening).await);
        let settings = Settings {
            mapped: parts.port_map.state().endpoint,
            ..parts.network.settings(&parts.config, parts.resolver.addresses(), addresses, &parts.listening)
        };
        parts.node.handle_settings(clock::now(), settings);
    }

    /// Reads the configuration again, and returns what an operator should know. A wrong one changes nothing.
    pub(super) async fn reload(&mut self) -> Result<Vec<String>, config::Error> {
        let parts = &mut self.parts;
        let mut new = Config::load_or_default(&parts.options.config)
            .inspect_err(|error| warn!("the old configuration stays in force: {error}"))?;
        if let Some(interface) = &parts.options.interface {
            new.interface.clone_from(interface);
        }
        let later = parts.config.needs_restart(&new);
        parts.logs.set(new.log.louder(parts.options.verbose));
        // What needs a restart keeps its old value until then.
        parts.config = Config {
            state: parts.config.state.clone(),
            interface: parts.config.interface.clone(),
            mtu: parts.config.mtu,
            lanes: parts.config.lanes,
            listen: parts.config.listen.clone(),
            streams: parts.config.streams.clone(),
            fwmark: parts.config.fwmark,
            route_table: parts.config.route_table,
            route_metric: parts.config.route_metric,
            rule_priority: parts.config.rule_priority,
            exit: parts.config.exit,
            exit_nat: parts.config.exit_nat,
            engine: parts.config.engine.clone(),
            hooks: parts.config.hooks.clone(),
            sandbox: parts.config.sandbox,
            ..new
        };
        parts.resolver.set(parts.config.endpoints.clone());
        self.apply_settings().await;
        info!("configuration reloaded");
        let note = |key| format!("the new value of `{key}` takes effect when meshd is restarted");
        let notes: Vec<String> = later.into_iter().map(note).collect();
        notes.iter().for_each(|note| warn!("{note}"));
        Ok(notes)
    }

    fn watch_again(&mut self) {
        // The kernel closed the watch's socket, as it does when changes come faster than they are read.
        let index = nix::net::if_::if_nametoindex(self.parts.network.name()).ok();
        match Watch::new(index) {
            Ok(watch) => self.parts.watch = watch,
            Err(error) => error!(%error, "changes of this machine's network are no longer noticed"),
        }
    }

    /// Tells the peers, saves the cache, removes routes and device.
    async fn leave(mut self, mut terminate: Signal, mut interrupt: Signal) -> anyhow::Result<()> {
        let goodbye = async {
            let now = clock::now();
            self.parts.node.shut_down(now);
            self.drain(now);
            let cache = self.parts.node.export_cache();
            self.parts.store.save(cache);
            self.parts.store.finish().await;
            self.parts.port_map.finish().await;
        };
        tokio::select! {
            done = tokio::time::timeout(GOODBYE, goodbye) => if done.is_err() {
                warn!("leaving took too long");
            },
            _ = terminate.recv() => {}
            _ = interrupt.recv() => {}
        }
        self.hook(On::Down, Happened::default);
        if let Some(hooks) = &mut self.parts.hooks {
            tokio::select! {
                () = hooks.finish(LAST_COMMANDS) => {}
                _ = terminate.recv() => {}
                _ = interrupt.recv() => {}
            }
        }
        if tokio::time::timeout(GOODBYE, self.parts.network.tear_down()).await.is_err() {
            warn!("the routes are left to the end of the device");
        }
        drop(self.parts.streams);
        let panicked = self.parts.lanes.stop();
        if panicked > 0 {
            bail!("{panicked} threads of the data plane had panicked");
        }
        Ok(())
    }
}

/// Sleeps until `instant`; for ever without one.
async fn at(instant: Option<Instant>) {
    match instant {
        Some(instant) => tokio::time::sleep_until(instant).await,
        None => std::future::pending().await,
    }
}

/// What the join server needs to know of the node.
struct Facts<'a> {
    node: &'a Node,
    now: Now,
}

impl Mesh for Facts<'_> {
    fn membership(&self) -> &Membership {
        self.node.membership()
    }

    /// This node's own objects first, then the relays', then the others'.
    fn objects(&self) -> Vec<Vec<u8>> {
        let own = self.node.member();
        let rank = |member: &MemberId| {
            let record = self.node.lsdb().get(*member).map(|entry| entry.view());
            match (*member == own, record) {
                (true, _) => 0,
                (false, Some(record)) if record.relays() => 1,
                (false, Some(_)) => 2,
                (false, None) => 3,
            }
        };
        let membership = self.node.membership();
        let mut members: Vec<MemberId> = membership
            .iter()
            .map(|(member, _)| member)
            .filter(|member| membership.is_honoured(self.now.wall, *member))
            .collect();
        members.sort_by_key(|member| (rank(member), *member));
        parse_objects(&self.node.export_members(members)).unwrap_or_default()
    }
}
