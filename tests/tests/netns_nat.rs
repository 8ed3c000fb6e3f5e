//! Nodes behind every kind of translator, in namespaces: straight to each other wherever that is possible, and at once by a
//! relay or TCP elsewhere. The table in docs/nat.md is what `grid` prints.

use meshnet_tests::net::{
    PORT, SETTLE, admit, done, figure, flow, found, overlay, restart_with, wait_for_arrivals,
};
use netlab::mesh::{Member, PathStatus};
use netlab::{Lab, Machine, NatKind, Switch};
use serde_json::Value;
use std::collections::BTreeMap;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// Pairs that can be direct have to be so after this, on a machine that does a hundred other things.
const LIMIT: Duration = Duration::from_secs(15);

/// What is between a node and the others.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Kind {
    Open,
    Nat(NatKind),
    /// Two translators, one behind the other, which let in by port.
    Carrier,
    /// A translator that lets no datagram through.
    Blocked,
}

const GRID: [(&str, Kind); 7] = [
    ("none", Kind::Open),
    ("full", Kind::Nat(NatKind::FullCone)),
    ("restricted", Kind::Nat(NatKind::Restricted)),
    ("port", Kind::Nat(NatKind::PortRestricted)),
    ("symmetric", Kind::Nat(NatKind::Symmetric)),
    ("carrier", Kind::Carrier),
    ("blocked", Kind::Blocked),
];

/// What theory allows.
fn theory(a: Kind, b: Kind) -> &'static str {
    let symmetric = |kind| kind == Kind::Nat(NatKind::Symmetric);
    let by_port =
        |kind| symmetric(kind) || kind == Kind::Carrier || kind == Kind::Nat(NatKind::PortRestricted);
    match (a, b) {
        // Those without translator listen on TCP.
        (Kind::Blocked, Kind::Open) | (Kind::Open, Kind::Blocked) => "tcp",
        (Kind::Blocked, _) | (_, Kind::Blocked) => "relay",
        _ if symmetric(a) && by_port(b) || symmetric(b) && by_port(a) => "relay",
        _ => "direct",
    }
}

/// The internet with two relays that listen on TCP as well, and nodes around it.
struct World {
    lab: Lab,
    internet: Switch,
    relays: Vec<Member>,
    places: u8,
}

impl World {
    fn new() -> World {
        let lab = done(Lab::new());
        let internet = done(lab.switch("internet"));
        let mut relays: Vec<Member> = Vec::new();
        for number in 1..=2 {
            let machine = done(lab.machine(&format!("r{number}")));
            done(machine.plug(&internet, &[&format!("203.0.113.{number}/24")]));
            let endpoint = format!("203.0.113.{number}:{PORT}");
            let offer = ["--relay", "--endpoint", &endpoint];
            let mut relay = match relays.first() {
                None => found(&machine, &[&offer[..], &["--address", "172.30.0.1/16"]].concat()),
                Some(founder) => admit(founder, &machine, &["--role", "relay"], &offer),
            };
            restart_with(&mut relay, &format!("listen_tcp = [\"203.0.113.{number}:{PORT}\"]"));
            relays.push(relay);
        }
        World { lab, internet, relays, places: 0 }
    }

    /// A node of this name; it joins from where it is.
    fn node(&mut self, name: &str, kind: Kind) -> Member {
        self.places += 1;
        let place = self.places;
        let (outside, gateway) = (format!("203.0.113.{}/24", 10 + place), format!("10.0.{place}.254"));
        let machine = done(self.lab.machine(name));
        if kind == Kind::Open {
            done(machine.plug(&self.internet, &[&outside]));
            let mut member = admit(&self.relays[0], &machine, &[], &[]);
            restart_with(&mut member, &format!("listen_tcp = [\"203.0.113.{}:{PORT}\"]", 10 + place));
            return member;
        }
        let home = done(self.lab.switch(&format!("h{place}")));
        let inside = (&home, format!("{gateway}/24"));
        let nat = |name: &str, kind, inside: (&Switch, &str), outside: (&Switch, &str)| -> Machine {
            done(self.lab.nat(name, kind, inside, outside)).machine
        };
        let (nat_name, carrier_name) = (format!("nat{place}"), format!("cgn{place}"));
        match kind {
            Kind::Carrier => {
                let street = done(self.lab.switch(&format!("s{place}")));
                let (street_gateway, own) = (format!("100.64.{place}.254"), format!("100.64.{place}.1/24"));
                let at = format!("{street_gateway}/24");
                nat(&carrier_name, NatKind::PortRestricted, (&street, &at), (&self.internet, &outside));
                let router = nat(&nat_name, NatKind::PortRestricted, (inside.0, &inside.1), (&street, &own));
                done(router.default_route(&street_gateway));
            }
            Kind::Nat(kind) => drop(nat(&nat_name, kind, (inside.0, &inside.1), (&self.internet, &outside))),
            Kind::Open | Kind::Blocked => {
                let router = nat(
                    &nat_name,
                    NatKind::PortRestricted,
                    (inside.0, &inside.1),
                    (&self.internet, &outside),
                );
                done(router.nft(
                    "table inet wall {\nchain forw {\ntype filter hook forward priority -150;\n\
                     meta l4proto udp drop\n}\n}\n",
                ));
            }
        }
        done(machine.plug(&home, &[&format!("10.0.{place}.1/24")]));
        done(machine.default_route(&gateway));
        admit(&self.relays[0], &machine, &[], &[])
    }
}

