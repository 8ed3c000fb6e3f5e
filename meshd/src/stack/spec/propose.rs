//! `meshd stack init`: a commented specification for the mesh as it is now.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use super::{Member, NO_DATACENTER};
use crate::stack::definition::Arch;

/// Most members of a proposed quorum.
const MAX_QUORUM: usize = 5;

/// A proposal, and what could not be proposed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Proposal {
    /// The text of a `stack.toml`.
    pub text: String,
    /// What an operator should know.
    pub notes: Vec<String>,
}

/// Proposes a stack called `name` for these members.
pub fn propose(name: &str, members: &[Member]) -> Proposal {
    let mut notes = Vec::new();
    let able: Vec<&Member> =
        members.iter().filter(|member| matches!(member.arch, Some(Arch::Amd64 | Arch::Arm64))).collect();
    for member in members.iter().filter(|member| member.arch.is_none()) {
        notes.push(format!("{} is left out: its agent does not answer", member.name));
    }
    let everywhere = able.iter().all(|member| member.arch == Some(Arch::Amd64));
    let quorum = spread(&able, MAX_QUORUM);
    let amd64: Vec<&Member> =
        able.iter().copied().filter(|member| member.arch == Some(Arch::Amd64)).collect();
    let masters = spread(&amd64, MAX_QUORUM);
    let mut text = String::new();
    head(&mut text, name, members);
    if quorum.len() < 3 {
        notes.push(format!(
            "{} nodes can hold quorums; three are the least that survive the loss of one. ZooKeeper and MariaDB are left out",
            able.len()
        ));
    } else {
        let sites = sites(&quorum);
        if sites.len() == 2 {
            notes.push("there are two datacentres: no quorum survives the loss of the larger one. A third, even of one node, helps".into());
        }
        section(&mut text, "zookeeper", &quorum, &["more than half of these must live"]);
    }
    if masters.len() >= 3 {
        section(&mut text, "mesos-master", &masters, &["amd64 only: name your own image for other machines"]);
        let all = ["tasks run on these; each gets the attributes dc, arch, and node"];
        write_all(&mut text, "mesos-agent", &all, Some("[\"amd64\"]").filter(|_| !everywhere));
        section(
            &mut text,
            "marathon",
            &masters[..3.min(masters.len())],
            &["one leads, the others take over"],
        );
        write_all(&mut text, "mesos-dns", &[], Some("[\"amd64\"]").filter(|_| !everywhere));
        section(&mut text, "marathon-lb", &spread(&amd64, 2), &["what the world comes in through"]);
    } else if quorum.len() >= 3 {
        notes.push(
            "fewer than three amd64 nodes: Mesos and Marathon are left out, meshd places the services itself"
                .into(),
        );
    }
    if quorum.len() >= 3 {
        section(&mut text, "mariadb", &quorum[..3], &["passwords are generated; see [secrets] for your own"]);
    }
    let pair = spread(&able, 2);
    if !pair.is_empty() {
        section(&mut text, "influxdb", &pair, &["every measurement is written to each of them"]);
        write_all(&mut text, "telegraf", &["measures every node, armv7 too"], None);
    }
    if quorum.len() >= 3 {
        section(&mut text, "grafana", &pair, &[]);
    }
    if able.len() >= 4 {
        let nodes = spread(&able, 4);
        section(&mut text, "minio", &nodes, &["4 to 16 nodes; their number cannot be changed later"]);
    }
    Proposal { text, notes }
}

fn head(text: &mut String, name: &str, members: &[Member]) {
    let _ = writeln!(text, "# A stack for this mesh, proposed from the members that were there:");
    for member in members {
        let datacenter = member.datacenter.as_deref().unwrap_or("no datacentre");
        let arch = member.arch.map_or("its agent does not answer", Arch::word);
        let _ =
            writeln!(text, "#   {:<16} {:<16} {datacenter}, {arch}", member.name, member.address.to_string());
    }
    let _ = write!(
        text,
        "#
# Change it as you like, then:  meshd stack plan   shows what would be done
#                               meshd stack up     does it
# `meshd stack components` lists what there is, `meshd stack components NAME` its settings. docs/stack.md tells the rest.

name = \"{name}\"

# Secrets are generated where they are needed unless you give your own:
# [secrets]
# mariadb-root = {{ file = \"mariadb-root.secret\" }}
"
    );
}

fn section(text: &mut String, name: &str, nodes: &[&Member], remarks: &[&str]) {
    let names: Vec<String> = nodes.iter().map(|member| format!("\"{}\"", member.name)).collect();
    let _ = writeln!(text);
    for remark in remarks {
        let _ = writeln!(text, "# {}", sentence(remark));
    }
    let _ = writeln!(text, "[components.{name}]\nnodes = [{}]", names.join(", "));
}

fn write_all(text: &mut String, name: &str, remarks: &[&str], architectures: Option<&str>) {
    let _ = writeln!(text);
    for remark in remarks {
        let _ = writeln!(text, "# {}", sentence(remark));
    }
    let _ = writeln!(text, "[components.{name}]\nnodes = \"all\"");
    if let Some(architectures) = architectures {
        let _ = writeln!(text, "architectures = {architectures}");
    }
}

fn sentence(remark: &str) -> String {
    let mut letters = remark.chars();
    letters.next().map(|first| first.to_uppercase().chain(letters).collect()).unwrap_or_default()
}

/// At most `most` members, an odd number of them if more than one is wanted for a quorum, taken from the datacentres in
/// turn, so that none has more than it must.
fn spread<'m>(able: &[&'m Member], most: usize) -> Vec<&'m Member> {
    let mut sites: Vec<Vec<&Member>> = sites(able).into_values().collect();
    sites.sort_by_key(|site| std::cmp::Reverse(site.len()));
    let mut chosen = Vec::new();
    for round in 0..able.len() {
        chosen.extend(sites.iter().filter_map(|site| site.get(round).copied()));
    }
    chosen.truncate(most);
    if most == MAX_QUORUM && chosen.len().is_multiple_of(2) {
        chosen.pop();
    }
    chosen
}

fn sites<'m>(members: &[&'m Member]) -> BTreeMap<&'m str, Vec<&'m Member>> {
    let mut sites: BTreeMap<&str, Vec<&Member>> = BTreeMap::new();
    for member in members {
        sites.entry(member.datacenter.as_deref().unwrap_or(NO_DATACENTER)).or_default().push(member);
    }
    sites
}
