//! A machine: what the daemon keeps on disk, and while it runs the node with its packet path.

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use meshnet::dataplane::meta::Meta;
use meshnet::dataplane::tx::{seal, seal_control};
use meshnet::dataplane::{HEADROOM, Outgoing, Rx, Snapshot, TAILROOM, Tx, TxVerdict, Verdict};
use meshnet::membership::{
    AuthoritySecret, IdentitySecret, Request, Signer, TrustChain, VerifiedCertificate, issue,
};
use meshnet::node::{Event, Inbound, KeyRing, Node, NodeConfig, Settings};
use meshnet::path::SocketId;
use meshnet::session::GateKey;
use meshnet::time::{Mono, Now, UnixMs};
use proto::certificate::{Certificate, Issuer, Roles};
use proto::data::{self, TrailerFlags};
use proto::frame::Frame;
use proto::id::{BootEpoch, MemberId};
use proto::lane::{Lane, Role};
use proto::record::KeyPlan;
use proto::relay;
use proto::signed::{ObjectKind, Signed};
use rand::SeedableRng;
use rand::rngs::StdRng;

/// The wall clock at the beginning of virtual time: some day in 2026.
pub const START: UnixMs = UnixMs(1_780_000_000_000);

/// Room for one datagram that is sent once more.
const RESEND_BYTES: usize = 2048;

/// IPv4 and UDP headers.
pub(super) const HEADERS: u64 = 28;

/// The daemon saves its cache this long after it changed.
const SAVE_AFTER_US: u64 = 500_000;

/// What survives a crash.
pub struct Disk {
    /// Seed of the identity key.
    pub identity: [u8; 32],
    /// The secret of the mesh.
    pub gate: GateKey,
    /// The transport keys.
    pub keys: KeyRing,
    /// The revocations known.
    pub revocations: Vec<Vec<u8>>,
    /// The node's certificate.
    pub certificate: VerifiedCertificate,
    /// The certificate of the member that issued it.
    pub issuer: Option<Signed<Certificate>>,
    /// The trust bundles.
    pub trust: TrustChain,
    /// The seed of the authority's key, where it is kept.
    pub authority: Option<[u8; 32]>,
    /// Its own plan, as an operator.
    pub plan: Option<KeyPlan>,
    /// Writes of the keys so far.
    pub key_writes: u64,
    /// Starts so far.
    pub boot: u64,
    /// Handshake timestamps up to this one may have been used.
    pub timestamp_floor_us: u64,
    /// What the node exported last.
    pub cache: Vec<u8>,
}

/// Where a machine loses its power while it writes its keys.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum PowerCut {
    /// Before this write, counted from 1, has reached the disk.
    Before(u64),
    /// When it has, but before the node knows.
    After(u64),
}

/// What a relay does not pass on.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Swallows {
    /// It passes on everything.
    Nothing,
    /// It passes on nothing.
    Everything,
    /// Inner packets whose datagrams are longer than so many bytes, but everything of the control plane, probes included:
    /// the lane tells them apart.
    Packets {
        /// The longest that is passed on.
        longest: usize,
    },
}

impl Swallows {
    /// Whether it does not pass on a datagram that it was given to relay.
    fn has(self, datagram: &[u8]) -> bool {
        match self {
            Swallows::Nothing => false,
            Swallows::Everything => true,
            Swallows::Packets { longest } => {
                let Ok(header) = relay::Header::parse(datagram) else { return false };
                let inner = &datagram[header.len() + relay::HOP_TAG_LEN..];
                let lane = data::Header::parse(inner).ok().and_then(|header| Lane::from_wire(header.lane));
                lane.is_some_and(|lane| lane.role() == Role::Queue) && datagram.len() > longest
            }
        }
    }
}

/// Something that a machine does to its surroundings.
pub enum Output {
    /// Sends a datagram.
    Datagram {
        /// Its socket.
        socket: SocketId,
        /// Where to.
        to: SocketAddr,
        /// The UDP payload.
        bytes: Vec<u8>,
    },
    /// Says something on its local networks.
    Announcement(Vec<u8>),
    /// Hands an inner packet to the device.
    Packet {
        /// Who sent it, as the packet path says.
        from: MemberId,
        /// The packet.
        bytes: Vec<u8>,
    },
    /// Tells the sender of an inner packet that it is too long.
    TooBig {
        /// The packet.
        bytes: Vec<u8>,
        /// What passes, in bytes.
        mtu: u16,
    },
    /// Tells something worth a line in the trace.
    Note(String),
}

