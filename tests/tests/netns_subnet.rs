//! Networks behind members.

use meshnet_tests::net::{PORT, SETTLE, admit, done, enlist, figure, found, overlay};
use netlab::Lab;
use std::time::Duration;

#[test]
fn a_server_that_is_no_member_is_reached_through_the_subnet_of_a_member() {
    let lab = done(Lab::new());
    let (internet, office) = (done(lab.switch("internet")), done(lab.switch("office")));
    let relay = done(lab.machine("relay"));
    done(relay.plug(&internet, &["203.0.113.1/24"]));
    let relay = found(&relay, &["--relay", "--endpoint", &format!("203.0.113.1:{PORT}")]);

    let gateway = done(lab.router("gateway"));
    done(gateway.plug(&internet, &["203.0.113.2/24"]));
    done(gateway.plug(&office, &["192.168.7.1/24"]));
    let mut gateway = enlist(&relay, &gateway, &["--subnet", "192.168.7.0/24"], &[]);
    let configuration = "subnets = [{ prefix = \"192.168.7.0/24\" }]\n";
    done(std::fs::write(gateway.state().join("meshd.toml"), configuration));
    done(gateway.up());

    let server = done(lab.machine("server"));
    done(server.plug(&office, &["192.168.7.80/24"]));
    done(server.default_route("192.168.7.1"));

    let client = done(lab.machine("client"));
    done(client.plug(&internet, &["203.0.113.3/24"]));
    let client = admit(&relay, &client, &[], &[]);

    let address = "192.168.7.80".parse().expect("an address");
    let took = done(client.wait_for_ping(address, SETTLE));
    figure("first echo from a server behind a member", format!("{took:?}"));
    let routes = done(client.ok(&["routes"]));
    assert!(routes.contains("192.168.7.0/24") && routes.contains("gateway"), "{routes}");

    // TCP, and in the other direction: the server reaches the member's overlay address.
    let listener =
        done(done(client.machine().enter(|| std::net::TcpListener::bind((overlay(&client), 8080)))));
    let to = (overlay(&client), 8080);
    let connected =
        done(server.enter(|| std::net::TcpStream::connect_timeout(&to.into(), Duration::from_secs(5))));
    let connected = done(connected);
    let (_, from) = done(listener.accept());
    assert_eq!(from, done(connected.local_addr()), "no translation on the way");

    // A member that was not given the subnet must not be believed.
    let mut thief = done(lab.machine("thief").map(|machine| {
        done(machine.plug(&internet, &["203.0.113.4/24"]));
        enlist(&relay, &machine, &[], &[])
    }));
    done(std::fs::write(thief.state().join("meshd.toml"), configuration));
    let refused = match thief.up() {
        Err(error) => error.to_string(),
        Ok(()) => {
            done(relay.wait_for_peer("thief", SETTLE, |_| true));
            done(thief.status()).warnings.iter().map(ToString::to_string).collect()
        }
    };
    assert!(refused.contains("192.168.7.0/24"), "the reason names the prefix: {refused}");
    let routes = done(client.ok(&["routes"]));
    let owners = routes.lines().filter(|line| line.contains("192.168.7.0/24"));
    assert!(owners.clone().count() == 1 && owners.clone().all(|line| !line.contains("thief")), "{routes}");
}
