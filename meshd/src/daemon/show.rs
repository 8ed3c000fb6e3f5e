//! The node's state as the control socket shows it.

use std::collections::BTreeMap;
use std::time::Duration;

use ipnet::IpNet;
use meshnet::dataplane::inner_mtu;
use meshnet::membership::{GRACE_S, Membership};
use meshnet::node::{Node, NodeStats, PeerState as State, PeerView, Warning};
use meshnet::path::{Change, Origin, PathId, PathView, Standing, Toll};
use meshnet::session::{DropReason, HandshakeStats};
use meshnet::time::Now;
use proto::endpoint::CandidateKind;
use proto::id::MemberId;

use super::lanes;
use crate::api::view::{
    Candidate, Carried, Decision, Interface, Lanes, Node as NodeInfo, Owner, Path, PathKind, PathTraffic,
    Peer, PeerState, Route, Status, Why,
};
use crate::output::units;

/// The status, as far as the node itself knows it.
pub(super) fn status(node: &Node, now: Now) -> Status {
    let view = node.view(now);
    Status {
        node: NodeInfo {
            name: view.name.to_string(),
            member_id: view.member.to_string(),
            addresses: view.addresses,
            datacenter: view.datacenter.map(|name| name.to_string()),
            version: env!("CARGO_PKG_VERSION").into(),
            mesh: view.mesh.to_string(),
            mesh_id: String::new(),
            relay: view.relays,
            listen: Vec::new(),
            endpoints: view.candidates,
            subnets: view.subnets.into_iter().map(|(prefix, _)| prefix).collect(),
            uptime_s: 0,
            certificate_expires_s: view.certificate_ends_s,
            key_epoch: view.key_epoch.0,
        },
        interface: Interface {
            name: String::new(),
            mtu: 0,
            offload: String::new(),
            offload_reason: String::new(),
        },
        tcp: Default::default(),
        port_mapping: Default::default(),
        exit: Default::default(),
        lanes: Lanes::default(),
        sandbox: Default::default(),
        peers: view.peers.iter().map(|view| peer(node, view)).collect(),
        warnings: view.warnings.iter().map(warning).collect(),
        drops: BTreeMap::new(),
        handshakes: BTreeMap::new(),
    }
}

/// The path that traffic to a member takes.
pub(super) fn path_to(node: &Node, now: Now, member: MemberId) -> Option<Path> {
    let view = node.peer_views(now).into_iter().find(|view| view.member == member)?;
    peer(node, &view).path
}

/// All routes, by prefix; the owner in use first.
pub(super) fn routes(node: &Node, now: Now) -> Vec<Route> {
    let mut routes: BTreeMap<IpNet, Vec<Owner>> = BTreeMap::new();
    for view in node.route_views(now) {
        routes.entry(view.prefix).or_default().push(Owner {
            name: view.owner.to_string(),
            weight: view.weight,
            reachable: view.reachable,
            used: view.chosen,
            own: view.own,
        });
    }
    let sorted = |(prefix, mut owners): (IpNet, Vec<Owner>)| {
        owners.sort_by_key(|owner| (!owner.used, !owner.reachable, owner.weight, owner.name.clone()));
        Route { prefix, owners }
    };
    routes.into_iter().map(sorted).collect()
}

/// All paths to a member; `None` if it is none, or this node.
pub(super) fn why(node: &Node, now: Now, member: MemberId) -> Option<Why> {
    let views = node.peer_views(now);
    let view = views.iter().find(|view| view.member == member)?;
    let name_of = |relay| name_of(node.membership(), relay);
    let chosen = view.paths.iter().find(|path| path.standing == Standing::Chosen);
    let mut views: Vec<&PathView> = view.paths.iter().collect();
    views.sort_by_key(|path| (path.standing != Standing::Chosen, path.score_us.unwrap_or(u64::MAX)));
    let paths = views.into_iter().map(|path| candidate(now, path, chosen, &name_of)).collect();
    let decision = view.decision.map(|decision| Decision {
        reason: change(decision.reason),
        since_s: (decision.age.as_secs_f64() * 10.0).round() / 10.0,
        looked_at_again_ms: decision.next_look.map(|span| (span.as_secs_f64() * 1e3).round()),
    });
    Some(Why { peer: peer(node, view), paths, decision })
}

