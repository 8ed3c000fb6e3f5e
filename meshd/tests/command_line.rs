//! The command line as its users meet it: exit codes and messages.

#![allow(clippy::unwrap_used, reason = "the helpers of a test are as free to panic as its body")]

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
    std::fs::copy(env!("CARGO_BIN_EXE_meshd"), &binary).unwrap();
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
