//! Joining: one command, one success per invitation, and a clear word for everything else.

use base64::Engine;
use base64::prelude::{BASE64_STANDARD, BASE64_STANDARD_NO_PAD};
use meshnet_tests::net::{MESH, PORT, SETTLE, Split, admit, done, figure, found, overlay, restart_with};
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

fn hex_of(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// Three ways in which a program prints bytes.
fn printed(bytes: &[u8]) -> [String; 3] {
    // The last character of base64 also has bits of what follows.
    let base64 = BASE64_STANDARD_NO_PAD.encode(bytes);
    let listed = bytes[..8].iter().map(u8::to_string).collect::<Vec<_>>().join(", ");
    [hex_of(bytes), base64[..base64.len() - 1].to_owned(), listed]
}

/// Every 32 bytes, wherever they begin, of the payloads of a node's secret files.
fn secrets(member: &Member) -> Vec<Vec<u8>> {
    let mut secrets = Vec::new();
    for name in ["identity.key", "transport.keys", "gate.key", "authority.key", "recovery.key"] {
        let Ok(text) = std::fs::read_to_string(member.state().join(name)) else { continue };
        let body = text.lines().skip(1).take_while(|line| !line.starts_with("blake2s "));
        let payload = done(BASE64_STANDARD.decode(body.collect::<String>()));
        assert!(payload.len() >= 32, "{name}");
        secrets.extend(payload.windows(32).map(<[u8]>::to_vec));
    }
    assert!(secrets.len() > 100, "{}", secrets.len());
    secrets
}

/// What of a log can be the bytes of a key: words of 40 characters and more, and lines with lists of eight and more.
fn long_words_and_lists(log: &str) -> String {
    let words = log.split(|c: char| !c.is_ascii_alphanumeric() && c != '+' && c != '/');
    let lists = log.lines().filter(|line| line.matches(", ").count() >= 7);
    words.filter(|word| word.len() >= 40).chain(lists).collect::<Vec<_>>().join("\n")
}

#[test]
fn printed_bytes_are_found_in_a_log() {
    let bytes: Vec<u8> = (0..32).map(|n| n * 7).collect();
    for text in
        [hex_of(&bytes), format!("key={};", BASE64_STANDARD.encode(&bytes)), format!("Key({bytes:?})")]
    {
        let log = format!("a line\nTRACE meshd: {text} and more\n");
        let found = long_words_and_lists(&log);
        assert!(printed(&bytes).iter().any(|form| found.contains(form)), "{text}");
    }
}

/// Through an invitation, handshakes, traffic, new transport keys, and a new authority.
#[test]
fn no_secret_is_logged_at_any_level() {
    let mut founder = founder();
    restart_with(&mut founder.member, "log = \"trace\"");
    let mut node = founder.candidate(2);
    let url = done(founder.member.invite("n2", &[]));
    let joined = done(node.run(&["join", &url, "-vvv"]));
    assert_eq!(joined.code(), Some(0), "{joined:?}");
    done(node.start(&["-vvv"]));
    done(node.wait_until_up(SETTLE));
    let target = overlay(&founder.member);
    done(node.wait_for_ping(target, SETTLE));
    let mut known = [secrets(&founder.member), secrets(&node)].concat();
    done(node.ok(&["keys", "rotate", "--wait"]));
    done(founder.member.ok(&["authority", "rotate"]));
    done(node.wait_for_ping(target, SETTLE));
    known.extend([secrets(&founder.member), secrets(&node)].concat());
    known.sort();
    known.dedup();

    let logs = [founder.member.log_text(), node.log_text(), joined.stdout, joined.stderr];
    let invitation = url.rsplit(['/', '#', '?', '=', '&']).next().unwrap_or(&url).to_owned();
    assert!(invitation.len() >= 20, "{url}");
    for log in &logs {
        assert!(!log.contains(&invitation), "the invitation");
        let where_bytes_are = long_words_and_lists(log);
        for text in known.iter().flat_map(|secret| printed(secret)) {
            assert!(!where_bytes_are.contains(&text), "{text}");
        }
    }
    for log in &logs[..2] {
        assert!(log.lines().filter(|line| line.contains("DEBUG meshd")).count() > 5, "{log}");
    }
}
