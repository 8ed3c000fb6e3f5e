//! What is given up is given up for good, so every test runs again as a process of its own, which tries what it should not.

use std::net::UdpSocket;
use std::os::unix::process::ExitStatusExt;
use std::path::Path;
use std::process::{Command, ExitStatus};

use nix::libc;
use nix::sys::socket::{AddressFamily, SockFlag, SockType, socket};

use super::*;

const CHILD: &str = "MESHD_SANDBOX_TEST";

/// Runs `body` in this mode in a process of its own, with a state directory that may be written; `name` is the test's.
fn confined(name: &str, mode: Mode, body: impl FnOnce(&Path)) -> Option<ExitStatus> {
    if let Some(state) = std::env::var_os(CHILD) {
        let state = PathBuf::from(state);
        let needs = Needs {
            write: vec![state.join("state")],
            read: vec![state.join("config")],
            others: 1,
            ..Needs::default()
        };
        let report = enter(mode, begin(), &needs).unwrap_or_else(|error| panic!("{error}"));
        println!("{:?}", report.view());
        body(&state);
        return None;
    }
    let directory = tempfile::tempdir().unwrap();
    for sub in ["state", "config", "elsewhere"] {
        std::fs::create_dir(directory.path().join(sub)).unwrap();
        std::fs::write(directory.path().join(sub).join("file"), b"old").unwrap();
    }
    let test = format!("sandbox::tests::{name}");
    // Beside the test's thread there is one that waits for it.
    let child = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", &test, "--nocapture", "--test-threads=1"])
        .env(CHILD, directory.path())
        .output()
        .unwrap();
    println!("{}\n{}", String::from_utf8_lossy(&child.stdout), String::from_utf8_lossy(&child.stderr));
    Some(child.status)
}

#[track_caller]
fn passed(status: Option<ExitStatus>) {
    assert!(status.is_none_or(|status| status.success()), "{status:?}");
}

#[track_caller]
fn killed(status: Option<ExitStatus>) {
    assert!(status.is_none_or(|status| status.signal() == Some(libc::SIGSYS)), "{status:?}");
}

#[test]
fn only_the_state_directory_is_written_and_only_the_configuration_read() {
    passed(confined(
        "only_the_state_directory_is_written_and_only_the_configuration_read",
        Mode::Strict,
        |root| {
            let denied = |result: std::io::Result<()>| {
                assert_eq!(result.unwrap_err().kind(), std::io::ErrorKind::PermissionDenied);
            };
            std::fs::write(root.join("state/new"), b"x").unwrap();
            std::fs::rename(root.join("state/new"), root.join("state/file")).unwrap();
            std::fs::remove_file(root.join("state/file")).unwrap();
            assert_eq!(std::fs::read(root.join("config/file")).unwrap(), b"old");
            denied(std::fs::write(root.join("config/file"), b"x"));
            denied(std::fs::remove_file(root.join("config/file")));
            denied(std::fs::read(root.join("elsewhere/file")).map(drop));
            denied(std::fs::write(root.join("elsewhere/new"), b"x"));
            denied(std::fs::rename(root.join("state"), root.join("elsewhere/state")));
            denied(std::fs::read("/etc/shadow").map(drop));
            denied(std::fs::read("/proc/1/environ").map(drop));
            denied(std::os::unix::fs::symlink("/etc/shadow", root.join("state/link")));
            denied(std::fs::read_dir("/").map(drop));
            // What a name look-up reads.
            std::fs::read("/etc/hosts").unwrap();
        },
    ));
}

#[test]
fn no_other_program_is_run_and_no_other_process_made() {
    passed(confined("no_other_program_is_run_and_no_other_process_made", Mode::Normal, |_| {
        assert!(Command::new("/bin/true").status().is_err());
        let name = c"/bin/true";
        let error = nix::unistd::execv(name, &[name]).unwrap_err();
        assert_eq!(error, nix::errno::Errno::EPERM);
        // Threads are another matter.
        std::thread::spawn(|| Command::new("/bin/true").status().unwrap_err()).join().unwrap();
    }));
}

