//! Datagrams over TCP, for where UDP is blocked ([ADR 11](../../../../docs/adr/0011-tcp.md)).
//!
//! ```text
//! control plane --send_or_dial--> Table --Dial--> dial: TCP, a proxy, TLS
//! lanes ----------------send----> Table --queue--> link: write
//! lanes <---Inlet: datagrams, as if from a socket-- link: read <-- listen: accept
//! control plane <--Inlet: closed-- link
//! ```
//!
//! All connections live on one thread of their own, so that neither the control plane nor the lanes wait for them. To the
//! rest of the node a connection is one more socket ([`meshnet::path::SocketId::TCP`] and the like) with one remote end:
//! what comes over it is authenticated, replayed, and routed exactly as a datagram, and nobody is trusted for having
//! connected.

mod dial;
mod limits;
mod link;
mod listen;
mod table;
mod tls;

#[cfg(test)]
mod tests;

use std::io;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::Arc;
use std::thread::JoinHandle;

use meshnet::path::SocketId;
use socket2::{Domain, SockRef, Socket, Type};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{mpsc, oneshot};

use crate::config::streams::{Proxy, Streams as Config};

pub(super) use table::{Dial, Key, Table};

/// Whether this build has TLS.
pub(super) const HAS_TLS: bool = tls::AVAILABLE;
/// Connections that wait to be accepted.
const BACKLOG: i32 = 128;
/// The kernel holds no more than this that was not sent yet: what waits should wait in our queue, where it can be dropped.
const NOT_SENT_BYTES: u32 = 32 * 1024;
/// Sent data may stay unconfirmed this long before the connection is given up (an address that changed, for instance).
const UNCONFIRMED: std::time::Duration = std::time::Duration::from_secs(5);

/// Where received datagrams go.
pub(super) trait Inlet: Clone + Send + Sync + 'static {
    /// Takes a datagram, and says which thread has to be woken; gives it back when there is no room.
    fn give(&self, key: Key, datagram: Vec<u8>) -> Result<usize, Vec<u8>>;
    /// Wakes threads, a bit for each.
    fn wake(&self, threads: u32);
    /// A connection ended, or could not be made.
    fn closed(&self, key: Key);
}

/// A stream of bytes.
pub(crate) trait Io: AsyncRead + AsyncWrite + Unpin + Send {}

impl<T: AsyncRead + AsyncWrite + Unpin + Send> Io for T {}

/// The running thread. Dropping it ends all connections.
pub(super) struct Streams {
    end: Option<oneshot::Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

/// Makes connections outside the running daemon: for who joins by TCP.
pub struct Dialer(dial::Way);

impl Dialer {
    /// As the configuration says: through its proxy, with its name for TLS. `None` where it wants no connections.
    ///
    /// # Errors
    /// When the name is none.
    pub(crate) fn new(config: &Config) -> Result<Option<Dialer>, PrepareError> {
        let client =
            if config.dial && HAS_TLS { Some(tls::Client::new(config.tls_name.as_deref())?) } else { None };
        let way = dial::Way { proxy: config.proxy.clone(), client, mark: None };
        Ok(config.dial.then_some(Dialer(way)))
    }

    /// Connects; at most for some seconds.
    ///
    /// # Errors
    /// What the system, the proxy, or the other end says.
    pub(crate) async fn connect(&self, tls: bool, to: SocketAddr) -> io::Result<Box<dyn Io>> {
        let socket = if tls { SocketId::TLS } else { SocketId::TCP };
        let made = tokio::time::timeout(dial::DIAL_TIME, self.0.connect(socket, to)).await;
        made.unwrap_or_else(|late| Err(late.into()))
    }
}

/// What is listened on and how connections are made, ready to go.
pub(super) struct Prepared {
    listeners: Vec<(std::net::TcpListener, bool)>,
    server: Option<tls::Server>,
    client: Option<tls::Client>,
    proxy: Option<Proxy>,
    mark: Option<u32>,
}

/// Why connections cannot be used as the configuration says.
#[derive(Debug, thiserror::Error)]
pub(crate) enum PrepareError {
    /// An address cannot be listened on.
    #[error("cannot listen on {address} (TCP): {source}")]
    Listen {
        /// Which.
        address: SocketAddr,
        /// Why.
        source: io::Error,
    },
    /// The certificate cannot be used.
    #[error(transparent)]
    Tls(#[from] tls::Error),
}

impl Prepared {
    /// Opens what is listened on, and reads certificates.
    ///
    /// # Errors
    /// See [`PrepareError`].
    pub(super) fn new(config: &Config, fwmark: u32) -> Result<Prepared, PrepareError> {
        let mark = (fwmark != 0).then_some(fwmark);
        let mut listeners = Vec::new();
        let plain = config.listen_tcp.iter().map(|address| (*address, false));
        for (address, tls) in plain.chain(config.listen_tls.iter().map(|address| (*address, true))) {
            let listener = listen_on(address).map_err(|source| PrepareError::Listen { address, source })?;
            listeners.push((listener, tls));
        }
        let server = match config.listen_tls.is_empty() {
            true => None,
            false => Some(tls::Server::new(config.certificate.as_ref())?),
        };
        let client =
            if config.dial && HAS_TLS { Some(tls::Client::new(config.tls_name.as_deref())?) } else { None };
        Ok(Prepared { listeners, server, client, proxy: config.proxy.clone(), mark })
    }

