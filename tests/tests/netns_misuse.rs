//! What goes wrong around a daemon is told, with the right exit code, and costs nothing that was there before.

use meshnet_tests::net::{PORT, SETTLE, done, found, meshd};
use netlab::mesh::Member;
use netlab::{Finished, Lab, Process};
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

const FAILED: i32 = 1;
const USAGE: i32 = 64;
const UNAVAILABLE: i32 = 69;
const NOT_PERMITTED: i32 = 77;

/// A machine with an initialised member whose daemon does not run.
fn member() -> (Lab, Member) {
    let lab = done(Lab::new());
    let lan = done(lab.switch("lan"));
    let machine = done(lab.machine("a"));
    done(machine.plug(&lan, &["192.0.2.1/24"]));
    let mut member = found(&machine, &[]);
    let status = done(member.terminate(SETTLE));
    assert!(status.is_some_and(|status| status.success()), "{status:?}");
    (lab, member)
}

/// The command ended with this code and a message that has all of these words.
#[track_caller]
fn told(finished: &Finished, code: i32, words: &[&str]) {
    println!("{} -> {:?}: {}", finished.line, finished.code(), finished.stderr.trim());
    assert_eq!(finished.code(), Some(code), "{finished:?}");
    for word in words {
        assert!(
            finished.stderr.to_lowercase().contains(&word.to_lowercase()),
            "no {word:?} in: {}",
            finished.stderr
        );
    }
    assert!(!finished.stderr.contains("panicked"), "{}", finished.stderr);
}

#[test]
fn verbs_that_need_the_daemon_say_that_it_does_not_run() {
    let (_lab, member) = member();
    for verb in [&["status"][..], &["peers"], &["routes"], &["ping", "b"], &["status", "--json"]] {
        told(&done(member.run(verb)), UNAVAILABLE, &["meshd up"]);
    }
}

#[test]
fn a_directory_without_a_mesh_says_how_to_get_one() {
    let (lab, mut member) = member();
    member.set_state(lab.directory().join("nothing-here"));
    told(&done(member.run(&["up"])), FAILED, &["meshd init", "meshd join"]);
}

#[test]
fn a_second_daemon_on_the_same_state_is_refused() {
    let (_lab, mut member) = member();
    done(member.up());
    let pid = member.pid().expect("it runs").to_string();
    told(&done(member.run(&["up"])), FAILED, &["in use", &pid]);
    done(member.status());
}

#[test]
fn a_port_in_use_is_named() {
    let (_lab, member) = member();
    let _occupied = done(member.machine().udp(&format!("0.0.0.0:{PORT}")));
    told(&done(member.run(&["up"])), FAILED, &[&format!(":{PORT} is in use"), "listen"]);
}

#[test]
fn without_tun_or_rights_the_exit_code_is_77_and_the_remedy_is_told() {
    let (_lab, mut member) = member();
    member.set_wrapper(&[
        "unshare",
        "--mount",
        "sh",
        "-c",
        "mount -t tmpfs none /dev/net; exec \"$@\"",
        "sh",
    ]);
    told(&done(member.run(&["up"])), NOT_PERMITTED, &["/dev/net/tun", "modprobe tun"]);
    member.set_wrapper(&["setpriv", "--bounding-set=-net_admin", "--inh-caps=-net_admin"]);
    told(&done(member.run(&["up"])), NOT_PERMITTED, &["root", "cap_net_admin"]);
}

#[test]
fn a_state_directory_that_cannot_be_written_is_named() {
    let (lab, mut member) = member();
    let state = member.state().display().to_string();
    let read_only = "mount --bind \"$0\" \"$0\" && mount -o remount,bind,ro \"$0\" && exec \"$@\"";
    member.set_wrapper(&["unshare", "--mount", "sh", "-c", read_only, &state]);
    told(&done(member.run(&["up"])), NOT_PERMITTED, &[&state, "read-only"]);

    let empty = lab.directory().join("empty");
    done(std::fs::create_dir(&empty));
    let empty_text = empty.display().to_string();
    member.set_state(&empty);
    member.set_wrapper(&["unshare", "--mount", "sh", "-c", read_only, &empty_text]);
    told(
        &done(member.run(&["init", "--mesh", "other", "--name", "a"])),
        NOT_PERMITTED,
        &[&empty_text, "read-only"],
    );
}

#[test]
fn a_full_disk_is_told_and_nothing_is_lost() {
    let (lab, mut member) = member();
    let disk = SmallDisk::new(&lab, &member);
    let state = disk.mount.join("state");
    member.set_state(&state);
    member.set_wrapper(&disk.inside());
    done(member.ok(&["init", "--mesh", "other", "--name", "a"]));
    let before = disk.files(&state);
    disk.fill();

    // It may run on what it has; what it cannot write must be told, and what is there must stay whole.
    let invited = done(member.run(&["invite", "b"]));
    told(&invited, FAILED, &["no space", &state.display().to_string()]);
    done(member.start(&[]));
    let ended = member.daemon().expect("started").wait(Duration::from_secs(3));
    println!("with a full disk: {ended:?}, log: {}", member.log_text());
    assert!(member.log_text().to_lowercase().contains("no space"), "{}", member.log_text());
    member.kill();
    let after = disk.files(&state);
    for (name, content) in &before {
        assert_eq!(after.get(name), Some(content), "{name} changed");
    }

    let fresh = disk.mount.join("fresh");
    member.set_state(&fresh);
    told(&done(member.run(&["init", "--mesh", "third", "--name", "a"])), FAILED, &["no space"]);

    disk.empty();
    member.set_state(&state);
    done(member.up());
}

