//! What a node keeps for each member that it has, makes, or answers a session with.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use proto::arrivals::Arrivals;
use proto::endpoint::Candidate;
use proto::id::{BootEpoch, MemberId, RelayLabel};

use super::gossip::COMPARE_EVERY;
use crate::dataplane::snapshot::MemberSlot;
use crate::dataplane::{PeerStats, Tally};
use crate::path::{PathId, PathSet, PathView, Selection};
use crate::session::Session;
use crate::time::Mono;

/// Packets that wait for a session with one peer.
pub(super) const MAX_QUEUED_PACKETS: usize = 256;
/// How long a packet waits for a session.
pub(super) const QUEUE_LIFE: Duration = Duration::from_secs(5);
/// Pings that wait for a session with one peer.
pub(super) const MAX_QUEUED_PINGS: usize = 8;
/// Objects in pieces that one peer may have under way.
const MAX_REASSEMBLIES: usize = 8;
/// Control bytes that one peer may send at once, and per second.
const CONTROL_BURST_BYTES: u64 = 512 * 1024;
const CONTROL_BYTES_PER_S: u64 = 64 * 1024;
/// How soon two databases that differed are compared again, at first.
pub(super) const COMPARE_AGAIN: Duration = Duration::from_secs(1);

/// A rate is measured over no less than this.
const RATE_OVER: Duration = Duration::from_millis(20);

/// One peer.
pub(super) struct Peer {
    pub(super) member: MemberId,
    pub(super) slot: MemberSlot,
    pub(super) session: Session,
    pub(super) paths: PathSet,
    pub(super) selection: Selection,
    pub(super) stats: Arc<PeerStats>,
    /// The longest inner packet that the selected paths carry.
    pub(super) mtu: Option<u16>,
    /// The longest datagram that the path in use carried when that was looked at last.
    pub(super) carried: Option<(PathId, u16)>,
    /// There is a session: made, and not ended since.
    pub(super) up: bool,
    /// There is a session, but of a kind that inner packets may not be carried in, and there will be no other.
    pub(super) refused: bool,
    /// It has accepted a handshake of ours since our start: it has our certificate and key.
    pub(super) knows_us: bool,
    /// Inits sent since it last answered anything.
    pub(super) unanswered: u32,
    /// Whether it answered when its paths were looked at last: others may take over its subnets.
    pub(super) answers: bool,
    /// Its boot and version, from its greeting.
    pub(super) hello: Option<(BootEpoch, String)>,
    /// The last boot that it said, in whichever session or record.
    boot: Option<BootEpoch>,
    /// Where it last said that it can be reached.
    pub(super) candidates: Vec<Candidate>,
    /// When it last said where its datagrams will come from.
    pub(super) expected: Option<Mono>,
    /// As a relay: its labels for destinations.
    pub(super) labels: BTreeMap<MemberId, RelayLabel>,
    pub(super) queue: VecDeque<(Mono, Vec<u8>)>,
    pub(super) pings: VecDeque<u32>,
    pub(super) last_handshake: Option<Mono>,
    /// When a summary of revocations last answered one of its.
    pub(super) summarised: Option<Mono>,
    /// When a summary of records was sent to it last.
    pub(super) summarised_records: Option<Mono>,
    /// When to compare databases next.
    pub(super) compare_at: Mono,
    /// How long after the next comparison the one after it is.
    pub(super) compare_every: Duration,
    /// How soon to compare again when they differ.
    pub(super) compare_pause: Duration,
    /// No traffic, no session, no wish: when it was last needed.
    pub(super) needed: Mono,
    reassembly: VecDeque<Reassembly>,
    budget: Budget,
    /// Bytes sent to it that are counted for paths already.
    sent_counted: u64,
    /// The same for packets, by kind.
    packets_counted: Arrivals,
    /// What was sent through relays that share its flows, and how much of that is counted for paths already.
    pub(super) tallies: BTreeMap<MemberId, (Arc<Tally>, u64, Arrivals)>,
    /// When something was relayed for it last, as far as is known, and how many bytes by then.
    pub(super) relayed: (Mono, u64),
    rate: Rate,
}

