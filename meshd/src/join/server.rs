//! The inviter's end: answers hellos for invitations in the register, and issues the certificate.

use std::collections::BTreeMap;
use std::time::Duration;

use meshnet::crypto::{Secret, TransportSecret};
use meshnet::membership::{
    DEFAULT_LIFETIME_S, IssueError, Membership, Request, Signer, VerifiedCertificate, issue,
};
use meshnet::session::join::{JoinKeys, JoinResponder, JoinerSays, MAX_PIECES};
use meshnet::time::{Mono, Now};
use proto::certificate::{Certificate, IssuerConstraints, Roles};
use proto::id::{IdentityKey, InvitationId, Name};
use proto::join::{Join, MAX_PIECE_LEN, Stage};
use proto::key_epoch::KeyEpoch;
use proto::signed::Signed;
use rand::RngExt;
use rand::rngs::StdRng;
use tracing::{debug, error, info, warn};

use super::{InviterProof, JoinerProof, Refusal, Welcome};
use crate::state::Home;
use crate::state::invitations::{Invitation, RedeemError, Register};

/// Most exchanges at a time; the oldest gives way.
pub const MAX_EXCHANGES: usize = 64;
/// How long an exchange is kept after its last datagram.
const EXCHANGE_LIFETIME: Duration = Duration::from_secs(60);
/// Room for a welcome's content.
const WELCOME_MAX_BYTES: usize = MAX_PIECES * MAX_PIECE_LEN - 256;

/// What the inviter's end needs to know of the running node.
pub trait Mesh {
    /// The members.
    fn membership(&self) -> &Membership;

    /// Certificates, key epochs, and records for a newcomer, the most useful first.
    fn objects(&self) -> Vec<Vec<u8>>;
}

/// The inviter's end of all joins under way.
pub struct Server {
    register: Register,
    transport: TransportSecret,
    epoch: Signed<KeyEpoch>,
    exchanges: BTreeMap<u32, Exchange>,
}

struct Exchange {
    responder: JoinResponder,
    invitation: InvitationId,
    refused: Option<Refusal>,
    last: Mono,
}

/// What came of a datagram.
#[derive(Default)]
pub struct Outcome {
    /// The answer, to be sent where the datagram came from.
    pub answer: Option<Vec<u8>>,
    /// The new member, if the datagram made one.
    pub joined: Option<(Signed<Certificate>, Signed<KeyEpoch>)>,
}

impl Server {
    /// For the register of invitations, with the node's current transport key.
    pub fn new(register: Register, transport: TransportSecret, epoch: Signed<KeyEpoch>) -> Server {
        Server { register, transport, epoch, exchanges: BTreeMap::new() }
    }

    /// Replaces the node's transport key for joins that begin from now on.
    pub fn set_key(&mut self, transport: TransportSecret, epoch: Signed<KeyEpoch>) {
        (self.transport, self.epoch) = (transport, epoch);
    }

    /// Takes a join datagram. Whoever does not know an invitation gets no answer.
    pub fn handle(
        &mut self,
        now: Now,
        home: &Home,
        mesh: &dyn Mesh,
        datagram: &[u8],
        rng: &mut StdRng,
    ) -> Outcome {
        let Ok(join) = Join::parse(datagram) else { return Outcome::default() };
        if join.inviter != home.certificate.body().member {
            return Outcome::default();
        }
        self.exchanges.retain(|_, exchange| now.mono.since(exchange.last) < EXCHANGE_LIFETIME);
        if let Stage::Hello { invitation, .. } = join.stage {
            let again =
                self.exchanges.get(&join.token).is_some_and(|known| known.responder.began_with(datagram));
            if !again && !self.begin(now, home, invitation, datagram, rng) {
                return Outcome::default();
            }
        }
        let Some(exchange) = self.exchanges.get_mut(&join.token) else { return Outcome::default() };
        exchange.last = now.mono;
        if let Some(refusal) = exchange.refused {
            return Outcome { answer: exchange.responder.refuse(refusal as u8), joined: None };
        }
        let answer = match join.stage {
            Stage::Hello { .. } => exchange.responder.answer(0),
            Stage::Request { sealed: false, index } => exchange.responder.answer(index),
            Stage::Request { sealed: true, index } => exchange.responder.welcome(index),
            Stage::Finish(message) => return self.finish(now, home, mesh, join.token, message, rng),
            Stage::Answer(_) | Stage::Welcome(_) | Stage::Refused(_) => None,
        };
        Outcome { answer, joined: None }
    }

