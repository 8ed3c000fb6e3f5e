//! The acts of the demo, in order.

use std::time::{Duration, Instant};

use anyhow::Context;
use netlab::flow::{Flow, FlowShape};
use netlab::mesh::PathStatus;

use super::interrupt::{Interrupt, Interrupted};
use super::promise::Promises;
use super::scene::{Echoes, Expected, FOUNDER, NODES, Node, Paths, Scene, expected};
use super::screen::{Screen, Traffic, describe, ordered_pairs, upper};

/// How long the paths may take to become what they should be.
const CONVERGE_LIMIT: Duration = Duration::from_secs(25);

/// Traffic must go on this soon after its relay was killed.
const RECOVERY_LIMIT: Duration = Duration::from_secs(3);

/// How long the traffic runs before the relay is killed, and after.
const BEFORE_KILL: Duration = Duration::from_secs(3);
const AFTER_KILL: Duration = Duration::from_secs(6);

/// How often the screen is brought up to date.
const REFRESH: Duration = Duration::from_millis(250);

/// The numbered traffic.
const TRAFFIC: FlowShape = FlowShape { rate_pps: 1000, payload_bytes: 200 };

/// The port of the traffic's receiver.
const TRAFFIC_PORT: u16 = 7000;

/// The two ends of the traffic: in different datacentres, both behind a NAT.
const SENDER: &str = "a1";
const RECEIVER: &str = "b1";

/// Everything, from the first namespace to the last.
///
/// # Errors
/// What keeps the demo from being shown at all. What was promised and not seen is no error: see [`Promises`].
pub(super) fn perform(stay: bool, interrupt: &Interrupt, screen: &mut Screen) -> anyhow::Result<Promises> {
    let mut promises = Promises::default();
    let binary = std::env::current_exe().context("finding the own program")?;
    screen.act("Two datacentres, a home, and two public relays, in network namespaces of this machine");
    let mut scene = Scene::build(&binary).context("building the networks")?;
    let ended_early = play(&mut scene, stay, interrupt, screen, &mut promises).err();
    let taken_down = scene.take_down();
    let seen = taken_down.as_ref().map_or_else(ToString::to_string, |()| "nothing is left".to_owned());
    screen.promise(&promises.note("clean up", taken_down.is_ok(), seen));
    if let Some(error) = ended_early {
        screen.promise(&promises.note("show everything", false, format!("{error:#}")));
    }
    let broken = promises.broken().count();
    match broken {
        0 => screen.step("Everything that was promised was seen."),
        _ => screen.step(&format!("{broken} of the promises above were not kept.")),
    }
    Ok(promises)
}

fn play(
    scene: &mut Scene,
    stay: bool,
    interrupt: &Interrupt,
    screen: &mut Screen,
    promises: &mut Promises,
) -> anyhow::Result<()> {
    gather(scene, interrupt, screen, promises)?;
    converge(scene, interrupt, screen, promises)?;
    let killed = kill_relay(scene, interrupt, screen, promises)?;
    reconverge(scene, killed, interrupt, screen, promises)?;
    if stay {
        interrupt.disarm_clock();
        scene.start(killed).context("starting the relay again")?;
        linger(scene, interrupt, screen);
    }
    Ok(())
}

/// Act 1: one node founds the mesh, every other joins with one line.
fn gather(
    scene: &mut Scene,
    interrupt: &Interrupt,
    screen: &mut Screen,
    promises: &mut Promises,
) -> anyhow::Result<()> {
    screen.text(PLAN);
    screen.act("Every node joins with one line");
    let order = NODES.iter().filter(|node| node.relay).chain(NODES.iter().filter(|node| !node.relay));
    let mut joined = 0;
    for node in order.copied() {
        interrupt.check()?;
        if node.name == FOUNDER {
            found(scene, node, screen)?;
        } else {
            join(scene, node, screen)?;
            joined += 1;
        }
    }
    let seen = format!("{joined} joined {FOUNDER}, each with a URL that works once");
    screen.promise(&promises.note("every node joins with one line", joined == NODES.len() - 1, seen));
    Ok(())
}

const PLAN: &str = "
    dc-a  10.1.0.0/24   a1 a2   behind a symmetric NAT          ra  public relay 203.0.113.10
    dc-b  10.2.0.0/24   b1 b2   behind a symmetric NAT          rb  public relay 203.0.113.20
    home  10.3.0.0/24   home    behind a port-restricted NAT

";

