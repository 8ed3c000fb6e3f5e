use super::*;
use proto::endpoint::CandidateKind;

const RELAY: PathId = PathId::Relay { relay: MemberId([7; 16]) };

fn direct(port: u16) -> PathId {
    PathId::Direct { socket: SocketId(0), remote: SocketAddr::from(([192, 0, 2, 1], port)) }
}

/// A set over a fake network: each path has a fixed round-trip time, or `None` while it is cut.
struct Net {
    set: PathSet,
    now: Mono,
    rtt: BTreeMap<PathId, Option<Duration>>,
    replies: Vec<(Mono, PathId, u32)>,
    probes: u32,
}

impl Net {
    fn new(paths: &[(PathId, u64)]) -> Net {
        let mut net = Net {
            set: PathSet::new([7; 16]),
            now: Mono(1_000_000),
            rtt: BTreeMap::new(),
            replies: Vec::new(),
            probes: 0,
        };
        for (id, ms) in paths {
            net.set.add(net.now, *id, Origin::Announced(CandidateKind::Interface));
            net.rtt.insert(*id, Some(Duration::from_millis(*ms)));
        }
        net
    }

    /// Runs for `span` in steps of 5 ms, with traffic all along when `traffic`; returns the selections that were made.
    fn run(&mut self, span: Duration, traffic: bool) -> Vec<(Duration, Selection)> {
        let start = self.now;
        let mut seen: Vec<(Duration, Selection)> = Vec::new();
        while self.now.since(start) < span {
            self.now = self.now + Duration::from_millis(5);
            if traffic {
                self.set.traffic(self.now);
            }
            let now = self.now;
            let due: Vec<_> = self.replies.iter().copied().filter(|(at, ..)| *at <= now).collect();
            self.replies.retain(|(at, ..)| *at > now);
            for (_, path, id) in due {
                self.set.handle_reply(now, &path, id);
            }
            while let Some(probe) = self.set.poll_probe(now) {
                self.probes += 1;
                if let Some(rtt) = self.rtt.get(&probe.path).copied().flatten() {
                    self.replies.push((now + rtt, probe.path, probe.id));
                }
            }
            let selection = self.set.select(now);
            if seen.last().is_none_or(|(_, last)| *last != selection) {
                seen.push((now.since(start), selection));
            }
        }
        seen
    }

    fn primary(&mut self) -> Option<PathId> {
        self.set.select(self.now).primary
    }
}

#[test]
fn a_direct_path_wins_over_a_relay_of_the_same_quality() {
    let mut net = Net::new(&[(RELAY, 1), (direct(1), 1)]);
    net.run(Duration::from_secs(1), true);
    assert_eq!(net.primary(), Some(direct(1)));
}

#[test]
fn an_address_of_the_lan_wins_over_a_link_local_one_and_that_over_one_outside() {
    let at = |text: &str| PathId::Direct { socket: SocketId(0), remote: text.parse().unwrap() };
    let (lan, link, outside) = (at("10.0.0.1:1"), at("[fe80::1%3]:1"), direct(1));
    let mut net = Net::new(&[(outside, 1), (link, 1)]);
    net.run(Duration::from_secs(60), true);
    assert_eq!(net.primary(), Some(link));
    net.set.add(net.now, lan, Origin::Lan);
    net.rtt.insert(lan, Some(Duration::from_millis(1)));
    net.run(Duration::from_secs(60), true);
    assert_eq!(net.primary(), Some(lan));
    // What was announced on the LAN counts as such, whatever its address is.
    let mut net = Net::new(&[(outside, 1), (direct(2), 1)]);
    net.run(Duration::from_secs(60), true);
    assert_eq!(net.primary(), Some(outside));
    net.set.add(net.now, direct(2), Origin::Lan);
    net.run(Duration::from_secs(60), true);
    assert_eq!(net.primary(), Some(direct(2)));
}

#[test]
fn a_much_better_relay_wins_over_a_bad_direct_path() {
    let mut net = Net::new(&[(RELAY, 20), (direct(1), 180)]);
    net.run(Duration::from_secs(5), true);
    assert_eq!(net.primary(), Some(RELAY));
}

