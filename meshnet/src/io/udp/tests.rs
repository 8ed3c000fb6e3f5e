//! Sockets against each other over the loopback of a new network namespace.

use std::net::{IpAddr, SocketAddr};
use std::os::fd::AsFd;
use std::sync::atomic::Ordering;
use std::time::Duration;

use super::*;
use crate::io::testing::{add_interface, in_namespace, ip};
use crate::io::wake::{Interest, Wake};

const SOON: Duration = Duration::from_secs(5);

fn open(bind: &str) -> Socket {
    let address: SocketAddr = bind.parse().unwrap();
    Socket::bind(&Options::new(address.into())).unwrap()
}

fn any() -> Socket {
    Socket::bind(&Options::new(Bind::Any { port: 0 })).unwrap()
}

fn at(ip: &str, socket: &Socket) -> SocketAddr {
    SocketAddr::new(ip.parse().unwrap(), socket.local_addr().port())
}

#[derive(Debug)]
struct Received {
    from: SocketAddr,
    local: Option<IpAddr>,
    tos: u8,
    bytes: Vec<u8>,
}

/// Waits until `count` datagrams have come, and gives them with the number of messages they came in.
fn receive(socket: &Socket, count: usize) -> (Vec<Received>, usize) {
    let (wake, mut batch) = (Wake::new().unwrap(), Batch::new());
    let (mut found, mut messages) = (Vec::new(), 0);
    while found.len() < count {
        messages += socket.receive(&mut batch).unwrap();
        let (buffer, arrived) = batch.messages();
        for message in arrived {
            let Message { from, local, tos, .. } = message;
            found.extend(message.datagrams().map(|range| Received {
                from,
                local,
                tos,
                bytes: buffer[range].to_vec(),
            }));
        }
        if found.len() < count {
            let ready = wake.wait(&[(socket.as_fd(), Interest::Readable)], Some(SOON)).unwrap();
            assert!(!ready.timed_out(), "only {} of {count} datagrams came", found.len());
        }
    }
    (found, messages)
}

/// `count` datagrams of `size` bytes, the last one shorter, each with other content.
fn run_of(count: usize, size: usize) -> Vec<u8> {
    (0..count * size - size / 2).map(|index| (index / size) as u8 ^ index as u8).collect()
}

fn assert_same(sent: &[u8], size: usize, received: &[Received]) {
    let expected: Vec<_> = sent.chunks(size).collect();
    let got: Vec<_> = received.iter().map(|received| &received.bytes[..]).collect();
    assert_eq!(got.len(), expected.len());
    assert!(got == expected, "the datagrams differ");
}

fn read(counter: &AtomicU64) -> u64 {
    counter.load(Ordering::Relaxed)
}

#[test]
fn one_socket_serves_both_families_with_plain_addresses() {
    in_namespace(|| {
        let (server, v4, v6) = (any(), open("127.0.0.1:0"), open("[::1]:0"));
        assert_eq!(server.local_addr().ip().to_string(), "::");
        for (client, home) in [(&v4, "127.0.0.1"), (&v6, "::1")] {
            let to = at(home, &server);
            assert_eq!(client.send(&Transmit::single(to, None, b"hello")), Sent::All);
            let (found, _) = receive(&server, 1);
            assert_eq!((found[0].from, &found[0].bytes[..]), (client.local_addr(), &b"hello"[..]));
            assert_eq!(found[0].local, Some(home.parse().unwrap()));
            let back = Transmit::single(found[0].from, found[0].local, b"answer");
            assert_eq!(server.send(&back), Sent::All);
            let (answer, _) = receive(client, 1);
            assert_eq!((answer[0].from, &answer[0].bytes[..]), (to, &b"answer"[..]));
        }
    });
}

#[test]
fn without_ipv6_a_socket_for_all_addresses_serves_ipv4() {
    in_namespace(|| {
        std::fs::write("/proc/sys/net/ipv6/conf/all/disable_ipv6", "1").unwrap();
        let (server, client) = (any(), open("127.0.0.1:0"));
        let to = at("127.0.0.1", &server);
        assert_eq!(client.send(&Transmit::single(to, None, b"x")), Sent::All);
        let (found, _) = receive(&server, 1);
        assert_eq!(server.send(&Transmit::single(found[0].from, found[0].local, b"y")), Sent::All);
        receive(&client, 1);
        let gone = Transmit::single("[::1]:9".parse().unwrap(), None, b"z");
        assert_eq!(server.send(&gone), Sent::Unreachable);
        assert_eq!(client.send(&gone), Sent::Unreachable);
    });
}