struct Running {
    node: Node,
    rx: Rx,
    tx: Tx,
    snapshot: Arc<Snapshot>,
    save_at_us: Option<u64>,
}

/// A machine.
pub struct Machine {
    /// What survives a crash.
    pub disk: Disk,
    /// What the daemon was told by its configuration and the system.
    pub settings: Settings,
    /// How far the wall clock is off, in milliseconds.
    pub clock_error_ms: i64,
    /// Where it is to lose its power.
    pub power_cut: Option<PowerCut>,
    /// What it does not pass on, as a relay that cheats or is broken.
    pub swallows: Swallows,
    /// Whether the daemon saves what it knows of the mesh.
    pub saves: bool,
    /// Bytes that arrived, by what they were, where that is wanted.
    pub kinds: Option<BTreeMap<String, u64>>,
    /// Start of this machine's monotonic clock, so that no two machines' clocks agree.
    pub mono_start_us: u64,
    running: Option<Running>,
    asleep_since_us: Option<u64>,
}

impl Machine {
    /// A machine whose daemon does not run.
    pub fn new(disk: Disk, settings: Settings, mono_start_us: u64) -> Machine {
        Machine {
            disk,
            settings,
            clock_error_ms: 0,
            power_cut: None,
            swallows: Swallows::Nothing,
            saves: true,
            kinds: None,
            mono_start_us,
            running: None,
            asleep_since_us: None,
        }
    }

    /// Its member id.
    pub fn member(&self) -> MemberId {
        self.disk.certificate.body().member
    }

    /// Its overlay addresses.
    pub fn addresses(&self) -> Vec<IpAddr> {
        self.disk.certificate.addresses().collect()
    }

    /// The node, while the daemon runs.
    pub fn node(&self) -> Option<&Node> {
        self.running.as_ref().map(|running| &running.node)
    }

    /// Both clocks at a moment of virtual time.
    pub fn now(&self, now_us: u64) -> Now {
        let wall_ms = (START.0 + now_us / 1000).saturating_add_signed(self.clock_error_ms);
        Now { mono: Mono(self.mono_start_us + now_us), wall: UnixMs(wall_ms) }
    }

    /// Starts the daemon from what is on disk.
    ///
    /// # Panics
    /// When the disk does not make a node.
    pub fn start(&mut self, now_us: u64, seed: u64) -> Vec<Output> {
        let now = self.now(now_us);
        let disk = &mut self.disk;
        disk.boot += 1;
        let config = NodeConfig {
            identity: IdentitySecret::from_bytes(&disk.identity),
            gate: disk.gate.clone(),
            keys: disk.keys.clone(),
            certificate: disk.certificate.signed().clone(),
            issuer: disk.issuer.clone(),
            trust: disk.trust.clone(),
            revocations: disk.revocations.clone(),
            plan: disk.plan.clone(),
            boot: BootEpoch(disk.boot),
            timestamp_floor_us: disk.timestamp_floor_us,
            cache: disk.cache.clone(),
            offload: false,
            version: "simulated".into(),
            settings: self.settings.clone(),
        };
        let node = Node::new(config, now, StdRng::seed_from_u64(seed)).expect("the disk makes a node");
        self.running =
            Some(Running { node, rx: Rx::new(), tx: Tx::new(), snapshot: Arc::default(), save_at_us: None });
        self.drain(now_us)
    }

    /// Ends the daemon without any warning.
    pub fn crash(&mut self) {
        self.running = None;
    }

    /// Ends the daemon in order.
    pub fn stop(&mut self, now_us: u64) -> Vec<Output> {
        let now = self.now(now_us);
        if let Some(running) = &mut self.running {
            running.node.shut_down(now);
            self.disk.cache = running.node.export_cache();
        }
        let outputs = self.drain(now_us);
        self.running = None;
        outputs
    }

