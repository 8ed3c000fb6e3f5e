//! How a newcomer with an invitation and its inviter come to trust each other: `Noise_XXpsk3_25519_ChaChaPoly_BLAKE2s`,
//! keyed by the invitation.
//!
//! ```text
//! joiner                                                     inviter
//! Hello   message 1, MAC by the invitation            ->     accept_hello; silence without the MAC
//!         <-  Answer  message 2, in pieces: who the inviter is (sealed to the joiner's ephemeral key)
//! Finish  message 3: who the joiner is                ->     handle_finish: it knows the invitation
//!         <-  Welcome sealed blob, in pieces
//! ```
//!
//! Both ends are sans-IO and make whole datagrams. Everything may be sent again: the same question gets the same answer.
//! What the payloads say, and checking it against the invitation URL, is the caller's part.

use proto::handshake::MAC_LEN;
use proto::id::{InvitationId, MemberId, MeshId, ReceiverIndex, TransportKey};
use proto::invitation::Invitation;
use proto::join::{JOIN_HEADER_LEN, JOIN_MAX_LEN, Join, MAX_PIECE_LEN, Piece, Stage};
use proto::lane::Lane;
use rand::CryptoRng;

use super::noise::{DhMeter, Local, Noise, PSK3, SplitKeys};
use crate::crypto::{
    HASH_LEN, LaneOpener, LaneSealer, Secret, Suite, TAG_LEN, TransportSecret, hash, kdf, keyed_mac,
    macs_equal,
};

/// Most pieces of one message; some 35 kB.
pub const MAX_PIECES: usize = 32;

/// Most datagrams that an inviter sends for one join: a stranger who has seen the joiner's token gets no more.
pub const MAX_DATAGRAMS: u32 = 512;

/// The hello is filled up to about the length of a piece, so that an answer is not longer than the question.
const HELLO_PADDING: usize = 1040;

/// Why a datagram of a join was refused. Nothing has changed then.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
pub enum JoinError {
    /// Not of this exchange, or not of the stage that it is in.
    #[error("the datagram does not belong to this stage of this exchange")]
    Unexpected,
    /// The sender does not know the invitation.
    #[error("the sender does not know the invitation")]
    Mac,
    /// A message or blob does not open: forged, damaged, or from another exchange.
    #[error("the message does not open")]
    Sealed,
    /// A payload is too long to be sent.
    #[error("the payload is too long")]
    TooLong,
}

/// What an invitation's secret becomes: all that the inviter stores of it.
#[derive(Clone)]
pub struct JoinKeys {
    /// Tells the inviter which invitation it is.
    pub invitation: InvitationId,
    /// The pre-shared key; a hash of the secret.
    pub psk: Secret<32>,
}

impl JoinKeys {
    /// From the secret in the URL.
    pub fn of_secret(secret: &[u8; 16]) -> JoinKeys {
        JoinKeys { invitation: Invitation::id_of(secret), psk: kdf(secret, "meshnet join psk", &[]) }
    }

    fn hello_key(&self) -> Secret<32> {
        kdf(self.psk.bytes(), "meshnet join hello", &[])
    }

    fn refusal_key(&self) -> Secret<32> {
        kdf(self.psk.bytes(), "meshnet join refusal", &[])
    }
}

/// Which exchange it is; the same at both ends, and bound by the handshake.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct JoinContext {
    /// The mesh to join.
    pub mesh: MeshId,
    /// Who invited.
    pub inviter: MemberId,
    /// Drawn by the joiner, in every datagram.
    pub token: u32,
}

impl JoinContext {
    /// A context with a random token.
    pub fn random(mesh: MeshId, inviter: MemberId, rng: &mut impl CryptoRng) -> JoinContext {
        JoinContext { mesh, inviter, token: rng.next_u32() }
    }

    fn prologue(&self) -> Vec<u8> {
        let version = [proto::VERSION];
        [b"meshnet join", &version[..], &self.mesh.0, &self.inviter.0, &self.token.to_be_bytes()].concat()
    }

    fn datagram(&self, stage: Stage<'_>) -> Vec<u8> {
        let mut out = Vec::new();
        Join { token: self.token, inviter: self.inviter, stage }.emit(&mut out);
        out
    }
}

/// What the joiner learns from message 2.
pub struct InviterSays {
    /// The decrypted payload.
    pub payload: Vec<u8>,
    /// The inviter's static key, which has to be the transport key in its signed key epoch.
    pub static_key: TransportKey,
    /// Stands for everything said so far; for the joiner's identity to sign.
    pub binding: [u8; HASH_LEN],
}

