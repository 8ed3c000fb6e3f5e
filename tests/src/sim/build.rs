//! Building a world: sites, machines with their certificates and keys, and the mesh that they form.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::time::Duration;

use meshnet::crypto::{Suite, TransportSecret};
use meshnet::dataplane::DEFAULT_MTU;
use meshnet::membership::{CLOCK_TOLERANCE_S, DEFAULT_LIFETIME_S, IdentitySecret, Request, Signer, issue};
use meshnet::node::{KeyRing, OwnEpoch, PostQuantum, Settings, Socket, StreamSocket};
use meshnet::path::SocketId;
use meshnet::time::UnixMs;
use proto::certificate::Roles;
use proto::id::{KeyEpochNumber, Name};
use proto::key_epoch::KeyEpoch;
use proto::record::Subnet;
use rand::RngExt;

use super::machine::{Disk, Machine, START};
use super::nat::{Nat, NatKind};
use super::net::{Link, Site, SiteId, Uplink};
use super::world::{MachineId, Metered, PORT, World};

/// When the certificates were issued: ten days before the beginning.
const ISSUED: UnixMs = UnixMs(START.0 - 10 * 24 * 3600 * 1000);

/// What a machine is to be.
#[derive(Clone, Debug)]
pub struct Spec {
    name: String,
    places: Vec<(SiteId, IpAddr)>,
    relay: bool,
    subnets: Vec<Subnet>,
    endpoint: bool,
    tcp: bool,
    discovery: bool,
    pq: PostQuantum,
    roles: Roles,
    lifetime_s: u64,
    datacenter: Option<Name>,
    capacity: Option<u64>,
}

impl Spec {
    /// A plain member with one interface.
    pub fn new(name: &str, site: SiteId, address: &str) -> Spec {
        let places = vec![(site, address.parse().expect("an address"))];
        Spec {
            name: name.into(),
            places,
            relay: false,
            subnets: Vec::new(),
            endpoint: false,
            tcp: false,
            discovery: false,
            pq: PostQuantum::Off,
            roles: Roles::default(),
            lifetime_s: DEFAULT_LIFETIME_S,
            datacenter: None,
            capacity: None,
        }
    }

    /// With another interface.
    #[must_use]
    pub fn and(mut self, site: SiteId, address: &str) -> Spec {
        self.places.push((site, address.parse().expect("an address")));
        self
    }

    /// A relay, with its first address configured as an endpoint.
    #[must_use]
    pub fn relay(self) -> Spec {
        Spec { relay: true, endpoint: true, ..self }
    }

    /// In a datacentre.
    #[must_use]
    pub fn datacenter(self, name: &str) -> Spec {
        Spec { datacenter: Some(Name::new(name).expect("a name")), ..self }
    }

    /// Configured to relay no more than so many bytes a second.
    #[must_use]
    pub fn capacity(self, bytes_per_s: u64) -> Spec {
        Spec { capacity: Some(bytes_per_s), ..self }
    }

    /// Listening on TCP.
    #[must_use]
    pub fn tcp(self) -> Spec {
        Spec { tcp: true, ..self }
    }

    /// Announcing itself to its local networks.
    #[must_use]
    pub fn discovery(self) -> Spec {
        Spec { discovery: true, ..self }
    }

    /// With post-quantum sessions.
    #[must_use]
    pub fn pq(self, pq: PostQuantum) -> Spec {
        Spec { pq, ..self }
    }

    /// With a certificate that has so long to go; it was issued ten days ago.
    #[must_use]
    pub fn ends_in(self, left: Duration) -> Spec {
        Spec { lifetime_s: (START.seconds() - ISSUED.seconds()) + CLOCK_TOLERANCE_S + left.as_secs(), ..self }
    }

    /// With a role beside that of a relay.
    #[must_use]
    pub fn role(self, role: Roles) -> Spec {
        Spec { roles: self.roles.union(role), ..self }
    }

    /// Announcing a subnet.
    #[must_use]
    pub fn subnet(mut self, prefix: &str, weight: u16) -> Spec {
        self.subnets.push(Subnet { prefix: prefix.parse().expect("a prefix"), weight });
        self
    }
}

impl World {
    /// Adds a site whose addresses are the internet's.
    pub fn public_site(&mut self, subnet: &str, wan: Link) -> SiteId {
        self.site(subnet, Uplink::Public, wan)
    }

