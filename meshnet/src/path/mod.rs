//! The paths to one peer: which are known, which are proven, which carries traffic, and when each is looked at again.
//!
//! A [`PathSet`] is pure bookkeeping: it says which probes to send ([`PathSet::poll_probe`]), is told what came back
//! ([`PathSet::handle_reply`], [`PathSet::heard`]), and answers which paths to use ([`PathSet::select`]).
//!
//! A path is *proven* by an authenticated reply to a probe that went out over it. It is *alive* while proof keeps
//! coming. Liveness is judged on both directions: silence kills a path after [`DEAD_MISSES`] unanswered probes, and a
//! path on which data still arrives but no probe is answered any more is given up after [`ONE_WAY_MISSES`]. One that answers
//! probes, but on which data does not arrive, is used again only after a while (`delivery`).

pub mod choose;
mod contender;
mod delivery;
mod id;
pub mod mtu;
mod policy;
mod quality;
mod rest;
mod single;
mod spread;
mod stream;

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::time::Duration;

use proto::arrivals::{Arrivals, LENGTHS};
use proto::id::MemberId;

use crate::crypto::keyed_mac;
use crate::time::Mono;
pub use choose::{Change, PathView, Selection, Standing};
pub use id::{Origin, PathId, SocketId};
pub use policy::{Policy, Use};
pub use quality::Quality;
use rest::Rest;
use single::{InFlight, Path};
use spread::JOIN_REPLIES;
pub use spread::{Spread, Toll};
pub use stream::{STREAM_AFTER, STREAM_LINGER};

/// For how long a peer is probed that nobody needs, but that speaks from somewhere else: until the path that it left is dead.
const SETTLES_IN: Duration = Duration::from_secs(3);
/// Time between probes of a path that carries traffic.
pub const PROBE_ACTIVE: Duration = Duration::from_millis(300);
/// Time between probes of the warm second path while traffic flows.
pub const PROBE_WARM: Duration = Duration::from_millis(1000);
/// Time between probes of other proven paths while traffic flows.
pub const PROBE_OTHER: Duration = Duration::from_secs(5);
/// Longest time between probes of a path that worked once and is silent now, while traffic flows: a cut that ends is
/// noticed this soon.
pub const PROBE_DEAD: Duration = Duration::from_secs(1);
/// Time between keepalive probes when no traffic flows; under the 30 s that impatient NATs keep a UDP mapping.
pub const KEEPALIVE: Duration = Duration::from_secs(15);
/// The same for a relayed path that is not the one in use: it keeps nothing open that the paths to and from the relay do not,
/// and when traffic begins all paths are asked at once.
pub const KEEPALIVE_SPARE: Duration = Duration::from_secs(300);
/// So much later than the other end does who leaves the keepalives to it ([`PathSet::set_follow`]): when they stop to come, it
/// asks itself.
pub const KEEPALIVE_LATER: Duration = Duration::from_secs(1);
/// Shortest time between two probes of an unproven path on which something is heard.
const PROBE_PAUSE: Duration = Duration::from_millis(100);
/// Traffic this long ago still counts as flowing.
pub const ACTIVE_FOR: Duration = Duration::from_secs(3);
/// A peer without traffic for this long, that is not kept for the control plane, is no longer probed.
pub const IDLE_AFTER: Duration = Duration::from_secs(60);
/// A path that is new, or back, is measured so many times in quick succession.
const FIRST_REPLIES: u32 = 5;
/// Unanswered probes after which a silent path is suspected: traffic is duplicated on another path.
pub const SUSPECT_MISSES: u32 = 2;
/// Unanswered probes after which a silent path is dead.
pub const DEAD_MISSES: u32 = 4;
/// Unanswered probes after which a path is dead although data still arrives on it.
pub const ONE_WAY_MISSES: u32 = 8;
/// Most paths kept for one peer.
pub const MAX_PATHS: usize = 24;
/// Probes in flight that are remembered per path.
const MAX_IN_FLIGHT: usize = 16;
/// Unproven candidates are tried at these intervals, the last one repeating.
const CANDIDATE_BACKOFF_MS: [u64; 8] = [0, 150, 350, 750, 1_500, 4_000, 10_000, 30_000];
/// A port that a translator may give is tried for this long; then others have it.
const PREDICTION_LIFE: Duration = Duration::from_secs(10);
/// A candidate that was never proven is forgotten after this long without being announced again.
const CANDIDATE_LIFE: Duration = Duration::from_secs(300);