/// What the inviter learns from message 3. The sender knows the invitation.
#[derive(Clone)]
pub struct JoinerSays {
    /// The decrypted payload.
    pub payload: Vec<u8>,
    /// The joiner's static key: its first transport key.
    pub static_key: TransportKey,
    /// What the joiner's identity has to have signed.
    pub binding: [u8; HASH_LEN],
}

/// The joiner's end.
pub struct JoinInitiator {
    context: JoinContext,
    keys: JoinKeys,
    hello: Vec<u8>,
    state: InitiatorState,
}

enum InitiatorState {
    /// Waits for all of message 2.
    Asked { noise: Box<Noise>, pieces: Pieces },
    /// Has read message 2.
    Answered { noise: Box<Noise> },
    /// Has sent message 3 and waits for all of the welcome.
    Finished { finish: Vec<u8>, welcome: Box<Transport>, pieces: Pieces },
    /// Nothing can come of it any more.
    Failed,
}

impl JoinInitiator {
    /// Begins a join with `secret` as the transport key.
    pub fn new(
        context: JoinContext,
        keys: JoinKeys,
        secret: &TransportSecret,
        rng: &mut impl CryptoRng,
    ) -> JoinInitiator {
        let local = Local {
            secret,
            prologue: &context.prologue(),
            ephemeral: &Secret::random(rng),
            meter: &DhMeter::default(),
        };
        let mut noise = Noise::xx(&local, &keys.psk, true);
        let mut message = Vec::new();
        noise.write(&[0; HELLO_PADDING], &mut message).expect("message 1 needs no key agreement");
        let mut hello = context.datagram(Stage::Hello {
            invitation: keys.invitation,
            noise: &message,
            mac: [0; MAC_LEN],
        });
        let (body, mac) = hello.split_last_chunk_mut::<MAC_LEN>().expect("it ends in a MAC");
        *mac = keyed_mac(keys.hello_key().bytes(), &[body]);
        JoinInitiator {
            context,
            keys,
            hello,
            state: InitiatorState::Asked { noise: Box::new(noise), pieces: Pieces::default() },
        }
    }

    /// What to send now, and again until it is answered: the hello, the request for the first missing piece, or message
    /// 3. `None` while [`JoinInitiator::finish`] is waited for.
    pub fn poll_datagram(&self) -> Option<Vec<u8>> {
        let (sealed, pieces, first) = match &self.state {
            InitiatorState::Asked { pieces, .. } => (false, pieces, &self.hello),
            InitiatorState::Finished { pieces, finish, .. } => (true, pieces, finish),
            InitiatorState::Answered { .. } | InitiatorState::Failed => return None,
        };
        match pieces.first_missing() {
            Some(index) => Some(self.context.datagram(Stage::Request { sealed, index })),
            None => Some(first.clone()),
        }
    }

    /// Takes a piece of message 2; all of them give what the inviter says.
    ///
    /// # Errors
    /// [`JoinError`]. When the pieces together do not open they are forgotten, and asked for again.
    pub fn handle_answer(&mut self, piece: &Piece<'_>) -> Result<Option<InviterSays>, JoinError> {
        let InitiatorState::Asked { noise, pieces } = &mut self.state else {
            return Err(JoinError::Unexpected);
        };
        let Some(message) = pieces.add(piece) else { return Ok(None) };
        let opened = noise.read(&message);
        let (Ok(payload), Some(static_key)) = (opened, noise.remote_static()) else {
            *pieces = Pieces::default();
            return Err(JoinError::Sealed);
        };
        let binding = noise.hash();
        match std::mem::replace(&mut self.state, InitiatorState::Failed) {
            InitiatorState::Asked { noise, .. } => self.state = InitiatorState::Answered { noise },
            other => self.state = other,
        }
        Ok(Some(InviterSays { payload, static_key, binding }))
    }

