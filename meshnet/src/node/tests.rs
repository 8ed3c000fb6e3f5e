//! Small meshes over a fake network with virtual time: every node is a [`Node`] with its [`Tx`] and [`Rx`].

mod knocking;
mod lan;
mod rotation;
mod trust;

use std::collections::{BTreeMap, BTreeSet, BinaryHeap};
use std::net::{IpAddr, SocketAddr};
use std::ops::Range;
use std::sync::Arc;
use std::time::Duration;

use proto::certificate::Roles;
use proto::datagram::Kind;
use proto::id::{BootEpoch, KeyEpochNumber, MemberId, Name};
use proto::key_epoch::{Capabilities, KeyEpoch};
use proto::signed::Signed;
use rand::SeedableRng;
use rand::rngs::StdRng;

use super::*;
use crate::crypto::{Secret, TransportSecret};
use crate::dataplane::meta::Meta;
use crate::dataplane::{HEADROOM, Rx, Snapshot, TAILROOM, Tx, TxVerdict, Verdict};
use crate::membership::{
    AuthoritySecret, DEFAULT_LIFETIME_S, Founding, IdentitySecret, Request, Signer, TrustChain, found, issue,
};
use crate::path::{PathId, SocketId};
use crate::time::UnixMs;

const START_S: u64 = 1_800_000_000;

struct Host {
    node: Option<Node>,
    tx: Tx,
    rx: Rx,
    snapshot: Arc<Snapshot>,
    address: SocketAddr,
    overlay: IpAddr,
    received: Vec<(Mono, Vec<u8>)>,
    events: Vec<String>,
    /// What was to be written of the own keys, and of which generation it was; and the rotations that came to their end.
    saves: Vec<(KeyRing, u64)>,
    rotated: Vec<KeyEpochNumber>,
    /// The own keys on its disk, if they are not the first one alone.
    ring: Option<KeyRing>,
    cache: Vec<u8>,
    identity: [u8; 32],
    transport: [u8; 32],
    certificate: Signed<proto::certificate::Certificate>,
    boots: u64,
    floor: u64,
    relay: bool,
}

/// When it arrives, its number, source, destination, and content.
type InFlight = (Mono, u64, SocketAddr, SocketAddr, Vec<u8>);

struct World {
    now: Now,
    trust: TrustChain,
    gate: Secret<32>,
    hosts: Vec<Host>,
    wire: BinaryHeap<std::cmp::Reverse<InFlight>>,
    sent: u64,
    /// Pairs of hosts with no underlay between them.
    cut: BTreeSet<(usize, usize)>,
    silent: BTreeSet<usize>,
    delay: Duration,
}