#[test]
fn a_direct_path_that_was_slow_while_the_machine_was_busy_takes_over_from_a_relay_soon_after() {
    let mut net = Net::new(&[(RELAY, 8), (direct(1), 150)]);
    net.run(Duration::from_secs(20), true);
    assert_eq!(net.primary(), Some(RELAY));
    net.rtt.insert(direct(1), Some(Duration::from_millis(3)));
    net.run(Duration::from_secs(5), true);
    assert_eq!(net.primary(), Some(direct(1)));
}

#[test]
fn a_dead_path_is_left_within_a_second_and_a_half() {
    let mut net = Net::new(&[(RELAY, 2), (direct(1), 1)]);
    net.run(Duration::from_secs(3), true);
    assert_eq!(net.primary(), Some(direct(1)));
    net.rtt.insert(direct(1), None);
    let changes = net.run(Duration::from_secs(2), true);
    let duplicated =
        changes.iter().find(|(_, s)| s.duplicate == Some(RELAY)).expect("duplicates while in doubt").0;
    let left = changes.iter().find(|(_, s)| s.primary == Some(RELAY)).expect("switches").0;
    assert!(duplicated <= Duration::from_millis(950), "duplicated after {duplicated:?}");
    assert!(left <= Duration::from_millis(1500), "left after {left:?}");
}

#[test]
fn a_path_that_only_receives_is_left_too() {
    let mut net = Net::new(&[(RELAY, 2), (direct(1), 1)]);
    net.run(Duration::from_secs(3), true);
    net.rtt.insert(direct(1), None);
    for _ in 0..600 {
        net.run(Duration::from_millis(5), true);
        net.set.heard(net.now, direct(1));
    }
    assert_eq!(net.primary(), Some(RELAY));
}

#[test]
fn a_slower_path_is_slow_and_not_dead() {
    let mut net = Net::new(&[(direct(1), 5)]);
    net.run(Duration::from_secs(3), true);
    net.rtt.insert(direct(1), Some(Duration::from_millis(700)));
    net.run(Duration::from_secs(5), true);
    assert!(net.set.any_alive(net.now));
    let rtt = net.set.quality(&direct(1)).expect("proven").rtt();
    assert!(rtt > Duration::from_millis(300), "{rtt:?}");
}

#[test]
fn equal_paths_do_not_flap() {
    let mut net = Net::new(&[(direct(1), 10), (direct(2), 10), (direct(3), 11)]);
    net.run(Duration::from_secs(3), true);
    let changes = net.run(Duration::from_secs(60), true);
    assert_eq!(changes.len(), 1, "{changes:?}");
}

#[test]
fn traffic_that_fills_a_queue_which_all_paths_share_is_no_reason_for_another_one() {
    // Whatever the time that has gone by since each of them was probed last.
    for idle_ms in (0..1000).step_by(50) {
        let mut net = Net::new(&[(RELAY, 2), (direct(1), 1)]);
        net.run(Duration::from_millis(20_000 + idle_ms), true);
        assert_eq!(net.primary(), Some(direct(1)));
        net.rtt = net.rtt.keys().map(|id| (*id, Some(Duration::from_millis(15)))).collect();
        let chosen = net.run(Duration::from_secs(30), true);
        let left = chosen.iter().find(|(_, selection)| selection.primary != Some(direct(1)));
        assert_eq!(left, None, "{idle_ms} ms");
        // If it is that path alone that got slow, it is left soon.
        net.rtt.insert(direct(1), Some(Duration::from_millis(60)));
        let after = net.run(Duration::from_secs(10), true);
        let left = after.iter().find(|(_, selection)| selection.primary == Some(RELAY));
        assert!(left.is_some_and(|(after, _)| *after < Duration::from_secs(4)), "{idle_ms} ms: {after:?}");
    }
}