    /// Takes a datagram from the network.
    pub fn receive(
        &mut self,
        now_us: u64,
        socket: SocketId,
        from: SocketAddr,
        mut bytes: Vec<u8>,
    ) -> Vec<Output> {
        let now = self.now(now_us);
        let Some(running) = &mut self.running else { return Vec::new() };
        let all = 0..bytes.len();
        let snapshot = running.snapshot.clone();
        let verdict = running.rx.process(&snapshot, now.mono, socket, from, &mut bytes, all);
        let mut outputs = Vec::new();
        if let Some(kinds) = &mut self.kinds {
            count(kinds, &verdict, &bytes);
        }
        match verdict {
            Verdict::Deliver { packet, from, .. } => {
                let sender = snapshot.receivers.values().find(|receiver| receiver.slot == from);
                let from = sender.map(|sender| sender.member).unwrap_or_default();
                outputs.push(Output::Packet { from, bytes: bytes[packet].to_vec() });
            }
            Verdict::Control { receiver, via, frames } => {
                let frames = bytes[frames].to_vec();
                running.node.handle_inbound(now, Inbound::Control { receiver, via, frames });
            }
            Verdict::HandUp { via, datagram } => {
                let bytes = bytes[datagram].to_vec();
                running.node.handle_inbound(now, Inbound::Datagram { via, bytes });
            }
            Verdict::Forward { datagram, .. } if self.swallows.has(&bytes[datagram.clone()]) => {}
            Verdict::Forward { socket, to, datagram } => {
                outputs.push(Output::Datagram { socket, to, bytes: bytes[datagram].to_vec() });
            }
            Verdict::Keepalive | Verdict::Elsewhere(_) => {}
            Verdict::Drop(reason) => outputs.push(Output::Note(format!("drops: {}", reason.name()))),
        }
        while let Some(notice) = running.rx.poll_notice() {
            running.node.handle_inbound(now, Inbound::Notice(notice));
        }
        outputs.extend(self.drain(now_us));
        outputs
    }

    /// Hears an announcement on a local network.
    pub fn hear(&mut self, now_us: u64, from: SocketAddr, bytes: &[u8]) -> Vec<Output> {
        let now = self.now(now_us);
        if let Some(running) = &mut self.running {
            running.node.handle_lan(now, from, bytes);
        }
        self.drain(now_us)
    }

    /// Takes an ICMP error: nobody listens at `remote`.
    pub fn refused(&mut self, now_us: u64, remote: SocketAddr) -> Vec<Output> {
        let now = self.now(now_us);
        if let Some(running) = &mut self.running {
            running.node.handle_unreachable(now, remote);
        }
        self.drain(now_us)
    }

    /// Takes an ICMP error: what was sent to `remote` was longer than the `mtu` bytes that pass.
    pub fn too_big(&mut self, now_us: u64, remote: SocketAddr, mtu: usize) -> Vec<Output> {
        let now = self.now(now_us);
        if let Some(running) = &mut self.running {
            running.node.handle_too_big(now, remote, mtu as u32, false);
        }
        self.drain(now_us)
    }

    /// Hears that a connection was closed.
    pub fn stream_closed(&mut self, now_us: u64, socket: SocketId, remote: SocketAddr) -> Vec<Output> {
        let now = self.now(now_us);
        if let Some(running) = &mut self.running {
            running.node.handle_stream_closed(now, socket, remote);
        }
        self.drain(now_us)
    }

    /// Takes a packet from the device.
    pub fn send(&mut self, now_us: u64, packet: &[u8]) -> Vec<Output> {
        if self.asleep_since_us.is_some() {
            return Vec::new();
        }
        let now = self.now(now_us);
        let Some(running) = &mut self.running else { return Vec::new() };
        let (mut buf, inner) = framed(packet);
        let mut outputs = Vec::new();
        let (tx, snapshot) = (&mut running.tx, &running.snapshot);
        let mut verdict = tx.process(snapshot, now.mono, &mut buf, inner.clone(), &Meta::PLAIN);
        if matches!(verdict, TxVerdict::Silent) {
            outputs.push(Output::Note("tells its sender that nobody answers".to_owned()));
            verdict = tx.process_all_the_same(snapshot, now.mono, &mut buf, inner, &Meta::PLAIN);
        }
        match verdict {
            TxVerdict::Send { first, second } => outputs.extend(datagrams(&buf, first, second)),
            TxVerdict::HandUp => running.node.handle_inbound(now, Inbound::Packet(packet.to_vec())),
            TxVerdict::Cut(_) | TxVerdict::Silent => unreachable!("packets are plain, and no TCP"),
            TxVerdict::Fragment(fragments) => {
                for index in 0..fragments.count() {
                    let mut fragment = vec![0; fragments.len_of(index)];
                    fragments.write(packet, index, &mut fragment);
                    outputs.extend(self.send(now_us, &fragment));
                }
                return outputs;
            }
            TxVerdict::TooBig { mtu } => outputs.push(Output::TooBig { bytes: packet.to_vec(), mtu }),
            TxVerdict::Drop(reason) => outputs.push(Output::Note(format!("refuses: {}", reason.name()))),
        }
        if let Some(slot) = running.tx.poll_active() {
            running.node.handle_inbound(now, Inbound::Active(slot));
        }
        outputs.extend(self.drain(now_us));
        outputs
    }

