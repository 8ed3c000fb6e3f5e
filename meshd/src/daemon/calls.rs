//! Answering requests from the control socket.

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use meshnet::io::clock;
use meshnet::node::Node;
use meshnet::time::Now;
use proto::endpoint::CandidateKind;
use proto::id::{MemberId, Name};
use tokio::sync::oneshot;
use tokio::time::Instant;

use super::service::Service;
use super::{graph, show, trust};
use crate::api::server::{Call, refuse};
use crate::api::view::Path;
use crate::api::{Answer, Identity, Pong, Request};
use crate::exit;
use crate::metrics;

/// Most pings that wait for their answers.
const MAX_PINGS: usize = 256;
/// Most relays whose endpoints go into an invitation.
const MAX_RELAYS: usize = 3;

impl Service {
    /// Answers a request from the control socket.
    pub(super) async fn answer(&mut self, call: Call) {
        let now = clock::now();
        let node = &self.parts.node;
        let answer = match call.request {
            Request::Status => {
                let mut status = self.status(now);
                status.drops.retain(|_, count| *count > 0);
                Answer::Status(Box::new(status))
            }
            Request::Metrics => Answer::Metrics { text: metrics::render(&self.status(now)) },
            Request::Routes => Answer::Routes { routes: show::routes(node, now) },
            Request::Why { peer } => match find(node, now, &peer) {
                Some(member) => show::why(node, now, member)
                    .map_or_else(|| unknown(&peer), |why| Answer::Why(Box::new(why))),
                None => unknown(&peer),
            },
            Request::Events { after } => Answer::Events { events: self.history.after(after) },
            Request::Graph => Answer::Graph(Box::new(graph::graph(node, now))),
            Request::Ping { peer, timeout_ms } => {
                return self.ping(now, &peer, Duration::from_millis(timeout_ms.into()), call.reply);
            }
            Request::Identify { address } => identify(node, now, address),
            Request::Reachability => Answer::Reachability {
                endpoints: reachability(node, |kind| !kind.is_stream()),
                tcp: reachability(node, |kind| kind == CandidateKind::Tcp),
                tls: reachability(node, |kind| kind == CandidateKind::Tls),
            },
            Request::Keys => Answer::Keys(Box::new(trust::keys(node, now))),
            Request::RotateKeys { stolen } => self.rotate_keys(now, stolen),
            Request::PlanKeys { without } => self.plan_keys(now, &without),
            Request::AbortPlan => self.abort_plan(now),
            Request::KeyPlan => Answer::Plan { plan: trust::plan(node, now).map(Box::new) },
            Request::Revoke(request) => self.revoke(now, &request),
            Request::Authority => self.authority(now),
            Request::RotateAuthority { patience_s, without } => {
                self.rotate_authority(now, patience_s, &without)
            }
            Request::AbortAuthority => self.abort_authority(now),
            Request::Chain => self.chain(),
            Request::RecoverAuthority { bundle } => self.recover_authority(now, &bundle),
            Request::Reload => match self.reload().await {
                Ok(notes) => Answer::Done { notes },
                Err(error) => refuse(exit::USAGE, error.to_string()),
            },
        };
        // A caller that has gone away needs no answer.
        let _ = call.reply.send(answer);
    }

