//! Taking requests from other members.

use std::collections::BTreeMap;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use proto::id::{IdentityKey, MemberId};
use tokio::io::BufReader;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Semaphore, mpsc, oneshot};
use tracing::{debug, info, warn};

use super::lines::{read_line, send};
use super::secrets::Vault;
use super::work::Worker;
use super::{Answer, DEFAULT_PORT, Greeting, MAX_LINE_BYTES, Proof, Request, VERSION, proof};
use crate::api;
use crate::api::server::Call;
use crate::stack::definition::hex;
use crate::stack::random_bytes;

/// Most connections at a time.
const MAX_CONNECTIONS: usize = 64;
/// How long a caller may take to prove who it is.
const PROOF_LIMIT: Duration = Duration::from_secs(10);
/// A connection that asks nothing for so long is closed, unless it holds a lock.
const IDLE_LIMIT: Duration = Duration::from_secs(300);
/// How long the other end of a connection may be silent to the kernel's questions before its locks are given back.
const KEEPALIVE: Duration = Duration::from_secs(5);
/// How many of those questions.
const KEEPALIVE_PROBES: u32 = 3;
/// How often to try again what could not be done at the start.
const RETRY: Duration = Duration::from_secs(2);

/// What an agent is made of.
pub struct Options {
    /// The engine's socket.
    pub engine: PathBuf,
    /// The node's name.
    pub node: String,
    /// The node's member id.
    pub member: MemberId,
    /// Its overlay addresses.
    pub addresses: Vec<IpAddr>,
    /// Where the agent keeps what must last.
    pub directory: PathBuf,
    /// Where containers find their files, on a file system in memory.
    pub files: PathBuf,
    /// The node's identity secret: secrets at rest are sealed with a key made from it.
    pub identity: zeroize::Zeroizing<[u8; 32]>,
    /// Where to ask who has an address.
    pub calls: mpsc::Sender<Call>,
}

/// An agent that has not begun. Dropping it ends it.
#[derive(Debug)]
pub struct Waiting(std::sync::mpsc::Sender<()>);

impl Waiting {
    /// Lets it begin.
    pub fn go(self) {
        // Should its thread be gone, nobody hears it.
        let _ = self.0.send(());
    }
}

/// Starts the agent in a thread of its own, so that a slow engine never holds up the mesh. The thread runs `confine`
/// before this returns, and then waits for its sign.
///
/// # Errors
/// If its directories cannot be made, or the thread cannot be started.
pub fn start(options: Options, confine: impl FnOnce() + Send + 'static) -> io::Result<Waiting> {
    std::fs::create_dir_all(&options.directory)?;
    let vault = Vault::open(options.directory.join("secrets"), options.files.clone(), &options.identity)?;
    let ipv4 = options.addresses.iter().find(|address| address.is_ipv4());
    let worker = Arc::new(Worker {
        engine: options.engine.to_string_lossy().into_owned(),
        node: options.node.clone(),
        address: ipv4.or(options.addresses.first()).copied().unwrap_or(IpAddr::from([0, 0, 0, 0])),
        directory: options.directory.clone(),
        vault,
    });
    let runtime =
        tokio::runtime::Builder::new_current_thread().enable_all().max_blocking_threads(2).build()?;
    let thread = std::thread::Builder::new().name("agent".into());
    let (go, sign) = std::sync::mpsc::channel();
    let (confined, ready) = std::sync::mpsc::channel();
    thread.spawn(move || {
        confine();
        // Who starts us waits for it.
        let _ = confined.send(());
        if sign.recv().is_err() {
            return;
        }
        runtime.block_on(async {
            tokio::spawn(restore(Arc::clone(&worker)));
            let places = Arc::new(Semaphore::new(MAX_CONNECTIONS));
            let locks = Locks::default();
            for address in &options.addresses {
                let shared = Shared {
                    worker: Arc::clone(&worker),
                    locks: locks.clone(),
                    calls: options.calls.clone(),
                    member: options.member,
                };
                tokio::spawn(listen(SocketAddr::new(*address, DEFAULT_PORT), shared, Arc::clone(&places)));
            }
            options.calls.closed().await;
        });
    })?;
    // The thread cannot have ended without a panic, which ends the daemon.
    let _ = ready.recv();
    Ok(Waiting(go))
}

#[derive(Clone)]
struct Shared {
    worker: Arc<Worker>,
    locks: Locks,
    calls: mpsc::Sender<Call>,
    member: MemberId,
}

/// After a start of the machine the files of containers are gone, and containers that found no overlay address have ended.
async fn restore(worker: Arc<Worker>) {
    while let Err(why) = worker.restore().await {
        debug!(%why, "cannot look after the stack's containers yet");
        tokio::time::sleep(RETRY).await;
    }
}

async fn listen(at: SocketAddr, shared: Shared, places: Arc<Semaphore>) {
    let listener = loop {
        match TcpListener::bind(at).await {
            Ok(listener) => break listener,
            Err(error) => debug!(%at, %error, "the agent cannot listen yet"),
        }
        tokio::time::sleep(RETRY).await;
    };
    info!(%at, "the agent of `meshd stack` listens");
    while let Ok(place) = Arc::clone(&places).acquire_owned().await {
        let (stream, from) = match listener.accept().await {
            Ok(accepted) => accepted,
            Err(error) => {
                debug!(%error, "cannot accept for the agent");
                tokio::time::sleep(RETRY).await;
                continue;
            }
        };
        let shared = shared.clone();
        tokio::spawn(async move {
            if let Err(error) = converse(stream, from, shared).await {
                debug!(%from, %error, "connection to the agent ended");
            }
            drop(place);
        });
    }
}

