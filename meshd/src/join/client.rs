//! The joiner's end: asks at every endpoint of the invitation, goes on with the one that answers.

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use meshnet::crypto::TransportSecret;
use meshnet::membership::IdentitySecret;
use meshnet::session::join::{JoinContext, JoinInitiator, JoinKeys};
use proto::invitation::{Host, Invitation};
use proto::join::{JOIN_MAX_LEN, Join, Stage};
use rand::rngs::StdRng;
use tokio::net::UdpSocket;
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio::time::Instant;
use tracing::debug;

use super::{Implausible, InviterProof, JoinerProof, Refusal, Welcome};

/// Time to the first repetition; grows by half each time, up to [`MAX_PAUSE`].
const FIRST_PAUSE: Duration = Duration::from_millis(400);
/// Longest time between repetitions.
const MAX_PAUSE: Duration = Duration::from_secs(2);
/// Repetitions without answer after which the other endpoints are asked again.
const REPEATS_BEFORE_SEARCH: u32 = 3;
/// Longest time for a name.
const LOOK_UP_LIMIT: Duration = Duration::from_secs(5);
/// Most addresses asked: names may have several.
const MAX_TARGETS: usize = 16;

/// The keys that the newcomer will have.
pub struct Keys<'a> {
    /// Its identity.
    pub identity: &'a IdentitySecret,
    /// Its first transport key.
    pub transport: &'a TransportSecret,
    /// That key's epoch, signed.
    pub epoch: &'a [u8],
}

/// Why a join did not succeed. All but the refusals may be tried again.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// Nobody answered.
    #[error("{}", unreachable(.0, *.1))]
    Unreachable(Vec<Attempt>, Duration),
    /// The inviter says no.
    #[error("the inviting node says: {0}")]
    Refused(Refusal),
    /// The inviter says no for a reason that this version does not know.
    #[error("the inviting node refuses for a reason that this version of meshd does not know (number {0})")]
    RefusedUnknown(u8),
    /// Who answered is not to be believed.
    #[error("{from} answers, but not as the invitation demands: {why}")]
    Implausible {
        /// Who answered.
        from: SocketAddr,
        /// What was wrong.
        why: Implausible,
    },
    /// The inviter answered, but then fell silent.
    #[error("{0} began to answer, but fell silent: try again, the invitation is not lost")]
    Interrupted(SocketAddr),
    /// No socket could be made.
    #[error("cannot open a UDP socket")]
    Socket(#[from] io::Error),
}

/// What became of one endpoint.
#[derive(Debug, Clone)]
pub struct Attempt {
    /// The endpoint as in the invitation, or an address it stands for.
    pub endpoint: String,
    /// What happened.
    pub outcome: String,
}

fn unreachable(attempts: &[Attempt], patience: Duration) -> String {
    let mut text = format!("none of the invitation's endpoints answered within {} s", patience.as_secs());
    for attempt in attempts {
        text += &format!("\n  {}: {}", attempt.endpoint, attempt.outcome);
    }
    text + "\nIs the inviting node's daemon running, and are its UDP ports open? The invitation is not lost: try again"
}

