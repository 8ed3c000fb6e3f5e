//! HTTP as far as the stand-in needs it: one request for one connection.

use std::collections::BTreeMap;
use std::io::{self, BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::os::unix::net::UnixStream;
use std::sync::Arc;
use std::time::Duration;

use serde_json::Value;

/// How long another server may take.
const PATIENCE: Duration = Duration::from_secs(5);

/// What is asked.
#[derive(Debug, Clone, Default)]
pub(super) struct Request {
    pub(super) method: String,
    /// Without the query.
    pub(super) path: String,
    pub(super) query: BTreeMap<String, String>,
    pub(super) headers: BTreeMap<String, String>,
    pub(super) body: Vec<u8>,
    /// Path and query as they came.
    pub(super) target: String,
}

/// What is answered.
#[derive(Debug, Clone)]
pub(super) struct Answer {
    pub(super) status: u16,
    pub(super) body: Vec<u8>,
    pub(super) headers: Vec<(String, String)>,
}

impl Answer {
    pub(super) fn text(status: u16, body: &str) -> Answer {
        Answer { status, body: body.into(), headers: Vec::new() }
    }

    pub(super) fn json(status: u16, body: &Value) -> Answer {
        let headers = vec![("Content-Type".into(), "application/json".into())];
        Answer { status, body: body.to_string().into_bytes(), headers }
    }

    /// As Marathon words a refusal.
    pub(super) fn message(status: u16, message: &str) -> Answer {
        Answer::json(status, &serde_json::json!({ "message": message }))
    }
}

/// Answers at `at` for ever, each connection in a thread of its own.
pub(super) fn serve(at: SocketAddr, answer: impl Fn(&Request) -> Answer + Send + Sync + 'static) {
    let listener = TcpListener::bind(at).unwrap_or_else(|error| panic!("cannot listen at {at}: {error}"));
    let answer = Arc::new(answer);
    for stream in listener.incoming() {
        let Ok(stream) = stream else { continue };
        let answer = Arc::clone(&answer);
        std::thread::spawn(move || {
            // Whoever went away needs no answer.
            let _ = stream.set_read_timeout(Some(PATIENCE));
            if let Ok(request) = read_request(&mut BufReader::new(&stream)) {
                let _ = write_answer(&stream, &answer(&request));
            }
        });
    }
}

/// A GET.
pub(super) fn get(at: SocketAddr, path: &str) -> io::Result<Answer> {
    let request = Request { method: "GET".into(), target: path.into(), ..Request::default() };
    ask(at, &request)
}

/// Asks another server.
pub(super) fn ask(at: SocketAddr, request: &Request) -> io::Result<Answer> {
    let stream = TcpStream::connect_timeout(&at, PATIENCE)?;
    stream.set_read_timeout(Some(PATIENCE))?;
    exchange(&stream, &stream, request)
}

/// Asks the container engine.
pub(super) fn ask_engine(request: &Request, limit: Duration) -> io::Result<Answer> {
    let stream = UnixStream::connect("/var/run/docker.sock")?;
    stream.set_read_timeout(Some(limit))?;
    exchange(&stream, &stream, request)
}

fn exchange(mut writer: impl Write, reader: impl Read, request: &Request) -> io::Result<Answer> {
    // 1.0: the answer comes in one piece and ends with the connection.
    let mut head = format!("{} {} HTTP/1.0\r\nHost: x\r\n", request.method, request.target);
    for (name, value) in &request.headers {
        head.push_str(&format!("{name}: {value}\r\n"));
    }
    head.push_str(&format!(
        "Content-Type: application/json\r\nContent-Length: {}\r\n\r\n",
        request.body.len()
    ));
    writer.write_all(head.as_bytes())?;
    writer.write_all(&request.body)?;
    writer.flush()?;
    let mut reader = BufReader::new(reader);
    let mut line = String::new();
    reader.read_line(&mut line)?;
    let status = line.split(' ').nth(1).and_then(|word| word.parse().ok());
    let status = status.ok_or_else(|| io::Error::new(io::ErrorKind::InvalidData, "no status"))?;
    let length = read_headers(&mut reader)?.get("content-length").and_then(|value| value.parse().ok());
    let mut body = Vec::new();
    match length {
        Some(length) => reader.take(length).read_to_end(&mut body)?,
        None => reader.read_to_end(&mut body)?,
    };
    Ok(Answer { status, body, headers: Vec::new() })
}

fn read_request(reader: &mut impl BufRead) -> io::Result<Request> {
    let mut line = String::new();
    reader.read_line(&mut line)?;
    let mut words = line.split_whitespace();
    let (method, target) = (words.next().unwrap_or_default(), words.next().unwrap_or_default());
    let (path, query) = target.split_once('?').unwrap_or((target, ""));
    let query = query
        .split('&')
        .filter(|part| !part.is_empty())
        .map(|part| part.split_once('=').unwrap_or((part, "")))
        .map(|(name, value)| (name.to_owned(), value.replace("%2F", "/")))
        .collect();
    let mut request = Request {
        method: method.into(),
        path: path.replace("//", "/"),
        query,
        target: target.into(),
        ..Request::default()
    };
    request.headers = read_headers(reader)?;
    let length = request.headers.get("content-length").and_then(|value| value.parse().ok()).unwrap_or(0);
    request.body = vec![0; length];
    reader.read_exact(&mut request.body)?;
    Ok(request)
}

fn read_headers(reader: &mut impl BufRead) -> io::Result<BTreeMap<String, String>> {
    let mut headers = BTreeMap::new();
    loop {
        let mut line = String::new();
        reader.read_line(&mut line)?;
        let Some((name, value)) = line.trim_end().split_once(':') else { return Ok(headers) };
        headers.insert(name.to_lowercase(), value.trim().to_owned());
    }
}

fn write_answer(mut stream: &TcpStream, answer: &Answer) -> io::Result<()> {
    let mut head = format!("HTTP/1.1 {} X\r\nConnection: close\r\n", answer.status);
    for (name, value) in &answer.headers {
        head.push_str(&format!("{name}: {value}\r\n"));
    }
    head.push_str(&format!("Content-Length: {}\r\n\r\n", answer.body.len()));
    stream.write_all(head.as_bytes())?;
    stream.write_all(&answer.body)
}
