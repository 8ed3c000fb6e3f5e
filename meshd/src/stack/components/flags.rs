//! What the documents of each product ask for, and what was found out by running it, against what its component becomes on
//! the first of five nodes in three datacentres. The whole of it is in the golden files; here is what must not get lost.

use std::collections::BTreeMap;
use std::path::Path;

use super::Catalogue;
use crate::stack::definition::{Arch, Definition, Source};
use crate::stack::desired::{self, Ids};
use crate::stack::spec::{self, tests::mesh};

const ALL_CLIENTS: &str = "zk://10.66.0.1:2181,10.66.0.3:2181,10.66.0.5:2181";

/// Every component, on as many nodes as it wants.
fn definitions() -> BTreeMap<String, Definition> {
    let a = Arch::Amd64;
    let members = mesh(&[("ams", &[a, a]), ("fra", &[a, a]), ("par", &[a])]);
    let three = "[\"ams1\", \"fra1\", \"par1\"]";
    let four = "[\"ams1\", \"ams2\", \"fra1\", \"par1\"]";
    let mut text = "name = \"s\"\n".to_owned();
    for component in Catalogue::built_in().iter() {
        let nodes = match component.name.as_str() {
            "minio" => four,
            "telegraf" | "mesos-agent" | "mesos-dns" => "\"all\"",
            "influxdb" => "[\"ams1\", \"fra1\"]",
            _ => three,
        };
        text.push_str(&format!("[components.{}]\nnodes = {nodes}\n", component.name));
    }
    let stack = spec::resolve(Path::new("stack.toml"), &text, &Catalogue::built_in(), &members)
        .unwrap_or_else(|error| panic!("{error}"));
    let versions = stack.secrets.keys().map(|name| (name.clone(), "v".to_owned())).collect();
    let replicas = desired::replicas(&stack, &desired::assign(&stack, &Ids::new()), &versions).unwrap();
    let first = replicas.into_iter().filter(|replica| replica.node == "ams1");
    first.map(|replica| (replica.definition.component.clone(), replica.definition)).collect()
}

fn has_arguments(of: &Definition, wanted: &[&str]) {
    for one in wanted {
        assert!(of.command.iter().any(|argument| argument == one), "{one}: {:#?}", of.command);
    }
}

fn has_pairs(of: &Definition, wanted: &[(&str, &str)]) {
    for (flag, value) in wanted {
        let found = of.command.windows(2).any(|pair| pair[0] == *flag && pair[1] == *value);
        assert!(found, "{flag} {value}: {:#?}", of.command);
    }
}

fn has_environment(of: &Definition, wanted: &[(&str, &str)]) {
    for (name, value) in wanted {
        assert_eq!(of.environment.get(*name).map(String::as_str), Some(*value), "{name}");
    }
}

fn has_in_file(of: &Definition, file: &str, wanted: &[&str]) {
    for one in wanted {
        assert!(of.files[file].contains(one), "{one}: {}", of.files[file]);
    }
}

#[test]
fn zookeeper_knows_its_own_overlay_address_and_leaves_marathons_port_alone() {
    let zookeeper = &definitions()["zookeeper"];
    has_environment(
        zookeeper,
        &[
            ("ZOO_MY_ID", "1"),
            (
                "ZOO_SERVERS",
                "server.1=10.66.0.1:2888:3888;10.66.0.1:2181 server.2=10.66.0.3:2888:3888;10.66.0.3:2181 \
                 server.3=10.66.0.5:2888:3888;10.66.0.5:2181",
            ),
            ("ZOO_4LW_COMMANDS_WHITELIST", "srvr,ruok,mntr"),
            ("ZOO_STANDALONE_ENABLED", "false"),
            ("ZOO_CFG_EXTRA", "admin.serverAddress=10.66.0.1 admin.serverPort=8181"),
            ("ZOO_AUTOPURGE_PURGEINTERVAL", "1"),
        ],
    );
    // Time-outs for wide areas.
    let number = |name: &str| zookeeper.environment[name].parse::<u32>().unwrap();
    assert!(
        (2000..=3000).contains(&number("ZOO_TICK_TIME")) && (10..=20).contains(&number("ZOO_INIT_LIMIT"))
    );
    assert!((5..=10).contains(&number("ZOO_SYNC_LIMIT")));
}