impl World {
    fn new(seed: u64, relays: &[bool]) -> World {
        let mut rng = StdRng::seed_from_u64(seed);
        let authority = AuthoritySecret::generate(&mut rng);
        let recovery = AuthoritySecret::generate(&mut rng);
        let founding = Founding {
            name: Name::new("lab").unwrap(),
            recovery: recovery.public(),
            network4: Some("10.99.0.0/16".parse().unwrap()),
            created_s: START_S,
        };
        let trust = found(founding, &[&authority], 1).unwrap();
        let now = Now { mono: Mono(1_000_000), wall: UnixMs(START_S * 1000) };
        let mut world = World {
            now,
            trust,
            gate: Secret::random(&mut rng),
            hosts: Vec::new(),
            wire: BinaryHeap::new(),
            sent: 0,
            cut: BTreeSet::new(),
            silent: BTreeSet::new(),
            delay: Duration::from_millis(2),
        };
        for (at, relay) in relays.iter().enumerate() {
            let identity = IdentitySecret::generate(&mut rng);
            let overlay: IpAddr = [10, 99, 0, at as u8 + 1].into();
            let request = Request {
                identity: identity.public(),
                name: Name::new(&format!("n{at}")).unwrap(),
                addresses: vec![overlay],
                prefixes: Vec::new(),
                roles: if *relay { Roles::RELAY } else { Roles::default() },
                constraints: None,
                lifetime_s: DEFAULT_LIFETIME_S,
            };
            let certificate =
                issue(now.wall, &world.trust, &Signer::Root(&authority), request, None, 0).unwrap();
            world.hosts.push(Host {
                node: None,
                tx: Tx::new(),
                rx: Rx::new(),
                snapshot: Arc::default(),
                address: SocketAddr::from(([192, 0, 2, at as u8 + 1], 7946)),
                overlay,
                received: Vec::new(),
                events: Vec::new(),
                saves: Vec::new(),
                rotated: Vec::new(),
                ring: None,
                cache: Vec::new(),
                identity: *identity.to_bytes(),
                transport: *TransportSecret::random(&mut rng).bytes(),
                certificate: certificate.signed().clone(),
                boots: 0,
                floor: 0,
                relay: *relay,
            });
        }
        // Everybody knows everybody's certificate and key, and the relays' records, as after joining.
        for at in 0..world.hosts.len() {
            world.start(at);
        }
        let caches: Vec<Vec<u8>> =
            world.hosts.iter().map(|host| host.node.as_ref().unwrap().export_cache()).collect();
        let all: Vec<u8> = caches.concat();
        for at in 0..world.hosts.len() {
            world.hosts[at].cache = all.clone();
            world.start(at);
        }
        world
    }

    fn start(&mut self, at: usize) {
        let host = &mut self.hosts[at];
        host.boots += 1;
        let identity = IdentitySecret::from_bytes(&host.identity);
        let secret = TransportSecret::new(host.transport);
        let epoch = KeyEpoch {
            mesh: self.trust.mesh(),
            member: host.certificate.body().member,
            number: KeyEpochNumber(1),
            key: secret.public(),
            created_s: START_S,
            capabilities: Capabilities::default(),
        };
        let signed = identity.sign_key_epoch(epoch).unwrap();
        let config = NodeConfig {
            identity,
            gate: self.gate.clone(),
            keys: host.ring.clone().unwrap_or_else(|| KeyRing::first(OwnEpoch { secret, signed })),
            certificate: host.certificate.clone(),
            issuer: None,
            trust: self.trust.clone(),
            revocations: Vec::new(),
            plan: None,
            boot: BootEpoch(host.boots),
            timestamp_floor_us: host.floor,
            cache: host.cache.clone(),
            offload: false,
            version: "test".into(),
            settings: Settings {
                relay: host.relay,
                interface_addresses: vec![host.address.ip()],
                sockets: vec![Socket {
                    id: SocketId(0),
                    port: host.address.port(),
                    ipv4: true,
                    ipv6: false,
                    bound: None,
                }],
                mtu: 1340,
                copy_tos: false,
                relay_limit: None,
                relay_capacity: None,
                ..Settings::default()
            },
        };
        let rng = StdRng::seed_from_u64(1000 * host.boots + at as u64);
        host.node = Some(Node::new(config, self.now, rng).unwrap());
        (host.tx, host.rx) = (Tx::new(), Rx::new());
        self.drain(at);
    }

    fn id(&self, at: usize) -> MemberId {
        self.hosts[at].certificate.body().member
    }