/// A member's name, or its id.
pub(super) fn name_of(membership: &Membership, member: MemberId) -> String {
    let known = membership.get(member).map(|member| member.name().to_string());
    known.unwrap_or_else(|| member.to_string())
}

/// Why a path was chosen, in words.
pub(super) fn change(reason: Change) -> String {
    match reason {
        Change::First => "the first that worked".into(),
        Change::Died => "the one before died".into(),
        Change::Doubted => "the one before left probes unanswered".into(),
        Change::Barren => "the one before answered probes, but did not deliver what was sent".into(),
        Change::Kind => "it needs no relay, or stays inside the LAN".into(),
        Change::Better(by_us) => format!("better by {}", units::milliseconds(by_us as f64 / 1000.0)),
        Change::Forbidden => "the one before may not be used any more".into(),
    }
}

/// What the data plane has carried, in all and by lane.
pub(super) fn lanes(lanes: &lanes::Lanes, reason: &str) -> Lanes {
    let by_lane = lanes.by_lane();
    // Read once, so that the parts make the whole.
    let total = carried(&lanes::Counters::sum(by_lane.iter().chain([lanes.control()])));
    let each: Vec<Carried> = by_lane.iter().map(carried).collect();
    let (count, receivers) = (each.len(), lanes.receivers());
    let reason = match count == receivers {
        true => reason.to_owned(),
        false => format!("{reason}; one receives for all: the kernel cannot steer datagrams by lane"),
    };
    Lanes { count, receivers, reason, total, each }
}

fn carried(counters: &lanes::Counters) -> Carried {
    let counters: BTreeMap<String, u64> =
        counters.work().map(|(name, count)| (name.to_owned(), count)).collect();
    let ratio = |of: &str, to: &str| match (counters.get(of), counters.get(to)) {
        (Some(&of), Some(&to)) if to > 0 => of as f64 / to as f64,
        _ => 0.0,
    };
    Carried {
        tx_batch_packets: ratio("tx_packets", "tx_batches"),
        rx_batch_datagrams: ratio("rx_datagrams", "rx_batches"),
        tx_super_share: ratio("tx_super_packets", "tx_packets"),
        rx_super_share: ratio("rx_super_packets", "device_writes"),
        counters,
    }
}

/// What handshakes did since the start.
pub(super) fn handshakes(stats: &HandshakeStats) -> BTreeMap<String, u64> {
    let counters = [
        ("inits_sent", stats.inits_sent),
        ("hybrid", stats.hybrid),
        ("kem_keys_sent", stats.kem_keys_sent),
        ("kem_answers_sent", stats.kem_answers_sent),
        ("kem_refused", stats.kem_refused),
        ("inits_opened", stats.inits_opened),
        ("inits_accepted", stats.inits_accepted),
        ("duplicates", stats.duplicates),
        ("challenges_sent", stats.challenges_sent),
        ("challenges_received", stats.challenges_received),
        ("cookies_sent", stats.cookies_sent),
        ("cookies_received", stats.cookies_received),
        ("stale_keys_sent", stats.stale_keys_sent),
        ("stale_keys_received", stats.stale_keys_received),
        ("completed", stats.completed),
        ("gave_up", stats.gave_up),
        ("dh_operations", stats.dh_operations),
    ];
    counters.into_iter().map(|(name, count)| (name.to_owned(), count)).collect()
}

