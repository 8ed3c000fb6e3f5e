//! Joining: one command, one success per invitation, and a clear word for everything else.

use meshnet_tests::net::{MESH, PORT, SETTLE, Split, admit, done, figure, found, overlay};
use netlab::mesh::Member;
use netlab::{Finished, Lab, Machine, Switch};
use std::time::{Duration, Instant};

/// A mesh of one on a LAN.
struct Founder {
    lab: Lab,
    lan: Switch,
    member: Member,
}

fn founder() -> Founder {
    let lab = done(Lab::new());
    let lan = done(lab.switch("lan"));
    let machine = done(lab.machine("founder"));
    done(machine.plug(&lan, &["192.0.2.1/24"]));
    let endpoint = format!("192.0.2.1:{PORT}");
    let member = found(&machine, &["--address", "10.99.0.1/16", "--relay", "--endpoint", &endpoint]);
    Founder { lab, lan, member }
}

impl Founder {
    fn machine(&self, number: u8) -> Machine {
        let machine = done(self.lab.machine(&format!("n{number}")));
        done(machine.plug(&self.lan, &[&format!("192.0.2.{number}/24")]));
        machine
    }

    fn candidate(&self, number: u8) -> Member {
        Member::new(&self.machine(number), &meshnet_tests::net::meshd())
    }
}

/// Joining must have failed with a message that has one of these words, and left no half-made member behind.
#[track_caller]
fn refused(member: &Member, finished: Finished, words: &[&str]) {
    let text = finished.stderr.to_lowercase();
    figure("refused", finished.stderr.trim());
    assert!(matches!(finished.code(), Some(1 | 64)), "{finished:?}");
    assert!(words.iter().any(|word| text.contains(word)), "{text}");
    assert!(!text.contains("panicked"), "{text}");
    let up = done(member.run(&["up"]));
    assert_ne!(up.code(), Some(0), "there is nothing to start: {up:?}");
}

#[test]
fn joining_is_one_command_and_an_invitation_works_once() {
    let founder = founder();
    let url = done(founder.member.invite("n2", &[]));
    assert_eq!(url.lines().count(), 1);
    assert!(url.starts_with(&format!("meshd://{MESH}/")), "{url}");
    let mut first = founder.candidate(2);
    let start = Instant::now();
    done(first.ok(&["join", &url]));
    figure("join on a LAN", format!("{:?}", start.elapsed()));
    let second = founder.candidate(3);
    refused(&second, done(second.run(&["join", &url])), &["used", "already"]);
    done(first.up());
    done(first.wait_for_ping(overlay(&founder.member), SETTLE));
}

#[test]
fn an_expired_invitation_is_told_so() {
    let founder = founder();
    let url = done(founder.member.invite("n2", &["--ttl", "1s"]));
    let late = founder.candidate(2);
    let made_at = Instant::now();
    done(netlab::wait::until_true("the invitation to expire", SETTLE, || {
        made_at.elapsed() > Duration::from_secs(3)
    }));
    refused(&late, done(late.run(&["join", &url])), &["expired"]);
}

#[test]
fn an_altered_invitation_is_told_damaged_whichever_character_it_is() {
    let founder = founder();
    let url = done(founder.member.invite("n2", &[]));
    let candidate = founder.candidate(2);
    let blob = url.rfind('/').expect("a URL") + 1;
    for position in (blob..url.len()).step_by(7).chain([url.len() - 1]) {
        let mut altered = url.clone().into_bytes();
        altered[position] = if altered[position] == b'A' { b'B' } else { b'A' };
        let altered = done(String::from_utf8(altered));
        refused(&candidate, done(candidate.run(&["join", &altered])), &["damaged", "checksum", "newer"]);
    }
    let cut = &url[..url.len() - 10];
    refused(&candidate, done(candidate.run(&["join", cut])), &["damaged", "checksum", "cut", "short"]);
    refused(&candidate, done(candidate.run(&["join", "https://example.org/x"])), &["meshd://"]);
    // It still works: nothing of this used it up.
    done(candidate.ok(&["join", &url]));
}

