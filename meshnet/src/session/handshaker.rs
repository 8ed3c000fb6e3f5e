//! What all handshakes of a node share: its keys, indices, cookies, limits, and counters.

use std::collections::{BTreeMap, VecDeque};
use std::net::SocketAddr;
use std::time::Duration;

use proto::cookie::Cookie as CookieMessage;
use proto::datagram::Kind;
use proto::handshake::{Init, InitPayload};
use proto::id::{KeyEpochNumber, MemberId, MeshId, ReceiverIndex, TransportKey};
use proto::key_epoch::Capabilities;
use proto::stale::{STALE_KEY_MAX_LEN, StaleKey};
use rand::rngs::StdRng;
use rand::{Rng, RngExt};

use super::limiter::{Load, RateLimiter, Source};
use super::macs::{Cookie, CookieJar, MacKeys, mac1_of};
use super::noise::{DhMeter, Local, Noise};
use super::stats::{DropReason, HandshakeStats};
use super::{EpochHash, GateKey, TIMESTAMP_LIMIT_US, joined};
use crate::crypto::{HASH_LEN, MAC_LEN, Secret, Suite, TransportSecret, hash, kdf, keyed_mac, macs_equal};
use crate::time::{Mono, Now};

/// Retired transport keys that are still recognised, to answer late peers with the current one.
pub const MAX_RETIRED: usize = 32;

/// Answers kept for inits that come again, by another path or duplicated by the network.
pub const MAX_ANSWERS: usize = 256;

/// How long an answer is kept.
pub const ANSWER_LIFETIME: Duration = Duration::from_secs(10);

/// Members without a session whose newest timestamp is remembered.
pub const MAX_FLOORS: usize = 4096;

/// What a [`Handshaker`] is made from.
pub struct HandshakerConfig {
    /// This node.
    pub member: MemberId,
    /// The mesh; handshakes of another one do not open.
    pub mesh: MeshId,
    /// The secret that members share: without it there is no answer.
    pub gate: GateKey,
    /// The node's transport keys.
    pub epochs: LocalEpochs,
    /// What every handshake tells the peer.
    pub advert: Advert,
    /// The newest timestamp that this node has put into an init, from [`Handshaker::last_timestamp_us`]; 0 if unknown.
    pub last_timestamp_us: u64,
}

/// One of the node's own transport keys.
#[derive(Clone)]
pub struct LocalEpoch {
    /// Its number.
    pub number: KeyEpochNumber,
    /// The private key.
    pub secret: TransportSecret,
    /// Identifies the signed key epoch.
    pub hash: EpochHash,
    /// The capabilities that the signed key epoch declares.
    pub capabilities: Capabilities,
}

/// The node's transport keys that are in use, and those that no longer are.
pub struct LocalEpochs {
    /// The one that inits are made with.
    pub current: LocalEpoch,
    /// One that is announced, and accepted already.
    pub next: Option<LocalEpoch>,
    /// One that is on its way out, and still accepted.
    pub previous: Option<LocalEpoch>,
    /// Public keys no longer accepted; the newest [`MAX_RETIRED`] are answered with `announcement`.
    pub retired: Vec<TransportKey>,
    /// The signed key epoch object of `current`, as sent to those who use a retired key. At most 152 bytes.
    pub announcement: Vec<u8>,
}

/// A peer's transport key, from its signed key epoch.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct RemoteEpoch {
    /// The public key.
    pub key: TransportKey,
    /// Its number.
    pub number: KeyEpochNumber,
    /// Identifies the signed key epoch.
    pub hash: EpochHash,
    /// The capabilities that it declares.
    pub capabilities: Capabilities,
}

/// What a node tells every peer in its handshakes.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub struct Advert {
    /// What it can do.
    pub capabilities: Capabilities,
    /// Its newest trust bundle.
    pub bundle_version: u32,
    /// Digest of its set of revocations.
    pub revocations: [u8; 8],
}

/// A key epoch that this build cannot serve: it declares a cipher suite that is not compiled in. The node has to make a
/// new epoch, which declares less.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
#[error("key epoch {0} declares a cipher suite that this build does not have")]
pub struct UnsupportedEpoch(pub KeyEpochNumber);

