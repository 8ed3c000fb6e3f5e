use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use meshnet::crypto::TransportSecret;
use meshnet::io::clock;
use meshnet::membership::{IdentitySecret, Membership};
use meshnet::session::join::JoinKeys;
use proto::id::Name;
use proto::invitation::{Invitation as Url, key_hash};
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};
use tokio::net::UdpSocket;

use super::client::{self, Error, Keys};
use super::server::{Mesh, Server};
use super::*;
use crate::founding::{FIRST_EPOCH, Founder};
use crate::state::files::{TransportKey, TransportKeys};
use crate::state::invitations::{Invitation, Psk, Register};
use crate::state::{Home, StateDir};

const PATIENCE: Duration = Duration::from_secs(20);
const SECRET: [u8; 16] = [7; 16];

struct Facts(Membership, Vec<Vec<u8>>);

impl Mesh for Facts {
    fn membership(&self) -> &Membership {
        &self.0
    }

    fn objects(&self) -> Vec<Vec<u8>> {
        self.1.clone()
    }
}

/// A founded mesh with one open invitation, for `node-b` at 10.9.0.2.
struct Inviter {
    _directory: tempfile::TempDir,
    home: Home,
    register: Register,
}

impl Inviter {
    fn new() -> Inviter {
        let directory = tempfile::tempdir().unwrap();
        let state = StateDir::create(&directory.path().join("state")).unwrap();
        let founder = Founder {
            mesh: Name::new("test").unwrap(),
            name: Name::new("node-a").unwrap(),
            network: "10.9.0.0/16".parse().unwrap(),
            address: "10.9.0.1".parse().unwrap(),
            prefixes: vec![],
        };
        let mut rng = StdRng::seed_from_u64(1);
        founder.found(&state, clock::wall(), &mut rng).unwrap().complete(&state).unwrap();
        let home = Home::load(state.clone()).unwrap();
        let register = Register::open(&state).unwrap();
        let inviter = Inviter { _directory: directory, home, register };
        inviter.put(3_600, None);
        inviter
    }

    fn put(&self, ttl_s: i64, address: Option<&str>) {
        let keys = JoinKeys::of_secret(&SECRET);
        let now_s = clock::wall().seconds();
        let invitation = Invitation {
            id: keys.invitation.0,
            psk: Psk(*keys.psk.bytes()),
            name: "node-b".into(),
            addresses: vec![address.unwrap_or("10.9.0.2").parse().unwrap()],
            prefixes: vec!["192.168.7.0/24".parse().unwrap()],
            roles: 0,
            limits: Default::default(),
            created_s: now_s,
            expires_s: now_s.saturating_add_signed(ttl_s),
            redeemed: None,
        };
        self.register.lock().unwrap().put(&invitation).unwrap();
    }

    fn url(&self, endpoints: &[SocketAddr]) -> Url {
        let certificate = self.home.certificate.body();
        Url {
            mesh_name: Name::new("test").unwrap(),
            mesh: self.home.chain.mesh(),
            inviter: certificate.member,
            key_hash: key_hash(&certificate.identity),
            secret: SECRET,
            expires_s: u64::MAX,
            endpoints: endpoints.iter().map(|endpoint| endpoint.to_string().parse().unwrap()).collect(),
            streams: Vec::new(),
        }
    }

    fn server(&self) -> Server {
        let keys = TransportKeys::load(&self.home.state).unwrap();
        let key = &keys.keys[0];
        let epoch = Signed::parse(&key.epoch).unwrap();
        Server::new(self.register.clone(), TransportSecret::new(key.secret), epoch)
    }

