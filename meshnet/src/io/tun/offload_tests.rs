use std::io::{Read as _, Write as _};
use std::net::{TcpListener, TcpStream, UdpSocket};
use std::os::fd::AsFd;
use std::time::Duration;

use super::super::{READ_MAX_BYTES, Reason, Wish};
use super::*;
use crate::dataplane::split::{Fill, Split};
use crate::io::testing::{in_namespace, ip, may_use_tun};
use crate::io::wake::{Interest, Wake};

fn in_tun_namespace(body: impl FnOnce() + Send + 'static) {
    if may_use_tun() {
        in_namespace(body);
    }
}

/// The next packet that the kernel gives; `None` after two seconds.
fn next(device: &Offload, buffer: &mut [u8]) -> Option<Packet> {
    let wake = Wake::new().unwrap();
    for _ in 0..2 {
        if let Some(packet) = device.read(buffer).unwrap() {
            return Some(packet);
        }
        wake.wait(&[(device.as_fd(), Interest::Readable)], Some(Duration::from_secs(2))).unwrap();
    }
    None
}

/// Source and destination exchanged, so that the kernel which sent the packet takes it as one from outside: the sums do
/// not change.
fn mirror(packet: &mut [u8]) {
    for at in 12..16 {
        packet.swap(at, at + 4);
    }
}

#[test]
fn headers_survive_both_ways() {
    let checksum = Checksum::Partial { start: 20, offset: 16 };
    let packet = [0x45; 60];
    for meta in [
        Meta::PLAIN,
        Meta { checksum, ..Meta::PLAIN },
        Meta { segmentation: Segmentation::Tcp4 { size: 1302 }, checksum, header_len: 52 },
        Meta { segmentation: Segmentation::Tcp6 { size: 1282 }, checksum, header_len: 72 },
        Meta { segmentation: Segmentation::Udp { size: 1200 }, checksum, header_len: 28 },
    ] {
        assert_eq!(parse_header(&emit_header(&meta, &packet)), meta);
    }
}

#[test]
fn a_super_packet_with_cwr_says_so() {
    let mut packet = [0; 60];
    packet[20 + TCP_FLAGS_AT] = TCP_CWR;
    let meta = Meta {
        segmentation: Segmentation::Tcp4 { size: 1302 },
        checksum: Checksum::Partial { start: 20, offset: 16 },
        header_len: 52,
    };
    assert_eq!(emit_header(&meta, &packet)[1], GSO_TCPV4 | GSO_ECN);
    assert_eq!(emit_header(&meta, &[0; 60])[1], GSO_TCPV4);
}

#[test]
fn spare_queues_are_had_where_the_interface_takes_them() {
    in_tun_namespace(|| {
        let options = |name: &str, queues, spare| super::super::Options {
            name: name.into(),
            offload: super::super::Wish::Auto,
            queues,
            spare,
        };
        assert_eq!(super::super::open(&options("spare%d", 2, 2)).unwrap().queues.len(), 4);
        assert_eq!(super::super::open(&options("many%d", 9, 9)).unwrap().queues.len(), 9);
        ip("tuntap add dev single mode tun");
        let opened = super::super::open(&options("single", 1, 1)).unwrap();
        assert_eq!((opened.queues.len(), opened.reason), (1, Reason::Granted));
    });
}

#[test]
fn the_kernel_grants_offload_and_several_queues() {
    in_tun_namespace(|| {
        let queues = Offload::open("mesh%d", 3).unwrap();
        assert!(queues.iter().all(|queue| queue.name() == "mesh0" && queue.index() == queues[0].index()));
        let offloads = queues[0].offloads();
        assert!(offloads.checksum && offloads.tcp, "{offloads}");
        let options = |offload| super::super::Options { name: "mesh%d".into(), offload, queues: 1, spare: 0 };
        let opened = super::super::open(&options(Wish::Auto)).unwrap();
        assert_eq!((opened.reason, opened.queues[0].offloads()), (Reason::Granted, offloads));
        let opened = super::super::open(&options(Wish::Off)).unwrap();
        assert_eq!((opened.reason, opened.queues[0].offloads()), (Reason::TurnedOff, Offloads::NONE));
    });
}