/// How an init arrived.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Origin {
    /// In a datagram of its own, from this address.
    Direct(SocketAddr),
    /// Through a relay, from this member, as far as the relay says. There is no address to prove, so no cookies.
    Relayed(MemberId),
}

/// What to do about an init.
pub enum InitOutcome {
    /// Nothing.
    Drop(DropReason),
    /// Send this cookie back the way the init came.
    Cookie(Vec<u8>),
    /// The init is to a retired key: send this stale-key answer back the way it came.
    StaleKey(Vec<u8>),
    /// The init was answered before: send this same answer back the way it came.
    Duplicate(Vec<u8>),
    /// It opened. Find the member of [`OpenedInit::remote_static`], then call [`super::Session::accept_init`].
    Opened(Box<OpenedInit>),
}

/// An init that opened: somebody who holds the gate key and the private key of `remote_static` made it, at some time.
pub struct OpenedInit {
    /// The initiator's static key. Whose it is, is for the caller to know.
    pub remote_static: TransportKey,
    /// The initiator's receiver index.
    pub sender: ReceiverIndex,
    pub(super) payload: Vec<u8>,
    pub(super) noise: Noise,
    pub(super) local_epoch: KeyEpochNumber,
    pub(super) fingerprint: Fingerprint,
}

impl OpenedInit {
    /// The decrypted payload.
    pub fn payload(&self) -> InitPayload<'_> {
        InitPayload::parse(&self.payload).expect("parsed when the init was opened")
    }

    /// Which of our key epochs the init was made to.
    pub fn local_epoch(&self) -> KeyEpochNumber {
        self.local_epoch
    }
}

/// Identifies an init by all of it except mac2, which differs between paths.
pub(super) type Fingerprint = [u8; HASH_LEN];

/// What all handshakes of a node share. Sans-IO: give it datagrams, send what it returns.
pub struct Handshaker {
    pub(super) member: MemberId,
    pub(super) gate: GateKey,
    pub(crate) advert: Advert,
    pub(super) rng: StdRng,
    pub(super) stats: HandshakeStats,
    pub(super) meter: DhMeter,
    mesh: MeshId,
    stale_mac: Secret<32>,
    /// Current first.
    epochs: Vec<AcceptedEpoch>,
    retired: Vec<MacKeys>,
    announcement: Vec<u8>,
    indices: BTreeMap<ReceiverIndex, MemberId>,
    cookies: CookieJar,
    /// Sources whose address is only claimed.
    claimed: RateLimiter,
    /// Sources that have shown a cookie, and members behind relays.
    proven: RateLimiter,
    load: Load,
    answers: VecDeque<Answer>,
    last_timestamp_us: u64,
    /// Of members that had a session.
    floors: BTreeMap<MemberId, u64>,
}

struct AcceptedEpoch {
    epoch: LocalEpoch,
    macs: MacKeys,
}

struct Answer {
    fingerprint: Fingerprint,
    member: MemberId,
    until: Mono,
    /// `None` is silence: an init of ours went first.
    datagram: Option<Vec<u8>>,
}

impl Handshaker {
    /// A handshaker; `rng` is the source of all its keys, indices, and jitter.
    ///
    /// # Errors
    /// [`UnsupportedEpoch`], if a key epoch of the node's own declares more than this build can do.
    pub fn new(config: HandshakerConfig, now: Now, mut rng: StdRng) -> Result<Self, UnsupportedEpoch> {
        let mut handshaker = Handshaker {
            member: config.member,
            stale_mac: kdf(config.gate.bytes(), "meshnet stale key", &[]),
            gate: config.gate,
            advert: config.advert,
            cookies: CookieJar::new(now.mono, &mut rng),
            rng,
            stats: HandshakeStats::default(),
            meter: DhMeter::default(),
            mesh: config.mesh,
            epochs: Vec::new(),
            retired: Vec::new(),
            announcement: Vec::new(),
            indices: BTreeMap::new(),
            claimed: RateLimiter::new(),
            proven: RateLimiter::new(),
            load: Load::new(),
            answers: VecDeque::new(),
            last_timestamp_us: config.last_timestamp_us,
            floors: BTreeMap::new(),
        };
        handshaker.set_epochs(config.epochs)?;
        Ok(handshaker)
    }