/// A tmpfs of 64 kB that only the processes in a mount namespace of their own see.
struct SmallDisk {
    mount: PathBuf,
    holder: Process,
}

impl SmallDisk {
    fn new(lab: &Lab, member: &Member) -> SmallDisk {
        let mount = lab.directory().join("disk");
        done(std::fs::create_dir(&mount));
        let mut command = Command::new("unshare");
        let script = "mount -t tmpfs -o size=64k none \"$0\" && echo mounted && exec sleep 1000";
        command.args(["--mount", "sh", "-c", script]).arg(&mount);
        let holder = done(member.machine().spawn(command));
        done(netlab::wait::until_true("the disk to be mounted", SETTLE, || {
            holder.log_text().contains("mounted")
        }));
        SmallDisk { mount, holder }
    }

    /// The mount as the holder sees it, for this process.
    fn seen(&self, path: &Path) -> PathBuf {
        let inside = path.strip_prefix("/").expect("an absolute path");
        PathBuf::from(format!("/proc/{}/root", self.holder.pid())).join(inside)
    }

    fn inside(&self) -> [String; 3] {
        ["nsenter".to_owned(), format!("--mount=/proc/{}/ns/mnt", self.holder.pid()), "--".to_owned()]
    }

    fn fill(&self) {
        let path = self.seen(&self.mount.join("fill"));
        // The write stops at the end of the disk, which is what it is for.
        let _ = std::fs::write(path, vec![0; 65536]);
    }

    fn empty(&self) {
        done(std::fs::remove_file(self.seen(&self.mount.join("fill"))));
    }

    fn files(&self, state: &Path) -> BTreeMap<String, Vec<u8>> {
        files(&self.seen(state))
    }
}

/// The regular files of a directory, without the lock.
fn files(directory: &Path) -> BTreeMap<String, Vec<u8>> {
    let entries = done(std::fs::read_dir(directory)).flatten();
    let regular = entries.filter(|entry| entry.file_type().is_ok_and(|kind| kind.is_file()));
    let named = regular.map(|entry| (entry.file_name().to_string_lossy().into_owned(), entry.path()));
    named
        .filter(|(name, _)| !name.contains("lock"))
        .map(|(name, path)| (name, done(std::fs::read(path))))
        .collect()
}

#[test]
fn damaged_state_files_are_detected_told_and_left_alone() {
    let (lab, mut member) = member();
    let sound = member.state().to_owned();
    let originals = files(&sound);
    assert!(originals.len() >= 5, "{:?}", originals.keys());
    type Damage = fn(&mut Vec<u8>);
    let damages: [(&str, Damage); 4] = [
        ("emptied", |bytes| bytes.clear()),
        ("cut in half", |bytes| bytes.truncate(bytes.len() / 2)),
        ("one bit changed", |bytes| {
            let middle = bytes.len() / 2;
            bytes[middle] ^= 1;
        }),
        ("last byte missing", |bytes| {
            bytes.pop();
        }),
    ];
    // A damaged cache is set aside, and no reason not to start.
    let others =
        |name: &&String| !name.ends_with(".toml") && !name.ends_with(".sock") && !name.contains("cache");
    for name in originals.keys().filter(others) {
        for (number, (damage, apply)) in damages.iter().enumerate() {
            let copy = lab.directory().join(format!("{name}-{number}"));
            let mut command = Command::new("cp");
            command.arg("-a").arg(&sound).arg(&copy);
            assert!(done(member.machine().run(command, SETTLE)).success());
            let mut bytes = originals[name].clone();
            apply(&mut bytes);
            done(std::fs::write(copy.join(name), &bytes));
            member.set_state(&copy);
            let finished = done(member.run(&["up"]));
            assert_eq!(finished.code(), Some(FAILED), "{finished:?}");
            let text = finished.stderr;
            println!("{name} {damage}: {}", text.trim());
            assert!(text.contains(name.as_str()), "{name} {damage} is not told: {text}");
            assert!(!text.contains("panicked"), "{text}");
            assert_eq!(done(std::fs::read(copy.join(name))), bytes, "{name} {damage} was overwritten");
        }
    }
}

#[test]
fn a_wrong_key_in_the_configuration_names_file_line_column_and_the_right_one() {
    let (_lab, member) = member();
    let path = member.state().join("meshd.toml");
    done(std::fs::write(&path, "# comment\nmtu = 1380\n  listem = [\"0.0.0.0:4655\"]\n"));
    told(&done(member.run(&["up"])), USAGE, &[&format!("{}:3:3", path.display()), "`listen`"]);
    done(std::fs::write(&path, "mtu = \"big\"\n"));
    told(
        &done(member.run(&["up"])),
        USAGE,
        &[&format!("{}:1:7", path.display()), "write for example: mtu = "],
    );
}

#[test]
fn wrong_usage_ends_with_64_and_help_with_0() {
    let (_lab, member) = member();
    told(&done(member.run(&["unknown-verb"])), USAGE, &["usage"]);
    told(&done(member.run(&["invite"])), USAGE, &["usage"]);
    let help = done(member.run(&["--help"]));
    assert!(help.success() && help.stdout.contains("join"), "{help:?}");
    let init = Member::new(member.machine(), &meshd());
    told(&done(init.run(&["init", "--mesh", "lab", "--name", "a"])), FAILED, &["meshd"]);
}
