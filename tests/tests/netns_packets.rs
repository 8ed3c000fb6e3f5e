//! Every kind of packet that hosts send, through the mesh: each arrives as it was sent, on a direct path and through a relay.

use meshnet::dataplane::checksum;
use meshnet_tests::net::{Lan, Office, SETTLE, Split, done, limit, overlay, restart_with, transfer};
use netlab::mesh::{INTERFACE, Member};
use netlab::{Fault, Machine};
use nix::sys::socket::{
    AddressFamily, MsgFlags, SockFlag, SockProtocol, SockType, SockaddrStorage, sendto, setsockopt, socket,
    sockopt,
};
use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr, UdpSocket};
use std::os::fd::AsRawFd;
use std::time::Duration;

/// What every path over an underlay of 1500 bytes carries.
const MTU: usize = 1354;
/// Datagrams under way at once: fewer than any queue holds.
const AT_ONCE: usize = 64;

/// Who sends or receives: a member, or a host behind one.
struct End<'a> {
    machine: &'a Machine,
    /// Of both families.
    addresses: [IpAddr; 2],
    /// Where its packets come and go.
    interface: &'a str,
    /// Bytes of the link's header there.
    link_header_len: usize,
    /// Routers on the way, which count down how far a packet may still go, and write into some options.
    routers: u8,
}

impl<'a> End<'a> {
    fn member(member: &'a Member) -> End<'a> {
        let addresses = [overlay(member), done(member.address(true))];
        End { machine: member.machine(), addresses, interface: INTERFACE, link_header_len: 0, routers: 0 }
    }

    fn host(machine: &'a Machine, addresses: [IpAddr; 2], interface: &'a str) -> End<'a> {
        End { machine, addresses, interface, link_header_len: 14, routers: 1 }
    }
}

fn headers_len(address: IpAddr) -> usize {
    if address.is_ipv4() { 28 } else { 48 }
}

/// Bytes that differ from packet to packet, and from place to place.
fn noise(len: usize, seed: usize) -> Vec<u8> {
    (0..len).map(|at| (at * 31 + at / 251 + seed * 7 + seed / 256) as u8).collect()
}

/// A socket on each side, between these addresses.
fn sockets(from: (&Machine, IpAddr), to: (&Machine, IpAddr)) -> (UdpSocket, UdpSocket, SocketAddr) {
    let bind =
        |(machine, address): (&Machine, IpAddr)| done(machine.udp(&SocketAddr::new(address, 0).to_string()));
    let (sender, receiver) = (bind(from), bind(to));
    done(receiver.set_read_timeout(Some(Duration::from_secs(5))));
    let target = done(receiver.local_addr());
    (sender, receiver, target)
}

/// Takes so many datagrams and wants them to be these, in this order.
fn expect(receiver: &UdpSocket, expected: impl Iterator<Item = Vec<u8>>, what: &str) {
    let mut buffer = vec![0; 1 << 16];
    for (number, wanted) in expected.enumerate() {
        let len = receiver.recv(&mut buffer).unwrap_or_else(|error| {
            panic!("{what}: datagram {number} of {} bytes: {error}", wanted.len());
        });
        assert!(buffer[..len] == wanted, "{what}: datagram {number}: {len} bytes for {}", wanted.len());
    }
}

fn datagrams_of_all_lengths(a: &End, b: &End) {
    for (source, target) in a.addresses.into_iter().zip(b.addresses) {
        let (sender, receiver, to) = sockets((a.machine, source), (b.machine, target));
        let lens: Vec<usize> = (0..=MTU - headers_len(target)).collect();
        for lens in lens.chunks(AT_ONCE) {
            for len in lens {
                done(sender.send_to(&noise(*len, *len), to));
            }
            expect(&receiver, lens.iter().map(|len| noise(*len, *len)), &format!("each length to {to}"));
        }
    }
}

fn datagrams_in_fragments(a: &End, b: &End) {
    for (source, target) in a.addresses.into_iter().zip(b.addresses) {
        let (sender, receiver, to) = sockets((a.machine, source), (b.machine, target));
        for len in [1327, 1400, 2000, 5001, 16_000, 40_003, 65_000] {
            done(sender.send_to(&noise(len, len), to));
            expect(&receiver, std::iter::once(noise(len, len)), &format!("in fragments to {to}"));
        }
    }
}