    /// Says who we are, once it is clear that the inviter is the right one. [`JoinInitiator::poll_datagram`] then gives
    /// message 3.
    ///
    /// # Errors
    /// [`JoinError::TooLong`] beyond 1,112 bytes, [`JoinError::Unexpected`] at any other stage.
    pub fn finish(&mut self, payload: &[u8]) -> Result<(), JoinError> {
        if payload.len() > JOIN_MAX_LEN - JOIN_HEADER_LEN - FINISH_OVERHEAD {
            return Err(JoinError::TooLong);
        }
        let mut noise = match std::mem::replace(&mut self.state, InitiatorState::Failed) {
            InitiatorState::Answered { noise } => noise,
            other => {
                self.state = other;
                return Err(JoinError::Unexpected);
            }
        };
        let mut message = Vec::new();
        // The only key agreement left is with the ephemeral key of message 2; a second one has already succeeded with it.
        noise.write(payload, &mut message).map_err(|_| JoinError::Sealed)?;
        self.state = InitiatorState::Finished {
            finish: self.context.datagram(Stage::Finish(&message)),
            welcome: Box::new(Transport::new(&noise.split(PSK3))),
            pieces: Pieces::default(),
        };
        Ok(())
    }

    /// Takes a piece of the welcome; all of them give its content.
    ///
    /// # Errors
    /// [`JoinError`]. When the pieces together do not open they are forgotten, and asked for again.
    pub fn handle_welcome(&mut self, piece: &Piece<'_>) -> Result<Option<Vec<u8>>, JoinError> {
        let InitiatorState::Finished { welcome, pieces, .. } = &mut self.state else {
            return Err(JoinError::Unexpected);
        };
        let Some(sealed) = pieces.add(piece) else { return Ok(None) };
        let opened = welcome.open(sealed);
        if opened.is_err() {
            *pieces = Pieces::default();
        }
        opened.map(Some)
    }

    /// Reads a refusal, and gives its reason.
    ///
    /// # Errors
    /// [`JoinError::Sealed`], if it is not from somebody who knows the invitation.
    pub fn handle_refused(&self, bytes: &[u8]) -> Result<u8, JoinError> {
        open_refusal(&self.context, &self.keys, bytes).ok_or(JoinError::Sealed)
    }
}

/// What Noise adds to the payload of message 3: the sealed static key and a tag.
pub(super) const FINISH_OVERHEAD: usize = 32 + 2 * TAG_LEN;

/// The inviter's end.
pub struct JoinResponder {
    context: JoinContext,
    keys: JoinKeys,
    secret: TransportSecret,
    ephemeral: Secret<32>,
    hello: [u8; HASH_LEN],
    message1: Vec<u8>,
    payload2: Vec<u8>,
    message2: Vec<u8>,
    /// Between messages 2 and 3; `None` when it has to be made anew.
    noise: Option<Box<Noise>>,
    pub(super) meter: DhMeter,
    finished: Option<Finished>,
    sent: u32,
}

struct Finished {
    finish: [u8; HASH_LEN],
    says: JoinerSays,
    transport: Transport,
    welcome: Vec<u8>,
}

impl JoinResponder {
    /// Answers a hello. `keys` are those of the invitation that it names; `secret` is our transport key, which `payload`
    /// proves to be ours.
    ///
    /// # Errors
    /// [`JoinError::Mac`] has to be met with silence, as an unknown invitation; so has [`JoinError::Sealed`].
    pub fn accept_hello(
        mesh: MeshId,
        keys: JoinKeys,
        secret: &TransportSecret,
        datagram: &[u8],
        payload: &[u8],
        rng: &mut impl CryptoRng,
    ) -> Result<JoinResponder, JoinError> {
        let join = Join::parse(datagram).map_err(|_| JoinError::Unexpected)?;
        let Stage::Hello { invitation, noise: message1, mac } = join.stage else {
            return Err(JoinError::Unexpected);
        };
        let body = &datagram[..datagram.len() - MAC_LEN];
        if invitation != keys.invitation || !macs_equal(&mac, &keyed_mac(keys.hello_key().bytes(), &[body])) {
            return Err(JoinError::Mac);
        }
        if payload.len() > MAX_PIECES * MAX_PIECE_LEN - ANSWER_OVERHEAD {
            return Err(JoinError::TooLong);
        }
        let mut responder = JoinResponder {
            context: JoinContext { mesh, inviter: join.inviter, token: join.token },
            keys,
            secret: secret.clone(),
            ephemeral: Secret::random(rng),
            hello: hash(&[datagram]),
            message1: message1.to_vec(),
            payload2: payload.to_vec(),
            message2: Vec::new(),
            noise: None,
            meter: DhMeter::default(),
            finished: None,
            sent: 0,
        };
        let (noise, message2) = responder.replay().ok_or(JoinError::Sealed)?;
        (responder.noise, responder.message2) = (Some(Box::new(noise)), message2);
        Ok(responder)
    }

