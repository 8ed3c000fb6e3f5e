//! Under a flood of handshakes or junk, the kernel keeps a random share of it and drops the rest.
//!
//! What a socket takes in has been copied, queued, and fetched before anybody can tell that it is not wanted. A classic BPF
//! program at the socket (socket(7), `SO_ATTACH_FILTER`; linux/filter.h) decides before all that, by the first byte, the
//! source, and chance, so that those of a flood that do not pass cost no more than at a machine without a listener
//! (docs/adr/0022-floods.md). Data and relayed datagrams from where members send pass untouched.

use std::io;
use std::net::IpAddr;
use std::os::fd::{AsFd, AsRawFd};
use std::sync::atomic::Ordering;

use proto::datagram::Kind;

use super::{Socket, count};

/// Number of [`Class`]es.
pub const CLASSES: usize = 5;
/// Most familiar addresses that a program compares; with more, strays pass always.
pub const FAMILIAR_MAX: usize = 64;

/// Datagrams that anybody can send, and that somebody has to look at. Each class is thinned by itself, so that who floods
/// one of them leaves the others as they are.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Class {
    /// Inits that do not claim to show a cookie: their mac2 is zero.
    Bare,
    /// Inits that claim to.
    Claiming,
    /// Answers to inits of ours.
    Answer,
    /// Join exchanges.
    Join,
    /// Data and relayed datagrams from an address that is not familiar, and what is nothing at all.
    Stray,
}

impl Class {
    /// All of them; each is its own index.
    pub const ALL: [Class; CLASSES] =
        [Class::Bare, Class::Claiming, Class::Answer, Class::Join, Class::Stray];

    /// The class of a datagram, from a familiar address or not; `None` for those that pass always.
    pub fn of(datagram: &[u8], familiar: bool) -> Option<Class> {
        let stray = (!familiar).then_some(Class::Stray);
        let Some(kind) = Kind::of(datagram) else { return stray };
        match kind {
            Kind::Init => match datagram.last_chunk::<MAC2_LEN>() {
                Some([0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0]) | None => Some(Class::Bare),
                Some(_) => Some(Class::Claiming),
            },
            Kind::Response | Kind::Cookie | Kind::StaleKey => Some(Class::Answer),
            Kind::Join => Some(Class::Join),
            Kind::Data | Kind::Relay => stray,
        }
    }

    /// What people call it.
    pub fn name(self) -> &'static str {
        match self {
            Class::Bare => "handshakes",
            Class::Claiming => "handshakes with a cookie",
            Class::Answer => "answers to handshakes",
            Class::Join => "join requests",
            Class::Stray => "junk",
        }
    }
}

/// How much of each class passes: of 2^32 datagrams, this many and one.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Shares(pub [u32; CLASSES]);

impl Shares {
    /// Everything passes.
    pub const ALL: Shares = Shares([u32::MAX; CLASSES]);

    /// The same, but all of this class passes.
    #[must_use]
    pub fn without(mut self, class: Class) -> Shares {
        self.0[class as usize] = u32::MAX;
        self
    }
}

/// The end of an init.
const MAC2_LEN: usize = 16;

impl Socket {
    /// Has the kernel let pass so much of what arrives from now on; strays are what comes from other addresses than the
    /// familiar ones. What it dropped before is counted first.
    ///
    /// # Errors
    /// When the kernel takes no such program; all datagrams that passed before do so still.
    pub fn thin(&self, shares: Shares, familiar: &[IpAddr]) -> io::Result<()> {
        self.count_thinned();
        let thinning = shares != Shares::ALL;
        if !thinning && !self.thinning.load(Ordering::Relaxed) {
            return Ok(());
        }
        let mut program = program(shares, familiar);
        let filter = libc::sock_fprog { len: program.len() as u16, filter: program.as_mut_ptr() };
        let option = if thinning { libc::SO_ATTACH_FILTER } else { libc::SO_DETACH_FILTER };
        // SAFETY: the pointer and length describe `filter`, which describes `program`; both live over the call, in which the
        // kernel copies them. Detaching reads an `int`, which is shorter, and does not look at it.
        let result = unsafe {
            libc::setsockopt(
                self.as_fd().as_raw_fd(),
                libc::SOL_SOCKET,
                option,
                (&raw const filter).cast(),
                size_of::<libc::sock_fprog>() as u32,
            )
        };
        if result != 0 {
            return Err(io::Error::last_os_error());
        }
        self.thinning.store(thinning, Ordering::Relaxed);
        Ok(())
    }

