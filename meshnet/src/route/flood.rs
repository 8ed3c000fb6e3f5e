//! Flooding: who is sent a new record, who is merely told of it, and who is asked for one that did not come.
//!
//! Every neighbour is sent what is new, until it says that it has it from elsewhere: then it is told versions only, and
//! asks for what does not come. So a record goes over a few links to each node and its 32-byte version over the others,
//! and a lost datagram costs a question (after Leitão, Pereira, Rodrigues: "Epidemic broadcast trees", 2007). Whoever is no
//! neighbour of the other in the control plane, and merely has traffic with it, soon gets nothing. What is lost all the
//! same is found by comparing databases.
//!
//! Pure: what it decides comes out as [`Action`]s; who is a neighbour is asked of the caller.

use std::collections::{BTreeMap, VecDeque};
use std::time::Duration;

use super::lsdb::Version;
use crate::time::Mono;
use proto::id::MemberId;

/// What becomes known sooner after something was passed on waits for this long, to be passed on together. A lone change
/// waits for nothing: it has some hops before it.
pub const BATCH: Duration = Duration::from_millis(50);
/// The same while much changes at once, most of it twice: whoever has just started says so, and a moment later whom it is
/// connected with.
const BATCH_IN_STORM: Duration = Duration::from_millis(600);
/// Versions are told once more after this long, and those of records that were sent whole as well: one lost datagram in five
/// would keep one node in a hundred from hearing of a change at all, and in a mesh with one relay one in five.
const TELL_AGAIN: Duration = Duration::from_millis(150);
/// Versions that are to be told once more.
const MAX_TOLD: usize = 512;
/// A record that a neighbour has is waited for so long before it is asked for.
pub const GRACE: Duration = Duration::from_millis(100);
/// It is asked for again after this long, at first.
const ASK_AGAIN: Duration = Duration::from_millis(150);
/// Questions for one record; then a comparison will find it.
const MAX_ASKED: u32 = 8;
/// Records that are waited for.
const MAX_MISSING: usize = 1024;
/// Records that are waited for because one neighbour said so before others did.
const MAX_MISSING_OF_ONE: usize = 256;
/// Neighbours that are remembered to have one record.
const MAX_HOLDERS: usize = 4;
/// A neighbour is reminded of what it is to send at most this often.
const REMIND: Duration = Duration::from_secs(2);
/// Neighbours that send whole records to a relay: with three, one lost datagram in five delays one record in a hundred.
pub const SENDERS_TO_RELAY: usize = 3;
/// Neighbours that send whole records to any other node.
pub const SENDERS: usize = 1;

/// Most records, over all peers, that go out at once: when a thousand nodes start together, each has something new, and a
/// relay has a hundred peers. What is more waits for the next turn.
const MAX_AT_ONCE: usize = 4096;
/// So many records go out at once however many peers there are.
const FEW: usize = 8;

/// What one node is to send another of what is new.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, Default)]
pub enum Level {
    /// Nothing.
    Nothing,
    /// Versions, which are asked for where they are missing.
    Versions,
    /// Whole records.
    #[default]
    Records,
}

/// What the caller knows about a peer.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Neighbour {
    /// It is a neighbour in the control plane and answers.
    pub near: bool,
    /// It relies on this node for news of others.
    pub relies: bool,
}

/// Something to be sent.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Action {
    /// The records of these members.
    Push(MemberId, Vec<MemberId>),
    /// The versions of these members' records.
    Tell(MemberId, Vec<MemberId>),
    /// A question for a member's record.
    Ask(MemberId, MemberId),
    /// What the other is to send from now on.
    Want(MemberId, Level),
}

/// What one node has to pass on, and to hear from whom.
#[derive(Clone, Debug, Default)]
pub struct Flood {
    peers: BTreeMap<MemberId, Peer>,
    /// Origins of what is new, with whom it came from.
    news: BTreeMap<MemberId, Option<MemberId>>,
    flush_at: Option<Mono>,
    /// The same for this node's own record.
    own_at: Option<Mono>,
    flushed: Option<Mono>,
    /// Until then news of others are gathered for longer.
    storm: Mono,
    /// Where the next turn begins, when there is too much for one.
    turn: MemberId,
    /// What was told to whom lately.
    told: VecDeque<(Mono, MemberId, Vec<MemberId>)>,
    missing: BTreeMap<MemberId, Missing>,
    /// Wishes that have changed.
    wants: Vec<MemberId>,
}

