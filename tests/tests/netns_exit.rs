//! The internet through another member, and the routes and rules that this takes.

use meshnet_tests::net::{PORT, SETTLE, done, enlist, figure, found, overlay, restart_with};
use netlab::mesh::{Member, PathStatus};
use netlab::{Lab, Machine};
use std::io::Read;
use std::net::{IpAddr, SocketAddr, TcpListener, TcpStream};
use std::time::{Duration, Instant};

/// A server on the stand-in internet, at 198.51.100.80 and 2001:db8:100::80.
const SERVER: [&str; 2] = ["198.51.100.80", "2001:db8:100::80"];

/// From which address the server sees a connection of this machine's; `None` if there is none within two seconds.
fn seen_as(from: &Machine, server: &Machine, address: &str) -> Option<IpAddr> {
    let to = SocketAddr::new(address.parse().expect("an address"), 8080);
    let listener = done(done(server.enter(|| TcpListener::bind(to))));
    done(listener.set_nonblocking(true));
    let stream = done(from.enter(|| TcpStream::connect_timeout(&to, Duration::from_secs(2))));
    let mut stream = stream.ok()?;
    let (_, peer) = done(netlab::wait::until("the connection at the server", SETTLE, || {
        listener.accept().map_err(|error| error.to_string())
    }));
    done(stream.set_read_timeout(Some(Duration::from_secs(2))));
    assert_eq!(stream.read(&mut [0]).ok(), Some(0), "an orderly end comes back, too");
    Some(peer.ip())
}

#[test]
fn a_member_is_the_way_to_the_internet_and_nothing_leaves_by_another() {
    let lab = done(Lab::new());
    let (internet, home) = (done(lab.switch("internet")), done(lab.switch("home")));
    let server = done(lab.machine("server"));
    done(server.plug(&internet, &["198.51.100.80/24", "2001:db8:100::80/64"]));

    // The founder's certificate has not the role: that takes an invitation.
    let first = done(lab.machine("first"));
    done(first.plug(&internet, &["198.51.100.1/24", "2001:db8:100::1/64"]));
    let first = found(&first, &["--relay", "--endpoint", &format!("198.51.100.1:{PORT}")]);
    let gw = done(lab.router("gw"));
    done(gw.plug(&internet, &["198.51.100.2/24", "2001:db8:100::2/64"]));
    let mut gw = enlist(&first, &gw, &["--role", "exit"], &[]);
    done(gw.up());

    // The user is at home, behind a router that is its default route.
    let router = done(lab.router("router"));
    done(router.plug(&home, &["192.168.1.254/24"]));
    done(router.plug(&internet, &["198.51.100.254/24"]));
    let user = done(lab.machine("user"));
    done(user.plug(&home, &["192.168.1.10/24"]));
    done(user.default_route("192.168.1.254"));
    done(server.ip("route add 192.168.1.0/24 via 198.51.100.254"));
    done(first.machine().ip("route add 192.168.1.0/24 via 198.51.100.254"));
    done(gw.machine().ip("route add 192.168.1.0/24 via 198.51.100.254"));
    let user = enlist(&first, &user, &[], &[]);
    let mut user = user;
    done(user.up());
    let printer = done(lab.machine("printer"));
    done(printer.plug(&home, &["192.168.1.77/24"]));
    done(user.wait_for_ping(overlay(&gw), SETTLE));

    let own: IpAddr = "192.168.1.10".parse().expect("an address");
    let of_exit: IpAddr = "198.51.100.2".parse().expect("an address");
    assert_eq!(seen_as(user.machine(), &server, SERVER[0]), Some(own), "by its own way");
    // Nobody is an exit because somebody else says so.
    assert!(user.ok(&["exit", "use", "gw"]).is_err());
    let nothing_yet = done(user.machine().ip("rule show"));
    assert!(!nothing_yet.contains("52"), "{nothing_yet}");

    restart_with(&mut gw, "exit = true\nsandbox = \"strict\"");
    done(netlab::wait::until("the offer", SETTLE, || {
        let shown = done(user.ok(&["exit"]));
        if shown.contains("gw") { Ok(()) } else { Err(shown) }
    }));
    let start = Instant::now();
    done(user.ok(&["exit", "use", "gw"]));
    done(netlab::wait::until("the internet by way of gw", SETTLE, || {
        match seen_as(user.machine(), &server, SERVER[0]) {
            Some(address) if address == of_exit => Ok(()),
            other => Err(format!("{other:?}: {}", gw.log_text())),
        }
    }));
    figure(
        "internet through a member, from the command to the first connection",
        format!("{:?}", start.elapsed()),
    );
    let as_v6 = seen_as(user.machine(), &server, SERVER[1]);
    assert_eq!(as_v6, Some("2001:db8:100::2".parse().expect("an address")), "IPv6 by the same way");
    let shown = done(user.ok(&["status"]));
    assert!(shown.contains("through gw"), "{shown}");

    // The home network is as near as before, and the mesh's own packets leave by the router.
    assert!(done(user.machine().ping("192.168.1.77".parse().expect("an address"), SETTLE)).is_some());
    let by_the_router =
        |path: &PathStatus| path.is_direct() && path.remote.as_deref() == Some("198.51.100.2:4655");
    done(user.wait_for_path("gw", SETTLE, by_the_router));
    // Who asks from outside gets an answer by the way the question came.
    let ssh = SocketAddr::new(own, 2222);
    let listener = done(done(user.machine().enter(|| TcpListener::bind(ssh))));
    done(done(server.enter(|| TcpStream::connect_timeout(&ssh, Duration::from_secs(2)))));
    drop(listener);

    // The exit goes: nothing leaves by the router instead.
    gw.kill();
    std::thread::sleep(Duration::from_secs(2));
    assert_eq!(seen_as(user.machine(), &server, SERVER[0]), None, "a leak");
    done(user.ok(&["exit", "off"]));
    assert_eq!(seen_as(user.machine(), &server, SERVER[0]), Some(own), "by its own way again");
    let rules = done(user.machine().ip("rule show"));
    assert!(!rules.contains("fwmark"), "{rules}");

    // What the killed exit had left is there once, and gone at an orderly end.
    done(gw.up());
    let tables = done(gw.machine().nft("list tables"));
    assert_eq!(tables.matches("meshd_mesh0").count(), 1, "{tables}");
    done(gw.terminate(Duration::from_secs(9)));
    let tables = done(gw.machine().nft("list tables"));
    assert!(!tables.contains("meshd_mesh0"), "{tables}");
}