#[test]
fn an_invitation_of_another_mesh_is_refused_and_tells_nothing() {
    let mut founder = founder();
    let url = done(founder.member.invite("n2", &[]));
    done(founder.member.terminate(SETTLE));
    // Another mesh with the same name comes to live at the same address.
    let other_state = founder.member.machine().directory().join("other");
    founder.member.set_state(other_state);
    done(founder.member.ok(&["init", "--mesh", MESH, "--name", "founder", "--relay"]));
    done(founder.member.up());
    let candidate = founder.candidate(2);
    let start = Instant::now();
    let words = ["no answer", "not answer", "another mesh", "did not answer", "nobody answer", "reach"];
    refused(&candidate, done(candidate.run(&["join", &url, "--timeout", "5s"])), &words);
    figure("time to give up joining", format!("{:?}", start.elapsed()));
}

#[test]
fn of_ten_that_use_one_invitation_at_once_exactly_one_gets_in() {
    let founder = founder();
    let url = done(founder.member.invite("n2", &[]));
    let candidates: Vec<Member> = (2..12).map(|number| founder.candidate(number)).collect();
    let outcomes: Vec<Finished> = std::thread::scope(|scope| {
        let joins: Vec<_> =
            candidates.iter().map(|candidate| scope.spawn(|| done(candidate.run(&["join", &url])))).collect();
        joins.into_iter().map(|join| join.join().expect("no panic")).collect()
    });
    let successes = outcomes.iter().filter(|outcome| outcome.success()).count();
    figure("ten at once with one invitation", format!("{successes} joined"));
    assert_eq!(successes, 1, "{outcomes:?}");
    for (candidate, outcome) in candidates.iter().zip(outcomes) {
        if !outcome.success() {
            refused(candidate, outcome, &["used", "already"]);
        }
    }
}

#[test]
fn one_joins_while_the_inviter_is_behind_a_relay() {
    let split = Split::new(1);
    // `a` may issue; nobody on the right can send it a packet.
    let machine = done(split.lab.machine("issuer"));
    done(machine.plug(&split.left, &["192.0.2.2/24"]));
    let issuer = admit(&split.relays[0], &machine, &["--role", "issuer"], &[]);
    done(issuer.wait_for_ping(overlay(&split.b), SETTLE));
    let url = done(issuer.invite("c", &[]));
    let machine = done(split.lab.machine("c"));
    done(machine.plug(&split.right, &["198.51.100.3/24"]));
    let mut joiner = Member::new(&machine, &meshnet_tests::net::meshd());
    let start = Instant::now();
    done(joiner.ok(&["join", &url]));
    figure("join through a relay", format!("{:?}", start.elapsed()));
    done(joiner.up());
    done(joiner.wait_for_ping(overlay(&split.a), SETTLE));
}

#[test]
fn an_address_that_a_member_has_is_not_given_again() {
    let founder = founder();
    let taken = overlay(&founder.member).to_string();
    let clash = done(founder.member.run(&["invite", "n2", "--address", &taken]));
    assert_eq!(clash.code().map(|code| code == 1 || code == 64), Some(true), "{clash:?}");
    assert!(clash.stderr.contains(&taken) && clash.stderr.contains("founder"), "{}", clash.stderr);
    // Two open invitations for one address clash as well, at the latest when the second is used.
    let free = "10.99.7.7";
    let (first, second) = (founder.candidate(2), founder.candidate(3));
    let url = done(founder.member.invite("n2", &["--address", free]));
    done(first.ok(&["join", &url]));
    let again = done(founder.member.run(&["invite", "n3", "--address", free]));
    if again.success() {
        let url = again.stdout.trim().to_owned();
        refused(&second, done(second.run(&["join", &url])), &[free]);
    } else {
        assert!(again.stderr.contains(free), "{}", again.stderr);
    }
}