/// Joins with `invitation`.
///
/// # Errors
/// [`Error`].
pub async fn join(
    invitation: &Invitation,
    keys: &Keys<'_>,
    patience: Duration,
    rng: &mut StdRng,
) -> Result<Welcome, Error> {
    let deadline = Instant::now() + patience;
    let (mut targets, failed) = find_targets(invitation).await;
    let context = JoinContext::random(invitation.mesh, invitation.inviter, rng);
    let join_keys = JoinKeys::of_secret(&invitation.secret);
    let mut exchange = Exchange {
        initiator: JoinInitiator::new(context, join_keys, keys.transport, rng),
        invitation,
        keys,
        token: context.token,
    };
    let (heard_tx, mut heard) = mpsc::channel(64);
    let mut listeners = JoinSet::new();
    for (index, target) in targets.iter_mut().enumerate() {
        let Some(socket) = target.open().await else { continue };
        listeners.spawn(listen(index, socket, heard_tx.clone()));
    }
    let mut chosen: Option<usize> = None;
    let mut ever: Option<SocketAddr> = None;
    let (mut pause, mut silent) = (FIRST_PAUSE, 0);
    loop {
        if let Some(datagram) = exchange.initiator.poll_datagram() {
            if silent >= REPEATS_BEFORE_SEARCH {
                chosen = None;
            }
            for (index, target) in targets.iter_mut().enumerate() {
                if chosen.is_none_or(|chosen| chosen == index) {
                    target.send(&datagram);
                }
            }
        }
        let step_ends = deadline.min(Instant::now() + pause);
        match tokio::time::timeout_at(step_ends, heard.recv()).await {
            Ok(Some((index, Ok(datagram)))) => match exchange.handle(&datagram, targets[index].address)? {
                Step::Ignored => targets[index].outcome = "answers, but not to this invitation".into(),
                Step::Progress => {
                    (chosen, ever) = (Some(index), Some(targets[index].address));
                    (pause, silent) = (FIRST_PAUSE, 0);
                }
                Step::Done(welcome) => return Ok(*welcome),
            },
            Ok(Some((index, Err(error)))) => targets[index].note(&error),
            Ok(None) | Err(_) => {
                silent += 1;
                pause = pause.mul_f64(1.5).min(MAX_PAUSE);
            }
        }
        if Instant::now() >= deadline {
            let attempts = targets.iter().map(Target::attempt).chain(failed).collect();
            return Err(ever.map_or(Error::Unreachable(attempts, patience), Error::Interrupted));
        }
    }
}

struct Exchange<'a> {
    initiator: JoinInitiator,
    invitation: &'a Invitation,
    keys: &'a Keys<'a>,
    token: u32,
}

enum Step {
    Ignored,
    Progress,
    Done(Box<Welcome>),
}

impl Exchange<'_> {
    fn handle(&mut self, datagram: &[u8], from: SocketAddr) -> Result<Step, Error> {
        let Ok(join) = Join::parse(datagram) else { return Ok(Step::Ignored) };
        if join.token != self.token || join.inviter != self.invitation.inviter {
            return Ok(Step::Ignored);
        }
        let implausible = |why| Error::Implausible { from, why };
        match join.stage {
            Stage::Answer(piece) => match self.initiator.handle_answer(&piece) {
                Ok(None) => Ok(Step::Progress),
                Ok(Some(says)) => {
                    let Invitation { mesh, key_hash, .. } = self.invitation;
                    InviterProof::parse(&says.payload, *mesh, key_hash, &says.static_key)
                        .map_err(implausible)?;
                    let identity = self.keys.identity;
                    let signature = identity.sign_join(&says.binding);
                    let payload = JoinerProof::emit(&identity.public(), &signature, self.keys.epoch);
                    self.initiator.finish(&payload).map_err(|_| implausible(Implausible::Malformed))?;
                    Ok(Step::Progress)
                }
                Err(error) => Ok(ignored(&error)),
            },
            Stage::Welcome(piece) => match self.initiator.handle_welcome(&piece) {
                Ok(None) => Ok(Step::Progress),
                Ok(Some(content)) => {
                    let content = zeroize::Zeroizing::new(content);
                    let identity = self.keys.identity.public();
                    let welcome =
                        Welcome::parse(&content, self.invitation.mesh, &identity).map_err(implausible)?;
                    Ok(Step::Done(Box::new(welcome)))
                }
                Err(error) => Ok(ignored(&error)),
            },
            Stage::Refused(bytes) => match self.initiator.handle_refused(bytes) {
                Ok(code) => Err(Refusal::of_code(code).map_or(Error::RefusedUnknown(code), Error::Refused)),
                Err(error) => Ok(ignored(&error)),
            },
            Stage::Hello { .. } | Stage::Finish(_) | Stage::Request { .. } => Ok(Step::Ignored),
        }
    }
}

