//! A node of the mesh: the only place where sessions, paths, routes, and membership meet.
//!
//! Sans-IO: what happens outside goes in through `handle_*` with the time; what should happen outside comes out of
//! [`Node::poll_event`] and [`Node::poll_transmit`], drained in this order after every input. [`Node::poll_timeout`]
//! tells when [`Node::handle_timeout`] has something to do. Two nodes that are made from the same configuration and
//! random generator and get the same inputs give the same outputs.
//!
//! | module | what it does |
//! |---|---|
//! | [`authority`] | replacing the mesh's authority |
//! | [`config`] | what a node is made from |
//! | [`event`] | what goes in and comes out |
//! | [`exit`] | the internet through another member |
//! | `handshakes` | handshake datagrams, and when to make sessions |
//! | `control` | control frames, in and out |
//! | `gossip` | certificates, key epochs, and records: comparing, sending, taking; the own record |
//! | `lan` | members on the same LAN, found by multicast |
//! | `links` | which members to stay connected with, and which paths lead to a peer |
//! | `load` | how busy relays are |
//! | `mtu` | how long packets to a peer may be |
//! | `join` | passing join datagrams between joiner and inviter |
//! | `predict` | ports that a translator will probably give next |
//! | [`plan`] | replacing the transport keys of the whole mesh |
//! | `reissue` | members that a new trust bundle leaves without support |
//! | `renewal` | asking for new certificates before they end |
//! | [`rotation`] | replacing this node's transport key |
//! | `publish` | routes, and the data plane's snapshot |
//! | `reach` | who can be reached, and which subnets, for people's scripts |
//! | `resend` | which peers get once more what their relay lost, and whose senders hear that long packets were lost |
//! | `trust` | revocations and trust bundles |
//! | `status` | what people and scripts see |
//! | `wake` | what to do after a sleep, and when the clock was set |

pub mod authority;
pub mod config;
mod control;
pub mod event;
pub mod exit;
mod gossip;
mod handshakes;
mod hybrid;
mod join;
mod lan;
mod links;
mod load;
mod mtu;
mod peer;
pub mod plan;
mod predict;
mod publish;
mod reach;
mod reissue;
mod renewal;
mod resend;
pub mod rotation;
mod seen;
mod status;
mod trust;
pub mod view;
mod wake;

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use ipnet::IpNet;
use proto::id::{BootEpoch, MemberId, Name, RelayLabel, Serial};
use proto::key_epoch::Capabilities;
use proto::record::KeyPlan;
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};

pub use authority::{Rollover, RolloverError, RolloverMember, Stage, Work};
pub use config::{KeyRing, NodeConfig, NodeError, OwnEpoch, PeerPolicy, Settings, Socket, StreamSocket};
pub use event::{Event, Inbound, JoinOrigin, Route, Transmit};
pub use exit::ExitView;
pub use hybrid::{PostQuantum, Quantum};
pub use plan::PlanError;
pub use reissue::REISSUE_PATIENCE;
pub use rotation::{Phase, RotateError};
pub use trust::{RevokeError, import_revocations};
pub use view::{
    CurrentPath, Decision, EpochUse, EpochView, KeysView, NodeView, PeerKeys, PeerState, PeerView,
    PlanMember, PlanState, PlanView, RouteView, Warning,
};

use crate::dataplane::icmp::Error;
use crate::dataplane::snapshot::MemberSlot;
use crate::dataplane::{Notice, Via};
use crate::membership::{IdentitySecret, Membership, SourceTable};
use crate::pack::pack;
use crate::path::{Change, PathId, SocketId};
use crate::route::limit::SpfTimer;
use crate::route::spf::LOST;
use crate::route::{Fib, Lsdb, ShortestPaths};
use crate::session::{Advert, GateKey, Handshaker, HandshakerConfig};
use crate::time::{Mono, Now};
use peer::Peer;

/// Datagrams that wait to be sent; more are dropped and counted.
const MAX_TRANSMITS: usize = 16_384;
/// Chores that need no exact time are done this often.
const CHORES_EVERY: Duration = Duration::from_secs(10);
/// Handshake timestamps are reserved this far ahead, in microseconds.
const RESERVE_US: u64 = 60_000_000;