/// A probe that should be sent now.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Probe {
    /// The path to send it on.
    pub path: PathId,
    /// Identifies the probe in its reply.
    pub id: u32,
    /// It is to ask what has come over the path.
    pub asks: bool,
}

/// A probe that should be sent now, padded so that its UDP payload has a certain length.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct SizeProbe {
    /// The path to send it on.
    pub path: PathId,
    /// Identifies the probe in its reply.
    pub id: u32,
    /// Length of the UDP payload in bytes.
    pub len: u16,
}

/// All paths to one peer.
pub struct PathSet {
    paths: BTreeMap<PathId, Path>,
    primary: Option<PathId>,
    /// Those that share the traffic with it.
    spread: Spread,
    /// When a path last began to share.
    joined: Option<Mono>,
    /// Until when loads do not count, because each relay alone is too small.
    crowded: Mono,
    switched: Mono,
    /// When a path was last given up for one that scored better.
    bettered: Option<Mono>,
    /// The one that is about to take over because it scores better.
    contender: Option<contender::Contender>,
    change: Change,
    policy: Policy,
    reach: stream::Reach,
    last_traffic: Option<Mono>,
    keep: bool,
    /// The other end sends the keepalives.
    follow: bool,
    /// Nobody needs the peer, but it moved: until then it is probed all the same.
    settling: Mono,
    ids: Ids,
}

/// Numbers of probes, which nobody can guess: or a peer could answer before it was asked, and seem near, or seem to have got
/// what is too long for the way.
struct Ids {
    key: [u8; 16],
    given: u64,
}

impl Ids {
    fn next(&mut self) -> u32 {
        self.given += 1;
        let mac = keyed_mac(&self.key, &[&self.given.to_be_bytes()]);
        let [a, b, c, d, ..] = mac;
        u32::from_be_bytes([a, b, c, d])
    }
}

impl PathSet {
    /// An empty set. `probe_key` is random and nobody else's, so that no reply is taken for one but those to its probes.
    pub fn new(probe_key: [u8; 16]) -> PathSet {
        PathSet {
            paths: BTreeMap::new(),
            primary: None,
            spread: Spread::default(),
            joined: None,
            crowded: Mono(0),
            switched: Mono(0),
            bettered: None,
            contender: None,
            change: Change::First,
            policy: Policy::default(),
            reach: stream::Reach::default(),
            last_traffic: None,
            keep: false,
            follow: false,
            settling: Mono(0),
            ids: Ids { key: probe_key, given: 0 },
        }
    }

    /// Adds a candidate, or notes that it was announced again. Returns whether it is new.
    ///
    /// When the set is full, a candidate that was never proven makes room; a proven path never does.
    pub fn add(&mut self, now: Mono, id: PathId, origin: Origin) -> bool {
        if let Some(path) = self.paths.get_mut(&id) {
            path.announced = now;
            path.on_lan |= origin == Origin::Lan;
            if origin.rank() < path.origin.rank() {
                path.origin = origin;
            }
            return false;
        }
        if self.paths.len() >= MAX_PATHS {
            let Some(victim) = self
                .paths
                .iter()
                .filter(|(_, path)| !path.proven)
                .max_by_key(|(_, path)| (path.origin.rank(), path.tries))
                .map(|(id, _)| *id)
            else {
                return false;
            };
            self.paths.remove(&victim);
        }
        self.paths.insert(id, Path::new(&id, origin, !self.policy.allows(&id), now));
        true
    }

    /// So many bytes of inner packets went out and came in on a path.
    pub fn count(&mut self, id: &PathId, tx_bytes: u64, rx_bytes: u64) {
        if let Some(path) = self.paths.get_mut(id) {
            path.tx_bytes += tx_bytes;
            path.rx_bytes += rx_bytes;
        }
    }

