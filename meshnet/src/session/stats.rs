//! Counters of handshakes: what was done, and every reason for which something was dropped.

use std::fmt;

/// Why a handshake datagram was dropped. Nothing but a counter has changed then.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub enum DropReason {
    /// Not a datagram of the expected form or version.
    Malformed,
    /// mac1 fits none of our key epochs: an outsider, or a key that we never had.
    Mac1,
    /// The source has used up its tokens.
    RateLimited,
    /// The Noise message does not open: forged, another mesh, another content of a key epoch, an all-zero secret.
    Noise,
    /// The payload's timestamp is too far in the future to leave room for another.
    Timestamp,
    /// The payload names another key epoch than the keys in use.
    Epoch,
    /// The static key is not the one of the member that it was taken for.
    WrongKey,
    /// We have sent an init of our own to this peer, and ours goes first.
    TieBreak,
    /// No handshake of ours waits under this receiver index.
    UnknownIndex,
    /// The cookie does not open, or answers nothing that we have sent.
    Cookie,
    /// A timestamp challenge that asks for nothing new, or one too many.
    Challenge,
}

impl DropReason {
    /// All reasons, in the order of their counters.
    pub const ALL: [DropReason; 11] = [
        DropReason::Malformed,
        DropReason::Mac1,
        DropReason::RateLimited,
        DropReason::Noise,
        DropReason::Timestamp,
        DropReason::Epoch,
        DropReason::WrongKey,
        DropReason::TieBreak,
        DropReason::UnknownIndex,
        DropReason::Cookie,
        DropReason::Challenge,
    ];

    /// The name for metrics, in snake case.
    pub fn name(self) -> &'static str {
        match self {
            DropReason::Malformed => "malformed",
            DropReason::Mac1 => "mac1",
            DropReason::RateLimited => "rate_limited",
            DropReason::Noise => "noise",
            DropReason::Timestamp => "timestamp",
            DropReason::Epoch => "epoch",
            DropReason::WrongKey => "wrong_key",
            DropReason::TieBreak => "tie_break",
            DropReason::UnknownIndex => "unknown_index",
            DropReason::Cookie => "cookie",
            DropReason::Challenge => "challenge",
        }
    }
}

impl fmt::Display for DropReason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// Counters since the start of the node.
#[derive(Clone, Default, PartialEq, Eq, Debug)]
pub struct HandshakeStats {
    /// Inits made.
    pub inits_sent: u64,
    /// Inits of others that opened.
    pub inits_opened: u64,
    /// Inits answered with a response that carries keys.
    pub inits_accepted: u64,
    /// Inits seen before, answered with the same response.
    pub duplicates: u64,
    /// Inits answered with a timestamp challenge.
    pub challenges_sent: u64,
    /// Challenges received and followed.
    pub challenges_received: u64,
    /// Inits answered with a cookie.
    pub cookies_sent: u64,
    /// Cookies received and used.
    pub cookies_received: u64,
    /// Inits to a retired key epoch, answered with the current one.
    pub stale_keys_sent: u64,
    /// Stale-key answers received whose MAC was right.
    pub stale_keys_received: u64,
    /// Handshakes completed as initiator.
    pub completed: u64,
    /// Handshakes, of either end, with a secret from a post-quantum key exchange in them.
    pub hybrid: u64,
    /// Times that a post-quantum key was sent.
    pub kem_keys_sent: u64,
    /// Times that one was answered.
    pub kem_answers_sent: u64,
    /// Post-quantum keys that are none, and pieces that belong to no exchange.
    pub kem_refused: u64,
    /// Handshakes given up.
    pub gave_up: u64,
    /// Diffie-Hellman operations.
    pub dh_operations: u64,
    pub(super) drops: [u64; DropReason::ALL.len()],
}

impl HandshakeStats {
    /// How many datagrams were dropped for `reason`.
    pub fn dropped(&self, reason: DropReason) -> u64 {
        self.drops[reason as usize]
    }

    pub(super) fn count(&mut self, reason: DropReason) -> DropReason {
        self.drops[reason as usize] += 1;
        reason
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_reason_has_its_own_counter_and_name() {
        let mut stats = HandshakeStats::default();
        for (i, reason) in DropReason::ALL.into_iter().enumerate() {
            assert_eq!(reason as usize, i);
            assert_eq!(stats.count(reason), reason);
            assert_eq!(DropReason::ALL.iter().map(|r| stats.dropped(*r)).sum::<u64>(), i as u64 + 1);
        }
        let names: std::collections::BTreeSet<_> = DropReason::ALL.iter().map(|r| r.name()).collect();
        assert_eq!(names.len(), DropReason::ALL.len());
    }
}