    /// Begins an exchange, if the hello shows that the sender knows the invitation.
    fn begin(&mut self, now: Now, home: &Home, id: InvitationId, datagram: &[u8], rng: &mut StdRng) -> bool {
        let invitation = match self.register.get(id.0) {
            Ok(Some(invitation)) => invitation,
            Ok(None) => return false,
            Err(error) => {
                warn!(%error, "cannot read an invitation that somebody wants to use");
                return false;
            }
        };
        let keys = JoinKeys { invitation: id, psk: Secret::new(invitation.psk.0) };
        let proof = InviterProof {
            certificate: home.certificate.clone(),
            issuer: home.issuer.clone(),
            epoch: self.epoch.clone(),
            chain: home.chain.clone(),
        };
        let mesh = home.chain.mesh();
        let accepted = JoinResponder::accept_hello(mesh, keys, &self.transport, datagram, &proof.emit(), rng);
        let responder = match accepted {
            Ok(responder) => responder,
            Err(error) => {
                debug!(%error, invitation = %id, "hello not accepted");
                return false;
            }
        };
        // Tell at once what would come out at the end; who has used it itself may go on.
        let over = invitation.redeemed.is_none() && invitation.expires_s <= now.wall.seconds();
        let refused = over.then_some(Refusal::Expired);
        if self.exchanges.len() >= MAX_EXCHANGES {
            let oldest =
                self.exchanges.iter().min_by_key(|(_, exchange)| exchange.last).map(|(token, _)| *token);
            oldest.and_then(|token| self.exchanges.remove(&token));
        }
        let token = responder.context().token;
        self.exchanges.insert(token, Exchange { responder, invitation: id, refused, last: now.mono });
        true
    }

    fn finish(
        &mut self,
        now: Now,
        home: &Home,
        mesh: &dyn Mesh,
        token: u32,
        message: &[u8],
        rng: &mut StdRng,
    ) -> Outcome {
        let Some(exchange) = self.exchanges.get_mut(&token) else { return Outcome::default() };
        let says = match exchange.responder.handle_finish(message) {
            Ok(says) => says,
            Err(error) => {
                debug!(%error, "message 3 of a join not accepted");
                return Outcome::default();
            }
        };
        if let Some(first) = exchange.responder.welcome(0) {
            return Outcome { answer: Some(first), joined: None };
        }
        let id = exchange.invitation;
        match admit(now, home, mesh, &self.register, id, &says, rng) {
            Ok((welcome, epoch)) => {
                let joined = (welcome.certificate.signed().clone(), epoch);
                if let Err(error) = exchange.responder.set_welcome(&welcome.emit(WELCOME_MAX_BYTES)) {
                    error!(%error, "cannot welcome a new member");
                    return Outcome {
                        answer: exchange.responder.refuse(Refusal::Broken as u8),
                        joined: None,
                    };
                }
                let name = &welcome.certificate.body().name;
                info!(%name, member = %welcome.certificate.body().member, invitation = %id, "joined");
                Outcome { answer: exchange.responder.welcome(0), joined: Some(joined) }
            }
            Err(NotAdmitted::Busy) => {
                debug!(invitation = %id, "the register of invitations is in use; the joiner will ask again");
                Outcome::default()
            }
            Err(NotAdmitted::Refused(refusal)) => {
                info!(invitation = %id, reason = %refusal, "join refused");
                // A disk may have room again a second later; the rest stays as it is.
                exchange.refused = (refusal != Refusal::Broken).then_some(refusal);
                Outcome { answer: exchange.responder.refuse(refusal as u8), joined: None }
            }
        }
    }
}

/// Why a joiner does not get in now.
enum NotAdmitted {
    /// It is to hear why.
    Refused(Refusal),
    /// Another process has the register: no answer, and the joiner asks again.
    Busy,
}

impl From<Refusal> for NotAdmitted {
    fn from(refusal: Refusal) -> NotAdmitted {
        NotAdmitted::Refused(refusal)
    }
}

