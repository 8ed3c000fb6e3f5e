//! Renewal of certificates: a node asks when a third of the lifetime is left, and any member that can sign answers.
//!
//! Whether a member can is for its shell to know, which may keep the authority's key; so those who are asked hand the
//! question up. Members with the role of an issuer are asked first, then operators, then others. Expired certificates are
//! renewed too, while the grace lasts. Theft is answered by revocation, never by waiting for the end.

use std::time::Duration;

use proto::certificate::{Certificate, Issuer, Roles};
use proto::frame::Frame;
use proto::id::MemberId;
use proto::signed::Signed;

use super::gossip::frames_of;
use super::{Event, Node};
use crate::membership::{AddError, Added, Validity};
use crate::time::{Mono, Now};

/// How often a node asks while it is not renewed.
const ASK_EVERY: Duration = Duration::from_secs(60);
/// The first tries may well succeed, or still make the sessions that they need: the log is loud from the next one on.
const QUIET_ASKS: u32 = 2;
/// Members asked at a time.
const MAX_ASKED: usize = 8;
/// How often the end of the own certificate is told, from the moment that it could have been renewed.
const TELL_EVERY: Duration = Duration::from_secs(6 * 3600);

/// When to ask, and to tell, next.
#[derive(Default)]
pub(super) struct Renewal {
    ask_at: Option<Mono>,
    asked: u32,
    tell_at: Option<Mono>,
}

/// Whether a certificate is to be renewed: `part` of its lifetime is left, or less.
fn is_due(now: Now, certificate: &Certificate, part: u64) -> bool {
    let lifetime_s = certificate.not_after_s.saturating_sub(certificate.not_before_s);
    certificate.not_after_s.saturating_sub(now.wall.seconds()) <= lifetime_s / part
}

impl Node {
    /// The own certificate holds no longer: its end is not waited for, nor the chores.
    pub(super) fn ask_for_renewal_now(&mut self) {
        self.renewal.ask_at = None;
    }

    /// Ends sessions with members whose certificates and the grace after them are over. Whoever initiates is refused by
    /// then; but this node's own handshakes would keep a session alive.
    pub(super) fn end_expired(&mut self, now: Now) {
        let expired =
            |member: &MemberId| self.membership.validity(now.wall, *member) == Some(Validity::Expired);
        let ended: Vec<MemberId> = self.peers.keys().copied().filter(expired).collect();
        for member in ended {
            self.close_peer(now, member);
        }
    }

    /// Asks for a new certificate where the own one needs it.
    pub(super) fn renew_if_due(&mut self, now: Now) {
        let Some(own) = self.membership.get(self.me.member) else { return };
        let certificate = own.certificate().body();
        let unsupported = !self.membership.is_supported(self.me.member);
        if !(unsupported || is_due(now, certificate, 3))
            || self.renewal.ask_at.is_some_and(|at| at > now.mono)
        {
            return;
        }
        let seconds_left = certificate.not_after_s as i64 - now.wall.seconds() as i64;
        self.renewal.ask_at = Some(now.mono + ASK_EVERY);
        self.renewal.asked = self.renewal.asked.saturating_add(1);
        if self.renewal.asked > QUIET_ASKS && self.renewal.tell_at.is_none_or(|at| at <= now.mono) {
            self.renewal.tell_at = Some(now.mono + TELL_EVERY);
            self.events.push_back(Event::CertificateEnds { seconds_left });
        }
        // This node may be able to do it itself.
        self.events.push_back(Event::Renew { member: self.me.member });
        let mut others: Vec<(u8, bool, [u8; 32], MemberId)> = self
            .membership
            .iter()
            .filter(|(member, _)| *member != self.me.member && self.membership.is_honoured(now.wall, *member))
            .map(|(member, known)| {
                let roles = known.certificate().body().roles;
                let rank = match () {
                    () if roles.contains(Roles::ISSUER) => 0,
                    () if roles.contains(Roles::OPERATOR) => 1,
                    () => 2,
                };
                let up = self.peers.get(&member).is_some_and(|peer| peer.up);
                (rank, !up, self.affinity(member), member)
            })
            .collect();
        others.sort_unstable();
        // Who has no role may keep the authority's key, too: where nobody has renewed it, others of them are asked each time.
        let unlikely =
            others.iter().position(|(rank, not_up, ..)| *rank == 2 && *not_up).unwrap_or(others.len());
        let tries = self.renewal.asked as usize;
        if let Some(left @ [_, ..]) = others.get_mut(unlikely..) {
            let len = left.len();
            left.rotate_left((tries / 2).saturating_mul(MAX_ASKED) % len);
        }
        for (rank, not_up, _, member) in others.into_iter().take(MAX_ASKED) {
            if not_up && (rank < 2 || tries > 1) {
                // The next time there will be a session.
                self.want(now, member);
            }
            self.send_frames(now, member, None, &[Frame::Renew]);
        }
    }

    /// A member asks for a new certificate.
    pub(super) fn handle_renew(&mut self, now: Now, from: MemberId) {
        let Some(known) = self.membership.get(from) else { return };
        // Half of it may be over at a clock that is ahead of the asker's.
        let due = is_due(now, known.certificate().body(), 2) || !self.membership.is_supported(from);
        if due && self.membership.is_honoured(now.wall, from) {
            self.events.push_back(Event::Renew { member: from });
        }
    }

    /// Takes a certificate that was made here, and tells its member and everybody.
    ///
    /// # Errors
    /// [`AddError`]; nothing has changed then.
    pub fn add_certificate(
        &mut self,
        now: Now,
        certificate: Signed<Certificate>,
        issuer: Option<Signed<Certificate>>,
    ) -> Result<(), AddError> {
        let member = certificate.body().member;
        let mut frames = issuer.as_ref().map(|issuer| frames_of(&issuer.to_bytes())).unwrap_or_default();
        frames.extend(frames_of(&certificate.to_bytes()));
        let added = self.membership.add_certificate(now.wall, certificate, issuer)?;
        if matches!(added, Added::New | Added::Renewed) {
            if added == Added::Renewed {
                self.pass_on_certificate(now, member);
            }
            self.certificate_is_new(now, member);
            self.send_frames(now, member, None, &frames);
        }
        self.settle(now);
        Ok(())
    }

    /// What follows from a certificate that was not known.
    pub(super) fn certificate_is_new(&mut self, now: Now, member: MemberId) {
        self.events.push_back(Event::CacheChanged);
        self.routing.timer.changed(now.mono);
        if member != self.me.member {
            return;
        }
        let Some(own) = self.membership.get(member).map(|own| own.certificate().signed().clone()) else {
            return;
        };
        self.me.serial = own.body().serial;
        self.me.certificate = own.to_bytes();
        self.me.issuer = match own.body().issuer {
            Issuer::Member(issuer, _) => {
                self.membership.get(issuer).map(|issuer| issuer.certificate().signed().to_bytes())
            }
            Issuer::Root(_) => None,
        };
        self.renewal = Renewal::default();
        self.dirty.record = true;
        self.dirty.snapshot = true;
        self.events.push_back(Event::CertificateChanged);
    }
}