/// How much is sent to a peer, measured over [`RATE_OVER`] and longer.
#[derive(Default)]
struct Rate {
    since: Mono,
    bytes: u64,
    bytes_per_s: u64,
}

struct Reassembly {
    id: u64,
    pieces: Vec<Option<Vec<u8>>>,
}

/// A token bucket over bytes.
struct Budget {
    bytes: u64,
    filled: Mono,
}

impl Peer {
    pub(super) fn new(
        now: Mono,
        member: MemberId,
        slot: MemberSlot,
        session: Session,
        probe_key: [u8; 16],
    ) -> Peer {
        Peer {
            member,
            slot,
            session,
            paths: PathSet::new(probe_key),
            selection: Selection::default(),
            stats: Arc::default(),
            mtu: None,
            carried: None,
            up: false,
            refused: false,
            knows_us: false,
            unanswered: 0,
            answers: true,
            hello: None,
            boot: None,
            candidates: Vec::new(),
            expected: None,
            labels: BTreeMap::new(),
            queue: VecDeque::new(),
            pings: VecDeque::new(),
            last_handshake: None,
            summarised: None,
            summarised_records: None,
            compare_at: now,
            compare_every: COMPARE_EVERY,
            compare_pause: COMPARE_AGAIN,
            needed: now,
            reassembly: VecDeque::new(),
            budget: Budget { bytes: CONTROL_BURST_BYTES, filled: now },
            sent_counted: 0,
            packets_counted: Arrivals::default(),
            tallies: BTreeMap::new(),
            relayed: (Mono(0), 0),
            rate: Rate::default(),
        }
    }

    /// Notes which boot it says. Returns whether it has restarted since it last said one.
    pub(super) fn note_boot(&mut self, boot: BootEpoch) -> bool {
        let newer = self.boot.is_none_or(|known| known < boot);
        newer && self.boot.replace(boot).is_some()
    }

    /// It does not answer: no path to it is alive, though there was one, or though it was asked for a session twice.
    pub(super) fn unresponsive(&self, now: Mono) -> bool {
        (self.up || self.unanswered >= 2) && !self.paths.any_alive(now)
    }

    /// About how many bytes a second are sent to it.
    pub(super) fn rate(&mut self, now: Mono) -> u64 {
        let over = now.since(self.rate.since);
        if over >= RATE_OVER {
            let bytes = self.stats.traffic().tx_bytes;
            let sent = bytes.saturating_sub(self.rate.bytes);
            let bytes_per_s = u128::from(sent) * 1_000_000 / over.as_micros();
            let bytes_per_s = u64::try_from(bytes_per_s).unwrap_or(u64::MAX);
            self.rate = Rate { since: now, bytes, bytes_per_s };
        }
        self.rate.bytes_per_s
    }

    /// Counts what was sent since the last time for the paths that are chosen: call it before others are.
    pub(super) fn count_sent(&mut self, now: Mono) {
        let sent = self.stats.traffic().tx_bytes;
        let mut bytes = sent.saturating_sub(std::mem::replace(&mut self.sent_counted, sent));
        let packets = self.stats.sent_by_kind();
        let mut since = packets.since(&std::mem::replace(&mut self.packets_counted, packets));
        for (relay, (tally, bytes_before, before)) in &mut self.tallies {
            let (bytes_shared, shared) = tally.read();
            let more = bytes_shared.saturating_sub(std::mem::replace(bytes_before, bytes_shared));
            let packets = shared.since(&std::mem::replace(before, shared));
            let path = PathId::Relay { relay: *relay };
            self.paths.count(&path, more, 0);
            self.paths.sent_alone(now, &path, &packets);
            (bytes, since) = (bytes.saturating_sub(more), since.since(&packets));
        }
        let Selection { primary, duplicate, .. } = self.selection;
        for path in [primary, duplicate].into_iter().flatten() {
            self.paths.count(&path, bytes, 0);
        }
        // What went over two paths may have come over the other one: this one is judged only if it was to show itself.
        if let Some(path) = primary.filter(|path| duplicate.is_none() || self.paths.on_trial(path)) {
            self.paths.sent_alone(now, &path, &since);
        }
    }

