//! The rights to make network namespaces: root, or a user namespace of our own.

use crate::{Error, tool};
use nix::sched::{CloneFlags, unshare};
use std::convert::Infallible;
use std::os::unix::process::CommandExt;
use std::process::Command;

/// Set in the environment of the program once it runs in a user namespace of its own.
pub const INSIDE: &str = "NETLAB_USER_NAMESPACE";

/// Prepares the place where `ip netns` keeps its names, then runs the program given as arguments.
/// `/run/netns` belongs to the real root, so a private tmpfs is laid over it.
const ENTER: &str = r#"
if mkdir -p /run/netns 2>/dev/null && mount -t tmpfs netlab /run/netns 2>/dev/null; then :
else mount -t tmpfs netlab /run && mkdir /run/netns || exit 125
fi
exec "$@""#;

/// May this process make network namespaces as it is?
pub fn is_available() -> bool {
    // Tried for real, in a thread that ends with its namespace: capabilities alone do not tell (seccomp, containers).
    let tried = std::thread::spawn(|| unshare(CloneFlags::CLONE_NEWNET).is_ok());
    tried.join().unwrap_or(false) && nix::unistd::geteuid().is_root() && names_are_writable()
}

/// Makes sure that this process may make network namespaces and TUN devices. Without the right, the program
/// starts over inside a user namespace (same arguments, same process id), where it is root.
/// Call it first thing, before threads and files are made: nothing of this process is left then.
///
/// # Errors
/// [`Error::Access`] when neither is possible, with what to do; [`Error::MissingTool`] for missing programs.
pub fn acquire() -> Result<(), Error> {
    check_tools()?;
    if !is_available() {
        if std::env::var_os(INSIDE).is_some() {
            return Err(Error::Access {
                why: "even inside a user namespace it is not permitted".to_owned(),
                remedy: "run it as root (sudo), outside of a restricted container",
            });
        }
        probe_user_namespace()?;
        match start_over()? {}
    }
    check_tun()
}

/// Are the programs there that every lab needs?
///
/// # Errors
/// [`Error::MissingTool`] names the Debian package of the first that is not.
pub fn check_tools() -> Result<(), Error> {
    for (tool, argument) in [("ip", "-V"), ("nft", "-v"), ("tc", "-V")] {
        tool::run(tool, &[argument], None)?;
    }
    Ok(())
}

/// Can TUN devices be made?
fn check_tun() -> Result<(), Error> {
    match std::fs::OpenOptions::new().read(true).write(true).open("/dev/net/tun") {
        Ok(_) => Ok(()),
        Err(error) => Err(Error::Access {
            why: format!("/dev/net/tun: {error}"),
            remedy: "load the module (`sudo modprobe tun`), give access (`sudo chmod 0666 /dev/net/tun`; for a \
                     container `--device /dev/net/tun`), or run it as root",
        }),
    }
}

/// Tries a user namespace with a throw-away process, because [`start_over`] leaves no way back.
fn probe_user_namespace() -> Result<(), Error> {
    let mut command = in_user_namespace();
    command.arg("true");
    match tool::finish(&mut command, None) {
        Ok(_) => Ok(()),
        Err(missing @ Error::MissingTool { .. }) => Err(missing),
        Err(error) => Err(Error::Access { why: error.to_string(), remedy: remedy() }),
    }
}

/// What keeps ordinary users from making user namespaces here, as far as the kernel tells.
fn remedy() -> &'static str {
    let is = |path: &str, value: &str| std::fs::read_to_string(path).is_ok_and(|text| text.trim() == value);
    if is("/proc/sys/kernel/apparmor_restrict_unprivileged_userns", "1") {
        "run it as root, or `sudo sysctl kernel.apparmor_restrict_unprivileged_userns=0`"
    } else if is("/proc/sys/kernel/unprivileged_userns_clone", "0") {
        "run it as root, or `sudo sysctl kernel.unprivileged_userns_clone=1`"
    } else if is("/proc/sys/user/max_user_namespaces", "0") {
        "run it as root, or `sudo sysctl user.max_user_namespaces=10000`"
    } else {
        "run it as root; in a container, with `--privileged`"
    }
}

fn start_over() -> Result<Infallible, Error> {
    let program = std::env::current_exe().map_err(Error::system("finding the own program"))?;
    let mut command = in_user_namespace();
    command.arg(program).args(std::env::args_os().skip(1)).env(INSIDE, "1");
    let source = command.exec();
    Err(tool::spawn_error(&command, source))
}

fn in_user_namespace() -> Command {
    let mut command = tool::system_command("unshare");
    command.args(["--user", "--map-root-user", "--net", "--mount", "sh", "-c", ENTER, "netlab"]);
    command
}

/// `ip netns add` bind-mounts into `/run/netns`.
fn names_are_writable() -> bool {
    let directory = std::path::Path::new("/run/netns");
    if std::fs::create_dir_all(directory).is_err() {
        return false;
    }
    nix::unistd::access(directory, nix::unistd::AccessFlags::W_OK).is_ok()
}
