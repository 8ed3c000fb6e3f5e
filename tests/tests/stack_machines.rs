//! Machines as administrators have them: systemd as the first process, an SSH server, Python. The Ansible role makes members
//! of them, and its unit runs meshd with all the fences that it has.

use meshnet_tests::net::{SETTLE, done, meshd};
use meshnet_tests::stack::image_tar;
use netlab::{Engine, Lab, Machine};
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::time::Duration;

/// What the container that plays a machine is called.
const CONTAINER: &str = "machine";
/// Systemd starts its units within this, on a busy machine too.
const BOOT: Duration = Duration::from_secs(60);
/// All rights of a machine's root but those that tests may not have themselves.
const RIGHTS: [&str; 25] = [
    "chown",
    "dac_override",
    "dac_read_search",
    "fowner",
    "fsetid",
    "kill",
    "setgid",
    "setuid",
    "setpcap",
    "net_bind_service",
    "net_broadcast",
    "net_admin",
    "net_raw",
    "ipc_lock",
    "ipc_owner",
    "sys_chroot",
    "sys_ptrace",
    "sys_admin",
    "sys_nice",
    "sys_time",
    "mknod",
    "lease",
    "audit_write",
    "setfcap",
    "syslog",
];

/// Machines with systemd, and one from which they are set up.
struct Scene {
    lab: Lab,
    engines: Vec<Engine>,
    admin: Machine,
    inventory: PathBuf,
}

impl Scene {
    fn new() -> Scene {
        let lab = done(Lab::new());
        let internet = done(lab.switch("internet"));
        let admin = done(lab.machine("admin"));
        done(admin.plug(&internet, &["203.0.113.100/24"]));
        let key = lab.directory().join("key");
        let mut keygen = Command::new("ssh-keygen");
        ended_well(done(keygen.args(["-q", "-t", "ed25519", "-N", "", "-f"]).arg(&key).output()));
        let public = done(std::fs::read_to_string(key.with_extension("pub")));

        let mut engines = Vec::new();
        let mut inventory = String::from("[mesh]\n");
        for number in 1..=3 {
            let name = format!("m{number}");
            let machine = done(lab.machine(&name));
            let address = format!("203.0.113.{number}");
            done(machine.plug(&internet, &[&format!("{address}/24")]));
            let mut engine = done(Engine::new(&machine));
            done(engine.start());
            done(engine.docker(&["load", "-q", "-i", &image_tar("machine").to_string_lossy()]));
            boot(&engine, public.trim());
            inventory.push_str(&format!("{name} ansible_host={address} meshd_datacenter=dc{number}"));
            if number == 1 {
                // The founder is the mesh's relay; its engine is the one that it runs on itself.
                inventory.push_str(&format!(
                    " meshd_endpoints='[\"{address}:4655\"]' meshd_relay=true meshd_engine=unix:///srv/engine.sock"
                ));
            }
            inventory.push('\n');
            engines.push(engine);
        }
        inventory.push_str(&format!(
            "[mesh:vars]\nansible_user=root\nansible_ssh_private_key_file={}\nansible_python_interpreter=/usr/bin/python3\n\
             ansible_ssh_common_args='-o StrictHostKeyChecking=no -o UserKnownHostsFile=/dev/null'\n\
             meshd_founder=m1\nmeshd_binaries={{\"x86_64\": \"{}\"}}\n",
            key.display(),
            meshd().display()
        ));
        let file = lab.directory().join("inventory");
        done(std::fs::write(&file, inventory));
        Scene { lab, engines, admin, inventory: file }
    }

    /// Runs the playbook over SSH; what it said.
    fn play(&self, further: &[&str]) -> String {
        let mut play = Command::new("ansible-playbook");
        play.arg("-i").arg(&self.inventory).args(further).arg("mesh.yml");
        play.current_dir(Path::new(env!("CARGO_MANIFEST_DIR")).join("../contrib/ansible"));
        play.env("ANSIBLE_NOCOLOR", "1").env("ANSIBLE_ROLES_PATH", "roles");
        play.env("ANSIBLE_HOME", self.lab.directory().join("ansible"));
        ended_well(done(done(self.admin.enter(|| play.output()))))
    }

    /// Runs a program on a machine.
    fn on(&self, number: usize, command: &[&str]) -> String {
        done(self.engines[number - 1].docker(&[&["exec", CONTAINER], command].concat()))
    }

    /// Waits until a machine's unit runs, and never had to be started again.
    fn is_active(&self, number: usize) {
        let what = format!("m{number}'s unit to be active");
        done(netlab::wait::until(&what, BOOT, || {
            let show =
                ["exec", CONTAINER, "systemctl", "show", "-p", "ActiveState,NRestarts,Result", "meshd"];
            // Just after its start the machine's systemd does not answer yet.
            let state = self.engines[number - 1].docker(&show).map_err(|error| error.to_string())?;
            let fine = ["ActiveState=active", "NRestarts=0", "Result=success"];
            if fine.iter().all(|word| state.contains(word)) { Ok(()) } else { Err(state) }
        }));
    }
}

