//! Nodes as administrators set them up: meshd as a container, and by the Ansible playbook.

use meshnet_tests::net::{SETTLE, done, figure, found, meshd};
use netlab::{Engine, Lab, Machine};
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::time::Duration;

const IMAGE: &str = "meshd:test";

fn contrib(path: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../contrib").join(path)
}

fn machine(lab: &Lab, internet: &netlab::Switch, number: u8) -> Machine {
    let machine = done(lab.machine(&format!("m{number}")));
    done(machine.plug(internet, &[&format!("203.0.113.{number}/24")]));
    machine
}

fn ended_well(output: Output) -> String {
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    assert!(output.status.success(), "{}\n{}", text(&output.stdout), text(&output.stderr));
    text(&output.stdout)
}

/// Builds the image in an engine; what the script says.
fn image(engine: &Engine) -> String {
    let mut build = Command::new(contrib("docker/build.sh"));
    build.arg(meshd()).arg(IMAGE).env("DOCKER_HOST", format!("unix://{}", engine.socket().display()));
    ended_well(done(build.output()))
}

#[test]
#[ignore = "needs root and dockerd: make test-stack"]
fn a_container_with_one_capability_and_nothing_to_write_is_a_member() {
    let lab = done(Lab::new());
    let internet = done(lab.switch("internet"));
    let (first, second) = (machine(&lab, &internet, 1), machine(&lab, &internet, 2));
    let founder = found(&first, &["--endpoint", "203.0.113.1:4655"]);
    let mut engine = done(Engine::new(&second));
    done(engine.start());
    let size = image(&engine);
    let bytes: u64 = size.split_whitespace().rev().nth(1).and_then(|word| word.parse().ok()).expect("a size");
    figure("image of meshd, as built for these tests", format!("{:.1} MB", bytes as f64 / 1e6));

    let rights =
        ["--network=host", "--cap-drop=ALL", "--cap-add=NET_ADMIN", "--device=/dev/net/tun", "--read-only"];
    let rights =
        [&rights[..], &["--security-opt=no-new-privileges", "--tmpfs=/run", "--volume=state:/var/lib/meshd"]]
            .concat();
    let url = done(founder.invite("second", &[]));
    // The invitation goes in by standard input: arguments of containers can be read.
    let mut join = engine.command(&[&["run", "--rm", "-i"], &rights[..], &[IMAGE, "join", "-"]].concat());
    join.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut join = done(join.spawn());
    done(std::io::Write::write_all(&mut join.stdin.take().expect("a pipe"), url.as_bytes()));
    ended_well(done(join.wait_with_output()));
    let run = [&["run", "-d", "--name", "meshd", "--restart=unless-stopped"], &rights[..], &[IMAGE]].concat();
    done(engine.docker(&run));

    let peer = done(founder.wait_for_peer("second", SETTLE, |peer| peer.path.is_some()));
    let there = peer.addresses[0].split('/').next().and_then(|text| text.parse().ok()).expect("an address");
    done(founder.wait_for_ping(there, SETTLE));
    let here = done(founder.address(false));
    assert!(
        done(second.ping(here, Duration::from_secs(2))).is_some(),
        "the container's machine reaches the mesh"
    );
    let status = done(engine.docker(&["exec", "meshd", "/usr/bin/meshd", "status", "--json"]));
    assert!(status.contains("\"second\""), "{status}");

    // It is the same member after its container was made anew.
    done(engine.docker(&["rm", "-f", "meshd"]));
    done(engine.docker(&run));
    done(founder.wait_for_ping(there, SETTLE));
}

#[test]
#[ignore = "needs root, dockerd, and ansible-core: make test-stack"]
fn the_playbook_makes_a_mesh_changes_nothing_twice_and_shows_no_secret() {
    let lab = done(Lab::new());
    let internet = done(lab.switch("internet"));
    let machines = [1, 2, 3].map(|number| machine(&lab, &internet, number));
    let mut engines: Vec<Engine> = machines.iter().map(|machine| done(Engine::new(machine))).collect();
    engines.iter_mut().for_each(|engine| done(engine.start()));
    let archive = lab.directory().join("image.tar");
    image(&engines[0]);
    done(engines[0].docker(&["save", IMAGE, "-o", &archive.to_string_lossy()]));

    // Each machine's engine, and with it each container, is in the machine's own network.
    let mut inventory = String::from("[mesh]\n");
    for (machine, engine) in machines.iter().zip(&engines) {
        let (name, number) = (machine.name(), machine.name().trim_start_matches('m'));
        let endpoint = if name == "m1" {
            format!("meshd_endpoints='[\"203.0.113.{number}:4655\"]'")
        } else {
            String::new()
        };
        inventory.push_str(&format!(
            "{name} {endpoint} meshd_state={}/state meshd_docker='[\"docker\", \"-H\", \"unix://{}\"]'\n",
            machine.directory().display(),
            engine.socket().display()
        ));
    }
    inventory.push_str(&format!(
        "[mesh:vars]\nansible_connection=local\nansible_become=false\nansible_python_interpreter=/usr/bin/python3\nmeshd_mode=container\n\
         meshd_image={IMAGE}\nmeshd_image_archive={}\nmeshd_founder=m1\nmeshd_datacenter=here\n",
        archive.display()
    ));
    let file = lab.directory().join("inventory");
    done(std::fs::write(&file, inventory));
    let play = |further: &[&str]| {
        let mut play = Command::new("ansible-playbook");
        play.arg("-i").arg(&file).args(further).arg("mesh.yml").current_dir(contrib("ansible"));
        play.env("ANSIBLE_NOCOLOR", "1")
            .env("ANSIBLE_LOCALHOST_WARNING", "0")
            .env("ANSIBLE_ROLES_PATH", "roles");
        ended_well(done(play.output()))
    };
    let changes = |text: &str| -> Vec<u32> {
        let recap = text.lines().filter(|line| line.contains("unreachable=0") && line.contains("failed=0"));
        let changed =
            recap.filter_map(|line| line.split("changed=").nth(1)?.split_whitespace().next()?.parse().ok());
        changed.collect()
    };

    // What would be done is told without doing it.
    play(&["--check"]);
    assert!(engines.iter().all(|engine| done(engine.docker(&["ps", "-aq"])).is_empty()));

    let first = play(&["-v"]);
    assert!(changes(&first).len() == 3 && changes(&first).iter().all(|changed| *changed > 0), "{first}");
    assert!(!first.contains("meshd://"), "an invitation is shown:\n{first}");
    for machine in &machines {
        assert!(!machine.directory().join("state/invitation").exists());
    }
    done(netlab::wait::until("all three to be in the mesh", SETTLE, || {
        let peers = done(engines[0].docker(&["exec", "meshd", "/usr/bin/meshd", "peers"]));
        if peers.contains("m2") && peers.contains("m3") { Ok(()) } else { Err(peers) }
    }));

    let second = play(&[]);
    assert_eq!(changes(&second), [0, 0, 0], "{second}");
    // What was removed by hand comes back, and is the same member.
    done(engines[1].docker(&["rm", "-f", "meshd"]));
    let third = play(&["--diff"]);
    assert_eq!(changes(&third), [0, 1, 0], "{third}");
}
