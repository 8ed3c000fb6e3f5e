//! Images from a real registry that wants a password: pulled, refused, interrupted, and the password nowhere to be seen.

use meshnet_tests::net::{SETTLE, done, figure};
use meshnet_tests::stack::registry::{HOST, PASSWORD, Registries, USER};
use meshnet_tests::stack::sought::assert_nowhere;
use meshnet_tests::stack::{Cluster, Ran};
use std::time::Instant;

const NODES: [&str; 2] = ["ams", "fra"];

fn specification(image: &str) -> String {
    format!(
        "name = \"pull\"\n[registries.\"{HOST}\"]\nuser = \"{USER}\"\nsecret = \"registry\"\n[secrets]\nregistry = {{ file = \
         \"registry.secret\" }}\n[components.influxdb]\nnodes = [\"ams\", \"fra\"]\nimage = \"{image}\"\n"
    )
}

fn up(cluster: &Cluster) -> Ran {
    cluster.nodes[0].stack(&["up", "--file", &cluster.file()])
}

#[test]
#[ignore = "needs root, dockerd, docker-registry, and images from Debian's mirror: make test-stack"]
fn images_come_from_a_registry_with_a_password_that_shows_nowhere() {
    let cluster = Cluster::new(&NODES, &["influxdb"]);
    for (node, other) in cluster.nodes.iter().zip(["fra", "ams"]) {
        done(node.member.wait_for_peer(other, SETTLE, |_| true));
    }
    let mut registries = Registries::start(&cluster, cluster.directory());
    let image = registries.push(&cluster.nodes[0], "meshnet-test/influxdb:test");
    cluster.nodes[1].docker(&["rmi", "meshnet-test/influxdb:test"]);
    cluster.specify(&specification(&image));
    let secret = cluster.directory().join("registry.secret");

    // Without the file, with a wrong password, with a registry that is down: each is said as what it is.
    let failed = up(&cluster);
    assert!(failed.stderr.contains("cannot read the secret registry"), "{}", failed.stderr);
    done(std::fs::write(&secret, "a-wrong-password-0123\n"));
    let failed = up(&cluster);
    assert_eq!(failed.code, Some(1));
    assert!(failed.stderr.contains("wants credentials"), "{}", failed.stderr);
    done(std::fs::write(&secret, format!("{PASSWORD}\n")));
    registries.stop();
    let failed = up(&cluster);
    assert!(failed.stderr.contains("cannot be reached"), "{}", failed.stderr);
    registries.resume(&cluster);

    // Killed in the middle of pulls, again and again.
    let file = cluster.file();
    for _ in 0..3 {
        let arguments = ["up", "--json", "--file", &file];
        let is_pull = |line: &str| line.contains("\"begins\"") && line.contains("\"pull\"");
        let killed = cluster.nodes[0].stack_killed_at(&arguments, is_pull);
        assert!(killed.is_ok(), "it came to its end without a pull: {killed:?}");
    }
    let started = Instant::now();
    let done_at_last = up(&cluster);
    assert_eq!(done_at_last.code, Some(0), "{}\n{}", done_at_last.stdout, done_at_last.stderr);
    figure("stack up with pulls, after three kills", format!("{:.1} s", started.elapsed().as_secs_f64()));
    for node in &cluster.nodes {
        assert_eq!(node.containers().len(), 1, "{:?}", node.containers());
    }
    // Another operator's node has no such file, and needs none.
    let elsewhere = cluster.nodes[1].stack(&["up", "--stack", "pull"]);
    assert!(elsewhere.stdout.starts_with("nothing to do"), "{}\n{}", elsewhere.stdout, elsewhere.stderr);
    let told = [("what up said", done_at_last.stdout + &done_at_last.stderr)];
    assert_nowhere(&[PASSWORD.to_owned()], &cluster.public_places(&told), 20_000);
}
