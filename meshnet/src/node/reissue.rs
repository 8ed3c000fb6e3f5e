//! Members whose certificates a new trust bundle no longer supports: they stay for a while, and are asked for newer ones.
//!
//! When an authority is replaced, everybody's certificate is issued anew before the old root is dropped. Who hears of all
//! that at once, because it was away, has the bundles before the certificates: without patience it would drop everybody
//! over whom the certificates could come. Nothing that the dropped root has signed is *taken* meanwhile, whatever it says.

use std::time::Duration;

use proto::bundle::SignedBundle;
use proto::frame::Frame;
use proto::id::MemberId;

use super::gossip::frames_of;
use super::{Event, Node};
use crate::time::{Mono, Now};

/// How long members without support stay.
pub const REISSUE_PATIENCE: Duration = Duration::from_secs(600);
/// How soon their certificates are asked for again, at first …
const ASK_AGAIN: Duration = Duration::from_secs(1);
/// … and at last.
const ASK_RARELY: Duration = Duration::from_secs(30);
/// Peers that are asked for one certificate.
const MAX_ASKED: usize = 3;
/// Certificates that are asked for at a time.
const MAX_WANTED: usize = 64;

/// Since when there are members without support.
#[derive(Default)]
pub(super) struct Reissue {
    until: Option<Mono>,
    ask_at: Option<Mono>,
    pause: Duration,
}

impl Reissue {
    pub(super) fn poll_timeout(&self) -> Option<Mono> {
        self.until.into_iter().chain(self.ask_at).min()
    }
}

impl Node {
    /// What the certificates go back to has changed.
    pub(super) fn note_support(&mut self, now: Now) {
        let me = self.me.member;
        let unsupported = self.membership.unsupported();
        if unsupported.contains(&me) {
            // Not in ten seconds, with the other chores.
            self.ask_for_renewal_now();
        }
        if unsupported.iter().all(|member| *member == me) {
            self.reissue = Reissue::default();
        } else if self.reissue.until.is_none() {
            let until = Some(now.mono + REISSUE_PATIENCE);
            self.reissue = Reissue { until, ask_at: Some(now.mono + ASK_AGAIN), pause: ASK_AGAIN };
        }
    }

    /// Asks for the certificates of members without support, or gives them up.
    pub(super) fn drive_reissue(&mut self, now: Now) {
        let due = |at: Option<Mono>| at.is_some_and(|at| at <= now.mono);
        if due(self.reissue.until) {
            self.reissue = Reissue::default();
            let dropped = self.membership.drop_unsupported(self.me.member);
            for member in &dropped {
                self.close_peer(now, *member);
            }
            if !dropped.is_empty() {
                self.routing.timer.changed(now.mono);
                self.dirty.snapshot = true;
                self.events.push_back(Event::CacheChanged);
            }
        } else if due(self.reissue.ask_at) {
            self.note_support(now);
            if self.reissue.until.is_some() {
                self.reissue.ask_at = Some(now.mono + self.reissue.pause);
                self.reissue.pause = (self.reissue.pause * 2).min(ASK_RARELY);
                self.ask_for_certificates(now);
            }
        }
    }

    fn ask_for_certificates(&mut self, now: Now) {
        let own = self.membership.trust().version();
        let mut peers: Vec<(bool, [u8; 32], MemberId)> = self
            .peers
            .values()
            .filter(|peer| peer.up)
            .map(|peer| {
                let record = self.lsdb.get(peer.member).map(|entry| entry.view());
                let knows = record.is_some_and(|record| record.bundle() >= Some(own));
                (!knows, self.affinity(peer.member), peer.member)
            })
            .collect();
        peers.sort_unstable();
        let me = self.me.member;
        let wanted = self.membership.unsupported().into_iter().filter(|member| *member != me);
        let frames: Vec<Frame> = wanted
            .take(MAX_WANTED)
            .map(|member| Frame::Get { member, what: Frame::GET_CERTIFICATE })
            .collect();
        for (_, _, peer) in peers.into_iter().take(MAX_ASKED) {
            self.send_frames(now, peer, None, &frames);
        }
    }

    /// A certificate has taken the place of an older one: whoever does not hear of it from here asks when it has to.
    pub(super) fn pass_on_certificate(&mut self, now: Now, member: MemberId) {
        let Some(known) = self.membership.get(member).map(|known| known.certificate().clone()) else {
            return;
        };
        if let proto::certificate::Issuer::Member(issuer, _) = known.body().issuer
            && let Some(issuer) = self.membership.get(issuer)
        {
            let issuer = issuer.certificate().signed().to_bytes();
            self.gossip.push_object(now.mono, issuer, None);
        }
        self.gossip.push_object(now.mono, known.signed().to_bytes(), None);
    }

    /// A peer is behind: it gets the bundles that it lacks, and the certificates that it needs to go on.
    pub(super) fn bring_up(&mut self, now: Now, peer: MemberId, version: u32) {
        self.send_bundles(now, peer, version);
        self.send_objects(now, peer, self.me.member, Frame::GET_CERTIFICATE);
        self.send_objects(now, peer, peer, Frame::GET_CERTIFICATE);
    }

    /// A record says which trust bundle its origin knows: whoever is behind gets what is missing.
    pub(super) fn note_bundle_of(&mut self, now: Now, origin: MemberId, from: MemberId) {
        let told = self.lsdb.get(origin).and_then(|entry| entry.view().bundle());
        let Some(told) = told.filter(|_| origin != self.me.member) else { return };
        let own = self.membership.trust().version();
        if told > own {
            self.send_frames(now, from, None, &[Frame::GetBundles { after: own }]);
        } else if told < own && self.peers.get(&origin).is_some_and(|peer| peer.up) {
            self.bring_up(now, origin, told);
        }
    }

    /// A peer follows a fork of the chain: what the recovery key has signed convinces it.
    pub(super) fn correct_fork(&mut self, now: Now, peer: MemberId) {
        let chain = self.membership.trust().since_recovery();
        let frames: Vec<Frame> =
            chain.iter().map(SignedBundle::to_bytes).flat_map(|bundle| frames_of(&bundle)).collect();
        self.send_frames(now, peer, None, &frames);
    }
}
