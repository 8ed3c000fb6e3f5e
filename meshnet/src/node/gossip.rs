//! Certificates, key epochs, and records: comparing databases, sending what the other lacks, taking what is newer.
//!
//! A record is passed on as [`Flood`] says when it is new. Whoever missed it finds out by comparing bucket hashes: at
//! the start of a session and from time to time. Certificates and key epochs follow on request: a record names the ones
//! that belong to it.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use proto::bundle::SignedBundle;
use proto::certificate::Certificate;
use proto::frame::{BUCKETS, Frame, MAX_FRAGMENT_LEN, MAX_VERSIONS};
use proto::id::{BootEpoch, MemberId, Seq};
use proto::key_epoch::KeyEpoch;
use proto::record::Record;
use proto::revocation::Revocation;
use proto::signed::{Body, ObjectKind, Signed};

use super::peer::{COMPARE_AGAIN, Peer};
use super::{Event, Node};
use crate::crypto::hash;
use crate::membership::{Added, Membership};
use crate::pack::pack;
use crate::route::Version;
use crate::route::flood::{Action, BATCH, Flood, Level, Neighbour};
use crate::route::lsdb::{Authored, Inserted, Part, Refusal, Verdict};
use crate::time::{Mono, Now, UnixMs};

/// Databases of two neighbours are compared this often at first, and after each time half as often …
pub(super) const COMPARE_EVERY: Duration = Duration::from_secs(30);
/// … down to this. A difference, or news that one told the other, begin it anew …
const COMPARE_SELDOM: Duration = Duration::from_secs(240);
/// … and this soon, for news may have been lost on the way. In larger meshes something is always new, and other neighbours
/// tell it as well: there it is later by [`COMPARE_PER_MEMBER`] for each member.
const COMPARE_AFTER_NEWS: Duration = Duration::from_secs(5);
/// See [`COMPARE_AFTER_NEWS`].
const COMPARE_PER_MEMBER: Duration = Duration::from_millis(100);
/// After its start a node that knows so many records already waits before it compares them with others'.
const STORM: Duration = Duration::from_secs(3);
const STORM_RECORDS: usize = 32;
/// So long at least, and up to twice that: by then what is flooded has arrived, and only what was lost differs.
const COMPARE_IN_STORM: Duration = Duration::from_millis(2500);
/// Until then changes of its own record are gathered for so long: its first sessions are made one after the other, and each
/// changes it.
const BATCH_IN_STORM: Duration = Duration::from_millis(400);
/// Keys this young were made with the peer as it runs now, not as it ran before a restart.
const FRESH: Duration = Duration::from_secs(5);
/// Records that wait for the certificate or key epoch that they name.
const MAX_WAITING: usize = 64;
/// Subnets that one node announces: with [`super::links::MAX_OWN_LINKS`] they always fit a record.
const MAX_OWN_SUBNETS: usize = 128;
/// Most members that are asked for or sent after one part of a comparison.
const MAX_PER_PART: usize = 64;

/// Objects that wait to be pushed.
const MAX_PUSHED: usize = 512;

/// What gossip is under way.
#[derive(Default)]
pub(super) struct Gossip {
    pub(super) flood: Flood,
    /// Objects other than records that are to be pushed, with whom they came from.
    objects: Vec<(Vec<u8>, Option<MemberId>)>,
    flush_at: Option<Mono>,
    /// Records that wait for a certificate or key epoch, by origin.
    waiting: BTreeMap<MemberId, (MemberId, Signed<Record>)>,
}

impl Gossip {
    pub(super) fn flush_at(&self) -> Option<Mono> {
        self.flush_at.into_iter().chain(self.flood.poll_timeout()).min()
    }

    pub(super) fn len(&self) -> usize {
        self.waiting.len() + self.flood.missing_len()
    }

    /// Pushes an object to all peers but the one it came from, soon. Whoever misses it asks for it.
    pub(super) fn push_object(&mut self, now: Mono, object: Vec<u8>, from: Option<MemberId>) {
        if self.objects.len() < MAX_PUSHED {
            self.objects.push((object, from));
            self.flush_at.get_or_insert(now + BATCH);
        }
    }
}