    /// Packets of one lane came in on a path, by length.
    pub fn count_packets(&mut self, id: &PathId, lane: u8, packets: &[u32; LENGTHS]) {
        if let Some(path) = self.paths.get_mut(id) {
            path.received.get_or_insert_default().add(lane.into(), packets);
        }
    }

    /// The packets that came in on a path, for its other end; `None` if it is not known.
    pub fn arrivals(&self, id: &PathId) -> Option<Arrivals> {
        Some(self.paths.get(id)?.received.as_deref().copied().unwrap_or_default())
    }

    /// Packets went out over a path and no other.
    pub fn sent_alone(&mut self, now: Mono, id: &PathId, packets: &Arrivals) {
        let Some(path) = self.paths.get_mut(id).filter(|_| *packets != Arrivals::default()) else { return };
        let delivery = path.delivery.get_or_insert_with(|| {
            let mut delivery = Box::<delivery::Delivery>::default();
            delivery.begins(now);
            delivery
        });
        delivery.sent(packets);
    }

    /// Whether a path has still to show that it delivers what is sent over it: all of it goes over another one, too.
    pub fn on_trial(&self, id: &PathId) -> bool {
        self.paths.get(id).is_some_and(Path::on_trial)
    }

    /// The other end says what had come over the path of a probe.
    pub fn handle_arrivals(&mut self, now: Mono, probe: u32, received: &Arrivals) {
        let asked = |path: &Path| path.delivery.as_ref().is_some_and(|delivery| delivery.has_asked(probe));
        let Some((id, path)) = self.paths.iter_mut().find(|(_, path)| asked(path)) else { return };
        let Some(delivery) = path.delivery.as_mut() else { return };
        match delivery.answered(probe, received) {
            delivery::Verdict::Open | delivery::Verdict::Delivers => {}
            delivery::Verdict::Nothing => delivery.fails(now),
            // What a receiver loses because it gets too much, it loses on every path.
            delivery::Verdict::Poor if !id.is_direct() => delivery.fails(now),
            delivery::Verdict::Poor => {}
        }
    }

    /// Forgets a path, for instance because its socket is gone.
    pub fn remove(&mut self, id: &PathId) {
        self.paths.remove(id);
        if self.primary == Some(*id) {
            self.primary = None;
        }
    }

    /// Keeps only the relayed paths whose relay is in `relays`; direct paths stay.
    pub fn retain_relays(&mut self, mut usable: impl FnMut(&MemberId) -> bool) {
        self.paths.retain(|id, _| match id {
            PathId::Relay { relay } => usable(relay),
            PathId::Direct { .. } => true,
        });
        if self.primary.is_some_and(|id| !self.paths.contains_key(&id)) {
            self.primary = None;
        }
    }

    /// What the administrator says about the paths to this peer.
    pub fn set_policy(&mut self, now: Mono, policy: Policy) {
        if policy == self.policy {
            return;
        }
        self.policy = policy;
        for (id, path) in &mut self.paths {
            let forbidden = !self.policy.allows(id);
            if std::mem::replace(&mut path.forbidden, forbidden) && !forbidden {
                *path = Path { on_lan: path.on_lan, ..Path::new(id, path.origin, false, now) };
            }
        }
    }

    /// Whether the control plane wants this peer reachable even without traffic.
    pub fn set_keep(&mut self, keep: bool) {
        self.keep = keep;
    }

    /// Leaves the keepalives to the other end, which is known to send them, and hears of ours in its answers: one of the two is
    /// enough to keep a translator's mapping, and to notice that the path no longer works. As long as they come, this end
    /// sends none.
    pub fn set_follow(&mut self, follow: bool) {
        self.follow = follow;
    }

