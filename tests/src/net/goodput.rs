//! What several TCP streams get through a line in a while, every byte that arrives compared.

use super::done;
use super::noise::Noise;
use netlab::Machine;
use nix::sys::socket::{
    setsockopt,
    sockopt::{Linger, SndBuf, TcpCongestion},
};
use std::ffi::OsString;
use std::io::{self, ErrorKind, Read, Write};
use std::net::{IpAddr, SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

/// Bytes made and checked at a time.
const CHUNK: usize = 1 << 16;
/// What waits at a sender: several times what is under way at 100 Mbit/s and 5 ms.
const SENDS_AHEAD_BYTES: usize = 256 * 1024;
/// A connection that is not made, or brings nothing, for so long has failed. On a line that loses a fifth in each direction, every
/// third repetition or its answer is lost, and the pause doubles each time.
const PATIENCE: Duration = Duration::from_secs(60);
/// A connection that is not made by then is tried anew: sooner than TCP would, which is not what is measured. So is one that fails,
/// as where all questions for the neighbour's hardware address were lost.
const KNOCK: Duration = Duration::from_millis(100);
/// How often an end that stands still looks whether it is over.
const LOOK: Duration = Duration::from_millis(50);

/// The rate in Mbit/s at which noise arrives over so many streams together, for `time` from when each has begun, with this
/// congestion control. Then they are cut off: what still waits says nothing. `None` where the kernel has not got that
/// control, or does not let us have it.
///
/// # Panics
/// When a byte is wrong, or a stream does not begin, or fails.
pub fn goodput(
    from: &Machine,
    to: &Machine,
    address: IpAddr,
    streams: usize,
    time: Duration,
    control: &'static str,
) -> Option<f64> {
    let has_it = done(from.enter(|| {
        let any = done(TcpListener::bind(("127.0.0.1", 0)));
        setsockopt(&any, TcpCongestion, &OsString::from(control)).is_ok()
    }));
    if !has_it {
        return None;
    }
    let over = Arc::new(AtomicBool::new(false));
    let streams: Vec<Stream> =
        (0..streams).map(|_| Stream::start(from, to, address, control, over.clone())).collect();
    let (start, deadline) = (Instant::now(), Instant::now() + PATIENCE);
    let begun = || streams.iter().all(|stream| stream.arrived() > 0);
    while !begun() && Instant::now() < deadline && streams.iter().all(Stream::is_alive) {
        std::thread::sleep(Duration::from_millis(1));
    }
    let failed = !begun();
    let arrived = || streams.iter().map(Stream::arrived).sum::<u64>();
    let (began, before) = (Instant::now(), arrived());
    if !failed {
        std::thread::sleep(time);
    }
    let (after, elapsed) = (arrived(), began.elapsed());
    over.store(true, Ordering::Relaxed);
    streams.into_iter().for_each(Stream::end);
    assert!(!failed, "a stream did not begin within {:?}", start.elapsed());
    Some((after - before) as f64 * 8.0 / 1e6 / elapsed.as_secs_f64())
}

/// A thread in a machine, which may not get there, and may fail there.
type Inside = JoinHandle<Result<io::Result<()>, netlab::Error>>;

struct Stream {
    ends: [Inside; 2],
    arrived: Arc<AtomicU64>,
}

impl Stream {
    fn start(
        from: &Machine,
        to: &Machine,
        address: IpAddr,
        control: &'static str,
        over: Arc<AtomicBool>,
    ) -> Stream {
        let listener = done(done(to.enter(|| TcpListener::bind((address, 0)))));
        done(listener.set_nonblocking(true));
        let target = done(listener.local_addr());
        let arrived = Arc::new(AtomicU64::new(0));
        let (counter, told) = (arrived.clone(), over.clone());
        let receiver = done(to.thread(move || receive(&listener, &counter, &told)));
        let sender = done(from.thread(move || send(target, control, &over)));
        Stream { ends: [receiver, sender], arrived }
    }

    fn arrived(&self) -> u64 {
        self.arrived.load(Ordering::Relaxed)
    }

    fn is_alive(&self) -> bool {
        !self.ends.iter().any(JoinHandle::is_finished)
    }

    fn end(self) {
        for end in self.ends {
            let ended = done(end.join().unwrap_or_else(|it| std::panic::resume_unwind(it)));
            if let Err(error) = ended {
                panic!("a stream failed after {} bytes: {error}", self.arrived.load(Ordering::Relaxed));
            }
        }
    }
}

/// Whether an error only says that nothing moved yet.
fn is_pause(error: &io::Error) -> bool {
    matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut | ErrorKind::Interrupted)
}

