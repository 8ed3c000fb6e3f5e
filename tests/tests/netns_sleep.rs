//! A machine that stands still and goes on.

use meshnet_tests::net::{SETTLE, Split, done, overlay, timed};
use std::time::{Duration, Instant};

#[test]
fn a_stopped_daemon_is_back_within_a_second_after_it_goes_on() {
    // Relayed, so that two sessions have to come back: with the relay, and with the other end.
    let split = Split::new(1);
    let pid = nix::unistd::Pid::from_raw(split.a.pid().expect("it runs").cast_signed());
    let (there, back) = (overlay(&split.b), overlay(&split.a));
    // Long enough for the others to take every path to it for dead, and its links for gone.
    for stopped in [3, 20] {
        let what = format!("back after {stopped} s of standing still");
        timed(&what, Duration::from_secs(1), || {
            done(nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGSTOP));
            std::thread::sleep(Duration::from_secs(stopped));
            let silent = done(split.b.machine().ping(back, Duration::from_millis(300)));
            assert_eq!(silent, None, "it stands still");
            done(nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGCONT));
            let start = Instant::now();
            done(split.a.wait_for_ping(there, SETTLE));
            done(split.b.wait_for_ping(back, SETTLE));
            vec![start.elapsed()]
        });
    }
    assert!(split.a.log_text().contains("awake again"), "{}", split.a.log_text());
}
