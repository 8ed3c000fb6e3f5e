//! `meshd demo --stack`: a container stack over three nodes of this machine, one of which dies under its clients.
//!
//! Everything is real: the engines are Docker's, one for each node; the servers are ZooKeeper, MariaDB Galera, InfluxDB, and
//! HAProxy from Debian's packages; what is told is measured on clients that use them.

mod images;
mod scene;

use std::net::SocketAddr;
use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::Context;
use netlab::writes::Writer;

use super::interrupt::Interrupt;
use super::promise::Promises;
use super::screen::Screen;
use crate::exit::Failure;
use scene::{INFLUX_PORT, NODES, Scene};

/// The whole demo ends by itself before this, with the building of images.
pub(super) const LIMIT: Duration = Duration::from_secs(1_500);
/// Where built images are kept for the next time, unless another place is named.
pub(super) const IMAGES: &str = "/var/cache/meshd/demo-images";

/// Who writes must be served again this soon after the node that served died.
const RECOVERY_LIMIT: Duration = Duration::from_secs(30);
/// How long the clients write before and after.
const BEFORE_KILL: Duration = Duration::from_secs(5);
/// The node that dies: the one that founded the mesh, and whose database takes the writes.
const VICTIM: usize = 0;
/// How long a replica that comes back may take to have everything.
const RETURN_LIMIT: Duration = Duration::from_secs(180);
const REFRESH: Duration = Duration::from_millis(250);

/// Whether the demo can be shown here.
///
/// # Errors
/// What is missing, and what to install.
pub(super) fn check(images: &Path) -> anyhow::Result<()> {
    let missing = images::missing(images);
    if !missing.is_empty() {
        let hint = format!("apt-get install {}", missing.join(" "));
        anyhow::bail!(
            "the demo of the stack runs real containers: this machine lacks {}; run  {hint}",
            missing.join(", ")
        );
    }
    if !nix::unistd::geteuid().is_root() {
        let why =
            "the demo of the stack starts container engines, which only root may: sudo meshd demo --stack";
        return Err(Failure::NotPermitted(why.into()).into());
    }
    Ok(())
}

/// Everything, from the images to the last namespace.
///
/// # Errors
/// What keeps the demo from being shown at all.
pub(super) fn perform(images: &Path, interrupt: &Interrupt, screen: &mut Screen) -> anyhow::Result<Promises> {
    let mut promises = Promises::default();
    screen.act("Images of ZooKeeper, MariaDB, InfluxDB, and HAProxy, from Debian's packages");
    images::build(images, interrupt, screen)?;
    screen.step(&format!("the images are in {}", images.display()));
    screen.act("Three nodes in three datacentres, each with meshd and a container engine of its own");
    let binary = std::env::current_exe().context("finding the own program")?;
    let mut scene = Scene::build(&binary).context("building the nodes")?;
    let ended_early = play(&mut scene, images, interrupt, screen, &mut promises).err();
    let taken_down = scene.take_down();
    let seen = taken_down.as_ref().map_or_else(ToString::to_string, |()| "nothing is left".to_owned());
    screen.promise(&promises.note("clean up", taken_down.is_ok(), seen));
    if let Some(error) = ended_early {
        screen.promise(&promises.note("show everything", false, format!("{error:#}")));
    }
    match promises.broken().count() {
        0 => screen.step("Everything that was promised was seen."),
        broken => screen.step(&format!("{broken} of the promises above were not kept.")),
    }
    Ok(promises)
}