#[test]
fn a_port_in_use_and_a_foreign_address_are_told() {
    in_namespace(|| {
        let first = any();
        let port = first.local_addr().port();
        let bind = |bind| Socket::bind(&Options::new(bind)).unwrap_err();
        assert!(matches!(bind(Bind::Any { port }), BindError::InUse(address) if address.port() == port));
        let v4 = SocketAddr::new("0.0.0.0".parse().unwrap(), port);
        assert!(matches!(bind(Bind::Address(v4)), BindError::InUse(_)));
        let foreign = "192.0.2.1:0".parse().unwrap();
        assert!(matches!(bind(Bind::Address(foreign)), BindError::NotOurs(_)));
    });
}

#[test]
fn an_answer_leaves_from_the_address_that_was_asked() {
    in_namespace(|| {
        ip("addr add 10.1.1.1/32 dev lo");
        ip("addr add 10.1.1.2/32 dev lo");
        let (server, client) = (any(), open("127.0.0.1:0"));
        client.send(&Transmit::single(at("10.1.1.2", &server), None, b"x"));
        let (found, _) = receive(&server, 1);
        assert_eq!(found[0].local, Some("10.1.1.2".parse().unwrap()));
        server.send(&Transmit::single(found[0].from, found[0].local, b"y"));
        let (answer, _) = receive(&client, 1);
        assert_eq!(answer[0].from, at("10.1.1.2", &server));
        // The address goes away: the answer still arrives, from another one.
        ip("addr del 10.1.1.2/32 dev lo");
        assert_eq!(server.send(&Transmit::single(found[0].from, found[0].local, b"y")), Sent::All);
        receive(&client, 1);
        assert_eq!(read(&server.stats().source_gone), 1);
    });
}

#[test]
fn a_run_is_one_system_call_on_both_sides() {
    in_namespace(|| {
        for home in ["127.0.0.1", "::1"] {
            let (server, client) = (any(), any());
            assert_eq!(server.offloads(), UdpOffloads { segmentation: true, receive: true });
            let bytes = run_of(45, 1452);
            let to = at(home, &server);
            assert_eq!(client.send(&Transmit::run(to, None, 1452, &bytes)), Sent::All);
            let (found, messages) = receive(&server, 45);
            assert_same(&bytes, 1452, &found);
            assert_eq!(messages, 1, "over {home}");
            assert_eq!(read(&client.stats().send_calls), 1);
            assert_eq!(read(&client.stats().sent), 45);
            assert_eq!(read(&server.stats().received), 45);
            assert_eq!(read(&server.stats().received_bytes), bytes.len() as u64);
        }
    });
}

#[test]
fn a_run_beyond_the_kernels_limits_is_cut() {
    in_namespace(|| {
        let (server, client) = (any(), any());
        for (count, size) in [(100, 1452), (300, 100), (1000, 9), (2, 65_507)] {
            let bytes = run_of(count, size);
            let transmit = Transmit::run(at("127.0.0.1", &server), None, size, &bytes);
            assert_eq!(client.send(&transmit), Sent::All, "{count} of {size}");
            let (found, _) = receive(&server, count);
            assert_same(&bytes, size, &found);
        }
        assert_eq!(read(&client.stats().segmentation_refused), 0);
    });
}

#[test]
fn without_offload_the_same_datagrams_arrive() {
    in_namespace(|| {
        let options = Options { offload: false, ..Options::new(Bind::Any { port: 0 }) };
        let (server, client) = (Socket::bind(&options).unwrap(), Socket::bind(&options).unwrap());
        assert_eq!(client.offloads(), UdpOffloads { segmentation: false, receive: false });
        let bytes = run_of(45, 1452);
        let to = at("127.0.0.1", &server);
        assert_eq!(client.send(&Transmit::run(to, None, 1452, &bytes)), Sent::All);
        let (found, messages) = receive(&server, 45);
        assert_same(&bytes, 1452, &found);
        assert_eq!((messages, read(&client.stats().send_calls)), (45, 45));
        assert!(read(&server.stats().receive_calls) < 20, "batches grow while more is pending");
    });
}

