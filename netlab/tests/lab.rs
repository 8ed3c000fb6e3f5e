//! Labs on the real kernel. They need root, or a user namespace around the test run.

#![allow(clippy::unwrap_used)]

use netlab::{Fault, Flow, Lab, Machine, NatKind, WireShape, flow::FlowShape, wait};
use std::io::{BufRead, BufReader};
use std::net::{IpAddr, SocketAddr, UdpSocket};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

const SECOND: Duration = Duration::from_secs(1);

fn ip(text: &str) -> IpAddr {
    text.parse().unwrap()
}

fn reaches(from: &Machine, to: &str) -> bool {
    from.ping(ip(to), Duration::from_millis(300)).unwrap().is_some()
}

/// Two networks with a router between them.
struct Routed {
    lab: Lab,
    a: Machine,
    b: Machine,
    b_port: netlab::Port,
}

fn routed() -> Routed {
    let lab = Lab::new().unwrap();
    let (left, right) = (lab.switch("left").unwrap(), lab.switch("right").unwrap());
    let router = lab.router("router").unwrap();
    router.plug(&left, &["192.0.2.254/24", "2001:db8:1::fe/64"]).unwrap();
    router.plug(&right, &["198.51.100.254/24", "2001:db8:2::fe/64"]).unwrap();
    let (a, b) = (lab.machine("a").unwrap(), lab.machine("b").unwrap());
    a.plug(&left, &["192.0.2.1/24", "2001:db8:1::1/64"]).unwrap();
    let b_port = b.plug(&right, &["198.51.100.1/24", "2001:db8:2::1/64"]).unwrap();
    a.default_route("192.0.2.254").unwrap();
    a.ip("-6 route add default via 2001:db8:1::fe").unwrap();
    b.default_route("198.51.100.254").unwrap();
    b.ip("-6 route add default via 2001:db8:2::fe").unwrap();
    Routed { lab, a, b, b_port }
}

#[test]
fn machines_reach_each_other_across_a_router_with_both_families() {
    let net = routed();
    assert!(reaches(&net.a, "198.51.100.1"));
    assert!(reaches(&net.b, "2001:db8:1::1"));
    assert!(!reaches(&net.a, "198.51.100.77"));
}

#[test]
fn a_silenced_machine_gives_no_sign_and_comes_back() {
    let net = routed();
    net.b_port.silence().unwrap();
    assert!(!reaches(&net.a, "198.51.100.1"));
    let socket = net.b.udp("198.51.100.1:0").unwrap();
    socket.send_to(b"its own sends see no error", "192.0.2.1:9").unwrap();
    net.b_port.heal().unwrap();
    assert!(reaches(&net.a, "198.51.100.1"));
}

#[test]
fn a_cut_works_one_way_only() {
    let net = routed();
    let there = net.b.udp("198.51.100.1:4000").unwrap();
    let here = net.a.udp("192.0.2.1:4000").unwrap();
    for socket in [&there, &here] {
        socket.set_read_timeout(Some(Duration::from_millis(300))).unwrap();
    }
    net.b_port.apply(&Fault { cut_to: vec![ip("192.0.2.1")], ..Fault::default() }).unwrap();
    let mut buffer = [0; 16];
    here.send_to(b"in", "198.51.100.1:4000").unwrap();
    assert_eq!(there.recv(&mut buffer).unwrap(), 2);
    there.send_to(b"out", "192.0.2.1:4000").unwrap();
    here.recv(&mut buffer).expect_err("nothing may pass to 192.0.2.1");
}

#[test]
fn a_path_mtu_hole_swallows_only_the_long_ones() {
    let net = routed();
    net.b_port.apply(&Fault { swallow_longer_than_bytes: Some(1300), ..Fault::default() }).unwrap();
    let receiver = net.b.udp("198.51.100.1:4000").unwrap();
    receiver.set_read_timeout(Some(Duration::from_millis(300))).unwrap();
    let sender = net.a.udp("192.0.2.1:0").unwrap();
    sender.send_to(&[0; 1300 - 28], "198.51.100.1:4000").unwrap();
    sender.send_to(&[0; 1301 - 28], "198.51.100.1:4000").unwrap();
    let mut buffer = [0; 2000];
    assert_eq!(receiver.recv(&mut buffer).unwrap(), 1272);
    receiver.recv(&mut buffer).expect_err("the long one vanishes");
}