fn play(
    scene: &mut Scene,
    images: &Path,
    interrupt: &Interrupt,
    screen: &mut Screen,
    promises: &mut Promises,
) -> anyhow::Result<()> {
    for (number, (name, datacenter)) in NODES.iter().enumerate() {
        screen.step(&format!("{name} in {datacenter}: {}", scene.host(number).address));
    }
    scene.load(images).context("loading the images")?;
    interrupt.check()?;

    screen.act("One file, one command");
    screen.step("n1$ meshd stack up");
    let started = Instant::now();
    let status = scene.stack(0, &["up"], |line| screen.line_now(line))?;
    screen.text(&indented(&status));
    let took = started.elapsed();
    let seen = format!("11 containers after {:.0} s", took.as_secs_f64());
    screen.promise(&promises.note("from nothing to a healthy stack with one command", true, seen));
    let started = Instant::now();
    let again = scene.stack(1, &["up"], |_| {})?;
    let seen = format!("{} (from n2, {:.1} s)", first_line(&again), started.elapsed().as_secs_f64());
    let nothing = again.starts_with("nothing to do");
    screen.promise(&promises.note("a second `up` has nothing to do", nothing, seen));
    interrupt.check()?;

    screen.act(
        "Clients: rows through HAProxy into MariaDB, a note in ZooKeeper, a measurement in both InfluxDBs",
    );
    prepare(scene, screen)?;
    let writer = Writer::start(scene.doors())?;
    writer.goes_on(RETURN_LIMIT)?;
    watch(&writer, BEFORE_KILL, interrupt, screen)?;

    screen.act("n1 loses its power: meshd, the engine, and all containers on it are gone at once");
    let killed = Instant::now();
    scene.power_off(VICTIM)?;
    // Whoever had taken the writes is gone: first a silence, then another one takes them.
    while writer.silent_for().is_none_or(|silence| silence > Duration::from_secs(1))
        || killed.elapsed() < BEFORE_KILL
    {
        watch(&writer, REFRESH, interrupt, screen)?;
        if killed.elapsed() > RECOVERY_LIMIT {
            break;
        }
    }
    watch(&writer, BEFORE_KILL, interrupt, screen)?;
    let gap = writer.gap_since(killed);
    let kept = gap <= RECOVERY_LIMIT && writer.silent_for().is_some_and(|silence| silence < BEFORE_KILL);
    let seen = format!(
        "{:.1} s without service, {} rows acknowledged",
        gap.as_secs_f64(),
        writer.acknowledged().len()
    );
    let promise = format!("MariaDB takes writes again within {} s", RECOVERY_LIMIT.as_secs());
    screen.promise(&promises.note(promise, kept, seen));
    without_the_node(scene, screen, promises)?;
    interrupt.check()?;

    screen.act("n1 has power again: its replicas come back by themselves, and catch up");
    scene.power_on(VICTIM)?;
    let started = Instant::now();
    let back = loop {
        let status = scene.stack(1, &["status"], |_| {}).unwrap_or_default();
        let ready = ["zookeeper  3/3", "mariadb  3/3", "influxdb  2/2", "haproxy  3/3"];
        let ready = ready.iter().all(|whole| status.lines().any(|line| line.starts_with(whole)));
        if ready {
            screen.text(&indented(&status));
            break true;
        }
        if started.elapsed() > RETURN_LIMIT {
            break false;
        }
        watch(&writer, REFRESH, interrupt, screen)?;
    };
    let seen = format!("after {:.0} s", started.elapsed().as_secs_f64());
    screen.promise(&promises.note("the node that was away is whole again", back, seen));
    let acknowledged = writer.acknowledged();
    for (number, (name, _)) in NODES.iter().enumerate() {
        let lost = Writer::lost(&acknowledged, &scene.rows(number)?);
        let seen = format!("{lost} of {} acknowledged rows lost", acknowledged.len());
        screen.promise(&promises.note(format!("{name} has every row"), lost == 0, seen));
    }
    Ok(())
}

/// The note and the measurement, as they are before the node dies.
fn prepare(scene: &Scene, screen: &mut Screen) -> anyhow::Result<()> {
    scene.zookeeper(0, &["create", "/demo", "written-through-n1"])?;
    // Telegraf writes to both, too: InfluxDB itself has no copies.
    for number in [0, 1] {
        let at = SocketAddr::new(scene.host(number).address, 8086);
        scene.http(0, at, "POST /query?q=CREATE+DATABASE+demo", "")?;
        scene.http(0, at, "POST /write?db=demo", "temperature,room=cellar celsius=12.5")?;
    }
    screen.step("written through n1; HAProxy sends the rows to the replica on n1");
    Ok(())
}

/// What is served while a node is away.
fn without_the_node(scene: &Scene, screen: &mut Screen, promises: &mut Promises) -> anyhow::Result<()> {
    let status = scene.stack(1, &["status"], |_| {})?;
    screen.text(&indented(&status));
    let kept = status.contains("mariadb  2/3 ready, can lose none")
        && status.contains("zookeeper  2/3 ready, can lose none");
    let seen = if kept { "two of three, can lose none" } else { "see above" };
    screen.promise(&promises.note("`meshd stack status` on n2 tells how near it is", kept, seen));
    let note = scene.zookeeper(2, &["get", "/demo"]).unwrap_or_default();
    let made = scene.zookeeper(1, &["create", "/demo/after", "x"]).unwrap_or_default();
    let kept = note.contains("written-through-n1") && made.contains("Created /demo/after");
    let seen = if kept { "it reads the note on n3, and takes another on n2" } else { "it does not answer" };
    screen.promise(&promises.note("ZooKeeper has its quorum", kept, seen));
    let at = SocketAddr::new(scene.host(2).address, INFLUX_PORT);
    let answer =
        scene.http(2, at, "GET /query?db=demo&q=SELECT+celsius+FROM+temperature", "").unwrap_or_default();
    let kept = answer.contains("12.5");
    let seen = if kept { "12.5 degrees, through HAProxy on n3 from the copy on n2" } else { "no answer" };
    screen.promise(&promises.note("InfluxDB still tells the measurement", kept, seen));
    Ok(())
}

/// Shows how the writing goes, for a while.
fn watch(writer: &Writer, time: Duration, interrupt: &Interrupt, screen: &mut Screen) -> anyhow::Result<()> {
    let start = Instant::now();
    while start.elapsed() < time {
        interrupt.check()?;
        let silence = writer.silent_for().unwrap_or_default();
        let rows = writer.acknowledged().len();
        screen.line_now(&format!(
            "{rows:6} rows acknowledged, the last one {:.1} s ago",
            silence.as_secs_f64()
        ));
        std::thread::sleep(REFRESH);
    }
    Ok(())
}

fn indented(text: &str) -> String {
    let lines =
        text.lines().map(|line| if line.is_empty() { "\n".to_owned() } else { format!("    {line}\n") });
    lines.collect()
}

fn first_line(text: &str) -> &str {
    text.lines().next().unwrap_or_default()
}
