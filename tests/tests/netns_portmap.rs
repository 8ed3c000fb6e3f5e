//! A gateway that opens a port: miniupnpd on a translator behind which nobody could be reached otherwise.
//!
//! The internet here is 25.0.0.0/24: miniupnpd refuses to serve with an address from the ranges for documentation.

use meshnet_tests::net::{PORT, SETTLE, admit, done, figure, found, overlay, restart_with};
use netlab::mesh::Member;
use netlab::{Lab, Machine, Nat, NatKind, Process, Switch};
use serde_json::Value;
use std::net::UdpSocket;
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU16, AtomicU32, Ordering};
use std::time::{Duration, Instant};

const GATEWAY: [u8; 4] = [10, 0, 1, 254];

struct World {
    _lab: Lab,
    router: Nat,
    _relay: Member,
    a: Member,
    b: Member,
}

/// Two nodes behind symmetric translators, of which that of `a` runs miniupnpd with these lines in its configuration.
fn build(lines: &str) -> (World, Process) {
    build_with(|router| serve(router, lines))
}

/// The same with another gateway service.
fn build_with<T>(service: impl FnOnce(&Nat) -> T) -> (World, T) {
    let lab = done(Lab::new());
    let internet = done(lab.switch("internet"));
    let relay = done(lab.machine("relay"));
    done(relay.plug(&internet, &["25.0.0.1/24"]));
    let offer = ["--relay", "--endpoint", &format!("25.0.0.1:{PORT}"), "--address", "172.30.0.1/16"];
    let relay = found(&relay, &offer);
    let home = |number: u8, name: &str| -> (Switch, Nat, Machine) {
        let home = done(lab.switch(&format!("home{number}")));
        let inside = format!("10.0.{number}.254/24");
        let outside = format!("25.0.0.{}/24", 10 + number);
        let nat = format!("nat{number}");
        let nat = done(lab.nat(&nat, NatKind::Symmetric, (&home, &inside), (&internet, &outside)));
        let machine = done(lab.machine(name));
        done(machine.plug(&home, &[&format!("10.0.{number}.1/24")]));
        done(machine.default_route(&format!("10.0.{number}.254")));
        (home, nat, machine)
    };
    let (_, router, machine) = home(1, "a");
    let gateway = service(&router);
    let a = admit(&relay, &machine, &[], &[]);
    let (_, _, machine) = home(2, "b");
    let b = admit(&relay, &machine, &[], &[]);
    (World { _lab: lab, router, _relay: relay, a, b }, gateway)
}

/// Starts miniupnpd on a router, and waits until it serves: who asks too early asks again after a minute.
fn serve(router: &Nat, lines: &str) -> Process {
    let machine = &router.machine;
    done(machine.nft(
        "table inet filter {\nchain miniupnpd {\n}\nchain forward {\ntype filter hook forward priority 0\njump miniupnpd\n}\n}\n\
         table inet nat {\nchain pre_miniupnpd {\n}\nchain post_miniupnpd {\n}\n\
         chain pre {\ntype nat hook prerouting priority -100\njump pre_miniupnpd\n}\n\
         chain post {\ntype nat hook postrouting priority 100\njump post_miniupnpd\n}\n}\n",
    ));
    let file = machine.directory().join("miniupnpd.conf");
    let configuration = format!(
        "ext_ifname={}\nlistening_ip={}\nport=5555\nsecure_mode=yes\nupnp_table_name=filter\nupnp_nat_table_name=nat\n\
         upnp_forward_chain=miniupnpd\nupnp_nat_chain=pre_miniupnpd\nupnp_nat_postrouting_chain=post_miniupnpd\n\
         uuid=00000000-0000-0000-0000-000000000001\nallow 1024-65535 10.0.1.0/24 1024-65535\n{lines}\n",
        router.outside.interface(),
        router.inside.interface(),
    );
    done(std::fs::write(&file, configuration));
    let mut command = Command::new("miniupnpd");
    command.arg("-d").arg("-f").arg(&file).arg("-P").arg(machine.directory().join("miniupnpd.pid"));
    let process = done(machine.spawn(command));
    // Ports 5351 (RFC 6886) and 1900 (UPnP), as the kernel writes them.
    let port = if lines.contains("enable_upnp=yes") { ":076C " } else { ":14E7 " };
    let sockets = || std::fs::read_to_string("/proc/thread-self/net/udp").unwrap_or_default();
    done(netlab::wait::until_true("miniupnpd to listen", SETTLE, || {
        done(machine.enter(sockets)).contains(port)
    }));
    process
}

