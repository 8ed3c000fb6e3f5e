//! The tables of `status`, `peers`, `routes`, and `why`.

use std::fmt::Write;

use comfy_table::{Cell, CellAlignment, Color, ContentArrangement, Table, presets};

use super::{Style, units};
use crate::api::view::{
    Candidate, Exit, Happening, HappeningKind, Path, PathKind, Peer, PeerState, PortMapping, Route, Sandbox,
    Status,
};

/// `meshd status`.
pub fn status(status: &Status, style: Style) -> String {
    let node = &status.node;
    let mut text = String::new();
    let mut line = |key: &str, value: String| {
        if !value.is_empty() {
            // Writing to a string does not fail.
            let _ = writeln!(text, "{key:<11} {value}");
        }
    };
    line("node", format!("{} in mesh {}", node.name, node.mesh));
    line("addresses", join(&node.addresses));
    line("device", format!("{}, MTU {}", status.interface.name, status.interface.mtu));
    line("offload", format!("{} ({})", status.interface.offload, status.interface.offload_reason));
    line("lanes", format!("{} ({})", status.lanes.count, status.lanes.reason));
    line("sandbox", sandbox(&status.sandbox));
    line("listens on", join(&node.listen));
    line("endpoints", join(&node.endpoints));
    line("mapped port", port_mapping(&status.port_mapping));
    line("subnets", join(&node.subnets));
    line("datacentre", node.datacenter.clone().unwrap_or_default());
    line("relays", if node.relay { "yes".into() } else { String::new() });
    line("exit", exit(&status.exit));
    line("up for", units::span(node.uptime_s));
    line("peers", peer_counts(&status.peers));
    if !status.peers.is_empty() {
        text.push('\n');
        text.push_str(&peers(&status.peers, style));
    }
    for warning in &status.warnings {
        let _ = match style.colour {
            true => writeln!(text, "\n\x1b[33mwarning:\x1b[0m {warning}"),
            false => writeln!(text, "\nwarning: {warning}"),
        };
    }
    text
}

/// The port that the gateway leads here; nothing where none was asked.
fn port_mapping(mapping: &PortMapping) -> String {
    let Some(gateway) = mapping.gateway else { return String::new() };
    let note = if mapping.note.is_empty() { String::new() } else { format!(" ({})", mapping.note) };
    match (&mapping.endpoint, &mapping.protocol) {
        (Some(endpoint), Some(protocol)) => format!("{endpoint} by {protocol} of {gateway}{note}"),
        _ => format!("none by {gateway}{note}"),
    }
}

/// The way to the internet; nothing where that is none of the mesh's business.
fn exit(exit: &Exit) -> String {
    let for_others = exit.offered.then(|| "for others".to_owned());
    let through = exit.used.as_ref().map(|name| match exit.reachable {
        true => format!("through {name}"),
        false => format!("through {name}, which cannot be used now"),
    });
    for_others.into_iter().chain(through).collect::<Vec<_>>().join("; ")
}

/// The mode, and which parts are in force.
fn sandbox(sandbox: &Sandbox) -> String {
    let named = |wanted: bool| {
        let parts = sandbox.parts.iter().filter(|part| part.in_force == wanted);
        parts.map(|part| part.name.replace('_', " ")).collect::<Vec<_>>().join(", ")
    };
    match (sandbox.mode.as_str(), named(false)) {
        ("", _) => String::new(),
        (mode, missing) if missing.is_empty() => format!("{mode} ({})", named(true)),
        (mode, missing) => format!("{mode} ({}; not in force: {missing})", named(true)),
    }
}