    /// Counts what was dropped since this was done last: all of it as thinned out, if anything was to be. The kernel has but
    /// one counter.
    pub fn count_thinned(&self) {
        let drops = self.all_kernel_drops();
        let new = drops.wrapping_sub(self.drops_counted.swap(drops, Ordering::Relaxed));
        if self.thinning.load(Ordering::Relaxed) {
            count(&self.stats.thinned, new as usize);
        }
    }
}

/// Places in a program that are jumped to.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Label {
    Bare,
    Claiming,
    Answer,
    Join,
    Init,
    FromV4,
    FromV6,
    Compare,
    Keep,
    Drop,
}

/// A classic BPF program in the making. All jumps are forward, over fewer than 256 instructions.
struct Program {
    operations: Vec<libc::sock_filter>,
    /// Which jumps (by number; if the test holds, or if not) lead where.
    jumps: Vec<(usize, bool, Label)>,
    places: Vec<(Label, usize)>,
}

impl Program {
    fn place(&mut self, label: Label) {
        self.places.push((label, self.operations.len()));
    }

    fn op(&mut self, code: u32, k: u32) {
        self.operations.push(libc::sock_filter { code: code as u16, jt: 0, jf: 0, k });
    }

    fn load(&mut self, size: u32, mode: u32, k: u32) {
        self.op(libc::BPF_LD | size | mode, k);
    }

    /// Loads what is so far behind the start of the IP header.
    fn load_ip(&mut self, size: u32, offset: i32) {
        self.load(size, libc::BPF_ABS, (libc::SKF_NET_OFF + offset).cast_unsigned());
    }

    /// Goes on behind this unless the test tells to jump.
    fn jump(&mut self, test: u32, k: u32, holds: Option<Label>, fails: Option<Label>) {
        let number = self.operations.len();
        self.jumps.extend(holds.map(|label| (number, true, label)));
        self.jumps.extend(fails.map(|label| (number, false, label)));
        self.op(libc::BPF_JMP | test | libc::BPF_K, k);
    }

    /// Keeps the datagram by chance.
    fn decide(&mut self, share: u32) {
        self.load(libc::BPF_W, libc::BPF_ABS, (libc::SKF_AD_OFF + libc::SKF_AD_RANDOM).cast_unsigned());
        self.jump(libc::BPF_JGT, share, Some(Label::Drop), Some(Label::Keep));
    }

    fn finish(mut self) -> Vec<libc::sock_filter> {
        for (from, holds, label) in self.jumps {
            let place = self.places.iter().find(|(placed, _)| *placed == label);
            let by = place.map_or(0, |(_, to)| to - from - 1);
            let by = u8::try_from(by).expect("programs are short");
            let operation = &mut self.operations[from];
            if holds { operation.jt = by } else { operation.jf = by }
        }
        self.operations
    }
}

