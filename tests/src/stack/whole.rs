//! Whole stacks on clusters: every component, what cannot be had here played by the stand-in.

use std::path::Path;

use serde_json::Value;

use super::{Cluster, Node, Ran};
use crate::net::done;

/// The images of a whole stack that are loaded; the stand-in's is built on them.
pub const IMAGES: [&str; 4] = ["zookeeper", "mariadb", "influxdb", "haproxy"];
/// The stand-in's image.
pub const DOUBLE: &str = "meshnet-test/double:test";

impl Cluster {
    /// Builds the stand-in's image on every engine; `program` is the stand-in.
    ///
    /// # Panics
    /// When it cannot be built.
    pub fn add_double(&self, program: &str) {
        let context = self.directory.join("double");
        done(std::fs::create_dir_all(&context));
        let from = Path::new(env!("CARGO_MANIFEST_DIR")).join("stack/double");
        for file in ["Dockerfile", "entry.sh"] {
            done(std::fs::copy(from.join(file), context.join(file)));
        }
        done(std::fs::copy(program, context.join("marathon_double")));
        std::thread::scope(|scope| {
            for node in &self.nodes {
                let context = context.to_string_lossy().into_owned();
                scope.spawn(move || {
                    let mut command = node.engine.command(&["build", "-q", "-t", DOUBLE, &context]);
                    let output = done(command.env("DOCKER_BUILDKIT", "0").output());
                    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
                });
            }
        });
    }

    /// A directory with the components that are other here: a Mesos agent finds its engine's socket by its node's name, and
    /// nothing is privileged.
    ///
    /// # Panics
    /// When it cannot be written.
    pub fn components(&self) -> String {
        let directory = self.directory.join("components");
        let sockets = self.directory.join("sockets");
        done(std::fs::create_dir_all(&directory));
        done(std::fs::create_dir_all(&sockets));
        for node in &self.nodes {
            let link = sockets.join(&node.name);
            let _ = std::fs::remove_file(&link);
            done(std::os::unix::fs::symlink(node.engine.socket(), link));
        }
        let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../meshd/src/stack/components");
        let text = done(std::fs::read_to_string(root.join("mesos-agent.toml")));
        let own = "source = \"/var/run/docker.sock\"\n";
        assert!(text.contains(own));
        let there = format!(
            "source = \"{}/{{{{ self.node }}}}\"\ntarget = \"/var/run/docker.sock\"\n",
            sockets.display()
        );
        // What tests run in may not have all that a privileged container is given.
        let text = text.replace(own, &there).replace("privileged = true\n", "");
        done(std::fs::write(directory.join("mesos-agent.toml"), text));
        let text = done(std::fs::read_to_string(root.join("marathon-lb.toml")));
        done(std::fs::write(directory.join("marathon-lb.toml"), text.replace("privileged = true\n", "")));
        directory.to_string_lossy().into_owned()
    }

    /// `meshd stack` on the first node, with this cluster's components and specification.
    pub fn stack(&self, arguments: &[&str]) -> Ran {
        self.stack_on(&self.nodes[0], arguments)
    }

    /// The same on another node.
    pub fn stack_on(&self, node: &Node, arguments: &[&str]) -> Ran {
        let (components, file) = (self.components(), self.file());
        let before = ["--components", &components];
        let after: &[&str] = if arguments.contains(&"--stack") { &[] } else { &["--file", &file] };
        node.stack(&[&before[..], arguments, after].concat())
    }

    /// `meshd stack status --json`.
    ///
    /// # Panics
    /// When it cannot be read.
    pub fn stack_status(&self) -> Value {
        let ran = self.stack(&["status", "--json"]);
        serde_json::from_str(&ran.stdout).unwrap_or_else(|error| panic!("{error}: {ran:?}"))
    }

    /// The containers that run, of all nodes: node, component, hash, who made it.
    pub fn running(&self) -> Vec<(String, String, String, String)> {
        let format = "{{.Label \"org.meshnet.stack.component\"}} {{.Label \"org.meshnet.stack.hash\"}} {{.Label \
                      \"org.meshnet.stack.driver\"}}";
        let mut all = Vec::new();
        for node in &self.nodes {
            for line in node.docker(&["ps", "--format", format]).lines() {
                let mut words = line.split(' ').map(str::to_owned);
                let mut next = || words.next().unwrap_or_default();
                all.push((node.name.clone(), next(), next(), next()));
            }
        }
        all.sort();
        all
    }
}

/// One component of a specification: on these nodes, from this image, with these lines besides.
pub fn component(name: &str, nodes: &[&str], image: &str, more: &str) -> String {
    let nodes: Vec<String> = nodes.iter().map(|node| format!("\"{node}\"")).collect();
    format!("[components.{name}]\nnodes = [{}]\nimage = \"{image}\"\n{more}\n", nodes.join(", "))
}

/// What Marathon needs: ensembles on `three`, agents on `nodes`.
pub fn base(three: &[&str], nodes: &[&str]) -> String {
    let small = "settings.heap_mb = 96\nmemory_mb = 384";
    component("zookeeper", three, "meshnet-test/zookeeper:test", small)
        + &component("mesos-master", three, DOUBLE, "")
        + &component("marathon", three, DOUBLE, "")
        + &component("mesos-agent", nodes, DOUBLE, "")
}

/// A stack of all components on these nodes; MinIO where there are four.
pub fn all(name: &str, nodes: &[&str]) -> String {
    let (pair, three) = (&nodes[..2], &nodes[..3]);
    let small = "settings.buffer_pool_mb = 32";
    let front = "settings.virtual_host = \"grafana.example.org\"";
    let mut text = format!("name = \"{name}\"\n") + &base(three, nodes);
    text += &component("mesos-dns", nodes, DOUBLE, "");
    text += &component("marathon-lb", pair, DOUBLE, "");
    text += &component("mariadb", three, "meshnet-test/mariadb:test", small);
    text += &component("influxdb", pair, "meshnet-test/influxdb:test", "");
    text += &component("telegraf", nodes, DOUBLE, "");
    text += &component("grafana", pair, DOUBLE, front);
    if nodes.len() >= 4 {
        text += &component("minio", &nodes[..4], DOUBLE, "");
    }
    text
}

/// Asks a proxy at port 80 for a path of a site; the status.
pub fn ask_by_name(proxy: std::net::IpAddr, site: &str, path: &str) -> Option<u16> {
    use std::io::{Read, Write};
    let mut stream = std::net::TcpStream::connect((proxy, 80)).ok()?;
    write!(stream, "GET {path} HTTP/1.0\r\nHost: {site}\r\n\r\n").ok()?;
    let mut text = String::new();
    stream.read_to_string(&mut text).ok()?;
    text.split(' ').nth(1)?.parse().ok()
}