    /// Replaces the node's transport keys. Sessions go on; inits to keys that are gone get the stale-key answer.
    ///
    /// # Errors
    /// [`UnsupportedEpoch`]; nothing has changed then.
    ///
    /// # Panics
    /// If the announcement does not fit a stale-key answer; [`proto::stale`] has the limit.
    pub fn set_epochs(&mut self, epochs: LocalEpochs) -> Result<(), UnsupportedEpoch> {
        assert!(
            STALE_HEADER_LEN + epochs.announcement.len() + MAC_LEN <= STALE_KEY_MAX_LEN,
            "a key epoch fits"
        );
        let accepted =
            || [Some(&epochs.current), epochs.next.as_ref(), epochs.previous.as_ref()].into_iter().flatten();
        if let Some(epoch) =
            accepted().find(|e| !Suite::choose(e.capabilities, e.capabilities).is_supported())
        {
            return Err(UnsupportedEpoch(epoch.number));
        }
        self.epochs = accepted()
            .map(|epoch| AcceptedEpoch {
                macs: MacKeys::new(&epoch.secret.public(), &self.gate),
                epoch: epoch.clone(),
            })
            .collect();
        let newest = epochs.retired.len().saturating_sub(MAX_RETIRED);
        self.retired = epochs.retired[newest..].iter().map(|key| MacKeys::new(key, &self.gate)).collect();
        self.announcement = epochs.announcement;
        Ok(())
    }

    /// Sets what handshakes tell the peers from now on.
    pub fn set_advert(&mut self, advert: Advert) {
        self.advert = advert;
    }

    /// Whether sessions are to be hybrid.
    pub(super) fn is_hybrid(&self) -> bool {
        self.advert.capabilities.contains(Capabilities::HYBRID)
    }

    /// The counters.
    pub fn stats(&self) -> HandshakeStats {
        HandshakeStats { dh_operations: self.meter.count(), ..self.stats.clone() }
    }

    /// The newest timestamp put into an init, in microseconds since the Unix epoch; to be persisted now and then, so
    /// that the next start need not be challenged.
    pub fn last_timestamp_us(&self) -> u64 {
        self.last_timestamp_us
    }

    /// Tells how many handshake datagrams wait, of how many that may; over an eighth puts the node under load.
    pub fn note_backlog(&mut self, now: Now, queued: usize, capacity: usize) {
        self.load.note_backlog(now.mono, queued, capacity);
    }

    /// Whether inits without a cookie are turned away now.
    pub fn is_under_load(&self, now: Now) -> bool {
        self.load.is_high(now.mono)
    }

    /// The member whose session holds `index`, be it for a keypair or for a handshake under way.
    pub fn owner(&self, index: ReceiverIndex) -> Option<MemberId> {
        self.indices.get(&index).copied()
    }

    /// The member whose session a response, cookie, or stale-key answer is for. `None` drops the datagram, and is
    /// counted.
    pub fn addressee(&mut self, datagram: &[u8]) -> Option<MemberId> {
        let at = match Kind::of(datagram) {
            Some(Kind::Response) => 8,
            Some(Kind::Cookie | Kind::StaleKey) => 4,
            Some(Kind::Init | Kind::Data | Kind::Relay | Kind::Join) | None => {
                self.stats.count(DropReason::Malformed);
                return None;
            }
        };
        let Some(index) = datagram.get(at..at + 4).and_then(|bytes| bytes.try_into().ok()) else {
            self.stats.count(DropReason::Malformed);
            return None;
        };
        let owner = self.owner(ReceiverIndex(u32::from_be_bytes(index)));
        if owner.is_none() {
            self.stats.count(DropReason::UnknownIndex);
        }
        owner
    }