/// As QUIC sends: one write, many datagrams.
fn segmented_datagrams(a: &End, b: &End) {
    for (source, target) in a.addresses.into_iter().zip(b.addresses) {
        let (sender, receiver, to) = sockets((a.machine, source), (b.machine, target));
        for size in [1, 2, 7, 64, 333, 999, 1199, 1200, 1280 - 48, MTU - headers_len(target)] {
            done(setsockopt(&sender, sockopt::UdpGsoSegment, &(size as i32)));
            for (count, rest) in [(1, 0), (2, 0), (10, 0), (45, size / 2), (40, 1)] {
                let written = noise(size * count + rest.min(size - 1), size);
                if written.len() > 65_000 {
                    continue;
                }
                done(sender.send_to(&written, to));
                let expected = written.chunks(size).map(<[u8]>::to_vec);
                expect(&receiver, expected, &format!("{count} segments of {size} and {rest}"));
            }
        }
    }
}

fn tcp_in_odd_segments(a: &End, b: &End) {
    for size in [216, 537, 999, 1201] {
        for end in [a, b] {
            let rules = format!(
                "add table inet odd\ndelete table inet odd\ntable inet odd {{ chain out {{\n\
                 type filter hook output priority 0;\n\
                 oifname \"{}\" tcp flags syn tcp option maxseg size set {size}\n}}\n}}",
                end.interface
            );
            done(end.machine.nft(&rules));
        }
        for target in b.addresses {
            transfer(a.machine, b.machine, target, 1_000_003);
        }
    }
    for end in [a, b] {
        done(end.machine.nft("delete table inet odd"));
    }
}

/// With and without timestamps, selective acknowledgements (of which loss makes use), and large windows.
fn tcp_with_all_options(a: &End, b: &End) {
    for (timestamps, sack, scaling) in [(1, 1, 1), (0, 1, 1), (1, 0, 1), (0, 0, 0)] {
        for (name, value) in
            [("tcp_timestamps", timestamps), ("tcp_sack", sack), ("tcp_window_scaling", scaling)]
        {
            for end in [a, b] {
                done(end.machine.sysctl(&format!("net.ipv4.{name}"), &value.to_string()));
            }
        }
        for target in b.addresses {
            transfer(a.machine, b.machine, target, 1_000_003);
        }
    }
}

/// Packets with headers that are seldom seen, and of protocols that nobody knows: to be sent as they are.
fn rare_packets(source: IpAddr, target: IpAddr) -> Vec<Vec<u8>> {
    const UNKNOWN: u8 = 253;
    match (source, target) {
        (IpAddr::V4(source), IpAddr::V4(target)) => {
            let router_alert = [0x94, 4, 0, 0];
            let record_route = [7, 7, 4, 0, 0, 0, 0, 0];
            let timestamp = [68, 12, 5, 0, 0, 0, 0, 0, 0, 0, 0, 0];
            let mut packets = Vec::new();
            for options in [&[][..], &router_alert, &record_route, &timestamp, &[1; 40]] {
                for len in [0, 1, 2, 3, 8, 1000, MTU - 20 - options.len()] {
                    let header_len = 20 + options.len();
                    let total = (header_len + len) as u16;
                    let mut packet = vec![0x40 | (header_len / 4) as u8, 0];
                    packet.extend(total.to_be_bytes());
                    packet.extend([0x77, packets.len() as u8, 0x40, 0, 61, UNKNOWN, 0, 0]);
                    packet.extend(source.octets());
                    packet.extend(target.octets());
                    packet.extend(options);
                    let sum = !checksum::sum(&packet);
                    packet[10..12].copy_from_slice(&sum.to_be_bytes());
                    packet.extend(noise(len, packets.len()));
                    packets.push(packet);
                }
            }
            packets
        }
        (IpAddr::V6(source), IpAddr::V6(target)) => {
            // The type of each header is in the one before it.
            let padding = |next: u8| [next, 0, 1, 4, 0, 0, 0, 0];
            let long_padding = |next: u8| {
                let mut header = vec![next, 2, 1, 20];
                header.resize(24, 0);
                header
            };
            let atomic = |next: u8| [next, 0, 0, 0, 0, 0, 0, 9];
            let first = |next: u8| [next, 0, 0, 1, 0, 0, 0, 9];
            let finished_route = |next: u8| [next, 2, 4, 0, 0, 0, 0, 0].into_iter().chain([0; 16]).collect();
            let chains: [(u8, Vec<u8>); 9] = [
                (UNKNOWN, Vec::new()),
                (0, padding(UNKNOWN).to_vec()),
                (60, padding(UNKNOWN).to_vec()),
                (60, long_padding(UNKNOWN)),
                (0, [padding(60).to_vec(), long_padding(UNKNOWN)].concat()),
                (43, finished_route(UNKNOWN)),
                (44, atomic(UNKNOWN).to_vec()),
                (0, [padding(60).to_vec(), padding(44).to_vec(), first(UNKNOWN).to_vec()].concat()),
                (59, Vec::new()),
            ];
            let mut packets = Vec::new();
            for (next, chain) in chains {
                for len in [0, 1, 7, 8, 1000, (MTU - 40 - chain.len()) / 8 * 8] {
                    let mut packet = vec![0x60, 0, 0, 0];
                    packet.extend(((chain.len() + len) as u16).to_be_bytes());
                    packet.extend([next, 61]);
                    packet.extend(source.octets());
                    packet.extend(target.octets());
                    packet.extend(&chain);
                    packet.extend(noise(len, packets.len()));
                    packets.push(packet);
                }
            }
            packets
        }
        _ => panic!("two families"),
    }
}