/// A TCP connection of the kernel with itself through the device: what is read is written back with both addresses
/// exchanged, once as super-packets and once cut into segments with complete checksums.
#[test]
fn tcp_super_packets_are_taken_back_whole_and_cut() {
    for cut in [false, true] {
        in_tun_namespace(move || {
            let device = open_up();
            let listener = TcpListener::bind("10.77.0.1:7000").unwrap();
            let sender = std::thread::spawn(|| {
                let mut stream = TcpStream::connect("10.77.0.2:7000").unwrap();
                stream.write_all(&pattern(1 << 20)).unwrap();
            });
            let receiver = std::thread::spawn(move || {
                let mut received = Vec::new();
                listener.accept().unwrap().0.read_to_end(&mut received).unwrap();
                received
            });
            let (mut buffer, mut out) = (vec![0; READ_MAX_BYTES], vec![0; READ_MAX_BYTES]);
            let mut largest = 0;
            while !receiver.is_finished() {
                let Some(packet) = next(&device, &mut buffer) else { break };
                let bytes = &mut buffer[..packet.len];
                if bytes[0] >> 4 != 4 {
                    continue;
                }
                mirror(bytes);
                largest = largest.max(packet.len);
                let split = cut.then(|| Split::new(bytes, &packet.meta)).flatten();
                let Some(split) = split else {
                    device.write(&packet.meta, &[IoSlice::new(bytes)]).unwrap();
                    continue;
                };
                for index in 0..split.count() {
                    let is_last = index + 1 == split.count();
                    let len = if is_last { split.last_len() } else { split.segment_len() };
                    split.write(bytes, index, Fill::Complete, &mut out[..len]);
                    device.write(&Meta::PLAIN, &[IoSlice::new(&out[..len])]).unwrap();
                }
            }
            sender.join().unwrap();
            assert!(receiver.join().unwrap() == pattern(1 << 20));
            assert!(largest > 10_000, "super-packets were among them: {largest}");
        });
    }
}

#[test]
fn udp_super_packets_come_in_datagrams_to_the_receiver() {
    in_tun_namespace(|| {
        let device = open_up();
        if !device.offloads().udp {
            eprintln!("SKIPPED: this kernel has no UDP segmentation for TUN devices");
            return;
        }
        let receiver = UdpSocket::bind("10.77.0.1:7000").unwrap();
        receiver.set_read_timeout(Some(Duration::from_secs(2))).unwrap();
        let sender = UdpSocket::bind("10.77.0.1:7001").unwrap();
        nix::sys::socket::setsockopt(&sender, nix::sys::socket::sockopt::UdpGsoSegment, &1000).unwrap();
        let payload = pattern(10_500);
        sender.send_to(&payload, "10.77.0.2:7000").unwrap();
        let mut buffer = vec![0; READ_MAX_BYTES];
        let packet = loop {
            let packet = next(&device, &mut buffer).expect("the super-packet");
            if buffer[0] >> 4 == 4 {
                break packet;
            }
        };
        assert_eq!(packet.meta.segmentation, Segmentation::Udp { size: 1000 });
        mirror(&mut buffer[..packet.len]);
        device.write(&packet.meta, &[IoSlice::new(&buffer[..packet.len])]).unwrap();
        let mut received = Vec::new();
        while received.len() < payload.len() {
            let mut datagram = [0; 2000];
            let len = receiver.recv(&mut datagram).unwrap();
            assert!(len == 1000 || len == 500, "{len}");
            received.extend_from_slice(&datagram[..len]);
        }
        assert!(received == payload);
    });
}

fn open_up() -> Offload {
    let device = Offload::open("mesh0", 1).unwrap().remove(0);
    ip("link set mesh0 mtu 1354 up");
    ip("addr add 10.77.0.1/24 dev mesh0");
    device
}

fn pattern(len: usize) -> Vec<u8> {
    (0..len).map(|at| (at * 31 + at / 251) as u8).collect()
}