#[test]
fn routes_in_a_table_of_their_own_are_found_and_gone_after_the_end_and_after_a_kill() {
    let lab = done(Lab::new());
    let lan = done(lab.switch("lan"));
    let machine = |name: &str, address: &str| {
        let machine = done(lab.router(name));
        done(machine.plug(&lan, &[address]));
        machine
    };
    let a = machine("a", "192.0.2.1/24");
    let mut a = found(&a, &["--relay", "--endpoint", &format!("192.0.2.1:{PORT}")]);
    let b = machine("b", "192.0.2.2/24");
    let office = done(lab.switch("office"));
    done(b.plug(&office, &["192.168.7.1/24"]));
    let mut b = enlist(&a, &b, &["--subnet", "192.168.7.0/24"], &[]);
    done(std::fs::write(b.state().join("meshd.toml"), "subnets = [{ prefix = \"192.168.7.0/24\" }]\n"));
    done(b.up());
    restart_with(&mut a, "route_table = 4000\nroute_metric = 77");
    let to: IpAddr = "192.168.7.1".parse().expect("an address");
    done(a.wait_for_ping(to, SETTLE));
    let ip = |member: &Member, arguments: &str| done(member.machine().ip(arguments));
    let own = ip(&a, "route show table 4000");
    assert!(own.contains("192.168.7.0/24") && own.contains("metric 77"), "{own}");
    assert!(!ip(&a, "route show").contains("192.168.7.0/24"));
    let rules = ip(&a, "rule show");
    assert!(rules.contains("not from all fwmark 0x6d65 lookup 4000"), "{rules}");

    // Killed, and started with another configuration: the old rule goes.
    a.kill();
    assert!(ip(&a, "rule show").contains("lookup 4000"), "nobody could remove it");
    let file = a.state().join("meshd.toml");
    let configuration = done(std::fs::read_to_string(&file)).replace("route_table = 4000", "");
    done(std::fs::write(&file, configuration));
    done(a.up());
    done(a.wait_for_ping(to, SETTLE));
    let rules = ip(&a, "rule show");
    assert!(!rules.contains("lookup 4000"), "{rules}");
    assert!(ip(&a, "route show").contains("192.168.7.0/24"));

    restart_with(&mut a, "route_table = 4000");
    done(a.wait_for_ping(to, SETTLE));
    done(a.terminate(Duration::from_secs(5)));
    assert!(!ip(&a, "rule show").contains("lookup 4000"));
    assert_eq!(ip(&a, "route show table all proto 109").trim(), "");
}
