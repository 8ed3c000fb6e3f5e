//! Many datagrams in a short time (sendmmsg(2)), from one address or from forged ones.

use crate::{Error, Machine};
use nix::libc;
use nix::sys::socket::{ControlMessage, MsgFlags, MultiHeaders, SockaddrStorage, sendmmsg};
use std::io::IoSlice;
use std::net::{Ipv4Addr, SocketAddr};
use std::os::fd::AsRawFd;
use std::time::{Duration, Instant};

/// Datagrams in one system call.
const BATCH: usize = 64;

/// Datagrams from one forged address.
const FORGED_BATCH: usize = 8;

/// What was sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FloodReport {
    /// Datagrams the kernel took.
    pub sent: u64,
    /// How long it took.
    pub took: Duration,
}

/// Sends `count` datagrams from the machine to `target` as fast as it goes. `next` writes each into the buffer it gets
/// (its capacity is kept) and is called `count` times.
///
/// # Errors
/// [`Error::System`] when no socket can be made. Refused datagrams (an ICMP error from the target) are sent again once.
pub fn flood(
    from: &Machine,
    target: SocketAddr,
    count: u64,
    mut next: impl FnMut(&mut Vec<u8>) + Send,
) -> Result<FloodReport, Error> {
    let socket = from.udp(if target.is_ipv4() { "0.0.0.0:0" } else { "[::]:0" })?;
    let start = Instant::now();
    let mut sent = 0;
    let mut buffers: Vec<Vec<u8>> = (0..BATCH).map(|_| Vec::with_capacity(2048)).collect();
    let mut headers = MultiHeaders::<SockaddrStorage>::preallocate(BATCH, None);
    let targets = [Some(SockaddrStorage::from(target)); BATCH];
    let nothing: [ControlMessage<'_>; 0] = [];
    let mut left = count;
    while left > 0 {
        let batch = BATCH.min(usize::try_from(left).unwrap_or(BATCH));
        for buffer in &mut buffers[..batch] {
            buffer.clear();
            next(buffer);
        }
        let slices: Vec<[IoSlice<'_>; 1]> =
            buffers[..batch].iter().map(|buffer| [IoSlice::new(buffer)]).collect();
        let mut done = 0;
        let mut refusals = 0;
        while done < batch && refusals < 2 {
            let result = sendmmsg(
                socket.as_raw_fd(),
                &mut headers,
                &slices[done..],
                &targets[..batch - done],
                nothing,
                MsgFlags::empty(),
            );
            match result {
                Ok(accepted) => done += accepted.count().max(1),
                Err(_) => refusals += 1,
            }
        }
        sent += done as u64;
        left -= batch as u64;
    }
    Ok(FloodReport { sent, took: start.elapsed() })
}

/// Sends datagrams to `target` at `rate_per_s` for so long, each few from another address of `sources`, which are nobody's:
/// a /16 that the machine is told to call its own. `next` writes each datagram into the buffer it gets.
///
/// # Errors
/// [`Error::System`] or [`Error::Command`] when no socket or no route can be made.
pub fn forged(
    from: &Machine,
    sources: Ipv4Addr,
    target: SocketAddr,
    rate_per_s: u64,
    length: Duration,
    mut next: impl FnMut(&mut Vec<u8>) + Send,
) -> Result<FloodReport, Error> {
    from.ip(&format!("route replace local {sources}/16 dev lo"))?;
    let socket = from.udp("0.0.0.0:0")?;
    let start = Instant::now();
    let mut buffers: Vec<Vec<u8>> = (0..FORGED_BATCH).map(|_| Vec::with_capacity(2048)).collect();
    let mut headers =
        MultiHeaders::<SockaddrStorage>::preallocate(FORGED_BATCH, Some(nix::cmsg_space!(libc::in_pktinfo)));
    let targets = [Some(SockaddrStorage::from(target)); FORGED_BATCH];
    let (mut sent, mut batches) = (0, 0_u32);
    while start.elapsed() < length {
        let due = (start.elapsed().as_secs_f64() * rate_per_s as f64) as u64;
        if sent >= due {
            std::thread::sleep(Duration::from_micros(200));
            continue;
        }
        for buffer in &mut buffers {
            buffer.clear();
            next(buffer);
        }
        let slices: Vec<[IoSlice<'_>; 1]> = buffers.iter().map(|buffer| [IoSlice::new(buffer)]).collect();
        let address = Ipv4Addr::from_bits(sources.to_bits() | (batches & 0xffff));
        let info = libc::in_pktinfo {
            ipi_ifindex: 0,
            ipi_spec_dst: libc::in_addr { s_addr: u32::from_ne_bytes(address.octets()) },
            ipi_addr: libc::in_addr { s_addr: 0 },
        };
        let source = [ControlMessage::Ipv4PacketInfo(&info)];
        let result = sendmmsg(socket.as_raw_fd(), &mut headers, &slices, targets, source, MsgFlags::empty());
        sent += result.map_or(0, |accepted| accepted.count() as u64);
        batches = batches.wrapping_add(1);
    }
    Ok(FloodReport { sent, took: start.elapsed() })
}