/// What was dropped in the control plane, by reason.
pub(super) fn drops(stats: &NodeStats, handshakes: &HandshakeStats) -> BTreeMap<String, u64> {
    let control = [
        ("control_packets_dropped", stats.packets_dropped),
        ("control_transmits_dropped", stats.transmits_dropped),
        ("control_bad_frames", stats.bad_frames),
        ("control_frames_over_budget", stats.frames_over_budget),
        ("control_objects_refused", stats.objects_refused),
        ("control_strangers", stats.strangers),
        ("control_joins_dropped", stats.joins_dropped),
    ];
    let handshakes = DropReason::ALL
        .into_iter()
        .map(|reason| (format!("handshake_{}", reason.name()), handshakes.dropped(reason)));
    control.into_iter().map(|(name, count)| (name.to_owned(), count)).chain(handshakes).collect()
}

pub(super) fn peer(node: &Node, view: &PeerView) -> Peer {
    let path = view.path.as_ref().map(|path| Path {
        kind: match path.via.is_empty() {
            true if path.by_stream => PathKind::Tcp,
            true => PathKind::Direct,
            false => PathKind::Relay,
        },
        remote: Some(path.remote),
        via: path.via.iter().map(ToString::to_string).collect(),
        rtt_ms: milliseconds(path.rtt),
        loss: f64::from(path.loss),
        mtu: path.mtu.into(),
        suite: path.suite.name().to_owned(),
    });
    Peer {
        name: view.name.to_string(),
        member_id: view.member.to_string(),
        addresses: view.addresses.clone(),
        datacenter: view.datacenter.as_ref().map(ToString::to_string),
        relay: view.relays,
        state: match view.state {
            State::Direct | State::Relayed => PeerState::Connected,
            State::Connecting => PeerState::Connecting,
            State::Idle => PeerState::Idle,
            State::Unreachable => PeerState::Unreachable,
            State::Expired => PeerState::Expired,
        },
        path,
        rx_bytes: view.rx_bytes,
        tx_bytes: view.tx_bytes,
        last_handshake_s: view.last_handshake.map(|age| age.as_secs()),
        key_epoch: view.key_epoch.map(|epoch| epoch.0),
        post_quantum: view.quantum.map(|quantum| quantum.word().to_owned()),
        withheld: view.withheld,
        version: view.version.clone(),
        subnets: view.subnets.iter().map(|(prefix, _)| *prefix).collect(),
        paths: view.paths.iter().filter_map(|path| traffic(node, path)).collect(),
    }
}

/// What a path has carried; `None` if that is nothing.
fn traffic(node: &Node, path: &PathView) -> Option<PathTraffic> {
    let PathView { tx_bytes, rx_bytes, .. } = *path;
    let (kind, remote, via) = match path.id {
        PathId::Direct { socket, remote } if socket.is_stream() => (PathKind::Tcp, Some(remote), Vec::new()),
        PathId::Direct { remote, .. } => (PathKind::Direct, Some(remote), Vec::new()),
        PathId::Relay { relay } => (PathKind::Relay, None, vec![name_of(node.membership(), relay)]),
    };
    (tx_bytes + rx_bytes > 0).then_some(PathTraffic { kind, remote, via, tx_bytes, rx_bytes })
}

fn candidate(
    now: Now,
    path: &PathView,
    chosen: Option<&PathView>,
    name_of: &impl Fn(MemberId) -> String,
) -> Candidate {
    let (kind, remote, via) = match path.id {
        PathId::Direct { socket, remote } if socket.is_stream() => (PathKind::Tcp, Some(remote), Vec::new()),
        PathId::Direct { remote, .. } => (PathKind::Direct, Some(remote), Vec::new()),
        PathId::Relay { relay } => (PathKind::Relay, None, vec![name_of(relay)]),
    };
    let quality = path.quality;
    Candidate {
        kind,
        remote,
        via,
        source: source(path).into(),
        used: path.standing == Standing::Chosen,
        rtt_ms: quality.and_then(|quality| milliseconds(quality.rtt())),
        jitter_ms: quality.and_then(|quality| milliseconds(quality.jitter())),
        loss: quality.map(|quality| f64::from(quality.loss())),
        mtu: path.len_is_proven.then(|| inner_mtu(path.datagram_len, !path.id.is_direct()).into()),
        score_ms: path.score_us.map(|us| us as f64 / 1000.0),
        measured_again_ms: (path.standing != Standing::Forbidden)
            .then(|| (path.next_probe.since(now.mono).as_secs_f64() * 1e3).round()),
        tx_bytes: path.tx_bytes,
        rx_bytes: path.rx_bytes,
        reason: reason(now, path, chosen),
    }
}

