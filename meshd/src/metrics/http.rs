//! `GET /metrics` for scrapers. It tells the names of members and nothing secret, asks nobody who they are, and changes
//! nothing; it is off unless the configuration names an address. On a loopback address it answers only who asks for that
//! address or `localhost`: a browser on this machine, whose page had its own name pointed here (DNS rebinding), asks for
//! that name, and could read the answer.

use std::convert::Infallible;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use http_body_util::Full;
use hyper::body::{Bytes, Incoming};
use hyper::header::{CONTENT_TYPE, HOST};
use hyper::http::uri::Authority;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::{Method, Request, Response, StatusCode};
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::net::TcpListener;
use tokio::sync::{Semaphore, mpsc, oneshot};
use tracing::debug;

use crate::api::server::Call;
use crate::api::{Answer, Request as Ask};

/// Most connections at a time; more wait in the socket's backlog.
const MAX_CONNECTIONS: usize = 16;
/// A request's head has to be there by then.
const HEAD_LIMIT: Duration = Duration::from_secs(10);
/// A connection ends after this; scrapers connect again.
const CONNECTION_LIMIT: Duration = Duration::from_secs(600);
/// Longest head of a request, in bytes.
const HEAD_MAX_BYTES: usize = 16 << 10;
/// Of the text format.
const FORMAT: &str = "text/plain; version=0.0.4; charset=utf-8";

/// Binds the address.
///
/// # Errors
/// What the system says.
pub fn bind(address: SocketAddr) -> io::Result<TcpListener> {
    let listener = std::net::TcpListener::bind(address)?;
    listener.set_nonblocking(true)?;
    TcpListener::from_std(listener)
}

/// Serves connections until the receiver of `calls` is gone.
pub async fn serve(listener: TcpListener, calls: mpsc::Sender<Call>) {
    let places = Arc::new(Semaphore::new(MAX_CONNECTIONS));
    let local_only = listener.local_addr().is_ok_and(|address| address.ip().is_loopback());
    while let Ok(place) = places.clone().acquire_owned().await {
        let stream = tokio::select! {
            accepted = listener.accept() => match accepted {
                Ok((stream, _)) => stream,
                Err(error) => {
                    debug!(%error, "cannot accept a connection for metrics");
                    tokio::time::sleep(Duration::from_secs(1)).await;
                    continue;
                }
            },
            () = calls.closed() => return,
        };
        let calls = calls.clone();
        tokio::spawn(async move {
            let service = service_fn(|request| answer(request, &calls, local_only));
            let connection = http1::Builder::new()
                .timer(TokioTimer::new())
                .header_read_timeout(HEAD_LIMIT)
                .max_buf_size(HEAD_MAX_BYTES)
                .serve_connection(TokioIo::new(stream), service);
            if let Ok(Err(error)) = tokio::time::timeout(CONNECTION_LIMIT, connection).await {
                debug!(%error, "a connection for metrics ended");
            }
            drop(place);
        });
    }
}

async fn answer(
    request: Request<Incoming>,
    calls: &mpsc::Sender<Call>,
    local_only: bool,
) -> Result<Response<Full<Bytes>>, Infallible> {
    let (status, text) = match (request.method(), request.uri().path()) {
        _ if local_only && !asks_for_this_machine(&request) => {
            (StatusCode::FORBIDDEN, "ask for the address that it listens at, or for localhost\n".to_owned())
        }
        (&Method::GET | &Method::HEAD, "/metrics") => match metrics(calls).await {
            Some(text) => (StatusCode::OK, text),
            None => (StatusCode::SERVICE_UNAVAILABLE, "the daemon is shutting down\n".to_owned()),
        },
        (_, "/metrics") => (StatusCode::METHOD_NOT_ALLOWED, "GET it\n".to_owned()),
        _ => (StatusCode::NOT_FOUND, "there is /metrics and nothing else\n".to_owned()),
    };
    let mut response = Response::new(Full::new(Bytes::from(text)));
    *response.status_mut() = status;
    response.headers_mut().insert(CONTENT_TYPE, hyper::header::HeaderValue::from_static(FORMAT));
    Ok(response)
}