#[test]
fn a_cable_can_be_pulled_and_a_rate_limited() {
    let net = routed();
    net.b_port.set_carrier(false).unwrap();
    assert!(!reaches(&net.a, "198.51.100.1"));
    net.b_port.set_carrier(true).unwrap();
    wait::until_true("the cable to work", 5 * SECOND, || reaches(&net.a, "198.51.100.1")).unwrap();

    net.b_port.limit_rate(Some("1mbit")).unwrap();
    let receiver = net.a.udp("192.0.2.1:4000").unwrap();
    receiver.set_read_timeout(Some(Duration::from_millis(500))).unwrap();
    let sender = net.b.udp("198.51.100.1:0").unwrap();
    // 300 kB at once: 64 kB pass as a burst, 50 ms of the rate wait in the queue, the rest is dropped.
    for _ in 0..300 {
        sender.send_to(&[0; 1000], "192.0.2.1:4000").unwrap();
    }
    let received = std::iter::from_fn(|| receiver.recv(&mut [0; 2000]).ok()).count();
    assert!((40..150).contains(&received), "{received}");
    net.b_port.limit_rate(None).unwrap();
}

#[test]
fn a_wire_has_the_delay_and_the_loss_it_was_made_with() {
    let lab = Lab::new().unwrap();
    let switch = lab.switch("lan").unwrap();
    let (a, b) = (lab.machine("a").unwrap(), lab.machine("b").unwrap());
    a.plug(&switch, &["192.0.2.1/24"]).unwrap();
    let shape = WireShape {
        delay: Duration::from_millis(20),
        jitter: Duration::from_millis(5),
        loss_permille: 100,
        duplicate_permille: 50,
        seed: 1,
    };
    b.plug_by_wire(&switch, &["192.0.2.2/24"], shape).unwrap();
    wait::until_true("ARP to get through", 5 * SECOND, || reaches(&a, "192.0.2.2")).unwrap();
    let shape = FlowShape { rate_pps: 1000, payload_bytes: 100 };
    let flow = Flow::start(&a, &b, "192.0.2.2:5000".parse().unwrap(), shape).unwrap();
    wait::until_true("2000 sent", 10 * SECOND, || flow.progress().sent >= 2000).unwrap();
    let report = flow.stop().unwrap();
    println!("{report}");
    assert!((20_000..26_000).contains(&report.delay.p50_us), "{report}");
    // 2,000 draws at 0.1: the standard deviation is 13.
    assert!((140..270).contains(&report.lost), "{report}");
    assert!(report.reordered > 100, "{report}");
    let tag = lab.tag().to_owned();
    lab.take_down().unwrap();
    assert!(namespaces(&tag).is_empty());
}

#[test]
fn a_flow_measures_a_cut_to_the_packet() {
    // What a busy machine adds at the ends, where nothing is measured, is not in all of three measurements.
    let told: Vec<String> = std::iter::repeat_with(measure_a_cut).take(3).map_while(Result::err).collect();
    assert!(told.len() < 3, "{told:?}");
}

/// With what there was when the times do not agree.
fn measure_a_cut() -> Result<(), String> {
    let net = routed();
    let shape = FlowShape { rate_pps: 1000, payload_bytes: 100 };
    let flow = Flow::start(&net.a, &net.b, "198.51.100.1:5000".parse().unwrap(), shape).unwrap();
    wait::until_true("300 packets", 5 * SECOND, || flow.progress().received >= 300).unwrap();
    let cut_at = Instant::now();
    net.b_port.silence().unwrap();
    wait::until_true("a silence of 500 ms", 5 * SECOND, || {
        flow.progress().silent_for.is_some_and(|silence| silence.as_millis() >= 500)
    })
    .unwrap();
    net.b_port.heal().unwrap();
    let healed_at = Instant::now();
    let received = flow.progress().received;
    wait::until_true("300 packets more", 5 * SECOND, || flow.progress().received >= received + 300).unwrap();
    let report = flow.stop().unwrap();
    println!("{report}; cut for {} ms", (healed_at - cut_at).as_millis());

    assert_eq!(report.losses.len(), 1, "{:?}", report.losses);
    let lost = report.losses[0];
    assert_eq!(lost.count, report.lost);
    assert_eq!((report.duplicated, report.reordered, report.refused), (0, 0, 0));
    let gap = report.longest_gap().unwrap();
    // Losing n packets at 1,000/s is a silence of n + 1 ms, give or take what a busy machine adds at the ends.
    let recovery = report.recovery(cut_at).unwrap();
    assert!(gap.length_ms >= 500 && recovery >= Duration::from_millis(500), "{gap:?} {recovery:?}");
    let agrees = gap.length_ms.abs_diff(lost.count) <= 30
        && gap.length_ms < 700
        && recovery <= healed_at - cut_at + Duration::from_millis(60)
        && report.lost_since(healed_at + Duration::from_millis(5)) == 0;
    if agrees { Ok(()) } else { Err(format!("{gap:?} {lost:?} {recovery:?}")) }
}

