use super::*;
use proptest::prelude::*;

fn parse(text: &str) -> Result<Config, Invalid> {
    Config::parse(Path::new("/etc/meshd.toml"), text)
}

#[test]
fn an_empty_file_is_the_default() {
    assert_eq!(parse("").unwrap(), Config::default());
}

#[test]
fn a_full_file_is_read() {
    let config = parse(
        r#"
        state = "/srv/mesh"
        interface = "mesh7"
        mtu = 1300
        offload = "off"
        suite = "chacha20poly1305"
        pq = "require"
        lanes = 3
        listen = ["192.0.2.1:7000", "[2001:db8::1]:7000"]
        endpoints = ["vpn.example.org:7000", "[2001:db8::1]:7000"]
        datacenter = "ams"
        relay = true
        fwmark = 0x10
        route_table = 99
        route_metric = 50
        rule_priority = 700
        exit = true
        exit_nat = "off"
        rotate_every = "1d12h"
        log = "debug"
        [[subnets]]
        prefix = "192.168.7.0/24"
        weight = 5
        [[subnets]]
        prefix = "2001:db8:7::/48"
        [[peer]]
        name = "nas"
        path = "relay"
        via = ["gw1", "gw2"]
        forbid = ["gw3", "10.8.0.0/16", "2001:db8::/32"]
        [hooks]
        up = "echo $NAME"
        subnet_down = ["/bin/x", "y"]
        tinc = "/etc/tinc/home"
        timeout = "1m"
        "#,
    )
    .unwrap();
    assert_eq!(config.interface, "mesh7");
    assert_eq!((config.mtu, config.offload), (Mtu::Fixed(1300), Wish::Off));
    assert_eq!(parse("mtu = \"auto\"").unwrap().mtu, Mtu::Auto);
    assert_eq!(config.suite, SuiteWish::ChaCha20Poly1305);
    assert_eq!((config.pq, parse("").unwrap().pq), (PostQuantum::Require, PostQuantum::Prefer));
    assert_eq!(config.lanes, LanesWish::Fixed(3));
    assert_eq!(config.listen.len(), 2);
    assert_eq!(config.endpoints[1].to_string(), "[2001:db8::1]:7000");
    assert_eq!(config.subnets[0].weight, 5);
    assert_eq!(config.subnets[1].weight, DEFAULT_WEIGHT);
    let nas = &config.peers[&Name::new("nas").unwrap()];
    assert_eq!((nas.paths, nas.via.len()), (meshnet::path::Use::Relay, 2));
    assert_eq!((nas.forbidden_relays.len(), nas.forbidden_networks.len()), (1, 2));
    assert_eq!((config.fwmark, config.route_table), (16, Some(99)));
    assert_eq!(config.rotate_every, Some(36 * 3600));
    assert_eq!(parse("rotate_every = \"off\"").unwrap().rotate_every, None);
    assert_eq!(config.log, Level::Debug);
    assert_eq!((config.route_metric, config.rule_priority), (50, 700));
    assert!(config.exit && !config.exit_nat && config.exit_node.is_none());
    let user = parse("exit_node = \"gw\"").unwrap();
    assert_eq!((user.exit_node, user.exit_nat), (Some(Name::new("gw").unwrap()), true));
    use crate::hooks::{Command, On};
    let hooks = &config.hooks;
    assert_eq!(hooks.commands[&On::Up], Command::Shell("echo $NAME".into()));
    assert_eq!(hooks.commands[&On::SubnetDown], Command::Program(vec!["/bin/x".into(), "y".into()]));
    assert_eq!((hooks.tinc.as_deref(), hooks.timeout.as_secs()), (Some(Path::new("/etc/tinc/home")), 60));
    assert!(hooks.wants(On::NodeUp) && !hooks.wants(On::PathChange) && Config::default().hooks.is_empty());
}