    /// Answers on `socket` for ever, losing and doubling each datagram with the given chances.
    async fn serve(&self, socket: &UdpSocket, loss: f64, seed: u64, joined: &AtomicU64) {
        let mut rng = StdRng::seed_from_u64(seed);
        let mut server = self.server();
        let facts = Facts(self.home.membership(clock::wall()).unwrap(), vec![vec![1, 3, 0, 0]; 600]);
        let mut buffer = [0; 2048];
        loop {
            let (len, from) = socket.recv_from(&mut buffer).await.unwrap();
            for _ in 0..1 + u8::from(rng.random_bool(loss)) {
                if rng.random_bool(loss) {
                    continue;
                }
                let outcome = server.handle(clock::now(), &self.home, &facts, &buffer[..len], &mut rng);
                joined.fetch_add(u64::from(outcome.joined.is_some()), Ordering::Relaxed);
                if let Some(answer) = outcome.answer.filter(|_| !rng.random_bool(loss)) {
                    socket.send_to(&answer, from).await.unwrap();
                }
            }
        }
    }
}

struct Newcomer {
    identity: IdentitySecret,
    key: TransportKey,
    rng: StdRng,
}

impl Newcomer {
    fn new(seed: u64, mesh: MeshId) -> Newcomer {
        let mut rng = StdRng::seed_from_u64(seed);
        let identity = IdentitySecret::generate(&mut rng);
        let key = TransportKey::generate(&mut rng, &identity, mesh, FIRST_EPOCH, 1).unwrap();
        Newcomer { identity, key, rng }
    }

    async fn join(&mut self, url: &Url, patience: Duration) -> Result<Welcome, Error> {
        let transport = TransportSecret::new(self.key.secret);
        let keys = Keys { identity: &self.identity, transport: &transport, epoch: &self.key.epoch };
        client::join(url, &keys, None, patience, &mut self.rng).await
    }
}

async fn socket() -> (UdpSocket, SocketAddr) {
    let socket = UdpSocket::bind("127.0.0.1:0").await.unwrap();
    let address = socket.local_addr().unwrap();
    (socket, address)
}

/// Runs `body` while the inviter serves.
async fn while_serving<T>(
    inviter: &Inviter,
    socket: &UdpSocket,
    loss: f64,
    body: impl Future<Output = T>,
) -> (T, u64) {
    let joined = AtomicU64::new(0);
    let result = tokio::select! {
        () = inviter.serve(socket, loss, 5, &joined) => unreachable!("it serves for ever"),
        result = body => result,
    };
    (result, joined.load(Ordering::Relaxed))
}

#[tokio::test]
async fn an_invitation_makes_a_member_and_repeating_it_gives_the_same_certificate() {
    let inviter = Inviter::new();
    let (socket, address) = socket().await;
    let url = inviter.url(&[address]);
    let mut newcomer = Newcomer::new(2, url.mesh);
    let ((), joined) = while_serving(&inviter, &socket, 0.0, async {
        let first = newcomer.join(&url, PATIENCE).await.unwrap();
        let certificate = first.certificate.body();
        assert_eq!(certificate.name.as_str(), "node-b");
        assert_eq!(certificate.addresses, ["10.9.0.2".parse::<std::net::IpAddr>().unwrap()]);
        assert_eq!(*first.gate, *inviter.home.gate().unwrap());
        assert_eq!(first.others.len(), 600);
        let again = newcomer.join(&url, PATIENCE).await.unwrap();
        assert_eq!(again.certificate.signed(), first.certificate.signed());
    })
    .await;
    assert_eq!(joined, 2);
}

#[tokio::test]
async fn joining_survives_loss_and_duplication() {
    let inviter = Inviter::new();
    let (socket, address) = socket().await;
    let url = inviter.url(&["127.0.0.1:9".parse().unwrap(), address]);
    let mut newcomer = Newcomer::new(3, url.mesh);
    let (welcome, _) =
        while_serving(&inviter, &socket, 0.2, newcomer.join(&url, Duration::from_secs(60))).await;
    assert_eq!(welcome.unwrap().others.len(), 600);
}

