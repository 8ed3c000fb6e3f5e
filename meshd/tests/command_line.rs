//! The command line as its users meet it: exit codes and messages.

#![allow(clippy::unwrap_used, reason = "what a test calls is as free to panic as its body")]

use std::os::unix::fs::PermissionsExt;
use std::os::unix::process::CommandExt;
use std::process::{Command, Output};

fn meshd(arguments: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_meshd"))
        .args(arguments)
        .env_remove("MESHD_STATE")
        .env_remove("MESHD_CONFIG")
        .output()
        .unwrap()
}

fn code(output: &Output) -> i32 {
    output.status.code().unwrap()
}

fn stderr(output: &Output) -> String {
    String::from_utf8(output.stderr.clone()).unwrap()
}

#[test]
fn wrong_usage_exits_with_64() {
    for arguments in [&["stauts"][..], &["status", "--wacth"], &["ping"], &["ping", "b", "--count", "x"], &[]]
    {
        let output = meshd(arguments);
        assert_eq!(code(&output), 64, "{arguments:?}");
        assert!(output.stdout.is_empty());
    }
    assert!(stderr(&meshd(&["stauts"])).contains("'status'"));
}

#[test]
fn help_and_version_exit_with_0() {
    for arguments in [&["--help"][..], &["--version"], &["ping", "--help"], &["help", "status"]] {
        assert_eq!(code(&meshd(arguments)), 0, "{arguments:?}");
    }
    let help = String::from_utf8(meshd(&["--help"]).stdout).unwrap();
    assert!(help.contains("meshd invite") && help.contains("Exit codes"), "{help}");
}

#[test]
fn without_a_daemon_the_reading_verbs_exit_with_69_and_say_how_to_start_it() {
    let state = tempfile::tempdir().unwrap();
    let state = state.path().to_str().unwrap();
    for verb in [&["status"][..], &["peers"], &["routes", "--json"], &["ping", "b"], &["why", "b"]] {
        let output = meshd(&[verb, &["--state", state]].concat());
        assert_eq!(code(&output), 69, "{verb:?}");
        assert!(stderr(&output).contains("systemctl start meshd"), "{}", stderr(&output));
        assert!(output.stdout.is_empty());
    }
}

#[test]
fn the_configuration_can_say_where_the_state_is() {
    let holder = tempfile::tempdir().unwrap();
    let config = holder.path().join("m.toml");
    std::fs::write(&config, "state = \"/nowhere/at/all\"\n").unwrap();
    let output = meshd(&["status", "--config", config.to_str().unwrap()]);
    assert_eq!(code(&output), 69);
    assert!(stderr(&output).contains("/nowhere/at/all/meshd.sock"), "{}", stderr(&output));
}

#[test]
fn a_wrong_configuration_exits_with_64_and_names_the_place() {
    let holder = tempfile::tempdir().unwrap();
    let config = holder.path().join("m.toml");
    std::fs::write(&config, "relay = true\nlisen = []\n").unwrap();
    let output = meshd(&["status", "--config", config.to_str().unwrap()]);
    assert_eq!(code(&output), 64);
    let expected = format!("{}:2:1: unknown key `lisen`; did you mean `listen`?", config.display());
    assert!(stderr(&output).contains(&expected), "{}", stderr(&output));
}

#[test]
fn a_socket_that_is_closed_to_the_user_exits_with_77() {
    if !nix::unistd::geteuid().is_root() {
        eprintln!("skipped: only root can become somebody else");
        return;
    }
    let holder = tempfile::tempdir().unwrap();
    std::fs::set_permissions(holder.path(), PermissionsExt::from_mode(0o755)).unwrap();
    let binary = holder.path().join("meshd");
    // Not by this process: a child of another test could hold the new file open for writing (ETXTBSY).
    let copied = Command::new("cp").arg(env!("CARGO_BIN_EXE_meshd")).arg(&binary).status().unwrap();
    assert!(copied.success());
    let socket = holder.path().join("meshd.sock");
    let _listener = std::os::unix::net::UnixListener::bind(&socket).unwrap();
    std::fs::set_permissions(&socket, PermissionsExt::from_mode(0o660)).unwrap();
    let output = Command::new(binary)
        .uid(54_321)
        .gid(54_321)
        .args(["status", "--state", holder.path().to_str().unwrap()])
        .output()
        .unwrap();
    assert_eq!(code(&output), 77, "{}", stderr(&output));
}