fn now_ms() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_millis() as u64)
}

/// After how many milliseconds there was a path from a member to each of its peers, and a direct one.
fn times(member: &Member, since_ms: u64) -> BTreeMap<String, (Option<u64>, Option<u64>)> {
    let mut times: BTreeMap<String, (Option<u64>, Option<u64>)> = BTreeMap::new();
    for line in done(member.ok(&["events", "--json"])).lines() {
        let event: Value = done(serde_json::from_str(line));
        let at_ms = event["at_ms"].as_u64().unwrap_or_default();
        let (Some(peer), Some(to)) = (event["peer"].as_str(), event["to"].as_str()) else { continue };
        if at_ms < since_ms {
            continue;
        }
        let entry = times.entry(peer.to_owned()).or_default();
        entry.0.get_or_insert(at_ms - since_ms);
        if to.starts_with("direct") {
            entry.1.get_or_insert(at_ms - since_ms);
        }
    }
    times
}

/// Waits until the paths of a member are of these kinds, by peer.
fn wait_for(member: &Member, wanted: &[(String, &str)], others: &[Member]) {
    let waited = netlab::wait::until(&format!("the paths of {}", member.machine().name()), LIMIT, || {
        let peers = member.status().map_err(|error| error.to_string())?.peers;
        let path = |name: &String| peers.iter().find(|peer| peer.name == *name)?.path.clone();
        let wrong: Vec<String> = wanted
            .iter()
            .filter(|(name, kind)| path(name).is_none_or(|path| path.kind != *kind))
            .map(|(name, kind)| format!("{name} should be {kind}, is {:?}", path(name)))
            .collect();
        if wrong.is_empty() { Ok(()) } else { Err(wrong.join("; ")) }
    });
    let Err(error) = waited else { return };
    // Both ends' view of what they tried says more than that it was not reached.
    let mut views = Vec::new();
    for other in others.iter().filter(|other| error.to_string().contains(other.machine().name())) {
        for (at, to) in [(member, other), (other, member)] {
            let why = at.ok(&["why", to.machine().name()]).unwrap_or_default();
            views.push(format!("{}: {why}", at.machine().name()));
        }
    }
    panic!("{error}\n{}", views.join("\n"));
}

#[test]
fn grid() {
    let mut world = World::new();
    let mut nodes = |copy: &str| -> Vec<Member> {
        GRID.iter().map(|(name, kind)| world.node(&format!("{name}-{copy}"), *kind)).collect()
    };
    let (rows, columns) = (nodes("a"), nodes("b"));
    let everybody = rows.len() + columns.len() + 2;
    for member in rows.iter().chain(&columns) {
        done(netlab::wait::until_true("everybody to be known", SETTLE, || {
            member.status().is_ok_and(|status| status.peers.len() == everybody - 1)
        }));
    }
    for (member, (_, kind)) in rows.iter().chain(&columns).zip(GRID.iter().chain(&GRID)) {
        done(netlab::wait::until_true("nodes to know where they are seen", SETTLE, || {
            let status = member.json::<Value>(&["status"]).unwrap_or_default();
            *kind == Kind::Blocked || status["node"]["endpoints"].to_string().contains("203.0.113.")
        }));
    }
    let mut flows = Vec::new();
    for (row, from) in rows.iter().enumerate() {
        for to in &columns[row..] {
            let flow = flow(from, to, 20);
            flows.push((now_ms(), flow));
        }
    }
    for (row, from) in rows.iter().enumerate() {
        let wanted: Vec<(String, &str)> = (row..GRID.len())
            .map(|column| (columns[column].machine().name().to_owned(), theory(GRID[row].1, GRID[column].1)))
            .collect();
        wait_for(from, &wanted, &columns);
    }
    let mut flows = flows.into_iter();
    for (row, from) in rows.iter().enumerate() {
        let mut line = format!("| {} |", GRID[row].0);
        for column in 0..GRID.len() {
            if column < row {
                line.push_str(" |");
                continue;
            }
            let (began_ms, flow) = flows.next().expect("a flow for each pair");
            let report = done(flow.stop());
            assert!(report.received > 0, "{} to {}: {report}", GRID[row].0, GRID[column].0);
            let times = times(from, began_ms);
            let (first, direct) = times.get(columns[column].machine().name()).copied().unwrap_or_default();
            let word = theory(GRID[row].1, GRID[column].1);
            // Some have met before: members look for each other while no relay answers yet.
            let took = match (direct, first) {
                (Some(ms), _) => format!("{ms} ms"),
                (None, Some(ms)) if word != "direct" => format!("{ms} ms"),
                _ => "before".into(),
            };
            line.push_str(&format!(" {word}, {took} |"));
        }
        figure("NAT grid", line);
    }
}

