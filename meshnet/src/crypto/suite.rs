//! The transport cipher suites and the fixed rule that picks one.

use proto::key_epoch::Capabilities;

use super::replay::COUNTER_LIMIT;

/// An AEAD for the transport of one keypair. Keys are 32 bytes, nonces 12, tags 16 for both.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub enum Suite {
    /// AES-256-GCM (NIST SP 800-38D), where both CPUs have AES instructions.
    Aes256Gcm,
    /// ChaCha20-Poly1305 (RFC 8439), everywhere else.
    ChaCha20Poly1305,
}

impl Suite {
    /// The suite of a session between two key epochs that declare `local` and `remote`: AES-256-GCM when both can, else
    /// ChaCha20-Poly1305.
    ///
    /// Both arguments come out of *signed* key epochs, whose hashes the handshake binds; so there is nothing on the wire
    /// that an attacker could downgrade.
    pub fn choose(local: Capabilities, remote: Capabilities) -> Suite {
        let aes = Capabilities::AES_GCM.0;
        match local.0 & remote.0 & aes == aes {
            true => Suite::Aes256Gcm,
            false => Suite::ChaCha20Poly1305,
        }
    }

    /// What this build on this CPU can do, for the node's own key epochs: [`Capabilities::AES_GCM`] or nothing.
    pub fn local_capabilities() -> Capabilities {
        match cfg!(feature = "ring") && cpu_has_aes() {
            true => Capabilities::AES_GCM,
            false => Capabilities(0),
        }
    }

    /// Whether this build can seal with the suite at all (if slowly, without AES instructions).
    pub fn is_supported(self) -> bool {
        match self {
            Suite::Aes256Gcm => cfg!(feature = "ring"),
            Suite::ChaCha20Poly1305 => true,
        }
    }

    /// The number of messages after which a keypair is to be replaced.
    ///
    /// GCM loses its margin with the square of the blocks under one key: 2^34 packets of 1,500 bytes leave an advantage
    /// of about 2^-46 (RFC 8446 section 5.5 has the reasoning). ChaCha20-Poly1305 is limited by the counter only.
    pub fn rekey_after(self) -> u64 {
        match self {
            Suite::Aes256Gcm => 1 << 34,
            Suite::ChaCha20Poly1305 => 1 << 60,
        }
    }

    /// The number of messages after which a [`super::Sealer`] refuses to go on.
    pub fn reject_after(self) -> u64 {
        match self {
            Suite::Aes256Gcm => 1 << 35,
            Suite::ChaCha20Poly1305 => COUNTER_LIMIT,
        }
    }

    /// The name for status output and logs.
    pub fn name(self) -> &'static str {
        match self {
            Suite::Aes256Gcm => "aes-256-gcm",
            Suite::ChaCha20Poly1305 => "chacha20-poly1305",
        }
    }
}

#[cfg(any(target_arch = "x86_64", target_arch = "x86"))]
fn cpu_has_aes() -> bool {
    std::arch::is_x86_feature_detected!("aes") && std::arch::is_x86_feature_detected!("pclmulqdq")
}

#[cfg(target_arch = "aarch64")]
fn cpu_has_aes() -> bool {
    std::arch::is_aarch64_feature_detected!("aes") && std::arch::is_aarch64_feature_detected!("pmull")
}

#[cfg(not(any(target_arch = "x86_64", target_arch = "x86", target_arch = "aarch64")))]
fn cpu_has_aes() -> bool {
    false
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn aes_needs_both_sides() {
        let (aes, none) = (Capabilities::AES_GCM, Capabilities(0));
        let other_bits = Capabilities(!Capabilities::AES_GCM.0);
        assert_eq!(Suite::choose(aes, aes), Suite::Aes256Gcm);
        assert_eq!(Suite::choose(aes, none), Suite::ChaCha20Poly1305);
        assert_eq!(Suite::choose(none, aes), Suite::ChaCha20Poly1305);
        assert_eq!(Suite::choose(other_bits, other_bits), Suite::ChaCha20Poly1305);
    }

    #[test]
    fn a_build_only_declares_what_it_supports() {
        let own = Suite::local_capabilities();
        assert!(Suite::choose(own, own).is_supported());
        if cfg!(not(feature = "ring")) {
            assert_eq!(own.0 & Capabilities::AES_GCM.0, 0);
        }
    }

    #[test]
    fn rekeying_starts_well_before_refusal() {
        for suite in [Suite::Aes256Gcm, Suite::ChaCha20Poly1305] {
            assert!(suite.rekey_after() < suite.reject_after());
            assert!(suite.reject_after() <= COUNTER_LIMIT);
        }
    }
}