fn send(target: SocketAddr, control: &str, over: &AtomicBool) -> io::Result<()> {
    let mut stream = connect(target)?;
    setsockopt(&stream, TcpCongestion, &OsString::from(control))?;
    setsockopt(&stream, SndBuf, &SENDS_AHEAD_BYTES)?;
    // What waits in the end is not to disturb the next.
    setsockopt(&stream, Linger, &nix::libc::linger { l_onoff: 1, l_linger: 0 })?;
    stream.set_write_timeout(Some(LOOK))?;
    let (mut noise, mut chunk) = (Noise::new(), vec![0; CHUNK]);
    loop {
        noise.fill(&mut chunk);
        let mut written = 0;
        while written < CHUNK {
            if over.load(Ordering::Relaxed) {
                return Ok(());
            }
            match stream.write(&chunk[written..]) {
                Ok(len) => written += len,
                Err(error) if is_pause(&error) => {}
                // The other end may have gone first.
                Err(_) if over.load(Ordering::Relaxed) => return Ok(()),
                Err(error) => return Err(error),
            }
        }
    }
}

fn connect(target: SocketAddr) -> io::Result<TcpStream> {
    let deadline = Instant::now() + PATIENCE;
    loop {
        match TcpStream::connect_timeout(&target, KNOCK) {
            Err(error) if Instant::now() < deadline => {
                if !is_pause(&error) {
                    std::thread::sleep(LOOK);
                }
            }
            done => return done,
        }
    }
}

/// Takes one connection: earlier ones may have been given up by the sender, and bring nothing.
fn receive(listener: &TcpListener, arrived: &AtomicU64, over: &AtomicBool) -> io::Result<()> {
    loop {
        match receive_one(listener, arrived, over) {
            Err(error)
                if error.kind() != ErrorKind::InvalidData
                    && arrived.load(Ordering::Relaxed) == 0
                    && !over.load(Ordering::Relaxed) => {}
            done => return done,
        }
    }
}

fn receive_one(listener: &TcpListener, arrived: &AtomicU64, over: &AtomicBool) -> io::Result<()> {
    let mut stream = loop {
        match listener.accept() {
            Ok((stream, _)) => break stream,
            Err(error) if is_pause(&error) && !over.load(Ordering::Relaxed) => {
                std::thread::sleep(Duration::from_millis(1));
            }
            Err(error) if is_pause(&error) => return Ok(()),
            Err(error) => return Err(error),
        }
    };
    stream.set_nonblocking(false)?;
    stream.set_read_timeout(Some(LOOK))?;
    let (mut noise, mut expected, mut chunk) = (Noise::new(), vec![0; CHUNK], vec![0; CHUNK]);
    let mut moved = Instant::now();
    loop {
        noise.fill(&mut expected);
        let mut read = 0;
        while read < CHUNK {
            if over.load(Ordering::Relaxed) {
                return Ok(());
            }
            match stream.read(&mut chunk[read..]) {
                Ok(0) if over.load(Ordering::Relaxed) => return Ok(()),
                Ok(0) => return Err(ErrorKind::UnexpectedEof.into()),
                Ok(len) => {
                    let place = read..read + len;
                    if chunk[place.clone()] != expected[place] {
                        let at = arrived.load(Ordering::Relaxed);
                        return Err(io::Error::new(
                            ErrorKind::InvalidData,
                            format!("wrong bytes after {at}"),
                        ));
                    }
                    arrived.fetch_add(len as u64, Ordering::Relaxed);
                    (read, moved) = (read + len, Instant::now());
                }
                Err(error) if is_pause(&error) && moved.elapsed() < PATIENCE => {}
                Err(_) if over.load(Ordering::Relaxed) => return Ok(()),
                Err(error) => return Err(error),
            }
        }
    }
}