#[test]
fn an_idle_peer_costs_nothing_and_a_kept_one_little() {
    let mut net = Net::new(&[(direct(1), 1), (RELAY, 2)]);
    net.run(Duration::from_secs(2), true);
    net.run(Duration::from_secs(70), false);
    net.probes = 0;
    net.run(Duration::from_secs(600), false);
    assert_eq!(net.probes, 0);
    net.set.set_keep(true);
    net.run(Duration::from_secs(10), false);
    net.probes = 0;
    net.run(Duration::from_secs(600), false);
    assert!(net.probes <= 41 + 6, "{} probes", net.probes);
    assert!(net.set.any_alive(net.now));
}

#[test]
fn who_follows_sends_no_keepalives_while_the_other_end_does_and_notices_when_it_stops() {
    let mut net = Net::new(&[(direct(1), 1), (RELAY, 2)]);
    net.set.set_keep(true);
    net.set.set_follow(true);
    net.run(Duration::from_secs(70), true);
    net.run(Duration::from_secs(20), false);
    net.probes = 0;
    for second in 0..600 {
        // Of the path that is not in use the other end sends one every five minutes.
        if second % 15 == 0 {
            net.set.heard(net.now, direct(1));
        }
        if second % 300 == 0 {
            net.set.heard(net.now, RELAY);
        }
        net.run(Duration::from_secs(1), false);
    }
    assert_eq!(net.probes, 0);
    assert_eq!(net.set.select(net.now).primary, Some(direct(1)));
    net.rtt.insert(direct(1), None);
    net.set.heard(net.now, direct(1));
    let after = net.run(Duration::from_secs(20), false);
    let left = after.iter().find(|(_, selection)| selection.primary == Some(RELAY));
    let limit = KEEPALIVE + KEEPALIVE_LATER + PROBE_ACTIVE * (DEAD_MISSES + 1);
    assert!(left.is_some_and(|(after, _)| *after < limit), "{after:?}");
}

#[test]
fn a_keepalive_of_the_other_end_does_not_put_off_what_doubt_or_traffic_asks() {
    let mut net = Net::new(&[(direct(1), 1), (RELAY, 2)]);
    net.set.set_keep(true);
    net.set.set_follow(true);
    net.run(Duration::from_secs(70), true);
    net.run(Duration::from_secs(20), false);
    net.set.heard(net.now, direct(1));
    net.set.doubt(net.now, &direct(1));
    net.set.heard(net.now, direct(1));
    assert!(net.set.poll_probe(net.now).is_some_and(|probe| probe.path == direct(1)));
    net.run(Duration::from_secs(20), false);
    net.set.heard(net.now, direct(1));
    net.probes = 0;
    net.run(Duration::from_secs(3), true);
    assert!(net.probes >= 9, "{} probes", net.probes);
}

#[test]
fn proven_paths_are_never_pushed_out_by_candidates() {
    let mut net = Net::new(&[(direct(1), 1)]);
    net.run(Duration::from_secs(1), true);
    for port in 100..300 {
        net.set.add(net.now, direct(port), Origin::Announced(CandidateKind::Interface));
    }
    assert!(net.set.paths.len() <= MAX_PATHS);
    assert!(net.set.paths.contains_key(&direct(1)));
}

#[test]
fn a_reply_to_a_probe_never_sent_proves_nothing() {
    let mut net = Net::new(&[(direct(1), 1)]);
    assert_eq!(net.set.handle_reply(net.now, &direct(1), 4242), None);
    assert!(!net.set.any_alive(net.now));
}

#[test]
fn a_peer_that_answers_before_it_is_asked_seems_no_nearer() {
    let mut net = Net::new(&[(direct(1), 40)]);
    net.run(Duration::from_secs(2), true);
    let rtt = |net: &Net| net.set.quality(&direct(1)).expect("it is proven").rtt();
    assert!(rtt(&net) >= Duration::from_millis(39), "{:?}", rtt(&net));
    let mut asked = Vec::new();
    for _ in 0..20 {
        net.now = net.now + PROBE_ACTIVE;
        net.set.traffic(net.now);
        let Some(probe) = net.set.poll_probe(net.now) else { continue };
        // What it may think that comes next, from all that it has seen.
        let guesses = asked.iter().chain([&probe.id]).flat_map(|id: &u32| {
            (1..50).flat_map(|step: u32| [id.wrapping_add(step), id.wrapping_sub(step)])
        });
        for guess in guesses.collect::<Vec<_>>() {
            assert_eq!(net.set.handle_reply(net.now, &direct(1), guess), None);
        }
        asked.push(probe.id);
        net.set.handle_reply(net.now + Duration::from_millis(40), &direct(1), probe.id);
    }
    assert!(asked.len() >= 10, "{asked:?}");
    assert!(rtt(&net) >= Duration::from_millis(39), "{:?}", rtt(&net));
}

