//! The daemon as its users meet it: how it starts, ends, reloads, and what it says when it cannot.
//!
//! Each test has a network namespace of its own. Without the right to make one the tests skip themselves.

#![allow(clippy::unwrap_used, reason = "what a test calls is as free to panic as its body")]

use std::io::Read;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

/// Longest wait for anything that should happen at once.
const DEADLINE: Duration = Duration::from_secs(15);

/// A network namespace with loopback, held by a process that does nothing.
struct Namespace {
    holder: Child,
    directory: tempfile::TempDir,
}

impl Namespace {
    fn new() -> Option<Namespace> {
        let holder = Command::new("unshare")
            .args(["-n", "sh", "-c", "ip link set lo up && echo up && exec sleep 1000"])
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .ok()?;
        let mut namespace = Namespace { holder, directory: tempfile::tempdir().unwrap() };
        let mut said = [0; 3];
        if namespace.holder.stdout.take()?.read_exact(&mut said).is_err() {
            eprintln!("skipped: network namespaces cannot be made here");
            return None;
        }
        // For the tests that run the daemon as another user.
        std::fs::set_permissions(namespace.directory.path(), PermissionsExt::from_mode(0o755)).unwrap();
        Some(namespace)
    }

    fn command(&self, program: &str) -> Command {
        let mut command = Command::new("nsenter");
        command.args(["-t", &self.holder.id().to_string(), "-n", program]);
        command.env_remove("MESHD_STATE").env_remove("MESHD_CONFIG").env_remove("NOTIFY_SOCKET");
        command
    }

    fn meshd(&self, node: &str, arguments: &[&str]) -> Output {
        let mut command = self.command(env!("CARGO_BIN_EXE_meshd"));
        command.args(arguments).arg("--state").arg(self.state(node)).output().unwrap()
    }

    fn state(&self, node: &str) -> PathBuf {
        self.directory.path().join(node)
    }

    fn log(&self, node: &str) -> String {
        std::fs::read_to_string(self.directory.path().join(format!("{node}.log"))).unwrap_or_default()
    }

    /// Founds a mesh that is reachable at a loopback address.
    fn init(&self, node: &str) {
        let output = self.meshd(
            node,
            &[
                "init",
                "--mesh",
                "test",
                "--name",
                node,
                "--address",
                "10.211.0.1/16",
                "--listen",
                "127.0.0.1:4655",
                "--endpoint",
                "127.0.0.1:4655",
            ],
        );
        assert_eq!(code(&output), 0, "{}", stderr(&output));
    }

    /// Starts a daemon, and waits until it answers.
    fn up(&self, node: &str, arguments: &[&str]) -> Daemon {
        let log = std::fs::File::create(self.directory.path().join(format!("{node}.log"))).unwrap();
        let mut command = self.command(env!("CARGO_BIN_EXE_meshd"));
        command.args(["up", "-v", "--interface", &format!("m-{node}")]).args(arguments);
        let child = command.arg("--state").arg(self.state(node)).stderr(log).spawn().unwrap();
        let mut daemon = Daemon { child };
        wait_for(&format!("{node} to answer"), || {
            assert!(daemon.child.try_wait().unwrap().is_none(), "{node} ended: {}", self.log(node));
            code(&self.meshd(node, &["status"])) == 0
        });
        daemon
    }

    fn status(&self, node: &str) -> serde_json::Value {
        let output = self.meshd(node, &["status", "--json"]);
        assert_eq!(code(&output), 0, "{}", stderr(&output));
        serde_json::from_slice(&output.stdout).unwrap()
    }

    /// Runs `meshd up` that should not come up.
    fn fails(&self, node: &str, arguments: &[&str]) -> Output {
        self.meshd(node, &[&["up", "--interface", &format!("m-{node}")], arguments].concat())
    }

    fn has_interface(&self, name: &str) -> bool {
        self.command("ip").args(["link", "show", name]).output().unwrap().status.success()
    }
}

impl Drop for Namespace {
    fn drop(&mut self) {
        let _ = self.holder.kill();
        let _ = self.holder.wait();
    }
}

struct Daemon {
    child: Child,
}

impl Daemon {
    fn signal(&self, signal: nix::sys::signal::Signal) {
        // nsenter becomes the program that it starts.
        nix::sys::signal::kill(nix::unistd::Pid::from_raw(self.child.id() as i32), signal).unwrap();
    }

