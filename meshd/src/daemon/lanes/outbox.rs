//! Datagrams on their way out, grouped so that few system calls send them.
//!
//! A group has one destination and datagrams of equal size, of which only the last may be shorter: what one segmented
//! send can carry. Datagrams of one lane to one destination keep their order. Those of different lanes are never in one
//! group: the receiver's kernel would give all of it to the first one's thread, and what that hands over may be overtaken.

use std::net::{IpAddr, SocketAddr};
use std::ops::Range;
use std::time::{Duration, Instant};

use meshnet::dataplane::Burst;
use meshnet::io::udp::{Cursor, PAYLOAD_MAX_BYTES, Payload, Piece, SEGMENTS_MAX, Socket, Transmit};
use meshnet::io::wake::{Interest, Wake};
use meshnet::path::SocketId;

use super::Shared;
use super::counters::add;

/// Groups that are collected before something has to be sent.
const GROUPS_MAX: usize = 64;
/// Groups sent by one system call.
const TRANSMITS_MAX: usize = 16;

/// Collects datagrams that all lie in one buffer.
pub(super) struct Outbox {
    /// Which thread's socket of a group sends.
    number: usize,
    /// All groups ever needed, so that their memory is used again; the first `used` are in use.
    groups: Vec<Group>,
    used: usize,
    /// TOS or traffic class of what is added.
    tos: u8,
}

struct Group {
    socket: SocketId,
    to: SocketAddr,
    tos: u8,
    /// Number of the lane that the datagrams are sealed on.
    of_lane: u8,
    segment: usize,
    bytes: usize,
    datagrams: usize,
    /// A shorter datagram was added: nothing can follow it.
    ended: bool,
    pieces: Vec<Piece>,
}

impl Outbox {
    /// For the thread with this number.
    pub(super) fn new(number: usize) -> Outbox {
        Outbox { number, groups: Vec::with_capacity(GROUPS_MAX), used: 0, tos: 0 }
    }

    /// Whether it has to be flushed before the next datagram.
    pub(super) fn is_full(&self) -> bool {
        self.room() == 0
    }

    /// How many more datagrams or bursts it takes at least.
    pub(super) fn room(&self) -> usize {
        GROUPS_MAX - self.used
    }

    /// What is added from now on leaves with this TOS or traffic class. A group has one: a change of it begins another.
    pub(super) fn mark(&mut self, tos: u8) {
        self.tos = tos;
    }

    /// Adds the datagram in `range` of the buffer, sealed on the lane with this number.
    ///
    /// # Panics
    /// When it is full.
    pub(super) fn push(&mut self, lane: u8, socket: SocketId, to: SocketAddr, range: Range<usize>) {
        assert!(!self.is_full(), "an outbox is flushed before it is full");
        let piece = Piece { start: range.start as u32, len: range.len() as u32 };
        if let Some(group) = self.latest(lane, socket, to)
            && group.takes(range.len())
        {
            group.add(piece);
            return;
        }
        let tos = self.tos;
        self.next_group().begin((socket, to, tos, lane), piece);
    }

    /// Adds the datagrams of a burst, sealed on the lane with this number.
    ///
    /// # Panics
    /// When it is full.
    pub(super) fn push_burst(&mut self, lane: u8, burst: &Burst) {
        assert!(!self.is_full(), "an outbox is flushed before it is full");
        let tos = self.tos;
        if let Some(group) = self.latest(lane, burst.socket, burst.to)
            && group.takes_all(burst)
        {
            group.add_all(burst);
            return;
        }
        self.next_group().begin_with(burst, tos, lane);
    }

    /// Only the latest group of that lane with that destination may grow, else the order would change.
    fn latest(&mut self, lane: u8, socket: SocketId, to: SocketAddr) -> Option<&mut Group> {
        let tos = self.tos;
        let of_these = |group: &&mut Group| group.socket == socket && group.to == to && group.of_lane == lane;
        let latest = self.groups[..self.used].iter_mut().rev().find(of_these);
        latest.filter(|group| group.tos == tos)
    }

    fn next_group(&mut self) -> &mut Group {
        if self.used == self.groups.len() {
            self.groups.push(Group::empty());
        }
        self.used += 1;
        &mut self.groups[self.used - 1]
    }

