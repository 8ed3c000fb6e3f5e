//! The two MACs at the end of a handshake message, and cookies.
//!
//! `mac1` shows that the sender knows the mesh's gate key and whom it writes to; without it there is no answer at all.
//! `mac2` shows that the sender receives at the address that it sends from; it is asked for under load, by a cookie
//! (after WireGuard, section 5.4.7 of its paper, but bound to the port as well).

use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use chacha20poly1305::{AeadInOut, KeyInit, XChaCha20Poly1305};
use proto::id::TransportKey;
use rand::CryptoRng;

use super::GateKey;
use crate::crypto::{MAC_LEN, Secret, keyed_mac, macs_equal, secret_hash};
use crate::time::Mono;

/// How often the secret behind cookies is renewed; a cookie is accepted for at least this long, at most twice.
pub const COOKIE_RENEWAL: Duration = Duration::from_secs(120);

/// Length of both MACs together, in bytes.
pub(super) const MACS_LEN: usize = 2 * MAC_LEN;

/// The keys for messages *to* the holder of one transport key.
pub(super) struct MacKeys {
    mac1: Secret<32>,
    cookie: Secret<32>,
}

impl MacKeys {
    pub(super) fn new(to: &TransportKey, gate: &GateKey) -> Self {
        let parts: [&[u8]; 2] = [&to.0, gate.bytes()];
        MacKeys { mac1: secret_hash("meshnet mac1", &parts), cookie: secret_hash("meshnet cookie", &parts) }
    }

    /// Fills in the MACs, for which the last 32 bytes of `message` are left. Without a cookie mac2 is zero.
    pub(super) fn seal(&self, message: &mut [u8], cookie: Option<&Cookie>) {
        let (body, macs) = message.split_at_mut(message.len() - MACS_LEN);
        let (mac1, mac2) = macs.split_at_mut(MAC_LEN);
        mac1.copy_from_slice(&keyed_mac(self.mac1.bytes(), &[body]));
        match cookie {
            Some(cookie) => mac2.copy_from_slice(&keyed_mac(&cookie.0, &[body, mac1])),
            None => mac2.fill(0),
        }
    }

    /// Whether `message` carries the right mac1.
    pub(super) fn check(&self, message: &[u8]) -> bool {
        let Some((body, macs)) = message.split_last_chunk::<MACS_LEN>() else { return false };
        let mac1 = macs.first_chunk().expect("32 bytes have 16");
        macs_equal(mac1, &keyed_mac(self.mac1.bytes(), &[body]))
    }

    /// Seals `cookie` for the sender of the message that carried `mac1`.
    pub(super) fn seal_cookie(&self, nonce: &[u8; 24], mac1: &[u8; MAC_LEN], cookie: &Cookie) -> [u8; 32] {
        let mut sealed = [0; 32];
        let (text, tag) = sealed.split_at_mut(MAC_LEN);
        text.copy_from_slice(&cookie.0);
        let computed = XChaCha20Poly1305::new(self.cookie.bytes().into())
            .encrypt_inout_detached(nonce.into(), mac1, text.into())
            .expect("16 bytes are far below the limit");
        tag.copy_from_slice(&computed);
        sealed
    }

    /// Opens a cookie that answers our message with `mac1`.
    pub(super) fn open_cookie(
        &self,
        nonce: &[u8; 24],
        mac1: &[u8; MAC_LEN],
        sealed: &[u8; 32],
    ) -> Option<Cookie> {
        let (mut cookie, tag) = (Cookie([0; MAC_LEN]), sealed.last_chunk::<MAC_LEN>()?);
        cookie.0.copy_from_slice(&sealed[..MAC_LEN]);
        XChaCha20Poly1305::new(self.cookie.bytes().into())
            .decrypt_inout_detached(nonce.into(), mac1, (&mut cookie.0[..]).into(), tag.into())
            .ok()?;
        Some(cookie)
    }
}

/// The mac1 of a handshake message.
pub(super) fn mac1_of(message: &[u8]) -> Option<[u8; MAC_LEN]> {
    message.split_last_chunk::<MACS_LEN>()?.1.first_chunk().copied()
}

/// What an address has to show under load.
#[derive(Clone)]
pub(super) struct Cookie([u8; MAC_LEN]);

/// Makes and recognises cookies, keeping nothing about whom they were given to.
pub(super) struct CookieJar {
    secret: Secret<32>,
    previous: Secret<32>,
    renewed: Mono,
}

impl CookieJar {
    pub(super) fn new(now: Mono, rng: &mut impl CryptoRng) -> Self {
        CookieJar { secret: Secret::random(rng), previous: Secret::random(rng), renewed: now }
    }

    /// The cookie of an address, which includes its port: behind one NAT are many nodes.
    pub(super) fn cookie(&mut self, now: Mono, rng: &mut impl CryptoRng, from: SocketAddr) -> Cookie {
        self.renew(now, rng);
        cookie_of(&self.secret, from)
    }