/// `meshd peers`.
pub fn peers(peers: &[Peer], style: Style) -> String {
    let mut table = table(
        style,
        &["PEER", "STATE", "ADDRESS", "PATH", "RTT", "LOSS", "MTU", "RECEIVED", "SENT", "HANDSHAKE", "PQ"],
    );
    for column in [4, 5, 6, 7, 8, 9] {
        right_align(&mut table, column);
    }
    for peer in peers {
        let path = peer.path.as_ref();
        table.add_row(vec![
            Cell::new(&peer.name),
            coloured(peer.state.word(), state_colour(peer.state), style),
            Cell::new(peer.addresses.first().map(ToString::to_string).unwrap_or_default()),
            Cell::new(path.map(describe).unwrap_or_else(|| "-".into())),
            Cell::new(path.and_then(|path| path.rtt_ms).map_or_else(|| "-".into(), units::milliseconds)),
            Cell::new(path.map_or_else(|| "-".into(), |path| units::percent(path.loss))),
            Cell::new(path.map_or_else(|| "-".into(), |path| path.mtu.to_string())),
            Cell::new(units::bytes(peer.rx_bytes)),
            Cell::new(units::bytes(peer.tx_bytes)),
            Cell::new(
                peer.last_handshake_s.map_or_else(|| "-".into(), |age| format!("{} ago", units::span(age))),
            ),
            Cell::new(post_quantum(peer)),
        ]);
    }
    finish(&table)
}

/// Whether recorded traffic with a peer stays closed to quantum computers.
fn post_quantum(peer: &Peer) -> String {
    let word = match peer.post_quantum.as_deref() {
        Some("hybrid") => "yes",
        Some("pending") => "soon",
        Some(_) => "no",
        None => "-",
    };
    match peer.withheld {
        true => format!("{word}, withheld"),
        false => word.to_owned(),
    }
}

/// `meshd routes`.
pub fn routes(routes: &[Route], style: Style) -> String {
    let mut table = table(style, &["PREFIX", "LEADS TO", "WEIGHT", "STATE"]);
    right_align(&mut table, 2);
    for route in routes {
        for (number, owner) in route.owners.iter().enumerate() {
            let (word, colour) = match (owner.own, owner.used, owner.reachable) {
                (true, ..) => ("this node", Color::Green),
                (false, true, _) => ("used", Color::Green),
                (false, false, true) => ("standby", Color::Blue),
                (false, false, false) => ("unreachable", Color::Red),
            };
            let prefix = if number == 0 { route.prefix.to_string() } else { String::new() };
            table.add_row(vec![
                Cell::new(prefix),
                Cell::new(&owner.name),
                Cell::new(owner.weight),
                coloured(word, colour, style),
            ]);
        }
    }
    finish(&table)
}

/// `meshd why`.
pub fn candidates(candidates: &[Candidate], style: Style) -> String {
    let mut table =
        table(style, &["", "PATH", "KNOWN AS", "RTT", "JITTER", "LOSS", "MTU", "SCORE", "AGAIN IN", "WHY"]);
    for column in 3..=8 {
        right_align(&mut table, column);
    }
    let dash = || "-".to_owned();
    for candidate in candidates {
        table.add_row(vec![
            coloured(if candidate.used { "*" } else { "" }, Color::Green, style),
            Cell::new(way(candidate.kind, candidate.remote, &candidate.via)),
            Cell::new(&candidate.source),
            Cell::new(candidate.rtt_ms.map_or_else(dash, units::milliseconds)),
            Cell::new(candidate.jitter_ms.map_or_else(dash, units::milliseconds)),
            Cell::new(candidate.loss.map_or_else(dash, units::percent)),
            Cell::new(candidate.mtu.map_or_else(dash, |mtu| mtu.to_string())),
            Cell::new(candidate.score_ms.map_or_else(dash, units::milliseconds)),
            Cell::new(candidate.measured_again_ms.map_or_else(dash, units::milliseconds)),
            Cell::new(&candidate.reason),
        ]);
    }
    finish(&table)
}

