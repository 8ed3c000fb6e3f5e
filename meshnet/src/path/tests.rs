use super::*;

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
            set: PathSet::new(1000),
            now: Mono(1_000_000),
            rtt: BTreeMap::new(),
            replies: Vec::new(),
            probes: 0,
        };
        for (id, ms) in paths {
            net.set.add(net.now, *id, Origin::Announced);
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
fn a_much_better_relay_wins_over_a_bad_direct_path() {
    let mut net = Net::new(&[(RELAY, 20), (direct(1), 180)]);
    net.run(Duration::from_secs(5), true);
    assert_eq!(net.primary(), Some(RELAY));
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
    assert!(net.probes <= 2 * 41, "{} probes", net.probes);
    assert!(net.set.any_alive(net.now));
}

#[test]
fn proven_paths_are_never_pushed_out_by_candidates() {
    let mut net = Net::new(&[(direct(1), 1)]);
    net.run(Duration::from_secs(1), true);
    for port in 100..300 {
        net.set.add(net.now, direct(port), Origin::Announced);
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

fn lan(port: u16) -> PathId {
    PathId::Direct { socket: SocketId(0), remote: SocketAddr::from(([192, 168, 1, 1], port)) }
}

#[test]
fn the_lan_comes_first_among_equals_even_when_it_answers_last() {
    let mut net = Net::new(&[(direct(1), 2)]);
    net.run(Duration::from_secs(3), true);
    assert_eq!(net.primary(), Some(direct(1)));
    net.set.add(net.now, lan(1), Origin::Announced);
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
    assert_eq!(changes, [(Duration::from_millis(5), Selection { primary: Some(RELAY), duplicate: None })]);
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
    net.set.note_large(net.now);
    net.set.limit_size(net.now, &STREAM, 600);
    net.set.doubt_size(net.now, &STREAM);
    net.set.recheck(net.now);
    assert_eq!(net.set.poll_size_probe(net.now), None);
    assert_eq!(net.set.datagram_len(&STREAM), mtu::ASSUMED);
}