#[test]
fn a_direct_path_that_was_cut_for_long_is_back_soon_after_it_is_mended() {
    let mut net = Net::new(&[(direct(1), 5), (RELAY, 20)]);
    net.run(Duration::from_secs(5), true);
    assert_eq!(net.set.select(net.now).primary, Some(direct(1)));
    net.rtt.insert(direct(1), None);
    net.run(Duration::from_secs(120), true);
    assert_eq!(net.set.select(net.now).primary, Some(RELAY));
    net.rtt.insert(direct(1), Some(Duration::from_millis(5)));
    net.run(Duration::from_secs(4), true);
    assert_eq!(net.set.select(net.now).primary, Some(direct(1)));
}

#[test]
fn a_path_that_was_cut_shortly_is_back_soon_also_where_the_other_end_is_heard_before_it_answers() {
    for heard_first in [false, true] {
        let mut net = Net::new(&[(RELAY, 2), (direct(1), 1)]);
        net.run(Duration::from_secs(5), true);
        net.rtt.insert(direct(1), None);
        net.run(Duration::from_millis(2200), true);
        assert_eq!(net.primary(), Some(RELAY));
        net.rtt.insert(direct(1), Some(Duration::from_millis(1)));
        if heard_first {
            net.set.heard(net.now, direct(1));
        }
        net.run(PROBE_DEAD + Duration::from_millis(500), true);
        assert_eq!(net.primary(), Some(direct(1)), "heard first: {heard_first}");
    }
}

fn lan(port: u16) -> PathId {
    PathId::Direct { socket: SocketId(0), remote: SocketAddr::from(([192, 168, 1, 1], port)) }
}

#[test]
fn the_lan_comes_first_among_equals_even_when_it_answers_last() {
    let mut net = Net::new(&[(direct(1), 2)]);
    net.run(Duration::from_secs(3), true);
    assert_eq!(net.primary(), Some(direct(1)));
    net.set.add(net.now, lan(1), Origin::Announced(CandidateKind::Interface));
    net.rtt.insert(lan(1), Some(Duration::from_millis(2)));
    // Its first measurements count as jitter, until there are some.
    net.run(Duration::from_secs(15), true);
    assert_eq!((net.primary(), net.set.last_change().0), (Some(lan(1)), Change::Kind));
    net.rtt.insert(lan(1), Some(Duration::from_millis(60)));
    net.run(Duration::from_secs(10), true);
    assert_eq!(net.primary(), Some(direct(1)), "but not at any price");
    assert!(matches!(net.set.last_change().0, Change::Better(_)));
}

#[test]
fn what_is_forbidden_is_neither_probed_nor_used_and_may_be_allowed_again() {
    let mut net = Net::new(&[(RELAY, 20), (direct(1), 1)]);
    net.run(Duration::from_secs(3), true);
    assert_eq!(net.primary(), Some(direct(1)));
    net.set.set_policy(net.now, Policy { paths: Use::Relay, ..Policy::default() });
    let changes = net.run(Duration::from_secs(3), true);
    assert_eq!(
        changes,
        [(Duration::from_millis(5), Selection { primary: Some(RELAY), ..Selection::default() })]
    );
    assert_eq!(net.set.views(net.now)[0].standing, Standing::Forbidden);
    assert_eq!(net.set.last_change().0, Change::Forbidden);
    net.rtt.insert(RELAY, None);
    let changes = net.run(Duration::from_secs(10), true);
    assert!(changes.iter().all(|(_, it)| it.primary == Some(RELAY) && it.duplicate.is_none()), "{changes:?}");
    net.set.set_policy(net.now, Policy::default());
    net.run(Duration::from_secs(3), true);
    assert_eq!(net.primary(), Some(direct(1)));
}

