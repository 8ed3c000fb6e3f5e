//! Ports that a translator will probably give next.
//!
//! A symmetric translator gives each destination another port, so that nobody can be told where our datagrams will come
//! from; but many count: each port is the last one and a little more. Where members saw us at such ports, the peer that we
//! are about to reach is told the next few. It sends to them, by which its own translator lets ours in. Nothing is tried
//! unless what was observed shows the habit, and never more than [`MAX_EXPECTED`] ports.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use proto::frame::{Frame, MAX_EXPECTED};
use proto::id::MemberId;

use super::Node;
use crate::path::{Origin, PathId, SocketId};
use crate::time::Now;

/// Largest step from one port to the next that counts as a habit.
const STRIDE_MAX: u16 = 16;
/// Ports that were seen may be so far apart: others of the same site took those between.
const APART_MAX: u16 = 64;
/// So many ports that come next are told, and of those below, which may be ours already, as many as there is room for.
const AHEAD: u16 = 6;
/// A peer's expectations are heeded this often.
const PAUSE: Duration = Duration::from_secs(5);

impl Node {
    /// What to tell a member about the ports from which our datagrams will come; nothing where datagrams get straight there
    /// already, or where our translator has no such habit.
    pub(super) fn expectation(&self, now: Now, member: MemberId) -> Option<Frame> {
        if self.peers.get(&member)?.paths.datagrams_arrive(now.mono) {
            return None;
        }
        let next = next_ports(self.reflexive.values().copied());
        (!next.is_empty()).then_some(Frame::Expect(next))
    }

    /// Tells a member from where our datagrams will come, should that be any help.
    pub(super) fn send_expectation(&mut self, now: Now, member: MemberId) {
        if let Some(frame) = self.expectation(now, member) {
            self.send_frames(now, member, None, &[frame]);
        }
    }

    /// A member tells from where its datagrams will probably come.
    pub(super) fn handle_expectation(&mut self, now: Now, member: MemberId, endpoints: &[SocketAddr]) {
        let Some(peer) = self.peers.get_mut(&member) else { return };
        let too_soon = peer.expected.is_some_and(|at| now.mono.since(at) < PAUSE);
        if too_soon || peer.paths.datagrams_arrive(now.mono) {
            return;
        }
        peer.expected = Some(now.mono);
        let one = endpoints.first().map(SocketAddr::ip);
        for endpoint in endpoints.iter().take(MAX_EXPECTED) {
            // One translator has one address.
            let Some(socket) = self.socket_for(*endpoint) else { continue };
            if Some(endpoint.ip()) == one && self.is_dialable(*endpoint) {
                let path = PathId::Direct { socket, remote: *endpoint };
                if let Some(peer) = self.peers.get_mut(&member) {
                    peer.paths.add(now.mono, path, Origin::Predicted);
                }
            }
        }
        self.send_probes(now, member);
    }

    /// The socket that sends datagrams to an endpoint.
    pub(super) fn socket_for(&self, endpoint: SocketAddr) -> Option<SocketId> {
        let serves = |socket: &&super::Socket| if endpoint.is_ipv4() { socket.ipv4 } else { socket.ipv6 };
        self.settings.sockets.iter().find(serves).map(|socket| socket.id)
    }
}

/// The next ports of a translator that counts, after those at which it was seen; none if it does not.
fn next_ports(observed: impl Iterator<Item = SocketAddr>) -> Vec<SocketAddr> {
    let mut ports: BTreeMap<IpAddr, BTreeSet<u16>> = BTreeMap::new();
    for endpoint in observed.filter(SocketAddr::is_ipv4) {
        ports.entry(endpoint.ip()).or_default().insert(endpoint.port());
    }
    let Some((ip, ports)) = ports.into_iter().max_by_key(|(_, ports)| ports.len()) else { return Vec::new() };
    let ports: Vec<u16> = ports.into_iter().collect();
    let apart: Vec<u16> = ports.windows(2).map(|pair| pair[1] - pair[0]).collect();
    let stride = apart.iter().copied().fold(0, greatest_common_divisor);
    let (true, Some(last)) = ((1..=STRIDE_MAX).contains(&stride), ports.last()) else { return Vec::new() };
    if apart.iter().any(|apart| *apart > APART_MAX) {
        return Vec::new();
    }
    // Ours may have been given already, between those that were seen: a destination that was tried before keeps its port.
    let above = (1..=AHEAD).map_while(|step| last.checked_add(step.checked_mul(stride)?));
    let below = (1..=APART_MAX).map_while(|step| last.checked_sub(step.checked_mul(stride)?));
    let below =
        below.filter(|port| *port != 0 && !ports.contains(port)).take(MAX_EXPECTED - usize::from(AHEAD));
    above.chain(below).map(|port| SocketAddr::new(ip, port)).collect()
}

fn greatest_common_divisor(a: u16, b: u16) -> u16 {
    if b == 0 { a } else { greatest_common_divisor(b, a % b) }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn next(seen: &[&str]) -> Vec<u16> {
        next_ports(seen.iter().map(|text| text.parse().unwrap())).iter().map(SocketAddr::port).collect()
    }

    #[test]
    fn a_translator_that_counts_is_seen_through_and_no_other() {
        assert_eq!(
            next(&["192.0.2.1:4000", "192.0.2.1:4002"]),
            [4004, 4006, 4008, 4010, 4012, 4014, 3998, 3996, 3994, 3992, 3990, 3988]
        );
        // Somebody took a port between, maybe ourselves.
        assert_eq!(next(&["192.0.2.1:4000", "192.0.2.1:4002", "192.0.2.1:4006"])[5..8], [4018, 4004, 3998]);
        assert!(next(&["192.0.2.1:4000"]).is_empty(), "one observation shows nothing");
        assert!(next(&["192.0.2.1:4000", "192.0.2.1:4000"]).is_empty(), "a cone");
        assert!(next(&["192.0.2.1:4000", "192.0.2.2:4001"]).is_empty(), "two translators");
        assert!(next(&["192.0.2.1:4000", "192.0.2.1:41913"]).is_empty(), "random ports");
        assert!(next(&["192.0.2.1:4000", "192.0.2.1:4063"]).is_empty(), "too wide a step");
        assert_eq!(next(&["192.0.2.1:65530", "192.0.2.1:65532"])[..2], [65534, 65528], "there are no more");
        assert_eq!(next(&["192.0.2.1:1", "192.0.2.1:3"]).len(), 6);
    }
}
