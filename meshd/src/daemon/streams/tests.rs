//! Connections over the loopback, with proxies made here.

use std::cell::Cell;
use std::collections::VecDeque;
use std::sync::Mutex;
use std::time::{Duration, Instant};

use meshnet::path::SocketId;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use zeroize::Zeroizing;

use super::*;
use crate::config::streams::{Login, Password, ProxyKind};

/// Remembers what comes in.
#[derive(Clone, Default)]
struct Taken(Arc<Mutex<Inside>>);

#[derive(Default)]
struct Inside {
    datagrams: VecDeque<(Key, Vec<u8>)>,
    closed: Vec<Key>,
    full: bool,
}

impl Inlet for Taken {
    fn give(&self, key: Key, datagram: Vec<u8>) -> Result<usize, Vec<u8>> {
        let mut inside = self.0.lock().unwrap();
        if inside.full {
            return Err(datagram);
        }
        inside.datagrams.push_back((key, datagram));
        Ok(0)
    }

    fn wake(&self, _threads: u32) {}

    fn closed(&self, key: Key) {
        self.0.lock().unwrap().closed.push(key);
    }
}

impl Taken {
    fn next(&self) -> (Key, Vec<u8>) {
        wait("a datagram", || self.0.lock().unwrap().datagrams.pop_front())
    }
}

fn wait<T>(what: &str, look: impl Fn() -> Option<T>) -> T {
    let deadline = Instant::now() + Duration::from_secs(20);
    loop {
        if let Some(found) = look() {
            return found;
        }
        assert!(Instant::now() < deadline, "no {what}");
        std::thread::sleep(Duration::from_millis(5));
    }
}

/// One end, with what it takes in.
struct End {
    table: Arc<Table>,
    taken: Taken,
    listening: Vec<(SocketAddr, bool)>,
    _streams: Streams,
}

fn end(config: &Config) -> End {
    let prepared = Prepared::new(config, 0).unwrap();
    let listening = prepared.listening();
    let (table, dials) = Table::new();
    let taken = Taken::default();
    let streams = Streams::start(prepared, table.clone(), dials, taken.clone()).unwrap();
    End { table, taken, listening, _streams: streams }
}

fn any() -> SocketAddr {
    SocketAddr::from(([127, 0, 0, 1], 0))
}

fn listening() -> End {
    let listen_tls = if HAS_TLS { vec![any()] } else { Vec::new() };
    end(&Config { listen_tcp: vec![any()], listen_tls, ..Config::default() })
}

/// Sends both ways over a connection, in order and of all sizes.
fn exchange(client: &End, server: &End, key: Key) {
    client.table.send_or_dial(key, b"first");
    let (from, datagram) = server.taken.next();
    assert_eq!((from.0, datagram.as_slice()), (SocketId::ACCEPTED, b"first".as_slice()));
    server.table.confirm(from);
    for len in [1, 1452, 65_507] {
        assert_eq!(pass((client, key), &vec![7; len], server), (from, vec![7; len]));
        assert_eq!(pass((server, from), &vec![8; len], client), (key, vec![8; len]));
    }
}

/// Sends until something arrives: what a busy machine keeps waiting for half a second is dropped by the sender.
fn pass((from, key): (&End, Key), datagram: &[u8], to: &End) -> (Key, Vec<u8>) {
    let again = Cell::new(Instant::now());
    wait("a datagram", || {
        if Instant::now() >= again.get() {
            from.table.send(key, datagram.len(), std::iter::once(datagram));
            again.set(Instant::now() + Duration::from_secs(2));
        }
        to.taken.0.lock().unwrap().datagrams.pop_front()
    })
}

#[test]
fn datagrams_go_both_ways_plain_and_with_tls() {
    let (server, client) = (listening(), end(&Config::default()));
    for (address, tls) in server.listening.clone() {
        exchange(&client, &server, (if tls { SocketId::TLS } else { SocketId::TCP }, address));
    }
    assert_eq!(client.table.len(), if HAS_TLS { 2 } else { 1 });
    drop(server);
    // That a connection has ended is told when it is out of the table already.
    let ended = || client.taken.0.lock().unwrap().closed.len() == if HAS_TLS { 2 } else { 1 };
    wait("end of the connections", || ended().then_some(()));
    assert_eq!(client.table.len(), 0);
}

#[test]
fn where_nobody_listens_that_is_told() {
    let client = end(&Config::default());
    let nobody = "127.0.0.1:1".parse().unwrap();
    client.table.send_or_dial((SocketId::TCP, nobody), b"x");
    wait("end of the attempt", || client.taken.0.lock().unwrap().closed.first().copied());
    assert_eq!((client.table.len(), client.table.counted()[1]), (0, ("dial_failed", 1)));
}

#[test]
fn nonsense_ends_a_connection_and_a_stranger_is_told_nothing() {
    use std::io::{Read, Write};
    let server = listening();
    let plain = server.listening.iter().find(|(_, tls)| !tls).unwrap().0;
    let mut stranger = std::net::TcpStream::connect(plain).unwrap();
    stranger.write_all(&[0, 0, 1, 2, 3]).unwrap();
    stranger.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
    let read = stranger.read(&mut [0; 16]);
    assert!(matches!(read, Ok(0) | Err(_)) && server.taken.0.lock().unwrap().datagrams.is_empty());
    wait("end of the connection", || (server.table.losses()[4].1 == 1).then_some(()));
    // One that sends and sends without being a member has an end, too.
    let mut flood = std::net::TcpStream::connect(plain).unwrap();
    let frame = [&1000u16.to_be_bytes()[..], &[9; 1000]].concat();
    while flood.write_all(&frame).is_ok() {}
    wait("end of the flood", || (server.table.losses()[4].1 == 2).then_some(()));
    assert!(server.taken.0.lock().unwrap().datagrams.len() < 128);
}