#[tokio::test]
async fn of_ten_at_once_exactly_one_gets_in_and_the_others_learn_why_not() {
    let inviter = Inviter::new();
    let (socket, address) = socket().await;
    let url = Arc::new(inviter.url(&[address]));
    let (results, _) = while_serving(&inviter, &socket, 0.0, async {
        let mut running = tokio::task::JoinSet::new();
        for seed in 10..20 {
            let url = url.clone();
            running.spawn(async move { Newcomer::new(seed, url.mesh).join(&url, PATIENCE).await });
        }
        running.join_all().await
    })
    .await;
    let winners = results.iter().filter(|result| result.is_ok()).count();
    let refused =
        results.iter().filter(|result| matches!(result, Err(Error::Refused(Refusal::Used)))).count();
    assert_eq!((winners, refused), (1, 9));
}

#[tokio::test]
async fn expired_and_taken_invitations_are_refused_with_the_reason() {
    let inviter = Inviter::new();
    let (socket, address) = socket().await;
    let url = inviter.url(&[address]);
    for (ttl_s, promised, expected) in
        [(-1, None, Refusal::Expired), (3_600, Some("10.9.0.1"), Refusal::Taken)]
    {
        inviter.put(ttl_s, promised);
        let mut newcomer = Newcomer::new(4, url.mesh);
        let (result, _) = while_serving(&inviter, &socket, 0.0, newcomer.join(&url, PATIENCE)).await;
        assert!(matches!(result, Err(Error::Refused(reason)) if reason == expected));
        let kept = inviter.register.get(url.id().0).unwrap().unwrap();
        assert_eq!(kept.redeemed, None, "a refusal must not use the invitation up");
    }
}

#[tokio::test]
async fn an_unknown_secret_gets_silence_and_the_joiner_is_told_what_to_check() {
    let inviter = Inviter::new();
    let (socket, address) = socket().await;
    let url = Url { secret: [8; 16], ..inviter.url(&[address]) };
    let mut newcomer = Newcomer::new(5, url.mesh);
    let short = Duration::from_secs(2);
    let (result, _) = while_serving(&inviter, &socket, 0.0, newcomer.join(&url, short)).await;
    let Err(error @ Error::Unreachable(..)) = result else { panic!("somebody answered") };
    assert!(error.to_string().contains(&format!("{address}: no answer")), "{error}");
}

#[tokio::test]
async fn nobody_listening_is_told_at_each_endpoint() {
    let inviter = Inviter::new();
    let (socket, address) = socket().await;
    drop(socket);
    let url = inviter.url(&[address]);
    let Err(error) = Newcomer::new(6, url.mesh).join(&url, Duration::from_secs(1)).await else {
        panic!("joined nobody")
    };
    assert!(error.to_string().contains(&format!("{address}: nobody listens there")), "{error}");
}

#[tokio::test]
async fn an_inviter_with_other_keys_than_the_invitation_names_is_not_believed() {
    let inviter = Inviter::new();
    let (socket, address) = socket().await;
    let url = Url { key_hash: [0; 16], ..inviter.url(&[address]) };
    let mut newcomer = Newcomer::new(7, url.mesh);
    let (result, joined) = while_serving(&inviter, &socket, 0.0, newcomer.join(&url, PATIENCE)).await;
    assert!(matches!(result, Err(Error::Implausible { why: Implausible::SomebodyElse, .. })));
    assert_eq!(joined, 0);
}

#[test]
fn a_joiner_must_hold_every_key_it_shows() {
    let mesh = MeshId([1; 16]);
    let (one, other) = (Newcomer::new(1, mesh), Newcomer::new(2, mesh));
    let key = |newcomer: &Newcomer| TransportSecret::new(newcomer.key.secret).public();
    let signature = one.identity.sign_join(b"binding");
    let good = JoinerProof::emit(&one.identity.public(), &signature, &one.key.epoch);
    JoinerProof::parse(&good, mesh, b"binding", &key(&one)).unwrap();
    let refused = |payload: &[u8], mesh, binding: &[u8], key| {
        JoinerProof::parse(payload, mesh, binding, &key).unwrap_err();
    };
    refused(&good, mesh, b"another", key(&one));
    refused(&good, MeshId([2; 16]), b"binding", key(&one));
    refused(&good, mesh, b"binding", key(&other));
    refused(
        &JoinerProof::emit(&other.identity.public(), &signature, &one.key.epoch),
        mesh,
        b"binding",
        key(&one),
    );
    refused(
        &JoinerProof::emit(&one.identity.public(), &signature, &other.key.epoch),
        mesh,
        b"binding",
        key(&other),
    );
    for cut in 0..good.len() {
        refused(&good[..cut], mesh, b"binding", key(&one));
    }
}