    /// Sends everything, on behalf of `thread`. While the kernel's buffer is full, waits up to `patience`, and then drops
    /// what is left.
    pub(super) fn flush(&mut self, buffer: &[u8], shared: &Shared, thread: usize, patience: Duration) {
        if self.used == 0 {
            return;
        }
        let sockets = shared.sockets.load();
        let mut groups = &self.groups[..self.used];
        while let Some(first) = groups.first() {
            let id = first.socket;
            let together = groups.iter().take(TRANSMITS_MAX).take_while(|group| group.socket == id).count();
            let (now, later) = groups.split_at(together);
            groups = later;
            if id.is_stream() {
                for group in now {
                    shared.streams.send((id, group.to), group.segment, group.slices(buffer));
                }
                continue;
            }
            match sockets.get(usize::from(id.0)) {
                Some(group) => send(now, group.of_thread(self.number), buffer, shared, thread, patience),
                None => {
                    add(&shared.counters[thread].no_socket, now.iter().map(|group| group.datagrams).sum())
                }
            }
        }
        self.used = 0;
    }
}

impl Group {
    fn empty() -> Group {
        Group {
            socket: SocketId(0),
            to: SocketAddr::new(IpAddr::V4(std::net::Ipv4Addr::UNSPECIFIED), 0),
            tos: 0,
            of_lane: 0,
            segment: 1,
            bytes: 0,
            datagrams: 0,
            ended: true,
            pieces: Vec::with_capacity(SEGMENTS_MAX),
        }
    }

    fn begin(&mut self, (socket, to, tos, lane): (SocketId, SocketAddr, u8, u8), piece: Piece) {
        let len = piece.len as usize;
        (self.socket, self.to, self.tos, self.of_lane, self.segment) = (socket, to, tos, lane, len.max(1));
        (self.bytes, self.datagrams, self.ended) = (len, 1, false);
        self.pieces.clear();
        self.pieces.push(piece);
    }

    fn begin_with(&mut self, burst: &Burst, tos: u8, lane: u8) {
        (self.socket, self.to, self.tos, self.of_lane) = (burst.socket, burst.to, tos, lane);
        self.segment = burst.len.max(1);
        (self.bytes, self.datagrams, self.ended) = (0, 0, false);
        self.pieces.clear();
        self.add_all(burst);
    }

    fn takes_all(&self, burst: &Burst) -> bool {
        let equal = burst.len == self.segment || burst.count == 1 && burst.len < self.segment;
        !self.ended
            && equal
            && self.bytes + burst.bytes() <= PAYLOAD_MAX_BYTES
            && self.datagrams + burst.count <= SEGMENTS_MAX
    }

    fn add_all(&mut self, burst: &Burst) {
        if !burst.is_dense() {
            for range in burst.datagrams() {
                self.add(Piece { start: range.start as u32, len: range.len() as u32 });
            }
            return;
        }
        self.bytes += burst.bytes();
        self.datagrams += burst.count;
        self.ended = burst.last_len < self.segment;
        self.pieces.push(Piece { start: burst.start as u32, len: burst.bytes() as u32 });
    }

    fn takes(&self, len: usize) -> bool {
        !self.ended
            && len > 0
            && len <= self.segment
            && self.bytes + len <= PAYLOAD_MAX_BYTES
            && self.datagrams < SEGMENTS_MAX
    }

    fn add(&mut self, piece: Piece) {
        self.bytes += piece.len as usize;
        self.datagrams += 1;
        self.ended = (piece.len as usize) < self.segment;
        match self.pieces.last_mut() {
            Some(last) if last.start + last.len == piece.start => last.len += piece.len,
            _ => self.pieces.push(piece),
        }
    }

    /// Its datagrams, each piece one or several of them.
    fn slices<'a>(&'a self, buffer: &'a [u8]) -> impl Iterator<Item = &'a [u8]> + Clone {
        self.pieces.iter().map(|piece| &buffer[piece.start as usize..(piece.start + piece.len) as usize])
    }

    fn transmit<'a>(&'a self, buffer: &'a [u8], from: Option<IpAddr>) -> Transmit<'a> {
        let payload = Payload::Pieces { buffer, pieces: &self.pieces };
        Transmit { to: self.to, from, tos: self.tos, segment: self.segment, payload }
    }
}

fn send(
    groups: &[Group],
    socket: &Socket,
    buffer: &[u8],
    shared: &Shared,
    thread: usize,
    patience: Duration,
) {
    let nothing =
        Transmit::single(SocketAddr::new(IpAddr::V4(std::net::Ipv4Addr::UNSPECIFIED), 0), None, &[]);
    let mut transmits = [nothing; TRANSMITS_MAX];
    for (transmit, group) in transmits.iter_mut().zip(groups) {
        *transmit = group.transmit(buffer, shared.sources.of(group.socket, group.to));
    }
    let transmits = &transmits[..groups.len()];
    let mut cursor = Cursor::default();
    let mut deadline = None;
    while !socket.send_many(transmits, &mut cursor) {
        let now = Instant::now();
        let left = deadline.get_or_insert(now + patience).saturating_duration_since(now);
        if left.is_zero() || shared.is_stopping() || !wait_until_writable(socket, &shared.wakes[thread], left)
        {
            add(&shared.counters[thread].send_blocked, cursor.left(transmits));
            return;
        }
    }
}

