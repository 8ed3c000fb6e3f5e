//! A small client of ZooKeeper: its protocol as in the project's `zookeeper.jute` and Programmer's Guide. One request at a
//! time; a session that is lost ends the program, as it ends Mesos masters and Marathon.

use std::io::{self, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

const CREATE: i32 = 1;
const DELETE: i32 = 2;
const GET: i32 = 4;
const SET: i32 = 5;
const CHILDREN: i32 = 8;
const PING: i32 = 11;
const NO_NODE: i32 = -101;
const NODE_EXISTS: i32 = -110;
/// A node that goes with its session.
pub(super) const EPHEMERAL: i32 = 1;
/// A node whose name gets a number.
pub(super) const SEQUENTIAL: i32 = 2;
/// How long a session lives without a sign of life.
const SESSION: Duration = Duration::from_secs(6);

/// A session.
#[derive(Clone)]
pub(super) struct Zookeeper(Arc<Mutex<Session>>);

struct Session {
    servers: Vec<SocketAddr>,
    stream: Option<TcpStream>,
    id: i64,
    password: Vec<u8>,
    xid: i32,
    next: usize,
}

/// What an answer's error number means.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Code(pub(super) i32);

impl Zookeeper {
    /// A session with the ensemble of `zk://a:2181,b:2181/path`, and the path.
    pub(super) fn connect(url: &str) -> (Zookeeper, String) {
        let rest = url.strip_prefix("zk://").expect("zk://");
        let (servers, path) = rest.split_once('/').expect("a path");
        let servers = servers.split(',').map(|one| one.parse().expect("address:port")).collect();
        let session = Session { servers, stream: None, id: 0, password: vec![0; 16], xid: 0, next: 0 };
        let zookeeper = Zookeeper(Arc::new(Mutex::new(session)));
        let path = format!("/{path}");
        zookeeper.make(&path);
        let pinger = zookeeper.clone();
        std::thread::spawn(move || {
            loop {
                std::thread::sleep(SESSION / 4);
                let _ = pinger.ask(PING, &[]);
            }
        });
        (zookeeper, path)
    }

    /// Makes a path's nodes that are not there.
    pub(super) fn make(&self, path: &str) {
        let mut whole = String::new();
        for part in path.split('/').skip(1) {
            whole = format!("{whole}/{part}");
            let _ = self.create(&whole, b"", 0);
        }
    }

    /// Makes a node, and returns its name.
    pub(super) fn create(&self, path: &str, data: &[u8], flags: i32) -> Result<String, Code> {
        let mut body = Vec::new();
        put(&mut body, path.as_bytes());
        put(&mut body, data);
        // One entry: everybody may do everything.
        body.extend(1i32.to_be_bytes());
        body.extend(31i32.to_be_bytes());
        put(&mut body, b"world");
        put(&mut body, b"anyone");
        body.extend(flags.to_be_bytes());
        let answer = self.ask(CREATE, &body)?;
        Ok(String::from_utf8_lossy(take(&mut &answer[..])).into_owned())
    }

    /// Sets a node's data; makes the node if need be.
    pub(super) fn put(&self, path: &str, data: &[u8]) {
        let mut body = Vec::new();
        put(&mut body, path.as_bytes());
        put(&mut body, data);
        body.extend((-1i32).to_be_bytes());
        if self.ask(SET, &body) == Err(Code(NO_NODE)) {
            let _ = self.create(path, data, 0);
        }
    }

    /// A node's data.
    pub(super) fn get(&self, path: &str) -> Option<Vec<u8>> {
        let mut body = Vec::new();
        put(&mut body, path.as_bytes());
        body.push(0);
        let answer = self.ask(GET, &body).ok()?;
        Some(take(&mut &answer[..]).to_vec())
    }

    /// The names of a node's children, in order.
    pub(super) fn children(&self, path: &str) -> Vec<String> {
        let mut body = Vec::new();
        put(&mut body, path.as_bytes());
        body.push(0);
        let Ok(answer) = self.ask(CHILDREN, &body) else { return Vec::new() };
        let mut rest = &answer[..];
        let count = number(&mut rest).max(0);
        let mut names: Vec<String> =
            (0..count).map(|_| String::from_utf8_lossy(take(&mut rest)).into_owned()).collect();
        names.sort();
        names
    }

    /// Removes a node; one that is not there is fine.
    pub(super) fn delete(&self, path: &str) {
        let mut body = Vec::new();
        put(&mut body, path.as_bytes());
        body.extend((-1i32).to_be_bytes());
        let _ = self.ask(DELETE, &body);
    }

    fn ask(&self, kind: i32, body: &[u8]) -> Result<Vec<u8>, Code> {
        let mut session = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let began = Instant::now();
        loop {
            match session.exchange(kind, body) {
                Ok((0, answer)) => return Ok(answer),
                Ok((code @ (NO_NODE | NODE_EXISTS), _)) => return Err(Code(code)),
                Ok((code, _)) => eprintln!("ZooKeeper answers {code}"),
                Err(error) => eprintln!("ZooKeeper: {error}"),
            }
            session.stream = None;
            if session.id != 0 && began.elapsed() > 2 * SESSION {
                eprintln!("the session with ZooKeeper is lost");
                std::process::exit(1);
            }
            std::thread::sleep(Duration::from_millis(300));
        }
    }
}

impl Session {
    fn exchange(&mut self, kind: i32, body: &[u8]) -> io::Result<(i32, Vec<u8>)> {
        if self.stream.is_none() {
            self.begin()?;
        }
        self.xid += 1;
        let xid = if kind == PING { -2 } else { self.xid };
        let packet = [&xid.to_be_bytes()[..], &kind.to_be_bytes(), body].concat();
        let stream = self.stream.as_mut().ok_or(io::ErrorKind::NotConnected)?;
        send(stream, &packet)?;
        loop {
            let answer = receive(stream)?;
            let mut rest = &answer[..];
            let got = number(&mut rest);
            rest = rest.get(8..).unwrap_or_default();
            let code = number(&mut rest);
            if got == xid {
                return Ok((code, rest.to_vec()));
            }
        }
    }

    fn begin(&mut self) -> io::Result<()> {
        let at = self.servers[self.next % self.servers.len()];
        self.next += 1;
        let mut stream = TcpStream::connect_timeout(&at, Duration::from_secs(1))?;
        stream.set_read_timeout(Some(SESSION))?;
        stream.set_nodelay(true)?;
        let mut hello = Vec::new();
        hello.extend(0i32.to_be_bytes());
        hello.extend(0i64.to_be_bytes());
        hello.extend((SESSION.as_millis() as i32).to_be_bytes());
        hello.extend(self.id.to_be_bytes());
        put(&mut hello, &self.password);
        send(&mut stream, &hello)?;
        let answer = receive(&mut stream)?;
        let mut rest = answer.get(4..).unwrap_or_default();
        if number(&mut rest) <= 0 {
            eprintln!("the session with ZooKeeper is over");
            std::process::exit(1);
        }
        let id = rest.get(..8).and_then(|bytes| bytes.try_into().ok()).unwrap_or([0; 8]);
        self.id = i64::from_be_bytes(id);
        rest = rest.get(8..).unwrap_or_default();
        self.password = take(&mut rest).to_vec();
        self.stream = Some(stream);
        Ok(())
    }
}

fn send(stream: &mut TcpStream, packet: &[u8]) -> io::Result<()> {
    stream.write_all(&[&(packet.len() as i32).to_be_bytes()[..], packet].concat())
}

fn receive(stream: &mut TcpStream) -> io::Result<Vec<u8>> {
    let mut length = [0; 4];
    stream.read_exact(&mut length)?;
    let length = usize::try_from(i32::from_be_bytes(length)).unwrap_or(0);
    if length > 4 << 20 {
        return Err(io::Error::new(io::ErrorKind::InvalidData, "a packet is too long"));
    }
    let mut packet = vec![0; length];
    stream.read_exact(&mut packet)?;
    Ok(packet)
}

/// Bytes with their length before them.
fn put(into: &mut Vec<u8>, bytes: &[u8]) {
    into.extend((bytes.len() as i32).to_be_bytes());
    into.extend(bytes);
}

fn number(rest: &mut &[u8]) -> i32 {
    let Some((head, tail)) = rest.split_first_chunk::<4>() else { return 0 };
    *rest = tail;
    i32::from_be_bytes(*head)
}

fn take<'a>(rest: &mut &'a [u8]) -> &'a [u8] {
    let length = usize::try_from(number(rest)).unwrap_or(0).min(rest.len());
    let (head, tail) = rest.split_at(length);
    *rest = tail;
    head
}