#[derive(Clone, Copy, Debug, Default)]
struct Peer {
    /// What it wants.
    wants: Level,
    /// What we want of it.
    wanted: Level,
    said: Option<Mono>,
}

#[derive(Clone, Debug)]
struct Missing {
    /// Who says that it has which version. Nobody's word keeps another's from being looked into.
    holders: Vec<(MemberId, Version)>,
    at: Mono,
    asked: u32,
}

impl Flood {
    /// A session with a peer was made, maybe by one that has forgotten everything: returns what it is to be told again.
    pub fn established(&mut self, peer: MemberId, anew: bool) -> Level {
        let known = self.peers.entry(peer).or_default();
        if anew {
            *known = Peer::default();
        }
        known.wanted
    }

    /// A session with a neighbour was made while enough others send whole records: then versions will do, from the
    /// beginning. Returns what it is to be told.
    pub fn welcome(
        &mut self,
        peer: MemberId,
        relays: bool,
        neighbour: impl Fn(MemberId) -> Neighbour,
    ) -> Level {
        let enough = self.senders(&neighbour) > wanted_senders(relays);
        if let Some(known) = self.peers.get_mut(&peer)
            && known.wanted == Level::Records
            && neighbour(peer).near
            && enough
        {
            known.wanted = Level::Versions;
        }
        self.wanted(peer)
    }

    /// A session has ended.
    pub fn ended(&mut self, peer: MemberId) {
        self.peers.remove(&peer);
    }

    /// A peer says what it wants.
    pub fn wants(&mut self, peer: MemberId, level: Level) {
        if let Some(known) = self.peers.get_mut(&peer) {
            known.wants = level;
        }
    }

    /// Much is about to change until then: news of others are gathered for longer.
    pub fn expect_storm(&mut self, until: Mono) {
        self.storm = until;
    }

    /// A record is new here, and came from a peer, or is this node's own: that goes out at once, since changes of it were
    /// gathered before it was made.
    pub fn learned(&mut self, now: Mono, origin: MemberId, version: Version, from: Option<MemberId>) {
        self.news.insert(origin, from);
        let again = match self.flushed {
            _ if now < self.storm => now + BATCH_IN_STORM,
            Some(flushed) => now.max(flushed + BATCH),
            None => now,
        };
        let (due, at) = if from.is_some() { (&mut self.flush_at, again) } else { (&mut self.own_at, now) };
        *due = Some(due.map_or(at, |due| due.min(at)));
        if let Some(missing) = self.missing.get_mut(&origin) {
            missing.holders.retain(|(_, there)| *there > version);
            if missing.holders.is_empty() {
                self.missing.remove(&origin);
            }
        }
    }

    /// A peer sent a record that was known.
    pub fn known(
        &mut self,
        now: Mono,
        origin: MemberId,
        from: MemberId,
        relays: bool,
        neighbour: impl Fn(MemberId) -> Neighbour,
    ) {
        if origin == from || !self.peers.contains_key(&from) {
            return;
        }
        let near = neighbour(from).near;
        let level = if near { Level::Versions } else { Level::Nothing };
        if near && self.senders(&neighbour) <= wanted_senders(relays) && self.wanted(from) == Level::Records {
            return;
        }
        let Some(peer) = self.peers.get_mut(&from) else { return };
        let reminded = peer.said.is_some_and(|said| now.since(said) < REMIND);
        if peer.wanted != level || !reminded {
            (peer.wanted, peer.said) = (level, Some(now));
            self.wants.push(from);
        }
    }

