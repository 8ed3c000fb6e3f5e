//! Where UDP is blocked: real daemons go on over TCP, through proxies and with TLS if need be.

use meshnet_tests::net::{
    Cost, PASSWORD, PORT, SETTLE, TestProxy, USER, admit, done, figure, flow, found, let_send, meshd,
    overlay, restart_with, wait_for_all_pairs, wait_for_arrivals,
};
use netlab::mesh::{Member, PathStatus};
use netlab::{Lab, Machine, Switch};
use std::time::{Duration, Instant};

/// UDP may be gone for so long before traffic goes on over TCP.
const FALL_BACK: Duration = Duration::from_secs(5);
const PROXY_PORT: u16 = 1080;

/// `a` behind a router that can forbid things; outside a relay that listens on TCP, and `b`, which does not.
struct Site {
    lab: Lab,
    lan: Switch,
    router: Machine,
    relay: Member,
    a: Member,
    b: Member,
}

impl Site {
    fn new(relay_configuration: &str) -> Site {
        let lab = done(Lab::new());
        let (lan, internet) = (done(lab.switch("lan")), done(lab.switch("internet")));
        let router = done(lab.router("router"));
        done(router.plug(&lan, &["192.0.2.254/24"]));
        done(router.plug(&internet, &["203.0.113.254/24"]));
        let outside = |name: &str, address: &str| {
            let machine = done(lab.machine(name));
            done(machine.plug(&internet, &[address]));
            done(machine.default_route("203.0.113.254"));
            machine
        };
        let relay = outside("relay", "203.0.113.1/24");
        let mut relay = found(&relay, &["--relay", "--endpoint", &format!("203.0.113.1:{PORT}")]);
        restart_with(&mut relay, relay_configuration);
        let b = admit(&relay, &outside("b", "203.0.113.2/24"), &[], &[]);
        let machine = done(lab.machine("a"));
        done(machine.plug(&lan, &["192.0.2.1/24"]));
        done(machine.default_route("192.0.2.254"));
        let a = admit(&relay, &machine, &[], &[]);
        wait_for_all_pairs(&[&a, &b, &relay]);
        Site { lab, lan, router, relay, a, b }
    }

    /// What the router does with what it should forward.
    fn forbid(&self, what: &str) {
        let table = "table inet wall";
        done(self.router.nft(&format!(
            "{table}\ndelete {table}\n{table} {{\nchain forw {{\ntype filter hook forward priority -150;\n{what}\n}}\n}}\n"
        )));
    }
}

fn is_tcp(path: &PathStatus) -> bool {
    path.kind == "tcp"
}