async fn converse(stream: TcpStream, from: SocketAddr, shared: Shared) -> io::Result<()> {
    let keepalive = socket2::TcpKeepalive::new()
        .with_time(KEEPALIVE)
        .with_interval(KEEPALIVE)
        .with_retries(KEEPALIVE_PROBES);
    socket2::SockRef::from(&stream).set_tcp_keepalive(&keepalive)?;
    stream.set_nodelay(true)?;
    let (reader, mut writer) = stream.into_split();
    let mut reader = BufReader::new(reader);
    let challenge = hex(&random_bytes::<{ proof::CHALLENGE_LEN }>());
    send(&mut writer, &Greeting { v: VERSION, challenge: challenge.clone() }).await?;
    let mut line = Vec::new();
    let proven = tokio::time::timeout(PROOF_LIMIT, read_line(&mut reader, &mut line, 1024)).await;
    if !matches!(proven, Ok(Ok(true))) {
        return Ok(());
    }
    let proof: Proof = serde_json::from_slice(&line)?;
    let caller = match identify(&shared, from.ip(), &challenge, &proof.proof).await {
        Ok(caller) => caller,
        Err(why) => {
            shared.worker.audit(&from.ip().to_string(), "refused", &why);
            warn!(%from, %why, "refused to take orders");
            return send(&mut writer, &Answer::Refused { why }).await;
        }
    };
    send(&mut writer, &Answer::Done).await?;
    let mut held: Vec<Held> = Vec::new();
    loop {
        let idle = if held.is_empty() { IDLE_LIMIT } else { Duration::MAX };
        match tokio::time::timeout(idle, read_line(&mut reader, &mut line, MAX_LINE_BYTES)).await {
            Ok(Ok(true)) => {}
            _ => return Ok(()),
        }
        let answer = match serde_json::from_slice::<Request>(&line) {
            Err(error) => Answer::Refused { why: format!("this agent does not know the request: {error}") },
            Ok(request) => {
                let audited = request.audited();
                let answer = match request {
                    Request::Lock { stack } => match shared.locks.take(&stack, &caller) {
                        Ok(lock) => {
                            held.push(lock);
                            Answer::Done
                        }
                        Err(why) => Answer::Refused { why },
                    },
                    // A caller that goes away ends what streams to it, and nothing else.
                    request => shared.worker.perform(request, &mut writer).await,
                };
                if let Some(what) = audited {
                    let outcome = match &answer {
                        Answer::Refused { why } => format!("refused: {why}"),
                        _ => "done".to_owned(),
                    };
                    shared.worker.audit(&format!("{caller} ({})", from.ip()), &what, &outcome);
                }
                answer
            }
        };
        send(&mut writer, &answer).await?;
    }
}

/// The name of the caller, if it is an operator and who it claims to be.
async fn identify(shared: &Shared, address: IpAddr, challenge: &str, proof: &str) -> Result<String, String> {
    let (reply, answered) = oneshot::channel();
    let request = api::Request::Identify { address: address.to_canonical() };
    let gone = || "the daemon is shutting down".to_owned();
    shared.calls.send(Call { request, reply }).await.map_err(|_| gone())?;
    let identity = match answered.await.map_err(|_| gone())? {
        api::Answer::Identity(identity) => identity,
        _ => return Err(format!("{address} is the address of no member")),
    };
    let bytes: Option<Vec<u8>> =
        (0..32).map(|at| u8::from_str_radix(identity.key.get(2 * at..2 * at + 2)?, 16).ok()).collect();
    let key = bytes.and_then(|bytes| <[u8; 32]>::try_from(bytes).ok()).map(IdentityKey);
    let member = identity.member_id.parse::<MemberId>().ok();
    let (Some(key), Some(member)) = (key, member) else { return Err("its identity cannot be read".into()) };
    if !proof::holds(&key, challenge, shared.member, member, proof) {
        return Err(format!("{} did not prove that it is {address}", identity.name));
    }
    if !identity.roles.iter().any(|role| role == "operator") {
        return Err(format!(
            "{} is no operator: only members invited with `--role operator`, or that started the mesh, may use `meshd stack`",
            identity.name
        ));
    }
    Ok(identity.name)
}

/// Who may change which stack.
#[derive(Clone, Default)]
struct Locks(Arc<Mutex<BTreeMap<String, String>>>);

/// A lock that is given back when this is dropped.
struct Held {
    locks: Locks,
    stack: String,
}

impl Locks {
    fn take(&self, stack: &str, holder: &str) -> Result<Held, String> {
        let mut locks = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(other) = locks.get(stack) {
            return Err(format!("{other} is changing {stack} at this moment"));
        }
        locks.insert(stack.to_owned(), holder.to_owned());
        Ok(Held { locks: self.clone(), stack: stack.to_owned() })
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        self.locks.0.lock().unwrap_or_else(PoisonError::into_inner).remove(&self.stack);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_lock_is_held_by_one_and_given_back_with_its_connection() {
        let locks = Locks::default();
        let held = locks.take("s", "a").unwrap();
        assert!(locks.take("s", "b").err().unwrap().contains("a is changing s"));
        locks.take("other", "b").unwrap();
        drop(held);
        locks.take("s", "b").unwrap();
    }
}
