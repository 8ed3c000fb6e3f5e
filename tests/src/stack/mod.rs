//! Meshes whose nodes have container engines, for the scenarios of `meshd stack`: real engines (one for each node, in
//! its network namespace), real images built from Debian's packages.

pub mod bell;
pub mod galera;
pub mod marathon_double;
pub mod recorder;
pub mod registry;
pub mod sites;
pub mod sought;
pub mod whole;

use crate::net::{MESH, done, meshd};
use netlab::mesh::Member;
use netlab::{Engine, Lab, Machine, Port};
use serde_json::Value;
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};

/// A member with a container engine.
pub struct Node {
    /// Its name.
    pub name: String,
    /// The member.
    pub member: Member,
    /// Its engine.
    pub engine: Engine,
    /// Its cable.
    pub port: Port,
}

/// A mesh of nodes with engines, one in each datacentre.
pub struct Cluster {
    /// The nodes.
    pub nodes: Vec<Node>,
    directory: PathBuf,
    _lab: Lab,
}

impl Cluster {
    /// A mesh of nodes with these names, each in the datacentre that its name says without its number, and with these
    /// images loaded. The first one founds
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
            let datacenter = name.trim_end_matches(|c: char| c.is_ascii_digit());
            let address = format!("203.0.113.{}", number + 1);
            let port = done(machine.plug(&internet, &[&format!("{address}/24")]));
            let endpoint = format!("{address}:4655");
            let member = Member::new(&machine, &meshd());
            match nodes.first() {
                None => {
                    let init = [
                        "init",
                        "--mesh",
                        MESH,
                        "--name",
                        name,
                        "--datacenter",
                        datacenter,
                        "--relay",
                        "--endpoint",
                        &endpoint,
                    ];
                    done(member.ok(&init));
                }
                Some(first) => {
                    let role: &[&str] = if number == 1 { &["--role", "operator"] } else { &[] };
                    let url = done(first.member.invite(name, role));
                    done(member.ok(&["join", &url, "--datacenter", datacenter]));
                }
            }
            nodes.push(Node::start(name, member, port));
        }
        std::thread::scope(|scope| {
            for node in &nodes {
                scope.spawn(|| images.iter().for_each(|image| node.load(image)));
            }
        });
        Cluster::of(nodes, lab)
    }

    /// These nodes of a lab.
    fn of(nodes: Vec<Node>, lab: Lab) -> Cluster {
        let directory = lab.directory().to_owned();
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

    /// As [`Cluster::node`].
    ///
    /// # Panics
    /// When there is none.
    pub fn node_mut(&mut self, name: &str) -> &mut Node {
        self.nodes.iter_mut().find(|node| node.name == name).unwrap_or_else(|| panic!("no node {name}"))
    }

    /// Where the cluster's own files are.
    pub fn directory(&self) -> &Path {
        &self.directory
    }

    /// Where [`Cluster::specify`] writes, as an argument.
    pub fn file(&self) -> String {
        self.directory.join("stack.toml").to_string_lossy().into_owned()
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
    /// Starts a member's daemon and an engine that it drives.
    ///
    /// # Panics
    /// When one of them does not start.
    pub fn start(name: &str, mut member: Member, port: Port) -> Node {
        let mut engine = done(Engine::new(member.machine()));
        let config = member.state().join("meshd.toml");
        let written = std::fs::read_to_string(&config).unwrap_or_default();
        let socket = engine.socket();
        done(std::fs::write(&config, format!("engine = \"unix://{}\"\n{written}", socket.display())));
        done(member.up());
        done(engine.start());
        Node { name: name.to_owned(), member, engine, port }
    }

    /// Loads an image into the node's engine, building it where that was not done yet.
    ///
    /// # Panics
    /// When it cannot be built or loaded.
    pub fn load(&self, image: &str) {
        self.docker(&["load", "-q", "-i", &image_tar(image).to_string_lossy()]);
    }

    /// Asks the node's engine, past meshd.
    ///
    /// # Panics
    /// When it fails.
    pub fn docker(&self, arguments: &[&str]) -> String {
        done(self.engine.docker(arguments))
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

    /// Runs `meshd stack` with these arguments and kills it (-9) when it has printed a line that `is_moment` says: that line.
    ///
    /// # Errors
    /// How it ended, if it came to its end before.
    ///
    /// # Panics
    /// When it cannot be run.
    pub fn stack_killed_at(
        &self,
        arguments: &[&str],
        is_moment: impl Fn(&str) -> bool,
    ) -> Result<String, Ran> {
        let mut command = self.stack_command(arguments);
        command.stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = done(done(self.member.machine().enter(|| command.spawn())));
        let output = BufReader::new(child.stdout.take().expect("a pipe"));
        let moment = output.lines().map_while(Result::ok).find(|line| is_moment(line));
        if moment.is_some() {
            done(child.kill());
        }
        let ended = Ran::from(done(child.wait_with_output()));
        moment.ok_or(ended)
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

    /// What a component's container printed in the last `age` seconds; empty where its engine does not answer.
    pub fn last_log(&self, stack: &str, component: &str, age: u64) -> String {
        let container = format!("meshd-{stack}-{component}");
        let mut command = self.engine.command(&["logs", "-t", "--since", &format!("{age}s"), &container]);
        let output = command.output().map(|output| [output.stdout, output.stderr].concat());
        String::from_utf8_lossy(&output.unwrap_or_default()).into_owned()
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

/// Whether containers can be run here: root of the machine, an engine's programs, and an engine that starts. If not, why, and
/// what to install.
///
/// # Errors
/// Then.
pub fn engines() -> Result<(), String> {
    let map = std::fs::read_to_string("/proc/self/uid_map").unwrap_or_default();
    // In a user namespace root is somebody else outside.
    let is_root = nix::unistd::geteuid().is_root()
        && map.split_whitespace().map(str::to_owned).eq(["0", "0", "4294967295"]);
    if !is_root {
        return Err("containers are for root only: run it as root".into());
    }
    let machine = Lab::new().and_then(|lab| Ok((lab.machine("engine")?, lab)));
    let (machine, _lab) = machine.map_err(|error| error.to_string())?;
    let mut engine = Engine::new(&machine).map_err(|error| error.to_string())?;
    engine
        .start()
        .map_err(|error| format!("no container engine starts here (apt-get install docker.io): {error}"))
}

/// Says that a scenario is not run, so that it shows among all others that are, and in the summary of `make test`.
pub fn skipped(scenario: &str, why: &str) {
    // Not by way of what the test harness keeps back of scenarios that succeed.
    let _ = std::io::Write::write_all(
        &mut std::io::stderr(),
        format!("\nSKIPPED {scenario}: {why}\n").as_bytes(),
    );
    crate::net::figure(scenario, format!("NOT RUN: {why}"));
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
pub fn image_tar(name: &str) -> PathBuf {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let directory = std::env::var_os("MESHNET_STACK_IMAGES").map(PathBuf::from);
    let directory = directory.unwrap_or_else(|| root.join("../target/stack-images"));
    let tar = directory.join(format!("{name}.tar"));
    if !tar.exists() {
        let script = root.join("../contrib/images/build.sh");
        let status = done(Command::new(script).arg(&directory).arg(name).status());
        assert!(status.success(), "contrib/images/build.sh failed: what it said is above");
    }
    tar
}