fn found(scene: &mut Scene, node: Node, screen: &mut Screen) -> anyhow::Result<()> {
    let endpoint = Scene::endpoint(node).context("the founder is public")?;
    let arguments = ["init", "--mesh", "demo", "--name", node.name, "--relay", "--endpoint", &endpoint];
    let place = ["--datacenter", node.site.name()];
    let arguments = [arguments.as_slice(), &place].concat();
    screen.step(&format!("{}$ meshd {}", node.name, arguments.join(" ")));
    scene.member(node.name).ok(&arguments)?;
    scene.start(node)?;
    screen.step(&format!("{}$ meshd up", node.name));
    Ok(())
}

fn join(scene: &mut Scene, node: Node, screen: &mut Screen) -> anyhow::Result<()> {
    let role: &[&str] = if node.relay { &["--role", "relay"] } else { &[] };
    let url = scene.member(FOUNDER).invite(node.name, role)?;
    let endpoint = Scene::endpoint(node);
    let offer: Vec<&str> = endpoint.iter().flat_map(|endpoint| ["--relay", "--endpoint", endpoint]).collect();
    let arguments = [&["join", url.as_str(), "--datacenter", node.site.name()], offer.as_slice()].concat();
    scene.member(node.name).ok(&arguments)?;
    scene.start(node)?;
    let shown: String = url.chars().take(24).collect();
    screen.step(&format!(
        "{FOUNDER}$ meshd invite {:<5} {}$ meshd join {shown}... && meshd up",
        node.name, node.name
    ));
    Ok(())
}

/// Act 2: the paths become what the networks allow, and every node reaches every other.
fn converge(
    scene: &Scene,
    interrupt: &Interrupt,
    screen: &mut Screen,
    promises: &mut Promises,
) -> anyhow::Result<()> {
    screen.act("Paths: direct where the networks allow it, through a relay where they do not");
    let start = Instant::now();
    let (paths, echoes) = settle(scene, &NODES, CONVERGE_LIMIT, interrupt, screen)?;
    screen.pairs(&NODES, &paths, &echoes);
    let took = format!("{:.1} s", start.elapsed().as_secs_f64());
    note_echoes(&NODES, &echoes, &took, screen, promises);
    for (kind, promise) in [
        (Expected::Direct, "neighbours and relays are reached directly"),
        (Expected::Relayed, "across the NATs it goes through a relay"),
    ] {
        let of_kind: Vec<_> = upper(&NODES).filter(|(from, to)| expected(*from, *to) == kind).collect();
        let right = of_kind.iter().filter(|(from, to)| is_as_expected(*from, *to, &paths)).count();
        let seen = format!("{right} of {} pairs", of_kind.len());
        screen.promise(&promises.note(promise, right == of_kind.len(), seen));
    }
    Ok(())
}

/// Act 3: the relay that carries the traffic is killed.
fn kill_relay(
    scene: &mut Scene,
    interrupt: &Interrupt,
    screen: &mut Screen,
    promises: &mut Promises,
) -> anyhow::Result<Node> {
    screen.act("Killing the relay that carries the traffic (kill -9)");
    let path =
        scene.member(SENDER).wait_for_path(RECEIVER, Duration::from_secs(2), PathStatus::is_relayed)?;
    let used = NODES.into_iter().find(|node| node.relay && path.via.iter().any(|via| via == node.name));
    let used = used.with_context(|| format!("{SENDER} reaches {RECEIVER} {}", describe(&path)))?;
    let target = (scene.address(RECEIVER).context("the receiver is up")?, TRAFFIC_PORT).into();
    let flow =
        Flow::start(scene.member(SENDER).machine(), scene.member(RECEIVER).machine(), target, TRAFFIC)?;
    screen.step(&format!(
        "{SENDER} sends {RECEIVER} {} numbered packets a second {}",
        TRAFFIC.rate_pps,
        describe(&path)
    ));
    watch(scene, &flow, BEFORE_KILL, interrupt, screen)?;
    let killed_at = Instant::now();
    scene.member_mut(used.name).kill();
    screen.step(&format!("{}$ kill -9 meshd", used.name));
    watch(scene, &flow, AFTER_KILL, interrupt, screen)?;
    let report = flow.stop()?;
    let recovery = report.recovery(killed_at);
    let now = scene.member(SENDER).path_to(RECEIVER)?;
    let way = now.as_ref().map_or_else(|| "nowhere".to_owned(), describe);
    let seen = match recovery {
        Some(time) => format!(
            "{} of {} packets lost, whole again after {:.2} s (longest gap {} ms), now {way}",
            report.lost,
            report.sent,
            time.as_secs_f64(),
            report.longest_gap_ms()
        ),
        None => format!("{} of {} packets lost, and it did not come back", report.lost, report.sent),
    };
    let kept = recovery.is_some_and(|time| time <= RECOVERY_LIMIT) && report.received > 0;
    let promise = format!("traffic goes on within {} s", RECOVERY_LIMIT.as_secs());
    screen.promise(&promises.note(promise, kept, seen));
    Ok(used)
}