#[test]
fn lanes_follow_the_processors_unless_configured() {
    let counts = [1, 2, 3, 4, 7, 8, 64].map(|processors| LanesWish::Auto.count(processors));
    assert_eq!(counts, [1, 1, 1, 2, 3, 4, 4]);
    assert_eq!(parse("lanes = \"auto\"").unwrap().lanes, LanesWish::Auto);
    assert_eq!(LanesWish::Fixed(8).count(2), 8);
}

#[test]
fn each_wrong_value_says_where_and_what_to_write() {
    for (text, place, expected) in [
        ("mtu = 900", "1:7", "from 1280 to 65535"),
        ("mtu = \"big\"", "1:7", "write for example: mtu = "),
        ("listen = [\"4655\"]", "1:11", "write \"[::]:4655\""),
        ("listen = [\"10.0.0.1\"]", "1:11", "write \"10.0.0.1:4655\""),
        ("endpoints = [\"vpn.example.org\"]", "1:14", "write \"vpn.example.org:4655\""),
        ("endpoints = [\"::1\"]", "1:14", "write \"[::1]:4655\""),
        ("endpoints = [\"10.0.0.256:1\"]", "1:14", "neither an address nor a host name"),
        ("endpoints = [\"a:0\"]", "1:14", "from 1 to 65535"),
        ("datacenter = \"Am_s\"", "1:14", "a-z, 0-9"),
        ("offload = \"no\"", "1:11", "write \"auto\" or \"off\""),
        ("pq = \"yes\"", "1:6", "write \"off\", \"prefer\", or \"require\""),
        ("suite = \"aes\"", "1:9", "write \"auto\" or \"chacha20poly1305\""),
        ("rotate_every = \"weekly\"", "1:16", "\"7d\" or \"12h\", or \"off\""),
        ("rotate_every = \"5m\"", "1:16", "10m or more"),
        ("lanes = 0", "1:9", "write \"auto\" or a number from 1 to 8"),
        ("lanes = \"many\"", "1:9", "\"many\" is no choice"),
        ("lanes = 9", "1:9", "9 is no choice"),
        ("tos = \"yes\"", "1:7", "write \"copy\" or \"off\""),
        ("relay_limit = \"fast\"", "1:15", "write for example: relay_limit = \"100mbit\""),
        ("relay_limit = \"1kbit\"", "1:15", "no rate"),
        ("relay_capacity = \"much\"", "1:18", "write for example: relay_capacity = \"1gbit\""),
        ("sandbox = \"on\"", "1:11", "write \"off\", \"normal\", or \"strict\""),
        ("log = \"wran\"", "1:7", "did you mean \"warn\"?"),
        ("interface = \"a-name-that-is-too-long\"", "1:13", "1 to 15 characters"),
        ("subnets = [{ prefix = \"192.168.7.1/24\" }]", "1:23", "write \"192.168.7.0/24\""),
        ("subnets = [{ prefix = \"192.168.7.0/24\", weight = 70000 }]", "1:50", "from 0 to 65535"),
        ("subnets = [{ prefix = \"192.168.7.9\" }]", "1:23", "write \"192.168.7.9/32\""),
        ("route_table = 0", "1:15", "from 1"),
        ("relay = 1", "1:9", "relay = true"),
        ("peer = [{ path = \"relay\" }]", "1:9", "name"),
        ("peer = [{ name = \"b\", path = \"tcp\" }]", "1:30", "\"direct\""),
        ("peer = [{ name = \"b\", vias = [] }]", "1:23", "via"),
        ("peer = [{ name = \"b\", forbid = [\"10.8.0.1/16\"] }]", "1:33", "write \"10.8.0.0/16\""),
        ("peer = [{ name = \"b\", path = \"direct\", via = [\"r\"] }]", "1:18", "allows none"),
        ("exit_node = \"GW\"", "1:13", "write for example: exit_node"),
        ("exit_node = \"gw\"\nfwmark = 0", "1:13", "needs a `fwmark`"),
        ("exit_node = \"gw\"\nrule_priority = 0", "1:13", "needs rules"),
        ("exit = true\nexit_node = \"gw\"", "2:13", "cannot be an exit itself"),
        ("exit_nat = \"on\"", "1:12", "write \"auto\" or \"off\""),
        ("rule_priority = 40000", "1:17", "from 0 to 32750"),
        ("subnets = [{ prefix = \"::/0\" }]", "1:23", "write `exit = true`"),
        ("hooks = { node_up = \" \" }", "1:21", "write for example: node_up"),
        ("hooks = { up = [] }", "1:16", "names no command"),
        ("hooks = { nod_up = \"x\" }", "1:11", "did you mean `node_up`?"),
        ("hooks = { tinc = \"etc/tinc\" }", "1:18", "no absolute path"),
        ("hooks = { timeout = \"1h\" }", "1:21", "from 1s to 5m"),
        ("hooks = { up = 3 }", "1:16", "up"),
        ("subnets = [{ weight = 3 }]", "1:12", "prefix"),
    ] {
        let message = parse(text).unwrap_err().to_string();
        assert!(message.starts_with(&format!("/etc/meshd.toml:{place}: ")), "{text}: {message}");
        assert!(message.contains(expected), "{text}: {message}");
    }
}