    /// Whether `message` carries the mac2 of the cookie that `from` has been given.
    pub(super) fn check(
        &mut self,
        now: Mono,
        rng: &mut impl CryptoRng,
        from: SocketAddr,
        message: &[u8],
    ) -> bool {
        self.renew(now, rng);
        let Some((body, mac2)) = message.split_last_chunk::<MAC_LEN>() else { return false };
        if *mac2 == [0; MAC_LEN] {
            return false;
        }
        [&self.secret, &self.previous]
            .into_iter()
            .any(|secret| macs_equal(mac2, &keyed_mac(&cookie_of(secret, from).0, &[body])))
    }

    fn renew(&mut self, now: Mono, rng: &mut impl CryptoRng) {
        let age = now.since(self.renewed);
        if age < COOKIE_RENEWAL {
            return;
        }
        let fresh = Secret::random(rng);
        let last = std::mem::replace(&mut self.secret, fresh);
        // After a long silence the last secret is as old as the one before it should be.
        self.previous = if age < 2 * COOKIE_RENEWAL { last } else { Secret::random(rng) };
        self.renewed = now;
    }
}

fn cookie_of(secret: &Secret<32>, from: SocketAddr) -> Cookie {
    let ip = match from.ip().to_canonical() {
        IpAddr::V4(v4) => v4.to_ipv6_mapped(),
        IpAddr::V6(v6) => v6,
    };
    Cookie(keyed_mac(secret.bytes(), &[&ip.octets(), &from.port().to_be_bytes()]))
}

#[cfg(test)]
mod tests {
    use super::*;
    use rand::SeedableRng;
    use rand::rngs::StdRng;

    fn keys() -> MacKeys {
        MacKeys::new(&TransportKey([3; 32]), &GateKey::new([4; 32]))
    }

    fn address(text: &str) -> SocketAddr {
        text.parse().unwrap()
    }

    #[test]
    fn mac1_needs_gate_key_and_addressee() {
        let mut message = vec![1; 100];
        keys().seal(&mut message, None);
        assert!(keys().check(&message));
        assert!(!MacKeys::new(&TransportKey([5; 32]), &GateKey::new([4; 32])).check(&message));
        assert!(!MacKeys::new(&TransportKey([3; 32]), &GateKey::new([5; 32])).check(&message));
        for bit in 0..(message.len() - MAC_LEN) * 8 {
            message[bit / 8] ^= 1 << (bit % 8);
            assert!(!keys().check(&message), "bit {bit}");
            message[bit / 8] ^= 1 << (bit % 8);
        }
        assert!(!keys().check(&[0; MACS_LEN - 1]));
    }

    #[test]
    fn a_cookie_opens_only_for_whom_it_answers() {
        let (cookie, nonce) = (Cookie([8; 16]), [9; 24]);
        let sealed = keys().seal_cookie(&nonce, &[1; 16], &cookie);
        assert!(keys().open_cookie(&nonce, &[1; 16], &sealed).is_some_and(|c| c.0 == cookie.0));
        assert!(keys().open_cookie(&nonce, &[2; 16], &sealed).is_none());
        let other = MacKeys::new(&TransportKey([5; 32]), &GateKey::new([4; 32]));
        assert!(other.open_cookie(&nonce, &[1; 16], &sealed).is_none());
    }

    #[test]
    fn mac2_is_bound_to_address_and_port() {
        let rng = &mut StdRng::seed_from_u64(1);
        let mut jar = CookieJar::new(Mono(0), rng);
        let cookie = jar.cookie(Mono(0), rng, address("192.0.2.1:655"));
        let mut message = vec![1; 100];
        keys().seal(&mut message, Some(&cookie));
        assert!(jar.check(Mono(0), rng, address("192.0.2.1:655"), &message));
        assert!(jar.check(Mono(0), rng, address("[::ffff:192.0.2.1]:655"), &message));
        assert!(!jar.check(Mono(0), rng, address("192.0.2.1:656"), &message));
        assert!(!jar.check(Mono(0), rng, address("192.0.2.2:655"), &message));
        keys().seal(&mut message, None);
        assert!(!jar.check(Mono(0), rng, address("192.0.2.1:655"), &message));
    }

    #[test]
    fn cookies_live_one_to_two_renewals() {
        let rng = &mut StdRng::seed_from_u64(1);
        let mut jar = CookieJar::new(Mono(0), rng);
        let from = address("192.0.2.1:655");
        let mut message = vec![1; 100];
        let cookie = jar.cookie(Mono(119_000_000), rng, from);
        keys().seal(&mut message, Some(&cookie));
        assert!(jar.check(Mono(121_000_000), rng, from, &message));
        assert!(jar.check(Mono(239_000_000), rng, from, &message));
        assert!(!jar.check(Mono(241_000_000), rng, from, &message));
        let mut idle = CookieJar::new(Mono(0), rng);
        let cookie = idle.cookie(Mono(0), rng, from);
        keys().seal(&mut message, Some(&cookie));
        assert!(!idle.check(Mono(1_000_000_000), rng, from, &message));
    }
}