#[test]
fn a_refused_run_is_sent_one_by_one() {
    in_namespace(|| {
        // A segment beyond the MTU cannot be segmented; the plain sends are fragmented by the kernel.
        ip("link set lo mtu 1300");
        let (server, client) = (any(), any());
        let bytes = run_of(5, 1452);
        let to = at("127.0.0.1", &server);
        assert_eq!(client.send(&Transmit::run(to, None, 1452, &bytes)), Sent::All);
        let (found, _) = receive(&server, 5);
        assert_same(&bytes, 1452, &found);
        assert_eq!(read(&client.stats().segmentation_refused), 1);
        // Without fragmenting they are lost, and counted: all but the last one, which is shorter and fits.
        client.set_mtu_discovery(MtuDiscovery::Probe).unwrap();
        for count in [5, 2] {
            let (before, bytes) = (read(&client.stats().too_big), run_of(count, 1452));
            assert_eq!(client.send(&Transmit::run(to, None, 1452, &bytes)), Sent::TooBig);
            assert_eq!(read(&client.stats().too_big) - before, count as u64 - 1, "{:?}", client.stats());
            assert_eq!(receive(&server, 1).0[0].bytes, bytes[(count - 1) * 1452..]);
        }
        // Nothing fits where the last one is as long as the others, or is too long as well.
        for (len, lost) in [(3 * 1452, 3), (3 * 1452 - 1, 3), (1452, 1)] {
            let before = read(&client.stats().too_big);
            assert_eq!(client.send(&Transmit::run(to, None, 1452, &vec![7; len])), Sent::TooBig);
            assert_eq!(read(&client.stats().too_big) - before, lost, "{:?}", client.stats());
        }
        let mut faults = Vec::new();
        client.read_faults(|fault| faults.push(fault));
        assert!(faults.iter().any(|fault| fault.kind == FaultKind::TooBig { mtu: 1300 }), "{faults:?}");
    });
}

#[test]
fn many_destinations_are_one_system_call() {
    in_namespace(|| {
        let client = any();
        let servers: Vec<_> = (0..5).map(|_| any()).collect();
        let runs: Vec<_> = (1..=5).map(|count| run_of(count, 1200)).collect();
        let transmits: Vec<_> = servers
            .iter()
            .zip(&runs)
            .map(|(server, bytes)| Transmit::run(at("127.0.0.1", server), None, 1200, bytes))
            .collect();
        let mut cursor = Cursor::default();
        assert!(client.send_many(&transmits, &mut cursor));
        assert_eq!((read(&client.stats().send_calls), read(&client.stats().sent)), (1, 15));
        for (index, server) in servers.iter().enumerate() {
            assert_same(&runs[index], 1200, &receive(server, index + 1).0);
        }
    });
}

#[test]
fn scattered_pieces_are_sent_in_order_and_cut_at_the_kernels_limits() {
    in_namespace(|| {
        let (server, client) = (any(), any());
        let to = at("127.0.0.1", &server);
        let buffer = run_of(400, 1000);
        let piece = |index: u32, count: u32| Piece { start: index * 1000, len: count * 1000 };
        // Pieces of one and of several datagrams, in no order; the last is shorter.
        let mut pieces: Vec<_> = (0..100).rev().map(|index| piece(index, 1)).collect();
        pieces.push(piece(150, 100));
        pieces.push(piece(110, 30));
        pieces.push(Piece { start: 399_000, len: 500 });
        let expected: Vec<u8> = pieces.iter().flat_map(|piece| buffer[piece.range()].to_vec()).collect();
        let payload = Payload::Pieces { buffer: &buffer, pieces: &pieces };
        let long = Transmit { to, from: None, tos: 0, segment: 1000, payload };
        assert_eq!(client.send(&long), Sent::All);
        assert_same(&expected, 1000, &receive(&server, 231).0);
        // Several short runs go out together.
        let runs: Vec<_> = pieces[..60].chunks(20).collect();
        let transmits: Vec<_> = runs
            .iter()
            .map(|pieces| Transmit { payload: Payload::Pieces { buffer: &buffer, pieces }, ..long })
            .collect();
        let before = read(&client.stats().send_calls);
        assert!(client.send_many(&transmits, &mut Cursor::default()));
        assert_eq!(read(&client.stats().send_calls), before + 1);
        assert_same(&expected[..60_000], 1000, &receive(&server, 60).0);
    });
}

#[test]
fn one_bad_destination_among_many_loses_only_itself() {
    in_namespace(|| {
        let (client, server) = (open("127.0.0.1:0"), open("127.0.0.1:0"));
        let good = server.local_addr();
        let bad = ["[2001:db8::1]:9".parse().unwrap(), "192.0.2.1:9".parse().unwrap()];
        let long = run_of(200, 1452);
        let transmits = [
            Transmit::single(good, None, b"one"),
            Transmit::single(bad[0], None, b"lost"),
            Transmit::single(good, None, b"two"),
            Transmit::single(bad[1], None, b"lost"),
            Transmit::run(good, None, 1452, &long),
            Transmit::single(good, None, b"three"),
        ];
        let mut cursor = Cursor::default();
        assert!(client.send_many(&transmits, &mut cursor));
        let (found, _) = receive(&server, 203);
        assert_eq!((&found[0].bytes[..], &found[1].bytes[..]), (&b"one"[..], &b"two"[..]));
        assert_eq!(found[202].bytes, b"three");
        let lost = read(&client.stats().unreachable) + read(&client.stats().other_errors);
        assert_eq!(lost, 2, "{:?}", client.stats());
    });
}