fn wait_until_writable(socket: &Socket, wake: &Wake, patience: Duration) -> bool {
    use std::os::fd::AsFd;
    match wake.wait(&[(socket.as_fd(), Interest::Writable)], Some(patience)) {
        // A pending error makes the socket look writable: only its receiver can read it, so do not spin meanwhile.
        Ok(ready) if ready.error(0) => {
            std::thread::sleep(Duration::from_micros(200));
            true
        }
        Ok(_) => true,
        Err(_) => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(port: u16) -> SocketAddr {
        SocketAddr::from(([192, 0, 2, 1], port))
    }

    /// Segment size, datagrams, and pieces of each group.
    fn shape(outbox: &Outbox) -> Vec<(u16, usize, usize, usize)> {
        let groups = outbox.groups[..outbox.used].iter();
        groups.map(|group| (group.to.port(), group.segment, group.datagrams, group.pieces.len())).collect()
    }

    #[test]
    fn equal_datagrams_to_one_destination_become_one_group() {
        let mut outbox = Outbox::new(0);
        for index in 0..10 {
            outbox.push(0, SocketId(0), at(1), index * 2000..index * 2000 + 1452);
        }
        outbox.push(0, SocketId(0), at(1), 50_000..50_100);
        assert_eq!(shape(&outbox), [(1, 1452, 11, 11)]);
    }

    #[test]
    fn a_change_of_tos_begins_a_group_and_the_order_stays() {
        let mut outbox = Outbox::new(0);
        for tos in [0, 0, 0xb8, 0xb8, 0, 3, 3] {
            outbox.mark(tos);
            outbox.push(0, SocketId(0), at(1), 0..100);
        }
        let groups: Vec<_> =
            outbox.groups[..outbox.used].iter().map(|group| (group.tos, group.datagrams)).collect();
        assert_eq!(groups, [(0, 2), (0xb8, 2), (0, 1), (3, 2)]);
        let buffer = [0; 100];
        assert_eq!(outbox.groups[1].transmit(&buffer, None).tos, 0xb8);
    }

    #[test]
    fn lanes_are_never_in_one_group_and_each_keeps_its_order() {
        let mut outbox = Outbox::new(0);
        for number in 0..12_usize {
            outbox.push((number % 3) as u8, SocketId(0), at(1), number * 100..number * 100 + 90);
        }
        assert_eq!(shape(&outbox), [(1, 90, 4, 4); 3]);
        for (lane, group) in outbox.groups[..3].iter().enumerate() {
            let starts: Vec<usize> = group.pieces.iter().map(|piece| piece.start as usize / 100).collect();
            assert_eq!(starts, [lane, lane + 3, lane + 6, lane + 9]);
        }
    }

    #[test]
    fn neighbours_in_the_buffer_become_one_piece() {
        let mut outbox = Outbox::new(0);
        for index in 0..10 {
            outbox.push(0, SocketId(0), at(1), index * 1452..(index + 1) * 1452);
        }
        assert_eq!(shape(&outbox), [(1, 1452, 10, 1)]);
    }

    #[test]
    fn destinations_are_grouped_through_each_other() {
        let mut outbox = Outbox::new(0);
        for index in 0..10 {
            outbox.push(
                0,
                SocketId(0),
                at(index % 2),
                usize::from(index) * 100..usize::from(index) * 100 + 90,
            );
            outbox.push(0, SocketId(1), at(0), usize::from(index) * 100..usize::from(index) * 100 + 90);
        }
        assert_eq!(shape(&outbox), [(0, 90, 5, 5), (0, 90, 10, 10), (1, 90, 5, 5)]);
    }

    #[test]
    fn a_longer_datagram_or_one_after_a_shorter_begins_a_group_and_the_order_stays() {
        let mut outbox = Outbox::new(0);
        for len in [100, 100, 60, 60, 100, 100, 50, 0, 50] {
            outbox.push(0, SocketId(0), at(1), 7..7 + len);
        }
        let expected = [(1, 100, 3, 3), (1, 60, 1, 1), (1, 100, 3, 3), (1, 1, 1, 1), (1, 50, 1, 1)];
        assert_eq!(shape(&outbox), expected);
    }

    #[test]
    fn a_group_never_exceeds_what_the_kernel_takes() {
        let mut outbox = Outbox::new(0);
        for _ in 0..100 {
            outbox.push(0, SocketId(0), at(1), 0..1452);
        }
        for _ in 0..200 {
            outbox.push(0, SocketId(0), at(2), 0..10);
        }
        assert_eq!(
            shape(&outbox).iter().map(|group| group.2).collect::<Vec<_>>(),
            [45, 45, 10, 128, 72],
            "by bytes and by number"
        );
    }
}
