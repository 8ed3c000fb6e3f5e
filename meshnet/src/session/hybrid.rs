//! What two members have in common from one session for the handshake of the next: what makes sessions hybrid.
//!
//! X25519 alone protects recorded traffic only until somebody has a quantum computer. So the initiator of every session
//! sends an ML-KEM-768 key inside of it, and the responder answers; what comes of that, together with a secret of the
//! session itself, goes into the psk of the next handshake between the two. The keys of that session then are secret as
//! long as *either* X25519 or ML-KEM is. The first session of two members is made without, and replaced at once.
//!
//! ```text
//!  initiator of session n                                responder of session n
//!       key, in pieces           ---- inside session n --->
//!                                <--- inside session n ----     ciphertext, in pieces
//!       fresh secret, named by an id                            the same
//!       init, the id in its payload                --->         psk: gate key | fresh secret
//!                                                  <---         response, flagged: the secret is in
//! ```
//!
//! If the exchange did not come to its end, a session that is hybrid itself leaves its own secret to the next, so that who
//! drops the exchange does not bring about a session without. A responder that has lost its memory answers without the
//! flag: the session is not hybrid, and the exchange begins anew. Nobody else can bring that about, because the response is
//! authenticated by its static key.
//!
//! Everything here is of one keypair, and is erased with it.

use std::time::Duration;

use proto::frame::{KEM_CIPHERTEXT_LEN, KEM_KEY_LEN, KemPiece};
use proto::id::{HandshakeId, MemberId, SecretId};
use rand::CryptoRng;

use crate::crypto::{InvalidKemKey, KemCiphertext, KemKey, KemSecret, Secret, encapsulate, hash, kdf};
use crate::time::Mono;

/// Waits after the first, second, ... time that a key was sent, until it is sent again.
const RETRY: [Duration; 8] = [
    Duration::from_millis(400),
    Duration::from_secs(1),
    Duration::from_secs(2),
    Duration::from_secs(4),
    Duration::from_secs(8),
    Duration::from_secs(16),
    Duration::from_secs(32),
    Duration::from_secs(32),
];

/// A secret of an earlier session.
pub(super) struct Inherited {
    pub(super) id: SecretId,
    pub(super) secret: Secret<32>,
}

impl Inherited {
    fn new(secret: Secret<32>) -> Inherited {
        let id = kdf(secret.bytes(), "meshnet hybrid id", &[]);
        let id = u64::from_be_bytes(*id.bytes().first_chunk().expect("a hash has more than 8 bytes"));
        // 0 says that there is none.
        Inherited { id: SecretId(id.max(1)), secret }
    }
}

/// What a handshake fixes for the exchange in its session.
pub(super) struct Roots {
    /// The hash over the whole handshake: mesh, both key epochs, both ephemeral keys.
    pub(super) handshake: [u8; 32],
    /// A secret that only the two ends of the session have.
    pub(super) secret: Secret<32>,
    pub(super) initiator: MemberId,
    pub(super) responder: MemberId,
}

/// The exchange in one session.
pub(super) struct Exchange {
    roots: Roots,
    /// Names the handshake in frames.
    id: HandshakeId,
    step: Step,
    /// From ML-KEM and the session.
    fresh: Option<Inherited>,
    /// From the session alone; only if that was hybrid.
    carried: Option<Inherited>,
}

enum Step {
    /// We begin, now or as soon as it is due.
    Begin { due: Mono },
    /// Our key is out.
    Offered { secret: KemSecret, key: Box<KemKey>, answer: Assembly, sent: usize, due: Option<Mono> },
    /// The peer begins.
    Await(Assembly),
    /// It has, and gets the same answer whenever it asks again.
    Answered(Box<KemCiphertext>),
    /// We have the answer, or have refused the key.
    Done,
}

/// What came of a piece.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum KemOutcome {
    /// Nothing yet: there are more pieces to come, or it was known already.
    Nothing,
    /// Send the ciphertext ([`super::Session::kem_answer`]).
    Answer,
    /// There is a fresh secret for the next handshake.
    Ready,
    /// It does not belong to an exchange under way.
    Stray,
    /// The key is none.
    Invalid,
}

