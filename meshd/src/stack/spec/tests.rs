//! What is refused, and with which words.

use std::path::Path;

use super::*;
use crate::stack::components::Catalogue;
use crate::stack::definition::Arch;

/// A mesh of `sites`: for each its name and the architectures of its nodes, which are called after it.
pub(crate) fn mesh(sites: &[(&str, &[Arch])]) -> Vec<Member> {
    let mut members = Vec::new();
    for (site, nodes) in sites {
        for (number, arch) in nodes.iter().enumerate() {
            let last = members.len() + 1;
            members.push(Member {
                name: format!("{site}{}", number + 1),
                address: format!("10.66.0.{last}").parse().unwrap(),
                datacenter: Some((*site).to_owned()),
                arch: Some(*arch),
                reachable: true,
            });
        }
    }
    members
}

const A: Arch = Arch::Amd64;

fn three() -> Vec<Member> {
    mesh(&[("ams", &[A]), ("fra", &[A]), ("par", &[A])])
}

fn read(text: &str, members: &[Member]) -> Result<Stack, crate::config::Invalid> {
    resolve(Path::new("stack.toml"), text, &Catalogue::built_in(), members)
}

/// The message of the only finding.
fn refused(text: &str, members: &[Member]) -> String {
    read(text, members).unwrap_err().to_string()
}

fn with_zookeeper(rest: &str) -> String {
    format!("name = \"s\"\n[components.zookeeper]\n{rest}\n")
}

#[test]
fn a_small_stack_resolves_in_order() {
    let text = "name = \"s\"\n[components.telegraf]\nnodes = \"all\"\n[components.influxdb]\nnodes = [\"ams1\", \"fra1\"]\n\
                [components.zookeeper]\nnodes = [\"ams1\", \"fra1\", \"par1\"]\n";
    let stack = read(text, &three()).unwrap();
    let names: Vec<&str> = stack.placed.iter().map(|placed| placed.component.name.as_str()).collect();
    assert_eq!(names, ["influxdb", "telegraf", "zookeeper"]);
    assert_eq!(stack.component("telegraf").unwrap().nodes, ["ams1", "fra1", "par1"]);
    assert!(stack.warnings.is_empty(), "{:?}", stack.warnings);
}

#[test]
fn unknown_words_get_their_nearest_neighbours_with_their_places() {
    let text = "name = \"s\"\n[components.zokeeper]\nnodes = [\"ams1\", \"fra1\", \"par1\"]\n";
    assert_eq!(
        refused(text, &three()),
        "stack.toml:2:13: there is no component `zokeeper`; did you mean `zookeeper`?"
    );
    let error = refused(&with_zookeeper("nodes = [\"ams1\", \"fra1\", \"part1\"]"), &three());
    assert_eq!(error, "stack.toml:3:26: no member of the mesh has the name `part1`; did you mean `par1`?");
    let all = "nodes = [\"ams1\", \"fra1\", \"par1\"]\n";
    let error = refused(&with_zookeeper(&format!("{all}nods = 1")), &three());
    assert_eq!(error, "stack.toml:4:1: unknown key `nods`; did you mean `nodes`?");
    let error = refused(&with_zookeeper(&format!("{all}settings.heap = 1")), &three());
    assert_eq!(error, "stack.toml:4:10: zookeeper has no setting `heap`; did you mean `heap_mb`?");
    let error = refused(&with_zookeeper(&format!("{all}settings.heap_mb = \"1\"")), &three());
    assert!(error.starts_with("stack.toml:4:20: `heap_mb` must be a whole number"), "{error}");
    let error = refused(&with_zookeeper(&format!("{all}memory_mb = \"much\"")), &three());
    assert!(
        error.contains("stack.toml:4:13: `memory_mb`: ") && error.ends_with("memory_mb = 1024"),
        "{error}"
    );
}