#[test]
fn every_cut_or_changed_byte_of_a_proof_is_refused() {
    let inviter = Inviter::new();
    let keys = TransportKeys::load(&inviter.home.state).unwrap();
    let transport = TransportSecret::new(keys.keys[0].secret).public();
    let proof = InviterProof {
        certificate: inviter.home.certificate.clone(),
        issuer: None,
        epoch: Signed::parse(&keys.keys[0].epoch).unwrap(),
        chain: inviter.home.chain.clone(),
    };
    let (payload, mesh) = (proof.emit(), inviter.home.chain.mesh());
    let hash = key_hash(&proof.certificate.body().identity);
    let parse = |payload: &[u8]| InviterProof::parse(payload, mesh, &hash, &transport);
    assert!(parse(&payload).is_ok());
    for at in 0..payload.len() {
        assert!(parse(&payload[..at]).is_err(), "cut at {at}");
        let mut changed = payload.clone();
        changed[at] ^= 1;
        assert!(parse(&changed).is_err(), "byte {at}");
    }
}

#[tokio::test]
async fn a_register_that_cannot_be_written_refuses_for_now_only() {
    let inviter = Inviter::new();
    let (socket, address) = socket().await;
    let url = inviter.url(&[address]);
    let mut newcomer = Newcomer::new(8, url.mesh);
    // A directory in the lock's place stands for a disk that fails; root may write everywhere else.
    let lock = inviter.home.state.path().join("invitations/lock");
    std::fs::remove_file(&lock).unwrap();
    std::fs::create_dir(&lock).unwrap();
    let (result, _) = while_serving(&inviter, &socket, 0.0, newcomer.join(&url, PATIENCE)).await;
    assert!(matches!(result, Err(Error::Refused(Refusal::Broken))));
    std::fs::remove_dir(&lock).unwrap();
    let (result, joined) = while_serving(&inviter, &socket, 0.0, newcomer.join(&url, PATIENCE)).await;
    assert!(result.is_ok());
    assert_eq!(joined, 1);
}

#[tokio::test]
async fn a_register_that_another_process_holds_delays_a_join_but_not_the_daemon() {
    let inviter = Inviter::new();
    let (socket, address) = socket().await;
    let url = inviter.url(&[address]);
    let mut newcomer = Newcomer::new(9, url.mesh);
    let held = inviter.register.lock().unwrap();
    let later = async {
        tokio::time::sleep(Duration::from_millis(300)).await;
        drop(held);
    };
    let both = async { tokio::join!(newcomer.join(&url, PATIENCE), later).0 };
    let (result, joined) = while_serving(&inviter, &socket, 0.0, both).await;
    assert!(result.is_ok());
    assert_eq!(joined, 1);
}

#[test]
fn what_is_no_join_for_this_node_gets_no_answer() {
    let inviter = Inviter::new();
    let facts = Facts(inviter.home.membership(clock::wall()).unwrap(), vec![]);
    let mut rng = StdRng::seed_from_u64(1);
    let mut server = inviter.server();
    for len in 0..200 {
        let mut datagram: Vec<u8> = (0..len).map(|_| rng.random()).collect();
        if let Some(first) = datagram.first_mut() {
            *first = 0x17;
        }
        let outcome = server.handle(clock::now(), &inviter.home, &facts, &datagram, &mut rng);
        assert!(outcome.answer.is_none() && outcome.joined.is_none());
    }
}