    /// Traffic was sent to or received from the peer. Returns whether it had been idle, so that the caller reschedules.
    pub fn traffic(&mut self, now: Mono) -> bool {
        let idle_for = self.last_traffic.map_or(Duration::MAX, |at| now.since(at));
        self.last_traffic = Some(now);
        if idle_for <= ACTIVE_FOR {
            return false;
        }
        if idle_for > IDLE_AFTER && !self.keep {
            self.reach.forget();
        }
        for path in self.paths.values_mut() {
            if path.proven {
                path.next_probe = path.next_probe.min(now);
            } else {
                path.tries = path.tries.min(2);
                path.next_probe = path.next_probe.min(now + candidate_wait(path.tries));
            }
        }
        true
    }

    /// An authenticated datagram arrived over `id`. Learns the path if it is new and returns whether it was.
    ///
    /// When the peer speaks from somewhere else than before, its address or its NAT's mapping has probably changed: the
    /// direct paths that it is not heard on any more are doubted at once.
    pub fn heard(&mut self, now: Mono, id: PathId) -> bool {
        let was_alive = self.paths.get(&id).is_some_and(|path| path.alive(now));
        let new = self.add(now, id, Origin::Heard);
        if id.is_direct() && !was_alive {
            let others = self.paths.iter_mut().filter(|(other, _)| **other != id && other.is_direct());
            for (_, path) in others {
                let silent = path.last_heard.is_none_or(|at| now.since(at) >= PROBE_ACTIVE);
                if silent && path.proven && !path.suspect(now) {
                    path.doubt(now);
                    self.settling = now + SETTLES_IN;
                }
            }
        }
        let follows = self.follow && !self.is_active(now);
        let wait = self.keepalive(&id) + KEEPALIVE_LATER;
        if let Some(path) = self.paths.get_mut(&id) {
            path.last_heard = Some(now);
            let settled = path.misses == 0 && path.quality.replies() >= FIRST_REPLIES;
            if follows && path.alive(now) && settled && path.next_probe > now {
                path.next_probe = path.next_probe.max(now + wait);
            }
            if !path.proven {
                // What is heard may be a probe, sent because ours was heard: without a pause the two multiply.
                let paused = path.in_flight.last().map_or(now, |flight| flight.sent + PROBE_PAUSE);
                path.next_probe = path.next_probe.min(paused.max(now));
            }
        }
        new
    }

    /// A handshake was answered over `id`: it works in both directions, though nothing was measured yet.
    pub fn prove(&mut self, now: Mono, id: PathId) {
        self.add(now, id, Origin::Heard);
        if let Some(path) = self.paths.get_mut(&id) {
            path.last_heard = Some(now);
            path.misses = 0;
            path.tries = 0;
            path.proven = true;
            path.next_probe = now;
        }
    }

    /// A probe was answered. Returns the round-trip time if the probe was ours and still open.
    pub fn handle_reply(&mut self, now: Mono, id: &PathId, probe: u32) -> Option<Duration> {
        if let Some(path) =
            self.paths.values_mut().find_map(|path| path.mtu.answered(now, probe).then_some(path))
        {
            path.last_reply = Some(now);
            path.misses = 0;
            return None;
        }
        // A reply may come back over another path than the probe took (the peer's choice, or a NAT's): what it proves
        // is the path that the probe was sent on.
        let sent_on = if self.paths.get(id).is_some_and(|path| path.sent(probe)) {
            *id
        } else {
            *self.paths.iter().find(|(_, path)| path.sent(probe))?.0
        };
        let relayed = self.primary.is_some_and(|id| !id.is_direct());
        let may_share = relayed && !sent_on.is_direct() && self.is_active(now);
        let path = self.paths.get_mut(&sent_on)?;
        let at = path.in_flight.iter().position(|flight| flight.id == probe)?;
        let sent = path.in_flight.remove(at).sent;
        let rtt = now.since(sent);
        if std::mem::take(&mut path.died) || !path.alive(now) {
            // What was lost while it was dead says nothing about the path that is back.
            path.quality = Quality::default();
            path.mtu.restart(now);
        }
        path.quality.answered(rtt);
        path.last_reply = Some(now);
        path.misses = 0;
        path.tries = 0;
        path.in_flight.retain(|flight| flight.sent > sent);
        path.proven = true;
        let needed = if may_share { JOIN_REPLIES } else { FIRST_REPLIES };
        if path.quality.replies() < needed {
            // More measurements soon: one reply says little about quality.
            path.next_probe = now + PROBE_ACTIVE / 3;
        }
        self.note_answer(&sent_on, rtt);
        Some(rtt)
    }