fn extension_headers_options_and_unknown_protocols(a: &End, b: &End) {
    for (source, target) in a.addresses.into_iter().zip(b.addresses) {
        let family = if target.is_ipv4() { AddressFamily::Inet } else { AddressFamily::Inet6 };
        let made = a.machine.enter(|| socket(family, SockType::Raw, SockFlag::empty(), SockProtocol::Raw));
        let raw = done(done(made));
        let to = SockaddrStorage::from(SocketAddr::new(target, 0));
        let mut packets = rare_packets(source, target);
        if b.routers > 0 {
            packets.retain(|packet| !is_written_to_by_routers(packet));
        }
        let mut expected: BTreeMap<Vec<u8>, usize> = BTreeMap::new();
        packets.iter().for_each(|packet| *expected.entry(routed(packet, b.routers)).or_default() += 1);
        let capture = done(b.machine.capture(b.interface));
        for packets in packets.chunks(AT_ONCE / 4) {
            for packet in packets {
                done(sendto(raw.as_raw_fd(), packet, &to, MsgFlags::empty()));
            }
            // What follows on the same flow shows that all before it has arrived.
            wait_for_echo(a.machine, target);
        }
        let recording = done(capture.stop());
        let mut seen: BTreeMap<&[u8], usize> = BTreeMap::new();
        for packet in recording.packets.iter().filter_map(|packet| packet.bytes.get(b.link_header_len..)) {
            *seen.entry(packet).or_default() += 1;
        }
        for (packet, count) in &expected {
            let arrived = seen.get(&**packet).copied().unwrap_or(0);
            assert_eq!(arrived, *count, "{} bytes: {:02x?}", packet.len(), &packet[..packet.len().min(96)]);
        }
    }
}

fn wait_for_echo(from: &Machine, to: IpAddr) {
    done(netlab::wait::until("an echo", SETTLE, || match from.ping(to, Duration::from_millis(100)) {
        Ok(Some(_)) => Ok(()),
        other => Err(format!("{other:?}")),
    }));
}

/// Options that have routers note where or when a packet passed.
fn is_written_to_by_routers(packet: &[u8]) -> bool {
    packet[0] >> 4 == 4 && packet.len() > 20 && packet[0] & 15 > 5 && [7, 68].contains(&packet[20])
}

/// The packet as it is after so many routers.
fn routed(packet: &[u8], routers: u8) -> Vec<u8> {
    let mut packet = packet.to_vec();
    if packet[0] >> 4 == 4 {
        packet[8] -= routers;
        packet[10..12].fill(0);
        let sum = !checksum::sum(&packet[..usize::from(packet[0] & 15) * 4]);
        packet[10..12].copy_from_slice(&sum.to_be_bytes());
    } else {
        packet[7] -= routers;
    }
    packet
}

fn on_a_direct_path(check: fn(&End, &End)) {
    let lan = Lan::new(2);
    check(&End::member(&lan.nodes[0]), &End::member(&lan.nodes[1]));
}

#[test]
fn datagrams_of_every_length_from_0_bytes_to_the_mtu_arrive() {
    on_a_direct_path(datagrams_of_all_lengths);
}