#[test]
fn quorums_that_do_not_hold_are_refused() {
    let members = mesh(&[("ams", &[A, A]), ("fra", &[A, A]), ("par", &[A])]);
    let with = |nodes: &str| refused(&with_zookeeper(&format!("nodes = [{nodes}]")), &members);
    assert!(with("\"ams1\"").contains("cannot lose any node"));
    assert!(with("\"ams1\", \"fra1\"").contains("worse than on one"));
    let even = with("\"ams1\", \"fra1\", \"par1\", \"ams2\"");
    assert!(even.contains("can lose 1, no more than on 3") && even.ends_with("name 3 or 5 nodes"), "{even}");
    assert!(with("\"ams1\", \"fra1\", \"ams1\"").ends_with("`ams1` is there twice"));
}

#[test]
fn an_armv7_node_is_no_member_of_a_quorum_but_measures() {
    let members = mesh(&[("ams", &[A]), ("fra", &[A]), ("home", &[Arch::Arm])]);
    let error = refused(&with_zookeeper("nodes = [\"ams1\", \"fra1\", \"home1\"]"), &members);
    assert!(error.starts_with("stack.toml:3:26: home1 is armv7"), "{error}");
    let text =
        "name = \"s\"\n[components.telegraf]\nnodes = \"all\"\n[components.influxdb]\nnodes = [\"ams1\"]\n";
    assert_eq!(read(text, &members).unwrap().component("telegraf").unwrap().nodes.len(), 3);
    let error = refused("name = \"s\"\n[components.influxdb]\nnodes = [\"home1\"]\n", &members);
    assert!(error.contains("no image for home1, which is arm"), "{error}");
}

#[test]
fn sites_that_cannot_be_lost_are_warned_about() {
    let warning = |members: &[Member]| {
        let names: Vec<String> = members.iter().map(|member| format!("\"{}\"", member.name)).collect();
        let stack = read(&with_zookeeper(&format!("nodes = [{}]", names.join(", "))), members).unwrap();
        stack.warnings.iter().map(|problem| problem.message.clone()).collect::<String>()
    };
    assert!(warning(&mesh(&[("ams", &[A, A]), ("fra", &[A])])).contains("two datacentres, 2 of 3 in ams"));
    assert!(warning(&mesh(&[("a", &[A, A, A]), ("b", &[A]), ("c", &[A])])).contains("3 of 5"));
    assert_eq!(warning(&mesh(&[("a", &[A, A]), ("b", &[A, A]), ("c", &[A])])), "");
}

#[test]
fn ports_that_clash_on_a_node_are_told_with_a_way_out() {
    let text = "name = \"s\"\n[components.zookeeper]\nnodes = [\"ams1\", \"fra1\", \"par1\"]\nports = { admin = 8086 }\n\
                [components.influxdb]\nnodes = [\"par1\"]\n";
    let error = refused(text, &three());
    assert!(
        error.contains("stack.toml:4:19: on par1, zookeeper's port `admin` and influxdb's port `http`"),
        "{error}"
    );
    assert!(error.ends_with("components.zookeeper.ports.admin = 8186"), "{error}");
    let mine = with_zookeeper("nodes = [\"ams1\", \"fra1\", \"par1\"]\nports.client = 4656");
    assert!(refused(&mine, &three()).contains("meshd's own agents"));
}

#[test]
fn images_must_have_a_version_that_works() {
    let all = "nodes = [\"ams1\", \"fra1\", \"par1\"]";
    let with = |image: &str| {
        read(&format!("name = \"s\"\n[components.mariadb]\n{all}\nimage = \"{image}\"\n"), &three())
    };
    for wrong in
        ["mariadb", "mariadb:latest", "mariadb:12.3.0", "mariadb:12.3.1-noble", "mariadb:11@sha256:1", ""]
    {
        with(wrong).unwrap_err();
    }
    with("localhost:5000/mariadb:11.8").unwrap();
    with(&format!("mariadb@sha256:{}", "a".repeat(64))).unwrap();
    // One image is for all architectures, and told of once.
    let error = with("localhost:5000/mariadb").unwrap_err().to_string();
    assert_eq!(error.matches("tomorrow").count(), 1, "{error}");
}

#[test]
fn a_component_without_what_it_needs_is_refused() {
    let error = refused(
        "name = \"s\"\n[components.mesos-master]\nnodes = [\"ams1\", \"fra1\", \"par1\"]\n",
        &three(),
    );
    assert!(
        error.ends_with("mesos-master cannot work without zookeeper; add components.zookeeper"),
        "{error}"
    );
}

