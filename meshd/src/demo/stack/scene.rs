//! Three nodes in three datacentres, each with a daemon and a container engine of its own.

use std::collections::BTreeSet;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{IpAddr, SocketAddr, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use anyhow::Context;
use netlab::mesh::Member;
use netlab::writes::Door;
use netlab::{Engine, Lab};

use super::images::IMAGES;

/// The nodes and their datacentres.
pub(super) const NODES: [(&str, &str); 3] = [("n1", "dc-a"), ("n2", "dc-b"), ("n3", "dc-c")];
/// How long a server may take to answer a request.
const ANSWER_LIMIT: Duration = Duration::from_secs(10);
/// HAProxy's ports, as its component has them.
const SQL_PORT: &str = "3307";
pub(super) const INFLUX_PORT: u16 = 8089;

const HAPROXY: &str = include_str!("../../../../contrib/components/haproxy.toml");

/// What the stack is.
const SPECIFICATION: &str = r#"name = "demo"
[components.zookeeper]
nodes = ["n1", "n2", "n3"]
image = "meshnet-test/zookeeper:test"
settings.heap_mb = 64
memory_mb = 384
[components.mariadb]
nodes = ["n1", "n2", "n3"]
image = "meshnet-test/mariadb:test"
settings.buffer_pool_mb = 32
[components.influxdb]
nodes = ["n1", "n2"]
image = "meshnet-test/influxdb:test"
[components.haproxy]
nodes = "all"
image = "meshnet-test/haproxy:test"
"#;

/// A node.
pub(super) struct Host {
    pub(super) name: &'static str,
    pub(super) member: Member,
    pub(super) engine: Engine,
    pub(super) address: IpAddr,
}

/// All of them.
pub(super) struct Scene {
    // Before the lab: engines want their machines until they have ended.
    pub(super) hosts: Vec<Host>,
    directory: PathBuf,
    lab: Lab,
}

impl Scene {
    /// Networks, a mesh, and engines.
    ///
    /// # Errors
    /// What keeps them from being built.
    pub(super) fn build(binary: &Path) -> anyhow::Result<Scene> {
        let lab = Lab::new()?;
        let internet = lab.switch("internet")?;
        let mut hosts: Vec<Host> = Vec::new();
        for (number, (name, datacenter)) in (1..).zip(NODES) {
            let machine = lab.machine(name)?;
            machine.plug(&internet, &[&format!("203.0.113.{number}/24")])?;
            let endpoint = format!("203.0.113.{number}:4655");
            let mut member = Member::new(&machine, binary);
            let place = ["--relay", "--endpoint", &endpoint, "--datacenter", datacenter];
            match hosts.first() {
                None => member.ok(&[&["init", "--mesh", "demo", "--name", name], &place[..]].concat())?,
                Some(first) => {
                    let url = first.member.invite(name, &["--role", "relay", "--role", "operator"])?;
                    member.ok(&[&["join", &url], &place[..]].concat())?
                }
            };
            let mut engine = Engine::new(&machine)?;
            let config = member.state().join("meshd.toml");
            let written = std::fs::read_to_string(&config).unwrap_or_default();
            std::fs::write(&config, format!("engine = \"unix://{}\"\n{written}", engine.socket().display()))?;
            member.up()?;
            engine.start()?;
            let address = member.address(false)?;
            hosts.push(Host { name, member, engine, address });
        }
        let directory = lab.directory().to_owned();
        std::fs::write(directory.join("stack.toml"), SPECIFICATION)?;
        std::fs::create_dir_all(directory.join("components"))?;
        std::fs::write(directory.join("components/haproxy.toml"), HAPROXY)?;
        Ok(Scene { hosts, directory, lab })
    }

    /// Loads the images into all engines.
    ///
    /// # Errors
    /// What an engine says.
    pub(super) fn load(&self, images: &Path) -> anyhow::Result<()> {
        std::thread::scope(|scope| {
            let loads: Vec<_> = self
                .hosts
                .iter()
                .map(|host| {
                    scope.spawn(|| {
                        IMAGES.iter().try_for_each(|image| {
                            let tar = images.join(format!("{image}.tar"));
                            host.engine.docker(&["load", "-q", "-i", &tar.to_string_lossy()]).map(drop)
                        })
                    })
                })
                .collect();
            for load in loads {
                load.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))?;
            }
            Ok(())
        })
    }

    /// A node by its number in [`NODES`].
    pub(super) fn host(&self, number: usize) -> &Host {
        &self.hosts[number]
    }

    /// `meshd stack ARGUMENTS...` on a node; each line that it writes goes to `line` at once.
    ///
    /// # Errors
    /// If it fails, with its last lines.
    pub(super) fn stack(
        &self,
        on: usize,
        arguments: &[&str],
        mut line: impl FnMut(&str),
    ) -> anyhow::Result<String> {
        let host = self.host(on);
        let components = self.directory.join("components").to_string_lossy().into_owned();
        let file = self.directory.join("stack.toml").to_string_lossy().into_owned();
        let all = [&["stack", "--components", &components], arguments, &["--file", &file]].concat();
        let mut command = host.member.command(&all);
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = host.member.machine().enter(|| command.spawn())??;
        let mut said = Vec::new();
        let (stdout, stderr) = (child.stdout.take(), child.stderr.take());
        let text = std::thread::spawn(move || {
            let mut text = String::new();
            // What cannot be read is missed below.
            let _ = stdout.map(|mut stdout| stdout.read_to_string(&mut text));
            text
        });
        for one in stderr.into_iter().flat_map(|stderr| BufReader::new(stderr).lines().map_while(Result::ok))
        {
            line(&one);
            said.push(one);
        }
        let status = child.wait()?;
        let text = text.join().unwrap_or_default();
        let last = said[said.len().saturating_sub(12)..].join("\n");
        anyhow::ensure!(status.success(), "meshd stack {} failed: {last}", arguments.join(" "));
        Ok(text)
    }

    /// Doors to the database: a client on each node, through the HAProxy there.
    pub(super) fn doors(&self) -> Vec<Door> {
        self.hosts.iter().map(|host| self.door(host)).collect()
    }

    fn door(&self, host: &Host) -> Door {
        let (name, address) = (host.name, host.address.to_string());
        let client = ["mariadb", "--defaults-extra-file=/run/meshd/client.cnf", "--connect-timeout=2"];
        let to = ["-h", &address, "-P", SQL_PORT, "-nNB"];
        let line =
            host.engine.command(&[&["exec", "-i", "meshd-demo-mariadb"], &client[..], &to[..]].concat());
        let line: Vec<_> = line.get_args().map(std::ffi::OsStr::to_owned).collect();
        let table = "CREATE TABLE IF NOT EXISTS shop.orders (n BIGINT PRIMARY KEY, taken_by VARCHAR(32));";
        Door {
            command: Box::new(move || {
                let mut command = Command::new("docker");
                command.args(&line);
                command
            }),
            prepare: (
                format!("CREATE DATABASE IF NOT EXISTS shop; {table} SELECT 'ready';"),
                vec!["ready".into()],
            ),
            write: Box::new(move |number| {
                let insert = format!("INSERT INTO shop.orders VALUES ({number}, '{name}');");
                (format!("{insert} SELECT 'row {number}';"), format!("row {number}"))
            }),
        }
    }

    /// The rows that a node's replica has.
    ///
    /// # Errors
    /// If its server does not answer.
    pub(super) fn rows(&self, on: usize) -> anyhow::Result<BTreeSet<u64>> {
        let statement = "SET SESSION wsrep_sync_wait=1; SELECT n FROM shop.orders";
        let client = ["mariadb", "--defaults-extra-file=/run/meshd/client.cnf", "-NBe", statement];
        let text = self.host(on).engine.docker(&[&["exec", "meshd-demo-mariadb"], &client[..]].concat())?;
        Ok(text.lines().filter_map(|line| line.trim().parse().ok()).collect())
    }

    /// One command of ZooKeeper's client, against the server of a node; what it prints.
    ///
    /// # Errors
    /// If it fails.
    pub(super) fn zookeeper(&self, on: usize, words: &[&str]) -> anyhow::Result<String> {
        let host = self.host(on);
        let server = format!("{}:2181", host.address);
        // It acknowledges on its standard error.
        let client = "exec java -Xmx48m -XX:TieredStopAtLevel=1 -Dorg.slf4j.simpleLogger.defaultLogLevel=error \
                      -cp '/usr/share/java/*' org.apache.zookeeper.ZooKeeperMain \"$@\" 2>&1";
        let shell = ["exec", "meshd-demo-zookeeper", "sh", "-c", client, "client", "-server", &server];
        let all = [&shell[..], words].concat();
        Ok(host.engine.docker(&all)?)
    }

    /// An HTTP request from a node; the answer's text with its head.
    ///
    /// # Errors
    /// If nobody answers.
    pub(super) fn http(
        &self,
        from: usize,
        to: SocketAddr,
        request: &str,
        body: &str,
    ) -> anyhow::Result<String> {
        let exchange = || {
            let mut stream = TcpStream::connect_timeout(&to, ANSWER_LIMIT)?;
            stream.set_read_timeout(Some(ANSWER_LIMIT))?;
            let head = format!("Host: {to}\r\nConnection: close\r\nContent-Length: {}\r\n\r\n", body.len());
            stream.write_all(format!("{request} HTTP/1.1\r\n{head}{body}").as_bytes())?;
            let mut text = String::new();
            stream.read_to_string(&mut text)?;
            Ok::<_, std::io::Error>(text)
        };
        self.host(from).member.machine().enter(exchange)?.with_context(|| format!("{to} does not answer"))
    }

    /// A node loses its power: daemon, engine, and containers are gone at once.
    ///
    /// # Errors
    /// If its processes cannot be found.
    pub(super) fn power_off(&mut self, number: usize) -> anyhow::Result<()> {
        let host = &mut self.hosts[number];
        host.member.kill();
        host.engine.kill()?;
        Ok(())
    }

    /// It has power again.
    ///
    /// # Errors
    /// If its daemon or its engine does not start.
    pub(super) fn power_on(&mut self, number: usize) -> anyhow::Result<()> {
        let host = &mut self.hosts[number];
        host.member.up()?;
        host.engine.start()?;
        Ok(())
    }

    /// Takes everything down.
    ///
    /// # Errors
    /// If something is left.
    pub(super) fn take_down(self) -> anyhow::Result<()> {
        drop(self.hosts);
        Ok(self.lab.take_down()?)
    }
}
