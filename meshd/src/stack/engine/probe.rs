//! Asking a replica how it is, from its own node.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use bytes::Bytes;
use serde::{Deserialize, Serialize};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use super::Engine;
use crate::stack::actual::Probe;
use crate::stack::components::Check;
use crate::stack::http;

/// How long one question may take.
const PATIENCE: Duration = Duration::from_secs(5);
/// Most of an answer that is read, in bytes.
const MAX_ANSWER_BYTES: usize = 1 << 20;

/// The role of a Galera replica whose server answers, and that is in no primary component.
pub const NON_PRIMARY: &str = "non-primary";
/// The role of a Galera replica that catches up with a primary component.
pub const JOINING: &str = "joining";

/// The role of a Galera replica whose server answers and has given up its cluster, as after a failed transfer: only a restart
/// helps.
pub const DISCONNECTED: &str = "disconnected";

/// A replica and its checks.
#[derive(Serialize, Deserialize, Debug, Clone, PartialEq, Eq)]
pub struct Question {
    /// The component.
    pub component: String,
    /// The container's name.
    pub container: String,
    /// The ports by name.
    pub ports: BTreeMap<String, u16>,
    /// Whether the process lives.
    pub health: Check,
    /// Whether it does its work.
    pub ready: Check,
}

/// Asks the replica at `address`, wherever it runs.
pub async fn ask(engine: &Engine, address: IpAddr, question: &Question) -> Probe {
    let mut question = question.clone();
    // Mesos gives its containers names of its own.
    let stack =
        question.container.strip_prefix("meshd-").and_then(|rest| rest.strip_suffix(&question.component));
    if let Some(stack) = stack.map(|stack| stack.trim_end_matches('-'))
        && let Ok(names) = engine.names(stack, &question.component).await
        && let Some(name) = names.into_iter().next()
    {
        question.container = name;
    }
    ask_at(engine, address, &question).await
}

/// Asks the replica at `address`, whose container has the name that the question says.
pub async fn ask_at(engine: &Engine, address: IpAddr, question: &Question) -> Probe {
    let health = check(engine, address, question, &question.health).await;
    let mut probe = match &health {
        Err(Unready { why, .. }) => Probe { detail: why.clone(), ..Probe::default() },
        Ok(_) => match check(engine, address, question, &question.ready).await {
            Ok(said) => Probe { alive: true, ready: true, ..said },
            Err(Unready { why, role }) => {
                Probe { alive: true, detail: why, role: role.map(str::to_owned), ..Probe::default() }
            }
        },
    };
    probe.exposed = exposed(engine, address, &question.container).await;
    probe
}

/// Why a replica is not ready.
#[derive(Debug)]
struct Unready {
    why: String,
    /// What it says it is all the same.
    role: Option<&'static str>,
}

impl From<String> for Unready {
    fn from(why: String) -> Unready {
        Unready { why, role: None }
    }
}

/// Asks one thing: what it tells about itself, or why it is not as it should be.
async fn check(
    engine: &Engine,
    address: IpAddr,
    question: &Question,
    check: &Check,
) -> Result<Probe, Unready> {
    let at = |port: &str| {
        let number = question.ports.get(port).copied().ok_or_else(|| format!("there is no port {port}"))?;
        Ok::<_, String>(SocketAddr::new(address, number))
    };
    match check {
        Check::Tcp { port } => {
            connect(at(port)?).await?;
            Ok(Probe::default())
        }
        Check::Http { port, path, status } => {
            let (got, _, _) = get(at(port)?, path).await?;
            let right = status.map_or((200..300).contains(&got), |status| status == got);
            if right { Ok(Probe::default()) } else { Err(format!("{path} answers {got}").into()) }
        }
        Check::Zookeeper { port } => Ok(zookeeper(at(port)?).await?),
        Check::MesosMaster { port } => Ok(mesos_master(at(port)?).await?),
        Check::MesosAgent { port } => {
            let metrics = metrics(at(port)?).await?;
            if metrics.get("slave/registered") == Some(&1.0) {
                Ok(Probe { detail: "registered".into(), ..Probe::default() })
            } else {
                Err("it is not registered with a master".to_owned().into())
            }
        }
        Check::Marathon { port } => Ok(marathon(at(port)?, address).await?),
        Check::Exec { command } => {
            let (code, output) = engine
                .run_in(&question.container, command, PATIENCE)
                .await
                .map_err(|error| error.to_string())?;
            if code == 0 {
                Ok(Probe::default())
            } else {
                Err(format!("its check ends with {code}: {}", last_line(&output)).into())
            }
        }
        Check::Galera { command } => {
            let (code, output) = engine
                .run_in(&question.container, command, PATIENCE)
                .await
                .map_err(|error| error.to_string())?;
            if code == 0 {
                galera(&output)
            } else {
                Err(format!("its server does not answer: {}", last_line(&output)).into())
            }
        }
    }
}

