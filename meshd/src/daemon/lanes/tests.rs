//! Whole nodes' data planes against each other: real sockets on the loopback, a device made of a socket pair.

mod bulk;
mod several;

use std::collections::BTreeMap;
use std::io::IoSlice;
use std::net::{IpAddr, Ipv4Addr, SocketAddr, UdpSocket};
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::net::UnixDatagram;
use std::time::{Duration, Instant};

use meshnet::crypto::{Opener, Sealer, Suite};
use meshnet::dataplane::checksum::{pseudo_header, sum};
use meshnet::dataplane::snapshot::MemberSlot;
use meshnet::dataplane::{
    Carrier, DROP_REASONS, Drop as Reason, LocalPrefixes, Notice, PeerTx, Receiver, RelayHop, RelayTable, Via,
};
use meshnet::io::tun::{Checksum, DeviceError, Meta, Offloads, Packet, Segmentation};
use meshnet::io::udp::{Bind, FaultKind, Options};
use meshnet::membership::SourceTableBuilder;
use meshnet::node::Inbound;
use meshnet::path::SocketId;
use meshnet::route::FibBuilder;
use proto::id::{MemberId, ReceiverIndex, RelayLabel};

use super::*;

const SOON: Duration = Duration::from_secs(20);

/// A device whose kernel side is the other end of a socket pair. With offload, segment size and place of the transport
/// header come before every packet; zeroes for a plain one.
#[derive(Debug)]
struct Fake {
    end: UnixDatagram,
    gone: AtomicBool,
    offloads: Offloads,
}

const FAKE_HEADER: usize = 4;

impl Fake {
    fn header(meta: &Meta) -> [u8; FAKE_HEADER] {
        let (Segmentation::Tcp4 { size } | Segmentation::Tcp6 { size } | Segmentation::Udp { size }) =
            meta.segmentation
        else {
            return [0; FAKE_HEADER];
        };
        let Checksum::Partial { start, .. } = meta.checksum else { panic!("a super-packet is partial") };
        let ([a, b], [c, d]) = (size.to_be_bytes(), start.to_be_bytes());
        [a, b, c, d]
    }

    fn meta(header: [u8; FAKE_HEADER]) -> Meta {
        let [a, b, c, d] = header;
        match (u16::from_be_bytes([a, b]), u16::from_be_bytes([c, d])) {
            (0, _) => Meta::PLAIN,
            (size, start) => Meta {
                segmentation: Segmentation::Tcp4 { size },
                checksum: Checksum::Partial { start, offset: 16 },
                header_len: start + 20,
            },
        }
    }
}

impl AsFd for Fake {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.end.as_fd()
    }
}

impl Device for Fake {
    fn name(&self) -> &str {
        "fake0"
    }

    fn index(&self) -> u32 {
        1
    }

    fn offloads(&self) -> Offloads {
        self.offloads
    }

    fn read(&self, buffer: &mut [u8]) -> Result<Option<Packet>, DeviceError> {
        if self.gone.load(Ordering::Relaxed) {
            return Err(DeviceError::Gone);
        }
        let Ok(len) = self.end.recv(buffer) else { return Ok(None) };
        if !self.offloads.checksum {
            return Ok(Some(Packet { len, meta: Meta::PLAIN }));
        }
        let header = *buffer.first_chunk().unwrap();
        buffer.copy_within(FAKE_HEADER..len, 0);
        Ok(Some(Packet { len: len - FAKE_HEADER, meta: Fake::meta(header) }))
    }

    fn write(&self, meta: &Meta, pieces: &[IoSlice<'_>]) -> Result<(), DeviceError> {
        let mut packet: Vec<u8> = pieces.iter().flat_map(|piece| piece.to_vec()).collect();
        if self.offloads.checksum {
            packet.splice(..0, Fake::header(meta));
        }
        self.end.send(&packet).map(|_| ()).map_err(|_| DeviceError::Full)
    }
}

/// A node with nothing but its data plane.
struct Node {
    number: u32,
    lanes: Option<Lanes>,
    lanes_wanted: usize,
    device: Arc<Fake>,
    /// The kernel's side of the device.
    kernel: UnixDatagram,
    /// The other queues of the device, and the kernel's side of them.
    more: Vec<(Arc<Fake>, UnixDatagram)>,
    socket: Arc<Group>,
    snapshot: Arc<ArcSwap<Snapshot>>,
    to_control: mpsc::Sender<Report>,
    reports: mpsc::Receiver<Report>,
}

impl Node {
    fn start(number: u32) -> Node {
        let mut node = Node::prepare(number, Bind::Address("127.0.0.1:0".parse().unwrap()));
        node.run();
        node
    }