#[test]
fn a_flow_measures_random_loss() {
    let net = routed();
    net.b_port.apply(&Fault { loss_in_permille: 200, ..Fault::default() }).unwrap();
    let shape = FlowShape { rate_pps: 4000, payload_bytes: 100 };
    let flow = Flow::start(&net.a, &net.b, "198.51.100.1:5000".parse().unwrap(), shape).unwrap();
    wait::until_true("4000 sent", 10 * SECOND, || flow.progress().sent >= 4000).unwrap();
    let report = flow.stop().unwrap();
    println!("{report}");
    // 4,000 draws at 0.2: the standard deviation is 25.
    assert!((650..950).contains(&(report.lost * 4000 / report.sent)), "{report}");
}

#[test]
fn a_flood_arrives_at_the_target() {
    let net = routed();
    let receiver = net.b.udp("198.51.100.1:4000").unwrap();
    receiver.set_read_timeout(Some(Duration::from_millis(300))).unwrap();
    socket2::SockRef::from(&receiver).set_recv_buffer_size(8 << 20).unwrap();
    let mut number = 0u32;
    let report = netlab::flood::flood(&net.a, "198.51.100.1:4000".parse().unwrap(), 1000, |buffer| {
        buffer.extend_from_slice(&number.to_be_bytes());
        number += 1;
    })
    .unwrap();
    let received: Vec<u32> = std::iter::from_fn(|| {
        let mut buffer = [0; 4];
        receiver.recv(&mut buffer).ok().map(|_| u32::from_be_bytes(buffer))
    })
    .collect();
    assert_eq!(report.sent, 1000);
    assert!(received.len() > 150, "{} of 1000 fit into the socket's buffer", received.len());
    assert!(received.windows(2).all(|pair| pair[0] < pair[1]), "each datagram is sent once and in order");
}

#[test]
fn a_capture_holds_what_passed_and_nothing_of_other_interfaces() {
    let net = routed();
    let (on_wire, on_loopback) = (net.b.capture("eth0").unwrap(), net.b.capture("lo").unwrap());
    let receiver = net.b.udp("198.51.100.1:4000").unwrap();
    receiver.set_read_timeout(Some(SECOND)).unwrap();
    let sender = net.a.udp("192.0.2.1:0").unwrap();
    for _ in 0..100 {
        sender.send_to(b"a word to look for", "198.51.100.1:4000").unwrap();
        receiver.recv(&mut [0; 100]).unwrap();
    }
    assert_eq!(on_wire.stop().unwrap().count_with(b"word to look"), 100);
    assert_eq!(on_loopback.stop().unwrap().count_with(b"word to look"), 0);
}

/// A machine behind a NAT, and three servers on the other side of it.
struct Natted {
    _lab: Lab,
    nat: netlab::Nat,
    inside: Machine,
    servers: [UdpSocket; 3],
}

const OUTSIDE: &str = "198.51.100.254";

fn natted(kind: NatKind) -> Natted {
    let lab = Lab::new().unwrap();
    let (home, internet) = (lab.switch("home").unwrap(), lab.switch("internet").unwrap());
    let nat = lab.nat("nat", kind, (&home, "10.0.0.254/24"), (&internet, "198.51.100.254/24")).unwrap();
    let inside = lab.machine("inside").unwrap();
    inside.plug(&home, &["10.0.0.1/24"]).unwrap();
    inside.default_route("10.0.0.254").unwrap();
    let servers = [1, 2, 3].map(|number| {
        let machine = lab.machine(&format!("s{number}")).unwrap();
        machine.plug(&internet, &[&format!("198.51.100.{number}/24")]).unwrap();
        let socket = machine.udp(&format!("198.51.100.{number}:7000")).unwrap();
        socket.set_read_timeout(Some(Duration::from_millis(300))).unwrap();
        socket
    });
    Natted { _lab: lab, nat, inside, servers }
}

impl Natted {
    fn socket(&self) -> UdpSocket {
        let socket = self.inside.udp("10.0.0.1:6000").unwrap();
        socket.set_read_timeout(Some(Duration::from_millis(300))).unwrap();
        socket
    }

    /// The socket's outside address as a server sees it.
    fn seen_by(&self, server: usize, socket: &UdpSocket) -> SocketAddr {
        socket.send_to(b"out", self.servers[server].local_addr().unwrap()).unwrap();
        self.servers[server].recv_from(&mut [0; 16]).unwrap().1
    }