/// How a path became known, in words.
fn source(path: &PathView) -> &'static str {
    match path.origin {
        _ if path.on_lan => "announced on the LAN",
        Origin::Heard | Origin::Lan => "heard from there",
        Origin::Announced(CandidateKind::Configured) => "its configured endpoint",
        Origin::Announced(CandidateKind::Interface) => "an address of its interfaces",
        Origin::Announced(CandidateKind::Reflexive) => "where others see it",
        Origin::Announced(CandidateKind::Mapped) => "mapped by its gateway",
        Origin::Announced(CandidateKind::Tcp) => "its TCP listener",
        Origin::Announced(CandidateKind::Tls) => "its TLS listener",
        Origin::Relay => "a relay of both",
        Origin::Predicted => "a port that its NAT may give",
    }
}

fn reason(now: Now, path: &PathView, chosen: Option<&PathView>) -> String {
    let behind = || match (path.score_us, chosen.and_then(|chosen| chosen.score_us)) {
        (Some(own), Some(best)) if own > best => {
            format!("scores {} worse than the one in use", units::milliseconds((own - best) as f64 / 1000.0))
        }
        (Some(_), Some(_)) => "scores better, but not by enough or for long enough to change over".into(),
        _ => "not measured yet".into(),
    };
    let standing = match path.standing {
        Standing::Chosen => "in use: the best score".into(),
        Standing::Shares => "carries a share of the flows: about as good as the one in use".into(),
        Standing::Warm => format!("kept warm as the next one: {}", behind()),
        Standing::Worse => behind(),
        Standing::Suspect => format!("in doubt: {} probes without answer", path.misses),
        Standing::Barren => "it answers probes, but what was sent over it did not arrive".into(),
        Standing::Dead => format!("dead: it worked once, but {} probes got no answer", path.misses),
        Standing::Unproven => "no probe has ever been answered".into(),
        Standing::Forbidden => "not to be used: the configuration says so".into(),
    };
    let Toll { load, leaves } = path.toll;
    let busy = (load > 0).then(|| format!("its relay says that it is busy ({load}/8)"));
    let leaves = leaves.then(|| "its relay is outside the datacentre that both are in".to_owned());
    let shown = matches!(path.standing, Standing::Warm | Standing::Worse);
    let rests = path.rests_until.filter(|_| shown).map(|until| {
        let seconds = until.since(now.mono).as_secs().max(1);
        format!("it was given up lately, and is not taken again for {seconds} s while others work")
    });
    [Some(standing), busy, leaves, rests].into_iter().flatten().collect::<Vec<_>>().join("; ")
}