impl Exchange {
    /// The exchange of a session made at `now`.
    pub(super) fn new(now: Mono, roots: Roots, begins: bool, hybrid: bool) -> Exchange {
        let id = hash(&[b"meshnet handshake id", &roots.handshake]);
        let id = HandshakeId(u64::from_be_bytes(*id.first_chunk().expect("a hash has more than 8 bytes")));
        let step = match begins {
            true => Step::Begin { due: now },
            false => Step::Await(Assembly::new(KEM_KEY_LEN)),
        };
        let mut exchange = Exchange { roots, id, step, fresh: None, carried: None };
        if hybrid {
            exchange.carried = Some(exchange.derive("meshnet hybrid carried", &[0; 32], &[]));
        }
        exchange
    }

    pub(super) fn id(&self) -> HandshakeId {
        self.id
    }

    /// When a key is to be sent, for the first time or again.
    pub(super) fn next_due(&self) -> Option<Mono> {
        match &self.step {
            Step::Begin { due } => Some(*due),
            Step::Offered { due, .. } => *due,
            Step::Await(_) | Step::Answered(_) | Step::Done => None,
        }
    }

    /// The secret that both ends have for certain, if any; `begun` tells whether this end began the session, and so knows
    /// that the other one has the fresh secret, too.
    pub(super) fn certain(&self, begun: bool) -> Option<&Inherited> {
        self.fresh.as_ref().filter(|_| begun).or(self.carried.as_ref())
    }

    /// The fresh secret.
    pub(super) fn fresh(&self) -> Option<&Inherited> {
        self.fresh.as_ref()
    }

    /// The secret that `id` names.
    pub(super) fn named(&self, id: SecretId) -> Option<&Inherited> {
        [&self.fresh, &self.carried].into_iter().flatten().find(|inherited| inherited.id == id)
    }

    /// The key to be sent now, which is made if there is none yet. `None` if nothing is to be sent.
    pub(super) fn offer(&mut self, now: Mono, rng: &mut impl CryptoRng) -> Option<&KemKey> {
        if let Step::Begin { .. } = self.step {
            let secret = KemSecret::random(rng);
            let key = secret.public();
            let answer = Assembly::new(KEM_CIPHERTEXT_LEN);
            self.step = Step::Offered { secret, key, answer, sent: 0, due: Some(now) };
        }
        let Step::Offered { key, sent, due, .. } = &mut self.step else { return None };
        *due = RETRY.get(*sent).map(|wait| now + *wait);
        *sent += 1;
        Some(key)
    }

    /// Takes a piece of the peer's key.
    pub(super) fn take_key(&mut self, piece: &KemPiece, rng: &mut impl CryptoRng) -> KemOutcome {
        match &mut self.step {
            Step::Await(assembly) => {
                let Some(key) = assembly.take(piece) else { return KemOutcome::Nothing };
                let key: Box<KemKey> = Box::new(key.try_into().expect("an assembly has its length"));
                match encapsulate(&key, rng) {
                    Ok((ciphertext, shared)) => {
                        self.finish(&key, &ciphertext, &shared);
                        self.step = Step::Answered(ciphertext);
                        KemOutcome::Answer
                    }
                    Err(InvalidKemKey) => {
                        self.step = Step::Done;
                        KemOutcome::Invalid
                    }
                }
            }
            // The answer was lost: the first piece asks for it.
            Step::Answered(_) if piece.offset == 0 => KemOutcome::Answer,
            Step::Answered(_) => KemOutcome::Nothing,
            Step::Begin { .. } | Step::Offered { .. } | Step::Done => KemOutcome::Stray,
        }
    }

    /// The ciphertext that answers the peer's key.
    pub(super) fn answer(&self) -> Option<&KemCiphertext> {
        match &self.step {
            Step::Answered(ciphertext) => Some(ciphertext),
            _ => None,
        }
    }

    /// Takes a piece of the ciphertext that answers our key.
    pub(super) fn take_ciphertext(&mut self, piece: &KemPiece) -> KemOutcome {
        match &mut self.step {
            Step::Offered { secret, key, answer, .. } => {
                let Some(ciphertext) = answer.take(piece) else { return KemOutcome::Nothing };
                let ciphertext: &KemCiphertext = ciphertext.try_into().expect("an assembly has its length");
                let (shared, key, ciphertext) = (secret.open(ciphertext), key.clone(), Box::new(*ciphertext));
                self.finish(&key, &ciphertext, &shared);
                self.step = Step::Done;
                KemOutcome::Ready
            }
            Step::Done => KemOutcome::Nothing,
            Step::Begin { .. } | Step::Await(_) | Step::Answered(_) => KemOutcome::Stray,
        }
    }

