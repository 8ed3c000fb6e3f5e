//! Proving to an agent who calls.

use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use meshnet::membership::{IdentitySecret, verify_request};
use proto::id::{IdentityKey, MemberId};

/// Length of a challenge, in bytes.
pub(super) const CHALLENGE_LEN: usize = 32;

/// Answers the challenge of the agent on `agent`, in hexadecimal digits, as the member `own`.
pub(super) fn prove(secret: &IdentitySecret, challenge: &str, agent: MemberId, own: MemberId) -> String {
    BASE64_STANDARD.encode(secret.sign_request(&message(challenge, agent, own)))
}

/// Whether `proof` is that of the member `caller` with the key `key`, made for this agent and this challenge.
pub(super) fn holds(
    key: &IdentityKey,
    challenge: &str,
    agent: MemberId,
    caller: MemberId,
    proof: &str,
) -> bool {
    let signature = BASE64_STANDARD.decode(proof).ok().and_then(|bytes| <[u8; 64]>::try_from(bytes).ok());
    signature
        .is_some_and(|signature| verify_request(key, &message(challenge, agent, caller), &signature).is_ok())
}

fn message(challenge: &str, agent: MemberId, caller: MemberId) -> Vec<u8> {
    format!("stack agent\0{challenge}\0{agent}\0{caller}").into_bytes()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_proof_holds_for_its_agent_caller_and_challenge_only() {
        let secret = IdentitySecret::from_bytes(&[7; 32]);
        let (a, b, c) = (MemberId([1; 16]), MemberId([2; 16]), MemberId([3; 16]));
        let proof = prove(&secret, "00ff", a, b);
        let key = secret.public();
        assert!(holds(&key, "00ff", a, b, &proof));
        assert!(!holds(&key, "00fe", a, b, &proof));
        assert!(!holds(&key, "00ff", c, b, &proof));
        assert!(!holds(&key, "00ff", a, c, &proof));
        assert!(!holds(&IdentitySecret::from_bytes(&[8; 32]).public(), "00ff", a, b, &proof));
        assert!(!holds(&key, "00ff", a, b, "garbage"));
    }
}
