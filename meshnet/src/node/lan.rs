//! Members on the same LAN, found by multicast: with no server, no address configured, and whatever addresses they had
//! before.
//!
//! An announcement ([`proto::lan`]) is sealed with a key that all members have. So strangers neither learn anything nor
//! cause anything: what they repeat is known already ([`Lan::is_repeated`]). A member can at most make others send
//! handshakes to addresses of its choice, a few, which it can do by its record too.

use std::collections::{BTreeMap, VecDeque};
use std::net::{IpAddr, SocketAddr, SocketAddrV6};
use std::time::Duration;

use chacha20poly1305::{AeadInOut, KeyInit, XChaCha20Poly1305};
use proto::endpoint::{Candidate, CandidateKind};
use proto::id::MemberId;
use proto::lan::{Announcement, MAX_LEN, NONCE_LEN, TAG_LEN};
use rand::Rng;

use super::{Event, Node, Settings};
use crate::crypto::{Secret, kdf};
use crate::path::Origin;
use crate::session::GateKey;
use crate::time::{Mono, Now};

/// Time between announcements on a quiet LAN of up to [`CROWD`] members; with more it grows as they do, so that a LAN hears
/// about one announcement a second at most. Each is up to a fifth later.
const EVERY: Duration = Duration::from_secs(60);
/// See [`EVERY`].
const CROWD: usize = 60;
/// Longest time between announcements.
const EVERY_AT_MOST: Duration = Duration::from_secs(600);
/// At the start and after a change of the network, announcements follow each other so, in case some get lost. They ask the
/// others to announce themselves, too.
const FIRST: [Duration; 3] = [Duration::from_secs(1), Duration::from_secs(3), Duration::from_secs(11)];
/// An answer waits up to this long, so that not all of a LAN answer at once.
const ANSWER_WITHIN: Duration = Duration::from_millis(150);
/// At most one announcement in this time, however often somebody asks.
const PAUSE: Duration = Duration::from_secs(1);
/// An address that was announced is a candidate for so long: some rounds of announcements.
const REMEMBERED_FOR: Duration = Duration::from_secs(1800);
/// Most members that are remembered.
const MEMBERS_MAX: usize = 1024;
/// Most addresses of one member.
const ADDRESSES_MAX: usize = 8;
/// Announcements that were heard lately, to know repeated ones.
const HEARD_MAX: usize = 1024;

/// Who was heard on the LAN lately, and where; and when to announce ourselves.
#[derive(Default)]
pub(super) struct Lan {
    heard: BTreeMap<MemberId, Vec<(SocketAddr, Mono)>>,
    /// Beginnings of nonces, the newest last.
    nonces: VecDeque<[u8; 8]>,
    /// When to announce ourselves next; `None` where nobody wants to.
    due: Option<Mono>,
    /// How many of [`FIRST`] have been.
    begun: usize,
    said: Option<Mono>,
}

impl Lan {
    /// Where a member is on the LAN.
    pub(super) fn endpoints(&self, now: Mono, member: MemberId) -> impl Iterator<Item = SocketAddr> {
        let heard = self.heard.get(&member).into_iter().flatten();
        heard.filter(move |(_, at)| now.since(*at) < REMEMBERED_FOR).map(|(endpoint, _)| *endpoint)
    }

    /// Whether a member was heard.
    pub(super) fn has(&self, now: Mono, member: MemberId) -> bool {
        self.endpoints(now, member).next().is_some()
    }

    /// When to announce ourselves.
    pub(super) fn poll_timeout(&self) -> Option<Mono> {
        self.due
    }

    /// The LAN is another one, or we begin: everything is forgotten, and we announce ourselves at once, if `wanted`.
    pub(super) fn begin(&mut self, now: Mono, wanted: bool) {
        self.heard.clear();
        self.begun = 0;
        self.due = wanted.then_some(now);
    }

    /// Notes an address; whether it is new.
    fn note(&mut self, now: Mono, member: MemberId, endpoint: SocketAddr) -> bool {
        if !self.heard.contains_key(&member) && self.heard.len() >= MEMBERS_MAX {
            return false;
        }
        let heard = self.heard.entry(member).or_default();
        if let Some(known) = heard.iter_mut().find(|(known, _)| *known == endpoint) {
            let was_old = now.since(known.1) >= REMEMBERED_FOR;
            known.1 = now;
            return was_old;
        }
        if heard.len() >= ADDRESSES_MAX {
            heard.remove(0);
        }
        heard.push((endpoint, now));
        true
    }

    /// Whether these bytes were heard before: somebody, maybe a stranger, repeats what a member said.
    fn is_repeated(&mut self, sealed: &[u8]) -> bool {
        let Some(nonce) = sealed.first_chunk::<8>() else { return true };
        if self.nonces.contains(nonce) {
            return true;
        }
        if self.nonces.len() >= HEARD_MAX {
            self.nonces.pop_front();
        }
        self.nonces.push_back(*nonce);
        false
    }