    fn drain(&mut self, at: usize) {
        loop {
            let host = &mut self.hosts[at];
            let Some(node) = &mut host.node else { return };
            if let Some(event) = node.poll_event() {
                match event {
                    Event::Snapshot(snapshot) => {
                        host.snapshot = snapshot;
                        let mut again = Vec::new();
                        host.tx.resend(&host.snapshot, self.now.mono, &mut [0; 2000], |buf, out| {
                            again.push((out.to, buf[out.range].to_vec()));
                        });
                        for (to, bytes) in again {
                            self.send(at, to, bytes);
                        }
                    }
                    Event::ReserveTimestamp(floor) => host.floor = floor,
                    Event::CacheChanged => host.cache = node.export_cache(),
                    Event::PathChanged { name, path, .. } => {
                        host.events.push(format!("{name} over {path:?}"))
                    }
                    Event::PeerUp { name, .. } => host.events.push(format!("{name} up")),
                    Event::PeerDown { name, .. } => host.events.push(format!("{name} down")),
                    Event::Pong { .. } => host.events.push("pong".into()),
                    Event::Undeliverable { error, .. } => host.events.push(format!("{error:?}")),
                    Event::SaveKeys { ring, generation } => host.saves.push((*ring, generation)),
                    Event::KeysRotated { epoch } => host.rotated.push(epoch),
                    Event::RevocationsChanged | Event::BundlesChanged => {}
                    Event::Revoked { .. } | Event::Readmitted { .. } => {}
                    Event::Renew { .. } | Event::CertificateChanged | Event::CertificateEnds { .. } => {}
                    Event::Routes(_) | Event::Wider(_) | Event::Join { .. } | Event::Announce { .. } => {}
                    Event::NodeUp { name, .. } => host.events.push(format!("{name} reached")),
                    Event::NodeDown { name, .. } => host.events.push(format!("{name} lost")),
                    Event::SubnetUp { name, prefix, .. } => host.events.push(format!("{prefix} by {name}")),
                    Event::SubnetDown { name, prefix, .. } => {
                        host.events.push(format!("{prefix} not by {name}"))
                    }
                }
                continue;
            }
            let Some(out) = node.poll_transmit() else { return };
            self.send(at, out.to, out.bytes);
        }
    }

    fn send(&mut self, at: usize, to: SocketAddr, bytes: Vec<u8>) {
        let from = self.hosts[at].address;
        self.sent += 1;
        self.wire.push(std::cmp::Reverse((self.now.mono + self.delay, self.sent, from, to, bytes)));
    }

    fn deliver(&mut self, from: SocketAddr, to: SocketAddr, bytes: Vec<u8>) {
        let find = |address| self.hosts.iter().position(|host| host.address == address);
        let (Some(source), Some(at)) = (find(from), find(to)) else { return };
        let pair = (source.min(at), source.max(at));
        if self.cut.contains(&pair) || self.silent.contains(&source) || self.silent.contains(&at) {
            return;
        }
        let host = &mut self.hosts[at];
        if host.node.is_none() {
            return;
        }
        let mut buf = bytes;
        let all = 0..buf.len();
        let verdict = host.rx.process(&host.snapshot, self.now.mono, SocketId(0), from, &mut buf, all);
        let inbound = match verdict {
            Verdict::Deliver { packet, .. } => {
                host.received.push((self.now.mono, buf[packet].to_vec()));
                None
            }
            Verdict::Control { receiver, via, frames } => {
                Some(Inbound::Control { receiver, via, frames: buf[frames].to_vec() })
            }
            Verdict::HandUp { via, datagram } => {
                Some(Inbound::Datagram { via, bytes: buf[datagram].to_vec() })
            }
            Verdict::Forward { to, datagram, .. } => {
                let bytes = buf[datagram].to_vec();
                self.send(at, to, bytes);
                None
            }
            Verdict::Keepalive | Verdict::Elsewhere(_) | Verdict::Drop(_) => None,
        };
        let mut inbounds: Vec<Inbound> = inbound.into_iter().collect();
        while let Some(notice) = self.hosts[at].rx.poll_notice() {
            inbounds.push(Inbound::Notice(notice));
        }
        for inbound in inbounds {
            if let Some(node) = &mut self.hosts[at].node {
                node.handle_inbound(self.now, inbound);
            }
            self.drain(at);
        }
    }