    fn lets_in(&self, server: usize, to: SocketAddr, socket: &UdpSocket) -> bool {
        self.servers[server].send_to(b"in", to).unwrap();
        socket.recv(&mut [0; 16]).is_ok()
    }
}

#[test]
fn a_port_restricted_nat_keeps_the_port_and_lets_in_only_who_was_talked_to() {
    let net = natted(NatKind::PortRestricted);
    let socket = net.socket();
    let seen = net.seen_by(0, &socket);
    assert_eq!(seen.to_string(), format!("{OUTSIDE}:6000"));
    assert_eq!(net.seen_by(1, &socket), seen);
    assert!(net.lets_in(0, seen, &socket));
    assert!(!net.lets_in(2, seen, &socket));
    // That a stranger knocked first does not spoil the mapping towards it.
    assert_eq!(net.seen_by(2, &socket), seen);
}

#[test]
fn a_symmetric_nat_has_another_port_for_every_destination() {
    let net = natted(NatKind::Symmetric);
    let socket = net.socket();
    let (first, second) = (net.seen_by(0, &socket), net.seen_by(1, &socket));
    assert_ne!(first, second);
    assert!(net.lets_in(0, first, &socket));
    assert!(!net.lets_in(1, first, &socket));
    assert!(!net.lets_in(2, second, &socket));
}

#[test]
fn a_full_cone_nat_lets_anyone_in_once_there_is_a_mapping() {
    let net = natted(NatKind::FullCone);
    let socket = net.socket();
    assert!(!net.lets_in(2, format!("{OUTSIDE}:6000").parse().unwrap(), &socket));
    let seen = net.seen_by(0, &socket);
    assert_eq!(seen.to_string(), format!("{OUTSIDE}:6000"));
    assert_eq!(net.seen_by(1, &socket), seen);
    assert!(net.lets_in(2, seen, &socket));
}

#[test]
fn a_nat_that_restarts_gives_new_ports_and_forgets_the_old() {
    let net = natted(NatKind::PortRestricted);
    let socket = net.socket();
    let before = net.seen_by(0, &socket);
    net.nat.rebind(OUTSIDE, "50000-50010").unwrap();
    assert!(!net.lets_in(0, before, &socket));
    let after = net.seen_by(0, &socket);
    assert!((50000..=50010).contains(&after.port()), "{after}");
    assert!(net.lets_in(0, after, &socket));
}

#[test]
fn a_lab_leaves_nothing_behind_even_with_a_process_running() {
    let net = routed();
    let tag = net.lab.tag().to_owned();
    let mut command = Command::new("sleep");
    command.arg("1000");
    let mut sleeper = net.a.spawn(command).unwrap();
    assert!(namespaces(&tag).len() >= 4);
    let directory = net.lab.directory().to_owned();
    net.lab.take_down().unwrap();
    assert_eq!(namespaces(&tag), Vec::<String>::new());
    assert!(!directory.exists());
    assert!(sleeper.wait(SECOND).is_ok(), "it was killed");
}

fn namespaces(tag: &str) -> Vec<String> {
    let entries = std::fs::read_dir("/run/netns").unwrap().flatten();
    entries
        .filter_map(|entry| entry.file_name().into_string().ok())
        .filter(|name| name.starts_with(tag))
        .collect()
}

/// Set in the test program that is to be killed with a lab up.
const VICTIM: &str = "NETLAB_TEST_VICTIM";

#[test]
fn a_lab_is_removed_when_its_owner_is_killed() {
    if std::env::var_os(VICTIM).is_some() {
        let net = routed();
        println!("tag {}", net.lab.tag());
        loop {
            std::thread::park();
        }
    }
    let mut command = Command::new(std::env::current_exe().unwrap());
    command.args(["--exact", "a_lab_is_removed_when_its_owner_is_killed", "--nocapture"]).env(VICTIM, "1");
    let mut victim = command.stdout(Stdio::piped()).spawn().unwrap();
    let lines = BufReader::new(victim.stdout.take().unwrap()).lines().map_while(Result::ok);
    let tag = lines.filter_map(|line| Some(line.split_once("tag ")?.1.to_owned())).next().unwrap();
    assert!(namespaces(&tag).len() >= 4);
    victim.kill().unwrap();
    victim.wait().unwrap();
    wait::until_true("the reaper to have removed the lab", 10 * SECOND, || namespaces(&tag).is_empty())
        .unwrap();
}
