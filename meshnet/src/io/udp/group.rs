//! Several sockets on one address and port: two for each receiving thread, of which one is for flows in bulk, so that what
//! waits of them does not hold up the others.
//!
//! The kernel asks a classic BPF program which socket a datagram is for (socket(7), `SO_ATTACH_REUSEPORT_CBPF`). It computes
//! [`proto::lane::number_of`], so that all datagrams of a lane come to one socket, whoever sent them. Datagrams of several
//! lanes that the kernel has put together before (`UDP_GRO`) come to the socket of the first one.

use std::fmt;
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd};

use super::{Bind, BindError, Options, Socket};

/// Sockets that share an address; at least one.
#[derive(Debug)]
pub struct Group {
    sockets: Vec<Socket>,
    steering: Steering,
}

/// How datagrams are spread over the sockets of a group.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Steering {
    /// There is one socket, as wanted.
    Alone,
    /// By lane.
    ByLane,
    /// There is one socket, because the kernel does not steer.
    Unsupported,
}

impl fmt::Display for Steering {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Steering::Alone => "one socket",
            Steering::ByLane => "steered by lane",
            Steering::Unsupported => "not supported by the kernel",
        })
    }
}

impl Group {
    /// Makes and binds two sockets for each of `threads`, or one where the kernel cannot steer.
    ///
    /// # Errors
    /// See [`BindError`].
    ///
    /// # Panics
    /// When `threads` is 0 or more than 128.
    pub fn bind(options: &Options, threads: usize) -> Result<Group, BindError> {
        assert!((1..=128).contains(&threads), "sockets for {threads} threads");
        // The first one has the port for itself, or the kernel would not tell that another program of this user has it. It is
        // never given back, so that nobody can take it before the others join in.
        let first = Socket::bind(&Options { share_port: false, ..options.clone() })?;
        match first.share_port(true).and_then(|()| join(&first, options, 2 * threads - 1)) {
            Ok(others) => {
                let sockets = std::iter::once(first).chain(others).collect();
                Ok(Group { sockets, steering: Steering::ByLane })
            }
            Err(error) => {
                tracing::debug!(%error, "one socket for all lanes");
                // Where this fails, another program of this user can join in, which is no more than untidy.
                let _ = first.share_port(false);
                Ok(Group { sockets: vec![first], steering: Steering::Unsupported })
            }
        }
    }

    /// One socket for everything.
    ///
    /// # Errors
    /// See [`BindError`].
    pub fn alone(options: &Options) -> Result<Group, BindError> {
        let socket = Socket::bind(&Options { share_port: false, ..options.clone() })?;
        Ok(Group { sockets: vec![socket], steering: Steering::Alone })
    }

    /// How many threads can receive.
    pub fn threads(&self) -> usize {
        self.sockets.len().div_ceil(2)
    }

    /// The socket of this thread, modulo their number: by it the thread sends, and receives what is not in bulk.
    pub fn of_thread(&self, number: usize) -> &Socket {
        &self.sockets[2 * (number % self.threads())]
    }

    /// The socket by which the thread receives what is in bulk, if there is one for that.
    pub fn bulk_of_thread(&self, number: usize) -> Option<&Socket> {
        self.sockets.get(2 * (number % self.threads()) + 1)
    }

    /// The first one, which stands for all.
    pub fn first(&self) -> &Socket {
        &self.sockets[0]
    }

    /// All of them; a datagram comes to that of its lane's number, modulo how many they are.
    pub fn sockets(&self) -> &[Socket] {
        &self.sockets
    }

    /// How datagrams come to one of them.
    pub fn steering(&self) -> Steering {
        self.steering
    }
}

/// That many more sockets at the address of the first one, which are steered together with it.
fn join(first: &Socket, options: &Options, count: usize) -> io::Result<Vec<Socket>> {
    let port = first.local_addr().port();
    let bind = match options.bind {
        Bind::Any { .. } => Bind::Any { port },
        Bind::Address(mut address) => {
            address.set_port(port);
            Bind::Address(address)
        }
    };
    let options = Options { bind, share_port: true, ..options.clone() };
    let others = (0..count).map(|_| Socket::bind(&options)).collect::<Result<_, _>>();
    let others = others.map_err(io::Error::other)?;
    attach(first.as_fd(), count + 1)?;
    Ok(others)
}

