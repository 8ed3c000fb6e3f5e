//! Passing join datagrams between a joiner and its inviter, when the joiner can reach this node only.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::time::Duration;

use proto::frame::Frame;
use proto::id::MemberId;
use proto::join::{JOIN_MAX_LEN, Join};

use super::event::JoinOrigin;
use super::{Event, Node};
use crate::dataplane::Via;
use crate::path::SocketId;
use crate::time::{Mono, Now};

/// Joiners that may be under way through this node.
const MAX_JOINERS: usize = 256;
/// How long answers are passed back after a joiner's last datagram.
const JOINER_LIFE: Duration = Duration::from_secs(30);
/// Datagrams of one joiner that are passed on per second.
const DATAGRAMS_PER_S: u32 = 40;

/// Joiners whose datagrams were passed on: answers go to these and to nobody else.
#[derive(Default)]
pub(super) struct Forwarded {
    joiners: BTreeMap<SocketAddr, Joiner>,
}

struct Joiner {
    socket: SocketId,
    inviter: MemberId,
    last: Mono,
    window: Mono,
    count: u32,
}

impl Forwarded {
    pub(super) fn expire(&mut self, now: Mono) {
        self.joiners.retain(|_, joiner| now.since(joiner.last) < JOINER_LIFE);
    }

    /// Notes a datagram of a joiner; `false` when there are too many joiners, or too many datagrams of this one.
    fn admit(&mut self, now: Mono, socket: SocketId, from: SocketAddr, inviter: MemberId) -> bool {
        if !self.joiners.contains_key(&from) && self.joiners.len() >= MAX_JOINERS {
            self.expire(now);
            if self.joiners.len() >= MAX_JOINERS {
                return false;
            }
        }
        let joiner =
            self.joiners.entry(from).or_insert(Joiner { socket, inviter, last: now, window: now, count: 0 });
        (joiner.socket, joiner.inviter, joiner.last) = (socket, inviter, now);
        if now.since(joiner.window) >= Duration::from_secs(1) {
            (joiner.window, joiner.count) = (now, 0);
        }
        joiner.count += 1;
        joiner.count <= DATAGRAMS_PER_S
    }
}

impl Node {
    /// A join datagram at our socket: for this node, or for a member that it can reach.
    pub(super) fn handle_join(&mut self, now: Now, via: Via, datagram: &[u8]) {
        let Via::Direct { socket, from } = via else { return };
        let Ok(join) = Join::parse(datagram) else { return };
        if join.inviter == self.me.member {
            let origin = JoinOrigin::Direct { socket, from };
            self.events.push_back(Event::Join { origin, bytes: datagram.to_vec() });
            return;
        }
        let inviter = join.inviter;
        let reachable = self.peers.get(&inviter).is_some_and(|peer| peer.session.sending().is_some());
        if !reachable || !self.joins.admit(now.mono, socket, from, inviter) {
            if !reachable && self.relays_now(now) {
                // The next datagram of the joiner may find a session.
                self.want(now, inviter);
            }
            self.stats.joins_dropped += 1;
            return;
        }
        let frame = Frame::JoinForward { joiner: from, bytes: datagram.to_vec() };
        self.send_frames(now, inviter, None, &[frame]);
    }

    /// A member passes on a join datagram for this node.
    pub(super) fn take_forwarded_join(
        &mut self,
        now: Now,
        relay: MemberId,
        from: SocketAddr,
        bytes: Vec<u8>,
    ) {
        let mine = Join::parse(&bytes).is_ok_and(|join| join.inviter == self.me.member);
        let allowed = self.peers.get_mut(&relay).is_some_and(|peer| peer.charge(now.mono, bytes.len()));
        if !mine || !allowed {
            self.stats.joins_dropped += 1;
            return;
        }
        let origin = JoinOrigin::Relayed { relay, from };
        self.events.push_back(Event::Join { origin, bytes });
    }

    /// The inviter's answer to a joiner that came through this node.
    pub(super) fn return_join(&mut self, now: Now, to: SocketAddr, bytes: Vec<u8>) {
        self.joins.expire(now.mono);
        let Some(joiner) = self.joins.joiners.get(&to) else {
            self.stats.joins_dropped += 1;
            return;
        };
        let answers = Join::parse(&bytes).is_ok_and(|join| join.inviter == joiner.inviter);
        if answers && bytes.len() <= JOIN_MAX_LEN {
            self.transmit((joiner.socket, to, bytes));
        } else {
            self.stats.joins_dropped += 1;
        }
    }

    /// Answers a joiner, the way its datagram came.
    pub fn answer_join(&mut self, now: Now, origin: JoinOrigin, bytes: Vec<u8>) {
        match origin {
            JoinOrigin::Direct { socket, from } => self.transmit((socket, from, bytes)),
            JoinOrigin::Relayed { relay, from } => {
                self.send_frames(now, relay, None, &[Frame::JoinBack { joiner: from, bytes }]);
            }
        }
    }
}
