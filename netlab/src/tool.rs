//! Calls of `ip`, `nft` and `tc`.

use crate::Error;
use std::io::{ErrorKind, Write};
use std::process::{Command, Output, Stdio};

/// Runs `ip` with these arguments, split at white space.
pub(crate) fn ip(arguments: &str) -> Result<String, Error> {
    run("ip", &arguments.split_whitespace().collect::<Vec<_>>(), None)
}

/// Runs several `ip` commands, one a line, inside a namespace; stops at the first that fails.
pub(crate) fn ip_batch(namespace: &str, commands: &str) -> Result<String, Error> {
    run("ip", &["-netns", namespace, "-batch", "-"], Some(commands))
}

/// Gives a program its arguments and standard input; its standard output, or the error with what it said.
pub(crate) fn run(program: &str, arguments: &[&str], input: Option<&str>) -> Result<String, Error> {
    let mut command = system_command(program);
    command.args(arguments);
    finish(&mut command, input)
}

/// A command that is also looked for where Debian keeps the administrator's programs, which ordinary users do not have
/// in their `PATH`.
pub(crate) fn system_command(program: &str) -> Command {
    let mut path = std::env::var_os("PATH").unwrap_or_default();
    path.push(":/usr/sbin:/sbin");
    let mut command = Command::new(program);
    command.env("PATH", path);
    command
}

/// [`run`] for a prepared command.
pub(crate) fn finish(command: &mut Command, input: Option<&str>) -> Result<String, Error> {
    let output = output(command, input)?;
    if !output.status.success() {
        return Err(Error::Command {
            line: line(command, input),
            status: output.status,
            stderr: String::from_utf8_lossy(&output.stderr).trim().to_owned(),
        });
    }
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

/// What a command line was, for a message.
pub(crate) fn line(command: &Command, input: Option<&str>) -> String {
    let mut line = command.get_program().to_string_lossy().into_owned();
    for argument in command.get_args() {
        line.push(' ');
        line.push_str(&argument.to_string_lossy());
    }
    if let Some(input) = input {
        line.push_str(" <<\n");
        line.push_str(input);
    }
    line
}

/// Turns "no such file" of a spawn into an error that names the package to install.
pub(crate) fn spawn_error(command: &Command, source: std::io::Error) -> Error {
    let tool = command.get_program().to_string_lossy().into_owned();
    if source.kind() != ErrorKind::NotFound {
        return Error::File { path: tool.into(), source };
    }
    match package(&tool) {
        Some(package) => Error::MissingTool { tool, package },
        None => Error::File { path: tool.into(), source },
    }
}

/// The Debian package that holds a program.
pub(crate) fn package(tool: &str) -> Option<&'static str> {
    Some(match tool {
        "ip" | "tc" | "bridge" => "iproute2",
        "nft" => "nftables",
        "iptables" => "iptables",
        "unshare" | "mount" | "setpriv" => "util-linux",
        "conntrack" => "conntrack",
        "iperf3" => "iperf3",
        "tcpdump" => "tcpdump",
        "ping" => "iputils-ping",
        "docker" | "dockerd" => "docker.io",
        "debootstrap" => "debootstrap",
        _ => return None,
    })
}

fn output(command: &mut Command, input: Option<&str>) -> Result<Output, Error> {
    command.stdin(if input.is_some() { Stdio::piped() } else { Stdio::null() });
    command.stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn().map_err(|source| spawn_error(command, source))?;
    if let (Some(mut stdin), Some(input)) = (child.stdin.take(), input) {
        // A program that fails early closes its input; its own message says more than a broken pipe would.
        let _ = stdin.write_all(input.as_bytes());
    }
    child.wait_with_output().map_err(Error::system("waiting for a program"))
}
