//! Connections that others make.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use meshnet::path::SocketId;
use tokio::net::{TcpListener, TcpStream};
use tokio::time::timeout;

use super::limits::{Admission, Limits};
use super::table::{Key, Link, Table, count};
use super::{Inlet, Io, link, tls, tune};

/// TLS has to be there after this.
const TLS_TIME: Duration = Duration::from_secs(5);
/// Rest after an error such as too many open files.
const REST: Duration = Duration::from_millis(100);
/// How often it is looked whether a connection has become a member's.
const LOOK_EVERY: Duration = Duration::from_millis(500);

/// Accepts connections for ever, with TLS if there is a `server`.
pub(super) async fn serve<I: Inlet>(
    listener: TcpListener,
    server: Option<Arc<tls::Server>>,
    table: Arc<Table>,
    inlet: I,
) {
    let limits = Limits::default();
    loop {
        let (stream, from) = match listener.accept().await {
            Ok(accepted) => accepted,
            Err(error) => {
                tracing::debug!(%error, "cannot accept a connection");
                tokio::time::sleep(REST).await;
                continue;
            }
        };
        let from = SocketAddr::new(from.ip().to_canonical(), from.port());
        let Some(admission) = limits.admit(from.ip()) else {
            count(&table.counters.refused, 1);
            continue;
        };
        count(&table.counters.accepted, 1);
        let (server, table, inlet) = (server.clone(), table.clone(), inlet.clone());
        tokio::spawn(async move { take(stream, from, server, &table, &inlet, admission).await });
    }
}

async fn take<I: Inlet>(
    stream: TcpStream,
    from: SocketAddr,
    server: Option<Arc<tls::Server>>,
    table: &Table,
    inlet: &I,
    mut admission: Admission,
) {
    let io = match open(stream, server).await {
        Ok(io) => io,
        Err(error) => {
            tracing::debug!(%from, %error, "a connection that came in was no use");
            count(&table.counters.strangers, 1);
            return;
        }
    };
    let key: Key = (SocketId::ACCEPTED, from);
    let (link, mut queue) = Link::new();
    table.insert(key, link.clone());
    let end = {
        let run = link::run((table, inlet), (key, &link), io, &mut queue, true);
        tokio::pin!(run);
        loop {
            tokio::select! {
                end = &mut run => break end,
                () = tokio::time::sleep(LOOK_EVERY) => {
                    if link.is_authentic() {
                        admission.known();
                        break run.await;
                    }
                }
            }
        }
    };
    table.remove(key, &link);
    tracing::debug!(%from, %end, "a connection that came in has ended");
    inlet.closed(key);
}

async fn open(stream: TcpStream, server: Option<Arc<tls::Server>>) -> io::Result<Box<dyn Io>> {
    tune(&stream)?;
    match server {
        None => Ok(Box::new(stream)),
        Some(server) => timeout(TLS_TIME, server.accept(stream)).await?,
    }
}
