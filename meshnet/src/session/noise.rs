//! Noise through `snow`, with our own primitives behind it.
//!
//! `snow` brings no resolver here (`default-features = false`), so that one version of each primitive is compiled, the
//! all-zero Diffie-Hellman result is refused, private keys and cipher keys are wiped, and every ephemeral key comes from
//! the caller's generator. What `snow` itself holds (chaining key, hash) it does not wipe.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use blake2::{Blake2s256, Digest};
use chacha20poly1305::{AeadInOut, ChaCha20Poly1305, KeyInit};
use proto::id::TransportKey;
use snow::params::{CipherChoice, DHChoice, HashChoice};
use snow::resolvers::CryptoResolver;
use snow::types::{Cipher, Dh, Hash, Random};
use snow::{Builder, Error, HandshakeState};
use subtle::ConstantTimeEq;
use x25519_dalek::{PublicKey, StaticSecret};
use zeroize::Zeroize;

use crate::crypto::{HASH_LEN, Secret, TAG_LEN, TransportSecret};

const IK: &str = "Noise_IKpsk2_25519_ChaChaPoly_BLAKE2s";
const XX: &str = "Noise_XXpsk3_25519_ChaChaPoly_BLAKE2s";

/// Where IKpsk2 mixes the pre-shared key in: at the end of message 2.
pub(super) const PSK2: usize = 2;

/// Where XXpsk3 does: at the end of message 3.
pub(super) const PSK3: usize = 3;

/// The largest payload of a handshake message, in bytes; a handshake datagram has at most 1200.
const MAX_MESSAGE_LEN: usize = 65535;

/// Counts Diffie-Hellman operations (key agreements; not the derivation of public keys).
#[derive(Clone, Default)]
pub(super) struct DhMeter(Arc<AtomicUsize>);

impl DhMeter {
    pub(super) fn count(&self) -> u64 {
        self.0.load(Ordering::Relaxed) as u64
    }
}

/// The keys that a finished handshake leaves, one a direction, the initiator's first.
pub(super) struct SplitKeys {
    pub(super) from_initiator: Secret<32>,
    pub(super) from_responder: Secret<32>,
    /// The hash over the whole handshake.
    pub(super) handshake: [u8; HASH_LEN],
}

/// What both ends of a handshake bring along.
pub(super) struct Local<'a> {
    pub(super) secret: &'a TransportSecret,
    pub(super) prologue: &'a [u8],
    /// Fresh for every handshake. Kept only where a handshake may have to be replayed up to some point.
    pub(super) ephemeral: &'a Secret<32>,
    pub(super) meter: &'a DhMeter,
}

/// A handshake under way. Messages that fail leave it usable, with the exception of the last message of XX.
pub(super) struct Noise(HandshakeState);

impl Noise {
    /// IKpsk2, initiator: knows the responder's static key from the start. The pre-shared key is set when message 2 has
    /// told which.
    pub(super) fn ik_initiator(local: &Local<'_>, remote: &TransportKey) -> Noise {
        Noise::build(IK, local, |builder| builder.remote_public_key(&remote.0), true)
    }

    /// IKpsk2, responder: the key pre-shared with the initiator is set when message 1 has told who that is.
    pub(super) fn ik_responder(local: &Local<'_>) -> Noise {
        Noise::build(IK, local, Ok, false)
    }

    /// XXpsk3, both ways.
    pub(super) fn xx(local: &Local<'_>, psk: &Secret<32>, initiator: bool) -> Noise {
        let mut noise = Noise::build(XX, local, Ok, initiator);
        noise.set_psk(PSK3, psk);
        noise
    }

    fn build<'a>(
        pattern: &str,
        local: &'a Local<'_>,
        also: impl FnOnce(Builder<'a>) -> Result<Builder<'a>, Error>,
        initiator: bool,
    ) -> Noise {
        let params = pattern.parse().expect("the pattern is a constant that snow knows");
        let resolver = Resolver {
            known: local.secret.clone(),
            ephemeral: local.ephemeral.clone(),
            meter: local.meter.clone(),
        };
        let state = Builder::with_resolver(params, Box::new(resolver))
            .prologue(local.prologue)
            .and_then(|builder| builder.local_private_key(local.secret.bytes()))
            .and_then(also)
            .and_then(
                |builder| if initiator { builder.build_initiator() } else { builder.build_responder() },
            );
        Noise(state.expect("each parameter is given once and has the right length"))
    }

