//! For tests that need a network of their own: a thread in a new network namespace.

use std::process::Command;

use nix::sched::{CloneFlags, unshare};

/// Runs `body` on a thread in a new network namespace with the loopback up. Where the kernel does not permit that, the
/// test is skipped and says why on stderr.
///
/// # Panics
/// When `body` panics.
pub(crate) fn in_namespace(body: impl FnOnce() + Send + 'static) {
    let thread = std::thread::spawn(move || {
        if let Err(errno) = unshare(CloneFlags::CLONE_NEWNET) {
            eprintln!("SKIPPED: no new network namespace ({errno}); run as root to test this");
            return;
        }
        ip("link set lo up");
        body();
    });
    if let Err(panic) = thread.join() {
        std::panic::resume_unwind(panic);
    }
}

/// Looks until there is something, for ten seconds at most. What was closed may still be open for a moment, in a child of another
/// test that has copied all descriptors and not begun to run its program yet.
pub(crate) fn soon<T>(what: &str, look: impl Fn() -> Option<T>) -> T {
    let start = std::time::Instant::now();
    loop {
        if let Some(found) = look() {
            return found;
        }
        assert!(start.elapsed() < std::time::Duration::from_secs(10), "{what}: not within ten seconds");
        std::thread::sleep(std::time::Duration::from_millis(5));
    }
}

/// Runs ip(8) with `arguments` split at spaces, in this thread's namespace.
///
/// # Panics
/// When it fails.
pub(crate) fn ip(arguments: &str) {
    let output = run_ip(arguments);
    assert!(output.status.success(), "ip {arguments}: {}", String::from_utf8_lossy(&output.stderr));
}

/// The output of ip(8) with `arguments`.
pub(crate) fn ip_says(arguments: &str) -> String {
    String::from_utf8_lossy(&run_ip(arguments).stdout).into_owned()
}

fn run_ip(arguments: &str) -> std::process::Output {
    Command::new("ip").args(arguments.split(' ')).output().expect("iproute2 is installed")
}

/// Whether this process may open the TUN device; says why not.
pub(crate) fn may_use_tun() -> bool {
    match std::fs::OpenOptions::new().read(true).write(true).open("/dev/net/tun") {
        Ok(_) => true,
        Err(error) => {
            eprintln!("SKIPPED: /dev/net/tun: {error}");
            false
        }
    }
}

/// Makes an Ethernet interface (one end of a veth pair; not every kernel has `dummy`) that is down, and has link once
/// it is up.
///
/// # Panics
/// When that fails.
pub(crate) fn add_interface(name: &str) {
    ip(&format!("link add {name} type veth peer name far-{name}"));
    ip(&format!("link set far-{name} up"));
}
