//! A proxy for scenarios: SOCKS5 (RFC 1928, RFC 1929) and HTTP's CONNECT, with a user and a password, on a machine. It is
//! as small as that can be, and no proxy for anything else.

use netlab::Machine;
use std::io::{self, Read, Write};
use std::net::{Ipv4Addr, Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use super::done;

/// The user that it knows.
pub const USER: &str = "me";
/// Her password.
pub const PASSWORD: &str = "a-word-that-is-in-no-log";
/// Both, as HTTP's basic authentication has it.
const BASIC: &str = "bWU6YS13b3JkLXRoYXQtaXMtaW4tbm8tbG9n";

/// A running proxy. It ends with the test.
#[derive(Debug)]
pub struct TestProxy {
    served: Arc<AtomicU64>,
    refused: Arc<AtomicU64>,
}

impl TestProxy {
    /// Starts it on a machine, at this port of all addresses.
    ///
    /// # Panics
    /// When the port is taken.
    pub fn start(machine: &Machine, port: u16) -> TestProxy {
        let listener = done(done(machine.enter(|| TcpListener::bind((Ipv4Addr::UNSPECIFIED, port)))));
        let (served, refused) = (Arc::new(AtomicU64::new(0)), Arc::new(AtomicU64::new(0)));
        let counters = (served.clone(), refused.clone());
        // Threads are where the one is that started them.
        drop(done(machine.thread(move || {
            for client in listener.incoming().flatten() {
                let (served, refused) = counters.clone();
                std::thread::spawn(move || match serve(client) {
                    Ok(true) => served.fetch_add(1, Ordering::Relaxed),
                    _ => refused.fetch_add(1, Ordering::Relaxed),
                });
            }
        })));
        TestProxy { served, refused }
    }

    /// Connections that it carried to their end.
    pub fn served(&self) -> u64 {
        self.served.load(Ordering::Relaxed)
    }

    /// Clients that it did not serve.
    pub fn refused(&self) -> u64 {
        self.refused.load(Ordering::Relaxed)
    }
}

/// Whether the client was served.
fn serve(mut client: TcpStream) -> io::Result<bool> {
    let mut first = [0];
    client.read_exact(&mut first)?;
    let asked = if first[0] == 5 { socks5(&mut client)? } else { connect(&mut client, first[0])? };
    let Some(to) = asked else { return Ok(false) };
    let onward = TcpStream::connect(to)?;
    onward.set_nodelay(true)?;
    client.set_nodelay(true)?;
    let (mut up_from, mut up_to) = (client.try_clone()?, onward.try_clone()?);
    let up = std::thread::spawn(move || {
        let _ = io::copy(&mut up_from, &mut up_to);
        let _ = up_to.shutdown(Shutdown::Both);
    });
    let (mut down_from, mut down_to) = (onward, client);
    let _ = io::copy(&mut down_from, &mut down_to);
    let _ = down_to.shutdown(Shutdown::Both);
    let _ = up.join();
    Ok(true)
}

fn socks5(client: &mut TcpStream) -> io::Result<Option<SocketAddr>> {
    let mut count = [0];
    client.read_exact(&mut count)?;
    let mut methods = vec![0; usize::from(count[0])];
    client.read_exact(&mut methods)?;
    if !methods.contains(&2) {
        client.write_all(&[5, 0xff])?;
        return Ok(None);
    }
    client.write_all(&[5, 2])?;
    let field = |client: &mut TcpStream| -> io::Result<Vec<u8>> {
        let mut len = [0];
        client.read_exact(&mut len)?;
        let mut bytes = vec![0; usize::from(len[0])];
        client.read_exact(&mut bytes)?;
        Ok(bytes)
    };
    let mut version = [0];
    client.read_exact(&mut version)?;
    let (user, password) = (field(client)?, field(client)?);
    let known = user == USER.as_bytes() && password == PASSWORD.as_bytes();
    client.write_all(&[1, u8::from(!known)])?;
    if !known {
        return Ok(None);
    }
    let mut request = [0; 10];
    client.read_exact(&mut request)?;
    if request[..4] != [5, 1, 0, 1] {
        client.write_all(&[5, 7, 0, 1, 0, 0, 0, 0, 0, 0])?;
        return Ok(None);
    }
    client.write_all(&[5, 0, 0, 1, 0, 0, 0, 0, 0, 0])?;
    let ip = Ipv4Addr::new(request[4], request[5], request[6], request[7]);
    Ok(Some(SocketAddr::from((ip, u16::from_be_bytes([request[8], request[9]])))))
}

fn connect(client: &mut TcpStream, first: u8) -> io::Result<Option<SocketAddr>> {
    let mut head = vec![first];
    while !head.ends_with(b"\r\n\r\n") && head.len() < 4096 {
        let mut byte = [0];
        client.read_exact(&mut byte)?;
        head.push(byte[0]);
    }
    let head = String::from_utf8_lossy(&head);
    if !head.contains(&format!("\r\nProxy-Authorization: Basic {BASIC}\r\n")) {
        client.write_all(b"HTTP/1.1 407 Proxy Authentication Required\r\nContent-Length: 0\r\n\r\n")?;
        return Ok(None);
    }
    let place = head.strip_prefix("CONNECT ").and_then(|rest| rest.split(' ').next());
    let Some(to) = place.and_then(|place| place.parse().ok()) else {
        client.write_all(b"HTTP/1.1 400 Bad Request\r\nContent-Length: 0\r\n\r\n")?;
        return Ok(None);
    };
    client.write_all(b"HTTP/1.1 200 Connection established\r\n\r\n")?;
    Ok(Some(to))
}