#[test]
fn traffic_goes_on_over_tcp_where_udp_is_dropped_and_returns_and_keys_rotate_without_loss() {
    let site = Site::new("listen_tcp = [\"[::]:4655\"]");
    let Site { relay, a, b, .. } = &site;
    let pairs = [(a, relay), (relay, a), (a, b), (b, a)];
    for (from, to) in pairs {
        done(from.wait_for_path(to.machine().name(), SETTLE, PathStatus::is_direct));
    }
    let flows = pairs.map(|(from, to)| flow(from, to, 1000));
    flows.iter().for_each(|flow| wait_for_arrivals(flow, 500));
    let at = Instant::now();
    site.forbid("meta l4proto udp drop");
    done(a.wait_for_path("relay", SETTLE, is_tcp));
    done(relay.wait_for_path("a", SETTLE, is_tcp));
    done(a.wait_for_path("b", SETTLE, PathStatus::is_relayed));
    let_send(&flows[0], 3000);
    for (flow, (from, to)) in flows.into_iter().zip(pairs) {
        let cost = Cost::of(&done(flow.stop()), at);
        let names = format!("{} to {}", from.machine().name(), to.machine().name());
        figure(&format!("UDP dropped, {names}"), format!("{cost:?}"));
        assert!(u128::from(cost.gap_ms) <= FALL_BACK.as_millis(), "{names}: {cost:?}");
    }

    // Keys are replaced on it, and nothing is lost.
    let flows = pairs.map(|(from, to)| flow(from, to, 1000));
    flows.iter().for_each(|flow| wait_for_arrivals(flow, 500));
    for member in [a, relay, b] {
        done(member.ok(&["keys", "rotate"]));
    }
    let_send(&flows[0], 1000);
    for (flow, (from, to)) in flows.into_iter().zip(pairs) {
        let (report, from, to) = (done(flow.stop()), from.machine().name(), to.machine().name());
        figure(&format!("keys replaced over TCP, {from} to {to}"), &report);
        assert_eq!((report.lost, report.duplicated), (0, 0), "{from} to {to}: {report}");
    }

    // UDP is back, and so are we; moving loses nothing.
    let flows = pairs.map(|(from, to)| flow(from, to, 1000));
    flows.iter().for_each(|flow| wait_for_arrivals(flow, 500));
    let at = Instant::now();
    site.forbid("");
    for (from, to) in pairs {
        done(from.wait_for_path(to.machine().name(), SETTLE, PathStatus::is_direct));
    }
    figure("back on UDP after", format!("{:?}", at.elapsed()));
    let_send(&flows[0], 500);
    for (flow, (from, to)) in flows.into_iter().zip(pairs) {
        let report = done(flow.stop());
        assert_eq!(report.lost, 0, "{} to {}: {report}", from.machine().name(), to.machine().name());
    }
}

#[test]
fn a_node_that_starts_where_only_tcp_passes_is_connected_within_five_seconds() {
    let mut site = Site::new("listen_tcp = [\"203.0.113.1:443\"]");
    site.forbid("meta l4proto udp drop");
    let start = Instant::now();
    restart_with(&mut site.a, "");
    done(site.a.wait_for_ping(overlay(&site.relay), SETTLE));
    figure("start where UDP is dropped, to the first echo", format!("{:?}", start.elapsed()));
    assert!(start.elapsed() < FALL_BACK, "{:?}", start.elapsed());
    done(site.a.wait_for_ping(overlay(&site.b), SETTLE));
    done(site.b.wait_for_ping(overlay(&site.a), SETTLE));
    done(site.a.wait_for_path("relay", SETTLE, is_tcp));
    // What the relay may not be reached by, it is not.
    restart_with(&mut site.a, "tcp = \"off\"");
    assert!(done(site.a.machine().ping(overlay(&site.relay), Duration::from_secs(4))).is_none());
}

fn through(scheme: &str, relay_configuration: &str) {
    let mut site = Site::new(relay_configuration);
    let proxy = TestProxy::start(&site.router, PROXY_PORT);
    // Nothing passes the router; the proxy on it is the only way out.
    site.forbid("drop");
    let at = format!("192.0.2.254:{PROXY_PORT}");
    restart_with(&mut site.a, &format!("log = \"trace\"\nproxy = \"{scheme}://{USER}:wrong@{at}\""));
    assert!(done(site.a.machine().ping(overlay(&site.relay), Duration::from_secs(4))).is_none());
    assert!(proxy.refused() > 0);
    let file = site.a.state().join("proxy-password");
    done(std::fs::write(&file, PASSWORD));
    let url = format!("{scheme}://{USER}@{at}");
    let lines = format!("log = \"trace\"\nproxy = \"{url}\"\nproxy_password_file = \"{}\"", file.display());
    restart_with(&mut site.a, &lines);
    for peer in [&site.relay, &site.b] {
        done(site.a.wait_for_ping(overlay(peer), SETTLE));
    }
    done(site.a.wait_for_path("relay", SETTLE, is_tcp));
    // The first ones find out that `a` was started anew, and replace the session that it had before.
    for flow in [flow(&site.a, &site.b, 1000), flow(&site.b, &site.a, 1000)] {
        wait_for_arrivals(&flow, 2000);
        done(flow.stop());
    }
    let flows = [flow(&site.a, &site.b, 1000), flow(&site.b, &site.a, 1000)];
    flows.iter().for_each(|flow| wait_for_arrivals(flow, 2000));
    for flow in flows {
        let report = done(flow.stop());
        figure(&format!("through a proxy, {scheme}"), &report);
        let drops = [&site.a, &site.b, &site.relay].map(|member| done(member.status()).drops);
        assert_eq!((report.lost, report.duplicated), (0, 0), "{report} {:?} {drops:?}", report.losses);
    }
    for log in site.a.machine().logs() {
        let text = done(std::fs::read_to_string(&log));
        assert!(!text.contains(PASSWORD) && !text.contains("wrong"), "a password is in {}", log.display());
    }
    done(site.a.terminate(Duration::from_secs(5)));
    done(netlab::wait::until_true("the proxy to have carried a connection", SETTLE, || proxy.served() > 0));
}

