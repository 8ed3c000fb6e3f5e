//! The joiner's end: asks at every endpoint of the invitation, by UDP and a little later by TCP, goes on with the one that
//! answers.

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use bytes::{Buf, BytesMut};
use meshnet::crypto::TransportSecret;
use meshnet::membership::IdentitySecret;
use meshnet::session::join::{JoinContext, JoinInitiator, JoinKeys};
use proto::invitation::{Host, Invitation};
use proto::join::{JOIN_MAX_LEN, Join, Stage};
use proto::stream;
use rand::rngs::StdRng;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::UdpSocket;
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio::time::Instant;
use tracing::debug;

use crate::daemon::streams::{Dialer, Io};

use super::{Implausible, InviterProof, JoinerProof, Refusal, Welcome};

/// Time to the first repetition; grows by half each time, up to [`MAX_PAUSE`].
const FIRST_PAUSE: Duration = Duration::from_millis(400);
/// Longest time between repetitions.
const MAX_PAUSE: Duration = Duration::from_secs(2);
/// Repetitions without answer after which the other endpoints are asked again.
const REPEATS_BEFORE_SEARCH: u32 = 3;
/// So long UDP has to itself before TCP is tried as well.
const STREAM_AFTER: Duration = Duration::from_secs(1);
/// Time to the next try to connect.
const STREAM_PAUSE: Duration = Duration::from_secs(2);
/// Datagrams that wait for a connection to be made; each is repeated anyway.
const STREAM_QUEUE: usize = 4;
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
    text + "\nIs the inviting node's daemon running, and are its ports open? Where UDP is blocked, a node with `listen_tcp` or \
            `listen_tls` has to make the invitation. The invitation is not lost: try again"
}

/// Joins with `invitation`.
///
/// # Errors
/// [`Error`].
pub async fn join(
    invitation: &Invitation,
    keys: &Keys<'_>,
    dialer: Option<Dialer>,
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
    let dialer = dialer.map(Arc::new);
    for (index, target) in targets.iter_mut().enumerate() {
        match target.by {
            By::Udp => {
                let Some(socket) = target.open().await else { continue };
                listeners.spawn(listen(index, socket, heard_tx.clone()));
            }
            By::Stream { tls } => {
                let Some(dialer) = dialer.clone() else { continue };
                let (queue, waiting) = mpsc::channel(STREAM_QUEUE);
                target.queue = Some(queue);
                listeners.spawn(connect(index, (tls, target.address), dialer, waiting, heard_tx.clone()));
            }
        }
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

/// How a target is asked.
#[derive(Clone, Copy, PartialEq, Eq)]
enum By {
    Udp,
    Stream { tls: bool },
}

struct Target {
    endpoint: String,
    address: SocketAddr,
    by: By,
    socket: Option<Arc<UdpSocket>>,
    /// To the task that has the connection.
    queue: Option<mpsc::Sender<Vec<u8>>>,
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
        if let Some(queue) = &self.queue {
            // Without room, one that says the same waits already.
            let _ = queue.try_send(datagram.to_vec());
        }
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

/// Keeps a connection to a target, over which datagrams go framed ([`proto::stream`]).
async fn connect(
    index: usize,
    (tls, to): (bool, SocketAddr),
    dialer: Arc<Dialer>,
    mut waiting: mpsc::Receiver<Vec<u8>>,
    heard: mpsc::Sender<(usize, io::Result<Vec<u8>>)>,
) {
    tokio::time::sleep(STREAM_AFTER).await;
    loop {
        let ended = match dialer.connect(tls, to).await {
            Ok(io) => carry(io, index, &mut waiting, &heard).await,
            Err(error) => error,
        };
        if heard.send((index, Err(ended))).await.is_err() {
            return;
        }
        tokio::time::sleep(STREAM_PAUSE).await;
    }
}

/// Carries datagrams both ways until the connection ends; why it did.
async fn carry(
    mut io: Box<dyn Io>,
    index: usize,
    waiting: &mut mpsc::Receiver<Vec<u8>>,
    heard: &mpsc::Sender<(usize, io::Result<Vec<u8>>)>,
) -> io::Error {
    let mut read = BytesMut::new();
    loop {
        tokio::select! {
            Some(datagram) = waiting.recv() => {
                let Some(header) = stream::header(datagram.len()) else { continue };
                let written = async {
                    io.write_all(&[&header[..], &datagram].concat()).await?;
                    io.flush().await
                };
                if let Err(error) = written.await {
                    return error;
                }
            }
            got = io.read_buf(&mut read) => match got {
                Ok(0) => return io::ErrorKind::ConnectionReset.into(),
                Ok(_) => {}
                Err(error) => return error,
            },
        }
        loop {
            let (datagram, next) = match stream::first(&read) {
                Ok(Some((datagram, next))) => (datagram.to_vec(), next),
                Ok(None) => break,
                Err(error) => return io::Error::other(error),
            };
            read.advance(next);
            if datagram.len() <= JOIN_MAX_LEN && heard.send((index, Ok(datagram))).await.is_err() {
                return io::ErrorKind::BrokenPipe.into();
            }
        }
    }
}

async fn look_up(name: &str, port: u16) -> Option<Vec<SocketAddr>> {
    let found = tokio::time::timeout(LOOK_UP_LIMIT, tokio::net::lookup_host((name, port))).await;
    Some(found.ok()?.ok()?.collect())
}

/// Addresses of the invitation's endpoints, in its order, those on UDP first, and what failed.
async fn find_targets(invitation: &Invitation) -> (Vec<Target>, Vec<Attempt>) {
    let by_udp = invitation.endpoints.iter().map(|endpoint| (By::Udp, endpoint));
    let by_stream =
        invitation.streams.iter().map(|stream| (By::Stream { tls: stream.tls }, &stream.endpoint));
    let (mut targets, mut failed) = (Vec::<Target>::new(), Vec::new());
    for (by, endpoint) in by_udp.chain(by_stream) {
        let word = match by {
            By::Udp => "",
            By::Stream { tls: false } => "TCP ",
            By::Stream { tls: true } => "TLS ",
        };
        let text = format!("{word}{endpoint}");
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
            let limit = if by == By::Udp { MAX_TARGETS } else { 2 * MAX_TARGETS };
            let known = targets.iter().any(|other| (other.address, other.by) == (address, by));
            if targets.len() < limit && !known {
                let shown = if text == format!("{word}{address}") {
                    text.clone()
                } else {
                    format!("{text} ({address})")
                };
                let outcome = "no answer".into();
                targets.push(Target { endpoint: shown, address, by, socket: None, queue: None, outcome });
            }
        }
    }
    (targets, failed)
}
