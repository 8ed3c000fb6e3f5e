//! Meshes whose nodes have container engines, for the scenarios of `meshd stack`: real engines (one for each node, in
//! its network namespace), real images built from Debian's packages.

use crate::net::{MESH, done, meshd};
use netlab::mesh::Member;
use netlab::{Lab, Machine, Process};
use serde_json::Value;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::time::Duration;

/// Long enough for an engine to start, or an image to load.
const PATIENCE: Duration = Duration::from_secs(90);

/// A member with a container engine.
pub struct Node {
    /// Its name.
    pub name: String,
    /// The member.
    pub member: Member,
    socket: PathBuf,
    engine: Option<Process>,
}

/// A mesh of nodes with engines, one in each datacentre.
pub struct Cluster {
    /// The nodes.
    pub nodes: Vec<Node>,
    directory: PathBuf,
    _lab: Lab,
}

impl Cluster {
    /// A mesh of nodes with these names, each in a datacentre of its own and with these images loaded. The first one founds
    /// the mesh; the second is an operator too.
    ///
    /// # Panics
    /// When a node, a daemon, or an engine does not start.
    pub fn new(names: &[&str], images: &[&str]) -> Cluster {
        let lab = done(Lab::new());
        let internet = done(lab.switch("internet"));
        let mut nodes: Vec<Node> = Vec::new();
        for (number, name) in names.iter().enumerate() {
            let machine = done(lab.machine(name));
            let address = format!("203.0.113.{}", number + 1);
            done(machine.plug(&internet, &[&format!("{address}/24")]));
            let endpoint = format!("{address}:4655");
            let mut member = Member::new(&machine, &meshd());
            match nodes.first() {
                None => {
                    let init = [
                        "init",
                        "--mesh",
                        MESH,
                        "--name",
                        name,
                        "--datacenter",
                        name,
                        "--relay",
                        "--endpoint",
                        &endpoint,
                    ];
                    done(member.ok(&init));
                }
                Some(first) => {
                    let role: &[&str] = if number == 1 { &["--role", "operator"] } else { &[] };
                    let url = done(first.member.invite(name, role));
                    done(member.ok(&["join", &url, "--datacenter", name]));
                }
            }
            // A unix socket's path is short: the machine's directory may not be.
            let place = PathBuf::from(format!("/tmp/mn-{}-{number}", std::process::id()));
            let socket = place.join("sock");
            let config = member.state().join("meshd.toml");
            let written = std::fs::read_to_string(&config).unwrap_or_default();
            done(std::fs::write(&config, format!("engine = \"unix://{}\"\n{written}", socket.display())));
            done(member.up());
            let mut node = Node { name: (*name).to_owned(), member, socket, engine: None };
            node.start_engine(&place);
            nodes.push(node);
        }
        for image in images {
            let tar = image_tar(image);
            nodes.iter().for_each(|node| drop(node.docker(&["load", "-q", "-i", &tar.to_string_lossy()])));
        }
        let directory = nodes[0].member.machine().directory().to_owned();
        Cluster { nodes, directory, _lab: lab }
    }

    /// Writes `stack.toml` and returns its path.
    ///
    /// # Panics
    /// When it cannot be written.
    pub fn specify(&self, text: &str) -> PathBuf {
        let path = self.directory.join("stack.toml");
        done(std::fs::write(&path, text));
        path
    }

    /// The node of this name.
    ///
    /// # Panics
    /// When there is none.
    pub fn node(&self, name: &str) -> &Node {
        self.nodes.iter().find(|node| node.name == name).unwrap_or_else(|| panic!("no node {name}"))
    }
}

impl Node {
    fn start_engine(&mut self, place: &Path) {
        done(std::fs::create_dir_all(place));
        let at = |name: &str| place.join(name).to_string_lossy().into_owned();
        let mut command = Command::new("dockerd");
        command.args(["--data-root", &at("data"), "--exec-root", &at("exec"), "--pidfile", &at("pid")]);
        command.args(["-H", &format!("unix://{}", self.socket.display()), "--bridge=none"]);
        command.args(["--iptables=false", "--ip6tables=false"]);
        self.engine = Some(done(self.member.machine().spawn(command)));
        done(netlab::wait::until_true("the container engine to answer", PATIENCE, || {
            self.docker_command(&["info"]).output().is_ok_and(|output| output.status.success())
        }));
    }