    /// A peer has a version that is newer than what is here.
    pub fn missing(&mut self, now: Mono, origin: MemberId, version: Version, from: MemberId) {
        if let Some(missing) = self.missing.get_mut(&origin) {
            let room = missing.holders.len() < MAX_HOLDERS;
            match missing.holders.iter_mut().find(|(holder, _)| *holder == from) {
                Some((_, there)) => *there = version.max(*there),
                None if room => missing.holders.push((from, version)),
                None => {}
            }
            return;
        }
        let first = |missing: &&Missing| missing.holders.first().is_some_and(|(holder, _)| *holder == from);
        if self.missing.len() < MAX_MISSING
            && self.missing.values().filter(first).count() < MAX_MISSING_OF_ONE
        {
            let missing = Missing { holders: vec![(from, version)], at: now + GRACE, asked: 0 };
            self.missing.insert(origin, missing);
        }
    }

    /// Sees to it that enough neighbours send whole records, and that every neighbour sends at least versions.
    pub fn tend(&mut self, now: Mono, relays: bool, neighbour: impl Fn(MemberId) -> Neighbour) {
        let mut short = wanted_senders(relays).saturating_sub(self.senders(&neighbour));
        for (member, peer) in &mut self.peers {
            let level = match peer.wanted {
                Level::Records => continue,
                _ if !neighbour(*member).near => continue,
                _ if short > 0 => Level::Records,
                Level::Nothing => Level::Versions,
                Level::Versions => continue,
            };
            short -= usize::from(level == Level::Records);
            (peer.wanted, peer.said) = (level, Some(now));
            self.wants.push(*member);
        }
    }

    /// Records that are waited for.
    pub fn missing_len(&self) -> usize {
        self.missing.len()
    }

    /// When [`Flood::drive`] has something to do.
    pub fn poll_timeout(&self) -> Option<Mono> {
        if !self.wants.is_empty() {
            return Some(Mono(0));
        }
        let told = self.told.front().map(|(at, _, _)| *at);
        self.missing
            .values()
            .map(|missing| missing.at)
            .chain(self.flush_at)
            .chain(self.own_at)
            .chain(told)
            .min()
    }

    /// What is due.
    ///
    /// Members that relay pass on what they hear to everybody who has a session with them, others only to those who rely
    /// on them: nobody needs to hear from a leaf what its relays know.
    pub fn drive(
        &mut self,
        now: Mono,
        relays: bool,
        neighbour: impl Fn(MemberId) -> Neighbour,
    ) -> Vec<Action> {
        let mut actions = Vec::new();
        for (origin, missing) in &mut self.missing {
            if missing.at <= now {
                let (holder, _) = missing.holders[missing.asked as usize % missing.holders.len()];
                missing.asked += 1;
                missing.at = now + ASK_AGAIN * (1 << (missing.asked / 4).min(4));
                actions.push(Action::Ask(holder, *origin));
            }
        }
        if !actions.is_empty() {
            self.missing.retain(|_, missing| missing.asked < MAX_ASKED);
            self.tend(now, relays, &neighbour);
        }
        self.wants.sort_unstable();
        self.wants.dedup();
        for member in std::mem::take(&mut self.wants) {
            actions.push(Action::Want(member, self.wanted(member)));
        }
        while self.told.front().is_some_and(|(at, _, _)| *at <= now) {
            let Some((_, peer, origins)) = self.told.pop_front() else { break };
            if self.peers.contains_key(&peer) {
                actions.push(Action::Tell(peer, origins));
            }
        }
        let due = |at: Option<Mono>| at.is_some_and(|at| at <= now);
        if due(self.flush_at) || due(self.own_at) {
            let news = if due(self.flush_at) { self.next_news(now) } else { self.own_news(now) };
            for (member, peer) in &self.peers {
                let passes = relays || neighbour(*member).relies;
                let wanted = |(origin, from): &(&MemberId, &Option<MemberId>)| {
                    **origin != *member && **from != Some(*member) && (from.is_none() || passes)
                };
                let (own, others): (Vec<_>, Vec<_>) =
                    news.iter().filter(wanted).partition(|(_, from)| from.is_none());
                let ids = |news: Vec<(&MemberId, &Option<MemberId>)>| {
                    news.into_iter().map(|(origin, _)| *origin).collect::<Vec<_>>()
                };
                let (whole, told): (Vec<_>, Vec<_>) = match peer.wants {
                    Level::Records => ([ids(own), ids(others)].concat(), Vec::new()),
                    Level::Versions => (ids(own), ids(others)),
                    Level::Nothing => (ids(own), Vec::new()),
                };
                if !whole.is_empty() {
                    // A node's own record nobody else can tell of, and others may have no other neighbour to tell.
                    if neighbour(*member).near && self.told.len() < MAX_TOLD {
                        self.told.push_back((now + TELL_AGAIN, *member, whole.clone()));
                    }
                    actions.push(Action::Push(*member, whole));
                }
                if !told.is_empty() {
                    if self.told.len() < MAX_TOLD {
                        self.told.push_back((now + TELL_AGAIN, *member, told.clone()));
                    }
                    actions.push(Action::Tell(*member, told));
                }
            }
        }
        actions
    }