/// Redeems the invitation for the joiner and makes its welcome.
fn admit(
    now: Now,
    home: &Home,
    mesh: &dyn Mesh,
    register: &Register,
    id: InvitationId,
    says: &JoinerSays,
    rng: &mut StdRng,
) -> Result<(Welcome, Signed<KeyEpoch>), NotAdmitted> {
    let proof = JoinerProof::parse(&says.payload, home.chain.mesh(), &says.binding, &says.static_key)
        .map_err(|_| Refusal::Malformed)?;
    let broken = |error: crate::state::Error| {
        error!(%error, "cannot use the register of invitations");
        Refusal::Broken
    };
    let locked = register.try_lock().map_err(broken)?.ok_or(NotAdmitted::Busy)?;
    let promised = locked.register().get(id.0).map_err(broken)?.ok_or(Refusal::Expired)?;
    if promised.redeemed.is_none() {
        check_promise(now, mesh.membership(), &promised, &proof.identity)?;
    }
    let mut invitation =
        locked.redeem(id.0, proof.identity.0, now.wall.seconds()).map_err(|error| match error {
            RedeemError::Used => Refusal::Used,
            RedeemError::Unknown | RedeemError::Expired => Refusal::Expired,
            RedeemError::State(error) => broken(error),
        })?;
    let kept = invitation.redeemed.as_ref().and_then(|redeemed| Signed::parse(&redeemed.certificate).ok());
    // A certificate kept from an earlier answer may have been made under roots that are gone.
    let issuer = own_as_issuer(home);
    let kept = kept.and_then(|kept| VerifiedCertificate::verify(&home.chain, kept, issuer).ok());
    let certificate = match kept {
        Some(kept) => kept,
        None => {
            let request = request(&invitation, proof.identity).ok_or(Refusal::Broken)?;
            let made = sign(now, home, request, rng).map_err(|error| {
                error!(%error, name = invitation.name, "cannot issue a certificate");
                Refusal::NotAnIssuer
            })?;
            if let Some(redeemed) = &mut invitation.redeemed {
                redeemed.certificate = made.signed().to_bytes();
            }
            locked.put(&invitation).map_err(broken)?;
            made
        }
    };
    let gate = home.gate().map_err(broken)?;
    let issuer = (!certificate.is_by_root()).then(|| home.certificate.clone());
    let welcome = Welcome { gate, certificate, issuer, chain: home.chain.clone(), others: mesh.objects() };
    Ok((welcome, proof.epoch))
}

/// The name and the addresses may have gone to somebody else since the invitation was made.
fn check_promise(
    now: Now,
    membership: &Membership,
    invitation: &Invitation,
    identity: &IdentityKey,
) -> Result<(), Refusal> {
    let own = meshnet::membership::member_id(identity);
    let name = Name::new(&invitation.name).map_err(|_| Refusal::Broken)?;
    let named = membership.with_name(now.wall, &name);
    let owners = invitation.addresses.iter().filter_map(|address| membership.owner(now.wall, address));
    match named.into_iter().chain(owners).find(|member| *member != own) {
        Some(holder) => {
            warn!(name = invitation.name, %holder, "an invitation promises what another member has");
            Err(Refusal::Taken)
        }
        None => Ok(()),
    }
}

/// What to certify for an invitation; `None` if its name is none.
pub fn request(invitation: &Invitation, identity: IdentityKey) -> Option<Request> {
    let roles = Roles(invitation.roles);
    let constraints = roles.contains(Roles::ISSUER).then(|| IssuerConstraints {
        name_suffix: invitation.limits.names.clone(),
        prefixes: invitation.limits.prefixes.clone(),
        max_lifetime_s: invitation
            .limits
            .lifetime_s
            .unwrap_or(u32::try_from(DEFAULT_LIFETIME_S).unwrap_or(u32::MAX)),
    });
    Some(Request {
        identity,
        name: Name::new(&invitation.name).ok()?,
        addresses: invitation.addresses.clone(),
        prefixes: invitation.prefixes.clone(),
        roles,
        constraints,
        lifetime_s: DEFAULT_LIFETIME_S,
    })
}

/// Why this node cannot certify anybody.
#[derive(Debug, thiserror::Error)]
pub enum SignError {
    /// It has neither the authority's key nor the role.
    #[error("this node has neither the authority's key nor the role of an issuer")]
    NotAnIssuer,
    /// The authority's key cannot be read.
    #[error(transparent)]
    State(#[from] crate::state::Error),
    /// The certificate would not be accepted.
    #[error(transparent)]
    Issue(#[from] IssueError),
}

/// Issues a certificate with the authority's key if it is here, otherwise as an issuer.
///
/// # Errors
/// [`SignError`].
pub fn sign(
    now: Now,
    home: &Home,
    request: Request,
    rng: &mut StdRng,
) -> Result<VerifiedCertificate, SignError> {
    let salt = rng.random();
    let authority = home.authority()?;
    let signer = match (&authority, own_as_issuer(home)) {
        (Some(authority), _) => Signer::Root(authority),
        (None, Some(certificate)) => Signer::Member { secret: &home.identity, certificate },
        (None, None) => return Err(SignError::NotAnIssuer),
    };
    let request = within_limits(&signer, request);
    Ok(issue(now.wall, &home.chain, &signer, request, None, salt)?)
}

/// What is asked for, for as long as the signer may certify at most.
pub fn within_limits(signer: &Signer<'_>, request: Request) -> Request {
    let limits = match signer {
        Signer::Root(_) => None,
        Signer::Member { certificate, .. } => certificate.body().constraints.as_deref(),
    };
    let longest_s = limits.map_or(u64::MAX, |limits| limits.max_lifetime_s.into());
    Request { lifetime_s: request.lifetime_s.min(longest_s), ..request }
}

fn own_as_issuer(home: &Home) -> Option<&VerifiedCertificate> {
    home.certificate.body().roles.contains(Roles::ISSUER).then_some(&home.certificate)
}