    /// Forgets what is old.
    pub(super) fn expire(&mut self, now: Mono) {
        self.heard.retain(|_, heard| {
            heard.retain(|(_, at)| now.since(*at) < REMEMBERED_FOR);
            !heard.is_empty()
        });
    }

    /// The time to the next announcement, without what chance adds.
    fn pause(&self) -> Duration {
        let crowd = u32::try_from(self.heard.len().div_ceil(CROWD)).unwrap_or(u32::MAX).max(1);
        EVERY.saturating_mul(crowd).min(EVERY_AT_MOST)
    }
}

impl Node {
    /// Takes what came to the multicast group of the LAN ([`proto::lan`]) from an address there. An IPv6 link-local source
    /// has to have its scope.
    pub fn handle_lan(&mut self, now: Now, from: SocketAddr, bytes: &[u8]) {
        if !self.settings.lan_discovery {
            return;
        }
        let Some(announcement) = open(&self.me.gate, bytes) else { return };
        let member = announcement.member;
        if member == self.me.member
            || !self.membership.is_honoured(now.wall, member)
            || self.lan.is_repeated(bytes)
        {
            return;
        }
        let port = if from.is_ipv4() { announcement.port4 } else { announcement.port6 };
        let listed = announcement.candidates.iter().map(|candidate| candidate.endpoint);
        // The address that is seen last: where there is no room for all, it stays.
        let endpoints: Vec<SocketAddr> =
            listed.chain([with_port(from, port)]).filter(|endpoint| self.is_dialable(*endpoint)).collect();
        let mut new = false;
        for endpoint in endpoints {
            new |= self.lan.note(now.mono, member, endpoint);
        }
        if new {
            // Somebody to get news from, while nobody else answers.
            self.choose_targets(now);
            self.refresh_paths(now, member);
            self.send_probes(now, member);
            if let Some(peer) = self.peers.get(&member)
                && peer.session.is_initiating()
            {
                for path in peer.paths.handshake_paths(now.mono, ADDRESSES_MAX) {
                    self.send_init_over(now, member, path);
                }
            }
            self.dirty.peers.insert(member);
        }
        if announcement.ask {
            let earliest = self.lan.said.map_or(now.mono, |said| said + PAUSE);
            let at = (now.mono + self.random_jitter(ANSWER_WITHIN)).max(earliest);
            self.lan.due = Some(self.lan.due.map_or(at, |due| due.min(at)));
        }
        self.settle(now);
    }

    /// Announces this node to its LANs, if it is time.
    pub(super) fn drive_lan(&mut self, now: Now) {
        if self.lan.due.is_none_or(|due| due > now.mono) {
            return;
        }
        let ask = FIRST.get(self.lan.begun).copied();
        self.lan.begun = (self.lan.begun + 1).min(FIRST.len());
        let pause = ask.unwrap_or_else(|| self.lan.pause());
        let late = self.random_jitter(pause / 5);
        self.lan.due = Some(now.mono + pause + late);
        self.lan.said = Some(now.mono);
        self.events.push_back(Event::Announce { ask: ask.is_some() });
    }

    /// A datagram that announces this node, for one LAN and one address family: another one has another nonce. Those who hear
    /// several learn another address from each, of which perhaps only one works; the same bytes once more would be a repetition
    /// to them.
    pub fn announcement(&mut self, ask: bool) -> Vec<u8> {
        let mut nonce = [0; NONCE_LEN];
        self.rng.fill_bytes(&mut nonce);
        seal(&self.me.gate, &nonce, &self.what_to_announce(ask))
    }

    fn what_to_announce(&self, ask: bool) -> Announcement {
        let port = |serves: fn(&super::Socket) -> bool| {
            let mut serving = self.settings.sockets.iter().filter(|socket| serves(socket));
            serving.find(|socket| socket.bound.is_none()).map_or(0, |socket| socket.port)
        };
        let (port4, port6) = (port(|socket| socket.ipv4), port(|socket| socket.ipv6));
        let mut candidates = self.own_candidates();
        candidates.retain(|candidate| candidate.kind == CandidateKind::Interface);
        Announcement { member: self.me.member, ask, port4, port6, candidates }
    }

    /// Adds what a member announced on the LAN to its paths.
    pub(super) fn add_lan_candidates(&mut self, now: Now, member: MemberId) {
        let endpoints: Vec<SocketAddr> = self.lan.endpoints(now.mono, member).collect();
        for endpoint in endpoints {
            let candidate = Candidate { kind: CandidateKind::Interface, endpoint };
            self.add_candidates(now, member, &[candidate], |_| Origin::Lan);
        }
    }
}