#[test]
fn fragments_arrive_and_are_put_together() {
    on_a_direct_path(datagrams_in_fragments);
}

#[test]
fn datagrams_of_senders_that_segment_arrive_whatever_the_segment_size() {
    on_a_direct_path(segmented_datagrams);
}

#[test]
fn tcp_arrives_in_segments_of_odd_sizes() {
    on_a_direct_path(tcp_in_odd_segments);
}

#[test]
fn tcp_arrives_with_and_without_each_of_its_options_under_loss() {
    let lan = Lan::new(2);
    done(lan.ports[0].apply(&Fault { loss_out_permille: 10, ..Fault::default() }));
    tcp_with_all_options(&End::member(&lan.nodes[0]), &End::member(&lan.nodes[1]));
}

#[test]
fn extension_headers_ip_options_and_unknown_protocols_arrive_to_the_byte() {
    on_a_direct_path(extension_headers_options_and_unknown_protocols);
}

#[test]
fn every_kind_of_packet_arrives_through_a_relay() {
    let split = Split::new(1);
    let (a, b) = (&End::member(&split.a), &End::member(&split.b));
    datagrams_in_fragments(a, b);
    segmented_datagrams(a, b);
    extension_headers_options_and_unknown_protocols(a, b);
    datagrams_of_all_lengths(a, b);
    if limit("MESHNET_RUNS", 1_usize) > 1 {
        tcp_in_odd_segments(a, b);
    }
    tcp_with_all_options(a, b);
}

#[test]
fn tcp_slows_down_for_congestion_that_the_underlay_marks_and_no_byte_is_lost() {
    let mut lan = Lan::new(2);
    for node in &mut lan.nodes {
        restart_with(node, "tos = \"copy\"");
    }
    let (a, b) = (&lan.nodes[0], &lan.nodes[1]);
    done(a.wait_for_ping(overlay(b), SETTLE));
    for member in [a, b] {
        done(member.machine().sysctl("net.ipv4.tcp_ecn", "1"));
    }
    let rule = format!(
        "table netdev congest {{ chain ingress {{ type filter hook ingress device \"{}\" priority 0; \
         ip protocol udp ip ecn ect0 numgen random mod 100 < 5 ip ecn set ce; }};}}",
        lan.ports[1].interface()
    );
    done(b.machine().nft(&rule));
    transfer(a.machine(), b.machine(), overlay(b), 20_000_000);
    let text = done(done(a.machine().enter(|| std::fs::read_to_string("/proc/thread-self/net/netstat"))));
    let lines: Vec<&str> = text.lines().filter(|line| line.starts_with("TcpExt:")).collect();
    let mut counters = lines[0].split_whitespace().zip(lines[1].split_whitespace());
    let marked =
        counters.find(|(name, _)| *name == "TCPDeliveredCE").and_then(|(_, count)| count.parse().ok());
    assert!(marked.is_some_and(|marked: u64| marked > 10), "{marked:?} segments were told to be marked");
    let drops = done(b.status()).drops;
    assert_eq!(drops.get("rx_not_ecn_capable").copied().unwrap_or(0), 0, "{drops:?}");
}

/// The gateway gives super-packets to its kernel with their checksums left open, and on a link that takes nothing over, the
/// kernel has to compute each, and cut: the host drops what is not right.
#[test]
fn every_kind_of_packet_arrives_at_a_host_whose_link_completes_no_checksum() {
    let office = Office::new(1);
    office.take_nothing_over();
    let Office { client, host, host_port, .. } = &office;
    for address in Office::HOST {
        wait_for_echo(client.machine(), address);
    }
    let (a, b) = (&End::member(client), &End::host(host, Office::HOST, host_port.interface()));
    datagrams_of_all_lengths(a, b);
    datagrams_in_fragments(a, b);
    segmented_datagrams(a, b);
    extension_headers_options_and_unknown_protocols(a, b);
    tcp_with_all_options(a, b);
    // And back: what a host without offload sends is carried with the checksums that it has. (Longer datagrams it would first
    // have to be told of by ICMP.)
    let back = &End { routers: 1, ..End::member(client) };
    datagrams_of_all_lengths(b, back);
    extension_headers_options_and_unknown_protocols(b, back);
    tcp_in_odd_segments(b, back);
}