#[test]
fn mesos_masters_have_the_smallest_majority_as_quorum_and_keep_their_log() {
    let master = &definitions()["mesos-master"];
    let zk = format!("--zk={ALL_CLIENTS}/mesos");
    has_arguments(
        master,
        &[
            &zk,
            "--quorum=2",
            "--work_dir=/var/lib/mesos",
            "--ip=10.66.0.1",
            "--hostname=10.66.0.1",
            "--no-hostname_lookup",
            "--port=5050",
            "--max_agent_ping_timeouts=20",
            "--zk_session_timeout=10secs",
            "--agent_reregister_timeout=10mins",
        ],
    );
    assert!(
        matches!(&master.volumes["/var/lib/mesos"], Source::Named(name) if name == "meshd-s-mesos-master-work")
    );
    // Agents kill containers whose names begin so.
    assert!(definitions().values().all(|one| one.container_name().starts_with("meshd-")));
}

#[test]
fn mesos_agents_offer_all_ports_of_services_and_see_the_machine_as_it_is() {
    let all = definitions();
    let agent = &all["mesos-agent"];
    let master = format!("--master={ALL_CLIENTS}/mesos");
    has_arguments(
        agent,
        &[
            &master,
            "--containerizers=docker,mesos",
            "--executor_registration_timeout=10mins",
            "--reconfiguration_policy=additive",
            "--no-systemd_enable_support",
            "--attributes=dc:ams;arch:amd64;node:ams1",
            "--ip=10.66.0.1",
            "--hostname=10.66.0.1",
        ],
    );
    assert!(agent.privileged && agent.pid_host);
    let work = agent.command.iter().find_map(|one| one.strip_prefix("--work_dir=")).unwrap();
    assert_eq!(agent.mounts[work].source, work, "the same path on the machine and in the container");
    assert_eq!(agent.mounts["/var/run/docker.sock"].source, "/var/run/docker.sock");
    let offered = agent.command.iter().find_map(|one| one.strip_prefix("--resources=ports:[")).unwrap();
    let ranges: Vec<(u16, u16)> = offered
        .trim_end_matches(']')
        .split(',')
        .map(|range| range.split_once('-').map(|(a, b)| (a.parse().unwrap(), b.parse().unwrap())).unwrap())
        .collect();
    let services = all.values().filter(|one| one.driver == crate::stack::definition::DriverKind::Marathon);
    for (service, port) in
        services.flat_map(|one| one.ports.values().map(move |port| (&one.component, *port)))
    {
        let is_offered = ranges.iter().any(|(first, last)| (*first..=*last).contains(&port));
        assert!(is_offered, "{service} wants {port}, offered are {offered}");
    }
}

#[test]
fn marathon_binds_to_the_overlay_in_both_of_its_ways() {
    let marathon = &definitions()["marathon"];
    let (mesos, own) = (format!("{ALL_CLIENTS}/mesos"), format!("{ALL_CLIENTS}/marathon"));
    has_pairs(
        marathon,
        &[
            ("--master", &mesos),
            ("--zk", &own),
            ("--hostname", "10.66.0.1"),
            ("--http_address", "10.66.0.1"),
            ("--http_port", "8080"),
            ("--task_launch_timeout", "600000"),
            ("--mesos_role", "meshd"),
            ("--mesos_authentication_principal", "meshd"),
            ("--framework_name", "marathon"),
        ],
    );
    has_environment(marathon, &[("LIBPROCESS_IP", "10.66.0.1"), ("LIBPROCESS_PORT", "15101")]);
}

#[test]
fn names_and_the_front_are_on_the_overlay() {
    let all = definitions();
    let config: serde_json::Value = serde_json::from_str(&all["mesos-dns"].files["/config.json"]).unwrap();
    assert_eq!(config["zk"], format!("{ALL_CLIENTS}/mesos"));
    assert_eq!((&config["listener"], &config["refreshSeconds"]), (&"10.66.0.1".into(), &10.into()));
    assert_eq!(config["IPSources"], serde_json::json!(["host"]));
    assert_eq!((&config["port"], &config["httpport"]), (&53.into(), &8123.into()));
    let front = &all["marathon-lb"];
    assert_eq!(front.command[0], "sse");
    has_pairs(front, &[("--marathon", "http://10.66.0.1:8080"), ("--marathon", "http://10.66.0.5:8080")]);
    has_pairs(front, &[("--group", "external")]);
    has_arguments(front, &["--health-check"]);
    has_environment(front, &[("PORTS", "80,443,9090,9091")]);
    assert!(front.privileged);
}