    /// Runs for `span`, calling `each` every 5 ms.
    fn run_with(&mut self, span: Duration, mut each: impl FnMut(&mut World)) {
        let end = self.now.mono + span;
        while self.now.mono < end {
            self.now = self.now.after(Duration::from_millis(1));
            if self.now.mono.0.is_multiple_of(5_000) {
                each(self);
            }
            while self.wire.peek().is_some_and(|next| next.0.0 <= self.now.mono) {
                let Some(std::cmp::Reverse((_, _, from, to, bytes))) = self.wire.pop() else { break };
                self.deliver(from, to, bytes);
            }
            for at in 0..self.hosts.len() {
                let due =
                    self.hosts[at].node.as_ref().is_some_and(|n| n.poll_timeout(self.now) <= self.now.mono);
                if due && let Some(node) = &mut self.hosts[at].node {
                    node.handle_timeout(self.now);
                    self.drain(at);
                }
            }
        }
    }

    fn run(&mut self, span: Duration) {
        self.run_with(span, |_| {});
    }

    /// Sends one inner packet, as the device would give it.
    fn packet(&mut self, from: usize, to: usize, number: u32) {
        let packet = ipv4(self.hosts[from].overlay, self.hosts[to].overlay, number);
        self.inject(from, packet);
    }

    fn inject(&mut self, from: usize, packet: Vec<u8>) {
        let mut buf = vec![0; 2 * (HEADROOM + packet.len() + TAILROOM)];
        let range: Range<usize> = HEADROOM..HEADROOM + packet.len();
        buf[range.clone()].copy_from_slice(&packet);
        let host = &mut self.hosts[from];
        let mut verdict =
            host.tx.process(&host.snapshot, self.now.mono, &mut buf, range.clone(), &Meta::PLAIN);
        if matches!(verdict, TxVerdict::Silent) {
            verdict =
                host.tx.process_all_the_same(&host.snapshot, self.now.mono, &mut buf, range, &Meta::PLAIN);
        }
        let active = host.tx.poll_active();
        match verdict {
            TxVerdict::Send { first, second } => {
                for out in [Some(first), second].into_iter().flatten() {
                    self.send(from, out.to, buf[out.range].to_vec());
                }
            }
            TxVerdict::HandUp => {
                if let Some(node) = &mut self.hosts[from].node {
                    node.handle_inbound(self.now, Inbound::Packet(packet));
                }
            }
            TxVerdict::Silent | TxVerdict::Cut(_) | TxVerdict::Fragment(_) | TxVerdict::TooBig { .. } => {
                unreachable!("packets are plain and short")
            }
            TxVerdict::Drop(reason) => panic!("dropped: {reason:?}"),
        }
        if let (Some(slot), Some(node)) = (active, &mut self.hosts[from].node) {
            node.handle_inbound(self.now, Inbound::Active(slot));
        }
        self.drain(from);
    }

    fn numbers(&self, at: usize) -> Vec<u32> {
        self.hosts[at].received.iter().map(|(_, packet)| number_of(packet)).collect()
    }

    /// Which of the relays 2 and 3 the first host sends through.
    fn relay_in_use(&self) -> usize {
        let last = self.hosts[0].events.iter().rev().find(|event| event.starts_with("n1 over"));
        if last.unwrap().contains(&self.id(2).to_string()) { 2 } else { 3 }
    }

    fn state(&self, at: usize, of: usize) -> PeerState {
        let node = self.hosts[at].node.as_ref().unwrap();
        let id = self.id(of);
        node.peer_views(self.now).into_iter().find(|peer| peer.member == id).unwrap().state
    }
}

fn ipv4(source: IpAddr, destination: IpAddr, number: u32) -> Vec<u8> {
    let (IpAddr::V4(source), IpAddr::V4(destination)) = (source, destination) else { panic!("IPv4 only") };
    let mut packet = vec![0x45, 0, 0, 32, 0, 0, 0, 0, 64, 17, 0, 0];
    packet.extend(source.octets());
    packet.extend(destination.octets());
    packet.extend([0; 8]);
    packet.extend(number.to_be_bytes());
    packet
}

fn number_of(packet: &[u8]) -> u32 {
    u32::from_be_bytes(*packet.last_chunk().unwrap())
}