#[test]
fn a_full_buffer_blocks_and_the_cursor_goes_on_where_it_stopped() {
    in_namespace(|| {
        // Bytes wait in the shaped interface, so that the send buffer fills.
        add_interface("shaped0");
        ip("addr add 10.9.9.1/24 dev shaped0");
        ip("link set shaped0 up");
        let tc = "qdisc add dev shaped0 root tbf rate 8mbit burst 2kb limit 100mb";
        let output = std::process::Command::new("tc").args(tc.split(' ')).output();
        if !output.is_ok_and(|output| output.status.success()) {
            eprintln!("SKIPPED: no tc or no tbf on this machine");
            return;
        }
        let options = Options { send_buffer_bytes: 20_000, ..Options::new(Bind::Any { port: 0 }) };
        let client = Socket::bind(&options).unwrap();
        ip("neigh add 10.9.9.2 lladdr 02:00:00:00:00:02 dev shaped0");
        let bytes = run_of(60, 1000);
        let to = "10.9.9.2:9".parse().unwrap();
        let run = Transmit::run(to, None, 1000, &bytes);
        let transmits = [run; 5];
        let (wake, mut cursor, mut blocked) = (Wake::new().unwrap(), Cursor::default(), 0);
        while !client.send_many(&transmits, &mut cursor) {
            blocked += 1;
            let ready = wake.wait(&[(client.as_fd(), Interest::Writable)], Some(SOON)).unwrap();
            assert!(!ready.timed_out());
        }
        assert!(blocked > 0);
        assert_eq!(read(&client.stats().sent), 300);
    });
}

#[test]
fn nobody_listening_is_reported_and_does_not_hit_another_destination() {
    in_namespace(|| {
        for home in ["127.0.0.1", "::1"] {
            let (client, server) = (any(), any());
            // Nobody has ever had this port.
            let dead = SocketAddr::new(home.parse().unwrap(), 1);
            client.send(&Transmit::single(dead, None, b"lost"));
            let wake = Wake::new().unwrap();
            let ready = wake.wait(&[(client.as_fd(), Interest::Errors)], Some(SOON)).unwrap();
            assert!(ready.error(0));
            // The pending error must not be taken for the fate of this one.
            assert_eq!(client.send(&Transmit::single(at(home, &server), None, b"x")), Sent::All);
            receive(&server, 1);
            let mut faults = Vec::new();
            assert_eq!(client.read_faults(|fault| faults.push(fault)), 1);
            assert_eq!((faults[0].remote, faults[0].kind), (dead, FaultKind::Refused));
            assert_eq!(faults[0].reporter, Some(home.parse().unwrap()));
            let ready = wake.wait(&[(client.as_fd(), Interest::Errors)], Some(Duration::ZERO)).unwrap();
            assert!(!ready.error(0), "the queue is empty again");
        }
    });
}

#[test]
fn a_storm_of_errors_loses_nothing_of_other_destinations() {
    in_namespace(|| {
        let (client, server) = (any(), any());
        let (dead, live) = ("127.0.0.1:1".parse().unwrap(), at("127.0.0.1", &server));
        let done = std::sync::atomic::AtomicBool::new(false);
        let going_on = || !done.load(Ordering::Relaxed);
        let (mut faults, mut lost) = (0, 0);
        std::thread::scope(|scope| {
            // Each fault that is read makes the next one in the queue pending for whoever sends.
            let reader = scope.spawn(|| {
                let mut faults = 0;
                while going_on() {
                    faults += client.read_faults(|_| {});
                }
                faults
            });
            for round in 0..10_000 {
                for _ in 0..20 {
                    client.send(&Transmit::single(dead, None, b"lost"));
                }
                let sent = match round % 2 {
                    0 => client.send(&Transmit::single(live, None, b"good")),
                    _ => {
                        let sent = read(&client.stats().sent);
                        assert!(
                            client
                                .send_many(&[Transmit::single(live, None, b"good")], &mut Cursor::default())
                        );
                        if read(&client.stats().sent) == sent + 1 { Sent::All } else { Sent::Refused }
                    }
                };
                lost += usize::from(sent != Sent::All);
            }
            done.store(true, Ordering::Relaxed);
            faults = reader.join().unwrap();
        });
        assert!(faults > 100, "the network told of {faults}");
        assert_eq!(lost, 0);
    });
}