    /// Everything but the threads.
    fn prepare(number: u32, bind: Bind) -> Node {
        Node::prepare_with(number, bind, Offloads::NONE)
    }

    fn prepare_with(number: u32, bind: Bind, offloads: Offloads) -> Node {
        Node::prepare_lanes(number, bind, offloads, 1, 1)
    }

    /// With one socket for everything if `threads` is 0.
    fn prepare_lanes(number: u32, bind: Bind, offloads: Offloads, queues: usize, threads: usize) -> Node {
        let queue = |_| {
            let (end, kernel) = UnixDatagram::pair().unwrap();
            end.set_nonblocking(true).unwrap();
            kernel.set_read_timeout(Some(SOON)).unwrap();
            (Arc::new(Fake { end, gone: AtomicBool::new(false), offloads }), kernel)
        };
        let mut more: Vec<_> = (0..queues).map(queue).collect();
        let (device, kernel) = more.remove(0);
        let options = Options::new(bind);
        let group = if threads == 0 { Group::alone(&options) } else { Group::bind(&options, threads) };
        let socket = Arc::new(group.unwrap());
        let snapshot = Arc::new(ArcSwap::from_pointee(Snapshot::default()));
        let (to_control, reports) = mpsc::channel(CHANNEL_LEN);
        Node {
            number,
            lanes: None,
            lanes_wanted: queues,
            device,
            kernel,
            more,
            socket,
            snapshot,
            to_control,
            reports,
        }
    }

    fn run(&mut self) {
        let mut queues: Vec<Arc<dyn Device>> = vec![self.device.clone()];
        queues.extend(self.more.iter().map(|(queue, _)| queue.clone() as Arc<dyn Device>));
        let sockets = vec![self.socket.clone()];
        let queues = Queues::of_lanes(&queues, self.lanes_wanted);
        let lanes = Lanes::start(&queues, sockets, self.snapshot.clone(), self.to_control.clone());
        self.lanes = Some(lanes.unwrap());
    }

    fn lanes(&self) -> &Lanes {
        self.lanes.as_ref().unwrap()
    }

    fn endpoint(&self) -> SocketAddr {
        SocketAddr::new(Ipv4Addr::LOCALHOST.into(), self.socket.first().local_addr().port())
    }

    /// Gives a packet to the device, as the kernel does.
    fn emit(&self, packet: &[u8]) {
        let start = Instant::now();
        while self.kernel.send(packet).is_err() {
            assert!(start.elapsed() < SOON, "the device takes nothing");
            std::thread::yield_now();
        }
    }

    /// The next packet that came out of the device.
    fn received(&self) -> Vec<u8> {
        let mut buffer = vec![0; 70_000];
        let len = self.kernel.recv(&mut buffer).expect("a packet comes out of the device");
        buffer.truncate(len);
        buffer
    }

    /// The next report that `wanted` accepts; others are skipped.
    fn report<T>(&mut self, mut wanted: impl FnMut(Report) -> Option<T>) -> T {
        let start = Instant::now();
        while start.elapsed() < SOON {
            match self.reports.try_recv() {
                Ok(report) => {
                    if let Some(found) = wanted(report) {
                        return found;
                    }
                }
                Err(_) => std::thread::sleep(Duration::from_millis(1)),
            }
        }
        panic!("the report never came");
    }

    fn wait_for(&self, what: impl Fn(&Counters) -> bool) {
        let start = Instant::now();
        while !what(&self.lanes().counters()) {
            assert!(start.elapsed() < SOON, "{:?}", self.lanes().counters());
            std::thread::sleep(Duration::from_millis(1));
        }
    }
}

/// Keys of all pairs of members.
#[derive(Default)]
struct World {
    /// All devices have offload.
    offload: bool,
    sealers: BTreeMap<(u32, u32), Arc<Sealer>>,
}

fn member(number: u32) -> MemberId {
    MemberId([number as u8 + 1; 16])
}

fn inner_address(number: u32) -> IpAddr {
    Ipv4Addr::new(10, 99, 0, number as u8 + 1).into()
}

fn key(from: u32, to: u32) -> [u8; 32] {
    [(from * 16 + to) as u8; 32]
}

fn index(from: u32, to: u32) -> ReceiverIndex {
    ReceiverIndex(0x1000_0000 + from * 16 + to)
}

impl World {
    fn sealer(&mut self, from: u32, to: u32) -> Arc<Sealer> {
        let make = || Arc::new(Sealer::new(Suite::ChaCha20Poly1305, &key(from, to), index(from, to), true));
        self.sealers.entry((from, to)).or_insert_with(make).clone()
    }