    /// This node's own news, and those of others where they need not wait.
    fn own_news(&mut self, now: Mono) -> BTreeMap<MemberId, Option<MemberId>> {
        if now >= self.storm {
            return self.next_news(now);
        }
        self.own_at = None;
        self.news.extract_if(.., |_, from| from.is_none()).collect()
    }

    /// News for this turn: all, or the next ones in the order of their origins, and in any case this node's own.
    fn next_news(&mut self, now: Mono) -> BTreeMap<MemberId, Option<MemberId>> {
        (self.flush_at, self.own_at, self.flushed) = (None, None, Some(now));
        let room = (MAX_AT_ONCE / self.peers.len().max(1)).max(FEW);
        let mut news = std::mem::take(&mut self.news);
        if news.len() <= room {
            return news;
        }
        let from_here = news.range(self.turn..).chain(news.range(..self.turn));
        let (mut chosen, mut rest) = (BTreeMap::new(), from_here.map(|(origin, _)| *origin));
        chosen.extend(rest.by_ref().take(room).filter_map(|origin| Some((origin, *news.get(&origin)?))));
        self.turn = rest.next().unwrap_or_default();
        chosen.extend(news.iter().filter(|(_, from)| from.is_none()).map(|(origin, from)| (*origin, *from)));
        news.retain(|origin, _| !chosen.contains_key(origin));
        if !news.is_empty() {
            self.flush_at = Some(now + BATCH);
        }
        self.news = news;
        chosen
    }

    fn wanted(&self, peer: MemberId) -> Level {
        self.peers.get(&peer).map_or(Level::Records, |peer| peer.wanted)
    }

    /// Neighbours that send whole records.
    fn senders(&self, neighbour: &impl Fn(MemberId) -> Neighbour) -> usize {
        let senders = self.peers.iter().filter(|(_, peer)| peer.wanted == Level::Records);
        senders.filter(|(member, _)| neighbour(**member).near).count()
    }
}