impl World {
    fn mapping(&self) -> Value {
        done(self.a.json::<Value>(&["status"]))["port_mapping"].clone()
    }

    fn wait_for_mapping(&self) -> Value {
        done(netlab::wait::until("a port of the gateway", SETTLE, || {
            let mapping = self.mapping();
            if mapping["endpoint"].is_string() { Ok(mapping) } else { Err(mapping.to_string()) }
        }))
    }

    /// Whether the router leads the port to `a`.
    fn is_mapped(&self) -> bool {
        let listed = done(self.router.machine.run(
            {
                let mut command = Command::new("nft");
                command.args(["list", "table", "inet", "nat"]);
                command
            },
            Duration::from_secs(5),
        ));
        done(listed.stdout()).contains(&format!("dnat ip to 10.0.1.1:{PORT}"))
    }
}

fn maps_a_port(lines: &str, protocols: &[&str]) {
    let (mut world, _gateway) = build(lines);
    let tap = done(world.a.machine().capture("eth0"));
    let start = Instant::now();
    let mapping = world.wait_for_mapping();
    assert_eq!(mapping["endpoint"], format!("25.0.0.11:{PORT}"), "{mapping}");
    assert_eq!(mapping["gateway"], "10.0.1.254");
    let protocol = mapping["protocol"].as_str().unwrap_or_default().to_owned();
    assert!(protocols.contains(&protocol.as_str()), "{mapping}");
    assert!(world.is_mapped());
    figure("port mapped", format!("by {protocol}, {:?} after the start", start.elapsed()));

    // Two symmetric translators keep apart what is behind them; but for this.
    done(world.b.wait_for_ping(overlay(&world.a), SETTLE));
    let there = format!("25.0.0.11:{PORT}");
    done(world.b.wait_for_path("a", SETTLE, |path| path.is_direct() && path.remote.as_ref() == Some(&there)));
    let why = done(world.b.json::<Value>(&["why", "a"]));
    let known_as =
        why["paths"].as_array().and_then(|paths| paths.iter().find(|path| path["remote"] == there));
    assert!(known_as.is_some(), "{why}");

    // Nobody but the gateway was asked.
    let recording = done(tap.stop());
    for packet in
        recording.packets.iter().filter(|packet| packet.bytes.len() >= 38 && packet.bytes[12..14] == [8, 0])
    {
        let header = 14 + usize::from(packet.bytes[14] & 15) * 4;
        let Some(port) = packet.bytes.get(header + 2..header + 4) else { continue };
        let port = u16::from_be_bytes([port[0], port[1]]);
        if [5351, 1900, 5555].contains(&port) {
            assert_eq!(packet.bytes[30..34], GATEWAY, "asked elsewhere");
        }
    }

    done(world.a.terminate(Duration::from_secs(5)));
    done(netlab::wait::until_true("the port to be given back", SETTLE, || !world.is_mapped()));
    // What is turned off is not asked for; the other node is reached all the same.
    restart_with(&mut world.a, "port_mapping = \"off\"");
    done(world.a.wait_for_ping(overlay(&world.b), SETTLE));
    assert!(!world.is_mapped() && world.mapping()["endpoint"].is_null(), "{}", world.mapping());
}

#[test]
fn by_nat_pmp_or_pcp() {
    maps_a_port("enable_natpmp=yes\nenable_upnp=no", &["PCP", "NAT-PMP"]);
}