    /// With every reason to drop, those that never occurred included.
    fn status(&self, now: Now) -> crate::api::Status {
        let parts = &self.parts;
        let mut status = show::status(&parts.node, now);
        status.node.listen = parts.lanes.sockets().iter().map(|group| group.first().local_addr()).collect();
        status.node.uptime_s = now.mono.since(self.started).as_secs();
        status.node.mesh_id = parts.home.chain.mesh().to_string();
        status.interface = crate::api::view::Interface {
            name: parts.network.name().to_owned(),
            mtu: parts.network.mtu().into(),
            offload: parts.network.offload().0.to_string(),
            offload_reason: parts.network.offload().1.to_string(),
        };
        let (exits, chosen) = (parts.node.exits(now), parts.config.exit_node.as_ref());
        let member = chosen.and_then(|name| parts.node.member_named(now, name));
        status.exit = crate::api::view::Exit {
            offered: parts.node.is_exit(now),
            used: chosen.map(ToString::to_string),
            reachable: exits.iter().any(|exit| exit.used)
                && member.is_some_and(|member| parts.node.is_reachable(member)),
            offered_by: exits.iter().map(|exit| exit.name.to_string()).collect(),
        };
        status.sandbox = parts.sandbox.view();
        status.port_mapping = parts.port_map.state();
        status.lanes = show::lanes(&parts.lanes, &parts.lanes_reason);
        let streams = parts.lanes.streams();
        status.tcp = crate::api::view::Tcp {
            connections: streams.len(),
            counters: streams.counted().into_iter().map(|(name, count)| (name.to_owned(), count)).collect(),
        };
        status.warnings.extend(parts.forwarding.warning(&parts.config));
        if let Some(hooks) = &parts.hooks {
            let [_, _, (_, dropped)] = hooks.counted();
            if hooks.is_gone() {
                status
                    .warnings
                    .push("the helper that runs the commands in [hooks] has ended: restart meshd".into());
            } else if dropped > 0 {
                let what =
                    format!("commands in [hooks] were not run for {dropped} events: they are too slow");
                status.warnings.push(what);
            }
        }
        if parts.store.is_failing() {
            status
                .warnings
                .push(format!("cannot write to {}: see the log", parts.home.state.path().display()));
        }
        let handshakes = parts.node.handshake_stats();
        status.handshakes = show::handshakes(&handshakes);
        status.drops = parts.lanes.losses();
        let hooks = parts.hooks.iter().flat_map(|hooks| hooks.counted());
        let lost = hooks.filter(|(name, _)| *name != "hooks_run");
        status.drops.extend(lost.map(|(name, count)| (name.to_owned(), count)));
        status.drops.extend(show::drops(&parts.node.stats(), &handshakes));
        status
    }

    fn ping(&mut self, now: Now, peer: &str, timeout: Duration, reply: oneshot::Sender<Answer>) {
        let Some(member) = find(&self.parts.node, now, peer) else {
            let _ = reply.send(unknown(peer));
            return;
        };
        let name = self.parts.node.membership().get(member).map(|member| member.name().to_string());
        let name = name.unwrap_or_else(|| member.to_string());
        if member == self.parts.node.member() {
            let _ = reply.send(refuse(exit::FAILED, format!("{name} is this node")));
            return;
        }
        let id = self.parts.node.ping(now, member);
        match id.filter(|_| self.pings.waiting.len() < MAX_PINGS) {
            Some(id) => {
                let waiting = Waiting { member, name, until: Instant::now() + timeout, reply };
                self.pings.waiting.insert(id, waiting);
            }
            None => {
                let _ = reply.send(refuse(exit::FAILED, format!("{name} cannot be pinged now")));
            }
        }
    }
}

/// Pings that wait for their answers, by number.
#[derive(Default)]
pub(super) struct Pings {
    waiting: BTreeMap<u32, Waiting>,
}

struct Waiting {
    member: MemberId,
    name: String,
    until: Instant,
    reply: oneshot::Sender<Answer>,
}

impl Pings {
    /// An answer came.
    pub(super) fn answer(&mut self, id: u32, rtt_us: u64, path: impl Fn(MemberId) -> Option<Path>) {
        if let Some(waiting) = self.waiting.remove(&id) {
            let path = path(waiting.member);
            let pong = Pong { peer: waiting.name, rtt_ms: Some(rtt_us as f64 / 1000.0), path };
            let _ = waiting.reply.send(Answer::Pong(pong));
        }
    }

    /// When the next ping has waited long enough.
    pub(super) fn due(&self) -> Option<Instant> {
        self.waiting.values().map(|waiting| waiting.until).min()
    }

    /// Gives up what has waited long enough.
    pub(super) fn expire(&mut self, now: Instant) {
        for (_, waiting) in self.waiting.extract_if(.., |_, waiting| waiting.until <= now) {
            let pong = Pong { peer: waiting.name, rtt_ms: None, path: None };
            let _ = waiting.reply.send(Answer::Pong(pong));
        }
    }
}