impl Node {
    /// Everything that a restart should know: certificates, key epochs, and records of all members, and which of
    /// their inits were seen.
    pub fn export_cache(&self) -> Vec<u8> {
        let mut out = Vec::new();
        for (_, member) in self.membership.iter() {
            put_object(&mut out, member.certificate().signed().as_bytes());
        }
        for (_, member) in self.membership.iter() {
            for epoch in member.epochs().iter() {
                put_object(&mut out, epoch.as_bytes());
            }
        }
        for (_, entry) in self.lsdb.iter() {
            put_object(&mut out, entry.as_bytes());
        }
        for seen in self.export_seen() {
            put_object(&mut out, &seen);
        }
        out
    }

    /// The objects of `members`, in the format of [`Node::export_cache`]: what a newcomer needs to reach them.
    pub fn export_members(&self, members: impl IntoIterator<Item = MemberId>) -> Vec<u8> {
        let mut out = Vec::new();
        for member in members {
            for object in self.objects_of(member, u8::MAX) {
                put_object(&mut out, &object);
            }
        }
        out
    }

    pub(super) fn import_cache(&mut self, now: Now, cache: &[u8]) {
        let objects: Vec<&[u8]> = objects(cache).collect();
        // Issuers come before those they certified, whatever the order in the file.
        for round in 0..2 {
            for object in &objects {
                if ObjectKind::of(object) == Some(ObjectKind::Certificate)
                    && let Ok(certificate) = Signed::<Certificate>::parse(object)
                    && certificate.body().member != self.me.member
                {
                    let refused = self.membership.keep_certificate(now.wall, certificate, None).is_err();
                    self.stats.objects_refused += u64::from(refused && round == 1);
                }
            }
        }
        // Records will fill what becomes free.
        self.membership.pack();
        for object in &objects {
            match ObjectKind::of(object) {
                Some(ObjectKind::KeyEpoch) => {
                    if let Ok(epoch) = Signed::<KeyEpoch>::parse(object) {
                        self.stats.objects_refused +=
                            u64::from(self.membership.add_key_epoch(epoch).is_err());
                    }
                }
                Some(ObjectKind::Record) => {
                    if let Ok(record) = Signed::<Record>::parse(object) {
                        let membership = &self.membership;
                        let inserted = self
                            .lsdb
                            .insert(now.mono, record.clone(), |record| genuine(membership, now.wall, record));
                        if let (Inserted::Newer, Some(floor)) = (inserted, record.body().floor) {
                            self.membership.retire_key_epochs(record.body().member, floor.accepted);
                        }
                    }
                }
                Some(_) => {}
                None => self.import_seen(now, object),
            }
        }
        for origin in self.known_origins() {
            self.note_attachment(origin);
            self.note_confirmation_of(now, origin);
        }
        self.membership.pack();
        self.lsdb.pack();
        pack(&mut self.attached);
        if self.lsdb.len() >= STORM_RECORDS {
            self.gossip.flood.expect_storm(self.started + STORM);
        }
    }

    pub(super) fn handle_gossip(&mut self, now: Now, from: MemberId, frame: Frame) {
        match frame {
            Frame::Summary(theirs) => self.handle_summary(now, from, &theirs),
            Frame::BucketVersions { bucket, part, more, versions } => {
                self.handle_versions(now, from, &Part { bucket, part, more, versions });
            }
            Frame::Object(object) => self.handle_object(now, from, &object),
            Frame::Fragment { id, index, total, bytes } => {
                let whole =
                    self.peers.get_mut(&from).and_then(|peer| peer.reassemble(id, index, total, bytes));
                if let Some(object) = whole.filter(|object| object_id(object) == id) {
                    self.handle_object(now, from, &object);
                }
            }
            Frame::Get { member, what } => self.send_objects(now, from, member, what),
            Frame::Renew => self.handle_renew(now, from),
            Frame::Have(versions) => self.handle_have(now, from, &versions),
            Frame::Want(what) => {
                let level = match what {
                    Frame::WANT_NOTHING => Level::Nothing,
                    Frame::WANT_VERSIONS => Level::Versions,
                    _ => Level::Records,
                };
                self.gossip.flood.wants(from, level);
            }
            Frame::GetBundles { after } => self.send_bundles(now, from, after),
            Frame::RevocationSummary(theirs) => self.handle_revocation_summary(now, from, &theirs),
            _ => {}
        }
    }