#[test]
fn all_wrong_values_are_told_at_once() {
    let error = parse("mtu = 1\nlog = \"x\"\nendpoints = [\"a\"]\n").unwrap_err();
    assert_eq!(error.problems.iter().map(|problem| problem.line).collect::<Vec<_>>(), [1, 2, 3]);
}

#[test]
fn listening_on_both_families_twice_is_once() {
    let config = parse("listen = [\"0.0.0.0:7\", \"[::]:7\", \"0.0.0.0:8\"]").unwrap();
    assert_eq!(config.listen, ["[::]:7".parse().unwrap(), "0.0.0.0:8".parse().unwrap()]);
}

#[test]
fn a_reload_knows_what_needs_a_restart() {
    let old = Config::default();
    let new = Config { mtu: Mtu::Fixed(1400), relay: true, ..Config::default() };
    assert_eq!(old.needs_restart(&new), ["mtu"]);
}

#[test]
fn verbosity_rises_up_to_trace() {
    assert_eq!(Level::Info.louder(1), Level::Debug);
    assert_eq!(Level::Debug.louder(9), Level::Trace);
}

proptest! {
    #[test]
    fn any_text_gives_a_configuration_or_places(text in "[a-z=\"\\[\\]{}0-9:./\n ]{0,80}") {
        if let Err(invalid) = parse(&text) {
            prop_assert!(!invalid.problems.is_empty());
            for problem in invalid.problems {
                prop_assert!(problem.line >= 1 && problem.line <= text.matches('\n').count() + 1);
            }
        }
    }

    #[test]
    fn what_is_displayed_as_host_and_port_reads_back(text in "[a-z0-9.:\\[\\]-]{0,30}") {
        if let Ok(endpoint) = text.parse::<HostPort>() {
            prop_assert_eq!(endpoint.to_string().parse::<HostPort>().unwrap(), endpoint);
        }
    }
}

#[test]
fn a_relay_limit_has_a_burst_of_a_tenth_of_a_second() {
    let limit = |text: &str| parse(&format!("relay_limit = \"{text}\"")).unwrap().relay_limit;
    assert_eq!(limit("off"), None);
    let given = limit("800mbit").unwrap();
    assert_eq!((given.bytes_per_s, given.burst_bytes), (100_000_000, 10_000_000));
    let small = limit("1mbit").unwrap();
    assert_eq!((small.bytes_per_s, small.burst_bytes), (125_000, 262_144));
    assert!(parse("tos = \"copy\"").unwrap().copy_tos);
    assert_eq!(parse("relay_capacity = \"1gbit\"").unwrap().relay_capacity, Some(125_000_000));
}