/// `srvr` has a `Mode:` only with a quorum; `imok` comes without.
async fn zookeeper(at: SocketAddr) -> Result<Probe, String> {
    let answer = four_letters(at, "srvr").await?;
    let field = |name: &str| answer.lines().find_map(|line| line.strip_prefix(name)).map(str::trim);
    let Some(mode) = field("Mode:") else {
        return Err("it is in no quorum".into());
    };
    let version =
        field("Zookeeper version:").and_then(|text| text.split(['-', ',']).next()).map(str::to_owned);
    let role = if mode == "leader" { "leader" } else { "follower" };
    let mut detail = String::new();
    if role == "leader" {
        let metrics = four_letters(at, "mntr").await.unwrap_or_default();
        let synced = metrics.lines().find_map(|line| line.strip_prefix("zk_synced_followers"));
        if let Some(synced) = synced.and_then(|value| value.trim().parse::<f64>().ok()) {
            detail = format!("{synced:.0} follower{} in step", if synced == 1.0 { "" } else { "s" });
        }
    }
    Ok(Probe { role: Some(role.into()), version, detail, ..Probe::default() })
}

async fn four_letters(at: SocketAddr, word: &str) -> Result<String, String> {
    let mut stream = connect(at).await?;
    let exchange = async {
        stream.write_all(word.as_bytes()).await?;
        let mut text = Vec::new();
        (&mut stream).take(MAX_ANSWER_BYTES as u64).read_to_end(&mut text).await?;
        Ok::<_, std::io::Error>(String::from_utf8_lossy(&text).into_owned())
    };
    match tokio::time::timeout(PATIENCE, exchange).await {
        Ok(Ok(text)) => Ok(text),
        Ok(Err(error)) => Err(format!("{at}: {error}")),
        Err(_) => Err(format!("{at} does not answer {word}")),
    }
}

async fn mesos_master(at: SocketAddr) -> Result<Probe, String> {
    let metrics = metrics(at).await?;
    if metrics.get("registrar/log/recovered") != Some(&1.0) {
        return Err("its log is not recovered".into());
    }
    let leads = metrics.get("master/elected") == Some(&1.0);
    // 307 to the leader; 503 where there is none.
    let (status, _, _) = get(at, "/redirect").await?;
    if !(300..400).contains(&status) {
        return Err("no master leads".into());
    }
    let agents = metrics.get("master/slaves_active").copied().unwrap_or(0.0);
    let detail = if leads { format!("{agents:.0} agents") } else { String::new() };
    Ok(Probe { role: Some(if leads { "leader" } else { "follower" }.into()), detail, ..Probe::default() })
}

async fn metrics(at: SocketAddr) -> Result<BTreeMap<String, f64>, String> {
    let (status, body, _) = get(at, "/metrics/snapshot").await?;
    if status != 200 {
        return Err(format!("/metrics/snapshot answers {status}"));
    }
    let values: BTreeMap<String, serde_json::Value> =
        serde_json::from_slice(&body).map_err(|error| format!("/metrics/snapshot: {error}"))?;
    Ok(values.into_iter().filter_map(|(name, value)| Some((name, value.as_f64()?))).collect())
}