#[test]
fn running_a_program_ends_a_strict_daemon() {
    killed(confined("running_a_program_ends_a_strict_daemon", Mode::Strict, |_| {
        let name = c"/bin/true";
        let _ = nix::unistd::execv(name, &[name]);
    }));
}

#[test]
fn a_new_namespace_ends_a_strict_daemon_from_any_thread() {
    killed(confined("a_new_namespace_ends_a_strict_daemon_from_any_thread", Mode::Strict, |_| {
        let _ = std::thread::spawn(|| nix::sched::unshare(nix::sched::CloneFlags::CLONE_NEWUSER)).join();
    }));
}

#[test]
fn sockets_are_those_of_the_internet_and_of_routing() {
    passed(confined("sockets_are_those_of_the_internet_and_of_routing", Mode::Strict, |_| {
        UdpSocket::bind("127.0.0.1:0").unwrap();
        std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        std::os::unix::net::UnixDatagram::pair().unwrap();
        let open = |family, kind| socket(family, kind, SockFlag::empty(), None);
        drop(open(AddressFamily::Netlink, SockType::Raw).unwrap());
        for (family, kind) in [
            (AddressFamily::Packet, SockType::Raw),
            (AddressFamily::Inet, SockType::Raw),
            (AddressFamily::Inet6, SockType::Raw),
            (AddressFamily::Vsock, SockType::Stream),
            (AddressFamily::Alg, SockType::SeqPacket),
        ] {
            assert_eq!(open(family, kind).unwrap_err(), nix::errno::Errno::EPERM, "{family:?}");
        }
        let audit = nix::sys::socket::SockProtocol::NetlinkAudit;
        let other = socket(AddressFamily::Netlink, SockType::Raw, SockFlag::empty(), audit);
        assert_eq!(other.unwrap_err(), nix::errno::Errno::EPERM);
    }));
}

#[test]
fn rights_that_are_gone_do_not_come_back() {
    passed(confined("rights_that_are_gone_do_not_come_back", Mode::Normal, |_| {
        use caps::{CapSet, Capability};
        let wanted = caps::CapsHashSet::from([Capability::CAP_SYS_ADMIN]);
        assert!(caps::set(None, CapSet::Effective, &wanted).is_err());
        assert!(nix::unistd::chroot("/").is_err());
        assert!(nix::unistd::setuid(nix::unistd::Uid::from_raw(1)).is_err());
        assert!(nix::sys::resource::setrlimit(nix::sys::resource::Resource::RLIMIT_CORE, 1, 1).is_err());
        assert!(!nix::sys::prctl::get_dumpable().unwrap_or(false));
    }));
}

#[test]
fn without_a_sandbox_keys_still_stay_out_of_core_dumps() {
    passed(confined("without_a_sandbox_keys_still_stay_out_of_core_dumps", Mode::Off, |root| {
        std::fs::write(root.join("elsewhere/new"), b"x").unwrap();
        assert!(!nix::sys::prctl::get_dumpable().unwrap());
        assert!(nix::sys::prctl::get_no_new_privs().unwrap());
        let core = nix::sys::resource::getrlimit(nix::sys::resource::Resource::RLIMIT_CORE).unwrap();
        assert_eq!(core, (0, 0));
    }));
}

#[test]
fn strict_names_the_part_that_is_missing() {
    let mut report = Report { mode: Mode::Strict, parts: Vec::new() };
    report.add("files", Err("no Landlock".into()));
    let error = report.judge().unwrap_err().to_string();
    assert!(error.contains("files: no Landlock") && error.contains("sandbox = \"normal\""), "{error}");
    report.mode = Mode::Normal;
    report.judge().unwrap();
    let mut optional = Report { mode: Mode::Strict, parts: Vec::new() };
    optional.add("memory_lock", Err("limit".into()));
    optional.judge().unwrap();
    assert!(!optional.view().parts[0].in_force);
}