    /// Has a tally for each relay that shares its flows. Lanes may still count for one that did: it has its tally as long as
    /// there is a path through it, or what it carried would be missed on the chosen path.
    pub(super) fn keep_tallies(&mut self) {
        let relays = self.paths.relays();
        self.tallies.retain(|relay, _| relays.contains(relay));
        let spread = self.selection.spread;
        let sharing = spread.iter().filter_map(|path| match path {
            PathId::Relay { relay } => Some(*relay),
            PathId::Direct { .. } => None,
        });
        for relay in sharing {
            self.tallies.entry(relay).or_default();
        }
    }

    /// Every path, as of now.
    pub(super) fn path_views(&self, now: Mono) -> Vec<PathView> {
        let mut views = self.paths.views(now);
        let bytes = self.stats.traffic().tx_bytes.saturating_sub(self.sent_counted);
        let chosen = [self.selection.primary, self.selection.duplicate];
        views
            .iter_mut()
            .filter(|view| chosen.contains(&Some(view.id)))
            .for_each(|view| view.tx_bytes += bytes);
        views
    }

    /// Queues a packet for when there is a session. Returns those that had to go.
    pub(super) fn enqueue(&mut self, now: Mono, packet: Vec<u8>) -> Vec<Vec<u8>> {
        let mut gone = self.expire_queue(now);
        if self.queue.len() >= MAX_QUEUED_PACKETS {
            gone.extend(self.queue.pop_front().map(|(_, packet)| packet));
        }
        self.queue.push_back((now, packet));
        gone
    }

    /// Takes packets out of the queue that waited too long.
    pub(super) fn expire_queue(&mut self, now: Mono) -> Vec<Vec<u8>> {
        let expired = self.queue.iter().take_while(|(at, _)| now.since(*at) >= QUEUE_LIFE).count();
        self.queue.drain(..expired).map(|(_, packet)| packet).collect()
    }

    /// Takes from the peer's allowance of control bytes; `false` when it has sent too much.
    pub(super) fn charge(&mut self, now: Mono, bytes: usize) -> bool {
        let budget = &mut self.budget;
        let micros = u64::try_from(now.since(budget.filled).as_micros()).unwrap_or(u64::MAX);
        let refill = micros.saturating_mul(CONTROL_BYTES_PER_S) / 1_000_000;
        if refill > 0 {
            budget.bytes = (budget.bytes + refill).min(CONTROL_BURST_BYTES);
            budget.filled = now;
        }
        let Some(left) = budget.bytes.checked_sub(bytes as u64) else { return false };
        budget.bytes = left;
        true
    }

    /// Objects of which pieces wait for others.
    pub(super) fn reassembly_len(&self) -> usize {
        self.reassembly.len()
    }

    /// Takes a piece of an object. Returns the object when it is whole.
    pub(super) fn reassemble(&mut self, id: u64, index: u8, total: u8, bytes: Vec<u8>) -> Option<Vec<u8>> {
        let at = match self.reassembly.iter().position(|other| other.id == id) {
            Some(at) => at,
            None => {
                if self.reassembly.len() >= MAX_REASSEMBLIES {
                    self.reassembly.pop_front();
                }
                self.reassembly.push_back(Reassembly { id, pieces: vec![None; usize::from(total)] });
                self.reassembly.len() - 1
            }
        };
        let pieces = &mut self.reassembly[at].pieces;
        if pieces.len() != usize::from(total) {
            return None;
        }
        *pieces.get_mut(usize::from(index))? = Some(bytes);
        if pieces.iter().any(Option::is_none) {
            return None;
        }
        let whole = self.reassembly.remove(at)?;
        Some(whole.pieces.into_iter().flatten().flatten().collect())
    }
}