/// `meshd events`: what happened, with how many seconds ago it was at `now_ms`.
pub fn events(events: &[Happening], now_ms: u64, style: Style) -> String {
    let mut table = table(style, &["AGO", "PEER", "WHAT", "FROM", "TO", "WHY"]);
    right_align(&mut table, 0);
    let text = |text: &Option<String>| text.clone().unwrap_or_else(|| "-".into());
    for event in events {
        let (word, colour) = match event.kind {
            HappeningKind::Connected => ("connected", Color::Green),
            HappeningKind::Disconnected => ("disconnected", Color::Red),
            HappeningKind::PathChanged => ("path", Color::Blue),
        };
        table.add_row(vec![
            Cell::new(units::span(now_ms.saturating_sub(event.at_ms) / 1000)),
            Cell::new(&event.peer),
            coloured(word, colour, style),
            Cell::new(text(&event.from)),
            Cell::new(text(&event.to)),
            Cell::new(text(&event.reason)),
        ]);
    }
    finish(&table)
}

/// `direct 192.0.2.1:4655`, `via a, b`.
pub fn describe(path: &Path) -> String {
    way(path.kind, path.remote, &path.via)
}

fn way(kind: PathKind, remote: Option<std::net::SocketAddr>, via: &[String]) -> String {
    let remote = remote.map(|remote| remote.to_string()).unwrap_or_default();
    let text = match kind {
        PathKind::Direct => format!("direct {remote}"),
        PathKind::Tcp => format!("tcp {remote}"),
        PathKind::Relay if via.is_empty() => format!("relay {remote}"),
        PathKind::Relay => format!("via {}", via.join(", ")),
    };
    text.trim_end().to_owned()
}

fn join<T: ToString>(items: &[T]) -> String {
    items.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ")
}

fn peer_counts(peers: &[Peer]) -> String {
    let states = [
        PeerState::Connected,
        PeerState::Connecting,
        PeerState::Idle,
        PeerState::Unreachable,
        PeerState::Expired,
    ];
    let counts: Vec<String> = states
        .into_iter()
        .map(|state| (state, peers.iter().filter(|peer| peer.state == state).count()))
        .filter(|(_, count)| *count > 0)
        .map(|(state, count)| format!("{count} {}", state.word()))
        .collect();
    if counts.is_empty() { "none: invite one with `meshd invite NAME`".into() } else { counts.join(", ") }
}

fn state_colour(state: PeerState) -> Color {
    match state {
        PeerState::Connected => Color::Green,
        PeerState::Connecting => Color::Yellow,
        PeerState::Idle => Color::Blue,
        PeerState::Unreachable | PeerState::Expired => Color::Red,
    }
}

pub(super) fn coloured(text: &str, colour: Color, style: Style) -> Cell {
    let cell = Cell::new(text);
    if style.colour { cell.fg(colour) } else { cell }
}

pub(super) fn table(style: Style, header: &[&str]) -> Table {
    let mut table = Table::new();
    table
        .load_style(presets::NOTHING)
        .set_content_arrangement(ContentArrangement::Disabled)
        .set_header(header);
    if style.colour {
        table.enforce_styling();
    } else {
        table.force_no_tty();
    }
    for column in table.column_iter_mut() {
        column.set_padding((0, 2));
    }
    table
}

pub(super) fn right_align(table: &mut Table, column: usize) {
    if let Some(column) = table.column_mut(column) {
        column.set_cell_alignment(CellAlignment::Right);
    }
}