    fn handle_summary(&mut self, now: Now, from: MemberId, theirs: &[u64; BUCKETS]) {
        let mut frames = Vec::new();
        let soon = self.compare_after_news();
        let differing = self.lsdb.differing(theirs);
        if let Some(peer) = self.peers.get_mut(&from) {
            // Of two that have just sent each other summaries, one lists what it has.
            let crossed = peer.summarised_records.is_some_and(|at| now.mono.since(at) < COMPARE_AGAIN);
            if crossed && from < self.me.member {
                return;
            }
            if differing.is_empty() {
                peer.compare_pause = COMPARE_AGAIN;
            } else {
                peer.compare_every = peer.compare_every.min(soon);
                // What is sent now may be lost: see soon whether it arrived, ever later while it makes no difference.
                peer.compare_at = peer.compare_at.min(now.mono + peer.compare_pause);
                peer.compare_pause = (peer.compare_pause * 2).min(COMPARE_EVERY);
            }
        }
        for bucket in differing {
            for part in self.lsdb.versions(bucket) {
                frames.push(Frame::BucketVersions {
                    bucket: part.bucket,
                    part: part.part,
                    more: part.more,
                    versions: part.versions,
                });
            }
        }
        self.send_frames(now, from, None, &frames);
    }

    fn handle_versions(&mut self, now: Now, from: MemberId, part: &Part) {
        let difference = self.lsdb.compare(part);
        for member in difference.send.into_iter().take(MAX_PER_PART) {
            let what = if difference.missing.contains(&member) { u8::MAX } else { Frame::GET_RECORD };
            self.send_objects(now, from, member, what);
        }
        let wanted: Vec<Frame> = difference
            .want
            .into_iter()
            .take(MAX_PER_PART)
            .map(|member| {
                let known = self.membership.get(member).is_some();
                Frame::Get { member, what: if known { Frame::GET_RECORD } else { u8::MAX } }
            })
            .collect();
        self.send_frames(now, from, None, &wanted);
    }

    fn handle_object(&mut self, now: Now, from: MemberId, object: &[u8]) {
        match ObjectKind::of(object) {
            Some(ObjectKind::Certificate) => {
                if let Some(certificate) = self.parsed::<Certificate>(object) {
                    self.learn_certificate(now, certificate, None);
                }
            }
            Some(ObjectKind::KeyEpoch) => {
                if let Some(epoch) = self.parsed::<KeyEpoch>(object) {
                    self.learn_key_epoch(now, epoch, Some(from));
                }
            }
            Some(ObjectKind::Record) => {
                if let Some(record) = self.parsed::<Record>(object) {
                    self.learn_record(now, from, record);
                }
            }
            Some(ObjectKind::Revocation) => {
                if let Some(revocation) = self.parsed::<Revocation>(object) {
                    self.learn_revocation(now, from, revocation);
                }
            }
            Some(ObjectKind::TrustBundle) => match SignedBundle::parse(object) {
                Ok(bundle) => self.learn_bundle(now, from, bundle),
                Err(_) => self.stats.objects_refused += 1,
            },
            None => {}
        }
    }

    fn parsed<T: Body>(&mut self, object: &[u8]) -> Option<Signed<T>> {
        let parsed = Signed::parse(object);
        self.stats.objects_refused += u64::from(parsed.is_err());
        parsed.ok()
    }

    pub(super) fn learn_certificate(
        &mut self,
        now: Now,
        certificate: Signed<Certificate>,
        issuer: Option<Signed<Certificate>>,
    ) {
        let member = certificate.body().member;
        match self.membership.add_certificate(now.wall, certificate, issuer) {
            Ok(added @ (Added::New | Added::Renewed)) => {
                if added == Added::Renewed {
                    self.pass_on_certificate(now, member);
                }
                self.certificate_is_new(now, member);
                self.retry_waiting(now, member);
            }
            Ok(Added::Known | Added::Older) => {}
            Err(_) => self.stats.objects_refused += 1,
        }
    }

    pub(super) fn learn_key_epoch(&mut self, now: Now, epoch: Signed<KeyEpoch>, from: Option<MemberId>) {
        let member = epoch.body().member;
        match self.membership.add_key_epoch(epoch.clone()) {
            Ok(true) => {
                self.events.push_back(Event::CacheChanged);
                self.gossip.push_object(now.mono, epoch.to_bytes(), from);
                // A member that rotates waits to hear that we know.
                self.dirty.record = true;
                if member == self.me.member {
                    self.replace_restored_key(now);
                    return;
                }
                let newest = self.membership.get(member).and_then(|member| member.epochs().newest());
                if let (Some(newest), Some(peer)) = (newest, self.peers.get_mut(&member)) {
                    let remote = super::handshakes::remote_epoch(newest);
                    peer.session.set_remote(now, &mut self.handshaker, remote);
                }
                self.retry_waiting(now, member);
            }
            Ok(false) => {}
            Err(_) => self.stats.objects_refused += 1,
        }
    }