#[test]
fn galera_binds_all_its_ports_to_the_overlay_and_has_one_segment_a_datacentre() {
    let database = &definitions()["mariadb"];
    has_arguments(
        database,
        &[
            "--wsrep-on=ON",
            "--wsrep-provider=/usr/lib/galera/libgalera_smm.so",
            "--wsrep-cluster-address=gcomm://10.66.0.1:4567,10.66.0.3:4567,10.66.0.5:4567",
            "--wsrep-node-address=10.66.0.1",
            "--bind-address=10.66.0.1",
            "--binlog-format=ROW",
            "--wsrep-sst-method=mariabackup",
            "--wsrep-provider-options=gmcast.segment=0;gmcast.listen_addr=tcp://10.66.0.1:4567;ist.recv_addr=10.66.0.1:4568;\
             evs.keepalive_period=PT3S;evs.suspect_timeout=PT10S;evs.inactive_timeout=PT1M;evs.install_timeout=PT1M",
        ],
    );
    // Once there, it makes a new cluster with each restart: no definition has it.
    assert!(!database.command.iter().any(|one| one.contains("new-cluster")));
    has_in_file(
        database,
        "/etc/mysql/conf.d/90-meshd.cnf",
        &["innodb_autoinc_lock_mode = 2", "wsrep_notify_cmd = \"sh /run/meshd/notify.sh\""],
    );
    has_in_file(database, "/run/meshd/notify.sh", &["\"$status\" != disconnected", "kill -TERM 1"]);
    // Killed, it is told how far its data goes.
    assert_eq!(database.entrypoint, ["sh", "/run/meshd/start.sh"]);
    has_in_file(
        database,
        "/run/meshd/start.sh",
        &["--wsrep-recover", "\"--wsrep-start-position=$position\""],
    );
    assert_eq!(database.ports.values().copied().collect::<Vec<_>>(), [4567, 4568, 3306, 4444]);
    assert_eq!(database.stop_grace_s, 120);
}

#[test]
fn minio_has_one_list_in_one_order_everywhere() {
    let store = &definitions()["minio"];
    let servers = [
        "http://10.66.0.1:9000/data",
        "http://10.66.0.2:9000/data",
        "http://10.66.0.3:9000/data",
        "http://10.66.0.5:9000/data",
    ];
    assert_eq!(store.command[0], "server");
    assert_eq!(store.command[store.command.len() - 4..], servers);
    has_pairs(store, &[("--address", "10.66.0.1:9000"), ("--console-address", "10.66.0.1:9001")]);
    has_environment(
        store,
        &[
            ("MINIO_ROOT_USER_FILE", "/run/secrets/minio-user"),
            ("MINIO_ROOT_PASSWORD_FILE", "/run/secrets/minio-password"),
        ],
    );
}

#[test]
fn grafana_and_telegraf_find_their_stores_each_by_itself() {
    let all = definitions();
    has_environment(
        &all["grafana"],
        &[
            ("GF_DATABASE_TYPE", "mysql"),
            ("GF_SERVER_HTTP_ADDR", "10.66.0.1"),
            ("GF_SECURITY_SECRET_KEY__FILE", "/run/secrets/grafana-key"),
            ("GF_DATABASE_HOST", "10.66.0.1:3306"),
        ],
    );
    let telegraf = &all["telegraf"].files["/etc/telegraf/telegraf.conf"];
    // Several addresses in one output would take turns.
    assert_eq!(telegraf.matches("[[outputs.influxdb]]").count(), 2);
    for one in ["urls = [\"http://10.66.0.1:8086\"]", "urls = [\"http://10.66.0.3:8086\"]"] {
        assert!(telegraf.contains(one), "{telegraf}");
    }
    let source = &all["grafana"].files["/etc/grafana/provisioning/datasources/meshd.yaml"];
    assert!(source.contains("url: http://10.66.0.1:8086") && source.contains("url: http://10.66.0.3:8086"));
    has_environment(&all["influxdb"], &[("INFLUXDB_HTTP_BIND_ADDRESS", "10.66.0.1:8086")]);
}

#[test]
fn versions_are_pinned_and_those_without_galera_are_refused() {
    for component in Catalogue::built_in().iter() {
        for image in component.images.values() {
            let tag = image.rsplit_once(':').map(|(_, tag)| tag).unwrap_or_default();
            assert!(!tag.is_empty() && tag != "latest", "{}: {image}", component.name);
        }
    }
    let refused: Vec<String> =
        Catalogue::built_in().get("mariadb").unwrap().refuse.iter().map(|one| one.tag.clone()).collect();
    assert_eq!(refused, ["12.3.0", "12.3.1"]);
}
