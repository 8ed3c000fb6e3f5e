//! ICMP echo through the kernel's unprivileged ICMP sockets (icmp(7), `net.ipv4.ping_group_range`).

use crate::Error;
use socket2::{Domain, Protocol, SockAddr, Socket, Type};
use std::io::Read;
use std::net::{IpAddr, SocketAddr};
use std::sync::atomic::{AtomicU16, Ordering};
use std::time::{Duration, Instant};

const ECHO_REQUEST_V4: u8 = 8;
const ECHO_REQUEST_V6: u8 = 128;
const ECHO_REPLY_V4: u8 = 0;
const ECHO_REPLY_V6: u8 = 129;

/// One echo from the namespace of the calling thread; see [`crate::Machine::ping`].
pub(crate) fn once(to: IpAddr, limit: Duration) -> Result<Option<Duration>, Error> {
    Ok(burst(to, 1, limit)?[0])
}

/// Sends `count` echoes at once from the namespace of the calling thread (use [`crate::Machine::enter`]), and waits
/// for the answers at most for `limit`. Gives the round-trip time of each, or `None`.
///
/// # Errors
/// [`Error::System`] when no ICMP socket can be made.
pub fn burst(to: IpAddr, count: u16, limit: Duration) -> Result<Vec<Option<Duration>>, Error> {
    // Sequence numbers are the process's own, so that an answer to an earlier call is never taken for one of this.
    static SEQUENCE: AtomicU16 = AtomicU16::new(1);
    let (domain, protocol) = match to {
        IpAddr::V4(_) => (Domain::IPV4, Protocol::ICMPV4),
        IpAddr::V6(_) => (Domain::IPV6, Protocol::ICMPV6),
    };
    let mut socket =
        Socket::new(domain, Type::DGRAM, Some(protocol)).map_err(Error::system("making an ICMP socket"))?;
    let first = SEQUENCE.fetch_add(count, Ordering::Relaxed);
    let target = SockAddr::from(SocketAddr::new(to, 0));
    let start = Instant::now();
    for number in 0..count {
        // An unreachable network is silence, like everything else that keeps an echo from coming back.
        let _ = socket.send_to(&request(to, first.wrapping_add(number)), &target);
    }
    let mut answers = vec![None; usize::from(count)];
    let mut buffer = [0u8; 1500];
    while answers.contains(&None) {
        let Some(left) = limit.checked_sub(start.elapsed()).filter(|left| !left.is_zero()) else { break };
        socket.set_read_timeout(Some(left)).map_err(Error::system("setting a timeout"))?;
        let Ok(length) = socket.read(&mut buffer) else { continue };
        let Some(sequence) = reply(to, &buffer[..length]) else { continue };
        if let Some(answer) = answers.get_mut(usize::from(sequence.wrapping_sub(first))) {
            answer.get_or_insert(start.elapsed());
        }
    }
    Ok(answers)
}

/// Type, code, checksum, identifier, sequence (RFC 792; RFC 4443, section 4.1). The kernel fills checksum and identifier.
fn request(to: IpAddr, sequence: u16) -> [u8; 64] {
    let mut message = [0u8; 64];
    message[0] = if to.is_ipv4() { ECHO_REQUEST_V4 } else { ECHO_REQUEST_V6 };
    message[6..8].copy_from_slice(&sequence.to_be_bytes());
    message
}

fn reply(to: IpAddr, message: &[u8]) -> Option<u16> {
    let expected = if to.is_ipv4() { ECHO_REPLY_V4 } else { ECHO_REPLY_V6 };
    let [kind, _, _, _, _, _, high, low, ..] = *message else { return None };
    (kind == expected).then(|| u16::from_be_bytes([high, low]))
}