    pub(super) fn learn_record(&mut self, now: Now, from: MemberId, record: Signed<Record>) {
        let origin = record.body().member;
        let membership = &self.membership;
        let kept = record.clone();
        match self.lsdb.insert(now.mono, record, |record| genuine(membership, now.wall, record)) {
            Inserted::Newer => self.record_is_new(now, origin, from),
            Inserted::OwnSuperseded => self.dirty.record = true,
            Inserted::Older => self.send_objects(now, from, origin, Frame::GET_RECORD),
            Inserted::Refused(Refusal::UnknownOrigin) => {
                if self.gossip.waiting.len() < MAX_WAITING || self.gossip.waiting.contains_key(&origin) {
                    self.gossip.waiting.insert(origin, (from, kept));
                    let what = Frame::GET_CERTIFICATE | Frame::GET_KEY_EPOCH;
                    self.send_frames(now, from, None, &[Frame::Get { member: origin, what }]);
                }
            }
            Inserted::Refused(_) | Inserted::Conflict => self.stats.objects_refused += 1,
            Inserted::Known => {
                let relays = self.relays_now(now);
                self.with_flood(now, |flood, neighbour| {
                    flood.known(now.mono, origin, from, relays, neighbour)
                });
            }
        }
    }

    fn handle_have(&mut self, now: Now, from: MemberId, versions: &[(MemberId, BootEpoch, Seq)]) {
        for (origin, boot, seq) in versions {
            let there = Version { boot: *boot, seq: *seq };
            if self.lsdb.get(*origin).is_none_or(|entry| entry.version() < there) {
                self.gossip.flood.missing(now.mono, *origin, there, from);
            }
        }
    }

    /// Does something with the flooding, which asks who is a neighbour.
    fn with_flood<T>(
        &mut self,
        now: Now,
        act: impl FnOnce(&mut Flood, &dyn Fn(MemberId) -> Neighbour) -> T,
    ) -> T {
        let mut flood = std::mem::take(&mut self.gossip.flood);
        let answers = |member: MemberId| {
            self.peers.get(&member).is_some_and(|peer| peer.up && peer.paths.any_alive(now.mono))
        };
        let relay_answers =
            self.targets.iter().any(|member| self.announces_relay(now, *member) && answers(*member));
        let neighbour = |member: MemberId| {
            let relay = self.announces_relay(now, member);
            Neighbour {
                near: (relay || !relay_answers) && self.is_adjacency(member) && answers(member),
                relies: !relay && (self.attached.contains(&member) || self.targets.contains(&member)),
            }
        };
        let done = act(&mut flood, &neighbour);
        self.gossip.flood = flood;
        done
    }

    /// Sees to it that enough neighbours pass records on to this node.
    pub(super) fn tend_flood(&mut self, now: Now) {
        let relays = self.relays_now(now);
        self.with_flood(now, |flood, neighbour| flood.tend(now.mono, relays, neighbour));
    }

    /// What a peer is to be told that this node wants of it, in the greeting.
    pub(super) fn welcome_to_flood(&mut self, now: Now, member: MemberId) -> Level {
        let relays = self.relays_now(now);
        self.with_flood(now, |flood, neighbour| flood.welcome(member, relays, neighbour))
    }

    fn retry_waiting(&mut self, now: Now, origin: MemberId) {
        if let Some((from, record)) = self.gossip.waiting.remove(&origin) {
            self.learn_record(now, from, record);
        }
    }