    /// This machine stood still for so long: nothing was sent or heard meanwhile, and nobody is to blame for it.
    pub fn slept(&mut self, now: Mono, span: Duration) {
        let later = |at: Option<Mono>| at.map(|at| (at + span).min(now));
        self.last_traffic = later(self.last_traffic);
        for path in self.paths.values_mut() {
            path.last_reply = later(path.last_reply);
            path.last_heard = later(path.last_heard);
            path.announced = (path.announced + span).min(now);
            path.in_flight.clear();
        }
    }

    /// Everything that was measured may be wrong (the underlay changed): doubt and probe all paths at once.
    pub fn recheck(&mut self, now: Mono) {
        for path in self.paths.values_mut() {
            path.doubt(now);
        }
    }

    /// Something suggests that a path is broken, for instance an ICMP error. Nobody vouches for it, so it costs the path
    /// no more than a probe at once, and its traffic a duplicate elsewhere until that is answered. Returns whether the
    /// path was not in doubt already.
    pub fn doubt(&mut self, now: Mono, id: &PathId) -> bool {
        let Some(path) = self.paths.get_mut(id).filter(|path| path.proven && !path.suspect(now)) else {
            return false;
        };
        path.doubt(now);
        if self.primary == Some(*id) {
            self.ask_others(now);
        }
        true
    }

    /// The first path that is as wished.
    pub fn find(&self, is_wished: impl Fn(&PathId) -> bool) -> Option<PathId> {
        self.paths.keys().find(|id| is_wished(id)).copied()
    }

    /// A direct path that leads to a UDP endpoint.
    pub fn to_endpoint(&self, remote: SocketAddr) -> Option<PathId> {
        let leads_there = |id: &&PathId| {
            matches!(id, PathId::Direct { remote: known, .. } if *known == remote) && !id.is_stream()
        };
        self.paths.keys().find(leads_there).copied()
    }

    /// The next probe that is due, if any. Call until it returns `None`.
    pub fn poll_probe(&mut self, now: Mono) -> Option<Probe> {
        self.count_misses(now);
        if self.is_idle(now) {
            return None;
        }
        let warm = self.warm(now);
        let active = self.is_active(now);
        let in_doubt = active && self.primary.is_some() && !self.primary_is_trusted(now);
        let by_stream = self.reach.streams_wanted(now);
        let on_stream = self.primary.is_some_and(|id| id.is_stream());
        let (&id, _) = self
            .paths
            .iter()
            .find(|(id, path)| !path.forbidden && path.next_probe <= now && path.is_of_use(id, by_stream))?;
        let primary = self.primary == Some(id);
        let used = primary || self.spread.contains(&id) || self.contends(&id) || self.is_of_better_kind(&id);
        let keepalive = self.keepalive(&id);
        let path = self.paths.get_mut(&id)?;
        let wait = if !path.proven || !path.alive(now) {
            path.tries += 1;
            let wait = candidate_wait(path.tries);
            match active {
                true if path.proven => wait.min(PROBE_DEAD),
                true if on_stream => wait.min(PROBE_OTHER),
                _ => wait,
            }
        } else if (used && active) || path.misses > 0 || in_doubt {
            PROBE_ACTIVE
        } else if warm == Some(id) && active {
            PROBE_WARM
        } else if active {
            PROBE_OTHER
        } else {
            keepalive
        };
        path.next_probe = now + wait;
        let probe = self.ids.next();
        if path.in_flight.len() >= MAX_IN_FLIGHT {
            path.in_flight.remove(0);
        }
        path.in_flight.push(InFlight { id: probe, sent: now, missed: false });
        let asks = path.delivery.as_mut().is_some_and(|delivery| delivery.asks(now, probe));
        Some(Probe { path: id, id: probe, asks })
    }