fn wanted_senders(relays: bool) -> usize {
    if relays { SENDERS_TO_RELAY } else { SENDERS }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proto::id::{BootEpoch, Seq};

    fn id(n: u8) -> MemberId {
        MemberId([n; 16])
    }

    fn version(seq: u64) -> Version {
        Version { boot: BootEpoch(1), seq: Seq(seq) }
    }

    fn ms(ms: u64) -> Mono {
        Mono(ms * 1000)
    }

    /// Members below 10 are neighbours, those above rely on this node.
    fn around(member: MemberId) -> Neighbour {
        Neighbour { near: member.0[0] < 10, relies: member.0[0] >= 10 }
    }

    fn with(peers: &[u8]) -> Flood {
        let mut flood = Flood::default();
        peers.iter().for_each(|peer| assert_eq!(flood.established(id(*peer), true), Level::Records));
        flood
    }

    #[test]
    fn a_leaf_passes_on_its_own_record_at_once_and_others_only_to_those_who_rely_on_it() {
        let mut flood = with(&[1, 2, 10]);
        flood.learned(ms(0), id(9), version(1), None);
        assert_eq!(flood.poll_timeout(), Some(ms(0)));
        let all = [1, 2, 10].map(|peer| Action::Push(id(peer), vec![id(9)]));
        assert_eq!(flood.drive(ms(0), false, around), all);
        flood.learned(ms(1), id(5), version(1), Some(id(1)));
        assert_eq!(flood.drive(ms(49), false, around), []);
        assert_eq!(flood.drive(ms(50), false, around), [Action::Push(id(10), vec![id(5)])]);
        // Its own may have been lost, and its neighbours hear of it from nobody else.
        assert_eq!(
            flood.drive(ms(150), false, around),
            [1, 2].map(|peer| Action::Tell(id(peer), vec![id(9)]))
        );
        assert_eq!(flood.poll_timeout(), None);
    }

    #[test]
    fn in_a_storm_news_of_others_are_gathered_and_the_own_record_waits_for_none() {
        let mut flood = with(&[1, 2]);
        flood.expect_storm(ms(3000));
        flood.learned(ms(100), id(4), version(1), Some(id(1)));
        flood.learned(ms(500), id(4), version(2), Some(id(1)));
        flood.learned(ms(500), id(5), version(1), Some(id(1)));
        flood.learned(ms(600), id(9), version(1), None);
        let own = [1, 2].map(|peer| Action::Push(id(peer), vec![id(9)]));
        assert_eq!(flood.drive(ms(600), true, around), own);
        assert_eq!(flood.drive(ms(699), true, around), []);
        assert_eq!(flood.drive(ms(700), true, around), [Action::Push(id(2), vec![id(4), id(5)])]);
        // Afterwards nothing waits that is alone.
        flood.learned(ms(4000), id(4), version(3), Some(id(1)));
        assert!(flood.drive(ms(4000), true, around).contains(&Action::Push(id(2), vec![id(4)])));
    }

    #[test]
    fn a_relay_passes_on_whole_or_in_short_or_nothing_as_it_was_asked_and_never_back() {
        let mut flood = with(&[1, 2, 3, 4, 5]);
        flood.wants(id(2), Level::Versions);
        flood.wants(id(3), Level::Nothing);
        flood.learned(ms(0), id(4), version(1), Some(id(5)));
        let expected = [Action::Push(id(1), vec![id(4)]), Action::Tell(id(2), vec![id(4)])];
        assert_eq!(flood.drive(ms(0), true, around), expected);
        // Its own goes to all, and what was told is told once more.
        flood.learned(ms(60), id(9), version(1), None);
        assert_eq!(flood.drive(ms(60), true, around).len(), 5);
        assert_eq!(flood.poll_timeout(), Some(ms(150)));
        let again = [1, 2].map(|peer| Action::Tell(id(peer), vec![id(4)]));
        assert_eq!(flood.drive(ms(150), true, around), again);
        assert_eq!(flood.drive(ms(210), true, around).len(), 5);
        assert_eq!(flood.poll_timeout(), None);
    }

    #[test]
    fn whoever_sends_what_is_known_is_asked_for_less_while_enough_others_send() {
        let mut flood = with(&[1, 2, 10]);
        flood.known(ms(0), id(7), id(1), false, around);
        flood.known(ms(0), id(7), id(2), false, around);
        flood.known(ms(0), id(7), id(10), false, around);
        flood.known(ms(0), id(7), id(7), false, around);
        let expected = [Action::Want(id(1), Level::Versions), Action::Want(id(10), Level::Nothing)];
        assert_eq!(flood.drive(ms(0), false, around), expected);
        // Lost, it is said again, but not at once.
        flood.known(ms(1000), id(8), id(1), false, around);
        assert_eq!(flood.drive(ms(1000), false, around), []);
        flood.known(ms(2000), id(8), id(1), false, around);
        assert_eq!(flood.drive(ms(2000), false, around), [Action::Want(id(1), Level::Versions)]);
        // The one that sends goes: another has to.
        flood.ended(id(2));
        flood.tend(ms(2001), false, around);
        assert_eq!(flood.drive(ms(2001), false, around), [Action::Want(id(1), Level::Records)]);
        assert_eq!(flood.established(id(1), false), Level::Records);
    }

    #[test]
    fn who_begins_with_enough_senders_asks_for_versions_only() {
        let mut flood = with(&[1]);
        assert_eq!(flood.welcome(id(1), false, around), Level::Records);
        flood.established(id(2), true);
        assert_eq!(flood.welcome(id(2), false, around), Level::Versions);
        // A relay wants three, and nobody asks one that is no neighbour for anything.
        flood.established(id(3), true);
        assert_eq!(flood.welcome(id(3), true, around), Level::Records);
        flood.established(id(11), true);
        assert_eq!(flood.welcome(id(11), false, around), Level::Records);
    }

    #[test]
    fn a_thousand_news_at_once_go_out_in_turns_and_all_of_them() {
        let peers: Vec<u8> = (1..=9).collect();
        let mut flood = with(&peers);
        let origin = |number: u16| {
            let mut id = [0xee; 16];
            id[..2].copy_from_slice(&number.to_be_bytes());
            MemberId(id)
        };
        (0..1000).for_each(|number| flood.learned(ms(0), origin(number), version(1), Some(id(9))));
        flood.learned(ms(0), id(200), version(1), None);
        let mut sent: BTreeMap<MemberId, Vec<MemberId>> = BTreeMap::new();
        let mut turns = 0;
        for at in 0..1000 {
            let mut most = 0;
            for action in flood.drive(ms(at), true, around) {
                let Action::Push(peer, origins) = action else { continue };
                most += origins.len();
                sent.entry(peer).or_default().extend(origins);
            }
            // The own one goes to each in any case.
            assert!(most <= MAX_AT_ONCE + 9, "{most} at once");
            turns += usize::from(most > 0);
            if at == 0 {
                assert!(sent.values().all(|origins| origins.contains(&id(200))));
            }
            // One that keeps changing keeps no other from its turn.
            if at < 500 {
                flood.learned(ms(at), origin(3), version(at), Some(id(9)));
            }
        }
        assert!((3..30).contains(&turns), "{turns}");
        for peer in 1..=8 {
            let got: std::collections::BTreeSet<_> = sent[&id(peer)].iter().collect();
            assert_eq!(got.len(), 1001, "{peer}");
        }
    }

    #[test]
    fn what_neighbours_have_and_does_not_come_is_asked_for_in_turn_and_given_up() {
        let mut flood = with(&[1, 2]);
        flood.missing(ms(0), id(7), version(3), id(1));
        flood.missing(ms(1), id(7), version(3), id(2));
        flood.missing(ms(1), id(8), version(1), id(2));
        flood.learned(ms(2), id(8), version(1), Some(id(1)));
        flood.learned(ms(2), id(7), version(2), Some(id(1)));
        assert_eq!(flood.drive(ms(99), false, around), []);
        let mut asked = Vec::new();
        for at in 100..60_000 {
            for action in flood.drive(ms(at), false, around) {
                let Action::Ask(holder, origin) = action else { panic!("{action:?}") };
                assert_eq!(origin, id(7));
                asked.push((at, holder.0[0]));
            }
        }
        assert_eq!(asked.len(), MAX_ASKED as usize);
        assert_eq!(asked[0], (100, 1));
        assert_eq!(asked[1], (250, 2));
        assert_eq!(flood.poll_timeout(), None);
        for origin in 0..2 * MAX_MISSING as u128 {
            flood.missing(ms(0), MemberId(origin.to_be_bytes()), version(1), id(1));
        }
        assert_eq!(flood.missing.len(), MAX_MISSING_OF_ONE);
        for origin in 0..2 * MAX_MISSING as u128 {
            let origin = origin + 5000;
            flood.missing(ms(0), MemberId(origin.to_be_bytes()), version(1), id(2 + (origin % 8) as u8));
        }
        assert_eq!(flood.missing.len(), MAX_MISSING);
    }

    #[test]
    fn a_neighbour_that_claims_a_version_which_is_not_keeps_nobody_from_being_asked() {
        let mut flood = with(&[1, 2]);
        flood.missing(ms(0), id(7), version(u64::MAX), id(1));
        flood.missing(ms(0), id(7), version(3), id(2));
        assert_eq!(flood.drive(ms(100), false, around), [Action::Ask(id(1), id(7))]);
        assert_eq!(flood.drive(ms(250), false, around), [Action::Ask(id(2), id(7))]);
        flood.learned(ms(260), id(7), version(3), Some(id(2)));
        assert_eq!(flood.missing[&id(7)].holders, [(id(1), version(u64::MAX))]);
    }
}
