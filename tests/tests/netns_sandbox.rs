//! What a running daemon has given up, seen from outside; and that it does its work all the same.

use meshnet_tests::net::{
    PORT, SETTLE, admit, done, enlist, found, overlay, restart_with, wait_for_all_pairs,
};
use netlab::Lab;
use netlab::mesh::{Member, PathStatus};
use std::io::{Read, Write};
use std::os::unix::net::UnixListener;
use std::process::Command;

const STRICT: &str = "sandbox = \"strict\"";
/// `CAP_NET_ADMIN`, `CAP_DAC_OVERRIDE`, and `CAP_SYS_PTRACE` as masks (linux/capability.h).
const NET_ADMIN: u64 = 1 << 12;
const DAC_OVERRIDE: u64 = 1 << 1;
const SYS_PTRACE: u64 = 1 << 19;

/// The value of a field in a `/proc/PID/.../status` (proc(5)).
fn field<'a>(status: &'a str, name: &str) -> &'a str {
    let line = status.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'));
    line.unwrap_or_else(|| panic!("no {name} in {status}")).trim()
}

/// `(name, status)` of every thread of the daemon.
fn threads(member: &Member) -> Vec<(String, String)> {
    let pid = member.pid().expect("it runs");
    let tasks = done(std::fs::read_dir(format!("/proc/{pid}/task")));
    tasks
        .flatten()
        .filter_map(|task| {
            let status = std::fs::read_to_string(task.path().join("status")).ok()?;
            Some((field(&status, "Name").to_owned(), status))
        })
        .collect()
}

/// Every thread has given up what it does not need; those called `agent` may do what containers ask for.
fn is_confined(member: &Member) {
    let threads = threads(member);
    assert!(threads.len() >= 4, "{}", threads.len());
    for (name, status) in &threads {
        let capabilities = |set: &str| done(u64::from_str_radix(field(status, set), 16));
        let expected = if name == "agent" { DAC_OVERRIDE | SYS_PTRACE } else { NET_ADMIN };
        assert_eq!(field(status, "NoNewPrivs"), "1", "{name}");
        assert_eq!(field(status, "Seccomp"), "2", "{name}");
        assert_eq!((capabilities("CapEff"), capabilities("CapPrm")), (expected, expected), "{name}");
        assert_eq!((capabilities("CapInh"), capabilities("CapAmb")), (0, 0), "{name}");
        assert_eq!(capabilities("CapBnd") & !expected, 0, "{name}");
    }
    let pid = member.pid().expect("it runs");
    let limits = done(std::fs::read_to_string(format!("/proc/{pid}/limits")));
    let cores = limits.lines().find(|line| line.starts_with("Max core file size")).expect("a limit");
    assert_eq!(cores.split_whitespace().nth(4), Some("0"), "{cores}");
    // Not dumpable: what is in /proc belongs to root, whoever runs it.
    let shown = done(member.ok(&["status", "--json"]));
    let status: serde_json::Value = done(serde_json::from_str(&shown));
    for part in status["sandbox"]["parts"].as_array().expect("parts") {
        println!("{part}");
        let optional = part["name"] == "memory_lock";
        assert!(optional || part["in_force"] == true, "{part}");
    }
    assert_eq!(status["sandbox"]["parts"].as_array().map(Vec::len), Some(6));
}