#[test]
fn a_policy_names_relays_and_networks() {
    let other = MemberId([8; 16]);
    let relay = |relay| PathId::Relay { relay };
    let via = Policy { via: vec![other], ..Policy::default() };
    assert!(!via.allows(&RELAY) && via.allows(&relay(other)) && via.allows(&direct(1)));
    let not = Policy { forbidden_relays: vec![other], ..Policy::default() };
    assert!(not.allows(&RELAY) && !not.allows(&relay(other)) && not.allows(&direct(1)));
    let networks = vec!["192.168.0.0/16".parse().unwrap()];
    let not = Policy { forbidden_networks: networks, ..Policy::default() };
    assert!(not.allows(&direct(1)) && !not.allows(&lan(1)));
    let only = Policy { paths: Use::Direct, ..Policy::default() };
    assert!(only.allows(&direct(1)) && !only.allows(&RELAY));
}

const STREAM: PathId = PathId::Direct {
    socket: SocketId::TCP,
    remote: SocketAddr::new(std::net::IpAddr::V4(std::net::Ipv4Addr::new(192, 0, 2, 1)), 443),
};

#[test]
fn a_connection_takes_over_when_datagrams_are_blocked_and_gives_back_when_they_arrive_again() {
    let mut net = Net::new(&[(direct(1), 20), (STREAM, 21)]);
    net.run(Duration::from_secs(20), true);
    let unproven =
        |net: &Net| net.set.views(net.now).iter().any(|path| path.id == STREAM && path.misses == 0);
    assert_eq!(net.primary(), Some(direct(1)));
    assert!(net.set.quality(&STREAM).is_none() && unproven(&net), "nobody tries it while datagrams arrive");
    net.rtt.insert(direct(1), None);
    let changes = net.run(Duration::from_secs(5), true);
    let (after, selection) = changes.last().expect("a change");
    assert_eq!(selection.primary, Some(STREAM));
    assert!(*after < Duration::from_millis(1500), "{changes:?}");
    net.rtt.insert(direct(1), Some(Duration::from_millis(20)));
    let changes = net.run(Duration::from_secs(15), true);
    assert_eq!(net.primary(), Some(direct(1)), "{changes:?}");
    assert!(net.set.quality(&STREAM).is_some(), "it is kept for a while");
    net.run(STREAM_LINGER, true);
    assert!(net.set.quality(&STREAM).is_none(), "and then forgotten");
}

#[test]
fn a_peer_that_datagrams_never_reached_is_tried_by_connection_after_a_second_and_by_both_from_then_on() {
    let mut net = Net::new(&[(direct(1), 0), (STREAM, 30)]);
    net.rtt.insert(direct(1), None);
    let (changes, last) = (net.run(Duration::from_secs(3), true), STREAM_AFTER + Duration::from_millis(100));
    assert_eq!(changes.last().map(|(_, it)| it.primary), Some(Some(STREAM)));
    assert!(changes.last().is_some_and(|(after, _)| *after >= STREAM_AFTER && *after < last), "{changes:?}");
    net.run(Duration::from_secs(60), true);
    net.rtt.insert(direct(1), Some(Duration::from_millis(30)));
    net.run(Duration::from_secs(15), true);
    assert_eq!(net.primary(), Some(direct(1)));
}

