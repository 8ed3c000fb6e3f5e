//! Lanes: which key of a session sealed a datagram, and by what receivers spread datagrams over their threads.
//!
//! A session has a key for every lane and direction. At the sender one thread draws on it; at the receiver one thread
//! opens with it and keeps its replay window. Which one, follows from [`number_of`] alone, which a socket filter can
//! compute too: so all that belongs together must have the same number. Therefore a relayed datagram has that of the
//! datagram inside, and so has the hop around it.
//!
//! A queue's thread has two lanes: one for flows in bulk, one for all others, so that a receiver can keep them in two sockets, and
//! look at the others first.

use crate::datagram::Kind;
use crate::{data, relay};

/// Lane numbers are below this.
pub const LANES_MAX: u8 = 16;
/// Queue numbers are below this: the most device queues, and so the most pairs of threads, that a node has.
pub const QUEUES_MAX: u8 = LANES_MAX / 2;

/// Where the number stands in a data datagram.
const NUMBER_AT: usize = 3;

/// Who in the sender draws on the key.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Debug)]
#[repr(u8)]
pub enum Role {
    /// The thread that carries packets of one device queue.
    #[default]
    Queue = 0,
    /// The thread that passes on what others sent: for hop tags only.
    Forward = 1,
    /// The control plane.
    Control = 2,
}

impl Role {
    /// The role of this number; `None` if there is none.
    pub const fn from_bits(bits: u8) -> Option<Role> {
        match bits {
            0 => Some(Role::Queue),
            1 => Some(Role::Forward),
            2 => Some(Role::Control),
            _ => None,
        }
    }
}

/// What the flows on a lane are like (the terms of RFC 8290).
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Debug)]
pub enum Flows {
    /// Whatever is not in bulk, the control plane included.
    #[default]
    Sparse,
    /// Flows that others overtake.
    Bulk,
}

/// One key of a session and direction. On the wire: role 1 | number 1.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Debug)]
pub struct Lane {
    role: Role,
    number: u8,
}

impl Lane {
    /// The lane of the first device queue. Its key is the session's own; whoever knows of no lanes has only this one.
    pub const FIRST: Lane = Lane { role: Role::Queue, number: 0 };
    /// The control plane's lane.
    pub const CONTROL: Lane = Lane { role: Role::Control, number: 0 };

    /// `None` when the number is not below [`LANES_MAX`], or not 0 for the control plane.
    pub const fn new(role: Role, number: u8) -> Option<Lane> {
        let bound = if matches!(role, Role::Control) { 1 } else { LANES_MAX };
        if number < bound { Some(Lane { role, number }) } else { None }
    }

    /// The lane of a device queue for such flows; `None` when the queue's number is not below [`QUEUES_MAX`].
    pub const fn of_queue(queue: u8, flows: Flows) -> Option<Lane> {
        if queue < QUEUES_MAX { Lane::new(Role::Queue, 2 * queue + flows as u8) } else { None }
    }

    /// The lane with this number in a header; `None` if there is no such lane.
    pub fn from_wire(wire: u16) -> Option<Lane> {
        let [role, number] = wire.to_be_bytes();
        Lane::new(Role::from_bits(role)?, number)
    }

    /// As it stands in a header.
    pub fn to_wire(self) -> u16 {
        u16::from_be_bytes([self.role as u8, self.number])
    }

    /// Who draws on it.
    pub const fn role(self) -> Role {
        self.role
    }

    /// Which of that role's it is, below [`LANES_MAX`].
    pub const fn number(self) -> u8 {
        self.number
    }

    /// The device queue whose number it has, below [`QUEUES_MAX`].
    pub const fn queue(self) -> u8 {
        self.number / 2
    }
}

/// The number by which a receiver chooses the socket for a datagram, modulo its sockets, of which it has two for each thread: that of the lane of a data
/// datagram, or of a data datagram inside a relayed one; 0 for everything else. It may be any byte: nothing is verified.
pub fn number_of(datagram: &[u8]) -> u8 {
    let number = |data: &[u8]| match data.first() {
        Some(&first) if first == Kind::Data.first_byte() => data.get(NUMBER_AT).copied().unwrap_or(0),
        _ => 0,
    };
    match Kind::of(datagram) {
        Some(Kind::Data) => number(datagram),
        Some(Kind::Relay) => {
            let long = datagram.get(1).is_some_and(|flags| flags & relay::LONG != 0);
            let header_len = if long { relay::LONG_LEN } else { relay::HEADER_LEN };
            number(datagram.get(header_len + relay::HOP_TAG_LEN..).unwrap_or_default())
        }
        _ => 0,
    }
}

/// The number by which a receiver chooses the thread for a datagram, modulo its threads; both lanes of a queue have the same.
pub fn queue_of(datagram: &[u8]) -> u8 {
    number_of(datagram) / 2
}

/// The least length of a data datagram covers the place of the number.
const _: () = assert!(NUMBER_AT < data::HEADER_LEN);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_lane_survives_and_nothing_else_is_one() {
        let lanes: Vec<Lane> = (0..=u16::MAX).filter_map(Lane::from_wire).collect();
        assert_eq!(lanes.len(), 2 * usize::from(LANES_MAX) + 1);
        for lane in lanes {
            assert_eq!(Lane::from_wire(lane.to_wire()), Some(lane));
        }
        assert_eq!((Lane::FIRST.to_wire(), Lane::CONTROL.to_wire()), (0, 0x0200));
        assert_eq!(Lane::new(Role::Control, 1), None);
        assert_eq!(Lane::new(Role::Queue, LANES_MAX), None);
        assert_eq!(Lane::of_queue(QUEUES_MAX, Flows::Sparse), None);
    }

    #[test]
    fn a_receiver_s_sockets_and_threads_keep_the_flows_of_any_sender_apart() {
        for (queue, threads) in
            (0..QUEUES_MAX).flat_map(|queue| (1..=QUEUES_MAX).map(move |threads| (queue, threads)))
        {
            let of = |flows| Lane::of_queue(queue, flows).unwrap();
            let (sparse, bulk) = (of(Flows::Sparse), of(Flows::Bulk));
            assert_eq!((sparse.queue(), bulk.queue()), (queue, queue));
            let sockets = [sparse, bulk].map(|lane| lane.number() % (2 * threads));
            assert_eq!(sockets.map(|socket| socket / 2), [queue % threads; 2], "the same thread");
            assert_eq!(sockets.map(|socket| socket % 2), [0, 1], "never one socket");
        }
    }

    #[test]
    fn a_relayed_datagram_has_the_number_of_the_one_inside() {
        let data = |number: u8| [0x15, 0, 0, number, 9, 9, 9, 9];
        assert_eq!(number_of(&data(7)), 7);
        assert_eq!(number_of(&data(200)), 200);
        for (flags, header_len) in [(0x04, 32), (0x84, 64)] {
            let mut relayed = vec![0; header_len];
            (relayed[0], relayed[1]) = (0x16, flags);
            relayed.extend(data(5));
            assert_eq!(number_of(&relayed), 5);
            relayed[header_len] = 0x11;
            assert_eq!(number_of(&relayed), 0, "a handshake");
            for len in 0..header_len + NUMBER_AT {
                assert_eq!(number_of(&relayed[..len]), 0);
            }
        }
        assert_eq!(number_of(&[0x11, 0, 0, 7]), 0);
        assert_eq!(number_of(&[0x25, 0, 0, 7]), 0, "of another version");
        assert_eq!(number_of(&[]), 0);
    }
}