#[test]
fn a_receive_steps_over_old_errors() {
    in_namespace(|| {
        let (client, server) = (any(), any());
        let dead = "127.0.0.1:1".parse().unwrap();
        for _ in 0..3 {
            client.send(&Transmit::single(dead, None, b"lost"));
        }
        server.send(&Transmit::single(at("127.0.0.1", &client), None, b"good"));
        assert_eq!(receive(&client, 1).0[0].bytes, b"good");
    });
}

#[test]
fn what_the_routing_table_refuses_is_told_by_kind() {
    in_namespace(|| {
        ip("route add prohibit 198.51.100.0/25");
        ip("route add unreachable 198.51.100.128/25");
        let client = any();
        let send = |to: &str| client.send(&Transmit::single(to.parse().unwrap(), None, b"x"));
        assert_eq!(send("198.51.100.1:9"), Sent::Forbidden);
        assert_eq!(send("198.51.100.129:9"), Sent::Unreachable);
        assert_eq!(send("203.0.113.1:9"), Sent::Unreachable);
        let losses: std::collections::BTreeMap<_, _> = client.stats().losses().collect();
        assert_eq!((losses["forbidden"], losses["unreachable"], losses["other_errors"]), (1, 2, 0));
    });
}

#[test]
fn a_mark_steers_the_policy_routing() {
    in_namespace(|| {
        let server = any();
        let to = at("127.0.0.1", &server);
        let marked = Options { mark: Some(7), ..Options::new(Bind::Any { port: 0 }) };
        let marked = Socket::bind(&marked).unwrap();
        // The rule for local addresses is the first; put ours before it.
        ip("rule add pref 1 fwmark 7 unreachable");
        ip("rule add pref 2 table local");
        ip("rule del pref 0 table local");
        assert_eq!(any().send(&Transmit::single(to, None, b"x")), Sent::All);
        assert_eq!(marked.send(&Transmit::single(to, None, b"x")), Sent::Unreachable);
    });
}

#[test]
fn tos_and_congestion_marks_pass() {
    in_namespace(|| {
        for home in ["127.0.0.1", "::1"] {
            let (server, client) = (any(), any());
            let to = at(home, &server);
            client.send(&Transmit { tos: 0xb8 | 1, ..Transmit::single(to, None, b"x") });
            assert_eq!(receive(&server, 1).0[0].tos, 0xb9, "over {home}");
        }
    });
}

#[test]
fn a_burst_of_small_datagrams_comes_in_few_calls_and_big_ones_one_at_a_time() {
    in_namespace(|| {
        let (server, client) = (any(), any());
        let to = at("127.0.0.1", &server);
        for index in 0..500u16 {
            client.send(&Transmit::single(to, None, &index.to_be_bytes()));
        }
        let (found, _) = receive(&server, 500);
        let order: Vec<_> = found.iter().map(|received| received.bytes.clone()).collect();
        assert!(order.iter().enumerate().all(|(index, bytes)| bytes[..] == (index as u16).to_be_bytes()));
        assert!(read(&server.stats().receive_calls) < 30, "{:?}", server.stats());
    });
}

#[test]
fn a_full_receive_buffer_is_seen() {
    in_namespace(|| {
        let options = Options { receive_buffer_bytes: 2048, ..Options::new(Bind::Any { port: 0 }) };
        let (server, client) = (Socket::bind(&options).unwrap(), any());
        for _ in 0..50 {
            client.send(&Transmit::single(at("127.0.0.1", &server), None, &[0; 1000]));
        }
        assert!(server.kernel_drops() > 0);
    });
}

#[test]
fn an_empty_datagram_is_a_datagram() {
    in_namespace(|| {
        let (server, client) = (any(), any());
        assert_eq!(client.send(&Transmit::single(at("127.0.0.1", &server), None, b"")), Sent::All);
        let mut batch = Batch::new();
        let wake = Wake::new().unwrap();
        wake.wait(&[(server.as_fd(), Interest::Readable)], Some(SOON)).unwrap();
        assert_eq!(server.receive(&mut batch).unwrap(), 1);
        let message = batch.messages().1.next().unwrap();
        assert_eq!((message.datagrams().count(), message.segment), (0, 1));
    });
}
