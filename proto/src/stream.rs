//! Datagrams over a byte stream (TCP, or TLS over TCP).
//!
//! ```text
//! frame | len 2 | datagram len |
//! ```
//!
//! Nothing else is on the stream: no greeting, and so nothing that a stranger is told. A length of 0 is an error.

use crate::Error;

/// Length of what precedes each datagram.
pub const HEADER_LEN: usize = 2;
/// Longest datagram, as a UDP payload over IPv4.
pub const DATAGRAM_MAX: usize = 65_507;

/// The header of a datagram of `len` bytes; `None` where it is empty or too long.
pub fn header(len: usize) -> Option<[u8; HEADER_LEN]> {
    (1..=DATAGRAM_MAX).contains(&len).then(|| (len as u16).to_be_bytes())
}

/// The first datagram in what was read so far, if it is whole: the place after its frame follows it. `None` while more has
/// to be read.
///
/// # Errors
/// When no datagram has the length that is said: what follows cannot be understood.
pub fn first(read: &[u8]) -> Result<Option<(&[u8], usize)>, Error> {
    let Some((header, rest)) = read.split_first_chunk::<HEADER_LEN>() else { return Ok(None) };
    let len = usize::from(u16::from_be_bytes(*header));
    if !(1..=DATAGRAM_MAX).contains(&len) {
        return Err(Error::InvalidField("length"));
    }
    Ok(rest.get(..len).map(|datagram| (datagram, HEADER_LEN + len)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_cut_anywhere_is_put_together_again() {
        let datagrams: [&[u8]; 3] = [b"a", b"bc", &[7; 300]];
        let mut stream = Vec::new();
        for datagram in datagrams {
            stream.extend(header(datagram.len()).unwrap());
            stream.extend_from_slice(datagram);
        }
        assert_eq!(stream[..6], [0, 1, b'a', 0, 2, b'b']);
        for cut in 0..=stream.len() {
            let (mut read, mut found) = (Vec::new(), Vec::new());
            for part in [&stream[..cut], &stream[cut..]] {
                read.extend_from_slice(part);
                while let Some((datagram, next)) = first(&read).unwrap() {
                    found.push(datagram.to_vec());
                    read.drain(..next);
                }
            }
            assert_eq!(found, datagrams, "cut at {cut}");
            assert!(read.is_empty());
        }
    }

    #[test]
    fn impossible_lengths_are_refused() {
        assert_eq!(first(&[0, 0, 1]), Err(Error::InvalidField("length")));
        assert_eq!(first(&[0xff, 0xff]), Err(Error::InvalidField("length")));
        assert_eq!((header(0), header(DATAGRAM_MAX + 1)), (None, None));
        assert_eq!(header(DATAGRAM_MAX), Some([0xff, 0xe3]));
        assert_eq!(first(&[0]), Ok(None));
    }
}