    /// Opens an init. Changes nothing about any session, whatever the datagram.
    ///
    /// The order keeps costs low for us and high for others: form, mac1, answers given before, cookie or tokens, and
    /// only then Diffie-Hellman.
    pub fn open_init(&mut self, now: Now, origin: Origin, datagram: &[u8]) -> InitOutcome {
        let Ok(init) = Init::parse(datagram) else { return self.drop_init(DropReason::Malformed) };
        let Some(accepted) = self.epochs.iter().position(|accepted| accepted.macs.check(datagram)) else {
            return self.answer_retired(now, origin, datagram, &init);
        };
        let fingerprint = hash(&[&datagram[..datagram.len() - MAC_LEN]]);
        match self.answer_to(now.mono, &fingerprint) {
            Some(Some(answer)) => {
                self.stats.duplicates += 1;
                return InitOutcome::Duplicate(answer);
            }
            Some(None) => return self.drop_init(DropReason::TieBreak),
            None => {}
        }
        match self.admit(now.mono, origin, datagram) {
            Admission::Granted => {}
            Admission::Refused => return self.drop_init(DropReason::RateLimited),
            Admission::NeedsCookie(from) => {
                self.load.note_turned_away(now.mono);
                return self.answer_with_cookie(now.mono, accepted, from, &init);
            }
        }
        self.load.note_handshake(now.mono);
        self.open_admitted(accepted, &init, fingerprint)
    }

    fn open_admitted(&mut self, accepted: usize, init: &Init<'_>, fingerprint: Fingerprint) -> InitOutcome {
        let ephemeral = Secret::random(&mut self.rng);
        let epoch = &self.epochs[accepted].epoch;
        let mut noise = Noise::ik_responder(&Local {
            secret: &epoch.secret,
            prologue: &prologue(&self.mesh, &epoch.hash),
            ephemeral: &ephemeral,
            meter: &self.meter,
        });
        let (local_epoch, opened) = (epoch.number, noise.read(init.noise));
        let (Ok(payload), Some(remote_static)) = (opened, noise.remote_static()) else {
            return self.drop_init(DropReason::Noise);
        };
        let Ok(parsed) = InitPayload::parse(&payload) else { return self.drop_init(DropReason::Malformed) };
        if parsed.responder_epoch != local_epoch {
            return self.drop_init(DropReason::Epoch);
        }
        if parsed.timestamp_us > TIMESTAMP_LIMIT_US {
            return self.drop_init(DropReason::Timestamp);
        }
        self.stats.inits_opened += 1;
        InitOutcome::Opened(Box::new(OpenedInit {
            remote_static,
            sender: init.sender,
            payload,
            noise,
            local_epoch,
            fingerprint,
        }))
    }

    /// Who may go on to Diffie-Hellman.
    ///
    /// Addresses can be forged by whoever has recorded an init, so a claimed address only has tokens of its own class: when
    /// they are gone, or under load, the sender has to prove the address, and nobody can use up a proven one's tokens.
    fn admit(&mut self, now: Mono, origin: Origin, datagram: &[u8]) -> Admission {
        let from = match origin {
            Origin::Direct(from) => from,
            Origin::Relayed(member) => {
                return Admission::granted_if(self.proven.take(now, Source::Member(member)));
            }
        };
        let source = Source::of(from.ip());
        let loaded = self.load.is_high(now);
        if self.cookies.check(now, &mut self.rng, from, datagram) {
            return Admission::granted_if(!loaded || self.proven.take(now, source));
        }
        match !loaded && self.claimed.take(now, source) {
            true => Admission::Granted,
            false => Admission::NeedsCookie(from),
        }
    }

    fn answer_with_cookie(
        &mut self,
        now: Mono,
        accepted: usize,
        from: SocketAddr,
        init: &Init<'_>,
    ) -> InitOutcome {
        let cookie = self.cookies.cookie(now, &mut self.rng, from);
        let mut nonce = [0; 24];
        self.rng.fill_bytes(&mut nonce);
        let sealed = self.epochs[accepted].macs.seal_cookie(&nonce, &init.mac1, &cookie);
        let mut datagram = Vec::new();
        CookieMessage { receiver: init.sender, nonce, sealed }.emit(&mut datagram);
        self.stats.cookies_sent += 1;
        InitOutcome::Cookie(datagram)
    }