/// A datagram that does not open may be forged: the right one may still come.
fn ignored(error: &meshnet::session::join::JoinError) -> Step {
    debug!(%error, "join datagram not accepted");
    Step::Ignored
}

struct Target {
    endpoint: String,
    address: SocketAddr,
    socket: Option<Arc<UdpSocket>>,
    outcome: String,
}

impl Target {
    /// A socket of its own for each target: connected, it tells of ICMP errors.
    async fn open(&mut self) -> Option<Arc<UdpSocket>> {
        let any: IpAddr = match self.address {
            SocketAddr::V4(_) => Ipv4Addr::UNSPECIFIED.into(),
            SocketAddr::V6(_) => Ipv6Addr::UNSPECIFIED.into(),
        };
        let opened = async {
            let socket = UdpSocket::bind((any, 0)).await?;
            socket.connect(self.address).await?;
            io::Result::Ok(Arc::new(socket))
        };
        match opened.await {
            Ok(socket) => self.socket = Some(socket),
            Err(error) => self.note(&error),
        }
        self.socket.clone()
    }

    fn send(&mut self, datagram: &[u8]) {
        let Some(socket) = &self.socket else { return };
        match socket.try_send(datagram) {
            // A full buffer drops it, as the network might.
            Err(error) if error.kind() != io::ErrorKind::WouldBlock => self.note(&error),
            _ => {}
        }
    }

    fn note(&mut self, error: &io::Error) {
        self.outcome = match error.kind() {
            io::ErrorKind::ConnectionRefused => "nobody listens there".into(),
            io::ErrorKind::NetworkUnreachable | io::ErrorKind::HostUnreachable => {
                "cannot be reached from here".into()
            }
            _ => error.to_string(),
        };
    }

    fn attempt(&self) -> Attempt {
        Attempt { endpoint: self.endpoint.clone(), outcome: self.outcome.clone() }
    }
}

async fn listen(index: usize, socket: Arc<UdpSocket>, heard: mpsc::Sender<(usize, io::Result<Vec<u8>>)>) {
    let mut buffer = vec![0; JOIN_MAX_LEN + 1];
    loop {
        let received = socket.recv(&mut buffer).await.map(|len| buffer[..len].to_vec());
        let failed = received.is_err();
        if heard.send((index, received)).await.is_err() {
            return;
        }
        if failed {
            // An error is told once for each ICMP message; do not spin on one that stays.
            tokio::time::sleep(FIRST_PAUSE).await;
        }
    }
}

async fn look_up(name: &str, port: u16) -> Option<Vec<SocketAddr>> {
    let found = tokio::time::timeout(LOOK_UP_LIMIT, tokio::net::lookup_host((name, port))).await;
    Some(found.ok()?.ok()?.collect())
}

/// Addresses of the invitation's endpoints, in its order, and what failed.
async fn find_targets(invitation: &Invitation) -> (Vec<Target>, Vec<Attempt>) {
    let (mut targets, mut failed) = (Vec::<Target>::new(), Vec::new());
    for endpoint in &invitation.endpoints {
        let text = endpoint.to_string();
        let addresses: Vec<SocketAddr> = match &endpoint.host {
            Host::Ip(ip) => vec![SocketAddr::new(*ip, endpoint.port)],
            Host::Name(name) => match look_up(name, endpoint.port).await {
                Some(found) => found,
                None => {
                    failed.push(Attempt { endpoint: text, outcome: "the name cannot be looked up".into() });
                    continue;
                }
            },
        };
        for address in addresses {
            if targets.len() < MAX_TARGETS && !targets.iter().any(|other| other.address == address) {
                let shown =
                    if text == address.to_string() { text.clone() } else { format!("{text} ({address})") };
                targets.push(Target { endpoint: shown, address, socket: None, outcome: "no answer".into() });
            }
        }
    }
    (targets, failed)
}