/// Starts a machine and waits until systemd has started everything.
fn boot(engine: &Engine, key: &str) {
    let key = format!("AUTHORIZED_KEY={key}");
    let engine_socket = format!("{}:/srv/engine.sock", engine.socket().display());
    let mut run: Vec<&str> =
        vec!["run", "-d", "--name", CONTAINER, "--network", "host", "--cgroupns", "private"];
    for option in ["systempaths=unconfined", "seccomp=unconfined", "apparmor=unconfined"] {
        run.extend(["--security-opt", option]);
    }
    run.extend(["--tmpfs", "/run", "--tmpfs", "/tmp", "--device", "/dev/net/tun", "--cap-drop", "ALL"]);
    // What a stack's containers see must be at the same place for the engine and for meshd.
    run.extend(["-v", "/run/meshd-stack:/run/meshd-stack", "-v", &engine_socket, "-e", &key]);
    for right in RIGHTS {
        run.extend(["--cap-add", right]);
    }
    run.push("meshnet-test/machine:test");
    done(engine.docker(&run));
    done(netlab::wait::until("systemd to have started everything", BOOT, || {
        match engine.docker(&["exec", CONTAINER, "systemctl", "is-system-running"]) {
            Ok(state) if state.trim() == "running" => Ok(()),
            other => Err(format!("{other:?}")),
        }
    }));
}

fn ended_well(output: Output) -> String {
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    assert!(output.status.success(), "{}\n{}", text(&output.stdout), text(&output.stderr));
    text(&output.stdout)
}

fn changes(text: &str) -> Vec<u32> {
    let recap = text.lines().filter(|line| line.contains("unreachable=0") && line.contains("failed=0"));
    recap.filter_map(|line| line.split("changed=").nth(1)?.split_whitespace().next()?.parse().ok()).collect()
}

#[test]
#[ignore = "needs root, dockerd, ansible-core, and Debian's mirror: make test-stack"]
fn the_playbook_over_ssh_makes_units_that_survive_a_restart_and_drive_an_engine() {
    let scene = Scene::new();

    // What would be done is told without doing it.
    scene.play(&["--check"]);
    for number in 1..=3 {
        assert_eq!(
            scene.on(number, &["sh", "-c", "ls /usr/bin/meshd /var/lib/meshd 2>/dev/null || true"]),
            ""
        );
    }

    let first = scene.play(&["-v"]);
    assert!(changes(&first).len() == 3 && changes(&first).iter().all(|changed| *changed > 0), "{first}");
    assert!(!first.contains("meshd://"), "an invitation is shown:\n{first}");
    for number in 1..=3 {
        scene.is_active(number);
        scene.on(number, &["test", "!", "-e", "/var/lib/meshd/invitation"]);
    }
    let reach = |from: usize, to: &str| {
        let what = format!("m{from} to reach {to}");
        done(netlab::wait::until(&what, SETTLE, || {
            let command = ["exec", CONTAINER, "meshd", "ping", "-c", "1", to];
            scene.engines[from - 1].docker(&command).map(drop).map_err(|error| error.to_string())
        }));
    };
    reach(2, "m3");
    reach(3, "m1");

    let second = scene.play(&[]);
    assert_eq!(changes(&second), [0, 0, 0], "{second}");

    // Behind the unit's fences the founder drives its engine: a real server, with its data where the engine keeps it and in
    // a directory of the machine.
    let engine = &scene.engines[0];
    done(engine.docker(&["load", "-q", "-i", &image_tar("influxdb").to_string_lossy()]));
    let text =
        "name = \"unit\"\n[components.influxdb]\nnodes = [\"m1\"]\nimage = \"meshnet-test/influxdb:test\"\n";
    scene.on(1, &["sh", "-c", &format!("cat > /root/stack.toml <<'E'\n{text}E\n")]);
    let up = scene.on(1, &["meshd", "stack", "up", "--file", "/root/stack.toml"]);
    assert!(up.contains("1 change made"), "{up}");
    let again = scene.on(1, &["meshd", "stack", "up", "--file", "/root/stack.toml"]);
    assert!(again.starts_with("nothing to do"), "{again}");
    scene.on(1, &["meshd", "stack", "down", "--volumes", "--file", "/root/stack.toml"]);

    // What was stopped by hand is started; what was removed comes back.
    scene.on(3, &["systemctl", "stop", "meshd"]);
    scene.on(2, &["sh", "-c", "rm /etc/systemd/system/meshd.service.d/ansible.conf"]);
    let third = scene.play(&["--diff"]);
    let changed = changes(&third);
    assert!(changed[0] == 0 && changed[1] > 0 && changed[2] > 0, "{third}");
    scene.is_active(3);

    // The machine starts again, and nobody does anything.
    done(scene.engines[1].docker(&["restart", CONTAINER]));
    scene.is_active(2);
    reach(3, "m2");
    let fourth = scene.play(&[]);
    assert_eq!(changes(&fourth), [0, 0, 0], "{fourth}");
}