#[test]
fn secrets_are_generated_unless_given() {
    let all = "name = \"s\"\n[components.mariadb]\nnodes = [\"ams1\", \"fra1\", \"par1\"]\n";
    let stack = read(&format!("{all}[secrets]\nmariadb-root = {{ file = \"root\" }}\n"), &three()).unwrap();
    assert_eq!(stack.secrets["mariadb-root"], SecretSource::File("root".into()));
    assert_eq!(stack.secrets["mariadb-grafana"], SecretSource::Generate(32));
    let error = refused(&format!("{all}[secrets]\nmariadb-rot = {{ generate = 20 }}\n"), &three());
    assert!(error.ends_with("did you mean `mariadb-root`?"), "{error}");
    let error = refused(&format!("{all}[secrets]\nmariadb-root = {{ generate = 4 }}\n"), &three());
    assert!(error.contains("from 16 to 256"), "{error}");
}

#[test]
fn what_is_proposed_resolves_without_warnings_over_three_sites() {
    for sites in [
        &[("ams", &[A][..]), ("fra", &[A]), ("par", &[A])][..],
        &[("ams", &[A, A]), ("fra", &[A, A]), ("par", &[A])],
        &[("ams", &[A, A]), ("fra", &[A, Arch::Arm64]), ("par", &[A]), ("home", &[Arch::Arm])],
    ] {
        let members = mesh(sites);
        let proposal = propose::propose("s", &members);
        let stack =
            read(&proposal.text, &members).unwrap_or_else(|error| panic!("{error}\n{}", proposal.text));
        assert!(stack.warnings.is_empty(), "{:?}\n{}", stack.warnings, proposal.text);
        assert!(proposal.notes.is_empty(), "{:?}", proposal.notes);
    }
}

#[test]
fn a_mesh_too_small_for_a_quorum_gets_none_proposed() {
    let members = mesh(&[("ams", &[A]), ("fra", &[Arch::Arm])]);
    let proposal = propose::propose("s", &members);
    assert!(
        !proposal.text.contains("zookeeper]") && proposal.notes[0].contains("three are the least"),
        "{proposal:?}"
    );
    read(&proposal.text, &members).unwrap();
}

#[test]
fn the_shipped_schema_is_that_of_the_code() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/stack.schema.json");
    let made = json_schema();
    if std::env::var_os("MESHD_WRITE_GOLDEN").is_some() {
        std::fs::write(&path, &made).unwrap();
    }
    let shipped = std::fs::read_to_string(&path).unwrap_or_default();
    assert!(
        shipped == made,
        "docs/stack.schema.json is out of date: run this test with MESHD_WRITE_GOLDEN=1"
    );
}

#[test]
fn every_key_of_the_file_has_an_example() {
    use crate::config::diagnose::keys_of;
    let keys = [
        keys_of::<raw::Raw>(),
        keys_of::<raw::RawNode>(),
        keys_of::<raw::RawSecret>(),
        keys_of::<raw::RawComponent>(),
    ];
    for key in keys.concat() {
        assert!(places::example(key).is_some(), "{key}");
    }
}

const MESOS: &str = "name = \"s\"\n[components.zookeeper]\nnodes = \"all\"\n[components.mesos-master]\nnodes = \"all\"\n\
                     [components.marathon]\nnodes = [\"ams1\", \"fra1\"]\n[components.influxdb]\nnodes = [\"ams1\", \"fra1\"]\n";

