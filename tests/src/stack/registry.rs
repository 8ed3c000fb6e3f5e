//! A real registry (Debian's docker-registry) on the loopback address of each node, with one store behind all of them, that
//! wants a password.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use netlab::Process;

use super::{Cluster, Node};
use crate::net::done;

/// Where it listens.
pub const HOST: &str = "127.0.0.1:5000";
/// The user that may pull and push.
pub const USER: &str = "stack";
/// Its password: worth nothing elsewhere.
pub const PASSWORD: &str = "only-for-the-tests-registry-7f3a";
/// The same for the registry (bcrypt).
const PASSWORD_HASH: &str = "$2b$05$WzgwRv.TsyMnPxmiDwee4.kmVQwJ/VEpDWkrfZL83Lib9Z2q6puSm";
/// How long one may take to start.
const START_LIMIT: Duration = Duration::from_secs(20);

/// Registries on all nodes of a cluster.
pub struct Registries {
    processes: Vec<Process>,
    configuration: PathBuf,
}

impl Registries {
    /// Starts them.
    ///
    /// # Panics
    /// When one does not start: Debian's package docker-registry has it.
    pub fn start(cluster: &Cluster, directory: &Path) -> Registries {
        let store = directory.join("registry");
        done(std::fs::create_dir_all(&store));
        let users = directory.join("htpasswd");
        done(std::fs::write(&users, format!("{USER}:{PASSWORD_HASH}\n")));
        let configuration = directory.join("registry.yml");
        let text = format!(
            "version: 0.1\nlog:\n  level: error\nstorage:\n  filesystem:\n    rootdirectory: {}\nhttp:\n  addr: {HOST}\n  secret: \
             shared\nauth:\n  htpasswd:\n    realm: tests\n    path: {}\n",
            store.display(),
            users.display()
        );
        done(std::fs::write(&configuration, text));
        let mut registries = Registries { processes: Vec::new(), configuration };
        registries.resume(cluster);
        registries
    }

    /// Starts them again.
    ///
    /// # Panics
    /// When one does not start.
    pub fn resume(&mut self, cluster: &Cluster) {
        for node in &cluster.nodes {
            let mut command = Command::new("docker-registry");
            command.arg("serve").arg(&self.configuration);
            self.processes.push(done(node.machine().spawn(command)));
            let listens = || done(node.machine().enter(|| std::net::TcpStream::connect(HOST).is_ok()));
            done(netlab::wait::until_true("the registry to listen", START_LIMIT, listens));
        }
    }

    /// Stops all of them.
    pub fn stop(&mut self) {
        self.processes.iter_mut().for_each(Process::kill);
        self.processes.clear();
    }

    /// Puts an image that a node has into the registry, and takes its name away there: the name that it has now.
    ///
    /// # Panics
    /// When that fails.
    pub fn push(&self, node: &Node, image: &str) -> String {
        let name = format!("{HOST}/{image}");
        node.docker(&["tag", image, &name]);
        let home = self.configuration.with_file_name("docker-home");
        done(std::fs::create_dir_all(&home));
        let home = home.to_string_lossy().into_owned();
        let mut login = node.engine.command(&["login", "-u", USER, "--password-stdin", HOST]);
        login.env("DOCKER_CONFIG", &home).stdin(Stdio::piped()).stdout(Stdio::null()).stderr(Stdio::null());
        let mut login = done(done(node.machine().enter(|| login.spawn())));
        let mut input = login.stdin.take().expect("a pipe");
        done(std::io::Write::write_all(&mut input, PASSWORD.as_bytes()));
        drop(input);
        assert!(done(login.wait()).success(), "docker login");
        let mut push = node.engine.command(&["push", "-q", &name]);
        let pushed = done(push.env("DOCKER_CONFIG", &home).output());
        assert!(pushed.status.success(), "{}", String::from_utf8_lossy(&pushed.stderr));
        node.docker(&["rmi", &name, image]);
        name
    }
}

impl Drop for Registries {
    fn drop(&mut self) {
        self.stop();
    }
}