    /// Seals a packet for `to` without looking at its addresses, as a member that cheats would.
    pub fn send_unchecked(&mut self, to: MemberId, packet: &[u8]) -> Vec<Output> {
        let Some(running) = &self.running else { return Vec::new() };
        let mut peers = running.snapshot.peers.iter().flatten();
        let Some(peer) = peers.find(|peer| peer.member == to) else { return Vec::new() };
        let (mut buf, inner) = framed(packet);
        match seal(peer, Lane::FIRST, &mut buf, inner, TrailerFlags::empty()) {
            Some((first, second)) => datagrams(&buf, first, second).collect(),
            None => Vec::new(),
        }
    }

    /// What its daemon is configured to do.
    pub fn settings(&self) -> &Settings {
        &self.settings
    }

    /// Seals control frames for `to` that its node has not made, as a member that cheats would.
    pub fn send_frames(&mut self, to: MemberId, frames: &[Frame]) -> Vec<Output> {
        let Some(running) = &self.running else { return Vec::new() };
        let mut peers = running.snapshot.peers.iter().flatten();
        let Some(peer) = peers.find(|peer| peer.member == to) else { return Vec::new() };
        let mut packs: Vec<Vec<u8>> = Vec::new();
        for frame in frames {
            let mut bytes = Vec::new();
            frame.emit(&mut bytes);
            match packs.last_mut() {
                Some(pack) if pack.len() + bytes.len() <= 1180 => pack.extend_from_slice(&bytes),
                _ => packs.push(bytes),
            }
        }
        let sealed = packs.iter().filter_map(|pack| seal_control(&peer.sealer, &peer.primary, pack));
        sealed.map(|(socket, to, bytes)| Output::Datagram { socket, to, bytes }).collect()
    }

    /// Applies changed settings.
    pub fn reconfigure(&mut self, now_us: u64, settings: Settings) -> Vec<Output> {
        self.settings = settings.clone();
        let now = self.now(now_us);
        if let Some(running) = &mut self.running {
            running.node.handle_settings(now, settings);
        }
        self.drain(now_us)
    }

    /// Stands still until [`Machine::wake_up`]: it hears nothing, sends nothing, and no timer of its ends.
    pub fn sleep(&mut self, now_us: u64) {
        self.asleep_since_us = Some(now_us);
    }

    /// Goes on after [`Machine::sleep`], and notices.
    pub fn wake_up(&mut self, now_us: u64) -> Vec<Output> {
        let Some(since_us) = self.asleep_since_us.take() else { return Vec::new() };
        let (now, slept) = (self.now(now_us), Duration::from_micros(now_us - since_us));
        if let Some(running) = &mut self.running {
            running.node.handle_wake(now, slept);
        }
        self.drain(now_us)
    }

    /// Sets the wall clock, by so many milliseconds, and notices.
    pub fn set_clock(&mut self, now_us: u64, by_ms: i64) -> Vec<Output> {
        self.clock_error_ms += by_ms;
        let now = self.now(now_us);
        if let Some(running) = &mut self.running {
            running.node.handle_clock_change(now);
        }
        self.drain(now_us)
    }

    /// When [`Machine::wake`] has something to do.
    pub fn wake_at_us(&self, now_us: u64) -> Option<u64> {
        if self.asleep_since_us.is_some() {
            return None;
        }
        let running = self.running.as_ref()?;
        let timeout = running.node.poll_timeout(self.now(now_us));
        let node_us = timeout.0.saturating_sub(self.mono_start_us);
        Some(running.save_at_us.map_or(node_us, |save_us| save_us.min(node_us)))
    }