fn warning(warning: &Warning) -> String {
    match warning {
        Warning::Clash { loser, holder, over: Some(address) } => {
            format!("{loser} and {holder} are both certified for {address}; {holder} has it")
        }
        Warning::Clash { loser, holder, over: None } if loser == holder => {
            format!("two members are certified for the name {loser}; one of them is not found by name")
        }
        Warning::Clash { loser, holder, over: None } => {
            format!("{loser} and {holder} are certified for the same name; {holder} has it")
        }
        Warning::CertificateEnds { seconds_left } => match u64::try_from(*seconds_left) {
            Ok(left) => format!(
                "this node's certificate ends in {}, and nobody could renew it: bring back an issuer or the authority's key",
                units::span(left)
            ),
            Err(_) => ended(seconds_left.unsigned_abs()),
        },
        Warning::SubnetNotCertified(prefix) => {
            format!("{prefix} is configured, but this node's certificate does not allow to announce it")
        }
        Warning::NoRelayRole => {
            "relay = true is configured, but this node's certificate lacks the role; it does not relay".into()
        }
        Warning::NoSuchMember(name) => {
            format!("the configuration says something about paths to or through {name}, which is no member")
        }
        Warning::NotPostQuantum { peer, required_here: true } => format!(
            "packets to and from {peer} are withheld: `pq` is \"require\" here, and off at {peer} or unknown to its meshd"
        ),
        Warning::NotPostQuantum { peer, required_here: false } => format!(
            "packets to and from {peer} are withheld: it requires post-quantum sessions, and `pq` is \"off\" here"
        ),
        Warning::NoExitRole => {
            "exit = true is configured, but this node's certificate lacks the role: it takes nobody to the internet".into()
        }
        Warning::NoSuchExit(name) => format!(
            "{name} is to be the way to the internet, but is no member that offers it: nothing gets out (`meshd exit`)"
        ),
        Warning::Revoked => "this node was revoked, and is no member of the mesh any more: to come back it joins again, with a \
             new invitation and an empty state directory"
            .into(),
        Warning::Alone => "no other member can be reached".into(),
    }
}

/// What follows from the end of the own certificate, so many seconds ago.
pub(super) fn ended(ago_s: u64) -> String {
    let ago = units::span(ago_s);
    match GRACE_S.checked_sub(ago_s) {
        Some(left) => format!(
            "this node's certificate ended {ago} ago, and the others take this node for a member for {} more: bring back an \
             issuer or the authority's key",
            units::span(left)
        ),
        None => format!(
            "this node's certificate ended {ago} ago, and so it is no member of the mesh any more: to come back it joins \
             again, with a new invitation and an empty state directory"
        ),
    }
}

fn milliseconds(span: Duration) -> Option<f64> {
    // Microseconds are as fine as it is measured.
    (!span.is_zero()).then(|| (span.as_secs_f64() * 1e6).round() / 1e3)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_warning_says_what_is_wrong() {
        let name = |text| proto::id::Name::new(text).unwrap();
        let address = "10.9.0.1".parse().unwrap();
        for (given, expected) in [
            (
                Warning::Clash { loser: name("b"), holder: name("a"), over: Some(address) },
                "10.9.0.1; a has it",
            ),
            (Warning::CertificateEnds { seconds_left: 7_200 }, "ends in 2 h, and nobody could"),
            (Warning::CertificateEnds { seconds_left: -7_200 }, "ended 2 h ago, and the others take this"),
            (Warning::CertificateEnds { seconds_left: -13 * 86_400 }, "for a member for 24 h more"),
            (Warning::CertificateEnds { seconds_left: -15 * 86_400 }, "no member of the mesh any more"),
            (Warning::SubnetNotCertified("10.0.0.0/8".parse().unwrap()), "10.0.0.0/8 is configured"),
            (Warning::NoRelayRole, "lacks the role"),
            (Warning::NotPostQuantum { peer: name("b"), required_here: true }, "off at b"),
            (Warning::NotPostQuantum { peer: name("b"), required_here: false }, "`pq` is \"off\" here"),
            (Warning::NoSuchMember(name("b")), "through b, which is no member"),
            (Warning::NoExitRole, "lacks the role"),
            (Warning::NoSuchExit(name("b")), "nothing gets out"),
            (Warning::Revoked, "this node was revoked"),
            (Warning::Alone, "no other member"),
        ] {
            assert!(warning(&given).contains(expected), "{}", warning(&given));
        }
    }

    #[test]
    fn times_are_rounded_to_microseconds_and_absent_before_the_first_measurement() {
        assert_eq!(milliseconds(Duration::ZERO), None);
        assert_eq!(milliseconds(Duration::from_nanos(1_234_567)), Some(1.235));
    }
}