/// Whether a request is to an address, or to `localhost`; names in DNS are whose owners point them here. A request
/// without a name (HTTP/1.0) comes from no browser.
fn asks_for_this_machine(request: &Request<Incoming>) -> bool {
    let Some(host) = request.headers().get(HOST) else { return true };
    let authority = host.to_str().ok().and_then(|host| host.parse::<Authority>().ok());
    authority.is_some_and(|authority| {
        let host = authority.host().trim_start_matches('[').trim_end_matches(']');
        host.eq_ignore_ascii_case("localhost") || host.parse::<IpAddr>().is_ok()
    })
}

async fn metrics(calls: &mpsc::Sender<Call>) -> Option<String> {
    let (reply, answered) = oneshot::channel();
    calls.send(Call { request: Ask::Metrics, reply }).await.ok()?;
    match answered.await.ok()? {
        Answer::Metrics { text } => Some(text),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use std::io::{Read, Write};

    use super::*;

    fn ask(address: SocketAddr, request: &str) -> String {
        let mut stream = std::net::TcpStream::connect(address).unwrap();
        stream.write_all(request.as_bytes()).unwrap();
        let mut text = String::new();
        stream.read_to_string(&mut text).unwrap();
        text
    }

    /// Runs a test beside a server, whose questions to the daemon come out of the channel.
    fn with_server(test: impl AsyncFnOnce(SocketAddr, mpsc::Receiver<Call>)) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            let listener = bind(SocketAddr::from(([127, 0, 0, 1], 0))).unwrap();
            let address = listener.local_addr().unwrap();
            let (calls, inbox) = mpsc::channel(1);
            tokio::spawn(serve(listener, calls));
            test(address, inbox).await;
        });
    }

    #[test]
    fn scrapers_get_the_page_and_others_what_is_wrong() {
        with_server(async |address, mut inbox| {
            let asking = tokio::task::spawn_blocking(move || {
                ["GET /metrics", "GET /", "POST /metrics", "nonsense"].map(|start| {
                    ask(
                        address,
                        &format!("{start} HTTP/1.1\r\nHost: localhost:9655\r\nConnection: close\r\n\r\n"),
                    )
                })
            });
            let call: Call = inbox.recv().await.unwrap();
            assert_eq!(call.request, Ask::Metrics);
            call.reply.send(Answer::Metrics { text: "meshd_warnings 0\n".into() }).unwrap();
            let answers = asking.await.unwrap();
            assert!(answers[0].starts_with("HTTP/1.1 200 OK\r\n"), "{}", answers[0]);
            assert!(answers[0].contains(FORMAT) && answers[0].ends_with("\r\n\r\nmeshd_warnings 0\n"));
            for (answer, code) in answers[1..].iter().zip(["404", "405", "400"]) {
                assert!(answer.starts_with(&format!("HTTP/1.1 {code} ")), "{answer}");
            }
        });
    }

    /// A page that has its own name pointed at 127.0.0.1 is answered as if it were there by that name only.
    #[test]
    fn a_page_whose_name_was_pointed_at_this_machine_reads_nothing() {
        with_server(async |address, mut inbox| {
            let asking = tokio::task::spawn_blocking(move || {
                let hosts =
                    ["evil.example", "evil.example:80", "localhost.evil.example", "127.0.0.1.nip.io", ""];
                let refused = hosts.map(|host| get(address, host));
                let answered =
                    ["localhost", "LOCALHOST:80", "127.0.0.1:80", "[::1]:80"].map(|host| get(address, host));
                (refused, answered)
            });
            for _ in 0..4 {
                let call: Call = inbox.recv().await.unwrap();
                call.reply.send(Answer::Metrics { text: "meshd_warnings 0\n".into() }).unwrap();
            }
            let (refused, answered) = asking.await.unwrap();
            for answer in refused {
                assert!(answer.starts_with("HTTP/1.1 403 ") && !answer.contains("meshd_"), "{answer}");
            }
            for answer in answered {
                assert!(
                    answer.starts_with("HTTP/1.1 200 ") && answer.ends_with("meshd_warnings 0\n"),
                    "{answer}"
                );
            }
        });
    }

    fn get(address: SocketAddr, host: &str) -> String {
        ask(address, &format!("GET /metrics HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\r\n"))
    }
}
