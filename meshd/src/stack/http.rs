//! A small HTTP client for what answers on the overlay: one request for one connection, bounded in time and size.

use std::net::SocketAddr;
use std::time::Duration;

use bytes::Bytes;
use http_body_util::{BodyExt, Full, Limited};
use hyper::header::{CONTENT_TYPE, HOST, LOCATION};
use hyper::{Method, Request};
use hyper_util::rt::TokioIo;
use tokio::net::TcpStream;

/// Most of an answer that is read, in bytes.
pub const MAX_ANSWER_BYTES: usize = 16 << 20;

/// What is asked.
#[derive(Debug, Clone)]
pub struct Ask<'a> {
    /// How.
    pub method: Method,
    /// Path and query.
    pub path: &'a str,
    /// JSON to send; empty for none.
    pub body: &'a [u8],
    /// How long the answer may take, the connection included.
    pub limit: Duration,
}

/// What was answered.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Answer {
    /// The status.
    pub status: u16,
    /// The body.
    pub body: Bytes,
    /// Where a redirection leads.
    pub location: Option<String>,
}

/// Why there is no answer.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    /// Nobody took the connection: nothing was asked.
    #[error("nothing answers at {0}{1}")]
    NoConnection(SocketAddr, String),
    /// The connection ended or was silent after the request may have been read.
    #[error("{0}{1}: {2}")]
    NoAnswer(SocketAddr, String, String),
}

/// A GET.
///
/// # Errors
/// [`Error`].
pub async fn get(at: SocketAddr, path: &str, limit: Duration) -> Result<Answer, Error> {
    ask(at, &Ask { method: Method::GET, path, body: &[], limit }).await
}

/// Asks the server at `at`.
///
/// # Errors
/// [`Error`].
pub async fn ask(at: SocketAddr, ask: &Ask<'_>) -> Result<Answer, Error> {
    let stream = match tokio::time::timeout(ask.limit, TcpStream::connect(at)).await {
        Ok(Ok(stream)) => stream,
        Ok(Err(error)) => return Err(Error::NoConnection(at, format!(": {error}"))),
        Err(_) => return Err(Error::NoConnection(at, String::new())),
    };
    let silent =
        |why: String| Error::NoAnswer(at, ask.path.split('?').next().unwrap_or_default().into(), why);
    match tokio::time::timeout(ask.limit, exchange(stream, at, ask)).await {
        Ok(answer) => answer.map_err(|error| silent(error.to_string())),
        Err(_) => Err(silent(format!("no answer within {} s", ask.limit.as_secs()))),
    }
}

type Failure = Box<dyn std::error::Error + Send + Sync>;

async fn exchange(stream: TcpStream, at: SocketAddr, ask: &Ask<'_>) -> Result<Answer, Failure> {
    let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream)).await?;
    let driven = tokio::spawn(connection);
    let mut request = Request::builder().method(&ask.method).uri(ask.path).header(HOST, at.to_string());
    if !ask.body.is_empty() {
        request = request.header(CONTENT_TYPE, "application/json");
    }
    let request = request.body(Full::new(Bytes::copy_from_slice(ask.body)))?;
    let answer = sender.send_request(request).await?;
    let status = answer.status().as_u16();
    let location = answer.headers().get(LOCATION);
    let location = location.and_then(|value| value.to_str().ok()).map(str::to_owned);
    let body = Limited::new(answer.into_body(), MAX_ANSWER_BYTES).collect().await?.to_bytes();
    driven.abort();
    Ok(Answer { status, body, location })
}