    fn finish(&mut self, key: &KemKey, ciphertext: &KemCiphertext, shared: &Secret<32>) {
        let transcript = hash(&[key, ciphertext]);
        self.fresh = Some(self.derive("meshnet hybrid fresh", shared.bytes(), &[&transcript]));
    }

    fn derive(&self, label: &str, shared: &[u8; 32], context: &[&[u8]]) -> Inherited {
        let Roots { handshake, secret, initiator, responder } = &self.roots;
        let mut context = context.to_vec();
        context.extend([&handshake[..], &initiator.0, &responder.0]);
        Inherited::new(kdf(super::joined(secret, shared).bytes(), label, &context))
    }
}

/// A key or ciphertext that comes in pieces.
struct Assembly {
    len: usize,
    /// Empty until there is something.
    bytes: Vec<u8>,
    have: Vec<bool>,
}

impl Assembly {
    fn new(len: usize) -> Assembly {
        Assembly { len, bytes: Vec::new(), have: Vec::new() }
    }

    /// Takes a piece; returns the whole when nothing is missing.
    fn take(&mut self, piece: &KemPiece) -> Option<&[u8]> {
        self.bytes.resize(self.len, 0);
        self.have.resize(self.len, false);
        let range = usize::from(piece.offset)..usize::from(piece.offset) + piece.bytes.len();
        self.bytes.get_mut(range.clone())?.copy_from_slice(&piece.bytes);
        self.have.get_mut(range)?.fill(true);
        self.have.iter().all(|have| *have).then_some(&self.bytes)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use rand::SeedableRng;
    use rand::rngs::StdRng;

    use super::*;

    fn roots(handshake: u8) -> Roots {
        Roots {
            handshake: [handshake; 32],
            secret: Secret::new([9; 32]),
            initiator: MemberId([1; 16]),
            responder: MemberId([2; 16]),
        }
    }

    /// Both ends of one session.
    fn ends(handshake: u8, hybrid: bool) -> (Exchange, Exchange) {
        (
            Exchange::new(Mono(5), roots(handshake), true, hybrid),
            Exchange::new(Mono(5), roots(handshake), false, hybrid),
        )
    }

    fn pieces(of: HandshakeId, bytes: &[u8], len: usize) -> Vec<KemPiece> {
        let cut = |(at, bytes): (usize, &[u8])| KemPiece {
            handshake: of,
            offset: (at * len) as u16,
            bytes: bytes.to_vec(),
        };
        bytes.chunks(len).enumerate().map(cut).collect()
    }

    /// All of a key goes there, all of the answer comes back.
    fn exchange(a: &mut Exchange, b: &mut Exchange, rng: &mut StdRng) {
        let key = *a.offer(Mono(5), rng).unwrap();
        for piece in pieces(a.id(), &key, 600) {
            b.take_key(&piece, rng);
        }
        let ciphertext = *b.answer().unwrap();
        for piece in pieces(b.id(), &ciphertext, 600) {
            a.take_ciphertext(&piece);
        }
    }

    #[test]
    fn both_ends_have_the_same_and_of_each_session_another() {
        let mut rng = StdRng::seed_from_u64(1);
        let mut ids = std::collections::BTreeSet::new();
        for (handshake, hybrid) in [(1, false), (2, true), (2, true)] {
            let (mut a, mut b) = ends(handshake, hybrid);
            assert_eq!((a.certain(true).is_some(), b.certain(false).is_some()), (hybrid, hybrid));
            exchange(&mut a, &mut b, &mut rng);
            let (ours, theirs) = (a.fresh().unwrap(), b.fresh().unwrap());
            assert!(ours.secret == theirs.secret && ours.id == theirs.id && ours.id != SecretId(0));
            assert!(ids.insert(ours.id), "every exchange has its own");
            // Who has answered does not know whether the answer came.
            assert_eq!(a.certain(true).unwrap().id, ours.id);
            assert_eq!(b.certain(false).map(|carried| carried.id == ours.id), hybrid.then_some(false));
            assert_eq!(b.named(ours.id).map(|inherited| inherited.id), Some(ours.id));
        }
    }

    #[test]
    fn each_handshake_has_an_id_of_its_own_for_its_pieces() {
        let ids: std::collections::BTreeSet<HandshakeId> = (0..50).map(|n| ends(n, false).0.id()).collect();
        assert_eq!(ids.len(), 50);
        let (a, b) = ends(1, true);
        assert_eq!((a.id(), a.id()), (b.id(), ends(1, false).0.id()));
    }

    #[test]
    fn what_is_derived_depends_on_handshake_session_and_both_members() {
        let other = [
            Roots { handshake: [3; 32], ..roots(1) },
            Roots { secret: Secret::new([8; 32]), ..roots(1) },
            Roots { initiator: MemberId([3; 16]), ..roots(1) },
            Roots { responder: MemberId([3; 16]), ..roots(1) },
            Roots { initiator: MemberId([2; 16]), responder: MemberId([1; 16]), ..roots(1) },
        ];
        let id = |roots: Roots| Exchange::new(Mono(0), roots, true, true).carried.unwrap().id;
        let known = id(roots(1));
        for roots in other {
            assert_ne!(id(roots), known);
        }
        assert_eq!(id(roots(1)), known);
    }

    #[test]
    fn a_key_is_sent_again_less_and_less_often_and_then_no_more() {
        let mut rng = StdRng::seed_from_u64(2);
        let (mut a, _) = ends(1, false);
        let (mut at, mut sent, mut keys) = (Vec::new(), 0, std::collections::BTreeSet::new());
        while let Some(due) = a.next_due() {
            at.push(due.since(Mono(5)).as_millis());
            keys.insert(*a.offer(due, &mut rng).unwrap());
            sent += 1;
        }
        assert_eq!((sent, keys.len()), (RETRY.len() + 1, 1));
        assert_eq!(at[..5], [0, 400, 1400, 3400, 7400]);
    }

    #[test]
    fn a_lost_answer_is_given_again_and_strays_change_nothing() {
        let mut rng = StdRng::seed_from_u64(3);
        let (mut a, mut b) = ends(1, false);
        let key = *a.offer(Mono(5), &mut rng).unwrap();
        let sent = pieces(a.id(), &key, 592);
        assert_eq!(a.take_key(&sent[0], &mut rng), KemOutcome::Stray);
        assert_eq!(b.take_ciphertext(&sent[0]), KemOutcome::Stray);
        assert_eq!(b.take_key(&sent[1], &mut rng), KemOutcome::Nothing);
        assert_eq!(b.take_key(&sent[1], &mut rng), KemOutcome::Nothing);
        assert_eq!(b.take_key(&sent[0], &mut rng), KemOutcome::Answer);
        let first = *b.answer().unwrap();
        assert_eq!(b.take_key(&sent[1], &mut rng), KemOutcome::Nothing);
        assert_eq!(b.take_key(&sent[0], &mut rng), KemOutcome::Answer);
        assert!(*b.answer().unwrap() == first, "a repetition changes nothing");
    }

    #[test]
    fn a_key_that_is_none_ends_the_exchange() {
        let mut rng = StdRng::seed_from_u64(4);
        let (_, mut b) = ends(1, false);
        let junk = pieces(b.id(), &[0xff; KEM_KEY_LEN], 1000);
        assert_eq!(b.take_key(&junk[0], &mut rng), KemOutcome::Nothing);
        assert_eq!(b.take_key(&junk[1], &mut rng), KemOutcome::Invalid);
        assert_eq!(b.take_key(&junk[1], &mut rng), KemOutcome::Stray);
        assert!(b.fresh().is_none() && b.answer().is_none());
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(24))]

        /// However they are cut, in whatever order they come, and however often.
        #[test]
        fn pieces_make_the_whole(seed: u64, lens in prop::array::uniform2(1..700usize), order: Vec<prop::sample::Index>) {
            let mut rng = StdRng::seed_from_u64(seed);
            let (mut a, mut b) = ends(1, false);
            let key = *a.offer(Mono(5), &mut rng).unwrap();
            let mut sent = pieces(a.id(), &key, lens[0]);
            for (at, index) in order.iter().enumerate() {
                let other = index.index(sent.len());
                let at = at % sent.len();
                sent.swap(at, other);
            }
            sent.extend(pieces(a.id(), &key, lens[1]));
            for piece in &sent {
                b.take_key(piece, &mut rng);
            }
            for piece in pieces(b.id(), &b.answer().unwrap().clone(), lens[1]).into_iter().rev() {
                a.take_ciphertext(&piece);
            }
            prop_assert!(a.fresh().unwrap().secret == b.fresh().unwrap().secret);
        }
    }
}