    /// An init that is to none of our keys: to a retired one, or not from a member.
    fn answer_retired(&mut self, now: Now, origin: Origin, datagram: &[u8], init: &Init<'_>) -> InitOutcome {
        if !self.retired.iter().any(|macs| macs.check(datagram)) {
            return self.drop_init(DropReason::Mac1);
        }
        let source = match origin {
            Origin::Direct(from) => Source::of(from.ip()),
            Origin::Relayed(member) => Source::Member(member),
        };
        if !self.claimed.take(now.mono, source) {
            return self.drop_init(DropReason::RateLimited);
        }
        let announcement = self.announcement.clone();
        InitOutcome::StaleKey(self.stale_answer(init.sender, &announcement))
    }

    /// The answer to an init that was made to or with a key that counts no more: the signed newer key epoch, of at most 152
    /// bytes.
    pub fn stale_answer(&mut self, receiver: ReceiverIndex, key_epoch: &[u8]) -> Vec<u8> {
        let mut answer = Vec::new();
        StaleKey { receiver, key_epoch, mac: [0; MAC_LEN] }.emit(&mut answer);
        let (body, mac) = answer.split_last_chunk_mut::<MAC_LEN>().expect("just written");
        *mac = keyed_mac(self.stale_mac.bytes(), &[body]);
        self.stats.stale_keys_sent += 1;
        answer
    }

    /// Checks that a member made a stale-key answer (not which; the signature inside tells).
    pub(super) fn check_stale(&self, datagram: &[u8]) -> bool {
        datagram
            .split_last_chunk::<MAC_LEN>()
            .is_some_and(|(body, mac)| macs_equal(mac, &keyed_mac(self.stale_mac.bytes(), &[body])))
    }

    fn drop_init(&mut self, reason: DropReason) -> InitOutcome {
        InitOutcome::Drop(self.stats.count(reason))
    }

    /// The epoch that inits are made with.
    pub(super) fn current_epoch(&self) -> &LocalEpoch {
        &self.epochs.first().expect("there always is a current epoch").epoch
    }

    pub(super) fn epoch(&self, number: KeyEpochNumber) -> Option<&LocalEpoch> {
        self.epochs.iter().map(|accepted| &accepted.epoch).find(|epoch| epoch.number == number)
    }

    /// Begins a Noise handshake with `remote`, with our current epoch. The psk is to be set before the response is read.
    pub(super) fn begin(&mut self, remote: &RemoteEpoch) -> Noise {
        let ephemeral = Secret::random(&mut self.rng);
        let local = self.current_epoch();
        let local = Local {
            secret: &local.secret,
            prologue: &prologue(&self.mesh, &remote.hash),
            ephemeral: &ephemeral,
            meter: &self.meter,
        };
        Noise::ik_initiator(&local, &remote.key)
    }

    /// A random index that no other session of this node has. Never 0.
    pub(super) fn allocate(&mut self, member: MemberId) -> ReceiverIndex {
        loop {
            let index = ReceiverIndex(self.rng.next_u32());
            if index.0 != 0 && !self.indices.contains_key(&index) {
                self.indices.insert(index, member);
                return index;
            }
        }
    }

    #[cfg(test)]
    pub(super) fn index_count(&self) -> usize {
        self.indices.len()
    }

    #[cfg(test)]
    pub(super) fn occupy(&mut self, index: ReceiverIndex, member: MemberId) {
        self.indices.insert(index, member);
    }

    pub(super) fn release(&mut self, index: ReceiverIndex) {
        self.indices.remove(&index);
    }

    /// A timestamp for an init: now, but later than all before and than `floor_us`.
    pub(super) fn timestamp_us(&mut self, now: Now, floor_us: u64) -> u64 {
        // A clock that is off by ages must not leave the range in which there always is a later timestamp.
        let wall_us = now.wall.0.saturating_mul(1000).min(TIMESTAMP_LIMIT_US / 2);
        self.last_timestamp_us = wall_us.max(self.last_timestamp_us.saturating_add(1));
        self.last_timestamp_us.max(floor_us.saturating_add(1))
    }