async fn marathon(at: SocketAddr, own: IpAddr) -> Result<Probe, String> {
    #[derive(Deserialize)]
    struct Leader {
        leader: String,
    }
    let (status, body, _) = get(at, "/v2/leader").await?;
    if status != 200 {
        return Err("it has no leader".into());
    }
    let leader: Leader = serde_json::from_slice(&body).map_err(|error| format!("/v2/leader: {error}"))?;
    let leads = leader.leader.parse::<SocketAddr>().map(|leader| leader.ip()) == Ok(own);
    Ok(Probe { role: Some(if leads { "leader" } else { "follower" }.into()), ..Probe::default() })
}

/// Reads `SHOW GLOBAL STATUS LIKE 'wsrep_%'`.
fn galera(output: &str) -> Result<Probe, Unready> {
    let status: BTreeMap<&str, &str> = output.lines().filter_map(|line| line.split_once('\t')).collect();
    let value = |name: &str| status.get(name).map(|value| value.trim()).unwrap_or_default();
    let position = value("wsrep_last_committed");
    if value("wsrep_cluster_status") == "Disconnected" {
        let why = "it has given up its cluster and must be restarted".to_owned();
        return Err(Unready { why, role: Some(DISCONNECTED) });
    }
    if value("wsrep_cluster_status") != "Primary" {
        let why = format!("it is in no primary component, position {position}");
        return Err(Unready { why, role: Some(NON_PRIMARY) });
    }
    let state = value("wsrep_local_state_comment");
    if state != "Synced" && state != "Donor/Desynced" {
        return Err(Unready { why: format!("it is {state}, not yet Synced"), role: Some(JOINING) });
    }
    let detail = format!("{} in the cluster, position {position}", value("wsrep_cluster_size"));
    let version = Some(value("wsrep_provider_version").to_owned()).filter(|version| !version.is_empty());
    Ok(Probe { role: Some("primary".into()), version, detail, ..Probe::default() })
}

async fn connect(at: SocketAddr) -> Result<TcpStream, String> {
    match tokio::time::timeout(PATIENCE, TcpStream::connect(at)).await {
        Ok(Ok(stream)) => Ok(stream),
        Ok(Err(error)) => Err(format!("nothing answers at {at}: {error}")),
        Err(_) => Err(format!("nothing answers at {at}")),
    }
}

/// A GET: the status, the body, and where a redirection leads.
async fn get(at: SocketAddr, path: &str) -> Result<(u16, Bytes, Option<String>), String> {
    let answer = http::get(at, path, PATIENCE).await.map_err(|error| error.to_string())?;
    Ok((answer.status, answer.body, answer.location))
}

/// Where the container listens outside the overlay and the loopback. Nothing is found where its processes cannot be seen.
async fn exposed(engine: &Engine, own: IpAddr, container: &str) -> Vec<String> {
    let processes = engine.processes(container).await;
    let mut inodes = BTreeSet::new();
    for process in &processes {
        for entry in std::fs::read_dir(format!("/proc/{process}/fd")).into_iter().flatten().flatten() {
            let link = std::fs::read_link(entry.path()).unwrap_or_default();
            if let Some(inode) =
                link.to_str().and_then(|link| link.strip_prefix("socket:[")?.strip_suffix(']'))
            {
                inodes.insert(inode.to_owned());
            }
        }
    }
    let Some(first) = processes.first() else { return Vec::new() };
    let mut found = BTreeSet::new();
    for table in ["tcp", "tcp6"] {
        let text = std::fs::read_to_string(format!("/proc/{first}/net/{table}")).unwrap_or_default();
        found.extend(listeners(&text, &inodes).into_iter().filter(|at| {
            let ip = at.ip().to_canonical();
            !ip.is_loopback() && ip != own
        }));
    }
    found.into_iter().map(|at| at.to_string()).collect()
}

/// The listening sockets of a table as in proc(5), `/proc/net/tcp`, that are among `inodes`.
fn listeners(table: &str, inodes: &BTreeSet<String>) -> Vec<SocketAddr> {
    let row = |line: &str| {
        let mut fields = line.split_whitespace();
        let (local, state) = (fields.nth(1)?, fields.nth(1)?);
        let inode = fields.nth(5)?;
        (state == "0A" && inodes.contains(inode)).then(|| address(local)).flatten()
    };
    table.lines().skip(1).filter_map(row).collect()
}

