//! What a node says to its LAN: "I am this member, here."
//!
//! ```text
//! | nonce 24 | sealed: { version 1 | flags 1 | member 16 | port over IPv4 2 | port over IPv6 2 | candidates } | tag 16 |
//! ```
//!
//! Sealed with XChaCha20-Poly1305 under a key that follows from the mesh's gate key: to strangers it is noise, and they
//! cannot make one. It goes to a multicast group ([`GROUP4`], [`GROUP6`]) on UDP port [`PORT`], never farther than one
//! link. It is a hint where to send a handshake, and proves nothing else.

use std::net::{Ipv4Addr, Ipv6Addr};

use crate::Error;
use crate::codec::{Reader, Writer};
use crate::endpoint::{Candidate, emit_candidates, parse_candidates};
use crate::id::MemberId;

/// The UDP port.
pub const PORT: u16 = 4656;
/// The group for IPv4, of the range for one site (RFC 2365); the TTL is 1.
pub const GROUP4: Ipv4Addr = Ipv4Addr::new(239, 255, 77, 83);
/// The group for IPv6, link-local (RFC 4291, section 2.7).
pub const GROUP6: Ipv6Addr = Ipv6Addr::new(0xff02, 0, 0, 0, 0, 0, 0x4d45, 0x5348);
/// Length of the nonce.
pub const NONCE_LEN: usize = 24;
/// Length of the tag.
pub const TAG_LEN: usize = 16;
/// Longest announcement, sealed.
pub const MAX_LEN: usize = 512;

/// Version of the announcement.
const VERSION: u8 = 1;
/// Flag: those who hear it should announce themselves too.
const ASK: u8 = 1;

/// An announcement, opened.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Announcement {
    /// Who announces itself.
    pub member: MemberId,
    /// Whether it wants to hear the others.
    pub ask: bool,
    /// The UDP port on which it takes datagrams over IPv4 at whatever address the announcement comes from; 0: none.
    pub port4: u16,
    /// The same over IPv6.
    pub port6: u16,
    /// Further places where it can be reached.
    pub candidates: Vec<Candidate>,
}

impl Announcement {
    /// Reads what was sealed. Bytes after the candidates are of a newer build, and skipped.
    ///
    /// # Errors
    /// What does not fit the form, or another version.
    pub fn parse(bytes: &[u8]) -> Result<Announcement, Error> {
        let mut reader = Reader::new(bytes);
        let version = reader.u8()?;
        if version != VERSION {
            return Err(Error::UnknownVersion(version));
        }
        let flags = reader.u8()?;
        let member = MemberId(reader.array()?);
        let (port4, port6) = (reader.u16()?, reader.u16()?);
        let candidates = parse_candidates(&mut reader)?;
        Ok(Announcement { member, ask: flags & ASK != 0, port4, port6, candidates })
    }

    /// Appends what is to be sealed.
    pub fn emit(&self, out: &mut Vec<u8>) {
        out.put(&[VERSION, if self.ask { ASK } else { 0 }]);
        out.put(&self.member.0);
        out.put_u16(self.port4);
        out.put_u16(self.port6);
        emit_candidates(&self.candidates, out);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::endpoint::{CandidateKind, MAX_CANDIDATES};

    #[test]
    fn an_announcement_is_these_bytes() {
        let endpoint = "192.0.2.7:4655".parse().unwrap();
        let announcement = Announcement {
            member: MemberId([7; 16]),
            ask: true,
            port4: 4655,
            port6: 0,
            candidates: vec![Candidate { kind: CandidateKind::Interface, endpoint }],
        };
        let mut bytes = Vec::new();
        announcement.emit(&mut bytes);
        let expected =
            [&[1, 1][..], &[7; 16], &[0x12, 0x2f, 0, 0], &[1, 0, 4, 192, 0, 2, 7, 0x12, 0x2f]].concat();
        assert_eq!(bytes, expected);
        assert_eq!(Announcement::parse(&bytes), Ok(announcement.clone()));
        assert_eq!(
            Announcement::parse(&[&bytes[..], &[9]].concat()),
            Ok(announcement),
            "newer builds may add"
        );
        for len in 0..bytes.len() {
            assert!(Announcement::parse(&bytes[..len]).is_err());
        }
        bytes[0] = 2;
        assert_eq!(Announcement::parse(&bytes), Err(Error::UnknownVersion(2)));
    }

    #[test]
    fn the_longest_announcement_fits() {
        let endpoint = "[2001:db8::1]:4655".parse().unwrap();
        let candidates = vec![Candidate { kind: CandidateKind::Interface, endpoint }; MAX_CANDIDATES];
        let mut bytes = Vec::new();
        Announcement { member: MemberId([7; 16]), ask: false, port4: 1, port6: 1, candidates }
            .emit(&mut bytes);
        assert!(NONCE_LEN + bytes.len() + TAG_LEN <= MAX_LEN, "{}", bytes.len());
    }
}
