//! A server that answers as a test says, request by request.

use std::net::SocketAddr;
use std::sync::{Arc, Mutex};

use serde_json::Value;
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::{TcpListener, TcpStream};

/// What is answered.
pub(super) enum Reply {
    /// A status and a body.
    Json(u16, Value),
    /// A redirection.
    Elsewhere(String),
    /// The connection ends after the request was read.
    Gone,
}

/// What was asked: method, path with query, body.
pub(super) type Asked = Arc<Mutex<Vec<(String, String, String)>>>;

/// Starts a server; `answer` gets method, path with query, and how often exactly this was asked before.
pub(super) async fn serve(
    answer: impl Fn(&str, &str, usize) -> Reply + Send + Sync + 'static,
) -> (SocketAddr, Asked) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let at = listener.local_addr().unwrap();
    let asked = Asked::default();
    let heard = Arc::clone(&asked);
    tokio::spawn(async move {
        loop {
            let (stream, _) = listener.accept().await.unwrap();
            // A client that went away is none of the script's business.
            let _ = converse(stream, &heard, &answer).await;
        }
    });
    (at, asked)
}

async fn converse(
    stream: TcpStream,
    heard: &Asked,
    answer: &(impl Fn(&str, &str, usize) -> Reply + Send + Sync),
) -> std::io::Result<()> {
    let mut stream = BufReader::new(stream);
    let mut line = String::new();
    stream.read_line(&mut line).await?;
    let mut words = line.split(' ');
    let (method, path) = (words.next().unwrap_or_default(), words.next().unwrap_or_default());
    let mut length = 0;
    loop {
        let mut header = String::new();
        stream.read_line(&mut header).await?;
        if header.trim().is_empty() {
            break;
        }
        if let Some(value) = header.to_lowercase().strip_prefix("content-length:") {
            length = value.trim().parse().unwrap();
        }
    }
    let mut body = vec![0; length];
    stream.read_exact(&mut body).await?;
    let reply = {
        let mut heard = heard.lock().unwrap();
        let before = heard.iter().filter(|(m, p, _)| m == method && p == path).count();
        heard.push((method.into(), path.into(), String::from_utf8(body).unwrap()));
        answer(method, path, before)
    };
    let text = match reply {
        Reply::Gone => return Ok(()),
        Reply::Elsewhere(to) => {
            format!("HTTP/1.1 307 Temporary Redirect\r\nLocation: {to}\r\nContent-Length: 0\r\n\r\n")
        }
        Reply::Json(status, value) => {
            let body = value.to_string();
            format!("HTTP/1.1 {status} X\r\nContent-Length: {}\r\n\r\n{body}", body.len())
        }
    };
    stream.write_all(text.as_bytes()).await?;
    stream.flush().await
}
