//! What a mesh costs while nobody uses it.

use meshnet_tests::net::{Lan, done, figure};
use std::time::{Duration, Instant};

#[test]
fn four_idle_nodes_stay_under_15_mb_and_half_a_percent_of_a_core() {
    let mut lan = Lan::new(3);
    // What joining and the first pings cost is over when a whole second costs next to nothing.
    let window = Duration::from_secs(20);
    let mut members: Vec<_> = lan.nodes.iter_mut().chain([&mut lan.relay]).collect();
    wait_for(Duration::from_secs(5));
    let before: Vec<_> =
        members.iter_mut().map(|member| done(member.daemon().expect("it runs").usage())).collect();
    let start = Instant::now();
    wait_for(window);
    let seconds = start.elapsed().as_secs_f64();
    for (member, before) in members.iter_mut().zip(before) {
        let after = done(member.daemon().expect("it runs").usage());
        let percent = (after.cpu - before.cpu).as_secs_f64() / seconds * 100.0;
        let megabytes = after.resident_bytes as f64 / 1e6;
        let private = after.anonymous_bytes as f64 / 1e6;
        let name = member.machine().name().to_owned();
        figure(
            &format!("idle, {name}"),
            format!("{megabytes:.1} MB resident ({private:.1} private), {percent:.2} % of a core"),
        );
        assert!(megabytes < 15.0, "{name}: {megabytes} MB");
        assert!(percent < 0.5, "{name}: {percent} %");
    }
}

/// Lets time pass: here it is what is measured over, not something waited for.
fn wait_for(time: Duration) {
    let start = Instant::now();
    done(netlab::wait::until_true("time to pass", time * 2, || start.elapsed() >= time));
}