/// [`Class::of`], and then chance. The program sees the UDP header first; a load from before or behind the datagram makes the
/// result 0, which drops it.
fn program(
    Shares([bare, claiming, answer, join, stray]): Shares,
    familiar: &[IpAddr],
) -> Vec<libc::sock_filter> {
    const UDP_HEADER_LEN: u32 = 8;
    let mut program = Program { operations: Vec::new(), jumps: Vec::new(), places: Vec::new() };
    program.load(libc::BPF_B, libc::BPF_ABS, UDP_HEADER_LEN);
    for (kind, label) in [
        (Kind::Init, Label::Init),
        (Kind::Response, Label::Answer),
        (Kind::Cookie, Label::Answer),
        (Kind::StaleKey, Label::Answer),
        (Kind::Join, Label::Join),
    ] {
        program.jump(libc::BPF_JEQ, u32::from(kind.first_byte()), Some(label), None);
    }
    if stray == u32::MAX || familiar.len() > FAMILIAR_MAX {
        program.op(libc::BPF_RET | libc::BPF_K, u32::MAX);
    } else {
        // The version, then the source; of one of IPv6 the last four bytes do.
        program.load_ip(libc::BPF_B, 0);
        program.jump(libc::BPF_JGE, 0x60, Some(Label::FromV6), Some(Label::FromV4));
        program.place(Label::FromV6);
        program.load_ip(libc::BPF_W, 20);
        // Always: the jump that needs no test has another form.
        program.jump(libc::BPF_JGE, 0, Some(Label::Compare), None);
        program.place(Label::FromV4);
        program.load_ip(libc::BPF_W, 12);
        program.place(Label::Compare);
        for address in familiar {
            program.jump(libc::BPF_JEQ, last_word(*address), Some(Label::Keep), None);
        }
        program.decide(stray);
    }
    program.place(Label::Init);
    // Behind the end by less than nothing: the register has the length.
    program.op(libc::BPF_LDX | libc::BPF_W | libc::BPF_LEN, 0);
    for bytes in [16_i32, 12, 8, 4] {
        program.load(libc::BPF_W, libc::BPF_IND, (-bytes).cast_unsigned());
        program.jump(libc::BPF_JEQ, 0, None, Some(Label::Claiming));
    }
    for (label, share) in
        [(Label::Bare, bare), (Label::Claiming, claiming), (Label::Join, join), (Label::Answer, answer)]
    {
        program.place(label);
        program.decide(share);
    }
    program.place(Label::Keep);
    program.op(libc::BPF_RET | libc::BPF_K, u32::MAX);
    program.place(Label::Drop);
    program.op(libc::BPF_RET | libc::BPF_K, 0);
    program.finish()
}

fn last_word(address: IpAddr) -> u32 {
    match address {
        IpAddr::V4(v4) => v4.to_bits(),
        IpAddr::V6(v6) => v6.to_bits() as u32,
    }
}

#[cfg(test)]
mod tests {
    use std::net::{SocketAddr, UdpSocket};

    use super::*;
    use crate::io::testing::in_namespace;
    use crate::io::udp::{Batch, Bind, Options};

    /// One of each kind, the inits with and without mac2; each ends in a number of its own, but the bare inits.
    fn samples() -> Vec<Vec<u8>> {
        let of = |first: u8, end: u8| {
            let mut datagram = vec![0; 120];
            (datagram[0], datagram[119]) = (first, end);
            datagram
        };
        let mut samples: Vec<Vec<u8>> = (0x10..=0x18).map(|first| of(first, first)).collect();
        samples.push(of(0x11, 0));
        // Each word of mac2 counts, and what is before it does not.
        samples.extend([104, 108, 112, 116].map(|at| {
            let mut init = of(0x11, 0);
            init[at] = 1;
            init
        }));
        let mut bare = of(0x11, 0);
        bare[103] = 1;
        samples.extend([bare, of(0x25, 1), of(0, 1)]);
        samples
    }

    fn arrived(socket: &Socket, batch: &mut Batch) -> Vec<Vec<u8>> {
        let mut arrived = Vec::new();
        while socket.receive(batch).unwrap() > 0 {
            let (buffer, messages) = batch.messages();
            for message in messages {
                arrived.extend(message.datagrams().map(|range| buffer[range].to_vec()));
            }
        }
        arrived
    }