/// What the control plane counted.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub struct NodeStats {
    /// Packets that waited for a session in vain, or found no room to wait.
    pub packets_dropped: u64,
    /// Datagrams that could not be queued for sending.
    pub transmits_dropped: u64,
    /// Control frames that did not parse.
    pub bad_frames: u64,
    /// Control frames beyond a peer's allowance.
    pub frames_over_budget: u64,
    /// Signed objects that were refused.
    pub objects_refused: u64,
    /// Handshakes by somebody whom no certificate knows.
    pub strangers: u64,
    /// Join datagrams that were not passed on.
    pub joins_dropped: u64,
}

/// A node of the mesh.
pub struct Node {
    me: Me,
    settings: Settings,
    rng: StdRng,
    membership: Membership,
    handshaker: Handshaker,
    lsdb: Lsdb,
    peers: BTreeMap<MemberId, Peer>,
    slots: Slots,
    /// Members to stay connected with.
    targets: BTreeSet<MemberId>,
    /// Members that say that they have a link with this node.
    attached: BTreeSet<MemberId>,
    started: Mono,
    /// Where others saw our datagrams come from, by who said so.
    reflexive: BTreeMap<MemberId, SocketAddr>,
    labels: Labels,
    lan: lan::Lan,
    loads: load::Loads,
    joins: join::Forwarded,
    routing: Routing,
    reach: reach::Told,
    gossip: gossip::Gossip,
    keys: rotation::OwnKeys,
    renewal: renewal::Renewal,
    reissue: reissue::Reissue,
    /// Its own plan, as an operator.
    plan: Option<KeyPlan>,
    dirty: Dirty,
    resend: resend::Requests,
    narrowed: resend::Requests,
    chores_at: Mono,
    reserved_us: u64,
    seen: seen::Seen,
    next_ping: u32,
    transmits: VecDeque<Transmit>,
    events: VecDeque<Event>,
    stats: NodeStats,
}

/// The node itself.
struct Me {
    member: MemberId,
    name: Name,
    identity: IdentitySecret,
    gate: GateKey,
    boot: BootEpoch,
    serial: Serial,
    certificate: Vec<u8>,
    issuer: Option<Vec<u8>>,
    capabilities: Capabilities,
    version: String,
}

/// What was computed from the records last.
struct Routing {
    timer: SpfTimer,
    paths: ShortestPaths<MemberId>,
    fib: Arc<Fib<MemberSlot>>,
    sources: Arc<SourceTable<MemberSlot>>,
    /// Subnets of others that can be reached.
    prefixes: Vec<IpNet>,
    /// What was told last.
    told: Vec<Route>,
    widest: u16,
}

/// What has to be done before the outputs are drained.
#[derive(Default)]
struct Dirty {
    /// Peers whose paths or keys may have changed.
    peers: BTreeSet<MemberId>,
    snapshot: bool,
    record: bool,
    /// Changes of the own record are gathered until then.
    record_at: Option<Mono>,
    generation: u64,
}

/// Dense numbers for members.
#[derive(Default)]
struct Slots {
    of: BTreeMap<MemberId, MemberSlot>,
    members: Vec<MemberId>,
}

impl Slots {
    fn get(&mut self, member: MemberId) -> MemberSlot {
        *self.of.entry(member).or_insert_with(|| {
            self.members.push(member);
            MemberSlot((self.members.len() - 1) as u32)
        })
    }

    fn member(&self, slot: MemberSlot) -> Option<MemberId> {
        self.members.get(slot.index()).copied()
    }
}

/// This node's labels for destinations, as a relay.
#[derive(Default)]
struct Labels {
    of: BTreeMap<MemberId, RelayLabel>,
}

impl Labels {
    /// The label of `member`; `None` when all are given out.
    fn get(&mut self, member: MemberId) -> Option<RelayLabel> {
        if let Some(label) = self.of.get(&member) {
            return Some(*label);
        }
        let next = u16::try_from(self.of.len()).ok()?.checked_add(RelayLabel::FIRST.0)?;
        self.of.insert(member, RelayLabel(next));
        Some(RelayLabel(next))
    }
}

