//! The images of the demo, built from Debian's packages by the script that the tests use too.

use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::mpsc::channel;
use std::time::Duration;

use anyhow::Context;

use super::super::interrupt::Interrupt;
use super::super::screen::Screen;

/// The images, and what they are called on an engine.
pub(super) const IMAGES: [&str; 4] = ["zookeeper", "mariadb", "influxdb", "haproxy"];

/// contrib/images, as it was when this program was built.
const SOURCE: [(&str, &str); 8] = [
    ("build.sh", include_str!("../../../../contrib/images/build.sh")),
    ("zookeeper/Dockerfile", include_str!("../../../../contrib/images/zookeeper/Dockerfile")),
    ("zookeeper/entry.sh", include_str!("../../../../contrib/images/zookeeper/entry.sh")),
    ("mariadb/Dockerfile", include_str!("../../../../contrib/images/mariadb/Dockerfile")),
    ("mariadb/entry.sh", include_str!("../../../../contrib/images/mariadb/entry.sh")),
    ("influxdb/Dockerfile", include_str!("../../../../contrib/images/influxdb/Dockerfile")),
    ("influxdb/entry.sh", include_str!("../../../../contrib/images/influxdb/entry.sh")),
    ("haproxy/Dockerfile", include_str!("../../../../contrib/images/haproxy/Dockerfile")),
];

/// How often is looked for a reason to stop.
const LOOK_EVERY: Duration = Duration::from_millis(100);

/// Programs without which there is no demo, and the Debian packages that have them; `debootstrap` only to build images.
pub(super) fn missing(directory: &Path) -> Vec<&'static str> {
    let built = IMAGES.iter().all(|image| directory.join(format!("{image}.tar")).exists());
    let mut wanted =
        vec![("docker", "docker.io"), ("dockerd", "docker.io"), ("ip", "iproute2"), ("nft", "nftables")];
    if !built {
        wanted.push(("debootstrap", "debootstrap"));
    }
    let path = std::env::var("PATH").unwrap_or_default() + ":/usr/sbin:/sbin";
    let is_there = |program: &str| path.split(':').any(|place| Path::new(place).join(program).is_file());
    let mut packages: Vec<&str> =
        wanted.into_iter().filter(|(program, _)| !is_there(program)).map(|(_, package)| package).collect();
    packages.dedup();
    packages
}

/// Builds what is not there yet.
///
/// # Errors
/// What the script says, or a reason to stop.
pub(super) fn build(directory: &Path, interrupt: &Interrupt, screen: &mut Screen) -> anyhow::Result<()> {
    let source = directory.join("source");
    for (name, text) in SOURCE {
        let path = source.join(name);
        std::fs::create_dir_all(path.parent().unwrap_or(&source))
            .and_then(|()| std::fs::write(&path, text))
            .with_context(|| format!("writing {}", path.display()))?;
    }
    let mut command = Command::new("sh");
    command.arg(source.join("build.sh")).arg(directory).args(IMAGES);
    let mut child = command
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .context("starting the build of images")?;
    let (told, heard) = channel();
    if let Some(lines) = child.stderr.take() {
        std::thread::spawn(move || {
            for line in BufReader::new(lines).lines().map_while(Result::ok) {
                if told.send(line).is_err() {
                    break;
                }
            }
        });
    }
    let mut last = String::new();
    let status = loop {
        while let Ok(line) = heard.try_recv() {
            screen.step(&format!("building: {line}"));
            last = line;
        }
        if let Some(status) = child.try_wait().context("waiting for the build of images")? {
            break status;
        }
        if let Err(reason) = interrupt.check() {
            // It cleans up after itself.
            let _ = nix::sys::signal::kill(
                nix::unistd::Pid::from_raw(child.id().cast_signed()),
                nix::sys::signal::Signal::SIGTERM,
            );
            let _ = child.wait();
            return Err(reason.into());
        }
        std::thread::sleep(LOOK_EVERY);
    };
    // What it said last may come after its end.
    while let Ok(line) = heard.recv_timeout(LOOK_EVERY) {
        screen.step(&format!("building: {line}"));
        last = line;
    }
    anyhow::ensure!(
        status.success(),
        "the images cannot be built: {last} (see {}/build.log)",
        directory.display()
    );
    Ok(())
}