#[test]
fn socks5_with_a_password_is_a_way_out() {
    through("socks5", "listen_tcp = [\"[::]:4655\"]");
}

#[test]
fn http_connect_with_a_password_and_tls_inside_is_a_way_out() {
    through("http", "listen_tls = [\"[::]:443\"]");
}

/// A newcomer behind the router, with this in its configuration before it joins.
fn newcomer(site: &Site, name: &str, address: &str, configuration: &str) -> Member {
    use std::os::unix::fs::DirBuilderExt;
    let machine = done(site.lab.machine(name));
    done(machine.plug(&site.lan, &[address]));
    done(machine.default_route("192.0.2.254"));
    let member = Member::new(&machine, &meshd());
    done(std::fs::DirBuilder::new().recursive(true).mode(0o700).create(member.state()));
    done(std::fs::write(member.state().join("meshd.toml"), configuration));
    member
}

#[test]
fn a_node_joins_by_tcp_where_udp_is_dropped_and_by_tls_through_a_proxy_where_all_is() {
    let site = Site::new("listen_tcp = [\"[::]:4655\"]\nlisten_tls = [\"[::]:443\"]");
    site.forbid("meta l4proto udp drop");
    let mut plain = newcomer(&site, "plain", "192.0.2.2/24", "");
    let url = done(site.relay.invite("plain", &[]));
    let start = Instant::now();
    done(plain.ok(&["join", &url]));
    figure("join where UDP is dropped", format!("{:?}", start.elapsed()));
    assert!(start.elapsed() < FALL_BACK, "{:?}", start.elapsed());
    done(plain.up());
    done(plain.wait_for_ping(overlay(&site.b), SETTLE));
    done(plain.wait_for_path("relay", SETTLE, is_tcp));

    // One invitation, one member: it cannot be used again, by TCP either.
    let second = newcomer(&site, "second", "192.0.2.3/24", "");
    let refused = done(second.run(&["join", &url]));
    assert!(!refused.success(), "{refused:?}");

    let proxy = TestProxy::start(&site.router, PROXY_PORT);
    site.forbid("drop");
    let way = format!("proxy = \"http://{USER}:{PASSWORD}@192.0.2.254:{PROXY_PORT}\"\n");
    let mut office = newcomer(&site, "office", "192.0.2.4/24", &way);
    let url = done(site.relay.invite("office", &[]));
    done(office.ok(&["join", &url]));
    done(office.up());
    done(office.wait_for_ping(overlay(&site.b), SETTLE));
    assert!(proxy.refused() == 0);
    // Nobody is let in who does not know a secret, and the listener told him nothing.
    let wrong = newcomer(&site, "wrong", "192.0.2.5/24", "tcp = \"off\"\n");
    let url = done(site.relay.invite("wrong", &[]));
    let refused = done(wrong.run(&["join", "--timeout", "3s", &url]));
    assert!(!refused.success(), "without TCP there is no way: {refused:?}");
}