impl Node {
    /// Makes a node and reads its cache. The first events, among them a snapshot, are there at once.
    ///
    /// # Errors
    /// When what the node itself is made from does not fit together.
    pub fn new(config: NodeConfig, now: Now, mut rng: StdRng) -> Result<Node, NodeError> {
        let mut membership = Membership::new(config.trust);
        let certificate_bytes = config.certificate.to_bytes();
        let issuer_bytes = config.issuer.as_ref().map(|issuer| issuer.to_bytes());
        let body = config.certificate.body().clone();
        if config.identity.public() != body.identity {
            return Err(NodeError::WrongIdentity);
        }
        membership.keep_certificate(now.wall, config.certificate, config.issuer)?;
        for epoch in config.keys.epochs() {
            membership.add_key_epoch(epoch.signed.clone())?;
        }
        let keys = rotation::OwnKeys::resume(config.keys, now.mono);
        membership.retire_key_epochs(body.member, keys.floor().accepted);
        trust::import_revocations(&mut membership, now.wall, &config.revocations);
        let offload = if config.offload { Capabilities::OFFLOAD } else { Capabilities::default() };
        let capabilities = [offload, Capabilities::LANES, config.settings.pq.capabilities()]
            .into_iter()
            .fold(keys.in_use().signed.body().capabilities, Capabilities::union);
        let advert = Advert {
            capabilities,
            bundle_version: membership.trust().version(),
            revocations: membership.revocations().digest(),
        };
        let handshaker = Handshaker::new(
            HandshakerConfig {
                member: body.member,
                mesh: membership.mesh(),
                gate: config.gate.clone(),
                epochs: keys.local_epochs(),
                advert,
                last_timestamp_us: config.timestamp_floor_us,
            },
            now,
            StdRng::from_rng(&mut rng),
        )?;
        let me = Me {
            member: body.member,
            name: body.name.clone(),
            identity: config.identity,
            gate: config.gate,
            boot: config.boot,
            serial: body.serial,
            certificate: certificate_bytes,
            issuer: issuer_bytes,
            capabilities,
            version: config.version,
        };
        let mut node = Node {
            lsdb: Lsdb::new(membership.mesh(), me.member, me.boot),
            slots: Slots::default(),
            me,
            settings: config.settings,
            rng,
            membership,
            handshaker,
            peers: BTreeMap::new(),
            targets: BTreeSet::new(),
            attached: BTreeSet::new(),
            started: now.mono,
            reflexive: BTreeMap::new(),
            labels: Labels::default(),
            lan: lan::Lan::default(),
            loads: load::Loads::default(),
            joins: join::Forwarded::default(),
            routing: Routing {
                timer: SpfTimer::new(),
                paths: ShortestPaths::default(),
                fib: Arc::default(),
                sources: Arc::default(),
                prefixes: Vec::new(),
                told: Vec::new(),
                widest: 0,
            },
            reach: reach::Told::default(),
            gossip: gossip::Gossip::default(),
            resend: resend::Requests::default(),
            narrowed: resend::Requests::default(),
            keys,
            renewal: renewal::Renewal::default(),
            reissue: reissue::Reissue::default(),
            plan: config.plan,
            dirty: Dirty { record: true, snapshot: true, ..Dirty::default() },
            chores_at: now.mono,
            reserved_us: config.timestamp_floor_us,
            seen: seen::Seen::default(),
            next_ping: 1,
            transmits: VecDeque::new(),
            events: VecDeque::new(),
            stats: NodeStats::default(),
        };
        node.slots.get(node.me.member);
        node.import_cache(now, &config.cache);
        node.replace_restored_key(now);
        node.note_support(now);
        node.lan.begin(now.mono, node.settings.lan_discovery);
        node.compute_routes(now);
        pack(&mut node.slots.of);
        node.settle(now);
        Ok(node)
    }