#[test]
fn in_strict_mode_a_daemon_does_all_its_work() {
    let lab = done(Lab::new());
    let lan = done(lab.switch("lan"));
    let machine = |name: &str, address: &str| {
        let machine = done(lab.machine(name));
        done(machine.plug(&lan, &[address]));
        machine
    };
    let endpoint = format!("192.0.2.1:{PORT}");
    let mut a = found(&machine("a", "192.0.2.1/24"), &["--relay", "--endpoint", &endpoint]);
    restart_with(&mut a, &format!("{STRICT}\nlisten_tcp = [\"[::]:{PORT}\"]\nlisten_tls = [\"[::]:8443\"]"));
    is_confined(&a);
    // A strict daemon lets in who joins: the invitation and the certificate are files.
    let mut b = admit(&a, &machine("b", "192.0.2.2/24"), &["--subnet", "198.51.100.0/24"], &[]);
    restart_with(&mut b, STRICT);
    is_confined(&b);
    wait_for_all_pairs(&[&a, &b]);

    // TCP connections are made and taken.
    let wall = |what: &str| {
        let rules = format!("chain out {{\ntype filter hook output priority 0;\n{what}\n}}\n");
        done(
            b.machine()
                .nft(&format!("table inet wall\ndelete table inet wall\ntable inet wall {{\n{rules}}}\n")),
        );
    };
    wall("meta l4proto udp drop");
    done(b.wait_for_path("a", SETTLE, |path| path.kind == "tcp"));
    done(b.wait_for_ping(overlay(&a), SETTLE));
    wall("");
    done(b.wait_for_path("a", SETTLE, PathStatus::is_direct));

    // So is the authority, which is taken away and brought back.
    done(a.ok(&["authority", "rotate", "--timeout", "60s"]));
    let (passphrase, exported) = (lab.directory().join("passphrase"), lab.directory().join("authority.age"));
    done(std::fs::write(&passphrase, "correct horse battery staple\n"));
    let [passphrase, exported] = [&passphrase, &exported].map(|path| path.display().to_string());
    done(a.ok(&["authority", "export", &exported, "--remove", "--passphrase-file", &passphrase]));
    assert!(a.ok(&["invite", "nobody"]).is_err(), "the key is gone");
    done(a.ok(&["authority", "import", &exported, "--passphrase-file", &passphrase]));

    // Keys are replaced, and written.
    done(a.ok(&["keys", "rotate", "--timeout", "20s"]));
    done(a.ok(&["keys", "rotate", "--all", "--timeout", "20s"]));
    // A changed configuration is read again, though an editor has put another file in its place, and names are looked up.
    let file = b.state().join("meshd.toml");
    let text = done(std::fs::read_to_string(&file));
    let new = format!("endpoints = [\"localhost:{PORT}\"]\n{text}");
    done(std::fs::write(file.with_extension("new"), new));
    done(std::fs::rename(file.with_extension("new"), &file));
    b.daemon().expect("it runs").signal(nix::sys::signal::Signal::SIGHUP);
    done(netlab::wait::until("the route to the subnet", SETTLE, || {
        let mut command = Command::new("ip");
        command.args(["route", "show", "198.51.100.0/24"]);
        let routes = done(a.machine().run(command, SETTLE)).stdout;
        if routes.contains("mesh0") { Ok(()) } else { Err(routes) }
    }));
    done(netlab::wait::until_true("the name's address", SETTLE, || {
        b.log_text().contains(&format!("127.0.0.1:{PORT}"))
    }));
    let shown = done(b.ok(&["status", "--json"]));
    assert!(shown.contains("net.ipv4.ip_forward") || !shown.contains("does not forward"), "{shown}");
    // Members that come and go, and a revocation.
    let c = enlist(&a, &machine("c", "192.0.2.3/24"), &[], &[]);
    let mut c = c;
    done(c.up());
    wait_for_all_pairs(&[&a, &b, &c]);
    done(a.ok(&["revoke", "c"]));
    // The device's addresses and routes go with the daemon, which removes its socket.
    let address = overlay(&b);
    let ended = done(b.terminate(SETTLE));
    assert!(ended.is_some_and(|status| status.success()), "{ended:?}: {}", b.log_text());
    assert!(!b.state().join("meshd.sock").exists());
    done(b.up());
    done(a.wait_for_ping(address, SETTLE));
    for member in [&a, &b] {
        assert!(!member.log_text().contains("not permitted"), "{}", member.log_text());
        assert!(!member.log_text().to_lowercase().contains("permission denied"), "{}", member.log_text());
    }
}

#[test]
fn in_strict_mode_the_agent_of_the_stack_reaches_the_engine_and_listens() {
    let lab = done(Lab::new());
    let lan = done(lab.switch("lan"));
    let machine = done(lab.machine("a"));
    done(machine.plug(&lan, &["192.0.2.1/24"]));
    let mut a = found(&machine, &["--endpoint", &format!("192.0.2.1:{PORT}")]);
    // An engine without containers.
    let socket = lab.directory().join("engine.sock");
    let listener = done(UnixListener::bind(&socket));
    let (asked, requests) = std::sync::mpsc::channel();
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            let Ok(mut stream) = stream else { return };
            let mut request = [0; 4096];
            let Ok(read) = stream.read(&mut request) else { continue };
            let line =
                String::from_utf8_lossy(&request[..read]).lines().next().unwrap_or_default().to_owned();
            let answer = "HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: 2\r\nconnection: close\r\n\r\n[]";
            let _ = stream.write_all(answer.as_bytes());
            if asked.send(line).is_err() {
                return;
            }
        }
    });
    restart_with(&mut a, &format!("{STRICT}\nengine = \"unix://{}\"", socket.display()));
    let request = requests.recv_timeout(SETTLE).expect("the agent asks the engine");
    assert!(request.contains("/containers/"), "{request}");
    is_confined(&a);
    let agents = threads(&a).into_iter().filter(|(name, _)| name == "agent").count();
    assert_eq!(agents, 1);
    done(netlab::wait::until_true("the agent to listen", SETTLE, || a.log_text().contains("listens")));
}

#[test]
fn without_the_mode_rights_are_kept_and_status_says_so() {
    let lab = done(Lab::new());
    let lan = done(lab.switch("lan"));
    let machine = done(lab.machine("a"));
    done(machine.plug(&lan, &["192.0.2.1/24"]));
    let mut a = found(&machine, &[]);
    is_confined(&a);
    restart_with(&mut a, "sandbox = \"off\"");
    let (_, status) = threads(&a).swap_remove(0);
    assert_eq!((field(&status, "Seccomp"), field(&status, "NoNewPrivs")), ("0", "1"));
    assert_ne!(done(u64::from_str_radix(field(&status, "CapEff"), 16)), NET_ADMIN);
    assert!(done(a.ok(&["status"])).contains("sandbox     off"), "{}", done(a.ok(&["status"])));
}
