//! Many datagrams in a short time (sendmmsg(2)).

use crate::{Error, Machine};
use nix::sys::socket::{ControlMessage, MsgFlags, MultiHeaders, SockaddrStorage, sendmmsg};
use std::io::IoSlice;
use std::net::SocketAddr;
use std::os::fd::AsRawFd;
use std::time::{Duration, Instant};

/// Datagrams in one system call.
const BATCH: usize = 64;

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