    /// Takes what the data plane hands up.
    pub fn handle_inbound(&mut self, now: Now, inbound: Inbound) {
        match inbound {
            Inbound::Control { receiver, via, frames } => self.handle_control(now, receiver, via, &frames),
            Inbound::Notice(Notice::Heard { receiver, via, traffic, bytes, lane, packets }) => {
                self.handle_heard(now, receiver, via, traffic);
                self.count_received(receiver, via, bytes, lane, &packets);
            }
            Inbound::Notice(Notice::Relaying { pressed }) => self.note_relaying(now, pressed),
            Inbound::Notice(Notice::WantsLabel { neighbour, destination }) => {
                self.offer_label(now, neighbour, destination);
            }
            Inbound::Notice(Notice::CannotRelay { neighbour, label, destination }) => {
                self.refuse_relaying(now, neighbour, label, destination);
            }
            Inbound::Datagram { via, bytes } => self.handle_datagram(now, via, &bytes),
            Inbound::Packet(packet) => self.handle_packet(now, packet),
            Inbound::Active(slot) => {
                if let Some(member) = self.slots.member(slot) {
                    self.note_traffic(now, member);
                }
            }
        }
        self.settle(now);
    }

    /// The operating system reports that datagrams to `remote` do not arrive (an ICMP error, a missing route). It is a
    /// hint that anybody can forge: the paths over it are probed at once, meanwhile their traffic also goes elsewhere, and
    /// what was sent through it lately goes there once more.
    pub fn handle_unreachable(&mut self, now: Now, remote: SocketAddr) {
        let mut doubted: Vec<(MemberId, PathId)> = Vec::new();
        for peer in self.peers.values() {
            let Some(direct) = peer.paths.to_endpoint(remote) else { continue };
            doubted.push((peer.member, direct));
            let relayed = PathId::Relay { relay: peer.member };
            doubted.extend(
                self.peers.keys().filter(|other| **other != peer.member).map(|other| (*other, relayed)),
            );
        }
        for (member, path) in doubted {
            self.doubt_path(now, member, path);
        }
        self.settle(now);
    }

    /// The TCP connection with `remote` was closed, or none could be made.
    pub fn handle_stream_closed(&mut self, now: Now, socket: SocketId, remote: SocketAddr) {
        let id = PathId::Direct { socket, remote };
        let members: Vec<MemberId> = self.peers.keys().copied().collect();
        for member in members {
            let Some(peer) = self.peers.get_mut(&member) else { continue };
            if !peer.paths.stream_closed(now.mono, &id) {
                continue;
            }
            self.dirty.peers.insert(member);
            self.send_probes(now, member);
            self.relay_changed(now, member);
        }
        self.settle(now);
    }

    /// Applies changed settings: other addresses of the interfaces, other endpoints, a reloaded configuration.
    pub fn handle_settings(&mut self, now: Now, settings: Settings) {
        if settings == self.settings {
            return;
        }
        let moved = settings.interface_addresses != self.settings.interface_addresses;
        let other_policies = settings.policies != self.settings.policies;
        if lan::begins_anew(&self.settings, &settings) {
            self.lan.begin(now.mono, settings.lan_discovery);
        }
        let other_pq = settings.pq != self.settings.pq;
        self.settings = settings;
        if other_pq {
            self.change_pq(now);
        }
        if other_policies {
            self.refresh_all_paths(now);
        }
        self.dirty.record = true;
        self.dirty.snapshot = true;
        self.routing.timer.changed(now.mono);
        if moved {
            self.reflexive.clear();
            self.recheck_paths(now);
        }
        self.announce_candidates(now);
        self.settle(now);
    }

    /// Does what is due.
    pub fn handle_timeout(&mut self, now: Now) {
        let due: Vec<MemberId> = self
            .peers
            .values()
            .filter(|peer| self.peer_timeout(now, peer).is_some_and(|at| at <= now.mono))
            .map(|peer| peer.member)
            .collect();
        for member in due {
            self.drive_peer(now, member);
        }
        self.drive_gossip(now);
        self.drive_rotation(now);
        self.drive_reissue(now);
        self.drive_lan(now);
        self.drive_loads(now);
        if self.routing.timer.fire(now.mono, self.membership.len()) {
            self.compute_routes(now);
        }
        if self.lsdb.poll_timeout().is_some_and(|at| at <= now.mono) {
            self.dirty.record_at = Some(now.mono);
            if self.lsdb.note_time(now.mono) {
                self.routing.timer.changed(now.mono);
            }
        }
        if self.chores_at <= now.mono {
            self.chores_at = now.mono + CHORES_EVERY;
            self.do_chores(now);
        }
        self.settle(now);
    }