    fn record_is_new(&mut self, now: Now, origin: MemberId, from: MemberId) {
        if let Some(version) = self.lsdb.get(origin).map(|entry| entry.version()) {
            self.gossip.flood.learned(now.mono, origin, version, Some(from));
        }
        self.events.push_back(Event::CacheChanged);
        self.note_keys_of(now, origin);
        self.note_bundle_of(now, origin, from);
        self.routing.timer.changed(now.mono);
        self.note_attachment(origin);
        let Some(entry) = self.lsdb.get(origin) else { return };
        let (boot, (serial, epoch)) = (entry.version().boot, entry.view().keys());
        if let Some(known) = self.membership.get(origin) {
            let mut what = 0;
            if known.epochs().newest().is_none_or(|newest| newest.body().number < epoch) {
                what |= Frame::GET_KEY_EPOCH;
            }
            if known.certificate().body().serial < serial {
                what |= Frame::GET_CERTIFICATE;
            } else if known.certificate().body().serial > serial {
                // It does not know that it was renewed.
                self.send_objects(now, origin, origin, Frame::GET_CERTIFICATE);
            }
            if what != 0 {
                self.send_frames(now, from, None, &[Frame::Get { member: origin, what }]);
            }
        }
        self.refresh_paths(now, origin);
        self.note_boot(now, origin, boot);
        let Some(peer) = self.peers.get_mut(&origin) else { return };
        // Its handshake may have been faster than its record.
        let fresh = peer.session.keypairs().any(|keypair| now.mono.since(keypair.created) < FRESH);
        if peer.up && !fresh && peer.hello.as_ref().is_some_and(|(known, _)| *known < boot) {
            // It has restarted and lost its keys: do not wait for the paths to fall silent.
            peer.hello = None;
            if peer.paths.is_idle(now.mono) {
                self.close_peer(now, origin);
            } else {
                peer.session.renew(now.mono);
                peer.session.handle_timeout(now, &mut self.handshaker);
                self.drain_session(now, origin);
            }
        } else if peer.session.is_initiating() {
            // There is news of it while we knock: it may only now be there to hear that.
            self.spread_init(now, origin);
        }
    }

    /// Sends objects of `member` to a peer: `what` is a set of the `GET_` bits.
    pub(super) fn send_objects(&mut self, now: Now, to: MemberId, member: MemberId, what: u8) {
        let frames: Vec<Frame> =
            self.objects_of(member, what).into_iter().flat_map(|object| frames_of(&object)).collect();
        self.send_frames(now, to, None, &frames);
    }

    fn objects_of(&self, member: MemberId, what: u8) -> Vec<Vec<u8>> {
        let mut objects = Vec::new();
        if let Some(known) = self.membership.get(member) {
            if what & Frame::GET_CERTIFICATE != 0 {
                if let proto::certificate::Issuer::Member(issuer, _) = known.certificate().body().issuer
                    && let Some(issuer) = self.membership.get(issuer)
                {
                    objects.push(issuer.certificate().signed().to_bytes());
                }
                objects.push(known.certificate().signed().to_bytes());
            }
            if what & Frame::GET_KEY_EPOCH != 0 {
                objects.extend(known.epochs().newest().map(Signed::to_bytes));
            }
        }
        if what & Frame::GET_RECORD != 0 {
            objects.extend(self.lsdb.get(member).map(|entry| entry.as_bytes().to_vec()));
        }
        objects
    }

    /// Passes on what is new to the peers that may not have it.
    pub(super) fn drive_gossip(&mut self, now: Now) {
        if self.gossip.flush_at.is_some_and(|at| at <= now.mono) {
            self.gossip.flush_at = None;
            self.push_objects(now);
        }
        if self.gossip.flood.poll_timeout().is_none_or(|at| at > now.mono) {
            return;
        }
        let relays = self.relays_now(now);
        let actions = self.with_flood(now, |flood, neighbour| flood.drive(now.mono, relays, neighbour));
        for action in actions {
            match action {
                Action::Push(peer, origins) => {
                    let records = origins.iter().filter_map(|origin| self.lsdb.get(*origin));
                    let frames: Vec<Frame> = records.flat_map(|entry| frames_of(entry.as_bytes())).collect();
                    self.send_frames(now, peer, None, &frames);
                    self.told_news(now, peer);
                }
                Action::Tell(peer, origins) => {
                    let versions = origins.iter().filter_map(|origin| {
                        let version = self.lsdb.get(*origin)?.version();
                        Some((*origin, version.boot, version.seq))
                    });
                    let versions: Vec<_> = versions.collect();
                    let frames: Vec<Frame> =
                        versions.chunks(MAX_VERSIONS).map(|part| Frame::Have(part.to_vec())).collect();
                    self.send_frames(now, peer, None, &frames);
                    self.told_news(now, peer);
                }
                Action::Ask(peer, member) => {
                    self.send_frames(now, peer, None, &[Frame::Get { member, what: Frame::GET_RECORD }]);
                }
                Action::Want(peer, level) => self.send_frames(now, peer, None, &[want(level)]),
            }
        }
    }