fn seconds(s: u64) -> Duration {
    Duration::from_secs(s)
}

#[test]
fn the_first_packet_between_two_neighbours_arrives() {
    let mut world = World::new(1, &[false, false]);
    world.packet(0, 1, 7);
    world.run(Duration::from_millis(50));
    assert_eq!(world.numbers(1), [7]);
    assert_eq!(world.state(0, 1), PeerState::Direct);
}

#[test]
fn nodes_without_underlay_between_them_talk_through_a_relay_and_lose_nothing() {
    let mut world = World::new(2, &[false, false, true]);
    world.cut.insert((0, 1));
    world.run(seconds(2));
    for number in 0..5 {
        world.packet(0, 1, number);
        world.run(Duration::from_millis(20));
    }
    world.run(seconds(1));
    assert_eq!(world.numbers(1), [0, 1, 2, 3, 4], "{:?}", world.hosts[0].events);
    assert_eq!(world.state(0, 1), PeerState::Relayed);
}

#[test]
fn a_dead_relay_is_replaced_within_a_second_and_a_half() {
    let mut world = World::new(3, &[false, false, true, true]);
    world.cut.insert((0, 1));
    world.run(seconds(3));
    let mut number = 0;
    let mut flow = |world: &mut World| {
        world.packet(0, 1, number);
        number += 1;
    };
    world.run_with(seconds(5), &mut flow);
    let relay = world.relay_in_use();
    world.silent.insert(relay);
    world.run_with(seconds(5), &mut flow);
    let times: Vec<Mono> = world.hosts[1].received.iter().map(|(at, _)| *at).collect();
    let gap = times.windows(2).map(|pair| pair[1].since(pair[0])).max().unwrap();
    assert!(gap < Duration::from_millis(1500), "gap {gap:?} {:?}", world.hosts[0].events);
    let unique: BTreeSet<u32> = world.numbers(1).into_iter().collect();
    assert_eq!(unique.len(), world.numbers(1).len(), "duplicates reached the application");
}

#[test]
fn a_relay_that_is_reported_unreachable_costs_no_packet() {
    let mut world = World::new(8, &[false, false, true, true]);
    world.cut.insert((0, 1));
    world.run(seconds(3));
    let mut number = 0;
    let mut flow = |world: &mut World| {
        world.packet(0, 1, number);
        number += 1;
    };
    world.run_with(seconds(3), &mut flow);
    let relay = world.relay_in_use();
    world.silent.insert(relay);
    // The news are a while on their way: what is sent meanwhile is lost, and sent again.
    world.run_with(Duration::from_millis(100), &mut flow);
    let (at, now) = (world.hosts[relay].address, world.now);
    world.hosts[0].node.as_mut().unwrap().handle_unreachable(now, at);
    world.drain(0);
    world.run_with(seconds(5), &mut flow);
    world.run(seconds(1));
    let numbers = world.numbers(1);
    let unique: BTreeSet<u32> = numbers.iter().copied().collect();
    let lost: Vec<u32> = (0..number).filter(|number| !unique.contains(number)).collect();
    assert!(lost.is_empty(), "lost {lost:?} of {number}; {:?}", world.hosts[0].events);
    assert_eq!(numbers.len(), unique.len(), "duplicates reached the application");
}

#[test]
fn sessions_of_neighbours_outlive_their_keys_and_others_end() {
    let mut world = World::new(9, &[false, false, true]);
    world.packet(0, 1, 1);
    world.run(seconds(400));
    assert_eq!(world.state(0, 2), PeerState::Direct);
    assert_eq!(world.state(0, 1), PeerState::Idle);
    world.packet(0, 1, 2);
    world.run(seconds(1));
    assert_eq!(world.numbers(1), [1, 2]);
}