    /// When [`Node::handle_timeout`] has something to do.
    pub fn poll_timeout(&self, now: Now) -> Mono {
        let peers = self.peers.values().filter_map(|peer| self.peer_timeout(now, peer));
        let others = [
            self.routing.timer.poll_timeout(),
            self.lsdb.poll_timeout(),
            self.gossip.flush_at(),
            self.dirty.record_at,
            self.keys.poll_timeout(),
            self.reissue.poll_timeout(),
            self.lan.poll_timeout(),
            self.loads.poll_timeout(),
        ];
        peers.chain(others.into_iter().flatten()).fold(self.chores_at, Mono::min)
    }

    /// The next event.
    pub fn poll_event(&mut self) -> Option<Event> {
        self.events.pop_front()
    }

    /// The next datagram to send; to be asked for after the events.
    pub fn poll_transmit(&mut self) -> Option<Transmit> {
        self.transmits.pop_front()
    }

    /// Sends an echo request to a member; [`Event::Pong`] with the same number answers it. Makes a session if there is
    /// none. `None` when the member is unknown.
    pub fn ping(&mut self, now: Now, member: MemberId) -> Option<u32> {
        let id = self.next_ping;
        self.next_ping = self.next_ping.wrapping_add(1);
        self.want(now, member)?;
        self.note_traffic(now, member);
        let peer = self.peers.get_mut(&member)?;
        if peer.pings.len() < peer::MAX_QUEUED_PINGS {
            peer.pings.push_back(id);
        }
        self.flush_waiting(now, member);
        self.settle(now);
        Some(id)
    }

    /// The member with this name, if it is one.
    pub fn member_named(&self, now: Now, name: &Name) -> Option<MemberId> {
        self.membership.with_name(now.wall, name)
    }

    /// Tells all peers that this node goes away. The last datagrams are in [`Node::poll_transmit`].
    pub fn shut_down(&mut self, now: Now) {
        let up: Vec<MemberId> = self.peers.values().filter(|peer| peer.up).map(|peer| peer.member).collect();
        for member in up {
            self.send_frames(now, member, None, &[proto::frame::Frame::Close { reason: 0 }]);
        }
    }

    /// What the control plane counted.
    pub fn stats(&self) -> NodeStats {
        self.stats
    }

    /// What handshakes were counted.
    pub fn handshake_stats(&self) -> crate::session::HandshakeStats {
        self.handshaker.stats()
    }

    /// Who belongs to the mesh, as far as this node knows.
    pub fn membership(&self) -> &Membership {
        &self.membership
    }

    /// The records that this node knows.
    pub fn lsdb(&self) -> &Lsdb {
        &self.lsdb
    }

    /// This node's member id.
    pub fn member(&self) -> MemberId {
        self.me.member
    }

    /// The secret that the members share, for those who join.
    pub fn gate(&self) -> &GateKey {
        &self.me.gate
    }

    /// Brings everything up to date that an input may have changed.
    fn settle(&mut self, now: Now) {
        self.author_if_due(now);
        for member in std::mem::take(&mut self.dirty.peers) {
            self.choose_path(now, member);
        }
        if std::mem::take(&mut self.dirty.snapshot) {
            self.publish(now);
        }
        self.reserve_timestamps();
    }

    fn peer_timeout(&self, now: Now, peer: &Peer) -> Option<Mono> {
        // Without keys nothing can be probed.
        let paths = peer.session.sending().and_then(|_| peer.paths.poll_timeout(now.mono));
        let compare = (peer.up && self.compares_with(peer)).then_some(peer.compare_at);
        [peer.session.poll_timeout(), paths, compare].into_iter().flatten().min()
    }

    /// Does what is due for one peer: handshakes, probes, comparing of databases.
    fn drive_peer(&mut self, now: Now, member: MemberId) {
        let Some(peer) = self.peers.get_mut(&member) else { return };
        peer.session.handle_timeout(now, &mut self.handshaker);
        self.drain_session(now, member);
        self.send_probes(now, member);
        self.compare_if_due(now, member);
        self.revive_if_dead(now, member);
        self.dirty.peers.insert(member);
    }