    /// Sets the key for the `psk` token at `position`.
    pub(super) fn set_psk(&mut self, position: usize, psk: &Secret<32>) {
        self.0.set_psk(position, psk.bytes()).expect("32 bytes at a position that the pattern has");
    }

    /// Writes the next message with `payload` to the end of `out`.
    pub(super) fn write(&mut self, payload: &[u8], out: &mut Vec<u8>) -> Result<(), Error> {
        let start = out.len();
        // Two keys and three tags are the most that a message of IK and XX has beside its payload.
        out.resize(start + payload.len() + 2 * 32 + 3 * TAG_LEN, 0);
        let written = self.0.write_message(payload, &mut out[start..]);
        out.truncate(start + *written.as_ref().unwrap_or(&0));
        written.map(|_| ())
    }

    /// Reads the next message and returns its payload.
    pub(super) fn read(&mut self, message: &[u8]) -> Result<Vec<u8>, Error> {
        if message.len() > MAX_MESSAGE_LEN {
            return Err(Error::Input);
        }
        let mut payload = vec![0; message.len()];
        let len = self.0.read_message(message, &mut payload)?;
        payload.truncate(len);
        Ok(payload)
    }

    /// The peer's static key, once it is known.
    pub(super) fn remote_static(&self) -> Option<TransportKey> {
        self.0.get_remote_static()?.try_into().ok().map(TransportKey)
    }

    /// The hash over everything said so far, to bind signatures to this very handshake.
    pub(super) fn hash(&self) -> [u8; HASH_LEN] {
        self.0.get_handshake_hash().try_into().expect("BLAKE2s has 32 bytes")
    }

    /// The transport keys of a finished handshake.
    pub(super) fn split(mut self, psk_position: usize) -> SplitKeys {
        assert!(self.0.is_handshake_finished(), "keys only from a finished handshake");
        let (mut first, mut second) = self.0.dangerously_get_raw_split();
        let keys = SplitKeys {
            from_initiator: Secret::new(first),
            from_responder: Secret::new(second),
            handshake: self.hash(),
        };
        first.zeroize();
        second.zeroize();
        self.set_psk(psk_position, &Secret::new([0; 32]));
        keys
    }
}

struct Resolver {
    known: TransportSecret,
    ephemeral: Secret<32>,
    meter: DhMeter,
}

impl CryptoResolver for Resolver {
    fn resolve_rng(&self) -> Option<Box<dyn Random>> {
        Some(Box::new(OneKey(Some(self.ephemeral.clone()))))
    }

    fn resolve_dh(&self, choice: &DHChoice) -> Option<Box<dyn Dh>> {
        match choice {
            DHChoice::Curve25519 => Some(Box::new(X25519 {
                secret: StaticSecret::from([0; 32]),
                public: [0; 32],
                known: self.known.clone(),
                meter: self.meter.clone(),
            })),
            _ => None,
        }
    }

    fn resolve_hash(&self, choice: &HashChoice) -> Option<Box<dyn Hash>> {
        match choice {
            HashChoice::Blake2s => Some(Box::new(Blake2s(Blake2s256::new()))),
            _ => None,
        }
    }

    fn resolve_cipher(&self, choice: &CipherChoice) -> Option<Box<dyn Cipher>> {
        match choice {
            CipherChoice::ChaChaPoly => Some(Box::new(ChaChaPoly(Secret::new([0; 32])))),
            _ => None,
        }
    }
}

/// Hands out the one ephemeral key of a handshake, then fails: no key is used for two messages.
struct OneKey(Option<Secret<32>>);

impl Random for OneKey {
    fn try_fill_bytes(&mut self, out: &mut [u8]) -> Result<(), Error> {
        let key = self.0.take().filter(|_| out.len() == 32).ok_or(Error::Rng)?;
        out.copy_from_slice(key.bytes());
        Ok(())
    }
}

struct X25519 {
    secret: StaticSecret,
    public: [u8; 32],
    /// Spares deriving the public key of our own static key for every handshake.
    known: TransportSecret,
    meter: DhMeter,
}