/// An address as the kernel prints it: each 32-bit word in the machine's own order.
fn address(text: &str) -> Option<SocketAddr> {
    let (host, port) = text.split_once(':')?;
    let port = u16::from_str_radix(port, 16).ok()?;
    let words: Option<Vec<[u8; 4]>> = (0..host.len() / 8)
        .map(|word| u32::from_str_radix(host.get(word * 8..word * 8 + 8)?, 16).ok().map(u32::to_ne_bytes))
        .collect();
    let bytes = words?.concat();
    let ip: IpAddr = match bytes.len() {
        4 => <[u8; 4]>::try_from(bytes).ok()?.into(),
        16 => <[u8; 16]>::try_from(bytes).ok()?.into(),
        _ => return None,
    };
    Some(SocketAddr::new(ip, port))
}

fn last_line(text: &str) -> &str {
    text.lines().map(str::trim).rfind(|line| !line.is_empty()).unwrap_or("it said nothing")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_kernels_tables_are_read() {
        let table = "  sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout inode\n\
             0: 0100420A:1F90 00000000:0000 0A 00000000:00000000 00:00000000 00000000     0        0 777 1 0 100 0 0 10 0\n\
             1: 00000000:0050 00000000:0000 0A 00000000:00000000 00:00000000 00000000     0        0 778 1 0 100 0 0 10 0\n\
             2: 00000000:0051 00000000:0000 01 00000000:00000000 00:00000000 00000000     0        0 778 1 0 100 0 0 10 0\n\
             3: 00000000:0052 00000000:0000 0A 00000000:00000000 00:00000000 00000000     0        0 999 1 0 100 0 0 10 0\n";
        let inodes = ["777".to_owned(), "778".to_owned()].into();
        let found: Vec<String> = listeners(table, &inodes).iter().map(ToString::to_string).collect();
        if cfg!(target_endian = "little") {
            assert_eq!(found, ["10.66.0.1:8080", "0.0.0.0:80"]);
        }
        assert_eq!(address("00000000000000000000000001000000:0016").map(|at| at.port()), Some(22));
        assert_eq!(address("zz:1"), None);
    }

    #[test]
    fn galera_is_ready_only_when_synced_in_a_primary_component() {
        let status = |cluster: &str, state: &str| {
            galera(&format!(
                "wsrep_cluster_status\t{cluster}\nwsrep_local_state_comment\t{state}\nwsrep_last_committed\t12\nwsrep_cluster_size\t3\n"
            ))
        };
        let probe = status("Primary", "Synced").unwrap();
        assert_eq!(
            (probe.role.as_deref(), probe.detail.as_str()),
            (Some("primary"), "3 in the cluster, position 12")
        );
        assert_eq!(
            status("non-Primary", "Initialized").unwrap_err().why,
            "it is in no primary component, position 12"
        );
        assert!(status("Primary", "Joining").is_err());
        assert_eq!(status("Disconnected", "Initialized").unwrap_err().role, Some(DISCONNECTED));
    }

    #[tokio::test(flavor = "current_thread")]
    async fn a_zookeeper_that_says_imok_without_a_quorum_is_not_ready() {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let at = listener.local_addr().unwrap();
        tokio::spawn(async move {
            // The words of a real server before and after it finds a quorum.
            for answer in [
                "This ZooKeeper instance is not currently serving requests\n",
                "Zookeeper version: 3.9.5-x, built on y\nMode: follower\n",
            ] {
                let (mut stream, _) = listener.accept().await.unwrap();
                let mut word = [0; 4];
                stream.read_exact(&mut word).await.unwrap();
                stream.write_all(answer.as_bytes()).await.unwrap();
            }
        });
        assert_eq!(zookeeper(at).await.unwrap_err(), "it is in no quorum");
        let probe = zookeeper(at).await.unwrap();
        assert_eq!((probe.role.as_deref(), probe.version.as_deref()), (Some("follower"), Some("3.9.5")));
    }
}