/// The member with this name, overlay address, or member id.
pub(super) fn find(node: &Node, now: Now, text: &str) -> Option<MemberId> {
    let by_name = Name::new(text).ok().and_then(|name| node.member_named(now, &name));
    let by_address = || node.member_at(now, &text.parse::<IpAddr>().ok()?);
    let by_id = || text.parse::<MemberId>().ok().filter(|member| node.membership().get(*member).is_some());
    by_name.or_else(by_address).or_else(by_id)
}

/// The members that are named so.
pub(super) fn find_all(node: &Node, now: Now, names: &[String]) -> Result<Vec<MemberId>, Box<Answer>> {
    names.iter().map(|name| find(node, now, name).ok_or_else(|| Box::new(unknown(name)))).collect()
}

/// The member whose certificate has this address.
fn identify(node: &Node, now: Now, address: IpAddr) -> Answer {
    let member = node.member_at(now, &address).and_then(|member| node.membership().get(member));
    match member.map(|member| member.certificate().body()) {
        Some(certificate) => Answer::Identity(Identity {
            name: certificate.name.to_string(),
            member_id: certificate.member.to_string(),
            key: crate::stack::definition::hex(&certificate.identity.0),
            roles: certificate.roles.names().map(str::to_owned).collect(),
        }),
        None => unknown(&address.to_string()),
    }
}

fn unknown(peer: &str) -> Answer {
    refuse(exit::FAILED, format!("no member has the name, address, or id {peer}: `meshd peers` lists them"))
}

/// Where a newcomer can ask for this node: at its own endpoints, and at relays that pass questions on. In turn one of
/// each, the best first, so that a few from the top serve newcomers wherever they are.
fn reachability(node: &Node, wanted: impl Fn(CandidateKind) -> bool) -> Vec<String> {
    let candidates = |member| {
        let record = node.lsdb().get(member).map(|entry| entry.view());
        let mut candidates = record.map(|record| record.candidates()).unwrap_or_default();
        candidates.retain(|candidate| wanted(candidate.kind));
        // What was configured or seen from outside serves more newcomers than addresses of a LAN.
        candidates.sort_by_key(|candidate| match candidate.kind {
            CandidateKind::Configured => 0,
            CandidateKind::Mapped => 1,
            CandidateKind::Reflexive => 2,
            CandidateKind::Interface | CandidateKind::Tcp | CandidateKind::Tls => 3,
        });
        candidates.into_iter().map(|candidate| candidate.endpoint).collect::<Vec<SocketAddr>>()
    };
    let relays = node.lsdb().iter().filter(|(_, entry)| entry.view().relays()).map(|(member, _)| member);
    let others = relays.filter(|member| *member != node.member()).take(MAX_RELAYS);
    let lists: Vec<Vec<SocketAddr>> = std::iter::once(node.member()).chain(others).map(candidates).collect();
    in_turn(&lists).into_iter().map(|endpoint| endpoint.to_string()).collect()
}

/// The first of each list, the second of each, and so on, without what has been before.
fn in_turn(lists: &[Vec<SocketAddr>]) -> Vec<SocketAddr> {
    let longest = lists.iter().map(Vec::len).max().unwrap_or(0);
    let mut merged = Vec::new();
    for round in 0..longest {
        for endpoint in lists.iter().filter_map(|list| list.get(round)) {
            if !merged.contains(endpoint) {
                merged.push(*endpoint);
            }
        }
    }
    merged
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn endpoints_are_taken_in_turn() {
        let endpoint = |text: &str| -> SocketAddr { text.parse().unwrap() };
        let (a, b, c) = (endpoint("10.0.0.1:1"), endpoint("10.0.0.2:1"), endpoint("10.0.0.3:1"));
        assert_eq!(in_turn(&[vec![a, b], vec![c, a], vec![]]), [a, c, b]);
        assert_eq!(in_turn(&[]), []);
    }
}