    /// Does what is due.
    pub fn wake(&mut self, now_us: u64) -> Vec<Output> {
        let now = self.now(now_us);
        let Some(running) = &mut self.running else { return Vec::new() };
        if running.save_at_us.is_some_and(|save_us| save_us <= now_us) {
            running.save_at_us = None;
            self.disk.cache = running.node.export_cache();
        }
        if running.node.poll_timeout(now) <= now.mono {
            running.node.handle_timeout(now);
        }
        self.drain(now_us)
    }

    /// Lets the daemon's owner ask something of the node.
    ///
    /// # Panics
    /// When the daemon does not run.
    pub fn ask<T>(&mut self, now_us: u64, ask: impl FnOnce(&mut Node, Now) -> T) -> (T, Vec<Output>) {
        let now = self.now(now_us);
        let running = self.running.as_mut().expect("the daemon runs");
        let answer = ask(&mut running.node, now);
        (answer, self.drain(now_us))
    }

    fn drain(&mut self, now_us: u64) -> Vec<Output> {
        let now = self.now(now_us);
        let Some(running) = &mut self.running else { return Vec::new() };
        let mut outputs = Vec::new();
        while let Some(event) = running.node.poll_event() {
            match event {
                Event::Snapshot(snapshot) => {
                    running.snapshot = snapshot;
                    let (snapshot, tx) = (&running.snapshot, &mut running.tx);
                    if tx.has_resend(snapshot) {
                        let again = |bytes: &[u8], out: Outgoing| {
                            let (socket, to) = (out.socket, out.to);
                            outputs.push(Output::Datagram { socket, to, bytes: bytes[out.range].to_vec() });
                        };
                        tx.resend(snapshot, now.mono, &mut [0; RESEND_BYTES], again);
                    }
                }
                Event::CacheChanged if !self.saves => {}
                Event::CacheChanged => {
                    running.save_at_us.get_or_insert(now_us + SAVE_AFTER_US);
                }
                Event::ReserveTimestamp(floor_us) => self.disk.timestamp_floor_us = floor_us,
                Event::SaveKeys { ring, generation } => {
                    self.disk.key_writes += 1;
                    let write = self.disk.key_writes;
                    if self.power_cut != Some(PowerCut::Before(write)) {
                        self.disk.keys = *ring;
                    }
                    if matches!(self.power_cut, Some(PowerCut::Before(at) | PowerCut::After(at)) if at == write)
                    {
                        self.power_cut = None;
                        self.running = None;
                        outputs.push(Output::Note(format!("loses its power at write {write} of its keys")));
                        return outputs;
                    }
                    running.node.keys_saved(now, generation);
                }
                Event::KeysRotated { epoch } => outputs.push(Output::Note(format!("rotated to {epoch}"))),
                Event::RevocationsChanged => {
                    self.disk.revocations = running.node.export_revocations();
                }
                Event::Renew { member } => {
                    let trust = running.node.membership().trust().clone();
                    let authority = self.disk.authority.as_ref().map(AuthoritySecret::from_bytes);
                    let authority = authority.filter(|one| trust.root(&one.key_id()).is_some());
                    let identity = IdentitySecret::from_bytes(&self.disk.identity);
                    let own = &self.disk.certificate;
                    let issues = own.body().roles.contains(Roles::ISSUER) && own.body().member != member;
                    let (signer, issuer) = match &authority {
                        Some(authority) => (Signer::Root(authority), None),
                        None if issues => {
                            let signer = Signer::Member { secret: &identity, certificate: own };
                            (signer, Some(own.signed().clone()))
                        }
                        None => continue,
                    };
                    let Some(old) = running.node.membership().get(member) else { continue };
                    let old = old.certificate().body().clone();
                    // An issuer may not renew other issuers, for example.
                    let Ok(renewed) =
                        issue(now.wall, &trust, &signer, Request::again(&old), Some(old.serial), 7)
                    else {
                        continue;
                    };
                    // Nor anybody, while its own certificate goes back to a root that was dropped.
                    let _ = running.node.add_certificate(now, renewed.signed().clone(), issuer);
                }
                Event::CertificateChanged => {
                    let membership = running.node.membership();
                    let own = membership.get(running.node.member()).expect("a member").certificate();
                    self.disk.certificate = own.clone();
                    self.disk.issuer = match own.body().issuer {
                        Issuer::Member(issuer, _) => {
                            membership.get(issuer).map(|one| one.certificate().signed().clone())
                        }
                        Issuer::Root(_) => None,
                    };
                }
                Event::CertificateEnds { seconds_left } => {
                    outputs.push(Output::Note(format!("its certificate ends in {seconds_left} s")));
                }
                Event::BundlesChanged => self.disk.trust = running.node.membership().trust().clone(),
                Event::Readmitted { member, .. } => {
                    outputs.push(Output::Note(format!("readmitted: {member}")));
                }
                Event::Revoked { member, .. } => outputs.push(Output::Note(format!("revoked: {member}"))),
                Event::PeerUp { name, .. } => outputs.push(Output::Note(format!("up: {name}"))),
                Event::PeerDown { name, .. } => outputs.push(Output::Note(format!("down: {name}"))),
                Event::NodeUp { name, .. } => outputs.push(Output::Note(format!("reached: {name}"))),
                Event::NodeDown { name, .. } => outputs.push(Output::Note(format!("lost: {name}"))),
                Event::SubnetUp { name, prefix, .. } => {
                    outputs.push(Output::Note(format!("reached: {prefix} through {name}")));
                }
                Event::SubnetDown { name, prefix, .. } => {
                    outputs.push(Output::Note(format!("lost: {prefix} through {name}")));
                }
                Event::PathChanged { name, path, .. } => {
                    outputs.push(Output::Note(format!("path to {name}: {path:?}")));
                }
                Event::Routes(routes) => outputs.push(Output::Note(format!("routes: {routes:?}"))),
                Event::Wider(mtu) => outputs.push(Output::Note(format!("wider: {mtu}"))),
                Event::Undeliverable { error, .. } => outputs.push(Output::Note(format!("{error:?}"))),
                Event::Announce { ask } => outputs.push(Output::Announcement(running.node.announcement(ask))),
                Event::Join { .. } | Event::Pong { .. } => {}
            }
        }
        while let Some(transmit) = running.node.poll_transmit() {
            outputs.push(Output::Datagram {
                socket: transmit.socket,
                to: transmit.to,
                bytes: transmit.bytes,
            });
        }
        outputs
    }
}