#[test]
fn a_queue_that_nobody_empties_stays_bounded_and_what_waited_too_long_is_dropped() {
    let (server, client) = (listening(), end(&Config::default()));
    let key = (SocketId::TCP, server.listening.iter().find(|(_, tls)| !tls).unwrap().0);
    client.table.send_or_dial(key, b"first");
    let (from, _) = server.taken.next();
    server.table.confirm(from);
    server.taken.0.lock().unwrap().full = true;
    for _ in 0..20_000 {
        client.table.send(key, 1400, std::iter::once(&[1; 1400][..]));
    }
    let [_, queue_full, ..] = client.table.losses();
    assert!(queue_full.1 > 10_000, "{queue_full:?}");
    wait("what was read and had no room is counted", || (server.table.losses()[3].1 > 0).then_some(()));
    server.taken.0.lock().unwrap().full = false;
    wait("a datagram that is not stale", || {
        client.table.send(key, 4, std::iter::once(&b"last"[..]));
        std::thread::sleep(Duration::from_millis(20));
        let mut inside = server.taken.0.lock().unwrap();
        inside.datagrams.drain(..).any(|(_, datagram)| datagram == b"last").then_some(())
    });
}

/// A proxy that asks for `me` and `secret`, and tells what it was asked to connect to.
fn proxy_of_the_test(kind: ProxyKind) -> (SocketAddr, std::sync::mpsc::Receiver<String>) {
    let listener = std::net::TcpListener::bind(any()).unwrap();
    listener.set_nonblocking(true).unwrap();
    let address = listener.local_addr().unwrap();
    let (tell, told) = std::sync::mpsc::channel();
    std::thread::spawn(move || {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            let listener = TcpListener::from_std(listener).unwrap();
            while let Ok((mut stream, _)) = listener.accept().await {
                let asked = match kind {
                    ProxyKind::Socks5 => socks5(&mut stream).await,
                    ProxyKind::Http => connect(&mut stream).await,
                };
                let Some(to) = asked else {
                    let _ = tell.send("refused".into());
                    continue;
                };
                let mut onward = TcpStream::connect(to).await.unwrap();
                if tell.send(to.to_string()).is_err() {
                    return;
                }
                tokio::spawn(async move { tokio::io::copy_bidirectional(&mut stream, &mut onward).await });
            }
        });
    });
    (address, told)
}

/// RFC 1928 with RFC 1929.
async fn socks5(stream: &mut TcpStream) -> Option<SocketAddr> {
    let mut head = [0; 2];
    stream.read_exact(&mut head).await.ok()?;
    let mut methods = vec![0; usize::from(head[1])];
    stream.read_exact(&mut methods).await.ok()?;
    if head[0] != 5 || !methods.contains(&2) {
        stream.write_all(&[5, 0xff]).await.ok()?;
        return None;
    }
    stream.write_all(&[5, 2]).await.ok()?;
    let mut login = vec![0; 2 + 2 + 1 + 6];
    stream.read_exact(&mut login).await.ok()?;
    let granted = login == b"\x01\x02me\x06secret";
    stream.write_all(&[1, u8::from(!granted)]).await.ok()?;
    let mut request = [0; 10];
    stream.read_exact(&mut request).await.ok()?;
    assert_eq!(request[..4], [5, 1, 0, 1]);
    stream.write_all(&[5, 0, 0, 1, 0, 0, 0, 0, 0, 0]).await.ok()?;
    let ip: [u8; 4] = request[4..8].try_into().unwrap();
    Some(SocketAddr::from((ip, u16::from_be_bytes([request[8], request[9]]))))
}

async fn connect(stream: &mut TcpStream) -> Option<SocketAddr> {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        head.push(stream.read_u8().await.ok()?);
    }
    let head = String::from_utf8(head).ok()?;
    // "me:secret" in base64.
    if !head.contains("\r\nProxy-Authorization: Basic bWU6c2VjcmV0\r\n") {
        stream.write_all(b"HTTP/1.1 407 Proxy Authentication Required\r\n\r\n").await.ok()?;
        return None;
    }
    let to = head.strip_prefix("CONNECT ")?.split(' ').next()?.parse().ok()?;
    stream.write_all(b"HTTP/1.1 200 Connection established\r\nVia: 1.1 test\r\n\r\n").await.ok()?;
    Some(to)
}

fn proxy(kind: ProxyKind, address: SocketAddr, password: &str) -> Option<Proxy> {
    let password = Password::new(Zeroizing::new(password.into()));
    let login = Some(Login { user: "me".into(), password });
    Some(Proxy { kind, host: address.ip().to_string(), port: address.port(), login })
}

#[test]
fn proxies_are_asked_with_user_and_password_and_a_wrong_one_is_no_way() {
    let server = listening();
    for kind in [ProxyKind::Socks5, ProxyKind::Http] {
        let (address, asked) = proxy_of_the_test(kind);
        let client = end(&Config { proxy: proxy(kind, address, "secret"), ..Config::default() });
        for (to, tls) in server.listening.clone() {
            exchange(&client, &server, (if tls { SocketId::TLS } else { SocketId::TCP }, to));
            assert_eq!(asked.recv_timeout(Duration::from_secs(5)).unwrap(), to.to_string());
        }
        let client = end(&Config { proxy: proxy(kind, address, "guessed"), ..Config::default() });
        client.table.send_or_dial((SocketId::TCP, server.listening[0].0), b"x");
        wait("end of the attempt", || client.taken.0.lock().unwrap().closed.first().copied());
        assert_eq!(client.table.counted()[1], ("dial_failed", 1));
    }
}