#[test]
fn by_upnp() {
    maps_a_port("enable_natpmp=no\nenable_upnp=yes", &["UPnP"]);
}

/// A gateway that knows NAT-PMP (RFC 6886) only, and gives ports for few seconds.
struct NatPmp {
    /// Requests for a port that were granted.
    granted: Arc<AtomicU32>,
    /// The port that it gives.
    port: Arc<AtomicU16>,
    ends: Arc<AtomicBool>,
    thread: Option<std::thread::JoinHandle<()>>,
}

const LEASE_S: u32 = 10;

impl NatPmp {
    fn serve(router: &Nat) -> NatPmp {
        let socket = done(done(router.machine.enter(|| UdpSocket::bind("10.0.1.254:5351"))));
        done(socket.set_read_timeout(Some(Duration::from_millis(100))));
        let granted = Arc::new(AtomicU32::new(0));
        let (port, ends) = (Arc::new(AtomicU16::new(PORT)), Arc::new(AtomicBool::new(false)));
        let (counted, given, end) = (granted.clone(), port.clone(), ends.clone());
        let began = Instant::now();
        let thread = std::thread::spawn(move || {
            let mut asked = [0; 1100];
            while !end.load(Ordering::Relaxed) {
                let Ok((len, from)) = socket.recv_from(&mut asked) else { continue };
                let now_s = (began.elapsed().as_secs() as u32).to_be_bytes();
                let answer = match asked[..len] {
                    [0, 0] => [&[0, 128, 0, 0][..], &now_s, &[25, 0, 0, 11]].concat(),
                    [0, 1, _, _, inside_1, inside_2, _, _, a, b, c, d] => {
                        let wanted = u32::from_be_bytes([a, b, c, d]);
                        counted.fetch_add(u32::from(wanted > 0), Ordering::Relaxed);
                        let outside = if wanted > 0 { given.load(Ordering::Relaxed) } else { 0 };
                        let (outside, lease) = (outside.to_be_bytes(), wanted.min(LEASE_S).to_be_bytes());
                        [&[0, 129, 0, 0][..], &now_s, &[inside_1, inside_2], &outside, &lease].concat()
                    }
                    // Unsupported version: who asked by PCP is to ask by NAT-PMP.
                    _ => [&[0, 128, 0, 1][..], &now_s].concat(),
                };
                let _ = socket.send_to(&answer, from);
            }
        });
        NatPmp { granted, port, ends, thread: Some(thread) }
    }
}

impl Drop for NatPmp {
    fn drop(&mut self) {
        self.ends.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

#[test]
fn by_nat_pmp_alone_renewed_before_it_ends_and_told_anew_when_it_is_another_one() {
    let (world, gateway) = build_with(NatPmp::serve);
    let mapping = world.wait_for_mapping();
    assert_eq!(mapping["protocol"], "NAT-PMP", "{mapping}");
    assert_eq!(mapping["endpoint"], format!("25.0.0.11:{PORT}"), "{mapping}");
    let text = done(world.a.ok(&["status"]));
    assert!(text.contains(&format!("mapped port 25.0.0.11:{PORT} by NAT-PMP of 10.0.1.254")), "{text}");
    let first = (gateway.granted.load(Ordering::Relaxed), Instant::now());
    done(netlab::wait::until_true("the port to be renewed", SETTLE, || {
        gateway.granted.load(Ordering::Relaxed) > first.0
    }));
    let took = first.1.elapsed();
    assert!(took < Duration::from_secs(LEASE_S.into()), "it ended before: {took:?}");
    assert_eq!(world.mapping()["endpoint"], format!("25.0.0.11:{PORT}"));
    gateway.port.store(40_001, Ordering::Relaxed);
    done(netlab::wait::until_true("another port", SETTLE, || {
        world.mapping()["endpoint"] == "25.0.0.11:40001"
    }));
    figure("NAT-PMP, a lease of 10 s", format!("renewed after {took:?}"));
}