    /// Up to `max` of random delay, so that nodes do not stay in step.
    pub(super) fn jitter(&mut self, max: Duration) -> Duration {
        Duration::from_micros(self.rng.random_range(0..=max.as_micros() as u64))
    }

    /// Keeps the answer to an init, for when the init comes again.
    pub(super) fn remember_answer(
        &mut self,
        now: Mono,
        member: MemberId,
        init: Fingerprint,
        datagram: Option<Vec<u8>>,
    ) {
        if self.answers.len() >= MAX_ANSWERS {
            self.answers.pop_front();
        }
        self.answers.push_back(Answer { fingerprint: init, member, until: now + ANSWER_LIFETIME, datagram });
    }

    pub(super) fn forget_answers(&mut self, member: MemberId) {
        self.answers.retain(|answer| answer.member != member);
    }

    fn answer_to(&mut self, now: Mono, init: &Fingerprint) -> Option<Option<Vec<u8>>> {
        while self.answers.front().is_some_and(|oldest| oldest.until <= now) {
            self.answers.pop_front();
        }
        let answer = self.answers.iter().rev().find(|answer| answer.fingerprint == *init)?;
        Some(answer.datagram.clone())
    }

    /// The newest timestamp that an earlier session with `member` has seen, in microseconds since the Unix epoch.
    pub(super) fn floor(&self, member: MemberId) -> u64 {
        self.floors.get(&member).copied().unwrap_or(0)
    }

    /// Members without a session, and the newest timestamps that were seen of them.
    pub(crate) fn floors(&self) -> impl Iterator<Item = (MemberId, u64)> {
        self.floors.iter().map(|(member, seen_us)| (*member, *seen_us))
    }

    /// Refuses inits of `member` up to this timestamp, also in sessions that are made later.
    pub(crate) fn keep_floor(&mut self, member: MemberId, seen_us: u64) {
        if self.floors.len() >= MAX_FLOORS && !self.floors.contains_key(&member) {
            let oldest = self.floors.iter().min_by_key(|(_, seen_us)| **seen_us).map(|(member, _)| *member);
            oldest.and_then(|oldest| self.floors.remove(&oldest));
        }
        let floor = self.floors.entry(member).or_default();
        *floor = seen_us.max(*floor);
    }

    /// Opens a cookie that answers `message`, which we sent to the holder of `macs`.
    pub(super) fn open_cookie(
        &self,
        macs: &MacKeys,
        message: &[u8],
        cookie: &CookieMessage,
    ) -> Option<Cookie> {
        macs.open_cookie(&cookie.nonce, &mac1_of(message)?, &cookie.sealed)
    }
}

enum Admission {
    Granted,
    Refused,
    NeedsCookie(SocketAddr),
}

impl Admission {
    fn granted_if(granted: bool) -> Admission {
        if granted { Admission::Granted } else { Admission::Refused }
    }
}

const STALE_HEADER_LEN: usize = 8;

/// What both ends mix in first: version, mesh, and the responder's key epoch with all that is signed in it. (The
/// initiator's is not known to the responder before message 1; [`psk2`] binds it.)
pub(super) fn prologue(mesh: &MeshId, responder: &EpochHash) -> Vec<u8> {
    [b"meshnet handshake", &[proto::VERSION][..], &mesh.0, &responder.0].concat()
}

/// The pre-shared key of message 2: from the gate key and what was inherited from an earlier session, bound to the
/// initiator's key epoch.
pub(super) fn psk2(gate: &GateKey, inherited: Option<&Secret<32>>, initiator: &EpochHash) -> Secret<32> {
    match inherited {
        None => kdf(gate.bytes(), "meshnet psk2", &[&initiator.0]),
        Some(secret) => kdf(joined(gate, secret.bytes()).bytes(), "meshnet psk2 hybrid", &[&initiator.0]),
    }
}