/// A state directory that does not exist yet, in a directory that goes away with the value.
fn fresh() -> (tempfile::TempDir, String) {
    let holder = tempfile::tempdir().unwrap();
    let state = holder.path().join("state").to_str().unwrap().to_owned();
    (holder, state)
}

fn init(state: &str) -> Output {
    meshd(&[
        "init",
        "--mesh",
        "test",
        "--name",
        "a",
        "--address",
        "10.211.0.1/16",
        "--state",
        state,
        "--json",
    ])
}

fn stdout(output: &Output) -> String {
    String::from_utf8(output.stdout.clone()).unwrap()
}

#[test]
fn init_makes_a_mesh_once_and_never_again() {
    let (_holder, state) = fresh();
    let output = init(&state);
    assert_eq!(code(&output), 0, "{}", stderr(&output));
    assert!(stdout(&output).contains("\"10.211.0.1\""));
    let files = |state: &str| {
        let mut files: Vec<(String, Vec<u8>)> = std::fs::read_dir(state)
            .unwrap()
            .filter_map(|entry| {
                let path = entry.unwrap().path();
                let name = path.file_name().unwrap().to_str().unwrap().to_owned();
                // The lock names the process that had it last.
                (path.is_file() && name != "lock").then(|| (name, std::fs::read(path).unwrap()))
            })
            .collect();
        files.sort();
        files
    };
    let before = files(&state);
    for (name, _) in &before {
        let mode = std::fs::metadata(format!("{state}/{name}")).unwrap().permissions().mode() & 0o777;
        assert_eq!(mode, if name == "meshd.toml" { 0o644 } else { 0o600 }, "{name}");
    }
    let output = init(&state);
    assert_eq!(code(&output), 1);
    assert!(stderr(&output).contains("nothing was changed"), "{}", stderr(&output));
    assert_eq!(files(&state), before);
}

#[test]
fn init_refuses_addresses_and_names_that_make_no_sense() {
    let (_holder, state) = fresh();
    for (address, expected) in [
        ("10.211.0.0/16", "no host's address: write 10.211.0.1/16"),
        ("10.211.0.1", "write 10.211.0.1/16"),
        ("fd00::1/64", "gets an IPv6 address by itself"),
        ("10.211.0.1/31", "from 8 to 30"),
        ("127.0.0.9/8", "overlaps 127.0.0.0/8"),
        ("ten", "write for example 10.99.0.1/16"),
    ] {
        let output = meshd(&["init", "--mesh", "m", "--name", "a", "--address", address, "--state", &state]);
        assert_eq!(code(&output), 64, "{address}: {}", stderr(&output));
        assert!(stderr(&output).contains(expected), "{address}: {}", stderr(&output));
    }
    let output = meshd(&["init", "--mesh", "My Mesh", "--name", "a", "--state", &state]);
    assert_eq!(code(&output), 64);
    assert!(!std::path::Path::new(&state).exists(), "nothing may be left behind");
}

#[test]
fn without_an_address_init_picks_a_free_network() {
    let (_holder, state) = fresh();
    let output = meshd(&["init", "--mesh", "m", "--name", "a", "--state", &state, "--json"]);
    assert_eq!(code(&output), 0, "{}", stderr(&output));
    let made: serde_json::Value = serde_json::from_str(&stdout(&output)).unwrap();
    let network: ipnet::Ipv4Net = made["network"].as_str().unwrap().parse().unwrap();
    assert_eq!(network.prefix_len(), 16);
    assert!(made["addresses"][1].as_str().unwrap().starts_with("fd"));
}

#[test]
fn invite_prints_one_line_and_gives_out_addresses_by_itself() {
    let (_holder, state) = fresh();
    init(&state);
    let endpoint = "endpoints = [\"192.0.2.1:4655\"]\n";
    std::fs::write(format!("{state}/meshd.toml"), endpoint).unwrap();
    let output = meshd(&["invite", "b", "--state", &state]);
    assert_eq!(code(&output), 0, "{}", stderr(&output));
    assert_eq!(stdout(&output).lines().count(), 1);
    assert!(stdout(&output).starts_with("meshd://test/"));
    let output = meshd(&["invite", "c", "--state", &state, "--json"]);
    let made: serde_json::Value = serde_json::from_str(&stdout(&output)).unwrap();
    assert_eq!(made["addresses"][0], "10.211.0.3");
    assert_eq!(made["endpoints"][0], "192.0.2.1:4655");
}

