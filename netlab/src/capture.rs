//! Recording what passes an interface (packet(7)).

use crate::{Error, Machine};
use nix::sys::socket::{LinkAddr, recvfrom};
use socket2::{Domain, Protocol, Socket, Type};
use std::os::fd::AsRawFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

/// All protocols, in network byte order as packet(7) wants it (`if_ether.h`: ETH_P_ALL).
const ETH_P_ALL: i32 = (0x0003_u16).to_be() as i32;

/// A recording keeps at most this much.
const MAX_BYTES: usize = 256 << 20;

/// A recording that goes on until [`Capture::stop`].
#[derive(Debug)]
pub struct Capture {
    stop: Arc<AtomicBool>,
    thread: JoinHandle<Result<Recording, Error>>,
}

/// What passed.
#[derive(Clone, Debug, Default)]
pub struct Recording {
    /// The packets in order, with the link layer's header where the interface has one.
    pub packets: Vec<Packet>,
    /// Packets that came after the recording was full.
    pub left_out: u64,
}

/// One packet.
#[derive(Clone, Debug)]
pub struct Packet {
    /// When it was read.
    pub at: Instant,
    /// Its bytes.
    pub bytes: Vec<u8>,
}

impl Capture {
    pub(crate) fn start(machine: &Machine, interface: &str) -> Result<Capture, Error> {
        let socket = machine.enter(|| -> Result<(Socket, usize), Error> {
            let index =
                nix::net::if_::if_nametoindex(interface).map_err(Error::system("looking up an interface"))?;
            let socket = Socket::new(Domain::PACKET, Type::RAW, Some(Protocol::from(ETH_P_ALL)))
                .map_err(Error::system("making a packet socket"))?;
            crate::flow::enlarge(&socket, 16 << 20)?;
            socket
                .set_read_timeout(Some(Duration::from_millis(20)))
                .map_err(Error::system("setting a timeout"))?;
            Ok((socket, index as usize))
        })??;
        let stop = Arc::new(AtomicBool::new(false));
        let told = stop.clone();
        let thread = std::thread::Builder::new()
            .name(format!("capture {interface}"))
            .spawn(move || record(&socket.0, socket.1, &told))
            .map_err(Error::system("starting a thread"))?;
        Ok(Capture { stop, thread })
    }

    /// Ends the recording. What passed the interface before the call is in it.
    ///
    /// # Errors
    /// [`Error::System`] when reading the packets failed.
    pub fn stop(self) -> Result<Recording, Error> {
        self.stop.store(true, Ordering::Release);
        self.thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
    }
}

impl Recording {
    /// The number of packets that hold these bytes.
    pub fn count_with(&self, needle: &[u8]) -> usize {
        let holds = |packet: &&Packet| packet.bytes.windows(needle.len()).any(|window| window == needle);
        self.packets.iter().filter(holds).count()
    }

    /// The sum of the packets' lengths.
    pub fn bytes(&self) -> usize {
        self.packets.iter().map(|packet| packet.bytes.len()).sum()
    }
}

/// Reads until told to stop and the queue is empty. The socket hears all interfaces; only one is kept.
fn record(socket: &Socket, index: usize, stop: &AtomicBool) -> Result<Recording, Error> {
    let mut recording = Recording::default();
    let mut kept = 0;
    let mut buffer = vec![0u8; 1 << 17];
    loop {
        let last_round = stop.load(Ordering::Acquire);
        match recvfrom::<LinkAddr>(socket.as_raw_fd(), &mut buffer) {
            Ok((length, from)) if from.is_some_and(|from| from.ifindex() == index) => {
                if kept + length > MAX_BYTES {
                    recording.left_out += 1;
                } else {
                    kept += length;
                    recording.packets.push(Packet { at: Instant::now(), bytes: buffer[..length].to_vec() });
                }
            }
            Ok(_) | Err(nix::Error::EINTR) => {}
            // Nothing for a while. The interface may be gone (ENETDOWN): that is the end of what passes it.
            Err(nix::Error::EAGAIN | nix::Error::ENETDOWN) if last_round => return Ok(recording),
            Err(nix::Error::EAGAIN | nix::Error::ENETDOWN) => {}
            Err(error) => return Err(Error::system("reading packets")(error)),
        }
    }
}