    #[test]
    fn the_kernel_drops_the_class_that_it_is_told_to_and_no_other() {
        in_namespace(|| {
            for home in ["127.0.0.1", "::1"] {
                let options = Options::new(Bind::from(SocketAddr::new(home.parse().unwrap(), 0)));
                let socket = Socket::bind(&options).unwrap();
                let client = UdpSocket::bind((home, 0)).unwrap();
                let mut batch = Batch::new();
                for (class, familiar) in
                    Class::ALL.into_iter().flat_map(|class| [(class, false), (class, true)])
                {
                    let mut shares = Shares::ALL;
                    shares.0[class as usize] = 0;
                    let addresses = [IpAddr::from([192, 0, 2, 1]), client.local_addr().unwrap().ip()];
                    socket.thin(shares, &addresses[..1 + usize::from(familiar)]).unwrap();
                    for datagram in samples() {
                        client.send_to(&datagram, socket.local_addr()).unwrap();
                    }
                    let mut expected = samples();
                    expected.retain(|datagram| Class::of(datagram, familiar) != Some(class));
                    let all_pass = class == Class::Stray && familiar;
                    assert_eq!(expected.len() == samples().len(), all_pass, "{class:?}");
                    assert_eq!(arrived(&socket, &mut batch), expected, "{class:?}");
                }
                socket.thin(Shares::ALL, &[]).unwrap();
                let dropped: usize = [false, true]
                    .map(|familiar| {
                        samples().iter().filter(|datagram| Class::of(datagram, familiar).is_some()).count()
                    })
                    .iter()
                    .sum();
                assert_eq!(socket.stats().thinned.load(Ordering::Relaxed), dropped as u64);
                assert_eq!(socket.kernel_drops(), 0, "none for want of room");
                samples().iter().for_each(|datagram| {
                    client.send_to(datagram, socket.local_addr()).unwrap();
                });
                assert_eq!(arrived(&socket, &mut batch), samples());
            }
        });
    }

    #[test]
    fn of_a_class_about_the_share_passes() {
        in_namespace(|| {
            let options = Options::new(Bind::from("127.0.0.1:0".parse::<SocketAddr>().unwrap()));
            let socket = Socket::bind(&options).unwrap();
            let client = UdpSocket::bind("127.0.0.1:0").unwrap();
            let mut batch = Batch::new();
            let mut shares = Shares::ALL;
            shares.0[Class::Bare as usize] = u32::MAX / 4;
            socket.thin(shares, &[]).unwrap();
            let mut init = [0; 100];
            init[0] = Kind::Init.first_byte();
            let passed: usize = (0..40)
                .map(|_| {
                    (0..100).for_each(|_| {
                        client.send_to(&init, socket.local_addr()).unwrap();
                    });
                    arrived(&socket, &mut batch).len()
                })
                .sum();
            // 4,000 at a quarter: 1,000, and 27 of standard deviation.
            assert!((800..1200).contains(&passed), "{passed}");
        });
    }

    #[test]
    fn the_longest_program_is_short_enough_for_its_jumps() {
        let many: Vec<IpAddr> = (0..FAMILIAR_MAX as u32).map(|n| IpAddr::V4(n.into())).collect();
        let length = program(Shares([0; CLASSES]), &many).len();
        assert!((FAMILIAR_MAX..256).contains(&length), "{length}");
    }

    #[test]
    fn a_socket_for_both_families_tells_sources_of_both_apart_and_too_many_are_not_compared() {
        in_namespace(|| {
            let options = Options::new(Bind::from("[::]:0".parse::<SocketAddr>().unwrap()));
            let socket = Socket::bind(&options).unwrap();
            let port = socket.local_addr().port();
            let mut batch = Batch::new();
            let mut shares = Shares::ALL;
            shares.0[Class::Stray as usize] = 0;
            let data = [Kind::Data.first_byte(); 60];
            let sources = ["127.0.0.1", "127.0.0.2", "::1"].map(|source| source.parse::<IpAddr>().unwrap());
            let mut passed = |familiar: &[IpAddr]| {
                socket.thin(shares, familiar).unwrap();
                sources.map(|source| {
                    let client = UdpSocket::bind((source, 0)).unwrap();
                    let home = if source.is_ipv4() { "127.0.0.1" } else { "::1" };
                    client.send_to(&data, (home, port)).unwrap();
                    !arrived(&socket, &mut batch).is_empty()
                })
            };
            assert_eq!(passed(&[]), [false; 3]);
            for (own, source) in sources.into_iter().enumerate() {
                let expected: [bool; 3] = std::array::from_fn(|number| number == own);
                assert_eq!(passed(&[source]), expected, "{source}");
            }
            let many: Vec<IpAddr> =
                (0..=FAMILIAR_MAX as u32).map(|n| IpAddr::V4((0x0a00_0000 + n).into())).collect();
            assert_eq!(passed(&many[..FAMILIAR_MAX]), [false; 3]);
            assert_eq!(passed(&many), [true; 3]);
        });
    }
}