    fn docker_command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new("docker");
        command.arg("-H").arg(format!("unix://{}", self.socket.display())).args(arguments);
        command
    }

    /// Asks the node's engine, past meshd.
    ///
    /// # Panics
    /// When it fails.
    pub fn docker(&self, arguments: &[&str]) -> String {
        let output = done(self.docker_command(arguments).output());
        assert!(output.status.success(), "docker {arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8_lossy(&output.stdout).into_owned()
    }

    /// `meshd stack` with these arguments, here.
    ///
    /// # Panics
    /// When it cannot be run.
    pub fn stack(&self, arguments: &[&str]) -> Ran {
        let mut command = self.stack_command(arguments);
        let output = done(done(self.member.machine().enter(|| command.output())));
        Ran::from(output)
    }

    /// Starts `meshd stack` with these arguments, to be killed.
    ///
    /// # Panics
    /// When it cannot be run.
    pub fn stack_begin(&self, arguments: &[&str]) -> Child {
        let mut command = self.stack_command(arguments);
        command.stdout(Stdio::null()).stderr(Stdio::null());
        done(done(self.member.machine().enter(|| command.spawn())))
    }

    fn stack_command(&self, arguments: &[&str]) -> Command {
        self.member.command(&[&["stack"], arguments].concat())
    }

    /// What `meshd stack status --json` tells of a component.
    ///
    /// # Panics
    /// When it tells nothing of it.
    pub fn component(&self, file: &str, name: &str) -> Value {
        let ran = self.stack(&["status", "--json", "--file", file]);
        let status: Value =
            serde_json::from_str(&ran.stdout).unwrap_or_else(|error| panic!("{error}: {ran:?}"));
        let components = status["components"].as_array().cloned().unwrap_or_default();
        components
            .into_iter()
            .find(|one| one["name"] == name)
            .unwrap_or_else(|| panic!("no {name} in {status}"))
    }

    /// The machine.
    pub fn machine(&self) -> &Machine {
        self.member.machine()
    }

    /// The names and ids of all containers on the node's engine.
    ///
    /// # Panics
    /// When the engine does not answer.
    pub fn containers(&self) -> Vec<String> {
        self.docker(&["ps", "-a", "--no-trunc", "--format", "{{.Names}} {{.ID}}"])
            .lines()
            .map(str::to_owned)
            .collect()
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        // Containers outlive an engine that is killed: end them first, then the engine in its own way.
        if let Ok(output) = self.docker_command(&["ps", "-q"]).output() {
            for id in String::from_utf8_lossy(&output.stdout).lines() {
                let _ = self.docker_command(&["rm", "-f", id]).output();
            }
        }
        if let Some(engine) = &mut self.engine {
            engine.terminate();
            let _ = engine.wait(Duration::from_secs(20));
        }
        if let Some(place) = self.socket.parent() {
            // The engine leaves its own namespace mounted there.
            let left = place.join("exec/netns/default");
            let _ = nix::mount::umount2(&left, nix::mount::MntFlags::MNT_DETACH);
            let _ = std::fs::remove_dir_all(place);
        }
    }
}

/// How a command ended.
#[derive(Debug)]
pub struct Ran {
    /// Its exit code.
    pub code: Option<i32>,
    /// Its standard output.
    pub stdout: String,
    /// Its standard error.
    pub stderr: String,
}

impl From<Output> for Ran {
    fn from(output: Output) -> Ran {
        Ran {
            code: output.status.code(),
            stdout: String::from_utf8_lossy(&output.stdout).into_owned(),
            stderr: String::from_utf8_lossy(&output.stderr).into_owned(),
        }
    }
}

/// The image as a file, built unless it is there. `MESHNET_STACK_IMAGES` names another directory than `target/stack-images`.
///
/// # Panics
/// When it cannot be built.
fn image_tar(name: &str) -> PathBuf {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let directory = std::env::var_os("MESHNET_STACK_IMAGES").map(PathBuf::from);
    let directory = directory.unwrap_or_else(|| root.join("../target/stack-images"));
    let tar = directory.join(format!("{name}.tar"));
    if !tar.exists() {
        let status = done(Command::new(root.join("stack/images/build.sh")).arg(&directory).status());
        assert!(
            status.success(),
            "tests/stack/images/build.sh failed: it needs root, dockerd, docker, and debootstrap"
        );
    }
    tar
}