/// The table's text, without the blanks that padding leaves at the ends of lines.
pub(super) fn finish(table: &Table) -> String {
    let mut text = String::new();
    for line in table.lines() {
        text.push_str(line.trim_end());
        text.push('\n');
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::api::view::{Interface, Node, Owner};

    fn peer(name: &str, state: PeerState, path: Option<Path>) -> Peer {
        Peer {
            name: name.into(),
            member_id: "0".repeat(32),
            addresses: vec!["10.99.0.2".parse().unwrap()],
            datacenter: None,
            relay: false,
            state,
            post_quantum: path.as_ref().map(|_| "hybrid".into()),
            withheld: false,
            path,
            rx_bytes: 1_500,
            tx_bytes: 20,
            last_handshake_s: Some(61),
            key_epoch: Some(1),
            version: None,
            subnets: vec![],
            paths: vec![],
        }
    }

    fn relayed() -> Path {
        Path {
            kind: PathKind::Relay,
            remote: Some("203.0.113.1:4655".parse().unwrap()),
            via: vec!["ams1".into(), "fra1".into()],
            rtt_ms: Some(12.34),
            loss: 0.25,
            mtu: 1380,
            suite: "chacha20-poly1305".into(),
        }
    }

    #[test]
    fn peers_line_up() {
        let list = [
            peer("b", PeerState::Connected, Some(relayed())),
            peer("long-name", PeerState::Unreachable, None),
        ];
        assert_eq!(
            peers(&list, Style::plain()),
            "PEER       STATE        ADDRESS    PATH                RTT  LOSS   MTU  RECEIVED  SENT  HANDSHAKE  PQ\n\
             b          connected    10.99.0.2  via ams1, fra1  12.3 ms  25 %  1380    1.5 kB  20 B   61 s ago  yes\n\
             long-name  unreachable  10.99.0.2  -                     -     -     -    1.5 kB  20 B   61 s ago  -\n"
        );
    }

    #[test]
    fn colours_only_where_asked() {
        let list = [peer("b", PeerState::Connected, None)];
        let colour = Style { colour: true, screen: true };
        assert!(peers(&list, colour).contains('\x1b'));
        assert!(!peers(&list, Style::plain()).contains('\x1b'));
    }

    #[test]
    fn routes_show_who_is_used() {
        let owner = |name: &str, used, reachable| Owner {
            name: name.into(),
            weight: 100,
            reachable,
            used,
            own: false,
        };
        let list = [Route {
            prefix: "192.168.7.0/24".parse().unwrap(),
            owners: vec![owner("b", true, true), owner("c", false, true)],
        }];
        let text = routes(&list, Style::plain());
        assert_eq!(text.lines().nth(1), Some("192.168.7.0/24  b            100  used"));
        assert_eq!(text.lines().nth(2), Some("                c            100  standby"));
    }

    #[test]
    fn a_status_without_peers_says_what_to_do() {
        let status_view = Status {
            exit: Default::default(),
            tcp: Default::default(),
            port_mapping: Default::default(),
            node: Node {
                name: "a".into(),
                member_id: "0".repeat(32),
                addresses: vec!["10.99.0.1".parse().unwrap()],
                datacenter: None,
                version: "0.1.0".into(),
                mesh: "home".into(),
                mesh_id: "0".repeat(32),
                relay: false,
                listen: vec![],
                endpoints: vec![],
                subnets: vec![],
                uptime_s: 5,
                certificate_expires_s: 0,
                key_epoch: 1,
            },
            interface: Interface {
                name: "mesh0".into(),
                mtu: 1380,
                offload: "checksum+tcp".into(),
                offload_reason: "granted by the kernel".into(),
            },
            lanes: Default::default(),
            sandbox: Default::default(),
            peers: vec![],
            warnings: vec!["look here".into()],
            drops: Default::default(),
            handshakes: Default::default(),
        };
        let text = status(&status_view, Style::plain());
        assert!(text.contains("peers       none: invite one") && !text.contains("mapped"), "{text}");
        let asked = PortMapping {
            gateway: Some("10.0.0.1".parse().unwrap()),
            note: "the gateway maps no port: it says no".into(),
            ..PortMapping::default()
        };
        let refused = Status { port_mapping: asked.clone(), ..status_view.clone() };
        let text = status(&refused, Style::plain());
        assert!(
            text.contains("mapped port none by 10.0.0.1 (the gateway maps no port: it says no)"),
            "{text}"
        );
        let given = PortMapping {
            protocol: Some("NAT-PMP".into()),
            endpoint: Some("192.0.2.7:4655".parse().unwrap()),
            note: String::new(),
            ..asked
        };
        let text = status(&Status { port_mapping: given, ..status_view.clone() }, Style::plain());
        assert!(text.contains("mapped port 192.0.2.7:4655 by NAT-PMP of 10.0.0.1"), "{text}");
        assert!(text.ends_with("\nwarning: look here\n"), "{text}");
    }
}