    /// The next probe of a path's MTU that is due, if any. Call until it returns `None`.
    pub fn poll_size_probe(&mut self, now: Mono) -> Option<SizeProbe> {
        if self.is_idle(now) {
            return None;
        }
        let active = self.is_active(now);
        let primary = self.primary;
        for (id, path) in &mut self.paths {
            // Without traffic only the path of the control frames is asked: a relay has hundreds of others.
            if !active && primary != Some(*id) {
                continue;
            }
            let Some(conditions) = path.conditions(now, active) else { continue };
            if let Some(len) = path.mtu.poll(now, &conditions) {
                let probe = self.ids.next();
                path.mtu.sent(now, probe, len);
                return Some(SizeProbe { path: *id, id: probe, len });
            }
        }
        None
    }

    /// Long packets were sent to the peer lately, among so many bytes a second: the path that carries them is asked whether
    /// they pass, and now and then the one that would carry them next.
    pub fn note_large(&mut self, now: Mono, bytes_per_s: u64) {
        for id in self.primary.iter().chain(self.spread.iter()) {
            if let Some(path) = self.paths.get_mut(id) {
                path.mtu.note_large(now, bytes_per_s);
            }
        }
        if let Some(path) = self.warm(now).and_then(|id| self.paths.get_mut(&id))
            && now.since(path.mtu.checked()) >= PROBE_OTHER
        {
            path.mtu.note_may_be_large(now);
        }
    }

    /// Something suggests that long datagrams do not pass on a path.
    pub fn doubt_size(&mut self, now: Mono, id: &PathId) {
        if let Some(path) = self.paths.get_mut(id) {
            path.mtu.doubt(now);
        }
    }

    /// This machine does not send longer UDP payloads than `len` bytes on a path.
    pub fn limit_size(&mut self, now: Mono, id: &PathId, len: u16) {
        if let Some(path) = self.paths.get_mut(id) {
            path.mtu.limit(now, len);
        }
    }

    /// The longest UDP payload that a path carries, as far as is known, in bytes.
    pub fn datagram_len(&self, id: &PathId) -> u16 {
        self.paths.get(id).map_or(mtu::ASSUMED, |path| path.mtu.size())
    }

    /// When [`PathSet::poll_probe`], [`PathSet::poll_size_probe`], or [`PathSet::select`] may have something new.
    pub fn poll_timeout(&self, now: Mono) -> Option<Mono> {
        if self.is_idle(now) {
            return None;
        }
        let active = self.is_active(now);
        let streams_at = self.reach.streams_wanted_at();
        self.paths
            .iter()
            .filter(|(_, path)| !path.forbidden)
            .filter(|(id, path)| path.is_of_use(id, streams_at.is_some()))
            .flat_map(|(id, path)| {
                let waits = id.is_stream() && !path.proven;
                let next_probe = path.next_probe.max(streams_at.filter(|_| waits).unwrap_or_default());
                let open = path.in_flight.iter().find(|flight| !flight.missed);
                let miss = open.map(|flight| flight.sent + path.patience());
                let sized = path.conditions(now, active).filter(|_| active || self.primary == Some(*id));
                let size = sized.and_then(|conditions| path.mtu.poll_timeout(&conditions));
                [Some(next_probe), miss.filter(|_| path.proven), size]
            })
            .flatten()
            .min()
    }

    /// Whether some path is alive.
    pub fn any_alive(&self, now: Mono) -> bool {
        self.paths.values().any(|path| path.alive(now))
    }

    /// Whether a direct path is alive.
    pub fn direct_alive(&self, now: Mono) -> bool {
        self.paths.iter().any(|(id, path)| id.is_direct() && path.alive(now))
    }

    /// Whether datagrams get straight to the peer.
    pub fn datagrams_arrive(&self, now: Mono) -> bool {
        self.paths.iter().any(|(id, path)| id.is_direct() && !id.is_stream() && path.alive(now))
    }

    /// Whether traffic flows, so that paths are probed often.
    pub fn is_active(&self, now: Mono) -> bool {
        self.last_traffic.is_some_and(|at| now.since(at) <= ACTIVE_FOR)
    }