impl Dh for X25519 {
    fn name(&self) -> &'static str {
        "25519"
    }

    fn pub_len(&self) -> usize {
        32
    }

    fn priv_len(&self) -> usize {
        32
    }

    fn set(&mut self, private: &[u8]) {
        let mut bytes: [u8; 32] = private.try_into().expect("snow hands over what we gave it");
        self.secret = StaticSecret::from(bytes);
        self.public = match bool::from(bytes.ct_eq(self.known.bytes())) {
            true => self.known.public().0,
            false => PublicKey::from(&self.secret).to_bytes(),
        };
        bytes.zeroize();
    }

    fn generate(&mut self, rng: &mut dyn Random) -> Result<(), Error> {
        let mut bytes = [0; 32];
        rng.try_fill_bytes(&mut bytes)?;
        self.set(&bytes);
        bytes.zeroize();
        Ok(())
    }

    fn pubkey(&self) -> &[u8] {
        &self.public
    }

    fn privkey(&self) -> &[u8] {
        self.secret.as_bytes()
    }

    /// Refuses a result of all zeroes (RFC 7748 section 6.1): such a "secret" is known to everybody.
    fn dh(&self, public: &[u8], out: &mut [u8]) -> Result<(), Error> {
        let public: [u8; 32] = public.get(..32).and_then(|key| key.try_into().ok()).ok_or(Error::Dh)?;
        self.meter.0.fetch_add(1, Ordering::Relaxed);
        let shared = self.secret.diffie_hellman(&PublicKey::from(public));
        if !shared.was_contributory() {
            return Err(Error::Dh);
        }
        out[..32].copy_from_slice(shared.as_bytes());
        Ok(())
    }
}

struct Blake2s(Blake2s256);

impl Hash for Blake2s {
    fn name(&self) -> &'static str {
        "BLAKE2s"
    }

    fn block_len(&self) -> usize {
        64
    }

    fn hash_len(&self) -> usize {
        HASH_LEN
    }

    fn reset(&mut self) {
        self.0 = Blake2s256::new();
    }

    fn input(&mut self, data: &[u8]) {
        self.0.update(data);
    }

    fn result(&mut self, out: &mut [u8]) {
        out[..HASH_LEN].copy_from_slice(&std::mem::take(&mut self.0).finalize());
    }
}

struct ChaChaPoly(Secret<32>);

impl ChaChaPoly {
    fn nonce(counter: u64) -> [u8; 12] {
        let mut nonce = [0; 12];
        nonce[4..].copy_from_slice(&counter.to_le_bytes());
        nonce
    }
}