#[test]
fn a_name_or_address_that_is_taken_is_refused_naming_the_holder() {
    let (_holder, state) = fresh();
    init(&state);
    let invite = |arguments: &[&str]| meshd(&[&["invite", "--state", &state], arguments].concat());
    assert_eq!(code(&invite(&["b"])), 0);
    for (arguments, expected) in [
        (&["a"][..], "the name a is taken by this node, a (10.211.0.1"),
        (&["b"], "the name b is taken by an open invitation for b (10.211.0.2)"),
        (&["c", "--address", "10.211.0.1/16"], "the address 10.211.0.1 is taken by this node, a"),
        (&["c", "--address", "10.211.0.2"], "the address 10.211.0.2 is taken by an open invitation for b"),
    ] {
        let output = invite(arguments);
        assert_eq!(code(&output), 1, "{arguments:?}");
        assert!(stderr(&output).contains(expected), "{arguments:?}: {}", stderr(&output));
        assert!(output.stdout.is_empty());
    }
    for (arguments, expected) in [
        (&["c", "--address", "10.212.0.1"][..], "write an address of 10.211.0.0/16"),
        (&["c", "--address", "10.211.0.9/24"], "the mesh's network is 10.211.0.0/16"),
        (&["c", "--ttl", "1w"], "write for example 30m, 24h, or 7d"),
        (&["c", "--ttl", "60d"], "30 days"),
        (&["c", "--subnet", "192.168.7.1/24"], "192.168.7.0/24"),
        (&["c", "--role", "king"], "operator"),
        (&["C"], "invalid value"),
    ] {
        let output = invite(arguments);
        assert_eq!(code(&output), 64, "{arguments:?}: {}", stderr(&output));
        assert!(stderr(&output).contains(expected), "{arguments:?}: {}", stderr(&output));
    }
    let replaced = invite(&["b", "--replace", "--json"]);
    let made: serde_json::Value = serde_json::from_str(&stdout(&replaced)).unwrap();
    assert_eq!(made["addresses"][0], "10.211.0.2");
}

#[test]
fn join_tells_bad_invitations_apart() {
    let (_holder, state) = fresh();
    init(&state);
    let url = stdout(&meshd(&["invite", "b", "--state", &state]));
    let url = url.trim();
    let (_other_holder, other) = fresh();
    let join = |state: &str, url: &str| meshd(&["join", url, "--state", state, "--timeout", "1s"]);
    let mut altered = url.to_owned();
    altered.replace_range(40..41, if &url[40..41] == "A" { "B" } else { "A" });
    for (bad, expected) in [
        ("https://example.org", "not an invitation"),
        (&url[..url.len() - 3], "damaged"),
        (altered.as_str(), "damaged"),
    ] {
        let output = join(&other, bad);
        assert_eq!(code(&output), 64, "{}", stderr(&output));
        assert!(stderr(&output).contains(expected), "{}", stderr(&output));
    }
    assert!(!std::path::Path::new(&other).exists(), "nothing may be left behind");
    // An invitation can come on standard input, so that it is in no process list.
    let mut child = Command::new(env!("CARGO_BIN_EXE_meshd"))
        .args(["join", "-", "--state", &other])
        .stdin(std::process::Stdio::piped())
        .stderr(std::process::Stdio::piped())
        .spawn()
        .unwrap();
    std::io::Write::write_all(&mut child.stdin.take().unwrap(), format!("{altered}\n").as_bytes()).unwrap();
    let output = child.wait_with_output().unwrap();
    assert_eq!(code(&output), 64);
    assert!(stderr(&output).contains("damaged"), "{}", stderr(&output));
    assert!(!std::path::Path::new(&other).exists());
    // Nobody listens: told, with the endpoints tried, and tried again with the same keys.
    let output = join(&other, url);
    assert_eq!(code(&output), 1);
    assert!(stderr(&output).contains("The invitation is not lost"), "{}", stderr(&output));
    let pending = std::fs::read(format!("{other}/join.pending")).unwrap();
    join(&other, url);
    assert_eq!(std::fs::read(format!("{other}/join.pending")).unwrap(), pending);
    // An invitation to another mesh does not touch a member.
    let (_third_holder, third) = fresh();
    meshd(&["init", "--mesh", "third", "--name", "x", "--state", &third]);
    let output = join(&third, url);
    assert_eq!(code(&output), 1);
    assert!(stderr(&output).contains("belongs to a member of the mesh third already"), "{}", stderr(&output));
    // One to the own mesh is no error.
    assert_eq!(code(&join(&state, url)), 0);
    // An expired one is told before anything is sent.
    let short = stdout(&meshd(&["invite", "c", "--state", &state, "--ttl", "1s"]));
    std::thread::sleep(std::time::Duration::from_millis(1_100));
    let (_fourth_holder, fourth) = fresh();
    let output = join(&fourth, short.trim());
    assert_eq!(code(&output), 1);
    assert!(stderr(&output).contains("expired"), "{}", stderr(&output));
}

