//! A service small enough for every run: one program, its image made from nothing but it and the libraries that it is
//! linked with. It does what a component may do: keeps data, reads a secret and a file, answers a check, ends when asked.

use std::collections::BTreeSet;
use std::io::{Read, Write};
use std::net::{IpAddr, SocketAddr, TcpListener, TcpStream};
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use nix::sys::signal::{SigSet, Signal};
use serde_json::json;

use super::Cluster;
use crate::net::done;

/// Its image.
pub const IMAGE: &str = "meshnet-test/bell:1";
/// The same under another name, for machines of another kind.
pub const FOREIGN_IMAGE: &str = "meshnet-test/bell:foreign";
/// Where it answers.
pub const PORT: u16 = 7080;
/// Where its secret is.
const SECRET: &str = "/run/secrets/bell-key";
/// Where its file is.
const FILE: &str = "/etc/bell.conf";

/// What the program does: `--listen=IP:PORT --data=DIRECTORY`, and, for those who want trouble, `--wait=SECONDS` before it
/// listens, `--also=IP:PORT`, `--broken`.
///
/// # Panics
/// When it is not given what it needs: that is its way to fail.
pub fn ring() {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let of = |name: &str| arguments.iter().find_map(|one| one.strip_prefix(name)?.strip_prefix('='));
    // The first process of a container gets only signals that it asks for.
    let asked = SigSet::from_iter([Signal::SIGTERM, Signal::SIGINT]);
    asked.thread_block().expect("signals can be waited for");
    std::thread::spawn(move || {
        let _ = asked.wait();
        std::process::exit(0);
    });
    if arguments.iter().any(|one| one == "--broken") {
        println!("the clapper is missing");
        std::process::exit(3);
    }
    let secret = std::fs::read_to_string(SECRET).expect("its secret is bound in");
    let file = std::fs::read_to_string(FILE).expect("its file is bound in");
    assert!(secret.len() >= 16 && file.contains(&secret), "the file has the secret filled in");
    let word = file.lines().find_map(|line| line.strip_prefix("word = ")).expect("a word").to_owned();
    let starts = Path::new(of("--data").expect("--data")).join("starts");
    let before: u32 = std::fs::read_to_string(&starts).map_or(0, |text| text.trim().parse().unwrap_or(0));
    std::fs::write(&starts, format!("{}\n", before + 1)).expect("its data can be written");
    if let Some(seconds) = of("--wait") {
        std::thread::sleep(Duration::from_secs(seconds.parse().expect("a number")));
    }
    let _further = of("--also").map(|at| TcpListener::bind(at).expect("a further address"));
    let listener = TcpListener::bind(of("--listen").expect("--listen")).expect("its address is there");
    println!("the bell rings for the {}. time", before + 1);
    for mut stream in listener.incoming().flatten() {
        let mut request = [0; 1024];
        let _ = stream.read(&mut request);
        let body = format!("{word} {}\n", before + 1);
        let _ = write!(stream, "HTTP/1.0 200 OK\r\nContent-Length: {}\r\n\r\n{body}", body.len());
    }
}

/// What a bell answers: its word, and how often it was started. `None` where nobody answers.
pub fn hear(at: IpAddr) -> Option<(String, u32)> {
    let mut stream = TcpStream::connect_timeout(&SocketAddr::new(at, PORT), Duration::from_secs(2)).ok()?;
    stream.set_read_timeout(Some(Duration::from_secs(2))).ok()?;
    stream.write_all(b"GET / HTTP/1.0\r\n\r\n").ok()?;
    let mut text = String::new();
    stream.read_to_string(&mut text).ok()?;
    let (word, count) = text.split_once("\r\n\r\n")?.1.trim().split_once(' ')?;
    Some((word.to_owned(), count.parse().ok()?))
}

impl Cluster {
    /// Gives every engine the bell's image, under both names, and `--components` its file; `program` is the bell.
    ///
    /// # Panics
    /// When an image cannot be made.
    pub fn add_bell(&self, program: &str) {
        let tar = self.directory.join("bell.tar");
        pack(Path::new(program), &self.directory.join("bell-root"), &tar);
        let foreign = foreign(&tar, &self.directory.join("bell-foreign"));
        for node in &self.nodes {
            let entry = "ENTRYPOINT [\"/bell\"]";
            node.docker(&["import", "--change", entry, &tar.to_string_lossy(), IMAGE]);
            node.docker(&["load", "-q", "-i", &foreign]);
        }
        let file = Path::new(env!("CARGO_MANIFEST_DIR")).join("stack/bell/bell.toml");
        done(std::fs::copy(file, Path::new(&self.components()).join("bell.toml")));
    }
}

/// A file system of a program as `/bell`, and of the libraries that it is linked with, as a tar file.
fn pack(program: &Path, root: &Path, tar: &Path) {
    done(std::fs::create_dir_all(root));
    done(std::fs::copy(program, root.join("bell")));
    // A static program has none, and `ldd` says so by its status.
    let linked = done(Command::new("ldd").arg(program).output()).stdout;
    let linked = String::from_utf8_lossy(&linked).into_owned();
    let libraries: BTreeSet<&str> = linked.split_whitespace().filter(|word| word.starts_with('/')).collect();
    for library in libraries {
        let there = root.join(library.trim_start_matches('/'));
        done(std::fs::create_dir_all(there.parent().expect("a library is in a directory")));
        done(std::fs::copy(library, there));
    }
    run_tar(root, tar);
}

/// An image of the same file system that says that it is for machines of another kind, as a file to be loaded: `docker import`
/// has it say what the machine is, whatever it is told.
fn foreign(tar: &Path, directory: &Path) -> String {
    done(std::fs::create_dir_all(directory));
    done(std::fs::copy(tar, directory.join("layer.tar")));
    let sum = done(Command::new("sha256sum").arg(tar).output()).stdout;
    let sum = String::from_utf8_lossy(&sum).split(' ').next().unwrap_or_default().to_owned();
    let config = json!({
        "architecture": if cfg!(target_arch = "x86_64") { "arm64" } else { "amd64" },
        "os": "linux",
        "config": { "Entrypoint": ["/bell"] },
        "rootfs": { "type": "layers", "diff_ids": [format!("sha256:{sum}")] },
    });
    let manifest = json!([{ "Config": "config.json", "RepoTags": [FOREIGN_IMAGE], "Layers": ["layer.tar"] }]);
    done(std::fs::write(directory.join("config.json"), config.to_string()));
    done(std::fs::write(directory.join("manifest.json"), manifest.to_string()));
    let image = directory.with_extension("tar");
    run_tar(directory, &image);
    image.to_string_lossy().into_owned()
}

fn run_tar(directory: &Path, tar: &Path) {
    let status = Command::new("tar").arg("-C").arg(directory).arg("-cf").arg(tar).arg(".").status();
    assert!(done(status).success(), "tar failed");
}