#[test]
fn a_relayed_pair_moves_to_the_direct_path_when_it_works_and_loses_nothing() {
    let mut world = World::new(4, &[false, false, true]);
    world.cut.insert((0, 1));
    world.run(seconds(2));
    let mut number = 0;
    let mut flow = |world: &mut World| {
        world.packet(0, 1, number);
        number += 1;
    };
    world.run_with(seconds(3), &mut flow);
    assert_eq!(world.state(0, 1), PeerState::Relayed);
    world.cut.clear();
    world.run_with(seconds(31), &mut flow);
    assert_eq!(world.state(0, 1), PeerState::Direct);
    world.run(seconds(1));
    let numbers: BTreeSet<u32> = world.numbers(1).into_iter().collect();
    assert_eq!(numbers.len() as u32, number, "lost {}", number as usize - numbers.len());
}

#[test]
fn a_restarted_node_is_back_within_two_seconds() {
    let mut world = World::new(5, &[false, false, true]);
    world.run(seconds(2));
    let mut number = 0;
    let mut flow = |world: &mut World| {
        world.packet(0, 1, number);
        number += 1;
    };
    world.run_with(seconds(3), &mut flow);
    world.hosts[1].node = None;
    world.run_with(seconds(3), &mut flow);
    let before = world.hosts[1].received.len();
    world.start(1);
    let restarted = world.now.mono;
    world.run_with(seconds(3), &mut flow);
    let first = world.hosts[1].received.get(before).expect("traffic goes on").0;
    assert!(first.since(restarted) < seconds(2), "{:?}", first.since(restarted));
}

#[test]
fn databases_become_equal_and_links_are_announced_by_both_ends() {
    let mut world = World::new(6, &[true, false, false, true, false]);
    world.run(seconds(40));
    let versions: BTreeMap<usize, Vec<_>> = world
        .hosts
        .iter()
        .enumerate()
        .map(|(at, host)| {
            let lsdb = host.node.as_ref().unwrap().lsdb();
            (at, lsdb.iter().map(|(member, entry)| (member, entry.version())).collect())
        })
        .collect();
    for (at, known) in &versions {
        assert_eq!(known, &versions[&0], "node {at}");
        assert_eq!(known.len(), 5);
    }
}

#[test]
fn garbage_and_mutations_change_nothing() {
    use rand::Rng;
    let mut world = World::new(7, &[false, false, true]);
    world.run(seconds(2));
    world.packet(0, 1, 1);
    world.run(seconds(1));
    let mut rng = StdRng::seed_from_u64(99);
    let samples: Vec<Vec<u8>> = (0..40)
        .map(|number| {
            world.packet(0, 1, number);
            let bytes = world.wire.peek().map(|next| next.0.4.clone()).unwrap_or_default();
            world.run(Duration::from_millis(5));
            bytes
        })
        .collect();
    world.run(seconds(1));
    let received = world.hosts[1].received.len();
    let from = world.hosts[2].address;
    let to = world.hosts[1].address;
    for round in 0..20_000_usize {
        let mut bytes = samples[round % samples.len()].clone();
        if bytes.is_empty() || rng.next_u32() % 4 == 0 {
            bytes = (0..rng.next_u32() % 200).map(|_| rng.next_u32() as u8).collect();
            if let Some(first) = bytes.first_mut() {
                *first = 0x10 | (rng.next_u32() % 8) as u8;
            }
        } else {
            let at = rng.next_u32() as usize % bytes.len();
            bytes[at] ^= 1 << (rng.next_u32() % 8);
        }
        world.deliver(from, to, bytes);
    }
    assert_eq!(world.hosts[1].received.len(), received);
    assert_eq!(world.state(1, 0), PeerState::Direct);
    world.packet(0, 1, 4242);
    world.run(Duration::from_millis(50));
    assert_eq!(world.numbers(1).last(), Some(&4242));
}