    fn push_objects(&mut self, now: Now) {
        let objects = std::mem::take(&mut self.gossip.objects);
        let up: Vec<MemberId> = self.peers.values().filter(|peer| peer.up).map(|peer| peer.member).collect();
        for peer in up {
            let objects = objects.iter().filter(|(_, from)| *from != Some(peer));
            let frames: Vec<Frame> = objects.flat_map(|(object, _)| frames_of(object)).collect();
            self.send_frames(now, peer, None, &frames);
        }
    }

    /// Whether this peer is a neighbour that databases are compared with from time to time.
    pub(super) fn compares_with(&self, peer: &Peer) -> bool {
        self.targets.contains(&peer.member) || self.is_adjacency(peer.member)
    }

    pub(super) fn compare_if_due(&mut self, now: Now, member: MemberId) {
        let Some(peer) = self.peers.get(&member) else { return };
        if !peer.up || peer.compare_at > now.mono {
            return;
        }
        let every = peer.compare_every;
        let next = now.mono + every + self.random_jitter(every / 4);
        let mut frames = vec![Frame::Summary(self.lsdb.summary())];
        if !self.membership.revocations().is_empty() {
            frames.push(Frame::RevocationSummary(self.membership.revocations().summary()));
        }
        if let Some(peer) = self.peers.get_mut(&member) {
            peer.compare_at = next;
            peer.compare_every = (every * 2).min(COMPARE_SELDOM);
            peer.summarised_records = Some(now.mono);
        }
        self.send_frames(now, member, None, &frames);
    }

    /// How soon after news databases are compared, to find what was lost of them.
    fn compare_after_news(&self) -> Duration {
        let members = u32::try_from(self.membership.len()).unwrap_or(u32::MAX);
        COMPARE_PER_MEMBER.saturating_mul(members).clamp(COMPARE_AFTER_NEWS, COMPARE_SELDOM)
    }

    /// Notes that a peer was told news, which may not arrive.
    fn told_news(&mut self, now: Now, member: MemberId) {
        let soon = self.compare_after_news();
        let at = now.mono + soon + self.random_jitter(soon / 4);
        if let Some(peer) = self.peers.get_mut(&member) {
            peer.compare_at = peer.compare_at.min(at);
            peer.compare_every = peer.compare_every.min(soon);
        }
    }

    /// What a session begins with: the own record, and a summary of all others. Where this node has just started with what
    /// it knew before, the others may have as well: much is about to change, and what of that does not come by itself is
    /// looked for a little later.
    pub(super) fn records_to_greet(&mut self, now: Now, member: MemberId) -> Vec<Frame> {
        let own = self.lsdb.get(self.me.member).map(|own| own.as_bytes().to_vec());
        let mut frames = own.map(|own| frames_of(&own)).unwrap_or_default();
        let wait = COMPARE_IN_STORM + self.random_jitter(COMPARE_IN_STORM);
        let stormy = self.is_stormy(now);
        if let Some(peer) = self.peers.get_mut(&member) {
            if stormy {
                peer.compare_at = peer.compare_at.max(now.mono + wait);
            } else {
                peer.summarised_records = Some(now.mono);
                frames.push(Frame::Summary(self.lsdb.summary()));
            }
        }
        frames
    }

    /// Whether this node has just started in a large mesh, and others may have as well.
    fn is_stormy(&self, now: Now) -> bool {
        now.mono.since(self.started) < STORM && self.lsdb.len() >= STORM_RECORDS
    }

    /// Makes a new own record when something that it says may have changed, once for all that changes together.
    pub(super) fn author_if_due(&mut self, now: Now) {
        if std::mem::take(&mut self.dirty.record) {
            let first = self.lsdb.get(self.me.member).is_none();
            let gather = if self.is_stormy(now) { BATCH_IN_STORM } else { BATCH };
            let at = if first { now.mono } else { now.mono + gather };
            self.dirty.record_at = Some(self.dirty.record_at.map_or(at, |record_at| record_at.min(at)));
        }
        if self.dirty.record_at.is_some_and(|at| at <= now.mono) {
            self.dirty.record_at = None;
            self.author_record(now);
        }
    }