#[test]
fn damaged_state_is_named_and_left_alone() {
    let (_holder, state) = fresh();
    init(&state);
    for file in ["identity.key", "trust.chain", "certificate", "authority.key"] {
        let path = format!("{state}/{file}");
        let whole = std::fs::read(&path).unwrap();
        for bad in [&whole[..whole.len() / 2], b"", &whole.to_ascii_uppercase()] {
            std::fs::write(&path, bad).unwrap();
            let output = meshd(&["invite", "z", "--state", &state]);
            assert_eq!(code(&output), 1, "{file}: {}", stderr(&output));
            let told = stderr(&output);
            assert!(
                told.contains(&path) && told.contains("damaged") && told.contains("left as it is"),
                "{told}"
            );
            assert_eq!(std::fs::read(&path).unwrap(), bad);
        }
        std::fs::write(&path, whole).unwrap();
    }
    assert_eq!(code(&meshd(&["invite", "z", "--state", &state])), 0);
}

#[test]
fn state_that_others_can_read_is_refused_with_77() {
    let (_holder, state) = fresh();
    init(&state);
    std::fs::set_permissions(&state, PermissionsExt::from_mode(0o755)).unwrap();
    let output = meshd(&["invite", "b", "--state", &state]);
    assert_eq!(code(&output), 77);
    assert!(stderr(&output).contains("chmod 700"), "{}", stderr(&output));
}

#[test]
fn a_member_without_the_authority_may_not_invite_and_learns_where() {
    let (_holder, state) = fresh();
    init(&state);
    std::fs::remove_file(format!("{state}/authority.key")).unwrap();
    let output = meshd(&["invite", "b", "--state", &state]);
    assert_eq!(code(&output), 77);
    assert!(stderr(&output).contains("where `meshd init` was run"), "{}", stderr(&output));
}

#[test]
fn a_full_disk_leaves_nothing_half_done() {
    if !nix::unistd::geteuid().is_root() {
        eprintln!("skipped: only root can mount");
        return;
    }
    let holder = tempfile::tempdir().unwrap();
    let mounted = nix::mount::mount(
        Some("tmpfs"),
        holder.path(),
        Some("tmpfs"),
        nix::mount::MsFlags::empty(),
        Some("size=64k,mode=0700"),
    );
    if mounted.is_err() {
        eprintln!("skipped: mounting is not allowed here");
        return;
    }
    let state = holder.path().join("s").to_str().unwrap().to_owned();
    let filler = holder.path().join("filler");
    // Leave room for a few files: init fails in the middle, and works when there is room again.
    std::fs::write(&filler, vec![0; 40 << 10]).unwrap();
    let output = init(&state);
    assert_eq!(code(&output), 1, "{}", stderr(&output));
    assert!(stderr(&output).contains("No space left"), "{}", stderr(&output));
    std::fs::remove_file(&filler).unwrap();
    let output = init(&state);
    assert_eq!(code(&output), 0, "{}", stderr(&output));
    // A full disk under a member: told, and everything is still there.
    let free = nix::sys::statvfs::statvfs(holder.path()).unwrap();
    std::fs::write(&filler, vec![0; (free.blocks_available() * free.fragment_size()) as usize]).unwrap();
    let output = meshd(&["invite", "b", "--state", &state]);
    assert_eq!(code(&output), 1);
    assert!(stderr(&output).contains("No space left"), "{}", stderr(&output));
    std::fs::remove_file(&filler).unwrap();
    assert_eq!(code(&meshd(&["invite", "b", "--state", &state])), 0);
    nix::mount::umount2(holder.path(), nix::mount::MntFlags::MNT_DETACH).unwrap();
}