    fn direct(to: &Node) -> Carrier {
        Carrier::Direct { socket: SocketId(0), to: to.endpoint() }
    }

    fn relayed(&mut self, from: &Node, relay: &Node, to: &Node, label: RelayLabel) -> Carrier {
        Carrier::Relayed {
            socket: SocketId(0),
            to: relay.endpoint(),
            hop: self.sealer(from.number, relay.number),
            label,
            destination: member(to.number),
            source: member(from.number),
        }
    }

    /// What `relay` needs to forward to `to`, number 1 of three, under the label 2.
    fn relaying(&mut self, relay: &Node, to: &Node) -> RelayTable {
        let hop = RelayHop {
            neighbour: MemberSlot(to.number),
            socket: SocketId(0),
            to: to.endpoint(),
            sealer: self.sealer(relay.number, to.number),
            label: RelayLabel::SELF,
        };
        RelayTable {
            labels: vec![None, None, Some(MemberSlot(to.number))],
            members: vec![(member(to.number), MemberSlot(to.number))],
            hops: vec![None, Some(Arc::new(hop)), None],
            limit: None,
        }
    }

    /// Publishes to `node` sessions with `members`, of which some have a carrier.
    fn publish(
        &mut self,
        node: &Node,
        members: u32,
        carriers: Vec<(u32, Carrier, Option<Carrier>)>,
        relay: Option<RelayTable>,
    ) {
        let mut snapshot = Snapshot { generation: 1, own: member(node.number), relay, ..Snapshot::default() };
        let (mut fib, mut sources) = (FibBuilder::new(), SourceTableBuilder::new());
        for number in (0..members).filter(|&number| number != node.number) {
            fib.add_address(inner_address(number), MemberSlot(number));
            sources.add_address(inner_address(number), MemberSlot(number));
            let receiver = Receiver {
                slot: MemberSlot(number),
                member: member(number),
                is_relay: true,
                packets: true,
                opener: Arc::new(Opener::new(Suite::ChaCha20Poly1305, &key(number, node.number), true)),
                stats: Arc::default(),
            };
            snapshot.receivers.insert(index(number, node.number), receiver);
        }
        snapshot.peers = vec![None; members as usize];
        for (number, primary, duplicate) in carriers {
            let sealer = self.sealer(node.number, number);
            let peer = PeerTx {
                member: member(number),
                sealer,
                primary,
                duplicate,
                spread: None,
                mtu: u16::MAX,
                offload: self.offload,
                silent: false,
                stats: Arc::default(),
            };
            snapshot.peers[number as usize] = Some(Arc::new(peer));
        }
        (snapshot.fib, snapshot.sources) = (Arc::new(fib.build()), Arc::new(sources.build()));
        snapshot.local = LocalPrefixes::new(vec![inner_address(node.number)], Vec::new());
        node.snapshot.store(Arc::new(snapshot));
    }
}

fn control(socket: SocketId, to: SocketAddr, bytes: &[u8]) -> node::Transmit {
    node::Transmit { socket, to, bytes: bytes.to_vec(), whole: false }
}

/// An IPv4 packet of `len` bytes with a number in it.
fn packet(from: u32, to: u32, number: u32, len: usize) -> Vec<u8> {
    let mut packet = vec![number as u8; len];
    packet[..12].copy_from_slice(&[0x45, 0, 0, 0, 0, 0, 0, 0, 64, 17, 0, 0]);
    packet[2..4].copy_from_slice(&(len as u16).to_be_bytes());
    for (at, address) in [(12, inner_address(from)), (16, inner_address(to))] {
        let IpAddr::V4(address) = address else { unreachable!("tests use IPv4 inside") };
        packet[at..at + 4].copy_from_slice(&address.octets());
    }
    packet[20..24].copy_from_slice(&number.to_be_bytes());
    packet
}

/// Two nodes that reach each other directly.
fn pair() -> (World, Node, Node) {
    let (mut world, a, b) = (World::default(), Node::start(0), Node::start(1));
    world.publish(&a, 2, vec![(1, World::direct(&b), None)], None);
    world.publish(&b, 2, vec![(0, World::direct(&a), None)], None);
    (world, a, b)
}

#[test]
fn packets_pass_both_ways_unchanged_and_in_order() {
    let (_world, a, b) = pair();
    for (from, to) in [(&a, &b), (&b, &a)] {
        for number in 0..500 {
            let packet = packet(from.number, to.number, number, 24 + (number as usize * 37) % 1300);
            from.emit(&packet);
            if number % 50 == 0 {
                assert_eq!(to.received(), packet);
            } else {
                // Keep the socket pair from filling.
                assert_eq!(to.received()[20..24], number.to_be_bytes());
            }
        }
    }
    assert_eq!(a.lanes().losses().values().sum::<u64>(), 0, "{:?}", a.lanes().losses());
    assert_eq!(b.lanes().losses().values().sum::<u64>(), 0, "{:?}", b.lanes().losses());
}

#[test]
fn a_waiting_burst_leaves_in_few_system_calls() {
    let (mut world, b) = (World::default(), Node::start(1));
    let mut a = Node::prepare(0, Bind::Any { port: 0 });
    for number in 0..60 {
        a.emit(&packet(0, 1, number, 900));
    }
    world.publish(&a, 2, vec![(1, World::direct(&b), None)], None);
    world.publish(&b, 2, vec![(0, World::direct(&a), None)], None);
    a.run();
    for number in 0..60 {
        assert_eq!(b.received(), packet(0, 1, number, 900));
    }
    let calls = a.socket.first().stats().send_calls.load(Ordering::Relaxed);
    assert!(calls <= 3, "60 datagrams in {calls} calls");
}

/// A TCP super-packet, as [`Fake`] has it.
fn super_packet(from: u32, to: u32, size: u16, len: usize) -> Vec<u8> {
    let mut packet = packet(from, to, 0x0101_0101, 40 + len);
    packet[9] = 6;
    (packet[32], packet[33]) = (0x50, 0x10);
    let header = !sum(&packet[..20]);
    packet[10..12].copy_from_slice(&header.to_be_bytes());
    let pseudo = pseudo_header(&packet[12..20], 6, (20 + len) as u16);
    packet[36..38].copy_from_slice(&pseudo.to_be_bytes());
    for (at, byte) in packet[40..].iter_mut().enumerate() {
        *byte = (at * 11 + at / 256) as u8;
    }
    let meta = Meta {
        segmentation: Segmentation::Tcp4 { size },
        checksum: Checksum::Partial { start: 20, offset: 16 },
        header_len: 40,
    };
    packet.splice(..0, Fake::header(&meta));
    packet
}

#[test]
fn a_super_packet_takes_one_system_call_at_each_step_direct_and_relayed() {
    let start = |number| {
        let mut node = Node::prepare_with(number, Bind::Any { port: 0 }, Offloads::ALL);
        node.run();
        node
    };
    let (mut world, a, b, r) = (World { offload: true, ..World::default() }, start(0), start(1), start(2));
    let table = world.relaying(&r, &b);
    world.publish(&r, 3, Vec::new(), Some(table));
    world.publish(&b, 3, Vec::new(), None);
    let carriers = [World::direct(&b), world.relayed(&a, &r, &b, RelayLabel(2))];
    let calls = |node: &Node| node.socket.first().stats().send_calls.load(Ordering::Relaxed);
    for (round, carrier) in carriers.into_iter().enumerate() {
        let round = round as u64;
        world.publish(&a, 3, vec![(1, carrier, None)], None);
        let packet = super_packet(0, 1, 1302, 46 * 1302 - 5);
        a.emit(&packet);
        assert!(b.received() == packet, "round {round}");
        // They are counted after the call, when the other end may have it all.
        a.wait_for(|_| calls(&a) > round);
        r.wait_for(|_| calls(&r) >= round);
        assert_eq!((calls(&a), calls(&r)), (round + 1, round));
        b.wait_for(|counters| counters.device_writes.load(Ordering::Relaxed) == round + 1);
    }
    assert_eq!(a.lanes().counters().tx_super_packets.load(Ordering::Relaxed), 2);
    b.wait_for(|counters| counters.delivered.load(Ordering::Relaxed) == 92);
}

#[test]
fn a_super_packet_without_session_goes_up_in_plain_packets() {
    let mut world = World::default();
    let mut a = Node::prepare_with(0, Bind::Any { port: 0 }, Offloads::ALL);
    world.publish(&a, 2, Vec::new(), None);
    a.run();
    a.emit(&super_packet(0, 1, 1000, 2500));
    for len in [1040, 1040, 540] {
        let bytes = a.report(|report| match report {
            Report::Inbound(Inbound::Packet(bytes)) => Some(bytes),
            _ => None,
        });
        assert_eq!(bytes.len(), len);
        let pseudo = pseudo_header(&bytes[12..20], 6, len as u16 - 20);
        assert_eq!(meshnet::dataplane::checksum::add(sum(&bytes[20..]), pseudo), 0xffff);
    }
}

#[test]
fn packets_wait_for_no_one_until_the_control_plane_made_a_session() {
    let (mut world, mut a, b) = (World::default(), Node::start(0), Node::start(1));
    world.publish(&a, 2, Vec::new(), None);
    a.emit(&packet(0, 1, 7, 100));
    let first = a.report(|report| match report {
        Report::Inbound(Inbound::Packet(bytes)) => Some(bytes),
        _ => None,
    });
    assert_eq!(first, packet(0, 1, 7, 100));
    world.publish(&a, 2, vec![(1, World::direct(&b), None)], None);
    world.publish(&b, 2, Vec::new(), None);
    a.emit(&packet(0, 1, 8, 100));
    assert_eq!(b.received(), packet(0, 1, 8, 100));
    let active = a.report(|report| match report {
        Report::Inbound(Inbound::Active(slot)) => Some(slot),
        _ => None,
    });
    assert_eq!(active, MemberSlot(1));
}

#[test]
fn a_relay_forwards_and_its_device_sees_nothing() {
    let (mut world, a, b, r) = (World::default(), Node::start(0), Node::start(1), Node::start(2));
    let table = world.relaying(&r, &b);
    world.publish(&r, 3, Vec::new(), Some(table));
    world.publish(&b, 3, Vec::new(), None);
    for label in [RelayLabel::LONG, RelayLabel(2)] {
        let carrier = world.relayed(&a, &r, &b, label);
        world.publish(&a, 3, vec![(1, carrier, None)], None);
        for number in 0..100 {
            a.emit(&packet(0, 1, number, 1000));
            assert_eq!(b.received(), packet(0, 1, number, 1000), "{label:?}");
        }
    }
    r.wait_for(|counters| counters.forwarded.load(Ordering::Relaxed) == 200);
    assert_eq!(r.lanes().counters().delivered.load(Ordering::Relaxed), 0);
}

#[test]
fn a_batch_to_relay_leaves_as_a_batch() {
    let (mut world, b) = (World::default(), Node::start(1));
    let mut a = Node::prepare(0, Bind::Any { port: 0 });
    let mut r = Node::prepare(2, Bind::Any { port: 0 });
    let table = world.relaying(&r, &b);
    world.publish(&r, 3, Vec::new(), Some(table));
    world.publish(&b, 3, Vec::new(), None);
    let carrier = world.relayed(&a, &r, &b, RelayLabel(2));
    world.publish(&a, 3, vec![(1, carrier, None)], None);
    for number in 0..60 {
        a.emit(&packet(0, 1, number, 900));
    }
    a.run();
    r.run();
    for number in 0..60 {
        assert_eq!(b.received(), packet(0, 1, number, 900));
    }
    let calls = r.socket.first().stats().send_calls.load(Ordering::Relaxed);
    assert!(calls <= 4, "60 datagrams in {calls} calls");
}

#[test]
fn a_doubted_path_gets_a_copy_and_the_packet_arrives_once() {
    let (mut world, a, b) = (World::default(), Node::start(0), Node::start(1));
    let second = UdpSocket::bind("127.0.0.1:0").unwrap();
    second.set_read_timeout(Some(SOON)).unwrap();
    let copy = Carrier::Direct { socket: SocketId(0), to: second.local_addr().unwrap() };
    world.publish(&a, 2, vec![(1, World::direct(&b), Some(copy))], None);
    world.publish(&b, 2, Vec::new(), None);
    a.emit(&packet(0, 1, 1, 500));
    assert_eq!(b.received(), packet(0, 1, 1, 500));
    let mut datagram = vec![0; 2000];
    let (len, _) = second.recv_from(&mut datagram).unwrap();
    // The copy comes by its path, too: it was seen already.
    second.send_to(&datagram[..len], b.endpoint()).unwrap();
    b.wait_for(|counters| counters.rx_drops(Reason::Replayed) == 1);
    assert_eq!(b.lanes().counters().delivered.load(Ordering::Relaxed), 1);
}

#[test]
fn handshakes_control_frames_and_notices_go_up() {
    let (mut world, _a, mut b) = {
        let (world, a, b) = pair();
        (world, a, b)
    };
    let stranger = UdpSocket::bind("127.0.0.1:0").unwrap();
    let from = stranger.local_addr().unwrap();
    let mut init = vec![0; 176];
    init[0] = 0x11;
    stranger.send_to(&init, b.endpoint()).unwrap();
    let found = b.report(|report| match report {
        Report::Inbound(Inbound::Datagram { via, bytes }) => Some((via, bytes)),
        _ => None,
    });
    assert_eq!(found, (Via::Direct { socket: SocketId(0), from }, init));
    let carrier = World::direct(&b);
    let sealer = world.sealer(0, 1);
    let (_, to, bytes) = meshnet::dataplane::tx::seal_control(&sealer, &carrier, b"frames").unwrap();
    stranger.send_to(&bytes, to).unwrap();
    let (mut frames, mut heard) = (None, None);
    b.report(|report| {
        match report {
            Report::Inbound(Inbound::Control { receiver, via, frames: bytes }) => {
                frames = Some((receiver, via, bytes));
            }
            Report::Inbound(Inbound::Notice(Notice::Heard { receiver, traffic, .. })) => {
                heard = Some((receiver, traffic));
            }
            _ => {}
        }
        (frames.is_some() && heard.is_some()).then_some(())
    });
    let via = Via::Direct { socket: SocketId(0), from };
    assert_eq!(frames, Some((index(0, 1), via, b"frames".to_vec())));
    assert_eq!(heard, Some((index(0, 1), false)));
}

#[test]
fn what_is_dropped_is_counted_by_reason() {
    let (_world, a, b) = pair();
    let mut foreign = packet(0, 1, 1, 100);
    foreign[15] = 77;
    for bad in [&packet(0, 5, 1, 100)[..], &foreign, &[0x45; 10]] {
        a.emit(bad);
    }
    let stranger = UdpSocket::bind("127.0.0.1:0").unwrap();
    stranger.send_to(&[0x15; 64], b.endpoint()).unwrap();
    stranger.send_to(&[0xff; 64], b.endpoint()).unwrap();
    stranger.send_to(&[], b.endpoint()).unwrap();
    a.wait_for(|counters| counters.tx_packets.load(Ordering::Relaxed) == 3);
    b.wait_for(|counters| counters.rx_datagrams.load(Ordering::Relaxed) == 2);
    let losses = (a.lanes().losses(), b.lanes().losses());
    for reason in ["tx_no_route", "tx_foreign_source", "tx_malformed"] {
        assert_eq!(losses.0[reason], 1, "{reason}: {:?}", losses.0);
    }
    for reason in ["rx_unknown_receiver", "rx_unknown_datagram"] {
        assert_eq!(losses.1[reason], 1, "{reason}: {:?}", losses.1);
    }
    assert!(losses.0.len() > DROP_REASONS);
}

#[test]
fn a_dead_peer_is_reported_by_the_network_and_harms_nobody_else() {
    let (mut world, mut a, b) = pair();
    // A port that was free a moment ago may be another test's by now, or still that of a process about to begin.
    let dead = "127.0.0.1:1".parse().unwrap();
    let gone = Carrier::Direct { socket: SocketId(0), to: dead };
    world.publish(&a, 3, vec![(1, World::direct(&b), None), (2, gone, None)], None);
    for number in 0..50 {
        a.emit(&packet(0, 2, number, 100));
        a.emit(&packet(0, 1, number, 100));
        assert_eq!(b.received(), packet(0, 1, number, 100));
    }
    let (remote, kind) = a.report(|report| match report {
        Report::Fault { fault, .. } => Some((fault.remote, fault.kind)),
        _ => None,
    });
    assert_eq!((remote, kind), (dead, FaultKind::Refused));
}

#[test]
fn answers_leave_from_the_address_that_was_asked() {
    let mut world = World::default();
    let mut b = Node::prepare(1, Bind::Any { port: 0 });
    b.run();
    world.publish(&b, 2, Vec::new(), None);
    // A peer whose NAT lets nothing in but answers from 127.0.0.2.
    let peer = UdpSocket::bind("127.0.0.1:0").unwrap();
    peer.set_read_timeout(Some(SOON)).unwrap();
    let asked: SocketAddr = (Ipv4Addr::new(127, 0, 0, 2), b.endpoint().port()).into();
    peer.connect(asked).unwrap();
    let carrier = Carrier::Direct { socket: SocketId(0), to: asked };
    let sealer = world.sealer(0, 1);
    let (_, _, keepalive) = meshnet::dataplane::tx::seal_control(&sealer, &carrier, b"").unwrap();
    peer.send(&keepalive).unwrap();
    b.report(|report| matches!(report, Report::Inbound(Inbound::Notice(_))).then_some(()));
    let back = Carrier::Direct { socket: SocketId(0), to: peer.local_addr().unwrap() };
    world.publish(&b, 2, vec![(0, back, None)], None);
    let mut buffer = [0; 2000];
    b.emit(&packet(1, 0, 1, 100));
    assert!(peer.recv(&mut buffer).is_ok(), "packets come from there");
    assert_eq!(b.lanes().send(&control(SocketId(0), peer.local_addr().unwrap(), b"control")), Sent::All);
    let len = peer.recv(&mut buffer).expect("datagrams of the control plane, too");
    assert_eq!(&buffer[..len], b"control");
}

#[test]
fn a_deleted_device_is_told_and_the_rest_goes_on() {
    let (_world, mut a, b) = pair();
    a.device.gone.store(true, Ordering::Relaxed);
    a.emit(&packet(0, 1, 1, 100));
    a.report(|report| matches!(report, Report::DeviceGone).then_some(()));
    b.emit(&packet(1, 0, 2, 100));
    assert_eq!(a.received(), packet(1, 0, 2, 100));
    assert_eq!(a.lanes.take().unwrap().stop(), 0);
}

#[test]
fn new_sockets_take_over_while_sessions_go_on() {
    let (mut world, a, b) = pair();
    a.emit(&packet(0, 1, 1, 100));
    assert_eq!(b.received(), packet(0, 1, 1, 100));
    let second = Arc::new(Group::bind(&Options::new(Bind::Any { port: 0 }), 1).unwrap());
    b.lanes().set_sockets(vec![b.socket.clone(), second.clone()]);
    let to = SocketAddr::new(Ipv4Addr::LOCALHOST.into(), second.first().local_addr().port());
    world.publish(&a, 2, vec![(1, Carrier::Direct { socket: SocketId(0), to }, None)], None);
    a.emit(&packet(0, 1, 2, 100));
    assert_eq!(b.received(), packet(0, 1, 2, 100));
    // A socket that there is not (any more) loses datagrams, nothing else.
    world.publish(&a, 2, vec![(1, Carrier::Direct { socket: SocketId(9), to }, None)], None);
    a.emit(&packet(0, 1, 3, 100));
    a.wait_for(|counters| counters.no_socket.load(Ordering::Relaxed) == 1);
}

#[test]
fn stopping_carries_what_is_pending_and_is_quick() {
    let (mut world, b) = (World::default(), Node::start(1));
    let mut a = Node::prepare(0, Bind::Any { port: 0 });
    world.publish(&a, 2, vec![(1, World::direct(&b), None)], None);
    world.publish(&b, 2, Vec::new(), None);
    for number in 0..30 {
        a.emit(&packet(0, 1, number, 100));
    }
    a.run();
    let start = Instant::now();
    assert_eq!(a.lanes.take().unwrap().stop(), 0);
    assert!(start.elapsed() < Duration::from_secs(5));
    for number in 0..30 {
        assert_eq!(b.received(), packet(0, 1, number, 100));
    }
}