impl Cipher for ChaChaPoly {
    fn name(&self) -> &'static str {
        "ChaChaPoly"
    }

    fn set(&mut self, key: &[u8; 32]) {
        self.0 = Secret::new(*key);
    }

    fn encrypt(&self, nonce: u64, aad: &[u8], plaintext: &[u8], out: &mut [u8]) -> usize {
        let (text, rest) = out.split_at_mut(plaintext.len());
        text.copy_from_slice(plaintext);
        let tag = ChaCha20Poly1305::new(self.0.bytes().into())
            .encrypt_inout_detached(&Self::nonce(nonce).into(), aad, text.into())
            .expect("handshake messages are far below 256 GiB");
        rest[..TAG_LEN].copy_from_slice(&tag);
        plaintext.len() + TAG_LEN
    }

    fn decrypt(&self, nonce: u64, aad: &[u8], ciphertext: &[u8], out: &mut [u8]) -> Result<usize, Error> {
        let (text, tag) = ciphertext.split_last_chunk::<TAG_LEN>().ok_or(Error::Decrypt)?;
        let out = out.get_mut(..text.len()).ok_or(Error::Decrypt)?;
        out.copy_from_slice(text);
        ChaCha20Poly1305::new(self.0.bytes().into())
            .decrypt_inout_detached(&Self::nonce(nonce).into(), aad, out.into(), tag.into())
            .map_err(|_| Error::Decrypt)?;
        Ok(text.len())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn bytes(hex: &str) -> Vec<u8> {
        (0..hex.len() / 2).map(|i| u8::from_str_radix(&hex[2 * i..2 * i + 2], 16).unwrap()).collect()
    }

    fn key(hex: &str) -> [u8; 32] {
        bytes(hex).try_into().unwrap()
    }

    const PSK: &str = "54686973206973206d7920417573747269616e20706572737065637469766521";
    const HANDSHAKE_HASH: &str = "f5191b875290abcd41347ac3622d9679688a7e980229cb937ef748336cfde0e5";

    /// Payload and ciphertext, from the initiator, from the responder, and so on: two of the handshake, four after it.
    const MESSAGES: [(&str, &str); 6] = [
        (
            "4c756477696720766f6e204d69736573",
            "ca35def5ae56cec33dc2036731ab14896bc4c75dbb07a61f879f8e3afa4c7944001e21de9f98ddd8e2ad57527207feb5\
             6253c9c94a9e496782ecfcb2a75fbcaf1b52948cc48daefe660c62119ab5000980c84831215f2441eba616548e832985\
             464cf17e51ee93109008399a21f7e13f",
        ),
        (
            "4d757272617920526f746862617264",
            "95ebc60d2b1fa672c1f46a8aa265ef51bfe38e7ccb39ec5be34069f144808843cb765f2caef0751b8f007572dab03222\
             17755c0632f365717edbf34d33e87a",
        ),
        ("462e20412e20486179656b", "8153ca9833bc3c1b91a7e66e5f4d4f5b59bf9e64c2f20d15f0bba7"),
        ("4361726c204d656e676572", "07af0c9c86e1b4e80f36b04ff7688d51141af3debd0332f0a705ef"),
        (
            "4a65616e2d426170746973746520536179",
            "6ab1467c0448cc78394494abaaf23afce0e234315d6e2624dcbfa8a21c1c4d073d",
        ),
        (
            "457567656e2042f6686d20766f6e2042617765726b",
            "dfc346c0d2296ae6cf1acf6f12b8456a1dba228cf8d8b774aacf1c47fc53aa80ebc7a4c292",
        ),
    ];

    /// The vector of cacophony (a Noise implementation in Haskell) for the pattern and primitives that members use.
    #[test]
    fn a_handshake_is_byte_for_byte_what_other_implementations_make() {
        let meter = DhMeter::default();
        let secret = |hex| TransportSecret::new(key(hex));
        let (own, peer) = (
            secret("e61ef9919cde45dd5f82166404bd08e38bceb5dfdfded0a34c8df7ed542214d1"),
            secret("4a3acbfdb163dec651dfa3194dece676d437029c62a408b4c5ea9114246e4893"),
        );
        let ephemerals = [
            "893e28b9dc6ca8d611ab664754b8ceb7bac5117349a4439a6b0569da977c464a",
            "bbdb4cdbd309f1a1f2e1456967fe288cadd6f712d65dc7b7793d5e63da6b375b",
        ]
        .map(|hex| Secret::new(key(hex)));
        let local = |secret, ephemeral| Local { secret, prologue: b"John Galt", ephemeral, meter: &meter };
        let (first, second) = (local(&own, &ephemerals[0]), local(&peer, &ephemerals[1]));
        let mut initiator = Noise::ik_initiator(&first, &peer.public());
        let mut responder = Noise::ik_responder(&second);
        let psk = Secret::new(key(PSK));

        let mut message = Vec::new();
        initiator.write(&bytes(MESSAGES[0].0), &mut message).unwrap();
        assert_eq!(message, bytes(MESSAGES[0].1));
        assert_eq!(responder.read(&message).unwrap(), bytes(MESSAGES[0].0));
        assert_eq!(responder.remote_static(), Some(own.public()));
        initiator.set_psk(PSK2, &psk);
        responder.set_psk(PSK2, &psk);
        let mut message = Vec::new();
        responder.write(&bytes(MESSAGES[1].0), &mut message).unwrap();
        assert_eq!(message, bytes(MESSAGES[1].1));
        assert_eq!(initiator.read(&message).unwrap(), bytes(MESSAGES[1].0));
        assert_eq!(meter.count(), 8, "four at each end");

        for noise in [initiator, responder] {
            assert_eq!(noise.hash(), key(HANDSHAKE_HASH));
            let keys = noise.split(PSK2);
            assert_eq!(keys.handshake, key(HANDSHAKE_HASH));
            let ciphers = [keys.from_initiator, keys.from_responder].map(ChaChaPoly);
            for (number, (payload, sealed)) in MESSAGES[2..].iter().enumerate() {
                let (cipher, nonce) = (&ciphers[number % 2], number as u64 / 2);
                let (payload, sealed) = (bytes(payload), bytes(sealed));
                let mut out = vec![0; sealed.len()];
                assert_eq!(cipher.encrypt(nonce, &[], &payload, &mut out), sealed.len());
                assert_eq!(out, sealed, "message {number}");
                let mut opened = vec![0; payload.len()];
                assert_eq!(cipher.decrypt(nonce, &[], &sealed, &mut opened).unwrap(), payload.len());
                assert_eq!(opened, payload);
                assert!(cipher.decrypt(nonce + 1, &[], &sealed, &mut opened).is_err());
            }
        }
    }
}