    /// Whether nobody needs this peer now, so that nothing is sent.
    pub fn is_idle(&self, now: Mono) -> bool {
        let unused = self.last_traffic.is_none_or(|at| now.since(at) > IDLE_AFTER);
        !self.keep && unused && now >= self.settling
    }

    /// Candidates and paths that a handshake should be sent over: the chosen one first, then those learnt from the
    /// peer itself, then relays; at most `limit`, relays always among them.
    pub fn handshake_paths(&self, now: Mono, limit: usize) -> Vec<PathId> {
        let by_stream = self.reach.streams_wanted(now);
        let usable = |(id, path): &(&PathId, &Path)| !path.forbidden && path.is_of_use(id, by_stream);
        let mut paths: Vec<_> = self.paths.iter().filter(usable).collect();
        paths.sort_by_key(|(id, path)| {
            (self.primary != Some(**id), !path.alive(now), !path.proven, path.origin.rank(), path.tries, **id)
        });
        let (direct, relayed): (Vec<PathId>, Vec<PathId>) =
            paths.into_iter().map(|(id, _)| *id).partition(PathId::is_direct);
        let for_relays = relayed.len().min(2);
        let mut chosen: Vec<PathId> = direct.into_iter().take(limit.saturating_sub(for_relays)).collect();
        chosen.extend(relayed.into_iter().take(for_relays));
        chosen
    }

    /// Measurements of one path.
    pub fn quality(&self, id: &PathId) -> Option<Quality> {
        self.paths.get(id).filter(|path| path.proven).map(|path| path.quality)
    }

    /// Time between keepalives of a path.
    fn keepalive(&self, id: &PathId) -> Duration {
        if self.primary == Some(*id) || id.is_direct() { KEEPALIVE } else { KEEPALIVE_SPARE }
    }

    fn count_misses(&mut self, now: Mono) {
        let trusted = self.primary_is_trusted(now);
        self.count_each_miss(now);
        if trusted && !self.primary_is_trusted(now) {
            self.ask_others(now);
        }
        self.note_reach(now);
    }

    fn primary_is_trusted(&self, now: Mono) -> bool {
        self.primary.and_then(|id| self.paths.get(&id)).is_some_and(|path| !path.suspect(now))
    }

    /// The path in use, if nothing is against it: it answered the last probe.
    pub fn trusted(&self, now: Mono) -> Option<PathId> {
        let id = self.primary?;
        self.paths.get(&id).filter(|path| path.alive(now) && path.misses == 0).map(|_| id)
    }

    /// The path in use is in doubt: whether the others work has to be known by the time that it is dead.
    fn ask_others(&mut self, now: Mono) {
        for (id, path) in &mut self.paths {
            if self.primary != Some(*id) && path.alive(now) {
                path.next_probe = path.next_probe.min(now);
            }
        }
    }

    fn count_each_miss(&mut self, now: Mono) {
        for path in self.paths.values_mut() {
            let patience = path.patience();
            let mut missed = 0;
            for flight in &mut path.in_flight {
                if !flight.missed && now.since(flight.sent) >= patience {
                    flight.missed = true;
                    missed += 1;
                }
            }
            if missed > 0 && path.proven {
                path.misses = path.misses.saturating_add(missed);
                path.quality.missed(missed);
                if path.misses <= ONE_WAY_MISSES {
                    path.next_probe = path.next_probe.min(now + PROBE_ACTIVE);
                }
            }
            path.died |= path.proven && !path.alive(now);
        }
    }

    fn expire_candidates(&mut self, now: Mono) {
        let primary = self.primary;
        self.paths.retain(|id, path| {
            let life = match path.origin {
                Origin::Predicted => PREDICTION_LIFE,
                _ => CANDIDATE_LIFE,
            };
            path.alive(now)
                || primary == Some(*id)
                || now.since(path.announced.max(path.last_reply.unwrap_or_default())) < life
        });
    }
}

fn candidate_wait(tries: u32) -> Duration {
    let at = (tries as usize).min(CANDIDATE_BACKOFF_MS.len() - 1);
    Duration::from_millis(CANDIDATE_BACKOFF_MS[at])
}

#[cfg(test)]
mod tests;
