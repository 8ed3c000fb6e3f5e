//! Connections that this node makes: straight or through a proxy, plain or with TLS.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use meshnet::path::SocketId;
use socket2::SockRef;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpSocket, TcpStream, lookup_host};
use tokio::sync::mpsc;
use tokio::time::timeout;
use tokio_socks::tcp::Socks5Stream;

use super::table::{Dial, Table, count};
use super::{Inlet, Io, link, tls, tune};
use crate::config::streams::{Proxy, ProxyKind};

/// The whole of it has to be done after this, proxy and TLS included.
pub(super) const DIAL_TIME: Duration = Duration::from_secs(8);
/// Longest answer to CONNECT that is read.
const ANSWER_MAX: usize = 8 * 1024;

/// How connections are made.
pub(super) struct Way {
    pub(super) proxy: Option<Proxy>,
    pub(super) client: Option<tls::Client>,
    pub(super) mark: Option<u32>,
}

/// Makes the connections that are asked for.
pub(super) async fn serve<I: Inlet>(
    mut dials: mpsc::Receiver<Dial>,
    way: Arc<Way>,
    table: Arc<Table>,
    inlet: I,
) {
    while let Some(dial) = dials.recv().await {
        let (way, table, inlet) = (way.clone(), table.clone(), inlet.clone());
        tokio::spawn(async move { carry(dial, &way, &table, &inlet).await });
    }
    // Nobody asks any more; the connections go on until the thread is told to end.
    std::future::pending::<()>().await;
}

async fn carry<I: Inlet>(dial: Dial, way: &Way, table: &Table, inlet: &I) {
    let Dial { key, link, mut queue } = dial;
    let made = timeout(DIAL_TIME, way.connect(key.0, key.1)).await.unwrap_or_else(|late| Err(late.into()));
    match made {
        Ok(io) => {
            count(&table.counters.dialed, 1);
            let end = link::run((table, inlet), (key, &link), io, &mut queue, false).await;
            tracing::debug!(remote = %key.1, %end, "a TCP connection has ended");
        }
        Err(error) => {
            count(&table.counters.dial_failed, 1);
            tracing::debug!(remote = %key.1, %error, "no TCP connection");
        }
    }
    table.remove(key, &link);
    inlet.closed(key);
}

impl Way {
    pub(super) async fn connect(&self, socket: SocketId, to: SocketAddr) -> io::Result<Box<dyn Io>> {
        let stream = match &self.proxy {
            None => self.tcp(to).await?,
            Some(proxy) => self.through(proxy, to).await?,
        };
        if socket != SocketId::TLS {
            return Ok(Box::new(stream));
        }
        let client = self.client.as_ref().ok_or_else(|| io::Error::other("this build has no TLS"))?;
        client.connect(stream, to.ip()).await
    }

    async fn tcp(&self, to: SocketAddr) -> io::Result<TcpStream> {
        let socket = if to.is_ipv4() { TcpSocket::new_v4()? } else { TcpSocket::new_v6()? };
        if let Some(mark) = self.mark {
            // The mark only matters to routing rules; without the right to set it there can be none of ours.
            let _ = SockRef::from(&socket).set_mark(mark);
        }
        let stream = socket.connect(to).await?;
        tune(&stream)?;
        Ok(stream)
    }

    async fn through(&self, proxy: &Proxy, to: SocketAddr) -> io::Result<TcpStream> {
        let mut last = io::Error::other("the proxy's name has no address");
        for address in lookup_host((proxy.host.as_str(), proxy.port)).await? {
            match self.tcp(address).await {
                Ok(stream) => return ask(stream, proxy, to).await,
                Err(error) => last = error,
            }
        }
        Err(last)
    }
}

/// Has the proxy connect to `to`.
async fn ask(mut stream: TcpStream, proxy: &Proxy, to: SocketAddr) -> io::Result<TcpStream> {
    match (proxy.kind, &proxy.login) {
        (ProxyKind::Socks5, None) => {
            let made = Socks5Stream::connect_with_socket(stream, to).await;
            made.map(Socks5Stream::into_inner).map_err(io::Error::other)
        }
        (ProxyKind::Socks5, Some(login)) => {
            let (user, password) = (login.user.as_str(), login.password.as_str());
            let made = Socks5Stream::connect_with_password_and_socket(stream, to, user, password).await;
            made.map(Socks5Stream::into_inner).map_err(io::Error::other)
        }
        (ProxyKind::Http, _) => {
            stream.write_all(connect_request(proxy, to).as_bytes()).await?;
            read_answer(&mut stream).await?;
            Ok(stream)
        }
    }
}

/// RFC 9110, section 9.3.6, with basic authentication (RFC 7617).
fn connect_request(proxy: &Proxy, to: SocketAddr) -> zeroize::Zeroizing<String> {
    let mut request = zeroize::Zeroizing::new(format!("CONNECT {to} HTTP/1.1\r\nHost: {to}\r\n"));
    if let Some(login) = &proxy.login {
        let plain = zeroize::Zeroizing::new(format!("{}:{}", login.user, login.password.as_str()));
        request.push_str("Proxy-Authorization: Basic ");
        request.push_str(&zeroize::Zeroizing::new(STANDARD.encode(plain.as_bytes())));
        request.push_str("\r\n");
    }
    request.push_str("\r\n");
    request
}

/// Reads up to the end of the head, byte by byte: what follows belongs to the other end.
async fn read_answer(stream: &mut TcpStream) -> io::Result<()> {
    let mut answer = Vec::new();
    while !answer.ends_with(b"\r\n\r\n") {
        if answer.len() >= ANSWER_MAX {
            return Err(io::Error::other("the proxy's answer does not end"));
        }
        answer.push(stream.read_u8().await?);
    }
    let line = answer.split(|byte| *byte == b'\r').next().unwrap_or_default();
    let line = String::from_utf8_lossy(line);
    let mut words = line.split_ascii_whitespace();
    let version = words.next().is_some_and(|version| version.starts_with("HTTP/1."));
    let granted = words.next().is_some_and(|status| status.len() == 3 && status.starts_with('2'));
    if version && granted {
        return Ok(());
    }
    let shown: String = line.chars().filter(|letter| !letter.is_control()).take(80).collect();
    Err(io::Error::other(format!("the proxy refuses: {shown}")))
}