    /// Ends it, and gives its exit code and how long it took.
    fn end(&mut self, signal: nix::sys::signal::Signal) -> (Option<i32>, Duration) {
        let start = Instant::now();
        self.signal(signal);
        let status = self.child.wait().unwrap();
        (status.code(), start.elapsed())
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn wait_for(what: &str, mut condition: impl FnMut() -> bool) {
    let start = Instant::now();
    while !condition() {
        assert!(start.elapsed() < DEADLINE, "waited in vain for {what}");
        std::thread::sleep(Duration::from_millis(20));
    }
}

fn code(output: &Output) -> i32 {
    output.status.code().unwrap_or(-1)
}

fn stderr(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

fn stdout(output: &Output) -> String {
    String::from_utf8_lossy(&output.stdout).into_owned()
}

use nix::sys::signal::Signal::{SIGHUP, SIGINT, SIGKILL, SIGTERM};

#[test]
fn a_signal_ends_it_within_two_seconds_and_leaves_nothing_behind() {
    let Some(namespace) = Namespace::new() else { return };
    namespace.init("a");
    for signal in [SIGTERM, SIGINT] {
        let mut daemon = namespace.up("a", &[]);
        assert!(namespace.has_interface("m-a"));
        let (code, took) = daemon.end(signal);
        assert_eq!(code, Some(0), "{}", namespace.log("a"));
        assert!(took < Duration::from_secs(2), "{took:?}");
        assert!(!namespace.has_interface("m-a"));
        assert!(!namespace.state("a").join("meshd.sock").exists());
    }
}

#[test]
fn it_starts_again_after_kill_and_its_boot_number_rises() {
    let Some(namespace) = Namespace::new() else { return };
    namespace.init("a");
    let mut seen = std::collections::BTreeSet::new();
    for _ in 0..3 {
        let mut daemon = namespace.up("a", &[]);
        daemon.end(SIGKILL);
        seen.insert(std::fs::read(namespace.state("a").join("boot.epoch")).unwrap());
    }
    assert_eq!(seen.len(), 3);
}

#[test]
fn joining_through_the_daemon_makes_peers_that_ping() {
    let Some(namespace) = Namespace::new() else { return };
    namespace.init("a");
    let _a = namespace.up("a", &[]);
    let invited = namespace.meshd("a", &["invite", "b", "--subnet", "192.168.7.0/24"]);
    assert_eq!(stdout(&invited).lines().count(), 1, "{}", stderr(&invited));
    let url = stdout(&invited).trim().to_owned();
    let joined = namespace.meshd("b", &["join", &url, "--listen", "127.0.0.2:4655", "--datacenter", "ams"]);
    assert_eq!(code(&joined), 0, "{}", stderr(&joined));
    assert!(stdout(&joined).contains("10.211.0.2"));
    // The same again is no error and changes nothing; another machine cannot use it.
    assert_eq!(code(&namespace.meshd("b", &["join", &url])), 0);
    let stolen = namespace.meshd("c", &["join", &url]);
    assert_eq!(code(&stolen), 1);
    assert!(stderr(&stolen).contains("has been used by another node"), "{}", stderr(&stolen));

    let _b = namespace.up("b", &[]);
    wait_for("the peers to connect", || namespace.status("a")["peers"][0]["state"] == "connected");
    let status = namespace.status("a");
    let peer = &status["peers"][0];
    assert_eq!((peer["name"].as_str(), peer["datacenter"].as_str()), (Some("b"), Some("ams")));
    assert_eq!(peer["path"]["kind"], "direct");
    assert_eq!(peer["subnets"][0], "192.168.7.0/24");
    let ping = namespace.meshd("a", &["ping", "b", "-c", "2", "-i", "10"]);
    assert_eq!(code(&ping), 0, "{}{}", stdout(&ping), stderr(&ping));
    assert!(stdout(&ping).contains("2 sent, 2 answered"), "{}", stdout(&ping));
    for peer in ["10.211.0.2", status["peers"][0]["member_id"].as_str().unwrap()] {
        let why = namespace.meshd("a", &["why", peer]);
        assert!(stdout(&why).contains("in use"), "{}{}", stdout(&why), stderr(&why));
    }
    let routes = stdout(&namespace.meshd("a", &["routes"]));
    assert!(routes.contains("192.168.7.0/24"), "{routes}");
    let unknown = namespace.meshd("a", &["ping", "nobody"]);
    assert_eq!(code(&unknown), 1);
    assert!(stderr(&unknown).contains("`meshd peers` lists them"), "{}", stderr(&unknown));
    // Names and addresses of members are taken, too.
    let taken = namespace.meshd("a", &["invite", "b"]);
    assert!(stderr(&taken).contains("the name b is taken by"), "{}", stderr(&taken));
    for secret in ["gate.key", "identity.key", "transport.keys"] {
        let text = std::fs::read_to_string(namespace.state("a").join(secret)).unwrap();
        let body = text.lines().nth(1).unwrap();
        assert!(!namespace.log("a").contains(body) && !namespace.log("b").contains(body));
    }
    assert!(!namespace.log("a").contains("meshd://"), "an invitation is a secret");
}

#[test]
fn a_second_daemon_on_the_same_state_is_refused() {
    let Some(namespace) = Namespace::new() else { return };
    namespace.init("a");
    let _a = namespace.up("a", &[]);
    let output = namespace.fails("a", &[]);
    assert_eq!(code(&output), 1);
    assert!(stderr(&output).contains("is in use by another meshd (process "), "{}", stderr(&output));
    let output = namespace.meshd("a", &["init", "--mesh", "x", "--name", "y"]);
    assert_eq!(code(&output), 1);
}

#[test]
fn a_port_in_use_is_told_with_the_way_out() {
    let Some(namespace) = Namespace::new() else { return };
    namespace.init("a");
    let _a = namespace.up("a", &[]);
    let copied =
        Command::new("cp").arg("-a").arg(namespace.state("a")).arg(namespace.state("b")).status().unwrap();
    assert!(copied.success());
    let output = namespace.fails("b", &[]);
    assert_eq!(code(&output), 1);
    let told = stderr(&output);
    assert!(told.contains("UDP 127.0.0.1:4655 is in use") && told.contains("change `listen` in"), "{told}");
}

#[test]
fn a_device_name_in_use_is_told_with_the_way_out() {
    let Some(namespace) = Namespace::new() else { return };
    namespace.init("a");
    let output = namespace.meshd("a", &["up", "--interface", "lo"]);
    assert_eq!(code(&output), 1);
    assert!(stderr(&output).contains("choose another with --interface"), "{}", stderr(&output));
    let output = namespace.meshd("a", &["up", "--interface", "a/b"]);
    assert_eq!(code(&output), 64);
}

#[test]
fn without_rights_or_device_it_exits_with_77_and_says_how_to_get_them() {
    let Some(namespace) = Namespace::new() else { return };
    namespace.init("a");
    let binary = namespace.directory.path().join("meshd");
    // Not by this process: a child of another test could hold the new file open for writing (ETXTBSY).
    let copied = Command::new("cp").arg(env!("CARGO_BIN_EXE_meshd")).arg(&binary).status().unwrap();
    assert!(copied.success());
    let state = namespace.state("a");
    let owned = Command::new("chown").args(["-R", "54321:54321"]).arg(&state).status().unwrap();
    assert!(owned.success());
    let output = namespace
        .command("setpriv")
        .args(["--reuid=54321", "--regid=54321", "--clear-groups"])
        .arg(&binary)
        .args(["up", "--state"])
        .arg(&state)
        .output()
        .unwrap();
    assert_eq!(code(&output), 77, "{}", stderr(&output));
    assert!(stderr(&output).contains("setcap"), "{}", stderr(&output));
    // As root, but on state of another user.
    let output = namespace.fails("a", &[]);
    assert_eq!(code(&output), 77, "{}", stderr(&output));
    assert!(stderr(&output).contains("belongs to user 54321"), "{}", stderr(&output));
    // As root on root's state, but without the device.
    Command::new("chown").args(["-R", "0:0"]).arg(&state).status().unwrap();
    let script =
        format!("mount -t tmpfs none /dev/net && exec {} up --state {}", binary.display(), state.display());
    let output = namespace.command("unshare").args(["-m", "sh", "-c", &script]).output().unwrap();
    assert_eq!(code(&output), 77, "{}", stderr(&output));
    assert!(stderr(&output).contains("modprobe tun"), "{}", stderr(&output));
}

#[test]
fn a_reload_applies_what_it_can_and_a_wrong_one_changes_nothing() {
    let Some(namespace) = Namespace::new() else { return };
    namespace.init("a");
    let daemon = namespace.up("a", &[]);
    let config = namespace.state("a").join("meshd.toml");
    let good = std::fs::read_to_string(&config).unwrap();
    assert_eq!(namespace.status("a")["node"]["datacenter"], serde_json::Value::Null);
    std::fs::write(&config, format!("datacenter = \"fra\"\nrelay = true\nmtu = 1300\n{good}")).unwrap();
    daemon.signal(SIGHUP);
    wait_for("the new datacentre", || namespace.status("a")["node"]["datacenter"] == "fra");
    assert_eq!(namespace.status("a")["node"]["relay"], true);
    wait_for("the note about the MTU", || {
        namespace.log("a").contains("`mtu` takes effect when meshd is restarted")
    });
    std::fs::write(&config, format!("datacentre = \"ams\"\n{good}")).unwrap();
    daemon.signal(SIGHUP);
    wait_for("the complaint", || namespace.log("a").contains("did you mean `datacenter`?"));
    assert_eq!(namespace.status("a")["node"]["datacenter"], "fra");
    drop(daemon);
    let output = namespace.fails("a", &[]);
    assert_eq!(code(&output), 64);
    assert!(stderr(&output).contains("meshd.toml:1:1: unknown key `datacentre`"), "{}", stderr(&output));
}

#[test]
fn damaged_state_keeps_it_from_starting_except_for_the_cache() {
    let Some(namespace) = Namespace::new() else { return };
    namespace.init("a");
    drop(namespace.up("a", &[]));
    for file in [
        "identity.key",
        "transport.keys",
        "gate.key",
        "trust.chain",
        "certificate",
        "authority.key",
        "recovery.key",
        "boot.epoch",
        "timestamp.floor",
    ] {
        let path = namespace.state("a").join(file);
        let Ok(whole) = std::fs::read(&path) else {
            assert_eq!(file, "timestamp.floor", "it appears with the first handshake");
            continue;
        };
        std::fs::write(&path, &whole[..whole.len() - 1]).unwrap();
        let output = namespace.fails("a", &[]);
        assert_eq!(code(&output), 1, "{file}");
        let told = stderr(&output);
        assert!(told.contains(file) && told.contains("its end is missing"), "{file}: {told}");
        assert_eq!(std::fs::read(&path).unwrap(), &whole[..whole.len() - 1]);
        std::fs::write(&path, whole).unwrap();
    }
    let cache = namespace.state("a").join("records.cache");
    std::fs::write(&cache, "meshd-state 1 records\nAAAA\n").unwrap();
    std::fs::set_permissions(&cache, PermissionsExt::from_mode(0o600)).unwrap();
    let _daemon = namespace.up("a", &[]);
    let kept = namespace.state("a").join("records.cache.damaged.0");
    assert_eq!(std::fs::read(kept).unwrap(), b"meshd-state 1 records\nAAAA\n");
    assert!(namespace.log("a").contains("starting without cached records"));
}

#[test]
fn systemd_hears_when_it_is_ready_and_when_it_stops() {
    let Some(namespace) = Namespace::new() else { return };
    namespace.init("a");
    let path = namespace.directory.path().join("notify");
    let socket = std::os::unix::net::UnixDatagram::bind(&path).unwrap();
    socket.set_read_timeout(Some(DEADLINE)).unwrap();
    let mut command = namespace.command(env!("CARGO_BIN_EXE_meshd"));
    command.args(["up", "--state"]).arg(namespace.state("a"));
    command.env("NOTIFY_SOCKET", &path).env("WATCHDOG_USEC", "200000");
    let mut daemon = Daemon { child: command.stderr(Stdio::null()).spawn().unwrap() };
    let hear = |expected: &str| {
        let mut buffer = [0; 1024];
        loop {
            let len = socket.recv(&mut buffer).expect(expected);
            if String::from_utf8_lossy(&buffer[..len]).lines().any(|line| line == expected) {
                return;
            }
        }
    };
    hear("READY=1");
    hear("WATCHDOG=1");
    hear("WATCHDOG=1");
    daemon.signal(SIGHUP);
    hear("RELOADING=1");
    hear("READY=1");
    daemon.signal(SIGTERM);
    hear("STOPPING=1");
    assert_eq!(daemon.child.wait().unwrap().code(), Some(0));
}

#[test]
fn where_no_mesh_is_it_says_how_to_get_one() {
    let Some(namespace) = Namespace::new() else { return };
    let output = namespace.fails("a", &[]);
    assert_eq!(code(&output), 1);
    assert!(
        stderr(&output).contains("meshd init") && stderr(&output).contains("meshd join"),
        "{}",
        stderr(&output)
    );
    assert!(!Path::new(&namespace.state("a")).exists());
}