    /// Adds a site behind a translator, whose mappings live for a minute.
    pub fn nat_site(&mut self, subnet: &str, kind: NatKind, public: &str, wan: Link) -> SiteId {
        let nat = Nat::new(kind, public.parse().expect("an address"), 60_000_000);
        self.site(subnet, Uplink::Nat(nat), wan)
    }

    /// Adds a site that reaches no other.
    pub fn closed_site(&mut self, subnet: &str) -> SiteId {
        self.site(subnet, Uplink::None, Link::delay_ms(0))
    }

    /// Adds a machine with its certificate and keys. Its daemon does not run yet.
    pub fn add(&mut self, spec: Spec) -> MachineId {
        let index = self.machines.len();
        let host = self.net.add_host(spec.places.clone());
        assert_eq!(host.0, index, "every host is a machine");
        let (disk, settings) = self.certify(&spec, index);
        let mono_start_us = self.rng.random_range(0..1 << 40);
        self.machines.push(Machine::new(disk, settings, mono_start_us));
        self.wakes.push((u64::MAX, 0));
        self.metered.push(Metered::default());
        MachineId(index)
    }

    /// What the machine of a number is made from.
    pub(super) fn certify(&mut self, spec: &Spec, index: usize) -> (Disk, Settings) {
        let number = index + 1;
        let identity: [u8; 32] = self.rng.random();
        let transport = TransportSecret::random(&mut self.rng);
        let secret = IdentitySecret::from_bytes(&identity);
        let request = Request {
            identity: secret.public(),
            name: Name::new(&spec.name).expect("a name"),
            addresses: vec![IpAddr::V4(Ipv4Addr::new(10, 99, (number >> 8) as u8, number as u8))],
            prefixes: spec.subnets.iter().map(|subnet| subnet.prefix).collect(),
            roles: if spec.relay { spec.roles.union(Roles::RELAY) } else { spec.roles },
            constraints: None,
            lifetime_s: spec.lifetime_s,
        };
        let certificate =
            issue(ISSUED, &self.trust, &Signer::Root(&self.authority), request, None, self.rng.random())
                .expect("the certificate is acceptable");
        let epoch = secret
            .sign_key_epoch(KeyEpoch {
                mesh: self.trust.mesh(),
                member: certificate.body().member,
                number: KeyEpochNumber(1),
                key: transport.public(),
                created_s: START.seconds(),
                capabilities: Suite::local_capabilities(),
            })
            .expect("an epoch fits");
        let disk = Disk {
            identity,
            gate: self.gate.clone(),
            keys: KeyRing::first(OwnEpoch { secret: transport, signed: epoch }),
            revocations: Vec::new(),
            certificate,
            issuer: None,
            trust: self.trust.clone(),
            authority: None,
            plan: None,
            key_writes: 0,
            boot: 0,
            timestamp_floor_us: 0,
            cache: Vec::new(),
        };
        let addresses: Vec<IpAddr> = spec.places.iter().map(|(_, address)| *address).collect();
        let endpoints = if spec.endpoint { vec![SocketAddr::new(addresses[0], PORT)] } else { Vec::new() };
        let listener = StreamSocket { tls: false, port: PORT, ipv4: true, ipv6: true, bound: None };
        let settings = Settings {
            datacenter: spec.datacenter.clone(),
            relay_capacity: spec.capacity,
            subnets: spec.subnets.clone(),
            relay: spec.relay,
            endpoints,
            interface_addresses: addresses,
            sockets: vec![Socket { id: SocketId(0), port: PORT, ipv4: true, ipv6: true, bound: None }],
            streams: if spec.tcp { vec![listener] } else { Vec::new() },
            dial_tcp: true,
            mtu: DEFAULT_MTU,
            lan_discovery: spec.discovery,
            pq: spec.pq,
            ..Settings::default()
        };
        (disk, settings)
    }

    /// Starts the first of the machines, and lets the others join there one after the other.
    pub fn form(&mut self, machines: &[MachineId]) {
        self.start(machines[0]);
        for machine in &machines[1..] {
            self.run_for(Duration::from_millis(200));
            self.join(*machine, machines[0]);
        }
    }

    fn site(&mut self, subnet: &str, uplink: Uplink, wan: Link) -> SiteId {
        let subnets = vec![subnet.parse().expect("a prefix")];
        let lan = Link { delay_us: 200, jitter_us: 50, ..Link::delay_ms(0) };
        self.net.add_site(Site { subnets, uplink, up: true, lan, isolated: false, hairpin: false, wan })
    }
}