#[test]
fn services_go_through_marathon_where_the_stack_has_it_and_wait_for_it() {
    let text =
        format!("{MESOS}[components.mesos-agent]\nnodes = \"all\"\n[components.telegraf]\nnodes = \"all\"\n");
    let stack = read(&text, &three()).unwrap();
    let driver = |name: &str| stack.component(name).unwrap().driver;
    assert_eq!((driver("influxdb"), driver("telegraf")), (Driver::Marathon, Driver::Direct));
    assert_eq!((driver("zookeeper"), driver("marathon")), (Driver::Direct, Driver::Direct));
    let place = |name: &str| stack.placed.iter().position(|placed| placed.component.name == name).unwrap();
    assert!(place("influxdb") > place("marathon") && place("influxdb") > place("mesos-agent"));
    // The whole stack, or one component, without Marathon.
    let direct = text.replace("name = \"s\"", "name = \"s\"\ndriver = \"direct\"");
    assert_eq!(read(&direct, &three()).unwrap().component("influxdb").unwrap().driver, Driver::Direct);
    let direct = text.replace("[components.influxdb]", "[components.influxdb]\ndriver = \"direct\"");
    assert_eq!(read(&direct, &three()).unwrap().component("influxdb").unwrap().driver, Driver::Direct);
}

#[test]
fn what_marathon_cannot_start_is_said_or_refused() {
    let some = format!("{MESOS}[components.mesos-agent]\nnodes = [\"par1\", \"fra1\"]\n");
    let stack = read(&some, &three()).unwrap();
    assert_eq!(stack.component("influxdb").unwrap().driver, Driver::Direct);
    assert!(
        stack.warnings.iter().any(|one| one.message.contains("ams1 has no mesos-agent")),
        "{:?}",
        stack.warnings
    );
    let asked = some.replace("[components.influxdb]", "[components.influxdb]\ndriver = \"marathon\"");
    assert!(refused(&asked, &three()).contains("cannot go through Marathon on ams1"));
    let all = format!("{MESOS}[components.mesos-agent]\nnodes = \"all\"\n");
    let base = all.replace("[components.marathon]", "[components.marathon]\ndriver = \"marathon\"");
    assert!(refused(&base, &three()).contains("marathon cannot go through Marathon"));
    let port = all.replace("[components.influxdb]", "[components.influxdb]\nports = { http = 9999 }");
    let said = refused(&port, &three());
    assert!(said.contains("9999, which no mesos-agent offers") && said.contains("add 9999-9999"), "{said}");
    let none = with_zookeeper("nodes = \"all\"").replace("name", "driver = \"marathon\"\nname");
    assert!(refused(&none, &three()).contains("the stack has no marathon"));
    let word = with_zookeeper("nodes = \"all\"\ndriver = \"mesos\"");
    assert!(
        refused(&word, &three()).contains("write for example: driver = \"direct\""),
        "{}",
        refused(&word, &three())
    );
}

#[test]
fn a_registry_wants_a_user_and_a_secret_from_a_file() {
    let image = "image = \"registry.example.org:5000/zk:1\"\nnodes = [\"ams1\", \"fra1\", \"par1\"]";
    let login = "\n[registries.\"registry.example.org:5000\"]\nuser = \"stack\"\nsecret = \"pull\"";
    let secret = "\n[secrets]\npull = { file = \"pull.secret\" }";
    let stack = read(&with_zookeeper(&format!("{image}{login}{secret}")), &three()).unwrap();
    let placed = stack.component("zookeeper").unwrap();
    let registry = placed.registries.get(registry_of(&placed.images[&A])).unwrap();
    assert_eq!((registry.user.as_str(), registry.secret.as_str()), ("stack", "pull"));
    assert_eq!(stack.secrets["pull"], SecretSource::File("pull.secret".into()));
    // A password of theirs cannot be made up; a misspelt key has a neighbour; a registry without images is odd.
    assert!(refused(&with_zookeeper(&format!("{image}{login}")), &three()).contains("cannot be generated"));
    let typo = login.replace("user", "usr");
    assert!(
        refused(&with_zookeeper(&format!("{image}{typo}{secret}")), &three()).contains("did you mean `user`")
    );
    let other = login.replace("example.org", "example.com");
    let stack = read(&with_zookeeper(&format!("{image}{other}{secret}")), &three()).unwrap();
    assert!(
        stack.warnings.iter().any(|one| one.message.contains("no image comes from")),
        "{:?}",
        stack.warnings
    );
    assert_eq!(
        (registry_of("zookeeper:3"), registry_of("a/b:1"), registry_of("localhost/a")),
        ("docker.io", "docker.io", "localhost")
    );
}