/// Whether announcements begin anew because of changed settings.
pub(super) fn begins_anew(old: &Settings, new: &Settings) -> bool {
    old.interface_addresses != new.interface_addresses || old.lan_discovery != new.lan_discovery
}

/// The same address and scope with another port.
fn with_port(from: SocketAddr, port: u16) -> SocketAddr {
    match from {
        SocketAddr::V4(v4) => SocketAddr::new(IpAddr::V4(*v4.ip()), port),
        SocketAddr::V6(v6) => SocketAddrV6::new(*v6.ip(), port, 0, v6.scope_id()).into(),
    }
}

fn key(gate: &GateKey) -> Secret<32> {
    kdf(gate.bytes(), "meshnet lan", &[])
}

fn seal(gate: &GateKey, nonce: &[u8; NONCE_LEN], announcement: &Announcement) -> Vec<u8> {
    let mut sealed = nonce.to_vec();
    announcement.emit(&mut sealed);
    let tag = XChaCha20Poly1305::new(key(gate).bytes().into())
        .encrypt_inout_detached(nonce.into(), &[], (&mut sealed[NONCE_LEN..]).into())
        .expect("an announcement is far below the limit");
    sealed.extend_from_slice(&tag);
    sealed
}

fn open(gate: &GateKey, sealed: &[u8]) -> Option<Announcement> {
    if sealed.len() > MAX_LEN {
        return None;
    }
    let (nonce, rest) = sealed.split_first_chunk::<NONCE_LEN>()?;
    let (body, tag) = rest.split_last_chunk::<TAG_LEN>()?;
    let mut body = body.to_vec();
    XChaCha20Poly1305::new(key(gate).bytes().into())
        .decrypt_inout_detached(nonce.into(), &[], (&mut body[..]).into(), tag.into())
        .ok()?;
    Announcement::parse(&body).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn announcement() -> Announcement {
        Announcement { member: MemberId([3; 16]), ask: true, port4: 1, port6: 2, candidates: Vec::new() }
    }

    fn member(number: u16) -> MemberId {
        let mut id = [0; 16];
        id[..2].copy_from_slice(&number.to_be_bytes());
        MemberId(id)
    }

    #[test]
    fn an_announcement_is_noise_to_strangers_and_cannot_be_made_by_them() {
        let (gate, other) = (Secret::new([1; 32]), Secret::new([2; 32]));
        let sealed = seal(&gate, &[9; NONCE_LEN], &announcement());
        assert_eq!(open(&gate, &sealed), Some(announcement()));
        assert_eq!(open(&other, &sealed), None);
        assert!(!sealed.windows(16).any(|window| window == [3; 16]));
        for at in 0..sealed.len() {
            let mut altered = sealed.clone();
            altered[at] ^= 1;
            assert_eq!(open(&gate, &altered), None, "byte {at}");
            assert_eq!(open(&gate, &sealed[..at]), None, "cut to {at}");
        }
    }

    #[test]
    fn neighbours_are_bounded_and_forgotten() {
        let mut lan = Lan::default();
        let endpoint = |port: u16| SocketAddr::from(([192, 0, 2, 1], port));
        assert!(lan.note(Mono(1), member(1), endpoint(1)));
        assert!(!lan.note(Mono(2), member(1), endpoint(1)), "nothing new");
        for port in 2..100 {
            lan.note(Mono(3), member(1), endpoint(port));
        }
        assert_eq!(lan.endpoints(Mono(3), member(1)).count(), ADDRESSES_MAX);
        for number in 2..3000 {
            lan.note(Mono(3), member(number), endpoint(1));
        }
        assert_eq!(lan.heard.len(), MEMBERS_MAX);
        assert_eq!(lan.pause(), EVERY_AT_MOST, "a crowd announces itself less often");
        let later = Mono(3) + REMEMBERED_FOR;
        assert!(!lan.has(later, member(1)));
        lan.expire(later);
        assert!(lan.heard.is_empty());
        assert_eq!(lan.pause(), EVERY);
    }

    #[test]
    fn what_is_repeated_is_known() {
        let mut lan = Lan::default();
        assert!(!lan.is_repeated(&[1; 40]));
        assert!(lan.is_repeated(&[1; 40]));
        for number in 0..3000_u64 {
            assert!(!lan.is_repeated(&(1000 + number).to_be_bytes()));
        }
        assert_eq!(lan.nonces.len(), HEARD_MAX);
    }

    #[test]
    fn a_link_local_address_keeps_its_scope() {
        let from = SocketAddrV6::new("fe80::1".parse().unwrap(), 9, 0, 7).into();
        assert_eq!(with_port(from, 4655).to_string(), "[fe80::1%7]:4655");
    }
}