#[test]
fn an_init_from_before_a_restart_makes_no_keys_after_it() {
    let mut world = World::new(16, &[false, false]);
    world.run(seconds(2));
    // An eavesdropper has the init that node 0 sends after a restart.
    world.start(0);
    world.packet(0, 1, 1);
    let to = world.hosts[1].address;
    let mut inits = world.wire.iter().filter(|in_flight| in_flight.0.3 == to).map(|in_flight| &in_flight.0.4);
    let recorded = inits.find(|datagram| Kind::of(datagram) == Some(Kind::Init)).unwrap().clone();
    let stats = |world: &World| world.hosts[1].node.as_ref().unwrap().handshake_stats();
    let accepted = stats(&world).inits_accepted;
    world.run(seconds(1));
    assert_eq!(stats(&world).inits_accepted, accepted + 1);
    let cache = world.hosts[1].node.as_ref().unwrap().export_cache();
    let address = world.hosts[0].address;
    // Without the timestamps it is not known again.
    for (cache, challenged) in [(cache, 1), (without_seen(&world), 0)] {
        world.hosts[1].cache = cache;
        world.start(1);
        world.silent.insert(0);
        let via = Via::Direct { from: address, socket: SocketId(0) };
        world.hosts[1].node.as_mut().unwrap().handle_datagram(world.now, via, &recorded);
        assert_eq!(stats(&world).challenges_sent, challenged);
        assert!(challenged == 0 || stats(&world).inits_accepted == 0);
    }
    // And the real one is back all the same.
    world.silent.clear();
    let before = world.hosts[1].received.len();
    for number in 0..30 {
        world.packet(0, 1, number);
        world.run(Duration::from_millis(100));
    }
    assert!(world.hosts[1].received.len() > before);
}

/// A cache as it was before timestamps were in it.
fn without_seen(world: &World) -> Vec<u8> {
    let cache = world.hosts[1].node.as_ref().unwrap().export_cache();
    let at = cache.windows(6).position(|window| window == b"seen 1").unwrap();
    cache[..at - 2].to_vec()
}

#[test]
fn no_endpoint_inside_the_overlay_is_dialled() {
    let mut world = World::new(17, &[false, false]);
    world.run(seconds(1));
    let node = world.hosts[0].node.as_ref().unwrap();
    let member6 = crate::membership::mesh_network6(node.membership().mesh()).addr();
    for inside in [IpAddr::from([10, 99, 0, 2]), IpAddr::from([10, 99, 250, 1]), member6.into()] {
        assert!(!node.is_dialable(SocketAddr::new(inside, 7946)), "{inside}");
    }
    for never in ["0.0.0.0:7946", "224.0.0.1:7946", "192.0.2.9:0", "[ff02::1]:1"] {
        assert!(!node.is_dialable(never.parse().unwrap()), "{never}");
    }
    assert!(node.is_dialable("192.0.2.77:7946".parse().unwrap()));
}

#[test]
fn no_path_leads_into_a_subnet_that_is_reached_through_the_mesh() {
    let mut world = World::new(18, &[false, false]);
    world.run(seconds(1));
    let (now, other) = (world.now, world.hosts[1].node.as_ref().unwrap().me.member);
    let node = world.hosts[0].node.as_mut().unwrap();
    let allows = |node: &Node, endpoint: &str| {
        let remote = endpoint.parse().unwrap();
        node.policy_for(now, other).allows(&PathId::Direct { socket: SocketId(0), remote })
    };
    assert!(allows(node, "192.168.7.1:7946"), "nobody has announced it");
    node.routing.prefixes = ["0.0.0.0/0", "192.168.7.0/24"].map(|prefix| prefix.parse().unwrap()).to_vec();
    assert!(!allows(node, "192.168.7.1:7946"), "it would be reached through the mesh");
    assert!(!allows(node, "10.99.0.2:7946"), "the overlay itself");
    assert!(allows(node, "192.168.8.1:7946") && allows(node, "192.0.2.77:7946"));
    node.settings.interface_addresses.push("192.168.7.50".parse().unwrap());
    assert!(allows(node, "192.168.7.1:7946"), "a neighbour on the LAN");
}