#[test]
fn a_peer_that_nobody_needs_is_followed_all_the_same_when_it_speaks_from_somewhere_else() {
    let accepted = PathId::Direct { socket: SocketId::ACCEPTED, remote: ([192, 0, 2, 9], 50_000).into() };
    let mut net = Net::new(&[(direct(1), 5)]);
    net.set.prove(net.now, direct(1));
    net.run(Duration::from_secs(5), false);
    assert_eq!((net.primary(), net.probes), (Some(direct(1)), 0), "idle");
    // What arrives over datagrams is dropped from now on, and the peer, which keeps the link, has found out.
    net.rtt.insert(direct(1), None);
    net.rtt.insert(accepted, Some(Duration::from_millis(5)));
    assert!(net.set.heard(net.now, accepted));
    net.run(Duration::from_secs(2), false);
    assert_eq!(net.primary(), Some(accepted));
    net.run(Duration::from_secs(5), false);
    let probes = net.probes;
    net.run(Duration::from_secs(20), false);
    assert_eq!(net.probes, probes, "idle again");
}

#[test]
fn a_closed_connection_is_left_at_once_and_one_that_came_in_is_forgotten() {
    let accepted = PathId::Direct { socket: SocketId::ACCEPTED, remote: ([192, 0, 2, 9], 50_000).into() };
    let mut net = Net::new(&[(STREAM, 30), (accepted, 20)]);
    net.run(Duration::from_secs(5), true);
    assert_eq!(net.primary(), Some(accepted));
    assert!(net.set.stream_closed(net.now, &accepted) && !net.set.stream_closed(net.now, &direct(1)));
    assert_eq!(net.set.select(net.now).primary, Some(STREAM));
    assert!(!net.set.stream_closed(net.now, &accepted), "it was no more than a trace");
    assert!(net.set.views(net.now).iter().all(|path| path.id != accepted));
}

#[test]
fn a_connection_is_never_asked_for_sizes_and_carries_what_most_paths_do() {
    let mut net = Net::new(&[(STREAM, 5)]);
    net.run(Duration::from_secs(3), true);
    net.set.note_large(net.now, 1_000_000);
    net.set.limit_size(net.now, &STREAM, 600);
    net.set.doubt_size(net.now, &STREAM);
    net.set.recheck(net.now);
    assert_eq!(net.set.poll_size_probe(net.now), None);
    assert_eq!(net.set.datagram_len(&STREAM), mtu::ASSUMED);
}

#[test]
fn paths_whose_times_waver_take_turns_once_a_minute_at_most() {
    for (relay_ms, direct_ms) in [(20, 22), (5, 9)] {
        let mut net = Net::new(&[(RELAY, relay_ms), (direct(1), direct_ms), (direct(2), direct_ms + 1)]);
        let (mut state, mut changes) = (7u64, 0);
        net.run(Duration::from_secs(5), true);
        let mut before = net.primary();
        let minutes = 3;
        for _ in 0..minutes * 200 {
            for (id, ms) in [(RELAY, relay_ms), (direct(1), direct_ms), (direct(2), direct_ms + 1)] {
                state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
                // Up to twice as long, for a third of a second.
                net.rtt.insert(id, Some(Duration::from_millis(ms + (state >> 33) % (ms + 1))));
            }
            net.run(Duration::from_millis(300), true);
            let now = net.primary();
            changes += u64::from(std::mem::replace(&mut before, now) != now);
        }
        println!("{relay_ms} and {direct_ms} ms that waver: {changes} changes in {minutes} minutes");
        assert!(changes <= minutes, "{relay_ms} and {direct_ms} ms: {changes}");
    }
}

#[test]
fn queues_that_a_stream_fills_by_turns_do_not_move_it_between_addresses_of_one_line() {
    let mut moved = 0;
    for seed in 1..=20_u64 {
        let paths = [lan(1), lan(2)];
        let mut net = Net::new(&paths.map(|id| (id, 5)));
        net.run(Duration::from_secs(5), true);
        let (mut state, before) = (seed, net.primary());
        for _ in 0..600 {
            for id in paths {
                state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
                let ms = [5, 5, 5, 5, 5, 5, 10, 10, 15, 25][(state >> 33) as usize % 10];
                net.rtt.insert(id, Some(Duration::from_millis(ms)));
            }
            net.run(Duration::from_millis(100), true);
        }
        moved += u32::from(net.primary() != before);
    }
    assert!(moved <= 2, "{moved} of 20 streams moved within a minute");
}