/// Counts a datagram that arrived, by what is in it.
fn count(kinds: &mut BTreeMap<String, u64>, verdict: &Verdict, bytes: &[u8]) {
    let mut left = bytes.len() as u64 + HEADERS;
    let mut add = |kind: String, len: u64| *kinds.entry(kind).or_default() += len;
    let rest = match verdict {
        Verdict::Control { frames, .. } => {
            for frame in proto::frame::frames(&bytes[frames.clone()]).flatten() {
                let kind = match &frame {
                    Frame::Object(object) => format!("{:?}", ObjectKind::of(object)),
                    _ => format!("{frame:?}").chars().take_while(|c| c.is_alphanumeric()).collect(),
                };
                let len = frame.encoded_len() as u64;
                left -= len;
                add(kind, len);
            }
            "headers of frames"
        }
        Verdict::HandUp { .. } => "handshakes",
        Verdict::Forward { .. } => "for others",
        Verdict::Deliver { .. } => "packets",
        Verdict::Keepalive => "keepalives",
        Verdict::Elsewhere(_) | Verdict::Drop(_) => "dropped",
    };
    add(rest.to_owned(), left);
}

fn framed(packet: &[u8]) -> (Vec<u8>, std::ops::Range<usize>) {
    // Twice: a second path may need a copy.
    let mut buf = vec![0; 2 * (HEADROOM + packet.len() + TAILROOM)];
    let inner = HEADROOM..HEADROOM + packet.len();
    buf[inner.clone()].copy_from_slice(packet);
    (buf, inner)
}

fn datagrams(buf: &[u8], first: Outgoing, second: Option<Outgoing>) -> impl Iterator<Item = Output> {
    [Some(first), second].into_iter().flatten().map(|out| Output::Datagram {
        socket: out.socket,
        to: out.to,
        bytes: buf[out.range].to_vec(),
    })
}