    /// Whether `datagram` is the hello that this exchange began with, again.
    pub fn began_with(&self, datagram: &[u8]) -> bool {
        self.hello == hash(&[datagram])
    }

    /// The exchange.
    pub fn context(&self) -> &JoinContext {
        &self.context
    }

    /// The datagram with a piece of message 2. The first one answers the hello, others a request.
    pub fn answer(&mut self, index: u8) -> Option<Vec<u8>> {
        let piece = piece_of(&self.message2, index)?;
        let datagram = self.context.datagram(Stage::Answer(piece));
        self.spend().then_some(datagram)
    }

    /// Reads message 3. The same again gives the same again.
    ///
    /// # Errors
    /// [`JoinError::Sealed`], and the right one may still come; [`JoinError::Unexpected`], if another has come before.
    pub fn handle_finish(&mut self, message: &[u8]) -> Result<JoinerSays, JoinError> {
        let digest = hash(&[message]);
        if let Some(finished) = &self.finished {
            return (finished.finish == digest).then(|| finished.says.clone()).ok_or(JoinError::Unexpected);
        }
        let mut noise = match self.noise.take() {
            Some(noise) => noise,
            None => Box::new(self.replay().ok_or(JoinError::Sealed)?.0),
        };
        let (binding, agreements) = (noise.hash(), self.meter.count());
        let Ok(payload) = noise.read(message) else {
            // A message that fails at its first field leaves the state as it was. One that fails later, which only the
            // owner of the ephemeral key can make, leaves the cipher with a later key: that state is made anew.
            self.noise = (self.meter.count() == agreements).then_some(noise);
            return Err(JoinError::Sealed);
        };
        let static_key = noise.remote_static().ok_or(JoinError::Sealed)?;
        let says = JoinerSays { payload, static_key, binding };
        self.finished = Some(Finished {
            finish: digest,
            says: says.clone(),
            transport: Transport::new(&noise.split(PSK3)),
            welcome: Vec::new(),
        });
        Ok(says)
    }

    /// Seals what the joiner gets to be a member. May be called again with other content.
    ///
    /// # Errors
    /// [`JoinError::TooLong`], [`JoinError::Unexpected`] before message 3.
    pub fn set_welcome(&mut self, content: &[u8]) -> Result<(), JoinError> {
        let finished = self.finished.as_mut().ok_or(JoinError::Unexpected)?;
        if content.len() > MAX_PIECES * MAX_PIECE_LEN - WELCOME_OVERHEAD {
            return Err(JoinError::TooLong);
        }
        finished.welcome = finished.transport.seal(content);
        Ok(())
    }

    /// The datagram with a piece of the welcome, once there is one. The first one answers message 3, others a request.
    pub fn welcome(&mut self, index: u8) -> Option<Vec<u8>> {
        let piece = piece_of(&self.finished.as_ref()?.welcome, index)?;
        let datagram = self.context.datagram(Stage::Welcome(piece));
        self.spend().then_some(datagram)
    }

    /// The datagram that refuses, with a reason; at any stage.
    pub fn refuse(&mut self, reason: u8) -> Option<Vec<u8>> {
        let datagram = refusal(&self.context, &self.keys, reason);
        self.spend().then_some(datagram)
    }

    fn spend(&mut self) -> bool {
        self.sent += 1;
        self.sent <= MAX_DATAGRAMS
    }

    /// Goes through messages 1 and 2, the same each time.
    fn replay(&self) -> Option<(Noise, Vec<u8>)> {
        let local = Local {
            secret: &self.secret,
            prologue: &self.context.prologue(),
            ephemeral: &self.ephemeral,
            meter: &self.meter,
        };
        let mut noise = Noise::xx(&local, &self.keys.psk, false);
        let mut message2 = Vec::new();
        noise.read(&self.message1).ok()?;
        noise.write(&self.payload2, &mut message2).ok()?;
        Some((noise, message2))
    }
}

/// What Noise adds to the payload of message 2: ephemeral key, sealed static key, tag.
pub(super) const ANSWER_OVERHEAD: usize = 32 + 32 + 2 * TAG_LEN;

/// The datagram that refuses a hello: the reason, and a MAC keyed from the invitation, so that nobody else can refuse.
fn refusal(context: &JoinContext, keys: &JoinKeys, reason: u8) -> Vec<u8> {
    let mut bytes = vec![reason];
    bytes.extend(refusal_mac(context, keys, reason));
    context.datagram(Stage::Refused(&bytes))
}