#[test]
fn a_translator_that_counts_is_seen_through() {
    let mut world = World::new();
    let counting = world.node("counting", Kind::Nat(NatKind::Counting));
    let others = [("port", NatKind::PortRestricted), ("symmetric", NatKind::Symmetric)]
        .map(|(name, kind)| world.node(name, Kind::Nat(kind)));
    for member in [&counting, &others[0], &others[1]] {
        for relay in ["r1", "r2"] {
            done(member.wait_for_path(relay, SETTLE, PathStatus::is_direct));
        }
    }
    // Without a route the first of its packets would have nowhere to go.
    let prefix = format!("{}/32", overlay(&others[0]));
    done(netlab::wait::until("a route to the other one", SETTLE, || {
        let routes = done(counting.ok(&["routes"]));
        let leads_there = |line: &str| line.contains(&prefix) && line.ends_with("used");
        if routes.lines().any(leads_there) { Ok(()) } else { Err(routes) }
    }));
    let began_ms = now_ms();
    let flow = flow(&counting, &others[0], 50);
    done(counting.wait_for_path("port", LIMIT, PathStatus::is_direct));
    done(others[0].wait_for_path("counting", LIMIT, PathStatus::is_direct));
    let took = times(&counting, began_ms).get("port").copied().unwrap_or_default();
    let report = done(flow.stop());
    figure("NAT that counts to a port-restricted cone", format!("direct after {:?} ms, {report}", took.1));
    assert_eq!(report.lost, 0, "{report}");
    // Against random ports there is no help.
    done(counting.wait_for_ping(overlay(&others[1]), SETTLE));
    done(counting.wait_for_path("symmetric", SETTLE, PathStatus::is_relayed));
}

/// What a translator sends back in: datagrams from its inside to its own outside address. The port that an inside socket was
/// given is known from the map of a full cone.
fn hairpin(nat: &netlab::Nat, outside: &str) {
    let (inside, own) = (nat.inside.interface(), outside);
    done(nat.machine.nft(&format!(
        "add rule ip nat pre iifname \"{inside}\" ip daddr {own} meta l4proto udp dnat ip to udp dport map @mapped\n\
         add rule ip nat post iifname \"{inside}\" oifname \"{inside}\" ct status dnat masquerade\n"
    )));
}

#[test]
fn guests_that_do_not_see_each_other_meet_at_their_translators_outside_where_it_sends_back_in() {
    for sends_back in [true, false] {
        let world = World::new();
        let home = done(world.lab.switch("cafe"));
        let nat = done(world.lab.nat(
            "nat",
            NatKind::FullCone,
            (&home, "10.0.9.254/24"),
            (&world.internet, "203.0.113.99/24"),
        ));
        if sends_back {
            hairpin(&nat, "203.0.113.99");
        }
        let guests: Vec<Member> = (1..=2)
            .map(|number| {
                let machine = done(world.lab.machine(&format!("guest{number}")));
                done(machine.plug(&home, &[&format!("10.0.9.{number}/24")]));
                done(machine.default_route("10.0.9.254"));
                // What an access point does that keeps guests apart: only the gateway is there, and no multicast.
                done(machine.nft(
                    "table inet guests {\nchain out { type filter hook output priority 0; ip daddr 10.0.9.254 accept; \
                     ip daddr { 10.0.9.0/24, 224.0.0.0/4 } drop; ip6 daddr { fe80::/10, ff00::/8 } meta l4proto udp drop; }\n}\n",
                ));
                admit(&world.relays[0], &machine, &[], &[])
            })
            .collect();
        for guest in &guests {
            done(netlab::wait::until_true("guests to know where they are seen", SETTLE, || {
                let status = guest.json::<Value>(&["status"]).unwrap_or_default();
                status["node"]["endpoints"].to_string().contains("203.0.113.99")
            }));
        }
        // Nothing leads to a guest before the word has come round to whom it is connected: not yet when it has joined.
        done(netlab::wait::until_true("a route to the other guest", SETTLE, || {
            let routes = guests[0].ok(&["routes"]).unwrap_or_default();
            routes.lines().any(|line| line.contains("guest2") && line.trim_end().ends_with("used"))
        }));
        let began_ms = now_ms();
        let flow = flow(&guests[0], &guests[1], 50);
        if sends_back {
            done(guests[0].wait_for_path("guest2", LIMIT, PathStatus::is_direct));
            done(guests[1].wait_for_path("guest1", LIMIT, PathStatus::is_direct));
        } else {
            done(guests[0].wait_for_path("guest2", LIMIT, PathStatus::is_relayed));
            std::thread::sleep(Duration::from_secs(3));
            done(guests[0].wait_for_path("guest2", LIMIT, PathStatus::is_relayed));
        }
        // The first of them make the session.
        wait_for_arrivals(&flow, 100);
        let took = times(&guests[0], began_ms).get("guest2").copied().unwrap_or_default();
        let report = done(flow.stop());
        let what = if sends_back { "that sends back in" } else { "that does not" };
        figure(
            &format!("isolated guests of a translator {what}"),
            format!("direct after {:?} ms, {report}", took.1),
        );
        assert_eq!(report.lost, 0, "{report}");
    }
}