    /// Lets the peer's paths decide again which one carries its traffic.
    fn choose_path(&mut self, now: Now, member: MemberId) {
        let Some(peer) = self.peers.get_mut(&member) else { return };
        let selection = peer.paths.select(now.mono);
        let announced = self
            .lsdb
            .get(self.me.member)
            .and_then(|own| own.view().link(member).map(|link| link.cost_us == LOST));
        if announced != self.own_link(now, member).map(|link| link.cost_us == LOST) {
            self.author_soon();
        }
        let Some(peer) = self.peers.get_mut(&member) else { return };
        let answers = !peer.unresponsive(now.mono);
        if std::mem::replace(&mut peer.answers, answers) != answers {
            // Other owners take its subnets over, or it takes them back.
            let keep = self.is_kept(now, member);
            if let Some(peer) = self.peers.get_mut(&member) {
                peer.paths.set_keep(keep);
            }
            self.routing.timer.changed(now.mono);
            // Who sends to it is told, or no longer.
            self.dirty.snapshot = true;
        }
        let Some(peer) = self.peers.get_mut(&member) else { return };
        let unchanged = selection == peer.selection;
        let before = peer.selection.primary;
        let changed = selection.primary != before;
        let had_none = before.is_none();
        if !unchanged {
            peer.count_sent(now.mono);
        }
        peer.selection = selection;
        peer.keep_tallies();
        self.note_mtu(now, member);
        if unchanged {
            return;
        }
        self.dirty.snapshot = true;
        if changed && self.peers.get(&member).is_some_and(|peer| peer.up) {
            if let Some(name) = self.name_of(member) {
                let reason = self.peers.get(&member).map_or(Change::First, |peer| peer.paths.last_change().0);
                let path = selection.primary;
                self.events.push_back(Event::PathChanged { member, name, path, before, reason });
            }
            self.relay_changed(now, member);
        }
        if had_none {
            self.flush_waiting(now, member);
        }
    }

    fn author_soon(&mut self) {
        self.dirty.record = true;
    }

    fn name_of(&self, member: MemberId) -> Option<Name> {
        self.membership.get(member).map(|member| member.name().clone())
    }

    fn path_of(&self, via: Via) -> Option<PathId> {
        match via {
            Via::Direct { socket, from } => Some(PathId::Direct { socket, remote: from }),
            Via::Relayed { relay, .. } => self.slots.member(relay).map(|relay| PathId::Relay { relay }),
        }
    }

    fn transmit(&mut self, (socket, to, bytes): (SocketId, SocketAddr, Vec<u8>)) {
        if self.transmits.len() >= MAX_TRANSMITS {
            self.stats.transmits_dropped += 1;
            return;
        }
        self.transmits.push_back(Transmit { socket, to, bytes, whole: false });
    }

    /// As [`Node::transmit`], for what must not be fragmented.
    fn transmit_whole(&mut self, sent: (SocketId, SocketAddr, Vec<u8>)) {
        let before = self.transmits.len();
        self.transmit(sent);
        if let Some(last) = self.transmits.get_mut(before) {
            last.whole = true;
        }
    }

    fn reserve_timestamps(&mut self) {
        let used = self.handshaker.last_timestamp_us();
        if used >= self.reserved_us {
            self.reserved_us = used.saturating_add(RESERVE_US);
            self.events.push_front(Event::ReserveTimestamp(self.reserved_us));
        }
    }

    fn do_chores(&mut self, now: Now) {
        let gone: Vec<Vec<u8>> =
            self.peers.values_mut().flat_map(|peer| peer.expire_queue(now.mono)).collect();
        self.refuse(gone, Error::Unreachable);
        self.joins.expire(now.mono);
        self.lan.expire(now.mono);
        self.expire_loads(now);
        self.rotate_if_due(now);
        self.renew_if_due(now);
        self.end_expired(now);
        self.save_seen_if_due(now);
        self.choose_targets(now);
        self.refresh_all_paths(now);
        self.drop_unneeded_peers(now);
        self.dirty.record = true;
    }

    fn random_jitter(&mut self, at_most: Duration) -> Duration {
        let micros = u64::try_from(at_most.as_micros()).unwrap_or(u64::MAX).max(1);
        Duration::from_micros(self.rng.next_u64() % micros)
    }
}

#[cfg(test)]
mod tests;
