//! TCP connections between machines: in order, without loss, and late where the network loses something.
//!
//! A connection is made by the first datagram for an endpoint where a machine listens, after two round trips; one that cannot
//! be made, or whose other end is gone, is reported as closed, at once where somebody answers so and after a while where
//! nobody does. Translators see a port of its own.

use std::net::SocketAddr;

use meshnet::path::SocketId;

use super::machine::Output;
use super::net::HostId;
use super::world::{Happening, MachineId, World};

/// A lost segment comes this much later (Linux's shortest retransmission time).
const RETRANSMIT_US: u64 = 200_000;
/// A segment that was lost so often is not tried again.
const TRIES: u64 = 6;
/// Who hears nothing gives up after this.
const GIVE_UP_US: u64 = 5_000_000;
/// Ports of connections.
const FIRST_PORT: u16 = 40_000;

/// One connection.
#[derive(Debug)]
pub(super) struct Connection {
    client: MachineId,
    port: u16,
    server: MachineId,
    /// Where the client connected to.
    to: SocketAddr,
    /// Where it comes from, as the server sees it.
    seen: SocketAddr,
    /// Nothing is before these: what was sent last arrives then, at the server and at the client.
    last_us: [u64; 2],
}

impl World {
    /// Sends a datagram over a connection, which is made if there is none.
    pub(super) fn send_stream(&mut self, id: MachineId, socket: SocketId, to: SocketAddr, bytes: &[u8]) {
        let accepted = socket == SocketId::ACCEPTED;
        let known = self.connections.iter().position(|one| match accepted {
            true => (one.server, one.seen) == (id, to),
            false => (one.client, one.to) == (id, to),
        });
        let at = match known {
            Some(at) => at,
            None if accepted => return,
            None => match self.connect(id, to) {
                Ok(()) => self.connections.len() - 1,
                Err(after_us) => {
                    let closed = Happening::Closed { to: id, socket, remote: to };
                    return self.push(self.now_us + after_us, closed);
                }
            },
        };
        let (port, peer) = match accepted {
            true => (self.connections[at].to.port(), self.connections[at].client),
            false => (self.connections[at].port, self.connections[at].server),
        };
        let Some(arrives_us) = self.segment(id, port, to, bytes.len()) else {
            let one = self.connections.remove(at);
            let late_us = self.now_us + GIVE_UP_US;
            let at_client = Happening::Closed { to: one.client, socket: SocketId::TCP, remote: one.to };
            let at_server =
                Happening::Closed { to: one.server, socket: SocketId::ACCEPTED, remote: one.seen };
            self.push(late_us, at_client);
            return self.push(late_us, at_server);
        };
        let one = &mut self.connections[at];
        let last_us = &mut one.last_us[usize::from(accepted)];
        *last_us = arrives_us.max(*last_us);
        let (at_us, from) = (*last_us, if accepted { one.to } else { one.seen });
        let socket = if accepted { SocketId::TCP } else { SocketId::ACCEPTED };
        self.push(at_us, Happening::Stream { to: peer, socket, from, bytes: bytes.to_vec() });
    }

    /// A machine's connections are no more: its daemon ended.
    pub(super) fn drop_connections(&mut self, id: MachineId) {
        let (gone, kept): (Vec<_>, Vec<_>) = std::mem::take(&mut self.connections)
            .into_iter()
            .partition(|one| one.client == id || one.server == id);
        self.connections = kept;
        for one in gone {
            let closed = match one.client == id {
                true => Happening::Closed { to: one.server, socket: SocketId::ACCEPTED, remote: one.seen },
                false => Happening::Closed { to: one.client, socket: SocketId::TCP, remote: one.to },
            };
            let at_us = self.now_us + 1000;
            self.push(at_us, closed);
        }
    }

    /// Makes a connection, or says after how many microseconds it is known that there will be none.
    fn connect(&mut self, id: MachineId, to: SocketAddr) -> Result<(), u64> {
        let port = self.next_port;
        self.next_port = if port == u16::MAX { FIRST_PORT } else { port + 1 };
        let start_us = self.now_us;
        let arrivals = self.net.send_tcp(start_us, HostId(id.0), port, to, 60);
        let Some(syn) = arrivals.first() else { return Err(GIVE_UP_US) };
        let (server, one_way_us) = (MachineId(syn.host.0), syn.at_us - start_us);
        let listening = &self.machine(server).settings.streams;
        if self.machine(server).node().is_none() || !listening.iter().any(|one| one.port == to.port()) {
            return Err(2 * one_way_us);
        }
        let ready_us = start_us + 3 * one_way_us;
        let seen = syn.from;
        self.connections.push(Connection { client: id, port, server, to, seen, last_us: [ready_us; 2] });
        Ok(())
    }

    /// When a segment arrives; `None` if it never does.
    fn segment(&mut self, id: MachineId, port: u16, to: SocketAddr, len: usize) -> Option<u64> {
        let now_us = self.now_us;
        (0..TRIES).find_map(|attempt| {
            // Segments are as long as they may be.
            let arrivals = self.net.send_tcp(now_us, HostId(id.0), port, to, len.min(1200));
            arrivals.first().map(|arrival| arrival.at_us + attempt * RETRANSMIT_US)
        })
    }

    /// What a machine does when a connection is closed.
    pub(super) fn closed(&mut self, to: MachineId, socket: SocketId, remote: SocketAddr) {
        let now_us = self.now_us;
        self.act(to, |machine| -> Vec<Output> { machine.stream_closed(now_us, socket, remote) });
    }
}