    /// The addresses that are listened on, and whether with TLS.
    pub(super) fn listening(&self) -> Vec<(SocketAddr, bool)> {
        let local =
            |(listener, tls): &(std::net::TcpListener, bool)| Some((listener.local_addr().ok()?, *tls));
        self.listeners.iter().filter_map(local).collect()
    }
}

impl Streams {
    /// Starts the thread.
    ///
    /// # Errors
    /// When the system is out of threads or descriptors.
    pub(super) fn start<I: Inlet>(
        prepared: Prepared,
        table: Arc<Table>,
        dials: mpsc::Receiver<Dial>,
        inlet: I,
    ) -> io::Result<Streams> {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let (end, ended) = oneshot::channel();
        let body = move || {
            runtime.block_on(async move {
                let server = prepared.server.map(Arc::new);
                for (listener, tls) in prepared.listeners {
                    let server = server.clone().filter(|_| tls);
                    match TcpListener::from_std(listener) {
                        Ok(listener) => {
                            tokio::spawn(listen::serve(listener, server, table.clone(), inlet.clone()));
                        }
                        Err(error) => tracing::error!(%error, "cannot listen on TCP"),
                    }
                }
                let way = dial::Way { proxy: prepared.proxy, client: prepared.client, mark: prepared.mark };
                tokio::spawn(dial::serve(dials, Arc::new(way), table, inlet));
                // Dropped by whoever started us, too.
                let _ = ended.await;
            });
            runtime.shutdown_background();
        };
        let thread = std::thread::Builder::new().name("mesh-tcp".to_owned()).spawn(body)?;
        Ok(Streams { end: Some(end), thread: Some(thread) })
    }
}

impl Drop for Streams {
    fn drop(&mut self) {
        drop(self.end.take());
        if let Some(thread) = self.thread.take()
            && thread.join().is_err()
        {
            tracing::error!("the thread of TCP connections had ended by a panic");
        }
    }
}

fn listen_on(address: SocketAddr) -> io::Result<std::net::TcpListener> {
    let (address, socket) = match Socket::new(Domain::for_address(address), Type::STREAM, None) {
        // `[::]` stands for both families, or for IPv4 where there is no IPv6.
        Err(error)
            if error.raw_os_error() == Some(nix::libc::EAFNOSUPPORT)
                && address.ip() == Ipv6Addr::UNSPECIFIED =>
        {
            let address = SocketAddr::from((Ipv4Addr::UNSPECIFIED, address.port()));
            (address, Socket::new(Domain::IPV4, Type::STREAM, None)?)
        }
        made => (address, made?),
    };
    socket.set_reuse_address(true)?;
    socket.set_nonblocking(true)?;
    socket.bind(&address.into())?;
    socket.listen(BACKLOG)?;
    Ok(socket.into())
}

/// As little as possible waits in the kernel, and a dead connection is noticed.
fn tune(stream: &TcpStream) -> io::Result<()> {
    let socket = SockRef::from(stream);
    socket.set_tcp_nodelay(true)?;
    socket.set_tcp_notsent_lowat(NOT_SENT_BYTES)?;
    socket.set_tcp_user_timeout(Some(UNCONFIRMED))
}