    /// Makes a new own record where something that it says has changed.
    fn author_record(&mut self, now: Now) {
        let (candidates, mut subnets, links) =
            (self.own_candidates(), self.own_subnets(now.wall), self.own_links(now));
        subnets.extend(self.exit_subnets(now));
        let left_out = self.plan.as_ref().map_or(0, |plan| plan.without.len());
        let used = candidates.len() + subnets.len() + links.len() + left_out;
        let (confirms, short_confirms) = self.own_confirms(now.mono, used);
        let content = Record {
            mesh: self.membership.mesh(),
            member: self.me.member,
            boot: BootEpoch(0),
            seq: Seq(0),
            created_s: 0,
            certificate: self.me.serial,
            key_epoch: self.keys.announced(),
            candidates,
            subnets,
            datacenter: self.settings.datacenter.clone(),
            relays: self.relays_now(now),
            links,
            floor: Some(self.keys.floor()),
            confirms,
            short_confirms,
            bundle: Some(self.membership.trust().version()),
            plan: self.plan.clone(),
        };
        let identity = &self.me.identity;
        let made = self.lsdb.author(now, content, |record| identity.sign_record(record));
        if made == Authored::New {
            let own = self.me.member;
            if let Some(version) = self.lsdb.get(own).map(|entry| entry.version()) {
                self.gossip.flood.learned(now.mono, own, version, None);
            }
            self.routing.timer.changed(now.mono);
            self.events.push_back(Event::CacheChanged);
        }
    }

    /// Subnets that are configured and that the certificate allows.
    pub(super) fn own_subnets(&self, wall: UnixMs) -> Vec<proto::record::Subnet> {
        let me = self.me.member;
        let allowed = |subnet: &&proto::record::Subnet| {
            subnet.prefix.prefix_len() > 0 && self.membership.may_announce(wall, me, &subnet.prefix)
        };
        self.settings.subnets.iter().filter(allowed).take(MAX_OWN_SUBNETS).copied().collect()
    }

    /// Whose records this node has, for tests and status.
    pub fn known_origins(&self) -> BTreeSet<MemberId> {
        self.lsdb.iter().map(|(member, _)| member).collect()
    }
}

fn genuine(membership: &Membership, wall: UnixMs, record: &Signed<Record>) -> Verdict {
    let origin = record.body().member;
    match membership.get(origin) {
        Some(member) if membership.is_honoured(wall, origin) => match member.verify(record) {
            Ok(()) => Verdict::Genuine,
            Err(_) => Verdict::Forged,
        },
        _ => Verdict::UnknownOrigin,
    }
}

/// The frame that asks for a level of news.
pub(super) fn want(level: Level) -> Frame {
    Frame::Want(match level {
        Level::Nothing => Frame::WANT_NOTHING,
        Level::Versions => Frame::WANT_VERSIONS,
        Level::Records => Frame::WANT_RECORDS,
    })
}

/// The frames that carry an object: one, or its pieces.
pub(super) fn frames_of(object: &[u8]) -> Vec<Frame> {
    if object.len() <= MAX_FRAGMENT_LEN {
        return vec![Frame::Object(object.to_vec())];
    }
    let id = object_id(object);
    let total = object.len().div_ceil(MAX_FRAGMENT_LEN) as u8;
    object
        .chunks(MAX_FRAGMENT_LEN)
        .zip(0..)
        .map(|(piece, index)| Frame::Fragment { id, index, total, bytes: piece.to_vec() })
        .collect()
}

fn object_id(object: &[u8]) -> u64 {
    let hash = hash(&[b"meshnet object", object]);
    u64::from_be_bytes(*hash.first_chunk().expect("a hash has 32 bytes"))
}

fn put_object(out: &mut Vec<u8>, object: &[u8]) {
    out.extend_from_slice(&(object.len() as u16).to_be_bytes());
    out.extend_from_slice(object);
}

fn objects(mut cache: &[u8]) -> impl Iterator<Item = &[u8]> {
    std::iter::from_fn(move || {
        let (len, rest) = cache.split_first_chunk::<2>()?;
        let (object, rest) = rest.split_at_checked(usize::from(u16::from_be_bytes(*len)))?;
        cache = rest;
        Some(object)
    })
}