/// Act 4: what is left of the mesh still reaches all of itself.
fn reconverge(
    scene: &Scene,
    killed: Node,
    interrupt: &Interrupt,
    screen: &mut Screen,
    promises: &mut Promises,
) -> anyhow::Result<()> {
    screen.act(&format!("The mesh without {}", killed.name));
    let left: Vec<Node> = NODES.into_iter().filter(|node| *node != killed).collect();
    let start = Instant::now();
    let (paths, echoes) = settle(scene, &left, CONVERGE_LIMIT, interrupt, screen)?;
    screen.pairs(&left, &paths, &echoes);
    note_echoes(&left, &echoes, &format!("{:.1} s", start.elapsed().as_secs_f64()), screen, promises);
    Ok(())
}

/// With `--stay`: tells how to play, and waits for a signal.
fn linger(scene: &Scene, interrupt: &Interrupt, screen: &mut Screen) {
    screen.act("The mesh stays up until Ctrl-C");
    let pid = std::process::id();
    let own_user_namespace = std::env::var_os(netlab::access::INSIDE).is_some();
    for node in NODES {
        let member = scene.member(node.name);
        let enter = format!("ip netns exec {}", member.machine().namespace());
        let address = scene.address(node.name).map_or_else(|| "?".to_owned(), |address| address.to_string());
        screen.step(&format!("{:<5} {address:<12} {enter} bash", node.name));
    }
    let example = scene.member(SENDER);
    screen.text(&format!(
        "\n    from there:  ping {}\n    its daemon:  {} --state {} status\n",
        scene.address(RECEIVER).map_or_else(|| RECEIVER.to_owned(), |address| address.to_string()),
        std::env::current_exe().map_or_else(|_| "meshd".to_owned(), |path| path.display().to_string()),
        example.state().display(),
    ));
    if own_user_namespace {
        screen.text(&format!(
            "    before that: nsenter --target {pid} --user --preserve-credentials --mount --net bash\n"
        ));
    }
    while interrupt.check().is_ok() {
        std::thread::sleep(REFRESH);
    }
}

/// Shows the pairs until all is as expected, or the time is up.
fn settle(
    scene: &Scene,
    nodes: &[Node],
    limit: Duration,
    interrupt: &Interrupt,
    screen: &mut Screen,
) -> anyhow::Result<(Paths, Echoes)> {
    let start = Instant::now();
    loop {
        interrupt.check()?;
        let echoes = scene.ping_all(nodes)?;
        let paths = scene.paths(nodes);
        screen.pairs_now(nodes, &paths, &echoes);
        let answered = echoes.values().flatten().count() == ordered_pairs(nodes.len());
        let as_expected = upper(nodes).all(|(from, to)| is_as_expected(from, to, &paths));
        if (answered && as_expected) || start.elapsed() > limit {
            return Ok((paths, echoes));
        }
        std::thread::sleep(REFRESH);
    }
}

/// Shows the traffic for a while.
fn watch(
    scene: &Scene,
    flow: &Flow,
    time: Duration,
    interrupt: &Interrupt,
    screen: &mut Screen,
) -> Result<(), Interrupted> {
    let start = Instant::now();
    while start.elapsed() < time {
        interrupt.check()?;
        let progress = flow.progress();
        let traffic = Traffic {
            sent: progress.sent,
            received: progress.received,
            silent: progress.silent_for.unwrap_or_default(),
        };
        let path = scene.member(SENDER).path_to(RECEIVER).ok().flatten();
        screen.traffic_now(traffic, path.as_ref());
        std::thread::sleep(REFRESH);
    }
    Ok(())
}

fn note_echoes(nodes: &[Node], echoes: &Echoes, took: &str, screen: &mut Screen, promises: &mut Promises) {
    let (answered, all) = (echoes.values().flatten().count(), ordered_pairs(nodes.len()));
    let mut seen = format!("{answered} of {all} echoes came back, after {took}");
    let silent =
        echoes.iter().filter(|(_, echo)| echo.is_none()).map(|((from, to), _)| format!("{from} to {to}"));
    let silent: Vec<String> = silent.collect();
    if !silent.is_empty() {
        seen.push_str(&format!("; silent: {}", silent.join(", ")));
    }
    screen.promise(&promises.note("every node reaches every other", answered == all, seen));
}

fn is_as_expected(from: Node, to: Node, paths: &Paths) -> bool {
    let Some(Some(path)) = paths.get(&(from.name, to.name)) else { return false };
    match expected(from, to) {
        Expected::Direct => path.is_direct(),
        Expected::Relayed => path.is_relayed(),
    }
}