/// Attaches the program to the group that the socket is in.
fn attach(socket: BorrowedFd<'_>, sockets: usize) -> io::Result<()> {
    let mut program = program(sockets as u32);
    let filter = libc::sock_fprog { len: program.len() as u16, filter: program.as_mut_ptr() };
    // SAFETY: the pointer and length describe `filter`, which describes `program`; both live over the call, in which the
    // kernel copies them.
    let result = unsafe {
        libc::setsockopt(
            socket.as_raw_fd(),
            libc::SOL_SOCKET,
            libc::SO_ATTACH_REUSEPORT_CBPF,
            (&raw const filter).cast(),
            size_of::<libc::sock_fprog>() as u32,
        )
    };
    if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

/// [`proto::lane::number_of`] modulo `sockets`, in the instructions of linux/filter.h. The program sees the UDP payload; a
/// load from behind its end makes the result 0.
fn program(sockets: u32) -> [libc::sock_filter; 17] {
    use proto::datagram::Kind;
    use proto::relay::{HEADER_LEN, HOP_TAG_LEN, LONG_LEN};
    const NUMBER_AT: u32 = 3;
    const LONG: u32 = 0x80;
    let (data, relay) = (u32::from(Kind::Data.first_byte()), u32::from(Kind::Relay.first_byte()));
    let (short, long) = ((HEADER_LEN + HOP_TAG_LEN) as u32, (LONG_LEN + HOP_TAG_LEN) as u32);
    let op = |code: u32, k: u32| libc::sock_filter { code: code as u16, jt: 0, jf: 0, k };
    let load = |at: u32| op(libc::BPF_LD | libc::BPF_B | libc::BPF_ABS, at);
    let jump = |test: u32, k: u32, jt: u8, jf: u8| {
        let code = (libc::BPF_JMP | test | libc::BPF_K) as u16;
        libc::sock_filter { code, jt, jf, k }
    };
    [
        /* 0 */ load(0),
        /* 1 */ jump(libc::BPF_JEQ, data, 11, 0),
        /* 2 */ jump(libc::BPF_JEQ, relay, 0, 13),
        /* 3 */ load(1),
        /* 4 */ jump(libc::BPF_JSET, LONG, 4, 0),
        /* 5 */ load(short),
        /* 6 */ jump(libc::BPF_JEQ, data, 0, 9),
        /* 7 */ load(short + NUMBER_AT),
        /* 8 */ jump(libc::BPF_JA, 5, 0, 0),
        /* 9 */ load(long),
        /* 10 */ jump(libc::BPF_JEQ, data, 0, 5),
        /* 11 */ load(long + NUMBER_AT),
        /* 12 */ jump(libc::BPF_JA, 1, 0, 0),
        /* 13 */ load(NUMBER_AT),
        /* 14 */ op(libc::BPF_ALU | libc::BPF_MOD | libc::BPF_K, sockets),
        /* 15 */ op(libc::BPF_RET | libc::BPF_A, 0),
        /* 16 */ op(libc::BPF_RET | libc::BPF_K, 0),
    ]
}

#[cfg(test)]
mod tests {
    use std::net::UdpSocket;
    use std::time::{Duration, Instant};

    use proto::lane::number_of;

    use super::*;
    use crate::io::testing::{in_namespace, soon};
    use crate::io::udp::Batch;

    fn options(bind: &str) -> Options {
        Options::new(Bind::from(bind.parse::<std::net::SocketAddr>().unwrap()))
    }

    /// Datagrams of all kinds, whole and cut short.
    fn samples() -> Vec<Vec<u8>> {
        let data = |number: u8| vec![0x15, 0, 2, number, 1, 2, 3, 4, 5, 6, 7, 8];
        let mut samples: Vec<Vec<u8>> = (0..=255).step_by(7).map(data).collect();
        for (flags, header_len) in [(0x04, 32), (0x94, 64), (0x73, 32), (0xff, 64)] {
            for inner in [data(1), data(2), data(19), vec![0x11, 0, 0, 3, 4]] {
                let mut relayed = vec![0x15; header_len];
                (relayed[0], relayed[1]) = (0x16, flags);
                relayed.extend(&inner);
                samples.push(relayed);
            }
        }
        let whole = samples.clone();
        samples.extend(whole.iter().flat_map(|datagram| {
            [1, 2, 3, 4, 33, 34, 35, 36, 66, 67, 68].map(|len| datagram[..len.min(datagram.len())].to_vec())
        }));
        samples.extend((0..=255).map(|first| vec![first, 1, 1, 1, 1]));
        samples
    }

    /// Which socket it comes to.
    fn arrival(group: &Group, batch: &mut Batch) -> usize {
        let start = Instant::now();
        loop {
            for (number, socket) in group.sockets().iter().enumerate() {
                if socket.receive(batch).unwrap() > 0 {
                    return number;
                }
            }
            assert!(start.elapsed() < Duration::from_secs(5), "it never came");
        }
    }

    #[test]
    fn the_kernel_steers_as_the_number_says_over_ipv4_and_ipv6() {
        in_namespace(|| {
            let mut batch = Batch::new();
            for (bind, homes) in [
                ("[::]:0", &["127.0.0.1", "::1"][..]),
                ("127.0.0.1:0", &["127.0.0.1"][..]),
                ("[::1]:0", &["::1"][..]),
            ] {
                for threads in [1, 3, 8] {
                    let count = 2 * threads;
                    let group = Group::bind(&options(bind), threads).unwrap();
                    assert_eq!((group.steering(), group.sockets().len()), (Steering::ByLane, count));
                    assert_eq!(group.threads(), threads);
                    let port = group.first().local_addr().port();
                    for home in homes {
                        let client = UdpSocket::bind((*home, 0)).unwrap();
                        for datagram in samples() {
                            client.send_to(&datagram, (*home, port)).unwrap();
                            let expected = usize::from(number_of(&datagram)) % count;
                            assert_eq!(arrival(&group, &mut batch), expected, "{datagram:02x?} of {count}");
                        }
                    }
                }
            }
        });
    }

    #[test]
    fn a_group_takes_no_port_that_another_group_has_and_frees_its_own() {
        in_namespace(|| {
            let first = Group::bind(&options("127.0.0.1:0"), 2).unwrap();
            let again = options(&first.first().local_addr().to_string());
            for taken in [Group::alone(&again), Group::bind(&again, 1), Group::bind(&again, 2)] {
                assert!(matches!(taken, Err(BindError::InUse(_))));
            }
            drop(first);
            let alone = soon("the port is free", || match Group::alone(&again) {
                Err(BindError::InUse(_)) => None,
                other => Some(other.unwrap()),
            });
            assert_eq!((alone.steering(), alone.threads()), (Steering::Alone, 1));
            assert!(alone.bulk_of_thread(0).is_none() && std::ptr::eq(alone.of_thread(3), alone.first()));
        });
    }
}
