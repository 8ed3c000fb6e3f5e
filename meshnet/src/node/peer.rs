//! What a node keeps for each member that it has, makes, or answers a session with.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use proto::endpoint::Candidate;
use proto::id::{BootEpoch, MemberId, RelayLabel};

use crate::dataplane::PeerStats;
use crate::dataplane::snapshot::MemberSlot;
use crate::path::{PathSet, PathView, Selection};
use crate::session::Session;
use crate::time::Mono;

/// Packets that wait for a session with one peer.
pub(super) const MAX_QUEUED_PACKETS: usize = 64;
/// How long a packet waits for a session.
pub(super) const QUEUE_LIFE: Duration = Duration::from_secs(5);
/// Pings that wait for a session with one peer.
pub(super) const MAX_QUEUED_PINGS: usize = 8;
/// Objects in pieces that one peer may have under way.
const MAX_REASSEMBLIES: usize = 8;
/// Control bytes that one peer may send at once, and per second.
const CONTROL_BURST_BYTES: u64 = 512 * 1024;
const CONTROL_BYTES_PER_S: u64 = 64 * 1024;

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
    /// There is a session: made, and not ended since.
    pub(super) up: bool,
    /// It has accepted a handshake of ours since our start: it has our certificate and key.
    pub(super) knows_us: bool,
    /// Inits sent since it last answered anything.
    pub(super) unanswered: u32,
    /// Whether it answered when its paths were looked at last: others may take over its subnets.
    pub(super) answers: bool,
    /// Its boot and version, from its greeting.
    pub(super) hello: Option<(BootEpoch, String)>,
    /// Where it last said that it can be reached.
    pub(super) candidates: Vec<Candidate>,
    /// As a relay: its labels for destinations.
    pub(super) labels: BTreeMap<MemberId, RelayLabel>,
    pub(super) queue: VecDeque<(Mono, Vec<u8>)>,
    pub(super) pings: VecDeque<u32>,
    pub(super) last_handshake: Option<Mono>,
    /// When a summary of revocations last answered one of its.
    pub(super) summarised: Option<Mono>,
    /// When to compare databases next.
    pub(super) compare_at: Mono,
    /// How soon to compare again when they differ.
    pub(super) compare_pause: Duration,
    /// No traffic, no session, no wish: when it was last needed.
    pub(super) needed: Mono,
    reassembly: VecDeque<Reassembly>,
    budget: Budget,
    /// Bytes sent to it that are counted for paths already.
    sent_counted: u64,
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
        probe_id: u32,
    ) -> Peer {
        Peer {
            member,
            slot,
            session,
            paths: PathSet::new(probe_id),
            selection: Selection::default(),
            stats: Arc::default(),
            mtu: None,
            up: false,
            knows_us: false,
            unanswered: 0,
            answers: true,
            hello: None,
            candidates: Vec::new(),
            labels: BTreeMap::new(),
            queue: VecDeque::new(),
            pings: VecDeque::new(),
            last_handshake: None,
            summarised: None,
            compare_at: now,
            compare_pause: super::gossip::COMPARE_AGAIN,
            needed: now,
            reassembly: VecDeque::new(),
            budget: Budget { bytes: CONTROL_BURST_BYTES, filled: now },
            sent_counted: 0,
        }
    }

    /// It does not answer: no path to it is alive, though there was one, or though it was asked for a session twice.
    pub(super) fn unresponsive(&self, now: Mono) -> bool {
        (self.up || self.unanswered >= 2) && !self.paths.any_alive(now)
    }

    /// Counts what was sent since the last time for the paths that are chosen: call it before others are.
    pub(super) fn count_sent(&mut self) {
        let sent = self.stats.traffic().tx_bytes;
        let bytes = sent.saturating_sub(std::mem::replace(&mut self.sent_counted, sent));
        let Selection { primary, duplicate } = self.selection;
        for path in [primary, duplicate].into_iter().flatten() {
            self.paths.count(&path, bytes, 0);
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