fn open_refusal(context: &JoinContext, keys: &JoinKeys, bytes: &[u8]) -> Option<u8> {
    let (reason, mac) = bytes.split_first()?;
    let mac: &[u8; MAC_LEN] = mac.try_into().ok()?;
    macs_equal(mac, &refusal_mac(context, keys, *reason)).then_some(*reason)
}

fn refusal_mac(context: &JoinContext, keys: &JoinKeys, reason: u8) -> [u8; MAC_LEN] {
    keyed_mac(keys.refusal_key().bytes(), &[&context.prologue(), &[reason]])
}

/// Seals welcomes: counter 8 | reserved 8 | content | tag 16, in the form of a data datagram.
struct Transport {
    sealer: LaneSealer,
    opener: LaneOpener,
}

/// What sealing adds to a welcome.
pub(super) const WELCOME_OVERHEAD: usize = crate::crypto::HEADER_LEN + TAG_LEN;

impl Transport {
    /// Only the responder seals, and only the initiator opens: one key does for both.
    fn new(keys: &SplitKeys) -> Transport {
        let (suite, key) = (Suite::ChaCha20Poly1305, keys.from_responder.bytes());
        Transport {
            sealer: LaneSealer::new(suite, key, ReceiverIndex(0), Lane::FIRST),
            opener: LaneOpener::new(suite, key),
        }
    }

    fn seal(&self, content: &[u8]) -> Vec<u8> {
        let counter = self.sealer.reserve(1).expect("nobody has 2^64 welcomes sealed");
        let mut out = vec![0; crate::crypto::HEADER_LEN];
        out[8..].copy_from_slice(&counter.0.to_be_bytes());
        out.extend(content);
        out.extend([0; TAG_LEN]);
        self.sealer.seal_in_place(counter, &mut out);
        out
    }

    fn open(&self, mut sealed: Vec<u8>) -> Result<Vec<u8>, JoinError> {
        self.opener.open_in_place(&mut sealed).map(|content| content.to_vec()).map_err(|_| JoinError::Sealed)
    }
}

fn piece_of(message: &[u8], index: u8) -> Option<Piece<'_>> {
    let total = u8::try_from(message.len().div_ceil(MAX_PIECE_LEN)).ok()?;
    let bytes = message.chunks(MAX_PIECE_LEN).nth(usize::from(index))?;
    Some(Piece { index, total, bytes })
}

/// Collects the pieces of one message.
#[derive(Default)]
struct Pieces {
    pieces: Vec<Option<Vec<u8>>>,
}

impl Pieces {
    /// Adds a piece, and returns the message if it was the last one missing. A piece that does not go with those before
    /// is ignored.
    fn add(&mut self, piece: &Piece<'_>) -> Option<Vec<u8>> {
        let (index, total) = (usize::from(piece.index), usize::from(piece.total));
        if total == 0 || total > MAX_PIECES || index >= total {
            return None;
        }
        if self.pieces.is_empty() {
            self.pieces.resize(total, None);
        }
        if self.pieces.len() != total {
            return None;
        }
        self.pieces[index].get_or_insert_with(|| piece.bytes.to_vec());
        let all = self.pieces.iter().map(|piece| piece.as_deref()).collect::<Option<Vec<_>>>()?;
        Some(all.concat())
    }

    /// The first piece to ask for; `None` before the first one has come.
    fn first_missing(&self) -> Option<u8> {
        self.pieces.iter().position(Option::is_none).map(|index| index as u8)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn piece(index: u8, total: u8) -> Piece<'static> {
        Piece { index, total, bytes: b"x" }
    }

    #[test]
    fn a_message_has_so_many_pieces_and_no_more() {
        let most = MAX_PIECES as u8;
        for (index, total) in [(0, 0), (0, most + 1), (most, most + 1), (2, 2), (200, 255)] {
            let mut pieces = Pieces::default();
            assert_eq!(pieces.add(&piece(index, total)), None);
            assert!(pieces.pieces.is_empty(), "no room is made for {index} of {total}");
        }
        let mut pieces = Pieces::default();
        for index in (1..most).rev() {
            assert_eq!(pieces.add(&piece(index, most)), None);
            assert_eq!(pieces.add(&piece(0, most - 1)), None, "of another message");
            assert_eq!(pieces.first_missing(), Some(0));
        }
        assert_eq!(pieces.add(&piece(0, most)), Some(vec![b'x'; MAX_PIECES]));
    }
}
